"""A lock that one run holds at a time."""

from __future__ import annotations

import os
import socket
import sys
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec
from msgspec import Struct

from truto_ci_async.errors import StateConflictError

# How long to wait for a holder of the lock to write its name into it, and for other programs in the database.
NAME_SECONDS = 0.5

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> None:
        # One byte far behind the holder's name: a locked byte cannot be read by others.
        os.lseek(file, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(str(error)) from error

else:
    import fcntl

    def _try_lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class LockOwner(Struct):
    """Who holds a lock, as its file says. Only for messages: it is the system that knows who holds it."""

    pid: int
    host: str
    since: str


class RunLock:
    """Keeps a second run away from a state, until released or until the process is gone.

    The lock is the system's own (``flock``), so it is never left behind by a process that was killed, and a
    recycled pid cannot be mistaken for its holder. Forked children let go of it, or they would keep it.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.path = state.with_name(f"{state.name}.lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, at once or not at all.

        :raises StateConflictError: another process, or another pull of this one, holds it.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        deadline = time.monotonic() + NAME_SECONDS
        while True:
            file = os.open(self.path, flags, 0o666)
            try:
                _try_lock(file)
            except BlockingIOError:
                holder = _read_holder(file)
                os.close(file)
                is_named = holder is not None and _is_running(holder)
                if is_named or time.monotonic() >= deadline:
                    self._refuse(holder if is_named else None)
                time.sleep(0.02)  # it has just been taken, and a name is about to be written
                continue
            except BaseException:
                os.close(file)
                raise
            if _is_at(file, self.path):
                break
            os.close(file)  # its holder removed it while it was being opened
        self._file = file
        _held.add(self)
        holder = LockOwner(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, msgspec.json.encode(holder))
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let go. The file goes first: whoever opens it from now on makes a new one."""
        file, self._file = self._file, None
        if file is None:
            return
        _held.discard(self)
        with suppress(OSError):
            self.path.unlink()
        os.close(file)

    def abandon(self) -> None:
        """Close the file without letting go of the lock, which belongs to the parent process."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _refuse(self, holder: LockOwner | None) -> NoReturn:
        if holder is None:
            who = "another process"
        elif (holder.pid, holder.host) == (os.getpid(), socket.gethostname()):
            who = f"another pull of this process (pid {holder.pid}) since {holder.since}"
        else:
            who = f"process {holder.pid} on {holder.host} since {holder.since}"
        raise StateConflictError(
            f"{self.state} is in use by {who}: wait until it is done, or end it",
            path=str(self.state),
            pid=holder.pid if holder else None,
            host=holder.host if holder else None,
        )


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(file: int) -> LockOwner | None:
    try:
        os.lseek(file, 0, os.SEEK_SET)
        return msgspec.json.decode(os.read(file, 4096), type=LockOwner)
    except (OSError, msgspec.DecodeError):
        return None


def _is_running(holder: LockOwner) -> bool:
    """Tell whether a holder can be: a name left by a killed run is there until the next holder writes its own."""
    if holder.host != socket.gethostname() or os.name == "nt":
        return True
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _after_fork() -> None:
    for lock in list(_held):
        lock.abandon()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

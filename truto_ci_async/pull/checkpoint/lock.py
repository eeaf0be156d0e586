"""A lock on a file's path that one run holds at a time."""

from __future__ import annotations

import os
import socket
import stat
import sys
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec
from msgspec import Struct

from truto_ci_async._files import NO_LINK
from truto_ci_async.errors import StateConflictError

# How long to wait for the owner of the lock to write its name to the file.
NAME_SECONDS = 0.5
POLL_SECONDS = 0.02
# More than a name takes.
NAME_BYTES = 4096

_FLAGS = os.O_RDWR | os.O_CREAT | NO_LINK | getattr(os, "O_BINARY", 0)
# How the file of an earlier run begins: with the name of its owner, unless the power failed before that.
_OURS = (b"\0", b'{"pid":')

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> None:
        # One byte far behind the owner's name, since a locked byte cannot be read by others.
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
    """Who holds a lock, according to its file. Only used in messages: the system decides who holds it."""

    pid: int
    host: str
    since: str

    @property
    def is_alive(self) -> bool:
        """Whether the process exists. The name of a killed owner stays in the file until the next one replaces it."""
        if self.host != socket.gethostname() or os.name == "nt":
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            return True
        return True


class RunLock:
    """Keeps other runs away from a state until it is released or the process ends.

    The lock is the system's own (``flock``). It never outlives a killed process, and no recycled pid can be mistaken
    for its owner. Forked children give up their copy, which would otherwise keep the lock.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.path = state.with_name(f"{state.name}.lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock. If it is taken, fail once its owner is known, after ``NAME_SECONDS`` at most.

        :raises StateConflictError: another process, or another pull of this one, holds it; or there is something else
            under its name, which is left alone.
        """
        deadline = time.monotonic() + NAME_SECONDS
        while (file := self._try_acquire(deadline)) is None:
            pass
        self._file = file
        _held.add(self)
        owner = LockOwner(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            os.ftruncate(file, 0)  # pragma: no mutate - 1 would do, as the name is longer
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, msgspec.json.encode(owner))
        except OSError:
            self.release()
            raise

    def _try_acquire(self, deadline: float) -> int | None:
        """Try once, and return the locked file; None to try again."""
        try:
            file = os.open(self.path, _FLAGS, 0o666)
        except OSError as error:
            if self.path.is_symlink():
                raise self._not_a_lock("is a symbolic link") from error
            raise
        is_locked = False
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise self._not_a_lock("is not a file")
            _try_lock(file)
            # The previous owner may have removed the file while it was being opened here.
            if not _is_at(file, self.path):
                return None
            if (found := _read(file)) and not found.startswith(_OURS):
                raise self._not_a_lock("is no lock of a pull")
            is_locked = True
            return file
        except BlockingIOError:
            owner = _read_owner(file)
            is_named = owner is not None and owner.is_alive
            if is_named or time.monotonic() >= deadline:
                self._refuse(owner if is_named else None)
            time.sleep(POLL_SECONDS)  # the lock has just been taken, and its owner is about to write its name
            return None
        finally:
            if not is_locked:
                os.close(file)

    def release(self) -> None:
        """Give up the lock. The file is removed first, so that whoever opens its path next creates a new one."""
        file, self._file = self._file, None
        if file is None:
            return
        _held.discard(self)
        with suppress(OSError):
            self.path.unlink()
        os.close(file)

    def abandon(self) -> None:
        """Close the file without giving up the lock, which belongs to the parent process."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _not_a_lock(self, what: str) -> StateConflictError:
        return StateConflictError(
            f"{self.path} {what}: move it away, or use another path for the state", path=str(self.state)
        )

    def _refuse(self, owner: LockOwner | None) -> NoReturn:
        if owner is None:
            who = "another process"
        elif (owner.pid, owner.host) == (os.getpid(), socket.gethostname()):
            who = f"another pull of this process (pid {owner.pid}) since {owner.since}"
        else:
            who = f"process {owner.pid} on {owner.host} since {owner.since}"
        raise StateConflictError(
            f"{self.state} is in use by {who}: wait for it to finish, or stop it",
            path=str(self.state),
            pid=owner.pid if owner else None,
            host=owner.host if owner else None,
        )


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, NAME_BYTES)


def _read_owner(file: int) -> LockOwner | None:
    try:
        return msgspec.json.decode(_read(file), type=LockOwner)
    except (OSError, UnicodeError, RecursionError, msgspec.DecodeError):
        return None


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _after_fork() -> None:
    for lock in list(_held):
        lock.abandon()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

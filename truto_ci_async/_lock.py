"""A lock that one run holds at a time: on the state of a pull, or on a folder it writes to."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import threading
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec
from msgspec import Struct

from truto_ci_async._files import NO_LINK
from truto_ci_async.errors import StateConflictError, StorageError

# Seconds to wait for the owner of the lock to write its name to the file.
NAME_SECONDS = 0.5
POLL_SECONDS = 0.02
# More than the name of an owner takes.
NAME_BYTES = 4096
# Linux lists the mounted file systems here.
MOUNTS = Path("/proc/self/mountinfo")

_READ = os.O_RDONLY | NO_LINK | getattr(os, "O_BINARY", 0)
_FLAGS = os.O_RDWR | os.O_CREAT | NO_LINK | getattr(os, "O_BINARY", 0)
# How the file of an earlier run begins: with the name of its owner, unless power failed first.
_OURS = (b"\0", b'{"pid":')
# Error numbers of a file system that has no locks, or whose server grants none.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# Network file systems whose locks only this machine sees: always, or if mounted with one of these options.
_NFS_OPTIONS = {"nolock", "local_lock=flock", "local_lock=all"}
_LOCAL_LOCKS: dict[str, set[str]] = {
    "nfs": _NFS_OPTIONS,
    "nfs4": _NFS_OPTIONS,
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
    "fuse.sshfs": set(),
    "fuse.s3fs": set(),
    "fuse.gcsfuse": set(),
    "fuse.rclone": set(),
}

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        # One byte far past the owner's name, since others cannot read a locked byte.
        os.lseek(file, 1 << 30, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _try_lock(file: int) -> None:
    """:raises BlockingIOError: another process holds the lock. Windows and SMB report that as a lack of permission."""
    try:
        _lock(file)
    except PermissionError as error:
        raise BlockingIOError from error


class LockOwner(Struct):
    """Who holds a lock, according to its file. Only used in messages: the system decides who holds it."""

    pid: int
    host: str
    since: str

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the process exists. The name of a killed owner stays in the file until the next one replaces it."""
        if not self.is_here or os.name == "nt":
            return True
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:
            return True
        return True


class RunLock:
    """Keeps other runs away from ``state`` until it is released or the process ends. ``path`` is the lock's own file.

    The lock is the system's own (``flock``). It never outlives a killed process, and no recycled pid can be mistaken
    for its owner. Forked children give up their copy, which would otherwise keep the lock.

    On a network file system whose locks do not reach other machines, the owner's name in the file keeps those out.
    """

    def __init__(self, state: Path, path: Path | None = None) -> None:
        self.state = state
        self.path = path or state.with_name(f"{state.name}.lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock. If it is taken, fail once its owner is known, after ``NAME_SECONDS`` at most.

        :raises StateConflictError: another process, or another pull of this one, holds it; or its path is taken by
            something else, which is left alone.
        :raises StorageError: the file system has no locks.
        """
        deadline = time.monotonic() + NAME_SECONDS
        # The process may change its folder before it releases the lock.
        self.path = Path(os.path.realpath(self.path.parent), self.path.name)
        unshared = unshared_locks(_read_mounts(), self.path.parent.stat().st_dev)
        while not self._try_acquire(unshared, is_last=time.monotonic() >= deadline):  # mutant: a moment later
            time.sleep(POLL_SECONDS)
        owner = LockOwner(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        file = self._require_held()
        try:
            os.ftruncate(file, 0)  # pragma: no mutate - 1 would do, as the name is longer
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, msgspec.json.encode(owner))
        except OSError:
            self.release()
            raise

    def check(self) -> None:
        """Make sure that this process still holds the lock: once its file is removed, others can take it.

        :raises StateConflictError: the file is not where it was, or the lock is not held.
        """
        if not is_at(self._require_held(), self.path):
            self._refuse_lost()

    def release(self) -> None:
        """Give up the lock. The file is removed first, so that whoever opens its path next creates a new one."""
        with _guard:
            file, self._file = self._file, None
            if file is None:
                return
            _held.discard(self)
            with suppress(OSError):
                is_ours = is_at(file, self.path)  # and not a successor's, after somebody has removed ours
                if os.name == "nt":  # mutant: only for Windows, where an open file cannot be removed
                    os.close(file)  # mutant: only for Windows
                if is_ours:
                    self.path.unlink()
            if os.name != "nt":  # mutant: only for Windows
                os.close(file)

    def abandon(self) -> None:
        """Close the file without giving up the lock, which belongs to the parent process."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _try_acquire(self, unshared: str, *, is_last: bool) -> bool:
        """Try once. False: the file was removed meanwhile, or its owner has not written its name yet; try again."""
        with _guard:
            self._refuse_own()
            file, is_new = self._open(is_exclusive=bool(unshared))
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise self._not_a_lock("is not a file")
                _try_lock(file)
                # The previous owner may have removed the file while it was being opened here.
                if not is_at(file, self.path):
                    return False
                if (found := _read(file)) and not found.startswith(_OURS):
                    raise self._not_a_lock("is not a lock of a pull")
                if unshared and not is_new:
                    self._refuse_other_host(_read_owner(file), unshared)
                self._file = file
                _held.add(self)
            except BlockingIOError:
                owner = _read_owner(file)
                is_named = owner is not None and owner.is_alive
                if is_named or is_last:
                    self._refuse(owner if is_named else None)
                return False
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise StorageError(
                    f"cannot lock {self.path}: its file system has no locks ({error.strerror}), so nothing would keep "
                    "two runs apart: use a folder on a local disk, or mount it with locks",
                    path=str(self.path),
                    errno=error.errno,
                ) from error
            finally:
                if self._file is None:
                    os.close(file)
            return True

    def _open(self, *, is_exclusive: bool) -> tuple[int, bool]:
        """Open the file; return it, and whether this call created it."""
        if is_exclusive:
            with suppress(FileExistsError):
                return os.open(self.path, _FLAGS | os.O_EXCL, 0o666), True
        try:
            return os.open(self.path, _FLAGS, 0o666), False
        except OSError as error:
            if self.path.is_symlink():
                raise self._not_a_lock("is a symbolic link") from error
            raise

    def _require_held(self) -> int:
        if self._file is None:
            self._refuse_lost()
        return self._file

    def _not_a_lock(self, what: str) -> StateConflictError:
        return StateConflictError(
            f"{self.path} {what}: move it away, or use another path for the state", path=str(self.state)
        )

    def _refuse_lost(self) -> NoReturn:
        raise StateConflictError(
            f"{self.state} may be in use by another run: {self.path} was removed or replaced while it was locked. "
            "What was committed is safe; run again to continue",
            path=str(self.state),
        )

    def _refuse_own(self) -> None:
        """Refuse a lock that this process holds. Opening and closing the file again could give it up (on NFS)."""
        for other in _held:
            if other._file is not None and is_at(other._file, self.path):
                self._refuse(_read_owner(other._file))

    def _refuse_other_host(self, owner: LockOwner | None, unshared: str) -> None:
        if owner is not None and owner.is_here:
            return
        who = f"process {owner.pid} on {owner.host} since {owner.since}" if owner else "an unknown process"
        raise StateConflictError(
            f"{self.state} is in use by {who}, or was when that was killed: {unshared} has no locks between machines. "
            f"If no run is using it, remove {self.path}",
            path=str(self.state),
            pid=owner.pid if owner else None,
            host=owner.host if owner else None,
        )

    def _refuse(self, owner: LockOwner | None) -> NoReturn:
        if owner is None:
            who = "another process"
        elif owner.is_here and owner.pid == os.getpid():
            who = f"another pull of this process (pid {owner.pid}) since {owner.since}"
        else:
            who = f"process {owner.pid} on {owner.host} since {owner.since}"
        raise StateConflictError(
            f"{self.state} is in use by {who}: wait for it to finish, or stop it",
            path=str(self.state),
            pid=owner.pid if owner else None,
            host=owner.host if owner else None,
        )


def foreign_owner(path: Path) -> bool:
    """Return whether a lock names another machine as its owner, on a file system whose locks do not reach that far."""
    try:
        file = os.open(path, _READ)
    except OSError:
        return False
    try:
        owner = _read_owner(file)
        is_unshared = bool(unshared_locks(_read_mounts(), os.fstat(file).st_dev))
        return owner is not None and not owner.is_here and is_unshared
    finally:
        os.close(file)


def is_at(file: int, path: Path) -> bool:
    """Return whether an open file is the one under this name."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def unshared_locks(mounts: str, device: int) -> str:
    """Describe the network file system of a file if only this machine sees its locks; "" otherwise.

    ``mounts`` is the text of ``/proc/self/mountinfo``, and ``device`` the ``st_dev`` of a file.
    """
    number = f"{os.major(device)}:{os.minor(device)}" if os.name != "nt" else ""  # mutant: only for Windows
    for line in mounts.splitlines():
        mount, _, system = line.partition(" - ")  # mutant: no field has a space
        if mount.split(" ")[2:3] != [number]:  # mutant: nor other white space
            continue
        kind, _, options = (*system.split(" "), "", "")[:3]  # mutant: anything unknown does
        if (needed := _LOCAL_LOCKS.get(kind)) is None:
            return ""
        found = sorted(needed.intersection(options.split(",")))
        return "" if needed and not found else " with ".join([kind, *found[:1]])
    return ""


def _read_mounts() -> str:
    try:
        return MOUNTS.read_text(errors="replace")
    except OSError:  # not on Linux
        return ""  # mutant: or no line of a mount


def _read(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, NAME_BYTES)


def _read_owner(file: int) -> LockOwner | None:
    try:
        return msgspec.json.decode(_read(file), type=LockOwner)
    except (OSError, UnicodeError, RecursionError, msgspec.DecodeError):
        return None


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()
# A child forked after a file was opened and before it is in ``_held`` would keep the lock.
_guard = threading.RLock()


def _after_fork() -> None:
    for lock in list(_held):
        lock.abandon()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release)
    os.register_at_fork(after_in_child=_after_fork)

"""Blocking file work: a thread to run it in, the operations themselves, and files that appear whole or not at all.

What is written where, and when it counts as committed, is decided in ``pull/checkpoint`` and ``sinks``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

import anyio

from .errors import StorageError, UsageError

if sys.platform != "win32":
    import fcntl

P = ParamSpec("P")
R = TypeVar("R")

#: Called with the name of each step just before it is done: ``write``, ``fsync``, ``rename``, ``fsync-dir``,
#: ``manifest``, ``checkpoint``. Tests kill the process there.
Step: TypeAlias = Callable[[str], None]

READ_BYTES = 2**20
# What common file systems allow for a name, in bytes.
MAX_NAME_BYTES = 255
# For files whose names we choose: a link in their place points to a file that is not ours. (Windows has no such flag.)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)

# Seconds to wait for a reader that keeps a file of ours from being replaced.
IN_USE_SECONDS = 1.0
POLL_SECONDS = 0.01
# How often, and for how long, an event loop lets the thread go on that it waits for. In seconds: 1 % of its time.
GIVE_WAY_EVERY, GIVE_WAY_SECONDS = 0.01, 0.0001
# ERROR_ACCESS_DENIED and ERROR_SHARING_VIOLATION.
_IN_USE = (5, 32)
# What a file system says that cannot sync in this way.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF}

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


def no_step(name: str) -> None:
    """Do nothing: the ``Step`` of normal use."""


class Worker:
    """One thread that runs jobs in the order they were given. A job always runs to its end, even if its caller is
    cancelled.

    ``anyio.to_thread`` guarantees neither order nor one thread, and a task cancelled by asyncio abandons its job.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``job`` in the thread and return its result.

        The job is queued before the first await. A cancelled caller still waits for the job, so that it is known to
        be over; a second cancellation does not wait.
        """
        return await self.finish(self.start(job, *args, **kwargs))

    def start(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Queue ``job``; ``finish`` waits for it."""
        begun = asyncio.wrap_future(self._pool.submit(job, *args, **kwargs))
        begun.add_done_callback(_retrieve)
        return begun

    @staticmethod
    async def finish(begun: asyncio.Future[R], on_cancel: Callable[[], object] | None = None) -> R:
        """Wait for a job and return its result; see ``run`` for cancellation.

        ``on_cancel`` is called on cancellation, to tell a long job to stop early.
        """
        try:
            await _wait_for(begun)
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel()
            with anyio.CancelScope(shield=True):
                await _wait_for(begun)
            raise
        return begun.result()

    def close(self) -> None:
        """Let the thread end after its jobs."""
        self._pool.shutdown(wait=False)


async def _wait_for(job: asyncio.Future[Any]) -> None:
    """Wait until a job is over, and block the loop for a moment now and then so that its thread gets on.

    A thread that waits for the interpreter's lock gets it when another one keeps it for 5 ms. A busy event loop keeps
    it for less, and takes it back before the thread is awake: commits took over a second, and now take 3 ms.
    """
    while not job.done() and not (await asyncio.wait([job], timeout=GIVE_WAY_EVERY))[0]:
        time.sleep(GIVE_WAY_SECONDS)  # noqa: ASYNC251 - that is what it is for


def _retrieve(job: asyncio.Future[Any]) -> None:
    """Retrieve the outcome of a job nobody waits for, or asyncio logs its exception as never retrieved."""
    if not job.cancelled():
        job.exception()


class Disk:
    """The file operations behind all output. Tests replace it with one that fails or loses unsynced data."""

    def __init__(self, step: Step = no_step) -> None:
        self.step = step
        self.is_stopped = False

    def open(self, path: Path) -> int:
        """Open for appending; create the file if it is missing. A symbolic link is refused."""
        return os.open(path, _FLAGS | NO_LINK, 0o666)

    def create(self, path: Path, mode: int = 0o666) -> int:
        """Open a new file for appending; fail if anything has that name."""
        return os.open(path, _FLAGS | NO_LINK | os.O_EXCL, mode)

    def write(self, file: int, data: bytes | memoryview) -> None:
        """Write all of ``data``."""
        self.step("write")
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.write(file, view[done:])

    def read(self, file: int, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset`` on; fewer only at the end of the file."""
        os.lseek(
            file, offset, os.SEEK_SET
        )  # a file that is open for appending is written at its end nevertheless
        pieces = list[bytes]()
        while size and (piece := os.read(file, size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def fsync(self, file: int) -> None:
        self.step("fsync")
        _sync(file)

    def cut(self, file: int, size: int) -> None:
        """Truncate to ``size`` bytes."""
        os.ftruncate(file, size)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, source: Path, target: Path) -> None:
        """Rename ``source`` to ``target``, which it replaces. On Windows, wait a little while somebody has it open.

        :raises PermissionError: somebody still has (``is_in_use``), or the folder cannot be written.
        """
        self.step("rename")
        deadline = time.monotonic() + IN_USE_SECONDS
        while True:
            try:
                os.replace(source, target)
            except PermissionError as error:
                if not is_in_use(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return

    def fsync_dir(self, path: Path) -> None:
        """Make the names in a directory durable. Windows cannot, and does not need to."""
        self.step("fsync-dir")
        if os.name == "nt":
            return
        folder = os.open(path, os.O_RDONLY)
        try:
            _sync(folder)
        except OSError as error:
            if error.errno not in _NO_SYNC:  # some network file systems sync names by themselves
                raise
        finally:
            os.close(folder)

    def make_folders(self, path: Path) -> list[Path]:
        """Create a folder durably, with those above it that are missing. Return the new ones, the innermost first."""
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(new):
            folder.mkdir(exist_ok=True)
            with suppress(PermissionError):  # a folder that is writable but not readable cannot be synced
                self.fsync_dir(folder.parent)
        path.mkdir(exist_ok=True)  # or it is not a folder
        return new

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def checksum(self, path: Path, size: int) -> int:
        """Return the CRC-32 of the first ``size`` bytes.

        :raises InterruptedError: another thread called ``stop``.
        """
        crc, left = 0, size
        with path.open("rb", buffering=0) as file:
            while left and (data := file.read(min(left, READ_BYTES))):
                crc, left = zlib.crc32(data, crc), left - len(data)
                if self.is_stopped:
                    raise InterruptedError("stopped while reading committed output")
        return crc

    def stop(self) -> None:
        """Interrupt a long ``checksum``."""
        self.is_stopped = True


def is_in_use(error: OSError) -> bool:
    """Return whether Windows refuses an operation because somebody has the file open."""
    return getattr(error, "winerror", None) in _IN_USE


def _sync(file: int) -> None:
    """Sync a file or folder down to the medium. On macOS, ``fsync`` leaves it in the cache of the drive."""
    if sys.platform != "win32" and (full := getattr(fcntl, "F_FULLFSYNC", None)) is not None:
        try:
            fcntl.fcntl(file, full)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
        else:
            return
    os.fsync(file)


class AtomicFile:
    """A file that appears under its name only when it is complete. Until then an existing file of that name is left
    alone.

    It is written beside its target under a random name, synced and then renamed. It gets the permissions of the file
    that it replaces:

        file = AtomicFile(path)
        try:
            file.open()
            file.write(data)
            file.sync()
            file.publish()
        finally:
            file.discard()

    Every method blocks. ``size`` counts the bytes of all writes that succeeded. ``is_published`` is True once the file
    has its name, even if that could not be made durable.
    """

    def __init__(self, path: Path, mode: int = 0o666) -> None:
        self.path = path
        self.mode = mode  # of a new file
        self.size = 0
        self.is_published = False
        self._disk = Disk()
        self._temporary: Path | None = None
        self._file: int | None = None

    def open(self) -> None:
        """Create the temporary file. If ``path`` is a link, it stays one: ``path`` becomes what it points to.

        :raises UsageError: ``path`` is a directory, a device, or a link that leads back to itself.
        """
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is a directory or a device, not a file")
        if os.path.islink(target := os.path.realpath(self.path)):
            raise UsageError(f"{self.path} is a link that leads back to itself")
        self.path = Path(target)
        temporary = _temporary(self.path, secrets.token_hex(8))
        old = self.path.stat() if self.path.exists() else None
        # Whoever could not read the old file must not read this one, even before permissions are copied.
        self._file = self._disk.create(temporary, self.mode if old is None else old.st_mode & 0o600)
        self._temporary = temporary
        if old is not None:
            _copy_permissions(old, self._file)

    def write(self, data: bytes) -> None:
        """Append ``data``. If that fails, for example on a full disk, truncate the file to what it had before."""
        assert self._file is not None
        try:
            self._disk.write(self._file, data)
        except BaseException:
            with suppress(OSError):
                self._disk.cut(self._file, self.size)
            raise
        self.size += len(data)

    def sync(self) -> None:
        assert self._file is not None
        self._disk.fsync(self._file)

    def publish(self, path: Path | None = None) -> None:
        """Rename the file to the path it was made for, or to ``path``, and make that durable.

        :raises FileExistsError: something has that other ``path`` already; try another one.
        """
        assert self._temporary is not None
        target = path or self.path
        self._close()
        if path is None:
            self._disk.rename(self._temporary, target)
        else:
            link_new(self._temporary, target)
            self._disk.remove(self._temporary)
        self._temporary, self.is_published = None, True
        with suppress(PermissionError):  # a folder may be writable but not readable
            self._disk.fsync_dir(target.parent)

    def discard(self) -> None:
        """Remove the file unless it is published; never fails, and may be called at any time."""
        with suppress(OSError):
            self._close()
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            with suppress(OSError):
                self._disk.remove(temporary)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._disk.close(file)


def link_new(source: Path, target: Path) -> None:
    """Give a file the name ``target`` too, or only that one on a file system without hard links.

    :raises FileExistsError: something has that name.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.replace(source, target)


def write_file(path: Path, pieces: Iterable[bytes], mode: int = 0o666) -> None:
    """Write a file in one step: whoever reads it sees what was there before, or all of ``pieces``.

    :raises OSError: it cannot be written.
    :raises UsageError: ``path`` is a directory, a device, or a link that leads back to itself.
    """
    file = AtomicFile(path, mode)
    try:
        file.open()
        for each in pieces:
            file.write(each)
        file.sync()
        file.publish()
    finally:
        file.discard()


def _temporary(path: Path, tag: str) -> Path:
    """Return the name under which ``path`` is written; leftovers of a killed process are recognised by it."""
    return beside(path.with_name(f".{path.name}"), f".{tag}.part")


def unfinished(path: Path) -> Path | None:
    """Return a file that an ``AtomicFile`` for ``path`` is writing, or left behind when its process was killed."""
    path = Path(os.path.realpath(path))
    tag = "0" * 16
    before, after = _temporary(path, tag).name.rsplit(tag, 1)
    pattern = re.compile(f"{re.escape(before)}[0-9a-f]{{{len(tag)}}}{re.escape(after)}")
    try:
        return next((each for each in path.parent.iterdir() if pattern.fullmatch(each.name)), None)
    except PermissionError:
        return None


def _copy_permissions(old: os.stat_result, file: int) -> None:
    """Copy owner and mode, as far as the system allows."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        os.fchown(file, old.st_uid, old.st_gid)
    with suppress(OSError):
        os.fchmod(file, old.st_mode & 0o777)


def beside(path: Path, suffix: str) -> Path:
    """Return ``path`` with ``suffix`` at the end of its name, which is shortened if it would become too long."""
    room = MAX_NAME_BYTES - len(os.fsencode(suffix))
    name = os.fsencode(path.name)
    return path.with_name((path.name if len(name) <= room else name[:room].decode(errors="ignore")) + suffix)


def storage_error(error: OSError, path: Path | str, doing: str) -> StorageError:
    """Return our error for an OSError."""
    where = str(error.filename or path)
    reason = error.strerror or str(error) or type(error).__name__
    return StorageError(
        f"cannot {doing} {where}: {reason}; what was committed is safe, run again once this is fixed",
        path=where,
        errno=error.errno,
    )

"""Blocking disk work for state and output: off the event loop, in the order it was asked for, every step named.

What is written where, and when it counts as committed, is said in ``checkpoint`` and ``sinks``.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

import anyio

from .errors import StorageError

P = ParamSpec("P")
R = TypeVar("R")

#: Told the name of each step just before it is taken: ``write``, ``fsync``, ``rename``, ``fsync-dir``,
#: ``manifest``, ``checkpoint``. Tests end the process in there.
Step: TypeAlias = Callable[[str], None]

READ_BYTES = 2**20


def no_step(name: str) -> None:
    """Do nothing: the ``Step`` of everyday use."""


class Worker:
    """One thread that does jobs one after the other; a job that was given is done, whatever becomes of its caller."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do ``job`` in the thread, and return what it returns.

        It is in the queue before this awaits for the first time. A cancellation waits for it to end and then goes
        on, so that nobody has to guess whether it happened; a second one does not wait.
        """
        return await self.finish(self.start(job, *args, **kwargs))

    def start(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Put ``job`` into the queue, for ``finish`` to wait for."""
        begun = asyncio.wrap_future(self._pool.submit(job, *args, **kwargs))
        begun.add_done_callback(_retrieve)
        return begun

    @staticmethod
    async def finish(begun: asyncio.Future[R], on_cancel: Callable[[], object] | None = None) -> R:
        """Wait for a job, and return what it returns; for cancellations see ``run``.

        ``on_cancel`` is called at a cancellation, to tell a long job that nobody needs it any more.
        """
        try:
            await asyncio.wait([begun])
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([begun])
            raise
        return begun.result()

    def close(self) -> None:
        """Let the thread end once its jobs are done."""
        self._pool.shutdown(wait=False)


def _retrieve(job: asyncio.Future[Any]) -> None:
    """Look at the outcome of a job nobody waits for any more, or asyncio logs it as lost."""
    if not job.cancelled():
        job.exception()


class Disk:
    """The file operations that output is made of. A test puts one in its place that fails, or forgets."""

    def __init__(self, step: Step = no_step) -> None:
        self.step = step
        self.is_stopped = False

    def open(self, path: Path) -> int:
        """Open for writing at the end, made anew where it is not there."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o666)

    def write(self, file: int, data: bytes | memoryview) -> None:
        """Write all of ``data``."""
        self.step("write")
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.write(file, view[done:])

    def fsync(self, file: int) -> None:
        self.step("fsync")
        os.fsync(file)

    def cut(self, file: int, size: int) -> None:
        """Take away what stands behind the first ``size`` bytes."""
        os.ftruncate(file, size)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename")
        source.replace(target)

    def fsync_dir(self, path: Path) -> None:
        """Make names in a folder durable. Windows has no such thing, and needs none."""
        self.step("fsync-dir")
        if os.name == "nt":
            return
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def checksum(self, path: Path, size: int) -> int:
        """Return the CRC-32 of the first ``size`` bytes.

        :raises InterruptedError: another thread has set ``is_stopped``.
        """
        crc, left = 0, size
        with path.open("rb", buffering=0) as file:
            while left and (data := file.read(min(left, READ_BYTES))):
                crc, left = zlib.crc32(data, crc), left - len(data)
                if self.is_stopped:
                    raise InterruptedError("stopped while what is committed was read")
        return crc

    def stop(self) -> None:
        """End what reads for long."""
        self.is_stopped = True


def storage_error(error: OSError, path: Path | str, doing: str) -> StorageError:
    """Return the error to raise for one of the system's."""
    where = str(error.filename or path)
    reason = error.strerror or str(error) or type(error).__name__
    return StorageError(
        f"cannot {doing} {where}: {reason}; what was committed is safe, run again once this is mended",
        path=where,
        errno=error.errno,
    )

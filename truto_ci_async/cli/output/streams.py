"""Writes to streams that are never replaced: stdout, devices, named pipes, and named descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from msgspec import json

from truto_ci_async._text import printable

from . import status_line

logger = logging.getLogger(__name__)

# How long to wait for the reader of a pipe before looking whether the command was cancelled.
POLL_SECONDS: Final = 0.2
# More links in a row are taken for a loop.
MAX_LINKS: Final = 40


class ClosedPipe(Exception):
    """The reader of our stdout has stopped reading, as ``| head`` does. Not a failure."""


class OpenStream:
    """Writes straight through to stdout, or to a device or named pipe, which is never replaced.

    A reader may be slow, or have stopped for good. While it is waited for, cancelling the task ends the wait.
    """

    def __init__(self, stream: IO[bytes], *, close: bool = True) -> None:
        self._stream = stream
        self._close = close
        self._cancelled = _cancellations()
        self._poll = _poll_of(stream)
        self.is_terminal = stream.isatty()

    def write(self, data: bytes) -> None:
        """Write all of ``data``.

        :raises ClosedPipe: the reader has gone.
        :raises CancelledError: the task was cancelled while the reader did not read.
        """
        if self.is_terminal:
            status_line.hide()
        try:
            if self._poll is None:
                self._stream.write(data)
                self._stream.flush()
            else:
                self._write_in_pieces(memoryview(data), self._poll)
        except BrokenPipeError:
            raise ClosedPipe from None

    def _write_in_pieces(self, rest: memoryview, poll: select.poll) -> None:
        while rest:
            while not poll.poll(POLL_SECONDS * 1000):
                _raise_if_cancelled(self._cancelled)
            try:
                rest = rest[os.write(self._stream.fileno(), rest[: select.PIPE_BUF]) :]
            except BlockingIOError:  # it does not block, and had no room for all of it
                time.sleep(POLL_SECONDS / 10)
                _raise_if_cancelled(self._cancelled)

    def finish(self) -> Path | None:
        if self._close:
            self._stream.close()
        return None

    def abandon(self, closing: bytes) -> Path | None:
        with suppress(ClosedPipe, OSError, asyncio.CancelledError):
            self.write(closing)
        with suppress(OSError):
            self.finish()
        return None


class Pager(OpenStream):
    """Shows what is written in the user's pager. When that is quit early, its reader has gone."""

    def __init__(self, command: str) -> None:
        environment = {"LESS": "FRX", **os.environ}  # as git does: less ends at once if it all fits
        self._process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        super().__init__(self._process.stdin)
        self.is_terminal = True
        status_line.take_away()

    def finish(self) -> Path | None:
        with suppress(BrokenPipeError):
            super().finish()
        self._process.wait()
        return None


def open_pager() -> Pager | None:
    """Open what ``PAGER`` names; None if nothing that there is, or stdout is no terminal."""
    command = os.environ.get("PAGER", "").strip()
    if command in ("", "cat") or not status_line.is_terminal(sys.stdout):
        return None
    program = command.split()[0]
    if program.isidentifier() and shutil.which(program) is None:
        logger.warning("PAGER is %s, which is not installed", program)
        return None
    return Pager(command)


def _poll_of(stream: IO[bytes]) -> select.poll | None:
    """Return what tells when a pipe, terminal or socket has room; None for what never makes a writer wait."""
    if not hasattr(select, "poll"):
        return None
    try:
        file = stream.fileno()
        if stat.S_ISREG(os.fstat(file).st_mode):
            return None
    except OSError:  # a stream in memory
        return None
    stream.flush()
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return poll


def _cancellations() -> int:
    """Count how often the current task was cancelled."""
    with suppress(RuntimeError):  # there is no loop
        task = asyncio.current_task()
        return 0 if task is None else task.cancelling()
    return 0


def _raise_if_cancelled(before: int) -> None:
    if _cancellations() > before:
        raise asyncio.CancelledError


def open_stdout() -> OpenStream:
    """Return stdout, in UTF-8 whatever the locale.

    :raises OSError: it is closed.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise OSError("stdout is closed")
    return OpenStream(sys.stdout.buffer, close=False)


@contextmanager
def interruptible() -> Generator[None]:
    """Let signals end the block at once, which reads stdin: asyncio's handler would wait for the end of the read."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else asyncio.CancelledError

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        for each, handler in before.items():
            if callable(handler):  # neither ignored, nor the default
                with suppress(ValueError):  # outside the main thread
                    signal.signal(each, stop)
        yield
    finally:
        for each, handler in before.items():
            with suppress(ValueError):
                signal.signal(each, handler)


def print_found(value: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a value as JSON, or else the lines that say the same."""
    from truto_ci_async._json import encode

    text = json.format(encode(value)).decode() if as_json else "\n".join(map(printable, lines))
    open_stdout().write(f"{text}\n".encode() if text else b"")


def open_device(path: Path) -> OpenStream:
    """Open a device, or a named pipe as soon as it has a reader.

    :raises CancelledError: the task was cancelled while there was none.
    """
    before = _cancellations()
    is_pipe = path.is_fifo()
    while True:
        try:
            file = os.open(path, os.O_WRONLY | (os.O_NONBLOCK if is_pipe else 0))
            break
        except OSError as error:
            if not is_pipe or error.errno != errno.ENXIO:
                raise
        time.sleep(POLL_SECONDS / 10)
        _raise_if_cancelled(before)
    return OpenStream(os.fdopen(file, "wb"))


_DESCRIPTORS: Final = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)", re.ASCII)


def descriptor_of(path: str) -> int | None:
    """Return the file descriptor that names such as ``/dev/stdout`` stand for, also through links.

    What it was opened for may be a file that others write to as well, or the end of one: it is not ours to replace.
    """
    for _ in range(MAX_LINKS):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if path in _DESCRIPTORS:
            return _DESCRIPTORS[path]
        if match := _DESCRIPTOR.fullmatch(path):
            return int(match[1])
        if not os.path.islink(path):
            return None
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return None

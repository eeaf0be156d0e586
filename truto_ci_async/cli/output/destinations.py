"""Where the bytes of a command go: stdout, a device, or a file that gets its name once it is complete.

An ``Output`` joins a destination to a writer and keeps the complete pages when a command fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from truto_ci_async._files import AtomicFile, beside
from truto_ci_async._text import printable
from truto_ci_async.errors import UsageError

from .tables import TableWriter
from .writers import Writer


class ClosedPipe(Exception):
    """The reader of our stdout has stopped reading, as ``| head`` does. Not a failure."""


class Destination(Protocol):
    """Takes bytes. Each ``write`` is flushed when it returns."""

    is_terminal: bool

    def write(self, data: bytes) -> None: ...
    def finish(self) -> Path | None:
        """End after success; return the complete file, if it is one."""
        ...

    def abandon(self, closing: bytes) -> Path | None:
        """End after a failure, with ``closing`` to complete the document; return the file that was kept, if any."""
        ...


class OpenStream:
    """Writes straight through to stdout, or to a device or named pipe, which is never replaced."""

    def __init__(self, stream: IO[bytes], *, close: bool = True) -> None:
        self._stream = stream
        self._close = close
        self.is_terminal = stream.isatty()

    def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            raise ClosedPipe from None

    def finish(self) -> Path | None:
        if self._close:
            self._stream.close()
        return None

    def abandon(self, closing: bytes) -> Path | None:
        with suppress(ClosedPipe, OSError):
            self.write(closing)
        with suppress(OSError):
            self.finish()
        return None


def open_stdout() -> OpenStream:
    """Return stdout, in UTF-8 whatever the locale.

    :raises OSError: it is closed.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise OSError("stdout is closed")
    return OpenStream(sys.stdout.buffer, close=False)


class NewFile:
    """A file that gets its name only once it is complete; until then a file of that name stays as it is.

    After a failure the complete pages are kept beside it, as ``NAME.partial`` (or ``NAME.partial-2``, …).
    """

    is_terminal = False

    def __init__(self, path: Path) -> None:
        self._file = AtomicFile(path)
        self._file.open()

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def finish(self) -> Path | None:
        self._file.sync()
        self._file.publish()
        return self._file.path

    def abandon(self, closing: bytes) -> Path | None:
        file = self._file
        if not file.size:
            file.discard()
            return None
        if closing:
            with suppress(OSError):  # the disk may be full
                file.write(closing)
        kept = beside(file.path, ".partial")
        number = 1
        while os.path.lexists(kept):
            number += 1
            kept = beside(file.path, f".partial-{number}")
        try:
            file.publish(kept)
        finally:
            file.discard()
        return kept


def is_stdout(path: str | None) -> bool:
    return path in (None, "-")


def open_destination(path: str | None) -> Destination:
    """Open stdout for None or ``-``; otherwise what ``path`` leads to, if it has passed ``check_destination``.

    :raises OSError: it cannot be written.
    """
    if path is None or path == "-":
        return open_stdout()
    file = Path(path)
    if file.exists() and not file.is_file():
        return OpenStream(file.open("wb"))
    return NewFile(file)


def check_destination(
    option: str, path: str, *, inputs: Sequence[str] = (), pull_folder: str | None = None
) -> None:
    """Make sure that a file can be written under the name given with ``option``, and replaces nothing we need.

    ``inputs`` are files that the command reads, ``pull_folder`` is where it pulls to.

    :raises UsageError: it cannot, or it would.
    """
    if not path or Path(path).is_dir():
        raise UsageError(f"{option} needs the name of a file, and {path or 'an empty name'!r} is none")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"{option} {path}: the directory does not exist")
    if any(_is_same(target, each) for each in inputs):
        raise UsageError(f"{option} {path} would replace a file that this command reads: use another name")
    is_here = pull_folder is not None and _is_same(target.parent, pull_folder)
    if _is_of_a_pull(target, is_here=is_here):
        raise UsageError(f"{option} {path} would replace a file of a pull: use another name")


def earlier_output(path: str) -> Path | None:
    """Return the file that an earlier run wrote under this name, or kept beside it; devices and pipes keep nothing."""
    file = Path(path)
    if file.exists() and not file.is_file():
        return None
    return next((each for each in (file, beside(file, ".partial")) if each.exists()), None)


def _is_same(path: Path, other: str) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them does not exist
        return str(path) == os.path.realpath(other)


def _is_of_a_pull(path: Path, *, is_here: bool) -> bool:
    """Return whether a pull keeps its rows or state in this file; ``is_here``: if it is in a folder of a pull."""
    from truto_ci_async.resources.interactions import STATE_FILE
    from truto_ci_async.sinks.files import is_used_by_pulls
    from truto_ci_async.sinks.manifest import read_manifest

    if not is_used_by_pulls(path.name):
        return False
    try:
        return is_here or (path.parent / STATE_FILE).exists() or read_manifest(path.parent) is not None
    except (OSError, ValueError):  # a manifest of something else
        return False


class Output:
    """A writer and its destination, for one command.

        with Output(JsonWriter(), open_stdout()) as output:
            output.page(items)

    Leaving the block completes the document. After an exception it does so too, if a page was written, so that what
    there is can be read. ``file`` then names the final file, or after an exception the one that was kept.
    """

    def __init__(self, writer: Writer, destination: Destination) -> None:
        self._writer = writer
        self._destination = destination
        self._started = False
        self.file: Path | None = None

    def page(self, items: Sequence[Any]) -> None:
        """Write and flush one page.

        :raises ClosedPipe: the reader has stopped reading.
        """
        text = self._writer.page(items)
        if self._destination.is_terminal and not isinstance(
            self._writer, TableWriter
        ):  # its escapes are ours
            lines = text.decode(errors="replace").split("\n")
            text = "\n".join(map(printable, lines)).encode()
        self._destination.write(text)
        self._started = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.file = self._destination.abandon(self._writer.end() if self._started else b"")
            return
        try:
            self._destination.write(self._writer.end())
            self.file = self._destination.finish()
        except BaseException:
            self.file = self._destination.abandon(b"")
            raise

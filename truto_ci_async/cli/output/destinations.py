"""Where the bytes of a command go: stdout, or a file that gets its name when it is complete.

An ``Output`` joins such a place to a writer, and sees to it that what was complete survives a walk that was not.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from truto_ci_async.errors import UsageError

from .writers import Writer


class ClosedPipe(Exception):
    """Whoever read our stdout has seen enough, as in ``| head``. Not a failure."""


class Target(Protocol):
    """A place for bytes. Each ``write`` is on its way when it returns."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> Path | None:
        """End after success; returns the file that holds it all, if any."""
        ...

    def abandon(self, closing: bytes) -> Path | None:
        """End after a failure, with ``closing`` to make a whole document; returns the file that was kept, if any."""
        ...


class Stdout:
    """Standard output, as UTF-8 whatever the locale."""

    def __init__(self) -> None:
        if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise OSError("stdout is closed")
        self._stream: IO[bytes] = sys.stdout.buffer

    def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            raise ClosedPipe from None

    def finish(self) -> Path | None:
        return None

    def abandon(self, closing: bytes) -> Path | None:
        with suppress(ClosedPipe, OSError):
            self.write(closing)
        return None


class NewFile:
    """A file that gets its name only when it is complete; what is there under that name stays until then.

    After a failure the complete pages stay beside it, as ``NAME.partial`` (``NAME.partial-2``, … if that is taken).
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))  # a link stays a link
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.tmp")
        self._stream = self._temporary.open("xb")
        self._complete = 0

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()
        self._complete += len(data)

    def finish(self) -> Path | None:
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temporary.replace(self._path)
        return self._path

    def abandon(self, closing: bytes) -> Path | None:
        with suppress(
            OSError
        ):  # the disk may be full: then half a page is taken off and the rest still counts
            self._stream.close()
        if not self._complete:
            self._temporary.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.truncate(self._temporary, self._complete)
            with self._temporary.open("ab") as stream:
                stream.write(closing)
        kept = self._path.with_name(f"{self._path.name}.partial")
        number = 1
        while kept.exists():
            number += 1
            kept = self._path.with_name(f"{self._path.name}.partial-{number}")
        self._temporary.replace(kept)
        return kept


class Device:
    """What is no regular file, such as ``/dev/null`` or a named pipe: written into, never replaced."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")

    def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            raise ClosedPipe from None

    def finish(self) -> Path | None:
        self._stream.close()
        return None

    def abandon(self, closing: bytes) -> Path | None:
        with suppress(ClosedPipe, OSError):
            self.write(closing)
        with suppress(OSError):
            self._stream.close()
        return None


def open_target(path: str | None) -> Target:
    """Open the file named by ``--out``; without one, or for ``-``, stdout.

    :raises UsageError: a directory, or in one that is not there.
    :raises OSError: it cannot be written.
    """
    if path is None or path == "-":
        return Stdout()
    file = Path(path)
    if file.is_dir():
        raise UsageError(f"--out names a file, and {path} is a directory")
    if not file.exists() and not Path(os.path.realpath(file)).parent.is_dir():
        raise UsageError(f"--out {path}: the directory is not there")
    return NewFile(file) if file.is_file() or not file.exists() else Device(file)


class Output:
    """A writer and a place, for the time of one command.

        with Output(JsonWriter(), Stdout()) as output:
            output.page(items)

    Leaving it normally completes the document. Leaving it by an exception completes it too, if there was a page, so
    that it can be read; ``file`` then names the file that was kept, and the final one after success.
    """

    def __init__(self, writer: Writer, target: Target) -> None:
        self._writer = writer
        self._target = target
        self._begun = False
        self.file: Path | None = None

    def page(self, items: Sequence[Any]) -> None:
        """Write one page, down to the last byte.

        :raises ClosedPipe: nobody reads on.
        """
        self._target.write(self._writer.page(items))
        self._begun = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._target.write(self._writer.end())
                self.file = self._target.finish()
            except BaseException:
                self.file = self._target.abandon(b"")
                raise
        else:
            self.file = self._target.abandon(self._writer.end() if self._begun else b"")

"""Where the bytes of a command go: an open stream, or a file that gets its name once it is complete.

An ``Output`` joins a destination to a writer and keeps the complete pages when a command fails.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from truto_ci_async._files import MAX_NAME_BYTES, AtomicFile, beside, unfinished
from truto_ci_async._text import printable
from truto_ci_async.errors import UsageError

from .resumable import ResumableFile
from .streams import OpenStream, descriptor_of, open_device, open_stdout
from .tables import TableWriter
from .writers import Writer

if TYPE_CHECKING:
    from truto_ci_async.cli.messages import Progress

_SEPARATORS: Final = tuple(each for each in (os.sep, os.altsep) if each)


def for_terminal(text: bytes) -> bytes:
    """Return ``text`` without characters that control a terminal, apart from line ends."""
    return "\n".join(map(printable, text.decode(errors="replace").split("\n"))).encode()


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
        if file.is_published:  # but could not be made durable
            return file.path
        if not file.size:
            file.discard()
            return None
        if closing:
            with suppress(OSError):  # the disk may be full
                file.write(closing)
        try:
            return self._keep()
        finally:
            file.discard()

    def _keep(self) -> Path:
        for number in count(1):
            kept = beside(self._file.path, ".partial" if number == 1 else f".partial-{number}")
            with suppress(FileExistsError):  # of an earlier run, or of another one that fails right now
                self._file.publish(kept)
                return kept
        raise AssertionError("there is always a free name")


def is_stdout(path: str | None) -> bool:
    return path in (None, "-")


def open_destination(path: str | None) -> Destination:
    """Open stdout for None or ``-``; otherwise what ``path`` leads to, if it has passed ``check_destination``.

    :raises OSError: it cannot be written.
    """
    if path is None or path == "-":
        return open_stdout()
    descriptor = descriptor_of(path)
    if descriptor is not None:
        return OpenStream(os.fdopen(os.dup(descriptor), "wb"))
    file = Path(path)
    return open_device(file) if file.exists() and not file.is_file() else NewFile(file)


def check_destination(
    option: str, path: str, *, inputs: Sequence[str] = (), pull_folder: str | None = None
) -> None:
    """Make sure that a file can be written under the name given with ``option``, and replaces nothing we need.

    ``inputs`` are files that the command reads, ``pull_folder`` is where it pulls to.

    :raises UsageError: it cannot, or it would.
    """
    if not path:
        raise UsageError(f"{option} is empty: is a variable not set?")
    if descriptor_of(path) is not None:
        return
    target = Path(os.path.realpath(path))
    if os.path.islink(target):
        raise UsageError(f"{option} {path} is a link that leads back to itself")
    if path.endswith(_SEPARATORS) or os.path.isdir(target):
        raise UsageError(f"{option} needs the name of a file, and {path!r} is that of a directory")
    if len(os.fsencode(target.name)) > MAX_NAME_BYTES:
        raise UsageError(f"{option} {path:.40}...: the name is too long")
    if any(_is_same(target, each) for each in inputs):
        raise UsageError(f"{option} {path} would replace a file that this command reads: use another name")
    folder = None if pull_folder is None else Path(os.path.realpath(pull_folder))
    if folder is not None and target in (folder, *folder.parents):
        raise UsageError(f"{option} {path} is in the place of the folder to pull to: use another name")
    is_here = folder is not None and _is_same(target.parent, str(folder))
    if not is_here and not target.parent.is_dir():
        raise UsageError(f"{option} {path}: the directory does not exist")
    if _is_of_a_pull(target, is_here=is_here):
        raise UsageError(f"{option} {path} would replace a file of a pull: use another name")


def is_plain_file(path: str) -> bool:
    """Return whether ``path`` is a file or can become one, and no device, pipe or descriptor."""
    file = Path(path)
    return descriptor_of(path) is None and (file.is_file() or not file.exists())


def earlier_output(path: str) -> Path | None:
    """Return the file that an earlier run wrote under this name, or left beside it, also when it was killed.

    Devices and pipes keep nothing.
    """
    file = Path(path)
    if not is_plain_file(path):
        return None
    kept = (each for each in (file, beside(file, ".partial")) if each.exists())
    return next(kept, None) or unfinished(file)


def _is_same(path: Path, other: str) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them does not exist
        return str(path) == os.path.realpath(other)


def _is_of_a_pull(path: Path, *, is_here: bool) -> bool:
    """Return whether a pull keeps its rows or state in this file; ``is_here``: if it is in a folder of a pull."""
    from truto_ci_async.sinks.layout import is_used_by_pulls

    folders = [folder for folder in path.parents[:2] if is_used_by_pulls(path, folder)]
    return any((is_here and folder == path.parent) or _is_pull_folder(folder) for folder in folders)


def _is_pull_folder(folder: Path) -> bool:
    from truto_ci_async.sinks.layout import STATE_FILE
    from truto_ci_async.sinks.manifest import read_manifest

    try:
        return (folder / STATE_FILE).exists() or read_manifest(folder) is not None
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
        self.lists = 1  # what it is made of
        self.lists_done = 0  # how many of them are complete, as of an earlier run too
        self.file: Path | None = None

    def page(self, items: Sequence[Any]) -> None:
        """Write and flush one page.

        :raises ClosedPipe: the reader has stopped reading.
        """
        text = self._writer.page(items)
        is_ours = isinstance(self._writer, TableWriter)  # so are its escapes
        if self._destination.is_terminal and not is_ours:
            text = for_terminal(text)
        self._destination.write(text)
        self._started = True

    def commit(self, progress: Progress, *, is_complete: bool) -> None:
        """Note how far a file is that a later run can go on with; ``is_complete``: to the end of a list.

        One of several lists is written again, unless it is complete.
        """
        if not isinstance(self._destination, ResumableFile) or (self.lists > 1 and not is_complete):
            return
        self.lists_done += is_complete
        has_position = self.lists == 1 and progress.position is not None
        self._destination.commit(
            str(progress.position) if has_position else None,
            lists=self.lists_done,
            items=progress.items,
            pages=progress.pages,
            writer=self._writer.state,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            is_open = self._started or bool(self._writer.state)
            self.file = self._destination.abandon(self._writer.end() if is_open else b"")
            return
        try:
            self._destination.write(self._writer.end())
            self.file = self._destination.finish()
        except BaseException:
            self.file = self._destination.abandon(b"")
            raise

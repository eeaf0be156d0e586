"""A file that a later run of the same command goes on with, however the first one ended.

Until it is complete, it is ``NAME.partial``. ``NAME.partial-state`` says how many bytes of it are whole pages and which
position is behind them; it is replaced after each page, and what is behind those bytes is cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct
from msgspec.json import decode, encode

from truto_ci_async._files import Disk, beside, write_file
from truto_ci_async.errors import UsageError

if sys.platform != "win32":
    import fcntl


class State(Struct):
    """What the rows of a partial file are: those up to ``position`` of what ``question`` stands for.

    ``lists`` of its lists are complete: most commands have one, ``transcripts`` has one for each meeting.
    """

    question: str
    size: int = 0
    position: str | None = None
    lists: int = 0
    items: int = 0
    pages: int = 0
    writer: Any = None  # what its writer has to know to go on


def question_of(options: dict[str, Any]) -> str:
    """Return a fingerprint of what a command asks for, and in which form."""
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()


def earlier_state(path: Path, question: str) -> State | None:
    """Return the state of an earlier run of this command that did not complete its file; None if there is none."""
    partial = beside(path, ".partial")
    with suppress(OSError, DecodeError):
        state = decode(beside(path, ".partial-state").read_bytes(), type=State)
        if state.question == question and partial.stat().st_size >= state.size:
            return state
    return None


class ResumableFile:
    """Writes to ``NAME.partial``, and gives it its name once it is complete. After a failure, or a kill, it stays.

    ``convert`` makes the complete file of it, for a format that cannot be continued.

    :raises UsageError: such a file is there already, of another command, or another run is writing it.
    """

    is_terminal = False

    def __init__(
        self, path: Path, question: str, convert: Callable[[Path], Iterable[bytes]] | None = None
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self.partial = beside(self.path, ".partial")
        self._state_file = beside(self.path, ".partial-state")
        self._convert = convert
        self._disk = Disk()
        # First, as what is there may be another run's, and change until it is locked.
        self._file = self._open()
        try:
            earlier = earlier_state(self.path, question)
            if earlier is None and self.partial.stat().st_size:
                raise UsageError(
                    f"{self.partial} has rows of another command: run that one again to complete them, or remove the "
                    "file, or write to one of another name"
                )
            self.state = earlier or State(question)
            if not self.state.pages:
                self._put_state()
            self._size = self.state.size
            self._disk.cut(self._file, self._size)
        except BaseException:
            self._disk.close(self._file)
            raise

    def _open(self) -> int:
        old = self.path.stat() if self.path.exists() else None
        file = self._disk.open(self.partial)
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self.partial.exists() or not os.path.samestat(os.fstat(file), self.partial.stat()):
                    raise BlockingIOError  # the other run has just given it its name
                if old is not None:
                    os.fchmod(file, old.st_mode & 0o777)
        except BlockingIOError:
            self._disk.close(file)
            raise UsageError(f"{self.partial} is being written by another run of this command") from None
        return file

    def write(self, data: bytes) -> None:
        try:
            self._disk.write(self._file, data)
        except BaseException:
            with suppress(OSError):
                self._disk.cut(self._file, self._size)
            raise
        self._size += len(data)

    def commit(self, position: str | None, **more: Any) -> None:
        """Note that what was written so far is whole pages, and what comes next. ``more`` are members of ``State``."""
        self.state = State(self.state.question, self._size, position, **more)
        self._put_state()

    def _put_state(self) -> None:
        new = beside(self._state_file, ".new")
        new.write_bytes(encode(self.state))
        self._disk.rename(new, self._state_file)

    def finish(self) -> Path | None:
        if self._convert is None:
            self._disk.fsync(self._file)
            self._disk.rename(self.partial, self.path)
        else:
            write_file(self.path, self._convert(self.partial))
            self._disk.remove(self.partial)
        self._close()
        self._disk.remove(self._state_file)
        return self.path

    def abandon(self, closing: bytes) -> Path | None:
        """Keep what was written, closed so that it can be read; nothing, if there is nothing."""
        if self._size:
            with suppress(OSError):  # the disk may be full
                self.write(closing)
            self._close()
            return self.partial
        self._close()
        for file in (self.partial, self._state_file):
            with suppress(OSError):
                self._disk.remove(file)
        return None

    def _close(self) -> None:
        if self._file >= 0:
            self._disk.close(self._file)
            self._file = -1

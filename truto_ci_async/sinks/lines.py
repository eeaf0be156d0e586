"""NDJSON and CSV files."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, cast

from msgspec import Raw

from truto_ci_async.models import ROW_COLUMNS
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.row_views import PULL_COLUMNS

from .files import FLUSH_BYTES, FileSink
from .manifest import Part, SinkState
from .rows import INLINE_ITEMS, csv_cell, flat_rows, pull_values, splice


class _LineSink(FileSink):
    """One file that grows by whole rows, and is cut back to its committed length on ``open``."""

    _grows = True
    _header: ClassVar[bytes] = b""

    def _forget(self) -> None:
        self._chunks: list[bytes] = []  # not in the file yet
        self._size = self._count = 0  # bytes and rows of those chunks
        self._written = self._synced = 0

    async def write(self, page: AccountPage[Any]) -> None:
        self._require_open()
        if self._size >= FLUSH_BYTES:  # before this page is taken: a cancellation here leaves it untaken
            await self._run(self._append, *self._take())
        if len(page) > INLINE_ITEMS:
            data = await self._require_open().run(self._encode, page)
            self._require_open()
        else:
            data = self._encode(page)
        if data:
            self._chunks.append(data)
            self._size += len(data)
            self._count += len(page)
            self._written += len(data)

    def begin_commit(self, *, final: bool = False) -> Awaitable[bytes]:
        worker = self._require_open()
        begun = None
        if self._written != self._synced or (final and not self._state.parts):
            # In the queue before whatever is written from now on.
            begun = worker.start(self._do, partial(self._sync, *self._take()))
        return self._commit(begun, self._written)

    def _take(self) -> tuple[list[bytes], int]:
        taken = self._chunks, self._count
        self._chunks, self._size, self._count = [], 0, 0
        return taken

    @abstractmethod
    def _encode(self, page: AccountPage[Any]) -> bytes:
        """Return the rows of a page, each with its line end."""

    # In the worker's thread.

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        del found
        self._part = state.parts[0] if state.parts else Part(f"interactions.{self.format}")
        self._file: int | None = self._disk.open(self.directory / self._part.name)
        self._disk.cut(self._file, self._part.bytes)
        self._disk.fsync(self._file)
        self._disk.fsync_dir(self.directory)

    def _append(self, chunks: Sequence[bytes], rows: int) -> None:
        data = b"".join(chunks)
        part = self._part
        if not part.bytes:
            data = self._header + data
        self._disk.write(cast("int", self._file), data)
        self._part = Part(part.name, part.rows + rows, part.bytes + len(data), zlib.crc32(data, part.crc32))

    def _sync(self, chunks: Sequence[bytes], rows: int) -> SinkState:
        self._append(chunks, rows)
        self._disk.fsync(cast("int", self._file))
        return SinkState(format=self.format, parts=(self._part,))

    def _close(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            with suppress(OSError):
                self._disk.close(file)


class NdjsonSink(_LineSink):
    """``interactions.ndjson``: one JSON object a line. Items that are ``msgspec.Raw`` keep their bytes.

    The columns of the pull come first in each object; should an item have a key of the same name, the pull's
    value stands. An item that is no object is kept under ``item``.
    """

    format = "ndjson"
    item_type = Raw
    columns = PULL_COLUMNS

    def _encode(self, page: AccountPage[Any]) -> bytes:
        items = page.page.items
        return splice(pull_values(page), items, page.plain_views if items and type(items[0]) is Raw else None)


class CsvSink(_LineSink):
    """``interactions.csv``: a header, then the columns of the pull and those of ``Interaction.row()``."""

    format = "csv"
    _header = (",".join(PULL_COLUMNS + ROW_COLUMNS) + "\n").encode()

    def _encode(self, page: AccountPage[Any]) -> bytes:
        lines = [",".join(map(csv_cell, row)) + "\n" for row in flat_rows(page, self.format)]
        return "".join(lines).encode()

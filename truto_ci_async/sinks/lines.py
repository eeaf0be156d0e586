"""NDJSON and CSV: one file that grows line by line."""

from __future__ import annotations

import os
import zlib
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Unpack, cast

from msgspec import Raw
from msgspec.structs import replace

from truto_ci_async.errors import UsageError
from truto_ci_async.export.schema import schema
from truto_ci_async.models.pulls import AccountPage, Place

from .files import FileSink, SinkOptions
from .manifest import Part, SinkState
from .recovery import conflict, damaged
from .rows import CsvFormulas, csv_line, flat_rows, json_lines, plain_lines, pull_columns

_FORMULAS: dict[bool, CsvFormulas] = {False: "keep", True: "escape"}


class _LineSink(FileSink):
    """Appends whole lines to one file, which ``open`` cuts back to its committed length."""

    _grows = True
    _most_queued = 3  # with one, every other buffer has to wait for a sync that was queued before it
    _escapes = False
    _file: int | None = None

    def _use_version(self, version: int) -> None:
        super()._use_version(max(version, 2))  # in text, 1 and 2 are the same

    def _header(self) -> bytes:
        return b""

    @abstractmethod
    def _lines(self, page: AccountPage[Any]) -> bytes:
        """Return the rows of a page, each with its line end."""

    def _encode(self, page: AccountPage[Any]) -> tuple[list[bytes], int]:
        lines = self._lines(page)
        return [lines] if lines else [], len(lines)

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        del found
        self._durable = replace(state, columns=self._lead.version, escapes=self._escapes)
        if state.count and state.escapes != self._escapes:
            raise conflict(
                self.directory, f"it was begun with csv_formulas={_FORMULAS[state.escapes]!r}: repeat that"
            )
        self._part = state.parts[0] if state.parts else Part(f"{self.resource}.{self.format}")
        self._file = self._disk.open(self.directory / self._part.name)
        if os.fstat(self._file).st_nlink > 1:  # a copy made by links: another folder, and perhaps another run
            raise conflict(
                self.directory,
                f"{self._part.name} has another name as well, a hard link: remove that, or use a copy",
            )
        self._disk.cut(self._file, self._part.bytes)
        self._disk.fsync(self._file)
        self._disk.fsync_dir(self.directory)

    def _append(self, encoded: list[bytes], rows: int) -> None:
        part = self._part
        data = b"".join(encoded if part.bytes else (self._header(), *encoded))
        self._disk.write(cast("int", self._file), data)
        self._part = Part(part.name, part.rows + rows, part.bytes + len(data), zlib.crc32(data, part.crc32))

    def _sync(self, encoded: list[bytes], rows: int) -> SinkState:
        self._append(encoded, rows)
        self._disk.fsync(cast("int", self._file))
        return replace(self._durable, parts=(self._part,))

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                self._disk.close(file)


class NdjsonSink(_LineSink):
    """Writes ``interactions.ndjson``: one JSON object per line. Items that are ``msgspec.Raw`` keep their bytes.

    Each object starts with the columns of the pull, which replace fields of the item with the same names. An item
    that is not an object is written under the key ``item``.
    """

    format = "ndjson"
    _taken_bytes = 0  # length of the file, once all that was taken is written
    _next = Place(0, 0, 0)  # of the page that was encoded last

    def __init__(self, directory: str | os.PathLike[str], **options: Unpack[SinkOptions]) -> None:
        super().__init__(directory, **options)
        self.item_type = Raw

    async def write(self, page: AccountPage[Any]) -> Place | None:
        """Take a page into memory. Return where its items can be read again; None if a line has not their bytes."""
        await super().write(page)
        place = self._next
        self._taken_bytes += place.size
        return place if place.lead else None

    async def read_again(self, place: Place) -> list[Raw]:
        """Return the items of a page that was written in this run or an earlier one.

        :raises DamagedStateError: they are not there.
        """
        if self._buffer:  # queued now, in the order of pages
            self._require_open().start(self._guard, partial(self._append, *self._take()))
        return await self._run(self._read, place)

    def _read(self, place: Place) -> list[Raw]:
        data = self._disk.read(cast("int", self._file), place.offset, place.size)
        if len(data) < place.size or not data.endswith(b"\n"):
            raise damaged(self.directory / self._part.name, "rows are missing")
        return [Raw(b"{" + line[place.lead :]) for line in data[:-1].split(b"\n")]

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        super()._resume(state, found)
        self._taken_bytes = self._part.bytes

    def _lines(self, page: AccountPage[Any]) -> bytes:
        columns, items = pull_columns(page, self._lead), page.page.items
        lines, lead = plain_lines(columns, items) if page.is_plain else (b"", 0)
        if not lines:
            lines, lead = json_lines(columns, items), 0
        self._next = Place(self._taken_bytes, len(lines), lead)
        return lines


class CsvSink(_LineSink):
    """Writes ``interactions.csv``: a header, then the columns of the pull and those of ``Interaction.row()``.

    Null is an empty cell, and empty text is ``""``. ``csv_formulas="escape"`` puts ``'`` before text that a spreadsheet
    would take for a formula; ``read_folder`` takes it away again.
    """

    format = "csv"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        csv_formulas: CsvFormulas = "keep",
        **options: Unpack[SinkOptions],
    ) -> None:
        if csv_formulas not in ("keep", "escape"):
            raise UsageError(f"csv_formulas must be 'keep' or 'escape', not {csv_formulas!r}")
        super().__init__(directory, **options)
        self._escapes = csv_formulas == "escape"

    def _use_version(self, version: int) -> None:
        super()._use_version(version)
        own = schema(self.item_type)
        self._own = own.with_columns([column for column in own if column.name not in self._lead.types])

    def _header(self) -> bytes:
        return csv_line(self.schema.names).encode()

    def _lines(self, page: AccountPage[Any]) -> bytes:
        rows = flat_rows(page, self._lead, self._own, self.item_type)
        return "".join([csv_line(row, self._escapes) for row in rows]).encode()

"""NDJSON and CSV: one file that grows line by line."""

from __future__ import annotations

import os
import zlib
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar, cast

from msgspec import Raw

from truto_ci_async.models import ROW_COLUMNS
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.row_views import PULL_COLUMNS

from .files import FileSink
from .manifest import Part, SinkState
from .rows import csv_line, flat_rows, json_lines, pull_columns


class _LineSink(FileSink):
    """Appends whole lines to one file, which ``open`` cuts back to its committed length."""

    _grows = True
    _header: ClassVar[bytes] = b""
    _file: int | None = None

    @abstractmethod
    def _lines(self, page: AccountPage[Any]) -> bytes:
        """Return the rows of a page, each with its line end."""

    def _encode(self, page: AccountPage[Any]) -> tuple[list[bytes], int]:
        lines = self._lines(page)
        return [lines] if lines else [], len(lines)

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        del found
        self._part = state.parts[0] if state.parts else Part(f"interactions.{self.format}")
        self._file = self._disk.open(self.directory / self._part.name)
        if os.fstat(self._file).st_nlink > 1:  # a copy made by links: another folder, and perhaps another run
            self._conflict(
                f"{self._part.name} has another name as well, a hard link: remove that, or use a copy"
            )
        self._disk.cut(self._file, self._part.bytes)
        self._disk.fsync(self._file)
        self._disk.fsync_dir(self.directory)

    def _append(self, encoded: list[bytes], rows: int) -> None:
        part = self._part
        data = b"".join(encoded if part.bytes else (self._header, *encoded))
        self._disk.write(cast("int", self._file), data)
        self._part = Part(part.name, part.rows + rows, part.bytes + len(data), zlib.crc32(data, part.crc32))

    def _sync(self, encoded: list[bytes], rows: int) -> SinkState:
        self._append(encoded, rows)
        self._disk.fsync(cast("int", self._file))
        return SinkState(format=self.format, parts=(self._part,))

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
    item_type = Raw
    columns = PULL_COLUMNS

    def _lines(self, page: AccountPage[Any]) -> bytes:
        items = page.page.items
        is_raw = bool(items) and type(items[0]) is Raw
        return json_lines(pull_columns(page), items, page.plain_views if is_raw else None)


class CsvSink(_LineSink):
    """Writes ``interactions.csv``: a header, then the columns of the pull and those of ``Interaction.row()``."""

    format = "csv"
    _header = (",".join(PULL_COLUMNS + ROW_COLUMNS) + "\n").encode()

    def _lines(self, page: AccountPage[Any]) -> bytes:
        return "".join(map(csv_line, flat_rows(page, self.format))).encode()

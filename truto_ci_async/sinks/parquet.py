"""Parquet: numbered part files, each of them whole or absent."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

from msgspec.structs import replace

from truto_ci_async._checks import brief, is_number, is_whole_number
from truto_ci_async._files import Disk
from truto_ci_async.errors import StateConflictError, UsageError
from truto_ci_async.export.arrow import arrow_schema, pyarrow_library, record_batch
from truto_ci_async.export.column_values import Part, Parts, fixed_columns
from truto_ci_async.export.schema import Schema
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.row_views import PULL_COLUMNS

from .files import FLUSH_BYTES, FileSink, Verify
from .manifest import MAX_PARTS, SinkState, move_to_log
from .manifest import Part as FilePart
from .rows import wrong_items

# A row group is what a Parquet writer holds in memory: this many rows, or bytes of JSON text in them.
GROUP_ROWS = 10_000
GROUP_BYTES = 16 * 2**20
# A part is closed, and thereby committed, after this many rows, bytes of JSON text, or seconds.
PART_ROWS = 100_000
PART_BYTES = 256 * 2**20
PART_SECONDS = 10.0


class ParquetSink(FileSink):
    """Writes ``interactions/part-000001.parquet`` and so on, with the columns of the items after those of the pull.

    Nothing else is in that folder, so that a reader can take it as a whole. A pull without rows leaves a part without
    rows, which has the columns. Times are in UTC, also the bounds of the window; lists and
    ``remote_data`` are JSON text.

    Pages of many accounts share a part. It is closed, and thereby committed, after ``part_rows`` rows or
    ``part_seconds``, whichever comes first. After a crash, the rows of an unfinished part are requested again.

    :raises MissingExtraError: pyarrow is not installed.
    """

    format = "parquet"
    _manifest_seconds = 0.0  # commits are rare, so list each of them

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        resource: str = "interactions",
        fresh: bool = False,
        verify: Verify = "full",
        part_rows: int = PART_ROWS,
        part_seconds: float = PART_SECONDS,
        disk: Disk | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if not (is_whole_number(part_rows, least=1) and is_number(part_seconds) and part_seconds > 0):
            raise UsageError(
                "part_rows must be a whole number of at least 1, and part_seconds a number greater than 0, "
                f"not {brief(part_rows)} and {brief(part_seconds)}"
            )
        self._arrow = pyarrow_library()
        super().__init__(directory, resource=resource, fresh=fresh, verify=verify, disk=disk, clock=clock)
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._file: _PartFile | None = None
        self._writer: Any = None

    def _is_buffer_full(self) -> bool:
        return self._buffer_rows >= GROUP_ROWS or self._buffer_bytes >= GROUP_BYTES

    def _is_due(self) -> bool:
        return (
            self._new_rows >= self._part_rows
            or self._new_bytes >= PART_BYTES
            or self._clock() - self._new_since >= self._part_seconds
        )

    def _use_version(self, version: int) -> None:
        super()._use_version(version)
        self._columns = self.schema
        self._schema = arrow_schema(self._columns, self._arrow, required=PULL_COLUMNS[:1])

    def _encode(self, page: AccountPage[Any]) -> tuple[list[Part], int]:
        items = page.page.items
        if not all(isinstance(item, self.item_type) for item in items):
            raise wrong_items("parquet", self.item_type)
        if not items:
            return [], 0
        size = sum([memoryview(item.remote_json).nbytes for item in items])
        return [Part(items, self._lead.values(page))], size

    # Everything below runs in the worker's thread.

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        # pyarrow's first array imports pandas, which takes seconds: not while rows wait for their first commit.
        self._arrow.array([])
        self._durable = replace(state, columns=self._lead.version)
        # A number is never reused, even if its part was not committed: somebody may have read that file.
        numbers = [number for name in found if (number := self._layout.number(name)) is not None]
        self._number = max([state.next, *(number + 1 for number in numbers)])
        self._folder = self.directory / self._layout.parts_folder
        if self._folder.is_symlink():  # parts are renamed into it, which needs one file system
            raise StateConflictError(
                f"cannot write to {self._folder}: it is a link. Use another folder", path=str(self._folder)
            )
        self._new_folders += self._disk.make_folders(self._folder)

    def _append(self, encoded: list[Part], rows: int) -> None:
        if self._writer is None:
            self._file = _PartFile(self._disk, self.directory / self._layout.temporary_part(self._number))
            self._file_rows = 0
            self._writer = parquet_writer(self._file, self._schema, self._columns)
        if not rows:
            return
        groups = max(rows // GROUP_ROWS, 1)
        data = fixed_columns(self._columns, Parts(encoded, self.item_type, self._lead))
        self._writer.write_batch(
            record_batch(data, self._arrow, self._schema), row_group_size=ceil(rows / groups)
        )
        self._file_rows += rows

    def _sync(self, encoded: list[Part], rows: int) -> SinkState:
        if rows or (self._file is None and not self._durable.count):  # a pull without rows leaves the columns
            self._append(encoded, rows)
        file = self._file
        if file is not None:
            self._writer.close()
            file.flush()
            self._writer = self._file = None
            try:
                self._disk.fsync(file.file)
            finally:
                self._disk.close(file.file)
            part = FilePart(self._layout.part(self._number), self._file_rows, file.size, file.crc32)
            self._disk.rename(file.path, self.directory / part.name)
            for folder in {self._folder: None, self.directory: None}:
                self._disk.fsync_dir(folder)
            self._number += 1
            state = self._durable
            if len(state.parts) >= MAX_PARTS:
                state = move_to_log(self._disk, self.directory / self._layout.parts_log, state)
            self._durable = replace(state, parts=(*state.parts, part), next=self._number)
        return self._durable

    def _close(self) -> None:
        file, self._file = self._file, None
        writer, self._writer = self._writer, None
        if file is None:
            return
        # pyarrow writes the footer whenever it closes a file, even in a destructor. By then, the number of our file
        # descriptor may belong to another file.
        file.is_discarded = True
        with suppress(Exception):
            writer.close()
        with suppress(OSError):
            self._disk.close(file.file)
        with suppress(OSError):
            self._disk.remove(file.path)


def parquet_writer(target: Any, schema: Any, columns: Schema) -> Any:
    """Return a writer of a file. Columns of JSON have no statistics, which would copy a large value several times."""
    ordered = [column.name for column in columns if column.type != "json"]
    parquet: Any = import_module("pyarrow.parquet")
    return parquet.ParquetWriter(target, schema, compression="zstd", write_statistics=ordered)


class _PartFile:
    """A file for pyarrow to write to. It gathers small writes, and keeps the size and checksum of its content."""

    closed = False

    def __init__(self, disk: Disk, path: Path) -> None:
        self.path = path
        disk.remove(path)  # of a run that was killed
        self.file = disk.create(path)
        self.size = self.crc32 = 0
        self.is_discarded = False
        self._disk = disk
        self._buffer = bytearray()

    def write(self, data: Any) -> int:
        if not self.is_discarded:
            self._buffer += data
            if len(self._buffer) >= FLUSH_BYTES:
                self.flush()
        return memoryview(data).nbytes

    def flush(self) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        if data and not self.is_discarded:
            self._disk.write(self.file, data)
            self.size += len(data)
            self.crc32 = zlib.crc32(data, self.crc32)

    def tell(self) -> int:
        return self.size + len(self._buffer)

    def close(self) -> None:
        """Do nothing: the sink syncs the file before it closes it."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

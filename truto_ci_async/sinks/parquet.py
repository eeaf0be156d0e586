"""Parquet parts."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from math import ceil, inf
from pathlib import Path
from time import monotonic
from typing import Any

from truto_ci_async._files import Disk
from truto_ci_async.errors import MissingExtraError, UsageError
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.row_views import PULL_COLUMNS

from .files import FLUSH_BYTES, FileSink, Verify
from .manifest import Part, SinkState
from .rows import INLINE_ITEMS, flat_rows

# A row group is what Parquet holds in memory: so many rows, or so many bytes of JSON text in them.
GROUP_ROWS = 10_000
GROUP_BYTES = 16 * 2**20
# A part is closed, and with it committed, at so many rows, bytes of JSON text, or seconds.
PART_ROWS = 100_000
PART_BYTES = 256 * 2**20
PART_SECONDS = 10.0


_MOMENTS = frozenset(("start_time", "end_time", "created_at", "updated_at"))
_NUMBERS = frozenset(
    ("longest_monologue", "longest_customer_story", "interactivity", "patience", "question_rate")
)


class ParquetSink(FileSink):
    """``part-000001.parquet`` and so on: typed columns, date-times in UTC, lists and ``remote_data`` as JSON text.

    Pages of many accounts share a part. One is closed, and with it committed, at ``part_rows`` rows or after
    ``part_seconds``, whichever comes first; what is in an open part is asked for again after a crash.

    :raises MissingExtraError: pyarrow is not installed.
    """

    format = "parquet"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        fresh: bool = False,
        verify: Verify = "full",
        part_rows: int = PART_ROWS,
        part_seconds: float = PART_SECONDS,
        disk: Disk | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        try:
            self._arrow: Any = import_module("pyarrow")
            self._parquet: Any = import_module("pyarrow.parquet")
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
        if part_rows < 1 or part_seconds <= 0:
            raise UsageError("a part has at least one row, and some time to grow")
        super().__init__(directory, fresh=fresh, verify=verify, disk=disk, clock=clock)
        self._schema = _schema(self._arrow)
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._file: _PartFile | None = None
        self._writer: Any = None
        self._forget()

    _manifest_seconds = 0.0

    def _forget(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._size = 0  # bytes of JSON text in those rows
        self._open_rows = self._open_bytes = 0  # of the open part, those rows included
        self._open_since = 0.0
        self._written = self._synced = 0

    async def write(self, page: AccountPage[Any]) -> None:
        self._require_open()
        if len(self._rows) >= GROUP_ROWS or self._size >= GROUP_BYTES:
            await self._run(self._write_group, self._take())
        if len(page) > INLINE_ITEMS:
            rows = await self._require_open().run(flat_rows, page, self.format)
            self._require_open()
        else:
            rows = flat_rows(page, self.format)
        if not rows:
            return
        if not self._open_rows:
            self._open_since = self._clock()
        size = sum([len(row[-1] or "") for row in rows])
        self._rows += rows
        self._size += size
        self._open_rows += len(rows)
        self._open_bytes += size
        self._written += len(rows)

    def begin_commit(self, *, final: bool = False) -> Awaitable[bytes | None]:
        worker = self._require_open()
        begun = None
        if self._written != self._synced:
            if self._open_rows and not (final or self._is_full()):
                return _not_yet()
            self._open_rows = self._open_bytes = 0
            begun = worker.start(self._do, partial(self._close_part, self._take()))
        return self._commit(begun, self._written)

    def _is_full(self) -> bool:
        return (
            self._open_rows >= self._part_rows
            or self._open_bytes >= PART_BYTES
            or self._clock() - self._open_since >= self._part_seconds
        )

    def _take(self) -> list[tuple[Any, ...]]:
        rows, self._rows, self._size = self._rows, [], 0
        return rows

    # In the worker's thread.

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        self._durable = state
        # A number is given once, also when its part was never committed: somebody may have read that one.
        numbers = [int(match[1]) for name in found if (match := _PART_NAME.fullmatch(name))]
        self._number = max([state.next, *(number + 1 for number in numbers)])

    def _write_group(self, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        if self._writer is None:
            self._file = _PartFile(self._disk, self.directory / f".part-{self._number:06d}.parquet.tmp")
            self._file_rows = 0
            self._writer = self._parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        groups = max(len(rows) // GROUP_ROWS, 1)
        self._writer.write_table(
            _table(self._arrow, self._schema, rows), row_group_size=ceil(len(rows) / groups)
        )
        self._file_rows += len(rows)

    def _close_part(self, rows: list[tuple[Any, ...]]) -> SinkState:
        self._write_group(rows)
        file = self._file
        if file is not None:
            self._writer.close()
            file.flush()
            self._writer = self._file = None
            try:
                self._disk.fsync(file.file)
            finally:
                self._disk.close(file.file)
            part = Part(f"part-{self._number:06d}.parquet", self._file_rows, file.size, file.crc32)
            self._disk.rename(file.path, self.directory / part.name)
            self._disk.fsync_dir(self.directory)
            self._number += 1
            self._durable = SinkState(
                format=self.format, parts=(*self._durable.parts, part), next=self._number
            )
        return self._durable

    def _close(self) -> None:
        file, self._file = self._file, None
        writer, self._writer = self._writer, None
        if file is None:
            return
        # pyarrow writes the end of a file when it closes it, even from a destructor, when that number may be the
        # descriptor of another file.
        file.is_deaf = True
        with suppress(Exception):
            writer.close()
        with suppress(OSError):
            self._disk.close(file.file)
        with suppress(OSError):
            self._disk.remove(file.path)


async def _not_yet() -> None:
    """Be the commit of a part that is to grow first."""


_PART_NAME = re.compile(r"\.?part-(\d{6,})\.parquet(?:\.tmp)?", re.ASCII)


class _PartFile:
    """A file as pyarrow writes one, which gathers its many small writes, and counts and sums what goes through."""

    closed = False

    def __init__(self, disk: Disk, path: Path) -> None:
        self.path = path
        self.file = disk.open(path)
        self.size = self.crc32 = 0
        self.is_deaf = False
        self._disk = disk
        self._held = bytearray()

    def write(self, data: Any) -> int:
        if not self.is_deaf:
            self._held += data
            if len(self._held) >= FLUSH_BYTES:
                self.flush()
        return memoryview(data).nbytes

    def flush(self) -> None:
        held, self._held = bytes(self._held), bytearray()
        if held and not self.is_deaf:
            self._disk.write(self.file, held)
            self.size += len(held)
            self.crc32 = zlib.crc32(held, self.crc32)

    def tell(self) -> int:
        return self.size + len(self._held)

    def close(self) -> None:
        """Left to the sink, which syncs first."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _schema(arrow: Any) -> Any:
    moment, number, text = arrow.timestamp("us", tz="UTC"), arrow.float64(), arrow.string()
    return arrow.schema(
        [
            arrow.field(
                name,
                moment if name in _MOMENTS else number if name in _NUMBERS else text,
                nullable=name != PULL_COLUMNS[0],
            )
            for name in FileSink.columns
        ]
    )


def _table(arrow: Any, schema: Any, rows: list[tuple[Any, ...]]) -> Any:
    arrays: list[Any] = []
    for field, values in zip(schema, zip(*rows, strict=True), strict=True):
        column = [_float(value) for value in values] if field.name in _NUMBERS else values
        arrays.append(arrow.array(column, type=field.type))
    return arrow.Table.from_arrays(arrays, schema=schema)


def _float(value: float | None) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has no largest number
        return inf if value > 0 else -inf

"""Items as one Parquet file, with typed columns."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from truto_ci_async.export.arrow import arrow_schema, pyarrow_library, record_batch
from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.export.schema import Schema

# A row group, which is held in memory.
GROUP_ROWS: Final = 10_000


class ParquetWriter:
    """Columns as ``Page.to_arrow`` has them. The file can be read once ``end`` has written its footer.

    :raises MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, schema: Schema) -> None:
        self._library = pyarrow_library()
        self._schema = schema
        self._arrow_schema = arrow_schema(schema, self._library)
        self._items: list[Any] = []
        self._written = _Tape()
        parquet = import_module("pyarrow.parquet")
        self._writer = parquet.ParquetWriter(self._written, self._arrow_schema, compression="zstd")

    def page(self, items: Sequence[Any]) -> bytes:
        self._items += items
        if len(self._items) >= GROUP_ROWS:
            self._write_group()
        return self._written.take()

    def end(self) -> bytes:
        if self._items:
            self._write_group()
        self._writer.close()
        return self._written.take()

    def _write_group(self) -> None:
        data = ColumnData(self._schema, self._schema.gather(self._items), len(self._items))
        self._writer.write_batch(record_batch(data, self._library, self._arrow_schema))
        self._items = []


class _Tape:
    """A file that is only written, and knows how much."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._size += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._size

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken, self._parts = b"".join(self._parts), []
        return taken

"""Items as one Parquet file, with typed columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from truto_ci_async.export.arrow import arrow_schema, pyarrow_library, record_batch, table
from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.export.schema import Schema

# A row group, which is held in memory.
GROUP_ROWS: Final = 10_000


class ParquetWriter:
    """Columns as ``Page.to_arrow`` has them. The file can be read once ``end`` has written its footer.

    :raises MissingExtraError: pyarrow is not installed.
    """

    state = None

    def __init__(self, schema: Schema) -> None:
        self._library = pyarrow_library()
        self._schema = schema
        self.arrow_schema = arrow_schema(schema, self._library)
        self._batches: list[Any] = []
        self._written = BytesIO()  # what was not taken yet
        parquet = import_module("pyarrow.parquet")
        self._writer = parquet.ParquetWriter(self._written, self.arrow_schema, compression="zstd")

    def page(self, items: Sequence[Any]) -> bytes:
        return self.add(self.batch(items))

    def batch(self, items: Sequence[Any]) -> Any:
        """Return items as an Arrow batch."""
        data = ColumnData(self._schema, self._schema.gather(items), len(items))
        return record_batch(data, self._library, self.arrow_schema)

    def add(self, batch: Any) -> bytes:
        self._batches.append(batch)
        if sum(each.num_rows for each in self._batches) >= GROUP_ROWS:
            self._write_group()
        return self._take()

    def end(self) -> bytes:
        self._write_group()
        self._writer.close()
        return self._take()

    def _take(self) -> bytes:
        taken = self._written.getvalue()
        self._written.seek(0)
        self._written.truncate()
        return taken

    def _write_group(self) -> None:
        group = table(self._schema, self._batches, self._library)
        self._batches = []
        if group.num_rows:
            self._writer.write_table(group)


class StagedParquet:
    """The same in two steps, since a Parquet file cannot be continued: Arrow batches, one behind the other, and
    ``convert``, which makes the file of them.
    """

    state = None

    def __init__(self, writer: ParquetWriter) -> None:
        self._writer = writer

    def page(self, items: Sequence[Any]) -> bytes:
        written: bytes = self._writer.batch(items).serialize().to_pybytes()
        return written

    def end(self) -> bytes:
        return b""

    def convert(self, path: Path) -> Iterator[bytes]:
        """Return the Parquet file, in pieces, of the batches in the file ``path``."""
        arrow: Any = import_module("pyarrow")
        ipc: Any = import_module("pyarrow.ipc")
        with arrow.OSFile(str(path)) as file:
            while file.tell() < file.size():
                yield self._writer.add(
                    ipc.read_record_batch(ipc.read_message(file), self._writer.arrow_schema)
                )
        yield self._writer.end()

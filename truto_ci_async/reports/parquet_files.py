"""Reads the Parquet parts of a pull with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, Protocol

from truto_ci_async.export.arrow import arrow_schema, pyarrow_library
from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.export.schema import ColumnType, Schema

from .committed_file import CommittedFile


class PartFile(Protocol):
    """A committed part, in a folder or in object storage."""

    def checked(self) -> Any:
        """Return what pyarrow can read.

        :raises ValueError: it is not what was committed.
        """


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def types_in(files: Sequence[CommittedFile], types: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """Return the columns that are text in a file, although ``types`` say otherwise.

    :raises MissingExtraError: pyarrow is not installed.
    """
    text = pyarrow_library().types["text"]
    found: dict[str, ColumnType] = {}
    for file in files:
        schema = import_module("pyarrow.parquet").read_schema(file.path)
        found |= {
            name: "text" for name, type in types.items() if type != "json" and schema.field(name).type == text
        }
    return found


def read_batches(file: PartFile, schema: Schema, rows: int) -> Iterator[Any]:
    """Generate the rows of a part as Arrow batches of a schema.

    :raises ValueError: it is damaged, or has no such columns.
    """
    library = pyarrow_library()
    arrow: Any = import_module("pyarrow")
    target = arrow_schema(schema, library)
    with import_module("pyarrow.parquet").ParquetFile(file.checked()) as part:
        if missing := set(schema.names) - set(part.schema_arrow.names):
            raise ValueError(f"it has no column {min(missing)!r}")
        if not part.num_row_groups:  # older versions of pyarrow fail there
            return
        for batch in part.iter_batches(rows, columns=list(schema.names), use_threads=False):
            arrays = [batch.column(field.name).cast(field.type) for field in target]
            yield arrow.RecordBatch.from_arrays(arrays, schema=target)


def read_columns(file: PartFile, schema: Schema, rows: int) -> Iterator[ColumnData]:
    """Generate the rows of a part as lists of values.

    :raises ValueError: as for ``read_batches``.
    """
    for batch in read_batches(file, schema, rows):
        values = [
            _times(column) if type == "timestamp" else column.to_pylist()
            for column, type in zip(batch.columns, schema.types.values(), strict=True)
        ]
        yield ColumnData(schema, values, batch.num_rows)


def _times(column: Any) -> list[datetime | None]:
    return [None if value is None else _time(value) for value in column.cast("int64").to_pylist()]


def _time(microseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:  # of a time zone that is ahead of UTC, in year 1
        return datetime.min.replace(tzinfo=UTC) if microseconds < 0 else datetime.max.replace(tzinfo=UTC)

"""Reads what a pull has committed to its folder, in any format, as the columns of its resource.

The manifest says which files count, and how much of them: what a killed run wrote after its last commit is skipped. A
pull may go on in the meantime; then a folder shows what was committed when it was opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from truto_ci_async.errors import DamagedStateError, UsageError
from truto_ci_async.export.arrow import arrow_library, arrow_schema, pyarrow_library, record_batch, table
from truto_ci_async.export.column_values import ColumnData, Parts, fixed_columns, fixed_schema
from truto_ci_async.export.frames import Frames, frame_library, pandas_frame
from truto_ci_async.export.schema import Columns, Schema
from truto_ci_async.models import Interaction
from truto_ci_async.models.row_views import PULL_SCHEMA
from truto_ci_async.sinks.manifest import MANIFEST, Manifest, read_manifest

from . import text_files

if TYPE_CHECKING:
    import pandas
    import polars

ITEM_TYPES: dict[str, Any] = {"interactions": Interaction}
BATCH_ROWS = 5_000


def read_folder(path: str | os.PathLike[str], resource: str = "interactions") -> Folder:
    """Return the committed rows of a pull's folder, whatever its format.

        rows = truto_ci_async.read_folder("data/")
        len(rows), rows.complete
        rows.to_polars()
        duckdb.sql("from rows")

    Columns and types are those of the resource's schema, after the ones that a pull adds. Rows are read when they are
    asked for, from disk each time.

    :raises UsageError: there is no pull's output in the folder.
    :raises DamagedStateError: a file is shorter than what was committed, or cannot be read.
    """
    folder = Path(path)
    try:
        manifest = read_manifest(folder)
    except (ValueError, OSError) as error:
        raise UsageError(f"{folder / MANIFEST} was not written by a pull: {error}") from error
    if manifest is None:
        raise UsageError(f"{folder} has no {MANIFEST}: pass the folder that a pull wrote to")
    return Folder(folder, resource, manifest)


class Folder(Frames):
    """The committed rows of a pull's folder. Whatever reads Arrow takes it; ``to_polars`` and the like read all."""

    def __init__(self, path: Path, resource: str, manifest: Manifest) -> None:
        if resource not in ITEM_TYPES:
            raise UsageError(f"there is no resource {resource!r}; there are {', '.join(ITEM_TYPES)}")
        self.path = path
        self.resource = resource
        self.manifest = manifest
        self.format = manifest.format
        self.item_type = ITEM_TYPES[resource]
        self.schema: Schema = fixed_schema(self.item_type, PULL_SCHEMA)

    @property
    def files(self) -> tuple[Path, ...]:
        """The committed files, in the order they were written."""
        return tuple(self.path / part.name for part in self.manifest.parts)

    def __len__(self) -> int:
        return self.manifest.rows

    def parts(self) -> Parts:
        raise UsageError("pass the folder alone: its rows are not items")

    def batches(self, columns: Columns = None) -> Iterator[ColumnData]:
        """Generate the rows, some thousand at a time, as one list for each column.

        :raises DamagedStateError: a file is shorter than what was committed, or cannot be read.
        """
        schema = self.schema.select(columns)
        for part in self.manifest.parts:
            path = self.path / part.name
            try:
                if self.format == "parquet":
                    yield from self._read_parquet(path, schema)
                elif self.format == "csv":
                    yield from text_files.read_csv(path, part.bytes, schema, BATCH_ROWS)
                else:
                    yield from self._read_ndjson(path, part.bytes, schema)
            except (OSError, ValueError, msgspec.DecodeError) as error:
                raise DamagedStateError(f"{path} cannot be read: {error}", path=str(path)) from error

    def data(self, columns: Columns = None) -> ColumnData:
        """Return all rows as one list for each column."""
        schema = self.schema.select(columns)
        found = list(self.batches(columns))
        values = [list(chain.from_iterable(batch.values[at] for batch in found)) for at in range(len(schema))]
        return ColumnData(schema, values, sum(batch.num_rows for batch in found))

    def to_polars(self, columns: Columns = None) -> polars.DataFrame:
        """Return all rows as a polars data frame; ``columns`` picks some. Needs ``truto-ci-async[polars]``."""
        frame: polars.DataFrame = frame_library("polars").DataFrame(self._table(columns, "polars"))
        return frame

    def to_pandas(self, columns: Columns = None) -> pandas.DataFrame:
        """Return all rows as a pandas data frame. Needs ``truto-ci-async[pandas]``."""
        frame_library("pandas")
        return pandas_frame([self.data(columns)])

    def to_arrow(self, columns: Columns = None) -> Any:
        """Return all rows as a pyarrow table. Needs pyarrow."""
        library = pyarrow_library()
        schema = self.schema.select(columns)
        return table(schema, (record_batch(batch, library) for batch in self.batches(columns)), library)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table(None, "arrow").__arrow_c_stream__(requested_schema)

    def _table(self, columns: Columns, extra: str) -> Any:
        library = arrow_library(extra)
        schema = self.schema.select(columns)
        return table(schema, (record_batch(batch, library) for batch in self.batches(columns)), library)

    def _read_ndjson(self, path: Path, length: int, schema: Schema) -> Iterator[ColumnData]:
        for parts in text_files.read_ndjson(path, length, self.item_type, BATCH_ROWS):
            yield fixed_columns(schema, Parts(parts, self.item_type, PULL_SCHEMA))

    def _read_parquet(self, path: Path, schema: Schema) -> Iterator[ColumnData]:
        library = pyarrow_library()
        from importlib import import_module

        file: Any = import_module("pyarrow.parquet").ParquetFile(path)
        known = set(file.schema_arrow.names)
        wanted = [name for name in schema.names if name in known]
        target = arrow_schema(schema, library)
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
            values: list[Sequence[Any]] = [
                batch.column(name).cast(target.field(name).type).to_pylist()
                if name in known
                else [None] * batch.num_rows
                for name in schema.names
            ]
            yield ColumnData(schema, values, batch.num_rows)

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r}, {self.resource!r}, {len(self):,} rows of {self.format})"

"""Reads what a pull has committed to its folder, in any format, as the columns of its resource.

The manifest says which files count, and how much of them: what a killed run wrote after its last commit is skipped. A
pull may go on in the meantime; then a folder shows what was committed when it was opened. Every byte is checked
against the manifest while it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from truto_ci_async.errors import DamagedStateError, UsageError
from truto_ci_async.export import html
from truto_ci_async.export.arrow import ArrowLibrary, arrow_library, pyarrow_library, record_batch, table
from truto_ci_async.export.column_values import ColumnData, fixed_schema
from truto_ci_async.export.frames import Frames, frame_library, pandas_frame
from truto_ci_async.export.schema import Column, Columns, Schema, schema
from truto_ci_async.export.walks import append_to_duckdb
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.models.row_views import PULL_SCHEMA
from truto_ci_async.pull.stores.object_storage import Bucket
from truto_ci_async.pull.stores.targets import is_url
from truto_ci_async.sinks.layout import MANIFEST, is_part_of
from truto_ci_async.sinks.manifest import Entry, read_entry, read_manifest

from . import parquet_files, text_files
from .cloud_file import CloudFile, open_bucket, read_cloud_entry
from .committed_file import CommittedFile

if TYPE_CHECKING:
    import pandas
    import polars

    from truto_ci_async.export.column_values import Parts

BATCH_ROWS = 5_000


def read_folder(
    path: str | os.PathLike[str],
    resource: str = "interactions",
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Folder:
    """Return the committed rows of one resource of a pull's folder, whatever its format.

        rows = truto_ci_async.read_folder("data/")
        len(rows), rows.complete
        rows.to_polars()
        duckdb.sql("from rows")

    The columns and their types are those that the manifest names: the ones that a pull adds, then those of
    ``schema(Interaction)``. They are the same for each format. Rows are read and checked when they are asked for,
    from disk each time. A row of NDJSON that is no object of this resource has the columns of the pull only.

    ``path`` may also be the URL of object storage (``s3://bucket/prefix``), with the options of ``CloudStore``. That
    gives exactly what is committed, which the parts in the bucket by themselves may show a moment later.

    :raises UsageError: there is no pull's output in the folder, or none of this resource.
    :raises DamagedStateError: the manifest cannot be read.
    """
    if is_url(path):
        return CloudFolder(open_bucket(path, storage_options), resource)
    folder = Path(path).absolute()
    try:
        entries = read_manifest(folder)
        text = (entries or {}).get(resource)
        entry = None if text is None else read_entry(text)
    except NotADirectoryError:
        raise UsageError(f"{folder} is not a folder: pass the one that a pull wrote to") from None
    except (ValueError, OSError) as error:
        manifest = folder / MANIFEST
        raise DamagedStateError(
            f"{manifest} was not written by a pull: {error}", path=str(manifest)
        ) from error
    if entries is None:
        raise UsageError(f"{folder} has no {MANIFEST}: pass the folder that a pull wrote to")
    if entry is None or resource not in ITEM_TYPES:
        known = ", ".join(name for name in entries if name in ITEM_TYPES) or "nothing"
        raise UsageError(f"{folder} has no {resource!r}: it holds {known}")
    return Folder(folder, resource, entry)


class Folder(Frames):
    """The committed rows of one resource in a pull's folder. Whatever reads Arrow takes it, as often as it likes.

    ``complete``: the pull ended with every account done. ``batches()`` reads in memory that does not grow with the
    folder; ``to_polars()`` and the like, and readers of Arrow, get all rows.
    """

    def __init__(self, path: Path, resource: str, entry: Entry, *, place: str = "") -> None:
        self.path = path
        self._place = place or str(path)
        self.resource = resource
        self.format = entry.format
        self.complete = entry.complete
        self.item_type = ITEM_TYPES[resource]
        self._entry = entry
        for part in entry.parts:
            if not is_part_of(resource, part.name, entry.format):
                raise DamagedStateError(
                    f"the manifest of {self._place} names {part.name!r}, which no pull wrote",
                    path=self._place,
                )

    def other(self, resource: str) -> Folder:
        """Return another resource of the same folder.

        :raises UsageError: there is none.
        """
        return read_folder(self.path, resource)

    @property
    def files(self) -> tuple[Path, ...]:
        """The committed files, in the order they were written. Of NDJSON and CSV only the beginning may count."""
        return tuple(self.path / part.name for part in self._entry.parts)

    @cached_property
    def schema(self) -> Schema:
        """The columns, as the manifest has them."""
        types = dict(self._entry.columns)
        if self.format == "parquet" and "pulled_at" not in types:  # earlier manifests did not have the types
            types |= parquet_files.types_in(self._committed_files()[:1], types)
        item_schema = schema(self.item_type)
        lead = [name for name in types if name in PULL_SCHEMA.types or name not in item_schema.types]
        self._lead = Schema("pull", *(Column(name, types[name]) for name in lead))
        known = fixed_schema(self.item_type, self._lead)
        columns = [replace(known[name], type=type) for name, type in types.items()]
        return Schema(self.resource, *columns, keeps_unknown=False)

    def __len__(self) -> int:
        return self._entry.rows

    def parts(self) -> Parts:
        raise UsageError("pass the folder alone: its rows are not items")

    def batches(self, columns: Columns = None) -> Iterator[ColumnData]:
        """Generate the rows, some thousand at a time, as one list for each column.

            for batch in read_folder("data/").batches(["user_email", "patience"]):
                for email, patience in zip(*batch.values):
                    print(email, patience)

        ``columns`` picks columns or leaves some out, as for ``Page.to_polars``; ``"additional_metrics.Calls"`` is the
        metric of that name.

        :raises DamagedStateError: a file is missing, or is not what was committed. Rows before that were handed out.
        :raises MissingExtraError: the format is Parquet, and pyarrow is not installed.
        :raises UsageError: there is no such column.
        """
        chosen = self.schema.select(columns)
        stored = text_files.stored_columns(chosen, self.schema)
        for file in self._committed_files():
            if self.format == "parquet":
                found = parquet_files.read_columns(file, stored, BATCH_ROWS)
            elif self.format == "csv":
                escapes = self._entry.csv_formulas == "escape"
                found = text_files.read_csv(file, stored, BATCH_ROWS, escapes=escapes)
            else:
                found = text_files.read_ndjson(file, chosen, self._lead, self.item_type, BATCH_ROWS)
            rows = 0
            for batch in _checked(file.path, found):
                rows += batch.num_rows
                yield batch if batch.schema is chosen else text_files.pick(chosen, batch)
            file.check_rows(rows)

    def data(self, columns: Columns = None) -> ColumnData:
        """Return all rows as one list for each column."""
        chosen = self.schema.select(columns)
        found = list(self.batches(columns))
        values = [list(chain.from_iterable(batch.values[at] for batch in found)) for at in range(len(chosen))]
        return ColumnData(chosen, values, sum(batch.num_rows for batch in found))

    def to_polars(self, columns: Columns = None) -> polars.DataFrame:
        """Return all rows as a polars data frame; ``columns`` picks some. Needs ``truto-ci-async[polars]``."""
        frame: polars.DataFrame = frame_library("polars").DataFrame(
            self._table(columns, self._library("polars"))
        )
        return frame

    def to_pandas(self, columns: Columns = None) -> pandas.DataFrame:
        """Return all rows as a pandas data frame, with the types of ``Page.to_pandas``. Needs pandas."""
        frame_library("pandas")
        return pandas_frame([self.data(columns)])

    def to_arrow(self, columns: Columns = None) -> Any:
        """Return all rows as a pyarrow table. Needs pyarrow."""
        return self._table(columns, pyarrow_library())

    def to_duckdb(self, con: Any, table: str, columns: Columns = None) -> int:
        """Append all rows to a table of a DuckDB connection, which is made if it is not there; return their number.

        Rows go in batch by batch, and those before an error stay: between ``con.begin()`` and ``con.commit()``, all of
        them or none do. Columns are matched by name.
        """
        frame_library("duckdb")
        library = self._library("duckdb")
        append = append_to_duckdb(con, table, self.schema.select(columns), library)
        return sum(append(batch) for batch in self._arrow_batches(columns, library))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table(None, self._library("arrow")).__arrow_c_stream__(requested_schema)

    def _library(self, extra: str) -> ArrowLibrary:
        """Return the source of batches: Parquet is read by pyarrow, which has its own."""
        return pyarrow_library() if self.format == "parquet" else arrow_library(extra)

    def _table(self, columns: Columns, library: ArrowLibrary) -> Any:
        return table(self.schema.select(columns), self._arrow_batches(columns, library), library)

    def _arrow_batches(self, columns: Columns, library: ArrowLibrary) -> Iterator[Any]:
        chosen = self.schema.select(columns)
        if self.format != "parquet" or any(column.key is not None for column in chosen):
            yield from (record_batch(batch, library) for batch in self.batches(columns))
            return
        for file in self._committed_files():
            rows = 0
            for batch in _checked(file.path, parquet_files.read_batches(file, chosen, BATCH_ROWS)):
                rows += batch.num_rows
                yield batch
            file.check_rows(rows)

    def _committed_files(self) -> Sequence[Any]:
        return [
            CommittedFile(self.path / part.name, part.rows, part.bytes, part.crc32)
            for part in self._entry.parts
        ]

    def _repr_html_(self) -> str:
        size = f"{len(self):,} row{'' if len(self) == 1 else 's'} of {self.format}"
        state = "complete" if self.complete else "not complete"
        tables = [html.table(["column", "type"], list(self._entry.columns.items()))]
        return html.card("Folder", self._place, self.resource, size, state, tables=tables)

    def __repr__(self) -> str:
        return f"Folder({self._place!r}, {self.resource!r}, {len(self):,} rows of {self.format})"


class CloudFolder(Folder):
    """The committed rows of one resource in object storage: a Folder whose files are ``urls``."""

    def __init__(self, bucket: Bucket, resource: str) -> None:
        if resource not in ITEM_TYPES:
            raise UsageError(f"{bucket} has no {resource!r}: the resources are {', '.join(ITEM_TYPES)}")
        super().__init__(Path(), resource, read_cloud_entry(bucket, resource), place=str(bucket))
        self._bucket = bucket

    def other(self, resource: str) -> Folder:
        return CloudFolder(self._bucket, resource)

    @property
    def files(self) -> tuple[Path, ...]:
        raise UsageError("these files are in object storage: their names are in urls")

    @property
    def urls(self) -> tuple[str, ...]:
        """The committed parts, in the order they were written."""
        return tuple(f"{self._place}/{part.name}" for part in self._entry.parts)

    def _committed_files(self) -> Sequence[CloudFile]:
        return [
            CloudFile(self._bucket, part.name, part.rows, part.bytes, part.crc32)
            for part in self._entry.parts
        ]


def _checked(path: Path | str, found: Iterator[Any]) -> Iterator[Any]:
    """Generate what is read from a file; any failure counts as damage to it."""
    step = partial(next, found, None)
    while True:
        try:
            batch = step()
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise DamagedStateError(f"{path} cannot be read: {error}", path=str(path)) from error
        if batch is None:
            return
        yield batch

"""Walks as data frames and Arrow batches: what lists, streams and pulls share.

A walk returns its rows page by page through a ``PartSource``. A batch collects several small pages, since each batch
has a fixed cost, but never splits a page: a pull marks whole pages as done. An async walk is not an Arrow stream
itself: a reader would block the event loop that has to fetch the next page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from truto_ci_async._checks import brief, is_whole_number
from truto_ci_async.errors import UsageError

from .arrow import ArrowLibrary, arrow_library, arrow_schema, pyarrow_library, record_batch, table
from .column_values import ColumnData, Part, Parts, columns_of, fixed_columns, fixed_schema, is_typed
from .frames import Frames, frame_library, pandas_frame
from .schema import Columns, Schema

if TYPE_CHECKING:
    import pandas
    import polars

    from truto_ci_async._progress import Progress

#: An Arrow batch is closed by the page that brings it to this many rows.
BATCH_ROWS = 5_000


class FetchedPart(Struct, frozen=True):
    """The rows of one page of a walk, and that page if there is one."""

    part: Part
    page: Any = None


class PartSource(Protocol):
    """The pages of one walk, one after another."""

    @property
    def item_type(self) -> Any:
        """The type of the items."""

    @property
    def lead(self) -> Schema | None:
        """The columns before those of the items, if there are any."""

    async def next_part(self) -> FetchedPart | None:
        """Return the next page; None at the end."""

    def release(self, pages: Sequence[Any]) -> None:
        """Called when the caller is done with these pages."""


class Batch(Frames):
    """Some rows of a walk as an Arrow batch. Anything that reads Arrow can read it, any number of times.

    ``pages`` are the pages its rows come from; a batch of a stream has none. A batch of a walk always has the same
    columns with the same types. Dicts, which have no types, are one column ``item`` of JSON.
    """

    def __init__(self, schema: Schema, parts: Parts, pages: Sequence[Any]) -> None:
        self.schema = schema
        self.pages = tuple(pages)
        self.num_rows = sum(len(part.items) for part in parts.parts)
        self._parts = parts
        self._arrow: Any = None

    def parts(self) -> Parts:
        return self._parts

    def data(self) -> ColumnData:
        """Return the rows as lists, one for each column of ``schema``."""
        return fixed_columns(self.schema, self._parts)

    def record_batch(self) -> Any:
        """Return the batch as an object of the Arrow library that is installed.

        :raises MissingExtraError: neither arro3-core nor pyarrow is installed.
        """
        if self._arrow is None:
            self._arrow = record_batch(self.data(), arrow_library())
        return self._arrow

    def __arrow_c_array__(self, requested_schema: object | None = None) -> object:
        return self.record_batch().__arrow_c_array__(requested_schema)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return table(self.schema, [self.record_batch()], arrow_library()).__arrow_c_stream__(requested_schema)

    async def commit(self) -> None:
        """Mark the pages of this batch as done, and wait until that is durable, for a pull with ``commit="manual"``.

        :raises UsageError: the batch does not come from an open pull.
        """
        if not self.pages or not hasattr(self.pages[0], "mark"):
            raise UsageError(
                "only batches of an open pull can be committed, and this one does not come from one"
            )
        for page in self.pages:
            page.mark()
        for page in self.pages:
            await page.commit()

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"Batch({self.num_rows} rows, {len(self.schema)} columns)"


class Batches:
    """Iterates over the Arrow batches of one walk.

    An error comes after the batch of the rows before it. A cancelled wait can be repeated and loses no rows.
    """

    def __init__(self, source: PartSource, rows: int, columns: Columns) -> None:
        if not is_whole_number(rows, least=1):
            raise UsageError(f"rows is the size of a batch, 1 or more, not {brief(rows)}")
        self.schema = fixed_schema(source.item_type, source.lead, columns)
        self._source = source
        self._rows = rows
        self._fetched: list[FetchedPart] = []
        self._fetched_rows = 0
        self._handed: Sequence[Any] = ()
        self._error: Exception | None = None
        self._is_over = self._is_asking = False

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> Batch:
        if self._is_asking:
            raise UsageError("two tasks ask for the next batch at once; give each one a walk of its own")
        handed, self._handed = self._handed, ()
        self._source.release(handed)
        self._is_asking = True
        try:
            await self._fetch()
        finally:
            self._is_asking = False
        if not self._fetched:
            if self._error is not None:
                raise self._error.with_traceback(None)
            raise StopAsyncIteration
        return self._batch()

    async def _fetch(self) -> None:
        """Fetch pages until there are rows for a batch, or there is nothing more."""
        while self._fetched_rows < self._rows and not self._is_over:
            try:
                found = await self._source.next_part()
            except Exception as error:  # noqa: BLE001 - raised once the rows before it are handed out
                self._error, self._is_over = error, True
                return
            if found is None:
                self._is_over = True
            elif rows := len(found.part.items):
                self._fetched.append(found)
                self._fetched_rows += rows
            else:
                self._source.release((found.page,))  # there is nothing in it to wait for

    def _batch(self) -> Batch:
        fetched, self._fetched, self._fetched_rows = self._fetched, [], 0
        self._handed = [each.page for each in fetched if each.page is not None]
        parts = Parts([each.part for each in fetched], self._source.item_type, self._source.lead)
        return Batch(self.schema, parts, self._handed)


class WalkFrames:
    """A walk whose rows are available as Arrow batches, or all together as a data frame."""

    __slots__ = ()

    def part_source(self) -> PartSource:
        """Begin a walk."""
        raise NotImplementedError

    def show_progress(self, wanted: bool | None) -> AbstractContextManager[Progress | None]:
        """Show how far a walk is for the duration of a block; the line is None if it is not ``wanted``."""
        raise NotImplementedError

    def check_whole(self) -> None:
        """:raises UsageError: this walk cannot be taken as a whole."""

    def arrow_batches(self, rows: int = BATCH_ROWS, columns: Columns = None) -> Batches:
        """Iterate over the rows as Arrow batches, in memory that does not grow with the walk.

            async for batch in truto.interactions.list(account_id).arrow_batches():
                writer.write_batch(pyarrow.record_batch(batch))

        A batch is closed by the page that brings it to ``rows``, so it can have more. All batches of a walk have one
        schema; ``columns`` picks columns or leaves some out. A walk without rows has no batches.

        In a pull, asking for the next batch marks the pages of the one before as done; under ``commit="manual"``,
        ``await batch.commit()`` does.

        :raises UsageError: there is no such column, or ``rows`` is less than 1.
        """
        return Batches(self.part_source(), rows, columns)

    async def to_polars(self, columns: Columns = None, *, progress: bool | None = None) -> polars.DataFrame:
        """Fetch all rows and return a polars data frame. Needs ``truto-ci-async[polars]``.

        Columns and types are those of ``Page.to_polars``, without rows too. ``progress`` shows a line that says how far
        it is: None in a notebook only, True always, False never. An error on the way raises, and nothing of
        the walk is returned; a pull marks its pages as done at the end.

        :raises UsageError: there is no such column.
        :raises MissingExtraError: polars is not installed.
        """
        library, arrow = frame_library("polars"), arrow_library("polars")
        schema, batches = await self._read(columns, lambda data: record_batch(data, arrow), progress)
        frame: polars.DataFrame = library.DataFrame(table(schema, batches, arrow))
        return frame

    async def to_pandas(self, columns: Columns = None, *, progress: bool | None = None) -> pandas.DataFrame:
        """Fetch all rows and return a pandas data frame, of pandas 2 or 3, with the types of ``Page.to_pandas``.

        Otherwise as ``to_polars``.
        """
        frame_library("pandas")
        schema, batches = await self._read(columns, lambda data: data, progress)
        return pandas_frame(batches or [ColumnData(schema, [()] * len(schema), 0)])

    async def to_arrow(self, columns: Columns = None, *, progress: bool | None = None) -> Any:
        """Fetch all rows and return a pyarrow table. Needs pyarrow. Otherwise as ``to_polars``."""
        arrow = pyarrow_library()
        schema, batches = await self._read(columns, lambda data: record_batch(data, arrow), progress)
        return table(schema, batches, arrow)

    async def to_duckdb(
        self, con: Any, table: str, columns: Columns = None, *, progress: bool | None = None
    ) -> int:
        """Append all rows to a table of a DuckDB connection, which is created if it does not exist; return their
        number.

            rows = await truto.interactions.list(account_id).to_duckdb(duckdb.connect("calls.db"), "interactions")

        Rows are inserted batch by batch, so that memory does not grow with the walk, and those before an error stay.
        Between ``con.begin()`` and ``con.commit()``, all of them are inserted or none. Columns are matched by name.

        :raises UsageError: there is no such column.
        :raises MissingExtraError: duckdb, or arro3-core, is not installed.
        """
        frame_library("duckdb")
        self.check_whole()
        batches = self.arrow_batches(columns=columns)
        append = append_to_duckdb(con, table, batches.schema, arrow_library("duckdb"))
        rows = 0
        with self.show_progress(progress) as line:
            async for batch in batches:
                rows += append(batch)
                if line is not None:
                    line.add(batch.num_rows, len(batch.pages))
        return rows

    async def _read(
        self, columns: Columns, convert: Callable[[ColumnData], Any], progress: bool | None
    ) -> tuple[Schema, list[Any]]:
        """Fetch all rows, and convert them batch by batch so that the items can be freed."""
        self.check_whole()
        with self.show_progress(progress) as line:
            return await self._read_all(columns, convert, line)

    async def _read_all(
        self, columns: Columns, convert: Callable[[ColumnData], Any], line: Progress | None
    ) -> tuple[Schema, list[Any]]:
        source = self.part_source()
        kept: list[Part] = []
        pages: list[Any] = []
        converted: list[Any] = []
        is_fixed = is_typed(source.item_type)
        schema = fixed_schema(source.item_type, source.lead, columns if is_fixed else None)
        rows = 0
        while (found := await source.next_part()) is not None:
            kept.append(found.part)
            pages.append(found.page)
            rows += len(found.part.items)
            if line is not None:
                line.add(len(found.part.items))
            if is_fixed and rows >= BATCH_ROWS:
                converted.append(convert(fixed_columns(schema, Parts(kept, source.item_type, source.lead))))
                kept, rows = [], 0
        if is_fixed and rows:
            converted.append(convert(fixed_columns(schema, Parts(kept, source.item_type, source.lead))))
        elif not is_fixed:
            data = columns_of(Parts(kept, source.item_type, source.lead), columns)
            schema, converted = data.schema, [convert(data)] if data.num_rows else []
        source.release(pages)
        return schema, converted


# The name under which a statement finds the rows.
_VIEW = "truto_ci_async_batch"


def append_to_duckdb(con: Any, table: str, schema: Schema, arrow: ArrowLibrary) -> Callable[[Any], int]:
    """Make a table unless it is there. Return what appends a batch to it, and returns the number of rows."""
    name = ".".join(f'"{part}"' for part in table.replace('"', '""').split("."))
    empty = arrow.table.from_batches([], schema=arrow_schema(schema, arrow))
    _run_duckdb(con, f"CREATE TABLE IF NOT EXISTS {name} AS FROM {_VIEW}", empty)

    def append(batch: Any) -> int:
        _run_duckdb(con, f"INSERT INTO {name} BY NAME FROM {_VIEW}", batch)
        return int(batch.num_rows)

    return append


def _run_duckdb(con: Any, statement: str, rows: Any) -> None:
    con.register(_VIEW, rows)
    try:
        con.execute(statement)
    finally:
        con.unregister(_VIEW)

"""Pages and lists of items as data frames: what ``Page`` and ``AccountPage`` share, and functions for lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, cast

from truto_ci_async.errors import MissingExtraError, UsageError

from .arrow import arrow_library, microseconds, pyarrow_library, table_of
from .column_values import ColumnData, Part, Parts, columns_of
from .schema import Columns, ColumnType

if TYPE_CHECKING:
    import pandas
    import polars


class Frames:
    """An object whose rows are in memory. Anything that reads Arrow can read it, any number of times.

    polars.DataFrame(page)
    pyarrow.table(page)
    pandas.DataFrame.from_arrow(page)  # pandas 3
    duckdb.sql("from page")
    narwhals.from_arrow(page, backend="polars")
    """

    __slots__ = ()

    def parts(self) -> Parts:
        """Return the items, with the values that their rows start with."""
        raise NotImplementedError

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the rows as an Arrow stream, for readers of Arrow. Needs ``truto-ci-async[arrow]``.

        :raises MissingExtraError: neither arro3-core nor pyarrow is installed.
        """
        return _arrow_table(columns_of(self.parts())).__arrow_c_stream__(requested_schema)

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        """:raises UsageError: always; numpy and ``pandas.DataFrame`` would show one column of objects."""
        raise UsageError(
            "this is not an array: use .to_pandas() for a data frame, .items for an array of objects"
        )

    def to_polars(self, columns: Columns = None) -> polars.DataFrame:
        """Return a polars data frame. Needs ``truto-ci-async[polars]``.

            page.to_polars().group_by("user_email").agg(polars.col("patience").mean())

        ``columns`` picks columns or leaves some out; see ``Interaction.row``. Types are those of
        ``truto_ci_async.schema(Interaction)``. Dicts have a column for each key; nested values become JSON text.

        :raises UsageError: there is no such column.
        :raises MissingExtraError: polars is not installed.
        """
        return to_polars(self, columns)

    def to_pandas(self, columns: Columns = None) -> pandas.DataFrame:
        """Return a pandas data frame, of pandas 2 or 3. Needs ``truto-ci-async[pandas]``, but not pyarrow.

        Metrics are ``float64``, counts ``Int64``, times ``datetime64[us, UTC]``, and text is ``str`` (``object`` with
        pandas 2). Otherwise as ``to_polars``.
        """
        return to_pandas(self, columns)

    def to_arrow(self, columns: Columns = None) -> Any:
        """Return a pyarrow table. Needs ``truto-ci-async[parquet]``, which has pyarrow. Otherwise as ``to_polars``."""
        return to_arrow(self, columns)


def to_polars(items: Iterable[Any] | Frames, columns: Columns = None) -> polars.DataFrame:
    """Return items, a page, or a list of pages as a polars data frame; see ``Page.to_polars``.

        people = await truto.interactions.list(account_id).collect()
        truto_ci_async.to_polars(people, columns=["user_email", "additional_metrics.*"])

    An empty list has no columns; an empty page has all of them.
    """
    library = frame_library("polars")
    frame: polars.DataFrame = library.DataFrame(_arrow_table(columns_of(parts_of(items), columns), "polars"))
    return frame


def to_pandas(items: Iterable[Any] | Frames, columns: Columns = None) -> pandas.DataFrame:
    """Return items, a page, or a list of pages as a pandas data frame; see ``Page.to_pandas``."""
    return pandas_frame([columns_of(parts_of(items), columns)])


def to_arrow(items: Iterable[Any] | Frames, columns: Columns = None) -> Any:
    """Return items, a page, or a list of pages as a pyarrow table; see ``Page.to_arrow``."""
    library = pyarrow_library()
    return table_of(columns_of(parts_of(items), columns), library)


def parts_of(items: Iterable[Any] | Frames) -> Parts:
    """Return what a caller passes as items: a page, pages, or items of any kind."""
    if isinstance(items, Frames):
        return items.parts()
    kind: type = type(items)
    if issubclass(kind, (str, bytes, dict)) or not issubclass(kind, Iterable):
        raise UsageError(
            f"pass a list of items, a page or a list of pages, not a {kind.__name__}; "
            "for a walk, write `await walk.to_polars()`"
        )
    listed = list(items)
    if not any(isinstance(each, Frames) for each in listed):
        return Parts([Part(listed)])
    if not all(isinstance(each, Frames) for each in listed):
        raise UsageError("pass a list of items or a list of pages, not of both")
    return joined([page.parts() for page in cast("Sequence[Frames]", listed)])


def joined(found: Sequence[Parts]) -> Parts:
    """Join the parts of several pages.

    :raises UsageError: some belong to a pull and others do not.
    """
    first = found[0]
    if any((each.lead is None) != (first.lead is None) for each in found):
        raise UsageError("pass pages of lists or pages of pulls, not both: only the latter have an account")
    return Parts([part for each in found for part in each.parts], first.item_type, first.lead)


def frame_library(name: str) -> Any:
    """Import polars, pandas or duckdb.

    :raises MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError(name, name) from None


def _arrow_table(data: ColumnData, extra: str = "arrow") -> Any:
    return table_of(data, arrow_library(extra))


# --- pandas ----------------------------------------------------------------------------------------------------

_NOT_A_TIME = -(2**63)


def pandas_frame(batches: Sequence[ColumnData]) -> pandas.DataFrame:
    """Return batches of one schema, at least one, as a pandas data frame.

    :raises MissingExtraError: pandas is not installed.
    """
    library = frame_library("pandas")
    series: dict[str, Any] = {}
    for at, (name, type) in enumerate(batches[0].schema.types.items()):
        values = (
            [value for batch in batches for value in batch.values[at]]
            if len(batches) > 1
            else batches[0].values[at]
        )
        series[name] = _series(library, type, values)
    frame: pandas.DataFrame = library.DataFrame(
        series, index=library.RangeIndex(sum(batch.num_rows for batch in batches))
    )
    return frame


def _series(library: Any, type: ColumnType, values: Sequence[Any]) -> Any:
    match type:
        case "float64":
            return library.Series(values, dtype="float64")
        case "int64":
            return library.Series(library.array(values, dtype="Int64"))
        case "bool":
            return library.Series(library.array(values, dtype="boolean"))
        case "timestamp":
            numpy: Any = import_module("numpy")
            whole = [_NOT_A_TIME if each is None else each for each in microseconds(values)]
            times = numpy.array(whole, dtype="int64").view("datetime64[us]")
            return library.Series(times).dt.tz_localize("UTC")
        case "text" | "json":
            # Older versions turn None into the text "None" under ``str``.
            has_text = int(library.__version__.split(".")[0]) >= 3
            return library.Series(values, dtype="str" if has_text else "object")

"""Fills the names of people: interactions and activity of Gong carry ids without names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from msgspec.structs import replace

from truto_ci_async.errors import UsageError

from .person import Person

if TYPE_CHECKING:
    import pandas
    import polars

T = TypeVar("T")


@overload
def with_names(  # type: ignore[overload-overlap]  # frames are iterables too
    items: polars.DataFrame, directory: Mapping[str, Person]
) -> polars.DataFrame: ...
@overload
def with_names(  # type: ignore[overload-overlap]
    items: pandas.DataFrame, directory: Mapping[str, Person]
) -> pandas.DataFrame: ...
@overload
def with_names(items: Iterable[T], directory: Mapping[str, Person]) -> list[T]: ...
def with_names(items: Any, directory: Mapping[str, Person]) -> Any:
    """Return interactions or activity whose ``user`` has the name and the emails that ``directory`` knows.

        directory = await truto.users.directory(account_id)
        people = await truto.interactions.list(account_id, start_time="-30d").collect()
        truto_ci_async.to_polars(truto_ci_async.with_names(people, directory))

    What an item says itself stays. Items of users that are not in the directory, and items without a ``user``, such as
    dicts, are returned as they are. A page has a method of this name.

    Of a polars or pandas data frame with a column ``user_id``, a copy is returned whose ``user_name`` and
    ``user_email`` are filled in the same way. Ids belong to one account, and so does a directory.

    :raises UsageError: a data frame of another kind, or without ``user_id``.
    """
    if hasattr(items, "__dataframe__") or hasattr(items, "columns"):
        return _named_frame(items, directory)
    return [_named(item, directory) for item in items]


def _named_frame(frame: Any, directory: Mapping[str, Person]) -> Any:
    library = type(frame).__module__.partition(".")[0]
    if library not in ("polars", "pandas") or "user_id" not in frame.columns:
        raise UsageError(
            "names are filled in polars and pandas data frames with a column user_id, and before any other frame is "
            "made: page.with_names(directory).to_arrow(), or to_arrow(with_names(items, directory))"
        )
    known = [directory.get(each) for each in _texts(frame["user_id"])]
    filled = {
        column: [
            mine or (person and getattr(person, field))
            for mine, person in zip(_texts(frame[column]), known, strict=True)
        ]
        for column, field in (("user_name", "name"), ("user_email", "email"))
        if column in frame.columns
    }
    if library == "pandas":
        return frame.assign(**filled)
    series: Any = import_module("polars").Series
    return frame.with_columns(
        [series(name, values, dtype=frame[name].dtype) for name, values in filled.items()]
    )


def _texts(column: Any) -> Sequence[Any]:
    """Return the values of a column that are text; pandas has NaN for what is missing."""
    return [each if isinstance(each, str) else None for each in cast("list[Any]", column.to_list())]


def _named(item: Any, directory: Mapping[str, Person]) -> Any:
    person = getattr(item, "user", None)
    if not isinstance(person, Person) or person.id is None:
        return item
    known = directory.get(person.id)
    if known is None or (person.name and person.emails):
        return item
    named = replace(person, name=person.name or known.name, emails=person.emails or known.emails)
    return replace(item, user=named)

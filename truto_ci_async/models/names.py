"""Fills the names of people: interactions and activity of Gong carry ids without names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from msgspec.structs import replace

from truto_ci_async.errors import UsageError

from .person import Person

T = TypeVar("T")


def with_names(items: Iterable[T], directory: Mapping[str, Person]) -> list[T]:
    """Return interactions or activity whose ``user`` has the name and the emails that ``directory`` knows.

        directory = await truto.users.directory(account_id)
        people = await truto.interactions.list(account_id, start_time="-30d").collect()
        truto_ci_async.to_polars(truto_ci_async.with_names(people, directory))

    What an item says itself stays. Items of users that are not in the directory, and items without a ``user``, such as
    dicts, are returned as they are. A page has a method of this name.

    :raises UsageError: ``items`` is a data frame.
    """
    if hasattr(items, "__dataframe__") or hasattr(items, "columns"):
        raise UsageError(
            "names are filled before the data frame is made: page.with_names(directory).to_polars(), or "
            "to_polars(with_names(items, directory))"
        )
    return [_named(item, directory) for item in items]


def _named(item: Any, directory: Mapping[str, Person]) -> Any:
    person = getattr(item, "user", None)
    if not isinstance(person, Person) or person.id is None:
        return item
    known = directory.get(person.id)
    if known is None or (person.name and person.emails):
        return item
    named = replace(person, name=person.name or known.name, emails=person.emails or known.emails)
    return replace(item, user=named)

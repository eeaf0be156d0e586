"""The table of a store: its columns, how one that is there differs from them, and which rows replace others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from truto_ci_async.errors import StateConflictError, UsageError
from truto_ci_async.export.column_values import fixed_schema
from truto_ci_async.export.schema import ColumnType, Schema
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.models.row_views import PULL_SCHEMA


class MergeKey(Struct, frozen=True):
    """What makes two rows the same: equal columns of ``same``, and an equal first one of ``ids`` that is not null.

    A row whose ``ids`` are all null is the same as no other.
    """

    same: tuple[str, ...]
    ids: tuple[str, ...]

    def id_sql(self, row: str = "") -> str:
        """Return the id as an expression, of a table by the name of ``row``."""
        columns = ", ".join(f'{row}{"." if row else ""}"{name}"' for name in self.ids)
        return f"coalesce({columns})" if len(self.ids) > 1 else columns

    def condition(self, old: str, new: str, *, equals: str = "IS NOT DISTINCT FROM") -> str:
        """Return the SQL condition for a row of ``old`` that one of ``new`` replaces.

        ``equals`` compares what may be null, such as a window.
        """
        account, *others = self.same
        found = [
            f'{old}."{account}" = {new}."{account}"',
            f"{self.id_sql(old)} = {self.id_sql(new)}",
            *(f'{old}."{name}" {equals} {new}."{name}"' for name in others),
            *(f'({old}."{name}" IS NULL) = ({new}."{name}" IS NULL)' for name in self.ids[:-1]),
        ]
        return " AND ".join(found)

    def last_ones(self, names: Sequence[str], values: Sequence[Sequence[object]]) -> list[int] | None:
        """Return the indexes of the rows that no later one replaces; None if that is all of them."""
        columns = dict(zip(names, values, strict=True))
        ids = list(zip(*(columns[name] for name in self.ids), strict=True))
        same = zip(*(columns[name] for name in self.same), strict=True)
        last: dict[object, int] = {}
        for index, (key, row_ids) in enumerate(zip(same, ids, strict=True)):
            at = next((at for at, value in enumerate(row_ids) if value is not None), None)
            last[index if at is None else (key, at, row_ids[at])] = index
        return None if len(last) == len(ids) else sorted(last.values())


_ACCOUNT: Final = "integrated_account_id"
_OF_WINDOW: Final = MergeKey((_ACCOUNT, "window_start", "window_end"), ("id", "user_id"))
_OF_ACCOUNT: Final = MergeKey((_ACCOUNT,), ("id",))
MERGE_KEYS: Final[dict[str, MergeKey]] = {
    "interactions": _OF_WINDOW,
    "activity": _OF_WINDOW,
    "meetings": _OF_ACCOUNT,
    "users": _OF_ACCOUNT,
    "transcripts": MergeKey((_ACCOUNT,), ("meeting_id",)),
}


def reach_sql(resource: str, old: str, read: str) -> str:
    """Return the SQL condition for a row of ``old`` that belongs to a window of ``read``, which has a start and an end.

    Of rows that are counts of a window, those that count some of the same time do. A meeting belongs to the window it
    starts in; a walk over several windows may have brought it.
    """
    overlaps = f'{old}.window_start < {read}."end" AND {old}.window_end > {read}."start"'
    is_inside = f'{old}.window_start >= {read}."start" AND {old}.window_end <= {read}."end"'
    if resource == "users":
        return "true"
    if resource == "transcripts":
        return f"{overlaps} AND {is_inside}"
    if resource == "meetings":
        starts = f'{old}.start_time >= {read}."start" AND {old}.start_time < {read}."end"'
        return f"{overlaps} AND ({starts} OR {old}.start_time IS NULL AND {is_inside})"
    return overlaps


def columns_of(resource: str) -> Schema:
    """Return the columns of the table for a resource: those of the pull, then its own.

    :raises UsageError: there is no such resource.
    """
    if resource not in ITEM_TYPES:
        raise UsageError(f"there is no pull of {resource!r}: the resources are {', '.join(ITEM_TYPES)}")
    return fixed_schema(ITEM_TYPES[resource], PULL_SCHEMA)


class FoundColumn(Struct, frozen=True):
    """A column of a table that is there. ``is_needed``: it takes no null and has no default."""

    name: str
    type: str
    is_needed: bool = False


def missing_columns(
    schema: Schema,
    found: Iterable[FoundColumn],
    *,
    table: str,
    types: Mapping[ColumnType, str],
    fits: Callable[[ColumnType, str], bool],
    add_columns: bool,
) -> list[str]:
    """Return the names of the columns to add to a table, which may be none.

    :raises StateConflictError: the table does not fit; the message says how, column by column.
    """
    there = {column.name: column for column in found}
    missing = [name for name in schema.names if name not in there]
    differing = [
        f"{column.name} is {there[column.name].type}, not {types[column.type]}"
        for column in schema
        if column.name in there and not fits(column.type, there[column.name].type)
    ]
    differing += [
        f"{column.name} takes no null and has no default, and a pull has no such column"
        for column in there.values()
        if column.is_needed and column.name not in schema.types
    ]
    if not add_columns:
        differing += [
            f"{name} ({types[schema.types[name]]}) is missing: add it, or pass add_columns=True"
            for name in missing
        ]
    if differing:
        raise StateConflictError(
            f"the table {table} does not fit {schema.name}:\n  " + "\n  ".join(differing), path=table
        )
    return missing


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'

"""The rows behind charts: columns of any kind of data, and the person and the window of each row."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from importlib import import_module
from math import isfinite, nan
from typing import Any, TypeAlias, cast

from truto_ci_async._checks import plain
from truto_ci_async._text import printable
from truto_ci_async.errors import UsageError
from truto_ci_async.export.column_values import columns_of
from truto_ci_async.export.frames import Frames, parts_of
from truto_ci_async.models.interactions import INTERACTION_SCHEMA

from .read_folder import Folder, read_folder

#: The account and the id of a person: ids are the provider's, so two accounts can have the same one.
PersonKey: TypeAlias = tuple[str, str]

#: The columns that are metrics.
METRICS: tuple[str, ...] = tuple(column.name for column in INTERACTION_SCHEMA if column.type == "float64")
PERSON_COLUMNS = ("integrated_account_id", "user_id", "user_name", "user_email")
WINDOW_COLUMNS = ("window_start", "start_time")
UNKNOWN_PERSON = "?"

_MAX_NAME = 80
# Sums and differences of smaller numbers stay finite.
_MAX_NUMBER = 1e300


def number(value: object) -> float | None:
    """Return a value as a number that can be drawn; None for anything else, NaN and infinity included."""
    if value is None or isinstance(value, (str, bool)):
        return None
    if isinstance(value, (float, int)):
        return float(value) if -_MAX_NUMBER < value < _MAX_NUMBER else None
    if isinstance(value, Decimal):
        return number(float(value)) if value.is_finite() else None
    found = plain(value)  # NumPy has numbers that are none of Python's
    return None if found is value else number(found)


class Rows:
    """Some columns of data. ``names`` has better names of people than the rows do."""

    def __init__(
        self, columns: Mapping[str, Sequence[Any]], names: Mapping[PersonKey, str] | None = None
    ) -> None:
        self._columns = columns
        self._names = names or {}

    def __getitem__(self, column: str) -> Sequence[Any]:
        return self._columns[column]

    def __contains__(self, column: str) -> bool:
        return column in self._columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def numbers(self, column: str) -> list[float]:
        """Return the numbers of a column; anything else is left out."""
        return [value for value in map(number, self[column]) if value is not None]

    def metric(self, column: str) -> list[float | None]:
        """Return the numbers of a column row by row, and None for anything else.

        :raises UsageError: it has text and not one number, and is no metric that the provider spoilt.
        """
        found = [number(value) for value in self[column]]
        has_text = any(isinstance(value, str) for value in self[column])
        if has_text and column not in METRICS and all(value is None for value in found):
            raise UsageError(f"the column {column} has text, not numbers: name a metric, such as patience")
        return found

    @cached_property
    def people(self) -> list[str]:
        """A name for the person of each row; of people who share one, their ids are a part of it."""
        labels: dict[tuple[str, ...], str] = {}
        keys: list[tuple[str, ...]] = []
        for account, user, name, email in zip(*map(self._texts, PERSON_COLUMNS), strict=True):
            key = (account, user) if user else (account, "", name, email)
            keys.append(key)
            if key not in labels:
                best = self._names.get((account, user)) or name or email or user or UNKNOWN_PERSON
                labels[key] = printable(best[:_MAX_NAME])
        for detail in (1, 0):  # the user's id, then the account's
            shared = Counter(labels.values())
            labels = {
                key: f"{label} ({printable(key[detail][:_MAX_NAME])})"
                if shared[label] > 1 and key[detail]
                else label
                for key, label in labels.items()
            }
        return [labels[key] for key in keys]

    @cached_property
    def windows(self) -> list[str]:
        """The start of each row's window as text, empty if there is none."""
        name = next((name for name in WINDOW_COLUMNS if name in self), None)
        return [""] * len(self) if name is None else self._texts(name)

    def _texts(self, column: str) -> list[str]:
        if column not in self:
            return [""] * len(self)
        return [text_of(value) for value in self[column]]


def text_of(value: object) -> str:
    """Return a value as text, empty if it is missing, in whatever way a library marks that."""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        text = value.isoformat(timespec="minutes")
        return "" if text == "NaT" else text
    if isinstance(value, float):
        return f"{value:g}" if isfinite(value) else ""
    return str(value) if isinstance(value, (int, date)) else ""


def rows_of(data: Any, *needed: str, optional: Iterable[str] = ()) -> Rows:
    """Return columns of any data; those of ``optional`` that are not there are left out.

    :raises UsageError: there is no such column, or the data is of no known kind.
    """
    if isinstance(data, (str, os.PathLike)):
        data = read_folder(cast("str | os.PathLike[str]", data))
    wanted = tuple(dict.fromkeys((*needed, *optional)))
    if isinstance(data, Rows):
        return data
    if isinstance(data, Folder):
        _check(needed, data.schema.names)
        return read_rows(data, [name for name in wanted if name in data.schema.names])
    if isinstance(data, (Frames, list, tuple)):
        table = columns_of(parts_of(cast("Any", data)))
        _check(needed, table.schema.names if table.num_rows else needed)
        found = dict(zip(table.schema.names, table.values, strict=True))
        return Rows({name: found.get(name, ()) for name in wanted if name in found or not table.num_rows})
    return _frame_rows(data, needed, wanted)


def _frame_rows(data: Any, needed: Sequence[str], wanted: Iterable[str]) -> Rows:
    try:
        frame: Any = import_module("narwhals").from_native(data)  # comes with altair
    except TypeError:
        raise UsageError(
            "pass a data frame, a page, a list of items, or the path of a pull's folder, "
            f"not a {type(data).__name__}; for a walk, write `await walk.collect()`"
        ) from None
    if hasattr(frame, "collect"):
        frame = frame.collect()
    known: list[str] = frame.columns
    _check(needed, known)
    return Rows({name: frame[name].to_list() for name in wanted if name in known})


def _check(needed: Iterable[str], known: Sequence[str]) -> None:
    if missing := [name for name in needed if name not in known]:
        raise UsageError(f"there is no column {', '.join(missing)}; there are {', '.join(map(str, known))}")


def read_rows(folder: Folder, names: Sequence[str], people: Mapping[PersonKey, str] | None = None) -> Rows:
    """Read columns of a folder, in little more memory than their numbers and distinct texts need."""
    schema = folder.schema.select(names)
    is_number = [column.type == "float64" for column in schema]
    columns: list[Any] = [array("d") if each else [] for each in is_number]
    known: list[dict[Any, Any]] = [{} for _ in columns]
    for batch in folder.batches(names):
        for column, numeric, seen, values in zip(columns, is_number, known, batch.values, strict=True):
            if numeric:
                column.extend(nan if value is None else value for value in values)
            else:
                column.extend(seen.setdefault(value, value) for value in values)
    return Rows(dict(zip(schema.names, columns, strict=True)), people)

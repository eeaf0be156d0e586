"""Tells which rows began in the window that was asked for.

Which providers ignore the window of a list of meetings is not documented, and neither are the names of its parameters.
So the rows themselves are looked at. The schema that a provider's ``meta`` gives is not used: it takes a request for
each account, and says what is accepted, not what has an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias, cast

import msgspec
from msgspec import Raw

from truto_ci_async._wire.lenient_times import read_datetime
from truto_ci_async._wire.times import resolve_time
from truto_ci_async.models.pulls import Window

from .row_fingerprints import views_of

Bounds: TypeAlias = "tuple[datetime | None, datetime | None]"

_NOW = datetime(1970, 1, 1, tzinfo=UTC)  # a plan has no relative times, so the clock does not matter


@lru_cache(maxsize=1024)
def bounds_of(window: Window) -> Bounds:
    """Return the bounds of a window of a plan; None for a side without a bound."""
    start, end = (
        None if each is None else resolve_time(each, "", _NOW).at for each in (window.start, window.end)
    )
    return start, end


def split_by_window(items: Sequence[Any], bounds: Bounds) -> tuple[list[int], bool]:
    """Return the indexes of the items to keep, and whether all of them are known to have begun in the window.

    An item whose start is missing or unreadable is kept.
    """
    start, end = bounds
    if start is None and end is None:
        return list(range(len(items))), True
    kept: list[int] = []
    is_known = True
    for index, moment in enumerate(map(_moment, _starts(items))):
        if moment is None:
            is_known = False
        elif (start is not None and moment < start) or (end is not None and moment >= end):
            is_known = False
            continue
        kept.append(index)
    return kept, is_known


def _starts(items: Sequence[Any]) -> list[Any]:
    if items and type(items[0]) is Raw:
        return [None if view is None else view.start_time for view in views_of(items)]
    return [
        cast("Mapping[str, Any]", item).get("start_time")
        if isinstance(item, Mapping)
        else getattr(item, "start_time", None)
        for item in items
    ]


def _moment(value: object) -> datetime | None:
    """Read a start as the structs do, leniently."""
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if value is None or isinstance(value, bool):
        return None
    try:
        found = read_datetime(msgspec.json.encode(value))
    except (ValueError, TypeError, OverflowError):
        return None
    return None if found is None else found[0]

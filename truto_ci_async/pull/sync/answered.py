"""Compares the windows that a provider answered with those that it was asked for.

Gong answers whole days of the company. A day of another time zone is then answered with a day that begins some hours
earlier or later, and one of another length with an overlap or a gap. Rows of interactions and activity say what they
cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from truto_ci_async.export.schema import to_utc
from truto_ci_async.models.pulls import Window

from .windows import Span


class Answered(NamedTuple):
    """The time that a row covers, and the time zone that it names."""

    span: Span
    time_zone: str | None


def answered_of(items: Sequence[Any]) -> Answered | None:
    """Return what the rows of a window cover, by the first one that says so."""
    for item in items:
        start, end = getattr(item, "start_time", None), getattr(item, "end_time", None)
        if isinstance(start, datetime) and isinstance(end, datetime) and start < end:
            span = Span(start.astimezone(UTC), end.astimezone(UTC))  # mutant: the same moments
            return Answered(span, getattr(item, "timezone", None))
    return None


class Misalignment(NamedTuple):
    """How a window answered differs from the one asked."""

    text: str
    time_zone: str | None


def misalignment(window: Window, items: Sequence[Any]) -> Misalignment | None:
    """Compare what the rows of a page cover with the window that was asked; None if it is the same."""
    answered = answered_of(items)
    start, end = (None if each is None else to_utc(each) for each in (window.start, window.end))
    if answered is None or start is None or end is None:
        return None
    found = answered.span
    differences = (
        (start - found.start, "{} before it are counted as well"),
        (found.start - start, "{} at its start are missing"),
        (found.end - end, "{} after it are counted as well"),
        (end - found.end, "{} at its end are missing"),
    )
    parts = [text.format(_length(time)) for time, text in differences if time > timedelta()]
    if not parts:
        return None
    where = f" ({answered.time_zone})" if answered.time_zone else ""
    asked = _text(Span(start, end))
    return Misalignment(
        f"asked for {asked}, answered{where} for {_text(found)}: {', and '.join(parts)}", answered.time_zone
    )


def _text(span: Span) -> str:
    return " to ".join(each.isoformat().replace("+00:00", "Z") for each in span)


def _length(time: timedelta) -> str:
    hours, rest = divmod(time, timedelta(hours=1))
    return f"{hours} h {rest.seconds // 60} min" if rest else f"{hours} h"

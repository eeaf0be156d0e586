"""The rule of a sync: which windows are due, given those that are complete. Pure code, without a clock.

Windows lie on a grid: the days, weeks (from Monday) or months of a time zone. A window is complete once it was over and
then read to its end. Complete windows that meet are kept as one span, so that a year of days takes as much room as one.

Due are windows that are not complete, and those that ended less than the look-back before the latest complete one did.
The look-back counts from there and not from now: after five nights of failures, what came late before those is asked
for as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

GridUnit: TypeAlias = Literal["day", "week", "month"]
UNITS: Final = ("day", "week", "month")


class Span(NamedTuple):
    """A time from ``start`` to ``end``, which is not part of it; both in UTC."""

    start: datetime
    end: datetime


#: Spans in order, with gaps between them.
Spans: TypeAlias = tuple[Span, ...]


class Due(NamedTuple):
    """A window to ask. ``is_over``: it was over when this was found, so once it is read it is complete."""

    span: Span
    is_over: bool


class Grid(Struct, frozen=True):
    """The days, weeks or months of a time zone. They have 23 or 25 hours where the clocks are changed."""

    unit: GridUnit
    zone: tzinfo

    def __str__(self) -> str:
        return f"{self.unit} {self.zone}"

    def windows(self, start: datetime, end: datetime) -> Iterator[Span]:
        """Generate the windows that have some time in common with ``start`` to ``end``, oldest first."""
        day = self._first(start.astimezone(self.zone).date())
        try:
            at = self._midnight(day)
            while at < end:
                day = self._next(day)
                following = self._midnight(day)
                if following > max(at, start):  # a day that a time zone skipped has no time at all
                    yield Span(at, following)
                at = max(at, following)
        except (OverflowError, ValueError):  # the end of the calendar
            return

    def _first(self, day: date) -> date:
        if self.unit == "month":
            return day.replace(day=1)
        days = day.weekday() if self.unit == "week" else 0  # mutant: what ended before is left out
        return day - timedelta(days=days)

    def _next(self, day: date) -> date:
        if self.unit == "month":
            return date(day.year + day.month // 12, day.month % 12 + 1, 1)
        return day + timedelta(days=7 if self.unit == "week" else 1)

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(UTC)  # mutant: the same moment


def add(spans: Sequence[Span], new: Span) -> Spans:
    """Return ``spans`` with one more, joined to those that it meets."""
    start, end = new
    kept: list[Span] = []
    for each in spans:
        if each.end < start or each.start > end:
            kept.append(each)
        else:
            start, end = min(start, each.start), max(end, each.end)
    return tuple(sorted([*kept, Span(start, end)]))


def covers(spans: Sequence[Span], asked: Span) -> bool:
    """Tell whether all of ``asked`` is in one of the spans."""
    return any(each.start <= asked.start and asked.end <= each.end for each in spans)


def due(
    complete: Spans,
    *,
    grid: Grid,
    now: datetime,
    lookback: timedelta,
    earliest: datetime,
    known_from: datetime | None = None,
    asks_current: bool,
) -> list[Due]:
    """Return the windows to ask, oldest first.

    ``earliest``      where the history of a new account begins.
    ``known_from``    where that of this account began: it never gets shorter, or there would be gaps.
    ``asks_current``  ask for the window that is not over as well, up to ``now``.
    """
    known_from = complete[0].start if complete and known_from is None else known_from
    start = earliest if known_from is None else min(earliest, known_from)
    look_from = complete[-1].end - lookback if complete else start
    found: list[Due] = []
    for window in grid.windows(start, now):
        if window.end > now:
            if asks_current:
                found.append(Due(Span(window.start, now), is_over=False))
        elif window.end > look_from or not covers(complete, window):
            found.append(Due(window, is_over=True))
    return found

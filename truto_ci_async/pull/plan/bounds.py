"""Resolves the start and end of a plan, and cuts the time between them into windows."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from typing import Any, Literal, TypeAlias, cast

from truto_ci_async._checks import brief, plain
from truto_ci_async._wire.times import ResolvedTime, When, length_text, plain_timedelta, resolve_time
from truto_ci_async.errors import UsageError
from truto_ci_async.models.pulls import Window

WindowLength: TypeAlias = Literal["day", "week", "month"] | timedelta

#: More windows than this are almost certainly a mistake, such as a window of seconds over a year.
MAX_WINDOWS = 100_000


def resolve_windows(
    start_time: When | None, end_time: When | None, window: WindowLength | None, now: datetime
) -> tuple[dict[str, Any], tuple[Window, ...]]:
    """Return the bounds as they were given, for ``Plan.given``, and the windows between them.

    :raises UsageError: the end is not after the start, or there would be windows without a start, or too many.
    """
    start = None if start_time is None else resolve_time(start_time, "start_time", now)
    if end_time is None and start is not None:
        end_time = "now"
    end = None if end_time is None else resolve_time(end_time, "end_time", now)
    given: dict[str, Any] = {}
    if start is not None:
        given["start_time"] = start.given
    if end is not None and end.given != "now":
        given["end_time"] = end.given
    if start is not None and end is not None and _utc(end.at) <= _utc(start.at):
        raise UsageError(
            f"end_time={end.text} is not after start_time={start.text}; windows are [start, end)"
        )
    if window is None:
        return given, (Window(start.text if start else None, end.text if end else None),)
    length = _window_length(window)
    given["window"] = length if isinstance(length, str) else length_text(length).removeprefix("+")
    if start is None or end is None:
        raise UsageError("window=... needs a start_time to count from")
    return given, tuple(_cut(start, end, length))


def _window_length(window: object) -> WindowLength:
    length: object = plain(window)
    if isinstance(length, timedelta):
        exact = plain_timedelta(length, "window")
        if exact <= timedelta():
            raise UsageError(f"window must be longer than zero, not {brief(window)}")
        return exact
    if isinstance(length, str) and length in ("day", "week", "month"):
        return cast("WindowLength", length)
    raise UsageError(f"window must be 'day', 'week', 'month' or a timedelta, not {brief(window)}")


def _cut(start: ResolvedTime, end: ResolvedTime, window: WindowLength) -> Iterator[Window]:
    last, text, number = _utc(start.at), start.text, 1
    for cut in _cuts(start.at, window):
        if cut >= _utc(end.at):
            break
        if cut <= last:  # a day that a time zone skipped, such as 30 December 2011 in Samoa
            continue
        number += 1
        if number > MAX_WINDOWS:
            raise UsageError(f"window={window!r} cuts this time into more than {MAX_WINDOWS:,} windows")
        next_text = start.write(cut)
        yield Window(text, next_text)
        last, text = cut, next_text
    yield Window(text, end.text)


def _cuts(start: datetime, window: WindowLength) -> Iterator[datetime]:
    """Generate the times in UTC at which windows meet, until the calendar ends."""
    try:
        for number in count(1):
            if isinstance(window, timedelta):
                yield _utc(start) + number * window
            else:
                yield _utc(datetime.combine(_later(start.date(), window, number), time(), start.tzinfo))
    except (OverflowError, ValueError):
        return


def _later(day: date, window: str, number: int) -> date:
    if window != "month":
        return day + timedelta(days=number * (7 if window == "week" else 1))
    years, month = divmod(day.month - 1 + number, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)

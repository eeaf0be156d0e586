"""Resolves the start and end of a plan, and cuts the time between them into windows."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from truto_ci_async._wire.query_string import format_time
from truto_ci_async.errors import UsageError
from truto_ci_async.models.pulls import Window

#: A start or end: a datetime, a date, an offset from now (``timedelta(days=-7)``), or text: ISO 8601, ``now``,
#: ``today``, ``-7d``.
When: TypeAlias = datetime | date | timedelta | str
WindowLength: TypeAlias = Literal["day", "week", "month"] | timedelta

#: More windows than this are almost certainly a mistake, such as a window of seconds over a year.
MAX_WINDOWS = 100_000

_RELATIVE = re.compile(r"(now|today)?(?:([+-])(\d{1,7})([smhdw]))?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class _Bound(Struct, frozen=True):
    """A resolved bound. ``at`` is in the time zone whose midnights count, ``text`` is what the request contains.

    ``given`` identifies what the caller wrote. ``form`` says how times between the bounds are written: with the
    ``offset`` of the text, or in ``utc``.
    """

    at: datetime
    text: str
    given: str
    form: Literal["offset", "utc"] = "utc"

    def write(self, at: datetime) -> str:
        """Write another time in the form of this bound."""
        if self.form == "utc":
            return format_time(at, "window")
        text = at.astimezone(self.at.tzinfo).isoformat()
        return text.removesuffix("+00:00") + "Z" if self.text[-1] in "zZ" else text


def resolve_windows(
    start_time: When | None, end_time: When | None, window: WindowLength | None, now: datetime
) -> tuple[dict[str, Any], tuple[Window, ...]]:
    """Return the bounds as they were given, for ``Plan.given``, and the windows between them.

    :raises UsageError: the end is not after the start, or there would be windows without a start, or too many.
    """
    start = None if start_time is None else _read_bound(start_time, "start_time", now)
    if end_time is None and start is not None:
        end_time = "now"
    end = None if end_time is None else _read_bound(end_time, "end_time", now)
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
    given["window"] = _window_text(window)
    if start is None or end is None:
        raise UsageError("window=... needs a start_time to count from")
    return given, tuple(_cut(start, end, window))


def _window_text(window: object) -> str:
    if isinstance(window, timedelta):
        if window <= timedelta():
            raise UsageError(f"window must be longer than zero, not {window!r}")
        return _offset_text(window).removeprefix("+")
    if isinstance(window, str) and window in ("day", "week", "month"):
        return window
    raise UsageError(f"window must be 'day', 'week', 'month' or a timedelta, not {window!r}")


def _cut(start: _Bound, end: _Bound, window: WindowLength) -> Iterator[Window]:
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


def _read_bound(value: When, name: str, now: datetime) -> _Bound:
    try:
        if isinstance(value, timedelta):
            return _relative(now, "now", value)
        if isinstance(value, str):
            return _read_text(value.strip(), name, now)
        text = format_time(value, name)
        if isinstance(value, datetime):
            return _Bound(value, text, text)
        return _Bound(datetime.combine(value, time(), UTC), text, text)
    except OverflowError as error:
        raise UsageError(f"{name}={value!r} is outside of the calendar (years 1 to 9999)") from error


def _read_text(text: str, name: str, now: datetime) -> _Bound:
    match = _RELATIVE.fullmatch(text)
    if text and match is not None:
        base, sign, amount, unit = match.groups()
        offset = timedelta(seconds=int(amount or 0) * _UNITS[unit or "s"])
        return _relative(now, base or "now", -offset if sign == "-" else offset)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{name}={text!r} is not a time; write it like 2024-01-31, 2024-01-31T08:00:00Z, now, today or -7d"
        ) from None
    if _DATE.fullmatch(text):  # the service refuses a bare date, so send midnight UTC
        midnight = at.replace(tzinfo=UTC)
        return _Bound(midnight, format_time(midnight, name), text)
    if at.utcoffset() is None:
        raise UsageError(f"{name}={text!r} has no time zone; write {text}Z if it is UTC")
    _utc(at)  # raises OverflowError if it has no counterpart in UTC
    return _Bound(at, text, text, "offset")


def _relative(now: datetime, base: str, offset: timedelta) -> _Bound:
    if base == "today":
        now = now.replace(hour=0, minute=0, second=0, fold=0)
    if base == "today" and not offset % timedelta(days=1):
        at = now + offset  # midnight on another day, whatever the clocks did in between
    else:
        at = (_utc(now) + offset).astimezone(now.tzinfo)
    return _Bound(at, format_time(at, "time"), base + _offset_text(offset))


def _offset_text(offset: timedelta) -> str:
    """Write equal offsets equally: ``-1w`` and ``timedelta(days=-7)`` are both ``-7d``."""
    seconds = offset.total_seconds()
    for unit in "dhm":
        if not seconds % _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:+.0f}{unit}" if seconds else ""
    return f"{seconds:+.6f}".rstrip("0").rstrip(".") + "s"

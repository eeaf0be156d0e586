"""Time bounds and windows of a plan."""

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

#: A bound: a moment, a time from now (``timedelta(days=-7)``), or text: ISO 8601, ``now``, ``today``, ``-7d``.
When: TypeAlias = datetime | date | timedelta | str
WindowLength: TypeAlias = Literal["day", "week", "month"] | timedelta


#: More windows than this in one series is a slip of the pen, such as seconds over a year.
MAX_WINDOWS = 100_000


_RELATIVE = re.compile(r"(now|today)?(?:([+-])(\d{1,7})([smhdw]))?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class _Bound(Struct, frozen=True):
    """A bound understood. ``moment`` has the zone whose midnights count; ``text`` is what goes out.

    ``form`` is how cuts are written: with the ``offset`` of the text, or in ``utc``.
    """

    moment: datetime
    text: str
    given: str
    form: Literal["offset", "utc"] = "utc"

    def render(self, moment: datetime) -> str:
        if self.form == "utc":
            return format_time(moment, "window")
        local = moment.astimezone(self.moment.tzinfo)
        text = local.isoformat()
        return text.removesuffix("+00:00") + "Z" if self.text[-1] in "zZ" else text


def resolve_windows(
    start_time: When | None, end_time: When | None, window: WindowLength | None, now: datetime
) -> tuple[dict[str, Any], tuple[Window, ...]]:
    """Return the bounds as they were given, for comparing, and the windows between them.

    :raises UsageError: an end that is not after the start, or windows without a start, without end or too many.
    """
    start = None if start_time is None else _read_bound(start_time, "start_time", now)
    if end_time is None:
        end = None if start is None else _read_bound("now", "end_time", now)
    else:
        end = _read_bound(end_time, "end_time", now)
    given: dict[str, Any] = {}
    if start is not None:
        given["start_time"] = start.given
    if end is not None and end.given != "now":
        given["end_time"] = end.given
    if start is not None and end is not None and _utc(end.moment) <= _utc(start.moment):
        raise UsageError(
            f"end_time={end.text} is not after start_time={start.text}; windows are [start, end)"
        )
    if window is None:
        return given, (Window(start.text if start else None, end.text if end else None),)
    given["window"] = _window_text(window)
    if start is None or end is None:
        raise UsageError("window=... takes a start_time: it cuts the time from there on")
    return given, tuple(_cut(start, end, window))


def _window_text(window: object) -> str:
    if isinstance(window, timedelta):
        if window <= timedelta():
            raise UsageError(f"a window lasts longer than nothing, not {window!r}")
        return _offset_text(window).removeprefix("+")
    if isinstance(window, str) and window in ("day", "week", "month"):
        return window
    raise UsageError(f"window is 'day', 'week', 'month' or a timedelta, not {window!r}")


def _cut(start: _Bound, end: _Bound, window: WindowLength) -> Iterator[Window]:
    last, text, number = _utc(start.moment), start.text, 1
    for cut in _cuts(start.moment, window):
        if cut >= _utc(end.moment):
            break
        if cut <= last:  # a day that a change of zone left out, such as 30 December 2011 in Samoa
            continue
        number += 1
        if number > MAX_WINDOWS:
            raise UsageError(f"window={window!r} makes more than {MAX_WINDOWS:,} windows of this time")
        following = start.render(cut)
        yield Window(text, following)
        last, text = cut, following
    yield Window(text, end.text)


def _cuts(start: datetime, window: WindowLength) -> Iterator[datetime]:
    """Give the moments at which windows meet, in UTC, up to the end of the calendar."""
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


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


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
        raise UsageError(f"{name}={value!r} is beyond the calendar") from error


def _read_text(text: str, name: str, now: datetime) -> _Bound:
    match = _RELATIVE.fullmatch(text)
    if text and match is not None:
        base, sign, amount, unit = match.groups()
        offset = timedelta(seconds=int(amount or 0) * _UNITS[unit or "s"])
        return _relative(now, base or "now", -offset if sign == "-" else offset)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{name}={text!r} is not a time; write it like 2024-01-31, 2024-01-31T08:00:00Z, now, today or -7d"
        ) from None
    if _DATE.fullmatch(text):  # a bare date is refused by the service: it means that day's midnight UTC
        midnight = moment.replace(tzinfo=UTC)
        return _Bound(midnight, format_time(midnight, name), text)
    if moment.utcoffset() is None:
        raise UsageError(f"{name}={text!r} has no time zone; write {text}Z if it is UTC")
    _utc(moment)
    return _Bound(moment, text, text, "offset")


def _relative(now: datetime, base: str, offset: timedelta) -> _Bound:
    if base == "today":
        now = now.replace(hour=0, minute=0, second=0, fold=0)
        moment = (
            now + offset if not offset % timedelta(days=1) else (_utc(now) + offset).astimezone(now.tzinfo)
        )
    else:
        moment = (_utc(now) + offset).astimezone(now.tzinfo)
    return _Bound(moment, format_time(moment, "time"), base + _offset_text(offset))


def _offset_text(offset: timedelta) -> str:
    """Write an offset one way, however it was given: ``-1w`` and ``timedelta(days=-7)`` are both ``-7d``."""
    seconds = offset.total_seconds()
    for unit in "dhm":
        if not seconds % _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:+.0f}{unit}" if seconds else ""
    return f"{seconds:+.6f}".rstrip("0").rstrip(".") + "s"

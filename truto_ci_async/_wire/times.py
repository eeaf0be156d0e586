"""The grammar of times: what a caller may write as the start or end of a window, and the text that is sent for it.

- an aware datetime, sent in UTC; a date, or the text of one (``2024-01-31``): midnight UTC;
- ISO 8601 text with an offset (``2024-01-31T08:00:00+01:00``), sent as it is;
- relative to now: ``now``, ``today`` (midnight), ``-7d``, ``today-12h`` (units s, m, h, d, w), or a timedelta.

Everything else is refused. Lists, plans and the command line all use this module. The clock is passed in, so that all
times of a call are resolved by the same one.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from truto_ci_async._checks import brief, plain
from truto_ci_async.errors import UsageError

#: What a caller may write as a time.
When: TypeAlias = datetime | date | timedelta | str

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LENGTH = r"([0-9]{1,7})([smhdw])"
_RELATIVE = rf"(now|today)?(?:([+-]){_LENGTH})?"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
# ``fromisoformat`` does the rest, but takes any character between date and time, and spaces before the offset.
_DATE_TIME = r"[0-9W-]+[Tt ][0-9:.,]+(?:[Zz]|[+-][0-9:]+)?"
_HOW_TO_WRITE = "write it like 2024-01-31, 2024-01-31T08:00:00Z, now, today or -7d"


class ResolvedTime(Struct, frozen=True):
    """A time of a caller, resolved to a point in time.

    ``at`` is in the time zone whose midnights count, ``text`` is what is sent, and ``given`` identifies what the caller
    wrote: equal for ``-1w`` and ``timedelta(days=-7)``. ``form`` says how other times of the same window are written:
    with the ``offset`` of the text, or in ``utc``.
    """

    at: datetime
    text: str
    given: str
    is_relative: bool = False
    form: Literal["offset", "utc"] = "utc"

    def write(self, at: datetime) -> str:
        """Write another time in the form of this one."""
        if self.form == "utc":
            return _in_utc(at)
        text = at.astimezone(self.at.tzinfo).isoformat()
        return text.removesuffix("+00:00") + "Z" if self.text[-1] in "zZ" else text


def resolve_time(value: When, name: str, now: datetime) -> ResolvedTime:
    """Resolve a time. ``now``, an aware datetime, is where relative times count from, in whole seconds.

    ``today`` starts at midnight in the time zone of ``now``. Messages call the value ``name``, if there is one.

    :raises UsageError: not a time, no time zone, or outside of the calendar; the message says how to write it.
    """
    given: object = plain(value)
    try:
        if isinstance(given, str):
            return _read_text(given.strip(), name, now)
        if isinstance(given, timedelta):
            return _relative(now, "now", plain_timedelta(given, name))
        if isinstance(given, datetime):
            moment = plain_datetime(given, name)
            text = _in_utc(moment)
            return ResolvedTime(moment, text, text)
        if isinstance(given, date):
            midnight = _midnight(given, name)
            text = _in_utc(midnight)
            return ResolvedTime(midnight, text, text)
    except OverflowError:
        raise _out_of_range(given, name) from None
    raise UsageError(
        f"{name or 'a time'} must be an aware datetime, a date, a timedelta or text, not {brief(given)}; "
        f"{_HOW_TO_WRITE}"
    )


def format_time(value: date, name: str) -> str:
    """Format a datetime or a date as it is sent: in UTC, with ``Z``.

    :raises UsageError: it has no time zone, or is out of range in UTC.
    """
    try:
        return _in_utc(plain_datetime(value, name) if isinstance(value, datetime) else _midnight(value, name))
    except OverflowError:
        raise _out_of_range(value, name) from None


def plain_datetime(value: datetime, name: str) -> datetime:
    """Return an aware datetime made of the fields of ``value``, which can be of a subclass.

    The methods of a subclass can format a time in a way of its own (pandas writes nanoseconds), and some instances are
    not a point in time (``NaT``).

    :raises UsageError: it has no time zone, or is not a point in time.
    """
    try:
        moment = datetime(
            value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond,
            tzinfo=value.tzinfo, fold=value.fold,
        )  # fmt: skip
        offset = moment.utcoffset()
    except Exception as error:  # fields and time zones of other libraries may raise anything
        raise UsageError(f"{name} must be a point in time, not {brief(value)}") from error
    if offset is None:
        raise UsageError(
            f"{name}={moment.isoformat()} has no time zone; "
            f"say which one, for example {name}.replace(tzinfo=timezone.utc)"
        )
    return moment


def plain_timedelta(value: timedelta, name: str) -> timedelta:
    """Return a timedelta made of the fields of ``value``, which can be of a subclass.

    :raises UsageError: it is not a length of time.
    """
    try:
        return timedelta(value.days, value.seconds, value.microseconds)
    except Exception as error:
        raise UsageError(f"{name} must be a length of time, not {brief(value)}") from error


def read_length(text: str) -> timedelta | None:
    """Read a length such as ``6h`` or ``10d``; None if the text is something else."""
    match = re.fullmatch(_LENGTH, text)
    return None if match is None else timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def length_text(length: timedelta) -> str:
    """Write a length with its sign. Equal ones are written equally: a week is ``+7d``. Zero is empty."""
    seconds = length.total_seconds()
    for unit in "dhm":
        if not seconds % _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:+.0f}{unit}" if seconds else ""
    return f"{seconds:+.6f}".rstrip("0").rstrip(".") + "s"


def _read_text(text: str, name: str, now: datetime) -> ResolvedTime:
    match = re.fullmatch(_RELATIVE, text)
    if text and match is not None:
        base, sign, amount, unit = match.groups()
        offset = timedelta(seconds=int(amount or 0) * _UNITS[unit or "s"])
        return _relative(now, base or "now", -offset if sign == "-" else offset)
    label = f"{name}={brief(text)}" if name else brief(text)
    try:
        at = datetime.fromisoformat(text.upper())
    except ValueError:
        raise UsageError(f"{label} is not a time; {_HOW_TO_WRITE}") from None
    if re.fullmatch(_DATE, text):  # the service refuses a date alone
        midnight = at.replace(tzinfo=UTC)
        return ResolvedTime(midnight, _in_utc(midnight), text)
    if at.utcoffset() is None:
        how = f"write {text}Z if it is UTC" if re.fullmatch(_DATE_TIME, text) else _HOW_TO_WRITE
        raise UsageError(f"{label} has no time zone; {how}")
    if not re.fullmatch(_DATE_TIME, text):
        raise UsageError(f"{label} is not a time; {_HOW_TO_WRITE}")
    at.astimezone(UTC)  # raises OverflowError if it has no counterpart in UTC
    return ResolvedTime(at, text, text, form="offset")


def _relative(now: datetime, base: str, offset: timedelta) -> ResolvedTime:
    now = now.replace(microsecond=0)
    if base == "today":
        now = now.replace(hour=0, minute=0, second=0, fold=0)
    if base == "today" and not offset % timedelta(days=1):
        at = now + offset  # midnight on another day, even if the clocks were changed in between
    else:
        at = (now.astimezone(UTC) + offset).astimezone(now.tzinfo)
    return ResolvedTime(at, _in_utc(at), base + length_text(offset), is_relative=True)


def _midnight(value: date, name: str) -> datetime:
    try:
        return datetime.combine(date(value.year, value.month, value.day), time(), UTC)
    except Exception as error:
        raise UsageError(f"{name} must be a date, not {brief(value)}") from error


def _in_utc(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    fraction = "" if not utc.microsecond else f".{utc.microsecond:06d}".removesuffix("000")
    return f"{utc.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}Z"


def _out_of_range(value: Any, name: str) -> UsageError:
    label = f"{name}={brief(value)}" if name else brief(value)
    return UsageError(f"{label} is outside of the calendar (years 1 to 9999 in UTC)")

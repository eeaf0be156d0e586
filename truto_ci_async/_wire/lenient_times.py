"""Reads the times in a response that are not RFC 3339: other ways to write a date-time, and seconds since 1970.

Times that callers pass in, such as ``-7d``, are read in `times`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The unit of a number that is at least so large, and its microseconds. Seconds reach 10**11 in the year 5138;
# milliseconds passed it in 1973.
_UNITS = ((10**14, "microseconds", 1), (10**11, "milliseconds", 1_000), (0, "seconds", 1_000_000))
_DIGITS = r"(?a)\d{10}|\d{13}"
_DATE_TIME = (
    r"(?a)(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[Tt ]\s*(?P<time>(?:[01]\d|2[0-3]):\d\d(?::\d\d(?:[.,]\d{1,30})?)?))?"
    r"\s*(?:(?P<utc>[Zz]|UTC|GMT)|(?P<offset>[+-]\d\d(?::?[0-5]\d)?))?"
)

_decode_text: Callable[[bytes], str] = msgspec.json.Decoder(str).decode


def read_datetime(raw: bytes) -> tuple[datetime, str] | None:
    """Read a JSON value as a date-time, leniently, and say how it was understood; None if it is not one.

    Accepted: a space instead of the T, no offset (taken as UTC), no seconds, a date alone, an offset without a colon,
    a fraction of any length, spaces around, and seconds, milliseconds or microseconds since 1970.
    """
    if raw[:1] != b'"':
        return _from_epoch(raw.decode())
    text = _decode_text(raw).strip()
    if re.fullmatch(_DIGITS, text):
        return _from_epoch(text)
    match = re.fullmatch(_DATE_TIME, text)
    if match is None:
        return None
    date, time, utc, offset = match.group("date", "time", "utc", "offset")
    try:
        moment = datetime.fromisoformat(f"{date}T{time or '00:00'}{offset or 'Z'}")
    except ValueError:
        return None
    if time is None:
        return moment, "read as the start of that day" + ("" if utc or offset else " in UTC")
    return moment, "read as it stands" if utc or offset else "without an offset, read as UTC"


def _from_epoch(digits: str) -> tuple[datetime, str] | None:
    try:
        number = Decimal(digits)
    except InvalidOperation:
        return None
    # int() of a huge exponent would take for ever.
    if not number.is_finite() or number.adjusted() > 18:  # mutant: 10**18 microseconds overflow too
        return None
    unit, microseconds = next((unit, scale) for least, unit, scale in _UNITS if abs(number) >= least)
    try:
        return _EPOCH + timedelta(microseconds=int(number * microseconds)), f"read as {unit} since 1970"
    except OverflowError:
        return None

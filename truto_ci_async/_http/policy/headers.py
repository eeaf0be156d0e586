"""Reads the headers that say how fast we may send: `Retry-After`, `Date` and `ratelimit-*`.

Providers fill them in as they please, so every parser is lenient: a value it cannot read is None, never an error.
Header names are lower case throughout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from truto_ci_async.models import RateLimit

Level: TypeAlias = Literal["token", "account"]

# Characters. No real date or number is longer; a longer value never reaches a regular expression.
_LONGEST_VALUE: Final = 400

# "10", "1.5", and "10, 10" from a proxy that joined two headers.
_SECONDS: Final = r"(?a)[0-9]+(?:\.[0-9]*)?(?:\s*,\s*[0-9]+(?:\.[0-9]*)?)*"
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# The three forms of RFC 9110 section 5.6.7: IMF-fixdate, RFC 850 and asctime.
_DATES: Final = (
    r"(?ai)(?:[a-z]+,\s*)?(?P<day>\d{1,2})(?P<dash>[ -])(?P<month>[a-z]{3})(?P=dash)(?P<year>\d{4}|\d{2})"
    r"\s+(?P<time>\d{2}:\d{2}:\d{2})\s+(?:gmt|utc|ut|z|[+-]0000)",
    r"(?ai)[a-z]{3}\s+(?P<month>[a-z]{3})\s+(?P<day>\d{1,2})\s+(?P<time>\d{2}:\d{2}:\d{2})\s+(?P<year>\d{4})",
)

_RATE_LIMIT: Final = frozenset({"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"})
# Compiled here, since each response may need them; the others are compiled when they are first used.
_NUMBER = re.compile(r"(?as)\s*([0-9]{1,15}(?:\.[0-9]{0,9})?)\s*(?:[,;].*)?")
_WINDOW = re.compile(r"(?ai);\s*w\s*=\s*\"?([0-9]{1,9}(?:\.[0-9]{1,9})?)")
# A number from here on is a point in time: as a wait it would be thirty years.
_EPOCH_SECONDS: Final = 1e9
_EPOCH_MILLISECONDS: Final = 1e12
_EPOCH_END: Final = 1e14  # the year 5138 in milliseconds; larger numbers are meaningless
#: Seconds. A header that asks for more has a wrong clock or a wrong unit.
LONGEST_WAIT: Final = 366 * 86400.0


def parse_retry_after(headers: Mapping[str, str], now_epoch: float) -> float | None:
    """Read ``Retry-After`` as seconds from now, never negative; None if it is missing or unreadable.

    A date, or a number of 1e9 or more, is a point in time. It is compared with the response's own ``Date``, since the
    server's clock may differ from ours, or with ``now_epoch`` if there is none. One in the past gives 0.0, one too far
    ahead ``LONGEST_WAIT``.
    """
    text = headers.get("retry-after")
    if text is None or len(text) > _LONGEST_VALUE:
        return None
    text = text.strip()
    if re.fullmatch(_SECONDS, text):
        seconds = min(max(float(part) for part in text.split(",")), _EPOCH_END)
        wait = _seconds_until(seconds, headers, now_epoch)
    elif (moment := parse_http_date(text)) is not None:
        wait = moment - _server_time(headers, now_epoch)
    else:
        return None
    return min(max(0.0, wait), LONGEST_WAIT) if math.isfinite(wait) else None


def parse_rate_limit(headers: Mapping[str, str], now_epoch: float) -> RateLimit | None:
    """Read the ``ratelimit-*`` headers; None if none of them is readable.

    The limit is written as ``110`` or ``110;w=10``, the reset as seconds from now or as a point in time, which is
    compared with the response's own ``Date`` (``now_epoch`` if there is none).
    """
    if _RATE_LIMIT.isdisjoint(headers):  # as from most providers
        return None
    limit_text = headers.get("ratelimit-limit")
    limit = _number(limit_text)
    remaining = _number(headers.get("ratelimit-remaining"))
    reset = _number(headers.get("ratelimit-reset"))
    if reset is not None:
        reset = _seconds_until(reset, headers, now_epoch)
        reset = max(0.0, reset) if reset <= LONGEST_WAIT else None
    if limit is None and remaining is None and reset is None:
        return None
    window = None  # mutant: any other false value too
    if limit is not None:
        window = _WINDOW.search(limit_text or "")  # mutant: with a limit there is text
    return RateLimit(
        limit=None if limit is None else int(limit),
        window=(float(window[1]) or None) if window else None,
        remaining=None if remaining is None else int(remaining),
        reset=reset,
    )


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _LONGEST_VALUE or not (match := _NUMBER.fullmatch(text)):
        return None
    return float(match[1])


def _seconds_until(number: float, headers: Mapping[str, str], now_epoch: float) -> float:
    """Read a number as seconds to wait, or from 1e9 on as a point in time in seconds or milliseconds."""
    if _EPOCH_MILLISECONDS <= number < _EPOCH_END:  # mutant: its end is too long either way
        number /= 1000.0
    if _EPOCH_SECONDS <= number < _EPOCH_MILLISECONDS:  # mutant: 1e12 has become 1e9
        number -= _server_time(headers, now_epoch)
    return number


def level_named(insight: Mapping[str, Any], message: str) -> Level | None:
    """Find which limit the body of a 429 names; None if it names neither, or both.

    ``insight`` is the body's ``truto_error_insight``. Its wording is not documented (contract section 3), so this only
    looks for the words "account" and "token".
    """
    text = f"{insight.get('rate_limit_error')} {message}".lower()
    is_account, is_token = "account" in text, "token" in text
    if is_account == is_token:
        return None
    return "account" if is_account else "token"


def parse_http_date(text: str) -> float | None:
    """Read an HTTP date in any of its three forms as seconds since the epoch; None if it is not one."""
    text = text.strip()
    if len(text) > _LONGEST_VALUE:
        return None
    match = re.fullmatch(_DATES[0], text) or re.fullmatch(_DATES[1], text)
    if match is None or (month := match["month"].lower()) not in _MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    hour, minute, second = (int(part) for part in match["time"].split(":"))
    is_leap_second = second == 60
    day = int(match["day"])
    try:
        moment = datetime(
            year, _MONTHS.index(month) + 1, day, hour, minute, second - is_leap_second, tzinfo=UTC
        )
    except ValueError:
        return None
    return moment.timestamp() + is_leap_second


def _server_time(headers: Mapping[str, str], now_epoch: float) -> float:
    """Return the response's own ``Date`` in seconds since the epoch, or ``now_epoch`` if it has no readable one."""
    text = headers.get("date")
    moment = None if text is None else parse_http_date(text)
    return now_epoch if moment is None else moment

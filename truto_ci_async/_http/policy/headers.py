"""Reads `Retry-After`, `Date` and `ratelimit-*` headers leniently."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

# "10", "1.5", and "10, 10" from a proxy that joined two headers.
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:\s*,\s*[0-9]+(?:\.[0-9]*)?)*", re.ASCII)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# The three forms of RFC 9110 section 5.6.7: IMF-fixdate, RFC 850 and asctime.
_DATES: Final = (
    re.compile(
        r"(?:[a-z]+,\s*)?(?P<day>\d{1,2})(?P<dash>[ -])(?P<month>[a-z]{3})(?P=dash)(?P<year>\d{4}|\d{2})"
        r"\s+(?P<time>\d{2}:\d{2}:\d{2})\s+(?:gmt|utc|ut|z|[+-]0000)",
        re.ASCII | re.IGNORECASE,
    ),
    re.compile(
        r"[a-z]{3}\s+(?P<month>[a-z]{3})\s+(?P<day>\d{1,2})\s+(?P<time>\d{2}:\d{2}:\d{2})\s+(?P<year>\d{4})",
        re.ASCII | re.IGNORECASE,
    ),
)
_LONGEST_VALUE: Final = (
    400  # characters; no sane date or number is longer, and no pattern gets to chew on more
)


def parse_http_date(text: str) -> float | None:
    """Read an HTTP date in any of its three forms as seconds since the epoch; None when it is none."""
    text = text.strip()
    if len(text) > _LONGEST_VALUE:
        return None
    match = _DATES[0].fullmatch(text) or _DATES[1].fullmatch(text)
    if match is None or (month := match["month"].lower()) not in _MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    hour, minute, second = (int(part) for part in match["time"].split(":"))
    if second > 60:
        return None
    try:
        # 60 is a leap second: one more than 59.
        moment = datetime(
            year,
            _MONTHS.index(month) + 1,
            int(match["day"]),
            hour,
            minute,
            min(second, 59),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return moment.timestamp() + (second == 60)


def parse_retry_after(headers: Mapping[str, str], now_epoch: float) -> float | None:
    """Read ``Retry-After`` as seconds from now, never negative; None when it is missing or makes no sense.

    ``headers`` have lower-case names. A date is measured against the answer's own ``Date``, since the two
    clocks may differ, and against ``now_epoch`` when there is none. A date that has passed gives 0.0.
    """
    text = headers.get("retry-after")
    if text is None or len(text) > _LONGEST_VALUE:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        seconds = max(float(part) for part in text.split(","))
        return seconds if math.isfinite(seconds) else None
    moment = parse_http_date(text)
    if moment is None:
        return None
    wait = moment - server_time(headers, now_epoch)
    return max(0.0, wait) if math.isfinite(wait) else None


def server_time(headers: Mapping[str, str], now_epoch: float) -> float:
    """The answer's own ``Date`` in seconds since the epoch; ``now_epoch`` when there is no readable one."""
    text = headers.get("date")
    moment = None if text is None else parse_http_date(text)
    return now_epoch if moment is None else moment

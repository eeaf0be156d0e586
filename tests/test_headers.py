"""What the rate limit headers of a response say: `Retry-After`, HTTP dates and `ratelimit-*`."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truto_ci_async._http.policy.headers import (
    LONGEST_WAIT,
    level_named,
    parse_http_date,
    parse_rate_limit,
    parse_retry_after,
)
from truto_ci_async.models import RateLimit

NOW = 1_700_000_000.0  # wall clock
DATE = {"date": "Tue, 14 Nov 2023 22:13:20 GMT"}  # the same moment


# --- Retry-After --------------------------------------------------------------------------------------------

LATER = formatdate(NOW + 30, usegmt=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("10", 10.0),
        (" 10 ", 10.0),
        ("1.5", 1.5),
        ("007", 7.0),
        ("86400", 86400.0),
        ("10, 20", 20.0),  # joined by a proxy
        (LATER, 30.0),
        (datetime.fromtimestamp(NOW + 30, UTC).strftime("%A, %d-%b-%y %H:%M:%S GMT"), 30.0),  # RFC 850
        (datetime.fromtimestamp(NOW + 30, UTC).ctime(), 30.0),  # asctime
        ("Friday, 31-Dec-69 23:59:59 GMT", LONGEST_WAIT),  # 2069
        ("Thursday, 01-Jan-70 00:00:00 GMT", 0.0),  # 1970
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:60 GMT", LONGEST_WAIT),
        (formatdate(NOW + 10 * 365 * 86400, usegmt=True), LONGEST_WAIT),  # a clock ten years ahead
        (str(int(NOW) + 30), 30.0),  # a point in time
        (f"{int(NOW) + 30}000", 30.0),  # in milliseconds
        (str(int(NOW) - 30), 0.0),
        ("999999999", LONGEST_WAIT),  # 31 years
        ("9999999999999999", LONGEST_WAIT),
        ("67768036191676800", LONGEST_WAIT),
        ("9" * 20, LONGEST_WAIT),
        ("", None),
        ("-1", None),
        ("-0", None),
        ("+5", None),
        ("1e3", None),
        ("1_0", None),
        ("nan", None),
        ("inf", None),
        ("5".zfill(400), 5.0),
        ("5".zfill(401), None),  # longer than any real value
        (f"{'m' * 371}, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("9" * 350, LONGEST_WAIT),  # beyond the largest float
        ("9" * 100_000, None),
        ("soon", None),
        ("٣٠", None),
        ("10 seconds", None),
        ("Mon, 31 Feb 2025 10:00:00 GMT", None),
        ("Mon, 03 Mar 2025 25:00:00 GMT", None),
        ("Mon, 03 Foo 2025 10:00:00 GMT", None),
        ("Mon, 03 Mar 2025 10:00:00 PST", None),
        ("2025-03-03T10:00:00Z", None),
        ("\x00", None),
    ],
)
def test_retry_after_values(value: str, expected: float | None) -> None:
    assert parse_retry_after({"retry-after": value}, NOW) == expected


def test_without_the_header_there_is_no_wait() -> None:
    assert parse_retry_after({}, NOW) is None


@pytest.mark.parametrize("skew", [-120, 0, 120])
def test_a_date_is_measured_against_the_clock_that_wrote_it(skew: int) -> None:
    """If the server's clock is two minutes off, comparing with ours would wait too little or too long."""
    headers = {
        "retry-after": formatdate(NOW + skew + 30, usegmt=True),
        "date": formatdate(NOW + skew, usegmt=True),
    }
    assert parse_retry_after(headers, NOW) == 30.0


def test_a_leap_second_is_the_first_of_the_next_minute() -> None:
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228800.0


def test_the_longest_date_that_is_read() -> None:
    date = ", 06 Nov 1994 08:49:37 GMT"
    assert parse_http_date("m" * (400 - len(date)) + date) == 784111777.0
    assert parse_http_date("m" * (401 - len(date)) + date) is None


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows cannot change its time zone here")
def test_dates_do_not_depend_on_the_time_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("now_epoch", [math.nan, math.inf, -math.inf])
def test_a_wait_that_is_no_number_is_none(now_epoch: float) -> None:
    assert parse_retry_after({"retry-after": LATER}, now_epoch) is None


def test_a_bad_date_header_falls_back_to_our_clock() -> None:
    assert parse_retry_after({"retry-after": LATER, "date": "yesterday"}, NOW) == 30.0


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2069, 12, 31)).map(
        lambda d: d.replace(microsecond=0, tzinfo=UTC)
    )
)
def test_the_three_forms_of_a_date_agree(moment: datetime) -> None:
    forms = (
        format_datetime(moment, usegmt=True),
        moment.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        moment.ctime(),
    )
    assert {parse_http_date(form) for form in forms} == {moment.timestamp()}


garbage_values = st.one_of(
    st.text(max_size=40),
    st.floats().map(str),
    st.integers().map(str),
    st.from_regex(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{1,4} \d\d:\d\d:\d\d [A-Z]{1,3}", fullmatch=True),
    st.from_regex(r"\d{1,20}([.,;]\s?(w=)?\d{0,20}){0,3}", fullmatch=True),
    st.sampled_from(
        ["-1", "nan", "inf", "-inf", "1e999", "0", "", " ", ",", ";w=", "0;w=0", "\x00", "１０", "9" * 500]
    ),
)
garbage_headers = st.dictionaries(
    st.sampled_from(["retry-after", "date", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]),
    garbage_values,
)


@given(garbage_headers, st.floats())
def test_no_header_can_break_the_parser(headers: dict[str, str], now_epoch: float) -> None:
    wait = parse_retry_after(headers, now_epoch)
    assert wait is None or (wait >= 0 and math.isfinite(wait))


# --- ratelimit headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"ratelimit-limit": "110"}, RateLimit(limit=110)),
        ({"ratelimit-limit": "110;w=10"}, RateLimit(limit=110, window=10.0)),
        ({"ratelimit-limit": ' 110 ; W="60"'}, RateLimit(limit=110, window=60.0)),
        ({"ratelimit-limit": "100, 100;w=60, 5000;w=3600"}, RateLimit(limit=100, window=60.0)),
        ({"ratelimit-limit": "110;w=0"}, RateLimit(limit=110)),
        ({"ratelimit-limit": "110;burst=9"}, RateLimit(limit=110)),
        ({"ratelimit-limit": "many;w=10", "ratelimit-remaining": "3"}, RateLimit(remaining=3)),
        ({"ratelimit-remaining": "0"}, RateLimit(remaining=0)),
        ({"ratelimit-remaining": "3".ljust(400)}, RateLimit(remaining=3)),
        ({"ratelimit-remaining": "3".ljust(401)}, None),
        ({"ratelimit-reset": "7"}, RateLimit(reset=7.0)),
        ({"ratelimit-reset": "7.5"}, RateLimit(reset=7.5)),
        ({"ratelimit-reset": "1700000030", **DATE}, RateLimit(reset=30.0)),
        ({"ratelimit-reset": "1700000030"}, RateLimit(reset=30.0)),
        ({"ratelimit-reset": "1700000030000"}, RateLimit(reset=30.0)),
        ({"ratelimit-reset": "1700000030", "date": "Tue, 14 Nov 2023 22:11:20 GMT"}, RateLimit(reset=150.0)),
        ({"ratelimit-reset": "1600000000"}, RateLimit(reset=0.0)),
        ({"ratelimit-reset": "31622400"}, RateLimit(reset=31622400.0)),  # a year
        ({"ratelimit-reset": "99999999"}, None),  # three years
        ({"ratelimit-reset": "999999999"}, None),
        ({"ratelimit-reset": "1000000000"}, RateLimit(reset=0.0)),  # a point in time from here on
        ({"ratelimit-reset": "999999999999"}, None),
        ({"ratelimit-reset": "1000000000000"}, RateLimit(reset=0.0)),  # in milliseconds from here on
        ({"ratelimit-reset": "100000000000000"}, None),
        ({"ratelimit-limit": "-1", "ratelimit-remaining": "many", "ratelimit-reset": "inf"}, None),
        ({"ratelimit-limit": "9" * 500, "ratelimit-remaining": "3"}, RateLimit(remaining=3)),
    ],
)
def test_rate_limit_headers(headers: dict[str, str], expected: RateLimit | None) -> None:
    assert parse_rate_limit(headers, NOW) == expected


@pytest.mark.parametrize(
    ("insight", "message", "expected"),
    [
        ({}, "", None),
        ({}, "Rate limit of the integrated account exceeded", "account"),
        ({"rate_limit_error": {"description": "API token rate limit"}}, "", "token"),
        ({}, "integrated account token", None),
        ({"rate_limit_error": None}, "Too Many Requests", None),
        ({"rate_limit_error": [1, {"x": "Account"}]}, "", "account"),
    ],
)
def test_a_body_may_name_the_level(insight: dict[str, object], message: str, expected: str | None) -> None:
    assert level_named(insight, message) == expected

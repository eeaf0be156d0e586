"""Plans: options are resolved once, stored, and compared with what a later run asks for."""

from __future__ import annotations

import math
import pickle
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.foreign_values import Length, Letter, NotATime, NumPyScalar, Real, Stamp, Text, Whole
from tests.support import run
from truto_ci_async._wire.list_query import list_query
from truto_ci_async.client import TrutoClient
from truto_ci_async.errors import DecodeError, PermissionDeniedError, UsageError
from truto_ci_async.models import IntegratedAccount, Integration, Page, Person
from truto_ci_async.models.pulls import AccountPage, PlannedAccount, Unit, Window
from truto_ci_async.pull.plan import accounts as plan_accounts
from truto_ci_async.pull.plan import discovery
from truto_ci_async.pull.plan.bounds import resolve_windows
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.plan.resolve import resolve

NOW = datetime(2024, 3, 15, 13, 45, 7, 250_000, tzinfo=UTC)


def make(accounts: Any = ("a", "b"), **options: Any) -> Plan:
    options.setdefault("now", NOW)
    return run(resolve(None, accounts, **options))


def bounds(plan: Plan) -> list[tuple[str | None, str | None]]:
    return [(window.start, window.end) for window in plan.windows]


def ids(plan: Plan) -> list[str]:
    return [account.id for account in plan.accounts]


# --- accounts --------------------------------------------------------------------------------------------------


async def _asynchronous() -> AsyncIterator[IntegratedAccount]:
    for name in ("a", "b", "a"):
        yield IntegratedAccount(id=name, tenant_id=f"tenant of {name}")


@pytest.mark.parametrize(
    "accounts",
    [
        ["a", "b", "a"],
        ("a", "b"),
        (name for name in "aab"),
        {"b", "a"},
        [IntegratedAccount(id="a"), {"id": "b"}, PlannedAccount("a")],
        _asynchronous(),
    ],
    ids=["list", "tuple", "generator", "set", "mixed", "asynchronous"],
)
def test_accounts_come_from_any_iterable_in_order_and_once(accounts: Any) -> None:
    """An account that is in a plan twice would be pulled twice at the same time."""
    assert ids(make(accounts)) == ["a", "b"]


def test_a_tenant_is_taken_from_wherever_it_is_named() -> None:
    """Rows carry the tenant if it is known, whichever mention of the account names it."""
    plan = make(["a", {"id": "a", "tenant_id": "t"}, IntegratedAccount(id="a", tenant_id="other"), "b"])
    assert plan.accounts == (PlannedAccount("a", "t"), PlannedAccount("b"))


def test_a_file_holds_one_id_or_one_object_a_line(tmp_path: Path) -> None:
    """Other tools write these files: with comments, blank lines, a byte order mark, or as NDJSON."""
    path = tmp_path / "accounts.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# accounts\r\n\r\na\r\n  b  # second\n"
        + '{"id": "c", "tenant_id": "line\u2028break", "status": "active"}\na\n'.encode()
    )
    plan = make(path)
    assert plan.accounts == (PlannedAccount("a"), PlannedAccount("b"), PlannedAccount("c", "line\u2028break"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no accounts"),
        (b"# nothing\n", "contains no accounts"),
        (b"a\nb,c\n", "line 2: expected one id"),
        (b"id tenant\n", "line 1: expected one id"),
        (b'"a"\n', "line 1: expected one id"),
        (b'a\n{"id": 7}\n', "line 2: an account id must be non-empty text, not 7"),
        (b'{"name": "a"}\n', "line 1: an account id must be non-empty text, not None"),
        (b'{"id": "a"\n', "line 1: "),
        (b'{"id": "\\ud800"}\n', "line 1: "),
        (b'{"id": ' + b"[" * 100_000, "line 1: .*nested too deep"),
        (b"\xff\xfe", "cannot read accounts"),
    ],
)
def test_a_wrong_file_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Otherwise a CSV file would be read as thousands of accounts that do not exist."""
    path = tmp_path / "accounts.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        make(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero here")
def test_a_file_without_an_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truto_ci_async.pull.plan.accounts.MAX_FILE_BYTES", 1000)
    with pytest.raises(UsageError, match="more than 1,000 bytes"):
        make(Path("/dev/zero"))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read accounts from"):
        make(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("accounts", "message"),
    [
        ("a", r"accounts takes an iterable: accounts=\['a'\]; pass a file as a Path"),
        (IntegratedAccount(id="a"), "accounts takes an iterable"),
        ({"id": "a"}, "accounts takes an iterable"),
        ([], "accounts has no accounts.*allow_empty=True"),
        (iter(()), "accounts has no accounts"),
        ([""], "must be non-empty text"),
        ([None], "must be non-empty text, not None"),
        ([7], "must be non-empty text, not 7"),
        ([IntegratedAccount()], "must be non-empty text, not None"),
        ([{"id": "a", "tenant_id": 7}], "tenant_id of account a must be text"),
        (["\ud800"], "lone surrogate"),
        (7, "accounts takes ids"),
        (NumPyScalar("a", "U"), "accounts takes ids"),
        (None, "no accounts given"),
    ],
)
def test_wrong_accounts_are_refused(accounts: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(accounts)


def test_a_source_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is bounded, including what a caller passes in."""
    monkeypatch.setattr(plan_accounts, "MAX_ACCOUNTS", 3)

    def endless() -> Iterator[str]:
        number = 0
        while True:
            number += 1
            yield str(number)

    with pytest.raises(UsageError, match="more than 3 accounts"):
        make(endless())


class _Accounts:
    """Stands in for ``client.integrated_accounts``. Accounts given by name fit any filter."""

    def __init__(self, *found: str | IntegratedAccount, error: Exception | None = None) -> None:
        self.found = found
        self.error = error  # of a list without filters
        self.asked: list[dict[str, Any]] = []

    @property
    def integrated_accounts(self) -> _Accounts:
        return self

    async def _walk(self, integration: str | None, status: str | None) -> AsyncIterator[IntegratedAccount]:
        if self.error is not None and integration is None is status:
            raise self.error
        for each in self.found:
            if isinstance(each, str):
                yield IntegratedAccount(id=each, tenant_id="t")
            elif integration in (None, each.integration and each.integration.name) and status in (
                None,
                each.status,
            ):
                yield each

    def list(self, **filters: Any) -> AsyncIterator[IntegratedAccount]:
        self.asked.append(filters)
        return self._walk(filters["integration"], filters["status"])


def discover(*found: str, **options: Any) -> Plan:
    client: Any = _Accounts(*found)
    plan = run(resolve(client.integrated_accounts.list, now=NOW, **options))
    assert len(client.asked) == 1
    return plan


def test_an_account_that_is_found_without_an_id_is_an_error_of_the_service() -> None:
    """It was a UsageError about an id that nobody had passed."""
    with pytest.raises(DecodeError, match="lists an account without an id"):
        discover("x", "", integration="gong")


def test_accounts_are_discovered_by_integration_and_status() -> None:
    plan = discover("x", "y", "x", integration="gong", status="active")
    assert plan.accounts == (PlannedAccount("x", "t"), PlannedAccount("y", "t"))
    assert plan.given == {"integration": "gong", "status": "active"}


def _connected(integration: str | None, status: str | None, count: int = 1) -> list[IntegratedAccount]:
    named = None if integration is None else Integration(name=integration)
    return [
        IntegratedAccount(id=f"{integration}-{status}-{number}", integration=named, status=status)
        for number in range(count)
    ]


CONNECTED = [
    *_connected("zoom", "active", 9),
    *_connected("gong", "active", 2),
    *_connected("gong", "needs_reauth"),
    *_connected("salesforce", "active", 3),
    *_connected(None, None),
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"integration": "gongg"},
            "no account has the integration 'gongg'; the integrations are gong (3), zoom (9), salesforce (3).",
        ),
        (
            {"integration": "Salesforce", "status": "active"},
            "no account has the integration 'Salesforce' and status 'active'; "
            "the integrations are salesforce (3), zoom (9), gong (3).",
        ),
        (
            {"integration": "gong", "status": "actve"},
            "no account has the integration 'gong' and status 'actve'; "
            "the statuses of gong are active (2), needs_reauth (1).",
        ),
        ({"status": "broken"}, "no account has the status 'broken'; the statuses are "),
    ],
)
def test_a_search_that_finds_nothing_names_what_there_is(options: dict[str, Any], message: str) -> None:
    """A misspelt integration looked like a customer without accounts: a pull of nothing, reported as complete."""
    client: Any = _Accounts(*CONNECTED)
    with pytest.raises(UsageError) as caught:
        run(resolve(client.list, **options))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(". If that is meant, pass allow_empty=True (--allow-empty)")
    assert run(resolve(client.list, allow_empty=True, **options)).accounts == ()


def test_what_a_search_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment can have thousands of accounts, of many integrations."""
    client: Any = _Accounts(
        *(account for number in range(15) for account in _connected(f"i{number:02}", "active"))
    )
    with pytest.raises(UsageError, match=r"i00 \(1\), .* i09 \(1\) and 5 more\."):
        run(resolve(client.list, integration="x"))
    monkeypatch.setattr(discovery, "MAX_READ", 3)
    with pytest.raises(UsageError, match=r"the integrations are i00 \(1\), i01 \(1\), i02 \(1\)\."):
        run(resolve(client.list, integration="x"))


def test_without_any_account_or_an_answer_a_search_still_says_that_it_found_nothing() -> None:
    nobody: Any = _Accounts()
    with pytest.raises(UsageError, match="'gong': this token has no accounts at all"):
        run(resolve(nobody.list, integration="gong"))
    refused: Any = _Accounts(error=PermissionDeniedError(status=403))
    with pytest.raises(UsageError, match=r"^no account has the integration 'gong'\. If"):
        run(resolve(refused.list, integration="gong"))


def test_an_empty_list_or_file_is_a_plan_of_nothing_only_if_that_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "accounts.txt"
    path.write_text("# none yet\n")
    for accounts in ([], path):
        assert make(accounts, allow_empty=True).accounts == ()
    assert "allow_empty" not in make([], allow_empty=True).given


def test_a_stored_plan_of_nothing_is_not_continued_in_silence() -> None:
    """It can come from an older version, or from a run with ``allow_empty``."""
    client: Any = _Accounts("a")
    with pytest.raises(UsageError, match="no accounts: start over with fresh=True"):
        run(resolve(client.list, integration="gong", known=()))
    assert run(resolve(client.list, integration="gong", known=(), allow_empty=True)).accounts == ()


@pytest.mark.parametrize(
    "options", [{"integration": ""}, {"status": ""}, {"integration": 5}, {"status": b"active"}]
)
def test_a_search_for_nothing_in_particular_is_refused(options: dict[str, Any]) -> None:
    """An empty filter would be sent, and might find everything."""
    with pytest.raises(UsageError, match="must be non-empty text"):
        discover("a", **options)


def test_a_list_and_a_search_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="pass either accounts, or integration to look them up"):
        make(["a"], integration="gong")


def test_filters_are_checked_before_any_account_is_looked_up() -> None:
    """A mistake in a filter is reported before thousands of accounts are listed."""
    client: Any = _Accounts("a")
    with pytest.raises(UsageError, match="limit"):
        run(resolve(client.integrated_accounts.list, integration="gong", limit=0))
    assert client.asked == []


# --- bounds and windows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, (None, None)),
        (None, "2024-02-01", (None, "2024-02-01T00:00:00Z")),
        ("2024-01-01", "2024-02-01T00:00:00+02:00", ("2024-01-01T00:00:00Z", "2024-02-01T00:00:00+02:00")),
        (date(2024, 1, 1), date(2024, 2, 1), ("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")),
        (
            datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=8))),
            datetime(2024, 2, 1, microsecond=5000, tzinfo=UTC),
            ("2024-01-01T08:00:00Z", "2024-02-01T00:00:00.005Z"),
        ),
        (timedelta(days=-7), None, ("2024-03-08T13:45:07Z", "2024-03-15T13:45:07Z")),
        ("-7d", None, ("2024-03-08T13:45:07Z", "2024-03-15T13:45:07Z")),
        (" -7d ", "now", ("2024-03-08T13:45:07Z", "2024-03-15T13:45:07Z")),
        ("today-1d", "today", ("2024-03-14T00:00:00Z", "2024-03-15T00:00:00Z")),
        ("now-90m", "+1h", ("2024-03-15T12:15:07Z", "2024-03-15T14:45:07Z")),
        ("-2w", "-1w", ("2024-03-01T13:45:07Z", "2024-03-08T13:45:07Z")),
    ],
)
def test_bounds_become_absolute(start: Any, end: Any, expected: tuple[str | None, str | None]) -> None:
    """A plan fixes what is sent: a date becomes midnight UTC, other ISO 8601 text is sent as written."""
    assert bounds(make(start_time=start, end_time=end)) == [expected]


def test_now_is_read_once() -> None:
    """Reading the clock twice would make the window a little longer or shorter, differently in each run."""
    (window,) = run(resolve(None, ["a"], start_time="-1s")).windows
    start, end = (datetime.fromisoformat(str(text)) for text in (window.start, window.end))
    assert end - start == timedelta(seconds=1)


def test_today_begins_at_midnight_of_the_zone_of_now() -> None:
    """``today`` means the day in the time zone of ``now``, even across a change of its UTC offset."""
    now = datetime(2024, 3, 11, 10, tzinfo=ZoneInfo("US/Pacific"))
    plan = make(start_time="today-2d", end_time="today", now=now, window="day")
    assert bounds(plan) == [
        ("2024-03-09T08:00:00Z", "2024-03-10T08:00:00Z"),
        ("2024-03-10T08:00:00Z", "2024-03-11T07:00:00Z"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_time": datetime(2024, 1, 1)}, "start_time=2024-01-01T00:00:00 has no time zone"),
        ({"start_time": "2024-01-01T00:00:00"}, "has no time zone; write 2024-01-01T00:00:00Z"),
        ({"start_time": "20240101"}, "has no time zone"),
        ({"start_time": "last week"}, "is not a time; write it like"),
        ({"start_time": ""}, "is not a time"),
        ({"start_time": "-7"}, "is not a time"),
        ({"start_time": "-9999999w"}, "outside of the calendar"),
        ({"start_time": "0001-01-01T00:00:00+05:00"}, "outside of the calendar"),
        ({"start_time": timedelta.min}, "outside of the calendar"),
        ({"start_time": 7}, "start_time must be"),
        ({"start_time": NotATime()}, "start_time must be a point in time"),
        ({"window": Length(days=math.nan)}, "window must be a length of time"),
        ({"start_time": "2024-02-01", "end_time": "2024-01-01"}, "is not after"),
        ({"start_time": "2024-02-01", "end_time": "2024-02-01T00:00:00Z"}, "is not after"),
        ({"start_time": "2024-02-01T00:00:00Z", "end_time": "2024-02-01T01:00:00+02:00"}, "is not after"),
        ({"start_time": "+1d"}, "is not after"),
        ({"window": "day"}, "needs a start_time"),
        ({"window": "day", "end_time": "today"}, "needs a start_time"),
        ({"start_time": "-7d", "window": "year"}, "window must be 'day', 'week', 'month' or a timedelta"),
        ({"start_time": "-7d", "window": 1}, "window must be"),
        ({"start_time": "-7d", "window": timedelta()}, "longer than zero"),
        ({"start_time": "-7d", "window": timedelta(days=-1)}, "longer than zero"),
        ({"start_time": "-70000d", "window": timedelta(minutes=1)}, "more than 100,000 windows"),
        ({"now": datetime(2024, 1, 1)}, "now takes an aware datetime"),
        ({"now": "today"}, "now takes an aware datetime"),
    ],
)
def test_wrong_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    """Each of these would request something unintended, or never end."""
    with pytest.raises(UsageError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("start", "end", "window", "expected"),
    [
        pytest.param(
            "2024-01-30T00:00:00-08:00",
            "2024-02-01T12:00:00-08:00",
            "day",
            [
                "2024-01-30T00:00:00-08:00",
                "2024-01-31T00:00:00-08:00",
                "2024-02-01T00:00:00-08:00",
                "2024-02-01T12:00:00-08:00",
            ],
            id="the offset of the text is kept",
        ),
        pytest.param(
            "2024-01-30T18:30:00Z",
            "2024-02-01T00:00:00Z",
            "day",
            ["2024-01-30T18:30:00Z", "2024-01-31T00:00:00Z", "2024-02-01T00:00:00Z"],
            id="whole days after a first one that is not",
        ),
        pytest.param(
            "2024-01-01",
            "2024-01-18",
            "week",
            ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-18"],
            id="weeks from the start on, the last one cut",
        ),
        pytest.param(
            "2024-01-31",
            "2024-05-31",
            "month",
            ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30", "2024-05-31"],
            id="months by calendar",
        ),
        pytest.param(
            "2023-12-01",
            "2024-02-01",
            "month",
            ["2023-12-01", "2024-01-01", "2024-02-01"],
            id="over a new year",
        ),
        pytest.param(
            datetime(2024, 3, 9, tzinfo=ZoneInfo("US/Pacific")),
            datetime(2024, 3, 12, tzinfo=ZoneInfo("US/Pacific")),
            "day",
            ["2024-03-09T08:00:00Z", "2024-03-10T08:00:00Z", "2024-03-11T07:00:00Z", "2024-03-12T07:00:00Z"],
            id="days of a zone, one of them of 23 hours",
        ),
        pytest.param(
            datetime(2011, 12, 29, tzinfo=ZoneInfo("Pacific/Apia")),
            datetime(2012, 1, 1, tzinfo=ZoneInfo("Pacific/Apia")),
            "day",
            ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"],
            id="days of a zone, one of which never was",
        ),
        pytest.param(
            datetime(2024, 3, 9, tzinfo=ZoneInfo("US/Pacific")),
            datetime(2024, 3, 11, 1, tzinfo=ZoneInfo("US/Pacific")),
            timedelta(days=1),
            ["2024-03-09T08:00:00Z", "2024-03-10T08:00:00Z", "2024-03-11T08:00:00Z"],
            id="a timedelta is exact time",
        ),
        pytest.param(
            "2024-01-01",
            "2024-01-02",
            timedelta(hours=10),
            ["2024-01-01", "2024-01-01T10:00:00Z", "2024-01-01T20:00:00Z", "2024-01-02"],
            id="hours of a date",
        ),
        pytest.param(
            "9999-12-30", "9999-12-31", "month", ["9999-12-30", "9999-12-31"], id="the end of the calendar"
        ),
    ],
)
def test_windows_are_a_series(start: Any, end: Any, window: Any, expected: list[str]) -> None:
    """Windows are whole days in the given time zone, half-open, oldest first."""
    plan = make(start_time=start, end_time=end, window=window)
    written = [bound if "T" in bound else f"{bound}T00:00:00Z" for bound in expected]
    assert bounds(plan) == list(pairwise(written))


_ZONES = st.sampled_from(
    ["UTC", "US/Pacific", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu"]
)
_LENGTHS = st.sampled_from(["day", "week", "month"]) | st.timedeltas(timedelta(hours=5), timedelta(days=40))


@given(
    start=st.datetimes(datetime(2009, 1, 1), datetime(2025, 1, 1)),
    length=st.timedeltas(timedelta(seconds=1), timedelta(days=100)),
    zone=_ZONES,
    window=_LENGTHS,
    as_text=st.booleans(),
)
def test_windows_tile_the_time_asked_for(
    start: datetime, length: timedelta, zone: str, window: Any, as_text: bool
) -> None:
    """Windows neither overlap nor leave gaps, whatever clock changes lie between."""
    begin = start.replace(tzinfo=ZoneInfo(zone), microsecond=0)
    end = (begin.astimezone(UTC) + length).replace(microsecond=0)
    if end <= begin.astimezone(UTC):
        return
    given_bounds: tuple[Any, Any] = (begin.isoformat(), end.isoformat()) if as_text else (begin, end)
    _, windows = resolve_windows(*given_bounds, window, NOW)
    times = [
        (datetime.fromisoformat(str(window.start)), datetime.fromisoformat(str(window.end)))
        for window in windows
    ]
    assert times[0][0] == begin.astimezone(UTC)
    assert times[-1][1] == end
    assert all(first < last for first, last in times)
    assert all(before[1] == after[0] for before, after in pairwise(times))
    assert all(before.end == after.start for before, after in pairwise(windows))
    if isinstance(window, str):
        local = begin.tzinfo if not as_text else datetime.fromisoformat(begin.isoformat()).tzinfo
        for _, cut in times[:-1]:
            there = cut.astimezone(local)
            # Where clocks skip midnight, the day starts right after the gap.
            assert (
                there.time() == time() or (cut - timedelta(seconds=1)).astimezone(local).date() < there.date()
            )


# --- filters, queries ------------------------------------------------------------------------------------------

FILTERS: dict[str, Any] = {
    "users": ["9" * 20, Person(id="7"), {"id": "7"}],
    "limit": 50,
    "response_format": "normalized",
    "ignore_limit": True,
    "ignore_remote_data": True,
    "exclude_fields": ("created_at", "updated_at"),
    "super_query": "apac",
    "skip_api_call": True,
    "remote_query": {"ids": {"b", "a"}, "since": datetime(2024, 1, 1, tzinfo=UTC), "key": UUID(int=1)},
    "extra_query": {"created_at": {"gt": date(2024, 1, 1)}, "limit": None, "factor": 1.5},
    "object_arrays": "brackets",
}


def test_a_plan_asks_what_a_list_call_asks() -> None:
    """A pull is many walks, each the same as one by ``list``."""
    plan = make(start_time="2024-01-01", end_time="2024-02-01", **FILTERS)
    asked = plan.query(plan.accounts[0], plan.windows[0])
    query = list_query(
        "unified",
        "conversational-intelligence",
        "interactions",
        account="a",
        start_time=date(2024, 1, 1),
        end_time=date(2024, 2, 1),
        **FILTERS,
    )
    assert asked.target() == query.target()
    assert asked.fingerprint() == query.fingerprint()


def test_a_plan_of_other_libraries_values_is_the_plan_of_plain_ones() -> None:
    """Values from pandas and NumPy reach a plan from notebooks. Stored, they must be what they were."""
    plain: dict[str, Any] = {
        "users": ["7"],
        "limit": 5,
        "ignore_remote_data": True,
        "exclude_fields": ["timezone"],
        "remote_query": {"a": [1, 1.5, "x", 10**30]},
    }
    other: dict[str, Any] = {
        "users": {Text("7")},
        "limit": NumPyScalar(5, "i"),
        "ignore_remote_data": NumPyScalar(True, "b"),
        "exclude_fields": [Text("timezone")],
        "remote_query": {Text("a"): (Whole(1), Real(1.5), Letter.X, str(10**30))},
    }
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC)
    expected = make(["a"], start_time=start, end_time=end, window=timedelta(days=1), **plain)
    plan = make(
        [Text("a")],
        start_time=Stamp(2024, 1, 1, tzinfo=UTC),
        end_time=Stamp(2024, 1, 3, tzinfo=UTC),
        window=Length(1),
        now=Stamp(2024, 3, 15, 13, 45, 7, 250_000, tzinfo=UTC),
        **other,
    )
    assert plan.digest == expected.digest == Plan.from_json(plan.to_json()).digest
    assert plan.windows == expected.windows
    assert plan.created_at == expected.created_at
    assert type(plan.accounts[0].id) is str
    assert plan.difference(expected) is None


def test_a_plan_survives_storing() -> None:
    """A stored plan sends byte-identical requests, because stored cursors only fit the filters they came from."""
    plan = make([{"id": "a", "tenant_id": "t"}], start_time="-3d", window="day", **FILTERS)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert (again.digest, again.accounts_digest, hash(again)) == (
        plan.digest,
        plan.accounts_digest,
        hash(plan),
    )
    for unit in plan.units():
        assert again.query(unit.account, unit.window) == plan.query(unit.account, unit.window)
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", b"\xff", '{"kind":"truto-plan-2","accounts":[]}', "[" * 100_000]
)
def test_text_that_is_no_plan_is_refused(text: str | bytes) -> None:
    with pytest.raises(UsageError, match="not the JSON of a plan"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"limit": 0}, "limit"),
        ({"users": "7"}, "users must be a list"),
        ({"exclude_fields": "id"}, "exclude_fields must be a list"),
        ({"exclude_fields": 7}, "exclude_fields must be a list"),
        ({"response_format": "raw"}, "the response_format of a pull must be"),
        ({"extra_query": {"start_time": "2024-01-01"}}, "extra_query must not set start_time"),
        ({"extra_query": {"integrated_account_id": "x"}}, "extra_query must not set integrated_account_id"),
        ({"extra_query": {"next_cursor": "x"}}, "next_cursor"),
        ({"users": []}, "users is empty"),
        ({"extra_query": "a=b"}, "extra_query must be a dict"),
        ({"extra_query": {"x": object()}}, "cannot be sent in a query"),
        ({"extra_query": {"x": float("nan")}}, "cannot be sent in a query"),
        ({"extra_query": {7: "x"}}, "a parameter name must be a string, not 7"),
        ({"remote_query": {"x": "\ud800"}}, "lone surrogate"),
        ({"remote_query": {"x": datetime(2024, 1, 1)}}, "no time zone"),
        ({"object_arrays": "commas"}, "object_arrays"),
    ],
)
def test_wrong_filters_are_refused(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**filters)


def test_filters_that_hold_themselves_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["x"] = loop
    with pytest.raises(UsageError, match="does it contain itself"):
        make(extra_query=loop)


def test_parameters_may_be_taken_out_and_renamed() -> None:
    """A custom environment may use other names for the bounds, so ours can be removed."""
    plan = make(start_time="2024-01-01", end_time="2024-02-01", extra_query={"start_time": None, "from": "x"})
    assert "start_time" not in plan.query(plan.accounts[0], plan.windows[0]).target()


def test_a_filter_nobody_knows_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unknown filters: colour"):
        make(colour="red")


def test_what_a_caller_does_to_filters_later_changes_nothing() -> None:
    filters: dict[str, Any] = {"deep": {"x": [1]}}
    plan = make(remote_query=filters)
    filters["deep"]["x"].append(2)
    assert plan.filters == {"remote_query": {"deep": {"x": [1]}}}


def test_a_plan_knows_no_token() -> None:
    """Plans are stored and shared."""

    async def scenario() -> str:
        async with TrutoClient(token="tok-secret") as client:
            plan = await resolve(client.integrated_accounts.list, ["a"], start_time="-1d")
            return plan.to_json() + repr(plan)

    assert "tok-secret" not in run(scenario())


# --- order and shards ------------------------------------------------------------------------------------------


def test_walks_come_window_by_window() -> None:
    """The oldest window of every account comes first, so consecutive walks belong to different accounts."""
    plan = make(["a", "b"], start_time="2024-01-01", end_time="2024-01-03", window="day")
    assert [(unit.account.id, unit.index) for unit in plan.units()] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
    ]
    assert [unit.key for unit in plan.units()] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert next(plan.units()) == Unit(
        PlannedAccount("a"), Window("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"), 0
    )
    assert len(plan) == 4


@given(
    names=st.lists(st.text("abc123", min_size=1, max_size=4), unique=True, max_size=40),
    more=st.lists(st.text("xyz789", min_size=1, max_size=4), unique=True, max_size=20),
    n=st.integers(1, 9),
)
def test_an_account_is_in_one_shard_and_stays_there(names: list[str], more: list[str], n: int) -> None:
    """An account in two shards would be pulled twice, and one in no shard never."""
    plan, grown_plan = (
        Plan(accounts=tuple(map(PlannedAccount, listed))) for listed in (names, [*names, *more])
    )
    shards = plan.shards(n)
    assert len(shards) == n
    assert sorted(name for shard in shards for name in ids(shard)) == sorted(names)
    for shard in shards:
        assert ids(shard) == [name for name in names if name in ids(shard)]
    for shard, grown in zip(shards, grown_plan.shards(n), strict=True):
        assert set(ids(shard)) == set(ids(grown)) & set(names)
        assert shard.digest == grown.digest


@pytest.mark.parametrize("n", [0, -1, True, 1.5, "2"])
def test_shards_are_counted_in_whole_numbers(n: Any) -> None:
    with pytest.raises(UsageError, match="whole number"):
        make().shards(n)


def test_a_shard_is_not_split_again() -> None:
    with pytest.raises(UsageError, match="shard 1 of 2 already"):
        make().shards(2)[0].shards(2)


def test_shards_do_not_depend_on_the_process() -> None:
    """``hash()`` of a string differs between processes."""
    plan = make([str(number) for number in range(12)])
    assert [ids(shard) for shard in plan.shards(3)] == [
        [],
        ["0", "3", "4", "6", "7", "8", "9", "10", "11"],
        ["1", "2", "5"],
    ]


# --- differences -----------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {"start_time": "-7d", "window": "day", "limit": 50, "users": ["7"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (BASE, None),
        (BASE | {"now": NOW + timedelta(days=3)}, None),
        (BASE | {"start_time": timedelta(days=-7)}, None),
        (BASE | {"end_time": "now"}, None),
        ({}, None),
        ({"start_time": "2024-03-08T13:45:07Z"}, None),
        ({"end_time": "2024-03-15T13:45:07Z"}, None),
        ({"ignore_remote_data": False, "exclude_fields": []}, None),
        (BASE | {"start_time": "-8d"}, 'start_time is "now-8d", stored is "now-7d"'),
        ({"start_time": "2024-03-08"}, 'start_time is "2024-03-08", stored is "now-7d"'),
        ({"start_time": "-7d", "end_time": "today"}, 'end_time is "today", stored is not set'),
        (BASE | {"window": "week"}, 'window is "week", stored is "day"'),
        (BASE | {"window": timedelta(days=1)}, 'window is "1d", stored is "day"'),
        (
            BASE | {"limit": 100, "users": ["8"]},
            'users is ["8"], stored is ["7"]; limit is 100, stored is 50',
        ),
        ({"ignore_remote_data": True}, "ignore_remote_data is true, stored is not set"),
    ],
)
def test_a_difference_is_named(options: dict[str, Any], expected: str | None) -> None:
    """The same crontab line, days later, is the same plan. Anything else is not."""
    difference = make(**options).difference(make(**BASE))
    if expected is None:
        assert difference is None
    else:
        assert difference is not None
        assert sorted(difference.split("; ")) == sorted(expected.split("; "))


@pytest.mark.parametrize(
    ("accounts", "grow", "expected"),
    [
        ("ab", False, None),
        ("ba", False, None),
        ("abc", False, "1 account is new: c (grow=True adds them)"),
        ("abcdefgh", False, "6 accounts are new: c, d, e, f, g, ... (grow=True adds them)"),
        ("abc", True, None),
        ("a", False, "1 account is missing: b"),
        ("ac", True, "1 account is missing: b"),
    ],
)
def test_a_grown_list_is_told_from_a_changed_one(accounts: str, grow: bool, expected: str | None) -> None:
    """New customers do not make it another pull, but adding them takes ``grow``. None may be dropped silently."""
    assert make(list(accounts)).difference(make(["a", "b"]), grow=grow) == expected


def test_discovered_accounts_may_come_and_go() -> None:
    """A pull continues even if an account was disconnected overnight."""
    stored = discover("a", "b", integration="gong")
    later = discover("b", "c", integration="gong")
    assert later.difference(stored) is None
    assert ids(later.onto(stored)) == ["a", "b"]
    assert ids(later.onto(stored, grow=True)) == ["a", "b", "c"]
    other = discover("a", "b", integration="zoom").difference(stored)
    assert other == 'integration is "zoom", stored is "gong"'


def test_a_shard_does_not_go_on_where_another_one_was() -> None:
    first, second = make(["a", "b", "c", "d"], **BASE).shards(2)
    whole = make(["a", "b", "c", "d"], **BASE)
    assert "this is shard 2 of 2, stored is shard 1 of 2" in str(second.difference(first))
    assert "this is the whole plan, stored is shard 1 of 2" in str(whole.difference(first))


def test_the_stored_plan_is_the_one_in_force() -> None:
    """Resolving the bounds again would shift every window away from its stored position."""
    stored = make(**BASE)
    later = make(["a", "b", "c"], **BASE | {"now": NOW + timedelta(days=2)})
    assert later.windows != stored.windows
    assert later.onto(stored) == stored
    grown = later.onto(stored, grow=True)
    assert grown.windows == stored.windows
    assert ids(grown) == ["a", "b", "c"]


def test_digests_tell_what_is_asked_from_who_is_asked() -> None:
    plan = make(**BASE)
    assert make(["a", "b", "c"], **BASE).digest == plan.digest
    assert make(["a", "b", "c"], **BASE).accounts_digest != plan.accounts_digest
    assert make(**BASE | {"limit": 1}).digest != plan.digest
    assert make(**BASE | {"start_time": "-6d"}).digest != plan.digest


def test_reprs_stay_short() -> None:
    plan = make([str(number) for number in range(5000)], start_time="2024-01-01", end_time="2024-02-01")
    assert (
        repr(plan) == "Plan(5,000 accounts, 1 windows 2024-01-01T00:00:00Z..2024-02-01T00:00:00Z, filters={})"
    )
    assert "shard 2 of 3" in repr(plan.shards(3)[1])


def test_an_account_page_belongs_to_a_pull() -> None:
    """A page made by hand, as in a test of a sink, cannot be committed."""
    page = AccountPage(PlannedAccount("a"), Window("2024-01-01", None), Page([1, 2]))
    assert len(page) == 2
    assert repr(page) == "AccountPage('a', 2024-01-01..None, 2 items)"
    with pytest.raises(UsageError, match="pages of an open pull"):
        run(page.commit())


def test_stored_plans_stay_readable() -> None:
    """Stored plans outlive this version: they are read for ever, or refused by their kind."""
    text = (
        '{"kind":"truto-plan-1","accounts":[{"id":"a","tenant_id":null}],'
        '"windows":[{"start":"2024-01-01","end":"2024-02-01"}],"filters":{"limit":5},'
        '"given":{"start_time":"2024-01-01","accounts":"listed"},"shard":[1,2],"created_at":"2024-03-15T13:45:07Z"}'
    )
    plan = Plan.from_json(text)
    assert plan.windows == (Window("2024-01-01", "2024-02-01"),)
    assert msgspec.json.decode(plan.to_json()) == {**msgspec.json.decode(text), "resource": "interactions"}

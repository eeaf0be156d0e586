"""The sandbox, tested with plain aiohttp and plain sockets. Other tests rely on it, so the client is not used here."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import pathlib
import urllib.request
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp
import brotli
import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

import truto_ci_async.sandbox as package
from tests.sandbox_caller import DEADLINE, INTERACTIONS, JANUARY, MODEL, Caller
from tests.support import run
from truto_ci_async.sandbox import Fault, Options, Sandbox, parse_query
from truto_ci_async.sandbox.fixtures import truto_sandbox as truto_sandbox
from truto_ci_async.sandbox.service.content_encoding import bomb
from truto_ci_async.sandbox.service.filtering import filter_records
from truto_ci_async.sandbox.service.limits import SlidingWindow
from truto_ci_async.sandbox.service.windows import Window, midnight

# --- query strings ---------------------------------------------------------------------------------------

TWENTY_ONE = [str(number) for number in range(21)]


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("=1", {}),
        ("&&a=1&&", {"a": "1"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1&a=2", {"a": ["1", "2"]}),
        ("a[]=1", {"a": ["1"]}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a[0]=1&a[1]=2", {"a": ["1", "2"]}),
        ("a[1]=2&a[0]=1", {"a": ["1", "2"]}),
        ("a[5]=1&a[9]=2", {"a": ["1", "2"]}),
        ("a[19]=1", {"a": ["1"]}),
        ("a[20]=1", {"a": {"20": "1"}}),
        ("a[0]=1&a[20]=2", {"a": {"0": "1", "20": "2"}}),
        ("a[01]=1", {"a": {"01": "1"}}),
        ("a[-1]=1", {"a": {"-1": "1"}}),
        ("a[b]=1&a[c]=2", {"a": {"b": "1", "c": "2"}}),
        ("a[b]=1&a=2", {"a": [{"b": "1"}, "2"]}),
        ("a=2&a[b]=1", {"a": ["2", {"b": "1"}]}),
        ("a[]=1&a[b]=2", {"a": {"0": "1", "b": "2"}}),
        ("a%5Bb%5D%5bc%5d=1", {"a": {"b": {"c": "1"}}}),
        ("a[b][c][d][e][f]=1", {"a": {"b": {"c": {"d": {"e": {"f": "1"}}}}}}),
        ("a[b][c][d][e][f][g][h]=1", {"a": {"b": {"c": {"d": {"e": {"f": {"[g][h]": "1"}}}}}}}),
        ("users[0][id]=1&users[1][id]=2", {"users": [{"id": "1"}, {"id": "2"}]}),
        ("users[][id]=1&users[][id]=2", {"users": [{"id": ["1", "2"]}]}),
        ("integration.name=gong", {"integration.name": "gong"}),
        ("a=x+y&b=x%2By", {"a": "x y", "b": "x+y"}),
        ("a=%E5%B1%B1&%C3%A9=1", {"a": "山", "é": "1"}),
        ("a=%zz&b=%ff&c=%+1", {"a": "%zz", "b": "%ff", "c": "% 1"}),
        ("a[toString]=1&constructor=2&b=3", {"b": "3"}),
        ("a[b=1", {"a[b": "1"}),
        ("[a]=1", {"a": "1"}),
        ("&".join(f"a[]={n}" for n in TWENTY_ONE[:20]), {"a": TWENTY_ONE[:20]}),
        ("&".join(f"a[]={n}" for n in TWENTY_ONE), {"a": {n: n for n in TWENTY_ONE}}),
        ("&".join(f"a[{n}]={n}" for n in TWENTY_ONE), {"a": {n: n for n in TWENTY_ONE}}),
        ("&".join(f"p{n}=1" for n in range(1001)), {f"p{n}": "1" for n in range(1000)}),
    ],
)
def test_query_strings_are_read_as_qs_reads_them(raw: str, parsed: dict[str, Any]) -> None:
    """Each case was run through qs 6.15.1. A client that gets one wrong loses filters in production."""
    assert parse_query(raw) == parsed


@given(st.text(alphabet=st.sampled_from(list("ab[]=&0129.%+é")), max_size=60))
def test_no_query_string_raises(raw: str) -> None:
    json.dumps(parse_query(raw))


# --- records and windows ---------------------------------------------------------------------------------


def test_all_pages_together_are_what_is_expected() -> None:
    """`expected` agrees with the pages at every page size."""

    async def main() -> None:
        async with Caller(interactions=120, account_rate=None) as caller:
            expected = caller.sandbox.expected(caller.account, **JANUARY)
            assert len(expected) == 120
            for limit in (None, "1", "7", "100", "100000"):
                assert await caller.collect(limit=limit) == expected
            assert len(caller.sandbox.requests) == 3 + 120 + 18 + 2 + 2
            assert caller.sandbox.stats.connections == 1

    run(main(), DEADLINE)


def test_the_repr_says_where_it_is() -> None:
    sandbox = Sandbox(accounts=2)
    assert repr(sandbox) == "<Sandbox not running, 2 accounts>"

    async def scenario() -> None:
        async with sandbox:
            assert repr(sandbox) == f"<Sandbox {sandbox.url}, 2 accounts>"

    run(scenario())


def test_the_same_arguments_give_the_same_company() -> None:
    """A seed that fails must fail on every machine; another seed, account or window must give other data."""
    first, again, other = Sandbox(), Sandbox(), Sandbox(seed=8)
    assert first.accounts == again.accounts != other.accounts
    one, two = first.account_ids[:2]
    assert first.expected(one, **JANUARY) == again.expected(one, **JANUARY)
    later = {"start_time": "2024-02-01T00:00:00Z", "end_time": "2024-03-01T00:00:00Z"}
    rows, others, months = (
        first.expected(one, **JANUARY),
        first.expected(two, **JANUARY),
        first.expected(one, **later),
    )
    assert rows != others
    assert [row["metrics"] for row in rows] != [row["metrics"] for row in months]
    assert [row["id"] for row in rows] == [row["id"] for row in months]  # ids are not unique across windows
    assert Sandbox(accounts=["62f44730-dd91-461e-bd6a-aedd9e0ad79d"]).account_ids[0].startswith("62f44730")


def test_records_look_like_those_of_gong() -> None:
    """One small company contains every variant that a decoder must handle."""
    sandbox = Sandbox(interactions=200)
    rows = sandbox.expected(sandbox.account_ids[0], **JANUARY)
    ids = [row["user"]["id"] for row in rows]
    assert ids == sandbox.user_ids(sandbox.account_ids[0])
    assert len(set(ids)) == len({row["id"] for row in rows}) == 200
    assert {len(each) for each in ids} == {15, 16, 17, 18, 19, 20}
    assert any(int(each) > 2**64 for each in ids)
    assert {row["user"].get("name", "absent") for row in rows} == {None, "absent"}
    assert all([mail["is_primary"] for mail in row["user"]["emails"]] == [True] for row in rows)
    assert any(not row["user"]["emails"][0]["email"].isascii() for row in rows)
    values = [value for row in rows for value in row["metrics"].values()]
    assert {type(value) for value in values} == {int, float, type(None)}
    assert {len(row["metrics"]) for row in rows} >= {3, 4, 5}
    assert {row.get("created_at", "absent") for row in rows} == {None, "absent"}
    assert {(row["timezone"], row["aggregation_period"]) for row in rows} == {("US/Pacific", "total")}
    assert {len(row["additional_metrics"]) for row in rows} == {0, 1, 2, 3}
    for row in rows:
        assert row["remote_data"]["userId"] == row["user"]["id"]
        assert set(row["remote_data"]) == {"userId", "userEmailAddress", "personInteractionStats"}


@pytest.mark.parametrize(
    ("start", "end", "effective"),
    [
        (
            "2024-01-01T00:00:00Z",
            "2024-02-01T00:00:00Z",
            ("2024-01-01T00:00-08:00", "2024-02-01T00:00-08:00"),
        ),
        (
            "2024-01-01T13:00:00Z",
            "2024-01-02T13:00:00Z",
            ("2024-01-01T00:00-08:00", "2024-01-02T00:00-08:00"),
        ),
        (
            "2024-01-01T00:00:00+05:30",
            "2024-01-02T00:00:00Z",
            ("2023-12-31T00:00-08:00", "2024-01-02T00:00-08:00"),
        ),
        (
            "2024-03-10T00:00:00Z",
            "2024-03-11T00:00:00Z",
            ("2024-03-10T00:00-08:00", "2024-03-11T00:00-07:00"),
        ),
        (
            "2024-11-03T00:00:00Z",
            "2024-11-04T00:00:00Z",
            ("2024-11-03T00:00-07:00", "2024-11-04T00:00-08:00"),
        ),
        (
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            ("0001-01-01T00:00-08:00", "9999-12-31T00:00-08:00"),
        ),
    ],
)
def test_windows_are_whole_pacific_days(start: str, end: str, effective: tuple[str, str]) -> None:
    """The window in the records can differ from the one requested, so clients must read it from the records."""
    requested = datetime.fromisoformat(start), datetime.fromisoformat(end)
    window = Window.whole_days(*requested)
    assert tuple(text.replace("00:00:00", "00:00") for text in window.texts) == effective


@pytest.mark.parametrize("year", range(2008, 2040))
def test_summer_time_agrees_with_the_time_zone_database(year: int) -> None:
    zoneinfo = pytest.importorskip("zoneinfo")
    try:
        pacific = zoneinfo.ZoneInfo("America/Los_Angeles")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zone database here")
    for number in range(365):
        day = date(year, 1, 1) + timedelta(days=number)
        assert midnight(day) == datetime(day.year, day.month, day.day, tzinfo=pacific).isoformat()


def test_windows_with_nothing_in_them() -> None:
    """Gong's 404 means that the window is empty. An end before the start is the caller's mistake."""

    async def main() -> None:
        async with Caller() as caller:
            hours = {"start_time": "2024-01-01T06:00:00Z", "end_time": "2024-01-01T18:00:00Z"}
            response = await caller.get(**hours)
            assert (response.status, response.json["truto_is_remote_error"]) == (404, True)
            assert response.json["message"] == "no stats found for the specified period"
            assert "remote_error" in response.json["truto_error_insight"]
            assert caller.sandbox.expected(caller.account, **hours) == []
            caller.sandbox.configure(caller.account, interactions=0)
            assert (await caller.get()).status == 404
            caller.sandbox.configure(caller.account, interactions=3)
            assert len(await caller.collect()) == 3
            response = await caller.get(start_time=JANUARY["end_time"], end_time=JANUARY["start_time"])
            assert (response.status, response.json.get("truto_is_remote_error")) == (400, None)

    run(main(), DEADLINE)


def test_a_window_that_ends_after_today_is_refused_by_the_provider() -> None:
    """Never cut short in silence: rows of a shorter window would be taken for those of the whole."""

    async def main() -> None:
        now = datetime(2024, 6, 15, 3, tzinfo=UTC)
        async with Caller(clock=now.timestamp) as caller:
            for end, status in (
                ("2024-06-15T00:00:00Z", 200),
                ("2024-06-15T23:59:59Z", 200),
                ("2024-06-16T00:00:00Z", 400),
                ("2999-01-01T00:00:00Z", 400),
            ):
                response = await caller.get(end_time=end)
                assert response.status == status
                assert response.json.get("truto_is_remote_error", False) == (status == 400)
            assert "after today, 2024-06-15" in response.json["message"]
            stored = await caller.get(end_time=end, truto_super_query="wnam")
            assert stored.status == 400
            with pytest.raises(ValueError, match="after today"):
                caller.sandbox.expected(caller.account, start_time=JANUARY["start_time"], end_time=end)

    run(main(), DEADLINE)


# --- parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"start_time": None}, 400, "start_time"),
        ({"integrated_account_id": None}, 400, "integrated_account_id"),
        ({"integrated_account_id": "nobody"}, 404, "not found"),
        ({"start_time": "2024-01-01"}, 400, "offset"),
        ({"start_time": "2024-01-01T00:00:00"}, 400, "offset"),
        ({"start_time": "2024-13-01T00:00:00Z"}, 400, "month"),
        ({"start_time": "2024-01-01T00:00:00 05:30"}, 400, "%2B"),
        ({"limit": "0"}, 400, "limit"),
        ({"limit": "-1"}, 400, "limit"),
        ({"limit": "1.5"}, 400, "limit"),
        ({"raw": "limit=1&limit=2"}, 400, "limit"),
        ({"next_cursor": "made-up"}, 400, "made-up"),
        ({"truto_ignore_remote_data": "True"}, 400, "truto_ignore_remote_data"),
        ({"truto_ignore_limit": "1"}, 400, "truto_ignore_limit"),
        ({"truto_response_format": "xml"}, 400, "truto_response_format"),
        ({"truto_super_query": "emea"}, 400, "truto_super_query"),
        ({"raw": "truto_exclude_fields[a]=id"}, 400, "truto_exclude_fields[]"),
        ({"start_time": "0001-01-01T00:00:00+14:00"}, 400, "start_time"),
        ({"end_time": "9999-12-31T23:59:59-14:00"}, 400, "end_time"),
        ({"start_time": "२०२४-01-01T00:00:00Z"}, 400, "start_time"),
        ({"users": "1"}, 400, "users"),
        ({"remote_query": "a=b"}, 400, "remote_query"),
        ({"path": "/unified/crm/deals"}, 404, "Cannot GET"),
        ({"path": "/"}, 404, "Cannot GET"),
    ],
)
def test_wrong_parameters_are_refused(query: dict[str, Any], status: int, message: str) -> None:
    """A lenient fake would hide the client's mistakes until production."""

    async def main() -> None:
        async with Caller() as caller:
            response = await caller.get(**query)
            body = response.json
            assert (response.status, body["statusCode"]) == (status, status)
            assert body["error"] == {400: "Bad Request", 404: "Not Found"}[status]
            assert message in body["message"]
            assert set(body) - {"truto_error_insight"} == {"statusCode", "error", "message"}
            if "start_time" in query and query["start_time"] is None:
                names = body["truto_error_insight"]["missing_required_query_parameters"]["value"]
                assert names == [next(iter(query))]

    run(main(), DEADLINE)


PITFALLS = {
    "query parameter: starttime": "starttime=2024-01-01T00:00:00Z",
    "known here:": "foo[bar]=1",
    "created_at": "created_at[gt]=2024-01-01",
    "together with truto_super_query": "sort_by[id]=desc",
    "five brackets": "remote_query[a][b][c][d][e][f][g]=1",
    "remote_query is nested": "remote_query[x][]=1&remote_query[a][][b][c][d][e][f]=1",
    "several ids": "users[][id]=1&users[][id]=2",
    "at most 20 users": "&".join(f"users[{at}][id]={at}" for at in range(21)),
    "have no single id": "users[]=1&users[]=2",
    "1 of 2 users": "users[0][id]=&users[1][id]=1",
}


@pytest.mark.parametrize("message", list(PITFALLS))
def test_what_the_service_would_ignore_is_refused_with_the_reason(message: str) -> None:
    """Unless `strict` is off: then it is accepted as the service accepts it, and noted if it matches nobody."""

    async def main() -> None:
        async with Caller(interactions=3) as caller:
            response = await caller.get(raw=PITFALLS[message])
            assert (response.status, set(response.json)) == (400, {"statusCode", "error", "message"})
            assert message in response.json["message"]
        async with Caller(interactions=3, strict=False) as caller:
            found = await caller.collect(raw=PITFALLS[message])
            users = PITFALLS[message].startswith("users")
            assert len(found) == (0 if users else 3)
            assert len(caller.sandbox.requests[-1].notes) == users

    run(main(), DEADLINE)


def test_parameters_that_qs_drops_are_refused() -> None:
    """qs reads the first 1,000 parameters, and says nothing about the rest."""

    async def main() -> None:
        raw = "&".join("a" for _ in range(1000))
        async with Caller() as caller:
            response = await caller.get(raw=raw)
            assert (response.status, "1000 parameters" in response.json["message"]) == (400, True)
        async with Caller(strict=False) as caller:
            assert (await caller.get(raw=raw)).status == 200

    run(main(), DEADLINE)


NAMES = [
    "start_time", "end_time", "users", "users[0][id]", "users[][id]", "limit", "next_cursor", "truto_key_by",
    "truto_super_query", "truto_exclude_fields[]", "truto_exclude_fields", "truto_response_format", "created_at",
    "truto_skip_api_call", "created_at[gt]", "created_at[in]", "created_at[in][]", "created_at[a][b]", "sort_by",
    "sort_by[id]", "sort_by[user]", "metrics.patience[lt]", "id[ne]", "user", "remote_query[a][b]", "remote_query[]",
    "meeting", "meeting[id]", "meeting[id][]", "meeting.id", "user_id", "user_id[a]", "updated_at",
    "integration.name", "status", "features.super_query", "is_sandbox", "type", "methods", "has_description", "x",
]  # fmt: skip
VALUES = [
    "", "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00",
    "2024-01-01", "2024-13-01", "2024-13-01T00:00:00Z", "24:00", "wnam", "raw", "debug", "stream", "true", "false",
    "asc", "desc", "1", "0", "nan", "inf", "1e999", "-1", "gong", "id", "unified", "%ff", "%00", "é", "a,b",
]  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8),
    st.sampled_from(
        [
            "unified",
            "contacts",
            "accounts",
            "capabilities",
            "meta",
            "account",
            "meetings",
            "users",
            "transcripts",
            "activity",
            "meeting",
        ]
    ),
    st.booleans(),
)
def test_no_request_breaks_the_service(pairs: list[tuple[str, str]], what: str, strict: bool) -> None:
    """Whatever is asked, the response is one of Truto's, never a failure inside the sandbox."""
    sandbox = Sandbox(
        accounts=1, others=1, interactions=3, meetings=3, strict=strict, token_rate=None, account_rate=None
    )
    account = sandbox.account_ids[0]
    below = f"?integrated_account_id={account}&"
    meeting = sandbox.meeting_ids(account)[0]
    path = {
        "unified": f"{INTERACTIONS}?integrated_account_id={account}&{urlencode(JANUARY)}",
        "contacts": f"/unified/crm/contacts?integrated_account_id={account}",
        "accounts": "/integrated-account?",
        "capabilities": f"/integrated-account/{account}/capabilities?",
        "meta": f"{INTERACTIONS}/meta/list?integrated_account_id={account}",
        "account": f"/integrated-account/{account}?",
        "meetings": f"{MODEL}/meetings{below}",
        "users": f"{MODEL}/users{below}",
        "transcripts": f"{MODEL}/transcripts{below}meeting[id]={meeting}",
        "activity": f"{MODEL}/activity{below}{urlencode(JANUARY)}",
        "meeting": f"{MODEL}/meetings/{meeting}{below}",
    }[what]
    target = "&".join([path, *(f"{name}={value}" for name, value in pairs)])
    record = sandbox.record("GET", target, {"Authorization": f"Bearer {sandbox.token}"}, 0)
    response, _ = sandbox.respond(record, b"")
    assert response.status in (200, 400, 404)
    if response.content_type.startswith("application/json"):
        assert json.loads(response.body)


def test_options_of_a_page() -> None:
    """Excluded fields, keys, limits, remote data and remote query each show in the response."""

    async def main() -> None:
        async with Caller(interactions=5, extra_envelope={"x_trace": "t"}) as caller:
            plain = (await caller.get()).json
            assert list(plain) == [
                "result", "next_cursor", "prev_cursor", "result_count", "is_partial_response", "x_trace",
            ]  # fmt: skip
            assert (plain["next_cursor"], plain["result_count"]) == (None, 5)
            record = (await caller.get(raw="truto_exclude_fields[]=id&truto_exclude_fields[]=user")).json[
                "result"
            ][0]
            assert set(record) & {"id", "user"} == set()
            record = (await caller.get(truto_ignore_remote_data="true")).json["result"][0]
            assert "remote_data" not in record
            keyed = (await caller.get(truto_key_by="id")).json["result"]
            assert keyed == {item["id"]: item for item in plain["result"]}
            assert list((await caller.get(truto_key_by="user")).json["result"]) == ["[object Object]"]
            assert list((await caller.get(truto_key_by="nothing")).json["result"]) == ["undefined"]
            assert (await caller.get(limit="2")).json["result_count"] == 2
            assert (await caller.get(limit="2", truto_ignore_limit="true")).json["result_count"] == 5
            for fields in ("truto_exclude_fields=id,user", "truto_exclude_fields[]=id,user"):
                record = (await caller.get(raw=fields)).json["result"][0]
                assert set(record) & {"id", "user", "metrics"} == {"metrics"}
            assert (await caller.get(raw="remote_query[a][b]=1")).json == plain
            assert (await caller.get(next_cursor="")).json == plain
            skipped = (await caller.get(truto_skip_api_call="true")).json
            assert (skipped["result"], skipped["next_cursor"], skipped["result_count"]) == ([], None, 0)

    run(main(), DEADLINE)


@pytest.mark.parametrize(("setting", "last"), [("null", None), ("empty", ""), ("absent", "absent")])
def test_envelopes_vary(setting: Any, last: str | None) -> None:
    """The order of members is not guaranteed, and there are three ways to mark the last page."""

    async def main() -> None:
        async with Caller(interactions=3, end_cursor=setting, envelope_first=True) as caller:
            page = (await caller.get(limit="2")).json
            assert list(page)[-1] == "result"
            page = (await caller.get(limit="2", next_cursor=page["next_cursor"])).json
            assert page.get("next_cursor", "absent") == last
            back = (await caller.get(limit="2", next_cursor=page["prev_cursor"])).json
            assert back["result_count"] == 2

    run(main(), DEADLINE)


def test_a_field_without_a_value_is_none_of_the_listed_ones() -> None:
    assert filter_records([{"id": None}, {"id": "None"}], {"id": {"in": "None"}}) == [{"id": "None"}]


def test_super_query_filters_and_sorts() -> None:
    """Operators and sort_by only work with the synced store."""

    async def main() -> None:
        async with Caller(interactions=30, realistic=False) as caller:
            raw = "sort_by[id]=desc&metrics.interactivity[gt]=100"
            found = await caller.collect(truto_super_query="wnam", raw=raw)
            assert 0 < len(found) < 30
            assert [item["id"] for item in found] == sorted((item["id"] for item in found), reverse=True)
            assert all(item["metrics"]["interactivity"] > 100 for item in found)
            window = {"start_time": None, "end_time": None}
            raw = "created_at[gte]=2024-03-01T00:00:00Z&created_at[lt]=2024-05-01T00:00:00Z"
            found = await caller.collect(truto_super_query="apac", raw=raw, limit="100", **window)
            assert {item["created_at"][:7] for item in found} == {"2024-03", "2024-04"}
            one = found[0]["id"]
            for condition, count in ((f"id={one}", 12), (f"id[in]={one},x", 12), (f"id[ne]={one}", 12 * 29)):
                got = await caller.collect(truto_super_query="apac", raw=condition, limit="100", **window)
                assert len(got) == count
            assert (await caller.get(truto_super_query="apac", raw="id[like]=1")).status == 400
            assert (await caller.get(truto_super_query="apac", raw="created_at[gt]=soon")).status == 400
            assert (await caller.get(truto_super_query="apac", raw="nothing[gt]=1")).status == 400
            found = await caller.collect(
                truto_super_query="apac", raw="created_at[gt]=2024-11-30", limit="100", **window
            )
            assert {item["created_at"][:7] for item in found} == {"2024-12", "2025-01"}
            assert (await caller.get(truto_super_query="apac", raw="sort_by[id]=up")).status == 400

    run(main(), DEADLINE)


# --- formats ---------------------------------------------------------------------------------------------


def test_raw_and_stream_in_both_shapes() -> None:
    """The documentation does not say whether it is Truto's envelope or Gong's own body, so both are supported."""

    async def main() -> None:
        async with Caller(interactions=5, provider_shape="gong", stream_piece=100) as caller:
            rows = caller.sandbox.expected(caller.account, **JANUARY, provider=True)
            for kind in ("raw", "stream"):
                caller.sandbox.configure(caller.account, provider_shape="gong")
                response = await caller.get(truto_response_format=kind, limit="4")
                page = response.json
                assert page["peopleInteractionStats"] == rows[:4]
                assert (page["fromDateTime"], page["timeZone"]) == ("2024-01-01T00:00:00-08:00", "US/Pacific")
                assert "next_cursor" not in page
                records = page["records"]
                assert (records["totalRecords"], records["currentPageNumber"]) == (5, 0)
                response = await caller.get(
                    truto_response_format=kind, limit="4", next_cursor=records["cursor"]
                )
                assert response.json["peopleInteractionStats"] == rows[4:]
                assert "cursor" not in response.json["records"]
                caller.sandbox.configure(caller.account, provider_shape="envelope")
                in_envelope = rows if kind == "raw" else caller.sandbox.expected(caller.account, **JANUARY)
                assert await caller.collect(truto_response_format=kind, limit="2") == in_envelope
                assert response.headers.get("Transfer-Encoding") == ("chunked" if kind == "stream" else None)
            _, body, _ = await caller.raw(truto_response_format="stream")
            assert body.startswith(b"64\r\n{")
            assert await caller.collect(truto_response_format="normalized") == caller.sandbox.expected(
                caller.account, **JANUARY
            )

    run(main(), DEADLINE)


def test_streams_that_are_not_a_json_document() -> None:
    async def main() -> None:
        async with Caller(interactions=70) as caller:
            rows = caller.sandbox.expected(caller.account, **JANUARY)
            caller.sandbox.configure(caller.account, stream_as="ndjson")
            response = await caller.get(truto_response_format="stream")
            assert response.headers["Content-Type"] == "application/x-ndjson"
            assert [json.loads(line) for line in response.body.splitlines()] == rows
            caller.sandbox.configure(caller.account, stream_as="bytes")
            first, again = [(await caller.get(truto_response_format="stream")).body for _ in range(2)]
            assert first == again
            assert len(first) == 70 * 256
            caller.sandbox.configure(caller.account, stream_as="empty")
            assert (await caller.get(truto_response_format="stream")).body == b""

    run(main(), DEADLINE)


def test_debug_reveals_the_credentials_of_the_provider() -> None:
    """As the real service does, so that a client that prints or logs them is caught."""

    async def main() -> None:
        async with Caller(interactions=5) as caller:
            secret = caller.sandbox.provider_secret
            page = (
                await caller.get(
                    truto_response_format="debug",
                    limit="2",
                    raw="remote_query[a][b][]=x+y&remote_query[a][b][]=%C3%A9",
                )
            ).json
            debug = page["debug"]
            assert list(debug) == [
                "requestUrl", "requestOptions", "data", "responseHeaders", "nextCursor", "isLooping", "isEmptyResult",
                "resultCount",
            ]  # fmt: skip
            assert secret in debug["requestOptions"]["headers"]["Authorization"]
            assert (
                debug["requestUrl"]
                == "https://api.gong.io/v2/stats/interaction?a%5Bb%5D%5B%5D=x+y&a%5Bb%5D%5B%5D=%C3%A9"
            )
            body = (await caller.get(truto_response_format="raw", limit="2")).json["result"]
            assert debug["data"]["peopleInteractionStats"] == body
            assert set(debug["data"]) == {
                "requestId", "records", "peopleInteractionStats", "timeZone", "fromDateTime", "toDateTime",
            }  # fmt: skip
            assert debug["data"]["records"]["totalRecords"] == 5
            assert (debug["nextCursor"], debug["resultCount"]) == (page["next_cursor"], 2)
            assert (await caller.get(truto_response_format="debug", truto_skip_api_call="true")).json[
                "debug"
            ] is None
            assert secret.encode() not in (await caller.get()).body

    run(main(), DEADLINE)


# --- cursors ---------------------------------------------------------------------------------------------


def test_a_cursor_belongs_to_its_filters() -> None:
    """The service expects all parameters with each cursor, so a client that omits one must get an error."""

    async def main() -> None:
        async with Caller(accounts=2) as caller:
            cursor = (await caller.get(limit="10")).json["next_cursor"]
            user = caller.sandbox.user_ids(caller.account)[0]
            for change, name in (
                ({"limit": "11"}, "limit"),
                ({"limit": None}, "limit"),
                ({"start_time": "2024-01-02T00:00:00Z"}, "start_time"),
                ({"end_time": "2024-02-02T00:00:00Z"}, "end_time"),
                ({"integrated_account_id": caller.sandbox.account_ids[1]}, "integrated_account_id"),
                ({"truto_response_format": "raw"}, "truto_response_format"),
                ({"raw": f"users[0][id]={user}"}, "users"),
                ({"raw": "truto_exclude_fields[]=id"}, "truto_exclude_fields"),
                ({"truto_super_query": "apac"}, "truto_super_query"),
            ):
                response = await caller.get(**{"limit": "10", "next_cursor": cursor} | change)
                assert response.status == 400
                assert response.json["message"].endswith(f"other values of: {name}")
                assert cursor in response.json["message"]
            same = {"start_time": "2023-12-31T19:00:00-05:00", "truto_ignore_remote_data": "true"}
            assert (await caller.get(limit="10", next_cursor=cursor, **same)).status == 200
            listing = await caller.get(path="/integrated-account", next_cursor=cursor)
            assert (listing.status, "another list" in listing.json["message"]) == (400, True)
            swapped = cursor[:20] + ("A" if cursor[20] != "A" else "B") + cursor[21:]
            for broken in (swapped, cursor[:-1], cursor[1:], cursor + "A", "é", "x" * 500):
                response = await caller.get(limit="10", next_cursor=broken)
                assert (response.status, "not a cursor" in response.json["message"]) == (400, True)

    run(main(), DEADLINE)


def test_cursors_expire() -> None:
    async def main() -> None:
        now = 1_750_000_000.0
        async with Caller(cursor_ttl=60.0, clock=lambda: now) as caller:
            cursor = (await caller.get()).json["next_cursor"]
            now += 59
            fresh = await caller.get(next_cursor=cursor)
            assert fresh.status == 200
            now += 2
            response = await caller.get(next_cursor=cursor)
            assert (response.status, response.json["message"]) == (400, "The cursor has expired")
            cursor = fresh.json["next_cursor"]
            assert (await caller.get(next_cursor=cursor)).status == 200
            caller.sandbox.expire_cursors()
            assert (await caller.get(next_cursor=cursor)).json["message"] == "The cursor has expired"

    run(main(), DEADLINE)


# --- accounts and tokens ---------------------------------------------------------------------------------


def test_accounts_are_listed_and_filtered() -> None:
    async def main() -> None:
        async with Caller(accounts=4, others=5, accounts_key="results") as caller:
            sandbox = caller.sandbox

            async def listed(**query: str) -> list[str]:
                found: list[str] = []
                cursor: str | None = None
                while True:
                    response = await caller.get(
                        path="/integrated-account", limit="2", next_cursor=cursor, **query
                    )
                    assert response.json["limit"] == 2
                    found += [account["id"] for account in response.json["results"]]
                    cursor = response.json["next_cursor"]
                    if not cursor:
                        return found

            everyone = [account["id"] for account in sandbox.accounts]
            assert len(everyone) == 9
            assert sandbox.account_ids == everyone[:4]
            assert await listed() == everyone
            assert await listed(**{"integration.name": "gong", "status": "active"}) == everyone[:4]
            assert len(await listed(status="needs_reauth")) == 1
            assert await listed(tenant_id="tenant-2") == [everyone[1]]
            assert await listed(is_sandbox="true") == [everyone[2], everyone[5], everyone[8]]
            for day in ("2024-01-08T00:00:00Z", "2024-01-08", "2024-01-08T05:30:00+05:30"):
                assert await listed(**{"created_at[gt]": day}) == everyone[7:]
            assert (
                await listed(**{"created_at[gte]": "2024-01-03", "created_at[lt]": "2024-01-05"})
                == everyone[2:4]
            )
            assert await listed(**{"status[ne]": "active"}) == [everyone[each] for each in (4, 6, 7, 8)]
            assert await listed(**{"tenant_id[in]": "tenant-1,tenant-9"}) == [everyone[0], everyone[8]]
            assert await listed(environment_id=sandbox.accounts[0]["environment_id"]) == everyone
            assert await listed(environment_id="another") == []
            assert await listed(**{"features.super_query": "false"}) == [everyone[5], everyone[7]]
            assert {account["region"] for account in sandbox.accounts} == {"wnam", "apac"}
            for wrong in (
                {"integration": "gong"},
                {"created_at[gt]": "soon"},
                {"status[like]": "a"},
                {"status": ""},
            ):
                response = await caller.get(path="/integrated-account", **wrong)
                assert (response.status, set(response.json)) == (400, {"statusCode", "error", "message"})
            response = await caller.get(path="/integrated-account", is_sandbox="maybe")
            assert response.status == 400
            response = await caller.get(path=f"/integrated-account/{everyone[0]}")
            assert response.json == sandbox.accounts[0]
            assert set(response.json) == {
                "id", "tenant_id", "environment_id", "environment_integration_id", "status", "is_sandbox",
                "authentication_method", "region", "context", "integration", "features", "object_store_context_fields",
                "created_at", "updated_at", "last_error", "last_forbidden_error", "last_action_run_result",
            }  # fmt: skip

    run(main(), DEADLINE)


@pytest.mark.parametrize("shape", ["list", "resources"])
def test_capabilities_in_both_shapes(shape: Any) -> None:
    async def main() -> None:
        async with Caller(capabilities_shape=shape) as caller:
            path = f"/integrated-account/{caller.account}/capabilities"

            async def asked(**query: str) -> Any:
                response = await caller.get(path=path, **query)
                assert response.status == 200, response.body
                return response.json

            def offered(body: Any) -> dict[str, list[str]]:
                if shape == "list":
                    assert {each["model"] for each in body["unified"]} == {"conversational-intelligence"}
                    return {each["resource"]: each["methods"] for each in body["unified"]}
                return {each["name"]: each["methods"] for each in body["unified"]["resources"]}

            everything = await asked()
            assert set(everything) == {
                "account", "integration", "environment_id", "auth", "ai_readiness", "env_overridden",
                "unified", "proxy",
            }  # fmt: skip
            assert everything == await asked(type="all", has_description="true")
            assert everything["account"] == {"id": caller.account, "status": "active", "is_blocked": False}
            assert everything["integration"]["name"] == "gong"
            assert offered(everything) == {
                "meetings": ["list", "get"], "users": ["list", "get"], "transcripts": ["list"], "activity": ["list"],
                "interactions": ["list"],
            }  # fmt: skip
            assert [set(method) for each in everything["proxy"] for method in each["methods"]] == [
                {"name", "has_description", "has_query_schema", "has_body_schema", "has_response_schema",
                 "api_documentation_url"}
            ] * 4  # fmt: skip
            assert "proxy" not in await asked(type="unified")
            assert "unified" not in await asked(type="proxy")
            assert offered(await asked(type="unified", resource="users")) == {"users": ["list", "get"]}
            assert offered(await asked(methods="get")) == {"meetings": ["get"], "users": ["get"]}
            assert len((await asked(has_description="false"))["proxy"]) == len(everything["proxy"]) + 1
            for wrong in ({"type": "some"}, {"has_description": "1"}, {"resources": "users"}):
                assert (await caller.get(path=path, **wrong)).status == 400
            caller.sandbox.configure(caller.account, blocked=True)
            assert (await asked())["account"]["status"] == "blocked"

    run(main(), DEADLINE)


def test_meta_describes_a_list() -> None:
    async def main() -> None:
        async with Caller() as caller:
            path = f"{INTERACTIONS}/meta/list"
            body = (await caller.get(path=path, integrated_account_id=caller.account)).json
            assert set(body) == {"query_schema", "response_schema"}
            assert body["query_schema"]["required"] == ["start_time", "end_time"]
            assert set(body["query_schema"]["properties"]) == {"start_time", "end_time", "users"}
            assert "metrics" in body["response_schema"]["properties"]
            contacts = await caller.get(
                path="/unified/crm/contacts/meta/list", integrated_account_id=caller.account
            )
            assert contacts.json["query_schema"]["required"] == []
            assert (
                await caller.get(path=f"{INTERACTIONS}/meta/get", integrated_account_id=caller.account)
            ).status == 404
            assert (await caller.get(path=path)).status == 400

    run(main(), DEADLINE)


def test_accounts_that_cannot_be_used() -> None:
    """Disconnected, inactive, blocked or of another integration: each has its own error."""

    async def main() -> None:
        async with Caller(others=5) as caller:
            by_status = {account["status"]: account["id"] for account in caller.sandbox.accounts}
            response = await caller.get(integrated_account_id=by_status["needs_reauth"])
            assert (response.status, response.json["truto_is_remote_error"]) == (401, True)
            assert (await caller.get(integrated_account_id=by_status["validation_error"])).status == 400
            hubspot = next(a["id"] for a in caller.sandbox.accounts if a["integration"]["name"] == "hubspot")
            response = await caller.get(integrated_account_id=hubspot)
            assert (response.status, response.json.get("truto_is_remote_error")) == (404, None)
            caller.sandbox.configure(caller.account, blocked=True)
            response = await caller.get()
            assert (response.status, response.headers.get("Retry-After")) == (503, None)
            caller.sandbox.configure(caller.account, blocked=False, status="needs_reauth")
            assert (await caller.get(integrated_account_id=caller.sandbox.accounts[0]["id"])).status == 401

    run(main(), DEADLINE)


def test_tokens() -> None:
    """A wrong token gets a local 401. An account's token implies the account and expires after 15 minutes."""

    async def main() -> None:
        now = 1_750_000_000.0
        async with Caller(clock=lambda: now) as caller:
            for header in ("", "Bearer", "Bearer nonsense", "Basic sandbox-token", "sandbox-token"):
                response = await caller.get(headers={"Authorization": header})
                assert (response.status, response.json["error"]) == (401, "Unauthorized")
                assert "truto_is_remote_error" not in response.json
            assert (await caller.get(headers={"Authorization": "bearer sandbox-token"})).status == 200
            caller.sandbox.tokens.append("second")
            assert (await caller.get(headers={"Authorization": "Bearer second"})).status == 200

            path = "/integrated-account/token"
            response = await caller.send("POST", path, json={"integrated_account_id": caller.account})
            token = response.json["integrated_account_token"]
            own = {"Authorization": f"Bearer {token}"}
            assert (await caller.get(headers=own, integrated_account_id=None)).status == 200
            assert caller.sandbox.requests[-1].account == caller.account
            assert (await caller.get(headers=own)).status == 200
            other = caller.sandbox.account_ids[1]
            assert (await caller.get(headers=own, integrated_account_id=other)).status == 403
            assert (await caller.get(headers=own, path="/integrated-account")).status == 403
            mine = await caller.get(headers=own, path="/integrated-account/me")
            assert (mine.status, mine.json) == (200, caller.sandbox.accounts[0])
            for below in (
                caller.account,
                f"{caller.account}/capabilities",
                other,
                "me/capabilities",
                "token",
            ):
                status = 405 if below == "token" else 403
                response = await caller.get(headers=own, path=f"/integrated-account/{below}")
                assert (response.status, set(response.json)) == (status, {"statusCode", "error", "message"})
            assert (await caller.send("POST", path, headers=own, json={})).status == 403
            assert (await caller.get(path="/integrated-account/me")).status == 404
            now += 899
            assert (await caller.get(headers=own)).status == 200
            now += 2
            assert (await caller.get(headers=own)).status == 401

            for body in (b"", b"{", b"[]", b"[" * 50_000, b"{}", b'{"integrated_account_id": 5}'):
                assert (await caller.send("POST", path, data=body)).status == 400
            assert (await caller.send("POST", path, json={"integrated_account_id": "x"})).status == 404
            assert (await caller.send("POST", path, data=b"x" * 100_000)).status == 413
            assert (await caller.send("GET", path)).status == 405
            assert (await caller.send("POST", caller.target())).status == 405

    run(main(), DEADLINE)


def test_another_resource_pages_the_same_way() -> None:
    async def main() -> None:
        async with Caller() as caller:
            path, account = "/unified/crm/contacts", caller.account
            found = await caller.collect(path=path, integrated_account_id=account, limit="10")
            assert len(found) == 36
            one = await caller.get(path=f"{path}/1003", integrated_account_id=account)
            assert one.json == found[3]
            assert (await caller.get(path=f"{path}/5", integrated_account_id=account)).status == 404
            raw = "sort_by[id]=desc&id[lt]=1010"
            some = await caller.collect(
                path=path, integrated_account_id=account, truto_super_query="apac", raw=raw
            )
            assert [int(item["id"]) for item in some] == list(range(1009, 999, -1))
            assert (await caller.get(path=path)).status == 400

    run(main(), DEADLINE)


# --- limits ----------------------------------------------------------------------------------------------


def test_sliding_windows_slide() -> None:
    window = SlidingWindow(2, 10.0)
    assert [window.admit(now) for now in (0.0, 4.0, 9.9, 10.0, 13.9, 14.0)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert (window.remaining(15.0), window.reset_after(15.0)) == (0, 5.0)
    assert (window.remaining(24.0), window.reset_after(24.0)) == (2, 0.0)


def test_both_of_trutos_limits_are_enforced() -> None:
    """Their 429s have a `Retry-After` and nothing else: `ratelimit-*` headers are the provider's."""

    async def main() -> None:
        now = 1_750_000_000.0
        async with Caller(clock=lambda: now, token_rate=(5, 10.0), account_rate=(3, 10.0)) as caller:
            responses = [await caller.get() for _ in range(4)]
            other = caller.sandbox.account_ids[1]
            responses += [await caller.get(integrated_account_id=other) for _ in range(2)]
            assert [response.status for response in responses] == [200, 200, 200, 429, 200, 429]
            for response in responses:
                assert not [name for name in response.headers if name.lower().startswith("ratelimit")]
            for refusal in (responses[3], responses[5]):
                assert refusal.headers["Retry-After"] == "10"
                assert set(refusal.json) == {"statusCode", "error", "message"}
                assert refusal.json["error"] == "Too Many Requests"
            stats = caller.sandbox.stats
            assert (stats.account_refusals, stats.token_refusals, stats.rate_limited) == (1, 1, 2)
            now += 10
            assert (await caller.get()).status == 200
            caller.sandbox.clear()
            assert (caller.sandbox.stats.requests, caller.sandbox.requests) == (0, [])

    run(main(), DEADLINE)


@pytest.mark.parametrize(
    ("shape", "limit", "reset"),
    [("plain", "3", "10"), ("window", "3;w=10", "10"), ("epoch", "3", "1750000010")],
)
def test_the_providers_limit_is_remote_and_has_headers(shape: Any, limit: str, reset: str) -> None:
    """A 429 has all the headers that a client may use to slow down."""

    async def main() -> None:
        now = 1_750_000_000.0
        async with Caller(clock=lambda: now, provider_rate=(3, 10.0), ratelimit_headers=shape) as caller:
            responses = [await caller.get() for _ in range(4)]
            assert [response.status for response in responses] == [200, 200, 200, 429]
            assert [response.headers["ratelimit-remaining"] for response in responses] == ["2", "1", "0", "0"]
            assert {response.headers["ratelimit-limit"] for response in responses} == {limit}
            assert {response.headers["ratelimit-reset"] for response in responses} == {reset}
            refusal = responses[-1]
            assert refusal.headers["Retry-After"] == "10"
            assert refusal.json["truto_is_remote_error"] is True
            assert set(refusal.json["truto_error_insight"]) == {"rate_limit_error"}
            assert set(refusal.json["truto_error_insight"]["rate_limit_error"]) == {"description"}
            assert (await caller.get(integrated_account_id=caller.sandbox.account_ids[1])).status == 200
            assert (await caller.get(path="/integrated-account")).status == 200
            stats = caller.sandbox.stats
            assert (stats.provider_refusals, stats.rate_limited) == (1, 1)
            now += 10
            assert (await caller.get()).status == 200

    run(main(), DEADLINE)


def test_limits_default_to_those_of_truto_and_can_be_switched_off() -> None:
    async def main() -> None:
        async with Caller() as caller:
            statuses = [(await caller.get(limit="1")).status for _ in range(51)]
            assert statuses == [200] * 50 + [429]
        async with Caller(token_rate=None, account_rate=None) as caller:
            responses = [await caller.get(limit="1") for _ in range(60)]
            assert {response.status for response in responses} == {200}
            assert "ratelimit-limit" not in responses[0].headers

    run(main(), DEADLINE)


# --- faults ----------------------------------------------------------------------------------------------


async def statuses(caller: Caller, count: int) -> list[int]:
    return [(await caller.get(limit="1")).status for _ in range(count)]


def test_scripted_faults_happen_in_order() -> None:
    """One after the other, several times, on the n-th request, on every n-th; other accounts are not affected."""

    async def main() -> None:
        async with Caller(account_rate=None) as caller:
            sandbox = caller.sandbox
            sandbox.script(caller.account, [Fault.status(500), Fault.ok(), Fault.status(503).times(2)])
            other = await caller.get(integrated_account_id=sandbox.account_ids[1])
            assert (other.status, await statuses(caller, 6)) == (200, [500, 200, 503, 503, 200, 200])
            assert [record.fault for record in sandbox.requests_for(caller.account)[:4]] == [
                "status", "ok", "status", "status",
            ]  # fmt: skip
            assert sandbox.stats.faults == 3
            sandbox.clear_faults()
            sandbox.script(
                caller.account, [Fault.status(500).on(2), Fault.status(502).every(3), Fault.status(504)]
            )
            assert await statuses(caller, 7) == [504, 500, 502, 200, 200, 502, 200]
            sandbox.clear_faults()
            sandbox.fault(Fault.status(500).every(2).times(2), caller.account)
            assert await statuses(caller, 7) == [200, 500, 200, 500, 200, 200, 200]
            sandbox.clear_faults()
            sandbox.fault(Fault.status(418).forever())
            assert await statuses(caller, 3) == [418] * 3
            assert (await caller.get(path="/integrated-account")).status == 418
            with pytest.raises(KeyError):
                sandbox.fault(Fault.ok(), "nobody")

    run(main(), DEADLINE)


def test_status_faults() -> None:
    """Truto's error body by default, any other if given."""

    async def main() -> None:
        async with Caller() as caller:
            caller.sandbox.script(
                caller.account,
                [
                    Fault.status(
                        422,
                        message="Email is invalid",
                        remote=True,
                        details={"failures": []},
                        raw_response={},
                    ),
                    Fault.status(403, insight={"forbidden_error": {"value": {"missing_scopes": ["x"]}}}),
                    Fault.status(500, body="plain", content_type="text/plain", headers={"X-Id": "1"}),
                    Fault.status(522),
                    Fault.status(599, body={"a": 1}),
                    Fault.status(204),
                    Fault.html(status=502),
                    Fault.html(),
                    Fault.empty_body(),
                    Fault.empty_body(status=500),
                    Fault.body(b"\xef\xbb\xbf{}", content_type="application/octet-stream"),
                    Fault.body([1]),
                    Fault.redirect("/elsewhere", 307),
                ],
            )
            responses = [await caller.get() for _ in range(13)]
            assert [response.status for response in responses] == [
                422, 403, 500, 522, 599, 204, 502, 200, 200, 500, 200, 200, 307,
            ]  # fmt: skip
            assert responses.pop(5).body == b""
            assert responses[0].json == {
                "statusCode": 422,
                "error": "Unprocessable Entity"
                if "Entity" in responses[0].json["error"]
                else "Unprocessable Content",
                "message": "Email is invalid",
                "details": {"failures": []},
                "truto_is_remote_error": True,
                "raw_response": {},
            }
            assert responses[1].json["truto_error_insight"]["forbidden_error"]["value"] == {
                "missing_scopes": ["x"]
            }
            assert (responses[2].body, responses[2].headers["X-Id"]) == (b"plain", "1")
            assert responses[4].json == {"a": 1}
            for page in responses[5:7]:
                assert page.headers["Content-Type"].startswith("text/html")
                assert page.body.startswith(b"<!doctype html>")
            assert (responses[7].body, responses[8].body, responses[9].body) == (b"", b"", b"\xef\xbb\xbf{}")
            assert responses[11].headers["Location"] == "/elsewhere"

    run(main(), DEADLINE)


def test_retry_after_forms_and_a_skewed_clock() -> None:
    async def main() -> None:
        now = 1_750_000_000.0
        async with Caller(clock=lambda: now, date_skew=3600.0) as caller:
            forms = [
                {"retry_after": 7},
                {"retry_after": 7, "retry_as_date": True},
                {"retry_after": "soon"},
                {},
            ]
            caller.sandbox.script(caller.account, [Fault.status(429, **form) for form in forms])
            responses = [await caller.get() for _ in forms]
            texts = [response.headers.get("Retry-After") for response in responses]
            assert (texts[0], texts[2], texts[3]) == ("7", "soon", None)
            sent = parsedate_to_datetime(responses[1].headers["Date"])
            assert sent.timestamp() == now + 3600
            assert parsedate_to_datetime(str(texts[1])) - sent == timedelta(seconds=7)

    run(main(), DEADLINE)


def test_faults_of_a_page_lose_no_records() -> None:
    """An empty page in the middle, and cursors that form a loop."""

    async def main() -> None:
        async with Caller(interactions=25, page_size=10) as caller:
            expected = caller.sandbox.expected(caller.account, **JANUARY)
            caller.sandbox.script(
                caller.account, [Fault.empty_page(), Fault.ok(), Fault.empty_page().times(2)]
            )
            assert await caller.collect() == expected
            assert len(caller.sandbox.requests) == 6

            ids = [account["id"] for account in caller.sandbox.accounts]
            caller.sandbox.fault(Fault.empty_page())
            found = await caller.collect(path="/integrated-account", limit="2")
            assert [account["id"] for account in found] == ids

            for length in (1, 2, 5):
                caller.sandbox.clear_faults()
                caller.sandbox.fault(Fault.loop(length), caller.account)
                cursors: list[str] = []
                for _ in range(3 * length):
                    page = (await caller.get(next_cursor=cursors[-1] if cursors else None)).json
                    cursors.append(page["next_cursor"])
                assert len(set(cursors)) == length
                assert cursors[:length] == cursors[length : 2 * length]

    run(main(), DEADLINE)


def test_malformed_items() -> None:
    async def main() -> None:
        async with Caller(interactions=2) as caller:
            good = caller.sandbox.expected(caller.account, **JANUARY)
            bad = [None, 5, {"id": 7}, b'{"id": "\\ud800"}']
            caller.sandbox.script(
                caller.account,
                [Fault.items(bad), Fault.items(bad[:2], mode="append"), Fault.items([[]], mode="prepend")],
            )
            assert (await caller.get()).json["result"] == [None, 5, {"id": 7}, {"id": "\ud800"}]
            assert (await caller.get()).json["result"] == [*good, None, 5]
            assert (await caller.get()).json["result"] == [[], *good]
            assert (await caller.get()).json["result"] == good

    run(main(), DEADLINE)


def test_broken_connections() -> None:
    """Reset or closed: before the first byte, within the head, within the body."""

    async def main() -> None:
        async with Caller() as caller:
            whole = b"\r\n\r\n".join((await caller.raw())[:2])
            for make, ending in ((Fault.reset, "reset"), (Fault.disconnect, "eof")):
                for after in (0, 10, 1000):
                    caller.sandbox.fault(make(after), caller.account)
                    head, body, ended = await caller.raw()
                    got = head + (b"\r\n\r\n" + body if body else b"")
                    assert (len(got), got[:15], ended) == (after, whole[: min(15, after)], ending)
                    status = caller.sandbox.requests[-1].status
                    assert status == (200 if after else None)

    run(main(), DEADLINE)


def test_truncated_responses() -> None:
    """Five ways to lose the second half of a body. In the last three the HTTP itself is complete."""

    async def main() -> None:
        async with Caller(interactions=20, stream_piece=4096) as caller:
            _, whole, _ = await caller.raw()
            modes: list[Any] = ["length", "chunked", "json", "gzip", "br"]
            caller.sandbox.script(caller.account, [Fault.truncate(mode) for mode in modes])
            head, body, ended = await caller.raw()
            assert f"Content-Length: {len(whole)}".encode() in head
            assert (body, ended) == (whole[: len(whole) // 2], "eof")
            head, body, ended = await caller.raw()
            assert b"Transfer-Encoding: chunked" in head
            assert (body.endswith(b"0\r\n\r\n"), ended) == (False, "eof")
            response = await caller.get()
            assert response.body == whole[: len(whole) // 2]
            head, body, ended = await caller.raw()
            assert b"Content-Encoding: gzip" in head
            assert (body.endswith(b"\r\n0\r\n\r\n"), ended) == (True, "open")
            unpacker = zlib.decompressobj(31)
            part = unpacker.decompress(b"".join(chunks(body)))
            assert (whole.startswith(part), unpacker.eof, 0 < len(part) < len(whole)) == (True, False, True)
            head, body, _ = await caller.raw()
            assert b"Content-Encoding: br" in head
            with pytest.raises(brotli.error):
                brotli.decompress(b"".join(chunks(body)))
            caller.sandbox.fault(Fault.truncate("length", keep=10), caller.account)
            assert (await caller.raw())[1] == whole[:10]

    run(main(), DEADLINE)


def chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def test_hanging_responses() -> None:
    """No response, or only part of one. The connection stays open until the client disconnects."""

    async def main() -> None:
        async with Caller() as caller:
            _, whole, _ = await caller.raw()
            caller.sandbox.script(
                caller.account, [Fault.hang(), Fault.hang_body(), Fault.hang_body(0.5), Fault.slow(9.0)]
            )
            assert await caller.raw() == (b"", b"", "open")
            assert caller.sandbox.requests[-1].status is None
            head, body, ended = await caller.raw()
            assert (head[:15], body, ended) == (b"HTTP/1.1 200 OK", b"", "open")
            assert (await caller.raw())[1:] == (whole[: len(whole) // 2], "open")
            assert await caller.raw() == (b"", b"", "open")
            caller.sandbox.fault(Fault.slow(0.001), caller.account)
            assert (await caller.get()).status == 200

    run(main(), DEADLINE)


def test_a_dripping_response() -> None:
    async def main() -> None:
        async with Caller(interactions=1) as caller:
            page = (await caller.get(truto_ignore_remote_data="true")).body
            caller.sandbox.script(
                caller.account,
                [Fault.drip(0.0), Fault.drip(0.0, part="all"), Fault.drip(60), Fault.drip(60, part="all")],
            )
            assert (await caller.get(truto_ignore_remote_data="true")).body == page
            assert (await caller.get(truto_ignore_remote_data="true")).body == page
            head, body, ended = await caller.raw()
            assert (head[:15], body, ended) == (b"HTTP/1.1 200 OK", b"", "open")
            assert await caller.raw() == (b"", b"", "open")

    run(main(), DEADLINE)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_content_codings(encoding: Any) -> None:
    """Used only for clients that accept it, unless a fault forces it."""

    async def main() -> None:
        async with Caller(compress=encoding, account_rate=None) as caller:
            plain = await caller.get()
            assert "Content-Encoding" not in plain.headers
            for accepted in (encoding, f"identity, {encoding.upper()};q=0.5"):
                response = await caller.get(headers={"Accept-Encoding": accepted})
                assert (response.headers["Content-Encoding"], response.body) == (encoding, plain.body)
                assert int(response.headers["Content-Length"]) < len(plain.body) // 3
            response = await caller.get(headers={"Accept-Encoding": f"{encoding};q=0, identity"})
            assert "Content-Encoding" not in response.headers
            query = {"truto_response_format": "stream", "limit": "20"}
            stream = await caller.get(headers={"Accept-Encoding": encoding}, **query)
            assert (stream.headers["Content-Encoding"], stream.json["result_count"]) == (encoding, 20)
        async with Caller() as caller:
            caller.sandbox.script(
                caller.account, [Fault.compressed(encoding), Fault.bomb(encoding, 3_000_001)]
            )
            forced, blown = await caller.get(), await caller.get()
            assert (forced.headers["Content-Encoding"], forced.body) == (encoding, plain.body)
            assert blown.body == b" " * 3_000_001
            assert int(blown.headers["Content-Length"]) < 10_000

    run(main(), DEADLINE)


def test_bombs_are_small_and_quick() -> None:
    assert len(bomb("gzip", 2**30)) < 2 * 2**20
    with pytest.raises(ValueError):
        Fault.bomb("lzma")  # type: ignore[arg-type]


def test_every_nth_request_of_a_connection_can_be_reset() -> None:
    """A keep-alive connection breaks on its third request, as if a proxy had just closed it."""

    async def main() -> None:
        async with Caller(reset_every=3) as caller:
            assert await statuses(caller, 6) == [200] * 6  # aiohttp itself resends a GET once
            records = caller.sandbox.requests
            assert [record.fault for record in records] == [
                None, None, "reset_every", None, None, "reset_every", None, None,
            ]  # fmt: skip
            ports = [record.peer_port for record in records]
            assert (len(set(ports)), ports[0] == ports[2] != ports[3]) == (3, True)

    run(main(), DEADLINE)


# --- the server ------------------------------------------------------------------------------------------


def test_requests_are_recorded_as_they_arrived() -> None:
    async def main() -> None:
        async with Caller() as caller:
            await caller.get(raw="users%5B0%5D%5Bid%5D=1&truto_key_by=a%2Bb+c", headers={"X-Mine": "1"})
            record = caller.sandbox.requests[0]
            assert (record.method, record.path, record.status) == ("GET", INTERACTIONS, 200)
            assert record.target.endswith("users%5B0%5D%5Bid%5D=1&truto_key_by=a%2Bb+c")
            assert record.query["users"] == [{"id": "1"}]
            assert record.query["truto_key_by"] == "a+b c"
            assert (record.headers["x-mine"], record.account) == ("1", caller.account)
            with pytest.raises(AttributeError):
                record.status = 500  # type: ignore[misc]

        async with Caller(record_limit=10) as caller:
            await statuses(caller, 25)
            assert 5 <= len(caller.sandbox.requests) <= 10
            assert caller.sandbox.stats.requests == 25

    run(main(), DEADLINE)


def test_a_request_is_recorded_before_it_is_answered() -> None:
    """So a test can wait until a hanging request has arrived."""

    async def main() -> None:
        async with Caller() as caller:
            caller.sandbox.fault(Fault.hang(), caller.account)
            pending = asyncio.create_task(caller.get())
            while not caller.sandbox.requests:
                await asyncio.sleep(0)
            assert caller.sandbox.requests[0].status is None
            pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending

    run(main(), DEADLINE)


def test_closing_drops_every_connection_at_once() -> None:
    """Hanging, dripping and idle ones too. The sandbox can be closed twice, and started again."""

    async def main() -> None:
        sandbox = Sandbox()
        with pytest.raises(RuntimeError, match="not running"):
            _ = sandbox.url
        async with Caller() as caller:
            sandbox = caller.sandbox
            assert (await caller.get()).status == 200
            kinds = [Fault.hang(), Fault.hang_body(), Fault.drip(60), Fault.slow(60)]
            sandbox.script(caller.account, kinds)
            pending = [asyncio.create_task(caller.get()) for _ in kinds]
            while len(sandbox.requests) < 5:
                await asyncio.sleep(0)
            port = int(sandbox.url.rpartition(":")[2])
            reader, idle = await asyncio.open_connection("127.0.0.1", port)
            started = asyncio.get_running_loop().time()
            await sandbox.aclose()
            await sandbox.aclose()
            ends = await asyncio.gather(*pending, return_exceptions=True)
            assert await reader.read() == b""
            idle.close()
            assert all(isinstance(end, aiohttp.ClientError) for end in ends), ends
            assert asyncio.get_running_loop().time() - started < 1.0
            await sandbox.start()
            await sandbox.start()
            assert (await caller.get()).status == 200

    run(main(), DEADLINE)


def test_it_listens_once_whoever_starts_and_closes_it() -> None:
    """Two tasks that start it at the same time share one listener. One that is closed meanwhile is not left open."""

    async def main() -> None:
        sandbox = Sandbox(accounts=1)
        create, made = asyncio.get_running_loop().create_server, list[asyncio.Server]()

        async def created(*args: Any, **options: Any) -> asyncio.Server:
            made.append(await create(*args, **options))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "create_server", created)
            await asyncio.gather(sandbox.start(), sandbox.start())
            assert len(made) == 1
            await asyncio.gather(sandbox.aclose(), sandbox.start(), sandbox.aclose())
        assert not any(each.is_serving() for each in made)
        assert "not running" in repr(sandbox)

    run(main(), DEADLINE)


def test_a_client_may_disconnect_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that is not read to its end leaves no task, connection or log line behind."""

    async def main() -> None:
        async with Caller(interactions=20_000, stream_as="ndjson", stream_piece=65_536) as caller:
            url = yarl.URL(caller.sandbox.url + caller.target(truto_response_format="stream"), encoded=True)
            for read in (0, 1, 100_000):
                async with caller.session.get(url) as response:
                    assert len(await response.content.read(read)) <= read
                    response.close()
            assert (await caller.get()).status == 200

    run(main(), DEADLINE)
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []


def test_it_runs_in_a_thread() -> None:
    """For code that is not async, here urllib."""
    with Sandbox.in_thread(accounts=1, interactions=3) as sandbox:
        query = urlencode({"integrated_account_id": sandbox.account_ids[0], **JANUARY})
        request = urllib.request.Request(f"{sandbox.url}{INTERACTIONS}?{query}")
        request.add_header("Authorization", f"Bearer {sandbox.token}")
        sandbox.fault(Fault.slow(0.001), sandbox.account_ids[0])
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            assert json.load(response)["result_count"] == 3
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError), Sandbox.in_thread(port=port):
            pass


def test_run_serves_until_cancelled() -> None:
    async def main() -> None:
        ready: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(package.run(0, ready=ready.set_result, accounts=1))
        sandbox = await ready
        async with aiohttp.ClientSession() as session, session.get(sandbox.url) as response:
            assert response.status == 401
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(RuntimeError):
            _ = sandbox.url

    run(main(), DEADLINE)


def test_sizes_are_bounded() -> None:
    async def main() -> None:
        async with Caller() as caller:
            assert (await caller.get(truto_key_by="y" * 15_000)).status == 200
            response = await caller.get(truto_key_by="y" * 17_000)
            assert (response.status, response.json["statusCode"]) == (414, 414)
            assert (await caller.send("HEAD", caller.target())).status == 405
            assert (await caller.get(headers={"X-Long": "y" * 17_000})).status == 400

    run(main(), DEADLINE)


def test_a_sandbox_holds_only_so_many_accounts() -> None:
    """It ends at once, where making them would take minutes."""
    for wrong in ({"accounts": 10**8}, {"others": 10**8}, {"accounts": 60_000, "others": 60_000}):
        with pytest.raises(ValueError, match="at most 100,000 accounts"):
            Sandbox(**wrong)


def test_it_listens_on_loopback_only() -> None:
    for host in ("0.0.0.0", "192.168.1.1", "::", "example.com"):
        with pytest.raises(ValueError, match="loopback"):
            Sandbox(host=host)


def test_expected_reads_times_as_strictly_as_the_server() -> None:
    sandbox = Sandbox()
    account = sandbox.account_ids[0]
    aware = [datetime.fromisoformat(each) for each in JANUARY.values()]
    assert sandbox.expected(account, start_time=aware[0], end_time=aware[1]) == sandbox.expected(
        account, **JANUARY
    )
    for bad in ("2024-01-01", datetime(2024, 1, 1)):
        with pytest.raises(ValueError, match="start_time"):
            sandbox.expected(account, start_time=bad, end_time=aware[1])


def test_in_thread_takes_what_the_sandbox_takes() -> None:
    parameters = inspect.signature(Sandbox).parameters
    assert set(Options.__annotations__) | {"port"} == set(parameters)


def imports(folder: str) -> set[str]:
    """Return the names of the modules that the files under a folder of the sandbox import."""
    found: set[str] = set()
    for path in (pathlib.Path(package.__file__).parent / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2, "imports from another folder are absolute"
                found |= {node.module or ""} if not node.level else set()
            elif isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
    return found


def test_it_shares_nothing_with_the_client() -> None:
    """Each must be able to show the other wrong, so the sandbox imports only itself."""
    ours = {name for name in imports(".") if name.split(".")[0] == "truto_ci_async"}
    assert ours
    assert all(name.startswith(f"{package.__name__}.") for name in ours)
    assert "msgspec" not in imports(".")


def test_the_service_knows_no_network() -> None:
    """`http` imports `service`, never the other way round."""
    assert f"{package.__name__}.service.service" in imports("http")
    tops = {name.split(".")[0] for name in imports("service")}
    assert not tops & {"aiohttp", "asyncio", "socket", "threading", "truto_ci_async"}


def test_the_fixture_serves_one_test(truto_sandbox: Sandbox) -> None:
    """It runs in its own thread, so code that is not async can be tested with it too."""
    request = urllib.request.Request(
        f"{truto_sandbox.url}/integrated-account", headers={"Authorization": f"Bearer {truto_sandbox.token}"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
        assert len(json.load(response)["result"]) == len(truto_sandbox.accounts)

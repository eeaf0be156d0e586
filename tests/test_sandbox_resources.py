"""The sandbox's meetings, users, transcripts and activity, line by line, and whether they fit together."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sandbox_caller import DEADLINE, JANUARY, MODEL, Caller, Response
from tests.support import run
from truto_ci_async.sandbox import Fault, Sandbox

ENVELOPE = {"result", "next_cursor", "prev_cursor", "result_count", "is_partial_response"}
YEAR: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2025-01-01T00:00:00Z"}
PROVIDERS = ("gong", "avoma", "chorus", "firefliesai", "wingman")
# Which methods there are, in the order of PROVIDERS: l is list, g is get.
COVERAGE = {
    "meetings": ("lg", "lg", "lg", "lg", "lg"),
    "users": ("lg", "lg", "l", "lg", "l"),
    "transcripts": ("l", "", "", "", ""),
    "activity": ("l", "", "", "", ""),
    "interactions": ("l", "", "", "", ""),
}
SENTENCE = {"speaker_id", "speaker_type", "speaker_name", "text", "raw_text", "start_time", "end_time"}
MEETING = {
    "id", "title", "attendees", "duration", "start_time", "end_time", "audio_recording_url", "video_recording_url",
    "status", "topics", "type", "transcript", "created_at", "updated_at", "meeting_url", "calender_event",
    "remote_data",
}  # fmt: skip
FIELDS = {
    "meetings": MEETING,
    "users": {"id", "name", "emails", "created_at", "updated_at", "remote_data"},
    "transcripts": {"id", "meeting", "entries", "start_time", "end_time", "remote_data"},
    "activity": {"id", "user", "start_time", "end_time", "aggregation_period", "metrics", "remote_data"},
}


def query_for(what: str, caller: Caller, provider: str = "gong") -> dict[str, Any]:
    """Return what a list needs."""
    if what == "transcripts":
        return {"meeting[id]": first_recorded(caller, provider)}
    return {} if what == "users" else dict(YEAR)


def first_recorded(caller: Caller, provider: str = "gong") -> str:
    account, sandbox = caller.account_of(provider), caller.sandbox
    return next(
        each for each in sandbox.meeting_ids(account)
        if sandbox.expected_record(account, "meetings", each)["status"] == "completed"
    )  # fmt: skip


def rows(response: Response) -> Any:
    assert response.status == 200, response.body
    return response.json["result"]


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Tell whether a JSON value is of a schema. Nulls are everywhere allowed."""
    kinds: dict[str, Callable[[], bool]] = {
        "object": lambda: isinstance(value, dict) and all(
            fits(each, schema["properties"][name]) for name, each in value.items() if "properties" in schema
        ),
        "array": lambda: isinstance(value, list) and all(fits(each, schema["items"]) for each in value),
        "string": lambda: isinstance(value, str) and value in schema.get("enum", [value])
        and ("format" not in schema or datetime.fromisoformat(value).tzinfo is not None),
        "number": lambda: isinstance(value, int | float) and not isinstance(value, bool),
        "integer": lambda: isinstance(value, int) and not isinstance(value, bool),
        "boolean": lambda: isinstance(value, bool),
    }  # fmt: skip
    return value is None or kinds[schema["type"]]()


# --- who serves what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", list(COVERAGE))
def test_each_provider_serves_what_the_contract_says(what: str) -> None:
    """By its lists, its single records, its capabilities and its `meta`."""

    async def main() -> None:
        async with Caller(accounts=1, providers=1, account_rate=None, interactions=5, meetings=20) as caller:
            for provider, methods in zip(PROVIDERS, COVERAGE[what], strict=True):
                account = caller.account_of(provider)
                path = f"/integrated-account/{account}/capabilities"
                offered = (await caller.get(path=path, type="unified", resource=what)).json["unified"]
                names = [{"l": "list", "g": "get"}[each] for each in methods]
                wanted = [{"model": "conversational-intelligence", "resource": what, "methods": names}]
                assert offered == (wanted if methods else [])

                listed = await caller.ask(what, provider, **query_for(what, caller, provider))
                assert listed.status == (200 if "l" in methods else 404)
                if not methods:
                    assert f"{provider} has no such resource" in listed.json["message"]
                    assert set(listed.json) == {"statusCode", "error", "message"}
                ids = {"meetings": caller.sandbox.meeting_ids, "users": caller.sandbox.user_ids}
                one = await caller.ask(what, provider, ids[what](account)[0] if what in ids else "1")
                assert one.status == (200 if "g" in methods else 404)
                for method, letter in (("list", "l"), ("get", "g")):
                    meta = await caller.ask(f"{what}/meta/{method}", provider)
                    assert meta.status == (200 if letter in methods else 404)
                for method in ("POST", "PATCH", "DELETE"):
                    target = caller.target(path=f"{MODEL}/{what}", integrated_account_id=account)
                    assert (await caller.send(method, target)).status == 405

    run(main(), DEADLINE)


def test_an_integration_of_another_category_serves_none_of_them() -> None:
    async def main() -> None:
        async with Caller(others=2) as caller:
            for what in COVERAGE:
                response = await caller.ask(what, "hubspot")
                assert (response.status, "hubspot" in response.json["message"]) == (404, True)

    run(main(), DEADLINE)


def test_how_many_accounts_each_provider_has() -> None:
    """The accounts and ids there were before stay the same."""
    plain = Sandbox(accounts=2, others=3)
    assert {each["integration"]["name"] for each in plain.accounts} == {"gong", "hubspot"}
    some = Sandbox(accounts=2, others=3, providers={"avoma": 2, "wingman": 1})
    assert some.accounts[:5] == plain.accounts
    assert [each["integration"]["name"] for each in some.accounts[5:]] == ["avoma", "avoma", "wingman"]
    assert {each["integration"]["category"] for each in some.accounts[5:]} == {"conversational-intelligence"}
    assert (len(some.accounts_of("avoma")), some.accounts_of("chorus")) == (2, [])
    for wrong in (
        {"providers": {"zoom": 1}},
        {"meetings": -1},
        {"sentences": 0},
        {"year": 0},
        {"providers": 10**6},
        {"providers": -1},
        {"accounts": -1},
        {"others": -1},
        {"interactions": -1},
        {"page_size": 0},  # every page would be empty, with a cursor to the same page
        {"max_page_size": 0},
        {"stream_piece": 0},
    ):
        with pytest.raises(ValueError, match=r"zoom|or more|at most|from 1"):
            Sandbox(**wrong)  # type: ignore[arg-type]


def test_nothing_is_expected_of_a_resource_that_the_provider_lacks() -> None:
    """Rows made up for it would be rows that no client can get."""
    sandbox = Sandbox(providers=1)
    [avoma], [chorus] = sandbox.accounts_of("avoma"), sandbox.accounts_of("chorus")
    user = sandbox.user_ids(chorus)[0]
    for call, message in (
        (lambda: sandbox.expected(avoma, **JANUARY), "avoma has no list of interactions"),
        (
            lambda: sandbox.expected(avoma, resource="transcripts", meeting="1"),
            "avoma has no list of transcripts",
        ),
        (lambda: sandbox.expected_record(chorus, "users", user), "chorus has no get of users"),
        (lambda: sandbox.expected(avoma, resource="calls"), "no such resource: calls"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_accounts_with_the_same_id_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Sandbox(accounts=["a", "b", "a"])


# --- records -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_records_have_the_documented_fields_and_types(provider: str) -> None:
    """Of every resource and method, as `meta` describes them."""

    async def main() -> None:
        async with Caller(
            accounts=1, providers=1, account_rate=None, max_page_size=600, interactions=30
        ) as caller:
            missing = {
                "gong": {"attendees", "transcript", "topics"},
                "wingman": {"audio_recording_url", "transcript"},
            }
            for what, fields in FIELDS.items():
                if not COVERAGE[what][PROVIDERS.index(provider)]:
                    continue
                meta = (await caller.ask(f"{what}/meta/list", provider)).json["response_schema"]
                found = rows(
                    await caller.ask(what, provider, limit="99", **query_for(what, caller, provider))
                )
                assert found
                for row in found:
                    assert set(row) == set(meta["properties"]) <= fields
                    assert fits(row, meta)
                if provider not in ("avoma", "chorus"):
                    assert set(found[0]) == fields - (
                        missing.get(provider, set()) if what == "meetings" else set()
                    )
            for what in ("meetings", "users"):
                if "g" not in COVERAGE[what][PROVIDERS.index(provider)]:
                    continue
                meta = (await caller.ask(f"{what}/meta/get", provider)).json
                assert meta["query_schema"] == {"type": "object", "properties": {}, "required": []}
                listed = rows(await caller.ask(what, provider, **query_for(what, caller, provider)))[0]
                one = (await caller.ask(what, provider, listed["id"])).json
                assert set(one) == set(meta["response_schema"]["properties"])
                assert fits(one, meta["response_schema"])
                assert listed == {name: one[name] for name in listed}  # partial or not, they agree
                if what == "meetings":
                    assert set(one) == MEETING - missing.get(provider, set())
                    assert (set(listed) < set(one)) == (provider in ("avoma", "chorus"))

    run(main(), DEADLINE)


def test_ids_are_text_of_each_providers_kind_and_need_encoding() -> None:
    sandbox = Sandbox(accounts=1, providers=1)
    ids = {each: sandbox.meeting_ids(sandbox.accounts_of(each)[0]) for each in PROVIDERS}
    assert all(len(set(each)) == 600 for each in ids.values())
    assert any(int(each) > 2**64 for each in ids["gong"])
    assert all({"/", " ", "+"} <= set(each) for each in ids["wingman"])


def test_one_record_that_does_not_exist() -> None:
    """The provider says so. Without encoding, an id with a slash is another path, and Truto says so."""

    async def main() -> None:
        async with Caller(providers=1, meetings=5) as caller:
            for what in ("meetings", "users"):
                response = await caller.ask(what, "gong", "nobody/é")
                assert (response.status, response.json["truto_is_remote_error"]) == (404, True)
                assert "with the id nobody/é" in response.json["message"]
            account = caller.account_of("wingman")
            path = f"{MODEL}/meetings/{caller.sandbox.meeting_ids(account)[0].partition(' ')[0]}"
            response = await caller.get(path=path, integrated_account_id=account)
            assert (response.status, set(response.json)) == (404, {"statusCode", "error", "message"})
            other = caller.sandbox.meeting_ids(account)[0]
            assert (await caller.ask("meetings", "gong", other)).status == 404

    run(main(), DEADLINE)


# --- parameters --------------------------------------------------------------------------------------------

Check = Callable[[Any], object]


PARAMETERS: list[tuple[str, str, Check]] = [
    ("meetings", "limit=3", lambda got: len(got) == 3),
    ("meetings", "limit=3&truto_ignore_limit=true", lambda got: len(got) == 50),
    ("meetings", "truto_ignore_remote_data=true", lambda got: "remote_data" not in got[0]),
    ("meetings", "truto_exclude_fields[]=id&truto_exclude_fields[]=title", lambda got: "id" not in got[0]),
    ("meetings", "truto_key_by=id", lambda got: [each["id"] for each in got.values()] == list(got)),
    ("meetings", "truto_response_format=raw", lambda got: "primaryUserId" in got[0]),
    ("meetings", "truto_response_format=normalized", lambda got: "title" in got[0]),
    ("meetings", "truto_skip_api_call=true", lambda got: got == []),
    ("meetings", "user_id=HOST", lambda got: {each["remote_data"]["primaryUserId"] for each in got} == {"HOST"}),
    ("meetings", "user_id=nobody", lambda got: got == []),
    ("meetings", "truto_super_query=wnam&type=internal", lambda got: {m["type"] for m in got} == {"internal"}),
    ("meetings", "truto_super_query=wnam&duration[gt]=3000", lambda got: min(m["duration"] for m in got) > 3000),
    ("meetings", "remote_query[a]=b", lambda got: len(got) == 50),
    ("users", "created_at[gt]=2023-01-01", lambda got: got and min(each["created_at"] for each in got) > "2023"),
    ("users", "truto_super_query=apac&sort_by[name]=asc", lambda got: got == sorted(got, key=lambda u: u["name"])),
    ("users", "truto_response_format=raw", lambda got: "firstName" in got[0]),
    ("transcripts", "truto_response_format=raw", lambda got: set(got[0]) == {"callId", "transcript"}),
    ("transcripts", "truto_ignore_remote_data=true", lambda got: "remote_data" not in got[0]),
    ("activity", "users[0][id]=HOST", lambda got: [each["user"]["id"] for each in got] == ["HOST"]),
    ("activity", "users[0][id]=nobody", lambda got: got == []),
    ("activity", "truto_response_format=raw", lambda got: "userAggregateActivityStats" in got[0]),
    ("activity", "truto_super_query=apac", lambda got: len(got) == 50),
]  # fmt: skip


@pytest.mark.parametrize(("what", "raw", "wanted"), PARAMETERS)
def test_every_parameter_does_what_it_says(what: str, raw: str, wanted: Check) -> None:
    async def main() -> None:
        async with Caller(accounts=1) as caller:
            meetings = caller.sandbox.expected(caller.account, resource="meetings")
            hosts = Counter(each["remote_data"]["primaryUserId"] for each in meetings)
            [(host, _)] = hosts.most_common(1)
            query = query_for(what, caller)
            response = await caller.ask(what, raw=raw.replace("HOST", host), **query)
            found = rows(response)
            assert wanted(json.loads(json.dumps(found).replace(host, "HOST"))) is not False

    run(main(), DEADLINE)


@pytest.mark.parametrize("kind", ["unified", "normalized", "raw", "stream", "debug"])
@pytest.mark.parametrize("what", list(FIELDS))
def test_every_format_of_every_resource(what: str, kind: str) -> None:
    async def main() -> None:
        async with Caller(accounts=1, meetings=30, interactions=20) as caller:
            query = query_for(what, caller) | {"truto_response_format": kind, "limit": "2"}
            got = await caller.ask(what, **query)
            assert set(got.json) == ENVELOPE | ({"debug"} if kind == "debug" else set())
            assert ("Transfer-Encoding" in got.headers) == (kind == "stream")
            own = {
                "meetings": "calls", "users": "users", "transcripts": "callTranscripts",
                "activity": "usersAggregateActivityStats",
            }[what]  # fmt: skip
            remote = caller.sandbox.expected(
                caller.account, resource=what, provider=True, meeting=query.get("meeting[id]"),
                **({} if "start_time" not in query else YEAR),
            )[:2]  # fmt: skip
            if kind == "debug":
                assert set(got.json["debug"]["data"]) >= {"requestId", "records", own}
                assert got.json["debug"]["data"][own] == remote
            if kind == "raw":
                assert rows(got) == remote
            if kind in ("raw", "stream"):
                caller.sandbox.configure(caller.account, provider_shape="gong")
                body = (await caller.ask(what, **query)).json
                assert body[own] == remote
                assert ("timeZone" in body) == (what == "activity")

    run(main(), DEADLINE)


@pytest.mark.parametrize("kind", ["unified", "normalized", "raw", "stream", "debug"])
@pytest.mark.parametrize(
    ("what", "provider"), [("meetings", "gong"), ("meetings", "avoma"), ("users", "firefliesai")]
)
def test_one_record_is_not_wrapped(what: str, provider: str, kind: str) -> None:
    async def main() -> None:
        async with Caller(accounts=1, providers=1, meetings=5, interactions=5) as caller:
            account, sandbox = caller.account_of(provider), caller.sandbox
            found = (sandbox.meeting_ids if what == "meetings" else sandbox.user_ids)(account)[2]
            record = sandbox.expected_record(account, what, found)
            body = (await caller.ask(what, provider, found, truto_response_format=kind)).json
            if kind == "debug":
                assert set(body) == {"result", "debug"}
                body = body["result"]
            assert body == (record["remote_data"] if kind == "raw" else record)
            assert body["id"] == found
            less = await caller.ask(
                what,
                provider,
                found,
                truto_ignore_remote_data="true",
                raw="truto_exclude_fields[]=id&remote_query[a]=b",
            )
            assert set(less.json) == set(record) - {"id", "remote_data"}
            for wrong in ("limit=5", "truto_key_by=id", "next_cursor=", "start_time=2024-01-01T00:00:00Z"):
                assert (await caller.ask(what, provider, found, raw=wrong)).status == 400

    run(main(), DEADLINE)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("transcripts", {}, "Missing required query parameters: meeting"),
    ("transcripts", {"meeting": "5"}, "meeting[id]="),
    ("transcripts", {"meeting[id]": ""}, "meeting[id]="),
    ("transcripts", {"raw": "meeting[id][]=1&meeting[id][]=2"}, "meeting[id]="),
    ("transcripts", {"meeting_id": "5"}, "Unknown query parameter: meeting_id"),
    ("activity", {}, "Missing required query parameters: start_time, end_time"),
    ("activity", {"start_time": YEAR["start_time"]}, "Missing required query parameters: end_time"),
    ("activity", {**YEAR, "user_id": "5"}, "Unknown query parameter: user_id"),
    ("meetings", {"start_time": "2024-01-01"}, "offset"),
    ("meetings", {"raw": "start_time[gt]=2024-01-01"}, "single ISO 8601"),
    ("meetings", {"start_time": YEAR["end_time"], "end_time": YEAR["start_time"]}, "before start_time"),
    ("meetings", {"raw": "users[0][id]=5"}, "Unknown query parameter: users"),
    ("meetings", {"raw": "created_at[gt]=2024-01-01"}, "Unknown query parameter: created_at"),
    ("users", YEAR, "Unknown query parameter: start_time"),
    ("users", {"raw": "created_at[gt]=soon"}, "created_at[gt]"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "query", "message"), WRONG)
def test_wrong_parameters_are_refused(what: str, query: dict[str, Any], message: str) -> None:
    async def main() -> None:
        async with Caller(accounts=1, meetings=5) as caller:
            response = await caller.ask(what, **query)
            assert (response.status, message in response.json["message"]) == (400, True), response.body
            insight = response.json.get("truto_error_insight", {}).get("missing_required_query_parameters")
            assert (insight is not None) == message.startswith("Missing")

    run(main(), DEADLINE)


def test_a_cursor_belongs_to_its_resource_and_filters() -> None:
    async def main() -> None:
        async with Caller(accounts=1) as caller:
            cursor = (await caller.ask("meetings", **YEAR)).json["next_cursor"]
            assert (await caller.ask("meetings", **YEAR, next_cursor=cursor)).status == 200
            changed = await caller.ask("meetings", **YEAR, next_cursor=cursor, user_id="5")
            assert changed.json["message"].endswith("other values of: the resource's own parameters")
            other = await caller.ask("activity", **YEAR, next_cursor=cursor)
            assert other.status == 400
            for what in FIELDS:
                query = query_for(what, caller)
                path = f"{MODEL}/{what}"
                found = await caller.collect(
                    path=path, integrated_account_id=caller.account, limit="90", **query
                )
                keywords = {"meeting": query.pop("meeting[id]", None), **query}
                assert found == caller.sandbox.expected(caller.account, resource=what, **keywords)

    run(main(), DEADLINE)


# --- windows -----------------------------------------------------------------------------------------------

TAKES: dict[str, tuple[bool, bool, list[str]]] = {
    # provider: whether its meetings list takes a start and an end, and what it requires
    "gong": (True, True, []),
    "avoma": (True, True, ["start_time"]),
    "chorus": (True, False, []),
    "firefliesai": (False, False, []),
    "wingman": (False, False, []),
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_not_every_meetings_list_takes_a_window(provider: str) -> None:
    """Three take a start, one of which requires it, and two an end. The others ignore it: a client has to filter."""
    start, end, required = TAKES[provider]

    async def main() -> None:
        async with Caller(accounts=1, providers=1, meetings=100, interactions=20) as caller:
            february = {
                "start_time": "2024-02-01T00:00:00Z",
                "end_time": "2024-03-01T00:00:00Z",
                "limit": "600",
            }
            months = {
                each["start_time"][:7] for each in rows(await caller.ask("meetings", provider, **february))
            }
            assert ("2024-01" not in months) == start
            assert ("2024-12" not in months) == end
            schema = (await caller.ask("meetings/meta/list", provider)).json["query_schema"]
            assert schema["required"] == required
            assert ("start_time" in schema["properties"], "end_time" in schema["properties"]) == (start, end)
            bare = await caller.ask("meetings", provider)
            assert bare.status == (400 if required else 200)
            if required:
                missing = bare.json["truto_error_insight"]["missing_required_query_parameters"]["value"]
                assert missing == required
                with pytest.raises(ValueError, match="start_time"):
                    caller.sandbox.expected(caller.account_of(provider), resource="meetings")

    run(main(), DEADLINE)


def test_windows_of_meetings_are_exact_and_share_none() -> None:
    sandbox = Sandbox(accounts=1)
    account = sandbox.account_ids[0]
    everything = sandbox.expected(account, resource="meetings")
    cut = datetime.fromisoformat(everything[100]["start_time"])
    before = sandbox.expected(account, resource="meetings", end_time=cut)
    after = sandbox.expected(account, resource="meetings", start_time=cut)
    assert before + after == everything
    assert after[0] == everything[100]


def test_activity_without_activity() -> None:
    """Gong's 404, as for interactions. With a filter by users the list is empty."""

    async def main() -> None:
        async with Caller(accounts=1, meetings=5) as caller:
            old = {"start_time": "2019-01-01T00:00:00Z", "end_time": "2019-02-01T00:00:00Z"}
            response = await caller.ask("activity", **old)
            assert (response.status, response.json["message"]) == (
                404,
                "no stats found for the specified period",
            )
            assert rows(await caller.ask("activity", raw="users[0][id]=5", **old)) == []
            future = await caller.ask(
                "activity", start_time=YEAR["start_time"], end_time="2999-01-01T00:00:00Z"
            )
            assert (future.status, future.json["truto_is_remote_error"]) == (400, True)

    run(main(), DEADLINE)


# --- how they hang together --------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_people_of_meetings_are_users(provider: str) -> None:
    sandbox = Sandbox(accounts=1, providers=1)
    account = sandbox.accounts_of(provider)[0]
    users = {each["id"]: each for each in sandbox.expected(account, resource="users")}
    assert list(users) == sandbox.user_ids(account)
    for meeting_id in sandbox.meeting_ids(account)[:60]:
        meeting = sandbox.expected_record(account, "meetings", meeting_id)
        assert meeting["remote_data"]["primaryUserId"] in users
        start, end = (datetime.fromisoformat(meeting[name]) for name in ("start_time", "end_time"))
        assert end - start == timedelta(seconds=meeting["duration"])
        attendees = meeting.get("attendees", [])
        assert len([each for each in attendees if each["is_host"]]) == (provider != "gong")
        for each in attendees:
            assert (each["id"] in users) == (each["type"] == "user")
            if each["type"] == "user":
                assert {"email": each["email"], "is_primary": True} in users[each["id"]]["emails"]
        for sentence in meeting.get("transcript", []):
            assert set(sentence) == SENTENCE
            assert sentence["speaker_id"] in {each["id"] for each in attendees}


def test_people_of_statistics_are_users() -> None:
    sandbox = Sandbox(accounts=1)
    account = sandbox.account_ids[0]
    users = {each["id"]: each for each in sandbox.expected(account, resource="users")}
    for what in ("interactions", "activity"):
        for row in sandbox.expected(account, resource=what, **JANUARY):
            assert row["user"]["emails"][0] in users[row["user"]["id"]]["emails"]
            assert row["user"].get("name") is None  # `users` supplies it
    managers = {each["remote_data"]["managerId"] for each in users.values()}
    assert managers <= {*users, None}
    assert all(each["name"] and each["remote_data"]["title"] for each in users.values())


def test_activity_counts_the_meetings_of_its_window() -> None:
    """And what two windows count adds up."""
    sandbox = Sandbox(accounts=1)
    account = sandbox.account_ids[0]
    february: dict[str, Any] = {"start_time": "2024-02-01T00:00:00Z", "end_time": "2024-03-01T00:00:00Z"}
    both: dict[str, Any] = {"start_time": JANUARY["start_time"], "end_time": february["end_time"]}
    totals: list[Counter[tuple[str, str]]] = []
    for window in (JANUARY, february, both):
        hosted: Counter[str] = Counter()
        attended: Counter[str] = Counter()
        for meeting in sandbox.expected(account, resource="meetings", **window):
            remote = meeting["remote_data"]
            hosted[remote["primaryUserId"]] += 1
            attended.update(each["userId"] for each in remote["parties"][1:] if each["userId"])
        found = sandbox.expected(account, resource="activity", **window)
        assert {each["user"]["id"] for each in found} == {*hosted, *attended}
        for row in found:
            metrics = row["metrics"]
            assert (metrics["calls_hosted"], metrics["calls_attended"]) == (
                hosted[row["user"]["id"]],
                attended[row["user"]["id"]],
            )
            assert list(row["remote_data"]["userAggregateActivityStats"].values()) == list(metrics.values())
        totals.append(
            Counter(
                {
                    (each["user"]["id"], name): count
                    for each in found
                    for name, count in each["metrics"].items()
                }
            )
        )
        given, received = (
            sum(each["metrics"][f"comments_{way}"] for each in found) for way in ("given", "received")
        )
        assert given == received
    assert totals[0] + totals[1] == +totals[2]


def test_transcripts_belong_to_meetings() -> None:
    """Their speakers are parties of that one call, and never ids of users."""
    sandbox = Sandbox(accounts=1)
    account = sandbox.account_ids[0]
    users, nameless, without = set(sandbox.user_ids(account)), 0, 0
    for meeting_id in sandbox.meeting_ids(account)[:120]:
        meeting = sandbox.expected_record(account, "meetings", meeting_id)
        found = sandbox.expected(account, resource="transcripts", meeting=meeting_id)
        if meeting["status"] == "not_recorded":
            assert found == []
            without += 1
            continue
        [transcript] = found
        assert (transcript["id"], transcript["meeting"]) == (None, {"id": meeting_id})
        entries, parties = transcript["entries"], meeting["remote_data"]["parties"]
        assert {each["speaker_id"] for each in entries} <= {each["speakerId"] for each in parties}
        assert not {each["speaker_id"] for each in entries} & users
        starts = [each["start_time"] for each in entries]
        assert starts == sorted(starts)
        assert all(each["start_time"] < each["end_time"] <= meeting["duration"] for each in entries)
        assert transcript["end_time"] == entries[-1]["end_time"]
        milliseconds = [
            each for part in transcript["remote_data"]["transcript"] for each in part["sentences"]
        ]
        assert [each["start"] for each in milliseconds] == [round(1000 * start) for start in starts]
        nameless += any(each["speaker_name"] is None for each in entries)
    assert without > 3
    assert nameless > 3


def test_the_same_arguments_give_the_same_records() -> None:
    """Whatever was asked before, and however it was cut."""
    first, again, other = Sandbox(), Sandbox(), Sandbox(seed=8)
    account = first.account_ids[0]
    again.expected(account, resource="activity", **JANUARY)
    for what in ("meetings", "users", "activity"):
        window: dict[str, Any] = {} if what == "users" else YEAR
        found = first.expected(account, resource=what, **window)
        assert found == again.expected(account, resource=what, **window)
        assert found != other.expected(other.account_ids[0], resource=what, **window)
    assert first.meeting_ids(account)[:5] != first.meeting_ids(first.account_ids[1])[:5]


# --- what changes with time --------------------------------------------------------------------------------


def test_a_transcript_appears_later() -> None:
    """Meetings that are not over are not there yet, and transcripts follow after a while."""

    async def main() -> None:
        now = datetime(2024, 3, 4, tzinfo=UTC)
        async with Caller(accounts=1, transcript_delay=600, clock=lambda: now.timestamp()) as caller:
            sandbox, account = caller.sandbox, caller.account
            before = sandbox.meeting_ids(account)
            now += timedelta(days=1)
            new = [each for each in sandbox.meeting_ids(account) if each not in before]
            assert new
            assert before
            meeting = sandbox.expected_record(account, "meetings", new[0])
            end = datetime.fromisoformat(meeting["end_time"])
            now = end - timedelta(seconds=1)
            query = {"meeting[id]": new[0]}
            assert (await caller.ask("meetings", record_id=new[0])).status == 404
            missing = await caller.ask("transcripts", **query)
            assert (missing.status, missing.json["truto_is_remote_error"]) == (404, True)
            now = end + timedelta(seconds=599)
            assert (await caller.ask("meetings", record_id=new[0])).status == 200
            assert rows(await caller.ask("transcripts", **query)) == []
            now = end + timedelta(seconds=600)
            assert len(rows(await caller.ask("transcripts", **query))) == (meeting["status"] == "completed")

    run(main(), DEADLINE)


def test_transcripts_can_be_switched_off_and_on() -> None:
    async def main() -> None:
        async with Caller(accounts=1, providers={"firefliesai": 1}, transcript_delay=float("inf")) as caller:
            query = {"meeting[id]": first_recorded(caller)}
            assert rows(await caller.ask("transcripts", **query)) == []
            caller.sandbox.configure(caller.account, transcript_delay=0)
            assert len(rows(await caller.ask("transcripts", **query))) == 1
            account, found = caller.account_of("firefliesai"), first_recorded(caller, "firefliesai")
            assert (await caller.ask("meetings", "firefliesai", found)).json["transcript"] == []
            caller.sandbox.configure(account, transcript_delay=0)
            assert (await caller.ask("meetings", "firefliesai", found)).json["transcript"]
            caller.sandbox.configure(caller.account, meetings=3)
            assert len(caller.sandbox.meeting_ids(caller.account)) == 3
            caller.sandbox.configure(caller.account, interactions=0)
            assert rows(await caller.ask("meetings")) == rows(await caller.ask("users")) == []

    run(main(), DEADLINE)


# --- odd values --------------------------------------------------------------------------------------------


def test_large_transcripts() -> None:
    async def main() -> None:
        async with Caller(accounts=1, meetings=30, sentences=8_000) as caller:
            query = {"meeting[id]": first_recorded(caller)}
            response = await caller.ask("transcripts", **query)
            assert len(rows(response)[0]["entries"]) == 8_000
            assert len(response.body) > 2_000_000
            caller.sandbox.configure(caller.account, sentences=1)
            assert len(rows(await caller.ask("transcripts", **query))[0]["entries"]) == 1

    run(main(), DEADLINE)


def test_odd_values_on_request() -> None:
    """Each fault changes one response. It applies to lists and single records."""

    async def main() -> None:
        async with Caller(accounts=1, meetings=30) as caller:
            sandbox, good = caller.sandbox, rows(await caller.ask("meetings"))
            found = good[0]["id"]
            sandbox.script(
                caller.account, [Fault.unknown_fields({"a": 1}).times(2), Fault.wrong_types().times(2)]
            )
            for record in (
                rows(await caller.ask("meetings"))[0],
                (await caller.ask("meetings", record_id=found)).json,
            ):
                assert record == {**good[0], "x_unknown": {"a": 1}}
            for record in (
                rows(await caller.ask("meetings"))[0],
                (await caller.ask("meetings", record_id=found)).json,
            ):
                assert (record["id"], record["title"], record["duration"]) == (
                    found,
                    5,
                    str(good[0]["duration"]),
                )
            sandbox.fault(Fault.wrong_types("user", "metrics"))
            row = rows(await caller.ask("activity", **YEAR))[0]
            assert (row["user"], row["metrics"], row["aggregation_period"]) == ([], [], "total")
            sandbox.fault(Fault.unknown_fields())
            row = rows(await caller.ask("activity", **YEAR))[0]
            assert row["metrics"]["x_unknown"] == row["user"]["emails"][0]["x_unknown"] == "new"
            assert "x_unknown" not in row["remote_data"]
            sandbox.fault(Fault.edit(lambda record: [record["id"]]))
            assert rows(await caller.ask("meetings"))[0] == [found]
            sandbox.fault(Fault.items([{"id": 5}]))
            assert (await caller.ask("meetings", record_id=found)).json == {"id": 5}
            assert rows(await caller.ask("meetings")) == good

    run(main(), DEADLINE)


# --- worth looking at --------------------------------------------------------------------------------------


def median(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.median(each["metrics"][name] for each in rows if each["metrics"].get(name) is not None)


def test_realistic_statistics_are_plausible() -> None:
    """Long tails, teams that differ, people who stay themselves, quiet weekends, and nobody before the first day."""
    sandbox = Sandbox(accounts=1, interactions=400)
    account = sandbox.account_ids[0]
    january = sandbox.expected(account, **JANUARY)
    later = sandbox.expected(account, start_time="2024-02-01T00:00:00Z", end_time="2024-03-01T00:00:00Z")
    weekend = sandbox.expected(account, start_time="2024-01-06T00:00:00Z", end_time="2024-01-08T00:00:00Z")
    users = {each["id"]: each for each in sandbox.expected(account, resource="users")}

    values = sorted(
        each["metrics"]["longest_monologue"] for each in january if each["metrics"].get("longest_monologue")
    )
    assert statistics.mean(values) > 1.05 * statistics.median(values)
    pairs = [
        (one["metrics"]["patience"], two["metrics"]["patience"])
        for one, two in zip(january, later, strict=True)
        if one["metrics"].get("patience") and two["metrics"].get("patience")
    ]
    assert statistics.correlation(*zip(*pairs, strict=True)) > 0.7
    talk = [
        (each["metrics"]["longest_monologue"], each["metrics"]["interactivity"])
        for each in january
        if each["metrics"].get("longest_monologue") and each["metrics"].get("interactivity")
    ]
    assert statistics.correlation(*zip(*talk, strict=True)) < -0.3
    teams = {
        name: [each for each in january if users[each["user"]["id"]]["remote_data"]["department"] == name]
        for name in ("Sales Development", "Solutions Engineering")
    }
    assert median(teams["Solutions Engineering"], "longest_monologue") > 1.5 * median(
        teams["Sales Development"], "longest_monologue"
    )
    assert (
        sum(bool(each["metrics"]) for each in weekend)
        < 100
        < 300
        < sum(bool(each["metrics"]) for each in january)
    )
    started = {each["id"] for each in users.values() if each["created_at"] < "2024-02"}
    assert {each["user"]["id"] for each in january if each["metrics"]} <= started
    assert any(not each["remote_data"]["active"] for each in users.values())
    assert any(each["created_at"] > "2024" for each in users.values())


def test_plain_statistics_are_the_noise_they_were() -> None:
    """And the people, their ids and their meetings do not depend on it."""
    plain, real = Sandbox(realistic=False), Sandbox()
    account = plain.account_ids[0]
    values = [
        value
        for row in plain.expected(account, **JANUARY)
        for value in row["metrics"].values()
        if value is not None
    ]
    assert 400 < statistics.mean(values) < 600
    assert plain.expected(account, **JANUARY)[0]["user"]["emails"][0]["email"].endswith("@example.com")
    assert plain.user_ids(account) == real.user_ids(account)
    assert plain.meeting_ids(account) == real.meeting_ids(account)
    assert [each["name"] for each in plain.expected(account, resource="users")] == [
        each["name"] for each in real.expected(account, resource="users")
    ]

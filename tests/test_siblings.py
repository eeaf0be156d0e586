"""Meetings, transcripts, users and activity: their lists, single records, and what is refused before any request."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.support import run
from tests.test_resources import bare, in_sandbox
from truto_ci_async import (
    Activity,
    Fault,
    FieldRepaired,
    IntegratedAccount,
    Meeting,
    MeetingRef,
    Sandbox,
    Sentence,
    Transcript,
    TrutoClient,
    UnknownFields,
    User,
)
from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async._wire.list_query import list_query
from truto_ci_async.errors import (
    AuthenticationError,
    BadRequestError,
    DecodeError,
    NotFoundError,
    PermissionDeniedError,
    UsageError,
)

YEAR = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2025-01-01T00:00:00Z"}
MEETINGS: dict[str, Any] = {"meetings": 12, "interactions": 8}


async def account_of(truto: TrutoClient, integration: str) -> str:
    found = await truto.integrated_accounts.list(integration=integration).first()
    assert found is not None
    assert found.id is not None
    return found.id


# Records

ODD: list[tuple[type[Any], dict[str, Any], dict[str, Any], list[str]]] = [
    # kind, what is received, fields that are kept otherwise than they came, paths of the issues
    (Meeting, {"id": 98765432109876543210}, {"id": "98765432109876543210"}, ["$.id"]),
    (Meeting, {"id": "1", "duration": 1800.5}, {"duration": 1800.5}, []),
    (Meeting, {"id": "1", "duration": "long"}, {"duration": None}, ["$.duration"]),
    (Meeting, {"id": "1", "attendees": "Ann"}, {"attendees": None}, ["$.attendees"]),
    (Meeting, {"id": "1", "attendees": [{"id": 5, "is_host": "yes", "type": "robot"}]}, {},
     ["$.attendees[0].id", "$.attendees[0].is_host"]),
    (Meeting, {"id": "1", "topics": ["a", 5]}, {"topics": ("a", "5")}, ["$.topics[1]"]),
    (Meeting, {"id": "1", "start_time": "2024-09-01 10:00:00"}, {}, ["$.start_time"]),
    (Meeting, {"id": "1", "start_time": "soon"}, {"start_time": None}, ["$.start_time"]),
    (Meeting, {"id": "1", "calender_event": "e@google", "status": "brand new", "type": "x"}, {}, []),
    (Meeting, {"id": "1", "transcript": [{"text": "a", "start_time": 0.5, "end_time": 2}, 7]}, {}, ["$.transcript[1]"]),
    (Transcript, {"meeting": "5"}, {"meeting": None}, ["$.meeting"]),
    (Transcript, {"meeting": {"id": 5}, "entries": None}, {"entries": None}, ["$.meeting.id"]),
    (Transcript, {"id": None, "start_time": 1.9995, "end_time": 60}, {"end_time": 60}, []),
    (Transcript, {"id": "1", "start_time": "2024-01-01T00:00:00Z"}, {"start_time": None}, ["$.start_time"]),
    (Transcript, {"entries": [{"speaker_id": "s", "speaker_name": None, "text": "a"}]}, {}, []),
    (User, {"id": "1", "emails": [{"email": "a@b", "is_primary": 1}]}, {}, ["$.emails[0].is_primary"]),
    (User, {"id": "1", "emails": {"email": "a@b"}}, {"emails": None}, ["$.emails"]),
    (User, {"id": "1", "updated_at": None, "name": ["a"]}, {"name": None}, ["$.name"]),
    (Activity, {"id": "1", "metrics": {"calls_hosted": 3.0}}, {}, ["$.metrics.calls_hosted"]),
    (Activity, {"id": "1", "metrics": {"calls_hosted": 3.5}}, {}, ["$.metrics.calls_hosted"]),
    (Activity, {"id": "1", "metrics": {"calls_hosted": 2**70}}, {}, ["$.metrics.calls_hosted"]),
    (Activity, {"id": "1", "metrics": [1]}, {"metrics": None}, ["$.metrics"]),
    (Activity, {"id": "1", "aggregation_period": "fortnight"}, {"aggregation_period": "fortnight"}, []),
    (Activity, {"id": "1", "user": {"id": 5}}, {}, ["$.user.id"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "received", "expected", "paths"), ODD)
def test_odd_values_cost_only_themselves(
    kind: type[Any], received: dict[str, Any], expected: dict[str, Any], paths: list[str]
) -> None:
    """A value of the wrong type becomes None or what it plainly means; the record is kept."""
    item, issues = item_reader(kind).read_item(json.dumps(received).encode(), index=0, path="$")
    assert item is not None
    assert [issue.path for issue in issues] == paths
    assert {name: getattr(item, name) for name in expected} == expected
    for name in received.keys() - expected.keys() - {"remote_data"}:
        assert getattr(item, name) is not None or received[name] is None
    assert list(item.row()) == list(kind.SCHEMA.names)
    assert repr(item).startswith(f"{kind.__name__}(id=")


def test_whole_counts_are_read_as_integers() -> None:
    """JavaScript writes 3 as 3, other services as 3.0."""
    item, _ = item_reader(Activity).read_item(
        b'{"id": "1", "metrics": {"calls_hosted": 3.0}}', index=0, path="$"
    )
    assert item.row()["calls_hosted"] == 3


# Transcripts


def spoken(*sentences: tuple[Any, Any, str], **fields: Any) -> Transcript:
    return Transcript(
        entries=tuple(Sentence(start_time=a, end_time=b, text=text, **fields) for a, b, text in sentences)
    )


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ((1.9995, 3, "a"), "00:00:02.000 --> 00:00:03.000\na"),
        ((1.9994, 3, "a"), "00:00:01.999 --> 00:00:03.000\na"),
        ((59.9996, 60, "a"), "00:01:00.000 --> 00:01:00.001\na"),
        ((3599.9999, 3601, "a"), "01:00:00.000 --> 01:00:01.000\na"),
        ((360_000, 360_001.5, "a"), "100:00:00.000 --> 100:00:01.500\na"),
        ((5, 3, "a"), "00:00:05.000 --> 00:00:05.001\na"),
        ((5, None, "a"), "00:00:05.000 --> 00:00:05.001\na"),
        ((None, 3, "a"), "00:00:00.000 --> 00:00:03.000\na"),
        ((-1, -0.5, "a"), "00:00:00.000 --> 00:00:00.001\na"),
        ((1e300, 1e301, "a"), "277777:46:40.000 --> 277777:46:40.001\na"),
        ((0, 1, "a <b> & c --> d"), "00:00:00.000 --> 00:00:01.000\na &lt;b&gt; &amp; c --&gt; d"),
        ((0, 1, "one\n\ntwo\r\nthree"), "00:00:00.000 --> 00:00:01.000\none two three"),
        ((0, 1, "a\0b"), "00:00:00.000 --> 00:00:01.000\na\N{REPLACEMENT CHARACTER}b"),
    ],
)  # fmt: skip
def test_a_cue_of_webvtt(sentence: tuple[Any, Any, str], expected: str) -> None:
    assert spoken(sentence).webvtt() == f"WEBVTT\n\n{expected}\n"


def test_cues_are_in_order_and_empty_sentences_left_out() -> None:
    """WebVTT wants every cue to start no earlier than the one before."""
    text = spoken((5, 6, "b"), (1, 9, "a"), (2, 3, ""), (None, None, "c")).webvtt()
    assert text.count("-->") == 3
    assert [line[:12] for line in text.splitlines() if "-->" in line] == [
        "00:00:01.000",
        "00:00:03.000",
        "00:00:05.000",
    ]
    assert Transcript().webvtt() == "WEBVTT\n"


@pytest.mark.parametrize(
    ("fields", "line", "voice"),
    [
        ({"speaker_name": "Ann"}, "Ann: Hello.", "<v Ann>"),
        ({"speaker_name": "Ann <x> & Bo\n"}, "Ann <x> & Bo: Hello.", "<v Ann &lt;x&gt; &amp; Bo>"),
        ({"speaker_id": "77", "speaker_type": "guest"}, "guest 77: Hello.", "<v guest 77>"),
        ({"speaker_id": "77"}, "speaker 77: Hello.", "<v speaker 77>"),
        ({}, "Hello.", ""),
    ],
)
def test_the_speaker_of_a_sentence(fields: dict[str, Any], line: str, voice: str) -> None:
    """An unknown speaker keeps the id and the sentence; the name stays None."""
    transcript = spoken((65.2, 66, "Hello."), **fields)
    assert transcript.text() == f"[00:01:05] {line}\n"
    assert f"\n{voice}Hello.\n" in transcript.webvtt()
    assert transcript.entries is not None
    assert transcript.entries[0].speaker_name == fields.get("speaker_name")


def test_a_transcript_as_rows() -> None:
    transcript = Transcript(
        meeting=MeetingRef(id="m"), entries=(Sentence(text="a"), Sentence(raw_text="b", start_time=1))
    )
    rows = [each.row() for each in transcript.sentence_rows()]
    assert [(row["meeting_id"], row["position"], row["text"], row["raw_text"]) for row in rows] == [
        ("m", 0, "a", None),
        ("m", 1, None, "b"),
    ]
    assert rows[1]["start_time"] == 1.0
    assert transcript.text() == "a\n[00:00:01] b\n"


# Lists


def test_lists_give_what_the_service_has() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        for name, filters in (
            ("meetings", YEAR),
            ("users", {}),
            ("activity", YEAR),
        ):
            resource = getattr(truto, name)
            typed = await resource.list(account, **filters).collect()
            plain = (
                await truto.unified("conversational-intelligence", name)
                .list(account, extra_query=filters)
                .collect()
            )
            assert typed, name
            assert [bare(item.to_dict()).keys() for item in typed] == [each.keys() for each in bare(plain)]
            assert [item.remote_data for item in typed] == [each["remote_data"] for each in plain]
            async with resource.stream(account, **filters) as stream:
                assert [item async for item in stream] == typed
            assert list((await resource.keyed(account, **filters)).values()) == typed
            assert (await resource.raw(account, **filters)).status == 200
        meeting = (await truto.meetings.list(account, **YEAR))[0]
        assert meeting.id is not None
        for each in (meeting, meeting.id, MeetingRef(id=meeting.id), {"id": meeting.id}):
            found = await truto.transcripts.list(account, meeting=each).collect()
            assert {transcript.meeting_id for transcript in found} <= {meeting.id}
        users = await truto.users.list(account).collect()
        some = await truto.activity.list(account, **YEAR, users=users[:2]).collect()
        assert {item.user.id for item in some if item.user} <= {user.id for user in users[:2]}

    in_sandbox(scenario, **MEETINGS)


def test_fields_that_this_package_does_not_know_are_told_and_kept() -> None:
    """The service documents some of Gong's counts only; the others are received all the same."""
    events: list[Any] = []

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        pages = [page async for page in truto.activity.list(account, **YEAR, limit=3).pages()]
        assert len(pages) > 1
        assert {page.unknown_fields for page in pages} == {("metrics.calls_shared_externally",)}
        assert "calls_shared_externally" in pages[0][0].metrics.unknown
        told = [event for event in events if isinstance(event, UnknownFields)]
        assert [(event.fields, event.kept, event.account) for event in told] == [
            (("metrics.calls_shared_externally",), True, account)
        ]

    in_sandbox(scenario, client={"on_event": events.append}, **MEETINGS)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda truto: truto.transcripts.list("a"), "needs meeting"),
        (lambda truto: truto.transcripts.list("a", meeting=""), "meeting must be the id"),
        (lambda truto: truto.transcripts.list("a", meeting=5), "meeting must be the id"),
        (lambda truto: truto.transcripts.list("a", meeting=Meeting()), "meeting must be the id"),
        (lambda truto: truto.transcripts.stream("a"), "needs meeting"),
        (lambda truto: truto.transcripts.raw("a"), "needs meeting"),
        (lambda truto: truto.activity.list("a"), "needs start_time and end_time"),
        (lambda truto: truto.activity.list("a", start_time="-1d"), "needs end_time"),
        (lambda truto: truto.users.list("a", created_at="yesterday"), "created_at"),
        (lambda truto: truto.users.list("a", created_at={"gt": "yesterday"}), r"created_at\[gt\]"),
        (lambda truto: truto.unified("conversational-intelligence", "meeting"), "it has meetings, "),
        (lambda truto: truto.unified("conversational-intelligence", "Transcript"), "it has transcripts, "),
        (lambda truto: truto.unified("conversational-intelligence", "calls"), "activity"),
    ],
)
def test_what_can_never_work_is_refused_before_any_request(
    call: Callable[[TrutoClient], Any], said: str
) -> None:
    async def scenario() -> None:
        async with TrutoClient("t", base_url="http://127.0.0.1:9") as truto:
            with pytest.raises(UsageError, match=said):
                call(truto)

    run(scenario())


@pytest.mark.parametrize(
    ("resource", "own"),
    [
        ("meetings", {"start_time", "end_time"}),
        ("users", {"created_at", "updated_at"}),
        ("transcripts", {"meeting"}),
        ("activity", {"start_time", "end_time", "users"}),
        ("interactions", {"start_time", "end_time", "users"}),
    ],
)
def test_each_resource_takes_only_its_own_filters(resource: str, own: set[str]) -> None:
    every = {"start_time", "end_time", "users", "created_at", "updated_at", "meeting"}

    async def scenario() -> None:
        async with TrutoClient("t", base_url="http://127.0.0.1:9") as truto:
            for verb in ("list", "stream", "keyed", "raw"):
                method = getattr(getattr(truto, resource), verb)
                assert every & inspect.signature(method).parameters.keys() == own
                for other in every - own:
                    with pytest.raises(TypeError, match=other):
                        method("a", **{other: "x"})

    run(scenario())


@pytest.mark.parametrize(
    ("filters", "query"),
    [
        ({"created_at": "2024-01-01"}, "created_at=2024-01-01T00%3A00%3A00Z"),
        ({"created_at": {"gt": "2024-01-01", "lt": "2024-02-01T00:00:00Z"}},
         "created_at%5Bgt%5D=2024-01-01T00%3A00%3A00Z&created_at%5Blt%5D=2024-02-01T00%3A00%3A00Z"),
        ({"updated_at": {"gte": "2024-01-01"}, "extra_query": {"sort_by": "name"}},
         "updated_at%5Bgte%5D=2024-01-01T00%3A00%3A00Z&sort_by=name"),
    ],
)  # fmt: skip
def test_times_of_users_take_operators(filters: dict[str, Any], query: str) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body({"result": []})])
        await truto.users.list(account, **filters)
        assert sandbox.requests[-1].target.endswith(f"&{query}")

    in_sandbox(scenario, strict=False)


def test_a_relative_time_of_an_operator_is_resolved_once() -> None:
    """A walk that goes on tomorrow must ask the same question as today."""
    filters: dict[str, Any] = {"created_at": {"gt": "-7d", "lt": "2024-06-01"}, "updated_at": "-1d"}
    first = list_query("users", account="a", now=datetime(2024, 5, 8, tzinfo=UTC), **filters)
    position = first.start_position(None)
    later = list_query("users", account="a", now=datetime(2024, 5, 9, tzinfo=UTC), **filters)
    assert later.target() != first.target()
    assert later.continued_from(str(position)).target() == first.target()
    assert "created_at%5Bgt%5D=2024-05-01T00%3A00%3A00Z" in first.target()
    assert later.continued_from(position).start_position(position) == position


# One record


def test_get_gives_the_whole_record() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        avoma = await account_of(truto, "avoma")
        short = (await truto.meetings.list(avoma, **YEAR))[0]
        whole = await truto.meetings.get(short.id or "", avoma)
        assert short.attendees is None
        assert whole.attendees
        assert whole.id == short.id
        assert (await truto.meetings.get(short.id or "", avoma, ignore_remote_data=True)).remote_data is None
        assert (await truto.meetings.get(short.id or "", avoma, exclude_fields=["title"])).title is None
        assert await truto.meetings.get(short.id or "", avoma, response_format="debug") == whole
        plain = await truto.unified("conversational-intelligence", "meetings").get(short.id or "", avoma)
        assert bare(Meeting.from_json(json.dumps(plain)).to_dict()) == bare(whole.to_dict())
        raw = await truto.meetings.get(short.id or "", avoma, response_format="raw", item_type=dict)
        assert raw == whole.remote_data

    in_sandbox(scenario, providers={"avoma": 1}, **MEETINGS)


@pytest.mark.parametrize("id", ["a/b", "a b", "ü", "100%", "a?b=c&d#e", "..a", "1+1"])
def test_ids_are_sent_as_one_segment(id: str) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body({"id": id, "title": "t"})])
        assert (await truto.meetings.get(id, account)).id == id
        path = sandbox.requests[-1].target.partition("?")[0]
        assert path.count("/") == 4
        assert path.isascii()

    in_sandbox(scenario)


@pytest.mark.parametrize("id", ["", ".", "..", None, 5, "a\ud800"])
def test_ids_that_are_no_segment_are_refused(id: Any) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(UsageError):
            await truto.meetings.get(id, account)
        assert not sandbox.requests

    in_sandbox(scenario)


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (b'{"callId": "1"}', DecodeError, "callId"),
        (b"[]", DecodeError, "expected|Expected"),
        (b"null", DecodeError, "not such an item"),
        (b'{"result": {"id": "1"}}', DecodeError, "result"),
        (b"<html>", DecodeError, "not JSON"),
        (b'{"id": "\xff"}', DecodeError, "UTF-8"),
        (b'{"id": "1"} x', DecodeError, "JSON"),
    ],
)
def test_a_response_that_is_no_such_record(body: bytes, error: type[Exception], said: str) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body(body)])
        with pytest.raises(error, match=said) as caught:
            await truto.meetings.get("1", account)
        assert caught.value.account == account  # type: ignore[attr-defined]

    in_sandbox(scenario)


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        (b'\xef\xbb\xbf {"id": "1", "title": "t"} ', []),
        (b'{"id": 1, "title": "t"}', ["$.id"]),
        (b'{"id": "1", "title": "t\\ud83d"}', ["$.title"]),
    ],
)
def test_odd_bodies_of_a_record_are_read(body: bytes, paths: list[str]) -> None:
    events: list[Any] = []

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body(body)])
        assert (await truto.meetings.get("1", account)).id == "1"
        assert [event.path for event in events if isinstance(event, FieldRepaired)] == paths

    in_sandbox(scenario, client={"on_event": events.append})


def test_a_record_that_breaks_off_is_fetched_again() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body(b'{"id": "1", "tit'), Fault.body(b""), Fault.body({"id": "1"})])
        assert (await truto.meetings.get("1", account)).id == "1"
        assert len(sandbox.requests) == 3

    in_sandbox(scenario)


def test_a_missing_record_is_never_taken_as_empty() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            await truto.meetings.get("no-such-meeting", account)
        assert caught.value.is_remote
        assert not caught.value.offered
        with pytest.raises(TypeError, match="users"):
            await truto.meetings.get("1", account, users=["1"])  # type: ignore[call-overload]

    in_sandbox(scenario, **MEETINGS)


# What an account offers


def test_the_error_of_an_unsupported_call_says_what_there_is() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        chorus = await account_of(truto, "chorus")
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: truto.users.get("1", chorus),
            lambda: truto.activity.list(chorus, **YEAR).page(),
            lambda: truto.activity.list(chorus, **YEAR).collect(),
            lambda: truto.interactions.keyed(chorus, **YEAR),
            lambda: truto.activity.meta("list", chorus),
        ]
        for call in calls:
            with pytest.raises(
                NotFoundError, match=r"offers meetings \(list, get\), users \(list\)"
            ) as caught:
                await call()
            assert dict(caught.value.offered) == {"meetings": ("list", "get"), "users": ("list",)}
        before = len(sandbox.requests)
        await truto.meetings.list(chorus, **YEAR)
        assert len(sandbox.requests) == before + 1

    in_sandbox(scenario, providers={"chorus": 1}, **MEETINGS)


def test_an_error_of_a_later_page_is_not_looked_up() -> None:
    """The first page shows that the account offers the call."""

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: truto.meetings.list(account, limit=2, **YEAR).collect(),
            lambda: truto.meetings.keyed(account, limit=2, **YEAR),
        ]
        for call in calls:
            sandbox.script(account, [Fault.ok(), Fault.status(404)])
            before = len(sandbox.requests)
            with pytest.raises(NotFoundError):
                await call()
            assert len(sandbox.requests) == before + 2

    in_sandbox(scenario, **MEETINGS)


@pytest.mark.parametrize(
    "fault", [Fault.status(403), Fault.status(500), Fault.body(b"<html>"), Fault.body({"x": 1})]
)
def test_a_lookup_that_fails_never_hides_the_error(fault: Fault) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        chorus = await account_of(truto, "chorus")
        own = truto.with_options(token=await truto.integrated_accounts.create_token(chorus))
        with pytest.raises(NotFoundError, match="no such resource") as caught:
            await own.activity.list(chorus, **YEAR)
        assert not caught.value.offered
        sandbox.script(None, [Fault.status(404), fault])
        with pytest.raises(NotFoundError) as other:
            await truto.activity.list(chorus, **YEAR)
        assert not other.value.offered

    in_sandbox(scenario, providers={"chorus": 1}, **MEETINGS)


def test_meta_says_what_a_method_takes() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        found = await truto.meetings.meta("list", account)
        assert {"start_time", "end_time"} <= found.query_schema["properties"].keys()
        assert found.response_schema["properties"]["title"] == {"type": "string"}
        same = await truto.unified("conversational-intelligence", "meetings").meta("list", account)
        assert same == found
        with pytest.raises(UsageError):
            await truto.meetings.meta("", account)

    in_sandbox(scenario)


def test_accounts_by_id_and_by_their_own_token() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        found = await truto.integrated_accounts.get(account)
        assert isinstance(found, IntegratedAccount)
        assert found.id == account
        assert found == await truto.integrated_accounts.get(found)
        listed = await truto.integrated_accounts.list(
            environment_id=found.environment_id, created_at={"gt": "2000-01-01T00:00:00Z"}
        ).first()
        assert listed == found
        with pytest.raises(NotFoundError):
            await truto.integrated_accounts.get("no-such-account")
        with pytest.raises(NotFoundError):
            await truto.integrated_accounts.me()
        own = truto.with_options(token=await truto.integrated_accounts.create_token(account))
        assert await own.integrated_accounts.me() == found
        with pytest.raises(PermissionDeniedError):
            await own.integrated_accounts.get(account)

    in_sandbox(scenario)


def test_capabilities_of_both_kinds() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        found = await truto.integrated_accounts.capabilities(account, type="all")
        assert found.supports("meetings", "list")
        assert found.supports("meetings", "get", model="conversational-intelligence")
        assert not found.supports("transcripts", "get")
        assert found.integration is not None
        assert found.integration.name == "gong"
        assert found.auth == {"method": "basic"}
        assert found.ai_readiness == {"is_ready": True}
        assert found.env_overridden is False
        assert {each.resource for each in found.proxy} == {"calls", "users"}
        assert found.proxy[0].methods[0].name == "list"
        wider = await truto.integrated_accounts.capabilities(account, type="proxy", has_description=False)
        assert len(wider.proxy) == 3
        assert not wider.unified
        one = await truto.integrated_accounts.capabilities(account, resource="meetings", methods=["get"])
        assert [(each.resource, each.methods) for each in one.unified] == [("meetings", ("get",))]

    in_sandbox(scenario)


# Who is who


def test_a_directory_is_fetched_once() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        both = await asyncio.gather(truto.users.directory(account), truto.users.directory(account))
        assert both[0] == both[1]
        assert both[0] is not both[1]
        pages = len(sandbox.requests)
        both[0].clear()
        again = await truto.with_options(headers={"X-A": "b"}).users.directory(account, ttl=60)
        assert again == both[1]
        assert len(sandbox.requests) == pages
        assert {user.id for user in await truto.users.list(account).collect()} == set(again)
        assert again.popitem()[1].remote_data is None
        before = len(sandbox.requests)
        assert await truto.users.directory(account, ttl=0) == both[1]
        assert len(sandbox.requests) > before
        with pytest.raises(UsageError, match="ttl"):
            await truto.users.directory(account, ttl=-1)

    in_sandbox(scenario, **MEETINGS)


def test_a_directory_that_failed_is_not_kept() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.status(422)])
        failed = await asyncio.gather(
            truto.users.directory(account), truto.users.directory(account), return_exceptions=True
        )
        assert [type(each) for each in failed] == [BadRequestError] * 2
        assert await truto.users.directory(account)
        other = truto.with_options(token="wrong")
        with pytest.raises(AuthenticationError):
            await other.users.directory(account)

    in_sandbox(scenario, **MEETINGS)


def test_a_caller_who_gives_up_takes_nothing_from_the_others() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        first = asyncio.create_task(truto.users.directory(account))
        second = asyncio.create_task(truto.users.directory(account))
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        assert first.cancelled()
        hanging = asyncio.create_task(truto.users.directory(account, ttl=0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await truto.aclose()
        with pytest.raises(UsageError, match="closed"):
            await hanging

    in_sandbox(scenario, **MEETINGS)


def test_items_read_back_from_a_file() -> None:
    """A line of a pull has columns that the item has no field for."""
    line = b'{"integrated_account_id":"a","id":"1","title":"t"}'
    meeting = Meeting.from_json(line)
    assert (meeting.id, meeting.unknown) == ("1", {"integrated_account_id": "a"})
    assert Meeting.from_json(msgspec.json.encode(meeting)) == meeting
    with pytest.raises(DecodeError, match="not Meeting"):
        Meeting.from_json('{"id": 5}')
    with pytest.raises(DecodeError, match="not JSON"):
        Meeting.from_json("x")

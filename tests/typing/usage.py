"""The types that callers get. Checked by mypy and pyright in strict mode, never executed.

``assert_type`` fails when a type gets wider. A line that must be an error carries a ``type: ignore``, which both
checkers read: once the line is accepted, the ignore is unused, and that is an error too.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypedDict, assert_type

import msgspec
import polars

import truto_ci_async
from truto_ci_async import (
    ROW_COLUMNS,
    Activity,
    ActivityMetrics,
    APIError,
    Attendee,
    Capabilities,
    Capability,
    CursorExpiredError,
    DeadlineError,
    DebugInfo,
    DecodeError,
    Email,
    Event,
    FieldRepaired,
    IntegratedAccount,
    Interaction,
    Issue,
    ItemStream,
    Keyed,
    Meeting,
    MeetingRef,
    MethodSchema,
    Metrics,
    MissingExtraError,
    Number,
    Pacing,
    Page,
    Paginator,
    PermissionDeniedError,
    Person,
    Position,
    Pull,
    Rate,
    RateLimit,
    RateLimitError,
    RawPages,
    RawResponse,
    Resource,
    ResponseInfo,
    RetryPolicy,
    Sandbox,
    Schema,
    Sentence,
    SentenceRow,
    Timeouts,
    Transcript,
    TrutoClient,
    TrutoError,
    User,
    schema,
    to_polars,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
END = date(2024, 2, 1)


class Contact(msgspec.Struct):
    id: str
    name: str | None = None


class Row(TypedDict):
    id: str


async def listing(truto: TrutoClient) -> None:
    paginator = truto.interactions.list("account", start_time=START, end_time=END, users=["1"], limit=50)
    truto.interactions.list("account", start_time="-7d", end_time=timedelta(days=-1), users=None)
    await truto.interactions.plan(integration="gong", start_time="today-7d", allow_empty=True)
    assert_type(paginator, Paginator[Interaction])

    async for interaction in paginator:
        assert_type(interaction, Interaction)
    async for page in paginator.pages():
        assert_type(page, Page[Interaction])
    assert_type(await paginator, Page[Interaction])
    assert_type(await paginator.page(), Page[Interaction])
    assert_type(await paginator.collect(max_items=10), list[Interaction])
    assert_type(await paginator.first(), Interaction | None)
    assert_type([item async for item in paginator], list[Interaction])
    assert_type(await paginator.to_polars(), polars.DataFrame)
    assert_type((await paginator).to_polars(["-remote_data"]), polars.DataFrame)
    assert_type(to_polars([Interaction()]), polars.DataFrame)
    assert_type(schema(Interaction), Schema)
    async for batch in paginator.arrow_batches(rows=1_000):
        assert_type(batch.num_rows, int)
    assert_type(
        await asyncio.gather(paginator.page(), paginator.first()),
        tuple[Page[Interaction], Interaction | None],
    )


async def every_argument(truto: TrutoClient, account: IntegratedAccount, position: Position) -> None:
    truto.interactions.list(
        account,
        start_time="2024-01-01T00:00:00Z",
        end_time=None,
        users=(Person(id="1"), {"id": "2"}, "3"),
        limit=None,
        cursor=position,
        response_format="debug",
        ignore_limit=True,
        ignore_remote_data=True,
        exclude_fields={"remote_data"},
        super_query="apac",
        skip_api_call=False,
        remote_query={"foo": {"bar": [1]}},
        extra_query={"created_at": {"gt": START}, "limit": None},
        object_arrays="brackets",
        on_invalid="raise",
        empty_on_not_found=False,
        prefetch=0,
        max_pages=3,
    )
    truto.interactions.list(cursor=str(position))
    truto.interactions.list(cursor=None)


async def other_item_types(truto: TrutoClient) -> None:
    assert_type(truto.interactions.list("a", item_type=Contact), Paginator[Contact])
    assert_type(await truto.interactions.list("a", item_type=Contact).first(), Contact | None)
    assert_type(truto.interactions.list("a", item_type=msgspec.Raw), Paginator[msgspec.Raw])
    assert_type(truto.interactions.list("a", item_type=Row), Paginator[Row])
    async for row in truto.interactions.list("a", item_type=dict[str, Any]):
        assert_type(row, dict[str, Any])


async def other_resources(truto: TrutoClient) -> None:
    contacts = truto.unified("crm", "contacts")
    assert_type(contacts, Resource[dict[str, Any]])
    async for contact in contacts.list("account"):
        assert_type(contact, dict[str, Any])
    assert_type(await contacts.keyed("account"), Keyed[dict[str, Any]])

    typed = truto.unified("crm", "contacts", Contact)
    assert_type(typed, Resource[Contact])
    assert_type(await typed.list("account"), Page[Contact])
    assert_type(await typed.list("account", item_type=Row).collect(), list[Row])
    assert_type(truto.unified("crm", "contacts", item_type=Contact), Resource[Contact])


async def keyed_and_raw(truto: TrutoClient) -> None:
    by_id = await truto.interactions.keyed("account", key_by="id", start_time=START, end_time=END)
    assert_type(by_id, Keyed[Interaction])
    assert_type(by_id["a"], Interaction)
    assert_type(by_id.issues, list[Issue])
    as_dict: dict[str, Interaction] = by_id
    assert_type(as_dict.get("a"), Interaction | None)
    assert_type(await truto.interactions.keyed("account", item_type=Contact), Keyed[Contact])

    raw = truto.interactions.raw("account", start_time=START, end_time=END)
    assert_type(raw, RawPages)
    assert_type(await raw, RawResponse)
    async for response in raw:
        assert_type(response, RawResponse)
        assert_type((response.body, response.status, response.next_cursor), tuple[bytes, int, str | None])
        assert_type(response.headers, dict[str, str])
        assert_type((response.provider_cursor, response.has_more), tuple[str | None, bool])


async def streams(truto: TrutoClient) -> None:
    async with truto.interactions.stream(
        "account", start_time=START, end_time=END, max_stream_bytes=None
    ) as stream:
        assert_type(stream, ItemStream[Interaction])
        async for interaction in stream:
            assert_type(interaction, Interaction)
        async for batch in stream.batches():
            assert_type(batch, list[Interaction])
        async for chunk in stream.chunks():
            assert_type(chunk, bytes)
        assert_type((stream.content_type, stream.position), tuple[str, Position | None])
        assert_type(stream.issues, list[Issue])
    stats = truto.interactions.stream("a", path="peopleInteractionStats", item_type=dict[str, Any])
    assert_type(stats, ItemStream[dict[str, Any]])
    assert_type(truto.unified("crm", "contacts", Contact).stream("a"), ItemStream[Contact])


async def pages(page: Page[Interaction]) -> None:
    assert_type(page[0], Interaction)
    assert_type(page[:2], tuple[Interaction, ...])
    assert_type(list(page), list[Interaction])
    assert_type(page.items, tuple[Interaction, ...])
    assert_type((page.next_cursor, page.position), tuple[str | None, Position | None])
    assert_type(
        (page.result_count, page.is_partial_response, page.has_more), tuple[int | None, bool | None, bool]
    )
    assert_type(page.debug, DebugInfo | None)
    assert_type(page.extra, dict[str, Any])
    assert_type(page.issues, tuple[Issue, ...])
    assert_type(page.response, ResponseInfo)
    assert_type(page.response.rate_limit, RateLimit | None)


def fields(interaction: Interaction) -> None:
    assert_type(interaction.id, str | None)
    assert_type(interaction.start_time, datetime | None)
    assert_type(interaction.user, Person | None)
    assert_type(interaction.metrics, Metrics | None)
    assert_type(interaction.remote_json, msgspec.Raw)
    assert_type(interaction.row(), dict[str, Any])
    assert_type(interaction.to_dict(), dict[str, Any])
    assert_type(ROW_COLUMNS, tuple[str, ...])
    if interaction.user and interaction.metrics:
        assert_type(interaction.user.emails, tuple[Email, ...] | None)
        assert_type(interaction.user.email, str | None)
        assert_type(interaction.metrics.patience, int | float | None)
        patience: Number = interaction.metrics.patience or 0
        assert_type(patience / 2, float)
    assert_type({interaction: 1}, dict[Interaction, int])


async def siblings(truto: TrutoClient, account: str) -> None:
    meetings = truto.meetings.list(account, start_time=START, end_time=END, limit=5)
    assert_type(meetings, Paginator[Meeting])
    assert_type(truto.meetings.list(account, item_type=dict), Paginator[dict[Any, Any]])
    meeting = await truto.meetings.get("1", account, ignore_remote_data=True, exclude_fields=["title"])
    assert_type(meeting, Meeting)
    assert_type(meeting.attendees, tuple[Attendee, ...] | None)
    assert_type(meeting.duration, int | float | None)
    assert_type(meeting.unknown, dict[str, Any])
    transcripts = truto.transcripts.list(account, meeting=meeting)
    assert_type(transcripts, Paginator[Transcript])
    truto.transcripts.list(account, meeting=MeetingRef(id="1"))
    transcript = (await transcripts)[0]
    assert_type(transcript.entries, tuple[Sentence, ...] | None)
    assert_type(transcript.text(), str)
    assert_type(transcript.webvtt(), str)
    assert_type(transcript.sentence_rows(), list[SentenceRow])
    users = truto.users.list(account, created_at={"gt": START})
    assert_type(users, Paginator[User])
    assert_type(await truto.users.directory(account, ttl=60), dict[str, User])
    activity = truto.activity.list(account, start_time="-7d", end_time="now", users=[(await users)[0]])
    assert_type(activity, Paginator[Activity])
    metrics = (await activity)[0].metrics
    assert_type(metrics, ActivityMetrics | None)
    contact = await truto.unified("crm", "contacts").get("1", account)
    assert_type(contact, dict[str, Any])
    assert_type(await truto.meetings.get("1", account, item_type=Contact), Contact)
    assert_type(await truto.meetings.meta("list", account), MethodSchema)
    assert_type(await truto.integrated_accounts.get(account), IntegratedAccount)
    assert_type(await truto.integrated_accounts.me(), IntegratedAccount)
    assert_type(Interaction.from_json("{}"), Interaction)
    truto.meetings.list(account, users=["1"])  # type: ignore[call-overload]
    truto.transcripts.list(account)  # type: ignore[call-overload]
    truto.activity.list(account, start_time="-7d")  # type: ignore[call-overload]


async def accounts(truto: TrutoClient) -> None:
    listed = truto.integrated_accounts.list(
        "gong", status="active", created_at={"gt": START}, is_sandbox=False
    )
    assert_type(listed, Paginator[IntegratedAccount])
    async for account in listed:
        can = await truto.integrated_accounts.capabilities(account)
        assert_type(can, Capabilities)
        assert_type(can.supports("interactions"), bool)
        assert_type(can.unified, tuple[Capability, ...])
        token = await truto.integrated_accounts.create_token(account)
        assert_type(token, str)
        assert_type(truto.with_options(token=token, timeouts=Timeouts(total=5)), TrutoClient)
        assert_type(truto.interactions.list(account), Paginator[Interaction])


async def ask_vault() -> str:
    return "token"


async def clients(headers: Mapping[str, str]) -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, FieldRepaired):
            assert_type(event.path, str)

    async with TrutoClient(
        ask_vault,
        base_url="https://api.truto.one",
        timeouts=Timeouts(),
        retry=RetryPolicy(),
        pacing=Pacing(token=Rate(500, 10), account=Rate(50, 10)),
        headers=headers,
        on_event=on_event,
    ) as truto:
        assert_type(truto, TrutoClient)
    TrutoClient(lambda: "token", pacing=Pacing.off())
    await TrutoClient("token").aclose()
    async with Sandbox() as sandbox:
        assert_type((sandbox.url, sandbox.token), tuple[str, str])


async def failures(truto: TrutoClient) -> None:
    try:
        await truto.interactions.list("account")
    except PermissionDeniedError as error:
        assert_type(error.missing_scopes, tuple[str, ...])
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
    except APIError as error:
        assert_type((error.status, error.error, error.message), tuple[int, str, str])
        assert_type(error.insight, dict[str, Any])
    except DeadlineError as error:
        timeout: TimeoutError = error
        raise timeout from None
    except CursorExpiredError as error:
        assert_type(error.cursor, str)
    except DecodeError as error:
        assert_type((error.path, error.index, error.raw), tuple[str, int | None, bytes])
    except MissingExtraError as error:
        assert_type(error.extra, str)
    except TrutoError as error:
        assert_type(error.message, str)


def protocols(truto: TrutoClient) -> None:
    """A caller's own functions can ask for what they need, and not for our classes."""

    def first_of(page: Awaitable[Page[Interaction]], items: AsyncIterator[Interaction]) -> None: ...

    paginator = truto.interactions.list("account")
    first_of(paginator, aiter(paginator))


async def refused(truto: TrutoClient, page: Page[Interaction], interaction: Interaction) -> None:
    """Mistakes that a type checker catches."""
    truto.interactions.list("a", start="2024")  # type: ignore[call-overload]
    truto.interactions.list("a", START)  # type: ignore[call-overload]
    truto.interactions.list("a", start_time=5)  # type: ignore[call-overload]
    truto.interactions.list("a", users=[5])  # type: ignore[list-item]
    truto.interactions.list("a", response_format="raw")  # type: ignore[call-overload]
    truto.interactions.list("a", on_invalid="skip")  # type: ignore[call-overload]
    truto.interactions.stream("a", engine="fast")  # type: ignore[call-overload]
    async for _ in truto.interactions.stream("a").items():  # type: ignore[attr-defined]
        pass
    truto.interactions.raw("a", item_type=Contact)  # type: ignore[call-arg]
    await truto.interactions.keyed("a", cursor="c")  # type: ignore[call-overload]
    truto.integrated_accounts.list(state="active")  # type: ignore[call-arg]
    TrutoClient("token", timeout=5)  # type: ignore[call-arg]
    for _ in truto.interactions.list("a"):  # type: ignore[attr-defined]
        pass
    interaction.id = "b"  # type: ignore[misc]
    page[0] = interaction  # type: ignore[index]
    _ = interaction.user.id  # type: ignore[union-attr]
    truto_ci_async.TrutoClint()  # type: ignore[attr-defined]


async def every_verb(truto: TrutoClient, account: str) -> None:
    assert_type(truto.interactions.pull([account]), Pull[Interaction])
    assert_type(truto.interactions.pull([account], item_type=dict[str, Any]), Pull[dict[str, Any]])
    async with truto.meetings.pull([account], start_time="-7d", window="day") as pages:
        async for page in pages:
            assert_type(page.page.items[0], Meeting)
    assert_type(truto.transcripts.stream(account, meeting="1"), ItemStream[Transcript])
    assert_type(await truto.users.keyed(account, created_at={"gt": START}), Keyed[User])
    assert_type(truto.activity.raw(account, start_time=START, end_time=END), RawPages)
    truto.transcripts.raw(account)  # type: ignore[call-arg]  # a meeting is needed
    truto.users.stream(account, start_time=START)  # type: ignore[call-overload]
    truto.interactions.list(account, strat_time=START)  # type: ignore[call-overload]
    await truto.interactions.plan([account], strat_time=START)  # type: ignore[call-arg]
    assert_type(truto.stats().waiting, dict[str, int])

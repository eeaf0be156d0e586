"""The methods of resources over loopback: what each argument sends, and what comes back typed."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import math
import re
import sys
import traceback
from collections.abc import AsyncIterable, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import Raw, Struct

from truto_ci_async import (
    BadRequestError,
    ConfigurationError,
    CursorExpiredError,
    CursorLoopError,
    DecodeError,
    IntegratedAccount,
    Interaction,
    Meeting,
    MemoryBudget,
    NotFoundError,
    Pacing,
    Page,
    Paginator,
    ParquetSink,
    PermissionDeniedError,
    Person,
    Plan,
    Position,
    Rate,
    RawResponse,
    ReconnectRequiredError,
    RetryPolicy,
    Timeouts,
    TruncatedBodyError,
    TrutoClient,
    TrutoError,
    UnknownFields,
    UsageError,
    pull_plan,
    quick_retries,
)
from truto_ci_async.pull.report import Budget
from truto_ci_async.pull.stores.cloud import CloudStore
from truto_ci_async.sandbox import Fault, Sandbox

from .foreign_values import Missing, Text
from .rawserver import RawServer, serving, with_length
from .support import run

START, END = "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"
WINDOW: dict[str, Any] = {"start_time": START, "end_time": END}
FAST = RetryPolicy(fault_base=0, throttle_base=0)

Scenario = Callable[[Sandbox, TrutoClient, str], Awaitable[None]]


def in_sandbox(scenario: Scenario, *, client: dict[str, Any] | None = None, **options: Any) -> None:
    """Run ``scenario(sandbox, client, account)`` against a small sandbox with one account and no limits."""

    async def main() -> None:
        small: dict[str, Any] = {
            "accounts": 1,
            "others": 0,
            "interactions": 12,
            "page_size": 5,
            "token_rate": None,
            "account_rate": None,
        }
        async with Sandbox(**{**small, **options}) as sandbox:
            settings: dict[str, Any] = {"pacing": Pacing.off(), "retry": FAST, **(client or {})}
            async with TrutoClient(sandbox.token, base_url=sandbox.url, **settings) as truto:
                await scenario(sandbox, truto, sandbox.account_ids[0])

    run(main())


def bare(value: Any) -> Any:
    """A JSON value without its nulls: the service does not distinguish null from absent."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [bare(item) for item in value]
    return value


def same(items: Any, expected: list[dict[str, Any]]) -> bool:
    """Whether Interactions equal these records; nulls count in the provider's own record only."""
    items = list(items)
    return [bare(item.to_dict()) for item in items] == bare(expected) and [
        item.remote_data for item in items
    ] == [record.get("remote_data") for record in expected]


async def gather(walk: AsyncIterable[Any], seen: list[Any]) -> None:
    """Iterate to the end or to an error, and keep what came before it."""
    async for item in walk:
        seen.append(item)  # noqa: PERF401


# Listing


@pytest.mark.parametrize("compress", [None, "gzip"])
@pytest.mark.parametrize("end_cursor", ["null", "empty", "absent"])
@pytest.mark.parametrize("response_format", ["unified", "normalized", "debug"])
def test_iterating_returns_all_records_of_the_sandbox(
    response_format: Any, end_cursor: Any, compress: Any
) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        paginator = truto.interactions.list(account, response_format=response_format, **WINDOW)
        items = [item async for item in paginator]
        assert all(type(item) is Interaction for item in items)
        assert same(items, sandbox.expected(account, **WINDOW))
        assert len(sandbox.requests) == 3

    in_sandbox(scenario, end_cursor=end_cursor, compress=compress)


def test_awaiting_a_list_gives_its_first_page() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        page = await truto.interactions.list(account, **WINDOW)
        assert isinstance(page, Page)
        assert same(page, sandbox.expected(account, **WINDOW)[:5])
        assert (len(page), page.result_count, page.is_partial_response) == (5, 5, False)
        assert page.has_more
        assert page.next_cursor
        assert page.prev_cursor is None
        assert page.issues == ()
        assert page[0] == page.items[0]
        assert len(sandbox.requests) == 1

    in_sandbox(scenario)


def test_pages_have_a_previous_cursor() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        pages = [page async for page in truto.interactions.list(account, **WINDOW).pages()]
        assert [bool(page.prev_cursor) for page in pages] == [False, True, True]
        back = await truto.interactions.list(account, cursor=pages[1].prev_cursor, **WINDOW)
        assert back.items == pages[0].items

    in_sandbox(scenario)


def test_a_page_has_status_headers_and_attempts_of_its_response() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.status(500), Fault.status(502)])
        page = await truto.interactions.list(account, **WINDOW)
        response = page.response
        assert (response.status, response.attempts) == (200, 3)
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        assert all(name == name.lower() for name in response.headers)
        assert response.rate_limit is not None
        assert (response.rate_limit.limit, response.rate_limit.window) == (50, 10)
        assert response.rate_limit.remaining == 47
        assert 0 < response.elapsed < 10
        again = await truto.interactions.list(account, **WINDOW)
        assert again.response.attempts == 1

    in_sandbox(scenario, provider_rate=(50, 10.0), ratelimit_headers="window")


def test_unknown_envelope_keys_are_kept() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        page = await truto.interactions.list(account, **WINDOW)
        assert page.extra == {"quota": {"left": [1, 2]}}
        assert page.next_cursor

    in_sandbox(scenario, extra_envelope={"quota": {"left": [1, 2]}}, envelope_first=True)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_each_page_is_requested_once_over_one_connection(prefetch: int) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        before = len(asyncio.all_tasks())
        most = 0
        async for _ in truto.interactions.list(account, prefetch=prefetch, **WINDOW):
            # The sandbox runs in this loop too.
            own = [task for task in asyncio.all_tasks() if "RequestHandler" not in repr(task.get_coro())]
            most = max(most, len(own))
        assert most <= before + prefetch
        assert len(sandbox.requests) == 6
        assert len({request.peer_port for request in sandbox.requests}) == 1
        assert sandbox.stats.connections == 1

    in_sandbox(scenario, page_size=2)


def test_empty_pages_do_not_end_a_walk() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.empty_page(), Fault.ok(), Fault.empty_page().times(2)])
        items = await truto.interactions.list(account, **WINDOW).collect()
        assert same(items, sandbox.expected(account, **WINDOW))
        assert len(sandbox.requests) == 6

    in_sandbox(scenario)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_cursor_loop_costs_one_request_more_than_its_length(length: int) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.loop(length)])
        seen: list[Interaction] = []
        with pytest.raises(CursorLoopError) as caught:
            await gather(truto.interactions.list(account, **WINDOW), seen)
        assert len(sandbox.requests) == length + 1
        assert len(seen) == 2 * (length + 1)
        assert (caught.value.account, caught.value.pages) == (account, length + 1)

    in_sandbox(scenario, page_size=2, interactions=30)


# What is sent


def test_a_request_is_byte_for_byte_as_expected() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        await truto.interactions.list(
            account,
            start_time=datetime(2024, 1, 1, tzinfo=UTC),
            end_time=datetime(2024, 2, 1, tzinfo=UTC),
            users=["234599484848423", "98765432109876543210"],
            ignore_remote_data=True,
        )
        (request,) = sandbox.requests
        assert request.method == "GET"
        assert request.target == (
            "/unified/conversational-intelligence/interactions"
            "?integrated_account_id=62f44730-dd91-461e-bd6a-aedd9e0ad79d"
            "&start_time=2024-01-01T00%3A00%3A00Z&end_time=2024-02-01T00%3A00%3A00Z"
            "&users%5B0%5D%5Bid%5D=234599484848423&users%5B1%5D%5Bid%5D=98765432109876543210"
            "&truto_ignore_remote_data=true"
        )
        assert request.headers["Authorization"] == f"Bearer {sandbox.token}"
        assert request.headers["Accept"] == "application/json"
        assert "gzip" in request.headers["Accept-Encoding"]
        assert request.headers["User-Agent"].startswith("truto-ci-async")
        assert set(request.headers) == {"Host", "Authorization", "Accept", "Accept-Encoding", "User-Agent"}

    in_sandbox(scenario, accounts=["62f44730-dd91-461e-bd6a-aedd9e0ad79d"])


@pytest.mark.parametrize(
    ("arguments", "name", "sent"),
    [
        ({}, "limit", None),
        ({}, "next_cursor", None),
        ({}, "truto_response_format", None),
        ({"cursor": ""}, "next_cursor", None),
        ({"limit": 7}, "limit", "7"),
        ({"ignore_limit": True}, "truto_ignore_limit", "true"),
        ({"ignore_limit": False}, "truto_ignore_limit", None),
        ({"ignore_remote_data": True}, "truto_ignore_remote_data", "true"),
        ({"exclude_fields": ["id", "user"]}, "truto_exclude_fields", ["id", "user"]),
        ({"exclude_fields": []}, "truto_exclude_fields", None),
        ({"response_format": "normalized"}, "truto_response_format", "normalized"),
        ({"response_format": "debug"}, "truto_response_format", "debug"),
        ({"skip_api_call": True}, "truto_skip_api_call", "true"),
        ({"super_query": "apac"}, "truto_super_query", "apac"),
        ({"users": ["1"]}, "users", [{"id": "1"}]),
        ({"users": [Person(id="1"), {"id": "2"}, "1"]}, "users", [{"id": "1"}, {"id": "2"}]),
        ({"users": None}, "users", None),
        ({"remote_query": {"a": {"b": [1, True]}}}, "remote_query", {"a": {"b": ["1", "true"]}}),
        ({"remote_query": {"é": "a b+c&d=e"}}, "remote_query", {"é": "a b+c&d=e"}),
        ({"extra_query": {"limit": "3"}}, "limit", "3"),
        ({"limit": 7, "extra_query": {"limit": None}}, "limit", None),
        ({"remote_query": {"a": 1}, "extra_query": {"remote_query": {"b": 2}}}, "remote_query", {"a": "1", "b": "2"}),
        ({"start_time": date(2024, 1, 2)}, "start_time", "2024-01-02T00:00:00Z"),
        ({"start_time": "2024-01-02T00:00:00+05:30"}, "start_time", "2024-01-02T00:00:00+05:30"),
        (
            {"start_time": datetime(2024, 1, 2, 3, tzinfo=timezone(timedelta(hours=5, minutes=30)))},
            "start_time",
            "2024-01-01T21:30:00Z",
        ),
        (
            {"end_time": datetime(2024, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)},
            "end_time",
            "2024-01-02T03:04:05.678Z",
        ),
    ],
)  # fmt: skip
def test_the_service_reads_each_argument_as_it_was_meant(
    arguments: dict[str, Any], name: str, sent: Any
) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        await truto.interactions.list(account, **{**WINDOW, **arguments})
        (request,) = sandbox.requests
        assert request.query.get(name) == sent
        assert request.query["integrated_account_id"] == account
        assert request.notes == ()
        assert request.status == 200

    in_sandbox(scenario)


def test_all_filters_are_sent_again_with_each_cursor() -> None:
    """The sandbox refuses a cursor that comes with other filters."""

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        users = sandbox.user_ids(account)[:9]
        arguments: dict[str, Any] = {
            **WINDOW,
            "users": users,
            "limit": 2,
            "response_format": "normalized",
            "exclude_fields": ["created_at", "updated_at"],
            "remote_query": {"x": "y"},
        }
        items = await truto.interactions.list(account, **arguments).collect()
        assert [item.user and item.user.id for item in items] == users
        first, *others = [request.query for request in sandbox.requests]
        assert len(others) == 4
        for query in others:
            cursor = query.pop("next_cursor")
            assert cursor
            assert query == first

    in_sandbox(scenario)


def test_excluded_fields_are_none_even_the_id() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        excluded = ["id", "metrics", "remote_data"]
        items = await truto.interactions.list(account, exclude_fields=excluded, **WINDOW).collect()
        assert len(items) == 12
        assert {(item.id, item.metrics, item.remote_data) for item in items} == {(None, None, None)}
        assert len({item.user and item.user.id for item in items}) == 12
        assert len(set(items)) == 12

    in_sandbox(scenario)


def test_remote_data_that_was_left_out_is_none() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        item = await truto.interactions.list(account, ignore_remote_data=True, **WINDOW).first()
        assert item is not None
        assert item.remote_data is None
        assert item.id

    in_sandbox(scenario)


def test_limit_is_the_most_records_on_a_page() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        pages = [page async for page in truto.interactions.list(account, limit=4, **WINDOW).pages()]
        assert [len(page) for page in pages] == [4, 4, 4]
        whole = [
            page
            async for page in truto.interactions.list(account, limit=4, ignore_limit=True, **WINDOW).pages()
        ]
        assert [len(page) for page in whole] == [5, 5, 2]

    in_sandbox(scenario)


def test_operators_reach_the_synced_store_through_extra_query() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        after = datetime(2024, 3, 15, tzinfo=UTC)
        items = await truto.interactions.list(
            account,
            super_query="apac",
            extra_query={
                "created_at": {"gt": after, "lte": "2024-05-01T10:00:00Z"},
                "sort_by": {"created_at": "desc"},
            },
        ).collect()
        query = sandbox.requests[0].query
        assert query["created_at"] == {"gt": "2024-03-15T00:00:00Z", "lte": "2024-05-01T10:00:00Z"}
        assert query["truto_super_query"] == "apac"
        assert "start_time" not in query
        moments = [item.created_at for item in items]
        assert all(moment and moment > after for moment in moments)
        assert moments == sorted(moments, reverse=True)  # type: ignore[type-var]
        assert len(items) == 24, "March and April of twelve people"

    in_sandbox(scenario)


def test_arguments_are_copied() -> None:
    """They are not changed, and changing them later does not change an iteration that is under way."""

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        users = sandbox.user_ids(account)[:8]
        arguments: dict[str, Any] = {
            "users": users,
            "exclude_fields": ["metrics"],
            "remote_query": {"a": {"b": ["c"]}},
            "extra_query": {"limit": 3, "remote_query": {"d": {"e": "f"}}},
        }
        before = copy.deepcopy(arguments)
        paginator = truto.interactions.list(account, **arguments, **WINDOW)
        walk = aiter(paginator)
        await anext(walk)
        assert arguments == before
        arguments["users"].clear()
        arguments["exclude_fields"].append("id")
        arguments["remote_query"]["a"]["b"].append("x")
        arguments["extra_query"]["remote_query"]["d"]["e"] = "y"
        assert len([item async for item in walk]) == 7
        assert len(await paginator.collect()) == 8

    in_sandbox(scenario)


def test_many_tasks_can_iterate_over_one_paginator() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        paginator = truto.interactions.list(account, **WINDOW)
        walks = await asyncio.gather(*(paginator.collect() for _ in range(5)))
        assert all(same(walk, sandbox.expected(account, **WINDOW)) for walk in walks)

    in_sandbox(scenario)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"start_time": datetime(2024, 1, 1)}, "no time zone"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"start_time": "last week"}, "is not a time"),
        ({"users": []}, "users is empty"),
        ({"users": "123"}, "list of ids"),
        ({"users": [123]}, "non-empty string"),
        ({"exclude_fields": "id"}, "list of names"),
        ({"response_format": "raw"}, "raw\\(\\) or stream\\(\\)"),
        ({"extra_query": {"next_cursor": "x"}}, "cursor="),
        ({"on_invalid": "ignore"}, "repair"),
        ({"item_type": 5}, "item_type"),
        ({"object_arrays": "commas"}, "indices"),
        ({"prefetch": 3}, "prefetch"),
        ({"response_format": None}, "raw\\(\\) or stream\\(\\)"),
        ({"max_pages": 0}, "max_pages"),
        ({"cursor": 5}, "cursor takes"),
        ({"cursor": "truto-position-1.x"}, "Position"),
        ({"integrated_account_id": ""}, "integrated_account_id"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(arguments: dict[str, Any], says: str) -> None:
    """Without an event loop, and before anything is sent."""
    truto = TrutoClient("token", base_url="http://127.0.0.1:1")
    with pytest.raises(UsageError, match=says):
        truto.interactions.list(**{**WINDOW, **arguments})


HUGE = 10**400  # overflows a float
NO_NUMBERS: list[Any] = [
    HUGE,
    -HUGE,
    10**5000,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    "5",
    b"5",
    Missing(),
]


@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_no_number_can_break_an_option(number: Any) -> None:
    """Whatever is passed as a number, and wherever, is used or is an error of ours that names the option."""
    truto = TrutoClient("token", base_url="http://127.0.0.1:1")
    calls: dict[str, Callable[[Any], Any]] = {
        **{f"Timeouts.{name}": partial(_with, Timeouts, name) for name in Timeouts.__struct_fields__},
        **{
            f"RetryPolicy.{name}": partial(_with, RetryPolicy, name) for name in RetryPolicy.__struct_fields__
        },
        **{name: partial(_with, Budget, name) for name in Budget.__struct_fields__},
        "Rate.limit": lambda value: Rate(value, 10.0),
        "Rate.window": lambda value: Rate(10, value),
        "Pacing.token": lambda value: Pacing(token=value),
        "attempts": lambda value: quick_retries(value).__enter__(),
        "max_body_bytes": partial(_with, TrutoClient, "max_body_bytes"),
        "max_connections": partial(_with, TrutoClient, "max_connections"),
        "limit": lambda value: truto.interactions.list("a", limit=value),
        "max_pages": lambda value: truto.interactions.list("a", max_pages=value),
        "prefetch": lambda value: truto.interactions.list("a", prefetch=value),
        "max_items": lambda value: run(truto.interactions.list("a").collect(value)),
        "max_item_bytes": lambda value: truto.interactions.stream("a", max_item_bytes=value),
        "max_envelope_bytes": lambda value: truto.interactions.stream("a", max_envelope_bytes=value),
        "max_stream_bytes": lambda value: truto.interactions.stream("a", max_stream_bytes=value),
        "max_accounts ": lambda value: truto.interactions.pull(["a"], max_accounts=value),
        "number of shards": lambda value: Plan(accounts=()).shards(value),
        "limit ": lambda value: run(truto.interactions.plan(["a"], limit=value)),
        "limit  ": lambda value: truto.integrated_accounts.list(limit=value),
        "rows": lambda value: truto.interactions.list("a").arrow_batches(rows=value),
        "lookback": lambda value: truto.transcripts.pull(["a"], lookback=value),
        "part_rows": lambda value: ParquetSink("out", part_rows=value),
        "part_seconds": lambda value: ParquetSink("out", part_seconds=value),
        "part_rows ": lambda value: CloudStore(store=object(), part_rows=value),
        "part_seconds ": lambda value: CloudStore(store=object(), part_seconds=value),
        "max_wait": lambda value: run(pull_plan(truto, Plan(accounts=()), "out", max_wait=value)),
        "budget": lambda value: truto.interactions.pull(["a"], budget=value),
        "pacing": lambda value: MemoryBudget(value),
    }
    for name, call in calls.items():
        with pytest.raises((UsageError, ConfigurationError), match=re.escape(name.strip())):
            call(number)


def _with(make: Callable[..., Any], name: str, value: Any) -> Any:
    return make(**{name: value})


@pytest.mark.parametrize("method", ["list", "raw", "stream", "keyed"])
def test_a_relative_time_is_resolved_once_for_all_pages(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a moving window would not fit together, and the service refuses their cursors."""
    clock = datetime.now(UTC)

    class Hurrying(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            nonlocal clock
            clock += timedelta(hours=1)
            return clock

    monkeypatch.setattr(sys.modules["truto_ci_async._wire.list_query"], "datetime", Hurrying)

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        window: dict[str, Any] = {"start_time": "today-7d", "end_time": timedelta(days=-2)}
        call = getattr(truto.interactions, method)(account, **window)
        if method == "keyed":
            await call
        elif method == "stream":
            async with call as items:
                await gather(items, [])
        else:
            await gather(call, [])
        queries = [request.query for request in sandbox.requests]
        assert len(queries) == 3
        assert len({(query["start_time"], query["end_time"]) for query in queries}) == 1
        assert all(request.status == 200 for request in sandbox.requests)

    in_sandbox(scenario)


@pytest.mark.parametrize("method", ["list", "raw", "stream"])
def test_a_position_continues_the_window_of_its_walk(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-7d`` is another time tomorrow."""
    module = sys.modules["truto_ci_async._wire.list_query"]
    today = datetime.now(UTC)

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        async def read(days: int, cursor: Any) -> list[Any]:
            monkeypatch.setattr(
                module, "datetime", SimpleNamespace(now=lambda _: today + timedelta(days=days))
            )
            options: dict[str, Any] = {"start_time": "-7d", "end_time": "-5d", "limit": 5, "cursor": cursor}
            call = getattr(truto.interactions, method)(account, **options)
            if method == "stream":
                async with call as stream:
                    return [stream.position async for _ in stream.batches()]
            pages = call.pages() if method == "list" else aiter(call)
            return [pages.position async for _ in pages]

        positions = await read(0, None)
        position = next(each for each in positions if each.cursor is not None)
        await read(1, position)
        await read(2, str(position))
        queries = [request.query for request in sandbox.requests]
        assert len(queries) == 7
        assert len({(query["start_time"], query["end_time"]) for query in queries}) == 1
        with pytest.raises(UsageError, match="a cursor alone does not say"):
            await read(2, position.cursor)

    in_sandbox(scenario)


def test_a_misspelled_filter_is_a_type_error_that_mentions_extra_query() -> None:
    truto = TrutoClient("token", base_url="http://127.0.0.1:1")
    list_: Any = truto.interactions.list
    with pytest.raises(TypeError, match="starttime.*extra_query"):
        list_("a", starttime=START)


def test_a_missing_window_is_the_services_error_with_its_insight() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(BadRequestError, match="start_time, end_time") as caught:
            await truto.interactions.list(account)
        assert caught.value.insight["missing_required_query_parameters"]["value"] == [
            "start_time",
            "end_time",
        ]
        assert caught.value.account == account

    in_sandbox(scenario)


# Long users filters, positions


def test_many_users_are_sent_in_batches_of_twenty_in_their_order() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        everyone = sandbox.user_ids(account)
        users = everyone[40:] + everyone[:40]
        pages = [
            page
            async for page in truto.interactions.list(account, users=[*users, *users[:5]], **WINDOW).pages()
        ]
        asked = [[user["id"] for user in request.query["users"]] for request in sandbox.requests]
        batches = [users[:20], users[20:40], users[40:45]]
        assert asked == [batches[0]] * 2 + [batches[1]] * 2 + [batches[2]]
        assert all(request.notes == () for request in sandbox.requests)
        expected = [
            record for users in batches for record in sandbox.expected(account, users=users, **WINDOW)
        ]
        assert same([item for page in pages for item in page], expected)
        assert [page.next_cursor is None for page in pages] == [False, True, False, True, True]
        assert [page.has_more for page in pages] == [True] * 4 + [False]

    in_sandbox(scenario, interactions=45, page_size=15)


def test_a_list_resumes_from_any_position_as_object_or_text() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        arguments: dict[str, Any] = {**WINDOW, "users": sandbox.user_ids(account)}
        pages = [page async for page in truto.interactions.list(account, **arguments).pages()]
        items = [item for page in pages for item in page]
        assert len(pages) == 5
        done = 0
        for page in pages[:-1]:
            done += len(page)
            assert page.position is not None
            for cursor in (page.position, str(page.position), f" {page.position}\n"):
                rest = await truto.interactions.list(account, cursor=cursor, **arguments).collect()
                assert rest == items[done:]
        assert pages[-1].position is None

    in_sandbox(scenario, interactions=45, page_size=15)


@pytest.mark.parametrize(
    "other",
    [
        {"end_time": "2024-03-01T00:00:00Z"},
        {"limit": 3},
        {"users": ["1"]},
        {"response_format": "normalized"},
        {"exclude_fields": ["id"]},
        {"super_query": "wnam"},
        {"extra_query": {"x": "y"}},
        {"integrated_account_id": "another"},
    ],
)
def test_a_position_from_other_filters_is_refused_before_anything_is_sent(other: dict[str, Any]) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        arguments: dict[str, Any] = {"integrated_account_id": account, **WINDOW}
        position = (await truto.interactions.list(**arguments)).position
        assert position is not None
        sandbox.clear()
        for cursor in (position, str(position)):
            with pytest.raises(UsageError, match="other filters"):
                truto.interactions.list(**{**arguments, **other}, cursor=cursor)
        assert sandbox.requests == []

    in_sandbox(scenario)


def test_a_bare_cursor_works_with_its_own_filters_only() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        cursor = (await truto.interactions.list(account, **WINDOW)).next_cursor
        with pytest.raises(UsageError, match="other values of: limit"):
            await truto.interactions.list(account, limit=3, cursor=cursor, **WINDOW)
        rest = await truto.interactions.list(account, cursor=cursor, **WINDOW).collect()
        assert same(rest, sandbox.expected(account, **WINDOW)[5:])

    in_sandbox(scenario)


def test_a_bare_cursor_from_other_filters_is_a_usage_error_that_quotes_the_service() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.status(400, message="The cursor was issued for different filters")])
        with pytest.raises(UsageError, match="different filters") as caught:
            await truto.interactions.list(account, cursor="abc", **WINDOW)
        assert isinstance(caught.value.__cause__, BadRequestError)

    in_sandbox(scenario)


def test_a_bare_cursor_is_refused_with_several_user_batches() -> None:
    truto = TrutoClient("token", base_url="http://127.0.0.1:1")
    with pytest.raises(UsageError, match="pass page.position"):
        truto.interactions.list("a", users=[str(i) for i in range(45)], cursor="abc", **WINDOW)


@pytest.mark.parametrize("method", ["list", "raw"])
def test_an_expired_cursor_has_an_error_of_its_own(method: str) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        cursor = (await truto.interactions.list(account, **WINDOW)).next_cursor
        if method == "raw":
            cursor = (await truto.interactions.raw(account, **WINDOW)).next_cursor
        sandbox.expire_cursors()
        with pytest.raises(CursorExpiredError, match="start the window again") as caught:
            await getattr(truto.interactions, method)(account, cursor=cursor, **WINDOW)
        assert (caught.value.cursor, caught.value.account) == (cursor, account)
        assert isinstance(caught.value.__cause__, BadRequestError)

    in_sandbox(scenario)


def test_items_before_an_expired_cursor_are_handed_out() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        seen = []
        with pytest.raises(CursorExpiredError):
            async for item in truto.interactions.list(account, prefetch=0, **WINDOW):
                seen.append(item)
                sandbox.expire_cursors()
        assert same(seen, sandbox.expected(account, **WINDOW)[:5])

    in_sandbox(scenario)


# No data


def test_a_window_without_data_is_empty() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        paginator = truto.interactions.list(account, **WINDOW)
        page = await paginator
        assert list(page) == []
        assert (page.has_more, page.next_cursor, page.position) == (False, None, None)
        assert (page.response.status, page.response.attempts) == (404, 1)
        assert page.response.rate_limit is not None
        assert page.response.elapsed > 0
        assert await paginator.collect() == []
        assert await paginator.first() is None
        assert await truto.interactions.keyed(account, **WINDOW) == {}

    in_sandbox(scenario, interactions=0, provider_rate=(50, 10.0))


@pytest.mark.parametrize("method", ["list", "keyed"])
def test_no_data_is_an_error_without_empty_on_not_found(method: str) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(NotFoundError, match="no stats found") as caught:
            await getattr(truto.interactions, method)(account, empty_on_not_found=False, **WINDOW)
        assert caught.value.is_remote

    in_sandbox(scenario, interactions=0)


def test_each_user_batch_can_be_empty() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        users = sandbox.user_ids(account)
        no_data = Fault.status(404, remote=True, message="no stats found for the specified period")
        sandbox.script(account, [no_data.on(1), no_data.on(3)])
        items = await truto.interactions.list(account, users=users, **WINDOW).collect()
        assert same(items, sandbox.expected(account, users=users[20:40], **WINDOW))
        assert len(sandbox.requests) == 3

    in_sandbox(scenario, interactions=45, page_size=50)


@pytest.mark.parametrize("message", ["Could not find company", "Not Found", ""])
def test_a_404_that_is_not_about_data_is_an_error(message: str) -> None:
    """Taken for an empty window, it would hide a deleted workspace for ever."""

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.status(404, remote=True, message=message).forever()])
        for method in (truto.interactions.list, truto.interactions.keyed):
            with pytest.raises(NotFoundError) as caught:
                await method(account, **WINDOW)  # type: ignore[operator]
            assert caught.value.is_remote

    in_sandbox(scenario)


EMPTY_HEADS = {
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "205": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
    "length of 0": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "length of 000": b"HTTP/1.1 200 OK\r\nContent-Length: 000\r\n\r\n",
}
# Empty, but the head does not say so: the body may have been lost on the way.
LOST_BODIES = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
}
LISTS: dict[str, Callable[[TrutoClient], Awaitable[Any]]] = {
    "list": lambda truto: truto.interactions.list("a", **WINDOW).collect(),
    "no mapping of 404": lambda truto: truto.interactions.list(
        "a", empty_on_not_found=False, **WINDOW
    ).collect(),
    "debug": lambda truto: truto.interactions.list("a", response_format="debug", **WINDOW).collect(),
    "keyed": lambda truto: truto.interactions.keyed("a", **WINDOW),
    "unified": lambda truto: truto.unified("crm", "contacts").list("a").collect(),
    "accounts": lambda truto: truto.integrated_accounts.list().collect(),
    "stream": lambda truto: _streamed(truto, "auto"),
    "stream by ijson": lambda truto: _streamed(truto, "ijson"),
    "raw": lambda truto: _raw_bodies(truto),
}


async def _streamed(truto: TrutoClient, engine: Any, account: str = "a", **options: Any) -> list[Any]:
    async with truto.interactions.stream(account, engine=engine, **WINDOW, **options) as stream:
        return [item async for item in stream]


async def _raw_bodies(truto: TrutoClient) -> list[bytes]:
    """The bodies that are not empty."""
    return [page.body async for page in truto.interactions.raw("a", **WINDOW) if page.body]


def responding(
    *responses: bytes,
) -> Callable[[RawServer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Send these responses in turn, over any connection, then repeat the last one."""
    left = list(responses)

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            response = left.pop(0) if len(left) > 1 else left[0]
            writer.write(response)
            await writer.drain()
            if b"Connection: close" in response:
                return

    return handle


def against(server: RawServer, **options: Any) -> TrutoClient:
    settings: dict[str, Any] = {"pacing": Pacing.off(), "retry": FAST, **options}
    return TrutoClient("token", base_url=server.url, **settings)


@pytest.mark.parametrize("head", EMPTY_HEADS.values(), ids=EMPTY_HEADS)
@pytest.mark.parametrize("method", LISTS.values(), ids=LISTS)
def test_a_first_page_that_says_it_is_empty_is_the_last_one(
    method: Callable[[TrutoClient], Awaitable[Any]], head: bytes
) -> None:
    async def main() -> None:
        async with serving(responding(head)) as server, against(server) as truto:
            assert len(await method(truto)) == 0
            assert len(server.heads) == 1

    run(main())


@pytest.mark.parametrize("head", LOST_BODIES.values(), ids=LOST_BODIES)
@pytest.mark.parametrize("method", LISTS.values(), ids=LISTS)
def test_a_body_that_may_have_been_lost_is_fetched_again(
    method: Callable[[TrutoClient], Awaitable[Any]], head: bytes
) -> None:
    async def main() -> None:
        result = b'{"k": {"id": "1"}}' if method is LISTS["keyed"] else b'[{"id": "1"}]'
        whole = with_length(b'{"result": %b}' % result)
        async with serving(responding(head, whole)) as server, against(server) as truto:
            assert len(await method(truto)) == 1
            assert len(server.heads) == 2
        async with serving(responding(head)) as server, against(server, retry=RetryPolicy.none()) as truto:
            with pytest.raises(TruncatedBodyError, match="the body is empty"):
                await method(truto)

    run(main())


@pytest.mark.parametrize("head", EMPTY_HEADS.values(), ids=EMPTY_HEADS)
@pytest.mark.parametrize("method", LISTS.values(), ids=LISTS)
def test_an_empty_body_after_a_cursor_is_fetched_again(
    method: Callable[[TrutoClient], Awaitable[Any]], head: bytes
) -> None:
    """The page before it said that there is more."""

    async def main() -> None:
        def page(name: str, cursor: bytes) -> bytes:
            result = (
                f'{{"{name}": {{"id": "{name}"}}}}' if method is LISTS["keyed"] else f'[{{"id": "{name}"}}]'
            )
            return with_length(b'{"result": %b, "next_cursor": %b}' % (result.encode(), cursor))

        first, last = page("1", b'"c"'), page("2", b"null")
        async with serving(responding(first, head, last)) as server, against(server) as truto:
            assert len(await method(truto)) == 2
            assert len(server.heads) == 3
        async with (
            serving(responding(first, head)) as server,
            against(server, retry=RetryPolicy.none()) as truto,
        ):
            with pytest.raises(TruncatedBodyError, match="the page before it had a next_cursor"):
                await method(truto)

    run(main())


def test_a_remote_404_on_a_later_page_is_an_error() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.status(404, message="gone", remote=True).on(2)])
        seen: list[Interaction] = []
        with pytest.raises(NotFoundError, match="gone"):
            await gather(truto.interactions.list(account, **WINDOW), seen)
        assert len(seen) == 5

    in_sandbox(scenario)


def test_a_remote_404_for_a_given_cursor_is_an_error() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        cursor = (await truto.interactions.list(account, **WINDOW)).next_cursor
        sandbox.configure(account, interactions=0)
        with pytest.raises(NotFoundError):
            await truto.interactions.list(account, cursor=cursor, **WINDOW)

    in_sandbox(scenario)


def test_an_account_that_does_not_exist_is_an_error() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        for method in (truto.interactions.list, truto.interactions.keyed, truto.interactions.raw):
            with pytest.raises(NotFoundError, match="Integrated account not found") as caught:
                await method("no-such-account", **WINDOW)  # type: ignore[operator]
            assert not caught.value.is_remote
            assert caught.value.account == "no-such-account"

    in_sandbox(scenario)


def test_raw_raises_when_there_is_no_data() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(NotFoundError):
            await truto.interactions.raw(account, **WINDOW)
        with pytest.raises(NotFoundError):
            async for _ in truto.interactions.raw(account, **WINDOW):
                pass

    in_sandbox(scenario, interactions=0)


def test_an_account_that_must_be_reconnected_has_an_error_of_its_own() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.configure(account, status="needs_reauth")
        with pytest.raises(ReconnectRequiredError) as caught:
            await truto.interactions.list(account, **WINDOW)
        assert caught.value.account == account
        assert len(sandbox.requests) == 1

    in_sandbox(scenario)


# Types and repair


def test_items_as_dicts_are_the_records_as_received() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        items = await truto.interactions.list(account, item_type=dict, **WINDOW).collect()
        assert items == sandbox.expected(account, **WINDOW)

    in_sandbox(scenario)


def test_items_as_raw_are_exact_bytes_detached_from_their_page() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        odd = b'{"id" : "1",\t"n": 1.0e2 , "n": [ ] }'
        sandbox.script(account, [Fault.items([odd], mode="prepend")])
        items = await truto.interactions.list(account, item_type=Raw, **WINDOW).collect()
        assert bytes(items[0]) == odd
        assert [msgspec.json.decode(item) for item in items[1:]] == sandbox.expected(account, **WINDOW)

    in_sandbox(scenario)


class Patience(Struct):
    patience: float | None = None


class Talker(Struct):
    user: Person
    metrics: Patience


def test_items_can_be_of_the_callers_own_type() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        items = await truto.interactions.list(account, item_type=Talker, **WINDOW).collect()
        expected = sandbox.expected(account, **WINDOW)
        assert [item.metrics.patience for item in items] == [
            record["metrics"].get("patience") for record in expected
        ]
        assert all(type(item) is Talker for item in items)

    in_sandbox(scenario)


BAD_USER = {"id": "kept", "user": 7, "metrics": {"patience": "much", "interactivity": 2}}
STRANGER = {"userId": "1", "userEmailAddress": "a@example.com"}


def test_a_record_with_a_bad_field_is_kept_and_the_repair_is_listed(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.items([BAD_USER, STRANGER], mode="prepend")])
        page = await truto.interactions.list(account, **WINDOW)
        assert len(page) == 6
        assert (page[0].id, page[0].user) == ("kept", None)
        assert page[0].metrics is not None
        assert (page[0].metrics.patience, page[0].metrics.interactivity) == (None, 2)
        assert [issue.path for issue in page.issues] == [
            "$.result[0].user",
            "$.result[0].metrics.patience",
            "$.result[1]",
        ]
        assert [issue.dropped for issue in page.issues] == [False, False, True]
        assert msgspec.json.decode(page.issues[2].raw) == STRANGER
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert account in warnings[0].getMessage()

    with caplog.at_level(logging.WARNING, "truto_ci_async"):
        in_sandbox(scenario)


@pytest.mark.parametrize(("bad", "path"), [(BAD_USER, "$.result[0].user"), (STRANGER, "$.result[0]")])
def test_a_bad_record_is_an_error_under_raise(bad: dict[str, Any], path: str) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.items([bad], mode="prepend").on(2)])
        paginator = truto.interactions.list(account, on_invalid="raise", **WINDOW)
        seen: list[Interaction] = []
        with pytest.raises(DecodeError) as caught:
            await gather(paginator, seen)
        error = caught.value
        assert len(seen) == 5
        assert (error.path, error.index, error.account) == (path, 0, account)
        assert error.cursor == sandbox.requests[1].query["next_cursor"]
        assert msgspec.json.decode(error.raw) == bad
        assert len(sandbox.requests) == 2, "a decode error is not retried"

    in_sandbox(scenario)


def test_a_providers_own_rows_are_not_taken_for_interactions() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.items([STRANGER] * 3)])
        with pytest.raises(DecodeError, match="item_type=dict"):
            await truto.interactions.list(account, **WINDOW)

    in_sandbox(scenario)


# Debug


def test_debug_shows_what_truto_did_and_hides_the_providers_credentials() -> None:
    async def fail(page: Page[Interaction]) -> None:
        assert page.debug is not None
        options = page.debug.request_options
        raise LookupError(options["method"])

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        page = await truto.interactions.list(account, response_format="debug", **WINDOW)
        debug = page.debug
        assert debug is not None
        assert debug.request_url == "https://api.gong.io/v2/stats/interaction"
        assert debug.result_count == 5
        assert debug.next_cursor == page.next_cursor
        assert debug.data["records"]["currentPageSize"] == 5
        assert [row["userId"] for row in debug.data["peopleInteractionStats"]] == [
            item.user.id for item in page if item.user
        ]
        secret = sandbox.provider_secret
        assert debug.request_options["headers"]["Authorization"] == f"Basic {secret}"
        shown = [
            page,
            debug,
            debug.request_options,
            debug.request_options["headers"],
            page.extra,
            page.response,
        ]
        for value in shown:
            for text in (repr(value), str(value), f"{value}", repr([value]), repr({"x": value})):
                assert secret not in text
        with pytest.raises(LookupError) as caught:
            await fail(page)
        trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        frame = "".join(traceback.StackSummary.from_list(trace.stack[-1:]).format())
        assert "page = Page(" in frame
        assert "options = " in frame
        assert secret not in frame

    in_sandbox(scenario)


def test_debug_is_none_if_the_provider_was_not_asked() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        page = await truto.interactions.list(account, response_format="debug", skip_api_call=True, **WINDOW)
        assert page.debug is None
        assert (len(page), page.has_more) == (0, False)

    in_sandbox(scenario)


# Keyed


def test_keyed_collects_all_pages_into_one_dict() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        keyed = await truto.interactions.keyed(account, **WINDOW)
        expected = sandbox.expected(account, **WINDOW)
        assert list(keyed) == [record["id"] for record in expected]
        assert same(keyed.values(), expected)
        assert keyed.pages == 3
        assert keyed.issues == []
        assert {request.query["truto_key_by"] for request in sandbox.requests} == {"id"}
        assert isinstance(keyed, dict)

    in_sandbox(scenario)


def test_keyed_takes_the_same_options_as_list() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        users = sandbox.user_ids(account)
        keyed = await truto.interactions.keyed(account, users=users, limit=9, item_type=dict, **WINDOW)
        assert list(keyed.values()) == sandbox.expected(account, **WINDOW)
        assert keyed.pages == 7
        two = await truto.interactions.keyed(account, max_pages=2, ignore_remote_data=True, **WINDOW)
        assert len(two) == 10
        assert {item.remote_data for item in two.values()} == {None}

    in_sandbox(scenario, interactions=45)


def test_a_duplicate_key_keeps_its_first_item_and_is_listed() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        first = sandbox.expected(account, **WINDOW)[0]
        second = {**first, "timezone": "second"}
        sandbox.script(account, [Fault.items([second], mode="prepend").on(3)])
        keyed = await truto.interactions.keyed(account, **WINDOW)
        assert len(keyed) == 12
        assert keyed[first["id"]].timezone == "US/Pacific"
        (issue,) = keyed.issues
        assert issue.path == f"$.result.{first['id']}"
        assert issue.dropped
        assert msgspec.json.decode(issue.raw)["timezone"] == "second"

    in_sandbox(scenario)


def test_a_duplicate_key_is_an_error_under_raise() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        first = sandbox.expected(account, **WINDOW)[0]
        sandbox.script(account, [Fault.items([first], mode="append").on(2)])
        with pytest.raises(DecodeError, match="a second time") as caught:
            await truto.interactions.keyed(account, on_invalid="raise", **WINDOW)
        assert caught.value.account == account
        assert caught.value.cursor == sandbox.requests[1].query["next_cursor"]

    in_sandbox(scenario)


def test_a_key_that_all_items_share_keeps_one_item() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        keyed = await truto.interactions.keyed(account, key_by="timezone", **WINDOW)
        assert list(keyed) == ["US/Pacific"]
        repeated = [issue for issue in keyed.issues if issue.path == "$.result.US/Pacific"]
        assert len(repeated) == 2, "one for each page after the first; within a page the service keeps one"
        lost = [issue.message for issue in keyed.issues if issue.path == "$.result_count"]
        assert [message.split(":")[0] for message in lost] == [
            f"the service counted {count} items, but there are 1 keys" for count in (5, 5, 2)
        ]
        with pytest.raises(DecodeError, match="the service counted 5 items"):
            await truto.interactions.keyed(account, key_by="timezone", on_invalid="raise", **WINDOW)

    in_sandbox(scenario)


TWICE = b'{"result": {"k": {"id": "1"}, "l": {"id": "2"}, "k": {"id": "3"}}, "result_count": 3}'


def test_a_key_that_comes_twice_in_one_page_keeps_its_first_item_and_is_listed() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body(TWICE).forever()])
        keyed = await truto.interactions.keyed(account, **WINDOW)
        assert {key: item.id for key, item in keyed.items()} == {"k": "1", "l": "2"}
        (issue,) = keyed.issues
        assert (issue.path, issue.index, issue.dropped) == ("$.result.k", 2, True)
        assert msgspec.json.decode(issue.raw)["id"] == "3"
        with pytest.raises(DecodeError, match="a second time") as caught:
            await truto.interactions.keyed(account, on_invalid="raise", **WINDOW)
        assert caught.value.account == account

    in_sandbox(scenario)


def test_keyed_keeps_the_debug_information_of_each_page() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        keyed = await truto.interactions.keyed(account, response_format="debug", **WINDOW)
        assert (len(keyed), keyed.pages, keyed.issues) == (12, 3, [])
        assert [bool(debug.request_url) for debug in keyed.debug] == [True] * 3
        assert (await truto.interactions.keyed(account, **WINDOW)).debug == []

    in_sandbox(scenario)


def test_keys_stay_with_their_items_when_one_is_dropped() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body({"result": {"a": {"id": "1"}, "b": STRANGER, "c": {"id": "3"}}})])
        keyed = await truto.interactions.keyed(account, **WINDOW)
        assert {key: item.id for key, item in keyed.items()} == {"a": "1", "c": "3"}
        assert [issue.dropped for issue in keyed.issues] == [True]

    in_sandbox(scenario)


def test_keyed_needs_the_name_of_a_field() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(UsageError, match="key_by"):
            await truto.interactions.keyed(account, key_by="", **WINDOW)

    in_sandbox(scenario)


# Normalized


def test_metrics_of_flat_rows_are_taken_and_what_has_no_place_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody documents the format. A flat row was a record without metrics, in silence."""
    rows = [
        {"id": "1", "patience": 0.5, "metrics": {"interactivity": 2, "talk_ratio": 0.4}, "user": {"id": "u"}},
        {"id": "2", "question_rate": 1.25, "metrics": None, "emails": ["x"]},
        {"id": "3", "patience": 3, "metrics": {"patience": 4}, "user": {"id": "u", "role": "x"}},
        {"patience": 7},
        {"foo": 1},
    ]
    unknown = {"metrics.talk_ratio", "emails", "patience", "user.role"}

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.body({"result": rows}).forever()])
        ways = {
            "list": truto.interactions.list(account, response_format="normalized", **WINDOW).page(),
            "stream": _streamed(truto, "auto", account=account, response_format="normalized"),
            "ijson": _streamed(truto, "ijson", account=account, response_format="normalized"),
        }
        for way, call in ways.items():
            events.clear()
            caplog.clear()
            items = list(await call)
            found = [item.metrics and bare(item.metrics.to_dict()) for item in items]
            assert found == [
                {"patience": 0.5, "interactivity": 2, "talk_ratio": 0.4},
                {"question_rate": 1.25},
                {"patience": 4},
                {"patience": 7},
            ], way
            told = [event for event in events if isinstance(event, UnknownFields)]
            assert {name for event in told for name in event.fields} == unknown
            assert sum(len(event.fields) for event in told) == len(unknown)
            assert {event.account for event in told} == {account}
            assert {event.kept for event in told} == {True}
        page = await truto.interactions.list(account, response_format="normalized", **WINDOW)
        assert set(page.unknown_fields) == unknown
        assert [issue.index for issue in page.issues] == [4]
        keyed = Fault.body({"result": {row.get("id", "x"): row for row in rows[:3]}})
        sandbox.clear_faults()
        sandbox.script(account, [keyed])
        by_id = await truto.interactions.keyed(account, response_format="normalized", **WINDOW)
        assert by_id["1"].metrics.unknown == {"talk_ratio": 0.4}
        assert by_id["1"].metrics.interactivity == 2
        events.clear()
        plain = await truto.interactions.list(account, **WINDOW)
        assert plain.unknown_fields == ()
        assert not any(isinstance(event, UnknownFields) for event in events)

    events: list[Any] = []
    in_sandbox(scenario, client={"on_event": events.append})


@pytest.mark.parametrize("format", ["unified", "normalized"])
def test_unknown_fields_are_told_once_in_a_walk(format: Any) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        pages = [{"result": [{"id": "1", "a": 1}], "next_cursor": str(page)} for page in range(3)]
        bodies = [*pages, {"result": [{"id": "2", "a": 2, "b": 1}]}]
        sandbox.script(account, [Fault.body(each) for each in bodies])
        walk = truto.interactions.list(account, response_format=format, **WINDOW)
        assert [page.unknown_fields async for page in walk.pages()] == [("a",)] * 3 + [("a", "b")]
        assert [event.fields for event in events if isinstance(event, UnknownFields)] == [("a",), ("b",)]

    events: list[Any] = []
    in_sandbox(scenario, client={"on_event": events.append})


# Raw


def test_raw_returns_the_envelope_around_the_providers_rows() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        responses = [response async for response in truto.interactions.raw(account, **WINDOW)]
        assert all(type(response) is RawResponse for response in responses)
        rows = [row for response in responses for row in response.json()["result"]]
        assert rows == sandbox.expected(account, provider=True, **WINDOW)
        assert [bool(response.next_cursor) for response in responses] == [True, True, False]
        first = await truto.interactions.raw(account, **WINDOW)
        assert (first.status, first.content_type) == (200, "application/json")
        assert first.headers["content-type"] == "application/json; charset=utf-8"
        assert first.body == responses[0].body
        assert first.response.attempts == 1
        assert {request.query["truto_response_format"] for request in sandbox.requests} == {"raw"}

    in_sandbox(scenario)


def test_raw_returns_the_providers_own_body_and_tells_its_cursor() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        responses = [response async for response in truto.interactions.raw(account, **WINDOW)]
        assert len(responses) == len(sandbox.requests) == 1
        body = responses[0].json()
        assert body["peopleInteractionStats"] == sandbox.expected(account, provider=True, **WINDOW)[:5]
        assert responses[0].provider_cursor == body["records"]["cursor"]
        assert (responses[0].next_cursor, responses[0].has_more) == (None, True)

    in_sandbox(scenario, provider_shape="gong")


def test_raw_returns_bodies_that_are_not_json() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(
            account, [Fault.body(b"\xff\xfe\x00", content_type="Audio/MPEG; x=y"), Fault.empty_body()]
        )
        first = await truto.interactions.raw(account, **WINDOW)
        assert (first.body, first.content_type, first.next_cursor) == (b"\xff\xfe\x00", "audio/mpeg", None)
        with pytest.raises(DecodeError):
            first.json()
        assert (await truto.interactions.raw(account, **WINDOW)).body == b""

    in_sandbox(scenario)


def test_raw_takes_max_pages_and_cursors() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        walk = truto.interactions.raw(account, max_pages=2, **WINDOW)
        responses = [response async for response in walk]
        assert len(responses) == len(sandbox.requests) == 2
        rest = [
            response
            async for response in truto.interactions.raw(account, cursor=responses[0].next_cursor, **WINDOW)
        ]
        assert len(rest) == 2

    in_sandbox(scenario)


# Other resources


class Contact(Struct):
    id: str
    first_name: str | None = None


def test_any_other_unified_resource_has_the_same_methods() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        contacts = truto.unified("crm", "contacts")
        assert repr(contacts) == "<Resource crm/contacts>"
        plain = await contacts.list(account).collect()
        assert len(plain) == 36
        assert plain[0]["id"] == "1000"
        assert sandbox.requests[0].path == "/unified/crm/contacts"
        typed = await truto.unified("crm", "contacts", Contact).list(account, limit=36).collect()
        assert [(item.id, item.first_name) for item in typed] == [
            (item["id"], item["first_name"]) for item in plain
        ]
        keyed = await contacts.keyed(account, limit=36)
        assert list(keyed) == [item["id"] for item in plain]
        assert (await contacts.raw(account, limit=36)).json()["result_count"] == 36

    in_sandbox(scenario)


@pytest.mark.parametrize("id", [None, "", 7, Meeting(id="7"), ".", ".."])
def test_get_needs_the_id_of_an_item(id: Any) -> None:
    """The message names the argument: an empty id would be the list."""
    with pytest.raises(UsageError, match=r"get\(\) takes the id of an item as text, not "):
        run(TrutoClient("token").meetings.get(id, "account"))


@pytest.mark.parametrize(("model", "resource"), [("", "x"), ("crm", ""), ("..", "x"), ("crm", ".")])
def test_a_resource_without_a_name_is_refused(model: str, resource: str) -> None:
    with pytest.raises(UsageError, match="path segment"):
        TrutoClient("token").unified(model, resource)


def test_a_name_cannot_escape_its_segment_of_the_path() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(NotFoundError):
            await truto.unified("crm", "../../integrated-account?x=").list(account)
        assert sandbox.requests[0].path == "/unified/crm/..%2F..%2Fintegrated-account%3Fx%3D"

    in_sandbox(scenario)


# Accounts


@pytest.mark.parametrize("key", ["result", "results"])
def test_accounts_of_all_pages_are_typed(key: Any) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        paginator = truto.integrated_accounts.list(limit=3)
        assert isinstance(paginator, Paginator)
        accounts = await paginator.collect()
        assert all(type(account) is IntegratedAccount for account in accounts)
        for account, said in zip(accounts, bare(sandbox.accounts), strict=True):
            times = {name: datetime.fromisoformat(said.pop(name)) for name in ("created_at", "updated_at")}
            assert (account.created_at, account.updated_at) == tuple(times.values())
            read = bare(account.to_dict())
            assert {name: value for name, value in read.items() if name not in times} == {
                name: value for name, value in said.items() if name in IntegratedAccount.__struct_fields__
            }
        assert len(sandbox.requests) == 3
        page = await paginator
        assert page.extra == {"limit": 3}
        assert page.issues == ()

    in_sandbox(scenario, accounts=3, others=5, accounts_key=key)


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ({"integration": "gong"}, {"integration.name": "gong"}),
        ({"status": "needs_reauth"}, {"status": "needs_reauth"}),
        ({"tenant_id": "tenant-2"}, {"tenant_id": "tenant-2"}),
        ({"is_sandbox": True}, {"is_sandbox": "true"}),
        ({"is_sandbox": False}, {"is_sandbox": "false"}),
        ({"created_at": {"gt": date(2024, 1, 3)}}, {"created_at": {"gt": "2024-01-03T00:00:00Z"}}),
        ({"updated_at": datetime(2024, 2, 1, 9, tzinfo=UTC)}, {"updated_at": "2024-02-01T09:00:00Z"}),
        ({"extra_query": {"integration.name": "hubspot"}}, {"integration.name": "hubspot"}),
        ({"integration": "gong", "extra_query": {"integration.name": None}}, {}),
    ],
)
def test_accounts_are_filtered_by_the_service(arguments: dict[str, Any], query: dict[str, Any]) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        accounts = await truto.integrated_accounts.list(**arguments).collect()
        assert sandbox.requests[0].query == query
        assert sandbox.requests[0].path == "/integrated-account"
        everyone = sandbox.accounts
        chosen = [item for item in everyone if item["integration"]["name"] == query.get("integration.name")]
        if "integration.name" in query:
            assert [account.id for account in accounts] == [item["id"] for item in chosen]
        elif query:
            assert 0 < len(accounts) < len(everyone)
        else:
            assert len(accounts) == len(everyone)

    in_sandbox(scenario, accounts=3, others=5)


@pytest.mark.parametrize(
    "arguments",
    [
        *({name: ""} for name in ("integration", "status", "tenant_id", "created_at", "updated_at")),
        {"created_at": {}},
        {"tenant_id": Text("")},
    ],
)
def test_an_empty_filter_of_accounts_is_refused(arguments: dict[str, Any]) -> None:
    """The accounts of one tenant must never become those of all, because a variable was not set."""

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(UsageError, match=f"{next(iter(arguments))} is empty"):
            truto.integrated_accounts.list(**arguments)
        assert not sandbox.requests

    in_sandbox(scenario)


def test_the_dot_in_a_filters_name_is_sent_literally() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        await truto.integrated_accounts.list("gong", "active")
        assert sandbox.requests[0].target == "/integrated-account?integration.name=gong&status=active"

    in_sandbox(scenario)


def test_an_account_can_be_passed_in_place_of_its_id() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        found = await truto.integrated_accounts.list("gong", "active").first()
        assert found is not None
        assert found.id == account
        assert len(await truto.interactions.list(found, **WINDOW)) == 5
        assert (await truto.integrated_accounts.capabilities(found)).account_id == account
        assert await truto.integrated_accounts.create_token(found)

    in_sandbox(scenario)


def test_an_accounts_context_is_not_in_its_repr() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        found = await truto.integrated_accounts.list().first()
        assert found is not None
        assert found.context == {"subdomain": "company-1"}
        assert "company-1" not in repr(found)

    in_sandbox(scenario)


@pytest.mark.parametrize("shape", ["list", "resources"])
def test_both_shapes_of_capabilities_are_read_alike(shape: Any) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        capabilities = await truto.integrated_accounts.capabilities(account)
        assert (capabilities.account_id, capabilities.status, capabilities.is_blocked) == (
            account,
            "active",
            False,
        )
        assert capabilities.supports("interactions", model="conversational-intelligence")
        assert not capabilities.supports("interactions", "create")
        assert not capabilities.supports("contacts")
        assert sandbox.requests[0].target == f"/integrated-account/{account}/capabilities?type=unified"

    in_sandbox(scenario, capabilities_shape=shape)


def test_capabilities_of_an_unknown_account_are_an_error() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            await truto.integrated_accounts.capabilities("x/../y")
        assert caught.value.account == "x/../y"
        assert sandbox.requests[0].path == "/integrated-account/x%2F..%2Fy/capabilities"

    in_sandbox(scenario)


@pytest.mark.parametrize("body", [b"[]", b"<html>", b"", b'{"unified": 7}'])
def test_capabilities_of_an_unknown_shape_are_a_decode_error(body: bytes) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(None, [Fault.body(body)])
        with pytest.raises(DecodeError) as caught:
            await truto.integrated_accounts.capabilities(account)
        assert caught.value.account == account

    in_sandbox(scenario)


def test_a_token_of_one_account_needs_no_account_id() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        token = await truto.integrated_accounts.create_token(account)
        post = sandbox.requests[0]
        assert (post.method, post.target) == ("POST", "/integrated-account/token")
        assert post.headers["Content-Type"] == "application/json"
        own = truto.with_options(token=token)
        items = await own.interactions.list(**WINDOW).collect()
        assert same(items, sandbox.expected(account, **WINDOW))
        assert "integrated_account_id" not in sandbox.requests[1].query
        assert sandbox.requests[1].account == account
        with pytest.raises(PermissionDeniedError, match="another integrated account"):
            await own.interactions.list(sandbox.account_ids[1], **WINDOW)
        with pytest.raises(PermissionDeniedError):
            await own.integrated_accounts.list()

    in_sandbox(scenario, accounts=2)


@pytest.mark.parametrize("body", [b'{"token": "tell-nobody"}', b'"tell-nobody"', b"tell-nobody"])
def test_a_response_without_a_token_is_not_quoted(body: bytes) -> None:
    """It may contain one under another name."""

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(None, [Fault.body(body)])
        with pytest.raises(DecodeError) as caught:
            await truto.integrated_accounts.create_token(account)
        assert "tell-nobody" not in f"{caught.value!r} {caught.value.raw!r} {caught.value.__cause__!r}"
        assert caught.value.account == account

    in_sandbox(scenario)


@pytest.mark.parametrize("wrong", [None, "", 5, IntegratedAccount()])
def test_calls_for_one_account_need_its_id(wrong: Any) -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        for call in (truto.integrated_accounts.capabilities, truto.integrated_accounts.create_token):
            with pytest.raises(UsageError):
                await call(wrong)
        assert sandbox.requests == []

    in_sandbox(scenario)


def test_every_method_raises_our_own_errors() -> None:
    """Whatever the body is, never an error of msgspec or aiohttp."""
    bodies = [
        b" ",
        b"null",
        b"[]",
        b"<html></html>",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"result": 5}',
        b'{"results": {}}',
    ]

    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        methods: list[Callable[[], Awaitable[Any]]] = [
            lambda: truto.interactions.list(account, **WINDOW).page(),
            lambda: truto.integrated_accounts.list().page(),
            lambda: truto.integrated_accounts.create_token(account),
        ]
        for body in bodies:
            for method in methods:
                sandbox.clear_faults()
                sandbox.script(None, [Fault.body(body)])
                with pytest.raises(TrutoError):
                    await method()

    in_sandbox(scenario)


def test_a_position_can_be_stored_as_text() -> None:
    async def scenario(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        position = (await truto.interactions.list(account, **WINDOW)).position
        assert position is not None
        assert Position.parse(str(position)) == position
        assert hash(position) == hash(Position.parse(str(position)))
        assert sandbox.token not in repr(position)

    in_sandbox(scenario)


# Signatures and messages


@pytest.mark.parametrize("method", ["list", "keyed", "raw", "stream"])
def test_a_method_spells_out_its_filters_and_refuses_others(method: str) -> None:
    """help() and notebooks show the signature. An error must name the method, not a function inside it."""
    bound = getattr(TrutoClient("token").interactions, method)
    assert {"start_time", "end_time", "users", "extra_query"} <= inspect.signature(bound).parameters.keys()
    for misspelled in ("strat_time", "account"):
        with pytest.raises(
            TypeError, match=rf"^{method}\(\) got an unexpected keyword argument '{misspelled}'"
        ):
            bound("a", **{misspelled: 1})
    with pytest.raises(TypeError, match=r"did you mean start_time\?"):
        bound("a", strat_time=1)


def test_what_another_method_takes_is_not_to_be_sent_as_an_unknown_parameter() -> None:
    """``extra_query`` would send ``response_format`` under a name that the service does not know."""
    truto = TrutoClient("token")
    for call, name in (
        (truto.interactions.raw, "response_format"),
        (truto.users.list, "start_time"),
    ):
        with pytest.raises(TypeError, match=f"'{name}': only other methods or resources take it$"):
            call("a", **{name: "2024-01-01"})  # type: ignore[operator]


def test_the_text_of_no_position_is_refused() -> None:
    """``str(page.position)`` of a finished walk is 'None': sent as a cursor it would start over, or worse."""
    with pytest.raises(UsageError, match="after the last page"):
        TrutoClient("token").interactions.list("a", cursor="None")


def test_a_debug_stream_does_not_show_the_providers_credentials() -> None:
    async def main() -> None:
        async with (
            Sandbox(interactions=3) as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url) as truto,
        ):
            async with truto.interactions.stream(
                sandbox.account_ids[0], response_format="debug", **WINDOW
            ) as stream:
                assert len([item async for item in stream]) == 3
            assert sandbox.provider_secret not in repr(stream.envelope)
            assert sandbox.provider_secret in str(
                stream.envelope["debug"]["requestOptions"]["headers"].values()
            )

    run(main())


@pytest.mark.parametrize("option", ["headers", "proxy", "ssl_context", "session"])
def test_an_option_of_the_wrong_type_is_an_error_at_once(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{option} must be"):
        TrutoClient("token", **{option: 5})

"""The client over loopback: lifetimes, tokens, retries, events, and every kind of bad response."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from truto_ci_async import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BodyTooLargeError,
    CallEnded,
    CallStarted,
    ConfigurationError,
    ConnectError,
    DeadlineError,
    DecodeError,
    Event,
    Interaction,
    Pacing,
    PacingWait,
    PageDecoded,
    PermissionDeniedError,
    Rate,
    RateLimitError,
    ReconnectRequiredError,
    RequestSent,
    ResponseReceived,
    RetryPolicy,
    RetryScheduled,
    ServerError,
    Timeouts,
    TransportError,
    TruncatedBodyError,
    TrutoClient,
    TrutoError,
    UsageError,
    quick_retries,
)
from truto_ci_async._http.call import CallTime
from truto_ci_async.sandbox import Fault, Sandbox

from . import rawserver
from .rawserver import RawServer, reset, with_length
from .support import run

DEADLINE = 5.0
REPEATED = "token-0123456789-repeated"
TURNS = 50
WINDOW: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
SMALL: dict[str, Any] = {
    "accounts": 1,
    "others": 0,
    "interactions": 12,
    "page_size": 5,
    "token_rate": None,
    "account_rate": None,
}
FAST = RetryPolicy(fault_base=0, throttle_base=0)
ONCE = RetryPolicy.none()
QUICK = Timeouts(connect=1, read=0.05, attempt=0.5, total=5)

CONFLICT = with_length(b"{}").replace(b"200 OK", b"409 Conflict")

Story = Callable[[Sandbox, str], Awaitable[None]]


def tell(story: Story, **options: Any) -> None:
    """Run ``story(sandbox, account)`` against a small sandbox with one account and no rate limits."""

    async def main() -> None:
        async with Sandbox(**{**SMALL, **options}) as sandbox:
            await story(sandbox, sandbox.account_ids[0])

    run(main())


def connect(sandbox: Sandbox, **options: Any) -> TrutoClient:
    """Return a client of the sandbox that has no pacing, and does not wait between attempts."""
    settings: dict[str, Any] = {"token": sandbox.token, "pacing": Pacing.off(), "retry": FAST, **options}
    return TrutoClient(base_url=sandbox.url, **settings)


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, DEADLINE)


# Lifetime


def test_nothing_is_opened_before_something_is_asked_for() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            paginator = truto.interactions.list(account, **WINDOW)
            truto.with_options(headers={"X-A": "b"}).interactions.raw(account, **WINDOW)
            await settle()
            assert sandbox.stats.connections == 0
            await paginator
            assert sandbox.stats.connections == 1

    tell(story)


def test_a_client_that_was_never_used_needs_no_closing() -> None:
    truto = TrutoClient("token")
    assert repr(truto) == "<TrutoClient https://api.truto.one token=***>"
    del truto
    gc.collect()


def test_bare_use_ends_with_aclose_which_may_be_called_twice() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        truto = connect(sandbox)
        assert len(await truto.interactions.list(account, **WINDOW)) == 5
        await truto.aclose()
        await truto.aclose()
        await asyncio.gather(truto.aclose(), truto.aclose())
        assert repr(truto).endswith("token=*** closed>")

    tell(story)


def test_a_client_may_be_closed_before_it_was_opened() -> None:
    async def main() -> None:
        truto = TrutoClient("token")
        await truto.aclose()
        with pytest.raises(UsageError, match="closed"):
            await truto.interactions.list("a", **WINDOW)

    run(main())


def test_an_exception_in_the_body_closes_the_client_and_arrives_as_it_is() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        with pytest.raises(LookupError, match="mine"):
            async with connect(sandbox) as truto:
                async for _ in truto.interactions.list(account, **WINDOW):
                    raise LookupError("mine")
        with pytest.raises(UsageError, match="closed"):
            await truto.interactions.list(account, **WINDOW)

    tell(story)


def test_a_closed_client_says_so_to_every_verb() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            copy = truto.with_options(headers={"X-A": "b"})
            walk = truto.interactions.list(account, **WINDOW)
        for client in (truto, copy):
            calls: list[Awaitable[Any]] = [
                client.interactions.list(account, **WINDOW).page(),
                client.interactions.list(account, **WINDOW).collect(),
                client.interactions.keyed(account, **WINDOW),
                client.integrated_accounts.capabilities(account),
                client.integrated_accounts.create_token(account),
                client.__aenter__(),
            ]
            for call in calls:
                with pytest.raises(UsageError, match="closed"):
                    await call
            with pytest.raises(UsageError, match="closed"):
                await client.interactions.raw(account, **WINDOW)
        with pytest.raises(UsageError, match="closed"):
            await walk
        assert sandbox.requests == []

    tell(story)


def test_many_tasks_share_one_client() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            walks = await asyncio.gather(
                *(truto.interactions.list(account, item_type=dict, **WINDOW).collect() for _ in range(20))
            )
        assert all(walk == sandbox.expected(account, **WINDOW) for walk in walks)

    tell(story)


def test_one_task_may_open_a_client_and_another_close_it() -> None:
    """Fixtures and notebook cells do that."""

    async def story(sandbox: Sandbox, account: str) -> None:
        truto = connect(sandbox)

        async def use() -> None:
            await truto.__aenter__()
            await truto.interactions.list(account, **WINDOW)

        await asyncio.create_task(use())
        assert truto._transport.opened
        await asyncio.create_task(truto.aclose())
        assert truto._transport.closed
        assert not truto._transport.opened

    tell(story)


def test_a_client_used_from_a_second_loop_says_so() -> None:
    with Sandbox.in_thread(**SMALL) as sandbox:
        account = sandbox.account_ids[0]
        truto = connect(sandbox)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(truto.interactions.list(account, **WINDOW).page())
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: truto.interactions.list(account, **WINDOW).page(),
            lambda: truto.with_options(headers={}).interactions.list(account, **WINDOW).collect(),
            truto.__aenter__,
            truto.aclose,
        ]

        async def ask(call: Callable[[], Awaitable[Any]]) -> None:
            with pytest.raises(UsageError, match="one client per loop .each asyncio.run starts"):
                await call()

        for call in calls:
            run(ask(call))
        # In its own loop it still works.
        assert len(loop.run_until_complete(truto.interactions.list(account, **WINDOW).collect())) == 12
        loop.run_until_complete(truto.aclose())
        loop.close()


def test_a_client_says_that_it_needs_asyncio() -> None:
    """There is no asyncio loop under trio, or when a coroutine is driven by hand."""
    truto = TrutoClient("token")
    account = "a"
    for work in (
        truto.interactions.list(account, **WINDOW).page(),
        truto.interactions.list(account, **WINDOW).collect(),
        anext(aiter(truto.interactions.list(account, **WINDOW))),
        truto.interactions.keyed(account, **WINDOW),
        truto.integrated_accounts.capabilities(account),
        truto.__aenter__(),
    ):
        steps = work.__await__()
        with pytest.raises(UsageError, match="runs on asyncio"):
            next(iter(steps))


@pytest.fixture
def heard() -> Any:
    """Record the warnings of a test instead of raising them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
        gc.collect()


def _told(heard: list[warnings.WarningMessage]) -> list[str]:
    gc.collect()
    # "unclosed transport/socket" comes from asyncio, for a loop that was closed before them.
    return [str(one.message) for one in heard if not str(one.message).startswith("unclosed")]


def test_closing_a_client_whose_loop_is_gone_is_quiet(heard: list[warnings.WarningMessage]) -> None:
    with Sandbox.in_thread(**SMALL) as sandbox:
        truto = connect(sandbox)
        asyncio.run(truto.interactions.list(sandbox.account_ids[0], **WINDOW).page())
        asyncio.run(truto.aclose())
        asyncio.run(truto.aclose())
        assert repr(truto).endswith("closed>")
        del truto
        assert _told(heard) == []


@pytest.mark.parametrize("dropped", ["in its loop", "in a thread", "after its loop"])
def test_a_forgotten_client_is_one_warning_that_names_it(
    heard: list[warnings.WarningMessage], dropped: str
) -> None:
    with Sandbox.in_thread(**SMALL) as sandbox:
        said = (
            f"<TrutoClient {sandbox.url} token=***> was never closed: use `async with`, or await its aclose()"
        )
        held = []

        async def main() -> None:
            held.append(connect(sandbox))
            await held[0].interactions.list(sandbox.account_ids[0], **WINDOW)
            if dropped == "in its loop":
                held.clear()
            elif dropped == "in a thread":
                await asyncio.to_thread(held.clear)
            gc.collect()
            await settle()

        run(main())
        held.clear()
        assert _told(heard) == [said]


def test_a_forgotten_client_is_told_of_where_warnings_are_errors_too(
    heard: list[warnings.WarningMessage],
) -> None:
    """The warning cannot be raised from ``__del__``, and the sockets are closed all the same."""

    async def story(sandbox: Sandbox, account: str) -> None:
        truto = connect(sandbox)
        await truto.interactions.list(account, **WINDOW)
        let_go: list[bool] = []
        transport = truto._transport
        transport.abandon = lambda: let_go.append(True)  # type: ignore[method-assign]
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            with pytest.MonkeyPatch.context() as patch:
                unraisable: list[Any] = []
                patch.setattr(sys, "unraisablehook", lambda args: unraisable.append(str(args.exc_value)))
                del truto
                gc.collect()
        assert let_go == [True]
        assert len(unraisable) == 1
        assert "was never closed" in unraisable[0]
        del transport.abandon
        await transport.aclose()

    tell(story)


def test_a_client_with_a_walk_under_way_is_not_forgotten() -> None:
    """A walk keeps its client alive."""

    async def story(sandbox: Sandbox, account: str) -> None:
        walk = connect(sandbox).interactions.list(account, **WINDOW)
        gc.collect()
        assert len(await walk.collect()) == 12
        await walk._source.spawn.__self__.aclose()  # type: ignore[attr-defined]

    tell(story)


def test_a_consumer_may_hold_the_loop_for_longer_than_a_call_may_take() -> None:
    """The next page arrives meanwhile, and its deadlines pass before anyone could notice."""

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.slow(0.1).forever()])
        timeouts = Timeouts(attempt=0.5, total=0.6)
        async with connect(sandbox, timeouts=timeouts, retry=ONCE) as truto:
            numbers = []
            async for page in truto.interactions.list(account, limit=2, **WINDOW).pages():
                numbers.append(len(page))
                if len(page) < 2:
                    break
                await settle()  # the request has been sent
                time.sleep(1.1)  # noqa: ASYNC251  # the consumer blocks the loop
            assert numbers == [2, 2, 1]

    tell(story, interactions=5)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_a_walk_goes_on_to_a_usage_error_when_its_client_is_closed_meanwhile(prefetch: int) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        truto = connect(sandbox)
        seen: list[Interaction] = []
        with pytest.raises(UsageError, match="closed"):
            async for item in truto.interactions.list(account, prefetch=prefetch, **WINDOW):
                seen.append(item)
                if len(seen) == 1:
                    await truto.aclose()
        assert len(seen) in (5, 10), "what was fetched already is handed over"

    tell(story)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.hang(),
        Fault.hang_body(),
        Fault.hang_body(0.5),
        Fault.drip(0.01, part="all"),
        Fault.status(429, retry_after=30),
        Fault.status(500),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.mode}{fault.retry_after or ''}",
)
@pytest.mark.parametrize("of_a_copy", [False, True])
def test_closing_ends_a_call_under_way_with_a_usage_error(fault: Fault, of_a_copy: bool) -> None:
    """It does not hang or raise a network error, whether it waits for the server or for its next attempt."""

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [fault])
        retrying = asyncio.Event()
        truto = connect(
            sandbox,
            timeouts=Timeouts(total=None),
            retry=RetryPolicy(fault_base=1e6, max_wait=1e6),
            on_event=lambda event: retrying.set() if isinstance(event, RetryScheduled) else None,
        )
        client = truto.with_options(headers={"X-A": "b"}) if of_a_copy else truto
        call = asyncio.ensure_future(client.interactions.list(account, **WINDOW).page())
        await until(lambda: sandbox.requests)
        if fault.kind == "status":
            await soon(retrying.wait())
        await settle()
        await soon(truto.aclose())
        with pytest.raises(UsageError, match="closed during this call") as caught:
            await soon(call)
        assert caught.value.__cause__ is None

    tell(story)


def test_closing_ends_calls_that_wait_for_their_turn_a_connection_or_a_token() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.hang().forever()])
        asked = asyncio.Event()

        async def never() -> str:
            asked.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        truto = connect(sandbox, max_connections=1)
        paced = truto.with_options(pacing=Pacing(token=None, account=Rate(1, 3600)))
        unnamed = truto.with_options(token=never)
        calls = [
            asyncio.ensure_future(client.interactions.list(account, **WINDOW).page())
            for client in (truto, truto, paced, paced, unnamed, unnamed)
        ]
        await until(lambda: sandbox.requests)
        await soon(asked.wait())
        await settle()
        assert len(sandbox.requests) == 1
        await soon(truto.aclose())
        for call in calls:
            with pytest.raises(UsageError, match="closed"):
                await soon(call)

    tell(story)


def test_closing_ends_a_fetch_ahead() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.hang().on(2)])
        truto = connect(sandbox)
        pages = truto.interactions.list(account, **WINDOW).pages()
        await anext(pages)
        waiting = asyncio.ensure_future(anext(pages))
        await until(lambda: len(sandbox.requests) == 2)
        await settle()
        await soon(truto.aclose())
        with pytest.raises(UsageError, match="closed"):
            await soon(waiting)
        with pytest.raises(UsageError, match="closed"):
            await anext(pages)

    tell(story)


def test_a_cancelled_consumer_gives_its_connection_back_or_drops_it() -> None:
    """At most one connection, so that the next call would hang if its slot were not returned."""

    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox, max_connections=1) as truto:
            for turns in range(40):
                call = asyncio.ensure_future(truto.interactions.list(account, **WINDOW).page())
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait({call})
            assert len(await soon(truto.interactions.list(account, **WINDOW).collect())) == 12

    tell(story)


# Sharing


def test_a_copy_shares_the_pool_and_closing_it_closes_nothing() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            await truto.interactions.list(account, **WINDOW)
            async with truto.with_options(headers={"X-Team": "b"}) as copy:
                await copy.interactions.list(account, **WINDOW)
                await copy.with_options(retry=ONCE).aclose()
            await copy.aclose()
            await copy.interactions.list(account, **WINDOW)
            await truto.interactions.list(account, **WINDOW)
        assert len({request.peer_port for request in sandbox.requests}) == 1
        assert [request.headers.get("X-Team") for request in sandbox.requests] == [None, "b", "b", None]

    tell(story)


def test_a_copy_keeps_its_original_from_being_forgotten() -> None:
    """In ``TrutoClient(...).with_options(...)`` nothing else refers to the original, which owns the pool."""

    async def story(sandbox: Sandbox, account: str) -> None:
        original = connect(sandbox)
        await original.interactions.list(account, **WINDOW)
        copy = original.with_options(headers={"X-A": "b"}).with_options(retry=ONCE)
        gone = weakref.ref(original)
        del original
        gc.collect()
        assert len(await copy.interactions.list(account, **WINDOW)) == 5
        kept = gone()
        assert kept is not None
        await kept.aclose()

    tell(story)


def test_a_copy_changes_what_is_given_and_keeps_the_rest() -> None:
    timeouts, retry = Timeouts(read=1), RetryPolicy(attempts=2)
    truto = TrutoClient("token", timeouts=timeouts, headers={"X-A": "a", "X-B": "b"})
    copy = truto.with_options(retry=retry, headers={"x-b": "c"})
    assert (copy.timeouts, copy.retry, copy.pacing) == (timeouts, retry, truto.pacing)
    assert truto.retry == RetryPolicy()
    assert truto._headers["X-B"] == "b"
    assert {name: value for name, value in copy._headers.items() if name.lower().startswith("x-")} == {
        "X-A": "a",
        "x-b": "c",
    }
    assert type(copy) is TrutoClient


def test_a_copy_with_another_token_has_limits_of_its_own() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        pacing = Pacing(token=Rate(1, 3600), account=None)
        async with connect(sandbox, pacing=pacing) as truto:
            own = truto.with_options(token=await truto.integrated_accounts.create_token(account))
            assert len(await soon(own.interactions.list(**WINDOW).page())) == 5
            same = truto.with_options(headers={"X-A": "b"})
            for client in (truto, same, own):
                call = asyncio.ensure_future(client.interactions.list(account, **WINDOW).page())
                await settle()
                assert not call.done(), "its turn comes in an hour"
                call.cancel()
            assert len(sandbox.requests) == 2

    tell(story)


def test_a_session_handed_in_is_used_and_stays_open() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with aiohttp.ClientSession(headers={"X-Session": "y"}) as session:
            async with connect(sandbox, session=session) as truto:
                await truto.interactions.list(account, **WINDOW)
            await truto.aclose()
            assert not session.closed
            async with session.get(sandbox.url + "/integrated-account") as response:
                assert response.status == 401
        first, second = sandbox.requests
        assert first.peer_port == second.peer_port
        assert first.headers["X-Session"] == "y"

    tell(story)


def test_a_client_with_a_session_handed_in_may_be_forgotten() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with aiohttp.ClientSession() as session:
            truto = connect(sandbox, session=session)
            await truto.interactions.list(account, **WINDOW)
            del truto
            gc.collect()
            assert not session.closed

    tell(story)


def test_a_session_that_its_owner_closed_is_a_usage_error() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        session = aiohttp.ClientSession()
        async with connect(sandbox, session=session) as truto:
            await truto.interactions.list(account, **WINDOW)
            await session.close()
            with pytest.raises(UsageError, match="session.*closed"):
                await truto.interactions.list(account, **WINDOW)

    tell(story)


def test_a_session_that_raises_for_a_status_does_not_hide_the_services_words() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(422, message="no")])
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            connect(sandbox, session=session) as truto,
        ):
            with pytest.raises(APIError, match="no"):
                await truto.interactions.list(account, **WINDOW)

    tell(story)


@pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning")
def test_a_session_with_a_password_of_its_own_is_refused() -> None:
    """aiohttp refuses to send both, and raises a ValueError for each request."""

    async def story(sandbox: Sandbox, account: str) -> None:
        async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", "password")) as session:
            with pytest.raises(ConfigurationError, match="auth"):
                await connect(sandbox, session=session).interactions.list(account, **WINDOW)

    tell(story)


def test_a_session_of_another_loop_is_a_usage_error() -> None:
    loop = asyncio.new_event_loop()

    async def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    session = loop.run_until_complete(open_session())
    try:

        async def story(sandbox: Sandbox, account: str) -> None:
            async with connect(sandbox, session=session) as truto:
                with pytest.raises(UsageError, match="loop"):
                    await truto.interactions.list(account, **WINDOW)

        tell(story)
    finally:
        loop.run_until_complete(session.close())
        loop.close()


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Run a server that calls ``handle`` for each connection; yields its base URL."""
    tasks = set[asyncio.Task[Any]]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=DEADLINE) if tasks else None
        await settle()


def reply(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


EMPTY_PAGE = b'{"result": [], "next_cursor": null}'


def test_no_more_connections_are_open_than_allowed() -> None:
    async def main() -> None:
        at_once = most = 0
        release = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal at_once, most
            while True:
                await reader.readuntil(b"\r\n\r\n")
                at_once += 1
                most = max(most, at_once)
                await release.wait()
                at_once -= 1
                writer.write(reply(EMPTY_PAGE))
                await writer.drain()

        async with (
            serving(handle) as url,
            TrutoClient("token", base_url=url, pacing=Pacing.off(), max_connections=3) as truto,
        ):
            calls = [
                asyncio.ensure_future(client.interactions.list("a", **WINDOW).page())
                for client in (truto, truto.with_options(headers={"X-A": "b"}))
                for _ in range(5)
            ]
            await until(lambda: at_once == 3)
            await settle()
            assert at_once == 3
            release.set()
            assert [len(page) for page in await soon(asyncio.gather(*calls))] == [0] * 10
            assert most == 3

    run(main())


def test_a_walk_in_sequence_needs_one_connection() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            for _ in range(3):
                assert len(await truto.interactions.list(account, **WINDOW).collect()) == 12
        assert sandbox.stats.connections == 1
        assert len(sandbox.requests) == 9
        assert len({request.peer_port for request in sandbox.requests}) == 1

    tell(story)


# Tokens


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        monkeypatch.setenv("TRUTO_API_BASE_URL", sandbox.url + "/")
        async with TrutoClient() as truto:
            assert truto.base_url == sandbox.url
            assert len(await truto.interactions.list(account, **WINDOW)) == 5
        monkeypatch.setenv("TRUTO_API_TOKEN", "another")
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            assert len(await truto.interactions.list(account, **WINDOW)) == 5

    tell(story)


def test_no_token_at_all_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError, match="TRUTO_API_TOKEN"):
        TrutoClient()


@pytest.mark.parametrize("from_a_function", [False, True])
@pytest.mark.parametrize(
    "token", ["", "  ", "tell nobody", "tell-nobody\n", "tell-nobodé", "tell\x00nobody", b"tell-nobody", 5]
)
def test_a_token_no_header_can_hold_is_refused_and_not_quoted(token: Any, from_a_function: bool) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError) as caught:
            truto = TrutoClient((lambda: token) if from_a_function else token, base_url="http://127.0.0.1:1")
            await truto.interactions.list("a", **WINDOW)
        assert "token" in caught.value.message
        assert "nobody" not in "".join(traceback.format_exception(caught.value))
        if isinstance(token, str):
            assert "nobod" not in own_locals(caught.value)

    run(main())


@pytest.mark.parametrize("base_url", ["ftp://x", "http://x?y"])
def test_a_client_that_cannot_be_made_does_not_show_its_token_in_a_traceback(base_url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrutoClient("tell-nobody", base_url=base_url)
    assert "tell-nobody" not in own_locals(caught.value)
    assert "self = <TrutoClient" in own_locals(caught.value)
    truto = TrutoClient("x")
    with pytest.raises(ConfigurationError) as caught:
        truto.with_options(token="tell-nobody", headers={"Host": "x"})
    assert "tell-nobody" not in own_locals(caught.value)


def own_locals(error: BaseException) -> str:
    """Return all variables of this package's frames in the tracebacks of an error and of its causes."""
    shown = []
    pending: list[traceback.TracebackException | None] = [
        traceback.TracebackException.from_exception(error, capture_locals=True)
    ]
    while pending:
        trace = pending.pop()
        if trace is not None:
            pending += [trace.__cause__, trace.__context__]
            shown += [
                "".join(traceback.StackSummary.from_list([frame]).format())
                for frame in trace.stack
                if frame.filename != __file__
            ]
    return "\n".join(shown)


async def _async_token() -> str:
    await asyncio.sleep(0)
    return "sandbox-token"


@pytest.mark.parametrize("source", [lambda: "sandbox-token", _async_token])
def test_a_token_function_is_asked_once_and_only_when_it_is_needed(source: Any) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        asked = 0

        def count() -> Any:
            nonlocal asked
            asked += 1
            return source()

        async with connect(sandbox, token=count) as truto:
            assert asked == 0
            await asyncio.gather(*(truto.interactions.list(account, **WINDOW).collect() for _ in range(5)))
            await truto.with_options(headers={"X-A": "b"}).interactions.list(account, **WINDOW)
        assert asked == 1

    tell(story)


def test_a_refused_token_is_asked_for_again_once_for_all_who_were_refused() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        asked = 0

        async def source() -> str:
            nonlocal asked
            asked += 1
            number = asked
            await asyncio.sleep(0)
            return f"token-{number}"

        sandbox.tokens[:] = ["token-2"]
        async with connect(sandbox, token=source) as truto:
            pages = await asyncio.gather(
                *(truto.interactions.list(account, **WINDOW).page() for _ in range(50))
            )
            assert [len(page) for page in pages] == [5] * 50
            assert asked == 2
            assert len(sandbox.requests) == 100
            assert {page.response.attempts for page in pages} == {2}
            # The next one expires too, but much later.
            sandbox.tokens[:] = ["token-3"]
            assert len(await truto.interactions.list(account, **WINDOW).collect()) == 12
            assert asked == 3

    tell(story)


def test_a_token_refused_twice_is_an_error() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        asked: list[str] = []
        async with connect(sandbox, token=lambda: asked.append("x") or "wrong") as truto:
            with pytest.raises(AuthenticationError) as caught:
                await truto.interactions.list(account, **WINDOW)
        assert (len(asked), len(sandbox.requests), caught.value.attempts) == (2, 2, 2)

    tell(story)


def test_a_given_token_that_is_refused_is_an_error_at_once() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox, token="wrong") as truto:
            with pytest.raises(AuthenticationError) as caught:
                await truto.interactions.list(account, **WINDOW)
        assert (len(sandbox.requests), caught.value.attempts) == (1, 1)

    tell(story)


def test_a_token_function_is_not_asked_again_for_any_other_failure() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        asked: list[str] = []
        faults = [
            Fault.status(401, remote=True),
            Fault.status(403),
            Fault.status(404),
            Fault.status(500),
            Fault.status(429, retry_after=0),
            Fault.reset(),
        ]
        sandbox.script(account, faults)
        async with connect(sandbox, token=lambda: asked.append("x") or sandbox.token) as truto:
            with pytest.raises(ReconnectRequiredError):
                await truto.interactions.list(account, **WINDOW)
            for _ in range(2):
                with pytest.raises(APIError):
                    await truto.interactions.list(account, **WINDOW)
            await truto.interactions.list(account, **WINDOW)
        assert len(asked) == 1

    tell(story)


def test_an_error_of_a_token_function_is_the_callers_own() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        vault = [LookupError("vault"), TimeoutError("vault")]

        def source() -> str:
            if vault:
                raise vault.pop()
            return sandbox.token

        # One request an hour, which a call that sent nothing has not used.
        pacing = Pacing(token=Rate(1, 3600), account=None)
        async with connect(sandbox, token=source, pacing=pacing) as truto:
            for wanted in (TimeoutError, LookupError):
                with pytest.raises(wanted, match="vault") as caught:
                    await soon(truto.interactions.list(account, **WINDOW).page())
                assert caught.value.args == ("vault",)
            assert len(await soon(truto.interactions.list(account, **WINDOW).page())) == 5

    tell(story)


def test_a_cancelled_token_function_is_asked_again_by_the_next_in_line() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        hold = asyncio.Event()
        asked = 0

        async def source() -> str:
            nonlocal asked
            asked += 1
            await hold.wait()
            return sandbox.token

        async with connect(sandbox, token=source) as truto:
            first, second = (
                asyncio.ensure_future(truto.interactions.list(account, **WINDOW).page()) for _ in range(2)
            )
            await until(lambda: asked)
            first.cancel()
            await settle()
            assert (first.cancelled(), asked) == (True, 2)
            hold.set()
            assert len(await soon(second)) == 5

    tell(story)


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": ""},  # not the default: a variable is not set, and the token is for another address
        {"base_url": "api.truto.one"},
        {"base_url": "ftp://api.truto.one"},
        {"base_url": "https://"},
        {"base_url": "https://api.truto.one?x=y"},
        {"base_url": "https://api.truto.one#x"},
        {"base_url": "https://user:password@api.truto.one"},
        {"base_url": "https://api.truto.one:99999"},
        {"base_url": 5},
        {"base_url": b"https://api.truto.one"},
        {"max_body_bytes": 0},
        {"max_body_bytes": 1.5},
        {"max_connections": True},
        {"max_connections": -1},
        {"timeouts": 30},
        {"timeouts": None},
        {"retry": 3},
        {"pacing": None},
        {"proxy": "socks5://127.0.0.1:1"},
        {"on_event": 5},
        {"headers": {"Authorization": "Bearer x"}},
        {"headers": {"AUTHORIZATION": "Bearer x"}},
        {"headers": {"Host": "x"}},
        {"headers": {"Content-Length": "3"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"X-A": "a\r\nX-B: b"}},
        {"headers": {"X-A": "a\x00"}},
        {"headers": {"X-A": "\x7f"}},
        {"headers": {"X-A": 5}},
        {"headers": {"X A": "a"}},
        {"headers": {"X:A": "a"}},
        {"headers": {"": "a"}},
        {"headers": {"é": "a"}},
        {"headers": {5: "a"}},
    ],
    ids=repr,
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TrutoClient(**{"token": "token", **options})


@pytest.mark.parametrize(
    "options",
    [{"timeouts": 30}, {"retry": 3}, {"pacing": 10}, {"token": ""}, {"headers": {"host": "x"}}],
    ids=repr,
)
def test_a_copy_refuses_options_as_its_original_does(options: dict[str, Any]) -> None:
    truto = TrutoClient("token")
    with pytest.raises(ConfigurationError):
        truto.with_options(**options)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.truto.one\n",
        "https://api.truto.one ",
        "https:// api.truto.one",
        "https://api.truto.one/a b",
        "https://api.truto.one/?",
        "https://api.truto.one/#",
    ],
    ids=repr,
)
def test_a_base_url_that_would_garble_every_request_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError):
        TrutoClient("token", base_url=base_url)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:tell-nobody@api.truto.one",
        "user:tell-nobody@api.truto.one",
        "user:tell-nobody@host:1",
        "http:/user:tell-nobody@host",
        "https:user:tell-nobody@host",
        "http:///user:tell-nobody@host/",
        "htps//user:tell-nobody@host",
        "http:\\\\user:tell-nobody@host",
        "https://api.truto.one/user:tell-nobody@host",
        "https://user:tell-nobody\uff20host",
        "https://user:tell-nobody%40host",
    ],
)
def test_a_refused_password_in_a_url_is_not_quoted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the URL is mistyped, and wherever it comes from; nor do tracebacks with variables show it."""
    monkeypatch.setenv("TRUTO_API_BASE_URL", url)
    monkeypatch.setenv("ALL_PROXY", url.replace("http", "sox"))
    for options in (
        {"base_url": url},
        {},
        {"base_url": "https://host", "proxy": url},
        {"base_url": "https://host"},
    ):
        try:
            shown = repr(TrutoClient("token", **cast("Any", options)))
        except ConfigurationError as error:
            lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
            shown = "".join(line for line in lines if f'File "{__file__}"' not in line)
        assert "tell-nobody" not in shown


@pytest.mark.parametrize("status", [200, 302, 401, 500])
def test_a_token_that_is_repeated_is_masked_in_headers(status: int) -> None:
    """The headers of a response end up in logs as easily as its message."""
    head = f"HTTP/1.1 {status} \udcff\r\nLocation: https://x/?t={{0}}\r\nX-Sent: caf\udce9 {{0}}\r\n"
    body = "{{}}" if status >= 300 else '{{"result":[]}}'
    answer = f"{head}Content-Length: {len(body) - 2}\r\n\r\n{body}".format(REPEATED)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode(errors="surrogateescape"))

    async def main() -> None:
        async with serving(handle) as url, TrutoClient(REPEATED, base_url=url, retry=ONCE) as truto:
            try:
                headers = (await truto.interactions.list("a")).response.headers
            except APIError as error:
                headers = error.headers | {"message": str(error)}
        assert REPEATED not in "".join(headers.values()).encode().decode()
        assert headers["location"] == "https://x/?t=***"
        assert headers["x-sent"] == "caf\ufffd ***"

    run(main())


@pytest.mark.parametrize("suffix", ["", "/", "/truto", "/truto/", "/a/b%20c"])
def test_a_base_url_may_have_a_path(suffix: str) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        truto = connect(sandbox)
        assert not truto.base_url.endswith("/")
        async with TrutoClient(sandbox.token, base_url=sandbox.url + suffix, retry=ONCE) as truto:
            with suppress(APIError):  # the sandbox has no such path, but records the request
                await truto.integrated_accounts.list(limit=1)
        assert sandbox.requests[0].target == f"{suffix.rstrip('/')}/integrated-account?limit=1"

    tell(story)


def test_headers_go_out_with_every_request_once_each() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        headers = {"X-Team": "búho", "user-agent": "mine/1", "ACCEPT": "*/*", "content-type": "text/plain"}
        before = dict(headers)
        async with connect(sandbox, headers=headers) as truto:
            await truto.interactions.list(account, **WINDOW)
            await truto.with_options(headers={"x-team": "b"}).integrated_accounts.create_token(account)
        assert headers == before
        get, post = (request.headers for request in sandbox.requests)
        assert get.getall("User-Agent") == post.getall("User-Agent") == ["mine/1"]  # type: ignore[attr-defined]
        assert get.getall("Accept") == ["*/*"]  # type: ignore[attr-defined]
        assert get["X-Team"].encode("utf-8", "surrogateescape").decode() == "búho"
        assert post.getall("X-Team") == ["b"]  # type: ignore[attr-defined]
        assert post.getall("Content-Type") == ["application/json"]  # type: ignore[attr-defined]

    tell(story)


def test_a_call_has_one_clock_however_often_its_body_is_cut() -> None:
    """The deadline began anew with each: a call of a second took 1.6 s."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            if len(server.heads) > 2:
                await reader.read()  # no answer any more
            await asyncio.sleep(0.1)
            writer.write(with_length(b'{"result":['))

    async def main() -> None:
        async with rawserver.serving(handle) as server:
            timeouts = Timeouts(read=None, attempt=None, total=0.4)
            async with TrutoClient(
                "token", base_url=server.url, timeouts=timeouts, retry=FAST, pacing=Pacing.off()
            ) as truto:
                began = time.monotonic()
                with pytest.raises(DeadlineError) as caught:
                    await truto.interactions.list("a", **WINDOW)
                took = time.monotonic() - began
        assert (caught.value.deadline, caught.value.attempts) == ("total", 3)
        assert 0.4 <= took < 0.55

    run(main())


def test_calls_that_are_cancelled_while_they_wait_keep_no_retries() -> None:
    """Twelve of them emptied a budget of ten, and nothing was retried after that."""

    async def story(sandbox: Sandbox, account: str) -> None:
        waits: list[Event] = []
        retry = RetryPolicy(budget_capacity=10.0, fault_base=1e6, max_wait=1e6)
        hook = lambda event: waits.append(event) if isinstance(event, RetryScheduled) else None  # noqa: E731
        timeouts = Timeouts(total=None)
        async with connect(sandbox, retry=retry, timeouts=timeouts, on_event=hook) as truto:
            for number in range(1, 13):
                sandbox.script(account, [Fault.status(500)])
                call = asyncio.create_task(truto.interactions.list(account, **WINDOW).page())
                await until(lambda: len(waits) == number)  # noqa: B023
                assert truto._budget.left < 10.0
                call.cancel()
                await asyncio.wait([call])
                assert truto._budget.left == 10.0

    tell(story)


def test_a_request_sent_again_costs_nothing_once_it_is_answered() -> None:
    """Whatever the answer is: the connection was dead before the service could see the first."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(with_length(b'{"result":[]}') if len(server.heads) == 1 else CONFLICT)
        await server.head(reader)
        reset(writer)

    async def main() -> None:
        async with (
            rawserver.serving(handle) as server,
            TrutoClient("token", base_url=server.url, retry=FAST, pacing=Pacing.off()) as truto,
        ):
            await truto.interactions.list("a", **WINDOW)
            for _ in range(3):
                with pytest.raises(BadRequestError):
                    await truto.interactions.list("a", **WINDOW)
                assert truto._budget.left == truto.retry.budget_capacity
            assert len(server.heads) == 7

    run(main())


def test_what_its_reader_takes_is_not_the_calls_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncated body is fetched again, however long reading it took."""
    late = 0.0
    monkeypatch.setattr("truto_ci_async._http.call.monotonic", lambda: time.monotonic() + late)
    bodies: list[bytes] = []

    async def read(body: bytes, time: CallTime) -> int:
        nonlocal late
        late += 1000.0
        bodies.append(body)
        if len(bodies) == 1:
            raise TruncatedBodyError("cut", bytes_read=len(body))
        return len(bodies)

    async def story() -> None:
        async with Sandbox() as sandbox, TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            target = f"/integrated-account/{sandbox.account_ids[0]}/capabilities?type=unified"
            result, response = await truto.request("GET", target, account=None, read=read)
            assert (result, response.attempts) == (2, 2)

    run(story())


def test_a_body_that_is_cut_each_time_leaves_no_cycle() -> None:
    """An error is freed with its last reference, and so are the bodies that its frames hold."""

    async def story() -> None:
        retry = RetryPolicy(attempts=2, fault_base=0.001)
        async with (
            Sandbox() as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, retry=retry) as truto,
        ):
            sandbox.script(sandbox.account_ids[0], [Fault.truncate("json")] * 2)
            gc.collect()
            gc.disable()
            try:
                with pytest.raises(TruncatedBodyError) as caught:
                    await truto.interactions.list(sandbox.account_ids[0], **WINDOW)
                assert caught.value.attempts == 2
                error = weakref.ref(caught.value)
                del caught
                assert error() is None
            finally:
                gc.enable()

    run(story())


@pytest.mark.parametrize(("token", "is_told"), [("token", True), ("a-token-nobody-else-has", False)])
def test_a_token_that_is_repeated_is_masked_and_a_word_is_left_alone(token: str, is_told: bool) -> None:
    """A short one may be a word of the message, or a key of the body that pacing and callers need."""

    async def story() -> None:
        async with Sandbox(tokens=[token]) as sandbox, TrutoClient(token, base_url=sandbox.url) as truto:
            sandbox.script(sandbox.account_ids[0], [Fault.status(403, message=f"not with {token}")])
            with pytest.raises(PermissionDeniedError) as caught:
                await truto.interactions.list(sandbox.account_ids[0], start_time="2024-01-01T00:00:00Z")
            assert caught.value.message == f"not with {token if is_told else '***'}"

    run(story())


@pytest.mark.parametrize(
    "body", ['{"next_cursor": ["%s"]}', '["%s"', '{"a": "%s"}', '%s"', '{"n": "%s", "x": 1e999}']
)
def test_a_token_that_is_repeated_in_a_raw_body_is_masked_in_its_errors(body: str) -> None:
    """They are made after the call, which masks its own."""

    async def story() -> None:
        async with Sandbox(tokens=[SECRET]) as sandbox, TrutoClient(SECRET, base_url=sandbox.url) as truto:
            text = body % SECRET
            sandbox.script(sandbox.account_ids[0], [Fault.body(text.encode())])
            response = await truto.interactions.raw(sandbox.account_ids[0], **WINDOW)
            assert response.body == text.encode()
            reads: list[Callable[[], object]] = [
                lambda: response.json(int),
                response.json,
                lambda: response.next_cursor,
            ]
            for read in reads:
                try:
                    read()
                except DecodeError as error:
                    told = "".join(traceback.format_exception(error)) + repr((error.raw, error.path))
                    assert SECRET not in told
            assert SECRET[:12].encode() not in pickle.dumps(response).replace(text.encode(), b"")
            assert pickle.loads(pickle.dumps(response)).body == response.body

    run(story())


# Retries


def listen(into: list[Event]) -> Callable[[Event], object]:
    return into.append


def test_a_failure_that_passes_costs_the_caller_nothing() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(
            account, [Fault.status(500), Fault.reset().on(3), Fault.status(429, retry_after=0).on(5)]
        )
        events: list[Event] = []
        async with connect(sandbox, on_event=listen(events)) as truto:
            items = await truto.interactions.list(account, item_type=dict, **WINDOW).collect()
        assert items == sandbox.expected(account, **WINDOW)
        assert len(sandbox.requests) == 6
        # After a reset of a pooled connection aiohttp resends the request itself, and that is counted.
        resent = sum(event.resent for event in events if isinstance(event, ResponseReceived))
        retried = [event.reason for event in events if isinstance(event, RetryScheduled)]
        assert (retried, resent) == (["status 500", "status 429"], 1)

    tell(story)


@pytest.mark.parametrize("attempts", [2, 1])
def test_a_stream_that_is_opened_again_is_one_call(attempts: int) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.truncate("length", 0.0)])
        events: list[Event] = []
        retry = RetryPolicy(attempts=attempts)
        async with connect(sandbox, on_event=listen(events), retry=retry) as truto:
            with nullcontext() if attempts == 2 else pytest.raises(TruncatedBodyError):
                async with truto.interactions.stream(
                    account, follow_cursor=False, response_format="unified", **WINDOW
                ) as stream:
                    assert [item async for item in stream]
            assert truto.stats().open_calls == truto.stats().open_streams == 0
        again = [RetryScheduled, RequestSent, ResponseReceived, PageDecoded] if attempts == 2 else []
        assert [type(event) for event in events] == [
            CallStarted, RequestSent, ResponseReceived, *again, CallEnded,
        ]  # fmt: skip
        ended = events[-1]
        assert isinstance(ended, CallEnded)
        assert (ended.attempts, ended.error) == (attempts, None if again else "TruncatedBodyError")

    tell(story)


def test_events_tell_the_story_of_each_call_in_order() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(502), Fault.hang()])
        events: list[Event] = []
        options: dict[str, Any] = {"timeouts": QUICK, "on_event": listen(events)}
        async with connect(sandbox, **options) as truto:
            pages = [page async for page in truto.interactions.list(account, max_pages=2, **WINDOW).pages()]
        assert [type(event) for event in events] == [
            CallStarted,
            RequestSent, ResponseReceived, RetryScheduled,
            RequestSent, RetryScheduled,
            RequestSent, ResponseReceived, PageDecoded,
            CallEnded,
            CallStarted,
            RequestSent, ResponseReceived, PageDecoded,
            CallEnded,
        ]  # fmt: skip
        calls = [getattr(event, "call_id") for event in events]  # noqa: B009
        assert calls == [calls[0]] * 10 + [calls[-1]] * 5
        assert calls[-1] == calls[0] + 1
        assert [event.attempts for event in events if isinstance(event, CallEnded)] == [3, 1]
        assert [event.attempt for event in events if isinstance(event, RequestSent)] == [1, 2, 3, 1]
        assert [event.status for event in events if isinstance(event, ResponseReceived)] == [502, 200, 200]
        assert [event.attempt for event in events if isinstance(event, ResponseReceived)] == [1, 3, 1]
        assert [(event.reason, event.attempt) for event in events if isinstance(event, RetryScheduled)] == [
            ("status 502", 1),
            ("timeout", 2),
        ]
        assert [event.url for event in events if isinstance(event, RequestSent)] == [
            request.target.partition("?")[0] for request in sandbox.requests
        ]
        decoded = [event for event in events if isinstance(event, PageDecoded)]
        assert [event.items for event in decoded] == [5, 5]
        received = [event for event in events if isinstance(event, ResponseReceived)]
        assert [event.bytes for event in received[1:]] == [event.bytes for event in decoded]
        assert {event.account for event in events} == {account}
        assert [event.time for event in events] == sorted(event.time for event in events)
        assert [page.response.attempts for page in pages] == [3, 1]
        assert all("\n" not in str(event) and sandbox.token not in str(event) for event in events)

    tell(story)


def test_a_wait_for_a_turn_is_told_with_its_call_and_level() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        events: list[Event] = []
        pacing = Pacing(token=None, account=Rate(1, 0.5))
        async with connect(sandbox, pacing=pacing, on_event=listen(events)) as truto:
            pages = [page async for page in truto.interactions.list(account, max_pages=2, **WINDOW).pages()]
        waits = [event for event in events if isinstance(event, PacingWait)]
        _, second = [event.call_id for event in events if isinstance(event, CallStarted)]
        assert [(event.call_id, event.level, event.account) for event in waits] == [
            (second, "account", account)
        ]
        assert [page.response.waited > 0 for page in pages] == [False, True]

    tell(story)


@pytest.mark.parametrize("hook_of_a_copy", [False, True])
def test_a_hook_that_raises_breaks_nothing_and_is_told_once(
    hook_of_a_copy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        def hook(event: Event) -> None:
            raise LookupError("mine")

        sandbox.script(account, [Fault.status(500)])
        async with connect(sandbox, on_event=hook) as truto:
            client = truto.with_options(headers={"X-A": "b"}) if hook_of_a_copy else truto
            assert len(await client.interactions.list(account, **WINDOW).collect()) == 12

    with caplog.at_level(logging.WARNING, "truto_ci_async"):
        tell(story)
    assert [record.getMessage() for record in caplog.records if record.name == "truto_ci_async"] == [
        "on_event failed for CallStarted; further failures are not logged"
    ]


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (Fault.status(500), ServerError, "500"),
        (Fault.status(429, retry_after=0), RateLimitError, "429"),
        (Fault.status(503, retry_after=0), ServerError, "503"),
        (Fault.disconnect(), ConnectError, "closed the connection"),
        (Fault.truncate(), TruncatedBodyError, "early"),
    ],
)
def test_attempts_run_out(fault: Fault, kind: type[TrutoError], reason: str) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [fault.forever()])
        retry = RetryPolicy(attempts=3, fault_base=0, throttle_base=0)
        async with connect(sandbox, retry=retry) as truto:
            with pytest.raises(kind, match=reason) as caught:
                await truto.interactions.list(account, **WINDOW)
        assert isinstance(caught.value, APIError | TransportError)
        assert (caught.value.attempts, caught.value.account) == (3, account)
        assert caught.value.__context__ is caught.value.__cause__

    tell(story)


def test_no_retries_is_one_request() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(500)])
        async with connect(sandbox, retry=ONCE) as truto:
            with pytest.raises(ServerError) as caught:
                await truto.interactions.list(account, **WINDOW)
            assert caught.value.attempts == len(sandbox.requests) == 1
            assert len(await truto.interactions.list(account, **WINDOW)) == 5

    tell(story)


@pytest.mark.parametrize("attempts", [1, 3])
def test_quick_retries_cut_attempts_and_waits_for_tests_of_others(attempts: int) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(500).times(4)])
        async with connect(sandbox, retry=RetryPolicy(fault_base=1000, max_wait=1000)) as truto:
            with quick_retries(attempts), pytest.raises(ServerError):
                await soon(truto.interactions.list(account, **WINDOW).page())
        assert len(sandbox.requests) == attempts

    tell(story)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 418, 422, 501, 503, 302])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(status, headers={"Location": "http://127.0.0.1:1/"})])
        async with connect(sandbox) as truto:
            with pytest.raises(APIError) as caught:
                await truto.interactions.list(account, **WINDOW)
        error = caught.value
        lists = [each for each in sandbox.requests if "capabilities" not in each.path]
        assert (error.status, error.attempts, error.account, len(lists)) == (status, 1, account, 1)

    tell(story)


def test_a_post_is_tried_again_too() -> None:
    """It creates a token and no record, so an extra one does no harm."""

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(None, [Fault.status(500), Fault.disconnect()])
        async with connect(sandbox) as truto:
            assert await truto.integrated_accounts.create_token(account)
        assert [request.method for request in sandbox.requests] == ["POST"] * 3

    tell(story)


def test_a_wait_the_service_asks_for_beyond_the_policy_is_an_error_at_once_and_for_the_next_call() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(429, retry_after=1000)])
        async with connect(sandbox, pacing=Pacing()) as truto:
            with pytest.raises(RateLimitError) as caught:
                await truto.interactions.list(account, **WINDOW)
            assert (caught.value.retry_after, caught.value.attempts) == (1000, 1)
            with pytest.raises(RateLimitError) as caught:
                await truto.interactions.list(account, **WINDOW)
            assert caught.value.attempts == 0
            assert caught.value.retry_after == pytest.approx(1000, rel=0.1)
        assert len(sandbox.requests) == 1

    tell(story)


def test_a_call_that_may_not_be_tried_again_for_long_says_how_often_it_was() -> None:
    """Meanwhile another call of the account got a Retry-After that is longer than the policy allows."""

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(500)])

        def told(event: Event) -> None:
            if isinstance(event, RetryScheduled):
                truto.admission.on_response(account, 429, {}, retry_after=1000.0)

        async with connect(sandbox, pacing=Pacing(), on_event=told) as truto:
            with pytest.raises(RateLimitError) as caught:
                await truto.interactions.list(account, **WINDOW)
        assert caught.value.attempts == len(sandbox.requests) == 1
        assert isinstance(caught.value.__cause__, ServerError)

    tell(story)


def test_pacing_hears_of_the_end_of_every_request() -> None:
    """However it ended: a slot that is not returned is lost for good."""

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(
            account, [Fault.status(500), Fault.disconnect(), Fault.truncate(), Fault.html(), Fault.hang()]
        )
        async with connect(sandbox, pacing=Pacing(), retry=ONCE, timeouts=QUICK) as truto:
            for _ in range(5):
                with pytest.raises(TrutoError):
                    await truto.interactions.list(account, **WINDOW)
            for turns in range(0, 60, 3):
                call = asyncio.ensure_future(truto.interactions.list(account, **WINDOW).page())
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait({call})
            assert truto.admission.limiter._token.in_flight == 0
            assert truto.admission.limiter._accounts[account].window.in_flight == 0

    tell(story)


def test_the_whole_call_has_a_deadline_that_tells_what_it_waited_for() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(500), Fault.hang()])
        timeouts = Timeouts(read=None, attempt=None, total=0.2)
        async with connect(sandbox, timeouts=timeouts) as truto:
            with pytest.raises(DeadlineError, match="after 2 attempts") as caught:
                await truto.interactions.list(account, **WINDOW)
        error = caught.value
        assert (error.deadline, error.seconds, error.attempts, error.account) == ("total", 0.2, 2, account)
        assert isinstance(error.__cause__, ServerError)
        assert isinstance(error, TimeoutError)

    tell(story)


def test_a_timeout_of_the_callers_is_the_callers() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.hang()])
        async with connect(sandbox) as truto:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.05):
                    await truto.interactions.list(account, **WINDOW)
        assert not isinstance(caught.value, TrutoError)

    tell(story)


# Bad responses


def envelope(**fields: Any) -> bytes:
    return msgspec.json.encode({"result": [{"id": "1"}], "next_cursor": None, **fields})


NESTED = b"[" * 200 + b"]" * 200
TOO_DEEP = b"[" * 100_000 + b"]" * 100_000

BAD_BODIES = {
    "html": b"<!doctype html><p>hello",
    "spaces": b"  \n ",
    "error": b'{"error": "boom"}',
    "null result": b'{"result": null}',
    "no result": b'{"next_cursor": null}',
    "object result": b'{"result": {"id": "1"}}',
    "text result": b'{"result": "none"}',
    "numbers": b'{"result": [1, 2]}',
    "strangers": b'{"result": [{"a": 1}]}',
    "null": b"null",
    "array": b"[]",
    "text": b'"hello"',
    "nested array": NESTED,
    "nested too deep": b'{"result": ' + TOO_DEEP + b"}",
    "too deep": TOO_DEEP,
    "bad utf-8": b'{"result": [{"id": "\xff"}]}',
    "bad utf-8 in passing": b'{"result": [], "x": "\xff"}',
    "utf-16": '{"result": []}'.encode("utf-16"),
    "two byte order marks": 2 * b"\xef\xbb\xbf" + envelope(),
    "broken escape": b'{"result": [{"id": "\\ud80"}]}',
    "trailing": envelope() + b"x",
    "two documents": envelope() + envelope(),
    "NaN": b'{"result": [{"id": "1", "metrics": {"patience": NaN}}]}',
    "cursor of another type": envelope(next_cursor={"a": 1}),
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_body_that_is_no_page_is_one_decode_error_that_says_which_page(body: bytes) -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.body(body).on(2)])
        seen: list[Interaction] = []
        async with connect(sandbox) as truto:
            with pytest.raises(DecodeError) as caught:
                async for item in truto.interactions.list(account, **WINDOW):
                    seen.append(item)  # noqa: PERF401
        error = caught.value
        assert len(seen) == 5
        assert (error.account, error.cursor) == (account, sandbox.requests[1].query["next_cursor"])
        assert len(error.message) < 1000
        assert len(error.raw) <= 512
        assert len(sandbox.requests) == 2

    tell(story)


def test_what_only_looks_odd_is_a_right_answer() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        bodies = [
            b" \n\t" + envelope() + b" \r\n",
            envelope(remote="x", next_cursor=""),
            b'{"results": [{"id": "1"}]}',
            b'{"next_cursor": null, "result": [{"id": "1", "remote_data": ' + NESTED + b"}]}",
            b'{"result": [{"id": "1"}], "more": ' + NESTED + b"}",
        ]
        sandbox.script(account, [Fault.body(body, content_type="text/plain") for body in bodies])
        async with connect(sandbox) as truto:
            for _ in bodies:
                page = await truto.interactions.list(account, **WINDOW)
                assert [item.id for item in page] == ["1"]
                assert not page.has_more

    tell(story)


BACK_OFF_FACTOR: list[tuple[Fault, type[TransportError]]] = [
    (Fault.truncate("length"), TruncatedBodyError),
    (Fault.truncate("length", 0), TruncatedBodyError),
    (Fault.truncate("chunked"), TruncatedBodyError),
    (Fault.truncate("json"), TruncatedBodyError),
    (Fault.truncate("json", -1), TruncatedBodyError),
    (Fault.truncate("gzip"), TruncatedBodyError),
    (Fault.truncate("deflate"), TruncatedBodyError),
    (Fault.reset(300), TransportError),
    (Fault.reset(30), ConnectError),
    (Fault.disconnect(30), ConnectError),
    (Fault.disconnect(), ConnectError),
    (Fault.hang(), DeadlineError),
    (Fault.hang_body(), DeadlineError),
    (Fault.hang_body(0.5), DeadlineError),
    (Fault.drip(0.02), DeadlineError),
    (Fault.drip(0.02, part="all"), DeadlineError),
]


@pytest.mark.parametrize(
    ("fault", "kind"), BACK_OFF_FACTOR, ids=[f"{f.kind}-{f.mode}-{f.keep}" for f, _ in BACK_OFF_FACTOR]
)
def test_a_page_that_is_cut_or_never_comes_is_fetched_again_whole_or_one_error(
    fault: Fault, kind: type[TransportError]
) -> None:
    if fault.keep == -1:
        fault = Fault.truncate("json", 1)

    async def story(sandbox: Sandbox, account: str) -> None:
        read = (
            0.1 if kind is DeadlineError else 5.0
        )  # on a busy machine the pages that do arrive may take long
        timeouts = Timeouts(connect=5, read=read, attempt=2 * read, total=30)
        async with connect(sandbox, timeouts=timeouts) as truto:
            sandbox.script(account, [fault.on(2)])
            items = await truto.interactions.list(account, item_type=dict, **WINDOW).collect()
            assert items == sandbox.expected(account, **WINDOW)
            assert len(sandbox.requests) == 4

            sandbox.clear_faults()
            sandbox.clear()
            sandbox.script(account, [fault.times(4)])
            with pytest.raises(kind) as caught:
                await truto.with_options(retry=ONCE).interactions.list(account, **WINDOW)
            assert (caught.value.account, caught.value.attempts) == (account, 1)
            assert "truto_ci_async" in type(caught.value).__module__
            assert len(str(caught.value)) < 500

    tell(story)


def test_a_body_beyond_the_limit_is_an_error_that_says_which_and_is_not_tried_again() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.bomb(size=10_000_000), Fault.ok()])
        async with connect(sandbox, max_body_bytes=100_000) as truto:
            for _ in range(2):
                with pytest.raises(BodyTooLargeError, match="max_body_bytes") as caught:
                    await truto.interactions.list(account, **WINDOW)
                assert (caught.value.limit, caught.value.account) == (100_000, account)
        assert len(sandbox.requests) == 2

    tell(story, interactions=200, page_size=200, max_page_size=200)


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"x-unheard-of", b"gzip, br"])
def test_a_coding_that_cannot_be_opened_is_one_decode_error(coding: bytes) -> None:
    async def main() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(
                    reply(
                        b"this is not compressed", b"HTTP/1.1 200 OK\r\nContent-Encoding: " + coding + b"\r\n"
                    )
                )

        async with serving(handle) as url, TrutoClient("token", base_url=url, retry=FAST) as truto:
            for verb in (truto.interactions.list, truto.interactions.raw):
                with pytest.raises(DecodeError) as caught:
                    await verb("acc", cursor="c", **WINDOW)  # type: ignore[operator]
                assert (caught.value.account, caught.value.cursor) == ("acc", "c")
            with pytest.raises(DecodeError) as caught:
                await truto.integrated_accounts.capabilities("acc")
            assert caught.value.account == "acc"

    run(main())


NOT_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nonsense": b"\x00\x01\x02\x03\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 200_000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("answer", NOT_HTTP.values(), ids=NOT_HTTP.keys())
def test_an_answer_that_is_no_http_is_one_transport_error(answer: bytes) -> None:
    async def main() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()

        async with (
            serving(handle) as url,
            TrutoClient("tell-nobody", base_url=url, retry=ONCE, timeouts=QUICK) as truto,
        ):
            with pytest.raises(TransportError) as caught:
                await truto.interactions.list("acc", **WINDOW)
            assert (caught.value.account, caught.value.attempts) == ("acc", 1)
            assert len(str(caught.value)) < 500
            assert "tell-nobody" not in f"{caught.value!r} {caught.value.__cause__!r}"

    run(main())


def test_nobody_there_is_a_connect_error() -> None:
    async def main() -> None:
        async with TrutoClient("token", base_url="http://127.0.0.1:1", retry=FAST) as truto:
            with pytest.raises(ConnectError) as caught:
                await truto.interactions.list("acc", **WINDOW)
        assert (caught.value.account, caught.value.attempts) == ("acc", 5)
        assert isinstance(caught.value, ConnectionError)
        assert caught.value.__cause__ is not None

    run(main())


def test_a_redirect_is_not_followed_and_the_token_goes_nowhere_else() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with Sandbox(**SMALL) as elsewhere:
            for code in (301, 302, 303, 307, 308):
                sandbox.script(account, [Fault.redirect(elsewhere.url + "/unified/x", code)])
            async with connect(sandbox) as truto:
                for _ in range(5):
                    with pytest.raises(APIError, match="redirect.*check base_url"):
                        await truto.interactions.list(account, **WINDOW)
            assert elsewhere.requests == []
            assert elsewhere.stats.connections == 0

    tell(story)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503])
def test_a_bad_body_never_hides_a_status(status: int) -> None:
    bodies = [b"", b"<html>no</html>", b"\xff", b"null", b"[]", b'{"message": {"a": 1}}', TOO_DEEP]

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(status, body=body) for body in bodies])
        async with connect(sandbox, retry=ONCE) as truto:
            for _ in bodies:
                with pytest.raises(APIError) as caught:
                    await truto.interactions.list(account, **WINDOW)
                error = caught.value
                assert (error.status, error.account, error.attempts) == (status, account, 1)
                assert error.message

    tell(story)


# Secrets

SECRET = "s3cr3t-t0k3n-tell-nobody"

FAILURES = [
    Fault.status(401),
    Fault.status(422, message="no"),
    Fault.status(500),
    Fault.status(503),
    Fault.status(100),
    Fault.redirect("http://127.0.0.1:1/"),
    Fault.html(),
    Fault.body(b"\xff"),
    Fault.body(TOO_DEEP),
    Fault.truncate("length"),
    Fault.truncate("gzip"),
    Fault.truncate("json"),
    Fault.bomb(size=10_000_000),
    Fault.reset(),
    Fault.reset(100),
    Fault.disconnect(),
    Fault.hang(),
    Fault.hang_body(),
]


def test_the_token_is_nowhere_but_on_the_wire(caplog: pytest.LogCaptureFixture) -> None:
    """All logs at DEBUG, events, reprs, tracebacks with locals, chains of causes, and pickles."""
    caplog.set_level(logging.DEBUG)
    texts: dict[str, list[str]] = {"events": [], "reprs": [], "errors": [], "locals": []}
    pickles: list[bytes] = []

    def told(event: Event) -> None:
        texts["events"].append(f"{event} {event!r}")

    async def source() -> str:
        return SECRET

    async def story(sandbox: Sandbox, account: str) -> None:
        for token in (SECRET, source):
            truto = connect(
                sandbox, token=token, retry=ONCE, timeouts=QUICK, max_body_bytes=50_000, on_event=told
            )
            async with truto:
                pages = truto.interactions.list(account, **WINDOW)
                page = await pages
                raw = await truto.interactions.raw(account, **WINDOW)
                shown = (
                    truto,
                    truto.with_options(headers={}),
                    truto.interactions,
                    pages,
                    page,
                    page.response,
                    raw,
                )
                texts["reprs"] += [f"{value!r} {value}" for value in shown]
                for fault in FAILURES:
                    sandbox.script(account, [fault.times(2)])  # aiohttp resends once on a dead connection
                    with pytest.raises(TrutoError) as caught:
                        await truto.interactions.list(account, **WINDOW)
                    sandbox.clear_faults()
                    error: BaseException | None = caught.value
                    pickles.append(pickle.dumps(error))
                    texts["errors"] += traceback.format_exception(error)
                    texts["locals"].append(own_locals(caught.value))
                    while error is not None:
                        texts["errors"].append(f"{error!r} {error} {vars(error)} {error.args}")
                        error = error.__cause__ or error.__context__
            with pytest.raises(UsageError) as closed:
                await truto.interactions.list(account, **WINDOW)
            texts["locals"].append(own_locals(closed.value))
        assert all(request.headers["Authorization"] == f"Bearer {SECRET}" for request in sandbox.requests)

    tell(story, tokens=[SECRET])
    texts["logs"] = [record.getMessage() for record in caplog.records] + [caplog.text]
    assert len(texts["events"]) > 2 * len(FAILURES)
    assert len(texts["logs"]) > 2 * len(FAILURES)
    assert any("***" in text for text in texts["locals"])
    for where, said in texts.items():
        assert said, where
        found = [text for text in said if SECRET in text]
        assert not found, f"{where}: {found[0][:2000]}"
    assert all(SECRET.encode() not in pickled for pickled in pickles)


def test_errors_of_calls_pickle_with_what_their_handlers_need() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox, retry=ONCE, timeouts=QUICK) as truto:
            for fault in (Fault.status(429, retry_after=7), Fault.html(), Fault.hang(), Fault.truncate()):
                sandbox.script(account, [fault])
                with pytest.raises(TrutoError) as caught:
                    await truto.interactions.list(account, **WINDOW)
                again = pickle.loads(pickle.dumps(caught.value))
                assert type(again) is type(caught.value)
                assert vars(again) == vars(caught.value)
                assert str(again) == str(caught.value)

    tell(story)


# References


def errors_alive() -> int:
    return sum(isinstance(value, TrutoError) for value in gc.get_objects())


@pytest.mark.parametrize(
    "fault", [Fault.status(422), Fault.status(500), Fault.body(b"[]")], ids=["refused", "retried", "decode"]
)
def test_an_error_of_a_call_goes_with_its_last_reference(fault: Fault) -> None:
    """No cycle keeps a failed call and its body until the next garbage collection."""

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(None, [fault.times(3)])
        async with connect(sandbox, retry=RetryPolicy(attempts=2, fault_base=0)) as truto:
            gc.collect()
            before = errors_alive()
            gc.disable()
            try:
                for _ in range(2):  # the second call may succeed after a failed attempt
                    with suppress(TrutoError):
                        await truto.integrated_accounts.capabilities(account)
                    assert errors_alive() == before
            finally:
                gc.enable()

    tell(story)


def test_a_fetch_ahead_that_fails_and_is_dropped_is_nobodys_error() -> None:
    """``run`` fails the test when asyncio reports an exception that was never retrieved."""

    async def story(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(422).on(2)])
        async with connect(sandbox) as truto:
            async for _ in truto.interactions.list(account, **WINDOW):
                await until(lambda: truto._tasks)
                await until(lambda: not truto._tasks)
                break
            gc.collect()
            await settle()
        assert len(sandbox.requests) == 2

    tell(story)


def test_a_client_holds_nothing_of_finished_calls() -> None:
    async def story(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            for _ in range(3):
                await truto.interactions.list(account, **WINDOW).collect()
                async for _ in truto.interactions.list(account, **WINDOW):
                    break
            await settle()
            assert not truto._tasks
            assert truto._in_flight == set()

    tell(story)

"""A client inside a service: what ``stats()`` says, and the FastAPI example over loopback."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support import run
from truto_ci_async import Fault, Interaction, Pacing, Page, Rate, RetryPolicy, Sandbox, TrutoClient

WINDOW: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
OFF: dict[str, Any] = {"token_rate": None, "account_rate": None}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not true():
            await asyncio.sleep(0.005)


# Stats


def test_stats_count_calls_streams_and_waits() -> None:
    async def main() -> None:
        pacing = Pacing(token=Rate(100, 60.0), account=Rate(1, 60.0))
        async with (
            Sandbox(accounts=2, others=0, **OFF) as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, pacing=pacing) as truto,
        ):
            one, other = sandbox.account_ids
            idle = truto.stats()
            assert (idle.open_calls, idle.waiting) == (0, {"token": 0, "account": 0, "retry": 0})
            assert (idle.limit, idle.used, idle.paused) == (100, 0, 0.0)
            assert idle.retry_budget == idle.retry_capacity == 100.0
            await truto.interactions.list(one, **WINDOW)
            waiting = [asyncio.create_task(truto.interactions.list(one, **WINDOW).page()) for _ in range(3)]
            await until(lambda: truto.stats().waiting["account"] == 3)
            async with truto.interactions.stream(other, **WINDOW):
                busy = truto.stats()
            assert (busy.open_calls, busy.open_streams, busy.used, busy.accounts) == (4, 1, 2, 2)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert truto.stats().open_calls == 0
        assert truto.stats().is_closed

    run(main())


def test_stats_of_a_failing_service_show_retries_and_the_budget() -> None:
    async def main() -> None:
        retry = RetryPolicy(attempts=3, fault_base=30.0, throttle_base=30.0)
        async with (
            Sandbox(accounts=1, others=0, **OFF) as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, retry=retry) as truto,
        ):
            [account] = sandbox.account_ids
            sandbox.script(account, [Fault.status(500)])
            task = asyncio.create_task(truto.interactions.list(account, **WINDOW).page())
            await until(lambda: truto.stats().waiting["retry"] == 1)
            assert truto.stats().retry_budget == 99.0
            task.cancel()
            await asyncio.wait([task])
            sandbox.script(account, [Fault.status(429, retry_after=20)])
            task = asyncio.create_task(truto.interactions.list(account, **WINDOW).page())
            await until(lambda: truto.stats().waiting["retry"] == 1)
            task.cancel()
            await asyncio.wait([task])

    run(main())


def test_stats_of_a_token_that_is_used_up_or_paused() -> None:
    async def main() -> None:
        async with (
            Sandbox(accounts=2, others=0, **OFF) as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, pacing=Pacing(token=Rate(1, 60.0))) as truto,
        ):
            one, other = sandbox.account_ids
            await truto.interactions.list(one, **WINDOW)
            waiting = [
                asyncio.create_task(truto.interactions.list(each, **WINDOW).page()) for each in (one, other)
            ]
            await until(lambda: sum(truto.stats().waiting.values()) == 2)
            assert truto.stats().waiting == {"token": 2, "account": 0, "retry": 0}
            free = truto.with_options(pacing=Pacing())
            sandbox.fault(Fault.status(429, retry_after=20, insight={"rate_limit_error": "of the token"}))
            waiting.append(asyncio.create_task(free.integrated_accounts.list().page()))
            await until(lambda: free.stats().waiting["retry"] == 1)
            assert 19 < free.stats().paused <= 22
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    run(main())


def test_a_page_is_json() -> None:
    page = Page((Interaction(id="1"), {"a": 1}), next_cursor="c")
    assert json.loads(page.to_json()) == page.to_dict()
    assert page.to_dict()["result"][1] == {"a": 1}
    assert page.to_dict()["position"] is None
    assert json.loads(Interaction(id="1").to_json()) == Interaction(id="1").to_dict()


# The example


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> AsyncIterator[tuple[Any, tuple[str, int]]]:
    """Run the example with uvicorn; gives the app and its address. Its sockets have small buffers."""
    import uvicorn

    monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
    monkeypatch.setenv("TRUTO_API_BASE_URL", sandbox.url)
    monkeypatch.syspath_prepend("examples")
    from fastapi_app import app  # type: ignore[import-not-found,unused-ignore]

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started or task.done())
        yield app, listener.getsockname()
    finally:
        server.should_exit = True
        await task
        listener.close()
        sys.modules.pop("fastapi_app", None)


async def get(address: tuple[str, int], path: str) -> tuple[int, bytes]:
    import aiohttp

    async with (
        aiohttp.ClientSession(f"http://{address[0]}:{address[1]}") as session,
        session.get(path) as response,
    ):
        return response.status, await response.read()


def query(sandbox: Sandbox, suffix: str = "") -> str:
    times = "start_time=2024-01-01&end_time=2024-02-01"
    return f"/accounts/{sandbox.account_ids[0]}/interactions{suffix}?{times}"


@pytest.mark.services
def test_the_example_answers_with_pages_errors_and_health(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with (
            Sandbox(accounts=1, others=0, interactions=12, page_size=5, **OFF) as sandbox,
            serving(monkeypatch, sandbox) as (_, address),
        ):
            seen: list[str] = []
            path: str | None = query(sandbox)
            while path is not None:
                status, body = await get(address, path)
                page = json.loads(body)
                assert status == 200
                seen += [item["id"] for item in page["result"]]
                path = page["position"] and f"{query(sandbox)}&position={page['position']}"
            status, body = await get(address, query(sandbox, ".ndjson"))
            lines = [json.loads(line)["id"] for line in body.splitlines()]
            assert seen == lines
            assert len(lines) == 12
            assert (await get(address, "/healthz"))[0] == 200
            assert (await get(address, "/readyz"))[0] == 200
            assert (await get(address, query(sandbox) + "&end_time=never"))[0] == 422
            assert (await get(address, query(sandbox, ".ndjson") + "&end_time=never"))[0] == 422
            assert (await get(address, "/accounts/none/interactions?start_time=-7d"))[0] == 404
            assert (await get(address, query(sandbox) + "&position=gone"))[0] == 410
            assert (await get(address, "/openapi.json"))[0] == 200

    run(main())


@pytest.mark.services
@pytest.mark.parametrize("leaves", [False, True])
def test_a_slow_reader_of_the_example_slows_the_walk_and_one_that_leaves_ends_it(
    monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """The walk goes on as fast as lines are read, so memory holds two pages, however many there are."""
    pages = 40

    async def main() -> None:
        async with (
            Sandbox(accounts=1, others=0, interactions=50 * pages, page_size=50, **OFF) as sandbox,
            serving(monkeypatch, sandbox) as (app, address),
        ):
            reader = socket.socket()
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
            reader.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(reader, address)
            head = f"GET {query(sandbox, '.ndjson')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(reader, head.encode())
            asked = -1
            while asked != sandbox.stats.requests:  # until nothing more is asked for
                asked = sandbox.stats.requests
                await asyncio.sleep(0.3)
            assert 2 <= asked <= 10
            if leaves:
                reader.close()
                await until(lambda: app.state.truto.stats().open_calls == 0)
                await asyncio.sleep(0.2)
                assert sandbox.stats.requests <= asked + 1
                return
            pieces: list[bytes] = []
            while piece := await loop.sock_recv(reader, 2**16):
                pieces.append(piece)
            reader.close()
            assert b"".join(pieces).count(b"\n{") >= 50 * pages - 1
            assert sandbox.stats.requests == pages

    run(main())


@pytest.mark.services
def test_the_client_of_the_example_ends_its_call_when_its_reader_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while the service has not answered yet."""

    async def main() -> None:
        async with (
            Sandbox(accounts=1, others=0, interactions=12, page_size=5, **OFF) as sandbox,
            serving(monkeypatch, sandbox) as (app, address),
        ):
            sandbox.script(sandbox.account_ids[0], [Fault.ok().times(2), Fault.hang()])
            reader, writer = await asyncio.open_connection(*address)
            writer.write(f"GET {query(sandbox, '.ndjson')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await reader.readuntil(b"\n")
            await until(lambda: sandbox.stats.requests == 3 and app.state.truto.stats().open_calls == 1)
            writer.close()
            await writer.wait_closed()
            await until(lambda: app.state.truto.stats().open_calls == 0)

    run(main())

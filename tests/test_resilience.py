"""The client under faults and load, over loopback: nothing lost, duplicated or left open, and all in time.

Each heavy test runs with small numbers by default, and with large ones under ``-m long``. The figures of the large
runs are in docs/explanation/guarantees.md.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import gzip
import itertools
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from truto_ci_async import (
    APIError,
    ConfigurationError,
    ConnectError,
    DeadlineError,
    Event,
    Pacing,
    Rate,
    RateLimitError,
    RequestSent,
    ResponseReceived,
    RetryPolicy,
    RetryScheduled,
    ServerError,
    Timeouts,
    TransportError,
    TrutoClient,
    TrutoError,
)
from truto_ci_async.sandbox import Fault, Sandbox

from . import support
from .certificates import client_context, server_context
from .rawserver import OK, RawServer, in_chunks, reset, serving, tunnel, turns, with_length
from .support import ZSTD_MODULE, run

WINDOW: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
UNLIMITED: dict[str, Any] = {"others": 0, "token_rate": None, "account_rate": None, "ratelimit_headers": None}
QUICK_RETRY = RetryPolicy(fault_base=0.001, throttle_base=0.001)
TOKEN = "sandbox-token"
# Seconds by which a deadline may be missed.
GRACE = 0.5


def sizes(quick: Any, full: Any) -> pytest.MarkDecorator:
    """Parametrize ``size``: small in the normal run, large under ``-m long``."""
    return pytest.mark.parametrize(
        "size", [pytest.param(quick, id="quick"), pytest.param(full, id="full", marks=pytest.mark.long)]
    )


def run_load(coro: Coroutine[Any, Any, Any], seconds: float = 240.0) -> None:
    """Like ``run``, but without asyncio's debug mode, which would double the time."""
    with asyncio.Runner(debug=False) as runner:
        runner.run(support._supervise(coro, seconds))


def connect(sandbox: Sandbox, **options: Any) -> TrutoClient:
    settings: dict[str, Any] = {"pacing": Pacing.off(), "retry": QUICK_RETRY} | options
    return TrutoClient(sandbox.token, base_url=sandbox.url, **settings)


Story = Callable[[Sandbox, TrutoClient, str], Awaitable[None]]


def tell(story: Story, *, client: dict[str, Any] | None = None, **options: Any) -> None:
    """Run ``story(sandbox, client, account)`` against a small sandbox without rate limits."""

    async def main() -> None:
        small = {"accounts": 1, "interactions": 12, "page_size": 5, **UNLIMITED}
        async with Sandbox(**{**small, **options}) as sandbox, connect(sandbox, **(client or {})) as truto:
            await story(sandbox, truto, sandbox.account_ids[0])

    run(main())


class Walks:
    """The ids that walks over many accounts returned, and those that were expected."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.found: Counter[tuple[str, str | None]] = Counter()
        self.failed: list[Exception] = []

    async def walk(self, truto: TrutoClient, account: str) -> None:
        try:
            async for item in truto.interactions.list(account, **WINDOW):
                self.found[account, item.id] += 1
        except TrutoError as error:
            self.failed.append(error)

    async def walk_all(self, truto: TrutoClient, accounts: list[str]) -> None:
        await asyncio.gather(*(self.walk(truto, account) for account in accounts))

    def check(self, accounts: list[str], items: int) -> None:
        """Check that nothing failed, and nothing is missing or duplicated."""
        expected = {
            (account, record["id"])
            for account in accounts
            for record in self._sandbox.expected(account, **WINDOW)
        }
        assert len(expected) == items * len(accounts)
        assert self.failed == []
        assert expected - self.found.keys() == set()
        assert self.found.keys() - expected == set()
        assert set(self.found.values()) == {1}


def report(capsys: pytest.CaptureFixture[str], **figures: object) -> None:
    """Print the figures of a large run, also without ``-s``."""
    name = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[2].rpartition(" ")[0]
    if "full" in name:
        with capsys.disabled():
            print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))  # noqa: T201


# Load


@sizes(50, 1000)
def test_many_accounts_under_both_tiers_lose_and_double_nothing(size: int, capsys: Any) -> None:
    """Ten pages of each account, all at once, with a service that enforces both limits."""
    token, account = (500, 1.0), (50, 1.0)

    async def main() -> None:
        async with Sandbox(
            accounts=size, others=0, interactions=20, page_size=2, token_rate=token, account_rate=account
        ) as sandbox:
            pacing = Pacing(token=Rate(*token), account=Rate(*account))
            walks = Walks(sandbox)
            async with connect(sandbox, pacing=pacing, retry=RetryPolicy()) as truto:
                started = time.monotonic()
                await walks.walk_all(truto, sandbox.account_ids)
                took = time.monotonic() - started
            walks.check(sandbox.account_ids, 20)
            requests, refused = sandbox.stats.requests, sandbox.stats.rate_limited
            assert requests - refused == 10 * size
            assert refused <= requests * 0.02
            report(capsys, requests=requests, refused=refused, seconds=f"{took:.1f}")

    run_load(main())


def chaos(draw: random.Random, count: int) -> list[Fault]:
    """Return faults for ``count`` requests: 20 % 5xx, 5 % resets, 2 % truncated bodies; at most eight in a row."""
    statuses = [500, 502, 504, 520, 521, 522, 523, 524, 408, 425]
    faults: list[Fault] = []
    while len(faults) < count:
        lot = draw.random()
        if lot >= 0.27 or all(fault.kind != "ok" for fault in faults[-8:]):
            faults.append(Fault.ok())
        elif lot < 0.20:
            faults.append(Fault.status(draw.choice(statuses)))
        elif lot < 0.25:
            faults.append(
                draw.choice([Fault.reset(), Fault.reset(after=40), Fault.disconnect(), Fault.reset(200)])
            )
        else:
            mode: Any = draw.choice(["length", "chunked", "json", "gzip", "deflate"])
            faults.append(Fault.truncate(mode, keep=draw.uniform(0.02, 1)))
    return faults


@sizes(20, 400)
def test_a_service_that_fails_one_request_in_four_loses_nothing(size: int, capsys: Any) -> None:
    async def main() -> None:
        async with Sandbox(accounts=size, interactions=100, page_size=2, **UNLIMITED) as sandbox:
            draw = random.Random(11)
            for account in sandbox.account_ids:
                sandbox.script(account, chaos(draw, 200))
            walks = Walks(sandbox)
            events: Counter[str] = Counter()
            retry = RetryPolicy(attempts=10, fault_base=0.001)
            async with connect(
                sandbox, retry=retry, on_event=lambda event: events.update([type(event).__name__])
            ) as truto:
                await walks.walk_all(truto, sandbox.account_ids)
            walks.check(sandbox.account_ids, 100)
            kinds = Counter(record.fault for record in sandbox.requests)
            faults = sandbox.stats.faults
            assert 0.2 < faults / sandbox.stats.requests < 0.35
            report(capsys, good=50 * size, requests=sandbox.stats.requests, faults=faults, kinds=dict(kinds))

    run_load(main())


@sizes(20, 400)
@pytest.mark.parametrize("every", [2, 7])
def test_a_server_that_resets_used_connections_is_not_noticed(size: int, every: int, capsys: Any) -> None:
    async def main() -> None:
        async with Sandbox(
            accounts=size, interactions=100, page_size=2, reset_every=every, **UNLIMITED
        ) as sandbox:
            walks = Walks(sandbox)
            resent, retried = 0, 0

            def count(event: Event) -> None:
                nonlocal resent, retried
                resent += event.resent if isinstance(event, ResponseReceived) else 0
                retried += isinstance(event, RetryScheduled)

            async with connect(sandbox, on_event=count) as truto:
                await walks.walk_all(truto, sandbox.account_ids)
            walks.check(sandbox.account_ids, 100)
            resets = sum(record.fault == "reset_every" for record in sandbox.requests)
            assert resets > 50 * size / every / 2
            assert resent > 0
            # Every reset led to one resend by aiohttp or one retry, and to nothing else.
            assert sandbox.stats.requests - resets == 50 * size
            assert resets <= resent + 2 * retried
            report(capsys, good=50 * size, resets=resets, resent=resent, retried=retried)

    run_load(main())


def test_without_retries_every_request_is_sent_once() -> None:
    """``RetryPolicy.none()`` promises that; aiohttp must not resend on a dead idle connection either."""

    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        await truto.interactions.list(account, **WINDOW)
        with pytest.raises(ConnectError):
            await truto.interactions.list(account, **WINDOW)
        assert len(sandbox.requests) == 2

    tell(story, client={"retry": RetryPolicy.none()}, reset_every=2)


# The first three of these also run by default.
OUTAGES = {
    "500": Fault.status(500),
    "reset": Fault.reset(),
    "silence": Fault.hang(),
    "503": Fault.status(503, retry_after=0),
    "429": Fault.status(429),
    "html": Fault.html(status=502),
    "reset late": Fault.reset(after=150),
    "disconnect": Fault.disconnect(),
    "cut": Fault.truncate("length"),
    "half a json": Fault.truncate("json"),
}


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *(pytest.param(kind, 500, id=f"{kind}-quick") for kind in list(OUTAGES)[:3]),
        *(pytest.param(kind, 3000, id=f"{kind}-full", marks=pytest.mark.long) for kind in OUTAGES),
    ],
)
def test_a_total_outage_meets_hardly_more_than_the_calls_themselves(
    size: int, kind: str, capsys: Any
) -> None:
    """Retries must not overload a service that recovers: at most 20 % extra requests, resends included."""

    async def call(truto: TrutoClient, account: str) -> bool:
        try:
            await truto.interactions.list(account, **WINDOW)
        except (APIError, TransportError):
            return False
        return True

    async def main() -> None:
        async with Sandbox(accounts=1, interactions=2, **UNLIMITED) as sandbox, connect(sandbox) as truto:
            [account] = sandbox.account_ids
            # A pool full of used connections: resends because they are dead count too.
            assert all(await asyncio.gather(*(call(truto, account) for _ in range(100))))
            sandbox.clear()
            sandbox.script(None, [OUTAGES[kind].forever()])
            hasty = truto.with_options(timeouts=Timeouts(attempt=0.2)) if kind == "silence" else truto
            assert not any(await asyncio.gather(*(call(hasty, account) for _ in range(size))))
            requests = sandbox.stats.requests
            assert requests <= 1.2 * size
            assert requests >= size or kind == "silence"  # some of those were never sent
            sandbox.clear_faults()
            assert await call(truto, account)
            report(capsys, calls=size, requests=requests, extra=f"{requests / size - 1:.1%}")

    run_load(main())


# Retry-After


# The fault, how far the server's clock is ahead, and how long to wait.
ASKED_TO_WAIT = [
    (Fault.status(429, retry_after=0), 0, 0.0),
    (Fault.status(429), 0, 0.0),
    (Fault.status(429, retry_after="soon"), 0, 0.0),
    (Fault.status(429, retry_after="-5"), 0, 0.0),
    (Fault.status(429, retry_after="Fri, 99 Foo 2024 00:00:00 GMT"), 0, 0.0),
    (Fault.status(429, retry_after="1e400"), 0, 0.0),
    (Fault.status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), 0, 0.0),
    (Fault.status(429, retry_after=0.3), 0, 0.3),
    (Fault.status(429, retry_after=1, retry_as_date=True), 0, 1.0),
    (Fault.status(429, retry_after=1, retry_as_date=True), 120, 1.0),
    (Fault.status(429, retry_after=1, retry_as_date=True), -120, 1.0),
    (Fault.status(503, retry_after=0.3), 0, 0.3),
]


@pytest.mark.parametrize("pacing", [Pacing(), Pacing.off()], ids=["paced", "unpaced"])
def test_a_wait_that_the_service_asks_for_is_kept(pacing: Pacing) -> None:
    """Never too early, whatever the two clocks say, and not later than the jitter."""
    jitter = 0.01

    async def ask(fault: Fault, skew: float, wait: float) -> None:
        events: list[Event] = []
        async with Sandbox(accounts=1, date_skew=skew, **UNLIMITED) as sandbox:
            [account] = sandbox.account_ids
            sandbox.script(account, [fault])
            retry = RetryPolicy(throttle_base=jitter)
            async with connect(sandbox, retry=retry, pacing=pacing, on_event=events.append) as truto:
                await truto.interactions.list(account, **WINDOW)
            [retried] = [event for event in events if isinstance(event, RetryScheduled)]
            assert wait <= retried.wait <= wait + jitter
            first, second = sandbox.requests
            assert second.time - first.time >= wait

    async def main() -> None:
        await asyncio.gather(*(ask(*case) for case in ASKED_TO_WAIT))

    run(main())


@pytest.mark.parametrize("as_date", [False, True])
def test_a_wait_beyond_the_limit_is_told_at_once(as_date: bool) -> None:
    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.status(429, retry_after=86_400, retry_as_date=as_date)])
        started = time.monotonic()
        with pytest.raises(RateLimitError) as caught:
            await truto.interactions.list(account, **WINDOW)
        assert time.monotonic() - started < GRACE
        assert caught.value.retry_after == pytest.approx(86_400, abs=1)
        assert len(sandbox.requests) == 1

    tell(story, client={"retry": RetryPolicy()}, date_skew=120)


# Deadlines


async def never_read(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.get_running_loop().create_future()


async def silent(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await server.head(reader)
    await reader.read()


def stops_after(answer: bytes) -> Any:
    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(answer)
        await reader.read()

    return handle


def drips(answer: bytes, at_once: int = 0) -> Any:
    """Send one byte every 20 ms, after the first ``at_once`` bytes."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(answer[:at_once])
        for byte in answer[at_once:]:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.02)

    return handle


PAGE = b'{"result":[{"id":"a"},{"id":"b"}],"next_cursor":null}'
HEAD = OK + b"Content-Length: 1000\r\n\r\n"
TARPITS = {
    "accepts and does not read": never_read,
    "silence": silent,
    "half a head": stops_after(OK + b"X-Half"),
    "a head": stops_after(HEAD),
    "half a body": stops_after(HEAD + PAGE[:40]),
    "half the chunks": stops_after(in_chunks(PAGE, 10)[:-20]),
    "dripping head": drips(OK + b"X-Long: " + b"x" * 1000),
    "dripping body": drips(HEAD + b" " * 1000, len(HEAD)),
    "dripping chunks": drips(in_chunks(b" " * 200, 1), 60),
    "dripping 100s": drips(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
}
# For a stream the total ends with the headers, since only its consumer knows how long it may take.
ENDLESS_FOR_STREAMS = {"dripping body", "dripping chunks"}


async def ends_in_time(call: Callable[[], Awaitable[object]], limit: float) -> tuple[str, float]:
    """Make a call that cannot succeed; return the deadline that ended it, and by how many seconds it was missed."""
    started = time.monotonic()
    with pytest.raises(DeadlineError) as caught:
        await call()
    late = time.monotonic() - started - limit
    assert late < GRACE, f"{late:.2f} s late, by the {caught.value.deadline} deadline"
    return caught.value.deadline, late


def calls_of(truto: TrutoClient, *, streams: bool) -> list[Callable[[], Awaitable[object]]]:
    async def stream() -> None:
        async with truto.interactions.stream("a", **WINDOW) as items:
            async for _ in items:
                pass

    return [
        lambda: truto.interactions.list("a", **WINDOW).page(),
        lambda: truto.interactions.list("a", **WINDOW).collect(),
        lambda: truto.integrated_accounts.capabilities("a"),
        lambda: truto.integrated_accounts.create_token("a"),
        *([stream] if streams else []),
    ]


@pytest.mark.parametrize("tarpit", TARPITS)
@sizes(1, 4)
def test_every_call_ends_by_its_deadline(size: int, tarpit: str, capsys: Any) -> None:
    lates: list[float] = []
    plans = [
        (RetryPolicy.none(), Timeouts(read=0.2, attempt=0.3, total=None), 0.3),
        (QUICK_RETRY, Timeouts(read=0.2, attempt=0.3, total=0.5), 0.5),
        (QUICK_RETRY, Timeouts(connect=None, read=None, attempt=None, total=0.3), 0.3),
    ]

    async def hold_out(server: RawServer, retry: RetryPolicy, timeouts: Timeouts, limit: float) -> None:
        async with TrutoClient(
            TOKEN, base_url=server.url, timeouts=timeouts, retry=retry, max_connections=1000
        ) as truto:
            streams = tarpit not in ENDLESS_FOR_STREAMS and timeouts.read is not None
            calls = calls_of(truto, streams=streams) * size
            if streams and retry is QUICK_RETRY:
                limit += 0.2  # the last body may have been opened just in time, and is then waited for
            ended = await asyncio.gather(*(ends_in_time(call, limit) for call in calls))
            assert {deadline for deadline, _ in ended} <= {"read", "attempt", "total"}
            lates.extend(late for _, late in ended)

    async def main() -> None:
        async with serving(TARPITS[tarpit]) as server:
            await asyncio.gather(*(hold_out(server, *plan) for plan in plans))

    run_load(main())
    report(capsys, calls=len(lates), latest=f"{max(lates):.2f} s")


@pytest.mark.skipif(
    sys.platform != "linux", reason="how full a queue of connections gets is the system's affair"
)
def test_a_listener_that_accepts_nobody() -> None:
    """The system makes the first connections, which then wait; it does not make any more."""

    async def main() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(2)
            timeouts = Timeouts(connect=0.3, read=0.3, attempt=None, total=None)
            async with TrutoClient(
                TOKEN,
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
                timeouts=timeouts,
                retry=RetryPolicy.none(),
            ) as truto:
                calls = calls_of(truto, streams=True) * 3
                ended = await asyncio.gather(*(ends_in_time(call, 0.6) for call in calls))
                assert {deadline for deadline, _ in ended} == {"connect", "read"}

    run_load(main())


def test_a_call_that_waits_for_a_place_ends_in_time_too() -> None:
    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.script(account, [Fault.hang().forever()])
        calls = [lambda: truto.interactions.list(account, **WINDOW).page()] * 3
        ended = await asyncio.gather(*(ends_in_time(call, 0.3) for call in calls))
        assert {deadline for deadline, _ in ended} == {"total"}

    tell(story, client={"max_connections": 1, "timeouts": Timeouts(total=0.3)})


# Bodies


def answers_with(data: list[bytes], *, rst: bool = False) -> Any:
    """Send the item that is first in ``data`` by then, and close the connection."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(data[0])
        if rst:
            await turns(3)
            reset(writer)

    return handle


ZIPPED = gzip.compress(PAGE, mtime=0)
GZIP_HEADER = b"Content-Encoding: gzip"
FRAMINGS: dict[str, Callable[[], list[bytes]]] = {
    "plain": lambda: _cuts(with_length(PAGE)),
    "chunked": lambda: _cuts(in_chunks(PAGE, 20)),
    "gzip": lambda: _cuts(with_length(ZIPPED, GZIP_HEADER)),
    "gzip in chunks": lambda: _cuts(in_chunks(ZIPPED, 20, GZIP_HEADER)),
    "gzip, cut inside whole http": lambda: [
        in_chunks(ZIPPED[:end], 20, GZIP_HEADER) for end in range(1, len(ZIPPED) + 1)
    ],
    "json, cut inside whole http": lambda: [with_length(PAGE[:end]) for end in range(1, len(PAGE) + 1)],
    "until the end": lambda: _cuts(OK + b"Connection: close\r\n\r\n" + PAGE),
}


def _cuts(answer: bytes) -> list[bytes]:
    return [answer[:end] for end in range(len(answer) + 1)]


async def _ids_of_a_page(truto: TrutoClient) -> list[str | None]:
    return [item.id for item in await truto.interactions.list("a", **WINDOW)]


async def _ids_of_a_stream(truto: TrutoClient) -> list[str | None]:
    """Items are returned as they arrive; what matters is that the early end raises an error."""
    async with truto.interactions.stream("a", **WINDOW) as items:
        return [item.id async for item in items]


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("ids", [_ids_of_a_page, _ids_of_a_stream])
def test_a_page_cut_at_any_byte_is_never_a_part_of_a_page(framing: str, rst: bool, ids: Any) -> None:
    """The whole page, or an error that says that it was truncated."""
    data = [b""]

    async def main() -> None:
        async with (
            serving(answers_with(data, rst=rst)) as server,
            TrutoClient(TOKEN, base_url=server.url, retry=RetryPolicy.none(), pacing=Pacing.off()) as truto,
        ):
            *cuts, whole = FRAMINGS[framing]()
            whole_ones = 0
            for cut in cuts:
                data[0] = cut
                try:
                    found = await ids(truto)
                    if cut.endswith(b"Content-Length: 0\r\n\r\n"):
                        assert found == []  # a body that is announced as empty, not a truncated one
                        continue
                    assert found == ["a", "b"]
                except TransportError:
                    continue
                finally:
                    await turns()  # the client has noticed the end of this connection
                whole_ones += 1
            assert (
                whole_ones <= 5
            )  # the end of the HTTP framing may be missing, which is not part of the page
            assert len(server.heads) == len(cuts)  # RetryPolicy.none(): each request was sent once
            if not rst:
                data[0] = whole
                assert await ids(truto) == ["a", "b"]

    run_load(main())


@pytest.mark.parametrize(
    "garbage", [b"\r\n", b"garbage", b"{}\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", PAGE, b"\0" * 99]
)
@pytest.mark.parametrize("where", ["after the answer", "in the body", "after the gzip"])
def test_garbage_after_a_page_is_dropped_or_told(where: str, garbage: bytes) -> None:
    answer = {
        "after the answer": with_length(PAGE) + garbage,
        "in the body": with_length(PAGE + garbage),
        "after the gzip": with_length(ZIPPED + garbage, GZIP_HEADER),
    }[where]

    async def main() -> None:
        async with (
            serving(answers_with([answer])) as server,
            TrutoClient(TOKEN, base_url=server.url, retry=RetryPolicy.none()) as truto,
        ):
            for _ in range(3):
                try:
                    page = await truto.interactions.list("a", **WINDOW)
                except TrutoError:
                    continue
                assert [item.id for item in page] == ["a", "b"]

    run(main())


CODINGS = ["gzip", "deflate", "br", "zstd"]
BOMB_PROGRAM = """
import asyncio, json, sys, time
from truto_ci_async import BodyTooLargeError, Pacing, TrutoClient

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) / 1024

async def main(url, token, account, limit, way):
    window = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
    longest = 0.0
    async def watch():
        nonlocal longest
        at = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, at = max(longest, now - at), now
    async with TrutoClient(token, base_url=url, max_body_bytes=limit, pacing=Pacing.off()) as truto:
        await truto.interactions.list(account, **window)  # warm-up: everything is imported and connected
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak
        before = status("VmRSS")
        watching = asyncio.create_task(watch())
        read, error = 0, ""
        try:
            if way == "list":
                await truto.interactions.list(account, **window)
            else:
                async with truto.interactions.stream(account, **window) as stream:
                    async for chunk in stream.chunks():
                        read += len(chunk)
        except BodyTooLargeError as problem:
            error = type(problem).__name__
        watching.cancel()
        print(json.dumps({"error": error, "read": read, "peak": status("VmHWM") - before, "longest": longest}))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
@pytest.mark.parametrize(
    ("coding", "way", "size"),
    [
        *(pytest.param(coding, "list", (100_000_000, 16), id=f"{coding}-quick") for coding in CODINGS),
        pytest.param("gzip", "stream", (100_000_000, 16), id="gzip-stream-quick"),
        *(
            pytest.param(coding, way, (600_000_000, 64), id=f"{coding}-{way}-full", marks=pytest.mark.long)
            for coding in CODINGS
            for way in ("list", "stream")
        ),
    ],
)
def test_a_compression_bomb_costs_no_more_than_the_limit(
    size: tuple[int, int], coding: Any, way: str, capsys: Any
) -> None:
    """In a separate process, to measure its peak memory and the longest step of its loop."""
    length, cap = size
    pytest.importorskip({"br": "brotli", "zstd": ZSTD_MODULE}.get(coding, "zlib"))
    with Sandbox.in_thread(accounts=1, interactions=2, **UNLIMITED) as sandbox:
        [account] = sandbox.account_ids
        sandbox.script(account, [Fault.ok(), Fault.bomb(coding, length)])
        done = subprocess.run(
            [sys.executable, "-c", BOMB_PROGRAM, sandbox.url, TOKEN, account, str(cap * 2**20), way],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONDEVMODE": "", "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if way == "list":
        assert found["error"] == "BodyTooLargeError"
        assert found["peak"] <= cap + 32
    else:
        assert (found["error"], found["read"]) == ("", length)
        assert found["peak"] <= 32
    assert found["longest"] <= 0.02
    report(capsys, peak=f"{found['peak']:.1f} MB", longest=f"{found['longest'] * 1000:.1f} ms")


def test_a_large_page_lets_the_loop_breathe() -> None:
    """A page of several megabytes is decoded in slices, since other tasks have deadlines too."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        at = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, at = max(longest, now - at), now

    item = b'{"id":"%d","timezone":"UTC","remote_data":{"x":"%s"}}'
    items = b",".join(item % (number, b"y" * 200) for number in range(30_000))
    body = b'{"result":[%b],"next_cursor":null}' % items

    async def main() -> None:
        async with (
            serving(answers_with([with_length(body)])) as server,
            TrutoClient(TOKEN, base_url=server.url) as truto,
        ):
            watching = asyncio.create_task(watch())
            page = await truto.interactions.list("a", **WINDOW)
            watching.cancel()
            assert [item.id for item in page] == [str(number) for number in range(30_000)]
            assert longest < 0.04

    run_load(main())


# Cancelling


def held(truto: TrutoClient, tasks: set[asyncio.Task[Any]]) -> list[str]:
    """Return what a client still holds, apart from idle connections."""
    transport, limiter = truto._transport, truto.admission.limiter
    found = {
        "a place": transport._slots is not None and transport._slots._value != transport.max_connections,
        "a body": transport._open_responses,
        "a connection": transport._pool is not None and transport._pool._acquired,
        "a slot": limiter._token.in_flight
        or any(state.window.in_flight for state in limiter._accounts.values()),
        "a waiter": limiter.waiting,
        "a deadline": truto._in_flight,
        "a task": len(truto._tasks) or own_tasks() - tasks,
    }
    return [f"{name}: {what}" for name, what in found.items() if what]


def own_tasks() -> set[asyncio.Task[Any]]:
    """Return all tasks except this one and those of the server, which end with their connection."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return {task for task in tasks if "RequestHandler" not in repr(task.get_coro())}


Call = Callable[[Sandbox, TrutoClient, str], Awaitable[object]]


async def _page(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    return await truto.interactions.list(account, **WINDOW)


async def _collect(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    return await truto.interactions.list(account, **WINDOW).collect()


async def _keyed(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    return await truto.interactions.keyed(account, **WINDOW)


async def _token(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    return await truto.integrated_accounts.create_token(account)


async def _stream(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    async with truto.interactions.stream(account, limit=3, **WINDOW) as stream:
        return [item async for item in stream]


async def _retried(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    sandbox.clear_faults()
    faults = [
        Fault.status(500),
        Fault.status(429, retry_after=0),
        Fault.truncate("gzip"),
        Fault.reset(after=200),
    ]
    sandbox.script(account, faults)
    return await _page(sandbox, truto, account)


async def _queued(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    return await asyncio.gather(*(_page(sandbox, truto, account) for _ in range(3)))


async def _fresh(sandbox: Sandbox, truto: TrutoClient, account: str) -> object:
    async with connect(sandbox) as fresh:
        return await _page(sandbox, fresh, account)


async def _save(sandbox: Sandbox, truto: TrutoClient, account: str, folder: Path) -> object:
    async with truto.interactions.stream(account, **WINDOW) as stream:
        return await stream.save(folder / "body.json")


async def asked_token() -> str:
    await asyncio.sleep(0)
    return TOKEN


# The call, and the options of the client and the sandbox for it.
SWEEPS: dict[str, tuple[Call, dict[str, Any], dict[str, Any]]] = {
    "a page": (_page, {}, {}),
    "a large page": (_page, {}, {"interactions": 3000, "page_size": 3000, "max_page_size": 3000}),
    "a walk": (_collect, {}, {}),
    "a keyed walk": (_keyed, {}, {}),
    "a post": (_token, {}, {}),
    "a stream": (_stream, {}, {}),
    "a first connection": (_fresh, {}, {}),
    "faults": (_retried, {"retry": RetryPolicy(fault_base=0, throttle_base=0)}, {}),
    "dead connections": (_collect, {}, {"reset_every": 2}),
    "too few connections": (_queued, {"max_connections": 1}, {}),
    "pacing": (_queued, {"pacing": Pacing(token=Rate(2, 0.005), account=Rate(1, 0.0025))}, {}),
    "a token that is asked for": (_page, {"token": asked_token}, {}),
}
STRIDES = {"pacing": 2, "a large page": 3}  # most of their turns are alike


async def sweep(truto: TrutoClient, call: Callable[[], Awaitable[object]], stride: int) -> int:
    """Cancel a call after 0, 1, 2, … turns of the loop, until it finishes first; return how many were cancelled."""
    before = own_tasks()
    for count in itertools.count(1):
        task = asyncio.ensure_future(call())
        await turns((count - 1) * stride)
        if task.done():
            assert task.result() is not None
            return count
        task.cancel("the caller's own")
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.wait_for(asyncio.shield(asyncio.wait({task})), 5)
            task.result()
        assert caught.value.args == ("the caller's own",)
        await turns(3)  # for tasks that were cancelled
        assert held(truto, before) == []
    raise AssertionError


@pytest.mark.parametrize("name", SWEEPS)
def test_a_call_cancelled_at_any_step_leaves_nothing(name: str) -> None:
    call, options, sandbox_options = SWEEPS[name]
    served: dict[str, Any] = {"interactions": 9, "page_size": 3, "compress": "gzip", **UNLIMITED}

    async def main() -> None:
        async with Sandbox(accounts=1, **(served | sandbox_options)) as sandbox:
            settings = {"pacing": Pacing.off(), "retry": QUICK_RETRY, "token": TOKEN} | options
            async with TrutoClient(base_url=sandbox.url, **settings) as truto:
                [account] = sandbox.account_ids
                again = functools.partial(call, sandbox, truto, account)
                steps = await sweep(truto, again, STRIDES.get(name, 1))
                assert steps > 5
                found = await truto.interactions.list(account, **WINDOW).collect()
                assert len(found) == len(sandbox.expected(account, **WINDOW))
            assert sandbox._connections is not None
            await turns()
            assert sandbox._connections.open == {}

    before = open_files()
    run_load(main())
    assert open_files() == before


def test_a_file_cancelled_at_any_step_is_whole_or_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Sandbox(accounts=1, interactions=500, page_size=500, max_page_size=500, **UNLIMITED) as sandbox,
            connect(sandbox) as truto,
        ):
            [account] = sandbox.account_ids
            size = await _save(sandbox, truto, account, tmp_path)
            before = own_tasks()
            for count in itertools.count():
                for left in tmp_path.iterdir():
                    left.unlink()
                task = asyncio.ensure_future(_save(sandbox, truto, account, tmp_path))
                await turns(count * 10)
                if task.done():
                    break
                task.cancel()
                await asyncio.wait({task}, timeout=5)
                assert task.done()
                await turns(3)
                assert held(truto, before) == []
                assert {left.name: left.stat().st_size for left in tmp_path.iterdir()} in (
                    {},
                    {"body.json": size},
                )

    run_load(main())


def open_files() -> int:
    gc.collect()
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


class MineError(Exception):
    """An exception of the caller."""


@asynccontextmanager
async def _of_stream(truto: TrutoClient, account: str, how: str) -> AsyncIterator[AsyncIterator[Any]]:
    async with truto.interactions.stream(account, limit=3, **WINDOW) as stream:
        yield aiter(stream) if how == "items" else stream.batches() if how == "batches" else stream.chunks()


@asynccontextmanager
async def _of_walk(iterator: Any) -> AsyncIterator[AsyncIterator[Any]]:
    yield aiter(iterator)


ITERATORS: dict[str, Callable[[TrutoClient, str], Any]] = {
    "items": lambda truto, account: _of_walk(truto.interactions.list(account, **WINDOW)),
    "pages": lambda truto, account: _of_walk(truto.interactions.list(account, **WINDOW).pages()),
    "raw": lambda truto, account: _of_walk(truto.interactions.raw(account, **WINDOW)),
    "accounts": lambda truto, account: _of_walk(truto.integrated_accounts.list(limit=1)),
    "stream items": lambda truto, account: _of_stream(truto, account, "items"),
    "stream batches": lambda truto, account: _of_stream(truto, account, "batches"),
    "stream chunks": lambda truto, account: _of_stream(truto, account, "chunks"),
}


@pytest.mark.parametrize(
    "way_out", [None, MineError("mine"), KeyboardInterrupt("mine"), SystemExit(3)], ids=repr
)
@pytest.mark.parametrize("name", ITERATORS)
def test_every_way_out_of_a_loop_closes_what_it_opened(name: str, way_out: BaseException | None) -> None:
    """None stands for ``break``. An exception from the body of the loop arrives unchanged."""

    async def main() -> None:
        async with Sandbox(accounts=3, interactions=9, page_size=3, stream_piece=64, **UNLIMITED) as sandbox:
            account = sandbox.account_ids[0]
            async with connect(sandbox) as truto:
                tasks = own_tasks()
                await _page(sandbox, truto, account)
                for steps in range(3):
                    seen = 0
                    try:
                        async with ITERATORS[name](truto, account) as iterator:
                            async for _ in iterator:
                                seen += 1
                                await turns(steps * 3)  # the prefetch is at another point each time
                                if way_out is None:
                                    break
                                raise way_out
                        came: BaseException | None = None
                    except (MineError, KeyboardInterrupt, SystemExit) as error:
                        came = error.with_traceback(None)  # otherwise it holds the iterator
                    assert came is way_out
                    assert seen == 1
                    iterator = None
                    await turns()
                    assert held(truto, tasks) == []
            assert sandbox._connections is not None
            await turns()
            assert sandbox._connections.open == {}

    before = open_files()
    run(main())
    assert open_files() == before


INTERRUPTED_PROGRAM = """
import asyncio, sys
from truto_ci_async import TrutoClient
window = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
async def main(url, token, account):
    async with TrutoClient(token, base_url=url) as truto:
        async with truto.interactions.stream(account, **window) as stream:
            async for _ in stream:
                break
            async for page in truto.interactions.list(account, **window).pages():
                print("ready", flush=True)
                await asyncio.Event().wait()
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_in_the_middle_leaves_nothing_to_complain_about() -> None:
    with Sandbox.in_thread(accounts=1, interactions=9, page_size=3, **UNLIMITED) as sandbox:
        with subprocess.Popen(
            [
                sys.executable,
                "-X",
                "dev",
                "-c",
                INTERRUPTED_PROGRAM,
                sandbox.url,
                TOKEN,
                sandbox.account_ids[0],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        assert process.returncode in (-signal.SIGINT, 130)
        assert said.rstrip().endswith("KeyboardInterrupt")
        for word in ("Warning", "never", "destroyed", "unclosed", "ExceptionGroup", TOKEN):
            assert word not in said


# Redirects, .netrc, proxies


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("way", [_page, _stream, _token])
def test_a_redirect_is_an_error_and_the_other_place_hears_nothing(code: int, way: Call) -> None:
    """It would get the token."""

    async def main() -> None:
        async with serving(answers_with([with_length(PAGE)])) as elsewhere:

            async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
                sandbox.script(None, [Fault.redirect(f"{elsewhere.url}/stolen", code)])
                with pytest.raises(ServerError, match="redirect") as caught:
                    await way(sandbox, truto, account)
                assert caught.value.status == code
                assert len(sandbox.requests) == 1
                assert elsewhere.connections == 0

            async with Sandbox(accounts=1, **UNLIMITED) as sandbox, connect(sandbox) as truto:
                await story(sandbox, truto, sandbox.account_ids[0])

    run(main())


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a password for every host."""
    (tmp_path / ".netrc").write_text("default login user password tell-nobody\n", encoding="utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


@pytest.mark.usefixtures("netrc")
def test_a_netrc_changes_nothing() -> None:
    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        await truto.interactions.list(account, **WINDOW)
        assert sandbox.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"

    tell(story)


@pytest.mark.usefixtures("netrc")
def test_a_session_that_reads_a_netrc_is_told_so() -> None:
    """aiohttp raises a ValueError for each request, which would not help the caller."""

    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        async with aiohttp.ClientSession(trust_env=True) as session:
            for way in (_page, _stream):
                with pytest.raises(ConfigurationError, match="trust_env"):
                    await way(sandbox, connect(sandbox, session=session), account)
        assert sandbox.requests == []

    tell(story)


class Proxy:
    """A handler for a proxy, with tunnels and plain requests. It refuses both if ``status`` is not 200."""

    def __init__(self, status: int = 200) -> None:
        self.status = status

    async def __call__(
        self, server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        server.heads.append(head)
        if self.status != 200:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.status)
            return
        method, target, _ = head.split(b" ", 2)
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await tunnel(reader, writer, int(target.rpartition(b":")[2]))
            return
        host, _, path = target.removeprefix(b"http://").partition(b"/")
        to, out = await asyncio.open_connection("127.0.0.1", int(host.rpartition(b":")[2]))
        out.write(head.replace(target, b"/" + path, 1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.write(await to.read())
        out.close()


@asynccontextmanager
async def over_tls(sandbox: Sandbox) -> AsyncIterator[RawServer]:
    """Put TLS in front of a sandbox."""
    port = int(sandbox.url.rpartition(":")[2])

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await tunnel(reader, writer, port)

    async with serving(handle, tls=server_context()) as front:
        yield front


def test_a_plain_request_goes_through_a_proxy() -> None:
    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        async with serving(Proxy()) as proxy, connect(sandbox, proxy=proxy.url) as through:
            assert len(await through.interactions.list(account, **WINDOW)) == 5
            assert proxy.heads[0].startswith(b"GET http://127.0.0.1:")
            assert len(proxy.heads) == len(sandbox.requests) == 1

    tell(story)


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("way", [_collect, _stream])
def test_tls_goes_through_a_proxy_that_learns_nothing(way: Call, proxy_tls: bool) -> None:
    """With a custom certificate authority, and a password for the proxy, which must not see the token."""

    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        tls = server_context() if proxy_tls else None
        async with over_tls(sandbox) as front, serving(Proxy(), tls=tls) as proxy:
            url = proxy.url.replace("://", "://user:p%40ss@")
            async with TrutoClient(
                TOKEN, base_url=front.url, proxy=url, ssl_context=client_context()
            ) as through:
                assert len(await way(sandbox, through, account)) == 12  # type: ignore[arg-type]
            head = proxy.heads[0]
            assert head.startswith(b"CONNECT 127.0.0.1:")
            assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in head
            assert TOKEN.encode() not in b"".join(proxy.heads)
            assert not any("Proxy-Authorization" in record.headers for record in sandbox.requests)

    tell(story)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HTTPS_PROXY": "right", "HTTP_PROXY": "wrong"}, 1),
        ({"https_proxy": "right"}, 1),
        ({"ALL_PROXY": "right", "HTTP_PROXY": "wrong"}, 1),
        ({"HTTPS_PROXY": "right", "NO_PROXY": "127.0.0.1"}, 0),
        ({"HTTPS_PROXY": "right", "NO_PROXY": "example.com"}, 1),
        ({"HTTP_PROXY": "wrong"}, 0),
    ],
)
def test_the_environment_says_which_proxy(
    environment: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        async with over_tls(sandbox) as front, serving(Proxy()) as right, serving(Proxy()) as wrong:
            for name, which in environment.items():
                monkeypatch.setenv(name, {"right": right.url, "wrong": wrong.url}.get(which, which))
            async with TrutoClient(TOKEN, base_url=front.url, ssl_context=client_context()) as through:
                await through.interactions.list(account, **WINDOW)
            assert (len(right.heads), len(wrong.heads)) == (expected, 0)
            assert len(sandbox.requests) == 1

    tell(story)


@pytest.mark.parametrize(
    ("scheme", "status", "attempts", "words"),
    [
        (
            "http",
            407,
            1,
            "user and password",
        ),  # a 407 is always the proxy's; other statuses may be the service's
        ("https", 407, 1, "user and password"),
        ("https", 403, 1, "403"),
        ("https", 502, 3, "502"),
        ("https", 503, 3, "503"),
    ],
)
def test_a_proxy_that_refuses_says_so(scheme: str, status: int, attempts: int, words: str) -> None:
    async def main() -> None:
        async with (
            serving(Proxy(status)) as proxy,
            TrutoClient(
                TOKEN,
                base_url=f"{scheme}://truto.invalid",
                proxy=proxy.url,
                retry=RetryPolicy(attempts=3, fault_base=0),
            ) as truto,
        ):
            with pytest.raises(ConnectError, match=words) as caught:
                await truto.interactions.list("a", **WINDOW)
            assert "proxy" in str(caught.value)
            assert caught.value.attempts == attempts == len(proxy.heads)

    run(main())


def test_a_proxy_that_is_not_there_is_named() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            proxy = f"http://127.0.0.1:{taken.getsockname()[1]}"
            async with TrutoClient(
                TOKEN, base_url="https://truto.invalid", proxy=proxy, retry=RetryPolicy.none()
            ) as truto:
                with pytest.raises(ConnectError, match="the proxy cannot be reached"):
                    await truto.interactions.list("a", **WINDOW)

    run(main())


def test_a_certificate_nobody_vouches_for_is_refused_once() -> None:
    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        async with over_tls(sandbox) as front, TrutoClient(TOKEN, base_url=front.url) as distrustful:
            asyncio.get_running_loop().set_exception_handler(
                lambda *_: None
            )  # the server's complaint about the handshake
            with pytest.raises(ConnectError, match="ssl_context") as caught:
                await distrustful.interactions.list(account, **WINDOW)
            assert caught.value.is_permanent
            assert caught.value.attempts == 1
            assert sandbox.requests == []

    tell(story)


# Secrets

# A global, since tracebacks show the variables of functions.
SECRETS = {"token": "tok-5b6f2a9e-never-seen", "proxy": "pass-77aa41-never-seen"}


def said_by(error: BaseException) -> Iterator[str]:
    """Return everything that an error shows: itself, its causes, and tracebacks with variables."""
    yield "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format(chain=True))
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        yield f"{each} {each!r} {each.args!r} {vars(each)!r}"


RAW_FAILURES: dict[str, Any] = {
    "no http": answers_with([b"HELLO\r\n\r\n"]),
    "nothing": answers_with([b""]),
    "a reset": answers_with([b""], rst=True),
    "half a body": answers_with([HEAD + PAGE]),
    "a broken chunk": answers_with([OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n"]),
    "no json": answers_with([with_length(b"<html>")]),
    "401": answers_with([b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"]),
    "407": answers_with([b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"]),
    "302": answers_with([b"HTTP/1.1 302 No\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n"]),
    "silence": silent,
    # The service repeats the token.
    **{
        name: answers_with([answer.replace(b"TOKEN", SECRETS["token"].encode())])
        for name, answer in {
            "location": b"HTTP/1.1 302 No\r\nLocation: http://x/?t=TOKEN\r\nContent-Length: 0\r\n\r\n",
            "header": b"HTTP/1.1 401 No\r\nX-Sent: Bearer TOKEN\r\nX-T: TOKEN\r\nContent-Length: 0\r\n\r\n",
            "reason": b"HTTP/1.1 500 Bearer TOKEN\xff\r\nContent-Length: 0\r\n\r\n",
            "proxy's reason": b"HTTP/1.1 407 TOKEN\r\nX-Sent: TOKEN\r\nContent-Length: 0\r\n\r\n",
            "body": b"HTTP/1.1 400 No\r\nContent-Length: 42\r\n\r\n{'sent': 'Bearer TOKEN', 'b'}",
            "status line": b"HTTP/1.1 TOKEN\r\n\r\n",
            "broken header": b"HTTP/1.1 200 OK\r\nBearer TOKEN\r\n\r\n",
            "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\nTOKEN\r\n",
        }.items()
    },
    **{
        name: answers_with([with_length(body.replace(b"TOKEN", SECRETS["token"].encode()))])
        for name, body in {
            "repeated in no JSON": b'{"result": TOKEN}',
            "repeated in a key": b'{"TOKEN": "TOKEN"}',
            "repeated in a cursor": b'{"result": [], "next_cursor": {"TOKEN": 1}}',
            "repeated before bad UTF-8": b'{"TOKEN": "\xff"}',
            "repeated in half a body": b'{"result": [{"TOKEN": "TOK',
            "cut in an excerpt": b'{"results of yesterday": [TOKEN]}',
        }.items()
    },
}


@pytest.mark.parametrize(
    "failure", [*RAW_FAILURES, "no one", "no proxy", "proxy says no", "proxy is no http"]
)
@pytest.mark.parametrize("way", [_page, _stream, _token])
def test_the_token_is_nowhere_to_be_seen(failure: str, way: Call, caplog: pytest.LogCaptureFixture) -> None:
    """Not in errors, causes, tracebacks with variables, events, logs or reprs. Nor is a proxy's password."""
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    said: list[str] = []

    async def main() -> None:
        handle: Any = RAW_FAILURES.get(failure, Proxy(407))
        if failure == "proxy is no http":
            handle = answers_with([b"HELLO\r\n\r\n"])
        async with serving(handle) as server:
            url, proxy = server.url, None
            if failure == "no one":
                url = "http://127.0.0.1:1"
            elif "proxy" in failure:
                url = "https://truto.invalid"
                port = 1 if failure == "no proxy" else server.port
                proxy = f"http://user:{SECRETS['proxy']}@127.0.0.1:{port}"
            async with TrutoClient(
                SECRETS["token"],
                base_url=url,
                proxy=proxy,
                headers={"X-Team": "a"},
                timeouts=Timeouts(attempt=0.2),
                retry=RetryPolicy(attempts=2, fault_base=0),
                on_event=events.append,
            ) as truto:
                del proxy
                nothing: Any = None
                try:
                    await way(nothing, truto, "a")
                except TrutoError as error:
                    said.extend(said_by(error))
                said.append(repr(truto))
                said.append(repr(truto.interactions.list("a", **WINDOW)))

    run(main())
    assert any(isinstance(event, RequestSent) for event in events)
    said += [f"{event} {event!r}" for event in events]
    said += [f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records]
    assert len(said) > 5
    for secret in SECRETS.values():
        assert [text for text in said if secret in text] == []


def test_what_debug_gives_away_is_nowhere_to_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    """``requestOptions`` holds what was sent to the provider, including credentials."""
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []

    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        page = await truto.interactions.list(account, response_format="debug", **WINDOW)
        assert page.debug is not None
        said = [repr(page), str(page), repr(page.debug), str(page.debug), repr(page.response)]
        said += [f"{event} {event!r}" for event in events]
        said += [record.getMessage() for record in caplog.records]
        for secret in (sandbox.provider_secret, TOKEN):
            assert [text for text in said if secret in text] == []

    tell(story, client={"on_event": events.append})


def test_the_right_token_is_sent_all_the_same() -> None:
    """The tests above would also pass for a client that sends no token."""

    async def story(sandbox: Sandbox, truto: TrutoClient, account: str) -> None:
        sandbox.tokens.append(SECRETS["token"])
        async with TrutoClient(SECRETS["token"], base_url=sandbox.url) as other:
            await _page(sandbox, other, account)
        assert sandbox.requests[0].headers["Authorization"] == f"Bearer {SECRETS['token']}"

    tell(story)

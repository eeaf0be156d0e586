"""A walk over the pages of one account: what does the package add to the least code that could do it?

    plain     100 pages of 100 items over loopback: nothing but the cost of the code
    short     100 pages of 10 items, so of little else than requests
    tls       50 pages of 100 items over TLS, with 20 ms from here to there and back, setting up a connection included
    tls-late  TLS again, with the 20 ms spent by the server before each answer and no distance at all
    slow      a consumer that awaits, for each page, as long as fetching one takes
    busy      a consumer that works for as long, and awaits nothing

The bare loop is what a careful person writes with aiohttp and msgspec (one session, one decoder, the same structs) and
no more: no retries, no deadline of the whole, no guard against a cursor that comes twice, no limits. The package does
all of that, with pacing off. httpx + pydantic and requests + json are what many write; truto-python-sdk is the
service's own. Contenders are processes of their own that take turns, so that a busy machine is busy for all.

    python -m benchmarks.bench_walk --cases plain,tls --pages 100 --items 100 --rounds 9
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Measured, Record
from truto_ci_async.models import Interaction

PATH = "/unified/conversational-intelligence/interactions"
TOKEN = "benchmark-token"
# Seconds from here to there and back.
ROUND_TRIP = 0.02
# What the server of the slow and the busy consumer takes for a page; what a fetch takes in all is measured.
SERVER_TIME = 0.02
SHORT = 10  # items of a page of ``short``


async def await_for(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def work_for(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  # what a consumer does that holds the loop


class Ours:
    async def open(self, stack: AsyncExitStack, url: str) -> None:
        from truto_ci_async import Pacing, TrutoClient

        client = TrutoClient(TOKEN, base_url=url, pacing=Pacing.off())
        self._truto = await stack.enter_async_context(client)

    async def items(self, account: str) -> int:
        count = 0
        async for _ in self._truto.interactions.list(account):
            count += 1
        return count

    async def pages(self, account: str, consume: Callable[[], Awaitable[object]]) -> int:
        count = 0
        async for page in self._truto.interactions.list(account).pages():
            count += len(page)
            await consume()
        return count


class Bare:
    async def open(self, stack: AsyncExitStack, url: str) -> None:
        import aiohttp
        import msgspec

        class Page(msgspec.Struct):
            result: tuple[Interaction, ...]
            next_cursor: str | None = None

        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._decode = msgspec.json.Decoder(Page).decode
        self._session = await stack.enter_async_context(aiohttp.ClientSession(url, headers=headers))

    async def _walk(self, account: str) -> AsyncIterator[tuple[Any, ...]]:
        params = {"integrated_account_id": account}
        while True:
            async with self._session.get(PATH, params=params) as response:
                response.raise_for_status()
                page = self._decode(await response.read())
            yield page.result
            if not page.next_cursor:
                return
            params["next_cursor"] = page.next_cursor

    async def items(self, account: str) -> int:
        count = 0
        async for page in self._walk(account):
            for _ in page:
                count += 1
        return count

    async def pages(self, account: str, consume: Callable[[], Awaitable[object]]) -> int:
        count = 0
        async for page in self._walk(account):
            count += len(page)
            await consume()
        return count


class HttpxPydantic:
    async def open(self, stack: AsyncExitStack, url: str) -> None:
        import httpx

        from benchmarks._pydantic import Page

        self._page = Page
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers))

    async def items(self, account: str) -> int:
        count = 0
        params = {"integrated_account_id": account}
        while True:
            response = await self._client.get(PATH, params=params)
            response.raise_for_status()
            page = self._page.model_validate_json(response.content)
            for _ in page.result:
                count += 1
            if not page.next_cursor:
                return count
            params["next_cursor"] = page.next_cursor


class RequestsJson:
    async def open(self, stack: AsyncExitStack, url: str) -> None:
        import requests

        self._url = url + PATH
        self._session = stack.enter_context(requests.Session())
        self._session.headers["Authorization"] = f"Bearer {TOKEN}"

    async def items(self, account: str) -> int:  # not async at all: it has the process for itself
        count = 0
        params = {"integrated_account_id": account}
        while True:
            response = self._session.get(self._url, params=params)
            response.raise_for_status()
            page = response.json()
            for _ in page["result"]:
                count += 1
            if not page["next_cursor"]:
                return count
            params["next_cursor"] = page["next_cursor"]


class TrutoSdk:
    async def open(self, stack: AsyncExitStack, url: str) -> None:
        from truto_python_sdk import TrutoApi

        self._api = TrutoApi(TOKEN, url)

    async def items(self, account: str) -> int:
        count = 0
        filters = {"integrated_account_id": account}
        async for _ in self._api.unified_api.list("conversational-intelligence", "interactions", filters):
            count += 1
        return count


BARE, SDK = "bare aiohttp + msgspec", "truto-python-sdk"
UVLOOP = "ours on uvloop"
CLASSES: dict[str, Any] = {
    OURS: Ours,
    UVLOOP: Ours,
    BARE: Bare,
    "httpx + pydantic": HttpxPydantic,
    "requests + json": RequestsJson,
    SDK: TrutoSdk,
}
CONTENDERS = {  # and the modules they need
    OURS: "",
    UVLOOP: "uvloop",
    BARE: "",
    "httpx + pydantic": "httpx pydantic",
    "requests + json": "requests",
    SDK: "truto_python_sdk",
}
MODULE = "benchmarks.bench_walk"
CASES = ("plain", "short", "tls", "tls-late", "slow", "busy")
GOALS = [
    Goal("walk plain", BARE, "speed", least=0.90 if sys.version_info < (3, 12) else 0.95),
    Goal("walk plain", BARE, "cpu", most=1.10),
    Goal("walk short", BARE, "more_us", most=50),
    Goal("walk plain", SDK, "speed", least=3.0),
    Goal("walk tls", SDK, "speed", least=3.0),
    Goal("walk slow", BARE, "speed", least=1.8),
]


def pages(case: str, options: argparse.Namespace) -> int:
    """Of one walk: half as many where most of the time is waiting."""
    return options.pages if case in ("plain", "short") else max(options.pages // 2, 1)


def account(options: argparse.Namespace) -> str:
    return f"{options.shape}-x{options.items}-p{options.pages}"


def here(options: argparse.Namespace) -> None:
    """Be one contender: a walk whenever asked."""
    contender = CLASSES[options.here]()
    expected = options.pages * options.items
    with asyncio.Runner(loop_factory=loop_factory(options.here)) as runner:
        stack = AsyncExitStack()
        runner.run(contender.open(stack, options.url))

        def walk() -> None:
            asked = account(options)
            consume = partial(work_for if options.busy else await_for, options.pause)
            count = runner.run(contender.pages(asked, consume) if options.pause else contender.items(asked))
            assert count == expected, f"{count} items, where {expected} were expected"

        _turns.serve_turns(walk, collect=options.gc != "off")
        runner.run(stack.aclose())


def loop_factory(contender: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if contender != UVLOOP:
        return None
    import uvloop

    return uvloop.new_event_loop


def run(options: argparse.Namespace) -> list[Record]:
    """Run all cases."""
    found: list[Record] = []
    for case in options.cases.split(","):
        for collect in _turns.collecting(options) if case == "plain" else [options.gc != "off"]:
            _turns.say(f"walk {case}, garbage collector {'on' if collect else 'off'}")
            found += _turns.records(
                f"walk {case}", collect, one_case(case, options, collect=collect), per=pages(case, options)
            )
    return found


def one_case(case: str, options: argparse.Namespace, *, collect: bool) -> dict[str, Measured]:
    contenders = _turns.installed(CONTENDERS, options.contenders)
    items = SHORT if case == "short" else options.items
    given = ["--shape", options.shape, "--pages", str(pages(case, options)), "--items", str(items)]
    given += ["--gc", "on" if collect else "off"]
    if case in ("plain", "short"):
        with _harness.server(pinned=True) as url:
            _harness.warm(url, account(options))
            return _turns.take_turns(MODULE, contenders, [*given, "--url", url], rounds=options.rounds)
    contenders = [name for name in contenders if name != UVLOOP]
    rounds = max(min(3, options.rounds), options.rounds // 3)  # waiting is steadier than working
    if case in ("tls", "tls-late"):
        late = {"latency": SERVER_TIME} if case == "tls-late" else {"round_trip": ROUND_TRIP}
        from tests import certificates

        with tempfile.TemporaryDirectory() as folder:
            chain, authority = Path(folder, "chain.pem"), Path(folder, "authority.pem")
            chain.write_text(certificates.chain(), encoding="ascii")
            authority.write_text(certificates.AUTHORITY, encoding="ascii")
            trust = {"SSL_CERT_FILE": str(authority), "REQUESTS_CA_BUNDLE": str(authority)}
            with _harness.server(certificate=str(chain), pinned=True, **late) as url:
                return _turns.take_turns(
                    MODULE, contenders, [*given, "--url", url], rounds=rounds, environment=trust
                )
    with _harness.server(latency=SERVER_TIME, pinned=True) as url:
        given += ["--url", url]
        one_walk = _turns.take_turns(MODULE, [BARE], given, rounds=1)[BARE]
        fetch = one_walk.typical("seconds") / pages(case, options)
        given += ["--pause", str(fetch)] + (["--busy"] if case == "busy" else [])
        return _turns.take_turns(MODULE, [OURS, BARE], given, rounds=rounds)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    parser.add_argument("--pages", type=int, default=100, help="of one walk (default 100)")
    parser.add_argument("--items", type=int, default=100, help="on a page (default 100)")
    parser.add_argument("--shape", default="remote", help="of an item, see data.SHAPES (default remote)")
    parser.add_argument(
        "--rounds", type=int, default=9, help="of ``plain``, a third of the others (default 9)"
    )
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)  # where a contender asks
    parser.add_argument("--pause", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--busy", action="store_true", help=argparse.SUPPRESS)


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

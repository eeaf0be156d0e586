"""Where do the microseconds of a page go? The same walk, from the bare loop up to ``async for``, one layer at a time.

    bare       aiohttp and msgspec, as in ``bench_walk``
    transport  our transport in place of the session: deadlines, limits, safe reuse of connections
    call       and retries, pacing (off), token, events
    page       and all that is on a page: checks, bytes of their own for each record, unknown fields
    pages      and the walk: cursors that come twice, the position, the prefetch in a task
    items      and ``async for`` over the items

All take turns in one process on one core, the server has the other one. Figures are the processor's time for a page,
the least of all rounds, since other work on the machine only adds to it; and the calls of functions, Python's and C's.

    python -m benchmarks.bench_layers --items 10,100 --rounds 25
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import thread_time
from types import FrameType
from typing import Any

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Record
from benchmarks.bench_walk import TOKEN, Bare
from truto_ci_async import Pacing, TrutoClient
from truto_ci_async._http.call import CallTime
from truto_ci_async._wire.list_query import RequestTargets, list_query

PAGES = 100

Walk = Callable[[], Awaitable[int]]


def layers(client: Any, bare: Any, account: str) -> dict[str, Walk]:
    """Return a walk for each layer; each returns how many items there were."""
    decode = bare._decode
    targets = RequestTargets(
        list_query("unified", "conversational-intelligence", "interactions", account=account)
    )
    listed = client.interactions.list(account)

    async def plain() -> int:
        count: int = await bare.items(account)
        return count

    async def transport() -> int:
        count, cursor = 0, None
        headers = client._headers_with(await client._token.get())
        while True:
            response = await client._transport.send(
                "GET",
                targets.at(0, cursor),
                headers,
                timeouts=client.timeouts,
                limit=client.max_body_bytes,
                may_resend=client._may_resend,
            )
            page = decode(response.body)
            count, cursor = count + len(page.result), page.next_cursor
            if not cursor:
                return count

    async def call() -> int:
        async def read(body: bytes, time: CallTime) -> Any:
            return decode(body)

        count, cursor = 0, None
        while True:
            page, _ = await client.request("GET", targets.at(0, cursor), account=account, read=read)
            count, cursor = count + len(page.result), page.next_cursor
            if not cursor:
                return count

    async def page_by_page() -> int:
        source = listed._source
        count, here = 0, source.start
        while here is not None:
            page = await source.fetch(here)
            count, here = count + len(page), page.position
        return count

    async def pages() -> int:
        count = 0
        async for page in listed.pages():
            count += len(page)
        return count

    async def items() -> int:
        count = 0
        async for _ in listed:
            count += 1
        return count

    found = {"bare": plain, "transport": transport, "call": call, "page": page_by_page}
    return {**found, "pages": pages, "items": items}


async def calls(walk: Walk) -> int:
    """Return how many functions a page calls."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        await walk()
    finally:
        sys.setprofile(None)
    return round(count / PAGES)


async def measure(url: str, count: int, rounds: int) -> dict[str, tuple[float, int]]:
    """Return the microseconds and the calls that a page takes in each layer and those below it."""
    account = f"remote-x{count}-p{PAGES}"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(TrutoClient(TOKEN, base_url=url, pacing=Pacing.off()))
        bare = Bare()
        await bare.open(stack, url)
        least = dict.fromkeys(walks := layers(client, bare, account), float("inf"))
        for number in range(rounds + 1):
            for name, walk in walks.items():
                gc.collect()
                before = thread_time()
                assert await walk() == count * PAGES
                if number:
                    least[name] = min(least[name], thread_time() - before)
        return {name: (least[name] / PAGES * 1e6, await calls(walk)) for name, walk in walks.items()}


GOALS = [
    Goal("up to items, 10 items", "bare", "more_us", most=50),
    Goal("up to items, 10 items", "bare", "calls", most=330),
]


def run(options: argparse.Namespace) -> list[Record]:
    found: list[Record] = []
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    with _harness.server(pinned=True) as url:
        _harness.keep_to(0)
        for count in map(int, options.items.split(",")):
            _turns.say(f"layers, {count} items a page")
            layers = asyncio.run(measure(url, count, options.rounds))
            below = 0.0
            for name, (us, count_of_calls) in layers.items():
                _turns.say(f"  {name:<10}{us:>6.0f} us {us - below:>+6.0f}{count_of_calls:>6} calls")
                below = us
                record: Record = {"question": f"up to {name}, {count} items", "contender": OURS}
                record |= {"cpu_ms": round(us / 1e3, 3), "count": count_of_calls}
                least, fewest = layers["bare"]
                bare = {
                    "contender": "bare",
                    "cpu_ms": round(least / 1e3, 3),
                    "count": fewest,
                    "cpu": us / least,
                    "more_us": us - least,
                    "calls": count_of_calls,
                }
                found += [record, record | bare] if name != "bare" else []
    if cores:
        os.sched_setaffinity(0, cores)  # whatever comes next has both again
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", default="10,100", help="on a page, comma-separated (default 10,100)")
    parser.add_argument("--rounds", type=int, default=25, help="default 25")


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, lambda _: None)

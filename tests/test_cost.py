"""The cost of a page, counted instead of timed: what can be made once for a walk is not made for each page."""

from __future__ import annotations

import asyncio
import gc
import re
from collections import Counter
from typing import Any

import aiohttp
import pytest

from truto_ci_async import Interaction, Pacing, TrutoClient
from truto_ci_async._http import base_client
from truto_ci_async._wire.item_reader import item_reader

from .rawserver import OK, RawServer, serving
from .support import run

PAGES = 20


async def answer_pages(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await server.head(reader)
        asked = re.search(rb"next_cursor=(\d+)", head)
        following = (int(asked[1]) if asked else 0) + 1
        cursor = b'"%d"' % following if following < PAGES else b"null"
        body = b'{"result":[{"id":"1"}],"next_cursor":%s}' % cursor
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


def count_calls(monkeypatch: pytest.MonkeyPatch, counts: Counter[str], owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def counted(*args: Any, **options: Any) -> Any:
        counts[name] += 1
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counted)


def test_a_page_costs_one_request_and_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers, timeouts and readers are reused, and a consumer that awaits nothing needs no prefetch task."""
    counts: Counter[str] = Counter()

    async def scenario() -> list[Interaction]:
        async with (
            serving(answer_pages) as server,
            TrutoClient("token", base_url=server.url, pacing=Pacing.off()) as truto,
        ):
            await truto.interactions.list("a")  # makes headers, session and connection
            count_calls(monkeypatch, counts, base_client, "merge_headers")
            count_calls(monkeypatch, counts, aiohttp, "ClientTimeout")
            count_calls(monkeypatch, counts, truto, "spawn")
            count_calls(monkeypatch, counts, truto._transport, "send")
            items = await truto.interactions.list("a").collect()
            assert server.connections == 1
            return items

    assert len(run(scenario())) == PAGES
    assert counts == {"send": PAGES}


def test_another_token_is_sent_at_once() -> None:
    """The cached headers belong to one token: after a renewal the old ones are never sent."""
    tokens = iter(("one", "two"))

    async def scenario() -> list[bytes]:
        async with serving(answer_pages) as server:
            truto = TrutoClient("one", base_url=server.url, pacing=Pacing.off())
            copy = truto.with_options(token=lambda: next(tokens))
            other = truto.with_options(headers={"X-Other": "yes"})
            for each in (truto, copy, other, truto.with_options(token="three"), truto):
                await each.interactions.list("a")
            await truto.aclose()
            return [
                b", ".join(sorted(re.findall(rb"(?:Bearer|X-Other:) (\w+)", head))) for head in server.heads
            ]

    assert run(scenario()) == [b"one", b"one", b"one, yes", b"three", b"one"]


def test_a_reader_is_built_once_for_a_type() -> None:
    """Building one takes as long as decoding a page, and many calls fetch a single page."""
    assert item_reader(Interaction) is item_reader(Interaction)
    assert item_reader(Interaction) is not item_reader(Interaction, "raise")


@pytest.mark.parametrize("awaits", [False, True])
def test_a_walk_leaves_no_cycles(awaits: bool) -> None:
    """Pages are freed as soon as nobody holds them, without the garbage collector."""

    async def walk(truto: TrutoClient) -> None:
        await truto.interactions.list("a").collect()
        async for _ in truto.interactions.list("a"):
            if awaits:
                await asyncio.sleep(0)

    async def scenario() -> int:
        async with (
            serving(answer_pages) as server,
            TrutoClient("token", base_url=server.url, pacing=Pacing.off()) as truto,
        ):
            await walk(truto)
            gc.collect()
            gc.disable()
            try:
                await walk(truto)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                return sum(type(each).__module__.startswith("truto_ci_async") for each in gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

    assert run(scenario()) == 0

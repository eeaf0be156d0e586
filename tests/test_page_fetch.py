"""Decoding one page: a large body goes in slices, and listeners are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from truto_ci_async import Interaction, PageDecoded
from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.events import Emitter
from truto_ci_async.pagination.page_fetch import SLICED_ABOVE, read_page

from .support import run

READER: PageReader[Any] = PageReader(item_reader(Interaction, "repair"))


class FakeClient:
    """As much of a client as reading a page needs."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.emitter = Emitter(self.events.append)


def page_of(size: int) -> bytes:
    """A page of ``size`` bytes, whose first item needs a repair."""
    head, item, tail = b'{"result":[{"id":"first","timezone":5}', b',{"id":"1"}', b'],"next_cursor":"c"}'
    count, spaces = divmod(size - len(head) - len(tail), len(item))
    return head + item * count + b" " * spaces + tail


@pytest.mark.parametrize("size", [SLICED_ABOVE, SLICED_ABOVE + 1, 3 * SLICED_ABOVE])
def test_a_large_page_is_decoded_in_slices_between_which_other_tasks_run(size: int) -> None:
    """Decoding a smaller one in one go is faster. Both give the same page."""
    body = page_of(size)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> Any:
        ticking = asyncio.create_task(tick())
        try:
            return await read_page(FakeClient(), READER, body, account="acc")  # type: ignore[arg-type]
        finally:
            ticking.cancel()

    assert len(body) == size
    assert run(main()) == READER.read(body)
    assert (turns >= size // SLICED_ABOVE * 4) if size > SLICED_ABOVE else (turns == 0)


def test_a_decoded_page_is_an_event() -> None:
    client, body = FakeClient(), page_of(100)
    run(read_page(client, READER, body, account="acc"))  # type: ignore[arg-type]
    decoded, repaired = client.events
    assert isinstance(decoded, PageDecoded)
    assert (decoded.account, decoded.items, decoded.issues, decoded.bytes) == ("acc", 4, 1, 100)
    assert 0 <= decoded.elapsed < 30
    assert (repaired.account, repaired.path) == ("acc", "$.result[0].timezone")

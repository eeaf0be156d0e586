"""Decoding one page: a large body goes in slices, and listeners are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from truto_ci_async import DeadlineError, Interaction, PageDecoded
from truto_ci_async._http.call import CallTime
from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async.events import Emitter
from truto_ci_async.pagination.page_fetch import SLICED_ABOVE, read_page
from truto_ci_async.resources.keyed import KEYS_PER_STEP, Keyed

from .support import run

READER: PageReader[Any] = PageReader(item_reader(Interaction, "repair"))


class FakeClient:
    """As much of a client as reading a page needs."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.emitter = Emitter(self.events.append)


def page_of(size: int, *, odd: bool = True) -> bytes:
    """A page of ``size`` bytes, whose first item needs a repair if it is ``odd``."""
    head, item, tail = (
        b'{"result":[{"id":"first","timezone":%s}' % (b"5" if odd else b'"5"'),
        b',{"id":"1"}',
        b'],"next_cursor":"c"}',
    )
    count, spaces = divmod(size - len(head) - len(tail), len(item))
    return head + item * count + b" " * spaces + tail


@pytest.mark.parametrize("size", [SLICED_ABOVE, SLICED_ABOVE + 1, 3 * SLICED_ABOVE])
def test_a_large_page_is_decoded_in_slices_between_which_other_tasks_run(size: int) -> None:
    """Decoding a smaller one in one go is faster. Both give the same page."""
    body = page_of(size, odd=size > SLICED_ABOVE)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> Any:
        ticking = asyncio.create_task(tick())
        try:
            return await read_page(FakeClient(), READER, body, CallTime(60.0), account="acc")  # type: ignore[arg-type]
        finally:
            ticking.cancel()

    assert len(body) == size
    assert run(main()) == READER.read(body)
    assert (turns >= size // SLICED_ABOVE * 4) if size > SLICED_ABOVE else (turns == 0)


@pytest.mark.parametrize("item", [b"1", b"{}", b'{"id":5}', b'{"id":"\\ud83d"}'])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_page_of_wrong_items_does_not_hold_the_loop(item: bytes, keyed: bool) -> None:
    """200,000 of them, 0.4 MB, held it for 1.2 s. Each takes a hundred times as long as one that is right."""
    items = [b'{"id":"a"}', *[item] * 30_000]
    texts = [b'"k%d":%s' % pair for pair in enumerate(items)] if keyed else items
    body = (b'{"result":{%s}}' if keyed else b'{"result":[%s]}') % b",".join(texts)
    reader = PageReader[Any](item_reader(Interaction, "repair"), keyed=keyed)
    turns = 0

    async def main() -> Any:
        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        try:
            return await read_page(FakeClient(), reader, body, CallTime(60.0), account="acc")  # type: ignore[arg-type]
        finally:
            ticking.cancel()

    page = run(main())
    assert (len(page.issues), page.issues_count) == (100, 30_000)
    assert turns >= 4


def test_a_page_of_very_many_keys_does_not_hold_the_loop() -> None:
    """A million keys took a fifth of a second to become one dict."""
    keys = tuple(map(str, range(10 * KEYS_PER_STEP)))
    keyed, turns = Keyed[int](), 0

    async def main() -> None:
        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await keyed.add_page(PageData(items=tuple(range(len(keys))), keys=keys))
        ticking.cancel()

    run(main())
    assert list(keyed) == list(keys)
    assert turns == 10


@pytest.mark.parametrize("spent", [0.0, 10.0])
def test_decoding_counts_as_time_of_its_call(spent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("truto_ci_async._http.call.monotonic", lambda: now)

    async def main() -> None:
        nonlocal now
        time = CallTime(10.5)
        with time:
            now += spent
        now += 1000.0  # nobody took the response
        decoding = asyncio.create_task(
            read_page(FakeClient(), READER, page_of(3 * SLICED_ABOVE), time, account="acc")  # type: ignore[arg-type]
        )
        await asyncio.sleep(0)
        now += 1.0
        if spent:
            with pytest.raises(DeadlineError) as caught:
                await decoding
            error = caught.value
            assert (error.deadline, error.seconds, error.account) == ("total", 10.5, "acc")
        else:
            await decoding
        assert time.used == spent + 1.0
        assert CallTime(None).left is None

    run(main())


def test_the_log_counts_all_repairs(caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"result":[%s]}' % b",".join([b'{"id":5}'] * 1_000)
    client = FakeClient()
    run(read_page(client, READER, body, CallTime(60.0), account="acc"))  # type: ignore[arg-type]
    assert "and 999 more on this page" in caplog.text
    assert client.events[0].issues == 1_000
    assert len(client.events) == 101


def test_a_decoded_page_is_an_event() -> None:
    client, body = FakeClient(), page_of(100)
    run(read_page(client, READER, body, CallTime(60.0), account="acc"))  # type: ignore[arg-type]
    decoded, repaired = client.events
    assert isinstance(decoded, PageDecoded)
    assert (decoded.account, decoded.items, decoded.issues, decoded.bytes) == ("acc", 4, 1, 100)
    assert 0 <= decoded.elapsed < 30
    assert (repaired.account, repaired.path) == ("acc", "$.result[0].timezone")

"""Iterating over pages, with a fake that serves the page at a position: no client and no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import tracemalloc
import weakref
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from truto_ci_async._http.tasks import start_task
from truto_ci_async.errors import CursorLoopError, DecodeError, ServerError, TrutoError, UsageError
from truto_ci_async.models import Page, Position, RawResponse, ResponseInfo
from truto_ci_async.pagination import paginator
from truto_ci_async.pagination.next_page import PageCursor, position_after
from truto_ci_async.pagination.paginator import Items, Pages, PageSource, Paginator, RawPages

from .support import examples, run

DEADLINE = 5.0
# Turns of the loop after which nothing more happens by itself.
TURNS = 20

Numbered = tuple[int, ...]
# The pages of one user batch: the items of each, and its next cursor.
Batch = list[tuple[Numbered, str | None]]
Start = tuple[int, str | None]


def batch(*pages: Sequence[int], end: str | None = None, name: str = "c") -> Batch:
    """One user batch whose pages hold these items; the last page has ``end`` as its cursor."""
    last = len(pages) - 1
    return [(tuple(items), end if i == last else f"{name}{i + 1}") for i, items in enumerate(pages)]


def numbered(pages: int, size: int = 2) -> Batch:
    return batch(*(range(i * size, (i + 1) * size) for i in range(pages)))


class Service:
    """Serves the pages of its user batches, records requests, and delays or fails those it is set up to."""

    def __init__(self, *batches: Batch, awaits: int = 1) -> None:
        self.batches = batches
        self.awaits = awaits
        self.asked: list[Start] = []
        self.served: list[Start] = []
        self.cancelled: list[Start] = []
        self.started: defaultdict[Start, asyncio.Event] = defaultdict(asyncio.Event)
        self.gates: dict[Start, asyncio.Event] = {}
        self.failures: dict[Start, list[BaseException]] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.spawned = self.most_tasks = 0

    async def fetch(self, here: Position) -> Page[int]:
        place = (here.user_batch, here.cursor)
        self.asked.append(place)
        self.started[place].set()
        try:
            for _ in range(self.awaits):
                await asyncio.sleep(0)
            if place in self.gates:
                await self.gates[place].wait()
        except asyncio.CancelledError:
            self.cancelled.append(place)
            raise
        if self.failures.get(place):
            raise self.failures[place].pop(0)
        items, cursor = self._page(place)
        self.served.append(place)
        return Page(items, next_cursor=cursor, position=position_after(here, cursor, len(self.batches)))

    def _page(self, place: Start) -> tuple[Numbered, str | None]:
        pages = self.batches[place[0]]
        if place[1] is None:
            return pages[0]
        cursors = [cursor for _, cursor in pages]
        return pages[cursors.index(place[1]) + 1]

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Like the client: keep the task, and look at its exception so that asyncio does not log it."""
        task = start_task(work)
        self.tasks.add(task)
        self.spawned += 1
        self.most_tasks = max(self.most_tasks, len(self.tasks))
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda task: None if task.cancelled() else task.exception() and None)
        return task

    def source(self, start: Position | None = None, **options: Any) -> PageSource[Page[int]]:
        return PageSource(
            self.fetch,
            start or Position(filters="f"),
            spawn=self.spawn,
            user_batches=len(self.batches),
            account="acc",
            **options,
        )

    def list(self, start: Position | None = None, **options: Any) -> Paginator[int]:
        return Paginator(self.source(start, **options), label="list of numbers")

    @property
    def all(self) -> list[int]:
        return [item for pages in self.batches for items, _ in pages for item in items]


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, DEADLINE)


async def gather(walk: AsyncIterable[int], seen: list[int]) -> None:
    """Iterate to the end or to an error, and keep what came before it."""
    async for item in walk:
        seen.append(item)  # noqa: PERF401


async def items_of(walk: AsyncIterator[int] | Paginator[int]) -> list[int]:
    return [item async for item in walk]


# Items and pages


@pytest.mark.parametrize("prefetch", [0, 1])
def test_items_come_in_order_across_pages_with_one_request_for_each(prefetch: int) -> None:
    service = Service(numbered(4))
    assert run(items_of(service.list(prefetch=prefetch))) == service.all == list(range(8))
    assert service.asked == [(0, None), (0, "c1"), (0, "c2"), (0, "c3")]


@pytest.mark.parametrize("prefetch", [0, 1])
def test_an_empty_page_with_a_cursor_does_not_end_the_walk(prefetch: int) -> None:
    """Truto's own Python client stops there, and the records after it are lost."""
    service = Service(batch([], [1], [], [], [2, 3], []))
    assert run(items_of(service.list(prefetch=prefetch))) == [1, 2, 3]
    assert len(service.asked) == 6


@pytest.mark.parametrize("end", [None, ""])
def test_a_null_or_empty_cursor_ends_the_walk(end: str | None) -> None:
    service = Service(batch([1], [2], end=end))
    assert run(items_of(service.list())) == [1, 2]
    assert len(service.asked) == 2


def test_a_walk_without_items_is_empty() -> None:
    async def main() -> None:
        service = Service(batch([]))
        assert await items_of(service.list()) == []
        assert await service.list().collect() == []
        assert await service.list().first() is None
        assert list(await service.list()) == []

    run(main())


def test_frames_get_the_items_page_by_page() -> None:
    async def main() -> None:
        service = Service(batch([1, 2], [], [3]))
        source = Paginator(service.source(), label="list", item_type=int).part_source()
        assert source.item_type is int
        found = []
        while (part := await source.next_part()) is not None:
            assert part.page.items is part.part.items
            found.append((part.part.items, part.page.next_cursor))
        assert found == [((1, 2), "c1"), ((), "c2"), ((3,), None)]
        assert Paginator(service.source(), label="list").part_source().item_type is None

    run(main())


def test_pages_have_their_cursor_and_the_position_after_them() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        pages = [page async for page in service.list().pages()]
        assert [page.items for page in pages] == [(0, 1), (2, 3), (4, 5)]
        assert [page.next_cursor for page in pages] == ["c1", "c2", None]
        assert [page.position and page.position.cursor for page in pages] == ["c1", "c2", None]
        assert [page.has_more for page in pages] == [True, True, False]

    run(main())


def test_iterating_twice_starts_twice() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        listing = service.list()
        assert await items_of(listing) == await items_of(listing) == service.all
        assert len([page async for page in listing.pages()]) == 3
        assert service.asked == [(0, None), (0, "c1"), (0, "c2")] * 3

    run(main())


def test_two_iterations_of_one_paginator_are_independent() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        listing = service.list()
        first, second = aiter(listing), aiter(listing)
        seen = [(await anext(first), await anext(second)) for _ in service.all]
        assert seen == [(item, item) for item in service.all]

    run(main())


def test_an_ended_iteration_stays_ended_and_sends_nothing() -> None:
    async def main() -> None:
        service = Service(numbered(2))
        items, pages = aiter(service.list()), service.list().pages()
        assert len([item async for item in items]) == 4
        assert len([page async for page in pages]) == 2
        for _ in range(2):
            assert [item async for item in items] == []
            assert [page async for page in pages] == []
        assert len(service.asked) == 4

    run(main())


@pytest.mark.parametrize("wrong", [{"prefetch": 2}, {"prefetch": -1}, {"prefetch": "1"}])
def test_prefetch_is_0_or_1(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"prefetch is 1 .* or 0, not {wrong['prefetch']!r}"):
        Service(numbered(1)).list(**wrong)


@pytest.mark.parametrize("wrong", [0, -1, True, "3", 1.5])
def test_max_pages_is_a_count(wrong: Any) -> None:
    with pytest.raises(UsageError, match=f"max_pages is 1 or more, or None for all, not {wrong!r}"):
        Service(numbered(1)).list(max_pages=wrong)


@pytest.mark.parametrize("wrong", [-1, True, "3", 1.5])
def test_max_items_is_a_count(wrong: Any) -> None:
    with pytest.raises(UsageError, match=f"max_items is 0 or more, or None for all, not {wrong!r}"):
        run(Service(numbered(1)).list().collect(wrong))


def test_the_repr_says_what_to_do() -> None:
    service = Service(numbered(1))
    assert repr(service.list()).startswith("<list of numbers: `await` it")
    assert "`async for`" in repr(service.list())
    raw = RawPages(service.source(), label="raw numbers")  # type: ignore[arg-type]
    assert repr(raw).startswith("<raw numbers: `await` it")
    assert "`async for`" in repr(raw)


# Cursors that come twice


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("length", range(1, 7))
def test_a_cursor_loop_is_an_error_after_all_its_pages_were_handed_over(length: int, prefetch: int) -> None:
    """The first page and the loop: n + 1 requests, and not one more."""
    service = Service(batch(*([i] for i in range(length + 1)), end="c1"))

    async def main() -> None:
        seen: list[int] = []
        with pytest.raises(CursorLoopError, match="'c1' a second time") as caught:
            await gather(service.list(prefetch=prefetch), seen)
        await settle()
        assert seen == list(range(length + 1))
        assert len(service.asked) == length + 1
        assert (caught.value.cursor, caught.value.account, caught.value.pages) == ("c1", "acc", length + 1)

    run(main())


def test_a_loop_that_begins_at_a_later_page_is_detected() -> None:
    service = Service(batch([0], [1], [2], [3], end="c2"))
    with pytest.raises(CursorLoopError):
        run(items_of(service.list()))
    assert len(service.asked) == 4


def test_a_loop_back_to_the_cursor_a_walk_started_at_is_detected() -> None:
    service = Service(batch([0], [1], [2], end="c1"))
    with pytest.raises(CursorLoopError):
        run(items_of(service.list(Position(filters="f", cursor="c1"))))
    assert service.asked == [(0, "c1"), (0, "c2")]


def test_empty_pages_do_not_hide_a_loop() -> None:
    service = Service(batch([], [], end="c1"))
    with pytest.raises(CursorLoopError):
        run(service.list().collect())
    assert len(service.asked) == 2


def test_asking_again_after_a_loop_raises_the_same_error_without_a_request() -> None:
    async def main() -> None:
        service = Service(batch([0], [1], end="c1"))
        pages = service.list().pages()
        assert [(await anext(pages)).items for _ in range(2)] == [(0,), (1,)]
        errors = []
        for _ in range(3):
            with pytest.raises(CursorLoopError) as caught:
                await anext(pages)
            errors.append(caught.value)
            frames = list(_frames(caught.value))
            assert len(frames) <= 3, "the traceback grew"
        assert len(set(map(id, errors))) == 1
        assert len(service.asked) == 2

    run(main())


def _frames(error: BaseException) -> list[Any]:
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def test_stopping_before_the_loop_closes_is_no_error() -> None:
    """The same goes for stopping exactly where it closes: the caller got what was asked for."""

    async def main() -> None:
        service = Service(batch([0], [1], end="c1"))
        assert await service.list(max_pages=2).collect() == [0, 1]
        assert await service.list().collect(2) == [0, 1]
        assert (await service.list()).items == (0,)

    run(main())


def test_each_user_batch_has_cursors_of_its_own() -> None:
    """The service may use the same cursor for the same offset in another batch."""
    service = Service(batch([0], [1], [2]), batch([3], [4], [5]), batch([6]))
    assert run(items_of(service.list())) == list(range(7))


def test_a_loop_in_a_later_user_batch_is_detected() -> None:
    service = Service(batch([0], [1]), batch([2], [3], end="c1"))

    async def main() -> None:
        seen: list[int] = []
        with pytest.raises(CursorLoopError) as caught:
            await gather(service.list(), seen)
        assert seen == [0, 1, 2, 3]
        assert caught.value.pages == 4

    run(main())


# How much is fetched


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("max_pages", [1, 2, 3, 4, 5, 9])
def test_max_pages_is_the_number_of_requests(max_pages: int, prefetch: int) -> None:
    async def main() -> None:
        service = Service(numbered(5))
        pages = []
        async for page in service.list(max_pages=max_pages, prefetch=prefetch).pages():
            await settle()  # long enough for a prefetch
            pages.append(page)
        assert len(pages) == len(service.asked) == min(max_pages, 5)
        assert pages[-1].has_more is (max_pages < 5)

    run(main())


def test_max_pages_counts_over_all_user_batches() -> None:
    service = Service(batch([0], [1]), batch([2], [3]))
    assert run(items_of(service.list(max_pages=3))) == [0, 1, 2]
    assert len(service.asked) == 3


def test_awaiting_gives_the_first_page_without_a_prefetch() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        listing = service.list()
        first, again = await listing, await listing.page()
        await settle()
        assert first.items == again.items == (0, 1)
        assert service.asked == [(0, None)] * 2
        assert service.most_tasks == 0

    run(main())


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("max_items", [0, 1, 2, 3, 4, 5, 6, 7, 100, None])
def test_collect_fetches_no_more_pages_than_it_needs(max_items: int | None, size: int) -> None:
    async def main() -> None:
        service = Service(numbered(3, size))
        items = await service.list().collect(max_items)
        await settle()
        assert items == service.all[:max_items]
        wanted = 3 if max_items is None else min(3, -(-max_items // size))
        assert len(service.asked) == wanted, "nor is one started and dropped"
        assert service.cancelled == []

    run(main())


def test_collect_of_a_count_skips_empty_pages() -> None:
    service = Service(batch([], [1], [], [2], [3]))
    assert run(service.list().collect(2)) == [1, 2]
    assert len(service.asked) == 4


def test_progress_is_shown_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the account of the list, with the waits that its client reports. ``first`` is too short for it."""
    asked: list[Any] = []
    counts: list[int] = []

    class Line:
        add = counts.append

    @contextlib.contextmanager
    def show(*given: Any) -> Iterator[Line]:
        asked.append(given)
        yield Line()

    monkeypatch.setattr(paginator, "show_progress", show)
    emitter: Any = object()

    async def main() -> None:
        numbers = Service(batch([1, 2], [], [3])).list(emitter=emitter)
        for wanted in (True, False, None):
            assert await numbers.collect(progress=wanted) == [1, 2, 3]
        assert await numbers.first() == 1

    run(main())
    assert asked == [(wanted, emitter, "acc") for wanted in (True, False, None, False)]
    assert counts == [2, 0, 1] * 3 + [2]


def test_first_gives_the_first_item_and_fetches_no_page_after_it() -> None:
    async def main() -> None:
        service = Service(batch([], [], [7], [9]))
        assert await service.list().first() == 7
        await settle()
        assert len(service.asked) == 3

    run(main())


def test_first_tells_an_item_that_is_false_from_none() -> None:
    assert run(Service(batch([0], [1])).list().first()) == 0


# Prefetch


def test_the_next_page_is_fetched_while_the_consumer_works_on_this_one() -> None:
    async def main() -> None:
        service = Service(numbered(4))
        seen = 0
        async for item in service.list():
            seen += 1
            page = item // 2
            if page < 3:
                # The next page is not asked for before this returns.
                await soon(service.started[(0, f"c{page + 1}")].wait())
                await settle()
                assert len(service.served) == page + 2, "one page ahead, and only one"
        assert seen == 8
        assert service.most_tasks == 1

    run(main())


@pytest.mark.parametrize("has_factory", [False, True])
@pytest.mark.parametrize("by_page", [False, True])
def test_the_next_page_is_fetched_while_the_consumer_works_without_awaiting(
    by_page: bool, has_factory: bool
) -> None:
    """Its request must be sent before the page is handed over, since the loop gets no turn until the next one."""

    async def main() -> None:
        if has_factory:  # its tasks may start at any time
            asyncio.get_running_loop().set_task_factory(
                lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options)
            )
        service = Service(numbered(5, size=1))
        asked: list[int] = []
        walk: Any = service.list().pages() if by_page else service.list()
        async for _ in walk:
            asked.append(len(service.asked))  # noqa: PERF401
        # Not after the first page: many loops stop there, and the request would be wasted.
        assert asked == [1, 3, 4, 5, 5]
        assert service.served == [(0, None), *((0, f"c{page}") for page in range(1, 5))]

    run(main())


def test_a_page_is_not_followed_while_nobody_waits_for_it() -> None:
    """Else the walk would run ahead of its consumer."""

    async def main() -> None:
        service = Service(numbered(4))
        pages = service.list().pages()
        for asked in (2, 3, 4):
            await anext(pages)
            await settle()
            assert len(service.asked) == len(service.served) == asked

    run(main())


def test_the_fetch_of_a_page_starts_as_one_that_is_there_is_handed_out() -> None:
    """From the second page on. After the first one the loop has a turn before: many loops stop there."""

    async def main() -> None:
        service = Service(numbered(4))
        pages = service.list().pages()
        for spawned in (0, 2, 3):
            await anext(pages)
            assert service.spawned == spawned
            await settle()

    run(main())


def test_the_last_page_wanted_is_prefetched() -> None:
    async def main() -> None:
        service = Service(numbered(4))
        pages = service.list(max_pages=2).pages()
        await anext(pages)
        await settle()
        assert len(service.served) == 2

    run(main())


def test_the_page_after_the_last_one_wanted_is_not_asked_for() -> None:
    async def main() -> None:
        for pages in (1, 2, 3):
            service = Service(numbered(5))
            assert len([page async for page in service.list(max_pages=pages).pages()]) == pages
            await settle()
            assert len(service.asked) == pages

    run(main())


def test_a_wait_that_is_cancelled_as_its_page_arrives_loses_no_page() -> None:
    """The fetch of the page after it has been started by then."""

    async def main() -> None:
        waiters: list[asyncio.Task[Any]] = []

        class Cancelling(Service):
            async def fetch(self, here: Position) -> Page[int]:
                if here.cursor == "c2" and waiters:
                    waiters.pop().cancel()
                return await super().fetch(here)

        service = Cancelling(numbered(4))
        service.gates[(0, "c2")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        waiter = asyncio.ensure_future(anext(pages))
        waiters.append(waiter)
        with pytest.raises(asyncio.CancelledError):
            await soon(waiter)
        await settle()
        assert service.tasks == set()
        assert service.cancelled == [(0, "c2")]
        service.gates.clear()
        assert [page.items async for page in pages] == [(2, 3), (4, 5), (6, 7)]

    run(main())


@pytest.mark.parametrize("is_loop", [False, True])
def test_closing_in_another_task_as_a_page_arrives_asks_for_no_more(is_loop: bool) -> None:
    async def main() -> None:
        service = Service(batch([0], [1], [2], end="c1" if is_loop else None))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        waiter = asyncio.ensure_future(anext(pages))
        await soon(service.started[(0, "c1")].wait())
        await pages.aclose()
        service.gates[(0, "c1")].set()
        assert (await soon(waiter)).items == (1,)
        await settle()
        assert service.asked == [(0, None), (0, "c1")]
        assert [page async for page in pages] == []

    run(main())


def test_closing_once_the_page_that_follows_is_being_fetched_cancels_that() -> None:
    async def main() -> None:
        class Closing(Service):
            async def fetch(self, here: Position) -> Page[int]:
                if here.cursor == "c2":  # before the caller has the page before it
                    with suppress(StopIteration):
                        pages.aclose().send(None)
                return await super().fetch(here)

        service = Closing(numbered(4))
        service.gates[(0, "c2")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        assert (await soon(anext(pages))).items == (2, 3)
        await settle()
        assert service.tasks == set()
        assert [page async for page in pages] == []

    run(main())


def test_the_page_that_follows_is_fetched_in_the_context_of_the_waiting_caller() -> None:
    async def main() -> None:
        seen: list[str] = []

        class Traced(Service):
            async def fetch(self, here: Position) -> Page[int]:
                seen.append(where.get())
                return await super().fetch(here)

        pages = Traced(numbered(4)).list().pages()
        for name in ("a", "b", "c", "d"):
            where.set(name)
            await anext(pages)
        # The second page is asked for with the first, in its context, or when it is waited for.
        assert seen == ["a", "b", "b", "c"]

    where: ContextVar[str] = ContextVar("where")
    run(main())


def test_collecting_does_not_prefetch() -> None:
    """Nothing happens between two pages, so a prefetch would gain nothing."""

    async def main() -> None:
        service = Service(numbered(5))
        assert len(await service.list().collect()) == 10
        assert len(await service.list().collect(7)) == 7
        assert await service.list().first() == 0
        assert service.spawned == 0
        assert len(service.asked) == 5 + 4 + 1

    run(main())


def test_without_prefetch_a_page_is_fetched_when_it_is_asked_for() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        async for page in service.list(prefetch=0).pages():
            await settle()
            assert len(service.asked) == page.items[0] // 2 + 1
        assert service.most_tasks == 0

    run(main())


def test_the_first_page_of_the_next_user_batch_is_prefetched() -> None:
    async def main() -> None:
        service = Service(batch([0]), batch([1]))
        pages = service.list().pages()
        assert (await anext(pages)).items == (0,)
        await soon(service.started[(1, None)].wait())
        assert [page.items async for page in pages] == [(1,)]

    run(main())


@pytest.mark.parametrize("by_page", [False, True])
def test_break_cancels_the_prefetch_at_once(by_page: bool) -> None:
    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        walk: Any = service.list().pages() if by_page else service.list()
        async for _ in walk:
            await soon(service.started[(0, "c1")].wait())
            (prefetch,) = service.tasks
            break
        # Nothing was awaited since the break. (An iterator that the caller still holds goes on, so it is dropped.)
        del walk
        assert prefetch.cancelling() == 1
        await settle()
        assert service.tasks == set()
        assert service.cancelled == [(0, "c1")]

    run(main())


def test_an_exception_in_the_loop_body_cancels_the_prefetch() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()

        async def consume() -> None:
            async for _ in service.list():
                await soon(service.started[(0, "c1")].wait())
                raise LookupError("mine")

        with pytest.raises(LookupError, match="mine") as caught:
            await consume()
        await settle()
        assert service.tasks == set()
        assert caught.value.__context__ is None

    run(main())


def test_dropping_an_iterator_cancels_its_prefetch() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        walk = aiter(service.list())
        await anext(walk)
        await soon(service.started[(0, "c1")].wait())
        del walk
        await settle()
        assert service.tasks == set()

    run(main())


def test_a_break_before_the_prefetch_starts_leaves_nothing() -> None:
    """A task that is cancelled before its first step must not leave a coroutine that was never awaited."""

    async def main() -> None:
        service = Service(numbered(3))
        async for _ in service.list():
            break
        await settle()
        assert service.asked == [(0, None)]
        assert service.tasks == set()

    run(main())


def test_the_failure_of_a_dropped_prefetch_is_not_reported() -> None:
    """``run`` fails the test when an error ends in the loop's exception handler."""

    async def main() -> None:
        service = Service(numbered(3))
        service.failures[(0, "c1")] = [ServerError("gone")]
        async for _ in service.list():
            await soon(service.started[(0, "c1")].wait())
            await settle()
            break
        gc.collect()
        await settle()
        assert service.tasks == set()

    run(main())


def test_a_failed_prefetch_is_raised_when_its_page_is_asked_for() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        service.failures[(0, "c1")] = [ServerError("gone")]
        seen = []
        with pytest.raises(ServerError, match="gone"):
            async for item in service.list():
                seen.append(item)
                await settle()
        assert seen == [0, 1]

    run(main())


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("by_page", [False, True])
def test_a_failing_page_leaves_the_walk_where_it_was(by_page: bool, prefetch: int) -> None:
    async def main() -> None:
        service = Service(numbered(4))
        service.failures[(0, None)] = [ServerError("1"), ServerError("2")]
        service.failures[(0, "c2")] = [ServerError("3")]
        listing = service.list(prefetch=prefetch)
        walk: Any = listing.pages() if by_page else aiter(listing)
        seen: list[int] = []
        errors = []
        for _ in range(50):
            try:
                got = await anext(walk)
            except StopAsyncIteration:
                break
            except ServerError as error:
                errors.append(error.message)
            else:
                seen += got.items if by_page else [got]
        assert seen == service.all
        assert errors == ["1", "2", "3"]
        assert service.asked.count((0, None)) == 3
        assert service.asked.count((0, "c2")) == 2
        assert len(service.asked) == 7

    run(main())


def test_a_failed_page_does_not_use_up_max_pages() -> None:
    async def main() -> None:
        service = Service(numbered(4))
        service.failures[(0, "c1")] = [ServerError("1")]
        pages = service.list(max_pages=2).pages()
        await anext(pages)
        with pytest.raises(ServerError):
            await anext(pages)
        assert [page.items async for page in pages] == [(2, 3)]

    run(main())


def test_a_failure_leaves_no_cycle_that_would_keep_the_walk_alive() -> None:
    """A failed walk is freed with its last reference, not by the next garbage collection."""

    async def main() -> None:
        service = Service(numbered(3))
        service.failures[(0, "c1")] = [ServerError("1")]
        pages = service.list().pages()
        await anext(pages)
        await settle()
        gone = weakref.ref(pages)
        gc.disable()
        try:
            with suppress(ServerError):
                await anext(pages)
            del pages
            assert gone() is None
        finally:
            gc.enable()

    run(main())


# Cancelling


@pytest.mark.parametrize("prefetch", [0, 1])
def test_cancelling_the_consumer_anywhere_leaves_no_task(prefetch: int) -> None:
    """Cancels at every turn of the loop in turn: the consumer ends as cancelled, and the prefetch with it."""

    async def main() -> None:
        ended = False
        before = asyncio.all_tasks()
        for turns in range(200):
            service = Service(numbered(4), awaits=3)
            seen: list[int] = []

            async def consume(service: Service = service, seen: list[int] = seen) -> None:
                async for item in service.list(prefetch=prefetch):
                    seen.append(item)
                    await asyncio.sleep(0)

            consumer = asyncio.create_task(consume())
            for _ in range(turns):
                await asyncio.sleep(0)
            ended = not consumer.cancel()
            await asyncio.wait({consumer}, timeout=DEADLINE)
            assert consumer.cancelled() or ended
            await settle()
            assert service.tasks == set()
            assert asyncio.all_tasks() == before
            assert seen == service.all[: len(seen)]
            if ended:
                assert seen == service.all
                break
        assert ended, "the last turn tried is after the end of the walk"

    run(main())


@pytest.mark.parametrize("by_page", [False, True])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_iterating_again_after_a_cancelled_step_loses_nothing(prefetch: int, by_page: bool) -> None:
    """This includes a cancelled wait for the prefetch: its page is fetched again."""

    async def main() -> None:
        for work in range(5):  # turns between two steps: the prefetch is further on then
            for turns in range(8):
                service = Service(batch([0, 1], [], [2], [3, 4]), batch([5], [6, 7]), awaits=3)
                listing = service.list(prefetch=prefetch)
                walk: Any = listing.pages() if by_page else aiter(listing)
                seen: list[int] = []
                for _ in range(50):
                    step = asyncio.ensure_future(anext(walk))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    step.cancel()
                    await asyncio.wait({step}, timeout=DEADLINE)
                    try:
                        got = await (anext(walk) if step.cancelled() else step)
                    except StopAsyncIteration:
                        break
                    seen += got.items if by_page else [got]
                    for _ in range(work):
                        await asyncio.sleep(0)
                assert seen == service.all
                await settle()
                assert service.tasks == set()

    run(main())


def test_a_timeout_around_one_step_stays_a_timeout() -> None:
    """It must not be mistaken for a closed client."""

    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        await soon(service.started[(0, "c1")].wait())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(pages)
        await settle()
        assert service.cancelled == [(0, "c1")]
        service.gates.clear()
        assert [page.items async for page in pages] == [(2, 3), (4, 5)]

    run(main())


def test_a_prefetch_cancelled_from_outside_means_that_the_client_was_closed() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        waiting = asyncio.ensure_future(anext(pages))
        await soon(service.started[(0, "c1")].wait())
        for task in service.tasks:
            task.cancel()
        with pytest.raises(UsageError, match="^the client was closed .* read$"):
            await soon(waiting)

    run(main())


# Misuse


@pytest.mark.parametrize("by_page", [False, True])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_two_tasks_cannot_share_one_iterator(prefetch: int, by_page: bool) -> None:
    async def main() -> None:
        service = Service(numbered(3, size=1))
        listing = service.list(prefetch=prefetch)
        walk: Any = listing.pages() if by_page else aiter(listing)
        service.gates[(0, None)] = asyncio.Event()
        first = asyncio.ensure_future(anext(walk))
        await soon(service.started[(0, None)].wait())
        with pytest.raises(UsageError, match="^two tasks .* its own$"):
            await anext(walk)
        service.gates[(0, None)].set()
        await soon(first)
        rest = [item async for item in walk]
        assert len(rest) == 2, "the iteration goes on undisturbed"

    run(main())


def test_two_tasks_cannot_wait_for_one_prefetch() -> None:
    async def main() -> None:
        service = Service(numbered(2))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        first = asyncio.ensure_future(anext(pages))
        await settle()
        with pytest.raises(UsageError, match="^two tasks .* its own$"):
            await anext(pages)
        service.gates[(0, "c1")].set()
        assert (await soon(first)).items == (2, 3)

    run(main())


# Threads and loops


def test_an_iterator_dropped_in_another_thread_cancels_its_prefetch() -> None:
    """Garbage collection can run in any thread."""

    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        await soon(service.started[(0, "c1")].wait())
        (prefetch,) = service.tasks
        held: list[object] = [pages]
        del pages
        dropper = threading.Thread(target=held.clear)
        dropper.start()
        await asyncio.wait({prefetch}, timeout=DEADLINE)
        dropper.join(DEADLINE)
        assert prefetch.cancelled()

    run(main())


def _iterate_to_the_prefetch(
    loop: asyncio.AbstractEventLoop, service: Service
) -> tuple[AsyncIterator[Page[int]], asyncio.Task[Any]]:
    async def begin() -> AsyncIterator[Page[int]]:
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        await soon(service.started[(0, "c1")].wait())
        return pages

    pages = loop.run_until_complete(begin())
    (prefetch,) = service.tasks
    return pages, prefetch


def test_an_iterator_dropped_between_two_runs_of_its_loop_cancels_its_prefetch() -> None:
    """As in a notebook, or with ``loop.run_until_complete`` called for each step."""
    loop = asyncio.new_event_loop()
    try:
        pages, prefetch = _iterate_to_the_prefetch(loop, Service(numbered(3)))
        del pages
        loop.run_until_complete(asyncio.wait({prefetch}, timeout=DEADLINE))
        assert prefetch.cancelled()
    finally:
        loop.close()


def test_an_iterator_dropped_after_its_loop_was_closed_does_no_harm() -> None:
    loop = asyncio.new_event_loop()
    pages, prefetch = _iterate_to_the_prefetch(loop, Service(numbered(3)))
    loop.close()
    del pages  # an exception in __del__ would be a warning, and so an error
    gc.collect()
    assert not prefetch.done()
    # The test closed the loop with a pending task. Keep asyncio from logging that.
    prefetch._log_destroy_pending = False  # type: ignore[attr-defined]
    prefetch.get_coro().close()  # type: ignore[union-attr]


# User batches


def test_user_batches_are_walked_one_after_the_other() -> None:
    async def main() -> None:
        service = Service(batch([0, 1], [2]), batch([]), batch([3], [4]))
        pages = [page async for page in service.list().pages()]
        places = [(page.position.user_batch, page.position.cursor) for page in pages if page.position]
        assert places == service.asked[1:] == [(0, "c1"), (1, None), (2, None), (2, "c1")]
        assert pages[1].next_cursor is None, "the service's cursor is null at the end of a batch"
        assert pages[1].has_more
        assert pages[-1].position is None

    run(main())


@st.composite
def layouts(draw: st.DrawFn) -> list[Batch]:
    """User batches with pages of random sizes. Cursors may repeat between batches, not within one."""
    count = iter(range(10_000))
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
        cursors: list[str | None] = list(
            draw(
                st.lists(
                    st.text(min_size=1, max_size=4),
                    min_size=len(sizes) - 1,
                    max_size=len(sizes) - 1,
                    unique=True,
                )
            )
        )
        ends = [*cursors, draw(st.sampled_from([None, ""]))]
        pages = [tuple(next(count) for _ in range(size)) for size in sizes]
        batches.append(list(zip(pages, ends, strict=True)))
    return batches


@given(layouts(), st.sampled_from([0, 1]))
@example([[((0,), "truto-position-1."), ((1,), None)]], 1)
@examples(60)
def test_resuming_from_any_stored_position_gives_exactly_the_rest(
    batches: list[Batch], prefetch: int
) -> None:
    async def main() -> None:
        service = Service(*batches, awaits=0)
        pages = [page async for page in service.list(prefetch=prefetch).pages()]
        assert [item for page in pages for item in page] == service.all
        assert len(service.asked) == sum(map(len, batches))
        for number, page in enumerate(pages, 1):
            rest = [item for later in pages[number:] for item in later]
            if page.position is None:
                assert number == len(pages)
                continue
            stored = Position.parse(str(page.position))
            service.asked.clear()
            assert await service.list(stored, prefetch=prefetch).collect() == rest
            assert len(service.asked) == len(pages) - number

    run(main())


@given(layouts(), st.data())
@examples(60)
def test_collect_of_any_count_returns_the_first_items_and_fetches_no_more_pages_than_needed(
    batches: list[Batch], data: st.DataObject
) -> None:
    async def main() -> None:
        service = Service(*batches, awaits=0)
        wanted = data.draw(st.integers(1, len(service.all) + 1))
        assert await service.list().collect(wanted) == service.all[:wanted]
        await settle()
        needed = had = 0
        for items, _ in (page for pages in batches for page in pages):
            needed += 1
            had += len(items)
            if had >= wanted:
                break
        assert len(service.asked) == needed

    run(main())


def test_a_page_cursor_is_pure_state() -> None:
    """Streams and pulls use it too, without tasks or pages."""
    walk = PageCursor(Position(filters="f"), 2, account="acc")
    here = walk.position
    assert here is not None
    assert walk.advance(here, "a") == Position(filters="f", cursor="a") == walk.position
    assert walk.advance(Position(filters="f", cursor="a"), None) == Position(filters="f", user_batch=1)
    assert walk.advance(Position(filters="f", user_batch=1), "a") == Position(
        filters="f", user_batch=1, cursor="a"
    )
    with pytest.raises(CursorLoopError):
        walk.advance(Position(filters="f", user_batch=1, cursor="a"), "a")


def test_a_cursor_may_hold_half_a_character() -> None:
    here = Position(filters="f")
    cursor = PageCursor(here, 1)
    for half in "\ud83d", "\ude00":
        cursor.advance(here, half)
    with pytest.raises(CursorLoopError):
        cursor.advance(here, "\ud83d")


def test_a_long_cursor_is_shortened_in_the_message_only() -> None:
    cursor = "c" * 80 + "d"
    walk = PageCursor(Position(filters="f", cursor=cursor), 1)
    with pytest.raises(CursorLoopError, match="cursor 'c{80}' a second time, after 1 pages$") as caught:
        walk.advance(Position(filters="f", cursor=cursor), cursor)
    assert caught.value.cursor == cursor


# Raw pages


def test_raw_pages_follow_the_cursor_of_each_body() -> None:
    bodies = {None: "b", "b": "c", "c": None}

    async def main() -> None:
        asked = []

        async def fetch(here: Position) -> RawResponse:
            asked.append(here.cursor)
            return RawResponse(body=b"x", response=ResponseInfo(), next_cursor=bodies[here.cursor])

        service = Service(numbered(1))
        source: PageSource[RawResponse] = PageSource(fetch, Position(filters="f"), spawn=service.spawn)
        raw = RawPages(source, label="raw")
        assert [response.next_cursor async for response in raw] == ["b", "c", None]
        assert (await raw).next_cursor == "b"
        await settle()
        assert asked == [None, "b", "c", None]

    run(main())


def test_a_raw_body_whose_cursor_cannot_be_read_is_handed_out_before_the_error() -> None:
    """The body is what was asked for; only going on is impossible."""

    async def main() -> None:
        error = DecodeError("next_cursor must be a string", path="$.next_cursor")

        async def fetch(here: Position) -> RawResponse:
            return RawResponse(body=b"x", response=ResponseInfo(), cursor_error=error)

        service = Service(numbered(1))
        raw = RawPages(PageSource(fetch, Position(filters="f"), spawn=service.spawn), label="raw")
        pages = aiter(raw)
        page = await anext(pages)
        assert page.body == b"x"
        for _ in range(3):
            with pytest.raises(DecodeError) as caught:
                await anext(pages)
            assert caught.value is error
            assert len(_frames(error)) < 5
        for name in ("next_cursor", "has_more"):
            with pytest.raises(DecodeError):
                getattr(page, name)

    run(main())


def test_many_long_cursors_are_not_kept() -> None:
    """A loop is detected by digests: 20,000 cursors of 60 kB would be 1.2 GB."""
    walk = PageCursor(Position(filters="f"), 1)
    here = walk.position
    tracemalloc.start()
    try:
        for number in range(50):
            assert here is not None
            here = walk.advance(here, f"{number:060000}")
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 4 * 60_000
    assert here is not None
    with pytest.raises(CursorLoopError):
        walk.advance(here, f"{7:060000}")


@pytest.mark.parametrize("by_page", [False, True])
def test_an_iteration_can_be_closed_early(by_page: bool) -> None:
    """An iterator held in a variable outlives ``break``; ``aclosing`` ends it and its prefetch."""

    async def main() -> None:
        service = Service(numbered(5))
        service.gates[(0, "c1")] = asyncio.Event()
        iteration: Any = service.list().pages() if by_page else aiter(service.list())
        async with contextlib.aclosing(iteration):
            await anext(iteration)
            await soon(service.started[(0, "c1")].wait())
        await settle()
        assert service.cancelled == [(0, "c1")]
        with pytest.raises(StopAsyncIteration):
            await anext(iteration)

    run(main())


@pytest.mark.parametrize("by_page", [False, True])
@pytest.mark.parametrize("max_pages", [None, 3])
def test_closing_an_iteration_while_a_page_is_fetched_ends_it_after_that_page(
    by_page: bool, max_pages: int | None
) -> None:
    """Another task may end a walk. It must not go on after that, least of all past its number of pages."""

    async def main() -> None:
        service = Service(numbered(9))
        gate = service.gates[(0, "c1")] = asyncio.Event()
        source = service.list(prefetch=0, max_pages=max_pages)
        iteration: Any = source.pages() if by_page else aiter(source)
        reader = asyncio.create_task(gather(iteration, []))
        await soon(service.started[(0, "c1")].wait())
        await iteration.aclose()
        gate.set()
        await soon(reader)
        assert service.asked == [(0, None), (0, "c1")]

    run(main())


# Errors that pass through


@pytest.mark.parametrize("error", [ServerError("x"), TrutoError("x"), ValueError("x"), KeyboardInterrupt()])
def test_errors_of_a_fetch_are_raised_unchanged(error: BaseException) -> None:
    async def main() -> None:
        service = Service(numbered(2))
        service.failures[(0, None)] = [error, error, error]
        uses: list[Callable[[Paginator[int]], Awaitable[Any]]] = [
            lambda p: p.page(),
            lambda p: p.collect(),
            lambda p: p.first(),
        ]
        for use in uses:
            with pytest.raises(type(error)) as caught:
                await use(service.list())
            assert caught.value is error

    run(main())


def test_an_iterator_is_its_own_iterator() -> None:
    service = Service(numbered(1))
    items = aiter(service.list())
    pages = service.list().pages()
    assert isinstance(items, Items)
    assert isinstance(pages, Pages)
    assert aiter(items) is items
    assert aiter(pages) is pages

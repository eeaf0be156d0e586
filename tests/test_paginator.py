"""Walks over pages, with fakes: a callable that fetches the page at a place, no client and no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from truto_ci_async._http.tasks import start_task
from truto_ci_async.errors import CursorLoopError, ServerError, TrutoError, UsageError
from truto_ci_async.models import Page, Position, RawResponse, ResponseInfo
from truto_ci_async.pagination.cursor import PageCursor, following
from truto_ci_async.pagination.paginator import Items, Pages, PageSource, Paginator, RawPages

from .support import examples, run

DEADLINE = 5.0
# Tasks can do their first step before the loop has a turn.
EAGER = sys.version_info >= (3, 12)
# Turns of the loop in which a thing that is going to happen has happened.
TURNS = 20

Numbered = tuple[int, ...]
# The pages of one leg: the items of each, and the cursor it gives.
Leg = list[tuple[Numbered, str | None]]
Start = tuple[int, str | None]


def leg(*pages: Sequence[int], end: str | None = None, name: str = "c") -> Leg:
    """One leg whose pages hold these items; the last one gives ``end`` as its cursor."""
    last = len(pages) - 1
    return [(tuple(items), end if i == last else f"{name}{i + 1}") for i, items in enumerate(pages)]


def numbered(pages: int, size: int = 2) -> Leg:
    return leg(*(range(i * size, (i + 1) * size) for i in range(pages)))


class Service:
    """Answers the pages of its legs, counts what it was asked, and holds back or fails what it is told to."""

    def __init__(self, *legs: Leg, awaits: int = 1) -> None:
        self.legs = legs
        self.awaits = awaits
        self.asked: list[Start] = []
        self.answered: list[Start] = []
        self.cancelled: list[Start] = []
        self.started: defaultdict[Start, asyncio.Event] = defaultdict(asyncio.Event)
        self.gates: dict[Start, asyncio.Event] = {}
        self.failures: dict[Start, list[BaseException]] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.spawned = self.most_tasks = 0

    async def fetch(self, here: Position) -> Page[int]:
        place = (here.chunk, here.cursor)
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
        self.answered.append(place)
        return Page(items, next_cursor=cursor, position=following(here, cursor, len(self.legs)))

    def _page(self, place: Start) -> tuple[Numbered, str | None]:
        pages = self.legs[place[0]]
        if place[1] is None:
            return pages[0]
        cursors = [cursor for _, cursor in pages]
        return pages[cursors.index(place[1]) + 1]

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """As the client does: the task is registered, and its failure is not reported as never looked at."""
        task = start_task(work)
        self.tasks.add(task)
        self.spawned += 1
        self.most_tasks = max(self.most_tasks, len(self.tasks))
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda task: None if task.cancelled() else task.exception() and None)
        return task

    def walkable(self, start: Position | None = None, **options: Any) -> PageSource[Page[int]]:
        return PageSource(
            self.fetch,
            start or Position(filters="f"),
            spawn=self.spawn,
            chunks=len(self.legs),
            account="acc",
            **options,
        )

    def list(self, start: Position | None = None, **options: Any) -> Paginator[int]:
        return Paginator(self.walkable(start, **options), label="list of numbers")

    @property
    def all(self) -> list[int]:
        return [item for pages in self.legs for items, _ in pages for item in items]


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, DEADLINE)


async def gather(walk: AsyncIterable[int], seen: list[int]) -> None:
    """PageCursor to the end, or to the error, and keep what came before it."""
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
def test_an_empty_page_with_a_cursor_goes_on(prefetch: int) -> None:
    """Truto's own Python client ends its walk there, and the records after it are lost."""
    service = Service(leg([], [1], [], [], [2, 3], []))
    assert run(items_of(service.list(prefetch=prefetch))) == [1, 2, 3]
    assert len(service.asked) == 6


@pytest.mark.parametrize("end", [None, ""])
def test_a_null_or_empty_cursor_ends_the_walk(end: str | None) -> None:
    service = Service(leg([1], [2], end=end))
    assert run(items_of(service.list())) == [1, 2]
    assert len(service.asked) == 2


def test_a_walk_of_no_items_at_all_is_empty() -> None:
    async def main() -> None:
        service = Service(leg([]))
        assert await items_of(service.list()) == []
        assert await service.list().collect() == []
        assert await service.list().first() is None
        assert list(await service.list()) == []

    run(main())


def test_pages_carry_their_cursor_and_the_position_after_them() -> None:
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
        paginator = service.list()
        assert await items_of(paginator) == await items_of(paginator) == service.all
        assert len([page async for page in paginator.pages()]) == 3
        assert service.asked == [(0, None), (0, "c1"), (0, "c2")] * 3

    run(main())


def test_two_iterations_of_one_paginator_go_side_by_side() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        paginator = service.list()
        first, second = aiter(paginator), aiter(paginator)
        seen = [(await anext(first), await anext(second)) for _ in service.all]
        assert seen == [(item, item) for item in service.all]

    run(main())


def test_an_ended_iteration_stays_ended_and_asks_nothing() -> None:
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
    with pytest.raises(UsageError, match="prefetch is 1"):
        Service(numbered(1)).list(**wrong)


@pytest.mark.parametrize("wrong", [0, -1, True, "3", 1.5])
def test_max_pages_is_a_count(wrong: Any) -> None:
    with pytest.raises(UsageError, match="max_pages is 1 or more"):
        Service(numbered(1)).list(max_pages=wrong)


@pytest.mark.parametrize("wrong", [-1, True, "3", 1.5])
def test_max_items_is_a_count(wrong: Any) -> None:
    with pytest.raises(UsageError, match="max_items is 0 or more"):
        run(Service(numbered(1)).list().collect(wrong))


def test_the_repr_says_what_to_do() -> None:
    service = Service(numbered(1))
    assert "`await` it" in repr(service.list())
    assert "`async for`" in repr(service.list())
    raw = RawPages(service.walkable(), label="raw numbers")  # type: ignore[arg-type]
    assert "`await` it" in repr(raw)
    assert "`async for`" in repr(raw)


# Cursors that come again


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("length", range(1, 7))
def test_a_ring_of_cursors_is_an_error_after_every_page_of_it_was_handed_over(
    length: int, prefetch: int
) -> None:
    """The first page and the ring: n + 1 requests, and not one more."""
    service = Service(leg(*([i] for i in range(length + 1)), end="c1"))

    async def main() -> None:
        seen: list[int] = []
        with pytest.raises(CursorLoopError, match="'c1' a second time") as caught:
            await gather(service.list(prefetch=prefetch), seen)
        await settle()
        assert seen == list(range(length + 1))
        assert len(service.asked) == length + 1
        assert (caught.value.cursor, caught.value.account, caught.value.pages) == ("c1", "acc", length + 1)

    run(main())


def test_a_ring_further_down_the_walk_is_seen_too() -> None:
    service = Service(leg([0], [1], [2], [3], end="c2"))
    with pytest.raises(CursorLoopError):
        run(items_of(service.list()))
    assert len(service.asked) == 4


def test_a_ring_through_the_cursor_a_walk_began_at_is_seen() -> None:
    service = Service(leg([0], [1], [2], end="c1"))
    with pytest.raises(CursorLoopError):
        run(items_of(service.list(Position(filters="f", cursor="c1"))))
    assert service.asked == [(0, "c1"), (0, "c2")]


def test_empty_pages_do_not_hide_a_ring() -> None:
    service = Service(leg([], [], end="c1"))
    with pytest.raises(CursorLoopError):
        run(service.list().collect())
    assert len(service.asked) == 2


def test_asking_on_after_a_ring_is_the_same_error_and_no_request() -> None:
    async def main() -> None:
        service = Service(leg([0], [1], end="c1"))
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


def test_one_page_asked_for_of_a_ring_is_no_error() -> None:
    """Who stops before the ring closes, or exactly there, got what was asked for."""

    async def main() -> None:
        service = Service(leg([0], [1], end="c1"))
        assert await service.list(max_pages=2).collect() == [0, 1]
        assert await service.list().collect(2) == [0, 1]
        assert (await service.list()).items == (0,)

    run(main())


def test_each_leg_has_cursors_of_its_own() -> None:
    """The service may well give the same cursor for the same offset of another group of users."""
    service = Service(leg([0], [1], [2]), leg([3], [4], [5]), leg([6]))
    assert run(items_of(service.list())) == list(range(7))


def test_a_ring_in_a_later_leg_is_seen_after_the_earlier_ones() -> None:
    service = Service(leg([0], [1]), leg([2], [3], end="c1"))

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
            await settle()  # time enough for a fetch ahead
            pages.append(page)
        assert len(pages) == len(service.asked) == min(max_pages, 5)
        assert pages[-1].has_more is (max_pages < 5)

    run(main())


def test_max_pages_counts_over_all_legs() -> None:
    service = Service(leg([0], [1]), leg([2], [3]))
    assert run(items_of(service.list(max_pages=3))) == [0, 1, 2]
    assert len(service.asked) == 3


def test_awaiting_gives_the_first_page_and_fetches_nothing_ahead() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        paginator = service.list()
        first, again = await paginator, await paginator.page()
        await settle()
        assert first.items == again.items == (0, 1)
        assert service.asked == [(0, None)] * 2
        assert service.most_tasks == 0

    run(main())


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("max_items", [0, 1, 2, 3, 4, 5, 6, 7, 100, None])
def test_collect_fetches_no_page_in_vain(max_items: int | None, size: int) -> None:
    async def main() -> None:
        service = Service(numbered(3, size))
        items = await service.list().collect(max_items)
        await settle()
        assert items == service.all[:max_items]
        wanted = 3 if max_items is None else min(3, -(-max_items // size))
        assert len(service.asked) == wanted, "nor is one begun and dropped"
        assert service.cancelled == []

    run(main())


def test_collect_of_a_count_passes_over_empty_pages() -> None:
    service = Service(leg([], [1], [], [2], [3]))
    assert run(service.list().collect(2)) == [1, 2]
    assert len(service.asked) == 4


def test_first_gives_the_first_item_and_fetches_no_page_after_it() -> None:
    async def main() -> None:
        service = Service(leg([], [], [7, 8], [9]))
        assert await service.list().first() == 7
        await settle()
        assert len(service.asked) == 3

    run(main())


def test_first_tells_an_item_that_is_false_from_none() -> None:
    assert run(Service(leg([0], [1])).list().first()) == 0


# Fetching ahead


def test_the_next_page_is_fetched_while_the_consumer_works_on_this_one() -> None:
    async def main() -> None:
        service = Service(numbered(4))
        seen = 0
        async for item in service.list():
            seen += 1
            page = item // 2
            if page < 3:
                # Nobody asks for the next page before this returns.
                await soon(service.started[(0, f"c{page + 1}")].wait())
                await settle()
                assert len(service.answered) == page + 2, "one page ahead, whole, and no more than one"
        assert seen == 8
        assert service.most_tasks == 1

    run(main())


@pytest.mark.parametrize("has_factory", [False, True])
@pytest.mark.parametrize("awaits", [False, True])
def test_a_task_fetches_ahead_where_that_gains_something(awaits: bool, has_factory: bool) -> None:
    """Who awaits nothing is back before a task could begin at the loop's next turn, and then needs none."""

    async def main() -> None:
        service = Service(numbered(4))
        loop = asyncio.get_running_loop()
        if has_factory:  # its tasks may begin whenever it likes
            loop.set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
        async for _ in service.list().pages():
            if awaits:
                await asyncio.sleep(0)
        assert service.spawned == (3 if awaits else 2 if EAGER and not has_factory else 0)
        assert len(service.asked) == 4

    run(main())


@pytest.mark.parametrize("by_page", [False, True])
def test_the_next_page_is_fetched_while_the_consumer_works_without_awaiting(by_page: bool) -> None:
    """Its request has to be under way before the page is handed over, since nothing happens until the next one."""

    async def main() -> None:
        service = Service(numbered(5, size=1))
        asked: list[int] = []
        walk: Any = service.list().pages() if by_page else service.list()
        async for _ in walk:
            asked.append(len(service.asked))  # noqa: PERF401
        # Not after the first page: a search may end there, and its request would be for nothing.
        assert asked == ([1, 3, 4, 5, 5] if EAGER else [1, 2, 3, 4, 5])

    run(main())


def test_collecting_fetches_nothing_ahead() -> None:
    """Pages that are worked on only when all are here have nothing to be fetched beside."""

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


def test_the_next_leg_is_fetched_ahead_too() -> None:
    async def main() -> None:
        service = Service(leg([0]), leg([1]))
        pages = service.list().pages()
        assert (await anext(pages)).items == (0,)
        await soon(service.started[(1, None)].wait())
        assert [page.items async for page in pages] == [(1,)]

    run(main())


@pytest.mark.parametrize("by_page", [False, True])
def test_break_cancels_the_fetch_ahead_at_once(by_page: bool) -> None:
    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        walk: Any = service.list().pages() if by_page else service.list()
        async for _ in walk:
            await soon(service.started[(0, "c1")].wait())
            (ahead,) = service.tasks
            break
        # In the very same step: nothing has been awaited since. (An iterator the caller made, and still holds,
        # goes on, so by_page drops it.)
        del walk
        assert ahead.cancelling() == 1
        await settle()
        assert service.tasks == set()
        assert service.cancelled == [(0, "c1")]

    run(main())


def test_an_exception_in_the_body_cancels_the_fetch_ahead() -> None:
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


def test_dropping_an_iterator_nobody_awaits_cancels_its_fetch_ahead() -> None:
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


def test_breaking_while_the_fetch_ahead_has_not_begun_leaves_nothing() -> None:
    """A task that is cancelled before its first step must not leave a coroutine that was never awaited."""

    async def main() -> None:
        service = Service(numbered(3))
        async for _ in service.list():
            break
        await settle()
        assert service.asked == [(0, None)]
        assert service.tasks == set()

    run(main())


def test_a_dropped_fetch_ahead_that_failed_is_not_reported_by_anyone() -> None:
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


def test_a_fetch_ahead_that_failed_is_told_when_its_page_is_asked_for() -> None:
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
        paginator = service.list(prefetch=prefetch)
        walk: Any = paginator.pages() if by_page else aiter(paginator)
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
    """What a failed walk holds goes with its last reference, not with the next round of garbage collection."""

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
    """Swept over every turn of the loop: the consumer ends as cancelled, the fetch ahead ends with it."""

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
        assert ended, "the sweep came to the end of the walk"

    run(main())


@pytest.mark.parametrize("by_page", [False, True])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_iterating_on_after_a_cancelled_step_loses_nothing(prefetch: int, by_page: bool) -> None:
    """Also when it was the fetch ahead that was waited for: what goes with it is fetched again."""

    async def main() -> None:
        for work in range(5):  # turns the consumer takes for itself: the fetch ahead is further on then
            for turns in range(8):
                service = Service(leg([0, 1], [], [2], [3, 4]), leg([5], [6, 7]), awaits=3)
                paginator = service.list(prefetch=prefetch)
                walk: Any = paginator.pages() if by_page else aiter(paginator)
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


def test_a_timeout_around_one_step_is_the_consumers_own() -> None:
    """It must not be taken for the closing of the client."""

    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(pages)
        await settle()
        assert service.cancelled == [(0, "c1")]
        service.gates.clear()
        assert [page.items async for page in pages] == [(2, 3), (4, 5)]

    run(main())


def test_a_walk_whose_fetch_ahead_is_ended_from_outside_says_that_the_client_was_closed() -> None:
    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        waiting = asyncio.ensure_future(anext(pages))
        await soon(service.started[(0, "c1")].wait())
        for task in service.tasks:
            task.cancel()
        with pytest.raises(UsageError, match="closed"):
            await soon(waiting)

    run(main())


# Misuse


@pytest.mark.parametrize("by_page", [False, True])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_two_tasks_on_one_iteration_are_told_so(prefetch: int, by_page: bool) -> None:
    async def main() -> None:
        service = Service(numbered(3, size=1))
        paginator = service.list(prefetch=prefetch)
        walk: Any = paginator.pages() if by_page else aiter(paginator)
        service.gates[(0, None)] = asyncio.Event()
        first = asyncio.ensure_future(anext(walk))
        await soon(service.started[(0, None)].wait())
        with pytest.raises(UsageError, match="two tasks"):
            await anext(walk)
        service.gates[(0, None)].set()
        await soon(first)
        rest = [item async for item in walk]
        assert len(rest) == 2, "the iteration itself took no harm"

    run(main())


def test_two_tasks_on_one_iteration_are_told_so_while_they_wait_for_the_fetch_ahead() -> None:
    async def main() -> None:
        service = Service(numbered(2))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        first = asyncio.ensure_future(anext(pages))
        await settle()
        with pytest.raises(UsageError, match="two tasks"):
            await anext(pages)
        service.gates[(0, "c1")].set()
        assert (await soon(first)).items == (2, 3)

    run(main())


# Threads and loops


def test_an_iterator_dropped_by_another_thread_cancels_its_fetch_ahead() -> None:
    """Garbage collection runs in whatever thread it likes."""

    async def main() -> None:
        service = Service(numbered(3))
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        await soon(service.started[(0, "c1")].wait())
        (ahead,) = service.tasks
        held: list[object] = [pages]
        del pages
        dropper = threading.Thread(target=held.clear)
        dropper.start()
        await asyncio.wait({ahead}, timeout=DEADLINE)
        dropper.join(DEADLINE)
        assert ahead.cancelled()

    run(main())


def _walk_to_the_second_page(
    loop: asyncio.AbstractEventLoop, service: Service
) -> tuple[AsyncIterator[Page[int]], asyncio.Task[Any]]:
    async def begin() -> AsyncIterator[Page[int]]:
        service.gates[(0, "c1")] = asyncio.Event()
        pages = service.list().pages()
        await anext(pages)
        await soon(service.started[(0, "c1")].wait())
        return pages

    pages = loop.run_until_complete(begin())
    (ahead,) = service.tasks
    return pages, ahead


def test_an_iterator_dropped_between_two_runs_of_its_loop_cancels_its_fetch_ahead() -> None:
    """As in a notebook, or with ``loop.run_until_complete`` called for each step."""
    loop = asyncio.new_event_loop()
    try:
        pages, ahead = _walk_to_the_second_page(loop, Service(numbered(3)))
        del pages
        loop.run_until_complete(asyncio.wait({ahead}, timeout=DEADLINE))
        assert ahead.cancelled()
    finally:
        loop.close()


def test_an_iterator_dropped_after_its_loop_was_closed_does_no_harm() -> None:
    loop = asyncio.new_event_loop()
    pages, ahead = _walk_to_the_second_page(loop, Service(numbered(3)))
    loop.close()
    del pages  # an exception in __del__ would be a warning, and so an error
    gc.collect()
    assert not ahead.done()
    # Closing a loop over a pending task is the test's doing: asyncio would complain about it, rightly.
    ahead._log_destroy_pending = False  # type: ignore[attr-defined]
    ahead.get_coro().close()  # type: ignore[union-attr]


# Legs


def test_legs_are_walked_one_after_the_other_and_positions_carry_theirs() -> None:
    async def main() -> None:
        service = Service(leg([0, 1], [2]), leg([]), leg([3], [4]))
        pages = [page async for page in service.list().pages()]
        places = [(page.position.chunk, page.position.cursor) for page in pages if page.position]
        assert places == service.asked[1:] == [(0, "c1"), (1, None), (2, None), (2, "c1")]
        assert pages[1].next_cursor is None, "the service's own word: null at the end of a leg"
        assert pages[1].has_more
        assert pages[-1].position is None

    run(main())


@st.composite
def layouts(draw: st.DrawFn) -> list[Leg]:
    """Legs of pages of random sizes; cursors may be the same in two legs, never twice in one."""
    count = iter(range(10_000))
    legs = []
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
        legs.append(list(zip(pages, ends, strict=True)))
    return legs


@given(layouts(), st.sampled_from([0, 1]))
@example([[((0,), "truto-position-1."), ((1,), None)]], 1)
@examples(60)
def test_resuming_from_any_stored_position_gives_exactly_the_rest(legs: list[Leg], prefetch: int) -> None:
    async def main() -> None:
        service = Service(*legs, awaits=0)
        pages = [page async for page in service.list(prefetch=prefetch).pages()]
        assert [item for page in pages for item in page] == service.all
        assert len(service.asked) == sum(map(len, legs))
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
def test_collect_of_any_count_is_the_beginning_and_asks_for_no_page_it_does_not_need(
    legs: list[Leg], data: st.DataObject
) -> None:
    async def main() -> None:
        service = Service(*legs, awaits=0)
        wanted = data.draw(st.integers(1, len(service.all) + 1))
        assert await service.list().collect(wanted) == service.all[:wanted]
        await settle()
        needed = had = 0
        for items, _ in (page for pages in legs for page in pages):
            needed += 1
            had += len(items)
            if had >= wanted:
                break
        assert len(service.asked) == needed

    run(main())


def test_a_walk_is_pure_state() -> None:
    """Streams walk with it too, without tasks or pages."""
    walk = PageCursor(Position(filters="f"), 2, account="acc")
    here = walk.position
    assert here is not None
    assert walk.advance(here, "a") == Position(filters="f", cursor="a") == walk.position
    assert walk.advance(Position(filters="f", cursor="a"), None) == Position(filters="f", chunk=1)
    assert walk.advance(Position(filters="f", chunk=1), "a") == Position(filters="f", chunk=1, cursor="a")
    with pytest.raises(CursorLoopError):
        walk.advance(Position(filters="f", chunk=1, cursor="a"), "a")


# Raw pages


def test_raw_pages_go_on_by_the_cursor_of_each_body() -> None:
    bodies = {None: "b", "b": "c", "c": None}

    async def main() -> None:
        asked = []

        async def fetch(here: Position) -> RawResponse:
            asked.append(here.cursor)
            return RawResponse(body=b"x", response=ResponseInfo(), next_cursor=bodies[here.cursor])

        service = Service(numbered(1))
        walkable: PageSource[RawResponse] = PageSource(fetch, Position(filters="f"), spawn=service.spawn)
        raw = RawPages(walkable, label="raw")
        assert [response.next_cursor async for response in raw] == ["b", "c", None]
        assert (await raw).next_cursor == "b"
        await settle()
        assert asked == [None, "b", "c", None]

    run(main())


def test_an_iteration_can_be_closed_early_and_by_name() -> None:
    """Held in a variable, an iterator outlives ``break``; ``aclosing`` ends it and its fetch ahead."""

    async def main() -> None:
        service = Service(numbered(5))
        for iteration in (service.list().pages(), aiter(service.list())):
            async with contextlib.aclosing(iteration):
                await anext(iteration)
            with pytest.raises(StopAsyncIteration):
                await anext(iteration)
        await settle()

    run(main())


# Types of failure that pass through


@pytest.mark.parametrize("error", [ServerError("x"), TrutoError("x"), ValueError("x"), KeyboardInterrupt()])
def test_errors_of_a_fetch_come_out_as_they_are(error: BaseException) -> None:
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

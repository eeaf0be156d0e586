"""Walks over cursor pages: items by ``async for``, pages where the cursor is needed.

A walk is given a callable that fetches one page, and knows nothing of clients, retries or HTTP. Its guards:
only a null, empty or absent cursor ends it; an empty page with a cursor goes on; a cursor seen before in this
walk is an error (contract section 2). Iterating twice starts twice, since state lives in the iteration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, Generic, TypeVar

from truto_ci_async._http.tasks import call_in_loop, starts_at_once
from truto_ci_async.errors import CursorLoopError, UsageError
from truto_ci_async.models import Page, Position, RawResponse

from .cursor import HasNextCursor, PageCursor

T = TypeVar("T")
P = TypeVar("P", bound=HasNextCursor)


# Fetch the page at a place; retries are inside it.
Fetch = Callable[[Position], Coroutine[Any, Any, P]]
# Start a task, by ``started``, that the client cancels when it closes.
Spawn = Callable[[Coroutine[Any, Any, P]], "asyncio.Task[P]"]


class PageSource(Generic[P]):
    """What to walk and how: shared by every iteration, changed by none."""

    def __init__(
        self,
        fetch: Fetch[P],
        start: Position,
        *,
        spawn: Spawn[P],
        chunks: int = 1,
        prefetch: int = 1,
        max_pages: int | None = None,
        account: str | None = None,
    ) -> None:
        if prefetch not in (0, 1):
            raise UsageError(
                f"prefetch is 1 (fetch the next page while you work on this one) or 0, not {prefetch!r}"
            )
        if max_pages is not None and not _is_count(max_pages, least=1):
            raise UsageError(f"max_pages is 1 or more, or None for all, not {max_pages!r}")
        self.fetch = fetch
        self.start = start
        self.spawn = spawn
        self.chunks = chunks
        self.prefetch = prefetch
        self.max_pages = max_pages
        self.account = account

    def walk(self) -> PageCursor:
        return PageCursor(self.start, self.chunks, account=self.account)


class Pages(Generic[P]):
    """The pages of one walk, by ``async for``; owns at most one task, which fetches the page ahead.

    An error leaves the walk where it was: asking again fetches the same page again. Dropping the iterator,
    as a ``break`` does, cancels the fetch ahead at once. ``prefetch=False`` is for who works on pages only when all of
    them are here.
    """

    __slots__ = (
        "_ahead",
        "_asking",
        "_left",
        "_loop_error",
        "_prefetch",
        "_walk",
        "_walkable",
        "__weakref__",
    )

    def __init__(self, walkable: PageSource[P], *, prefetch: bool = True) -> None:
        self._walkable = walkable
        self._walk = walkable.walk()
        self._left = walkable.max_pages
        self._ahead: _Prefetch[P] | None = None
        self._asking = False
        self._loop_error: CursorLoopError | None = None
        self._prefetch = prefetch and walkable.prefetch > 0

    def __aiter__(self) -> Pages[P]:
        return self

    async def __anext__(self) -> P:
        if self._asking:
            raise UsageError(
                "two tasks ask this iterator for the next page at once; give each its own iteration"
            )
        here = self._walk.position
        if here is None or self._left == 0:
            raise StopAsyncIteration
        if self._loop_error is not None:
            raise self._loop_error.with_traceback(None)  # or it would grow each time it is raised
        self._asking = True
        ahead, self._ahead = self._ahead, None
        try:
            page = await (self._walkable.fetch(here) if ahead is None else ahead.page())
        finally:
            self._asking = False
            del ahead  # a failed fetch, its error and this frame would be a cycle
        if self._left is not None:
            self._left -= 1
        try:
            following = self._walk.advance(here, page.next_cursor)
        except CursorLoopError as error:
            self._loop_error = error  # this page is good and handed over first
            return page
        if following is not None and self._prefetch and self._left != 0:
            # Many loops break off on their first page: until somebody came back for a second one, no request goes
            # out for who may be gone before the loop has a turn.
            self._ahead = _Prefetch(self._walkable, following, at_once=self._walk.pages > 1)
        return page

    async def aclose(self) -> None:
        """End the walk, and drop the fetch ahead; dropping the iterator does the same."""
        self._left = 0
        self.cancel()

    def cancel(self) -> None:
        """Drop the fetch ahead, if there is one."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()

    def __del__(self) -> None:
        self.cancel()


class _Prefetch(Generic[P]):
    """The fetch of the next page, by a task that begins ``at_once``, if it can, or at the loop's next turn.

    Begun at once, a request is under way also while a consumer works without awaiting anything. At the next turn, such
    a consumer is back before that, and fetches by itself, which spares the task.

    Nothing here refers to the iterator: a task would keep it alive past a ``break``.
    """

    __slots__ = ("_begin_soon", "_here", "_loop", "_task", "_walkable")

    def __init__(self, walkable: PageSource[P], here: Position, *, at_once: bool) -> None:
        self._walkable = walkable
        self._here = here
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[P] | None = None
        self._begin_soon: asyncio.Handle | None = None
        if at_once and starts_at_once(self._loop):
            self._begin()
        else:
            self._begin_soon = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begin_soon = None
        self._task = self._walkable.spawn(self._walkable.fetch(self._here))

    async def page(self) -> P:
        """Return the page. A cancellation of ours ends the fetch: nothing keeps running behind our back."""
        task, self._task = self._task, None
        if task is None:
            self._drop()
            return await self._walkable.fetch(self._here)
        try:
            return await task
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if task.cancelled() and waiter is not None and not waiter.cancelling():
                raise UsageError("the client was closed while this walk was going on") from None
            raise
        finally:
            del task  # a failed task, its error and this frame would be a cycle

    def cancel(self) -> None:
        """Drop the fetch; nothing happens when it is over."""
        call_in_loop(self._loop, self._drop)

    def _drop(self) -> None:
        if self._begin_soon is not None:
            self._begin_soon.cancel()
        if self._task is not None:
            self._task.cancel()


def _is_count(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class Items(Generic[T]):
    """The items of one walk, by ``async for``."""

    __slots__ = ("_items", "_pages")

    def __init__(self, pages: Pages[Page[T]]) -> None:
        self._pages = pages
        self._items: Iterator[T] = iter(())

    def __aiter__(self) -> Items[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            for item in self._items:  # the quickest way to take one that may not be there
                return item
            page = await self._pages.__anext__()
            self._items = iter(page.items)

    async def aclose(self) -> None:
        """End the walk, and drop the fetch ahead; dropping the iterator does the same."""
        self._items = iter(())
        await self._pages.aclose()


class Paginator(Generic[T]):
    """A list call that has not been made yet: ``await`` it for the first page, ``async for`` for every item.

        async for interaction in truto.interactions.list(account, start_time=..., end_time=...):
            print(interaction.row())

    Each use starts afresh at the given cursor. The next page is fetched while you work on this one
    (``prefetch=1``), unless only the first page is asked for; on Python 3.12 and newer, from the second page on, also
    while you work without awaiting anything. Errors are those of ``TrutoError``; the items before one have been
    handed over, and ``Page.position`` of the last page is where to go on.
    """

    def __init__(self, walkable: PageSource[Page[T]], *, label: str) -> None:
        self._walkable = walkable
        self._label = label

    def __aiter__(self) -> Items[T]:
        return Items(Pages(self._walkable))

    def pages(self) -> Pages[Page[T]]:
        """PageCursor page by page: each with its cursor, its position to resume from and how it was answered."""
        return Pages(self._walkable)

    def __await__(self) -> Generator[Any, Any, Page[T]]:
        return self.page().__await__()

    async def page(self) -> Page[T]:
        """Fetch the first page only; nothing is fetched ahead."""
        return await self._walkable.fetch(self._walkable.start)

    async def collect(self, max_items: int | None = None) -> list[T]:
        """Fetch all pages into one list, or as many as ``max_items`` needs; no page is fetched in vain."""
        if max_items is not None and not _is_count(max_items, least=0):
            raise UsageError(f"max_items is 0 or more, or None for all, not {max_items!r}")
        items: list[T] = []
        if max_items == 0:
            return items
        async for page in Pages(self._walkable, prefetch=False):
            items.extend(page.items)
            if max_items is not None and len(items) >= max_items:
                del items[max_items:]
                break
        return items

    async def first(self) -> T | None:
        """Return the first item, or None when there is none; empty pages are passed over."""
        return next(iter(await self.collect(1)), None)

    def __repr__(self) -> str:
        return f"<{self._label}: `await` it for the first page, or `async for` over it for every item>"


class RawPages:
    """A raw call that has not been made yet: ``await`` it for the first body, ``async for`` for each.

    Goes on only by a ``next_cursor`` at the top of a JSON body; nothing else of it is looked at.
    """

    def __init__(self, walkable: PageSource[RawResponse], *, label: str) -> None:
        self._walkable = walkable
        self._label = label

    def __aiter__(self) -> Pages[RawResponse]:
        return Pages(self._walkable)

    def __await__(self) -> Generator[Any, Any, RawResponse]:
        return self._walkable.fetch(self._walkable.start).__await__()

    def __repr__(self) -> str:
        return f"<{self._label}: `await` it for the first body, or `async for` over it for each>"

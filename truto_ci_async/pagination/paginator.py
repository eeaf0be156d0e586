"""Iterates over pages and their items, and fetches the next page while the caller works on this one.

A ``PageSource`` holds the callable that fetches one page, so nothing here knows about clients, retries or HTTP. What
ends a walk is decided in ``next_page``. All state lives in the iterator: iterating twice starts twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from msgspec import Struct

from truto_ci_async._checks import brief, is_whole_number
from truto_ci_async._http.tasks import call_in_loop
from truto_ci_async.errors import CursorLoopError, DecodeError, UsageError
from truto_ci_async.events import Emitter
from truto_ci_async.export.column_values import Part
from truto_ci_async.export.walks import FetchedPart, WalkFrames
from truto_ci_async.models import Page, Position, RawResponse

from .next_page import After, HasNextCursor, PageCursor
from .progress import show_progress

if TYPE_CHECKING:
    from truto_ci_async._progress import Progress

T = TypeVar("T")
P = TypeVar("P", bound=HasNextCursor)

# Fetches the page at a position, retries included.
Fetch: TypeAlias = Callable[[Position], Coroutine[Any, Any, P]]
# Starts a task that the client cancels when it closes.
Spawn: TypeAlias = "Callable[[Coroutine[Any, Any, P]], asyncio.Task[P]]"


class PageSource(Struct, Generic[P], frozen=True):
    """What to fetch, from where and how: shared by all iterations and never changed."""

    fetch: Fetch[P]
    start: Position
    spawn: Spawn[P]
    user_batches: int = 1
    prefetch: int = 1
    max_pages: int | None = None
    account: str | None = None
    emitter: Emitter | None = None

    def __post_init__(self) -> None:
        if not is_whole_number(self.prefetch, least=0) or self.prefetch > 1:
            raise UsageError(
                f"prefetch is 1 (fetch the next page while you work on this one) or 0, not {brief(self.prefetch)}"
            )
        if self.max_pages is not None and not is_whole_number(self.max_pages, least=1):
            raise UsageError(f"max_pages is 1 or more, or None for all, not {brief(self.max_pages)}")


class Pages(Generic[P]):
    """Iterates over the pages of one walk; owns at most one task, which fetches the next page.

    An error leaves the walk where it was, so asking again fetches the same page again. Dropping the iterator, as
    ``break`` does, cancels the prefetch at once. Pass ``prefetch=False`` if nothing happens between two pages.
    """

    __slots__ = (
        "_cursor",
        "_is_fetching",
        "_loop_error",
        "_may_prefetch",
        "_prefetch",
        "_source",
        "__weakref__",
    )

    def __init__(self, source: PageSource[P], *, prefetch: bool = True) -> None:
        self._source = source
        self._cursor = PageCursor(
            source.start, source.user_batches, account=source.account, max_pages=source.max_pages
        )
        self._may_prefetch = prefetch and source.prefetch > 0
        self._prefetch: Prefetch[P] | None = None
        self._is_fetching = False  # mutant: None is false too
        self._loop_error: CursorLoopError | DecodeError | None = None

    def __aiter__(self) -> Pages[P]:
        return self

    @property
    def position(self) -> Position | None:
        """Where to continue after the pages so far: for ``cursor=``. None at the end."""
        return self._cursor.position

    async def __anext__(self) -> P:
        if self._is_fetching:
            raise UsageError("two tasks use this iterator at once; give each one an iterator of its own")
        here = self._cursor.position
        if here is None or self._cursor.pages_left == 0:
            raise StopAsyncIteration
        if self._loop_error is not None:
            # Without its old traceback, which would grow each time.
            raise self._loop_error.with_traceback(None)
        self._is_fetching = True
        prefetch, self._prefetch = self._prefetch, None
        try:
            page = await (self._source.fetch(here) if prefetch is None else prefetch.page())
        finally:
            self._is_fetching = False  # mutant: None is false too
        try:
            after = None if prefetch is None else prefetch.after  # mutant: only saves time
            following = self._cursor.advance(here, page.next_cursor, after)  # mutant: only saves time
        except (CursorLoopError, DecodeError) as error:  # the latter from the cursor of a raw body
            self._loop_error = error  # raised at the next step: this page is good
            return page
        if prefetch is not None and prefetch.following is not None:
            self._prefetch = prefetch.following
        elif following is not None and self._may_prefetch and self._cursor.pages_left != 0:
            # Many loops stop at the first page. Until the second one is asked for, send nothing before the loop's
            # next turn, so that a break still prevents the request.
            self._prefetch = Prefetch(self._source, self._cursor, following, at_once=self._cursor.pages > 1)
        if self._cursor.pages_left == 0:  # closed during the fetch
            self.cancel()
        return page

    async def aclose(self) -> None:
        """End the iteration and cancel the prefetch. Dropping the iterator does the same.

        A task that is waiting for a page still gets that page, and then the end.
        """
        self._cursor.pages_left = 0
        self.cancel()

    def cancel(self) -> None:
        """Cancel the prefetch, if there is one."""
        prefetch, self._prefetch = self._prefetch, None
        if prefetch is not None:
            prefetch.cancel()

    def __del__(self) -> None:
        self.cancel()


class Prefetch(Generic[P]):
    """Fetches the next page in a task, which starts ``at_once`` or at the loop's next turn.

    If the caller waits for the page, that task also starts to fetch the page after it, before the caller gets the
    first. So that request is on its way even if the caller then never awaits.

    Nothing here refers to the iterator: the task would keep it alive after a ``break``.
    """

    __slots__ = (
        "_context",
        "_cursor",
        "_here",
        "_loop",
        "_source",
        "_start_handle",
        "_task",
        "after",
        "following",
    )

    def __init__(self, source: PageSource[P], cursor: PageCursor, here: Position, *, at_once: bool) -> None:
        # Known before the page is handed out, if that was waited for: what comes after it, and the fetch of that.
        self.after: After | None = None  # mutant: any other false value too
        self.following: Prefetch[P] | None = None
        self._source = source
        self._cursor = cursor
        self._here = here
        self._context: Context | None = None  # of the caller that waits
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[P] | None = None
        self._start_handle: asyncio.Handle | None
        if at_once:
            self._start()
        else:
            self._start_handle = self._loop.call_soon(self._start)

    def _start(self) -> asyncio.Task[P]:
        self._start_handle = None
        self._task = self._source.spawn(self._fetch())
        return self._task

    async def _fetch(self) -> P:
        page = await self._source.fetch(self._here)
        if self._context is not None:
            self._context.run(self._follow, page)
        return page

    def _follow(self, page: P) -> None:
        try:
            self.after = after = self._cursor.after(self._here, page.next_cursor)
        except DecodeError:  # of a raw body; the page after it is an error when it is asked for
            return
        if after.position is not None and not after.is_loop and self._cursor.pages_left not in (0, 1):
            self.following = Prefetch(self._source, self._cursor, after.position, at_once=True)

    async def page(self) -> P:
        """Return the page. If this wait is cancelled, the fetch is cancelled with it."""
        self._context = copy_context()
        if self._start_handle is not None:
            self._start_handle.cancel()
        task, self._task = self._task or self._start(), None
        try:
            return await task
        except asyncio.CancelledError:
            if self.following is not None:
                self.following.cancel()
            waiter = asyncio.current_task()
            if waiter is not None and not waiter.cancelling():  # so the task was cancelled, not this wait
                raise UsageError("the client was closed while its pages were being read") from None
            raise
        finally:
            del task  # breaks the cycle of a failed task, its error and this frame

    def cancel(self) -> None:
        """Cancel the fetch, from any thread; does nothing if it is over."""
        call_in_loop(self._loop, self._drop)

    def _drop(self) -> None:
        if self._start_handle is not None:
            self._start_handle.cancel()
        if self._task is not None:
            self._task.cancel()


class Items(Generic[T]):
    """Iterates over the items of one walk."""

    __slots__ = ("_items", "_pages")

    def __init__(self, pages: Pages[Page[T]]) -> None:
        self._pages = pages
        self._items: Iterator[T] = iter(())

    def __aiter__(self) -> Items[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            for item in self._items:  # quicker than next() with a default
                return item
            page = await self._pages.__anext__()
            self._items = iter(page.items)

    async def aclose(self) -> None:
        """End the iteration and cancel the prefetch. Dropping the iterator does the same."""
        self._items = iter(())
        await self._pages.aclose()


class PageParts:
    """The pages of one walk, for Arrow and data frames."""

    lead = None

    def __init__(self, pages: Pages[Page[Any]], item_type: Any) -> None:
        self.item_type = item_type
        self._pages = pages

    async def next_part(self) -> FetchedPart | None:
        async for page in self._pages:
            return FetchedPart(Part(page.items), page)
        return None

    def release(self, pages: Sequence[Any]) -> None:
        """Do nothing: there is nothing to mark."""


class Paginator(WalkFrames, Generic[T]):
    """A list call that has not been sent yet: ``await`` it for the first page, ``async for`` for every item.

        async for interaction in truto.interactions.list(account, start_time=..., end_time=...):
            print(interaction.row())

        frame = await truto.interactions.list(account, start_time=..., end_time=...).to_polars()

    Each use starts again at the given cursor. With ``prefetch=1`` the next page is fetched while you work on this one,
    unless you ask for the first page only; from the second page on, this also works while your code does not await.
    Errors are ``TrutoError``s. You have then received all items before the error, and ``Page.position`` of the last
    page is where to resume.
    """

    def __init__(self, source: PageSource[Page[T]], *, label: str, item_type: Any = None) -> None:
        self._source = source
        self._label = label
        self._item_type = item_type

    def __aiter__(self) -> Items[T]:
        return Items(Pages(self._source))

    def pages(self) -> Pages[Page[T]]:
        """Iterate page by page: each has its cursor, the position to resume from, and its response."""
        return Pages(self._source)

    def __await__(self) -> Generator[Any, Any, Page[T]]:
        return self.page().__await__()

    async def page(self) -> Page[T]:
        """Fetch the first page only, without a prefetch. ``await paginator`` is the same.

        :raises APIError: the service refuses the call; the subclass says what to do.
        :raises TransportError: the network failed, and so did the retries; it is safe to try again later.
        :raises DecodeError: the body is not what the API documents.
        """
        return await self._source.fetch(self._source.start)

    async def collect(self, max_items: int | None = None, *, progress: bool | None = None) -> list[T]:
        """Return all items, or the first ``max_items``, in one list. No more pages are fetched than needed.

        ``progress`` shows a line that says how far it is: None in a notebook only, True always, False never.

        :raises UsageError: ``max_items`` is not a whole number of 0 or more.
        :raises TrutoError: a page failed, as in ``page``. The items before it are dropped. To keep them, iterate over
            ``pages()`` and store ``Page.position``.
        """
        if max_items is not None and not is_whole_number(max_items, least=0):
            raise UsageError(f"max_items is 0 or more, or None for all, not {brief(max_items)}")
        items: list[T] = []
        if max_items == 0:
            return items
        with self.show_progress(progress) as line:
            async for page in Pages(self._source, prefetch=False):  # mutant: None is false too
                items.extend(page.items)
                if line is not None:
                    line.add(len(page.items))
                if max_items is not None and len(items) >= max_items:
                    del items[max_items:]
                    break
        return items

    def show_progress(self, wanted: bool | None) -> AbstractContextManager[Progress | None]:
        return show_progress(wanted, self._source.emitter, self._source.account)

    def part_source(self) -> PageParts:
        return PageParts(Pages(self._source), self._item_type)

    async def first(self) -> T | None:
        """Return the first item, or None if there is none. Empty pages are skipped.

        :raises TrutoError: a page failed, as in ``page``.
        """
        return next(iter(await self.collect(1, progress=False)), None)

    def __repr__(self) -> str:
        return f"<{self._label}: `await` it for the first page, or `async for` over it for every item>"


class RawPages:
    """A raw call that has not been sent yet: ``await`` it for the first body, ``async for`` for each.

    It continues while the JSON body has a ``next_cursor`` at its top level. If that cannot be read, the body is handed
    out and the next step raises DecodeError. Nothing else in the body is read.
    """

    def __init__(self, source: PageSource[RawResponse], *, label: str) -> None:
        self._source = source
        self._label = label

    def __aiter__(self) -> Pages[RawResponse]:
        return Pages(self._source)

    def __await__(self) -> Generator[Any, Any, RawResponse]:
        return self._source.fetch(self._source.start).__await__()

    def __repr__(self) -> str:
        return f"<{self._label}: `await` it for the first body, or `async for` over it for each>"

"""Reads large bodies as they arrive: as typed items, raw chunks or a file. Memory does not grow with the body.

``ItemStream`` goes from page to page; the bytes of one page are read in ``page_body``. Nothing runs in the background:
only waiting for bytes is timed, and a slow consumer slows down the sender. A read consumes nothing before its last
await, so a cancelled read can simply be repeated.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import anyio

from truto_ci_async._files import AtomicFile, Worker
from truto_ci_async._http.failures import drop_locals, mask_error
from truto_ci_async._progress import Counts, Progress
from truto_ci_async._wire.page_reader import cursor_text
from truto_ci_async._wire.responses import raise_for_cursor
from truto_ci_async.errors import (
    APIError,
    BodyTooLargeError,
    DecodeError,
    TransportError,
    TrutoError,
    UsageError,
)
from truto_ci_async.events import Emitter, PageDecoded
from truto_ci_async.export.walks import WalkFrames
from truto_ci_async.models import Issue, Position, ResponseInfo

from .next_page import PageCursor
from .page_body import Decoder, PageBody, media_type
from .progress import show_progress
from .stream_views import Batches, Chunks, Items, StreamParts

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from truto_ci_async._http.call import Reopen

T = TypeVar("T")

# Opens the page at a position.
Opener: TypeAlias = "Callable[[Position], Reopen]"

# Bytes collected for one write to a file. Each write is a round trip to another thread.
WRITE_SIZE = 2**20
# Repairs kept in ``issues``. Others are counted only.
ISSUES_KEPT = 100


class ItemStream(WalkFrames, Generic[T]):
    """A streamed list call. ``async with`` opens it, and closes it however the block ends.

        async with truto.interactions.stream(account_id, start_time=start, end_time=end) as stream:
            async for interaction in stream:
                print(interaction)

    Read it once, in one way: ``async for`` (items), ``batches()`` (lists of items, faster), ``arrow_batches()`` or
    ``to_polars()`` and the like (columns), ``chunks()`` (bytes of any content type) or ``save(path)``. Items are read
    in bounded memory and across pages (``follow_cursor``):

    - JSON: the array at ``path``. If it is missing, a DecodeError lists the keys that are there. The first byte
      decides, not the media type: services label JSON as ``text/plain``, as bytes, or not at all.
    - NDJSON (by its media type): one item per line, without ``path`` or cursors.
    - 204, 205 or ``Content-Length: 0`` on a first page: no items. Any other empty body is fetched again.
    - Anything else (a web page, a recording) is a DecodeError: use ``chunks()`` or ``save()`` for it.

    ``content_type``  media type of the response, in lower case.
    ``response``      status, headers and attempts of the page being read.
    ``bytes_read``    bytes read so far, after decompression.
    ``items_read``    items handed out so far.
    ``pages_read``    pages whose items were all read.
    ``issues``        the first hundred repaired records; ``issues_count`` counts all of them.
    ``position``      where to resume: the start of the page being read. None when all items were read; ``chunks()``
                      and ``save()`` do not move it.
    ``next_cursor``   the service's cursor after the last page whose items were all read.
    ``envelope``      everything around the items of that page; in it, an object or array of more than 256 KiB is
                      left as ``msgspec.Raw``.

    If a body breaks off before its first item, the page is fetched again, as in any call. After that nothing is
    repeated: the TransportError says how many ``items_read`` and ``bytes_read`` there were, and its ``position`` is the
    start of that page. A read that was cancelled can be repeated; after an error the stream is over.
    """

    def __init__(
        self,
        opener: Opener,
        new_decoder: Callable[[bool], Decoder[T]],
        cursor: PageCursor,
        *,
        follow_cursor: bool,
        max_stream_bytes: int | None,
        emitter: Emitter,
        account: str | None = None,
        item_type: Any = None,
        progress: bool | None = False,
    ) -> None:
        self._opener = opener
        self._new_decoder = new_decoder  # takes whether the body is NDJSON
        self._cursor = cursor
        self._follow_cursor = follow_cursor
        self._max_stream_bytes = max_stream_bytes
        self._emitter = emitter
        self._account = account
        self._item_type = item_type
        self._progress = progress
        self._shown = ExitStack()  # the line that says how far it is
        self._line: Progress | None = None
        self._entered = self._used = self._reading = False
        self._finished = self._failed = self._closed = False
        self._reopen: Reopen | None = None  # opens the page at ``position``
        self._failure: TransportError | None = None  # why that page has to be opened again
        self._opening: anyio.CancelScope | None = None  # while a response is awaited
        self._page: PageBody[T] | None = None
        self._whole_pages_bytes = 0
        self._items_taken = 0
        self._items_of_pages = 0  # of those that were reported
        self._batch: Iterator[T] = iter(())  # items that ``async for`` has not handed out yet
        self._issues: list[Issue] = []
        self._issues_count = 0
        self.response = ResponseInfo()
        self.pages_read = 0
        self.next_cursor: str | None = None
        self.envelope: dict[str, Any] = {}

    @property
    def position(self) -> Position | None:
        """Where to resume; None when all items were read."""
        return self._cursor.position

    @property
    def content_type(self) -> str:
        """Media type without its parameters, in lower case; empty if the service sent none."""
        return media_type(self.response)

    @property
    def bytes_read(self) -> int:
        """Bytes read so far, after decompression."""
        return self._whole_pages_bytes + (self._page.bytes_read if self._page is not None else 0)

    @property
    def items_read(self) -> int:
        """Items handed out so far."""
        return self._items_taken - length_hint(self._batch)

    @property
    def issues(self) -> list[Issue]:
        """The first hundred repairs so far."""
        decoder = self._page.decoder if self._page is not None else None
        return [*self._issues, *(decoder.issues if decoder is not None else [])][:ISSUES_KEPT]

    @property
    def issues_count(self) -> int:
        """Number of repairs so far."""
        decoder = self._page.decoder if self._page is not None else None
        return self._issues_count + (decoder.issues_count if decoder is not None else 0)

    async def __aenter__(self) -> Self:
        if self._entered or self._closed:
            raise UsageError("a stream is opened once; make a new one")
        self._entered = True
        self._line = self._shown.enter_context(self._new_line(self._progress))
        try:
            with self._one_reader():
                await self._open_page()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, trace)
        self.close()

    def close(self) -> None:
        """Give up the rest of the body; may be called twice. ``async with`` calls it for you.

        A task that is reading gets a ``UsageError``, also while it waits for a response.
        """
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        self._close_page()
        self._shown.close()

    def _new_line(self, wanted: bool | None) -> AbstractContextManager[Progress | None]:
        return show_progress(wanted, self._emitter, self._account)

    def show_progress(self, wanted: bool | None) -> AbstractContextManager[Progress | None]:
        return self._new_line(wanted) if self._line is None else nullcontext()

    def __aiter__(self) -> AsyncIterator[T]:
        self._use()
        return Items(self)

    def batches(self) -> AsyncIterator[list[T]]:
        """Hand out the items in lists, as their bytes arrive. Faster for bulk work than item by item."""
        self._use()
        return Batches(self)

    def part_source(self) -> StreamParts:
        self._use()
        return StreamParts(self, self._item_type)

    def chunks(self) -> AsyncIterator[bytes]:
        """Hand out the decompressed bytes of the body, of any content type. Cursors are not followed."""
        self._use()
        return Chunks(self)

    async def save(self, path: str | os.PathLike[str]) -> int:
        """Write the body to ``path`` and return its size in bytes. Cursors are not followed.

        The file appears whole or not at all: it is written under another name, synced and then renamed.

        :raises UsageError: ``path`` is a directory or a device.
        :raises OSError: the file cannot be written.
        """
        self._use()
        worker, file = Worker("truto-save"), AtomicFile(Path(path))
        try:
            await worker.run(file.open)
            pending: list[bytes] = []
            size = 0
            while (chunk := await self.next_chunk()) is not None:
                pending.append(chunk)
                size += len(chunk)
                if size >= WRITE_SIZE:
                    await worker.run(file.write, b"".join(pending))
                    pending, size = [], 0
            await worker.run(file.write, b"".join(pending))
            await worker.run(file.sync)
            await worker.run(file.publish)
        finally:
            with anyio.CancelScope(shield=True):
                await worker.run(file.discard)
            worker.close()
        return self.bytes_read

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._entered else "not opened: use `async with`"
        return f"<ItemStream {state}, {self.items_read:,} items, {self.bytes_read:,} bytes>"

    # --- what the views read ---------------------------------------------------------------------------

    def _use(self) -> None:
        if self._closed:
            raise UsageError("this stream is closed")
        if not self._entered:
            raise UsageError("open the stream first: async with ... as stream:")
        if self._used:
            raise UsageError("a stream is read once, in one way; make a new one to read again")
        self._used = True

    async def next_chunk(self) -> bytes | None:
        """Return the next bytes; None when the body has ended."""
        with self._one_reader():
            while True:
                page = self._page
                if page is None or not page.is_open:
                    page = await self._open_page()
                try:
                    chunk = await page.receive()
                except TransportError as error:
                    self._retry_or_raise(page, error)
                    continue
                page.handed_out = True
                page.bytes_read += len(chunk or b"")
                if self._line is not None:
                    self._line.follow(self._counts)
                return chunk

    def _counts(self) -> Counts:
        return Counts(self._items_taken, self.pages_read, f"{self.bytes_read:,} bytes")

    async def next_batch(self) -> list[T] | None:
        """Return the next items, at least one; None when all were read."""
        with self._one_reader():
            while not self._finished:
                page = self._page
                if page is None or not page.is_open:
                    page = await self._open_page()
                try:
                    if page.at_end:
                        self._finish_page(page)
                        continue
                    items = await page.step()
                except TransportError as error:
                    self._retry_or_raise(page, error)
                    continue
                if items:
                    page.handed_out = True
                    self._items_taken += len(items)
                    if self._line is not None:
                        self._line.follow(self._counts)
                    return items
            return None

    async def next_items(self) -> Iterator[T] | None:
        """Return an iterator over the next items; ``items_read`` leaves out those it still holds."""
        batch = await self.next_batch()
        if batch is None:
            return None
        self._batch = iter(batch)
        return self._batch

    @contextmanager
    def _one_reader(self) -> Generator[None]:
        """Allow one task to read at a time. An error ends the stream, and gets its counts and its position."""
        if self._closed:
            raise UsageError("this stream is closed")
        if self._failed:
            raise UsageError("this stream broke off; make a new one to start again at its position")
        if self._reading:
            raise UsageError("two tasks read this stream at once; give each a stream of its own")
        self._reading = True
        try:
            yield
        except TrutoError as error:
            if self._closed:
                raise UsageError("the stream was closed while it was being read") from error
            self._failed = True
            if isinstance(error, (TransportError, DecodeError, BodyTooLargeError)):
                error.account = self._account
            if isinstance(error, TransportError):
                error.items_read, error.bytes_read = self.items_read, self.bytes_read
                error.position = self.position
            elif isinstance(error, DecodeError) and self.position is not None:
                error.cursor = self.position.cursor
            if self._page is not None:
                mask_error(error, self._page.token)
            self._close_page()
            drop_locals(error)
            raise
        finally:
            self._reading = False

    # --- from page to page -----------------------------------------------------------------------------

    async def _open_page(self) -> PageBody[T]:
        """Open the page at the cursor's position, or open it again if it broke off."""
        here = self._cursor.position
        assert here is not None
        if self._reopen is None:
            self._reopen = self._opener(here)
        failure, self._failure = self._failure, None
        try:
            opened = None
            with anyio.CancelScope() as self._opening:
                opened = await self._reopen(failure)
            if opened is None:
                raise UsageError("the stream was closed while it was being read")
            body, self.response = opened
        except APIError as error:
            raise_for_cursor(error, here.cursor)
        finally:
            self._opening = None
            del failure  # breaks the cycle of the error, its frames and this one
        self._page = PageBody(body, self.response, self._new_decoder, cursor=here.cursor)
        if self._closed:
            self._page.close()
            raise UsageError("this stream is closed")
        self._page.start(self._max_stream_bytes, self._whole_pages_bytes)
        return self._page

    def _retry_or_raise(self, page: PageBody[T], error: TransportError) -> None:
        """Have the page opened again after ``error``, or raise it if some of the page was handed out."""
        is_retried = not (page.handed_out or self._closed)
        page.close(is_retried=is_retried)
        if not is_retried:
            error.attempts = self.response.attempts
            raise error
        self._failure = error

    def _finish_page(self, page: PageBody[T]) -> None:
        """Read the envelope of the page, and move on to the next page."""
        here = self._cursor.position
        assert here is not None
        envelope = page.envelope()
        self._report_page(page)
        self.next_cursor = cursor_text(envelope.get("next_cursor"))
        self.envelope = envelope
        self._close_page()
        self._page = self._reopen = None
        self._whole_pages_bytes += page.bytes_read
        self.pages_read += 1
        following = self._cursor.advance(here, self.next_cursor)
        self._finished = following is None or not self._follow_cursor

    def _report_page(self, page: PageBody[T]) -> None:
        if self._emitter.active:
            self._emitter.emit(
                PageDecoded(
                    time=self._emitter.now(),
                    account=self._account,
                    items=self._items_taken - self._items_of_pages,
                    issues=0 if page.decoder is None else page.decoder.issues_count,
                    bytes=page.bytes_read,
                    elapsed=page.decode_seconds,
                    call_id=page.call_id,
                )
            )
        self._items_of_pages = self._items_taken

    def _close_page(self) -> None:
        """Close the page, which will not be read further, and keep and report its repairs."""
        if self._page is None:
            return
        self._page.close()
        decoder, self._page.decoder = self._page.decoder, None
        if decoder is None or not decoder.issues_count:
            return
        found = list(decoder.issues)
        self._issues_count += decoder.issues_count
        self._issues.extend(found[: ISSUES_KEPT - len(self._issues)])
        self._emitter.report_repairs(found, count=decoder.issues_count, account=self._account)

"""Bodies read as they arrive: typed items, raw chunks, or a file. Memory does not grow with the body.

The bytes come from an open exchange, become items in ``_items``, and leave in the consumer's own time: only
waiting for bytes is timed, and a slow consumer slows the socket down. Nothing runs in the background.

A stream is in one of three places: a page is to be opened, is being read, or all is over. Each step goes on
from there, so a read that was cancelled can simply be asked for again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from operator import length_hint
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import anyio

from truto_ci_async._files import Disk, Worker
from truto_ci_async._wire.incremental.item_decoder import ItemDecoder, NdjsonDecoder
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
from truto_ci_async.events import Emitter
from truto_ci_async.models import Issue, Position, ResponseInfo
from truto_ci_async.models.debug import mask_repr

from .cursor import PageCursor
from .stream_views import Batches, Chunks, Items

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from truto_ci_async._http.base_client import Body, Reopen


T = TypeVar("T")


# Bytes decoded in one go: a little at first, so that the first item is out at once, then as much as one step's
# time allows, which depends on the engine, the items and the machine.
SMALLEST_STEP = 16 * 1024
LARGEST_STEP = 256 * 1024
STEP_SECONDS = 0.002
# Seconds of decoding between two breaths for the loop: a task that slept needs two or three to go on.
YIELD_INTERVAL = 0.002
# Bytes collected before a file is written to, since every write is a trip to another thread.
WRITE_SIZE = 2**20
# Repairs kept on the stream, all in all; the rest is counted.
ISSUES_KEPT = 100

NDJSON_TYPES = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
        "application/json-lines",
    }
)


Opener: TypeAlias = "Callable[[Position], Reopen]"
Decoder = ItemDecoder[T] | NdjsonDecoder[T]


class ItemStream(Generic[T]):
    """One streamed answer; ``async with`` opens it, and closes it on every way out.

        async with truto.interactions.stream(account_id, start_time=start, end_time=end) as stream:
            async for interaction in stream:
                print(interaction)

    Read it once, in one of four ways: ``async for`` (items), ``batches()`` (lists of items, quicker),
    ``chunks()`` (the bytes, of any content type) or ``save(path)``. Items are read in bounded memory and go on over
    pages (``follow_cursor``):

    - JSON: the array at ``path``. A body without it is a DecodeError that lists the keys seen.
    - NDJSON (by its media type): one item a line, ``path`` unused; it has no place for a cursor.
    - 204: no items. Any other empty body is a DecodeError, and so is one of another media type (a web page,
      a recording): ``chunks()`` and ``save()`` take those.

    ``content_type``  media type of the answer, in lower case.
    ``response``      how it was answered (status, headers, attempts): of the page being read.
    ``bytes_read``    bytes of body read so far, after decompression.
    ``items_read``    items handed out so far.
    ``pages_read``    pages read to their end as items so far.
    ``issues``        the first hundred repaired records; ``issues_count`` counts them all.
    ``position``      where to start again: the start of the page being read, or the place after the last whole
                      one. None when all was read as items; ``chunks()`` and ``save()`` leave it where it was.
    ``next_cursor``   the service's own word, once a page has been read to its end as items.
    ``envelope``      everything around the items of the last whole page.

    A body that breaks before its first item is fetched again like any call. After that nothing is repeated
    silently: the TransportError says how many items were handed out (``items_read``), the ``bytes_read``, and
    the ``position`` to start again from, whose page then comes from its start. A read that was cancelled can be
    asked for again; after an error the stream is over.
    """

    def __init__(
        self,
        opener: Opener,
        decoder: Callable[[bool], Decoder[T]],
        walk: PageCursor,
        *,
        follow_cursor: bool,
        max_stream_bytes: int | None,
        emitter: Emitter,
        account: str | None = None,
    ) -> None:
        self._opener = opener
        self._new_decoder = decoder
        self._walk = walk
        self._follow_cursor = follow_cursor
        self._max_stream_bytes = max_stream_bytes
        self._emitter = emitter
        self._account = account
        # The stream as a whole.
        self._entered = self._used = self._reading = False
        self._finished = self._failed = self._closed = False
        self._whole_pages_bytes = 0
        self._items_taken = 0
        self._batch: Iterator[T] = iter(())  # what ``async for`` still has in hand
        self._issues: list[Issue] = []
        self._issues_count = 0
        self._breath = 0.0
        # The page at ``position``: made by ``_open``.
        self._reopen: Reopen | None = None
        self._broke: TransportError | None = None  # why it has to be opened again
        self._body: Body | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._piece: bytes = b""  # received, and read up to ``_at``
        self._at = 0
        self._step_size = SMALLEST_STEP
        self._decoder: Decoder[T] | None = None
        self._ended = False  # the body has; what stands around its items is still to be read
        self._handed_out = False  # something of it: from then on it cannot be opened again silently
        self.response = ResponseInfo()
        self.bytes_read = 0
        self.pages_read = 0
        self.next_cursor: str | None = None
        self.envelope: dict[str, Any] = {}

    @property
    def position(self) -> Position | None:
        """Where to start again; None when everything was read."""
        return self._walk.position

    @property
    def content_type(self) -> str:
        """Media type without its parameters, in lower case; empty when the service sent none."""
        return self.response.headers.get("content-type", "").split(";", 1)[0].strip().lower()

    @property
    def items_read(self) -> int:
        """Items handed out so far."""
        return self._items_taken - length_hint(self._batch)

    @property
    def issues(self) -> list[Issue]:
        """What had to be repaired so far: the first hundred."""
        page = self._decoder.issues if self._decoder is not None else []
        return [*self._issues, *page][:ISSUES_KEPT]

    @property
    def issues_count(self) -> int:
        """How many repairs there were so far."""
        return self._issues_count + (self._decoder.issues_count if self._decoder is not None else 0)

    async def __aenter__(self) -> Self:
        if self._entered or self._closed:
            raise UsageError("a stream is opened once; make a new one")
        self._entered = True
        try:
            with self._one_reader():
                await self._open()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the rest of the body; may be called twice. ``async with`` does this by itself."""
        self._closed = True
        self._let_go()
        self._take_issues()

    def __aiter__(self) -> AsyncIterator[T]:
        self._use()
        return Items(self)

    def batches(self) -> AsyncIterator[list[T]]:
        """Hand out the items in lists, as the bytes come in: for bulk work, with less to do per item."""
        self._use()
        return Batches(self)

    def chunks(self) -> AsyncIterator[bytes]:
        """Hand out the body's bytes, decompressed, whatever they are; cursors are not followed."""
        self._use()
        return Chunks(self)

    async def save(self, path: str | os.PathLike[str]) -> int:
        """Write the body to ``path`` and return its size in bytes; cursors are not followed.

        The file appears whole or not at all: it is written beside, synced and then renamed.

        :raises UsageError: ``path`` is a directory, or anything else that is no file.
        :raises OSError: the file cannot be written.
        """
        self._use()
        worker = Worker("truto-save")
        file = _NewFile(Path(path))
        try:
            await worker.run(file.open)
            pending: list[bytes] = []
            size = 0
            while (chunk := await self.next_chunk()) is not None:
                pending.append(chunk)
                size += len(chunk)
                if size >= WRITE_SIZE:
                    await worker.run(file.write, pending)
                    pending, size = [], 0
            await worker.run(file.write, pending)
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

    # --- reading ---------------------------------------------------------------------------------------

    def _use(self) -> None:
        if self._closed or not self._entered:
            raise UsageError(
                "this stream is closed"
                if self._closed
                else "open the stream first: async with ... as stream:"
            )
        if self._used:
            raise UsageError("a stream is read once, in one way; make a new one to read again")
        self._used = True

    async def next_chunk(self) -> bytes | None:
        """Return the next bytes; None when the body has ended."""
        with self._one_reader():
            while True:
                if self._body is None:
                    await self._open()
                try:
                    chunk = await self._receive()
                except TransportError as error:
                    self._broken(error)
                    continue
                self._handed_out = True
                self.bytes_read += len(chunk or b"")
                return chunk

    async def next_batch(self) -> list[T] | None:
        """Return the next items, at least one; None when everything was read."""
        with self._one_reader():
            while not self._finished:
                if self._body is None:
                    await self._open()
                try:
                    items = await self._step()
                except TransportError as error:
                    self._broken(error)
                    continue
                if items:
                    self._handed_out = True
                    self._items_taken += len(items)
                    return items
            return None

    async def next_items(self) -> Iterator[T] | None:
        """Return an iterator over the next items, and count those it still has as not handed out."""
        batch = await self.next_batch()
        if batch is None:
            return None
        self._batch = iter(batch)
        return self._batch

    @contextmanager
    def _one_reader(self) -> Generator[None]:
        """See to it that one task reads at a time, and that an error says all it can and ends the stream."""
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
            self._let_go()
            self._take_issues()
            raise
        finally:
            self._reading = False

    async def _open(self) -> None:
        """Open the page at the walk's position; once it broke off, again and from its beginning."""
        here = self._walk.position
        assert here is not None
        if self._reopen is None:
            self._reopen = self._opener(here)
        broke, self._broke = self._broke, None
        try:
            body, self.response = await self._reopen(broke)
        except APIError as error:
            raise_for_cursor(error, here.cursor)
        finally:
            del broke  # an error, its frames and this one would be a cycle
        self._body = body
        if self._closed:
            self._let_go()
            raise UsageError("this stream is closed")
        self._decoder = None
        self._piece, self._at, self._step_size = b"", 0, SMALLEST_STEP
        self._ended = self._handed_out = False
        self.bytes_read = self._whole_pages_bytes
        limit = self._max_stream_bytes
        try:
            self._pieces = body.pieces(None if limit is None else limit - self._whole_pages_bytes)
        except BodyTooLargeError as error:
            raise self._too_large() from error

    def _broken(self, error: TransportError) -> None:
        """Note that the page is to be opened again after ``error``, if nothing of it was handed out; else raise."""
        self._let_go()
        if self._handed_out or self._closed:
            error.attempts = self.response.attempts
            raise error
        self._broke = error

    def _let_go(self) -> None:
        body, self._body, self._pieces = self._body, None, None
        if body is not None:
            body.close()

    async def _receive(self) -> bytes | None:
        """Return the next bytes of this page; None at its end."""
        if self._pieces is None:
            raise UsageError("this stream is closed")
        try:
            return await self._pieces.__anext__()
        except StopAsyncIteration:
            return None
        except BodyTooLargeError as error:
            raise self._too_large() from error

    def _too_large(self) -> BodyTooLargeError:
        limit = self._max_stream_bytes or 0
        return BodyTooLargeError(
            f"the stream passes max_stream_bytes, {limit:,} bytes after decompression", limit=limit
        )

    async def _step(self) -> list[T]:
        """Take one step through the page: bytes in, or its last items, or what stands around them."""
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = self._decoder_here()
        if self._ended:
            self._page_end(decoder)
            return []
        if (
            perf_counter() > self._breath
        ):  # before anything is taken: whoever is cancelled here has lost nothing
            await asyncio.sleep(0)
            self._breath = perf_counter() + YIELD_INTERVAL
        if self._at == len(self._piece):
            piece = await self._receive()
            if piece is None:
                self._ended = True
                return decoder.flush()
            self._piece, self._at = piece, 0
        part = self._piece[self._at : self._at + self._step_size]
        self._at += len(part)
        self.bytes_read += len(part)
        start = perf_counter()
        items = decoder.feed(part)
        took = perf_counter() - start
        if took > STEP_SECONDS:
            self._step_size = max(self._step_size // 2, SMALLEST_STEP)
        elif took < STEP_SECONDS / 2:
            self._step_size = min(self._step_size * 2, LARGEST_STEP)
        return items

    def _decoder_here(self) -> Decoder[T]:
        kind = self.content_type
        if not _may_be_json(kind) and self.response.status != 204:
            raise DecodeError(f"the body is {kind}, which holds no items; read it with chunks() or save()")
        return self._new_decoder(kind in NDJSON_TYPES)

    def _page_end(self, decoder: Decoder[T]) -> None:
        """Take in what stood around the items, and go on to the next page if there is one."""
        here = self._walk.position
        assert here is not None
        nothing = self.response.status == 204 and decoder.bytes_read == 0
        self.envelope = {} if nothing else decoder.close()
        if "debug" in self.envelope:  # its requestOptions can hold the provider's credentials
            self.envelope["debug"] = mask_repr(self.envelope["debug"])
        self.next_cursor = cursor_text(self.envelope.get("next_cursor"))
        self._let_go()
        self._take_issues()
        self._reopen = None
        self._whole_pages_bytes = self.bytes_read
        self.pages_read += 1
        following = self._walk.advance(here, self.next_cursor)
        self._finished = following is None or not self._follow_cursor

    def _take_issues(self) -> None:
        """Note and report the repairs of a page of which nothing more will be read."""
        decoder, self._decoder = self._decoder, None
        if decoder is None or not decoder.issues_count:
            return
        found = list(decoder.issues)
        self._issues_count += decoder.issues_count
        self._issues.extend(found[: ISSUES_KEPT - len(self._issues)])
        self._emitter.report_repairs(found, account=self._account)


def _may_be_json(kind: str) -> bool:
    """Whether items may be looked for in a body of this media type; a missing or a lazy one gets the chance."""
    return (
        not kind
        or kind in NDJSON_TYPES
        or kind
        in {"application/json", "text/json", "text/plain", "application/octet-stream", "text/javascript"}
        or kind.endswith("+json")
    )


class _NewFile:
    """A file that appears under its name only when it is whole; every step is blocking work for a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._target = path
        self._disk = Disk()
        self._temporary: Path | None = None
        self._file: int | None = None

    def open(self) -> None:
        if self._path.exists() and not self._path.is_file():
            raise UsageError(f"save() writes a file, and {self._path} is a directory or a device")
        self._target = Path(os.path.realpath(self._path))  # a link stays a link
        temporary = self._target.with_name(f".truto-{secrets.token_hex(8)}.part")
        self._file = self._disk.open(temporary)
        self._temporary = temporary

    def write(self, chunks: list[bytes]) -> None:
        assert self._file is not None
        self._disk.write(self._file, b"".join(chunks))

    def sync(self) -> None:
        assert self._file is not None
        self._disk.fsync(self._file)
        self._close()

    def publish(self) -> None:
        assert self._temporary is not None
        self._disk.rename(self._temporary, self._target)
        self._temporary = None
        self._disk.fsync_dir(self._target.parent)

    def discard(self) -> None:
        """Remove what is not published; may be called after ``publish``."""
        with suppress(OSError):
            self._close()
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            with suppress(OSError):
                self._disk.remove(temporary)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._disk.close(file)

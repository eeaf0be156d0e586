"""Reads the body of one streamed page: bytes in, items out, in steps short enough for the event loop.

Going to the next page, and what an error does, is in ``stream``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Raw

from truto_ci_async._json import EXCERPT_BYTES, decode_member
from truto_ci_async._wire.incremental.array_parser import WHITE
from truto_ci_async._wire.incremental.array_scanner import MAX_KEYS
from truto_ci_async._wire.incremental.item_decoder import ItemDecoder, NdjsonDecoder
from truto_ci_async.errors import BodyTooLargeError, DecodeError, UsageError
from truto_ci_async.models import ResponseInfo
from truto_ci_async.models.debug import mask_repr
from truto_ci_async.models.struct_types import split_object

from .page_fetch import empty_body_error, is_empty_by_framing
from .step_size import StepSize

if TYPE_CHECKING:
    from truto_ci_async._http.call import Body

T = TypeVar("T")

Decoder = ItemDecoder[T] | NdjsonDecoder[T]

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
# A body that begins with one of these may be JSON with items, whatever its media type: servers label JSON as bytes,
# as plain text or as nothing, and proxies add a second label. The last is the first byte of a byte order mark.
JSON_STARTS = (b"{", b"[", b"\xef")


def media_type(response: ResponseInfo) -> str:
    """Return the media type without parameters, in lower case; empty if there is none."""
    return response.headers.get("content-type", "").split(";", 1)[0].strip().lower()


class PageBody(Generic[T]):
    """The body of one page while it is being read, either as ``receive``d bytes or in ``step``s of items.

    ``cursor`` is the one the page was requested with. A cancelled step loses nothing and can be repeated.
    """

    def __init__(
        self,
        body: Body,
        response: ResponseInfo,
        new_decoder: Callable[[bool], Decoder[T]],
        *,
        cursor: str | None = None,
    ) -> None:
        self.bytes_read = 0
        self.is_open = True
        self.at_end = False  # all bytes were decoded; `envelope` is what remains
        self.handed_out = False  # some of it: opening the page again would repeat that
        self.decoder: Decoder[T] | None = None
        self.token = body.token  # that the request was sent with
        self.call_id = body.call_id
        self.decode_seconds = 0.0
        self._body: Body | None = body
        self._response = response
        self._cursor = cursor
        self._new_decoder = new_decoder
        self._pieces: AsyncIterator[bytes]
        self._limit: int | None = None
        self._piece: bytes = b""  # received, and decoded up to `_offset`
        self._offset = 0
        self._step = StepSize()

    def start(self, limit: int | None, already_read: int) -> None:
        """Prepare to receive.

        :raises BodyTooLargeError: the announced size and the bytes ``already_read`` of earlier pages pass ``limit``.
        :raises DecodeError: the content encoding is unknown.
        """
        self._limit = limit
        try:
            assert self._body is not None
            self._pieces = self._body.pieces(None if limit is None else limit - already_read)
        except BodyTooLargeError as error:
            raise self._too_large() from error

    def close(self, *, is_retried: bool = False) -> None:
        """Give up the rest of the body; may be called twice. A page that ``is_retried`` does not end its call."""
        self.is_open = False
        self._piece, self._offset = b"", 0
        body, self._body = self._body, None
        if body is not None:
            if is_retried:
                body.on_close = None
            body.close()
            self._pieces = _no_pieces()  # whoever keeps an error may keep this, and so the connection

    async def receive(self) -> bytes | None:
        """Return the next bytes; None at the end."""
        self._check_open()
        try:
            piece = await self._pieces.__anext__()
        except StopAsyncIteration:
            piece = None
        except BodyTooLargeError as error:
            raise self._too_large() from error
        self._check_open()
        return piece

    def _check_open(self) -> None:
        if not self.is_open:
            raise UsageError("this stream is closed")

    def _too_large(self) -> BodyTooLargeError:
        limit = self._limit or 0
        return BodyTooLargeError(
            f"the stream passes max_stream_bytes, {limit:,} bytes after decompression", limit=limit
        )

    async def step(self) -> list[T]:
        """Decode the next bytes, received before or now, and return the items they complete."""
        if self._offset < len(self._piece):
            assert self._body is not None
            await self._body.give_turn()
        if self._offset == len(self._piece):
            piece = await self.receive()
            if piece is None:
                self.at_end = True
                return [] if self.decoder is None else self.decoder.flush()
            self._piece, self._offset = piece, 0
        part = self._piece[self._offset : self._offset + self._step.bytes]
        self._offset += len(part)
        if self._offset == len(self._piece):
            self._piece, self._offset = b"", 0  # while this stream waits, another one can use its memory
        self.bytes_read += len(part)
        decoder = self.decoder or self._start_decoding(part)
        if decoder is None:
            return []
        start = perf_counter()
        items = decoder.feed(part)
        seconds = perf_counter() - start
        self.decode_seconds += seconds
        self._step.took(seconds)
        return items

    def _start_decoding(self, part: bytes) -> Decoder[T] | None:
        """Decide by the first byte how to decode; None if there was only white space so far.

        :raises DecodeError: the body is not JSON.
        """
        kind = media_type(self._response)
        start = part.lstrip(WHITE)
        if kind not in NDJSON_TYPES and not start:
            return None
        if kind not in NDJSON_TYPES and not start.startswith(JSON_STARTS) and not _is_json_type(kind):
            raise DecodeError(
                f"the body is {kind or 'not JSON'}, which holds no items; read it with chunks() or save()",
                raw=start[:EXCERPT_BYTES],
            )
        self.decoder = self._new_decoder(kind in NDJSON_TYPES)
        return self.decoder

    def envelope(self) -> dict[str, Any]:
        """Return everything around the items, once ``at_end``.

        :raises DecodeError: the body is not complete JSON.
        :raises TruncatedBodyError: it ended early, or is empty; only a first page may be, if its head says so.
        """
        if self.bytes_read == 0:
            if self._cursor is None and is_empty_by_framing(self._response):
                return {}
            raise empty_body_error(self._cursor)
        decoder = self.decoder or self._new_decoder(False)  # which raises for white space
        envelope = decoder.close()
        if "debug" in envelope:  # its requestOptions can hold the provider's credentials
            envelope["debug"] = _masked_debug(envelope["debug"])
        return envelope


async def _no_pieces() -> AsyncIterator[bytes]:
    return
    yield


def _masked_debug(debug: Any) -> Any:
    """Mask the reprs of a page's debug information. If it is large, only its large members stay Raw."""
    raw = bytes(debug) if isinstance(debug, Raw) else b""
    if raw.startswith(b"{") and len(members := split_object(raw)) <= MAX_KEYS:
        debug = {key: decode_member(key, bytes(value)) for key, value in members.items()}
    return mask_repr(debug)


def _is_json_type(kind: str) -> bool:
    return kind.split("/")[-1] == "json" or kind.endswith("+json")

"""Reads the body of one streamed page: bytes in, items out, in steps short enough for the event loop.

What happens between pages, and after an error, is in ``stream``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from truto_ci_async._wire.incremental.item_decoder import ItemDecoder, NdjsonDecoder
from truto_ci_async.errors import BodyTooLargeError, DecodeError, UsageError
from truto_ci_async.models import ResponseInfo
from truto_ci_async.models.debug import mask_repr

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import Body

T = TypeVar("T")

Decoder = ItemDecoder[T] | NdjsonDecoder[T]

# Bytes decoded in one step. The first step is small, so that the first item comes soon; later ones grow until they
# take STEP_SECONDS, which depends on the engine, the items and the machine.
SMALLEST_STEP = 16 * 1024
LARGEST_STEP = 256 * 1024
STEP_SECONDS = 0.002

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
# Besides `+json` suffixes. Some servers label JSON as plain text or bytes, or not at all.
JSON_TYPES = frozenset(
    {"", "application/json", "text/json", "text/plain", "application/octet-stream", "text/javascript"}
)


def media_type(response: ResponseInfo) -> str:
    """Return the media type without parameters, in lower case; empty if there is none."""
    return response.headers.get("content-type", "").split(";", 1)[0].strip().lower()


class PageBody(Generic[T]):
    """The body of one page while it is being read, either as ``receive``d bytes or in ``step``s of items.

    A step that was cancelled has lost nothing and can be repeated.
    """

    def __init__(self, body: Body, response: ResponseInfo, new_decoder: Callable[[bool], Decoder[T]]) -> None:
        self.bytes_read = 0
        self.is_open = True
        self.at_end = False  # all bytes were decoded; `envelope` is what remains
        self.handed_out = False  # some of it: opening the page again would repeat that
        self.decoder: Decoder[T] | None = None
        self._body = body
        self._response = response
        self._new_decoder = new_decoder
        self._pieces: AsyncIterator[bytes]
        self._limit: int | None = None
        self._piece: bytes = b""  # received, and decoded up to `_offset`
        self._offset = 0
        self._step_size = SMALLEST_STEP

    def start(self, limit: int | None, already_read: int) -> None:
        """Prepare to receive.

        :raises BodyTooLargeError: the announced size and the bytes ``already_read`` of earlier pages pass ``limit``.
        :raises DecodeError: the content encoding is unknown.
        """
        self._limit = limit
        try:
            self._pieces = self._body.pieces(None if limit is None else limit - already_read)
        except BodyTooLargeError as error:
            raise self._too_large() from error

    def close(self) -> None:
        """Give up the rest of the body; may be called twice."""
        if self.is_open:
            self.is_open = False
            self._body.close()

    async def receive(self) -> bytes | None:
        """Return the next bytes; None at the end."""
        if not self.is_open:
            raise UsageError("this stream is closed")
        try:
            return await self._pieces.__anext__()
        except StopAsyncIteration:
            return None
        except BodyTooLargeError as error:
            raise self._too_large() from error

    def _too_large(self) -> BodyTooLargeError:
        limit = self._limit or 0
        return BodyTooLargeError(
            f"the stream passes max_stream_bytes, {limit:,} bytes after decompression", limit=limit
        )

    async def step(self) -> list[T]:
        """Decode the next bytes, which may be received already, and return the items they complete."""
        decoder = self.decoder or self._start_decoding()
        if self._offset == len(self._piece):
            piece = await self.receive()
            if piece is None:
                self.at_end = True
                return decoder.flush()
            self._piece, self._offset = piece, 0
        part = self._piece[self._offset : self._offset + self._step_size]
        self._offset += len(part)
        self.bytes_read += len(part)
        start = perf_counter()
        items = decoder.feed(part)
        took = perf_counter() - start
        if took > STEP_SECONDS:
            self._step_size = max(self._step_size // 2, SMALLEST_STEP)
        elif took < STEP_SECONDS / 2:
            self._step_size = min(self._step_size * 2, LARGEST_STEP)
        return items

    def _start_decoding(self) -> Decoder[T]:
        kind = media_type(self._response)
        is_ndjson = kind in NDJSON_TYPES
        may_be_json = is_ndjson or kind in JSON_TYPES or kind.endswith("+json")
        if not may_be_json and self._response.status != 204:
            raise DecodeError(f"the body is {kind}, which holds no items; read it with chunks() or save()")
        self.decoder = self._new_decoder(is_ndjson)
        return self.decoder

    def envelope(self) -> dict[str, Any]:
        """Return everything around the items, once ``at_end``.

        :raises DecodeError: the body is not complete JSON. An empty body is fine with status 204 only.
        """
        assert self.decoder is not None
        if self._response.status == 204 and self.decoder.bytes_read == 0:
            return {}
        envelope = self.decoder.close()
        if "debug" in envelope:  # its requestOptions can hold the provider's credentials
            envelope["debug"] = mask_repr(envelope["debug"])
        return envelope

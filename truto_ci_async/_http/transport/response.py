"""Responses, with a body that was read whole or that is still arriving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from time import perf_counter
from typing import Literal

import aiohttp
from msgspec import Struct

from truto_ci_async._http.credentials import Secret
from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async.errors import DeadlineError, TruncatedBodyError, TrutoError, UsageError

from .aiohttp_internals import end_read, error_of, unwatch_connection, watch_connection
from .content_encoding import BodyDecoder
from .deadlines import Deadlines
from .network_errors import FAILURES, clean, map_network_error, one_line, redact_message

# Seconds of work on a body after which other tasks get a turn, so that neither a fast sender nor a compression bomb can
# block the loop.
YIELD_INTERVAL = 0.002


class BufferedResponse(Struct, frozen=True, kw_only=True):
    """A response with its whole body. Header names are in lower case; ``sends`` includes aiohttp's own resend."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    sends: int = 1


class StreamedResponse:
    """A response whose headers have arrived and whose body is still arriving. Read it to its end, or close it.

    ``open_responses`` holds it until then.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        sends: int,
        timeouts: Timeouts,
        deadlines: Deadlines,
        open_responses: set[StreamedResponse],
        token: Secret = Secret(),
    ) -> None:
        self._response = response
        self._timeouts = timeouts
        self._deadlines = deadlines
        self._open_responses = open_responses
        self.on_end: Callable[[], object] | None = None
        self.on_close: Callable[[], object] | None = None  # called once
        self.call_id = 0
        #: Entered while waiting for data, such as by the clock of a call.
        self.waiting: AbstractContextManager[object] = _NO_CLOCK
        # aiohttp keeps a reader waiting when its parser fails or the session is closed, and takes a reset for the end
        # of a body without a length.
        self._connection_end = watch_connection(response, self._on_connection_end)
        self.status = response.status
        self.token = token  # masked wherever the service repeats it
        self.reason, self.headers = _clean_head(response, token)
        self.sends = sends
        self.bytes_read = 0
        self.body = b""  # of an error response, once it has been read
        self.is_client_closed = False
        self._is_ended = False
        self._turn_at = perf_counter()  # when other tasks last had a turn
        open_responses.add(self)

    def pieces(self, limit: int | None) -> AsyncIterator[bytes]:
        """Iterate over the decompressed body as it arrives; only waiting for data is timed (``Timeouts.read``).

        :raises TruncatedBodyError: the body ends early.
        :raises BodyTooLargeError: more than ``limit`` bytes after decompression.
        """
        return _Pieces(self, self._decoder(limit))

    async def read(self, limit: int | None) -> bytes:
        """Return the whole decompressed body; the caller holds the attempt's deadline.

        :raises TruncatedBodyError: the body ends early.
        :raises BodyTooLargeError: more than ``limit`` bytes after decompression.
        """
        decoder = self._decoder(limit)
        if not decoder.is_plain:
            body = BytesIO()  # grows in place; joining a list would need the memory twice
            async for piece in _Pieces(self, decoder):
                body.write(piece)
            return body.getvalue()
        # Nothing to decompress, so there is no work to interrupt.
        content = self._response.content
        try:
            data = content.read_nowait()
            decoder.count(len(data))
            if not content.at_eof():
                data = await self._read_rest(data, decoder)
            self.finish()
        except TrutoError:
            raise
        except FAILURES as error:
            raise self.failed(error) from error
        return data

    async def _read_rest(self, first: bytes, decoder: BodyDecoder) -> bytes:
        body = BytesIO()
        data = first
        while True:
            self.bytes_read = decoder.total
            body.write(data)
            if self._response.content.at_eof():
                return body.getvalue()
            data = await self.receive()
            decoder.count(len(data))

    def _decoder(self, limit: int | None) -> BodyDecoder:
        headers = self.headers
        return BodyDecoder(
            headers.get("content-encoding", ""), length=headers.get("content-length", ""), limit=limit
        )

    async def receive(self) -> bytes:
        """Wait for data as it was sent, at most ``Timeouts.read`` seconds; ``b""`` is the end of the body."""
        content = self._response.content
        if data := content.read_nowait():
            return data
        if content.at_eof():
            return b""
        try:
            with self._deadlines.within(self._timeouts.read), self.waiting:
                data = await content.readany()
            self._turn_at = perf_counter()
            return data
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise
            seconds = self._timeouts.read
            raise DeadlineError(
                f"no data received for {seconds} s", deadline="read", seconds=seconds
            ) from error

    async def give_turn(self) -> None:
        """Let other tasks run, if they have not had a turn for ``YIELD_INTERVAL`` seconds; a wait for data is one.

        Call it after taking data, not before: what arrives meanwhile is joined to what is already there, and joined
        pieces cost two more copies.
        """
        if perf_counter() - self._turn_at > YIELD_INTERVAL:
            await asyncio.sleep(0)
            self._turn_at = perf_counter()

    def finish(self) -> None:
        """Return the connection to the pool after the last byte of the body.

        :raises TruncatedBodyError: the connection broke, and only its end marks the end of the body.
        """
        end = self._connection_end
        if end is not None:
            is_framed = "content-length" in self.headers or "transfer-encoding" in self.headers
            if end.done() and not is_framed and (error := error_of(end)) is not None:
                raise TruncatedBodyError(
                    f"the body ended early: {one_line(error)}", bytes_read=self.bytes_read
                )
            self._unwatch()
        if not self._response.closed:  # aiohttp released the connection when it read the last byte
            self._response.release()
        self._ended()

    def close(self) -> None:
        """Drop the connection unless the body was read to its end. May be called twice."""
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
        if self._is_ended:
            return
        self._unwatch()
        self._response.close()
        self._ended()

    def _ended(self) -> None:
        self._is_ended = True
        self._open_responses.discard(self)
        if self.on_end is not None:
            self.on_end()

    def failed(self, error: Exception) -> TrutoError:
        """Return our error for one that interrupted the body; the caller raises it from ``error``."""
        if self.is_client_closed:
            return UsageError("the client was closed while this response was being read")
        if isinstance(error, RuntimeError):  # aiohttp's, when it is about to wait on a lost connection
            redact_message(error, self.token)
            return TruncatedBodyError(f"the body ended early: {one_line(error)}", bytes_read=self.bytes_read)
        return map_network_error(error, self._timeouts, self.token, bytes_read=self.bytes_read)

    def _on_connection_end(self, end: asyncio.Future[None]) -> None:
        error_of(end)
        end_read(self._response)

    def _unwatch(self) -> None:
        end, self._connection_end = self._connection_end, None
        if end is not None:
            unwatch_connection(end, self._on_connection_end)


_NO_CLOCK = nullcontext()


class _Pieces:
    """The pieces of one body. Not a generator, which would keep its variables until it is collected."""

    __slots__ = ("_decoded", "_decoder", "_end", "_piece", "_response")

    def __init__(self, response: StreamedResponse, decoder: BodyDecoder) -> None:
        self._response = response
        self._decoder = decoder
        self._decoded: Iterator[bytes] = iter(())
        self._piece = b""  # the next one, until a caller who was not cancelled takes it
        self._end: Literal["clean", "broken"] | None = None

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._end == "clean":
            raise StopAsyncIteration
        if self._end == "broken":
            raise UsageError("this body has failed; there is no more of it")
        try:
            piece = await self._next()
        except TrutoError:
            self._end = "broken"
            raise
        except FAILURES as error:
            self._end = "broken"
            raise self._response.failed(error) from error
        if piece is None:
            self._end = "clean"
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes | None:
        while not self._piece:
            piece = next(self._decoded, None)
            self._response.bytes_read = self._decoder.total
            if piece is None:
                data = await self._response.receive()
                if not data:
                    self._decoder.close()
                    self._response.finish()
                    return None
                self._decoded = self._decoder.feed(data)
            else:
                self._piece = piece
                await self._response.give_turn()
        piece, self._piece = self._piece, b""
        return piece


def _clean_head(response: aiohttp.ClientResponse, token: Secret) -> tuple[str, dict[str, str]]:
    """Return the reason and the headers of a response, with names in lower case and what is not to be seen masked."""
    reason, headers = response.reason or "", response.headers
    # All at once, as hardly any needs more: of 15 headers, this took 40 us of the 240 that a small page takes.
    texts = "\n".join((reason, *headers.values()))
    lower = {name.lower(): text for name, text in headers.items()}
    if len(lower) == len(headers) and clean(texts, token) == texts:
        return reason, lower
    lower.clear()
    for name, text in headers.items():
        key, value = name.lower(), clean(text, token)
        lower[key] = f"{lower[key]}, {value}" if key in lower else value
    return clean(reason, token), lower

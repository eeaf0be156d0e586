"""Response bodies, buffered and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from io import BytesIO
from time import perf_counter
from typing import Literal

import aiohttp
from msgspec import Struct

from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async.errors import DeadlineError, TruncatedBodyError, TrutoError, UsageError

from .content_encoding import BodyDecoder
from .deadlines import Deadlines
from .network_errors import FAILURES, map_network_error, plain_text, redact_message

# Seconds of work on a body between two breaths for the loop, so that a compression bomb cannot hold it.
YIELD_INTERVAL = 0.005


class BufferedResponse(Struct, frozen=True, kw_only=True):
    """A whole answer. Header names are in lower case; ``sends`` counts aiohttp's own resend too."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    sends: int = 1


class StreamedResponse:
    """An answer whose headers are here and whose body is still on its way. Close it, or read it to its end."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        sends: int,
        timeouts: Timeouts,
        deadlines: Deadlines,
        among: set[StreamedResponse],
    ) -> None:
        self._response = response
        self._timeouts = timeouts
        self._deadlines = deadlines
        self._among = among  # those that are open
        among.add(self)
        self.on_end: Callable[[], object] | None = None
        self._watched = self._watch()
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = _lower(response.headers)
        self.sends = sends
        self.bytes_read = 0
        self.body = b""  # of a refusal, once somebody has read it
        self.is_client_closed = False
        self._is_ended = False

    def pieces(self, limit: int | None) -> AsyncIterator[bytes]:
        """Give the body opened, in pieces, as it arrives; only waiting for bytes is timed (``Timeouts.read``).

        :raises TruncatedBodyError: the body ends early.
        :raises BodyTooLargeError: more than ``limit`` bytes after decompression.
        """
        return _Pieces(self, self._decoder(limit), self._timeouts.read)

    async def read(self, limit: int | None) -> bytes:
        """Return the whole body, opened; the caller holds the deadline.

        :raises TruncatedBodyError: the body ends early.
        :raises BodyTooLargeError: more than ``limit`` bytes after decompression.
        """
        decoder = self._decoder(limit)
        whole = _Whole()
        if not decoder.is_plain:
            async for piece in _Pieces(self, decoder, None):
                whole.add(piece)
            return whole.bytes()
        # Nothing to open, so none of the breaths that takes.
        content = self._response.content
        try:
            while data := await content.readany():
                decoder.count(len(data))
                self.bytes_read = decoder.total
                whole.add(data)
            self.finish()
        except TrutoError:
            raise
        except FAILURES as error:
            raise self.failed(error) from error
        return whole.bytes()

    def _decoder(self, limit: int | None) -> BodyDecoder:
        decoder = BodyDecoder(self.headers.get("content-encoding", ""), limit=limit)
        length = self.headers.get("content-length")
        if length is not None and length.isdecimal():
            decoder.expect(int(length))
        return decoder

    async def receive(self, gap: float | None) -> bytes:
        """Wait for bytes as they are on the wire, ``gap`` seconds at most; ``b""`` is the end of the body."""
        content = self._response.content
        if gap is None:
            return await content.readany()
        try:
            with self._deadlines.within(gap):
                return await content.readany()
        except TimeoutError as error:
            raise DeadlineError(f"no byte came for {gap} s", deadline="read", seconds=gap) from error

    def time_waits_only(self) -> None:
        """Take back the timer of aiohttp, which runs from byte to byte whether or not somebody waits for one."""
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = None
            connection.protocol.start_timeout()

    def finish(self) -> None:
        """Give the connection back to the pool: the body was read to its end.

        :raises TruncatedBodyError: the connection broke, and nothing but its end says where the body ends.
        """
        gone = self._watched
        if gone is not None:
            is_framed = "content-length" in self.headers or "transfer-encoding" in self.headers
            if gone.done() and not is_framed and (error := _look_at(gone)) is not None:
                raise TruncatedBodyError(
                    f"the body ended early: {plain_text(error)}", bytes_read=self.bytes_read
                )
            self._unwatch()
        self._response.release()
        self._ended()

    def close(self) -> None:
        """Drop the connection unless the body was read to its end; may be called twice."""
        if self._is_ended:
            return
        self._unwatch()
        self._response.close()
        self._ended()

    def _ended(self) -> None:
        self._is_ended = True
        self._among.discard(self)
        if self.on_end is not None:
            self.on_end()

    def failed(self, error: Exception) -> TrutoError:
        """Return the error of ours for one that broke the body off; the caller raises it from ``error``."""
        if self.is_client_closed:
            return UsageError("the client was closed while this answer was being read")
        if isinstance(error, RuntimeError):  # what aiohttp says when it is about to wait on a lost connection
            redact_message(error)
            return TruncatedBodyError(
                f"the body ended early: {plain_text(error)}", bytes_read=self.bytes_read
            )
        return map_network_error(error, self._timeouts, bytes_read=self.bytes_read)

    # aiohttp leaves a reader waiting for ever when its parser fails in the middle of a body (an invalid chunk size)
    # or the session is closed, and takes a reset for the end of a body without a length. So the end of the connection
    # is watched here.

    def _watch(self) -> asyncio.Future[None] | None:
        connection = self._response.connection
        if connection is None or connection.protocol is None:
            return None  # the whole answer is here
        gone = connection.protocol.closed
        if gone is None:
            self._break_off()
            return None
        gone.add_done_callback(self._break_off)
        return gone

    def _unwatch(self) -> None:
        gone, self._watched = self._watched, None
        if gone is not None:
            gone.remove_done_callback(self._break_off)
            # Someone has to look at what ends it, or asyncio reports it; once for each connection is enough.
            gone.remove_done_callback(_look_at)
            gone.add_done_callback(_look_at)

    def _break_off(self, gone: asyncio.Future[None] | None = None) -> None:
        if gone is not None:
            _look_at(gone)
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))


def _look_at(gone: asyncio.Future[None]) -> BaseException | None:
    """Return what ended a connection; None for a proper end."""
    return None if gone.cancelled() else gone.exception()


class _Whole:
    """The pieces of one body, put together."""

    __slots__ = ("_first", "_rest")

    def __init__(self) -> None:
        self._first = b""
        self._rest: BytesIO | None = None

    def add(self, piece: bytes) -> None:
        if not self._first:
            self._first = piece
            return
        if self._rest is None:
            self._rest = BytesIO()  # grows in place, where joining pieces would take the memory twice
            self._rest.write(self._first)
        self._rest.write(piece)

    def bytes(self) -> bytes:
        return self._first if self._rest is None else self._rest.getvalue()


class _Pieces:
    """The pieces of one body. Not a generator, which would hold on to what it uses until it is collected."""

    __slots__ = ("_breath", "_decoder", "_end", "_exchange", "_gap", "_opened")

    def __init__(self, exchange: StreamedResponse, decoder: BodyDecoder, gap: float | None) -> None:
        self._exchange = exchange
        self._decoder = decoder
        self._gap = gap
        self._opened: Iterator[bytes] = iter(())
        self._breath = perf_counter() + YIELD_INTERVAL
        self._end: Literal["clean", "broken"] | None = None

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._end == "clean":
            raise StopAsyncIteration
        if self._end == "broken":
            raise UsageError("this body broke off, and there is no more of it")
        try:
            while True:
                # Before a piece is taken: whoever is cancelled here has lost none.
                if perf_counter() > self._breath:
                    await asyncio.sleep(0)
                    self._breath = perf_counter() + YIELD_INTERVAL
                piece = next(self._opened, None)
                self._exchange.bytes_read = self._decoder.total
                if piece:
                    return piece
                if piece is None:
                    data = await self._exchange.receive(self._gap)
                    if not data:
                        break
                    self._opened = self._decoder.feed(data)
            self._decoder.close()
            self._exchange.finish()
        except TrutoError:
            self._end = "broken"
            raise
        except FAILURES as error:
            self._end = "broken"
            raise self._exchange.failed(error) from error
        self._end = "clean"
        raise StopAsyncIteration


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    lower: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        lower[key] = f"{lower[key]}, {value}" if key in lower else value
    return lower

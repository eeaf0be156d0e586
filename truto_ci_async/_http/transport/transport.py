"""One attempt of one request: the only importer of the aiohttp client.

Owned here: the pooled session (made inside the running loop), the deadlines of an attempt, bodies opened and
counted, and the renaming of every network failure into an error of ours. Not here: whether to try again,
whose turn it is, and what a body means.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async.errors import (
    BodyTooLargeError,
    ConfigurationError,
    ConnectError,
    DeadlineError,
    DecodeError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)

from .content_encoding import ACCEPT_ENCODING, BodyDecoder
from .deadlines import Deadlines

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

# Shorter than the five seconds after which a Node server drops an idle connection, so that we are the first
# to let go and seldom write into a connection that is already closed.
KEEP_ALIVE = 4.0
# How long closing the pool may take, in seconds.
CLOSE_DEADLINE = 5.0
# Seconds of work on a body between two breaths for the loop, so that a compression bomb cannot hold it.
BREATH = 0.005
# Bytes of one header, and of the status line. aiohttp's own 8 kB are less than what proxies let through.
MAX_HEADER_BYTES = 64 * 1024
# Bytes that one read of a plain socket brings: at first, since most connections carry small answers, and at most. What
# it is copied to is then still below the 128 kB from which on an allocator asks the system for memory, and gives it
# back, each time.
FIRST_ROOM = 16 * 1024
PLAIN_ROOM = 127 * 1024
# The same over TLS: all that asyncio holds of a connection (256 kB and the beginning of a record), so that one read
# leaves nothing behind, which it would forget when the connection ends there.
TLS_ROOM = 288 * 1024

# What comes out of aiohttp when the network fails. The last ones should not, and do: its parser and its streams
# check themselves with them.
FAILURES = (
    aiohttp.ClientError,
    OSError,  # TimeoutError too
    HttpProcessingError,
    aiohttp.EofStream,
    RuntimeError,
    ValueError,
    AssertionError,
)


class Secret(str):
    """Text that reprs, tracebacks with locals and dumps of containers show as ``***``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Reply(Struct, frozen=True, kw_only=True):
    """A whole answer. Header names are in lower case; ``sends`` counts aiohttp's own resend too."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    sends: int = 1


class Exchange:
    """An answer whose headers are here and whose body is still on its way. Close it, or read it to its end."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        sends: int,
        timeouts: Timeouts,
        deadlines: Deadlines,
        among: set[Exchange],
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
                raise TruncatedBodyError(f"the body ended early: {_plain(error)}", bytes_read=self.bytes_read)
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
            scrub(error)
            return TruncatedBodyError(f"the body ended early: {_plain(error)}", bytes_read=self.bytes_read)
        return renamed(error, self._timeouts, bytes_read=self.bytes_read)

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

    def __init__(self, exchange: Exchange, decoder: BodyDecoder, gap: float | None) -> None:
        self._exchange = exchange
        self._decoder = decoder
        self._gap = gap
        self._opened: Iterator[bytes] = iter(())
        self._breath = perf_counter() + BREATH
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
                    self._breath = perf_counter() + BREATH
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


class _Connection(ResponseHandler, asyncio.BufferedProtocol):
    """One connection, which knows whether it was used, and spares what aiohttp and asyncio do for each read.

    Read into memory that stays: a plain protocol is given bytes that were made 256 kB long, and cut to what came, which
    with most allocators costs a mapping and a page fault for every 4 kB of each answer. And timed by one timer that
    stays set, and when it goes off looks whether bytes came since, where aiohttp sets one and takes it back.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tls_room: memoryview) -> None:
        super().__init__(loop)
        self.is_used = False
        self._heard_at: float | None = None  # None: nobody waits for bytes
        # asyncio's TLS fills and empties it in one go, so that connections can share one.
        self._room = tls_room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if transport.get_extra_info("sslcontext") is None:
            self._room = memoryview(bytearray(FIRST_ROOM))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._room[:nbytes].tobytes())
        if nbytes == len(self._room) < PLAIN_ROOM:  # there may be more
            self._room = memoryview(bytearray(min(2 * nbytes, PLAIN_ROOM)))

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp says so with every read of a body; the parser has something left only if it was paused.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _reschedule_timeout(self) -> None:
        timeout = self._read_timeout
        if not timeout:
            self._heard_at = None
            return
        self._heard_at = now = self._loop.time()
        if self._read_timeout_handle is None:
            self._read_timeout_handle = self._loop.call_at(now + timeout, self._look, timeout)
        elif self._read_timeout_handle.when() > now + timeout:  # set for a call with more patience
            self._read_timeout_handle.cancel()
            self._read_timeout_handle = self._loop.call_at(now + timeout, self._look, timeout)

    def _drop_timeout(self) -> None:
        self._heard_at = None
        if self._read_timeout_handle is not None and self.transport is None:
            self._read_timeout_handle.cancel()
            self._read_timeout_handle = None

    def _look(self, timeout: float) -> None:
        self._read_timeout_handle = None
        if self._heard_at is None:
            return
        timeout = self._read_timeout or timeout
        due = self._heard_at + timeout
        if due <= self._loop.time():
            self._on_read_timeout()
        else:
            self._read_timeout_handle = self._loop.call_at(due, self._look, timeout)


_NO_TIMERS = aiohttp.ClientTimeout()


class _Pool(aiohttp.TCPConnector):
    """Connections, of which one is used again only if it has been silent since its last answer.

    aiohttp would read what an idle connection said (a 408 before it is closed, an answer sent twice) as the answer to
    the next request, and every later answer for that of the request before it: pages of one account under the name of
    another.
    """

    def __init__(self, tls: ssl.SSLContext | bool, deadlines: Deadlines) -> None:
        # No limit: how many there are is for ``Transport`` to say.
        super().__init__(limit=0, keepalive_timeout=KEEP_ALIVE, ssl=tls)  # pyright: ignore[reportUnknownMemberType]
        self._factory: Any = partial(_Connection, self._loop, memoryview(bytearray(TLS_ROOM)))
        # Requests that are about to be given a connection.
        self.asking: dict[aiohttp.ClientRequest, _Sends] = {}
        self._deadlines = deadlines
        self._is_new_wanted = False

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> Connection:
        sends = self.asking.get(req)
        while True:
            # For ``_get``, which asks before anything is waited for.
            self._is_new_wanted = sends is not None and sends.is_again
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None:
                return connection
            if not getattr(protocol, "is_used", False):
                protocol.is_used = True  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
                return connection
            if not protocol.should_close:
                if sends is not None:
                    sends.is_reused = True
                return connection
            connection.close()

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        if self._is_new_wanted:
            self._is_new_wanted = False
            return None
        return await super()._get(key, traces)

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> ResponseHandler:
        # For names, all addresses and a proxy's tunnel together, where aiohttp would time each socket. By deadlines of
        # ours: its timers are over once somebody's work held the loop for so long, though the connection stood.
        with self._deadlines.within(timeout.sock_connect):
            return await super()._create_connection(req, traces, _NO_TIMERS)

    def let_go(self) -> None:
        """Start closing; what this does not wait for, the loop does in its next turns."""
        self._close(abort_ssl=True)


class Transport:
    """A pool of connections to one base URL, shared by a client and its ``with_options`` copies."""

    def __init__(
        self,
        base_url: str,
        *,
        max_connections: int,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        session: aiohttp.ClientSession | None = None,
        headers: Mapping[str, str] = {},
    ) -> None:
        self.base_url = checked_base_url(base_url)
        base = URL(self.base_url, encoded=True)
        self._base = base.scheme, base.host_subcomponent or "", base.explicit_port, base.raw_path.rstrip("/")
        self._told_timeouts: tuple[Timeouts, aiohttp.ClientTimeout] | None = None
        self.max_connections = max_connections
        found = checked_proxy(proxy) if proxy else environment_proxy(self.base_url)
        self._proxy = Secret(found) if found else None  # its URL may hold a password
        self._ssl: ssl.SSLContext | bool = ssl_context or True
        self._session = session
        self._owns_session = session is None
        #: Sent with every request, without being given with it: by a session of ours only.
        self.default_headers: Mapping[str, str] = headers if session is None else {}
        # A session that was handed in has to be told with each request what one of ours knows by itself.
        self._options: dict[str, Any] = {"allow_redirects": False}
        if session is not None:
            self._options |= {
                "proxy": self._proxy,
                "ssl": self._ssl,
                "auto_decompress": False,
                "raise_for_status": False,
                "max_line_size": MAX_HEADER_BYTES,
                "max_field_size": MAX_HEADER_BYTES,
            }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self._pool: _Pool | None = None
        self._open_exchanges = set[Exchange]()
        self.deadlines = Deadlines()
        self.closed = False

    @property
    def opened(self) -> bool:
        """Whether a session of our own is open, which then has to be closed."""
        return self._owns_session and self._session is not None and not self._session.closed

    @property
    def loop_is_gone(self) -> bool:
        """Whether the loop this pool lived in has been closed, so that nothing can be awaited any more."""
        return self._loop is not None and self._loop.is_closed()

    def bind(self) -> asyncio.AbstractEventLoop:
        """Tie the pool to the running loop, or check that it is still the one.

        :raises UsageError: no asyncio loop runs here, another one does, or the client is closed.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "this client runs on asyncio: call it from a coroutine of an asyncio loop"
            ) from None
        if self.closed:
            raise UsageError("this client is closed; make a new one")
        if self._loop is None:
            self._loop = loop
            self._slots = asyncio.Semaphore(self.max_connections)
        elif self._loop is not loop:
            raise UsageError(
                "this client was first used in another event loop; make one client per loop "
                "(each asyncio.run starts a loop of its own)"
            )
        return loop

    async def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        timeouts: Timeouts,
        limit: int | None = None,
        may_resend: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one request and read the whole answer, within ``timeouts.attempt`` seconds.

        ``may_resend`` is asked before a request goes out again because the used connection it went out on was dead;
        None always allows that.

        :raises TransportError: connecting, waiting or reading failed; nothing of a half body is returned.
        :raises BodyTooLargeError: the body passes ``limit`` bytes.
        """
        slots = self._slots_here()
        await slots.acquire()
        sends = _Sends(may_resend)
        exchange: Exchange | None = None
        try:
            with self.deadlines.within(timeouts.attempt):
                exchange = await self._open(method, target, headers, body, timeouts, sends)
                try:
                    content = await exchange.read(limit)
                except (DecodeError, BodyTooLargeError):
                    if exchange.status < 300:
                        raise
                    content = b""  # the status says more than a body that cannot be read
            return Reply(
                status=exchange.status,
                reason=exchange.reason,
                headers=exchange.headers,
                body=content,
                sends=sends.count,
            )
        except TrutoError:
            raise
        except FAILURES as error:
            raise self._failed(error, timeouts) from error
        finally:
            if exchange is not None:
                exchange.close()
            slots.release()

    async def open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        timeouts: Timeouts,
        may_resend: Callable[[], bool] | None = None,
    ) -> Exchange:
        """Send one request and return when the headers are here; the caller closes what it gets.

        :raises TransportError: as ``send``; after the headers only waits for bytes are timed.
        """
        slots = self._slots_here()
        await slots.acquire()
        try:
            with self.deadlines.within(timeouts.attempt):
                exchange = await self._open(method, target, headers, None, timeouts, _Sends(may_resend))
        except BaseException as error:
            slots.release()
            if isinstance(error, FAILURES) and not isinstance(error, TrutoError):
                raise self._failed(error, timeouts) from error
            raise
        exchange.on_end = slots.release
        exchange.time_waits_only()
        return exchange

    async def _open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeouts: Timeouts,
        sends: _Sends,
    ) -> Exchange:
        session = self._session_here()
        sends.pool = self._pool
        options: dict[str, Any] = self._options if body is None else {**self._options, "data": body}
        request = session.request(
            method,
            self._url(target),
            headers=headers,
            timeout=self._client_timeout(timeouts),
            middlewares=(*session._middlewares, sends),  # pyright: ignore[reportPrivateUsage]
            **options,
        )
        try:
            response = await request
        finally:
            sends.forget()
        if response.status == 407:
            response.close()
            raise _proxy_refused(response.status, response.reason or "")

        return Exchange(
            response,
            sends=sends.count,
            timeouts=timeouts,
            deadlines=self.deadlines,
            among=self._open_exchanges,
        )

    def _url(self, target: str) -> URL:
        # Made of its parts: parsing the whole anew takes 9 us, of the 80 that a small request has of ours.
        scheme, host, port, root = self._base
        path, _, query = target.partition("?")
        return URL.build(
            scheme=scheme, host=host, port=port, path=root + path, query_string=query, encoded=True
        )

    def _client_timeout(self, timeouts: Timeouts) -> aiohttp.ClientTimeout:
        if self._told_timeouts is None or self._told_timeouts[0] is not timeouts:
            # Without the threshold aiohttp rounds timeouts up to whole seconds. Its ``connect`` would also count the
            # wait for a place in a pool that is not ours.
            told = aiohttp.ClientTimeout(
                sock_connect=timeouts.connect,
                sock_read=timeouts.read,
                ceil_threshold=float("inf"),
            )
            self._told_timeouts = timeouts, told
        return self._told_timeouts[1]

    def _failed(self, error: Exception, timeouts: Timeouts) -> TrutoError:
        if self.closed:
            return UsageError("the client was closed while this call was under way")
        if isinstance(error, ValueError) and "AUTH" in str(error):
            scrub(error)
            return ConfigurationError(
                "the aiohttp session handed in has a login of its own (auth=, or trust_env=True and a .netrc), "
                "which cannot go out beside the API token"
            )
        return renamed(error, timeouts)

    def _slots_here(self) -> asyncio.Semaphore:
        self.bind()
        assert self._slots is not None
        return self._slots

    def _session_here(self) -> aiohttp.ClientSession:
        if self.closed:
            self.bind()  # while this waited for a place; says so
        session = self._session
        if session is None:
            self._pool = _Pool(self._ssl, self.deadlines)
            session = self._session = aiohttp.ClientSession(
                connector=self._pool,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self.default_headers,
                proxy=self._proxy,
                auto_decompress=False,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
            )
        elif session.closed:
            raise UsageError("the aiohttp session this client was given is closed")
        elif session._loop is not self._loop:  # pyright: ignore[reportPrivateUsage]
            raise UsageError("the aiohttp session this client was given belongs to another event loop")
        return session

    async def aclose(self) -> None:
        """Close the pool, if it is ours. May be called twice, and from any task of the loop."""
        self.closed = True
        self.deadlines.close()
        for exchange in list(self._open_exchanges):
            exchange.is_client_closed = True
            exchange.close()
        session, self._session = self._session, None
        if session is None or session.closed or not self._owns_session:
            return
        # Shielded: a cancelled caller must not leave sockets open; bounded: a stuck TLS goodbye must not hang it.
        closing = asyncio.ensure_future(asyncio.wait_for(session.close(), CLOSE_DEADLINE))
        try:
            await asyncio.shield(closing)
        except TimeoutError:
            return
        except asyncio.CancelledError:
            await asyncio.wait({closing})
            raise

    def abandon(self) -> None:
        """Let go of the sockets without a loop to wait in: for a client that was forgotten."""
        self.closed = True
        session, self._session = self._session, None
        pool, loop = self._pool, self._loop
        if session is None or pool is None or loop is None or session.closed:
            return
        session.detach()  # or aiohttp reports the same session a second time
        try:
            is_here = loop.is_closed() or asyncio.get_running_loop() is loop
        except RuntimeError:
            is_here = False
        if is_here:
            pool.let_go()
            return
        # Dropped by another thread's garbage collection, or between two runs of the loop.
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(pool.let_go)


class _Sends:
    """Count how often one request goes out, and stop aiohttp from sending it again where that is no help.

    aiohttp resends a GET once when its connection breaks. On a used one that is right, if it then takes a new one: the
    service had closed it, and may have closed the others. On a new one the service is in trouble, and whether to try
    again is for the retry policy to say.
    """

    __slots__ = ("_failure", "_may_resend", "count", "is_again", "is_reused", "pool")

    def __init__(self, may_resend: Callable[[], bool] | None) -> None:
        self._may_resend = may_resend
        self._failure: Exception | None = None
        self.count = 0
        self.is_again = False  # it went out before, and is not to go out on another used connection
        self.is_reused = False  # it went out on a used connection
        self.pool: _Pool | None = None

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        if self._failure is not None and not self._can_resend():
            raise self._failure
        self.is_again, self.is_reused = self._failure is not None, False
        self.count += 1
        pool = self.pool
        try:
            if pool is not None:
                pool.asking[request] = self
            return await handler(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            self._failure = error
            raise
        finally:
            if pool is not None:
                del pool.asking[request]

    def _can_resend(self) -> bool:
        # Of a pool that is not ours nobody knows.
        return (self.is_reused or self.pool is None) and (self._may_resend is None or self._may_resend())

    def forget(self) -> None:
        """Drop the failure: with its frames it would be a cycle."""
        self._failure = None


def base_headers(user_agent: str) -> dict[str, str]:
    """Return the headers every request carries beside its authorization."""
    return {"Accept": "application/json", "Accept-Encoding": ACCEPT_ENCODING, "User-Agent": user_agent}


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    lower: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        lower[key] = f"{lower[key]}, {value}" if key in lower else value
    return lower


def renamed(error: BaseException, timeouts: Timeouts, *, bytes_read: int = 0) -> TransportError:
    """Return the error of ours for a failure of the network; the caller raises it from ``error``."""
    scrub(error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _too_late("no connection within", "connect", timeouts.connect)
    if isinstance(error, aiohttp.SocketTimeoutError):
        return _too_late("no byte came for", "read", timeouts.read)
    if (
        isinstance(error, TimeoutError) and error.errno is None
    ):  # with a number it is the system's, of a connection
        return _too_late("no whole answer within", "attempt", timeouts.attempt)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _proxy_refused(error.status, error.message)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return ConnectError(f"the proxy cannot be reached: {_plain(error)}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return TruncatedBodyError(
            f"the body ended early: {_plain(error.__cause__ or error)}", bytes_read=bytes_read
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectError(
            f"the server's certificate is not trusted: {_plain(error)}; see ssl_context", is_permanent=True
        )
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return ConnectError(f"the answer is not HTTP: {_plain(error)}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ConnectError("the server closed the connection before it answered")
    return ConnectError(f"the connection failed: {_plain(error)}")


def _too_late(what: str, deadline: str, seconds: float | None) -> DeadlineError:
    return DeadlineError(f"{what} {seconds} s", deadline=deadline, seconds=seconds)


def _proxy_refused(status: int, reason: str) -> ConnectError:
    hint = "; put its user and password into the proxy's URL" if status == 407 else ""
    return ConnectError(f"the proxy refused with {status} {reason}{hint}", is_permanent=status < 500)


def scrub(error: BaseException) -> None:
    """Take what is secret out of errors of aiohttp that are kept as a cause.

    They hold the request, a proxy's password, and frames whose variables hold the bytes that were sent.
    """
    seen = set[int]()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] in {"aiohttp", "asyncio"}:
                with suppress(RuntimeError):  # it still runs
                    frame.clear()
        if isinstance(each, aiohttp.ClientResponseError):
            info = each.request_info
            url, real_url = info.url.with_user(None), info.real_url.with_user(None)
            no_headers = CIMultiDictProxy(CIMultiDict[str]())
            each.request_info = aiohttp.RequestInfo(url, info.method, no_headers, real_url)
            each.args = (each.request_info, each.history)
        elif isinstance(each, aiohttp.ClientConnectorError):
            key: Any = each._conn_key._replace(proxy=None, proxy_auth=None)  # pyright: ignore[reportPrivateUsage]
            each._conn_key = key  # pyright: ignore[reportPrivateUsage]
            each.args = (key, *each.args[1:])


def _plain(error: BaseException) -> str:
    """Say in one line what an error says; the parser's draw with spaces where it stood."""
    text = (
        error.message if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)) else str(error)
    )
    text = " ".join(text.rstrip("^ \n").split())[:200]
    return text or type(error).__name__


_NEVER_IN_A_URL = re.compile(r"[^!-~]")
_USER_IN_A_URL = re.compile(r"[^/]*//[^/]*@")


def checked_base_url(base_url: str) -> str:
    """Return ``base_url`` without its trailing slash.

    :raises ConfigurationError: no http or https URL of a host, or one with a query, fragment or password.
    """
    if (
        "?" in base_url or "#" in base_url or _USER_IN_A_URL.match(base_url)
    ):  # not quoted: it may hold a password
        raise ConfigurationError("base_url takes scheme, host, port and path only")
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        usable = usable and not _NEVER_IN_A_URL.search(base_url) and URL(base_url, encoded=True).absolute
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"base_url {base_url!r} is no http or https URL, such as https://api.truto.one"
        )
    return base_url.rstrip("/")


def checked_proxy(proxy: str) -> str:
    """Return ``proxy`` as aiohttp takes it.

    :raises ConfigurationError: not an http or https proxy; its URL is not quoted, since it may hold a password.
    """
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        usable = bool(parts.hostname) and parts.port != 0 and URL(proxy).absolute
    except ValueError:
        raise ConfigurationError("the proxy is no URL of a host, such as http://proxy:3128") from None
    if parts.scheme not in {"http", "https"}:
        raise ConfigurationError(
            f"a proxy is an http or https URL, this one is {parts.scheme!r} (did HTTPS_PROXY or ALL_PROXY name it?)"
        )
    if not usable:
        raise ConfigurationError("the proxy is no URL of a host, such as http://proxy:3128")
    return proxy


def environment_proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for ``base_url`` (HTTPS_PROXY, NO_PROXY, …), if any.

    Read through urllib: aiohttp's ``trust_env`` would also read ``.netrc``, and an entry there breaks every
    request that carries a bearer token.
    """
    parts = urlsplit(base_url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return checked_proxy(proxy)

"""Connections and the pool that keeps them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from .deadlines import Deadlines

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


# Shorter than the five seconds after which a Node server drops an idle connection, so that we are the first
# to let go and seldom write into a connection that is already closed.
KEEP_ALIVE = 4.0


# Bytes that one read of a plain socket brings: at first, since most connections carry small answers, and at most. What
# it is copied to is then still below the 128 kB from which on an allocator asks the system for memory, and gives it
# back, each time.
FIRST_READ_BUFFER = 16 * 1024
PLAIN_READ_BUFFER = 127 * 1024
# The same over TLS: all that asyncio holds of a connection (256 kB and the beginning of a record), so that one read
# leaves nothing behind, which it would forget when the connection ends there.
TLS_READ_BUFFER = 288 * 1024


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
            self._room = memoryview(bytearray(FIRST_READ_BUFFER))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._room[:nbytes].tobytes())
        if nbytes == len(self._room) < PLAIN_READ_BUFFER:  # there may be more
            self._room = memoryview(bytearray(min(2 * nbytes, PLAIN_READ_BUFFER)))

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


class ConnectionPool(aiohttp.TCPConnector):
    """Connections, of which one is used again only if it has been silent since its last answer.

    aiohttp would read what an idle connection said (a 408 before it is closed, an answer sent twice) as the answer to
    the next request, and every later answer for that of the request before it: pages of one account under the name of
    another.
    """

    def __init__(self, tls: ssl.SSLContext | bool, deadlines: Deadlines) -> None:
        # No limit: how many there are is for ``Transport`` to say.
        super().__init__(limit=0, keepalive_timeout=KEEP_ALIVE, ssl=tls)  # pyright: ignore[reportUnknownMemberType]
        self._factory: Any = partial(_Connection, self._loop, memoryview(bytearray(TLS_READ_BUFFER)))
        # Requests that are about to be given a connection.
        self.asking: dict[aiohttp.ClientRequest, SendCounter] = {}
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


class SendCounter:
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
        self.pool: ConnectionPool | None = None

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

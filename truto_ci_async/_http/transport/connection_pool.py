"""Reuses connections where that is safe, and counts how often a request is sent on them."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async.errors import DeadlineError

from .aiohttp_internals import is_silent
from .deadlines import Deadline

# Seconds an idle connection is kept. A Node server drops one after five; letting go first means that a request is
# rarely written to a connection that is already closed.
KEEP_ALIVE = 4.0
# More bytes than asyncio allocates for each read (256 kB) before it cuts them to what was received. glibc maps such a
# block anew every time, with a page fault for each 4 kB used, until the process has freed a larger one. For a page of
# 100 items that was a tenth of the time.
LARGE_BLOCK = 512 * 1024


class ConnectionPool(aiohttp.TCPConnector):
    """A connector that reuses a connection only if it has been silent since its last response.

    aiohttp reads whatever an idle connection received (a 408 before it is closed, a response sent twice) as the
    response to the next request, and every later response as that to the request before it: one account would get
    the pages of another.
    """

    def __init__(self, tls: ssl.SSLContext | bool, *, can_reuse: bool) -> None:
        reuse: dict[str, Any] = {"keepalive_timeout": KEEP_ALIVE} if can_reuse else {"force_close": True}
        # `Transport` limits their number.
        super().__init__(limit=0, ssl=tls, **reuse)  # pyright: ignore[reportUnknownMemberType] - a tuple of aiohttp
        self._can_reuse = can_reuse
        self._used = WeakSet[ResponseHandler]()
        #: The counter of each request that is being sent.
        self.counters: dict[aiohttp.ClientRequest, SendCounter] = {}
        bytes(LARGE_BLOCK)

    async def connect(self, req: aiohttp.ClientRequest, *args: Any, **options: Any) -> Connection:
        """Return a new connection, or a used one that is safe to reuse."""
        counter = self.counters[req]
        counter.on_connecting()
        while True:
            connection = await super().connect(req, *args, **options)
            is_new = not self._can_reuse or self._is_new(connection)
            # Where one idle connection was dead all of them may be, so a resend takes a new one.
            if is_new or (is_silent(connection) and not counter.is_resend):
                counter.on_connected(is_reused=not is_new)
                return connection
            connection.close()

    def _is_new(self, connection: Connection) -> bool:
        protocol = connection.protocol
        if protocol is None or protocol in self._used:
            return False
        self._used.add(protocol)
        return True

    async def abort(self) -> None:
        """Close all connections at once, without a TLS shutdown."""
        await self.close(abort_ssl=True)


class SendCounter:
    """Counts how often a request is sent, as a middleware of aiohttp, and decides whether it may be sent again.

    aiohttp resends a GET once when its connection breaks. On a reused connection that is right, if the resend takes a
    new one: the service had closed the idle connection. If a new connection breaks, the service is in trouble, and the
    retry policy decides.

    It also sets the ``deadline`` of each step: first for connecting (name lookup, all addresses and a proxy's tunnel
    together), then for the headers. aiohttp would set and cancel two timers for that, which took two percent of the
    time of a page of 100 items. It would also give up if other code blocked the loop while the connection was made.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        deadline: Deadline,
        timeouts: Timeouts,
        may_resend: Callable[[], bool] | None,
    ) -> None:
        self._pool = pool
        self._deadline = deadline
        self._timeouts = timeouts
        self._may_resend = may_resend
        self._failure: Exception | None = None
        self._is_connected = False
        self._is_reused = False
        self.is_resend = False
        self.count = 0

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        if self._failure is not None and not self._can_resend():
            raise self._failure
        self.is_resend = self._failure is not None
        self.count += 1
        self._pool.counters[request] = self
        try:
            return await handler(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            self._failure = error
            raise
        finally:
            del self._pool.counters[request]

    def _can_resend(self) -> bool:
        return self._is_reused and (self._may_resend is None or self._may_resend())

    def on_connecting(self) -> None:
        self._is_connected = self._is_reused = False
        self._deadline.restart(self._timeouts.connect)

    def on_connected(self, *, is_reused: bool) -> None:
        self._is_connected, self._is_reused = True, is_reused
        self._deadline.restart(self._timeouts.read)

    def missed_deadline(self) -> DeadlineError:
        """Return the error for the step that took too long."""
        if self._is_connected:
            seconds = self._timeouts.read
            return DeadlineError(f"no response headers within {seconds} s", deadline="read", seconds=seconds)
        seconds = self._timeouts.connect
        return DeadlineError(f"no connection within {seconds} s", deadline="connect", seconds=seconds)

    def forget(self) -> None:
        """Drop the failure, which with its frames would be a reference cycle."""
        self._failure = None

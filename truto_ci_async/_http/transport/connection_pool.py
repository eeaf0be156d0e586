"""Reuses connections where that is safe."""

from __future__ import annotations

import ssl
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

# Seconds an idle connection is kept. A Node server drops one after five; letting go first means that a request is
# rarely written to a connection that is already closed.
KEEP_ALIVE = 4.0
# More bytes than asyncio allocates for each read (256 kB) before it cuts them to what was received. glibc maps such a
# block anew every time, with a page fault for each 4 kB used, until the process has freed a larger one. For a page of
# 100 items that was a tenth of the time.
LARGE_BLOCK = 512 * 1024
# Not those of aiohttp: it would set and cancel two timers for each request, and give up if other code blocked the loop
# while the connection was made.
_NO_TIMERS = aiohttp.ClientTimeout()


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
        self._used = WeakSet[ResponseHandler]()
        bytes(LARGE_BLOCK)

    async def take(self, request: aiohttp.ClientRequest, *, is_resend: bool) -> tuple[Connection, bool]:
        """Return a connection for ``request``, and whether it was used before."""
        while True:
            connection = await self.connect(request, [], _NO_TIMERS)
            protocol = connection.protocol
            assert protocol is not None
            if protocol not in self._used:
                self._used.add(protocol)
                return connection, False
            # Where one idle connection was dead all of them may be, so a resend takes a new one.
            if not is_resend and not protocol.should_close:  # intact, and silent since its last response
                return connection, True
            connection.close()

    async def abort(self) -> None:
        """Close all connections at once, without a TLS shutdown."""
        await self.close(abort_ssl=True)

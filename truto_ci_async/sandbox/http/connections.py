"""Open connections, and operations on one of them: reading a body, resetting it."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from truto_ci_async.sandbox.service.service import MAX_TARGET_CHARS

_MAX_LINE_BYTES: Final = (
    2 * MAX_TARGET_CHARS
)  # the parser's limit, high enough for the service to send its 414
_MAX_BODY_BYTES: Final = 65_536
_LINGER: Final = struct.Struct("hh" if sys.platform == "win32" else "ii")
_RESET_ON_CLOSE: Final = _LINGER.pack(1, 0)  # SO_LINGER on, with 0 seconds


@dataclass(slots=True)
class Connection:
    transport: asyncio.Transport
    requests: int = 0


class Connections(web.Server):
    """aiohttp's low-level server, with a list of the open connections."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        on_open: Callable[[], None],
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=MAX_TARGET_CHARS,
        )
        self.open: dict[web.RequestHandler, Connection] = {}
        self._on_open = on_open

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        # Without a write buffer, "drained" means that the kernel has taken everything.
        transport.set_write_buffer_limits(high=0)
        self.open[handler] = Connection(transport)
        self._on_open()
        super().connection_made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self.open.pop(handler, None)
        super().connection_lost(handler, exc)


def reset(request: web.BaseRequest) -> None:
    """Close the connection so that the client sees a reset (RST) instead of an end of data."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()


async def read_body(request: web.BaseRequest) -> bytes | None:
    """Read a small request body. Returns None if it is too large."""
    body = b""
    async for chunk in request.content.iter_chunked(_MAX_BODY_BYTES):
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            return None
    return body

"""From an answer to bytes on a connection, whole or broken as a fault says.

aiohttp reads the requests. The answers are written to its transport by hand: half of them are not valid HTTP.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from truto_ci_async.sandbox.service.content_encoding import compress
from truto_ci_async.sandbox.service.faults import Fault
from truto_ci_async.sandbox.service.responses import Answer, reason

MAX_TARGET_CHARS: Final = 16_384  # of a request line's target; more is 414
_MAX_LINE_BYTES: Final = 2 * MAX_TARGET_CHARS  # the parser's own limit, so that ours answers first
_MAX_POST_BYTES: Final = 65_536
_RST_ON_CLOSE: Final = struct.pack(
    "hh" if sys.platform == "win32" else "ii", 1, 0
)  # SO_LINGER: on, 0 seconds


@dataclass(slots=True)
class Connection:
    transport: asyncio.Transport
    requests: int = 0


class Connections(web.Server):
    """aiohttp's low-level server, with a list of what is open."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], opened: Callable[[], None]
    ) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=MAX_TARGET_CHARS,
        )
        self.open: dict[web.RequestHandler, Connection] = {}
        self._opened = opened

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        # With no room in the write buffer, "drained" means that the kernel has it all.
        transport.set_write_buffer_limits(high=0)
        self.open[handler] = Connection(transport)
        self._opened()
        super().connection_made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self.open.pop(handler, None)
        super().connection_lost(handler, exc)


class Delivered(web.StreamResponse):
    """What aiohttp gets back once an answer is on the wire: only whether to keep the connection."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self._keep = keep

    @property
    def keep_alive(self) -> bool:
        return self._keep

    async def prepare(self, request: web.BaseRequest) -> None:
        pass

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class Delivery:
    """One answer going out over one connection. `headers` are further ones, already in order."""

    def __init__(
        self, request: web.BaseRequest, answer: Answer, headers: Iterable[tuple[str, str]], piece: int
    ) -> None:
        self._request = request
        self._answer = answer
        self._headers = headers
        self._piece = piece
        self._keep = request.keep_alive

    async def send(self) -> bool:
        """Send all of it. Returns whether the connection can be used again."""
        answer = self._answer
        body = b"" if self._request.method == "HEAD" else answer.body
        if not answer.streamed:
            await self._write(self._head(len(answer.body)) + body)
            return self._keep
        head = self._head(None)
        for frame in _frames(body, self._piece):
            await self._write(head + frame)
            await asyncio.sleep(0)  # so that a client of the same loop sees the pieces as pieces
            head = b""
        await self._write(head + b"0\r\n\r\n")
        return self._keep

    async def send_badly(self, fault: Fault) -> bool:
        """Send what a fault of the connection lets through."""
        answer = self._answer
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            return await self.send()
        if fault.kind == "drip":
            return await self._drip(fault)
        if fault.kind == "truncate":
            return await self._truncate(fault.mode, fault.keep)
        if fault.kind in ("hang", "hang_body"):
            if fault.kind == "hang_body":
                await self._write(
                    self._head(len(answer.body)) + answer.body[: _kept(fault.keep, answer.body)]
                )
            # Ends when the client goes away or the sandbox closes: both cancel this task.
            await asyncio.get_running_loop().create_future()
        whole = self._head(len(answer.body)) + answer.body
        await self._write(whole[: _kept(fault.keep, whole)])
        if fault.kind == "reset":
            reset(self._request)
        return False

    async def _drip(self, fault: Fault) -> bool:
        head, body = self._head(len(self._answer.body)), self._answer.body
        if fault.mode == "body":
            await self._write(head)
        for byte in head + body if fault.mode == "all" else body:
            await asyncio.sleep(fault.seconds)
            await self._write(bytes((byte,)))
        return self._keep

    async def _truncate(self, mode: str, keep: float | None) -> bool:
        body = self._answer.body
        if mode == "length":
            await self._write(self._head(len(body)) + body[: _kept(keep, body)])
            return False
        if mode == "json":
            body = body[: _kept(keep, body)]
            await self._write(self._head(len(body)) + body)
            return self._keep
        encoding = None if mode == "chunked" else mode
        body = compress(mode, body) if encoding else body
        await self._write(self._head(None, encoding))
        for frame in _frames(body[: _kept(keep, body)], self._piece):
            await self._write(frame)
        if mode == "chunked":
            return False
        await self._write(b"0\r\n\r\n")
        return self._keep

    def _head(self, length: int | None, encoding: str | None = None) -> bytes:
        answer = self._answer
        lines = [f"HTTP/1.1 {answer.status} {reason(answer.status)}", f"Content-Type: {answer.content_type}"]
        lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
        encoding = encoding or answer.encoding
        if encoding:
            lines.append(f"Content-Encoding: {encoding}")
        lines += [f"{name}: {value}" for name, value in self._headers]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        if not self._keep:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

    async def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(data)
        if transport.get_write_buffer_size():
            await self._request.writer.drain()


def reset(request: web.BaseRequest) -> None:
    """Break the connection so that the client sees a reset rather than an end."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        transport.abort()


async def read_post(request: web.BaseRequest) -> bytes | None:
    """Read a small request body; None when it is too large to be honest."""
    body = b""
    async for chunk in request.content.iter_chunked(_MAX_POST_BYTES):
        body += chunk
        if len(body) > _MAX_POST_BYTES:
            return None
    return body


def _frames(body: bytes, piece: int) -> Iterator[bytes]:
    for at in range(0, len(body), piece):
        part = body[at : at + piece]
        yield b"%x\r\n%b\r\n" % (len(part), part)


def _kept(keep: float | None, data: bytes) -> int:
    return int(len(data) * keep) if isinstance(keep, float) else min(keep or 0, len(data))

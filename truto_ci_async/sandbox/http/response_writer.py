"""Writes a response to a connection, complete or broken by a fault.

aiohttp parses the requests, but responses are written straight to its transport: many of them are not valid HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from aiohttp import web

from truto_ci_async.sandbox.service.content_encoding import compress
from truto_ci_async.sandbox.service.faults import Fault
from truto_ci_async.sandbox.service.responses import Response, reason_phrase

from .connections import reset


class SentResponse(web.StreamResponse):
    """Tells aiohttp that the response has been sent already, and whether to keep the connection."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keeps_alive = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._keeps_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        pass

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class ResponseWriter:
    """Writes one response. Its methods return whether the connection can be used again."""

    def __init__(self, request: web.BaseRequest, response: Response, chunk_size: int) -> None:
        self._request = request
        self._response = response
        self._chunk_size = chunk_size
        self._keep_alive = request.keep_alive

    async def send(self) -> bool:
        response = self._response
        body = b"" if self._request.method == "HEAD" else response.body
        if not response.streamed:
            await self._write(self._head(len(response.body)) + body)
            return self._keep_alive
        head = self._head(None)
        for chunk in _chunks(body, self._chunk_size):
            await self._write(head + chunk)
            await asyncio.sleep(0)  # lets a client in the same loop read each chunk on its own
            head = b""
        await self._write(head + b"0\r\n\r\n")
        return self._keep_alive

    async def send_with_fault(self, fault: Fault) -> bool:
        """Send as much as a fault of the connection allows."""
        body = self._response.body
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            return await self.send()
        if fault.kind == "drip":
            return await self._drip(fault)
        if fault.kind == "truncate":
            return await self._truncate(fault.mode, fault.keep)
        if fault.kind in ("hang", "hang_body"):
            if fault.kind == "hang_body":
                await self._write(self._head(len(body)) + _cut(body, fault.keep))
            # Cancelled when the client disconnects or the sandbox closes.
            await asyncio.get_running_loop().create_future()
        await self._write(_cut(self._head(len(body)) + body, fault.keep))
        if fault.kind == "reset":
            reset(self._request)
        return False

    async def _drip(self, fault: Fault) -> bool:
        body = self._response.body
        head = self._head(len(body))
        if fault.mode == "body":
            await self._write(head)
        for byte in head + body if fault.mode == "all" else body:
            await asyncio.sleep(fault.seconds)
            await self._write(bytes((byte,)))
        return self._keep_alive

    async def _truncate(self, mode: str, keep: float | None) -> bool:
        body = self._response.body
        if mode == "length":
            await self._write(self._head(len(body)) + _cut(body, keep))
            return False
        if mode == "json":
            body = _cut(body, keep)
            await self._write(self._head(len(body)) + body)
            return self._keep_alive
        encoding = None if mode == "chunked" else mode
        body = compress(encoding, body) if encoding else body
        await self._write(self._head(None, encoding))
        for chunk in _chunks(_cut(body, keep), self._chunk_size):
            await self._write(chunk)
        if mode == "chunked":
            return False
        await self._write(b"0\r\n\r\n")
        return self._keep_alive

    def _head(self, length: int | None, encoding: str | None = None) -> bytes:
        response = self._response
        lines = [
            f"HTTP/1.1 {response.status} {reason_phrase(response.status)}",
            f"Content-Type: {response.content_type}",
            "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}",
        ]
        encoding = encoding or response.encoding
        if encoding:
            lines.append(f"Content-Encoding: {encoding}")
        lines += [f"{name}: {value}" for name, value in response.headers]
        if not self._keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

    async def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has disconnected")
        transport.write(data)
        if transport.get_write_buffer_size():
            await self._request.writer.drain()


def _chunks(body: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        part = body[at : at + size]
        yield b"%x\r\n%b\r\n" % (len(part), part)


def _cut(data: bytes, keep: float | None) -> bytes:
    """Keep that many bytes, or that fraction if `keep` is a float."""
    return data[: int(len(data) * keep) if isinstance(keep, float) else keep or 0]

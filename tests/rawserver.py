"""Hand-written servers and proxies, for what a proper server never sends."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CLOSE_SECONDS = 5.0
OK = b"HTTP/1.1 200 OK\r\n"


class RawServer:
    """Where a handler listens, and what it received: ``heads`` has one entry for each request."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.connections = 0
        self.open = 0
        self.heads: list[bytes] = []

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        """Read a request's head, and its body if it has one."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length:
            await reader.readexactly(int(length[1]))
        self.heads.append(head)
        return head


@asynccontextmanager
async def serving(
    handle: Callable[[RawServer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RawServer]:
    """Run ``handle`` for each connection, which is closed when that returns."""
    tasks = set[asyncio.Task[Any]]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.connections += 1
        server.open += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handle(server, reader, writer)
                await writer.drain()
        finally:
            server.open -= 1
            tasks.discard(task)
            writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls, backlog=512)
    server = RawServer(listener.sockets[0].getsockname()[1], "https" if tls else "http")
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(set(tasks), timeout=CLOSE_SECONDS)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection so that the other side sees a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def turns(count: int = 20) -> None:
    """Let the loop run a few turns; what was written on loopback has been read by then."""
    for _ in range(count):
        await asyncio.sleep(0)


def with_length(body: bytes, *more: bytes) -> bytes:
    """A complete response with this body."""
    return b"\r\n".join([OK + b"Content-Length: %d" % len(body), *more, b"", body])


def in_chunks(body: bytes, size: int, *more: bytes) -> bytes:
    """A complete response with this body, in chunks of ``size`` bytes."""
    frames = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size])
        for at in range(0, len(body), size)
    )
    return b"\r\n".join([OK + b"Transfer-Encoding: chunked", *more, b"", frames + b"0\r\n\r\n"])


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes in one direction until they end."""
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Copy bytes in both directions between a connection and a local port, until one side ends."""
    to, out = await asyncio.open_connection("127.0.0.1", port)
    both = {asyncio.ensure_future(pipe(reader, out)), asyncio.ensure_future(pipe(to, writer))}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        out.close()
        for each in both:
            each.cancel()
        await asyncio.wait(both)

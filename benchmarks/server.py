"""A server that is never the bottleneck: one process of its own, pages made beforehand, no HTTP framework.

    python -m benchmarks.server --latency 0.02      prints its port, then serves until its stdin ends

What to answer is the account asked for: ``remote-90000000`` is one body of about 90 MB of the shape ``remote``
(see ``data``), ``plain-x50-p20`` are 20 pages of 50 items; ``--7`` behind it makes it another account. A body above
200 MB is sent in chunks, made on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
import sys
from collections.abc import Iterable, Iterator
from functools import cache

from benchmarks import data

# A larger body is not kept: its items repeat, and it goes out as chunks.
KEPT_BYTES = 200_000_000
WRITE_BYTES = 2**18
BODY = re.compile(r"([a-z_]+)-(\d+)")
PAGES = re.compile(r"([a-z_]+)-x(\d+)-p(\d+)")


@cache
def kept(account: str, cursor: str) -> list[bytes]:
    """The whole answer, head first."""
    if found := PAGES.fullmatch(account):
        shape, count, pages = found[1], int(found[2]), int(found[3])
        number = int(cursor or 0)
        following = str(number + 1) if number + 1 < pages else None
        body = [data.page(count, shape, next_cursor=following, seed=data.SEED + number)]
    elif found := BODY.fullmatch(account):
        body = list(joined(data.body_chunks(int(found[2]), found[1])))
    else:
        body = [b'{"result":[]}']
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return [head % sum(map(len, body)), *body]


def joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= WRITE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def made(shape: str, size: int) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunk in joined(data.body_chunks(size, shape)):
        yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
    yield b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection: requests in, one after the other, and bytes out as fast as they are taken."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._held = b""
        self._left: Iterator[bytes] = iter(())
        self._free = True
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            line = self._held[:end].split(b"\r\n", 1)[0].decode()
            self._held = self._held[end + 4 :]
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._answer, line)
            else:
                self._answer(line)

    def _answer(self, line: str) -> None:
        account = (re.search(r"integrated_account_id=([\w-]+)", line) or [""])[0].partition("=")[2]
        account = account.partition("--")[0]
        cursor = (re.search(r"next_cursor=(\w+)", line) or [""])[0].partition("=")[2]
        found = BODY.fullmatch(account)
        if found and int(found[2]) > KEPT_BYTES:
            self._left = made(found[1], int(found[2]))
        else:
            self._left = iter(kept(account, cursor))
        self.resume_writing()

    def pause_writing(self) -> None:
        self._free = False

    def resume_writing(self) -> None:
        self._free = True
        assert self._transport is not None
        while self._free and not self._transport.is_closing():
            piece = next(self._left, None)
            if piece is None:
                return
            self._transport.write(piece)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = iter(())


class Distance(asyncio.Protocol):
    """One half of a relay that is half a round trip long: what comes in goes out of the other half that much later.

    Setting up a connection takes a round trip more, which loopback does in no time.
    """

    def __init__(self, half: float, port: int, other: Distance | None = None) -> None:
        self._half = half
        self._port = port
        self._other = other
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._other is None:
            asyncio.get_running_loop().call_later(2 * self._half, self._connect)
        else:
            self._other.connected(self)

    def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        far = Distance(self._half, self._port, self)
        self._connecting = loop.create_task(loop.create_connection(lambda: far, "127.0.0.1", self._port))

    def connected(self, other: Distance) -> None:
        self._other = other
        for piece in self._early:
            self.data_received(piece)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            asyncio.get_running_loop().call_later(self._half, self._other.send, data)

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other is not None:
            asyncio.get_running_loop().call_later(self._half, self._other.close)


async def serve(latency: float, round_trip: float, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(latency), "127.0.0.1", 0, ssl=tls, backlog=1024)
    port = behind = server.sockets[0].getsockname()[1]
    if round_trip:
        relay = await loop.create_server(
            lambda: Distance(round_trip / 2, behind), "127.0.0.1", 0, backlog=1024
        )
        port = relay.sockets[0].getsockname()[1]
    print(port, flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds from there to here and back")
    parser.add_argument("--certificate", help="a PEM file with certificate and key: serve TLS")
    options = parser.parse_args()
    tls = None
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate)
    asyncio.run(serve(options.latency, options.round_trip, tls))


if __name__ == "__main__":
    main()

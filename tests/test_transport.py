"""One attempt of one request, against servers that break every rule: our errors, in time, and nothing left open."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import itertools
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from operator import attrgetter
from typing import Any

import aiohttp
import pytest
from aiohttp.http_exceptions import BadStatusLine, ContentLengthError
from yarl import URL

from truto_ci_async._http.credentials import Secret
from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async._http.transport import aiohttp_internals
from truto_ci_async._http.transport import response as response_module
from truto_ci_async._http.transport.addresses import checked_base_url, checked_proxy, environment_proxy
from truto_ci_async._http.transport.deadlines import Deadlines
from truto_ci_async._http.transport.network_errors import map_network_error
from truto_ci_async._http.transport.response import BufferedResponse, StreamedResponse
from truto_ci_async._http.transport.transport import (
    MAX_ERROR_BYTES,
    MAX_HEADER_BYTES,
    Transport,
    base_headers,
)
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

from .certificates import client_context, server_context
from .rawserver import OK, RawServer, in_chunks, reset, serving, turns, with_length
from .support import ZSTD_MODULE, run

PATIENT = Timeouts(connect=10.0, read=10.0, attempt=10.0, total=10.0)
# Seconds within which a failure has to be noticed that must not be left to a deadline.
SOON = 2.0
HEADERS = base_headers("tests/1") | {"Authorization": Secret("Bearer never-to-be-seen")}

# What a server does once it has read a request: it sends bytes, resets the connection, or stays silent.
RESET, SILENCE = "reset", "silence"
Steps = Sequence[bytes | str]


async def send(transport: Transport, target: str = "/", **options: Any) -> BufferedResponse:
    options = {"timeouts": PATIENT, "limit": 2**20} | options
    return await transport.send(options.pop("method", "GET"), target, HEADERS, **options)


async def stream(
    transport: Transport, target: str = "/", *, limit: int | None = 2**20, **options: Any
) -> bytes:
    """Send a request as streams do, and join the pieces of the body."""
    response = await transport.open("GET", target, HEADERS, **({"timeouts": PATIENT} | options))
    try:
        return b"".join([piece async for piece in response.pieces(limit)])
    finally:
        response.close()


async def buffered(transport: Transport, **options: Any) -> bytes:
    return (await send(transport, **options)).body


WAYS = pytest.mark.parametrize("way", [buffered, stream])
Way = Callable[..., Awaitable[bytes]]


def plays(*steps: bytes | str) -> Any:
    """Respond to the first request of a connection with these steps, one at a time, and close."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        for step in steps:
            if step == RESET:
                reset(writer)
                return
            if step == SILENCE:
                await reader.read()
                return
            assert isinstance(step, bytes)
            writer.write(step)
            await writer.drain()
            await turns()

    return handle


def keeps_alive(answer: Callable[[int], bytes]) -> Any:
    """Respond to any number of requests; ``answer`` gets the number of each, from 1, over all connections."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            writer.write(answer(len(server.heads)))
            await writer.drain()

    return handle


def assert_nothing_is_held(transport: Transport) -> None:
    assert transport._open_responses == set()
    slots = transport._slots
    assert slots is None or slots._value == transport.max_connections
    if transport._pool is not None:
        assert transport._pool._acquired == set()


def with_server(
    handle: Any, story: Callable[[RawServer, Transport], Awaitable[None]], **options: Any
) -> None:
    """Run ``story(server, transport)``, and check that nothing is held afterwards and every connection is gone."""

    async def main() -> None:
        async with serving(handle) as server:
            transport = Transport(server.url, **{"max_connections": 4, **options})
            try:
                await story(server, transport)
                assert_nothing_is_held(transport)
            finally:
                await transport.aclose()

    run(main())


# Responses that are not valid

GZIP = gzip.compress(b"x" * 3000)
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ODD: dict[str, tuple[Steps, type[TrutoError] | bytes]] = {
    "no http": ([b"HELLO there\r\n\r\n"], ConnectError),
    "another protocol": ([b"SSH-2.0-OpenSSH\r\n"], ConnectError),
    "http 2": ([b"\0\0\x12\x04\0\0\0\0\0"], ConnectError),
    "tls": ([b"\x15\x03\x01\0\x02\x02\x46"], ConnectError),
    "a status of four digits": ([b"HTTP/1.1 2000 X\r\nContent-Length: 1\r\n\r\nx"], ConnectError),
    "a header beyond reason": ([OK + b"X: " + b"x" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n"], ConnectError),
    "headers beyond number": ([OK + b"X: x\r\n" * 300 + b"\r\n"], ConnectError),
    "a NUL in a header": ([OK + b"X: \0\r\nContent-Length: 1\r\n\r\nx"], ConnectError),
    "a negative length": ([OK + b"Content-Length: -5\r\n\r\nabc"], ConnectError),
    "two lengths": ([OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"], ConnectError),
    "a length beside chunks": (
        [OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"],
        ConnectError,
    ),
    "a chunk size that is none": ([CHUNKED + b"ZZ\r\nabc\r\n0\r\n\r\n"], ConnectError),
    "a chunk size beyond reason": ([CHUNKED + b"F" * 20 + b"\r\n", SILENCE], ConnectError),
    "a chunk size that is none, later": ([CHUNKED + b"3\r\nabc\r\n", b"ZZ\r\nabc\r\n", SILENCE], TruncatedBodyError),
    "a chunk longer than it says": ([CHUNKED + b"3\r\nabc\r\n", b"1\r\nabc\r\n", SILENCE], TruncatedBodyError),
    "nothing": ([], ConnectError),
    "a reset": ([RESET], ConnectError),
    "half a head": ([OK + b"X-Half"], ConnectError),
    "half a head and a reset": ([OK + b"X-Half", RESET], ConnectError),
    "half a length": ([OK + b"Content-Length: 9\r\n\r\nabc"], TruncatedBodyError),
    "half a length and a reset": ([OK + b"Content-Length: 9\r\n\r\nabc", RESET], TruncatedBodyError),
    "half the chunks": ([CHUNKED + b"3\r\nabc\r\n"], TruncatedBodyError),
    "half the chunks and a reset": ([CHUNKED + b"3\r\nabc\r\n", RESET], TruncatedBodyError),
    "no last empty line": ([CHUNKED + b"3\r\nabc\r\n0\r\n"], TruncatedBodyError),
    "half a gzip": ([in_chunks(GZIP[:-9], 10, b"Content-Encoding: gzip")], TruncatedBodyError),
    "no gzip": ([with_length(b"abc", b"Content-Encoding: gzip")], DecodeError),
    "a coding nobody knows": ([with_length(b"abc", b"Content-Encoding: rot13")], DecodeError),
    "a reset where only the end ends": ([OK + b"\r\nabc", RESET], TruncatedBodyError),
    "an end where only the end ends": ([OK + b"\r\nabc"], b"abc"),
    "http 1.0": ([b"HTTP/1.0 200 OK\r\n\r\nabc"], b"abc"),
    "many a 100 first": ([b"HTTP/1.1 100 Continue\r\n\r\n" * 300 + with_length(b"abc")], b"abc"),
    "no reason": ([b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc"], b"abc"),
    "a long header": ([with_length(b"abc", b"Content-Security-Policy: " + b"x" * 60_000)], b"abc"),
    "odd characters": ([with_length(b"abc", "X: é".encode(), b"Y: \xe9")], b"abc"),
    "trailers": ([CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"], b"abc"),
    "identity": ([with_length(b"abc", b"Content-Encoding: identity")], b"abc"),
    "gzip": ([with_length(GZIP, b"Content-Encoding: gzip")], b"x" * 3000),
    "gzip in chunks": ([in_chunks(GZIP, 7, b"Content-Encoding: gzip")], b"x" * 3000),
    "no body, though of a coding": ([with_length(b"", b"Content-Encoding: gzip")], b""),
    "no content": ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
}  # fmt: skip


@WAYS
@pytest.mark.parametrize("name", ODD)
def test_whatever_a_server_says_is_an_answer_or_an_error_of_ours_at_once(name: str, way: Way) -> None:
    """aiohttp leaves some of these to a deadline, and raises errors of its own for others."""
    steps, expected = ODD[name]

    async def story(server: RawServer, transport: Transport) -> None:
        started = time.monotonic()
        if isinstance(expected, bytes):
            assert await way(transport) == expected
        else:
            with pytest.raises(expected) as caught:
                await way(transport)
            assert type(caught.value) is expected
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 300
            assert not isinstance(caught.value, DeadlineError)
        assert time.monotonic() - started < SOON
        assert len(server.heads) == 1

    with_server(plays(*steps), story)


@pytest.mark.parametrize("body", [b"no gzip", b"x" * 5000])
@pytest.mark.parametrize("status", [401, 404, 429, 503, 302])
def test_a_body_that_cannot_be_read_does_not_hide_a_status(status: int, body: bytes) -> None:
    """The headers of a 429 say what to do; an unreadable body must not hide them."""
    coding = b"Content-Encoding: gzip\r\n" if body == b"no gzip" else b""
    head = b"HTTP/1.1 %d X\r\nRetry-After: 7\r\n%bContent-Length: %d\r\n\r\n" % (status, coding, len(body))

    async def story(server: RawServer, transport: Transport) -> None:
        reply = await send(transport, limit=1000)
        assert (reply.status, reply.headers["retry-after"], reply.body) == (status, "7", b"")

    with_server(plays(head + body), story)


def test_a_long_body_of_an_error_is_not_read() -> None:
    """Decoding 60 MB of it held the loop for 0.4 s."""
    body = b'{"message":"%b"}' % (b"x" * MAX_ERROR_BYTES)
    head = b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n"

    async def story(server: RawServer, transport: Transport) -> None:
        assert (await send(transport, limit=None)).body == b""
        assert len((await send(transport, limit=None)).body) == MAX_ERROR_BYTES

    lengths = (len(body), MAX_ERROR_BYTES)

    def answer(number: int) -> bytes:
        length = lengths[number - 1]
        return head % length + body[:length]

    with_server(keeps_alive(answer), story)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("more", ["", "X-Odd: caf\udce9\r\n"])
def test_a_header_that_comes_twice_is_one_with_both_values(is_streamed: bool, more: str) -> None:
    """Cookies of a CDN do, and the media type where the application and a proxy both set it."""
    lines = f"Set-Cookie: a=1\r\nContent-Type: application/json\r\nset-cookie: b=2\r\n{more}"
    head = f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\n{{}}".encode(errors="surrogateescape")

    async def story(server: RawServer, transport: Transport) -> None:
        response: Any
        if is_streamed:
            response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
            response.close()
        else:
            response = await send(transport)
        assert response.headers["set-cookie"] == "a=1, b=2"
        assert response.headers["content-type"] == "application/json"

    with_server(plays(head), story)


@pytest.mark.parametrize("status", [200, 404, 407])
@pytest.mark.parametrize(
    "reason",
    ["Non trouvé".encode("latin-1"), "見つかりません".encode("shift-jis"), b"\xed\xa0\xbd", b"\xff\xfe"],
)
def test_a_head_that_is_not_utf_8_becomes_text_that_can_be_stored(status: int, reason: bytes) -> None:
    """HTTP allows any bytes there. A report, a log or a database takes no surrogates."""
    head = b"HTTP/1.1 %d %b\r\nX-Reason: %b\r\nContent-Length: 0\r\n\r\n" % (status, reason, reason)

    async def story(server: RawServer, transport: Transport) -> None:
        try:
            reply = await send(transport)
        except ConnectError as error:
            assert status == 407
            str(error).encode()
        else:
            for text in (reply.reason, reply.headers["x-reason"]):
                assert "\ufffd" in text
                text.encode()

    with_server(plays(head), story)


@pytest.mark.parametrize("first", ["buffered", "streamed"])
@pytest.mark.parametrize(
    "unasked",
    [
        with_length(b"poison"),
        with_length(b"poison") * 3,
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npoi",
        b"rubbish\r\n\r\n",
    ],
)
def test_what_an_idle_connection_says_is_no_answer_to_the_next_request(unasked: bytes, first: str) -> None:
    """Otherwise one account gets the page of another, and every later response is off by one."""
    asked, said = asyncio.Event(), asyncio.Event()

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            writer.write(with_length(b"answer %d" % len(server.heads)))
            if len(server.heads) == 1:
                await asked.wait()
                writer.write(unasked)
                await turns()
                said.set()

    async def story(server: RawServer, transport: Transport) -> None:
        assert await (buffered if first == "buffered" else stream)(transport) == b"answer 1"
        asked.set()
        await said.wait()
        for number in range(2, 6):
            assert await buffered(transport) == b"answer %d" % number
        assert server.connections == 2

    with_server(handle, story)


class Hidden:
    """An attribute of aiohttp that this package cannot see, as if aiohttp had renamed it for itself."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __get__(self, instance: Any, owner: type) -> Any:
        if sys._getframe(1).f_globals["__name__"].startswith("truto_ci_async"):
            raise AttributeError("hidden")
        return self._original.__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> None:
        if sys._getframe(1).f_globals["__name__"].startswith("truto_ci_async"):
            raise AttributeError("hidden")
        self._original.__set__(instance, value)


def test_a_connection_on_which_a_request_cannot_be_sent_is_closed() -> None:
    """In the pool it would be taken for a good one; held by nobody, it would stay open until it is collected."""
    closed: list[bool] = []

    class Connection:
        class protocol:
            @staticmethod
            def set_response_params(**_: object) -> None: ...

        def close(self) -> None:
            closed.append(True)

    class Request:
        async def send(self, _: object) -> None:
            raise OSError("broken")

    async def scenario() -> None:
        request: Any = Request()
        connection: Any = Connection()
        with pytest.raises(OSError, match="broken"):
            await aiohttp_internals.exchange(request, connection, 1024)

    run(scenario())
    assert closed == [True]


@pytest.mark.parametrize("name", aiohttp_internals.NAMES)
@WAYS
def test_without_an_internal_name_of_aiohttp_no_connection_is_reused(
    name: str, way: Way, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client then cannot tell whether an idle connection is safe to use, and must not guess."""
    owner, _, attribute = name.rpartition(".")
    cls = attrgetter(owner)(aiohttp)
    monkeypatch.setattr(cls, attribute, Hidden(inspect.getattr_static(cls, attribute)))

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(with_length(b"answer %d" % len(server.heads)) + with_length(b"poison"))
        await reader.read()

    async def story(server: RawServer, transport: Transport) -> None:
        for number in range(1, 5):
            assert await way(transport) == b"answer %d" % number
        assert server.connections == 4
        warnings = [record.getMessage() for record in caplog.records if record.name == "truto_ci_async"]
        assert len(warnings) == 1
        assert f"lacks {name}: connections are not reused" in warnings[0]

    with_server(handle, story)


def test_more_than_one_idle_connection_may_have_spoken() -> None:
    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        if len(server.heads) == 3:
            all_here.set()
        await all_here.wait()
        writer.write(with_length(b"good"))
        await turns()
        writer.write(with_length(b"poison"))
        await reader.read()

    all_here = asyncio.Event()

    async def story(server: RawServer, transport: Transport) -> None:
        replies = await asyncio.gather(*(buffered(transport) for _ in range(3)))
        await turns()
        replies += await asyncio.gather(*(buffered(transport) for _ in range(3)))
        assert replies == [b"good"] * 6
        assert server.connections == 6

    with_server(handle, story)


# Reading


@asynccontextmanager
async def served_by_a_thread(
    serve: Callable[[socket.socket], None], *, is_tls: bool
) -> AsyncIterator[Transport]:
    """Return a transport to a server that runs in a thread; ``serve`` handles the first connection."""

    def answer() -> None:
        with listener, listener.accept()[0] as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
            with server_context().wrap_socket(plain, server_side=True) if is_tls else plain as connection:
                serve(connection)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=answer)
    thread.start()
    url = f"{'https' if is_tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    transport = Transport(url, max_connections=4, ssl_context=client_context())
    try:
        yield transport
    finally:
        await transport.aclose()
        await asyncio.to_thread(thread.join, 10)


FRAMED = pytest.mark.parametrize("is_framed", [True, False], ids=["length", "no length"])


def beginning(body: bytes, is_framed: bool) -> bytes:
    return OK + (b"Content-Length: %d\r\n" % len(body) if is_framed else b"") + b"\r\n"


@FRAMED
@WAYS
def test_a_body_over_tls_is_whole_when_the_connection_ends_with_it(way: Way, is_framed: bool) -> None:
    """The end of the connection must not discard what was received just before it."""
    body = bytes(range(250)) * 1200

    async def story() -> None:
        loop, is_held, is_sent = asyncio.get_running_loop(), threading.Event(), threading.Event()

        def hold() -> None:  # until the end of the connection is there, before the first bytes are read
            is_held.set()
            is_sent.wait(SOON)

        def serve(connection: socket.socket) -> None:
            connection.recv(4096)
            loop.call_soon_threadsafe(hold)
            is_held.wait(SOON)
            connection.sendall(beginning(body, is_framed) + body)
            connection.close()
            is_sent.set()

        async with served_by_a_thread(serve, is_tls=True) as transport:
            assert await way(transport) == body

    run(story())


@FRAMED
def test_a_body_over_tls_is_whole_when_the_connection_ends_while_nobody_reads(is_framed: bool) -> None:
    """asyncio's TLS layer may then hold a lot of data that nobody has read yet."""
    body, first = bytes(range(250)) * 3120, 530_000
    is_paused, is_over = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(beginning(body, is_framed) + body[:first])
        is_paused.wait(SOON)
        connection.sendall(body[first:])
        connection.close()
        is_over.set()

    async def story() -> None:
        async with served_by_a_thread(serve, is_tls=True) as transport:
            response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
            connection = response._response.connection
            assert connection is not None
            assert connection.transport is not None
            async with asyncio.timeout(SOON):
                while connection.transport.is_reading():
                    await asyncio.sleep(0)
            is_paused.set()
            assert await asyncio.to_thread(is_over.wait, SOON)
            await turns()
            assert b"".join([piece async for piece in response.pieces(None)]) == body
            response.close()

    run(story())


@WAYS
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_bodies_that_come_at_the_same_time_do_not_mix(is_tls: bool, way: Way) -> None:

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await server.head(reader)
            body = head.split()[1][1:] * 200_000
            writer.write(with_length(body) if len(server.heads) % 2 else in_chunks(body, 70_001))
            await writer.drain()

    async def story() -> None:
        async with serving(handle, tls=server_context() if is_tls else None) as server:
            trust = client_context() if is_tls else None
            transport = Transport(server.url, max_connections=4, ssl_context=trust)
            try:
                targets = [f"/{number:03}" for number in range(12)]
                bodies = await asyncio.gather(*(way(transport, target=target) for target in targets))
                assert bodies == [target[1:].encode() * 200_000 for target in targets]
                assert server.connections == 4
            finally:
                await transport.aclose()

    run(story())


# Connections


@WAYS
def test_a_connection_is_used_again_after_a_body_was_read(way: Way) -> None:
    """A handshake for each page would double the time of a walk; ``close`` after a full read keeps the connection."""

    async def story(server: RawServer, transport: Transport) -> None:
        for _ in range(10):
            assert await way(transport) == b"abc"
        assert server.connections == 1

    answers = [
        with_length(b"abc"),
        in_chunks(b"abc", 1),
        with_length(gzip.compress(b"abc"), b"Content-Encoding: gzip"),
    ]
    with_server(keeps_alive(lambda number: answers[number % 3]), story)


def test_a_connection_is_used_again_after_a_refusal() -> None:
    async def story(server: RawServer, transport: Transport) -> None:
        for _ in range(3):
            assert (await send(transport)).status == 404
            assert (await send(transport, method="POST", body=b"{}")).status == 404
        assert server.connections == 1

    with_server(keeps_alive(lambda _: b"HTTP/1.1 404 X\r\nContent-Length: 2\r\n\r\n{}"), story)


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_body_left_half_read_drops_its_connection(read: int) -> None:
    """Otherwise the rest of the body would be read as the next response."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK + b"Content-Length: 9\r\n\r\n")
        for _ in range(2):
            writer.write(b"abc")
            await turns()
        await reader.read()
        gone.set()

    gone = asyncio.Event()

    async def story(server: RawServer, transport: Transport) -> None:
        response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
        pieces = response.pieces(None)
        for _ in range(read):
            await anext(pieces)
        assert transport._slots is not None
        assert transport._slots._value == 3
        response.close()
        response.close()
        assert_nothing_is_held(transport)
        await gone.wait()

    with_server(handle, story)


def test_no_more_connections_are_open_than_were_allowed() -> None:
    """Streams count too: each holds its slot until it is closed."""
    open_at_once: list[int] = []

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            open_at_once.append(server.open)
            await turns(5)
            writer.write(with_length(b"abc"))

    async def story(server: RawServer, transport: Transport) -> None:
        assert set(await asyncio.gather(*(way(transport) for way in [buffered, stream] * 15))) == {b"abc"}
        assert max(open_at_once) == 3
        assert server.connections <= 3

    with_server(handle, story, max_connections=3)


@pytest.mark.parametrize(("idle", "connections"), [(3.5, 1), (4.5, 2)])
def test_an_idle_connection_is_let_go_before_the_service_would(
    idle: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Node server drops it after five seconds, and a request that is written at that moment is lost."""

    async def story(server: RawServer, transport: Transport) -> None:
        await buffered(transport)
        later = time.monotonic() + idle
        monkeypatch.setattr("aiohttp.connector.monotonic", lambda: later)
        await buffered(transport)
        assert server.connections == connections

    with_server(keeps_alive(lambda _: with_length(b"abc")), story)


# Resends by aiohttp


def resets_on(*numbers: int) -> Any:
    """Reset the connection on the requests with these numbers, counted over all connections."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            if len(server.heads) in numbers:
                reset(writer)
                return
            writer.write(with_length(b"abc"))

    return handle


def test_a_request_on_a_dead_idle_connection_is_sent_again_and_counted() -> None:
    async def story(server: RawServer, transport: Transport) -> None:
        assert (await send(transport)).sends == 1
        reply = await send(transport)
        assert (reply.body, reply.sends) == (b"abc", 2)
        assert (await send(transport)).sends == 1
        assert len(server.heads) == 4

    with_server(resets_on(2), story)


def test_what_is_sent_again_takes_a_new_connection() -> None:
    """Where one idle connection is dead the others may be too; after a restart of the service all of them are."""

    async def story(server: RawServer, transport: Transport) -> None:
        await asyncio.gather(*(send(transport) for _ in range(3)))
        assert server.connections == 3
        reply = await send(transport)
        assert (reply.body, reply.sends) == (b"abc", 2)
        assert server.connections == 4

    with_server(resets_on(4, 6, 7), story)


def test_it_is_sent_again_only_if_allowed() -> None:
    """A resend counts as a retry against the budget, and ``RetryPolicy.none()`` forbids it."""
    asked: list[bool] = []

    def refuse() -> bool:
        asked.append(True)
        return False

    async def story(server: RawServer, transport: Transport) -> None:
        await send(transport, may_resend=refuse)
        with pytest.raises(ConnectError):
            await send(transport, may_resend=refuse)
        assert (len(asked), len(server.heads)) == (1, 2)

    with_server(resets_on(2), story)


@pytest.mark.parametrize("steps", [[RESET], []])
def test_a_request_on_a_new_connection_is_sent_once(steps: list[str]) -> None:
    """A new connection that breaks means an outage, and resending would double its traffic."""

    async def story(server: RawServer, transport: Transport) -> None:
        for number in range(1, 4):
            with pytest.raises(ConnectError):
                await send(transport, may_resend=lambda: pytest.fail("nobody has to be asked"))
            assert len(server.heads) == number

    with_server(plays(*steps), story)


def test_what_changes_something_is_not_sent_again_by_itself() -> None:
    async def story(server: RawServer, transport: Transport) -> None:
        await send(transport)
        with pytest.raises(ConnectError):
            await send(transport, method="POST", body=b"{}")
        assert len(server.heads) == 2

    with_server(resets_on(2), story)


# Deadlines


@WAYS
@pytest.mark.parametrize(
    ("deadline", "timeouts"),
    [
        ("read", Timeouts(connect=5, read=0.2, attempt=None, total=None)),
        ("read", Timeouts(connect=5, read=0.2, attempt=5, total=None)),
        ("attempt", Timeouts(connect=5, read=None, attempt=0.2, total=None)),
        ("attempt", Timeouts(connect=5, read=5, attempt=0.2, total=None)),
    ],
)
def test_headers_that_never_come(way: Way, deadline: str, timeouts: Timeouts) -> None:
    async def story(server: RawServer, transport: Transport) -> None:
        started = time.monotonic()
        with pytest.raises(DeadlineError) as caught:
            await way(transport, timeouts=timeouts)
        assert 0.2 <= time.monotonic() - started < 0.7
        assert (caught.value.deadline, caught.value.seconds) == (deadline, 0.2)

    with_server(plays(SILENCE), story)


@WAYS
def test_a_used_connection_has_the_patience_of_its_last_caller(way: Way) -> None:
    """Each call has its own read deadline, whatever the one before it on the same connection had."""
    answered = OK + b"Content-Length: 2\r\n\r\n{}"

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(answered)
        await server.head(reader)
        await reader.read()

    async def story(server: RawServer, transport: Transport) -> None:
        await way(transport, timeouts=PATIENT)
        with pytest.raises(DeadlineError) as caught:
            async with asyncio.timeout(SOON):
                await way(transport, timeouts=Timeouts(read=0.2, attempt=None, total=None))
        assert (caught.value.deadline, server.connections) == ("read", 1)

    with_server(handle, story)


@WAYS
def test_a_body_that_stops(way: Way) -> None:
    async def story(server: RawServer, transport: Transport) -> None:
        started = time.monotonic()
        with pytest.raises(DeadlineError) as caught:
            await way(transport, timeouts=Timeouts(read=0.2, attempt=None, total=None))
        assert 0.2 <= time.monotonic() - started < 0.7
        assert caught.value.deadline == "read"

    with_server(plays(OK + b"Content-Length: 9\r\n\r\nabc", SILENCE), story)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("until", [0.2, 0.25])
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_connection_that_is_made_while_the_loop_is_held_is_in_time(
    at: int, until: float, tls: bool
) -> None:
    """Other code blocks the loop for longer than the connect deadline, starting a few turns after connecting began."""

    async def main() -> None:
        async with serving(plays(with_length(b"{}")), tls=server_context() if tls else None) as server:
            transport = Transport(
                server.url, max_connections=1, ssl_context=client_context() if tls else None
            )
            started = time.monotonic()
            asking = asyncio.ensure_future(send(transport, timeouts=Timeouts(connect=0.2)))
            await turns(at)
            time.sleep(started + until - time.monotonic())  # noqa: ASYNC251
            assert (await asking).status == 200
            await transport.aclose()

    run(main())


def test_connecting_is_timed_in_a_session_of_the_caller_too() -> None:
    """By ``sock_connect``: aiohttp's ``connect`` would include the wait for a free connection."""

    class Session(FailingSession):
        async def request(self, *_: Any, timeout: aiohttp.ClientTimeout, **__: Any) -> Any:  # noqa: ASYNC109
            assert (timeout.connect, timeout.sock_connect, timeout.sock_read) == (None, 7.0, 8.0)
            raise self._error

    async def main() -> None:
        session: Any = Session(OSError("not sent"), asyncio.get_running_loop())
        transport = Transport("http://x", max_connections=1, session=session)
        with pytest.raises(ConnectError, match="not sent"):
            await send(transport, timeouts=Timeouts(connect=7.0, read=8.0))

    run(main())


def test_a_tunnel_that_is_never_made_is_not_waited_for_past_the_connect_deadline() -> None:
    """aiohttp times only the sockets, not how long a proxy takes to respond."""

    async def main() -> None:
        async with serving(plays(SILENCE)) as proxy:
            transport = Transport("https://127.0.0.1:1", max_connections=1, proxy=proxy.url)
            started = time.monotonic()
            with pytest.raises(DeadlineError) as caught:
                await send(transport, timeouts=Timeouts(connect=0.2, read=None, attempt=None, total=None))
            assert time.monotonic() - started < 0.7
            assert caught.value.deadline == "connect"
            assert_nothing_is_held(transport)
            await transport.aclose()

    run(main())


def test_a_name_that_is_never_found_is_not_waited_for_either() -> None:
    async def main() -> None:
        transport = Transport("http://service.invalid", max_connections=1)
        transport._open_connections()
        assert transport._pool is not None
        forever = asyncio.Event()

        class Resolver(aiohttp.abc.AbstractResolver):
            async def resolve(self, *_: Any, **__: Any) -> Any:
                await forever.wait()

            async def close(self) -> None:
                pass

        transport._pool._resolver = Resolver()
        with pytest.raises(DeadlineError) as caught:
            await send(transport, timeouts=Timeouts(connect=0.1, attempt=None, total=None))
        assert caught.value.deadline == "connect"
        assert_nothing_is_held(transport)
        forever.set()
        await transport.aclose()

    run(main())


def test_a_slow_reader_of_a_healthy_stream_does_not_fail() -> None:
    """Only waiting for data is timed; the caller may take as long as it likes between two pieces."""
    go_on = asyncio.Event()

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK + b"Content-Length: 6\r\n\r\nabc")
        await go_on.wait()
        writer.write(b"def")
        await turns()

    async def story(server: RawServer, transport: Transport) -> None:
        timeouts = Timeouts(read=0.1, attempt=0.2, total=0.2)
        response = await transport.open("GET", "/", HEADERS, timeouts=timeouts)
        pieces = response.pieces(None)
        assert await anext(pieces) == b"abc"
        await asyncio.sleep(0.3)  # the caller's work, which takes longer than every deadline
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        assert [piece async for piece in pieces] == [b"def"]
        assert [piece async for piece in pieces] == []
        response.close()

    with_server(handle, story)


# Bodies


@pytest.mark.parametrize("coding", ["plain", "chunked", "gzip", "unannounced"])
@WAYS
def test_the_limit_of_a_body_is_exact(way: Way, coding: str) -> None:
    body = bytes(range(256)) * 40
    answer = {
        "plain": with_length(body),
        "chunked": in_chunks(body, 999),
        "gzip": with_length(gzip.compress(body), b"Content-Encoding: gzip"),
        "unannounced": OK + b"\r\n" + body,
    }[coding]

    async def story(server: RawServer, transport: Transport) -> None:
        assert await way(transport, limit=len(body)) == body
        with pytest.raises(BodyTooLargeError) as caught:
            await way(transport, limit=len(body) - 1)
        assert caught.value.limit == len(body) - 1

    with_server(plays(answer), story)


@WAYS
def test_a_body_that_announces_too_much_is_not_read(way: Way) -> None:
    async def story(server: RawServer, transport: Transport) -> None:
        with pytest.raises(BodyTooLargeError):
            await way(transport)

    with_server(plays(OK + b"Content-Length: 10000000000\r\n\r\n", SILENCE), story)


@WAYS
def test_a_large_body_comes_whole(way: Way) -> None:
    body = b"".join(b"%d," % number for number in range(400_000))

    async def story(server: RawServer, transport: Transport) -> None:
        assert await way(transport, limit=len(body)) == body

    packed = gzip.compress(body, 1)
    answers = [with_length(body), with_length(packed, b"Content-Encoding: gzip")]
    for answer in answers:
        with_server(plays(answer), story)


def _empty_frames(coding: str) -> bytes:
    if coding == "gzip":
        return gzip.compress(b"") * 30_000
    if coding == "deflate":  # one stream of empty stored blocks
        return b"\x78\x01" + b"\0\0\0\xff\xff" * 100_000 + b"\1\0\0\xff\xff" + zlib.adler32(b"").to_bytes(4)
    zstd = pytest.importorskip(ZSTD_MODULE)
    packed: bytes = zstd.compress(b"")
    return packed * 12_000


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_body_of_nothing_but_frames_does_not_hold_the_loop(coding: str) -> None:
    """600 kB that decompress into nothing took half a second in one step, and three seconds with zstd."""
    answer = with_length(_empty_frames(coding), b"Content-Encoding: " + coding.encode())
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        at = time.thread_time()  # of this thread, so other load on the machine does not count
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest = max(longest, now - at)
            at = now

    async def story(server: RawServer, transport: Transport) -> None:
        watching = asyncio.create_task(watch())
        assert await buffered(transport) == b""
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        assert longest < 0.02

    with_server(plays(answer), story)


def test_who_is_cancelled_while_waiting_for_a_piece_loses_none() -> None:
    """``asyncio.timeout`` around one piece is legitimate, and must not leave a gap in the body."""
    body = b"".join(b"%d," % number for number in range(200_000))

    async def story(server: RawServer, transport: Transport) -> None:
        response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
        pieces = response.pieces(None)
        found: list[bytes] = []
        for count in range(10_000):
            asking = asyncio.ensure_future(anext(pieces, None))
            await turns(count % 4)
            asking.cancel()
            try:
                piece = await asking
            except asyncio.CancelledError:
                continue
            if piece is None:
                break
            found.append(piece)
        assert b"".join(found) == body
        response.close()

    with_server(plays(with_length(gzip.compress(body), b"Content-Encoding: gzip")), story)


BROKEN_IN_THE_MIDDLE = {
    "cut": [OK + b"Content-Length: 9\r\n\r\nabc"],
    "no gzip": [
        OK + b"Content-Encoding: gzip\r\nContent-Length: 3000\r\n\r\n" + gzip.compress(b"abc") + b"rubbish",
        gzip.compress(b"more"),
        SILENCE,
    ],
}


@pytest.mark.parametrize("name", BROKEN_IN_THE_MIDDLE)
def test_a_broken_body_does_not_end_well_when_asked_again(name: str) -> None:
    """Nor does it continue: whatever arrives after the failure is not part of the body."""

    async def story(server: RawServer, transport: Transport) -> None:
        response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
        pieces = response.pieces(None)
        assert await anext(pieces) == b"abc"
        with pytest.raises((TruncatedBodyError, DecodeError)):
            await anext(pieces)
        assert response.bytes_read == 3
        for _ in range(3):
            with pytest.raises(UsageError):
                await anext(pieces)
        response.close()

    with_server(plays(*BROKEN_IN_THE_MIDDLE[name]), story)


class LostAnswer:
    """The part of an aiohttp response that is used, with a connection that was lost before anyone waited for data."""

    status, reason = 200, "OK"
    headers: dict[str, str] = {}  # noqa: RUF012
    connection = None

    @property
    def content(self) -> LostAnswer:
        return self

    def read_nowait(self) -> bytes:
        return b""

    def at_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        raise RuntimeError("Connection closed.")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_reader_that_comes_too_late_to_wait_is_told_that_the_body_was_cut(is_streamed: bool) -> None:
    """aiohttp raises a RuntimeError; for the retry rules it is a truncated body like any other."""

    async def main() -> None:
        answer: Any = LostAnswer()
        response = StreamedResponse(
            answer, sends=1, timeouts=PATIENT, deadlines=Deadlines(), open_responses=set()
        )
        with pytest.raises(TruncatedBodyError, match=r"Connection closed\."):
            await (anext(response.pieces(None)) if is_streamed else response.read(None))
        response.close()

    run(main())


class LateAnswer(LostAnswer):
    """The same with a connection on which data arrives after an hour."""

    def __init__(self) -> None:
        self.now = 0.0

    async def readany(self) -> bytes:
        self.now += 3600.0
        return b"abc"


def test_data_that_was_waited_for_is_returned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tasks had their turn during the wait, however long it was."""

    async def main() -> None:
        answer: Any = LateAnswer()
        monkeypatch.setattr(response_module, "perf_counter", lambda: answer.now)
        response = StreamedResponse(
            answer, sends=1, timeouts=PATIENT, deadlines=Deadlines(), open_responses=set()
        )
        reading: Any = anext(response.pieces(None))
        with pytest.raises(StopIteration) as returned:
            reading.send(None)
        assert returned.value.value == b"abc"
        response.close()

    run(main())


class ReadyAnswer(LostAnswer):
    """The same with a connection on which data is always there, numbered."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def read_nowait(self) -> bytes:
        return b"%d" % next(self._numbers)


def test_a_reader_that_is_cancelled_while_others_have_their_turn_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr(response_module, "perf_counter", itertools.count().__next__)
        answer: Any = ReadyAnswer()
        response = StreamedResponse(
            answer, sends=1, timeouts=PATIENT, deadlines=Deadlines(), open_responses=set()
        )
        pieces = response.pieces(None)
        reading: Any = anext(pieces)
        reading.send(None)
        with pytest.raises(asyncio.CancelledError):
            reading.throw(asyncio.CancelledError())
        assert [await anext(pieces) for _ in range(3)] == [b"0", b"1", b"2"]
        response.close()

    run(main())


@WAYS
def test_a_reset_is_told_from_an_end_whoever_comes_first(way: Way) -> None:
    """A body without a length is complete only if the connection is closed properly."""
    for pause in range(6):

        async def handle(
            server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: int = pause
        ) -> None:
            await server.head(reader)
            writer.write(OK + b"\r\n")
            await turns()
            writer.write(b"abc")
            await turns(pause)
            reset(writer)

        async def story(server: RawServer, transport: Transport) -> None:
            with pytest.raises(TransportError):
                await way(transport)

        with_server(handle, story)


# Closing


def test_closing_ends_a_stream_that_waits() -> None:
    """aiohttp itself leaves the reader waiting when the session is closed."""

    async def story(server: RawServer, transport: Transport) -> None:
        response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
        pieces = response.pieces(None)
        assert await anext(pieces) == b"abc"
        waiting = asyncio.ensure_future(anext(pieces))
        await turns()
        started = time.monotonic()
        await transport.aclose()
        with pytest.raises(UsageError, match="closed"):
            await waiting
        assert time.monotonic() - started < SOON
        response.close()
        await transport.aclose()

    with_server(plays(OK + b"Content-Length: 9\r\n\r\nabc", SILENCE), story)


def test_a_session_that_is_closed_by_its_owner_ends_a_stream_too() -> None:
    async def main() -> None:
        async with serving(plays(OK + b"Content-Length: 9\r\n\r\nabc", SILENCE)) as server:
            session = aiohttp.ClientSession()
            transport = Transport(server.url, max_connections=1, session=session)
            response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
            pieces = response.pieces(None)
            assert await anext(pieces) == b"abc"
            waiting = asyncio.ensure_future(anext(pieces))
            await turns()
            await session.close()
            with pytest.raises(TruncatedBodyError):
                await waiting
            response.close()
            with pytest.raises(UsageError, match="session"):
                await send(transport)
            assert_nothing_is_held(transport)

    run(main())


def test_closing_ends_a_call_that_waits() -> None:
    async def story(server: RawServer, transport: Transport) -> None:
        for way in (buffered, stream):
            again = Transport(server.url, max_connections=1)
            calls = [asyncio.ensure_future(way(again)) for _ in range(2)]
            await turns()
            started = time.monotonic()
            await again.aclose()
            with pytest.raises(UsageError, match="closed"):
                await calls[0]
            with pytest.raises(UsageError, match="closed"):
                await calls[1]  # it was waiting for a slot
            assert time.monotonic() - started < SOON
            assert_nothing_is_held(again)

    with_server(plays(SILENCE), story)


@pytest.mark.parametrize("thread", [False, True])
def test_what_was_forgotten_lets_go_of_its_sockets(thread: bool) -> None:
    """Garbage is collected in any thread, but asyncio transports may only be used in their loop."""
    gone = asyncio.Event()

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(with_length(b"abc"))
        await reader.read()
        gone.set()

    async def main() -> None:
        async with serving(handle) as server:
            transport = Transport(server.url, max_connections=2)
            await buffered(transport)
            if thread:
                collector = threading.Thread(target=transport.abandon)
                collector.start()
                collector.join()
            else:
                transport.abandon()
            async with asyncio.timeout(SOON):
                await gone.wait()
            transport.abandon()
            await transport.aclose()

    run(main())


# How failures are mapped

KEY = aiohttp.client_reqrep.ConnectionKey(
    "api.test", 443, True, True, URL("http://user:tell-nobody@proxy:1"), None, None
)
INFO = aiohttp.RequestInfo(URL("http://x/"), "GET", aiohttp.client_reqrep.CIMultiDictProxy(
    aiohttp.client_reqrep.CIMultiDict({"Authorization": "Bearer never-to-be-seen"})), URL("http://x/"))  # fmt: skip


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (aiohttp.ConnectionTimeoutError("x"), DeadlineError, "no connection within 10.0 s"),
        (aiohttp.SocketTimeoutError("x"), DeadlineError, "no data received for 10.0 s"),
        (TimeoutError(), DeadlineError, "no complete response within 10.0 s"),
        (TimeoutError(110, "Connection timed out"), ConnectError, "Connection timed out"),
        (aiohttp.ClientConnectorError(KEY, OSError(24, "Too many open files")), ConnectError, "open files"),
        (
            aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "Connection refused")),
            ConnectError,
            "api.test:443",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")),
            ConnectError,
            "not known",
        ),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(111, "Connection refused")), ConnectError, "the proxy"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "WRONG_VERSION")), ConnectError, "WRONG_VERSION"),
        (
            aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self-signed")),
            ConnectError,
            "see ssl_context",
        ),
        (aiohttp.ClientHttpProxyError(INFO, (), status=407, message="Auth"), ConnectError, "user and password"),
        (aiohttp.ClientHttpProxyError(INFO, (), status=502, message="Bad"), ConnectError, "502 Bad"),
        (aiohttp.ServerDisconnectedError(), ConnectError, "closed the connection"),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), ConnectError, "reset by peer"),
        (ssl.SSLError(1, "DECRYPTION_FAILED"), ConnectError, "DECRYPTION_FAILED"),
        (aiohttp.ClientResponseError(INFO, (), status=400, message="Bad\n  line:\n   ^"), ConnectError, "Bad line:"),
        (BadStatusLine("x"), ConnectError, "not valid HTTP"),
        (aiohttp.ClientPayloadError("x"), TruncatedBodyError, "early: x"),
        (
            _caused(aiohttp.ClientPayloadError("x"), ContentLengthError("received 5 of 6 bytes")),
            TruncatedBodyError,
            "early: received 5 of 6 bytes",
        ),
        (aiohttp.EofStream(), ConnectError, "EofStream"),
        (AssertionError(), ConnectError, "AssertionError"),
        (RuntimeError("Connection closed."), ConnectError, "Connection closed."),
        (UnicodeError("label too long"), ConnectError, "label too long"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_every_failure_has_a_name_of_ours(
    error: BaseException, kind: type[TransportError], words: str
) -> None:
    ours = map_network_error(error, PATIENT, bytes_read=5)
    assert type(ours) is kind
    assert words in str(ours)
    assert "\n" not in str(ours)
    for text in (str(ours), repr(ours), str(error), repr(error), repr(error.args)):
        assert "tell-nobody" not in text
        assert "never-to-be-seen" not in text
    permanent = {"see ssl_context", "user and password"}
    assert getattr(ours, "is_permanent", False) is (words in permanent)
    assert ours.bytes_read == (5 if kind is TruncatedBodyError else 0)


class FailingSession:
    """The part of an aiohttp session that is used, with a request that fails."""

    def __init__(self, error: Exception, loop: asyncio.AbstractEventLoop) -> None:
        self._error = error
        self.loop = loop
        self.closed = False

    async def request(self, *_: Any, **__: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AssertionError("feed_data after feed_eof"), ConnectError),
        (RuntimeError("Connection closed."), ConnectError),
        (ValueError("Cannot combine AUTHORIZATION header with AUTH argument"), ConfigurationError),
        (UnicodeError("label too long"), ConnectError),
        (aiohttp.EofStream(), ConnectError),
        (BadStatusLine("x"), ConnectError),
        (KeyError("a mistake of ours"), KeyError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@WAYS
def test_what_aiohttp_checks_itself_with_does_not_get_out(
    way: Way, error: Exception, kind: type[Exception]
) -> None:
    async def main() -> None:
        session: Any = FailingSession(error, asyncio.get_running_loop())
        transport = Transport("http://127.0.0.1:1", max_connections=1, session=session)
        for _ in range(2):
            with pytest.raises(kind) as caught:
                await way(transport)
            assert caught.value is error or caught.value.__cause__ is error
            assert_nothing_is_held(transport)

    run(main())


def test_a_port_where_nobody_listens() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            transport = Transport(f"http://127.0.0.1:{taken.getsockname()[1]}", max_connections=1)
            for way in (buffered, stream):
                with pytest.raises(ConnectError) as caught:
                    await way(transport)
                assert not caught.value.is_permanent
                assert_nothing_is_held(transport)
            await transport.aclose()

    run(main())


def test_frames_of_aiohttp_keep_no_request() -> None:
    """Error reporting tools record the variables of every frame, and the bytes that were sent contain the token."""

    def frames(error: BaseException | None) -> list[Any]:
        found = []
        while error is not None:
            trace = error.__traceback__
            while trace is not None:
                found.append(trace.tb_frame)
                trace = trace.tb_next
            error = error.__cause__ or error.__context__
        return found

    async def story(server: RawServer, transport: Transport) -> None:
        mine = ValueError("the caller's own, still to be looked at")
        try:
            try:
                kept = "a variable of the caller"
                raise mine
            except ValueError:
                await buffered(transport)
        except ConnectError as error:
            seen = frames(error)
            assert kept
        theirs = [frame for frame in seen if frame.f_globals["__name__"].startswith("aiohttp")]
        assert theirs
        assert all(not frame.f_locals for frame in theirs)

    with_server(plays(RESET), story)


# Sessions of the caller


@pytest.mark.parametrize("auto_decompress", [True, False])
def test_a_session_that_decompresses_and_one_that_does_not_are_the_same(auto_decompress: bool) -> None:
    body = b"abc" * 1000

    async def main() -> None:
        half = gzip.compress(body)[:-5]
        answers = [
            with_length(body),
            with_length(gzip.compress(body), b"Content-Encoding: gzip"),
            in_chunks(half, 9, b"Content-Encoding: gzip"),
        ]
        for way in (buffered, stream):
            async with (
                serving(keeps_alive(lambda number: answers[number - 1])) as server,
                aiohttp.ClientSession(auto_decompress=auto_decompress) as session,
            ):
                transport = Transport(server.url, max_connections=2, session=session)
                assert await way(transport, limit=len(body)) == body
                with pytest.raises(BodyTooLargeError):
                    await way(transport, limit=len(body) - 1)
                with pytest.raises(TruncatedBodyError):
                    await way(transport)
                await transport.aclose()
                assert not session.closed

    run(main())


# Base URLs and proxies


@pytest.mark.parametrize(
    "base_url",
    [
        "", "truto", "ftp://truto", "https://", "https://:443", "https://host:0", "https://host:99999", "https://ho st",
        "https://host/a b", "https://host\n", "https://host?", "https://host#", "https://host?a=b", "https://höst",
        "https://user@host", "//host", "https://[::1", "unix:///socket",
    ],
)  # fmt: skip
def test_a_base_url_that_cannot_work_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError):
        checked_base_url(base_url)


def test_a_password_in_a_url_is_not_quoted() -> None:
    for url in ("https://user:tell-nobody@host", "https://user:tell-nobody@host:99999"):
        with pytest.raises(ConfigurationError) as caught:
            checked_base_url(url)
        assert "tell-nobody" not in str(caught.value)
    for url in (
        "socks5://user:tell-nobody@host",
        "http://user:tell-nobody@host:99999",
        "http://:tell-nobody@",
    ):
        with pytest.raises(ConfigurationError) as caught:
            checked_proxy(url)
        assert "tell-nobody" not in str(caught.value)


def test_a_base_url_loses_its_last_slash() -> None:
    assert checked_base_url("https://api.truto.one/") == "https://api.truto.one"
    assert checked_base_url("http://[::1]:8080/a%20b//") == "http://[::1]:8080/a%20b"


@pytest.mark.parametrize(
    ("base_url", "environment", "expected"),
    [
        ("https://api.truto.one", {}, None),
        ("https://api.truto.one", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.truto.one", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://api.truto.one", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://api.truto.one", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.truto.one", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.truto.one", {"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.truto.one", {"HTTPS_PROXY": ""}, None),
        ("https://api.truto.one", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "truto.one"}, None),
        ("https://api.truto.one", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".truto.one, x"}, None),
        ("https://api.truto.one", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("https://api.truto.one", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "uto.one"}, "http://p:1"),
        ("https://api.truto.one:8443", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.truto.one"}, None),
        ("https://127.0.0.1:8443/x", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "127.0.0.1"}, None),
        ("https://10.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://10.1.2.3:8443/x", {"https_proxy": "http://p:1", "no_proxy": "x, 10.9.9.9/8 ,y"}, None),
        ("https://10.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/255.0.0.0"}, None),
        ("https://11.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://p:1"),
        ("https://10.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/80,/8,10"}, "http://p:1"),
        ("https://[fd00::1]:8443", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "fd00::/8"}, None),
        ("https://[fd00::1]:8443", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8,[fd00::1]"}, None),
        ("https://[::1]", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "::1"}, None),
        ("https://[::ffff:10.0.0.1]", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://[fe80::1]", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "fd00::/8,10.0.0.0/8"}, "http://p:1"),
        ("https://api.truto.one", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "0.0.0.0/0,::/0"}, "http://p:1"),
    ],
)
def test_the_environment_names_the_proxy(
    base_url: str, environment: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy(base_url) == expected


def test_a_proxy_that_cannot_work_is_refused_and_says_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connecting without the proxy would leak the request."""
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1080")
    with pytest.raises(ConfigurationError, match="ALL_PROXY"):
        Transport("https://api.truto.one", max_connections=1)
    for proxy in ("http://", "https://:1", "http://p:0", "http://p:x"):
        with pytest.raises(ConfigurationError):
            checked_proxy(proxy)


def test_a_proxys_password_is_not_to_be_seen() -> None:
    transport = Transport("https://api.truto.one", max_connections=1, proxy="http://user:tell-nobody@proxy:1")
    assert "tell-nobody" not in repr(vars(transport))
    assert transport._proxy == "http://user:tell-nobody@proxy:1"


def test_a_streamed_response_has_what_a_buffered_one_has() -> None:
    """Code that looks at a status handles both kinds of response."""
    shared = {"status", "reason", "headers", "body", "sends"}
    assert shared <= set(BufferedResponse.__struct_fields__)

    async def story(server: RawServer, transport: Transport) -> None:
        response = await transport.open("GET", "/", HEADERS, timeouts=PATIENT)
        assert isinstance(response, StreamedResponse)
        assert shared <= set(vars(response))
        response.close()

    with_server(plays(with_length(b"abc")), story)

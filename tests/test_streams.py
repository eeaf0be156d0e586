"""Streams over loopback: what they return, when, at whose pace, and that nothing is left open afterwards."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _harness, bench_stream
from truto_ci_async import (
    BodyTooLargeError,
    CursorExpiredError,
    CursorLoopError,
    DeadlineError,
    DecodeError,
    FieldRepaired,
    Interaction,
    ItemStream,
    NotFoundError,
    Pacing,
    Position,
    ResponseInfo,
    RetryPolicy,
    ServerError,
    Timeouts,
    TransportError,
    TruncatedBodyError,
    TrutoClient,
    UsageError,
)
from truto_ci_async._files import Disk
from truto_ci_async._http.credentials import Secret
from truto_ci_async._http.transport import response as response_module
from truto_ci_async._http.transport.deadlines import Deadlines
from truto_ci_async._http.transport.response import StreamedResponse
from truto_ci_async._wire.incremental.item_decoder import ItemDecoder
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async.events import Emitter
from truto_ci_async.pagination import page_body
from truto_ci_async.pagination.next_page import PageCursor
from truto_ci_async.sandbox import Fault, Sandbox

from .rawserver import OK, RawServer, in_chunks, serving, turns, with_length
from .support import file_size_limit, run

WINDOW: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
SMALL: dict[str, Any] = {
    "accounts": 1,
    "others": 0,
    "interactions": 12,
    "page_size": 5,
    "token_rate": None,
    "account_rate": None,
}
FAST = RetryPolicy(fault_base=0, throttle_base=0)
ONCE = RetryPolicy.none()
QUICK = Timeouts(connect=1, read=0.1, attempt=0.5, total=5)
CODINGS = ("gzip", "deflate", "br", "zstd")
KILO = b"x" * 1000

Scenario = Callable[[Sandbox, str], Awaitable[None]]
Handle = Callable[[RawServer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def in_sandbox(scenario: Scenario, **options: Any) -> None:
    """Run ``scenario(sandbox, account)`` against a small sandbox with one account and no limits."""

    async def main() -> None:
        async with Sandbox(**{**SMALL, **options}) as sandbox:
            await scenario(sandbox, sandbox.account_ids[0])

    run(main())


def connect(server: Sandbox | RawServer, **options: Any) -> TrutoClient:
    """A client with a single connection: if it is not given back, the next call hangs."""
    settings: dict[str, Any] = {
        "token": server.token if isinstance(server, Sandbox) else "token",
        "pacing": Pacing.off(),
        "retry": FAST,
        "max_connections": 1,
        "timeouts": Timeouts(total=10),
        **options,
    }
    return TrutoClient(base_url=server.url, **settings)


def responding(*responses: bytes) -> Handle:
    """Send these responses in turn, over any connection, then repeat the last one."""
    left = list(responses)

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            response = left.pop(0) if len(left) > 1 else left[0]
            writer.write(response)
            await writer.drain()
            if response.startswith(OK + b"Connection: close"):
                await turns()  # let the client read what was sent before it sees the end
                return

    return handle


def item(number: int, filler: bytes = b"") -> bytes:
    return b'{"id":"%d","timezone":"%b"}' % (number, filler)


def body(numbers: range, cursor: str | None = None, filler: bytes = b"") -> bytes:
    items = b",".join(item(number, filler) for number in numbers)
    return b'{"result":[%b],"next_cursor":%b}' % (items, json.dumps(cursor).encode())


def broken(part: bytes) -> bytes:
    """A response that promises more than it sends."""
    return OK + b"Connection: close\r\nContent-Length: 5000000\r\n\r\n" + part


async def ids(stream: ItemStream[Interaction]) -> list[str | None]:
    return [interaction.id async for interaction in stream]


def numbers(*ranges: range) -> list[str]:
    return [str(number) for each in ranges for number in each]


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, 5)


def wanted(sandbox: Sandbox, account: str) -> list[str]:
    return [record["id"] for record in sandbox.expected(account, **WINDOW)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Items, bytes and files


@pytest.mark.parametrize("engine", ["auto", "ijson"])
def test_items_of_all_pages_are_typed_and_in_order(engine: Any) -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with (
            connect(sandbox) as truto,
            truto.interactions.stream(account, **WINDOW, engine=engine) as stream,
        ):
            assert (stream.content_type, stream.response.status) == ("application/json", 200)
            assert (stream.items_read, stream.bytes_read, stream.next_cursor) == (0, 0, None)
            found = [interaction async for interaction in stream]
            assert [each.id for each in found] == wanted(sandbox, account)
            assert [each.remote_data for each in found] == [
                record["remote_data"] for record in sandbox.expected(account, **WINDOW)
            ]
            assert stream.items_read == 12
            assert stream.bytes_read > 5_000
            assert (stream.position, stream.next_cursor, stream.pages_read) == (None, None, 3)
            assert stream.envelope["result_count"] == 2
            assert "result" not in stream.envelope
            assert (stream.issues, stream.issues_count) == ([], 0)
        assert len(sandbox.requests) == 3

    in_sandbox(scenario)


@pytest.mark.parametrize("piece", [7, 1024, 2**20])
def test_batches_chunks_and_save_read_the_same_bytes(piece: int, tmp_path: Path) -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            open_stream = truto.interactions.stream
            async with open_stream(account, **WINDOW) as stream:
                batches = [batch async for batch in stream.batches()]
                assert all(batches)
                assert [each.id for batch in batches for each in batch] == wanted(sandbox, account)
                assert stream.items_read == 12
            async with open_stream(account, **WINDOW) as stream:
                start = stream.position
                whole = b"".join([chunk async for chunk in stream.chunks()])
                assert [record["id"] for record in json.loads(whole)["result"]] == wanted(sandbox, account)[
                    :5
                ]
                assert stream.bytes_read == len(whole)
                assert stream.position == start
            async with open_stream(account, **WINDOW) as stream:
                assert await stream.save(tmp_path / "body.json") == len(whole)
        assert (tmp_path / "body.json").read_bytes() == whole
        assert [path.name for path in tmp_path.iterdir()] == ["body.json"]

    in_sandbox(scenario, stream_piece=piece)


def test_any_response_format_and_any_type_can_be_streamed() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            async with truto.interactions.stream(
                account, **WINDOW, response_format="debug", item_type=dict
            ) as stream:
                assert [each["id"] async for each in stream] == wanted(sandbox, account)
                assert "debug" in stream.envelope
            async with truto.unified("crm", "contacts").stream(account, limit=5) as contacts:
                assert all([contact["id"] async for contact in contacts])
            async with truto.interactions.stream(account, **WINDOW, key_by="id") as stream:
                assert await ids(stream) == wanted(sandbox, account)

    in_sandbox(scenario)


def test_ndjson_is_read_line_by_line_by_its_media_type() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto, truto.interactions.stream(account, **WINDOW) as stream:
            assert stream.content_type == "application/x-ndjson"
            assert await ids(stream) == wanted(sandbox, account)
            assert (stream.position, stream.envelope) == (None, {})

    in_sandbox(scenario, stream_as="ndjson", stream_piece=100)


@pytest.mark.parametrize("path", ["result", "records.items"])
def test_what_is_large_around_the_items_is_not_decoded(path: str) -> None:
    """A body of 13 MB with small objects in ``debug`` held the loop for a second, and took 300 MB."""
    large = b"[" + b",".join([b'{"a":1.10}'] * 30_000) + b"]"
    parent, _, key = path.rpartition(".")
    items = b'"%b":[%b],"more":%b' % (key.encode(), item(1), large)
    items = b'"%b":{%b}' % (parent.encode(), items) if parent else items
    debug = b'{"requestUrl":"u","requestOptions":{"headers":{"a":"hush"}},"data":%b}' % large
    body = b'{%b,"debug":%b,"note":{"a":1}}' % (items, debug)

    async def main() -> None:
        async with (
            serving(responding(with_length(body))) as server,
            connect(server) as truto,
            truto.interactions.stream("a", path=path, response_format="debug") as stream,
        ):
            assert await ids(stream) == ["1"]
        around = stream.envelope
        inner = around[parent] if parent else around
        assert (bytes(inner["more"]), around["note"]) == (large, {"a": 1})
        assert (around["debug"]["requestUrl"], bytes(around["debug"]["data"])) == ("u", large)
        assert around["debug"]["requestOptions"]["headers"]["a"] == "hush"
        assert "hush" not in repr(around)

    run(main())


@pytest.mark.parametrize("debug", [b"[%b]", b'{"a":[%b]}', b'{"a":%b,%b}'])
def test_large_debug_information_of_any_shape_is_kept(debug: bytes) -> None:
    many = b",".join(b'"k%d":1' % number for number in range(30_000))
    numbers = b",".join([b"1"] * 200_000)
    debug = debug % ((b"1", many) if debug.count(b"%b") == 2 else numbers)
    body = b'{"result":[%b],"debug":%b}' % (item(1), debug)

    async def main() -> None:
        async with (
            serving(responding(with_length(body))) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            assert await ids(stream) == ["1"]
        found = stream.envelope["debug"]
        assert bytes(found["a"] if b"a" in debug and b"k1" not in debug else found) in debug

    run(main())


def test_gongs_own_body_needs_a_path_and_the_error_says_so() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            async with truto.interactions.stream(account, **WINDOW) as stream:
                with pytest.raises(DecodeError, match="requestId, records, peopleInteractionStats") as caught:
                    await ids(stream)
                assert "path='peopleInteractionStats', item_type=dict" in str(caught.value)
                assert caught.value.account == account
            async with truto.interactions.stream(
                account, **WINDOW, path="peopleInteractionStats", item_type=dict
            ) as rows:
                found = [row async for row in rows]
                assert rows.envelope["timeZone"]
            assert found == sandbox.expected(account, **WINDOW, provider=True)[:5]

    in_sandbox(scenario, provider_shape="gong")


@pytest.mark.parametrize("kind", ["bytes", "empty"])
def test_a_body_that_is_not_json_can_be_read_as_chunks(kind: Any, tmp_path: Path) -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            async with truto.interactions.stream(account, **WINDOW) as stream:
                assert stream.content_type == "application/octet-stream"
                with pytest.raises(
                    DecodeError if kind == "bytes" else TruncatedBodyError, match=r"octet-stream|empty"
                ):
                    await ids(stream)
            async with truto.interactions.stream(account, **WINDOW) as stream:
                whole = b"".join([chunk async for chunk in stream.chunks()])
                assert bool(whole) is (kind == "bytes")
            async with truto.interactions.stream(account, **WINDOW) as stream:
                assert await stream.save(tmp_path / "file") == len(whole)
        assert (tmp_path / "file").read_bytes() == whole

    in_sandbox(scenario, stream_as=kind)


@pytest.mark.parametrize("engine", ["auto", "ijson"])
@pytest.mark.parametrize("start", [b"", b" \r\n", b" " * 20_000])
@pytest.mark.parametrize(
    "kind",
    [
        b"application/json; charset=utf-8",
        b"application/json, application/json",
        b"application/json charset=utf-8",
        b"json",
        b"text/plain",
        b"text/html",
        b"application/x-json",
        b"application/javascript",
        b"binary/octet-stream",
        b"image/png",
        b"",
        None,
    ],
)
def test_the_first_byte_decides_whether_a_body_is_json(kind: bytes | None, start: bytes, engine: Any) -> None:
    """Storage services and proxies label JSON as what they like."""

    async def main() -> None:
        head = [] if kind is None else [b"Content-Type: " + kind]
        response = with_length(start + body(range(3)), *head)
        async with (
            serving(responding(response)) as server,
            connect(server) as truto,
            truto.interactions.stream("a", engine=engine) as stream,
        ):
            assert await ids(stream) == numbers(range(3))

    run(main())


@pytest.mark.parametrize("kind", ["text/csv", "image/png", "text/plain", ""])
@pytest.mark.parametrize("text", [b"id,name\n1,Ann\n", b"\x89PNG\r\n", b'"text"', b"5"])
def test_what_is_no_json_is_for_chunks(kind: str, text: bytes) -> None:
    async def main() -> None:
        head = b"Content-Type: " + kind.encode()
        async with serving(responding(with_length(b" \n" + text, head))) as server, connect(server) as truto:
            async with truto.interactions.stream("a") as stream:
                with pytest.raises(DecodeError, match=r"which holds no items; read it with chunks") as caught:
                    await ids(stream)
                assert caught.value.raw == text.lstrip()
            async with truto.interactions.stream("a") as stream:
                assert b"".join([chunk async for chunk in stream.chunks()]) == b" \n" + text

    run(main())


@pytest.mark.parametrize("kind", ["text/csv", "application/json"])
def test_a_body_of_white_space_is_an_error(kind: str) -> None:
    async def main() -> None:
        response = with_length(b" \n " * 10_000, b"Content-Type: " + kind.encode())
        async with (
            serving(responding(response)) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            with pytest.raises(DecodeError, match="not JSON"):
                await ids(stream)

    run(main())


@pytest.mark.parametrize("engine", ["auto", "ijson"])
def test_the_limit_of_the_envelope_is_named_and_can_be_raised(engine: Any) -> None:
    debug = b'{"debug":{"data":"%b"},"result":[%b],"next_cursor":null}' % (b"y" * 1_200_000, item(1))

    async def main() -> None:
        async with serving(responding(with_length(debug))) as server, connect(server) as truto:
            arguments: dict[str, Any] = {"response_format": "debug", "engine": engine}
            async with truto.interactions.stream("a", max_envelope_bytes=2**20, **arguments) as stream:
                with pytest.raises(BodyTooLargeError, match="max_envelope_bytes"):
                    await ids(stream)
            async with truto.interactions.stream("a", **arguments) as stream:
                assert await ids(stream) == ["1"]
            with pytest.raises(UsageError, match="max_envelope_bytes"):
                truto.interactions.stream("a", max_envelope_bytes=0)

    run(main())


def test_a_web_page_is_refused_by_its_media_type() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.fault(Fault.html())
        async with connect(sandbox) as truto, truto.interactions.stream(account, **WINDOW) as stream:
            with pytest.raises(DecodeError, match=r"text/html, which holds no items; read it with chunks"):
                await ids(stream)

    in_sandbox(scenario)


def test_204_holds_no_items() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.status(204)])
        async with connect(sandbox) as truto, truto.interactions.stream(account, **WINDOW) as stream:
            assert await ids(stream) == []
            assert (stream.position, stream.envelope) == (None, {})

    in_sandbox(scenario)


def test_an_error_status_is_raised_when_the_stream_is_opened() -> None:
    """That includes 404: a stream never turns "no stats found" into no items."""

    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.configure(account, interactions=0)
        async with connect(sandbox) as truto:
            stream = truto.interactions.stream(account, **WINDOW)
            with pytest.raises(NotFoundError, match="no stats found"):
                async with stream:
                    pytest.fail("it opened")
            assert "closed" in repr(stream)
            assert await truto.interactions.list(account, **WINDOW).collect() == []  # the connection is free

    in_sandbox(scenario)


# Over pages


def test_without_following_cursors_one_page_is_read_and_position_moves_on() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            async with truto.interactions.stream(account, **WINDOW, follow_cursor=False) as stream:
                first = await ids(stream)
                assert stream.next_cursor
                assert stream.position is not None
                assert stream.position.cursor == stream.next_cursor
            async with truto.interactions.stream(account, **WINDOW, cursor=str(stream.position)) as rest:
                assert first + await ids(rest) == wanted(sandbox, account)
        assert len(sandbox.requests) == 3

    in_sandbox(scenario)


def test_an_empty_page_does_not_end_a_stream_and_a_repeated_cursor_is_an_error() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.fault(Fault.empty_page().on(2))
        async with connect(sandbox) as truto:
            async with truto.interactions.stream(account, **WINDOW) as stream:
                assert await ids(stream) == wanted(sandbox, account)
            sandbox.fault(Fault.loop(2))
            async with truto.interactions.stream(account, **WINDOW) as stream:
                reading = aiter(stream)
                found = []
                with pytest.raises(CursorLoopError):
                    while True:
                        found.append(await anext(reading))
                assert stream.items_read == len(found) > 0
                with pytest.raises(UsageError, match="broke off"):  # rather than a silent end
                    await anext(reading)

    in_sandbox(scenario)


def test_a_long_list_of_users_is_read_batch_by_batch() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        users = sandbox.user_ids(account)[:23]
        async with (
            connect(sandbox) as truto,
            truto.interactions.stream(account, **WINDOW, users=users) as stream,
        ):
            assert [each.user.id async for each in stream if each.user] == users
            assert stream.position is None
        assert len(sandbox.requests) == 2

    in_sandbox(scenario, interactions=30, page_size=50)


def test_a_cursor_that_expires_between_pages_is_an_error_of_its_own() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto, truto.interactions.stream(account, **WINDOW) as stream:
            with pytest.raises(CursorExpiredError):
                async for _ in stream:
                    sandbox.expire_cursors()
            assert stream.items_read == 5

    in_sandbox(scenario)


# Misuse and early exits


def test_misuse_is_an_error_at_once() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto:
            stream = truto.interactions.stream(account, **WINDOW)
            assert repr(stream) == "<ItemStream not opened: use `async with`, 0 items, 0 bytes>"
            assert sandbox.requests == []
            with pytest.raises(UsageError, match="open the stream first"):
                aiter(stream)
            with pytest.raises(UsageError, match="open the stream first"):
                await stream.save("nowhere")
            async with stream:
                with pytest.raises(UsageError, match="opened once"):
                    async with stream:
                        pass
            async with truto.interactions.stream(account, **WINDOW) as stream:
                await anext(aiter(stream))
                assert repr(stream).startswith("<ItemStream open, 1 items, ")
                for read in (aiter, ItemStream.batches, ItemStream.chunks):
                    with pytest.raises(UsageError, match="read once"):
                        read(stream)  # type: ignore[operator]
            with pytest.raises(UsageError, match="closed"):
                stream.batches()
            for wrong in ({"max_item_bytes": 0}, {"path": "a..b"}, {"engine": "fast"}):
                with pytest.raises(UsageError):
                    truto.interactions.stream(account, **WINDOW, **wrong)  # type: ignore[arg-type]

    in_sandbox(scenario)


def test_two_tasks_cannot_read_one_stream() -> None:
    async def main() -> None:
        async with (
            serving(silent_after(b'{"result":[')) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            batches = stream.batches()
            first = asyncio.ensure_future(anext(batches))
            await turns()
            with pytest.raises(UsageError, match="two tasks"):
                await anext(batches)
            first.cancel()

    run(main())


def silent_after(
    part: bytes, *more: bytes, then: asyncio.Event | None = None, end: bytes = b"0\r\n\r\n"
) -> Handle:
    """Send the beginning of a chunked body, wait until ``then`` is set, and send the rest."""

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(part), part))
        await (then or asyncio.Event()).wait()
        for piece in more:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        writer.write(end)

    return handle


class _Stop(Exception):
    pass


@pytest.mark.parametrize("way", ["break", "exception", "cancel", "close", "unread"])
@pytest.mark.parametrize("how", ["items", "batches", "chunks"])
def test_leaving_early_leaves_no_connection_no_slot_and_no_task(way: str, how: str) -> None:
    """The body never ends, and the single connection is needed again at once."""

    async def endless(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK + b"\r\n" + b'{"result":[' + item(0))
        while True:
            writer.write(b"," + item(1, KILO))
            await writer.drain()

    async def read(stream: ItemStream[Interaction], reached: asyncio.Event) -> None:
        reading: AsyncIterator[Any] = {
            "items": stream.__aiter__,
            "batches": stream.batches,
            "chunks": stream.chunks,
        }[how]()
        async for _ in reading:
            reached.set()
            if way == "break":
                break
            if way == "exception":
                raise _Stop
            if way == "close":
                stream.close()
                break
            await asyncio.Event().wait()

    async def main() -> None:
        async with serving(endless) as server, connect(server) as truto:
            for _ in range(2):
                reached = asyncio.Event()

                async def use(reached: asyncio.Event = reached) -> None:
                    async with truto.interactions.stream("a") as stream:
                        if way == "unread":
                            return
                        await read(stream, reached)

                task = asyncio.ensure_future(use())
                if way == "cancel":
                    await soon(reached.wait())
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                elif way == "exception":
                    with pytest.raises(_Stop):
                        await soon(task)
                else:
                    await soon(task)
            async with asyncio.timeout(5):
                while server.open:
                    await asyncio.sleep(0.001)
            assert server.connections == 2

    run(main())


@pytest.mark.parametrize("who", ["stream", "client"])
def test_closing_while_another_task_waits_for_bytes_ends_that_wait(who: str) -> None:
    async def main() -> None:
        async with serving(silent_after(b'{"result":[')) as server:
            truto = connect(server)
            async with truto.interactions.stream("a") as stream:
                waiting = asyncio.ensure_future(ids(stream))
                await turns()
                if who == "stream":
                    stream.close()
                else:
                    await truto.aclose()
                with pytest.raises(UsageError, match="closed"):
                    await soon(waiting)
            await truto.aclose()
            assert server.connections == 1

    run(main())


def test_a_response_that_arrives_as_the_stream_is_closed_is_closed_too() -> None:
    async def main() -> None:
        go_on = asyncio.Event()
        two = FakeBody([body(range(5, 10))])

        def opener(here: Position) -> Any:
            async def reopen(failure: TransportError | None) -> tuple[FakeBody, ResponseInfo]:
                if here.cursor is None:
                    return FakeBody([body(range(5), "two")]), ResponseInfo()
                await go_on.wait()
                return two, ResponseInfo()

            return reopen

        async with fake_stream(opener=opener) as stream:
            reading = asyncio.ensure_future(ids(stream))
            await turns()
            go_on.set()
            stream.close()  # in the same turn: the response is here, and has to be closed
            with pytest.raises(UsageError, match="closed"):
                await soon(reading)
            assert two.closed

    run(main())


# Timing


def test_the_first_items_come_before_the_body_ends() -> None:
    """The first 64 KiB of the array are enough; nothing more is sent before they are read."""

    async def main() -> None:
        go_on = asyncio.Event()
        part = b'{"result":[' + b",".join(item(number, KILO) for number in range(63)) + b","
        assert len(part) < 65_536
        async with (
            serving(silent_after(part, item(63) + b'],"next_cursor":null}', then=go_on)) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            reading = aiter(stream)
            found = [(await soon(anext(reading))).id for _ in range(60)]
            assert stream.items_read == 60
            assert stream.position is not None
            go_on.set()
            found += [each.id async for each in reading]
            assert found == numbers(range(64))

    run(main())


def test_the_first_item_comes_before_the_rest_is_decoded() -> None:
    """Even if the whole body was received at once, only its beginning is decoded first."""

    async def main() -> None:
        whole = body(range(3000), filler=KILO)
        async with fake_stream([whole]) as stream:
            await anext(aiter(stream))
            assert stream.bytes_read <= 65_536

    run(main())


def test_other_tasks_run_while_a_large_piece_is_decoded() -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async with fake_stream([body(range(60_000), filler=b"x" * 100)], engine="ijson") as stream:
            ticking = asyncio.ensure_future(tick())
            async for _ in stream.batches():
                pass
            ticking.cancel()
        assert ticks > 10

    run(main())


@pytest.mark.parametrize("page", [1, 2])
def test_closing_a_stream_wakes_a_reader_that_waits_for_a_response(page: int) -> None:
    """The service may be silent for minutes; the task that closes the stream wants it to end now."""

    async def main() -> None:
        asked = asyncio.Event()
        given_up = asyncio.Event()
        left = [FakeBody([body(range(5), "two")])][: page - 1]

        def opener(here: Position) -> Any:
            async def reopen(failure: TransportError | None) -> tuple[FakeBody, ResponseInfo]:
                if left:
                    return left.pop(0), ResponseInfo()
                asked.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    given_up.set()
                raise AssertionError("nothing sets that event")

            return reopen

        stream = fake_stream(opener=opener)

        async def read() -> int:
            async with stream:
                return sum([1 async for _ in stream])

        reader = asyncio.create_task(read())
        await asyncio.wait_for(asked.wait(), 5)
        stream.close()
        with pytest.raises(UsageError, match="closed while it was being read"):
            await asyncio.wait_for(reader, 5)
        assert given_up.is_set()

    run(main())


class FakeBody:
    """A response with these pieces; one may be an exception to raise."""

    status = 200
    token = Secret()
    call_id = 0
    on_close: Any = None

    def __init__(self, pieces: list[bytes | Exception]) -> None:
        self.headers: dict[str, str] = {}
        self._left = pieces
        self.closed = 0

    async def pieces(self, limit: int | None) -> AsyncIterator[bytes]:
        for piece in self._left:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def give_turn(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        self.closed += 1


def fake_stream(*pages: list[Any], engine: Any = "auto", opener: Any = None) -> ItemStream[Interaction]:
    left = [FakeBody(pieces) for pieces in pages]

    def in_turn(here: Position) -> Any:
        async def reopen(failure: TransportError | None) -> tuple[FakeBody, ResponseInfo]:
            await asyncio.sleep(0)
            return left.pop(0), ResponseInfo()

        return reopen

    return ItemStream(
        opener or in_turn,
        lambda is_ndjson: ItemDecoder(ItemReader(Interaction), engine=engine),
        PageCursor(Position(filters=""), 1),
        follow_cursor=True,
        max_stream_bytes=None,
        emitter=Emitter(),
    )


class LatePieces(FakeBody):
    """Each piece arrives a turn later."""

    async def pieces(self, limit: int | None) -> AsyncIterator[bytes]:
        async for piece in super().pieces(limit):
            await asyncio.sleep(0)
            yield piece


@pytest.mark.parametrize(
    ("items", "pieces"), [(3000, 1), (3, 2)], ids=["while others have their turn", "while a piece arrives"]
)
def test_a_stream_that_is_closed_meanwhile_returns_nothing_more(items: int, pieces: int) -> None:
    late: Any = LatePieces([body(range(items))] * pieces)

    async def reopen(failure: TransportError | None) -> tuple[FakeBody, ResponseInfo]:
        return late, ResponseInfo()

    async def main() -> None:
        async with fake_stream(opener=lambda here: reopen) as stream:
            batches = stream.batches()
            await anext(batches)
            reading: Any = anext(batches)
            reading.send(None)
            stream.close()
            with pytest.raises(UsageError, match="closed while it was being read"):
                reading.send(None)

    run(main())


class Piece(bytes):
    """Tells when it is gone."""

    gone = 0

    def __del__(self) -> None:
        Piece.gone += 1


class SteadyAnswer:
    """The part of an aiohttp response that is used. With each turn of the loop, another piece arrives."""

    status, reason, closed, connection = 200, "OK", True, None
    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, pieces: list[bytes]) -> None:
        self.taken: list[int] = []
        self.gone_at_waits: list[int] = []
        self._left = [Piece(piece) for piece in pieces]
        self._arrived: list[bytes] = []

    @property
    def content(self) -> SteadyAnswer:
        return self

    async def arrive(self) -> None:
        while self._left:
            await asyncio.sleep(0)
            self._arrived.append(self._left.pop(0))

    def read_nowait(self) -> bytes:
        arrived, self._arrived = self._arrived, []
        self.taken += [len(arrived)] if arrived else []
        return arrived[0] if len(arrived) == 1 else b"".join(arrived)

    def at_eof(self) -> bool:
        return not self._arrived and not self._left

    async def readany(self) -> bytes:
        self.gone_at_waits.append(Piece.gone)
        while not self._arrived:
            await asyncio.sleep(0)
        return self.read_nowait()

    def close(self) -> None:
        pass


@pytest.mark.parametrize("pause", [1.0, 0.0])
def test_a_stream_takes_one_piece_after_the_other(monkeypatch: pytest.MonkeyPatch, pause: float) -> None:
    """However long other tasks take. While pieces were joined, four streams were slower than one after the other.

    A piece that was decoded is let go of before the next one is awaited.
    """
    now = 0.0
    Piece.gone = 0

    def clock() -> float:
        nonlocal now
        now += pause
        return now

    monkeypatch.setattr(response_module, "perf_counter", clock)
    text = body(range(300), filler=b"x" * 100)
    pieces = [text[at : at + 2000] for at in range(0, len(text), 2000)]

    async def main() -> None:
        answer: Any = SteadyAnswer(pieces)
        response = StreamedResponse(
            answer, sends=1, timeouts=Timeouts(), deadlines=Deadlines(), open_responses=set()
        )

        def opener(here: Position) -> Any:
            async def reopen(failure: TransportError | None) -> tuple[StreamedResponse, ResponseInfo]:
                return response, ResponseInfo()

            return reopen

        async with fake_stream(opener=opener) as stream:
            arriving = asyncio.ensure_future(answer.arrive())
            assert sum([len(batch) async for batch in stream.batches()]) == 300
            await arriving
        assert answer.taken == [1] * len(pieces)
        if not pause:
            assert answer.gone_at_waits == list(range(len(pieces)))

    run(main())


class SlowDecoder:
    """A decoder that takes ``pace`` seconds for each byte, by a clock of its own."""

    def __init__(self) -> None:
        self.now = self.pace = 0.0
        self.sizes: list[int] = []

    def clock(self) -> float:
        return self.now

    def feed(self, chunk: bytes) -> list[Any]:
        self.sizes.append(len(chunk))
        self.now += len(chunk) * self.pace
        return []


def test_steps_are_as_large_as_their_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large enough to be fast, small enough to let other tasks run, on any machine."""
    decoder: Any = SlowDecoder()
    monkeypatch.setattr(page_body, "perf_counter", decoder.clock)

    async def main() -> None:
        page = page_body.PageBody[Any](FakeBody([b"[" * 2**24]), ResponseInfo(), lambda is_ndjson: decoder)
        page.start(None, 0)
        found = []
        for seconds in (0.0, 0.0025 / 2**17, 1.0):  # for each byte
            decoder.sizes.clear()
            decoder.pace = seconds
            for _ in range(8):
                await page.step()
            found.append([size // 1024 for size in decoder.sizes])
        assert found == [
            [16, 32, 64, 128, 256, 256, 256, 256],
            [256, 128, 64, 64, 64, 64, 64, 64],
            [64, 32, 16, 8, 4, 2, 2, 2],
        ]

    run(main())


async def sent_until_stuck(sent: list[int]) -> int:
    """Wait until a server that sends all the time is blocked.

    A full connection is asked again by the system after 0.2 s, and may then have found a little more room.
    """
    async with asyncio.timeout(20):
        before, still = -1, 0
        while still < 25:
            await asyncio.sleep(0.02)
            still = still + 1 if sent[0] == before else 0
            before = sent[0]
    return before


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_slow_consumer_slows_the_server_and_is_never_timed_out(coding: str) -> None:
    """The consumer pauses for longer than every timeout; the server can send no more than the buffers hold."""
    total = 20_000
    sent = [0]
    whole = body(range(total), filler=KILO)
    if coding:
        whole = gzip.compress(whole[:-1], 0) + gzip.compress(whole[-1:])

    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        writer.transport.set_write_buffer_limits(high=0)
        head = b"Content-Encoding: gzip\r\n" if coding else b""
        writer.write(OK + head + b"Content-Length: %d\r\n\r\n" % len(whole))
        for at in range(0, len(whole), 65_536):
            writer.write(whole[at : at + 65_536])
            await writer.drain()
            sent[0] = at

    async def main() -> None:
        timeouts = Timeouts(connect=0.15, read=0.15, attempt=0.2, total=0.25)
        async with serving(handle) as server, connect(server, timeouts=timeouts, retry=ONCE) as truto:
            async with truto.interactions.stream("a") as stream:
                batches = stream.batches()
                count = len(await anext(batches))
                stuck_at = await sent_until_stuck(sent)
                assert stuck_at < 16 * 2**20 < len(whole)
                await asyncio.sleep(0.4)
                assert sent[0] == stuck_at
                async for batch in batches:
                    count += len(batch)
                assert count == total
            assert len(server.heads) == 1

    run(main())


def test_a_silent_server_is_timed_out_by_the_read_deadline() -> None:
    async def main() -> None:
        part = b'{"result":[' + b",".join(item(number, KILO) for number in range(40))
        async with serving(silent_after(part)) as server, connect(server, timeouts=QUICK) as truto:
            found = []
            async with truto.interactions.stream("a") as stream:
                with pytest.raises(DeadlineError) as caught:
                    async for each in stream:
                        found += [each.id]
            error = caught.value
            assert (error.deadline, error.account) == ("read", "a")
            assert error.items_read == len(found) >= 38
            assert error.bytes_read == len(part)
            assert isinstance(error.position, Position)
            assert len(server.heads) == 1

    run(main())


# Bodies that break off

BREAKS = [
    Fault.truncate("length", 0.01),
    Fault.truncate("chunked", 5),
    Fault.truncate("json", 5),
    Fault.reset(400),
    Fault.disconnect(0),
    Fault.hang_body(5),
    Fault.status(502),
]


@pytest.mark.parametrize("fault", BREAKS, ids=lambda fault: fault.kind + fault.mode)
def test_a_body_that_breaks_before_its_first_item_is_fetched_again(fault: Fault) -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [fault.times(2), Fault.ok(), fault])  # on the first and on the second page
        async with (
            connect(sandbox, timeouts=QUICK) as truto,
            truto.interactions.stream(account, **WINDOW) as stream,
        ):
            found = []
            async for each in stream:
                found += [each.id]
                if len(found) == 1:
                    assert stream.response.attempts == 3
            assert found == wanted(sandbox, account)
        assert len(sandbox.requests) == 6

    in_sandbox(scenario)


@pytest.mark.parametrize("how", ["items", "chunks"])
def test_the_retry_policy_limits_the_attempts(how: str) -> None:
    async def main() -> None:
        async with serving(responding(broken(b""))) as server:
            async with (
                connect(server, retry=RetryPolicy(attempts=3, fault_base=0)) as truto,
                truto.interactions.stream("a") as stream,
            ):
                with pytest.raises(TruncatedBodyError) as caught:
                    async for _ in stream if how == "items" else stream.chunks():
                        pytest.fail("nothing came")
            assert len(server.heads) == 3
        error = caught.value
        assert (error.items_read, error.bytes_read, error.attempts, error.account) == (0, 0, 3, "a")
        assert error.position == stream.position
        assert error.position is not None

    run(main())


def test_a_break_after_the_first_item_is_raised_and_position_resumes_at_its_page() -> None:
    """The first page was complete and is not repeated. The second is read again from its start."""

    async def main() -> None:
        one, two, three = range(40), range(40, 140), range(140, 150)
        part = body(two, "three", KILO)[:60_000]
        responses = [with_length(body(one, "two", KILO)), broken(b""), broken(part)]
        responses += [with_length(body(two, "three")), with_length(body(three))]
        async with serving(responding(*responses)) as server, connect(server) as truto:
            found = []
            async with truto.interactions.stream("a") as stream:
                reading = aiter(stream)
                with pytest.raises(TruncatedBodyError) as caught:
                    while True:
                        found.append((await anext(reading)).id)
                with pytest.raises(UsageError, match="broke off"):
                    await anext(reading)
            error = caught.value
            assert found == numbers(one, two)[: len(found)]
            assert error.items_read == stream.items_read == len(found) > 80
            assert error.bytes_read == stream.bytes_read == len(body(one, "two", KILO)) + len(part)
            assert error.attempts == 2
            assert error.position == stream.position
            async with truto.interactions.stream("a", cursor=error.position) as rest:
                assert await ids(rest) == numbers(two, three)
            assert b"next_cursor=two" in server.heads[3]

    run(main())


@pytest.mark.parametrize("how", ["chunks", "save"])
def test_chunks_and_save_are_not_retried_after_the_first_bytes(how: str, tmp_path: Path) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def read(stream: ItemStream[Interaction]) -> None:
            if how == "save":
                await stream.save(tmp_path / "file")
            else:
                assert [chunk async for chunk in stream.chunks()]

        async with (
            serving(silent_after(KILO, then=go_on, end=b"")) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            reading = asyncio.ensure_future(read(stream))
            async with asyncio.timeout(5):
                while not stream.bytes_read:
                    await asyncio.sleep(0.001)
            go_on.set()
            with pytest.raises(TruncatedBodyError) as caught:
                await reading
            assert (caught.value.bytes_read, caught.value.items_read) == (1000, 0)
            assert len(server.heads) == 1
        assert names(tmp_path) == []

    run(main())


def test_a_next_page_that_cannot_be_opened_is_an_error() -> None:
    """It must not look like the end, and the empty page before it allows no extra attempts."""

    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.empty_page(), Fault.disconnect().forever()])
        async with (
            connect(sandbox, retry=RetryPolicy(attempts=2, fault_base=0)) as truto,
            truto.interactions.stream(account, **WINDOW) as stream,
        ):
            batches = stream.batches()
            with pytest.raises(TransportError) as caught:
                await anext(batches)
            assert caught.value.attempts == 2
            assert len(sandbox.requests) == 4  # one was sent on the first page's connection, which was dead
            assert caught.value.position == stream.position
            assert stream.position is not None
            assert stream.position.cursor
            with pytest.raises(UsageError, match="broke off"):
                await anext(batches)

    in_sandbox(scenario)


def test_an_error_status_on_a_later_page_leaves_a_position_to_resume_from() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.ok(), Fault.status(500).times(5)])
        async with connect(sandbox) as truto:
            async with truto.interactions.stream(account, **WINDOW) as stream:
                with pytest.raises(ServerError):
                    await ids(stream)
                assert stream.items_read == 5
            async with truto.interactions.stream(account, **WINDOW, cursor=stream.position) as rest:
                assert await ids(rest) == wanted(sandbox, account)[5:]

    in_sandbox(scenario)


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_streams_are_read_and_a_truncated_one_is_an_error(coding: Any) -> None:
    """Truncated inside the compressed data, while HTTP ends cleanly, and even if all JSON was decoded already."""

    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.script(account, [Fault.compressed(coding).times(3)])
        async with connect(sandbox, retry=ONCE) as truto:
            async with truto.interactions.stream(account, **WINDOW) as stream:
                assert await ids(stream) == wanted(sandbox, account)
            for keep in (0.3, 0.9):
                sandbox.fault(Fault.truncate(coding, keep))
                async with truto.interactions.stream(account, **WINDOW, follow_cursor=False) as stream:
                    with pytest.raises(TruncatedBodyError):
                        await ids(stream)

    in_sandbox(scenario)


def test_items_before_bad_json_are_handed_out_and_the_error_says_where_it_is() -> None:
    async def main() -> None:
        first, second = b",".join(map(item, range(20))), b',{"id":nonsense},' + item(21, KILO)
        async with fake_stream([b'{"result":[' + first, second + b"]}"]) as stream:
            found = []
            with pytest.raises(DecodeError) as caught:
                async for each in stream:
                    found += [each.id]
        assert found == numbers(range(len(found)))
        assert len(found) >= 18
        assert (caught.value.index or 0) >= len(found)

    run(main())


# Cancelled reads


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("how", ["items", "batches", "chunks"])
def test_a_cancelled_read_loses_nothing(after: int, how: str) -> None:
    """Each read is cancelled once, after this many turns of the loop, and repeated."""

    async def scenario(sandbox: Sandbox, account: str) -> None:
        async with connect(sandbox) as truto, truto.interactions.stream(account, **WINDOW) as stream:
            reading: AsyncIterator[Any] = {
                "items": stream.__aiter__,
                "batches": stream.batches,
                "chunks": stream.chunks,
            }[how]()
            found: list[Any] = []
            cancelled = 0
            while True:
                task = asyncio.ensure_future(anext(reading, None))
                await turns(after)
                if not task.done():
                    task.cancel()
                    cancelled += 1
                try:
                    got = await task
                except asyncio.CancelledError:
                    got = await soon(anext(reading, None))
                if got is None:
                    break
                found.append(got)
            assert cancelled or after
        if how == "batches":
            found = [each for batch in found for each in batch]
        if how == "chunks":
            records = json.loads(b"".join(found))["result"]
            assert [record["id"] for record in records] == wanted(sandbox, account)[:5]
        else:
            assert [each.id for each in found] == wanted(sandbox, account)

    in_sandbox(scenario, stream_piece=300)


def test_a_cancelled_wait_for_the_next_page_can_be_repeated() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.fault(Fault.hang().on(2))
        async with connect(sandbox) as truto, truto.interactions.stream(account, **WINDOW) as stream:
            reading = aiter(stream)
            found = [(await anext(reading)).id for _ in range(5)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(reading), 0.1)
            found += [each.id async for each in reading]
            assert found == wanted(sandbox, account)

    in_sandbox(scenario)


# Limits


@pytest.mark.parametrize(
    "framed", [with_length, lambda text: in_chunks(text, 500)], ids=["length", "chunked"]
)
@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False), (-5000, False), (-15_000, False)])
def test_max_stream_bytes_counts_all_pages_together(
    framed: Callable[[bytes], bytes], spare: int, fits: bool
) -> None:
    async def main() -> None:
        one, two = body(range(10), "two", KILO), body(range(10, 20), None, KILO)
        limit = len(one) + len(two) + spare
        async with (
            serving(responding(framed(one), framed(two), framed(two))) as server,
            connect(server) as truto,
        ):
            stream = truto.interactions.stream("a", max_stream_bytes=limit)
            if fits:
                async with stream:
                    assert await ids(stream) == numbers(range(20))
                    assert stream.bytes_read == limit
            else:
                with pytest.raises(BodyTooLargeError, match="max_stream_bytes") as caught:
                    async with stream:
                        await ids(stream)
                assert (caught.value.limit, caught.value.account) == (limit, "a")
                assert stream.bytes_read <= limit
            async with truto.interactions.stream("a") as stream:  # the connection is free
                assert await soon(ids(stream)) == numbers(range(10, 20))

    run(main())


@pytest.mark.parametrize("head", [b"Content-Encoding: rot13\r\n", b"Content-Length: 900000\r\n"])
def test_a_body_that_cannot_be_read_gives_its_connection_back(head: bytes) -> None:
    async def main() -> None:
        bad = OK + b"Connection: close\r\n" + head + b"\r\n" + b"{}"
        async with (
            serving(responding(bad, bad, with_length(body(range(3))))) as server,
            connect(server) as truto,
        ):
            for _ in range(2):
                with pytest.raises((DecodeError, BodyTooLargeError)) as caught:
                    async with truto.interactions.stream("a", max_stream_bytes=800_000):
                        pytest.fail("it opened")
                assert caught.value.account == "a"
            async with truto.interactions.stream("a") as stream:
                assert await soon(ids(stream)) == numbers(range(3))

    run(main())


def test_an_item_larger_than_max_item_bytes_is_an_error() -> None:
    async def main() -> None:
        async with (
            serving(responding(with_length(body(range(3), None, KILO * 50)))) as server,
            connect(server) as truto,
        ):
            async with truto.interactions.stream("a", max_item_bytes=20_000) as stream:
                with pytest.raises(BodyTooLargeError, match="max_item_bytes"):
                    await ids(stream)
            async with truto.interactions.stream("a", max_item_bytes=60_000) as stream:
                assert await ids(stream) == numbers(range(3))

    run(main())


def test_repairs_are_counted_and_reported_per_page_and_a_hundred_are_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A page that was fetched twice counts once."""
    bad = b",".join(b'{"id":"%d","timezone":%d}' % (number, number) for number in range(130))
    dropped = b'{"result":[1,2,3'

    async def main() -> None:
        events: list[Any] = []
        responses = [broken(dropped), with_length(b'{"result":[%b],"next_cursor":"two"}' % bad)]
        responses += [with_length(b'{"result":[%b]}' % bad)]
        async with (
            serving(responding(*responses)) as server,
            connect(server, on_event=events.append) as truto,
            truto.interactions.stream("a") as stream,
        ):
            counts = [stream.issues_count async for _ in stream.batches()]
            assert counts[0] > 0
            assert stream.issues_count == 260
            assert len(stream.issues) == len(stream._issues) == 100
            assert stream.issues[7].index == 7
        assert sum(isinstance(event, FieldRepaired) for event in events) == 200

    with caplog.at_level(logging.WARNING, "truto_ci_async"):
        run(main())
    assert len(caplog.records) == 2


def test_repairs_of_a_page_that_was_not_read_to_its_end_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with fake_stream([b'{"result":[{"id":"1","timezone":2},{"id":"2"},', item(3) * 9]) as stream:
            async for _ in stream:
                break
        assert stream.issues_count == 1

    run(main())
    assert len(caplog.records) == 1


def test_under_raise_the_first_bad_item_ends_the_stream() -> None:
    async def scenario(sandbox: Sandbox, account: str) -> None:
        sandbox.fault(Fault.items([{"id": 5}], mode="append").on(2))
        async with (
            connect(sandbox) as truto,
            truto.interactions.stream(account, **WINDOW, on_invalid="raise") as stream,
        ):
            with pytest.raises(DecodeError) as caught:
                await ids(stream)
            assert stream.position is not None
            assert (caught.value.account, caught.value.cursor) == (account, stream.position.cursor)
            assert caught.value.path.startswith("$.result[5]")

    in_sandbox(scenario)


# Files


def test_a_body_that_breaks_or_is_abandoned_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "body.json"
    target.write_text("old")

    async def main() -> None:
        async with (
            serving(responding(broken(KILO * 3000))) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            with pytest.raises(TruncatedBodyError):
                await stream.save(target)
        async with (
            serving(silent_after(KILO * 3000)) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            saving = asyncio.ensure_future(stream.save(target))
            async with asyncio.timeout(5):
                while len(names(tmp_path)) < 2:
                    await asyncio.sleep(0.001)
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving

    run(main())
    assert names(tmp_path) == ["body.json"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("step", ["create", "write", "fsync", "rename"])
def test_a_cancellation_in_the_middle_of_a_disk_step_waits_for_it_and_cleans_up(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    real = getattr(Disk, step)

    def slow(*args: Any) -> Any:
        reached.set()
        assert go_on.wait(5)
        return real(*args)

    monkeypatch.setattr(Disk, step, slow)

    async def main() -> None:
        async with (
            serving(responding(with_length(KILO * 5000))) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            saving = asyncio.ensure_future(stream.save(tmp_path / "file"))
            assert await asyncio.to_thread(reached.wait, 5)
            saving.cancel()
            await turns()
            assert not saving.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await saving

    run(main())
    assert names(tmp_path) == (["file"] if step == "rename" else [])  # after the rename the file is complete


def test_a_full_disk_is_an_oserror_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    async def main() -> None:
        async with (
            serving(responding(with_length(KILO * 5000))) as server,
            connect(server) as truto,
            truto.interactions.stream("a") as stream,
        ):
            with pytest.raises(OSError) as caught:
                await stream.save(target)
            assert caught.value.errno == errno.EFBIG

    with file_size_limit(2_500_000):
        run(main())
    assert names(tmp_path) == ["file"]
    assert target.read_text() == "old"


def test_a_file_has_the_usual_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "plain").touch()

    async def main() -> None:
        async with serving(responding(with_length(KILO))) as server, connect(server) as truto:
            async with truto.interactions.stream("a") as stream:
                assert await stream.save(str(tmp_path / "link")) == 1000
            for wrong in (tmp_path, Path("/dev/null")):
                async with truto.interactions.stream("a") as stream:
                    with pytest.raises(UsageError, match="a directory or a device"):
                        await stream.save(wrong)
            async with truto.interactions.stream("a") as stream:
                with pytest.raises(FileNotFoundError):
                    await stream.save(tmp_path / "no" / "file")

    run(main())
    assert names(tmp_path) == ["file", "link", "plain"]
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == KILO
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Large bodies


@pytest.mark.long
def test_a_gigabyte_is_read_in_constant_memory() -> None:
    """Peak memory above the idle client, in a process of its own, through a real socket."""
    with _harness.server() as url:
        for found in bench_stream.measure(url, "remote", 1000, ["ours", "ours, item by item"], 1):
            assert found["bytes"] > 10**9
            assert found["items"] > 10**6
            assert found["peak_growth_mb"] <= 24


@pytest.mark.long
def test_other_tasks_run_while_a_large_body_is_read() -> None:
    with _harness.server() as url:
        contenders = ["ours", "ours, item by item", "ours, engine=ijson"]
        for found in bench_stream.measure(url, "remote", 90, contenders, 1):
            assert found["held_p99_ms"] <= 20
            assert found["first_item_bytes"] <= 65_536

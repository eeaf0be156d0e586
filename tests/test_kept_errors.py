"""Errors that are kept, by a report, a log handler or a list of failures: they keep no bodies in memory."""

from __future__ import annotations

import asyncio
import gc
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from truto_ci_async import Pacing, RetryPolicy, TrutoClient, TrutoError

from .rawserver import RawServer, serving, with_length
from .support import run

FILLER = b"x" * 400_000
KEPT = 3


def refusal(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


RESPONSES = {
    "not JSON": with_length(b'{"result": [ ' + FILLER),
    "no result": with_length(b'{"x": "' + FILLER + b'"}'),
    "no valid item": with_length(b'{"result": [{"foo": 1}], "x": "' + FILLER + b'"}'),
    "bad cursor": with_length(b'{"result": [], "next_cursor": {}, "x": "' + FILLER + b'"}'),
    "bad UTF-8": with_length(b'{"result": [\xff' + FILLER),
    "cut JSON": with_length(b'{"result": ["' + FILLER),
    "HTML": refusal(500, b"<html>" + FILLER),
    "a long message": refusal(422, b'{"message": "' + FILLER + b'"}'),
    "cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\nConnection: close\r\n\r\n" + FILLER,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\nzz\r\n" % (len(FILLER), FILLER),
}  # fmt: skip


async def streamed(truto: TrutoClient, engine: Any) -> None:
    async with truto.interactions.stream("a", engine=engine) as stream:
        async for _ in stream:
            pass


CALLS: dict[str, Callable[[TrutoClient], Awaitable[Any]]] = {
    "list": lambda truto: truto.interactions.list("a").page(),
    "keyed": lambda truto: truto.interactions.keyed("a"),
    "stream": lambda truto: streamed(truto, "auto"),
    "stream by ijson": lambda truto: streamed(truto, "ijson"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_a_kept_error_keeps_no_body(response: bytes, call: Callable[[TrutoClient], Awaitable[Any]]) -> None:
    async def handle(server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(response)
        await writer.drain()

    async def failure(truto: TrutoClient) -> TrutoError:
        try:
            await call(truto)
        except TrutoError as error:
            return error
        raise AssertionError("it did not fail")

    async def main() -> None:
        retry = RetryPolicy(attempts=2, fault_base=0)
        async with (
            serving(handle) as server,
            TrutoClient("t" * 20, base_url=server.url, pacing=Pacing.off(), retry=retry) as truto,
        ):
            await failure(truto)  # imports and caches
            gc.collect()
            tracemalloc.start()
            try:
                kept = [await failure(truto) for _ in range(KEPT)]
                gc.collect()
                size, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert size < KEPT * 100_000
        shown = "".join(traceback.format_exception(kept[0]))
        assert "base_client.py" in shown or "stream.py" in shown, "where it was raised can still be seen"

    run(main())

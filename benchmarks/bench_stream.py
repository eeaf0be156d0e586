"""A large answer over a socket: is streaming it as quick as decoding it whole, and in how much memory?

Ours (both engines, in lists and item by item, four streams at once, and the bytes alone) beside the usual ways, with
the same struct classes, and beside a plain socket that is read and nothing else. Each contender runs in a process of
its own, the server in another, and they take turns round by round. Memory is the peak above the same process before
its first request, with everything imported. ``first item`` is the time from the request, and the bytes decoded by then.
``stall`` is how late other tasks of the loop got their turn (99th percentile), in a further round, and ``held`` the
work that was done before they did, which does not depend on what else the machine does.

    python -m benchmarks.bench_stream --size 90 --shapes remote,pretty --rounds 5 --json

Where buffering wins: on items whose end cannot be guessed (``look_alike``: a quarter quicker) and of a megabyte each
(``huge``), where finding that end costs a second look at the bytes; and wherever the whole list is wanted at once and
its memory does not matter, since it is one line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import ijson
import msgspec

from benchmarks import _harness, _turns, data
from benchmarks._turns import OURS, Goal, Measured, Record, Turn
from truto_ci_async import Interaction, Pacing, TrutoClient

TARGET = "/unified/conversational-intelligence/interactions?integrated_account_id="


AT_ONCE = 4
TOGETHER, CHUNKS, DRAIN, BUFFERED = (
    "ours, 4 at once",
    "ours, chunks()",
    "drain of the socket",
    "msgspec, buffered",
)
QUESTION = "stream 90 MB"
GOALS = [
    Goal(QUESTION, BUFFERED, "speed", least=1.25),
    Goal(QUESTION, BUFFERED, "memory", most=0.10),
    Goal(QUESTION, "ijson + convert", "speed", least=4.0),
    Goal(QUESTION, DRAIN, "speed", least=0.5),
    Goal("4 streams of 90 MB at once", "one stream", "speed", least=1.0),
    Goal("4 streams of 90 MB at once", "one stream", "memory", most=4.0),
]


class Page(msgspec.Struct):
    """The whole page with the same items, as one would write it without this package."""

    result: tuple[Interaction, ...]
    next_cursor: str | None = None


class Outcome(NamedTuple):
    items: int
    bytes: int
    first: float  # when the first item was there
    first_bytes: int  # and how much had been decoded by then


@asynccontextmanager
async def session(url: str) -> AsyncGenerator[Any]:
    if url:
        async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout()) as opened:
            yield opened


@asynccontextmanager
async def client(url: str) -> AsyncGenerator[Any]:
    async with TrutoClient("token", base_url=url, pacing=Pacing.off()) as opened:
        yield opened


async def ours(truto: TrutoClient, account: str, engine: Any = "auto") -> Outcome:
    count, first, first_bytes = 0, 0.0, 0
    async with truto.interactions.stream(account, engine=engine) as stream:
        async for batch in stream.batches():
            if not count:
                first, first_bytes = perf_counter(), stream.bytes_read
            count += len(batch)
        return Outcome(count, stream.bytes_read, first, first_bytes)


async def ours_item_by_item(truto: TrutoClient, account: str) -> Outcome:
    count, first, first_bytes = 0, 0.0, 0
    async with truto.interactions.stream(account) as stream:
        async for _ in stream:
            if not count:
                first, first_bytes = perf_counter(), stream.bytes_read
            count += 1
        return Outcome(count, stream.bytes_read, first, first_bytes)


async def ours_ijson(truto: TrutoClient, account: str) -> Outcome:
    return await ours(truto, account, "ijson")


async def buffered(http: aiohttp.ClientSession, account: str) -> Outcome:
    async with http.get(TARGET + account) as response:
        body = await response.read()
    page = msgspec.json.decode(body, type=Page)
    return Outcome(len(page.result), len(body), perf_counter(), len(body))


async def ijson_convert(http: aiohttp.ClientSession, account: str) -> Outcome:
    found = ijson.sendable_list()
    parser = ijson.items_coro(found, "result.item", use_float=True)
    count, size, first, first_bytes = 0, 0, 0.0, 0
    async with http.get(TARGET + account) as response:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            parser.send(chunk)
            for record in found:
                record.pop(
                    "remote_data", None
                )  # convert() makes no Raw: left out, to the good of this contender
                msgspec.convert(record, Interaction)
                if not first:
                    first, first_bytes = perf_counter(), size
            count += len(found)
            found.clear()
    parser.close()
    return Outcome(count, size, first, first_bytes)


async def json_loads(http: aiohttp.ClientSession, account: str) -> Outcome:
    async with http.get(TARGET + account) as response:
        body = await response.read()
    records = json.loads(body)["result"]
    return Outcome(len(records), len(body), perf_counter(), len(body))


async def ours_at_once(truto: TrutoClient, account: str) -> Outcome:
    """Four of them: what came in all, and when the first item of any was there."""
    found = await asyncio.gather(*(ours(truto, account) for _ in range(AT_ONCE)))
    first = min(found, key=lambda each: each.first)
    return first._replace(items=sum(each.items for each in found), bytes=sum(each.bytes for each in found))


async def ours_chunks(truto: TrutoClient, account: str) -> Outcome:
    size = 0
    async with truto.interactions.stream(account) as stream:
        async for chunk in stream.chunks():
            size += len(chunk)
        return Outcome(0, size, perf_counter(), 0)


@asynccontextmanager
async def nothing(url: str) -> AsyncGenerator[str]:
    yield url


async def drain(url: str, account: str) -> Outcome:
    """Read the same body from a blocking socket, as much at once as asyncio does."""
    place = urlsplit(url)
    size, piece = 0, memoryview(bytearray(2**18))
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(f"GET {TARGET}{account} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        got = connection.recv_into(piece)
        head, _, _ = bytes(piece[:got]).partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].split()[0]) + len(head) + 4
        while True:
            size += got
            if size >= length:
                return Outcome(0, size, perf_counter(), 0)
            got = connection.recv_into(piece)


Contender = Callable[[Any, str], Awaitable[Outcome]]
CONTENDERS: dict[str, tuple[Callable[[str], Any], Contender]] = {
    "ours": (client, ours),
    "ours, item by item": (client, ours_item_by_item),
    "ours, engine=ijson": (client, ours_ijson),
    TOGETHER: (client, ours_at_once),
    CHUNKS: (client, ours_chunks),
    DRAIN: (nothing, drain),
    BUFFERED: (session, buffered),
    "ijson + convert": (session, ijson_convert),
    "json.loads (dicts)": (session, json_loads),
}


async def serve(contender: str, url: str, account: str) -> None:
    """Measure one contender in this process: a round for each ``round`` on stdin, and the loop for ``stalls``."""
    connect, read = CONTENDERS[contender]
    async with connect(url) as connected:
        memory = _harness.Memory()
        # Read in the loop's own thread: nothing else goes on between two rounds.
        for line in iter(sys.stdin.readline, ""):
            if line.strip() == "stalls":
                async with _harness.Stalls() as stalls:
                    await read(connected, account)
                found = {"late": stalls.late, "held": stalls.held}
                figures: dict[str, Any] = {
                    f"{name}_{label}_ms": round(figure * 1e3, 1)
                    for name, values in found.items()
                    for label, figure in (("p99", _harness.quantile(values, 0.99)), ("max", max(values)))
                }
            else:
                cpu, start = _harness.cpu_seconds(), perf_counter()
                outcome = await read(connected, account)
                figures = {
                    "seconds": perf_counter() - start,
                    "cpu_seconds": _harness.cpu_seconds() - cpu,
                    "first_item_ms": (outcome.first - start) * 1e3,
                    "first_item_bytes": outcome.first_bytes,
                    "bytes": outcome.bytes,
                    "items": outcome.items,
                    "peak_growth_mb": round(memory.growth() / 1e6, 1),
                }
            print(json.dumps(figures), flush=True)


def measure(
    url: str, shape: str, megabytes: float, contenders: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Measure contenders beside each other: they take turns, round by round."""
    account = f"{shape}-{int(megabytes * 1e6)}"
    _harness.warm(url, account)
    args = ("--here", url, "--account", account, "--contenders")
    workers = [_harness.Worker("benchmarks.bench_stream", *args, each) for each in contenders]
    try:
        turns = [[worker.ask("round") for worker in workers] for _ in range(rounds)]
        stalls = [worker.ask("stalls") for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    found: list[dict[str, Any]] = []
    for number, contender in enumerate(contenders):
        mine = [turn[number] for turn in turns]
        middle = {
            name: round(_harness.median([each[name] for each in mine]), 3)
            for name in ("seconds", "cpu_seconds", "first_item_ms")
        }
        speed = {"mb_per_s": round(mine[0]["bytes"] / middle["seconds"] / 1e6, 1)}
        all_turns = [(each["seconds"], each["cpu_seconds"]) for each in mine]
        found.append(
            {"contender": contender, **mine[-1], **middle, **speed, **stalls[number], "turns": all_turns}
        )
    return found


def run(options: argparse.Namespace) -> list[Record]:
    """Run the shape ``remote``, without the engine for hard shapes, which takes its time."""
    question = f"stream {options.size:g} MB"
    _turns.say(question)
    contenders = [name for name in CONTENDERS if name != "ours, engine=ijson"]
    with _harness.server() as url:
        # The first round is to get warm.
        found = measure(url, "remote", options.size, contenders, options.rounds + 1)
    measured = {
        each["contender"]: Measured(
            [Turn(*turn) for turn in each["turns"][1:]], int(each["peak_growth_mb"] * 1e6)
        )
        for each in found
    }
    together = measured.pop(TOGETHER)
    each_of = Measured(
        [Turn(turn.seconds / AT_ONCE, turn.cpu / AT_ONCE) for turn in together.turns], together.peak
    )
    both = {OURS: each_of, "one stream": measured[OURS]}
    return _turns.records(question, True, measured) + _turns.records(
        f"4 streams of {options.size:g} MB at once", True, both
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=float, default=90, help="MB of the body (default 90)")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts (default 5)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--shapes", default=",".join(data.SHAPES), help="comma-separated (default: all)")
    parser.add_argument("--contenders", default="", help="semicolon-separated (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--here", default="", help=argparse.SUPPRESS)  # the process of one contender
    parser.add_argument("--account", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    contenders = options.contenders.split(";") if options.contenders else list(CONTENDERS)
    if options.here:
        asyncio.run(serve(contenders[0], options.here, options.account))
        return
    about = {
        **_harness.about(),
        "msgspec": msgspec.__version__,
        "ijson": ijson.backend,
        "aiohttp": aiohttp.__version__,
    }
    if not options.json:
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        print(f"bodies of {options.size:g} MB over loopback, median of {options.rounds}")
    with _harness.server() as url:
        for shape in options.shapes.split(","):
            found = measure(url, shape, options.size, contenders, options.rounds)
            report(shape, found, about, options.json)


COLUMNS = {
    "MB/s": "mb_per_s",
    "CPU s": "cpu_seconds",
    "peak MB": "peak_growth_mb",
    "first item ms": "first_item_ms",
    "after bytes": "first_item_bytes",
    "stall p99 ms": "late_p99_ms",
    "held p99 ms": "held_p99_ms",
    "held max ms": "held_max_ms",
}


def report(shape: str, found: list[dict[str, Any]], about: dict[str, Any], as_json: bool) -> None:
    """Print the figures of one shape, each also as a share of the buffered decode where that took part."""
    base = next((each for each in found if each["contender"] == BUFFERED), None)
    for each in found:
        if base:
            each["speed_of_buffered"] = round(base["seconds"] / each["seconds"], 2)
            each["cpu_of_buffered"] = round(each["cpu_seconds"] / base["cpu_seconds"], 2)
            each["memory_of_buffered"] = round(each["peak_growth_mb"] / max(base["peak_growth_mb"], 0.1), 3)
        if as_json:
            print(json.dumps({"shape": shape, **each, **about}), flush=True)
    if as_json:
        return
    print(f"\n{shape}, {found[0]['items']:,} items")
    heads = [*COLUMNS, *(["speed", "memory"] if base else [])]
    print(f"  {'':<20}" + "".join(f"{head:>14}" for head in heads))
    for each in found:
        cells = [f"{each[name]:,}" for name in COLUMNS.values()]
        if base:
            cells += [f"{each['speed_of_buffered']:.2f} x", f"{each['memory_of_buffered']:.1%}"]
        print(f"  {each['contender']:<20}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

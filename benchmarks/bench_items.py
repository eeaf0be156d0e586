"""How fast is a body decoded that is already in memory: pushed in chunks, or whole?

Compares ours (both engines) with the usual ways, on seeded bodies of several shapes and with the same struct classes.
Each contender runs in its own process. Its peak memory does not count the imports, but does count the body if it needs
the whole of it. For a benchmark over the network see `bench_stream`.

    python -m benchmarks.bench_items --size 40 --shapes remote,tiny --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import ijson
import msgspec

from benchmarks import data
from truto_ci_async._wire.incremental.item_decoder import Engine, ItemDecoder
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async.models import Interaction


class Page(msgspec.Struct):
    result: tuple[Interaction, ...]
    next_cursor: str | None = None


Timed = tuple[float, int, float]  # seconds, items, longest single call


def ours(engine: Engine, chunks: Iterator[bytes]) -> Timed:
    decoder = ItemDecoder(ItemReader(Interaction), engine=engine)
    seconds = longest = 0.0
    count = 0
    for chunk in chunks:
        start = time.perf_counter()
        count += len(decoder.feed(chunk))
        took = time.perf_counter() - start
        seconds += took
        longest = max(longest, took)
    start = time.perf_counter()
    count += len(decoder.flush())
    decoder.close()
    return seconds + time.perf_counter() - start, count, longest


def buffered(chunks: Iterator[bytes]) -> Timed:
    body = b"".join(chunks)
    decode = msgspec.json.Decoder(Page).decode
    start = time.perf_counter()
    page = decode(body)
    seconds = time.perf_counter() - start
    return seconds, len(page.result), seconds


def ijson_convert(chunks: Iterator[bytes]) -> Timed:
    found = ijson.sendable_list()
    parser = ijson.items_coro(found, "result.item", use_float=True)
    seconds = longest = 0.0
    count = 0
    for chunk in chunks:
        start = time.perf_counter()
        parser.send(chunk)
        for record in found:
            record.pop(
                "remote_data", None
            )  # convert() cannot make Raw; leaving it out favours this contender
            msgspec.convert(record, Interaction)
        count += len(found)
        found.clear()
        took = time.perf_counter() - start
        seconds += took
        longest = max(longest, took)
    parser.close()
    return seconds, count, longest


def json_loads(chunks: Iterator[bytes]) -> Timed:
    body = b"".join(chunks)
    start = time.perf_counter()
    records = json.loads(body)["result"]
    seconds = time.perf_counter() - start
    return seconds, len(records), seconds


CONTENDERS: dict[str, Callable[[Iterator[bytes]], Timed]] = {
    "ours": lambda chunks: ours("auto", chunks),
    "ours, engine=ijson": lambda chunks: ours("ijson", chunks),
    "msgspec, buffered": buffered,
    "ijson + convert": ijson_convert,
    "json.loads (dicts)": json_loads,
}
SLOW = {"ours, engine=ijson", "ijson + convert"}


def peak_bytes() -> int:
    """Return the peak memory of this process on Linux; 0 elsewhere."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def measure(contender: str, shape: str, size: int, rounds: int) -> dict[str, Any]:
    """Measure one contender in this process."""
    sized = size // 4 if contender in SLOW else size
    run = CONTENDERS[contender]
    run(data.body_chunks(100_000, shape, pool=100_000))  # imports, caches, first allocations
    # Make the repeating items beforehand, so that they do not count as growth.
    for _ in data.body_chunks(min(sized, 2**22), shape, pool=2**22):
        pass
    before = peak_bytes()
    best, longest, count, total = float("inf"), 0.0, 0, 0
    for _ in range(rounds):
        total = 0

        def chunks() -> Iterator[bytes]:
            nonlocal total
            for chunk in data.body_chunks(sized, shape, pool=2**22):
                total += len(chunk)
                yield chunk

        seconds, count, slowest = run(chunks())
        best, longest = min(best, seconds), max(longest, slowest)
    return {
        "shape": shape,
        "contender": contender,
        "bytes": total,
        "items": count,
        "mb_per_s": round(total / best / 1e6, 1),
        "longest_call_ms": round(longest * 1e3, 2),
        "peak_growth_mb": round((peak_bytes() - before) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", type=float, default=40, help="MB of a body (default 40; a quarter for the slow ones)"
    )
    parser.add_argument("--shapes", default=",".join(data.SHAPES), help="comma-separated (default: all)")
    parser.add_argument("--contenders", default="", help="semicolon-separated (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument(
        "--here", action="store_true", help="measure in this process (used for each measurement)"
    )
    options = parser.parse_args()
    shapes = options.shapes.split(",")
    contenders = options.contenders.split(";") if options.contenders else list(CONTENDERS)
    if options.here:
        print(json.dumps(measure(contenders[0], shapes[0], int(options.size * 1e6), options.rounds)))
        return
    about = f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}"
    if not options.json:
        print(
            f"{about}, msgspec {msgspec.__version__}, ijson on {ijson.backend}, bodies of {options.size:g} MB\n"
        )
        print(
            f"{'shape':<12}{'contender':<20}{'MB/s':>8}{'items':>10}{'longest call, ms':>18}{'peak growth, MB':>17}"
        )
    for shape in shapes:
        for contender in contenders:
            command = [sys.executable, "-m", "benchmarks.bench_items", "--here", "--shapes", shape]
            command += [
                "--contenders",
                contender,
                "--size",
                str(options.size),
                "--rounds",
                str(options.rounds),
            ]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            if options.json:
                print(json.dumps(found))
            else:
                print(
                    f"{shape:<12}{contender:<20}{found['mb_per_s']:>8}{found['items']:>10,}"
                    f"{found['longest_call_ms']:>18}{found['peak_growth_mb']:>17}"
                )


if __name__ == "__main__":
    main()

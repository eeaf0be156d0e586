"""What stays in memory: of a client that has nothing to do, and of items that are kept?

idle  resident memory of a process with a client (or session) that made one walk of ten pages and is at rest
kept  so many items in a list: what the process grew by, for each
one   one item of each page in a list, the others dropped: bytes of Python's allocators, for each

python -m benchmarks.bench_rest --items 1000000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

from benchmarks import _harness, _turns, bench_decode, bench_walk, data
from benchmarks._turns import OURS, Goal, Record

KEPT = {
    OURS: "",
    bench_decode.ANY: "",
    bench_decode.PYDANTIC: "pydantic",
    "json.loads (dicts)": "",
}
GOALS: list[Goal] = []
IDLE = {name: needed for name, needed in bench_walk.CONTENDERS.items() if name != bench_walk.UVLOOP}
PAGE = 100


def here(options: argparse.Namespace) -> None:
    """Be one contender, and print bytes of memory."""
    sys.stdin.readline()
    made = {"kept": kept, "one": one_of_each_page}.get(options.what)
    print(json.dumps({"bytes": made(options) if made else asyncio.run(idle(options))}), flush=True)


def pages(options: argparse.Namespace) -> Iterator[Any]:
    """Decode as many pages as hold the items. A hundred of them differ, which is no less work for the decoder."""
    decode: Callable[[bytes], Any] = bench_decode.decoder(options.here)
    bodies = [data.page(PAGE, "remote", seed=data.SEED + number) for number in range(100)]
    for number in range(-1, options.items // PAGE):
        page = decode(bodies[number % 100])
        yield page["result"] if isinstance(page, dict) else getattr(page, "items", None) or page.result


def kept(options: argparse.Namespace) -> float:
    decoded = pages(options)
    next(decoded)
    gc.collect()
    before = _harness.resident()
    items: list[Any] = []
    for page in decoded:
        items.extend(page)
    del page
    gc.collect()
    return (_harness.resident() - before) / len(items)


def one_of_each_page(options: argparse.Namespace) -> float:
    options.items = min(options.items, 100_000)
    decoded = pages(options)
    next(decoded)
    gc.collect()
    tracemalloc.start()
    items = [page[0] for page in decoded]
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / len(items)


async def idle(options: argparse.Namespace) -> int:
    contender = bench_walk.CLASSES[options.here]()
    async with AsyncExitStack() as stack:
        await contender.open(stack, options.url)
        await contender.items("remote-x100-p10")
        gc.collect()
        return _harness.resident()


def run(options: argparse.Namespace) -> list[Record]:
    _turns.say("memory at rest")
    found: list[Record] = []
    questions = {
        "idle": ("memory, an idle client", IDLE),
        "kept": (f"memory, each of {options.items:,} kept items", KEPT),
        "one": ("memory, one item kept of a page", KEPT),
    }
    with _harness.server() as url:
        for what, (question, names) in questions.items():
            given = ["--what", what, "--items", str(options.items), "--url", url]
            used = {
                name: in_own_process("--here", name, *given)
                for name in _turns.installed(names, options.contenders)
            }
            for name, size in used.items():
                figure = {"peak_mb": round(size / 1e6, 1)} if what == "idle" else {"item_bytes": round(size)}
                record: Record = {"question": question, "contender": name, **figure}
                if name != OURS and OURS in used:
                    record["resident" if what == "idle" else "bytes"] = used[OURS] / size
                found.append(record)
    return found


def in_own_process(*args: str) -> float:
    worker = _harness.Worker("benchmarks.bench_rest", *args)
    try:
        size: float = worker.ask("")["bytes"]
        return size
    finally:
        worker.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=1_000_000, help="kept (default 1,000,000)")
    parser.add_argument("--what", default="", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

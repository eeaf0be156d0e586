"""What stays in memory: of a client that has nothing to do, and of items that are kept?

idle   resident memory of a process with a client (or session) that made one walk of ten pages and is at rest
kept   the same with 20,000 items in a list, less what it was before them

python -m benchmarks.bench_rest --items 20000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
from collections.abc import Callable
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


def here(options: argparse.Namespace) -> None:
    """Be one contender, and print bytes of resident memory."""
    sys.stdin.readline()
    size = kept(options) if options.what == "kept" else asyncio.run(idle(options))
    print(json.dumps({"bytes": size}), flush=True)


def kept(options: argparse.Namespace) -> int:
    decode: Callable[[bytes], Any] = bench_decode.decoder(options.here)
    decode(data.page(100, "remote"))
    gc.collect()
    before = _harness.resident()
    items: list[Any] = []
    for number in range(options.items // 100):
        page = decode(data.page(100, "remote", seed=data.SEED + number))
        items.extend(
            page["result"] if isinstance(page, dict) else getattr(page, "items", None) or page.result
        )
    gc.collect()
    return _harness.resident() - before


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
    with _harness.server() as url:
        contenders = {"idle": bench_walk.CONTENDERS, "kept": KEPT}
        for what, names in contenders.items():
            given = ["--what", what, "--items", str(options.items), "--url", url]
            used = {
                name: in_own_process("--here", name, *given)
                for name in _turns.installed(names, options.contenders)
            }
            for name, size in used.items():
                record = {"question": f"memory {what}", "contender": name, "gc": "on"}
                record["peak_mb"] = round(size / 1e6, 1)
                if name != OURS and OURS in used:
                    record["memory"] = used[OURS] / size
                found.append(record)
    return found


def in_own_process(*args: str) -> int:
    worker = _harness.Worker("benchmarks.bench_rest", *args)
    try:
        size: int = worker.ask("")["bytes"]
        return size
    finally:
        worker.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=20_000, help="kept (default 20,000)")
    parser.add_argument("--what", default="", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

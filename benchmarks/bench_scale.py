"""Does an item take longer, or the process more memory, when there is ten or a hundred times as much to do?

    walk      pages of 100 items, 10, 100 and 1,000 of them
    stream    one body of 9, 90 and 900 MB
    ndjson    a pull into NDJSON, of 5, 50 and 500 accounts with 4 pages of 50 items
    parquet   the same into Parquet

Each size is a process of its own, and the sizes take turns. ``us`` is CPU per item, as the median of the rounds;
``peak`` is what the process grew by. Asked: within 1.1 times, and flat.

    python -m benchmarks.bench_scale --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Record
from truto_ci_async import Pacing, TrutoClient

TIMES = (1, 10, 100)
WINDOW = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
CASES = ("walk", "stream", "ndjson", "parquet")


async def read(case: str, times: int, truto: TrutoClient, folder: str) -> int:
    """Do the work of one case, and return how many items there were."""
    count = 0
    if case == "walk":
        async for _ in truto.interactions.list(f"remote-x100-p{10 * times}", **WINDOW):
            count += 1
    elif case == "stream":
        async with truto.interactions.stream(f"remote-{9_000_000 * times}", **WINDOW) as stream:
            async for batch in stream.batches():
                count += len(batch)
    else:
        accounts = [f"remote-x50-p4--{number}" for number in range(5 * times)]
        report = await truto.interactions.pull_to(folder, accounts, **WINDOW, format=case)
        count = report.rows
    return count


async def here(case: str, times: int, url: str) -> dict[str, Any]:
    async with TrutoClient("token", base_url=url, pacing=Pacing.off()) as truto:
        with tempfile.TemporaryDirectory() as folder:
            await read(case, 1, truto, f"{folder}/warm")
            memory, cpu = _harness.Memory(), _harness.cpu_seconds()
            count = await read(case, times, truto, f"{folder}/measured")
            return {
                "us": (_harness.cpu_seconds() - cpu) / count * 1e6,
                "peak_mb": memory.growth() / 1e6,
                "items": count,
            }


def in_own_process(case: str, times: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_scale", "--here", f"{case} {times}"]
    found: dict[str, Any] = {}
    with _harness.server(pinned=True) as url:
        # The first time, the server makes its pages, and whoever waits for it has cold caches.
        for _ in range(2):
            done = subprocess.run(
                [*command, "--url", url], cwd=_harness.ROOT, stdout=subprocess.PIPE, check=True, timeout=900
            )
            found = json.loads(done.stdout)
    return found


def run(options: argparse.Namespace) -> list[Record]:
    made: list[Record] = []
    for case in options.cases.split(","):
        _turns.say(f"growth, {case}")
        found: dict[int, list[dict[str, Any]]] = {times: [] for times in TIMES}
        for _ in range(options.rounds):
            for times in TIMES:
                found[times].append(in_own_process(case, times))
        us = {times: _harness.median([each["us"] for each in rounds]) for times, rounds in found.items()}
        peak = {
            times: _harness.median([each["peak_mb"] for each in rounds]) for times, rounds in found.items()
        }
        for times in TIMES[1:]:
            question: Record = {"question": f"growth, {case}, an item, {times}x"}
            made.append(question | {"contender": OURS, "us": us[times], "peak_mb": peak[times]})
            first = {"contender": "1x", "us": us[1], "peak_mb": peak[1], "growth": us[times] / us[1]}
            made.append(question | first | {"resident": peak[times] / max(peak[1], 0.1)})
    return made


GOALS = [
    Goal(f"growth, {case}, an item, {times}x", "1x", "growth", most=1.1)
    for case in CASES
    for times in TIMES[1:]
]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default 3)")
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)


def one(options: argparse.Namespace) -> None:
    case, times = options.here.split()
    print(json.dumps(asyncio.run(here(case, int(times), options.url))))


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, one)

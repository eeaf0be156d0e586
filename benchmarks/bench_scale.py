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

from benchmarks import _harness
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--here", nargs=3, help=argparse.SUPPRESS)  # one process
    options = parser.parse_args()
    if options.here:
        case, times, url = options.here
        print(json.dumps(asyncio.run(here(case, int(times), url))))
        return
    for case in options.cases.split(","):
        found: dict[int, list[dict[str, Any]]] = {times: [] for times in TIMES}
        for _ in range(options.rounds):
            for times in TIMES:
                with _harness.server(pinned=True) as url:
                    command = [
                        sys.executable,
                        "-m",
                        "benchmarks.bench_scale",
                        "--here",
                        case,
                        str(times),
                        url,
                    ]
                    done = subprocess.run(
                        command, cwd=_harness.ROOT, capture_output=True, check=True, timeout=900
                    )
                found[times].append(json.loads(done.stdout))
        first = _harness.median([each["us"] for each in found[1]])
        for times, rounds in found.items():
            us = _harness.median([each["us"] for each in rounds])
            peak = _harness.median([each["peak_mb"] for each in rounds])
            row = {"case": case, "times": times, "items": rounds[0]["items"], "us": round(us, 2),
                   "ratio": round(us / first, 2), "peak_mb": round(peak, 1)}  # fmt: skip
            print(json.dumps(row) if options.json else
                  f"{case:8} {times:4}x {row['items']:>9,} items {us:8.2f} us an item, {us / first:.2f} of 1x,"
                  f" peak {peak:6.1f} MB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

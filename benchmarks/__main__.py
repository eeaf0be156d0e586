"""Run all benchmarks and print one table of ratios: ``python -m benchmarks --help``.

``results/`` has the table of the last run. A run of some questions replaces the answers to those.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Record

BUFFERED = "msgspec, buffered"
STREAM_GOALS = [
    Goal("stream remote", BUFFERED, "speed", least=1.25),
    Goal("stream remote", BUFFERED, "memory", most=0.10),
    Goal("stream remote", "ijson + convert", "speed", least=4.0),
]
MODULES = (
    "decode", "walk", "layers", "stream", "pull", "growth", "landing", "pacing", "arrow", "import", "rest", "telemetry",
)  # fmt: skip
RESULTS = Path(__file__).with_name("results")


def stream(options: argparse.Namespace) -> list[Record]:
    """Run ``bench_stream``, and turn its figures into records like those of the others."""
    _turns.say("stream remote")
    command = [sys.executable, "-m", "benchmarks.bench_stream", "--json", "--shapes", "remote"]
    command += ["--size", str(options.stream_size)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_harness.ROOT)
    found: list[dict[str, Any]] = [json.loads(line) for line in ran.stdout.splitlines()]
    ours = next(each for each in found if each["contender"] == OURS)
    records: list[Record] = []
    for each in found:
        record: Record = {"question": "stream remote", "contender": each["contender"], "gc": "on"}
        record |= {"ms": each["seconds"] * 1e3, "cpu_ms": each["cpu_seconds"] * 1e3}
        record |= {"peak_mb": each["peak_growth_mb"]}
        if each is not ours:
            record["speed"] = each["seconds"] / ours["seconds"]
            record["cpu"] = ours["cpu_seconds"] / each["cpu_seconds"]
            record["memory"] = ours["peak_growth_mb"] / max(each["peak_growth_mb"], 0.1)
        records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(MODULES), help=f"of {', '.join(MODULES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few rounds: minutes less, and less to rely on")
    parser.add_argument("--stream-size", type=float, default=90, help="MB of the streamed body (default 90)")
    parser.add_argument("--gc", choices=("both", "on", "off"), default="both", help="garbage collector")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures there too")
    options = parser.parse_args()
    found: list[Record] = []
    goals: list[Goal] = []
    about = _harness.about() | {"day": datetime.now(UTC).date().isoformat()}
    for name in options.only.split(","):
        if name == "stream":
            found += stream(options)
            goals += STREAM_GOALS
            continue
        module = importlib.import_module(f"benchmarks.bench_{name}")
        given = argparse.ArgumentParser()
        module.add_options(given)
        chosen = given.parse_args(["--rounds", "3"] if options.quick and name != "rest" else [])
        chosen.contenders, chosen.gc = "", options.gc
        if name == "pacing":
            chosen.socket = not options.quick
        found += module.run(chosen)
        goals += module.GOALS
    _turns.report(found, goals, options.json)
    keep(found, goals, about)


def keep(found: list[Record], goals: list[Goal], about: dict[str, Any]) -> None:
    """Put the figures in place of those that an earlier run had for the same questions."""
    path = RESULTS / "last.json"
    kept: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    anew = {record["question"] for record in found}
    for run in kept:
        run["records"] = [record for record in run["records"] if record["question"] not in anew]
    asked = [{**goal._asdict(), "most": min(goal.most, 1e9)} for goal in goals]  # JSON has no infinity
    kept = [run for run in kept if run["records"]] + [{"about": about, "records": found, "goals": asked}]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    texts = [
        ", ".join(f"{name} {each}" for name, each in run["about"].items())
        + "\n\n"
        + _turns.table(run["records"], [Goal(**goal) for goal in run["goals"]])
        for run in kept
    ]
    (RESULTS / "last.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

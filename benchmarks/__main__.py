"""Run all benchmarks and print one table: each question, ours, the contender, the ratio, what is asked, the machine.

A whole run takes fifteen to twenty minutes on an idle machine. It leaves the table and the figures in ``results/``, for
each version of Python, and brings both README up to date with them. A run of some questions replaces the answers to
those.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import sys
import traceback
from time import perf_counter
from typing import Any

from benchmarks import _harness, _turns, tables

MODULES = {
    "walk": "bench_walk",
    "layers": "bench_layers",
    "first": "bench_first",
    "import": "bench_import",
    "decode": "bench_decode",
    "stream": "bench_stream",
    "arrow": "bench_arrow",
    "pull": "bench_pull",
    "landing": "bench_landing",
    "scale": "bench_scale",
    "growth": "bench_growth",
    "pacing": "bench_pacing",
    "fleet": "fleet_of_tokens",
    "rest": "bench_rest",
    "telemetry": "bench_telemetry",
}
# Less to do, for a run that shall only show that all works.
QUICK = {
    "walk": ["--pages", "20"],
    "import": ["--rounds", "3"],
    "stream": ["--size", "20"],
    "pull": ["--accounts", "50"],
    "landing": ["--rows", "6400"],
    "growth": ["--accounts", "100,1000"],
    "pacing": ["--no-socket"],
    "fleet": ["--accounts", "50000", "--tokens", "10"],
    "rest": ["--items", "20000"],
    "telemetry": ["--pages", "20"],
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(MODULES), help=f"of {', '.join(MODULES)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="a round of each, of less: to see that all works"
    )
    parser.add_argument("--gc", choices=("on", "off", "both"), default="on", help="garbage collector")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures there too")
    parser.add_argument(
        "--keep", action=argparse.BooleanOptionalAction, help="in results/ (default: unless --quick)"
    )
    return parser


def main() -> None:
    options = parser().parse_args()
    about = _harness.about()
    found: list[_turns.Record] = []
    goals: list[_turns.Goal] = []
    failed: list[str] = []
    begun = perf_counter()
    for name in options.only.split(","):
        module = importlib.import_module(f"benchmarks.{MODULES[name]}")
        started = perf_counter()
        worked = _harness.cpu_seconds(resource.RUSAGE_CHILDREN) + _harness.cpu_seconds()
        try:
            found += module.run(chosen(module, name, options))
            goals += module.GOALS
        except (Exception, SystemExit):  # noqa: BLE001  # the others have answers all the same
            traceback.print_exc()
            failed.append(name)
        used = _harness.cpu_seconds(resource.RUSAGE_CHILDREN) + _harness.cpu_seconds() - worked
        _turns.say(f"{name} took {perf_counter() - started:.0f} s, {used:.0f} s of the processor\n")
    about["minutes"] = round((perf_counter() - begun) / 60, 1)
    _turns.report(found, goals, about, options.json)
    if not options.quick if options.keep is None else options.keep:
        tables.keep(found, goals, about)
        tables.update()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def chosen(module: Any, name: str, options: argparse.Namespace) -> argparse.Namespace:
    """Return the options of a benchmark for this run."""
    given = argparse.ArgumentParser()
    module.add_options(given)
    arguments = QUICK.get(name, []) if options.quick else []
    if options.quick and "--rounds" not in arguments and hasattr(given.parse_args([]), "rounds"):
        arguments = [*arguments, "--rounds", "1"]
    made = given.parse_args(arguments)
    made.contenders, made.gc = "", options.gc
    return made


if __name__ == "__main__":
    main()

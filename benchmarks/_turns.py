"""Contenders that take turns, each in a process of its own, and the table of what came out.

A busy machine is then busy for all of them, and what is compared is what was measured within the same second: a
ratio is the median of the ratios of the turns.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks import _harness

OURS = "ours"

# Turns a process has before another one takes its place. What its heap came to look like weighs as much as the code
# that is compared, and stays as it is for the life of a process: glibc maps the 256 kB into which asyncio reads anew
# each time (21 page faults for a page of 100 items), or does not.
TURNS_OF_A_PROCESS = 3


class Turn(NamedTuple):
    seconds: float
    cpu: float  # seconds of this process


class Measured(NamedTuple):
    """What one contender took in its turns."""

    turns: list[Turn]
    peak: int  # bytes above what it had before its first turn, with everything imported

    def and_then(self, other: Measured) -> Measured:
        return Measured(self.turns + other.turns, max(self.peak, other.peak))

    def typical(self, what: str) -> float:
        return _harness.median([getattr(turn, what) for turn in self.turns])

    def ratio(self, other: Measured, what: str) -> float:
        """How many times what ``other`` took this one took."""
        pairs = zip(self.turns, other.turns, strict=True)
        return _harness.median([getattr(mine, what) / max(getattr(its, what), 1e-9) for mine, its in pairs])


def serve_turns(work: Callable[[], object], *, collect: bool, pinned: bool = True) -> None:
    """Be a contender: do the work once to get warm, then each time a line comes in, and print what it took.

    ``pinned`` keeps it to a core, which would be no fair test of work that is meant to use more than one.
    """
    if pinned:
        _harness.keep_to(0)
    if not collect:
        gc.disable()
    memory = _harness.Memory()
    work()
    print("ready", flush=True)
    for _ in sys.stdin:
        gc.collect()
        cpu, start = _harness.cpu_seconds(), perf_counter()
        work()
        turn = Turn(perf_counter() - start, _harness.cpu_seconds() - cpu)
        print(json.dumps([*turn, memory.growth()]), flush=True)


class _Contender:
    """The other end of ``serve_turns``."""

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_harness.ROOT,
            env=os.environ | dict(environment),
        )
        self.measured = Measured([], 0)
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with {self._process.wait()}")
        return line

    def turn(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, cpu, peak = json.loads(self._read())
        self.measured = self.measured.and_then(Measured([Turn(seconds, cpu)], peak))

    def end(self) -> None:
        self._process.communicate()


def take_turns(
    module: str,
    contenders: Sequence[str],
    arguments: Sequence[str],
    *,
    rounds: int,
    environment: Mapping[str, str] = {},
) -> dict[str, Measured]:
    """Run ``python -m module --here CONTENDER arguments`` for each, and let them take turns."""
    measured = {name: Measured([], 0) for name in contenders}
    for first in range(0, rounds, TURNS_OF_A_PROCESS):
        running: dict[str, _Contender] = {}
        try:
            for name in contenders:
                running[name] = _Contender(module, ["--here", name, *arguments], environment)
            for number in range(first, min(first + TURNS_OF_A_PROCESS, rounds)):
                order = list(running.values())
                for contender in order if number % 2 else reversed(order):
                    contender.turn()
        finally:
            for contender in running.values():
                contender.end()
        measured = {name: measured[name].and_then(running[name].measured) for name in contenders}
    return measured


def installed(contenders: Mapping[str, str], only: str = "") -> list[str]:
    """Those of ``contenders`` (name: the modules it needs) that can run here; a word about the others."""
    found: list[str] = []
    for name, modules in contenders.items():
        if only and name not in only.split(";"):
            continue
        missing = [module for module in modules.split() if importlib.util.find_spec(module) is None]
        if missing:
            say(f"  {name} is left out: {', '.join(missing)} not installed")
        else:
            found.append(name)
    return found


def say(text: str) -> None:
    """Tell how far it is, beside the figures."""
    print(text, file=sys.stderr, flush=True)


Record = dict[str, Any]


def records(question: str, collect: bool, measured: Mapping[str, Measured], *, per: int = 1) -> list[Record]:
    """Figures of each contender, and how ours compares: ``speed`` above 1 is quicker, ``cpu`` below 1 is less.

    Times are of one of ``per`` parts of a turn.
    """
    ours = measured.get(OURS)
    made: list[Record] = []
    for name, each in measured.items():
        record: Record = {
            "question": question,
            "contender": name,
            "gc": "on" if collect else "off",
            "ms": round(each.typical("seconds") / per * 1e3, 3),
            "cpu_ms": round(each.typical("cpu") / per * 1e3, 3),
            "peak_mb": round(each.peak / 1e6, 1),
        }
        if ours is not None and each is not ours:
            record |= {"speed": each.ratio(ours, "seconds"), "cpu": ours.ratio(each, "cpu")}
        made.append(record)
    return made


class Goal(NamedTuple):
    question: str
    against: str
    what: str  # the key of a record
    least: float = 0.0
    most: float = float("inf")

    def __str__(self) -> str:
        return f">= {self.least:.3g}" if self.least else f"<= {self.most:.3g}"


# What a record may compare, and the key of the figures that are compared.
COMPARED = {"speed": "ms", "cpu": "cpu_ms", "memory": "peak_mb", "rate": "", "429s": ""}


def table(found: Sequence[Record], goals: Sequence[Goal]) -> str:
    """One line for each ratio: ours, the contender's, the ratio with the garbage collector on and off, and the goal."""
    ours = {(each["question"], each["gc"]): each for each in found if each["contender"] == OURS}
    rows: dict[tuple[str, str, str], list[str]] = {}
    wanted = {(goal.question, goal.against, goal.what): goal for goal in goals}
    for record in found:
        for what, figure in COMPARED.items():
            if what not in record:
                continue
            key = record["question"], record["contender"], what
            mine = ours.get((record["question"], record["gc"]), {})
            row = rows.setdefault(key, ["", "", "", "", "", ""])
            if record["gc"] == "off":
                row[3] = f"{record[what]:.2f}"
                continue
            row[:3] = [_figure(mine.get(figure)), _figure(record.get(figure)), f"{record[what]:.3g}"]
            if (goal := wanted.get(key)) is not None:
                row[4] = str(goal)
                row[5] = "met" if goal.least <= record[what] <= goal.most else "NOT MET"
    header = ("question", "against", "", "ours", "its", "ratio", "gc off", "asked", "")
    widths = (34, 24, 7, 9, 9, 7, 7, 8, 7)
    lines = [header, *((*key, *row) for key, row in rows.items())]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if value < 1e3 else f"{value:,.0f}"


def plain_figures(found: Sequence[Record]) -> str:
    lines = [f"{'question':<24}{'contender':<26}{'gc':<5}{'ms':>11}{'CPU ms':>11}{'peak MB':>9}"]
    for each in found:
        name = f"{each['question']:<24}{each['contender']:<26}{each['gc']:<5}"
        lines.append(
            f"{name}{each.get('ms', ''):>11}{each.get('cpu_ms', ''):>11}{each.get('peak_mb', ''):>9}"
        )
    return "\n".join(lines)


def report(found: Sequence[Record], goals: Sequence[Goal], path: str) -> None:
    about = _harness.about()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"\n{plain_figures(found)}\n\n{table(found, goals)}")
    if path:
        Path(path).write_text(
            json.dumps({"about": about, "records": found}, indent=1) + "\n", encoding="utf-8"
        )


def main(
    about: str | None,
    options: Callable[[argparse.ArgumentParser], object],
    run: Callable[[argparse.Namespace], list[Record]],
    goals: Sequence[Goal],
    here: Callable[[argparse.Namespace], object],
) -> None:
    """The command line of one module."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser)
    parser.add_argument("--contenders", default="", help="semicolon-separated (default: all)")
    parser.add_argument("--gc", choices=("both", "on", "off"), default="both", help="garbage collector")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures there too")
    parser.add_argument("--here", default="", help=argparse.SUPPRESS)  # be this contender
    given = parser.parse_args()
    if given.here:
        here(given)
    else:
        report(run(given), goals, given.json)


def collecting(options: argparse.Namespace) -> list[bool]:
    """With the garbage collector on, off, or one after the other."""
    return {"both": [True, False], "on": [True], "off": [False]}[options.gc]

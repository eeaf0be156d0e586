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

    def more(self, other: Measured, what: str) -> float:
        """What this one took on top of what ``other`` took."""
        pairs = zip(self.turns, other.turns, strict=True)
        return _harness.median([getattr(mine, what) - getattr(its, what) for mine, its in pairs])


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

    ``more_us`` is CPU in microseconds that ours takes on top. Times are of one of ``per`` parts of a turn.
    """
    question += "" if collect else ", no garbage collector"
    ours = measured.get(OURS)
    made: list[Record] = []
    for name, each in measured.items():
        record: Record = {
            "question": question,
            "contender": name,
            "ms": round(each.typical("seconds") / per * 1e3, 3),
            "cpu_ms": round(each.typical("cpu") / per * 1e3, 3),
            "peak_mb": round(each.peak / 1e6, 1),
        }
        if ours is not None and each is not ours:
            record |= {"speed": each.ratio(ours, "seconds"), "cpu": ours.ratio(each, "cpu")}
            record |= {"memory": ours.peak / each.peak} if min(ours.peak, each.peak) > 0 else {}
            record["more_us"] = ours.more(each, "cpu") / per * 1e6
        made.append(record)
    return made


class Goal(NamedTuple):
    question: str
    against: str
    what: str  # the key of a record
    least: float = 0.0
    most: float = float("inf")

    def __str__(self) -> str:
        return f">= {self.least:.3g}" if self.most == float("inf") else f"<= {self.most:.3g}"


# What a record may compare: the figures that are compared, their unit, and whether it is shown without a goal too.
COMPARED = {
    "speed": ("ms", "ms", True),
    "cpu": ("cpu_ms", "CPU ms", True),
    "more_us": ("cpu_ms", "CPU ms", False),
    "memory": ("peak_mb", "MB", False),
    "bytes": ("item_bytes", "bytes", True),
    "growth": ("us", "us", True),
    "resident": ("peak_mb", "MB", True),
    "calls": ("count", "calls", True),
    "rate": ("", "", True),
    "429s": ("", "", True),
}


class Row(NamedTuple):
    """A line of the table."""

    question: str
    against: str
    what: str
    ours: str
    its: str
    ratio: str
    asked: str
    verdict: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.question, self.against, self.what


HEADER = Row("question", "against", "", "ours", "its", "ratio", "asked", "")


def rows(found: Sequence[Record], goals: Sequence[Goal]) -> list[Row]:
    """One for each ratio: ours, the contender's, the ratio, and what is asked of it."""
    ours = {each["question"]: each for each in found if each["contender"] == OURS}
    wanted = {(goal.question, goal.against, goal.what): goal for goal in goals}
    made: list[Row] = []
    for record in found:
        for what, (figure, unit, always) in COMPARED.items():
            key = record["question"], record["contender"], what
            goal = wanted.get(key)
            if what not in record or not (goal or always):
                continue
            mine = ours.get(record["question"], {}).get(figure)
            ratio = f"{record[what]:.3g}" if abs(record[what]) < 1e3 else f"{record[what]:,.0f}"
            asked = str(goal) if goal else ""
            verdict = ("met" if goal.least <= record[what] <= goal.most else "NOT MET") if goal else ""
            made.append(
                Row(*key, _figure(mine, unit), _figure(record.get(figure), unit), ratio, asked, verdict)
            )
    return made


def table(made: Sequence[Row]) -> str:
    lines = [HEADER, *made]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _figure(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:,.4g} {unit}" if value < 1e3 else f"{value:,.0f} {unit}"


def report(found: Sequence[Record], goals: Sequence[Goal], about: Mapping[str, Any], path: str) -> None:
    """Print the table, and the machine; write all figures to ``path``, if there is one."""
    print(f"{heading(about)}\n\n{table(rows(found, goals))}")
    if path:
        Path(path).write_text(
            json.dumps({"about": about, "records": found}, indent=1) + "\n", encoding="utf-8"
        )


def heading(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {each}" for name, each in about.items())


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
    parser.add_argument("--gc", choices=("on", "off", "both"), default="on", help="garbage collector")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures there too")
    parser.add_argument("--here", default="", help=argparse.SUPPRESS)  # be this contender
    given = parser.parse_args()
    if given.here:
        here(given)
    else:
        about = _harness.about()
        report(run(given), goals, about, given.json)


def collecting(options: argparse.Namespace) -> list[bool]:
    """With the garbage collector on, off, or one after the other."""
    return {"both": [True, False], "on": [True], "off": [False]}[options.gc]

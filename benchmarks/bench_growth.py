"""What does a pull of many accounts over many windows take, and does it take more the more is done already?

    plan     make the plan
    pull     pull from the start into NDJSON with a checkpoint, until each account had a turn, then kill the process
    resume   go on in a new process: until the first request, and for as many pages as there are accounts
    late     go on from a state in which nine of ten windows are finished

Most windows are empty. The service is a stub that responds at once, so what is measured is the pull itself. Each of
these is a process of its own. ``step`` is the longest time the event loop's thread worked without a turn for others,
``peak`` the resident memory of the whole process, ``commit`` the median of the first thirty and of the last commits.

    python -m benchmarks.bench_growth --accounts 1000,10000,100000 --windows 365
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import _harness, _turns
from benchmarks._turns import Goal, Record
from truto_ci_async._http.call import CallTime
from truto_ci_async._http.policy.retry import RetryPolicy
from truto_ci_async.events import Emitter
from truto_ci_async.models import ResponseInfo
from truto_ci_async.pull.checkpoint.finished import Run, encode
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.plan.resolve import resolve
from truto_ci_async.pull.report import Budget
from truto_ci_async.pull.shard import run_shard
from truto_ci_async.sinks.lines import NdjsonSink

PHASES = ("plan", "pull", "resume", "late")
NOW = datetime(2024, 12, 31, tzinfo=UTC)
SEED = 7
# One page in so many has rows, and one in so many of those is followed by another page.
WITH_ROWS, GOES_ON = 30, 4
NAMED_COMMITS = 30
# No account is without a turn after so many pages of each.
TURN_PAGES = 17

EMPTY = b'{"result": [], "next_cursor": null}'
ROWS = b", ".join(b'{"id": "i%d", "user": {"id": "u1"}, "longest_monologue": 12.5}' % n for n in range(20))


class Stub:
    """What a pull needs of a client, and a service that responds at once."""

    def __init__(self, on_page: Callable[[], None]) -> None:
        self.retry = RetryPolicy()
        self.emitter = Emitter()
        self._on_page = on_page
        self._draw = random.Random(SEED).random

    def with_options(self, **options: Any) -> Stub:
        return self

    async def request(
        self, method: str, target: str, *, read: Callable[[bytes, CallTime], Awaitable[Any]], **options: Any
    ) -> tuple[Any, ResponseInfo]:
        self._on_page()
        await asyncio.sleep(0)
        body = EMPTY
        if self._draw() < 1 / WITH_ROWS:
            cursor = b'"c"' if "next_cursor=" not in target and self._draw() < 1 / GOES_ON else b"null"
            body = b'{"result": [%b], "next_cursor": %b}' % (ROWS, cursor)
        return await read(body, CallTime(None)), ResponseInfo(status=200, attempts=1)


class Watch:
    """The longest time the loop's thread worked between two turns."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0.005)  # what came last is noted too
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.0005)
            self.longest = max(self.longest, time.thread_time() - before)


class TimedCheckpoint(SQLiteCheckpoint):
    """Takes the time of each commit, as the pull waits for it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.first: list[float] = []
        self.last: deque[float] = deque(maxlen=NAMED_COMMITS)

    async def commit(self, *changes: Any, **others: Any) -> None:
        started = time.perf_counter()
        await super().commit(*changes, **others)
        seconds = time.perf_counter() - started
        self.last.append(seconds)
        if len(self.first) < NAMED_COMMITS:
            self.first.append(seconds)


async def make_plan(options: argparse.Namespace) -> Plan:
    names = [f"account-{number:07d}" for number in range(int(options.accounts))]
    start = f"-{options.windows}d"
    return await resolve(None, names, start_time=start, window="day", now=NOW)


async def plan_phase(options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    async with Watch() as watch:
        plan = await make_plan(options)
    return figures(watch, time.perf_counter() - started) | {"units": len(plan)}


async def pull_phase(options: argparse.Namespace) -> None:
    """Pull until so many pages came, print the figures, and die at once."""
    path = Path(options.folder, "state.sqlite3")
    checkpoint = TimedCheckpoint(path)
    plan = await make_plan(options)
    before = _harness.resident()
    pages, started, first_at = 0, time.perf_counter(), 0.0

    def on_page() -> None:
        nonlocal pages, first_at
        first_at = first_at or time.perf_counter()
        pages += 1
        if pages == options.pages:
            report()

    def report() -> None:
        seconds = time.perf_counter() - first_at
        found = figures(watch, seconds) | {
            "pages": pages,
            "us_a_page": round(seconds / max(pages, 1) * 1e6, 1),
            "start_s": round((first_at or time.perf_counter()) - started, 3),
            "commit_ms": [ms(checkpoint.first), ms(list(checkpoint.last))],
            "state_mb": round(sum(each.stat().st_size for each in path.parent.glob("state.*")) / 1e6, 1),
            "before_mb": round(before / 1e6, 1),
        }
        print(json.dumps(found), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    client: Any = Stub(on_page)
    async with Watch() as watch:
        sink = NdjsonSink(path.parent)
        await run_shard(client, plan, checkpoint, sink, Budget(max_accounts=options.concurrency))
    report()


async def late_phase(options: argparse.Namespace) -> None:
    """Store that nine of ten windows of each account are finished, without pulling them, and go on."""
    plan = await make_plan(options)
    path = Path(options.folder, "state.sqlite3")
    async with SQLiteCheckpoint(path) as checkpoint:
        await checkpoint.open(plan)
    done = options.windows * 9 // 10
    with_rows = done // WITH_ROWS
    runs = [Run(done // (with_rows + 1), 0, 1, True), Run(1, 20, 1, False)] * with_rows
    runs.append(Run(done - sum(run.windows for run in runs), 0, 1, True))
    database = sqlite3.connect(path)
    row = (0, done, 20 * with_rows, encode(runs))
    accounts = ((account.id, *row) for account in plan.accounts)
    database.executemany("INSERT INTO finished VALUES (?, ?, ?, ?, ?)", accounts)
    database.commit()
    database.close()
    del plan
    await pull_phase(options)


def ms(seconds: list[float]) -> float:
    return round(_harness.median(seconds) * 1e3, 2) if seconds else 0.0


def figures(watch: Watch, seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "peak_mb": round(_harness.peak_resident() / 1e6, 1),
        "step_ms": round(watch.longest * 1e3, 1),
    }


def here(options: argparse.Namespace) -> None:
    """Be one phase, and print its figures."""
    if options.phase == "plan":
        print(json.dumps(asyncio.run(plan_phase(options))), flush=True)
    else:
        asyncio.run(late_phase(options) if options.phase == "late" else pull_phase(options))


def measure(phase: str, folder: str, accounts: int, options: argparse.Namespace) -> dict[str, Any]:
    turns = min(TURN_PAGES, max(options.windows // 4, 1)) if phase == "pull" else 1
    pages = options.pages or accounts * turns
    command = [sys.executable, "-m", "benchmarks.bench_growth", "--here", "ours", "--phase", phase]
    command += ["--folder", folder, "--accounts", str(accounts), "--windows", str(options.windows)]
    command += ["--pages", str(pages), "--concurrency", str(options.concurrency)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=_harness.ROOT, check=False)
    if not ran.stdout:
        raise RuntimeError(f"{phase} of {accounts} accounts ended with {ran.returncode}")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


GOALS = [
    Goal(f"growth, {phase}, {count} accounts", "1,000 accounts", "growth", most=1.1)
    for phase in ("plan, an account", "pull, a page", "resume, a page", "late, a page")
    for count in ("10,000", "100,000")
]


def records(accounts: int, found: Mapping[int, Mapping[str, Any]]) -> list[Record]:
    """Compare what one account, or one page, takes with what it takes for the first number of accounts."""
    first = next(iter(found))
    made: list[Record] = []
    for phase, mine in found[accounts].items():
        its = found[first][phase]
        named = (
            {"plan, an account": ("seconds", True)}
            if phase == "plan"
            else {f"{phase}, a page": ("us_a_page", False)}
        )
        if phase in ("resume", "late"):
            named[f"{phase}, first request, an account"] = ("start_s", True)
        for name, (figure, of_all) in named.items():
            us = [
                each[figure] / count * 1e6 if of_all else each[figure]
                for each, count in ((mine, accounts), (its, first))
            ]
            question = f"growth, {name}, {accounts:,} accounts"
            peaks = [mine["peak_mb"], its["peak_mb"]]
            ours, before = (
                {"question": question, "us": at, "peak_mb": peak} for at, peak in zip(us, peaks, strict=True)
            )
            compared = {"growth": us[0] / us[1], "resident": peaks[0] / peaks[1]}
            made += [ours | {"contender": _turns.OURS, **mine}]
            made += [before | {"contender": f"{first:,} accounts", **compared}] if accounts != first else []
    return made


def run(options: argparse.Namespace) -> list[Record]:
    found: dict[int, dict[str, Any]] = {}
    for accounts in map(int, options.accounts.split(",")):
        found[accounts] = {}
        _turns.say(f"growth, {accounts:,} accounts x {options.windows} windows")
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            for phase in options.phases.split(","):
                folder = second if phase == "late" else first
                measured = found[accounts][phase] = measure(phase, folder, accounts, options)
                _turns.say(f"  {phase:<8}" + ", ".join(f"{name} {each}" for name, each in measured.items()))
    return [record for accounts in found for record in records(accounts, found)]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accounts", default="1000,10000,100000", help="comma-separated (default 1000,10000,100000)"
    )
    parser.add_argument("--windows", type=int, default=7, help="of each account (default 7)")
    parser.add_argument("--pages", type=int, default=0, help="of each run")
    parser.add_argument("--concurrency", type=int, default=32, help="accounts asked at once (default 32)")
    parser.add_argument("--phases", default=",".join(PHASES), help="comma-separated (default: all)")
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--phase", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

"""A million accounts over 200 tokens, on a virtual clock: `python -m benchmarks.fleet_of_tokens`.

Plans, shards, budgets and reports are those of the package. Requests take a virtual time and no work. Each token has
four tasks, each of which asks for one page after another of eight accounts at once; workers are killed now and then,
and so is the budget. Tells how long that takes against what the limits allow, and the memory that it needs.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sqlite3
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

from benchmarks import _turns
from benchmarks._turns import Goal, Record
from truto_ci_async import MemoryBudget, Pacing, Plan, PlannedAccount, ShardReports, Window
from truto_ci_async.pull.checkpoint.sqlite import SCHEMA

GOALS: list[Goal] = []
SECONDS_OF_A_REQUEST = 0.3
AT_ONCE = 8  # accounts of a task
ASK_AGAIN = 0.05


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def play(accounts: int, pages: int, shards: int, kills: int, chance: random.Random) -> tuple[float, int]:
    """Pull the accounts of one token; return the virtual seconds and the requests."""
    clock = Clock()
    budget = MemoryBudget(Pacing(), clock=clock)
    left = [[(number, pages) for number in range(shard, accounts, shards)] for shard in range(shards)]
    # (time, number, shard, account, pages left): when a request can be asked for
    events: list[tuple[float, int, int, int, int]] = []
    count = requests = 0

    def push(at: float, shard: int, account: int, pages_left: int) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (at, count, shard, account, pages_left))

    for shard, queue in enumerate(left):
        for account, pages_left in queue[:AT_ONCE]:
            push(0.0, shard, account, pages_left)
        del queue[:AT_ONCE]
    kill_at = sorted(chance.uniform(0, accounts * pages / 50) for _ in range(kills))
    end = 0.0
    while events:
        clock.now, _, shard, account, pages_left = heapq.heappop(events)
        if kill_at and clock.now >= kill_at[0]:
            kill_at.pop(0)
            budget = MemoryBudget(Pacing(), clock=clock)  # the budget forgets
            requests += AT_ONCE  # a worker repeats what was in flight
        grant = budget.take_now(1, f"{account}")
        if not grant.count:
            push(clock.now + max(grant.retry_after, ASK_AGAIN), shard, account, pages_left)
            continue
        requests += 1
        end = max(end, clock.now + SECONDS_OF_A_REQUEST)
        if pages_left > 1:
            push(clock.now + SECONDS_OF_A_REQUEST, shard, account, pages_left - 1)
        elif left[shard]:
            push(clock.now + SECONDS_OF_A_REQUEST, shard, *left[shard].pop(0))
    return end, requests


def measure(job: Any) -> tuple[Any, float, float]:
    """Return what a job returns, its seconds and the megabytes that it keeps."""
    tracemalloc.start()
    begun = time.perf_counter()
    made = job()
    seconds = time.perf_counter() - begun
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return made, seconds, kept / 1e6


def state_bytes(accounts: int) -> int:
    """Return the size of a checkpoint in which all of these accounts are done."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        with sqlite3.connect(path) as database:
            for statement in SCHEMA:
                database.execute(statement)
            rows = (
                (f"account-{number:032d}", 0, None, 100, 1, "done", None, None, 0)
                for number in range(accounts)
            )
            database.executemany("INSERT INTO progress VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        database.close()
        return path.stat().st_size


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--shards", type=int, default=4, help="of each token")
    parser.add_argument("--pages", type=int, default=1, help="of each account")
    parser.add_argument("--kills", type=int, default=1, help="of workers and budgets, for each token")
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)


def run(given: argparse.Namespace) -> list[Record]:
    each = given.accounts // given.tokens
    chance = random.Random(1)

    times, requests = [], 0
    for _ in range(given.tokens):
        seconds, sent = play(each, given.pages, given.shards, given.kills, chance)
        times.append(seconds)
        requests += sent
    least = each * given.pages / 50
    needed = each * given.pages * given.tokens
    _turns.say(f"{given.accounts:,} accounts, {given.tokens} tokens, {given.shards * given.tokens} shards")
    _turns.say(
        f"time: {max(times):.1f} s, the limits allow {least:.1f} s ({least / max(times):.1%} of the rate)"
    )
    _turns.say(f"requests: {requests:,}, {(requests - needed) / needed:.2%} extra")

    windows = (Window("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"),)

    def plans() -> list[Plan]:
        return [
            Plan(
                accounts=tuple(PlannedAccount(f"{token:04d}-{number:032d}") for number in range(each)),
                windows=windows,
            )
            for token in range(given.tokens)
        ]

    made, seconds, kept = measure(plans)
    _turns.say(f"driver, plans: {kept:.0f} MB in {seconds:.1f} s")
    parts, seconds, kept = measure(lambda: [part for plan in made for part in plan.shards(given.shards)])
    size = sum(len(part.to_json()) for part in parts)
    _turns.say(
        f"driver, shards: {kept:.0f} MB in {seconds:.1f} s; the object store: {size / 1e6:.0f} MB as JSON"
    )

    def reports(failed: int) -> ShardReports:
        found = ShardReports(len(parts))
        for number, part in enumerate(parts):
            report = {"complete": True, "rows": 1, "failed": {}}
            for account in part.accounts[:failed]:
                report["failed"][account.id] = {
                    "error": "ServerError",
                    "message": f"{account.id} " + "x" * 150,
                }
            found.by_shard[number] = json.loads(json.dumps(report))
        return found

    for failed, what in (
        (0, "all went well"),
        (100, "100 failures of each shard"),
        (10**9, "all failed"),
    ):
        _, _, kept = measure(lambda failed=failed: reports(failed))
        _turns.say(f"driver, reports, {what}: {kept:.0f} MB")
    state = state_bytes(each // given.shards)
    _turns.say(f"state: {state / 1e6:.1f} MB a shard, {state * len(parts) / 1e6:.0f} MB in all")
    question = f"{given.accounts:,} accounts, {given.tokens} tokens, virtual clock"
    extra = (requests - needed) / needed
    return [
        {
            "question": question,
            "contender": "the permitted rate",
            "rate": least / max(times),
            "extra_requests": extra,
        }
    ]


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, lambda _: None)

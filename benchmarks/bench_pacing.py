"""How much of the permitted rate pacing uses, and how many 429s it meets: ``python -m benchmarks.bench_pacing``.

On the virtual clock, so the figures do not depend on the machine, and over loopback: the sandbox with
both of Truto's limits on, in a process of its own, and 5 to 50 ms of jitter before each request.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from time import monotonic

from benchmarks import _turns
from benchmarks._turns import Goal, Record
from tests.virtual import SimClient, StrictService, clock, run_virtual
from truto_ci_async import RetryPolicy, TrutoClient

Latency = Callable[[str], tuple[float, float]]

RATE = "the permitted rate"


def uneven(seed: int) -> Latency:
    rng = random.Random(seed)
    return lambda account: (rng.uniform(0.02, 0.08), rng.uniform(0.05, 0.3))


def jitter(seed: int) -> Latency:
    rng = random.Random(seed)
    return lambda account: (rng.uniform(0.0025, 0.025), rng.uniform(0.0025, 0.025))


def one_process(latency: Latency, pages: int = 10) -> tuple[float, float]:
    """Walk 1,000 accounts; the ideal is 500 requests at once, and 500 every ten seconds."""

    async def main() -> tuple[float, float]:
        service = StrictService(latency=latency)
        client = SimClient(service)
        await client.walk_all([f"a{number}" for number in range(1000)], pages)
        ideal = (pages * 1000 / 500 - 1) * 10
        return ideal / clock(), service.count(429) / len(service.arrivals)

    return run_virtual(main)


def processes(number: int, pages: int) -> tuple[float, float]:
    """Let processes of 32 accounts each share a token; 429s are counted after the first window."""

    async def main() -> tuple[float, float]:
        service = StrictService(latency=uneven(1))
        async with asyncio.TaskGroup() as group:
            for seed in range(number):
                client = SimClient(service, seed=seed, policy=RetryPolicy(attempts=10))
                group.create_task(client.walk_all([f"p{seed}a{n}" for n in range(32)], pages))
        return service.count(200) / clock() / 50, service.count(429, since=10.0) / service.count(since=10.0)

    return run_virtual(main)


SANDBOX = """
import sys
from truto_ci_async import Sandbox
with Sandbox.in_thread(accounts=60, interactions=2) as sandbox:
    print(sandbox.url, sandbox.token, *sandbox.account_ids, flush=True)
    sys.stdin.read()
    print(sandbox.stats.rate_limited / sandbox.stats.requests)
"""


async def over_a_socket(url: str, token: str, accounts: list[str], requests: int) -> float:
    """Ask as fast as pacing allows until there are so many responses; return the share of the rate."""
    rng = random.Random(1)
    left = requests

    async def ask(truto: TrutoClient, account: str) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await asyncio.sleep(rng.uniform(0.005, 0.05))
            await truto.interactions.list(account, start_time="-7d", end_time="now", limit=1)

    async with TrutoClient(token, base_url=url, retry=RetryPolicy(attempts=10)) as truto:
        start = monotonic()
        async with asyncio.TaskGroup() as group:
            for account in accounts:
                group.create_task(ask(truto, account))
        return (requests / 500 - 1) * 10 / (monotonic() - start)


def socket(requests: int) -> tuple[float, float]:
    command = [sys.executable, "-c", SANDBOX]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url, token, *accounts = server.stdout.readline().split()
        try:
            rate = asyncio.run(over_a_socket(url, token, accounts, requests))
        finally:
            server.stdin.close()
        return rate, float(server.stdout.readline())


GOALS = [
    *(
        Goal(f"pacing, one process, {took}", RATE, "rate", least=0.98)
        for took in ("70 to 380 ms", "5 to 50 ms")
    ),
    *(Goal(f"pacing, one process, {took}", RATE, "429s", most=0) for took in ("70 to 380 ms", "5 to 50 ms")),
    *(Goal(f"pacing, {number} processes", RATE, "rate", least=0.85) for number in (2, 3, 4)),
    *(Goal(f"pacing, {number} processes", RATE, "429s", most=0.01) for number in (2, 3, 4)),
    Goal("pacing over loopback, jitter", RATE, "rate", least=0.97),
    Goal("pacing over loopback, jitter", RATE, "429s", most=0.005),
]


def run(options: argparse.Namespace) -> list[Record]:
    """Run all cases, those on the virtual clock once: they are the same each time."""
    _turns.say("pacing")
    rows = [
        ("pacing, one process, 70 to 380 ms", one_process(uneven(1))),
        ("pacing, one process, 5 to 50 ms", one_process(jitter(1))),
        *((f"pacing, {each} processes", processes(each, 800 // each)) for each in (2, 3, 4)),
    ]
    if options.socket:
        rows.append(("pacing over loopback, jitter", socket(options.requests)))
    return [
        {"question": question, "contender": RATE, "rate": rate, "429s": refused}
        for question, (rate, refused) in rows
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", action=argparse.BooleanOptionalAction, default=True, help="over loopback as well"
    )
    parser.add_argument("--requests", type=int, default=3000, help="over loopback (default 3000)")
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, lambda _: None)

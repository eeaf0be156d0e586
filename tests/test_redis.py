"""The budget in Redis, on a real server: both limits, several processes, restarts and evictions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import redis as redis_py

from tests.redis_server import RedisServer
from tests.support import run
from tests.virtual import busiest_window
from truto_ci_async import ConfigurationError, Pacing, Rate, Sandbox, SharedBudget, TrutoClient
from truto_ci_async.integrations.redis import FIRST_BURST, SPARE_SECONDS, RedisBudget

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A budget of its own for each test."""
    return request.node.name


async def drain(budget: RedisBudget, account: str | None = None, most: int = 10_000) -> int:
    """Take until nothing is left; return how much that was."""
    taken = 0
    while taken < most:
        grant = await budget.take(min(10, most - taken), account)
        if not grant.count:
            break
        taken += grant.count
    return taken


async def settled(budget: RedisBudget, window: float = 0.5) -> None:
    """Wait until a new budget no longer assumes that something was sent before it."""
    await budget.take(1, None)
    await asyncio.sleep(2 * (window + SPARE_SECONDS))


def test_both_limits_hold_in_every_window(server: RedisServer, name: str) -> None:
    """Three clients take as much as they get, for one account that all share and for others."""

    async def main() -> None:
        budgets = [
            RedisBudget(server.url, name=name, token=Rate(40, 0.4), account=Rate(10, 0.4)) for _ in range(3)
        ]
        taken: list[tuple[float, str | None]] = []
        end = time.monotonic() + 2.5

        async def take(budget: RedisBudget, account: str | None) -> None:
            while time.monotonic() < end:
                called = time.monotonic()
                grant = await budget.take(3, account)
                taken.extend([(called, account)] * grant.count)
                await asyncio.sleep(0 if grant.count else min(grant.retry_after, 0.01))

        async with asyncio.TaskGroup() as group:
            for number, budget in enumerate(budgets):
                for account in ("shared", f"own {number} of 3", None):
                    group.create_task(take(budget, account))
        taken.sort(key=lambda each: each[0])
        assert len(taken) >= 80
        assert busiest_window([at for at, _ in taken], 0.4) <= 40
        assert busiest_window([at for at, account in taken if account == "shared"], 0.4) <= 10
        for budget in budgets:
            await budget.aclose()

    run(main())


def test_a_refusal_names_the_limit_and_the_time(server: RedisServer, name: str) -> None:
    async def main() -> None:
        async with RedisBudget(server.url, name=name, token=Rate(12, 0.5), account=Rate(4, 0.5)) as budget:
            assert isinstance(budget, SharedBudget)
            await settled(budget)
            assert (await budget.take(10, "a")).count == 4
            refused = await budget.take(1, "a")
            assert (refused.count, refused.level) == (0, "account")
            assert 0.6 <= refused.retry_after <= 0.5 + SPARE_SECONDS
            assert (await budget.take(10, "b: c}")).count == 4
            assert (await budget.take(10, None)).count == 4
            refused = await budget.take(1, "d")
            assert (refused.count, refused.level) == (0, "token")
            await asyncio.sleep(refused.retry_after + 0.05)
            assert (await budget.take(1, "a")).count == 1

    run(main())


def test_what_was_granted_to_a_killed_process_is_free_one_window_later(
    server: RedisServer, name: str
) -> None:
    """It is all that the budget stores: idle, it holds no more than its own few numbers."""

    async def main() -> None:
        async with RedisBudget(server.url, name=name, token=Rate(20, 0.5), account=Rate(20, 0.5)) as budget:
            await settled(budget)
            assert await drain(budget) == 20
            await asyncio.sleep(0.6 + SPARE_SECONDS)
            assert await drain(budget, "x", most=20) == 20
            await asyncio.sleep(0.6 + SPARE_SECONDS)
            assert (await budget.take(1, "x")).count == 1
        with redis_py.Redis.from_url(server.url) as plain:
            key = f"truto-ci:{{{name}}}"
            assert plain.keys(f"*{name}*") == [key.encode()]
            assert plain.hlen(key) == 8 + 2  # eight numbers, one grant and one account
            assert 86_000 < plain.ttl(key) <= 86_400

    run(main())


def test_a_budget_that_lost_its_memory_saves_nothing_up(server: RedisServer, name: str) -> None:
    """Clients go on without it while it is away, so what nobody asks for in that time was used all the same."""

    async def main() -> None:
        async with RedisBudget(server.url, name=name, token=Rate(200, 1), account=Rate(200, 1)) as budget:
            assert await drain(budget, "a") == 0
            await asyncio.sleep(0.7)  # half of a slot: 100 requests
            assert 1 <= await drain(budget, "a") <= 200 * FIRST_BURST + 2
            start, taken = time.monotonic(), 0
            while time.monotonic() < start + 0.3:  # the steady rate is kept up
                taken += await drain(budget, "a")
                await asyncio.sleep(0.01)
            assert taken >= 0.6 * 200 / (1 + SPARE_SECONDS) * 0.3
            await asyncio.sleep(2 * (1 + SPARE_SECONDS))
            assert await drain(budget, "a") == 200  # all is known again

    run(main())


@pytest.mark.parametrize("loss", ["evicted", "flushed", "restarted", "restarted with an old snapshot"])
def test_a_budget_that_lost_its_memory_grants_at_the_steady_rate(loss: str, name: str) -> None:
    """Full limits at once would be a flood: the service still counts what was sent before."""

    async def main() -> None:
        async with RedisBudget(running.url, name=name, token=Rate(100, 1), account=Rate(10, 1)) as budget:
            await settled(budget, 1)
            assert await drain(budget) == 100
            with redis_py.Redis.from_url(running.url) as plain:
                if loss == "evicted":
                    plain.delete(f"truto-ci:{{{name}}}")
                elif loss == "flushed":
                    plain.flushall()
                    plain.script_flush()
                elif "snapshot" in loss:
                    await asyncio.sleep(1 + SPARE_SECONDS)
                    assert await drain(budget, most=1) == 1
                    await asyncio.sleep(1 + SPARE_SECONDS)
                    plain.save()  # it says that nothing was sent lately, and soon that is no longer so
                    assert await drain(budget) == 100
            if "restarted" in loss:
                await asyncio.to_thread(running.stop)
                await asyncio.to_thread(running.start)
            start = time.monotonic()
            taken = 0
            while time.monotonic() < start + 0.5:
                with suppress(redis_py.RedisError):
                    taken += await drain(budget)
                await asyncio.sleep(0.01)
            took = time.monotonic() - start
            assert 10 <= taken <= 100 * took + 2

    with RedisServer() as running:
        run(main())


def test_a_password_is_nowhere_to_be_seen(server: RedisServer) -> None:
    budget = RedisBudget("valkey://:hunter2@localhost:1/0")
    assert "hunter2" not in repr(budget)
    with pytest.raises(ConfigurationError) as caught:
        RedisBudget("http://:hunter2@localhost")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"token": None},
        {"account": 50},
        {"safe_share": 0},
        {"safe_share": 2},
        {"safe_share": True},
        {"url": 5},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        RedisBudget(**{"url": "redis://localhost", **options})  # type: ignore[arg-type]


PROCESS = """
import asyncio, sys
from truto_ci_async import RetryPolicy, TrutoClient, TrutoError
from truto_ci_async.integrations.redis import RedisBudget

async def main(url, token, redis, seconds, *accounts):
    async def ask(truto, account):
        while True:
            await truto.interactions.list(account, start_time="-7d", end_time="now", limit=1)
    async with (
        RedisBudget(redis, safe_share=1 / 3) as budget,
        TrutoClient(token, base_url=url, shared_budget=budget, retry=RetryPolicy(attempts=9)) as truto,
    ):
        await truto.interactions.list(accounts[-1], start_time="-7d", end_time="now")  # imports the rest
        tasks = [asyncio.create_task(ask(truto, account)) for account in accounts]
        await asyncio.wait(tasks, timeout=float(seconds))
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [each for each in done if isinstance(each, Exception)], done

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def processes(sandbox: Sandbox, redis: RedisServer, seconds: float) -> Iterator[None]:
    """Run three of them. They share nearly all accounts, and one is asked four times as often."""
    hot = sandbox.account_ids[:1] * 4
    command = [sys.executable, "-c", PROCESS, sandbox.url, sandbox.token, redis.url, str(seconds)]
    running = [subprocess.Popen([*command, *hot, *sandbox.account_ids[number:]]) for number in range(3)]
    try:
        yield
        for process in running:
            assert process.wait(seconds + 10) == 0
    finally:
        for process in running:
            process.kill()
            process.wait()


def rate_of(sandbox: Sandbox, since: float, until: float) -> float:
    """Return the requests a second that were not refused, in a stretch after the first request."""
    first = sandbox.requests[0].time
    chosen = [each.status for each in sandbox.requests if since <= each.time - first < until]
    return sum(status != 429 for status in chosen) / (until - since)


def test_three_processes_of_one_token_use_its_rate_without_429s(server: RedisServer) -> None:
    """Both tiers are on, and all three want more than is allowed, one account above all."""
    for is_last in (False, False, True):  # half a second in which the machine does other things spoils a run
        with Sandbox.in_thread(accounts=30, interactions=2) as sandbox:
            with processes(sandbox, server, 24):
                pass
            rate, refused = rate_of(sandbox, 11, 23), sandbox.stats.rate_limited / sandbox.stats.requests
        if (rate >= 0.95 * 50 and refused <= 0.005) or is_last:
            break
    assert rate >= 0.95 * 50
    assert refused <= 0.005


def test_a_server_that_is_killed_and_comes_back_means_neither_a_stop_nor_a_flood() -> None:
    for is_last in (False, True):
        with RedisServer() as redis, Sandbox.in_thread(accounts=30, interactions=2) as sandbox:
            with processes(sandbox, redis, 22):
                time.sleep(11)
                redis.stop()
                time.sleep(5)
                redis.start()
            rates = [rate_of(sandbox, second, second + 1) for second in range(1, 21)]
            refused = sandbox.stats.rate_limited / sandbox.stats.requests
        if (min(rates) >= 10 and max(rates) <= 75 and refused <= 0.01) or is_last:
            break
    assert min(rates) >= 10, rates
    assert max(rates) <= 75, rates
    assert refused <= 0.01


def test_a_client_takes_one_grant_for_each_request(server: RedisServer, name: str) -> None:
    async def main() -> None:
        async with (
            Sandbox() as sandbox,
            RedisBudget(server.url, name=name) as budget,
            TrutoClient(sandbox.token, base_url=sandbox.url, shared_budget=budget, pacing=Pacing()) as truto,
        ):
            account = sandbox.account_ids[0]
            async for _ in truto.interactions.list(account, start_time="-7d", end_time="now", limit=40):
                pass
            with redis_py.Redis.from_url(server.url) as plain:
                used = plain.hget(f"truto-ci:{{{name}}}", f"used {account}")
            assert int(used or 0) == sandbox.stats.requests

    run(main())


def test_a_cancelled_call_ends(server: RedisServer, name: str) -> None:
    """redis-py loses one cancellation in ten that meets a command half-way; a task then goes on for ever."""

    async def main() -> None:
        async with RedisBudget(server.url, name=name) as budget:

            async def ask(account: str) -> None:
                while True:
                    await budget.take(1, account)

            for _ in range(5):
                tasks = [asyncio.create_task(ask(f"a{number}")) for number in range(15)]
                await asyncio.sleep(0.1)
                for task in tasks:
                    task.cancel()
                _, left = await asyncio.wait(tasks, timeout=5)
                assert not left

    run(main())

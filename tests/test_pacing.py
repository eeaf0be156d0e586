"""Pacing and retries together, simulated in virtual time: rates, fairness, restarts and outages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import cache

import pytest

from tests.virtual import (
    Response,
    SimClient,
    StrictService,
    busiest_window,
    clock,
    percentile,
    run_virtual,
)
from truto_ci_async._http.policy.rate_limiter import Pacing
from truto_ci_async._http.policy.retry import RetryPolicy


def uneven(seed: int, slow: frozenset[str] = frozenset()) -> Callable[[str], tuple[float, float]]:
    """Return a latency function: responses for ``slow`` accounts take half a minute."""
    rng = random.Random(seed)
    return lambda account: (rng.uniform(0.02, 0.08), 30.0 if account in slow else rng.uniform(0.05, 0.3))


def pull(accounts: int, pages: int, service: StrictService, **options: object) -> tuple[SimClient, float]:
    """Walk all accounts at once; return the client with its records, and the time it took."""

    async def main() -> tuple[SimClient, float]:
        client = SimClient(service, **options)  # type: ignore[arg-type]
        await client.walk_all([f"a{n}" for n in range(accounts)], pages)
        return client, clock()

    return run_virtual(main)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_accounts_use_the_permitted_rate_and_meet_no_429(seed: int) -> None:
    """1,000 accounts x 10 pages under both tiers. The ideal: 500 requests at once and 500 every ten seconds."""
    service = StrictService(latency=uneven(seed))
    client, took = pull(1000, 10, service)
    assert len(client.finished) == 10_000
    assert not client.lost
    assert client.early == 0
    assert (10_000 / 500 - 1) * 10 / took >= 0.98
    assert service.count(429) == 0


@pytest.mark.parametrize("accounts", [1, 5, 12])
def test_few_accounts_use_what_their_own_limits_permit(accounts: int) -> None:
    service = StrictService(latency=uneven(3))
    _, took = pull(accounts, 600, service)
    rate = accounts * 600 / took
    assert rate >= 0.9 * min(accounts * 5.0, 50.0, accounts / 0.235)
    assert service.count(429) == 0


@pytest.mark.parametrize(("jitter", "rate"), [(0.6, 0.9), (2.0, 0.8)])
def test_uneven_latency_is_absorbed(jitter: float, rate: float) -> None:
    """Requests bunch up if one takes seconds to arrive and the next none."""
    rng = random.Random(1)
    service = StrictService(latency=lambda account: (rng.uniform(0.0, jitter), rng.uniform(0.0, 2.0)))
    client, took = pull(1000, 10, service)
    assert len(client.finished) == 10_000
    assert client.early == 0
    assert service.count(429, since=10.0) <= 0.02 * service.count(since=10.0)
    assert (10_000 / 500 - 1) * 10 / took >= rate


ODD = {
    "slow": frozenset(f"a{n}" for n in range(0, 1000, 50)),
    "limited, marked": frozenset(f"a{n}" for n in range(0, 1000, 50)),
    "limited, unmarked": frozenset(f"a{n}" for n in range(0, 1000, 50)),
    "limited, unmarked, all first": frozenset(f"a{n}" for n in range(20)),
}


@cache
def ordinary_times(kind: str) -> tuple[float, float]:
    """Return 95th percentiles over 980 ordinary accounts: when their last page came, and how long a page took."""
    odd = ODD.get(kind, frozenset())
    ordinary = [f"a{n}" for n in range(1000) if f"a{n}" not in ODD["slow" if kind == "none" else kind]]
    rng = random.Random(9)

    def other(account: str, now: float) -> Response | None:
        if "limited" in kind and account in odd and rng.random() < 0.9:
            return Response(429, {"retry-after": "10"}, is_remote=kind == "limited, marked")
        return None

    async def main() -> SimClient:
        service = StrictService(latency=uneven(1, odd if kind == "slow" else frozenset()), other=other)
        client = SimClient(service, policy=RetryPolicy(attempts=5))
        await client.walk_all([f"a{n}" for n in range(1000)], 10)
        assert client.early == 0
        return client

    client = run_virtual(main)
    wanted = set(ordinary)
    ends = {account: end for account, _, end in client.finished if account in wanted}
    pages = [end - start for account, start, end in client.finished if account in wanted]
    assert len(pages) == len(ordinary) * 10
    return percentile(ends.values(), 0.95), percentile(pages, 0.95)


@pytest.mark.parametrize("kind", list(ODD))
def test_twenty_odd_accounts_do_not_hold_up_the_others(kind: str) -> None:
    """Slow accounts, or ones whose provider refuses nine requests in ten, cost the others at most 10 %."""
    base_end, base_page = ordinary_times("none")
    end, page = ordinary_times(kind)
    assert end <= base_end * 1.1
    assert page <= base_page * 1.1


def test_the_rate_is_used_over_a_line_with_jitter() -> None:
    rng = random.Random(5)
    service = StrictService(latency=lambda account: (rng.uniform(0.0025, 0.025), rng.uniform(0.0025, 0.025)))
    _, took = pull(1000, 10, service)
    assert (10_000 / 500 - 1) * 10 / took >= 0.99
    assert service.count(429) == 0


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_of_one_token_find_their_shares(processes: int) -> None:
    """They notice each other only through 429s: both must give way, and neither may starve."""

    async def main() -> None:
        service = StrictService(latency=uneven(1))
        clients = [
            SimClient(service, seed=seed, policy=RetryPolicy(attempts=10)) for seed in range(processes)
        ]
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(client.walk_all([f"p{number}a{n}" for n in range(32)], 400 // processes))
        assert {len(client.finished) for client in clients} == {32 * 400 // processes}
        assert {client.early for client in clients} == {0}
        assert not any(client.lost for client in clients)
        assert service.count(429, since=10.0) <= 0.01 * service.count(since=10.0)
        assert service.count(200) / clock() >= 0.85 * 50
        ends = [client.finished[-1][2] for client in clients]
        assert max(ends) <= 1.3 * min(ends)

    run_virtual(main)


def test_a_restart_meets_its_own_past_once() -> None:
    """The service still counts what the killed process sent: one burst of 429s, one pause, then no more."""

    async def main() -> None:
        service = StrictService(latency=uneven(2))
        service.remember(500, -1.0)
        client = SimClient(service)
        await client.walk_all([f"a{n}" for n in range(300)], 10)
        assert len(client.finished) == 3000
        assert client.early == 0
        assert service.count(429, since=10.0) <= 0.02 * service.count(since=10.0)

    run_virtual(main)


@pytest.mark.parametrize(
    "broken",
    [Response(500), Response(503, {"retry-after": "5"}), Response(429, {"retry-after": "10"})],
    ids=["500", "503 with Retry-After", "429"],
)
@pytest.mark.parametrize("pacing", [None, Pacing.off()], ids=["paced", "unpaced"])
def test_an_outage_is_met_with_patience_and_left_without_a_spike(
    broken: Response, pacing: Pacing | None
) -> None:
    """Every request fails for a minute: at most 20 % more requests than calls, and no burst when it is over.

    During 429s, calls wait as long as the service asks, and nothing is lost: each call may retry ``attempts`` times,
    when it is allowed to. Without pacing, only the extra traffic is bounded.
    """

    async def main() -> None:
        def other(account: str, now: float) -> Response | None:
            return broken if 5.0 < now < 65.0 else None

        unlimited = StrictService(latency=uneven(4), other=other, token=None, account=None)
        client = SimClient(unlimited, pacing=pacing, policy=RetryPolicy(attempts=10))

        async def later(number: int) -> None:
            await asyncio.sleep(number * 0.03)  # goes on for 75 s
            await client.call(f"a{number % 700}")

        async with asyncio.TaskGroup() as group:
            for number in range(2500):
                group.create_task(later(number))
        during = sum(1 for each in unlimited.arrivals if 5.0 < each.time < 65.0)
        lost = len(client.lost)
        if broken.status != 429:
            assert lost >= 500
            assert during - lost <= 0.2 * lost
        else:
            assert client.early == 0 or pacing is not None
            assert lost == 0
        if pacing is None:
            after = [each.time for each in unlimited.arrivals if each.time >= 65.0]
            assert busiest_window(after, 10.0) <= 1.2 * 500
            for account in ("a0", "a350"):
                times = [each.time for each in unlimited.arrivals if each.account == account]
                assert busiest_window(times, 10.0) <= 1.2 * 50

    run_virtual(main)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_ten_thousand_accounts(seed: int) -> None:
    """The same for half an hour of virtual time and 100,000 requests."""
    service = StrictService(latency=uneven(seed))
    client, took = pull(10_000, 10, service)
    assert len(client.finished) == 100_000
    assert client.early == 0
    assert (100_000 / 500 - 1) * 10 / took >= 0.98
    assert service.count(429, since=10.0) == 0


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_a_token_for_hours(processes: int) -> None:
    async def main() -> None:
        service = StrictService(latency=uneven(1))
        clients = [
            SimClient(service, seed=seed, policy=RetryPolicy(attempts=10)) for seed in range(processes)
        ]
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(client.walk_all([f"p{number}a{n}" for n in range(32)], 2000))
        assert all(not client.lost and client.early == 0 for client in clients)
        assert service.count(429, since=10.0) <= 0.01 * service.count(since=10.0)
        assert service.count(200) / clock() >= 0.85 * 50

    run_virtual(main)

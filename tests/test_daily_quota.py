"""A provider's quota for a day: counted over restarts, and what happens when it is used up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import run
from tests.virtual import busiest_window, rate_limiter
from truto_ci_async import (
    Pacing,
    Rate,
    RateLimitError,
    RetryPolicy,
    Sandbox,
    SQLiteCheckpoint,
    TrutoClient,
)
from truto_ci_async._http.policy.daily_quota import DAY, PARTS, SAME, DailyQuota
from truto_ci_async._http.policy.rate_limiter import RateLimiter
from truto_ci_async.errors import ConfigurationError

STEP = DAY / PARTS
BOUNDS = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-01-08T00:00:00Z", "window": "day"}


@given(st.lists(st.floats(0, 40_000), max_size=60), st.integers(1, 8))
def test_no_day_has_more_requests_than_the_quota(gaps: list[float], limit: int) -> None:
    quota = DailyQuota(Rate(limit, DAY))
    sent: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        if quota.free_at(now) <= now:
            quota.take(now)
            sent.append(now)
        else:
            assert now < quota.free_at(now) <= now + DAY + STEP
    assert busiest_window(sent, DAY) <= limit
    assert len(quota.used(now, epoch=0.0)) <= PARTS + 1


def test_the_count_goes_on_in_another_process_with_another_clock() -> None:
    first, second = DailyQuota(Rate(3, DAY)), DailyQuota(Rate(3, DAY))
    for now in (100.0, 101.0):
        first.take(now)
    second.take(5.0)
    second.add(first.used(200.0, epoch=1_000_000.0), 7.0, epoch=1_003_600.0)
    assert second.is_used_up
    assert second.free_at(7.0) == pytest.approx(7.0 - 3600 - 100 + STEP + DAY)
    second.add([(2_000_000.0, 5)], 7.0, epoch=1_003_600.0)  # a clock that was ahead: counted as of now
    assert second.free_at(7.0) <= 7.0 + STEP + DAY


def test_a_request_is_counted_once_however_often_its_count_was_stored() -> None:
    """By each resource of the account, and by earlier pulls of the same client."""
    first, second = DailyQuota(Rate(20, DAY)), DailyQuota(Rate(20, DAY))
    for _ in range(3):
        first.take(100.0)
    by_meetings = first.used(200.0, epoch=1_000_000.0)
    for now in (300.0, 2000.0):
        first.take(now)
    by_users = first.used(3000.0, epoch=1_002_800.2)  # the clock was adjusted meanwhile
    for stored in (by_meetings, by_users, by_meetings):
        second.add(stored, 7.0, epoch=1_003_600.0)
        first.add(stored, 4000.0, epoch=1_003_800.0)
    for quota, now in ((first, 4000.0), (second, 7.0)):
        assert [count for _, count in quota.used(now, epoch=0.0)] == [4, 1]
    second.add([(1_001_000.0, 2)], 7.0, epoch=1_003_600.0)  # of another process
    assert [count for _, count in second.used(7.0, epoch=0.0)] == [4, 2, 1]


@pytest.mark.parametrize(("apart", "counts"), [(0.9, [2]), (1.0, [2, 1])])
def test_parts_that_begin_almost_together_are_the_same(apart: float, counts: list[int]) -> None:
    quota = DailyQuota(Rate(20, DAY))
    quota.add([(-apart * STEP * SAME, 2), (0.0, 1)], 0.0, epoch=0.0)
    assert [count for _, count in quota.used(0.0, epoch=0.0)] == counts


def test_a_request_that_was_never_sent_does_not_count() -> None:
    quota = DailyQuota(Rate(1, DAY))
    quota.take(0.0)
    quota.give_back(0.0)
    quota.give_back(0.0)
    assert quota.free_at(0.0) == 0.0
    assert quota.forgettable_at() == 0.0


def test_requests_that_were_never_sent_are_taken_back_one_by_one() -> None:
    quota = DailyQuota(Rate(10, DAY))
    step = DAY / PARTS
    for now in (0.0, 0.0, step, step, step):
        quota.take(now)
    for left in ([(0.0, 2), (step, 2)], [(0.0, 2), (step, 1)], [(0.0, 2)], [(0.0, 1)], []):
        quota.give_back(step)
        assert quota.used(step, epoch=step) == left
    quota.give_back(step)
    for _ in range(10):
        assert quota.free_at(step) == step
        quota.take(step)
    assert quota.is_used_up


def test_a_quota_is_forgotten_once_nothing_of_it_counts() -> None:
    quota = DailyQuota(Rate(10, DAY))
    assert quota.forgettable_at() == 0.0
    quota.take(5.0)
    quota.take(5.0 + DAY / 2)
    assert quota.forgettable_at() == 5.0 + DAY / 2 + DAY / PARTS + DAY
    assert quota.used(quota.forgettable_at() - 1.0, epoch=0.0)
    assert not quota.used(quota.forgettable_at(), epoch=0.0)


def test_times_of_a_clock_that_was_ahead_count_from_now() -> None:
    quota = DailyQuota(Rate(10, DAY))
    quota.add([(100.5, 1), (99.0, 2), (98.0, 0)], 7.0, epoch=100.0)
    assert quota.used(7.0, epoch=100.0) == [(99.0, 2), (100.0, 1)]


@pytest.mark.parametrize("daily", [0, -1, 1.5, True, "many"])
def test_a_quota_that_cannot_work_is_refused(daily: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^Pacing\.account_daily must be a whole number"):
        Pacing(account_daily=daily)  # type: ignore[arg-type]


def test_a_number_is_a_quota_of_24_hours() -> None:
    assert Pacing(account_daily=10_000).daily == Rate(10_000, 86_400.0)
    assert Pacing(account_daily=Rate(5, 60.0)).daily == Rate(5, 60.0)
    assert Pacing().daily is None


def test_other_accounts_and_calls_without_one_go_on() -> None:
    limiter = RateLimiter(Pacing(account_daily=1), max_wait=60.0)
    assert limiter.enter("a", 0.0) is None
    waiter = limiter.enter("a", 1.0)
    assert waiter is not None
    assert limiter.poll(1.0) == [waiter]
    assert waiter.refused == pytest.approx(DAY + STEP - 1.0)
    assert limiter.enter("b", 1.0) is None
    assert [limiter.enter(None, 1.0) for _ in range(3)] == [None] * 3
    limiter = rate_limiter()
    limiter.add_daily_use("a", [(0.0, 5)], 1.0, epoch=1.0)  # no quota is set: nothing to count
    assert limiter.daily_use("a", 1.0, epoch=1.0) == []
    assert len(limiter) == 0


def test_a_request_given_back_is_free_at_once() -> None:
    """The account waits for the next day only as long as the quota is used up."""
    limiter = RateLimiter(Pacing(account_daily=2), max_wait=60.0)
    assert limiter.enter("a", 0.0) is None
    assert limiter.enter("a", 0.0) is None
    limiter.on_unsent("a", 1.0, admitted_at=0.0)
    assert limiter.enter("a", 1.0) is None
    waiter = limiter.postpone("a", 2.0, admitted_at=1.0, wait=0.5)  # by a shared budget
    assert limiter.next_at(2.0) == 2.5
    assert limiter.poll(2.5) == [waiter]
    assert waiter.is_admitted


def test_a_call_beyond_the_quota_says_when_to_come_again() -> None:
    """Or waits, if that takes no longer than the policy allows."""

    async def main() -> None:
        async with (
            Sandbox(interactions=2) as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, pacing=Pacing(account_daily=2)) as truto,
        ):
            account = sandbox.account_ids[0]
            for _ in range(2):
                await truto.interactions.list(account, start_time="-7d", end_time="now")
            with pytest.raises(RateLimitError, match=r"quota of 2 requests in 86400 s .* used up") as caught:
                await truto.interactions.list(account, start_time="-7d", end_time="now")
            assert caught.value.retry_after == pytest.approx(DAY + STEP, abs=60)
            assert sandbox.stats.requests == 2
            short = truto.with_options(pacing=Pacing(account_daily=Rate(1, 0.3)), retry=RetryPolicy())
            for _ in range(2):
                await short.interactions.list(account, start_time="-7d", end_time="now")

    run(main())


@pytest.mark.parametrize("kind", ["sqlite", "folder"])
def test_a_pull_parks_the_account_and_a_restart_goes_on_counting(kind: str, tmp_path: Path) -> None:
    """The first run uses up four of seven, the second the rest, and both park what is left."""

    async def main() -> None:
        async def pull(daily: int) -> tuple[int, dict[str, float | None]]:
            before = sandbox.stats.requests
            async with TrutoClient(
                sandbox.token, base_url=sandbox.url, pacing=Pacing(account_daily=daily)
            ) as truto:
                if kind == "sqlite":
                    checkpoint = SQLiteCheckpoint(tmp_path / "state")
                    async with truto.interactions.pull([account], checkpoint=checkpoint, **BOUNDS) as pages:
                        async for _ in pages:
                            pass
                    report = pages.report
                else:
                    report = await truto.interactions.pull_to(tmp_path / "out", [account], **BOUNDS)
            assert report.failed == {}
            return sandbox.stats.requests - before, report.parked

        async with Sandbox(interactions=2) as sandbox:
            account = sandbox.account_ids[0]
            asked, parked = await pull(4)
            assert asked == 4
            until = parked[account]
            assert until is not None
            assert time.time() + DAY - 60 < until < time.time() + DAY + STEP
            assert await pull(4) == (0, {account: pytest.approx(until, abs=1)})

    run(main())


def test_a_pull_that_was_killed_counts_what_it_committed(tmp_path: Path) -> None:
    """Leaving the loop after two pages stands for it: the account is not parked, and two of four are left."""

    async def main() -> None:
        async def pull(most: int) -> int:
            before = sandbox.stats.requests
            async with TrutoClient(
                sandbox.token, base_url=sandbox.url, pacing=Pacing(account_daily=4)
            ) as truto:
                checkpoint = SQLiteCheckpoint(tmp_path / "state")
                async with truto.interactions.pull(
                    [account], checkpoint=checkpoint, commit="manual", **BOUNDS
                ) as pages:
                    number = 0
                    async for page in pages:
                        await page.commit()
                        number += 1
                        if number == most:
                            break
            return sandbox.stats.requests - before

        async with Sandbox(interactions=2) as sandbox:
            account = sandbox.account_ids[0]
            first = await pull(2)
            assert 2 <= first <= 4
            await pull(100)
            assert sandbox.stats.requests <= 4 + 2  # what was read ahead and not committed may be missing
            assert await pull(100) == 0

    run(main())

"""The admission queue: who is woken when, what cancelling leaves behind, and which timers are set."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.virtual import (
    busiest_window,
    clock,
    epoch,
    rate_limiter,
    run_virtual,
)
from truto_ci_async._http.policy.admission import AdmissionQueue
from truto_ci_async._http.policy.headers import Level
from truto_ci_async._http.policy.rate_limiter import RateLimiter
from truto_ci_async._http.policy.rate_windows import MARGIN, Rate
from truto_ci_async.errors import RateLimitError


def admission_queue(
    limiter: RateLimiter,
    waits: list[tuple[str | None, Level, float]] | None = None,
    clock: Callable[[], float] = clock,
) -> AdmissionQueue:
    def on_wait(account: str | None, level: Level, seconds: float) -> None:
        if waits is not None:
            waits.append((account, level, seconds))

    return AdmissionQueue(limiter, clock=clock, epoch=epoch, on_wait=on_wait)


def test_an_admission_that_need_not_wait_does_not_yield() -> None:
    """Yielding to the loop would cost every request time, and be one more place to be cancelled."""
    admission = admission_queue(rate_limiter(Rate(500, 10), Rate(50, 10)), clock=lambda: 0.0).admit("a")
    with pytest.raises(StopIteration) as finished:
        admission.send(None)
    assert finished.value.value.waited == 0.0


def test_waits_are_reported() -> None:
    waits: list[tuple[str | None, Level, float]] = []

    async def main() -> None:
        queue = admission_queue(rate_limiter(Rate(500, 10), Rate(2, 10)), waits)
        waited = [(await queue.admit("a")).waited for _ in range(3)]
        assert waited[0] == 0.0
        assert sum(waited) == pytest.approx(10 * (1 + MARGIN))  # until the first slot is free
        assert waits[-1] == ("a", "account", waited[2])

    run_virtual(main)


@pytest.mark.parametrize("seed", range(5))
def test_cancelled_requests_leave_nothing_behind(seed: int) -> None:
    """Cancelled at any moment, even between admission and waking up: every slot goes to another request."""

    async def main() -> None:
        rng = random.Random(seed)
        limiter = rate_limiter(Rate(20, 10), Rate(10, 10))
        queue = admission_queue(limiter)
        admitted: list[float] = []

        async def one(account: str) -> None:
            await queue.admit(account)
            admitted.append(clock())
            queue.on_response(account, 200, {})

        tasks = [asyncio.create_task(one(f"a{n % 5}")) for n in range(150)]
        for task in rng.sample(tasks, 90):
            await asyncio.sleep(rng.choice([0.0, 0.0, 0.1, 0.475]))
            task.cancel()
        await asyncio.wait(tasks)
        assert len(admitted) == sum(1 for task in tasks if not task.cancelled())
        assert len(admitted) >= 60
        assert busiest_window(admitted, 10) <= 20
        assert limiter.waiting == 0
        assert limiter._token.in_flight == 0
        assert all(state.window.in_flight == 0 for state in limiter._accounts.values())

    run_virtual(main)


def test_a_slot_given_to_a_cancelled_waiter_goes_to_the_next() -> None:
    """The waiter is admitted and cancelled in the same turn of the loop."""

    async def main() -> None:
        limiter = rate_limiter(Rate(1, 10))
        queue = admission_queue(limiter)
        await queue.admit("x")
        first = asyncio.create_task(queue.admit("a"))
        second = asyncio.create_task(queue.admit("b"))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(limiter.next_at(clock()), first.cancel)
        assert (await second).waited == pytest.approx(10 * (1 + MARGIN))
        assert first.cancelled()

    run_virtual(main)


class NoTimer:
    def cancel(self) -> None: ...


def test_a_slot_meant_for_a_task_already_cancelled_goes_to_the_next() -> None:
    """The task is cancelled, and its waiter admitted before the task runs and can leave the queue."""

    async def main() -> None:
        now = 0.0
        queue = AdmissionQueue(
            rate_limiter(Rate(1, 10)), clock=lambda: now, call_later=lambda delay, callback: NoTimer()
        )
        await queue.admit("x")
        first = asyncio.create_task(queue.admit("a"))
        second = asyncio.create_task(queue.admit("b"))
        await asyncio.sleep(0)
        now = 11.0
        first.cancel()
        queue.on_failure("x")
        assert (await second).waited == 11.0
        assert first.cancelled()

    run_virtual(main)


def test_a_timer_may_fire_slightly_early() -> None:
    """Loops round to their clock's resolution. The waiter is admitted, instead of the timer being set again."""

    async def main() -> None:
        now = 0.0
        timers: list[tuple[float, Callable[[], None]]] = []

        def call_later(delay: float, callback: Callable[[], None]) -> NoTimer:
            timers.append((now + delay, callback))
            return NoTimer()

        queue = AdmissionQueue(rate_limiter(Rate(1, 10)), clock=lambda: now, call_later=call_later)
        await queue.admit("x")
        task = asyncio.create_task(queue.admit("a"))
        await asyncio.sleep(0)
        ((due, callback),) = timers
        now = due - 1e-6
        callback()
        assert (await task).waited == now
        assert len(timers) == 1

    run_virtual(main)


def test_a_request_admitted_at_once_from_the_queue_has_not_waited() -> None:
    """An account whose only waiter left is still in the queue; the next request passes through it without waiting."""
    waits: list[tuple[str | None, Level, float]] = []

    async def main() -> None:
        now = 0.0
        limiter = rate_limiter(Rate(500, 10), Rate(1, 10))
        queue = admission_queue(limiter, waits, clock=lambda: now)
        await queue.admit("a")
        task = asyncio.create_task(queue.admit("a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        now = 11.0
        waiter = limiter.enter("b", now)
        assert waiter is not None
        limiter.leave(waiter)
        assert (await queue.admit("c")).waited == 0.0

    run_virtual(main)
    assert waits == []


def test_waiting_takes_one_timer_and_ends_with_none() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers_set = 0

        def call_later(delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
            nonlocal timers_set
            timers_set += 1
            return loop.call_later(delay, callback)

        queue = AdmissionQueue(rate_limiter(Rate(2, 10)), clock=clock, call_later=call_later)
        tasks = [asyncio.create_task(queue.admit(f"a{n}")) for n in range(30)]
        await asyncio.sleep(0)
        assert timers_set == 1
        live = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert len(live) == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]

    run_virtual(main)


def test_a_wait_that_would_be_too_long_is_an_error_now() -> None:
    async def main() -> None:
        queue = admission_queue(rate_limiter(Rate(500, 10), Rate(2, 10), max_wait=60.0))
        await queue.admit("a")
        waiting = [asyncio.create_task(queue.admit("a")) for _ in range(3)]
        await asyncio.sleep(1.0)
        queue.on_response("a", 429, {}, retry_after=86400.0, is_remote=True)
        await asyncio.wait(waiting)
        assert clock() < 6.0
        errors = [task.exception() for task in waiting if task.exception() is not None]
        assert errors
        with pytest.raises(RateLimitError, match="no requests of this account for another 86400 s") as caught:
            await queue.admit("a")
        assert caught.value.retry_after == pytest.approx(86400.0)
        assert caught.value.account == "a"
        assert caught.value.status == 429
        assert (await queue.admit("b")).waited == 0.0

    run_virtual(main)


def test_a_client_may_outlive_its_loop() -> None:
    """Notebook scripts call ``asyncio.run`` twice. What waited in the first run is gone and blocks nothing."""
    queue = AdmissionQueue(rate_limiter(Rate(1, 0.05)))

    async def main() -> None:
        for _ in range(2):
            await queue.admit("a")
            queue.on_response("a", 200, {})

    asyncio.run(main())
    asyncio.run(main())

    async def leave_early() -> None:
        await queue.admit("a")
        task = asyncio.create_task(queue.admit("a"))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(leave_early())
    asyncio.run(main())

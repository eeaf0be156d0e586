"""Waiting for a turn: who is woken when, what cancelling leaves behind, and which timers are set."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.virtual import (
    busiest_window,
    clock,
    epoch,
    pacer,
    run_virtual,
)
from truto_ci_async._http.policy.admission import AdmissionQueue
from truto_ci_async._http.policy.headers import Level
from truto_ci_async._http.policy.rate_limiter import RateLimiter
from truto_ci_async._http.policy.rate_windows import MARGIN, Rate
from truto_ci_async.errors import RateLimitError


def gate(
    subject: RateLimiter,
    waits: list[tuple[str | None, Level, float]] | None = None,
    clock: Callable[[], float] = clock,
) -> AdmissionQueue:
    def on_wait(account: str | None, level: Level, seconds: float) -> None:
        if waits is not None:
            waits.append((account, level, seconds))

    return AdmissionQueue(subject, clock=clock, epoch=epoch, on_wait=on_wait)


def test_an_admission_that_need_not_wait_does_not_yield() -> None:
    """A turn of the loop for every request would be paid by everybody, and open a door for cancellation."""
    admission = gate(pacer(Rate(500, 10), Rate(50, 10)), clock=lambda: 0.0).admit("a")
    with pytest.raises(StopIteration) as finished:
        admission.send(None)
    assert finished.value.value == 0.0


def test_waits_are_told() -> None:
    waits: list[tuple[str | None, Level, float]] = []

    async def main() -> None:
        subject = gate(pacer(Rate(500, 10), Rate(2, 10)), waits)
        waited = [await subject.admit("a") for _ in range(3)]
        assert waited[0] == 0.0
        assert sum(waited) == pytest.approx(10 * (1 + MARGIN))  # until the slot of the first is free
        assert waits[-1] == ("a", "account", waited[2])

    run_virtual(main)


@pytest.mark.parametrize("seed", range(5))
def test_the_cancelled_leave_no_trace(seed: int) -> None:
    """Cut off at any moment, also between being let through and waking: every place goes to somebody else."""

    async def main() -> None:
        rng = random.Random(seed)
        rules = pacer(Rate(20, 10), Rate(10, 10))
        subject = gate(rules)
        admitted: list[float] = []

        async def one(account: str) -> None:
            await subject.admit(account)
            admitted.append(clock())
            subject.on_response(account, 200, {})

        tasks = [asyncio.create_task(one(f"a{n % 5}")) for n in range(150)]
        for task in rng.sample(tasks, 90):
            await asyncio.sleep(rng.choice([0.0, 0.0, 0.1, 0.475]))
            task.cancel()
        await asyncio.wait(tasks)
        assert len(admitted) == sum(1 for task in tasks if not task.cancelled())
        assert len(admitted) >= 60
        assert busiest_window(admitted, 10) <= 20
        assert rules.waiting == 0
        assert rules._token.busy == 0
        assert all(state.window.busy == 0 for state in rules._accounts.values())

    run_virtual(main)


def test_a_slot_given_to_a_cancelled_waiter_goes_to_the_next() -> None:
    """The waiter is let through and cancelled in the same turn of the loop."""

    async def main() -> None:
        rules = pacer(Rate(1, 10))
        subject = gate(rules)
        await subject.admit("x")
        first = asyncio.create_task(subject.admit("a"))
        second = asyncio.create_task(subject.admit("b"))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(rules.next_at(clock()), first.cancel)
        assert await second == pytest.approx(10 * (1 + MARGIN))
        assert first.cancelled()

    run_virtual(main)


class NoTimer:
    def cancel(self) -> None: ...


def test_a_slot_meant_for_somebody_already_cancelled_goes_to_the_next() -> None:
    """Cancelled first, and called up before their task could run and say so."""

    async def main() -> None:
        now = 0.0
        subject = AdmissionQueue(
            pacer(Rate(1, 10)), clock=lambda: now, call_later=lambda delay, callback: NoTimer()
        )
        await subject.admit("x")
        first = asyncio.create_task(subject.admit("a"))
        second = asyncio.create_task(subject.admit("b"))
        await asyncio.sleep(0)
        now = 11.0
        first.cancel()
        subject.on_failure("x")
        assert await second == 11.0
        assert first.cancelled()

    run_virtual(main)


def test_a_timer_may_be_a_hair_early() -> None:
    """Loops round to their clock's resolution; the one called up goes, instead of setting the timer again."""

    async def main() -> None:
        now = 0.0
        timers: list[tuple[float, Callable[[], None]]] = []

        def call_later(delay: float, callback: Callable[[], None]) -> NoTimer:
            timers.append((now + delay, callback))
            return NoTimer()

        subject = AdmissionQueue(pacer(Rate(1, 10)), clock=lambda: now, call_later=call_later)
        await subject.admit("x")
        task = asyncio.create_task(subject.admit("a"))
        await asyncio.sleep(0)
        ((due, callback),) = timers
        now = due - 1e-6
        callback()
        assert await task == now
        assert len(timers) == 1

    run_virtual(main)


def test_who_is_only_queued_for_form_has_not_waited() -> None:
    """Somebody left the queue a while ago and nobody looked since; the next one need not wait for that."""
    waits: list[tuple[str | None, Level, float]] = []

    async def main() -> None:
        now = 0.0
        rules = pacer(Rate(500, 10), Rate(1, 10))
        subject = gate(rules, waits, clock=lambda: now)
        await subject.admit("a")
        task = asyncio.create_task(subject.admit("a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        now = 11.0
        ticket = rules.enter("b", now)
        assert ticket is not None
        rules.leave(ticket)
        assert await subject.admit("c") == 0.0

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

        subject = AdmissionQueue(pacer(Rate(2, 10)), clock=clock, call_later=call_later)
        tasks = [asyncio.create_task(subject.admit(f"a{n}")) for n in range(30)]
        await asyncio.sleep(0)
        assert timers_set == 1
        live = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert len(live) == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]

    run_virtual(main)


def test_those_who_would_wait_too_long_hear_it_now() -> None:
    async def main() -> None:
        subject = gate(pacer(Rate(500, 10), Rate(2, 10), max_wait=60.0))
        await subject.admit("a")
        waiting = [asyncio.create_task(subject.admit("a")) for _ in range(3)]
        await asyncio.sleep(1.0)
        subject.on_response("a", 429, {}, retry_after=86400.0, is_remote=True)
        await asyncio.wait(waiting)
        assert clock() < 6.0
        errors = [task.exception() for task in waiting if task.exception() is not None]
        assert errors
        with pytest.raises(RateLimitError, match="left alone") as caught:
            await subject.admit("a")
        assert caught.value.retry_after == pytest.approx(86400.0)
        assert caught.value.account == "a"
        assert caught.value.status == 429
        assert await subject.admit("b") == 0.0

    run_virtual(main)


def test_a_client_may_outlive_its_loop() -> None:
    """Notebook scripts call ``asyncio.run`` twice; what waited in the first run is gone and blocks nobody."""
    subject = AdmissionQueue(pacer(Rate(1, 0.05)))

    async def main() -> None:
        for _ in range(2):
            await subject.admit("a")
            subject.on_response("a", 200, {})

    asyncio.run(main())
    asyncio.run(main())

    async def leave_early() -> None:
        await subject.admit("a")
        task = asyncio.create_task(subject.admit("a"))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(leave_early())
    asyncio.run(main())

"""Deadlines of blocks: they behave like ``asyncio.timeout``, but share one timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.virtual import clock, hold, run_virtual
from truto_ci_async._http.transport.deadlines import MIN_EXTENSION, Deadlines, extension

# The loop may run a timer early by the resolution of its clock. Twice that allows for rounding.
TOLERANCE = 2 * time.get_clock_info("monotonic").resolution


def story(main: Callable[[Deadlines], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` in virtual time, and cancel the one timer that may be left."""

    async def whole() -> None:
        deadlines = Deadlines()
        try:
            await main(deadlines)
        finally:
            deadlines.close()

    run_virtual(whole)


def test_a_block_is_ended_when_its_time_is_over() -> None:
    async def main(deadlines: Deadlines) -> None:
        with pytest.raises(TimeoutError) as caught, deadlines.within(3.0) as deadline:
            await asyncio.sleep(10.0)
        assert clock() == 3.0 + MIN_EXTENSION
        assert deadline.expired
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "the task goes on as if nobody had cancelled it"
        await asyncio.sleep(1.0)

    story(main)


@pytest.mark.parametrize("seconds", [1.9, 2.0, 2.0001, 2.001, 2.05, 2.1, 5.0, 100.0])
def test_what_came_while_the_loop_was_held_is_in_time(seconds: float) -> None:
    """A consumer worked without awaiting until after the deadline, while the response arrived in time."""

    async def main(deadlines: Deadlines) -> None:
        answer = asyncio.get_running_loop().create_future()

        async def wait_for_it() -> str:
            with deadlines.within(3.0):
                return str(await answer)

        asking = asyncio.create_task(wait_for_it())
        await asyncio.sleep(1.0)
        hold(seconds)
        # Like a socket: the loop notices it in its next turn, and the waiting task runs in the one after that.
        asyncio.get_running_loop().call_soon(answer.set_result, "here")
        assert await asking == "here"
        assert clock() == 1.0 + seconds
        assert deadlines.open == {}

    story(main)


def test_what_takes_some_more_turns_after_the_loop_was_held_is_in_time_too() -> None:
    async def main(deadlines: Deadlines) -> None:
        async def shake_hands() -> str:
            with deadlines.within(3.0):
                for _ in range(10):
                    await asyncio.sleep(MIN_EXTENSION / 12)
                return "done"

        shaking = asyncio.create_task(shake_hands())
        await asyncio.sleep(0)
        hold(3.0 + MIN_EXTENSION / 2)
        assert await shaking == "done"

    story(main)


@pytest.mark.parametrize(
    ("holds", "ends"),
    [
        ([1.9], 3.0 + MIN_EXTENSION),
        ([2.0], 3.0 + MIN_EXTENSION),
        ([2.0 + MIN_EXTENSION / 2], 3.0 + 1.5 * MIN_EXTENSION),
        ([2.1], 3.2),
        ([3.0], 5.0),
        ([50.0], 54.0),
        ([1.9, 50.0], 52.9 + 3.0),
        ([50.0, 50.0], 102.0),  # only once, or a loop that is blocked again and again would have no deadlines
        ([2.1, 0.2, 0.2], 3.3),
    ],
)
def test_a_block_gets_more_time_once_when_the_loop_was_held(holds: list[float], ends: float) -> None:
    async def main(deadlines: Deadlines) -> None:
        async def wait() -> float:
            with pytest.raises(TimeoutError), deadlines.within(3.0):
                await asyncio.sleep(1000.0)
            return clock()

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(1.0)
        for seconds in holds:
            hold(seconds)
            for _ in range(5):
                await asyncio.sleep(0.0)
            if seconds == 50.0:
                await asyncio.sleep(1.0)
        assert await waiting == pytest.approx(ends)
        assert deadlines.open == {}
        assert deadlines.open == {}

    story(main)


@pytest.mark.parametrize(
    ("seconds", "late", "more"),
    [
        (60.0, 0.0, MIN_EXTENSION),
        (60.0, MIN_EXTENSION, MIN_EXTENSION),
        (60.0, 0.1, 0.1),
        (60.0, 20.0, 20.0),
        (60.0, 600.0, 60.0),
        (0.01, 0.0, 0.01),  # never more than the whole time
        (0.1, 0.2, 0.1),
    ],
)
def test_how_much_more_time(seconds: float, late: float, more: float) -> None:
    assert extension(seconds, late=late) == more


def test_a_timer_that_is_early_by_the_resolution_of_its_clock_is_in_time() -> None:
    """Waiting for the rest would mean setting the timer again and again."""

    async def main(deadlines: Deadlines) -> None:
        with deadlines.within(3.0) as deadline:
            await asyncio.sleep(2.9999)
            assert deadlines._timer is not None
            deadlines._timer.cancel()
            deadlines._check()
            assert deadline.check(2.9999) == 3.0 + MIN_EXTENSION

    story(main)


def test_what_is_open_when_all_is_closed_has_no_deadline_any_more() -> None:
    async def main(deadlines: Deadlines) -> None:
        async def work(seconds: float) -> None:
            with deadlines.within(seconds):
                await asyncio.sleep(500.0)

        working = [asyncio.create_task(work(3.0)), asyncio.create_task(work(80.0))]
        await asyncio.sleep(1.0)
        hold(50.0)
        await asyncio.sleep(1.0)
        assert len(deadlines.open) == 2
        deadlines.close()
        with pytest.raises(TimeoutError), deadlines.within(100.0):  # checks all that are left
            await asyncio.sleep(200.0)
        await asyncio.gather(*working)

    story(main)


def test_a_block_that_is_left_with_time_to_spare_after_its_last_chance_is_left_alone() -> None:
    async def main(deadlines: Deadlines) -> None:
        async def work() -> None:
            with deadlines.within(3.0) as deadline:
                await asyncio.sleep(53.0)
            assert not deadline.expired
            await asyncio.sleep(100.0)

        working = asyncio.create_task(work())
        await asyncio.sleep(1.0)
        hold(50.0)
        await working
        assert deadlines.open == {}

    story(main)


def test_blocks_with_a_last_chance_and_others_end_each_at_its_own_time() -> None:
    async def main(deadlines: Deadlines) -> None:
        ended: list[tuple[str, float]] = []

        async def wait(name: str, seconds: float) -> None:
            with suppress(TimeoutError), deadlines.within(seconds):
                await asyncio.sleep(1000.0)
            ended.append((name, clock()))

        tasks = [asyncio.create_task(wait("early", 3.0)), asyncio.create_task(wait("long", 80.0))]
        await asyncio.sleep(1.0)
        hold(50.0)
        tasks.append(asyncio.create_task(wait("late", 3.0)))
        await asyncio.wait(tasks)
        assert sorted(ended) == [
            ("early", 54.0),
            ("late", 54.0 + MIN_EXTENSION),
            ("long", 80.0 + MIN_EXTENSION),
        ]

    story(main)


def test_a_block_left_in_time_is_left_alone() -> None:
    async def main(deadlines: Deadlines) -> None:
        with deadlines.within(3.0) as deadline:
            await asyncio.sleep(2.0)
        await asyncio.sleep(10.0)
        assert not deadline.expired
        deadline.expire()  # too late to have an effect
        await asyncio.sleep(0)

    story(main)


@pytest.mark.parametrize(("outer", "inner"), [(5.0, 2.0), (2.0, 5.0), (2.0, 2.0)])
def test_of_two_blocks_the_one_due_first_is_ended(outer: float, inner: float) -> None:
    async def main(deadlines: Deadlines) -> None:
        ended: list[str] = []
        try:
            with deadlines.within(outer):
                try:
                    with deadlines.within(inner):
                        await asyncio.sleep(10.0)
                except TimeoutError:
                    ended.append("inner")
                await asyncio.sleep(10.0)
        except TimeoutError:
            ended.append("outer")
        assert ended == ["inner", "outer"] if inner < outer else "outer" in ended
        assert clock() == MIN_EXTENSION + max(outer, min(outer, inner))

    story(main)


def test_a_cancellation_from_outside_goes_on_as_one() -> None:
    """Also when the deadline expires in the same turn: whoever cancelled the task expects it to be cancelled."""

    async def main(deadlines: Deadlines) -> None:
        blocks: list[Any] = []

        async def work() -> None:
            with deadlines.within(3.0) as deadline:
                blocks.append(deadline)
                await asyncio.sleep(10.0)

        for both in (False, True):
            task = asyncio.ensure_future(work())
            await asyncio.sleep(1.0)
            task.cancel()
            if both:
                blocks[-1].expire()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    story(main)


def test_an_error_of_the_block_is_its_own() -> None:
    async def main(deadlines: Deadlines) -> None:
        with pytest.raises(LookupError), deadlines.within(3.0):
            try:
                await asyncio.sleep(10.0)
            finally:
                raise LookupError
        await asyncio.sleep(0)  # would raise if a cancellation were pending

    story(main)


def test_a_block_without_a_time_can_be_ended() -> None:
    """Closing a client ends its calls this way, also those without a deadline."""

    async def main(deadlines: Deadlines) -> None:
        with pytest.raises(TimeoutError), deadlines.within(None) as deadline:
            asyncio.get_running_loop().call_later(7.0, deadline.expire)
            await asyncio.sleep(100.0)
        assert clock() == 7.0

    story(main)


def test_blocks_that_are_left_in_time_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for this module: setting and cancelling a timer for each block costs more than all the rest."""

    async def main(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        with deadlines.within(60.0):
            pass
        monkeypatch.setattr(loop, "call_at", None)
        for _ in range(100):
            with deadlines.within(60.0), deadlines.within(300.0):
                await asyncio.sleep(0)

    story(main)


@pytest.mark.parametrize(
    ("steps", "whole", "missed", "ends"),
    [
        ([(3.0, 2.0), (3.0, 10.0)], 60.0, "step 1", 5.0),
        ([(3.0, 2.0), (None, 10.0)], 5.0, "", 5.0),
        ([(3.0, 10.0)], 3.0, "", 3.0),  # the whole comes first
        ([(3.0, 10.0)], None, "step 0", 3.0),
        ([(30.0, 10.0)], 5.0, "", 5.0),
    ],
)
def test_the_step_of_a_block_has_a_limit_too(
    steps: list[tuple[float | None, float]], whole: float | None, missed: str, ends: float
) -> None:
    async def main(deadlines: Deadlines) -> None:
        deadline = deadlines.within(whole)
        with pytest.raises(TimeoutError), deadline:
            for number, (seconds, takes) in enumerate(steps):
                deadline.step(f"step {number}", seconds)
                await asyncio.sleep(takes)
        assert deadline.missed == missed
        assert clock() == ends + MIN_EXTENSION

    story(main)


def test_a_block_whose_steps_end_in_time_is_left_alone() -> None:
    async def main(deadlines: Deadlines) -> None:
        with deadlines.within(60.0) as deadline:
            for _ in range(5):
                deadline.step("step", 3.0)
                await asyncio.sleep(2.0)
            deadline.step("", None)
            await asyncio.sleep(20.0)
        assert not deadline.expired

    story(main)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.5]), st.floats(0.0, 9.0), st.floats(0.0, 5.0)),
        max_size=12,
    )
)
@example([(0.5, 0.0, 0.0), (0.5, 3.4013918363221354e-12, 0.0)])
def test_each_block_ends_at_its_own_time(blocks: list[tuple[float, float, float]]) -> None:
    """Whatever the others do. A block is (its seconds, how long the work takes, when it begins)."""

    async def main(deadlines: Deadlines) -> None:
        async def work(seconds: float, takes: float, begins: float) -> None:
            await asyncio.sleep(begins)
            started = clock()
            try:
                with deadlines.within(seconds):
                    await asyncio.sleep(takes)
            except TimeoutError:
                assert seconds + MIN_EXTENSION <= takes + TOLERANCE
                assert clock() - started == pytest.approx(seconds + MIN_EXTENSION, abs=TOLERANCE)
            else:
                assert takes <= seconds + MIN_EXTENSION + TOLERANCE
                assert clock() - started == pytest.approx(takes, abs=TOLERANCE)

        await asyncio.gather(*(work(*block) for block in blocks))

    story(main)


def test_only_a_task_can_be_ended() -> None:
    deadlines = Deadlines()
    with pytest.raises(RuntimeError), deadlines.within(1.0):
        pass

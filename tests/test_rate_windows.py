"""One limit: when the next slot is free, how a 429 lowers the limit, and what a provider's quota allows."""

from __future__ import annotations

import math

import pytest

from truto_ci_async._http.policy.rate_windows import (
    BACK_OFF_FACTOR,
    GAP_SHARE,
    MARGIN,
    REGAINED_PER_WINDOW,
    SHORTEST_PERIOD,
    Quota,
    Rate,
    SlidingWindow,
)
from truto_ci_async.errors import ConfigurationError
from truto_ci_async.models import RateLimit

SLOT = 10 * (1 + MARGIN)  # seconds a slot is taken, in a window of ten
GAP = 10 * GAP_SHARE  # seconds between two requests of a limit of one, in a window of ten


def taken(limit: int, *times: float) -> SlidingWindow:
    """Return a window of ten seconds with requests sent at ``times``."""
    window = SlidingWindow(Rate(limit, 10))
    for time in times:
        window.take(time)
    return window


@pytest.mark.parametrize(
    ("limit", "window"), [(0, 10), (1.5, 10), (10, 0), (10, -1), (10, math.inf), (True, 10), ("5", 10)]
)
def test_a_rate_refuses_nonsense(limit: int, window: float) -> None:
    with pytest.raises(ConfigurationError, match=r"Rate\."):
        Rate(limit, window)


def test_a_rate_names_the_option_it_refuses() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^Rate\.limit must be a whole number of at least 1, got 0$"
    ):
        Rate(0, 10)
    with pytest.raises(ConfigurationError, match=r"^Rate\.window must be a finite number above 0, got 0$"):
        Rate(1, 0)
    assert Rate(1, 0.5) == Rate(1, 0.5)


# --- slots --------------------------------------------------------------------------------------------------


def test_half_of_the_slots_can_be_taken_at_once() -> None:
    """The others follow at the steady rate, counted from the last one."""
    assert taken(4).ready_at(0.0) == 0.0
    assert taken(4, 0.0).ready_at(0.0) == 0.0
    assert taken(4, 0.0, 0.0).ready_at(0.0) == GAP / 4
    assert taken(4, 0.0, 1.0).ready_at(1.5) == 1.0 + GAP / 4


def test_a_slot_is_free_again_after_a_window_and_its_margin() -> None:
    window = taken(3, 0.0, 1.0, 2.0)
    assert window.ready_at(2.0) == SLOT
    assert window.ready_at(SLOT - 0.01) == SLOT
    assert window.ready_at(SLOT) == 2.0 + GAP / 3  # long past: now
    window.take(SLOT)
    assert window.ready_at(SLOT) == 1.0 + SLOT


def test_a_late_timer_does_not_lower_the_rate() -> None:
    """The gap counts from when the request was due, unless it is late by more than a gap."""
    gap = GAP / 20
    window = taken(20, *[0.0] * 11)
    window.take(gap + 0.1)
    assert window.ready_at(gap + 0.1) == 2 * gap
    window.take(2 * gap)  # on time
    assert window.ready_at(2 * gap) == 3 * gap
    window.take(4 * gap)  # late by a whole gap: no catching up
    assert window.ready_at(4 * gap) == 5 * gap
    window.take(4.5 * gap)  # early, as after a request that was never sent
    assert window.ready_at(4.5 * gap) == 5.5 * gap


def test_a_request_that_was_never_sent_frees_its_own_slot() -> None:
    """Freeing another one would let a request through before its time."""
    window = taken(2, 0.0, 5.0)
    window.finish()
    window.give_back(5.0)
    assert window.in_flight == 1
    window.take(6.0)
    assert window.ready_at(6.0) == SLOT
    assert window.ready_at(SLOT) == 6.0 + GAP / 2
    window.finish()
    assert window.ready_at(SLOT) == 6.0 + GAP / 2  # a response frees no slot
    window.give_back(0.0)  # and one that is free already is not freed twice
    assert window.share_used(SLOT) == 0.5


def test_finishing_more_requests_than_were_sent_does_no_harm() -> None:
    window = SlidingWindow(Rate(1, 10), max_in_flight=1)
    window.give_back(0.0)
    for _ in range(2):
        window.finish()
    assert window.in_flight == 0
    assert window.ready_at(0.0) == 0.0
    window.take(0.0)
    assert window.ready_at(0.0) == math.inf


def test_no_more_are_in_flight_than_allowed() -> None:
    window = SlidingWindow(None, max_in_flight=2)
    window.take(0.0)
    assert window.ready_at(0.0) == 0.0
    window.take(0.0)
    assert window.ready_at(0.0) == math.inf
    window.finish()
    assert window.ready_at(0.0) == 0.0


def test_a_window_without_a_limit_keeps_no_slots() -> None:
    window = SlidingWindow(None)
    for _ in range(3):
        window.take(0.0)
    assert window.in_flight == 3
    assert window.ready_at(0.0) == 0.0
    assert window.share_used(0.0) == 0.0
    window.finish()
    window.give_back(0.0)
    window.back_off(0.0)
    assert window.ready_at(0.0) == 0.0
    assert window.forgettable_at() == -math.inf


def test_a_pause_can_only_become_longer() -> None:
    window = taken(5)
    window.pause(8.0)
    window.pause(3.0)
    assert window.paused_until == 8.0
    assert window.ready_at(7.9) == 8.0
    assert window.ready_at(8.0) == 8.0
    assert window.ready_at(9.0) == 9.0


def test_the_share_used_counts_only_what_is_still_taken() -> None:
    window = taken(4, 0.0, 1.0, 2.0)
    assert window.share_used(2.0) == 0.75
    assert window.share_used(SLOT) == 0.5
    assert window.share_used(2.0 + SLOT) == 0.0


# --- backing off --------------------------------------------------------------------------------------------


def test_the_first_request_may_go_even_after_backing_off() -> None:
    window = taken(8)
    window.back_off(0.0)
    assert window.ready_at(0.0) <= 0.0


def test_backing_off_leaves_three_quarters_of_the_slots_at_the_steady_rate() -> None:
    window = taken(8)
    window.back_off(0.0)
    window.take(0.0)
    assert window.ready_at(0.0) == GAP / (8 * BACK_OFF_FACTOR)
    for _ in range(5):
        window.take(0.0)
    assert window.ready_at(0.0) == SLOT  # six of eight are taken, and no more


def test_a_part_of_a_slot_counts_as_one_more() -> None:
    """Three slots shrink to 2.25: two requests fit, and the third when the slot of the first is free."""
    window = taken(3, 0.0, 1.0)
    window.back_off(1.0)
    assert window.ready_at(1.0) == 1.0 + GAP / 2.25
    window.take(5.0)
    assert window.ready_at(5.0) == SLOT


def test_after_backing_off_as_many_slots_must_be_freed_as_are_too_many() -> None:
    """Four are taken and three are left, so the next one waits for two of them."""
    window = taken(4, 0.0, 1.0, 2.0, 3.0)
    window.back_off(3.0)
    assert window.ready_at(3.0) == 1.0 + SLOT


def test_one_burst_of_429s_counts_once() -> None:
    window = taken(16)
    window.back_off(0.0)
    window.back_off(SLOT - 0.01)
    window.take(SLOT - 0.01)
    regained = 16 * REGAINED_PER_WINDOW
    slots = 12 + regained * (SLOT - 0.01) / SLOT
    assert window.ready_at(SLOT - 0.01) == pytest.approx(SLOT - 0.01 + GAP / slots)
    window.back_off(SLOT)
    window.take(SLOT)
    assert window.ready_at(SLOT) == pytest.approx(SLOT + GAP / ((12 + regained) * BACK_OFF_FACTOR))


def test_at_least_one_slot_is_left() -> None:
    window = taken(1)
    window.back_off(0.0)
    window.back_off(SLOT)
    window.take(2 * SLOT)
    assert window.ready_at(2 * SLOT) == 2 * SLOT + SLOT
    window = taken(2)
    window.back_off(0.0)
    window.take(0.0)
    assert window.ready_at(0.0) == GAP / 1.5
    for windows in (1, 2, 3):
        window.back_off(windows * SLOT)
    window.take(3 * SLOT)
    assert window.ready_at(3 * SLOT) == 4 * SLOT  # one slot, and it is taken


def test_a_window_that_recovered_backs_off_from_its_full_limit() -> None:
    window = taken(4)
    window.back_off(0.0)
    assert window.ready_at(200.0) == 200.0  # long recovered
    window.back_off(200.0)
    window.take(200.0)
    assert window.ready_at(200.0) == 200.0 + GAP / 3


def test_slots_come_back_with_time_and_then_it_is_over() -> None:
    window = taken(4)
    window.back_off(0.0)
    whole = (1 - BACK_OFF_FACTOR) / REGAINED_PER_WINDOW * SLOT  # until all are back
    assert window.forgettable_at() == pytest.approx(whole)
    window.take(whole / 2)
    slots = 4 * (BACK_OFF_FACTOR + 1) / 2
    assert window.ready_at(whole / 2) == pytest.approx(whole / 2 + GAP / slots)
    window.take(whole)
    assert window.ready_at(whole) == whole  # half of the slots at once again


def test_a_clock_that_steps_back_takes_no_more_slots_away() -> None:
    window = taken(4)
    window.back_off(100.0)
    window.take(50.0)
    assert window.ready_at(50.0) == 50.0 + GAP / 3


def test_a_window_is_remembered_while_it_has_something_to_say() -> None:
    assert taken(4).forgettable_at() == -math.inf
    assert taken(4, 1.0, 2.0).forgettable_at() == 2.0 + SLOT
    window = taken(4, 1.0)
    window.pause(100.0)
    assert window.forgettable_at() == 100.0


# --- a provider's quota -------------------------------------------------------------------------------------


def learned(*headers: RateLimit, in_flight: int = 0, now: float = 0.0) -> Quota:
    quota = Quota()
    for each in headers:
        quota.learn(each, in_flight, now, 60.0)
    return quota


def test_a_tiny_window_does_not_keep_the_loop_busy() -> None:
    """One request in a microsecond, says the header: asked for every one, the timer would take the whole processor."""
    quota = learned(RateLimit(limit=1, window=0.000001))
    assert quota.period == SHORTEST_PERIOD == 0.01
    quota.ready_at(1.0, 0)
    assert quota.until == 1.01


def test_nothing_is_held_back_without_headers() -> None:
    quota = Quota()
    assert (quota.limit, quota.period, quota.left, quota.until) == (None, None, math.inf, -math.inf)
    assert quota.ready_at(5.0, 3) == 5.0
    assert learned(RateLimit()).ready_at(5.0, 3) == 5.0


def test_what_remains_less_what_is_in_flight_may_be_sent_until_the_reset() -> None:
    quota = learned(RateLimit(remaining=5, reset=8.0), in_flight=3, now=1.0)
    assert (quota.left, quota.until) == (2, 9.0)
    assert quota.ready_at(2.0, 0) == 2.0
    quota.left = 0
    assert quota.ready_at(8.9, 0) == 9.0
    assert quota.ready_at(9.0, 0) == 9.0
    assert quota.left == math.inf
    assert learned(RateLimit(remaining=1, reset=8.0), in_flight=3).left == 0


@pytest.mark.parametrize(("reset", "is_kept"), [(60.0, True), (60.1, False), (None, False)])
def test_a_reset_beyond_the_longest_wait_is_ignored(reset: float | None, is_kept: bool) -> None:
    assert learned(RateLimit(remaining=0, reset=reset)).ready_at(0.0, 0) == (60.0 if is_kept else 0.0)


def test_a_count_above_zero_without_a_reset_ends_the_waiting() -> None:
    full = RateLimit(remaining=0, reset=8.0)
    assert learned(full, RateLimit(remaining=3)).ready_at(0.0, 0) == 0.0
    assert learned(full, RateLimit(remaining=0)).ready_at(0.0, 0) == 8.0
    assert learned(full, RateLimit(reset=3.0)).ready_at(0.0, 0) == 8.0


def test_a_limit_with_a_window_is_kept_period_by_period() -> None:
    quota = learned(RateLimit(limit=3, window=2.0))
    assert quota.ready_at(10.0, 1) == 10.0
    assert (quota.left, quota.until) == (2, 12.0)
    quota.left = 0
    assert quota.ready_at(11.9, 0) == 12.0
    assert quota.ready_at(12.0, 5) == 14.0  # five are in flight already
    assert quota.ready_at(14.0, 0) == 14.0


def test_a_response_without_a_limit_leaves_the_known_one() -> None:
    quota = learned(RateLimit(limit=3, window=2.0), RateLimit(remaining=7))
    assert (quota.limit, quota.period) == (3, 2.0)
    quota.learn(RateLimit(limit=5), 0, 0.0, 60.0)
    assert (quota.limit, quota.period) == (5, None)


@pytest.mark.parametrize(
    ("limit", "window", "expected"),
    [(3, 60.0, (3, 60.0)), (3, 60.1, (3, None)), (3, None, (3, None)), (0, 2.0, (None, 2.0))],
)
def test_a_limit_of_zero_or_a_long_window_is_treated_as_unknown(
    limit: int, window: float | None, expected: tuple[int | None, float | None]
) -> None:
    """Headers alone must never stop an account for long; a real limit responds with a 429."""
    quota = learned(RateLimit(limit=limit, window=window))
    assert (quota.limit, quota.period) == expected
    if None in expected:
        assert quota.ready_at(0.0, 1000) == 0.0


def test_one_request_left_may_be_sent() -> None:
    quota = learned(RateLimit(remaining=1, reset=8.0))
    assert quota.ready_at(0.0, 0) == 0.0

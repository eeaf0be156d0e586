"""One limit: when the next slot is free, how a 429 lowers the limit, and what a provider's quota allows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtual import busiest_window
from truto_ci_async._http.policy.rate_windows import (
    GAP_SHARE,
    LEAST_MARGIN,
    LEAST_SHOWN,
    MARGIN,
    SHORTEST_PERIOD,
    UNKNOWN_SHARE,
    Quota,
    Rate,
    Recovery,
    SlidingWindow,
)
from truto_ci_async.errors import ConfigurationError
from truto_ci_async.models import RateLimit

SLOT = 10 * (1 + MARGIN)  # seconds a slot is taken without a response, in a window of ten
ANSWERED = 10 * (1 + LEAST_MARGIN)  # seconds from the response on
GAP = 10 * GAP_SHARE  # seconds between two requests of a limit of one, in a window of ten


def taken(limit: int, *times: float, burst: float = 0.5) -> SlidingWindow:
    """Return a window of ten seconds with requests sent at ``times``."""
    window = SlidingWindow(Rate(limit, 10), burst=burst)
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


def test_all_slots_can_be_taken_at_once_unless_a_share_is_given() -> None:
    """The others then follow at the steady rate, counted from the last one."""
    assert taken(4, 0.0, 0.0, 0.0, burst=1.0).ready_at(0.0) == 0.0
    assert taken(4, 0.0, 0.0, 0.0, 0.0, burst=1.0).ready_at(0.0) == SLOT
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


@pytest.mark.parametrize(
    ("answered_at", "free_at"),
    [
        (0.0, ANSWERED),
        (0.05, 0.05 + ANSWERED),
        (0.14, 0.14 + ANSWERED),
        (0.2, SLOT),
        (9.0, SLOT),
        (None, SLOT),
    ],
)
def test_a_slot_is_free_one_window_after_the_response(answered_at: float | None, free_at: float) -> None:
    """By then the service has counted the request. A slow response says less than the time it was sent."""
    window = taken(1, 0.0, burst=1.0)
    window.finish(0.0, answered_at)
    assert window.ready_at(9.0) == pytest.approx(free_at)
    assert window.share_used(free_at - 0.001) == 1.0
    assert window.share_used(free_at + 0.001) == 0.0


def test_a_response_far_later_than_usual_keeps_its_slot_longer() -> None:
    """The line or the machine stood still: the request may have been counted long after it was sent."""
    window = SlidingWindow(Rate(40, 10))
    for number in range(39):
        window.take(number / 10)
        window.finish(number / 10, number / 10 + 0.03)
    window.take(4.0)
    window.finish(4.0, 4.3)
    assert max(window._free_at) == 4.3 + ANSWERED
    window = SlidingWindow(Rate(40, 10))
    for number in range(39):
        window.take(number / 10)
        window.finish(number / 10, number / 10 + 0.2)
    window.take(4.0)
    window.finish(4.0, 4.3)
    assert max(window._free_at) == 4.0 + SLOT
    window = taken(2, 0.0, 1.0, burst=1.0)
    for sent, took in ((0.0, 0.25), (1.0, 3 * 0.25)):  # three times as long, but no more
        window.finish(sent, sent + took)
    assert max(window._free_at) == 1.0 + SLOT


def test_what_is_usual_follows_the_responses_slowly() -> None:
    window = taken(3, 0.0, 1.0, 2.0, burst=1.0)
    for sent, took, usual in ((0.0, 0.25, 0.25), (1.0, 0.5, 0.25 + 0.25 / 32)):
        window.finish(sent, sent + took)
        assert window._usual_seconds == usual
    window.finish(2.0, 9.0)  # counted as no more than three times as long
    assert window._usual_seconds == pytest.approx(usual + 2 * usual / 32)


def test_responses_in_another_order_free_what_is_known_first() -> None:
    window = taken(3, 0.0, 0.01, 0.02, burst=1.0)
    window.finish(0.02, 0.05)
    assert window.ready_at(1.0) == 0.05 + ANSWERED
    window.finish(0.0, 0.03)
    assert window.ready_at(1.0) == 0.03 + ANSWERED
    window.finish(0.0, 20.0)  # there is none of that time any more
    assert window.share_used(1.0) == 1.0


def test_a_request_that_was_never_sent_frees_its_own_slot() -> None:
    """Freeing another one would let a request through before its time."""
    window = taken(2, 0.0, 5.0, burst=1.0)
    window.give_back(5.0)
    assert window.in_flight == 1
    window.take(6.0)
    assert window.ready_at(6.0) == SLOT
    assert window.ready_at(SLOT) == SLOT
    window.give_back(0.0)  # one that is free already is not freed twice
    assert window.share_used(SLOT) == 0.5


def test_requests_sent_at_the_same_moment_free_one_slot_each() -> None:
    window = taken(4, 0.0, 0.0, 0.0)
    window.give_back(0.0)
    assert [window.usage(at)[1] for at in (1.0, SLOT)] == [2, 0]


def test_finishing_more_requests_than_were_sent_does_no_harm() -> None:
    window = SlidingWindow(Rate(1, 10), max_in_flight=1)
    window.give_back(0.0)
    for _ in range(2):
        window.finish(0.0, 1.0)
    assert window.in_flight == 0
    assert window.ready_at(0.0) == 0.0
    window.take(0.0)
    assert window.ready_at(0.0) == math.inf


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 30), st.floats(0, 1)), max_size=60), st.integers(1, 5)
)
def test_the_service_never_counts_too_many(steps: list[tuple[float, float, float]], limit: int) -> None:
    """Whenever a request arrives between its sending and its response, if the way there takes up to the margin."""
    window = SlidingWindow(Rate(limit, 10))
    responses: list[tuple[float, float]] = []
    arrivals: list[float] = []
    now = 0.0
    for gap, took, share in steps:
        now += gap
        for answered_at, sent_at in sorted(responses):
            if answered_at <= now:
                window.finish(sent_at, answered_at)
                responses.remove((answered_at, sent_at))
        if window.ready_at(now) <= now:
            window.take(now)
            arrivals.append(now + min(took, 10 * MARGIN) * share)
            responses.append((now + took, now))
    assert busiest_window(sorted(arrivals), 10) <= limit


def test_no_more_are_in_flight_than_allowed() -> None:
    window = SlidingWindow(None, max_in_flight=2)
    window.take(0.0)
    assert window.ready_at(0.0) == 0.0
    window.take(0.0)
    assert window.ready_at(0.0) == math.inf
    window.finish(0.0, 0.0)
    assert window.ready_at(0.0) == 0.0


def test_a_window_without_a_limit_keeps_no_slots() -> None:
    window = SlidingWindow(None)
    for _ in range(3):
        window.take(0.0)
    assert window.in_flight == 3
    assert window.ready_at(0.0) == 0.0
    assert window.share_used(0.0) == 0.0
    window.finish(0.0, 0.0)
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


def test_usage_tells_slots_requests_and_pause() -> None:
    """What ``client.stats()`` shows of a token."""
    window = taken(4, 0.0, 1.0)
    assert window.usage(2.0) == (4, 2, 0.0)
    window.pause(5.0)
    assert window.usage(2.0) == (4, 2, 3.0)
    assert window.usage(SLOT) == (4, 1, 0.0)
    window.back_off(SLOT)
    assert window.usage(SLOT) == (3, 1, 0.0)
    window = SlidingWindow(None)
    window.pause(5.0)
    assert window.usage(4.5) == (None, 0, 0.5)


# --- backing off --------------------------------------------------------------------------------------------


def refused(limit: int, accepted: int, *, rate: float = 10.0) -> SlidingWindow:
    """Return a window of ten seconds that was refused at 1.0, after ``accepted`` requests, and paused until 11.0."""
    window = SlidingWindow(Rate(limit, rate))
    for _ in range(accepted):
        window.take(0.0)
        window.finish(0.0, 0.5)
    window.pause(11.0)
    window.back_off(1.0)
    return window


def slots_of(window: SlidingWindow, now: float) -> float:
    """Return how many slots there are, by the gap between two requests."""
    window._used(now)
    window._last_taken = now
    return 10 * GAP_SHARE / (window.ready_at(now) - now) if window.ready_at(now) > now else window.limit


def test_what_the_service_accepted_shows_how_many_slots_are_left() -> None:
    """The next ones go out at the steady rate, however few were taken."""
    window = refused(500, 200)
    assert window.ready_at(5.0) == 11.0
    assert slots_of(window, 11.0) == pytest.approx(200 * 0.92)


def test_requests_under_way_at_the_429_are_counted_too() -> None:
    window = SlidingWindow(Rate(500, 10))
    for _ in range(100):
        window.take(0.0)
    window.pause(11.0)
    window.back_off(1.0)
    for _ in range(80):
        window.finish(0.0, 1.5)
    for _ in range(20):
        window.finish(0.0)  # refused as well
    assert slots_of(window, 11.0) == pytest.approx(80 * 0.92)
    window.finish(0.0, 12.0)
    assert slots_of(window, 12.0) < 80


@pytest.mark.parametrize("accepted", [0, 1, LEAST_SHOWN - 1])
def test_a_small_number_shows_nothing(accepted: int) -> None:
    """A process that has ended may have used the limit, and all of it is ours soon."""
    window = refused(500, accepted)
    assert slots_of(window, 11.0) == pytest.approx(500 * UNKNOWN_SHARE)
    assert slots_of(window, 11.0 + 50) > 450


def test_a_larger_number_shows_the_share() -> None:
    assert slots_of(refused(500, LEAST_SHOWN), 11.0) == pytest.approx(LEAST_SHOWN * 0.92)


def test_slots_come_back_slowly_near_the_limit_that_was_met_and_then_all_of_them() -> None:
    window = refused(500, 250)
    slots = [slots_of(window, 11.0 + 10 * number) for number in range(40)]
    assert slots == sorted(slots)
    assert slots[4] >= 240
    assert slots[10] <= 250
    assert slots[-1] == 500
    assert window._recovery is None
    window = refused(500, 250)
    window.finish(0.0, 5.0)
    assert slots_of(window, 11.0) == pytest.approx(251 * 0.92)
    over = window.forgettable_at()
    assert slots_of(window, over - 1) < 500
    assert slots_of(window, over + 0.01) == 500


def test_shares_become_equal_over_time() -> None:
    """Each 429 takes a part of a share, and what comes back does not depend on it."""
    large, small = 400.0, 100.0
    for _ in range(60):
        windows = [Recovery(0.0, share, int(share), 500.0, 10.0) for share in (large, small)]
        now = 0.0
        while sum(each.slots(now, 0.0) for each in windows) < 500:
            now += 1.0
        large, small = (each.slots(now, 0.0) for each in windows)
    assert large < 2 * small


def test_one_burst_of_429s_counts_once() -> None:
    window = refused(500, 200)
    window.back_off(9.0)
    assert slots_of(window, 11.0) == pytest.approx(200 * 0.92)
    window.back_off(1.0 + SLOT)  # a new one, after which nothing was accepted
    assert slots_of(window, 1.0 + SLOT) == pytest.approx(200 * 0.92 * UNKNOWN_SHARE, rel=0.05)


def test_a_window_that_is_refused_before_it_sent_anything_does_not_stop_for_ever() -> None:
    """The request was sent before its account was forgotten."""
    window = taken(4)
    window.back_off(100.0)
    assert window.ready_at(100.0) <= 100.0


def test_at_least_one_slot_is_left() -> None:
    window = SlidingWindow(Rate(1, 10))
    for number in range(5):
        window.back_off(number * 11.0)
        assert slots_of(window, number * 11.0) == 1.0
    assert window.ready_at(60.0) == 60.0
    window = SlidingWindow(Rate(3, 10))
    for number in range(20):
        window.back_off(number * 11.0)
        window.usage(number * 11.0)
    assert window.usage(20 * 11.0 - 1.0)[0] == 1


def test_a_window_that_recovered_backs_off_from_its_full_limit() -> None:
    window = refused(500, 200)
    assert window.ready_at(1000.0) == 1000.0
    window.back_off(1000.0)
    assert slots_of(window, 1000.0) == pytest.approx(500 * UNKNOWN_SHARE)


def test_a_window_that_waits_for_its_pause_to_end_is_not_forgotten() -> None:
    assert refused(500, 200).forgettable_at() == 21.0


def test_a_clock_that_steps_back_takes_no_more_slots_away() -> None:
    window = taken(4)
    window.back_off(100.0)
    window.back_off(50.0)
    assert slots_of(window, 50.0) == pytest.approx(3.0)


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

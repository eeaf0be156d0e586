"""The rules of pacing: limits kept, what responses teach, turns, and what is forgotten."""

from __future__ import annotations

import math
import random
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import examples
from tests.test_headers import garbage_headers
from tests.virtual import (
    busiest_window,
    rate_limiter,
)
from truto_ci_async._http.policy.headers import LONGEST_WAIT, Level, parse_rate_limit, parse_retry_after
from truto_ci_async._http.policy.rate_limiter import Pacing, RateLimiter, Waiter
from truto_ci_async._http.policy.rate_windows import Rate
from truto_ci_async.errors import ConfigurationError

NOW = 1_700_000_000.0  # wall clock


def respond(
    limiter: RateLimiter,
    account: str | None,
    now: float,
    status: int = 200,
    headers: dict[str, str] | None = None,
    *,
    retry_after: float | None = None,
    is_remote: bool = False,
    hint: Level | None = None,
) -> None:
    limiter.on_response(
        account,
        status,
        headers or {},
        now,
        now_epoch=NOW + now,
        retry_after=retry_after,
        is_remote=is_remote,
        hint=hint,
    )


def goes(limiter: RateLimiter, account: str, now: float) -> bool:
    """Return whether a request for ``account`` may be sent now."""
    waiter = limiter.enter(account, now)
    if waiter is not None:
        limiter.poll(now)
    return waiter is None or waiter.is_admitted


def drain(limiter: RateLimiter, account: str, start: float, end: float) -> list[float]:
    """Send as fast as allowed for one account, with instant responses; return the times of the requests."""
    times: list[float] = []
    now = start
    while now < end:
        waiter = limiter.enter(account, now)
        while waiter is not None and not waiter.is_admitted:
            now = limiter.next_at(now)
            assert now < math.inf
            limiter.poll(now)
        times.append(now)
        respond(limiter, account, now)
    return times


# --- one limit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [Rate(500, 10), Rate(50, 10), Rate(3, 1), Rate(1, 1), Rate(7, 60)])
def test_no_window_holds_more_than_the_limit_and_little_is_left_unused(rate: Rate) -> None:
    """One request too many costs a pause of ten seconds; leaving one slot in ten unused costs a tenth of the night."""
    times = drain(rate_limiter(account=rate), "a", 0.0, rate.window * 30)
    assert busiest_window(times, rate.window) == rate.limit
    assert len(times) / (times[-1] / rate.window * rate.limit) >= 0.9


def test_short_work_goes_at_once_and_long_work_flows_evenly() -> None:
    """Ten pages in a notebook must not crawl, and an hour's pull must not stall for seconds at a time."""
    times = drain(rate_limiter(account=Rate(50, 10)), "a", 0.0, 100.0)
    assert times[24] == 0.0
    gaps = [later - earlier for earlier, later in pairwise(times) if earlier > 30]
    assert max(gaps) < 1.5


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.floats(0, 3), st.sampled_from(["ok", "ok", "fail", "unsent", "429"])
        ),
        max_size=80,
    ),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_whatever_happens_the_limits_hold(
    steps: list[tuple[str, float, str]], token: int, account: int
) -> None:
    """Requests come and go, some are never sent, some are refused: no window ever holds too many."""
    limiter = rate_limiter(Rate(token, 10), Rate(account, 5))
    now = 0.0
    sent: list[tuple[float, str]] = []
    queue: list[Waiter] = []
    for name, gap, outcome in steps:
        now += gap
        waiters = [limiter.enter(name, now)]
        through = [name] if waiters[0] is None else []
        queue += [waiter for waiter in waiters if waiter is not None]
        through += [waiter.owner or name_of(waiter) for waiter in limiter.poll(now) if waiter.is_admitted]
        for account_name in through:
            if outcome == "unsent":
                limiter.on_unsent(account_name, now, admitted_at=now)
                continue
            sent.append((now, account_name))
            if outcome == "fail":
                limiter.on_failure(account_name)
            else:
                respond(limiter, account_name, now, 429 if outcome == "429" else 200)
    assert busiest_window([time for time, _ in sent], 10) <= token
    for name in "abc":
        assert busiest_window([time for time, each in sent if each == name], 5) <= account


def name_of(waiter: Waiter) -> str:
    return waiter.account.name or ""


# --- 429 ----------------------------------------------------------------------------------------------------


def test_a_429_pauses_its_account_and_nobody_else() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    assert limiter.enter("a", 0.0) is None
    respond(limiter, "a", 0.1, 429, retry_after=10.0, is_remote=True)
    waiter = limiter.enter("a", 0.2)
    assert waiter is not None
    assert (waiter.level, waiter.owner, waiter.is_admitted, waiter.refused) == ("account", None, False, None)
    assert limiter.enter("b", 0.2) is None
    assert limiter.next_at(0.2) == pytest.approx(10.1)
    assert limiter.poll(10.0) == []
    assert limiter.poll(limiter.next_at(0.2)) == [waiter]


def test_a_429_of_the_token_pauses_every_account_and_they_resume_one_by_one() -> None:
    """Forty accounts that resume at the same moment would be the next burst."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    assert limiter.enter("a", 0.0) is None
    respond(limiter, "a", 0.1, 429, retry_after=10.0, hint="token")
    waiters = [limiter.enter(f"b{n}", 0.2) for n in range(40)]
    assert {waiter.level for waiter in waiters if waiter} == {"token"}
    now, woken = 0.2, []
    while len(woken) < 40:
        now = limiter.next_at(now)
        woken += [now] * len(limiter.poll(now))
    assert woken[0] == pytest.approx(10.1)
    assert min(later - earlier for earlier, later in pairwise(woken)) > 0.015


def test_a_second_429_can_only_make_the_pause_longer() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for retry_after in (10.0, 2.0):
        limiter.enter("a", 0.0)
        respond(limiter, "a", 0.0, 429, retry_after=retry_after, is_remote=True)
    limiter.enter("a", 0.0)
    assert limiter.next_at(0.0) == 10.0


def test_processes_come_back_from_a_pause_at_different_times() -> None:
    """The spread only adds time: nobody resumes before the service said."""
    rng = random.Random(4)
    ends: list[float] = []
    for _ in range(50):
        limiter = RateLimiter(Pacing(), random=rng.random)
        limiter.enter("a", 0.0)
        respond(limiter, "a", 0.0, 429, retry_after=10.0, is_remote=True)
        limiter.enter("a", 0.0)
        ends.append(limiter.next_at(0.0))
    assert min(ends) >= 10.0
    assert max(ends) <= 10.5
    assert len({round(end, 2) for end in ends}) > 20


def test_after_a_429_a_level_backs_off_and_recovers_slowly() -> None:
    """Someone else uses this limit too: a quarter fewer slots, then a few more with every quiet window."""
    limiter = rate_limiter(account=Rate(100, 10))
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 429, retry_after=10.0)
    times = drain(limiter, "a", 10.0, 200.0)
    per_window = [sum(1 for time in times if low <= time < low + 10) for low in range(20, 180, 10)]
    assert 75 <= per_window[0] <= 90
    assert per_window[-1] >= 90
    assert all(later >= earlier - 5 for earlier, later in pairwise(per_window))


def test_the_429s_of_one_burst_count_once() -> None:
    """Forty requests were in flight when the limit was hit. That is one reason to back off, not forty."""
    limiter = rate_limiter(account=Rate(100, 10))
    for _ in range(40):
        limiter.enter("a", 0.0)
    for n in range(40):
        respond(limiter, "a", 0.1 + n * 0.01, 429, retry_after=10.0)
    times = drain(limiter, "a", 10.0, 60.0)
    assert sum(1 for time in times if 30 <= time < 40) >= 75


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hint": "token"}, "token"),
        ({"hint": "account"}, "account"),
        ({"is_remote": True}, "account"),
        ({"headers": {"ratelimit-remaining": "0"}}, "account"),
        ({"is_remote": True, "hint": "token"}, "token"),
        ({}, "account"),  # nothing points to the token yet
    ],
)
def test_the_level_of_a_429(options: dict[str, object], expected: str) -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for n in range(100):
        limiter.enter(f"b{n}", 0.0)
    respond(limiter, "b0", 0.0, 429, retry_after=10.0, **options)  # type: ignore[arg-type]
    assert (limiter._token.paused_until, limiter._accounts["b0"].window.paused_until) == (
        (10.0, -math.inf) if expected == "token" else (-math.inf, 10.0)
    )


def test_429s_of_several_accounts_in_a_row_are_blamed_on_the_token() -> None:
    """As after a restart: the service still counts what the previous process sent."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for n in range(30):
        limiter.enter(f"a{n}", 0.0)
    for n in range(3):
        assert limiter.enter(f"c{n}", 0.0) is None
        limiter.on_response(f"a{n}", 429, {}, 0.1, now_epoch=NOW, retry_after=10.0)
    assert limiter.enter("d", 0.2) is not None
    assert limiter._accounts["a2"].window.paused_until == 10.1  # its account is paused as well


def test_429s_between_successes_are_blamed_on_their_accounts() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for n in range(30):
        limiter.enter(f"a{n}", 0.0)
    for n in range(0, 30, 2):
        respond(limiter, f"a{n}", 0.1, 429, retry_after=10.0)
        respond(limiter, f"a{n + 1}", 0.1)
    assert limiter.enter("d", 0.2) is None


def test_accounts_refused_again_and_again_are_blamed_on_the_token_once() -> None:
    """Their pauses end together, so they are refused together, whatever state the token is in."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    pauses: set[float] = set()
    for turn in range(6):
        now = turn * 20.0
        for n in range(150):
            goes(limiter, f"a{n % 60}", now + n * 0.06)
            respond(limiter, f"a{n % 60}", now + n * 0.06)
        for n in range(4):
            limiter.on_response(f"limited{n}", 429, {}, now + 9.5, now_epoch=NOW, retry_after=2.0)
        pauses.add(limiter._token.paused_until)
    assert len(pauses) == 1


def test_successes_clear_the_blame() -> None:
    """One more account at its provider's limit every few seconds says nothing about the token's limit."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for turn in range(20):
        now = turn * 5.0
        for n in range(100):
            goes(limiter, f"a{n}", now + n * 0.04)
            respond(limiter, f"a{n}", now + n * 0.04)
        limiter.on_response(f"limited{turn}", 429, {}, now + 4.5, now_epoch=NOW, retry_after=1.0)
    assert limiter._token.paused_until == -math.inf


def test_accounts_at_their_own_limits_are_not_blamed_on_the_token() -> None:
    """Other processes use the same accounts, so each account is closer to its own limit than to the token's."""
    limiter = rate_limiter(Rate(500, 10), Rate(2, 10))
    for n in range(20):
        goes(limiter, f"a{n}", 0.0)
    for n in range(20):
        limiter.on_response(f"a{n}", 429, {}, 0.1, now_epoch=NOW, retry_after=10.0)
    assert limiter._token.paused_until == -math.inf


def test_a_long_pause_is_never_blamed_on_the_token() -> None:
    """A provider's daily limit must not stop the whole client for a day."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for n in range(30):
        limiter.enter(f"a{n}", 0.0)
    for n in range(10):
        respond(limiter, f"a{n}", 0.1, 429, retry_after=3600.0)
    assert limiter.enter("d", 0.2) is None


@pytest.mark.parametrize(("pause", "is_token_paused"), [(15.0, True), (15.1, False)])
def test_the_longest_pause_that_is_blamed_on_the_token(pause: float, is_token_paused: bool) -> None:
    """One and a half of its windows."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for n in range(100):
        limiter.enter(f"a{n}", 0.0)
    for n in range(3):
        respond(limiter, f"a{n}", 0.1, 429, retry_after=pause)
    assert (limiter._token.paused_until > 0) == is_token_paused


@pytest.mark.parametrize(("busy_accounts", "is_token_paused"), [(10, False), (11, True)])
def test_the_level_closer_to_its_limit_is_to_blame(busy_accounts: int, is_token_paused: bool) -> None:
    """Each account uses half of its limit, and all together use half of the token's, or a little more."""
    limiter = rate_limiter(Rate(20, 10), Rate(2, 10))
    for n in range(busy_accounts):
        goes(limiter, f"a{n}", n * 0.5)
    for n in range(3):
        respond(limiter, f"a{n}", 6.0, 429, retry_after=1.0)
    assert (limiter._token.paused_until > 0) == is_token_paused


def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    """This goes for requests in the queue and for later ones. Other accounts are not affected."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10), max_wait=60.0)
    while (queued := limiter.enter("a", 0.0)) is None:
        pass
    respond(limiter, "a", 0.0, 429, retry_after=86400.0)
    late = limiter.enter("a", 1.0)
    assert late is not None
    assert set(limiter.poll(1.0)) == {queued, late}
    assert (queued.refused, late.refused) == (86400.0, 86399.0)
    assert (queued.level, late.level) == ("account", "account")
    assert not queued.is_admitted
    assert limiter.waiting == 0
    assert goes(limiter, "b", 1.0)
    assert goes(limiter, "a", 86401.0)


@pytest.mark.parametrize(("pause", "is_refused"), [(61.0, False), (61.5, True)])
def test_pauses_of_a_minute_and_a_second_are_waited_out_by_default(pause: float, is_refused: bool) -> None:
    """The longest ``Retry-After`` of the default policy, and the most that is added at random."""
    limiter = RateLimiter(random=lambda: 0.0)
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 429, retry_after=pause, is_remote=True)
    waiter = limiter.enter("a", 0.0)
    assert waiter is not None
    assert limiter.poll(0.0) == ([waiter] if is_refused else [])


def test_a_pause_of_token_and_account_is_refused_as_the_tokens() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10), max_wait=5.0)
    for n in range(30):
        limiter.enter(f"a{n}", 0.0)
    for n in range(3):
        respond(limiter, f"a{n}", 0.1, 429, retry_after=10.0)
    waiter = limiter.enter("a2", 0.2)
    assert waiter is not None
    assert limiter.poll(0.2) == [waiter]
    assert (waiter.level, waiter.refused) == ("token", pytest.approx(9.9))


def test_a_long_pause_of_the_token_refuses_every_account() -> None:
    """If the service names the token, its word counts, and no call hangs until its deadline."""
    limiter = rate_limiter(Rate(1, 10), Rate(50, 10), max_wait=60.0)
    limiter.enter("x", 0.0)
    queued = [limiter.enter(name, 0.0) for name in "abb"]
    respond(limiter, "x", 0.0, 429, retry_after=3600.0, hint="token")
    late = limiter.enter("c", 1.0)
    refused = limiter.poll(1.0)
    assert set(refused) == {*queued, late}
    assert {waiter.level for waiter in refused} == {"token"}
    assert limiter.waiting == 0


def test_a_pause_of_the_longest_allowed_wait_is_waited_out() -> None:
    limiter = RateLimiter(Pacing(), max_wait=60.0, random=lambda: 0.999)
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 429, retry_after=60.0, hint="token")
    waiter = limiter.enter("a", 0.0)
    assert waiter is not None
    assert limiter.poll(0.0) == []
    assert waiter.refused is None


# --- ratelimit headers --------------------------------------------------------------------------------------


def test_what_remains_until_the_reset_is_all_that_is_sent() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for _ in range(3):
        limiter.enter("a", 0.0)
    # The provider says that five remain, but may not have counted the two in flight.
    respond(limiter, "a", 0.0, 200, {"ratelimit-remaining": "5", "ratelimit-reset": "8"})
    assert [limiter.enter("a", 0.0) is None for _ in range(4)] == [True, True, True, False]
    assert limiter.next_at(0.0) == 8.0
    assert limiter.enter("b", 0.0) is None
    assert len(limiter.poll(8.0)) == 1


def test_a_limit_below_the_tier_is_kept_even_without_a_remaining_count() -> None:
    """Gong allows three calls a second, far below the tier's bursts."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 200, {"ratelimit-limit": "3;w=1"})
    times = drain(limiter, "a", 0.0, 20.0)
    for low in range(1, 19):
        assert sum(1 for time in times if low <= time < low + 1) <= 3
    assert len(times) >= 19 * 3


def test_a_request_that_was_not_sent_leaves_what_remains_untouched() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 200, {"ratelimit-remaining": "1", "ratelimit-reset": "8"})
    assert goes(limiter, "a", 0.0)
    waiting = limiter.enter("a", 0.0)
    limiter.on_unsent("a", 0.0, admitted_at=0.0)
    assert limiter.poll(0.0) == [waiting]


def test_an_unsent_request_gives_everything_back() -> None:
    limiter = rate_limiter(Rate(1, 10), Rate(1, 10))
    assert goes(limiter, "a", 0.0)
    limiter.on_unsent("a", 1.0, admitted_at=0.0)
    assert limiter._token.in_flight == limiter._accounts["a"].window.in_flight == 0
    assert goes(limiter, "a", 1.0)
    limiter = rate_limiter()
    goes(limiter, "a", 0.0)
    respond(limiter, "a", 0.0, 200, {"ratelimit-remaining": "4", "ratelimit-reset": "8"})
    for left in (3, 2):
        assert goes(limiter, "a", 0.0)
        assert remaining(limiter, "a") == left
    limiter.on_unsent("a", 0.0, admitted_at=0.0)
    assert remaining(limiter, "a") == 3


def test_an_unsent_request_gives_back_its_own_slot_and_no_other() -> None:
    """Given back in place of it, the newest would be free while its own runs out: too many in one window."""
    limiter = rate_limiter(Rate(2, 10), Rate(2, 10))
    assert goes(limiter, "a", 0.0)
    assert goes(limiter, "a", 9.0)
    limiter.on_unsent("a", 9.0, admitted_at=0.0)
    assert limiter._token._sent == limiter._accounts["a"].window._sent == {9.0: 1}
    for now in (9.5, 10.5, 19.3):  # the slot of the first is free already when it is given back
        limiter = rate_limiter(Rate(2, 10), Rate(2, 10))
        for at in (0.0, 9.0):
            assert goes(limiter, "a", at)
        assert (limiter.enter("a", now) is None) == (now > 10.4)
        limiter.on_unsent("a", now, admitted_at=0.0)
        limiter.poll(now)
        assert limiter._token.in_flight == 2


def test_an_unsent_request_that_a_later_one_has_overtaken_leaves_nothing_behind() -> None:
    """The response was taken for that of the oldest request, which was not sent."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for at in (0.0, 1.0):
        assert goes(limiter, "a", at)
    respond(limiter, "a", 2.0, 200)
    limiter.on_unsent("a", 3.0, admitted_at=0.0)
    state = limiter._accounts["a"]
    assert not state.sent
    assert limiter._token.in_flight == state.window.in_flight == 0
    assert limiter._token._used(10.5) == 1  # the one that was sent keeps its slot


def test_a_wait_that_makes_no_sense_is_not_kept() -> None:
    """A hundred years: the next request finds out whether it is meant."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    assert goes(limiter, "a", 0.0)
    respond(limiter, "a", 0.0, 429, retry_after=LONGEST_WAIT)
    assert not goes(limiter, "a", 0.5)
    assert len(limiter.poll(3.0)) == 1


def test_a_request_without_a_response_keeps_its_slots() -> None:
    """The service may have counted it."""
    limiter = rate_limiter(Rate(1, 10), Rate(1, 10))
    assert goes(limiter, "a", 0.0)
    limiter.on_failure("a")
    assert limiter._token.in_flight == limiter._accounts["a"].window.in_flight == 0
    assert not goes(limiter, "a", 1.0)
    assert not goes(limiter, "b", 1.0)


def test_a_response_frees_the_slots_one_window_later() -> None:
    """Those of a request without a response are kept a little longer."""
    limiter = rate_limiter(Rate(1, 10), Rate(1, 10))
    assert goes(limiter, "a", 0.0)
    respond(limiter, "a", 0.05)
    assert goes(limiter, "a", 10.07)


def remaining(limiter: RateLimiter, account: str) -> float:
    quota = limiter._accounts[account].quota
    assert quota is not None
    return quota.left


def test_headers_teach_nothing_about_the_token() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    limiter.enter("a", 0.0)
    respond(
        limiter,
        "a",
        0.0,
        200,
        {"ratelimit-limit": "1;w=10", "ratelimit-remaining": "0", "ratelimit-reset": "9"},
    )
    assert all(limiter.enter(f"b{n}", 0.0) is None for n in range(200))


def test_a_header_alone_never_closes_an_account_for_long() -> None:
    """A wrong counter would stop an account for ever. A real limit responds with a 429."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10), max_wait=60.0)
    for headers in (
        {"ratelimit-remaining": "0", "ratelimit-reset": "3600"},
        {"ratelimit-remaining": "0", "ratelimit-reset": "1700009999"},
        {"ratelimit-remaining": "0"},
        {"ratelimit-limit": "0;w=10"},
        {"ratelimit-limit": "1;w=86400"},
    ):
        for _ in range(3):
            assert goes(limiter, "a", 0.0), headers
            respond(limiter, "a", 0.0, 200, headers)


@examples(500)
@given(
    garbage_headers,
    st.floats(),
    st.sampled_from([200, 404, 429, 503]),
    st.booleans(),
)
def test_no_header_can_break_or_block_the_limiter(
    headers: dict[str, str], now_epoch: float, status: int, is_remote: bool
) -> None:
    """A provider can send anything in its headers. At worst one account waits a minute, and no other waits at all."""
    retry_after = parse_retry_after(headers, now_epoch)
    told = parse_rate_limit(headers, now_epoch)
    assert told is None or told.reset is None or 0 <= told.reset < 1e9
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    for now in (0.0, 0.0, 1.0):
        goes(limiter, "a", now)
        limiter.on_response(
            "a", status, headers, now, now_epoch=now_epoch, retry_after=retry_after, is_remote=is_remote
        )
    assert goes(limiter, "b", 1.0)
    waiter = limiter.enter("a", 1.0)
    now = 1.0
    while waiter is not None and not waiter.is_admitted and waiter.refused is None:
        now = limiter.next_at(now)
        assert now <= 1.0 + 61.0
        limiter.poll(now)
    assert status == 429 or waiter is None or waiter.is_admitted


# --- turns --------------------------------------------------------------------------------------------------


def test_accounts_take_turns_and_within_one_it_is_first_come_first_served() -> None:
    limiter = rate_limiter(Rate(4, 10))
    for _ in range(2):
        assert limiter.enter("x", 0.0) is None
    respond(limiter, "x", 0.0, 429, retry_after=20.0, hint="token")
    waiters: dict[Waiter, str] = {}
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        waiter = limiter.enter(name[0], 0.0)
        assert waiter is not None
        waiters[waiter] = name
    order: list[str] = []
    now = 0.0
    while limiter.waiting:
        now = limiter.next_at(now)
        order += [waiters[waiter] for waiter in limiter.poll(now)]
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_newcomers_do_not_overtake() -> None:
    """The slot became free a moment ago, and ``poll`` was not called since."""
    limiter = rate_limiter(Rate(1, 10))
    limiter.enter("x", 0.0)
    first = limiter.enter("a", 0.0)
    late = limiter.enter("b", 11.0)
    assert late is not None
    assert limiter.poll(11.0) == [first]
    limiter = rate_limiter(None, Rate(1, 10))
    limiter.enter("a", 0.0)
    first = limiter.enter("a", 0.0)
    late = limiter.enter("a", 11.0)
    assert late is not None
    assert limiter.poll(11.0) == [first]


def test_an_account_that_waits_for_its_own_limit_holds_up_no_other() -> None:
    limiter = rate_limiter(None, Rate(1, 10))
    assert limiter.enter("a", 0.0) is None
    waiters = [limiter.enter("a", 1.0) for _ in range(2)]
    assert [waiter.level for waiter in waiters if waiter] == ["account", "account"]
    assert limiter.enter("b", 9.0) is None
    due = limiter.next_at(9.0)
    assert limiter.enter("c", due) is not None  # "a" may go as well now
    assert waiters[0] in limiter.poll(due)


def test_a_pause_also_holds_back_an_account_whose_turn_had_come() -> None:
    """It waited only for the token, and meanwhile another request of the account got a 429."""
    limiter = rate_limiter(Rate(1, 10), Rate(50, 10))
    limiter.enter("a", 0.0)
    waiting = [limiter.enter("a", 0.1), limiter.enter("b", 0.2)]
    limiter.poll(0.3)
    respond(limiter, "a", 5.0, 429, retry_after=30.0, is_remote=True)
    assert limiter.poll(11.0) == [waiting[1]]
    assert limiter.poll(34.0) == []
    assert limiter.poll(36.0) == [waiting[0]]


def test_a_waiter_that_left_is_skipped() -> None:
    limiter = rate_limiter(Rate(1, 10))
    limiter.enter("x", 0.0)
    waiters = [limiter.enter("a", 0.0) for _ in range(3)]
    assert waiters[0] is not None
    assert waiters[1] is not None
    limiter.leave(waiters[1])
    limiter.leave(waiters[1])
    limiter.leave(waiters[0])
    assert limiter.waiting == 1
    assert limiter.poll(limiter.next_at(0.0)) == [waiters[2]]
    assert limiter.next_at(11.0) == math.inf


@given(st.data())
def test_nobody_is_lost_in_the_queue(data: st.DataObject) -> None:
    """Any mix of arrivals, departures, responses and pauses: each request is admitted, leaves or is refused, once."""
    limiter = rate_limiter(Rate(data.draw(st.integers(1, 5)), 10), Rate(data.draw(st.integers(1, 3)), 10))
    now = 0.0
    waiting: list[Waiter] = []
    out: deque[str] = deque()
    entered = went = refused = left = 0

    def collect() -> None:
        nonlocal went, refused
        for waiter in limiter.poll(now):
            waiting.remove(waiter)
            assert waiter.is_admitted == (waiter.refused is None)
            if waiter.is_admitted:
                went += 1
                out.append(name_of(waiter))
            else:
                refused += 1

    for _ in range(data.draw(st.integers(0, 40))):
        step = data.draw(
            st.sampled_from(["enter", "enter", "leave", "wait", "answer", "429", "quota", "unsent"])
        )
        if step == "enter":
            name = data.draw(st.sampled_from("abcd"))
            waiter = limiter.enter(name, now)
            entered += 1
            if waiter is None:
                went += 1
                out.append(name)
            else:
                waiting.append(waiter)
        elif step == "leave" and waiting:
            waiter = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            limiter.leave(waiter)
            left += 1
        elif step == "wait":
            now += data.draw(st.floats(0, 20))
        elif out and step == "unsent":
            limiter.on_unsent(out.popleft(), now, admitted_at=now)
        elif out and step == "429":
            retry_after = data.draw(st.sampled_from([None, 0.0, 5.0, 1000.0]))
            hint: Level | None = data.draw(st.sampled_from([None, "token", "account"]))
            respond(limiter, out.popleft(), now, 429, retry_after=retry_after, hint=hint)
        elif out and step == "quota":
            headers = {"ratelimit-limit": "2;w=7", "ratelimit-remaining": "0", "ratelimit-reset": "9"}
            respond(limiter, out.popleft(), now, 200, headers)
        elif out and step == "answer":
            respond(limiter, out.popleft(), now)
        collect()
        assert limiter.waiting == len(waiting)
        assert all(waiter.refused is None for waiter in waiting)

    for _ in range(1000):
        if not waiting:
            break
        while out:
            respond(limiter, out.popleft(), now)
        at = limiter.next_at(now)
        assert now <= at < math.inf
        now = at
        collect()
    assert not waiting
    assert entered == went + refused + left
    assert limiter.next_at(now) == math.inf


def test_the_queue_tells_what_its_requests_wait_for() -> None:
    limiter = rate_limiter(Rate(4, 10), Rate(1, 10))
    assert limiter.waiting_by_level(0.0) == {"token": 0, "account": 0}
    for name in "aaabbcdd":
        limiter.enter(name, 0.0)
    assert limiter.waiting_by_level(0.0) == {"token": 0, "account": 4}
    for name in "eff":
        limiter.enter(name, 0.0)
    assert limiter.waiting_by_level(0.0) == {"token": 3, "account": 4}


def test_a_postponed_request_keeps_its_place() -> None:
    """A shared budget refused it."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    assert limiter.enter("a", 0.0) is None
    before = limiter.enter("a", 0.0)
    first = limiter.postpone("a", 0.0, admitted_at=0.0, wait=0.5)
    assert (before, first.level, first.owner) == (None, "account", None)
    second = limiter.enter("a", 0.1)
    postponed_again = limiter.postpone("a", 0.1, admitted_at=0.0, wait=0.4)
    assert limiter._token._sent == limiter._accounts["a"].window._sent == {}
    assert limiter.enter("b", 0.1) is None
    assert limiter.poll(0.4) == []
    assert limiter.next_at(0.4) == 0.5
    assert limiter.poll(0.5) == [postponed_again, first, second]


def test_a_postponed_request_is_refused_if_its_account_is_paused_for_too_long() -> None:
    """The 429 came while the shared budget was asked."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10), max_wait=60.0)
    assert [limiter.enter("a", 0.0) for _ in range(2)] == [None, None]
    respond(limiter, "a", 0.1, 429, retry_after=600.0, is_remote=True)
    waiter = limiter.postpone("a", 0.2, admitted_at=0.0, wait=0.5)
    assert limiter.next_at(0.2) == 0.2
    assert limiter.poll(0.2) == [waiter]
    assert waiter.refused == pytest.approx(599.9)


# --- memory -------------------------------------------------------------------------------------------------


def test_idle_accounts_are_forgotten() -> None:
    """A year of customers passes through one client."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    most = 0
    for n in range(5000):
        now = n * 0.05
        assert limiter.enter(f"a{n}", now) is None
        kind = n % 4
        if kind == 0:
            respond(limiter, f"a{n}", now, 429, retry_after=1.0, is_remote=True)
        elif kind == 1:
            respond(limiter, f"a{n}", now, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "3"})
        elif kind == 2:
            limiter.on_failure(f"a{n}")
        else:
            respond(limiter, f"a{n}", now)
        most = max(most, len(limiter))
    assert most < 1500  # those of one or two windows, and those throttled in the last minutes
    for n in range(3):
        limiter.enter("z", 1000.0 + n * 50)
    assert len(limiter) == 1


def test_the_queue_itself_stays_small() -> None:
    """However often the due time of a waiting account changes, it is in the heap once."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "50"})
    for _ in range(100):
        limiter.enter("a", 0.0)
    assert len(limiter._delayed) == 1
    for n in range(100):  # earlier every time
        respond(limiter, "a", 0.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": str(40 - n * 0.1)})
    respond(limiter, "a", 29.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "50"})
    limiter.poll(45.0)
    assert len(limiter._delayed) <= 2


def test_an_account_is_not_forgotten_while_its_pause_lasts() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10), max_wait=1000.0)
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 429, retry_after=500.0)
    for now in range(0, 499, 7):
        assert limiter.enter("b", float(now)) is None
    assert limiter.enter("a", 499.0) is not None


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize(("at", "is_forgotten"), [(9.9, False), (10.0, True)])
def test_an_account_is_forgotten_after_ten_seconds_or_its_pause(
    status: int, at: float, is_forgotten: bool
) -> None:
    limiter = rate_limiter(Rate(500, 10), None)
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, status, retry_after=10.0, is_remote=True)
    limiter.enter("b", at)
    assert ("a" not in limiter._accounts) == is_forgotten


@pytest.mark.parametrize(("at", "is_forgotten"), [(29.9, False), (30.0, True)])
def test_an_account_is_not_forgotten_before_its_providers_reset(at: float, is_forgotten: bool) -> None:
    limiter = rate_limiter(Rate(500, 10), None)
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "20"})
    for now in (10.0, at):
        limiter.enter("b", now)
    assert ("a" not in limiter._accounts) == is_forgotten


@pytest.mark.parametrize(("at", "is_forgotten"), [(70.6, False), (70.7, True)])
def test_an_account_is_not_forgotten_while_requests_count_towards_its_daily_quota(
    at: float, is_forgotten: bool
) -> None:
    limiter = RateLimiter(Pacing(account_daily=Rate(2, 60.0)))
    limiter.enter("a", 0.0)
    respond(limiter, "a", 0.0)
    for now in (10.0, at):  # it is looked at ten seconds after its quota is free again
        limiter.enter("b", now)
    assert ("a" not in limiter._accounts) == is_forgotten


def test_an_account_with_waiters_is_not_forgotten() -> None:
    limiter = rate_limiter(Rate(1, 100), None)
    limiter.enter("a", 0.0)
    waiting = limiter.enter("a", 0.0)
    limiter.enter("b", 50.0)
    assert "a" in limiter._accounts
    assert limiter.poll(104.0) == [waiting]


def test_an_account_is_remembered_for_as_long_as_a_request_takes() -> None:
    """Forgotten before, it would be counted anew, and the slow request taken off that count."""
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    limiter.enter("a", 0.0)
    for now in (30.0, 60.0):
        limiter.enter("b", now)
        respond(limiter, "b", now)
    assert goes(limiter, "a", 60.0)
    assert limiter._accounts["a"].window.in_flight == 2
    respond(limiter, "a", 60.0, 429, retry_after=10.0)
    assert limiter._accounts["a"].window.in_flight == 1
    assert limiter.enter("a", 61.0) is not None


def test_what_is_not_known_of_an_account_may_be_reported() -> None:
    limiter = rate_limiter(Rate(500, 10), Rate(50, 10))
    respond(limiter, "c", 61.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "9"})
    assert not goes(limiter, "c", 61.0)
    respond(limiter, "never seen", 61.0)
    limiter.on_failure("never seen")
    limiter.on_unsent("never seen", 61.0, admitted_at=60.0)
    waiter = limiter.postpone("never seen", 61.0, admitted_at=60.0, wait=0.5)
    assert limiter.poll(61.5) == [waiter]


# --- options ------------------------------------------------------------------------------------------------


def test_off_means_off() -> None:
    assert Pacing.off() == Pacing(token=None, account=None, enabled=False)
    limiter = RateLimiter(Pacing.off())
    assert not limiter.is_on
    for _ in range(5000):
        assert limiter.enter("a", 0.0) is None
        respond(limiter, "a", 0.0, 429, retry_after=10.0)


def test_a_level_without_a_limit_still_pauses() -> None:
    limiter = rate_limiter(None, None)
    assert all(limiter.enter("a", 0.0) is None for _ in range(5000))
    respond(limiter, "a", 0.0, 429, retry_after=10.0)
    assert limiter.enter("a", 1.0) is not None
    assert limiter.enter("b", 1.0) is None


def test_pacing_refuses_what_is_no_rate() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^Pacing\.token must be a Rate\(limit, window\) or None, got \(500, 10\)$"
    ):
        Pacing(token=(500, 10))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Pacing\.account must be a Rate"):
        Pacing(account=(50, 10))  # type: ignore[arg-type]


def test_no_more_are_admitted_than_there_are_connections() -> None:
    """A request that waits for a connection after admission leaves later than the limits assume, and in a burst."""
    limiter = RateLimiter(Pacing(token=Rate(100, 1), account=Rate(100, 1)), max_in_flight=2)
    assert [limiter.enter(str(number), 0.0) is None for number in range(4)] == [True, True, False, False]
    assert limiter.poll(5.0) == []
    assert limiter.next_at(5.0) == math.inf
    limiter.on_failure("0")
    assert len(limiter.poll(5.0)) == 1
    limiter.on_unsent("1", 5.0, admitted_at=0.0)
    assert len(limiter.poll(5.0)) == 1

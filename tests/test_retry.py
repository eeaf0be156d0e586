"""Retries: which failures, after how long, how often, and how many for a whole client."""

from __future__ import annotations

import math
import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truto_ci_async._http.policy.retry import (
    Failure,
    GiveUp,
    Retry,
    RetryBudget,
    RetryPolicy,
    RetryState,
    Timeouts,
    can_never_succeed,
    classify,
    quick_retries,
)
from truto_ci_async.errors import ConfigurationError

NOW = 1_700_000_000.0  # wall clock


def full_budget(policy: RetryPolicy | None = None, left: float | None = None) -> RetryBudget:
    policy = policy or RetryPolicy()
    budget = RetryBudget(policy.budget_capacity, policy.budget_refill)
    if left is not None:
        budget.left = left
    return budget


def state(
    policy: RetryPolicy | None = None,
    *,
    draw: float = 0.5,
    total: float | None = None,
    can_refresh: bool = False,
    budget: RetryBudget | None = None,
) -> RetryState:
    """Return a call that started at 0 and has sent its first request."""
    state = RetryState(
        policy or RetryPolicy(),
        budget or full_budget(policy),
        total=total,
        can_refresh=can_refresh,
        random=lambda: draw,
    )
    state.sent()
    return state


def status(code: int, retry_after: float | None = None, *, is_remote: bool = False) -> Failure:
    return Failure(kind="status", status=code, retry_after=retry_after, is_remote=is_remote)


# --- what is retried ----------------------------------------------------------------------------------------

FAULTS = {408, 425, 500, 502, 504, 520, 521, 522, 523, 524}


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize("has_retry_after", [False, True])
@pytest.mark.parametrize("is_blocked", [False, True])
def test_every_status_is_retried_as_the_contract_says(
    is_remote: bool, has_retry_after: bool, is_blocked: bool
) -> None:
    """One retry too many hammers a service that said no; one too few loses a page."""
    for code in range(100, 600):
        expected = "no"
        if code in FAULTS:
            expected = "fault"
        elif code == 429 or (code == 503 and has_retry_after):
            expected = "throttle"
        elif code == 503 and not is_blocked:  # an account that Truto has blocked stays blocked
            expected = "fault"
        elif code == 401 and not is_remote:
            expected = "auth"
        verdict = classify(code, is_remote=is_remote, has_retry_after=has_retry_after, is_blocked=is_blocked)
        assert verdict == expected, code


def test_which_statuses_never_change() -> None:
    """A pull gives up on such an account at once, instead of trying again in the next rounds."""
    expected = {*range(300, 400), 501, 505, 506, 508, 510, 511}
    assert {code for code in range(100, 600) if can_never_succeed(code)} == expected


@pytest.mark.parametrize(
    ("kind", "is_retried"), [("connect", True), ("timeout", True), ("truncated", True), ("fatal", False)]
)
def test_failures_without_a_response(kind: str, is_retried: bool) -> None:
    """A lost connection may work the next time; a bad certificate never will."""
    decision = state().failed(Failure(kind=kind), 0.0)  # type: ignore[arg-type]
    assert decision == (Retry(wait=0.025, reason=kind) if is_retried else GiveUp(reason="not retryable"))


def test_a_local_401_is_retried_once_if_a_new_token_can_be_fetched() -> None:
    """Tokens of an integrated account live 15 minutes. If a fresh one is refused too, that is final."""
    call = state(can_refresh=True)
    assert call.failed(status(401), 0.0) == Retry(wait=0.0, reason="status 401", fresh_token=True)
    call.sent()
    assert call.failed(status(401), 0.0) == GiveUp(reason="not retryable")
    assert state().failed(status(401), 0.0) == GiveUp(reason="not retryable")
    call = RetryState(RetryPolicy(), full_budget())
    assert call.failed(status(401), 0.0) == GiveUp(reason="not retryable")
    assert state(can_refresh=True).failed(status(401, is_remote=True), 0.0) == GiveUp(reason="not retryable")


def test_a_token_may_expire_before_the_last_attempt() -> None:
    """The others were faults, of which a refused token is none: it would end a whole pull."""
    call = state(RetryPolicy(attempts=2), can_refresh=True)
    assert isinstance(call.failed(status(500), 0.0), Retry)
    call.sent()
    assert call.failed(status(401), 0.0) == Retry(wait=0.0, reason="status 401", fresh_token=True)
    call.sent()
    assert call.failed(status(401), 0.0) == GiveUp(reason="not retryable")
    assert call.failed(status(500), 0.0) == GiveUp(reason="attempts")


def test_a_fresh_token_costs_no_budget() -> None:
    """If the token expires under a thousand running calls, all of them must be able to retry."""
    budget = full_budget(left=0.0)
    assert isinstance(state(can_refresh=True, budget=budget).failed(status(401), 0.0), Retry)


# --- waits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        (None, (0.0, 1.0)),  # missing: backoff
        (0.0, (0.0, 1.0)),
        (10.0, (10.0, 11.0)),
        (60.0, (60.0, 61.0)),
        (60.5, None),
        (86400.0, None),
    ],
)
def test_the_first_wait_after_a_429(retry_after: float | None, expected: tuple[float, float] | None) -> None:
    """Never earlier than asked, since the spread only adds time; a wait above ``max_wait`` gives up at once."""
    for draw in (0.0, 0.3, 0.999999):
        decision = state(draw=draw, total=300.0).failed(status(429, retry_after), 0.0)
        if expected is None:
            assert decision == GiveUp(reason="wait too long")
        else:
            assert isinstance(decision, Retry)
            assert expected[0] <= decision.wait < expected[1]


def test_backoff_doubles_from_its_base_up_to_its_ceiling() -> None:
    """Faults pass quickly and throttling does not, so there are two bases."""
    for code, base in ((500, 0.05), (429, 1.0)):
        call = state(RetryPolicy(attempts=2000), draw=1 - 2**-53, budget=RetryBudget(1e6, 0.5))
        waits: list[float] = []
        for _ in range(1500):
            decision = call.failed(status(code), 0.0)
            assert isinstance(decision, Retry)
            waits.append(decision.wait)
            call.sent()
        assert waits[:4] == pytest.approx([base, base * 2, base * 4, base * 8])
        assert max(waits) <= 60.0
        assert waits[-1] == pytest.approx(60.0)


@given(
    st.floats(0, 1, exclude_max=True),
    st.none() | st.floats(0, 1e6),
    st.integers(1, 60),
    st.floats(0, 120),
    st.floats(0, 10),
    st.sampled_from([429, 500, 503]),
)
def test_a_wait_is_never_negative_nor_earlier_than_asked_nor_endless(
    draw: float, retry_after: float | None, attempts: int, max_wait: float, base: float, code: int
) -> None:
    call = state(RetryPolicy(attempts=100, max_wait=max_wait, fault_base=base, throttle_base=base), draw=draw)
    for _ in range(attempts - 1):
        call.sent()
    decision = call.failed(status(code, retry_after), 0.0)
    if isinstance(decision, Retry):
        assert (retry_after or 0.0) <= decision.wait <= max_wait + base
    else:
        assert retry_after is None or retry_after > max_wait


@pytest.mark.parametrize(
    ("code", "retry_after", "attempts", "longest"),
    [
        (500, None, 1, 0.05),
        (500, None, 3, 0.2),
        (500, None, 30, 60.0),
        (429, 10.0, 1, 11.0),
        (429, 10.0, 3, 14.0),
        (429, 10.0, 30, 60.0),  # the spread ends at max_wait ...
        (429, 59.5, 30, 60.5),  # ... but is never smaller than its base
        (503, 59.5, 30, 60.5),
    ],
)
def test_the_longest_wait_before_an_attempt(
    code: int, retry_after: float | None, attempts: int, longest: float
) -> None:
    call = state(RetryPolicy(attempts=100), draw=1.0)
    for _ in range(attempts - 1):
        call.sent()
    decision = call.failed(status(code, retry_after), 0.0)
    assert isinstance(decision, Retry)
    assert decision.wait == pytest.approx(longest)


def test_waits_are_spread_over_the_whole_interval() -> None:
    """Full jitter: a thousand clients disconnected at once must not come back at once."""
    rng = random.Random(7)
    waits: list[float] = []
    for _ in range(1000):
        call = RetryState(RetryPolicy(), full_budget(), random=rng.random)
        call.sent()
        decision = call.failed(status(429, 10.0), 0.0)
        assert isinstance(decision, Retry)
        waits.append(decision.wait)
    buckets = [sum(1 for wait in waits if low <= (wait - 10) * 10 < low + 1) for low in range(10)]
    assert min(buckets) > 50


# --- ends ---------------------------------------------------------------------------------------------------


def test_attempts_count_the_first_request() -> None:
    call = state(RetryPolicy(attempts=3))
    assert isinstance(call.failed(status(500), 0.0), Retry)
    assert call.sent() == 2
    assert isinstance(call.failed(status(500), 0.0), Retry)
    assert call.sent() == 3
    assert call.failed(status(500), 0.0) == GiveUp(reason="attempts")


def test_none_means_one_request() -> None:
    assert state(RetryPolicy.none()).failed(status(500), 0.0) == GiveUp(reason="attempts")
    assert state(RetryPolicy.none(), can_refresh=True).failed(status(401), 0.0) == GiveUp(reason="attempts")


def test_a_wait_past_the_deadline_is_not_begun() -> None:
    """Sleeping until the deadline, then failing, would tell the caller late what is known now."""
    assert isinstance(state(total=300.0).failed(status(429, 10.0), 289.0), Retry)
    assert state(total=300.0).failed(status(429, 10.0), 289.5) == GiveUp(reason="elapsed")
    policy = RetryPolicy(max_elapsed=20.0)
    assert isinstance(state(policy, total=300.0).failed(status(429, 10.0), 9.0), Retry)
    assert state(policy, total=300.0).failed(status(429, 10.0), 9.5) == GiveUp(reason="elapsed")
    assert state(RetryPolicy(max_elapsed=0.0)).failed(status(500), 0.0) == GiveUp(reason="elapsed")


def test_a_retry_that_is_not_sent_costs_nothing() -> None:
    """Its call was cancelled while it waited: twelve of those once emptied a budget of ten."""
    budget = full_budget(left=2.0)
    RetryState(RetryPolicy(), budget).take_back()  # cancelled before its first request
    assert budget.left == 2.0
    call = state(budget=budget)
    assert isinstance(call.failed(status(500), 0.0), Retry)
    assert budget.left == 1.0
    for _ in range(2):
        call.take_back()
        assert budget.left == 2.0
    assert isinstance(call.failed(status(500), 0.0), Retry)
    call.sent()
    call.take_back()
    assert budget.left == 1.0
    for free in (status(429, 5.0), status(401), Failure(kind="fatal")):
        call = state(budget=budget, can_refresh=True)
        call.failed(free, 0.0)
        call.take_back()
    assert isinstance(state(budget=full_budget(left=0.5)).failed(status(500), 0.0), GiveUp)
    assert budget.left == 1.0


def test_a_retry_that_is_not_granted_costs_nothing() -> None:
    budget = full_budget(left=5.0)
    for failure, now in (
        (Failure(kind="fatal"), 0.0),
        (status(429, 100.0), 0.0),
        (status(500), 299.99),
        (Failure(kind="status", status=503, is_blocked=True), 0.0),
    ):
        assert isinstance(state(total=300.0, budget=budget, draw=0.9).failed(failure, now), GiveUp)
    assert budget.left == 5.0


def test_an_empty_budget_ends_retries_but_not_what_the_service_asked_for() -> None:
    """A 429 with Retry-After shows that the service is up; pacing slows down the other calls."""
    budget = full_budget(left=0.5)
    assert state(budget=budget).failed(status(500), 0.0) == GiveUp(reason="budget")
    assert state(budget=budget).failed(status(429), 0.0) == GiveUp(reason="budget")
    assert state(budget=budget).failed(status(503, 5.0), 0.0) == GiveUp(reason="budget")
    assert isinstance(state(budget=budget).failed(status(429, 5.0), 0.0), Retry)


def test_the_budget_pays_for_whole_retries_only() -> None:
    budget = RetryBudget(2.0, 0.5)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    assert budget.left == 0.0
    budget.success()
    assert (budget.left, budget.spend()) == (0.5, False)
    budget.success()
    assert budget.spend()


def test_what_is_given_back_never_exceeds_the_capacity() -> None:
    """Requests resent over a new connection must not let a client save up retries for later."""
    budget = RetryBudget(3.0, 0.5)
    budget.spend()
    budget.spend()
    budget.give_back(1)
    assert budget.left == 2.0
    budget.give_back(5)
    assert budget.left == 3.0
    budget.success()
    assert budget.left == 3.0


def test_a_refusal_shows_that_the_service_is_up() -> None:
    """A pull over many empty windows gets many 404s, and they must not use up the budget."""
    budget = full_budget(left=0.0)
    state(budget=budget).failed(status(404, is_remote=True), 0.0)
    assert budget.left == 0.5
    state(budget=budget).failed(Failure(kind="status", status=503, is_blocked=True), 0.0)
    state(budget=budget).failed(status(501), 0.0)
    assert budget.left == 0.5
    for _ in range(1000):
        state(budget=budget).succeeded()
    assert budget.left == 100.0


# --- the budget in use --------------------------------------------------------------------------------------


def run_calls(
    calls: int, failure_rate: float, *, budget: RetryBudget, policy: RetryPolicy, seed: int
) -> tuple[int, int]:
    """Make ``calls`` against a service that fails at random; return requests sent and calls lost.

    64 calls are under way at once, and every one waits its turn for its next request.
    """
    rng = random.Random(seed)
    waiting = calls
    running: list[RetryState] = []
    sent = lost = 0
    while waiting or running:
        while waiting and len(running) < 64:
            waiting -= 1
            running.append(RetryState(policy, budget, random=rng.random))
        call = running.pop(rng.randrange(len(running)))
        call.sent()
        sent += 1
        if rng.random() >= failure_rate:
            call.succeeded()
        elif isinstance(call.failed(status(500), 0.0), Retry):
            running.append(call)
        else:
            lost += 1
    return sent, lost


@pytest.mark.parametrize("before", [0.0, 0.1, 0.27], ids=lambda rate: f"{rate:.0%} failing before")
@pytest.mark.parametrize("calls", [500, 1000, 10_000])
def test_a_total_outage_meets_little_more_than_the_calls_themselves(calls: int, before: float) -> None:
    """Without a shared budget, a service that is down would get every request five times."""
    budget = full_budget()
    policy = RetryPolicy()
    run_calls(2000, before, budget=budget, policy=policy, seed=1)
    sent, lost = run_calls(calls, 1.0, budget=budget, policy=policy, seed=2)
    assert lost == calls
    assert sent <= calls * 1.2


def test_an_outage_with_a_few_good_answers_stays_within_its_bounds() -> None:
    """One success in twenty earns back little: 100 + 5 % of half."""
    sent, _ = run_calls(1000, 0.95, budget=full_budget(), policy=RetryPolicy(), seed=3)
    assert sent <= 1000 * 1.2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("failing", [0.27, 0.30], ids=["as asked", "with margin"])
def test_a_flaky_service_loses_nothing(failing: float, seed: int) -> None:
    """20 % 5xx, 5 % resets and 2 % truncated bodies: the budget must not prevent what ten attempts can fix."""
    budget = full_budget()
    sent, lost = run_calls(20_000, failing, budget=budget, policy=RetryPolicy(attempts=12), seed=seed)
    assert lost == 0
    assert sent == pytest.approx(20_000 / (1 - failing), rel=0.02)


def test_ten_attempts_are_enough_for_a_flaky_service() -> None:
    """At 27 %, a call fails ten times in a row once in half a million calls."""
    _, lost = run_calls(20_000, 0.27, budget=full_budget(), policy=RetryPolicy(attempts=10), seed=0)
    assert lost == 0


# --- options and the switch for tests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"connect": 0},
        {"read": -1.0},
        {"attempt": math.nan},
        {"total": math.inf},
        {"total": "300"},
        {"total": True},
        {"total": timedelta(seconds=3)},
    ],
)
def test_timeouts_refuse_nonsense(options: dict[str, float]) -> None:
    with pytest.raises(
        ConfigurationError, match=f"Timeouts.{next(iter(options))} must be a finite number above 0"
    ):
        Timeouts(**options)


def test_no_timeout_is_a_choice() -> None:
    assert Timeouts(connect=None, read=None, attempt=None, total=None).total is None


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 2.5},
        {"max_elapsed": -1},
        {"max_wait": math.inf},
        {"fault_base": -0.1},
        {"throttle_base": None},
        {"budget_capacity": -1},
        {"budget_refill": "much"},
    ],
)
def test_a_policy_refuses_nonsense(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=f"RetryPolicy.{next(iter(options))} must be"):
        RetryPolicy(**options)  # type: ignore[arg-type]


def test_users_can_take_the_waiting_out_of_their_tests() -> None:
    """A failing call fails at once, whatever the policy, and only inside the ``with`` block."""
    with quick_retries():
        assert state().failed(status(500), 0.0) == GiveUp(reason="attempts")
        with quick_retries(3):
            call = state()
            assert call.failed(status(429, 50.0), 0.0) == Retry(wait=0.0, reason="status 429")
            call.sent()
            call.sent()
            assert call.failed(status(500), 0.0) == GiveUp(reason="attempts")
        assert state().failed(status(500), 0.0) == GiveUp(reason="attempts")
    assert isinstance(state().failed(status(500), 0.0), Retry)
    with pytest.raises(ConfigurationError), quick_retries(0):
        pass

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
    pacer,
)
from truto_ci_async._http.policy.headers import Level, parse_rate_limit, parse_retry_after
from truto_ci_async._http.policy.rate_limiter import Pacing, RateLimiter, Waiter
from truto_ci_async._http.policy.rate_windows import Rate
from truto_ci_async.errors import ConfigurationError

NOW = 1_700_000_000.0  # wall clock


def answer(
    pacer: RateLimiter,
    account: str | None,
    now: float,
    status: int = 200,
    headers: dict[str, str] | None = None,
    *,
    retry_after: float | None = None,
    is_remote: bool = False,
    hint: Level | None = None,
) -> None:
    pacer.on_response(
        account,
        status,
        headers or {},
        now,
        now_epoch=NOW + now,
        retry_after=retry_after,
        is_remote=is_remote,
        hint=hint,
    )


def goes(pacer: RateLimiter, account: str, now: float) -> bool:
    """Whether a request for ``account`` may be sent now."""
    ticket = pacer.enter(account, now)
    if ticket is not None:
        pacer.poll(now)
    return ticket is None or ticket.is_through


def drain(pacer: RateLimiter, account: str, start: float, end: float) -> list[float]:
    """Send as fast as allowed for one account, answered at once; the times of the requests."""
    times: list[float] = []
    now = start
    while now < end:
        ticket = pacer.enter(account, now)
        while ticket is not None and not ticket.is_through:
            now = pacer.next_at(now)
            assert now < math.inf
            pacer.poll(now)
        times.append(now)
        answer(pacer, account, now)
    return times


# --- one limit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [Rate(500, 10), Rate(50, 10), Rate(3, 1), Rate(1, 1), Rate(7, 60)])
def test_no_window_holds_more_than_the_limit_and_little_is_left_unused(rate: Rate) -> None:
    """One request too many costs a pause of ten seconds; one in ten unused costs a tenth of the night."""
    times = drain(pacer(account=rate), "a", 0.0, rate.window * 30)
    assert busiest_window(times, rate.window) == rate.limit
    assert len(times) / (times[-1] / rate.window * rate.limit) >= 0.9


def test_short_work_goes_at_once_and_long_work_flows_evenly() -> None:
    """Ten pages in a notebook must not crawl; an hour's pull must not stand still for seconds at a time."""
    times = drain(pacer(account=Rate(50, 10)), "a", 0.0, 100.0)
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
    """Requests come and go, some are never sent, some are refused: no window is ever overfull."""
    subject = pacer(Rate(token, 10), Rate(account, 5))
    now = 0.0
    sent: list[tuple[float, str]] = []
    queue: list[Waiter] = []
    for name, gap, outcome in steps:
        now += gap
        tickets = [subject.enter(name, now)]
        through = [name] if tickets[0] is None else []
        queue += [ticket for ticket in tickets if ticket is not None]
        through += [ticket.owner or name_of(ticket) for ticket in subject.poll(now) if ticket.is_through]
        for account_name in through:
            if outcome == "unsent":
                subject.on_unsent(account_name, now)
                continue
            sent.append((now, account_name))
            if outcome == "fail":
                subject.on_failure(account_name, now)
            else:
                answer(subject, account_name, now, 429 if outcome == "429" else 200)
    assert busiest_window([time for time, _ in sent], 10) <= token
    for name in "abc":
        assert busiest_window([time for time, each in sent if each == name], 5) <= account


def name_of(ticket: Waiter) -> str:
    return ticket._account.name or ""


# --- 429 ----------------------------------------------------------------------------------------------------


def test_a_429_pauses_its_account_and_nobody_else() -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10))
    assert subject.enter("a", 0.0) is None
    answer(subject, "a", 0.1, 429, retry_after=10.0, is_remote=True)
    ticket = subject.enter("a", 0.2)
    assert ticket is not None
    assert ticket.level == "account"
    assert subject.enter("b", 0.2) is None
    assert subject.next_at(0.2) == pytest.approx(10.1)
    assert subject.poll(10.0) == []
    assert subject.poll(subject.next_at(0.2)) == [ticket]


def test_a_429_of_the_token_pauses_everybody_and_they_come_back_one_by_one() -> None:
    """Forty accounts waiting for one moment would be the next flood."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    assert subject.enter("a", 0.0) is None
    answer(subject, "a", 0.1, 429, retry_after=10.0, hint="token")
    tickets = [subject.enter(f"b{n}", 0.2) for n in range(40)]
    assert {ticket.level for ticket in tickets if ticket} == {"token"}
    now, woken = 0.2, []
    while len(woken) < 40:
        now = subject.next_at(now)
        woken += [now] * len(subject.poll(now))
    assert woken[0] == pytest.approx(10.1)
    assert min(later - earlier for earlier, later in pairwise(woken)) > 0.015


def test_a_second_429_can_only_make_the_pause_longer() -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for retry_after in (10.0, 2.0):
        subject.enter("a", 0.0)
        answer(subject, "a", 0.0, 429, retry_after=retry_after, is_remote=True)
    subject.enter("a", 0.0)
    assert subject.next_at(0.0) == 10.0


def test_processes_come_back_from_a_pause_at_different_times() -> None:
    """Upward only: never before the service said."""
    rng = random.Random(4)
    ends: list[float] = []
    for _ in range(50):
        subject = RateLimiter(Pacing(), random=rng.random)
        subject.enter("a", 0.0)
        answer(subject, "a", 0.0, 429, retry_after=10.0, is_remote=True)
        subject.enter("a", 0.0)
        ends.append(subject.next_at(0.0))
    assert min(ends) >= 10.0
    assert max(ends) <= 10.5
    assert len({round(end, 2) for end in ends}) > 20


def test_a_429_makes_a_level_careful_and_time_heals_it() -> None:
    """Somebody else uses this limit too: a quarter less, then a little more with every quiet window."""
    subject = pacer(account=Rate(100, 10))
    subject.enter("a", 0.0)
    answer(subject, "a", 0.0, 429, retry_after=10.0)
    times = drain(subject, "a", 10.0, 200.0)
    per_window = [sum(1 for time in times if low <= time < low + 10) for low in range(20, 180, 10)]
    assert 75 <= per_window[0] <= 90
    assert per_window[-1] >= 90
    assert all(later >= earlier - 5 for earlier, later in pairwise(per_window))


def test_the_answers_to_one_flood_count_once() -> None:
    """A hundred requests were on their way when the limit was met; that is one lesson, not a hundred."""
    subject = pacer(account=Rate(100, 10))
    for _ in range(40):
        subject.enter("a", 0.0)
    for n in range(40):
        answer(subject, "a", 0.1 + n * 0.01, 429, retry_after=10.0)
    times = drain(subject, "a", 10.0, 60.0)
    assert sum(1 for time in times if 30 <= time < 40) >= 75


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hint": "token"}, "token"),
        ({"hint": "account"}, "account"),
        ({"is_remote": True}, "account"),
        ({"headers": {"ratelimit-remaining": "0"}}, "account"),
        ({"is_remote": True, "hint": "token"}, "token"),
        ({}, "account"),  # nothing speaks for the token yet
    ],
)
def test_the_level_of_a_429(options: dict[str, object], expected: str) -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for n in range(100):
        subject.enter(f"b{n}", 0.0)
    answer(subject, "b0", 0.0, 429, retry_after=10.0, **options)  # type: ignore[arg-type]
    assert (subject.enter("c", 0.1) is None) == (expected == "account")
    if expected == "account":
        assert subject.enter("b0", 0.1) is not None


def test_unmarked_429s_of_several_accounts_in_a_row_are_the_tokens() -> None:
    """As after a restart: the service still counts what the process before had sent."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for n in range(30):
        subject.enter(f"a{n}", 0.0)
    for n in range(3):
        assert subject.enter(f"c{n}", 0.0) is None
        answer(subject, f"a{n}", 0.1, 429, retry_after=10.0)
    assert subject.enter("d", 0.2) is not None


def test_unmarked_429s_between_good_answers_are_their_accounts() -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for n in range(30):
        subject.enter(f"a{n}", 0.0)
    for n in range(0, 30, 2):
        answer(subject, f"a{n}", 0.1, 429, retry_after=10.0)
        answer(subject, f"a{n + 1}", 0.1)
    assert subject.enter("d", 0.2) is None


def test_accounts_that_are_refused_again_and_again_accuse_the_token_once() -> None:
    """Their pauses end together, so they are refused together, whatever the token does."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    pauses: set[float] = set()
    for turn in range(6):
        now = turn * 20.0
        for n in range(150):
            goes(subject, f"a{n % 60}", now + n * 0.06)
            answer(subject, f"a{n % 60}", now + n * 0.06)
        for n in range(4):
            subject.on_response(f"limited{n}", 429, {}, now + 9.5, now_epoch=NOW, retry_after=2.0)
        pauses.add(subject._token.paused_until)
    assert len(pauses) == 1


def test_suspicion_fades() -> None:
    """One more account at its provider's limit every few seconds says nothing about the token."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for turn in range(20):
        now = turn * 5.0
        for n in range(100):
            goes(subject, f"a{n}", now + n * 0.04)
            answer(subject, f"a{n}", now + n * 0.04)
        subject.on_response(f"limited{turn}", 429, {}, now + 4.5, now_epoch=NOW, retry_after=1.0)
    assert subject._token.paused_until == -math.inf


def test_accounts_at_their_own_limits_do_not_accuse_the_token() -> None:
    """Other processes use the same accounts: each of them is nearer to its own limit than to the token's."""
    subject = pacer(Rate(500, 10), Rate(2, 10))
    for n in range(20):
        goes(subject, f"a{n}", 0.0)
    for n in range(20):
        subject.on_response(f"a{n}", 429, {}, 0.1, now_epoch=NOW, retry_after=10.0)
    assert subject._token.paused_until == -math.inf


def test_a_long_pause_is_never_taken_for_the_tokens() -> None:
    """A provider's daily limit must not stop a whole client for a day."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for n in range(30):
        subject.enter(f"a{n}", 0.0)
    for n in range(10):
        answer(subject, f"a{n}", 0.1, 429, retry_after=3600.0)
    assert subject.enter("d", 0.2) is None


def test_who_would_wait_too_long_is_refused_at_once() -> None:
    """Those in the queue, and those who come later; other accounts go on."""
    subject = pacer(Rate(500, 10), Rate(50, 10), max_wait=60.0)
    while (queued := subject.enter("a", 0.0)) is None:
        pass
    answer(subject, "a", 0.0, 429, retry_after=86400.0)
    late = subject.enter("a", 1.0)
    assert late is not None
    assert set(subject.poll(1.0)) == {queued, late}
    assert (queued.refused, late.refused) == (86400.0, 86399.0)
    assert (queued.level, late.level) == ("account", "account")
    assert not queued.is_through
    assert subject.waiting == 0
    assert goes(subject, "b", 1.0)
    assert goes(subject, "a", 86401.0)


def test_a_long_pause_of_the_token_is_everybodys() -> None:
    """Said by the service in so many words, it is believed; nobody hangs until a deadline."""
    subject = pacer(Rate(1, 10), Rate(50, 10), max_wait=60.0)
    subject.enter("x", 0.0)
    queued = [subject.enter(name, 0.0) for name in "abb"]
    answer(subject, "x", 0.0, 429, retry_after=3600.0, hint="token")
    late = subject.enter("c", 1.0)
    refused = subject.poll(1.0)
    assert set(refused) == {*queued, late}
    assert {ticket.level for ticket in refused} == {"token"}
    assert subject.waiting == 0


def test_a_pause_of_the_longest_allowed_wait_is_sat_out() -> None:
    subject = RateLimiter(Pacing(), max_wait=60.0, random=lambda: 0.999)
    subject.enter("a", 0.0)
    answer(subject, "a", 0.0, 429, retry_after=60.0, hint="token")
    ticket = subject.enter("a", 0.0)
    assert ticket is not None
    assert subject.poll(0.0) == []
    assert ticket.refused is None


# --- ratelimit headers --------------------------------------------------------------------------------------


def test_what_remains_until_the_reset_is_all_that_is_sent() -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for _ in range(3):
        subject.enter("a", 0.0)
    # Five remain by the provider's count, but two are out that it may not have counted.
    answer(subject, "a", 0.0, 200, {"ratelimit-remaining": "5", "ratelimit-reset": "8"})
    assert [subject.enter("a", 0.0) is None for _ in range(4)] == [True, True, True, False]
    assert subject.next_at(0.0) == 8.0
    assert subject.enter("b", 0.0) is None
    assert len(subject.poll(8.0)) == 1


def test_a_limit_below_the_tier_is_kept_also_when_the_counts_stay_away() -> None:
    """Gong allows three calls a second, far below the tier's bursts."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    subject.enter("a", 0.0)
    answer(subject, "a", 0.0, 200, {"ratelimit-limit": "3;w=1"})
    times = drain(subject, "a", 0.0, 20.0)
    for low in range(1, 19):
        assert sum(1 for time in times if low <= time < low + 1) <= 3
    assert len(times) >= 19 * 3


def test_a_request_that_was_not_sent_leaves_what_remains_untouched() -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10))
    subject.enter("a", 0.0)
    answer(subject, "a", 0.0, 200, {"ratelimit-remaining": "1", "ratelimit-reset": "8"})
    assert goes(subject, "a", 0.0)
    waiting = subject.enter("a", 0.0)
    subject.on_unsent("a", 0.0)
    assert subject.poll(0.0) == [waiting]


def test_headers_teach_nothing_about_the_token() -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10))
    subject.enter("a", 0.0)
    answer(
        subject,
        "a",
        0.0,
        200,
        {"ratelimit-limit": "1;w=10", "ratelimit-remaining": "0", "ratelimit-reset": "9"},
    )
    assert all(subject.enter(f"b{n}", 0.0) is None for n in range(200))


def test_a_header_alone_never_closes_an_account_for_long() -> None:
    """Wrong counters would stop an account for ever; a real limit says so with a 429."""
    subject = pacer(Rate(500, 10), Rate(50, 10), max_wait=60.0)
    for headers in (
        {"ratelimit-remaining": "0", "ratelimit-reset": "3600"},
        {"ratelimit-remaining": "0", "ratelimit-reset": "1700009999"},
        {"ratelimit-remaining": "0"},
        {"ratelimit-limit": "0;w=10"},
        {"ratelimit-limit": "1;w=86400"},
    ):
        for _ in range(3):
            assert goes(subject, "a", 0.0), headers
            answer(subject, "a", 0.0, 200, headers)


@examples(500)
@given(
    garbage_headers,
    st.floats(),
    st.sampled_from([200, 404, 429, 503]),
    st.booleans(),
)
def test_no_header_can_break_or_block_the_pacer(
    headers: dict[str, str], now_epoch: float, status: int, is_remote: bool
) -> None:
    """Headers are a provider's and may be anything: at worst one account waits a minute, the others never."""
    retry_after = parse_retry_after(headers, now_epoch)
    told = parse_rate_limit(headers, now_epoch)
    assert told is None or told.reset is None or 0 <= told.reset < 1e9
    subject = pacer(Rate(500, 10), Rate(50, 10))
    for now in (0.0, 0.0, 1.0):
        goes(subject, "a", now)
        subject.on_response(
            "a", status, headers, now, now_epoch=now_epoch, retry_after=retry_after, is_remote=is_remote
        )
    assert goes(subject, "b", 1.0)
    ticket = subject.enter("a", 1.0)
    now = 1.0
    while ticket is not None and not ticket.is_through and ticket.refused is None:
        now = subject.next_at(now)
        assert now <= 1.0 + 61.0
        subject.poll(now)
    assert status == 429 or ticket is None or ticket.is_through


# --- turns --------------------------------------------------------------------------------------------------


def test_accounts_take_turns_and_within_one_it_is_first_come_first_served() -> None:
    subject = pacer(Rate(4, 10))
    for _ in range(2):
        assert subject.enter("x", 0.0) is None
    subject.on_throttled("token", None, 20.0, 0.0)
    tickets: dict[Waiter, str] = {}
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        ticket = subject.enter(name[0], 0.0)
        assert ticket is not None
        tickets[ticket] = name
    order: list[str] = []
    now = 0.0
    while subject.waiting:
        now = subject.next_at(now)
        order += [tickets[ticket] for ticket in subject.poll(now)]
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_newcomers_do_not_overtake() -> None:
    """The slot came free a moment ago, and nobody has looked since."""
    subject = pacer(Rate(1, 10))
    subject.enter("x", 0.0)
    first = subject.enter("a", 0.0)
    late = subject.enter("b", 11.0)
    assert late is not None
    assert subject.poll(11.0) == [first]
    subject = pacer(None, Rate(1, 10))
    subject.enter("a", 0.0)
    first = subject.enter("a", 0.0)
    late = subject.enter("a", 11.0)
    assert late is not None
    assert subject.poll(11.0) == [first]


def test_a_pause_also_holds_those_whose_turn_had_come() -> None:
    """They waited for the token only; meanwhile another request of their account was refused."""
    subject = pacer(Rate(1, 10), Rate(50, 10))
    subject.enter("a", 0.0)
    waiting = [subject.enter("a", 0.1), subject.enter("b", 0.2)]
    subject.poll(0.3)
    answer(subject, "a", 5.0, 429, retry_after=30.0, is_remote=True)
    assert subject.poll(11.0) == [waiting[1]]
    assert subject.poll(34.0) == []
    assert subject.poll(36.0) == [waiting[0]]


def test_who_leaves_is_passed_over() -> None:
    subject = pacer(Rate(1, 10))
    subject.enter("x", 0.0)
    tickets = [subject.enter("a", 0.0) for _ in range(3)]
    assert tickets[0] is not None
    assert tickets[1] is not None
    subject.leave(tickets[1])
    subject.leave(tickets[1])
    subject.leave(tickets[0])
    assert subject.waiting == 1
    assert subject.poll(subject.next_at(0.0)) == [tickets[2]]
    assert subject.next_at(11.0) == math.inf


@given(st.data())
def test_nobody_is_lost_in_the_queue(data: st.DataObject) -> None:
    """Any mix of arrivals, departures, answers and pauses: everyone goes, leaves or is refused, once."""
    subject = pacer(Rate(data.draw(st.integers(1, 5)), 10), Rate(data.draw(st.integers(1, 3)), 10))
    now = 0.0
    waiting: list[Waiter] = []
    out: deque[str] = deque()
    entered = went = refused = left = 0

    def collect() -> None:
        nonlocal went, refused
        for ticket in subject.poll(now):
            waiting.remove(ticket)
            assert ticket.is_through == (ticket.refused is None)
            if ticket.is_through:
                went += 1
                out.append(name_of(ticket))
            else:
                refused += 1

    for _ in range(data.draw(st.integers(0, 40))):
        step = data.draw(
            st.sampled_from(["enter", "enter", "leave", "wait", "answer", "429", "quota", "unsent"])
        )
        if step == "enter":
            name = data.draw(st.sampled_from("abcd"))
            ticket = subject.enter(name, now)
            entered += 1
            if ticket is None:
                went += 1
                out.append(name)
            else:
                waiting.append(ticket)
        elif step == "leave" and waiting:
            ticket = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            subject.leave(ticket)
            left += 1
        elif step == "wait":
            now += data.draw(st.floats(0, 20))
        elif out and step == "unsent":
            subject.on_unsent(out.popleft(), now)
        elif out and step == "429":
            retry_after = data.draw(st.sampled_from([None, 0.0, 5.0, 1000.0]))
            hint: Level | None = data.draw(st.sampled_from([None, "token", "account"]))
            answer(subject, out.popleft(), now, 429, retry_after=retry_after, hint=hint)
        elif out and step == "quota":
            headers = {"ratelimit-limit": "2;w=7", "ratelimit-remaining": "0", "ratelimit-reset": "9"}
            answer(subject, out.popleft(), now, 200, headers)
        elif out and step == "answer":
            answer(subject, out.popleft(), now)
        collect()
        assert subject.waiting == len(waiting)
        assert all(ticket.refused is None for ticket in waiting)

    for _ in range(1000):
        if not waiting:
            break
        while out:
            answer(subject, out.popleft(), now)
        at = subject.next_at(now)
        assert now <= at < math.inf
        now = at
        collect()
    assert not waiting
    assert entered == went + refused + left
    assert subject.next_at(now) == math.inf


# --- memory -------------------------------------------------------------------------------------------------


def test_idle_accounts_are_forgotten() -> None:
    """A year of customers passes through one client."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    most = 0
    for n in range(5000):
        now = n * 0.05
        assert subject.enter(f"a{n}", now) is None
        kind = n % 4
        if kind == 0:
            answer(subject, f"a{n}", now, 429, retry_after=1.0, is_remote=True)
        elif kind == 1:
            answer(subject, f"a{n}", now, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "3"})
        elif kind == 2:
            subject.on_failure(f"a{n}", now)
        else:
            answer(subject, f"a{n}", now)
        most = max(most, len(subject))
    assert most < 1500  # of one or two windows, and the throttled ones of the last minutes
    for n in range(3):
        subject.enter("z", 1000.0 + n * 50)
    assert len(subject) == 1


def test_the_queue_itself_stays_small() -> None:
    """However often the time of a waiting account changes, it is in the queue once."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    subject.enter("a", 0.0)
    answer(subject, "a", 0.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "50"})
    for _ in range(100):
        subject.enter("a", 0.0)
    assert len(subject._later) == 1
    for n in range(100):  # earlier every time
        answer(subject, "a", 0.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": str(40 - n * 0.1)})
    answer(subject, "a", 29.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "50"})
    subject.poll(45.0)
    assert len(subject._later) <= 2


def test_an_account_is_not_forgotten_while_its_pause_lasts() -> None:
    subject = pacer(Rate(500, 10), Rate(50, 10), max_wait=1000.0)
    subject.enter("a", 0.0)
    answer(subject, "a", 0.0, 429, retry_after=500.0)
    for now in range(0, 499, 7):
        assert subject.enter("b", float(now)) is None
    assert subject.enter("a", 499.0) is not None


def test_an_answer_may_come_after_its_account_was_forgotten() -> None:
    """A request of a minute outlives the memory of its account; its 429 counts all the same."""
    subject = pacer(Rate(500, 10), Rate(50, 10))
    subject.enter("a", 0.0)
    for now in (30.0, 60.0):
        subject.enter("b", now)
    assert len(subject) == 1
    answer(subject, "a", 60.0, 429, retry_after=10.0)
    assert subject.enter("a", 61.0) is not None
    subject.enter("c", 61.0)
    subject._accounts.pop("c")  # as if it had been out for long
    answer(subject, "c", 61.0, 200, {"ratelimit-remaining": "0", "ratelimit-reset": "9"})
    assert not goes(subject, "c", 61.0)
    answer(subject, "never seen", 61.0)
    subject.on_failure("never seen", 61.0)
    subject.on_unsent("never seen", 61.0)


# --- options ------------------------------------------------------------------------------------------------


def test_off_means_off() -> None:
    subject = RateLimiter(Pacing.off())
    assert not subject.is_on
    for _ in range(5000):
        assert subject.enter("a", 0.0) is None
        answer(subject, "a", 0.0, 429, retry_after=10.0)


def test_a_level_without_a_limit_still_pauses() -> None:
    subject = pacer(None, None)
    assert all(subject.enter("a", 0.0) is None for _ in range(5000))
    answer(subject, "a", 0.0, 429, retry_after=10.0)
    assert subject.enter("a", 1.0) is not None
    assert subject.enter("b", 1.0) is None


@pytest.mark.parametrize(
    ("limit", "window"), [(0, 10), (1.5, 10), (10, 0), (10, -1), (10, math.inf), (True, 10), ("5", 10)]
)
def test_a_rate_refuses_nonsense(limit: int, window: float) -> None:
    with pytest.raises(ConfigurationError, match=r"Rate\."):
        Rate(limit, window)


def test_pacing_refuses_what_is_no_rate() -> None:
    with pytest.raises(ConfigurationError, match=r"Pacing\.token must be a Rate"):
        Pacing(token=(500, 10))  # type: ignore[arg-type]


def test_no_more_are_let_through_than_have_a_connection() -> None:
    """Who waits for a connection behind the gate would leave later than the limits count on, and in a flood."""
    pacer = RateLimiter(Pacing(token=Rate(100, 1), account=Rate(100, 1)), max_busy=2)
    assert [pacer.enter(str(number), 0.0) is None for number in range(4)] == [True, True, False, False]
    assert pacer.poll(5.0) == []
    assert pacer.next_at(5.0) == math.inf
    pacer.on_failure("0", 5.0)
    assert len(pacer.poll(5.0)) == 1
    pacer.on_unsent("1", 5.0)
    assert len(pacer.poll(5.0)) == 1

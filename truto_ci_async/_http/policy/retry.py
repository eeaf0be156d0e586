"""Decides how long a request may take, which failures are retried, and after how long.

Pure rules: nothing here awaits, reads a clock or sleeps. Each call has its own ``RetryState``. All calls of a client
share one ``RetryBudget``, so that retries add little traffic to a service that is down:

    state = RetryState(policy, budget, total=timeouts.total)
    try:
        while True:
            state.sent()
            ...                                            # one request
            decision = state.failed(failure, time.used)    # or state.succeeded()
            if isinstance(decision, GiveUp):
                raise ...
            await sleep(decision.wait)
    finally:
        state.take_back()
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from truto_ci_async._checks import check_number, check_whole_number

Verdict: TypeAlias = Literal["no", "fault", "throttle", "auth"]
FailureKind: TypeAlias = Literal["status", "connect", "timeout", "truncated", "fatal"]
GiveUpReason: TypeAlias = Literal["not retryable", "attempts", "elapsed", "budget", "wait too long"]

# Contract section 3. ``classify`` has special rules for 503 and 401.
FAULT_STATUSES: Final = frozenset({408, 425, 500, 502, 504, 520, 521, 522, 523, 524})
# Retrying gives the same result: not implemented, HTTP version not supported, a loop, a captive portal.
PERMANENT_STATUSES: Final = frozenset({501, 505, 506, 508, 510, 511})
# 2.0**1024 overflows, so the exponent of the backoff is bounded. The wait reaches its ceiling long before that.
_MAX_DOUBLINGS: Final = 60


class Timeouts(Struct, frozen=True, kw_only=True):
    """Deadlines in seconds; None means no limit.

    ``connect``  opening a connection, TLS included.
    ``read``     longest wait for the headers of a response, and longest gap between two bytes of its body.
    ``attempt``  one request, from the moment it gets one of the ``max_connections`` to the last byte of its body.
    ``total``    a whole call: every attempt, every wait for pacing and between attempts, and decoding.

    Each is kept to within 0.05 s. If code that never awaits blocks the event loop past a deadline, a connection,
    attempt or call gets the time the loop was late added, once, and at most its own length. This does not apply to
    ``connect`` with an aiohttp session that you pass in.

    :raises ConfigurationError: a value is not above zero.
    """

    connect: float | None = 10.0
    read: float | None = 30.0
    attempt: float | None = 60.0
    total: float | None = 300.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if (value := getattr(self, name)) is not None:
                check_number(f"Timeouts.{name}", value, above=0)


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """When to retry. Times are in seconds.

    ``attempts``         most requests for one page, including the first. If it is above 1, one more may be sent
                         with a new token, in place of one that has expired.
    ``max_elapsed``      no retry starts later than this after the call began; None: only ``Timeouts.total`` applies.
    ``max_wait``         longest wait the service may ask for, and longest backoff. A longer ``Retry-After``
                         raises ``RateLimitError`` at once instead of waiting.
    ``fault_base``       the first backoff after a fault (connection lost, 5xx) is a random time up to this,
                         the next one up to twice this, and so on.
    ``throttle_base``    the same after a 429, on top of the wait the service asked for.
    ``budget_capacity``  retries a client may make in a row without any success.
    ``budget_refill``    retries that each success earns back, up to the capacity. With the defaults, an outage hit by
                         500 calls sees at most 20 % extra traffic, and a service that fails 3 requests in 10 is
                         still retried every time.

    :raises ConfigurationError: a value is out of range.
    """

    attempts: int = 5
    max_elapsed: float | None = None
    max_wait: float = 60.0
    fault_base: float = 0.05
    throttle_base: float = 1.0
    budget_capacity: float = 100.0
    budget_refill: float = 0.5

    def __post_init__(self) -> None:
        check_whole_number("RetryPolicy.attempts", self.attempts, least=1)
        if self.max_elapsed is not None:
            check_number("RetryPolicy.max_elapsed", self.max_elapsed, least=0)
        for name in ("max_wait", "fault_base", "throttle_base", "budget_capacity", "budget_refill"):
            check_number(f"RetryPolicy.{name}", getattr(self, name), least=0)

    @classmethod
    def none(cls) -> RetryPolicy:
        """Never retry."""
        return cls(attempts=1)


class Failure(Struct, frozen=True, kw_only=True):
    """What went wrong with one attempt.

    ``kind`` is ``"status"`` for a response with an error status; ``"connect"``, ``"timeout"`` or ``"truncated"`` if no
    complete response arrived; ``"fatal"`` if a retry cannot help (a bad certificate, a proxy that refuses).
    ``retry_after`` comes from ``parse_retry_after``, in seconds. ``is_blocked``: the status says that the account is
    blocked.
    """

    kind: FailureKind
    status: int | None = None
    is_remote: bool = False
    is_blocked: bool = False
    retry_after: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether and how to retry."""
        if self.kind == "status":
            return classify(
                self.status or 0,
                is_remote=self.is_remote,
                has_retry_after=self.retry_after is not None,
                is_blocked=self.is_blocked,
            )
        return "no" if self.kind == "fatal" else "fault"

    @property
    def reason(self) -> str:
        """A few words for an event or a log line, such as ``status 502``."""
        return f"status {self.status}" if self.kind == "status" else self.kind


def classify(status: int, *, is_remote: bool, has_retry_after: bool, is_blocked: bool) -> Verdict:
    """Sort a status by what to do about it (contract section 3).

    ``"fault"``: retry after the short backoff. ``"throttle"``: retry after the long backoff, on top of the wait the
    service asked for. ``"auth"``: retry once with a fresh token, if there is a way to get one. ``"no"``: never retry.
    """
    if status in FAULT_STATUSES:
        return "fault"
    if status == 429:
        return "throttle"
    if status == 503:
        return "throttle" if has_retry_after else "no" if is_blocked else "fault"
    if status == 401 and not is_remote:
        return "auth"
    return "no"


def can_never_succeed(status: int) -> bool:
    """Whether retrying can never change this status."""
    return 300 <= status < 400 or status in PERMANENT_STATUSES


class RetryBudget:
    """Limits the retries of all calls of a client together. It has no clock: successes refill it.

    It starts full. ``capacity`` and ``refill`` come from ``RetryPolicy``; ``left`` is the number of retries left.
    """

    __slots__ = ("capacity", "left", "refill")

    def __init__(self, capacity: float, refill: float) -> None:
        self.capacity = capacity
        self.refill = refill
        self.left = capacity

    def spend(self) -> bool:
        """Pay for one retry. Return False, and take nothing, if less than one is left."""
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True

    def give_back(self, retries: int) -> None:
        """Return what was spent on retries that were not sent, or on resending requests that then got a response.

        Such a request was first sent on a dead idle connection, so the service never saw it.
        """
        self.left = min(self.capacity, self.left + retries)

    def success(self) -> None:
        """Note that the service gave a proper response."""
        self.left = min(self.capacity, self.left + self.refill)


class Retry(Struct, frozen=True, kw_only=True):
    """Retry after ``wait`` seconds, with a fresh token if ``fresh_token``."""

    wait: float
    reason: str
    fresh_token: bool = False


class GiveUp(Struct, frozen=True, kw_only=True):
    """Raise the failure. ``"wait too long"``: the service asked for more than ``max_wait``."""

    reason: GiveUpReason


class RetryState:
    """The retries of one call.

    ``total`` is how long it may take (``Timeouts.total``). ``can_refresh`` says whether a new token can be fetched.
    ``attempts`` counts the requests sent so far. ``random`` returns numbers in [0, 1).
    """

    __slots__ = ("_budget", "_can_refresh", "_draw", "_is_paid", "_policy", "_total", "attempts")

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        *,
        total: float | None = None,
        can_refresh: bool = False,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._can_refresh = can_refresh
        # Whether a retry was paid for that has not been sent yet.
        self._is_paid = False  # mutant: None is as good as False
        self._draw = random
        self._total = total
        self.attempts = 0

    @property
    def budget_left(self) -> float:
        """Retries that the client has left."""
        return self._budget.left

    def sent(self) -> int:
        """Count one request and return its number, starting at 1."""
        self._is_paid = False  # mutant: None is as good as False
        self.attempts += 1
        return self.attempts

    def succeeded(self) -> None:
        """Note a success, which earns the client retries."""
        self._budget.success()

    def take_back(self) -> None:
        """Take back what a retry cost that was granted but not sent, as when its call is cancelled while it waits."""
        if self._is_paid:
            self._is_paid = False  # mutant: None is as good as False
            self._budget.give_back(1)

    def failed(self, failure: Failure, used: float) -> Retry | GiveUp:
        """Decide what to do about ``failure`` after ``used`` seconds, and pay for the retry if one is granted."""
        verdict = failure.verdict
        if verdict == "no":
            if failure.kind == "status" and (failure.status or 0) < 500:  # mutant: 500 is never a "no"
                self._budget.success()  # the service refused this request, but it is up
            return GiveUp(reason="not retryable")
        if verdict == "auth" and not self._can_refresh:
            return GiveUp(reason="not retryable")
        attempts = self._policy.attempts if _quick is None else _quick
        if self.attempts >= attempts and (verdict != "auth" or attempts == 1):
            return GiveUp(reason="attempts")
        if verdict == "auth":
            self._can_refresh = False  # mutant: None is as good as False
            return Retry(wait=0.0, reason=failure.reason, fresh_token=True)
        return self._wait_and_retry(failure, verdict, used)

    def _wait_and_retry(self, failure: Failure, verdict: Verdict, used: float) -> Retry | GiveUp:
        """Grant a retry if time and budget allow it.

        If the wait would end after the deadline, give up now rather than then. A retry after a 429 with a
        ``Retry-After`` costs no budget: a service that counts requests and says when to come back is up, and pacing
        already slows down the other calls.
        """
        policy = self._policy
        retry_after = failure.retry_after or 0.0
        if retry_after > policy.max_wait:
            return GiveUp(reason="wait too long")
        wait = 0.0 if _quick is not None else self._backoff(verdict, retry_after)
        ends_after = used + wait
        if any(limit is not None and ends_after >= limit for limit in (self._total, policy.max_elapsed)):
            return GiveUp(reason="elapsed")
        is_free = failure.status == 429 and failure.retry_after is not None
        if not is_free:
            if not self._budget.spend():
                return GiveUp(reason="budget")
            self._is_paid = True
        return Retry(wait=wait, reason=failure.reason)

    def _backoff(self, verdict: Verdict, retry_after: float) -> float:
        """Return ``retry_after`` plus a random time up to the doubled base (full jitter), so never less than asked."""
        policy = self._policy
        base = policy.throttle_base if verdict == "throttle" else policy.fault_base
        doubled = base * 2.0 ** min(self.attempts - 1, _MAX_DOUBLINGS)
        return retry_after + min(doubled, max(policy.max_wait - retry_after, base)) * self._draw()


_quick: int | None = None


@contextmanager
def quick_retries(attempts: int = 1) -> Generator[None]:
    """For your tests: make every client in this process send at most ``attempts`` requests per call, without waiting.

        with quick_retries():
            ...                 # a failing call fails at once

    Nested calls are fine; the innermost one applies.

    :raises ConfigurationError: ``attempts`` is below 1.
    """
    global _quick
    before = _quick
    check_whole_number("attempts", attempts, least=1)
    _quick = attempts
    try:
        yield
    finally:
        _quick = before

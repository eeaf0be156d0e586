"""Wait or give up: how long a request may take, which failures are tried again, and after how long.

Pure rules: nothing here awaits, reads a clock or sleeps. One call keeps one ``RetryState``; all calls of a
client share one ``RetryBudget``, so that a service that is down meets little more than the calls themselves:

    state = RetryState(policy, budget, now=clock(), total=timeouts.total)
    while True:
        state.sent()
        ...                                         # one request
        decision = state.failed(failure, clock())   # or state.succeeded()
        if isinstance(decision, GiveUp):
            raise ...
        await sleep(decision.wait)
"""

from __future__ import annotations

import math
import random as _random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from truto_ci_async.errors import ConfigurationError

Verdict: TypeAlias = Literal["no", "fault", "throttle", "auth"]
FailureKind: TypeAlias = Literal["status", "connect", "timeout", "truncated", "fatal"]
GiveUpReason: TypeAlias = Literal["not retryable", "attempts", "elapsed", "budget", "wait too long"]

# Contract section 3. 503 and 401 have rules of their own in ``classify``.
FAULT_STATUSES: Final = frozenset({408, 425, 500, 502, 504, 520, 521, 522, 523, 524})


def check_number(
    name: str, value: object, *, above: float | None = None, least: float | None = None
) -> float:
    """Refuse anything but a finite number in range.

    :raises ConfigurationError: with the option's name, what was expected and what came.
    """
    wanted = "a finite number" + (f" above {above:g}" if above is not None else "")
    wanted += f" of at least {least:g}" if least is not None else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigurationError(f"{name} must be {wanted}, got {value!r}")
    if (above is not None and value <= above) or (least is not None and value < least):
        raise ConfigurationError(f"{name} must be {wanted}, got {value!r}")
    return value


class Timeouts(Struct, frozen=True, kw_only=True):
    """Deadlines in seconds; None means no limit.

    ``connect``  making a connection, TLS included.
    ``read``     longest gap between two bytes of an answer.
    ``attempt``  one request, from the moment it has a place among ``max_connections`` to the last byte of its body.
    ``total``    a whole call: every attempt, every wait for pacing and between attempts.

    Each is kept to within 0.05 s. Where code that awaits nothing held the loop until a deadline was over, what came
    meanwhile counts: a connection, attempt or call then gets as long again as the loop was late, once, and at most
    its whole time. Not so for ``connect`` of an aiohttp session that was handed in.

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
    """When to try again. Times are in seconds.

    ``attempts``         requests in all for one page, the first one included.
    ``max_elapsed``      no retry starts later than this after the call began; None: ``Timeouts.total`` alone.
    ``max_wait``         longest wait the service may ask for, and longest backoff. A longer ``Retry-After``
                         raises ``RateLimitError`` at once instead of waiting.
    ``fault_base``       the first backoff after a fault (connection lost, 5xx) is a random time up to this,
                         the next up to twice this, and so on.
    ``throttle_base``    the same after 429, on top of what the service asked for.
    ``budget_capacity``  retries that a client may spend at once without any success.
    ``budget_refill``    retries that each success earns back, up to the capacity. The defaults hold an outage
                         of 500 calls to 20 % extra traffic, and keep up with a service that fails 3 requests
                         in 10.

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
        check_number("RetryPolicy.attempts", self.attempts, least=1)
        if not isinstance(self.attempts, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"RetryPolicy.attempts must be a whole number, got {self.attempts!r}")
        if self.max_elapsed is not None:
            check_number("RetryPolicy.max_elapsed", self.max_elapsed, least=0)
        for name in ("max_wait", "fault_base", "throttle_base", "budget_capacity", "budget_refill"):
            check_number(f"RetryPolicy.{name}", getattr(self, name), least=0)

    @classmethod
    def none(cls) -> RetryPolicy:
        """Send every request once, whatever happens to it."""
        return cls(attempts=1)


class Failure(Struct, frozen=True, kw_only=True):
    """What went wrong with one attempt.

    ``kind`` is ``"status"`` for an answer with an error status; ``"connect"``, ``"timeout"`` or
    ``"truncated"`` when no whole answer came; ``"fatal"`` for what another attempt cannot mend (a bad
    certificate, a proxy that refuses). ``retry_after`` is what ``parse_retry_after`` made of the answer, in
    seconds.
    """

    kind: FailureKind
    status: int | None = None
    is_remote: bool = False
    retry_after: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether, and how, this is tried again."""
        if self.kind == "status":
            return classify(
                self.status or 0, is_remote=self.is_remote, has_retry_after=self.retry_after is not None
            )
        return "no" if self.kind == "fatal" else "fault"

    @property
    def reason(self) -> str:
        """A few words for an event or a log line, such as ``status 502``."""
        return f"status {self.status}" if self.kind == "status" else self.kind


def classify(status: int, *, is_remote: bool = False, has_retry_after: bool = False) -> Verdict:
    """Sort a status by what to do about it (contract section 3).

    ``"fault"``: again, after the short backoff. ``"throttle"``: again, after the long one and what the
    service asked for. ``"auth"``: once more, with a fresh token, if there is a way to get one. ``"no"``:
    never.
    """
    if status in FAULT_STATUSES:
        return "fault"
    if status == 429:
        return "throttle"
    if status == 503:
        return "throttle" if has_retry_after else "no"  # without the header the account is blocked
    if status == 401 and not is_remote:
        return "auth"
    return "no"


class RetryBudget:
    """A bucket of retries shared by every call of a client. It has no clock: successes fill it.

    It starts full. ``capacity`` and ``refill`` are those of ``RetryPolicy``; ``left`` is what is in it.
    """

    __slots__ = ("capacity", "left", "refill")

    def __init__(self, capacity: float, refill: float) -> None:
        self.capacity = capacity
        self.refill = refill
        self.left = capacity

    def spend(self) -> bool:
        """Take one retry out; False (and nothing taken) when there is none."""
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True

    def give_back(self, retries: int) -> None:
        """Put back what was spent on requests that went out again and were answered well.

        The idle connection they went out on was dead, and the service never saw them.
        """
        self.left = min(self.capacity, self.left + retries)

    def success(self) -> None:
        """Note that the service answered a request properly."""
        self.left = min(self.capacity, self.left + self.refill)


class Retry(Struct, frozen=True, kw_only=True):
    """Try again after ``wait`` seconds, with a fresh token if ``fresh_token``."""

    wait: float
    reason: str
    fresh_token: bool = False


class GiveUp(Struct, frozen=True, kw_only=True):
    """Raise the failure. ``"wait too long"``: the service asked for more than ``max_wait``."""

    reason: GiveUpReason


class RetryState:
    """The retries of one call.

    ``now`` is the clock's value at the start of the call and ``total`` its deadline (``Timeouts.total``).
    ``can_refresh`` tells whether the token comes from a function that can be asked again. ``attempts`` counts
    the requests sent so far. ``random`` gives numbers in [0, 1).
    """

    __slots__ = ("_budget", "_can_refresh", "_draw", "_policy", "_started", "_total", "attempts")

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        *,
        now: float,
        total: float | None = None,
        can_refresh: bool = False,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._started = now
        self._can_refresh = can_refresh
        self._draw = random
        self._total = total
        self.attempts = 0

    def sent(self) -> int:
        """Count one request and return its number, from 1."""
        self.attempts += 1
        return self.attempts

    def succeeded(self) -> None:
        """Note a good answer; it earns retries for the client."""
        self._budget.success()

    def leave_out(self, seconds: float) -> None:
        """Take that much time for none of the call's own, such as that of the caller who read its answer."""
        self._started += seconds

    def failed(self, failure: Failure, now: float) -> Retry | GiveUp:
        """Decide what follows ``failure``; a retry is paid for when it is granted.

        A retry whose wait would end after the call's deadline is not granted, so the caller hears at once.
        Two kinds of retry are free: the one with a fresh token, and one after a 429 that names its
        ``Retry-After``, since a service that counts requests and says when to come back is up, and pacing
        already holds back the rest.
        """
        policy = self._policy
        verdict = failure.verdict
        if verdict == "no":
            if failure.kind == "status" and (failure.status or 0) < 500:
                self._budget.success()  # refused, but properly: the service is up
            return GiveUp(reason="not retryable")
        if verdict == "auth" and not self._can_refresh:
            return GiveUp(reason="not retryable")
        if self.attempts >= (policy.attempts if _quick is None else _quick):
            return GiveUp(reason="attempts")
        if verdict == "auth":
            self._can_refresh = False
            return Retry(wait=0.0, reason=failure.reason, fresh_token=True)
        floor = failure.retry_after or 0.0
        if floor > policy.max_wait:
            return GiveUp(reason="wait too long")
        wait = 0.0 if _quick is not None else self._wait(verdict, floor)
        ends_after = now - self._started + wait
        if any(limit is not None and ends_after >= limit for limit in (self._total, policy.max_elapsed)):
            return GiveUp(reason="elapsed")
        is_asked_back = failure.status == 429 and failure.retry_after is not None
        if not is_asked_back and not self._budget.spend():
            return GiveUp(reason="budget")
        return Retry(wait=wait, reason=failure.reason)

    def _wait(self, verdict: Verdict, floor: float) -> float:
        """Full jitter (0 up to the doubled base) on top of what the service asked for: never before that."""
        policy = self._policy
        base = policy.throttle_base if verdict == "throttle" else policy.fault_base
        # The exponent is bounded because 2.0**1024 overflows; the wait met its ceiling long before.
        spread = min(base * 2.0 ** min(self.attempts - 1, 60), max(policy.max_wait - floor, base))
        return floor + spread * self._draw()


_quick: int | None = None


@contextmanager
def quick_retries(attempts: int = 1) -> Generator[None]:
    """For your tests: make every client of this process try at most ``attempts`` times, with no wait between.

        with quick_retries():
            ...                 # a call that fails, fails at once

    It may be nested; the inner one counts.

    :raises ConfigurationError: ``attempts`` is below 1.
    """
    global _quick
    before = _quick
    check_number("attempts", attempts, least=1)
    _quick = attempts
    try:
        yield
    finally:
        _quick = before

"""A shared budget in the memory of one process, which an engine serves to the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from truto_ci_async._checks import brief
from truto_ci_async.errors import ConfigurationError

from .headers import Level
from .rate_limiter import Pacing
from .rate_windows import Rate
from .shared_budget import Grant

# Seconds that a slot is kept longer than its window, since requests take unequal time to arrive.
EARLY: Final = 0.1
# Share of a limit that is granted at once.
BURST: Final = 0.1
FIRST_BURST: Final = 0.02  # in the first window: enough to keep up the rate between two calls
# Accounts that are remembered in any case; those that are idle are dropped once there are twice as many.
MANY: Final = 1_000


class MemoryBudget:
    """Counts the requests of one token, for as many clients as ask it. It is a ``SharedBudget``.

    Put it where all processes reach it: the actor of a cluster, a manager of ``multiprocessing``, a small server.

    It grants a small burst, and beyond that no faster than the steady rate; a new one has hardly a burst in its first
    window. So it may be killed and made anew at any time: what it has forgotten and what it grants are together hardly
    above the limit.

    :raises ConfigurationError: ``pacing`` is no Pacing.
    """

    def __init__(self, pacing: Pacing = Pacing(), *, clock: Callable[[], float] = time.monotonic) -> None:
        given: object = pacing
        if not isinstance(given, Pacing):
            raise ConfigurationError(f"pacing must be a Pacing, got {brief(given)}")
        self._pacing = pacing
        self._clock = clock
        self._since = clock()
        self._token = None if pacing.token is None else _Limit(pacing.token, self._since, self._since, 0)
        self._accounts: dict[str, _Limit] = {}
        self._kept = MANY  # accounts that were busy when they were last looked through

    async def take(self, n: int, account: str | None) -> Grant:
        """Grant up to ``n`` requests now: see ``SharedBudget``."""
        return self.take_now(n, account)

    def take_now(self, n: int, account: str | None) -> Grant:
        """Do the same, for those that cannot await. One thread at a time may call it."""
        now = self._clock()
        limits: list[tuple[Level, _Limit | None]] = [
            ("token", self._token),
            ("account", self._of(account, now)),
        ]
        for level, limit in limits:
            if limit is not None:
                n = min(n, limit.free(now))
                if n < 1:
                    return Grant(0, limit.wait(now), level)
        for _, limit in limits:
            if limit is not None:
                limit.take(n, now)
        return Grant(n)

    def _of(self, account: str | None, now: float) -> _Limit | None:
        rate = self._pacing.account
        if account is None or rate is None:
            return None
        if len(self._accounts) > 2 * self._kept:
            self._accounts = {name: each for name, each in self._accounts.items() if each.is_busy(now)}
            self._kept = max(MANY, len(self._accounts))
        if account not in self._accounts:
            self._accounts[account] = _Limit(rate, now, self._since, rate.limit)
        return self._accounts[account]


class _Limit:
    """One limit: no more than that in any window, and after a small burst no faster than the steady rate.

    It has hardly a burst in the window after ``since``: what was sent before is not known.
    """

    __slots__ = ("_at", "_known_from", "_limit", "_ready", "_seconds", "_taken")

    def __init__(self, rate: Rate, now: float, since: float, ready: float) -> None:
        self._limit, self._seconds = rate.limit, rate.window + EARLY
        self._known_from = since + self._seconds
        self._ready, self._at = min(ready, self._burst(now)), now
        self._taken = deque[float]()

    def _burst(self, now: float) -> float:
        return max(1.0, self._limit * (BURST if now >= self._known_from else FIRST_BURST))

    def free(self, now: float) -> int:
        while self._taken and now - self._taken[0] >= self._seconds:
            self._taken.popleft()
        self._ready = min(self._burst(now), self._ready + (now - self._at) * self._limit / self._seconds)
        self._at = now
        return min(int(self._ready), self._limit - len(self._taken))

    def wait(self, now: float) -> float:
        """Return the seconds until one is free."""
        steady = (1.0 - self._ready) * self._seconds / self._limit
        is_full = len(self._taken) >= self._limit
        return max(0.0, steady, self._taken[0] + self._seconds - now if is_full else 0.0)

    def take(self, n: int, now: float) -> None:
        self._ready -= n
        self._taken.extend([now] * n)

    def is_busy(self, now: float) -> bool:
        return self.free(now) < int(self._burst(now)) or bool(self._taken)

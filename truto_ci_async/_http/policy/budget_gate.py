"""Asks the shared budget of a client, for one request after the other, and goes on without it while it is away."""

from __future__ import annotations

import asyncio
import logging
import math
import random as _random
import time
from collections.abc import Callable
from typing import Final, cast

from truto_ci_async._checks import brief, check_number, is_number, is_whole_number
from truto_ci_async.errors import ConfigurationError

from .rate_windows import Rate
from .shared_budget import Grant, SharedBudget

logger = logging.getLogger("truto_ci_async")

MOST_AT_ONCE: Final = 10  # requests of one account that one call of ``take`` asks for
ASKS_AT_ONCE: Final = 8
TAKE_TIMEOUT: Final = 0.5  # seconds; a grant that comes later might be used up by someone else
ASK_AGAIN: Final = 0.05  # seconds between two calls while the token's limit is used up
LONGEST_WAIT: Final = 1.0  # seconds to wait for what a budget calls free later
AWAY: Final = 2.0  # seconds to go on without a budget that failed before it is asked again
SAFE_SHARE: Final = 0.1  # of the token's rate, while the budget is away
SAFE_RATE: Final = Rate(500, 10.0)  # what that is a share of, for a client without a limit for its token


class _Account:
    """What is known of one account while its requests ask."""

    __slots__ = ("asking", "granted", "lock", "refused_until", "use_by")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.asking = 0
        self.granted = 0  # beyond the request that asked
        self.use_by = -math.inf
        self.refused_until = -math.inf


class BudgetGate:
    """Passes each request that the budget grants. Requests of one account are asked for together.

    While the token's limit is used up, one request at a time asks again; the others wait in line behind it.

    :raises ConfigurationError: the budget has no ``take``, or a ``safe_share`` that is no share.
    """

    def __init__(
        self,
        budget: SharedBudget,
        rate: Rate | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        if not callable(getattr(budget, "take", None)):
            raise ConfigurationError(f"shared_budget must have a method take, got {brief(budget)}")
        share = getattr(budget, "safe_share", SAFE_SHARE)
        check_number("safe_share of the shared budget", share, above=0)
        if share > 1:
            raise ConfigurationError(f"safe_share of the shared budget must be at most 1, got {share:g}")
        rate = rate or SAFE_RATE
        self._budget = budget
        self._clock = clock
        self._draw = random
        self._safe_gap = rate.window / rate.limit / share
        self._safe_at = -math.inf  # when the next request may go while the budget is away
        self._away_until = -math.inf
        self._is_away = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accounts: dict[str | None, _Account] = {}

    def _bind(self) -> None:
        """Start afresh in another event loop: locks of one that ended would never open."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._accounts = {}
            self._asks = asyncio.Semaphore(ASKS_AT_ONCE)
            self._used_up = asyncio.Lock()  # held while the token's limit is used up

    async def ask(self, account: str | None) -> Grant:
        """Wait until a request of ``account`` may be sent by the token's limit.

        A ``count`` of 0 in the answer means that the account's own limit is used up.
        """
        self._bind()
        state = self._accounts.get(account)
        if state is None:
            state = self._accounts[account] = _Account()
        state.asking += 1
        try:
            async with state.lock:
                now = self._clock()
                if state.granted and now < state.use_by:
                    state.granted -= 1
                    return Grant(1)
                if now < state.refused_until:
                    return Grant(0, state.refused_until - now, "account")
                grant = await self._in_turn(account, state)
                state.granted = max(0, grant.count - 1)
                if not grant.count:
                    state.refused_until = self._clock() + grant.retry_after
                return grant
        finally:
            state.asking -= 1
            if not state.asking and self._accounts.get(account) is state:
                del self._accounts[account]

    async def _in_turn(self, account: str | None, state: _Account) -> Grant:
        if not self._used_up.locked():
            async with self._asks:
                grant = await self._take(account, state)
            if grant.count or grant.level == "account":
                return grant
        async with self._used_up:
            while True:
                grant = await self._take(account, state)
                if grant.count or grant.level == "account":
                    return grant
                await asyncio.sleep(grant.retry_after + ASK_AGAIN * 0.5 * self._draw())

    async def _take(self, account: str | None, state: _Account) -> Grant:
        """Call ``take`` once, or without the budget decide alone."""
        called_at = self._clock()
        if called_at < self._away_until:
            return self._safe_grant(called_at)
        n = min(MOST_AT_ONCE, state.asking)
        try:
            async with asyncio.timeout(TAKE_TIMEOUT):
                grant = _checked(await self._budget.take(n, account), n, account)
        except Exception as error:  # noqa: BLE001 - whatever breaks it, requests go on without it
            return self._go_on_without(error)
        if self._is_away:
            self._is_away = False
            logger.info("the shared budget is back")
        state.use_by = called_at + TAKE_TIMEOUT
        return grant

    def _go_on_without(self, error: Exception) -> Grant:
        now = self._clock()
        self._away_until = now + AWAY
        if not self._is_away:
            self._is_away = True
            # Not the error's own text, which may hold an address with a password.
            logger.warning(
                "the shared budget is away (%s): sending %.3g requests a second without it",
                type(error).__name__,
                1 / self._safe_gap,
            )
        return self._safe_grant(now)

    def _safe_grant(self, now: float) -> Grant:
        if now < self._safe_at:
            return Grant(0, retry_after=self._safe_at - now)
        # Counting from when this request was due, not from now, keeps the rate although timers fire late.
        self._safe_at = max(self._safe_at, now - self._safe_gap) + self._safe_gap
        return Grant(1)


def _checked(granted: object, n: int, account: str | None) -> Grant:
    """Return what a budget granted as a Grant, of at most ``n`` and with a time to ask again that makes sense.

    :raises TypeError: it is neither a number of requests nor a Grant.
    """
    grant = granted if isinstance(granted, Grant) else Grant(cast("int", granted))
    if not is_whole_number(grant.count, least=0) or not is_number(grant.retry_after):
        raise TypeError("take returned neither a number of requests nor a Grant")
    if grant.count:
        return Grant(min(grant.count, n))
    level = grant.level if account is not None else "token"
    return Grant(0, min(max(grant.retry_after, ASK_AGAIN), LONGEST_WAIT), level)

"""Makes requests wait until their ``RateLimiter`` admits them.

It is on the path of every request, so it has no task of its own: each waiting request awaits one future, and one timer
of the running loop wakes them. Only this file and ``budget_gate``, which it asks next, await anything in this folder.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from msgspec import DecodeError, Struct, ValidationError, json

from truto_ci_async.errors import RateLimitError

from .daily_quota import Part
from .headers import Level
from .rate_limiter import RateLimiter, Waiter

if TYPE_CHECKING:
    from .budget_gate import BudgetGate


class _Timer(Protocol):
    def cancel(self) -> object: ...


class Admission(Struct, frozen=True):
    """When a request was admitted, by the clock of its queue, and for how many seconds it waited for that."""

    at: float
    waited: float = 0.0


UNPACED = Admission(0.0)


class AdmissionQueue:
    """Lets requests through when their ``RateLimiter`` admits them.

    Report the end of every admitted request exactly once, with ``on_response``, ``on_failure`` or ``on_unsent``. They
    take the arguments of the ``RateLimiter``'s methods, without the time.

    ``clock`` is monotonic, ``epoch`` the wall clock. ``call_later(delay, callback)`` returns a timer.
    ``on_wait(account, level, seconds)`` is called for each request that had to wait, once it is admitted.
    ``gate`` asks the budget that is shared with other processes, after a request's turn has come.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        call_later: Callable[[float, Callable[[], None]], _Timer] | None = None,
        on_wait: Callable[[str | None, Level, float], None] | None = None,
        gate: BudgetGate | None = None,
    ) -> None:
        self.limiter = limiter
        self._gate = gate
        self._clock = clock
        self._epoch = epoch
        self._call_later = call_later
        self._on_wait = on_wait
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: _Timer | None = None
        self._timer_at = math.inf

    async def admit(self, account: str | None) -> Admission:
        """Wait until a request for ``account`` may be sent.

        If it may be sent now, this returns without yielding to the loop. A cancelled request leaves the queue; if it
        already had a slot, the slot goes to the next one.

        :raises RateLimitError: the service wants no requests at this level for longer than the limiter's ``max_wait``.
            Nothing was sent. ``retry_after`` is the time left.
        """
        limiter = self.limiter
        if not limiter.is_on:
            return UNPACED
        start = self._clock()
        waiter = limiter.enter(account, start)
        if self._gate is not None:
            return await self._admit_by_budget(self._gate, account, waiter, start)
        if waiter is None:
            return Admission(start)
        had_to_wait = await self._wait(waiter)
        at = _admitted_at(waiter)
        return Admission(at, self._waited(account, waiter.level, start) if had_to_wait else 0.0)

    async def _admit_by_budget(
        self, gate: BudgetGate, account: str | None, waiter: Waiter | None, start: float
    ) -> Admission:
        """Wait for a turn, then for the shared budget. A request it refuses is the next one of its account."""
        from .budget_gate import ASK_AGAIN  # with the gate: few clients share a budget

        level: Level = "token"
        while True:
            at = start
            if waiter is not None:
                await self._wait(waiter)
                at, level = _admitted_at(waiter), waiter.level
            try:
                grant = await gate.ask(account)
            except BaseException:
                self.limiter.on_unsent(account, self._clock(), admitted_at=at)
                self._wake_next()
                raise
            if grant.count:
                waited = self._clock() - start
                return Admission(at, 0.0 if waited < ASK_AGAIN else self._waited(account, level, start))
            waiter = self.limiter.postpone(account, self._clock(), admitted_at=at, wait=grant.retry_after)

    def _waited(self, account: str | None, level: Level, start: float) -> float:
        waited = max(0.0, self._clock() - start)
        if self._on_wait is not None:
            self._on_wait(account, level, waited)
        return waited

    async def _wait(self, waiter: Waiter) -> bool:
        """Wait until ``waiter`` is out of the queue; return whether that took any waiting."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the timer of a loop that ended would never fire
            self._loop = loop
            self._timer = None
            self._timer_at = math.inf
        future: asyncio.Future[None] = loop.create_future()
        waiter.owner = future
        try:
            self._wake_next()
            had_to_wait = not future.done()
            await future
        except BaseException:
            if waiter.admitted_at is not None:
                self.limiter.on_unsent(waiter.account.name, self._clock(), admitted_at=waiter.admitted_at)
            else:
                self.limiter.leave(waiter)
            self._wake_next()
            raise
        return had_to_wait

    def on_response(
        self,
        account: str | None,
        status: int,
        headers: Mapping[str, str],
        *,
        retry_after: float | None = None,
        is_remote: bool = False,
        hint: Level | None = None,
    ) -> None:
        """Note a response: see ``RateLimiter.on_response``."""
        if self.limiter.is_on:
            self.limiter.on_response(
                account,
                status,
                headers,
                self._clock(),
                now_epoch=self._epoch(),
                retry_after=retry_after,
                is_remote=is_remote,
                hint=hint,
            )
            self._wake_next()

    def on_failure(self, account: str | None) -> None:
        """Note that no response came, though the request may have been sent."""
        if self.limiter.is_on:
            self.limiter.on_failure(account)
            self._wake_next()

    def on_unsent(self, account: str | None, admission: Admission) -> None:
        """Note that the request was never sent."""
        if self.limiter.is_on:
            self.limiter.on_unsent(account, self._clock(), admitted_at=admission.at)
            self._wake_next()

    def daily_use(self, account: str) -> str:
        """Return as text what counts towards the day's quota of an account."""
        now, epoch = self._clock(), self._epoch()
        return json.encode(self.limiter.daily_use(account, now, epoch=epoch)).decode()

    def add_daily_use(self, account: str, text: str) -> None:
        """Count what ``daily_use`` returned in an earlier process. Text that it did not write is ignored."""
        with suppress(ValidationError, DecodeError):
            parts = json.decode(text, type=list[Part])
            self.limiter.add_daily_use(account, parts, self._clock(), epoch=self._epoch())

    def _wake_next(self, now: float | None = None) -> None:
        """Wake the waiters that left the queue, and set the timer for the next ones."""
        limiter = self.limiter
        if not limiter.waiting and self._timer is None:
            return
        if now is None:
            now = self._clock()
        _wake(limiter.poll(now))
        at = limiter.next_at(now)
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at == math.inf or self._loop is None or self._loop.is_closed():
            return
        self._timer = (self._call_later or self._loop.call_later)(max(0.0, at - now), self._on_timer)

    def _on_timer(self) -> None:
        # A loop may fire early by its clock's resolution. Setting the timer again would spin.
        now = max(self._clock(), self._timer_at)
        self._timer = None
        self._timer_at = math.inf
        self._wake_next(now)


def _wake(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        future: asyncio.Future[None] = waiter.owner
        # A request cancelled in this turn of the loop gives its slot back when its task runs.
        if not future.done() and not future.get_loop().is_closed():
            future.set_result(None)


def _admitted_at(waiter: Waiter) -> float:
    """Return when a waiter that left the queue was admitted.

    :raises RateLimitError: it was refused.
    """
    if waiter.admitted_at is not None:
        return waiter.admitted_at
    assert waiter.refused is not None
    what = f"the service wants no requests of this {waiter.level}"
    daily = waiter.account.daily
    if daily is not None and daily.is_used_up:
        what = f"the quota of {daily.rate.limit:,} requests in {daily.rate.window:g} s of this account is used up"
    raise RateLimitError(
        f"{what} for another {waiter.refused:.0f} s",
        status=429,
        error="Too Many Requests",
        retry_after=waiter.refused,
        account=waiter.account.name,
        attempts=0,
    )

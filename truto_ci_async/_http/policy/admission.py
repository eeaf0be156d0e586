"""Makes requests wait until their ``RateLimiter`` admits them.

The only file of this folder that awaits. It is on the path of every request, so it has no task of its own: each
waiting request awaits one future, and one timer of the running loop wakes them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from truto_ci_async.errors import RateLimitError

from .headers import Level
from .rate_limiter import RateLimiter, Waiter


class _Timer(Protocol):
    def cancel(self) -> object: ...


class Admission(NamedTuple):
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
    """

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        call_later: Callable[[float, Callable[[], None]], _Timer] | None = None,
        on_wait: Callable[[str | None, Level, float], None] | None = None,
    ) -> None:
        self.limiter = limiter
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
        if waiter is None:
            return Admission(start)
        had_to_wait = await self._wait(waiter)
        if waiter.admitted_at is None:
            assert waiter.refused is not None
            raise RateLimitError(
                f"the service wants no requests of this {waiter.level} for another {waiter.refused:.0f} s",
                status=429,
                error="Too Many Requests",
                retry_after=waiter.refused,
                account=account,
                attempts=0,
            )
        if not had_to_wait:
            return Admission(waiter.admitted_at)
        waited = max(0.0, self._clock() - start)
        if self._on_wait is not None:
            self._on_wait(account, waiter.level, waited)
        return Admission(waiter.admitted_at, waited)

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

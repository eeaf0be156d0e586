"""Makes requests wait for their turn."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from truto_ci_async.errors import RateLimitError

from .headers import Level
from .rate_limiter import RateLimiter, Waiter


class _Timer(Protocol):
    def cancel(self) -> object: ...


class AdmissionQueue:
    """Lets requests through as its ``RateLimiter`` says: the one part of pacing that awaits.

    Everyone admitted must come back exactly once, by ``on_response``, ``on_failure`` or ``on_unsent``
    (arguments as ``RateLimiter``'s, without the time). No task of its own: while somebody waits, one timer of the
    running loop is set.

    ``clock`` is monotonic, ``epoch`` the wall clock; ``call_later(delay, callback)`` gives something to
    cancel. ``on_wait(account, level, seconds)`` is told of everyone who had to wait, once they are through.
    """

    def __init__(
        self,
        pacer: RateLimiter,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        call_later: Callable[[float, Callable[[], None]], _Timer] | None = None,
        on_wait: Callable[[str | None, Level, float], None] | None = None,
    ) -> None:
        self.pacer = pacer
        self._clock = clock
        self._epoch = epoch
        self._call_later = call_later
        self._on_wait = on_wait
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: _Timer | None = None
        self._timer_at = math.inf

    async def admit(self, account: str | None) -> float:
        """Wait for the turn of a request for ``account``; give back the seconds waited.

        When nothing speaks against it this returns at once, without a turn of the loop. Whoever is cancelled
        while waiting leaves the queue, and a slot already given to them goes to the next.

        :raises RateLimitError: the service wants this level left alone for longer than the pacer's
            ``max_wait``; nothing was sent. ``retry_after`` says for how long.
        """
        pacer = self.pacer
        if not pacer.is_on:
            return 0.0
        start = self._clock()
        ticket = pacer.enter(account, start)
        if ticket is None:
            return 0.0
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a timer of a loop that is gone would never fire
            self._loop = loop
            self._timer = None
            self._timer_at = math.inf
        future: asyncio.Future[None] = loop.create_future()
        ticket.owner = future
        try:
            self._turn()
            is_delayed = not future.done()
            await future
        except BaseException:
            if ticket.is_through:
                pacer.on_unsent(account, self._clock())
            else:
                pacer.leave(ticket)
            self._turn()
            raise
        if ticket.refused is not None:
            raise RateLimitError(
                f"the service asked to be left alone for another {ticket.refused:.0f} s"
                + (" by this token" if ticket.level == "token" else " by this account"),
                status=429,
                error="Too Many Requests",
                retry_after=ticket.refused,
                account=account,
                attempts=0,
            )
        if not is_delayed:
            return 0.0
        waited = max(0.0, self._clock() - start)
        if self._on_wait is not None:
            self._on_wait(account, ticket.level, waited)
        return waited

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
        """An answer came: see ``RateLimiter.on_response``."""
        if self.pacer.is_on:
            self.pacer.on_response(
                account,
                status,
                headers,
                self._clock(),
                now_epoch=self._epoch(),
                retry_after=retry_after,
                is_remote=is_remote,
                hint=hint,
            )
            self._turn()

    def on_failure(self, account: str | None) -> None:
        """No answer came, though the request may have been sent."""
        if self.pacer.is_on:
            self.pacer.on_failure(account, self._clock())
            self._turn()

    def on_unsent(self, account: str | None) -> None:
        """Nothing was sent after all."""
        if self.pacer.is_on:
            self.pacer.on_unsent(account, self._clock())
            self._turn()

    def _turn(self, now: float | None = None) -> None:
        """Wake whoever may go, and set the timer for the next."""
        pacer = self.pacer
        if not pacer.waiting and self._timer is None:
            return
        if now is None:
            now = self._clock()
        _wake(pacer.poll(now))
        at = pacer.next_at(now)
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at == math.inf or self._loop is None or self._loop.is_closed():
            return
        self._timer = (self._call_later or self._loop.call_later)(max(0.0, at - now), self._fire)

    def _fire(self) -> None:
        # A loop may fire early by its clock's resolution; to ask again at once would only spin.
        now = max(self._clock(), self._timer_at)
        self._timer = None
        self._timer_at = math.inf
        self._turn(now)


def _wake(tickets: Iterable[Waiter]) -> None:
    for ticket in tickets:
        future: asyncio.Future[None] = ticket.owner
        # One who was cancelled in this very turn gives the slot back when its task runs.
        if not future.done() and not future.get_loop().is_closed():
            future.set_result(None)

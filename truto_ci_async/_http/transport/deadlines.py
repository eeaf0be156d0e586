"""Deadlines that share one timer: a cheaper ``asyncio.timeout`` for thousands of calls a second.

``asyncio.timeout`` sets a timer of the loop and cancels it again for every block, which takes as long as all our other
work on a small request, although nearly every call ends long before its deadline. Here one timer looks at all open
blocks when the earliest limit it knew of is due. By then most of those blocks were left, so it rarely finds one.

A block sees what ``asyncio.timeout`` would show it: its task is cancelled when the time is over, and the cancellation
leaves the block as a TimeoutError. There are two differences. A block may have a limit for its current step as well,
which costs less than a block in a block. And if other code blocked the loop, the result may have arrived in time
without being noticed. So an overdue limit is extended once before the block is cancelled: by long enough to check, or
by as long as the loop was late.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any

# Seconds that are enough to notice a result that has arrived. Every overdue limit gets them: some loops have a clock in
# milliseconds, and cannot tell whether they were blocked when a deadline passed.
MIN_EXTENSION = 0.05


class Deadlines:
    """The open deadlines of one event loop: the one that is running when the first of them begins."""

    __slots__ = ("_timer", "loop", "open", "timer_at")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.open: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf

    def within(self, seconds: float | None) -> Deadline:
        """Return a block that has to be left within ``seconds``; None means no limit, but ``expire`` can end it.

            with deadlines.within(30.0) as deadline:
                await response(deadline)

        :raises TimeoutError: from the block, once the time is over.
        """
        return Deadline(self, seconds)

    def bind(self) -> asyncio.AbstractEventLoop:
        """Take the running loop for good."""
        self.loop = asyncio.get_running_loop()
        return self.loop

    def set_timer(self, at: float) -> None:
        """Wake up at ``at``, which is earlier than the current timer."""
        if self._timer is not None:
            self._timer.cancel()
        assert self.loop is not None
        self.timer_at = at
        self._timer = self.loop.call_at(at, self._check)

    def _check(self) -> None:
        """End the blocks that are due, and set the timer for the next one."""
        assert self.loop is not None
        # A loop may run a timer early by as much as its clock resolves; waiting for the rest would spin.
        now = max(self.loop.time(), self.timer_at)
        self._timer = None
        self.timer_at = math.inf
        first = min([deadline.check(now) for deadline in self.open], default=math.inf)
        if first < math.inf:
            self.set_timer(first)

    def close(self) -> None:
        """Cancel the timer; blocks that are still open have no deadline any more."""
        timer, self._timer = self._timer, None
        self.timer_at = math.inf
        self.open.clear()
        if timer is not None:
            timer.cancel()


class Deadline:
    """One block with a deadline, for one task: see ``Deadlines.within``."""

    __slots__ = ("_cancelling", "_deadlines", "_limits", "_seconds", "_task", "expired", "missed")

    def __init__(self, deadlines: Deadlines, seconds: float | None) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        # By name, "" being the whole block: when it ends by the loop's clock, and its length, 0.0 once it was extended.
        self._limits: dict[str, tuple[float, float]] = {}
        self._task: asyncio.Task[Any] | None = None
        self.expired = False  # the task was cancelled because of this deadline
        #: The step that took too long; empty if it is the whole block.
        self.missed = ""

    def expire(self) -> None:
        """End the block now, as if its time were over. Does nothing if it was left already."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> Deadline:
        deadlines = self._deadlines
        # Each look for the running loop asks the system for the process's id, before Python 3.12.
        task = asyncio.current_task(deadlines.loop or deadlines.bind())
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        deadlines.open[self] = None
        if self._seconds is not None:
            self._limit("", self._seconds)
        return self

    def step(self, name: str, seconds: float | None) -> None:
        """Begin the step ``name``, which has to end within ``seconds``; the one before it is over."""
        whole = self._limits.get("")
        self._limits = {} if whole is None else {"": whole}
        if seconds is not None:
            self._limit(name, seconds)

    def _limit(self, name: str, seconds: float) -> None:
        deadlines = self._deadlines
        assert deadlines.loop is not None
        at = deadlines.loop.time() + seconds
        self._limits[name] = at, seconds
        if at < deadlines.timer_at:
            deadlines.set_timer(at)

    def check(self, now: float) -> float:
        """Extend a limit that is overdue, or end the block if it was extended before. Return when to check again."""
        for name, (at, seconds) in self._limits.items():
            if at > now:
                continue
            if not seconds:
                self.missed = self.missed if self.expired else name
                self.expire()
                return math.inf
            self._limits[name] = now + extension(seconds, late=now - at), 0.0
        return min([at for at, _ in self._limits.values()], default=math.inf)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._deadlines.open.pop(self, None)
        # If somebody else cancelled the task as well, that cancellation goes on.
        if (
            self.expired
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error


def extension(seconds: float, *, late: float) -> float:
    """Return the extra seconds for a limit of ``seconds`` that was noticed ``late`` seconds too late.

    As long as the loop was late, but enough for a look, and no more than the whole time.

    >>> [extension(60.0, late=late) for late in (0.0, 0.2, 20.0, 90.0)]
    [0.05, 0.2, 20.0, 60.0]
    """
    return min(seconds, max(late, MIN_EXTENSION))

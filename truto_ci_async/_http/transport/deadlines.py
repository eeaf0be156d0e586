"""Deadlines that share one timer: a cheaper ``asyncio.timeout`` for thousands of calls a second.

``asyncio.timeout`` sets a timer of the loop and cancels it again for every block, which takes as long as all our other
work on a small request, although nearly every call ends long before its deadline. Deadlines of the same length
expire in the order they began. So there is a queue for each length, and one timer, which looks at the heads of the
queues when the earliest of them is due. A block that was left by then is no longer in its queue.

A block sees what ``asyncio.timeout`` would show it: its task is cancelled when the time is over, and the cancellation
leaves the block as a TimeoutError. There is one difference. If other code blocked the loop, the result may have arrived
in time without being noticed. So an overdue block is extended once before it is cancelled: by long enough to check, or
by as long as the loop was late.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any

# Seconds that are enough to notice a result that has arrived. Every overdue block gets them: some loops have a clock in
# milliseconds, and cannot tell whether they were blocked when a deadline passed.
MIN_EXTENSION = 0.05


class Deadlines:
    """The open deadlines of one event loop: the one that is running when the first of them begins."""

    __slots__ = ("_timer", "extended", "loop", "queues", "timer_at")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        # By length in seconds; in each queue the first deadline is due first. Dicts, since most leave from the middle.
        self.queues: dict[float, dict[Deadline, None]] = {}
        # Overdue ones that were extended: few, and in no order.
        self.extended: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf

    def within(self, seconds: float | None) -> Deadline:
        """Return a block that has to be left within ``seconds``; None means no limit, but ``expire`` can end it.

            with deadlines.within(30.0):
                await response()

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
        for deadline in [each for each in self.extended if each.at <= now]:
            del self.extended[deadline]
            deadline.expire()
        for seconds, queue in list(self.queues.items()):
            self._extend_overdue(seconds, queue, now)
            if not queue:
                del self.queues[seconds]
        heads = [next(iter(queue)) for queue in self.queues.values()]
        first = min((each.at for each in (*self.extended, *heads)), default=math.inf)
        if first < math.inf:
            self.set_timer(first)

    def _extend_overdue(self, seconds: float, queue: dict[Deadline, None], now: float) -> None:
        for deadline in list(queue):
            if deadline.at > now:
                return
            del queue[deadline]
            deadline.extend(now + extension(seconds, late=now - deadline.at))

    def close(self) -> None:
        """Cancel the timer; blocks that are still open have no deadline any more."""
        timer, self._timer = self._timer, None
        self.timer_at = math.inf
        self.queues.clear()
        self.extended.clear()
        if timer is not None:
            timer.cancel()


class Deadline:
    """One block with a deadline, for one task: see ``Deadlines.within``."""

    __slots__ = ("_cancelling", "_deadlines", "_queue", "_seconds", "_task", "at", "expired")

    def __init__(self, deadlines: Deadlines, seconds: float | None) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._queue: dict[Deadline, None] | None = None  # the queue it is in
        self._task: asyncio.Task[Any] | None = None
        self.at = math.inf  # by the loop's clock
        self.expired = False  # the task was cancelled because of this deadline

    def extend(self, until: float) -> None:
        """Set another time, after the deadline has left its queue."""
        self.at = until
        self._queue = self._deadlines.extended
        self._queue[self] = None

    def expire(self) -> None:
        """End the block now, as if its time were over. Does nothing if it was left already."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> Deadline:
        loop = self._deadlines.loop or self._deadlines.bind()
        # Each look for the running loop asks the system for the process's id, before Python 3.12.
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        if self._seconds is not None:
            self.restart(self._seconds)
        return self

    def restart(self, seconds: float | None) -> None:
        """Give the block ``seconds`` from now on."""
        if self._queue is not None:
            self._queue.pop(self, None)
            self._queue = None
        if seconds is None:
            return
        deadlines = self._deadlines
        loop = deadlines.loop or deadlines.bind()
        self.at = at = loop.time() + seconds
        queue = self._queue = deadlines.queues.get(seconds)
        if queue is None:
            queue = self._queue = deadlines.queues[seconds] = {}
        queue[self] = None
        if at < deadlines.timer_at:
            deadlines.set_timer(at)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._queue is not None:
            self._queue.pop(self, None)
        # If somebody else cancelled the task as well, that cancellation goes on.
        if (
            self.expired
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error


def extension(seconds: float, *, late: float) -> float:
    """Return the extra seconds for a block of ``seconds`` whose deadline was noticed ``late`` seconds too late.

    As long as the loop was late, but enough for a look, and no more than the whole time.

    >>> [extension(60.0, late=late) for late in (0.0, 0.2, 20.0, 90.0)]
    [0.05, 0.2, 20.0, 60.0]
    """
    return min(seconds, max(late, MIN_EXTENSION))

"""Deadlines of many calls at the price of one timer: ``asyncio.timeout`` where there are thousands a second.

How it works. ``asyncio.timeout`` sets a timer of the loop and takes it back, for each block it guards: as much work
as all else that is ours in a small request. Nearly every call ends long before its deadline, so here none sets one.
Deadlines of the same length end in the order they began; they stand in one line for each length, and a single timer
looks at the heads of the lines when the first of them was due. One whose block was left by then is no longer there.

What a block sees is what ``asyncio.timeout`` shows it: its task is cancelled when the time is over, and the
cancellation leaves the block as a TimeoutError. But for one thing: when somebody's work between two awaits held the
loop, what a block waits for may have come long ago, and nobody could look. So a block whose time is over gets a last
chance before it is ended, once: time enough for a look, and as long again as the loop was late.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any

# Seconds that are enough to look at an answer that is here. Given always: by a clock of milliseconds, as some loops
# have, nobody can tell that they were held until a moment after a deadline.
A_LOOK = 0.05


class Deadlines:
    """The open deadlines of one event loop, which is the one running when the first of them is made."""

    __slots__ = ("_timer", "last_chances", "lines", "loop", "timer_at")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        # By their length in seconds; in each line the first one ends first. Dicts, since they leave from the middle.
        self.lines: dict[float, dict[Deadline, None]] = {}
        # Those whose time is over, and who have been given some more: few, in no order.
        self.last_chances: dict[Deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf

    def within(self, seconds: float | None) -> Deadline:
        """Return a block to be left within ``seconds`` (None: any time, but it can be ended by ``expire``).

            with deadlines.within(30.0):
                await answer()

        :raises TimeoutError: from the block, once the time is over.
        """
        return Deadline(self, seconds)

    def set_timer(self, at: float) -> None:
        """Look at the lines at that moment, which is before all others."""
        if self._timer is not None:
            self._timer.cancel()
        assert self.loop is not None
        self.timer_at = at
        self._timer = self.loop.call_at(at, self._look)

    def _look(self) -> None:
        """End what is due, and come again when the next one is."""
        assert self.loop is not None
        # A loop may be early by its clock's resolution, and to ask again at once would only spin.
        now = max(self.loop.time(), self.timer_at)
        self._timer = None
        self.timer_at = first = math.inf
        for deadline in list(self.last_chances):
            if deadline.at > now:
                first = min(first, deadline.at)
            else:
                del self.last_chances[deadline]
                deadline.expire()
        for seconds, line in list(self.lines.items()):
            for deadline in list(line):
                if deadline.at > now:
                    first = min(first, deadline.at)
                    break
                del line[deadline]
                deadline.give_last_chance(now + more_time(seconds, late=now - deadline.at))
                first = min(first, deadline.at)
            if not line:
                del self.lines[seconds]
        if first < math.inf:
            self.set_timer(first)

    def close(self) -> None:
        """Take the timer back; what is still open has no deadline any more."""
        timer, self._timer = self._timer, None
        self.timer_at = math.inf
        self.lines.clear()
        self.last_chances.clear()
        if timer is not None:
            timer.cancel()


class Deadline:
    """One block with a deadline, for one task: see ``Deadlines.within``."""

    __slots__ = ("_cancelling", "_deadlines", "_line", "_seconds", "_task", "at", "expired")

    def __init__(self, deadlines: Deadlines, seconds: float | None) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._line: dict[Deadline, None] | None = None  # where it stands
        self._task: asyncio.Task[Any] | None = None
        self.at = math.inf  # by the loop's clock
        self.expired = False  # the block has been told

    def give_last_chance(self, until: float) -> None:
        """Leave the line, and end the block at that moment if it is not left by then."""
        self.at = until
        self._line = self._deadlines.last_chances
        self._line[self] = None

    def expire(self) -> None:
        """End the block now, as if its time were over; nothing happens when it was left already."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task to end")
        self._task = task
        self._cancelling = task.cancelling()
        seconds = self._seconds
        if seconds is not None:
            deadlines = self._deadlines
            loop = deadlines.loop
            if loop is None:
                loop = deadlines.loop = asyncio.get_running_loop()
            self.at = at = loop.time() + seconds
            line = self._line = deadlines.lines.get(seconds)
            if line is None:
                line = self._line = deadlines.lines[seconds] = {}
            line[self] = None
            if at < deadlines.timer_at:
                deadlines.set_timer(at)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._line is not None:
            self._line.pop(self, None)
        # Somebody else's cancellation that came as well is theirs, and goes on.
        if (
            self.expired
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error


def more_time(seconds: float, *, late: float) -> float:
    """Return the seconds that a block gets whose time, of ``seconds``, was over ``late`` seconds ago.

    Enough for a look, as long again as the loop was late, and no more than the whole time.

    >>> [more_time(60.0, late=late) for late in (0.0, 0.2, 20.0, 90.0)]
    [0.05, 0.2, 20.0, 60.0]
    """
    return min(seconds, max(late, A_LOOK))

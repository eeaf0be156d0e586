"""Counts the requests of one account against a quota of its provider for a day."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, TypeAlias

from .rate_windows import Rate

DAY: Final = 86_400.0
PARTS: Final = (
    96  # of a window; requests of one part are counted together, until the last of them could count no more
)
SAME: Final = 0.001  # of a part; two that begin closer together are the same one

#: When a part of the window began, and the requests sent in it.
Part: TypeAlias = tuple[float, int]


class DailyQuota:
    """At most ``rate.limit`` requests in any ``rate.window`` seconds, in memory that does not grow with them."""

    __slots__ = ("_parts", "_step", "_used", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._step = rate.window / PARTS
        self._parts: deque[Part] = deque()
        self._used = 0

    @property
    def is_used_up(self) -> bool:
        """Whether it was when it was last looked at."""
        return self._used >= self.rate.limit

    def free_at(self, now: float) -> float:
        """Return when the next request may be sent; ``now`` or earlier: right away."""
        self._drop_old(now)
        if self._used < self.rate.limit:
            return now
        return self._parts[0][0] + self._step + self.rate.window

    def take(self, now: float) -> None:
        self._used += 1
        if self._parts and now < self._parts[-1][0] + self._step:
            began_at, count = self._parts.pop()
            self._parts.append((began_at, count + 1))
        else:
            self._parts.append((now, 1))

    def give_back(self, now: float) -> None:
        """Take back a request that was never sent."""
        self._drop_old(now)
        if self._parts:
            began_at, count = self._parts.pop()
            self._used -= 1
            if count > 1:
                self._parts.append((began_at, count - 1))

    def used(self, now: float, *, epoch: float) -> list[Part]:
        """Return what counts now, with times in seconds since 1970; ``epoch`` is that time now."""
        self._drop_old(now)
        return [(began_at + epoch - now, count) for began_at, count in self._parts]

    def add(self, parts: Iterable[Part], now: float, *, epoch: float) -> None:
        """Add what ``used`` returned earlier, in any process. A part that is known is not counted again."""
        earlier = ((min(began_at - epoch, 0.0) + now, count) for began_at, count in parts if count > 0)
        merged: deque[Part] = deque()
        for began_at, count in sorted([*self._parts, *earlier]):
            if merged and began_at - merged[-1][0] < self._step * SAME:
                began_at, known = merged.pop()
                count = max(count, known)
            merged.append((began_at, count))
        self._parts = merged
        self._used = sum(count for _, count in self._parts)
        self._drop_old(now)

    def forgettable_at(self) -> float:
        return self._parts[-1][0] + self._step + self.rate.window if self._parts else 0.0

    def _drop_old(self, now: float) -> None:
        while self._parts and self._parts[0][0] + self._step + self.rate.window <= now:
            self._used -= self._parts.popleft()[1]

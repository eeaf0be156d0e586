"""Sliding windows and quotas of one limit."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from msgspec import Struct

from truto_ci_async._checks import check_number, check_whole_number
from truto_ci_async.models import RateLimit

# Of the window, added to it: requests on their way bunch up by as much as latency varies.
MARGIN: Final = 0.04
BURST_SHARE: Final = 0.5  # of the slots, free to be taken at once
GAP_SHARE: Final = 0.95  # of the steady gap between two requests; the slots hold the long run to the limit
BACK_OFF_FACTOR: Final = 0.75  # of the slots, left after a 429
REGAINED_PER_WINDOW: Final = 0.03  # of the slots, won back in each window after a 429


class Rate(Struct, frozen=True):
    """``limit`` requests in any ``window`` seconds.

    :raises ConfigurationError: ``limit`` is not a whole number of at least 1, or ``window`` not above zero.
    """

    limit: int
    window: float

    def __post_init__(self) -> None:
        check_whole_number("Rate.limit", self.limit, least=1)
        check_number("Rate.window", self.window, above=0)


class SlidingWindow:
    """The slots of one limit. ``busy`` requests are out; ``_kept`` says until when slots are taken."""

    __slots__ = (
        "_cut_at",
        "_cut_to",
        "_gap",
        "_hold",
        "_kept",
        "_last",
        "busy",
        "limit",
        "max_busy",
        "paused_until",
    )

    def __init__(self, rate: Rate | None, *, max_busy: float = math.inf) -> None:
        self.max_busy = max_busy
        self.limit = math.inf if rate is None else float(rate.limit)
        self._hold = 1.0 if rate is None else rate.window * (1 + MARGIN)
        self._gap = 0.0 if rate is None else rate.window * GAP_SHARE  # to be divided by the slots
        self._kept: deque[float] = deque()
        self._last = -math.inf  # when a slot was taken last
        self._cut_at = -math.inf
        self._cut_to = 0.0  # slots right after the last cut; 0 when there is no cut to win back
        self.busy = 0
        self.paused_until = -math.inf

    def ready_at(self, now: float) -> float:
        """When a slot can be taken; ``now`` or earlier means now, infinity means after the next answer."""
        if self.busy >= self.max_busy:
            return math.inf
        kept = self._kept
        while kept and kept[0] <= now:
            kept.popleft()
        if self.paused_until > now:
            return self.paused_until
        limit = self._slots(now) if self._cut_to else self.limit
        used = len(kept)
        if used >= limit:
            return kept[used - math.ceil(limit)]
        if self._cut_to or used >= limit * BURST_SHARE:
            return self._last + self._gap / limit
        return now

    def take(self, now: float) -> None:
        """Take a slot; ``ready_at`` said that there is one."""
        self.busy += 1
        if self.limit == math.inf:
            return
        self._kept.append(now + self._hold)
        # A timer is always a little late. Counting from when it was due keeps the rate.
        gap = self._gap / self.limit
        due = self._last + gap
        self._last = due if now - gap < due <= now else now

    def come_back(self, *, is_sent: bool) -> None:
        """Note that a request is no longer out. One that was never sent leaves its slot."""
        self.busy = max(0, self.busy - 1)
        if not is_sent and self._kept:
            self._kept.pop()

    def pause(self, until: float) -> None:
        """Let nobody through before ``until``."""
        self.paused_until = max(self.paused_until, until)

    def cut(self, now: float) -> None:
        """Work with fewer slots after a 429; at most once a window: answers to a flood come together."""
        if self.limit == math.inf or now < self._cut_at + self._hold:
            return
        self._cut_to = max(1.0, (self._slots(now) if self._cut_to else self.limit) * BACK_OFF_FACTOR)
        self._cut_at = now

    def share_used(self, now: float) -> float:
        """How much of the limit is in use, from 0 to 1."""
        self.ready_at(now)
        return len(self._kept) / self.limit

    def idle_from(self) -> float:
        """When everything this knows will be out of date."""
        kept = self._kept[-1] if self._kept else -math.inf
        regained = -math.inf
        if self._cut_to:
            regained = self._cut_at + (1 - self._cut_to / self.limit) / REGAINED_PER_WINDOW * self._hold
        return max(kept, regained, self.paused_until)

    def _slots(self, now: float) -> float:
        windows = max(0.0, now - self._cut_at) / self._hold
        slots = self._cut_to + self.limit * REGAINED_PER_WINDOW * windows
        if slots >= self.limit:
            self._cut_to = 0.0
            return self.limit
        return slots


class Quota:
    """What the provider said about an account: ``left`` requests until ``until``, then ``limit`` a period."""

    __slots__ = ("left", "limit", "period", "until")

    def __init__(self) -> None:
        self.limit: int | None = None
        self.period: float | None = None  # seconds; None when unknown
        self.left = math.inf
        self.until = -math.inf

    def learn(self, told: RateLimit, busy: int, now: float, longest: float) -> None:
        """Take in headers. ``busy`` requests are out and not counted in them yet.

        Nothing is held back for longer than ``longest`` on the word of a header: past that, the next request
        asks.
        """
        if told.limit is not None:
            # A limit of nothing would be a wall for ever; the count of what remains can say "not now".
            self.limit = told.limit or None
            self.period = told.window if told.window is not None and told.window <= longest else None
        if told.remaining is not None and told.reset is not None and told.reset <= longest:
            self.left = max(0, told.remaining - busy)
            self.until = now + told.reset
        elif told.remaining:
            self.left = math.inf

    def ready_at(self, now: float, busy: int) -> float:
        """When one more may go, as ``SlidingWindow.ready_at``."""
        if now >= self.until:
            self.left = math.inf
            if self.limit is not None and self.period is not None:
                self.left = max(0, self.limit - busy)
                self.until = now + self.period
        return now if self.left >= 1 else self.until

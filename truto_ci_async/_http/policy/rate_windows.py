"""Counts the requests of one limit: the sliding window we keep to, and the quota a provider reports."""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from typing import Final

from msgspec import Struct

from truto_ci_async._checks import check_number, check_whole_number
from truto_ci_async.models import RateLimit

# Share of the window added to it: latency varies, so requests can arrive closer together than they were sent.
MARGIN: Final = 0.04
BURST_SHARE: Final = 0.5  # of the slots can be taken at once
GAP_SHARE: Final = 0.95  # of the steady gap between two requests; the slots alone keep the long-run rate
BACK_OFF_FACTOR: Final = 0.75  # of the slots are left after a 429
REGAINED_PER_WINDOW: Final = 0.03  # of the slots come back with each window after a 429
SHORTEST_PERIOD: Final = 0.01  # seconds; a shorter window in a header would keep the loop busy


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
    """Hands out the slots of one limit. ``in_flight`` requests have been sent and not finished.

    A request takes a slot and keeps it for one window plus a margin, however soon the response arrives.
    """

    __slots__ = (
        "_backed_off_at",
        "_backed_off_to",
        "_gap",
        "_last_taken",
        "_slot_seconds",
        "_taken_until",
        "in_flight",
        "limit",
        "max_in_flight",
        "paused_until",
    )

    def __init__(self, rate: Rate | None, *, max_in_flight: float = math.inf) -> None:
        self.max_in_flight = max_in_flight
        self.limit = math.inf if rate is None else float(rate.limit)
        window = 1.0 if rate is None else rate.window  # mutant: without a limit the window does not matter
        self._slot_seconds = window * (1 + MARGIN)
        self._gap = window * GAP_SHARE  # between two requests if there was one slot
        self._taken_until: deque[float] = deque()
        self._last_taken = -math.inf
        self._backed_off_at = -math.inf
        # Slots right after backing off; 0 when all slots are available.
        self._backed_off_to = 0.0  # mutant: any other value counts as recovered
        self.in_flight = 0
        self.paused_until = -math.inf

    def ready_at(self, now: float) -> float:
        """Return when a slot is free. ``now`` or earlier: right away; infinity: once a request has finished."""
        if self.in_flight >= self.max_in_flight:
            return math.inf
        taken = self._taken_until
        while taken and taken[0] <= now:
            taken.popleft()
        if self.paused_until > now:
            return self.paused_until
        slots = self._slots(now)
        used = len(taken)
        if used >= slots:
            return taken[used - math.ceil(slots)]
        if self._backed_off_to or used >= slots * BURST_SHARE:
            return self._last_taken + self._gap / slots
        return now

    def take(self, now: float) -> None:
        """Take a slot. Call it only when ``ready_at`` says that one is free."""
        self.in_flight += 1
        if self.limit == math.inf:
            return
        self._taken_until.append(now + self._slot_seconds)
        # Timers fire a little late. Counting from when this slot was due, not from now, keeps the rate.
        gap = self._gap / self.limit
        due = self._last_taken + gap
        self._last_taken = due if now - gap < due <= now else now  # mutant: < is the same, as due is now

    def finish(self) -> None:
        """Note that a request is no longer in flight. It keeps its slot."""
        self.in_flight = max(0, self.in_flight - 1)

    def give_back(self, taken_at: float) -> None:
        """Free the slot that was taken at that moment, if it is not free already: its request was never sent."""
        with suppress(ValueError):
            self._taken_until.remove(taken_at + self._slot_seconds)

    def pause(self, until: float) -> None:
        """Hand out no slot before ``until``. An earlier, longer pause stays in force."""
        self.paused_until = max(self.paused_until, until)

    def back_off(self, now: float) -> None:
        """Use fewer slots after a 429. Once a window is enough: one burst of requests gets many 429s."""
        if self.limit == math.inf or now < self._backed_off_at + self._slot_seconds:
            return
        self._backed_off_to = max(1.0, self._slots(now) * BACK_OFF_FACTOR)
        self._backed_off_at = now

    def share_used(self, now: float) -> float:
        """Return how much of the limit is in use, from 0 to 1."""
        self.ready_at(now)
        return len(self._taken_until) / self.limit

    def usage(self, now: float) -> tuple[int | None, int, float]:
        """Return the slots there are (None: no limit), those in use, and the seconds of a pause that are left."""
        self.ready_at(now)
        slots = self._slots(now)
        limit = None if slots == math.inf else int(slots)
        return limit, sum(until > now for until in self._taken_until), max(0.0, self.paused_until - now)

    def forgettable_at(self) -> float:
        """Return when this window will be back in its initial state."""
        last_slot = self._taken_until[-1] if self._taken_until else -math.inf
        regained = -math.inf
        if self._backed_off_to:
            windows = (1 - self._backed_off_to / self.limit) / REGAINED_PER_WINDOW
            regained = self._backed_off_at + windows * self._slot_seconds
        return max(last_slot, regained, self.paused_until)

    def _slots(self, now: float) -> float:
        """Return how many slots there are: all of them, or fewer for some time after a 429."""
        if not self._backed_off_to:
            return self.limit
        windows = max(0.0, now - self._backed_off_at) / self._slot_seconds
        slots = self._backed_off_to + self.limit * REGAINED_PER_WINDOW * windows
        if slots >= self.limit:
            self._backed_off_to = 0.0  # mutant: None is as good as 0
            return self.limit
        return slots


class Quota:
    """What a provider's headers said about an account.

    ``left`` requests may be sent until ``until``, after that ``limit`` requests in every ``period`` seconds.
    """

    __slots__ = ("left", "limit", "period", "until")

    def __init__(self) -> None:
        self.limit: int | None = None
        self.period: float | None = None
        self.left = math.inf
        self.until = -math.inf

    def learn(self, learned: RateLimit, in_flight: int, now: float, longest: float) -> None:
        """Update from the headers of a response, which do not count the ``in_flight`` requests yet.

        Headers alone hold requests back for at most ``longest`` seconds. After that the next request shows whether they
        still apply.
        """
        if learned.limit is not None:
            # A limit of 0 would block for ever, so it is treated as unknown; ``remaining`` can still say "not now".
            self.limit = learned.limit or None
            window = learned.window
            self.period = None if window is None or window > longest else max(window, SHORTEST_PERIOD)
        if learned.remaining is not None and learned.reset is not None and learned.reset <= longest:
            self.left = max(0, learned.remaining - in_flight)
            self.until = now + learned.reset
        elif learned.remaining:
            self.left = math.inf

    def ready_at(self, now: float, in_flight: int) -> float:
        """Return when the next request may be sent, as ``SlidingWindow.ready_at`` does."""
        if now >= self.until:
            self.left = math.inf
            if self.limit is not None and self.period is not None:
                self.left = max(0, self.limit - in_flight)
                self.until = now + self.period
        return now if self.left >= 1 else self.until

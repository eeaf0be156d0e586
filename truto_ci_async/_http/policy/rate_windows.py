"""Counts the requests of one limit: the sliding window we keep to, and the quota a provider reports."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Final

from msgspec import Struct

from truto_ci_async._checks import check_number, check_whole_number
from truto_ci_async.models import RateLimit

# Share of the window for which a slot is kept beyond it, unless the response comes sooner: requests that take unequal
# time on their way arrive closer together than they were sent.
MARGIN: Final = 0.015
LATE_MARGIN: Final = 0.04  # the same for a response that took ...
LATE: Final = (
    3.0  # ... so many times as long as usual: the request may have been held up before it was counted
)
USUAL_OVER: Final = 32  # responses
LEAST_MARGIN: Final = (
    0.001  # the same from the response on: clocks differ a little, and some count in milliseconds
)
GAP_SHARE: Final = 0.95  # of the steady gap between two requests; the slots alone keep the long-run rate
# After a 429, shares of the slots that the service has shown to be ours: what we use at first, and what we approach.
RESTART_SHARE: Final = 0.92
PLATEAU_SHARE: Final = 0.97
EVENING_SHARE: Final = (
    0.005  # of the limit, added to the latter: small shares grow a little at the cost of large ones
)
LEAST_SHOWN: Final = 25  # requests; fewer say more about what was sent before, or about another limit
UNKNOWN_SHARE: Final = 0.75  # of the slots are left then
GROWTH: Final = 5e-5  # of the limit, per cubed window
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

    The service counts a request when it arrives: after it was sent, and before its response comes. So a slot is free
    one window after the response; and a margin more than one window after it was sent if that is sooner.

    ``burst`` is the share of the slots that can be taken at once. The others are handed out at the steady rate.
    """

    __slots__ = (
        "_burst",
        "_free_at",
        "_gap",
        "_last_taken",
        "_recovery",
        "_sent",
        "_sent_count",
        "_slot_seconds",
        "_usual_seconds",
        "_window",
        "in_flight",
        "limit",
        "max_in_flight",
        "paused_until",
    )

    def __init__(
        self,
        rate: Rate | None,
        *,
        burst: float = 1.0,  # mutant: 2.0 is all of them too
        max_in_flight: float = math.inf,
    ) -> None:
        self.max_in_flight = max_in_flight
        self._burst = burst
        self.limit = math.inf if rate is None else float(rate.limit)
        self._window = 1.0 if rate is None else rate.window  # mutant: without a limit it does not matter
        self._slot_seconds = self._window * (1 + MARGIN)
        self._gap = self._window * GAP_SHARE  # between two requests if there was one slot
        # When requests without a response were sent, oldest first, and how many.
        self._sent: dict[float, int] = {}
        self._sent_count = 0  # the sum of these
        self._free_at: list[float] = []  # a heap: when the slots of the others are free
        self._last_taken = -math.inf
        self._usual_seconds = math.inf  # from a request to its response
        self._recovery: Recovery | None = None
        self.in_flight = 0
        self.paused_until = -math.inf

    def ready_at(self, now: float) -> float:
        """Return when to ask again. ``now`` or earlier: a slot is free; infinity: once a request has finished."""
        if self.in_flight >= self.max_in_flight:
            return math.inf
        used = self._used(now)
        if self.paused_until > now:
            return self.paused_until
        slots = self._slots(now)
        if used >= slots:
            oldest = next(iter(self._sent), math.inf) + self._slot_seconds
            return min(oldest, self._free_at[0]) if self._free_at else oldest
        if self._recovery is not None or used >= slots * self._burst:
            return self._last_taken + self._gap / slots
        return now

    def take(self, now: float) -> None:
        """Take a slot. Call it only when ``ready_at`` says that one is free."""
        self.in_flight += 1
        if self.limit == math.inf:
            return
        self._sent[now] = self._sent.get(now, 0) + 1
        self._sent_count += 1
        # Timers fire a little late. Counting from when this slot was due, not from now, keeps the rate.
        gap = self._gap / self.limit
        due = self._last_taken + gap
        self._last_taken = due if now - gap < due <= now else now  # mutant: < is the same, as due is now

    def finish(self, taken_at: float, answered_at: float | None = None) -> None:
        """Note that the request that took a slot at ``taken_at`` is no longer in flight.

        ``answered_at`` is the time of its response, None if there was none or the service refused the request.
        """
        self.in_flight = max(0, self.in_flight - 1)
        if answered_at is None:
            return
        if self._recovery is not None:
            self._recovery.on_accepted()
        if self._remove(taken_at):
            took, usual = answered_at - taken_at, self._usual_seconds
            margin = LATE_MARGIN if took > LATE * usual else MARGIN
            self._usual_seconds = (
                took if usual == math.inf else usual + (min(took, LATE * usual) - usual) / USUAL_OVER
            )
            free_at = min(
                taken_at + self._window * (1 + margin), answered_at + self._window * (1 + LEAST_MARGIN)
            )
            heappush(self._free_at, free_at)

    def give_back(self, taken_at: float) -> None:
        """Note that a request was never sent. Its slot is free again, unless it has been free for long."""
        self.in_flight = max(0, self.in_flight - 1)
        self._remove(taken_at)

    def pause(self, until: float) -> None:
        """Hand out no slot before ``until``. An earlier, longer pause stays in force."""
        self.paused_until = max(self.paused_until, until)

    def back_off(self, now: float) -> None:
        """Use fewer slots after a 429. Once a window is enough: one burst of requests gets many 429s."""
        last = self._recovery
        if self.limit == math.inf or (last is not None and now < last.began_at + self._slot_seconds):
            return
        self._used(now)
        self._recovery = Recovery(now, self._slots(now), len(self._free_at), self.limit, self._window)

    def share_used(self, now: float) -> float:
        """Return how much of the limit is in use, from 0 to 1."""
        return self._used(now) / self.limit

    def usage(self, now: float) -> tuple[int | None, int, float]:
        """Return the slots there are (None: no limit), those in use, and the seconds of a pause that are left."""
        used, slots = self._used(now), self._slots(now)
        limit = None if slots == math.inf else int(slots)
        return limit, used, max(0.0, self.paused_until - now)

    def forgettable_at(self) -> float:
        """Return when this window will be back in its initial state."""
        last_sent = next(reversed(self._sent), -math.inf) + self._slot_seconds
        recovered = -math.inf if self._recovery is None else self._recovery.over_at(self.paused_until)
        return max(last_sent, max(self._free_at, default=-math.inf), recovered, self.paused_until)

    def _used(self, now: float) -> int:
        """Return how many slots are taken."""
        free_at = self._free_at
        while free_at and free_at[0] <= now:
            heappop(free_at)
        while self._sent:
            oldest = next(iter(self._sent))
            if oldest + self._slot_seconds > now:
                break
            self._sent_count -= self._sent.pop(oldest)
        return self._sent_count + len(free_at)

    def _remove(self, taken_at: float) -> bool:
        """Take one request out of those without a response; False if it is not among them any more."""
        count = self._sent.get(taken_at)
        if not count:
            return False
        self._sent_count -= 1
        if count == 1:
            del self._sent[taken_at]
        else:
            self._sent[taken_at] = count - 1
        return True

    def _slots(self, now: float) -> float:
        """Return how many slots there are: all of them, or fewer for some time after a 429."""
        if self._recovery is None:
            return self.limit
        slots = self._recovery.slots(now, self.paused_until)
        if slots >= self.limit:
            self._recovery = None
            return self.limit
        return slots


class Recovery:
    """How many slots to use after a 429.

    If the service accepted 200 requests of ours in the window before it, and refused the next one, then others used
    the rest of the limit. So we go on with a little less than 200, come close to it again over the next windows, stay
    there for some, and then try more and more. Processes that share a limit thus rarely meet 429s, and one that is
    left alone is soon back at the full limit. (This is how TCP's CUBIC finds its share of a line.)

    Requests under way are counted as well, so the number is known only when the pause is over. If it is very small, it
    may be that a process that has ended used the limit: most of the slots are left, and all of them are tried again.
    Growth does not depend on the share, so shares become equal over time.
    """

    __slots__ = (
        "_accepted",
        "_growth",
        "_limit",
        "_plateau",
        "_plateau_after",
        "_since",
        "_slots",
        "_window",
        "began_at",
    )

    def __init__(self, now: float, slots: float, accepted: int, limit: float, window: float) -> None:
        self.began_at = now
        self._slots = slots
        self._accepted = accepted
        self._limit = limit
        self._window = window
        self._growth = limit * GROWTH
        self._since: float | None = None  # None: the pause is not over yet
        self._plateau = slots
        # Counted in windows.
        self._plateau_after = 0.0  # mutant: _settle sets it before it is read

    def on_accepted(self) -> None:
        """Count a request that the service accepted; only those from before the 429 matter."""
        if self._since is None:
            self._accepted += 1

    def slots(self, now: float, paused_until: float) -> float:
        if self._since is None:
            self._settle(max(self.began_at, paused_until))
        assert self._since is not None
        windows = max(0.0, now - self._since) / self._window
        return max(1.0, self._plateau + self._growth * (windows - self._plateau_after) ** 3)

    def over_at(self, paused_until: float) -> float:
        """Return when all slots are back. Before the pause is over it can only say when to ask again."""
        if self._since is None:
            return max(self.began_at, paused_until) + self._window
        missing = (self._limit - self._plateau) / self._growth
        return self._since + (self._plateau_after + math.cbrt(missing)) * self._window

    def _settle(self, now: float) -> None:
        self._since = now
        if self._accepted >= LEAST_SHOWN:
            shown = min(self._slots, self._accepted)
            start = shown * RESTART_SHARE
            self._plateau = min(self._slots, shown * PLATEAU_SHARE + self._limit * EVENING_SHARE)
        else:
            start = self._slots * UNKNOWN_SHARE
        self._plateau_after = math.cbrt((self._plateau - start) / self._growth)


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

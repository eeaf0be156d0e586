"""Decides who may send the next request, and when: a limit per token and a limit per account.

The service counts requests in sliding windows. Each limit therefore has as many slots as it allows requests, and a
request keeps its slot until the service has certainly forgotten it: for one window from its response, or from a little
after it was sent. All slots of a token can be taken at once, since a slot that is free while requests wait is lost. Of
an account's slots that holds for half; the others are handed out at the steady rate, so that one long walk is an even
flow.

A 429 pauses its level (the whole token, or one account) for as long as the service asked. It also means that someone
else uses the same limit, or that the limit is lower than we think. So that level goes on with the slots that the
service had accepted from us, at the steady rate so that nothing rushes out after the pause, and tries more over the
next windows. This is how several processes that share a token settle on their shares. ``ratelimit-*`` headers come from
the provider and apply to their account only: what remains until the reset is all that is sent until then.

Requests wait in a queue per account, first come first served, and accounts take turns. An account that has to wait for
its own limit skips its turns until then, so it never holds up another one.

``RateLimiter`` is pure: callers pass in the time, and it never waits. ``AdmissionQueue`` does the waiting.
"""

from __future__ import annotations

import math
import random as _random
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

from msgspec import Struct

from truto_ci_async._checks import brief, check_whole_number
from truto_ci_async.errors import ConfigurationError
from truto_ci_async.models import RateLimit

from .daily_quota import DAY, DailyQuota, Part
from .headers import LONGEST_WAIT, Level, parse_rate_limit
from .rate_windows import Quota, Rate, SlidingWindow
from .token_blame import TokenBlame

ACCOUNT_BURST: Final = 0.5  # of an account's slots can be taken at once
DEFAULT_PAUSE: Final = 1.0  # seconds, after a 429 without a readable Retry-After
SPREAD: Final = 0.05  # of a pause, added at random so that several processes do not come back at once ...
MOST_SPREAD: Final = 1.0  # ... up to this many seconds
# The service's own limits ask for about one window. A longer pause comes from the provider, so it is the account's.
LONGEST_TOKEN_PAUSE: Final = 1.5  # windows
FORGET_EVERY: Final = 10.0  # seconds between two checks whether an account can be forgotten


class Pacing(Struct, frozen=True, kw_only=True):
    """The limits to stay within: of the API token, and of each integrated account (contract section 4).

    None leaves a level without a limit of its own; it still pauses after a 429. ``Pacing.off()`` turns pacing off.

    ``account_daily`` is a quota of the provider for each account, such as Gong's 10,000 calls a day: a number of
    requests in any 24 hours, or a Rate with another window. Once it is used up, calls for that account wait if that
    takes no longer than ``RetryPolicy.max_wait``; otherwise they raise RateLimitError with ``retry_after``, and nothing
    is sent. A pull parks such an account until then, and keeps the count with its progress, for the runs after it.
    """

    token: Rate | None = Rate(500, 10.0)
    account: Rate | None = Rate(50, 10.0)
    account_daily: Rate | int | None = None
    enabled: bool = True

    @property
    def daily(self) -> Rate | None:
        """``account_daily`` as a Rate."""
        daily = self.account_daily
        return Rate(daily, DAY) if isinstance(daily, int) else daily

    def __post_init__(self) -> None:
        if self.account_daily is not None and not isinstance(self.account_daily, Rate):
            check_whole_number("Pacing.account_daily", self.account_daily, least=1)
        rates: tuple[tuple[str, object], ...] = (("token", self.token), ("account", self.account))
        for name, rate in rates:
            if not isinstance(rate, Rate | None):
                raise ConfigurationError(
                    f"Pacing.{name} must be a Rate(limit, window) or None, got {brief(rate)}"
                )

    @classmethod
    def off(cls) -> Pacing:
        """Send everything at once; a call then waits only before its own retries."""
        return cls(token=None, account=None, enabled=False)


class Waiter:
    """A request's place in the queue. ``owner`` is for the code that waits; nothing here looks at it.

    It leaves the queue either admitted, at the time ``admitted_at``, or ``refused``: for that many seconds the service
    wants no request at this level, which is longer than ``max_wait``. ``level`` is the limit it waits for.
    """

    __slots__ = ("account", "admitted_at", "level", "owner", "refused")

    def __init__(self, account: AccountQueue, level: Level) -> None:
        self.account = account
        self.level: Level = level
        self.owner: Any = None
        self.admitted_at: float | None = None
        self.refused: float | None = None

    @property
    def is_admitted(self) -> bool:
        return self.admitted_at is not None


class AccountQueue:
    """One account: its limits, and the requests that wait for them."""

    __slots__ = ("daily", "due", "is_ready", "name", "quota", "sent", "waiters", "window")

    def __init__(self, name: str | None, rate: Rate | None, daily: Rate | None) -> None:
        self.name = name
        self.daily = None if daily is None or name is None else DailyQuota(daily)
        self.window = SlidingWindow(rate, burst=ACCOUNT_BURST)
        self.quota: Quota | None = None
        self.sent: deque[float] = deque()  # when the requests in flight were admitted, oldest first
        # An OrderedDict and not a deque: a cancelled request leaves from the middle.
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.is_ready = False  # mutant: None is as good as False
        # When it moves from the delayed accounts to the ready ones; infinity: it is not among the delayed.
        self.due = math.inf

    def ready_at(self, now: float) -> float:
        ready = self.window.ready_at(now)
        if self.quota is not None:
            ready = max(ready, self.quota.ready_at(now, self.window.in_flight))
        return ready if self.daily is None else max(ready, self.daily.free_at(now))

    def paused_until(self, now: float) -> float:
        """Return when a pause after a 429 is over, and the quota for the day has requests left."""
        paused_until = self.window.paused_until
        return paused_until if self.daily is None else max(paused_until, self.daily.free_at(now))


class RateLimiter:
    """The pacing rules for one token. ``now`` is always a monotonic clock, in seconds.

    Ask with ``enter``. After any other call, ``poll`` returns who may go next and ``next_at`` when to poll again.
    Report the end of every admitted request exactly once, with ``on_response``, ``on_failure`` or ``on_unsent``.
    ``len()`` is the number of accounts it remembers: those active in the last window, with a request under way, or
    still paused after a 429.

    ``max_in_flight``  requests admitted at once. One that had to wait for a connection after it was admitted would be
                       sent later than the limits assume, together with others.
    ``max_wait``       longest pause to wait out, in seconds; beyond it, waiters are refused.
    ``random``         returns numbers in [0, 1).
    """

    def __init__(
        self,
        pacing: Pacing | None = None,
        *,
        max_wait: float = 60.0,
        max_in_flight: float = math.inf,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._pacing = pacing or Pacing()
        #: Whether requests have to ask: False under ``Pacing.off()``.
        self.is_on = self._pacing.enabled
        self._daily = self._pacing.daily
        self._max_wait = max_wait
        self._draw = random
        self._token = SlidingWindow(self._pacing.token, max_in_flight=max_in_flight)
        self._blame = TokenBlame()
        self._accounts: dict[str | None, AccountQueue] = {}
        self._ready: deque[AccountQueue] = deque()  # may go as soon as the token allows it, in turn
        # Heaps of (when, order, account). A delayed entry is outdated if ``when`` is no longer its account's ``due``.
        self._delayed: list[tuple[float, int, AccountQueue]] = []
        self._idle_checks: list[tuple[float, int, AccountQueue]] = []
        self._order = count()  # breaks ties in the heaps: first come, first served
        self._refused: list[Waiter] = []  # not handed out by ``poll`` yet
        self.waiting = 0

    def __len__(self) -> int:
        return len(self._accounts)

    def waiting_by_level(self, now: float) -> dict[str, int]:
        """Return how many requests wait for the token's limit, and how many for one of their account."""
        found: dict[str, int] = {"token": 0, "account": 0}
        for state in self._accounts.values():
            if state.waiters:
                found["account" if state.ready_at(now) > now else "token"] += len(state.waiters)
        return found

    @property
    def token_window(self) -> SlidingWindow:
        return self._token

    def enter(self, account: str | None, now: float) -> Waiter | None:
        """Ask to send a request. None: send it. Otherwise a waiter, which ``poll`` will return in its turn."""
        self._forget_idle(now)
        state = self._account(account, now)
        if not state.waiters and not self._ready and not (self._delayed and self._delayed[0][0] <= now):
            token_ready = self._token.ready_at(now)
            if token_ready <= now and state.ready_at(now) <= now:
                self._take(state, now)
                return None
            level: Level = "token" if token_ready > now else "account"
        else:
            level = "token" if state.is_ready or not state.waiters else "account"
        return self._queue(state, level, now)

    def postpone(self, account: str | None, now: float, *, admitted_at: float, wait: float) -> Waiter:
        """Take back an admission, and hold back its account for ``wait`` seconds. It is the account's next request."""
        self.on_unsent(account, now, admitted_at=admitted_at)
        state = self._account(account, now)
        state.window.pause(now + wait)
        return self._queue(state, "account", now, is_first=True)

    def _queue(self, state: AccountQueue, level: Level, now: float, *, is_first: bool = False) -> Waiter:
        waiter = Waiter(state, level)
        state.waiters[waiter] = None  # mutant: values are not used
        if is_first:
            state.waiters.move_to_end(waiter, last=False)  # mutant: None is as good as False
        self.waiting += 1
        self._refuse_if_too_long(state, now)
        if state.waiters:
            self._schedule(state, now)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Give up a place in the queue. A waiter that already left is ignored."""
        waiters = waiter.account.waiters
        if waiter in waiters:
            del waiters[waiter]
            self.waiting -= 1

    def poll(self, now: float) -> list[Waiter]:
        """Take out of the queue, and return, the waiters that are admitted now and those that are refused."""
        out = self._refused
        self._refused = []
        self.waiting -= len(out)
        while self.waiting:
            self._promote_due(now)
            if not self._ready or self._token.ready_at(now) > now:
                break
            state = self._ready.popleft()
            state.is_ready = False  # mutant: None is as good as False
            if state.waiters and state.ready_at(now) <= now:
                waiter, _ = state.waiters.popitem(last=False)  # mutant: None is as good as False
                self.waiting -= 1
                waiter.admitted_at = now
                self._take(state, now)
                out.append(waiter)
            if state.waiters:
                self._schedule(state, now)
        return out

    def next_at(self, now: float) -> float:
        """Return when to call ``poll`` next; infinity if nothing is waiting or a request must finish first."""
        if not self.waiting:
            return math.inf
        if self._refused:
            return now
        if self._ready:
            return self._token.ready_at(now)
        return self._delayed[0][0]  # an account that has waiters is ready or delayed

    def on_unsent(self, account: str | None, now: float, *, admitted_at: float) -> None:
        """Give back the slots of a request that was never sent."""
        self._token.give_back(admitted_at)
        state = self._accounts.get(account)
        if state is not None:
            if admitted_at in state.sent:
                state.sent.remove(admitted_at)
            elif state.sent:  # the response to a later request was taken for its own
                state.sent.popleft()
            state.window.give_back(admitted_at)
            if state.quota is not None:
                state.quota.left += 1
            if state.daily is not None:
                state.daily.give_back(now)
            if state.waiters:
                self._schedule(state, now)

    def on_failure(self, account: str | None) -> None:
        """Note that a request got no response. The service may have counted it."""
        self._finish(account, None)

    def on_response(
        self,
        account: str | None,
        status: int,
        headers: Mapping[str, str],
        now: float,
        *,
        now_epoch: float,
        retry_after: float | None = None,
        is_remote: bool = False,
        hint: Level | None = None,
    ) -> None:
        """Learn from a response. Call it as soon as its headers arrive, or for a 429 once its body is read.

        ``retry_after`` comes from ``parse_retry_after``. ``is_remote`` and ``hint`` come from the body of a 429: a
        remote one is about its account, and ``hint`` is the level that the service named, if any.
        """
        self._finish(account, None if status == 429 else now)
        learned = parse_rate_limit(headers, now_epoch)
        if status != 429:
            if self._blame.score:
                self._blame.forgive(self._token.share_used(now))
            if learned is None:
                return
        state = self._account(account, now)
        if learned is not None:
            self._learn(state, learned, now)
        if status == 429 and self._pacing.enabled:
            if retry_after is None or retry_after >= LONGEST_WAIT:  # or it asks for an absurdly long wait
                retry_after = DEFAULT_PAUSE
            is_token = hint == "token"
            if hint is None and not is_remote and learned is None:
                is_token = self._is_token_to_blame(state, retry_after, now)
            self._back_off(state, retry_after, now, token=is_token, account=hint != "token")

    def _learn(self, state: AccountQueue, learned: RateLimit, now: float) -> None:
        if state.quota is None:
            state.quota = Quota()
        state.quota.learn(learned, state.window.in_flight, now, self._max_wait)
        if state.waiters:
            self._schedule(state, now)

    def _back_off(self, state: AccountQueue, pause: float, now: float, *, token: bool, account: bool) -> None:
        """Pause the token, the account or both, and let them use fewer slots after that."""
        until = now + pause + min(MOST_SPREAD, SPREAD * pause) * self._draw()
        if token:
            self._token.pause(until)
            self._token.back_off(now)
            if pause > self._max_wait:  # mutant: only saves time, since each account is checked for itself
                for each in self._accounts.values():
                    self._refuse_if_too_long(each, now)
        if account:
            state.window.pause(until)
            state.window.back_off(now)
            self._refuse_if_too_long(state, now)

    def _is_token_to_blame(self, state: AccountQueue, pause: float, now: float) -> bool:
        rate = self._pacing.token
        if rate is None or pause > rate.window * LONGEST_TOKEN_PAUSE:
            return False
        if state.window.share_used(now) >= self._token.share_used(now):
            return False  # the account is closer to its own limit than to the token's
        return self._blame.add(state.name, len(self._accounts), now)

    def _take(self, state: AccountQueue, now: float) -> None:
        self._token.take(now)
        state.window.take(now)
        state.sent.append(now)
        if state.quota is not None:
            state.quota.left -= 1
        if state.daily is not None:
            state.daily.take(now)
            self._refuse_if_too_long(state, now)

    def daily_use(self, account: str, now: float, *, epoch: float) -> list[Part]:
        """Return what counts towards the day's quota of an account: see ``DailyQuota.used``."""
        state = self._accounts.get(account)
        return [] if state is None or state.daily is None else state.daily.used(now, epoch=epoch)

    def add_daily_use(self, account: str, parts: list[Part], now: float, *, epoch: float) -> None:
        """Count what an earlier process sent towards the day's quota of an account."""
        daily = self._account(account, now).daily if parts and self._daily is not None else None
        if daily is not None:
            daily.add(parts, now, epoch=epoch)
            self._refuse_if_too_long(self._accounts[account], now)

    def _finish(self, account: str | None, answered_at: float | None) -> None:
        """Note the end of a request, of which the account's oldest one is assumed: most are answered in order."""
        state = self._accounts.get(account)
        if state is None or not state.sent:
            return
        admitted_at = state.sent.popleft()
        self._token.finish(admitted_at, answered_at)
        state.window.finish(admitted_at, answered_at)

    def _schedule(self, state: AccountQueue, now: float) -> None:
        """Put an account that has waiters where it belongs: among the ready or the delayed ones."""
        if state.is_ready:
            return
        due = state.ready_at(now)
        if due <= now:
            state.is_ready = True
            self._ready.append(state)
            state.due = math.inf
        elif due < state.due:  # otherwise the entry that is there comes up first, and is checked again
            state.due = due
            heappush(self._delayed, (due, next(self._order), state))

    def _promote_due(self, now: float) -> None:
        """Schedule the delayed accounts whose time has come."""
        while self._delayed and self._delayed[0][0] <= now:
            due, _, state = heappop(self._delayed)
            if due == state.due:
                state.due = math.inf
                if state.waiters:
                    self._schedule(state, now)

    def _refuse_if_too_long(self, state: AccountQueue, now: float) -> None:
        """Refuse the waiters of an account whose pause is longer than ``max_wait``."""
        token, account = self._token.paused_until, state.paused_until(now)
        pause = max(token, account) - now
        if pause > self._max_wait + MOST_SPREAD:
            for waiter in state.waiters:
                waiter.level = "token" if token >= account else "account"
                waiter.refused = pause
            self._refused += state.waiters
            state.waiters.clear()

    def _account(self, name: str | None, now: float) -> AccountQueue:
        state = self._accounts.get(name)
        if state is None:
            state = self._accounts[name] = AccountQueue(name, self._pacing.account, self._daily)
            self._check_idle(now + FORGET_EVERY, state)
        return state

    def _check_idle(self, at: float, state: AccountQueue) -> None:
        heappush(self._idle_checks, (at, next(self._order), state))

    def _forget_idle(self, now: float) -> None:
        """Forget accounts that have no requests and whose limits are back to normal."""
        while self._idle_checks and self._idle_checks[0][0] <= now:
            _, _, state = heappop(self._idle_checks)
            forgettable = state.window.forgettable_at()
            if state.quota is not None:
                forgettable = max(forgettable, state.quota.until)
            if state.daily is not None:
                forgettable = max(forgettable, state.daily.forgettable_at())
            if state.waiters or state.window.in_flight or forgettable > now:
                self._check_idle(max(forgettable, now) + FORGET_EVERY, state)
            else:
                del self._accounts[state.name]

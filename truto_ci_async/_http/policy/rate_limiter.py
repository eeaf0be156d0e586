"""Who may send the next request, and when: pacing under a limit per token and a limit per account.

How it works. The service counts requests in a sliding window. Each limit therefore has as many slots as it
allows requests, and a request keeps its slot for one window and a little more: no window can ever hold too
many, whatever was sent before. Half of the slots may be taken at once, so that short work goes at full speed;
the others are taken at the steady rate, so that long work becomes an even flow instead of a flood every ten
seconds.

A 429 pauses its level (the whole token, or one account) for as long as the service asked. It also means that
somebody else uses the same limit, or that the limit is lower than we think: the level then works with a
quarter fewer slots, all of them at the steady rate (so nothing rushes out when the pause ends), and wins them
back slowly. Several processes of one token meet in this way. ``ratelimit-*`` headers are the provider's and
teach their account only: what remains until the reset is all that is sent until then.

Those who wait are queued per account, first come first served, and accounts take turns. An account that has
to wait for its own limit leaves the round until it may go, so it never holds up another one.

``RateLimiter`` holds these rules and is pure: it is told the time, and never waits.
``AdmissionQueue`` does the waiting.
"""

from __future__ import annotations

import math
import random as _random
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Any, Final

from msgspec import Struct

from truto_ci_async.errors import ConfigurationError

from .headers import Level, parse_rate_limit
from .rate_windows import Quota, Rate, SlidingWindow

DEFAULT_PAUSE: Final = 1.0  # seconds, after a 429 that does not say
SPREAD: Final = 0.05  # of a pause, added at random so that several processes do not come back as one ...
MOST_SPREAD: Final = 1.0  # ... but no more seconds than this
# To stop everybody for the sake of one account costs far more than to learn a few requests later. So a 429
# that does not name its level is its account's at first, and adds a point of suspicion against the token,
# unless that account has had one lately. When many accounts have, each counts again. The token is blamed as
# well from this many points, and this share of the accounts at work.
TOKEN_BLAME_SCORE: Final = 3.0
TOKEN_BLAME_SHARE: Final = 0.025
LATELY: Final = 60.0  # seconds
MANY: Final = 0.25  # of the accounts at work
# Good answers take suspicion away: a whole point each as long as we use little of the token's limit
# ourselves, and next to nothing when we use much of it.
MUCH: Final = 0.25  # of the limit
CLEARED: Final = 0.03  # points
# No tier asks for more than its own window, give or take: a longer pause than that is not the token's.
LONGEST_TIER_PAUSE: Final = 1.5  # windows
FORGET_EVERY: Final = 10.0  # seconds between two looks whether an account can be forgotten


class Pacing(Struct, frozen=True, kw_only=True):
    """The limits to stay within: of the API token, and of each integrated account (contract section 4).

    None leaves a level without a limit of its own; it still pauses after a 429. ``Pacing.off()`` does nothing
    at all.
    """

    token: Rate | None = Rate(500, 10.0)
    account: Rate | None = Rate(50, 10.0)
    enabled: bool = True

    def __post_init__(self) -> None:
        rates: tuple[tuple[str, object], ...] = (("token", self.token), ("account", self.account))
        for name, rate in rates:
            if not isinstance(rate, Rate | None):
                raise ConfigurationError(f"Pacing.{name} must be a Rate(limit, window) or None, got {rate!r}")

    @classmethod
    def off(cls) -> Pacing:
        """Send everything at once; only each call's own retries wait."""
        return cls(token=None, account=None, enabled=False)


class Waiter:
    """A place in the queue. ``owner`` is free for whoever waits to use.

    ``refused`` is set instead of letting it through: the seconds that the service wants this level left
    alone. ``level`` names the limit it waits, or waited, for.
    """

    __slots__ = ("_account", "is_through", "level", "owner", "refused")

    def __init__(self, account: _Account) -> None:
        self._account = account
        self.owner: Any = None
        self.is_through = False
        self.level: Level = "account"
        self.refused: float | None = None


class _Account:
    __slots__ = ("due", "is_in_round", "name", "quota", "version", "waiting", "window")

    def __init__(self, name: str | None, rate: Rate | None) -> None:
        self.name = name
        self.window = SlidingWindow(rate)
        self.quota: Quota | None = None
        # An OrderedDict and not a deque: one who gives up leaves from the middle.
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.is_in_round = False
        self.due = math.inf  # when the heap brings it back into the round; infinity: not in the heap
        self.version = 0  # of its entry in the heap; older entries are dead, and at most wake us for nothing

    def ready_at(self, now: float) -> float:
        ready = self.window.ready_at(now)
        if self.quota is None:
            return ready
        return max(ready, self.quota.ready_at(now, self.window.busy))


class RateLimiter:
    """The rules of pacing for one token. Every ``now`` is a monotonic clock's, in seconds.

    Ask with ``enter``; after anything that returns, ``poll`` says who else may go and ``next_at`` when to ask
    again. Everyone let through must come back exactly once, by ``on_response``, ``on_failure`` or
    ``on_unsent``: what a header says remains is less than that by those still out. ``len()`` is the number of
    accounts remembered: those active within the last window, and those whose 429 is not yet over.

    ``max_busy`` requests may be out at once: who was let through and then waited for a connection would leave later,
    together with others, than the limits count on. ``max_wait`` (seconds) is the longest pause to sit out: who would
    wait longer is refused. ``random`` gives numbers in [0, 1).
    """

    def __init__(
        self,
        pacing: Pacing | None = None,
        *,
        max_wait: float = 60.0,
        max_busy: float = math.inf,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._pacing = pacing or Pacing()
        self._max_wait = max_wait
        self._draw = random
        self._token = SlidingWindow(self._pacing.token, max_busy=max_busy)
        self._accounts: dict[str | None, _Account] = {}
        self._round: deque[_Account] = deque()  # may go as soon as the token may
        self._later: list[tuple[float, int, int, _Account]] = []  # heap: due, order, version, account
        self._forget: list[tuple[float, int, _Account]] = []  # heap: when to look whether it can be forgotten
        self._order = 0  # ties of the heaps are first come, first served
        self._refused: list[Waiter] = []
        self._suspicion = 0.0
        # Accounts that met an unmarked 429, and when.
        self._hit: OrderedDict[str | None, float] = OrderedDict()
        self.waiting = 0  # tickets that are out

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def is_on(self) -> bool:
        """False under ``Pacing.off()``: then there is nothing to ask."""
        return self._pacing.enabled

    def enter(self, account: str | None, now: float) -> Waiter | None:
        """Ask to send a request. None: go. Otherwise a ticket that ``poll`` will hand back in its turn."""
        if self._forget and self._forget[0][0] <= now:
            self._forget_idle(now)
        state = self._accounts.get(account) or self._remember(account, now)
        if not state.waiting and not self._round and not (self._later and self._later[0][0] <= now):
            token_ready = self._token.ready_at(now)
            if token_ready <= now and state.ready_at(now) <= now:
                self._token.take(now)
                self._take(state, now)
                return None
            level: Level = "token" if token_ready > now else "account"
        else:
            level = "token" if state.is_in_round or not state.waiting else "account"
        ticket = Waiter(state)
        ticket.level = level
        state.waiting[ticket] = None
        self.waiting += 1
        if not self._refuse_if_too_long(state, now):
            self._line_up(state, now)
        return ticket

    def leave(self, ticket: Waiter) -> None:
        """Give up a place in the queue; nothing happens when the ticket has left it already."""
        waiting = ticket._account.waiting  # pyright: ignore[reportPrivateUsage]
        if ticket in waiting:
            del waiting[ticket]
            self.waiting -= 1

    def poll(self, now: float) -> list[Waiter]:
        """Take out of the queue who may go now (they are let through) and who is refused (see ``Waiter``)."""
        out = self._refused
        self._refused = []
        self.waiting -= len(out)
        token = self._token
        while self.waiting:
            self._bring_back(now)
            if not self._round or token.ready_at(now) > now:
                break
            state = self._round.popleft()
            state.is_in_round = False
            if not state.waiting:
                continue
            if state.ready_at(now) <= now:
                ticket, _ = state.waiting.popitem(last=False)
                self.waiting -= 1
                ticket.is_through = True
                token.take(now)
                self._take(state, now)
                out.append(ticket)
            if state.waiting:
                self._line_up(state, now)
        return out

    def next_at(self, now: float) -> float:
        """When ``poll`` should be called next; infinity when nobody waits."""
        if not self.waiting:
            return math.inf
        if self._refused:
            return now
        if self._round:
            return self._token.ready_at(now)
        return self._later[0][0] if self._later else math.inf

    def on_unsent(self, account: str | None, now: float) -> None:
        """Give back a slot that was not used: nothing was sent."""
        self._come_back(account, now, is_sent=False)

    def on_failure(self, account: str | None, now: float) -> None:
        """Note that no answer came; the service may have counted the request."""
        self._come_back(account, now, is_sent=True)

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
        """Learn from an answer. Call it as soon as the headers are there (for a 429, once its body is read).

        ``retry_after`` is what ``parse_retry_after`` made of the headers. ``is_remote`` and ``hint`` come
        from the body of a 429: a remote one is the account's, and ``hint`` is the level that the service
        named, if it did.
        """
        self._come_back(account, now, is_sent=True)
        told = parse_rate_limit(headers, now_epoch)
        if status != 429:
            if self._suspicion:
                much = self._token.share_used(now) >= MUCH
                self._suspicion = max(0.0, self._suspicion - (CLEARED if much else 1.0))
            if told is None:
                return
        # A request may have been out for longer than its account is remembered.
        state = self._accounts.get(account) or self._remember(account, now)
        if told is not None:
            if state.quota is None:
                state.quota = Quota()
            state.quota.learn(told, state.window.busy, now, self._max_wait)
            if state.waiting:
                self._line_up(state, now)
        if status != 429:
            return
        if hint is None and (is_remote or told is not None):
            hint = "account"
        pause = DEFAULT_PAUSE if retry_after is None else retry_after
        until = now + pause + min(MOST_SPREAD, SPREAD * pause) * self._draw()
        if hint is None and self._is_tokens(state, pause, now):
            self.on_throttled("token", account, until, now)
        self.on_throttled(hint or "account", account, until, now)

    def on_throttled(self, level: Level, account: str | None, until: float, now: float) -> None:
        """Pause a level until ``until``, and go on more carefully after it. Other accounts just go on."""
        if not self._pacing.enabled:
            return
        if level == "token":
            self._token.pause(until)
            self._token.cut(now)
            if until - now > self._max_wait + MOST_SPREAD:
                for each in self._accounts.values():
                    self._refuse_if_too_long(each, now)
            return
        state = self._accounts.get(account) or self._remember(account, now)
        state.window.pause(until)
        state.window.cut(now)
        self._refuse_if_too_long(state, now)

    def _is_tokens(self, state: _Account, pause: float, now: float) -> bool:
        """Judge whether a 429 that does not name its level was the token's, by who else met one lately."""
        rate = self._pacing.token
        if rate is None or pause > rate.window * LONGEST_TIER_PAUSE:
            return False
        if state.window.share_used(now) >= self._token.share_used(now):
            return False  # it is nearer to its own limit
        hit = self._hit
        while hit and next(iter(hit.values())) < now - LATELY:
            hit.popitem(last=False)
        at_work = len(self._accounts)
        if state.name not in hit or len(hit) >= max(TOKEN_BLAME_SCORE, MANY * at_work):
            self._suspicion += 1.0
        hit[state.name] = now
        hit.move_to_end(state.name)
        if self._suspicion < max(TOKEN_BLAME_SCORE, TOKEN_BLAME_SHARE * at_work):
            return False
        self._suspicion = 0.0
        return True

    def _take(self, state: _Account, now: float) -> None:
        state.window.take(now)
        if state.quota is not None:
            state.quota.left -= 1

    def _remember(self, account: str | None, now: float) -> _Account:
        state = self._accounts[account] = _Account(account, self._pacing.account)
        self._push_forget(now + FORGET_EVERY, state)
        return state

    def _come_back(self, account: str | None, now: float, *, is_sent: bool) -> None:
        self._token.come_back(is_sent=is_sent)
        state = self._accounts.get(account)
        if state is None:
            return
        state.window.come_back(is_sent=is_sent)
        if not is_sent:
            if state.quota is not None:
                state.quota.left += 1
            if state.waiting:
                self._line_up(state, now)

    def _line_up(self, state: _Account, now: float) -> None:
        """Put an account that has someone waiting where it belongs: into the round, or the heap."""
        if state.is_in_round:
            return
        due = state.ready_at(now)
        if due <= now:
            state.is_in_round = True
            self._round.append(state)
            state.due = math.inf
            state.version += 1
        elif due < state.due:  # a later one is found out when its entry comes up
            state.due = due
            state.version += 1
            self._order += 1
            heappush(self._later, (due, self._order, state.version, state))

    def _bring_back(self, now: float) -> None:
        """Move the accounts whose time has come from the heap into the round."""
        while self._later and self._later[0][0] <= now:
            _, _, version, state = heappop(self._later)
            if version == state.version:
                state.due = math.inf
                if state.waiting:
                    self._line_up(state, now)

    def _refuse_if_too_long(self, state: _Account, now: float) -> bool:
        token, account = self._token.paused_until, state.window.paused_until
        pause = max(token, account) - now
        if pause <= self._max_wait + MOST_SPREAD or not state.waiting:
            return False
        for ticket in state.waiting:
            ticket.level = "token" if token >= account else "account"
            ticket.refused = pause
            self._refused.append(ticket)
        state.waiting.clear()
        return True

    def _push_forget(self, at: float, state: _Account) -> None:
        self._order += 1
        heappush(self._forget, (at, self._order, state))

    def _forget_idle(self, now: float) -> None:
        """Forget accounts about which nothing is left to know. Each is looked at once a window."""
        while self._forget and self._forget[0][0] <= now:
            _, _, state = heappop(self._forget)
            idle = state.window.idle_from()
            if state.quota is not None:
                idle = max(idle, state.quota.until)
            if state.waiting or state.due != math.inf or state.is_in_round or idle > now:
                self._push_forget(max(idle, now) + FORGET_EVERY, state)
            else:
                del self._accounts[state.name]

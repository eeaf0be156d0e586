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

``Pacer`` holds these rules and is pure: it is told the time, and never waits. ``Gate`` at the end does the
waiting.
"""

from __future__ import annotations

import asyncio
import math
import random as _random
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from typing import Any, Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from truto_ci_async.errors import ConfigurationError, RateLimitError
from truto_ci_async.models import RateLimit

from .retry import check_number, server_time

__all__ = ["Gate", "Level", "Pacer", "Pacing", "Rate", "Ticket", "level_named", "parse_rate_limit"]

Level: TypeAlias = Literal["token", "account"]

# Of the window, added to it: requests on their way bunch up by as much as latency varies.
MARGIN: Final = 0.04
BURST_SHARE: Final = 0.5  # of the slots, free to be taken at once
GAP_SHARE: Final = 0.95  # of the steady gap between two requests; the slots hold the long run to the limit
CUT: Final = 0.75  # of the slots, left after a 429
REGAINED_PER_WINDOW: Final = 0.03  # of the slots, won back in each window after a 429
DEFAULT_PAUSE: Final = 1.0  # seconds, after a 429 that does not say
SPREAD: Final = 0.05  # of a pause, added at random so that several processes do not come back as one ...
MOST_SPREAD: Final = 1.0  # ... but no more seconds than this
# To stop everybody for the sake of one account costs far more than to learn a few requests later. So a 429
# that does not name its level is its account's at first, and adds a point of suspicion against the token,
# unless that account has had one lately. When many accounts have, each counts again. The token is blamed as
# well from this many points, and this share of the accounts at work.
SUSPICION: Final = 3.0
SUSPICION_SHARE: Final = 0.025
LATELY: Final = 60.0  # seconds
MANY: Final = 0.25  # of the accounts at work
# Good answers take suspicion away: a whole point each as long as we use little of the token's limit
# ourselves, and next to nothing when we use much of it.
MUCH: Final = 0.25  # of the limit
CLEARED: Final = 0.03  # points
# No tier asks for more than its own window, give or take: a longer pause than that is not the token's.
LONGEST_TIER_PAUSE: Final = 1.5  # windows
FORGET_EVERY: Final = 10.0  # seconds between two looks whether an account can be forgotten


class Rate(Struct, frozen=True):
    """``limit`` requests in any ``window`` seconds.

    :raises ConfigurationError: ``limit`` is not a whole number of at least 1, or ``window`` not above zero.
    """

    limit: int
    window: float

    def __post_init__(self) -> None:
        check_number("Rate.limit", self.limit, least=1)
        check_number("Rate.window", self.window, above=0)
        if not isinstance(self.limit, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"Rate.limit must be a whole number, got {self.limit!r}")


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


# --- what the headers say ------------------------------------------------------------------------------

_NUMBER = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{0,9})?)\s*(?:[,;].*)?", re.ASCII | re.DOTALL)
_WINDOW = re.compile(r";\s*w\s*=\s*\"?([0-9]{1,9}(?:\.[0-9]{1,9})?)", re.ASCII | re.IGNORECASE)
_LONGEST_VALUE: Final = 400  # characters
# Told apart by size: nobody resets in ten years, and the epoch passed these marks long ago.
_EPOCH_SECONDS: Final = 3e8
_EPOCH_MILLISECONDS: Final = 3e11
_LONGEST_RESET: Final = 366 * 86400.0


def parse_rate_limit(headers: Mapping[str, str], now_epoch: float) -> RateLimit | None:
    """Read the ``ratelimit-*`` headers, leniently; None when there is nothing to read in them.

    ``headers`` have lower-case names. The limit comes as ``110`` or ``110;w=10``; the reset in seconds from
    now or as a point in time, which is measured against the answer's own ``Date`` (``now_epoch`` when there
    is none).
    """
    limit_text = headers.get("ratelimit-limit")
    remaining_text = headers.get("ratelimit-remaining")
    reset_text = headers.get("ratelimit-reset")
    if limit_text is None and remaining_text is None and reset_text is None:
        return None
    limit = _number(limit_text)
    remaining = _number(remaining_text)
    reset = _number(reset_text)
    window: float | None = None
    if limit is not None and limit_text is not None and (match := _WINDOW.search(limit_text)):
        window = float(match[1]) or None
    if reset is not None:
        if reset >= _EPOCH_MILLISECONDS:
            reset /= 1000.0
        if reset >= _EPOCH_SECONDS:
            reset = max(0.0, reset - server_time(headers, now_epoch))
        if reset > _LONGEST_RESET:
            reset = None
    if limit is None and remaining is None and reset is None:
        return None
    return RateLimit(
        limit=None if limit is None else int(limit),
        window=window,
        remaining=None if remaining is None else int(remaining),
        reset=reset,
    )


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _LONGEST_VALUE or not (match := _NUMBER.fullmatch(text)):
        return None
    return float(match[1])


def level_named(insight: Mapping[str, Any], message: str = "") -> Level | None:
    """Find the level that the body of a 429 speaks of; None when it names neither, or both.

    ``insight`` is the body's ``truto_error_insight``. Nobody has published its words for this (contract
    section 3), so this only looks for "account" and "token".
    """
    text = f"{insight.get('rate_limit_error', '')} {message}".lower()
    is_account, is_token = "account" in text, "token" in text
    if is_account == is_token:
        return None
    return "account" if is_account else "token"


# --- one limit -----------------------------------------------------------------------------------------


class _Window:
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
        self._cut_to = max(1.0, (self._slots(now) if self._cut_to else self.limit) * CUT)
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


class _Quota:
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
        """When one more may go, as ``_Window.ready_at``."""
        if now >= self.until:
            self.left = math.inf
            if self.limit is not None and self.period is not None:
                self.left = max(0, self.limit - busy)
                self.until = now + self.period
        return now if self.left >= 1 else self.until


# --- the queue -----------------------------------------------------------------------------------------


class Ticket:
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
        self.window = _Window(rate)
        self.quota: _Quota | None = None
        # An OrderedDict and not a deque: one who gives up leaves from the middle.
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()
        self.is_in_round = False
        self.due = math.inf  # when the heap brings it back into the round; infinity: not in the heap
        self.version = 0  # of its entry in the heap; older entries are dead, and at most wake us for nothing

    def ready_at(self, now: float) -> float:
        ready = self.window.ready_at(now)
        if self.quota is None:
            return ready
        return max(ready, self.quota.ready_at(now, self.window.busy))


class Pacer:
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
        self._token = _Window(self._pacing.token, max_busy=max_busy)
        self._accounts: dict[str | None, _Account] = {}
        self._round: deque[_Account] = deque()  # may go as soon as the token may
        self._later: list[tuple[float, int, int, _Account]] = []  # heap: due, order, version, account
        self._forget: list[tuple[float, int, _Account]] = []  # heap: when to look whether it can be forgotten
        self._order = 0  # ties of the heaps are first come, first served
        self._refused: list[Ticket] = []
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

    def enter(self, account: str | None, now: float) -> Ticket | None:
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
        ticket = Ticket(state)
        ticket.level = level
        state.waiting[ticket] = None
        self.waiting += 1
        if not self._refuse_if_too_long(state, now):
            self._line_up(state, now)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up a place in the queue; nothing happens when the ticket has left it already."""
        waiting = ticket._account.waiting  # pyright: ignore[reportPrivateUsage]
        if ticket in waiting:
            del waiting[ticket]
            self.waiting -= 1

    def poll(self, now: float) -> list[Ticket]:
        """Take out of the queue who may go now (they are let through) and who is refused (see ``Ticket``)."""
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
                state.quota = _Quota()
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
        if state.name not in hit or len(hit) >= max(SUSPICION, MANY * at_work):
            self._suspicion += 1.0
        hit[state.name] = now
        hit.move_to_end(state.name)
        if self._suspicion < max(SUSPICION, SUSPICION_SHARE * at_work):
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


# --- the gate ------------------------------------------------------------------------------------------


class _Timer(Protocol):
    def cancel(self) -> object: ...


class Gate:
    """Lets requests through as its ``Pacer`` says: the one part of pacing that awaits.

    Everyone admitted must come back exactly once, by ``on_response``, ``on_failure`` or ``on_unsent``
    (arguments as ``Pacer``'s, without the time). No task of its own: while somebody waits, one timer of the
    running loop is set.

    ``clock`` is monotonic, ``epoch`` the wall clock; ``call_later(delay, callback)`` gives something to
    cancel. ``on_wait(account, level, seconds)`` is told of everyone who had to wait, once they are through.
    """

    def __init__(
        self,
        pacer: Pacer,
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
        """An answer came: see ``Pacer.on_response``."""
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


def _wake(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        future: asyncio.Future[None] = ticket.owner
        # One who was cancelled in this very turn gives the slot back when its task runs.
        if not future.done() and not future.get_loop().is_closed():
            future.set_result(None)

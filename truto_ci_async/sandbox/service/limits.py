"""Truto's two request limits, per token and per account, as sliding windows. The caller passes in the time."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal, TypeAlias

from .records import Stats
from .responses import ServiceError

Rate: TypeAlias = tuple[int, float]  # requests, seconds
LimitHeaders: TypeAlias = Literal["plain", "window", "epoch"]

_MAX_WINDOWS: Final = 100_000  # one per token and account seen


class SlidingWindow:
    """Admits at most `limit` requests in any `period` seconds. Refused requests do not count."""

    __slots__ = ("_admitted", "limit", "period")

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> bool:
        self._expire(now)
        if len(self._admitted) >= self.limit:
            return False
        self._admitted.append(now)
        return True

    def remaining(self, now: float) -> int:
        self._expire(now)
        return self.limit - len(self._admitted)

    def reset_after(self, now: float) -> float:
        """Seconds until the oldest admitted request leaves the window; 0 if the window is empty."""
        self._expire(now)
        return self._admitted[0] + self.period - now if self._admitted else 0.0

    def _expire(self, now: float) -> None:
        admitted = self._admitted
        while admitted and now - admitted[0] >= self.period:
            admitted.popleft()


class RateLimits:
    """One window for every token and one for every account. A rate of None switches that limit off."""

    def __init__(
        self,
        token_rate: Rate | None,
        account_rate: Rate | None,
        header_style: LimitHeaders | None,
        date_skew: float,
    ) -> None:
        self._token_rate = token_rate
        self._account_rate = account_rate
        self._header_style = header_style
        self._date_skew = date_skew  # seconds the times in headers are ahead
        self._windows: dict[str, SlidingWindow] = {}

    def admit(self, token: str, account_id: str | None, now: float, stats: Stats) -> list[tuple[str, str]]:
        """Count a request, and return the headers that describe the innermost limit.

        :raises ServiceError: a limit is reached.
        """
        window = None
        if self._token_rate:
            window = self._window(f"token {token}", self._token_rate)
            if not window.admit(now):
                stats.token_refusals += 1
                raise self._too_many(window, "API token", now)
        if self._account_rate and account_id is not None:
            window = self._window(f"account {account_id}", self._account_rate)
            if not window.admit(now):
                stats.account_refusals += 1
                raise self._too_many(window, "integrated account", now)
        return self._headers(window, now) if window else []

    def _window(self, name: str, rate: Rate) -> SlidingWindow:
        window = self._windows.get(name)
        if window is None:
            if len(self._windows) >= _MAX_WINDOWS:
                self._windows.clear()
            window = self._windows[name] = SlidingWindow(*rate)
        return window

    def _too_many(self, window: SlidingWindow, whose: str, now: float) -> ServiceError:
        text = f"Rate limit exceeded: {window.limit} requests in {window.period:g} seconds per {whose}"
        value = {"limit": window.limit, "window": window.period}
        retry = ("Retry-After", str(math.ceil(window.period)))
        return ServiceError(
            429,
            text,
            insight={"rate_limit_error": {"description": text, "value": value}},
            headers=(retry, *self._headers(window, now)),
        )

    def _headers(self, window: SlidingWindow, now: float) -> list[tuple[str, str]]:
        style = self._header_style
        if style is None:
            return []
        limit = f"{window.limit};w={window.period:g}" if style == "window" else str(window.limit)
        reset = window.reset_after(now) + (now + self._date_skew if style == "epoch" else 0)
        return [
            ("ratelimit-limit", limit),
            ("ratelimit-remaining", str(window.remaining(now))),
            ("ratelimit-reset", str(math.ceil(reset))),
        ]

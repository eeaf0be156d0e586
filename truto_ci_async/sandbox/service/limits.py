"""Request limits as sliding windows: Truto's two, and the provider's. The caller passes in the time."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal, TypeAlias

from .records import Stats
from .responses import ServiceError, remote_error

Rate: TypeAlias = tuple[int, float]  # requests, seconds
LimitHeaders: TypeAlias = Literal["plain", "window", "epoch"]

_MAX_WINDOWS: Final = 100_000  # at most one per token and two per account seen


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
    """Truto's limits for a token and for an account, and the provider's for an account. None is no limit.

    Only the provider's limit has `ratelimit-*` headers: Truto passes those on and sends none of its own.
    """

    def __init__(
        self,
        token_rate: Rate | None,
        account_rate: Rate | None,
        provider_rate: Rate | None,
        header_style: LimitHeaders | None,
        date_skew: float,
    ) -> None:
        self._token_rate = token_rate
        self._account_rate = account_rate
        self._provider_rate = provider_rate
        self._header_style = header_style
        self._date_skew = date_skew  # seconds the times in headers are ahead
        self._windows: dict[str, SlidingWindow] = {}

    def admit(self, token: str, account_id: str | None, now: float, stats: Stats) -> list[tuple[str, str]]:
        """Count a request, and return the headers that describe the provider's limit.

        :raises ServiceError: a limit is reached.
        """
        if self._token_rate:
            window = self._window(f"token {token}", self._token_rate)
            if not window.admit(now):
                stats.token_refusals += 1
                raise _too_many(window, "API token")
        if account_id is None:
            return []
        if self._account_rate:
            window = self._window(f"account {account_id}", self._account_rate)
            if not window.admit(now):
                stats.account_refusals += 1
                raise _too_many(window, "integrated account")
        if not self._provider_rate:
            return []
        window = self._window(f"provider {account_id}", self._provider_rate)
        if not window.admit(now):
            stats.provider_refusals += 1
            retry_after = ("Retry-After", str(math.ceil(window.reset_after(now))))
            headers = (retry_after, *self._headers(window, now))
            raise remote_error(429, "API rate limit exceeded", insight="rate_limit_error", headers=headers)
        return self._headers(window, now)

    def _window(self, name: str, rate: Rate) -> SlidingWindow:
        window = self._windows.get(name)
        if window is None:
            if len(self._windows) >= _MAX_WINDOWS:
                self._windows.clear()
            window = self._windows[name] = SlidingWindow(*rate)
        return window

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


def _too_many(window: SlidingWindow, whose: str) -> ServiceError:
    text = f"Rate limit exceeded: {window.limit} requests in {window.period:g} seconds per {whose}"
    return ServiceError(429, text, headers=(("Retry-After", str(math.ceil(window.period))),))

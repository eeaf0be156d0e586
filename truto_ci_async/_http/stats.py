"""What a client is doing at the moment, for health checks and dashboards."""

from __future__ import annotations

from time import monotonic

from msgspec import Struct

from truto_ci_async._http.policy.rate_limiter import RateLimiter
from truto_ci_async._http.policy.retry import RetryBudget

from .call import OpenCalls


class ClientStats(Struct, frozen=True, kw_only=True):
    """What a client was doing when ``truto.stats()`` was called.

    ``open_calls``       calls under way, waiting ones and open streams included; ``open_streams`` of them are streams.
    ``waiting``          how many of them wait, by cause: ``token`` and ``account`` limits, ``retry``.
    ``accounts``         accounts with a request in the last seconds, or paused.
    ``limit``            requests that the token may make in one window now: fewer after a 429; None: no limit.
    ``used``             how many of those were made in the last window.
    ``paused``           seconds until the service takes requests of this token again, after a 429; else 0.
    ``retry_budget``     retries that are left, of ``retry_capacity``. At 0 the service is down, or failing often.
    ``is_closed``        the client was closed, and takes no calls.

    Calls are those of the client and its copies together; limits are those of its token.
    """

    open_calls: int = 0
    open_streams: int = 0
    waiting: dict[str, int] = {}
    accounts: int = 0
    limit: int | None = None
    used: int = 0
    paused: float = 0.0
    retry_budget: float = 0.0
    retry_capacity: float = 0.0
    is_closed: bool = False


def client_stats(
    calls: OpenCalls, limiter: RateLimiter, budget: RetryBudget, *, is_closed: bool
) -> ClientStats:
    now = monotonic()
    limit, used, paused = limiter.token_window.usage(now)
    return ClientStats(
        open_calls=calls.count,
        open_streams=calls.streams,
        waiting={**limiter.waiting_by_level(now), "retry": calls.retrying},
        accounts=len(limiter),
        limit=limit,
        used=used,
        paused=paused,
        retry_budget=budget.left,
        retry_capacity=budget.capacity,
        is_closed=is_closed,
    )

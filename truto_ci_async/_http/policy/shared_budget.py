"""The protocol of a budget that several processes share, so that together they keep to the limits of one token."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from .headers import Level


class Grant(Struct, frozen=True):
    """What a shared budget grants: ``count`` requests may be sent now.

    With a ``count`` of 0, ``retry_after`` is the seconds after which asking again makes sense, 0 if that is not known,
    and ``level`` is the limit that is used up: ``"token"`` or ``"account"``. While the token's is, all requests of the
    client wait; while an account's is, only those of that account do.
    """

    count: int
    retry_after: float = 0.0
    level: Level = "token"


Granted: TypeAlias = int | Grant


@runtime_checkable
class SharedBudget(Protocol):
    """Counts the requests of all processes that use one token, so that together they stay within its limits.

        truto = TrutoClient(shared_budget=RedisBudget("redis://localhost"))

    Each client asks it before it sends a request, once the request's turn has come by the client's own ``Pacing``.
    Write one for whatever your processes already share: a Redis, the actor of a cluster, a small server. One object
    belongs to one token.

    **Grants expire by time.** A grant takes its slots of both limits, the token's and the account's, at the moment it
    is made, and the budget frees them one window later (plus some 0.4 s, because requests take unequal time to
    arrive). Nothing is given back: not by a request that succeeded, nor by one that was cancelled, nor by a process
    that was killed. So there is no bookkeeping to lose, and a killed process leaks nothing.

    **When it is away.** If ``take`` raises, or takes longer than half a second, the client goes on by itself at
    ``safe_share`` of the token's rate, evenly and without a burst, and asks again every two seconds. It never stops
    for the budget, and never sends at the full rate without it. A budget that lost its memory must grant no faster
    than the steady rate (limit / window) for the first window: it does not know what was sent before.

    A budget may also have:

    ``safe_share``   share of the token's rate, above 0 and up to 1, that each client uses while the budget is away.
                     Default 0.1, which is safe for ten clients; 1 / (number of clients) is best if that is known
    """

    async def take(self, n: int, account: str | None) -> Granted:
        """Grant up to ``n`` requests for ``account``, now. Do not wait until some are free: return 0 instead.

        ``n`` is 1 to 10: the requests of this account that are waiting. ``account`` is its id; None is for requests
        that belong to no account and count for the token only. Grant as many as both limits have left, as a number or
        as a ``Grant``, which can also say when to ask again. Calls may overlap.
        """
        ...

"""Decides whose limit a 429 met when the service does not say: the token's or the account's.

Pausing the token stops every account, which costs far more than noticing a few requests late. So at first only the
account is paused, and the token's blame score goes up by a point. An account scores once a minute: one that is
refused again and again says nothing new, unless many accounts are refused. Every success takes points off again. Once
the score is high enough, the token is to blame and is paused too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

# The token is to blame from this score on, and from this share of the active accounts.
TOKEN_BLAME_SCORE: Final = 3.0
TOKEN_BLAME_SHARE: Final = 0.025
SCORES_ONCE_IN: Final = 60.0  # seconds, per account ...
REPEAT_SHARE: Final = 0.25  # ... unless this share of the active accounts was refused in that time
# A success takes off a point, or next to nothing while we use much of the token's limit ourselves.
HEAVY_USE: Final = 0.25  # of the limit
FORGIVEN_IN_HEAVY_USE: Final = 0.03  # points


class TokenBlame:
    """Keeps the blame score of one token. ``score`` is in points; 0 if nothing points to the token."""

    __slots__ = ("_refused_at", "score")

    def __init__(self) -> None:
        self.score = 0.0
        self._refused_at: OrderedDict[str | None, float] = OrderedDict()  # oldest first

    def forgive(self, token_use: float) -> None:
        """Lower the score after a success, with ``token_use`` of the token's limit (0 to 1) in use."""
        self.score = max(0.0, self.score - (FORGIVEN_IN_HEAVY_USE if token_use >= HEAVY_USE else 1.0))

    def add(self, account: str | None, active_accounts: int, now: float) -> bool:
        """Note a 429 of ``account`` that did not name its level; return whether the token is to blame."""
        refused = self._refused_at
        while refused and next(iter(refused.values())) < now - SCORES_ONCE_IN:
            refused.popitem(last=False)  # mutant: None is as good as False
        if account not in refused or len(refused) >= max(TOKEN_BLAME_SCORE, REPEAT_SHARE * active_accounts):
            self.score += 1.0
        refused[account] = now
        refused.move_to_end(account)
        if self.score < max(TOKEN_BLAME_SCORE, TOKEN_BLAME_SHARE * active_accounts):
            return False
        self.score = 0.0
        return True

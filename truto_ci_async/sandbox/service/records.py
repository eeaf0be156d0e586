"""What the sandbox remembers about the requests it got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .query import parse_query


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it arrived. `status`, `fault` and `notes` are filled in while it is answered."""

    method: str
    path: str
    target: str  # path and query string exactly as on the wire
    headers: Mapping[str, str]  # names compare without case
    account: str | None  # the integrated account it is about
    time: float  # time.monotonic() at arrival
    peer_port: int  # the same for two requests that came over one connection
    status: int | None = None  # None: no head was sent (yet)
    fault: str | None = None  # the kind of fault that hit it
    notes: tuple[str, ...] = ()  # what was accepted but cannot have been meant

    @cached_property
    def query(self) -> dict[str, Any]:
        """The query string as `parse_query` reads it."""
        return parse_query(self.target.partition("?")[2])

    def fill_in(self, **values: object) -> None:
        """For the server only. The record is there before the answer is, so that a test can wait for it."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(slots=True)
class Stats:
    """Counts since the start or the last `clear`."""

    requests: int = 0
    connections: int = 0
    token_refusals: int = 0  # 429 by the token's tier
    account_refusals: int = 0  # 429 by the account's tier
    faults: int = 0  # scripted ones

    @property
    def rate_limited(self) -> int:
        return self.token_refusals + self.account_refusals

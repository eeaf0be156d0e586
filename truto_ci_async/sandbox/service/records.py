"""What the sandbox records about the requests it received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .query import parse_query


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it arrived. `status`, `fault` and `notes` are filled in while it is handled."""

    method: str
    path: str
    target: str  # path and query string exactly as on the wire
    headers: Mapping[str, str]  # names compare without case
    account: str | None  # the integrated account it is about
    time: float  # time.monotonic() at arrival
    peer_port: int  # equal for requests on the same connection
    status: int | None = None  # None if no response head was sent, or not yet
    fault: str | None = None  # the kind of fault applied to it
    notes: tuple[str, ...] = ()  # parameters that were accepted but are almost certainly a mistake

    @cached_property
    def query(self) -> dict[str, Any]:
        """The query string as `parse_query` reads it."""
        return parse_query(self.target.partition("?")[2])

    def fill_in(self, **values: object) -> None:
        """Set fields. Only for the server, which records a request before it responds, so that tests can wait."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(slots=True)
class Stats:
    """Counts since the start or the last `clear`."""

    requests: int = 0
    connections: int = 0
    token_refusals: int = 0  # 429s of the token's limit
    account_refusals: int = 0  # 429s of the account's limit
    provider_refusals: int = 0  # 429s of the provider's limit
    faults: int = 0  # scripted faults that were applied

    @property
    def rate_limited(self) -> int:
        return self.token_refusals + self.account_refusals + self.provider_refusals

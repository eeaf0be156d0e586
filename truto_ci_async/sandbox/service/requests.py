"""An authenticated request, and the account it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .data import Company
from .faults import Fault
from .pages import ProviderShape, StreamAs
from .parameters import text
from .responses import ServiceError


@dataclass(slots=True)
class AccountState:
    """One account, and what `Sandbox.configure` can change about it."""

    company: Company
    provider_shape: ProviderShape
    stream_as: StreamAs
    sentences: int | None  # in each transcript; None is as many as there is time for
    transcript_delay: float  # seconds from the end of a meeting until its transcript is there
    blocked: bool = False
    settling: float = 0.0  # seconds after their end until interactions and meetings are final


@dataclass(frozen=True, slots=True)
class Request:
    """One authenticated request."""

    method: str
    path: str
    query: Mapping[str, Any]
    owner: str  # the account its token belongs to; "" for an API token
    body: bytes
    fault: Fault | None = None  # a fault that changes the page


def find_account(states: Mapping[str, AccountState], request: Request) -> AccountState:
    """Return the account that `integrated_account_id` names, or that the token belongs to."""
    account_id = text(request.query, "integrated_account_id") or request.owner
    if not account_id:
        raise ServiceError(400, "Missing required query parameter: integrated_account_id")
    if request.owner and request.owner != account_id:
        raise ServiceError(403, "The token belongs to another integrated account")
    return existing(states, account_id)


def existing(states: Mapping[str, AccountState], account_id: str) -> AccountState:
    if account_id not in states:
        raise ServiceError(404, f"Integrated account not found: {account_id}")
    return states[account_id]

"""Truto's API as a function from an authenticated request to a response: the routes and their handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from hashlib import blake2b

from .accounts import AccountsApi
from .cursors import Cursors
from .data import Company
from .listing import Paging
from .pages import Pages, Shapes
from .requests import AccountState, Request
from .responses import Response, ServiceError
from .unified import UnifiedApi


class Api:
    """The routes, and the accounts, tokens and cursors behind them."""

    def __init__(
        self,
        companies: Sequence[Company],
        secret_seed: int,
        sentences: int | None,
        transcript_delay: float,
        shapes: Shapes,
        paging: Paging,
        clock: Callable[[], float],
        *,
        strict: bool,
    ) -> None:
        self.accounts = [company.account for company in companies]
        self.strict = strict
        self.states = {
            company.id: AccountState(
                company, shapes.provider_shape, shapes.stream_as, sentences, transcript_delay
            )
            for company in companies
        }
        key = blake2b(f"truto-sandbox/{secret_seed}".encode(), digest_size=32).digest()
        secret = blake2b(b"provider", key=key, digest_size=12).hexdigest()
        self.provider_secret = f"gong-secret-{secret}"
        self.cursors = Cursors(key, clock, paging.cursor_ttl)
        self._clock = clock
        pages = Pages(self.cursors, shapes)
        self._accounts = AccountsApi(self.states, pages, shapes, paging, clock, key, strict=strict)
        self._unified = UnifiedApi(self.states, pages, paging, self.now, self.provider_secret, strict=strict)

    def token_owner(self, token: str) -> str | None:
        """Return the account of an integrated-account token, or None if the token is unknown or expired."""
        return self._accounts.token_owner(token)

    def today(self) -> date:
        """Return the date in UTC, the zone in which the bounds of a window are read."""
        return self.now().date()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def respond(self, request: Request) -> Response:
        """Handle a request.

        :raises ServiceError: it gets an error response.
        """
        path = request.path
        if path == "/integrated-account/token":
            return self._accounts.create_token(request)
        if request.method != "GET":
            raise ServiceError(405, f"Cannot {request.method} {path}", headers=(("Allow", "GET"),))
        if path == "/integrated-account" or path.startswith("/integrated-account/"):
            return self._accounts.respond(request)
        if path.startswith("/unified/"):
            return self._unified.respond(request)
        raise ServiceError(404, f"Cannot GET {path}")

"""Integrated accounts: their list, their tokens, and what each of them offers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

from .capabilities import capabilities
from .filtering import filter_records
from .listing import Paging
from .pages import PageRange, Pages, Shapes, dump_items
from .parameters import boolean, check_names, cursor, positive, text
from .requests import AccountState, Request, existing
from .responses import Response, ServiceError, as_object, dump_json

TOKEN_LIFETIME: Final = 900.0  # seconds; of integrated-account tokens

_MAX_TOKENS: Final = 10_000  # integrated-account tokens; the oldest are dropped first
_BOOLEAN_FILTERS: Final = ("is_sandbox", "features.super_query")
_FILTERS: Final = (
    "integration.name",
    "status",
    "tenant_id",
    "environment_id",
    "created_at",
    "updated_at",
    *_BOOLEAN_FILTERS,
)


class AccountsApi:
    """`/integrated-account` and what is below it."""

    def __init__(
        self,
        states: Mapping[str, AccountState],
        pages: Pages,
        shapes: Shapes,
        paging: Paging,
        clock: Callable[[], float],
        secret: bytes,
        *,
        strict: bool,
    ) -> None:
        self._states = states
        self._pages = pages
        self._shapes = shapes
        self._paging = paging
        self._clock = clock
        self._secret = secret
        self._strict = strict
        self._tokens: dict[str, tuple[str, float]] = {}  # integrated-account token -> account, expiry
        self._tokens_made = 0

    def respond(self, request: Request) -> Response:
        if request.path == "/integrated-account":
            return self._list(request)
        account_id, _, rest = request.path.removeprefix("/integrated-account/").partition("/")
        if rest not in ("", "capabilities"):
            raise ServiceError(404, f"Cannot GET {request.path}")
        if request.owner and account_id == "me" and not rest:
            account_id = request.owner
        elif request.owner:
            raise ServiceError(403, "An integrated-account token may only ask for /integrated-account/me")
        state = existing(self._states, account_id)
        if rest:
            return Response(200, dump_json(self._capabilities(state, request.query)))
        self._check(request, ())
        return Response(200, dump_json(state.company.account))

    def create_token(self, request: Request) -> Response:
        """Handle `POST /integrated-account/token`."""
        if request.method != "POST":
            raise ServiceError(405, f"Cannot {request.method} {request.path}", headers=(("Allow", "POST"),))
        if request.owner:
            raise ServiceError(403, "An integrated-account token cannot make another one")
        self._check(request, ())
        try:
            body = as_object(json.loads(request.body or b"null")) or {}
        except (ValueError, RecursionError):
            raise ServiceError(400, "The body is not JSON") from None
        account_id = body.get("integrated_account_id")
        if not isinstance(account_id, str) or not account_id:
            raise ServiceError(400, "Missing required body field: integrated_account_id")
        existing(self._states, account_id)
        self._tokens_made += 1
        text = f"token/{account_id}/{self._tokens_made}"
        token = blake2b(text.encode(), key=self._secret, digest_size=16).hexdigest()
        if len(self._tokens) >= _MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token] = (account_id, self._clock() + TOKEN_LIFETIME)
        return Response(200, dump_json({"integrated_account_token": token}))

    def token_owner(self, token: str) -> str | None:
        """Return the account of an integrated-account token, or None if the token is unknown or expired."""
        account_id, expires = self._tokens.get(token, (None, 0.0))
        return account_id if self._clock() < expires else None

    def _list(self, request: Request) -> Response:
        if request.owner:
            raise ServiceError(403, "An integrated-account token cannot list accounts")
        query = request.query
        self._check(request, (*_FILTERS, "limit", "next_cursor"))
        limit = min(positive(query, "limit") or self._paging.page_size, self._paging.max_page_size)
        conditions = {name: query[name] for name in _FILTERS if name in query}
        for name, condition in conditions.items():
            if not isinstance(condition, dict):
                (boolean if name in _BOOLEAN_FILTERS else text)(query, name)
        filters = {"filters": repr(sorted(conditions.items())), "limit": str(limit)}
        offset = self._pages.offset(cursor(query), filters)
        found = filter_records([state.company.account for state in self._states.values()], conditions)
        where = PageRange(offset, limit, len(found), filters)
        page, following = self._pages.finish(request.fault, found[where.slice], where)
        rest = dump_json({"next_cursor": following, "limit": limit})[1:]
        key = self._shapes.accounts_key.encode()
        return Response(200, b'{"%b":%b,%b' % (key, dump_items(page), rest))

    def _capabilities(self, state: AccountState, query: Mapping[str, Any]) -> dict[str, Any]:
        found = capabilities(state.company.account, query, strict=self._strict, blocked=state.blocked)
        if self._shapes.capabilities_shape == "resources" and "unified" in found:
            entries = found["unified"]
            found["unified"] = {
                "resources": [
                    {"api_name": each["model"], "name": each["resource"], "methods": each["methods"]}
                    for each in entries
                ]
            }
        return found

    def _check(self, request: Request, known: tuple[str, ...]) -> None:
        if self._strict:
            check_names(request.query, known)

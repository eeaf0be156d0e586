"""Truto's API as a function from an authenticated request to a response: routes, pages, accounts and tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias

from .cursors import Cursors, InvalidCursor
from .data import TIMEZONE, Company, Row, Window, company_today
from .faults import Fault
from .filtering import filter_records, sort_records
from .listing import Listing, Paging
from .parameters import boolean, positive, text
from .responses import Response, ServiceError, as_object, dump_json, missing_parameters, remote_error

INTERACTIONS: Final = "/unified/conversational-intelligence/interactions"
CONTACTS: Final = "/unified/crm/contacts"
NO_DATA: Final = "no stats found for the specified period"
TOKEN_LIFETIME: Final = 900.0  # seconds; of integrated-account tokens

_GONG_URL: Final = "https://api.gong.io/v2/stats/interaction"
_REQUEST_ID: Final = "4al018gzaztcr8nbukw"
_MAX_TOKENS: Final = 10_000  # integrated-account tokens; the oldest are dropped first
_BYTES_PER_ROW: Final = 256  # of a stream sent as "bytes"

ProviderShape: TypeAlias = Literal["envelope", "gong"]
StreamAs: TypeAlias = Literal["json", "ndjson", "bytes", "empty"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What responses look like where Truto's contract leaves more than one shape open. See `Sandbox`."""

    provider_shape: ProviderShape
    stream_as: StreamAs
    accounts_key: Literal["result", "results"]
    capabilities_shape: Literal["list", "resources"]
    envelope_first: bool
    extra_envelope: Mapping[str, Any]
    end_cursor: Literal["null", "empty", "absent"]


@dataclass(slots=True)
class AccountState:
    """One account, and what `Sandbox.configure` can change about it."""

    company: Company
    provider_shape: ProviderShape
    stream_as: StreamAs
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One authenticated request."""

    method: str
    path: str
    query: Mapping[str, Any]
    owner: str  # the account its token belongs to; "" for an API token
    body: bytes
    fault: Fault | None = None  # a fault that changes the page


@dataclass(frozen=True, slots=True)
class _PageRange:
    """Where a page lies in its list."""

    offset: int
    limit: int
    total: int
    filters: Mapping[str, str]  # what its cursors are bound to


class Api:
    """The routes, and the accounts, tokens and cursors behind them."""

    def __init__(
        self,
        seed: int,
        accounts: list[dict[str, Any]],
        interactions: int,
        shapes: Shapes,
        paging: Paging,
        clock: Callable[[], float],
    ) -> None:
        self.accounts = accounts
        self.states = {
            str(account["id"]): AccountState(
                Company(seed, account, interactions), shapes.provider_shape, shapes.stream_as
            )
            for account in accounts
        }
        self._secret = blake2b(f"truto-sandbox/{seed}".encode(), digest_size=32).digest()
        secret = blake2b(b"provider", key=self._secret, digest_size=12).hexdigest()
        self.provider_secret = f"gong-secret-{secret}"
        self.cursors = Cursors(self._secret, clock, paging.cursor_ttl)
        self._shapes = shapes
        self._paging = paging
        self._clock = clock
        self._tokens: dict[str, tuple[str, float]] = {}  # integrated-account token -> account, expiry
        self._serial = 0  # for cursors and tokens that must not repeat

    def token_owner(self, token: str) -> str | None:
        """Return the account of an integrated-account token, or None if the token is unknown or expired."""
        account_id, expires = self._tokens.get(token, (None, 0.0))
        return account_id if self._clock() < expires else None

    def today(self) -> date:
        return company_today(self._clock())

    def respond(self, request: Request) -> Response:
        """Handle a request.

        :raises ServiceError: it gets an error response.
        """
        path = request.path
        if path == "/integrated-account/token":
            return self._create_token(request)
        if request.method != "GET":
            raise ServiceError(405, f"Cannot {request.method} {path}", headers=(("Allow", "GET"),))
        if path == INTERACTIONS:
            return self._interactions(request)
        if path == CONTACTS:
            return self._contacts(request)
        if path == "/integrated-account":
            return self._list_accounts(request)
        kind, _, rest = path.removeprefix("/").partition("/")
        if kind == "integrated-account":
            account_id, _, rest = rest.partition("/")
            if request.owner and request.owner != account_id:
                raise _forbidden("The token belongs to another integrated account")
            if account_id in self.states and not rest:
                return Response(200, dump_json(self.states[account_id].company.account))
            if account_id in self.states and rest == "capabilities":
                return self._capabilities(account_id, request.query)
        raise ServiceError(404, f"Cannot GET {path}")

    # Accounts and tokens

    def _create_token(self, request: Request) -> Response:
        if request.method != "POST":
            raise ServiceError(405, f"Cannot {request.method} {request.path}", headers=(("Allow", "POST"),))
        if request.owner:
            raise _forbidden("An integrated-account token cannot make another one")
        try:
            body = as_object(json.loads(request.body or b"null")) or {}
        except (ValueError, RecursionError):
            raise ServiceError(400, "The body is not JSON") from None
        account_id = body.get("integrated_account_id")
        if not isinstance(account_id, str) or not account_id:
            insight = {
                "description": "Required fields are missing in the body",
                "value": ["integrated_account_id"],
            }
            message = "Missing required body fields: integrated_account_id"
            raise ServiceError(400, message, insight={"missing_required_body_fields": insight})
        if account_id not in self.states:
            raise ServiceError(404, f"Integrated account not found: {account_id}")
        self._serial += 1
        token = blake2b(
            f"token/{account_id}/{self._serial}".encode(), key=self._secret, digest_size=16
        ).hexdigest()
        if len(self._tokens) >= _MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token] = (account_id, self._clock() + TOKEN_LIFETIME)
        return Response(200, dump_json({"integrated_account_token": token}))

    def _list_accounts(self, request: Request) -> Response:
        if request.owner:
            raise _forbidden("An integrated-account token cannot list accounts")
        query = request.query
        limit = min(positive(query, "limit") or self._paging.page_size, self._paging.max_page_size)
        names = ("integration.name", "status", "tenant_id")
        conditions: dict[str, Any] = {name: query[name] for name in names if text(query, name)}
        if "is_sandbox" in query:
            conditions["is_sandbox"] = "true" if boolean(query, "is_sandbox") else "false"
        conditions |= {name: query[name] for name in ("created_at", "updated_at") if name in query}
        filters = {"filters": repr(sorted(conditions.items())), "limit": str(limit)}
        offset = self._offset(text(query, "next_cursor"), filters)
        found = filter_records(self.accounts, conditions)
        where = _PageRange(offset, limit, len(found), filters)
        page, cursor = self._paginate(request.fault, found[offset : offset + limit], where)
        rest = dump_json({"next_cursor": cursor, "limit": limit})[1:]
        key = self._shapes.accounts_key.encode()
        return Response(200, b'{"%b":%b,%b' % (key, _dump_items(page), rest))

    def _capabilities(self, account_id: str, query: Mapping[str, Any]) -> Response:
        if text(query, "type") != "unified":
            raise ServiceError(400, "type must be unified")
        state = self.states[account_id]
        account = state.company.account
        is_gong = account["integration"]["name"] == "gong"
        model, resource = ("conversational-intelligence", "interactions") if is_gong else ("crm", "contacts")
        unified: Any = [{"model": model, "resource": resource, "methods": ["list"]}]
        if self._shapes.capabilities_shape == "resources":
            unified = {"resources": [{"api_name": model, "name": resource, "methods": ["list"]}]}
        about = {"id": account_id, "status": account["status"], "is_blocked": state.blocked}
        return Response(200, dump_json({"unified": unified, "account": about}))

    def _account(self, request: Request, integration: str | None = None) -> AccountState:
        """Return the account of a unified request, if it can be used."""
        account_id = text(request.query, "integrated_account_id") or request.owner
        if not account_id:
            raise missing_parameters(["integrated_account_id"])
        if request.owner and request.owner != account_id:
            raise _forbidden("The token belongs to another integrated account")
        state = self.states.get(account_id)
        if state is None:
            raise ServiceError(404, f"Integrated account not found: {account_id}")
        account = state.company.account
        if state.blocked:
            raise ServiceError(503, "The integrated account is blocked")
        if integration and account["integration"]["name"] != integration:
            raise ServiceError(404, f"{account['integration']['name']} has no such resource")
        if account["status"] == "needs_reauth":
            raise remote_error(401, "The provider refused the credentials: reconnect the account")
        if account["status"] != "active":
            raise ServiceError(400, f"The integrated account is not active: {account['status']}")
        return state

    # Pages

    def _interactions(self, request: Request) -> Response:
        state = self._account(request, "gong")
        company = state.company
        listing = Listing.read(request.query, company.id, self._paging)
        filters = listing.filters
        offset = self._offset(listing.cursor, filters)
        today = self.today()
        window = listing.effective_window(today)
        if not company.size or (listing.window and window is None):
            raise remote_error(404, NO_DATA)
        here = slice(offset, offset + listing.limit)
        if listing.super_query or window is None:
            records = listing.synced_records(company, today)
            where = _PageRange(offset, listing.limit, len(records), filters)
            return self._envelope(request, listing, [listing.trim(record) for record in records[here]], where)
        people = listing.people(company)
        # A stream is the unified envelope sent piece by piece, unless the account uses Gong's own shape.
        is_stream = listing.format == "stream"
        unified = state.provider_shape == "envelope" if is_stream else listing.format != "raw"

        def shape(row: Row) -> dict[str, Any]:
            return listing.trim(row.unified()) if unified else row.gong()

        if is_stream and state.stream_as != "json":
            rows = [company.row(user, window) for user in people[offset:]]
            return _stream(state.stream_as, rows, shape)
        page = [shape(company.row(user, window)) for user in people[here]]
        where = _PageRange(offset, listing.limit, len(people), filters)
        if state.provider_shape == "gong" and not unified:
            return self._gong_body(request, listing, page, where, window)
        return self._envelope(request, listing, page, where)

    def _contacts(self, request: Request) -> Response:
        company = self._account(request).company
        listing = Listing.read(request.query, company.id, self._paging, windowed=False)
        offset = self._offset(listing.cursor, listing.filters)
        records = sort_records(filter_records(company.contacts(), listing.conditions), listing.sort_by)
        page = [listing.trim(record) for record in records[offset : offset + listing.limit]]
        where = _PageRange(offset, listing.limit, len(records), listing.filters)
        return self._envelope(request, listing, page, where)

    def _envelope(self, request: Request, listing: Listing, page: list[Any], where: _PageRange) -> Response:
        """Wrap a page in Truto's envelope."""
        page, cursor = self._paginate(request.fault, page, where)
        result = _keyed(page, listing.key_by) if listing.key_by else _dump_items(page)
        previous = max(0, where.offset - where.limit)
        rest: dict[str, Any] = {
            "next_cursor": cursor or ("" if self._shapes.end_cursor == "empty" else None),
            "prev_cursor": self.cursors.issue(where.filters, previous) if where.offset else None,
            "result_count": len(page),
            "is_partial_response": False,
        }
        if cursor is None and self._shapes.end_cursor == "absent":
            del rest["next_cursor"]
        if listing.remote_query is not None:
            rest["remote_query_echo"] = listing.remote_query
        if listing.format == "debug":
            rest["debug"] = None if listing.skip_api_call else self._debug(listing, page, cursor)
        rest |= self._shapes.extra_envelope
        members = [b'"result":' + result, dump_json(rest)[1:-1]]
        if self._shapes.envelope_first:
            members.reverse()
        body = b"{%b}" % b",".join(members)
        return Response(200, body, streamed=listing.format == "stream", notes=listing.notes)

    def _gong_body(
        self, request: Request, listing: Listing, page: list[Any], where: _PageRange, window: Window
    ) -> Response:
        """Build Gong's own body, as its public API description has it."""
        page, cursor = self._paginate(request.fault, page, where)
        records: dict[str, Any] = {
            "totalRecords": where.total,
            "currentPageSize": len(page),
            "currentPageNumber": where.offset // where.limit,
        }
        if cursor is not None:
            records["cursor"] = cursor
        start, end = window.texts
        before = dump_json({"requestId": _REQUEST_ID, "records": records})[:-1]
        after = dump_json({"timeZone": TIMEZONE, "fromDateTime": start, "toDateTime": end})[1:]
        body = b'%b,"peopleInteractionStats":%b,%b' % (before, _dump_items(page), after)
        return Response(200, body, streamed=listing.format == "stream", notes=listing.notes)

    def _paginate(
        self, fault: Fault | None, page: list[Any], where: _PageRange
    ) -> tuple[list[Any], str | None]:
        """Return the page's items and the next cursor, with a fault applied to both."""
        following, serial = where.offset + where.limit, 0
        more = following < where.total
        if fault is None:
            pass
        elif fault.kind == "empty_page":
            self._serial += 1
            page, following, serial, more = [], where.offset, self._serial, True
        elif fault.kind == "loop":
            number = where.offset // where.limit
            following = where.limit * (number + 1 if number < fault.size else 1)
            more = True
        elif fault.kind == "items":
            own = [] if fault.mode == "replace" else page
            page = [*fault.content, *own] if fault.mode == "prepend" else [*own, *fault.content]
        return page, self.cursors.issue(where.filters, following, serial) if more else None

    def _offset(self, cursor: str | None, filters: Mapping[str, str]) -> int:
        if cursor is None:
            return 0
        try:
            return self.cursors.read(cursor, filters)
        except InvalidCursor as error:
            raise ServiceError(400, str(error)) from None

    def _debug(self, listing: Listing, page: Sequence[Any], cursor: str | None) -> dict[str, Any]:
        """Return the `debug` member, which includes the provider's credentials."""
        options: dict[str, Any] = {
            "method": "POST",
            "headers": {"Authorization": f"Basic {self.provider_secret}", "Content-Type": "application/json"},
            "body": {"filter": {"userIds": sorted(listing.users or ())}},
        }
        url = _GONG_URL
        if listing.remote_query:
            options["query"] = listing.remote_query
            url += "?" + "&".join(f"{name}={value}" for name, value in listing.remote_query.items())
        return {
            "requestUrl": url,
            "requestOptions": options,
            "data": {"requestId": _REQUEST_ID, "records": {"currentPageSize": len(page)}},
            "responseHeaders": {"content-type": "application/json", "x-gong-request-id": _REQUEST_ID},
            "nextCursor": cursor,
            "isLooping": False,
            "isEmptyResult": not page,
            "resultCount": len(page),
        }


def _stream(kind: StreamAs, rows: list[Row], shape: Callable[[Row], dict[str, Any]]) -> Response:
    """Build a stream that is not one JSON document. It has no place for a cursor, so it carries all rows."""
    body, content_type = b"", "application/octet-stream"
    if kind == "ndjson":
        body = b"".join(dump_json(shape(row)) + b"\n" for row in rows)
        content_type = "application/x-ndjson"
    elif kind == "bytes":
        body = b"".join(blake2b(row.user_id.encode()).digest() * (_BYTES_PER_ROW // 64) for row in rows)
    return Response(200, body, content_type, streamed=True)


def _keyed(page: Sequence[Any], name: str) -> bytes:
    """Key the page as JavaScript does: a missing field is "undefined", and the last record of a key wins."""
    found: dict[str, bytes] = {}
    for item in page:
        record = as_object(item) or {}
        value = record.get(name)
        if name not in record:
            key = "undefined"
        elif isinstance(value, dict | list):
            key = "[object Object]"
        else:
            key = value if isinstance(value, str) else json.dumps(value)
        found[key] = _dump_item(item)
    return b"{%b}" % b",".join(b"%b:%b" % (dump_json(key), item) for key, item in found.items())


def _dump_items(items: Sequence[Any]) -> bytes:
    return b"[%b]" % b",".join(map(_dump_item, items))


def _dump_item(item: Any) -> bytes:
    return item if isinstance(item, bytes) else dump_json(item)


def _forbidden(message: str) -> ServiceError:
    insight = {"description": "The token may not do this", "value": {"missing_scopes": ["environment"]}}
    return ServiceError(403, message, insight={"forbidden_error": insight})

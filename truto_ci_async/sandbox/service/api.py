"""Truto's API as a function from a request to an answer: routes, pages, accounts and tokens.

No sockets here, and nothing awaits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias

from .cursors import CursorRefused, Cursors
from .data import TIMEZONE, Company, Window, company_today, make_accounts
from .faults import Fault
from .listing import Listing, boolean, positive, select, sort_records, text
from .responses import Answer, Refused, as_object, dump_json, missing_parameters, remote_error

INTERACTIONS: Final = "/unified/conversational-intelligence/interactions"
CONTACTS: Final = "/unified/crm/contacts"
NO_DATA: Final = "no stats found for the specified period"
TOKEN_LIFE: Final = 900.0  # seconds an integrated-account token lives

_GONG_URL: Final = "https://api.gong.io/v2/stats/interaction"
_REQUEST_ID: Final = "4al018gzaztcr8nbukw"
_MAX_TOKENS: Final = 10_000  # integrated-account tokens kept; the oldest go first
_BYTES_PER_ROW: Final = 256  # of the `bytes` kind of stream

ProviderShape: TypeAlias = Literal["envelope", "gong"]
StreamAs: TypeAlias = Literal["json", "ndjson", "bytes", "empty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """How the API behaves where the real one has more than one way; `Sandbox` explains each."""

    seed: int
    clock: Callable[[], float]
    interactions: int
    page_size: int
    max_page_size: int
    provider_shape: ProviderShape
    stream_as: StreamAs
    accounts_key: Literal["result", "results"]
    capabilities_shape: Literal["list", "resources"]
    envelope_first: bool
    extra_envelope: Mapping[str, Any]
    end_cursor: Literal["null", "empty", "absent"]
    cursor_ttl: float | None


@dataclass(slots=True)
class AccountState:
    """One account and what `Sandbox.configure` can change about it."""

    company: Company
    provider_shape: ProviderShape
    stream_as: StreamAs
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request."""

    method: str
    path: str
    query: Mapping[str, Any]
    owner: str  # the account its token belongs to; "" for an API token
    body: bytes
    fault: Fault | None = None  # one that changes the page, if any


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a page lies in its list."""

    offset: int
    limit: int
    total: int
    filters: Mapping[str, str]  # what its cursors are bound to


class Api:
    """The state and the routes."""

    def __init__(self, options: ApiOptions, accounts: int | tuple[str, ...], others: int) -> None:
        self.options = options
        self.accounts = make_accounts(options.seed, accounts, others)
        secret = blake2b(f"truto-sandbox/{options.seed}".encode(), digest_size=32).digest()
        self.provider_secret = f"gong-secret-{blake2b(b'provider', key=secret, digest_size=12).hexdigest()}"
        self.cursors = Cursors(secret, options.clock, options.cursor_ttl)
        self.states = {
            str(account["id"]): AccountState(
                Company(options.seed, account, options.interactions),
                options.provider_shape,
                options.stream_as,
            )
            for account in self.accounts
        }
        self._secret = secret
        self._tokens: dict[str, tuple[str, float]] = {}  # integrated-account token -> account, end of life
        self._serial = 0  # for cursors and tokens that must not repeat

    def token_owner(self, token: str) -> str | None:
        """The account an integrated-account token stands for; None when it is unknown or too old."""
        account_id, ends = self._tokens.get(token, (None, 0.0))
        return account_id if self.options.clock() < ends else None

    def today(self) -> date:
        return company_today(self.options.clock())

    def answer(self, call: Call) -> Answer:
        """Answer a request.

        :raises Refused: with an error.
        """
        path = call.path
        if path == "/integrated-account/token":
            return self._create_token(call)
        if call.method != "GET":
            raise Refused(405, f"Cannot {call.method} {path}", headers=(("Allow", "GET"),))
        if path == INTERACTIONS:
            return self._interactions(call)
        if path == CONTACTS:
            return self._contacts(call)
        if path == "/integrated-account":
            return self._list_accounts(call)
        kind, _, rest = path.removeprefix("/").partition("/")
        if kind == "integrated-account":
            account_id, _, rest = rest.partition("/")
            if call.owner and call.owner != account_id:
                raise _forbidden("The token belongs to another integrated account")
            if account_id in self.states and not rest:
                return Answer(200, dump_json(self.states[account_id].company.account))
            if account_id in self.states and rest == "capabilities":
                return self._capabilities(account_id, call.query)
        raise Refused(404, f"Cannot GET {path}")

    # Accounts and tokens

    def _create_token(self, call: Call) -> Answer:
        if call.method != "POST":
            raise Refused(405, f"Cannot {call.method} {call.path}", headers=(("Allow", "POST"),))
        if call.owner:
            raise _forbidden("An integrated-account token cannot make another one")
        try:
            body = as_object(json.loads(call.body or b"null")) or {}
        except (ValueError, RecursionError):
            raise Refused(400, "The body is not JSON") from None
        account_id = body.get("integrated_account_id")
        if not isinstance(account_id, str) or not account_id:
            insight = {
                "description": "Required fields are missing in the body",
                "value": ["integrated_account_id"],
            }
            message = "Missing required body fields: integrated_account_id"
            raise Refused(400, message, insight={"missing_required_body_fields": insight})
        if account_id not in self.states:
            raise Refused(404, f"Integrated account not found: {account_id}")
        self._serial += 1
        token = blake2b(
            f"token/{account_id}/{self._serial}".encode(), key=self._secret, digest_size=16
        ).hexdigest()
        if len(self._tokens) >= _MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[token] = (account_id, self.options.clock() + TOKEN_LIFE)
        return Answer(200, dump_json({"integrated_account_token": token}))

    def _list_accounts(self, call: Call) -> Answer:
        if call.owner:
            raise _forbidden("An integrated-account token cannot list accounts")
        query = call.query
        limit = min(positive(query, "limit") or self.options.page_size, self.options.max_page_size)
        names = ("integration.name", "status", "tenant_id")
        conditions: dict[str, Any] = {name: query[name] for name in names if text(query, name)}
        if "is_sandbox" in query:
            conditions["is_sandbox"] = "true" if boolean(query, "is_sandbox") else "false"
        conditions |= {name: query[name] for name in ("created_at", "updated_at") if name in query}
        filters = {"filters": repr(sorted(conditions.items())), "limit": str(limit)}
        offset = self._offset(text(query, "next_cursor"), filters)
        found = select(self.accounts, conditions)
        span = _Span(offset, limit, len(found), filters)
        page, cursor = self._turn_page(call.fault, found[offset : offset + limit], span)
        rest = dump_json({"next_cursor": cursor, "limit": limit})[1:]
        key = self.options.accounts_key.encode()
        return Answer(200, b'{"%b":%b,%b' % (key, _dump_items(page), rest))

    def _capabilities(self, account_id: str, query: Mapping[str, Any]) -> Answer:
        if text(query, "type") != "unified":
            raise Refused(400, "type must be unified")
        state = self.states[account_id]
        account = state.company.account
        is_gong = account["integration"]["name"] == "gong"
        model, resource = ("conversational-intelligence", "interactions") if is_gong else ("crm", "contacts")
        unified: Any = [{"model": model, "resource": resource, "methods": ["list"]}]
        if self.options.capabilities_shape == "resources":
            unified = {"resources": [{"api_name": model, "name": resource, "methods": ["list"]}]}
        about = {"id": account_id, "status": account["status"], "is_blocked": state.blocked}
        return Answer(200, dump_json({"unified": unified, "account": about}))

    def _account(self, call: Call, integration: str | None = None) -> AccountState:
        """The account a unified request is about, if it can be used."""
        account_id = text(call.query, "integrated_account_id") or call.owner
        if not account_id:
            raise missing_parameters(["integrated_account_id"])
        if call.owner and call.owner != account_id:
            raise _forbidden("The token belongs to another integrated account")
        state = self.states.get(account_id)
        if state is None:
            raise Refused(404, f"Integrated account not found: {account_id}")
        account = state.company.account
        if state.blocked:
            raise Refused(503, "The integrated account is blocked")
        if integration and account["integration"]["name"] != integration:
            raise Refused(404, f"{account['integration']['name']} has no such resource")
        if account["status"] == "needs_reauth":
            raise remote_error(401, "The provider refused the credentials: reconnect the account")
        if account["status"] != "active":
            raise Refused(400, f"The integrated account is not active: {account['status']}")
        return state

    # Pages

    def _interactions(self, call: Call) -> Answer:
        state = self._account(call, "gong")
        company, options = state.company, self.options
        asked = Listing.read(
            call.query, company.id, page_size=options.page_size, max_page_size=options.max_page_size
        )
        offset = self._offset(asked.cursor, asked.filters)
        today = self.today()
        window = asked.answered_window(today)
        if not company.size or (asked.window and window is None):
            raise remote_error(404, NO_DATA)
        here = slice(offset, offset + asked.limit)
        if asked.super_query or window is None:
            records = asked.synced_records(company, today)
            span = _Span(offset, asked.limit, len(records), asked.filters)
            return self._envelope_answer(call, asked, [asked.trim(record) for record in records[here]], span)
        people = asked.people(company)
        span = _Span(offset, asked.limit, len(people), asked.filters)
        # A stream is the unified envelope sent bit by bit, unless the account answers in Gong's own shape.
        mapped = asked.format != "raw" and (asked.format != "stream" or state.provider_shape == "envelope")
        if asked.format == "stream" and state.stream_as != "json":
            left = [company.row(user, window) for user in people[offset:]]
            lines = mapped and state.stream_as == "ndjson"
            rows = [asked.trim(row.unified()) if lines else row.gong() for row in left]
            return _stream_answer(state.stream_as, rows)
        if mapped:
            page = [asked.trim(company.row(user, window).unified()) for user in people[here]]
            return self._envelope_answer(call, asked, page, span)
        page = [company.row(user, window).gong() for user in people[here]]
        if state.provider_shape == "gong":
            return self._gong_answer(call, asked, page, span, window)
        return self._envelope_answer(call, asked, page, span)

    def _contacts(self, call: Call) -> Answer:
        company, options = self._account(call).company, self.options
        asked = Listing.read(
            call.query,
            company.id,
            page_size=options.page_size,
            max_page_size=options.max_page_size,
            windowed=False,
        )
        offset = self._offset(asked.cursor, asked.filters)
        records = sort_records(select(company.contacts(), asked.conditions), asked.sort_by)
        page = [asked.trim(record) for record in records[offset : offset + asked.limit]]
        return self._envelope_answer(
            call, asked, page, _Span(offset, asked.limit, len(records), asked.filters)
        )

    def _envelope_answer(self, call: Call, asked: Listing, page: list[Any], span: _Span) -> Answer:
        """Truto's own envelope round a page."""
        page, cursor = self._turn_page(call.fault, page, span)
        result = _keyed(page, asked.key_by) if asked.key_by else _dump_items(page)
        before = self.cursors.issue(span.filters, max(0, span.offset - span.limit)) if span.offset else None
        rest: dict[str, Any] = {
            "next_cursor": cursor or ("" if self.options.end_cursor == "empty" else None),
            "prev_cursor": before,
            "result_count": len(page),
            "is_partial_response": False,
        }
        if cursor is None and self.options.end_cursor == "absent":
            del rest["next_cursor"]
        if asked.remote_query is not None:
            rest["remote_query_echo"] = asked.remote_query
        if asked.format == "debug":
            rest["debug"] = None if asked.skip_api_call else self._debug(asked, page, cursor)
        rest |= self.options.extra_envelope
        members = [b'"result":' + result, dump_json(rest)[1:-1]]
        if self.options.envelope_first:
            members.reverse()
        body = b"{%b}" % b",".join(members)
        return Answer(200, body, streamed=asked.format == "stream", notes=asked.notes)

    def _gong_answer(
        self, call: Call, asked: Listing, page: list[Any], span: _Span, window: Window
    ) -> Answer:
        """Gong's whole body, as its public API description has it."""
        page, cursor = self._turn_page(call.fault, page, span)
        records: dict[str, Any] = {
            "totalRecords": span.total,
            "currentPageSize": len(page),
            "currentPageNumber": span.offset // span.limit,
        }
        if cursor is not None:
            records["cursor"] = cursor
        start, end = window.texts
        before = dump_json({"requestId": _REQUEST_ID, "records": records})[:-1]
        after = dump_json({"timeZone": TIMEZONE, "fromDateTime": start, "toDateTime": end})[1:]
        body = b'%b,"peopleInteractionStats":%b,%b' % (before, _dump_items(page), after)
        return Answer(200, body, streamed=asked.format == "stream", notes=asked.notes)

    def _turn_page(self, fault: Fault | None, page: list[Any], span: _Span) -> tuple[list[Any], str | None]:
        """Say what is on the page and which cursor comes next, after what a fault does to both."""
        following, serial = span.offset + span.limit, 0
        more = following < span.total
        if fault is None:
            pass
        elif fault.kind == "empty_page":
            self._serial += 1
            page, following, serial, more = [], span.offset, self._serial, True
        elif fault.kind == "loop":
            number = span.offset // span.limit
            following = span.limit * (number + 1 if number < fault.size else 1)
            more = True
        elif fault.kind == "items":
            own = [] if fault.mode == "replace" else page
            page = [*fault.content, *own] if fault.mode == "prepend" else [*own, *fault.content]
        return page, self.cursors.issue(span.filters, following, serial) if more else None

    def _offset(self, cursor: str | None, filters: Mapping[str, str]) -> int:
        if cursor is None:
            return 0
        try:
            return self.cursors.read(cursor, filters)
        except CursorRefused as error:
            raise Refused(400, str(error)) from None

    def _debug(self, asked: Listing, page: Sequence[Any], cursor: str | None) -> dict[str, Any]:
        """What `debug` shows, the provider's credentials included."""
        options: dict[str, Any] = {
            "method": "POST",
            "headers": {"Authorization": f"Basic {self.provider_secret}", "Content-Type": "application/json"},
            "body": {"filter": {"userIds": sorted(asked.users or ())}},
        }
        url = _GONG_URL
        if asked.remote_query:
            options["query"] = asked.remote_query
            url += "?" + "&".join(f"{name}={value}" for name, value in asked.remote_query.items())
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


def _stream_answer(kind: StreamAs, rows: list[dict[str, Any]]) -> Answer:
    """A stream that is no JSON document: it has no place for a cursor, so it carries all the rows."""
    if kind == "ndjson":
        body = b"".join(dump_json(row) + b"\n" for row in rows)
        return Answer(200, body, "application/x-ndjson", streamed=True)
    if kind == "bytes":
        body = b"".join(blake2b(row["userId"].encode()).digest() * (_BYTES_PER_ROW // 64) for row in rows)
        return Answer(200, body, "application/octet-stream", streamed=True)
    return Answer(200, b"", "application/octet-stream", streamed=True)


def _keyed(page: Sequence[Any], name: str) -> bytes:
    """Key the page as JavaScript would: a missing field is "undefined", a later record replaces an earlier."""
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


def _forbidden(message: str) -> Refused:
    insight = {"description": "The token may not do this", "value": {"missing_scopes": ["environment"]}}
    return Refused(403, message, insight={"forbidden_error": insight})

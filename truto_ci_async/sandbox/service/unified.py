"""Unified resources: interactions in every format, contacts, and what a method takes and gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import urlencode

from .data import Company, Row, Window
from .filtering import filter_records, sort_records
from .listing import CONTACTS, INTERACTIONS, ListedResource, Listing, Paging
from .pages import PageRange, Pages, StreamAs, gong_body
from .parameters import check_names
from .requests import AccountState, Request, find_account
from .responses import REQUEST_ID, Response, ServiceError, as_list, as_object, dump_json, remote_error

NO_DATA: Final = "no stats found for the specified period"

_RESOURCES: Final[Mapping[str, ListedResource]] = {
    "conversational-intelligence/interactions": INTERACTIONS,
    "crm/contacts": CONTACTS,
}
_GONG_URL: Final = "https://api.gong.io/v2/stats/interaction"
_BYTES_PER_ROW: Final = 256  # of a stream sent as "bytes"


class UnifiedApi:
    """`GET /unified/{model}/{resource}`, and `/meta/list` below it."""

    def __init__(
        self,
        states: Mapping[str, AccountState],
        pages: Pages,
        paging: Paging,
        today: Callable[[], date],
        provider_secret: str,
        *,
        strict: bool,
    ) -> None:
        self._states = states
        self._pages = pages
        self._paging = paging
        self._today = today
        self._provider_secret = provider_secret
        self._strict = strict

    def respond(self, request: Request) -> Response:
        name, _, method = request.path.removeprefix("/unified/").partition("/meta/")
        resource = _RESOURCES.get(name)
        if resource is None or method not in ("", "list"):
            raise ServiceError(404, f"Cannot GET {request.path} (the sandbox lists {', '.join(_RESOURCES)})")
        state = self._account(request, "gong" if resource is INTERACTIONS else None)
        if method:
            return self._meta(request, resource)
        listing = Listing.read(request.query, state.company.id, self._paging, resource, strict=self._strict)
        offset = self._pages.offset(listing.cursor, listing.filters)
        if listing.skip_api_call:
            return self._records(request, listing, [], offset)
        if resource is CONTACTS:
            records = filter_records(state.company.contacts(), listing.conditions)
            return self._records(request, listing, sort_records(records, listing.sort_by), offset)
        company, window, today = state.company, listing.effective_window, self._today()
        if window is not None and window.end > today:
            raise remote_error(400, f"toDateTime is {window.end}, which is after today, {today}")
        if not company.size or (window is not None and window.is_empty):
            raise remote_error(404, NO_DATA)
        if listing.super_query or window is None:
            return self._records(request, listing, listing.synced_records(company, today), offset)
        return self._interactions(request, state, listing, window, offset)

    def _account(self, request: Request, integration: str | None) -> AccountState:
        """Return the account of a request, if it can be used."""
        state = find_account(self._states, request)
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

    def _meta(self, request: Request, resource: ListedResource) -> Response:
        """Describe the parameters and records of a list."""
        if self._strict:
            check_names(request.query, ("integrated_account_id",))
        parameters: dict[str, Any] = {
            name: {"type": "string", "format": "date-time"} if name.endswith("_time") else {"type": "string"}
            for name in resource.parameters
        }
        if "users" in parameters:
            member = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
            parameters["users"] = {"type": "array", "items": member}
        needed = [name for name in parameters if resource.windowed and name.endswith("_time")]
        fields: dict[str, Any] = {name: {} for name in resource.fields}
        schemas = {
            "query_schema": {"type": "object", "properties": parameters, "required": needed},
            "response_schema": {"type": "object", "properties": fields, "required": ["id"]},
        }
        return Response(200, dump_json(schemas))

    def _interactions(
        self, request: Request, state: AccountState, listing: Listing, window: Window, offset: int
    ) -> Response:
        """Respond with a page of Gong's statistics, in the format asked for."""
        company, people = state.company, listing.people(state.company)
        # A stream is the unified envelope sent piece by piece, unless the account uses Gong's own shape.
        is_stream = listing.format == "stream"
        unified = state.provider_shape == "envelope" if is_stream else listing.format != "raw"

        def shape(row: Row) -> dict[str, Any]:
            return listing.trim(row.unified()) if unified else row.gong()

        if is_stream and state.stream_as != "json":
            return _stream(state.stream_as, company, window, people[offset:], shape)
        where = PageRange(offset, listing.limit, len(people), listing.filters)
        rows = [company.row(user, window) for user in people[where.slice]]
        page, cursor = self._pages.finish(request.fault, [shape(row) for row in rows], where)
        if state.provider_shape == "gong" and not unified:
            body = gong_body(page, cursor, where, window)
            return Response(200, body, streamed=is_stream, notes=listing.notes)
        extra: dict[str, Any] = {}
        if listing.format == "debug":
            extra["debug"] = {
                **self._call(listing, window),
                "data": json.loads(gong_body([row.gong() for row in rows], cursor, where, window)),
                "responseHeaders": {"content-type": "application/json", "x-gong-request-id": REQUEST_ID},
                "nextCursor": cursor,
                "isLooping": False,
                "isEmptyResult": not page,
                "resultCount": len(page),
            }
        return self._envelope(listing, page, cursor, where, extra)

    def _records(
        self, request: Request, listing: Listing, records: list[dict[str, Any]], offset: int
    ) -> Response:
        """Respond with a page of records that the provider was not asked for."""
        where = PageRange(offset, listing.limit, len(records), listing.filters)
        page = [listing.trim(record) for record in records[where.slice]]
        page, cursor = self._pages.finish(request.fault, page, where)
        extra = {"debug": None} if listing.format == "debug" else {}
        return self._envelope(listing, page, cursor, where, extra)

    def _envelope(
        self,
        listing: Listing,
        page: list[Any],
        cursor: str | None,
        where: PageRange,
        extra: Mapping[str, Any],
    ) -> Response:
        body = self._pages.envelope(page, cursor, where, key_by=listing.key_by, extra=extra)
        return Response(200, body, streamed=listing.format == "stream", notes=listing.notes)

    def _call(self, listing: Listing, window: Window) -> dict[str, Any]:
        """Describe Truto's call of the provider for `debug`. It includes the provider's credentials."""
        start, end = window.texts
        wanted: dict[str, Any] = {"fromDate": start[:10], "toDate": end[:10]}
        if listing.users is not None:
            wanted["userIds"] = sorted(listing.users)
        url = _GONG_URL
        options: dict[str, Any] = {
            "method": "POST",
            "headers": {
                "Authorization": f"Basic {self._provider_secret}",
                "Content-Type": "application/json",
            },
            "body": {"filter": wanted},
        }
        if listing.remote_query:
            options["query"] = listing.remote_query
            url += f"?{urlencode(_flat(listing.remote_query), errors='replace')}"
        return {"requestUrl": url, "requestOptions": options}


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Flatten a parsed query into names with brackets, as it is sent to the provider."""
    members, elements = as_object(value), as_list(value)
    if members is not None:
        pairs = [_flat(each, f"{name}[{key}]" if name else key) for key, each in members.items()]
    elif elements is not None:
        pairs = [_flat(each, f"{name}[]") for each in elements]
    else:
        return [(name, value)]
    return [pair for each in pairs for pair in each]


def _stream(
    kind: StreamAs,
    company: Company,
    window: Window,
    people: Sequence[tuple[str, str]],
    shape: Callable[[Row], dict[str, Any]],
) -> Response:
    """Build a stream that is not one JSON document. It has no place for a cursor, so it carries all rows."""
    body, content_type = b"", "application/octet-stream"
    if kind == "ndjson":
        body = b"".join(dump_json(shape(company.row(user, window))) + b"\n" for user in people)
        content_type = "application/x-ndjson"
    elif kind == "bytes":
        body = b"".join(blake2b(user_id.encode()).digest() * (_BYTES_PER_ROW // 64) for user_id, _ in people)
    return Response(200, body, content_type, streamed=True)

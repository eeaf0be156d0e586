"""Unified resources: lists in every format, single records, and descriptions of methods."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import unquote, urlencode

from .filtering import filter_records, sort_records
from .found import Found, find, find_stored, get
from .listing import Listing, Paging
from .pages import PageRange, Pages, StreamAs, gong_body, other_body
from .parameters import check_names
from .requests import AccountState, Request, find_account
from .responses import REQUEST_ID, Response, ServiceError, as_list, as_object, dump_json, remote_error
from .schemas import RESOURCES, Resource

# Of Gong's own API: method, path, and the member of its responses that holds the records.
_GONG_CALLS: Final = {
    "interactions": ("POST", "stats/interaction", "peopleInteractionStats"),
    "activity": ("POST", "stats/activity/aggregate", "usersAggregateActivityStats"),
    "meetings": ("GET", "calls", "calls"),
    "users": ("GET", "users", "users"),
    "transcripts": ("POST", "calls/transcript", "callTranscripts"),
}
_BYTES_PER_ROW: Final = 256  # of a stream sent as "bytes"


class UnifiedApi:
    """`GET /unified/{model}/{resource}`, and `/{id}` and `/meta/{method}` below it."""

    def __init__(
        self,
        states: Mapping[str, AccountState],
        pages: Pages,
        paging: Paging,
        now: Callable[[], datetime],
        provider_secret: str,
        *,
        strict: bool,
    ) -> None:
        self._states = states
        self._pages = pages
        self._paging = paging
        self._now = now
        self._provider_secret = provider_secret
        self._strict = strict

    def respond(self, request: Request) -> Response:
        model, _, rest = request.path.removeprefix("/unified/").partition("/")
        name, *below = rest.split("/")
        resource = RESOURCES.get(f"{model}/{name}")
        is_meta = len(below) == 2 and below[0] == "meta"
        method = below[1] if is_meta else "get" if below else "list"
        if resource is None or (len(below) > 1 and not is_meta) or method not in resource.all_methods:
            raise ServiceError(404, f"Cannot GET {request.path} (the sandbox lists {', '.join(RESOURCES)})")
        state = self._account(request, resource, method)
        if is_meta:
            return self._meta(request, state, resource, method)
        response = (
            self._one(request, state, resource, unquote(below[0]))
            if below
            else self._list(request, state, resource)
        )
        # Meetings end and transcripts appear at any time of day.
        is_timed = name in ("meetings", "transcripts") or state.settling > 0
        return replace(response, is_timed=True) if is_timed else response

    def _account(self, request: Request, resource: Resource, method: str) -> AccountState:
        """Return the account of a request, if it can be used for this."""
        state = find_account(self._states, request)
        account, integration = state.company.account, state.company.integration
        if state.blocked:
            raise ServiceError(503, "The integrated account is blocked")
        methods = resource.methods(integration)
        if methods is None:
            raise ServiceError(404, f"{integration} has no such resource: {resource.model}/{resource.name}")
        if method not in methods:
            raise ServiceError(
                404, f"{integration} has no such method: {method} of {resource.model}/{resource.name}"
            )
        if account["status"] == "needs_reauth":
            raise remote_error(401, "The provider refused the credentials: reconnect the account")
        if account["status"] != "active":
            raise ServiceError(400, f"The integrated account is not active: {account['status']}")
        return state

    def _meta(self, request: Request, state: AccountState, resource: Resource, method: str) -> Response:
        """Describe the parameters and records of a method."""
        if self._strict:
            check_names(request.query, ("integrated_account_id",))
        integration = state.company.integration
        query: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        schemas = {
            "query_schema": resource.query_schema(integration) if method == "list" else query,
            "response_schema": resource.response_schema(integration, method),
        }
        return Response(200, dump_json(schemas))

    def _list(self, request: Request, state: AccountState, resource: Resource) -> Response:
        company, now = state.company, self._now()
        listing = Listing.read(request.query, company, self._paging, resource, strict=self._strict)
        offset = self._pages.offset(listing.cursor, listing.filters)
        if listing.skip_api_call:
            return self._records(request, listing, [], offset)
        if listing.super_query:
            records = filter_records(find_stored(state, listing, now), listing.conditions)
            return self._records(request, listing, sort_records(records, listing.sort_by), offset)
        return self._provided(request, state, listing, find(state, listing, now), offset)

    def _provided(
        self, request: Request, state: AccountState, listing: Listing, found: Found, offset: int
    ) -> Response:
        """Respond with a page of the provider's records, in the format asked for."""
        # A stream is the unified envelope sent piece by piece, unless the account uses the provider's own shape.
        is_stream = listing.format == "stream"
        unified = state.provider_shape == "envelope" if is_stream else listing.format != "raw"

        def shape(entry: Any) -> dict[str, Any]:
            return listing.trim(found.unified(entry)) if unified else found.remote(entry)

        if is_stream and state.stream_as != "json":
            return _stream(state.stream_as, found.entries[offset:], shape)
        where = PageRange(offset, listing.limit, len(found.entries), listing.filters)
        entries = found.entries[where.slice]
        page, cursor = self._pages.finish(request.fault, [shape(entry) for entry in entries], where)
        if state.provider_shape == "gong" and not unified:
            body = self._provider_body(state, listing, page, cursor, where, found)
            return Response(200, body, streamed=is_stream, notes=listing.notes)
        extra: dict[str, Any] = {}
        if listing.format == "debug":
            remote = [found.remote(entry) for entry in entries]
            body = self._provider_body(state, listing, remote, cursor, where, found)
            extra["debug"] = self._debug(state, listing, found, body, cursor, len(page))
        return self._envelope(listing, page, cursor, where, extra)

    def _one(self, request: Request, state: AccountState, resource: Resource, record_id: str) -> Response:
        """Respond with one record, which is not wrapped in an envelope."""
        listing = Listing.read_one(request.query, state.company, resource, strict=self._strict)
        found = get(state, listing, record_id, self._now())
        remote = found.remote(found.entries[0])
        record = remote if listing.format == "raw" else listing.trim(found.unified(found.entries[0]))
        where = PageRange(0, 1, 1, {})
        page, _ = self._pages.finish(request.fault, [record], where)
        body = page[0] if page and isinstance(page[0], bytes) else dump_json(page[0] if page else None)
        if listing.format == "debug":
            data = self._provider_body(state, listing, [remote], None, where, found)
            debug = self._debug(state, listing, found, data, None, 1)
            body = b'{"result":%b,"debug":%b}' % (body, dump_json(debug))
        return Response(200, body, streamed=listing.format == "stream")

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

    def _provider_body(
        self,
        state: AccountState,
        listing: Listing,
        rows: list[Any],
        cursor: str | None,
        where: PageRange,
        found: Found,
    ) -> bytes:
        name = listing.resource.name
        if state.company.integration != "gong" or name not in _GONG_CALLS:
            return other_body(name, rows, cursor, where)
        return gong_body(_GONG_CALLS[name][2], rows, cursor, where, found.window)

    def _debug(
        self, state: AccountState, listing: Listing, found: Found, body: bytes, cursor: str | None, count: int
    ) -> dict[str, Any]:
        """Describe Truto's call of the provider. It includes the provider's credentials."""
        name, integration = listing.resource.name, state.company.integration
        method, url = "GET", f"https://api.{integration}.example/{name}"
        if integration == "gong" and name in _GONG_CALLS:
            method, path, _ = _GONG_CALLS[name]
            url = f"https://api.gong.io/v2/{path}"
        authorization = f"Basic {self._provider_secret}"
        options: dict[str, Any] = {
            "method": method,
            "headers": {"Authorization": authorization, "Content-Type": "application/json"},
        }
        if method == "POST":
            wanted: dict[str, Any] = {}
            if found.window is not None:
                start, end = found.window.texts
                wanted = {"fromDate": start[:10], "toDate": end[:10]}
            if listing.users is not None:
                wanted["userIds"] = sorted(listing.users)
            if name == "transcripts":
                wanted["callIds"] = [listing.query["meeting"]["id"]]
            options["body"] = {"filter": wanted}
        if listing.remote_query:
            options["query"] = listing.remote_query
            url += f"?{urlencode(_flat(listing.remote_query), errors='replace')}"
        return {
            "requestUrl": url,
            "requestOptions": options,
            "data": json.loads(body),
            "responseHeaders": {
                "content-type": "application/json",
                f"x-{integration}-request-id": REQUEST_ID,
            },
            "nextCursor": cursor,
            "isLooping": False,
            "isEmptyResult": not count,
            "resultCount": count,
        }


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


def _stream(kind: StreamAs, entries: Sequence[Any], shape: Callable[[Any], dict[str, Any]]) -> Response:
    """Build a stream that is not a single JSON document. It has no room for a cursor, so it carries all records."""
    body, content_type = b"", "application/octet-stream"
    if kind == "ndjson":
        body = b"".join(dump_json(shape(entry)) + b"\n" for entry in entries)
        content_type = "application/x-ndjson"
    elif kind == "bytes":
        body = b"".join(
            blake2b(str(number).encode()).digest() * (_BYTES_PER_ROW // 64) for number in range(len(entries))
        )
    return Response(200, body, content_type, streamed=True)

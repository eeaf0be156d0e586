"""The whole service: authentication, limits, scripted faults and the API, with queries and settings for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from email.utils import formatdate
from typing import Any, Final

from .api import Api
from .content_encoding import Encoding, accepts, check_encoding
from .content_encoding import compress as compress_body
from .faults import CONNECTION_FAULTS, PAGE_FAULTS, Fault, Script
from .found import find, get
from .limits import RateLimits
from .listing import Listing
from .pages import ProviderShape, StreamAs
from .parameters import date_time
from .providers import MODEL
from .query import PARAMETER_LIMIT, parse_query
from .records import RecordedRequest, Stats
from .requests import AccountState, Request
from .responses import Response, ServiceError
from .schemas import RESOURCES, Resource

MAX_TARGET_CHARS: Final = 16_384  # path and query string; longer ones get a 414
_MAX_CACHED_BYTES: Final = 64 * 2**20  # of response bodies
_MAX_CACHED_QUERIES: Final = 2_048


class Service:
    """Answers requests, and records them. `Sandbox` is this class with a server in front."""

    def __init__(
        self,
        api: Api,
        limits: RateLimits,
        tokens: Sequence[str],
        compress: Encoding | None,
        date_skew: float,
        record_limit: int,
        clock: Callable[[], float],
    ) -> None:
        if compress is not None:
            check_encoding(compress)
        self.tokens = list(tokens)
        self.stats = Stats()
        self._api = api
        self._limits = limits
        self._compress = compress
        self._date_skew = date_skew
        self._record_limit = record_limit
        self._clock = clock

        self._records: list[RecordedRequest] = []
        self._scripts: dict[str | None, Script] = {}
        self._version = 0  # changes when cached responses become stale
        self._cache: dict[tuple[str, str, int, date], Response] = {}
        self._cached_bytes = 0
        self._queries: dict[str, dict[str, Any]] = {}
        self._date = (0, "")  # the current second, and the same as an HTTP date

    # For tests: what exists, what was received, and what should happen

    @property
    def token(self) -> str:
        """The API token it accepts. Change the list `tokens` to accept others."""
        return self.tokens[0]

    @property
    def provider_secret(self) -> str:
        """The made-up provider credential that `debug` responses reveal."""
        return self._api.provider_secret

    @property
    def accounts(self) -> list[dict[str, Any]]:
        """Every account as `GET /integrated-account` shows it, the active Gong ones first."""
        return self._api.accounts

    @property
    def account_ids(self) -> list[str]:
        """The ids of the active Gong accounts."""
        return self.accounts_of("gong")

    def accounts_of(self, provider: str) -> list[str]:
        """Return the ids of the active accounts of one provider, such as `avoma`."""
        return [
            str(account["id"])
            for account in self.accounts
            if account["status"] == "active" and account["integration"]["name"] == provider
        ]

    def user_ids(self, account_id: str) -> list[str]:
        """Return the ids of an account's users, in the order of their rows."""
        return [user.id for user in self._api.states[account_id].company.users]

    def meeting_ids(self, account_id: str) -> list[str]:
        """Return the ids of an account's meetings that are over, in the order of their start."""
        now = self._api.now()
        return [each.id for each in self._api.states[account_id].company.meetings if each.end <= now]

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests received, in order; a copy."""
        return self._records[:]

    def requests_for(self, account_id: str) -> list[RecordedRequest]:
        return [record for record in self.requests if record.account == account_id]

    def clear(self) -> None:
        """Forget recorded requests and counts. Scripts, rate limits and cursors stay."""
        self._records = []
        self.stats = Stats()

    def expected(
        self,
        account_id: str,
        *,
        resource: str = "interactions",
        start_time: str | datetime | None = None,
        end_time: str | datetime | None = None,
        users: Collection[str] = (),
        meeting: str | None = None,
        provider: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the records that a correct client gets from all pages of a list, in order.

        A window works as it does in a request: meetings of a provider that ignores it are all returned. With
        `provider`, the records are the provider's own.

        :param meeting: the one whose transcript is asked for.
        :raises ValueError: the request would be refused, for example for a window that ends after today, or since the
            provider lacks the resource.
        """
        state = self._api.states[account_id]
        of = _offered(state, resource, "list")
        query: dict[str, Any] = {"meeting": {"id": meeting}} if meeting else {}
        start, end = _aware("start_time", start_time), _aware("end_time", end_time)
        query |= {name: "" for name, bound in (("start_time", start), ("end_time", end)) if bound}
        missing = [name for name in of.required_from(state.company.integration) if name not in query]
        if missing:
            raise ValueError(f"{resource} of {state.company.integration} need {', '.join(missing)}")
        listing = Listing.of(state.company, of, query, start, end, frozenset(users) or None)
        try:
            found = find(state, listing, self._api.now())
        except ServiceError as error:
            if error.status == 404:
                return []
            raise ValueError(error.message) from None
        return [found.remote(entry) if provider else found.unified(entry) for entry in found.entries]

    def expected_record(self, account_id: str, resource: str, record_id: str) -> dict[str, Any]:
        """Return what `GET /{resource}/{id}` gives.

        :raises ValueError: there is no such record, or the provider does not give single ones.
        """
        state = self._api.states[account_id]
        listing = Listing.of(state.company, _offered(state, resource, "get"))
        try:
            found = get(state, listing, record_id, self._api.now())
        except ServiceError as error:
            raise ValueError(error.message) from None
        return found.unified(found.entries[0])

    def configure(
        self,
        account_id: str,
        *,
        interactions: int | None = None,
        meetings: int | None = None,
        sentences: int | None = None,
        transcript_delay: float | None = None,
        status: str | None = None,
        provider_shape: ProviderShape | None = None,
        stream_as: StreamAs | None = None,
        blocked: bool | None = None,
        settling: float | None = None,
    ) -> None:
        """Change one account from now on. Settings that are not given stay as they are.

        :param interactions: people in it; 0 makes every window empty (a remote 404).
        :param meetings: how many it has; other numbers give other meetings.
        :param sentences: how many each transcript has.
        :param transcript_delay: seconds from the end of a meeting until its transcript is there. With `inf` there is
            none, until another value makes them appear.
        :param status: for example `needs_reauth`, which gets a 401 in the provider's name.
        :param blocked: respond with 503 to every request.
        :param settling: seconds after the end of a window, or a meeting, in which some interactions, or that meeting,
            come late, are gone again, or change. 0, the default: they are final at once.
        """
        state = self._api.states[account_id]
        if interactions is not None:
            state.company.size = interactions
        if meetings is not None:
            state.company.meeting_count = meetings
        if sentences is not None:
            state.sentences = sentences
        if transcript_delay is not None:
            state.transcript_delay = transcript_delay
        if status is not None:
            state.company.account["status"] = status
        state.provider_shape = provider_shape or state.provider_shape
        state.stream_as = stream_as or state.stream_as
        state.blocked = state.blocked if blocked is None else blocked
        state.settling = state.settling if settling is None else settling
        self._version += 1

    def script(self, account_id: str | None, faults: Iterable[Fault]) -> None:
        """Add faults for an account's next requests, one per request, in this order. None means any request.

        A request refused because of its token or a rate limit uses up none. An account's own faults come before those
        for any request.

        :raises KeyError: there is no such account.
        """
        if account_id is not None and account_id not in self._api.states:
            raise KeyError(f"no such account: {account_id!r}")
        self._scripts.setdefault(account_id, Script()).add(faults)

    def fault(self, fault: Fault, account_id: str | None = None) -> None:
        """Add one fault, as `script` does."""
        self.script(account_id, [fault])

    def clear_faults(self) -> None:
        """Drop all scripted faults, and count requests from 1 again."""
        self._scripts = {}

    def expire_cursors(self) -> None:
        """Expire every cursor issued so far."""
        self._api.cursors.generation += 1
        self._version += 1

    # Handling a request

    def record(self, method: str, target: str, headers: Mapping[str, str], peer_port: int) -> RecordedRequest:
        """Record a request as it arrives."""
        path, _, query = target.partition("?")
        _, owner = self._authenticate(headers)
        account = owner or self._query(query).get("integrated_account_id")
        record = RecordedRequest(
            method,
            path,
            target,
            headers,
            account if isinstance(account, str) else None,
            time.monotonic(),
            peer_port,
        )
        self.stats.requests += 1
        self._records.append(record)
        if len(self._records) > self._record_limit:
            del self._records[: self._record_limit // 2 + 1]
        return record

    def respond(self, record: RecordedRequest, body: bytes | None) -> tuple[Response, Fault | None]:
        """Handle a recorded request. A `body` of None was too large to read.

        Returns the response, and the fault of the connection to apply while it is sent, if any.
        """
        now = self._clock()
        headers = [("Date", self._http_date(now))]
        fault: Fault | None = None
        try:
            if len(record.target) > MAX_TARGET_CHARS:
                raise ServiceError(414, f"The URL is longer than {MAX_TARGET_CHARS} characters")
            token, owner = self._authenticate(record.headers)
            if owner is None:
                raise ServiceError(401, "Unauthorized: the token is missing or not valid")
            limited = record.account if record.path.startswith("/unified/") else None
            headers += self._limits.admit(token, limited, now, self.stats)
            fault = self._next_fault(record)
            response = fault.response_at(now + self._date_skew) if fault else None
            if response is None:
                response = self._ask_api(record, owner, body, fault)
        except ServiceError as error:
            response = error.response()
        response = self._encode(record.headers, response, fault)
        record.fill_in(notes=response.notes)
        on_connection = fault if fault and fault.kind in CONNECTION_FAULTS else None
        if on_connection is None or not on_connection.is_silent:
            record.fill_in(status=response.status)
        return replace(response, headers=(*headers, *response.headers)), on_connection

    def _authenticate(self, headers: Mapping[str, str]) -> tuple[str, str | None]:
        """Return the token and its owner: an account, "" for an API token, None if the token is not valid."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        return token, "" if token in self.tokens else self._api.token_owner(token)

    def _next_fault(self, record: RecordedRequest) -> Fault | None:
        for account_id in dict.fromkeys((record.account, None)):
            script = self._scripts.get(account_id)
            fault = script.next() if script else None
            if fault is not None:
                self.stats.faults += fault.kind != "ok"
                record.fill_in(fault=fault.kind)
                return fault
        return None

    def _ask_api(
        self, record: RecordedRequest, owner: str, body: bytes | None, fault: Fault | None
    ) -> Response:
        """Get the API's response, from the cache if the same request was answered before."""
        if body is None:
            raise ServiceError(413, "The body is too large")
        fault = fault if fault is not None and fault.kind in PAGE_FAULTS else None
        raw = record.target.partition("?")[2]
        if self._api.strict and raw.count("&") >= PARAMETER_LIMIT:
            raise ServiceError(400, f"More than {PARAMETER_LIMIT} parameters: the service drops the rest")
        query = self._query(raw)
        request = Request(record.method, record.path, query, owner, body, fault)
        if record.method != "GET" or fault is not None or self._api.cursors.time_to_live is not None:
            return self._api.respond(request)
        key = (record.target, owner, self._version, self._api.today())
        response = self._cache.get(key)
        if response is None:
            response = self._api.respond(request)
            if response.is_timed:
                return response
            self._cached_bytes += len(response.body)
            if self._cached_bytes > _MAX_CACHED_BYTES:
                self._cache.clear()
                self._cached_bytes = len(response.body)
            self._cache[key] = response
        return response

    def _encode(self, headers: Mapping[str, str], response: Response, fault: Fault | None) -> Response:
        """Compress the body if the client accepts it or a fault demands it."""
        encoding: str | None = self._compress
        if fault is not None and fault.kind == "compressed":
            encoding = fault.mode
        elif encoding is None or not accepts(headers.get("Accept-Encoding", ""), encoding):
            return response
        if response.encoding or not response.body:
            return response
        return replace(response, body=compress_body(encoding, response.body), encoding=encoding)

    def _query(self, raw: str) -> dict[str, Any]:
        query = self._queries.get(raw)
        if query is None:
            if len(self._queries) >= _MAX_CACHED_QUERIES:
                self._queries.clear()
            query = self._queries[raw] = parse_query(raw[:MAX_TARGET_CHARS])
        return query

    def _http_date(self, now: float) -> str:
        second = int(now + self._date_skew)
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


def _offered(state: AccountState, name: str, method: str) -> Resource:
    """Return a resource of conversational intelligence.

    :raises ValueError: there is none of this name, or the account's provider lacks the method.
    """
    resource, integration = RESOURCES.get(f"{MODEL}/{name}"), state.company.integration
    if resource is None:
        raise ValueError(f"no such resource: {name}")
    if method not in (resource.methods(integration) or ()):
        raise ValueError(f"{integration} has no {method} of {name}")
    return resource


def _aware(name: str, value: str | datetime | None) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return date_time(name, value)
        except ServiceError as error:
            raise ValueError(error.message) from None
    if value.tzinfo is None:
        raise ValueError(f"{name} needs a time zone: {value!r}")
    return value

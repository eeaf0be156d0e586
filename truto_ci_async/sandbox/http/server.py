"""The sandbox itself: a server on the loopback interface that answers as Truto does, and misbehaves as told."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from email.utils import formatdate
from typing import Any, Final, Literal, Self, TypedDict, Unpack

from aiohttp import web

from truto_ci_async.sandbox.service.api import Api, ApiOptions, Call, ProviderShape, StreamAs
from truto_ci_async.sandbox.service.content_encoding import Encoding, bomb, check_encoding
from truto_ci_async.sandbox.service.content_encoding import compress as compress_body
from truto_ci_async.sandbox.service.data import Window
from truto_ci_async.sandbox.service.faults import Fault, Script
from truto_ci_async.sandbox.service.limits import LimitHeaders, Rate, Tiers
from truto_ci_async.sandbox.service.listing import date_time
from truto_ci_async.sandbox.service.query import parse_query
from truto_ci_async.sandbox.service.records import RecordedRequest, Stats
from truto_ci_async.sandbox.service.responses import Answer, Refused

from .response_writer import MAX_TARGET_CHARS, Connections, Delivered, Delivery, read_post, reset

_CACHE_BYTES: Final = 64 * 2**20  # of rendered pages
_CACHE_QUERIES: Final = 2_048  # parsed query strings
_CLOSE_SECONDS: Final = 2.0  # aclose waits no longer than this for connections to go
_THREAD_SECONDS: Final = 10.0  # for a sandbox in a thread to start, and to stop
_PAGE_FAULTS: Final = frozenset(("empty_page", "loop", "items"))  # done while the page is made
_WIRE_FAULTS: Final = frozenset(("reset", "disconnect", "truncate", "hang", "hang_body", "drip", "slow"))


class Options(TypedDict, total=False):
    """The arguments of `Sandbox` but for the port, for `Sandbox.in_thread` and `run`."""

    seed: int
    accounts: int | Sequence[str]
    interactions: int
    page_size: int
    max_page_size: int
    others: int
    host: str
    tokens: Sequence[str]
    token_rate: Rate | None
    account_rate: Rate | None
    ratelimit_headers: LimitHeaders | None
    provider_shape: ProviderShape
    stream_as: StreamAs
    stream_piece: int
    accounts_key: Literal["result", "results"]
    capabilities_shape: Literal["list", "resources"]
    envelope_first: bool
    extra_envelope: Mapping[str, Any] | None
    end_cursor: Literal["null", "empty", "absent"]
    cursor_ttl: float | None
    compress: Encoding | None
    reset_every: int | None
    date_skew: float
    record_limit: int
    clock: Callable[[], float]


class Sandbox:
    """A strict local stand-in for Truto's interactions API, to test and try things against.

        async with Sandbox(accounts=2, interactions=120) as sandbox:
            client = TrutoClient(sandbox.token, base_url=sandbox.url)

    The same arguments give the same accounts and records on every machine. Both of Truto's request tiers are enforced
    unless switched off with None. As a fixture for pytest:

        @pytest.fixture
        def sandbox():
            with Sandbox.in_thread(accounts=2) as running:
                yield running

    or, for async tests run by anyio's plugin:

        @pytest.fixture
        async def sandbox():
            async with Sandbox(accounts=2) as running:
                yield running

    Everything but `start` and `aclose` may be called from another thread.
    """

    def __init__(
        self,
        *,
        seed: int = 7,
        accounts: int | Sequence[str] = 3,
        interactions: int = 250,
        page_size: int = 50,
        max_page_size: int = 100,
        others: int = 2,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Sequence[str] = ("sandbox-token",),
        token_rate: Rate | None = (500, 10.0),
        account_rate: Rate | None = (50, 10.0),
        ratelimit_headers: LimitHeaders | None = "plain",
        provider_shape: ProviderShape = "envelope",
        stream_as: StreamAs = "json",
        stream_piece: int = 1024,
        accounts_key: Literal["result", "results"] = "result",
        capabilities_shape: Literal["list", "resources"] = "list",
        envelope_first: bool = False,
        extra_envelope: Mapping[str, Any] | None = None,
        end_cursor: Literal["null", "empty", "absent"] = "null",
        cursor_ttl: float | None = None,
        compress: Encoding | None = None,
        reset_every: int | None = None,
        date_skew: float = 0.0,
        record_limit: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Describe the sandbox; nothing runs yet.

        :param accounts: how many active Gong accounts, or their ids.
        :param others: further accounts, of other kinds or not active.
        :param interactions: people, so rows per window, in each account.
        :param max_page_size: what `limit` is capped at.
        :param token_rate: requests and seconds: what one token may send.
        :param account_rate: the same for one integrated account.
        :param ratelimit_headers: how they are written: limit `50`, limit `50;w=10`, or the reset as a point in time.
        :param provider_shape: what `raw` and `stream` carry: Truto's envelope (for `raw` round Gong's rows), or
            Gong's own body.
        :param stream_as: what `stream` sends; `configure` sets this and more for one account.
        :param stream_piece: bytes of body in each HTTP chunk of a stream.
        :param envelope_first: put `next_cursor` and its companions before `result`.
        :param end_cursor: how the last page says that it is the last.
        :param cursor_ttl: seconds a cursor stays good.
        :param compress: content coding of every answer whose client accepts it.
        :param reset_every: break the connection on every so many-th request of one connection.
        :param date_skew: seconds the server's clock is ahead of `clock` in `Date` and `Retry-After`.
        :param record_limit: requests kept in `requests`; the older half goes when it is full.
        :param clock: seconds since the epoch, for limits, tokens, cursors and today's date.
        """
        if compress is not None:
            check_encoding(compress)
        options = ApiOptions(
            seed=seed,
            clock=clock,
            interactions=interactions,
            page_size=page_size,
            max_page_size=max_page_size,
            provider_shape=provider_shape,
            stream_as=stream_as,
            accounts_key=accounts_key,
            capabilities_shape=capabilities_shape,
            envelope_first=envelope_first,
            extra_envelope=dict(extra_envelope or {}),
            end_cursor=end_cursor,
            cursor_ttl=cursor_ttl,
        )
        self.tokens = list(tokens)
        self.stats = Stats()
        self._api = Api(options, accounts if isinstance(accounts, int) else tuple(accounts), others)
        self._host, self._port = _loopback(host), port
        self._tiers = Tiers(token_rate, account_rate, ratelimit_headers, date_skew)
        self._stream_piece = stream_piece
        self._compress = compress
        self._reset_every = reset_every
        self._date_skew = date_skew
        self._record_limit = record_limit
        self._clock = clock

        self._scripts: dict[str | None, Script] = {}
        self._records: list[RecordedRequest] = []
        self._version = 0  # rendered pages of an earlier one are stale
        self._queries: dict[str, dict[str, Any]] = {}
        self._pages: dict[tuple[str, str, int, date], Answer] = {}
        self._pages_bytes = 0
        self._date = (0, "")

        self._url: str | None = None
        self._listener: asyncio.Server | None = None
        self._connections: Connections | None = None

    # Life

    @property
    def url(self) -> str:
        """The base URL, `http://127.0.0.1:PORT`.

        :raises RuntimeError: the sandbox is not running.
        """
        if self._url is None:
            raise RuntimeError(
                "the sandbox is not running: use `async with Sandbox(...)` or `Sandbox.in_thread(...)`"
            )
        return self._url

    async def start(self) -> Self:
        """Listen. Does nothing when it does already."""
        if self._listener is None:
            self._connections = Connections(self._handle, self._count_connection)
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._connections, self._host, self._port, backlog=1024)
            host, port = self._listener.sockets[0].getsockname()[:2]
            self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def aclose(self) -> None:
        """Stop listening and break every connection at once, hanging ones too. May be called again."""
        listener, connections = self._listener, self._connections
        self._listener = self._connections = self._url = None
        if listener is None or connections is None:
            return
        listener.close()
        for connection in list(connections.open.values()):
            connection.transport.abort()  # which cancels the task that answers on it
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                # A few rounds of the loop; aiohttp has no event for "all tasks of all connections are done".
                while connections.open or connections.connections:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await listener.wait_closed()
        except TimeoutError:
            pass

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @classmethod
    @contextmanager
    def in_thread(cls, *, port: int = 0, **options: Unpack[Options]) -> Generator[Self]:
        """Run a sandbox in a thread and event loop of its own, for code that is not async.

        Takes what `Sandbox` takes.
        """
        sandbox = cls(port=port, **options)
        running: Future[Callable[[], object]] = Future()  # gives the function that stops it

        async def serve() -> None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            async with sandbox:
                running.set_result(lambda: loop.call_soon_threadsafe(ended.set))
                await ended.wait()

        def main() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:
                if running.done():
                    raise
                running.set_exception(error)

        thread = threading.Thread(target=main, name="truto-sandbox", daemon=True)
        thread.start()
        stop = running.result(_THREAD_SECONDS)
        try:
            yield sandbox
        finally:
            stop()
            thread.join(_THREAD_SECONDS)

    # What a test asks and says

    @property
    def token(self) -> str:
        """The API token it accepts; change the list `tokens` to accept others."""
        return self.tokens[0]

    @property
    def provider_secret(self) -> str:
        """The made-up provider credential that `debug` answers give away."""
        return self._api.provider_secret

    @property
    def accounts(self) -> list[dict[str, Any]]:
        """Every account as `GET /integrated-account` shows it, the active Gong ones first."""
        return self._api.accounts

    @property
    def account_ids(self) -> list[str]:
        """The ids of the active Gong accounts."""
        return [
            str(account["id"])
            for account in self.accounts
            if account["status"] == "active" and account["integration"]["name"] == "gong"
        ]

    def user_ids(self, account_id: str) -> list[str]:
        """The ids of an account's people, in the order of their rows."""
        return [user_id for user_id, _ in self._api.states[account_id].company.users]

    @property
    def requests(self) -> list[RecordedRequest]:
        """What arrived, in order; a copy."""
        return self._records[:]

    def requests_for(self, account_id: str) -> list[RecordedRequest]:
        return [record for record in self.requests if record.account == account_id]

    def clear(self) -> None:
        """Forget recorded requests and counts; scripts, limits and cursors stay."""
        self._records = []
        self.stats = Stats()

    def expected(
        self,
        account_id: str,
        *,
        start_time: str | datetime,
        end_time: str | datetime,
        users: Collection[str] = (),
        provider: bool = False,
    ) -> list[dict[str, Any]]:
        """The records that a right walk over all pages yields, in order; with `provider`, Gong's own rows."""
        company = self._api.states[account_id].company
        asked = _instant("start_time", start_time), _instant("end_time", end_time)
        window = Window.answering(*asked, self._api.today())
        if window.is_empty:
            return []
        rows = [company.row(user, window) for user in company.users if not users or user[0] in users]
        return [row.gong() if provider else row.unified() for row in rows]

    def configure(
        self,
        account_id: str,
        *,
        interactions: int | None = None,
        status: str | None = None,
        provider_shape: ProviderShape | None = None,
        stream_as: StreamAs | None = None,
        blocked: bool | None = None,
    ) -> None:
        """Change one account from now on; what is not given stays.

        :param interactions: people in it; 0 makes every window an empty one (a remote 404).
        :param status: such as `needs_reauth`, which answers 401 in the provider's name.
        :param blocked: answer 503 to everything.
        """
        state = self._api.states[account_id]
        if interactions is not None:
            state.company.size = interactions
        if status is not None:
            state.company.account["status"] = status
        state.provider_shape = provider_shape or state.provider_shape
        state.stream_as = stream_as or state.stream_as
        state.blocked = state.blocked if blocked is None else blocked
        self._version += 1

    def script(self, account_id: str | None, faults: Iterable[Fault]) -> None:
        """Add faults for an account's coming requests, one a request, in this order; None is for any request.

        A request that is refused for its token or by a tier uses none up. The account's own faults go before those
        for any request.

        :raises KeyError: there is no such account.
        """
        if account_id is not None and account_id not in self._api.states:
            raise KeyError(f"no such account: {account_id!r}")
        self._scripts.setdefault(account_id, Script()).add(faults)

    def fault(self, fault: Fault, account_id: str | None = None) -> None:
        """Add one fault: `script` for a list of one."""
        self.script(account_id, [fault])

    def clear_faults(self) -> None:
        """Drop every scripted fault, and count requests from 1 again."""
        self._scripts = {}

    def expire_cursors(self) -> None:
        """Make every cursor given out so far an expired one."""
        self._api.cursors.generation += 1
        self._version += 1

    # Answering

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return _KEPT if await self._serve(request) else _CLOSED
        except ConnectionError:
            return _CLOSED

    async def _serve(self, request: web.BaseRequest) -> bool:
        """Answer one request; returns whether its connection can be used again."""
        record, token, owner = self._record(request)
        connection = self._connections.open.get(request.protocol) if self._connections else None
        if connection is not None:
            connection.requests += 1
            if self._reset_every and connection.requests % self._reset_every == 0:
                record.fill_in(fault="reset_every")
                reset(request)
                return False
        now = self._clock()
        headers = [("Date", self._http_date(now))]
        fault: Fault | None = None
        try:
            if len(record.target) > MAX_TARGET_CHARS:
                raise Refused(414, f"The URL is longer than {MAX_TARGET_CHARS} characters")
            if owner is None:
                raise Refused(401, "Unauthorized: the token is missing or not valid")
            limited = record.account if record.path.startswith("/unified/") else None
            headers += self._tiers.admit(token, limited, now, self.stats)
            fault = self._next_fault(record)
            answer = self._scripted_answer(fault, now)
            if answer is None:
                body = await read_post(request) if request.method == "POST" else b""
                if body is None:
                    raise Refused(413, "The body is too large")
                answer = self._page(record, owner, body, fault)
        except Refused as refused:
            answer = refused.answer()
        answer = self._encoded(request, answer, fault)
        record.fill_in(notes=answer.notes)
        delivery = Delivery(request, answer, headers, self._stream_piece)
        wire_fault = fault if fault is not None and fault.kind in _WIRE_FAULTS else None
        if wire_fault is None or not wire_fault.is_silent:
            record.fill_in(status=answer.status)
        return await (delivery.send_badly(wire_fault) if wire_fault else delivery.send())

    def _record(self, request: web.BaseRequest) -> tuple[RecordedRequest, str, str | None]:
        """Write a request down; its token and that one's owner ("": the environment, None: nobody) come along."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        owner = "" if token in self.tokens else self._api.token_owner(token)
        target = request.raw_path
        path, _, raw = target.partition("?")
        account = owner or self._query(raw).get("integrated_account_id")
        peer = request.transport.get_extra_info("peername") if request.transport else None
        record = RecordedRequest(
            request.method,
            path,
            target,
            request.headers,
            account if isinstance(account, str) else None,
            time.monotonic(),
            peer[1] if peer else 0,
        )
        self.stats.requests += 1
        self._records.append(record)
        if len(self._records) > self._record_limit:
            del self._records[: self._record_limit // 2 + 1]
        return record, token, owner

    def _next_fault(self, record: RecordedRequest) -> Fault | None:
        if not self._scripts:
            return None
        for account_id in dict.fromkeys((record.account, None)):
            script = self._scripts.get(account_id)
            fault = script.next() if script else None
            if fault is not None:
                self.stats.faults += fault.kind != "ok"
                record.fill_in(fault=fault.kind)
                return fault
        return None

    def _scripted_answer(self, fault: Fault | None, now: float) -> Answer | None:
        """The answer a fault gives in place of the good one, if it has one."""
        if fault is None:
            return None
        if fault.kind == "bomb":
            return Answer(200, bomb(fault.mode, fault.size), encoding=fault.mode)
        answer, retry = fault.answer, fault.retry_after
        if answer is None or retry is None:
            return answer
        if not isinstance(retry, str):
            at = now + self._date_skew + retry
            retry = formatdate(at, usegmt=True) if fault.retry_as_date else f"{retry:g}"
        return replace(answer, headers=(*answer.headers, ("Retry-After", retry)))

    def _page(self, record: RecordedRequest, owner: str, body: bytes, fault: Fault | None) -> Answer:
        """Ask the API, or give again what it said to the same question."""
        fault = fault if fault is not None and fault.kind in _PAGE_FAULTS else None
        call = Call(
            record.method, record.path, self._query(record.target.partition("?")[2]), owner, body, fault
        )
        if record.method != "GET" or fault is not None or self._api.cursors.time_to_live is not None:
            return self._api.answer(call)
        key = (record.target, owner, self._version, self._api.today())
        answer = self._pages.get(key)
        if answer is None:
            answer = self._api.answer(call)
            self._pages_bytes += len(answer.body)
            if self._pages_bytes > _CACHE_BYTES:
                self._pages.clear()
                self._pages_bytes = len(answer.body)
            self._pages[key] = answer
        return answer

    def _encoded(self, request: web.BaseRequest, answer: Answer, fault: Fault | None) -> Answer:
        encoding: str | None = self._compress
        if fault is not None and fault.kind == "compressed":
            encoding = fault.mode
        elif encoding is None or not _accepts(request.headers.get("Accept-Encoding", ""), encoding):
            return answer
        if answer.encoding or not answer.body:
            return answer
        return replace(answer, body=compress_body(encoding, answer.body), encoding=encoding)

    def _query(self, raw: str) -> dict[str, Any]:
        query = self._queries.get(raw)
        if query is None:
            if len(self._queries) >= _CACHE_QUERIES:
                self._queries.clear()
            query = self._queries[raw] = parse_query(raw[:MAX_TARGET_CHARS])
        return query

    def _count_connection(self) -> None:
        self.stats.connections += 1

    def _http_date(self, now: float) -> str:
        second = int(now + self._date_skew)
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


async def run(
    port: int = 0, *, ready: Callable[[Sandbox], object] | None = None, **options: Unpack[Options]
) -> None:
    """Serve until cancelled; `ready` is called once with the running sandbox, to print its URL."""
    async with Sandbox(port=port, **options) as sandbox:
        if ready is not None:
            ready(sandbox)
        await asyncio.get_running_loop().create_future()


def _loopback(host: str) -> str:
    """Return the address to listen on.

    :raises ValueError: others could reach it.
    """
    try:
        if host == "localhost":
            return "127.0.0.1"
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise ValueError(f"the sandbox listens on a loopback address only, not {host!r}")


def _instant(name: str, value: str | datetime) -> datetime:
    if isinstance(value, str):
        try:
            return date_time(name, value)
        except Refused as refused:
            raise ValueError(refused.message) from None
    if value.tzinfo is None:
        raise ValueError(f"{name} needs a time zone: {value!r}")
    return value


def _accepts(header: str, encoding: str) -> bool:
    for each in header.split(","):
        name, _, quality = each.strip().partition(";")
        if name.strip().lower() == encoding:
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


_KEPT: Final = Delivered(keep=True)
_CLOSED: Final = Delivered(keep=False)

"""The sandbox: the service on a socket of this machine, started and stopped by tests."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, Literal, Self, TypedDict, Unpack

from aiohttp import web

from truto_ci_async.sandbox.service.api import Api
from truto_ci_async.sandbox.service.content_encoding import Encoding
from truto_ci_async.sandbox.service.data import Company, make_accounts
from truto_ci_async.sandbox.service.limits import LimitHeaders, Rate, RateLimits
from truto_ci_async.sandbox.service.listing import Paging
from truto_ci_async.sandbox.service.pages import ProviderShape, Shapes, StreamAs
from truto_ci_async.sandbox.service.providers import PROVIDERS
from truto_ci_async.sandbox.service.service import Service

from .connections import Connections, read_body, reset
from .response_writer import ResponseWriter, SentResponse

MAX_ACCOUNTS: Final = 100_000

_CLOSE_SECONDS: Final = 2.0  # how long `aclose` waits for connections to end
_THREAD_SECONDS: Final = 10.0  # for a sandbox in a thread to start, and to stop


class Options(TypedDict, total=False):
    """The arguments of `Sandbox`, except `port`, for `Sandbox.in_thread` and `run`."""

    seed: int
    accounts: int | Sequence[str]
    interactions: int
    meetings: int
    year: int
    sentences: int | None
    transcript_delay: float
    providers: int | Mapping[str, int]
    realistic: bool
    page_size: int
    max_page_size: int
    others: int
    host: str
    tokens: Sequence[str]
    token_rate: Rate | None
    account_rate: Rate | None
    provider_rate: Rate | None
    ratelimit_headers: LimitHeaders | None
    strict: bool
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


class Sandbox(Service):
    """A strict local stand-in for Truto's API, to test and try things against.

        async with Sandbox(accounts=2, interactions=120) as sandbox:
            client = TrutoClient(sandbox.token, base_url=sandbox.url)

    It serves interactions, meetings, users, transcripts and activity, each with the parameters, formats and errors of
    the contract. They are consistent: people of meetings and statistics are `users`, activity counts the meetings of
    its window, transcripts belong to meetings. The same arguments give the same accounts and records on every machine,
    whatever was asked before. `expected` and `expected_record` say what a correct client gets.

    Both of Truto's rate limits are enforced unless set to None. Where the service ignores a mistake, such as a misspelt
    parameter, the sandbox refuses it with a message that says what would have happened. As a pytest fixture:

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

    :param accounts: how many active Gong accounts, or their ids.
    :param others: how many further accounts, of other integrations or not active.
    :param interactions: people in each account, and so rows in each window. Those who had no calls in it, for example
        because they were not hired yet, have no metrics.
    :param meetings: meetings in each account, all of them in `year`. Those that end after `clock` are not there yet.
    :param sentences: how many each transcript has, for large ones. By default there is one in 20 seconds.
    :param transcript_delay: seconds from the end of a meeting until its transcript is there; `inf` for never. One
        meeting in twelve never has one.
    :param providers: further active accounts, of the other four providers: how many of each, or for example
        `{"avoma": 2, "firefliesai": 1}`. Each serves what Truto documents for it. Lists of Avoma and Chorus have some
        fields of a meeting, Avoma requires `start_time`, and Fireflies.ai and Wingman ignore a window.
    :param realistic: give people emails made from their names, and plausible statistics: long tails, teams that differ,
        a trend, new hires, quiet weekends. If False, emails and statistics are plain noise.
    :param max_page_size: the highest `limit` that has an effect.
    :param token_rate: how many requests one token may send in how many seconds.
    :param account_rate: the same for one integrated account.
    :param provider_rate: the same for the provider behind one integrated account; Gong allows `(3, 1.0)`. Its 429s are
        remote errors.
    :param ratelimit_headers: how the provider's limit is described: with limit `3`, with limit `3;w=1`, or with the
        reset as a point in time. Truto's own limits have no headers.
    :param strict: refuse what the service ignores or takes for something else: unknown parameters, more than 20 users
        or `users[][id]` given twice, brackets deeper than five. If False, behave as the service does.
    :param provider_shape: what `raw` and `stream` responses carry: Truto's envelope (for `raw` around Gong's rows), or
        Gong's own body.
    :param stream_as: what `stream` responses are. `configure` sets this and more for a single account.
    :param stream_piece: bytes of body in each HTTP chunk of a stream.
    :param accounts_key: the member that holds the list of accounts.
    :param capabilities_shape: whether `unified` is a list or an object with `resources`.
    :param envelope_first: put `next_cursor` and the other members before `result`.
    :param extra_envelope: further members of the envelope.
    :param end_cursor: what `next_cursor` is on the last page.
    :param cursor_ttl: how many seconds a cursor is valid.
    :param compress: content coding for clients that accept it.
    :param reset_every: reset each connection on every n-th of its requests.
    :param date_skew: how many seconds the server's clock is ahead of `clock` in `Date` and `Retry-After`.
    :param record_limit: how many requests are kept in `requests`. When it is full, the older half is dropped.
    :param clock: seconds since the epoch, for limits, tokens, cursors and today's date.
    """

    def __init__(
        self,
        *,
        seed: int = 7,
        accounts: int | Sequence[str] = 3,
        interactions: int = 250,
        meetings: int = 600,
        year: int = 2024,
        sentences: int | None = None,
        transcript_delay: float = 3600.0,
        providers: int | Mapping[str, int] = 0,
        realistic: bool = True,
        page_size: int = 50,
        max_page_size: int = 100,
        others: int = 2,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Sequence[str] = ("sandbox-token",),
        token_rate: Rate | None = (500, 10.0),
        account_rate: Rate | None = (50, 10.0),
        provider_rate: Rate | None = None,
        ratelimit_headers: LimitHeaders | None = "plain",
        strict: bool = True,
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
        """Prepare the sandbox. It does not listen yet.

        :raises ValueError: there would be more than 100,000 accounts, two have one id, or a number or provider is
            invalid.
        """
        wanted = _accounts_of(providers)
        _check_accounts(accounts, others=others, **wanted)
        _check_least(0, interactions=interactions, meetings=meetings)
        _check_least(
            1,
            sentences=sentences,
            page_size=page_size,
            max_page_size=max_page_size,
            stream_piece=stream_piece,
        )
        if not 1 <= year <= 9998:
            raise ValueError("year must be from 1 to 9998")
        shapes = Shapes(
            provider_shape,
            stream_as,
            accounts_key,
            capabilities_shape,
            envelope_first,
            dict(extra_envelope or {}),
            end_cursor,
        )
        paging = Paging(page_size, max_page_size, cursor_ttl)
        companies = [
            Company(seed, account, interactions, meetings, year, realistic)
            for account in make_accounts(seed, accounts, others, wanted)
        ]
        api = Api(companies, seed, sentences, transcript_delay, shapes, paging, clock, strict=strict)
        limits = RateLimits(token_rate, account_rate, provider_rate, ratelimit_headers, date_skew)
        super().__init__(api, limits, tokens, compress, date_skew, record_limit, clock)
        self._host, self._port = _loopback(host), port
        self._chunk_size = stream_piece
        self._reset_every = reset_every
        self._url: str | None = None
        self._listener: asyncio.Server | None = None
        self._connections: Connections | None = None
        self._changing = asyncio.Lock()  # of the two above

    def __repr__(self) -> str:
        return f"<Sandbox {self._url or 'not running'}, {len(self.account_ids)} accounts>"

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
        """Start listening. Does nothing if it already does."""
        async with self._changing:
            if self._listener is None:
                self._connections = connections = Connections(self._handle, self._count_connection)
                loop = asyncio.get_running_loop()
                self._listener = await loop.create_server(connections, self._host, self._port, backlog=1024)
                host, port = self._listener.sockets[0].getsockname()[:2]
                self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def aclose(self) -> None:
        """Stop listening and drop every connection at once, hanging ones too. May be called again."""
        async with self._changing:
            listener, connections = self._listener, self._connections
            self._listener = self._connections = self._url = None
        if listener is None or connections is None:
            return
        listener.close()
        for connection in list(connections.open.values()):
            connection.transport.abort()  # this cancels the task that serves it
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                # Takes a few turns of the loop. aiohttp has no event for "all connections are done".
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
        """Run a sandbox in its own thread and event loop, for code that is not async.

        Takes the arguments of `Sandbox`.
        """
        sandbox = cls(port=port, **options)
        running: Future[Callable[[], object]] = Future()  # resolves to a function that stops it

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

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return _KEPT_OPEN if await self._serve(request) else _CLOSED
        except ConnectionError:
            return _CLOSED

    async def _serve(self, request: web.BaseRequest) -> bool:
        """Respond to one request. Returns whether its connection can be used again."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        record = self.record(request.method, request.raw_path, request.headers, peer[1] if peer else 0)
        connection = self._connections.open.get(request.protocol) if self._connections else None
        if connection is not None:
            connection.requests += 1
            if self._reset_every and connection.requests % self._reset_every == 0:
                record.fill_in(fault="reset_every")
                reset(request)
                return False
        body = await read_body(request) if request.method == "POST" else b""
        response, fault = self.respond(record, body)
        writer = ResponseWriter(request, response, self._chunk_size)
        return await (writer.send_with_fault(fault) if fault else writer.send())

    def _count_connection(self) -> None:
        self.stats.connections += 1


async def run(
    port: int = 0, *, ready: Callable[[Sandbox], object] | None = None, **options: Unpack[Options]
) -> None:
    """Serve until cancelled. Calls `ready` once with the running sandbox, for example to print its URL."""
    async with Sandbox(port=port, **options) as sandbox:
        if ready is not None:
            ready(sandbox)
        await asyncio.get_running_loop().create_future()


def _check_accounts(accounts: int | Sequence[str], **more: int) -> None:
    """:raises ValueError: there are too many, fewer than none, or two with the same id."""
    active = accounts if isinstance(accounts, int) else len(accounts)
    if active + sum(more.values()) > MAX_ACCOUNTS:
        raise ValueError(f"a sandbox holds at most {MAX_ACCOUNTS:,} accounts")
    if not isinstance(accounts, int) and len(set(accounts)) < active:
        raise ValueError("an id of accounts is there twice")
    _check_least(0, accounts=active, **more)


def _check_least(least: int, **numbers: int | None) -> None:
    """Refuse numbers that are too small; None is none.

    :raises ValueError: names the first of them.
    """
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ValueError(f"{name} must be {least} or more, not {number}")


def _loopback(host: str) -> str:
    """Return the address to listen on.

    :raises ValueError: other machines could reach it.
    """
    try:
        if host == "localhost":
            return "127.0.0.1"
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise ValueError(f"the sandbox listens on a loopback address only, not {host!r}")


def _accounts_of(providers: int | Mapping[str, int]) -> dict[str, int]:
    """Return how many further accounts of each provider are wanted."""
    if isinstance(providers, int):
        return {name: providers for name in PROVIDERS if name != "gong"}
    unknown = sorted(set(providers) - set(PROVIDERS))
    if unknown:
        raise ValueError(f"no such provider: {', '.join(unknown)} (there are {', '.join(PROVIDERS)})")
    return dict(providers)


_KEPT_OPEN: Final = SentResponse(keep_alive=True)
_CLOSED: Final = SentResponse(keep_alive=False)

"""One attempt of one request: the only importer of the aiohttp client.

Owned here: the pooled session (made inside the running loop), the deadlines of an attempt, bodies opened and
counted, and the renaming of every network failure into an error of ours. Not here: whether to try again,
whose turn it is, and what a body means.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from ._bodies import ACCEPT_ENCODING, BodyDecoder
from ._retry import Timeouts
from .errors import (
    ConfigurationError,
    ConnectError,
    DeadlineError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)

# Shorter than the five seconds after which a Node server drops an idle connection, so that we are the first
# to let go and seldom write into a connection that is already closed.
KEEP_ALIVE = 4.0
# How long closing the pool may take, in seconds.
CLOSE_DEADLINE = 5.0
# Bytes opened between two breaths for the loop, so that a compression bomb cannot hold it.
BREATH = 2**20


class Secret(str):
    """Text that reprs, tracebacks with locals and dumps of containers show as ``***``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Reply(Struct, frozen=True, kw_only=True):
    """A whole answer. Header names are in lower case; ``sends`` counts aiohttp's own resend too."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    sends: int = 1


class Exchange:
    """An answer whose headers are here and whose body is still on its way. Close it, or read it to its end."""

    def __init__(
        self, response: aiohttp.ClientResponse, *, sends: int, release: Callable[[], None], timeouts: Timeouts
    ) -> None:
        self._response = response
        self._release = release
        self._timeouts = timeouts
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = _lower(response.headers)
        self.sends = sends
        self.bytes_read = 0

    async def pieces(self, limit: int | None) -> AsyncIterator[bytes]:
        """Yield the body opened, in pieces, as it arrives; only waiting for bytes is timed (``Timeouts.read``).

        :raises TruncatedBodyError: the body ends early.
        :raises BodyTooLargeError: more than ``limit`` bytes after decompression.
        """
        decoder = BodyDecoder(self.headers.get("content-encoding", ""), limit=limit)
        content = self._response.content
        breath = BREATH
        try:
            while True:
                data = await self._receive(content)
                if not data:
                    break
                for piece in decoder.feed(data):
                    self.bytes_read = decoder.total
                    yield piece
                    if decoder.total > breath:
                        breath = decoder.total + BREATH
                        await asyncio.sleep(0)
            decoder.close()
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, DeadlineError):
                raise
            raise renamed(error, self._timeouts, bytes_read=decoder.total) from error
        self._finish()

    async def _receive(self, content: aiohttp.StreamReader) -> bytes:
        gap = self._timeouts.read
        try:
            async with asyncio.timeout(gap):
                return await content.readany()
        except TimeoutError as error:
            raise DeadlineError(f"no byte came for {gap} s", deadline="read", seconds=gap) from error

    async def read(self, limit: int | None) -> bytes:
        """Return the whole body, opened; the caller holds the deadline.

        :raises TruncatedBodyError: the body ends early.
        :raises BodyTooLargeError: more than ``limit`` bytes after decompression.
        """
        decoder = BodyDecoder(self.headers.get("content-encoding", ""), limit=limit)
        content = self._response.content
        breath = BREATH
        pieces: list[bytes] = []
        while data := await content.readany():
            for piece in decoder.feed(data):
                pieces.append(piece)
                if decoder.total > breath:
                    breath = decoder.total + BREATH
                    await asyncio.sleep(0)
        decoder.close()
        self.bytes_read = decoder.total
        self._finish()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _finish(self) -> None:
        """Give the connection back to the pool."""
        self._response.release()
        self._release()

    def close(self) -> None:
        """Drop the connection unless the body was read to its end; may be called twice."""
        self._response.close()
        self._release()


class Transport:
    """A pool of connections to one base URL, shared by a client and its ``with_options`` copies."""

    def __init__(
        self,
        base_url: str,
        *,
        max_connections: int,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.base_url = checked_base_url(base_url)
        self._max_connections = max_connections
        self._proxy = checked_proxy(proxy) if proxy else environment_proxy(self.base_url)
        self._ssl: ssl.SSLContext | bool = ssl_context or True
        self._session = session
        self._owns_session = session is None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self.closed = False

    @property
    def opened(self) -> bool:
        """Whether a session of our own is open, which then has to be closed."""
        return self._owns_session and self._session is not None and not self._session.closed

    @property
    def loop_is_gone(self) -> bool:
        """Whether the loop this pool lived in has been closed, so that nothing can be awaited any more."""
        return self._loop is not None and self._loop.is_closed()

    def bind(self) -> asyncio.AbstractEventLoop:
        """Tie the pool to the running loop, or check that it is still the one.

        :raises UsageError: no asyncio loop runs here, another one does, or the client is closed.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "this client runs on asyncio: call it from a coroutine of an asyncio loop"
            ) from None
        if self.closed:
            raise UsageError("this client is closed; make a new one")
        if self._loop is None:
            self._loop = loop
            self._slots = asyncio.Semaphore(self._max_connections)
        elif self._loop is not loop:
            raise UsageError(
                "this client was first used in another event loop; make one client per loop "
                "(each asyncio.run starts a loop of its own)"
            )
        return loop

    async def slot(self) -> Callable[[], None]:
        """Wait for one of ``max_connections`` places; call what is returned to give it back (twice is fine)."""
        self.bind()
        slots = self._slots
        assert slots is not None
        await slots.acquire()
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                slots.release()

        return release

    async def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        timeouts: Timeouts,
        limit: int | None = None,
    ) -> Reply:
        """Send one request and read the whole answer, within ``timeouts.attempt`` seconds.

        :raises TransportError: connecting, waiting or reading failed; nothing of a half body is returned.
        :raises BodyTooLargeError: the body passes ``limit`` bytes.
        """
        release = await self.slot()
        sends = _Sends()
        exchange: Exchange | None = None
        try:
            async with asyncio.timeout(timeouts.attempt):
                exchange = await self._open(
                    method, target, headers, body, timeouts, sends, release, timeouts.read
                )
                content = await exchange.read(limit)
            return Reply(
                status=exchange.status,
                reason=exchange.reason,
                headers=exchange.headers,
                body=content,
                sends=sends.count,
            )
        except TrutoError:
            raise
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            read = exchange.bytes_read if exchange else 0
            raise renamed(error, timeouts, bytes_read=read) from error
        finally:
            if exchange is not None:
                exchange.close()
            release()

    async def open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        timeouts: Timeouts,
    ) -> Exchange:
        """Send one request and return when the headers are here; the caller closes what it gets.

        :raises TransportError: as ``send``; after the headers only waits for bytes are timed.
        """
        release = await self.slot()
        sends = _Sends()
        try:
            async with asyncio.timeout(timeouts.attempt):
                return await self._open(method, target, headers, None, timeouts, sends, release, None)
        except TrutoError:
            release()
            raise
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            release()
            raise renamed(error, timeouts) from error
        except BaseException:
            release()
            raise

    async def _open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeouts: Timeouts,
        sends: _Sends,
        release: Callable[[], None],
        socket_gap: float | None,
    ) -> Exchange:
        session = self._session_here()
        response = await session.request(
            method,
            URL(self.base_url + target, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
            auto_decompress=False,
            proxy=self._proxy,
            ssl=self._ssl,
            # Without the threshold aiohttp rounds timeouts up to whole seconds.
            timeout=aiohttp.ClientTimeout(
                sock_connect=timeouts.connect, sock_read=socket_gap, ceil_threshold=float("inf")
            ),
            middlewares=(*session._middlewares, sends),  # pyright: ignore[reportPrivateUsage]
        )
        return Exchange(response, sends=sends.count, release=release, timeouts=timeouts)

    def _session_here(self) -> aiohttp.ClientSession:
        self.bind()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        elif self._session.closed:
            raise UsageError("the aiohttp session this client was given is closed")
        return self._session

    async def aclose(self) -> None:
        """Close the pool, if it is ours. May be called twice, and from any task of the loop."""
        self.closed = True
        session, self._session = self._session, None
        if session is None or session.closed or not self._owns_session:
            return
        # Shielded: a cancelled caller must not leave sockets open; bounded: a stuck TLS goodbye must not hang it.
        closing = asyncio.ensure_future(asyncio.wait_for(session.close(), CLOSE_DEADLINE))
        try:
            await asyncio.shield(closing)
        except TimeoutError:
            return
        except asyncio.CancelledError:
            await asyncio.wait({closing})
            raise

    def abandon(self) -> None:
        """Let go of the sockets without a loop to wait in: for a client that was forgotten."""
        self.closed = True
        session, self._session = self._session, None
        if session is None or not self._owns_session or session.closed:
            return
        connector = session.connector
        session.detach()  # or aiohttp reports the same session a second time
        if connector is not None and not self.loop_is_gone:
            connector.close()  # starts closing at once; what it returns is for those who can wait


class _Sends:
    """Count how often aiohttp puts one request on the wire: it resends a GET once on a dead pooled connection."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        self.count += 1
        return await handler(request)


def base_headers(user_agent: str) -> dict[str, str]:
    """Return the headers every request carries beside its authorization."""
    return {"Accept": "application/json", "Accept-Encoding": ACCEPT_ENCODING, "User-Agent": user_agent}


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    lower: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        lower[key] = f"{lower[key]}, {value}" if key in lower else value
    return lower


def renamed(error: BaseException, timeouts: Timeouts, *, bytes_read: int = 0) -> TransportError:
    """Return the error of ours for a failure of the network; the caller raises it from ``error``."""
    if isinstance(error, aiohttp.ClientResponseError):
        _scrub(error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return DeadlineError(
            f"no connection within {timeouts.connect} s", deadline="connect", seconds=timeouts.connect
        )
    if isinstance(error, aiohttp.SocketTimeoutError):
        return DeadlineError(f"no byte came for {timeouts.read} s", deadline="read", seconds=timeouts.read)
    if isinstance(error, TimeoutError):
        return DeadlineError(
            f"no whole answer within {timeouts.attempt} s", deadline="attempt", seconds=timeouts.attempt
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        hint = "; put its user and password into the proxy's URL" if error.status == 407 else ""
        return ConnectError(
            f"the proxy refused the tunnel with {error.status} {error.message}{hint}", is_permanent=True
        )
    if isinstance(error, aiohttp.ClientPayloadError):
        return TruncatedBodyError(f"the body ended early: {_plain(error)}", bytes_read=bytes_read)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectError(
            f"the server's certificate is not trusted: {_plain(error)}; see ssl_context", is_permanent=True
        )
    if isinstance(error, aiohttp.ClientResponseError):
        return ConnectError(f"the answer is not HTTP: {error.message[:200]}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ConnectError("the server closed the connection before it answered")
    return ConnectError(f"the connection failed: {_plain(error)}")


def _scrub(error: aiohttp.ClientResponseError) -> None:
    """Take the request out of an aiohttp error that is kept as a cause: its repr shows the token."""
    info = error.request_info
    error.request_info = aiohttp.RequestInfo(
        info.url, info.method, CIMultiDictProxy(CIMultiDict[str]()), info.real_url
    )
    error.args = (error.request_info, error.history)


def _plain(error: BaseException) -> str:
    text = str(error).split("\n", 1)[0][:200]
    return text or type(error).__name__


def checked_base_url(base_url: str) -> str:
    """Return ``base_url`` without its trailing slash.

    :raises ConfigurationError: no http or https URL of a host, or one with a query, fragment or password.
    """
    parts = urlsplit(base_url)
    try:
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"base_url {base_url!r} is no http or https URL, such as https://api.truto.one"
        )
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError("base_url takes scheme, host, port and path only")
    return base_url.rstrip("/")


def checked_proxy(proxy: str) -> str:
    """Return ``proxy`` as aiohttp takes it.

    :raises ConfigurationError: not an http or https proxy; its URL is not quoted, since it may hold a password.
    """
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    parts = urlsplit(proxy)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"a proxy is an http or https URL, this one is {parts.scheme!r}")
    return proxy


def environment_proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for ``base_url`` (HTTPS_PROXY, NO_PROXY, …), if any.

    Read through urllib: aiohttp's ``trust_env`` would also read ``.netrc``, and an entry there breaks every
    request that carries a bearer token.
    """
    parts = urlsplit(base_url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return checked_proxy(proxy)

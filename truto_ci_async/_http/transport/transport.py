"""One attempt of one request: the only importer of the aiohttp client.

Owned here: the pooled session (made inside the running loop), the deadlines of an attempt, bodies opened and
counted, and the renaming of every network failure into an error of ours. Not here: whether to try again,
whose turn it is, and what a body means.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from yarl import URL

from truto_ci_async._http.credentials import Secret
from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async.errors import BodyTooLargeError, ConfigurationError, DecodeError, TrutoError, UsageError

from .addresses import checked_base_url, checked_proxy, environment_proxy
from .connection_pool import ConnectionPool, SendCounter
from .content_encoding import ACCEPT_ENCODING
from .deadlines import Deadlines
from .network_errors import FAILURES, map_network_error, proxy_refused, redact_message
from .response import BufferedResponse, StreamedResponse

# How long closing the pool may take, in seconds.
CLOSE_DEADLINE = 5.0


# Bytes of one header, and of the status line. aiohttp's own 8 kB are less than what proxies let through.
MAX_HEADER_BYTES = 64 * 1024


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
        headers: Mapping[str, str] = {},
    ) -> None:
        self.base_url = checked_base_url(base_url)
        base = URL(self.base_url, encoded=True)
        self._base = base.scheme, base.host_subcomponent or "", base.explicit_port, base.raw_path.rstrip("/")
        self._told_timeouts: tuple[Timeouts, aiohttp.ClientTimeout] | None = None
        self.max_connections = max_connections
        found = checked_proxy(proxy) if proxy else environment_proxy(self.base_url)
        self._proxy = Secret(found) if found else None  # its URL may hold a password
        self._ssl: ssl.SSLContext | bool = ssl_context or True
        self._session = session
        self._owns_session = session is None
        #: Sent with every request, without being given with it: by a session of ours only.
        self.default_headers: Mapping[str, str] = headers if session is None else {}
        # A session that was handed in has to be told with each request what one of ours knows by itself.
        self._options: dict[str, Any] = {"allow_redirects": False}
        if session is not None:
            self._options |= {
                "proxy": self._proxy,
                "ssl": self._ssl,
                "auto_decompress": False,
                "raise_for_status": False,
                "max_line_size": MAX_HEADER_BYTES,
                "max_field_size": MAX_HEADER_BYTES,
            }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self._pool: ConnectionPool | None = None
        self._open_exchanges = set[StreamedResponse]()
        self.deadlines = Deadlines()
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
            self._slots = asyncio.Semaphore(self.max_connections)
        elif self._loop is not loop:
            raise UsageError(
                "this client was first used in another event loop; make one client per loop "
                "(each asyncio.run starts a loop of its own)"
            )
        return loop

    async def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        timeouts: Timeouts,
        limit: int | None = None,
        may_resend: Callable[[], bool] | None = None,
    ) -> BufferedResponse:
        """Send one request and read the whole answer, within ``timeouts.attempt`` seconds.

        ``may_resend`` is asked before a request goes out again because the used connection it went out on was dead;
        None always allows that.

        :raises TransportError: connecting, waiting or reading failed; nothing of a half body is returned.
        :raises BodyTooLargeError: the body passes ``limit`` bytes.
        """
        slots = self._slots_here()
        await slots.acquire()
        sends = SendCounter(may_resend)
        exchange: StreamedResponse | None = None
        try:
            with self.deadlines.within(timeouts.attempt):
                exchange = await self._open(method, target, headers, body, timeouts, sends)
                try:
                    content = await exchange.read(limit)
                except (DecodeError, BodyTooLargeError):
                    if exchange.status < 300:
                        raise
                    content = b""  # the status says more than a body that cannot be read
            return BufferedResponse(
                status=exchange.status,
                reason=exchange.reason,
                headers=exchange.headers,
                body=content,
                sends=sends.count,
            )
        except TrutoError:
            raise
        except FAILURES as error:
            raise self._failed(error, timeouts) from error
        finally:
            if exchange is not None:
                exchange.close()
            slots.release()

    async def open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        timeouts: Timeouts,
        may_resend: Callable[[], bool] | None = None,
    ) -> StreamedResponse:
        """Send one request and return when the headers are here; the caller closes what it gets.

        :raises TransportError: as ``send``; after the headers only waits for bytes are timed.
        """
        slots = self._slots_here()
        await slots.acquire()
        try:
            with self.deadlines.within(timeouts.attempt):
                exchange = await self._open(method, target, headers, None, timeouts, SendCounter(may_resend))
        except BaseException as error:
            slots.release()
            if isinstance(error, FAILURES) and not isinstance(error, TrutoError):
                raise self._failed(error, timeouts) from error
            raise
        exchange.on_end = slots.release
        exchange.time_waits_only()
        return exchange

    async def _open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeouts: Timeouts,
        sends: SendCounter,
    ) -> StreamedResponse:
        session = self._session_here()
        sends.pool = self._pool
        options: dict[str, Any] = self._options if body is None else {**self._options, "data": body}
        request = session.request(
            method,
            self._url(target),
            headers=headers,
            timeout=self._client_timeout(timeouts),
            middlewares=(*session._middlewares, sends),  # pyright: ignore[reportPrivateUsage]
            **options,
        )
        try:
            response = await request
        finally:
            sends.forget()
        if response.status == 407:
            response.close()
            raise proxy_refused(response.status, response.reason or "")

        return StreamedResponse(
            response,
            sends=sends.count,
            timeouts=timeouts,
            deadlines=self.deadlines,
            among=self._open_exchanges,
        )

    def _url(self, target: str) -> URL:
        # Made of its parts: parsing the whole anew takes 9 us, of the 80 that a small request has of ours.
        scheme, host, port, root = self._base
        path, _, query = target.partition("?")
        return URL.build(
            scheme=scheme, host=host, port=port, path=root + path, query_string=query, encoded=True
        )

    def _client_timeout(self, timeouts: Timeouts) -> aiohttp.ClientTimeout:
        if self._told_timeouts is None or self._told_timeouts[0] is not timeouts:
            # Without the threshold aiohttp rounds timeouts up to whole seconds. Its ``connect`` would also count the
            # wait for a place in a pool that is not ours.
            told = aiohttp.ClientTimeout(
                sock_connect=timeouts.connect,
                sock_read=timeouts.read,
                ceil_threshold=float("inf"),
            )
            self._told_timeouts = timeouts, told
        return self._told_timeouts[1]

    def _failed(self, error: Exception, timeouts: Timeouts) -> TrutoError:
        if self.closed:
            return UsageError("the client was closed while this call was under way")
        if isinstance(error, ValueError) and "AUTH" in str(error):
            redact_message(error)
            return ConfigurationError(
                "the aiohttp session handed in has a login of its own (auth=, or trust_env=True and a .netrc), "
                "which cannot go out beside the API token"
            )
        return map_network_error(error, timeouts)

    def _slots_here(self) -> asyncio.Semaphore:
        self.bind()
        assert self._slots is not None
        return self._slots

    def _session_here(self) -> aiohttp.ClientSession:
        if self.closed:
            self.bind()  # while this waited for a place; says so
        session = self._session
        if session is None:
            self._pool = ConnectionPool(self._ssl, self.deadlines)
            session = self._session = aiohttp.ClientSession(
                connector=self._pool,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self.default_headers,
                proxy=self._proxy,
                auto_decompress=False,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
            )
        elif session.closed:
            raise UsageError("the aiohttp session this client was given is closed")
        elif session._loop is not self._loop:  # pyright: ignore[reportPrivateUsage]
            raise UsageError("the aiohttp session this client was given belongs to another event loop")
        return session

    async def aclose(self) -> None:
        """Close the pool, if it is ours. May be called twice, and from any task of the loop."""
        self.closed = True
        self.deadlines.close()
        for exchange in list(self._open_exchanges):
            exchange.is_client_closed = True
            exchange.close()
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
        pool, loop = self._pool, self._loop
        if session is None or pool is None or loop is None or session.closed:
            return
        session.detach()  # or aiohttp reports the same session a second time
        try:
            is_here = loop.is_closed() or asyncio.get_running_loop() is loop
        except RuntimeError:
            is_here = False
        if is_here:
            pool.let_go()
            return
        # Dropped by another thread's garbage collection, or between two runs of the loop.
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(pool.let_go)


def base_headers(user_agent: str) -> dict[str, str]:
    """Return the headers every request carries beside its authorization."""
    return {"Accept": "application/json", "Accept-Encoding": ACCEPT_ENCODING, "User-Agent": user_agent}

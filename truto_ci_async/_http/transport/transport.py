"""Sends one attempt of one request; the rest of the package knows aiohttp only through this.

It owns the connections (made inside the running loop) and the deadlines of an attempt, and turns every network failure
into an error of this package. It does not decide whether to try again, or whose turn it is, or what a body means.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress

import aiohttp
from yarl import URL

from truto_ci_async._http.credentials import Secret, token_of
from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async._http.tasks import call_in_loop
from truto_ci_async.errors import BodyTooLargeError, ConfigurationError, DecodeError, TrutoError, UsageError

from .addresses import checked_base_url, checked_proxy, environment_proxy
from .aiohttp_internals import exchange, is_complete, new_request, stop_read_timer
from .connection_pool import ConnectionPool
from .content_encoding import ACCEPT_ENCODING
from .deadlines import Deadline, Deadlines
from .network_errors import FAILURES, clean, map_network_error, missed_step, proxy_refused, redact_message
from .response import BufferedResponse, StreamedResponse

# How long closing the pool may take, in seconds.
CLOSE_DEADLINE = 5.0
# Bytes of one header, and of the status line. aiohttp's own limit of 8 kB is less than what proxies let through.
MAX_HEADER_BYTES = 64 * 1024
# The longest body of an error response that is read. It is decoded in one go; the status says enough without it.
MAX_ERROR_BYTES = 2**20


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
        base = URL(self.base_url, encoded=True)
        self._base = base.scheme, base.host_subcomponent or "", base.explicit_port, base.raw_path.rstrip("/")
        self.max_connections = max_connections
        found = checked_proxy(proxy) if proxy else environment_proxy(self.base_url)
        self._proxy = Secret(found) if found else None  # its URL may hold a password
        self._ssl: ssl.SSLContext | bool = ssl_context or True
        self._session: aiohttp.ClientSession | None = None
        self._callers_session = session
        self._has_internals = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: asyncio.Semaphore | None = None
        self._pool: ConnectionPool | None = None
        self._open_responses = set[StreamedResponse]()
        self.deadlines = Deadlines()
        self.closed = False

    @property
    def opened(self) -> bool:
        """Whether there are connections of our own, which have to be closed."""
        return self._pool is not None and not self._pool.closed

    @property
    def loop_is_gone(self) -> bool:
        """Whether the loop this pool lived in has been closed, so that nothing can be awaited any more."""
        return self._loop is not None and self._loop.is_closed()

    def bind(self) -> asyncio.AbstractEventLoop:
        """Bind the pool to the running loop, or check that it is still the same one.

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

    # --- requests ---------------------------------------------------------------------------------------

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
        """Send one request and read the whole response, within ``timeouts.attempt`` seconds.

        ``may_resend`` is asked before a request is sent again because the used connection it went out on was dead;
        None always allows that.

        :raises TransportError: connecting, waiting or reading failed; nothing of a partial body is returned.
        """
        slots = self._slots or self._bound_slots()
        await slots.acquire()
        response: StreamedResponse | None = None
        deadline = self.deadlines.within(timeouts.attempt)
        try:
            with deadline:
                response = await self._open(method, target, headers, body, timeouts, may_resend, deadline)
                is_error = response.status >= 300
                content = await (_read_error(response, limit) if is_error else response.read(limit))
            return BufferedResponse(
                status=response.status,
                reason=response.reason,
                headers=response.headers,
                body=content,
                sends=response.sends,
            )
        except TrutoError:
            raise
        except FAILURES as error:
            raise self._failed(error, timeouts, headers, deadline) from error
        finally:
            if response is not None:
                response.close()
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
        """Send one request and return once the headers have arrived; the caller closes the response.

        :raises TransportError: as ``send``; after the headers only waiting for data is timed.
        """
        slots = self._slots or self._bound_slots()
        await slots.acquire()
        deadline = self.deadlines.within(timeouts.attempt)
        try:
            with deadline:
                response = await self._open(method, target, headers, None, timeouts, may_resend, deadline)
        except BaseException as error:
            slots.release()
            if isinstance(error, FAILURES) and not isinstance(error, TrutoError):
                raise self._failed(error, timeouts, headers, deadline) from error
            raise
        response.on_end = slots.release
        return response

    async def _open(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeouts: Timeouts,
        may_resend: Callable[[], bool] | None,
        deadline: Deadline,
    ) -> StreamedResponse:
        if self.closed:
            self.bind()  # raises: the client was closed while this call waited for a slot
        if self._pool is None and self._session is None:
            self._open_connections()
        if self._session is not None:
            response = await self._request_in_session(self._session, method, target, headers, body, timeouts)
            sends = 1  # at least: aiohttp does not tell
        else:
            assert self._pool is not None
            response, sends = await self._request(
                self._pool, method, target, headers, body, timeouts, may_resend, deadline
            )
        deadline.step("", None)
        token = token_of(headers)
        if response.status == 407:
            refused = proxy_refused(response.status, clean(response.reason or "", token))
            response.close()
            del response  # the traceback of the error shows this frame, and its repr has the headers
            raise refused
        return StreamedResponse(
            response,
            sends=sends,
            timeouts=timeouts,
            deadlines=self.deadlines,
            open_responses=self._open_responses,
            token=token,
        )

    async def _request(
        self,
        pool: ConnectionPool,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeouts: Timeouts,
        may_resend: Callable[[], bool] | None,
        deadline: Deadline,
    ) -> tuple[aiohttp.ClientResponse, int]:
        """Return the response once its headers have arrived, and how often the request was sent.

        A GET whose connection breaks is sent again if that connection was used before: the service had closed it while
        it was idle. If a new connection breaks, the service is in trouble, and the retry policy decides.
        """
        assert self._loop is not None
        sends = 0
        while True:
            request = new_request(self._loop, method, self._url(target), headers, body, self._proxy)
            # Name lookup, all addresses and a proxy's tunnel together.
            deadline.step("connect", timeouts.connect)
            connection, was_used = await pool.take(request, is_resend=sends > 0)
            deadline.step("read", timeouts.read)
            sends += 1
            try:
                return await exchange(request, connection, MAX_HEADER_BYTES), sends
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                can_resend = was_used and method == "GET"
                if not can_resend or not (may_resend is None or may_resend()):
                    raise

    async def _request_in_session(
        self,
        session: aiohttp.ClientSession,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeouts: Timeouts,
    ) -> aiohttp.ClientResponse:
        """Send a request with a session of aiohttp, the caller's or our own, in ways that aiohttp documents.

        Resends are not counted, and aiohttp's timers are used.
        """
        if session.closed:
            raise UsageError("the aiohttp session passed in is closed")
        response = await session.request(
            method,
            self._url(target),
            headers=headers,
            data=body,
            allow_redirects=False,
            proxy=self._proxy,
            ssl=self._ssl,
            auto_decompress=False,
            raise_for_status=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            timeout=_client_timeout(timeouts, reads=self._has_internals),
        )
        if self._has_internals:
            stop_read_timer(response)
        return response

    def _url(self, target: str) -> URL:
        # Built from its parts, since parsing it takes 9 us, of the 80 us that a small request takes of our own code.
        scheme, host, port, root = self._base
        path, _, query = target.partition("?")
        return URL.build(
            scheme=scheme, host=host, port=port, path=root + path, query_string=query, encoded=True
        )

    def _failed(
        self, error: Exception, timeouts: Timeouts, headers: Mapping[str, str], deadline: Deadline
    ) -> TrutoError:
        if self.closed:
            return UsageError("the client was closed during this call")
        if deadline.missed:
            redact_message(error)
            return missed_step(deadline.missed, timeouts)
        if isinstance(error, ValueError) and "AUTH" in str(error):
            redact_message(error)
            return ConfigurationError(
                "the aiohttp session passed in has credentials of its own (auth=, or trust_env=True and a .netrc), "
                "which cannot be sent together with the API token"
            )
        return map_network_error(error, timeouts, token_of(headers))

    # --- connections ------------------------------------------------------------------------------------

    def _bound_slots(self) -> asyncio.Semaphore:
        self.bind()
        assert self._slots is not None
        return self._slots

    def _open_connections(self) -> None:
        self._has_internals = is_complete()
        session = self._callers_session
        if session is None:
            self._pool = ConnectionPool(self._ssl, can_reuse=self._has_internals)
            if not self._has_internals:
                self._session = aiohttp.ClientSession(
                    connector=self._pool, cookie_jar=aiohttp.DummyCookieJar()
                )
        elif _loop_of(session) is not self._loop:
            raise UsageError("the aiohttp session passed in belongs to another event loop")
        else:
            self._session = session

    async def aclose(self) -> None:
        """Close the pool, if it is ours. May be called twice, and from any task of the loop."""
        self.closed = True
        self.deadlines.close()
        for response in list(self._open_responses):
            response.is_client_closed = True
            response.close()
        pool = self._pool
        if pool is None or pool.closed:
            return
        closing = asyncio.ensure_future(pool.close())
        try:
            await asyncio.wait({closing}, timeout=CLOSE_DEADLINE)  # a stuck TLS shutdown must not hang it
        except asyncio.CancelledError:
            # A cancelled caller must not leave sockets open.
            await asyncio.wait({closing}, timeout=CLOSE_DEADLINE)
            raise
        finally:
            closing.cancel()

    def abandon(self) -> None:
        """Close the sockets without waiting, for a client that nobody closed. Any thread may call it."""
        self.closed = True
        pool, loop = self._pool, self._loop
        if pool is None or loop is None or pool.closed:
            return
        if self._session is not None:
            self._session.detach()  # or aiohttp would warn about this session as well
        if loop.is_closed():
            with suppress(StopIteration):
                pool.abort().send(None)
        else:
            call_in_loop(loop, lambda: loop.create_task(pool.abort()))


async def _read_error(response: StreamedResponse, limit: int | None) -> bytes:
    try:
        return await response.read(MAX_ERROR_BYTES if limit is None else min(limit, MAX_ERROR_BYTES))
    except (DecodeError, BodyTooLargeError):
        return b""  # the status says more than a body that cannot be read


def _client_timeout(timeouts: Timeouts, *, reads: bool) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        sock_connect=timeouts.connect,  # ``connect`` would include the wait for a free connection
        sock_read=timeouts.read if reads else None,
        ceil_threshold=math.inf,  # or timeouts are rounded up to whole seconds
    )


def _loop_of(session: aiohttp.ClientSession) -> asyncio.AbstractEventLoop:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return session.loop


def base_headers(user_agent: str) -> dict[str, str]:
    """Return the headers of every request, apart from its authorization."""
    return {"Accept": "application/json", "Accept-Encoding": ACCEPT_ENCODING, "User-Agent": user_agent}

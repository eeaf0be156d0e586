"""Maps network failures to this package's errors."""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async.errors import ConnectError, DeadlineError, TransportError, TruncatedBodyError

# What comes out of aiohttp when the network fails. The last ones should not, and do: its parser and its streams
# check themselves with them.
FAILURES = (
    aiohttp.ClientError,
    OSError,  # TimeoutError too
    HttpProcessingError,
    aiohttp.EofStream,
    RuntimeError,
    ValueError,
    AssertionError,
)


def map_network_error(error: BaseException, timeouts: Timeouts, *, bytes_read: int = 0) -> TransportError:
    """Return the error of ours for a failure of the network; the caller raises it from ``error``."""
    redact_message(error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _too_late("no connection within", "connect", timeouts.connect)
    if isinstance(error, aiohttp.SocketTimeoutError):
        return _too_late("no byte came for", "read", timeouts.read)
    if (
        isinstance(error, TimeoutError) and error.errno is None
    ):  # with a number it is the system's, of a connection
        return _too_late("no whole answer within", "attempt", timeouts.attempt)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(error.status, error.message)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return ConnectError(f"the proxy cannot be reached: {plain_text(error)}")
    if isinstance(error, aiohttp.ClientPayloadError):
        return TruncatedBodyError(
            f"the body ended early: {plain_text(error.__cause__ or error)}", bytes_read=bytes_read
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectError(
            f"the server's certificate is not trusted: {plain_text(error)}; see ssl_context",
            is_permanent=True,
        )
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return ConnectError(f"the answer is not HTTP: {plain_text(error)}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ConnectError("the server closed the connection before it answered")
    return ConnectError(f"the connection failed: {plain_text(error)}")


def _too_late(what: str, deadline: str, seconds: float | None) -> DeadlineError:
    return DeadlineError(f"{what} {seconds} s", deadline=deadline, seconds=seconds)


def proxy_refused(status: int, reason: str) -> ConnectError:
    hint = "; put its user and password into the proxy's URL" if status == 407 else ""
    return ConnectError(f"the proxy refused with {status} {reason}{hint}", is_permanent=status < 500)


def redact_message(error: BaseException) -> None:
    """Take what is secret out of errors of aiohttp that are kept as a cause.

    They hold the request, a proxy's password, and frames whose variables hold the bytes that were sent.
    """
    seen = set[int]()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] in {"aiohttp", "asyncio"}:
                with suppress(RuntimeError):  # it still runs
                    frame.clear()
        if isinstance(each, aiohttp.ClientResponseError):
            info = each.request_info
            url, real_url = info.url.with_user(None), info.real_url.with_user(None)
            no_headers = CIMultiDictProxy(CIMultiDict[str]())
            each.request_info = aiohttp.RequestInfo(url, info.method, no_headers, real_url)
            each.args = (each.request_info, each.history)
        elif isinstance(each, aiohttp.ClientConnectorError):
            key: Any = each._conn_key._replace(proxy=None, proxy_auth=None)  # pyright: ignore[reportPrivateUsage]
            each._conn_key = key  # pyright: ignore[reportPrivateUsage]
            each.args = (key, *each.args[1:])


def plain_text(error: BaseException) -> str:
    """Say in one line what an error says; the parser's draw with spaces where it stood."""
    text = (
        error.message if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)) else str(error)
    )
    text = " ".join(text.rstrip("^ \n").split())[:200]
    return text or type(error).__name__

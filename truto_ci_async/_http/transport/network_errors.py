"""Maps network failures to errors of this package, and redacts those that are kept as their cause."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import suppress

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from truto_ci_async._http.credentials import Secret, mask
from truto_ci_async._http.policy.retry import Timeouts
from truto_ci_async._text import encodable
from truto_ci_async.errors import ConnectError, DeadlineError, TransportError, TruncatedBodyError

# What aiohttp raises when the network fails. The last three are internal checks of its parser and streams, but do
# escape.
FAILURES = (
    aiohttp.ClientError,
    OSError,  # TimeoutError too
    HttpProcessingError,
    aiohttp.EofStream,
    RuntimeError,
    ValueError,
    AssertionError,
)


def clean(text: str, token: Secret) -> str:
    """Return text of a response's head with the token masked and lone surrogates replaced."""
    return encodable(mask(text, token))


def map_network_error(
    error: BaseException, timeouts: Timeouts, token: Secret = Secret(), *, bytes_read: int = 0
) -> TransportError:
    """Return our error for a network failure; the caller raises it from ``error``."""
    redact_message(error, token)
    late = _missed_deadline(error, timeouts)
    if late is not None:
        return late
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(error.status, encodable(error.message))
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return ConnectError(f"the proxy cannot be reached: {one_line(error)}")
    if isinstance(error, aiohttp.ClientPayloadError):
        text = one_line(error.__cause__ or error)
        return TruncatedBodyError(f"the body ended early: {text}", bytes_read=bytes_read)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        text = one_line(error)
        return ConnectError(
            f"the server's certificate is not trusted: {text}; see ssl_context", is_permanent=True
        )
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return ConnectError(f"the response is not valid HTTP: {one_line(error)}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ConnectError("the server closed the connection before it responded")
    return ConnectError(f"the connection failed: {one_line(error)}")


def _missed_deadline(error: BaseException, timeouts: Timeouts) -> DeadlineError | None:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        what, deadline, seconds = "no connection within", "connect", timeouts.connect
    elif isinstance(error, aiohttp.SocketTimeoutError):
        what, deadline, seconds = "no data received for", "read", timeouts.read
    elif isinstance(error, TimeoutError) and error.errno is None:  # one with a number is the system's
        what, deadline, seconds = "no complete response within", "attempt", timeouts.attempt
    else:
        return None
    return DeadlineError(f"{what} {seconds} s", deadline=deadline, seconds=seconds)


def missed_step(step: str, timeouts: Timeouts) -> DeadlineError:
    """Return the error for a step of an attempt, ``connect`` or ``read``, that took too long."""
    if step == "connect":
        seconds = timeouts.connect
        return DeadlineError(f"no connection within {seconds} s", deadline="connect", seconds=seconds)
    seconds = timeouts.read
    return DeadlineError(f"no response headers within {seconds} s", deadline="read", seconds=seconds)


def proxy_refused(status: int, reason: str) -> ConnectError:
    hint = "; put the user and password into the proxy's URL" if status == 407 else ""
    return ConnectError(f"the proxy refused with {status} {reason}{hint}", is_permanent=status < 500)


def redact_message(error: BaseException, token: Secret = Secret()) -> None:
    """Remove secrets from errors of aiohttp that are kept as a cause.

    They hold the request, a proxy's password, frames whose variables hold the bytes that were sent, and what the
    parser could not read, which may repeat the token.
    """
    for each in error_chain(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] in {"aiohttp", "asyncio"}:
                with suppress(RuntimeError):  # still running
                    frame.clear()
        _redact_text(each, token)
        if isinstance(each, aiohttp.ClientResponseError):
            _redact_request(each)
        elif isinstance(each, aiohttp.ClientConnectorError):
            key, os_error, *_ = each.args
            # The constructor is the public way to replace the key, which holds the proxy's URL.
            aiohttp.ClientConnectorError.__init__(each, key._replace(proxy=None, proxy_auth=None), os_error)


def _redact_text(error: BaseException, token: Secret) -> None:
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        error.message = clean(error.message, token)
    error.args = tuple([clean(each, token) if isinstance(each, str) else each for each in error.args])


def _redact_request(error: aiohttp.ClientResponseError) -> None:
    info = error.request_info
    url, real_url = info.url.with_user(None), info.real_url.with_user(None)
    no_headers = CIMultiDictProxy(CIMultiDict[str]())
    error.request_info = aiohttp.RequestInfo(url, info.method, no_headers, real_url)
    error.headers = None
    error.args = (error.request_info, error.history)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line; those of the parser draw a pointer below the text."""
    text = (
        error.message if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)) else str(error)
    )
    text = " ".join(encodable(text).rstrip("^ \n").split())[:200]
    return text or type(error).__name__


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes and its contexts, each once."""
    seen = set[int]()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += [each.__cause__, each.__context__]
        yield each

"""Everything the client uses of aiohttp that aiohttp does not document.

None of these names starts with an underscore, but none of them is promised either:

``TCPConnector.connect``, ``Connection.protocol``, ``ResponseHandler.should_close``
    Decide whether a pooled connection may be used again. Without them, what an idle connection received would be read
    as the response to the next request. Waits for aiohttp issue 13656: it is closed, but 3.14.5 does not check this.

``ClientRequest.__init__``, ``ClientRequest.send``, ``ResponseHandler.set_response_params``, ``ClientResponse.start``
    Send a request on a connection of our choice. ``ClientSession.request`` chooses one itself, and resends a request
    without asking. Its cookies, redirects, middlewares and timers took 40 of the 240 us of a page of ten items.

``ResponseHandler.closed``, ``StreamReader.is_eof``, ``StreamReader.set_exception``
    End a read when its connection ends. Without them, a read waits for its deadline after the session was closed or
    the HTTP parser failed, and a reset passes for the end of a body without a length. Waits for aiohttp issue 2202.

``ResponseHandler.read_timeout``, ``ResponseHandler.start_timeout``
    Stop aiohttp's read timer in a session of the caller once the headers are here. Without them, a stream fails because
    its consumer is slow: the timer measures the time between two reads of the socket, whether or not anyone waits for
    them. Waits for a timer that stops meanwhile (aiohttp issue 3808 is the nearest).

If any of them is missing (`is_complete`), the client logs one warning and uses ``ClientSession.request``. It then never
reuses a connection, and only the deadline of the attempt limits the wait for headers: it gives up speed rather than the
check of idle connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from operator import attrgetter

import aiohttp
from yarl import URL

logger = logging.getLogger("truto_ci_async")

NAMES = (
    "TCPConnector.connect",
    "connector.Connection.protocol",
    "client_proto.ResponseHandler.should_close",
    "ClientRequest.__init__",
    "ClientRequest.send",
    "client_proto.ResponseHandler.set_response_params",
    "ClientResponse.start",
    "client_proto.ResponseHandler.closed",
    "client_proto.ResponseHandler.read_timeout",
    "client_proto.ResponseHandler.start_timeout",
    "StreamReader.is_eof",
    "StreamReader.set_exception",
)


def is_complete() -> bool:
    """Whether this aiohttp has all the names above; if not, log a warning that lists what is missing."""
    missing = [name for name in NAMES if not _exists(name)] or _missing_options()
    if missing:
        logger.warning(
            "aiohttp %s lacks %s: connections are not reused, which makes requests slower",
            aiohttp.__version__,
            ", ".join(missing),
        )
    return not missing


def _exists(name: str) -> bool:
    try:
        attrgetter(name)(aiohttp)
    except AttributeError:
        return False
    return True


def _missing_options() -> list[str]:
    """Return the arguments of a request that we pass and it does not take, or that it needs and we do not pass."""
    init = aiohttp.ClientRequest.__init__
    optional = init.__kwdefaults__ or {}
    code = init.__code__
    keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    return [f"ClientRequest({name}=)" for name in _OPTIONS.union(keywords) if name not in optional]


_OPTIONS = frozenset({"data", "headers", "loop", "proxy", "proxy_headers"})


def new_request(
    loop: asyncio.AbstractEventLoop,
    method: str,
    url: URL,
    headers: Mapping[str, str],
    body: bytes | None,
    proxy: str | None,
) -> aiohttp.ClientRequest:
    """Return a request, to be sent once."""
    if proxy is None:
        return aiohttp.ClientRequest(method, url, headers=headers, data=body, loop=loop)
    to_proxy = {name: headers[name] for name in headers.keys() - {"Authorization", "Content-Type"}}
    return aiohttp.ClientRequest(
        method, url, headers=headers, data=body, loop=loop, proxy=URL(proxy), proxy_headers=to_proxy
    )


async def exchange(
    request: aiohttp.ClientRequest, connection: aiohttp.connector.Connection, max_header_bytes: int
) -> aiohttp.ClientResponse:
    """Send a request on ``connection``, and return the response once its headers have arrived."""
    try:
        assert connection.protocol is not None
        connection.protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=max_header_bytes,
            max_field_size=max_header_bytes,
        )
        response = await request.send(connection)
        try:
            return await response.start(connection)
        except BaseException:
            response.close()
            raise
    except BaseException:
        connection.close()
        raise


def watch_connection(
    response: aiohttp.ClientResponse, on_end: Callable[[asyncio.Future[None]], object]
) -> asyncio.Future[None] | None:
    """Call ``on_end`` when the connection of ``response`` ends, and return a future for that.

    None if there is nothing to wait for: the response is complete, or its connection is already lost.
    """
    try:
        connection = response.connection
        if connection is None or connection.protocol is None:
            return None
        end = connection.protocol.closed
    except AttributeError:
        return None
    if end is None:
        end_read(response)
        return None
    end.add_done_callback(on_end)
    return end


def unwatch_connection(end: asyncio.Future[None], on_end: Callable[[asyncio.Future[None]], object]) -> None:
    """Undo `watch_connection`."""
    end.remove_done_callback(on_end)
    # asyncio reports an exception that nobody retrieved. One such callback for each connection is enough.
    end.remove_done_callback(error_of)
    end.add_done_callback(error_of)


def error_of(end: asyncio.Future[None]) -> BaseException | None:
    """Return the error that ended a connection; None if it was closed properly."""
    return None if end.cancelled() else end.exception()


def end_read(response: aiohttp.ClientResponse) -> None:
    """Make the reader of the body fail, unless the body is complete."""
    content = response.content
    try:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))
    except AttributeError:
        return


def stop_read_timer(response: aiohttp.ClientResponse) -> None:
    """Stop the timer that aiohttp started because of ``sock_read``."""
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = None
        connection.protocol.start_timeout()

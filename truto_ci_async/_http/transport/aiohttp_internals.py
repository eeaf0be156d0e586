"""Everything the client uses of aiohttp that aiohttp does not document.

None of these names starts with an underscore, but none of them is promised either:

``TCPConnector.connect``, ``Connection.protocol``, ``ResponseHandler.should_close``
    Decide whether a pooled connection may be used again. Without them, what an idle connection received would be read
    as the response to the next request. Waits for aiohttp issue 13656: it is closed, but 3.14.5 does not check this.

``ResponseHandler.closed``, ``StreamReader.is_eof``, ``StreamReader.set_exception``
    End a read when its connection ends. Without them, a read waits for its deadline after the session was closed or
    the HTTP parser failed, and a reset passes for the end of a body without a length. Waits for aiohttp issue 2202.

``ResponseHandler.read_timeout``, ``ResponseHandler.start_timeout``
    Stop aiohttp's read timer in a session of the caller once the headers are here. Without them, a stream fails because
    its consumer is slow: the timer measures the time between two reads of the socket, whether or not anyone waits for
    them. Waits for a timer that stops meanwhile (aiohttp issue 3808 is the nearest).

If any of them is missing (`is_complete`), the client logs one warning and works on, but it never reuses a connection,
and in a session of the caller only the deadline of the attempt limits the wait for headers. It gives up speed rather
than the check of idle connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from operator import attrgetter

import aiohttp

logger = logging.getLogger("truto_ci_async")

NAMES = (
    "TCPConnector.connect",
    "connector.Connection.protocol",
    "client_proto.ResponseHandler.should_close",
    "client_proto.ResponseHandler.closed",
    "client_proto.ResponseHandler.read_timeout",
    "client_proto.ResponseHandler.start_timeout",
    "StreamReader.is_eof",
    "StreamReader.set_exception",
)


def is_complete() -> bool:
    """Whether this aiohttp has all the names above; if not, log a warning that lists what is missing."""
    missing = [name for name in NAMES if not _exists(name)]
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


def is_silent(connection: aiohttp.connector.Connection) -> bool:
    """Whether a connection from the pool is intact and has received nothing since its last response."""
    protocol = connection.protocol
    return protocol is not None and not protocol.should_close


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

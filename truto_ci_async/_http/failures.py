"""What a failed attempt means: the error for an error status, and what the retry rules need to know about it."""

from __future__ import annotations

from contextlib import suppress
from time import time
from traceback import walk_tb

from truto_ci_async._http.policy.headers import parse_retry_after
from truto_ci_async._http.policy.retry import Failure
from truto_ci_async._http.transport.network_errors import error_chain
from truto_ci_async._http.transport.response import BufferedResponse, StreamedResponse
from truto_ci_async._wire.responses import read_error
from truto_ci_async.errors import (
    AccountBlockedError,
    APIError,
    ConnectError,
    DeadlineError,
    DecodeError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
)

from .credentials import Secret, mask, mask_cut


def error_of_status(
    response: BufferedResponse | StreamedResponse, *, account: str | None, token: Secret
) -> APIError | None:
    """Return the error for a status other than 2xx."""
    if 200 <= response.status < 300:
        return None
    return read_error(
        response.status,
        response.headers,
        mask(response.body.decode("latin-1"), token).encode("latin-1"),
        reason=response.reason,
        retry_after=parse_retry_after(response.headers, time()),
        account=account,
    )


def mask_error(error: TrutoError, token: Secret) -> None:
    """Mask the token in an error that quotes a body: the service may have repeated it there."""
    for each in error_chain(error):
        each.args = tuple([mask_cut(part, token) if isinstance(part, str) else part for part in each.args])
        if isinstance(each, TrutoError):
            each.message = mask_cut(each.message, token)
        if isinstance(each, DecodeError):
            each.path = mask(each.path, token)
            each.raw = mask_cut(each.raw.decode("latin-1"), token).encode("latin-1")


# Code whose finished frames may hold a whole body.
_BODY_READERS = frozenset({"truto_ci_async", "codecs", "json", "ijson", "msgspec"})


def drop_locals(error: BaseException) -> None:
    """Clear the variables of the frames in the tracebacks of an error and of its causes.

    They hold the response and its body, several times over: keeping ten errors would keep ten bodies in memory.
    Tracebacks can still be printed. Frames of the caller's own code, and those still running, keep theirs.
    """
    for each in error_chain(error):
        if isinstance(each, UnicodeDecodeError):
            each.object = each.object[each.start : each.end]
            each.args = (each.encoding, each.object, each.start, each.end, each.reason)
        for frame, _ in walk_tb(each.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] in _BODY_READERS:
                with suppress(RuntimeError):  # still running
                    frame.clear()


def failure_of(error: APIError | TransportError) -> Failure:
    """Return what the retry rules need to know about an error."""
    if isinstance(error, APIError):
        return Failure(
            kind="status",
            status=error.status,
            is_remote=error.is_remote,
            is_blocked=isinstance(error, AccountBlockedError),
            retry_after=error.retry_after,
        )
    if isinstance(error, DeadlineError):
        return Failure(kind="timeout")
    if isinstance(error, TruncatedBodyError):
        return Failure(kind="truncated")
    return Failure(kind="fatal" if isinstance(error, ConnectError) and error.is_permanent else "connect")

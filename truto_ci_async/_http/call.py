"""One call: its request, what has happened to it so far, and the events about it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from itertools import count
from time import monotonic, time
from typing import Protocol

from msgspec import Struct

from truto_ci_async._http.credentials import Secret
from truto_ci_async._http.policy.headers import Level, parse_rate_limit
from truto_ci_async._http.policy.retry import Retry, RetryState
from truto_ci_async._http.transport.response import BufferedResponse, StreamedResponse
from truto_ci_async.errors import DeadlineError, TransportError, TrutoError
from truto_ci_async.events import (
    CallEnded,
    CallStarted,
    Emitter,
    PacingWait,
    RequestSent,
    ResponseReceived,
    RetryScheduled,
    current_pull,
)
from truto_ci_async.models import ResponseInfo

# The call that is waiting for its turn: the rate limiter reports waits, but knows no calls.
waiting_call: ContextVar[int] = ContextVar("truto_ci_async_waiting_call", default=0)

# Numbers all calls of this process: several clients may share a hook.
_numbers = count(1)


class OpenCalls(Struct):
    """How many calls of a client, and of its copies, are under way, and where their events go.

    ``streams`` of them are streams that are open, and ``retrying`` wait before another attempt.
    """

    emitter: Emitter
    base_url: str = ""
    count: int = 0
    streams: int = 0
    retrying: int = 0


class Body(Protocol):
    """A response whose body is still arriving."""

    status: int
    headers: dict[str, str]
    token: Secret
    call_id: int
    on_close: Callable[[], object] | None

    def pieces(self, limit: int | None) -> AsyncIterator[bytes]: ...

    async def give_turn(self) -> None: ...

    def close(self) -> None: ...


# Opens one page. The argument is the failure that makes this another attempt: the retry policy waits, or raises it
# when no attempt is left.
Reopen = Callable[[TransportError | None], Awaitable[tuple[Body, ResponseInfo]]]


class CallTime:
    """The time of one call, which ``Timeouts.total`` limits. The clock runs inside ``with`` and stops outside.

    So it counts attempts, waits and decoding, but not a caller who is not ready for the response. ``call_id`` is the
    call.
    """

    __slots__ = ("_since", "_used", "call_id", "total")

    def __init__(self, total: float | None, call_id: int = 0) -> None:
        self.total = total
        self.call_id = call_id
        self._used = 0.0
        self._since: float | None = None

    def __enter__(self) -> None:
        self._since = monotonic()

    def __exit__(self, *error: object) -> None:
        if self._since is not None:
            self._used += monotonic() - self._since
            self._since = None

    @property
    def used(self) -> float:
        """Seconds so far."""
        return self._used if self._since is None else self._used + monotonic() - self._since

    @property
    def left(self) -> float | None:
        """Seconds until the call has to end; None if it has no limit."""
        return None if self.total is None else self.total - self.used


class Call:
    """A request with all its attempts."""

    __slots__ = (
        "_all", "_began", "_emit", "_streamed", "_url", "account", "body", "id", "last_error", "method", "sent_at",
        "started", "state", "target", "time", "token", "waited",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        target: str,
        account: str | None,
        body: bytes | None,
        state: RetryState,
        all: OpenCalls,
        *,
        total: float | None,
        streamed: bool = False,
    ) -> None:
        self.id = next(_numbers)
        self.method = method
        self.target = target
        self.account = account
        self.body = body
        self.state = state
        self.time = CallTime(total, self.id)
        self._all = all
        self._emit = all.emitter.emit if all.emitter.active else None  # None: nobody listens
        self._streamed = streamed
        self._url = ""
        self._began: float | None = None  # None: it is not under way
        self.waited = 0.0  # seconds spent waiting for a turn
        self.started: float | None = None
        self.sent_at = 0.0  # of the last attempt
        self.last_error: Exception | None = None
        self.token = Secret()  # of the last attempt

    def begin(self) -> None:
        """Note that the call is under way, unless it is already. The body of a stream may be asked for again."""
        if self._began is not None:
            return
        self._began = monotonic()
        self._all.count += 1
        self._all.streams += self._streamed
        if self._emit is not None:
            self._url = shown_path(self.target)
            self._emit(
                CallStarted(
                    time=time(),
                    account=self.account,
                    method=self.method,
                    url=self._url,
                    base_url=self._all.base_url,
                    call_id=self.id,
                    pull_id=current_pull.get(),
                    streamed=self._streamed,
                )
            )

    def end(self, error: type[BaseException] | None = None) -> None:
        """Note that the call is over, with its result or with ``error``."""
        began, self._began = self._began, None
        if began is None:
            return
        self._all.count -= 1
        self._all.streams -= self._streamed
        if self._emit is not None:
            self._emit(
                CallEnded(
                    time=time(),
                    account=self.account,
                    call_id=self.id,
                    attempts=self.state.attempts,
                    elapsed=monotonic() - began,
                    error=None if error is None else error.__name__,
                    retry_budget=self.state.budget_left,
                )
            )

    def end_stream(self) -> None:
        """Note that the body of a stream was closed, perhaps because of the error that is being handled."""
        kind = sys.exc_info()[0]
        self.end(kind if kind is not None and issubclass(kind, TrutoError) else None)

    def sending(self) -> None:
        """Note that an attempt is about to be sent."""
        attempt = self.state.sent()
        if self._emit is not None:
            self._emit(
                RequestSent(
                    time=time(),
                    account=self.account,
                    method=self.method,
                    url=self._url or shown_path(self.target),
                    attempt=attempt,
                    call_id=self.id,
                )
            )
        self.sent_at = monotonic()
        if self.started is None:
            self.started = self.sent_at

    def received(self, response: BufferedResponse | StreamedResponse) -> None:
        """Report that the response to an attempt has arrived."""
        if self._emit is not None:
            self._emit(
                ResponseReceived(
                    time=time(),
                    account=self.account,
                    status=response.status,
                    attempt=self.state.attempts,
                    elapsed=monotonic() - self.sent_at,
                    bytes=len(response.body),
                    call_id=self.id,
                    resent=response.sends - 1,
                )
            )

    def retrying(self, error: Exception, retry: Retry) -> None:
        """Note that another attempt follows an error."""
        self.last_error = error
        if self._emit is not None:
            self._emit(
                RetryScheduled(
                    time=time(),
                    account=self.account,
                    reason=retry.reason,
                    wait=retry.wait,
                    attempt=self.state.attempts,
                    call_id=self.id,
                )
            )

    def out_of_time(self) -> DeadlineError:
        """Return the error for a call that ran out of time."""
        total, attempts = self.time.total, self.state.attempts
        return DeadlineError(
            f"no response within {total} s, after {attempts} attempts "
            f"and {self.waited:.1f} s of waiting for a turn",
            deadline="total",
            seconds=total,
            account=self.account,
            attempts=attempts,
        )

    def response_info(self, status: int, headers: dict[str, str]) -> ResponseInfo:
        return ResponseInfo(
            status=status,
            headers=headers,
            rate_limit=parse_rate_limit(headers, time()),
            attempts=self.state.attempts,
            elapsed=monotonic() - (self.started or 0.0),
            waited=self.waited,
        )


def shown_path(target: str) -> str:
    """Return the path of a request target for an event: without its query, and without the ids of records."""
    first, *names = target.partition("?")[0].strip("/").split("/")
    at = 2 if first == "unified" else 0  # after the model and the resource
    if len(names) > at and names[at] not in _OWN_NAMES:
        names[at] = "{id}"
    return "/".join(("", first, *names))


# Segments of a path that stand where an id may be.
_OWN_NAMES = frozenset({"me", "meta", "token"})


def emit_wait(emitter: Emitter, account: str | None, level: Level, seconds: float) -> None:
    """Report that the current call had to wait for its turn."""
    if emitter.active:
        emitter.emit(
            PacingWait(time=time(), account=account, level=level, wait=seconds, call_id=waiting_call.get())
        )

"""One call: its request, what has happened to it so far, and the events about it."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic, time

from truto_ci_async._http.credentials import Secret
from truto_ci_async._http.policy.headers import Level, parse_rate_limit
from truto_ci_async._http.policy.retry import Retry, RetryState
from truto_ci_async._http.transport.response import BufferedResponse, StreamedResponse
from truto_ci_async.errors import DeadlineError
from truto_ci_async.events import Emitter, PacingWait, RequestSent, ResponseReceived, RetryScheduled
from truto_ci_async.models import ResponseInfo

# The call that is waiting for its turn: the rate limiter reports waits, but knows no calls.
waiting_call: ContextVar[int] = ContextVar("truto_ci_async_waiting_call", default=0)


class CallTime:
    """The time of one call, which ``Timeouts.total`` limits. The clock runs inside ``with`` and stops outside.

    So it counts attempts, waits and decoding, but not a caller who is not ready for the response.
    """

    __slots__ = ("_since", "_used", "total")

    def __init__(self, total: float | None) -> None:
        self.total = total
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
        "_emitter", "account", "body", "id", "last_error", "method", "sent_at", "started", "state", "target", "time",
        "token", "waited",
    )  # fmt: skip

    def __init__(
        self,
        id: int,
        method: str,
        target: str,
        account: str | None,
        body: bytes | None,
        state: RetryState,
        emitter: Emitter,
        total: float | None,
    ) -> None:
        self.id = id
        self.method = method
        self.target = target
        self.account = account
        self.body = body
        self.state = state
        self.time = CallTime(total)
        self._emitter = emitter
        self.waited = 0.0  # seconds spent waiting for a turn
        self.started: float | None = None
        self.sent_at = 0.0  # of the last attempt
        self.last_error: Exception | None = None
        self.token = Secret()  # of the last attempt

    def sending(self, attempt: int) -> None:
        """Note that an attempt is about to be sent."""
        if self._emitter.active:
            self._emitter.emit(
                RequestSent(
                    time=time(),
                    account=self.account,
                    method=self.method,
                    url=self.target,
                    attempt=attempt,
                    call_id=self.id,
                )
            )
        self.sent_at = monotonic()
        if self.started is None:
            self.started = self.sent_at

    def received(self, response: BufferedResponse | StreamedResponse, attempt: int) -> None:
        """Report that the response to an attempt has arrived."""
        if self._emitter.active:
            self._emitter.emit(
                ResponseReceived(
                    time=time(),
                    account=self.account,
                    status=response.status,
                    attempt=attempt,
                    elapsed=monotonic() - self.sent_at,
                    bytes=len(response.body),
                    call_id=self.id,
                    resent=response.sends - 1,
                )
            )

    def retrying(self, error: Exception, retry: Retry) -> None:
        """Note that another attempt follows an error."""
        self.last_error = error
        if self._emitter.active:
            self._emitter.emit(
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

    def response_info(self, status: int, headers: dict[str, str], attempts: int) -> ResponseInfo:
        return ResponseInfo(
            status=status,
            headers=headers,
            rate_limit=parse_rate_limit(headers, time()),
            attempts=attempts,
            elapsed=monotonic() - (self.started or 0.0),
            waited=self.waited,
        )


def emit_wait(emitter: Emitter, account: str | None, level: Level, seconds: float) -> None:
    """Report that the current call had to wait for its turn."""
    if emitter.active:
        emitter.emit(
            PacingWait(time=time(), account=account, level=level, wait=seconds, call_id=waiting_call.get())
        )

"""The client: one pool of connections, one token, and the steps of a call.

A call is: wait for a turn, get the token, send one attempt, learn from the answer, then hand the body over or
decide about another attempt. The rules behind each step are pure and live elsewhere (``_pacing``, ``_retry``,
``_answers``); what stands here is their order, and who owns what.
"""

from __future__ import annotations

import asyncio
import copy
import os
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from functools import partial
from itertools import count
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar

from truto_ci_async._http.policy.admission import AdmissionQueue
from truto_ci_async._http.policy.headers import Level, level_named, parse_rate_limit, parse_retry_after
from truto_ci_async._http.policy.rate_limiter import Pacing, RateLimiter
from truto_ci_async._http.policy.retry import Failure, GiveUp, RetryBudget, RetryPolicy, RetryState, Timeouts
from truto_ci_async._http.transport.deadlines import Deadline
from truto_ci_async._http.transport.response import BufferedResponse, StreamedResponse
from truto_ci_async._http.transport.transport import Transport, base_headers
from truto_ci_async._wire.responses import read_error
from truto_ci_async.errors import (
    APIError,
    BodyTooLargeError,
    ConfigurationError,
    ConnectError,
    DeadlineError,
    DecodeError,
    RateLimitError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)
from truto_ci_async.events import (
    Emitter,
    EventHook,
    PacingWait,
    RequestSent,
    ResponseReceived,
    RetryScheduled,
)
from truto_ci_async.models import ResponseInfo

from .credentials import TOKEN_VARIABLE, Secret, Token, TokenSource, hidden
from .options import check_options, check_transport, checked_headers, merge_headers, user_agent
from .tasks import started

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp


R = TypeVar("R")
A = TypeVar("A", "BufferedResponse", "StreamedResponse")


# One attempt: the token and the attempt's number in, a result and how it was answered out.
Once: TypeAlias = Callable[["Secret", int], Awaitable[tuple[R, ResponseInfo]]]

# As much of an error's body as is read for a stream.
MAX_ERROR_BYTES = 2**20


DEFAULT_BASE_URL = "https://api.truto.one"


BASE_URL_VARIABLE = "TRUTO_API_BASE_URL"
DEFAULT_MAX_BODY_BYTES = 64 * 2**20
# Characters of a token from which on it is masked in what the service says.
SHORTEST_SECRET = 12
# How long closing waits for calls in flight to end, in seconds; they are told to at once.
END_CALLS = 1.0


# Which call waits for its turn: pacing tells of waits, but knows no calls.
_waiting_call: ContextVar[int] = ContextVar("truto_ci_async_waiting_call", default=0)


class Body(Protocol):
    """An answer whose body is still on its way."""

    status: int
    headers: dict[str, str]

    def pieces(self, limit: int | None) -> AsyncIterator[bytes]: ...

    def close(self) -> None: ...


# Opens one page. The argument is the failure that makes this another attempt at it: the retry policy waits, or
# raises it when it has enough.
Reopen = Callable[[TransportError | None], Awaitable[tuple[Body, ResponseInfo]]]


class BaseClient:
    """The attempt loop of a call, and what a client owns: connections, token, limits, tasks.

    It knows no resources: `TrutoClient` adds them. Everything below the client is typed against this class.
    """

    def __init__(
        self,
        token: TokenSource | None = None,
        *,
        base_url: str | None = None,
        timeouts: Timeouts = Timeouts(),
        retry: RetryPolicy = RetryPolicy(),
        pacing: Pacing = Pacing(),
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        max_connections: int = 100,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        session: aiohttp.ClientSession | None = None,
        on_event: EventHook | None = None,
    ) -> None:
        token = hidden(token)
        for name, value in (("max_body_bytes", max_body_bytes), ("max_connections", max_connections)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"{name} is a whole number of 1 or more, not {value!r}")
        check_options(timeouts, retry, pacing)
        check_transport(headers, proxy, ssl_context, session)
        if base_url is not None and not isinstance(base_url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"base_url is text, not {base_url!r}")
        self._headers = merge_headers(base_headers(user_agent()), checked_headers(headers or {}))
        self._sent_headers: tuple[Secret, dict[str, str]] | None = None
        self._transport = Transport(
            base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL,
            max_connections=max_connections,
            proxy=proxy,
            ssl_context=ssl_context,
            session=session,
            headers=self._headers,
        )
        self._original: Self | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        # Not a method of ours: a task would keep a forgotten client alive.
        self._forget = partial(_forget, self._tasks)
        self._in_flight: set[Deadline] = set()
        self._calls = count(1)
        self._token = Token(token if token is not None else os.environ.get(TOKEN_VARIABLE))
        self.timeouts = timeouts
        self.max_body_bytes = max_body_bytes
        self.emitter = Emitter(on_event)
        self._set_retry(retry)
        self._set_pacing(pacing)

    def _set_retry(self, retry: RetryPolicy) -> None:
        self.retry = retry
        self._budget = RetryBudget(retry.budget_capacity, retry.budget_refill)

    def _set_pacing(self, pacing: Pacing) -> None:
        self.pacing = pacing
        # Told through the emitter and not through a method of ours: a cycle would keep a forgotten client alive.
        self._gate = AdmissionQueue(
            RateLimiter(pacing, max_wait=self.retry.max_wait, max_in_flight=self._transport.max_connections),
            on_wait=partial(_tell_wait, self.emitter),
        )

    def with_options(
        self,
        *,
        token: TokenSource | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        pacing: Pacing | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a light copy with other options that shares the connection pool.

            own = truto.with_options(token=await truto.integrated_accounts.create_token(account_id))

        What is not given stays as it is; ``headers`` are added to those of the client. Another token has limits of
        its own, so it starts with fresh pacing. Another ``retry`` starts with a fresh budget; the pacing that is
        shared keeps to the ``max_wait`` it began with. Closing the original closes the pool; closing a copy does
        nothing.
        """
        token = hidden(token)
        check_options(timeouts or self.timeouts, retry or self.retry, pacing or self.pacing)
        other = copy.copy(self)
        # A copy keeps its original alive: dropping that one, the owner of the pool, would close it.
        other._original = self._original or self
        if token is not None:
            other._token = Token(token)
        if timeouts is not None:
            other.timeouts = timeouts
        if retry is not None:
            other._set_retry(retry)
        if token is not None or pacing is not None:
            other._set_pacing(pacing or self.pacing)
        if headers is not None:
            other._headers = merge_headers(self._headers, checked_headers(headers))
            other._sent_headers = None
        return other

    @property
    def base_url(self) -> str:
        """Where requests go, without a trailing slash."""
        return self._transport.base_url

    # --- the steps of a call ---------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        target: str,
        *,
        account: str | None,
        read: Callable[[bytes], Awaitable[R]],
        body: bytes | None = None,
        error_fallback: Callable[[APIError], bytes | None] | None = None,
    ) -> tuple[R, ResponseInfo]:
        """Make one call, retries included, and return what ``read`` makes of the body.

        ``target`` is path and query, encoded. A body that ``read`` calls truncated is fetched again, whole; what
        ``read`` takes is on no deadline. ``error_fallback`` may return a body to use in place of an error status,
        which is then not raised.

        :raises APIError: an error status that no retry mends.
        :raises TransportError: the network failed for as long as the policy tries.
        :raises DecodeError: what ``read`` raises.
        :raises UsageError: the client is closed, also when that happens during the call.
        """
        call = self._new_call(method, target, account, body)

        async def once(token: Secret, attempt: int) -> tuple[bytes, ResponseInfo]:
            reply = await self._send(call, token, attempt, self._buffered)
            return reply.body, call.response(reply.status, reply.headers, attempt)

        failure: TruncatedBodyError | None = None
        try:
            while True:
                content, response = await self._within_total(call, once, error_fallback, failure)
                read_since = monotonic()
                try:
                    result = await read(content)
                    call.state.succeeded()
                    return result, response
                except TruncatedBodyError as error:
                    failure = error
                    call.state.leave_out(monotonic() - read_since)
                except DecodeError as error:
                    error.account = account
                    raise
        finally:
            failure = None  # an error, its frames and this one would be a cycle

    def open_stream(self, target: str, *, account: str | None) -> Reopen:
        """Prepare a call whose body is read by the caller as it arrives.

        What is returned opens it, retries included, and the caller closes the body it gets. Given the failure of
        that body it opens another one, or raises the failure when the policy has enough.
        """
        call = self._new_call("GET", target, account, None)

        async def once(token: Secret, attempt: int) -> tuple[StreamedResponse, ResponseInfo]:
            exchange = await self._send(call, token, attempt, self._opened)
            call.state.succeeded()
            return exchange, call.response(exchange.status, exchange.headers, attempt)

        async def reopen(failure: TransportError | None = None) -> tuple[StreamedResponse, ResponseInfo]:
            return await self._within_total(call, once, None, failure)

        return reopen

    def _new_call(self, method: str, target: str, account: str | None, body: bytes | None) -> _Call:
        self._transport.bind()
        state = RetryState(
            self.retry,
            self._budget,
            now=monotonic(),
            total=self.timeouts.total,
            can_refresh=self._token.is_refreshable,
        )
        return _Call(next(self._calls), method, target, account, body, state)

    async def _within_total(
        self,
        call: _Call,
        once: Once[R],
        error_fallback: Callable[[APIError], R | None] | None,
        failure: TransportError | None,
    ) -> tuple[R, ResponseInfo]:
        """Make the attempts of a call under its outer deadline."""
        account, state = call.account, call.state
        deadline = self._transport.deadlines.within(self.timeouts.total)
        try:
            with deadline:
                self._in_flight.add(deadline)
                return await self._attempts(call, once, error_fallback, failure)
        except (DecodeError, BodyTooLargeError) as error:
            error.account = account
            raise
        except TimeoutError as error:
            if not deadline.expired or isinstance(error, DeadlineError):
                raise
            if self._transport.closed:
                raise UsageError("the client was closed while this call was under way") from None
            raise DeadlineError(
                f"no answer within {self.timeouts.total} s, after {state.attempts} attempts "
                f"and {call.waited:.1f} s of waiting for a turn",
                deadline="total",
                seconds=self.timeouts.total,
                account=account,
                attempts=state.attempts,
            ) from call.last_error
        finally:
            self._in_flight.discard(deadline)
            call.last_error = failure = None  # an error, its frames and the call would be a cycle

    async def _attempts(
        self,
        call: _Call,
        once: Once[R],
        error_fallback: Callable[[APIError], R | None] | None,
        failure: TransportError | None,
    ) -> tuple[R, ResponseInfo]:
        state = call.state
        refused: Secret | None = None
        _waiting_call.set(call.id)
        if failure is not None:
            failure.account, failure.attempts = call.account, state.attempts
            try:
                await self._wait_after(call, failure)
            finally:
                failure = None  # an error, its frames and this one would be a cycle
        while True:
            try:
                call.waited += await self._gate.admit(call.account)
            except RateLimitError as paused:
                paused.attempts = state.attempts
                raise paused from call.last_error
            try:
                token = await self._token.get(refused)
            except BaseException:
                self._gate.on_unsent(call.account)
                raise
            attempt = state.sent()
            try:
                return await once(token, attempt)
            except (APIError, TransportError) as error:
                error.account, error.attempts = call.account, attempt
                if error_fallback is not None and isinstance(error, APIError):
                    excused = error_fallback(error)
                    if excused is not None:
                        return excused, call.response(error.status, error.headers, attempt)
                wants_token = await self._wait_after(call, error)
            refused = token if wants_token else None

    async def _wait_after(self, call: _Call, error: APIError | TransportError) -> bool:
        """Wait before another attempt, or raise ``error``; True when that attempt needs a fresh token."""
        decision = call.state.failed(_failure(error), monotonic())
        if isinstance(decision, GiveUp):
            try:
                raise error
            finally:
                del error  # as in _send
        call.last_error = error
        if self.emitter.active:
            self.emitter.emit(
                RetryScheduled(
                    time=time(),
                    account=call.account,
                    reason=decision.reason,
                    wait=decision.wait,
                    attempt=call.state.attempts,
                    call_id=call.id,
                )
            )
        await asyncio.sleep(decision.wait)
        return decision.fresh_token

    async def _send(
        self,
        call: _Call,
        token: Secret,
        attempt: int,
        transfer: Callable[[_Call, dict[str, str]], Awaitable[A]],
    ) -> A:
        """Send one attempt, and let pacing and listeners know how it went.

        :raises APIError: any status but 2xx.
        """
        emitter = self.emitter
        if emitter.active:
            emitter.emit(
                RequestSent(
                    time=time(),
                    account=call.account,
                    method=call.method,
                    url=call.target,
                    attempt=attempt,
                    call_id=call.id,
                )
            )
        started = monotonic()
        if call.started is None:
            call.started = started
        headers = self._headers_with(token)
        if call.body is not None:
            headers = merge_headers(headers, {"Content-Type": "application/json"})
        try:
            reply = await transfer(call, headers)
        except BaseException:
            self._gate.on_failure(call.account)
            raise
        error = None if 200 <= reply.status < 300 else self._refused(call, reply, token)
        self._gate.on_response(
            call.account,
            reply.status,
            reply.headers,
            retry_after=error.retry_after if error else None,
            is_remote=error.is_remote if error else False,
            hint=level_named(error.insight, error.message) if error else None,
        )
        if emitter.active:
            emitter.emit(
                ResponseReceived(
                    time=time(),
                    account=call.account,
                    status=reply.status,
                    attempt=attempt,
                    elapsed=monotonic() - started,
                    bytes=len(reply.body),
                    call_id=call.id,
                    resent=reply.sends - 1,
                )
            )
        if error is None:
            self._budget.give_back(reply.sends - 1)
            return reply
        try:
            raise error
        finally:
            del error  # this frame is part of its traceback: the two would be a cycle

    def _headers_with(self, token: Secret) -> dict[str, str]:
        """Return the headers to give with a request, made once for each token."""
        if self._sent_headers is None or self._sent_headers[0] is not token:
            is_sent_anyway = self._headers is self._transport.default_headers
            others = {} if is_sent_anyway else self._headers
            self._sent_headers = token, merge_headers(others, {"Authorization": Secret(f"Bearer {token}")})
        return self._sent_headers[1]

    def _buffered(self, call: _Call, headers: dict[str, str]) -> Awaitable[BufferedResponse]:
        return self._transport.send(
            call.method,
            call.target,
            headers,
            body=call.body,
            timeouts=self.timeouts,
            limit=self.max_body_bytes,
            may_resend=self._may_resend,
        )

    async def _opened(self, call: _Call, headers: dict[str, str]) -> StreamedResponse:
        """Send, and return when the headers are here; the body of a refusal is read, as far as it is bearable."""
        exchange = await self._transport.open(
            call.method, call.target, headers, timeouts=self.timeouts, may_resend=self._may_resend
        )
        if not 200 <= exchange.status < 300:
            try:
                with self._transport.deadlines.within(self.timeouts.attempt):
                    exchange.body = await exchange.read(MAX_ERROR_BYTES)
            except (TrutoError, TimeoutError):
                pass  # the status says enough
            finally:
                exchange.close()
        return exchange

    def _may_resend(self) -> bool:
        """Whether a request may go out a second time at once, since the idle connection it went out on was dead."""
        return self.retry.attempts > 1 and self._budget.spend()

    def _refused(self, call: _Call, reply: BufferedResponse | StreamedResponse, token: Secret) -> APIError:
        return read_error(
            reply.status,
            reply.headers,
            _without(token, reply.body),
            reason=reply.reason,
            retry_after=parse_retry_after(reply.headers, time()),
            account=call.account,
        )

    # --- who owns what ---------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start a task that ends with the client at the latest; its failure is its waiter's business."""
        task = started(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def __aenter__(self) -> Self:
        self._transport.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the calls in flight and close the connections. May be called twice; a copy leaves the pool open.

        A call in flight raises UsageError where it is awaited.

        :raises UsageError: the client was used in another event loop that is still there.
        """
        transport = self._transport
        if self._original is not None or transport.closed:
            return
        if transport.loop_is_gone:
            transport.abandon()
            return
        transport.bind()
        transport.closed = True
        for deadline in self._in_flight:
            deadline.expire()
        tasks = self._tasks - {asyncio.current_task()}
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=END_CALLS)
        finally:
            for task in tasks:
                task.cancel()
            await transport.aclose()

    def __del__(self) -> None:
        transport = getattr(self, "_transport", None)  # missing when __init__ raised
        if transport is None or self._original is not None or not transport.opened:
            return
        try:
            warnings.warn(
                f"{self!r} was never closed: use `async with`, or await its aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        finally:  # also where warnings are errors
            transport.abandon()

    def __repr__(self) -> str:
        transport = getattr(self, "_transport", None)  # missing in the traceback of a failing __init__
        if transport is None:
            return f"<{type(self).__name__} token=***>"
        return (
            f"<{type(self).__name__} {transport.base_url} token=***{' closed' if transport.closed else ''}>"
        )


class _Call:
    """What one call is, and what has happened to it so far."""

    __slots__ = ("account", "body", "id", "last_error", "method", "started", "state", "target", "waited")

    def __init__(
        self, id: int, method: str, target: str, account: str | None, body: bytes | None, state: RetryState
    ) -> None:
        self.state = state
        self.id = id
        self.method = method
        self.target = target
        self.account = account
        self.body = body
        self.waited = 0.0
        self.started: float | None = None
        self.last_error: Exception | None = None

    def response(self, status: int, headers: dict[str, str], attempts: int) -> ResponseInfo:
        return ResponseInfo(
            status=status,
            headers=headers,
            rate_limit=parse_rate_limit(headers, time()),
            attempts=attempts,
            elapsed=monotonic() - (self.started or 0.0),
            waited=self.waited,
        )


def _without(token: Secret, body: bytes) -> bytes:
    """Mask the token in what a refusal says: it ends up in logs and states, and some services repeat what they got."""
    # A shorter one, such as "token" in somebody's test, is no secret, and may be a word or a key of the body.
    return body.replace(token.encode(), b"***") if len(token) >= SHORTEST_SECRET else body


def _failure(error: APIError | TransportError) -> Failure:
    """What the retry rules need to know of an error."""
    if isinstance(error, APIError):
        return Failure(
            kind="status", status=error.status, is_remote=error.is_remote, retry_after=error.retry_after
        )
    if isinstance(error, DeadlineError):
        return Failure(kind="timeout")
    if isinstance(error, TruncatedBodyError):
        return Failure(kind="truncated")
    return Failure(kind="fatal" if isinstance(error, ConnectError) and error.is_permanent else "connect")


def _tell_wait(emitter: Emitter, account: str | None, level: Level, seconds: float) -> None:
    if emitter.active:
        emitter.emit(
            PacingWait(time=time(), account=account, level=level, wait=seconds, call_id=_waiting_call.get())
        )


def _forget(tasks: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    """Take note of a task's end and failure, so that asyncio does not report it as never looked at."""
    tasks.discard(task)
    if not task.cancelled():
        task.exception()

"""The attempt loop of a call, and the things a client owns.

A call waits for its turn, gets the token, sends one attempt, reports the outcome to the rate limiter, and then returns
the body or decides about another attempt. The rules behind each step are pure and are in `policy` and in
`_wire/responses`; this file holds their order, and who owns what.
"""

from __future__ import annotations

import asyncio
import copy
import os
import ssl
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from truto_ci_async._http.policy.admission import AdmissionQueue
from truto_ci_async._http.policy.headers import level_named
from truto_ci_async._http.policy.rate_limiter import Pacing, RateLimiter
from truto_ci_async._http.policy.retry import GiveUp, RetryBudget, RetryPolicy, RetryState, Timeouts
from truto_ci_async._http.transport.deadlines import Deadline
from truto_ci_async._http.transport.response import BufferedResponse, StreamedResponse
from truto_ci_async._http.transport.transport import MAX_ERROR_BYTES, Transport, base_headers
from truto_ci_async.errors import (
    APIError,
    BodyTooLargeError,
    DeadlineError,
    DecodeError,
    RateLimitError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)
from truto_ci_async.events import Emitter, EventHook
from truto_ci_async.models import ResponseInfo

from .call import Call, CallTime, OpenCalls, Reopen, emit_wait, waiting_call
from .credentials import TOKEN_VARIABLE, Secret, Token, TokenSource, hidden
from .failures import drop_locals, error_of_status, failure_of, mask_error
from .options import (
    check_limits,
    check_policies,
    check_transport,
    checked_headers,
    merge_headers,
    user_agent,
)
from .tasks import OwnedTasks

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp

    from truto_ci_async._http.policy.shared_budget import SharedBudget


R = TypeVar("R")
AnyResponse = TypeVar("AnyResponse", BufferedResponse, StreamedResponse)

# Sends one attempt of a call with these headers.
Transfer: TypeAlias = Callable[[Call, dict[str, str]], Awaitable[AnyResponse]]
# Returns a response to use in place of an error, or None.
Fallback: TypeAlias = Callable[[APIError], AnyResponse | None]

DEFAULT_BASE_URL = "https://api.truto.one"
BASE_URL_VARIABLE = "TRUTO_API_BASE_URL"
DEFAULT_MAX_BODY_BYTES = 64 * 2**20
# Seconds that ``aclose`` gives calls in flight to return, once it has ended them.
END_CALLS = 1.0


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
        on_event: EventHook | Iterable[EventHook] | None = None,
        shared_budget: SharedBudget | None = None,
    ) -> None:
        token, base_url, proxy = hidden(token), hidden(base_url), hidden(proxy)  # URLs may hold passwords
        check_limits(max_body_bytes, max_connections)
        check_policies(timeouts, retry, pacing)
        check_transport(base_url, headers, proxy, ssl_context, session)
        self._original: Self | None = None
        self._headers = merge_headers(base_headers(user_agent()), checked_headers(headers or {}))
        self._sent_headers: tuple[Secret, dict[str, str]] | None = None
        self._transport = Transport(
            hidden(os.environ.get(BASE_URL_VARIABLE)) or DEFAULT_BASE_URL if base_url is None else base_url,
            max_connections=max_connections,
            proxy=proxy,
            ssl_context=ssl_context,
            session=session,
        )
        self._token = Token(token if token is not None else os.environ.get(TOKEN_VARIABLE))
        self.timeouts = timeouts
        self.max_body_bytes = max_body_bytes
        self.emitter = Emitter(on_event)
        self._set_retry(retry)
        self._set_pacing(pacing, shared_budget)
        self._tasks = OwnedTasks()
        #: What resources keep for later calls with the same token.
        self.memo: dict[str, Any] = {}
        self._in_flight: set[Deadline] = set()
        self._open_calls = OpenCalls(self.emitter, self._transport.base_url)

    def _set_retry(self, retry: RetryPolicy) -> None:
        self.retry = retry
        self._budget = RetryBudget(retry.budget_capacity, retry.budget_refill)

    def _set_pacing(self, pacing: Pacing, shared_budget: SharedBudget | None) -> None:
        self.pacing, self.shared_budget = pacing, shared_budget
        gate = None
        if shared_budget is not None:
            from truto_ci_async._http.policy.budget_gate import BudgetGate

            gate = BudgetGate(shared_budget, pacing.token)
        self.admission = AdmissionQueue(
            RateLimiter(pacing, max_wait=self.retry.max_wait, max_in_flight=self._transport.max_connections),
            # Not a method of the client, which would be a cycle and keep a forgotten client alive.
            on_wait=partial(emit_wait, self.emitter),
            gate=gate,
        )

    def with_options(
        self,
        *,
        token: TokenSource | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        pacing: Pacing | None = None,
        headers: Mapping[str, str] | None = None,
        shared_budget: SharedBudget | None = None,
    ) -> Self:
        """Return a light copy with other options that shares the connection pool.

            own = truto.with_options(token=await truto.integrated_accounts.create_token(account_id))

        Options that are not given stay as they are; ``headers`` are added to those of the client. Another token has
        rate limits of its own, so it starts with fresh pacing, and with ``shared_budget`` or none. Another ``retry``
        starts with a fresh budget; shared pacing keeps the ``max_wait`` it started with. Closing the original closes
        the pool; closing a copy does nothing.
        """
        token = hidden(token)
        check_policies(timeouts or self.timeouts, retry or self.retry, pacing or self.pacing)
        other = copy.copy(self)
        # Keeps the original alive: it owns the pool, and would close it when it is collected.
        other._original = self._original or self
        if token is not None:
            other._token = Token(token)
            other.memo = {}
        if timeouts is not None:
            other.timeouts = timeouts
        if retry is not None:
            other._set_retry(retry)
        if token is not None or pacing is not None or shared_budget is not None:
            kept = self.shared_budget if token is None else None
            other._set_pacing(pacing or self.pacing, shared_budget or kept)
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
        read: Callable[[bytes, CallTime], Awaitable[R]],
        body: bytes | None = None,
        error_fallback: Callable[[APIError], bytes | None] | None = None,
        on_empty: Callable[[ResponseInfo], bytes] | None = None,
    ) -> tuple[R, ResponseInfo]:
        """Make one call, retries included, and return what ``read`` makes of the body.

        ``target`` is path and query, encoded. If ``read`` finds the body truncated, the whole body is fetched again.
        What ``read`` does inside ``with`` on the ``CallTime`` counts as time of the call. ``error_fallback`` may return
        a body to use instead of raising an error status. ``on_empty`` returns the body to use in place of an empty
        one, or raises as ``read`` does.

        :raises APIError: an error status that retrying did not help.
        :raises TransportError: the network failed for as long as the policy tries.
        :raises DecodeError: what ``read`` raises.
        :raises UsageError: the client is closed, also when that happens during the call.
        """
        call = self._new_call(method, target, account, body)
        fallback = None if error_fallback is None else partial(_response_instead, error_fallback)
        response: BufferedResponse | None = None
        failure: TruncatedBodyError | None = None
        is_done = False
        call.begin()
        try:
            while True:
                response = await self._within_total(call, self._buffered, fallback, failure)
                content, info = response.body, call.response_info(response.status, response.headers)
                try:
                    if not content and on_empty is not None:
                        content = on_empty(info)
                    result = await read(content, call.time)
                    call.state.succeeded()
                    is_done = True
                    return result, info
                except TruncatedBodyError as error:
                    failure = error
                except DecodeError as error:
                    error.account = account
                    raise
        except TrutoError as error:
            mask_error(error, call.token)
            drop_locals(error)
            raise
        finally:
            call.end(None if is_done else sys.exc_info()[0])
            failure = None  # the error, its frames and this variable would be a cycle
            response, content = None, b""  # this frame is part of them too

    def mask(self) -> Callable[[TrutoError], None]:
        """Return a function that masks the token last sent in an error that quotes a body."""
        return partial(mask_error, token=self._token.last)

    def open_stream(self, target: str, *, account: str | None) -> Reopen:
        """Prepare a call whose body the caller reads as it arrives.

        The function that is returned makes the call, retries included, and the caller closes the body it gets. Given
        the failure of that body, it opens another one, or raises the failure when no attempt is left.
        """
        call = self._new_call("GET", target, account, None, streamed=True)

        async def reopen(failure: TransportError | None = None) -> tuple[StreamedResponse, ResponseInfo]:
            call.begin()
            try:
                response = await self._within_total(call, self._streamed, None, failure)
            except BaseException as error:
                call.end(type(error))
                if isinstance(error, TrutoError):
                    drop_locals(error)
                raise
            finally:
                failure = None  # as in request
            response.waiting = call.time  # in case it fails and another one is opened
            response.call_id, response.on_close = call.id, call.end_stream
            call.state.succeeded()
            return response, call.response_info(response.status, response.headers)

        return reopen

    def _new_call(
        self, method: str, target: str, account: str | None, body: bytes | None, *, streamed: bool = False
    ) -> Call:
        self._transport.bind()
        total = self.timeouts.total
        state = RetryState(self.retry, self._budget, total=total, can_refresh=self._token.is_refreshable)
        return Call(method, target, account, body, state, self._open_calls, total=total, streamed=streamed)

    async def _within_total(
        self,
        call: Call,
        transfer: Transfer[AnyResponse],
        fallback: Fallback[AnyResponse] | None,
        failure: TransportError | None,
    ) -> AnyResponse:
        """Make the attempts of a call within what is left of ``Timeouts.total``."""
        deadline = self._transport.deadlines.within(call.time.left)
        try:
            with deadline, call.time:
                self._in_flight.add(deadline)
                if failure is not None:
                    await self._wait_after(call, failure)
                return await self._attempts(call, transfer, fallback)
        except (DecodeError, BodyTooLargeError) as error:
            error.account = call.account
            raise
        except TimeoutError as error:
            if not deadline.expired or isinstance(error, DeadlineError):
                raise
            if self._transport.closed:
                raise UsageError("the client was closed during this call") from None
            raise call.out_of_time() from call.last_error
        finally:
            call.state.take_back()
            self._in_flight.discard(deadline)
            call.last_error = failure = None  # an error, its frames and the call would be a cycle

    async def _attempts(
        self, call: Call, transfer: Transfer[AnyResponse], fallback: Fallback[AnyResponse] | None
    ) -> AnyResponse:
        """Try until an attempt succeeds, or the policy gives up."""
        waiting_call.set(call.id)
        refused: Secret | None = None
        while True:
            token = await self._turn_and_token(call, refused)
            try:
                return await self._send(call, token, transfer)
            except (APIError, TransportError) as error:
                if fallback is not None and isinstance(error, APIError):
                    instead = fallback(error)
                    if instead is not None:
                        return instead
                wants_token = await self._wait_after(call, error)
            refused = token if wants_token else None

    async def _turn_and_token(self, call: Call, refused: Secret | None) -> Secret:
        try:
            admission = await self.admission.admit(call.account)
        except RateLimitError as error:
            error.attempts = call.state.attempts
            raise error from call.last_error
        call.waited += admission.waited
        try:
            return await self._token.get(refused)
        except BaseException:
            self.admission.on_unsent(call.account, admission)
            raise

    async def _wait_after(self, call: Call, error: APIError | TransportError) -> bool:
        """Wait before another attempt, or raise ``error``; True if that attempt needs a new token."""
        error.account, error.attempts = call.account, call.state.attempts
        decision = call.state.failed(failure_of(error), call.time.used)
        if isinstance(decision, GiveUp):
            try:
                raise error
            finally:
                del error  # as in _send
        call.retrying(error, decision)
        self._open_calls.retrying += 1
        try:
            await asyncio.sleep(decision.wait)
        finally:
            self._open_calls.retrying -= 1
        return decision.fresh_token

    async def _send(self, call: Call, token: Secret, transfer: Transfer[AnyResponse]) -> AnyResponse:
        """Send one attempt, and report the outcome to the rate limiter and to listeners.

        :raises APIError: any status but 2xx.
        """
        call.token = token
        try:
            call.sending()
            headers = self._headers_with(token)
            if call.body is not None:
                headers = merge_headers(headers, {"Content-Type": "application/json"})
            response = await transfer(call, headers)
            error = error_of_status(response, account=call.account, token=token)
        except BaseException:
            self.admission.on_failure(call.account)
            raise
        self.admission.on_response(
            call.account,
            response.status,
            response.headers,
            retry_after=error.retry_after if error else None,
            is_remote=error.is_remote if error else False,
            hint=level_named(error.insight, error.message) if error else None,
        )
        call.received(response)
        if response.sends > 1:
            self._budget.give_back(response.sends - 1)
        if error is None:
            return response
        try:
            raise error
        finally:
            # Its traceback holds this frame: the two would be a cycle, and the body may repeat the token.
            del error, response

    def _headers_with(self, token: Secret) -> dict[str, str]:
        """Return the headers of a request; they are built once per token."""
        if self._sent_headers is None or self._sent_headers[0] is not token:
            authorization = {"Authorization": Secret(f"Bearer {token}")}
            self._sent_headers = token, merge_headers(self._headers, authorization)
        return self._sent_headers[1]

    def _buffered(self, call: Call, headers: dict[str, str]) -> Awaitable[BufferedResponse]:
        return self._transport.send(
            call.method,
            call.target,
            headers,
            body=call.body,
            timeouts=self.timeouts,
            limit=self.max_body_bytes,
            may_resend=self._may_resend,
        )

    async def _streamed(self, call: Call, headers: dict[str, str]) -> StreamedResponse:
        """Return once the headers have arrived. The body of an error response is read, up to a limit."""
        response = await self._transport.open(
            call.method, call.target, headers, timeouts=self.timeouts, may_resend=self._may_resend
        )
        if not 200 <= response.status < 300:
            try:
                with self._transport.deadlines.within(self.timeouts.attempt):
                    response.body = await response.read(MAX_ERROR_BYTES)
            except (TrutoError, TimeoutError):
                pass  # the status says enough
            finally:
                response.close()
        return response

    def _may_resend(self) -> bool:
        """Whether a request may be sent again at once because the idle connection it went out on was dead."""
        return self.retry.attempts > 1 and self._budget.spend()

    # --- what a client owns ----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start a task that does not outlive the client; an exception in it is for whoever awaits it."""
        return self._tasks.start(work)

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

        :raises UsageError: the client was used in another event loop that still exists.
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
        try:
            await self._tasks.end(END_CALLS)
        finally:
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


def _response_instead(
    error_fallback: Callable[[APIError], bytes | None], error: APIError
) -> BufferedResponse | None:
    body = error_fallback(error)
    return (
        None
        if body is None
        else BufferedResponse(status=error.status, reason="", headers=error.headers, body=body)
    )

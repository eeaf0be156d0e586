"""Pulls one account: fetches its pages, hands them over, and decides what a failed call means.

When an account has its turn is up to ``workers``. ``commits`` makes durable what was handed over.
"""

from __future__ import annotations

import math
import time
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import anyio
from msgspec import Struct
from msgspec.structs import replace

from truto_ci_async._http.policy.circuit_breaker import CircuitBreaker
from truto_ci_async._http.policy.headers import LONGEST_WAIT
from truto_ci_async._http.policy.retry import RetryPolicy, can_never_succeed
from truto_ci_async._wire.list_query import RequestTargets
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async.errors import (
    APIError,
    AuthenticationError,
    BodyTooLargeError,
    ConfigurationError,
    ConnectError,
    CursorExpiredError,
    CursorLoopError,
    DecodeError,
    NotFoundError,
    RateLimitError,
    ServerError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)
from truto_ci_async.models import Page, Position
from truto_ci_async.models.pulls import PlannedAccount
from truto_ci_async.pagination.next_page import PageCursor
from truto_ci_async.pagination.page_fetch import fetch_and_read, fetch_page, read_page
from truto_ci_async.pull.checkpoint.base import AccountProgress, Outcome, Progress
from truto_ci_async.pull.plan.plan import Plan

from .commits import Commits, Entry, PulledPage
from .foreign_rows import foreign_rows
from .handover import Handover
from .report import KEPT_CHARACTERS, Budget, PullReport
from .row_fingerprints import SeenRows, row_fingerprints, row_identities

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime

# How often one run restarts a window whose cursor was refused.
RESTARTS = 3
# After so many failed calls in a row, each with its own retries, an account is given up while others get through.
ACCOUNT_CALLS = 3

#: When to ask an account again, by the monotonic clock: when its turn comes, or not in this run.
IN_TURN, NEVER = 0.0, math.inf

# A service refuses a cursor with one of these. The words that go with them are not documented.
_REFUSED_CURSOR = frozenset({400, 404, 409, 410, 422})


# A window that has not begun, and what stands in its place when none is left.
_NEW, _OVER = Progress(), Progress(outcome="done")


@dataclass
class Shared:
    """What the accounts of one pull have in common."""

    client: BaseClient
    plan: Plan
    stored: dict[str, AccountProgress]  # of earlier runs, for accounts that have not had a turn yet
    reader: PageReader[Any]
    pages: Handover[PulledPage[Any]]
    commits: Commits
    report: PullReport
    budget: Budget
    outage_cause: str = ""  # what the last call failed with for which the service is to blame
    is_stopping: bool = False
    #: What the last account to end was asked when the service last answered for it: shows whether it still does.
    witness: tuple[RequestTargets, Position] | None = None
    #: A scope for each request that has no answer yet, which is cancelled to drop it.
    fetching: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])
    #: By window, of the first account that came to it: checking, ordering and encoding is done once.
    targets: dict[int, RequestTargets] = field(default_factory=dict[int, RequestTargets])

    def __post_init__(self) -> None:
        # Sends a request once, since retries are for a service that is there. A token that expired while it was down
        # is renewed: that takes a second request, but neither time nor budget.
        retry = self.client.retry
        once = replace(retry, attempts=min(2, retry.attempts), max_elapsed=0.0, budget_capacity=0.0)
        self.trial_client = self.client.with_options(retry=once)
        limits = self.budget
        self.circuit = CircuitBreaker(limits.max_outage, limits.probe_wait, limits.max_probe_wait)


class AccountState(Struct, eq=False, gc=False):
    """How far the pull of one account has come. Make it at its first turn: there may be very many accounts.

    It keeps what is needed of the window the account is at, and of those windows after it that an earlier run has
    begun. The garbage collector does not look at it, since nothing in it refers back to it or to the pull: going
    through 100,000 of them held the loop for 90 ms.
    """

    account: PlannedAccount
    window: int
    windows_left: int
    has_rows: bool  # in any window: an account without any is reported as empty
    later: dict[int, Progress]
    progress: Progress = Progress()  # in this window
    cursor: PageCursor | None = None  # of the walk over this window
    targets: RequestTargets | None = None  # of that walk, while the account has its turn
    seen: SeenRows | None = None  # rows handed out before that window was restarted
    is_resumed: bool = False  # the walk begins with a cursor of an earlier run, not used in this one yet
    restarts: int = 0
    body: bytes = b""  # of the page that is about to be handed over
    arrived_at: float = 0.0  # that body, by the monotonic clock
    pulled_at: datetime | None = None  # the same moment
    calls: int = 0  # failed in a row
    failing_since: float | None = None  # when the first call was sent that failed without an answer since

    @classmethod
    def of(cls, account: PlannedAccount, stored: AccountProgress, windows: int) -> AccountState:
        """Return the state of an account at its first turn."""
        left = windows - stored.windows_over()
        state = cls(account, stored.finished - 1, left, stored.has_rows, stored.later)
        state.next_window()
        return state

    def next_window(self) -> None:
        """Go to the next window that is not over; they are asked oldest first."""
        self.progress = _OVER
        while self.progress.is_over and self.windows_left:
            self.window += 1
            self.progress = self.later.pop(self.window, _NEW)


class AccountPull:
    """One turn of an account: asks for its pages, one at a time, and moves its state on."""

    def __init__(self, state: AccountState, shared: Shared) -> None:
        self._state = state
        self._shared = shared

    def rest(self) -> None:
        """Keep little until the next turn."""
        self._state.targets = None

    # --- one page --------------------------------------------------------------------------------------

    async def next_page(self, client: BaseClient, fetch: anyio.CancelScope) -> float | None:
        """Fetch one page and hand it over; ``fetch`` is cancelled to drop the request.

        Return when to ask this account again; None: go on with its next page.
        """
        shared = self._shared
        targets = self._state.targets
        if targets is None:
            targets = self._state.targets = self._make_targets()
        walk = self._state.cursor or await self._begin_walk(targets)
        here = cast("Position", walk.position)
        if shared.is_stopping:
            return NEVER
        asked_at = time.monotonic()
        shared.fetching.add(fetch)
        read = partial(self._read, fetch)
        try:
            page = await fetch_page(
                client, targets, read, here, empty_body=shared.reader.empty_body, empty_on_not_found=True
            )
        except TrutoError as error:
            return self._failed(error, asked_at, (targets, here))
        finally:
            shared.fetching.discard(fetch)
        shared.circuit.success(self._state.arrived_at)
        self._state.calls, self._state.failing_since = 0, None
        self._state.is_resumed = False
        response = page.response
        shared.report.count_call(attempts=response.attempts, waited=response.waited, issues=page.issues_count)
        shared.report.no_data += response.status == 404
        loop: CursorLoopError | None = None
        try:
            walk.advance(here, page.next_cursor)
        except CursorLoopError as error:
            loop = error  # the page itself is good; a later run restarts its window
        self._hand_over(page, walk.position, is_loop=loop is not None)
        again_at = None if self._state.windows_left else NEVER
        if loop is not None:
            again_at = self._fail(loop)
        if again_at == NEVER:
            shared.witness = targets, here
        return again_at

    def _make_targets(self) -> RequestTargets:
        shared = self._shared
        if (first := shared.targets.get(self._state.window)) is not None:
            return first.for_account(self._state.account.id)
        query = shared.plan.query(self._state.account, shared.plan.windows[self._state.window])
        targets = shared.targets[self._state.window] = RequestTargets(query)
        return targets

    async def _begin_walk(self, targets: RequestTargets) -> PageCursor:
        progress = self._state.progress
        position = None if progress.position is None else Position.parse(progress.position)
        if progress.rows and (position is None or progress.is_restarted):
            # In this run or an earlier one: leave out what was handed out before.
            log = await self._shared.commits.log_of(
                (self._state.account.id, self._state.window),
                self._shared.commits.queue_of(self._state.account.id),
            )
            self._state.seen = SeenRows(log, goes_on=position is not None)
        self._state.is_resumed = position is not None and position.cursor is not None
        self._state.cursor = PageCursor(
            targets.start_position(position), len(targets.query.user_batches), account=self._state.account.id
        )
        return self._state.cursor

    async def _read(self, fetch: anyio.CancelScope, body: bytes, time_of_call: CallTime) -> PageData[Any]:
        """Read a page when the consumer is about to take it.

        A page of fifty rows is hundreds of objects, while a body is one. If all that arrive at once were read at
        once, they would have left the processor's cache by the time the consumer gets to them, and the garbage
        collector would walk over them in between: half as much work again.
        """
        shared = self._shared
        self._state.arrived_at, self._state.pulled_at = time.monotonic(), datetime.now(UTC)
        if body[-8:].rstrip().endswith(b"}"):  # or else it may be cut, and is no answer until it was read
            shared.circuit.success(self._state.arrived_at)
        shared.fetching.discard(fetch)
        fetch.deadline = math.inf
        await shared.pages.reserve()
        try:
            data = await read_page(
                shared.client, shared.reader, body, time_of_call, account=self._state.account.id
            )
        except BaseException as error:
            shared.pages.give_back()
            if isinstance(error, TruncatedBodyError):
                shared.fetching.add(fetch)  # it is fetched again,
                if shared.is_stopping:
                    fetch.cancel()  # but not now
            raise
        self._state.body = body
        return data

    def _hand_over(self, page: Page[Any], position: Position | None, *, is_loop: bool) -> None:
        shared = self._shared
        window, progress = self._state.window, self._state.progress
        is_last = position is None
        log = b""
        if self._state.seen is not None:
            fresh, log = self._state.seen.sift(row_fingerprints(row_identities(page.items)))
            if len(fresh) < len(page):
                page = copy(page)
                page.items = tuple(page.items[index] for index in fresh)
        rows = progress.rows + len(page)
        progress = Progress(
            position=None if is_last or is_loop else str(position),
            rows=rows,
            pages=progress.pages + 1,
            outcome="open" if not is_last else "done" if rows else "empty",
            is_restarted=self._state.seen is not None and not is_last,
        )
        self._state.has_rows |= rows > 0
        self._state.progress = progress
        ends: Literal["", "done", "empty"] = ""
        if is_last:
            self._state.cursor = self._state.targets = self._state.seen = None
            self._state.restarts = 0
            self._state.windows_left -= 1
            self._state.next_window()
            if not self._state.windows_left:
                ends = "done" if self._state.has_rows else "empty"
        entry = Entry(
            self._shared.commits.queue_of(self._state.account.id),
            (self._state.account.id, window),
            progress,
            rows=len(page),
            ends=ends,
        )
        handed = PulledPage(
            self._state.account,
            shared.plan.windows[window],
            page,
            self._state.pulled_at,
            commits=shared.commits,
            entry=entry,
        )
        issues, count = foreign_rows(handed)
        shared.report.issues += count
        shared.client.emitter.report_repairs(issues, count=count, account=self._state.account.id)
        if self._state.seen is not None:
            entry.log = log
        elif not is_last:
            shared.commits.remember(entry, handed, self._state.body)
        self._state.body = b""
        shared.pages.send(handed)

    # --- failures --------------------------------------------------------------------------------------

    def _failed(self, error: TrutoError, asked_at: float, request: tuple[RequestTargets, Position]) -> float:
        """Decide what a failed call means for its account or for everyone. Return as ``next_page``.

        :raises TrutoError: it ends the whole pull.
        """
        shared = self._shared
        cause = error.__cause__ if isinstance(error, (CursorExpiredError, UsageError)) else error
        shared.report.count_call(attempts=getattr(cause, "attempts", 1))
        if _is_fatal(error) or not isinstance(
            cause, (APIError, TransportError, DecodeError, BodyTooLargeError)
        ):
            raise error
        if isinstance(cause, RateLimitError) and not cause.attempts:  # refused by pacing: nothing was sent
            return self._wait_or_park(cause)
        if not is_answer(cause, shared.client.retry):
            return self._unanswered(cause, asked_at)
        shared.circuit.success(time.monotonic())
        is_refused = isinstance(cause, APIError) and cause.status in _REFUSED_CURSOR
        if asks_to_wait(cause, shared.client.retry):
            again_at = self._wait_or_park(cast("APIError", cause))
        elif cause is not error or (is_refused and self._state.is_resumed):
            again_at = self._restart(error)
        else:
            again_at = self._fail(error)
        if again_at == NEVER:
            shared.witness = request
        return again_at

    def _unanswered(self, error: TrutoError, asked_at: float) -> float:
        now = time.monotonic()
        if self._state.failing_since is None:
            self._state.failing_since = asked_at
        if self._shared.circuit.failure(
            now, self._state.account.id, asked_at=asked_at, failing_since=self._state.failing_since
        ):
            self._shared.outage_cause = f"{type(error).__name__}: {error}"
            return IN_TURN  # the service's fault: the account comes again once a trial gets through
        self._state.calls += 1
        if self._state.calls >= ACCOUNT_CALLS:
            return self._fail(error)
        return now + self._backoff()

    def _wait_or_park(self, error: APIError) -> float:
        wait = error.retry_after or 0.0
        self._state.calls += 1
        if wait >= LONGEST_WAIT:  # a wrong clock or unit: nobody knows when, so a later run asks again
            return self.park(None)
        if wait > self._shared.client.retry.max_wait or self._state.calls >= ACCOUNT_CALLS:
            return self.park(time.time() + min(wait, self._shared.budget.max_park))
        return time.monotonic() + max(wait, self._backoff())

    def _backoff(self) -> float:
        return self._shared.budget.probe_wait * 2.0 ** (self._state.calls - 1)

    def _restart(self, error: TrutoError) -> float:
        """Walk the window from its start when it is its turn again."""
        self._state.cursor = self._state.targets = self._state.seen = None
        self._state.progress = replace(self._state.progress, position=None)
        self._state.restarts += 1
        return self._fail(error) if self._state.restarts > RESTARTS else IN_TURN

    def _fail(self, error: TrutoError) -> float:
        self._shared.report.not_found += isinstance(error, NotFoundError)
        self._shared.report.keep_failure(self._state.account.id, error)
        self._shared.report.windows_left += self._state.windows_left
        return self._end("failed", error=f"{type(error).__name__}: {error}"[:KEPT_CHARACTERS])

    def park(self, until: float | None) -> float:
        """Leave this account to a later run, not before ``until`` (seconds since 1970)."""
        self._shared.report.parked[self._state.account.id] = until
        self._shared.report.windows_left += self._state.windows_left
        return self._end("parked", until=until)

    def _end(self, outcome: Outcome, *, error: str | None = None, until: float | None = None) -> float:
        """Note how the account ended, behind its pages that are still to be committed."""
        ended = replace(self._state.progress, outcome=outcome, error=error, until=until)
        entry = Entry(
            self._shared.commits.queue_of(self._state.account.id),
            (self._state.account.id, self._state.window),
            ended,
        )
        self._shared.commits.mark(entry)
        return NEVER


async def still_answers(shared: Shared, fetch: anyio.CancelScope) -> bool:
    """Ask once more for what an account got that has ended. An outage is over then, or was none."""
    if shared.witness is None:
        return False
    targets, here = shared.witness

    async def read(body: bytes, time_of_call: CallTime) -> None:
        del body, time_of_call

    shared.fetching.add(fetch)
    try:
        _, response = await fetch_and_read(
            shared.trial_client, targets, read, here, empty_body=b"", empty_on_not_found=True
        )
    except TrutoError as error:
        shared.report.count_call(attempts=getattr(error.__cause__ or error, "attempts", 1))
        return is_answer(error, shared.client.retry)
    finally:
        shared.fetching.discard(fetch)
    shared.report.count_call(attempts=response.attempts)
    return True


def asks_to_wait(error: TrutoError, retry: RetryPolicy) -> bool:
    """Tell whether the service said when to come again, or that it has had enough."""
    return isinstance(error, RateLimitError) or (
        isinstance(error, APIError) and (error.retry_after or 0.0) > retry.max_wait
    )


def is_answer(error: TrutoError, retry: RetryPolicy) -> bool:
    """Tell whether an error of a call shows that the service is there."""
    is_hopeless = isinstance(error, APIError) and can_never_succeed(error.status)
    return not isinstance(error, (TransportError, ServerError)) or is_hopeless or asks_to_wait(error, retry)


def _is_fatal(error: TrutoError) -> bool:
    """Tell whether a failure would hit every other account as well, now and later."""
    return isinstance(error, (AuthenticationError, ConfigurationError)) or (
        isinstance(error, ConnectError) and error.is_permanent
    )

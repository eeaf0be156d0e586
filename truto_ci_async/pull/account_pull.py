"""Pulls one account: fetches its pages, hands them over, and decides what a failed call means.

``workers`` decides when an account has its turn; ``commits`` makes durable what was handed over.
"""

from __future__ import annotations

import math
import time
from copy import copy
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from truto_ci_async._http.policy.headers import LONGEST_WAIT
from truto_ci_async._wire.list_query import RequestTargets
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async.errors import (
    APIError,
    BodyTooLargeError,
    CursorExpiredError,
    CursorLoopError,
    DecodeError,
    NotFoundError,
    RateLimitError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)
from truto_ci_async.models import Page, Position
from truto_ci_async.models.pulls import Window
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.pagination.next_page import PageCursor
from truto_ci_async.pagination.page_fetch import Read, fetch_page, read_page
from truto_ci_async.pagination.unsupported import add_offered, may_mean_unsupported
from truto_ci_async.pull.checkpoint.base import Outcome, Progress
from truto_ci_async.pull.sync.answered import misalignment

from .account_state import AccountState, Shared
from .commits import Ends, Entry, PulledPage
from .failures import asks_to_wait, is_answer, is_fatal, may_refuse_cursor
from .foreign_rows import foreign_rows, may_have_foreign
from .positions import UNSUPPORTED, advance, join_position, split_position
from .report import KEPT_CHARACTERS
from .row_fingerprints import SeenRows, row_fingerprints, row_identities
from .walks import MODEL
from .window_check import bounds_of, split_by_window

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime

# Accounts of which it is logged that their windows differ.
LOGGED_ACCOUNTS = 10
# How often one run restarts a window whose cursor was refused.
RESTARTS = 3
# After so many failed calls in a row, each with its own retries, an account is given up while others get through.
ACCOUNT_CALLS = 3

_EMPTY = Progress(outcome="empty")

#: When to ask an account again, by the monotonic clock: when its turn comes, or not in this run.
IN_TURN, NEVER = 0.0, math.inf


class AccountPull:
    """One turn of an account: asks for its pages, one at a time, and moves its state on."""

    def __init__(self, state: AccountState, shared: Shared) -> None:
        self._state = state
        self._shared = shared
        self._request: tuple[RequestTargets, Position] | None = None  # the last one
        self._made: PulledPage[Any] | None = None  # the page that is to be handed over
        self._has_place = False  # a page is being read, or made

    def rest(self) -> None:
        """Drop what is not needed until the next turn."""
        self._state.targets = None

    # --- one page --------------------------------------------------------------------------------------

    async def next_page(self, client: BaseClient, fetch: anyio.CancelScope) -> float | None:
        """Fetch one page and hand it over; ``fetch`` is cancelled to drop the request.

        Return when to ask this account again; None: go on with its next page.
        """
        shared = self._shared
        await self._prepare()
        if shared.is_stopping:
            return NEVER
        asked_at = time.monotonic()
        shared.fetching.add(fetch)
        try:
            loop = await self._fetch_next(client, fetch)
        except TrutoError as error:
            if await self._is_unsupported(client, error):
                return self._skip(error)
            again_at: float | None = self._failed(error, asked_at)
        else:
            if self._made is not None:
                await self._hand_over(self._made)
            again_at = None if self._state.windows_left else NEVER
            if loop is not None:
                again_at = self._fail(loop)
        finally:
            shared.fetching.discard(fetch)
            self._give_back()  # or no other account could ever hand over a page
        if again_at == NEVER and self._state.failing_since is None:
            shared.witness = self._request
        return again_at

    async def _prepare(self) -> None:
        """Get ready to ask for the next page."""
        if self._state.cursor is None:
            whole, text = split_position(self._state.progress.position)
            if whole:
                self._take_whole()
            await self._begin_walk(self._targets(), None if text is None else Position.parse(text))

    async def _fetch_next(self, client: BaseClient, fetch: anyio.CancelScope) -> CursorLoopError | None:
        """Fetch and make the next page. Return the error that ends the account after it.

        :raises TrutoError: the call failed, and there is no page.
        """
        read = partial(self._read, fetch, self._shared.reader)
        walk, page, here = await self._fetch_listed(client, read)
        kept = self._check_window(page)
        if kept is None:
            return None
        loop = advance(walk, here, page)
        self._make(kept, walk.position, is_loop=loop is not None)
        return loop

    async def _fetch_listed(
        self, client: BaseClient, read: Read[PageData[Any]]
    ) -> tuple[PageCursor, Page[Any], Position]:
        """Fetch the page at the cursor of the walk."""
        walk = cast("PageCursor", self._state.cursor)
        here = cast("Position", walk.position)
        targets, _ = self._request = self._targets(), here
        page = await fetch_page(
            client,
            targets,
            read,
            here,
            empty_body=self._shared.reader.empty_body,
            empty_on_not_found=True,
        )
        self._count(page)
        self._state.is_resumed = False
        return walk, page, here

    def _count(self, page: Page[Any], *, of_window: bool = True) -> None:
        """Note that a call was answered; ``of_window``: with all that the window has."""
        shared, response = self._shared, page.response
        shared.circuit.success(self._state.arrived_at)
        self._state.calls, self._state.failing_since = 0, None
        self._state.is_partial |= bool(page.is_partial_response or page.dropped_count)
        shared.report.count_call(attempts=response.attempts, waited=response.waited, issues=page.issues_count)
        shared.report.no_data += of_window and response.status == 404

    def _targets(self) -> RequestTargets:
        """Return the targets of the walk over this window."""
        if self._state.targets is not None:
            return self._state.targets
        shared, window = self._shared, self._window()
        if (first := shared.targets.get(window)) is not None:
            targets = first.for_account(self._state.account.id)
        else:
            query = shared.plan.query(self._state.account, window)
            targets = shared.targets[window] = RequestTargets(query)
        self._state.targets = targets
        return targets

    def _window(self) -> Window:
        """Return the window that is asked for."""
        windows = self._shared.plan.windows_of(self._state.account.id)
        window = windows[self._state.window]
        return Window(window.start, windows[-1].end) if self._state.is_whole else window

    async def _begin_walk(self, targets: RequestTargets, position: Position | None) -> None:
        progress = self._state.progress
        if progress.rows and (position is None or progress.is_restarted):
            # In this run or an earlier one: leave out what was handed out before.
            self._state.seen = SeenRows(await self._log(), goes_on=position is not None)
        self._begin_at(targets, position)

    def _begin_at(self, targets: RequestTargets, position: Position | None) -> None:
        self._state.is_resumed = position is not None and position.cursor is not None
        self._state.cursor = PageCursor(
            targets.start_position(position), len(targets.query.user_batches), account=self._state.account.id
        )

    async def _log(self) -> bytes:
        """Return the log of the rows of this window that were handed out."""
        commits, account = self._shared.commits, self._state.account.id
        return await commits.log_of((account, self._state.window), commits.queue_of(account))

    def _check_window(self, page: Page[Any]) -> Page[Any] | None:
        """Leave out rows that began outside of the window, which a provider may ignore.

        None: there are some, or some without a start, and more windows to come. So that the account is not asked for
        all of its rows again in each of them, the walk begins anew over all windows from this one on. That is right for
        providers that keep to the window as well.
        """
        state, report = self._state, self._shared.report
        if not self._shared.walk.checks_window:
            return page
        kept, is_known = split_by_window(page.items, bounds_of(self._window()))
        if is_known:
            return page
        if state.windows_left > 1 and not (state.is_whole or state.later):
            self._take_whole()
            self._restart_walk()
            return None
        if len(kept) < len(page):
            report.filtered[state.account.id] = (
                report.filtered.get(state.account.id, 0) + len(page) - len(kept)
            )
            page = copy(page)
            page.items = tuple(page.items[index] for index in kept)
        return page

    def _compare_window(self, page: PulledPage[Any]) -> None:
        """Report an account whose rows cover another window than the one that was asked."""
        shared, account = self._shared, self._state.account.id
        if not shared.plan.is_sync or account in shared.report.misaligned or not shared.walk.is_counted:
            return
        if (what := misalignment(page.window, page.page.items)) is not None:
            told = len(shared.report.misaligned)
            shared.report.misaligned[account] = what.text
            shared.client.emitter.report_window(
                what.text, time_zone=what.time_zone, account=account, logs=told < LOGGED_ACCOUNTS
            )

    def _take_whole(self) -> None:
        """Ask for all windows from this one on as one."""
        self._state.is_whole, self._state.targets = True, None
        self._shared.report.filtered.setdefault(self._state.account.id, 0)

    async def _read(
        self, fetch: anyio.CancelScope, reader: PageReader[Any], body: bytes, time_of_call: CallTime
    ) -> PageData[Any]:
        """Read a page when the consumer is about to take it.

        A page of fifty rows is hundreds of objects, while a body is one. If all that arrive at once were read at
        once, they would have left the processor's cache by the time the consumer gets to them, and the garbage
        collector would walk over them in between: half as much work again.
        """
        shared = self._shared
        self._note_arrival(body)
        await self._reserve(fetch)
        try:
            data = await read_page(shared.client, reader, body, time_of_call, account=self._state.account.id)
        except TruncatedBodyError:
            self._give_back()
            shared.fetching.add(fetch)  # it is fetched again,
            if shared.is_stopping:
                fetch.cancel()  # but not now
            raise
        self._state.body = body
        return data

    async def _reserve(self, fetch: anyio.CancelScope) -> None:
        """Wait for a place. The request is over, so that nothing drops the page from here on."""
        self._shared.fetching.discard(fetch)
        if fetch.deadline != math.inf:
            fetch.deadline = math.inf
            if fetch.cancel_called:  # just now: without this, what writes the page would be cancelled
                await anyio.lowlevel.checkpoint_if_cancelled()
        await self._shared.pages.reserve()
        self._has_place = True

    def _give_back(self) -> None:
        if self._has_place:
            self._has_place = False
            self._shared.pages.give_back()

    def _note_arrival(self, body: bytes) -> None:
        self._state.arrived_at, self._state.pulled_at = time.monotonic(), datetime.now(UTC)
        if body[-8:].rstrip().endswith(b"}"):  # or else it may be cut, and is no answer until it was read
            self._shared.circuit.success(self._state.arrived_at)

    async def _hand_over(self, page: PulledPage[Any]) -> None:
        self._made = None
        self._has_place = False
        await self._shared.pages.send(page)
        self._compare_window(page)
        await self._report_foreign(page)

    def _make(self, page: Page[Any], position: Position | None, *, is_loop: bool) -> None:
        """Make what is handed over of a page: rows that were handed out before are left out."""
        shared, state = self._shared, self._state
        is_last = position is None
        log = b""
        if state.seen is not None:
            by_id = shared.walk.has_ids
            fresh, log = state.seen.sift(row_fingerprints(row_identities(page.items, by_id=by_id)))
            if len(fresh) < len(page):
                page = copy(page)
                page.items = tuple(page.items[index] for index in fresh)
        progress = Progress(
            position=None if is_last or is_loop else join_position(str(position), whole=state.is_whole),
            is_restarted=state.seen is not None and not is_last,
        )
        was_restarted = state.seen is not None
        made, entry = self._add_entry(page, progress, is_last=is_last)
        if was_restarted:
            entry.log = log
        elif not (is_last or shared.plan.is_sync):
            shared.commits.remember(entry, made, state.body)
        state.body = b""

    def _add_entry(
        self, page: Page[Any], progress: Progress, *, is_last: bool, missing: int = 0
    ) -> tuple[PulledPage[Any], Entry]:
        """Queue the entry of a page, and move on to the next window after the last one."""
        shared, state = self._shared, self._state
        window, asked = state.window, self._window()
        is_first, is_partial = not state.progress.pages, state.is_partial
        rows = state.progress.rows + len(page)
        progress = replace(
            progress,
            rows=rows,
            pages=state.progress.pages + 1,
            outcome="open" if not is_last else "done" if rows else "empty",
        )
        state.has_rows |= rows > 0
        state.progress = progress
        ends: Ends = ""
        over = 0
        if is_last:
            over = self._end_window()
            if not state.windows_left:
                ends = "done" if state.has_rows else "empty"
        queue = shared.commits.queue_of(state.account.id)
        entry = Entry(
            queue,
            (state.account.id, window),
            progress,
            rows=len(page),
            ends=ends,
            windows=over,
            missing=missing,
        )
        self._close_windows(queue, window, over)
        made = self._made = PulledPage(state.account, asked, page, commits=shared.commits, entry=entry)
        made.pulled_at = state.pulled_at or made.pulled_at
        made.is_first, made.is_partial = is_first, is_partial
        return made, entry

    async def _report_foreign(self, page: PulledPage[Any]) -> None:
        """Report items that are not of this resource. The page was handed over, so a cancellation waits for this."""
        shared = self._shared
        if not may_have_foreign(page):  # as nearly always; entering the scope takes 10 us
            return
        with anyio.CancelScope(shield=True):
            issues, count = await foreign_rows(page, ITEM_TYPES[shared.plan.resource])
            shared.report.issues += count
            shared.client.emitter.report_repairs(issues, count=count, account=self._state.account.id)

    def _end_window(self) -> int:
        """Move on to the next window. Return how many windows ended."""
        state = self._state
        over = state.windows_left if state.is_whole else 1
        state.end_walk()
        state.restarts, state.is_whole = 0, False
        state.windows_left -= over
        state.next_window()
        return over

    def _close_windows(self, queue: list[Entry], window: int, over: int) -> None:
        """Note that the windows that were asked for together with ``window`` are over: in the same commit as that."""
        for following in range(window + 1, window + over):
            Entry(queue, (self._state.account.id, following), _EMPTY).is_done = True

    # --- failures --------------------------------------------------------------------------------------

    async def _is_unsupported(self, client: BaseClient, error: TrutoError) -> bool:
        """Tell whether an account's provider does not have what is asked for. The account itself says so."""
        if self._shared.is_stopping or not (isinstance(error, APIError) and may_mean_unsupported(error)):
            return False
        resources = {self._shared.walk.resource, self._shared.walk.path[-1]}
        for resource in resources:
            if not error.offered:
                await add_offered(client, error, self._state.account.id, (MODEL, resource, "list"))
        return bool(error.offered)

    def _skip(self, error: TrutoError) -> float:
        """End an account that cannot be pulled: nothing is missing, and a later run need not ask again."""
        shared, state = self._shared, self._state
        shared.circuit.success(time.monotonic())
        shared.report.count_call(attempts=getattr(error, "attempts", 1))
        text = str(error)[:KEPT_CHARACTERS]
        shared.report.unsupported[state.account.id] = text
        ended = replace(state.progress, outcome="empty", position=UNSUPPORTED, error=text)
        queue, left = shared.commits.queue_of(state.account.id), state.windows_left
        entry = Entry(queue, (state.account.id, state.window), ended, ends="skipped", windows=left)
        self._close_windows(queue, state.window, left)
        shared.commits.mark(entry)
        return NEVER

    def _failed(self, error: TrutoError, asked_at: float) -> float:
        """Decide what a failed call means for its account or for everyone. Return as ``next_page``.

        :raises TrutoError: it ends the whole pull.
        """
        shared = self._shared
        cause = error.__cause__ if isinstance(error, (CursorExpiredError, UsageError)) else error
        shared.report.count_call(attempts=getattr(cause, "attempts", 1))
        if is_fatal(error) or not isinstance(
            cause, (APIError, TransportError, DecodeError, BodyTooLargeError)
        ):
            raise error
        if isinstance(cause, RateLimitError) and not cause.attempts:  # refused by pacing: nothing was sent
            return self._wait_or_park(cause)
        if not is_answer(cause, shared.client.retry):
            return self._unanswered(cause, asked_at)
        shared.circuit.success(time.monotonic())
        self._state.failing_since = None
        if asks_to_wait(cause, shared.client.retry):
            return self._wait_or_park(cast("APIError", cause))
        if cause is not error or (may_refuse_cursor(cause) and self._state.is_resumed):
            return self._restart(error)
        return self._fail(error)

    def _unanswered(self, error: TrutoError, asked_at: float) -> float:
        now = time.monotonic()
        if self._state.failing_since is None:
            self._state.failing_since = asked_at
        if self._shared.circuit.is_proven_bad(asked_at=asked_at, failing_since=self._state.failing_since):
            return self._fail(error)
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
        if wait >= LONGEST_WAIT:  # a wrong clock or unit: the time is unknown, so a later run asks again
            return self.park(None)
        if wait > self._shared.client.retry.max_wait or self._state.calls >= ACCOUNT_CALLS:
            return self.park(time.time() + min(wait, self._shared.budget.max_park))
        return time.monotonic() + max(wait, self._backoff())

    def _backoff(self) -> float:
        return self._shared.budget.probe_wait * 2.0 ** (self._state.calls - 1)

    def _restart(self, error: TrutoError) -> float:
        """Walk the window from its start when it is its turn again."""
        self._restart_walk()
        self._state.restarts += 1
        return self._fail(error) if self._state.restarts > RESTARTS else IN_TURN

    def _restart_walk(self) -> None:
        """Begin the walk over this window anew. In a sync, what it has handed out no longer counts."""
        state, position = self._state, self._restart_position()
        state.end_walk()
        before = Progress() if self._shared.plan.is_sync else state.progress
        state.progress = replace(before, position=position)

    def _restart_position(self) -> str | None:
        """Return the position at the start of this window."""
        return None

    def _fail(self, error: TrutoError) -> float:
        self._shared.report.not_found += isinstance(error, NotFoundError)
        self._shared.report.keep_failure(self._state.account.id, error)
        self._shared.report.windows_left += self._state.windows_left
        return self._end("failed", error=f"{type(error).__name__}: {error}"[:KEPT_CHARACTERS])

    def park(self, until: float | None) -> float:
        """Leave this account to a later run, which may start ``until`` (seconds since 1970) at the earliest."""
        self._shared.report.parked[self._state.account.id] = until
        self._shared.report.windows_left += self._state.windows_left
        return self._end("parked", until=until)

    def _end(self, outcome: Outcome, *, error: str | None = None, until: float | None = None) -> float:
        """Note how the account ended, queued after its pages that are not committed yet."""
        ended = replace(self._state.progress, outcome=outcome, error=error, until=until)
        entry = Entry(
            self._shared.commits.queue_of(self._state.account.id),
            (self._state.account.id, self._state.window),
            ended,
        )
        self._shared.commits.mark(entry)
        return NEVER

"""Every account of a plan, pulled at once and kept apart: killed at will, nothing lost, nothing doubled.

How it works. A fixed number of workers take accounts from a queue; a worker asks one account for one page after
another, oldest window first, reads it when the consumer is about to take it, and hands it over. The consumer marks
pages as done; what is done becomes durable in batches (``_commits``). Nothing is marked before it was handed over, so
a crash repeats pages and never skips one.

One account's failure is a result and leaves the others alone. A failure of the service itself holds everyone
back while a single request probes until it is there again (``_outage``). Only a refused token, a client that is
closed and a disk that fails end the whole pull.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar, cast

import anyio
import msgspec

from truto_ci_async._http.policy.circuit_breaker import CircuitBreaker
from truto_ci_async._wire.item_reader import ItemReader, OnInvalid
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
    RateLimitError,
    ServerError,
    TransportError,
    TruncatedBodyError,
    TrutoError,
    UsageError,
)
from truto_ci_async.models import Interaction, Page, Position
from truto_ci_async.models.pulls import AccountPage, PlannedAccount, Window
from truto_ci_async.pagination.cursor import PageCursor
from truto_ci_async.pagination.page_fetch import fetch_page, read_page
from truto_ci_async.pull.checkpoint.base import Checkpoint, Key, Outcome, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.sinks.base import Sink
from truto_ci_async.sinks.files import FileSink

from .commits import Commits, Entry, wait_for_event
from .report import Budget, PullReport
from .row_fingerprints import SeenRows, row_identities, row_keys, split

if TYPE_CHECKING:
    from types import TracebackType

    from truto_ci_async._http.base_client import BaseClient


R = TypeVar("R")
T = TypeVar("T")


CommitMode: TypeAlias = Literal["auto", "manual"]
#: A plan, or what makes one once the one that is stored, if any, is known.
MadePlan: TypeAlias = "Plan | Callable[[Plan | None], Awaitable[Plan]]"

# Pages that are read before the consumer takes them: of those that wait for it, most are bodies still.
READ_AHEAD = 4
# Pages an account is asked for before another one that waits gets the worker.
TURN_PAGES = 16
# A window whose cursor died is begun again this often in one run.
RESTARTS = 3
# An account that keeps failing while others do not is given up after so many calls, each with its own retries.
ACCOUNT_CALLS = 3
# After ``stop()``, what the service has not answered within so many seconds is dropped.
STOP_SECONDS = 1.0
# Leaving a pull waits so many seconds at most for its workers to notice.
END_SECONDS = 5.0

# Statuses of a refused cursor. Nobody has published the words that go with them.
_REFUSED_CURSOR = frozenset({400, 404, 409, 410, 422})
_BEGUN_AGAIN = "begun again: its cursor was refused"


class PulledPage(AccountPage[T]):
    """A page that a pull handed out; ``commit`` marks it as done."""

    __slots__ = ("_entry", "_pull")

    def __init__(
        self, account: PlannedAccount, window: Window, page: Page[T], *, pull: Pull[T], entry: Entry
    ) -> None:
        super().__init__(account, window, page)
        self._pull = pull
        self._entry = entry

    def mark(self) -> None:
        """Mark this page as done; it becomes durable with the next commit."""
        self._pull.mark(self._entry)

    async def commit(self) -> None:
        """Mark this page as done, and wait until that is durable.

        Pages of one account are committed in order: this one waits for those before it. Committing twice is fine.

        :raises StorageError: the checkpoint cannot be written.
        """
        self.mark()
        await self._pull.flushed(self._entry)


class _Account:
    """Where the pull of one account stands."""

    __slots__ = (
        "account",
        "body",
        "calls",
        "failing_since",
        "is_resumed",
        "left",
        "open",
        "restarts",
        "rows",
        "seen",
        "targets",
        "walk",
    )

    def __init__(self, account: PlannedAccount, left: deque[tuple[int, Progress]], rows: int) -> None:
        self.account = account
        self.left = left  # windows still to do, oldest first, with the progress made in each
        self.rows = rows  # in all windows, for telling empty accounts
        self.walk: PageCursor | None = None  # of the first of them
        self.targets: RequestTargets | None = None
        self.body = b""  # of the page that is about to be handed over
        self.is_resumed = False  # the walk begins with a cursor of an earlier run, not used in this one yet
        self.open: deque[Entry] = deque()  # handed out and not committed yet, in order
        self.calls = 0  # failed ones in a row
        self.failing_since: float | None = None  # the first of those that were not the service's fault
        self.restarts = 0
        self.seen: SeenRows | None = None  # rows handed out before the window was begun again


class Pull(Generic[T]):
    """A bounded stream of pages of many accounts, each with whose it is and what window it answers.

        async with truto.interactions.pull(account_ids, start_time=start, end_time=end) as pages:
            async for page in pages:
                store(page.account.id, page.page.items)
        print(pages.report)

    ``commit="auto"``: one consumer; asking for the next page marks the one before as done, while leaving the loop
    by ``break`` or an exception does not. ``commit="manual"``: any number of consumers, each page is done when its
    ``commit()`` is called. ``report`` can be read at any time. Pages of one account come in order.

    Leaving the block drops what is in flight and makes durable what is marked, whatever it is left by; a
    cancellation waits for that.
    """

    def __init__(
        self,
        client: BaseClient,
        plan: MadePlan,
        *,
        checkpoint: Checkpoint | None = None,
        budget: Budget = Budget(),
        commit: CommitMode = "auto",
        item_type: Any = Interaction,
        on_invalid: OnInvalid = "repair",
        grow: bool = False,
        fresh: bool = False,
        sink: Sink | None = None,
    ) -> None:
        if commit not in ("auto", "manual"):
            raise UsageError(f"commit is 'auto' or 'manual', not {commit!r}")
        self._client = client
        # A probe is one request: retries are for a service that is there.
        self._prober = client.with_options(retry=msgspec.structs.replace(client.retry, attempts=1))
        self._make_plan = plan
        self._checkpoint = checkpoint or MemoryCheckpoint()
        self._budget = budget
        self._auto = commit == "auto"
        # Our own sinks write a page, and keep nothing of it.
        detach = not isinstance(sink, FileSink)
        self._reader = PageReader(ItemReader[Any](item_type, on_invalid=on_invalid), detach=detach)
        self._grow = grow
        self._fresh = fresh
        self._sink = sink
        self.plan: Plan | None = None
        self.report = PullReport()

        self._entered = False
        self._closed = False
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._fatal: Exception | None = None  # ends the pull; the consumer gets it in place of the end

        self._ready: deque[PlannedAccount | _Account] = deque()
        self._later: list[tuple[float, int, _Account]] = []  # heap: not to be asked before
        self._order = count()
        self._stored: dict[Key, Progress] = {}
        self._targets: dict[int, RequestTargets] = {}  # of the first account that came to each window
        self._in_service = 0
        self._wake = asyncio.Event()
        self._outage = CircuitBreaker(
            max_outage=budget.max_outage, probe_wait=budget.probe_wait, max_probe_wait=budget.max_probe_wait
        )

        self._unanswered_for = ""  # what the last call of an outage failed with

        self._workers: set[asyncio.Task[None]] = set()
        self._fetching: set[asyncio.Task[Any]] = set()  # those of them that wait for the service
        # Pages on their way to the consumer, None behind the last one, and how many more may be on it.
        self._pages: asyncio.Queue[PulledPage[T] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(min(READ_AHEAD, budget.max_accounts))

        self._asking = False
        self._handed: PulledPage[T] | None = None
        self._commits = Commits(
            self._checkpoint,
            sink,
            reader=self._reader,
            count=self._count_done,
            on_failure=self._die,
        )

    # --- life ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError("a pull is run once; make a new one, which goes on from the checkpoint")
        self._entered = True
        # Held before accounts are looked up, and these not looked up again: a run goes on with those it has.
        stored = await self._checkpoint.hold(fresh=self._fresh)
        try:
            asked = self._make_plan
            if not isinstance(asked, Plan):
                asked = await asked(None if self._grow else stored)
            self.plan = await self._checkpoint.open(asked, grow=self._grow, fresh=self._fresh)
            if self._sink is not None:
                await self._sink.open(self._checkpoint.sink_state)
            self._schedule(self.plan, await self._checkpoint.load())
        except BaseException:
            await _to_its_end(self._close_stores())
            raise
        size = self._budget.max_accounts
        for number in range(min(size, len(self._ready))):
            worker = asyncio.create_task(self._work(), name=f"truto-pull-{number + 1}")
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)
        if not self._workers:
            self._pages.put_nowait(None)
        self._commits.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await _to_its_end(self._close())
        except Exception as failed:
            if error is None:
                raise
            if failed is not error:
                error.add_note(f"and the last commit failed: {failed}")

    async def _close(self) -> None:
        """Drop what is in flight, make durable what is marked, and let go of everything.

        :raises Exception: what is marked could not be made durable.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers, timeout=END_SECONDS)
        await self._commits.close()
        failure: Exception | None = None
        try:
            await self._close_stores()
        except Exception as error:  # noqa: BLE001 - a sink may raise anything; raised again below
            failure = error
        self._pages.put_nowait(None)
        self._commits.settle(failure)

    async def _close_stores(self) -> None:
        """Close the sink, then the checkpoint, whose lock keeps other runs away from both."""
        try:
            if (close := getattr(self._sink, "aclose", None)) is not None:
                await close()
        finally:
            await self._checkpoint.aclose()

    @property
    def outage(self) -> tuple[float, str] | None:
        """Since how many seconds the service has not answered, and what came in its place; None: it answers."""
        seconds = self._outage.seconds
        return None if seconds is None else (seconds, self._unanswered_for)

    def stop(self) -> None:
        """Ask for no more pages: what is in hand still comes, then the stream ends. Run again to go on.

        What the service has not answered a second later is dropped.
        """
        self._halt()
        if self._timer is None and self._workers:
            self._timer = asyncio.get_running_loop().call_later(STOP_SECONDS, self._drop_fetches)

    def _halt(self) -> None:
        self._stopping = True
        self._outage.stop()
        self._wake_all()

    def _drop_fetches(self) -> None:
        for worker in self._fetching:
            worker.cancel()

    def _die(self, error: Exception) -> None:
        """End the pull: nothing more is sent, and the consumer gets ``error`` once it has what was handed over."""
        if self._fatal is None:
            self._fatal = error
        self._halt()
        self._drop_fetches()
        self._commits.tell()

    def __aiter__(self) -> AsyncIterator[PulledPage[T]]:
        return self

    async def __anext__(self) -> PulledPage[T]:
        self._check_open()
        if self._auto:
            if self._asking:
                raise UsageError(
                    "two tasks ask this pull for the next page at once, and asking marks the page before as done; "
                    "use one consumer, or commit='manual'"
                )
            if self._handed is not None:
                self._handed.mark()
                self._handed = None
        self._commits.check()
        self._asking = True
        try:
            page = await self._pages.get()
        finally:
            self._asking = False
        if page is None:
            self._pages.put_nowait(None)  # for whoever asks next
            self._check_open()
            self._commits.check()
            if self._fatal is not None:
                raise self._fatal from self._fatal.__cause__
            raise StopAsyncIteration
        self._room.release()
        if self._auto:
            self._handed = page
        return page

    async def write(self, page: PulledPage[T]) -> None:
        """Give a page to the sink and mark it as done: from then on a commit takes both or neither."""
        await self._commits.write(page, page.mark)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this pull is closed")
        if not self._commits.is_started:
            raise UsageError("open the pull first: async with ... as pages:")

    def mark(self, entry: Entry) -> None:
        """Mark an entry as done; it counts once all before it in its account are."""
        self._check_open()
        self._commits.mark(entry)

    async def flushed(self, entry: Entry) -> None:
        """Wait until ``entry`` is durable."""
        while not entry.durable:
            self._commits.check()
            self._check_open()
            await self._commits.next()

    def _count_done(self, entry: Entry, sign: int) -> None:
        report = self.report
        if entry.rows is not None:
            report.rows += sign * entry.rows
            report.pages += sign
            report.done += sign * (entry.ends != "")
            report.empty += sign * (entry.ends == "empty")
            report.windows_done += sign * entry.progress.is_over

    # --- who is next -----------------------------------------------------------------------------------

    def _schedule(self, plan: Plan, stored: dict[Key, Progress]) -> None:
        """Queue every account that has a window left to do."""
        self._stored = stored
        self.report.accounts = len(plan.accounts)
        self.report.windows = len(plan.windows)
        over: dict[str, int] = {}
        rows: dict[str, int] = {}
        until: dict[str, float] = {}
        for (name, _), progress in stored.items():
            over[name] = over.get(name, 0) + progress.is_over
            self.report.windows_done += progress.is_over
            rows[name] = rows.get(name, 0) + progress.rows
            if progress.outcome == "parked" and progress.until is not None:
                until[name] = max(until.get(name, 0.0), progress.until)
        now = time.time()
        for account in plan.accounts:
            if over.get(account.id, 0) == len(plan.windows):
                self.report.done += 1
                self.report.empty += not rows.get(account.id)
            elif until.get(account.id, 0.0) > now:
                self.report.parked[account.id] = until[account.id]
            else:
                self._ready.append(account)

    def _begin(self, account: PlannedAccount) -> _Account:
        """Gather what is left to do of an account; kept small until then, for there may be very many."""
        plan = cast("Plan", self.plan)
        left: deque[tuple[int, Progress]] = deque()
        rows = 0
        for index in range(len(plan.windows)):
            progress = self._stored.pop((account.id, index), None) or Progress()
            rows += progress.rows
            if not progress.is_over:
                left.append((index, progress))
        return _Account(account, left, rows)

    def _wake_all(self) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()

    async def _take(self) -> _Account | None:
        """Wait for an account that may be asked now; None when there will be none."""
        while not self._stopping:
            now = time.monotonic()
            while self._later and (self._later[0][0] <= now or self._outage.is_over):
                self._ready.append(heappop(self._later)[2])
            if self._ready:
                self._in_service += 1
                taken = self._ready.popleft()
                return self._begin(taken) if isinstance(taken, PlannedAccount) else taken
            if not self._later and not self._in_service:
                self._wake_all()
                return None
            await wait_for_event(self._wake, self._later[0][0] - now if self._later else None)
        return None

    async def _work(self) -> None:
        while (state := await self._take()) is not None:
            try:
                again_at = await self._serve(state)
            except Exception as error:  # noqa: BLE001 - reaches the consumer as it was raised
                self._die(error)
                return
            finally:
                self._in_service -= 1
            if again_at is not None:
                if again_at:
                    heappush(self._later, (again_at, next(self._order), state))
                else:
                    self._ready.append(state)
            self._wake_all()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not self._workers:
            self._pages.put_nowait(None)

    async def _serve(self, state: _Account) -> float | None:
        """Ask one account for some pages. Returns when to come again (0: in its turn), None when it is over."""
        for _ in range(TURN_PAGES):
            if not await self._outage.turn():
                if self._outage.is_over:
                    self._park(state, None)
                return None
            is_probe = self._outage.is_on
            try:
                outcome = await self._one_page(state, is_probe=is_probe)
            except BaseException:
                if is_probe:
                    self._outage.undecided()
                raise
            if outcome is not None:
                return outcome if outcome >= 0 else None
        return 0.0

    # --- one page --------------------------------------------------------------------------------------

    async def _one_page(self, state: _Account, *, is_probe: bool) -> float | None:
        """Fetch and hand over one page.

        Returns None to go on with the next one, else when to come again, or _OVER.
        """
        if state.walk is None:
            await self._begin_walk(state)
        walk, targets = state.walk, state.targets
        assert walk is not None
        assert targets is not None
        here = walk.position
        assert here is not None
        client = self._prober if is_probe else self._client
        asked_at = time.monotonic()
        worker = cast("asyncio.Task[Any]", asyncio.current_task())
        self._fetching.add(worker)
        read = partial(self._read, state, worker)
        try:
            page = await fetch_page(client, targets, read, here, empty_body=self._reader.empty_body)
        except TrutoError as error:
            return self._failed(state, error, asked_at, is_probe=is_probe)
        finally:
            self._fetching.discard(worker)
        self._outage.success()
        state.calls, state.failing_since = 0, None
        state.is_resumed = False
        self._count(page)
        loop: CursorLoopError | None = None
        try:
            walk.advance(here, page.next_cursor)
        except CursorLoopError as error:
            loop = error  # the page itself is good; a later run begins its window again
        self._hand_over(state, page, is_loop=loop is not None)
        if loop is not None:
            return self._fail(state, loop)
        return None if state.left else _OVER

    async def _read(self, state: _Account, worker: asyncio.Task[Any], body: bytes) -> PageData[Any]:
        """Read a page when it is about to be taken.

        A page of fifty rows is hundreds of objects and a body is one. Were all that arrive at once read at once, they
        would be out of the processor's cache when the consumer comes to them, and the garbage collector would walk
        over them in between: half as much work again.
        """
        self._fetching.discard(worker)
        await self._room.acquire()
        try:
            data = await read_page(self._client, self._reader, body, account=state.account.id)
        except BaseException as error:
            self._room.release()
            if isinstance(error, TruncatedBodyError):
                self._fetching.add(worker)  # it is fetched again,
                if self._stopping:
                    worker.cancel()  # but not now
            raise
        state.body = body
        return data

    async def _begin_walk(self, state: _Account) -> None:
        index, progress = state.left[0]
        targets = self._targets_of(state.account, index)
        position = None if progress.position is None else Position.parse(progress.position)
        if progress.rows and (position is None or progress.error is not None):
            # Begun again, in this run or an earlier one: leave out what was handed out before.
            keys = await self._commits.keys_of((state.account.id, index), state.open)
            state.seen = SeenRows(split(keys))
        state.targets = targets
        state.is_resumed = position is not None and position.cursor is not None
        state.walk = PageCursor(
            targets.start_position(position), len(targets.query.user_batches), account=state.account.id
        )

    def _targets_of(self, account: PlannedAccount, index: int) -> RequestTargets:
        """Return what is asked of an account over a window: checked, ordered and encoded once for each window."""
        first = self._targets.get(index)
        if first is not None:
            return first.for_account(account.id)
        plan = cast("Plan", self.plan)
        targets = self._targets[index] = RequestTargets(plan.query(account, plan.windows[index]))
        return targets

    def _hand_over(self, state: _Account, page: Page[Any], *, is_loop: bool) -> None:
        index, progress = state.left[0]
        window = cast("Plan", self.plan).windows[index]
        position = cast("PageCursor", state.walk).position
        is_last = position is None
        if state.seen is not None:
            fresh = state.seen.new(list(split(row_keys(row_identities(page.items)))))
            if len(fresh) < len(page):
                page = _only(page, fresh)
        rows = progress.rows + len(page)
        progress = Progress(
            position=None if is_last or is_loop else str(position),
            rows=rows,
            pages=progress.pages + 1,
            outcome="open" if not is_last else "done" if rows else "empty",
            error=None if is_last or state.seen is None else _BEGUN_AGAIN,
        )
        state.rows += len(page)
        if is_last:
            state.left.popleft()
            state.walk = state.seen = None
            state.restarts = 0
        else:
            state.left[0] = (index, progress)
        ends: Literal["", "done", "empty"] = "" if state.left else "done" if state.rows else "empty"
        entry = Entry(state.open, (state.account.id, index), progress, rows=len(page), ends=ends)
        state.open.append(entry)
        handed = PulledPage(state.account, window, page, pull=self, entry=entry)
        if not is_last:
            self._commits.remember(entry, handed, state.body, is_whole=state.seen is None)
        state.body = b""
        self._pages.put_nowait(handed)

    def _count(self, page: Page[Any]) -> None:
        report = self.report
        report.requests += page.response.attempts
        report.retries += page.response.attempts - 1
        report.waited += page.response.waited
        report.issues += len(page.issues)

    # --- failures --------------------------------------------------------------------------------------

    def _failed(self, state: _Account, error: TrutoError, asked_at: float, *, is_probe: bool) -> float:
        """Decide what a failed call means, for its account or for everyone. Returns as ``_one_page``.

        :raises TrutoError: it ends the whole pull.
        """
        cause = error.__cause__ if isinstance(error, (CursorExpiredError, UsageError)) else error
        attempts: int = getattr(cause, "attempts", 1)
        self.report.requests += attempts
        self.report.retries += max(attempts - 1, 0)
        is_fatal = isinstance(error, (AuthenticationError, ConfigurationError)) or (
            isinstance(error, ConnectError) and error.is_permanent
        )
        if is_fatal or not isinstance(cause, (APIError, TransportError, DecodeError, BodyTooLargeError)):
            raise error
        if isinstance(cause, RateLimitError) and not cause.attempts:
            if is_probe:
                self._outage.undecided()  # pacing said so, and nobody was asked
            return self._told_to_wait(state, cause)
        is_asked_to_wait = isinstance(cause, APIError) and (
            (cause.retry_after or 0.0) > self._client.retry.max_wait or isinstance(cause, RateLimitError)
        )
        if not is_asked_to_wait and isinstance(cause, (TransportError, ServerError)):
            return self._unanswered(state, cause, asked_at)
        self._outage.success()
        if is_asked_to_wait:
            return self._told_to_wait(state, cast("APIError", cause))
        if cause is not error or (
            state.is_resumed and isinstance(cause, APIError) and cause.status in _REFUSED_CURSOR
        ):
            return self._begin_again(state, error)
        return self._fail(state, error)

    def _unanswered(self, state: _Account, error: TrutoError, asked_at: float) -> float:
        if self._outage.failure(asked_at, failing_since=state.failing_since):
            self._unanswered_for = f"{type(error).__name__}: {error}"
            return 0.0  # the service, not the account: it comes again when a probe gets through
        state.calls += 1
        if state.failing_since is None:
            state.failing_since = time.monotonic()
        if state.calls >= ACCOUNT_CALLS:
            return self._fail(state, error)
        return time.monotonic() + self._budget.probe_wait * 2.0 ** (state.calls - 1)

    def _told_to_wait(self, state: _Account, error: APIError) -> float:
        wait = error.retry_after or 0.0
        state.calls += 1
        if wait > self._client.retry.max_wait or state.calls >= ACCOUNT_CALLS:
            return self._park(state, time.time() + wait)
        return time.monotonic() + max(wait, self._budget.probe_wait * 2.0 ** (state.calls - 1))

    def _begin_again(self, state: _Account, error: TrutoError) -> float:
        """PageCursor the window from its start when it is its turn again."""
        index, progress = state.left[0]
        state.walk = state.seen = None
        state.left[0] = (index, msgspec.structs.replace(progress, position=None, error=_BEGUN_AGAIN))
        state.restarts += 1
        return self._fail(state, error) if state.restarts > RESTARTS else 0.0

    def _fail(self, state: _Account, error: TrutoError) -> float:
        self.report.failed[state.account.id] = _light(error)
        return self._end(state, outcome="failed", error=f"{type(error).__name__}: {error}")

    def _park(self, state: _Account, until: float | None) -> float:
        self.report.parked[state.account.id] = until
        return self._end(state, outcome="parked", until=until)

    def _end(
        self, state: _Account, *, outcome: Outcome, error: str | None = None, until: float | None = None
    ) -> float:
        """Note how an account ended, behind the pages of it that are still to be committed."""
        index, progress = state.left[0]
        # An error that is there says that the window was begun again, which must not be forgotten.
        ended = msgspec.structs.replace(progress, outcome=outcome, error=error or progress.error, until=until)
        entry = Entry(state.open, (state.account.id, index), ended)
        state.open.append(entry)
        self.mark(entry)
        return _OVER


# What stands in place of the time to come again for an account that does not.
_OVER = -1.0


async def _to_its_end(work: Coroutine[Any, Any, R]) -> R:
    """Do ``work``. A cancellation waits for it and then goes on; a second one leaves it to end by itself."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, whoever waits
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):  # a cancelled scope of anyio's would not let us wait
            await asyncio.wait([task])
        raise
    return task.result()


def _light(error: TrutoError) -> TrutoError:
    """Return ``error`` without the frames it went through: they would keep pages alive for as long as it is kept."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = each.__context__ = None
        each = each.__cause__
    return error


def _only(page: Page[Any], wanted: list[int]) -> Page[Any]:
    """Return ``page`` with some of its items."""
    return Page(
        [page.items[index] for index in wanted],
        next_cursor=page.next_cursor,
        prev_cursor=page.prev_cursor,
        result_count=page.result_count,
        is_partial_response=page.is_partial_response,
        debug=page.debug,
        extra=page.extra,
        issues=page.issues,
        response=page.response,
        position=page.position,
    )

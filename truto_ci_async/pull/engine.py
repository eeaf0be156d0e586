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
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar, cast

import anyio
import msgspec

from truto_ci_async._http.policy.circuit_breaker import CircuitBreaker
from truto_ci_async._wire.item_reader import ItemReader, OnInvalid
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import (
    UsageError,
)
from truto_ci_async.models import Interaction
from truto_ci_async.models.pulls import PlannedAccount
from truto_ci_async.pull.checkpoint.base import Checkpoint, Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.sinks.base import Sink
from truto_ci_async.sinks.files import FileSink

from .account_pull import IN_TURN, NEVER, AccountPull, Shared
from .commits import Commits, PulledPage, wait_for_event
from .report import Budget, PullReport

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
# After ``stop()``, what the service has not answered within so many seconds is dropped.
STOP_SECONDS = 1.0
# Leaving a pull waits so many seconds at most for its workers to notice.
END_SECONDS = 5.0


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
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._fatal: Exception | None = None  # ends the pull; the consumer gets it in place of the end

        self._ready: deque[PlannedAccount | AccountPull] = deque()
        self._later: list[tuple[float, int, AccountPull]] = []  # heap: not to be asked before
        self._order = count()
        self._shared: Shared | None = None
        self._in_service = 0
        self._wake = asyncio.Event()
        self._outage = CircuitBreaker(
            max_outage=budget.max_outage, probe_wait=budget.probe_wait, max_probe_wait=budget.max_probe_wait
        )

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
            report=self.report,
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
        self._commits.is_closed = True
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
        return None if seconds is None or self._shared is None else (seconds, self._shared.outage_cause)

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
        self._commits.require_open()
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
            self._commits.require_open()
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
        await self._commits.write(page)

    # --- who is next -----------------------------------------------------------------------------------

    def _schedule(self, plan: Plan, stored: dict[Key, Progress]) -> None:
        """Queue every account that has a window left to do."""
        self._shared = Shared(
            self._client,
            plan,
            self._reader,
            self._commits,
            self.report,
            self._budget,
            self._outage,
            stored=stored,
            fetching=self._fetching,
            room=self._room,
            hand_over=self._pages.put_nowait,
            is_stopping=lambda: self._stopping,
        )
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

    def _wake_all(self) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()

    async def _take(self) -> AccountPull | None:
        """Wait for an account that may be asked now; None when there will be none."""
        while not self._stopping:
            now = time.monotonic()
            while self._later and (self._later[0][0] <= now or self._outage.is_over):
                self._ready.append(heappop(self._later)[2])
            if self._ready:
                self._in_service += 1
                taken = self._ready.popleft()
                return (
                    AccountPull(taken, cast("Shared", self._shared))
                    if isinstance(taken, PlannedAccount)
                    else taken
                )
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
            if again_at == IN_TURN:
                self._ready.append(state)
            elif again_at != NEVER:
                heappush(self._later, (again_at, next(self._order), state))
            self._wake_all()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not self._workers:
            self._pages.put_nowait(None)

    async def _serve(self, account: AccountPull) -> float:
        """Ask one account for some pages. Return when to ask it again."""
        for _ in range(TURN_PAGES):
            if not await self._outage.turn():
                return account.park(None) if self._outage.is_over else NEVER
            is_probe = self._outage.is_on
            try:
                again_at = await account.next_page(
                    self._prober if is_probe else self._client, is_probe=is_probe
                )
            except BaseException:
                if is_probe:
                    self._outage.undecided()
                raise
            if again_at is not None:
                return again_at
        return IN_TURN


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

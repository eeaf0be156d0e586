"""Pulls every account of a plan at once: it can be killed at any time, and nothing is lost or doubled.

How it works. A fixed number of ``workers`` take accounts from a ``schedule`` and ask each for one page after another,
oldest window first (``account_pull``). A page is read when a consumer is about to take it and handed over in a
bounded stream (``handover``). Consumers mark pages as done, and what is marked becomes durable in batches
(``commits``). Nothing is marked before it was handed over, so a crash repeats pages and never skips one.

The failure of one account is a result and leaves the others alone. While the service itself is down, everyone waits
and a single request at a time tries it. Only a refused token, a closed client and a failing disk end the whole pull.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar

import anyio

from truto_ci_async._checks import brief
from truto_ci_async._progress import Progress
from truto_ci_async._wire.item_reader import ItemReader, OnInvalid
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import UsageError
from truto_ci_async.export.walks import WalkFrames
from truto_ci_async.models import Interaction
from truto_ci_async.pagination.progress import show_progress
from truto_ci_async.pull.checkpoint.base import Checkpoint
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.stores.adapters import PullStore, as_store
from truto_ci_async.pull.stores.base import TransactionalStore
from truto_ci_async.pull.stores.syncing import SyncingStore
from truto_ci_async.pull.sync.options import SyncOptions, read_span
from truto_ci_async.sinks.base import Sink

from .account_state import Shared
from .commits import Commits, PulledPage
from .daily_use import DailyUse
from .events import pull_events
from .frames import PullParts
from .handover import DirectWriting, Handover
from .report import Budget, PullReport
from .workers import Workers, accounts_to_do

if TYPE_CHECKING:
    from types import TracebackType

    from truto_ci_async._http.base_client import BaseClient

logger = logging.getLogger("truto_ci_async")

T = TypeVar("T")

CommitMode: TypeAlias = Literal["auto", "manual"]
#: A plan, or a function that makes one, given the stored plan if there is one.
MadePlan: TypeAlias = "Plan | Callable[[Plan | None], Awaitable[Plan]]"

# Pages that are read before a consumer takes them. Most waiting pages are still unread bodies.
READ_AHEAD = 4
# Seconds after ``stop()`` until a request without a response is dropped.
STOP_SECONDS = 1.0


class Pull(WalkFrames, Generic[T]):
    """A bounded stream of pages of many accounts, each with its account and the window it answers.

        async with truto.interactions.pull(account_ids, start_time=start, end_time=end) as pages:
            async for page in pages:
                store(page.account.id, page.page.items)
        print(pages.report)

    ``commit="auto"``: one consumer; asking for the next page marks the one before as done, while leaving the loop
    by ``break`` or an exception does not. ``commit="manual"``: any number of consumers; each page is done when its
    ``commit()`` is called. ``report`` can be read at any time. Pages of one account come in order.

    ``writes``: each page is written to the sink as it comes, and no consumer gets it; ``next_page`` waits for the end.

    However the block is left, what is in flight is dropped and what is marked is made durable. A cancellation waits
    for that; a second one does not. If that fails, the cancellation goes on, with the failure as a note on it, in the
    log and in ``report.error``.
    """

    def __init__(
        self,
        client: BaseClient,
        plan: MadePlan,
        *,
        checkpoint: Checkpoint | TransactionalStore | None = None,
        budget: Budget = Budget(),
        commit: CommitMode = "auto",
        item_type: Any = None,
        on_invalid: OnInvalid = "repair",
        grow: bool = False,
        fresh: bool = False,
        lookback: timedelta | str | None = None,
        sink: Sink | None = None,
        sync: SyncOptions | None = None,
        writes: bool = False,
    ) -> None:
        if item_type is None:
            item_type = plan.walk.item_type if isinstance(plan, Plan) else Interaction
        given: object = budget
        if not isinstance(given, Budget):
            raise UsageError(f"budget takes a Budget, not {brief(given)}")
        self._lookback = lookback_seconds(lookback)
        if commit not in ("auto", "manual"):
            raise UsageError(f"commit is 'auto' or 'manual', not {commit!r}")
        self.plan: Plan | None = None
        self.report = PullReport()
        self._client = client
        self._make_plan = plan
        self._store = _store_of(MemoryCheckpoint() if checkpoint is None else checkpoint, sink, sync)
        self._budget = budget
        self._is_auto = commit == "auto"
        self._writes = writes
        self._grow, self._fresh = grow, fresh
        self._reader = PageReader(
            ItemReader[Any](item_type, on_invalid=on_invalid), detach=self._store.detaches
        )
        self._daily_use = DailyUse(client)
        self._commits = Commits(
            self._store,
            reader=self._reader,
            report=self.report,
            on_failure=self._die,
            also=self._daily_use.of,
        )
        self._workers: Workers | None = None
        self._is_stopped = False
        self._fatal: Exception | None = None  # ends the pull; the consumer gets it in place of the end
        self._is_asking = False
        self._handed: PulledPage[T] | None = None
        self._host: asyncio.Task[None] | None = None

    # --- life ------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Pull {'stopped, ' if self.is_stopped else ''}{self.report!r}>"

    def _repr_html_(self) -> str:
        return self.report.to_html()

    async def __aenter__(self) -> Self:
        if self._host is not None:
            raise UsageError("a pull is run once; make a new one, which goes on from the checkpoint")
        self._block = anyio.CancelScope()
        self._opened = anyio.Event()
        self._pages: Handover[PulledPage[T]] | DirectWriting[PulledPage[T]]
        if self._writes:
            self._pages = DirectWriting(self._commits.write)
        else:
            self._pages = Handover(min(READ_AHEAD, self._budget.max_accounts))
        # A task of asyncio's: a task group of anyio's has to be left by the task that entered it, and the block of a
        # pull may be left by any.
        self._host = asyncio.create_task(self._own(), name="truto-pull")
        self._host.add_done_callback(self._note_end)
        try:
            await self._opened.wait()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        if not self._commits.is_open:
            await self._wait_for_end()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._commits.shut()
        if error is not None:
            self._store.hurry()
        self._block.cancel()
        try:
            await self._wait_for_end()
        except Exception as failed:
            if error is None:
                raise
            if failed is not error:
                _tell(failed, error)

    def _note_end(self, host: asyncio.Task[None]) -> None:
        """Let go of who waits for the pull to open, however early the host task ended."""
        if not host.cancelled():
            host.exception()  # seen, whoever waits
        self._pages.close()
        self._opened.set()

    async def _wait_for_end(self) -> None:
        """Wait for the host task. A cancellation goes on after that; a second one leaves the task to end by itself.

        :raises Exception: what it failed with. A cancellation takes precedence, with that as a note and in the log.
        """
        host = self._host
        assert host is not None
        try:
            await asyncio.wait([host])
        except asyncio.CancelledError as cancelled:
            self._store.hurry()
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([host])
            finally:
                if host.done():
                    _tell_outcome(cancelled, host)
                else:
                    host.add_done_callback(partial(_tell_outcome, cancelled))
            raise
        host.result()

    async def _own(self) -> None:
        """Own the stores and the tasks of this pull, from opening it until its block has been left."""
        with pull_events(self._client.emitter, self.report) as self._commits.on_commit:
            try:
                with self._block:
                    await self._open(await self._store.hold(fresh=self._fresh))
                    self._opened.set()
                    await self._run()
                await self._commits.close()
            finally:
                await self._close_store()
            self._commits.settle()

    async def _open(self, stored: Plan | None) -> None:
        # Accounts that were looked up by an earlier run are not looked up again: this one goes on with those.
        asked = self._make_plan
        if not isinstance(asked, Plan):
            asked = await asked(None if self._grow else stored)
        if self._lookback is not None and not asked.walk.is_per_meeting:
            raise UsageError("lookback is for transcripts, which may come late")
        self.plan = await self._store.open(asked, grow=self._grow, fresh=self._fresh)
        self.report.resource = self.plan.resource
        self._reader.start_walk(
            self._client.emitter.report_unknown_fields,
            flat_rows=self.plan.filters.get("response_format") == "normalized",
        )
        to_do, begun = await accounts_to_do(
            self.plan,
            self._daily_use.taken_from(self._store.load_accounts(), len(self.plan.windows)),
            self.report,
            max_park=self._budget.max_park,
            lookback=self._lookback,
        )
        shared = Shared(
            self._client,
            self.plan,
            begun,
            self._reader,
            self._pages,
            self._commits,
            self.report,
            self._budget,
        )
        self._workers = Workers(shared, to_do, on_error=self._die)
        self._commits.has_ids, self._commits.is_open = self.plan.walk.has_ids, True

    async def _run(self) -> None:
        """Run the workers, and commit what is marked until the block is left."""
        assert self._workers is not None
        if self._is_stopped:
            self._workers.stop(0.0)
        async with anyio.create_task_group() as group:
            group.start_soon(self._commits.run, name="truto-pull-commit")
            try:
                await self._workers.run()
            finally:
                self._pages.end()
            await anyio.sleep_forever()

    async def _close_store(self) -> None:
        try:
            await self._store.aclose()
        except Exception as error:  # noqa: BLE001 - a sink may raise anything; raised by ``settle``
            self._commits.fail(error)

    # --- ending it early -------------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._is_stopped

    @property
    def outage(self) -> tuple[float, str] | None:
        """How many seconds the service has been down, and the error of the last call; None if it is up."""
        return None if self._workers is None else self._workers.outage

    def stop(self) -> None:
        """Request no more pages: those already fetched still come, then the stream ends. Run again to continue.

        A request that is not answered a second later is dropped.
        """
        self._is_stopped = True
        if self._workers is not None:
            self._workers.stop(STOP_SECONDS)

    def _die(self, error: Exception) -> None:
        """End the pull: nothing more is sent, and the consumer gets ``error`` once it has what was handed over."""
        if self._fatal is None:
            self._fatal = self.report.error = error
        if self._workers is not None:
            self._workers.stop(0.0)
        self._commits.notify()

    # --- for the consumers -----------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[PulledPage[T]]:
        return self

    async def __anext__(self) -> PulledPage[T]:
        page = await self.next_page()
        if page is None:
            raise StopAsyncIteration
        if self._is_auto:
            self._handed = page
        return page

    async def next_page(self) -> PulledPage[T] | None:
        """Return the next page, which its consumer marks as done; None at the end."""
        self._commits.require_open()
        if self._is_auto:
            if self._is_asking:
                raise UsageError(
                    "two tasks ask this pull for the next page at once, and asking marks the page before as done; "
                    "use one consumer, or commit='manual'"
                )
            if self._handed is not None:
                self._handed.mark()
                self._handed = None
        self._commits.check()
        self._is_asking = True
        try:
            page = await self._pages.receive()
        finally:
            self._is_asking = False
        if page is None:
            self._commits.require_open()
            self._commits.check()
            if self._fatal is not None:
                raise self._fatal from self._fatal.__cause__
        return page

    def part_source(self) -> PullParts:
        return PullParts(self.next_page, self._reader.item_type, marks=self._is_auto)

    def show_progress(self, wanted: bool | None) -> AbstractContextManager[Progress | None]:
        return show_progress(wanted, self._client.emitter, what="rows")

    def check_whole(self) -> None:
        if not self._is_auto:
            raise UsageError(
                "a frame of all rows marks all pages as done; use commit='auto', or arrow_batches()"
            )

    async def write(self, page: PulledPage[T]) -> None:
        """Give a page to the sink and mark it as done: from then on a commit takes both or neither.

        Pages of one account are written in order: this one waits for those before it. With a sink, nothing else marks
        a page as done.

        :raises UsageError: the pull has no sink or is closed, or the page was written before.
        """
        await self._commits.write(page)


def lookback_seconds(lookback: object) -> float | None:
    """Return ``lookback`` in seconds: a length such as ``2d``, or a timedelta.

    :raises UsageError: it is neither, or less than zero.
    """
    return None if lookback is None else read_span(lookback, "lookback").total_seconds()


def _store_of(
    store: Checkpoint | TransactionalStore, sink: Sink | None, sync: SyncOptions | None
) -> PullStore:
    if sync is None:
        return as_store(store, sink)
    if isinstance(store, Checkpoint) or sink is not None:
        raise UsageError("since='last' is for a database or object storage: a folder has no rows to replace")
    return SyncingStore(store, sync)


def _tell_outcome(cancelled: BaseException, host: asyncio.Task[None]) -> None:
    if not host.cancelled() and (error := host.exception()) is not None:
        _tell(error, cancelled)


def _tell(error: BaseException, raised: BaseException) -> None:
    """Log and attach a failure that another exception hides, perhaps one that nobody sees."""
    raised.add_note(f"and the pull failed: {error}")
    logger.error("a pull that was left failed: %s", error)

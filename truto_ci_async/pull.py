"""Every account of a plan, pulled at once and kept apart: killed at will, nothing lost, nothing doubled.

How it works. A fixed number of workers take accounts from a queue; a worker asks one account for one page after
another, oldest window first, and hands each page into a bounded stream. The consumer marks pages as done; what
is done becomes durable in batches, in the order of each account's pages, together with the sink's own state.
Nothing is marked before it was handed over, so a crash repeats pages and never skips one.

One account's failure is a result and leaves the others alone. A failure of the service itself holds everyone
back while a single request probes until it is there again. Only a refused token ends the whole pull.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, TypeVar, cast

import anyio
import msgspec
from msgspec import Raw, Struct

from ._answers import PageReader
from ._decode import ItemReader, OnInvalid
from ._retry import check_number
from ._wire import Targets
from .checkpoint import Checkpoint, Key, MemoryCheckpoint, Outcome, Progress
from .errors import (
    APIError,
    AuthenticationError,
    BodyTooLargeError,
    ConfigurationError,
    CursorExpiredError,
    CursorLoopError,
    DecodeError,
    RateLimitError,
    ServerError,
    TransportError,
    TrutoError,
    UsageError,
)
from .models import Interaction, Page, Position
from .paginator import Walk
from .plan import AccountPage, Plan, PlannedAccount, Window
from .resources import fetch_page
from .sinks import Sink, commit_together

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from .client import TrutoClient

T = TypeVar("T")

CommitMode: TypeAlias = Literal["auto", "manual"]

# What is done becomes durable after so many pages or seconds, whichever comes first.
COMMIT_PAGES = 64
COMMIT_SECONDS = 0.05
# Pages an account is asked for before another one that waits gets the worker.
TURN_PAGES = 16
# A window whose cursor died is begun again this often in one run.
RESTARTS = 3
# An account that keeps failing while others do not is given up after so many calls, each with its own retries.
ACCOUNT_CALLS = 3


class Budget(Struct, frozen=True, kw_only=True):
    """What one pull may use.

    ``max_accounts``  accounts asked at the same time.
    ``max_outage``    seconds a service that is down is probed before what is left is parked for a later run.
    ``probe_wait``    seconds before the first probe; doubled for each further one, up to ``max_probe_wait``.

    :raises ConfigurationError: a value out of range.
    """

    max_accounts: int = 32
    max_outage: float = 900.0
    probe_wait: float = 1.0
    max_probe_wait: float = 30.0

    def __post_init__(self) -> None:
        check_number("max_accounts", self.max_accounts, least=1)
        if not isinstance(self.max_accounts, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"max_accounts must be a whole number, got {self.max_accounts!r}")
        check_number("max_outage", self.max_outage, least=0)
        check_number("probe_wait", self.probe_wait, above=0)
        check_number("max_probe_wait", self.max_probe_wait, above=0)


class PullReport:
    """How a pull went, or is going.

    ``accounts``  accounts of the plan.
    ``done``      accounts pulled to the end, in this run or an earlier one; ``empty`` those of them without a row.
    ``failed``    account id -> the error that ended it; a later run tries again.
    ``parked``    account id -> when to come back, in seconds since 1970 (None: when the service is up again).
    ``rows, pages, requests, retries, issues``  counts of this run; ``waited`` seconds of pacing, all accounts together.
    """

    def __init__(self, accounts: int = 0) -> None:
        self.accounts = accounts
        self.done = 0
        self.empty = 0
        self.failed: dict[str, TrutoError] = {}
        self.parked: dict[str, float | None] = {}
        self.rows = 0
        self.pages = 0
        self.requests = 0
        self.retries = 0
        self.waited = 0.0
        self.issues = 0

    @property
    def complete(self) -> bool:
        """Whether every account was pulled to the end."""
        return self.done == self.accounts

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain, JSON-ready data."""
        return {
            "complete": self.complete,
            "accounts": self.accounts,
            "done": self.done,
            "empty": self.empty,
            "failed": {
                account: {"error": type(error).__name__, "message": str(error)}
                for account, error in self.failed.items()
            },
            "parked": dict(self.parked),
            "rows": self.rows,
            "pages": self.pages,
            "requests": self.requests,
            "retries": self.retries,
            "waited": round(self.waited, 3),
            "issues": self.issues,
        }

    def __repr__(self) -> str:
        return (
            f"PullReport({self.done:,} of {self.accounts:,} accounts done, {self.empty:,} of them empty, "
            f"{len(self.failed):,} failed, {len(self.parked):,} parked; {self.rows:,} rows in {self.pages:,} pages)"
        )


class PulledPage(AccountPage[T]):
    """A page that a pull handed out; ``commit`` marks it as done."""

    __slots__ = ("_entry", "_pull")

    def __init__(
        self, account: PlannedAccount, window: Window, page: Page[T], *, pull: Pull[T], entry: _Entry
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


class _Entry:
    """What is to be committed of a page, or of the end of an account, in its place among the others."""

    __slots__ = ("durable", "ends", "is_done", "key", "keys", "progress", "queue")

    def __init__(
        self,
        queue: deque[_Entry],
        key: Key,
        progress: Progress,
        *,
        keys: bytes = b"",
        ends: Literal["", "done", "empty"] = "",
    ) -> None:
        self.queue = queue
        self.ends = ends  # how the account ended, on its last page of all
        self.key = key
        self.progress = progress
        self.keys = keys
        self.is_done = False
        self.durable = False


class _Account:
    """Where the pull of one account stands."""

    __slots__ = (
        "account",
        "calls",
        "left",
        "not_before",
        "open",
        "restarts",
        "rows",
        "seen",
        "targets",
        "walk",
    )

    def __init__(self, account: PlannedAccount, left: deque[tuple[int, Progress]]) -> None:
        self.account = account
        self.left = left  # windows still to do, oldest first, with the progress made in each
        self.walk: Walk | None = None  # of the first of them
        self.targets: Targets | None = None
        self.open: deque[_Entry] = deque()  # handed out and not committed yet, in order
        self.calls = 0  # failed ones in a row
        self.restarts = 0
        self.rows = 0  # in all windows, for telling empty accounts
        self.seen: set[bytes] | None = None  # keys of rows handed out before the window was begun again
        self.not_before = 0.0


class Pull(Generic[T]):
    """A bounded stream of pages of many accounts, each with whose it is and what window it answers.

        async with truto.interactions.pull(account_ids, start_time=start, end_time=end) as pages:
            async for page in pages:
                store(page.account.id, page.page.items)
        print(pages.report)

    ``commit="auto"``: one consumer; asking for the next page marks the one before as done, while leaving the loop
    by ``break`` or an exception does not. ``commit="manual"``: any number of consumers, each page is done when its
    ``commit()`` is called. ``report`` can be read at any time. Pages of one account come in order.
    """

    def __init__(
        self,
        client: TrutoClient,
        plan: Plan | Callable[[], Awaitable[Plan]],
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
        self._make_plan = plan
        self._checkpoint = checkpoint or MemoryCheckpoint()
        self._budget = budget
        self._auto = commit == "auto"
        self._reader = PageReader(ItemReader[Any](item_type, on_invalid=on_invalid))
        self._grow = grow
        self._fresh = fresh
        self._sink = sink
        self._asking = False
        self._handed: PulledPage[T] | None = None
        self._queue: deque[_Account] = deque()
        self._fatal: BaseException | None = None
        self._outage = _Outage(budget)
        self._changes: dict[Key, Progress] = {}
        self._new_keys: dict[Key, bytes] = {}
        self._marked: list[_Entry] = []
        self._pages_marked = 0
        self._entered = False
        self.plan: Plan | None = None
        self.report = PullReport()

    # --- life ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError("a pull is run once; make a new one, which goes on from the checkpoint")
        self._entered = True
        asked = self._make_plan if isinstance(self._make_plan, Plan) else await self._make_plan()
        try:
            self.plan = await self._checkpoint.open(asked, grow=self._grow, fresh=self._fresh)
            if self._sink is not None:
                await self._sink.open(self._checkpoint.sink_state)
            self._schedule(self.plan, await self._checkpoint.load())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._checkpoint.aclose()
            raise
        self._wake = anyio.Event()
        self._marks = anyio.Event()
        self._stopping = anyio.Event()
        self._written = anyio.Lock()  # held while the sink is written to or committed
        self._flushed = anyio.Condition()
        size = self._budget.max_accounts
        streams = anyio.create_memory_object_stream[PulledPage[T]](max_buffer_size=size)
        self._send: MemoryObjectSendStream[PulledPage[T]] = streams[0]
        self._receive: MemoryObjectReceiveStream[PulledPage[T]] = streams[1]
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._working = min(size, len(self._queue))
        if not self._working:
            self._send.close()
        for _ in range(self._working):
            self._group.start_soon(self._work)
        self._group.start_soon(self._commit_as_marked)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Workers are dropped with what they have in flight; a commit under way is shielded and ends first.
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            self._send.close()
            self._receive.close()
            try:
                if self._fatal is None or isinstance(self._fatal, APIError):
                    await self._flush(final=True)
            except TrutoError as failed:
                if error is None:
                    raise
                error.add_note(f"and the last commit failed: {failed}")
            finally:
                await self._checkpoint.aclose()
                if (close := getattr(self._sink, "aclose", None)) is not None:
                    await close()

    def stop(self) -> None:
        """Ask for no more pages: what is in hand still comes, then the stream ends. Run again to go on."""
        self._stopping.set()
        self._outage.wake()
        self._wake_all()

    def __aiter__(self) -> AsyncIterator[PulledPage[T]]:
        return self

    async def __anext__(self) -> PulledPage[T]:
        if not self._entered:
            raise UsageError("open the pull first: async with ... as pages:")
        if self._auto:
            if self._asking:
                raise UsageError(
                    "two tasks ask this pull for the next page at once, and asking marks the page before as done; "
                    "use one consumer, or commit='manual'"
                )
            if self._handed is not None:
                self._handed.mark()
                self._handed = None
        self._asking = True
        try:
            page = await self._receive.receive()
        except anyio.EndOfStream:
            if self._fatal is not None:
                raise self._fatal from self._fatal.__cause__
            raise StopAsyncIteration from None
        except anyio.ClosedResourceError:
            raise UsageError("this pull is closed") from None
        finally:
            self._asking = False
        if self._auto:
            self._handed = page
        return page

    async def write(self, page: PulledPage[T]) -> None:
        """Give a page to the sink and mark it as done: from then on a commit takes both or neither."""
        assert self._sink is not None
        async with self._written:
            await self._sink.write(page)
            page.mark()

    # --- what is done ----------------------------------------------------------------------------------

    def mark(self, entry: _Entry) -> None:
        """Mark an entry as done; it counts once all before it in its account are."""
        entry.is_done = True
        queue = entry.queue
        while queue and queue[0].is_done:
            ready = queue.popleft()
            self._changes[ready.key] = ready.progress
            self._new_keys[ready.key] = self._new_keys.get(ready.key, b"") + ready.keys
            self._marked.append(ready)
            self.report.done += ready.ends != ""
            self.report.empty += ready.ends == "empty"
        if len(self._marked) >= COMMIT_PAGES:
            self._full.set()
        self._marks.set()

    async def flushed(self, entry: _Entry) -> None:
        """Wait until ``entry`` is durable."""
        async with self._flushed:
            while not entry.durable:
                if self._fatal is not None:
                    raise self._fatal from self._fatal.__cause__
                await self._flushed.wait()

    async def _commit_as_marked(self) -> None:
        while True:
            await self._marks.wait()
            self._marks = anyio.Event()
            with anyio.move_on_after(COMMIT_SECONDS):
                await self._full.wait()
            with anyio.CancelScope(shield=True):
                try:
                    await self._flush()
                except TrutoError as error:
                    await self._die(error)
                    return

    async def _flush(self, *, final: bool = False) -> None:
        """Make durable what is marked, with the sink's state; what the sink will not commit yet stays marked."""
        async with self._written:
            changes, self._changes = self._changes, {}
            keys, self._new_keys = self._new_keys, {}
            marked, self._marked = self._marked, []
            self._full = anyio.Event()
            if self._sink is not None:
                if not (changes or final):
                    return
                if not await commit_together(
                    self._sink, self._checkpoint, changes, row_keys=keys, final=final
                ):
                    self._changes = {**changes, **self._changes}
                    self._new_keys = keys
                    self._marked = marked + self._marked
                    return
            elif changes:
                await self._checkpoint.commit(changes, row_keys=keys)
        if marked:
            async with self._flushed:
                for entry in marked:
                    entry.durable = True
                self._flushed.notify_all()

    async def _die(self, error: BaseException) -> None:
        """End the pull: no more requests, and the consumer gets ``error`` once it has what was handed over."""
        if self._fatal is None:
            self._fatal = error
        self.stop()
        async with self._flushed:
            self._flushed.notify_all()

    # --- who is next -----------------------------------------------------------------------------------

    def _schedule(self, plan: Plan, stored: Mapping[Key, Progress]) -> None:
        """Queue every account that has a window left to do."""
        self.report.accounts = len(plan.accounts)
        now = time.time()
        for account in plan.accounts:
            left: deque[tuple[int, Progress]] = deque()
            rows = 0
            for index in range(len(plan.windows)):
                progress = stored.get((account.id, index), Progress())
                rows += progress.rows
                if progress.outcome not in ("done", "empty"):
                    left.append((index, progress))
            if not left:
                self.report.done += 1
                self.report.empty += not rows
                continue
            until = max((progress.until or 0.0 for _, progress in left), default=0.0)
            if until > now:
                self.report.parked[account.id] = until
                continue
            state = _Account(account, left)
            state.rows = rows
            self._queue.append(state)
        self._in_service = 0
        self._full = anyio.Event()

    def _wake_all(self) -> None:
        wake, self._wake = self._wake, anyio.Event()
        wake.set()

    async def _take(self) -> _Account | None:
        """Wait for an account that may be asked now; None when there will be none."""
        while not self._stopping.is_set():
            now = time.monotonic()
            for _ in range(len(self._queue)):
                state = self._queue.popleft()
                if state.not_before <= now:
                    self._in_service += 1
                    return state
                self._queue.append(state)
            if not self._queue and not self._in_service:
                self._wake_all()
                return None
            soonest = min((state.not_before for state in self._queue), default=now + 3600.0)
            with anyio.move_on_after(max(soonest - now, 0.0)):
                await self._wake.wait()
        return None

    async def _work(self) -> None:
        try:
            while (state := await self._take()) is not None:
                try:
                    again = await self._serve(state)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return  # the consumer left
                except Exception as error:  # noqa: BLE001 - reaches the consumer as it was raised
                    await self._die(error)
                    return
                finally:
                    self._in_service -= 1
                if again:
                    self._queue.append(state)
                self._wake_all()
        finally:
            self._working -= 1
            if not self._working:
                self._send.close()

    async def _serve(self, state: _Account) -> bool:
        """Ask one account for some pages; True when it has to come again."""
        for _ in range(TURN_PAGES):
            if not state.left:
                return False
            if not await self._outage.turn(self._stopping):
                if self._outage.is_over:
                    self._park(state, None)
                    return False
                return True
            if not await self._one_page(state):
                return (
                    state.account.id not in self.report.failed and state.account.id not in self.report.parked
                )
        return bool(state.left)

    # --- one page --------------------------------------------------------------------------------------

    async def _one_page(self, state: _Account) -> bool:
        """Fetch and hand over one page; False when this account cannot go on right now."""
        plan = cast("Plan", self.plan)
        index, progress = state.left[0]
        window = plan.windows[index]
        if state.walk is None:
            query = plan.query(state.account, window)
            state.targets = Targets(query)
            if (
                progress.rows and progress.position is None
            ):  # begun again: leave out what was handed out before
                state.seen = await self._keys_of(state, index)
            start = query.start(Position.parse(progress.position) if progress.position else None)
            state.walk = Walk(start, len(query.users), account=state.account.id)
        here, targets = state.walk.position, state.targets
        assert here is not None
        assert targets is not None
        asked_at = time.monotonic()
        try:
            page = await fetch_page(self._client, targets, self._reader, here, empty_on_not_found=True)
        except TrutoError as error:
            await self._failed(state, error, asked_at)
            return False
        self._outage.success()
        state.calls = 0
        self._count(page)
        loop: CursorLoopError | None = None
        try:
            state.walk.advance(here, page.next_cursor)
        except CursorLoopError as error:
            loop = error  # the page itself is good; a later run begins its window again
        await self._hand_over(
            state, window, page, is_last=state.walk.position is None, is_loop=loop is not None
        )
        if loop is not None:
            self._fail(state, loop)
        return loop is None

    async def _hand_over(
        self, state: _Account, window: Window, page: Page[Any], *, is_last: bool, is_loop: bool
    ) -> None:
        index, progress = state.left[0]
        walk = cast("Walk", state.walk)
        keys = b""
        if not is_last or state.seen is not None:
            # Keys are needed only where a cursor can die and its window be begun again.
            digests = [_key_digest(item) for item in page.items]
            if state.seen is not None:
                fresh = [i for i, digest in enumerate(digests) if digest not in state.seen]
                if len(fresh) < len(digests):
                    page = _only(page, fresh)
                    digests = [digests[i] for i in fresh]
            keys = b"".join(digests)
        rows = progress.rows + len(page)
        outcome: Outcome = "open" if not is_last else "done" if rows else "empty"
        progress = Progress(
            position=None if is_last or is_loop else str(walk.position),
            rows=rows,
            pages=progress.pages + 1,
            outcome=outcome,
        )
        state.rows += len(page)
        if is_last:
            state.left.popleft()
            state.walk = None
            state.seen = None
            state.restarts = 0
        else:
            state.left[0] = (index, progress)
        ends: Literal["", "done", "empty"] = "" if state.left else "done" if state.rows else "empty"
        entry = _Entry(state.open, (state.account.id, index), progress, keys=keys, ends=ends)
        state.open.append(entry)
        self.report.rows += len(page)
        await self._send.send(PulledPage(state.account, window, page, pull=self, entry=entry))

    def _count(self, page: Page[Any]) -> None:
        report = self.report
        report.pages += 1
        report.requests += page.response.attempts
        report.retries += page.response.attempts - 1
        report.waited += page.response.waited
        report.issues += len(page.issues)

    # --- failures --------------------------------------------------------------------------------------

    async def _failed(self, state: _Account, error: TrutoError, asked_at: float) -> None:
        """Decide what a failed call means: for its account, or for everyone."""
        attempts: int = getattr(error, "attempts", 1)
        self.report.requests += attempts
        self.report.retries += max(attempts - 1, 0)
        if isinstance(error, (AuthenticationError, ConfigurationError)):
            await self._die(error)
        elif isinstance(error, CursorExpiredError):
            self._outage.success()
            self._begin_again(state, error)
        elif isinstance(error, RateLimitError):
            self._outage.success()
            self._told_to_wait(state, error)
        elif isinstance(error, (TransportError, ServerError)):
            if self._outage.failure(asked_at):
                return  # the service, not the account: it comes again when a probe gets through
            state.calls += 1
            if state.calls >= ACCOUNT_CALLS:
                self._fail(state, error)
            else:
                state.not_before = time.monotonic() + self._budget.probe_wait * 2.0 ** (state.calls - 1)
        elif isinstance(error, (APIError, DecodeError, BodyTooLargeError)):
            self._outage.success()
            self._fail(state, error)
        else:
            await self._die(error)

    def _told_to_wait(self, state: _Account, error: RateLimitError) -> None:
        wait = error.retry_after or 0.0
        state.calls += 1
        if wait > self._client.retry.max_wait or state.calls >= ACCOUNT_CALLS:
            self._park(state, time.time() + wait)
        else:
            state.not_before = time.monotonic() + wait

    def _begin_again(self, state: _Account, error: CursorExpiredError) -> None:
        """Walk the window from its start when it is its turn again."""
        index, progress = state.left[0]
        state.walk = None
        state.left[0] = (index, msgspec.structs.replace(progress, position=None))
        state.restarts += 1
        if state.restarts > RESTARTS:
            self._fail(state, error)

    async def _keys_of(self, state: _Account, index: int) -> set[bytes]:
        """Return the keys of all rows of a window that were handed out, in this run or an earlier one."""
        key = (state.account.id, index)
        async with self._written:  # no commit is under way, so a key is in just one of these places
            seen = set(_split_keys(await self._checkpoint.row_keys(key)))
            seen.update(_split_keys(self._new_keys.get(key, b"")))
            for entry in state.open:
                if entry.key == key:
                    seen.update(_split_keys(entry.keys))
        return seen

    def _fail(self, state: _Account, error: TrutoError) -> None:
        self.report.failed[state.account.id] = error
        self._end(state, outcome="failed", error=f"{type(error).__name__}: {error}")

    def _park(self, state: _Account, until: float | None) -> None:
        self.report.parked[state.account.id] = until
        self._end(state, outcome="parked", until=until)

    def _end(
        self, state: _Account, *, outcome: Outcome, error: str | None = None, until: float | None = None
    ) -> None:
        """Note how an account ended, behind the pages of it that are still to be committed."""
        index, progress = state.left[0]
        ended = msgspec.structs.replace(progress, outcome=outcome, error=error, until=until)
        entry = _Entry(state.open, (state.account.id, index), ended)
        state.open.append(entry)
        self.mark(entry)


class _Outage:
    """Whether the service is there. While it is not, one request at a time probes and everyone else waits."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._since: float | None = None
        self._last_success = 0.0
        self._wait = budget.probe_wait
        self._probing = False
        self._changed = anyio.Event()
        self.is_over = False  # lasted longer than max_outage

    def wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def turn(self, stopping: anyio.Event) -> bool:
        """Wait until a request may be sent; False when that will not be in this run."""
        while not stopping.is_set() and not self.is_over:
            if self._since is None:
                return True
            if self._probing:
                await self._changed.wait()
                continue
            self._probing = True
            try:
                with anyio.move_on_after(self._wait):
                    await stopping.wait()
            except BaseException:
                self._probing = False
                self.wake()
                raise
            if not stopping.is_set():
                return True
            self._probing = False
        return False

    def success(self) -> None:
        """The service answered, whatever it said."""
        self._last_success = time.monotonic()
        if self._since is not None:
            self._since = None
            self._probing = False
            self._wait = self._budget.probe_wait
            self.wake()

    def failure(self, asked_at: float) -> bool:
        """Note a call, begun at ``asked_at``, that got no answer; True when the service is to blame for it."""
        now = time.monotonic()
        if self._since is None:
            if self._last_success > asked_at:
                return False  # others got through meanwhile
            self._since = now
        elif asked_at <= self._since:
            return True  # it was under way when the service went down; only probes are counted
        else:
            self._wait = min(self._wait * 2.0, self._budget.max_probe_wait)
        self._probing = False
        self.is_over = now - self._since >= self._budget.max_outage
        self.wake()
        return True


class _KeyUser(Struct):
    id: Any = None


class _KeyView(Struct):
    """What tells one row of a window from another; of a record's bytes only this is read."""

    id: Any = None
    user: _KeyUser | None = None
    start_time: Any = None
    end_time: Any = None


_KEY_BYTES = 8
_read_key = msgspec.json.Decoder(_KeyView)


def _key_digest(item: object) -> bytes:
    if isinstance(item, Interaction):
        key = repr((item.id, item.user.id if item.user else None, item.start_time, item.end_time)).encode()
    elif isinstance(item, Raw):
        try:
            view = _read_key.decode(item)
        except msgspec.DecodeError:
            key = bytes(item)
        else:
            key = repr(
                (view.id, view.user.id if view.user else None, view.start_time, view.end_time)
            ).encode()
    else:
        key = msgspec.json.encode(item)
    return hashlib.blake2b(key, digest_size=_KEY_BYTES).digest()


def _split_keys(keys: bytes) -> Iterator[bytes]:
    return (keys[at : at + _KEY_BYTES] for at in range(0, len(keys), _KEY_BYTES))


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


async def run_shard(
    client: TrutoClient,
    shard: Plan | Callable[[], Awaitable[Plan]],
    store: Checkpoint,
    sink: Sink,
    budget: Budget = Budget(),
    *,
    on_invalid: OnInvalid = "repair",
    grow: bool = False,
    fresh: bool = False,
    on_start: Callable[[Pull[Any]], None] | None = None,
) -> PullReport:
    """Pull a plan, or a shard of one, into a sink. Run it again to go on; once complete it asks nothing more.

    ``on_start`` is given the running pull, whose ``report`` can be watched and whose ``stop()`` ends it in order.

    :raises AuthenticationError: the token is refused; what was written is committed.
    :raises StateConflictError: another run, or another plan, holds the state.
    :raises StorageError: the disk fails; nothing is torn, and a later run goes on.
    """
    pull: Pull[Any] = Pull(
        client,
        shard,
        checkpoint=store,
        budget=budget,
        commit="manual",
        item_type=getattr(sink, "item_type", Interaction),
        on_invalid=on_invalid,
        grow=grow,
        fresh=fresh,
        sink=sink,
    )
    async with pull as pages:
        if on_start is not None:
            on_start(pages)
        async for page in pages:
            await pages.write(page)
    return pull.report

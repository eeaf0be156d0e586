"""Schedules the accounts of a pull, some at a time: in which order, and what happens during an outage."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from heapq import heappop, heappush
from itertools import count

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from truto_ci_async._http.call import CallTime
from truto_ci_async.errors import CursorExpiredError, DamagedStateError, TrutoError, UsageError
from truto_ci_async.models.pulls import PlannedAccount
from truto_ci_async.pagination.page_fetch import fetch_and_read
from truto_ci_async.pull.checkpoint.base import AccountProgress
from truto_ci_async.pull.plan.plan import Plan

from .account_pull import IN_TURN, NEVER, AccountPull
from .account_state import AccountState, Shared
from .failures import is_answer
from .positions import UNSUPPORTED, MeetingQueue, check_position
from .report import PullReport
from .transcript_pull import TranscriptPull

# Pages after which an account gives its worker to the next account in line.
TURN_PAGES = 16
# The loop gets a turn after this many accounts, which take a few milliseconds.
YIELD_ACCOUNTS = 1_000


class Workers:
    """A fixed number of workers, each of which asks one account at a time.

    While the service is down, one of them at a time sends a single trial request and the others wait.
    ``on_error`` is called with an error that ends the whole pull.
    """

    def __init__(
        self, shared: Shared, accounts: Sequence[PlannedAccount], *, on_error: Callable[[Exception], object]
    ) -> None:
        self._shared = shared
        self._schedule = Schedule(accounts)
        self._on_error = on_error
        self._pull_of = TranscriptPull if shared.walk.is_per_meeting else AccountPull
        self._trials = anyio.CapacityLimiter(1)
        self._nap = anyio.CancelScope()  # of the worker that waits for the time of its trial
        self._is_parking = False  # all accounts that are left: the service is down for too long
        shared.circuit.on_close = self._end_outage

    @property
    def outage(self) -> tuple[float, str] | None:
        """How many seconds the service has been down, and the error of the last call; None if it is up."""
        seconds = self._shared.circuit.seconds_open(time.monotonic())
        return None if seconds is None else (seconds, self._shared.outage_cause)

    async def run(self) -> None:
        """Ask all accounts, until each is over or the pull is stopped."""
        with closing(self._schedule):
            async with anyio.create_task_group() as group:
                group.start_soon(self._schedule.run, name="truto-pull-schedule")
                for number in range(min(self._shared.budget.max_accounts, self._schedule.left)):
                    group.start_soon(self._work, name=f"truto-pull-{number + 1}")

    def stop(self, seconds: float) -> None:
        """Send nothing more. A request without an answer is dropped after so many seconds."""
        self._shared.is_stopping = True
        self._schedule.stop()
        self._end_trials()
        for fetch in self._shared.fetching:
            fetch.deadline = min(fetch.deadline, anyio.current_time() + seconds)

    async def _work(self) -> None:
        try:
            with anyio.CancelScope() as fetch:  # one for all requests of a worker saves 4 us a page
                async for taken in self._schedule.line:
                    if self._shared.is_stopping:
                        return
                    state = self._first_state(taken) if isinstance(taken, PlannedAccount) else taken
                    account = self._pull_of(state, self._shared)
                    again_at = await self._ask(account, fetch)
                    account.rest()
                    if not self._shared.is_stopping:
                        self._schedule.ask_again(state, again_at)
        except Exception as error:  # noqa: BLE001 - reaches the consumer as it was raised
            self._on_error(error)

    def _first_state(self, account: PlannedAccount) -> AccountState:
        stored = self._shared.stored.pop(account.id, None) or AccountProgress()
        return AccountState.of(account, stored, len(self._shared.plan.windows_of(account.id)))

    async def _ask(self, account: AccountPull, fetch: anyio.CancelScope) -> float:
        """Ask one account for some pages. Return when to ask it again."""
        for _ in range(TURN_PAGES):
            if self._shared.is_stopping:
                return NEVER
            if self._shared.circuit.is_open:
                again_at = await self._try_service(account, fetch)
            else:
                again_at = await account.next_page(self._shared.client, fetch)
            if again_at is not None:
                return again_at
        return IN_TURN

    async def _try_service(self, account: AccountPull, fetch: anyio.CancelScope) -> float | None:
        """Send a trial request when it is time, unless the service is back or given up by then.

        Return as ``AccountPull.next_page``.
        """
        circuit = self._shared.circuit
        self._trials.total_tokens = 1
        async with self._trials:
            if circuit.is_open and not (self._shared.is_stopping or circuit.is_given_up):
                with anyio.move_on_after(circuit.next_trial - time.monotonic()) as self._nap:
                    await anyio.sleep_forever()
            if self._shared.is_stopping:
                return NEVER
            if not circuit.is_open:
                return None
            if circuit.is_given_up:
                if not self._is_parking and await self._still_answers(fetch):
                    circuit.prove(time.monotonic())
                    return IN_TURN
                self._is_parking = True
                self._schedule.hurry()
                return account.park(None)
            return await account.next_page(self._shared.trial_client, fetch)

    async def _still_answers(self, fetch: anyio.CancelScope) -> bool:
        """Ask once more for what an account got that has ended. An outage is over then, or was none."""
        shared = self._shared
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
            cause = error.__cause__ if isinstance(error, (CursorExpiredError, UsageError)) else error
            shared.report.count_call(attempts=getattr(cause, "attempts", 1))
            return is_answer(error, shared.client.retry)
        finally:
            shared.fetching.discard(fetch)
        shared.report.count_call(attempts=response.attempts)
        return True

    def _end_outage(self) -> None:
        self._is_parking = False
        self._end_trials()

    def _end_trials(self) -> None:
        """Wake all workers that wait for their trial, or for the result of another one."""
        self._trials.total_tokens = math.inf
        self._nap.cancel()


class Schedule:
    """The accounts that are still to be asked: those in ``line`` now, the others when their time has come.

    ``line`` ends when no account is ``left``. ``close`` it once the workers have ended.
    """

    def __init__(self, accounts: Sequence[PlannedAccount]) -> None:
        self._to_line, self.line = anyio.create_memory_object_stream[PlannedAccount | AccountState](math.inf)
        self._to_wait, self._waiting = anyio.create_memory_object_stream[tuple[float, int, AccountState]](
            math.inf
        )
        self._order = count()  # accounts cannot be compared
        self._nap = anyio.CancelScope()
        self._hurries = False
        self._is_stopped = False
        self._accounts = accounts
        self.left = len(accounts)
        if not self.left:
            self.stop()

    def ask_again(self, account: AccountState, at: float) -> None:
        """Put back an account that was taken: ``IN_TURN``, at a time of the monotonic clock, or ``NEVER``."""
        if at == NEVER:
            self.left -= 1
            if not self.left:
                self.stop()
        elif at == IN_TURN:
            self._to_line.send_nowait(account)
        else:
            self._to_wait.send_nowait((at, next(self._order), account))

    def hurry(self) -> None:
        """Put all waiting accounts in line: waiting longer is pointless."""
        self._hurries = True
        self._nap.cancel()

    def stop(self) -> None:
        """Take no more accounts back. Those in line still come."""
        self._is_stopped = True
        self._to_line.close()
        self._to_wait.close()

    async def run(self) -> None:
        """Put all accounts in line, and later those whose time has come, until ``stop``."""
        accounts, self._accounts = iter(self._accounts), ()
        await self._put_in_line(accounts)
        heap: list[tuple[float, int, AccountState]] = []

        def due() -> Iterator[AccountState]:
            while heap and heap[0][0] <= now:
                yield heappop(heap)[-1]

        while not self._is_stopped:
            seconds = None
            if heap or self._hurries:
                seconds = 0.0 if self._hurries else heap[0][0] - time.monotonic()
            with anyio.move_on_after(seconds) as self._nap:
                try:
                    heappush(heap, await self._waiting.receive())
                except anyio.EndOfStream:
                    return
            now = math.inf if self._hurries else time.monotonic()
            self._hurries = False
            await self._put_in_line(due())

    async def _put_in_line(self, accounts: Iterator[PlannedAccount | AccountState]) -> None:
        """Put accounts in line, yielding to the loop now and then if there are many."""
        for number, account in enumerate(accounts, 1):
            if self._is_stopped:
                return
            self._to_line.send_nowait(account)
            if number % YIELD_ACCOUNTS == 0:
                await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        self.stop()
        self.line.close()
        self._waiting.close()


async def accounts_to_do(
    plan: Plan,
    stored: AsyncIterator[tuple[str, AccountProgress]],
    report: PullReport,
    *,
    max_park: float,
    lookback: float | None = None,
) -> tuple[list[PlannedAccount], dict[str, AccountProgress]]:
    """Return the accounts with a window left to do after earlier runs, and how far they came; count the others.

    A stored time more than ``max_park`` seconds ahead comes from a wrong clock and is ignored. With ``lookback``,
    windows are opened again in which a transcript was first found missing at most so many seconds ago.

    :raises DamagedStateError: a stored position was not written by a pull.
    """
    report.accounts, report.windows = len(plan.accounts), len(plan.windows)
    found: dict[str, AccountProgress] = {}
    now = time.time()
    async for name, progress in stored:
        _check(name, progress, len(plan.windows_of(name)), is_per_meeting=plan.walk.is_per_meeting)
        if lookback is not None:
            _look_back(progress, now, lookback)
        found[name] = progress
        report.windows_done += progress.windows_over()
    to_do: list[PlannedAccount] = []
    for number, account in enumerate(plan.accounts, 1):
        progress = found.get(account.id, _NO_PROGRESS)
        windows = len(plan.windows_of(account.id))
        windows_left = windows - progress.windows_over()
        report.windows_done += report.windows - windows  # those that others have to do
        until = max((each.until or 0.0 for each in progress.later.values()), default=0.0)
        if windows_left and not now < until <= now + max_park:
            to_do.append(account)
        else:
            if not windows_left:
                report.done += 1
                why = _why_skipped(progress)
                if why is not None:
                    report.unsupported[account.id] = why
                report.empty += not (progress.has_rows or why is not None)
            else:
                report.parked[account.id] = until
                report.windows_left += windows_left
            found.pop(account.id, None)
        if number % YIELD_ACCOUNTS == 0:
            await anyio.lowlevel.checkpoint()
    return to_do, found


_NO_PROGRESS = AccountProgress()


def _look_back(progress: AccountProgress, now: float, lookback: float) -> None:
    """Open windows again whose missing transcripts may be there by now."""
    for window, each in tuple(progress.later.items()):
        if each.is_over and each.position not in (None, UNSUPPORTED):
            queue = MeetingQueue.parse(each.position or "")
            if due := queue.due(now, lookback):
                queue.ids = due
                progress.later[window] = replace(each, position=str(queue), outcome="open")


def _why_skipped(progress: AccountProgress) -> str | None:
    """Return why an account was not asked; None: it was."""
    for each in progress.later.values():
        if each.position == UNSUPPORTED:
            return each.error or ""
    return None


def _check(name: str, progress: AccountProgress, windows: int, *, is_per_meeting: bool) -> None:
    """Leave out windows that are not in the plan.

    :raises DamagedStateError: a stored position was not written by a pull.
    """
    progress.finished = min(progress.finished, windows)
    for window, each in tuple(progress.later.items()):
        if not 0 <= window < windows:
            del progress.later[window]
        try:
            if each.position is not None:
                check_position(each.position, is_per_meeting=is_per_meeting)
        except UsageError as error:
            raise DamagedStateError(f"the stored position of account {name} is damaged: {error}") from error

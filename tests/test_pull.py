"""Pulls of many accounts: who is asked, what is handed out, what is done, and that nothing is lost or doubled.

The sandbox runs in the test's own loop, or in a thread beside processes that are killed.
"""

from __future__ import annotations

import asyncio
import csv
import errno
import json
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from tests.pull_runs import Runs
from tests.support import examples, run
from truto_ci_async import Fault, Pacing, RetryPolicy, Sandbox, Timeouts, TrutoClient
from truto_ci_async._files import Disk
from truto_ci_async._http.policy.circuit_breaker import CircuitBreaker
from truto_ci_async._lock import RunLock
from truto_ci_async.errors import (
    AccountBlockedError,
    AuthenticationError,
    ConfigurationError,
    CursorExpiredError,
    CursorLoopError,
    DamagedStateError,
    DecodeError,
    NotFoundError,
    PermissionDeniedError,
    ReconnectRequiredError,
    ServerError,
    StateConflictError,
    StorageError,
    TrutoError,
    UsageError,
)
from truto_ci_async.events import Event, PageDecoded, RequestSent, ResponseReceived, UnknownFields
from truto_ci_async.models import Interaction, Page
from truto_ci_async.models.pulls import AccountPage, Place, PlannedAccount, Window
from truto_ci_async.models.row_views import PULL_COLUMNS, are_plain
from truto_ci_async.pull import commits as _commits
from truto_ci_async.pull import engine as _engine
from truto_ci_async.pull.account_pull import ACCOUNT_CALLS, RESTARTS, AccountPull
from truto_ci_async.pull.checkpoint.base import Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.commits import COMMIT_PAGES
from truto_ci_async.pull.engine import READ_AHEAD, STOP_SECONDS, Pull
from truto_ci_async.pull.foreign_rows import YIELD_ITEMS, foreign_rows
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.report import Budget, PullReport
from truto_ci_async.pull.row_fingerprints import (
    SeenRows,
    log_of_place,
    row_fingerprints,
    row_identities,
    split,
    split_places,
)
from truto_ci_async.pull.shard import run_shard
from truto_ci_async.pull.workers import TURN_PAGES
from truto_ci_async.sinks.factory import make_sink
from truto_ci_async.sinks.layout import STATE_FILE
from truto_ci_async.sinks.lines import CsvSink, NdjsonSink

log = logging.getLogger("tests")
posix = pytest.mark.skipif(os.name == "nt", reason="signals, forks and mounts of POSIX")
FORMATS = ("ndjson", "csv", "parquet")

START, END = "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"
BOUNDS: dict[str, Any] = {"start_time": START, "end_time": END}
ACCOUNTS, PEOPLE, PAGE = 5, 7, 2
PAGES = 4  # of an account, the last one short
# Outages, scaled to what a test has time for.
QUICK = Budget(max_accounts=4, max_outage=30.0, probe_wait=0.01, max_probe_wait=0.05)
RETRY = RetryPolicy(attempts=2, fault_base=0.0, throttle_base=0.0)

MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None

Row = tuple[str, str, str]  # account, start of the window asked, person


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where that is possible: most disks only make the order of things slow."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@asynccontextmanager
async def service(
    *,
    on_event: Callable[[Event], None] | None = None,
    retry: RetryPolicy = RETRY,
    timeouts: Timeouts = Timeouts(),
    **options: Any,
) -> AsyncGenerator[tuple[Sandbox, TrutoClient]]:
    """A sandbox without limits, and a client of it."""
    options = {"accounts": ACCOUNTS, "interactions": PEOPLE, "page_size": PAGE} | options
    async with (
        Sandbox(token_rate=None, account_rate=None, ratelimit_headers=None, **options) as sandbox,
        TrutoClient(
            sandbox.token,
            base_url=sandbox.url,
            pacing=Pacing.off(),
            retry=retry,
            timeouts=timeouts,
            on_event=on_event,
        ) as client,
    ):
        yield sandbox, client


def expected(sandbox: Sandbox, *accounts: str) -> list[Row]:
    return sorted(
        (account, START, row["user"]["id"])
        for account in accounts or sandbox.account_ids
        for row in sandbox.expected(account, start_time=START, end_time=END)
    )


def rows_of(page: AccountPage[Any]) -> list[Row]:
    return [(page.account.id, str(page.window.start), item.user.id) for item in page.page]


def read_rows(folder: Path, format: str) -> list[Row]:
    """Read the output as a stranger would: everything that a glob finds."""
    rows: list[dict[str, Any]] = []
    if format == "parquet":
        from pyarrow import parquet

        for path in sorted(folder.rglob("*.parquet")):
            rows += parquet.ParquetFile(path).read(use_threads=False).to_pylist()
    for path in folder.glob(f"*.{format}"):
        if format == "ndjson":
            rows += [json.loads(line) for line in path.read_text().splitlines()]
        elif format == "csv":
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
    for row in rows:
        if isinstance(start := row["window_start"], datetime):
            row["window_start"] = start.isoformat().replace("+00:00", "Z")  # as the plans here have it
    return sorted(
        (
            row["integrated_account_id"],
            row["window_start"],
            row["user"]["id"] if "user" in row else row["user_id"],
        )
        for row in rows
    )


async def gather(pull: Pull[Any], rows: list[Row]) -> PullReport:
    """Take everything; a page that was taken is done, since nothing is waited for before asking for the next."""
    async with pull as pages:
        async for page in pages:
            rows += rows_of(page)
    return pull.report


class InFlight:
    """Who is being asked right now, told by a client's events."""

    def __init__(self) -> None:
        self.now: Counter[str | None] = Counter()
        self.most = 0
        self.most_of_one = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, RequestSent):
            self.now[event.account] += 1
            self.most = max(self.most, self.now.total())
            self.most_of_one = max(self.most_of_one, self.now[event.account])
        elif isinstance(event, ResponseReceived):
            self.now[event.account] -= 1


# --- what is handed out ----------------------------------------------------------------------------------------


def test_every_row_comes_once_with_whose_it_is() -> None:
    """In order within an account, many accounts at a time, never more than allowed, and one never twice at once."""

    async def scenario() -> None:
        flight = InFlight()
        async with service(on_event=flight, accounts=9) as (sandbox, client):
            sandbox.configure(sandbox.account_ids[0], interactions=0)
            seen: dict[str, list[str]] = {}
            pull = client.interactions.pull(sandbox.account_ids, max_accounts=4, **BOUNDS)
            async with pull as pages:
                async for page in pages:
                    assert (page.window.start, page.window.end) == (START, END)
                    seen.setdefault(page.account.id, []).extend(row[2] for row in rows_of(page))
            assert seen == {each: sandbox.user_ids(each) for each in sandbox.account_ids}
            report = pull.report
            assert report.complete
            assert (report.done, report.empty, report.rows) == (9, 1, 8 * PEOPLE)
            assert report.pages == report.requests == sandbox.stats.requests == 8 * PAGES + 1
            assert report.retries == report.issues == 0
            assert report.failed == report.parked == {}
            assert (flight.most, flight.most_of_one) == (4, 1)

    run(scenario())


def test_windows_are_pulled_oldest_first_and_keep_apart() -> None:
    async def scenario() -> None:
        async with service(accounts=2) as (sandbox, client):
            seen: dict[str, list[str | None]] = {}
            async with client.interactions.pull(
                sandbox.account_ids, start_time=START, end_time="2024-01-04T00:00:00Z", window="day"
            ) as pages:
                async for page in pages:
                    seen.setdefault(page.account.id, []).append(page.window.start)
            days = [f"2024-01-0{day}T00:00:00Z" for day in (1, 2, 3) for _ in range(PAGES)]
            assert seen == dict.fromkeys(sandbox.account_ids, days)
            assert pages.report.done == 2

    run(scenario())


def test_a_long_account_does_not_keep_the_others_waiting() -> None:
    async def scenario() -> None:
        async with service(accounts=2, page_size=1) as (sandbox, client):
            long, short = sandbox.account_ids
            sandbox.configure(long, interactions=3 * TURN_PAGES)
            order: list[str] = []
            async with client.interactions.pull([long, short], max_accounts=1, **BOUNDS) as pages:
                order += [page.account.id async for page in pages]
            assert order.index(short) == TURN_PAGES

    run(scenario())


def test_a_slow_consumer_holds_the_service_back() -> None:
    """One page waits of each account in flight, few are read: the others are bodies, on no deadline."""
    accounts = 2 * READ_AHEAD
    read = 0

    def note(event: Event) -> None:
        nonlocal read
        read += isinstance(event, PageDecoded)

    async def scenario() -> None:
        quick = Timeouts(total=1.0)
        async with service(
            accounts=accounts, page_size=1, interactions=12, on_event=note, timeouts=quick
        ) as (sandbox, client):
            pull = client.interactions.pull(sandbox.account_ids, max_accounts=accounts, **BOUNDS)
            async with pull as pages:
                await anext(pages)
                since = time.monotonic()
                before = -1
                # Until nothing moves any more, and longer than any call may take.
                while sandbox.stats.requests != before or time.monotonic() < since + 1.1:
                    before = sandbox.stats.requests
                    await asyncio.sleep(0.05)
                assert sandbox.stats.requests == 1 + READ_AHEAD + accounts
                assert read == 1 + READ_AHEAD
                async for _ in pages:
                    pass
            assert pages.report.complete
            assert pages.report.retries == 0

    run(scenario())


# --- what is done ----------------------------------------------------------------------------------------------


def test_what_is_broken_off_goes_on_where_it_was() -> None:
    """``break`` leaves the page undone; over all runs each row is done once, and the reports add up."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            checkpoint = MemoryCheckpoint()
            rows: list[Row] = []
            reported = 0
            runs = 0
            while reported < ACCOUNTS * PEOPLE:
                runs += 1
                pull = client.interactions.pull(
                    sandbox.account_ids, checkpoint=checkpoint, max_accounts=3, **BOUNDS
                )
                async with pull as pages:
                    before: list[Row] = []
                    taken = 0
                    async for page in pages:
                        rows += before
                        before = rows_of(page)
                        taken += 1
                        if taken == 4:
                            break
                    else:
                        rows += before
                reported += pull.report.rows
            assert pull.report.complete
            assert runs > 3
            assert sorted(rows) == expected(sandbox)
            assert reported == len(rows)

    run(scenario())


class Mine(Exception):
    pass


def test_an_exception_of_the_body_arrives_as_it_was_raised() -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            checkpoint = MemoryCheckpoint()
            mine = Mine()
            with pytest.raises(Mine) as caught:
                async with client.interactions.pull(
                    sandbox.account_ids, checkpoint=checkpoint, **BOUNDS
                ) as pages:
                    await anext(pages)
                    second = await anext(pages)
                    raise mine
            assert caught.value is mine
            rows: list[Row] = []
            await gather(client.interactions.pull(sandbox.account_ids, checkpoint=checkpoint, **BOUNDS), rows)
            assert set(rows_of(second)) <= set(rows)
            assert len(rows) == ACCOUNTS * PEOPLE - PAGE  # the first page was done

    run(scenario())


async def cancelled(pull: Pull[Any], rows: list[Row], how: str, turns: int) -> None:
    """Gather, and be cancelled in that way after so many turns of the loop."""

    def expire(deadline: asyncio.Timeout) -> None:
        with suppress(RuntimeError):  # it is over already
            deadline.reschedule(asyncio.get_running_loop().time())

    if how == "timeout":
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as deadline:
                after(turns, lambda: expire(deadline))
                await gather(pull, rows)
    elif how == "scope":
        with anyio.CancelScope() as scope:
            after(turns, scope.cancel)
            await gather(pull, rows)
    else:
        task = asyncio.create_task(gather(pull, rows))
        after(turns, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None


@pytest.mark.parametrize("how", ["cancel", "timeout", "scope"])
def test_a_cancellation_at_any_turn_ends_it_and_loses_nothing(how: str) -> None:
    """Opening, waiting, marking, closing: wherever it hits, the pull is closed when it is over."""

    async def scenario() -> None:
        async with service(accounts=3) as (sandbox, client):
            for turns in [*range(0, 40, 3), *range(40, 200, 16)]:
                checkpoint = MemoryCheckpoint()
                rows: list[Row] = []
                options: dict[str, Any] = {"checkpoint": checkpoint, "max_accounts": 2, **BOUNDS}
                await cancelled(client.interactions.pull(sandbox.account_ids, **options), rows, how, turns)
                report = await gather(client.interactions.pull(sandbox.account_ids, **options), rows)
                assert report.complete
                assert sorted(rows) == expected(sandbox), turns

    run(scenario(), timeout=60)


def after(turns: int, call: Callable[[], object]) -> None:
    """Call after so many turns of the loop."""
    loop = asyncio.get_running_loop()
    if turns:
        loop.call_soon(after, turns - 1, call)
    else:
        call()


def test_two_askers_at_once_are_refused_where_asking_marks() -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            for each in sandbox.account_ids:
                sandbox.fault(Fault.slow(0.05), each)
            async with client.interactions.pull(sandbox.account_ids, **BOUNDS) as pages:
                first = asyncio.ensure_future(anext(pages))
                await asyncio.sleep(0)
                with pytest.raises(UsageError, match="manual"):
                    await anext(pages)
                await first

    run(scenario())


def test_a_consumer_that_stops_waiting_loses_no_page() -> None:
    """``asyncio.timeout`` around the wait for a page may hit just when one arrives: it comes with the next call."""
    asking: list[asyncio.Future[Any]] = []
    cancelled = 0

    def cancel(event: Event) -> None:
        if isinstance(event, PageDecoded):  # the page is handed over before the loop has another turn
            asyncio.get_running_loop().call_soon(asking[-1].cancel)

    async def scenario() -> None:
        nonlocal cancelled
        async with service(on_event=cancel) as (sandbox, client):
            rows: list[Row] = []
            async with client.interactions.pull(sandbox.account_ids, commit="manual", **BOUNDS) as pages:
                async with asyncio.timeout(10.0):
                    while True:
                        asking.append(asyncio.ensure_future(anext(pages, None)))
                        await asyncio.wait(asking[-1:])
                        if asking[-1].cancelled():
                            cancelled += 1
                        elif (page := asking[-1].result()) is None:
                            break
                        else:
                            page.mark()
                            rows += rows_of(page)
            assert pages.report.complete
            assert sorted(rows) == expected(sandbox)
            assert cancelled

    run(scenario())


def test_many_consumers_commit_what_they_took() -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            checkpoint = MemoryCheckpoint()
            rows: list[Row] = []

            async def consume(pages: Pull[Any]) -> None:
                async for page in pages:
                    await page.commit()
                    rows.extend(rows_of(page))
                    await page.commit()  # twice is fine

            pull = client.interactions.pull(
                sandbox.account_ids, checkpoint=checkpoint, commit="manual", max_accounts=4, **BOUNDS
            )
            async with pull as pages, asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(consume(pages))
            assert sorted(rows) == expected(sandbox)
            assert pull.report.complete
            stored = await opened(checkpoint)
            assert {progress.outcome for progress in stored.values()} == {"done"}

    run(scenario())


async def opened(checkpoint: MemoryCheckpoint | SQLiteCheckpoint) -> dict[Key, Progress]:
    async with checkpoint:
        await checkpoint.open()
        return await checkpoint.load()


def test_who_waits_for_a_commit_does_not_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for is committed together, once in a while; a page that is waited for is durable at once."""
    monkeypatch.setattr(_commits, "COMMIT_SECONDS", 600.0)
    monkeypatch.setattr(_commits, "COMMIT_PAGES", 10**6)

    async def scenario() -> None:
        async with service(accounts=2) as (sandbox, client):
            checkpoint = MemoryCheckpoint()
            how: Any = {"checkpoint": checkpoint, "commit": "manual"}
            async with client.interactions.pull(sandbox.account_ids, **how, **BOUNDS) as pages:
                count = 0
                async for page in pages:
                    async with asyncio.timeout(5.0):
                        await page.commit()
                    count += 1
                    assert sum(progress.pages for progress in (await checkpoint.load()).values()) == count

    run(scenario())


def test_commits_of_one_account_apply_in_order() -> None:
    """The second page's commit waits for the first one: the checkpoint never skips a page."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            pull = client.interactions.pull(sandbox.account_ids, commit="manual", **BOUNDS)
            async with pull as pages:
                first, second = await anext(pages), await anext(pages)
                later = asyncio.ensure_future(second.commit())
                done, _ = await asyncio.wait([later], timeout=0.2)
                assert not done
                assert pull.report.pages == 0
                await first.commit()
                await asyncio.wait_for(later, 5.0)
                assert (pull.report.pages, pull.report.rows) == (2, 2 * PAGE)
                third = await anext(pages)
                waiting = asyncio.ensure_future((await anext(pages)).commit())
                await asyncio.sleep(0)
            with pytest.raises(UsageError, match="closed"):
                await waiting
            with pytest.raises(UsageError, match="closed"):
                await third.commit()

    run(scenario())


def test_misuse_is_told() -> None:
    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            with pytest.raises(UsageError, match="manual"):
                client.interactions.pull(sandbox.account_ids, commit="never", **BOUNDS)  # type: ignore[arg-type]
            pull = client.interactions.pull(sandbox.account_ids, **BOUNDS)
            with pytest.raises(UsageError, match="open the pull"):
                await anext(pull)
            pull.stop()  # harmless
            pull = client.interactions.pull(sandbox.account_ids, **BOUNDS)
            async with pull as pages:
                pass
            with pytest.raises(UsageError, match="closed"):
                await anext(pages)
            with pytest.raises(UsageError, match="once"):
                async with pull:
                    pass
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            with pytest.raises(UsageError, match="start_time"):
                client.interactions.pull(plan, start_time="-7d")
            for wrong in ({"max_accounts": 0}, {"max_accounts": 1.5}, {"probe_wait": 0}, {"max_outage": -1}):
                with pytest.raises(ConfigurationError):
                    Budget(**wrong)  # type: ignore[arg-type]

    run(scenario())


class Recorder(MemoryCheckpoint):
    """Notes what each commit held, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[dict[Key, Progress]] = []
        self.arrived = asyncio.Event()
        self.fails_at = 0

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        sink_state: bytes | None = None,
        *,
        row_keys: Mapping[Key, bytes] | None = None,
    ) -> None:
        self.commits.append(dict(changes))
        self.arrived.set()
        if len(self.commits) == self.fails_at:
            raise StorageError("the disk is full", path="somewhere", errno=errno.ENOSPC)
        await super().commit(changes, sink_state, row_keys=row_keys)


def test_what_is_done_becomes_durable_soon() -> None:
    """Within 50 ms, or with the 64th page: a service that is killed repeats little."""

    async def scenario() -> None:
        async with service(accounts=1, page_size=1, interactions=300) as (sandbox, client):
            recorder = Recorder()
            async with client.interactions.pull(
                sandbox.account_ids, checkpoint=recorder, max_accounts=32, **BOUNDS
            ) as pages:
                await anext(pages)
                waiting = asyncio.ensure_future(anext(pages))  # marks the first
                started = time.monotonic()
                await asyncio.wait_for(recorder.arrived.wait(), 5.0)
                assert time.monotonic() - started < 0.5
                assert next(iter(recorder.commits[0].values())).pages == 1
                await waiting
                async for _ in pages:
                    pass
            done = [0, *(next(iter(changes.values())).pages for changes in recorder.commits)]
            assert done[-1] == 300
            steps = [b - a for a, b in pairwise(done)]
            assert max(steps) <= COMMIT_PAGES + 5

    run(scenario())


@pytest.mark.parametrize("commit", ["auto", "manual"])
def test_a_commit_that_fails_ends_the_pull(commit: Any) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            recorder = Recorder()
            recorder.fails_at = 1
            with pytest.raises(StorageError, match="the disk is full"):
                async with client.interactions.pull(
                    sandbox.account_ids, checkpoint=recorder, commit=commit, **BOUNDS
                ) as pages:
                    async for page in pages:
                        if commit == "manual":
                            await page.commit()
            # The same, where the body does not hear of it before it leaves.
            recorder.fails_at = len(recorder.commits) + 1
            with pytest.raises(StorageError, match="the disk is full"):
                async with client.interactions.pull(
                    sandbox.account_ids, checkpoint=recorder, **BOUNDS
                ) as pages:
                    await anext(pages)
                    await anext(pages)
            # An exception of the body stays first.
            recorder.fails_at = len(recorder.commits) + 1
            with pytest.raises(Mine) as caught:
                async with client.interactions.pull(
                    sandbox.account_ids, checkpoint=recorder, **BOUNDS
                ) as pages:
                    await anext(pages)
                    await anext(pages)
                    raise Mine
            assert "the disk is full" in caught.value.__notes__[0]
            rows: list[Row] = []
            report = await gather(
                client.interactions.pull(sandbox.account_ids, checkpoint=recorder, **BOUNDS), rows
            )
            assert report.complete
            assert sorted(rows) == expected(sandbox)

    run(scenario())


# --- sinks -----------------------------------------------------------------------------------------------------


class Lines:
    """A sink of somebody else's: a list, committed every so many calls; may fail where it is told to."""

    item_type = Interaction

    def __init__(self, *, every: int = 1) -> None:
        self.rows: list[Row] = []
        self.every = every
        self.asked = 0
        self.fails: str | None = None
        self.is_busy = False

    async def open(self, state: bytes | None) -> None:
        del self.rows[int(state or b"0") :]
        self.asked = 0

    async def write(self, page: AccountPage[Any]) -> None:
        await self._alone()
        if self.fails == "write" and len(self.rows) > 12:
            raise ZeroDivisionError("mine")
        self.rows += rows_of(page)

    async def commit(self, *, final: bool = False) -> bytes | None:
        await self._alone()
        if self.fails == "commit" and len(self.rows) > 12:
            raise ZeroDivisionError("mine")
        self.asked += 1
        if self.asked % self.every and not final:
            return None
        return str(len(self.rows)).encode()

    async def _alone(self) -> None:
        assert not self.is_busy, "called while it was at work"
        self.is_busy = True
        await asyncio.sleep(0)
        self.is_busy = False


def test_a_sink_that_never_says_what_is_in_it_is_told_of() -> None:
    """A ``commit`` that forgets its return would lose the progress of the whole pull, and call it complete."""

    class Forgetful(Lines):
        async def commit(self, *, final: bool = False) -> bytes | None:
            return None

    async def scenario() -> None:
        async with service() as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            with pytest.raises(UsageError, match=r"Forgetful\.commit\(final=True\) gave None"):
                await run_shard(client, plan, MemoryCheckpoint(), Forgetful(), QUICK)

    run(scenario())


def test_rows_of_a_run_that_failed_to_commit_are_known_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed before stays, so a window that is begun again later leaves it out."""
    monkeypatch.setattr(_commits, "COMMIT_PAGES", 1)

    async def scenario() -> None:
        async with service(accounts=2, page_size=1) as (sandbox, client):
            sink, checkpoint = Lines(), MemoryCheckpoint()
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            sink.fails = "commit"
            with pytest.raises(ZeroDivisionError):
                await run_shard(client, plan, checkpoint, sink, QUICK)
            sandbox.expire_cursors()
            sink.fails = None
            report = await run_shard(client, plan, checkpoint, sink, QUICK)
            assert report.complete
            assert sorted(sink.rows) == expected(sandbox)

    run(scenario())


def test_only_what_is_durable_is_counted_in_the_end() -> None:
    """Who reads 7,000 rows in a report finds 7,000 in the output."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            sink, checkpoint = Lines(), MemoryCheckpoint()
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            pulls: list[Pull[Any]] = []
            sink.fails = "commit"
            with pytest.raises(ZeroDivisionError):
                await run_shard(client, plan, checkpoint, sink, QUICK, on_start=pulls.append)
            found = (await opened(checkpoint)).values()
            report = pulls[0].report
            assert report.rows == sum(each.rows for each in found)
            assert report.pages == sum(each.pages for each in found)
            assert report.done == sum(each.is_over for each in found)

    run(scenario())


ACTIVE: dict[str, Any] = {"integration": "gong", "status": "active"}


def test_accounts_are_looked_up_by_one_run_and_once(tmp_path: Path) -> None:
    """A second run is refused before it has looked for thousands of accounts; a later one goes on with those it has."""

    async def scenario() -> None:
        paths: list[str] = []
        gate, asked = asyncio.Event(), asyncio.Event()

        def watch(event: Event) -> None:
            if isinstance(event, RequestSent):
                paths.append(event.url.partition("?")[0])

        async with service(on_event=watch) as (_, client):

            async def held(stored: Plan | None) -> Plan:
                assert stored is None
                asked.set()
                await gate.wait()
                return await client.interactions.plan(**ACTIVE, **BOUNDS)

            sink = NdjsonSink(tmp_path)
            first = asyncio.create_task(
                run_shard(client, held, SQLiteCheckpoint(tmp_path / STATE_FILE), sink)
            )
            await asyncio.wait_for(asked.wait(), 5.0)
            with pytest.raises(StateConflictError, match="in use"):
                await client.interactions.pull_to(tmp_path, **ACTIVE, **BOUNDS)
            assert paths == []
            gate.set()
            assert (await first).complete
            looked = paths.count("/integrated-account")
            for grow in (False, True):  # new accounts are looked for on request
                report = await client.interactions.pull_to(tmp_path, grow=grow, **ACTIVE, **BOUNDS)
                assert report.complete
                assert paths.count("/integrated-account") == looked * (1 + grow)

    run(scenario())


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_a_sink_may_say_not_yet(every: int) -> None:
    """Until it says otherwise nothing of it is checkpointed, and in the end everything is."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            sink, recorder = Lines(every=every), Recorder()
            sandbox.script(sandbox.account_ids[0], [Fault.ok(), Fault.status(403).forever()])
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            report = await run_shard(client, plan, recorder, sink, QUICK)
            assert (report.done, list(report.failed)) == (ACCOUNTS - 1, sandbox.account_ids[:1])
            if every == 1000:
                assert len(recorder.commits) == 1
            sandbox.clear_faults()
            assert (await run_shard(client, plan, recorder, sink, QUICK)).complete
            assert sorted(sink.rows) == expected(sandbox)
            before = sandbox.stats.requests
            report = await run_shard(client, plan, recorder, sink, QUICK)  # once complete, nothing is asked
            assert (report.complete, report.rows, sandbox.stats.requests) == (True, 0, before)

    run(scenario())


@pytest.mark.parametrize("where", ["write", "commit"])
def test_an_error_of_a_sink_arrives_as_it_was_raised(where: str) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            sink, checkpoint = Lines(), MemoryCheckpoint()
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            sink.fails = where
            with pytest.raises(ZeroDivisionError, match="mine"):
                await run_shard(client, plan, checkpoint, sink, QUICK)
            sink.fails = None
            assert (await run_shard(client, plan, checkpoint, sink, QUICK)).complete
            assert sorted(sink.rows) == expected(sandbox)

    run(scenario())


def test_a_slow_disk_does_not_hold_up_the_pull(tmp_path: Path) -> None:
    """To make pages durable takes milliseconds, in which others can be asked for and written."""
    reached, gate = threading.Event(), threading.Event()

    def hold(step: str) -> None:
        if step == "fsync" and sink.rows == 0 and started.is_set():
            reached.set()
            assert gate.wait(10.0)

    started = threading.Event()
    sink = NdjsonSink(tmp_path, disk=Disk(hold))

    async def scenario() -> None:
        async with service(accounts=6, interactions=60, page_size=10) as (sandbox, client):
            checkpoint = SQLiteCheckpoint(tmp_path / "state")
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            pulls: list[Pull[Any]] = []

            def begin(pull: Pull[Any]) -> None:
                pulls.append(pull)
                started.set()

            pulling = asyncio.create_task(
                run_shard(client, plan, checkpoint, sink, Budget(max_accounts=2), on_start=begin)
            )
            await asyncio.to_thread(reached.wait, 10.0)
            try:
                async with asyncio.timeout(10.0):
                    while pulls[0].report.rows < 360:  # all of them, while nothing is durable
                        await asyncio.sleep(0.001)
                assert sink.rows == 0
                assert not pulling.done()
            finally:
                gate.set()
            assert (await pulling).complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


def test_a_commit_under_way_is_brought_to_its_end() -> None:
    """Half a commit, of the output without its progress, would double rows the next time."""

    class Held(Lines):
        def __init__(self) -> None:
            super().__init__()
            self.reached, self.gate = asyncio.Event(), asyncio.Event()

        async def commit(self, *, final: bool = False) -> bytes | None:
            state = await super().commit(final=final)
            self.reached.set()
            await self.gate.wait()
            return state

    async def scenario() -> None:
        async with service() as (sandbox, client):
            sink, checkpoint = Held(), MemoryCheckpoint()
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            pulling = asyncio.create_task(run_shard(client, plan, checkpoint, sink, QUICK))
            await asyncio.wait_for(sink.reached.wait(), 5.0)
            pulling.cancel()
            done, _ = await asyncio.wait([pulling], timeout=0.1)
            assert not done
            sink.gate.set()
            await asyncio.wait([pulling])
            assert pulling.cancelled()
            assert (await run_shard(client, plan, checkpoint, sink, QUICK)).complete
            assert sorted(sink.rows) == expected(sandbox)

    run(scenario())


class Waiting(Lines):
    """Takes its first page only once ``go`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.begun = self.ended = 0

    async def write(self, page: AccountPage[Any]) -> None:
        self.begun += 1
        await self.go.wait()
        await super().write(page)
        self.ended += 1


def test_a_page_that_fails_on_its_way_to_the_sink_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pull ends with that error. The place of the page was lost, and the other accounts waited for it for ever."""
    make = AccountPull._make
    made = 0

    def fail_second(self: AccountPull, *args: Any, **options: Any) -> None:
        nonlocal made
        made += 1
        if made == 2:
            raise ZeroDivisionError("mine")
        make(self, *args, **options)

    monkeypatch.setattr(AccountPull, "_make", fail_second)

    async def scenario() -> None:
        sink, answers = Waiting(), 0

        def on_event(event: Event) -> None:
            nonlocal answers
            answers += isinstance(event, ResponseReceived)
            if answers == 3:  # one page is being written, and two wait for that
                sink.go.set()

        async with service(accounts=3, on_event=on_event) as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            async with asyncio.timeout(5.0):
                with pytest.raises(ZeroDivisionError, match="mine"):
                    await run_shard(client, plan, MemoryCheckpoint(), sink, QUICK)

    run(scenario())


def test_a_page_is_not_cancelled_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of ``stop`` may come together with a response. A sink may have taken half of a page by then."""
    monkeypatch.setattr(_engine, "STOP_SECONDS", 0.0)

    async def scenario() -> None:
        sink, pulls = Waiting(), list[Pull[Any]]()
        sink.go.set()

        def on_event(event: Event) -> None:
            if isinstance(event, ResponseReceived) and sink.begun == 2:
                pulls[0].stop()

        async with service(accounts=1, on_event=on_event) as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            report = await run_shard(client, plan, MemoryCheckpoint(), sink, QUICK, on_start=pulls.append)
            assert (report.pages, sink.begun, sink.ended) == (2, 2, 2)

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_pulled_to_a_folder_and_run_again(format: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            accounts = [PlannedAccount(each, "tenant") for each in sandbox.account_ids]
            for again in range(3):
                report = await client.interactions.pull_to(tmp_path, accounts, format=format, **BOUNDS)
                assert report.complete
                assert report.rows == (0 if again else ACCOUNTS * PEOPLE)
                assert read_rows(tmp_path, format) == expected(sandbox)
            assert sandbox.stats.requests == ACCOUNTS * PAGES
            with pytest.raises(StateConflictError, match=r"end_time is .*2024-03-01"):
                await client.interactions.pull_to(
                    tmp_path, accounts, format=format, start_time=START, end_time="2024-03-01"
                )
            with pytest.raises(StateConflictError, match="1 account is new"):
                more = [*accounts, PlannedAccount("new")]
                await client.interactions.pull_to(tmp_path, more, format=format, **BOUNDS)
            await client.interactions.pull_to(tmp_path, accounts[:2], format=format, fresh=True, **BOUNDS)
            assert read_rows(tmp_path, format) == expected(sandbox, *sandbox.account_ids[:2])
            await client.interactions.pull_to(tmp_path, accounts, format=format, grow=True, **BOUNDS)
            assert read_rows(tmp_path, format) == expected(sandbox)

    run(scenario())


def test_shards_together_are_the_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            rows: list[Row] = []
            for shard in plan.shards(3):
                folder = tmp_path / str(shard.shard)
                await client.interactions.pull_to(folder, shard)
                rows += read_rows(folder, "ndjson")
            assert sorted(rows) == expected(sandbox)

    run(scenario())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_second_run_on_the_same_state_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    """And does not disturb the first one, not even by closing what it could not open."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            memory = MemoryCheckpoint()

            def store() -> MemoryCheckpoint | SQLiteCheckpoint:
                return memory if kind == "memory" else SQLiteCheckpoint(tmp_path / "state")

            rows: list[Row] = []
            pull = client.interactions.pull(sandbox.account_ids, checkpoint=store(), **BOUNDS)
            async with pull as pages:
                rows += rows_of(await anext(pages))
                for _ in range(2):
                    started = time.monotonic()
                    with pytest.raises(StateConflictError):
                        async with client.interactions.pull(
                            sandbox.account_ids, checkpoint=store(), **BOUNDS
                        ):
                            pass
                    assert time.monotonic() - started < 1.0
                async for page in pages:
                    rows += rows_of(page)
            assert sorted(rows) == expected(sandbox)
            assert {each.outcome for each in (await opened(store())).values()} == {"done"}

    run(scenario())


def test_state_never_holds_the_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        token = "a-token-that-nobody-else-would-write"
        async with service(tokens=[token]) as (sandbox, client):
            told = f"nothing for {token} here"  # some services repeat what they were sent
            sandbox.script(sandbox.account_ids[0], [Fault.status(403, message=told).forever()])
            sandbox.script(sandbox.account_ids[1], [Fault.status(429, retry_after=86400).forever()])
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, **BOUNDS)
            assert "nothing for *** here" in str(report.failed[sandbox.account_ids[0]])
            assert token not in json.dumps(report.to_dict())
            files = [path for path in tmp_path.iterdir() if path.is_file()]
            assert STATE_FILE in {path.name for path in files}
            for path in files:
                assert token.encode() not in path.read_bytes(), path

    run(scenario())


# --- what goes wrong: accounts ---------------------------------------------------------------------------------


def test_a_failing_account_is_a_result_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Each kind of failure is reported with its own error; a later run asks again, and only those."""

    async def scenario() -> None:
        async with service(accounts=9) as (sandbox, client):
            faults: dict[str, tuple[Fault, type[TrutoError]]] = dict(
                zip(
                    sandbox.account_ids,
                    (
                        (Fault.status(403), PermissionDeniedError),
                        (Fault.status(401, remote=True), ReconnectRequiredError),
                        (Fault.status(503), AccountBlockedError),
                        (Fault.status(404), NotFoundError),
                        (Fault.body({"unexpected": []}), DecodeError),
                        (Fault.loop(), CursorLoopError),
                    ),
                    strict=False,
                )
            )
            for account, (fault, _) in faults.items():
                sandbox.script(account, [Fault.ok(), fault.forever()])
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert {account: type(error) for account, error in report.failed.items()} == {
                account: kind for account, (_, kind) in faults.items()
            }
            assert (report.done, report.complete, report.parked) == (3, False, {})
            assert all(error.__traceback__ is None for error in report.failed.values())
            assert set(report.to_dict()["failed"][sandbox.account_ids[0]]) == {"error", "message"}
            json.dumps(report.to_dict())
            sandbox.clear_faults()
            sandbox.clear()
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert report.complete
            assert report.failed == {}
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)
            assert {record.account for record in sandbox.requests} == set(faults)

    run(scenario())


def test_only_a_404_about_data_is_an_empty_account() -> None:
    """A workspace that was deleted is a 404 of the provider too, and must not be reported as empty for ever."""

    async def scenario() -> None:
        async with service(accounts=5) as (sandbox, client):
            empty, none, gone, unknown, whole = sandbox.account_ids
            no_data = "no stats found for the specified period"
            for account, fault in {
                empty: Fault.status(404, remote=True, message=no_data),
                none: Fault.status(204),
                gone: Fault.status(404, remote=True, message="Could not find company"),
                unknown: Fault.status(404),
            }.items():
                sandbox.script(account, [fault.forever()])
            pull = client.interactions.pull(sandbox.account_ids, budget=QUICK, **BOUNDS)
            rows: list[Row] = []
            report = await gather(pull, rows)
            assert sorted(rows) == expected(sandbox, whole)
            assert (report.done, report.empty, report.no_data, report.not_found) == (3, 2, 1, 2)
            assert {account: type(error) for account, error in report.failed.items()} == {
                gone: NotFoundError,
                unknown: NotFoundError,
            }
            document = report.to_dict()
            assert (document["no_data"], document["not_found"]) == (1, 2)

    run(scenario())


def test_a_pull_takes_the_metrics_of_flat_rows() -> None:
    async def scenario() -> None:
        events: list[Any] = []
        async with service(accounts=2, on_event=events.append) as (sandbox, client):
            rows = [{"id": "1", "patience": 0.5, "mood": "good"}]
            sandbox.fault(Fault.body({"result": rows}).forever())
            pull = client.interactions.pull(sandbox.account_ids, response_format="normalized", **BOUNDS)
            async with pull as pages:
                found = [page.page async for page in pages]
            assert [page[0].metrics and page[0].metrics.patience for page in found] == [0.5, 0.5]
            assert [event.fields for event in events if isinstance(event, UnknownFields)] == [("mood",)]

    run(scenario())


def test_an_account_told_to_come_back_tomorrow_is_parked(tmp_path: Path) -> None:
    """The rest finishes; until its time comes a later run does not ask it, and then it is done."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            parked = sandbox.account_ids[:3]
            for account, status in zip(parked, (429, 429, 503), strict=True):
                sandbox.script(account, [Fault.ok(), Fault.status(status, retry_after=86400).forever()])
            before = time.time()
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert set(report.parked) == set(parked)
            for until in report.parked.values():
                assert until is not None
                assert 86000 < until - before < 87000
            assert (report.done, report.failed) == (2, {})
            sandbox.clear_faults()
            sandbox.clear()
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert (set(report.parked), report.done, sandbox.stats.requests) == (set(parked), 2, 0)
            tomorrow(tmp_path)
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert (report.complete, report.parked) == (True, {})
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


def tomorrow(folder: Path) -> None:
    """Let the time come that parked accounts wait for."""
    database = sqlite3.connect(folder / STATE_FILE)
    with database:
        database.execute("UPDATE progress SET until = until - 90000")
    database.close()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", ["172800", "31000000"])
def test_an_account_is_parked_for_a_day_at_most(tmp_path: Path, status: int, retry_after: str) -> None:
    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            (account,) = sandbox.account_ids
            sandbox.script(account, [Fault.status(status, headers={"Retry-After": retry_after}).forever()])
            before = time.time()
            for _ in range(2):
                report = await client.interactions.pull_to(tmp_path, [account], budget=QUICK, **BOUNDS)
                assert 86_000 < (report.parked[account] or 0.0) - before < 86_500
            assert len(sandbox.requests) == 1

    run(scenario())


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "retry_after",
    ["99999999999999999999", "9" * 300, "67768036191676800", "Fri, 31 Dec 2125 23:59:59 GMT", "3155760000"],
)
def test_a_wait_that_makes_no_sense_parks_until_the_next_run(
    tmp_path: Path, status: int, retry_after: str
) -> None:
    """A unit or a clock is wrong: nobody comes back in a hundred years, and nobody knows when to ask again."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            (account,) = sandbox.account_ids
            sandbox.script(account, [Fault.status(status, headers={"Retry-After": retry_after})])
            report = await client.interactions.pull_to(tmp_path, [account], budget=QUICK, **BOUNDS)
            assert (report.parked, len(sandbox.requests)) == ({account: None}, 1)
            report = await client.interactions.pull_to(tmp_path, [account], budget=QUICK, **BOUNDS)
            assert report.complete

    run(scenario())


def test_a_time_that_a_wrong_clock_stored_is_ignored(tmp_path: Path) -> None:
    """Parked while the clock was a year ahead: the account is not left out for a year."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            (account,) = sandbox.account_ids
            sandbox.script(account, [Fault.status(429, retry_after=86400).forever()])
            await client.interactions.pull_to(tmp_path, [account], budget=QUICK, **BOUNDS)
            sandbox.clear_faults()
            database = sqlite3.connect(tmp_path / STATE_FILE)
            with database:
                database.execute("UPDATE progress SET until = until + 31536000")
            database.close()
            report = await client.interactions.pull_to(tmp_path, [account], budget=QUICK, **BOUNDS)
            assert report.complete

    run(scenario())


@pytest.mark.parametrize("status", [301, 302, 307, 308, 501, 505, 511])
def test_what_can_never_succeed_fails_its_account_at_once(status: int) -> None:
    """A redirect stays one: taken for an outage, everybody else would wait a quarter of an hour for it."""

    async def scenario() -> None:
        async with service(accounts=3) as (sandbox, client):
            bad = sandbox.account_ids[0]
            sandbox.script(bad, [Fault.status(status).forever()])
            rows: list[Row] = []
            report = await gather(client.interactions.pull(sandbox.account_ids, budget=QUICK, **BOUNDS), rows)
            assert (list(report.failed), report.done, report.parked) == ([bad], 2, {})
            assert str(status) in str(report.failed[bad])
            assert len(sandbox.requests_for(bad)) == 1

    run(scenario())


def test_waits_that_the_service_asks_for_are_kept_per_account() -> None:
    """A 429 that is soon over is sat out, without holding up anyone else."""

    async def scenario() -> None:
        retry = msgspec.structs.replace(RETRY, attempts=1)
        async with service(accounts=3, retry=retry) as (sandbox, client):
            sandbox.script(sandbox.account_ids[0], [Fault.status(429, retry_after=0.3)])
            order: list[str] = []
            async with client.interactions.pull(
                sandbox.account_ids, budget=msgspec.structs.replace(QUICK, max_accounts=1), **BOUNDS
            ) as pages:
                order += [page.account.id async for page in pages]
            assert pages.report.complete
            assert order[-PAGES:] == [sandbox.account_ids[0]] * PAGES

    run(scenario())


def test_an_account_that_fails_alone_is_given_up() -> None:
    """Others get through, so it is not the service; it does not take 15 minutes of probing to find out."""

    async def scenario() -> None:
        async with service(accounts=6, page_size=1) as (sandbox, client):
            bad = sandbox.account_ids[1]
            sandbox.script(bad, [Fault.status(500).forever()])
            for account in sandbox.account_ids[2:]:
                sandbox.script(account, [Fault.slow(0.01).forever()])
            rows: list[Row] = []
            report = await gather(client.interactions.pull(sandbox.account_ids, budget=QUICK, **BOUNDS), rows)
            assert {account: type(error) for account, error in report.failed.items()} == {bad: ServerError}
            assert report.done == 5
            assert len(sandbox.requests_for(bad)) <= (ACCOUNT_CALLS + 2) * RETRY.attempts
            assert report.requests == sandbox.stats.requests

    run(scenario())


# --- what goes wrong: the service ------------------------------------------------------------------------------


def test_a_refused_token_stops_everything(tmp_path: Path) -> None:
    """At once: no request goes out after the refusal arrived. What was written stays, and a later run goes on."""

    async def scenario() -> None:
        async with service(accounts=20, page_size=1) as (sandbox, client):
            tokens = list(sandbox.tokens)

            def started(running: Pull[Any]) -> None:
                loop = asyncio.get_running_loop()

                def watch() -> None:
                    if running.report.pages >= 30:
                        sandbox.tokens.clear()
                    else:
                        loop.call_soon(watch)

                watch()

            with pytest.raises(AuthenticationError):
                await client.interactions.pull_to(
                    tmp_path, sandbox.account_ids, budget=QUICK, on_start=started, **BOUNDS
                )
            refused = [record for record in sandbox.requests if record.status == 401]
            assert 1 <= len(refused) <= QUICK.max_accounts
            sandbox.tokens += tokens
            before = read_rows(tmp_path, "ndjson")
            assert len(before) >= 30
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert report.complete
            assert report.rows == len(expected(sandbox)) - len(before)
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


def test_a_refused_token_does_not_wait_for_those_who_hang() -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            first, *others = sandbox.account_ids
            sandbox.script(first, [Fault.ok(), Fault.slow(0.1), Fault.status(401)])
            for account in others:
                sandbox.script(account, [Fault.hang().forever()])
            pages: list[Row] = []
            with pytest.raises(AuthenticationError):
                await asyncio.wait_for(
                    gather(client.interactions.pull(sandbox.account_ids, **BOUNDS), pages), 5.0
                )
            assert len(pages) == 2 * PAGE  # what came before is handed over first

    run(scenario())


@pytest.mark.parametrize("fault", [Fault.status(502), Fault.reset()], ids=["502", "reset"])
def test_an_outage_is_sat_out_with_one_request_at_a_time(fault: Fault) -> None:
    async def scenario() -> None:
        async with service(accounts=12) as (sandbox, client):
            budget = Budget(max_accounts=6, max_outage=60.0, probe_wait=0.02, max_probe_wait=0.1)
            rows: list[Row] = []

            async def outage() -> None:
                while sandbox.stats.requests < 10:
                    await asyncio.sleep(0)
                sandbox.script(None, [fault.forever()])
                begun = sandbox.stats.requests
                # Those in flight, blamed on themselves where others had just got through; six more; then probes.
                while sandbox.stats.requests < begun + 2 * 6 * RETRY.attempts + 6:
                    await asyncio.sleep(0)
                at = sandbox.stats.requests
                while sandbox.stats.requests < at + 4:
                    await asyncio.sleep(0)
                times = [record.time for record in sandbox.requests[-4:]]
                assert min(b - a for a, b in pairwise(times)) >= 0.05
                sandbox.clear_faults()

            async with asyncio.TaskGroup() as group:
                group.create_task(outage())
                report = await gather(
                    client.interactions.pull(sandbox.account_ids, budget=budget, **BOUNDS), rows
                )
            assert report.complete
            assert sorted(rows) == expected(sandbox)

    run(scenario())


def test_any_answer_ends_an_outage() -> None:
    """Also one to a call from before, while the trial still hangs: nobody waits for that one."""

    async def scenario() -> None:
        async with service(accounts=3) as (sandbox, client):
            hangs, slow, fails = sandbox.account_ids
            sandbox.script(slow, [Fault.slow(0.5)])
            sandbox.script(fails, [Fault.status(502), Fault.status(502), Fault.status(502)])
            sandbox.script(hangs, [Fault.status(502), Fault.status(502), Fault.hang()])
            done: set[str] = set()
            budget = msgspec.structs.replace(QUICK, max_accounts=3)
            async with client.interactions.pull(sandbox.account_ids, budget=budget, **BOUNDS) as pages:
                async with asyncio.timeout(10.0):
                    async for page in pages:
                        done.add(page.account.id)
                        if pages.report.done == 1 and done == {slow, fails}:
                            break
                assert pages.outage is None

    run(scenario())


def test_an_outage_without_end_parks_what_is_left(tmp_path: Path) -> None:
    """Parked, not failed: nobody knows anything bad about those accounts. A later run goes on."""

    async def scenario() -> None:
        async with service(accounts=12) as (sandbox, client):
            budget = msgspec.structs.replace(QUICK, max_outage=0.3)
            sandbox.script(None, [Fault.ok().times(10), Fault.status(502).forever()])
            pulls: list[Pull[Any]] = []
            report = await client.interactions.pull_to(
                tmp_path, sandbox.account_ids, budget=budget, on_start=pulls.append, **BOUNDS
            )
            outage = pulls[0].outage
            assert outage is not None
            assert outage[0] >= 0.3
            assert "502" in outage[1]
            assert report.failed == {}
            assert report.done + len(report.parked) == 12
            assert len(report.parked) > 5
            assert set(report.parked.values()) == {None}
            sandbox.clear_faults()
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=budget, **BOUNDS)
            assert report.complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


def test_who_is_to_blame_for_a_failure() -> None:
    circuit = CircuitBreaker(max_outage=100.0, first_wait=1.0, max_wait=4.0)
    closed: list[bool] = []
    circuit.on_close = lambda: closed.append(circuit.is_open)

    def is_outage(now: float, asked_at: float, account: str = "a", since: float | None = None) -> bool:
        return circuit.failure(
            now, account, asked_at=asked_at, failing_since=asked_at if since is None else since
        )

    circuit.success(101.0)
    assert not is_outage(101.0, 100.5)  # somebody else got through since
    assert not is_outage(101.0, 102.0, since=100.8)  # since its account failed first
    assert not circuit.is_open
    assert circuit.seconds_open(102.0) is None
    assert is_outage(103.0, 102.5, since=101.5)
    assert circuit.is_open
    assert is_outage(103.5, 102.5)  # under way when the circuit opened
    assert circuit.seconds_open(103.5) == 0.5
    now, waits = 103.0, list[float]()
    for _ in range(4):
        waits.append(circuit.next_trial - now)
        now = circuit.next_trial
        assert is_outage(now, now)
    assert waits == [1.0, 2.0, 4.0, 4.0]
    assert closed == []
    circuit.success(now)
    assert closed == [False]
    assert is_outage(now + 1, now + 1)
    assert circuit.next_trial == now + 2  # the first wait once more
    assert not circuit.is_given_up
    assert is_outage(now + 101, now + 2)
    assert circuit.is_given_up
    circuit.success(102.5)  # told late: it arrived before the service went down
    assert circuit.is_given_up
    circuit.success(now + 102)  # an answer that was a long time coming
    assert not circuit.is_given_up
    assert closed == [False, False]


def test_accounts_that_fail_together_are_not_to_blame() -> None:
    """All were under way when the last success came, which says nothing about the calls that follow."""
    circuit = CircuitBreaker(max_outage=100.0, first_wait=1.0, max_wait=4.0)
    circuit.success(101.0)
    for account in "abc":
        assert not circuit.failure(102.0, account, asked_at=100.0, failing_since=100.0)
    assert circuit.failure(104.0, "a", asked_at=103.0, failing_since=100.0)
    circuit.success(105.0)
    for _ in range(2):  # alone again
        assert not circuit.failure(107.0, "a", asked_at=106.0, failing_since=100.0)


# --- what goes wrong: cursors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 2_000, 2**20])
@pytest.mark.parametrize("legs", [(10_000,), (5, 12, 10_000)])
def test_a_dead_cursor_doubles_nothing_without_a_file_either(
    legs: tuple[int, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the first walk are known, whether keys were made of them or their bodies kept; also by a later run."""
    monkeypatch.setattr(_commits, "KEPT_BYTES", kept)

    async def scenario() -> None:
        async with service(accounts=3, page_size=1) as (sandbox, client):
            rows: list[Row] = []
            checkpoint = MemoryCheckpoint()
            for leaves_after in legs:
                async with client.interactions.pull(
                    sandbox.account_ids, checkpoint=checkpoint, budget=QUICK, commit="manual", **BOUNDS
                ) as pages:
                    async for page in pages:
                        await page.commit()
                        rows += rows_of(page)
                        if len(rows) in (3, 8, 11):
                            sandbox.expire_cursors()
                        if len(rows) >= leaves_after:
                            break
                sandbox.expire_cursors()
            assert pages.report.complete
            assert sorted(rows) == expected(sandbox)

    run(scenario())


@pytest.mark.parametrize("format", ["ndjson", "csv"])
def test_a_dead_cursor_begins_its_window_again_without_doubling(format: Any, tmp_path: Path) -> None:
    """In the middle of a run, and in the middle of the second walk as well."""

    async def scenario() -> None:
        async with service(accounts=3, page_size=1) as (sandbox, client):
            expires = [4, 9, 15]

            def started(running: Pull[Any]) -> None:
                def watch() -> None:
                    if expires and running.report.pages >= expires[0]:
                        expires.pop(0)
                        sandbox.expire_cursors()
                    if expires:
                        asyncio.get_running_loop().call_soon(watch)

                watch()

            report = await client.interactions.pull_to(
                tmp_path, sandbox.account_ids, budget=QUICK, format=format, on_start=started, **BOUNDS
            )
            assert (report.complete, expires) == (True, [])
            assert read_rows(tmp_path, format) == expected(sandbox)
            assert report.rows == 3 * PEOPLE
            assert sandbox.stats.requests > 3 * PEOPLE

    run(scenario())


@pytest.mark.parametrize("message", [None, "The cursor is not good any more", "Bad Request"])
def test_a_cursor_that_died_between_runs_and_again_between_those(message: str | None, tmp_path: Path) -> None:
    """A run that ends in the middle of a second walk remembers what the first one had handed out.

    Whatever the service's words for it are.
    """

    async def scenario() -> None:
        pulls: list[Pull[Any]] = []
        left = 0

        def count(event: Event) -> None:
            nonlocal left
            if isinstance(event, ResponseReceived) and event.status == 200:
                left -= 1
                if left == 0:
                    pulls[-1].stop()

        async with service(accounts=2, page_size=1, on_event=count) as (sandbox, client):
            for done in (4, 2, 5):
                left = done
                report = await client.interactions.pull_to(
                    tmp_path, sandbox.account_ids, budget=QUICK, on_start=pulls.append, **BOUNDS
                )
                assert not report.complete
                rows = read_rows(tmp_path, "ndjson")
                assert len(rows) == len(set(rows))
                if done != 2:  # after the second run the cursors stay good: it goes on inside the second walk
                    if message is None:
                        sandbox.expire_cursors()
                    else:
                        for account in sandbox.account_ids:
                            sandbox.script(account, [Fault.status(400, message=message)])
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert report.complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


def test_a_log_has_the_places_of_rows_that_can_be_read_again(tmp_path: Path) -> None:
    """32 bytes a page in place of eight a row, and a later run that restarts the window reads the rows there."""

    async def scenario() -> None:
        async with service(accounts=1, page_size=2) as (sandbox, client):
            (account,) = sandbox.account_ids
            sandbox.script(account, [Fault.ok(), Fault.ok(), Fault.status(403)])
            report = await client.interactions.pull_to(tmp_path, [account], budget=QUICK, **BOUNDS)
            assert report.pages == 2
            database = sqlite3.connect(tmp_path / STATE_FILE)
            logs = b"".join(keys for (keys,) in database.execute("SELECT keys FROM row_keys ORDER BY rowid"))
            database.close()
            parts = [part for part in split_places(logs) if isinstance(part, Place)]
            assert len(parts) == 2
            assert sum(part.size for part in parts) == (tmp_path / "interactions.ndjson").stat().st_size
            sandbox.expire_cursors()
            assert (await client.interactions.pull_to(tmp_path, [account], budget=QUICK, **BOUNDS)).complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


_numbers = st.integers(0, 2**64 - 1)


@given(parts=st.lists(st.just(b"") | st.binary(min_size=8, max_size=8) | st.builds(Place, *[_numbers] * 3)))
@examples(50)
@example(parts=[Place(2**64 - 1, 2**64 - 252, 2**64 - 252)])
def test_a_log_is_split_at_its_places(parts: list[bytes | Place]) -> None:
    """A number of a place may look like a word of a log."""
    log = b"".join(part if isinstance(part, bytes) else log_of_place(part) for part in parts)
    found = list(split_places(log))
    assert [part for part in found if isinstance(part, Place)] == [p for p in parts if isinstance(p, Place)]
    assert b"".join(part if isinstance(part, bytes) else log_of_place(part) for part in found) == log


@pytest.mark.parametrize("position", ["page 7", "truto-position-1.bm90aGluZw", ""])
def test_a_stored_position_that_was_altered_is_damage(position: str, tmp_path: Path) -> None:
    """It is not the fault of the command that was given, so it must not be told as wrong usage."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            sandbox.fault(Fault.status(403).on(2))
            await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            database = sqlite3.connect(tmp_path / STATE_FILE)
            with database:
                changed = database.execute("UPDATE progress SET position = ?", (position,))
            assert changed.rowcount == 1
            database.close()
            with pytest.raises(DamagedStateError, match=f"position of account {sandbox.account_ids[0]}"):
                await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)

    run(scenario())


def test_cursors_that_never_live_are_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service(accounts=2, page_size=1) as (sandbox, client):
            bad = sandbox.account_ids[0]
            expired = Fault.status(400, message="The cursor has expired")
            sandbox.script(bad, [Fault.ok(), expired] * 20)
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert {account: type(error) for account, error in report.failed.items()} == {
                bad: CursorExpiredError
            }
            assert len(sandbox.requests_for(bad)) == 2 * (RESTARTS + 1)
            sandbox.clear_faults()
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, budget=QUICK, **BOUNDS)
            assert report.complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


def test_rows_are_told_apart_by_what_they_hold() -> None:
    def keys_of(items: list[Any]) -> list[bytes]:
        return list(split(row_fingerprints(row_identities(items))))

    def raw(**fields: Any) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(fields))

    one = raw(id="1", user={"id": "7"}, start_time="2024-01-01T00:00:00Z", metrics={"patience": 1})
    same = raw(start_time="2024-01-01T00:00:00Z", user={"id": "7", "name": "Jo"}, id="1")
    others = [
        raw(id="2", user={"id": "7"}, start_time="2024-01-01T00:00:00Z"),
        raw(id="1", user={"id": "8"}, start_time="2024-01-01T00:00:00Z"),
        raw(id="1", user={"id": "7"}, start_time="2024-01-02T00:00:00Z"),
        raw(metrics={"patience": 1}),
        raw(metrics={"patience": 2}),
        msgspec.Raw(b"[1]"),
    ]
    keys = keys_of([one, same])
    assert keys[0] == keys[1]
    assert len({*keys, *keys_of(others[:5]), *keys_of(others[5:])}) == 7
    typed = [msgspec.json.decode(each, type=Interaction) for each in (one, same, *others[:5])]
    assert len(set(keys_of(typed))) == 6
    assert len(set(keys_of([{"a": 1}, {"a": 2}, {"a": 1}]))) == 2
    # A row that came twice the first time comes twice in all, and no more.
    assert are_plain([one, same])
    for name in PULL_COLUMNS:  # a row with a field of our names is not for the quick way
        assert not are_plain([one, raw(id="1", **{name: None})])
    a, b, c = (bytes([number] * 8) for number in range(3))
    seen = SeenRows(a + a + b)
    fresh, log = seen.sift(a + b + c)
    assert fresh == [2]
    assert SeenRows(a + a + b + log, goes_on=True).sift(a + a + b)[0] == [1, 2]
    fresh, more = seen.sift(a + a + b)
    assert fresh == [1, 2]
    # Another walk meets all that the two handed out: a three times, b twice, c once.
    assert SeenRows(a + a + b + log + more).sift(a * 4 + b * 3 + c * 2)[0] == [3, 6, 8]


def test_pages_that_cannot_be_read_leave_room_for_others() -> None:
    async def scenario() -> None:
        async with service(accounts=READ_AHEAD + 2) as (sandbox, client):
            for account in sandbox.account_ids[:-1]:
                sandbox.script(account, [Fault.html().forever()])
            async with client.interactions.pull(sandbox.account_ids, max_accounts=1, **BOUNDS) as pages:
                async with asyncio.timeout(10.0):
                    assert {page.account.id async for page in pages} == {sandbox.account_ids[-1]}
            assert {type(error) for error in pages.report.failed.values()} == {DecodeError}

    run(scenario())


# --- stopping --------------------------------------------------------------------------------------------------


def test_what_turns_out_to_be_cut_is_not_fetched_again_while_stopping() -> None:
    """It waited to be read for longer than what is under way is waited for."""

    async def scenario() -> None:
        async with service(accounts=1, page_size=1) as (sandbox, client):
            sandbox.script(sandbox.account_ids[0], [Fault.ok(), Fault.truncate("json")])
            async with client.interactions.pull(sandbox.account_ids, max_accounts=1, **BOUNDS) as pages:
                async with asyncio.timeout(5.0):
                    while (
                        pages._workers._shared.fetching or sandbox.stats.requests < 2
                    ):  # the second body waits for its turn
                        await asyncio.sleep(0)
                    pages.stop()
                    assert len([page async for page in pages]) == 1
            assert sandbox.stats.requests == 2
            assert pages.report.pages == 1

    run(scenario())


def test_stopping_finishes_what_is_in_hand(tmp_path: Path) -> None:
    """A request that is not answered is dropped after a second, one account or many."""

    async def scenario() -> None:
        async with service(accounts=8, page_size=1) as (sandbox, client):
            sandbox.script(sandbox.account_ids[0], [Fault.hang()])
            started_at = 0.0

            def started(running: Pull[Any]) -> None:
                def watch() -> None:
                    nonlocal started_at
                    if running.report.pages >= 10:
                        started_at = time.monotonic()
                        running.stop()
                        running.stop()
                    else:
                        asyncio.get_running_loop().call_soon(watch)

                watch()

            report = await client.interactions.pull_to(
                tmp_path, sandbox.account_ids, budget=QUICK, on_start=started, **BOUNDS
            )
            assert STOP_SECONDS * 0.9 < time.monotonic() - started_at < STOP_SECONDS + 1.0
            assert 10 <= report.rows == len(read_rows(tmp_path, "ndjson")) < 8 * PEOPLE
            assert (
                report.rows >= sandbox.stats.requests - 1
            )  # but for the one that hangs, nothing was in vain
            assert (await client.interactions.pull_to(tmp_path, sandbox.account_ids, **BOUNDS)).complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


def test_a_closed_client_ends_the_pull() -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            with pytest.raises(UsageError, match="closed"):
                async with client.interactions.pull(sandbox.account_ids, **BOUNDS) as pages:
                    async for _ in pages:
                        await client.aclose()

    run(scenario())


def test_tasks_and_files_stay_few(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service(accounts=60) as (sandbox, client):
            files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
            before = len(asyncio.all_tasks())
            most = 0
            async with client.interactions.pull(
                sandbox.account_ids, checkpoint=SQLiteCheckpoint(tmp_path / "s"), max_accounts=8, **BOUNDS
            ) as pages:
                async for _ in pages:
                    most = max(most, len(asyncio.all_tasks()) - before)
            assert most <= 3 * 8 + 8  # where the last 8 are the sandbox's own
            assert len(asyncio.all_tasks()) <= before + 8  # connections the sandbox keeps open
            await client.aclose()
            if files:
                assert len(os.listdir("/proc/self/fd")) <= files + 8
            assert {path.name for path in tmp_path.iterdir()} == {"s"}

    run(scenario())


# --- killed ----------------------------------------------------------------------------------------------------

STEPS = ("write", "fsync", "rename", "fsync-dir", "manifest", "checkpoint")
PART_ROWS = 20
KILL_ACCOUNTS, KILL_DAYS = 6, 3
IN_FLIGHT = 4


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with Runs() as running:
        yield running


@pytest.fixture(scope="module")
def killing() -> Iterator[Sandbox]:
    """A sandbox that outlives the processes that ask it."""
    with Sandbox.in_thread(
        accounts=KILL_ACCOUNTS,
        interactions=PEOPLE,
        page_size=PAGE,
        token_rate=None,
        account_rate=None,
        ratelimit_headers=None,
    ) as sandbox:
        yield sandbox


class Killing:
    """One output, pulled by processes that are killed, and what must be true of it each time."""

    def __init__(self, runs: Runs, sandbox: Sandbox, folder: Path, format: str) -> None:
        self._runs = runs
        self._sandbox = sandbox
        self.folder = folder
        self.format = format
        self.kills = 0
        self.refetched = 0
        self._pages = 0

    def run(self, **how: Any) -> bool:
        """Run once; True when it came to its end."""
        before = self._sandbox.stats.requests
        ran = self._runs.run(
            url=self._sandbox.url,
            token=self._sandbox.token,
            accounts=self._sandbox.account_ids,
            folder=str(self.folder),
            format=self.format,
            part_rows=PART_ROWS,
            start_time=START,
            end_time=f"2024-01-{KILL_DAYS + 1:02}T00:00:00Z",
            window="day",
            max_accounts=IN_FLIGHT,
            **how,
        )
        assert ran.is_killed or ran.status == 0, ran
        asked = self._sandbox.stats.requests - before
        pages = self._committed()
        in_vain = asked - (pages - self._pages)
        # In flight, handed over, and marked but not committed; and pages in an open part.
        held = 2 * IN_FLIGHT + 1 + COMMIT_PAGES + (PART_ROWS // PAGE if self.format == "parquet" else 0)
        # Requests of the process killed before may arrive when the next one has begun.
        assert 0 <= in_vain <= (held if ran.is_killed else IN_FLIGHT)
        self._pages = pages
        self.kills += ran.is_killed
        self.refetched += in_vain
        if ran.status == 0:
            assert ran.result["complete"]
        return ran.status == 0

    def _committed(self) -> int:
        """Pages that are done, by a state that opens."""
        path = self.folder / STATE_FILE
        if not path.exists():
            return 0
        database = sqlite3.connect(path)
        try:
            with suppress(sqlite3.OperationalError):  # killed before the tables were made
                (pages,) = database.execute("SELECT sum(pages) FROM progress").fetchone()
                return pages or 0
            return 0
        finally:
            database.close()

    def check(self) -> None:
        everything = [
            (account, f"2024-01-{day + 1:02}T00:00:00Z", row["user"]["id"])
            for account in self._sandbox.account_ids
            for day in range(KILL_DAYS)
            for row in self._sandbox.expected(
                account,
                start_time=f"2024-01-{day + 1:02}T00:00:00Z",
                end_time=f"2024-01-{day + 2:02}T00:00:00Z",
            )
        ]
        assert read_rows(self.folder, self.format) == sorted(everything)
        manifest = json.loads((self.folder / "manifest.json").read_bytes())
        assert manifest["complete"]
        assert manifest["resources"]["interactions"]["rows"] == len(everything)


@posix
@pytest.mark.parametrize(
    "format",
    ["ndjson", *(pytest.param(each, marks=pytest.mark.long) for each in FORMATS if each != "ndjson")],
)
def test_killed_at_each_step_and_run_again_nothing_is_lost_or_doubled(
    format: str, tmp_path: Path, runs: Runs, killing: Sandbox
) -> None:
    for step in STEPS:
        killed = 0
        for nth in (1, 3):
            case = Killing(runs, killing, tmp_path / f"{step}-{nth}", format)
            done = case.run(kill=(step, nth))
            killed += not done
            while not done:
                done = case.run()
            case.check()
        assert killed or (step in ("rename", "fsync-dir") and format != "parquet"), step


def kill_at_random(format: str, folder: Path, runs: Runs, sandbox: Sandbox, kills: int) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    whole = 0.5  # seconds that a run takes, found out on the way
    done = number = refetched = 0
    try:
        while done < kills:
            case = Killing(runs, sandbox, folder / str(number), format)
            number += 1
            begun = time.monotonic()
            while not case.run(kill_after=rng.uniform(0.01, whole) if case.kills < 12 else None):
                begun = time.monotonic()
            whole = min(max(time.monotonic() - begun, 0.1), 2.0)
            case.check()
            done += case.kills
            refetched += case.refetched
    except BaseException as error:
        error.add_note(f"again with: KILL_SEED={seed}")
        raise
    log.info("%s: %d kills in %d pulls, %d pages asked for again", format, done, number, refetched)


@posix
@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_random_instants(format: str, tmp_path: Path, runs: Runs, killing: Sandbox) -> None:
    kill_at_random(format, tmp_path, runs, killing, 6)


@posix
@pytest.mark.long
@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_a_hundred_random_instants(
    format: str, tmp_path: Path, runs: Runs, killing: Sandbox
) -> None:
    kill_at_random(format, tmp_path, runs, killing, 100)


# --- many accounts ---------------------------------------------------------------------------------------------


def pull_many(accounts: int, folder: Path, runs: Runs) -> dict[str, Any]:
    with Sandbox.in_thread(
        accounts=accounts,
        interactions=PEOPLE,
        page_size=PAGE,
        token_rate=None,
        account_rate=None,
        ratelimit_headers=None,
        record_limit=100,
    ) as sandbox:
        ran = runs.run(
            url=sandbox.url,
            token=sandbox.token,
            accounts=sandbox.account_ids,
            folder=str(folder),
            format="ndjson",
            start_time=START,
            end_time=END,
            max_accounts=32,
            watch=[accounts // 5, accounts],
            deadline=300.0,
        )
        assert ran.status == 0
        assert ran.result["rows"] == accounts * PEOPLE
        assert sandbox.stats.requests == accounts * PAGES
        assert len(read_rows(folder, "ndjson")) == accounts * PEOPLE
    first, last = ran.result["at"]
    log.info("%d accounts: peak %.0f MiB, %s -> %s", accounts, ran.result["peak"] / 2**20, first, last)
    assert ran.result["peak"] <= 150 * 2**20
    assert last["bytes"] - first["bytes"] <= 5 * 2**20
    assert ran.result["tasks"] <= 3 * 32
    assert last["files"] <= first["files"] + 1
    return ran.result


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_accounts_take_no_more_memory_than_few(tmp_path: Path, runs: Runs) -> None:
    pull_many(300, tmp_path, runs)


@posix
@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_five_thousand_accounts_take_no_more_memory_than_one_thousand(tmp_path: Path, runs: Runs) -> None:
    pull_many(5_000, tmp_path, runs)


# --- who may write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["ndjson", "csv", "link", "relative", "same sink", "pull_to"])
def test_two_runs_never_write_to_one_folder(
    second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a checkpoint of its own, and nothing is committed yet: only the folder itself can tell them apart."""
    folder = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    if os.name != "nt":
        (tmp_path / "link").symlink_to(folder)

    async def scenario() -> None:
        async with service() as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            sink = NdjsonSink(folder)
            async with Pull(client, plan, checkpoint=MemoryCheckpoint(), commit="manual", sink=sink) as pages:
                await pages.write(await anext(pages))
                sinks: dict[str, Any] = {
                    "csv": CsvSink(folder),
                    "link": NdjsonSink(tmp_path / "link"),
                    "relative": NdjsonSink("out/../out"),
                    "same sink": sink,
                }
                for _ in range(2):
                    with pytest.raises(
                        StateConflictError, match=r"in use by another pull|uses the sink"
                    ) as caught:
                        if second == "pull_to":
                            await client.interactions.pull_to(folder, plan)
                        else:
                            other = sinks.get(second, NdjsonSink(folder))
                            await run_shard(client, plan, SQLiteCheckpoint(tmp_path / "state"), other, QUICK)
                    assert caught.value.pid == os.getpid()
                async for page in pages:
                    await pages.write(page)
            assert pages.report.complete
            assert read_rows(folder, "ndjson") == expected(sandbox)
            assert not list(folder.glob("*.lock")) + list(folder.glob(f"{STATE_FILE}*"))
            assert not (tmp_path / "state").exists()

    run(scenario())


@posix
@pytest.mark.parametrize(
    ("harm", "format"),
    [
        ("lock removed", "ndjson"),
        ("taken over", "csv"),
        ("taken over", "parquet"),
        ("folder replaced", "parquet"),
    ],
)
def test_a_run_that_lost_its_folder_commits_nothing_more(harm: str, format: Any, tmp_path: Path) -> None:
    """Whoever tidies up lets a second run in. The first one notices at its next write, and leaves all to that one."""
    folder, lock = tmp_path / "out", tmp_path / "out" / ".truto-pull.lock"

    async def scenario() -> None:
        async with service() as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            checkpoint, successor = MemoryCheckpoint(), RunLock(folder, lock)
            pull = Pull(client, plan, checkpoint=checkpoint, commit="manual", sink=make_sink(format, folder))
            with pytest.raises(StateConflictError, match="was removed or replaced while it was locked"):
                async with pull as pages:
                    await pages.write(await anext(pages))
                    if harm == "folder replaced":
                        folder.rename(tmp_path / "moved")
                        folder.mkdir()  # which is not removed, although a folder of that name was made
                    else:
                        lock.unlink()
                    if harm == "taken over":
                        successor.acquire()
                    async for page in pages:
                        await pages.write(page)
            assert lock.exists() == (harm == "taken over")
            successor.release()
            assert isinstance(pull.report.error, StateConflictError)
            assert pull.report.rows == sum(each.rows for each in (await opened(checkpoint)).values())
            if harm == "folder replaced":
                assert list(folder.iterdir()) == []
                folder.rmdir()
                (tmp_path / "moved").rename(folder)
            assert (await run_shard(client, plan, checkpoint, make_sink(format, folder), QUICK)).complete
            assert read_rows(folder, format) == expected(sandbox)

    run(scenario())


@posix
def test_a_run_that_lost_its_state_commits_nothing_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            state = tmp_path / "state"
            with pytest.raises(StateConflictError, match="was removed or replaced"):
                async with client.interactions.pull(plan, checkpoint=SQLiteCheckpoint(state)) as pages:
                    await anext(pages)
                    state.with_name("state.lock").unlink()
                    await anext(pages)
            assert await opened(SQLiteCheckpoint(state)) == {}

    run(scenario())


def test_the_process_may_change_its_folder_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to where the process was when they were given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()

    async def scenario() -> None:
        async with service() as (sandbox, client):
            report = await client.interactions.pull_to(
                "out", sandbox.account_ids, format="parquet", on_start=lambda _: os.chdir("other"), **BOUNDS
            )
            assert report.complete
            assert read_rows(tmp_path / "out", "parquet") == expected(sandbox)
            assert not list((tmp_path / "out").glob("*.lock"))
            assert list((tmp_path / "other").iterdir()) == []

    run(scenario())


class Picky(Lines):
    """Starts from nothing only in a place that is empty."""

    async def open(self, state: bytes | None) -> None:
        if state is None and self.rows:
            raise StateConflictError("there are rows of another pull")
        await super().open(state)


@pytest.mark.parametrize("kind", ["file", "mine"])
@pytest.mark.parametrize("is_fresh", [True, False])
def test_the_sink_is_asked_before_anything_is_stored_or_deleted(
    kind: str, is_fresh: bool, tmp_path: Path
) -> None:
    """A run that is refused leaves the state as it was: to go on with, or not there at all."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            other = await client.interactions.plan(sandbox.account_ids[:1], **BOUNDS)
            state, mine = tmp_path / "state", Picky()

            def sink() -> Any:
                return mine if kind == "mine" else NdjsonSink(tmp_path / "out")

            await run_shard(client, plan, SQLiteCheckpoint(state), sink(), QUICK)
            before = await opened(SQLiteCheckpoint(state))
            sandbox.clear()
            store = state if is_fresh else tmp_path / "new"
            with pytest.raises(StateConflictError):
                await run_shard(client, other, SQLiteCheckpoint(store), sink(), QUICK, fresh=is_fresh)
            assert sandbox.stats.requests == 0
            assert await opened(SQLiteCheckpoint(state)) == before
            assert not (tmp_path / "new").exists()
            assert (await run_shard(client, plan, SQLiteCheckpoint(state), sink(), QUICK)).complete

    run(scenario())


def test_a_damaged_state_is_kept_until_the_sink_agrees(tmp_path: Path) -> None:
    """``fresh`` replaces it, and somebody may still want to look at it if that run does not start."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            state = tmp_path / STATE_FILE
            pull_to = partial(client.interactions.pull_to, tmp_path, sandbox.account_ids, **BOUNDS)
            await pull_to()
            state.write_bytes(damaged := state.read_bytes()[:5000])
            kept = (tmp_path / "manifest.json").read_bytes()
            (tmp_path / "manifest.json").write_text("somebody else's")
            with pytest.raises(StateConflictError):
                await pull_to(fresh=True)
            assert state.read_bytes() == damaged
            (tmp_path / "manifest.json").write_bytes(kept)
            assert (await pull_to(fresh=True)).complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


@pytest.mark.parametrize("nth", [3, 4], ids=["with a commit", "when it is closed"])
def test_what_is_durable_counts_although_the_manifest_fails(nth: int, tmp_path: Path) -> None:
    """It is written after the commit. The failure is told, and so is what is safe."""
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if name == "manifest" and steps.count(name) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario() -> None:
        async with service(accounts=20) as (sandbox, client):  # more pages than one commit takes
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            pulls: list[Pull[Any]] = []
            checkpoint = MemoryCheckpoint()
            sink = NdjsonSink(tmp_path, disk=Disk(step))
            with pytest.raises(StorageError, match="No space left") as caught:
                await run_shard(client, plan, checkpoint, sink, QUICK, on_start=pulls.append)
            report, found = pulls[0].report, (await opened(checkpoint)).values()
            assert report.error is caught.value
            assert report.to_dict()["error"]["type"] == "StorageError"
            assert report.rows == sum(each.rows for each in found) > 0
            assert report.pages == sum(each.pages for each in found)
            assert report.done == sum(each.is_over for each in found)
            assert report.complete == (nth == 4)
            assert (await run_shard(client, plan, checkpoint, NdjsonSink(tmp_path), QUICK)).complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


@pytest.mark.parametrize("how", ["in the body", "while leaving", "twice", "scope"])
def test_a_cancellation_does_not_hide_that_the_last_commit_failed(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The cancellation goes on, with the failure as a note. Where a scope takes it, log and report remain."""

    class Slow(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.goes_on = asyncio.Event()

        async def commit(self, *args: Any, **options: Any) -> None:
            self.arrived.set()
            await self.goes_on.wait()
            raise StorageError("the disk is full", path="somewhere", errno=errno.ENOSPC)

    async def scenario() -> None:
        async with service() as (sandbox, client):
            store = Slow()
            pull = client.interactions.pull(sandbox.account_ids, checkpoint=store, commit="manual", **BOUNDS)
            scope = anyio.CancelScope()

            async def body() -> None:
                with scope:
                    async with pull as pages:
                        (await anext(pages)).mark()
                        if how in ("in the body", "scope"):
                            await asyncio.Event().wait()

            task = asyncio.create_task(body())
            await store.arrived.wait()
            scope.cancel() if how == "scope" else task.cancel()
            await turn()
            if how == "twice":
                task.cancel()
                await asyncio.wait([task])
            store.goes_on.set()
            if how == "scope":
                await task
            else:
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
            while pull.report.error is None or not caplog.messages:
                await turn()
            assert isinstance(pull.report.error, StorageError)
            assert pull.report.rows == 0
            assert caplog.messages == ["a pull that was left failed: the disk is full"]
            if how in ("in the body", "while leaving"):
                assert caught.value.__notes__ == ["and the pull failed: the disk is full"]

    with caplog.at_level(logging.ERROR, "truto_ci_async"):
        run(scenario())


async def turn() -> None:
    """Let everything run that is ready."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- disks -----------------------------------------------------------------------------------------------------


class BadDisk(Disk):
    """Fails with an error of the system's at the nth write."""

    def __init__(self, nth: int, number: int) -> None:
        super().__init__()
        self._left = nth
        self._number = number

    def write(self, file: int, data: bytes | memoryview) -> None:
        self._left -= 1
        if not self._left:
            os.write(file, bytes(data)[: len(data) // 2])  # and half of it is there
            raise OSError(self._number, os.strerror(self._number))
        super().write(file, data)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS], ids=["EIO", "ENOSPC", "EROFS"])
def test_a_disk_that_fails_ends_the_pull_and_a_later_one_goes_on(number: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            failures: list[StorageError] = []
            for nth in range(1, 6):
                sink = NdjsonSink(tmp_path, disk=BadDisk(nth, number))
                store = SQLiteCheckpoint(tmp_path / STATE_FILE)
                try:
                    await run_shard(client, plan, store, sink, QUICK)
                except StorageError as error:
                    failures.append(error)
            assert {(error.errno, len(getattr(error, "__notes__", ()))) for error in failures} == {
                (number, 0)
            }
            assert (await client.interactions.pull_to(tmp_path, plan)).complete
            assert read_rows(tmp_path, "ndjson") == expected(sandbox)

    run(scenario())


@posix
def test_a_full_disk_ends_the_pull_and_a_later_one_goes_on(tmp_path: Path) -> None:
    """A real one, of 8 MB, with output and state on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")

    async def scenario() -> None:
        async with service(accounts=60, interactions=200, page_size=100) as (sandbox, client):
            with pytest.raises(StorageError) as caught:
                await client.interactions.pull_to(folder, sandbox.account_ids, **BOUNDS)
            assert caught.value.errno in (errno.ENOSPC, errno.EIO)
            remount = ("mount", "-o", "remount,size=64m", str(folder))
            await asyncio.to_thread(subprocess.run, remount, check=True)
            assert (await client.interactions.pull_to(folder, sandbox.account_ids, **BOUNDS)).complete
            assert read_rows(folder, "ndjson") == expected(sandbox)

    try:
        run(scenario())
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("odd", [None, 5, "text", [], {"x": 1}])
@pytest.mark.parametrize("is_passed", [False, True])
def test_an_account_that_cannot_be_read_is_not_left_out(odd: Any, is_passed: bool, tmp_path: Path) -> None:
    """A pull of the others looked complete."""

    async def scenario() -> None:
        async with service(accounts=2) as (sandbox, client):
            sandbox.script(None, [Fault.body({"result": [{"id": "a"}, odd, {"id": "b"}]})])
            accounts = client.integrated_accounts.list() if is_passed else None
            given: dict[str, Any] = {} if is_passed else ACTIVE
            with pytest.raises(DecodeError, match="lists 1 accounts that cannot be read"):
                await client.interactions.pull_to(tmp_path, accounts, **given, **BOUNDS)

    run(scenario())


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_a_folder_in_the_place_of_a_file_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            with pytest.raises(UsageError, match="is a file, and a pull needs a folder"):
                await client.interactions.pull_to(tmp_path / place, sandbox.account_ids, **BOUNDS)
            assert sandbox.stats.requests == 0

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_rows_that_are_no_interactions_are_counted_whatever_the_format(
    format: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """NDJSON keeps them as they came, which went without a word."""
    odd = [None, 5, {"x": 1}, {}, "text", [1]]
    good = [{"id": "1"}, {"user": {"id": "2"}, "integrated_account_id": "its own"}]

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            sandbox.script(sandbox.account_ids[0], [Fault.body({"result": [*odd, *good]})])
            report = await client.interactions.pull_to(tmp_path, sandbox.account_ids, format=format, **BOUNDS)
            assert report.complete
            assert report.issues == len(odd)
            assert report.rows == len(good) + (len(odd) if format == "ndjson" else 0)
            assert f"{len(odd) - 1} more on this page" in caplog.text

    run(scenario())


@pytest.mark.parametrize("harm", ["gone", "altered", "cut"])
def test_output_that_was_changed_behind_our_back_is_told(harm: str, tmp_path: Path) -> None:
    """Put back as it was, the pull goes on; nothing is asked of the service before that."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            bad = sandbox.account_ids[0]
            sandbox.script(bad, [Fault.status(403).forever()])
            await client.interactions.pull_to(tmp_path, sandbox.account_ids, format="parquet", **BOUNDS)
            part = next(tmp_path.glob("interactions/*.parquet"))
            content = part.read_bytes()
            if harm == "gone":
                part.unlink()
            else:
                part.write_bytes(content[:-1] if harm == "cut" else content[:50] + b"?" + content[51:])
            sandbox.clear_faults()
            sandbox.clear()
            with pytest.raises(DamagedStateError, match="part-000001"):
                await client.interactions.pull_to(tmp_path, sandbox.account_ids, format="parquet", **BOUNDS)
            assert sandbox.stats.requests == 0
            part.write_bytes(content)
            report = await client.interactions.pull_to(
                tmp_path, sandbox.account_ids, format="parquet", **BOUNDS
            )
            assert report.complete
            assert read_rows(tmp_path, "parquet") == expected(sandbox)

    run(scenario())


def test_a_sink_that_does_not_open_leaves_nothing_held(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            (tmp_path / "interactions.ndjson").write_text("somebody else's")
            for _ in range(2):
                with pytest.raises(StateConflictError, match="is already there"):
                    await client.interactions.pull_to(tmp_path, sandbox.account_ids, **BOUNDS)
            assert not list(tmp_path.glob("*.lock"))
            assert (tmp_path / "interactions.ndjson").read_text() == "somebody else's"

    run(scenario())


# --- small things ----------------------------------------------------------------------------------------------


def test_a_report_reads_well() -> None:
    report = PullReport(3)
    assert not report.complete
    report.done, report.empty, report.rows = 3, 1, 12_345
    assert report.complete
    assert repr(report) == (
        "PullReport(3 of 3 accounts done, 1 of them empty, 0 failed, 0 parked; 12,345 rows in 0 pages)"
    )


def test_a_page_of_very_many_rows_of_another_kind_does_not_hold_the_loop() -> None:
    """200,000 of them took 70 ms to look at."""
    turns = 0

    async def main() -> tuple[int, int]:
        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        page = AccountPage(PlannedAccount("a"), Window(), Page([Raw(b"1")] * (5 * YIELD_ITEMS)))
        issues, count = await foreign_rows(page, Interaction)
        ticking.cancel()
        return len(issues), count

    assert run(main()) == (100, 5 * YIELD_ITEMS)
    assert turns >= 5

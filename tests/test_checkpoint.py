"""Checkpoints: progress and the output's state are committed together, by one run at a time, for one plan."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pickle
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import examples, run
from truto_ci_async import _lock as lock_module
from truto_ci_async._lock import LockOwner, RunLock, foreign_owner, unshared_locks
from truto_ci_async.client import TrutoClient
from truto_ci_async.errors import DamagedStateError, StateConflictError, StorageError, UsageError
from truto_ci_async.pull.checkpoint import memory as memory_module
from truto_ci_async.pull.checkpoint import sqlite as sqlite_module
from truto_ci_async.pull.checkpoint.base import AccountProgress, Checkpoint, Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.sqlite import APPLICATION_ID, SCHEMA_VERSION, SQLiteCheckpoint
from truto_ci_async.pull.checkpoint.stored import StoredRows
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.plan.resolve import resolve

NOW = datetime(2024, 3, 15, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="signals, forks and mounts of POSIX")


def make_plan(*accounts: str, **options: Any) -> Plan:
    """Make a plan without an event loop: a list of ids waits for nothing but its next turn."""
    making = resolve(
        None, accounts or ("a", "b"), **{"start_time": "-3d", "window": "day", "now": NOW} | options
    )
    try:
        while True:
            assert making.send(None) is None, "making a plan of a list waited for something"
    except StopIteration as done:
        plan: Plan = done.value
        return plan


Store = Callable[[], Checkpoint]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Returns a checkpoint over the same state each time, as consecutive runs would."""
    if request.param == "memory":
        memory = MemoryCheckpoint()
        return lambda: memory
    return lambda: SQLiteCheckpoint(tmp_path / "new" / "out" / "state.sqlite3")


def visit(
    checkpoint: Checkpoint, plan: Plan | None, **options: Any
) -> tuple[Plan, dict[Key, Progress], bytes | None]:
    """Open a checkpoint, return what it holds, and close it."""

    async def scenario() -> tuple[Plan, dict[Key, Progress], bytes | None]:
        async with checkpoint:
            in_force = await checkpoint.open(plan, **options)
            assert checkpoint.stored_plan == in_force
            return in_force, await checkpoint.load(), checkpoint.sink_state

    return run(scenario())


def fill(checkpoint: Checkpoint, plan: Plan, *commits: tuple[dict[Key, Progress], bytes | None]) -> None:
    async def scenario() -> None:
        async with checkpoint:
            await checkpoint.open(plan)
            for changes, state in commits:
                await checkpoint.commit(changes, state)

    run(scenario())


FIRST = Progress(position="p1", rows=100, pages=1)
PARKED = Progress(position="p2", rows=2**40, pages=2, outcome="parked", until=1_710_000_000.25)
FAILED = Progress(outcome="failed", error="503: blocked \u2028 \0 end")

# --- both stores ------------------------------------------------------------------------------------------------


def test_what_was_committed_is_there_the_next_time(store: Store) -> None:
    """The purpose of a checkpoint."""
    plan = make_plan()
    assert visit(store(), plan) == (plan, {}, None)
    fill(store(), plan, ({("a", 0): FIRST}, b"one"), ({("a", 0): PARKED, ("b", 2): FAILED}, b"\0two"))
    assert visit(store(), plan) == (plan, {("a", 0): PARKED, ("b", 2): FAILED}, b"\0two")


def test_a_commit_without_a_sink_state_leaves_it_as_it_was(store: Store) -> None:
    """A failed account is progress too, but changes nothing in the output."""

    async def scenario() -> None:
        async with store() as checkpoint:
            await checkpoint.open(make_plan())
            await checkpoint.commit({("a", 0): FIRST}, b"one")
            await checkpoint.commit({("b", 0): FAILED}, None)
            assert checkpoint.sink_state == b"one"

    run(scenario())
    assert visit(store(), make_plan())[2] == b"one"


def test_row_keys_are_remembered_until_a_walk_is_over(store: Store) -> None:
    """A restarted window skips the rows that are in the output already. Once it is over, nobody asks for them."""

    async def scenario() -> None:
        async with store() as checkpoint:
            await checkpoint.open(make_plan())
            await checkpoint.commit(
                {("a", 0): FIRST}, row_keys={("a", 0): b"k1", ("b", 0): b"x", ("a", 1): b""}
            )
            await checkpoint.commit({}, row_keys={("a", 0): b"k2"})
        async with store() as checkpoint:
            await checkpoint.open(None)
            assert await checkpoint.row_keys(("a", 0)) == b"k1k2"
            assert await checkpoint.row_keys(("b", 0)) == b"x"
            assert await checkpoint.row_keys(("a", 1)) == b""
            over = Progress(rows=9, pages=2, outcome="done")
            alone = Progress(rows=1, pages=1, outcome="done")
            await checkpoint.commit(
                {("a", 0): over, ("b", 1): alone}, row_keys={("a", 0): b"k3", ("b", 1): b"y"}
            )
            assert [await checkpoint.row_keys(key) for key in (("a", 0), ("b", 1), ("b", 0))] == [
                b"",
                b"",
                b"x",
            ]
        async with store() as checkpoint:
            await checkpoint.open(None, fresh=False)
            await checkpoint.aclose()
            await checkpoint.open(make_plan(), fresh=True)
            assert await checkpoint.row_keys(("b", 0)) == b""

    run(scenario())


@pytest.mark.parametrize("outcome", ["open", "done", "empty", "failed", "parked"])
def test_the_row_keys_of_a_walk_are_kept_as_long_as_it_may_go_on(store: Store, outcome: Any) -> None:
    """A failed or parked account is tried again, and may have to restart its window."""
    progress = Progress(rows=2, pages=2, outcome=outcome)
    assert progress.is_over == (outcome in ("done", "empty"))

    async def scenario() -> None:
        async with store() as checkpoint:
            await checkpoint.open(make_plan())
            await checkpoint.commit({("a", 0): FIRST}, row_keys={("a", 0): b"k1"})
            await checkpoint.commit({("a", 0): progress, ("b", 0): progress})
            assert await checkpoint.row_keys(("a", 0)) == (b"" if progress.is_over else b"k1")

    run(scenario())


_progress = st.builds(
    Progress,
    position=st.none() | st.text(max_size=20),
    rows=st.integers(0, 2**62),
    pages=st.integers(0, 2**31),
    outcome=st.sampled_from(["open", "done", "empty", "failed", "parked"]),
    error=st.none() | st.text(max_size=20),
    until=st.none() | st.floats(0, 2e9),
)
_commits = st.lists(
    st.tuples(
        st.dictionaries(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), _progress, max_size=4),
        st.none() | st.binary(max_size=20),
    ),
    max_size=5,
)


@examples(25)  # each one waits for the disk
@given(commits=_commits)
def test_both_stores_keep_the_same(
    commits: list[tuple[dict[Key, Progress], bytes | None]], tmp_path_factory: Any
) -> None:
    """Whatever a pull commits, the durable store returns the same as the simple one."""
    plan = make_plan("a", "b", "c", "d")
    memory, path = MemoryCheckpoint(), tmp_path_factory.mktemp("state") / "s"
    for checkpoint in (memory, SQLiteCheckpoint(path)):
        fill(checkpoint, plan, *commits)
    assert visit(SQLiteCheckpoint(path), plan) == visit(memory, plan)


ACCOUNTS: dict[Key, Progress] = {
    ("nothing yet", 0): Progress(position="p", pages=1),
    ("one row", 0): Progress(position="p", rows=1, pages=1),
    ("first of two", 0): Progress(outcome="failed", rows=1),
    ("first of two", 1): Progress(outcome="parked"),
    ("second of two", 0): Progress(outcome="parked"),
    ("second of two", 1): Progress(outcome="failed", rows=1),
    ("empty, then a row", 0): Progress(outcome="empty"),
    ("empty, then a row", 1): Progress(position="p", rows=1, pages=1),
    ("a row, then none", 0): Progress(outcome="done", rows=1),
    ("a row, then none", 1): Progress(position="p"),
    ("with more to know", 0): Progress(outcome="done", rows=1),
    ("with more to know", 1): Progress(outcome="empty", position="p"),
    ("with more to know", 2): Progress(outcome="done", rows=1),
    ("out of order", 1): Progress(outcome="empty"),
}
BY_ACCOUNT = {
    "nothing yet": (0, False, [0]),
    "one row": (0, True, [0]),
    "first of two": (0, True, [0, 1]),
    "second of two": (0, True, [0, 1]),
    "empty, then a row": (1, True, [1]),
    "a row, then none": (1, True, [1]),
    "with more to know": (1, True, [1, 2]),
    "out of order": (0, False, [1]),
}


def test_accounts_are_loaded_with_all_that_is_needed_to_resume_them(store: Store) -> None:
    """How many windows are closed, whether any had rows, and the progress of the others."""
    plan = make_plan(*BY_ACCOUNT)

    async def scenario() -> None:
        async with store() as checkpoint:
            await checkpoint.open(plan)
            await checkpoint.commit(ACCOUNTS)
            found = {name: each async for name, each in checkpoint.load_accounts()}
        for name, (finished, has_rows, later) in BY_ACCOUNT.items():
            expected = {window: ACCOUNTS[name, window] for window in later}
            assert found.pop(name) == AccountProgress(finished=finished, has_rows=has_rows, later=expected)
        assert not found

    run(scenario())


def test_the_loop_gets_turns_while_accounts_are_loaded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading 100,000 accounts takes a second."""
    names = "abcdefg"
    seen: list[str] = []
    turns: list[int] = []

    async def turn() -> None:
        turns.append(len(seen))

    async def scenario() -> None:
        async with store() as checkpoint:
            await checkpoint.open(make_plan(*names))
            await checkpoint.commit({(name, 0): FIRST for name in names})
            monkeypatch.setattr(anyio.lowlevel, "checkpoint", turn)
            async for name, _ in checkpoint.load_accounts():
                seen.append(name)

    for module in (memory_module, sqlite_module):
        monkeypatch.setattr(module, "YIELD_EVERY", 3)
    run(scenario())
    assert turns == [3, 6]


def test_another_plan_is_refused_and_nothing_changes(store: Store) -> None:
    """Positions of one plan used with another would skip and repeat rows. The message names the argument."""
    plan = make_plan()
    fill(store(), plan, ({("a", 0): FIRST}, b"one"))
    with pytest.raises(
        StateConflictError, match=r'window is "week", stored is "day".*, or start over with fresh=True$'
    ) as caught:
        visit(store(), make_plan(window="week"))
    assert str(caught.value).startswith(f"{caught.value.path} belongs to another plan")
    with pytest.raises(StateConflictError, match="1 account is new: c"):
        visit(store(), make_plan("a", "b", "c"))
    assert visit(store(), plan) == (plan, {("a", 0): FIRST}, b"one")


def test_the_stored_bounds_stay_in_force(store: Store) -> None:
    """The same command a day later continues with the windows of the day it first ran."""
    plan = make_plan()
    fill(store(), plan)
    later = make_plan(now=datetime(2024, 3, 16, tzinfo=UTC))
    assert later.windows != plan.windows
    assert visit(store(), later)[0] == plan


def test_a_grown_list_is_taken_on_purpose(store: Store) -> None:
    """With ``grow``, new customers join a pull in progress and stay in it."""
    fill(store(), make_plan(), ({("a", 0): FIRST}, b"one"))
    grown = make_plan("a", "b", "c")
    in_force, progress, state = visit(store(), grown, grow=True)
    assert [account.id for account in in_force.accounts] == ["a", "b", "c"]
    assert (progress, state) == ({("a", 0): FIRST}, b"one")
    assert visit(store(), grown)[0] == in_force


def test_starting_over_forgets_everything(store: Store) -> None:
    fill(store(), make_plan(), ({("a", 0): FIRST}, b"one"))
    other = make_plan("x", window="week")
    assert visit(store(), other, fresh=True) == (other, {}, None)
    assert visit(store(), other) == (other, {}, None)


def test_starting_over_without_a_plan_forgets_nothing(store: Store) -> None:
    fill(store(), make_plan(), ({("a", 0): FIRST}, b"one"))
    with pytest.raises(UsageError, match="pass a plan"):
        visit(store(), None, fresh=True)
    assert visit(store(), None) == (make_plan(), {("a", 0): FIRST}, b"one")


def test_a_window_behind_one_that_is_missing_can_be_replaced(store: Store) -> None:
    done = Progress(rows=3, pages=1, outcome="done")
    walks: dict[Key, Progress] = {("a", window): done for window in range(3, 16)}
    failed: dict[Key, Progress] = {("a", 7): Progress(outcome="failed", error="e")}
    plan = make_plan(start_time="-16d")
    fill(store(), plan, (walks, None), (failed, None))
    assert visit(store(), None)[1] == walks | failed


def test_a_pull_can_go_on_without_being_told_what(store: Store) -> None:
    """The plan is stored with the output, so the folder is enough."""
    with pytest.raises(UsageError, match=r"^(this checkpoint|.+/state\.sqlite3) has no stored plan"):
        visit(store(), None)
    plan = make_plan()
    fill(store(), plan)
    assert visit(store(), None)[0] == plan


def test_one_process_opens_it_once(store: Store) -> None:
    """Two pulls into one output would double its rows, whether in one process or in two."""
    plan = make_plan()

    async def scenario() -> None:
        first, second = store(), store()
        await first.open(plan)
        with pytest.raises(
            StateConflictError, match=r"^(.+ is in use by )?another pull of this process"
        ) as caught:
            await second.open(plan)
        assert caught.value.pid == os.getpid()
        if second is not first:  # a refused run leaves the owner alone
            await second.aclose()
        await first.commit({("a", 0): FIRST})
        await first.aclose()
        await first.aclose()
        await second.open(plan)
        assert await second.load() == {("a", 0): FIRST}
        await second.aclose()

    run(scenario())


def test_a_second_run_is_refused_before_its_plan_is_known(store: Store) -> None:
    """``hold`` comes before thousands of accounts are looked up. It returns the stored plan and deletes nothing."""
    plan = make_plan()

    async def scenario() -> None:
        first, second = store(), store()
        assert await first.hold() is None
        with pytest.raises(UsageError, match="open"):
            await first.load()
        with pytest.raises(StateConflictError, match=r"^(.+ is in use by )?another pull of this process"):
            await second.hold()
        assert await first.open(plan) == plan
        await first.aclose()
        assert await second.hold() == plan
        await second.aclose()
        assert await second.hold(fresh=True) is None
        await second.aclose()
        assert await second.open() == plan
        await second.aclose()
        assert await second.hold() == plan
        assert await second.open() == plan
        await second.aclose()

    run(scenario())


def test_a_checkpoint_that_refused_a_plan_can_be_opened_with_another(store: Store) -> None:
    plan = make_plan()

    async def scenario() -> None:
        checkpoint = store()
        await checkpoint.open(plan)
        await checkpoint.aclose()
        with pytest.raises(StateConflictError, match="belongs to another plan"):
            await checkpoint.open(make_plan(window="week"))
        assert await checkpoint.open(plan) == plan
        await checkpoint.aclose()

    run(scenario())


def test_opening_twice_is_refused(store: Store) -> None:
    async def scenario() -> None:
        async with store() as checkpoint:
            await checkpoint.open(make_plan())
            with pytest.raises(
                (UsageError, StateConflictError), match="open already|another pull of this process"
            ):
                await checkpoint.open(make_plan())
            assert await checkpoint.load() == {}

    run(scenario())


def test_reprs_are_short(path: Path) -> None:
    memory = MemoryCheckpoint()
    fill(memory, make_plan(), ({("a", 0): FIRST, ("b", 0): FIRST}, None))
    assert repr(memory) == "MemoryCheckpoint(2 walks)"
    assert repr(SQLiteCheckpoint(path)) == f"SQLiteCheckpoint({str(path)!r})"


def test_a_closed_checkpoint_says_so(store: Store) -> None:
    async def scenario() -> None:
        checkpoint = store()
        for call in (checkpoint.load(), checkpoint.commit({})):
            with pytest.raises(UsageError, match=r"^open the checkpoint first|/state\.sqlite3 is not open$"):
                await call
        await checkpoint.aclose()

    run(scenario())


# --- in memory ---------------------------------------------------------------------------------------------------


def test_many_finished_windows_take_little_memory() -> None:
    """All of them are still there, and one that is replaced is taken up again."""
    windows = 300
    plan = make_plan("a", "b", start_time=f"-{windows}d")
    expected: dict[Key, Progress] = {}

    async def scenario() -> None:
        memory = MemoryCheckpoint()
        await memory.open(plan)

        async def commit(account: str, window: int, progress: Progress) -> None:
            expected[account, window] = progress
            await memory.commit({(account, window): progress})

        async def check(account: str, finished: int, *, has_rows: bool) -> None:
            assert await memory.load() == expected
            found = {name: each async for name, each in memory.load_accounts()}[account]
            assert (found.finished, found.has_rows) == (finished, has_rows)
            assert len(found.later) == (windows - finished if finished < windows else 0)

        empty = Progress(pages=1, outcome="empty")
        for window in range(windows):
            await commit("a", window, Progress(rows=window, pages=1, outcome="done"))
            await commit(
                "b", window, Progress(rows=window, pages=1, outcome="done") if window == 1 else empty
            )
        await check("a", windows, has_rows=True)
        await check("b", windows, has_rows=True)
        assert not memory._accounts["a"].later
        assert max(len(each.runs) for each in memory._accounts.values()) < memory_module._MANY_RUNS
        await commit("a", 10, FAILED)
        await check("a", 10, has_rows=True)
        await commit("a", 10, FAILED)
        await commit("a", 10, empty)
        await check("a", windows, has_rows=True)
        await commit("b", 1, empty)
        await check("b", windows, has_rows=False)

    run(scenario())


def restored(*dumped: Any) -> MemoryCheckpoint:
    checkpoint = MemoryCheckpoint()
    checkpoint.restore(msgspec.msgpack.encode(dumped), StoredRows(make_plan()))
    return checkpoint


def test_only_a_sync_has_progress_of_accounts_that_left() -> None:
    """Its accounts come and go; those of a pull are in its plan."""
    pull = make_plan()
    sync = msgspec.structs.replace(pull, given={**pull.given, "since": "-3d"})
    assert StoredRows(sync).account("left", 0, "done") == "left"
    for plan, account in ((pull, "left"), (pull, 5), (sync, 5), (sync, None)):
        with pytest.raises(ValueError, match=f"not in its plan .{account!r}, 0, 'done'.$"):
            StoredRows(plan).account(account, 0, "done")


def test_rows_that_no_commit_writes_are_refused() -> None:
    stored = StoredRows(make_plan())
    row = ("a", 0, None, 2, 1, "done", None, None, 1)
    assert stored.progress(row)[2].is_restarted is True
    for wrong in (row[:-1], (*row, 0)):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            stored.progress(wrong)
    with pytest.raises(ValueError, match=r"^the value of 'restarted' of account 'a' is invalid$"):
        stored.progress((*row[:-1], 2))
    assert stored.over(("a", 0, 3, 3, 7)) == ("a", 3, True)
    for numbers in ((4, 3, 7), ("3", 3, 7), (3, None, 7), (3, 3, -1)):
        with pytest.raises(ValueError, match="make no sense"):
            stored.over(("a", 0, *numbers))


def test_what_was_dumped_is_restored() -> None:
    walks: dict[Key, Progress] = {
        ("a", 0): Progress(rows=2, outcome="done"),
        ("a", 1): FIRST,
        ("a", 2): Progress(outcome="empty", position="p"),
        ("b", 1): FAILED,
        ("b", 3): Progress(position="daily {}"),
    }
    memory = MemoryCheckpoint()
    memory.apply(walks, {("a", 1): b"k1", ("b", 1): b"x"})
    memory.apply({}, {("a", 1): b"k2"})
    again = restored(*memory.dump())
    assert memory.windows_over() == again.windows_over() == 2

    async def scenario() -> None:
        await again.open(make_plan())
        assert await again.load() == walks
        assert [await again.row_keys(key) for key in (("a", 1), ("b", 1), ("a", 0))] == [b"k1k2", b"x", b""]
        await again.commit({}, row_keys={("a", 1): b"k3"})
        assert await again.row_keys(("a", 1)) == b"k1k2k3"

    run(scenario())


@pytest.mark.parametrize(
    ("account", "is_planned"),
    [
        ({"a": {}}, True),
        ({"nobody": {}}, False),
        ({"a": {"finished": 3}}, True),
        ({"a": {"finished": 4}}, False),
        ({"a": {"finished": 1, "later": {2: {}}}}, True),
        ({"a": {"finished": 1, "later": {3: {}}}}, False),
        ({"a": {"later": {3: {}, 0: {}}}}, False),
        (
            {"a": {"later": {3: {"position": "daily {}"}}}},
            True,
        ),  # what counts for a day, after the last window
        ({"a": {"later": {4: {"position": "daily {}"}}}}, False),
        ({"a": {"later": {4: {"position": "daily {}"}, 0: {}}}}, False),
    ],
)
def test_a_dump_of_another_plan_is_refused(account: dict[str, Any], is_planned: bool) -> None:
    if is_planned:
        assert list(restored(account, [])._accounts) == list(account)
    else:
        with pytest.raises(ValueError, match="not in its plan"):
            restored(account, [])


def test_an_account_that_has_not_finished_anything_is_restored_with_a_plan_of_one_window() -> None:
    data = msgspec.msgpack.encode(({"a": {"later": {0: {}}}}, []))
    memory = MemoryCheckpoint()
    memory.restore(data, StoredRows(make_plan(start_time="-1d")))
    assert memory.windows_over() == 0


# --- SQLite: durable, atomic, off the event loop----------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


def test_commits_are_durable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In WAL mode only FULL syncs with each commit. Some builds of SQLite default to NORMAL, which does not."""
    connect = sqlite3.connect

    def connect_to_other_build(*args: Any, **options: Any) -> sqlite3.Connection:
        database = connect(*args, **options)
        database.execute("PRAGMA synchronous = NORMAL")
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_to_other_build)

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(make_plan())
            database = checkpoint._database
            assert database is not None
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert database.execute("PRAGMA synchronous").fetchone() == (2,)

    run(scenario())


class Fault:
    """A step that fails on demand."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __call__(self, name: str) -> None:
        assert name == "checkpoint"
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "input/output error"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (sqlite3.ProgrammingError("a mistake of ours"), sqlite3.ProgrammingError),
    ],
)
def test_a_commit_happens_as_a_whole_or_not_at_all(
    path: Path, error: BaseException, expected: type[BaseException]
) -> None:
    """Progress without its output loses rows; output without its progress doubles them."""
    fault = Fault()

    async def scenario() -> None:
        async with SQLiteCheckpoint(path, step=fault) as checkpoint:
            await checkpoint.open(make_plan())
            await checkpoint.commit({("a", 0): FIRST}, b"one")
            fault.error = error
            with pytest.raises(expected):
                await checkpoint.commit({("a", 0): PARKED, ("b", 0): FIRST}, b"two")
            fault.error = None
            assert await checkpoint.load() == {("a", 0): FIRST}
            assert checkpoint.sink_state == b"one"
            await checkpoint.commit({("b", 1): FIRST}, b"three")

    with suppress(KeyboardInterrupt):
        run(scenario())
    assert visit(SQLiteCheckpoint(path), None)[1:] == ({("a", 0): FIRST, ("b", 1): FIRST}, b"three")


class Gate:
    """A step that blocks the writer's thread until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.closed = False

    def __call__(self, name: str) -> None:
        if self.closed:
            self.reached.set()
            assert self.opened.wait(10)

    async def wait(self) -> None:
        await asyncio.to_thread(self.reached.wait, 10)


def test_a_commit_leaves_the_loop_alone_and_outlives_a_cancellation(path: Path) -> None:
    """A cancelled pull must know whether its last commit happened: the cancellation waits for it to finish."""
    gate = Gate()

    async def scenario() -> None:
        async with SQLiteCheckpoint(path, step=gate) as checkpoint:
            await checkpoint.open(make_plan())
            gate.closed = True
            committing = asyncio.create_task(checkpoint.commit({("a", 0): FIRST}, b"one"))
            await gate.wait()  # the event loop runs while the thread is in the middle of the commit
            assert any(thread.name.startswith("truto-state") for thread in threading.enumerate())
            committing.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not committing.done()
            gate.opened.set()
            with pytest.raises(asyncio.CancelledError):
                await committing
            assert checkpoint.sink_state == b"one"
            assert await checkpoint.load() == {("a", 0): FIRST}

    run(scenario())


def test_a_second_cancellation_does_not_wait(path: Path) -> None:
    """A hanging disk must not keep a process alive that was told twice to stop."""
    gate = Gate()

    async def scenario() -> None:
        async with SQLiteCheckpoint(path, step=gate) as checkpoint:
            await checkpoint.open(make_plan())
            gate.closed = True
            committing = asyncio.create_task(checkpoint.commit({("a", 0): FIRST}, b"one"))
            await gate.wait()
            committing.cancel()
            await asyncio.sleep(0)
            committing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await committing
            gate.opened.set()
            assert await checkpoint.load() == {("a", 0): FIRST}  # queued after the commit, so that is done

    run(scenario())


def test_a_commit_takes_what_was_there_when_it_was_called(path: Path) -> None:
    """A pull keeps adding changes to its dict while earlier ones are being written."""

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(make_plan())
            changes: dict[Key, Progress] = {("a", 0): FIRST}
            committing = asyncio.create_task(checkpoint.commit(changes, b"one"))
            await asyncio.sleep(0)
            changes[("b", 0)] = FIRST
            await committing
            assert await checkpoint.load() == {("a", 0): FIRST}

    run(scenario())


def test_thousands_of_walks_load_quickly(path: Path) -> None:
    """A restart must not take longer than requesting the data again."""
    plan = make_plan(*(f"account-{number}" for number in range(5000)), start_time="-10d")
    fill(SQLiteCheckpoint(path), plan, ({unit.key: FIRST for unit in plan.units()}, b"state"))
    started = time.perf_counter()
    _, progress, _ = visit(SQLiteCheckpoint(path), plan)
    assert len(progress) == 50_000
    assert time.perf_counter() - started < 5  # 0.3 s on an idle machine


# --- SQLite: files in an unexpected state -----------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_nothing_is_left_beside_the_state(path: Path) -> None:
    """No lock and no log: just one file that can be copied and inspected."""
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): FIRST}, b"one"))
    assert list(files(path.parent)) == ["state.sqlite3"]


def test_a_state_without_a_plan_leaves_nothing_behind(tmp_path: Path) -> None:
    """A run that found no account, or lost the network while it looked for them, has nothing to go on with."""
    path = tmp_path / "new" / "folder" / "state.sqlite3"

    async def scenario() -> None:
        checkpoint = SQLiteCheckpoint(path)
        await checkpoint.hold()
        assert path.exists()
        await checkpoint.aclose()
        assert not (tmp_path / "new").exists()
        await checkpoint.hold()
        (path.parent / "mine").write_text("x")
        await checkpoint.aclose()
        assert [each.name for each in path.parent.iterdir()] == ["mine"]
        await checkpoint.open(make_plan())
        await checkpoint.aclose()
        for fresh in (True, False):
            later = SQLiteCheckpoint(path)
            await later.hold(fresh=fresh)
            await later.aclose()
        assert await checkpoint.open() == make_plan()
        await checkpoint.aclose()

    run(scenario())


def test_a_run_that_is_refused_removes_nothing_of_the_one_that_is_there(path: Path) -> None:
    """Even if it made the file itself once, and removed it."""

    async def scenario() -> None:
        refused = SQLiteCheckpoint(path)
        await refused.hold()
        await refused.aclose()
        async with SQLiteCheckpoint(path) as owner:
            await owner.hold()
            for _ in range(2):
                with pytest.raises(StateConflictError):
                    await refused.hold()
                assert path.exists()

    run(scenario())


def test_a_new_file_that_cannot_be_removed_does_not_keep_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.hold()
            monkeypatch.setattr(SQLiteCheckpoint, "_remove_files", fail)
        assert path.exists()
        async with SQLiteCheckpoint(path) as checkpoint:
            assert await checkpoint.open(make_plan()) == make_plan()

    run(scenario())


def test_a_newer_format_is_refused(path: Path) -> None:
    """An older version could only guess at the format, and might corrupt it."""
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): FIRST}, b"one"))
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = files(path.parent)
    for fresh in (False, True):
        with pytest.raises(
            StateConflictError,
            match=f"newer version.*format is {SCHEMA_VERSION + 1}.* or use another folder$",
        ) as caught:
            visit(SQLiteCheckpoint(path), make_plan(), fresh=fresh)
        assert caught.value.path == str(path)
    assert files(path.parent) == before


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE dear (data)", "PRAGMA application_id = 7", "PRAGMA user_version = 7"]
)
def test_the_database_of_another_program_is_left_alone(path: Path, statement: str) -> None:
    """Not even ``fresh`` replaces it: a path is easily mistyped."""
    change(path, statement)
    before = files(path.parent)
    for fresh in (False, True):
        with pytest.raises(StateConflictError, match="is the database of another program: use another path$"):
            visit(SQLiteCheckpoint(path), make_plan(), fresh=fresh)
    assert files(path.parent) == before


def change(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def _garbage(data: bytes) -> bytes:
    return b"this is no database, but somebody's notes " * 20


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _zeros(data: bytes) -> bytes:
    return data[:4096] + bytes(len(data) - 4096)


def _flipped(data: bytes) -> bytes:
    return data[:4096] + bytes(byte ^ 0xFF for byte in data[4096:])


@pytest.mark.parametrize("damage", [_garbage, _half, _zeros, _flipped])
def test_a_damaged_file_is_told(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Continuing from half a state would lose rows. The error says what to do."""
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): FIRST}, b"one" * 5000))
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(DamagedStateError, match=r"(?s)is damaged: (?!None).+\. Restore a copy") as caught:
        visit(SQLiteCheckpoint(path), make_plan())
    assert caught.value.path == str(path)
    assert path.read_bytes() == before
    if damage is _garbage:  # it may not be ours at all
        with pytest.raises(DamagedStateError):
            visit(SQLiteCheckpoint(path), make_plan(), fresh=True)
    else:
        assert visit(SQLiteCheckpoint(path), make_plan(), fresh=True)[1:] == ({}, None)


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE meta SET value = x'7b7d' WHERE name = 'plan'", "not the JSON of a plan"),
        ("UPDATE progress SET outcome = 'happy'", r"not in its plan \('a', 0, 'happy'\)"),
        ('UPDATE progress SET "window" = 3', r"not in its plan \('a', 3, 'open'\)"),
        ('UPDATE progress SET "window" = -1', r"not in its plan \('a', -1, 'open'\)"),
        ("UPDATE progress SET account = 'nobody'", r"not in its plan \('nobody', 0, 'open'\)"),
        ("UPDATE progress SET account = x'61'", r"not in its plan \(b'a', 0, 'open'\)"),
        ("UPDATE progress SET \"window\" = 'first'", r"not in its plan \('a', 'first', 'open'\)"),
        ("UPDATE progress SET outcome = x'00'", "not in its plan"),
        ("UPDATE progress SET position = x'00'", "the value of 'position' of account 'a' is invalid"),
        ("UPDATE progress SET \"rows\" = 'many'", "the value of 'rows' of account 'a' is invalid"),
        ('UPDATE progress SET "rows" = -1', "the value of 'rows' of account 'a' is invalid"),
        ("UPDATE progress SET pages = 1.5", "the value of 'pages' of account 'a' is invalid"),
        ("UPDATE progress SET error = x'00'", "the value of 'error' of account 'a' is invalid"),
        ("UPDATE progress SET error = CAST(x'ff' AS TEXT)", "decode"),
        ("UPDATE progress SET until = 'soon'", "the value of 'until' of account 'a' is invalid"),
        ("UPDATE progress SET until = 9e999", "the value of 'until' of account 'a' is invalid"),
        ("DROP TABLE progress", "no such table"),
        ("ALTER TABLE progress RENAME COLUMN until TO later", "no such column"),
        ("UPDATE meta SET value = 7 WHERE name = 'plan'", "its plan is not the bytes"),
        ("UPDATE meta SET value = 'text' WHERE name = 'sink'", "its sink is not the bytes"),
        ("UPDATE meta SET value = CAST('ÿ' AS BLOB) WHERE name = 'plan'", "not the JSON of a plan"),
    ],
)
def test_contents_that_make_no_sense_are_damage(path: Path, statement: str, finding: str) -> None:
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): FIRST}, b"one"))
    change(path, statement)
    with pytest.raises(DamagedStateError, match=f"is damaged: .*{finding}"):
        visit(SQLiteCheckpoint(path), make_plan())


def test_row_keys_that_make_no_sense_are_damage(path: Path) -> None:
    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(make_plan())
            await checkpoint.commit({("a", 0): FIRST}, row_keys={("a", 0): b"12345678"})
            change(path, "UPDATE row_keys SET keys = 'text'")
            with pytest.raises(DamagedStateError, match="row keys of account 'a'"):
                await checkpoint.row_keys(("a", 0))

    run(scenario())


def test_a_reason_that_is_not_utf8_can_be_stored(path: Path) -> None:
    """A status line may hold any byte. Losing the whole pull for one would be worse than losing the byte."""
    failed = Progress(outcome="failed", error="500 Oh\udcff")
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): failed}, None))
    assert visit(SQLiteCheckpoint(path), None)[1][("a", 0)].error == "500 Oh\ufffd"


@posix
def test_a_state_that_is_a_link_is_refused(path: Path) -> None:
    """In a folder that others may write to, it could lead to any file of ours."""
    victim = path.with_name("victim")
    victim.write_bytes(b"")
    path.symlink_to(victim)
    for fresh in (False, True):
        with pytest.raises(
            StateConflictError, match=r"state\.sqlite3 is a symbolic link: name the file it points to$"
        ):
            visit(SQLiteCheckpoint(path), make_plan(), fresh=fresh)
    assert victim.read_bytes() == b""


@posix
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_planted_log_does_not_lead_out_of_the_folder(path: Path, suffix: str) -> None:
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): FIRST}, b"one"))
    victim = path.with_name("victim")
    victim.write_bytes(b"precious" * 100)
    path.with_name(path.name + suffix).symlink_to(victim)
    with suppress(StateConflictError, StorageError, DamagedStateError):
        fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): FIRST}, b"two"))
    assert victim.read_bytes() == b"precious" * 100


def test_the_log_of_a_state_that_was_removed_is_not_played_into_the_new_one(path: Path) -> None:
    """If only the database of a killed run is removed, its log must not bring the old state back."""
    plan = make_plan()

    async def scenario() -> dict[str, bytes]:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(plan)
            await checkpoint.commit({("a", 0): FIRST}, b"one")
            return {
                name: data for name, data in files(path.parent).items() if name.endswith(("-wal", "-shm"))
            }

    left = run(scenario())
    assert len(left) == 2
    path.unlink()
    for name, data in left.items():
        (path.parent / name).write_bytes(data)
    assert visit(SQLiteCheckpoint(path), plan) == (plan, {}, None)


def test_state_holds_no_token(path: Path) -> None:
    """State files get copied, mailed and backed up."""

    async def scenario() -> dict[str, bytes]:
        async with TrutoClient(token="tok-secret") as client, SQLiteCheckpoint(path) as checkpoint:
            plan = await resolve(client.integrated_accounts.list, ["a", "b"], start_time="-3d", users=["7"])
            await checkpoint.open(plan)
            await checkpoint.commit({("a", 0): FAILED}, b"one")
            return files(path.parent)

    written = run(scenario())
    assert len(written) == 4  # the state, its log and index, the lock
    assert not any(b"tok-secret" in data for data in written.values())


# --- SQLite: the disk ------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_typed_error_and_commits_work_again_once_there_is_space(path: Path) -> None:
    """Earlier commits stay, and the same object can commit again once there is space."""

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(make_plan())
            await checkpoint.commit({("a", 0): FIRST}, b"one")
            database = checkpoint._database
            assert database is not None
            (pages,) = database.execute("PRAGMA page_count").fetchone()
            database.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(StorageError, match="is full") as caught:
                await checkpoint.commit({("b", 0): FIRST}, b"two" * 10_000)
            assert (caught.value.errno, caught.value.path) == (errno.ENOSPC, str(path))
            assert pickle.loads(pickle.dumps(caught.value)).errno == errno.ENOSPC
            assert await checkpoint.load() == {("a", 0): FIRST}
            database.execute("PRAGMA max_page_count = 100000")
            await checkpoint.commit({("b", 0): FIRST}, b"two" * 10_000)

    run(scenario())
    assert visit(SQLiteCheckpoint(path), None)[1:] == ({("a", 0): FIRST, ("b", 0): FIRST}, b"two" * 10_000)


class BrokenDatabase:
    """A connection on which every statement fails."""

    in_transaction = False

    def __init__(self, code: int | None) -> None:
        self.error = sqlite3.OperationalError("said SQLite")
        if code is not None:
            self.error.sqlite_errorcode = code

    def execute(self, *_: object) -> None:
        raise self.error

    def close(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("code", "expected", "number"),
    [
        (sqlite3.SQLITE_FULL, StorageError, errno.ENOSPC),
        (sqlite3.SQLITE_IOERR | 3 << 8, StorageError, errno.EIO),  # an extended code
        (sqlite3.SQLITE_READONLY, StorageError, errno.EROFS),
        (sqlite3.SQLITE_CANTOPEN, StorageError, errno.EACCES),
        (sqlite3.SQLITE_PERM, StorageError, errno.EACCES),
        (sqlite3.SQLITE_NOLFS, StorageError, errno.EFBIG),
        (sqlite3.SQLITE_PROTOCOL, StorageError, errno.ENOLCK),
        (sqlite3.SQLITE_CORRUPT | 1 << 8, DamagedStateError, None),
        (sqlite3.SQLITE_NOTADB, DamagedStateError, None),
        (sqlite3.SQLITE_BUSY, StateConflictError, None),
        (sqlite3.SQLITE_LOCKED | 1 << 8, StateConflictError, None),
        (sqlite3.SQLITE_MISUSE, sqlite3.OperationalError, None),
        (None, sqlite3.OperationalError, None),
    ],
)
def test_errors_of_sqlite_become_ours(
    code: int | None, expected: type[Exception], number: int | None, path: Path
) -> None:
    """Callers decide by the type and ``errno``. A mistake of ours stays what it is."""

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.hold()
            await checkpoint.open(make_plan())
            checkpoint._use = "held"  # as after `hold`, so that opening it again is allowed
            assert checkpoint._database is not None
            checkpoint._database.close()
            database = checkpoint._database = BrokenDatabase(code)  # type: ignore[assignment]
            for call, doing in (
                (checkpoint.load(), "read"),
                (checkpoint.row_keys(("a", 0)), "read"),
                (checkpoint.commit({("a", 0): FIRST}), "write"),
                (checkpoint.open(make_plan()), "open"),
            ):
                with pytest.raises(expected) as caught:
                    await call
                if expected is sqlite3.OperationalError:
                    assert caught.value is database.error
                    continue
                assert caught.value.__cause__ is database.error
                assert caught.value.path == str(path)  # type: ignore[attr-defined]
                if number is not None:
                    assert caught.value.errno == number  # type: ignore[attr-defined]
                    assert str(caught.value).startswith(f"cannot {doing} {path}")

    run(scenario())


@posix
def test_a_disk_that_is_really_full(small_disk: Callable[[str], Path]) -> None:
    """The same on a real file system: opening and committing raise StorageError, and work again once there is space."""
    folder = small_disk("size=1m")
    path = folder / "state.sqlite3"
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): FIRST}, b"one"))

    def fill_up() -> None:
        with suppress(OSError), (folder / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(None)
            fill_up()
            with pytest.raises(StorageError) as caught:
                await checkpoint.commit({("a", 0): PARKED, ("b", 0): FIRST}, b"two" * 100_000)
            assert caught.value.errno in (errno.ENOSPC, errno.EIO)

    run(scenario())
    fill_up()
    with pytest.raises(StorageError):
        visit(SQLiteCheckpoint(path), None)
    small_disk("size=8m")
    assert visit(SQLiteCheckpoint(path), None)[1:] == ({("a", 0): FIRST}, b"one")
    fill(SQLiteCheckpoint(path), make_plan(), ({("a", 0): PARKED}, b"two"))
    assert visit(SQLiteCheckpoint(path), None)[1:] == ({("a", 0): PARKED}, b"two")


@posix
def test_a_read_only_disk(small_disk: Callable[[str], Path]) -> None:
    folder = small_disk("size=1m")
    small_disk("ro")
    with pytest.raises(StorageError, match="Read-only file system") as caught:
        visit(SQLiteCheckpoint(folder / "state.sqlite3"), make_plan())
    assert caught.value.errno == errno.EROFS


def test_a_path_that_cannot_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "state", tmp_path / "folder"):
        with pytest.raises(StorageError, match="cannot open"):
            visit(SQLiteCheckpoint(path), make_plan())


def test_a_program_that_writes_into_the_state_is_told(path: Path) -> None:
    """For example SQLite's shell, left open in the middle of a transaction."""
    fill(SQLiteCheckpoint(path), make_plan())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(None)
            started = time.perf_counter()
            with pytest.raises(StateConflictError, match="another program is writing to"):
                await checkpoint.commit({("a", 0): FIRST})
            assert time.perf_counter() - started < 4  # SQLite itself waits for 5 s

    try:
        run(scenario())
    finally:
        other.close()


# --- the lock --------------------------------------------------------------------------------------------------

HOLD = """
import asyncio, sys
from truto_ci_async import SQLiteCheckpoint

async def hold():
    async with SQLiteCheckpoint(sys.argv[1]) as checkpoint:
        await checkpoint.open()
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(hold())
"""


@pytest.fixture
def owner(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that owns the state."""
    fill(SQLiteCheckpoint(path), make_plan())
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.stdin.close()
            process.wait(10)


def test_a_second_process_is_refused_and_told_who_is_there(
    path: Path, owner: subprocess.Popen[bytes]
) -> None:
    """The message comes within a second and names the process, so that the user can find it."""
    started = time.perf_counter()
    with pytest.raises(StateConflictError, match=f"in use by process {owner.pid} on ") as caught:
        visit(SQLiteCheckpoint(path), None)
    assert time.perf_counter() - started < 1
    assert caught.value.pid == owner.pid
    assert caught.value.host == socket.gethostname()
    assert caught.value.path == str(path)
    with pytest.raises(StateConflictError):  # nor may it start over
        visit(SQLiteCheckpoint(path), make_plan(), fresh=True)


@posix
def test_the_lock_of_a_killed_process_is_taken_over(path: Path, owner: subprocess.Popen[bytes]) -> None:
    """Nobody should have to find and remove a file after a crash."""
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    lock = path.with_name("state.sqlite3.lock")
    assert json.loads(lock.read_bytes())["pid"] == owner.pid
    assert visit(SQLiteCheckpoint(path), None)[0] == make_plan()
    assert not lock.exists()


def test_a_recycled_pid_is_not_believed(path: Path) -> None:
    """The pid in the file is only for messages. Here it belongs to a live process that holds no lock."""
    fill(SQLiteCheckpoint(path), make_plan())
    lock = path.with_name("state.sqlite3.lock")
    for text in (json.dumps({"pid": os.getppid(), "host": "here", "since": "then"}), "", "\0" * 80):
        lock.write_text(text)
        assert visit(SQLiteCheckpoint(path), None)[0] == make_plan()


@posix
def test_an_owner_without_a_name_is_waited_for_briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner takes the lock before it writes its name. Until then, the file may hold an older name."""
    monkeypatch.setattr(lock_module, "NAME_SECONDS", 0.1)
    lock = RunLock(tmp_path / "state")
    lock.acquire()
    lock_module._held.clear()  # as if another process held it
    try:
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
        )
        dead = int(child.stdout)
        for text in (b"", json.dumps({"pid": dead, "host": os.uname().nodename, "since": "then"}).encode()):
            lock.path.write_bytes(text)
            started = time.perf_counter()
            with pytest.raises(StateConflictError, match="in use by another process") as caught:
                RunLock(tmp_path / "state").acquire()
            assert 0.1 <= time.perf_counter() - started < 1
            assert caught.value.pid is None
    finally:
        lock.release()


def test_the_lock_file_names_its_owner(path: Path) -> None:
    """For whoever finds it in the folder, with any umask, and whatever an earlier run left in it."""
    lock = RunLock(path)
    lock.path.write_bytes(b'{"pid":' + b"1" * 1000)
    lock.acquire()
    owner = json.loads(lock.path.read_bytes())
    assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    assert abs(datetime.fromisoformat(owner["since"]) - datetime.now(UTC)) < timedelta(minutes=1)
    lock.release()
    umask = os.umask(0)
    try:
        lock.acquire()
    finally:
        os.umask(umask)
    assert os.name == "nt" or lock.path.stat().st_mode & 0o777 == 0o666
    lock.release()


@pytest.mark.parametrize(
    "content",
    [
        b'{"pid":1,"host":"HOST","since":"","more":' + b"[" * 4000,
        b'{"pid":%d,"host":"HOST","since":""}' % 10**30,
        b"\xff",
    ],
)
def test_whatever_is_written_into_a_lock_it_is_held(path: Path, content: bytes) -> None:
    """Anyone on the machine may write to it."""
    lock = RunLock(path)
    lock.acquire()
    lock.path.write_bytes(content.replace(b"HOST", socket.gethostname().encode()))
    with pytest.raises(StateConflictError, match="is in use by"):
        RunLock(path).acquire()
    lock.release()


def test_a_lock_can_be_released_while_its_file_is_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(file: int, lock_file: Path) -> bool:
        lock_file.unlink()
        return True

    lock = RunLock(path)
    lock.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(lock_module, "is_at", remove)
        lock.release()
    assert not lock.path.exists()
    again = RunLock(path)
    again.acquire()
    again.check()
    with pytest.raises(StateConflictError):
        lock.check()
    again.release()


def test_a_lock_whose_file_was_removed_can_be_released(path: Path) -> None:
    """Somebody may tidy up the folder while a pull runs."""
    lock = RunLock(path)
    lock.acquire()
    if os.name != "nt":  # where an open file cannot be removed
        lock.path.unlink()
    lock.release()
    lock.acquire()
    assert lock.path.exists()
    lock.release()
    assert not lock.path.exists()


@posix
@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "hard link", "pipe", "folder"])
def test_what_is_no_lock_of_ours_is_left_alone(path: Path, kind: str) -> None:
    """A planted link leads to a file of somebody's; and the lock of a state named `poetry` is `poetry.lock`."""
    lock, victim = RunLock(path), path.with_name("victim")
    victim.write_bytes(b"precious")
    match kind:
        case "file":
            lock.path.write_bytes(b"precious")
        case "link" | "dangling link":
            lock.path.symlink_to(victim if kind == "link" else path.with_name("nothing"))
        case "hard link":
            lock.path.hardlink_to(victim)
        case "pipe":
            os.mkfifo(lock.path)
        case _:
            lock.path.mkdir()
    before = files(path.parent)
    with pytest.raises((StateConflictError, IsADirectoryError)) as caught:
        lock.acquire()
    if isinstance(caught.value, StateConflictError):
        assert str(caught.value).startswith(f"{lock.path} is ")
        assert str(caught.value).endswith(": move it away, or use another path for the state")
        assert caught.value.path == str(path)
    assert files(path.parent) == before
    assert victim.read_bytes() == b"precious"
    assert os.path.lexists(lock.path)
    assert not path.with_name("nothing").exists()


def test_a_refused_run_leaves_no_file_open(path: Path) -> None:
    """A scheduler may try every minute for days."""

    def next_number() -> int:
        number = os.dup(1)
        os.close(number)
        return number

    lock = RunLock(path)
    lock.acquire()
    before = next_number()
    with pytest.raises(StateConflictError):
        RunLock(path).acquire()
    assert next_number() == before
    lock.release()


@posix
def test_an_owner_is_only_named_if_it_can_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users look for the process that a message names. Processes of other hosts and users cannot be checked."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(10)
    here, elsewhere = socket.gethostname(), "elsewhere"
    assert LockOwner(os.getpid(), here, "then").is_alive
    assert not LockOwner(process.pid, here, "then").is_alive
    assert LockOwner(process.pid, elsewhere, "then").is_alive
    assert not LockOwner(10**15, here, "then").is_alive  # no pid at all

    def refuse(pid: int, number: int) -> None:
        assert number == 0
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert LockOwner(1, here, "then").is_alive


@posix
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """An application's process pool may outlive the pull, and would otherwise hold the lock for ever."""
    program = """
import os, sys, time
from pathlib import Path
from truto_ci_async._lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
leave, stay = os.pipe()
if os.fork() == 0:
    lock.release()  # must not remove the parent's file
    os.close(stay)
    os.read(leave, 1)
    os._exit(0)
print("forked", flush=True)
sys.stdin.read()
os._exit(0)
"""
    state = tmp_path / "state"
    command = [sys.executable, "-c", program, str(state)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"forked\n"
        with pytest.raises(StateConflictError) as caught:
            RunLock(state).acquire()
        assert caught.value.pid == parent.pid
        parent.stdin.close()
        parent.wait(10)
    again = RunLock(state)
    again.acquire()
    again.release()


@posix
def test_the_child_of_a_fork_leaves_the_lock_alone(tmp_path: Path) -> None:
    """What happens in a child, seen from inside: its copy is closed, and releasing it does nothing."""
    lock = RunLock(tmp_path / "state")
    lock.acquire()
    assert lock._file is not None
    of_parent = os.dup(lock._file)
    of_child = lock._file
    lock_module._after_fork()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(of_child)
    lock.release()
    lock.abandon()
    with pytest.raises(StateConflictError, match="in use by"):
        RunLock(tmp_path / "state").acquire()
    os.close(of_parent)
    lock.acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_taken_again", [False, True])
def test_a_lock_file_removed_while_it_is_opened_is_not_trusted(
    is_taken_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a removed file excludes nobody: the next run creates a new file and locks that one."""
    first, second, third = (RunLock(tmp_path / "state") for _ in range(3))
    first.acquire()
    lock_module._held.clear()  # as if another process held it
    try_lock = lock_module._try_lock

    def release_first(file: int) -> None:
        monkeypatch.undo()
        first.release()
        if is_taken_again:
            third.acquire()
        try_lock(file)  # succeeds, on the file that `first` has removed

    monkeypatch.setattr(lock_module, "_try_lock", release_first)
    if is_taken_again:
        with pytest.raises(StateConflictError, match="another pull of this process"):
            second.acquire()
        third.release()
    else:
        second.acquire()
        assert second.path.exists()
        second.release()
    assert list(tmp_path.iterdir()) == []


RACE = """
import os, sys, time
from pathlib import Path
from truto_ci_async._lock import RunLock
from truto_ci_async.errors import StateConflictError

folder, rounds, children = Path(sys.argv[1]), 25, 4
for number in range(rounds):
    log = folder / f"log{number}"
    start = time.monotonic() + 0.01
    pids = []
    for child in range(children):
        pid = os.fork()
        if not pid:
            status = 0
            try:
                for _ in range(3):
                    lock = RunLock(folder / "state")
                    while time.monotonic() < start:
                        pass
                    try:
                        lock.acquire()
                    except StateConflictError:
                        continue
                    try:
                        os.close(os.open(log, os.O_CREAT | os.O_EXCL))
                        os.unlink(log)
                    finally:
                        lock.release()
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                status = 1
            os._exit(status)
        pids.append(pid)
    for pid in pids:
        if os.waitpid(pid, 0)[1]:
            sys.exit(1)
"""


@posix
def test_of_many_that_come_at_once_one_gets_the_lock(tmp_path: Path) -> None:
    """Even while its owner releases it and removes the file that others are just opening."""
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("is_taken", [False, True])
def test_a_lock_whose_file_was_removed_is_no_longer_trusted(tmp_path: Path, is_taken: bool) -> None:
    """Whoever removes it lets others in. What they hold is not given up by the one before them."""
    first, second = RunLock(tmp_path / "state"), RunLock(tmp_path / "state")
    first.acquire()
    first.check()
    first.path.unlink()
    if is_taken:
        second.acquire()
        owner = second.path.read_bytes()
    with pytest.raises(
        StateConflictError, match=r"state may be in use by another run: .*state\.lock was removed"
    ):
        first.check()
    with pytest.raises(
        StateConflictError, match=r"locked\. What was committed is safe; run again to continue$"
    ):
        first.check()
    first.release()
    assert second.path.exists() == is_taken
    if is_taken:
        assert second.path.read_bytes() == owner
        second.check()
        with pytest.raises(StateConflictError):
            RunLock(tmp_path / "state").acquire()
    second.release()
    with pytest.raises(StateConflictError, match="may be in use") as caught:  # nor is one that was given up
        second.check()
    assert caught.value.path == str(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_lock_that_was_replaced_by_a_link_is_not_trusted(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "state")
    lock.acquire()
    lock.path.rename(tmp_path / "moved")
    lock.path.symlink_to(tmp_path / "moved")
    with pytest.raises(StateConflictError, match="removed or replaced"):
        lock.check()
    lock.release()
    assert lock.path.is_symlink()


def test_any_spelling_of_a_path_is_the_same_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the process goes elsewhere before it releases it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    first = RunLock(Path("folder/state"), Path("folder/other.lock"))
    first.acquire()
    assert (folder / "other.lock").exists()
    spellings = [folder / "state", folder / ".." / "folder" / "state"]
    if os.name != "nt":
        (tmp_path / "link").symlink_to(folder)
        spellings.append(tmp_path / "link" / "state")
    for state in spellings:
        with pytest.raises(
            StateConflictError, match=rf"another pull of this process \(pid {os.getpid()}\) since 2"
        ):
            RunLock(state, state.with_name("other.lock")).acquire()
    monkeypatch.chdir(folder)
    first.release()
    assert list(folder.iterdir()) == []


@posix
def test_a_state_with_two_names_is_refused(path: Path) -> None:
    """SQLite keeps a log for each name, so that what is committed under one is not there under the other."""
    fill(SQLiteCheckpoint(path), make_plan())
    other = path.with_name("other")
    other.hardlink_to(path)
    for each in (path, other):
        said = f"{each.name} has another name as well, a hard link: remove that, or use a copy$"
        with pytest.raises(StateConflictError, match=said):
            visit(SQLiteCheckpoint(each), None)
    other.unlink()
    assert visit(SQLiteCheckpoint(path), None)[0] == make_plan()


def test_no_pull_of_a_process_touches_the_lock_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks belong to the process, as with some network file systems, its second run would get it as well.

    Closing the file would even give up the lock of the first.
    """
    monkeypatch.setattr(lock_module, "_lock", lambda file: None)
    first, second = RunLock(tmp_path / "state"), RunLock(tmp_path / "state")
    first.acquire()
    opened: list[Any] = []
    monkeypatch.setattr(second, "_open", opened.append)
    with pytest.raises(StateConflictError, match="another pull of this process") as caught:
        second.acquire()
    assert opened == []
    assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
    other = RunLock(tmp_path / "another")
    other.acquire()
    other.release()
    first.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nothing would keep two runs apart. Other errors are told as they are."""

    def refuse(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock_module, "_lock", refuse)
    words = rf"state\.lock: its file system has no locks \({os.strerror(number)}\), so nothing would keep "
    with pytest.raises(
        StorageError, match=f"{words}two runs apart: use a folder on a local disk, or"
    ) as caught:
        RunLock(tmp_path / "state").acquire()
    assert (caught.value.errno, caught.value.path) == (number, str(tmp_path / "state.lock"))
    with pytest.raises(StorageError, match="has no locks"):
        visit(SQLiteCheckpoint(tmp_path / "new" / "state"), make_plan())
    assert not (tmp_path / "new" / "state").exists()
    number = errno.EIO
    with pytest.raises(OSError, match=r"Input/output error|I/O error") as told:
        RunLock(tmp_path / "state").acquire()
    assert told.value.errno == errno.EIO


@posix
def test_a_lack_of_permission_means_that_the_lock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is how SMB and Windows say it. Its file may not be readable either."""
    monkeypatch.setattr(lock_module, "NAME_SECONDS", 0.05)

    def refuse(file: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(lock_module, "_lock", refuse)
    with pytest.raises(StateConflictError, match="state is in use by another process: wait for it") as caught:
        RunLock(tmp_path / "state").acquire()
    assert isinstance(caught.value.__context__, BlockingIOError)
    assert (caught.value.pid, caught.value.host, caught.value.path) == (None, None, str(tmp_path / "state"))


DEVICE = os.makedev(0, 41) if os.name != "nt" else 0
MOUNT = "29 1 0:41 / /mnt rw,relatime shared:1 master:2 - {} server:/export {}"


@posix
@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("nfs4", "rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1", ""),
        ("nfs4", "rw,vers=4.2,local_lock=flock", "nfs4 with local_lock=flock"),
        ("nfs", "rw,vers=3,nolock,local_lock=all", "nfs with local_lock=all"),
        ("nfs", "rw,vers=3,local_lock=posix", ""),
        ("nfs", "nolock", "nfs with nolock"),
        ("cifs", "rw,vers=3.1.1,nobrl,cache=strict", "cifs with nobrl"),
        ("cifs", "rw,vers=3.1.1,cache=strict", ""),
        ("smb3", "nobrl", "smb3 with nobrl"),
        ("fuse.sshfs", "rw,user_id=0", "fuse.sshfs"),
        ("fuse.rclone", "", "fuse.rclone"),
        ("fuse.gcsfuse", "rw", "fuse.gcsfuse"),
        ("fuse.s3fs", "rw", "fuse.s3fs"),
        ("ext4", "rw,nolock", ""),
    ],
)
def test_network_file_systems_without_locks_between_machines_are_known(
    kind: str, options: str, told: str
) -> None:
    """The text is that of ``/proc/self/mountinfo``, see proc(5)."""
    other = MOUNT.replace("0:41", "0:4").format("nfs", "nolock")
    assert unshared_locks(f"{other}\n{MOUNT.format(kind, options)}\n{other}", DEVICE) == told
    assert unshared_locks(other, DEVICE) == ""


@posix
@pytest.mark.parametrize(
    "text", ["", "\n", "29", "29 1 0:41 / /mnt rw", "29 1 0:41 / /mnt rw - ", "29 1 0:41 / /m - nfs"]
)
def test_a_list_of_mounts_may_hold_anything(text: str) -> None:
    assert unshared_locks(text, DEVICE) == ""


@posix
def test_a_name_keeps_other_machines_out_where_locks_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NFS mounted ``local_lock=flock``, each machine has its own lock on the same file."""
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNT.replace("0:41", number).format("nfs4", "rw,local_lock=flock"))
    monkeypatch.setattr(lock_module, "MOUNTS", mounts)
    lock = RunLock(tmp_path / "state")
    elsewhere = b'{"pid":7,"host":"elsewhere","since":"then"}'
    for there, who, pid, host in (
        (elsewhere, "process 7 on elsewhere since then", 7, "elsewhere"),
        (b"", "an unknown process", None, None),  # it is about to write its name, or the power failed
    ):
        lock.path.write_bytes(there)
        words = f"{who}, or was when that was killed: nfs4 with local_lock=flock has no"
        with pytest.raises(StateConflictError, match=words) as caught:
            lock.acquire()
        assert str(caught.value).endswith(f"If no run is using it, remove {lock.path}")
        assert (caught.value.pid, caught.value.host, caught.value.path) == (pid, host, str(lock.state))
        assert lock.path.read_bytes() == there
    here = json.dumps({"pid": os.getppid(), "host": socket.gethostname(), "since": "then"})
    lock.path.write_text(here)  # killed here, and not holding the lock: the system knows that
    lock.acquire()
    lock.release()
    lock.acquire()  # a new file, which cannot be run
    assert stat.S_IMODE(lock.path.stat().st_mode) & 0o111 == 0
    assert json.loads(lock.path.read_bytes())["pid"] == os.getpid()
    lock.release()
    mounts.unlink()  # not Linux
    lock.path.write_bytes(elsewhere)
    lock.acquire()
    lock.release()


@posix
@pytest.mark.parametrize(
    ("options", "owner", "is_foreign"),
    [
        ("rw,local_lock=flock", "elsewhere", True),
        ("rw,local_lock=flock", socket.gethostname(), False),
        ("rw,local_lock=flock", None, False),
        ("rw,local_lock=none", "elsewhere", False),
    ],
)
def test_an_owner_is_foreign_where_only_its_name_keeps_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, owner: str | None, is_foreign: bool
) -> None:
    """The list of mounts may name a folder in an encoding of its own. No file is left open, and no link is followed."""
    number = f"{os.major(tmp_path.stat().st_dev)}:{os.minor(tmp_path.stat().st_dev)}"
    mounts = tmp_path / "mounts"
    mounts.write_bytes(
        b"8 1 9:9 / /\xff rw - ext4 x rw\n" + MOUNT.replace("0:41", number).format("nfs4", options).encode()
    )
    monkeypatch.setattr(lock_module, "MOUNTS", mounts)
    path = tmp_path / "state.lock"
    assert not foreign_owner(path)
    path.write_text("" if owner is None else json.dumps({"pid": 7, "host": owner, "since": "then"}))
    open_before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set[str]()
    assert foreign_owner(path) is is_foreign
    assert not open_before or set(os.listdir("/proc/self/fd")) <= open_before
    (tmp_path / "link").symlink_to(path)
    assert not foreign_owner(tmp_path / "link")


FORK_MEANWHILE = """
import os, sys, threading
from pathlib import Path
from truto_ci_async import _lock

lock = _lock.RunLock(Path(sys.argv[1]))
locked, forked = threading.Event(), threading.Event()
really = _lock._try_lock

def try_lock(file):
    really(file)
    locked.set()
    forked.wait(0.3)  # the fork has to wait for this thread

_lock._try_lock = try_lock
taking = threading.Thread(target=lock.acquire)
taking.start()
locked.wait()
leave, stay = os.pipe()
here, there = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(stay)
    os.write(there, b".")
    os.read(leave, 1)
    os._exit(0)
forked.set()
taking.join()
lock.release()
_lock.RunLock(Path(sys.argv[1])).acquire()  # would be refused if the child had kept the lock of a file that is there
os.read(here, 1)
child = [name for name in os.listdir(f"/proc/{pid}/fd") if "lock" in os.readlink(f"/proc/{pid}/fd/{name}")]
os.close(stay)
os.waitpid(pid, 0)
sys.exit(f"the child kept {child}" if child else 0)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc")
def test_a_child_that_is_forked_while_the_lock_is_taken_does_not_keep_it(tmp_path: Path) -> None:
    """Another thread may fork in the instant between opening the file and noting that."""
    done = subprocess.run(
        [sys.executable, "-c", FORK_MEANWHILE, str(tmp_path / "state")],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_name_that_cannot_be_written_gives_the_lock_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes a new file, and none of its bytes."""

    def fail(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    lock = RunLock(tmp_path / "state")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left"):
            lock.acquire()
    assert list(tmp_path.iterdir()) == []
    lock.acquire()
    lock.release()


def test_our_databases_are_marked(path: Path) -> None:
    """``file`` and other tools recognise them by this number, so it must never change."""
    fill(SQLiteCheckpoint(path), make_plan())
    assert APPLICATION_ID.to_bytes(4) == b"TrCI"
    assert path.read_bytes()[68:72] == b"TrCI"

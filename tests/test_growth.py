"""What a pull needs does not grow with what is done: not in memory, not on disk, not per commit, not to resume."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import examples, run
from tests.test_checkpoint import change, fill, make_plan
from truto_ci_async.errors import DamagedStateError
from truto_ci_async.pull.checkpoint.base import AccountProgress, Checkpoint, Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.plan.plan import Plan

WINDOWS = 30
DONE, EMPTY = Progress(rows=3, pages=1, outcome="done"), Progress(pages=1, outcome="empty")


def plan_of(*accounts: str, windows: int = WINDOWS) -> Plan:
    return make_plan(*accounts, start_time=f"-{windows}d")


async def accounts_of(checkpoint: Checkpoint) -> dict[str, AccountProgress]:
    return {name: progress async for name, progress in checkpoint.load_accounts()}


def rows_of(path: Path, table: str) -> int:
    database = sqlite3.connect(path)
    (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    database.close()
    return int(found)


# --- what is stored of finished windows ---------------------------------------------------------------------------

_finished = st.builds(Progress, rows=st.integers(0, 2), pages=st.just(1), outcome=st.just("done"))
_any = st.builds(
    Progress,
    position=st.none() | st.just("p"),
    rows=st.integers(0, 2**50),
    pages=st.integers(0, 3),
    outcome=st.sampled_from(["open", "done", "empty", "failed", "parked"]),
    error=st.none() | st.just("503"),
    until=st.none() | st.just(1e9),
    is_restarted=st.booleans(),
)
# Some windows in a row, as a pull commits them, or any window.
_commits = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, WINDOWS - 1),
        st.lists(_finished, min_size=1, max_size=20) | st.lists(_any, min_size=1, max_size=2),
    ),
    max_size=12,
)


@examples(10)  # each one waits for the disk
@given(commits=_commits, from_the_start=st.booleans())
def test_windows_that_share_a_row_are_what_was_committed(
    commits: list[tuple[str, int, list[Progress]]], from_the_start: bool, tmp_path_factory: Any
) -> None:
    """Whatever is committed in whatever order, ``load`` returns it, and ``load_accounts`` what follows from it."""
    path = tmp_path_factory.mktemp("state") / "state.sqlite3"
    next_window = {"a": 0, "b": 0}

    async def scenario() -> None:
        memory = MemoryCheckpoint()
        expected: dict[Key, Progress] = {}
        plan = plan_of("a", "b")
        await memory.open(plan)
        for account, at, walks in commits:
            start = next_window[account] if from_the_start else at
            changes = {
                (account, window): walk for window, walk in enumerate(walks, start) if window < WINDOWS
            }
            next_window[account] = start + len(changes)
            async with SQLiteCheckpoint(path) as stored:
                await stored.open(plan)
                for checkpoint in (memory, stored):
                    await checkpoint.commit(changes)
                expected |= changes
                for checkpoint in (memory, stored):
                    assert await checkpoint.load() == expected
        async with SQLiteCheckpoint(path) as stored:
            await stored.open(plan)
            plain = {name: progress async for name, progress in Checkpoint.load_accounts(stored)}
            assert await accounts_of(stored) == await accounts_of(memory) == plain

    run(scenario())


def test_finished_windows_take_a_few_bytes(tmp_path: Path) -> None:
    """A row for each took 45 bytes: 1.6 GB for 100,000 accounts over a year."""
    path = tmp_path / "state.sqlite3"
    windows = 150
    plan = plan_of("a", "b", windows=windows)

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(plan)
            for window in range(windows):
                mixed = Progress(rows=window, pages=1, outcome="done")
                await checkpoint.commit({("a", window): EMPTY, ("b", window): mixed})
            found = await checkpoint.load()
            assert len(found) == 2 * windows
            assert found["b", 7].rows == 7
            assert await accounts_of(checkpoint) == {
                "a": AccountProgress(finished=windows),
                "b": AccountProgress(finished=windows, has_rows=True),
            }

    run(scenario())
    assert rows_of(path, "progress") == 0
    assert 2 <= rows_of(path, "finished") <= 5


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_of_an_earlier_version_is_converted_without_loss(tmp_path: Path, version: int) -> None:
    path = tmp_path / "state.sqlite3"
    plan = plan_of("a", "b", "c")
    fill(SQLiteCheckpoint(path), plan)
    begun = Progress(position="p", rows=5, pages=2)
    stored = {("a", window): DONE if window % 7 == 0 else EMPTY for window in range(20)} | {("a", 20): begun}
    stored |= {("b", window): EMPTY for window in range(WINDOWS)} | {("c", 0): DONE, ("c", 1): begun}
    database = sqlite3.connect(path)
    database.execute("DROP TABLE finished")
    if version == 1:
        database.execute("ALTER TABLE progress DROP COLUMN restarted")
    database.executemany(
        'INSERT INTO progress (account, "window", position, "rows", pages, outcome) VALUES (?, ?, ?, ?, ?, ?)',
        [(*key, each.position, each.rows, each.pages, each.outcome) for key, each in stored.items()],
    )
    database.execute(f"PRAGMA user_version = {version}")
    database.commit()
    database.close()

    async def scenario() -> None:
        for _ in range(2):
            async with SQLiteCheckpoint(path) as checkpoint:
                await checkpoint.open(plan)
                assert await checkpoint.load() == stored
                assert await accounts_of(checkpoint) == {
                    "a": AccountProgress(finished=20, has_rows=True, later={20: begun}),
                    "b": AccountProgress(finished=WINDOWS),
                    "c": AccountProgress(finished=1, has_rows=True, later={1: begun}),
                }

    run(scenario())
    assert (rows_of(path, "progress"), rows_of(path, "finished")) == (3, 2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE finished SET runs = x'00'",
        "UPDATE finished SET runs = 'text'",
        "UPDATE finished SET runs = x'90'",
        "UPDATE finished SET windows = windows + 1",
        'UPDATE finished SET "rows" = -1',
        "UPDATE finished SET \"rows\" = 'many'",
        "UPDATE finished SET account = 'nobody'",
        "UPDATE finished SET \"window\" = 'first'",
        'UPDATE finished SET "window" = 25',
    ],
)
def test_finished_windows_that_make_no_sense_are_damage(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "state.sqlite3"
    plan = plan_of("a")
    fill(SQLiteCheckpoint(path), plan, ({("a", window): DONE for window in range(16)}, None))
    change(path, statement)

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(plan)
            with pytest.raises(DamagedStateError):
                await checkpoint.load()

    run(scenario())

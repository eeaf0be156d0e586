"""What a pull needs does not grow with what is done: not in memory, not on disk, not per commit, not to resume."""

from __future__ import annotations

import argparse
import gc
import random
import sqlite3
import sys
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from benchmarks import bench_growth
from tests.support import examples, run
from tests.test_checkpoint import change, fill, make_plan
from tests.test_sinks import (
    MEMORY,
    PAGES,
    PLAN,
    FailingDisk,
    attempt,
    build,
    check_manifest,
    expected_rows,
    manifest,
    page_of,
    pull,
    read_rows,
)
from truto_ci_async._files import Disk
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import CursorExpiredError, DamagedStateError, PermissionDeniedError
from truto_ci_async.models import Interaction
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.pull.checkpoint.base import AccountProgress, Checkpoint, Key, Progress
from truto_ci_async.pull.checkpoint.finished import is_plain
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.commits import Commits, Entry
from truto_ci_async.pull.engine import Pull
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.report import PullReport
from truto_ci_async.pull.stores.adapters import CheckpointStore
from truto_ci_async.sinks import files, parquet
from truto_ci_async.sinks.layout import Layout

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


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(rows=3, pages=2, outcome="done"), True),
        (Progress(outcome="empty"), True),
        (Progress(), False),
        (Progress(outcome="failed"), False),
        (Progress(outcome="done", position="p"), False),
        (Progress(outcome="done", error="e"), False),
        (Progress(outcome="done", until=1.0), False),
        (Progress(outcome="done", is_restarted=True), False),
    ],
)
def test_a_window_shares_a_row_only_if_nothing_of_it_is_lost(progress: Progress, expected: bool) -> None:
    assert is_plain(progress) is expected


@pytest.mark.parametrize("window", [0, 7, 15])
def test_a_window_that_shares_a_row_can_be_replaced(window: int, tmp_path: Path) -> None:
    """The others keep what they had; one after the last of them leaves the row alone."""
    path = tmp_path / "state.sqlite3"
    walks: dict[Key, Progress] = {
        ("a", number): Progress(rows=number, pages=1, outcome="done") for number in range(16)
    }
    failed, begun = Progress(outcome="failed", error="e"), Progress(position="p")

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(plan_of("a"))
            await checkpoint.commit(walks)
            await checkpoint.commit({("a", 16): begun})
            assert (rows_of(path, "finished"), rows_of(path, "progress")) == (1, 1)
            await checkpoint.commit({("a", window): failed})
            assert await checkpoint.load() == {**walks, ("a", 16): begun, ("a", window): failed}
            await checkpoint.commit({("a", window): DONE})
            assert await checkpoint.load() == {**walks, ("a", 16): begun, ("a", window): DONE}
            again: dict[Key, Progress] = {("a", number): DONE for number in range(8)}
            await checkpoint.commit(again)
            assert await checkpoint.load() == {**walks, ("a", 16): begun, ("a", window): DONE, **again}

    run(scenario())


@pytest.mark.parametrize(("windows", "rows"), [(7, (7, 0)), (8, (0, 1)), (9, (0, 1)), (17, (0, 1))])
def test_windows_of_longer_plans_share_a_row(windows: int, rows: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    plan = plan_of("a", windows=windows)
    fill(SQLiteCheckpoint(path), plan, *(({("a", window): DONE}, None) for window in range(windows)))
    assert (rows_of(path, "progress"), rows_of(path, "finished")) == rows


def test_windows_behind_one_that_is_missing_share_a_row(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    walks: dict[Key, Progress] = {("a", number): DONE for number in (0, 1, *range(3, 16))}

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(plan_of("a"))
            await checkpoint.commit(walks)
            assert await checkpoint.load() == walks
            assert (rows_of(path, "finished"), rows_of(path, "progress")) == (1, 2)

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
        "UPDATE finished SET runs = x'ff'",
        "UPDATE finished SET runs = x'00'",
        "UPDATE finished SET runs = 'text'",
        "UPDATE finished SET runs = x'90'",
        "UPDATE finished SET windows = windows + 1",
        'UPDATE finished SET "rows" = -1',
        "UPDATE finished SET \"rows\" = 'many'",
        "UPDATE finished SET account = 'nobody'",
        "UPDATE finished SET \"window\" = 'first'",
        f'UPDATE finished SET "window" = {WINDOWS - 15}',  # the last of 16 is behind the plan
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
            with pytest.raises(DamagedStateError, match=r"make no sense|not in its plan"):
                await checkpoint.load()

    run(scenario())


# --- what is kept in memory ---------------------------------------------------------------------------------------


def refused(account: int, filler: str) -> PermissionDeniedError:
    insight = {"forbidden_error": {"value": {"missing_scopes": ["calls:read"]}}}
    sent: dict[str, Any] = {"details": [filler], "raw_response": {"body": filler}, "headers": {"x": filler}}
    return PermissionDeniedError("no access", status=403, insight=insight, account=str(account), **sent)


def test_errors_are_kept_without_what_the_service_sent_with_them() -> None:
    """100,000 accounts that fail in the same night with 100 kB each are 10 GB."""
    report = PullReport()
    for number in range(1_500):
        report.keep_failure(str(number), refused(number, "short" if number % 2 else "x" * 100_000))
    first, second, last = (report.failed[each] for each in ("0", "1", "1499"))
    assert isinstance(first, PermissionDeniedError)
    assert isinstance(second, PermissionDeniedError)
    assert isinstance(last, PermissionDeniedError)
    assert (first.details, first.raw_response, first.headers) == (None, None, {})
    assert (second.details, second.raw_response, second.headers) == (
        ["short"],
        {"body": "short"},
        {"x": "short"},
    )
    assert (last.details, last.raw_response, last.headers) == (None, None, {})
    assert last.missing_scopes == ("calls:read",)
    assert str(last) == str(refused(1499, "short"))
    cause = refused(1, "x" * 100_000)
    error = CursorExpiredError("gone")
    error.__cause__ = cause
    report.keep_failure("a", error)
    assert cause.raw_response is None


class CountedEntry(Entry):
    """Counts how often it is gone through."""

    looks = 0

    @property
    def log(self) -> bytes:  # type: ignore[override]
        CountedEntry.looks += 1
        return b""

    @log.setter
    def log(self, log: bytes) -> None:
        pass


class ReadyAfter:
    """A sink that says "not yet" at first."""

    def __init__(self, commits: int) -> None:
        self._left = commits

    async def open(self, state: bytes | None) -> None:
        pass

    async def write(self, page: AccountPage[Any]) -> None:
        pass

    async def commit(self, *, final: bool = False) -> bytes | None:
        self._left -= 1
        return b"1" if final or self._left < 0 else None


def test_a_sink_that_is_not_ready_does_not_make_each_commit_longer() -> None:
    """All that was marked was copied and gone through at each of them."""
    asked, each = 200, 10

    async def scenario() -> None:
        CountedEntry.looks = 0
        checkpoint = MemoryCheckpoint()
        await checkpoint.open(plan_of("a", windows=asked * each))
        commits = Commits(
            CheckpointStore(checkpoint, ReadyAfter(asked)),
            reader=PageReader(ItemReader[Any](Raw)),
            report=PullReport(),
            on_failure=lambda error: None,
        )
        for number in range(asked + 1):
            marked = commits._marked
            for window in range(number * each, (number + 1) * each):
                commits.mark(CountedEntry([], ("a", window), EMPTY, rows=0))
            await commits._flush()
            if 1 < number < asked:
                assert commits._marked is marked
        assert len(await checkpoint.load()) == (asked + 1) * each
        assert CountedEntry.looks <= 3 * (asked + 1) * each

    run(scenario())


# --- many parts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a state name two parts before they are moved to the log."""
    pytest.importorskip("pyarrow")
    for module in (parquet, files):
        monkeypatch.setattr(module, "MAX_PARTS", 2)


async def write_parts(folder: Path, state: bytes | None, count: int, **options: Any) -> list[bytes]:
    """Write parts of one row each, and return the state after each of them."""
    states: list[bytes] = []
    async with build("parquet", folder, part_rows=1, **options) as sink:
        await sink.open(state)
        for number in range(count):
            await sink.write(page_of(next(PLAN.units()), number % PAGES, Interaction))
            found = await sink.commit()
            assert found is not None
            states.append(found)
            await sink.committed()
    return states


def test_the_state_of_a_pull_does_not_grow_with_its_parts(few_parts: None, tmp_path: Path) -> None:
    """50,000 parts were 3.5 MB, encoded and stored with every commit. Readers still find them all."""
    states = run(write_parts(tmp_path, None, 40))
    assert max(map(len, states[20:])) <= max(map(len, states[:10])) + 10
    assert len({part["name"] for part in manifest(tmp_path)["parts"]}) == 40
    assert check_manifest(tmp_path, "parquet") == 40 * len(page_of(next(PLAN.units()), 0, Interaction))
    run(write_parts(tmp_path, states[-1], 3))
    assert len(manifest(tmp_path)["parts"]) == 43
    run(write_parts(tmp_path, states[20], 0))  # as if the later commits had not reached the checkpoint
    assert len(manifest(tmp_path)["parts"]) == 21 == len(list(tmp_path.glob("interactions/*.parquet")))


def test_a_long_list_of_parts_is_not_written_with_every_commit(few_parts: None, tmp_path: Path) -> None:
    steps: list[str] = []
    run(write_parts(tmp_path, None, 60, disk=Disk(steps.append)))
    assert steps.count("manifest") < 35
    assert len(manifest(tmp_path)["parts"]) == 60


def test_a_state_that_names_all_parts_goes_on(few_parts: None, tmp_path: Path) -> None:
    """So did earlier versions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "MAX_PARTS", 1_000)
        old = run(write_parts(tmp_path, None, 7))[-1]
    assert b"truto-sink-1" in old
    new = run(write_parts(tmp_path, old, 1))[-1]
    assert b"truto-parts-1" in new
    run(write_parts(tmp_path, new, 0))
    assert len(manifest(tmp_path)["parts"]) == 8
    run(write_parts(tmp_path, old, 2))
    assert len(manifest(tmp_path)["parts"]) == 9


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "link"])
def test_a_damaged_log_of_parts_is_told(few_parts: None, tmp_path: Path, damage: str) -> None:
    state = run(write_parts(tmp_path / "out", None, 7))[-1]
    log = tmp_path / "out" / Layout("interactions").parts_log
    data = log.read_bytes()
    log.write_bytes({"cut": data[:-1], "changed": data.replace(b"2", b"3", 1)}.get(damage, data))
    if damage in ("gone", "link"):
        log.rename(tmp_path / "moved")
    if damage == "link":
        log.symlink_to(tmp_path / "moved")
    with pytest.raises(DamagedStateError, match=Layout("interactions").parts_log):
        run(write_parts(tmp_path / "out", state, 1))
    (tmp_path / "out" / Layout("interactions").parts_log).unlink(missing_ok=True)
    log.write_bytes(data + b"half of a line that was never committed")
    run(write_parts(tmp_path / "out", state, 3))
    assert len(manifest(tmp_path / "out")["parts"]) == 10


@examples(25)
@given(cuts=st.lists(st.integers(1, 90), min_size=1, max_size=3), seed=st.integers())
def test_the_power_may_go_while_parts_are_moved(cuts: list[int], seed: int) -> None:
    pytest.importorskip("pyarrow")
    draw = random.Random(seed)
    checkpoint = MemoryCheckpoint()

    async def scenario(folder: Path) -> None:
        for at in cuts:
            disk = FailingDisk(at)
            if await attempt("parquet", folder, checkpoint, disk) is None:
                break
            disk.cut_power(draw)
        await pull(build("parquet", folder), checkpoint)

    with tempfile.TemporaryDirectory(dir=MEMORY) as name, pytest.MonkeyPatch.context() as patch:
        for module in (parquet, files):
            patch.setattr(module, "MAX_PARTS", 1)
        run(scenario(Path(name)))
        assert read_rows(Path(name), "parquet") == expected_rows()
        assert check_manifest(Path(name), "parquet") == len(expected_rows())


# --- a pull as a whole --------------------------------------------------------------------------------------------


@pytest.fixture
def _linux() -> None:
    if sys.platform != "linux":
        pytest.skip("resident memory is counted in other units, or not at all")


def grown(
    folder: Path, accounts: int, windows: int, phases: Iterable[str] = bench_growth.PHASES
) -> dict[str, dict[str, Any]]:
    """Pull until each account had a turn, kill that, and go on; and go on from a state that is nearly done."""
    options = argparse.Namespace(windows=windows, pages=0, concurrency=32)
    found: dict[str, dict[str, Any]] = {}
    for phase in phases:
        place = folder / ("late" if phase == "late" else "first")
        place.mkdir(exist_ok=True)
        found[phase] = bench_growth.measure(phase, str(place), accounts, options)
    return found


@pytest.mark.usefixtures("_linux")
def test_a_pull_takes_no_more_the_more_is_done(tmp_path: Path) -> None:
    found = grown(tmp_path, 100, 365, ("pull", "resume", "late"))
    assert max(each["step_ms"] for each in found.values()) < 40.0
    assert max(each["peak_mb"] for each in found.values()) < 100.0
    assert found["late"]["state_mb"] < found["resume"]["state_mb"] + 1.0


def test_nothing_of_a_pull_that_was_left_stays_in_memory() -> None:
    """The garbage collector does not look at the accounts of a pull, which refer to all of it."""

    async def scenario() -> weakref.ref[Any]:
        client: Any = bench_growth.Stub(lambda: None)
        pull: Any = Pull(client, plan_of(*(f"a{number}" for number in range(50))))
        async with pull as pages:
            for _ in range(40):
                await anext(pages)
        return weakref.ref(pull)

    left = run(scenario())
    gc.collect()
    assert left() is None


@pytest.mark.long
@pytest.mark.usefixtures("_linux")
def test_a_year_of_100_000_accounts(tmp_path: Path) -> None:
    """36.5 million walks: what was kept of each took 5 to 10 GB."""
    found = grown(tmp_path, 100_000, 365)
    assert found["plan"]["units"] == 36_500_000
    assert max(each["peak_mb"] for each in found.values()) <= 400.0
    assert max(each["step_ms"] for each in found.values()) < 40.0
    assert max(each["start_s"] for each in found.values() if "start_s" in each) < 30.0
    first, last = found["pull"]["commit_ms"]
    assert last < 3 * first + 20.0

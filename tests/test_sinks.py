"""Sinks: a row is in the output if, and only if, a checkpoint says so, whatever went wrong in between."""

from __future__ import annotations

import asyncio
import csv
import errno
import gc
import io
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tests.support import examples, run
from truto_ci_async import _files as _disk
from truto_ci_async._files import Disk
from truto_ci_async.errors import (
    DamagedStateError,
    MissingExtraError,
    StateConflictError,
    StorageError,
    UsageError,
)
from truto_ci_async.models import ROW_COLUMNS, AdditionalMetric, Email, Interaction, Metrics, Page, Person
from truto_ci_async.models.pulls import AccountPage, Place, PlannedAccount, Unit, Window
from truto_ci_async.models.row_views import PULL_COLUMNS
from truto_ci_async.pull.checkpoint.base import Checkpoint, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.stores import adapters
from truto_ci_async.sinks import files
from truto_ci_async.sinks import parquet as parquet_sink
from truto_ci_async.sinks.factory import make_sink
from truto_ci_async.sinks.files import FileSink
from truto_ci_async.sinks.lines import CsvSink, NdjsonSink
from truto_ci_async.sinks.parquet import ParquetSink
from truto_ci_async.sinks.rows import json_lines

ROOT = Path(__file__).parents[1]
FORMATS = ["ndjson", "csv", "parquet"]
posix = pytest.mark.skipif(os.name == "nt", reason="forks and mounts of POSIX")

# --- a minimal pull --------------------------------------------------------------------------------------------

# Files are kept in memory if possible: these tests are about the order of operations, and disks are slow.
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


PAGES, ITEMS = 3, 2
PLAN = Plan(
    accounts=(
        PlannedAccount("a", "tenant"),
        PlannedAccount("empty"),
        PlannedAccount("ü,\"'"),
    ),
    windows=(Window("2024-01-01", "2024-01-02"), Window("2024-01-02", "2024-01-03")),
)


def page_of(unit: Unit, number: int, item_type: Any) -> AccountPage[Any]:
    """Return what the service would answer: the same on every request."""
    items: list[Any] = []
    if unit.account.id != "empty":
        items = [
            Interaction(
                id=f"{unit.account.id}/{unit.index}/{number}/{item}",
                user=Person(id="9" * 20, name='Jo, "the\r\n☃"'),
                metrics=Metrics(patience=0.5, interactivity=item),
                remote_json=Raw(b'{"padding": "' + b"x" * 50 + b'"}'),
            )
            for item in range(ITEMS)
        ]
    if item_type is Raw:
        items = [Raw(msgspec.json.encode(item)) for item in items]
    return AccountPage(unit.account, unit.window, Page(items))


def expected_rows(plan: Plan = PLAN) -> list[tuple[str | None, ...]]:
    return sorted(
        (unit.account.id, unit.window.start, item.id)
        for unit in plan.units()
        for number in range(PAGES)
        for item in page_of(unit, number, Interaction).page
    )


def read_rows(folder: Path, format: str) -> list[tuple[str | None, ...]]:
    """Read the output as any reader would: everything a glob finds."""
    rows: list[dict[str, Any]] = []
    if format == "parquet":
        from pyarrow import parquet

        for path in sorted(folder.rglob("*.parquet")):
            rows += (
                parquet.ParquetFile(path).read(use_threads=False).to_pylist()
            )  # threads and forks do not mix
    for path in folder.glob(f"*.{format}"):
        if format == "ndjson":
            rows += [json.loads(line) for line in path.read_text().splitlines()]
        elif format == "csv":
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
    for row in rows:
        if isinstance(start := row["window_start"], datetime):
            row["window_start"] = start.date().isoformat()  # as the plans here have it
    return sorted((row["integrated_account_id"], row["window_start"], row["id"]) for row in rows)


async def commit_together(sink: Any, checkpoint: Checkpoint, changes: Any, *, final: bool = False) -> bool:
    """Commit as a pull does."""
    is_durable = await adapters.commit_together(sink, checkpoint, changes, final=final)
    if is_durable and isinstance(sink, FileSink):
        await sink.committed()
    return is_durable


async def pull(sink: FileSink, checkpoint: Checkpoint, plan: Plan = PLAN, *, every: int = 3) -> None:
    """Pull what is not done yet, page by page, committing after every ``every`` pages."""
    async with checkpoint:
        plan = await checkpoint.open(plan)
        async with sink:
            await sink.open(checkpoint.sink_state)
            progress = await checkpoint.load()
            changes: dict[tuple[str, int], Progress] = {}
            for unit in plan.units():
                here = progress.get(unit.key, Progress())
                while here.outcome == "open":
                    number = here.pages
                    page = page_of(unit, number, sink.item_type)
                    await sink.write(page)
                    last = number + 1 == PAGES
                    here = Progress(
                        position=str(number + 1),
                        rows=here.rows + len(page),
                        pages=number + 1,
                        outcome="done" if last else "open",
                    )
                    changes[unit.key] = here
                    if number % every == 0 and await commit_together(sink, checkpoint, changes):
                        changes.clear()
            assert await commit_together(sink, checkpoint, changes, final=True)


def build(format: str, folder: Path, **options: Any) -> FileSink:
    """Create a sink with parts so small that a short pull writes several."""
    if format == "parquet":
        options.setdefault("part_rows", 5)
    kinds: dict[str, type[Any]] = {"ndjson": NdjsonSink, "csv": CsvSink, "parquet": ParquetSink}
    sink: FileSink = kinds[format](folder, **options)
    return sink


def manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest says of the interactions."""
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    assert content["kind"] == "truto-manifest-2"
    assert content["complete"] == all(each["complete"] for each in content["resources"].values())
    entry: dict[str, Any] = content["resources"]["interactions"]
    return entry


def check_manifest(folder: Path, format: str) -> int:
    """Check that the manifest describes the files, and return the number of rows it lists."""
    content = manifest(folder)
    assert content["format"] == format
    for part in content["parts"]:
        data = (folder / part["name"]).read_bytes()[: part["bytes"]]
        assert (len(data), f"{zlib.crc32(data):08x}") == (part["bytes"], part["crc32"])
    assert content["rows"] == sum(part["rows"] for part in content["parts"])
    assert content["bytes"] == sum(part["bytes"] for part in content["parts"])
    rows: int = content["rows"]
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file by its name in the folder."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names(folder: Path) -> set[str]:
    return set(contents(folder))


@pytest.mark.parametrize("format", FORMATS)
def test_a_pull_writes_every_row_once(format: str, tmp_path: Path) -> None:
    """The manifest lists them all, and another run has nothing left to do and changes nothing."""
    checkpoint = MemoryCheckpoint()
    run(pull(build(format, tmp_path), checkpoint))
    assert read_rows(tmp_path, format) == expected_rows()
    assert check_manifest(tmp_path, format) == len(expected_rows())
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    before = contents(tmp_path)
    run(pull(build(format, tmp_path), checkpoint))
    assert contents(tmp_path) == before


# --- killed at each step ---------------------------------------------------------------------------------------


def drive(format: str, folder: Path) -> None:
    """Kill a pull at its first step, its second, and so on. Each time, run it again and check the output.

    Runs in a process of its own and forks: nothing is imported twice, and SIGKILL is the real one.
    """
    import signal

    with suppress(ImportError):
        import_module("pandas")  # pyarrow imports it with the first array, which would be once in each child

    def attempt(out: Path, at: int) -> bool:
        """Run until step number ``at``. Return False if the pull ended before."""
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):
                assert os.WTERMSIG(status) == signal.SIGKILL
                return True
            assert status == 0, "the pull failed"
            return False
        code = 1
        try:
            steps = 0

            def step(name: str) -> None:
                nonlocal steps
                steps += 1
                if steps == at:
                    with (out.parent / "steps").open("a") as file:
                        file.write(f"{name}\n")
                    os.kill(os.getpid(), signal.SIGKILL)

            sink = build(format, out, disk=Disk(step))
            asyncio.run(pull(sink, SQLiteCheckpoint(out / "state.sqlite3", step=step)))
            code = 0
        except Exception:
            logging.getLogger(__name__).exception("the pull failed")
            raise
        finally:
            os._exit(code)

    def look(out: Path, *, final: bool) -> None:
        rows = read_rows(out, format) if format == "parquet" or final else []
        assert len(rows) == len(set(rows)), "a row is there twice"
        assert set(rows) <= set(expected_rows())
        if (out / "manifest.json").exists():
            assert check_manifest(out, format) <= len(expected_rows())
        assert all(name.startswith("part-") for name in names(out / "interactions"))
        if final:
            assert rows == expected_rows(), "rows were lost"
            assert not [name for name in names(out) if name.startswith(".")]

    draw = random.Random(format)
    at, going = 1, True
    while going:
        out = folder / f"{format}-{at}"
        out.mkdir()
        going = attempt(out, at)
        if going:
            look(out, final=False)
            if at % 3 == 0 and attempt(out, draw.randrange(1, 12)):  # and once more, soon after the restart
                look(out, final=False)
        assert not attempt(out, 0)
        look(out, final=True)
        shutil.rmtree(out)
        at += 1
    sys.stdout.write(json.dumps(Counter((folder / "steps").read_text().split())))


@posix
@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_any_step_and_run_again_nothing_is_lost_or_doubled(format: str, tmp_path: Path) -> None:
    """The main promise for long pulls: every step may be the last one."""
    program = f"from tests.test_sinks import *; drive({format!r}, Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    steps = json.loads(done.stdout)
    assert set(steps) == {"write", "fsync", "rename", "fsync-dir", "manifest", "checkpoint"}
    assert sum(steps.values()) > 30


# --- disk errors and power failures ----------------------------------------------------------------------------


class FailingDisk(Disk):
    """Fails at operation number ``at``, and at every later one until it is repaired.

    It keeps track of what a power failure may leave: data that was not synced may be there, missing or incomplete.
    """

    def __init__(self, at: int = 0, number: int = errno.EIO) -> None:
        super().__init__(self._count)
        self.at = at
        self.number = number
        self.steps: list[str] = []
        self.failed = False
        self._paths: dict[int, Path] = {}
        self._durable: dict[Path, int] = {}  # bytes that were synced
        self._moves: list[tuple[str, Path, Path, bytes]] = []  # names that were not

    def _count(self, name: str) -> None:
        self.steps.append(name)
        self._fail()

    def _fail(self) -> None:
        self.failed = self.failed or len(self.steps) == self.at
        if self.failed:
            raise OSError(self.number, os.strerror(self.number))

    def open(self, path: Path) -> int:
        return self._opened(path, super().open)

    def create(self, path: Path, mode: int = 0o666) -> int:
        return self._opened(path, lambda path: super(FailingDisk, self).create(path, mode))

    def _opened(self, path: Path, really: Callable[[Path], int]) -> int:
        if self.failed:
            self._fail()
        if not path.exists():
            self._moves.append(("made", path, path, b""))
        file = really(path)
        self._paths[file] = path
        self._durable.setdefault(path, path.stat().st_size)
        return file

    def write(self, file: int, data: bytes | memoryview) -> None:
        try:
            super().write(file, data)
        except OSError:
            os.write(file, bytes(data)[: len(data) // 2])  # some of it was written
            raise

    def fsync(self, file: int) -> None:
        super().fsync(file)
        self._durable[self._paths[file]] = os.fstat(file).st_size

    def cut(self, file: int, size: int) -> None:
        super().cut(file, size)
        path = self._paths[file]
        self._durable[path] = min(self._durable[path], size)

    def rename(self, source: Path, target: Path) -> None:
        before = target.read_bytes() if target.exists() else b""
        super().rename(source, target)
        self._durable[target] = self._durable.pop(source)
        self._moves.append(("renamed", source, target, before))

    def remove(self, path: Path) -> None:
        if self.failed:
            self._fail()
        if path.exists():
            self._moves.append(("removed", path, path, path.read_bytes()))
        super().remove(path)

    def fsync_dir(self, path: Path) -> None:
        super().fsync_dir(path)
        kept: list[tuple[str, Path, Path, bytes]] = []
        for kind, source, target, data in self._moves:
            if target.parent != path:
                kept.append((kind, source, target, data))
            elif source.parent != path:  # its old name may still be there
                kept.append(("removed", source, source, target.read_bytes()))
        self._moves = kept

    def cut_power(self, draw: random.Random) -> None:
        """Leave the files in a state that a power failure may leave them in."""
        sizes = dict(self._durable)
        for kind, source, target, data in reversed(self._moves):
            if draw.random() < 0.5:
                continue
            if kind == "removed" and not source.exists() and source.parent.exists():
                source.write_bytes(data)
            elif kind == "renamed" and target.exists():
                target.replace(source)
                sizes[source] = sizes.get(target, 0)
                if data:
                    target.write_bytes(data)
                    sizes[target] = len(data)
            elif kind == "made":
                source.unlink(missing_ok=True)
        for path, size in sizes.items():
            if not path.exists():
                continue
            there = path.read_bytes()
            keep = draw.randint(min(size, len(there)), len(there))
            path.write_bytes(there[:size] + draw.randbytes(max(keep - size, 0)))


async def attempt(format: str, folder: Path, checkpoint: Checkpoint, disk: Disk) -> StorageError | None:
    try:
        await pull(build(format, folder, disk=disk), checkpoint)
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_may_fail_at_any_operation(format: str, tmp_path: Path) -> None:
    """A disk that is full or broken at any operation raises StorageError, and the next run completes the pull."""

    async def scenario() -> int:
        at = 1
        while True:
            number = (errno.EIO, errno.ENOSPC, errno.EROFS)[at % 3]
            folder, checkpoint = tmp_path / f"{at}", MemoryCheckpoint()
            folder.mkdir()
            error = await attempt(format, folder, checkpoint, FailingDisk(at, number))
            if error is None:
                return at
            assert error.errno == number
            assert isinstance(error.__cause__, OSError)
            assert str(folder) in str(error)
            assert os.strerror(number) in str(error)
            await pull(build(format, folder), checkpoint)
            assert read_rows(folder, format) == expected_rows()
            assert check_manifest(folder, format) == len(expected_rows())
            shutil.rmtree(folder)
            at += 1

    assert run(scenario()) > 30


@examples(60)
@given(
    format=st.sampled_from(FORMATS),
    cuts=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    seed=st.integers(),
)
def test_the_power_may_go_at_any_time(format: str, cuts: list[int], seed: int) -> None:
    """After a power failure, data that was not synced may be there, missing or incomplete. None of it may count."""
    draw = random.Random(seed)
    checkpoint = MemoryCheckpoint()

    async def scenario(folder: Path) -> None:
        for at in cuts:
            disk = FailingDisk(at)
            if await attempt(format, folder, checkpoint, disk) is None:
                break
            disk.cut_power(draw)
        await pull(build(format, folder), checkpoint)

    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        run(scenario(folder))
        assert read_rows(folder, format) == expected_rows()
        assert check_manifest(folder, format) == len(expected_rows())


@posix
def test_a_sync_reaches_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system in memory does not show whether anything was synced, so this test records the calls."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    disk = Disk()
    file = disk.open(tmp_path / "file")
    disk.fsync(file)
    disk.fsync_dir(tmp_path)
    disk.close(file)
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


def test_a_write_goes_on_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write only part of the data, for example when the disk is nearly full."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    disk = Disk()
    file = disk.open(tmp_path / "file")
    disk.write(file, b"0123456789")
    disk.close(file)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("format", FORMATS)
def test_a_failed_sink_stays_failed_until_it_is_opened_again(format: str, tmp_path: Path) -> None:
    """Writing after half a row would commit it. The same object works again once it has been reopened."""

    async def scenario() -> None:
        disk = FailingDisk()
        sink = build(format, tmp_path, disk=disk)
        unit = next(PLAN.units())
        page = page_of(unit, 0, sink.item_type)
        await sink.open(None)
        await sink.write(page)
        state = await sink.commit(final=True)
        await sink.write(page)
        disk.failed = True
        with pytest.raises(StorageError):
            await sink.commit(final=True)
        disk.failed = False  # repaired without its knowledge
        for call in (sink.write(page), sink.commit(), sink.commit(final=True)):
            with pytest.raises(StorageError):
                await call
        await sink.open(state)
        await sink.write(page_of(unit, 1, sink.item_type))
        await sink.commit(final=True)
        await sink.aclose()

    run(scenario())
    assert [row[2] for row in read_rows(tmp_path, format)] == ["a/0/0/0", "a/0/0/1", "a/0/1/0", "a/0/1/1"]


@posix
@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_of_8_mb_fills_up(format: str, small_disk: Callable[[str], Path]) -> None:
    """State and output on one real file system: StorageError, no torn rows, and completed once there is space."""
    folder = small_disk("size=8m")
    noise = random.Random(1)
    unit = Unit(PlannedAccount("a"), Window("2024-01-01", "2024-01-02"), 0)
    plan = Plan(accounts=(unit.account,), windows=(unit.window,))

    def big_page(number: int) -> AccountPage[Any]:
        noise.seed(number)
        items: list[Any] = [
            Interaction(
                id=f"{number}/{item}",
                remote_json=Raw(json.dumps(b64encode(noise.randbytes(2400)).decode()).encode()),
            )
            for item in range(50)
        ]
        if format == "ndjson":
            items = [Raw(msgspec.json.encode(item)) for item in items]
        return AccountPage(unit.account, unit.window, Page(items))

    async def fill(pages: int = 80) -> None:
        async with SQLiteCheckpoint(folder / "state.sqlite3") as checkpoint:
            await checkpoint.open(plan)
            async with build(format, folder, **({"part_rows": 1000} if format == "parquet" else {})) as sink:
                await sink.open(checkpoint.sink_state)
                done = (await checkpoint.load()).get(unit.key, Progress()).pages
                for number in range(done, pages):
                    await sink.write(big_page(number))
                    changes = {unit.key: Progress(pages=number + 1)}
                    await commit_together(sink, checkpoint, changes, final=number + 1 == pages)

    with pytest.raises(StorageError) as caught:
        run(fill())
    assert caught.value.errno in (errno.ENOSPC, errno.EIO)
    check_manifest(folder, format)
    small_disk("size=64m")
    run(fill())
    expected = sorted(("a", "2024-01-01", f"{number}/{item}") for number in range(80) for item in range(50))
    assert read_rows(folder, format) == expected
    assert check_manifest(folder, format) == len(expected)


@posix
@pytest.mark.parametrize("format", FORMATS)
def test_a_read_only_disk(format: str, small_disk: Callable[[str], Path]) -> None:
    folder = small_disk("size=1m")
    small_disk("ro")
    for out in (folder, folder / "new"):
        with pytest.raises(StorageError, match="Read-only file system") as caught:
            run(pull(build(format, out), MemoryCheckpoint()))
        assert caught.value.errno == errno.EROFS


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_cannot_be_one(format: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(StorageError, match=str(tmp_path / "file")):
            run(pull(build(format, out), MemoryCheckpoint()))


# --- output that somebody changed ------------------------------------------------------------------------------


def finished(format: str, folder: Path) -> MemoryCheckpoint:
    checkpoint = MemoryCheckpoint()
    run(pull(build(format, folder), checkpoint))
    return checkpoint


def committed(folder: Path) -> Path:
    """Return the first of the committed files."""
    return folder / manifest(folder)["parts"][0]["name"]


def _delete(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("format", "harm"),
    [(format, harm) for format in FORMATS for harm in (_delete, _shorten, _alter, _empty)]
    + [("parquet", _lengthen)],
)
def test_committed_output_that_was_changed_is_told(
    format: str, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    """Otherwise a pull would count as complete although rows are missing."""
    checkpoint = finished(format, tmp_path)
    path = committed(tmp_path)
    kept = path.read_bytes()
    harm(path)
    with pytest.raises(DamagedStateError, match="does not match what was committed") as caught:
        run(pull(build(format, tmp_path), checkpoint))
    assert caught.value.path == str(path)
    path.write_bytes(kept)  # works again once restored
    run(pull(build(format, tmp_path), checkpoint))
    assert read_rows(tmp_path, format) == expected_rows()


@pytest.mark.parametrize("format", FORMATS)
def test_sizes_alone_can_be_checked(format: str, tmp_path: Path) -> None:
    """Reading a terabyte again before continuing is not always wanted."""
    checkpoint = finished(format, tmp_path)
    _alter(committed(tmp_path))
    run(pull(build(format, tmp_path, verify="size"), checkpoint))
    _shorten(committed(tmp_path))
    with pytest.raises(DamagedStateError):
        run(pull(build(format, tmp_path, verify="size"), checkpoint))


@pytest.mark.parametrize("format", ["ndjson", "csv"])
def test_what_stands_behind_the_committed_length_is_cut_off(format: str, tmp_path: Path) -> None:
    """A killed run leaves rows that no checkpoint knows, the last of them incomplete."""
    checkpoint = finished(format, tmp_path)
    path = committed(tmp_path)
    kept = path.read_bytes()
    path.write_bytes(kept + kept[: len(kept) // 2])
    run(pull(build(format, tmp_path), checkpoint))
    assert path.read_bytes() == kept


def test_parts_that_no_checkpoint_names_are_removed(tmp_path: Path) -> None:
    """Their numbers are not reused, because a reader may already have read those files."""
    checkpoint = finished("parquet", tmp_path)
    last = max(name for name in names(tmp_path) if name.endswith(".parquet"))
    shutil.copy(tmp_path / last, tmp_path / "interactions/part-000050.parquet")
    (tmp_path / ".interactions.part-000051.parquet.tmp").write_bytes(b"half")
    for mine in ("interactions/mine.parquet", "part-x.parquet", "notes.txt", "users/part-000001.parquet"):
        (tmp_path / mine).parent.mkdir(exist_ok=True)
        (tmp_path / mine).write_bytes(b"not of a pull")

    async def scenario() -> None:
        sink = build("parquet", tmp_path)
        await sink.open(checkpoint.sink_state)
        await sink.write(page_of(next(PLAN.units()), 0, Interaction))
        await sink.commit(final=True)
        await sink.aclose()

    run(scenario())
    here = names(tmp_path)
    assert {mine, "interactions/mine.parquet", "part-x.parquet", "notes.txt", last} <= here
    assert "interactions/part-000052.parquet" in here
    assert not {"interactions/part-000050.parquet", ".interactions.part-000051.parquet.tmp"} & here


@pytest.mark.parametrize("state", [b"", b"{}", b"\xff", b'{"kind":"truto-sink-2","format":"ndjson"}'])
def test_a_state_that_is_none_of_ours_is_damage(state: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedStateError, match="cannot be read"):
        run(build("ndjson", tmp_path).open(state))


# --- folders in use --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("earlier", FORMATS)
def test_output_of_an_unknown_pull_is_not_overwritten(format: str, earlier: str, tmp_path: Path) -> None:
    """If the state was lost, or the folder mistyped, one command must not delete hours of output."""
    finished(earlier, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StateConflictError, match=r"holds 24 rows of an earlier pull.*fresh=True"):
        run(pull(build(format, tmp_path), MemoryCheckpoint()))
    assert contents(tmp_path) == before
    run(pull(build(format, tmp_path, fresh=True), MemoryCheckpoint()))
    assert read_rows(tmp_path, format) == expected_rows()
    assert {name.partition(".")[2] for name in names(tmp_path)} == {format, "json"}


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("ndjson", "interactions.ndjson"),
        ("parquet", "interactions/part-000001.parquet"),
        ("parquet", "part-000001.parquet"),  # as earlier versions wrote it
        ("csv", "_interactions.parts.log"),
    ],
)
def test_files_of_somebody_else_are_not_overwritten(format: str, name: str, tmp_path: Path) -> None:
    """Not even with ``fresh``: nothing says that a pull wrote them."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    for fresh in (False, True):
        with pytest.raises(StateConflictError, match=f"{name} is already there"):
            run(pull(build(format, tmp_path, fresh=fresh), MemoryCheckpoint()))
    (tmp_path / name).unlink()
    (tmp_path / "manifest.json").write_bytes(b'{"name": "web app"}')
    with pytest.raises(StateConflictError, match="was not written by a pull"):
        run(pull(build(format, tmp_path), MemoryCheckpoint()))


PART = {"name": "interactions.ndjson", "rows": 1, "bytes": 8, "crc32": 0}


@pytest.mark.parametrize(
    "part",
    [
        PART | {"name": "../victim"},
        PART | {"name": "/etc/passwd"},
        PART | {"name": "interactions.csv"},
        PART | {"name": "interactions.ndjson\n"},
        PART | {"name": None},
        PART | {"bytes": -1},
        PART | {"bytes": "8"},
        PART | {"rows": 1e400},
    ],
    ids=str,
)
def test_a_state_that_was_altered_leads_nowhere_else(part: dict[str, Any], tmp_path: Path) -> None:
    """A name such as `../victim` would have another file cut to the length that is stored with it."""
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / "victim").write_bytes(b"precious")
    for format, parts in (("ndjson", [part]), ("parquet", [part]), ("ndjson", [PART, PART])):
        if format == "parquet":
            pytest.importorskip("pyarrow")
        state = json.dumps({"kind": "truto-sink-1", "format": format, "parts": parts})
        with pytest.raises(DamagedStateError):
            run(build(format, folder).open(state.encode()))
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert names(folder) == set()


@pytest.mark.parametrize("state", [b"\xff", b'{"kind":"truto-sink-1","format":"\xff"}', b"[" * 100_000, b"7"])
def test_a_state_that_is_nothing_of_ours_is_damage(state: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedStateError, match="cannot be read"):
        run(build("ndjson", tmp_path).open(state))


@posix
@pytest.mark.parametrize("format", FORMATS)
def test_output_that_was_replaced_by_a_link_is_damage(format: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    checkpoint = finished(format, folder)
    path = committed(folder)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    before = (tmp_path / "moved").read_bytes()
    with pytest.raises(DamagedStateError, match="a link or a device"):
        run(pull(build(format, folder), checkpoint))
    assert (tmp_path / "moved").read_bytes() == before


@posix
@pytest.mark.parametrize("format", FORMATS)
def test_planted_temporary_files_are_not_written_into(format: str, tmp_path: Path) -> None:
    folder, victim = tmp_path / "out", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"precious")
    for name in (".manifest.json.tmp", ".interactions.part-000001.parquet.tmp"):
        (folder / name).symlink_to(victim)

    def plant(step: str) -> None:
        with suppress(FileExistsError):
            (folder / ".interactions.part-000002.parquet.tmp").symlink_to(victim)

    run(pull(build(format, folder, disk=Disk(plant)), MemoryCheckpoint()))
    assert victim.read_bytes() == b"precious"
    assert read_rows(folder, format) == expected_rows()


@posix
def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(StateConflictError, match="was not written by a pull"):
        run(pull(build("ndjson", tmp_path), MemoryCheckpoint()))


@pytest.mark.parametrize("content", ["nested", "huge"])
def test_a_manifest_that_no_pull_wrote_is_not_decoded(tmp_path: Path, content: str) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        if content == "huge":
            file.truncate(2**40)
        else:
            file.write(b'{"kind":"truto-manifest-1","format":"ndjson","more":' + b"[" * 100_000)
    with pytest.raises(StateConflictError, match="was not written by a pull"):
        run(pull(build("ndjson", tmp_path), MemoryCheckpoint()))


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_name_is_not_the_current_folder(format: str) -> None:
    """A variable that is not set would otherwise fill the folder one happens to be in."""
    with pytest.raises(UsageError, match="empty"):
        build(format, cast("Any", ""))


def test_another_format_goes_into_another_folder(tmp_path: Path) -> None:
    checkpoint = finished("ndjson", tmp_path)
    with pytest.raises(StateConflictError, match="it holds ndjson, not csv"):
        run(pull(build("csv", tmp_path), checkpoint))


# --- manifest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_readers_see_whole_parts_and_true_manifests_at_all_times(format: str, tmp_path: Path) -> None:
    """A loader that globs the folder or follows the manifest never sees data that may disappear again."""
    checkpoint = MemoryCheckpoint()
    seen: list[int] = []

    def look(name: str) -> None:
        if (tmp_path / "manifest.json").exists():
            seen.append(check_manifest(tmp_path, format))
            in_checkpoint = json.loads(checkpoint.sink_state or b'{"parts":[]}')["parts"]
            assert seen[-1] <= sum(part["rows"] for part in in_checkpoint)
        if format == "parquet":
            read_rows(tmp_path, format)

    run(pull(build(format, tmp_path, disk=Disk(look)), checkpoint))
    assert seen == sorted(seen)
    assert len(set(seen)) > (3 if format == "parquet" else 1)


def test_the_manifest_of_a_growing_file_is_not_written_with_every_commit(tmp_path: Path) -> None:
    """Commits come twenty times a second. Two more syncs for each would take most of the time."""
    now = 100.0
    disk = FailingDisk()

    async def scenario() -> list[int]:
        rows = []
        checkpoint, sink = MemoryCheckpoint(), build("ndjson", tmp_path, disk=disk, clock=lambda: now)
        await checkpoint.open(PLAN)
        await sink.open(None)
        for wait in (0.0, 0.0, 1.0, 3.9, 0.2, 0.0):
            nonlocal_now(wait)
            await sink.write(page_of(next(PLAN.units()), 0, Raw))
            await commit_together(sink, checkpoint, {})
            rows.append(manifest(tmp_path)["rows"])
        await sink.aclose()
        await checkpoint.aclose()
        return rows

    def nonlocal_now(wait: float) -> None:
        nonlocal now
        now += wait

    assert run(scenario()) == [2, 2, 2, 2, 10, 10]
    assert manifest(tmp_path)["rows"] == 12


def test_a_commit_is_one_sync(tmp_path: Path) -> None:
    """A commit costs one sync of the output and one of the checkpoint. Any more would add up."""

    async def scenario() -> list[str]:
        disk = FailingDisk()
        sink = build("ndjson", tmp_path, disk=disk)
        await sink.open(None)
        await sink.write(page_of(next(PLAN.units()), 0, Raw))
        disk.steps.clear()
        await sink.commit()
        await sink.commit()  # nothing new, so nothing to do
        steps = list(disk.steps)
        await sink.aclose()
        return steps

    assert run(scenario()) == ["write", "fsync"]


def test_a_part_is_synced_before_it_has_its_name(tmp_path: Path) -> None:
    """If the name survived a crash and the data did not, the part would be full of zeros."""

    async def scenario() -> list[str]:
        disk = FailingDisk()
        sink = build("parquet", tmp_path, disk=disk)
        await sink.open(None)
        await sink.write(page_of(next(PLAN.units()), 0, Interaction))
        disk.steps.clear()
        await sink.commit(final=True)
        steps = list(disk.steps)
        await sink.aclose()
        return steps

    steps = run(scenario())
    assert set(steps[:-4]) == {"write"}
    assert steps[-4:] == ["fsync", "rename", "fsync-dir", "fsync-dir"]


# --- taking pages, cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_page_that_was_cancelled_was_not_taken(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pull requests such a page again. If it had been taken anyway, its rows would be doubled."""
    small_flushes(monkeypatch, 1)
    monkeypatch.setattr(parquet_sink, "GROUP_ROWS", 1)
    queued = 1 if format == "parquet" else 3  # full buffers that wait for the disk before ``write`` does
    reached, opened = threading.Event(), threading.Event()
    holding = False

    def hold(name: str) -> None:
        if holding:
            reached.set()
            assert opened.wait(10)

    async def scenario() -> None:
        nonlocal holding
        sink = build(format, tmp_path, disk=Disk(hold))
        unit = next(PLAN.units())
        await sink.open(None)
        await sink.write(page_of(unit, 0, sink.item_type))
        holding = True
        for number in range(1, queued + 1):
            await sink.write(page_of(unit, number, sink.item_type))
        await asyncio.to_thread(reached.wait, 10)
        writing = asyncio.create_task(sink.write(page_of(unit, queued + 1, sink.item_type)))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.sleep(0)
        assert not writing.done()
        opened.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        holding = False
        await sink.write(page_of(unit, queued + 2, sink.item_type))
        await sink.commit(final=True)
        await sink.aclose()

    run(scenario())
    taken = (*range(queued + 1), queued + 2)
    assert [row[2] for row in read_rows(tmp_path, format)] == [
        f"a/0/{page}/{row}" for page in taken for row in (0, 1)
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_after_a_cancelled_commit_the_next_one_says_all_there_is(format: str, tmp_path: Path) -> None:
    """The pages are in the output but nobody was told. A state without them would remove them again."""
    reached, opened = threading.Event(), threading.Event()
    holding = False

    def hold(name: str) -> None:
        if holding:
            reached.set()
            assert opened.wait(10)

    async def scenario() -> None:
        nonlocal holding
        sink = build(format, tmp_path, disk=Disk(hold))
        await sink.open(None)
        await sink.write(page_of(next(PLAN.units()), 0, sink.item_type))
        holding = True
        committing = asyncio.create_task(sink.commit(final=True))
        await asyncio.to_thread(reached.wait, 10)
        committing.cancel()
        await asyncio.sleep(0)
        opened.set()
        with pytest.raises(asyncio.CancelledError):
            await committing
        holding = False
        state = await sink.commit()
        assert state is not None
        assert sum(part["rows"] for part in json.loads(state)["parts"]) == 2
        await sink.open(state)
        await sink.aclose()

    run(scenario())
    assert len(read_rows(tmp_path, format)) == 2


def test_opening_that_is_cancelled_does_not_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example Ctrl-C while gigabytes of committed output are being checked."""
    reads = 0
    reading = threading.Event()

    class Slow(Disk):
        def checksum(self, path: Path, size: int) -> int:
            reading.set()
            return super().checksum(path, size)

    def crc32(data: bytes, crc: int = 0) -> int:
        nonlocal reads
        reads += 1
        return real(data, crc)

    real = zlib.crc32

    async def scenario() -> None:
        sink = build("ndjson", tmp_path, disk=Slow())
        await sink.open(None)
        for number in range(200):
            await sink.write(page_of(next(PLAN.units()), number, sink.item_type))
        state = await sink.commit(final=True)
        await sink.aclose()
        size = (tmp_path / "interactions.ndjson").stat().st_size
        monkeypatch.setattr(_disk, "READ_BYTES", 1)
        monkeypatch.setattr(zlib, "crc32", crc32)
        opening = asyncio.create_task(sink.open(state))
        await asyncio.to_thread(reading.wait, 10)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert reads < size
        monkeypatch.undo()
        await sink.open(state)
        await sink.aclose()

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_a_commit_covers_what_was_taken_when_it_was_called(format: str, tmp_path: Path) -> None:
    """Other accounts continue meanwhile. Their pages and their progress belong to the next checkpoint."""

    async def scenario() -> None:
        sink = build(format, tmp_path)
        unit = next(PLAN.units())
        await sink.open(None)
        await sink.write(page_of(unit, 0, sink.item_type))
        committing = asyncio.create_task(sink.commit(final=True))
        await asyncio.sleep(0)
        await sink.write(page_of(unit, 1, sink.item_type))
        state = await committing
        assert state is not None
        await sink.commit(final=True)
        await sink.open(state)
        await sink.aclose()

    run(scenario())
    assert [row[2] for row in read_rows(tmp_path, format)] == ["a/0/0/0", "a/0/0/1"]


@pytest.mark.parametrize("format", FORMATS)
def test_large_pages_and_many_pages_come_out_whole(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row is lost or torn when pages are encoded in the thread, or written to the file between commits."""
    small_flushes(monkeypatch, 20_000)
    monkeypatch.setattr(parquet_sink, "GROUP_ROWS", 100)
    unit = next(PLAN.units())

    def page(number: int, items: int) -> AccountPage[Any]:
        found: list[Any] = [Interaction(id=f"{number}/{item}") for item in range(items)]
        if format == "ndjson":
            found = [Raw(msgspec.json.encode(item)) for item in found]
        return AccountPage(unit.account, unit.window, Page(found))

    async def scenario() -> None:
        sink = build(format, tmp_path, **({"part_rows": 10_000} if format == "parquet" else {}))
        await sink.open(None)
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(sink.write(page(number, 1 if number % 4 else 400)))
        assert await sink.commit(final=True) is not None
        await sink.aclose()

    run(scenario())
    expected = {f"{number}/{item}" for number in range(40) for item in range(1 if number % 4 else 400)}
    rows = [str(row[2]) for row in read_rows(tmp_path, format)]
    assert len(rows) == len(expected)
    assert set(rows) == expected
    if format == "parquet":
        from pyarrow import parquet

        (path,) = tmp_path.glob("interactions/*.parquet")
        metadata = parquet.ParquetFile(path).metadata
        assert metadata.num_row_groups > 5
        assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= 500


@pytest.mark.parametrize("format", FORMATS)
def test_a_sink_that_is_not_open_says_so(format: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        sink = build(format, tmp_path)
        await sink.aclose()
        for call in (sink.write(page_of(next(PLAN.units()), 0, sink.item_type)), sink.commit()):
            with pytest.raises(UsageError, match="is not open"):
                await call
        await sink.open(None)
        await sink.aclose()
        await sink.aclose()
        with pytest.raises(UsageError, match="is not open"):
            await sink.commit()
        assert names(tmp_path) <= {"manifest.json", f"interactions.{format}"}

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_a_page_that_cannot_be_written_does_no_harm(format: str, tmp_path: Path) -> None:
    """The wrong item type is the caller's mistake. It is reported at once, and other pages are unaffected."""

    async def scenario() -> None:
        sink = build(format, tmp_path)
        unit = next(PLAN.units())
        await sink.open(None)
        await sink.write(page_of(unit, 0, sink.item_type))
        for many in (1, 1000):
            with pytest.raises((UsageError, TypeError)):
                await sink.write(AccountPage(unit.account, unit.window, Page([object()] * many)))
        await sink.write(page_of(unit, 1, sink.item_type))
        await sink.commit(final=True)
        await sink.aclose()

    run(scenario())
    assert len(read_rows(tmp_path, format)) == 4


# --- NDJSON ----------------------------------------------------------------------------------------------------

OURS = {
    "integrated_account_id": "a",
    "tenant_id": None,
    "window_start": "2024-01-01",
    "window_end": None,
    "pulled_at": "2024-02-01T00:00:00Z",
}
HEAD = json.dumps(OURS, separators=(",", ":")).removesuffix("}").encode()


@pytest.mark.parametrize(
    ("item", "rest"),
    [
        (b'{"id":"7","n":1.50}', b',"id":"7","n":1.50}'),
        (b'{"id" : "7" }', b',"id" : "7" }'),
        (b'{"id":\r"7"}', b',"id":"7"}'),
        (b'{ "id":"7"}', b', "id":"7"}'),
        (b'{\r\n  "id": [\n1.50,\n "a\\nb"]}\n', b',"id":[1.50,"a\\nb"]}'),
        (b"{}", b"}"),
        (b"{ \t}", b"}"),
        (b'{"tenant_id":"theirs","id":"7"}', b',"id":"7"}'),
        (b'{"window_start":1}', b"}"),
        (b' {"id":"7"}', b',"id":"7"}'),
        (b'{"tenant\\u005fid":"theirs","id":"7"}', b',"id":"7"}'),
        (b'{"remote_data":{"tenant_id":"theirs"}}', b',"remote_data":{"tenant_id":"theirs"}}'),
        (b'{"remote_data":"\\"tenant_id\\""}', b',"remote_data":"\\"tenant_id\\""}'),
        (b"[1]", b',"item":[1]}'),
        (b"null", b',"item":null}'),
        (b'"{"', b',"item":"{"}'),
    ],
)
def test_items_keep_their_bytes(item: bytes, rest: bytes) -> None:
    """Numbers keep their digits and strings their escapes. Only what would break the line or the row changes."""
    assert json_lines(OURS, [Raw(item)]) == HEAD + rest + b"\n"
    plain = b'{"id":"0"}'
    assert json_lines(OURS, [Raw(plain), Raw(item)]) == HEAD + b',"id":"0"}\n' + HEAD + rest + b"\n"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(PULL_COLUMNS), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(items=st.lists(_json, max_size=4), indent=st.none() | st.integers(0, 2), ascii=st.booleans())
def test_every_line_is_the_item_and_where_it_came_from(
    items: list[Any], indent: int | None, ascii: bool
) -> None:
    """However the service formats its JSON, an item takes one line."""
    texts = [json.dumps(item, indent=indent, ensure_ascii=ascii) for item in items]
    lines = json_lines(OURS, [Raw(text.encode()) for text in texts]).decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(items)
    for line, item in zip(lines, items, strict=True):
        assert "\r" not in line
        pairs = json.loads(line, object_pairs_hook=list) if line.startswith("{") else []
        assert len({name for name, _ in pairs}) == len(pairs)
        assert json.loads(line) == ((item if isinstance(item, dict) else {"item": item}) | OURS)


@given(texts=st.lists(st.text(max_size=8), min_size=1, max_size=6))
@examples(20)
def test_rows_can_be_read_again_where_they_were_written(texts: list[str]) -> None:
    """A window that is restarted asks for them, byte for byte, whether they are in the file yet or not."""
    pages = [[Raw(msgspec.json.encode({"id": "1", "user": text})), Raw(b'{ "id":2.50}')] for text in texts]

    async def scenario() -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            places: list[Place] = []
            state: bytes | None = None
            for _ in range(2):  # the second time they come after those of the first
                async with NdjsonSink(folder) as sink:
                    await sink.open(state)
                    for items in pages:
                        place = await sink.write(AccountPage(PLAN.accounts[2], PLAN.windows[0], Page(items)))
                        assert place is not None
                        places.append(place)
                        for known, expected in zip(places, pages * 2, strict=False):
                            assert await sink.read_again(known) == expected
                    state = await sink.commit()

    run(scenario())


@pytest.mark.parametrize("item", [b'{"id":"7",\n"n":1}', b'{"n":1}', b"[1]", b'{"id":"7","tenant_id":1}'])
def test_rows_that_were_not_written_as_they_came_have_no_place(item: bytes, tmp_path: Path) -> None:
    """What tells them apart is taken of their own bytes, so it is stored."""

    async def scenario() -> None:
        async with NdjsonSink(tmp_path) as sink:
            await sink.open(None)
            page = AccountPage(PLAN.accounts[0], PLAN.windows[0], Page([Raw(item)]))
            assert await sink.write(page) is None
            place = await sink.write(
                AccountPage(PLAN.accounts[0], PLAN.windows[0], Page([Raw(b'{"id":"7"}')]))
            )
            assert place is not None
            assert await sink.read_again(place) == [Raw(b'{"id":"7"}')]
            with pytest.raises(DamagedStateError, match="rows are missing"):
                await sink.read_again(place._replace(offset=place.offset + 1))

    run(scenario())


def test_typed_items_can_be_lines_too() -> None:
    """A pull that decodes its items can write them as well."""
    item = Interaction(id="7", remote_json=Raw(b'{"n": 1.50}'))
    (line,) = json_lines(OURS, [item]).splitlines()
    assert json.loads(line) == OURS | item.to_dict()
    assert b'"remote_data":{"n": 1.50}' in line
    assert json_lines(OURS, [{"id": "7"}]) == HEAD + b',"id":"7"}\n'


# --- CSV -------------------------------------------------------------------------------------------------------

_times = st.datetimes(
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=11, minutes=30))]
    )
)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_number = st.none() | st.integers(-(10**25), 10**25) | st.floats(allow_nan=False, allow_infinity=False)
_interactions = st.builds(
    Interaction,
    id=st.none() | _text,
    user=st.none()
    | st.builds(Person, id=_text, name=_text, emails=st.just((Email(email="a@b", is_primary=True),))),
    start_time=st.none() | _times,
    end_time=st.none() | _times,
    created_at=st.none() | _times,
    metrics=st.none() | st.builds(Metrics, patience=_number, question_rate=_number),
    additional_metrics=st.none() | st.just((AdditionalMetric(name="x", value=1),)),
    remote_json=_json.map(lambda value: Raw(json.dumps(value).encode())),
)


PULLED_AT = datetime(2024, 2, 1, 12, 30, 0, 500, tzinfo=UTC)


def written(
    format: str, items: list[Any], folder: Path, account: PlannedAccount = PlannedAccount("a", "t,1")
) -> Path:
    async def scenario() -> None:
        async with build(format, folder, fresh=True) as sink:
            await sink.open(None)
            await sink.write(AccountPage(account, Window("2024-01-01", None), Page(items), PULLED_AT))
            await sink.commit(final=True)
            await sink.committed()

    run(scenario())
    return committed(folder)


@examples(50)
@given(items=st.lists(_interactions, min_size=1, max_size=3))
def test_csv_is_read_back_as_it_was(items: list[Interaction]) -> None:
    """Quotes, commas and line breaks may be part of a name, and must not end a cell."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        data = written("csv", items, Path(name)).read_bytes()
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    assert tuple(header) == PULL_COLUMNS + ROW_COLUMNS
    assert len(rows) == len(items)
    for row, item in zip(rows, items, strict=True):
        assert row[:5] == ["a", "t,1", "2024-01-01", "", PULLED_AT.isoformat()]
        for text, value in zip(row[5:], item.row().values(), strict=True):
            if isinstance(value, datetime):
                assert datetime.fromisoformat(text) == value
            elif isinstance(value, (int, float)):
                assert float(text) == float(value)
            else:
                assert text == (value or "")


@pytest.mark.parametrize(
    "text", ["a,b", 'say "x"', "one\rtwo", "one\ntwo", "one\r\ntwo", "\r", '"', " a ", "☃\u2028"]
)
def test_csv_quotes_what_would_end_a_cell(text: str, tmp_path: Path) -> None:
    """The csv module of older Pythons does not quote a lone carriage return."""
    data = written("csv", [Interaction(user=Person(name=text), id="7")], tmp_path).read_bytes().decode()
    (row,) = csv.DictReader(io.StringIO(data, newline=""))
    assert (row["user_name"], row["id"]) == (text, "7")


def test_csv_has_one_header_also_when_rows_come_later(tmp_path: Path) -> None:
    """A run over empty accounts writes the header. The next run, with more accounts, continues after it."""

    async def scenario() -> None:
        sink = build("csv", tmp_path)
        await sink.open(None)
        state = await sink.commit(final=True)
        await sink.open(state)
        await sink.write(page_of(next(PLAN.units()), 0, Interaction))
        await sink.commit(final=True)
        await sink.aclose()

    run(scenario())
    assert len(read_rows(tmp_path, "csv")) == 2
    assert (tmp_path / "interactions.csv").read_text().count("integrated_account_id") == 1


def test_csv_has_its_header_once_and_also_without_rows(tmp_path: Path) -> None:
    finished("csv", tmp_path / "full")
    lines = (tmp_path / "full" / "interactions.csv").read_text().split("\n")
    assert [line for line in lines if line.startswith("integrated_account_id")] == [lines[0]]

    none = Plan(accounts=(PlannedAccount("empty"),), windows=(Window(),))
    checkpoint = MemoryCheckpoint()
    for _ in range(2):
        run(pull(build("csv", tmp_path / "none"), checkpoint, none))
        assert (tmp_path / "none" / "interactions.csv").read_text() == lines[0] + "\n"
        assert check_manifest(tmp_path / "none", "csv") == 0


# --- Parquet ---------------------------------------------------------------------------------------------------


@examples(30)
@given(items=st.lists(_interactions, min_size=1, max_size=5))
def test_parquet_is_typed(items: list[Interaction]) -> None:
    """Times are timestamps and numbers are floats, however JSON wrote them. No type is guessed from the rows."""
    from pyarrow import parquet

    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        table = parquet.ParquetFile(written("parquet", items, Path(name))).read()
    assert table.schema.names == [*PULL_COLUMNS, *ROW_COLUMNS]
    types = {field.name: str(field.type) for field in table.schema}
    assert Counter(types.values()) == {"string": 11, "timestamp[us, tz=UTC]": 7, "double": 5}
    times = ("window_start", "window_end", "pulled_at", "start_time", "end_time", "created_at", "updated_at")
    assert {types[name] for name in times} == {"timestamp[us, tz=UTC]"}
    assert not table.schema.field("integrated_account_id").nullable
    for column in ("start_time", "end_time", "created_at"):
        got = table.column(column).cast("int64").to_pylist()
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        want = [
            None if (value := getattr(item, column)) is None else (value - epoch) // timedelta(microseconds=1)
            for item in items
        ]
        assert got == want
    for column in (*PULL_COLUMNS, "id", "user_id", "user_name", "remote_data", "additional_metrics"):
        rows = [
            {
                "integrated_account_id": "a",
                "tenant_id": "t,1",
                "window_start": datetime(2024, 1, 1, tzinfo=UTC),
                "pulled_at": PULLED_AT,
            }
            | i.row()
            for i in items
        ]
        assert table.column(column).to_pylist() == [row.get(column) for row in rows]
    patience = [item.row()["patience"] for item in items]
    assert table.column("patience").to_pylist() == [
        None if value is None else float(value) for value in patience
    ]


def test_numbers_beyond_any_float_do_not_stop_a_pull(tmp_path: Path) -> None:
    """JSON integers can be larger than any float. One odd record must not end a pull."""
    from pyarrow import parquet

    items = [Interaction(metrics=Metrics(patience=number)) for number in (10**400, -(10**400), 2**63 + 1)]
    table = parquet.read_table(written("parquet", items, tmp_path))
    assert table.column("patience").to_pylist() == [float("inf"), float("-inf"), float(2**63)]


def test_a_part_closes_at_its_rows_or_its_age(tmp_path: Path) -> None:
    """Many small parts are slow to read, and the rows of an open part are requested again after a crash."""
    now = 50.0

    async def scenario() -> None:
        nonlocal now
        sink = ParquetSink(tmp_path, part_rows=5, part_seconds=10, clock=lambda: now)
        unit = next(PLAN.units())
        await sink.open(None)
        before = await sink.commit()  # nothing was written, so all of it is durable
        assert before is not None
        await sink.write(page_of(unit, 0, Interaction))
        assert await sink.commit() is None
        now += 9.9
        await sink.write(page_of(unit, 1, Interaction))
        assert await sink.commit() is None
        now += 0.1
        by_age = await sink.commit()
        assert by_age is not None
        assert await sink.commit() == by_age
        for number in range(3):
            assert number == 0 or await sink.commit() is None
            await sink.write(page_of(unit, number, Interaction))
        by_rows = await sink.commit()
        assert by_rows is not None
        await sink.write(page_of(unit, 0, Interaction))
        assert await sink.commit() is None
        final = await sink.commit(final=True)
        assert final is not None
        assert [part["rows"] for part in json.loads(final)["parts"]] == [4, 6, 2]
        await sink.aclose()

    run(scenario())


def test_pages_of_many_accounts_share_a_part(tmp_path: Path) -> None:
    """Thousands of accounts with a few rows each must not become thousands of files."""
    checkpoint = MemoryCheckpoint()
    run(pull(ParquetSink(tmp_path), checkpoint))
    (part,) = manifest(tmp_path)["parts"]
    assert part["rows"] == len(expected_rows())


def test_an_open_part_goes_when_a_sink_is_closed(tmp_path: Path) -> None:
    """No checkpoint will ever name such a part."""

    async def scenario() -> None:
        sink = ParquetSink(tmp_path)
        await sink.open(None)
        await sink.write(page_of(next(PLAN.units()), 0, Interaction))
        await sink._run(sink._append, *sink._take())
        assert names(tmp_path) == {
            "manifest.json",
            ".interactions.part-000001.parquet.tmp",
            ".truto-pull.lock",
        }
        part = sink._file
        assert part is not None
        await sink.aclose()
        # By the time pyarrow writes its footer, the file descriptor may belong to another file.
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        os.dup2(other, part.file)
        part.write(bytes(2 * files.FLUSH_BYTES))
        part.flush()
        assert os.fstat(other).st_size == 0
        for file in {other, part.file}:
            os.close(file)
        (tmp_path / "other").unlink()

    run(scenario())
    assert names(tmp_path) == {"manifest.json"}


def test_a_part_that_breaks_off_is_given_up_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow writes a footer whenever it closes a file, even in its destructor, where errors are only printed."""
    small_flushes(monkeypatch, 1)

    async def scenario() -> None:
        for at in range(1, 8):
            disk = FailingDisk()
            sink = build("parquet", tmp_path, disk=disk, fresh=True)
            await sink.open(None)
            await sink.write(page_of(next(PLAN.units()), 0, Interaction))
            disk.at = len(disk.steps) + at
            with pytest.raises(StorageError):
                await sink.commit(final=True)
            await sink.aclose()
            del sink
            gc.collect()

    run(scenario())


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'truto-ci-async[parquet]'")):
        make_sink("parquet", tmp_path)
    run(pull(make_sink("ndjson", tmp_path), MemoryCheckpoint()))  # the other formats do not need it


# --- custom sinks ----------------------------------------------------------------------------------------------


class RowCounter:
    """The example from the documentation: a sink has three methods."""

    opened_with: ClassVar[list[bytes | None]] = []

    async def open(self, state: bytes | None) -> None:
        self.opened_with.append(state)
        self.rows: Counter[str] = Counter(json.loads(state or b"{}"))

    async def write(self, page: AccountPage[Any]) -> None:
        self.rows[page.account.id] += len(page)

    async def commit(self, *, final: bool = False) -> bytes | None:
        return json.dumps(self.rows).encode() if final or self.rows.total() >= 4 else None


def test_three_methods_are_a_sink() -> None:
    async def scenario() -> None:
        sink, checkpoint = RowCounter(), MemoryCheckpoint()
        unit = next(PLAN.units())
        await checkpoint.open(PLAN)
        await sink.open(checkpoint.sink_state)
        changes = {unit.key: Progress(rows=2, pages=1)}
        await sink.write(page_of(unit, 0, Interaction))
        assert not await commit_together(sink, checkpoint, changes)
        assert await checkpoint.load() == {}  # not durable yet, so not done yet
        await sink.write(page_of(unit, 1, Interaction))
        assert await commit_together(sink, checkpoint, changes)
        assert await checkpoint.load() == changes
        await sink.open(checkpoint.sink_state)
        assert sink.rows == {"a": 4}
        await checkpoint.aclose()

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_a_sink_is_made_by_its_format(format: Any, tmp_path: Path) -> None:
    steps: list[str] = []
    sink = make_sink(format, tmp_path, step=steps.append)
    assert sink.format == format
    run(pull(sink, MemoryCheckpoint()))
    assert sink.rows == len(expected_rows())
    assert repr(sink) == f"{type(sink).__name__}({str(tmp_path)!r}, 24 rows committed)"
    assert {"write", "fsync", "manifest"} <= set(steps)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    options: list[Any] = [
        lambda: make_sink("xml", tmp_path),  # type: ignore[arg-type]
        lambda: NdjsonSink(tmp_path, verify="never"),  # type: ignore[arg-type]
        lambda: ParquetSink(tmp_path, part_rows=0),
        lambda: ParquetSink(tmp_path, part_seconds=0),
        lambda: make_sink("csv", tmp_path, resource="../x"),
        lambda: make_sink("ndjson", tmp_path, csv_formulas="escape"),
        lambda: make_sink("csv", tmp_path, csv_formulas="drop"),  # type: ignore[arg-type]
    ]
    for make in options:
        with pytest.raises(UsageError), suppress(StopIteration):
            make()


def small_flushes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for module in (files, parquet_sink):
        monkeypatch.setattr(module, "FLUSH_BYTES", size)


# --- who may write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_belongs_to_one_sink_at_a_time(format: str, tmp_path: Path) -> None:
    """Of any format, and before it has written anything. A refused one leaves the other alone."""

    async def scenario() -> None:
        first, second = build(format, tmp_path), NdjsonSink(tmp_path)
        await first.hold()
        for _ in range(2):
            with pytest.raises(
                StateConflictError, match=re.escape(f"{tmp_path} is in use by another pull of")
            ):
                await second.open(None)
            with pytest.raises(
                StateConflictError, match="another pull of this process uses the sink"
            ) as caught:
                await first.hold()
            assert (caught.value.pid, caught.value.path) == (os.getpid(), str(tmp_path))
            assert names(tmp_path) <= {".truto-pull.lock", "manifest.json", f"interactions.{format}"}
            await first.open(None)
            await first.open(None)  # opens it anew
        await first.aclose()
        await first.aclose()
        await second.open(None)
        await second.aclose()
        assert ".truto-pull.lock" not in names(tmp_path)

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_was_only_held_is_as_it_was(format: str, tmp_path: Path) -> None:
    """A run may end before it starts: no account is found, or its plan is refused."""

    finished(format, tmp_path / "out")
    before = contents(tmp_path / "out")

    async def scenario() -> None:
        sink = build(format, tmp_path / "new" / "out")
        await sink.hold(anew=True)
        await sink.aclose()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        for fresh in (True, False):
            sink = build(format, tmp_path / "out", fresh=fresh)
            if fresh:
                await sink.hold(anew=True)
            else:
                with pytest.raises(StateConflictError, match="rows of an earlier pull"):
                    await sink.hold(anew=True)
                await sink.hold()
            await sink.aclose()
            assert contents(tmp_path / "out") == before

    run(scenario())


@posix
@pytest.mark.parametrize("format", ["ndjson", "csv"])
def test_a_file_that_grows_has_one_name(format: str, tmp_path: Path) -> None:
    """Of a folder that was copied by links, both would be written to by a run on either."""
    checkpoint = finished(format, tmp_path / "out")
    file = committed(tmp_path / "out")
    (tmp_path / "copy").hardlink_to(file)
    before = file.read_bytes()

    async def scenario() -> None:
        with pytest.raises(StateConflictError, match=rf"{file.name} has another name as well, a hard link"):
            await build(format, tmp_path / "out").open(checkpoint._sink_state)
        assert file.read_bytes() == before
        (tmp_path / "copy").unlink()
        async with build(format, tmp_path / "out") as sink:
            await sink.open(checkpoint._sink_state)

    run(scenario())


class BusyDisk(Disk):
    """Windows, with a reader of the manifest."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = False

    def rename(self, source: Path, target: Path) -> None:
        if self.is_read and target.name == "manifest.json":
            error = PermissionError(errno.EACCES, "Access is denied", str(source))
            error.winerror = 5  # type: ignore[attr-defined]
            raise error
        super().rename(source, target)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stays", [False, True])
def test_a_reader_of_the_manifest_does_not_end_a_pull(format: str, stays: bool, tmp_path: Path) -> None:
    """On Windows it cannot be replaced then. It follows later, with the rows of all commits since."""

    async def scenario() -> None:
        disk = BusyDisk()
        sink = build(format, tmp_path, disk=disk, clock=lambda: 0.0)
        checkpoint = MemoryCheckpoint()
        async with checkpoint:
            await checkpoint.open(PLAN)
            await sink.open(None)
            for number, unit in enumerate(PLAN.units()):
                disk.is_read = number < 2 or stays
                await sink.write(page_of(unit, 0, sink.item_type))
                assert await commit_together(sink, checkpoint, {}, final=True)
                if number < 2 or stays:
                    assert check_manifest(tmp_path, format) == 0
            if stays:
                with pytest.raises(StorageError, match="another program has it open") as caught:
                    await sink.aclose()
                assert caught.value.path == str(tmp_path / "manifest.json")
                disk.is_read = False
                await sink.open(checkpoint.sink_state)
            await sink.aclose()
            assert check_manifest(tmp_path, format) == sink.rows > 0
            assert names(tmp_path).isdisjoint({".truto-pull.lock", ".manifest.json.tmp"})

    run(scenario())


async def pull_as_pulls_do(sink: FileSink, checkpoint: Checkpoint) -> None:
    """Pull what is not done yet, a window at a time, through what a ``Pull`` keeps its rows and progress in."""
    store = adapters.as_store(checkpoint, sink)
    try:
        await store.hold(fresh=False)
        await store.open(PLAN, grow=False, fresh=False)
        done, changes = await checkpoint.load(), dict[tuple[str, int], Progress]()
        units = [unit for unit in PLAN.units() if unit.key not in done]
        for unit in units:
            pages = [page_of(unit, number, sink.item_type) for number in range(PAGES)]
            for page in pages:
                await store.write(page)
            changes[unit.key] = Progress(rows=sum(map(len, pages)), pages=PAGES, outcome="done")
            if await store.commit(changes, row_fingerprints={}, final=unit is units[-1]):
                changes.clear()
                await store.committed()
    finally:
        await store.aclose()


class StoppingCheckpoint(MemoryCheckpoint):
    """Fails just after some commit is durable, as when the process is killed there."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    async def commit(self, *args: Any, **options: Any) -> None:
        await super().commit(*args, **options)
        self.left -= 1
        if not self.left:
            raise StorageError("killed")


async def rows_known_to(checkpoint: MemoryCheckpoint) -> int:
    async with checkpoint:
        await checkpoint.open(PLAN)
        return sum(progress.rows for progress in (await checkpoint.load()).values())


@pytest.mark.parametrize("format", FORMATS)
def test_rows_that_no_manifest_lists_yet_are_not_taken_by_another_state(format: str, tmp_path: Path) -> None:
    """A run may end anywhere: what its state has by then is refused to others, and found by itself."""

    def make(folder: Path, **options: Any) -> FileSink:
        return build(format, folder, **({"part_rows": 12} if format == "parquet" else {}), **options)

    async def end_anywhere(at: int, *, at_commit: bool) -> tuple[bool, bool]:
        """Return whether the first run was ended, and whether the second one was refused."""
        folder = tmp_path / f"{format}-{at}-{at_commit}"
        first = StoppingCheckpoint(at if at_commit else 0)
        disk = FailingDisk(0 if at_commit else at)
        with suppress(StorageError):
            await pull_as_pulls_do(make(folder, disk=disk), first)
            return False, False
        rows, before = await rows_known_to(first), contents(folder)
        try:
            await pull_as_pulls_do(make(folder), MemoryCheckpoint())
        except StateConflictError:
            assert contents(folder) == before
            await pull_as_pulls_do(make(folder), first)
            assert read_rows(folder, format) == expected_rows()
            return True, True
        assert not rows, "a second state has replaced what the first one had committed"
        before = contents(folder)
        with pytest.raises(StateConflictError, match="holds 24 rows of an earlier pull"):
            await pull_as_pulls_do(make(folder), first)
        assert contents(folder) == before
        await pull_as_pulls_do(make(folder, fresh=True), MemoryCheckpoint())
        assert read_rows(folder, format) == expected_rows()
        return True, False

    async def scenario() -> None:
        for at_commit in (False, True):
            found = list[bool]()
            while sum(found) < 12:
                is_ended, is_refused = await end_anywhere(len(found) + 1, at_commit=at_commit)
                if not is_ended:
                    break
                found.append(is_refused)
            assert found == sorted(found)  # once it is refused, it stays so
            assert {*found} == {False, True}

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_a_state_without_rows_does_not_remove_those_of_another(format: str, tmp_path: Path) -> None:
    """The first pages may be empty, and their state goes on later, in a folder where another has pulled since."""
    first = MemoryCheckpoint()

    async def scenario() -> None:
        sink = build(format, tmp_path)
        async with first:
            await first.open(PLAN)
            async with sink:
                await sink.open(None)
                assert await commit_together(sink, first, {})
        await pull(build(format, tmp_path), MemoryCheckpoint())
        before = contents(tmp_path)
        with pytest.raises(StateConflictError, match="holds 24 rows of an earlier pull"):
            await pull(build(format, tmp_path), first)
        assert contents(tmp_path) == before

    run(scenario())


def test_a_state_of_no_rows_may_go_on_in_another_format(tmp_path: Path) -> None:
    """A first run may end before its first row, and the next one ask for something else."""

    async def scenario() -> None:
        checkpoint = StoppingCheckpoint(1)
        with pytest.raises(StorageError):
            await pull_as_pulls_do(build("ndjson", tmp_path), checkpoint)
        await pull_as_pulls_do(build("csv", tmp_path), checkpoint)
        assert read_rows(tmp_path, "csv") == expected_rows()

    run(scenario())


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_of_an_earlier_version_is_claimed_when_it_goes_on(format: str, tmp_path: Path) -> None:
    """Those have no id, neither in the state nor in the manifest."""
    checkpoint = finished(format, tmp_path)
    for text in (checkpoint._sink_state, (tmp_path / "manifest.json").read_bytes()):
        assert b'"id"' in (text or b"")
    state = json.loads(checkpoint._sink_state or b"")
    content = json.loads((tmp_path / "manifest.json").read_bytes())
    del state["id"], content["resources"]["interactions"]["id"]
    checkpoint._sink_state = json.dumps(state).encode()
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    run(pull_as_pulls_do(build(format, tmp_path), checkpoint))
    assert manifest(tmp_path)["id"] == json.loads(checkpoint._sink_state or b"")["id"]
    assert read_rows(tmp_path, format) == expected_rows()


def test_a_folder_is_claimed_before_its_first_row_also_on_windows(tmp_path: Path) -> None:
    """A reader of the manifest may delay a list of rows, but not the id."""
    disk = BusyDisk()

    class ReadCheckpoint(MemoryCheckpoint):
        async def commit(self, *args: Any, **options: Any) -> None:
            await super().commit(*args, **options)
            disk.is_read = not await self.load()

    async def scenario() -> None:
        checkpoint = ReadCheckpoint()
        with pytest.raises(StorageError, match="Access is denied"):
            await pull_as_pulls_do(build("ndjson", tmp_path, disk=disk), checkpoint)
        assert manifest(tmp_path).get("id") is None
        disk.is_read = False
        await pull_as_pulls_do(build("ndjson", tmp_path, disk=disk), checkpoint)
        assert manifest(tmp_path)["rows"] == len(expected_rows())

    run(scenario())

"""What outlives a run: a checkpoint and a sink in memory, and files. A kill copies all of it."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from truto_ci_async._files import Disk, Worker
from truto_ci_async.errors import StateConflictError
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.pull.checkpoint.base import Checkpoint, Key, Progress, plan_in_force
from truto_ci_async.pull.plan.plan import Plan

#: The numbers of the rows of each account and window, as they are in the output.
Output = dict[Key, list[int]]
Pause = Callable[[], Awaitable[None]]


class SinkFailed(Exception):
    """What a sink of somebody else's raises."""


def number_of(row: bytes) -> int:
    """Return the number that tells a row from all others."""
    value = json.loads(row)
    if isinstance(value, dict):
        value = value.get("item", value)
    return value["n"] if isinstance(value, dict) else value[0]


@dataclass
class Durable:
    """State and output in memory."""

    plan: Plan | None = None
    progress: dict[Key, Progress] = field(default_factory=dict[Key, Progress])
    row_keys: dict[Key, list[bytes]] = field(default_factory=dict[Key, list[bytes]])
    sink_state: bytes | None = None
    rows: list[tuple[Key, int]] = field(default_factory=list[tuple[Key, int]])
    epoch: int = 0  # of the last run that opened a store of rows and progress

    def copy(self) -> Durable:
        other = copy.copy(self)
        other.progress = dict(self.progress)
        other.row_keys = {key: list(keys) for key, keys in self.row_keys.items()}
        other.rows = list(self.rows)
        return other

    def change(self, changes: Mapping[Key, Progress], row_keys: Mapping[Key, bytes]) -> None:
        self.progress.update(changes)
        for key, keys in row_keys.items():
            self.row_keys.setdefault(key, []).append(keys)
        for key, progress in changes.items():
            if progress.is_over:
                self.row_keys.pop(key, None)

    def output(self) -> Output:
        found = defaultdict[Key, list[int]](list)
        for key, row in self.rows[: int(self.sink_state or b"0")]:
            found[key].append(row)
        return found


class SimCheckpoint(Checkpoint):
    """Keeps progress in a ``Durable``; ``step`` is called just before a commit takes place, and may raise."""

    def __init__(self, durable: Durable, *, pause: Pause, step: Callable[[str], None]) -> None:
        super().__init__()
        self._durable = durable
        self._pause = pause
        self._step = step

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        await self._pause()
        return self._durable.plan

    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        await self._pause()
        self._plan = self._durable.plan = plan_in_force(self._durable.plan, plan, grow=grow, path="memory")
        self._sink_state = self._durable.sink_state
        return self._plan

    async def load(self) -> dict[Key, Progress]:
        await self._pause()
        return dict(self._durable.progress)

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        sink_state: bytes | None = None,
        *,
        row_keys: Mapping[Key, bytes] | None = None,
    ) -> None:
        changes, added = dict(changes), dict(row_keys or {})
        await self._pause()
        self._step("checkpoint")
        durable = self._durable
        durable.change(changes, added)
        if sink_state is not None:
            durable.sink_state = self._sink_state = sink_state
        self._step("committed")
        await self._pause()

    async def row_keys(self, key: Key) -> bytes:
        await self._pause()
        return b"".join(self._durable.row_keys.get(key, ()))

    async def aclose(self) -> None:
        await self._pause()


class SimSink:
    """Somebody else's sink, over a ``Durable``. It may ask to postpone commits, and to fail in ``fails``."""

    item_type = msgspec.Raw

    def __init__(
        self,
        durable: Durable,
        *,
        key_of: Callable[[AccountPage[Any]], Key],
        pause: Pause,
        draw: Callable[[str], bool],
    ) -> None:
        self._durable = durable
        self._key_of = key_of
        self._pause = pause
        self._draw = draw
        self._is_busy = False

    async def open(self, state: bytes | None) -> None:
        await self._pause()
        del self._durable.rows[int(state or b"0") :]

    async def write(self, page: AccountPage[Any]) -> None:
        await self._alone()
        if self._draw("sink fails"):
            raise SinkFailed("write")
        key, before = self._key_of(page), len(self._durable.rows)
        self._durable.rows += [(key, number_of(bytes(row))) for row in page.page]
        try:
            await self._pause()
        except BaseException:  # it raises only if it has taken nothing, as the protocol asks
            del self._durable.rows[before:]
            raise

    async def commit(self, *, final: bool = False) -> bytes | None:
        await self._alone()
        if self._draw("sink fails"):
            raise SinkFailed("commit")
        if not final and self._draw("sink postpones"):
            return None
        return str(len(self._durable.rows)).encode()

    async def _alone(self) -> None:
        assert not self._is_busy, "the sink was called while it was at work"
        self._is_busy = True
        try:
            await self._pause()
        finally:
            self._is_busy = False


class SimStore:
    """Somebody else's store: its rows and progress, a ``Durable``, change in one transaction, fenced by an epoch."""

    item_type = msgspec.Raw

    def __init__(
        self,
        durable: Durable,
        *,
        key_of: Callable[[AccountPage[Any]], Key],
        pause: Pause,
        draw: Callable[[str], bool],
        step: Callable[[str], None],
        full_rows: int,
    ) -> None:
        self._durable = durable
        self._key_of = key_of
        self._pause = pause
        self._draw = draw
        self._step = step
        self._full_rows = full_rows
        self._epoch = 0
        self._written: list[tuple[Key, int]] = []
        self._working = set[str]()

    @property
    def is_full(self) -> bool:
        return len(self._written) >= self._full_rows

    async def open(self, plan: Plan, *, grow: bool = False, fresh: bool = False) -> Plan:
        assert not fresh
        await self._pause()
        durable = self._durable
        durable.epoch = self._epoch = durable.epoch + 1
        durable.plan = plan_in_force(durable.plan, plan, grow=grow, path="memory")
        return durable.plan

    async def load(self) -> Mapping[Key, Progress]:
        await self._pause()
        return dict(self._durable.progress)

    async def write(self, page: AccountPage[Any]) -> None:
        async with self._alone("write"):
            await self._pause()
            if self._draw("sink fails"):
                raise SinkFailed("write")
            key = self._key_of(page)
            self._written += [(key, number_of(bytes(row))) for row in page.page]

    async def commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> bool:
        async with self._alone("write"):  # a plain store is asked one thing at a time
            return await self._commit(list(self._written), dict(changes), dict(row_fingerprints), final=final)

    async def _commit(
        self,
        taken: list[tuple[Key, int]],
        changes: dict[Key, Progress],
        row_fingerprints: dict[Key, bytes],
        *,
        final: bool,
    ) -> bool:
        async with self._alone("commit"):
            await self._pause()
            if not (final or self.is_full) and self._draw("sink postpones"):
                return False
            self._step("checkpoint")
            durable = self._durable
            if durable.epoch != self._epoch:
                raise StateConflictError("a later run has begun", path="memory")
            durable.rows += taken
            durable.change(changes, row_fingerprints)
            durable.sink_state = str(len(durable.rows)).encode()
            del self._written[: len(taken)]
            self._step("committed")
            await self._pause()
            return True

    async def row_fingerprints(self, key: Key) -> bytes:
        async with self._alone("write"):
            await self._pause()
            return b"".join(self._durable.row_keys.get(key, ()))

    async def aclose(self) -> None:
        await self._pause()

    @asynccontextmanager
    async def _alone(self, what: str) -> AsyncIterator[None]:
        assert what not in self._working, "the store was called while it was at work"
        self._working.add(what)
        try:
            yield
        finally:
            self._working.discard(what)


class OverlappingStore(SimStore):
    """Takes pages for the next commit while one is under way."""

    def begin_commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> Awaitable[bool]:
        return self._commit(list(self._written), dict(changes), dict(row_fingerprints), final=final)


class SimWorker(Worker):
    """The thread of a disk, without a thread: runs one job after the other, at moments that are drawn."""

    delay: Callable[[], float]

    def __init__(self, name: str) -> None:
        self._jobs: asyncio.Queue[tuple[asyncio.Future[Any], Callable[[], Any]]] = asyncio.Queue()
        self._free_at = 0.0

    def start(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[Any] = loop.create_future()
        begun.add_done_callback(lambda done: done.cancelled() or done.exception())

        def work() -> None:
            try:
                result = job(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                if not begun.cancelled():
                    begun.set_exception(error)
            else:
                if not begun.cancelled():
                    begun.set_result(result)

        self._free_at = max(self._free_at, loop.time()) + self.delay() + 1e-6
        loop.call_at(self._free_at, work)
        return begun

    def close(self) -> None:
        pass


@dataclass
class Platter:
    """What of a folder outlives a loss of power, apart from SQLite's own files. Names are those of files in it."""

    synced: dict[str, int] = field(default_factory=dict[str, int])  # bytes
    new_names: list[str] = field(default_factory=list[str])  # not in the folder for certain
    renamed: list[tuple[str, str, bytes | None]] = field(default_factory=list[tuple[str, str, bytes | None]])

    def copy(self) -> Platter:
        return Platter(dict(self.synced), list(self.new_names), list(self.renamed))

    def lose_power(self, folder: Path, random: Random) -> None:
        """Lose what was not synced, as much of it as is drawn."""
        for source, target, old in self.renamed[random.randint(0, len(self.renamed)) :][::-1]:
            (folder / target).replace(folder / source)
            self.synced[source] = self.synced.get(target, 0)
            if old is not None:
                (folder / target).write_bytes(old)
                self.synced[target] = len(old)
        for name in self.new_names:
            if random.random() < 0.5:
                (folder / name).unlink(missing_ok=True)
        for name, size in self.synced.items():
            path = folder / name
            if not path.exists() or (written := path.stat().st_size) <= size:
                continue
            left = random.randint(size, written)
            with path.open("r+b") as file:
                file.truncate(left)
                if random.random() < 0.5:  # space was allocated, and nothing written into it
                    file.truncate(size)
                    file.truncate(left)
        self.synced = {
            path.name: path.stat().st_size for path in folder.iterdir() if path.name in self.synced
        }
        self.new_names, self.renamed = [], []


class SimDisk(Disk):
    """Real files, without waiting for the disk; ``platter`` knows what of them is synced."""

    def __init__(self, step: Callable[[str], None], platter: Platter) -> None:
        super().__init__(step)
        self.platter = platter
        self._names: dict[int, str] = {}

    def open(self, path: Path) -> int:
        is_new = not path.exists()
        return self._opened(super().open(path), path, is_new)

    def create(self, path: Path, mode: int = 0o666) -> int:
        return self._opened(super().create(path, mode), path, True)

    def _opened(self, file: int, path: Path, is_new: bool) -> int:
        self._names[file] = path.name
        if is_new:
            self.platter.synced[path.name] = 0
            self.platter.new_names.append(path.name)
        return file

    def fsync(self, file: int) -> None:
        self.step("fsync")
        self.platter.synced[self._names[file]] = os.fstat(file).st_size

    def cut(self, file: int, size: int) -> None:
        super().cut(file, size)
        name = self._names[file]
        self.platter.synced[name] = min(self.platter.synced.get(name, size), size)

    def rename(self, source: Path, target: Path) -> None:
        old = target.read_bytes() if target.exists() else None
        super().rename(source, target)
        platter = self.platter
        platter.renamed.append((source.name, target.name, old))
        platter.synced[target.name] = platter.synced.pop(source.name, 0)
        platter.new_names = [name for name in platter.new_names if name != source.name]

    def fsync_dir(self, path: Path) -> None:
        self.step("fsync-dir")
        self.platter.new_names, self.platter.renamed = [], []


def read_folder(folder: Path, key_of: Callable[[str, str | None], Key]) -> tuple[dict[Key, Progress], Output]:
    """Read state and output of a folder as far as they are committed, without the code under test."""
    output = defaultdict[Key, list[int]](list)
    state = folder / "state.sqlite3"
    if not state.exists():
        return {}, output
    database = sqlite3.connect(state)
    try:
        rows = database.execute('SELECT account, "window", "rows", outcome FROM progress').fetchall()
        sink = database.execute("SELECT value FROM meta WHERE name = 'sink'").fetchone()
    except sqlite3.OperationalError:  # killed before there were tables
        rows, sink = [], None
    finally:
        database.close()
    progress = {
        (account, window): Progress(rows=count, outcome=outcome) for account, window, count, outcome in rows
    }
    if sink is not None and (parts := json.loads(sink[0])["parts"]):
        committed = (folder / "interactions.ndjson").read_bytes()[: parts[0]["bytes"]]
        for line in committed.splitlines():
            row = json.loads(line)
            output[key_of(row["integrated_account_id"], row["window_start"])].append(number_of(line))
    return progress, output


def copy_folder(source: Path, target: Path) -> Path:
    """Copy a folder as a kill would leave it: locks do not outlive a process."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    return target

"""Syncs of a table, night after night, with whatever a seed has in store; between nights, rows come, change and go.

What has to hold, at every commit:

- a window that was read to its end has exactly the rows that the service has of it;
- no other row of the table changes;
- pages of a window that is still open are out of sight;
- what is marked as complete was read to its end.

And once a night is done: every window that is over has been read, those within the look-back this night.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.test_checkpoint import make_plan
from truto_ci_async._files import Step
from truto_ci_async.errors import StateConflictError
from truto_ci_async.pull.checkpoint.base import Checkpoint, Key, Progress
from truto_ci_async.pull.engine import Pull
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.report import Budget
from truto_ci_async.pull.stores.base import ReadWindow, SyncChanges, TransactionalStore
from truto_ci_async.pull.sync.options import SyncOptions, sync_options
from truto_ci_async.pull.sync.plan import read_mark

from .service import WindowKey, make_row
from .stores import Durable, SimStore, SinkFailed, number_of
from .world import LAST_RUNS, MAX_OUTAGE, Options, World, Wrong

FIRST_NIGHT = datetime(2024, 3, 8, 3, tzinfo=UTC)
HISTORY_DAYS, LOOKBACK_DAYS = 3, 1


@dataclass
class Table(Durable):
    """The rows of each window that was read, pages of open ones, and the marks of the accounts."""

    table: dict[WindowKey, list[int]] = field(default_factory=dict[WindowKey, list[int]])
    staged: dict[Key, list[int]] = field(default_factory=dict[Key, list[int]])
    marks: dict[str, str] = field(default_factory=dict[str, str])

    def copy(self) -> Table:
        other = copy.copy(self)
        other.table = {key: list(rows) for key, rows in self.table.items()}
        other.staged = {key: list(rows) for key, rows in self.staged.items()}
        other.marks = dict(self.marks)
        return other


@dataclass
class Taken:
    key: Key
    is_first: bool
    rows: list[int]


class SimSyncStore(SimStore):
    """A store that can be synced, over a ``Table``."""

    def __init__(self, durable: Table, *, world: SyncWorld, step: Step) -> None:
        super().__init__(
            durable,
            key_of=world.key_of,
            pause=world.pause,
            draw=world.draw,
            step=step,
            full_rows=world.options.full_rows,
        )
        self._world = world
        self._taken: list[Taken] = []

    @property
    def is_full(self) -> bool:
        return sum(len(each.rows) for each in self._taken) >= self._full_rows

    async def open_sync(self, plan: Plan, accounts: Sequence[str], *, fresh: bool) -> Mapping[str, str]:
        assert not fresh
        await self._pause()
        durable = self._table
        durable.epoch = self._epoch = durable.epoch + 1
        durable.staged.clear()
        return {account: durable.marks[account] for account in accounts if account in durable.marks}

    @property
    def _table(self) -> Table:
        assert isinstance(self._durable, Table)
        return self._durable

    async def write(self, page: Any) -> None:
        async with self._alone("write"):
            await self._pause()
            if self._draw("sink fails"):
                raise SinkFailed("write")
            self._taken.append(Taken(page.key, page.is_first, [number_of(bytes(row)) for row in page.page]))

    async def commit(  # type: ignore[override]
        self,
        changes: Mapping[Key, Progress],
        *,
        row_fingerprints: Mapping[Key, bytes],
        final: bool,
        sync: SyncChanges,
    ) -> bool:
        async with self._alone("write"):
            return await self._land(len(self._taken), sync, final=final)

    async def _land(self, count: int, sync: SyncChanges, *, final: bool) -> bool:
        async with self._alone("commit"):
            await self._pause()
            if not (final or self.is_full) and self._draw("sink postpones"):
                return False
            self._step("checkpoint")
            table = self._table
            if table.epoch != self._epoch:
                raise StateConflictError("a later run has begun", path="memory")
            for page in self._taken[:count]:
                if page.is_first:
                    table.staged.pop(page.key, None)
                table.staged.setdefault(page.key, []).extend(page.rows)
            del self._taken[:count]
            for window in sync.windows:
                table.table[window.account, text_of(window)] = table.staged.pop(window.key, [])
            table.marks.update(sync.marks)
            self._world.note_read(sync.windows)
            self._step("committed")
            await self._pause()
            return True


class OverlappingSyncStore(SimSyncStore):
    def begin_commit(
        self,
        changes: Mapping[Key, Progress],
        *,
        row_fingerprints: Mapping[Key, bytes],
        final: bool,
        sync: SyncChanges,
    ) -> Awaitable[bool]:
        return self._land(len(self._taken), sync, final=final)


def text_of(window: ReadWindow) -> str:
    assert window.start is not None
    return window.start.isoformat().replace("+00:00", "Z")


class SyncWorld(World):
    """A world whose runs sync a table. Accounts have rows of every day, which change from night to night."""

    def __init__(self, options: Options, folder: Path | None) -> None:
        self.night = 0
        super().__init__(options, folder)
        self.plan = make_plan(
            *(account.id for account in self.plan.accounts), start_time="-1d", window=None, now=FIRST_NIGHT
        )
        self.nights = self._draws.randint(1, 3)
        first = FIRST_NIGHT.replace(hour=0) - timedelta(days=HISTORY_DAYS + 1)
        self.days = [
            (first + timedelta(days=number)).isoformat().replace("+00:00", "Z")
            for number in range(HISTORY_DAYS + self.nights + 2)
        ]
        self._numbers = 0
        self.rows.clear()
        for account in self.plan.accounts:
            for day in self.days:
                self.rows[account.id, day] = [self._new_row() for _ in range(self._draws.randint(0, 4))]
        self.durable: Table = Table()
        self.read_as: dict[WindowKey, list[int]] = {}
        self._read_tonight = set[WindowKey]()

    def _new_row(self) -> bytes:
        self._numbers += 1
        return make_row(self._draws, self._numbers)

    def _change_rows(self) -> None:
        for rows in self.rows.values():
            if self._draws.random() < 0.5:
                rows[:] = [row for row in rows if self._draws.random() < 0.7]
                rows += [self._new_row() for _ in range(self._draws.randint(0, 2))]

    @property
    def sync(self) -> SyncOptions:
        now = FIRST_NIGHT + timedelta(days=self.night)
        return sync_options(lookback=f"{LOOKBACK_DAYS}d", max_history=f"{HISTORY_DAYS}d", now=now)

    def key_of(self, page: Any) -> Key:
        key: Key = page.key
        return key

    def _make_checkpoint(self, step: Step) -> Checkpoint | TransactionalStore:
        kind = OverlappingSyncStore if self.options.commits_overlap else SimSyncStore
        return kind(self.durable, world=self, step=step)

    def _make_pull(
        self, checkpoint: Checkpoint | None = None, *, fresh: bool = False, step: Step | None = None
    ) -> Pull[Any]:
        client: Any = self.client
        return Pull(
            client,
            self.plan,
            checkpoint=self._make_checkpoint(step or self.step),
            budget=Budget(
                max_accounts=self.options.max_accounts,
                max_outage=MAX_OUTAGE,
                probe_wait=0.5,
                max_probe_wait=4.0,
            ),
            commit="manual",
            item_type=msgspec.Raw,
            sync=self.sync,
        )

    async def run(self) -> None:
        for night in range(self.nights):
            self.night = night
            if night:
                self._change_rows()
            self._read_tonight.clear()
            self.is_calm, self.service.is_bad = False, True
            for _ in range(self.options.runs):
                await self.one_run(
                    self._draws.choice(("end", "leave", "cancel", "stop", "kill", "kill", "kill at a step"))
                )
                await asyncio.sleep(self._draws.choice((0.0, 10.0, 4_000.0)))
            self.is_calm, self.service.is_bad = True, False
            for _ in range(LAST_RUNS):
                await asyncio.sleep(4_000.0)
                pull = await self.one_run("end")
                if pull.report.complete:
                    break
            else:
                raise Wrong(f"not complete after {LAST_RUNS} undisturbed runs: {pull.report.failed}")
            self._check_night()

    # --- what must come out ------------------------------------------------------------------------------------

    def note_read(self, windows: Sequence[ReadWindow]) -> None:
        """Note what the service has of windows that a commit says were read."""
        if self.is_dead:
            return
        for window in windows:
            key = window.account, text_of(window)
            self.read_as[key] = sorted(map(number_of, self.rows[key]))
            self._read_tonight.add(key)

    def check(self, when: str, pull: Pull[Any] | None = None) -> None:
        if self.is_dead:
            return
        table = {key: sorted(rows) for key, rows in self.durable.table.items()}
        if table != self.read_as:
            wrong = {
                key for key in table.keys() | self.read_as.keys() if table.get(key) != self.read_as.get(key)
            }
            key = min(wrong)
            raise Wrong(
                f"{when}: {key} has the rows {table.get(key)}, but should have {self.read_as.get(key)}"
            )
        for account, text in self.durable.marks.items():
            for span in read_mark(text, account).complete:
                for day in self.days:
                    start = datetime.fromisoformat(day)
                    if span.start <= start < span.end and (account, day) not in self.read_as:
                        raise Wrong(f"{when}: {day} of {account} is marked, and was never read")

    def _check_night(self) -> None:
        now = FIRST_NIGHT + timedelta(days=self.night)
        begun = FIRST_NIGHT - timedelta(days=HISTORY_DAYS)
        look_from = now.replace(hour=0) - timedelta(days=1 + LOOKBACK_DAYS)
        for account, day in self.rows:
            end = datetime.fromisoformat(day) + timedelta(days=1)
            if end <= begun or end > now:
                continue
            if (account, day) not in self.read_as:
                raise Wrong(f"{day} of {account} was not read")
            if end > look_from and (account, day) not in self._read_tonight:
                raise Wrong(f"{day} of {account} was not read this night")

    def _check_blame(self, report: Any) -> None:
        """Nothing is scripted here that says who is to blame."""


def draw(seed: int) -> Options:
    """Return the options of a seed, for a sync."""
    options = Options.draw(seed)
    return replace(
        options,
        store="transactional",
        consumer=Random(f"{seed}/consumer").choice(("shard", "writers")),
        resource="interactions",
        ignores_windows=False,
        has_outage=False,
        has_bad_account=False,
        has_wrong_clock=False,
        runs=min(options.runs, 3),
    )

"""Joins a store and the rule of a sync: what is due at the start, and what a commit means for the marks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import datetime
from typing import Any, cast

from msgspec.structs import replace

from truto_ci_async.errors import UsageError
from truto_ci_async.export.schema import to_utc
from truto_ci_async.models.pulls import AccountPage, Window
from truto_ci_async.pull.checkpoint.base import DAILY_MARK, AccountProgress, Key, Progress, by_account
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.positions import UNSUPPORTED
from truto_ci_async.pull.sync.answered import answered_of
from truto_ci_async.pull.sync.options import SyncOptions
from truto_ci_async.pull.sync.plan import Mark, SyncPlan, header_of, plan_sync, read_mark
from truto_ci_async.pull.sync.windows import add

from .adapters import WholeStore
from .base import ReadWindow, SyncChanges, SyncStore, TransactionalStore


class SyncingStore(WholeStore):
    """A store that is synced. Its plan in force has the windows that are due."""

    def __init__(self, store: TransactionalStore, options: SyncOptions) -> None:
        if not isinstance(store, SyncStore):
            raise UsageError(
                f"since='last': {type(store).__name__} cannot be synced, since it has no open_sync (see SyncStore)"
            )
        super().__init__(store)
        self._sync = store
        self._options = options
        self._plan: SyncPlan | None = None
        self._marks: dict[str, Mark] = {}
        self._asked: dict[Key, Window] = {}  # of windows with pages that were written
        self._partial: set[Key] = set()  # windows that the provider says to have answered in part
        self._uncovered: set[Key] = set()  # windows that were answered with a time that is not over
        if self.begin_commit is not None:
            self.begin_commit = self._begin_commit

    async def hold(self, *, fresh: bool) -> Plan | None:
        await super().hold(fresh=fresh)
        return None  # accounts come and go: they are looked up by each run

    async def open(self, plan: Plan, *, grow: bool, fresh: bool) -> Plan:
        del grow
        self._is_open = True
        accounts = [account.id for account in plan.accounts]
        stored = await self._sync.open_sync(header_of(plan), accounts, fresh=fresh)
        self._marks = {account: read_mark(text, account) for account, text in stored.items()}
        self._plan = plan_sync(plan, self._options, self._marks)
        return self._plan

    async def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]:
        """Iterate over the accounts that are parked, and those of which requests are counted.

        Whatever else earlier runs did is in the windows of the plan.
        """
        assert self._plan is not None
        found: dict[Key, Progress] = {}
        for account, mark in self._marks.items():
            if mark.until is not None and self._plan.windows_of(account):
                found[account, 0] = Progress(outcome="parked", until=mark.until)
            if mark.used is not None:
                found[account, len(self._plan.windows)] = Progress(position=DAILY_MARK + mark.used)
        async for each in by_account(found):
            yield each

    async def write(self, page: AccountPage[Any]) -> None:
        key: Key = cast("Any", page).key
        assert self._plan is not None
        found = answered_of(page.page.items) if self._plan.walk.is_counted else None
        if found is not None and found.span.end > self._options.now:
            self._uncovered.add(key)
        if cast("Any", page).is_partial:
            self._partial.add(key)
        await self._store.write(page)
        self._asked[key] = page.window

    async def commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> bool:
        del row_fingerprints
        sync = self._changes_of(changes)
        committing: Any = self._store.commit
        is_durable: bool = await committing(changes, row_fingerprints={}, final=final, sync=sync)
        if is_durable:
            self._note(changes)
        return is_durable

    def _begin_commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> Awaitable[bool]:
        del row_fingerprints
        begin: Any = cast("Any", self._store).begin_commit
        begun: Awaitable[bool] = begin(
            changes, row_fingerprints={}, final=final, sync=self._changes_of(changes)
        )

        async def finish() -> bool:
            is_durable = await begun
            if is_durable:
                self._note(changes)
            return is_durable

        return finish()

    async def row_fingerprints(self, key: Key) -> bytes:
        return b""

    # --- what a commit means -----------------------------------------------------------------------------

    def _changes_of(self, changes: Mapping[Key, Progress]) -> SyncChanges:
        skipped = {account for (account, _), each in changes.items() if each.position == UNSUPPORTED}
        windows = [
            self._read_window(key)
            for key, each in changes.items()
            if each.is_over and key in self._asked and key[0] not in skipped
        ]
        self._new_marks = self._marks_after(changes, skipped)
        return SyncChanges(tuple(windows), {account: str(mark) for account, mark in self._new_marks.items()})

    def _marks_after(self, changes: Mapping[Key, Progress], skipped: set[str]) -> dict[str, Mark]:
        """Return the marks that change."""
        assert self._plan is not None
        found: dict[str, Mark] = {}
        for (account, window), each in sorted(changes.items()):
            grid = self._plan.grids[account]
            before = found.get(account) or self._marks.get(account) or Mark(grid)
            mark = before
            if each.is_count and each.position is not None:
                mark = replace(mark, used=each.position.removeprefix(DAILY_MARK))
            elif each.outcome in ("parked", "failed"):
                mark = replace(mark, until=each.until, error=each.error)
            elif each.is_over and account not in skipped:
                if mark.grid != grid:
                    mark = Mark(grid, used=mark.used)
                span = self._plan.series[account].spans[window]
                if span is not None and (account, window) not in self._uncovered:
                    mark = replace(mark, complete=add(mark.complete, span))
                mark = replace(mark, until=None, error=None)
            if mark is not before:
                found[account] = mark
        return {account: mark for account, mark in found.items() if mark != self._marks.get(account)}

    def _note(self, changes: Mapping[Key, Progress]) -> None:
        """Note that a commit is durable."""
        self._marks |= self._new_marks
        for key, each in changes.items():
            if each.is_over:
                self._asked.pop(key, None)
                self._uncovered.discard(key)
                self._partial.discard(key)

    def _read_window(self, key: Key) -> ReadWindow:
        asked = self._asked[key]
        keeps_missing = self._options.keep_missing or key in self._partial
        return ReadWindow(*key, _moment(asked.start), _moment(asked.end), keeps_missing)


def _moment(bound: str | None) -> datetime | None:
    return None if bound is None else to_utc(bound)

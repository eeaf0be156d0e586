"""What the stores for databases share: pages that wait for a commit, their rows as columns, and rows that are refused.

How it works. ``write`` keeps pages in memory. A commit takes them all, and writes their rows and the progress in one
transaction. What it takes is kept until that is over, so it can be written again over a new connection.

The pulls of a table have a row of their own in the database: the plan, the epoch of the run that is at it, and the
number of its last commit. A commit first counts that number up, and fails if a later run has taken its place.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Literal, TypeAlias

from msgspec import Struct

from truto_ci_async._files import Step, no_step
from truto_ci_async._json import encode
from truto_ci_async.errors import DamagedStateError, StateConflictError, StorageError, UsageError
from truto_ci_async.export.column_values import ColumnData, Part, Parts, fixed_columns
from truto_ci_async.export.schema import Schema, to_utc
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.models.row_views import PULL_SCHEMA
from truto_ci_async.pull.checkpoint.base import Key, Progress, plan_in_force
from truto_ci_async.pull.checkpoint.stored import PROGRESS_FIELDS, StoredRows
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.sync.plan import is_sync, sync_difference

from .base import SyncChanges
from .staging import Staging, SyncStep, WalkedPages
from .tables import MERGE_KEYS, columns_of

logger = logging.getLogger("truto_ci_async")

LandingMode: TypeAlias = Literal["append", "merge"]
OnRejected: TypeAlias = Literal["stop", "keep"]

# No more pages are taken before a commit than these rows, or bytes of text.
FULL_ROWS: Final = 20_000
FULL_BYTES: Final = 32 * 2**20
# What a row, or a sentence of a transcript, takes at least.
ROW_BYTES: Final = 500
# The text of a refused row is kept up to so many characters.
KEPT_CHARACTERS: Final = 16 * 2**20
# Refused rows that are logged one by one.
LOGGED: Final = 20

# The tables that hold the state, beside the table of the rows.
PULLS, PROGRESS, FINGERPRINTS = "_truto_pulls", "_truto_progress", "_truto_row_fingerprints"
PROGRESS_COLUMNS: Final = ("account", '"window"', *(f'"{name}"' for name in PROGRESS_FIELDS))
REJECTED_COLUMNS: Final = (
    "integrated_account_id",
    "key",
    "window_start",
    "window_end",
    "error",
    '"row"',
    "rejected_at",
)


class Refused(Struct, frozen=True):
    """A row that the database refused, as a row of the table for those, without the time."""

    account: str | None
    key: str
    window_start: Any
    window_end: Any
    error: str
    row: str | None


class Taken(Struct, frozen=True):
    """What one commit is to write."""

    pages: WalkedPages
    changes: dict[Key, Progress]
    fingerprints: dict[Key, bytes]
    sync: SyncChanges | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write. A walk that began again is something: its kept pages have to go."""
        sync = self.sync or SyncChanges()
        progress = self.changes or self.fingerprints or sync.windows or sync.marks
        return not (self.pages.parts or self.pages.begun or progress)

    def progress_rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of the table of progress. PostgreSQL takes no null character in text."""
        return [
            (*key, *(_clean(getattr(progress, name)) for name in PROGRESS_FIELDS))
            for key, progress in self.changes.items()
        ]

    def over(self) -> list[Key]:
        """Return the walks whose fingerprints are needed no more."""
        return [key for key, progress in self.changes.items() if progress.is_over]

    def fingerprint_rows(self) -> list[tuple[str, int, bytes]]:
        """Return the rows to add to the table of fingerprints."""
        over = set(self.over())
        return [(*key, found) for key, found in self.fingerprints.items() if key not in over]


class LandingStore(ABC):
    """A store that writes the rows of one resource to a table. Its subclasses are those for each database."""

    keeps_no_items: ClassVar[bool] = True

    def __init__(
        self,
        *,
        resource: str,
        table: str | None,
        mode: LandingMode,
        add_columns: bool,
        on_rejected: OnRejected,
        step: Step = no_step,
    ) -> None:
        if mode not in ("append", "merge"):
            raise UsageError(f"mode is 'append' or 'merge', not {mode!r}")
        if on_rejected not in ("stop", "keep"):
            raise UsageError(f"on_rejected is 'stop' or 'keep', not {on_rejected!r}")
        if table is not None and not table:
            raise UsageError("the name of the table is empty")
        self.resource = resource
        self.schema: Schema = columns_of(resource)
        self.item_type: Any = ITEM_TYPES[resource]
        self.table = table or resource
        self.mode = mode
        self.issues_count = 0
        self._key = MERGE_KEYS[resource] if mode == "merge" else None
        self._add_columns = add_columns
        self._on_rejected: OnRejected = on_rejected
        self._step = step
        self._epoch = self._commits = 0
        self._plan: Plan | None = None
        self._is_open = False
        self._staging: Staging | None = None  # in a sync
        self._forget_pages()

    def _forget_pages(self) -> None:
        self._pages = WalkedPages()
        self._rows = self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no page should be written before the next commit."""
        return self._rows >= FULL_ROWS or self._bytes >= FULL_BYTES

    async def write(self, page: AccountPage[Any]) -> None:
        """Keep a page for the next commit."""
        self._require_open()
        items = page.page.items
        if not all(isinstance(item, self.item_type) for item in items):
            raise UsageError(
                f"the table {self.table} takes {self.resource}: pull with item_type={self.item_type.__name__}"
            )
        if self._staging is not None:
            self._pages.add(page)
        elif items:
            self._pages.parts.append(Part(items, PULL_SCHEMA.values(page)))
        self._rows += len(items)
        self._bytes += sum(map(item_bytes, items))

    def begin_commit(
        self,
        changes: Mapping[Key, Progress],
        *,
        row_fingerprints: Mapping[Key, bytes],
        final: bool,
        sync: SyncChanges | None = None,
    ) -> Awaitable[bool]:
        """Begin a commit of what was written so far. Pages may be written while the result is awaited."""
        del final
        self._require_open()
        if sync is None:
            taken = Taken(self._pages, dict(changes), dict(row_fingerprints))
        else:
            taken = Taken(self._pages, {}, {}, sync)
        self._forget_pages()
        return self._finish_commit(taken)

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        *,
        row_fingerprints: Mapping[Key, bytes],
        final: bool,
        sync: SyncChanges | None = None,
    ) -> bool:
        """Make what was written, and its progress, visible in one transaction."""
        return await self.begin_commit(changes, row_fingerprints=row_fingerprints, final=final, sync=sync)

    async def _finish_commit(self, taken: Taken) -> bool:
        if not taken.is_empty:
            await self._land(taken)
            if self._staging is not None:
                self._staging.committed()
        return True

    @abstractmethod
    async def _land(self, taken: Taken) -> None:
        """Write rows and progress in one transaction."""

    # --- rows ------------------------------------------------------------------------------------------

    def _columns(self, parts: list[Part]) -> ColumnData:
        """Return the rows of a commit as columns; of those with the same key, the last."""
        return self._last_ones(fixed_columns(self.schema, Parts(parts, self.item_type, PULL_SCHEMA)))

    def _last_ones(self, data: ColumnData) -> ColumnData:
        kept = None if self._key is None else self._key.last_ones(self.schema.names, data.values)
        if kept is None:
            return data
        values = [[column[index] for index in kept] for column in data.values]
        return ColumnData(self.schema, values, len(kept))

    # --- syncs -----------------------------------------------------------------------------------------

    def _begin_sync(self) -> None:
        """Take pages by their walks from now on.

        :raises UsageError: rows are only added here.
        """
        if self.mode != "merge":
            raise UsageError('a sync replaces rows: make the store with mode="merge"')
        self._staging = Staging(self.schema, self.item_type)

    def _split(self, taken: Taken) -> tuple[list[Part], SyncStep | None]:
        """Return the parts to land now, and in a sync what else is done: parts of open windows are kept."""
        if self._staging is None or taken.sync is None:
            return taken.pages.parts, None
        return self._staging.split(taken.pages, taken.sync)

    def _with_kept(self, kept: Sequence[bytes], data: ColumnData) -> ColumnData:
        """Return the rows of pages that were kept, followed by ``data``; of those with the same key, the last."""
        assert self._staging is not None
        return self._last_ones(self._staging.join(kept, data))

    def _is_replaced(self, step: SyncStep | None) -> bool:
        """Whether rows with the keys of the new ones are gone once the windows were emptied."""
        is_by_window = self._key is not None and len(self._key.same) > 1
        return step is not None and is_by_window and not any(each.keeps_missing for each in step.windows)

    def _refused(self, data: ColumnData, index: int, error: str) -> Refused:
        """Return a row of ``data`` that the database refused.

        :raises StorageError: such a row is to stop the pull.
        """
        row = {name: column[index] for name, column in zip(self.schema.names, data.values, strict=True)}
        names = MERGE_KEYS[self.resource].ids
        key = ", ".join(f"{name} {row[name]!r}" for name in names if row[name] is not None) or "no id"
        account = row["integrated_account_id"]
        if self._on_rejected == "stop":
            raise StorageError(
                f"the table {self.table} refuses a row of account {account!r}, {key}: {error}. Change the table, or "
                f'pass on_rejected="keep", which puts such rows into {self.rejected_table}',
                path=self.table,
            )
        text = encode(row).decode() if sum(map(_length, row.values())) < KEPT_CHARACTERS else None
        return Refused(account, key, row["window_start"], row["window_end"], error, text)

    def _tell_refused(self, refused: Sequence[Refused]) -> None:
        for each in refused[:LOGGED]:
            logger.warning(
                "%s refuses a row of account %s, %s: %s", self.table, each.account, each.key, each.error
            )
        if len(refused) > LOGGED:
            logger.warning("%s refuses %d more rows", self.table, len(refused) - LOGGED)
        self.issues_count += len(refused)

    @property
    def rejected_table(self) -> str:
        """The table with the rows that were refused."""
        return f"{self.table}_rejected"

    # --- the plan --------------------------------------------------------------------------------------

    def _check_resource(self, plan: Plan | None) -> None:
        if plan is not None and plan.resource != self.resource:
            raise UsageError(
                f"this is a plan of {plan.resource}, and the store takes {self.resource}: make it with resource=..."
            )

    def _choose(self, stored: Plan | None, plan: Plan | None, *, grow: bool, over: int) -> tuple[Plan, bool]:
        """Return the plan to run, and whether it begins anew: one whose windows are all ``over`` may be followed.

        :raises StateConflictError: they differ.
        """
        if stored is not None and plan is not None and (difference := sync_difference(plan, stored)):
            raise StateConflictError(
                f"the table {self.table} {difference}: use another table, or start over with fresh=True",
                path=self.table,
            )
        if plan is not None and is_sync(plan):
            return plan, stored is None
        is_done = stored is not None and over == len(stored)
        if stored is not None and plan is not None and is_done and plan.difference(stored, grow=grow):
            return plan, True
        return plan_in_force(stored, plan, grow=grow, path=self.table), stored is None

    def _read_plan(self, text: str | None) -> Plan | None:
        if text is None:
            return None
        try:
            return Plan.from_json(text)
        except UsageError as error:
            raise self._damaged(str(error)) from error

    def _read_progress(self, rows: Sequence[Sequence[Any]]) -> dict[Key, Progress]:
        assert self._plan is not None
        stored = StoredRows(self._plan)
        try:
            return {
                (name, window): walk for name, window, walk in (stored.progress(tuple(row)) for row in rows)
            }
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _reach(self, plan: Plan) -> tuple[list[str], datetime | None, datetime | None]:
        """Return the accounts of a plan, the end of its last window, and the start of its first."""
        first, last = plan.windows[0].start, plan.windows[-1].end
        end, start = (None if bound is None else to_utc(bound) for bound in (last, first))
        return [account.id for account in plan.accounts], end, start

    # --- errors ----------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self._is_open:
            raise UsageError(f"{type(self).__name__} is not open")

    def _fenced(self) -> StateConflictError:
        return StateConflictError(
            f"another run has taken over the pull into {self.table}, so this one may not write any more",
            path=self.table,
        )

    def _doubled(self) -> StateConflictError:
        return StateConflictError(
            f"the table {self.table} has rows of this plan's accounts and windows already, from another plan: they "
            'would be there twice. Pass mode="merge" to replace them, or start over with fresh=True',
            path=self.table,
        )

    def _damaged(self, what: str) -> DamagedStateError:
        return DamagedStateError(
            f"the state of the pull into {self.table} cannot be read: {what}. Restore a copy, or start over with "
            "fresh=True",
            path=self.table,
        )


def item_bytes(item: Any) -> int:
    """Return about how many bytes an item has."""
    return ROW_BYTES * (1 + len(getattr(item, "entries", None) or ())) + memoryview(item.remote_json).nbytes


def _length(value: object) -> int:
    return len(value) if isinstance(value, str) else 0


def _clean(value: Any) -> Any:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value

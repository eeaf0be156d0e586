"""Reads the state of a pull without opening it: for reports, also while the pull is running."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from truto_ci_async.errors import DamagedStateError, UsageError
from truto_ci_async.pull.plan.plan import Plan

from .compaction import READ_OVER
from .sqlite import READ_META, READ_PROGRESS
from .stored import StoredRows

# Failed or parked accounts read at most: as many as a report can use.
ENDED = 1_000
_READ_ENDED = f"{READ_PROGRESS} WHERE outcome IN ('failed', 'parked') LIMIT {ENDED}"
_COUNT_ENDED = "SELECT count(DISTINCT account) FROM progress WHERE outcome = ?"


class EndedAccount(Struct, frozen=True):
    """An account that failed, or is parked until ``until`` (seconds since 1970; None: until the service is up)."""

    id: str
    outcome: str
    error: str | None = None
    until: float | None = None


class StoredState(Struct, frozen=True, kw_only=True):
    """What the state says: the plan, how many accounts are done, failed or are parked, and the first of the latter."""

    plan: Plan
    done: int
    failed: int = 0
    parked: int = 0
    ended: tuple[EndedAccount, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every account was pulled to the end."""
        return self.done == len(self.plan.accounts)


def read_state(path: Path) -> StoredState | None:
    """Return what a state file says; None if there is none.

    :raises DamagedStateError: it is not the state of a pull, or belongs to another version of this package.
    """
    if not path.is_file():
        return None
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        ) as database:
            return _read(database)
    except (sqlite3.Error, ValueError, UsageError) as error:
        raise DamagedStateError(f"{path} cannot be read: {error}", path=str(path)) from error


def _read(database: sqlite3.Connection) -> StoredState | None:
    found: Any = database.execute(READ_META, ("plan",)).fetchone()
    if found is None:
        return None
    plan = Plan.from_json(found[0])
    stored = StoredRows(plan)
    windows = len(plan.windows)
    done = sum(stored.over(row)[1] == windows for row in database.execute(READ_OVER))
    ended = [
        EndedAccount(account, progress.outcome, progress.error, progress.until)
        for account, _, progress in map(stored.progress, database.execute(_READ_ENDED))
    ]
    failed, parked = (
        database.execute(_COUNT_ENDED, (outcome,)).fetchone()[0] for outcome in ("failed", "parked")
    )
    return StoredState(plan=plan, done=done, failed=failed, parked=parked, ended=tuple(ended))

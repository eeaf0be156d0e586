"""Reads the rows of an SQLite state, which something else may have altered: SQLite stores any type in any column."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any, get_args

from msgspec.structs import replace

from truto_ci_async.pull.plan.plan import Plan

from .base import DAILY_MARK, Outcome, Progress
from .compaction import read_runs
from .finished import expand

PROGRESS_FIELDS = ("position", "rows", "pages", "outcome", "error", "until", "is_restarted")
OUTCOMES = frozenset(get_args(Outcome))


class StoredRows:
    """Checks rows against their plan. Everything here raises ValueError for values that no commit writes."""

    def __init__(self, plan: Plan) -> None:
        # The plan's own strings, so that the thousands of windows of an account share one.
        self._ids = {account.id: account.id for account in plan.accounts}
        self._takes_any = "since" in plan.given  # of a sync: its accounts come and go
        self.windows = len(plan.windows)

    def account(self, account: object, window: object, outcome: object, *, more: int = 0) -> str:
        """Return the account of a row, whose window is in the plan or one of so many ``more``."""
        name = (
            self._ids.get(account, account if self._takes_any else None) if isinstance(account, str) else None
        )
        is_planned = name is not None and type(window) is int and 0 <= window < self.windows + more
        if name is None or not is_planned or outcome not in OUTCOMES:
            raise ValueError(
                f"it has progress that is not in its plan ({account!r}, {window!r}, {outcome!r})"
            )
        return name

    def progress(self, row: tuple[Any, ...]) -> tuple[str, int, Progress]:
        """Decode a row of the table ``progress``."""
        account, window, *stored = row
        is_count = isinstance(stored[0], str) and stored[0].startswith(DAILY_MARK)
        name = self.account(account, window, stored[3], more=int(is_count))
        progress = Progress(**dict(zip(PROGRESS_FIELDS, stored, strict=True)))
        if (wrong := _wrong_field(progress)) is not None:
            raise ValueError(f"the value of {wrong!r} of account {account!r} is invalid")
        return name, window, replace(progress, is_restarted=bool(progress.is_restarted))

    def finished(self, row: tuple[Any, ...]) -> Iterator[tuple[str, int, Progress]]:
        """Decode a row of the table ``finished``, window by window."""
        name = self.account(row[0], row[1], "done")
        runs = read_runs(row)
        self.account(name, row[1] + row[2] - 1, "done")
        for window, progress in enumerate(expand(runs), row[1]):
            yield name, window, progress

    def over(self, row: tuple[Any, ...]) -> tuple[str, int | None, bool]:
        """Return the account of a row of ``READ_OVER``, how many windows are over, and whether any had rows.

        The number is None if there are gaps between these windows.
        """
        account, first, end, windows, most_rows = row
        name = self.account(account, first, "done")
        if not (_is_count(end) and _is_count(windows) and end <= self.windows and _is_count(most_rows)):
            raise ValueError(f"the finished windows of account {account!r} make no sense")
        return name, windows if (first, end) == (0, windows) else None, most_rows > 0


def _wrong_field(progress: Progress) -> str | None:
    """Return the name of a field whose value no commit of ours writes."""
    checks = {
        "position": progress.position is None or type(progress.position) is str,
        "rows": _is_count(progress.rows),
        "pages": _is_count(progress.pages),
        "error": progress.error is None or type(progress.error) is str,
        "until": progress.until is None or (type(progress.until) is float and isfinite(progress.until)),
        "restarted": progress.is_restarted in (0, 1),
    }
    return next((name for name, is_right in checks.items() if not is_right), None)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0

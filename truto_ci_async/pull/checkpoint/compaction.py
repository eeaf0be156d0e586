"""Keeps finished windows in few rows of an SQLite state: neighbours share one in the table ``finished``.

Its columns ``windows`` and ``rows`` are the sums over ``runs``, which ``finished.py`` encodes. All other progress, and
windows that finished a moment ago, have a row each in the table ``progress``.
"""

from __future__ import annotations

import sqlite3

import msgspec

from .finished import FULL_BYTES, Run, add, decode, encode, expand

# Neighbours moved at a time. A plan with fewer windows has nothing to gain.
COMPACT_WINDOWS = 8

CREATE = """CREATE TABLE IF NOT EXISTS finished (account TEXT NOT NULL, "window" INTEGER NOT NULL,
    windows INTEGER NOT NULL, "rows" INTEGER NOT NULL, runs BLOB NOT NULL,
    PRIMARY KEY (account, "window")) WITHOUT ROWID"""
# Of each account: its first finished window, the one after the last, how many there are, and the most rows.
READ_OVER = """SELECT account, min("window"), max("window" + windows), sum(windows), max("rows") FROM (
    SELECT account, "window", windows, "rows" FROM finished
    UNION ALL SELECT account, "window", 1, "rows" FROM progress WHERE outcome IN ('done', 'empty')) GROUP BY account"""
READ_FINISHED = 'SELECT account, "window", windows, "rows", runs FROM finished'

# Counts that are not numbers, or whose sum might not be one, stay as they are.
_READ_PLAIN = """SELECT "window", "rows", pages, outcome FROM progress WHERE account = ? AND "window" <= ?
    AND outcome IN ('done', 'empty') AND position IS NULL AND error IS NULL AND until IS NULL AND restarted = 0
    AND typeof("rows") = 'integer' AND "rows" BETWEEN 0 AND 1 << 40
    AND typeof(pages) = 'integer' AND pages BETWEEN 0 AND 1 << 40 ORDER BY "window" DESC"""
_READ_BEFORE = f'{READ_FINISHED} WHERE account = ? AND "window" <= ? ORDER BY "window" DESC LIMIT 1'
_PUT = "INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?, ?)"
_DELETE = 'DELETE FROM finished WHERE account = ? AND "window" = ?'
_DELETE_PLAIN = 'DELETE FROM progress WHERE account = ? AND "window" BETWEEN ? AND ?'
_PUT_PLAIN = """INSERT INTO progress (account, "window", "rows", pages, outcome, restarted)
    VALUES (?, ?, ?, ?, ?, 0)"""
_ACCOUNTS = """SELECT account, max("window") FROM progress WHERE outcome IN ('done', 'empty')
    GROUP BY account HAVING count(*) >= ?"""


def compact(database: sqlite3.Connection, account: str, last: int) -> None:
    """Move the finished windows of an account, from ``last`` back to the first one missing, to ``finished``."""
    plain: list[Run] = []
    for window, rows, pages, outcome in database.execute(_READ_PLAIN, (account, last)):
        if window != last - len(plain):
            break
        plain.append(Run(1, rows, pages, outcome == "empty"))
    if not plain:
        return
    first = start = last - len(plain) + 1
    runs: list[Run] = []
    before = database.execute(_READ_BEFORE, (account, start)).fetchone()
    is_full = before is not None and len(before[4]) >= FULL_BYTES  # mutant: one run more or less
    if before is not None and before[1] + before[2] == start and not is_full:
        first, runs = before[1], read_runs(before)
    for run in reversed(plain):
        add(runs, run)
    database.execute(_PUT, (account, first, *_sums(runs), encode(runs)))
    database.execute(_DELETE_PLAIN, (account, start, last))


def expose(database: sqlite3.Connection, account: str, window: int) -> None:
    """Give each window a row of its own again that shares one with ``window``, which is about to be replaced."""
    row = database.execute(_READ_BEFORE, (account, window)).fetchone()
    if row is None or row[1] + row[2] <= window:
        return
    database.execute(_DELETE, (account, row[1]))
    database.executemany(
        _PUT_PLAIN,
        (
            (account, each, progress.rows, progress.pages, progress.outcome)
            for each, progress in enumerate(expand(read_runs(row)), row[1])
        ),
    )


def compact_all(database: sqlite3.Connection) -> None:
    """Compact a state in which each window has a row in ``progress``."""
    for account, last in database.execute(_ACCOUNTS, (COMPACT_WINDOWS,)).fetchall():
        compact(database, account, last)


def read_runs(row: tuple[str, int, int, int, bytes]) -> list[Run]:
    """Return the runs in a row of ``finished``.

    :raises ValueError: they are not what was stored.
    """
    account, _, windows, rows, stored = row
    try:
        runs = decode(stored)
    except (msgspec.DecodeError, TypeError):
        runs = []  # mutant: None is as wrong
    if not runs or (windows, rows) != _sums(runs):
        raise ValueError(f"the finished windows of account {account!r} make no sense")
    return runs


def _sums(runs: list[Run]) -> tuple[int, int]:
    return sum(run.windows for run in runs), sum(run.windows * run.rows for run in runs)

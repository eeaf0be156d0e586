"""Progress in an SQLite file, for pulls that outlive the process.

All database work runs in one thread, in the order it was requested. A commit writes progress, row fingerprints and
the state of the output in one transaction.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

import anyio.lowlevel

from truto_ci_async._files import Disk, Step, Worker, no_step, storage_error
from truto_ci_async._lock import RunLock
from truto_ci_async._text import encodable
from truto_ci_async.errors import DamagedStateError, StateConflictError, UsageError
from truto_ci_async.pull.plan.plan import Plan

from .base import YIELD_EVERY, AccountProgress, Checkpoint, Key, Progress, plan_in_force
from .compaction import (
    COMPACT_WINDOWS,
    CREATE,
    READ_FINISHED,
    READ_OVER,
    compact,
    compact_all,
    expose,
)
from .stored import StoredRows

P = ParamSpec("P")
R = TypeVar("R")

# "TrCI" in the file's header tells our state from other databases.
APPLICATION_ID = 0x54724349
SCHEMA_VERSION = 3
SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE progress (
        account TEXT NOT NULL, "window" INTEGER NOT NULL, position TEXT, "rows" INTEGER NOT NULL,
        pages INTEGER NOT NULL, outcome TEXT NOT NULL, error TEXT, until REAL,
        restarted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (account, "window")) WITHOUT ROWID""",
    'CREATE TABLE row_keys (account TEXT NOT NULL, "window" INTEGER NOT NULL, keys BLOB NOT NULL)',
    'CREATE INDEX row_keys_of ON row_keys (account, "window")',
    CREATE,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# Version 1 did not store what a restarted walk had met, and said in ``error`` that it was one, unless it had failed
# since. Such a window starts once more, and leaves out all that was handed out.
FROM_VERSION_1 = (
    "ALTER TABLE progress ADD COLUMN restarted INTEGER NOT NULL DEFAULT 0",
    'UPDATE progress SET position = NULL WHERE error IS NOT NULL AND "rows" > 0',
    "PRAGMA user_version = 2",
)
# Up to version 2 each finished window had a row in ``progress``.
FROM_VERSION_2 = (CREATE, "PRAGMA user_version = 3")
# In WAL mode, FULL syncs with each commit. NORMAL, the default of some builds, does not.
# On macOS, only ``fullfsync`` reaches the medium.
DURABLE = (
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
)
CLEAR = ("DELETE FROM progress", "DELETE FROM finished", "DELETE FROM row_keys", "DELETE FROM meta")
READ_HEADER = """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version"""
CHECK = "PRAGMA quick_check(1)"
READ_META = "SELECT value FROM meta WHERE name = ?"
PUT_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
READ_PROGRESS = (
    'SELECT account, "window", position, "rows", pages, outcome, error, until, restarted FROM progress'
)
PUT_PROGRESS = "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
READ_NOT_CLOSED = f"{READ_PROGRESS} WHERE outcome NOT IN ('done', 'empty') OR position IS NOT NULL"
READ_OF_ACCOUNT = f"{READ_PROGRESS} WHERE account = ?"
READ_FINISHED_OF_ACCOUNT = f"{READ_FINISHED} WHERE account = ?"
READ_ROW_KEYS = 'SELECT keys FROM row_keys WHERE account = ? AND "window" = ? ORDER BY rowid'
ADD_ROW_KEYS = "INSERT INTO row_keys VALUES (?, ?, ?)"
DELETE_ROW_KEYS = 'DELETE FROM row_keys WHERE account = ? AND "window" = ?'

# How long to wait for another program that writes to the database.
BUSY_SECONDS = 0.5

# SQLITE_ERROR is a table or column that is not there.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DISK_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOLFS: errno.EFBIG,
    sqlite3.SQLITE_PROTOCOL: errno.ENOLCK,
}


class SQLiteCheckpoint(Checkpoint):
    """Keeps progress in an SQLite file; durable when ``commit`` returns (WAL, ``synchronous=FULL``).

    One run at a time may use it: a lock next to the file (``<path>.lock``) names its owner, and the system releases it
    when that process ends. The file holds the plan, the progress and the state of the output, but never a token.
    """

    def __init__(self, path: str | os.PathLike[str], *, step: Step = no_step) -> None:
        super().__init__()
        self.path = Path(path).absolute()  # the process may change its folder
        self._step = step
        self._worker: Worker | None = None
        self._lock: RunLock | None = None
        self._database: sqlite3.Connection | None = None
        self._stored: StoredRows | None = None
        # What ``hold`` made. It is removed if no plan is stored, such as when no account is found.
        self._is_new = False  # mutant: None is as good as False
        self._new_folders: list[Path] = []

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        if self._use != "none":
            raise UsageError(f"{self.path} is open already")
        self._use = "held"
        self._worker = Worker("truto-state")
        try:
            return await self._run(self._hold, fresh)
        except BaseException:
            await self.aclose()
            raise

    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        if self._use != "held":
            await self.hold(fresh=fresh)
        try:
            in_force = await self._run(self._open, plan, grow, fresh)
        except BaseException:
            await self.aclose()
            raise
        self._use = "open"  # mutant: only "none" and "held" are asked for
        return in_force

    async def load(self) -> dict[Key, Progress]:
        return await self._read(self._load_windows, READ_FINISHED, READ_PROGRESS)

    async def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]:
        begun = await self._read(self._load_begun)
        over = await self._read(self._read_over)
        while batch := await self._read(self._load_over, over, begun):
            for account in batch:
                yield account
        for number, account in enumerate(begun.items(), 1):
            yield account
            if number % YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        sink_state: bytes | None = None,
        *,
        row_keys: Mapping[Key, bytes] | None = None,
    ) -> None:
        await self._run(self._commit, dict(changes), sink_state, dict(row_keys or {}))

    async def row_keys(self, key: Key) -> bytes:
        return await self._read(self._read_row_keys, key)

    async def aclose(self) -> None:
        worker, self._worker = self._worker, None
        self._use = "none"
        if worker is not None:
            try:
                await worker.run(self._close)
            finally:
                worker.close()

    async def _run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._worker is None:
            raise UsageError(f"{self.path} is not open")
        return await self._worker.run(job, *args, **kwargs)  # pragma: no mutate - no job takes keywords

    async def _read(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        with self._errors("read"):
            return await self._run(job, *args, **kwargs)  # pragma: no mutate - no job takes keywords

    # Everything below runs in the worker's thread.

    def _hold(self, fresh: bool) -> Plan | None:
        with self._errors("open"):
            self._new_folders = Disk(self._step).make_folders(self.path.parent)
            if self.path.is_symlink():
                self._conflict("is a symbolic link: name the file it points to")
            self._lock = RunLock(self.path)
            self._lock.acquire()
            self._is_new = not self.path.exists()
            if self.path.is_file() and self.path.stat().st_nlink > 1:
                # Each name has its own lock and its own log: what was committed under one is unknown to the other.
                self._conflict("has another name as well, a hard link: remove that, or use a copy")
            try:
                database = self._connect()
            except (DamagedStateError, sqlite3.DatabaseError) as error:
                if not (fresh and _is_damage(error) and self._is_ours()):
                    raise
                self._disconnect()  # ``open`` replaces it
                return None
            return None if fresh else self._read_plan(database)

    def _open(self, plan: Plan | None, grow: bool, fresh: bool) -> Plan:
        with self._errors("open"):
            if self._database is None and fresh:
                self._remove_files()
                self._connect()
            database = self._opened()
            stored = None if fresh else self._read_plan(database)
            in_force = plan_in_force(stored, plan, grow=grow, path=str(self.path))
            if in_force != stored:
                with self._transaction() as database:
                    if fresh:
                        for statement in CLEAR:
                            database.execute(statement)
                    _put(database, "plan", in_force.to_json().encode())
            self._plan = in_force
            self._stored = StoredRows(in_force)
            self._new_folders = []  # they are used, and stay
            self._sink_state = self._get(database, "sink")
            return in_force

    def _connect(self) -> sqlite3.Connection:
        self._database = sqlite3.connect(
            self.path,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # mutant: any would do, as all transactions are explicit
            check_same_thread=False,
        )
        self._check_schema(self._database)
        for statement in DURABLE:
            self._database.execute(statement)
        return self._database

    def _is_ours(self) -> bool:
        """Tell by its header whether a damaged file is one of our state files."""
        with self.path.open("rb") as file:
            header = file.read(72)
        return header[68:] == APPLICATION_ID.to_bytes(4)

    def _disconnect(self) -> None:
        """Close the database. On a full disk its log remains, and the next run reads it."""
        database, self._database = self._database, None
        with suppress(sqlite3.Error):
            if database is not None:
                database.close()

    def _remove_files(self) -> None:
        for suffix in ("-wal", "-shm", ""):  # pragma: no mutate - SQLite drops a stale log too
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _check_schema(self, database: sqlite3.Connection) -> None:
        """Create the tables in a new file, and refuse one that is damaged, too new or not ours."""
        application, version, tables = database.execute(READ_HEADER).fetchone()
        if not (application or version or tables):
            with self._transaction():
                for statement in SCHEMA:
                    database.execute(statement)
            return
        if application != APPLICATION_ID:
            self._conflict("is the database of another program: use another path")
        if version > SCHEMA_VERSION:
            self._conflict(
                f"was written by a newer version of this package (its format is {version}, this version reads up "
                f"to {SCHEMA_VERSION}): upgrade, or use another folder"
            )
        (finding,) = database.execute(CHECK).fetchone()
        if finding != "ok":
            self._damaged(str(finding))
        if version < SCHEMA_VERSION:
            with self._transaction():
                for statement in FROM_VERSION_1 if version < 2 else ():
                    database.execute(statement)
                for statement in FROM_VERSION_2:
                    database.execute(statement)
                compact_all(database)

    def _read_plan(self, database: sqlite3.Connection) -> Plan | None:
        text = self._get(database, "plan")
        if text is None:
            return None
        try:
            return Plan.from_json(text)
        except UsageError as error:
            self._damaged(str(error))

    def _get(self, database: sqlite3.Connection, name: str) -> bytes | None:
        row = database.execute(READ_META, (name,)).fetchone()
        if row is not None and type(row[0]) is not bytes:
            self._damaged(f"its {name} is not the bytes that were stored")
        return None if row is None else row[0]

    def _load_windows(self, finished: str, others: str, *which: str) -> dict[Key, Progress]:
        """Return what is stored of each window."""
        stored, database = self._planned()
        found: dict[Key, Progress] = {}
        for row in database.execute(finished, which):
            found.update({(name, window): progress for name, window, progress in stored.finished(row)})
        for row in database.execute(others, which):
            name, window, progress = stored.progress(row)
            found[name, window] = progress
        return found

    def _load_begun(self) -> dict[str, AccountProgress]:
        """Return the progress of windows that are not closed, by account."""
        stored, database = self._planned()
        found: dict[str, AccountProgress] = {}
        for row in database.execute(READ_NOT_CLOSED):
            name, window, progress = stored.progress(row)
            entry = found.setdefault(name, AccountProgress())
            entry.later[window] = progress
            entry.has_rows |= progress.rows > 0
        return found

    def _read_over(self) -> sqlite3.Cursor:
        return self._opened().execute(READ_OVER)

    def _load_over(
        self, over: sqlite3.Cursor, begun: dict[str, AccountProgress]
    ) -> list[tuple[str, AccountProgress]]:
        """Return some accounts with finished windows, removing them from ``begun``; an empty result is the end."""
        stored, _ = self._planned()
        found: list[tuple[str, AccountProgress]] = []
        for row in over.fetchmany(YIELD_EVERY):
            name, windows, has_rows = stored.over(row)
            entry = begun.pop(name, None) or AccountProgress()
            entry.has_rows |= has_rows
            if windows is not None and not any(at < windows for at in entry.later):  # mutant: <= is slower
                entry.finished = windows
            else:  # some of them are not closed; no pull leaves gaps
                every = self._load_windows(READ_FINISHED_OF_ACCOUNT, READ_OF_ACCOUNT, name)
                entry.later = {window: progress for (_, window), progress in every.items()}
                entry.close_up()
            found.append((name, entry))
        return found

    def _read_row_keys(self, key: Key) -> bytes:
        found = [keys for (keys,) in self._opened().execute(READ_ROW_KEYS, key)]
        if not all(type(keys) is bytes for keys in found):
            self._damaged(f"the row keys of account {key[0]!r} make no sense")
        return b"".join(found)

    def _commit(
        self, changes: Mapping[Key, Progress], sink_state: bytes | None, row_keys: Mapping[Key, bytes]
    ) -> None:
        progress = [
            (
                account,
                window,
                item.position,
                item.rows,
                item.pages,
                item.outcome,
                _storable(item.error),
                item.until,
                item.is_restarted,
            )
            for (account, window), item in changes.items()
        ]
        over = {key for key, item in changes.items() if item.is_over}
        new_keys = [(*key, keys) for key, keys in row_keys.items() if key not in over]
        old_keys = [key for key in over if changes[key].pages > 1]  # mutant: of one page, none were stored
        stored, _ = self._planned()
        is_compacted = stored.windows >= COMPACT_WINDOWS
        with self._errors("write"), self._transaction() as database:
            for account, window in changes if is_compacted else ():  # mutant: otherwise nothing shares a row
                expose(database, account, window)
            database.executemany(PUT_PROGRESS, progress)
            for account, window in over if is_compacted else ():
                if (window + 1) % COMPACT_WINDOWS == 0 or window + 1 == stored.windows:
                    compact(database, account, window)
            database.executemany(ADD_ROW_KEYS, new_keys)
            database.executemany(DELETE_ROW_KEYS, old_keys)
            if sink_state is not None:
                _put(database, "sink", sink_state)
        if sink_state is not None:
            self._sink_state = sink_state

    def _close(self) -> None:
        lock, self._lock = self._lock, None
        self._disconnect()
        is_unused = self._is_new and self._plan is None
        self._is_new = False  # mutant: None is as good as False
        if is_unused:
            with suppress(OSError):
                self._remove_files()
        if lock is not None:
            lock.release()
        with suppress(OSError):  # there is something in it
            for folder in self._new_folders:
                folder.rmdir()

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise UsageError(f"{self.path} is not open")  # pragma: no mutate - the public methods check first
        return self._database

    def _planned(self) -> tuple[StoredRows, sqlite3.Connection]:
        if self._stored is None:
            raise UsageError(f"{self.path} is not open")
        return self._stored, self._opened()

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            if self._lock is not None:
                self._lock.check()
            self._step("checkpoint")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self, doing: str) -> Generator[None]:
        """Map errors of the system and of SQLite to ours."""
        try:
            yield
        except OSError as error:
            raise storage_error(error, self.path, doing) from error
        except ValueError as error:  # of ``stored.py``
            self._damaged(str(error), error)
        except sqlite3.Error as error:
            primary = _primary_code(error)
            if primary in _DAMAGE or "decode" in str(error):  # text that is not UTF-8 has no code of its own
                self._damaged(str(error), error)
            if primary in _BUSY:
                raise StateConflictError(
                    f"another program is writing to {self.path}: close it and run again", path=str(self.path)
                ) from error
            if primary in _DISK_ERRNO:
                reason = OSError(_DISK_ERRNO[primary], str(error))
                raise storage_error(reason, self.path, doing) from error
            raise

    def _conflict(self, what: str) -> NoReturn:
        raise StateConflictError(f"{self.path} {what}", path=str(self.path))

    def _damaged(self, what: str, cause: BaseException | None = None) -> NoReturn:
        raise DamagedStateError(
            f"{self.path} is damaged: {what}. Restore a copy, or start over with fresh=True",
            path=str(self.path),
        ) from cause

    def __repr__(self) -> str:
        return f"SQLiteCheckpoint({str(self.path)!r})"


def _primary_code(error: BaseException) -> int | None:
    """Return the primary result code of an SQLite error, None if it has none (such as a misuse of the module)."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _is_damage(error: BaseException) -> bool:
    return isinstance(error, DamagedStateError) or _primary_code(error) in _DAMAGE


def _storable(text: str | None) -> str | None:
    return text and encodable(text)


def _put(database: sqlite3.Connection, name: str, value: bytes) -> None:
    database.execute(PUT_META, (name, value))

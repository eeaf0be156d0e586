"""Lands pulls in a DuckDB file: rows as Arrow batches, and their progress, in one transaction.

All work on the database runs in one thread, in the order it was asked for. DuckDB itself keeps other processes out of
the file, and a lock beside it (``<file>.lock``) other pulls of this one; the epoch in ``_truto_pulls`` fences off a run
that lost both, such as on a file system without locks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from truto_ci_async._files import Step, Worker, no_step
from truto_ci_async._lock import RunLock
from truto_ci_async.errors import MissingExtraError, StateConflictError, StorageError, UsageError
from truto_ci_async.export.arrow import arrow_library, arrow_schema, record_batch
from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.export.schema import ColumnType
from truto_ci_async.pull.checkpoint.base import Key, Progress
from truto_ci_async.pull.plan.plan import Plan

from . import duckdb_sql as sql
from .landing import (
    FINGERPRINTS,
    PROGRESS,
    PULLS,
    REJECTED_COLUMNS,
    LandingMode,
    LandingStore,
    OnRejected,
    Refused,
    Taken,
)
from .staging import MARKS, STAGED, SyncStep
from .tables import FoundColumn, MergeKey, missing_columns, quoted, reach_sql

P = ParamSpec("P")
R = TypeVar("R")


class DuckDBStore(LandingStore):
    """Writes the rows of a pull to a table in a DuckDB file, and the progress to tables beside it.

        store = DuckDBStore("calls.db", table="interactions", mode="merge")
        report = await truto.interactions.pull_to(store, account_ids, start_time="-30d", window="day")

    ``resource``     what is pulled; ``table`` its name. The table is made if it is missing; otherwise compared.
    ``mode``         ``append`` adds rows; ``merge`` replaces those of the same account, window and id (see the docs).
    ``add_columns``  add columns to a table that lacks them. Otherwise that is an error.
    ``on_rejected``  ``stop`` at a row the database refuses, or ``keep`` it in ``<table>_rejected`` and go on.

    :raises MissingExtraError: duckdb or arro3-core is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resource: str = "interactions",
        table: str | None = None,
        mode: LandingMode = "append",
        add_columns: bool = False,
        on_rejected: OnRejected = "stop",
        step: Step = no_step,
    ) -> None:
        super().__init__(
            resource=resource,
            table=table,
            mode=mode,
            add_columns=add_columns,
            on_rejected=on_rejected,
            step=step,
        )
        if not os.fspath(path):
            raise UsageError("the name of the file is empty")
        self.path = Path(path).absolute()  # the process may change its folder
        self._duckdb = _duckdb()
        self._arrow = arrow_library("duckdb")
        self._arrow_schema = arrow_schema(self.schema, self._arrow)
        self._target = quoted(self.table)
        self._worker: Worker | None = None
        self._lock: RunLock | None = None
        self._database: Any = None

    # --- life ------------------------------------------------------------------------------------------

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        """Lock out other runs, and make sure that the table fits. Return the stored plan."""
        if self._worker is not None:
            raise StateConflictError(f"another pull of this process uses {self!r}", pid=os.getpid())
        self._worker = Worker("truto-duckdb")
        try:
            return await self._run("open", self._hold, fresh)
        except BaseException:
            await self.aclose()
            raise

    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        """Make the tables, begin an epoch, and return the plan in force.

        :raises StateConflictError: another process or run holds the file, it belongs to another plan, or the table
            does not fit.
        :raises StorageError: the file cannot be opened.
        """
        if self._worker is None:
            await self.hold(fresh=fresh)
        try:
            self._plan = await self._run("open", self._begin, plan, grow, fresh)
        except BaseException:
            await self.aclose()
            raise
        self._forget_pages()
        self._is_open = True
        return self._plan

    async def open_sync(self, plan: Plan, accounts: Sequence[str], *, fresh: bool) -> dict[str, str]:
        """Begin an epoch of a sync, and return the marks of some accounts: see ``SyncStore``."""
        self._begin_sync()
        await self.open(plan, fresh=fresh)
        return dict(await self._run("read", self._all, sql.READ_MARKS, self.table, list(accounts)))

    async def load(self) -> dict[Key, Progress]:
        """Return all progress."""
        self._require_open()
        return self._read_progress(await self._run("read", self._all, sql.READ_PROGRESS, self.table))

    async def row_fingerprints(self, key: Key) -> bytes:
        """Return the fingerprints stored for a walk, in the order of their commits."""
        rows = await self._run("read", self._all, sql.READ_FINGERPRINTS, self.table, *key)
        return b"".join([row[0] for row in rows])

    async def _land(self, taken: Taken) -> None:
        refused = await self._run("write", self._write, taken)
        self._commits += 1
        self._tell_refused(refused)

    async def aclose(self) -> None:
        """Close the file, and let other runs in."""
        worker, self._worker = self._worker, None
        self._is_open, self._staging = False, None
        if worker is not None:
            try:
                await worker.run(self._close)
            finally:
                worker.close()

    def __repr__(self) -> str:
        return f"DuckDBStore({str(self.path)!r}, table={self.table!r}, mode={self.mode!r})"

    async def _run(self, what: str, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._worker is None:
            raise UsageError(f"{self.path} is not open")

        def guarded() -> R:
            with self._errors(what):
                return job(*args, **kwargs)

        return await self._worker.run(guarded)

    # Everything below runs in the worker's thread.

    def _hold(self, fresh: bool) -> Plan | None:
        lock = RunLock(self.path)
        lock.acquire()
        self._lock = lock
        self._database = self._duckdb.connect(str(self.path))
        self._missing_columns()
        return None if fresh else self._stored_plan()

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(self._duckdb.Error):
                database.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _begin(self, plan: Plan | None, grow: bool, fresh: bool) -> Plan:
        with self._transaction():
            self._make_tables()
            chosen = self._choose_plan(plan, grow=grow, fresh=fresh)
            owner = f"{socket.gethostname()}:{os.getpid()}"
            ((self._epoch, self._commits),) = self._all(sql.BEGIN_EPOCH, self.table, chosen.to_json(), owner)
        return chosen

    def _missing_columns(self) -> list[str] | None:
        """Return the columns to add to the table; None: there is no table."""
        found = [FoundColumn(*row) for row in self._all(sql.READ_COLUMNS, self.table)]
        if not found:
            return None
        return missing_columns(
            self.schema, found, table=self.table, types=sql.TYPES, fits=_fits, add_columns=self._add_columns
        )

    def _make_tables(self) -> None:
        missing = self._missing_columns()
        if missing is None:
            columns = (f"{quoted(column.name)} {sql.TYPES[column.type]}" for column in self.schema)
            self._all(f"CREATE TABLE {self._target} ({', '.join(columns)})")
        for name in missing or ():
            column = f"{quoted(name)} {sql.TYPES[self.schema.types[name]]}"
            self._all(f"ALTER TABLE {self._target} ADD COLUMN {column}")
        for statement in sql.STATE_TABLES:
            self._all(statement)
        if self._staging is not None:
            for statement in sql.SYNC_TABLES:
                self._all(statement)
            self._all(f"DELETE FROM {STAGED} WHERE name = ?", self.table)
        if self._on_rejected == "keep":
            self._all(
                f"""CREATE TABLE IF NOT EXISTS {quoted(self.rejected_table)} (integrated_account_id VARCHAR,
                    key VARCHAR, window_start TIMESTAMPTZ, window_end TIMESTAMPTZ, error VARCHAR, "row" VARCHAR,
                    rejected_at TIMESTAMPTZ NOT NULL)"""
            )

    def _stored_plan(self) -> Plan | None:
        if not self._all(sql.READ_COLUMNS, PULLS):
            return None
        rows = self._all(f"SELECT plan FROM {PULLS} WHERE name = ?", self.table)
        return self._read_plan(rows[0][0] if rows else None)

    def _choose_plan(self, plan: Plan | None, *, grow: bool, fresh: bool) -> Plan:
        self._check_resource(plan)
        stored = None if fresh else self._stored_plan()
        ((over,),) = self._all(sql.COUNT_OVER, self.table)
        chosen, is_new = self._choose(stored, plan, grow=grow, over=over)
        if not is_new:
            return chosen
        for table in (PROGRESS, FINGERPRINTS, *(() if self._staging is None else (MARKS,))):
            self._all(f"DELETE FROM {table} WHERE name = ?", self.table)
        if fresh:
            self._all(f"DELETE FROM {self._target} WHERE {sql.REACH}", *self._reach(chosen))
        elif self.mode == "append" and self._all(
            f"SELECT 1 FROM {self._target} WHERE {sql.REACH} LIMIT 1", *self._reach(chosen)
        ):
            raise self._doubled()
        return chosen

    # --- a commit --------------------------------------------------------------------------------------

    def _write(self, taken: Taken) -> list[Refused]:
        parts, sync = self._split(taken)
        data = self._columns(parts)
        if sync is not None and sync.fetched:
            kept = self._all(sql.READ_STAGED, self.table, list(sync.fetched))
            data = self._with_kept([row[0] for row in kept], data)
        refused: dict[int, Refused] = {}
        try:
            self._write_all(taken, data, refused, sync)
        except _RefusedError:
            refused = self._find_refused(data, [], range(data.num_rows), sync)
            self._write_all(taken, data, refused, sync)
        self._step("committed")
        return list(refused.values())

    def _write_all(
        self, taken: Taken, data: ColumnData, refused: dict[int, Refused], sync: SyncStep | None
    ) -> None:
        with self._transaction():
            self._step("fence")
            if not self._all(sql.COUNT_COMMIT, self.table, self._epoch, self._commits):
                raise self._fenced()
            kept = [index for index in range(data.num_rows) if index not in refused] if refused else None
            if sync is not None:
                self._empty_windows(sync)
            self._insert(data, kept, merges=not self._is_replaced(sync))
            for each in refused.values():
                values = [getattr(each, name) for name in Refused.__struct_fields__]
                self._all(
                    f"""INSERT INTO {quoted(self.rejected_table)} ({", ".join(REJECTED_COLUMNS)})
                        VALUES (?, ?, ?, ?, ?, ?, now())""",
                    *values,
                )
            self._step("progress")
            self._put_progress(taken)
            if sync is not None:
                self._put_marks(sync)
            self._step("commit")

    def _empty_windows(self, sync: SyncStep) -> None:
        if not sync.windows or self._key is None:
            return
        self._step("empty")
        rows = [[each.account, each.start, each.end, each.keeps_missing] for each in sync.windows]
        # Bounds of all windows together let DuckDB skip the parts of the table that are older.
        starts, ends = (
            [each for each in column if each] for column in zip(*[row[1:3] for row in rows], strict=True)
        )
        near = "AND old.window_end > ? AND old.window_start < ?" if starts and ends else ""
        self._all(
            f"""DELETE FROM {self._target} AS old USING ({sql.READ_WINDOWS}) AS read
                WHERE old.integrated_account_id = read.account AND {reach_sql(self.resource, "old", "read")}
                AND (NOT read.keeps OR {self._key.id_sql("old")} IS NULL) {near}""",
            *map(list, zip(*rows, strict=True)),
            *([min(starts), max(ends)] if near else []),
        )

    def _put_marks(self, sync: SyncStep) -> None:
        """Store the marks, and the pages of windows that are still open."""
        if sync.forgotten:
            self._all(sql.DELETE_STAGED, self.table, list(sync.forgotten))
        if sync.kept:
            self._step("staged")
            self._all(sql.PUT_STAGED, self.table, self._commits, *map(list, zip(*sync.kept, strict=True)))
        if sync.marks:
            self._step("marks")
            self._all(sql.PUT_MARKS, self.table, *map(list, zip(*sync.marks, strict=True)))

    def _insert(self, data: ColumnData, kept: Sequence[int] | None, *, merges: bool = True) -> None:
        if kept is not None:
            data = ColumnData(
                data.schema, [[column[index] for index in kept] for column in data.values], len(kept)
            )
        if not data.num_rows:
            return
        batch = record_batch(data, self._arrow, self._arrow_schema)
        self._database.register(sql.BATCH, self._arrow.table.from_batches([batch], schema=self._arrow_schema))
        try:
            if merges and self._key is not None:
                self._step("merge")
                self._delete_old(data, self._key)
            self._step("insert")
            columns = ", ".join(map(quoted, self.schema.names))
            self._all(f"INSERT INTO {self._target} ({columns}) SELECT {columns} FROM {sql.BATCH}")
        except self._refusals as error:
            raise _RefusedError(" ".join(str(error).split())) from error
        finally:
            with suppress(
                self._duckdb.Error
            ):  # a transaction that failed allows nothing; the next batch replaces it
                self._database.unregister(sql.BATCH)

    def _delete_old(self, data: ColumnData, key: MergeKey) -> None:
        """Delete the rows that those of the batch replace.

        Plain equality lets DuckDB skip parts of the table whose windows are others; nulls are for a statement of their
        own.
        """
        delete = f"DELETE FROM {self._target} AS old USING {sql.BATCH} AS new WHERE"
        self._all(f"{delete} {key.condition('old', 'new', equals='=')}")
        columns = dict(zip(data.schema.names, data.values, strict=True))
        nullable = key.same[1:]
        if any(None in columns[name] for name in nullable):
            is_null = " OR ".join(f"new.{quoted(name)} IS NULL" for name in nullable)
            self._all(f"{delete} ({is_null}) AND {key.condition('old', 'new')}")

    def _find_refused(
        self, data: ColumnData, good: list[int], some: Sequence[int], sync: SyncStep | None
    ) -> dict[int, Refused]:
        """Return which of ``some`` rows are refused, given those that are good; these are added to ``good``."""
        try:
            with self._transaction(commits=False):
                if sync is not None:
                    self._empty_windows(sync)
                self._insert(data, [*good, *some], merges=not self._is_replaced(sync))
            good += some
            return {}
        except _RefusedError as error:
            if len(some) == 1:
                return {some[0]: self._refused(data, some[0], str(error))}
        middle = len(some) // 2
        found = self._find_refused(data, good, some[:middle], sync)
        return found | self._find_refused(data, good, some[middle:], sync)

    def _put_progress(self, taken: Taken) -> None:
        if rows := taken.progress_rows():
            self._all(sql.PUT_PROGRESS, self.table, *map(list, zip(*rows, strict=True)))
        over = taken.over()
        if over and self._all(sql.HAS_FINGERPRINTS, self.table):
            self._all(sql.DELETE_FINGERPRINTS, self.table, *map(list, zip(*over, strict=True)))
        if added := taken.fingerprint_rows():
            self._all(sql.ADD_FINGERPRINTS, self.table, self._commits, *map(list, zip(*added, strict=True)))

    @contextmanager
    def _transaction(self, *, commits: bool = True) -> Generator[None]:
        self._database.begin()
        try:
            yield
            if commits:
                self._database.commit()
            else:
                self._database.rollback()
        except BaseException:
            with suppress(self._duckdb.Error):
                self._database.rollback()
            raise

    def _all(self, query: str, *values: Any) -> list[Any]:
        found: list[Any] = self._database.execute(query, values).fetchall()
        return found

    # --- errors ----------------------------------------------------------------------------------------

    @property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """What DuckDB raises for a row that it does not take."""
        errors = self._duckdb
        return errors.DataError, errors.IntegrityError, errors.InvalidInputException

    @contextmanager
    def _errors(self, what: str) -> Generator[None]:
        try:
            if self._lock is not None:
                self._lock.check()
            yield
        except self._duckdb.IOException as error:
            if "lock on file" in str(error):
                raise StateConflictError(
                    f"another process has {self.path} open: {error}. Close it there", path=str(self.path)
                ) from error
            raise self._failed(what, error) from error
        except (self._duckdb.Error, _RefusedError, OSError) as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: Exception) -> StorageError:
        text = " ".join(str(error).split())
        return StorageError(
            f"cannot {what} the table {self.table} in {self.path}: {text}", path=str(self.path)
        )


class _RefusedError(Exception):
    """Some row is one that the database does not take."""


def _fits(wanted: ColumnType, found: str) -> bool:
    return found == sql.TYPES[wanted] or found in sql.ALSO.get(wanted, ())


def _duckdb() -> Any:
    try:
        return import_module("duckdb")
    except ImportError:
        raise MissingExtraError("duckdb", "duckdb") from None

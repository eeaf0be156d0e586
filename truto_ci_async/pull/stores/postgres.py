"""Lands pulls in PostgreSQL: rows by COPY, and their progress, in one transaction.

One run at a time writes to a table, or one of each shard of a plan: an advisory lock refuses a second one at once, and
the epoch in ``_truto_pulls`` fences off a run whose lock was lost with its connection. Each shard has its own of both.
A lost connection is made anew and the commit repeated. If it was lost during COMMIT, the number of the last commit
tells whether it took place; reading that number waits for the old transaction to end.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio

from truto_ci_async._checks import check_number
from truto_ci_async._files import Step, no_step
from truto_ci_async.errors import StateConflictError, StorageError, UsageError
from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.pull.checkpoint.base import Key, Progress
from truto_ci_async.pull.plan.plan import Plan

from . import postgres_sql as sql
from .copy_text import CopyText, copy_text, tell_changed
from .dsn import Dsn
from .landing import LandingMode, LandingStore, OnRejected, Refused, Taken, logger
from .postgres_errors import LostError, fields_of, is_of_a_row, is_transient, psycopg_library, reason
from .postgres_shards import plan_of_shards, shard_name
from .postgres_sync import empty_windows, put_marks, read_marks, read_staged
from .staging import SyncStep
from .tables import FoundColumn, missing_columns

if TYPE_CHECKING:
    import psycopg

# How long a commit is repeated while the server cannot be reached, and the pauses in between.
RECONNECT_SECONDS: Final = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# How long the lock of a connection that was lost may stay held.
LOCK_SECONDS: Final = 10.0
# And that of a run that was killed a moment ago.
HOLD_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 10
# The server cuts names at 63 bytes, without a word; ours add to that of the table.
MAX_NAME_BYTES: Final = 50
# Text is sent in pieces of about so many characters.
SEND_CHARACTERS: Final = 2**20


class PostgresStore(LandingStore):
    """Writes the rows of a pull to a table in PostgreSQL, and the progress to tables beside it.

        store = PostgresStore("postgresql://user@host/db", table="interactions", mode="merge")
        report = await truto.interactions.pull_to(store, account_ids, start_time="-30d", window="day")

    ``resource``     what is pulled; ``table`` its name, or ``schema.name``. Made if it is missing; otherwise compared.
    ``mode``         ``append`` adds rows; ``merge`` replaces those of the same account, window and id (see the docs).
    ``add_columns``  add columns to a table that lacks them. Otherwise that is an error.
    ``on_rejected``  ``stop`` at a row the database refuses, or ``keep`` it in ``<table>_rejected`` and go on.
    ``shard``        (number, count): one of several runs that pull the shards of a plan into one table.
    ``reconnect_seconds``  how long to try to reach a server that was lost.

    Text that PostgreSQL does not take, a null character, becomes U+FFFD: it is logged, and counted in the report.

    :raises MissingExtraError: psycopg is not installed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        resource: str = "interactions",
        table: str | None = None,
        mode: LandingMode = "append",
        add_columns: bool = False,
        on_rejected: OnRejected = "stop",
        shard: tuple[int, int] | None = None,
        reconnect_seconds: float = RECONNECT_SECONDS,
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
        if max(map(len, self.table.encode().split(b"."))) > MAX_NAME_BYTES:
            raise UsageError(f"the name of the table is longer than {MAX_NAME_BYTES} bytes: {self.table}")
        check_number("reconnect_seconds", reconnect_seconds, least=0)
        self._dsn = Dsn(dsn)
        self._reconnect_seconds = reconnect_seconds
        self._psycopg = psycopg_library()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._backend = 0  # the server's process of the connection
        self._names = sql.Names("", self.table, self.schema)
        self._shard = shard
        self._is_held = False
        self._is_hurried = anyio.Event()

    # --- life ------------------------------------------------------------------------------------------

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        """Lock out other runs, and make sure that the table fits. Return the stored plan."""
        if self._is_held:
            raise StateConflictError(f"another pull of this process uses {self!r}", pid=os.getpid())
        self._is_held, self._is_hurried = True, anyio.Event()
        try:
            async with self._errors("open"):
                await self._connect(wait=HOLD_SECONDS)
                await self._missing_columns()
                return None if fresh else (await self._stored_plan())
        except BaseException:
            await self.aclose()
            raise

    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        """Make the tables, begin an epoch, and return the plan in force.

        :raises StateConflictError: another run holds the table, it belongs to another plan, or it does not fit.
        :raises StorageError: the server cannot be reached, or refuses.
        """
        if not self._is_held:
            await self.hold(fresh=fresh)
        try:
            async with self._errors("open"):
                connection = self._require_connection()
                async with connection.transaction():
                    await self._execute(sql.LOCK_DDL)
                    await self._make_tables()
                    self._plan = await self._choose_plan(plan, grow=grow, fresh=fresh)
                    self._epoch, self._commits = await self._one(
                        self._names.begin_epoch,
                        (self.pull_name, self._plan.to_json(), f"{socket.gethostname()}:{os.getpid()}"),
                    )
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
        async with self._errors("read"):
            return await read_marks(accounts, self._names, self.table_name, self._execute)

    async def load(self) -> dict[Key, Progress]:
        """Return all progress."""
        self._require_open()
        async with self._errors("read"):
            cursor = await self._execute(self._names.read_progress, (self.pull_name,))
            return self._read_progress(await cursor.fetchall())

    async def row_fingerprints(self, key: Key) -> bytes:
        """Return the fingerprints stored for a walk, in the order of their commits."""
        self._require_open()

        async def read() -> bytes:
            cursor = await self._execute(self._names.read_fingerprints, (self.pull_name, *key))
            return b"".join([row[0] for row in await cursor.fetchall()])

        return cast("bytes", await self._survive(read))

    async def aclose(self) -> None:
        """Close the connection, and with it let other runs in."""
        self._is_open = self._is_held = False
        self._staging = None
        await self._disconnect()

    def hurry(self) -> None:
        """Wait no more for a server that was lost: try once more, then give up."""
        self._is_hurried.set()

    @property
    def table_name(self) -> str:
        """The name of the table with its schema."""
        return f"{self._names.schema}.{self._names.table}"

    @property
    def pull_name(self) -> str:
        """The name of the pull in the tables of the state."""
        return self.table_name if self._shard is None else shard_name(self._names, *self._shard)

    def __repr__(self) -> str:
        return f"PostgresStore({self._dsn!r}, table={self.table!r}, mode={self.mode!r})"

    # --- the connection --------------------------------------------------------------------------------

    async def _connect(self, *, wait: float) -> None:
        """Connect, and take the lock, for which a lost connection of ours may make us wait."""
        try:
            connection = await self._psycopg.AsyncConnection.connect(
                self._dsn.value,
                autocommit=True,
                prepare_threshold=None,  # a pooler may not know what another connection prepared
                connect_timeout=CONNECT_SECONDS,
                client_encoding="utf8",
                fallback_application_name="truto_ci_async",
            )
        except self._psycopg.ProgrammingError as error:
            raise UsageError(f"{self._dsn} is no URL of PostgreSQL: {self._text(error)}") from None
        self._connection = connection
        await self._execute(sql.KEEP_ALIVE)
        schema, _, table = self.table.rpartition(".")
        if not schema:
            (found,) = await self._one("SELECT current_schema()", ())
            schema = found or "public"
        self._names = sql.Names(schema, table, self.schema)
        until = time.monotonic() + wait
        if self._shard is not None:  # shards exclude a run of the whole, but not each other
            await self._lock(self.table_name, sql.TRY_LOCK_SHARED, until)
        await self._lock(self.pull_name, sql.TRY_LOCK, until)
        self._backend = connection.info.backend_pid

    async def _lock(self, name: str, statement: str, until: float) -> None:
        lock = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
        while not (await self._one(statement, (lock,)))[0]:
            if time.monotonic() >= until:
                await self._refuse(lock)
            await self._one(sql.END_BACKEND, (self._backend, lock))
            await anyio.sleep(FIRST_PAUSE)

    async def _refuse(self, lock: int) -> None:
        """:raises StateConflictError: somebody holds the lock."""
        cursor = await self._execute(sql.HOLDER, (lock,))
        row = await cursor.fetchone()
        if row is None:  # it was let go meanwhile
            return
        where = f" from {row[1]}" if row[1] else ""
        raise StateConflictError(
            f"another run pulls into the table {self.table}{where}, process {row[0]} of the server: wait for it, "
            "or use another table",
            path=self.table,
            pid=row[0],
        )

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.CancelScope(shield=True), suppress(self._psycopg.Error, OSError):
                await connection.close()

    def _require_connection(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None:
            raise self._psycopg.OperationalError("the connection is closed")
        return self._connection

    async def _one(self, query: str, values: Sequence[Any]) -> Any:
        cursor = await self._execute(query, values)
        return await cursor.fetchone()

    async def _execute(self, query: str, values: Sequence[Any] | None = None) -> psycopg.AsyncCursor[Any]:
        # Types want literal queries; the names in ours are quoted.
        return await self._require_connection().execute(cast("Any", query), values)

    async def _survive(self, job: Any) -> Any:
        """Run ``job``, over a new connection if the one there is was lost."""
        give_up: float | None = None
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._errors("write"):
                    if self._connection is None:
                        await self._reconnect()
                    return await job()
            except LostError as lost:
                await self._disconnect()
                now = time.monotonic()
                give_up = give_up or now + self._reconnect_seconds
                if now + pause > give_up or self._is_hurried.is_set():
                    raise StorageError(str(lost), path=self.table) from None
                logger.warning("%s; trying again in %.1f s", lost, pause)
                with anyio.move_on_after(pause):
                    await self._is_hurried.wait()
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _reconnect(self) -> None:
        await self._connect(wait=LOCK_SECONDS)
        async with self._require_connection().transaction():
            # Waits for a transaction that the old connection left behind, if it is still under way.
            found = await self._one(self._names.read_epoch, (self.pull_name,))
        if found is None or found[0] != self._epoch or found[1] not in (self._commits, self._commits + 1):
            raise self._fenced()
        self._stored_commits = found[1]

    # --- opening ---------------------------------------------------------------------------------------

    async def _missing_columns(self) -> list[str] | None:
        """Return the columns to add to the table; None: there is no table."""
        kind = await self._one(sql.READ_KIND, (self._names.schema, self._names.table))
        if kind is None:
            return None
        if kind[0] not in ("r", "p", "f"):
            raise StateConflictError(f"{self.table} is there, but is no table", path=self.table)
        cursor = await self._execute(sql.READ_COLUMNS, (self._names.schema, self._names.table))
        found = [FoundColumn(*row) for row in await cursor.fetchall()]
        return missing_columns(
            self.schema,
            found,
            table=self.table,
            types=sql.TYPES,
            fits=sql.fits,
            add_columns=self._add_columns,
        )

    async def _make_tables(self) -> None:
        missing = await self._missing_columns()
        if missing is None:
            await self._execute(self._names.create())
        elif missing:
            await self._execute(self._names.add_columns(missing))
        if self._key is not None:
            await self._execute(self._names.index(self._key))
        for statement in self._names.state_tables:
            await self._execute(statement)
        if self._staging is not None:
            for statement in self._names.sync_tables:
                await self._execute(statement)
            await self._execute(self._names.forget_staged, (self.table_name,))
        if self._on_rejected == "keep":
            await self._execute(self._names.create_rejected)

    async def _stored_plan(self) -> Plan | None:
        (is_there,) = await self._one("SELECT to_regclass(%s) IS NOT NULL", (self._names.pulls,))
        row = await self._one(self._names.read_plan, (self.pull_name,)) if is_there else None
        return self._read_plan(None if row is None else row[0])

    async def _choose_plan(self, plan: Plan | None, *, grow: bool, fresh: bool) -> Plan:
        self._check_resource(plan)
        if self._shard is not None:
            plan = await plan_of_shards(plan, self._shard, self._names, self._execute)
        stored = None if fresh else await self._stored_plan()
        (over,) = await self._one(self._names.count_over, (self.pull_name,))
        chosen, is_new = self._choose(stored, plan, grow=grow, over=over)
        if not is_new:
            return chosen
        for statement in self._names.forget:
            await self._execute(statement, (self.pull_name,))
        if self._staging is not None:
            await self._execute(self._names.forget_marks, (self.table_name,))
        if fresh:
            await self._execute(self._names.delete_rows, self._reach(chosen))
        elif self.mode == "append" and (await self._one(self._names.has_rows, self._reach(chosen)))[0]:
            raise self._doubled()
        return chosen

    # --- a commit --------------------------------------------------------------------------------------

    async def _land(self, taken: Taken) -> None:
        self._stored_commits = self._commits
        parts, sync = await anyio.to_thread.run_sync(self._split, taken)
        data = await anyio.to_thread.run_sync(self._columns, parts)
        if sync is not None and sync.fetched:
            read = partial(read_staged, sync, self._names, self.table_name, self._execute)
            kept = await self._survive(read)
            data = await anyio.to_thread.run_sync(self._with_kept, kept, data)
        text = await anyio.to_thread.run_sync(copy_text, data)
        refused: list[Refused] = []

        async def write() -> None:
            nonlocal refused
            if self._stored_commits == self._commits:  # or the connection was lost during COMMIT
                refused = await self._write_all(taken, data, text, sync)

        await self._survive(write)
        self._commits += 1
        self._step("committed")
        tell_changed(self.table, data, text)
        self.issues_count += len(text.changed)
        self._tell_refused(refused)

    async def _write_all(
        self, taken: Taken, data: ColumnData, text: CopyText, sync: SyncStep | None
    ) -> list[Refused]:
        connection = self._require_connection()
        async with connection.transaction():
            self._step("fence")
            if (
                await self._one(self._names.count_commit, (self.pull_name, self._epoch, self._commits))
                is None
            ):
                raise self._fenced()
            refused: list[Refused] = []
            merges = self._key is not None and not self._is_replaced(sync)
            if sync is not None and sync.windows and self._key is not None:
                self._step("empty")
                await empty_windows(sync, self._names.empty_windows(self.resource, self._key), self._execute)
            if data.num_rows:
                if merges:
                    await self._execute(self._names.create_staging)
                refused = await self._insert(data, text.lines, 0, data.num_rows, merges=merges)
            for each in refused:
                await self._execute(self._names.put_rejected, fields_of(each))
            self._step("progress")
            await self._put_progress(taken)
            if sync is not None:
                await put_marks(sync, self._names, self.table_name, self._execute, self._step)
            self._step("commit")
        return refused

    async def _insert(
        self, data: ColumnData, lines: list[str], start: int, end: int, *, merges: bool
    ) -> list[Refused]:
        """Write some rows. If the server refuses them, write each half, down to the rows that it refuses."""
        connection = self._require_connection()
        try:
            async with connection.transaction():  # a savepoint
                await self._copy(lines, start, end, merges=merges)
                if merges and self._key is not None:
                    self._step("merge")
                    for statement in self._names.merge(self._key):
                        await self._execute(statement)
            return []
        except self._psycopg.Error as error:
            if connection.closed or not is_of_a_row(error):
                raise
            if end - start == 1:
                return [self._refused(data, start, self._dsn.redact(" ".join(reason(error).split())))]
        middle = (start + end) // 2
        refused = await self._insert(data, lines, start, middle, merges=merges)
        return refused + await self._insert(data, lines, middle, end, merges=merges)

    async def _copy(self, lines: list[str], start: int, end: int, *, merges: bool) -> None:
        self._step("copy")
        target = self._names.copy_staging if merges else self._names.copy
        async with (
            self._require_connection().cursor() as cursor,
            cursor.copy(cast("Any", target)) as copy,
        ):
            at = start
            while at < end:
                size, piece = 0, at
                while piece < end and size < SEND_CHARACTERS:
                    size += len(lines[piece])
                    piece += 1
                await copy.write("".join(lines[at:piece]).encode("utf-8", "replace"))
                at = piece

    async def _put_progress(self, taken: Taken) -> None:
        if rows := taken.progress_rows():
            columns = [list(column) for column in zip(*rows, strict=True)]
            await self._execute(self._names.put_progress, (self.pull_name, *columns))
        if over := taken.over():
            accounts, windows = map(list, zip(*over, strict=True))
            await self._execute(self._names.delete_fingerprints, (accounts, windows, self.pull_name))
        if added := taken.fingerprint_rows():
            await self._execute(
                self._names.add_fingerprints, (self.pull_name, *map(list, zip(*added, strict=True)))
            )

    # --- errors ----------------------------------------------------------------------------------------

    def _text(self, error: BaseException) -> str:
        return self._dsn.redact(" ".join(str(error).split())) or type(error).__name__

    @asynccontextmanager
    async def _errors(self, what: str) -> AsyncGenerator[None]:
        """Raise psycopg's errors as ours, without the password. One of a lost connection is a ``LostError``."""
        try:
            yield
        except (self._psycopg.Error, OSError) as error:
            text = f"cannot {what} the table {self.table} in {self._dsn}: {self._text(error)}"
            cause = error if self._dsn.redact(str(error)) == str(error) else None
            connection = self._connection
            is_lost = connection is None or connection.closed or connection.broken
            if what == "write" and (is_lost or is_transient(error)):
                raise LostError(text) from cause
            raise StorageError(text, path=self.table) from cause
        except asyncio.CancelledError:
            await self._disconnect()  # it is in the middle of something
            raise

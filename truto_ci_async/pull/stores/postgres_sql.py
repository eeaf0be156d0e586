"""The statements of ``PostgresStore``, and the types of its columns."""

from __future__ import annotations

from typing import Final

from truto_ci_async.export.schema import ColumnType, Schema

from .landing import FINGERPRINTS, PROGRESS, PROGRESS_COLUMNS, PULLS, REJECTED_COLUMNS
from .staging import MARKS, STAGED
from .tables import MergeKey, quoted, reach_sql

TYPES: Final[dict[ColumnType, str]] = {
    "float64": "double precision",
    "int64": "bigint",
    "timestamp": "timestamp with time zone",
    "text": "text",
    "json": "json",  # jsonb has a limit of 256 MB, and keeps neither spaces nor the order of members
    "bool": "boolean",
}
# What a table of the user's may have in their place.
_ALSO: Final[dict[ColumnType, tuple[str, ...]]] = {
    "float64": ("numeric",),
    "int64": ("numeric",),
    "timestamp": ("timestamp(6) with time zone",),
    "text": ("character varying",),
    "json": ("jsonb", "text"),
    "bool": (),
}
_PROGRESS_TYPES: Final = (
    "text",
    "int",
    "text",
    "bigint",
    "bigint",
    "text",
    "text",
    "double precision",
    "boolean",
)

TRY_LOCK: Final = "SELECT pg_try_advisory_lock(%s)"
TRY_LOCK_SHARED: Final = "SELECT pg_try_advisory_lock_shared(%s)"
# Two runs on different tables may make the tables of the state at the same time.
LOCK_DDL: Final = "SELECT pg_advisory_xact_lock(hashtext('truto_ci_async tables'))"
# So that the server notices, within minutes, that a machine is gone. Sockets of one machine have no such settings.
KEEP_ALIVE: Final = """SELECT set_config('tcp_keepalives_idle', '60', false),
    set_config('tcp_keepalives_interval', '10', false), set_config('tcp_keepalives_count', '6', false)"""
_OF_LOCK = """locktype = 'advisory' AND objsubid = 1 AND database = (SELECT oid FROM pg_database
    WHERE datname = current_database()) AND (classid::bigint << 32) | objid::bigint = {lock}"""
HOLDER: Final = f"""SELECT l.pid, a.client_addr FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
    WHERE l.granted AND {_OF_LOCK.format(lock="%s")}"""
# Ends the backend of a connection that was lost, if that still holds the lock: nobody is at its other end.
END_BACKEND: Final = f"""SELECT count(pg_terminate_backend(pid)) FROM pg_locks
    WHERE pid = %s AND granted AND {_OF_LOCK.format(lock="%s")}"""
READ_KIND: Final = """SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s"""
READ_COLUMNS: Final = """SELECT a.attname, format_type(a.atttypid, a.atttypmod),
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = ''
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""


def fits(wanted: ColumnType, found: str) -> bool:
    """Tell whether a column of type ``found`` takes all values of a type without changing any."""
    base = found.partition("(")[0].strip() if found.startswith(("character varying", "numeric")) else found
    return base == TYPES[wanted] or base in _ALSO[wanted]


class Names:
    """The statements for one table, and for the state that is in the same schema."""

    def __init__(self, schema: str, table: str, columns: Schema) -> None:
        self.schema, self.table = schema, table
        self._schema = columns
        self._columns = ", ".join(map(quoted, columns.names))
        self.target = f"{quoted(schema)}.{quoted(table)}"
        self.rejected = f"{quoted(schema)}.{quoted(table + '_rejected')}"
        self.pulls, progress, fingerprints = (
            f"{quoted(schema)}.{name}" for name in (PULLS, PROGRESS, FINGERPRINTS)
        )
        self._index = quoted(f"{table}_truto_key")
        self.state_tables = (
            f"""CREATE TABLE IF NOT EXISTS {self.pulls} (name text PRIMARY KEY, plan text NOT NULL,
                epoch bigint NOT NULL, commits bigint NOT NULL, owner text NOT NULL,
                begun_at timestamp with time zone NOT NULL)""",
            f"""CREATE TABLE IF NOT EXISTS {progress} (name text, {
                ", ".join(map(" ".join, zip(PROGRESS_COLUMNS, _PROGRESS_TYPES, strict=True)))
            }, PRIMARY KEY (name, account, "window"))""",
            f"""CREATE TABLE IF NOT EXISTS {fingerprints} (name text NOT NULL, account text NOT NULL,
                "window" int NOT NULL, number bigint GENERATED ALWAYS AS IDENTITY, fingerprints bytea NOT NULL,
                PRIMARY KEY (name, account, "window", number))""",
        )
        progress_columns, first = ", ".join(PROGRESS_COLUMNS), "name = %s"
        self.read_plan = f"SELECT plan FROM {self.pulls} WHERE {first}"
        self.begin_epoch = f"""INSERT INTO {self.pulls} AS p VALUES (%s, %s, 1, 0, %s, now())
            ON CONFLICT (name) DO UPDATE SET plan = excluded.plan, epoch = p.epoch + 1, owner = excluded.owner,
            begun_at = excluded.begun_at RETURNING epoch, commits"""
        self.read_epoch = f"SELECT epoch, commits FROM {self.pulls} WHERE {first} FOR UPDATE"
        self.count_commit = f"""UPDATE {self.pulls} SET commits = commits + 1
            WHERE {first} AND epoch = %s AND commits = %s RETURNING commits"""
        self.read_progress = f"SELECT {progress_columns} FROM {progress} WHERE {first}"
        self.count_over = f"SELECT count(*) FROM {progress} WHERE {first} AND outcome IN ('done', 'empty')"
        self.put_head = f"""INSERT INTO {self.pulls} VALUES (%s, %s, 0, 0, %s, now())
            ON CONFLICT (name) DO UPDATE SET plan = excluded.plan, begun_at = excluded.begun_at"""
        # Those that pulled the same windows, and have all of them.
        self.count_shards_over = f"""SELECT count(*) FROM {self.pulls} p, (SELECT %s::json AS plan) head
            WHERE p.name = ANY(%s) AND p.plan::json ->> 'windows' = head.plan ->> 'windows'
            AND p.plan::json ->> 'created_at' = head.plan ->> 'created_at'
            AND json_array_length(p.plan::json -> 'accounts') * json_array_length(p.plan::json -> 'windows') =
            (SELECT count(*) FROM {progress} g WHERE g.name = p.name AND g.outcome IN ('done', 'empty'))"""
        arrays = ", ".join(f"%s::{type}[]" for type in _PROGRESS_TYPES)
        updates = ", ".join(f"{name} = excluded.{name}" for name in PROGRESS_COLUMNS[2:])
        self.put_progress = f"""INSERT INTO {progress} (name, {progress_columns}) SELECT %s, * FROM unnest({arrays})
            ON CONFLICT (name, account, "window") DO UPDATE SET {updates}"""
        self.read_fingerprints = f"""SELECT fingerprints FROM {fingerprints}
            WHERE {first} AND account = %s AND "window" = %s ORDER BY number"""
        self.add_fingerprints = f"""INSERT INTO {fingerprints} (name, account, "window", fingerprints)
            SELECT %s, * FROM unnest(%s::text[], %s::int[], %s::bytea[])"""
        self.delete_fingerprints = f"""DELETE FROM {fingerprints} f USING unnest(%s::text[], %s::int[])
            AS over (account, "window") WHERE f.{first} AND f.account = over.account
            AND f."window" = over."window" """
        self.forget = (f"DELETE FROM {progress} WHERE {first}", f"DELETE FROM {fingerprints} WHERE {first}")
        reach = """integrated_account_id = ANY(%s) AND (window_start < %s::timestamptz) IS NOT FALSE
            AND (window_end > %s::timestamptz) IS NOT FALSE"""
        self.delete_rows = f"DELETE FROM {self.target} WHERE {reach}"
        self.has_rows = f"SELECT EXISTS (SELECT FROM {self.target} WHERE {reach})"
        marks, staged = (f"{quoted(schema)}.{name}" for name in (MARKS, STAGED))
        self.sync_tables = (
            f"""CREATE TABLE IF NOT EXISTS {marks} (name text, account text, mark text NOT NULL,
                PRIMARY KEY (name, account))""",
            f"""CREATE TABLE IF NOT EXISTS {staged} (name text NOT NULL, account text NOT NULL,
                number bigint GENERATED ALWAYS AS IDENTITY, page bytea NOT NULL,
                PRIMARY KEY (name, account, number))""",
            f"""CREATE INDEX IF NOT EXISTS {quoted(f"{table}_truto_window")}
                ON {self.target} (integrated_account_id, window_end)""",
        )
        self.forget_marks = f"DELETE FROM {marks} WHERE {first}"
        self.forget_staged = f"DELETE FROM {staged} WHERE {first}"
        self.read_marks = f"SELECT account, mark FROM {marks} WHERE {first} AND account = ANY(%s)"
        self.put_marks = f"""INSERT INTO {marks} (name, account, mark) SELECT %s, * FROM unnest(%s::text[], %s::text[])
            ON CONFLICT (name, account) DO UPDATE SET mark = excluded.mark"""
        self.read_staged = f"SELECT page FROM {staged} WHERE {first} AND account = ANY(%s) ORDER BY number"
        self.delete_staged = f"DELETE FROM {staged} WHERE {first} AND account = ANY(%s)"
        self.put_staged = f"""INSERT INTO {staged} (name, account, page)
            SELECT %s, * FROM unnest(%s::text[], %s::bytea[])"""
        self.create_staging = f"""CREATE TEMP TABLE IF NOT EXISTS _truto_staging ON COMMIT DELETE ROWS
            AS SELECT {self._columns} FROM {self.target} WITH NO DATA"""
        self.copy = f"COPY {self.target} ({self._columns}) FROM STDIN"
        self.copy_staging = f"COPY _truto_staging ({self._columns}) FROM STDIN"
        self.create_rejected = f"""CREATE TABLE IF NOT EXISTS {self.rejected} (integrated_account_id text, key text,
            window_start timestamp with time zone, window_end timestamp with time zone, error text, "row" text,
            rejected_at timestamp with time zone NOT NULL)"""
        self.put_rejected = f"""INSERT INTO {self.rejected} ({", ".join(REJECTED_COLUMNS)})
            VALUES (%s, %s, %s, %s, %s, %s, now())"""

    def create(self) -> str:
        columns = (f"{quoted(column.name)} {TYPES[column.type]}" for column in self._schema)
        return f"CREATE TABLE {self.target} ({', '.join(columns)})"

    def add_columns(self, names: list[str]) -> str:
        added = (f"ADD COLUMN {quoted(name)} {TYPES[self._schema.types[name]]}" for name in names)
        return f"ALTER TABLE {self.target} {', '.join(added)}"

    def index(self, key: MergeKey) -> str:
        return f"CREATE INDEX IF NOT EXISTS {self._index} ON {self.target} ({key.same[0]}, ({key.id_sql()}))"

    def empty_windows(self, resource: str, key: MergeKey) -> str:
        """Delete the rows of windows: accounts, bounds, and whether only rows without a key are deleted."""
        return f"""DELETE FROM {self.target} old USING unnest(%s::text[], %s::timestamptz[], %s::timestamptz[],
            %s::bool[]) AS read (account, "start", "end", keeps) WHERE old.integrated_account_id = read.account
            AND {reach_sql(resource, "old", "read")} AND (NOT read.keeps OR {key.id_sql("old")} IS NULL)"""

    def merge(self, key: MergeKey) -> tuple[str, ...]:
        """Put what is in the staging table in place of the rows with the same keys."""
        return (
            f"DELETE FROM {self.target} old USING _truto_staging new WHERE {key.condition('old', 'new')}",
            f"INSERT INTO {self.target} ({self._columns}) SELECT {self._columns} FROM _truto_staging",
            "DELETE FROM _truto_staging",
        )

"""The statements of ``DuckDBStore``, and the types of its columns."""

from __future__ import annotations

from typing import Final

from truto_ci_async.export.schema import ColumnType

from .landing import FINGERPRINTS, PROGRESS, PROGRESS_COLUMNS, PULLS
from .staging import MARKS, STAGED

TYPES: Final[dict[ColumnType, str]] = {
    "float64": "DOUBLE",
    "int64": "BIGINT",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "text": "VARCHAR",
    "json": "JSON",
    "bool": "BOOLEAN",
}
ALSO: Final[dict[ColumnType, tuple[str, ...]]] = {"int64": ("HUGEINT",), "json": ("VARCHAR",)}

PROGRESS_TYPES: Final = (
    "VARCHAR",
    "INT",
    "VARCHAR",
    "BIGINT",
    "BIGINT",
    "VARCHAR",
    "VARCHAR",
    "DOUBLE",
    "BOOLEAN",
)
STATE_TABLES: Final = (
    f"""CREATE TABLE IF NOT EXISTS {PULLS} (name VARCHAR PRIMARY KEY, plan VARCHAR NOT NULL, epoch BIGINT NOT NULL,
        commits BIGINT NOT NULL, owner VARCHAR NOT NULL, begun_at TIMESTAMP WITH TIME ZONE NOT NULL)""",
    f"""CREATE TABLE IF NOT EXISTS {PROGRESS} (name VARCHAR, {
        ", ".join(map(" ".join, zip(PROGRESS_COLUMNS, PROGRESS_TYPES, strict=True)))
    }, PRIMARY KEY (name, account, "window"))""",
    f"""CREATE TABLE IF NOT EXISTS {FINGERPRINTS} (name VARCHAR NOT NULL, account VARCHAR NOT NULL,
        "window" INT NOT NULL, number BIGINT NOT NULL, fingerprints BLOB NOT NULL)""",
)
BEGIN_EPOCH: Final = f"""INSERT INTO {PULLS} VALUES (?, ?, 1, 0, ?, now()) ON CONFLICT (name) DO UPDATE SET
    plan = excluded.plan, epoch = epoch + 1, owner = excluded.owner, begun_at = excluded.begun_at
    RETURNING epoch, commits"""
COUNT_COMMIT: Final = f"""UPDATE {PULLS} SET commits = commits + 1 WHERE name = ? AND epoch = ? AND commits = ?
    RETURNING commits"""
PUT_PROGRESS: Final = f"""INSERT INTO {PROGRESS} (name, {", ".join(PROGRESS_COLUMNS)})
    SELECT ?, {", ".join(f"unnest(?::{type}[])" for type in PROGRESS_TYPES)}
    ON CONFLICT (name, account, "window") DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in PROGRESS_COLUMNS[2:])}"""
READ_PROGRESS: Final = f"SELECT {', '.join(PROGRESS_COLUMNS)} FROM {PROGRESS} WHERE name = ?"
COUNT_OVER: Final = f"SELECT count(*) FROM {PROGRESS} WHERE name = ? AND outcome IN ('done', 'empty')"
READ_FINGERPRINTS: Final = f"""SELECT fingerprints FROM {FINGERPRINTS} WHERE name = ? AND account = ?
    AND "window" = ? ORDER BY number"""
HAS_FINGERPRINTS: Final = f"SELECT 1 FROM {FINGERPRINTS} WHERE name = ? LIMIT 1"
ADD_FINGERPRINTS: Final = f"""INSERT INTO {FINGERPRINTS} (name, number, account, "window", fingerprints)
    SELECT ?, ?, unnest(?::VARCHAR[]), unnest(?::INT[]), unnest(?::BLOB[])"""
DELETE_FINGERPRINTS: Final = f"""DELETE FROM {FINGERPRINTS} WHERE name = ? AND (account, "window") IN
    (SELECT (unnest(?::VARCHAR[]), unnest(?::INT[])))"""
READ_COLUMNS: Final = """SELECT column_name, data_type, NOT is_nullable AND column_default IS NULL
    FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = current_schema()
    AND lower(table_name) = lower(?) ORDER BY column_index"""
SYNC_TABLES: Final = (
    f"""CREATE TABLE IF NOT EXISTS {MARKS} (name VARCHAR, account VARCHAR, mark VARCHAR NOT NULL,
        PRIMARY KEY (name, account))""",
    f"""CREATE TABLE IF NOT EXISTS {STAGED} (name VARCHAR NOT NULL, account VARCHAR NOT NULL, number BIGINT NOT NULL,
        page BLOB NOT NULL)""",
)
READ_MARKS: Final = f"""SELECT account, mark FROM {MARKS} WHERE name = ?
    AND account IN (SELECT unnest(?::VARCHAR[]))"""
PUT_MARKS: Final = f"""INSERT INTO {MARKS} (name, account, mark) SELECT ?, unnest(?::VARCHAR[]), unnest(?::VARCHAR[])
    ON CONFLICT (name, account) DO UPDATE SET mark = excluded.mark"""
READ_STAGED: Final = f"""SELECT page FROM {STAGED} WHERE name = ? AND account IN (SELECT unnest(?::VARCHAR[]))
    ORDER BY number"""
DELETE_STAGED: Final = f"""DELETE FROM {STAGED} WHERE name = ? AND account IN (SELECT unnest(?::VARCHAR[]))"""
PUT_STAGED: Final = f"""INSERT INTO {STAGED} (name, number, account, page)
    SELECT ?, ?, unnest(?::VARCHAR[]), unnest(?::BLOB[])"""
READ_WINDOWS: Final = """SELECT unnest(?::VARCHAR[]) AS account, unnest(?::TIMESTAMPTZ[]) AS "start",
    unnest(?::TIMESTAMPTZ[]) AS "end", unnest(?::BOOLEAN[]) AS keeps"""
REACH: Final = """integrated_account_id IN (SELECT unnest(?::VARCHAR[]))
    AND (window_start < ?::TIMESTAMPTZ) IS DISTINCT FROM FALSE
    AND (window_end > ?::TIMESTAMPTZ) IS DISTINCT FROM FALSE"""
BATCH: Final = "_truto_batch"

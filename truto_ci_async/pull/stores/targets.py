"""The store that a URL names."""

from __future__ import annotations

from typing import Any, Final, TypeGuard

from truto_ci_async.errors import UsageError

from .base import TransactionalStore
from .dsn import Dsn
from .landing import LandingMode, OnRejected
from .object_storage import BUCKETS

SCHEMES: Final = {
    "postgresql": "postgresql://user@host/database (extra: postgres)",
    "duckdb": "duckdb:///file.db, or duckdb:////folder/file.db from the root (extra: duckdb)",
    "s3": "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix for Parquet (extra: cloud)",
}


def is_url(target: object) -> TypeGuard[str]:
    """Tell whether a target of ``pull_to`` is a URL, and no path of a folder."""
    return isinstance(target, str) and "://" in target


def store_for(
    url: str,
    *,
    resource: str,
    table: str | None = None,
    mode: LandingMode | None = None,
    add_columns: bool = False,
    on_rejected: OnRejected = "stop",
    shard: tuple[int, int] | None = None,
    is_sync: bool = False,
    part_seconds: float | None = None,
) -> TransactionalStore:
    """Return the store for a URL; the other arguments are those of the stores.

    :raises UsageError: nothing has such a URL.
    :raises MissingExtraError: the extra for it is not installed.
    """
    scheme, _, rest = url.partition("://")
    options: dict[str, Any] = {
        "resource": resource,
        "table": table,
        "mode": mode or "append",
        "add_columns": add_columns,
        "on_rejected": on_rejected,
    }
    if part_seconds is not None and scheme not in BUCKETS:
        raise UsageError("part_seconds is for Parquet; a database commits page by page")
    if scheme in ("postgresql", "postgres"):
        from .postgres import PostgresStore

        return PostgresStore(url, shard=shard, **options)
    if shard is not None and shard[1] > 1:
        raise UsageError(
            f"the shards of a plan have one folder or table of PostgreSQL; for {scheme}, give each a store of its own"
        )
    if scheme == "duckdb":
        from .duckdb import DuckDBStore

        if not rest.startswith("/") or len(rest) < 2:
            raise UsageError(f"{url!r} names no file: write {SCHEMES['duckdb']}")
        return DuckDBStore(rest[1:], **options)
    if scheme in BUCKETS:
        from .cloud import CloudStore

        _check_cloud_options(options, is_sync=is_sync)
        return CloudStore(url, resource=resource, part_seconds=part_seconds)
    known = "; ".join(SCHEMES.values())
    raise UsageError(f"cannot write to {str(Dsn(url))!r}: expected the path of a folder, or {known}")


def _check_cloud_options(options: dict[str, Any], *, is_sync: bool) -> None:
    """:raises UsageError: an option of databases was given."""
    if options["mode"] != ("merge" if is_sync else "append"):
        if is_sync:
            raise UsageError('a sync replaces rows: leave mode="append" out')
        raise UsageError('a pull only adds Parquet to object storage: mode="merge" is for a database')
    defaults = {"table": None, "add_columns": False, "on_rejected": "stop"}
    if given := [name for name, default in defaults.items() if options[name] != default]:
        raise UsageError(f"{', '.join(given)}: for the URL of a database; object storage has no such option")

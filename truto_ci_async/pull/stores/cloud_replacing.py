"""Which rows in object storage a sync replaces, and which parts have some of them. Pure code.

The manifest says of each part what times it covers and of which accounts, so that few parts are read. Of meetings,
users and transcripts one key belongs to one row, whatever its window: an object beside each part has the hashes of its
keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib import import_module
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

from truto_ci_async.errors import DamagedStateError
from truto_ci_async.export.arrow import microseconds
from truto_ci_async.export.column_values import ColumnData

from .base import ReadWindow
from .cloud_state import CloudPart
from .tables import MERGE_KEYS, MergeKey

#: An account, the bounds of the window if they belong to the key, which column the id is of, and the id.
RowKey: TypeAlias = tuple[Any, ...]

# A part of more accounts than this may have rows of any.
NAMED_ACCOUNTS: Final = 1_000

_ACCOUNT, _START, _END = "integrated_account_id", "window_start", "window_end"


class Contents:
    """What a part holds, collected batch by batch while it is written."""

    def __init__(self, resource: str) -> None:
        self._key = MERGE_KEYS[resource]
        self._accounts: set[str] = set()
        self._start: int | None = None
        self._end: int | None = None
        self._is_bounded = True
        self._hashes: set[int] | None = None if is_by_window(self._key) else set()

    def add(self, batch: Any) -> None:
        """Take a batch of pyarrow."""
        if not batch.num_rows:
            return
        columns = _columns(batch, (_START, _END, _ACCOUNT, *self._key.ids))
        self._accounts.update(columns[_ACCOUNT])
        starts, ends = columns[_START], columns[_END]
        self._is_bounded &= None not in starts and None not in ends
        if self._is_bounded:
            self._start = min(starts) if self._start is None else min(self._start, *starts)
            self._end = max(ends) if self._end is None else max(self._end, *ends)
        if self._hashes is not None:
            self._hashes.update(hashed(key) for key in row_keys(self._key, columns) if key is not None)

    def span(self) -> tuple[int | None, int | None]:
        """Return the bounds of all windows in microseconds since 1970, None if there are windows without."""
        return (self._start, self._end) if self._is_bounded else (None, None)

    def accounts(self) -> tuple[int, ...] | None:
        """Return the checksums of the accounts, None if there are too many."""
        if len(self._accounts) > NAMED_ACCOUNTS:
            return None
        return tuple(sorted(set(map(_checksum, self._accounts))))

    def keys(self) -> bytes | None:
        """Return the hashes of all keys, None if these have a window."""
        return None if self._hashes is None else msgspec.msgpack.encode(sorted(self._hashes))


class Wanted(NamedTuple):
    """Why a part may have rows to replace."""

    by_window: bool
    by_key: bool


class Replacing:
    """What one commit replaces: the rows of windows that were read, and those with the key of a new row."""

    def __init__(self, resource: str, windows: Sequence[ReadWindow], data: ColumnData) -> None:
        self._resource = resource
        self._key = MERGE_KEYS[resource]
        self._windows: dict[str, list[tuple[int | None, int | None, bool]]] = {}
        for each in windows:
            start, end = microseconds([each.start, each.end])
            self._windows.setdefault(each.account, []).append((start, end, each.keeps_missing))
        # Accounts in step share their spans, and each part is compared with all of them.
        self._spans = {(start, end) for spans in self._windows.values() for start, end, _ in spans}
        columns = {
            name: microseconds(values) if name in (_START, _END) else values
            for name, values in zip(data.schema.names, data.values, strict=True)
        }
        self._keys = {key for key in row_keys(self._key, columns) if key is not None}
        self._accounts = {_checksum(account) for account in self._windows}
        self._hashes: set[int] = set()
        if not is_by_window(self._key):
            self._hashes = {hashed(key) for key in self._keys}

    def wanted(self, part: CloudPart) -> Wanted | None:
        """Return why a part may have rows that are replaced, None if it has none."""
        if part.accounts is not None and self._accounts.isdisjoint(part.accounts):
            return None
        start, end = part.start, part.end
        by_window = any(
            start is None or end is None or of is None or to is None or (start < to and end > of)
            for of, to in self._spans
        )
        found = Wanted(by_window, bool(self._hashes))
        return found if any(found) else None

    def has_key(self, keys: bytes) -> bool:
        """Whether a part whose keys have these hashes may have a row with the key of a new one."""
        return not self._hashes.isdisjoint(_read_keys(keys))

    def staying(self, part: Any) -> list[bool]:
        """Tell of each row of a part, a batch or table of pyarrow, whether it stays."""
        starts_at = ("start_time",) if self._resource == "meetings" else ()
        columns = _columns(part, (_START, _END, _ACCOUNT, *self._key.ids, *starts_at))
        starts = columns.get("start_time") or [None] * part.num_rows
        rows = zip(
            columns[_ACCOUNT],
            columns[_START],
            columns[_END],
            starts,
            row_keys(self._key, columns),
            strict=True,
        )
        return [not self._is_replaced(*row) for row in rows]

    def _is_replaced(
        self, account: str, start: int | None, end: int | None, starts_at: int | None, key: RowKey | None
    ) -> bool:
        for of, to, keeps_missing in self._windows.get(account, ()):
            if (not keeps_missing or key is None) and self._reaches(of, to, start, end, starts_at):
                return True
        return key is not None and key in self._keys

    def _reaches(
        self, of: int | None, to: int | None, start: int | None, end: int | None, starts_at: int | None
    ) -> bool:
        """Do what ``reach_sql`` does for databases."""
        if self._resource == "users":
            return True
        if of is None or to is None or start is None or end is None or start >= to or end <= of:
            return False
        is_inside = start >= of and end <= to
        if self._resource == "meetings":
            return is_inside if starts_at is None else of <= starts_at < to
        return is_inside or self._resource != "transcripts"


def is_by_window(key: MergeKey) -> bool:
    """Whether the window belongs to a key."""
    return len(key.same) > 1


def row_keys(key: MergeKey, columns: Mapping[str, Sequence[Any]]) -> list[RowKey | None]:
    """Return the key of each row, None where it has none."""
    ids = zip(*(columns[name] for name in key.ids), strict=True)
    found: list[RowKey | None] = []
    for same, row_ids in zip(zip(*(columns[name] for name in key.same), strict=True), ids, strict=True):
        at = next((at for at, value in enumerate(row_ids) if value is not None), None)
        found.append(None if at is None else (*same, at, row_ids[at]))
    return found


def hashed(key: RowKey) -> int:
    return int.from_bytes(blake2b(msgspec.json.encode(key), digest_size=8).digest(), "little")


def checked_table(part: CloudPart, data: bytes, schema: Any) -> Any:
    """Return a part as a table of a schema.

    :raises DamagedStateError: it is not what was committed.
    """
    arrow: Any = import_module("pyarrow")
    if (len(data), crc32(data)) != (part.bytes, part.crc32):
        raise DamagedStateError(f"{part.name} has been changed", path=part.name)
    try:
        with import_module("pyarrow.parquet").ParquetFile(arrow.BufferReader(data)) as file:
            found = file.read(columns=schema.names, use_threads=False)
    except (OSError, ValueError) as error:
        raise DamagedStateError(f"{part.name} cannot be read: {error}", path=part.name) from error
    columns = [found.column(field.name).cast(field.type) for field in schema]
    return arrow.Table.from_arrays(columns, schema=schema)


def _columns(part: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name in names:
        column = part.column(name)
        is_time = name in (_START, _END, "start_time")
        found[name] = (column.cast("int64") if is_time else column).to_pylist()
    return found


def _checksum(account: str) -> int:
    return crc32(account.encode("utf-8", "surrogatepass"))


_read_keys = msgspec.msgpack.Decoder(list[int]).decode

"""Pages of a sync whose windows are still open: kept in a table of the state, as bytes, until their window is over.

Pages of one account come window by window, so an account has pages of one open window at most, and its id is enough to
find them. Most windows begin and end in one commit, and their pages are never kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from types import GenericAlias
from typing import Any, Final

import msgspec
from msgspec import Struct

from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.export.schema import ColumnType, Schema
from truto_ci_async.pull.checkpoint.base import Key

from .base import ReadWindow, SyncChanges

STAGED = "_truto_staged"
MARKS = "_truto_sync"

_TYPES: Final[dict[ColumnType, Any]] = {
    "text": list[str | None],
    "json": list[str | None],
    "float64": list[float | None],
    "int64": list[int | None],
    "bool": list[bool | None],
    "timestamp": list[datetime | None],
}


class SyncStep(Struct, frozen=True):
    """What one commit of a sync does with the pages that are kept.

    ``fetched``    accounts whose pages are kept and now land; ``forgotten``: whose pages are deleted, with those.
    ``kept``       by account, pages to keep; ``windows`` are replaced, and ``marks`` stored.
    """

    windows: Sequence[ReadWindow]
    marks: Sequence[tuple[str, str]]
    fetched: Sequence[str]
    forgotten: Sequence[str]
    kept: Sequence[tuple[str, bytes]] = ()


class Staging:
    """Knows which accounts have pages that are kept, and of which window."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        columns: Any = tuple(_TYPES[column.type] for column in schema)
        type: Any = GenericAlias(tuple, columns)
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(type)
        self._kept: dict[str, Key] = {}
        self._next: dict[str, Key] = {}

    def step(self, changes: SyncChanges, begun: Iterable[Key], open_walks: Iterable[Key]) -> SyncStep:
        """Decide on a commit: ``begun`` are walks whose first page is in it, ``open_walks`` have pages to keep."""
        over = {window.key for window in changes.windows}
        begun = set(begun)
        fetched = [account for account, key in self._kept.items() if key in over and key not in begun]
        gone = {account for account, key in self._kept.items() if key in over}
        gone.update(account for account, _ in begun if account in self._kept)
        self._next = {account: key for account, key in self._kept.items() if account not in gone}
        self._next.update({key[0]: key for key in open_walks})
        return SyncStep(changes.windows, list(changes.marks.items()), fetched, sorted(gone))

    def committed(self) -> None:
        """Note that the commit of the last ``step`` is durable."""
        self._kept = self._next

    def encode(self, data: ColumnData) -> bytes:
        return msgspec.msgpack.encode([list(column) for column in data.values])

    def join(self, kept: Iterable[bytes], data: ColumnData) -> ColumnData:
        """Return the rows of pages that were kept, followed by ``data``."""
        parts = [*(self._decoder.decode(each) for each in kept), data.values]
        values = [[value for part in parts for value in part[at]] for at in range(len(self._schema.names))]
        return ColumnData(self._schema, values, len(values[0]))

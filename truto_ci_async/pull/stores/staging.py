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
from msgspec.structs import replace

from truto_ci_async.export.column_values import ColumnData, Part, Parts, fixed_columns
from truto_ci_async.export.schema import ColumnType, Schema
from truto_ci_async.models.row_views import PULL_SCHEMA
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


class WalkedPages(Struct):
    """Pages of a sync that wait for a commit: ``keys`` are their walks, and ``begun`` are walks that are new.

    Every key is in ``walks``.
    """

    parts: list[Part] = []
    keys: list[Key] = []
    begun: set[Key] = set()
    walks: set[Key] = set()

    def add(self, page: Any) -> None:
        """Take a page, and drop those of its walk if that began again."""
        key: Key = page.key
        if page.is_first:
            self.begun.add(key)
            if key in self.walks:
                kept = [at for at, each in enumerate(self.keys) if each != key]
                self.parts = [self.parts[at] for at in kept]
                self.keys = [self.keys[at] for at in kept]
        if page.page.items:
            self.walks.add(key)
            self.keys.append(key)
            self.parts.append(Part(page.page.items, PULL_SCHEMA.values(page)))


class Staging:
    """Knows which accounts have pages that are kept, and of which window."""

    def __init__(self, schema: Schema, item_type: Any) -> None:
        self._schema = schema
        self._item_type = item_type
        columns: Any = tuple(_TYPES[column.type] for column in schema)
        type: Any = GenericAlias(tuple, columns)
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(type)
        self._kept: dict[str, Key] = {}
        self._next: dict[str, Key] = {}

    def split(self, taken: WalkedPages, changes: SyncChanges) -> tuple[list[Part], SyncStep]:
        """Return the parts that land in a commit, and what else it does: those of open windows are kept."""
        over = {window.key for window in changes.windows}
        landing: list[Part] = []
        still_open: dict[Key, list[Part]] = {}
        for key, part in zip(taken.keys, taken.parts, strict=True):
            if key in over:
                landing.append(part)
            else:
                still_open.setdefault(key, []).append(part)
        kept = [(key[0], self._encode(parts)) for key, parts in still_open.items()]
        return landing, replace(self._step(changes, taken.begun, still_open), kept=kept)

    def _step(self, changes: SyncChanges, begun: Iterable[Key], open_walks: Iterable[Key]) -> SyncStep:
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
        """Note that the commit of the last ``split`` is durable."""
        self._kept = self._next

    def _encode(self, parts: list[Part]) -> bytes:
        data = fixed_columns(self._schema, Parts(parts, self._item_type, PULL_SCHEMA))
        return msgspec.msgpack.encode([list(column) for column in data.values])

    def join(self, kept: Iterable[bytes], data: ColumnData) -> ColumnData:
        """Return the rows of pages that were kept, followed by ``data``."""
        parts = [*(self._decoder.decode(each) for each in kept), data.values]
        values = [[value for part in parts for value in part[at]] for at in range(len(self._schema.names))]
        return ColumnData(self._schema, values, len(values[0]))

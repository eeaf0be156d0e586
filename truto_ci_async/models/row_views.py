"""Decodes only those fields of a row that identify it, for duplicate checks on rows that are kept as raw JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from truto_ci_async.export.schema import Column, Schema

#: The columns that a pull puts before the row's own, found on an ``AccountPage``.
PULL_SCHEMA = Schema(
    "pull",
    Column("integrated_account_id", "text", "account.id", "the account that was asked"),
    Column("tenant_id", "text", "account.tenant_id", "the customer it belongs to, if that is known"),
    Column("window_start", "timestamp", "window.start", "start of the window that was asked for"),
    Column("window_end", "timestamp", "window.end", "end of that window, not part of it"),
    Column("pulled_at", "timestamp", doc="when the page with this row arrived"),
    version=3,
)
PULL_COLUMNS: Final = PULL_SCHEMA.names
#: Earlier versions, which folders begun with them keep: without ``pulled_at``, and in 1 the bounds are text.
PULL_SCHEMA_2 = Schema("pull", *PULL_SCHEMA.columns[:4], version=2)
PULL_SCHEMA_1 = Schema("pull", *(Column(each.name, "text", each.path) for each in PULL_SCHEMA_2))
PULL_SCHEMAS: Final = {each.version: each for each in (PULL_SCHEMA_1, PULL_SCHEMA_2, PULL_SCHEMA)}


class _User(Struct, gc=False):
    id: Any = None


class View(Struct, gc=False):
    """The fields that identify a row."""

    id: Any = None
    user: _User | None = None
    start_time: Any = None
    end_time: Any = None


# A type that no value matches: decoding fails for a row that has such a field.
_NEVER = Literal["a row with a column of a pull"]
_fields: list[Any] = [("id", Any, None), *((name, _NEVER, None) for name in PULL_COLUMNS)]
_Plain: Any = msgspec.defstruct("_Plain", _fields, gc=False)

read_views = msgspec.json.Decoder(View).decode_lines
_read_plain: Callable[[bytes], list[Any]] = msgspec.json.Decoder(_Plain).decode_lines
_id_of = attrgetter("id")


def are_plain(items: Sequence[Any]) -> bool:
    """Tell whether all Raw items are objects with an id, and none has a field of the name of a pull's column."""
    try:
        found = _read_plain(b"\n".join(items))
    except (msgspec.DecodeError, RecursionError):
        return False
    return len(found) == len(items) and all(map(_id_of, found))

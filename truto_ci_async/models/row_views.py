"""Reads just enough of a row's JSON to tell rows apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

#: What a pull adds to every row, before the row's own columns.
PULL_COLUMNS = ("integrated_account_id", "tenant_id", "window_start", "window_end")


class _User(Struct, gc=False):
    id: Any = None


class View(Struct, gc=False):
    """Of a row's bytes, what its key is made of."""

    id: Any = None
    user: _User | None = None
    start_time: Any = None
    end_time: Any = None


# A type of which there is no value in any row: whoever has such a field cannot be read.
_NEVER = Literal["no row has this text under a name that is a column of ours"]
_fields: list[Any] = [(name, _NEVER, None) for name in PULL_COLUMNS]
_Plain: Any = msgspec.defstruct("_Plain", _fields, bases=(View,), gc=False)

read_views = msgspec.json.Decoder(View).decode_lines
_read_plain: Callable[[bytes], list[View]] = msgspec.json.Decoder(_Plain).decode_lines


def plain_views(items: Sequence[Any]) -> Sequence[View] | None:
    """Read what Raw items are told apart by; None: one of them is no object, or has a field named like our columns."""
    try:
        views = _read_plain(b"\n".join(items))
    except (msgspec.DecodeError, RecursionError):
        return None
    return views if len(views) == len(items) else None

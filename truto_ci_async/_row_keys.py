"""What tells the rows of a window apart, in eight bytes each: to begin a window again without doubling rows.

Only needed when a cursor dies in the middle of a window. The keys of its rows are kept until the window is over; the
second walk leaves out as many rows of each key as were handed out before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw, Struct

from .models import Interaction

KEY_BYTES = 8


class _User(Struct, gc=False):
    id: Any = None


class _View(Struct, gc=False):
    """Of a record's bytes, what its key is made of."""

    id: Any = None
    user: _User | None = None
    start_time: Any = None
    end_time: Any = None


_read_all = msgspec.json.Decoder(list[_View]).decode


def row_keys(items: Sequence[Any]) -> list[bytes]:
    """Return the key of each item: made of id, user and the window really answered, or of all its bytes.

    The same rows have the same keys only as items of the same type.
    """
    if not items:
        return []
    if type(items[0]) is Raw:
        try:
            views = _read_all(b"[" + b",".join([bytes(item) for item in items]) + b"]")
        except (msgspec.DecodeError, RecursionError):
            return [_digest(bytes(item)) for item in items]
        return _keys(views, items)
    if isinstance(items[0], Interaction):
        return _keys(items, items)
    return [_digest(msgspec.json.encode(item)) for item in items]


def _keys(views: Sequence[Any], items: Sequence[Any]) -> list[bytes]:
    # Encoded all at once: to write each key on its own takes three times as long.
    fields = [
        (view.id, None if view.user is None else view.user.id, view.start_time, view.end_time)
        for view in views
    ]
    texts = _split_up(msgspec.json.encode(fields))
    return [
        # Left out by exclude_fields: times alone tell nothing apart.
        _digest(msgspec.json.encode(item) if one[0] is None and one[1] is None else text)
        for text, one, item in zip(texts, fields, items, strict=True)
    ]


_split_up = msgspec.json.Decoder(list[Raw]).decode


def _digest(text: bytes | Raw) -> bytes:
    return blake2b(text, digest_size=KEY_BYTES).digest()


def split(keys: bytes) -> Iterator[bytes]:
    return (keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))


class Seen:
    """Rows handed out before their window was begun again. A row is left out as often as it was handed out."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._counts = Counter(keys)

    def new(self, keys: Sequence[bytes]) -> list[int]:
        """Return which of ``keys``, by their index, were not handed out before; the others count as met."""
        counts = self._counts
        fresh: list[int] = []
        for index, key in enumerate(keys):
            if counts.get(key, 0):
                counts[key] -= 1
            else:
                fresh.append(index)
        return fresh

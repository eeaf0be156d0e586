"""What can be told of a page's rows without decoding them: their keys, and whether they leave our columns alone.

The keys tell the rows of a window apart, in eight bytes each: to begin a window again without doubling rows. They are
only needed when a cursor dies in the middle of a window, and kept until it is over; the second walk leaves out as many
rows of each key as were handed out before. Marks are what keys are made of: some 100 bytes a row, in a third of the
time, for the many windows that are over before their keys are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Raw

from truto_ci_async.models import Interaction
from truto_ci_async.models.row_views import View, read_views

KEY_BYTES = 8


def row_identities(items: Sequence[Any], views: Sequence[View] | None = None) -> bytes:
    """Return what each item is told apart by, as one JSON array: id, user and the window really answered, or a digest.

    The same rows have the same marks only as items of the same type. ``views`` are those of ``plain_views``.
    """
    if items and type(items[0]) is Raw:
        try:
            return _marks(views or read_views(b"\n".join(items)), items)
        except (msgspec.DecodeError, RecursionError):
            return msgspec.json.encode([_digest(item) for item in items])
    if items and isinstance(items[0], Interaction):
        return _marks(items, items)
    return msgspec.json.encode([_digest(msgspec.json.encode(item)) for item in items])


def row_keys(marks: bytes) -> bytes:
    """Return the keys of all rows of a page, made of its marks."""
    return b"".join([_key(text) for text in _split_up(marks)])


def _marks(views: Sequence[Any], items: Sequence[Any]) -> bytes:
    marks: list[Any] = [
        (view.id, None if (user := view.user) is None else user.id, view.start_time, view.end_time)
        for view in views
    ]
    if not all(map(_id_of, views)):
        for index, (id, user_id, _, _) in enumerate(marks):
            if id is None and user_id is None:  # left out by exclude_fields: times alone tell nothing apart
                marks[index] = _digest(msgspec.json.encode(items[index]))
    return msgspec.json.encode(marks)


_id_of = attrgetter("id")
_split_up = msgspec.json.Decoder(list[Raw]).decode


def _key(text: bytes | Raw) -> bytes:
    return blake2b(text, digest_size=KEY_BYTES).digest()


def _digest(text: bytes | Raw) -> str:
    return blake2b(text, digest_size=KEY_BYTES).hexdigest()


def split(keys: bytes) -> Iterator[bytes]:
    return (keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))


class SeenRows:
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

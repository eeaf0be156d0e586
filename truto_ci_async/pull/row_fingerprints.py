"""Tells the rows of a window apart, so that a window can be restarted without doubling rows.

A cursor may die in the middle of a window, which then has to be walked again from its start. Each row that was handed
out has a fingerprint of eight bytes; the second walk leaves out as many rows of each fingerprint as the first one
handed out. Fingerprints are kept until the window is over.

Most windows are over before anybody asks for fingerprints. So for each page only the row identities are taken, some
100 bytes a row in a third of the time, and fingerprints are made of them later if they are needed.
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

FINGERPRINT_BYTES = 8


def row_identities(items: Sequence[Any], views: Sequence[View] | None = None) -> bytes:
    """Return what tells each item apart, as one JSON array: id, user and the window it answers, or a digest.

    Equal rows have equal identities only if they are items of the same type. ``views`` are those of ``plain_views``.
    """
    if items and type(items[0]) is Raw:
        try:
            return _identities(views or read_views(b"\n".join(items)), items)
        except (msgspec.DecodeError, RecursionError):
            return msgspec.json.encode([_digest(item) for item in items])
    if items and isinstance(items[0], Interaction):
        return _identities(items, items)
    return msgspec.json.encode([_digest(msgspec.json.encode(item)) for item in items])


def row_fingerprints(identities: bytes) -> bytes:
    """Return the fingerprints of all rows of a page, given their identities."""
    return b"".join([blake2b(text, digest_size=FINGERPRINT_BYTES).digest() for text in _texts(identities)])


def split(fingerprints: bytes) -> Iterator[bytes]:
    """Go through joined fingerprints one by one."""
    step = FINGERPRINT_BYTES
    return (fingerprints[at : at + step] for at in range(0, len(fingerprints), step))


class SeenRows:
    """Rows handed out before their window was restarted. A row is left out as often as it was handed out."""

    def __init__(self, fingerprints: Iterable[bytes]) -> None:
        self._counts = Counter(fingerprints)

    def new(self, fingerprints: Iterable[bytes]) -> list[int]:
        """Return the indexes of those that were not handed out before. The others count as met from now on."""
        counts = self._counts
        fresh: list[int] = []
        for index, fingerprint in enumerate(fingerprints):
            if counts.get(fingerprint, 0):
                counts[fingerprint] -= 1
            else:
                fresh.append(index)
        return fresh


_id_of = attrgetter("id")
_texts = msgspec.json.Decoder(list[Raw]).decode


def _identities(views: Sequence[Any], items: Sequence[Any]) -> bytes:
    found: list[Any] = [
        (view.id, None if (user := view.user) is None else user.id, view.start_time, view.end_time)
        for view in views
    ]
    if not all(map(_id_of, views)):
        for index, (id, user_id, _, _) in enumerate(found):
            if id is None and user_id is None:  # left out by exclude_fields: times alone tell nothing apart
                found[index] = _digest(msgspec.json.encode(items[index]))
    return msgspec.json.encode(found)


def _digest(text: bytes | Raw) -> str:
    return blake2b(text, digest_size=FINGERPRINT_BYTES).hexdigest()

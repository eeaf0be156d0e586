"""Tells the rows of a window apart, so that a window can be restarted without doubling rows.

A cursor may die in the middle of a window, which then has to be walked again from its start. Each row that was handed
out has a fingerprint of eight bytes, which depends on that row alone. The second walk leaves out as many rows of each
fingerprint as were handed out before it.

What happened to the rows of a window is a log: the fingerprints of rows handed out, and, if the window was restarted,
where that was and which rows were left out since. A checkpoint stores the log of a page together with its progress, so
a second walk that is stopped in the middle goes on as if it had not been. The log is kept until the window is over.

Few windows are restarted, so fingerprints are made late. Where the sink can read its rows again, the log has the place
of each page in the output, 32 bytes in place of eight for each row. Otherwise the row identities are taken of each
page, and fingerprints are made of them if the window is not over by the next commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Any

import msgspec
from msgspec import Raw

from truto_ci_async.models import Activity, Interaction, Meeting, User
from truto_ci_async.models.pulls import Place
from truto_ci_async.models.row_views import View, read_views

FINGERPRINT_BYTES = 8

# Words of a log that are not fingerprints. After _LEFT_OUT come rows that were met again; before it, and after
# _HANDED_OUT, come rows that were handed out. After _PLACED come the three numbers of a place, which stands for the
# fingerprints of its rows.
_RESTARTED, _LEFT_OUT, _HANDED_OUT, _PLACED = (b"\xff" * 7 + bytes([number]) for number in (1, 2, 3, 4))
_WORDS = frozenset((_RESTARTED, _LEFT_OUT, _HANDED_OUT, _PLACED))
_numbers = Struct(">QQQ")


def row_identities(items: Sequence[Any], *, by_id: bool = False) -> bytes:
    """Return what identifies each item, as one JSON array: id, user and its window, or a digest.

    ``by_id``: the id is enough. Equal rows have equal identities only if they are items of the same type.
    """
    if items and type(items[0]) is Raw:
        found: Sequence[Any] = views_of(items)
    else:
        found = [item if isinstance(item, _KNOWN) else None for item in items]
    return _identities_by_id(items, found) if by_id else _identities(items, found)


def row_fingerprints(identities: bytes) -> bytes:
    """Return the fingerprints of all rows of a page, given their identities."""
    found = [blake2b(text, digest_size=FINGERPRINT_BYTES).digest() for text in _texts(identities)]
    return b"".join(found if _WORDS.isdisjoint(found) else [_no_word(each) for each in found])


def split(fingerprints: bytes) -> Iterator[bytes]:
    """Iterate over joined fingerprints."""
    step = FINGERPRINT_BYTES
    return (fingerprints[at : at + step] for at in range(0, len(fingerprints), step))


def log_of_place(place: Place) -> bytes:
    """Return the log of a page whose rows can be read again."""
    return _PLACED + _numbers.pack(*place)


def split_places(log: bytes) -> Iterator[bytes | Place]:
    """Iterate over a log: pieces of it without places, and the places between them."""
    start = at = 0
    while at < len(log):
        if log[at : at + FINGERPRINT_BYTES] == _PLACED:
            yield log[start:at]
            at += FINGERPRINT_BYTES
            yield Place(*_numbers.unpack_from(log, at))
            start = at = at + _numbers.size
        else:
            at += FINGERPRINT_BYTES
    yield log[start:]


class SeenRows:
    """The rows that a restarted walk still has to leave out, each as often as it was handed out before.

    ``log`` is all that is known of the window, without places. The walk begins after it, or goes on inside it if
    ``goes_on``.
    """

    def __init__(self, log: bytes, *, goes_on: bool = False) -> None:
        handed_out, left = Counter[bytes](), Counter[bytes]()
        is_handed_out = True
        for word in split(log):
            if word == _RESTARTED:
                left = handed_out.copy()
            elif word in _WORDS:
                is_handed_out = word == _HANDED_OUT
            elif is_handed_out:
                handed_out[word] += 1
            else:
                left[word] -= 1
        self._counts = left if goes_on else handed_out
        self._is_first = not goes_on

    def sift(self, fingerprints: bytes) -> tuple[list[int], bytes]:
        """Return the indexes of the rows of a page that were not handed out before, and the log of the page."""
        counts = self._counts
        fresh: list[int] = []
        handed_out, left_out = list[bytes](), list[bytes]()
        for index, fingerprint in enumerate(split(fingerprints)):
            if counts[fingerprint] > 0:
                counts[fingerprint] -= 1
                left_out.append(fingerprint)
            else:
                fresh.append(index)
                handed_out.append(fingerprint)
        start = [_RESTARTED] if self._is_first else []
        self._is_first = False
        if left_out:
            left_out = [_LEFT_OUT, *left_out, _HANDED_OUT]
        return fresh, b"".join((*start, *left_out, *handed_out))


# Structs with the fields of a View, or, of rows that an id tells apart, at least with an id.
_KNOWN = (Interaction, Activity, Meeting, User)
_read_view = msgspec.json.Decoder(View).decode
_texts = msgspec.json.Decoder(list[Raw]).decode


def views_of(items: Sequence[Any]) -> Sequence[View | None]:
    """Read the identifying fields of Raw items; None for one that has others than we know."""
    try:
        views = read_views(b"\n".join(items))
        if len(views) == len(items):
            return views
    except (msgspec.DecodeError, RecursionError):
        pass
    return [_view_of(item) for item in items]


def _view_of(item: Raw) -> View | None:
    try:
        return _read_view(item)
    except (msgspec.DecodeError, RecursionError):
        return None


def _identities(items: Sequence[Any], views: Sequence[Any]) -> bytes:
    found: list[Any] = [
        None
        if view is None
        else (view.id, None if (user := view.user) is None else user.id, view.start_time, view.end_time)
        for view in views
    ]
    for index, identity in enumerate(found):
        # Without ids (see exclude_fields), times alone do not identify a row.
        if identity is None or (identity[0] is None and identity[1] is None):
            item = items[index]
            found[index] = _digest(item if type(item) is Raw else msgspec.json.encode(item))
    return msgspec.json.encode(found)


def _identities_by_id(items: Sequence[Any], views: Sequence[Any]) -> bytes:
    found: list[Any] = [None if view is None or view.id is None else (view.id,) for view in views]
    for index, identity in enumerate(found):
        if identity is None:
            item = items[index]
            found[index] = _digest(item if type(item) is Raw else msgspec.json.encode(item))
    return msgspec.json.encode(found)


def _digest(text: bytes | Raw) -> str:
    return blake2b(text, digest_size=FINGERPRINT_BYTES).hexdigest()


def _no_word(fingerprint: bytes) -> bytes:
    return b"\0" + fingerprint[1:] if fingerprint in _WORDS else fingerprint

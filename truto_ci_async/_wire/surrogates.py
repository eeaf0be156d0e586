"""Finds where a JSON value had lone surrogates, for the issues that report their replacement."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import msgspec
from msgspec import Raw

from truto_ci_async._json import replace_surrogates
from truto_ci_async.errors import DecodeError
from truto_ci_async.models.struct_types import split_array, split_object

from .repair import QUOTED_CHARS, Note

# Places reported for one value. There may be millions.
PLACES = 100
SEARCHED_BYTES = 2**20


def surrogate_notes(original: bytes, path: str) -> list[Note]:
    """Return where lone surrogates are in ``original``, a JSON value at ``path``, each with a message.

    At most ``PLACES``. A value that is large or cannot be split is named as a whole.
    """
    if len(original) > SEARCHED_BYTES:
        return [(path, _message(replace_surrogates(original[:SEARCHED_BYTES])))]
    marker = _unused_marker(original)
    marked = replace_surrogates(original, marker)
    try:
        return list(_find(marked, marker, path)) or [(path, _message(marked))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [(path, _message(marked))]


def check_cursor(notes: list[Note]) -> None:
    """Refuse an envelope whose cursor was repaired: it cannot be sent as it was, and a changed one is meaningless.

    :raises DecodeError: ``next_cursor`` had a lone surrogate.
    """
    if any(path == "$.next_cursor" for path, _ in notes):
        raise DecodeError(
            "next_cursor has half of a surrogate pair, and cannot be sent", path="$.next_cursor"
        )


def _unused_marker(text: bytes) -> bytes:
    """Return a way to write the escape of U+FFFD that does not occur in ``text``, or the usual one if all do."""
    spellings = (f"\\u{''.join(letters)}".encode() for letters in product("fF", "fF", "fF", "dD"))
    return next((spelling for spelling in spellings if spelling not in text), b"\\ufffd")


def _find(text: bytes, marker: bytes, path: str) -> Iterator[Note]:
    """Yield the values and keys in which ``marker`` is."""
    todo: list[tuple[bytes | Raw, str]] = [(text, path)]
    reported = 0
    while todo and reported < PLACES:
        value, where = todo.pop()
        raw = bytes(value)
        inner: list[tuple[bytes | Raw, str]] = []
        if raw[:1] == b"{":
            inner = [(each, f"{where}.{key}") for key, each in split_object(raw).items()]
        elif raw[:1] == b"[":
            inner = [(each, f"{where}[{index}]") for index, each in enumerate(split_array(raw))]
        holders = [(each, step) for each, step in inner if marker in bytes(each)]
        if raw.count(marker) > sum(bytes(each).count(marker) for each, _ in holders):
            reported += 1
            yield (
                where,
                _message(raw.replace(marker, b"\\ufffd"))
                if not inner
                else "half of a surrogate pair in a key, replaced by U+FFFD",
            )
        todo += reversed(holders)


def _message(raw: bytes) -> str:
    text = raw[: QUOTED_CHARS * 4].decode(errors="replace")
    quoted = text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + "..."
    return f"half of a surrogate pair, replaced by U+FFFD: {quoted}"

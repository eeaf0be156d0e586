"""Reads the response of a ``get``: one bare object, not wrapped in an envelope."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from truto_ci_async._json import BYTE_ORDER_MARK, EXCERPT_BYTES, check_utf8, describe, replace_surrogates
from truto_ci_async.errors import DecodeError, TruncatedBodyError
from truto_ci_async.models.struct_types import split_object

from .item_reader import IssueList, ItemReader
from .repair import Notes
from .surrogates import surrogate_notes

T = TypeVar("T")


def read_record(body: bytes, reader: ItemReader[T], *, in_result: bool = False) -> tuple[T, IssueList]:
    """Read a body as one item, and return it with the repairs.

    With ``in_result`` the item may be the ``result`` of the body, as in the ``debug`` format.

    :raises DecodeError: it is not an item of the reader's type.
    :raises TruncatedBodyError: it is the beginning of a JSON text.
    """
    received = body.removeprefix(BYTE_ORDER_MARK).strip()
    check_utf8(received)
    text = replace_surrogates(received)
    try:
        if in_result and "result" in (fields := split_object(text)):
            received = text = bytes(fields["result"])
        item, issues = reader.read_item(text, index=0, path="$")
    except (DecodeError, msgspec.DecodeError) as error:
        from .incremental.lexer import is_cut  # which imports ijson

        if is_cut(received):
            raise TruncatedBodyError(
                f"the JSON ends early, after {len(body):,} bytes", bytes_read=len(body)
            ) from error
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(
            f"the body is not JSON: {describe(received)}", raw=received[:EXCERPT_BYTES]
        ) from error
    if issues.dropped or item is None:
        message = issues[0].message if issues else "it is null"
        raise DecodeError(f"the response is not such an item: {message}", raw=received[:EXCERPT_BYTES])
    if text is not received and (notes := surrogate_notes(received, "$")):
        if reader.on_invalid == "raise":
            raise DecodeError(f"{notes[0][0]}: {notes[0][1]}", path=notes[0][0], raw=received)
        found = Notes()
        for place, message in notes:
            found.add(place, message)
        issues.add(0, received, found, dropped=False)
    return item, issues

"""Encodes rows with a pull's own columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, cast

import msgspec
from msgspec import Raw

from truto_ci_async.errors import UsageError
from truto_ci_async.models import Interaction
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.row_views import PULL_COLUMNS, View, plain_views

# Pages with more items are encoded in the thread, where the loop can have its turns in between.
INLINE_ITEMS = 256


# Twice as quick as the csv module, which also leaves a lone carriage return unquoted before Python 3.13.
_needs_quotes = re.compile('[",\r\n]').search


def csv_cell(value: object) -> str:
    """Write one value for CSV: null is an empty cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"' if _needs_quotes(value) else value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def pull_values(page: AccountPage[Any]) -> dict[str, str | None]:
    account, window = page.account, page.window
    return dict(zip(PULL_COLUMNS, (account.id, account.tenant_id, window.start, window.end), strict=True))


def flat_rows(page: AccountPage[Any], format: str) -> list[tuple[Any, ...]]:
    """Return the items of a page as rows of ``FileSink.columns``.

    :raises UsageError: items without columns.
    """
    ours = tuple(pull_values(page).values())
    try:
        return [(*ours, *item.row().values()) for item in cast("Sequence[Interaction]", page.page.items)]
    except AttributeError as error:
        raise UsageError(
            f"{format} takes pages of Interaction items: ask for item_type=Interaction"
        ) from error


_WHITE = b" \t\r\n"
_QUOTED_COLUMNS = tuple(f'"{name}"'.encode() for name in PULL_COLUMNS)
_fields: Callable[[bytes], dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw]).decode


def splice(
    columns: Mapping[str, str | None], items: Sequence[Any], views: Sequence[View] | None = None
) -> bytes:
    """Return items as lines of JSON with ``columns`` put in front; items that are Raw are not decoded for it.

    ``views`` are what ``plain_views`` said of items that are Raw, if somebody has asked.

    >>> splice({"tenant_id": "t1"}, [Raw(b'{"id":"7"}')])
    b'{"tenant_id":"t1","id":"7"}\\n'
    """
    if not items:
        return b""
    head = msgspec.json.encode(columns)[:-1]
    if type(items[0]) is Raw:
        texts, views = items, plain_views(items) if views is None else views
        # Who has an id is not empty, and an object without a field of our names.
        is_plain = views is not None and all(map(_id_of, views))
    else:
        texts = [msgspec.json.encode(item) for item in items]
        is_plain = all(
            text[:2] == b'{"' and not any(name in text for name in _QUOTED_COLUMNS) for text in texts
        )
    if is_plain:
        # Looked for in the page as a whole, which is ten times quicker than item by item.
        whole = b"".join(texts)
        bodies = [memoryview(text) for text in texts]
        if b"\n" not in whole and b"\r" not in whole and set(map(_first_of, bodies)) == {ord("{")}:
            begin = head + b","
            rest = (b"\n" + begin).join([body[1:] for body in bodies])
            return b"".join((begin, rest, b"\n"))
    return b"".join([_spliced(head, columns, bytes(text)) for text in texts])


_id_of = attrgetter("id")
_first_of = itemgetter(0)


def _spliced(head: bytes, columns: Mapping[str, str | None], text: bytes) -> bytes:
    """Splice one item that may need more than that: laid out over lines, empty, no object, names of ours."""
    if b"\n" in text or b"\r" in text:
        text = msgspec.json.format(text, indent=-1)
    text = text.strip(_WHITE)
    if text[:1] != b"{":
        return head + b',"item":' + text + b"}\n"
    rest = text[1:].lstrip(_WHITE)
    fields = _fields(text)
    if not fields.keys().isdisjoint(columns):
        rest = msgspec.json.encode({name: value for name, value in fields.items() if name not in columns})[1:]
    return head + (b"" if rest[:1] == b"}" else b",") + rest + b"\n"

"""Encodes the items of a page as rows, each led by the columns that a pull adds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw

from truto_ci_async._json import encode
from truto_ci_async.errors import UsageError
from truto_ci_async.export.schema import Schema
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.row_views import PULL_COLUMNS, PULL_SCHEMA, are_plain

#: What to do with text that a spreadsheet would take for a formula.
CsvFormulas: TypeAlias = Literal["keep", "escape"]


def pull_columns(page: AccountPage[Any], lead: Schema = PULL_SCHEMA) -> dict[str, Any]:
    """Return what every row of a page starts with, by the names of ``lead``; bounds of the window as they were sent."""
    account, window = page.account, page.window
    values = (account.id, account.tenant_id, window.start, window.end, page.pulled_at)
    return dict(zip(lead.names, values, strict=False))


def flat_rows(page: AccountPage[Any], lead: Schema, columns: Schema, item_type: Any) -> list[tuple[Any, ...]]:
    """Return the items of a page as rows: the columns of ``lead``, then those of the items.

    :raises UsageError: the items are of another type.
    """
    ours = tuple(pull_columns(page, lead).values())
    items = page.page.items
    if not all(isinstance(item, item_type) for item in items):
        raise wrong_items("csv", item_type)
    return [(*ours, *columns.values(item)) for item in items]


def wrong_items(format: str, item_type: Any) -> UsageError:
    name = item_type.__name__
    return UsageError(f"the {format} sink needs {name} items: pull with item_type={name}")


# Twice as fast as the csv module, which also leaves a lone carriage return unquoted before Python 3.13.
_needs_quotes = re.compile('[",\r\n]').search
# Text that spreadsheets take for a formula, and text that would be taken for an escaped one.
_is_formula = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]").match


def csv_line(values: Iterable[object], escapes: bool = False) -> str:
    """Write one row of CSV, with its line end. ``escapes`` puts ``'`` before text that looks like a formula."""
    # A row that is one empty cell would be a blank line, which readers skip.
    return (",".join([_csv_cell(value, escapes) for value in values]) or '""') + "\n"


def _csv_cell(value: object, escapes: bool) -> str:
    """Write one value. None becomes an empty cell, empty text ``""``, and lists and objects become JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        if escapes and _is_formula(value):
            value = f"'{value}"
        return '"' + value.replace('"', '""') + '"' if not value or _needs_quotes(value) else value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return _csv_cell(msgspec.json.encode(value).decode(), escapes)


def unescape_formula(text: str) -> str:
    """Return text as it was before ``csv_line`` escaped it."""
    return text[1:] if text[:1] == "'" and _is_formula(text) else text


_WHITESPACE = b" \t\r\n"
_QUOTED_COLUMNS = tuple(f'"{name}"'.encode() for name in PULL_COLUMNS)
_fields: Callable[[bytes], dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw]).decode
_first_of = itemgetter(0)


def json_lines(columns: Mapping[str, Any], items: Sequence[Any]) -> bytes:
    """Return items as JSON objects, one per line, that start with ``columns``. Raw items are not decoded for it.

    >>> json_lines({"tenant_id": "t1"}, [Raw(b'{"id":"7"}')])
    b'{"tenant_id":"t1","id":"7"}\\n'
    """
    if not items:
        return b""
    head = _head(columns)
    if type(items[0]) is Raw:
        texts, is_plain = items, are_plain(items)
    else:
        texts = [encode(item) for item in items]
        is_plain = all(
            text[:2] == b'{"' and not any(name in text for name in _QUOTED_COLUMNS) for text in texts
        )
    lines = _join_lines(head + b",", texts) if is_plain else b""
    return lines or b"".join([_json_line(head, columns, bytes(text)) for text in texts])


def plain_lines(columns: Mapping[str, Any], items: Sequence[Raw]) -> tuple[bytes, int]:
    """Return items that ``are_plain`` as ``json_lines`` does, and how many bytes each line has in place of the brace.

    None of either if the items take up several lines.
    """
    lead = _head(columns) + b","
    return _join_lines(lead, items), len(lead)


def _head(columns: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(columns)[:-1]


def _join_lines(lead: bytes, texts: Sequence[Any]) -> bytes:
    """Join objects that only need ``lead`` in place of their brace; empty if some take up several lines."""
    # Searching the page as a whole is ten times as fast as searching item by item.
    whole = b"".join(texts)
    bodies = [memoryview(text) for text in texts]
    if b"\n" in whole or b"\r" in whole or set(map(_first_of, bodies)) != {ord("{")}:
        return b""
    return b"".join((lead, (b"\n" + lead).join([body[1:] for body in bodies]), b"\n"))


def _json_line(head: bytes, columns: Mapping[str, Any], text: bytes) -> bytes:
    """Encode any item: on several lines, empty, not an object, or with names of our columns."""
    if b"\n" in text or b"\r" in text:
        text = msgspec.json.format(text, indent=-1)
    text = text.strip(_WHITESPACE)
    if text[:1] != b"{":
        return head + b',"item":' + text + b"}\n"
    rest = text[1:].lstrip(_WHITESPACE)
    fields = _fields(text)
    if not fields.keys().isdisjoint(columns):
        rest = msgspec.json.encode({name: value for name, value in fields.items() if name not in columns})[1:]
    return head + (b"" if rest[:1] == b"}" else b",") + rest + b"\n"

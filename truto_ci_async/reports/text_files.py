"""Reads the NDJSON and CSV files of a pull back into typed rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async.export.column_values import ColumnData, Part
from truto_ci_async.export.schema import ColumnType, Schema, to_utc
from truto_ci_async.models.row_views import PULL_COLUMNS, PULL_SCHEMA

PIECE_BYTES = 2**22


def read_lines(path: Path, length: int) -> Iterator[bytes]:
    """Generate the first ``length`` bytes of a file in pieces of whole lines.

    :raises ValueError: the file is shorter.
    """
    left, rest = length, b""
    with path.open("rb") as file:
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise ValueError(f"it has {length - left:,} bytes instead of {length:,}")
            left -= len(piece)
            end = piece.rfind(b"\n") + 1
            if end:
                yield rest + piece[:end]
                rest = piece[end:]
            else:
                rest += piece
    if rest:
        yield rest


# --- NDJSON ----------------------------------------------------------------------------------------------------

_Lead: Any = msgspec.defstruct("_Lead", [(name, Any, None) for name in PULL_COLUMNS], gc=False)
_read_leads: Callable[[bytes], list[Any]] = msgspec.json.Decoder(_Lead).decode_lines


def read_ndjson(path: Path, length: int, item_type: Any, rows: int) -> Iterator[list[Part]]:
    """Generate the items of a pull's NDJSON file, with the values of ``PULL_SCHEMA`` that lead them.

    A row that is not such an item (NDJSON keeps it as received) becomes an item without values.
    """
    reader = item_reader(item_type)
    blank = item_type()
    for piece in read_lines(path, length):
        lines = piece.splitlines()
        for start in range(0, len(lines), rows):
            some = lines[start : start + rows]
            leads = _read_leads(b"\n".join(some))
            texts = [_without_lead(line, lead) for line, lead in zip(some, leads, strict=True)]
            items, issues = reader.read_array(b"".join((b"[", b",".join(texts), b"]")))
            if issues.dropped:
                items = _with_blanks(items, issues.dropped, blank)
            yield _grouped(items, leads)


def _without_lead(line: bytes, lead: Any) -> bytes:
    """Return the item of a line: what follows the columns of the pull."""
    head = msgspec.json.encode(lead)[:-1]
    if not line.startswith(head):
        return line
    rest = line[len(head) :]
    return b"{" + rest[1:] if rest.startswith(b",") else b"{}"


def _with_blanks(items: list[Any], dropped: Sequence[int], blank: Any) -> list[Any]:
    left = iter(items)
    gone = set(dropped)
    return [blank if at in gone else next(left) for at in range(len(items) + len(gone))]


def _grouped(items: Sequence[Any], leads: Sequence[Any]) -> list[Part]:
    """Join consecutive rows with the same lead."""
    parts: list[Part] = []
    start, times = 0, {name for name, type in PULL_SCHEMA.types.items() if type == "timestamp"}
    for at in range(1, len(items) + 1):
        if at == len(items) or leads[at] != leads[start]:
            values = [
                to_utc(value) if name in times else value
                for name, value in zip(PULL_COLUMNS, msgspec.structs.astuple(leads[start]), strict=True)
            ]
            parts.append(Part(items[start:at], values))
            start = at
    return parts


# --- CSV -------------------------------------------------------------------------------------------------------

# A quoted cell, or a plain one; and what ends it. An empty plain cell is null, a quoted one is empty text.
_CELL = re.compile(r'(?:"((?:[^"]|"")*+)"|([^",\r\n]*+))(,|\r?\n|\Z)')
_FROM_TEXT: dict[ColumnType, Callable[[str], Any]] = {
    "float64": float,
    "int64": int,
    "bool": lambda text: text.lower() == "true",
    "timestamp": lambda text: to_utc(datetime.fromisoformat(text)),
}


def read_csv(path: Path, length: int, schema: Schema, rows: int) -> Iterator[ColumnData]:
    """Generate the rows of a pull's CSV file."""
    found = _csv_rows(path, length)
    header = next(found, None) or []
    at = {name: place for place, name in enumerate(header)}
    converters = [(at.get(name), _FROM_TEXT.get(type)) for name, type in schema.types.items()]
    while some := [row for _, row in zip(range(rows), found, strict=False)]:
        yield ColumnData(schema, [_column(some, place, convert) for place, convert in converters], len(some))


def _column(
    rows: Sequence[Sequence[str | None]], place: int | None, convert: Callable[[str], Any] | None
) -> list[Any]:
    if place is None:
        return [None] * len(rows)
    values = [row[place] for row in rows]
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _csv_rows(path: Path, length: int) -> Iterator[list[str | None]]:
    rest = b""
    for piece in read_lines(path, length):
        text = rest + piece
        if text.count(b'"') % 2:  # the last line break is inside a cell
            rest = text
            continue
        rest = b""
        yield from _rows_of(text.decode())
    if rest:
        raise ValueError("a quoted cell has no end")


def _rows_of(text: str) -> Iterator[list[str | None]]:
    row: list[str | None] = []
    at = 0
    while at < len(text):
        cell = _CELL.match(text, at)
        if cell is None:
            raise ValueError(f"it is no CSV of a pull, at {text[at : at + 40]!r}")
        quoted, plain, end = cell.groups()
        row.append(plain or None if quoted is None else quoted.replace('""', '"'))
        at = cell.end()
        if end != ",":
            yield row
            row = []

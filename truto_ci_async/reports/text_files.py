"""Reads the NDJSON and CSV files of a pull back into typed rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async.export.column_values import ColumnData, Part, Parts, fixed_columns
from truto_ci_async.export.schema import Column, ColumnType, Schema, to_float, to_utc
from truto_ci_async.sinks.rows import unescape_formula

from .committed_file import CommittedFile

# A cell cannot be longer: in a file that was changed, a quote may be left open.
MAX_QUOTED_BYTES = 2**28


def stored_columns(chosen: Schema, schema: Schema) -> Schema:
    """Return the columns of ``schema`` that the chosen ones are made from."""
    names = dict.fromkeys(
        column.name if column.key is None else column.name.removesuffix(f".{column.key}") for column in chosen
    )
    return chosen if tuple(names) == chosen.names else schema.with_columns(schema[name] for name in names)


def pick(chosen: Schema, stored: ColumnData) -> ColumnData:
    """Make the columns that were chosen: some are one value of a list of named ones, which is stored as JSON."""
    values = dict(zip(stored.schema.names, stored.values, strict=True))
    picked = [
        values[column.name]
        if column.key is None
        else _named(values[column.name.removesuffix(f".{column.key}")], column)
        for column in chosen
    ]
    return ColumnData(chosen, picked, stored.num_rows)


def _named(texts: Sequence[str | None], column: Column) -> list[float | None]:
    assert column.pairs is not None
    name_of, value_of = column.pairs
    found: list[float | None] = []
    for text in texts:
        pairs: list[dict[str, Any]] = msgspec.json.decode(text, type=list[dict[str, Any]]) if text else []
        value = next((pair.get(value_of) for pair in pairs if pair.get(name_of) == column.key), None)
        found.append(None if value is None else to_float(value))
    return found


# --- NDJSON ----------------------------------------------------------------------------------------------------


def read_ndjson(
    file: CommittedFile, schema: Schema, lead: Schema, item_type: Any, rows: int
) -> Iterator[ColumnData]:
    """Generate the rows of a pull's NDJSON file. ``lead`` has the columns that are not those of the items.

    A row that is not such an item (NDJSON keeps it as received) becomes an item without values.
    """
    reader = item_reader(item_type)
    blank = item_type()
    fields = [(name, str | None | msgspec.UnsetType, UNSET) for name in lead.names]
    read_leads = msgspec.json.Decoder(msgspec.defstruct("_Lead", fields, gc=False)).decode_lines
    for piece in file.line_pieces():
        lines = piece.split(b"\n")[:-1]
        for start in range(0, len(lines), rows):
            some = lines[start : start + rows]
            leads: list[Any] = read_leads(b"\n".join(some))
            if len(leads) != len(some):
                raise ValueError("some lines are empty")
            texts = [_without_lead(line, each) for line, each in zip(some, leads, strict=True)]
            items, issues = reader.read_array(b"".join((b"[", b",".join(texts), b"]")))
            if issues.dropped:
                items = _with_blanks(items, issues.dropped, blank)
            yield fixed_columns(schema, Parts(_grouped(items, leads, lead), item_type, lead))


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


def _grouped(items: Sequence[Any], leads: Sequence[Any], lead: Schema) -> list[Part]:
    """Join consecutive rows with the same lead."""
    parts: list[Part] = []
    start = 0
    for at in range(1, len(items) + 1):
        if at == len(items) or leads[at] != leads[start]:
            values = [
                None if value is None or value is UNSET else to_utc(value) if type == "timestamp" else value
                for value, type in zip(
                    msgspec.structs.astuple(leads[start]), lead.types.values(), strict=True
                )
            ]
            parts.append(Part(items[start:at], values))
            start = at
    return parts


# --- CSV -------------------------------------------------------------------------------------------------------

# A quoted cell, or a plain one; and what ends it. An empty plain cell is null, a quoted one is empty text.
_CELL = re.compile(r'(?:"((?:[^"]|"")*+)"|([^",\r\n]*+))(,|\r?\n)')
_FROM_TEXT: dict[ColumnType, Callable[[str], Any]] = {
    "float64": float,
    "int64": int,
    "bool": lambda text: text == "true",
    "timestamp": to_utc,
}


def read_csv(file: CommittedFile, schema: Schema, rows: int, *, escapes: bool) -> Iterator[ColumnData]:
    """Generate the rows of a pull's CSV file; ``escapes``: text was written so that none looks like a formula."""
    found = _csv_rows(file)
    header = [name or "" for name in next(found, ())]
    if missing := set(schema.names) - set(header):
        if not header and not file.rows:
            return
        raise ValueError(f"it has no column {min(missing)!r}")
    from_text = _FROM_TEXT | ({"text": unescape_formula, "json": unescape_formula} if escapes else {})
    converters = [(header.index(name), from_text.get(type)) for name, type in schema.types.items()]
    while some := [row for _, row in zip(range(rows), found, strict=False)]:
        if any(len(row) != len(header) for row in some):
            raise ValueError(f"a row has not {len(header)} cells")
        yield ColumnData(schema, [_column(some, place, convert) for place, convert in converters], len(some))


def _column(
    rows: Sequence[Sequence[str | None]], place: int, convert: Callable[[str], Any] | None
) -> list[Any]:
    values = [row[place] for row in rows]
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _csv_rows(file: CommittedFile) -> Iterator[list[str | None]]:
    rest: list[bytes] = []
    size = quotes = 0
    for piece in file.line_pieces():
        rest.append(piece)
        size += len(piece)
        quotes += piece.count(b'"')
        if quotes % 2 == 0:  # or else the last line break is inside a cell
            yield from _rows_of(b"".join(rest).decode())
            rest, size = [], 0
        elif size > MAX_QUOTED_BYTES:
            break
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
    if row:
        raise ValueError("its last row has no end")

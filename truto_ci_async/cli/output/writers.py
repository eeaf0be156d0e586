"""Items as text: the writers of the command line (table, JSON, NDJSON, CSV, YAML), and the columns they show.

Writers are pure: pages of items in, bytes out, and what they hold does not grow with the pages. Where the bytes go is
the business of ``_targets``.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, time
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import msgspec

from truto_ci_async.errors import MissingExtraError
from truto_ci_async.models import ROW_COLUMNS, Capability, DebugInfo, IntegratedAccount, Interaction

Row: TypeAlias = Mapping[str, Any]

FORMATS = ("table", "json", "ndjson", "csv", "yaml")


# --- what an item looks like -----------------------------------------------------------------------------------


class Column(NamedTuple):
    """One column of a table: its heading, and the text of a cell given an item's row."""

    head: str
    cell: Callable[[Row], str]
    right: bool = False


class Shape(NamedTuple):
    """How items of one kind become rows. Without ``names`` or ``table`` the first page decides."""

    row: Callable[[Any], Row]
    names: Sequence[str] | None = None
    table: Sequence[Column] | None = None


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: _plain(row.get(name))


def _measure(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value:.2f}"

    return cell


def _window(row: Row) -> str:
    start, end = row["start_time"], row["end_time"]
    if not isinstance(start, datetime) or not isinstance(end, datetime):
        return f"{_plain(start) or '?'}..{_plain(end) or '?'}"
    if start.time() == end.time() == time():  # whole days of the company's own time zone
        return f"{start.date()}..{end.date()}"
    return f"{start.isoformat(timespec='minutes')}..{end.isoformat(timespec='minutes')}"


INTERACTIONS = Shape(
    Interaction.row,
    ROW_COLUMNS,
    (
        Column("user", _text("user_email")),
        Column("user id", _text("user_id")),
        Column("window", _window),
        Column("monologue", _measure("longest_monologue"), right=True),
        Column("customer story", _measure("longest_customer_story"), right=True),
        Column("interactivity", _measure("interactivity"), right=True),
        Column("patience", _measure("patience"), right=True),
        Column("questions", _measure("question_rate"), right=True),
    ),
)

ACCOUNTS = Shape(
    IntegratedAccount.row,
    tuple(IntegratedAccount().row()),
    (
        Column("id", _text("id")),
        Column("integration", _text("integration")),
        Column("status", _text("status")),
        Column("tenant", _text("tenant_id")),
        Column("region", _text("region")),
        Column("sandbox", _text("is_sandbox")),
    ),
)


def _capability_row(entry: Capability) -> Row:
    return {"model": entry.model, "resource": entry.resource, "methods": " ".join(entry.methods)}


CAPABILITIES = Shape(
    _capability_row,
    ("model", "resource", "methods"),
    tuple(Column(name, _text(name)) for name in ("model", "resource", "methods")),
)


def _row_of_any(item: Any) -> Row:
    return cast("Row", item) if isinstance(item, dict) else {"value": item}


ANYTHING = Shape(_row_of_any)


def _plain(value: object) -> str:
    """One value as the text of a cell; null is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return msgspec.json.encode(value).decode()


def debug_document(debug: DebugInfo | None) -> dict[str, Any] | None:
    """Return what ``--format debug`` shows: the provider's request with every value of it hidden.

    ``requestOptions`` can hold the provider's credentials, headers a session, and the URL's query a key.
    """
    if debug is None:
        return None
    url = debug.request_url
    return {
        "requestUrl": url.split("?", 1)[0] + "?***" if url and "?" in url else url,
        "requestOptions": _hidden(debug.request_options),
        "data": debug.data,
        "responseHeaders": _hidden(debug.response_headers),
        "nextCursor": debug.next_cursor,
        "isLooping": debug.is_looping,
        "isEmptyResult": debug.is_empty_result,
        "resultCount": debug.result_count,
    }


def _hidden(value: object) -> Any:
    """Keep the keys, hide the values."""
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_hidden(item) for item in cast("list[object]", value)]
    return None if value is None else "***"


# --- writers ---------------------------------------------------------------------------------------------------


class Writer(Protocol):
    """Turns pages of items into bytes. What ``page`` has given so far, with ``end``, is a whole document."""

    def page(self, items: Sequence[Any]) -> bytes: ...
    def end(self) -> bytes: ...


class NdjsonWriter:
    """One JSON value a line."""

    def page(self, items: Sequence[Any]) -> bytes:
        return b"".join(_one_line(item) for item in items)

    def end(self) -> bytes:
        return b""


def _one_line(item: Any) -> bytes:
    text = msgspec.json.encode(item)
    if b"\n" in text or b"\r" in text:  # bytes passed on as they came, and they came laid out
        text = msgspec.json.format(text, indent=-1)
    return text + b"\n"


class JsonWriter:
    """One array, laid out for reading and written item by item."""

    def __init__(self) -> None:
        self._begun = False

    def page(self, items: Sequence[Any]) -> bytes:
        parts: list[bytes] = []
        for item in items:
            parts += (b",\n  " if self._begun else b"[\n  ", laid_out(item).replace(b"\n", b"\n  "))
            self._begun = True
        return b"".join(parts)

    def end(self) -> bytes:
        return b"\n]\n" if self._begun else b"[]\n"


def laid_out(document: Any) -> bytes:
    """Encode as JSON for reading; numbers stay as the service wrote them."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


class YamlWriter:
    """One list, written item by item.

    :raises MissingExtraError: PyYAML is not installed.
    """

    def __init__(self) -> None:
        self._dump = _yaml_dump()
        self._begun = False

    def page(self, items: Sequence[Any]) -> bytes:
        self._begun = self._begun or bool(items)
        return b"".join(self._dump([item]) for item in items)

    def end(self) -> bytes:
        return b"" if self._begun else b"[]\n"


def _yaml_dump() -> Callable[[Any], bytes]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("PyYAML", "cli") from error

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # YAML 1.2 reads 1e5 as a number where PyYAML writes it bare: an id must stay text to every reader.
        style = '"' if value[:1] in "0123456789+-." else None
        node: yaml.ScalarNode = cast("Any", dumper).represent_scalar(
            "tag:yaml.org,2002:str", value, style=style
        )
        return node

    Dumper.add_representer(str, text)

    def dump(document: Any) -> bytes:
        plain = msgspec.json.decode(msgspec.json.encode(document))
        written: bytes = cast("Any", yaml).dump(
            plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000, encoding="utf-8"
        )
        return written

    return dump


def _json_dump(document: Any) -> bytes:
    return laid_out(document) + b"\n"


class DocumentWriter:
    """One document of any shape, given as a page of its own, as ``json`` or ``yaml``."""

    def __init__(self, format: str) -> None:
        self._dump = _yaml_dump() if format == "yaml" else _json_dump

    def page(self, items: Sequence[Any]) -> bytes:
        return b"".join(self._dump(item) for item in items)

    def end(self) -> bytes:
        return b""


class CsvWriter:
    """Comma-separated values in UTF-8 with a header; null is an empty cell, lists and objects are JSON.

    ``left_out`` names fields that came after the header was written and had no place in it.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._names: tuple[str, ...] | None = None
        self.left_out: dict[str, None] = {}

    def page(self, items: Sequence[Any]) -> bytes:
        rows = [self._shape.row(item) for item in items]
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\n")
        if self._names is None and (rows or self._shape.names):
            self._names = tuple(self._shape.names or dict.fromkeys(name for row in rows for name in row))
            lines.writerow(self._names)
        names = self._names or ()
        for row in rows:
            lines.writerow([_plain(row.get(name)) for name in names])
            self.left_out |= dict.fromkeys(name for name in row if name not in names)
        return out.getvalue().encode()

    def end(self) -> bytes:
        return self.page(()) if self._names is None else b""


# --- the table -------------------------------------------------------------------------------------------------

GAP = 2
Segment: TypeAlias = tuple[str, str]  # text, and the name of its style in rich
Renderer: TypeAlias = Callable[[Sequence[Sequence[Segment]]], str]


def render_plain(lines: Sequence[Sequence[Segment]]) -> str:
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def rich_renderer() -> Renderer | None:
    """Return a renderer for terminals, or None when rich is not installed."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return None

    def render(lines: Sequence[Sequence[Segment]]) -> str:
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, highlight=False)  # reads NO_COLOR and TERM itself
        for line in lines:
            text = Text.assemble(*line)
            text.rstrip()
            console.print(
                text, soft_wrap=True
            )  # longer lines go on in the terminal's next one: nothing is cut
        return out.getvalue()

    return render


class TableWriter:
    """Aligned columns, page after page; a row too wide for the terminal goes on in indented lines below.

    Nothing is ever cut: where even one cell is wider than the terminal, the line is. Widths are those of the first
    page, so that pages can be shown as they come; a wider cell further down pushes its neighbours aside.
    """

    def __init__(self, shape: Shape, *, width: int | None = None, render: Renderer = render_plain) -> None:
        self._shape = shape
        self._width = width
        self._render = render
        self._columns: Sequence[Column] = ()
        self._widths: list[int] = []
        self._flow: list[list[int]] = []
        self.left_out: dict[str, None] = {}

    def page(self, items: Sequence[Any]) -> bytes:
        rows = [self._shape.row(item) for item in items]
        if not rows:
            return b""
        lines: list[list[Segment]] = []
        columns = self._columns or self._choose(rows)
        cells = [[_printable(column.cell(row)) for column in columns] for row in rows]
        if not self._columns:
            self._columns = columns
            heads = [column.head for column in columns]
            self._widths = [max(map(cell_width, each)) for each in zip(heads, *cells, strict=True)]
            self._flow = flow(self._widths, self._width)
            lines += self._lay(heads, "bold", "bold")
        for row in cells:
            lines += self._lay(row, "cyan", "")
        return self._render(lines).encode()

    def end(self) -> bytes:
        return b""

    def _choose(self, rows: Sequence[Row]) -> Sequence[Column]:
        """Take the columns of the shape, or the plain values of the first page."""
        if self._shape.table is not None:
            return self._shape.table
        names = dict.fromkeys(name for row in rows for name in row)
        nested = [name for name in names if any(isinstance(row.get(name), dict | list) for row in rows)]
        self.left_out = dict.fromkeys(nested)
        return [Column(name, _text(name)) for name in names if name not in self.left_out]

    def _lay(self, cells: Sequence[str], first: str, other: str) -> Iterable[list[Segment]]:
        for number, columns in enumerate(self._flow):
            line: list[Segment] = [(" " * GAP, "")] if number else []
            for column in columns:
                cell = cells[column]
                space = " " * (self._widths[column] - cell_width(cell))
                cell = space + cell if self._columns[column].right else cell + space
                line.append((cell + " " * GAP, other if column else first))
            yield line


def flow(widths: Sequence[int], total: int | None) -> list[list[int]]:
    """Deal columns out to lines of at most ``total`` cells, in order; None is one line, however long."""
    lines: list[list[int]] = []
    used = 0
    for column, width in enumerate(widths):
        if lines and (total is None or used + GAP + width <= total):
            lines[-1].append(column)
            used += GAP + width
        else:
            used = width + (GAP if lines else 0)
            lines.append([column])
    return lines


def cell_width(text: str) -> int:
    """Count the terminal cells of a text: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _printable(text: str) -> str:
    """Take out what would move the cursor or colour the terminal: names are other people's text."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def terminal_width() -> int | None:
    """Return the width to fit tables into; None (no limit) where nobody looks at a terminal."""
    if os.environ.get("COLUMNS", "").isdigit() or is_terminal():
        return shutil.get_terminal_size().columns
    return None


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # pyright: ignore[reportUnnecessaryComparison]


def make_writer(format: str, shape: Shape, *, to_file: bool = False) -> Writer:
    """Return the writer of ``-o``.

    :raises MissingExtraError: YAML without PyYAML.
    """
    if format == "json":
        return JsonWriter()
    if format == "ndjson":
        return NdjsonWriter()
    if format == "csv":
        return CsvWriter(shape)
    if format == "yaml":
        return YamlWriter()
    if to_file:
        return TableWriter(shape)
    renderer = rich_renderer() if is_terminal() else None
    return TableWriter(shape, width=terminal_width(), render=renderer or render_plain)

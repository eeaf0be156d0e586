"""The rows and columns of each kind of item, and the writer that draws them as a table."""

from __future__ import annotations

import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, time
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgspec

from truto_ci_async._text import printable
from truto_ci_async.export.schema import Schema
from truto_ci_async.models import (
    Activity,
    Capability,
    IntegratedAccount,
    Interaction,
    Meeting,
    ProxyCapability,
    Transcript,
    User,
)

Row: TypeAlias = Mapping[str, Any]


class Column(NamedTuple):
    """One column of a table: its heading, and the text of its cell for a row."""

    head: str
    cell: Callable[[Row], str]
    right: bool = False


class RowLayout(NamedTuple):
    """How items of one kind become rows. Without ``fields`` or ``columns``, the first page determines them."""

    row: Callable[[Any], Row]
    fields: Sequence[str] | None = None  # of CSV
    columns: Sequence[Column] | None = None  # of a table
    table_row: Callable[[Any], Row] | None = None  # where a table does not show what ``row`` has


def cell_text(value: object) -> str:
    """Return one value as the text of a cell; null is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return msgspec.json.encode(value).decode()


def _field(name: str) -> Callable[[Row], str]:
    return lambda row: cell_text(row.get(name))


def _metric(head: str, name: str) -> Column:
    def cell(row: Row) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value:.2f}"

    return Column(head, cell, right=True)


def _window(row: Row) -> str:
    start, end = row["start_time"], row["end_time"]
    if not isinstance(start, datetime) or not isinstance(end, datetime):
        return f"{cell_text(start) or '?'}..{cell_text(end) or '?'}"
    if start.time() == end.time() == time():  # whole days in the company's own time zone
        return f"{start.date()}..{end.date()}"
    return f"{start.isoformat(timespec='minutes')}..{end.isoformat(timespec='minutes')}"


def _table_row(item: Interaction | Activity) -> Row:
    """Keep the times as received: a window is whole days in the company's own time zone only."""
    return item.row() | {"start_time": item.start_time, "end_time": item.end_time}


def _layout(
    item_type: Any, *columns: Column | str, table_row: Callable[[Any], Row] | None = None
) -> RowLayout:
    """Return the layout of a type with a ``SCHEMA``; a name alone is that column, numbers to the right."""
    schema: Schema = item_type.SCHEMA
    shown = [each if isinstance(each, Column) else _column(schema, each) for each in columns]
    return RowLayout(item_type.row, schema.names, shown, table_row)


def _column(schema: Schema, name: str) -> Column:
    is_number = schema.types[name] in ("float64", "int64")
    return Column(name.replace("_", " "), _number(name) if is_number else _field(name), right=is_number)


def layout_of_columns(item_type: Any, names: Sequence[str]) -> RowLayout:
    """Return the layout with these columns only, as ``Page.to_polars`` takes them.

    :raises UsageError: there is no such column.
    """
    schema: Schema = item_type.SCHEMA.select(names)
    return RowLayout(schema.row, schema.names, [_column(schema, name) for name in schema.names])


def _number(name: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        return f"{value:.2f}".removesuffix(".00") if isinstance(value, float) else cell_text(value)

    return cell


def _transcript_row(item: Transcript) -> Row:
    return item.row(["meeting_id", "start_time", "end_time"]) | {"sentences": len(item.entries or ())}


INTERACTION_LAYOUT: Final = _layout(
    Interaction,
    Column("user", _field("user_email")),
    "user_id",
    Column("window", _window),
    _metric("monologue", "longest_monologue"),
    _metric("customer story", "longest_customer_story"),
    _metric("interactivity", "interactivity"),
    _metric("patience", "patience"),
    _metric("questions", "question_rate"),
    table_row=_table_row,
)
MEETING_LAYOUT: Final = _layout(
    Meeting, "id", "start_time", "duration", "title", "host_email", "type", "status"
)
TRANSCRIPT_LAYOUT: Final = _layout(
    Transcript,
    "meeting_id",
    "start_time",
    "end_time",
    Column("sentences", _number("sentences"), right=True),
    table_row=_transcript_row,
)
USER_LAYOUT: Final = _layout(User, "id", "name", "email", "created_at")
ACTIVITY_LAYOUT: Final = _layout(
    Activity,
    Column("user", _field("user_email")),
    "user_id",
    Column("window", _window),
    "calls_hosted",
    "calls_attended",
    "feedback_given",
    "feedback_received",
    "comments_given",
    "comments_received",
    table_row=_table_row,
)
LAYOUTS: Final[Mapping[str, RowLayout]] = {
    "interactions": INTERACTION_LAYOUT,
    "meetings": MEETING_LAYOUT,
    "transcripts": TRANSCRIPT_LAYOUT,
    "users": USER_LAYOUT,
    "activity": ACTIVITY_LAYOUT,
}
ACCOUNT_LAYOUT: Final = _layout(
    IntegratedAccount,
    "id",
    "integration",
    "status",
    Column("tenant", _field("tenant_id")),
    "region",
    Column("sandbox", _field("is_sandbox")),
)


def _capability_row(entry: Capability | ProxyCapability) -> Row:
    if isinstance(entry, Capability):
        return {"model": entry.model, "resource": entry.resource, "methods": " ".join(entry.methods)}
    methods = " ".join(each.name or "?" for each in entry.methods)
    return {"model": "proxy", "resource": entry.resource, "methods": methods}


CAPABILITY_LAYOUT: Final = RowLayout(
    _capability_row,
    ("model", "resource", "methods"),
    tuple(Column(name, _field(name)) for name in ("model", "resource", "methods")),
)


def _row_of_any(item: Any) -> Row:
    return cast("Row", item) if isinstance(item, dict) else {"value": item}


ANY_LAYOUT: Final = RowLayout(_row_of_any)


# --- the table -------------------------------------------------------------------------------------------------

GAP = 2  # spaces between columns
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
            )  # leaves long lines for the terminal to wrap, so nothing is cut
        return out.getvalue()

    return render


class TableWriter:
    """Aligned columns, page after page; a row too wide for the terminal continues in indented lines below.

    Nothing is ever cut: a cell wider than the terminal makes a line wider than the terminal. The first page sets the
    widths, so that each page can be shown as it comes; a wider cell on a later page moves the cells after it.

    ``left_out`` has the fields with nested values, which have no column.
    """

    def __init__(
        self, layout: RowLayout, *, width: int | None = None, render: Renderer = render_plain
    ) -> None:
        self._layout = layout
        self._width = width
        self._render = render
        self._columns: Sequence[Column] = ()
        self._widths: list[int] = []
        self._lines: list[list[int]] = []  # the columns in each line of a row
        self.left_out: dict[str, None] = {}

    def page(self, items: Sequence[Any]) -> bytes:
        rows = [(self._layout.table_row or self._layout.row)(item) for item in items]
        if not rows:
            return b""
        lines: list[list[Segment]] = []
        columns = self._columns or self._choose_columns(rows)
        cells = [[printable(column.cell(row)) for column in columns] for row in rows]
        if not self._columns:
            self._columns = columns
            heads = [printable(column.head) for column in columns]
            self._widths = [max(map(cell_width, each)) for each in zip(heads, *cells, strict=True)]
            self._lines = flow(self._widths, self._width)
            lines += self._align(heads, "bold", "bold")
        for row in cells:
            lines += self._align(row, "cyan", "")
        return self._render(lines).encode()

    def end(self) -> bytes:
        return b""

    def _choose_columns(self, rows: Sequence[Row]) -> Sequence[Column]:
        """Take the columns of the layout, or the fields of the first page that hold no lists or objects."""
        if self._layout.columns is not None:
            return self._layout.columns
        names = dict.fromkeys(name for row in rows for name in row)
        nested = [name for name in names if any(isinstance(row.get(name), dict | list) for row in rows)]
        self.left_out = dict.fromkeys(nested)
        return [Column(name, _field(name)) for name in names if name not in self.left_out]

    def _align(self, cells: Sequence[str], first_style: str, style: str) -> Iterable[list[Segment]]:
        for number, columns in enumerate(self._lines):
            line: list[Segment] = [(" " * GAP, "")] if number else []
            for column in columns:
                cell = cells[column]
                space = " " * (self._widths[column] - cell_width(cell))
                cell = space + cell if self._columns[column].right else cell + space
                line.append((cell + " " * GAP, style if column else first_style))
            yield line


def terminal_table(layout: RowLayout) -> TableWriter:
    """Return the writer of tables for stdout, which may be a terminal."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    width = None  # without a terminal, rows stay on one line
    if is_terminal or os.environ.get("COLUMNS", "").isdigit():
        width = shutil.get_terminal_size().columns
    return TableWriter(layout, width=width, render=(is_terminal and rich_renderer()) or render_plain)


def flow(widths: Sequence[int], total: int | None) -> list[list[int]]:
    """Distribute columns, in order, over lines of at most ``total`` cells; None is one line, however long."""
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
    """Count the terminal cells of a text: wide characters take two, combining and invisible ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )

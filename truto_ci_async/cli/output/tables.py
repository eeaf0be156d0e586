"""The rows and columns of each kind of item, and the writer that draws them as a table."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, time, timedelta
from itertools import zip_longest
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgspec
from click import style

from truto_ci_async import models
from truto_ci_async._text import printable
from truto_ci_async.export.schema import Schema

from .cells import cell_width, cut
from .status_line import is_terminal

Row: TypeAlias = Mapping[str, Any]


class Column(NamedTuple):
    """One column of a table: its heading, and the text of its cell for a row. ``flexible``: text that may be cut."""

    head: str
    cell: Callable[[Row], str]
    right: bool = False
    flexible: bool = False

    @property
    def is_id(self) -> bool:
        return self.head == "id" or self.head.endswith((" id", "_id"))


class RowLayout(NamedTuple):
    """How items of one kind become rows. Without ``fields`` or ``columns``, the first page determines them."""

    row: Callable[[Any], Row]
    fields: Sequence[str] | None = None  # of CSV
    columns: Sequence[Column] | None = None  # of a table
    table_row: Callable[[Any], Row] | None = None  # where a table does not show what ``row`` has
    schema: Schema | None = None  # of Parquet


def cell_text(value: object) -> str:
    """Return one value as the text of a cell; null is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return short_time(value)
    return msgspec.json.encode(value).decode()


def short_time(time: datetime) -> str:
    """Return a time to the minute, with its zone: ``2024-01-31 09:30Z`` or ``2024-01-31 09:30-08:00``."""
    return time.isoformat(" ", "minutes").removesuffix("+00:00") + (
        "Z" if time.utcoffset() == timedelta() else ""
    )


def _number(value: object) -> str:
    return f"{value:.2f}".removesuffix(".00") if isinstance(value, float) else cell_text(value)


def _length(seconds: object) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 360_000:
        return cell_text(seconds)
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _column(name: str, head: str = "", form: Callable[[Any], str] = cell_text, **how: bool) -> Column:
    """Return the column of a field, whose values ``form`` writes."""

    def cell(row: Row) -> str:
        return form(row.get(name))

    return Column(head or name, cell, **how)


def _plain_column(name: str, values: Sequence[object] = ()) -> Column:
    """Return the column of a field of which only the values on the first page are known."""
    is_number = any(map(_is_number, values)) and all(each is None or _is_number(each) for each in values)
    has_times = any(isinstance(_time_or_other(each), datetime) for each in values)
    column = _column(name, form=lambda value: cell_text(_time_or_other(value)), right=is_number)
    return column._replace(flexible=not (is_number or has_times or column.is_id))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _time_or_other(value: object) -> object:
    """Return a time for its text in ISO 8601, and any other value as it is."""
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*(Z|[+-]\d\d:?\d\d)$", value):
        with suppress(ValueError):
            return datetime.fromisoformat(value)
    return value


def _metric(head: str, name: str) -> Column:
    return _column(name, head, lambda value: "-" if value is None else f"{value:.2f}", right=True)


def _window(row: Row) -> str:
    start, end = row["start_time"], row["end_time"]
    if not isinstance(start, datetime) or not isinstance(end, datetime):
        return f"{cell_text(start) or '?'}..{cell_text(end) or '?'}"
    if start.time() == end.time() == time():  # whole days in the company's own time zone
        return f"{start.date()}..{end.date()}"
    return f"{short_time(start)}..{short_time(end)}"


def _table_row(item: models.Interaction | models.Activity) -> Row:
    """Keep the times as received: a window is whole days in the company's own time zone only."""
    return item.row() | {"start_time": item.start_time, "end_time": item.end_time}


def _layout(
    item_type: Any, *columns: Column | str, table_row: Callable[[Any], Row] | None = None
) -> RowLayout:
    """Return the layout of a type with a ``SCHEMA``; a name alone is that column, numbers to the right."""
    schema: Schema = item_type.SCHEMA
    shown = [each if isinstance(each, Column) else _column_of(schema, each) for each in columns]
    return RowLayout(item_type.row, schema.names, shown, table_row, schema)


def _column_of(schema: Schema, name: str) -> Column:
    is_number = schema.types[name] in ("float64", "int64")
    is_text = schema.types[name] in ("text", "json") and not (name == "id" or name.endswith("_id"))
    form = _number if is_number else cell_text
    return _column(name, name.replace("_", " "), form, right=is_number, flexible=is_text)


def layout_of_columns(item_type: Any, names: Sequence[str]) -> RowLayout:
    """Return the layout with these columns only, as ``Page.to_polars`` takes them.

    :raises UsageError: there is no such column.
    """
    whole: Schema = item_type.SCHEMA
    schema = whole.select([_column_name(whole, name) for name in names])
    shown = [_column_of(schema, name) for name in schema.names]
    return RowLayout(schema.row, schema.names, shown, schema=schema)


def _column_name(schema: Schema, name: str) -> str:
    """Return the column of a field: ``user.email`` is ``user_email``, and ``metrics.patience`` is ``patience``."""
    sign, bare = ("-", name[1:]) if name.startswith("-") else ("", name)
    flat = bare.replace(".", "_")
    names = {each.source: each.name for each in schema} | {name: name for name in schema.names}
    return sign + names.get(bare, flat if flat in schema.types else bare)


def _transcript_row(item: models.Transcript) -> Row:
    return item.row(["meeting_id", "start_time", "end_time"]) | {"sentences": len(item.entries or ())}


_USER_OF_ROW: Final = _column("user_email", "user", flexible=True), "user_id"
LAYOUTS: Final[Mapping[str, RowLayout]] = {
    "interactions": _layout(
        models.Interaction, *_USER_OF_ROW, _metric("monologue", "longest_monologue"),
        _metric("customer story", "longest_customer_story"), _metric("interactivity", "interactivity"),
        _metric("patience", "patience"), _metric("questions", "question_rate"), Column("window", _window),
        table_row=_table_row,
    ),
    "meetings": _layout(
        models.Meeting, "id", "start_time", _column("duration", form=_length, right=True), "title", "host_email",
        "type", "status",
    ),
    "transcripts": _layout(
        models.Transcript, "meeting_id", _column("start_time", "start time", _length, right=True),
        _column("end_time", "end time", _length, right=True), _column("sentences", right=True),
        table_row=_transcript_row,
    ),
    "users": _layout(models.User, "id", "name", "email", "created_at"),
    "activity": _layout(
        models.Activity, *_USER_OF_ROW, "calls_hosted", "calls_attended", "feedback_given", "feedback_received",
        "comments_given", "comments_received", Column("window", _window), table_row=_table_row,
    ),
}  # fmt: skip
ACCOUNT_LAYOUT: Final = _layout(
    models.IntegratedAccount, "id", "integration", "status", _column("tenant_id", "tenant"), "region",
    _column("is_sandbox", "sandbox"),
)  # fmt: skip


def _capability_row(entry: models.Capability | models.ProxyCapability) -> Row:
    if isinstance(entry, models.Capability):
        return {"model": entry.model, "resource": entry.resource, "methods": " ".join(entry.methods)}
    methods = " ".join(each.name or "?" for each in entry.methods)
    return {"model": "proxy", "resource": entry.resource, "methods": methods}


CAPABILITY_LAYOUT: Final = RowLayout(_capability_row, ("model", "resource", "methods"))


def _row_of_any(item: Any) -> Row:
    return cast("Row", item) if isinstance(item, dict) else {"value": item}


ANY_LAYOUT: Final = RowLayout(_row_of_any)


# --- the table -------------------------------------------------------------------------------------------------

GAP: Final = 2  # spaces between columns
LEAST: Final = 20  # cells that a column of text keeps when the terminal is narrow
NARROWEST: Final = 8  # the same for the first one, if there is no room for an id otherwise


class TableWriter:
    """Aligned columns, page after page, that fit into ``width`` cells; None: as wide as they are.

    The first page sets the columns and their widths, so that each page can be shown as it comes. A column that does
    not fit is left out, and text of a ``flexible`` column is cut. Ids and numbers are never cut.

    ``left_out`` has the fields with nested values, which have no column, and ``hidden`` the columns without room.
    """

    def __init__(self, layout: RowLayout, *, width: int | None = None, color: bool = False) -> None:
        self._layout = layout
        self._width = width
        self._color = color
        self._columns: Sequence[Column] = ()
        self._widths: list[int] = []
        self.left_out: dict[str, None] = {}
        self.hidden: list[str] = []

    def page(self, items: Sequence[Any]) -> bytes:
        rows = [(self._layout.table_row or self._layout.row)(item) for item in items]
        if not rows:
            return b""
        lines: list[str] = []
        if not self._columns:
            self._choose_columns(rows)
            heads = map(_head_lines, [each.head for each in self._columns], self._widths)
            lines += [self._line(each, bold=True) for each in zip_longest(*heads, fillvalue="")]
        lines += [self._line([printable(column.cell(row)) for column in self._columns]) for row in rows]
        return "".join(lines).encode()

    def end(self) -> bytes:
        return b""

    @property
    def state(self) -> Any:
        """The headings, alignment and widths of the columns."""
        columns = [(each.head, each.right) for each in self._columns]
        return [columns, self._widths] if columns else None

    @state.setter
    def state(self, state: Any) -> None:
        if state is not None:
            heads, self._widths = state
            columns = {each.head: each for each in self._layout.columns or ()}
            self._columns = [
                (columns.get(head) or _plain_column(head))._replace(right=right) for head, right in heads
            ]

    def _choose_columns(self, rows: Sequence[Row]) -> None:
        """Take the columns of the layout, or the fields of the first page that hold no lists or objects."""
        columns = self._layout.columns
        if columns is None:
            names = dict.fromkeys(name for row in rows for name in row)
            nested = [each for each in names if any(isinstance(row.get(each), dict | list) for row in rows)]
            self.left_out = dict.fromkeys(nested)
            plain = [name for name in names if name not in nested]
            columns = [_plain_column(name, [row.get(name) for row in rows]) for name in plain]
        every = [column.head for column in columns]
        cells = [[cell_width(printable(column.cell(row))) for row in rows] for column in columns]
        heads = [printable(column.head) for column in columns]
        whole = [max(cell_width(head), *each) for head, each in zip(heads, cells, strict=True)]
        if self._width is not None and sum(whole) + GAP * (len(whole) - 1) > self._width:
            some = [at for at, each in enumerate(cells) if at == 0 or any(each) or columns[at].is_id]
            columns, cells = [columns[at] for at in some], [cells[at] for at in some]
            # The words of a heading may stand below each other.
            words = [max(map(cell_width, heads[at].split(" "))) for at in some]
            whole = [max(head, *each) for head, each in zip(words, cells, strict=True)]
        shown, widths = fit(columns, whole, self._width)
        self._columns, self._widths = [columns[at] for at in shown], widths
        self.hidden = [head for head in every if head not in [each.head for each in self._columns]]

    def _line(self, cells: Sequence[str], *, bold: bool = False) -> str:
        parts: list[str] = []
        for column, cell, width in zip(self._columns, cells, self._widths, strict=True):
            text = cut(cell, width) if column.flexible and self._width is not None else cell
            space = " " * (width - cell_width(text))
            parts.append(space + text if column.right else text + space)
        parts[-1] = parts[-1].rstrip()
        if self._color and bold:
            parts = [style(each, bold=True) for each in parts]
        elif self._color:
            parts[0] = style(parts[0], fg="cyan")
        return (" " * GAP).join(parts).rstrip() + "\n"


def fit(columns: Sequence[Column], full: Sequence[int], total: int | None) -> tuple[list[int], list[int]]:
    """Return which columns fit into ``total`` cells, and their widths. The first and those of ids are always there."""
    if total is None:
        return [*range(len(columns))], [*full]
    least = [
        min(width, LEAST) if column.flexible else width for column, width in zip(columns, full, strict=True)
    ]
    needed = [at for at, column in enumerate(columns) if not at or column.is_id]
    left = total - sum(least[at] + GAP for at in needed) + GAP
    for at in needed:
        if left < 0 and columns[at].flexible:
            less = min(-left, max(least[at] - NARROWEST, 0))
            least[at] -= less
            left += less
    shown = list(needed)
    for at, width in enumerate(least):
        if at not in needed and width + GAP <= left:
            left -= width + GAP
            shown.append(at)
    shown.sort()
    widths = {at: least[at] for at in shown}
    for at in shown:
        more = min(full[at] - least[at], max(left, 0))
        widths[at] += more
        left -= more
    return shown, [widths[at] for at in shown]


def _head_lines(head: str, width: int) -> list[str]:
    """Break a heading into lines of ``width`` cells."""
    lines: list[str] = []
    for word in printable(head).split(" "):
        if lines and cell_width(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def terminal_table(layout: RowLayout, *, color: bool = True) -> TableWriter:
    """Return the writer of tables for stdout, which may be a terminal."""
    width = None  # without a terminal, rows stay whole
    is_shown = is_terminal(sys.stdout)
    if is_shown or os.environ.get("COLUMNS", "").isdigit():
        width = shutil.get_terminal_size().columns
    color = color and is_shown and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return TableWriter(layout, width=width, color=color)

"""Small HTML for notebooks: a heading, and a table under it. Readable in light and dark themes, without a script.

All text may come from outside, so all of it is escaped here, and isolated: marks that change the direction
of text, in a person's name say, end with their cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from truto_ci_async._text import printable

from .schema import Schema, schema_of

ROWS = 10  # of a table; the caption has the number of all
COLUMNS = 14
CHARACTERS = 60

# Only colors that follow the theme: a notebook's own style sheet may be light or dark.
_LINE = (
    "border-bottom:1px solid rgba(128,128,128,.35);padding:.25em .75em;vertical-align:top;white-space:nowrap"
)
_FAINT = "opacity:.65"


def text(value: object, limit: int = CHARACTERS) -> str:
    """Return a value as escaped HTML, shortened to ``limit`` characters.

    >>> text("</script><b>")
    '<bdi>&lt;/script&gt;&lt;b&gt;</bdi>'
    """
    from html import escape  # not with the client: its table of entities takes a millisecond

    if value is None:
        return f'<span style="{_FAINT}">&ndash;</span>'
    if isinstance(value, datetime):
        value = value.isoformat(" ", "minutes").removesuffix("+00:00")
    elif isinstance(value, float):
        value = f"{value:,.6g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    shown = printable(str(value)[: limit + 1])
    return f"<bdi>{escape(shown if len(shown) <= limit else shown[: limit - 1] + '…')}</bdi>"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table. Columns of numbers are aligned to the right."""
    listed = list(rows)
    aligned = [
        "right" if any(_is_number(row[at]) for row in listed) else "left" for at in range(len(headers))
    ]
    head = "".join(
        f'<th scope="col" style="text-align:{align};{_LINE}">{text(name)}</th>'
        for name, align in zip(headers, aligned, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row, aligned))}</tr>" for row in listed)
    return (
        '<table style="border-collapse:collapse;color:inherit;font-size:90%;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def card(title: str, *notes: str, tables: Iterable[str] = ()) -> str:
    """Return a heading with notes beside it, which are plain text, and tables under it."""
    faint = "".join(f' <span style="{_FAINT}">· {text(note, 200)}</span>' for note in notes if note)
    return f'<div style="overflow-x:auto"><div><b>{text(title)}</b>{faint}</div>{"".join(tables)}</div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Return a table of two columns with what is known: pairs whose value is None are left out."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;{_LINE}">{text(name)}</th>{_cell(value, "left")}</tr>'
        for name, value in pairs
        if value is not None
    )
    return (
        f'<table style="border-collapse:collapse;color:inherit;font-size:90%"><tbody>{rows}</tbody></table>'
    )


def items_table(items: Sequence[Any]) -> str:
    """Return a table of the first items: of the columns that have a value in them, the first few."""
    shown = items[:ROWS]
    names, rows = _rows(shown)
    filled = [at for at in range(len(names)) if any(row[at] is not None for row in rows)][:COLUMNS]
    if not filled:
        return ""
    return table([names[at] for at in filled], [[row[at] for at in filled] for row in rows])


def item_card(item: Any) -> str:
    """Return an item of a resource as a list of its columns; long JSON is cut."""
    return card(type(item).__name__, tables=[facts(item.row().items())])


def _rows(items: Sequence[Any]) -> tuple[Sequence[str], list[Sequence[Any]]]:
    schema: Schema | None = schema_of(type(items[0])) if items else None
    if schema is not None and all(type(item) is type(items[0]) for item in items):
        chosen = schema.select([column.name for column in schema if column.type != "json"])
        return chosen.names, [chosen.values(item) for item in items]
    if items and all(isinstance(item, dict) for item in items):
        names = list(dict.fromkeys(str(name) for item in items for name in item))
        return names, [[item.get(name) for name in names] for item in items]
    return ["item"], [[item if isinstance(item, str) else repr(item)] for item in items]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: object, align: str) -> str:
    return f'<td style="text-align:{align};{_LINE}">{text(value)}</td>'

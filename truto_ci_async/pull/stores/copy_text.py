"""Rows as text for PostgreSQL's COPY. Characters that PostgreSQL takes in no text are replaced, and counted."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import is_
from typing import Any, Final, NamedTuple

from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.export.schema import ColumnType

logger = logging.getLogger("truto_ci_async")

NULL: Final = "\\N"
# Changed values that are logged one by one.
LOGGED: Final = 20
REPLACEMENT: Final = "\ufffd"
# All escapes of JSON in turn, so that a backslash that is escaped itself begins none. A surrogate pair is one.
_ESCAPES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL
)


_SURROGATES: Final = frozenset(("d8", "d9", "da", "db", "dc", "dd", "de", "df"))


class CopyText(NamedTuple):
    """One line of text for each row, and which values were changed, as index of the row and name of the column."""

    lines: list[str]
    changed: list[tuple[int, str]]


def tell_changed(table: str, data: ColumnData, text: CopyText) -> None:
    """Log the first of the values that were changed."""
    columns = dict(zip(data.schema.names, data.values, strict=True))
    for index, name in text.changed[:LOGGED]:
        logger.warning(
            "a null character, or half of a surrogate pair, became U+FFFD in %s of %s, account %s, row %s",
            name,
            table,
            columns["integrated_account_id"][index],
            columns["id"][index],
        )


def copy_text(data: ColumnData) -> CopyText:
    """Return the rows of ``data`` for ``COPY ... FROM STDIN``."""
    changed: list[tuple[int, str]] = []
    columns: list[Iterable[str]] = []
    for column, values in zip(data.schema, data.values, strict=True):
        cleaned = values
        if column.type in ("text", "json"):
            cleaned = _cleaned(values, is_json=column.type == "json")
            if cleaned is not values:
                changed += [
                    (at, column.name)
                    for at, (old, new) in enumerate(zip(values, cleaned, strict=True))
                    if old is not new
                ]
        columns.append(_ENCODERS[column.type](cleaned))
    return CopyText(["\t".join(row) + "\n" for row in zip(*columns, strict=True)], changed)


def _cleaned(values: Sequence[Any], *, is_json: bool) -> Sequence[Any]:
    """Return ``values`` itself if all of them can be stored."""
    if is_json:
        found = [None if value is None else clean_json(value) for value in values]
        return values if all(map(is_, found, values)) else found
    if not any(value is not None and "\0" in value for value in values):
        return values
    return [None if value is None else value.replace("\0", REPLACEMENT) for value in values]


def clean_json(text: str) -> str:
    """Replace escapes in JSON text that stand for no character PostgreSQL knows; return ``text`` itself if none do."""
    if "\\u0000" not in text and "\\ud" not in text and "\\uD" not in text:
        return text
    cleaned = _ESCAPES.sub(_replace, text)
    return text if cleaned == text else cleaned


def _replace(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) != 6:
        return found
    is_bad = found == "\\u0000" or found[2:4].lower() in _SURROGATES
    return "\\ufffd" if is_bad else found


def _texts(values: Sequence[Any]) -> list[str]:
    return [
        NULL
        if value is None
        else value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
        for value in values
    ]


def _numbers(values: Sequence[Any]) -> list[str]:
    return [NULL if value is None else str(value) for value in values]


def _times(values: Sequence[Any]) -> list[str]:
    found: list[str] = []
    last: datetime | None = None
    text = NULL
    for value in values:
        if value is not last:  # rows of one page share its bounds
            last, text = value, NULL if value is None else value.isoformat()
        found.append(text)
    return found


_ENCODERS: dict[ColumnType, Callable[[Sequence[Any]], list[str]]] = {
    "text": _texts,
    "json": _texts,
    "float64": _numbers,
    "int64": _numbers,
    "bool": _numbers,
    "timestamp": _times,
}

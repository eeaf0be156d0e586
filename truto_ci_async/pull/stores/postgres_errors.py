"""What the errors of PostgreSQL mean for a commit."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, Final

from truto_ci_async.errors import MissingExtraError

from .landing import Refused

# What the server says of a row that it does not take: data, constraints, limits, memory, an error a trigger raised.
_OF_A_ROW = ("22", "23", "54", "53200", "XX000", "P0001")
# And while it is shut down, failed over, or has no connection to spare.
_TRANSIENT = ("08", "57P", "25006", "40001", "40P01", "53300", "57014")


# A reason may quote a value.
MAX_REASON: Final = 300
# What the server says of a value in a row of COPY.
_COLUMN = re.compile(r"COPY .*?, line \d+, column ([^:\n]+):")


class LostError(Exception):
    """The connection was lost, or the server asks to come again."""


def is_of_a_row(error: Any) -> bool:
    return (error.sqlstate or "").startswith(_OF_A_ROW)


def reason(error: Any) -> str:
    """Return why a row is refused, without the row: the details that the server adds quote all of it."""
    diagnosis = error.diag
    column = _COLUMN.search(diagnosis.context or "")
    where = f" (column {column[1]})" if column and not diagnosis.column_name else ""
    text: str = diagnosis.message_primary or str(error)
    return text[:MAX_REASON] + where


def is_transient(error: Any) -> bool:
    return (getattr(error, "sqlstate", None) or "").startswith(_TRANSIENT)


def fields_of(refused: Refused) -> tuple[Any, ...]:
    """Return the values of a row of the table of rejected rows."""
    values = [getattr(refused, name) for name in Refused.__struct_fields__]
    return tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values)


def psycopg_library() -> Any:
    """:raises MissingExtraError: it is not installed."""
    try:
        return import_module("psycopg")
    except ImportError:
        raise MissingExtraError("psycopg", "postgres") from None

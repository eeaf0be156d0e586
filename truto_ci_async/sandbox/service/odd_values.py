"""Changes records into odd ones that a client should survive."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .responses import as_list, as_object


def add_unknown(value: Any, unknown: Any) -> Any:
    """Return a JSON value with `x_unknown` in each of its objects, those in `remote_data` excepted."""
    members, elements = as_object(value), as_list(value)
    if members is not None:
        known = {
            name: each if name == "remote_data" else add_unknown(each, unknown)
            for name, each in members.items()
        }
        return {**known, "x_unknown": unknown}
    return value if elements is None else [add_unknown(each, unknown) for each in elements]


def change_types(record: Any, fields: Collection[str]) -> Any:
    """Return a record in which these fields, or all but `id`, have another type. Nulls stay."""
    return {
        name: _other(value) if name in fields or (not fields and name != "id") else value
        for name, value in (as_object(record) or {}).items()
    }


def _other(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return str(value)
    return 5 if isinstance(value, str) else [] if isinstance(value, dict) else {}

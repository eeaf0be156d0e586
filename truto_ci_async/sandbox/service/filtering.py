"""Filters and sorts records with the operators of Truto's synced store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from .parameters import point_in_time
from .responses import ServiceError, as_list, as_object

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gt": lambda found, wanted: found > wanted,
    "gte": lambda found, wanted: found >= wanted,
    "lt": lambda found, wanted: found < wanted,
    "lte": lambda found, wanted: found <= wanted,
    "eq": lambda found, wanted: found == wanted,
    "ne": lambda found, wanted: found != wanted,
}


def filter_records(records: Sequence[dict[str, Any]], conditions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keep the records that meet every condition: `{"status": "active"}`, `{"created_at": {"gt": ...}}`."""
    return [
        record
        for record in records
        if all(_meets(record, name, condition) for name, condition in conditions.items())
    ]


def sort_records(records: list[dict[str, Any]], sort_by: Any) -> list[dict[str, Any]]:
    """Sort by `"field"` or `{"field": "asc" | "desc"}`. Records without the field come last."""
    orders = as_object(sort_by) or ({str(sort_by): "asc"} if sort_by else {})
    for name, order in reversed(orders.items()):
        if order not in ("asc", "desc"):
            raise ServiceError(400, f"sort_by[{name}] must be asc or desc")
        present = [record for record in records if record.get(name) is not None]
        absent = [record for record in records if record.get(name) is None]
        present.sort(key=lambda record: _sort_key(record[name]), reverse=order == "desc")
        records = present + absent
    return records


def _meets(record: Mapping[str, Any], name: str, condition: Any) -> bool:
    found: Any = record
    for part in name.split("."):
        found = (as_object(found) or {}).get(part)
    if as_list(condition) is not None:
        raise ServiceError(400, f"{name} must be one value, or an operator such as {name}[gt]")
    operators = as_object(condition) or {"eq": condition}
    return all(_compare(name, found, operator, wanted) for operator, wanted in operators.items())


def _compare(name: str, found: Any, operator: str, wanted: Any) -> bool:
    if operator != "in" and operator not in _COMPARISONS:
        known = ", ".join([*_COMPARISONS, "in"])
        raise ServiceError(400, f"{name}[{operator}] is not an operator: {known}")
    if found is None:
        return operator == "ne"
    if operator == "in":
        options = as_list(wanted) or str(wanted).split(",")
        return any(_comparable(found, option) == _comparable(option, found) for option in options)
    try:
        return _COMPARISONS[operator](_comparable(found, wanted), _comparable(wanted, found))
    except TypeError:
        raise ServiceError(400, f"{name}[{operator}] cannot be compared with {wanted!r}") from None


def _comparable(value: Any, other: Any) -> Any:
    """Convert a value for comparison with `other`: to a number or date-time if possible, else to text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) or isinstance(other, int | float):
        try:
            return float(value)
        except (TypeError, ValueError):
            return str(value)
    return (point_in_time(value) if isinstance(value, str) else None) or str(value)


def _sort_key(value: Any) -> Any:
    key = _comparable(value, value)
    return (type(key).__name__, key)

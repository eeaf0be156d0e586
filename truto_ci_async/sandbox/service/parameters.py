"""Reads single query parameters strictly: each function returns the value or raises a 400."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from .responses import ServiceError, as_list, as_object

_DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_POSITIVE: Final = re.compile(r"[1-9][0-9]{0,8}")


def check_names(query: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse parameters that the service would ignore, or would read as something else.

    :raises ServiceError: a name is unknown, or brackets are nested too deep.
    """
    for name, value in query.items():
        if name not in known:
            raise ServiceError(
                400, f"Unknown query parameter: {name} (known here: {', '.join(sorted(known))})"
            )
        if _is_too_deep(value):
            raise ServiceError(
                400,
                f"{name} is nested deeper than five brackets; the service reads the rest as one literal key",
            )


def _is_too_deep(value: Any) -> bool:
    """Tell whether qs folded brackets beyond its depth into a key such as "[f][g]"."""
    members = as_object(value) or {}
    return any(key.startswith("[") for key in members) or any(
        map(_is_too_deep, members.values() or as_list(value) or ())
    )


def text(query: Mapping[str, Any], name: str) -> str | None:
    value = query.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise ServiceError(400, f"{name} must be one non-empty value")
    return value


def cursor(query: Mapping[str, Any]) -> str | None:
    """Read `next_cursor`. Truto's own TypeScript SDK sends it empty with every first page, so empty means no cursor."""
    return None if query.get("next_cursor") == "" else text(query, "next_cursor")


def positive(query: Mapping[str, Any], name: str) -> int | None:
    value = text(query, name)
    if value is None:
        return None
    if not _POSITIVE.fullmatch(value):
        raise ServiceError(400, f"{name} must be a positive integer, not {value!r}")
    return int(value)


def choice(query: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str | None:
    value = query.get(name)
    if value is not None and value not in allowed:
        raise ServiceError(400, f"{name} must be one of {', '.join(allowed)}")
    return None if value is None else str(value)


def boolean(query: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    found = choice(query, name, ("true", "false"))
    return default if found is None else found == "true"


def names(query: Mapping[str, Any], name: str) -> frozenset[str]:
    """Read an array of names, sent as `name[]=a&name[]=b` or as `name=a,b`."""
    value = query.get(name, ())
    listed = [value] if isinstance(value, str) else value
    if isinstance(listed, dict) or not all(isinstance(each, str) for each in listed):
        raise ServiceError(400, f"{name} must be an array of names, sent as {name}[]=a&{name}[]=b")
    return frozenset(part for each in listed for part in each.split(",") if part)


def point_in_time(value: str) -> datetime | None:
    """Parse an ISO 8601 date-time with an offset, or a date (midnight UTC). None if it is anything else."""
    try:
        if _DATE_TIME.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        if _DATE.fullmatch(value):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    return None


def date_time(name: str, value: str) -> datetime:
    """Parse an ISO 8601 date-time with an offset, and return it in UTC.

    :raises ServiceError: it is anything else. The message explains the two usual mistakes.
    """
    hint = "it needs an offset such as Z or +05:30"
    if re.search(r" \d\d:?\d\d$", value):
        hint = 'a "+" in a query string must be sent as %2B'
    try:
        if _DATE_TIME.fullmatch(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        hint = str(error)
    raise ServiceError(400, f"{name} is not an ISO 8601 date-time: {value!r} ({hint})")

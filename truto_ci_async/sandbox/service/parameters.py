"""Reads single query parameters strictly: each function returns the value or raises a 400."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from .responses import ServiceError

DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)")
_POSITIVE: Final = re.compile(r"[1-9][0-9]{0,8}")


def text(query: Mapping[str, Any], name: str) -> str | None:
    value = query.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise ServiceError(400, f"{name} must be one non-empty value")
    return value


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


def boolean(query: Mapping[str, Any], name: str) -> bool:
    return choice(query, name, ("true", "false")) == "true"


def names(query: Mapping[str, Any], name: str) -> frozenset[str]:
    value = query.get(name, ())
    if isinstance(value, str | dict) or not all(isinstance(each, str) for each in value):
        raise ServiceError(400, f"{name} must be an array of names, sent as {name}[]=a&{name}[]=b")
    return frozenset(value)


def date_time(name: str, value: str) -> datetime:
    """Parse an ISO 8601 date-time with an offset.

    :raises ServiceError: it is anything else. The message explains the two usual mistakes.
    """
    hint = "it needs an offset such as Z or +05:30"
    if re.search(r" \d\d:?\d\d$", value):
        hint = 'a "+" in a query string must be sent as %2B'
    try:
        if DATE_TIME.fullmatch(value):
            return datetime.fromisoformat(value.upper())
    except ValueError as error:
        hint = str(error)
    raise ServiceError(400, f"{name} is not an ISO 8601 date-time: {value!r} ({hint})")

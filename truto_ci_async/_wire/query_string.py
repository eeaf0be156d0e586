"""Encodes nested parameters as a query string that the service's `qs` parser reads back unchanged.

Also holds the small helpers that parameters and paths need before they are encoded: merging, copying, a stable order.
Which parameters a list call has is in `list_query`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal, TypeAlias, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from truto_ci_async.errors import UsageError

T = TypeVar("T")

Timestamp: TypeAlias = datetime | date | str
ObjectArrays: TypeAlias = Literal["indices", "brackets"]

# qs turns an array with an index above 19 into an object.
MAX_ARRAY_ITEMS = 20
# More than qs keeps (5); the limit is there to catch a dict that contains itself.
MAX_DEPTH = 32

_ARRAY_TYPES = (list, tuple, set, frozenset)


def encode_query(params: Mapping[str, Any], *, object_arrays: ObjectArrays = "indices") -> str:
    """Encode nested parameters, with names and values fully percent-encoded.

    Objects become ``a[b]=v``, arrays of scalars ``a[]=x``, arrays of objects ``a[0][b]=v`` (or ``a[][b]=v``
    with ``brackets``). None and empty arrays and objects are left out.

    :raises UsageError: a name is not a string, a value has no text form, or an array has more than
        ``MAX_ARRAY_ITEMS`` items.
    """
    pairs: list[str] = []
    for key, value in params.items():
        if value is None and isinstance(key, str):
            continue  # most parameters are not set
        if type(value) is str:
            pairs.append(encode_parameter(_name(key), value))
        else:
            pairs += [
                encode_parameter(name, text) for name, text in _flatten(_name(key), value, object_arrays)
            ]
    return "&".join(pairs)


@functools.lru_cache(maxsize=2048)
def encode_parameter(name: str, text: str) -> str:
    """Percent-encode one parameter. Cached, because a pull sends the same few for every account."""
    return f"{quote(name, safe='')}={quote(require_encodable(text, name), safe='')}"


def _flatten(name: str, value: object, object_arrays: ObjectArrays) -> Iterable[tuple[str, str]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _flatten(f"{name}[{_name(key)}]", item, object_arrays)
    elif isinstance(value, _ARRAY_TYPES):
        items = [item for item in stable_order(cast("Iterable[object]", value)) if item is not None]
        if len(items) > MAX_ARRAY_ITEMS:
            raise UsageError(
                f"{name} has {len(items)} values; the service reads at most {MAX_ARRAY_ITEMS} as an array"
            )
        is_nested = any(isinstance(item, (Mapping, *_ARRAY_TYPES)) for item in items)
        for index, item in enumerate(items):
            suffix = str(index) if is_nested and object_arrays == "indices" else ""
            yield from _flatten(f"{name}[{suffix}]", item, object_arrays)
    else:
        yield name, _scalar(name, value)


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise UsageError(f"a parameter name must be a string, not {key!r}")
    return require_encodable(key, "a parameter name")


def _scalar(name: str, value: object) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        text = str(value)
    elif isinstance(value, (datetime, date)):
        text = format_time(value, name)
    elif isinstance(value, UUID):
        text = str(value)
    else:
        raise UsageError(
            f"{name}={value!r} cannot be sent in a query; pass a string, a finite number, a bool, a UUID or a datetime"
        )
    return require_encodable(text, name)


def format_time(value: Timestamp, name: str) -> str:
    """Format a time as the service reads it: UTC with ``Z``. A string is returned unchanged.

    :raises UsageError: a naive datetime, a datetime out of range in UTC, or a value of another type.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise UsageError(
                f"{name}={value.isoformat()} has no time zone; "
                f"say which one, for example {name}.replace(tzinfo=timezone.utc)"
            )
        try:
            utc = value.astimezone(UTC)
        except OverflowError as error:
            raise UsageError(f"{name}={value.isoformat()} is out of range in UTC") from error
        fraction = "" if not utc.microsecond else f".{utc.microsecond:06d}".removesuffix("000")
        return f"{utc.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}Z"
    if isinstance(value, date):  # pyright: ignore[reportUnnecessaryIsInstance]
        return f"{value.isoformat()}T00:00:00Z"
    raise UsageError(f"{name} must be an aware datetime, a date or an ISO 8601 string, not {value!r}")


def require_encodable(text: str, what: str) -> str:
    """Return ``text``.

    :raises UsageError: it cannot be encoded as UTF-8; the message begins with ``what``.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} contains a lone surrogate, which cannot be encoded as UTF-8") from None
    return text


def join_path(*segments: str) -> str:
    """Join path segments, each fully percent-encoded.

    :raises UsageError: a segment is empty, or is ``.`` or ``..``, which a server would resolve.
    """
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise UsageError(f"a path segment cannot be {segment!r}")
    return "/" + "/".join(
        quote(require_encodable(segment, "a path segment"), safe="") for segment in segments
    )


def deep_merge(params: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``extra`` into a copy of ``params``, nested objects key by key. None removes a key."""
    merged = dict(params)
    for key, value in extra.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            ours = merged.get(key)
            base = cast("Mapping[str, Any]", ours if isinstance(ours, Mapping) else {})
            merged[key] = deep_merge(base, cast("Mapping[str, Any]", value))
        else:
            merged[key] = value
    return merged


def snapshot(value: object, depth: int = 0) -> Any:
    """Copy nested parameters, so that later changes by the caller do not change the query.

    :raises UsageError: nested deeper than ``MAX_DEPTH``.
    """
    if depth > MAX_DEPTH:
        raise UsageError(
            f"parameters are nested more than {MAX_DEPTH} levels deep; does a dict contain itself?"
        )
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {key: snapshot(item, depth + 1) for key, item in items}
    if isinstance(value, _ARRAY_TYPES):
        return tuple(snapshot(item, depth + 1) for item in stable_order(cast("Iterable[object]", value)))
    return value


def stable_order(items: Iterable[T]) -> Iterable[T]:
    """Sort a set, whose order differs between processes; anything else keeps its order.

    A query resumed by another process must have the same fingerprint.
    """
    return sorted(items, key=str) if isinstance(items, (set, frozenset)) else items

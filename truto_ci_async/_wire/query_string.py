"""Encodes nested parameters as a query string that the service's `qs` parser reads back unchanged.

Also holds the small helpers that parameters and paths need before they are encoded: merging, copying, a stable order.
Which parameters a list call has is in `list_query`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Literal, TypeAlias, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

from truto_ci_async._checks import LARGEST, brief, plain
from truto_ci_async.errors import UsageError

from .times import format_time

T = TypeVar("T")

ObjectArrays: TypeAlias = Literal["indices", "brackets"]

# qs turns an array with an index above 19 into an object.
MAX_ARRAY_ITEMS = 20
# Of brackets in a name. qs takes the deeper ones, all together, as a single odd key.
MAX_DEPTH = 5

_ARRAY_TYPES = (list, tuple, set, frozenset)


def encode_query(params: Mapping[str, Any], *, object_arrays: ObjectArrays = "indices") -> str:
    """Encode nested parameters, with names and values fully percent-encoded.

    Objects become ``a[b]=v``, arrays of scalars ``a[]=x``, arrays of objects ``a[0][b]=v`` (or ``a[][b]=v``
    with ``brackets``). None and empty arrays and objects are left out.

    :raises UsageError: a name is not a string or has more than ``MAX_DEPTH`` brackets, a value has no text form, or an
        array has more than ``MAX_ARRAY_ITEMS`` items.
    """
    pairs: list[str] = []
    for key, value in params.items():
        if value is None and isinstance(key, str):
            continue  # most parameters are not set
        if type(value) is str:
            pairs.append(encode_parameter(plain_name(key), value))
        else:
            pairs += [
                encode_parameter(name, text) for name, text in _flatten(plain_name(key), value, object_arrays)
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
            yield from _flatten(f"{name}[{plain_name(key)}]", item, object_arrays)
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
        if name.count("[") > MAX_DEPTH:
            raise _too_deep(name)
        scalar = plain_scalar(name, value)
        yield name, str(scalar).lower() if isinstance(scalar, bool) else str(scalar)


def plain_name(key: object) -> str:
    """Return the name of a parameter as a plain str.

    :raises UsageError: not a string.
    """
    text = plain(key)
    if not isinstance(text, str):
        raise UsageError(f"a parameter name must be a string, not {brief(key)}")
    return require_encodable(text, "a parameter name")


def _too_deep(name: str) -> UsageError:
    return UsageError(
        f"{name} is nested more than {MAX_DEPTH} levels deep, which the service cannot read "
        "(or does it contain itself?)"
    )


def plain_scalar(name: str, value: object) -> str | bool | int | float | None:
    """Return a value as JSON could hold it: times and UUIDs become text, scalars of other types plain ones.

    :raises UsageError: it cannot be sent; the message begins with ``name``.
    """
    scalar = plain(value)
    if isinstance(scalar, str):
        return require_encodable(scalar, name)
    if scalar is None or isinstance(scalar, bool) or (isinstance(scalar, float) and math.isfinite(scalar)):
        return scalar
    if isinstance(scalar, date):
        return format_time(scalar, name)
    if isinstance(scalar, UUID):
        return str(UUID(int=scalar.int))
    try:
        if isinstance(scalar, int):
            return scalar if abs(scalar) <= LARGEST else str(scalar)  # msgspec writes no larger integers
    except ValueError:  # it has thousands of digits
        pass
    raise UsageError(
        f"{name}={brief(value)} cannot be sent in a query; pass a string, a finite number, a bool, a UUID or a datetime"
    )


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

    :raises UsageError: a segment is empty, is not text, or is ``.`` or ``..``, which a server would resolve.
    """
    return "/" + "/".join(quote(_segment(segment), safe="") for segment in segments)


def _segment(segment: object) -> str:
    text = plain(segment)
    if not isinstance(text, str) or text in {"", ".", ".."}:
        raise UsageError(f"a path segment cannot be {brief(segment)}")
    return require_encodable(text, "a path segment")


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


def snapshot(name: str, value: object) -> Any:
    """Copy a parameter as plain dicts, lists and scalars that share nothing with what the caller passed.

    Later changes by the caller do not change the query, and a plan can store it as JSON.

    :raises UsageError: it cannot be sent, or is nested deeper than the service reads; the message begins with its name.
    """
    if name.count("[") > MAX_DEPTH and value is not None:
        raise _too_deep(name)
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {(text := plain_name(key)): snapshot(f"{name}[{text}]", item) for key, item in entries}
    if isinstance(value, _ARRAY_TYPES):
        items = stable_order(cast("Iterable[object]", value))
        return [snapshot(f"{name}[]", item) for item in items]
    return plain_scalar(name, value)


def stable_order(items: Iterable[T]) -> Iterable[T]:
    """Sort a set, whose order differs between processes; anything else keeps its order.

    A query resumed by another process must have the same fingerprint.
    """
    return sorted(items, key=_plain_text) if isinstance(items, (set, frozenset)) else items


def _plain_text(item: object) -> str:
    try:
        return str(plain(item))
    except ValueError:  # an int of thousands of digits, which is refused later
        return ""

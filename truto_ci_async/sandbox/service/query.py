"""Parses query strings exactly as the npm package `qs` does (6.15, default options).

The service very likely uses `qs`, and its edge cases decide what a client may send: an index above 19 turns an array
into an object, `users[][id]=1&users[][id]=2` becomes one user with two ids, a bare "+" is a space. The functions below
follow the JavaScript step by step to get those cases right. Names in parentheses are those of the qs functions.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

MAX_DEPTH: Final = 5  # bracket pairs; anything deeper stays one literal key
ARRAY_LIMIT: Final = 20  # elements, so the highest index is 19
PARAMETER_LIMIT: Final = 1000  # parameters; the rest are silently dropped

_SEGMENT: Final = re.compile(r"\[[^\[\]]*\]")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MAX_SAFE_INTEGER: Final = 2**53

# Properties of every JavaScript object. qs drops parameters that use one as a key.
_PROTOTYPE_NAMES: Final = frozenset(
    (
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    )
)
_HOLE: Final = object()  # an unset element of a sparse array


class _Array(list[Any]):
    """A JavaScript array; unset elements are `_HOLE`."""


class _Object(dict[str, Any]):
    """A JavaScript object. If it was an array that outgrew ARRAY_LIMIT, `top` is its highest index."""

    top: int | None = None


def parse_query(raw: str) -> dict[str, Any]:
    """Parse a raw query string (no leading "?") into nested dicts, lists and strings. Never raises."""
    result = _Object()
    for key, value in _flat(raw).items():
        names = _segments(key)
        if names:
            result = _merge(result, _nest(names, value))
    plain: dict[str, Any] = _plain(result)
    return plain


def _flat(raw: str) -> dict[str, Any]:
    """Split into decoded keys and values. The values of a repeated key become an array (parseValues)."""
    found: dict[str, Any] = {}
    if not raw:
        return found
    raw = re.sub("%5B", "[", raw, flags=re.IGNORECASE)
    raw = re.sub("%5D", "]", raw, flags=re.IGNORECASE)
    for part in raw.split("&")[:PARAMETER_LIMIT]:
        bracket = part.find("]=")
        at = part.find("=") if bracket < 0 else bracket + 1
        key = _decode(part if at < 0 else part[:at])
        value = "" if at < 0 else _decode(part[at + 1 :])
        found[key] = _combine(found[key], value) if key in found else value
    found.pop("", None)
    return found


def _decode(text: str) -> str:
    """Percent-decode. Text with invalid escapes, or escapes that are not UTF-8, stays as it is."""
    text = text.replace("+", " ")
    if "%" not in text or _BAD_ESCAPE.search(text):
        return text
    try:
        return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        return text


def _segments(key: str) -> list[str]:
    """Split "a[b][c]" into "a", "[b]", "[c]". Empty if qs drops the parameter (splitKeyIntoSegments)."""
    found = list(_SEGMENT.finditer(key))
    parent = key[: found[0].start()] if found else key
    names = [parent] if parent else []
    names += [match.group() for match in found[:MAX_DEPTH]]
    if any(name.removeprefix("[").removesuffix("]") in _PROTOTYPE_NAMES for name in names):
        return []
    if len(found) > MAX_DEPTH:
        names.append(f"[{key[found[MAX_DEPTH].start() :]}]")
    return names


def _nest(names: list[str], value: Any) -> Any:
    """Wrap a value in the objects and arrays that its key describes (parseObject)."""
    for name in reversed(names):
        if name == "[]":
            if not (isinstance(value, _Object) and value.top is not None):
                value = _combine(_Array(), value)
            continue
        bare = name[1:-1] if name[0] == "[" and name[-1] == "]" else name
        index = _index(bare) if bare != name else None
        if index is not None and index < ARRAY_LIMIT:
            value = _Array([_HOLE] * index + [value])
        else:
            value = _Object({bare: value} if bare != "__proto__" else {})
            value.top = index
    return value


def _index(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or (len(text) > 1 and text[0] == "0") or len(text) > 16:
        return None
    number = int(text)
    return number if number <= _MAX_SAFE_INTEGER else None


def _combine(first: Any, second: Any) -> Any:
    """Join two values in an array, or in an object if it gets longer than ARRAY_LIMIT (utils.combine)."""
    if isinstance(first, _Object) and first.top is not None:
        return _append(first, second)
    joined = _Array(first if isinstance(first, _Array) else [first])
    joined.extend(second if isinstance(second, _Array) else [second])
    return _overflow(joined) if len(joined) > ARRAY_LIMIT else joined


def _append(target: _Object, value: Any) -> _Object:
    target.top = (target.top or 0) + 1
    target[str(target.top)] = value
    return target


def _overflow(array: _Array) -> _Object:
    result = _to_object(array)
    result.top = len(array) - 1
    return result


def _to_object(array: _Array) -> _Object:
    return _Object({str(index): item for index, item in enumerate(array) if item is not _HOLE})


def _merge(target: Any, source: Any) -> Any:
    """Merge two parsed values as utils.merge does. May modify and return `target`."""
    if source == "":
        return target
    if isinstance(source, str):
        return _merge_text(target, source)
    if not isinstance(target, _Array | _Object):
        return _merge_into_text(target, source)
    if isinstance(target, _Array) and isinstance(source, _Array):
        return _merge_arrays(target, source)
    result = _to_object(target) if isinstance(target, _Array) else target
    top: int | None = None if isinstance(source, _Array) else source.top
    for key, value in (_to_object(source) if isinstance(source, _Array) else source).items():
        result[key] = _merge(result[key], value) if key in result else value
        if top is not None and result.top is None:
            result.top = top
        if result.top is not None:
            result.top = max(result.top, _index(key) or 0)
    return result


def _merge_text(target: Any, source: str) -> Any:
    if isinstance(target, _Array):
        joined = _Array([*target, source])
        return _overflow(joined) if len(target) > ARRAY_LIMIT else joined
    if isinstance(target, _Object) and target.top is not None:
        return _append(target, source)
    return _Array([target, source])


def _merge_into_text(target: Any, source: _Array | _Object) -> Any:
    if isinstance(source, _Object) and source.top is not None:
        shifted = _Object({"0": target})
        for key, value in source.items():
            index = _index(key)
            shifted["NaN" if index is None else str(index + 1)] = value
        shifted.top = source.top + 1
        return shifted
    joined = _Array([target, *(source if isinstance(source, _Array) else [source])])
    return _overflow(joined) if len(joined) > ARRAY_LIMIT else joined


def _merge_arrays(target: _Array, source: _Array) -> _Array:
    for index, item in enumerate(source):
        if item is _HOLE:
            continue
        if index >= len(target):
            target.extend([_HOLE] * (index - len(target)))
            target.append(item)
        elif target[index] is _HOLE:
            target[index] = item
        elif isinstance(target[index], _Array | _Object) and isinstance(item, _Array | _Object):
            target[index] = _merge(target[index], item)
        else:
            target.append(item)
    return target


def _plain(value: Any) -> Any:
    """Convert to plain dicts and lists without holes (utils.compact)."""
    if isinstance(value, _Array):
        return [_plain(item) for item in value if item is not _HOLE]
    if isinstance(value, _Object):
        return {key: _plain(item) for key, item in value.items()}
    return value

"""Encodes query parameters the way the service's `qs` parser reads them."""

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


Moment: TypeAlias = datetime | date | str
ObjectArrays: TypeAlias = Literal["indices", "brackets"]


# qs reads an array whose index passes 19 as an object, so a longer users filter goes out in several walks.
MAX_USERS = 20
# Far more levels than qs reads (5); a dict that holds itself has no end.
MAX_DEPTH = 32


def format_time(moment: Moment, name: str) -> str:
    """Write a moment the way the service reads it: UTC with ``Z``; text goes out untouched.

    :raises UsageError: a naive datetime, whose offset nobody can guess, or another type.
    """
    if isinstance(moment, str):
        return moment
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise UsageError(
                f"{name}={moment.isoformat()} has no time zone; "
                f"say which one, for example {name}.replace(tzinfo=timezone.utc)"
            )
        try:
            utc = moment.astimezone(UTC)
        except OverflowError as error:
            raise UsageError(f"{name}={moment.isoformat()} has no counterpart in UTC") from error
        fraction = "" if not utc.microsecond else f".{utc.microsecond:06d}".removesuffix("000")
        return f"{utc.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}Z"
    if isinstance(moment, date):  # pyright: ignore[reportUnnecessaryIsInstance]
        return f"{moment.isoformat()}T00:00:00Z"
    raise UsageError(f"{name} takes an aware datetime, a date or ISO 8601 text, not {moment!r}")


def encode_query(params: Mapping[str, Any], *, object_arrays: ObjectArrays = "indices") -> str:
    """Encode nested parameters as the service's ``qs`` parser reads them; names and values fully escaped.

    Objects become ``a[b]=v``, arrays of scalars ``a[]=x``, arrays of objects ``a[0][b]=v`` (or ``a[][b]=v``
    under ``brackets``). None is never sent, nor are empty arrays and objects.

    :raises UsageError: a name that is no text, a value that has no text form, or an array of objects longer
        than qs reads as one.
    """
    pairs: list[str] = []
    for key, value in params.items():
        if value is None and isinstance(key, str):
            continue  # most of them
        if type(value) is str:
            pairs.append(encode_pair(_name(key), value))
        else:
            pairs += [encode_pair(name, text) for name, text in _flatten(_name(key), value, object_arrays)]
    return "&".join(pairs)


@functools.lru_cache(maxsize=2048)
def encode_pair(name: str, text: str) -> str:
    """Percent-encode a parameter; kept, since a pull sends the same few for each of its accounts."""
    return f"{quote(name, safe='')}={quote(checked_text(text, name), safe='')}"


def in_order(items: Iterable[T]) -> Iterable[T]:
    """Sort a set, whose own order is another one in each process, so that a walk can be asked for again."""
    return sorted(items, key=str) if isinstance(items, (set, frozenset)) else items


_ARRAYS = (list, tuple, set, frozenset)


def _flatten(name: str, value: object, object_arrays: ObjectArrays) -> Iterable[tuple[str, str]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _flatten(f"{name}[{_name(key)}]", item, object_arrays)
    elif isinstance(value, _ARRAYS):
        items = [item for item in in_order(cast("Iterable[object]", value)) if item is not None]
        nested = any(isinstance(item, (Mapping, *_ARRAYS)) for item in items)
        if len(items) > MAX_USERS:
            raise UsageError(
                f"{name} holds {len(items)} values; the service reads at most {MAX_USERS} as an array"
            )
        for index, item in enumerate(items):
            suffix = str(index) if nested and object_arrays == "indices" else ""
            yield from _flatten(f"{name}[{suffix}]", item, object_arrays)
    else:
        yield name, _scalar(name, value)


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
            f"{name}={value!r} cannot be sent in a query; give text, a number, a bool or a date-time"
        )
    return checked_text(text, name)


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise UsageError(f"the name of a parameter is text, not {key!r}")
    return checked_text(key, "the name of a parameter")


def checked_text(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} holds a lone surrogate, which has no UTF-8 form") from None
    return text


def merge(params: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``extra`` into ``params``, objects key by key; None drops a key. Neither argument is changed."""
    merged = dict(params)
    for key, value in extra.items():
        mine = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            base = cast("Mapping[str, Any]", mine if isinstance(mine, Mapping) else {})
            merged[key] = merge(base, cast("Mapping[str, Any]", value))
        else:
            merged[key] = value
    return merged


def snapshot(value: object, depth: int = 0) -> Any:
    """Copy nested parameters, so that a walk goes on asking the same whatever its caller does to them later.

    :raises UsageError: nested deeper than ``MAX_DEPTH``.
    """
    if depth > MAX_DEPTH:
        raise UsageError(f"parameters are nested {MAX_DEPTH} levels deep at most; does a dict hold itself?")
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {key: snapshot(item, depth + 1) for key, item in items}
    if isinstance(value, _ARRAYS):
        return tuple(snapshot(item, depth + 1) for item in in_order(cast("Iterable[object]", value)))
    return value


def path_of(*segments: str) -> str:
    """Join path segments, each fully escaped.

    :raises UsageError: an empty one, or ``.`` and ``..``, which a server would resolve away.
    """
    for segment in segments:
        if not segment or segment in {".", ".."}:
            raise UsageError(f"a part of the path is {segment!r}")
    return "/" + "/".join(quote(checked_text(segment, "a part of the path"), safe="") for segment in segments)

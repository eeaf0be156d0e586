"""Copies `Raw` values out of the text they were decoded from, so that a kept item does not keep its page in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Raw
from msgspec.structs import force_setattr

from truto_ci_async.models.struct_types import is_struct

Items = TypeVar("Items", list[Any], tuple[Any, ...])


def raw_places(item_type: Any) -> tuple[list[tuple[str, Callable[[Any], Any]]], bool]:
    """Return name and getter of each field of a Struct that is always Raw, and whether Raw may be elsewhere in it."""
    info = msgspec.inspect.type_info(item_type)
    if not isinstance(info, msgspec.inspect.StructType):
        return [], item_type is not Raw and _may_hold_raw(info, set())
    # A field with another default, such as UNSET, is not always Raw: each of its values has to be checked.
    names = [
        field.name
        for field in info.fields
        if isinstance(field.type, msgspec.inspect.RawType) and (field.required or type(field.default) is Raw)
    ]
    others = (field for field in info.fields if field.name not in names)
    return [(name, attrgetter(name)) for name in names], any(_may_hold_raw(each, set()) for each in others)


def _may_hold_raw(info: object, seen: set[int]) -> bool:
    """Tell whether a type, as ``msgspec.inspect`` describes it, contains Raw anywhere."""
    if isinstance(info, msgspec.inspect.RawType):
        return True
    if isinstance(info, tuple):
        return any(_may_hold_raw(each, seen) for each in cast("tuple[object, ...]", info))
    if not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) or id(info) in seen:
        return False
    seen.add(id(info))  # a type may contain itself
    return any(_may_hold_raw(getattr(info, name), seen) for name in info.__struct_fields__)


def detached(items: Items) -> Items:
    """Replace each Raw with a copy, in items of any type that msgspec can decode.

    Only tuples are visited recursively: JSON may be nested deeper than the recursion limit.
    """
    todo: list[Any] = []
    done = set[int]()  # items may refer to each other: a type's __post_init__ can do anything
    fresh = type(items)([_fresh(item, todo) for item in items])
    while todo:
        holder = todo.pop()
        if id(holder) in done:
            continue
        done.add(id(holder))
        kind = cast("Any", type(holder))
        if kind is list:
            holder[:] = [_fresh(value, todo) for value in holder]
        elif kind is dict:
            for key, value in holder.items():
                holder[key] = _fresh(value, todo)
        else:
            put = force_setattr if is_struct(kind) else object.__setattr__
            for name in _places(kind):
                value = getattr(holder, name)
                if (new := _fresh(value, todo)) is not value:
                    put(holder, name, new)
    return fresh


def _fresh(value: Any, todo: list[Any]) -> Any:
    """Return a replacement for ``value``. If that may hold Raw, add it to ``todo``."""
    kind = cast("Any", type(value))
    if kind is Raw:
        return value.copy()
    if issubclass(kind, tuple):
        make: Any = getattr(value, "_make", tuple)  # of a NamedTuple
        return make([_fresh(each, todo) for each in value])
    if kind in (list, dict) or _places(kind):
        todo.append(value)
    return value


@lru_cache(maxsize=256)
def _places(kind: Any) -> tuple[str, ...]:
    """Return the fields of a Struct, dataclass or attrs class that may hold Raw; other types have none."""
    if not any(
        hasattr(kind, mark) for mark in ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__")
    ):
        return ()
    info: Any = msgspec.inspect.type_info(kind)
    is_generic = bool(getattr(kind, "__parameters__", ()))  # an instance does not know its type arguments
    return tuple(field.name for field in info.fields if is_generic or _may_hold_raw(field, set()))

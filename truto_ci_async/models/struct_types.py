"""Finds the structs that the values of a type may be or contain, and splits their JSON into parts."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
from msgspec import Raw

split_array: Callable[[bytes], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode
split_object: Callable[[bytes], dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw]).decode


def is_struct(type: Any) -> bool:
    origin = typing.get_origin(type) or type
    return isinstance(origin, typing.cast("Any", msgspec.StructMeta))


def struct_config(type: Any) -> Any:
    return getattr(typing.get_origin(type) or type, "__struct_config__", None)


def union_members(type: Any) -> Iterator[Any]:
    """Yield the members of a union, or the type itself, without what they are annotated with."""
    while typing.get_origin(type) is typing.Annotated:
        type = typing.get_args(type)[0]
    if typing.get_origin(type) in (typing.Union, types.UnionType):
        for member in typing.get_args(type):
            yield from union_members(member)
    else:
        yield type


_LISTS = (list, set, frozenset, Sequence, AbstractSet)


def element_type(type: Any) -> tuple[Any, ...]:
    """Return the type of a list's elements, or nothing if it is not a list whose elements have one type."""
    origin, args = typing.get_origin(type), typing.get_args(type)
    if origin is tuple:
        return args[:1] if len(args) == 2 and args[1] is Ellipsis else ()
    return args[:1] if origin in _LISTS else ()


def value_type(type: Any) -> tuple[Any, ...]:
    """Return the type of a dict's values, or nothing if it is not a dict."""
    return typing.get_args(type)[1:] if typing.get_origin(type) in (dict, Mapping) else ()

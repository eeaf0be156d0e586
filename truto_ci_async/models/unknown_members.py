"""Moves members that an ApiObject has no field for into its ``unknown_json``, so that its decoder accepts the rest.

Values are not checked here and keep their bytes: `_wire.repair` fixes those that do not fit. Only items that a decoder
refused get here.
"""

from __future__ import annotations

import re
import typing
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from truto_ci_async._json import BYTE_ORDER_MARK, UNKNOWN, decode_with, replace_surrogates

from .struct_types import element_type, is_struct, split_array, split_object, union_members, value_type

# Names that are told of one walk, and characters of each: a service may use ids as keys.
MOST_NAMES = 100
NAME_CHARS = 80

Names: TypeAlias = dict[str, None]
_ABSENT = Raw(b"")


# Objects of more bytes are not split into all of their members: half a million took half a second.
LARGE_OBJECT = 2**18
_UNKNOWN_NAME = "(?s)unknown field `(.*)`"


class KnownMembers(dict[str, Raw]):
    """The members of a large object that have fields, and under ``UNKNOWN`` the text of the whole object.

    ``first_unknown`` is the name of one that has no field.
    """

    first_unknown = ""


class MemberMover:
    """Move unknown members in values of one type."""

    def __init__(self, type: Any) -> None:
        members = list(union_members(type))
        structs = [member for member in members if is_struct(member)]
        self._struct: Any = structs[0] if len(structs) == 1 else None
        self._elements = [found for member in members for found in element_type(member)]
        self._values = [found for member in members for found in value_type(member)]
        self._decode = msgspec.json.Decoder(type).decode

    def move(self, raw: bytes, prefix: str, names: Names) -> bytes:
        """Return ``raw``, or what takes its place. ``names`` gets some of those moved, such as ``user.emails[].x``."""
        if raw.startswith(b"{"):
            if self._struct is not None:
                return self.move_members(raw, self.split(raw), prefix, names)
            if self._values:
                inner = _mover(self._values[0])
                moved = {
                    key: Raw(inner.move(bytes(value), f"{prefix}{key[:NAME_CHARS]}.", names))
                    for key, value in split_object(raw).items()
                }
                return msgspec.json.encode(moved)
        elif raw.startswith(b"[") and self._elements:
            inner = _mover(self._elements[0])
            prefix = f"{prefix.removesuffix('.')}[]."
            return (
                b"[" + b",".join([inner.move(bytes(each), prefix, names) for each in split_array(raw)]) + b"]"
            )
        return raw

    def is_fine(self, raw: Raw) -> bool:
        """Tell whether a value decodes as it is, which is faster than searching it."""
        try:
            self._decode(raw)
        except msgspec.ValidationError:
            return False
        return True

    def move_members(self, raw: bytes, fields: dict[str, Raw], prefix: str, names: Names) -> bytes:
        """Do as ``move`` with an object that was split into ``fields`` already."""
        is_changed = isinstance(fields, KnownMembers)
        if isinstance(fields, KnownMembers):
            names[prefix + fields.first_unknown[:NAME_CHARS]] = None
        elif self._keys is not None and not fields.keys() <= self._keys:
            unknown = {key: value for key, value in fields.items() if key not in self._keys}
            if len(names) < MOST_NAMES:
                names.update((prefix + key[:NAME_CHARS], None) for key in islice(unknown, MOST_NAMES))
            fields = {key: value for key, value in fields.items() if key in self._keys}
            fields[UNKNOWN] = Raw(msgspec.json.encode(msgspec.json.encode(unknown).decode()))
            is_changed = True
        for key, mover in self._places.items():
            if (value := fields.get(key)) is None:
                continue
            if mover.is_fine(value):
                continue
            before = bytes(value)
            after = mover.move(before, f"{prefix}{key}.", names)
            if after is not before:
                fields[key] = Raw(after)
                is_changed = True
        return msgspec.json.encode(fields) if is_changed else raw

    def split(self, raw: bytes) -> dict[str, Raw]:
        """Split an object into its members; of a large one, ``KnownMembers`` if it has others."""
        if len(raw) <= LARGE_OBJECT or self._keys is None:
            return split_object(raw)
        strict, lenient = self._member_decoders
        try:
            strict.decode(raw)
        except msgspec.ValidationError as error:
            values = msgspec.structs.astuple(lenient.decode(raw))
            found = KnownMembers(
                (key, value) for key, value in zip(self._sorted_keys, values, strict=True) if value != _ABSENT
            )
            found[UNKNOWN] = Raw(msgspec.json.encode(raw.decode()))
            if name := re.search(_UNKNOWN_NAME, str(error)):
                found.first_unknown = name[1]
            return found
        return split_object(raw)

    @cached_property
    def _sorted_keys(self) -> list[str]:
        return sorted(self._keys or ())

    @cached_property
    def _member_decoders(self) -> tuple[Any, Any]:
        """Decoders of known members as they are: one refuses others, one skips them."""
        names = {f"member_{at}": key for at, key in enumerate(self._sorted_keys)}
        fields = [(name, Raw, _ABSENT) for name in names]
        kinds = [
            msgspec.defstruct("Members", fields, rename=names, forbid_unknown_fields=strict)
            for strict in (True, False)
        ]
        return msgspec.json.Decoder(kinds[0]), msgspec.json.Decoder(kinds[1])

    @cached_property
    def _keys(self) -> frozenset[str] | None:
        """Names of the struct's fields; None if it keeps no unknown members."""
        if not is_api_object(self._struct):
            return None
        return frozenset(field.encode_name for field in msgspec.structs.fields(self._struct)) - {UNKNOWN}

    @cached_property
    def _places(self) -> dict[str, MemberMover]:
        """The fields whose values may hold an ApiObject. Not built by the constructor: a type may contain itself."""
        return {
            field.encode_name: _mover(field.type)
            for field in msgspec.structs.fields(self._struct)
            if holds_api_object(field.type)
        }


def is_api_object(struct: Any) -> bool:
    """Tell whether a struct keeps members that it has no field for."""
    return UNKNOWN in (typing.get_origin(struct) or struct).__struct_fields__


def member_mover(type: Any) -> MemberMover | None:
    """Return a mover for a type that may hold an ApiObject; None for any other."""
    return MemberMover(type) if holds_api_object(type) else None


_movers: dict[Any, MemberMover] = {}


def _mover(type: Any) -> MemberMover:
    try:
        return _movers[type]
    except KeyError:
        return _movers.setdefault(type, MemberMover(type))
    except TypeError:  # Annotated with something unhashable
        return MemberMover(type)


def holds_api_object(type: Any, _above: tuple[Any, ...] = ()) -> bool:
    """Tell whether a value of this type can be an ApiObject, or hold one."""
    for member in union_members(type):
        if member in _above:  # a type may contain itself
            continue
        inside = (*element_type(member), *value_type(member))
        if is_struct(member):
            if is_api_object(member):
                return True
            inside = tuple(field.type for field in msgspec.structs.fields(member))
        if any(holds_api_object(each, (*_above, member)) for each in inside):
            return True
    return False


def decode_known(body: bytes, type: Any) -> Any:
    """Decode JSON into a type, even if it has members that our structs do not know.

    :raises msgspec.ValidationError: it does not fit the type.
    :raises DecodeError: it is not JSON.
    """
    decoder = msgspec.json.Decoder(type)
    try:
        return decode_with(decoder, body)
    except msgspec.ValidationError:
        mover = member_mover(type)
        if mover is None:
            raise
        text = replace_surrogates(body.removeprefix(BYTE_ORDER_MARK)).strip()
        return decoder.decode(mover.move(text, "", {}))

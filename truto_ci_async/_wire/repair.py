"""Rewrites JSON whose values do not fit their types, changing as little as possible and noting each change.

How it works. An object is rewritten field by field. A value that fits keeps its bytes. One of another kind is replaced
(a number where text is expected becomes text, a date-time in another format becomes RFC 3339), and anything that
cannot be read becomes null. What the object is decoded into is up to the caller, `item_reader`.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cached_property
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct

from truto_ci_async._json import UNKNOWN
from truto_ci_async.models.struct_types import (
    element_type,
    is_struct,
    split_array,
    split_object,
    struct_config,
    union_members,
    value_type,
)

from .lenient_times import read_datetime

# How much of a replaced value a message quotes. The whole record is in the issue anyway.
QUOTED_CHARS = 80

Fields: TypeAlias = dict[str, Raw]
# Where something was changed, and what and why.
Note: TypeAlias = tuple[str, str]

# Notes kept per value; the others are only counted. A list in one record can have millions of wrong elements.
NOTES_KEPT = 100
# A list or dict with more wrong values than this is left out: repairing each takes microseconds.
MOST_REPAIRS = 20_000


class Notes(list[Note]):
    """The first notes on one value; ``total`` counts them all."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def add(self, path: str, message: str) -> None:
        self.total += 1
        if len(self) < NOTES_KEPT:
            self.append((path, message))

    def check_number(self) -> None:
        """:raises TooManyRepairs: there are more than a value may have."""
        if self.total > MOST_REPAIRS:
            raise TooManyRepairs

    def add_all(self, others: Notes) -> None:
        self.total += others.total
        self += others[: NOTES_KEPT - len(self)]


class TooManyRepairs(Exception):
    """A value has more than ``MOST_REPAIRS`` wrong values in it."""


class Repairer:
    """Replace values that do not fit ``type``. Each change is added to ``notes``, with its path."""

    def __init__(self, type: Any) -> None:
        self._decode: Callable[[bytes | Raw], Any] = msgspec.json.Decoder(type).decode
        self._takes_anything = type is Raw  # mutant: only saves time
        members = list(union_members(type))
        structs = [member for member in members if is_struct(member)]
        self._nullable = types.NoneType in members
        self._takes_text = str in members
        self._takes_datetime = datetime in members
        self._takes_int = int in members
        self._struct: Any = structs[0] if len(structs) == 1 else None
        self._elements = [found for member in members for found in element_type(member)]
        self._values = [found for member in members for found in value_type(member)]

    def is_foreign(self, keys: Fields) -> bool:
        """Tell whether an object has none of the struct's keys."""
        return self._keys.isdisjoint(keys)

    def describe_foreign(self, keys: Iterable[str]) -> str:
        """Say what is wrong with such an object."""
        known, seen = ", ".join(sorted(self._keys)), ", ".join(list(keys)[:12]) or "none"
        return f"expected {self._struct.__name__} with some of the keys {known}; the keys are: {seen}"

    def keep_or_fix(self, raw: bytes | Raw, path: str, step: str, notes: Notes) -> bytes | Raw | None:
        """Return ``raw`` if it fits, else a value to replace it; None if there is none. Its path is path + step."""
        try:
            if not self._takes_anything:
                self._decode(raw)
        except msgspec.ValidationError as error:
            return self._fix(bytes(raw), str(error), path + step, notes)
        return raw

    def fix_struct(self, given: Fields, path: str, notes: Notes) -> bytes | None:
        """Rewrite an object so that each known field fits or is null; None if a required one cannot."""
        parts: list[bytes | Raw] = []
        is_complete = True
        for key, value in given.items():
            field = self._fields.get(key)
            if field is None:
                parts += (b",", msgspec.json.encode(key), b":", value)
                continue
            fixed = field.repairer.keep_or_fix(value, path, field.step, notes)
            if fixed is not None:
                parts += (b",", field.name, fixed)
            elif field.required:  # others are left out, and take their defaults
                is_complete = False  # mutant: None is as good
        for field in self._fields.values():
            if field.required and field.key not in given:
                notes.add(path + field.step, "missing, and required")
                is_complete = False  # mutant: None is as good
        parts[:1] = [b"{"]
        return b"".join((*parts, b"}")) if is_complete else None

    def _fix(self, raw: bytes, message: str, path: str, notes: Notes) -> bytes | None:
        """Return a replacement for ``raw``, which the decoder refused with ``message``; None if there is none."""
        tried = Notes()
        try:
            fixed = self._rewrite(raw, message, path, tried)
        except TooManyRepairs:
            notes.add(path, f"left out, because it holds more than {MOST_REPAIRS:,} wrong values")
            return b"null" if self._nullable else None
        if fixed is not None and self._accepts(fixed):
            notes.add_all(tried)
            return fixed
        notes.add(path, describe_mismatch(message, raw))
        return b"null" if self._nullable else None

    def _accepts(self, raw: bytes) -> bool:
        try:
            self._decode(raw)
        except msgspec.ValidationError:
            return False
        return True

    def _rewrite(self, raw: bytes, message: str, path: str, notes: Notes) -> bytes | None:
        if raw.startswith(b"{"):
            return self._rewrite_object(raw, path, notes)
        if raw.startswith(b"["):
            return self._rewrite_list(raw, path, notes)
        if self._takes_datetime and (found := read_datetime(raw)) is not None:
            moment, how = found
            fixed = msgspec.json.encode(moment.isoformat())
        elif self._takes_int and (whole := re.fullmatch(_WHOLE, raw)):
            fixed, how = whole[1], "read as a whole number"
        elif self._takes_text and (raw.startswith(b"-") or raw[:1].isdigit()):
            fixed, how = b'"' + raw + b'"', "kept its digits as text"
        else:
            return None
        notes.add(path, f"{describe_mismatch(message, raw)}; {how}")
        return fixed

    def _rewrite_object(self, raw: bytes, path: str, notes: Notes) -> bytes | None:
        if self._struct is not None:
            return self.fix_struct(split_object(raw), path, notes)
        if not self._values:
            return None
        repairer = _repairer(self._values[0])
        members: list[bytes] = []
        for key, value in split_object(raw).items():
            fixed = repairer.keep_or_fix(value, path, f".{key}", notes)
            notes.check_number()
            if fixed is not None:
                members.append(msgspec.json.encode(key) + b":" + fixed)
        return b"{" + b",".join(members) + b"}"

    def _rewrite_list(self, raw: bytes, path: str, notes: Notes) -> bytes | None:
        if not self._elements:
            return None
        repairer = _repairer(self._elements[0])
        items: list[bytes | Raw] = []
        for index, item in enumerate(split_array(raw)):
            fixed = repairer.keep_or_fix(item, path, f"[{index}]", notes)
            notes.check_number()
            if fixed is not None:
                items.append(fixed)
        return b"[" + b",".join(items) + b"]"

    @cached_property
    def _keys(self) -> frozenset[str]:
        keys = {field.encode_name for field in msgspec.structs.fields(self._struct)} - {UNKNOWN}
        config = struct_config(self._struct)
        if config is not None and config.tag is not None:
            keys.add(config.tag_field or "type")
        return frozenset(keys)

    @cached_property
    def _fields(self) -> dict[str, _Field]:
        """The fields of the struct. Not built by the constructor, because a type may contain itself."""
        return {
            field.encode_name: _Field(
                key=field.encode_name,
                name=msgspec.json.encode(field.encode_name) + b":",
                step=f".{field.encode_name}",
                repairer=_repairer(field.type),
                required=field.required,
            )
            for field in msgspec.structs.fields(self._struct)
        }


class _Field(Struct, frozen=True):
    key: str
    name: bytes  # as JSON, with the colon
    step: str
    repairer: Repairer
    required: bool


def struct_repairer(item_type: Any) -> Repairer | None:
    """Return the repairer of a Struct that is written as a JSON object; None for any other type."""
    if not is_struct(item_type):
        return None
    config = struct_config(item_type)
    return None if config is not None and config.array_like else Repairer(item_type)


_repairers: dict[Any, Repairer] = {}


def _repairer(type: Any) -> Repairer:
    """Return the repairer of a field's type, shared by all fields of that type."""
    try:
        return _repairers[type]
    except KeyError:
        return _repairers.setdefault(type, Repairer(type))
    except TypeError:  # Annotated with something unhashable
        return Repairer(type)


def describe_mismatch(message: str, raw: bytes) -> str:
    """Say what was expected and what came, quoting the JSON."""
    text = raw[: QUOTED_CHARS * 4].decode(errors="replace")  # mutant: more is cut off below
    return (
        f"{without_location(message)}: {text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + '...'}"
    )


def without_location(message: str) -> str:
    """Strip msgspec's own path from its message: it is relative to the value, and notes have a path already."""
    return re.sub(_LOCATION, "", message)


# A whole number with a fraction of zeros, such as 1800.0, which msgspec does not take as an int.
_WHOLE = rb"(-?[0-9]+)\.0+"
_LOCATION = " - at `[^`]*`$"

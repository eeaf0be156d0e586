"""Repairs fields of the wrong type, one record at a time."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from truto_ci_async.errors import DecodeError

# How much of a replaced value an issue's message quotes; the record's bytes stand beside it anyway.
QUOTED_CHARS = 80


Fields: TypeAlias = dict[str, Raw]
Note: TypeAlias = Callable[[str, str], None]


split_array: Callable[[bytes], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode
read_fields: Callable[[bytes | Raw], Fields] = msgspec.json.Decoder(Fields).decode


_text: Callable[[bytes], str] = msgspec.json.Decoder(str).decode


class StrictRead:
    """Turn bad UTF-8 and too deep nesting into our own DecodeError.

    msgspec raises UnicodeDecodeError for bad UTF-8 before 0.23, and its own DecodeError since.
    """

    __slots__ = ("index", "path", "raw")

    def __init__(self, raw: bytes, path: str, index: int) -> None:
        self.raw = raw
        self.path = path
        self.index = index

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RecursionError):
            message = "nested too deep to decode"
        elif type(error) in (UnicodeDecodeError, msgspec.DecodeError):
            try:
                self.raw.decode()
            except UnicodeDecodeError as bad:
                message = f"not UTF-8: {bad.reason}"
            else:
                return
        else:
            return
        raise DecodeError(message, path=self.path, index=self.index, raw=self.raw) from None


class _Shape:
    """How to save a value that does not fit ``type``; the caller has found that it does not."""

    def __init__(self, type: Any) -> None:
        self.decode: Callable[[bytes | Raw], Any] = msgspec.json.Decoder(type).decode
        members = list(_members(type))
        plain = [_plain(member) for member in members]
        structs = [member for member in plain if is_struct(member)]
        self.nullable = types.NoneType in plain
        self.text = str in plain
        self.moment = datetime in plain
        self.struct: Any = structs[0] if len(structs) == 1 else None
        self.element = _first(_element(member) for member in plain)
        self.value = _first(_value(member) for member in plain)
        self.keys: frozenset[str] = frozenset()
        self._fields: dict[str, tuple[bytes, _Shape, bool]] | None = None
        if self.struct is not None:
            config = _config(self.struct)
            self.keys = frozenset(field.encode_name for field in msgspec.structs.fields(self.struct))
            if config is not None and config.tag is not None:
                self.keys |= {config.tag_field or "type"}

    def accepts(self, raw: bytes) -> bool:
        try:
            self.decode(raw)
        except msgspec.ValidationError:
            return False
        return True

    def keep_or_fix(self, raw: bytes, path: str, note: Note) -> bytes | None:
        """Return ``raw`` if it fits, else what ``fix`` makes of it."""
        try:
            self.decode(raw)
        except msgspec.ValidationError as error:
            return self.fix(raw, str(error), path, note)
        return raw

    def fix(self, raw: bytes, message: str, path: str, note: Note) -> bytes | None:
        """Return a value that fits in place of ``raw``, noting what was done; None when nothing does.

        ``message`` is what the decoder said to ``raw``.
        """
        opening = raw[:1]
        fixed: bytes | None = None
        notes: list[tuple[str, str]] = []
        keep = collect_notes(notes)
        if opening == b"{" and self.struct is not None:
            fixed = self.fix_struct(read_fields(raw), path, keep)
        elif opening == b"{" and self.value is not _ABSENT:
            fixed = self._fix_map(raw, path, keep)
        elif opening == b"[" and self.element is not _ABSENT:
            fixed = self._fix_list(raw, path, keep)
        elif self.moment and (moment := read_moment(raw)) is not None:
            fixed = msgspec.json.encode(moment[0].isoformat())
            keep(path, f"{error_text(message, raw)}; {moment[1]}")
        elif self.text and (opening == b"-" or opening.isdigit()):
            fixed = b'"' + raw + b'"'
            keep(path, f"{error_text(message, raw)}; kept its digits as text")
        if fixed is not None and self.accepts(fixed):
            for where, what in notes:
                note(where, what)
            return fixed
        note(path, error_text(message, raw))
        return b"null" if self.nullable else None

    def fix_struct(self, given: Fields, path: str, note: Note) -> bytes | None:
        """Write an object anew so that each known field fits or is null; None: a required one cannot."""
        if self._fields is None:
            self._fields = {
                field.encode_name: (
                    msgspec.json.encode(field.encode_name),
                    _shape(field.type),
                    field.required,
                )
                for field in msgspec.structs.fields(self.struct)
            }
        parts: list[bytes | Raw] = []
        whole = True
        for key, value in given.items():
            known = self._fields.get(key)
            if known is None:
                parts += (b",", msgspec.json.encode(key), b":", value)
                continue
            name, shape, required = known
            try:
                shape.decode(value)
            except msgspec.ValidationError as error:
                fixed = shape.fix(bytes(value), str(error), f"{path}.{key}", note)
                if fixed is None:  # left out, the field has its default
                    whole = whole and not required
                    continue
                parts += (b",", name, b":", fixed)
            else:
                parts += (b",", name, b":", value)
        for key, (_, _, required) in self._fields.items():
            if required and key not in given:
                note(f"{path}.{key}", "missing, and required")
                whole = False
        parts[:1] = [b"{"]
        return b"".join(parts) + b"}" if whole else None

    def _fix_list(self, raw: bytes, path: str, note: Note) -> bytes:
        shape = _shape(self.element)
        fixed = (
            shape.keep_or_fix(bytes(item), f"{path}[{i}]", note) for i, item in enumerate(split_array(raw))
        )
        return b"[" + b",".join(item for item in fixed if item is not None) + b"]"

    def _fix_map(self, raw: bytes, path: str, note: Note) -> bytes:
        shape = _shape(self.value)
        fixed = (
            (key, shape.keep_or_fix(bytes(item), f"{path}.{key}", note))
            for key, item in read_fields(raw).items()
        )
        return b"{" + b",".join(msgspec.json.encode(k) + b":" + v for k, v in fixed if v is not None) + b"}"


_ABSENT: Any = object()


def _first(found: Iterable[Any]) -> Any:
    return next((type for type in found if type is not _ABSENT), _ABSENT)


_shapes: dict[Any, _Shape] = {}


def _shape(type: Any) -> _Shape:
    """Return the shape of a field's type, shared by all fields of that type."""
    try:
        return _shapes[type]
    except KeyError:
        return _shapes.setdefault(type, _Shape(type))
    except TypeError:  # Annotated with something unhashable
        return _Shape(type)


def struct_shape(item_type: Any) -> _Shape | None:
    """Return the shape of a type that is one Struct, written as a JSON object; None for anything else."""
    if not is_struct(item_type):
        return None
    config = _config(item_type)
    return None if config is not None and config.array_like else _Shape(item_type)


def collect_notes(notes: list[tuple[str, str]]) -> Note:
    def note(where: str, message: str) -> None:
        notes.append((where, message))

    return note


def blank_values(item_type: Any) -> list[tuple[Callable[[Any], Any], Any]]:
    """Return getter and value of each field of an instance read from ``{}``; empty when that cannot be."""
    try:
        blank = msgspec.json.decode(b"{}", type=item_type)
    except (msgspec.ValidationError, RecursionError):
        return []
    names = [field.name for field in msgspec.structs.fields(item_type)]
    return [(attrgetter(name), getattr(blank, name)) for name in names]


def is_struct(type: Any) -> bool:
    origin = typing.get_origin(type) or type
    return isinstance(origin, typing.cast("Any", msgspec.StructMeta))


def _config(type: Any) -> Any:
    return getattr(typing.get_origin(type) or type, "__struct_config__", None)


def _plain(type: Any) -> Any:
    while typing.get_origin(type) is typing.Annotated:
        type = typing.get_args(type)[0]
    return type


def _members(type: Any) -> Iterator[Any]:
    plain = _plain(type)
    if typing.get_origin(plain) in (typing.Union, types.UnionType):
        for member in typing.get_args(plain):
            yield from _members(member)
    else:
        yield plain


_LISTS = (list, set, frozenset, Sequence, AbstractSet)


def _element(type: Any) -> Any:
    """Return the type of a list's elements, or _ABSENT for what is no list of one type."""
    origin, args = typing.get_origin(type), typing.get_args(type)
    if origin is tuple:
        return args[0] if len(args) == 2 and args[1] is Ellipsis else _ABSENT
    return args[0] if origin in _LISTS and args else _ABSENT


def _value(type: Any) -> Any:
    origin, args = typing.get_origin(type), typing.get_args(type)
    return args[1] if origin in (dict, Mapping) and len(args) == 2 else _ABSENT


_AT = re.compile(r" - at `[^`]*`$")


def strip_location(message: str) -> str:
    return _AT.sub("", message)


def error_text(message: str, raw: bytes) -> str:
    """What was expected and what came, with the value as it stands in the JSON."""
    text = raw[: QUOTED_CHARS * 4].decode(errors="replace")
    return f"{strip_location(message)}: {text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + '...'}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds reach this in the year 5138, milliseconds had it in 1973.
_MILLISECONDS_FROM = 10**11
_MICROSECONDS_FROM = 10**14
_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ]\s*(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,30}))?)?)?"
    r"\s*(?:([Zz]|UTC|GMT)|([+-])(\d\d):?(\d\d)?)?",
    re.ASCII,
)
_DIGITS = re.compile(r"\d{10}|\d{13}", re.ASCII)


def read_moment(raw: bytes) -> tuple[datetime, str] | None:
    """Read a JSON value as a date-time, leniently, and say how it was understood; None if it is none.

    Taken: a space for the T, no offset (understood as UTC), no seconds, a date alone, offsets without a
    colon, fractions of any length, spaces around, and seconds or milliseconds since 1970.
    """
    if raw[:1] != b'"':
        return _from_epoch(raw.decode()) if raw[:1] == b"-" or raw[:1].isdigit() else None
    text = _text(raw).strip()
    if _DIGITS.fullmatch(text):
        return _from_epoch(text)
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, utc, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        moment = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0").ljust(6, "0")[:6]),
            tzinfo=timezone(-offset if sign == "-" else offset) if offset else UTC,
        )
    except ValueError:
        return None
    if hour is None:
        return moment, "read as the start of that day" + ("" if utc or sign else " in UTC")
    return moment, "read as it stands" if utc or sign else "without an offset, read as UTC"


def _from_epoch(digits: str) -> tuple[datetime, str] | None:
    try:
        number = Decimal(digits)
    except InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() > 18:  # also keeps int() below from a million digits
        return None
    unit, scale = "seconds", 1_000_000
    if abs(number) >= _MICROSECONDS_FROM:
        unit, scale = "microseconds", 1
    elif abs(number) >= _MILLISECONDS_FROM:
        unit, scale = "milliseconds", 1_000
    try:
        return _EPOCH + timedelta(microseconds=int(number * scale)), f"read as {unit} since 1970"
    except OverflowError:
        return None

"""Typed items out of JSON arrays, with repair: one bad field never costs a record, nor passes without a word.

How it works. A whole array is decoded by one typed msgspec decoder; nearly every page ends there. Only when
that fails, or some item looks as if it held nothing the type knows, is the array taken apart into the bytes
of its items. An item that does not fit is rewritten field by field: a value that fits keeps its bytes, one
of another shape is replaced (digits become text, an odd date-time becomes RFC 3339), what cannot be read
becomes null, and the rewritten object goes through the typed decoder again. Each replacement is an ``Issue``.
"""

from __future__ import annotations

import re
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Raw
from msgspec.structs import force_setattr

from .errors import DecodeError, UsageError
from .models import Issue

T = TypeVar("T")
Items = TypeVar("Items", list[Any], tuple[Any, ...])

OnInvalid: TypeAlias = Literal["repair", "raise"]

# How much of a replaced value an issue's message quotes; the record's bytes stand beside it anyway.
QUOTED_CHARS = 80
# Most bytes of one item of a stream, unless the caller says otherwise.
MAX_ITEM_BYTES = 64 * 2**20

Fields: TypeAlias = dict[str, Raw]
Note: TypeAlias = Callable[[str, str], None]


class ItemReader(Generic[T]):
    """Read items of one type; built once and reused, since building decoders costs more than a small page.

    ``item_type`` is a msgspec Struct (repaired field by field), ``dict`` or ``Any`` (whatever came), ``msgspec.Raw``
    (exact bytes), or a dataclass or TypedDict (all or nothing). What is Raw anywhere in an item is detached from the
    text it came in: as a field of the items themselves at next to no cost, deeper inside for a microsecond or two.

        >>> items, issues = ItemReader(User).read_array(b'[{"id": 234599484848423, "name": "Ann"}]')
        >>> items[0].id, issues[0].path
        ('234599484848423', '$.result[0].id')

    Under ``on_invalid="repair"`` an item that cannot be kept is left out and told in an issue; under
    ``"raise"`` whatever repair would have told is a DecodeError. An object that holds none of a Struct's keys
    cannot be kept: all fields being optional, it would pass as a record full of None.
    """

    def __init__(self, item_type: type[T] | Any, *, on_invalid: OnInvalid = "repair") -> None:
        if on_invalid not in ("repair", "raise"):
            raise UsageError(f"on_invalid is 'repair' or 'raise', not {on_invalid!r}")
        self.item_type = item_type
        self.on_invalid: OnInvalid = on_invalid
        try:
            array_type = cast("Any", list)[item_type]
            self._decode_array: Callable[[bytes], list[Any]] = msgspec.json.Decoder(array_type).decode
            self._decode_item: Callable[[bytes], Any] = msgspec.json.Decoder(item_type).decode
        except TypeError as error:
            raise UsageError(f"item_type cannot be decoded from JSON: {error}") from error
        self._shape = _struct_shape(item_type)
        # What each field holds when nothing was there to read; the first one is the probe.
        self._blanks = _blank_values(item_type) if self._shape else []
        self._raw_fields, self._has_raw_inside = _raw_places(item_type)

    def read_array(
        self, text: bytes, *, start: int = 0, path: str = "$.result"
    ) -> tuple[list[T], list[Issue]]:
        """Read the items of ``text``, one whole JSON array whose first item is number ``start``.

        :raises msgspec.DecodeError: ``text`` is not one JSON array.
        :raises DecodeError: an item does not fit and ``on_invalid="raise"``; bad UTF-8; nested too deep.
        """
        with _strict(text, path, start):
            try:
                items: list[Any] = self._decode_array(text)
            except msgspec.ValidationError:
                return self._read_each(text, start, path)
        if self._blanks and self.blank(items):
            return self._read_each(text, start, path)
        return self.detach(items), []

    def read_item(self, raw: bytes, *, index: int, path: str) -> tuple[T | None, list[Issue]]:
        """Read one item, number ``index``, standing at ``path`` (such as ``$.result[3]``).

        None: it could not be kept, and the issue says why.

        :raises DecodeError: it is not JSON; or it does not fit and ``on_invalid="raise"``.
        """
        try:
            with _strict(raw, path, index):
                item, issues = self._read_one(raw, index, path)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as error:
            raise DecodeError(f"not JSON: {error}", path=path, index=index, raw=raw) from error
        if issues and self.on_invalid == "raise":
            first = issues[0]
            raise DecodeError(f"{first.path}: {first.message}", path=first.path, index=index, raw=raw)
        return item, issues

    def detach(self, items: Items) -> Items:
        """Give bytes of their own to items that are Raw, and to what is Raw in them.

        A Raw is a view of the whole text it came in: one item that is kept would keep a page alive.
        """
        if self.item_type is Raw:
            return type(items)(map(Raw.copy, items))
        if self._has_raw_inside:
            with suppress(RecursionError):  # tuples in tuples, by the hundred: they stay as they are
                return _detached(items)
        for name, get in self._raw_fields:
            # All of it in C, at a third of what a __post_init__ takes.
            copies = map(Raw.copy, map(get, items))
            deque(map(force_setattr, items, repeat(name), copies), maxlen=0)
        return items

    def blank(self, items: Sequence[T]) -> bool:
        """Tell whether some item looks as if it held none of the known keys: ``read_item`` decides then."""
        if not self._blanks:
            return False
        probe, nothing = self._blanks[0]
        # One pass in C over a page; asking for truth takes 25 ns an item, comparing twice that.
        if (not nothing and all(map(probe, items))) or nothing not in map(probe, items):
            return False
        return any(all(get(item) == value for get, value in self._blanks) for item in items)

    def _read_each(self, text: bytes, start: int, path: str) -> tuple[list[T], list[Issue]]:
        """Read item by item: half as quick where every item is bad."""
        items: list[T] = []
        issues: list[Issue] = []
        for index, raw in enumerate(_raws(text), start):
            item, found = self.read_item(bytes(raw), index=index, path=f"{path}[{index}]")
            issues += found
            if item is not None or not found:
                items.append(cast("T", item))
        return items, issues

    def _read_one(self, raw: bytes, index: int, path: str) -> tuple[T | None, list[Issue]]:
        notes: list[tuple[str, str]] = []
        item: Any = None
        kept = True
        try:
            item = self._decode_item(raw)
        except msgspec.ValidationError as error:
            item = self._repair(raw, path, str(error), _collect(notes))
            kept = item is not None
        else:
            if self._blanks and self.blank((item,)) and (message := self._unknown(_fields(raw))):
                notes.append((path, message))
                item, kept = None, False
        if kept:
            (item,) = self.detach((item,))
        return item, [
            Issue(index=index, path=where, message=message, dropped=not kept, raw=raw)
            for where, message in notes
        ]

    def _repair(self, raw: bytes, path: str, message: str, note: Note) -> T | None:
        if self._shape is None or raw.lstrip()[:1] != b"{":
            note(path, _said(message, raw))
            return None
        given = _fields(raw)
        if unknown := self._unknown(given):
            note(path, unknown)
        elif (fixed := self._shape.fix_struct(given, path, note)) is not None:
            try:
                return cast("T", self._decode_item(fixed))
            except msgspec.ValidationError as error:
                note(path, _bare(str(error)))
        return None

    def _unknown(self, keys: Fields) -> str | None:
        """Say what is wrong with an object that holds none of the known keys; None when it holds one."""
        known = self._shape.keys if self._shape else frozenset[str]()
        if not known.isdisjoint(keys):
            return None
        name = getattr(self.item_type, "__name__", "item")
        seen = ", ".join(list(keys)[:12]) or "none"
        return f"expected {name} with some of the keys {', '.join(sorted(known))}; the keys are: {seen}"


def item_reader(item_type: Any, on_invalid: OnInvalid = "repair") -> ItemReader[Any]:
    """Return a reader of ``item_type``, the same one for the same arguments: building it takes milliseconds."""
    try:
        return _kept_reader(item_type, on_invalid)
    except TypeError:  # a type that cannot be hashed
        return ItemReader[Any](item_type, on_invalid=on_invalid)


@lru_cache(maxsize=32)
def _kept_reader(item_type: Any, on_invalid: OnInvalid) -> ItemReader[Any]:
    return ItemReader[Any](item_type, on_invalid=on_invalid)


_fields: Callable[[bytes | Raw], Fields] = msgspec.json.Decoder(Fields).decode
_raws: Callable[[bytes], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode
_text: Callable[[bytes], str] = msgspec.json.Decoder(str).decode


class _strict:
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


# Repair. A shape knows how a value of one type can be saved. The shapes of a Struct's fields are found on
# first use, so that a type may contain itself.


class _Shape:
    """How to save a value that does not fit ``type``; the caller has found that it does not."""

    def __init__(self, type: Any) -> None:
        self.decode: Callable[[bytes | Raw], Any] = msgspec.json.Decoder(type).decode
        members = list(_members(type))
        plain = [_plain(member) for member in members]
        structs = [member for member in plain if _is_struct(member)]
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
        keep = _collect(notes)
        if opening == b"{" and self.struct is not None:
            fixed = self.fix_struct(_fields(raw), path, keep)
        elif opening == b"{" and self.value is not _ABSENT:
            fixed = self._fix_map(raw, path, keep)
        elif opening == b"[" and self.element is not _ABSENT:
            fixed = self._fix_list(raw, path, keep)
        elif self.moment and (moment := read_moment(raw)) is not None:
            fixed = msgspec.json.encode(moment[0].isoformat())
            keep(path, f"{_said(message, raw)}; {moment[1]}")
        elif self.text and (opening == b"-" or opening.isdigit()):
            fixed = b'"' + raw + b'"'
            keep(path, f"{_said(message, raw)}; kept its digits as text")
        if fixed is not None and self.accepts(fixed):
            for where, what in notes:
                note(where, what)
            return fixed
        note(path, _said(message, raw))
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
        fixed = (shape.keep_or_fix(bytes(item), f"{path}[{i}]", note) for i, item in enumerate(_raws(raw)))
        return b"[" + b",".join(item for item in fixed if item is not None) + b"]"

    def _fix_map(self, raw: bytes, path: str, note: Note) -> bytes:
        shape = _shape(self.value)
        fixed = (
            (key, shape.keep_or_fix(bytes(item), f"{path}.{key}", note)) for key, item in _fields(raw).items()
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


def _struct_shape(item_type: Any) -> _Shape | None:
    """Return the shape of a type that is one Struct, written as a JSON object; None for anything else."""
    if not _is_struct(item_type):
        return None
    config = _config(item_type)
    return None if config is not None and config.array_like else _Shape(item_type)


def _collect(notes: list[tuple[str, str]]) -> Note:
    def note(where: str, message: str) -> None:
        notes.append((where, message))

    return note


def _blank_values(item_type: Any) -> list[tuple[Callable[[Any], Any], Any]]:
    """Return getter and value of each field of an instance read from ``{}``; empty when that cannot be."""
    try:
        blank = msgspec.json.decode(b"{}", type=item_type)
    except (msgspec.ValidationError, RecursionError):
        return []
    names = [field.name for field in msgspec.structs.fields(item_type)]
    return [(attrgetter(name), getattr(blank, name)) for name in names]


# What is Raw. Nearly always it is a field of the items themselves, which ``detach`` does a page at a time.


def _raw_places(item_type: Any) -> tuple[list[tuple[str, Callable[[Any], Any]]], bool]:
    """Return name and getter of each field of a Struct that is Raw, and whether it has other places for one."""
    info = msgspec.inspect.type_info(item_type)
    if not isinstance(info, msgspec.inspect.StructType):
        return [], item_type is not Raw and _may_hold_raw(info, set())
    # Of the others, which may be UNSET, each value has to be looked at.
    names = [
        field.name
        for field in info.fields
        if isinstance(field.type, msgspec.inspect.RawType) and (field.required or type(field.default) is Raw)
    ]
    others = (field for field in info.fields if field.name not in names)
    return [(name, attrgetter(name)) for name in names], any(_may_hold_raw(each, set()) for each in others)


def _may_hold_raw(info: object, seen: set[int]) -> bool:
    """Tell whether a description of a type, as ``msgspec.inspect`` gives them, has Raw in it anywhere."""
    if isinstance(info, msgspec.inspect.RawType):
        return True
    if isinstance(info, tuple):
        return any(_may_hold_raw(each, seen) for each in cast("tuple[object, ...]", info))
    if not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) or id(info) in seen:
        return False
    seen.add(id(info))  # a type may contain itself
    return any(_may_hold_raw(getattr(info, name), seen) for name in info.__struct_fields__)


def _detached(items: Items) -> Items:
    """Put copies in the place of what is Raw, in items of any shape that msgspec makes.

    Not by recursion, but for tuples, since JSON may be nested deeper than Python calls may.
    """
    todo: list[Any] = []
    done = set[int]()  # items may refer to each other: a type's __post_init__ can do what it likes
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
            put = force_setattr if _is_struct(kind) else object.__setattr__
            for name in _places(kind):
                value = getattr(holder, name)
                if (new := _fresh(value, todo)) is not value:
                    put(holder, name, new)
    return fresh


def _fresh(value: Any, todo: list[Any]) -> Any:
    """Return what to put in the place of ``value``; what has places itself is left ``todo``."""
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
    """Return the fields that may hold what is Raw, of a Struct, a dataclass or an attrs class; others have none."""
    if not any(
        hasattr(kind, mark) for mark in ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__")
    ):
        return ()
    info: Any = msgspec.inspect.type_info(kind)
    is_generic = bool(getattr(kind, "__parameters__", ()))  # an instance does not say of what
    return tuple(field.name for field in info.fields if is_generic or _may_hold_raw(field, set()))


def _is_struct(type: Any) -> bool:
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


def _bare(message: str) -> str:
    return _AT.sub("", message)


def _said(message: str, raw: bytes) -> str:
    """What was expected and what came, with the value as it stands in the JSON."""
    text = raw[: QUOTED_CHARS * 4].decode(errors="replace")
    return f"{_bare(message)}: {text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + '...'}"


# Date-times of odd shape. Contract section 2: more than one has been seen on the platform.

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

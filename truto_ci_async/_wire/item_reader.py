"""Typed items out of JSON arrays, with repair: one bad field never costs a record, nor passes without a word.

How it works. A whole array is decoded by one typed msgspec decoder; nearly every page ends there. Only when
that fails, or some item looks as if it held nothing the type knows, is the array taken apart into the bytes
of its items. An item that does not fit is rewritten field by field: a value that fits keeps its bytes, one
of another shape is replaced (digits become text, an odd date-time becomes RFC 3339), what cannot be read
becomes null, and the rewritten object goes through the typed decoder again. Each replacement is an ``Issue``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import repeat
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Raw
from msgspec.structs import force_setattr

from truto_ci_async.errors import DecodeError, UsageError
from truto_ci_async.models import Issue

from .detach import detached, raw_places
from .repair import (
    Fields,
    Note,
    StrictRead,
    blank_values,
    collect_notes,
    error_text,
    read_fields,
    split_array,
    strip_location,
    struct_shape,
)

T = TypeVar("T")
Items = TypeVar("Items", list[Any], tuple[Any, ...])


OnInvalid: TypeAlias = Literal["repair", "raise"]


# Most bytes of one item of a stream, unless the caller says otherwise.
MAX_ITEM_BYTES = 64 * 2**20


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
        self._shape = struct_shape(item_type)
        # What each field holds when nothing was there to read; the first one is the probe.
        self._blanks = blank_values(item_type) if self._shape else []
        self._raw_fields, self._has_raw_inside = raw_places(item_type)

    def read_array(
        self, text: bytes, *, start: int = 0, path: str = "$.result"
    ) -> tuple[list[T], list[Issue]]:
        """Read the items of ``text``, one whole JSON array whose first item is number ``start``.

        :raises msgspec.DecodeError: ``text`` is not one JSON array.
        :raises DecodeError: an item does not fit and ``on_invalid="raise"``; bad UTF-8; nested too deep.
        """
        with StrictRead(text, path, start):
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
            with StrictRead(raw, path, index):
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
                return detached(items)
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
        for index, raw in enumerate(split_array(text), start):
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
            item = self._repair(raw, path, str(error), collect_notes(notes))
            kept = item is not None
        else:
            if self._blanks and self.blank((item,)) and (message := self._unknown(read_fields(raw))):
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
            note(path, error_text(message, raw))
            return None
        given = read_fields(raw)
        if unknown := self._unknown(given):
            note(path, unknown)
        elif (fixed := self._shape.fix_struct(given, path, note)) is not None:
            try:
                return cast("T", self._decode_item(fixed))
            except msgspec.ValidationError as error:
                note(path, strip_location(str(error)))
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

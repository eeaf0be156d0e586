"""Decodes arrays of typed items, and repairs them: a bad field costs only itself, and is always reported.

How it works. A whole array is decoded by one typed msgspec decoder, and for nearly every page that is all. Only if it
fails, or if an item seems to hold nothing its type knows, is the array split into the bytes of its items. An item that
does not fit is rewritten by `repair`, and decoded again. Each change becomes an ``Issue``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Raw
from msgspec.structs import force_setattr

from truto_ci_async.errors import DecodeError, UsageError
from truto_ci_async.models import Issue

from .detach import detached, raw_places
from .repair import (
    Note,
    describe_mismatch,
    split_array,
    split_object,
    struct_repairer,
    without_location,
)

T = TypeVar("T")
Items = TypeVar("Items", list[Any], tuple[Any, ...])
OnInvalid: TypeAlias = Literal["repair", "raise"]

# Default limits of a stream: for one item, and for what surrounds the items of a body.
MAX_ITEM_BYTES = 64 * 2**20
MAX_ENVELOPE_BYTES = 16 * 2**20


class ItemReader(Generic[T]):
    """Read items of one type. Build it once and reuse it: building the decoders costs more than a small page.

    ``item_type`` is a msgspec Struct (repaired field by field), ``dict`` or ``Any`` (anything), ``msgspec.Raw`` (the
    exact bytes), or a dataclass or TypedDict (all or nothing). Raw is copied out of the text it came in. For fields
    of the items themselves that costs next to nothing, for Raw deeper inside a microsecond or two.

        >>> items, issues = ItemReader(User).read_array(b'[{"id": 234599484848423, "name": "Ann"}]')
        >>> items[0].id, issues[0].path
        ('234599484848423', '$.result[0].id')

    With ``on_invalid="repair"`` an item that cannot be kept is left out, and an issue says why; with ``"raise"``
    anything that would be an issue is a DecodeError. An object with none of a Struct's keys cannot be kept: since all
    fields are optional, it would become a record full of None.
    """

    #: Whether the items of a page may be decoded together with what surrounds them.
    joins_envelope = True
    #: Names of fields that were received and that ``item_type`` does not have, where anyone looks for them.
    unknown_fields: tuple[str, ...] = ()

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
        self._repairer = struct_repairer(item_type)
        self._blank_fields = _blank_fields(item_type) if self._repairer else []
        self._raw_fields, self._has_raw_inside = raw_places(item_type)

    def read_array(
        self, text: bytes, *, start: int = 0, path: str = "$.result"
    ) -> tuple[list[T], list[Issue]]:
        """Read the items of ``text``, a complete JSON array whose first item is number ``start``.

        :raises msgspec.DecodeError: ``text`` is not one JSON array.
        :raises DecodeError: an item does not fit and ``on_invalid="raise"``; bad UTF-8; nested too deep.
        """
        with map_decode_errors(text, path, start):
            try:
                items: list[Any] = self._decode_array(text)
            except msgspec.ValidationError:
                return self._read_each(text, start, path)
        if self._blank_fields and self.blank(items):
            return self._read_each(text, start, path)
        return self.detach(items), []

    def read_item(self, raw: bytes, *, index: int, path: str) -> tuple[T | None, list[Issue]]:
        """Read item number ``index`` at ``path`` (such as ``$.result[3]``); None if it could not be kept.

        :raises DecodeError: it is not JSON; or it does not fit and ``on_invalid="raise"``.
        """
        try:
            with map_decode_errors(raw, path, index):
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
        """Copy everything that is Raw in ``items``, or the items if they are Raw.

        A Raw is a view of the whole text it came in: keeping one item would keep its page in memory.
        """
        if self.item_type is Raw:
            return type(items)(map(Raw.copy, items))
        if self._has_raw_inside:
            with suppress(RecursionError):  # hundreds of nested tuples stay as they are
                return detached(items)
        for name, get in self._raw_fields:
            # A loop in C takes a third of the time of a __post_init__.
            copies = map(Raw.copy, map(get, items))
            deque(map(force_setattr, items, repeat(name), copies), maxlen=0)
        return items

    def blank(self, items: Sequence[T]) -> bool:
        """Tell whether an item may have come with none of the known keys; ``read_item`` finds out."""
        if not self._blank_fields:
            return False
        probe, nothing = self._blank_fields[0]
        # One pass over the first field, in C: 25 ns an item for truth, twice that for comparing.
        if (not nothing and all(map(probe, items))) or nothing not in map(probe, items):
            return False
        return any(all(get(item) == value for get, value in self._blank_fields) for item in items)

    def _read_each(self, text: bytes, start: int, path: str) -> tuple[list[T], list[Issue]]:
        """Read item by item, which takes twice as long if every item is bad."""
        items: list[T] = []
        issues: list[Issue] = []
        for index, raw in enumerate(split_array(text), start):
            item, found = self.read_item(bytes(raw), index=index, path=f"{path}[{index}]")
            issues += found
            if item is not None or not found:
                items.append(cast("T", item))
        return items, issues

    def _read_one(self, raw: bytes, index: int, path: str) -> tuple[T | None, list[Issue]]:
        notes: list[Note] = []
        item: Any = None
        kept = True
        try:
            item = self._decode_item(raw)
        except msgspec.ValidationError as error:
            item = self._repair(raw, path, str(error), notes)
            kept = item is not None
        else:
            if (
                self._repairer
                and self.blank((item,))
                and (message := self._repairer.foreign(split_object(raw)))
            ):
                notes.append((path, message))
                item, kept = None, False
        if kept:
            (item,) = self.detach((item,))
        return item, [
            Issue(index=index, path=where, message=message, dropped=not kept, raw=raw)
            for where, message in notes
        ]

    def _repair(self, raw: bytes, path: str, message: str, notes: list[Note]) -> T | None:
        if self._repairer is None or raw.lstrip()[:1] != b"{":
            notes.append((path, describe_mismatch(message, raw)))
            return None
        given = split_object(raw)
        if foreign := self._repairer.foreign(given):
            notes.append((path, foreign))
        elif (fixed := self._repairer.fix_struct(given, path, notes)) is not None:
            try:
                return cast("T", self._decode_item(fixed))
            except msgspec.ValidationError as error:
                notes.append((path, without_location(str(error))))
        return None


def _blank_fields(item_type: Any) -> list[tuple[Callable[[Any], Any], Any]]:
    """Return getter and value of each field of an item decoded from ``{}``; empty if it cannot be."""
    try:
        blank = msgspec.json.decode(b"{}", type=item_type)
    except (msgspec.ValidationError, RecursionError):
        return []
    names = [field.name for field in msgspec.structs.fields(item_type)]
    return [(attrgetter(name), getattr(blank, name)) for name in names]


class map_decode_errors:
    """Raise our DecodeError for bad UTF-8 and for nesting that is too deep; other errors pass.

    For bad UTF-8 msgspec raises UnicodeDecodeError before 0.23, and its own DecodeError since.
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


def item_reader(item_type: Any, on_invalid: OnInvalid = "repair") -> ItemReader[Any]:
    """Return a reader of ``item_type``. Building one takes milliseconds, so equal arguments get the same one."""
    try:
        return _cached_reader(item_type, on_invalid)
    except TypeError:  # the type is not hashable
        return ItemReader[Any](item_type, on_invalid=on_invalid)


@lru_cache(maxsize=32)
def _cached_reader(item_type: Any, on_invalid: OnInvalid) -> ItemReader[Any]:
    return ItemReader[Any](item_type, on_invalid=on_invalid)

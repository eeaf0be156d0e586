"""Decodes arrays of typed items, and repairs them: a bad field costs only itself, and is always reported.

How it works. A whole array is decoded by one typed msgspec decoder, and for nearly every page that is all. Only if that
fails, or an item seems to have no known field, is the array split into the bytes of its items. An item that does not
fit its type is rewritten by `repair` and decoded again. Each change becomes an ``Issue``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Raw
from msgspec.structs import force_setattr

from truto_ci_async._json import UNKNOWN
from truto_ci_async.errors import DecodeError, UsageError
from truto_ci_async.models import Issue
from truto_ci_async.models.struct_types import is_struct, split_array, split_object
from truto_ci_async.models.unknown_members import (
    MOST_NAMES,
    KnownMembers,
    Names,
    is_api_object,
    member_mover,
)

from .detach import detached, raw_places
from .repair import (
    Notes,
    Repairer,
    describe_mismatch,
    struct_repairer,
    without_location,
)

T = TypeVar("T")
Items = TypeVar("Items", list[Any], tuple[Any, ...])
OnInvalid: TypeAlias = Literal["repair", "raise"]

# Default limits of a stream: for one item, and for what surrounds the items of a body.
MAX_ITEM_BYTES = 64 * 2**20
MAX_ENVELOPE_BYTES = 16 * 2**20
# Issues kept per body; the others are only counted. A page of bad items can have millions.
ISSUES_KEPT = 100


class IssueList(list[Issue]):
    """The first issues of an array of items; ``total`` counts them all.

    ``dropped`` are the indices of the items that were left out, of which there may be many more than issues.
    """

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.total = 0
        self.dropped: list[int] = []
        self.is_full = keep <= 0  # mutant: only saves time
        self._keep = keep

    def drop_all(self, indices: Sequence[int]) -> None:
        """Count items that were left out, without issues."""
        self.total += len(indices)
        self.dropped += indices

    def add(self, index: int, raw: bytes, notes: Notes, *, dropped: bool) -> None:
        """Note what is wrong with an item."""
        self.total += notes.total
        if dropped:
            self.dropped.append(index)
        self += [
            Issue(index=index, path=where, message=message, dropped=dropped, raw=raw)
            for where, message in notes[: max(self._keep - len(self), 0)]
        ]
        self.is_full = len(self) >= self._keep  # mutant: only saves time


class ItemReader(Generic[T]):
    """Read items of one type. Build it once and reuse it: building the decoders costs more than a small page.

    ``item_type`` is a msgspec Struct (repaired field by field), ``dict`` or ``Any`` (anything), ``msgspec.Raw`` (the
    exact bytes), or a dataclass or TypedDict (all or nothing). Raw is copied out of the body. For fields of the items
    themselves that costs next to nothing, for Raw nested deeper a microsecond or two.

        >>> items, issues = ItemReader(Person).read_array(b'[{"id": 234599484848423, "name": "Ann"}]')
        >>> items[0].id, issues[0].path
        ('234599484848423', '$.result[0].id')

    With ``on_invalid="repair"`` an item that cannot be kept is left out, and an issue says why; with ``"raise"``
    anything that would be an issue is a DecodeError. An object with none of a Struct's keys cannot be kept: since all
    fields are optional, it would become a record full of None.
    """

    #: Whether the items of a page may be decoded together with its envelope.
    joins_envelope = True
    #: Names of fields received since ``for_walk`` that ``item_type`` has no place for.
    unknown_fields: tuple[str, ...] = ()
    _tell: Callable[..., object] | None = None

    def __init__(self, item_type: type[T] | Any, *, on_invalid: OnInvalid = "repair") -> None:
        if on_invalid not in ("repair", "raise"):
            raise UsageError(f"on_invalid is 'repair' or 'raise', not {on_invalid!r}")
        self.item_type = item_type
        self.on_invalid: OnInvalid = on_invalid
        try:
            array_type = cast("Any", list)[item_type]
            arrays: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(array_type)  # mutant: only slower
            self._decode_array: Callable[[bytes], list[Any]] = arrays.decode
            self._decode_item: Callable[[bytes], Any] = msgspec.json.Decoder(item_type).decode
        except TypeError as error:
            raise UsageError(f"item_type cannot be decoded from JSON: {error}") from error
        self._repairer = struct_repairer(item_type)
        self._takes_objects_only = self._repairer is not None or item_type is dict  # mutant: only slower
        self._mover = member_mover(item_type)
        self._blank_fields = _blank_fields(item_type) if self._repairer else []
        self._raw_fields, self._has_raw_inside = raw_places(item_type)

    def for_walk(self, tell: Callable[..., object]) -> ItemReader[T]:
        """Return a reader with the same decoders that calls ``tell(names, kept=...)`` for unknown fields.

        Each name is reported once, and at most ``MOST_NAMES`` of them. An ApiObject keeps the fields. Other structs
        drop them, and report them only if their rows are flat.
        """
        reader = copy(self)
        reader._tell, reader.unknown_fields = tell, ()
        return reader

    def note_unknown(self, names: Iterable[str]) -> None:
        """Remember and report the names that are new."""
        new = [name for name in dict.fromkeys(names) if name not in self.unknown_fields]
        new = new[: MOST_NAMES - len(self.unknown_fields)]
        if new and self._tell is not None:
            self.unknown_fields += tuple(new)
            self._tell(new, kept=is_struct(self.item_type) and is_api_object(self.item_type))

    def read_array(
        self, text: bytes, *, start: int = 0, path: str = "$.result", keep: int = ISSUES_KEPT
    ) -> tuple[list[T], IssueList]:
        """Read the items of ``text``, a complete JSON array whose first item is number ``start``.

        At most ``keep`` issues are returned; the others are counted.

        :raises msgspec.DecodeError: ``text`` is not one JSON array, or has a lone surrogate.
        :raises DecodeError: an item does not fit and ``on_invalid="raise"``; bad UTF-8; nested too deep.
        """
        try:
            items: list[Any] = self._decode_array(text)
            if not self.blank(items):
                return self.detach(items), IssueList(keep)
        except msgspec.ValidationError:
            pass
        except _UNREADABLE as error:
            raise _map_error(error, text, path, start) from None
        return self._read_each(text, start, path, keep)

    def read_item(self, raw: bytes, *, index: int, path: str) -> tuple[T | None, IssueList]:
        """Read item number ``index`` at ``path`` (such as ``$.result[3]``); None if it could not be kept.

        :raises DecodeError: it is not JSON; or it does not fit and ``on_invalid="raise"``.
        """
        issues = IssueList(ISSUES_KEPT)
        return self._read_one(raw, index, path, issues), issues

    def detach(self, items: Items) -> Items:
        """Copy every Raw in ``items``, or the items themselves if they are Raw.

        A Raw is a view of the whole body: keeping one item would keep its page in memory.
        """
        if self.item_type is Raw:
            return type(items)(map(Raw.copy, items))
        if self._has_raw_inside:
            with suppress(RecursionError):  # hundreds of nested tuples stay as they are
                return detached(items)
        for name, get in self._raw_fields:
            # A loop in C takes a third of the time of a __post_init__.
            copies = map(Raw.copy, map(get, items))
            deque(map(force_setattr, items, repeat(name), copies), maxlen=0)  # mutant: more memory
        return items

    def blank(self, items: Sequence[T]) -> bool:
        """Tell whether an item may have come with none of the known keys; ``read_item`` finds out."""
        if not self._blank_fields:
            return False
        probe, nothing = self._blank_fields[0]
        # One pass over the first field, in C: 25 ns an item for truth, twice that for comparing.
        if (not nothing and all(map(probe, items))) or nothing not in map(probe, items):  # mutant: slower
            return False
        return any(all(get(item) == value for get, value in self._blank_fields) for item in items)

    def _read_each(self, text: bytes, start: int, path: str, keep: int) -> tuple[list[T], IssueList]:
        """Read item by item, which takes several times as long if every item is bad."""
        items: list[T] = []
        issues = IssueList(keep)
        try:
            raws = split_array(text)
        except _UNREADABLE as error:
            raise _map_error(error, text, path, start) from None
        # A page may have millions of these.
        if keep <= 0 and self._takes_objects_only and b"{" not in text:  # mutant: only saves time
            issues.drop_all(range(start, start + len(raws)))
            return [], issues
        for index, each in enumerate(raws, start):
            raw = bytes(each)
            if issues.is_full and self.is_hopeless(raw):
                issues.drop_all((index,))
                continue
            item = self._read_one(raw, index, f"{path}[{index}]", issues)
            if item is not None or not issues.dropped or issues.dropped[-1] != index:
                items.append(cast("T", item))
        return items, issues

    def _read_one(self, raw: bytes, index: int, path: str, issues: IssueList) -> T | None:
        """Read an item, or repair it and add to ``issues`` what was wrong; None if it is not kept."""
        notes = Notes()
        try:
            item, kept = self._decode_or_repair(raw, path, notes, is_told=not issues.is_full)
        except _UNREADABLE as error:
            found = _map_error(error, raw, path, index)
            if isinstance(found, DecodeError):
                raise found from None
            raise DecodeError(f"not JSON: {error}", path=path, index=index, raw=raw) from error
        if notes:
            if self.on_invalid == "raise":
                where, message = notes[0]
                raise DecodeError(f"{where}: {message}", path=where, index=index, raw=raw)
            issues.add(index, raw, notes, dropped=not kept)
        if not kept:
            return None
        return cast("T", self.detach((item,))[0])

    def _decode_or_repair(
        self, raw: bytes, path: str, notes: Notes, *, is_told: bool
    ) -> tuple[T | None, bool]:
        """Return an item and whether to keep it. Unless ``is_told``, the note on a dropped item has no text."""
        repairer = self._repairer
        if repairer is not None and not _OBJECT.match(raw):
            notes.add(path, self._mismatch(raw) if is_told else "")  # mutant: not shown
            return None, False
        try:
            item = self._decode_item(raw)
        except msgspec.ValidationError as error:
            return self._read_misfit(raw, str(error), path, notes, is_told=is_told)
        if repairer is None or not self.blank((item,)):  # mutant: only slower
            return item, True
        fields = split_object(raw)
        if not repairer.is_foreign(fields):
            return item, True
        notes.add(path, repairer.describe_foreign(fields) if is_told else "")  # mutant: not shown
        return None, False

    def _read_misfit(
        self, raw: bytes, message: str, path: str, notes: Notes, *, is_told: bool
    ) -> tuple[T | None, bool]:
        """Read an item that the decoder refused with ``message``: move its unknown members, then repair it."""
        repairer = self._repairer
        fields = {} if repairer is None else self._split(raw)
        if repairer is not None and repairer.is_foreign(fields):
            seen = _names_of(fields)
            notes.add(path, repairer.describe_foreign(seen) if is_told else "")  # mutant: not shown
            return None, False
        moved = raw if self._mover is None else self._move_unknown(raw, fields)
        if moved is not raw:
            try:
                return self._decode_item(moved), True
            except msgspec.ValidationError as error:
                message, fields = str(error), {} if repairer is None else split_object(moved)
        if repairer is None:
            notes.add(path, describe_mismatch(message, raw) if is_told else "")  # mutant: not shown
            return None, False
        fixed = self._repair(repairer, fields, path, notes)
        return fixed, fixed is not None

    def _split(self, raw: bytes) -> dict[str, Raw]:
        return split_object(raw) if self._mover is None else self._mover.split(raw)  # mutant: only slower

    def _move_unknown(self, raw: bytes, fields: dict[str, Raw]) -> bytes:
        """Return an item with its unknown members moved to where its structs keep them."""
        names: Names = {}
        assert self._mover is not None
        if self._repairer is None:
            moved = self._mover.move(raw.lstrip(), "", names)
        else:
            moved = self._mover.move_members(raw, fields, "", names)  # mutant: not used if anything moved
        if names and len(self.unknown_fields) < MOST_NAMES:  # mutant: only saves time
            self.note_unknown(names)
        return moved if names else raw  # mutant: decoding it again is only slower

    def is_hopeless(self, raw: bytes) -> bool:
        """Tell quickly whether an item would be dropped; False if that takes decoding it."""
        if not raw.startswith(b"{"):
            return self._takes_objects_only
        return self._repairer is not None and self._repairer.is_foreign(self._split(raw))

    def _mismatch(self, raw: bytes) -> str:
        try:
            self._decode_item(raw)
        except msgspec.ValidationError as error:
            return describe_mismatch(str(error), raw)
        raise AssertionError(raw)  # mutant: it never comes to that

    def _repair(self, repairer: Repairer, fields: dict[str, Raw], path: str, notes: Notes) -> T | None:
        fixed = repairer.fix_struct(fields, path, notes)
        if fixed is not None:
            try:
                return cast("T", self._decode_item(fixed))
            except msgspec.ValidationError as error:
                notes.add(path, without_location(str(error)))
        return None


def _blank_fields(item_type: Any) -> list[tuple[Callable[[Any], Any], Any]]:
    """Return the getter and value of each field of an item decoded from ``{}``; empty if ``{}`` does not decode."""
    try:
        blank = msgspec.json.decode(b"{}", type=item_type)
    except (msgspec.ValidationError, RecursionError):
        return []
    names = [field.name for field in msgspec.structs.fields(item_type) if field.name != UNKNOWN]
    return [(attrgetter(name), getattr(blank, name)) for name in names]


def _names_of(fields: dict[str, Raw]) -> Iterable[str]:
    return [fields.first_unknown] if isinstance(fields, KnownMembers) else fields


_OBJECT = re.compile(rb"\s*\{")
# What msgspec raises for bad text. A ValidationError is a DecodeError too, and is caught first.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _map_error(error: Exception, raw: bytes, path: str, index: int) -> Exception:
    """Return our DecodeError for bad UTF-8 and for nesting that is too deep, and any other error as it is.

    For bad UTF-8 msgspec raises UnicodeDecodeError before 0.23, and its own DecodeError since.
    """
    if isinstance(error, RecursionError):
        return DecodeError("nested too deep to decode", path=path, index=index, raw=raw)
    try:
        raw.decode()
    except UnicodeDecodeError as bad:
        return DecodeError(f"not UTF-8: {bad.reason}", path=path, index=index, raw=raw)
    return error


def item_reader(item_type: Any, on_invalid: OnInvalid = "repair") -> ItemReader[Any]:
    """Return a reader of ``item_type``. Building one takes milliseconds, so equal arguments get the same one."""
    try:
        return _cached_reader(item_type, on_invalid)
    except TypeError:  # the type is not hashable
        return ItemReader[Any](item_type, on_invalid=on_invalid)


@lru_cache(maxsize=32)
def _cached_reader(item_type: Any, on_invalid: OnInvalid) -> ItemReader[Any]:
    return ItemReader[Any](item_type, on_invalid=on_invalid)

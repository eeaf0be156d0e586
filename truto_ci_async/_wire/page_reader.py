"""Reads the body of a page: the envelope around the items (contract section 2).

The items themselves are read in `item_reader`, error bodies in `responses`.

How it works. One typed decoder reads the whole body, which is enough for an ordinary page. If that fails, if an item
seems to have no known field, or if the body is large, `body_walker` reads it in steps, item by item where needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from truto_ci_async._json import BYTE_ORDER_MARK, EXCERPT_BYTES, decode_member, decode_strictly
from truto_ci_async.errors import DecodeError, TruncatedBodyError
from truto_ci_async.models import DebugInfo, Issue
from truto_ci_async.models.debug import mask_repr
from truto_ci_async.models.unknown_members import decode_known

from .item_reader import ItemReader

if TYPE_CHECKING:
    from .body_walker import Walked
    from .incremental.item_collector import ItemCollector

T = TypeVar("T")

# How much of a large body is decoded in one step: a few milliseconds.
SLICE_BYTES = 256 * 1024
# A longer cursor is refused: no request could hold it, and each is kept in positions and stored state.
MAX_CURSOR_BYTES = 64 * 1024
MAX_CURSOR_JSON = 6 * MAX_CURSOR_BYTES + 2  # each character as an escape, and the quotes
# After a larger value in the envelope, the event loop gets a turn.
STEP_BYTES = 64 * 1024
# How many keys of an unexpected body an error message lists.
KEYS_SHOWN = 12


class PageData(Struct, Generic[T], kw_only=True):
    """What a body contains. ``keys`` are those of a keyed result, one for each item.

    ``issues`` are the first hundred; ``issues_count`` counts them all.
    """

    items: tuple[T, ...]
    item_type: Any = None
    next_cursor: str | None = None
    prev_cursor: str | None = None
    result_count: int | None = None
    is_partial_response: bool | None = None
    debug: DebugInfo | None = None
    extra: dict[str, Any] = {}
    issues: list[Issue] = []
    issues_count: int = 0
    dropped_count: int = 0
    keys: tuple[str, ...] | None = None
    unknown_fields: tuple[str, ...] = ()


class _Envelope(Struct, Generic[T], forbid_unknown_fields=True):
    """The envelope of an ordinary page; anything unexpected fails, and the body is read leniently."""

    result: tuple[T, ...]
    next_cursor: str | None = None
    prev_cursor: str | None = None
    result_count: int | None = None
    is_partial_response: bool | None = None
    debug: DebugInfo | UnsetType | None = UNSET


class PageReader(Generic[T]):
    """Reads bodies of pages into items of one type. Build it once: its decoders are reused.

    ``keyed`` expects ``result`` to be the object that ``truto_key_by`` asks for. With ``detach=False``, Raw items and
    fields stay views of the whole body, which is cheaper if no item is kept.
    """

    def __init__(self, items: ItemReader[T], *, keyed: bool = False, detach: bool = True) -> None:
        self._items = items
        self.item_type = items.item_type
        self._keyed = keyed
        self._detaches = detach
        #: The body of a page without items.
        self.empty_body = b'{"result":{}}' if keyed else b'{"result":[]}'
        envelope: type[_Envelope[T]] = cast("Any", _Envelope)[items.item_type]
        self._envelope = msgspec.json.Decoder(envelope)

    def start_walk(self, tell: Callable[..., object], *, flat_rows: bool) -> None:
        """Report unknown fields from now on (see ``ItemReader.for_walk``).

        ``flat_rows``: rows are those of the ``normalized`` format.
        """
        self._items = self._items.for_walk(tell)
        if flat_rows:
            from .flat_rows import flat_row_reader

            self._items = flat_row_reader(self._items)

    def read(self, body: bytes) -> PageData[T]:
        """Read a body in one go.

        :raises DecodeError: it is not an envelope, or an item is invalid and ``on_invalid="raise"``.
        :raises TruncatedBodyError: it is the beginning of a JSON text.
        """
        page = self.read_ordinary(body)
        if page is None:
            *_, page = self.read_in_slices(body)
            assert page is not None
        return page

    def read_ordinary(self, body: bytes) -> PageData[T] | None:
        """Read a body at full speed; None if a typed decoder is not enough, for example for bad items."""
        if self._keyed or not self._items.joins_envelope:
            return None
        try:
            envelope = decode_strictly(self._envelope, body)
        except (DecodeError, msgspec.ValidationError):
            return None
        if self._items.blank(envelope.result):
            return None
        return PageData(
            items=self._items.detach(envelope.result) if self._detaches else envelope.result,
            item_type=self.item_type,
            next_cursor=cursor_text(envelope.next_cursor),
            prev_cursor=envelope.prev_cursor or None,
            result_count=envelope.result_count,
            is_partial_response=envelope.is_partial_response,
            debug=envelope.debug or None,
            extra={},
            issues=[],
            unknown_fields=self._items.unknown_fields,
        )

    def read_in_slices(
        self, body: bytes, size: Callable[[], int] = lambda: SLICE_BYTES
    ) -> Iterator[PageData[T] | None]:
        """Read any body in steps of a few milliseconds: yield None after each step, the page at the end.

        The page is the same as the one ``read`` returns. ``size`` tells how many bytes of items the next step decodes.
        """
        body = body.removeprefix(BYTE_ORDER_MARK)
        # Imported here because it imports ijson, which an ordinary page does not need.
        from .body_walker import BodyWalker
        from .incremental.lexer import cut_steps

        walker = BodyWalker(body, self._items, keyed=self._keyed, size=size)
        try:
            walked = yield from walker.walk()
            yield (yield from self._page(walked, body))
        except DecodeError as error:
            if not walker.at_end and (yield from cut_steps(body)):  # then it is worth fetching again
                raise TruncatedBodyError(
                    f"the JSON ends early, after {len(body):,} bytes", bytes_read=len(body)
                ) from error
            error.raw = error.raw or body[:EXCERPT_BYTES]
            raise

    def _page(self, walked: Walked[T], body: bytes) -> Generator[None, None, PageData[T]]:
        items, collector = walked.items, walked.collector
        keys = collector.keys if self._keyed else None
        if items is None:
            items = self._no_items(walked.fields, body)
        around = yield from _read_envelope(walked.fields)
        if self._keyed:
            self._tell_lost(around.get("result_count"), collector)
        if collector.dropped_count and not items:
            raise collector.no_item_fits()
        return PageData(
            items=tuple(items),
            item_type=self.item_type,
            issues=collector.issues,
            issues_count=collector.issues_count,
            dropped_count=collector.dropped_count,
            keys=None if keys is None else tuple(keys),
            unknown_fields=self._items.unknown_fields,
            **around,
        )

    def _no_items(self, fields: dict[str, bytes], body: bytes) -> list[T]:
        """Read a body that has no items where they should be.

        :raises DecodeError: unless an array without items takes the place of a keyed object.
        """
        result = _take_result(fields)
        if not self._keyed:
            _raise_not_an_array(body, result)
        if result[:1] == b"[" and not result[1:-1].strip():
            return []
        raise DecodeError(
            "result must be an object: the service did not key it by the field asked for", path="$.result"
        )

    def _tell_lost(self, counted: int | None, collector: ItemCollector[T]) -> None:
        """Compare the service's own count with the keys: it keeps only one of the items with the same key."""
        if counted is not None and counted > collector.index:
            message = (
                f"the service counted {counted:,} items, but there are {collector.index:,} keys:"
                " items with the same key are lost"
            )
            collector.add_issues([("$.result_count", message)], b"", dropped=True)


def _raise_not_an_array(body: bytes, result: bytes) -> NoReturn:
    found = "an object" if result[:1] == b"{" else result[:40].decode(errors="replace")
    hint = "; for truto_key_by use keyed()" if found == "an object" else ""
    raise DecodeError(
        f"result must be an array, but it is {found}{hint}", path="$.result", raw=body[:EXCERPT_BYTES]
    )


def _take_result(envelope: dict[str, bytes]) -> bytes:
    """Remove ``result`` from the envelope and return it; some admin endpoints call it ``results``.

    :raises DecodeError: there is neither; the message lists the keys of the body and what to try instead.
    """
    for key in ("result", "results"):
        if key in envelope:
            return envelope.pop(key)
    keys = ", ".join(sorted(envelope)[:KEYS_SHOWN]) or "none"
    if len(envelope) > KEYS_SHOWN:
        keys += f" and {len(envelope) - KEYS_SHOWN} more"
    hint = ""
    if "peopleInteractionStats" in envelope:
        hint = "; this is the provider's own body: read it with stream(path='peopleInteractionStats', item_type=dict)"
    elif "error" in envelope or "message" in envelope:
        texts = [envelope[key] for key in ("message", "error") if key in envelope]
        message = next((text for text in texts if text not in (b"null", b'""')), texts[0])
        hint = f"; the service says {message[:200].decode(errors='ignore')}"
    raise DecodeError(f"the body has no result; its keys are: {keys}{hint}")


def _read_envelope(fields: dict[str, bytes]) -> Generator[None, None, dict[str, Any]]:
    """Read the keys around ``result`` in steps; unknown and unreadable ones are kept in ``extra``.

    :raises DecodeError: ``next_cursor`` is not a string, or a number is too large for a float.
    """
    if len(fields.get("next_cursor", b"")) > MAX_CURSOR_JSON:
        raise _cursor_too_long(fields["next_cursor"][:40])
    extra: dict[str, Any] = {}
    for key, raw in fields.items():
        if key != "debug":
            extra[key] = decode_member(key, raw)
        if len(raw) > STEP_BYTES:
            yield
    known: dict[str, Any] = {"next_cursor": cursor_text(extra.pop("next_cursor", None))}
    with suppress(DecodeError):
        known["prev_cursor"] = cursor_text(extra.get("prev_cursor"))
        extra.pop("prev_cursor", None)
    for key, type in (("result_count", int | None), ("is_partial_response", bool | None)):
        with suppress(msgspec.ValidationError):  # not strict: 50.0 and "50" are 50, "true" is true
            known[key] = msgspec.convert(extra.get(key), type, strict=False)
            extra.pop(key, None)
    if "debug" in fields:
        try:
            known["debug"] = decode_known(fields["debug"], DebugInfo | None)
        except msgspec.ValidationError:
            extra["debug"] = mask_repr(decode_member("debug", fields["debug"]))
    return known | {"extra": extra}


def cursor_text(value: object) -> str | None:
    """Read a cursor: null, empty and absent mean the end, and an integer is taken as its digits.

    :raises DecodeError: any other type, or a text that no request can hold.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DecodeError(f"next_cursor must be a string, not {value!r:.80}", path="$.next_cursor")
    # A character takes up to four bytes.
    if 4 * len(value) > MAX_CURSOR_BYTES and len(value.encode(errors="surrogatepass")) > MAX_CURSOR_BYTES:
        raise _cursor_too_long(value[:40])
    return value


def _cursor_too_long(start: str | bytes) -> DecodeError:
    return DecodeError(
        f"next_cursor has more than {MAX_CURSOR_BYTES:,} bytes; it begins {start!r}", path="$.next_cursor"
    )


class _RawEnvelope(Struct):
    next_cursor: Any = None
    records: Raw = Raw(b"null")


# What a JSON object begins with, in UTF-8 or UTF-16, with a byte order mark or without.
_OBJECT = rb"(?:\xef\xbb\xbf)?\s*\{|\xff\xfe(?:\s\0)*\{\0|\xfe\xff(?:\0\s)*\0\{"
# Up to this size a body that msgspec refuses is read by the standard library, which takes NaN, control characters,
# lone surrogates and UTF-16, but blocks the loop.
_LENIENT_BYTES = 2**20


def raw_cursors(body: bytes) -> tuple[str | None, str | None]:
    """Return the ``next_cursor`` of a raw body, and the provider's own cursor, which only Gong's body has.

    A raw body can be anything; one that is not a JSON object has neither.

    :raises DecodeError: it is a JSON object but cannot be read, so it is unknown whether there is another page.
    """
    if not re.match(_OBJECT, body):
        return None, None
    try:
        envelope = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=_RawEnvelope)
        next_cursor, records = envelope.next_cursor, msgspec.json.decode(envelope.records)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        next_cursor, records = _raw_envelope_leniently(body, error)
    provider = cast("dict[str, object]", records).get("cursor") if isinstance(records, dict) else None
    if isinstance(next_cursor, str) and not _is_text(next_cursor):
        raise DecodeError(
            "next_cursor has half of a surrogate pair, and cannot be sent", path="$.next_cursor"
        )
    found = cursor_text(next_cursor)
    return found, None if provider is None or found else str(provider) or None


def _raw_envelope_leniently(body: bytes, cause: Exception) -> tuple[object, object]:
    parsed: object = None
    if len(body) <= _LENIENT_BYTES:
        with suppress(ValueError, RecursionError):
            parsed = json.loads(body, strict=False)
    if not isinstance(parsed, dict):
        raise DecodeError(
            f"the body cannot be read, so nobody knows whether there is another page: {cause}",
            raw=body[:EXCERPT_BYTES],
        ) from None
    given = cast("dict[str, object]", parsed)
    return given.get("next_cursor"), given.get("records")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

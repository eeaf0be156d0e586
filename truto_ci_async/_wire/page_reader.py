"""Reads the body of a page: the envelope around the items (contract section 2).

The items themselves are read in `item_reader`, error bodies in `responses`.

How it works. One typed decoder reads the whole body, which is enough for an ordinary page. If that fails, or an item
looks as if it held nothing known, the envelope is split into its top-level keys, and each is read leniently on its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from truto_ci_async._json import EXCERPT_BYTES, decode_with, describe
from truto_ci_async.errors import DecodeError, TruncatedBodyError
from truto_ci_async.models import DebugInfo, Issue
from truto_ci_async.models.debug import mask_repr

from .item_reader import ItemReader

T = TypeVar("T")

# How much of a large body is decoded in one step: a few milliseconds.
SLICE_BYTES = 256 * 1024
# A longer cursor is refused: no request could hold it, and each is kept in positions and stored state.
MAX_CURSOR_BYTES = 64 * 1024
# How many keys of an unexpected body an error message lists.
KEYS_SHOWN = 12


class PageData(Struct, Generic[T], kw_only=True):
    """What a body contains. ``keys`` are those of a keyed result, one for each item."""

    items: tuple[T, ...]
    next_cursor: str | None = None
    prev_cursor: str | None = None
    result_count: int | None = None
    is_partial_response: bool | None = None
    debug: DebugInfo | None = None
    extra: dict[str, Any] = {}
    issues: list[Issue] = []
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
        self._keyed = keyed
        self._detaches = detach
        #: The body of a page without items.
        self.empty_body = b'{"result":{}}' if keyed else b'{"result":[]}'
        envelope: type[_Envelope[T]] = cast("Any", _Envelope)[items.item_type]
        self._envelope = msgspec.json.Decoder(envelope)

    def read_flat_rows(self, on_unknown: Callable[[list[str]], object]) -> None:
        """Read rows of the ``normalized`` format from now on; see ``FlatRowReader``."""
        from .flat_rows import flat_row_reader

        self._items = flat_row_reader(self._items, on_unknown)

    def read(self, body: bytes) -> PageData[T]:
        """Read a body in one go.

        :raises DecodeError: it is not an envelope, or an item is invalid and ``on_invalid="raise"``.
        :raises TruncatedBodyError: it is the beginning of a JSON text.
        """
        try:
            if not self._keyed and self._items.joins_envelope:
                try:
                    envelope = decode_with(self._envelope, body)
                except msgspec.ValidationError:
                    return self._read_leniently(body)
                if not self._items.blank(envelope.result):
                    return PageData(
                        items=self._items.detach(envelope.result) if self._detaches else envelope.result,
                        next_cursor=cursor_text(envelope.next_cursor),
                        prev_cursor=envelope.prev_cursor or None,
                        result_count=envelope.result_count,
                        is_partial_response=envelope.is_partial_response,
                        debug=envelope.debug or None,
                        extra={},
                        issues=[],
                    )
            return self._read_leniently(body)
        except DecodeError as error:
            _raise_for_body(body, error)

    def read_in_slices(self, body: bytes) -> Iterator[PageData[T] | None]:
        """Read a large body in steps of a few milliseconds: yield None after each step, the page at the end.

        The page is the same as the one ``read`` returns. A keyed page is read in one step.
        """
        if self._keyed:
            yield self.read(body)
            return
        from truto_ci_async._wire.incremental.item_decoder import ItemDecoder

        decoder = ItemDecoder(
            self._items, max_item_bytes=len(body), max_envelope_bytes=len(body), max_issues=None
        )
        items: list[T] = []
        try:
            for start in range(0, len(body), SLICE_BYTES):
                items += decoder.feed(body[start : start + SLICE_BYTES])
                yield None
            items += decoder.flush()
            decoder.close()
        except DecodeError:
            # Raises the same error, or reads what takes the whole body, such as ``result`` given twice.
            yield self.read(body)
            return
        yield PageData(items=tuple(items), issues=decoder.issues, **_read_envelope(decoder.raw_envelope()))

    def _read_leniently(self, body: bytes) -> PageData[T]:
        envelope = _split_envelope(body)
        result = _take_result(envelope)
        around = _read_envelope(envelope)
        keys: tuple[str, ...] | None = None
        lost: list[Issue] = []
        if self._keyed:
            keys, result = _split_keyed(result)
            lost = _lost_items(around.get("result_count"), len(keys))
            if lost and self._items.on_invalid == "raise":
                raise DecodeError(lost[0].message, path=lost[0].path, raw=body[:EXCERPT_BYTES])
        if result[:1] != b"[":
            _raise_not_an_array(body, result)
        items, issues = self._items.read_array(result)
        if issues and not items:
            self._raise_no_valid_item(issues[0])
        if keys is not None and len(items) != len(keys):
            dropped = {issue.index for issue in issues if issue.dropped}
            keys = tuple(key for index, key in enumerate(keys) if index not in dropped)
        return PageData(
            items=tuple(items),
            issues=[*issues, *lost],
            keys=keys,
            unknown_fields=self._items.unknown_fields,
            **around,
        )

    def _raise_no_valid_item(self, first: Issue) -> NoReturn:
        name = getattr(self._items.item_type, "__name__", str(self._items.item_type))
        raise DecodeError(
            f"no item of this page is a valid {name}: {first.message}; item_type=dict accepts items of any shape",
            path=first.path,
            index=first.index,
            raw=first.raw,
        )


def _raise_for_body(body: bytes, error: DecodeError) -> NoReturn:
    """Raise ``error``, or TruncatedBodyError if the body was cut short: then it is worth fetching again."""
    from truto_ci_async._wire.incremental.lexer import is_cut

    if is_cut(body):
        raise TruncatedBodyError(
            f"the JSON ends early, after {len(body):,} bytes", bytes_read=len(body)
        ) from error
    error.raw = error.raw or body[:EXCERPT_BYTES]
    raise error


def _raise_not_an_array(body: bytes, result: bytes) -> NoReturn:
    found = "an object" if result[:1] == b"{" else result[:40].decode(errors="replace")
    hint = "; for truto_key_by use keyed()" if found == "an object" else ""
    raise DecodeError(
        f"result must be an array, but it is {found}{hint}", path="$.result", raw=body[:EXCERPT_BYTES]
    )


_decode_any = msgspec.json.Decoder()
_decode_object = msgspec.json.Decoder(dict[str, Raw])


def _split_envelope(body: bytes) -> dict[str, Raw]:
    """Split a body into its top-level keys.

    :raises DecodeError: it is not a JSON object.
    """
    try:
        return decode_with(_decode_object, body)
    except msgspec.ValidationError:
        raise DecodeError(
            f"expected a JSON object with a result: {describe(body)}", raw=body[:EXCERPT_BYTES]
        ) from None


def _take_result(envelope: dict[str, Raw]) -> bytes:
    """Remove ``result`` from the envelope and return it; some admin endpoints call it ``results``.

    :raises DecodeError: there is neither; the message lists the keys of the body and what to try instead.
    """
    for key in ("result", "results"):
        if key in envelope:
            return bytes(envelope.pop(key))
    keys = ", ".join(sorted(envelope)[:KEYS_SHOWN]) or "none"
    if len(envelope) > KEYS_SHOWN:
        keys += f" and {len(envelope) - KEYS_SHOWN} more"
    hint = ""
    if "peopleInteractionStats" in envelope:
        hint = "; this is the provider's own body: read it with stream(path='peopleInteractionStats', item_type=dict)"
    elif "error" in envelope or "message" in envelope:
        texts = [bytes(envelope[key]) for key in ("message", "error") if key in envelope]
        message = next((text for text in texts if text not in (b"null", b'""')), texts[0])
        hint = f"; the service says {message[:200].decode(errors='ignore')}"
    raise DecodeError(f"the body has no result; its keys are: {keys}{hint}")


class _Key:
    """A key of an object that may come again: two keys are never equal, so that a dict keeps both."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_decode_pairs = msgspec.json.Decoder(dict[_Key, Raw], dec_hook=lambda _, text: _Key(text)).decode


def _split_keyed(result: bytes) -> tuple[tuple[str, ...], bytes]:
    """Turn ``{"k": item, …}`` into its keys and ``[item, …]``; an empty array counts as an empty object.

    A key that comes twice is in both twice.
    """
    if result[:1] == b"[" and not result[1:-1].strip():
        return (), b"[]"
    try:
        pairs = _decode_pairs(result)
    except msgspec.ValidationError:
        raise DecodeError(
            "result must be an object: the service did not key it by the field asked for", path="$.result"
        ) from None
    return tuple(key.text for key in pairs), b"[" + b",".join(bytes(raw) for raw in pairs.values()) + b"]"


def _lost_items(counted: int | None, keys: int) -> list[Issue]:
    """Compare the service's own count with the keys: of items with the same key it keeps one."""
    if counted is None or counted <= keys:
        return []
    message = f"the service counted {counted:,} items, but there are {keys:,} keys: items with the same key are lost"
    return [Issue(path="$.result_count", message=message, dropped=True)]


def _read_envelope(envelope: dict[str, Raw]) -> dict[str, Any]:
    """Read the keys around ``result``; unknown and unreadable ones are kept in ``extra``.

    :raises DecodeError: ``next_cursor`` is not a string, or a number is too large for a float.
    """
    extra = {key: _decode_value(key, raw) for key, raw in envelope.items() if key != "debug"}
    known: dict[str, Any] = {"next_cursor": cursor_text(extra.pop("next_cursor", None))}
    with suppress(DecodeError):
        known["prev_cursor"] = cursor_text(extra.get("prev_cursor"))
        extra.pop("prev_cursor", None)
    for key, type in (("result_count", int | None), ("is_partial_response", bool | None)):
        with suppress(msgspec.ValidationError):  # not strict: 50.0 and "50" are 50, "true" is true
            known[key] = msgspec.convert(extra.get(key), type, strict=False)
            extra.pop(key, None)
    if "debug" in envelope:
        try:
            known["debug"] = msgspec.json.decode(envelope["debug"], type=DebugInfo | None)
        except msgspec.ValidationError:
            extra["debug"] = mask_repr(_decode_value("debug", envelope["debug"]))
    return known | {"extra": extra}


def _decode_value(key: str, raw: Raw) -> Any:
    try:
        return decode_with(_decode_any, bytes(raw))
    except msgspec.ValidationError as error:
        raise DecodeError(
            f"{key} cannot be decoded: {error}", path=f"$.{key}", raw=bytes(raw)[:EXCERPT_BYTES]
        ) from error


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
    if len(value) > MAX_CURSOR_BYTES or len(value.encode(errors="surrogatepass")) > MAX_CURSOR_BYTES:
        raise DecodeError(
            f"next_cursor has more than {MAX_CURSOR_BYTES:,} bytes; it begins {value[:40]!r}",
            path="$.next_cursor",
        )
    return value


class _RawEnvelope(Struct):
    next_cursor: Any = None
    records: Raw = Raw(b"null")


# What a JSON object begins with, in UTF-8 or UTF-16, with a byte order mark or without.
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{|\xff\xfe(?:\s\0)*\{\0|\xfe\xff(?:\0\s)*\0\{")
# Up to this size a body that msgspec refuses is read by the standard library, which takes NaN, control characters,
# lone surrogates and UTF-16, but holds the loop.
_LENIENT_BYTES = 2**20


def raw_cursors(body: bytes) -> tuple[str | None, str | None]:
    """Return the ``next_cursor`` of a raw body, and the provider's own cursor, which only Gong's body has.

    A raw body can be anything; one that is not a JSON object has neither.

    :raises DecodeError: it is a JSON object, but cannot be read, so nobody knows whether there is another page.
    """
    if not _OBJECT.match(body):
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

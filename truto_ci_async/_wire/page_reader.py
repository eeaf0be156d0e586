"""Bodies as functions of their bytes: envelopes (contract section 2), accounts (5) and errors (3) in.

The items themselves are read by ``_decode``. Nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Iterator
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


class PageData(Struct, Generic[T], kw_only=True):
    """What a body held, before it is known where in a walk it stands."""

    items: tuple[T, ...]
    next_cursor: str | None = None
    prev_cursor: str | None = None
    result_count: int | None = None
    is_partial_response: bool | None = None
    debug: DebugInfo | None = None
    extra: dict[str, Any] = {}
    issues: list[Issue] = []
    keys: tuple[str, ...] | None = None


class _Envelope(Struct, Generic[T], forbid_unknown_fields=True):
    """The envelope when nothing is odd about it. Any surprise (an unknown key, a wrong type) is a
    ValidationError, and the careful reading takes over: the common page pays for one decode only."""

    result: tuple[T, ...]
    next_cursor: str | None = None
    prev_cursor: str | None = None
    result_count: int | None = None
    is_partial_response: bool | None = None
    debug: DebugInfo | UnsetType | None = UNSET


# Bytes of a large body that are decoded between two breaths.
SLICE = 256 * 1024
# As many keys of an unexpected body as an error names.
KEYS_SHOWN = 12

_decode_object = msgspec.json.Decoder(dict[str, Raw])
_any = msgspec.json.Decoder()


class PageReader(Generic[T]):
    """Read bodies of pages into items of one type; holds decoders that are built once.

    ``keyed`` reads the object that ``truto_key_by`` makes of ``result``. ``detach=False`` leaves what is Raw as views
    of the whole body, for who keeps no items.
    """

    def __init__(self, items: ItemReader[T], *, keyed: bool = False, detach: bool = True) -> None:
        self._items = items
        self._keyed = keyed
        self._detaches = detach
        #: The body of a page without items.
        self.empty_body = b'{"result":{}}' if keyed else b'{"result":[]}'
        envelope: type[_Envelope[T]] = cast("Any", _Envelope)[items.item_type]
        self._envelope = msgspec.json.Decoder(envelope)

    def read(self, body: bytes) -> PageData[T]:
        """Read one body whole.

        :raises DecodeError: not an envelope, or (``on_invalid="raise"``) an item that is not valid.
        :raises TruncatedBodyError: the beginning of an envelope.
        """
        try:
            if not self._keyed:
                try:
                    envelope = decode_with(self._envelope, body)
                except msgspec.ValidationError:
                    return self._read_carefully(body)
                if not self._items.blank(envelope.result):
                    return PageData(
                        items=self._items.detach(envelope.result) if self._detaches else envelope.result,
                        next_cursor=envelope.next_cursor or None,
                        prev_cursor=envelope.prev_cursor or None,
                        result_count=envelope.result_count,
                        is_partial_response=envelope.is_partial_response,
                        debug=envelope.debug or None,
                        extra={},
                        issues=[],
                    )
            return self._read_carefully(body)
        except DecodeError as error:
            self._refuse(body, error)

    def _refuse(self, body: bytes, error: DecodeError) -> NoReturn:
        """Raise what is wrong with a body: cut short, or ``error``."""
        from truto_ci_async._wire.incremental.lexer import is_cut

        if is_cut(body):
            raise TruncatedBodyError(
                f"the JSON ends early, after {len(body):,} bytes", bytes_read=len(body)
            ) from error
        error.raw = error.raw or body[:EXCERPT_BYTES]
        raise error

    def read_in_slices(self, body: bytes) -> Iterator[PageData[T] | None]:
        """Read one large body as ``read`` does, in steps of a few milliseconds: None after each, then the page.

        A keyed page is read in one step.
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
            for at in range(0, len(body), SLICE):
                items += decoder.feed(body[at : at + SLICE])
                yield None
            items += decoder.flush()
            envelope = decoder.close()
        except DecodeError:
            yield self.read(
                body
            )  # raises the same, or reads what only a whole reading can (``result`` twice)
            return
        rest = {key: Raw(msgspec.json.encode(value)) for key, value in envelope.items()}
        yield PageData(items=tuple(items), issues=decoder.issues, **read_envelope(rest))

    def _read_carefully(self, body: bytes) -> PageData[T]:
        rest = open_envelope(body)
        result = take_result(rest)
        issues: list[Issue] = []
        keys: tuple[str, ...] | None = None
        if self._keyed:
            keys, result = _split_keyed(result)
        if result[:1] != b"[":
            what = "null" if result == b"null" else "an object" if result[:1] == b"{" else "no array"
            hint = "; for truto_key_by use keyed()" if what == "an object" else ""
            raise DecodeError(
                f"result is {what} where an array was expected{hint}",
                path="$.result",
                raw=body[:EXCERPT_BYTES],
            )
        items, issues = self._items.read_array(result)
        if issues and not items:
            first = issues[0]
            raise DecodeError(
                f"no item of this page is of type {_type_name(self._items.item_type)}: {first.message}; "
                "item_type=dict takes items of any shape",
                path=first.path,
                index=first.index,
                raw=first.raw,
            )
        if keys is not None and len(items) != len(keys):
            dropped = {issue.index for issue in issues if issue.dropped}
            keys = tuple(key for index, key in enumerate(keys) if index not in dropped)
        return PageData(items=tuple(items), issues=issues, keys=keys, **read_envelope(rest))


def _type_name(item_type: Any) -> str:
    return getattr(item_type, "__name__", str(item_type))


def open_envelope(body: bytes) -> dict[str, Raw]:
    """Split a body into its top-level keys.

    :raises DecodeError: no JSON object.
    """
    try:
        return decode_with(_decode_object, body)
    except msgspec.ValidationError:
        raise DecodeError(
            f"expected a JSON object with result, got something else: {describe(body)}",
            raw=body[:EXCERPT_BYTES],
        ) from None


def take_result(envelope: dict[str, Raw]) -> bytes:
    """Take ``result`` (or ``results``, as some admin endpoints say) out of the envelope.

    :raises DecodeError: neither is there; the message lists the keys seen and what else to try.
    """
    for key in ("result", "results"):
        if key in envelope:
            return bytes(envelope.pop(key))
    seen = ", ".join(sorted(envelope)[:KEYS_SHOWN]) or "none"
    if len(envelope) > KEYS_SHOWN:
        seen += f" and {len(envelope) - KEYS_SHOWN} more"
    hint = ""
    if "peopleInteractionStats" in envelope:
        hint = "; this is the provider's own body: stream(path='peopleInteractionStats', item_type=dict) reads it"
    elif "error" in envelope or "message" in envelope:
        said = [bytes(envelope[key]) for key in ("message", "error") if key in envelope]
        told = next((text for text in said if text not in (b"null", b'""')), said[0])
        hint = f"; the service says {told[:200].decode(errors='ignore')}"
    raise DecodeError(f"the body has no result; its keys are: {seen}{hint}")


def read_envelope(envelope: dict[str, Raw]) -> dict[str, Any]:
    """Read the keys around ``result``; those not named by the contract, or unreadable, end up under ``extra``.

    :raises DecodeError: a ``next_cursor`` that is no text, or a number too large for any float.
    """
    fields = {key: _value(key, raw) for key, raw in envelope.items() if key != "debug"}
    known: dict[str, Any] = {"next_cursor": cursor_text(fields.pop("next_cursor", None))}
    with suppress(DecodeError):
        known["prev_cursor"] = cursor_text(fields.get("prev_cursor"))
        fields.pop("prev_cursor", None)
    for key, type in (("result_count", int | None), ("is_partial_response", bool | None)):
        with suppress(msgspec.ValidationError):  # not strict: 50.0 and "50" are 50, "true" is true
            known[key] = msgspec.convert(fields.get(key), type, strict=False)
            fields.pop(key, None)
    if "debug" in envelope:
        try:
            known["debug"] = msgspec.json.decode(envelope["debug"], type=DebugInfo | None)
        except msgspec.ValidationError:
            fields["debug"] = mask_repr(_value("debug", envelope["debug"]))
    return known | {"extra": fields}


def _value(key: str, raw: Raw) -> Any:
    try:
        return decode_with(_any, bytes(raw))
    except msgspec.ValidationError as error:
        raise DecodeError(
            f"{key} cannot be decoded: {error}", path=f"$.{key}", raw=bytes(raw)[:EXCERPT_BYTES]
        ) from error


def cursor_text(value: object) -> str | None:
    """Read a cursor: null, empty and absent all mean the end; a number is taken as its text.

    :raises DecodeError: any other type.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DecodeError(f"next_cursor is no text: {value!r:.80}", path="$.next_cursor")


def raw_cursor(body: bytes) -> str | None:
    """Return the ``next_cursor`` of a raw body, when it is a JSON object that has one."""
    if body[:1].isspace() or body[:1] == b"{":
        try:
            return cursor_text(msgspec.json.decode(body, type=_RawEnvelope).next_cursor)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DecodeError):
            return None
    return None


class _RawEnvelope(Struct):
    next_cursor: Any = None


def _split_keyed(result: bytes) -> tuple[tuple[str, ...], bytes]:
    """Turn ``{"k": item, …}`` into its keys and ``[item, …]``; an empty array counts as an empty object."""
    if result[:1] == b"[" and not result[1:-1].strip():
        return (), b"[]"
    try:
        pairs = msgspec.json.decode(result, type=dict[str, Raw])
    except msgspec.ValidationError:
        raise DecodeError(
            "result is no object: the service did not key it by the field asked", path="$.result"
        ) from None
    return tuple(pairs), b"[" + b",".join(bytes(raw) for raw in pairs.values()) + b"]"

"""Bodies as functions of their bytes: envelopes (contract section 2), accounts (5) and errors (3) in.

The items themselves are read by ``_decode``. Nothing here awaits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ._decode import ItemReader
from ._json import EXCERPT_BYTES, decode_with, describe
from .errors import (
    AccountBlockedError,
    APIError,
    AuthenticationError,
    BadRequestError,
    CursorExpiredError,
    DecodeError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ReconnectRequiredError,
    ServerError,
    TruncatedBodyError,
    UsageError,
)
from .models import Capabilities, Capability, DebugInfo, Issue, redact

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
        self.nothing = b'{"result":{}}' if keyed else b'{"result":[]}'
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
        from ._tokens import is_cut

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
        from ._items import ItemDecoder

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
            fields["debug"] = redact(_value("debug", envelope["debug"]))
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


class _UnifiedList(Struct):
    model: str | None = None
    resource: str | None = None
    methods: tuple[str, ...] = ()


class _UnifiedResource(Struct):
    api_name: str | None = None
    name: str | None = None
    methods: tuple[str, ...] = ()


class _UnifiedResources(Struct):
    resources: tuple[_UnifiedResource, ...] = ()


class _CapabilityAccount(Struct):
    id: str | None = None
    status: str | None = None
    is_blocked: bool | None = None


class _CapabilityBody(Struct):
    unified: Raw
    account: _CapabilityAccount | None = None


def read_capabilities(body: bytes) -> Capabilities:
    """Read what an account can do, in either published shape (contract section 5).

    :raises DecodeError: neither shape.
    """
    try:
        parsed = decode_with(msgspec.json.Decoder(_CapabilityBody), body)
        if bytes(parsed.unified).lstrip()[:1] == b"{":
            listed = msgspec.json.decode(parsed.unified, type=_UnifiedResources).resources
            entries = tuple(
                Capability(model=entry.api_name, resource=entry.name, methods=entry.methods)
                for entry in listed
            )
        else:
            rows = msgspec.json.decode(parsed.unified, type=tuple[_UnifiedList, ...] | None) or ()
            entries = tuple(
                Capability(model=row.model, resource=row.resource, methods=row.methods) for row in rows
            )
    except msgspec.ValidationError as error:
        raise DecodeError(
            f"the capabilities have another shape: {error}", raw=body[:EXCERPT_BYTES]
        ) from error
    account = parsed.account or _CapabilityAccount()
    return Capabilities(
        account_id=account.id, status=account.status, is_blocked=account.is_blocked, unified=entries
    )


class _TokenBody(Struct):
    integrated_account_token: str


def read_token(body: bytes) -> str:
    """Read the answer of ``POST /integrated-account/token`` (contract section 4).

    :raises DecodeError: no token in it; the body is not quoted, since it may hold one under another name.
    """
    try:
        return decode_with(msgspec.json.Decoder(_TokenBody), body).integrated_account_token
    except (msgspec.ValidationError, DecodeError):
        raise DecodeError("the answer holds no integrated_account_token") from None


_BAD_REQUEST = frozenset({400, 405, 409, 422})
_CURSOR_DEAD = re.compile(
    r"expired|malformed|not a cursor|invalid|unknown|no longer|not found|stale", re.IGNORECASE
)
_CURSOR_FOREIGN = re.compile(r"filter|different|other|mismatch|does not belong", re.IGNORECASE)


def error_class(status: int, *, is_remote: bool, asked_to_wait: bool) -> type[APIError]:
    """Return the error that says what to do about a status (contract section 3)."""
    if status == 401:
        return ReconnectRequiredError if is_remote else AuthenticationError
    if status == 503:
        return ServerError if asked_to_wait else AccountBlockedError
    named = {
        403: PermissionDeniedError,
        404: NotFoundError,
        408: ServerError,
        425: ServerError,
        429: RateLimitError,
    }
    if status in named:
        return named[status]
    return BadRequestError if status in _BAD_REQUEST or 400 <= status < 500 else ServerError


def read_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    reason: str = "",
    retry_after: float | None = None,
    account: str | None = None,
    attempts: int = 1,
) -> APIError:
    """Read an error answer. A body that is HTML, empty or broken never hides the status (contract section 3)."""
    try:
        parsed: object = decode_with(msgspec.json.Decoder(), body)
    except (DecodeError, msgspec.ValidationError):
        parsed = None
    fields = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
    is_remote = fields.get("truto_is_remote_error") is True
    raw_response = fields.get("raw_response")
    error = _text(fields.get("error")) or reason
    message = _text(fields.get("message")) or _text(raw_response) or error
    if 300 <= status < 400:
        where = headers.get("location", "")
        message = f"a redirect to {where[:200]!r}, which is not followed; check base_url"
    elif not message:
        message = f"no message; {describe(body)}"
    elif not isinstance(parsed, dict) and body.strip():
        message = f"{message}; the body is no JSON object: {describe(body)}"
    insight = fields.get("truto_error_insight")
    return error_class(status, is_remote=is_remote, asked_to_wait=retry_after is not None)(
        message,
        status=status,
        error=error,
        is_remote=is_remote,
        insight=cast("dict[str, Any]", insight) if isinstance(insight, dict) else None,
        details=fields.get("details"),
        raw_response=raw_response,
        headers=headers,
        retry_after=retry_after,
        account=account,
        attempts=attempts,
    )


def _text(value: object) -> str:
    """Whatever the service put where a message belongs, as one short text."""
    if value is None or value == "" or value == {} or value == []:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 1_000 else f"{text[:1_000]}…"


def raise_about(error: APIError, cursor: str | None) -> NoReturn:
    """Raise what a refusal means for the request's ``cursor``: its end, its misuse, or just the refusal itself.

    :raises CursorExpiredError: the service no longer takes the cursor.
    :raises UsageError: the cursor was given for other filters.
    :raises APIError: anything else, as it came.
    """
    if cursor and error.status in {400, 404, 409, 410, 422} and "cursor" in error.message.lower():
        if _CURSOR_FOREIGN.search(error.message):
            raise UsageError(f"the cursor was given for other filters: {error.message}") from error
        if _CURSOR_DEAD.search(error.message):
            raise CursorExpiredError(
                f"the service no longer takes this cursor: {error.message}; start the window again",
                cursor=cursor,
                account=error.account,
            ) from error
    try:
        raise error
    finally:
        del error  # this frame is part of its traceback: the two would be a cycle

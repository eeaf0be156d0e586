"""Decodes JSON bodies strictly: whatever is wrong with one is a DecodeError.

msgspec does the decoding. It does not look inside values it skips, so bad UTF-8 there goes unnoticed, and deep nesting
raises RecursionError; both are handled here.

Two things that msgspec refuses are accepted anyway: a byte order mark before the body, and the escape of a lone
surrogate, such as ``"\\ud83d"``. JSON allows it, and JavaScript writes it for text that was cut inside an emoji. It is
replaced by ``\\ufffd``, which has the same length, so offsets stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct

from .errors import DecodeError

T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")

# Bytes of a bad body that an error keeps.
EXCERPT_BYTES = 512
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Decoder(Protocol[T_co]):
    """The one method of ``msgspec.json.Decoder`` that is used here."""

    def decode(self, buf: bytes, /) -> T_co: ...


def decode_with(decoder: Decoder[V], body: bytes) -> V:
    """Decode ``body`` with a decoder that is reused. Lone surrogates are replaced.

    :raises DecodeError: the body is not JSON, is not UTF-8, or is nested too deep.
    :raises msgspec.ValidationError: it is JSON, but does not match the decoder's type.
    """
    body = body.removeprefix(BYTE_ORDER_MARK)
    try:
        return decode_strictly(decoder, body)
    except DecodeError:
        fixed = replace_surrogates(body)
        if fixed is body:
            raise
    return decode_strictly(decoder, fixed)


def decode_strictly(decoder: Decoder[V], body: bytes) -> V:
    """Decode as ``decode_with`` does, but refuse byte order marks and lone surrogates."""
    check_utf8(body)
    try:
        return decoder.decode(body)
    except RecursionError:
        raise DecodeError("the body is nested too deep to decode", raw=body[:EXCERPT_BYTES]) from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise DecodeError(
            f"the body is not JSON: {describe(body)} ({error})", raw=body[:EXCERPT_BYTES]
        ) from error


# A larger object or array in the envelope stays Raw: decoding it would block the loop and take much memory.
DECODED_BYTES = 256 * 1024
_decode_any = msgspec.json.Decoder()


def decode_member(key: str, raw: bytes) -> Any:
    """Decode the value of ``key``, a member of an envelope. A large object or array stays Raw.

    :raises DecodeError: it has a number too large for a float, or is not JSON.
    """
    if len(raw) > DECODED_BYTES and raw[:1] in (b"{", b"["):
        return msgspec.Raw(raw)
    try:
        return decode_strictly(_decode_any, raw)
    except msgspec.ValidationError as error:
        raise DecodeError(
            f"{key} cannot be decoded: {error}", path=f"$.{key}", raw=raw[:EXCERPT_BYTES]
        ) from error


def check_utf8(body: bytes) -> None:
    """Check that ``body`` is UTF-8.

    :raises DecodeError: it is not; the message has the offset of the first bad byte.
    """
    if body.isascii():  # ten times faster than decoding, and true of most bodies
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"the body is not UTF-8: byte {body[error.start]:#04x} at offset {error.start}",
            raw=body[:EXCERPT_BYTES],
        ) from error


_HIGH, _LOW, _HEX = rb"u[dD][89abAB]", rb"u[dD][c-fC-F]", rb"[0-9a-fA-F]{2}"
# Skips everything up to a surrogate that is not one of a pair. Escapes are consumed whole, so `\\ud83d` is not taken
# for a surrogate. Possessive, hence linear.
_LONE = rb"[^\\]*+(?:\\(?:[^u]|u(?![dD][89a-fA-F])|%b%b\\%b%b)[^\\]*+)*+\\u[dD][89a-fA-F]%b" % (
    _HIGH,
    _HEX,
    _LOW,
    _HEX,
    _HEX,
)
REPLACEMENT = b"\\ufffd"


def replace_surrogates(text: bytes, replacement: bytes = REPLACEMENT) -> bytes:
    """Replace the escapes of lone surrogates in JSON text; return the same object if there are none."""
    if b"\\ud" not in text and b"\\uD" not in text:
        return text
    fixed: bytearray | None = None
    at = 0
    lone = re.compile(_LONE)
    while found := lone.match(text, at):
        at = found.end()
        fixed = fixed or bytearray(text)
        fixed[at - len(replacement) : at] = replacement
    return text if fixed is None else bytes(fixed)


def describe(body: bytes) -> str:
    """Describe in a few words a body that should have been JSON."""
    start = body[:256].removeprefix(BYTE_ORDER_MARK).lstrip()
    if not start:
        return "it is empty" if len(body) < 256 else "it begins with white space"
    if start[:1] == b"<":
        return f"it looks like HTML or XML, beginning {start[:40]!r}"
    return f"it begins {start[:40]!r}"


#: The field in which a struct keeps members that it has no field for, as the JSON text of an object.
UNKNOWN = "unknown_json"
_MARK = f'"{UNKNOWN}":'.encode()
_encode_lines = msgspec.json.Encoder().encode_lines


def encode(value: object) -> bytes:
    """Encode a value as JSON, with the unknown members of each struct in it in their place."""
    text = msgspec.json.encode(value)
    return text if _MARK not in text else _encode_members(value)


def encode_lines(values: Iterable[object]) -> bytes | None:
    """Encode values as lines of JSON; None if one has unknown members, which would be misplaced."""
    text = _encode_lines(values)
    return text if _MARK not in text else None


def _encode_members(value: object) -> bytes:
    if isinstance(value, (tuple, list)):
        return b"[" + b",".join(map(_encode_members, cast("tuple[object, ...]", value))) + b"]"
    if not isinstance(value, Struct):
        return msgspec.json.encode(value)
    members = {
        encoded: Raw(_encode_members(found))
        for name, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        if name != UNKNOWN and (found := getattr(value, name)) is not UNSET
    }
    get_unknown = cast("Callable[[], dict[str, Raw]]", getattr(value, "unknown_members", dict))
    members.update((name, raw) for name, raw in get_unknown().items() if name not in members)
    return msgspec.json.encode(members)

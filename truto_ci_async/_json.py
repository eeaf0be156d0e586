"""Decodes JSON bodies strictly: whatever is wrong with one is a DecodeError.

msgspec does the decoding. It does not look inside values it skips, so bad UTF-8 there goes unnoticed, and deep nesting
raises RecursionError; both are handled here.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

from .errors import DecodeError

T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")

# How much of a bad body an error keeps.
EXCERPT_BYTES = 512


class Decoder(Protocol[T_co]):
    """The one method of ``msgspec.json.Decoder`` that is used."""

    def decode(self, buf: bytes, /) -> T_co: ...


def decode_json(body: bytes, type: Any = Any) -> Any:
    """Decode ``body`` into ``type``.

    :raises DecodeError: the body is not JSON.
    :raises msgspec.ValidationError: it is JSON, but does not match ``type``.
    """
    return decode_with(msgspec.json.Decoder(type), body)


def decode_with(decoder: Decoder[V], body: bytes) -> V:
    """Decode ``body`` with a decoder that is reused.

    :raises DecodeError: the body is not JSON, is not UTF-8, has a byte order mark, or is nested too deep.
    :raises msgspec.ValidationError: it is JSON, but does not match the decoder's type.
    """
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


def describe(body: bytes) -> str:
    """Describe in a few words a body that should have been JSON."""
    start = body[:256].lstrip()
    if not start:
        return "it is empty" if len(body) < 256 else "it begins with white space"
    if start.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte order mark"
    if start[:1] == b"<":
        return f"it looks like HTML or XML, beginning {start[:40]!r}"
    return f"it begins {start[:40]!r}"

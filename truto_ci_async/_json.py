"""Strict JSON for bodies: every way a text can be wrong becomes one DecodeError.

msgspec does the decoding. What it leaves open is closed here: it does not look inside skipped values (bad
UTF-8 there goes unseen), and nests no deeper than the interpreter's recursion limit (RecursionError).
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

from .errors import DecodeError

T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")

# As much of a bad body as an error carries along.
EXCERPT_BYTES = 512


class Decoder(Protocol[T_co]):
    """The one method of ``msgspec.json.Decoder`` that is used here."""

    def decode(self, buf: bytes, /) -> T_co: ...


def decode_json(body: bytes, type: Any = Any) -> Any:
    """Decode ``body`` into ``type``.

    :raises DecodeError: not JSON, or JSON of another shape; ``path`` says where.
    """
    return decode_with(msgspec.json.Decoder(type), body)


def decode_with(decoder: Decoder[V], body: bytes) -> V:
    """Decode ``body`` with a reused decoder.

    :raises DecodeError: not JSON (bad UTF-8 and a byte order mark included), or nested too deep.
    :raises msgspec.ValidationError: JSON, but not of the decoder's type; the caller knows what to try next.
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
    """Refuse bytes that are not UTF-8.

    :raises DecodeError: with the offset of the first bad byte.
    """
    if body.isascii():  # ten times cheaper than decoding, and true of most bodies
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"the body is not UTF-8: byte {body[error.start]:#04x} at offset {error.start}",
            raw=body[:EXCERPT_BYTES],
        ) from error


def describe(body: bytes) -> str:
    """Say in a few words what a body that should have been JSON looks like."""
    start = body[:256].lstrip()
    if not start:
        return "it is empty" if len(body) < 256 else "it begins with white space"
    if start.startswith(b"\xef\xbb\xbf"):
        return "it begins with a byte order mark"
    if start[:1] == b"<":
        return f"it looks like HTML or XML, beginning {start[:40]!r}"
    return f"it begins {start[:40]!r}"

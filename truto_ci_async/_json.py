"""Strict JSON for bodies: every way a text can be wrong becomes one DecodeError, and a cut text is told apart.

msgspec does the decoding. What it leaves open is closed here: it does not look inside skipped values (bad
UTF-8 there goes unseen), nests no deeper than the interpreter's recursion limit (RecursionError), and calls
a lone surrogate "truncated", so whether a text was cut is decided by its end and never by a message.
"""

from __future__ import annotations

import re
from typing import Any, Protocol, TypeVar

import ijson
import msgspec

from .errors import DecodeError

T_co = TypeVar("T_co", covariant=True)
V = TypeVar("V")

# As much of a bad body as an error carries along.
EXCERPT_BYTES = 512

# How much ijson is given at once: it turns each value into an event, and all events of a slice are in memory.
SLICE_BYTES = 64 * 1024
# What ijson raises. ValueError and UnicodeDecodeError: its Python backend on bad text. The last two: its C
# backend on numbers of more digits than Python reads (4,300), or with an exponent beyond any Decimal.
PARSER_ERRORS = (ijson.JSONError, ValueError, StopIteration, SystemError, ArithmeticError)


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


def is_cut(*parts: bytes) -> bool:
    """Tell whether ``parts``, joined, are the beginning of a JSON text that ends too early.

    Everything up to the end must be good JSON; an empty body is not a beginning of anything.
    """
    if not any(part.strip() for part in parts):
        return False
    events = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events, use_float=False)
    cutter = TokenCutter()
    try:
        for part in parts:
            for start in range(0, len(part), SLICE_BYTES):
                if piece := cutter.cut(part[start : start + SLICE_BYTES]):
                    parser.send(piece)
                    del events[:]
        if piece := cutter.rest():
            parser.send(piece)
    except PARSER_ERRORS:
        return False
    try:
        parser.close()
    except ijson.IncompleteJSONError:
        return True
    except PARSER_ERRORS:
        return False
    return False


class TokenCutter:
    """Cut bytes that arrive into pieces that end between two tokens of JSON, for ijson.

    ijson reads a token that comes in n pieces n times from its start: a 64 MB string in network chunks would
    take half a minute. What is no JSON is cut somewhere; ijson will tell.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._held: list[bytes] = []  # of the token that is not complete yet
        self._in_string = False
        self._escaped = False  # the next byte follows a backslash

    def cut(self, chunk: bytes) -> bytes:
        """Take ``chunk`` and return what can be read now: what was held, up to the last whole token."""
        if not chunk:
            return b""
        plain = chunk
        if self._escaped or b"\\" in chunk:
            # The same length without escapes, so that every quote in it opens or closes a string.
            plain = _ESCAPE.sub(b"__", b"\\" + chunk if self._escaped else chunk)
            plain = plain[1:] if self._escaped else plain
            self._escaped = plain.endswith(b"\\")
        if plain.count(b'"') % 2:
            self._in_string = not self._in_string
        if self._in_string:
            place = max(plain.rfind(b'"'), 0)
        else:
            place = len(plain.rstrip(_SCALAR_BYTES))
        if place == 0:
            self._hold(chunk)
            return b""
        piece = b"".join((*self._held, chunk[:place]))
        self._held.clear()
        self.held_bytes = 0
        self._hold(chunk[place:])
        return piece

    def rest(self) -> bytes:
        """Return what is still held, and begin anew."""
        rest = b"".join(self._held)
        self._held.clear()
        self.held_bytes = 0
        self._in_string = self._escaped = False
        return rest

    def _hold(self, part: bytes) -> None:
        if part:
            self._held.append(part)
            self.held_bytes += len(part)


_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_SCALAR_BYTES = b"+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

"""JSON in pieces, with ijson: cut between two tokens, and a text that was cut short told from one that is wrong.

msgspec calls a lone surrogate "truncated", so whether a text was cut is decided by its end and never by a message.
Loaded when a stream is opened or a body is wrong, and not before: ijson brings a good deal with it.
"""

from __future__ import annotations

import re

import ijson

# How much ijson is given at once: it turns each value into an event, and all events of a slice are in memory.
SLICE_BYTES = 64 * 1024
# What ijson raises. ValueError and UnicodeDecodeError: its Python backend on bad text. The last two: its C
# backend on numbers of more digits than Python reads (4,300), or with an exponent beyond any Decimal.
PARSER_ERRORS = (ijson.JSONError, ValueError, StopIteration, SystemError, ArithmeticError)


def is_cut(*parts: bytes) -> bool:
    """Tell whether ``parts``, joined, are the beginning of a JSON text that ends too early.

    Everything up to the end must be good JSON; an empty body is not a beginning of anything.
    """
    if not any(part.strip() for part in parts):
        return False
    events = ijson.sendable_list()
    parser = ijson.basic_parse_coro(events, use_float=False)
    cutter = JsonTokenSplitter()
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


class JsonTokenSplitter:
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

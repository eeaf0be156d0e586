"""Follows JSON that arrives in pieces: where its tokens end, how deep it is nested, whether it is complete.

ijson does the parsing. This module is only loaded to read a stream or to explain a bad body: importing ijson is slow.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator

import ijson

from truto_ci_async._json import BYTE_ORDER_MARK, EXCERPT_BYTES, replace_surrogates
from truto_ci_async.errors import DecodeError

# Deepest nesting accepted. msgspec gives up a little below the interpreter's recursion limit (1,000).
MAX_DEPTH = 512
# How much ijson gets at once in `is_cut`. Each value becomes an event, and all events of a slice are held in memory.
SLICE_BYTES = 64 * 1024
# Everything ijson raises for bad text. Its Python backend: ValueError, UnicodeDecodeError. Its C backend for numbers
# that Python cannot parse: SystemError, ArithmeticError.
PARSER_ERRORS = (ijson.JSONError, ValueError, StopIteration, SystemError, ArithmeticError)
# How much deeper an event takes us.
STEPS = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


def is_cut(*parts: bytes) -> bool:
    """Tell whether ``parts``, joined, are valid JSON that ends too early; empty text is not.

    Decided by how the text ends, never by msgspec's message: it calls a lone surrogate "truncated" too.
    """
    steps = cut_steps(*parts)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value)


def cut_steps(*parts: bytes) -> Generator[None, None, bool]:
    """Do what ``is_cut`` does, in steps of a few milliseconds."""
    if not any(part.strip() for part in parts):
        return False
    if len(parts) == 1 and BYTE_ORDER_MARK.startswith(parts[0]):
        return True
    checker = JsonChecker()
    try:
        for part in parts:
            for start in range(0, len(part), SLICE_BYTES):
                checker.read(part[start : start + SLICE_BYTES])
                yield
        return not checker.is_complete()
    except DecodeError:
        return False


class JsonTokenSplitter:
    """Turn chunks that end anywhere into pieces that end between two tokens.

    ijson rereads an incomplete token from its start each time a piece arrives: for a 64 MB string in network chunks
    that takes half a minute. Text that is not JSON is split somewhere; ijson will report it.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._held: list[bytes] = []  # the token that is not complete yet
        self._in_string = False  # mutant: None is as good
        # The last byte was a backslash that escapes the next one.
        self._escaped = False  # mutant: None is as good

    def cut(self, chunk: bytes) -> bytes:
        """Return what was held and ``chunk``, up to the end of the last complete token; hold the rest."""
        if not chunk:
            return b""
        plain = chunk
        if self._escaped or b"\\" in chunk:
            # Blank out the escapes, keeping the length: now every quote opens or closes a string.
            plain = _ESCAPE.sub(b"__", b"\\" + chunk if self._escaped else chunk)
            plain = plain[1:] if self._escaped else plain
            self._escaped = plain.endswith(b"\\")
        if plain.count(b'"') % 2:
            self._in_string = not self._in_string
        if self._in_string:
            end = max(plain.rfind(b'"'), 0)
        else:
            end = len(plain.rstrip(_SCALAR_BYTES))
        if end == 0:
            self._hold(chunk)
            return b""
        piece = b"".join((*self._held, chunk[:end]))
        self._held.clear()
        self.held_bytes = 0
        self._hold(chunk[end:])
        return piece

    def rest(self) -> bytes:
        """Return what is held, and start over."""
        rest = b"".join(self._held)
        self._held.clear()
        self.held_bytes = 0
        self._in_string = self._escaped = False  # mutant: None is as good
        return rest

    def _hold(self, part: bytes) -> None:
        if part:
            self._held.append(part)
            self.held_bytes += len(part)


_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_SCALAR_BYTES = b"+-.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class JsonChecker:
    """Check a JSON document as it arrives; subclasses follow its events."""

    def __init__(self) -> None:
        self.splitter = JsonTokenSplitter()
        self._events = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._events)

    def __del__(self) -> None:
        # ijson's Python backend raises when it is dropped in the middle of a document.
        with contextlib.suppress(*PARSER_ERRORS):
            self._parser.close()

    def read(self, chunk: bytes) -> None:
        """Read ``chunk``, which may end anywhere; raises as ``send`` does."""
        self.send(for_ijson(self.splitter.cut(chunk)))

    def send(self, piece: bytes) -> None:
        """Read ``piece``, the result of ``for_ijson`` or a part of it that begins and ends between tokens.

        :raises DecodeError: it is not JSON, or nested deeper than ``MAX_DEPTH`` where a subclass counts.
        """
        if not piece:  # ijson would take it for the end of the document
            return
        try:
            self._parser.send(piece)
        except PARSER_ERRORS as error:
            raise _not_json(error, piece) from error
        self._follow(self._events)
        self._events.clear()

    def is_complete(self) -> bool:
        """Tell whether the document is complete. Nothing can be sent after this.

        :raises DecodeError: its end is not JSON.
        """
        self.send(for_ijson(self.splitter.rest()))
        try:
            self._parser.close()
        except ijson.IncompleteJSONError:
            return False
        except PARSER_ERRORS as error:
            raise _not_json(error, b"") from error
        return True

    def _follow(self, events: ijson.sendable_list) -> None:
        """Look at the events of one piece."""


class NestingTracker(JsonChecker):
    """Follow how deep a document is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        # Of the last piece, "" if it had none.
        self.last_event = ""  # mutant: no event either

    def _follow(self, events: ijson.sendable_list) -> None:
        depth = self.depth
        name = ""  # mutant: no event either
        for name, _ in events:
            if name in STEPS:
                depth += STEPS[name]
                if depth > MAX_DEPTH:
                    raise too_deep()
        self.depth = depth
        self.last_event = name


# Strings, to skip them; and numbers whose value ijson cannot hold: integers with more digits than Python parses
# (4,300), and exponents too large for Decimal. Only tried where a number begins, hence linear.
_HUGE_NUMBER = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?<![\d.])-?(?:[1-9]\d{4000,}+(?![.eE])|\d++(?:\.\d++)?[eE][+-]?\d{17,}+)',
    re.DOTALL,
)
_DIGITS_AS_ZEROS = bytes(ord("0") if chr(byte).isdigit() else ord(" ") for byte in range(128)) + b" " * 128
_MANY_DIGITS = b"0" * 17


def for_ijson(piece: bytes) -> bytes:
    """Replace in whole tokens what ijson refuses and msgspec reads, keeping the length.

    Only the kind of a value matters to us, not the value.
    """
    piece = replace_surrogates(piece)
    if _MANY_DIGITS in piece.translate(_DIGITS_AS_ZEROS):  # ten times as fast as looking for such a number
        return _HUGE_NUMBER.sub(_small_number, piece)
    return piece


def _small_number(found: re.Match[bytes]) -> bytes:
    token = found[0]
    return token if token.startswith(b'"') else b"0".ljust(len(token))  # mutant: rjust is as good


def too_deep() -> DecodeError:
    return DecodeError(f"the body is nested deeper than {MAX_DEPTH}")


def _not_json(error: BaseException, piece: bytes) -> DecodeError:
    text = " ".join(str(error).split())[:160]
    return DecodeError(f"the body is not JSON: {text or type(error).__name__}", raw=piece[:EXCERPT_BYTES])

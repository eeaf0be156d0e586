"""Finds the array of items in bytes as they arrive."""

from __future__ import annotations

import contextlib
import re
from typing import Protocol, TypeVar, cast

import ijson

from truto_ci_async._json import EXCERPT_BYTES
from truto_ci_async.errors import DecodeError

from .item_collector import ItemCollector, logger
from .lexer import PARSER_ERRORS, JsonTokenSplitter

T = TypeVar("T")


# Nesting that ijson is let into; msgspec itself stops a little below the interpreter's recursion limit (1,000).
MAX_DEPTH = 512


# Top-level keys remembered, for the message that the path is missing.
KEYS_KEPT = 32
WHITE = b" \t\r\n"


SPACE = re.compile(rb"[ \t\r\n]*")
COMMA, COLON, QUOTE = b',:"'


class Scanner:
    """ijson, told to keep nothing but where it stands: how deep, and on which path.

    ijson's own ``parse`` tracks full paths at a cost that is quadratic in depth; here only as many keys are
    kept as the path to the items has.
    """

    def __init__(self, path: tuple[str, ...], *, key_by: bool) -> None:
        if ijson.backend != "yajl2_c":
            logger.info("ijson runs on its backend %s: streaming is slower than it could be", ijson.backend)
        self.depth = 0
        self.last = ""  # the last event of the last piece, "" if it had none
        self.found: tuple[str, ...] = ()  # the path to the items, once it is found
        self.came = ""  # what stood at the path in place of items
        self._path = path
        self._other = ("results",) if path == ("result",) else path
        self._openings = ("start_array", "start_map") if key_by else ("start_array",)
        self._keys: list[str | None] = [None] * len(path)
        self.top_keys: list[str] = []
        self._events = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._events)
        self._cutter = JsonTokenSplitter()

    def find(self, chunk: bytes) -> int:
        """Read ``chunk`` up to the opening bracket of the items and return its place, or -1: read all."""
        held = self._cutter.held_bytes
        piece = self._cutter.cut(chunk)
        start = 0
        for opening in _OPENING.finditer(piece):
            if opening[0].startswith(b'"'):
                continue
            self.send(piece[start : opening.end()])
            start = opening.end()
            if self.found:
                self._cutter.rest()  # of the chunk; the caller has it
                return start - 1 - held
        self.send(piece[start:])
        return -1

    def read(self, chunk: bytes) -> None:
        """Read ``chunk``, which may end anywhere; raises as ``send``."""
        self.send(self._cutter.cut(chunk))

    def send(self, piece: bytes) -> None:
        """Read ``piece``, which begins and ends between tokens.

        :raises DecodeError: not JSON from here on, or nested deeper than MAX_DEPTH.
        """
        self.last = ""
        if not piece:  # would end ijson's document
            return
        try:
            self._parser.send(piece)
        except PARSER_ERRORS as error:
            raise _not_json(error, piece) from error
        if self.found:
            self._count()
        else:
            for name, value in self._events:
                self._follow(name, value)
        self._events.clear()

    def __del__(self) -> None:
        # ijson's Python backend complains when it is dropped before its text ends.
        with contextlib.suppress(*PARSER_ERRORS):
            self._parser.close()

    def ends(self) -> bool:
        """Tell whether the document is complete; nothing more can be sent.

        :raises DecodeError: it ends in something that is not JSON.
        """
        self.send(self._cutter.rest())
        try:
            self._parser.close()
        except ijson.IncompleteJSONError:
            return False
        except PARSER_ERRORS as error:
            raise _not_json(error, b"") from error
        return True

    def seen(self) -> str:
        """List the keys at the top, for a message."""
        more = ", ..." if len(self.top_keys) == KEYS_KEPT else ""
        return f"the keys at its top are: {', '.join(self.top_keys) or 'none'}{more}"

    def _count(self) -> None:
        """Follow the events of a piece where only the depth matters any more."""
        depth = self.depth
        name = ""
        for name, _ in self._events:
            if name in _STEPS:
                depth += _STEPS[name]
                if depth > MAX_DEPTH:
                    raise _too_deep()
        self.depth = depth
        self.last = name

    def _follow(self, name: str, value: object) -> None:
        self.last = name
        depth = self.depth
        if name == "map_key":
            if depth <= len(self._path):
                self._keys[depth - 1] = cast("str", value)
                if depth == 1 and len(self.top_keys) < KEYS_KEPT:
                    self.top_keys.append(cast("str", value))
            return
        if depth == len(self._path) and not self.found and not name.startswith("end_"):
            keys = tuple(self._keys)
            if keys in (self._path, self._other):
                if name in self._openings:
                    self.found = cast("tuple[str, ...]", keys)
                else:
                    self.came = _NAMES.get(name, f"a {name}")
        if name in _STEPS:
            if depth < len(self._path):
                self._keys[depth] = None  # an array has no keys, an object none yet
            self.depth += _STEPS[name]
            if self.depth > MAX_DEPTH:
                raise _too_deep()


# A string; or what may open the items: an array inside an object follows a colon, the last thing of the piece
# before at times.
_OPENING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?:\A|:)[ \t\r\n]*+[\[{]', re.DOTALL)
_STEPS = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}
_NAMES = {"start_map": "an object", "start_array": "an array", "null": "null"}


def _too_deep() -> DecodeError:
    return DecodeError(f"the body is nested deeper than {MAX_DEPTH}")


def _not_json(error: BaseException, piece: bytes) -> DecodeError:
    text = " ".join(str(error).split())[:160]
    return DecodeError(f"the body is not JSON: {text or type(error).__name__}", raw=piece[:EXCERPT_BYTES])


class ArrayParser(Protocol[T]):
    """Takes what follows the opening bracket of the items."""

    rest: bytes | None  # what came after the items' end, once that came

    def __init__(
        self, tally: ItemCollector[T], scanner: Scanner, keyed: bool, max_item_bytes: int
    ) -> None: ...

    def take(self, chunk: bytes, *, end: bool = False) -> list[T]: ...

    def ends(self) -> bool:
        """Tell that the body ended early, the items' end not being there.

        :raises DecodeError: it was not JSON before that.
        """
        ...

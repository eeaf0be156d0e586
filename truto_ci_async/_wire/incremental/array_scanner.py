"""Finds where the array of items begins in a body that arrives in chunks."""

from __future__ import annotations

import logging
import re
from typing import cast

import ijson

from truto_ci_async.errors import DecodeError

from .lexer import MAX_DEPTH, STEPS, NestingTracker, for_ijson, too_deep

# Top-level keys kept for the message that the path is missing.
KEYS_KEPT = 32
# Most top-level keys. Truto sends six; decoding an envelope with a million would block the loop.
MAX_KEYS = 10_000

logger = logging.getLogger("truto_ci_async")


class ArrayScanner(NestingTracker):
    """Follow a document to the array at ``path``, and count its nesting from there on.

    ijson's own ``parse`` builds the full path of each event, which is quadratic in depth. Here only the keys that lead
    to the items are kept.
    """

    def __init__(self, path: tuple[str, ...], *, key_by: bool) -> None:
        super().__init__()
        if ijson.backend != "yajl2_c":
            logger.info("ijson uses its backend %s: streaming is slower than it could be", ijson.backend)
        # The keys that lead to the items, once these are found; and what was at the path if not items.
        self.found: tuple[str, ...] = ()  # mutant: None is as good
        self.found_instead = ""  # mutant: None is as good
        self.top_keys: list[str] = []
        self._keys_seen = 0
        self._paths = (path, ("results",)) if path == ("result",) else (path,)
        self._openings = ("start_array", "start_map") if key_by else ("start_array",)
        self._keys: list[str | None] = [None] * len(path)  # the key we are at, for each level of the path

    def find(self, chunk: bytes) -> int:
        """Read ``chunk`` up to the opening bracket of the items.

        Return the index of that bracket, or -1 if it is not in ``chunk``.
        """
        held = self.splitter.held_bytes
        piece = self.splitter.cut(chunk)
        start = 0  # mutant: None is the beginning too
        for opening in _OPENING.finditer(piece):
            if opening[0].startswith(b'"'):  # mutant: only saves time
                continue
            self.send(for_ijson(piece[start : opening.end()]))  # not the items, which come after it
            start = opening.end()
            if self.found:
                self.splitter.rest()  # the caller goes on from the bracket
                return start - 1 - held
        self.send(for_ijson(piece[start:]))
        return -1  # mutant: any negative number

    def describe_keys(self) -> str:
        """Name the top-level keys, for a message."""
        more = ", ..." if len(self.top_keys) == KEYS_KEPT else ""
        return f"the keys at its top are: {', '.join(self.top_keys) or 'none'}{more}"

    def _follow(self, events: ijson.sendable_list) -> None:
        levels = 0 if self.found else len(self._keys)
        for name, value in events:
            if name == "map_key":
                if self.depth == 1:
                    self._count_key(cast("str", value))
                if self.depth <= levels:
                    self._keys[self.depth - 1] = cast("str", value)
                continue
            if self.depth == levels and not name.startswith("end_"):
                self._compare(name)
            if name in STEPS:
                if self.depth < levels:
                    # An array has no keys, and an object has not named one yet.
                    self._keys[self.depth] = None  # mutant: no path has an empty key
                self.depth += STEPS[name]
                if self.depth > MAX_DEPTH:
                    raise too_deep()

    def _count_key(self, key: str) -> None:
        if not self.found and len(self.top_keys) < KEYS_KEPT:
            self.top_keys.append(key)
        self._keys_seen += 1
        if self._keys_seen > MAX_KEYS:
            raise DecodeError(f"the body has more than {MAX_KEYS:,} keys; {self.describe_keys()}")

    def _compare(self, name: str) -> None:
        """Check whether the value that begins with event ``name`` is at the path."""
        keys = tuple(self._keys)
        if keys not in self._paths:
            return
        if name in self._openings:
            self.found = cast("tuple[str, ...]", keys)
        else:
            self.found_instead = _NAMES.get(name, f"a {name}")


# A string, to skip it; or what may open the items. An array in an object follows a colon, which may have been the
# end of the piece before.
_OPENING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?:\A|:)[ \t\r\n]*+[\[{]', re.DOTALL)
_NAMES = {"start_map": "an object", "start_array": "an array", "null": "null"}

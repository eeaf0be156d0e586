"""Splits the array of items with ijson, which reads every byte: slow, but built on documented behaviour only."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from .array_parser import COMMA_OR_END, ITEM, ITEM_OR_END, KEY_COLON, ArrayParser
from .item_collector import ItemCollector
from .lexer import NestingTracker, for_ijson

T = TypeVar("T")


class IjsonArrayParser(ArrayParser[T]):
    """Read item by item. Where a bracket may close an item, ijson's event and depth tell whether it does."""

    def __init__(self, collector: ItemCollector[T], *, keyed: bool, max_item_bytes: int) -> None:
        super().__init__(collector, keyed=keyed, max_item_bytes=max_item_bytes)
        self._tracker = NestingTracker()  # of the array alone, so the depth between items is 1
        self._tracker.send(self.brackets[:1])
        # The piece that is being read, as ijson takes it; and how much of it the tracker has.
        self._readable = b""  # mutant: `feed` sets it
        self._sent = 0  # mutant: `feed` sets it
        self._container: _Container | None = None  # the item is an object or array, and not complete yet
        self._parts: list[bytes] = []  # of the container that is not complete yet
        self._keys: list[bytes] = []  # of the items that are complete and not decoded yet
        self._size = 0

    def check_cut(self) -> None:
        self._tracker.is_complete()

    def feed(self, chunk: bytes, *, end: bool) -> list[T]:
        piece = self._tracker.splitter.cut(chunk)
        self._readable = for_ijson(piece)
        done: list[bytes] = []
        at = start = self._sent = 0
        while at < len(piece):  # mutant: at its end there is nothing to do
            if self._container is None:
                start = self._skip_to_value(piece, at, len(done))
                if self.rest is not None:
                    self.rest += self._tracker.splitter.rest()
                    return self._read(done)
                if start == len(piece):
                    break
                at = start
                self._container = _CONTAINERS.get(piece[start])
                if self._container is None:
                    at = self._skip_token(piece, start, len(done))
            if self._container is not None:
                at = self._find_end(piece, at, self._container)
                if at < 0:  # mutant: it cannot end at 0
                    break
            self._complete(piece[start:at], done)
        self._tracker.send(self._readable[self._sent :])
        if self._container is not None:
            self._parts.append(piece[start:])
            self._size += len(piece) - start
        if self._size + self._tracker.splitter.held_bytes > self._max_item_bytes:
            raise self._collector.too_large(self._max_item_bytes, len(done))
        return self._read(done)

    def _skip_token(self, piece: bytes, at: int, ahead: int) -> int:
        """Return where the string, number or word at ``at`` ends."""
        token = _TOKEN.match(piece, at)
        if token is None:
            raise self._collector.malformed("the item is not JSON", piece[at:], ahead)
        return token.end()

    def _find_end(self, piece: bytes, at: int, container: _Container) -> int:
        """Return where ``container`` ends, or -1 if that has not arrived yet."""
        up_to_bracket, event = container
        while match := up_to_bracket.match(piece, at):
            at = match.end()
            self._tracker.send(self._readable[self._sent : at])
            self._sent = at
            if self._tracker.last_event == event and self._tracker.depth == 1:
                self._container = None
                return at
        return -1  # mutant: any negative number

    def _complete(self, part: bytes, done: list[bytes]) -> None:
        """Take the last part of a key or value; values go to ``done``."""
        if self._size + len(part) > self._max_item_bytes:
            raise self._collector.too_large(self._max_item_bytes, len(done))
        if self._keyed and self._expected in (ITEM_OR_END, ITEM):
            self._expected = KEY_COLON
            if self._collector.keeps_keys:
                self._keys.append(part)  # whole, as every string is
        else:
            self._expected = COMMA_OR_END
            done.append(b"".join((*self._parts, part)))
        self._parts.clear()
        self._size = 0

    def _read(self, done: list[bytes]) -> list[T]:
        if not done:
            return []
        keys, self._keys = self._keys[: len(done)], self._keys[len(done) :]
        array_of_keys = b"[%b]" % b",".join(keys) if keys else b""  # mutant: [] is as good as nothing
        try:
            return self._collector.read_array(b"[%b]" % b",".join(done), array_of_keys)
        except msgspec.DecodeError as error:
            raise self._collector.malformed(f"not JSON: {error}", done[0]) from error


_Container = tuple[re.Pattern[bytes], str]

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^"{}\[\],: \t\r\n]++', re.DOTALL)
# Matches up to the next closing bracket outside of strings; and ijson's event for that bracket.
_CONTAINERS: dict[int, _Container] = {
    ord("{"): (re.compile(rb'[^"}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"}]*+)*+\}', re.DOTALL), "end_map"),
    ord("["): (re.compile(rb'[^"\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\]]*+)*+\]', re.DOTALL), "end_array"),
}

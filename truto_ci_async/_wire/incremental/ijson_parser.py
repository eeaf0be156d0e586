"""Splits an array into items with ijson."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

import msgspec

from .array_scanner import COLON, COMMA, QUOTE, SPACE, Scanner
from .fast_parser import AFTER, FIRST, ITEM, NAMED, VALUE
from .item_collector import ItemCollector
from .lexer import JsonTokenSplitter

T = TypeVar("T")


class IjsonArrayParser(Generic[T]):
    """Read item by item; ijson tells which closing bracket is an item's own."""

    def __init__(self, tally: ItemCollector[T], scanner: Scanner, keyed: bool, max_item_bytes: int) -> None:
        self.rest: bytes | None = None
        self._tally = tally
        self._scanner = scanner
        self._keyed = keyed
        self._closer = b"}" if keyed else b"]"
        self._max_item_bytes = max_item_bytes
        self._cutter = JsonTokenSplitter()
        self._depth = scanner.depth
        self._state = FIRST
        self._ends: re.Pattern[bytes] | None = None  # inside an object or array: up to where it may end
        self._event = ""  # and what ijson says when it does
        self._parts: list[bytes] = []  # of the item that is not complete yet
        self._size = 0

    def ends(self) -> bool:
        self._scanner.send(self._cutter.rest())
        return self._scanner.ends()

    def take(self, chunk: bytes, *, end: bool = False) -> list[T]:
        piece = self._cutter.cut(chunk)
        done: list[bytes] = []
        at = sent = start = 0
        while True:
            if self._ends is None:
                at = start = self._enter(piece, at, len(done))
                if self.rest is not None:
                    self._scanner.send(piece[sent : at + 1])
                    self.rest += self._cutter.rest()
                    return self._read(done)
                if at == len(piece):
                    break
                at += 1
                self._ends, self._event = _BRACKETS.get(piece[start], (None, ""))
                if self._ends is None:
                    at = self._token(piece, start, len(done))
            if self._ends is not None:
                match = self._ends.match(piece, at)
                if match is None:
                    break
                at = match.end()
                self._scanner.send(piece[sent:at])
                sent = at
                if self._scanner.last != self._event or self._scanner.depth != self._depth:
                    continue
                self._ends = None
            self._hold(piece[start:at], len(done))
            if self._keyed and self._state in (FIRST, ITEM):
                self._state = NAMED
            else:
                self._state = AFTER
                done.append(b"".join(self._parts))
            self._parts.clear()
            self._size = 0
        self._scanner.send(piece[sent:])
        if self._ends is not None:
            self._hold(piece[start:], len(done))
        if self._size + self._cutter.held_bytes > self._max_item_bytes:
            raise self._tally.too_large(self._max_item_bytes, len(done))
        return self._read(done)

    def _enter(self, piece: bytes, at: int, count: int) -> int:
        """Go from ``at`` to where the next key or value begins; sets ``rest`` if the end comes in its place."""
        while True:
            at = SPACE.match(piece, at).end()  # type: ignore[union-attr]
            if at == len(piece):
                return at
            byte = piece[at]
            if self._state in (FIRST, AFTER) and byte == self._closer[0]:
                self.rest = piece[at + 1 :]
                return at
            if self._state == AFTER and byte == COMMA:
                self._state = ITEM
            elif self._state == NAMED and byte == COLON:
                self._state = VALUE
            else:
                break
            at += 1
        is_key = self._keyed and self._state in (FIRST, ITEM)
        if self._state in (AFTER, NAMED) or (is_key and byte != QUOTE):
            raise self._tally.malformed(f"unexpected {chr(byte)!r} between items", piece[at:], count)
        return at

    def _token(self, piece: bytes, at: int, count: int) -> int:
        """Return where the string, number or word at ``at`` ends."""
        token = _TOKEN.match(piece, at)
        if token is None:
            raise self._tally.malformed("the item is not JSON", piece[at:], count)
        return token.end()

    def _hold(self, part: bytes, count: int) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._max_item_bytes:
            raise self._tally.too_large(self._max_item_bytes, count)

    def _read(self, done: list[bytes]) -> list[T]:
        if not done:
            return []
        try:
            return self._tally.read(b"".join((b"[", b",".join(done), b"]")))
        except msgspec.DecodeError as error:
            raise self._tally.malformed(f"not JSON: {error}", done[0]) from error


_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^"{}\[\],: \t\r\n]++', re.DOTALL)
# Up to the next closing bracket, past whole strings; and ijson's event for it.
_BRACKETS = {
    ord("{"): (re.compile(rb'[^"}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"}]*+)*+\}', re.DOTALL), "end_map"),
    ord("["): (re.compile(rb'[^"\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\]]*+)*+\]', re.DOTALL), "end_array"),
}

"""Where the items of an array begin and end, in bytes that arrive: a scanner to find the array, lanes to walk it.

How it works. What the bulk lane holds always begins at an item.

- It guesses where the last whole item ends, from what stood between items before, and decodes ``[text]`` with
  the typed decoder. The text begins at an item, and what follows the cut shows that its last token is
  complete; so if it decodes, the cut was true.
- If not, it walks from item to item: msgspec's decoder, told to skip one value, stops at the first character
  after it and names the place in its error. That is exact, runs at over 1 GB/s, and finds the array's end.
- After failed guesses in a row it walks ever more batches before it guesses again, and an incomplete item is
  looked at again only when twice as much is there. So no input, however hostile, costs more than linear time.

The ijson lane has ijson read every byte and is many times slower. It serves where msgspec's message should
ever change, and as a check on the first: both give the same answers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw

from truto_ci_async._json import EXCERPT_BYTES

from .array_scanner import COLON, COMMA, QUOTE, SPACE, WHITE, Scanner
from .item_collector import ItemCollector, logger
from .lexer import is_cut

T = TypeVar("T")


# Items walked before the first guess.
LEARN_FROM = 16
# The longest separator looked for: what is longer (much white space) would make the search itself slow.
SEPARATOR_BYTES = 96


# What may come next among the items: one, or their end; one; a comma, or their end. And under key_by, where an
# item is its key and value: the colon after a key; the value.
FIRST, ITEM, AFTER, NAMED, VALUE = range(5)


class FastArrayParser(Generic[T]):
    """Guess where the last whole item ends, or walk there; see the top of this file."""

    def __init__(self, tally: ItemCollector[T], scanner: Scanner, keyed: bool, max_item_bytes: int) -> None:
        self.rest: bytes | None = None
        self._tally = tally
        self._scanner = scanner
        self._keyed = keyed
        self._closer = b"}" if keyed else b"]"
        self._max_item_bytes = max_item_bytes
        # What an incomplete item may take: under key_by its key too, and white space between the two.
        self._max_held = max_item_bytes if not keyed else 2 * max_item_bytes + 1024
        self._state = FIRST
        self._parts: list[bytes] = []
        self._size = 0
        self._enough = 0  # bytes to have before looking again
        self._separator = b""  # what stood between items, with _keep bytes of the item before it
        self._keep = 0
        self._failures = 0
        self._walks = 0  # batches to walk before the next guess
        self._stuck = False  # inside an item larger than all that is held: no use guessing
        self._walked = 0  # items walked over and not yet read

    def ends(self) -> bool:
        held = b"".join(self._parts)
        if not is_cut(b"{" if self._keyed else b"[", held):
            raise self._tally.malformed("the item is not JSON", held)
        return False

    def take(self, chunk: bytes, *, end: bool = False) -> list[T]:
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._size < self._enough and not end:
            return []
        text = b"".join(self._parts)
        items: list[T] = []
        at = self._advance(text, 0)
        if not self._separator and not self._keyed:
            items, at = self._walk(text, at, LEARN_FROM)
        if self._walks:
            self._walks -= 1
        elif self._separator and self._state == ITEM and not self._stuck:
            found, at = self._guess(text, at)
            items += found
        if self._separator or self._keyed:
            found, at = self._walk(text, at)
            items += found
        self._stuck = not items
        if self.rest is None:
            self._hold(text[at:])
        else:
            self._parts.clear()
            self._scanner.send(self._closer)
        return items

    def _hold(self, text: bytes) -> None:
        """Keep the beginning of an item until twice as much is there, or just more than an item may have."""
        self._parts = [text]
        self._size = len(text)
        if self._size > self._max_held:
            raise self._tally.too_large(self._max_item_bytes)
        self._enough = min(2 * self._size, self._max_held + 1)

    def _advance(self, text: bytes, at: int) -> int:
        """Go from ``at`` to where the next item begins; sets ``rest`` if the end comes in its place."""
        while True:
            at = SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches always
            if at == len(text):
                return at
            byte = text[at]
            if self._state == AFTER and byte == COMMA:
                self._state = ITEM
                at += 1
            elif self._state != ITEM and byte == self._closer[0]:
                self.rest = text[at + 1 :]
                return at
            elif self._state == AFTER:
                what = f"expected a comma or {self._closer.decode()} after an item, got {chr(byte)!r}"
                raise self._tally.malformed(what, text[at : at + EXCERPT_BYTES], self._walked)
            else:
                return at

    def _guess(self, text: bytes, at: int) -> tuple[list[T], int]:
        """Read up to the right-most separator at once, and return the items and where they end."""
        found = text.rfind(self._separator, at)
        cut = found + self._keep
        if found < 0 or cut == at or cut - at > self._max_item_bytes:
            return [], at
        try:
            items = self._tally.read(b"".join((b"[", memoryview(text)[at:cut], b"]")))
        except msgspec.DecodeError:
            self._failures += 1
            self._walks = 2 ** min(self._failures, 6)
            return [], at
        self._failures = 0
        self._state = AFTER
        return items, self._advance(text, cut)

    def _walk(self, text: bytes, at: int, most: int = sys.maxsize) -> tuple[list[T], int]:
        """Read items one after the other, at most ``most``, and return them and where they end."""
        view = memoryview(text)
        spans: list[memoryview] = []
        last = before = (at, at)
        first = at
        while at < len(text) and self.rest is None and self._walked < most:
            start = self._value(view, at) if self._keyed else at
            if start < 0 or (end := self._end(view, start)) < 0:
                break
            before, last = last, (start, end)
            if self._keyed:
                spans.append(view[start:end])
            self._walked += 1
            self._state = AFTER
            at = self._advance(text, end)
        if not self._walked:
            return [], at
        if not self._keyed:
            spans = [view[first : last[1]]]
            if self._walked > 1:
                self._learn(text, before, last)
        self._walked = 0
        try:
            return self._tally.read(b"".join((b"[", b",".join(spans), b"]"))), at
        except msgspec.DecodeError as error:
            raise self._tally.malformed(f"not JSON: {error}", view[first:]) from error

    def _value(self, view: memoryview, at: int) -> int:
        """Return where the value of the key at ``at`` begins, or -1 if that is not there yet."""
        if view[at] != QUOTE:
            raise self._tally.malformed("expected a key", view[at:], self._walked)
        colon = self._end(view, at)
        if colon < 0 or colon == len(view):
            return -1
        if view[colon] != COLON:
            raise self._tally.malformed("expected a colon", view[at:], self._walked)
        start = SPACE.match(view, colon + 1).end()  # type: ignore[union-attr]
        return start if start < len(view) else -1

    def _end(self, view: memoryview, start: int) -> int:
        """Return where what follows the value at ``start`` begins, or -1 if the value is not complete."""
        rest = view[start:]
        try:
            length = _length(rest)
        except RecursionError:
            raise self._tally.malformed("nested too deep to decode", rest, self._walked) from None
        if length == _INCOMPLETE:
            if len(rest) > self._max_item_bytes:
                raise self._tally.too_large(self._max_item_bytes, self._walked)
            return -1
        if length == _MALFORMED:
            raise self._tally.malformed("the item is not JSON", rest, self._walked)
        if length > self._max_item_bytes and len(bytes(rest[:length]).rstrip(WHITE)) > self._max_item_bytes:
            raise self._tally.too_large(self._max_item_bytes, self._walked)
        return start + length

    def _learn(self, text: bytes, one: tuple[int, int], two: tuple[int, int]) -> None:
        """Remember what stands between two items: how both end, the comma, and how both begin."""
        tail = text[max(one[0], one[1] - 64) : one[1]]
        start = one[1] - len(tail)
        tail = tail.rstrip(WHITE)
        start += len(tail)
        other = text[max(two[0], two[1] - 64) : two[1]].rstrip(WHITE)
        ending = _ENDING.search(tail)
        same = ending[0][-32:] if ending else b""
        while not other.endswith(same):
            same = same[1:]
        beginning = _BEGINNING.match(text, two[0])
        end = two[0]
        if beginning is not None:
            end = beginning.end() if text.startswith(beginning[0], one[0]) else end + 1
        self._separator, self._keep = same + text[start:end], len(same)
        if len(self._separator) > SEPARATOR_BYTES:
            self._separator, self._keep = b",", 0


# The brackets that end an item, and what begins one: an object up to its first colon if that key is short.
# A token that ends in one of the first, or with the comma or white space after it, is complete.
_ENDING = re.compile(rb'[}\]" \t\r\n]+\Z')
_BEGINNING = re.compile(rb'\{[ \t\r\n]{0,40}"[^"\\]{0,40}"[ \t\r\n]{0,8}:|[{\["]')

_skim: Callable[[memoryview], object] = msgspec.json.Decoder(Raw).decode
_TRAILING = "JSON is malformed: trailing characters (byte "
_PLACE_NAMED = re.compile(r"\(byte (\d+)\)$")
_INCOMPLETE, _MALFORMED = -1, -2
# A text that ends inside a token is called malformed too, at most this far from its end.
_TOKEN_BYTES = 16


def _length(text: memoryview) -> int:
    """Return how far the JSON value that ``text`` begins with reaches, white space after it included.

    _INCOMPLETE: there may be more of it to come. _MALFORMED: no bytes to come can make it JSON.

    :raises RecursionError: it is nested too deep.
    """
    try:
        _skim(text)
    except msgspec.DecodeError as error:
        message = str(error)
        if message.startswith(_TRAILING):
            return int(message[len(_TRAILING) : -1]) - 1
        place = _PLACE_NAMED.search(message)
        if place is not None and int(place[1]) + _TOKEN_BYTES < len(text):
            return _MALFORMED
        return _INCOMPLETE
    last = text[-1]
    return len(text) if last in b'}]" \t\r\n' else _INCOMPLETE


def check_finder() -> bool:
    """Tell whether msgspec still names the place after a value the way ``_length`` reads it."""
    samples = ((b'{"a": [1]},', 10), (b"[1] ]", 4), (b'"a" :', 4), (b"-1.5e3,", 6), (b"[1", _INCOMPLETE))
    try:
        works = all(_length(memoryview(text)) == length for text, length in samples)
    except ValueError:
        works = False
    if not works:
        logger.warning("msgspec %s is not known to this package: streaming is slower", msgspec.__version__)
    return works


FINDER_WORKS = check_finder()

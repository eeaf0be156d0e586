"""Splits the array of items with msgspec alone, at close to the speed of decoding it whole.

How it works. The bytes held back always begin at an item.

- Guess: the parser takes the right-most separator, as it stood between earlier items, for the end of an item, and
  decodes everything before it as one array. The text begins at an item, and the separator shows that its last token is
  complete, so if it decodes, the guess was right.
- Walk: if not, it goes from item to item. A msgspec decoder that skips one value fails at the first character after
  it, and its error names that offset. This is exact, runs at over 1 GB/s, and finds the end of the array.
  - A lone surrogate, which msgspec refuses, is replaced in the text that is walked over. The items are taken from the
  original text: the collector replaces it there too, and reports where it was.
- Each failed guess doubles the number of batches that are only walked before the next guess, up to 64. An incomplete
  item is looked at again only when twice as many bytes have arrived. So no input takes more than linear time.

`IjsonArrayParser` gives the same items many times more slowly. It is used if msgspec ever changes that message, and
to test this one.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec import Raw

from truto_ci_async._json import replace_surrogates

from .array_parser import COLON, COMMA_OR_END, ITEM, SPACE, WHITE, ArrayParser
from .item_collector import ItemCollector
from .lexer import is_cut

T = TypeVar("T")

# Items walked before the first guess.
LEARN_FROM = 16
# Longest separator searched for. With more white space than that the search itself would be slow.
SEPARATOR_BYTES = 96

logger = logging.getLogger("truto_ci_async")


class FastArrayParser(ArrayParser[T]):
    """Guess where the last complete item ends, or walk there; see the top of this file."""

    def __init__(self, collector: ItemCollector[T], *, keyed: bool, max_item_bytes: int) -> None:
        super().__init__(collector, keyed=keyed, max_item_bytes=max_item_bytes)
        # The most that is held: an item, and in a keyed object its key and the white space between the two.
        self._max_held = max_item_bytes if not keyed else 2 * max_item_bytes + 1024
        self._parts: list[bytes] = []
        self._size = 0  # mutant: looked at only after `_hold` has set it
        # How many bytes to hold before looking at them again.
        self._enough = 0  # mutant: 1 is as good
        # What came between two items, after the last _keep bytes of the first.
        self._separator = b""  # mutant: None is as good
        self._keep = 0  # mutant: set with the separator
        self._failures = 0  # failed guesses in a row
        # Batches to walk before the next guess.
        self._walks_left = 0  # mutant: None is as good
        # The last batch completed no item, so a guess would fail.
        self._in_large_item = False  # mutant: None is as good
        self._walked = 0  # items walked over and not decoded yet
        # The text to walk over, with lone surrogates replaced once one was met.
        self._view = memoryview(b"")  # mutant: `_walk` sets it

    def check_cut(self) -> None:
        if not is_cut(self.brackets[:1], *self._parts):
            text = b"".join(self._parts)  # mutant: a flush has joined them
            raise self._collector.malformed("the item is not JSON", text)

    def feed(self, chunk: bytes, *, end: bool) -> list[T]:
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._size < self._enough and not end:
            return []
        text = b"".join(self._parts)
        items: list[T] = []
        before = self._collector.index
        at = self._skip_to_value(text, 0)
        if not self._separator and not self._keyed:
            items, at = self._walk(text, at, LEARN_FROM)
        if self._walks_left:
            self._walks_left -= 1
        elif self._separator and self._expected == ITEM and not self._in_large_item:
            found, at = self._guess(text, at)
            items += found
        if self._separator or self._keyed:
            found, at = self._walk(text, at)
            items += found
        self._in_large_item = self._collector.index == before
        self._hold(text[at:] if self.rest is None else b"")  # mutant: nothing looks at b""
        return items

    def _hold(self, text: bytes) -> None:
        """Keep the beginning of an item until twice as much has arrived, or more than an item may have."""
        self._parts = [text]
        self._size = len(text)
        if self._size > self._max_held:
            raise self._collector.too_large(self._max_item_bytes)
        self._enough = min(2 * self._size, self._max_held + 1)

    def _guess(self, text: bytes, at: int) -> tuple[list[T], int]:
        """Decode up to the right-most separator; return the items, and where the next one begins."""
        found = text.rfind(self._separator, at)
        end = found + self._keep
        if found < 0 or end == at or end - at > self._max_item_bytes:  # mutant: fewer guesses, the same items
            return [], at
        try:
            items = self._collector.read_array(b"".join((b"[", memoryview(text)[at:end], b"]")))
        except msgspec.DecodeError:
            self._failures += 1  # mutant: another time until the next guess
            self._walks_left = 2 ** min(self._failures, 6)  # mutant: another time until the next guess
            return [], at
        self._failures = 0
        self._expected = COMMA_OR_END
        return items, self._skip_to_value(text, end)

    def _walk(self, text: bytes, at: int, most: int = sys.maxsize) -> tuple[list[T], int]:
        """Decode at most ``most`` items one by one; return them, and where the next one begins."""
        view = self._view = memoryview(text)
        keys: list[memoryview] = []
        values: list[memoryview] = []
        last = before = (at, at)  # mutant: not read before an item sets them
        first = at
        while at < len(text) and self.rest is None and self._walked < most:  # mutant: one more is as good
            start = self._find_value(at) if self._keyed else at
            if start == INCOMPLETE or (end := self._find_end(start)) == INCOMPLETE:
                break
            before, last = last, (start, end)
            if self._keyed:
                keys.append(view[at:start])
                values.append(view[start:end])
            self._walked += 1
            self._expected = COMMA_OR_END
            at = self._skip_to_value(text, end, self._walked)
        self._view = memoryview(b"")  # mutant: only lets go of the text
        if not self._walked:
            return [], at
        if not self._keyed:
            values = [view[first : last[1]]]
            if self._walked > 1:
                self._learn_separator(text, before, last)
        self._walked = 0
        try:
            return self._collector.read_array(_array(values), self._keys_array(keys)), at
        except msgspec.DecodeError as error:
            raise self._collector.malformed(f"not JSON: {error}", view[first:]) from error

    def _keys_array(self, keys: list[memoryview]) -> bytes:
        """Join keys, each with its colon, as an array, if anyone wants them."""
        if not keys or not self._collector.keeps_keys:
            return b""
        return _array([bytes(key).rstrip(WHITE)[:-1] for key in keys])  # mutant: other bytes were refused

    def _find_value(self, at: int) -> int:
        """Return where the value of the key at ``at`` begins, or INCOMPLETE if its colon has not arrived yet."""
        colon = self._find_end(at)
        if colon in (INCOMPLETE, len(self._view)):
            return INCOMPLETE
        if self._view[colon] != COLON:
            what = f"expected a colon after a key, got {chr(self._view[colon])!r}"
            raise self._collector.malformed(what, self._view[colon:], self._walked)
        return SPACE.match(self._view, colon + 1).end()  # type: ignore[union-attr]

    def _find_end(self, start: int) -> int:
        """Return where the value at ``start`` and the white space after it end, or INCOMPLETE."""
        rest = self._view[start:]
        try:
            length = value_length(rest)
            if length < 0:  # mutant: it is never 0
                text = bytes(rest)
                fixed = replace_surrogates(text)
                if fixed is not text:
                    self._view = memoryview(b"".join((self._view[:start], fixed)))
                    rest = self._view[start:]
                    length = value_length(rest)
        except RecursionError:
            raise self._collector.malformed("nested too deep to decode", rest, self._walked) from None
        if length == MALFORMED:
            raise self._collector.malformed("the item is not JSON", rest, self._walked)
        if length == INCOMPLETE:
            too_large = len(rest) > self._max_item_bytes
        else:
            # The white space after an item is not counted, but stripping copies, so only do that if it matters.
            most = self._max_item_bytes
            too_large = length > most < len(bytes(rest[:length]).rstrip(WHITE))  # mutant: >= is the same
        if too_large:
            raise self._collector.too_large(self._max_item_bytes, self._walked)
        return INCOMPLETE if length == INCOMPLETE else start + length

    def _learn_separator(self, text: bytes, one: tuple[int, int], two: tuple[int, int]) -> None:
        """Remember what comes between two items: how both end, the comma, and how both begin."""
        ending, other = (_ENDING.search(text, max(start, end - 64), end) for start, end in (one, two))
        assert ending is not None
        assert other is not None
        same = ending[1][-32:]
        while not text.endswith(same, two[0], other.end(1)):  # mutant: no ending goes back over the comma
            same = same[1:]
        beginning = _BEGINNING.match(text, two[0])
        end = two[0]
        if beginning is not None:
            end = beginning.end() if text.startswith(beginning[0], one[0]) else end + 1
        self._separator, self._keep = same + text[ending.end(1) : end], len(same)
        if len(self._separator) > SEPARATOR_BYTES:
            self._separator, self._keep = b",", 0


def _array(parts: Sequence[bytes | memoryview]) -> bytes:
    return b"".join((b"[", b",".join(parts), b"]"))


# The brackets and quotes that end an item, before white space. And how an item begins: an object up to its first
# colon, if that key is short. A token that is followed by a bracket, a quote, a comma or white space is complete.
_ENDING = re.compile(rb'([}\]" \t\r\n]*?)[ \t\r\n]*\Z')
_BEGINNING = re.compile(rb'\{[ \t\r\n]{0,40}"[^"\\]{0,40}"[ \t\r\n]{0,8}:|[{\["]')

_skip_value: Callable[[memoryview], object] = msgspec.json.Decoder(Raw).decode
_TRAILING = "JSON is malformed: trailing characters (byte "
_OFFSET = re.compile(r"\(byte (\d+)\)$")
INCOMPLETE, MALFORMED = -1, -2
# msgspec also calls text malformed that ends inside a token. The offset it names is then this close to the end.
_TOKEN_BYTES = 16


def value_length(text: memoryview) -> int:
    """Return the length of the JSON value that ``text`` begins with, including the white space after it.

    INCOMPLETE: more of it may follow. MALFORMED: no further bytes can make it JSON.

    :raises RecursionError: it is nested too deep.
    """
    try:
        _skip_value(text)
    except msgspec.DecodeError as error:
        message = str(error)
        if message.startswith(_TRAILING):
            return int(message[len(_TRAILING) : -1]) - 1
        offset = _OFFSET.search(message)
        if offset is not None and int(offset[1]) + _TOKEN_BYTES < len(text):
            return MALFORMED
        return INCOMPLETE
    # More digits of a number may follow.
    return len(text) if text[-1] in b'}]" \t\r\n' else INCOMPLETE  # mutant: no JSON ends in an X


def check_msgspec() -> bool:
    """Tell whether msgspec's messages still name offsets the way ``value_length`` reads them."""
    samples = (
        (b'{"a": [1]},', 10),  # mutant: any key
        (b"[1] ]", 4),
        (b'"a" :', 4),  # mutant: any text
        (b"-1.5e3,", 6),  # mutant: a large E too
        (b"[1", INCOMPLETE),  # mutant: what is wrong so close to the end is incomplete too
    )
    try:
        works = all(value_length(memoryview(text)) == length for text, length in samples)
    except ValueError:
        works = False
    if not works:
        logger.warning(
            "msgspec %s has error messages unknown to us: streaming is slower", msgspec.__version__
        )
    return works


FAST_PARSER_WORKS = check_msgspec()

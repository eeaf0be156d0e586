"""What both parsers of the item array share: their interface, and what may come between two items."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from truto_ci_async.errors import DecodeError

from .item_collector import ItemCollector

T = TypeVar("T")

SPACE = re.compile(rb"[ \t\r\n]*")
WHITE = b" \t\r\n"
COMMA, COLON, QUOTE = b',:"'

# What the parser expects next. In a keyed object an item is a key, a colon and a value.
ITEM_OR_END, ITEM, COMMA_OR_END, KEY_COLON, KEY_VALUE = range(5)


class ArrayParser(Generic[T]):
    """Split what follows the opening bracket of the items, and decode them.

    With ``keyed`` the items are the values of an object. ``rest`` is what followed the closing bracket, and None as
    long as that has not arrived.
    """

    def __init__(self, collector: ItemCollector[T], *, keyed: bool, max_item_bytes: int) -> None:
        self.rest: bytes | None = None
        self.brackets = b"{}" if keyed else b"[]"
        self._collector = collector
        self._keyed = keyed
        self._max_item_bytes = max_item_bytes
        self._expected = ITEM_OR_END

    def feed(self, chunk: bytes, *, end: bool) -> list[T]:  # pragma: no mutate - abstract
        """Return the items that ``chunk`` completes. ``end`` says that no chunk will follow."""
        raise NotImplementedError

    def check_cut(self) -> None:
        """Check the beginning of an item that is held when the body ends too early.

        :raises DecodeError: no further bytes could make it JSON.
        """
        raise NotImplementedError

    def _skip_to_value(self, text: bytes, at: int, ahead: int = 0) -> int:
        """Return where the next key or value begins after ``at``.

        That is ``len(text)`` if it has not arrived. At the end of the items ``rest`` is set.
        """
        expected = self._expected
        while True:
            at = SPACE.match(text, at).end()  # type: ignore[union-attr]  # always matches
            if at == len(text):
                break
            byte = text[at]
            if expected == COMMA_OR_END and byte == COMMA:
                expected = ITEM
            elif expected == KEY_COLON and byte == COLON:
                expected = KEY_VALUE
            elif expected in (ITEM_OR_END, COMMA_OR_END) and byte == self.brackets[1]:
                self.rest = text[at + 1 :]
                break
            elif expected in (COMMA_OR_END, KEY_COLON):
                what = "a colon after a key" if expected == KEY_COLON else "a comma or the end after an item"
                raise self._unexpected(what, text, at, ahead)
            elif self._keyed and expected != KEY_VALUE and byte != QUOTE:
                raise self._unexpected("a key", text, at, ahead)
            else:
                break
            at += 1
        self._expected = expected
        return at

    def _unexpected(self, what: str, text: bytes, at: int, ahead: int) -> DecodeError:
        return self._collector.malformed(f"expected {what}, got {chr(text[at])!r}", text[at:], ahead)

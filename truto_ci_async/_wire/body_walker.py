"""Reads a body in steps of a few milliseconds, from one top-level key to the next.

`page_reader` uses this for what it cannot decode in one go: large and keyed bodies, invalid items, lone surrogates.
Only the items are decoded; the values around them are returned as they came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Generic, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import Raw

from truto_ci_async._json import EXCERPT_BYTES, check_utf8, decode_strictly, describe, replace_surrogates
from truto_ci_async.errors import DecodeError

from .incremental.array_parser import ArrayParser
from .incremental.array_scanner import MAX_KEYS
from .incremental.fast_parser import FAST_PARSER_WORKS, MALFORMED, FastArrayParser, value_length
from .incremental.ijson_parser import IjsonArrayParser
from .incremental.item_collector import ItemCollector
from .item_reader import ItemReader
from .repair import Note
from .surrogates import check_cursor, surrogate_notes

T = TypeVar("T")

KEYS_PER_STEP = 256
# Keys that may hold the items; the first one is taken if both are there.
ITEM_KEYS = ("result", "results")
# Bytes searched for lone surrogates, or checked for UTF-8, in one step.
SCAN_BYTES = 2**20

_SPACE = re.compile(rb"[ \t\r\n]*")
# A place where the text can be split: no escape, and no surrogate pair, continues past its end.
_NO_ESCAPE = re.compile(rb"[^\\]{13}")

_decode_object = msgspec.json.Decoder(dict[str, Raw])

Steps = Generator[None, None, T]


class Walked(NamedTuple, Generic[T]):
    """The parts of a body: its items, if there are any, and the JSON of every other key."""

    fields: dict[str, bytes]
    items: list[T] | None
    collector: ItemCollector[T]


class BodyWalker(Generic[T]):
    """Read one body step by step. ``size`` returns how many bytes of items to decode in the next step."""

    def __init__(self, body: bytes, reader: ItemReader[T], *, keyed: bool, size: Callable[[], int]) -> None:
        self.at_end = False  # the body is complete JSON
        self._body = body
        self._text = body  # from the first lone surrogate outside the items on, a copy without them
        self._reader = reader
        self._opening = b"{" if keyed else b"["
        self._size = size
        self._at = 0
        self._fields: dict[str, bytes] = {}
        self._items: dict[str, tuple[list[T], ItemCollector[T]]] = {}
        self._surrogates: dict[str, list[Note]] = {}  # replaced ones, by top-level key

    def walk(self) -> Steps[Walked[T]]:
        """Read the body.

        :raises DecodeError: it is not a JSON object, has too many keys, or has an invalid item and
            ``on_invalid="raise"``.
        """
        yield from self._check_utf8()
        if FAST_PARSER_WORKS:
            yield from self._read_members()
        else:
            yield from self._split()
        self.at_end = True
        name = next((name for name in ITEM_KEYS if name in self._fields), None)
        found = None if name is None else self._items.get(name)
        items, collector = found or (None, ItemCollector(self._reader, "$.result"))
        if name and found:
            del self._fields[name]
        for notes in self._surrogates.values():
            check_cursor(notes)
            collector.add_issues(notes, b"")
        return Walked(self._fields, items, collector)

    def _read_members(self) -> Steps[None]:
        self._skip_space()
        self._take(b"{")
        members = 0
        while self._next() != b"}" or members:
            yield from self._read_member()
            members += 1
            if members > MAX_KEYS:
                raise DecodeError(f"the body has more than {MAX_KEYS:,} keys", raw=self._body[:EXCERPT_BYTES])
            if members % KEYS_PER_STEP == 0:
                yield
            if self._next() == b"}":
                break
            self._take(b",")
        self._take(b"}")
        if self._at != len(self._body):
            self._refuse()

    def _read_member(self) -> Steps[None]:
        """Read a key and its value."""
        if self._next() != b'"':
            self._refuse()
        start = self._at
        yield from self._skip_value()
        key = msgspec.json.decode(self._text[start : self._at].rstrip())
        self._take(b":")
        self._items.pop(key, None)  # the last of two equal keys wins
        self._surrogates.pop(key, None)
        start = self._at
        if key in ITEM_KEYS and self._next() == self._opening:
            found, end = yield from self._read_items(self._body, start)
            self._at = end
            self._skip_space()
            self._items[key] = found
        else:
            yield from self._skip_value()
        raw = self._text[start : self._at].rstrip()
        self._fields[key] = raw
        if key not in self._items and self._text is not self._body:
            received = self._body[start : start + len(raw)]
            if received != raw:
                self._surrogates[key] = surrogate_notes(received, f"$.{key}")

    def _read_items(self, text: bytes, start: int) -> Steps[tuple[tuple[list[T], ItemCollector[T]], int]]:
        """Read the items that begin at ``start``; return them, and where they end."""
        keyed = self._opening == b"{"
        collector = ItemCollector(self._reader, "$.result", keeps_keys=keyed)
        make = FastArrayParser[T] if FAST_PARSER_WORKS else IjsonArrayParser[T]
        parser: ArrayParser[T] = make(collector, keyed=keyed, max_item_bytes=len(text))
        items: list[T] = []
        at = start + 1
        while parser.rest is None:
            if at >= len(text):
                self._refuse()
            end = min(at + self._size(), len(text))
            items += parser.feed(text[at:end], end=end == len(text))
            at = end
            yield
        return (items, collector), at - len(parser.rest)

    def _split(self) -> Steps[None]:
        """Split the body in one go, because msgspec does not say where its values end."""
        text = replace_surrogates(self._body)
        try:
            fields = decode_strictly(_decode_object, text)
        except msgspec.ValidationError:
            self._refuse()
        if text is not self._body:
            self._surrogates[""] = surrogate_notes(self._body, "$")
        self._fields = {key: bytes(raw) for key, raw in fields.items()}
        for key in ITEM_KEYS:
            if self._fields.get(key, b"").startswith(self._opening):
                self._items[key], _ = yield from self._read_items(self._fields[key], 0)

    def _skip_value(self) -> Steps[None]:
        """Move to the end of the value here, and of the white space after it."""
        length = self._value_length()
        if length < 0:
            yield from self._replace_surrogates()
            length = self._value_length()
        if length < 0 or self._at + length >= len(self._body):  # nothing closes the object
            self._refuse()
        if length > SCAN_BYTES:
            yield
        self._at += length

    def _value_length(self) -> int:
        rest = memoryview(self._text)[self._at :]
        if not rest:
            return MALFORMED
        try:
            return value_length(rest)
        except RecursionError:
            raise DecodeError(
                "the body is nested too deep to decode", raw=self._body[:EXCERPT_BYTES]
            ) from None

    def _replace_surrogates(self) -> Steps[None]:
        parts = [self._text[: self._at]]
        at = self._at
        while at < len(self._text):
            place = _NO_ESCAPE.search(self._text, at + SCAN_BYTES)
            end = place.end() if place else len(self._text)
            parts.append(replace_surrogates(self._text[at:end]))
            at = end
            yield
        self._text = b"".join(parts)

    def _check_utf8(self) -> Steps[None]:
        if len(self._body) <= SCAN_BYTES or self._body.isascii():
            check_utf8(self._body)
            return
        start = 0
        while start < len(self._body):
            end = start + SCAN_BYTES
            while end < len(self._body) and self._body[end] & 0xC0 == 0x80 and end < start + SCAN_BYTES + 4:
                end += 1  # not in the middle of a character
            check_utf8(self._body[start:end])
            start = end
            yield

    def _next(self) -> bytes:
        return self._body[self._at : self._at + 1]

    def _take(self, byte: bytes) -> None:
        """Move past ``byte`` and the white space after it."""
        if self._next() != byte:
            self._refuse()
        self._at += 1
        self._skip_space()

    def _skip_space(self) -> None:
        self._at = _SPACE.match(self._body, self._at).end()  # type: ignore[union-attr]  # always matches

    def _refuse(self) -> NoReturn:
        """Raise for a body that is not a JSON object."""
        excerpt = self._body[:EXCERPT_BYTES]
        try:
            decode_strictly(_decode_object, self._body if len(self._body) <= SCAN_BYTES else excerpt)
        except msgspec.ValidationError:
            raise DecodeError(
                f"expected a JSON object with a result: {describe(excerpt)}", raw=excerpt
            ) from None
        raise DecodeError(f"the body is not JSON: {describe(excerpt)}", raw=excerpt)

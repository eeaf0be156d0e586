"""Turns a body that arrives in chunks into typed items: `ItemDecoder` for one JSON object, `NdjsonDecoder` for lines.

How it works. `EnvelopeReader` gets the beginning of the body, until it finds the array of items. From there on an
`ArrayParser` gets the bytes, until the array ends. The `EnvelopeReader` gets the remainder; what it has kept is decoded
at the end as one document without its items.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar

from truto_ci_async._json import BYTE_ORDER_MARK
from truto_ci_async._wire.item_reader import MAX_ENVELOPE_BYTES, MAX_ITEM_BYTES, ItemReader
from truto_ci_async.errors import DecodeError, UsageError

from .array_parser import WHITE, ArrayParser
from .body_decoder import BodyDecoder
from .envelope import Envelope, EnvelopeReader
from .fast_parser import FAST_PARSER_WORKS, FastArrayParser
from .ijson_parser import IjsonArrayParser
from .item_collector import ItemCollector
from .lexer import is_cut

T = TypeVar("T")

Engine: TypeAlias = Literal["auto", "ijson"]


class ItemDecoder(BodyDecoder[T]):
    """Read the items of one body as it arrives.

        >>> decoder = ItemDecoder(ItemReader(dict))
        >>> decoder.feed(b'{"result": [{"id": 1}, {"id": 2}], "next'), decoder.feed(b'_cursor": "c"}')
        ([{'id': 1}, {'id': 2}], [])
        >>> decoder.flush(), decoder.close()
        ([], {'next_cursor': 'c'})

    ``path`` leads to the array through the keys of nested objects, joined by dots; the default accepts ``results``
    too. With ``key_by`` there may be an object instead, whose values are the items.

    A byte order mark is left out, and lone surrogates are replaced; each of those is an issue.

    The last of two equal keys wins, except on the way to the items: when the second one arrives, the items of the
    first have already been handed out, so that is a DecodeError. Nesting deeper than 512 may be refused.
    """

    def __init__(
        self,
        reader: ItemReader[T],
        *,
        path: str = "result",
        key_by: bool = False,
        engine: Engine = "auto",
        max_item_bytes: int = MAX_ITEM_BYTES,
        max_envelope_bytes: int = MAX_ENVELOPE_BYTES,
    ) -> None:
        if engine not in ("auto", "ijson"):
            raise UsageError(f"engine is 'auto' or 'ijson', not {engine!r}")
        super().__init__(ItemCollector(reader, f"$.{path}"), max_item_bytes=max_item_bytes)
        self.engine: Engine = engine if FAST_PARSER_WORKS else "ijson"
        self._envelope = EnvelopeReader(path, key_by=key_by, max_bytes=max_envelope_bytes)
        self._parser: ArrayParser[T] | None = None  # from the beginning of the items on

    def _read(self, chunk: bytes) -> list[T]:
        if self._parser is None:
            chunk = self._envelope.read_head(chunk)
            if not chunk:
                return []
            make = FastArrayParser[T] if self.engine == "auto" else IjsonArrayParser[T]
            self._parser = make(
                self._collector, keyed=chunk.startswith(b"{"), max_item_bytes=self._max_item_bytes
            )
            chunk = chunk[1:]
        if self._parser.rest is None:
            return self._read_items(self._parser, chunk)
        self._envelope.read_tail(chunk)
        return []

    def _read_items(self, parser: ArrayParser[T], chunk: bytes, *, end: bool = False) -> list[T]:
        items = parser.feed(chunk, end=end)
        if parser.rest is not None:
            self._envelope.end_items(parser.brackets[1:])
            self._envelope.read_tail(parser.rest)
        return items

    def _read_held(self) -> list[T]:
        if self._parser is None or self._parser.rest is not None:
            return []
        return self._read_items(self._parser, b"", end=True)

    def _read_envelope(self) -> Envelope:
        if self._parser is not None and self._parser.rest is None:
            self._parser.check_cut()
            raise self._truncated("the JSON")
        if not self._envelope.is_complete():
            raise self._truncated("the JSON")
        envelope = self._envelope.decode()
        if self._envelope.surrogates:
            self._collector.add_issues(self._envelope.surrogates, b"")
        return envelope


class NdjsonDecoder(BodyDecoder[T]):
    """Read a body with one JSON value per line as it arrives; the envelope is empty.

    Blank lines are skipped. A body that was cut between two lines cannot be told from a complete one.
    """

    def __init__(self, reader: ItemReader[T], *, max_item_bytes: int = MAX_ITEM_BYTES) -> None:
        super().__init__(ItemCollector(reader, "$"), max_item_bytes=max_item_bytes)
        self._parts: list[bytes] = []  # of the line that is not complete yet
        self._size = 0

    def _read(self, chunk: bytes) -> list[T]:
        first, *lines = chunk.split(b"\n")
        self._hold(first)
        items: list[T] = []
        for line in lines:
            items += self._read_line()
            self._hold(line)
        return items

    def _read_held(self) -> list[T]:
        last = b"".join(self._parts)
        try:
            return self._read_line()
        except DecodeError as error:
            if is_cut(last):
                raise self._truncated("the last line") from error
            raise

    def _read_envelope(self) -> Envelope:
        return {}

    def _hold(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_item_bytes:
            raise self._collector.too_large(self._max_item_bytes)
        if part:
            self._parts.append(part)

    def _read_line(self) -> list[T]:
        # Files that were joined have a mark in the middle.
        line = b"".join(self._parts).strip(WHITE).removeprefix(BYTE_ORDER_MARK)
        self._parts.clear()
        self._size = 0
        return self._collector.read_item(line) if line else []

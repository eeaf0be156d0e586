"""Items out of a huge body as it arrives: bytes are pushed in, typed items come out. Nothing here awaits.

How it works. ijson reads the body's head, in pieces that end where an array or object may begin, until it
stands at the item array; from there on a *lane* (``_lanes``) takes over until the array's end. What stood
before and after the array is kept, bounded, and decoded by msgspec as one document with the items left out.
"""

from __future__ import annotations

import codecs
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import msgspec

from truto_ci_async._json import EXCERPT_BYTES, describe
from truto_ci_async._wire.item_reader import MAX_ITEM_BYTES, ItemReader
from truto_ci_async.errors import BodyTooLargeError, DecodeError, TruncatedBodyError, UsageError
from truto_ci_async.models import Issue

from .array_scanner import WHITE, ArrayParser, Scanner
from .fast_parser import FINDER_WORKS, FastArrayParser
from .ijson_parser import IjsonArrayParser
from .item_collector import ISSUES_KEPT, ItemCollector
from .lexer import is_cut

T = TypeVar("T")

Engine: TypeAlias = Literal["auto", "ijson"]
Envelope: TypeAlias = dict[str, Any]

MAX_ENVELOPE_BYTES = 2**20
# Stands for the items when the envelope is decoded: if it is not found again, a second value took its place.
_PLACE = "\x00items"


class ItemDecoder(Generic[T]):
    """Read the items of one body as it arrives.

        >>> decoder = ItemDecoder(ItemReader(dict))
        >>> decoder.feed(b'{"result": [{"id": 1}, {"id": 2}], "next'), decoder.feed(b'_cursor": "c"}')
        ([{'id': 1}, {'id': 2}], [])
        >>> decoder.flush(), decoder.close()
        ([], {'next_cursor': 'c'})

    ``path`` leads to the array through the keys of nested objects, joined by dots; the default also takes
    ``results``. With ``key_by`` it may be an object too, whose values are the items. ``issues`` holds the
    first ``max_issues`` repairs (see ``ItemReader``; None: all), ``issues_count`` counts all. After an error the
    decoder is dead.

    The last of two equal keys wins everywhere but on the way to the items: those were handed out already when
    the second comes, so that is a DecodeError. Nesting deeper than 512 may be refused.
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
        max_issues: int | None = ISSUES_KEPT,
    ) -> None:
        if engine not in ("auto", "ijson"):
            raise UsageError(f"engine is 'auto' or 'ijson', not {engine!r}")
        keys = tuple(path.split("."))
        if not all(keys):
            raise UsageError(f"path is one key, or several joined by dots, not {path!r}")
        self.path = path
        self.engine: Engine = engine if FINDER_WORKS else "ijson"
        self.bytes_read = 0
        self.items_read = 0
        self._max_item_bytes = max_item_bytes
        self._max_envelope_bytes = max_envelope_bytes
        self._tally = ItemCollector(reader, f"$.{path}", max_issues=max_issues)
        self._utf8 = _Utf8()
        self._scanner = Scanner(keys, key_by=key_by)
        self._lane: ArrayParser[T] | None = None
        self._head = bytearray()
        self._tail = bytearray()
        self._stage: Literal["head", "items", "tail"] = "head"
        self._over = ""  # why nothing more can be fed

    @property
    def issues(self) -> list[Issue]:
        return self._tally.issues

    @property
    def issues_count(self) -> int:
        return self._tally.issues_count

    def feed(self, chunk: bytes) -> list[T]:
        """Take the next bytes of the body and return the items that are complete.

        It takes about as long as decoding ``chunk``, so slice what is larger than a few 100 KiB.

        :raises DecodeError: the body is not JSON, or (``on_invalid="raise"``) an item does not fit.
        :raises BodyTooLargeError: an item, or all that stands around the items, passed its bound.
        :raises UsageError: after an error, ``flush`` or ``close``.
        """
        self._check_open("feed")
        try:
            self._utf8.check(chunk, self.bytes_read)
            self.bytes_read += len(chunk)
            return self._handed(self._take(bytes(chunk)))
        except BaseException:
            self._over = "it failed"
            raise

    def flush(self) -> list[T]:
        """Return the items still held back, once the body has ended; ``close`` comes next.

        :raises DecodeError: as ``feed``. That a body ended early is told by ``close``.
        """
        self._check_open("flush")
        try:
            items = self._handed(self._take_items(b"", end=True) if self._stage == "items" else [])
        except BaseException:
            self._over = "it failed"
            raise
        self._over = "it was flushed"
        return items

    def close(self) -> Envelope:
        """Return what stood around the items, without them; the body has ended.

        :raises TruncatedBodyError: it ended early; ``items_read`` and ``bytes_read`` say where.
        :raises DecodeError: it is not JSON; has no array at ``path``; or none of its items could be kept.
        :raises UsageError: ``flush`` would have given items and was not called; or after an error.
        """
        if self._over != "it was flushed":
            self._check_open("close")
            if self.flush():
                raise UsageError("flush() gives the last items: call it before close()")
        self._over = "it was closed"
        if self.bytes_read == 0 or (self._stage == "head" and not self._head):
            raise DecodeError(f"the body is not JSON: {describe(b'')}")
        if not (self._lane.ends() if self._lane and self._stage == "items" else self._scanner.ends()):
            raise self._truncated()
        if self._stage == "head":
            raise self._missing()
        envelope = self._envelope()
        if self._tally.issues_count and not self.items_read:
            raise self._tally.none_fits()
        return envelope

    def _check_open(self, verb: str) -> None:
        if self._over:
            raise UsageError(f"cannot {verb} this decoder: {self._over}; it reads one body once")

    def _handed(self, items: list[T]) -> list[T]:
        self.items_read += len(items)
        return items

    def _take(self, chunk: bytes) -> list[T]:
        if self._stage == "items":
            return self._take_items(chunk)
        if self._stage == "tail":
            self._take_tail(chunk)
            return []
        if not self._head:
            chunk = chunk.lstrip(WHITE)  # some servers send spaces while they work on the answer
        opening = self._scanner.find(chunk)
        self._keep(self._head, chunk if opening < 0 else chunk[:opening])
        if opening < 0:
            return []
        keyed = chunk[opening : opening + 1] == b"{"
        make = FastArrayParser if self.engine == "auto" else IjsonArrayParser
        self._lane = make(self._tally, self._scanner, keyed, self._max_item_bytes)
        self._stage = "items"
        return self._take_items(chunk[opening + 1 :])

    def _take_items(self, chunk: bytes, *, end: bool = False) -> list[T]:
        lane = cast("ArrayParser[T]", self._lane)
        items = lane.take(chunk, end=end)
        if lane.rest is not None:
            self._stage = "tail"
            self._take_tail(lane.rest)
        return items

    def _take_tail(self, chunk: bytes) -> None:
        if not self._scanner.depth:
            if chunk.strip(WHITE):
                raise DecodeError(f"the document ended, and then came: {chunk.strip(WHITE)[:40]!r}")
            return
        self._scanner.read(chunk)
        self._keep(self._tail, chunk if self._scanner.depth else chunk.rstrip(WHITE))

    def _keep(self, part: bytearray, chunk: bytes) -> None:
        if len(self._head) + len(self._tail) + len(chunk) <= self._max_envelope_bytes:
            part += chunk
            return
        if self._stage == "head" and (self._scanner.came or not self._scanner.depth):
            raise self._missing()
        raise BodyTooLargeError(
            f"more than {self._max_envelope_bytes:,} bytes stand around the items of {self.path!r}"
            f" (max_envelope_bytes); if the items are elsewhere say path=...; {self._scanner.seen()}",
            limit=self._max_envelope_bytes,
        )

    def _envelope(self) -> Envelope:
        """Decode head and tail, and take out what stands for the items."""
        text = b"".join((self._head, msgspec.json.encode(_PLACE), self._tail))
        try:
            envelope: Envelope = msgspec.json.decode(text)
        except RecursionError:
            raise DecodeError("what stands around the items is nested too deep to decode") from None
        except msgspec.DecodeError as error:
            raise DecodeError(f"what stands around the items cannot be decoded: {error}") from error
        *parents, last = keys = self._scanner.found
        inner: Any = envelope
        try:
            for key in parents:
                inner = inner[key]
            place = inner.pop(last, None)
        except (KeyError, TypeError, AttributeError):
            place = None
        if place != _PLACE:
            raise DecodeError(f"the key {'.'.join(keys)!r} comes twice", path=f"$.{'.'.join(keys)}")
        if ".".join(keys) != self.path and "result" in envelope:
            raise DecodeError("both result and results are there: say path='results'", path="$.result")
        return envelope

    def _missing(self) -> DecodeError:
        raw = bytes(self._head[:EXCERPT_BYTES])
        if not raw.startswith(b"{"):
            return DecodeError(f"expected a JSON object with {self.path!r}: {describe(raw)}", raw=raw)
        path = f"$.{self.path}"
        if came := self._scanner.came:
            hint = "; key_by takes an object" if came == "an object" else ""
            return DecodeError(f"expected an array at {path}, got {came}{hint}", path=path, raw=raw)
        hint = "name the key that holds the items, as in path='peopleInteractionStats', item_type=dict"
        if {"error", "message"} & set(self._scanner.top_keys):
            hint = f"the body is {bytes(self._head[:200]).decode(errors='replace')}"
        return DecodeError(f"the body has no {path}; {self._scanner.seen()}; {hint}", path=path, raw=raw)

    def _truncated(self) -> TruncatedBodyError:
        return TruncatedBodyError(
            f"the JSON ends early, after {self.bytes_read:,} bytes and {self.items_read:,} items",
            items_read=self.items_read,
            bytes_read=self.bytes_read,
        )


class NdjsonDecoder(Generic[T]):
    """Read a body of one JSON value per line, as it arrives; used like ``ItemDecoder``.

    Blank lines are skipped. A body cut between two lines cannot be told from a whole one.
    """

    def __init__(self, reader: ItemReader[T], *, max_item_bytes: int = MAX_ITEM_BYTES) -> None:
        self.bytes_read = 0
        self.items_read = 0
        self._max_item_bytes = max_item_bytes
        self._tally = ItemCollector(reader, "$")
        self._utf8 = _Utf8()
        self._parts: list[bytes] = []  # of the line that is not complete yet
        self._size = 0
        self._over = ""

    @property
    def issues(self) -> list[Issue]:
        return self._tally.issues

    @property
    def issues_count(self) -> int:
        return self._tally.issues_count

    def feed(self, chunk: bytes) -> list[T]:
        """Take the next bytes of the body and return the items of the lines that are complete.

        :raises DecodeError: a line is not JSON, or (``on_invalid="raise"``) does not fit.
        :raises BodyTooLargeError: a line passed ``max_item_bytes``.
        :raises UsageError: after an error, ``flush`` or ``close``.
        """
        self._check_open("feed")
        self._over = "it failed"
        self._utf8.check(chunk, self.bytes_read)
        self.bytes_read += len(chunk)
        first, *lines = bytes(chunk).split(b"\n")
        self._hold(first)
        items: list[T] = []
        for line in lines:
            items += self._line()
            self._hold(line)
        self._over = ""
        return items

    def flush(self) -> list[T]:
        """Return the item of a last line without an end, once the body has ended; ``close`` comes next.

        :raises TruncatedBodyError: that line is the beginning of a value.
        :raises DecodeError: it is not JSON.
        """
        self._check_open("flush")
        self._over = "it failed"
        last = b"".join(self._parts)
        try:
            items = self._line()
        except DecodeError as error:
            if not is_cut(last):
                raise
            raise TruncatedBodyError(
                f"the last line ends early, after {self.bytes_read:,} bytes and {self.items_read:,} items",
                items_read=self.items_read,
                bytes_read=self.bytes_read,
            ) from error
        self._over = "it was flushed"
        return items

    def close(self) -> Envelope:
        """End: there is nothing around lines, so the envelope is empty.

        :raises DecodeError: not one line could be kept.
        :raises UsageError: ``flush`` would have given an item and was not called; or after an error.
        """
        if self._over != "it was flushed":
            self._check_open("close")
            if self.flush():
                raise UsageError("flush() gives the last item: call it before close()")
        self._over = "it was closed"
        if self._tally.issues_count and not self.items_read:
            raise self._tally.none_fits()
        return {}

    def _check_open(self, verb: str) -> None:
        if self._over:
            raise UsageError(f"cannot {verb} this decoder: {self._over}; it reads one body once")

    def _hold(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_item_bytes:
            raise self._tally.too_large(self._max_item_bytes)
        if part:
            self._parts.append(part)

    def _line(self) -> list[T]:
        line = b"".join(self._parts).strip(WHITE)
        self._parts.clear()
        self._size = 0
        items = self._tally.read_line(line) if line else []
        self.items_read += len(items)
        return items


class _Utf8:
    """Check bytes as they come: msgspec does not look inside the values it skips."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._open = b""  # the beginning of a character at the end of what came

    def check(self, chunk: bytes, offset: int) -> None:
        if not self._open and chunk.isascii():  # ten times cheaper
            return
        try:
            self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            at = offset - len(self._open) + error.start
            raise DecodeError(f"the body is not UTF-8 at byte {at:,} ({error.reason})") from error
        self._open = self._decoder.getstate()[0]

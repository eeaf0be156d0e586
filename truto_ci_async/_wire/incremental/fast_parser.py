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

import contextlib
import logging
import re
import sys
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast

import ijson
import msgspec
from msgspec import Raw

from truto_ci_async._json import EXCERPT_BYTES
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async.errors import BodyTooLargeError, DecodeError
from truto_ci_async.models import Issue

from .lexer import PARSER_ERRORS, TokenCutter, is_cut

T = TypeVar("T")

# Nesting that ijson is let into; msgspec itself stops a little below the interpreter's recursion limit (1,000).
MAX_DEPTH = 512
# Issues kept of a body, the rest is counted only: their raw records must not add up.
ISSUES_KEPT = 100
ISSUE_BYTES_KEPT = 2**20
# Items walked before the first guess.
LEARN_FROM = 16
# The longest separator looked for: what is longer (much white space) would make the search itself slow.
SEPARATOR_BYTES = 96
# Top-level keys remembered, for the message that the path is missing.
KEYS_KEPT = 32
WHITE = b" \t\r\n"

_log = logging.getLogger("truto_ci_async")
_SPACE = re.compile(rb"[ \t\r\n]*")
_COMMA, _COLON, _QUOTE = b',:"'


class Tally(Generic[T]):
    """Reads items and counts them: which number comes next, and what was repaired."""

    def __init__(self, reader: ItemReader[T], path: str, *, max_issues: int | None = ISSUES_KEPT) -> None:
        self.reader = reader
        self._max_issues = max_issues
        self.index = 0
        self.issues: list[Issue] = []
        self.issues_count = 0
        self._path = path
        self._issue_bytes = 0

    def read(self, text: bytes) -> list[T]:
        """Read the items of an array.

        :raises msgspec.DecodeError: it is none; nothing was counted then.
        """
        items, issues = self.reader.read_array(text, start=self.index, path=self._path)
        self._count(items, issues)
        return items

    def read_line(self, line: bytes) -> list[T]:
        """Read one item."""
        item, issues = self.reader.read_item(line, index=self.index, path=f"{self._path}[{self.index}]")
        items = [] if any(issue.dropped for issue in issues) else [cast("T", item)]
        self._count(items, issues)
        return items

    def _count(self, items: list[T], issues: list[Issue]) -> None:
        self.index += len(items)
        if not issues:
            return
        self.index += len({issue.index for issue in issues if issue.dropped})
        self.issues_count += len(issues)
        if self._max_issues is None:
            self.issues += issues
            return
        for issue in issues[: self._max_issues - len(self.issues)]:
            self._issue_bytes += len(issue.raw)
            if self._issue_bytes <= ISSUE_BYTES_KEPT or not self.issues:
                self.issues.append(issue)

    def malformed(self, message: str, text: bytes | memoryview, ahead: int = 0) -> DecodeError:
        """Return the error for the item that is ``ahead`` of those read, and begins ``text``."""
        index = self.index + ahead
        return DecodeError(
            message, path=f"{self._path}[{index}]", index=index, raw=bytes(text[:EXCERPT_BYTES])
        )

    def too_large(self, limit: int, ahead: int = 0) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"item {self.index + ahead:,} has more than {limit:,} bytes (max_item_bytes)", limit=limit
        )

    def none_fits(self) -> DecodeError:
        """Return the error for a body of which nothing could be kept."""
        first = self.issues[0]
        name = getattr(self.reader.item_type, "__name__", str(self.reader.item_type))
        return DecodeError(
            f"no item of this body is of type {name}: {first.message}; item_type=dict takes objects of any shape",
            path=first.path,
            index=first.index,
            raw=first.raw,
        )


class Scanner:
    """ijson, told to keep nothing but where it stands: how deep, and on which path.

    ijson's own ``parse`` tracks full paths at a cost that is quadratic in depth; here only as many keys are
    kept as the path to the items has.
    """

    def __init__(self, path: tuple[str, ...], *, key_by: bool) -> None:
        if ijson.backend != "yajl2_c":
            _log.info("ijson runs on its backend %s: streaming is slower than it could be", ijson.backend)
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
        self._cutter = TokenCutter()

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


class Lane(Protocol[T]):
    """Takes what follows the opening bracket of the items."""

    rest: bytes | None  # what came after the items' end, once that came

    def __init__(self, tally: Tally[T], scanner: Scanner, keyed: bool, max_item_bytes: int) -> None: ...

    def take(self, chunk: bytes, *, end: bool = False) -> list[T]: ...

    def ends(self) -> bool:
        """Tell that the body ended early, the items' end not being there.

        :raises DecodeError: it was not JSON before that.
        """
        ...


# What may come next among the items: one, or their end; one; a comma, or their end. And under key_by, where an
# item is its key and value: the colon after a key; the value.
_FIRST, _ITEM, _AFTER, _NAMED, _VALUE = range(5)


class BulkLane(Generic[T]):
    """Guess where the last whole item ends, or walk there; see the top of this file."""

    def __init__(self, tally: Tally[T], scanner: Scanner, keyed: bool, max_item_bytes: int) -> None:
        self.rest: bytes | None = None
        self._tally = tally
        self._scanner = scanner
        self._keyed = keyed
        self._closer = b"}" if keyed else b"]"
        self._max_item_bytes = max_item_bytes
        # What an incomplete item may take: under key_by its key too, and white space between the two.
        self._max_held = max_item_bytes if not keyed else 2 * max_item_bytes + 1024
        self._state = _FIRST
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
        elif self._separator and self._state == _ITEM and not self._stuck:
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
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches always
            if at == len(text):
                return at
            byte = text[at]
            if self._state == _AFTER and byte == _COMMA:
                self._state = _ITEM
                at += 1
            elif self._state != _ITEM and byte == self._closer[0]:
                self.rest = text[at + 1 :]
                return at
            elif self._state == _AFTER:
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
        self._state = _AFTER
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
            self._state = _AFTER
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
        if view[at] != _QUOTE:
            raise self._tally.malformed("expected a key", view[at:], self._walked)
        colon = self._end(view, at)
        if colon < 0 or colon == len(view):
            return -1
        if view[colon] != _COLON:
            raise self._tally.malformed("expected a colon", view[at:], self._walked)
        start = _SPACE.match(view, colon + 1).end()  # type: ignore[union-attr]
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
        _log.warning("msgspec %s is not known to this package: streaming is slower", msgspec.__version__)
    return works


FINDER_WORKS = check_finder()


class IjsonLane(Generic[T]):
    """Read item by item; ijson tells which closing bracket is an item's own."""

    def __init__(self, tally: Tally[T], scanner: Scanner, keyed: bool, max_item_bytes: int) -> None:
        self.rest: bytes | None = None
        self._tally = tally
        self._scanner = scanner
        self._keyed = keyed
        self._closer = b"}" if keyed else b"]"
        self._max_item_bytes = max_item_bytes
        self._cutter = TokenCutter()
        self._depth = scanner.depth
        self._state = _FIRST
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
            if self._keyed and self._state in (_FIRST, _ITEM):
                self._state = _NAMED
            else:
                self._state = _AFTER
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
            at = _SPACE.match(piece, at).end()  # type: ignore[union-attr]
            if at == len(piece):
                return at
            byte = piece[at]
            if self._state in (_FIRST, _AFTER) and byte == self._closer[0]:
                self.rest = piece[at + 1 :]
                return at
            if self._state == _AFTER and byte == _COMMA:
                self._state = _ITEM
            elif self._state == _NAMED and byte == _COLON:
                self._state = _VALUE
            else:
                break
            at += 1
        is_key = self._keyed and self._state in (_FIRST, _ITEM)
        if self._state in (_AFTER, _NAMED) or (is_key and byte != _QUOTE):
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

"""Writers turn pages of items into text: JSON, NDJSON, CSV and YAML.

A writer does no I/O and holds no pages. ``destinations`` takes the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Final, Protocol, cast

import msgspec

from truto_ci_async._json import encode
from truto_ci_async.errors import MissingExtraError
from truto_ci_async.models import Transcript
from truto_ci_async.sinks.rows import CsvFormulas, csv_line

from .tables import RowLayout

# Those that show the fields of a row; the others show all that was received.
ROW_FORMATS: Final = ("table", "csv", "parquet")
TYPED_FORMATS: Final = (*ROW_FORMATS, "text", "vtt")  # those that need typed items


class Writer(Protocol):
    """Turns pages of items into bytes. What ``page`` has returned so far, followed by ``end``, is a whole document.

    A writer with the ``state`` of an earlier one goes on with its document.
    """

    state: Any = None

    def page(self, items: Sequence[Any]) -> bytes: ...

    def end(self) -> bytes:
        return b""


class NdjsonWriter(Writer):
    """One JSON value per line."""

    def page(self, items: Sequence[Any]) -> bytes:
        return b"".join(map(one_line, items))


def one_line(item: Any) -> bytes:
    """Encode as JSON on one line, with its line end."""
    text = encode(item)
    if b"\n" in text or b"\r" in text:  # a Raw item is passed on as received, which may be indented
        text = _reformat(text, indent=-1)
    return text + b"\n"


def _reformat(text: bytes, indent: int) -> bytes:
    """Indent JSON, or write it on one line for -1; also on one line if it is nested too deep for that."""
    try:
        return msgspec.json.format(text, indent=indent)
    except RecursionError:
        return text.translate(_LINE_ENDS_TO_SPACES)  # strings have none: they are escaped there


_LINE_ENDS_TO_SPACES: Final = bytes.maketrans(b"\t\r\n", b"   ")


class JsonWriter:
    """One indented array, written item by item."""

    def __init__(self) -> None:
        self.state = False  # whether it has begun

    def page(self, items: Sequence[Any]) -> bytes:
        parts: list[bytes] = []
        for item in items:
            parts += (b",\n  " if self.state else b"[\n  ", _indented(item).replace(b"\n", b"\n  "))
            self.state = True
        return b"".join(parts)

    def end(self) -> bytes:
        return b"\n]\n" if self.state else b"[]\n"


def _indented(document: Any) -> bytes:
    """Encode as indented JSON; numbers stay as the service wrote them."""
    return _reformat(encode(document), indent=2)


class YamlWriter:
    """One list, written item by item.

    :raises MissingExtraError: PyYAML is not installed.
    """

    def __init__(self) -> None:
        self._dump = _yaml_dump()
        self.state = False  # whether it has begun

    def page(self, items: Sequence[Any]) -> bytes:
        self.state = self.state or bool(items)
        return b"".join(self._dump([item]) for item in items)

    def end(self) -> bytes:
        return b"" if self.state else b"[]\n"


def _yaml_dump() -> Callable[[Any], bytes]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("PyYAML", "cli") from error

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        # PyYAML would leave 1e5 unquoted, which YAML 1.2 reads as a number: an id must stay text. And it would write
        # unusual line ends as they are, which are read back as spaces.
        style = '"' if value[:1] in "0123456789+-." or _UNUSUAL.search(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def number(dumper: Any, value: _HugeFloat) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:float", value)

    Dumper.add_representer(str, text)
    Dumper.add_representer(_HugeFloat, number)
    settings: dict[str, Any] = {
        "sort_keys": False,
        "allow_unicode": True,
        "width": 10_000,
        "encoding": "utf-8",
    }

    def dump(document: Any) -> Any:
        encoded = encode(document)
        try:
            value = json.loads(encoded, parse_float=_read_float, parse_int=_read_int)
            return cast("Any", yaml).dump(value, Dumper=Dumper, **settings)
        except RecursionError:  # JSON is YAML too
            return _flow_style(document, encoded)

    return dump


# Anything but line feeds and characters that are printable in all versions of YAML.
_UNUSUAL: Final = re.compile(
    "[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


class _HugeFloat(str):
    """A number that no float can hold, in the form that every reader of YAML takes for one."""

    __slots__ = ()


def _read_float(text: str) -> float | _HugeFloat:
    value = float(text)
    if isfinite(value):
        return value
    digits, _, exponent = text.lower().partition("e")
    sign = "" if exponent.startswith("+") else "+"
    return _HugeFloat(f"{digits if '.' in digits else digits + '.0'}e{sign}{exponent or 0}")


def _read_int(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # longer than Python accepts, so it stays text
        return text


def _flow_style(document: object, encoded: bytes) -> bytes:
    """Return ``encoded``, which is JSON, so that it is YAML to every reader; a list of one item as an item."""
    text = _ESCAPED.sub(_join_surrogates, encoded.translate(_LINE_ENDS_TO_SPACES).decode())
    text = _UNUSUAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    if isinstance(document, list) and len(cast("list[object]", document)) == 1:
        text = "- " + text.strip()[1:-1].strip()
    return f"{text}\n".encode()


_ESCAPED: Final = re.compile(r"\\(?:u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|.)", re.IGNORECASE)


def _join_surrogates(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return escape[0]
    return chr(0x10000 + ((int(escape[1], 16) - 0xD800) << 10) + int(escape[2], 16) - 0xDC00)


class DocumentWriter(Writer):
    """One document of any shape, passed as a page of its own, as ``json`` or ``yaml``."""

    def __init__(self, format: str) -> None:
        self._dump, self._end = (_yaml_dump(), b"") if format == "yaml" else (_indented, b"\n")

    def page(self, items: Sequence[Any]) -> bytes:
        return b"".join(self._dump(item) + self._end for item in items)


class KeyedWriter:
    """Writes ``found`` as one document, once it is whole. A page is the pairs of key and item that it added.

    With ``is_staged``, pages become the lines of a file: ``load`` reads it again, ``convert`` makes the document of it.
    """

    state = None

    def __init__(self, document: Writer, found: Any) -> None:
        self._document = document
        self.found = found
        self.is_staged = False

    def page(self, items: Sequence[tuple[str, Any]]) -> bytes:
        return b"".join(map(one_line, items)) if self.is_staged else b""

    def end(self) -> bytes:
        return b"" if self.is_staged else self._document.page([self.found])

    def load(self, path: Path) -> None:
        with path.open("rb") as lines:
            self.found.update(msgspec.json.decode(line, type=tuple[str, msgspec.Raw]) for line in lines)

    def convert(self, path: Path) -> Iterator[bytes]:
        yield self._document.page([self.found])


class TranscriptWriter:
    """Transcripts as text, or as one WebVTT file. ``is_titled`` puts the id of its meeting above each text."""

    def __init__(self, format: str, *, is_titled: bool) -> None:
        self._is_vtt = format == "vtt"
        self._is_titled = is_titled
        self.state = False  # whether it has begun

    def page(self, items: Sequence[Transcript]) -> bytes:
        return "".join(map(self._text, items)).encode(errors="replace")

    def _text(self, item: Transcript) -> str:
        is_first, self.state = not self.state, True
        if self._is_vtt:
            return item.webvtt() if is_first else item.webvtt().removeprefix("WEBVTT\n")
        title = f"meeting {item.meeting_id}\n" if self._is_titled else ""
        return f"{'' if is_first else chr(10)}{title}{item.text()}"

    def end(self) -> bytes:
        return b"WEBVTT\n" if self._is_vtt and not self.state else b""


class CsvWriter:
    """Comma-separated values in UTF-8 with a header. Null is an empty cell, empty text is ``""``, lists are JSON.

    ``left_out`` has the fields that first appeared after the header was written, so have no column.
    """

    def __init__(self, layout: RowLayout, csv_formulas: CsvFormulas = "keep") -> None:
        self._layout = layout
        self._escapes = csv_formulas == "escape"
        self.state: list[str] | None = None  # the fields in its header
        self.left_out: dict[str, None] = {}

    def page(self, items: Sequence[Any]) -> bytes:
        rows = [self._layout.row(item) for item in items]
        lines: list[str] = []
        if self.state is None and (rows or self._layout.fields):
            self.state = [*(self._layout.fields or dict.fromkeys(name for row in rows for name in row))]
            lines.append(csv_line(self.state, self._escapes))
        fields = self.state or ()
        for row in rows:
            lines.append(csv_line((row.get(name) for name in fields), self._escapes))
            self.left_out |= dict.fromkeys(name for name in row if name not in fields)
        return "".join(lines).encode()

    def end(self) -> bytes:
        return self.page(()) if self.state is None else b""

"""Writers turn pages of items into text: JSON, NDJSON, CSV and YAML. ``make_writer`` picks the one for ``-o``.

A writer does no I/O and holds no pages. ``destinations`` takes the bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import msgspec

from truto_ci_async.errors import MissingExtraError

from .tables import RowLayout, TableWriter, cell_text, terminal_table

FORMATS: Final = ("table", "json", "ndjson", "csv", "yaml")
ROW_FORMATS: Final = ("table", "csv")  # these show the fields of a row; the others all that the service sent


class Writer(Protocol):
    """Turns pages of items into bytes. What ``page`` has returned so far, followed by ``end``, is a whole document."""

    def page(self, items: Sequence[Any]) -> bytes: ...
    def end(self) -> bytes: ...


def make_writer(format: str, layout: RowLayout, *, is_stdout: bool) -> Writer:
    """Return the writer for ``-o``.

    :raises MissingExtraError: YAML without PyYAML.
    """
    match format:
        case "json":
            return JsonWriter()
        case "ndjson":
            return NdjsonWriter()
        case "csv":
            return CsvWriter(layout)
        case "yaml":
            return YamlWriter()
        case _:
            return terminal_table(layout) if is_stdout else TableWriter(layout)


class NdjsonWriter:
    """One JSON value per line."""

    def page(self, items: Sequence[Any]) -> bytes:
        return b"".join(_one_line(item) for item in items)

    def end(self) -> bytes:
        return b""


def _one_line(item: Any) -> bytes:
    text = msgspec.json.encode(item)
    if b"\n" in text or b"\r" in text:  # a Raw item is passed on as received, which may be indented
        text = msgspec.json.format(text, indent=-1)
    return text + b"\n"


class JsonWriter:
    """One indented array, written item by item."""

    def __init__(self) -> None:
        self._started = False

    def page(self, items: Sequence[Any]) -> bytes:
        parts: list[bytes] = []
        for item in items:
            parts += (b",\n  " if self._started else b"[\n  ", _indented(item).replace(b"\n", b"\n  "))
            self._started = True
        return b"".join(parts)

    def end(self) -> bytes:
        return b"\n]\n" if self._started else b"[]\n"


def _indented(document: Any) -> bytes:
    """Encode as indented JSON; numbers stay as the service wrote them."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


class YamlWriter:
    """One list, written item by item.

    :raises MissingExtraError: PyYAML is not installed.
    """

    def __init__(self) -> None:
        self._dump = _yaml_dump()
        self._started = False

    def page(self, items: Sequence[Any]) -> bytes:
        self._started = self._started or bool(items)
        return b"".join(self._dump([item]) for item in items)

    def end(self) -> bytes:
        return b"" if self._started else b"[]\n"


def _yaml_dump() -> Callable[[Any], bytes]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("PyYAML", "cli") from error

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # PyYAML would leave 1e5 unquoted, which YAML 1.2 reads as a number: an id must stay text.
        style = '"' if value[:1] in "0123456789+-." else None
        node: yaml.ScalarNode = cast("Any", dumper).represent_scalar(
            "tag:yaml.org,2002:str", value, style=style
        )
        return node

    Dumper.add_representer(str, text)

    def dump(document: Any) -> bytes:
        plain = msgspec.json.decode(msgspec.json.encode(document))
        written: bytes = cast("Any", yaml).dump(
            plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000, encoding="utf-8"
        )
        return written

    return dump


def _json_dump(document: Any) -> bytes:
    return _indented(document) + b"\n"


class DocumentWriter:
    """One document of any shape, passed as a page of its own, as ``json`` or ``yaml``."""

    def __init__(self, format: str) -> None:
        self._dump = _yaml_dump() if format == "yaml" else _json_dump

    def page(self, items: Sequence[Any]) -> bytes:
        return b"".join(self._dump(item) for item in items)

    def end(self) -> bytes:
        return b""


class CsvWriter:
    """Comma-separated values in UTF-8 with a header; null is an empty cell, lists and objects are JSON.

    ``left_out`` has the fields that first appeared after the header was written, so have no column.
    """

    def __init__(self, layout: RowLayout) -> None:
        self._layout = layout
        self._fields: tuple[str, ...] | None = None
        self.left_out: dict[str, None] = {}

    def page(self, items: Sequence[Any]) -> bytes:
        rows = [self._layout.row(item) for item in items]
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\n")
        if self._fields is None and (rows or self._layout.fields):
            self._fields = tuple(self._layout.fields or dict.fromkeys(name for row in rows for name in row))
            lines.writerow(self._fields)
        fields = self._fields or ()
        for row in rows:
            lines.writerow([cell_text(row.get(name)) for name in fields])
            self.left_out |= dict.fromkeys(name for name in row if name not in fields)
        return out.getvalue().encode()

    def end(self) -> bytes:
        return self.page(()) if self._fields is None else b""

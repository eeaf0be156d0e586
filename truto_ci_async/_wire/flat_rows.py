"""Reads rows of the ``normalized`` format, whose metrics may be top-level fields, and notes unknown fields.

That format is undocumented. Decoded as it is, a flat row would silently lose its metrics.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from truto_ci_async.models.struct_types import is_struct, split_array, split_object
from truto_ci_async.models.unknown_members import NAME_CHARS

from .item_reader import ISSUES_KEPT, IssueList, ItemReader

T = TypeVar("T")

# The names of a struct's fields in JSON. Below each are the fields of the struct that is its value, or its element.
Shape = dict[str, "Shape"]

METRICS = "metrics"


class FlatRowReader(ItemReader[T]):
    """Reads items as ``reader`` does, after moving metrics from the top of each row to where the type has them.

    Unknown fields are reported for any struct.
    """

    joins_envelope = False

    def __init__(self, reader: ItemReader[T]) -> None:
        self.__dict__.update(reader.__dict__)  # its decoders, which are expensive
        self._shape = _shape_of(reader.item_type)
        self._metrics = self._shape.get(METRICS, {}).keys() - self._shape.keys()

    def read_array(
        self, text: bytes, *, start: int = 0, path: str = "$.result", keep: int = ISSUES_KEPT
    ) -> tuple[list[T], IssueList]:
        rows = [self._move_metrics(bytes(row)) for row in split_array(text)]
        return super().read_array(b"[" + b",".join(rows) + b"]", start=start, path=path, keep=keep)

    def read_item(self, raw: bytes, *, index: int, path: str) -> tuple[T | None, IssueList]:
        return super().read_item(self._move_metrics(raw), index=index, path=path)

    def _move_metrics(self, row: bytes) -> bytes:
        """Return ``row`` with the metrics moved to their place; a row that cannot be read is returned unchanged."""
        if not row.lstrip().startswith(b"{"):
            return row
        try:
            fields = split_object(row)
            metrics = _object(fields.get(METRICS))
            moved = [name for name in self._metrics & fields.keys() if _is_free(metrics, name)]
            if metrics is not None and moved:
                metrics |= {name: fields.pop(name) for name in moved}
                fields[METRICS] = Raw(_join(metrics))
                row = _join(fields)
            if not self._shape.keys().isdisjoint(fields):  # or the row is foreign, and an issue says so
                self._note_unknown(fields)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # the reader says what is wrong with it
        return row

    def _note_unknown(self, fields: dict[str, Raw]) -> None:
        names = list[str]()
        _find_unknown(fields, self._shape, "", names)
        self.note_unknown(names)


def flat_row_reader(reader: ItemReader[T]) -> ItemReader[T]:
    """Return a FlatRowReader if the items are structs, which have a shape; else ``reader``."""
    return FlatRowReader(reader) if is_struct(reader.item_type) else reader


def _object(raw: Raw | None) -> dict[str, Raw] | None:
    """Return the fields of an object, none for null, and None for anything else."""
    if raw is None or bytes(raw) == b"null":
        return {}
    return split_object(raw) if bytes(raw).startswith(b"{") else None


def _is_free(metrics: dict[str, Raw] | None, name: str) -> bool:
    return metrics is None or name not in metrics or bytes(metrics[name]) == b"null"


def _join(fields: dict[str, Raw]) -> bytes:
    pairs = (msgspec.json.encode(key) + b":" + bytes(raw) for key, raw in fields.items())
    return b"{" + b",".join(pairs) + b"}"


def _find_unknown(fields: dict[str, Raw], shape: Shape, prefix: str, names: list[str]) -> None:
    for key, raw in fields.items():
        name = prefix + key[:NAME_CHARS]
        if key not in shape:
            names.append(name)
        elif shape[key]:
            text = bytes(raw)
            if text.startswith(b"{"):
                _find_unknown(split_object(text), shape[key], f"{name}.", names)
            elif text.startswith(b"["):
                for each in split_array(text):
                    if bytes(each).startswith(b"{"):
                        _find_unknown(split_object(each), shape[key], f"{name}[].", names)


def _shape_of(item_type: Any) -> Shape:
    from msgspec import inspect

    shapes: dict[Any, Shape] = {}  # of structs seen: a type may contain itself

    def look(found: Any) -> Shape:
        if isinstance(found, inspect.StructType):
            if found.cls not in shapes:
                shape = shapes[found.cls] = {}
                shape.update((field.encode_name, look(field.type)) for field in found.fields)
            return shapes[found.cls]
        for inner in getattr(found, "types", ()) or (getattr(found, "item_type", None),):
            if inner is not None and (shape := look(inner)):
                return shape
        return {}

    return look(inspect.type_info(item_type))

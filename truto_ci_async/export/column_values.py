"""Turns items into columns: lists of typed values, from which Arrow and data frames are made.

Which columns a resource has is declared beside its struct in `models`. Items of a type with a ``SCHEMA`` have those
columns; structs of your own have one per field, typed by its annotation. Dicts and raw JSON have no declared types. If
all items are at hand, their columns are the keys that occur, each with a type that fits all its values, ``json`` at
worst. If they come batch by batch, a type chosen from the first batch may not fit a later one, so they become one
column, ``item``, of JSON.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

from .schema import INT64, Column, Columns, ColumnType, Schema, schema_of


class Part(Struct, frozen=True):
    """Some items, and the values that lead each of their rows, such as the account of a pull."""

    items: Sequence[Any]
    lead: Sequence[Any] = ()


class Parts(Struct, frozen=True):
    """Items of one type. ``lead`` has the columns of the values that lead their rows, None if there are none."""

    parts: Sequence[Part]
    item_type: Any = None
    lead: Schema | None = None


class ColumnData(Struct, frozen=True):
    """A table as one list of values for each column of a schema."""

    schema: Schema
    values: Sequence[Sequence[Any]]
    num_rows: int


ITEM_SCHEMA = Schema("items", Column("item", "json", doc="the item"), keeps_unknown=False)
_LEAD = "pull:"  # before the paths of the lead columns, which are not fields of an item


def fixed_schema(item_type: Any, lead: Schema | None = None, columns: Columns = None) -> Schema:
    """Return the columns of all batches of a type of items, however many there are."""
    return _led(_struct_schema(item_type) or ITEM_SCHEMA, lead).select(columns)


def is_typed(item_type: Any) -> bool:
    """Tell whether the type says which columns there are."""
    return _struct_schema(item_type) is not None


def fixed_columns(schema: Schema, parts: Parts) -> ColumnData:
    """Return the columns of ``fixed_schema`` for some items."""
    items = [item for part in parts.parts for item in part.items]
    fields: dict[str, Sequence[Any]] = {"": items, **_lead_values(parts)}
    if not is_typed(parts.item_type):
        fields["item"] = items
    return ColumnData(schema, schema.gather_fields(fields), len(items))


def columns_of(parts: Parts, columns: Columns = None) -> ColumnData:
    """Return the columns of items, given all of them."""
    items = [item for part in parts.parts for item in part.items]
    found = _common_schema(items, parts.item_type)
    fields: dict[str, Sequence[Any]] = {"": items}
    if found is None:
        found, untyped = _infer(items)
        fields.update(untyped)
    chosen = _led(found, parts.lead).select(columns, items)
    fields.update(_lead_values(parts))
    return ColumnData(chosen, chosen.gather_fields(fields), len(items))


def _led(schema: Schema, lead: Schema | None) -> Schema:
    """Put the columns of ``lead`` first; they replace those with the same names."""
    if lead is None:
        return schema
    first = [msgspec.structs.replace(column, path=_LEAD + column.name) for column in lead]
    rest = [column for column in schema if column.name not in lead.types]
    return schema.with_columns([*first, *rest])


def _lead_values(parts: Parts) -> dict[str, Sequence[Any]]:
    if parts.lead is None:
        return {}
    return {
        _LEAD + name: [value for part in parts.parts for value in [part.lead[at]] * len(part.items)]
        for at, name in enumerate(parts.lead.names)
    }


# --- structs ---------------------------------------------------------------------------------------------------


def _common_schema(items: Sequence[Any], item_type: Any) -> Schema | None:
    """Return the columns that fit all items; if there are no items, those of ``item_type``."""
    item_types: set[Any] = set(map(type, items)) or {item_type}
    schemas = [_struct_schema(each) for each in item_types]
    return schemas[0] if all(found == schemas[0] for found in schemas) else None


_TYPES: dict[Any, ColumnType] = {
    str: "text",
    int: "int64",
    float: "float64",
    bool: "bool",
    datetime: "timestamp",
}


def _struct_schema(item_type: Any) -> Schema | None:
    """Return the columns that a type declares, or one for each field of a struct, by its annotation."""
    found = schema_of(item_type)
    if found is not None or not (isinstance(item_type, type) and issubclass(item_type, Struct)):
        return found
    columns = [
        Column(field.encode_name, _column_type(field.type), field.name)
        for field in msgspec.structs.fields(item_type)
    ]
    return Schema(item_type.__name__, *columns, keeps_unknown=False)


def _column_type(annotation: Any) -> ColumnType:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        inner: set[ColumnType] = {
            _column_type(each) for each in typing.get_args(annotation) if each is not type(None)
        }
        if inner == {"int64", "float64"}:
            return "float64"
        return inner.pop() if len(inner) == 1 else "json"
    if typing.get_origin(annotation) is typing.Annotated:
        return _column_type(typing.get_args(annotation)[0])
    return _TYPES.get(annotation, "json")


# --- dicts and raw JSON ----------------------------------------------------------------------------------------


def _infer(items: Sequence[Any]) -> tuple[Schema, dict[str, list[Any]]]:
    """Return the keys of all items as columns, and the values of each."""
    rows = [_fields_of(item) for item in items]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row.get(name) for row in rows] for name in names}
    if items and not names:  # all of them empty
        return ITEM_SCHEMA, {"item": list(items)}
    columns = [Column(name, _type_of(values[name])) for name in names]
    return Schema("items", *columns, keeps_unknown=False), values


def _fields_of(item: Any) -> Mapping[str, Any]:
    """Return an item as an object; anything else goes under the key ``item``."""
    if isinstance(item, Raw):
        with suppress(ValueError, RecursionError):  # it stays as it was received
            item = msgspec.json.decode(item)
    elif isinstance(item, Struct):
        names = item.__struct_encode_fields__
        return dict(zip(names, (getattr(item, name) for name in item.__struct_fields__), strict=True))
    if isinstance(item, Mapping):
        fields = cast("dict[Any, Any]", item)
        return {str(name): value for name, value in fields.items()}
    return {"item": item}


def _type_of(values: Iterable[Any]) -> ColumnType:
    """Return a type that holds all values without changing any."""
    present = [value for value in values if value is not None]
    found = set(map(type, present))
    if found <= {str}:
        return "text"
    if found == {int}:
        return "int64" if all(value in INT64 for value in present) else "json"
    if found == {int, float} and all(abs(value) <= 2**53 for value in present if type(value) is int):
        return "float64"
    return _TYPES.get(found.pop(), "json") if len(found) == 1 else "json"

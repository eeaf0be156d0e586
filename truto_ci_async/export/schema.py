"""The columns of a resource, declared once: for ``row()``, CSV, Parquet, Arrow, data frames and databases.

A struct declares its columns beside it, and names them in the class variable ``SCHEMA``:

    MEETING_SCHEMA = Schema(
        "meetings",
        Column("id", "text", doc="identifies the meeting"),
        Column("host_email", "text", "host.email", doc="address of the host"),  # a field, or a property, of a field
        Column("duration", "float64", doc="length in seconds"),
        Column("attendees", "json", doc="everyone invited, as a JSON array"),
    )


    class Meeting(Struct, frozen=True, kw_only=True, gc=False):
        SCHEMA: ClassVar[Schema] = MEETING_SCHEMA

        def row(self, columns: Columns = None) -> dict[str, Any]:
            return MEETING_SCHEMA.row(self, columns)

A column is null where any field on its path is None. The types:

    ``float64``    any number, as a float; one too large for a float is infinite
    ``int64``      a whole number; null past 64 bits. Declare the field as ``Count``, which makes it an issue
    ``timestamp``  a point in time, as an aware datetime in UTC. Text is read as ISO 8601: a date is midnight UTC
    ``text``       text
    ``json``       anything, as JSON text; ``msgspec.Raw`` as it was received
    ``bool``       true or false

A change of names, order or types is a new ``version`` and a line in the changelog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import repeat
from math import inf
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from msgspec import Raw, Struct

from truto_ci_async._checks import did_you_mean
from truto_ci_async._json import encode, encode_lines
from truto_ci_async.errors import UsageError

ColumnType: TypeAlias = Literal["float64", "int64", "timestamp", "text", "json", "bool"]
#: Which columns: names in the order wanted, or names to leave out (``["-remote_data"]``). None means all.
Columns: TypeAlias = "Iterable[str] | None"

INT64 = range(-(2**63), 2**63)


class Column(Struct, frozen=True):
    """One column: its name and type, the dotted ``path`` to its value (its name, if not given), and what it means.

    ``pairs`` is for a list of named values, such as ``additional_metrics``: the attributes with the name and the value.
    ``"additional_metrics.Calls"`` in ``columns=`` is then the value named ``Calls``, as a float.
    """

    name: str
    type: ColumnType
    path: str = ""
    doc: str = ""
    pairs: tuple[str, str] | None = None
    key: str | None = None  # the name that one of the ``pairs`` is looked up by

    @property
    def source(self) -> str:
        """The dotted path to the value."""
        return self.path or self.name


#: A column that is only included on request.
UNKNOWN = Column(
    "unknown", "json", "unknown_raw", "everything received that has no field in this version: an object"
)


class Schema:
    """The columns of one kind of item, in order. Iterating gives the columns.

    >>> schema(Interaction).names[:2]
    ('id', 'user_id')
    >>> schema(Interaction).types["patience"]
    'float64'
    """

    def __init__(self, name: str, *columns: Column, version: int = 1, keeps_unknown: bool = True) -> None:
        self.name = name
        self.keeps_unknown = (
            keeps_unknown  # whether the items have ``unknown_raw``, as those of the service do
        )
        self.columns = columns
        self.version = version
        self.names: tuple[str, ...] = tuple(column.name for column in columns)
        self.types: dict[str, ColumnType] = {column.name: column.type for column in columns}
        if len(self.types) != len(columns):
            raise UsageError(f"a column of {name} is there twice: {', '.join(self.names)}")
        self._fetch = _fetch_together([column.source for column in columns])
        converters = [_CONVERTERS.get(column.type) for column in columns]
        self._converters = [
            (at, convert)
            for at, (column, convert) in enumerate(zip(columns, converters, strict=True))
            if convert is not None and column.key is None
        ]
        self._has_keys = any(column.key is not None for column in columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Column:
        return self.columns[self.names.index(name)]

    def __len__(self) -> int:
        return len(self.columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and (self.name, self.columns) == (other.name, other.columns)

    def __hash__(self) -> int:
        return hash((self.name, self.names))

    def __repr__(self) -> str:
        return f"Schema({self.name}, {', '.join(f'{name}: {type}' for name, type in self.types.items())})"

    def with_columns(self, columns: Iterable[Column]) -> Schema:
        """Return the schema with other columns."""
        return Schema(self.name, *columns, version=self.version, keeps_unknown=self.keeps_unknown)

    def row(self, item: Any, columns: Columns = None) -> dict[str, Any]:
        """Return one item as a dict, with every column in order."""
        chosen = self if columns is None else self.select(columns)
        return dict(zip(chosen.names, chosen.values(item), strict=True))

    def values(self, item: Any) -> list[Any]:
        """Return the values of one row, in the order of the columns."""
        try:
            if self._has_keys:
                raise AttributeError
            values = self._fetch(item)
        except AttributeError:  # a field on the way is None
            return [column[0] for column in self.gather([item])]
        for at, convert in self._converters:
            if values[at] is not None:
                values[at] = convert(values[at])
        return values

    def gather(self, items: Sequence[Any]) -> list[list[Any]]:
        """Return one list of values per column: what ``values`` gives row by row, but faster for many rows."""
        return self.gather_fields({"": items})

    def gather_fields(self, fields: dict[str, Sequence[Any]]) -> list[list[Any]]:
        """Return one list of values per column. ``fields`` has the items under ``""`` and lists known by path."""
        return [self._column(column, fields) for column in self.columns]

    def _column(self, column: Column, fields: dict[str, Sequence[Any]]) -> list[Any]:
        values = _field(column.source, fields)
        if column.key is not None:
            assert column.pairs is not None
            values = _named_values(values, column.key, *map(attrgetter, column.pairs))
        convert = _CONVERTERS.get(column.type)
        if convert is None:
            return list(values)
        if column.type == "json":
            return to_json_each(values)
        if _are_converted(column.type, values):
            return list(values)
        return [None if value is None else convert(value) for value in values]

    def select(self, columns: Columns, items: Sequence[Any] | None = None) -> Schema:
        """Return the schema with these columns only.

        ``["id", "patience"]`` picks columns. A leading ``-`` leaves one out: ``["-remote_data"]`` is every other
        column, and names beside it are added. ``"additional_metrics.Calls"`` is one value of a list of named ones;
        ``"additional_metrics.*"`` one column for each name that occurs in ``items``. ``"unknown"`` is what was received
        and has no field in this version, as JSON.

        :raises UsageError: there is no such column, or ``*`` without ``items``.
        """
        if columns is None:
            return self
        if isinstance(columns, str):
            raise UsageError(f"columns is a list of names: write [{columns!r}]")
        chosen = list(columns)
        dropped = {name[1:] for name in chosen if name.startswith("-")}
        start = self.names if dropped else ()
        for name in sorted(dropped - set(self.names)):
            raise self._unknown(name)
        found: dict[str, Column] = {}
        for name in [*start, *(name for name in chosen if not name.startswith("-"))]:
            if name not in dropped:
                found.update((column.name, column) for column in self._find(name, items))
        if not found:
            raise UsageError(f"columns leaves nothing of {self.name}; there are {', '.join(self.names)}")
        return self.with_columns(found.values())

    def _find(self, name: str, items: Sequence[Any] | None) -> list[Column]:
        if name == UNKNOWN.name and name not in self.types and self.keeps_unknown:
            return [UNKNOWN]
        for column in self.columns:
            if column.name == name:
                return [column]
            if column.pairs and column.key is None and name.startswith(f"{column.name}."):
                key = name.removeprefix(f"{column.name}.")
                if key == "*" and items is None:
                    raise UsageError(
                        f"{name!r} needs all items at hand: collect() them, then pass the list to to_polars or the like"
                    )
                keys = self._names_in(column, items or ()) if key == "*" else [key]
                return [
                    Column(f"{column.name}.{key}", "float64", column.source, pairs=column.pairs, key=key)
                    for key in keys
                ]
        raise self._unknown(name)

    def _names_in(self, column: Column, items: Sequence[Any]) -> list[str]:
        assert column.pairs is not None
        name_of = attrgetter(column.pairs[0])
        names = {name_of(pair): None for pairs in _field(column.source, {"": items}) for pair in pairs or ()}
        return sorted(name for name in names if name is not None)

    def _unknown(self, name: str) -> UsageError:
        nearest = did_you_mean(name.replace(".", "_"), self.names)
        return UsageError(f"{self.name} has no column {name!r}; there are {', '.join(self.names)}{nearest}")


def schema(item_type: Any) -> Schema:
    """Return the columns of a type of items, as ``row()``, CSV, Parquet, Arrow and data frames have them.

        for column in truto_ci_async.schema(Interaction):
            print(column.name, column.type, column.doc)

    :raises UsageError: the type declares no columns. Dicts and structs of your own have none; their data frames
        have the fields that occur.
    """
    found = schema_of(item_type)
    if found is None:
        name = getattr(item_type, "__name__", None) or repr(item_type)
        raise UsageError(
            f"{name} declares no columns; types that do are Interaction, Meeting, Transcript, User and Activity"
        )
    return found


def schema_of(item_type: Any) -> Schema | None:
    """Return the columns that a type declares, None if it does not."""
    found = getattr(item_type, "SCHEMA", None)
    return found if isinstance(found, Schema) else None


# --- values ----------------------------------------------------------------------------------------------------


def to_float(value: Any) -> float:
    """Return a number as a float, infinite if it is too large for one."""
    try:
        return float(value)
    except OverflowError:  # JSON integers can be larger than any float
        return inf if value > 0 else -inf


def _to_int(value: Any) -> int | None:
    if isinstance(value, float):
        if not value.is_integer():
            return None
        value = int(value)
    return value if value in INT64 else None


def to_utc(value: Any) -> datetime | None:
    """Return a time in UTC. Text that is not a time becomes None; a time without an offset is taken as UTC.

    A time that would be before year 1 or after year 9999 in UTC keeps its own offset.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value.tzinfo is UTC:
        return value  # type: ignore[no-any-return]
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)  # type: ignore[no-any-return]
    try:
        return value.astimezone(UTC)  # type: ignore[no-any-return]
    except OverflowError:
        return value  # type: ignore[no-any-return]


def to_json(value: Any) -> str | None:
    """Return a value as JSON text; Raw stays as it was received, and Raw null is None."""
    if isinstance(value, Raw):
        text = str(value, "utf-8", "replace")
        return None if text == "null" else text
    return encode(value).decode()


def to_json_each(values: Sequence[Any]) -> list[str | None]:
    """Return ``to_json`` of each value; two or three times as fast if all of them are Raw, or none is."""
    types = set(map(type, values))
    if types == {Raw}:
        texts = list(map(str, values, repeat("utf-8"), repeat("replace")))
        return [None if text == "null" else text for text in texts] if "null" in texts else [*texts]
    if Raw not in types and (encoded := encode_lines(values)) is not None:
        texts = encoded.decode().split("\n")[:-1]
        if len(texts) == len(values):  # no Raw inside has line breaks
            return [None if value is None else text for value, text in zip(values, texts, strict=True)]
    return [None if value is None else to_json(value) for value in values]


_zone_of = attrgetter("tzinfo")
_NONE = type(None)


def _are_converted(type_: ColumnType, values: Sequence[Any]) -> bool:
    """Tell quickly whether all values are as ``_CONVERTERS`` makes them, which most are."""
    types = set(map(type, values))
    if type_ == "timestamp" and types == {datetime}:
        return set(map(_zone_of, values)) == {UTC}
    return types <= {float, _NONE} if type_ == "float64" else types == {_NONE}


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "float64": to_float,
    "int64": _to_int,
    "timestamp": to_utc,
    "json": to_json,
}


class _Nothing:
    """Stands in for a nested struct that is None: each of its fields is None too."""

    def __getattr__(self, name: str) -> None:
        return None


_NOTHING = _Nothing()


def _field(path: str, fields: dict[str, Sequence[Any]]) -> Sequence[Any]:
    """Return the field at ``path`` of every item. ``fields`` keeps those that were fetched already."""
    if path not in fields:
        parent, _, name = path.rpartition(".")
        fields[path] = list(map(attrgetter(name), _owners(parent, fields)))
    return fields[path]


def _owners(path: str, fields: dict[str, Sequence[Any]]) -> Sequence[Any]:
    """Return what has the fields below ``path``, of every item; ``fields`` keeps it under that path with a dot."""
    key = f"{path}."
    if key not in fields:
        fields[key] = [_NOTHING if owner is None else owner for owner in _field(path, fields)]
    return fields[key]


def _fetch_together(paths: list[str]) -> Callable[[Any], list[Any]]:
    """Return a function that fetches several paths at once; it raises AttributeError if one leads through None."""
    if len(paths) > 1:
        several = attrgetter(*paths)
        return lambda item: list(several(item))
    single = [attrgetter(path) for path in paths]
    return lambda item: [fetch(item) for fetch in single]


def _named_values(
    lists: Iterable[Any], key: str, name_of: Callable[[Any], Any], value_of: Callable[[Any], Any]
) -> list[Any]:
    """Return the value named ``key`` in each of ``lists``, the first if there are several."""
    return [next((value_of(pair) for pair in pairs or () if name_of(pair) == key), None) for pairs in lists]

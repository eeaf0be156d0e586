"""``ApiObject``, the base of the structs of responses, and how members that the service added later are kept.

How it works. The structs refuse members they do not know, so an ordinary page is decoded at full speed and nothing is
silently lost. If one refuses, `unknown_members` moves those members into ``unknown_json``, and the item is decoded
again. They are text, not decoded values, because the structs are hashable and not tracked by the garbage collector.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Self, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from truto_ci_async._json import EXCERPT_BYTES, UNKNOWN, encode
from truto_ci_async.errors import DecodeError
from truto_ci_async.export.schema import Column, Columns, Schema

from .field_types import NO_DATA, decode_raw
from .pydantic_schema import plain_schema
from .unknown_members import LARGE_OBJECT, decode_known

#: Columns that records of several resources have.
CHANGE_COLUMNS = (
    Column("created_at", "timestamp", doc="when the provider made the record"),
    Column("updated_at", "timestamp", doc="when the provider last changed it"),
)
REMOTE_COLUMN = Column("remote_data", "json", "remote_json", "the provider's own record, as it was received")

_members = msgspec.json.Decoder(dict[str, Raw])


class ApiObject(
    Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True, repr_omit_defaults=True
):
    """An object from a response. ``unknown`` has the members that this package has no field for.

    Frozen, and equal when all fields are equal. Can be pickled and copied. The methods of a resource, and
    ``from_json``, read any object; msgspec's own decoder only one whose members all have fields.
    """

    # JSON text of an object with those members.
    unknown_json: str | UnsetType = UNSET

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read one object, such as a line of NDJSON: what it has no field for is in ``unknown``.

            with open("interactions.ndjson") as lines:
                rows = [Interaction.from_json(line) for line in lines]

        :raises DecodeError: it is not JSON, or a value is not of its field's type. Pages repair those.
        """
        body = text.encode() if isinstance(text, str) else text
        try:
            return cast("Self", decode_known(body, cls))
        except msgspec.ValidationError as error:
            raise DecodeError(f"not {cls.__name__}: {error}", raw=body[:EXCERPT_BYTES]) from error

    @property
    def unknown(self) -> dict[str, Any]:
        """Members that were received and have no field here, decoded on each access. Nested objects have their own.

        :raises DecodeError: one has a number too large for a float; ``unknown_json`` has the text.
        """
        return {name: decode_raw(raw) for name, raw in self.unknown_members().items()}

    @property
    def unknown_raw(self) -> Raw | None:
        """The members of ``unknown`` as one JSON object; None if there are none."""
        if self.unknown_json is UNSET:
            return None
        if len(self.unknown_json) > LARGE_OBJECT:
            return Raw(msgspec.json.encode(self.unknown_members()))
        return Raw(self.unknown_json)

    def unknown_members(self) -> dict[str, Raw]:
        """Return the members of ``unknown`` as the JSON that was received."""
        if self.unknown_json is UNSET:
            return {}
        try:
            members = _members.decode(self.unknown_json)
            # Of a large object, all of it was kept.
            known = self.__struct_encode_fields__
            return {name: raw for name, raw in members.items() if name == UNKNOWN or name not in known}
        except (ValueError, RecursionError):  # the service has a member of this name
            return {UNKNOWN: Raw(msgspec.json.encode(self.unknown_json))}

    def to_json(self) -> bytes:
        """Return the API's own shape as JSON, on one line, with everything that was received."""
        return encode(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """Let FastAPI return this from a handler, and pydantic hold it in a model."""
        return plain_schema(cls)

    def to_dict(self) -> dict[str, Any]:
        """Return the API's own shape as plain dicts and lists, ready for JSON, with times as ISO 8601 text.

        It has everything that was received, in its original place.
        """
        return cast("dict[str, Any]", decode_raw(encode(self)))


class ApiRecord(ApiObject, frozen=True, kw_only=True, gc=False):
    """An item of a resource: it may carry the provider's own record in ``remote_json``, which each kind declares."""

    SCHEMA: ClassVar[Schema]

    @property
    def remote_data(self) -> Any:
        """The provider's record, decoded on each access: keep the result if you use it often.

        :raises DecodeError: it has a number too large for a float; ``remote_json`` has the text.
        """
        return decode_raw(self._remote())

    def row(self, columns: Columns = None) -> dict[str, Any]:
        """Flatten into one row with every column of ``truto_ci_async.schema(type(item))``, or with ``columns`` only.

        Metrics are floats, counts integers, times aware ``datetime`` in UTC; lists and the provider's record become
        JSON text. CSV, Parquet, Arrow and data frames have the same columns.

            interaction.row(["-remote_data"])
            interaction.row(["user_email", "patience", "additional_metrics.Calls"])

        :raises UsageError: there is no such column.
        """
        return self.SCHEMA.row(self, columns)

    def _repr_html_(self) -> str:
        from truto_ci_async.export.html import item_card

        return item_card(self)

    def _remote(self) -> Raw:
        return cast("Raw", getattr(self, "remote_json", NO_DATA))

    def _summary(self, *parts: str) -> str:
        """Return the text of a repr: ``parts``, and what any record may have."""
        shown = [f"id={getattr(self, 'id', None)!r}", *parts]
        if self._remote() != NO_DATA:
            shown.append(f"remote_data=<{len(bytes(self._remote())):,} bytes>")
        if self.unknown_json is not UNSET:
            shown.append(f"unknown={list(self.unknown_members())}")
        return f"{type(self).__name__}({', '.join(shown)})"


def fields_text(metrics: ApiObject | None) -> list[str]:
    """Return the parts of a repr that show the fields of ``metrics`` that have a value."""
    names = () if metrics is None else metrics.__struct_fields__
    values = ((name, getattr(metrics, name)) for name in names if name != UNKNOWN)
    return [f"{name}={value}" for name, value in values if value is not None]


def iso_text(time: datetime | None) -> str:
    """Write a time for a repr."""
    return "?" if time is None else time.isoformat()


def window_text(start: datetime | None, end: datetime | None) -> list[str]:
    """Return the part of a repr that shows a window, if there is one."""
    return [] if start is None and end is None else [f"window={iso_text(start)}..{iso_text(end)}"]

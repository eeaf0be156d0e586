"""Interactions: talk metrics of one user over one window (contract section 2).

Every field is optional, since ``truto_exclude_fields`` can remove any of them. The structs are frozen and not tracked
by the garbage collector (``gc=False``): no field can refer back to its owner, so there are no reference cycles.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, cast

import msgspec
from msgspec import Raw, Struct

from truto_ci_async.export.html import item_card
from truto_ci_async.export.schema import Column, Columns, Schema

from .field_types import NO_DATA, AwareDatetime, Number, decode_raw


class Email(Struct, frozen=True, kw_only=True, gc=False):
    """One email address of a user."""

    email: str | None = None
    is_primary: bool | None = None


class User(Struct, frozen=True, kw_only=True, gc=False):
    """The person the metrics are about. ``id`` is a string of up to 20 digits: a float cannot hold it exactly."""

    id: str | None = None
    name: str | None = None
    emails: tuple[Email, ...] | None = None

    @property
    def email(self) -> str | None:
        """The primary address, else the first one, else None."""
        emails = self.emails or ()
        return next(
            (entry.email for entry in emails if entry.is_primary), emails[0].email if emails else None
        )


class Metrics(Struct, frozen=True, kw_only=True, gc=False):
    """Talk metrics as the provider measures them, in its own units. None means not measured."""

    longest_monologue: Number | None = None
    longest_customer_story: Number | None = None
    interactivity: Number | None = None
    patience: Number | None = None
    question_rate: Number | None = None


class AdditionalMetric(Struct, frozen=True, kw_only=True, gc=False):
    """A metric of the provider that has no field in ``Metrics``."""

    name: str | None = None
    value: Number | None = None


INTERACTION_SCHEMA = Schema(
    "interactions",
    Column("id", "text", doc="identifies the record: the user and, with most providers, the window"),
    Column("user_id", "text", "user.id", "the provider's id of the person, up to 20 digits"),
    Column("user_name", "text", "user.name", "name of the person, if the provider gives it"),
    Column("user_email", "text", "user.email", "the primary address, else the first"),
    Column("user_emails", "json", "user.emails", "all addresses: a JSON array of {email, is_primary}"),
    Column("start_time", "timestamp", doc="start of the window that the metrics cover"),
    Column("end_time", "timestamp", doc="end of that window, not part of it"),
    Column("timezone", "text", doc="IANA name of the zone in which the window was cut"),
    Column("aggregation_period", "text", doc="day, week, month, total or newer"),
    Column("longest_monologue", "float64", "metrics.longest_monologue", "in the provider's unit"),
    Column("longest_customer_story", "float64", "metrics.longest_customer_story", "in the provider's unit"),
    Column("interactivity", "float64", "metrics.interactivity", "in the provider's unit"),
    Column("patience", "float64", "metrics.patience", "in the provider's unit"),
    Column("question_rate", "float64", "metrics.question_rate", "in the provider's unit"),
    Column(
        "additional_metrics",
        "json",
        doc="the provider's other metrics: a JSON array of {name, value}; additional_metrics.NAME is one of them",
        pairs=("name", "value"),
    ),
    Column("created_at", "timestamp", doc="when the provider made the record"),
    Column("updated_at", "timestamp", doc="when the provider last changed it"),
    Column("remote_data", "json", "remote_json", "the provider's own record, as it was received"),
)
ROW_COLUMNS: tuple[str, ...] = INTERACTION_SCHEMA.names


class Interaction(Struct, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Talk metrics of one user over one window.

    ``start_time`` and ``end_time`` are the window the metrics cover, which can differ from the one you asked for.
    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a value newer than this package.
    ``remote_json`` is the provider's own record as it was received, ``remote_data`` the same decoded.

    Equal when all fields are equal; hashed by id, user id and window. Can be pickled and copied.

        >>> Interaction(id="1", metrics=Metrics(patience=0.8)).row()["patience"]
        0.8
    """

    SCHEMA: ClassVar[Schema] = INTERACTION_SCHEMA

    id: str | None = None
    user: User | None = None
    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    timezone: str | None = None
    aggregation_period: str | None = None
    metrics: Metrics | None = None
    additional_metrics: tuple[AdditionalMetric, ...] | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash((self.id, self.user.id if self.user else None, self.start_time, self.end_time))

    @property
    def remote_data(self) -> Any:
        """The provider's record, decoded on each access: keep the result if you use it often.

        :raises DecodeError: it has a number too large for a float; ``remote_json`` has the text.
        """
        return decode_raw(self.remote_json)

    def row(self, columns: Columns = None) -> dict[str, Any]:
        """Flatten into one row with all of ``ROW_COLUMNS``, in that order, or with ``columns`` only.

        Metrics are floats, times aware ``datetime`` in UTC; lists and the provider's record become JSON text. CSV,
        Parquet, Arrow and data frames have the same columns: see ``truto_ci_async.schema(Interaction)``.

            interaction.row(["-remote_data"])
            interaction.row(["user_email", "patience", "additional_metrics.Calls"])

        :raises UsageError: there is no such column.
        """
        return INTERACTION_SCHEMA.row(self, columns)

    def to_dict(self) -> dict[str, Any]:
        """Return the API's own shape as plain dicts and lists, ready for JSON, with times as ISO 8601 text."""
        return cast("dict[str, Any]", decode_raw(msgspec.json.encode(self)))

    def _repr_html_(self) -> str:
        return item_card(self)

    def __repr__(self) -> str:
        parts = [f"id={self.id!r}"]
        if self.user is not None:
            parts.append(f"user={self.user.email or self.user.id!r}")
        if self.start_time is not None or self.end_time is not None:
            parts.append(f"window={_iso_text(self.start_time)}..{_iso_text(self.end_time)}")
        if self.metrics is not None:
            measured = ((name, getattr(self.metrics, name)) for name in self.metrics.__struct_fields__)
            parts.extend(f"{name}={value}" for name, value in measured if value is not None)
        if self.remote_json != NO_DATA:
            parts.append(f"remote_data=<{len(bytes(self.remote_json)):,} bytes>")
        return f"Interaction({', '.join(parts)})"


def _iso_text(time: datetime | None) -> str:
    return "?" if time is None else time.isoformat()

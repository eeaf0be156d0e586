"""Interactions: talk metrics of one user over one window (contract section 2).

Every field is optional, since ``truto_exclude_fields`` can remove any of them. The structs are frozen and not tracked
by the garbage collector (``gc=False``): no field can refer back to its owner, so there are no reference cycles.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct

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


class Interaction(Struct, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Talk metrics of one user over one window.

    ``start_time`` and ``end_time`` are the window the metrics cover, which can differ from the one you asked for.
    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a value newer than this package.
    ``remote_json`` is the provider's own record as it was received, ``remote_data`` the same decoded.

    Equal when all fields are equal; hashed by id, user id and window. Can be pickled and copied.

        >>> Interaction(id="1", metrics=Metrics(patience=0.8)).row()["patience"]
        0.8
    """

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

    def row(self) -> dict[str, Any]:
        """Flatten into one row with all of ``ROW_COLUMNS``, in that order.

        Tables, CSV and Parquet all use it. Times stay ``datetime``; lists and the provider's record become JSON text.
        """
        user, metrics = self.user or _NO_USER, self.metrics or _NO_METRICS
        return {
            "id": self.id,
            "user_id": user.id,
            "user_name": user.name,
            "user_email": user.email,
            "user_emails": _json_text(user.emails),
            "start_time": self.start_time,
            "end_time": self.end_time,
            "timezone": self.timezone,
            "aggregation_period": self.aggregation_period,
            "longest_monologue": metrics.longest_monologue,
            "longest_customer_story": metrics.longest_customer_story,
            "interactivity": metrics.interactivity,
            "patience": metrics.patience,
            "question_rate": metrics.question_rate,
            "additional_metrics": _json_text(self.additional_metrics),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "remote_data": None if self.remote_json == NO_DATA else bytes(self.remote_json).decode(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the API's own shape as plain dicts and lists, ready for JSON, with times as ISO 8601 text."""
        return cast("dict[str, Any]", decode_raw(msgspec.json.encode(self)))

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


def _json_text(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _iso_text(time: datetime | None) -> str:
    return "?" if time is None else time.isoformat()


_NO_USER = User()
_NO_METRICS = Metrics()

ROW_COLUMNS: tuple[str, ...] = tuple(Interaction().row())

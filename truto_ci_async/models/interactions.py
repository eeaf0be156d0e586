"""Interactions: talk metrics of one user over one window (contract section 2).

Every field is optional, since ``truto_exclude_fields`` can remove any of them. The structs are frozen and not tracked
by the garbage collector (``gc=False``): no field can refer back to its owner, so there are no reference cycles.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from .api_object import UNKNOWN, ApiObject, ApiRecord, json_text, window_text
from .field_types import NO_DATA, AwareDatetime, Number
from .person import Person


class Metrics(ApiObject, frozen=True, kw_only=True, gc=False):
    """Talk metrics as the provider measures them, in its own units. None means not measured."""

    longest_monologue: Number | None = None
    longest_customer_story: Number | None = None
    interactivity: Number | None = None
    patience: Number | None = None
    question_rate: Number | None = None


class AdditionalMetric(ApiObject, frozen=True, kw_only=True, gc=False):
    """A metric of the provider that has no field in ``Metrics``."""

    name: str | None = None
    value: Number | None = None


class Interaction(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Talk metrics of one user over one window.

    ``start_time`` and ``end_time`` are the window the metrics cover, which can differ from the one you asked for.
    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a value newer than this package.
    ``remote_json`` is the provider's own record as it was received, ``remote_data`` the same decoded. ``unknown`` has
    the members that were received and have no field here.

    Equal when all fields are equal; hashed by id, user id and window. Can be pickled and copied.

        >>> Interaction(id="1", metrics=Metrics(patience=0.8)).row()["patience"]
        0.8
    """

    id: str | None = None
    user: Person | None = None
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
            "user_emails": json_text(user.emails),
            "start_time": self.start_time,
            "end_time": self.end_time,
            "timezone": self.timezone,
            "aggregation_period": self.aggregation_period,
            "longest_monologue": metrics.longest_monologue,
            "longest_customer_story": metrics.longest_customer_story,
            "interactivity": metrics.interactivity,
            "patience": metrics.patience,
            "question_rate": metrics.question_rate,
            "additional_metrics": json_text(self.additional_metrics),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "remote_data": self._remote_text(),
        }

    def __repr__(self) -> str:
        parts: list[str] = []
        if self.user is not None:
            parts.append(f"user={self.user.email or self.user.id!r}")
        parts += window_text(self.start_time, self.end_time)
        if self.metrics is not None:
            measured = ((name, getattr(self.metrics, name)) for name in _METRICS)
            parts.extend(f"{name}={value}" for name, value in measured if value is not None)
        return self._summary(*parts)


_NO_USER = Person()
_NO_METRICS = Metrics()
_METRICS = tuple(name for name in Metrics.__struct_fields__ if name != UNKNOWN)

ROW_COLUMNS: tuple[str, ...] = tuple(Interaction().row())

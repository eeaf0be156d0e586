"""Interactions: talk metrics of one user over one window (contract section 2).

Every field is optional, since ``truto_exclude_fields`` can remove any of them. The structs are frozen and not tracked
by the garbage collector (``gc=False``): no field can refer back to its owner, so there are no reference cycles.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Raw

from truto_ci_async.export.schema import Column, Schema

from .api_object import CHANGE_COLUMNS, REMOTE_COLUMN, ApiObject, ApiRecord, fields_text, window_text
from .field_types import NO_DATA, AwareDatetime, Number
from .person import PERSON_COLUMNS, Person


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


ADDITIONAL_METRICS = Column(
    "additional_metrics",
    "json",
    doc="the provider's other metrics: a JSON array of {name, value}; additional_metrics.NAME is one of them",
    pairs=("name", "value"),
)

INTERACTION_SCHEMA = Schema(
    "interactions",
    Column("id", "text", doc="identifies the record: the user and, with most providers, the window"),
    *PERSON_COLUMNS,
    Column("start_time", "timestamp", doc="start of the window that the metrics cover"),
    Column("end_time", "timestamp", doc="end of that window, not part of it"),
    Column("timezone", "text", doc="IANA name of the zone in which the window was cut"),
    Column("aggregation_period", "text", doc="day, week, month, total or newer"),
    Column("longest_monologue", "float64", "metrics.longest_monologue", "in the provider's unit"),
    Column("longest_customer_story", "float64", "metrics.longest_customer_story", "in the provider's unit"),
    Column("interactivity", "float64", "metrics.interactivity", "in the provider's unit"),
    Column("patience", "float64", "metrics.patience", "in the provider's unit"),
    Column("question_rate", "float64", "metrics.question_rate", "in the provider's unit"),
    ADDITIONAL_METRICS,
    *CHANGE_COLUMNS,
    REMOTE_COLUMN,
)
ROW_COLUMNS: tuple[str, ...] = INTERACTION_SCHEMA.names


class UserWindow(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """What was measured of one user over one window: the fields of ``Interaction`` and ``Activity``."""

    id: str | None = None
    user: Person | None = None
    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    timezone: str | None = None
    aggregation_period: str | None = None
    metrics: Any = None
    additional_metrics: tuple[AdditionalMetric, ...] | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash((self.id, self.user.id if self.user else None, self.start_time, self.end_time))

    def __repr__(self) -> str:
        user = [] if self.user is None else [f"user={self.user.email or self.user.id!r}"]
        return self._summary(*user, *window_text(self.start_time, self.end_time), *fields_text(self.metrics))


class Interaction(UserWindow, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Talk metrics of one user over one window.

    ``start_time`` and ``end_time`` are the window the metrics cover, which can differ from the one you asked for.
    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a value newer than this package.
    ``remote_json`` is the provider's own record as it was received, ``remote_data`` the same decoded. ``unknown`` has
    the members that were received and have no field here.

    Equal when all fields are equal; hashed by id, user id and window. Can be pickled and copied.

        >>> Interaction(id="1", metrics=Metrics(patience=0.8)).row()["patience"]
        0.8
    """

    SCHEMA: ClassVar[Schema] = INTERACTION_SCHEMA

    metrics: Metrics | None = None

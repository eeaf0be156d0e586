"""Activity: how much one user did in the connected product over one window."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Raw

from truto_ci_async._json import UNKNOWN
from truto_ci_async.export.schema import Column, Schema

from .api_object import ApiObject, ApiRecord, window_text
from .field_types import NO_DATA, AwareDatetime, Count
from .interactions import AdditionalMetric
from .person import Person


class ActivityMetrics(ApiObject, frozen=True, kw_only=True, gc=False):
    """Counts of calls and comments. None means not counted; ``unknown`` has counts without a field here."""

    calls_hosted: Count | None = None
    calls_attended: Count | None = None
    calls_listened_own: Count | None = None
    calls_listened_others: Count | None = None
    feedback_given: Count | None = None
    feedback_received: Count | None = None
    feedback_requested: Count | None = None
    comments_given: Count | None = None
    comments_received: Count | None = None
    calls_shared_internally: Count | None = None


COUNTS = tuple(name for name in ActivityMetrics.__struct_fields__ if name != UNKNOWN)

ACTIVITY_SCHEMA = Schema(
    "activity",
    Column("id", "text", doc="identifies the record"),
    Column("user_id", "text", "user.id", "the provider's id of the person, up to 20 digits"),
    Column("user_name", "text", "user.name", "name of the person, if the provider gives it"),
    Column("user_email", "text", "user.email", "the primary address, else the first"),
    Column("user_emails", "json", "user.emails", "all addresses: a JSON array of {email, is_primary}"),
    Column("start_time", "timestamp", doc="start of the window that the counts cover"),
    Column("end_time", "timestamp", doc="end of that window, not part of it"),
    Column("timezone", "text", doc="IANA name of the zone in which the window was cut"),
    Column("aggregation_period", "text", doc="day, week, month, total or newer"),
    *(Column(name, "int64", f"metrics.{name}", f"{name.replace('_', ' ')} in the window") for name in COUNTS),
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


class Activity(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Activity counts of one user over one window, the twin of ``Interaction``.

    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a value newer than this package. A call touched
    twice in a window counts once, so the counts of several windows may add up to more than the count of the whole.

    Equal when all fields are equal; hashed by id, user id and window.

        >>> Activity(id="1", metrics=ActivityMetrics(calls_hosted=3)).row()["calls_hosted"]
        3
    """

    SCHEMA: ClassVar[Schema] = ACTIVITY_SCHEMA

    id: str | None = None
    user: Person | None = None
    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    timezone: str | None = None
    aggregation_period: str | None = None
    metrics: ActivityMetrics | None = None
    additional_metrics: tuple[AdditionalMetric, ...] | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash((self.id, self.user.id if self.user else None, self.start_time, self.end_time))

    def __repr__(self) -> str:
        parts: list[str] = []
        if self.user is not None:
            parts.append(f"user={self.user.email or self.user.id!r}")
        parts += window_text(self.start_time, self.end_time)
        if self.metrics is not None:
            counted = ((name, getattr(self.metrics, name)) for name in COUNTS)
            parts.extend(f"{name}={value}" for name, value in counted if value is not None)
        return self._summary(*parts)

"""Activity: how much one user did in the connected product over one window."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from .api_object import UNKNOWN, ApiObject, ApiRecord, json_text, window_text
from .field_types import NO_DATA, AwareDatetime
from .interactions import AdditionalMetric
from .person import Person


class ActivityMetrics(ApiObject, frozen=True, kw_only=True, gc=False):
    """Counts of calls and comments. None means not counted; ``unknown`` has counts without a field here."""

    calls_hosted: int | None = None
    calls_attended: int | None = None
    calls_listened_own: int | None = None
    calls_listened_others: int | None = None
    feedback_given: int | None = None
    feedback_received: int | None = None
    feedback_requested: int | None = None
    comments_given: int | None = None
    comments_received: int | None = None
    calls_shared_internally: int | None = None


class Activity(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Activity counts of one user over one window, the twin of ``Interaction``.

    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a value newer than this package. A call touched
    twice in a window counts once, so counts of several windows need not add up to the count of the whole.

    Equal when all fields are equal; hashed by id, user id and window.

        >>> Activity(id="1", metrics=ActivityMetrics(calls_hosted=3)).row()["calls_hosted"]
        3
    """

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

    def row(self) -> dict[str, Any]:
        """Flatten into one row. Times stay ``datetime``; lists and the provider's record become JSON text."""
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
            **{name: getattr(metrics, name) for name in COUNTS},
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
            counted = ((name, getattr(self.metrics, name)) for name in COUNTS)
            parts.extend(f"{name}={value}" for name, value in counted if value is not None)
        return self._summary(*parts)


COUNTS = tuple(name for name in ActivityMetrics.__struct_fields__ if name != UNKNOWN)
_NO_USER = Person()
_NO_METRICS = ActivityMetrics()

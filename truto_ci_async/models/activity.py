"""Activity: how much one user did in the connected product over one window."""

from __future__ import annotations

from typing import ClassVar

from truto_ci_async._json import UNKNOWN
from truto_ci_async.export.schema import Column, Schema

from .api_object import CHANGE_COLUMNS, REMOTE_COLUMN, ApiObject
from .field_types import Count
from .interactions import ADDITIONAL_METRICS, UserWindow
from .person import PERSON_COLUMNS


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
    *PERSON_COLUMNS,
    Column("start_time", "timestamp", doc="start of the window that the counts cover"),
    Column("end_time", "timestamp", doc="end of that window, not part of it"),
    Column("timezone", "text", doc="IANA name of the zone in which the window was cut"),
    Column("aggregation_period", "text", doc="day, week, month, total or newer"),
    *(Column(name, "int64", f"metrics.{name}", f"{name.replace('_', ' ')} in the window") for name in COUNTS),
    ADDITIONAL_METRICS,
    *CHANGE_COLUMNS,
    REMOTE_COLUMN,
)


class Activity(UserWindow, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Activity counts of one user over one window, the twin of ``Interaction``.

    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a value newer than this package. A call touched
    twice in a window counts once, so the counts of several windows may add up to more than the count of the whole.

    Equal when all fields are equal; hashed by id, user id and window.

        >>> Activity(id="1", metrics=ActivityMetrics(calls_hosted=3)).row()["calls_hosted"]
        3
    """

    SCHEMA: ClassVar[Schema] = ACTIVITY_SCHEMA

    metrics: ActivityMetrics | None = None

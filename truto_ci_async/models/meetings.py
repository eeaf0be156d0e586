"""Meetings: recorded calls, their attendees, and where their recordings are."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Raw

from truto_ci_async.export.schema import Column, Schema

from .api_object import CHANGE_COLUMNS, REMOTE_COLUMN, ApiObject, ApiRecord, iso_text
from .field_types import NO_DATA, AwareDatetime, Number
from .sentences import Sentence


class Attendee(ApiObject, frozen=True, kw_only=True, gc=False):
    """Someone at a meeting. ``type`` is ``user``, ``guest`` or a value newer than this package.

    ``id`` is not documented to be that of a ``User``: join by ``email``.
    """

    id: str | None = None
    name: str | None = None
    email: str | None = None
    is_host: bool | None = None
    type: str | None = None


MEETING_SCHEMA = Schema(
    "meetings",
    Column("id", "text", doc="identifies the meeting"),
    Column("title", "text", doc="title of the meeting"),
    Column("host_name", "text", "host.name", "name of the first attendee who is a host"),
    Column("host_email", "text", "host.email", "address of that host"),
    Column("attendees", "json", doc="everyone there: a JSON array of {id, name, email, is_host, type}"),
    Column("duration", "float64", doc="length in seconds"),
    Column("start_time", "timestamp", doc="when it started"),
    Column("end_time", "timestamp", doc="when it ended"),
    Column("audio_recording_url", "text", doc="where the audio is, often for a short time only"),
    Column("video_recording_url", "text", doc="where the video is, often for a short time only"),
    Column("status", "text", doc="the provider's word for its state"),
    Column("topics", "json", doc="a JSON array of texts"),
    Column("type", "text", doc="the provider's word for its kind"),
    Column(
        "transcript", "json", doc="a JSON array of sentences, if the provider sends them with the meeting"
    ),
    *CHANGE_COLUMNS,
    Column("meeting_url", "text", doc="link to the meeting"),
    Column("calender_event", "text", doc="id of the event in Google's or Outlook's calendar"),
    REMOTE_COLUMN,
)


class Meeting(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """A recorded meeting. ``duration`` is in seconds; recording URLs are often valid for a short time only.

    Gong sends no ``attendees``. Lists of Avoma and Chorus have only some of the fields; ``meetings.get(id)`` has all.
    ``calender_event``, spelt as the service spells it, is the id of the event in Google's or Outlook's calendar.

    Equal when all fields are equal; hashed by id and start.
    """

    SCHEMA: ClassVar[Schema] = MEETING_SCHEMA

    id: str | None = None
    title: str | None = None
    attendees: tuple[Attendee, ...] | None = None
    duration: Number | None = None
    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    audio_recording_url: str | None = None
    video_recording_url: str | None = None
    status: str | None = None
    topics: tuple[str, ...] | None = None
    type: str | None = None
    transcript: tuple[Sentence, ...] | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    meeting_url: str | None = None
    calender_event: str | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash((self.id, self.start_time))

    @property
    def host(self) -> Attendee | None:
        """The first attendee who is a host; None if nobody is marked as one."""
        return next((each for each in self.attendees or () if each.is_host), None)

    def __repr__(self) -> str:
        parts = [] if self.title is None else [f"title={self.title!r}"]
        if self.start_time is not None:
            parts.append(f"start_time={iso_text(self.start_time)}")
        if self.duration is not None:
            parts.append(f"duration={self.duration}")
        for name, noun in (("attendees", "people"), ("transcript", "sentences")):
            if (found := getattr(self, name)) is not None:
                parts.append(f"{name}=<{len(found):,} {noun}>")
        return self._summary(*parts)

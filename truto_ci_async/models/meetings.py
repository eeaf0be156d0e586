"""Meetings: recorded calls, their attendees, and where their recordings are."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from .api_object import ApiObject, ApiRecord, iso_text, json_text
from .field_types import NO_DATA, AwareDatetime, Number
from .sentences import Sentence


class Attendee(ApiObject, frozen=True, kw_only=True, gc=False):
    """Someone at a meeting. ``type`` is ``user``, ``guest`` or a value newer than this package.

    ``id`` is not said to be that of a ``User``: join by ``email``.
    """

    id: str | None = None
    name: str | None = None
    email: str | None = None
    is_host: bool | None = None
    type: str | None = None


class Meeting(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """A recorded meeting. ``duration`` is in seconds; recording URLs are often valid for a short time only.

    Gong sends no ``attendees``. Lists of Avoma and Chorus have some of the fields only; ``meetings.get(id)`` has all.
    ``calender_event``, spelt as the service spells it, is the id of the event in Google's or Outlook's calendar.

    Equal when all fields are equal; hashed by id and start.
    """

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

    def row(self) -> dict[str, Any]:
        """Flatten into one row. Times stay ``datetime``; lists and the provider's record become JSON text."""
        host = self.host or _NOBODY
        return {
            "id": self.id,
            "title": self.title,
            "host_name": host.name,
            "host_email": host.email,
            "attendees": json_text(self.attendees),
            "duration": self.duration,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "audio_recording_url": self.audio_recording_url,
            "video_recording_url": self.video_recording_url,
            "status": self.status,
            "topics": json_text(self.topics),
            "type": self.type,
            "transcript": json_text(self.transcript),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "meeting_url": self.meeting_url,
            "calender_event": self.calender_event,
            "remote_data": self._remote_text(),
        }

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


_NOBODY = Attendee()

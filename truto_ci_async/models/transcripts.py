"""Transcripts: what was said in a meeting, sentence by sentence."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from .api_object import ApiObject, ApiRecord, json_text
from .field_types import NO_DATA, Number
from .sentences import Sentence, as_text, as_webvtt


class MeetingRef(ApiObject, frozen=True, kw_only=True, gc=False):
    """The meeting that a transcript belongs to: ``id`` is that of a ``Meeting``."""

    id: str | None = None


class Transcript(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """What was said in one meeting. Times are seconds from the start of the meeting.

    ``id`` is None with Gong, which has no ids for transcripts. Equal when all fields are equal; hashed by id and
    meeting.
    """

    id: str | None = None
    meeting: MeetingRef | None = None
    entries: tuple[Sentence, ...] | None = None
    start_time: Number | None = None
    end_time: Number | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash((self.id, self.meeting.id if self.meeting else None))

    @property
    def meeting_id(self) -> str | None:
        """The id of the meeting, if the service names it."""
        return self.meeting.id if self.meeting else None

    def text(self) -> str:
        """Return one line per sentence: time, speaker and text. An unnamed speaker shows as type and id.

        >>> print(
        ...     Transcript(entries=(Sentence(start_time=65, speaker_name="Ann", text="Hello."),)).text(),
        ...     end="",
        ... )
        [00:01:05] Ann: Hello.
        """
        return as_text(self.entries or ())

    def webvtt(self) -> str:
        """Return the transcript as WebVTT, for subtitles. Cues are in order, and none is empty."""
        return as_webvtt(self.entries or ())

    def row(self) -> dict[str, Any]:
        """Flatten into one row; ``entries`` become JSON text. ``sentence_rows`` has one row per sentence."""
        return {
            "id": self.id,
            "meeting_id": self.meeting_id,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "entries": json_text(self.entries),
            "remote_data": self._remote_text(),
        }

    def sentence_rows(self) -> list[dict[str, Any]]:
        """Return one row per sentence, led by the ids of transcript and meeting and its ``position`` from 0."""
        return [
            {
                "transcript_id": self.id,
                "meeting_id": self.meeting_id,
                "position": position,
                "id": each.id,
                "speaker_id": each.speaker_id,
                "speaker_type": each.speaker_type,
                "speaker_name": each.speaker_name,
                "start_time": each.start_time,
                "end_time": each.end_time,
                "text": each.text,
                "raw_text": each.raw_text,
            }
            for position, each in enumerate(self.entries or ())
        ]

    def __repr__(self) -> str:
        parts = [f"meeting={self.meeting_id!r}"] if self.meeting else []
        if self.entries is not None:
            parts.append(f"entries=<{len(self.entries):,} sentences>")
        return self._summary(*parts)

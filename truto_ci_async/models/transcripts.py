"""Transcripts: what was said in a meeting, sentence by sentence."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Raw, Struct

from truto_ci_async.export.schema import Column, Columns, Schema

from .api_object import REMOTE_COLUMN, ApiObject, ApiRecord
from .field_types import NO_DATA, Number
from .sentences import Sentence, as_text, as_webvtt


class MeetingRef(ApiObject, frozen=True, kw_only=True, gc=False):
    """The meeting that a transcript belongs to: ``id`` is that of a ``Meeting``."""

    id: str | None = None


TRANSCRIPT_SCHEMA = Schema(
    "transcripts",
    Column("id", "text", doc="identifies the transcript; null with Gong"),
    Column("meeting_id", "text", doc="id of the meeting"),
    Column("start_time", "float64", doc="start in seconds from the start of the meeting"),
    Column("end_time", "float64", doc="end in seconds from the start of the meeting"),
    Column("entries", "json", doc="a JSON array of sentences; sentence_rows() has one row for each"),
    REMOTE_COLUMN,
)

SENTENCE_SCHEMA = Schema(
    "sentences",
    Column("transcript_id", "text", doc="id of the transcript, if the provider has one"),
    Column("meeting_id", "text", doc="id of the meeting"),
    Column("position", "int64", doc="place of the sentence in its transcript, from 0"),
    Column("id", "text", "sentence.id", "identifies the sentence, if the provider does"),
    Column("speaker_id", "text", "sentence.speaker_id", "with Gong a person on this call, not a user"),
    Column("speaker_type", "text", "sentence.speaker_type", "user, guest or newer"),
    Column("speaker_name", "text", "sentence.speaker_name", "null for a speaker the provider does not name"),
    Column("start_time", "float64", "sentence.start_time", "start in seconds from the start of the meeting"),
    Column("end_time", "float64", "sentence.end_time", "end in seconds from the start of the meeting"),
    Column("text", "text", "sentence.text", "what was said"),
    Column("raw_text", "text", "sentence.raw_text", "the same before the provider cleaned it up"),
)


class SentenceRow(Struct, frozen=True, kw_only=True, gc=False):
    """A sentence with the transcript and meeting it is from, for tables: see ``Transcript.sentence_rows``."""

    SCHEMA: ClassVar[Schema] = SENTENCE_SCHEMA

    transcript_id: str | None = None
    meeting_id: str | None = None
    position: int = 0
    sentence: Sentence = Sentence()

    def row(self, columns: Columns = None) -> dict[str, Any]:
        """Flatten into one row, with ``columns`` only if given."""
        return SENTENCE_SCHEMA.row(self, columns)


class Transcript(ApiRecord, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """What was said in one meeting. Times are seconds from the start of the meeting.

    ``id`` is None with Gong, which has no ids for transcripts. Equal when all fields are equal; hashed by id and
    meeting.
    """

    SCHEMA: ClassVar[Schema] = TRANSCRIPT_SCHEMA

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

    def sentence_rows(self) -> list[SentenceRow]:
        """Return the sentences as items of their own, for one row per sentence.

        truto_ci_async.to_polars(transcript.sentence_rows())
        """
        return [
            SentenceRow(transcript_id=self.id, meeting_id=self.meeting_id, position=position, sentence=each)
            for position, each in enumerate(self.entries or ())
        ]

    def __repr__(self) -> str:
        parts = [f"meeting={self.meeting_id!r}"] if self.meeting else []
        if self.entries is not None:
            parts.append(f"entries=<{len(self.entries):,} sentences>")
        return self._summary(*parts)

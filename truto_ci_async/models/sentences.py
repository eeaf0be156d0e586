"""Sentences of a call, and how they become text and WebVTT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .api_object import ApiObject
from .field_types import Number

# Later times are clamped to this one: a float may be too large for an integer.
MOST_SECONDS = 10**9

_LINE_ENDS = re.compile(r"[\r\n]+")


class Sentence(ApiObject, frozen=True, kw_only=True, gc=False):
    """A sentence of a transcript. Times are seconds from the start of the meeting.

    ``speaker_type`` is ``user``, ``guest`` or a value newer than this package. ``speaker_name`` is None for a speaker
    whom the provider does not name. With Gong, ``speaker_id`` is a person on this one call and not the id of a
    ``User``. ``raw_text`` is the text before the provider cleaned it up.
    """

    id: str | None = None
    speaker_id: str | None = None
    speaker_type: str | None = None
    speaker_name: str | None = None
    text: str | None = None
    raw_text: str | None = None
    start_time: Number | None = None
    end_time: Number | None = None

    @property
    def spoken(self) -> str:
        """``text``, or ``raw_text`` where there is none, in one line."""
        return _LINE_ENDS.sub(" ", self.text or self.raw_text or "").strip()

    @property
    def speaker(self) -> str | None:
        """The speaker's name, else the type and id that are known; None if nothing is."""
        if self.speaker_name:
            return _LINE_ENDS.sub(" ", self.speaker_name).strip()
        return f"{self.speaker_type or 'speaker'} {self.speaker_id}" if self.speaker_id else None


def as_text(sentences: Sequence[Sentence]) -> str:
    """Return one line per sentence, such as ``[00:01:05] Ann: Hello.``"""
    lines: list[str] = []
    for each in sentences:
        time = "" if each.start_time is None else f"[{_clock(_milliseconds(each.start_time))[:-4]}] "
        speaker = f"{each.speaker}: " if each.speaker else ""
        if each.spoken:
            lines.append(f"{time}{speaker}{each.spoken}\n")
    return "".join(lines)


def as_webvtt(sentences: Sequence[Sentence]) -> str:
    """Return the sentences as WebVTT: cues in order of their start, each at least a millisecond long."""
    cues = sorted(_cues(sentences), key=lambda cue: cue[0])
    texts = [f"\n{_clock(start)} --> {_clock(end)}\n{text}\n" for start, end, text in cues]
    return "".join(("WEBVTT\n", *texts))


def _cues(sentences: Sequence[Sentence]) -> Iterator[tuple[int, int, str]]:
    """Yield start and end in milliseconds, and the payload. Without a start, a cue begins where the last one ended."""
    end = 0
    for each in sentences:
        start = end if each.start_time is None else _milliseconds(each.start_time)
        end = start if each.end_time is None else _milliseconds(each.end_time)
        end = max(end, start + 1)
        if each.spoken:
            speaker = each.speaker
            yield start, end, (f"<v {_escaped(speaker)}>" if speaker else "") + _escaped(each.spoken)


def _milliseconds(seconds: Number) -> int:
    """Round to the nearest millisecond, halves up. Nothing is before the start of the meeting, or decades after."""
    return int(max(min(seconds, MOST_SECONDS), 0) * 1000 + 0.5)


def _clock(milliseconds: int) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}"


def _escaped(text: str) -> str:
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\0", "\N{REPLACEMENT CHARACTER}")
    )

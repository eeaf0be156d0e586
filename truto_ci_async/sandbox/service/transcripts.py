"""What is said in a meeting, as sentences with times."""

from __future__ import annotations

import random
from typing import Any, Final

from .meetings import Meeting
from .names import CLOSINGS, OPENINGS, REPLIES, SENTENCES

_SECONDS_PER_SENTENCE: Final = 20
_FILLERS: Final = ("Um, ", "So, ", "You know, ", "")


def sentences(meeting: Meeting, count: int | None, *, with_ids: bool) -> list[dict[str, Any]]:
    """Return the sentences of a meeting in the order of their start; empty if it was not recorded.

    :param count: how many; by default one in about 20 seconds.
    """
    if not meeting.is_recorded:
        return []
    if count is None:
        count = max(4, meeting.duration // _SECONDS_PER_SENTENCE)
    draw = random.Random(meeting.bits).getrandbits
    pool = [text for topic in meeting.topics for text in SENTENCES[topic]]
    step = meeting.duration / (count + 1)
    speakers = meeting.speakers
    found: list[dict[str, Any]] = []
    speaker, used = 0, 0
    for number in range(count):
        bits = draw(48)
        if number == 0:
            text = OPENINGS[bits % len(OPENINGS)]
        elif count - number <= 2 < count:
            text = CLOSINGS[bits % len(CLOSINGS)]
        elif bits & 3 == 0:
            text = REPLIES[(bits >> 2) % len(REPLIES)]
        else:
            text, used = pool[used % len(pool)], used + 1
        filler = _FILLERS[bits >> 8 & 3]
        start = round(step * (number + (bits >> 10 & 255) / 2560), 3)
        sentence: dict[str, Any] = {"id": None} if with_ids else {}
        sentence["speaker_id"], sentence["speaker_type"], sentence["speaker_name"] = speakers[speaker]
        sentence["text"] = text
        sentence["raw_text"] = _spoken(filler, text)
        sentence["start_time"] = _number(start)
        sentence["end_time"] = _number(round(start + step * (0.4 + (bits >> 18 & 255) / 512), 3))
        found.append(sentence)
        if bits >> 26 & 1:
            speaker = (bits >> 27) % len(speakers)
    return found


def unified_transcript(meeting: Meeting, count: int | None) -> dict[str, Any]:
    """Return the record of `transcripts`. Gong has no id for one, nor for a sentence."""
    entries = sentences(meeting, count, with_ids=True)
    return {
        "id": None,
        "meeting": {"id": meeting.id},
        "entries": entries,
        "start_time": entries[0]["start_time"],
        "end_time": entries[-1]["end_time"],
        "remote_data": remote_transcript(meeting, entries),
    }


def remote_transcript(meeting: Meeting, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the transcript as Gong sends it: monologues, with times in milliseconds."""
    monologues: list[dict[str, Any]] = []
    topics = (*meeting.topics, None)
    for entry in entries:
        if not monologues or monologues[-1]["speakerId"] != entry["speaker_id"]:
            topic = topics[len(monologues) % len(topics)]
            monologues.append({"speakerId": entry["speaker_id"], "topic": topic, "sentences": []})
        monologues[-1]["sentences"].append(
            {
                "start": round(entry["start_time"] * 1000),
                "end": round(entry["end_time"] * 1000),
                "text": entry["text"],
            }
        )
    return {"callId": meeting.id, "transcript": monologues}


def _spoken(filler: str, text: str) -> str:
    """Return a sentence as it was said, before it was tidied up."""
    return filler + (text if not filler or text.startswith("I") else text[0].lower() + text[1:])


def _number(seconds: float) -> int | float:
    return int(seconds) if seconds.is_integer() else seconds

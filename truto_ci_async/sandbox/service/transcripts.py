"""What is said in a meeting, as sentences with times."""

from __future__ import annotations

import random
from typing import Any, Final

from .meetings import Meeting
from .names import CLOSINGS, OPENINGS, REPLIES, SENTENCES

_FILLERS: Final = ("Um, ", "So, ", "You know, ", "")


def sentences(meeting: Meeting, count: int | None, *, with_ids: bool) -> list[dict[str, Any]]:
    """Return the sentences of a meeting in the order of their start; empty if it was not recorded.

    :param count: how many; by default one in about twelve seconds.
    """
    if not meeting.is_recorded:
        return []
    rng = random.Random(meeting.bits)
    if count is None:
        count = max(4, meeting.duration // 12)
    pool = [text for topic in meeting.topics for text in SENTENCES[topic]]
    step = meeting.duration / (count + 1)
    found: list[dict[str, Any]] = []
    speaker, used = 0, 0
    for number in range(count):
        if number == 0:
            text = rng.choice(OPENINGS)
        elif number >= count - 2 and count > 4:
            text = rng.choice(CLOSINGS)
        elif rng.random() < 0.3:
            text = rng.choice(REPLIES)
        else:
            text, used = pool[used % len(pool)], used + 1
        speaker_id, kind, name = meeting.speakers[speaker]
        start = round(step * (number + 0.1 * rng.random()), 3)
        end = round(start + step * (0.4 + 0.5 * rng.random()), 3)
        filler = rng.choice(_FILLERS)
        raw = filler + (text if not filler or text.startswith("I") else text[0].lower() + text[1:])
        sentence = {
            "speaker_id": speaker_id,
            "speaker_type": kind,
            "speaker_name": name,
            "text": text,
            "raw_text": raw,
            "start_time": _number(start),
            "end_time": _number(end),
        }
        found.append({"id": None, **sentence} if with_ids else sentence)
        if rng.random() < 0.6:
            speaker = rng.randrange(len(meeting.speakers))
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


def _number(seconds: float) -> int | float:
    return int(seconds) if seconds.is_integer() else seconds

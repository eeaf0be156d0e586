"""The five providers of conversational intelligence: what each can serve, and how its meetings list behaves.

Who serves what is Truto's table. Which provider takes which bound of a window is not public, only how many do: three
take a start, one of which requires it, and two take an end. The sandbox gives each behaviour to one of the five.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MODEL: Final = "conversational-intelligence"

_LISTED_BY_AVOMA: Final = frozenset(
    ("id", "title", "start_time", "end_time", "duration", "status", "created_at", "updated_at", "remote_data")
)
_LISTED_BY_CHORUS: Final = frozenset(("id", "title", "start_time", "duration", "type", "remote_data"))


@dataclass(frozen=True, slots=True)
class Provider:
    """What one provider can do. `resources` are those of the unified model, with their methods."""

    resources: Mapping[str, tuple[str, ...]]
    meeting_parameters: tuple[
        str, ...
    ] = ()  # those of its meetings list that have an effect; others are ignored
    required: tuple[str, ...] = ()  # those of the meetings list that must be there
    listed: frozenset[str] | None = None  # fields of a meeting in the list; None is all of them
    missing: frozenset[str] = frozenset()  # fields of a meeting that it never has


PROVIDERS: Final[Mapping[str, Provider]] = {
    "gong": Provider(
        {
            "meetings": ("list", "get"),
            "users": ("list", "get"),
            "transcripts": ("list",),
            "activity": ("list",),
            "interactions": ("list",),
        },
        meeting_parameters=("start_time", "end_time", "user_id"),
        missing=frozenset(("attendees", "transcript", "topics")),
    ),
    "avoma": Provider(
        {"meetings": ("list", "get"), "users": ("list", "get")},
        meeting_parameters=("start_time", "end_time"),
        required=("start_time",),
        listed=_LISTED_BY_AVOMA,
    ),
    "chorus": Provider(
        {"meetings": ("list", "get"), "users": ("list",)},
        meeting_parameters=("start_time",),
        listed=_LISTED_BY_CHORUS,
    ),
    "firefliesai": Provider({"meetings": ("list", "get"), "users": ("list", "get")}),
    "wingman": Provider(
        {"meetings": ("list", "get"), "users": ("list",)},
        missing=frozenset(("audio_recording_url", "transcript")),
    ),
}

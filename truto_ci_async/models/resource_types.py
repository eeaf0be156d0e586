"""The item type of each resource that a pull can write and ``read_folder`` can read."""

from __future__ import annotations

from typing import Any, Final

from .activity import Activity
from .interactions import Interaction
from .meetings import Meeting
from .transcripts import Transcript
from .users import User

ITEM_TYPES: Final[dict[str, Any]] = {
    "interactions": Interaction,
    "meetings": Meeting,
    "users": User,
    "transcripts": Transcript,
    "activity": Activity,
}

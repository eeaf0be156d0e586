"""Records that are not final at once: some come late, some are gone again, some change.

Which of it happens to a record, and how long after its end, depends on the record alone. An eighth of all come late, an
eighth are gone again, and an eighth change, each at a time of its own within the settling time. After that, nothing
happens to any of them.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import Literal

Phase = Literal["absent", "draft", "final"]


def phase_of(key: str, end: datetime, now: datetime, settling: float) -> Phase:
    """Return how a record shows at `now`. It ended at `end`, and `settling` are seconds."""
    if not settling:
        return "final"
    bits = int.from_bytes(blake2b(key.encode(), digest_size=8).digest())
    is_settled = (now - end).total_seconds() >= settling * (1 + bits % 97) / 97
    kind = bits >> 32 & 7
    if kind == 0:
        return "final" if is_settled else "absent"
    if kind == 1:
        return "absent" if is_settled else "final"
    return "draft" if kind == 2 and not is_settled else "final"

"""Counts of what people did, added up from the meetings of a window.

What happens around a meeting (who listens to it, comments on it, shares it) is derived from that meeting alone. So the
counts of two windows add up to those of both, and for every piece of feedback given there is one received.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

from .meetings import Meeting
from .people import Person
from .windows import Window

# Our name of each count, with Gong's. The last is not among those that Truto's page shows.
COUNTS: Final = {
    "calls_hosted": "callsAsHost",
    "calls_attended": "callsAttended",
    "calls_listened_own": "ownCallsListenedTo",
    "calls_listened_others": "othersCallsListenedTo",
    "feedback_given": "callsGaveFeedback",
    "feedback_received": "callsReceivedFeedback",
    "feedback_requested": "callsRequestedFeedback",
    "comments_given": "callsCommentsGiven",
    "comments_received": "callsCommentsReceived",
    "calls_shared_internally": "callsSharedInternally",
    "calls_shared_externally": "callsSharedExternally",
}


def count_activity(meetings: Iterable[Meeting]) -> dict[Person, dict[str, int]]:
    """Return the counts of everyone with any."""
    counts: defaultdict[Person, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for meeting in meetings:
        host = counts[meeting.host]
        host["calls_hosted"] += 1
        bits = meeting.bits >> 216
        if meeting.is_recorded:
            host["calls_listened_own"] += bits & 3 == 0
            host["feedback_requested"] += bits >> 2 & 7 == 0
            host["calls_shared_internally"] += bits >> 5 & 7 == 0
            host["calls_shared_externally"] += bool(meeting.guests) and bits >> 8 & 15 == 0
        for place, colleague in enumerate(meeting.colleagues):
            own, bits_of = counts[colleague], bits >> 12 + 6 * place
            own["calls_attended"] += 1
            if not meeting.is_recorded:
                continue
            own["calls_listened_others"] += bits_of & 3 == 0
            for kind, happened in (("feedback", bits_of >> 2 & 3 == 0), ("comments", bits_of >> 4 & 3 == 0)):
                own[f"{kind}_given"] += happened
                host[f"{kind}_received"] += happened
    return counts


def unified_activity(
    person: Person, counts: dict[str, int], window: Window, seed: int, account_id: str
) -> dict[str, Any]:
    start, end = window.texts
    # As with interactions, the id leaves the window out.
    stable = blake2b(f"{seed}/{account_id}/{person.id}/activity".encode(), digest_size=12).hexdigest()
    return {
        "id": stable,
        "user": {
            "id": person.id,
            "name": None,
            "emails": [{"email": person.email, "is_primary": True}],
        },
        "start_time": start,
        "end_time": end,
        "aggregation_period": "total",
        "metrics": counts,
        "remote_data": remote_activity(person, counts),
    }


def remote_activity(person: Person, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "userId": person.id,
        "userEmailAddress": person.email,
        "userAggregateActivityStats": {COUNTS[name]: count for name, count in counts.items()},
    }

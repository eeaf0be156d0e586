"""Made-up, seeded data: accounts, the companies behind them, their users, and each user's statistics.

Rows are not stored. Each is computed from (seed, account, user, window), so the same request always gets the same
records, and a company of a hundred thousand users costs nothing until it is used.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from .meetings import Meeting, make_meetings
from .people import Person, Profile, make_people
from .providers import MODEL, PROVIDERS
from .talk_statistics import statistics_of
from .windows import TIMEZONE, Window

STATISTICS: Final = {
    "longest_monologue": "Longest Monologue",
    "longest_customer_story": "Longest Customer Story",
    "interactivity": "Interactivity",
    "patience": "Patience",
    "question_rate": "Question Rate",
}
_EXTRA_STATISTICS: Final = ("Talk Ratio", "Nombre d’écoutes", "Filler Words")
# The least value of each, and the divisor of 0 to 4095. Plausible ones are a percentage and two counts.
_EXTRA_SCALES: Final = ((30.0, 128), (0, 256), (0, 64))
_NO_SCALES: Final = ((0, 1), (0, 2), (0, 3))
_CRM_CONTACTS: Final = 36  # records of crm/contacts in every account
# The accounts after the active Gong ones cycle through these.
_OTHERS: Final = (
    ("gong", "needs_reauth"),
    ("hubspot", "active"),
    ("gong", "validation_error"),
    ("zendesk", "connecting"),
    ("gong", "post_install_error"),
)
_CATEGORIES: Final = {"gong": MODEL, "hubspot": "crm", "zendesk": "ticketing"}


@dataclass(slots=True)
class Company:
    """One integrated account, the people in it, and their meetings."""

    seed: int
    account: dict[str, Any]
    size: int
    meeting_count: int
    year: int  # of the meetings
    is_realistic: bool
    _users: list[Person] = field(default_factory=list[Person])
    _meetings: list[Meeting] = field(default_factory=list[Meeting])
    _meetings_by_id: dict[str, Meeting] = field(default_factory=dict[str, Meeting])
    # Id and profile of a user's rows.
    _known: dict[str, tuple[str, Profile | None]] = field(
        default_factory=dict[str, tuple[str, Profile | None]]
    )

    @property
    def id(self) -> str:
        return str(self.account["id"])

    @property
    def integration(self) -> str:
        return str(self.account["integration"]["name"])

    @property
    def users(self) -> list[Person]:
        """Everyone with a row. Made on first use."""
        if len(self._users) != self.size:
            domain = f"{self.account['context']['subdomain']}.example" if self.is_realistic else None
            self._users = make_people(self.seed, self.id, self.integration, self.size, domain)
            self._meetings = []
        return self._users

    @property
    def meetings(self) -> list[Meeting]:
        """All meetings of the year, in the order of their start. Made on first use."""
        people = self.users
        if len(self._meetings) != self.meeting_count and people:
            self._meetings = make_meetings(
                self.seed, self.id, self.integration, people, self.year, self.meeting_count
            )
            self._meetings_by_id = {meeting.id: meeting for meeting in self._meetings}
        return self._meetings

    def meeting(self, meeting_id: str) -> Meeting | None:
        return self._meetings_by_id.get(meeting_id) if self.meetings else None

    def row(self, user: Person, window: Window, *, is_draft: bool = False) -> Row:
        key = f"{self.seed}/{self.id}/{user.id}/{window.start}/{window.end}{'/draft' if is_draft else ''}"
        bits = int.from_bytes(blake2b(key.encode(), digest_size=32).digest())
        known = self._known.get(user.id)
        if known is None:
            # The id leaves the window out: ids are not known to be unique across windows, so here they are not.
            stable = blake2b(f"{self.seed}/{self.id}/{user.id}".encode(), digest_size=12).hexdigest()
            known = self._known[user.id] = (stable, user.profile() if self.is_realistic else None)
        return Row(known[0], user.id, user.email, window, bits, known[1])

    def contacts(self) -> list[dict[str, Any]]:
        """Return the records of crm/contacts."""
        rng = random.Random(f"{self.seed}/{self.id}/contacts")
        return [
            {
                "id": str(1000 + number),
                "first_name": rng.choice(("Ada", "Zoë", "Chen", "山田")),
                "last_name": rng.choice(("Okafor", "Núñez", "Smith")),
                "emails": [{"email": f"contact{number}@example.com", "is_primary": True}],
                "created_at": f"2024-01-{number % 28 + 1:02}T10:00:00.000Z",
                "updated_at": f"2024-06-{number % 28 + 1:02}T10:00:00.000Z",
                "remote_data": {"vid": 1000 + number},
            }
            for number in range(_CRM_CONTACTS)
        ]


@dataclass(frozen=True, slots=True)
class Row:
    """One user's statistics for one window. All variation comes from the random `bits`."""

    id: str
    user_id: str
    email: str
    window: Window
    bits: int
    profile: Profile | None  # with one, the values are plausible

    def unified(self) -> dict[str, Any]:
        """Return the row as Truto maps it."""
        start, end = self.window.texts
        values, extra = self._statistics(), self._extra_statistics()
        user: dict[str, Any] = {"id": self.user_id, "emails": [{"email": self.email, "is_primary": True}]}
        if self.bits & 1:
            user["name"] = None
        item: dict[str, Any] = {
            "id": self.id,
            "user": user,
            "start_time": start,
            "end_time": end,
            "timezone": TIMEZONE,
            "aggregation_period": "total",
            "metrics": values,
            "additional_metrics": extra,
        }
        if self.bits & 2:
            item["created_at"] = item["updated_at"] = None
        item["remote_data"] = self._gong(values, extra)
        return item

    def synced(self) -> dict[str, Any]:
        """Return the row as Truto's synced store holds it: unified, with the times of the sync."""
        synced_at = f"{self.window.end.isoformat()}T10:00:00.000Z"
        return {**self.unified(), "created_at": synced_at, "updated_at": synced_at}

    def gong(self) -> dict[str, Any]:
        """Return the row as Gong sends it."""
        return self._gong(self._statistics(), self._extra_statistics())

    def _gong(self, values: Mapping[str, int | float | None], extra: list[dict[str, Any]]) -> dict[str, Any]:
        named = [{"name": STATISTICS[name], "value": value} for name, value in values.items()]
        return {
            "userId": self.user_id,
            "userEmailAddress": self.email,
            "personInteractionStats": named + extra,
        }

    def _statistics(self) -> dict[str, int | float | None]:
        if self.profile is not None:
            return statistics_of(self.profile, self.window, self.bits)
        bits = self.bits >> 8
        values: dict[str, int | float | None] = {}
        for name in STATISTICS:
            kind, amount = bits & 15, (bits >> 4 & 0xFFFF) / 64
            bits >>= 20
            if kind == 0:
                continue
            values[name] = None if kind == 1 else int(amount) if kind < 6 else round(amount, kind - 5)
        return values

    def _extra_statistics(self) -> list[dict[str, Any]]:
        count, amount = self.bits >> 2 & 3, self.bits >> 120 & 0xFFF
        scale = _EXTRA_SCALES if self.profile is not None else _NO_SCALES
        return [
            {"name": name, "value": least + amount / divisor}
            for name, (least, divisor) in zip(_EXTRA_STATISTICS[:count], scale, strict=False)
        ]


def make_accounts(
    seed: int, active: int | Sequence[str], others: int, providers: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Make accounts in the form of `GET /integrated-account`.

    First come the `active` Gong accounts (a number, or their ids), then `others` mixed ones, then active ones of the
    other `providers` of conversational intelligence.
    """
    rng = random.Random(f"{seed}/accounts")
    environment, installed = _new_id(rng), {name: (_new_id(rng), _new_id(rng)) for name in _CATEGORIES}
    ids = [_new_id(rng) for _ in range(active)] if isinstance(active, int) else active
    wanted = [(account_id, "gong", "active") for account_id in ids]
    wanted += [(_new_id(rng), *_OTHERS[number % len(_OTHERS)]) for number in range(others)]
    more = random.Random(f"{seed}/accounts/providers")  # of its own, so that the others' ids stay the same
    installed |= {name: (_new_id(more), _new_id(more)) for name in PROVIDERS if name not in installed}
    wanted += [(_new_id(more), name, "active") for name, count in providers.items() for _ in range(count)]
    return [
        {
            "id": account_id,
            "tenant_id": f"tenant-{number + 1}",
            "environment_id": environment,
            "environment_integration_id": installed[integration][0],
            "status": status,
            "is_sandbox": number % 3 == 2,
            "authentication_method": "oauth2" if number % 2 else "basic",
            "region": ("wnam", "apac")[number % 2],
            "context": {"subdomain": f"company-{number + 1}"},
            "integration": {
                "id": installed[integration][1],
                "name": integration,
                "category": _CATEGORIES.get(integration, MODEL),
            },
            "features": {"super_query": integration == "gong"},
            "object_store_context_fields": [],
            "created_at": f"2024-01-{number % 28 + 1:02}T09:00:00.000Z",
            "updated_at": f"2024-02-{number % 28 + 1:02}T09:00:00.000Z",
            "last_error": None if status in ("active", "connecting") else f"{integration}: {status}",
            "last_forbidden_error": None,
            "last_action_run_result": None,
        }
        for number, (account_id, integration, status) in enumerate(wanted)
    ]


def _new_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))

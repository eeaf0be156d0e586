"""Made-up, seeded data: accounts, the companies behind them, their users, and each user's statistics.

Rows are not stored. Each is computed from (seed, account, user, window), so the same request always gets the same
records, and a company of a hundred thousand users costs nothing until it is used.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

TIMEZONE: Final = "US/Pacific"  # of every company
STATISTICS: Final = {
    "longest_monologue": "Longest Monologue",
    "longest_customer_story": "Longest Customer Story",
    "interactivity": "Interactivity",
    "patience": "Patience",
    "question_rate": "Question Rate",
}
_EXTRA_STATISTICS: Final = ("Talk Ratio", "Nombre d’écoutes", "Filler Words")
_LOCAL_PARTS: Final = (
    "ada",
    "bob.k",
    "chen",
    "zoë",
    "dana+sales",
    "björn",
    "eve_1",
    "山田",
    "frank",
    "o'neil",
)
_CRM_CONTACTS: Final = 36  # records of crm/contacts in every account
# The accounts after the active Gong ones cycle through these.
_OTHERS: Final = (
    ("gong", "needs_reauth"),
    ("hubspot", "active"),
    ("gong", "validation_error"),
    ("zendesk", "connecting"),
    ("gong", "post_install_error"),
)
_CATEGORIES: Final = {"gong": "conversational-intelligence", "hubspot": "crm", "zendesk": "ticketing"}


@dataclass(frozen=True, slots=True)
class Window:
    """Whole days of the company's calendar. `end` is exclusive."""

    start: date
    end: date

    @classmethod
    def whole_days(cls, start: datetime, end: datetime) -> Window:
        """Return the window Gong uses for a requested one: the dates of its bounds in UTC."""
        return cls(start.astimezone(UTC).date(), end.astimezone(UTC).date())

    @property
    def is_empty(self) -> bool:
        return self.end <= self.start

    @property
    def texts(self) -> tuple[str, str]:
        """Start and end as date-times with the company's UTC offset."""
        return midnight(self.start), midnight(self.end)


def midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00{'-07:00' if _is_summer(day) else '-08:00'}"


def _is_summer(day: date) -> bool:
    """Tell whether summer time applies at midnight Pacific of `day`, without needing a time zone database."""
    march, november = date(day.year, 3, 8), date(day.year, 11, 1)
    starts = march + timedelta(days=6 - march.weekday())  # second Sunday of March
    ends = november + timedelta(days=6 - november.weekday())  # first Sunday of November
    return starts < day <= ends


@dataclass(slots=True)
class Company:
    """One integrated account and the people in it."""

    seed: int
    account: dict[str, Any]
    size: int
    _users: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def id(self) -> str:
        return str(self.account["id"])

    @property
    def users(self) -> list[tuple[str, str]]:
        """(id, email) of everyone with a row. Made on first use."""
        if len(self._users) != self.size:
            self._users = _make_users(random.Random(f"{self.seed}/{self.id}/users"), self.size)
        return self._users

    def row(self, user: tuple[str, str], window: Window) -> Row:
        key = f"{self.seed}/{self.id}/{user[0]}/{window.start}/{window.end}"
        bits = int.from_bytes(blake2b(key.encode(), digest_size=32).digest())
        # The id leaves the window out: ids are not known to be unique across windows, so here they are not.
        stable = blake2b(f"{self.seed}/{self.id}/{user[0]}".encode(), digest_size=12).hexdigest()
        return Row(stable, user[0], user[1], window, bits)

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

    def unified(self) -> dict[str, Any]:
        """Return the row as Truto maps it."""
        start, end = self.window.texts
        values = self._statistics()
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
            "additional_metrics": self._extra_statistics(),
        }
        if self.bits & 2:
            item["created_at"] = item["updated_at"] = None
        item["remote_data"] = self.gong()
        return item

    def synced(self) -> dict[str, Any]:
        """Return the row as Truto's synced store holds it: unified, with the times of the sync."""
        synced_at = f"{self.window.end.isoformat()}T10:00:00.000Z"
        return {**self.unified(), "created_at": synced_at, "updated_at": synced_at}

    def gong(self) -> dict[str, Any]:
        """Return the row as Gong sends it."""
        named = [{"name": STATISTICS[name], "value": value} for name, value in self._statistics().items()]
        return {
            "userId": self.user_id,
            "userEmailAddress": self.email,
            "personInteractionStats": named + self._extra_statistics(),
        }

    def _statistics(self) -> dict[str, int | float | None]:
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
        return [
            {"name": name, "value": amount / (place + 1)}
            for place, name in enumerate(_EXTRA_STATISTICS[:count])
        ]


def make_accounts(seed: int, active: int | Sequence[str], others: int) -> list[dict[str, Any]]:
    """Make accounts in the form of `GET /integrated-account`.

    First come the `active` Gong accounts (a number, or their ids), then `others` mixed ones.
    """
    rng = random.Random(f"{seed}/accounts")

    def new_id() -> str:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    environment, installed = new_id(), {name: (new_id(), new_id()) for name in _CATEGORIES}
    ids = [new_id() for _ in range(active)] if isinstance(active, int) else active
    wanted = [(account_id, "gong", "active") for account_id in ids]
    wanted += [(new_id(), *_OTHERS[number % len(_OTHERS)]) for number in range(others)]
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
                "category": _CATEGORIES[integration],
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


def _make_users(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Make users whose ids have 15 to 20 digits, too long for a double (15) or a 64-bit integer (19)."""
    users: dict[str, str] = {}
    while len(users) < count:
        digits = 20 if len(users) % 5 == 1 else rng.randint(15, 19)
        user_id = str(rng.randint(10 ** (digits - 1), 10**digits - 1))
        users[user_id] = f"{rng.choice(_LOCAL_PARTS)}.{len(users)}@example.com"
    return list(users.items())

"""Made-up people: users of a company, with names, teams and habits on calls."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, Final

from .names import DEPARTMENTS, FIRST_NAMES, LAST_NAMES

_PLAIN_LOCAL_PARTS: Final = (
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
_REPORTS: Final = 9  # people in a team
_MIDDLES: Final = (120.0, 55.0, 5.2, 0.85, 14.0)  # of the statistics; the first two and patience in seconds
_DIFFERENCES: Final = (0.38, 0.45, 0.22, 0.24, 0.32)  # between people, of the logarithm
# How teams differ, as factors, in the order of `names.DEPARTMENTS`.
_TEAMS: Final = (
    (1.00, 1.00, 1.00, 1.00, 1.00),
    (0.70, 0.75, 1.15, 0.80, 1.35),
    (0.90, 1.35, 1.05, 1.25, 0.95),
    (0.95, 1.15, 1.05, 1.10, 1.00),
    (1.60, 0.80, 0.75, 1.05, 0.65),
    (0.75, 1.10, 1.10, 1.30, 0.90),
)
_TEAM_LEVELS: Final = [
    [math.log(middle * factor) for middle, factor in zip(_MIDDLES, team, strict=True)] for team in _TEAMS
]
# Ten random bits index a number of the normal distribution.
NORMALS: Final = tuple(NormalDist().inv_cdf((number + 0.5) / 1024) for number in range(1024))
_YEARS: Final = (date(2018, 1, 1).toordinal(), date(2023, 7, 1).toordinal(), date(2025, 1, 1).toordinal())


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known about a person beside id and email. Days are ordinals."""

    department: int
    manager: int | None  # place in the company's list of users
    first_day: int
    last_day: int | None
    levels: tuple[float, ...]  # the logarithm of this person's middle value of each statistic

    def works_on(self, day: int) -> bool:
        return self.first_day <= day and (self.last_day is None or day < self.last_day)


@dataclass(frozen=True, slots=True)
class Person:
    number: int  # place in the company's list of users
    id: str
    email: str
    name: str
    bits: int

    def profile(self) -> Profile:
        return _profile(self.number, self.bits)


@lru_cache(maxsize=8192)
def _profile(number: int, bits: int) -> Profile:
    bits >>= 32
    manager = (number - len(DEPARTMENTS)) // _REPORTS if number >= len(DEPARTMENTS) else None
    head = number
    while head >= len(DEPARTMENTS):
        head = (head - len(DEPARTMENTS)) // _REPORTS
    # One in six was hired since mid-2023, one in ten of the others leaves in 2024. Heads stay.
    old, recent, end = _YEARS
    share = (bits & 0xFFF) / 4096
    is_new = manager is not None and bits >> 12 & 0xFFF < 4096 // 6
    first = recent + int(share * (end - recent)) if is_new else old + int(share * (recent - old))
    leaves = manager is not None and not is_new and bits >> 24 & 0xFFF < 4096 // 10
    last = date(2024, 1, 1).toordinal() + (bits >> 36) % 366 if leaves else None
    return Profile(head, manager, first, last, _levels(head, bits >> 48))


def _levels(department: int, bits: int) -> tuple[float, ...]:
    """Return the middle of a person's statistics. Who talks for long hears shorter stories and interrupts less."""
    traits = [NORMALS[bits >> 10 * place & 1023] for place in range(5)]
    traits[1:3] = [0.8 * trait - 0.6 * traits[0] for trait in traits[1:3]]
    return tuple(map(_level, _TEAM_LEVELS[department], _DIFFERENCES, traits))


def _level(middle: float, difference: float, trait: float) -> float:
    return middle + difference * trait


def make_people(seed: int, account_id: str, integration: str, count: int, domain: str | None) -> list[Person]:
    """Make people. Gong's ids have 15 to 20 digits, too long for a double (15) or a 64-bit integer (19).

    :param domain: of their emails; None gives the emails of the plain data, which have no names in them.
    """
    rng = random.Random(f"{seed}/{account_id}/users")
    people: list[Person] = []
    ids: set[str] = set()
    emails: set[str] = set()
    while len(people) < count:
        number = len(people)
        digits = 20 if number % 5 == 1 else rng.randint(15, 19)
        user_id = str(rng.randint(10 ** (digits - 1), 10**digits - 1))
        local = rng.choice(_PLAIN_LOCAL_PARTS)
        if user_id in ids:
            continue
        ids.add(user_id)
        bits = int.from_bytes(
            blake2b(f"{seed}/{account_id}/{user_id}/profile".encode(), digest_size=40).digest()
        )
        name = make_name(bits)
        if domain is None:
            email = f"{local}.{number}@example.com"
        else:
            email = address(name, domain)
            if email in emails:
                email = address(f"{name} {number}", domain)
            emails.add(email)
        if integration != "gong":
            user_id = f"{bits & 0xFFFFFFFFFFFF:012x}{number:04x}"
        people.append(Person(number, user_id, email, name, bits))
    return people


def make_name(bits: int) -> str:
    return f"{FIRST_NAMES[bits % len(FIRST_NAMES)]} {LAST_NAMES[(bits >> 8) % len(LAST_NAMES)]}"


def address(name: str, domain: str) -> str:
    return f"{name.lower().replace(' ', '.')}@{domain}"


def job_title(profile: Profile, *, has_reports: bool) -> str:
    department, title = DEPARTMENTS[profile.department]
    if profile.manager is None:
        return f"Head of {department}"
    return f"Team Lead, {department}" if has_reports else title


def unified_user(person: Person, people: Sequence[Person], integration: str) -> dict[str, Any]:
    """Return a record of `users`."""
    profile = person.profile()
    emails = [{"email": person.email, "is_primary": True}]
    if person.bits >> 28 & 7 == 0:  # some have an alias, and not always after the primary address
        local, _, domain = person.email.partition("@")
        emails.insert(person.bits >> 27 & 1, {"email": f"{local}@mail.{domain}", "is_primary": False})
    created = f"{date.fromordinal(profile.first_day).isoformat()}T09:{person.bits >> 20 & 31:02}:00.000Z"
    changed = date.fromordinal(profile.last_day or profile.first_day + 30)
    return {
        "id": person.id,
        "name": person.name,
        "emails": emails,
        "created_at": created,
        "updated_at": None if integration == "gong" else f"{changed.isoformat()}T17:00:00.000Z",
        "remote_data": remote_user(person, people, created),
    }


def remote_user(person: Person, people: Sequence[Person], created: str) -> dict[str, Any]:
    """Return a user as the provider sends it, with team and manager. Its form is Gong's."""
    profile = person.profile()
    first, _, last = person.name.partition(" ")
    has_reports = person.number * _REPORTS + len(DEPARTMENTS) < len(people)
    return {
        "id": person.id,
        "emailAddress": person.email,
        "created": created,
        "active": profile.last_day is None,
        "emailAliases": [],
        "firstName": first,
        "lastName": last,
        "title": job_title(profile, has_reports=has_reports),
        "department": DEPARTMENTS[profile.department][0],
        "managerId": None if profile.manager is None else people[profile.manager].id,
        "phoneNumber": None,
        "settings": {"webConferencesRecorded": True, "preventWebConferenceRecording": False},
        "spokenLanguages": [{"language": "en-US", "primary": True}],
    }

"""Made-up meetings of a company, spread over one year, and the records made from them.

A meeting depends on (seed, account, number) alone. Its host and attendees are users of the company; guests are not.
Times of day are chosen so that a meeting has the same date in UTC and in the company's time zone: windows of meetings
and of activity then contain the same meetings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cached_property
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from .names import COMPANIES, EXTERNAL_TITLES, INTERNAL_TITLES, TOPICS
from .people import Person, address, make_name
from .windows import is_summer

_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MINUTES: Final = (15, 25, 30, 30, 30, 45, 45, 60, 60, 90)  # planned lengths


@dataclass(frozen=True)
class Meeting:
    id: str
    provider: str
    start: datetime  # in UTC
    duration: int  # seconds
    host: Person
    colleagues: tuple[Person, ...]
    guests: tuple[tuple[str, str, str], ...]  # id, name, email
    title: str
    topics: tuple[str, ...]
    bits: int

    @property
    def end(self) -> datetime:
        return self.start + timedelta(seconds=self.duration)

    @property
    def is_recorded(self) -> bool:
        """Whether there is a recording, and so a transcript. One in twelve has none."""
        return self.bits >> 200 & 0xFFF >= 4096 // 12

    @property
    def users(self) -> tuple[Person, ...]:
        return (self.host, *self.colleagues)

    @cached_property
    def speakers(self) -> list[tuple[str, str, str | None]]:
        """(speaker_id, speaker_type, speaker_name) of everyone in the call.

        Gong's ids are those of a party of this one call, never a user's, and one guest in four has no name there.
        """
        found: list[tuple[str, str, str | None]] = [(user.id, "user", user.name) for user in self.users]
        found += [(guest_id, "guest", name) for guest_id, name, _ in self.guests]
        if self.provider != "gong":
            return found
        names = [None if kind == "guest" and self.bits >> at & 3 == 0 else name
                 for at, (_, kind, name) in enumerate(found)]  # fmt: skip
        return [
            (party_id(self.id, at), kind, name)
            for at, ((_, kind, _), name) in enumerate(zip(found, names, strict=True))
        ]

    def unified(self) -> dict[str, Any]:
        """Return every field of a meeting but `transcript`."""
        address_ = f"https://media.example.com/{blake2b(self.id.encode(), digest_size=8).hexdigest()}"
        recorded = self.is_recorded
        created = _text(self.end + timedelta(minutes=5))
        return {
            "id": self.id,
            "title": self.title,
            "attendees": [
                {
                    "id": user.id,
                    "name": user.name,
                    "email": user.email,
                    "is_host": user is self.host,
                    "type": "user",
                }
                for user in self.users
            ]
            + [
                {"id": guest_id, "name": name, "email": email, "is_host": False, "type": "guest"}
                for guest_id, name, email in self.guests
            ],
            "duration": self.duration,
            "start_time": self._local(self.start) if self.provider == "gong" else _text(self.start),
            "end_time": self._local(self.end) if self.provider == "gong" else _text(self.end),
            "audio_recording_url": f"{address_}.mp3" if recorded else None,
            "video_recording_url": f"{address_}.mp4" if recorded and self.bits >> 212 & 1 else None,
            "status": "completed" if recorded else "not_recorded",
            "topics": list(self.topics),
            "type": "external" if self.guests else "internal",
            "created_at": created,
            "updated_at": created,
            "meeting_url": f"https://calls.example.com/{blake2b(self.id.encode(), digest_size=5).hexdigest()}",
            "calender_event": f"{self.bits >> 160 & 0xFFFFFFFF:08x}_r" if self.bits >> 213 & 3 else None,
            "remote_data": self.remote(),
        }

    def remote(self) -> dict[str, Any]:
        """Return the meeting as the provider sends it, in Gong's form; the other providers' are similar."""
        parties = [
            {
                "id": party_id(self.id, at),
                "speakerId": speaker[0] if self.is_recorded else None,
                "userId": self.users[at].id if at < len(self.users) else None,
                "name": speaker[2],
                "emailAddress": self.users[at].email if at < len(self.users) else self.guests[at - len(self.users)][2],
                "affiliation": "Internal" if at < len(self.users) else "External",
            }
            for at, speaker in enumerate(self.speakers)
        ]  # fmt: skip
        return {
            "id": self.id,
            "title": self.title,
            "started": self._local(self.start),
            "duration": self.duration,
            "primaryUserId": self.host.id,
            "direction": "Conference",
            "scope": "External" if self.guests else "Internal",
            "isPrivate": False,
            "parties": parties,
        }

    def _local(self, moment: datetime) -> str:
        offset = timezone(timedelta(hours=-7 if is_summer(self.start.date()) else -8))
        return moment.astimezone(offset).isoformat()


def make_meetings(
    seed: int, account_id: str, provider: str, people: Sequence[Person], year: int, count: int
) -> list[Meeting]:
    """Make `count` meetings in `year`, in the order of their start. Without people there are none."""
    if not people:
        return []
    days = [date(year, 1, 1) + timedelta(days=number) for number in range(366)]
    days = [day for day in days if day.year == year]
    working = [day for day in days if day.weekday() < 5]
    found: list[Meeting] = []
    for number in range(count):
        key = f"{seed}/{account_id}/meeting/{number}"
        bits = int.from_bytes(blake2b(key.encode(), digest_size=32).digest())
        # A little more every week, and one in forty on any day, weekends included.
        place = (number + (bits & 0xFF) / 256) / count
        some = days if bits >> 8 & 0xFF < 6 else working
        day = some[min(int(len(some) * place**0.9), len(some) - 1)]
        found.append(_make_meeting(number, provider, people, day, bits))
    found.sort(key=lambda meeting: (meeting.start, meeting.id))
    return found


def party_id(meeting_id: str, place: int) -> str:
    """Return the id of a party of one call."""
    return str(int.from_bytes(blake2b(f"{meeting_id}/{place}".encode(), digest_size=8).digest()))


def _make_meeting(number: int, provider: str, people: Sequence[Person], day: date, bits: int) -> Meeting:
    host = _choose_host(people, day, bits >> 16)
    ordinal = day.toordinal()
    # Colleagues are near the host in the list, which is where the team is.
    nearby = [people[(host.number + step) % len(people)] for step in (1, 2, 3, 5, 8)[: len(people) - 1]]
    nearby = [each for each in dict.fromkeys(nearby) if each is not host and each.profile().works_on(ordinal)]
    is_external = bits >> 48 & 3 != 0
    colleagues = tuple(nearby[: (0, 1, 1, 2)[bits >> 50 & 3] if is_external else 1 + (bits >> 50 & 3)])
    customer = COMPANIES[(bits >> 52 & 0xFF) % len(COMPANIES)]
    guests = _make_guests(customer, bits >> 60, (1, 1, 2, 3)[bits >> 62 & 3]) if is_external else ()
    titles = EXTERNAL_TITLES if is_external else INTERNAL_TITLES
    slot = (bits >> 100 & 0xFF) % 29  # quarters of an hour from 7:00 to 14:00, Pacific
    start = datetime(day.year, day.month, day.day, 14 if is_summer(day) else 15, tzinfo=UTC)
    planned = _MINUTES[(bits >> 110 & 0xFF) % len(_MINUTES)] * 60
    first = (bits >> 120) % len(TOPICS)
    return Meeting(
        _make_id(provider, number, day, bits),
        provider,
        start + timedelta(minutes=15 * slot, seconds=bits >> 130 & 63),
        int(planned * (0.55 + (bits >> 140 & 0xFF) / 512)),
        host,
        colleagues,
        guests,
        titles[(bits >> 150 & 0xFF) % len(titles)].format(customer),
        tuple(TOPICS[(first + 3 * step) % len(TOPICS)] for step in range(1 + (bits >> 124 & 3) % 3)),
        bits,
    )


def _choose_host(people: Sequence[Person], day: date, bits: int) -> Person:
    """Choose one who works that day. A few people have most of the meetings."""
    place = int(len(people) * ((bits & 0xFFFF) / 65536) ** 2.5)
    # Spread those with many over the list, whose first entries are the managers.
    place = place * 97 % len(people) if len(people) % 97 else place
    for step in range(len(people)):
        person = people[(place + step) % len(people)]
        if person.profile().works_on(day.toordinal()):
            return person
    return people[place]


def _make_guests(customer: str, bits: int, count: int) -> tuple[tuple[str, str, str], ...]:
    domain = f"{customer.lower().replace(' ', '-')}.example"
    names = dict.fromkeys(make_name(bits >> 16 * (place + 1)) for place in range(count))
    return tuple(
        (f"g-{blake2b(f'{name}{domain}'.encode(), digest_size=6).hexdigest()}", name, address(name, domain))
        for name in names
    )


def _make_id(provider: str, number: int, day: date, bits: int) -> str:
    """Make an id of the provider's kind: longer than 64 bits, a UUID, or with characters that need encoding."""
    if provider == "avoma":
        return str(UUID(int=bits % 2**128, version=4))
    if provider == "chorus":
        return f"{bits % 2**96:024X}"
    if provider == "firefliesai":
        return "".join(_BASE32[bits >> 5 * place & 31] for place in range(26))
    if provider == "wingman":
        return f"{day:%Y/%m}/call {number + 1}+{bits & 0xFFF:03x}"
    return str(10**18 * (1 + bits % 90) + bits % 10**18)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")

"""Finds the records of a list of any resource, and how each of them is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from .activity import count_activity, remote_activity, unified_activity
from .data import Row
from .filtering import filter_records
from .listing import Listing
from .meetings import Meeting
from .parameters import text
from .people import Person, unified_user
from .providers import PROVIDERS
from .requests import AccountState
from .responses import ServiceError, as_object, remote_error
from .settling import phase_of
from .transcripts import remote_transcript, sentences, unified_transcript
from .windows import Window

NO_DATA: Final = "no stats found for the specified period"
NO_CALLS: Final = "No calls found corresponding to the provided filters"

_AFTER_ALL: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Found:
    """The records of a list, in order. They are generated only for the page that is sent."""

    entries: Sequence[Any]
    unified: Callable[[Any], dict[str, Any]]
    remote: Callable[[Any], dict[str, Any]]
    window: Window | None = None  # the one of statistics


def find(state: AccountState, listing: Listing, now: datetime) -> Found:
    """Find the records that a request asks the provider for.

    :raises ServiceError: the provider refuses it, or has nothing.
    """
    return _FINDERS[listing.resource.name](state, listing, now)


def find_stored(state: AccountState, listing: Listing, now: datetime) -> list[dict[str, Any]]:
    """Find the records that a request asks the synced store for, before applying its conditions."""
    company = state.company
    if listing.resource.name not in ("interactions", "activity"):
        found = find(state, listing, now)
        return [found.unified(entry) for entry in found.entries]
    _refuse_window(state, listing, now)
    windows = listing.windows(now.date())
    if listing.resource.name == "interactions":
        return [company.row(user, each).synced() for each in windows for user in listing.people(company)]
    counted = [_activity_of(state, listing, window) for window in windows]
    return [found.unified(entry) for found in counted for entry in found.entries]


def get(state: AccountState, listing: Listing, record_id: str, now: datetime) -> Found:
    """Find one record by its id.

    :raises ServiceError: the provider has none with this id.
    """
    company, name = state.company, listing.resource.name
    if name == "users":
        found = [user for user in company.users if user.id == record_id]
        if found:
            return _users(state, found)
    elif name == "meetings":
        meeting = company.meeting(record_id)
        if meeting is not None and meeting.end <= now:
            return _meetings(state, [meeting], now, listed=None)
    else:
        contacts = [each for each in company.contacts() if each["id"] == record_id]
        if contacts:
            return _shown_contacts(contacts)
    what = name.removesuffix("s")
    raise remote_error(404, f"{company.integration} has no {what} with the id {record_id}")


def has_transcript(state: AccountState, meeting: Meeting, now: datetime) -> bool:
    """Tell whether a meeting has a transcript by now."""
    return meeting.is_recorded and now >= _later(meeting.end, state.transcript_delay)


def _later(moment: datetime, seconds: float) -> datetime:
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return _AFTER_ALL


def _refuse_window(state: AccountState, listing: Listing, now: datetime) -> Window | None:
    """Refuse a window of statistics as Gong does, or return it."""
    window, today = listing.effective_window, now.date()
    if window is not None and window.end > today:
        raise remote_error(400, f"toDateTime is {window.end}, which is after today, {today}")
    if not state.company.size or (window is not None and window.is_empty):
        raise remote_error(404, NO_DATA)
    return window


def _interactions(state: AccountState, listing: Listing, now: datetime) -> Found:
    window, company = _refuse_window(state, listing, now), state.company
    assert window is not None, "required"
    end = datetime.fromisoformat(window.texts[1])
    phases = {
        user.id: phase_of(f"{company.id}/{user.id}/{window.texts}", end, now, state.settling)
        for user in (listing.people(company) if state.settling else ())
    }

    def row(user: Person) -> Row:
        return company.row(user, window, is_draft=phases.get(user.id) == "draft")

    people = [user for user in listing.people(company) if phases.get(user.id) != "absent"]
    return Found(people, lambda user: row(user).unified(), lambda user: row(user).gong(), window)


def _activity(state: AccountState, listing: Listing, now: datetime) -> Found:
    window = _refuse_window(state, listing, now)
    assert window is not None, "required"
    found = _activity_of(state, listing, window)
    if not found.entries and listing.users is None:
        raise remote_error(404, NO_DATA)
    return found


def _activity_of(state: AccountState, listing: Listing, window: Window) -> Found:
    company = state.company
    inside = (each for each in company.meetings if window.start <= each.start.date() < window.end)
    counts = count_activity(inside)
    people = [user for user in listing.people(company) if user in counts]
    return Found(
        people,
        lambda user: unified_activity(user, counts[user], window, company.seed, company.id),
        lambda user: remote_activity(user, counts[user]),
        window,
    )


def _list_users(state: AccountState, listing: Listing, _: datetime) -> Found:
    users = state.company.users
    if not listing.conditions or listing.super_query:
        return _users(state, users)
    records = {user.id: unified_user(user, users, state.company.integration) for user in users}
    kept = {record["id"] for record in filter_records(list(records.values()), listing.conditions)}
    return _users(state, [user for user in users if user.id in kept])


def _users(state: AccountState, users: Sequence[Any]) -> Found:
    company = state.company

    def unified(user: Any) -> dict[str, Any]:
        return unified_user(user, company.users, company.integration)

    return Found(users, unified, lambda user: unified(user)["remote_data"])


def _list_meetings(state: AccountState, listing: Listing, now: datetime) -> Found:
    company = state.company
    provider = PROVIDERS[company.integration]
    takes = provider.meeting_parameters
    start = listing.start if "start_time" in takes else None
    end = listing.end if "end_time" in takes else None
    host = text(listing.query, "user_id") if "user_id" in takes else None
    found = [
        meeting
        for meeting in company.meetings
        if meeting.end <= now
        and phase_of(meeting.id, meeting.end, now, state.settling) != "absent"
        and (start is None or start <= meeting.start)
        and (end is None or meeting.start < end)
        and (host is None or meeting.host.id == host)
    ]
    return _meetings(state, found, now, listed=provider.listed)


def _meetings(
    state: AccountState, found: Sequence[Meeting], now: datetime, *, listed: frozenset[str] | None
) -> Found:
    missing = PROVIDERS[state.company.integration].missing

    def unified(meeting: Meeting) -> dict[str, Any]:
        record = meeting.unified()
        if phase_of(meeting.id, meeting.end, now, state.settling) == "draft":
            record["title"] = f"(draft) {record['title']}"
        remote = record.pop("remote_data")
        if "transcript" not in missing and (listed is None or "transcript" in listed):
            is_there = has_transcript(state, meeting, now)
            record["transcript"] = sentences(meeting, state.sentences, with_ids=False) if is_there else []
        record["remote_data"] = remote
        return {
            name: value
            for name, value in record.items()
            if name not in missing and (listed is None or name in listed)
        }

    return Found(found, unified, lambda meeting: meeting.remote())


def _transcripts(state: AccountState, listing: Listing, now: datetime) -> Found:
    wanted_id = (as_object(listing.query.get("meeting")) or {}).get("id")
    if not isinstance(wanted_id, str) or not wanted_id:
        raise ServiceError(400, "meeting must be an object with one id: meeting[id]=...")
    meeting = state.company.meeting(wanted_id)
    if meeting is None or meeting.end > now:
        raise remote_error(404, NO_CALLS)
    found = [meeting] if has_transcript(state, meeting, now) else []

    def remote(each: Meeting) -> dict[str, Any]:
        return remote_transcript(each, sentences(each, state.sentences, with_ids=True))

    return Found(found, lambda each: unified_transcript(each, state.sentences), remote)


def _contacts(state: AccountState, listing: Listing, _: datetime) -> Found:
    return _shown_contacts(state.company.contacts())


def _shown_contacts(contacts: Sequence[dict[str, Any]]) -> Found:
    return Found(contacts, dict, lambda record: record["remote_data"])


_FINDERS: Final[Mapping[str, Callable[[AccountState, Listing, datetime], Found]]] = {
    "interactions": _interactions,
    "meetings": _list_meetings,
    "users": _list_users,
    "transcripts": _transcripts,
    "activity": _activity,
    "contacts": _contacts,
}

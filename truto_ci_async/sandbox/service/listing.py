"""Validates the parameters of a list request, and picks the records it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any, Final

from .data import Company, Window
from .filtering import filter_records, sort_records
from .parameters import boolean, check_names, choice, cursor, date_time, names, positive, text
from .query import ARRAY_LIMIT
from .responses import ServiceError, as_object, dump_json, missing_parameters

FORMATS: Final = ("unified", "raw", "normalized", "stream", "debug")
SUPER_QUERY: Final = ("apac", "wnam")
SYNCED_YEAR: Final = 2024  # without a window, the synced store answers with the months of this year

_TIMES: Final = ("start_time", "end_time")
_COMMON: Final = (
    "integrated_account_id",
    "limit",
    "next_cursor",
    "truto_response_format",
    "truto_key_by",
    "truto_ignore_limit",
    "truto_ignore_remote_data",
    "truto_exclude_fields",
    "truto_super_query",
    "truto_skip_api_call",
    "remote_query",
)


@dataclass(frozen=True, slots=True)
class Paging:
    page_size: int
    max_page_size: int
    cursor_ttl: float | None  # seconds


@dataclass(frozen=True, slots=True)
class ListedResource:
    """A unified resource as far as its list parameters go."""

    parameters: tuple[str, ...]  # its own, beside those of every list
    fields: tuple[str, ...]  # what the synced store filters and sorts by
    windowed: bool  # whether the provider needs a window

    @property
    def all_parameters(self) -> tuple[str, ...]:
        return (*self.parameters, *_COMMON)


INTERACTIONS: Final = ListedResource(
    parameters=(*_TIMES, "users"),
    fields=(
        "id",
        "user",
        *_TIMES,
        "timezone",
        "aggregation_period",
        "metrics",
        "additional_metrics",
        "created_at",
        "updated_at",
        "remote_data",
    ),
    windowed=True,
)
CONTACTS: Final = ListedResource(
    parameters=(),
    fields=("id", "first_name", "last_name", "emails", "created_at", "updated_at", "remote_data"),
    windowed=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One validated request for a page of a unified resource."""

    account_id: str
    query: Mapping[str, Any]
    super_query: str | None
    conditions: Mapping[str, Any]  # field to value or {operator: value}; only the synced store has them
    window: tuple[datetime, datetime] | None  # as requested, in UTC
    users: frozenset[str] | None  # None: everyone
    notes: tuple[str, ...]  # see `Response.notes`
    limit: int
    exclude: frozenset[str]
    format: str
    remote_query: dict[str, Any] | None
    cursor: str | None
    key_by: str | None
    ignore_remote_data: bool
    skip_api_call: bool

    @classmethod
    def read(
        cls,
        query: Mapping[str, Any],
        account_id: str,
        paging: Paging,
        resource: ListedResource,
        *,
        strict: bool,
    ) -> Listing:
        """Validate a parsed query.

        :param strict: refuse what the service ignores or takes for something else, with a message that says why.
        :raises ServiceError: a parameter is missing or malformed.
        """
        super_query = choice(query, "truto_super_query", SUPER_QUERY)
        conditions = _conditions(query, resource) if super_query else {}
        if strict:
            if "sort_by" in query and not super_query:
                raise ServiceError(400, "sort_by works only together with truto_super_query")
            check_names(
                query, {*resource.all_parameters, *conditions, *(("sort_by",) if super_query else ())}
            )
        window = _window(query, required=not super_query) if resource.windowed else None
        users, notes = _users(query.get("users"))
        if strict and notes:
            raise ServiceError(400, notes[0])
        return cls(
            account_id=account_id,
            query=query,
            super_query=super_query,
            conditions={name: value for name, value in conditions.items() if not (window and name in _TIMES)},
            window=window,
            users=users,
            notes=notes,
            limit=min(_limit(query) or paging.page_size, paging.max_page_size),
            exclude=names(query, "truto_exclude_fields"),
            format=choice(query, "truto_response_format", FORMATS) or "unified",
            remote_query=_remote_query(query),
            cursor=cursor(query),
            key_by=text(query, "truto_key_by"),
            ignore_remote_data=boolean(query, "truto_ignore_remote_data"),
            skip_api_call=boolean(query, "truto_skip_api_call"),
        )

    @property
    def sort_by(self) -> Any:
        return self.query.get("sort_by") if self.super_query else None

    @property
    def filters(self) -> dict[str, str]:
        """What a cursor of this list is bound to."""
        stored = (self.super_query, self.conditions, self.sort_by)
        return {
            "integrated_account_id": self.account_id,
            "start_time": str(self.window and self.window[0]),
            "end_time": str(self.window and self.window[1]),
            "users": dump_json(self.query.get("users")).decode(),
            "limit": str(self.limit),
            "truto_response_format": self.format,
            "truto_exclude_fields": ",".join(sorted(self.exclude)),
            "truto_super_query": repr(stored) if self.super_query else "",
        }

    @property
    def effective_window(self) -> Window | None:
        """The window that is answered, or None if none was requested. It can be empty."""
        return Window.whole_days(*self.window) if self.window else None

    def people(self, company: Company) -> Sequence[tuple[str, str]]:
        """Return the company's users that pass the users filter, in the company's order."""
        if self.users is None:
            return company.users
        return [user for user in company.users if user[0] in self.users]

    def synced_records(self, company: Company, today: date) -> list[dict[str, Any]]:
        """Return what the synced store has for this request, filtered and sorted."""
        window = self.effective_window
        windows = _months(today) if window is None else [] if window.is_empty else [window]
        records = [company.row(user, each).synced() for each in windows for user in self.people(company)]
        return sort_records(filter_records(records, self.conditions), self.sort_by)

    def trim(self, record: dict[str, Any]) -> dict[str, Any]:
        """Remove the fields the request excludes."""
        if self.ignore_remote_data:
            record.pop("remote_data", None)
        for name in self.exclude:
            record.pop(name, None)
        return record


def _conditions(query: Mapping[str, Any], resource: ListedResource) -> dict[str, Any]:
    """Pick the parameters that filter by fields, such as `created_at[gt]` and `metrics.patience[lt]`."""
    return {
        name: value
        for name, value in query.items()
        if name.partition(".")[0] in resource.fields and name not in _COMMON
    }


def _window(query: Mapping[str, Any], *, required: bool) -> tuple[datetime, datetime] | None:
    missing = [name for name in _TIMES if name not in query]
    if missing and required:
        raise missing_parameters(missing)
    if not all(isinstance(query.get(name), str) for name in _TIMES):
        if required:
            raise ServiceError(400, "start_time and end_time must be single ISO 8601 date-times")
        return None
    start, end = (date_time(name, query[name]) for name in _TIMES)
    if end < start:
        raise ServiceError(400, "end_time is before start_time")
    return start, end


def _users(value: Any) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Read the users filter. Spellings that qs turns into something else match nobody, and a note says so."""
    if value is None:
        return None, ()
    if isinstance(value, str):
        raise ServiceError(400, "users must be an array of objects: users[0][id]=...")
    if isinstance(value, dict):
        return frozenset(), (
            f"users arrived as an object, which matches nobody: send at most {ARRAY_LIMIT} users in a request, "
            "as users[0][id]=... with indices from 0",
        )
    ids = [(as_object(each) or {}).get("id") for each in value]
    wanted = [each for each in ids if isinstance(each, str) and each]
    if len(wanted) == len(ids):
        return frozenset(wanted), ()
    note = (
        f"{len(ids) - len(wanted)} of {len(ids)} users have no single id, and match nobody: send several users as "
        "users[0][id]=...&users[1][id]=..., since repeated users[][id] become one user with several ids"
    )
    return frozenset(wanted), (note,)


def _limit(query: Mapping[str, Any]) -> int | None:
    ignored = boolean(query, "truto_ignore_limit")
    limit = positive(query, "limit")
    return None if ignored else limit


def _remote_query(query: Mapping[str, Any]) -> dict[str, Any] | None:
    value = as_object(query.get("remote_query"))
    if value is None and "remote_query" in query:
        raise ServiceError(400, "remote_query must be an object")
    return value


def _months(today: date) -> list[Window]:
    firsts = [date(SYNCED_YEAR, month, 1) for month in range(1, 13)] + [date(SYNCED_YEAR + 1, 1, 1)]
    return [Window(start, end) for start, end in pairwise(firsts) if end <= today]

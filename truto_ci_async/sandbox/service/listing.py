"""Validates the parameters of a list request, and picks the records it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

from .data import Company
from .parameters import boolean, check_names, choice, cursor, date_time, names, positive, text
from .people import Person
from .query import ARRAY_LIMIT
from .responses import ServiceError, as_object, dump_json, missing_parameters
from .schemas import TIMES, Resource
from .windows import Window

FORMATS: Final = ("unified", "raw", "normalized", "stream", "debug")
SUPER_QUERY: Final = ("apac", "wnam")
SYNCED_YEAR: Final = 2024  # without a window, the synced store answers with the months of this year

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
_COMMON_OF_GET: Final = (
    "integrated_account_id",
    "truto_response_format",
    "truto_ignore_remote_data",
    "truto_exclude_fields",
    "remote_query",
)


@dataclass(frozen=True, slots=True)
class Paging:
    page_size: int
    max_page_size: int
    cursor_ttl: float | None  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One validated request for a page of a unified resource, or for one record of it."""

    account_id: str
    resource: Resource
    query: Mapping[str, Any]
    format: str
    exclude: frozenset[str]
    ignore_remote_data: bool
    remote_query: dict[str, Any] | None
    super_query: str | None = None
    # Field to value or {operator: value}.
    conditions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    start: datetime | None = None  # of the window as requested, in UTC
    end: datetime | None = None
    users: frozenset[str] | None = None  # None: everyone
    notes: tuple[str, ...] = ()  # see `Response.notes`
    limit: int = 1
    cursor: str | None = None
    key_by: str | None = None
    skip_api_call: bool = False

    @classmethod
    def read(
        cls, query: Mapping[str, Any], company: Company, paging: Paging, resource: Resource, *, strict: bool
    ) -> Listing:
        """Validate the parsed query of a list.

        :param strict: refuse what the service ignores or takes for something else, with a message that says why.
        :raises ServiceError: a parameter is missing or malformed.
        """
        super_query = choice(query, "truto_super_query", SUPER_QUERY)
        conditions = _conditions(query, resource, is_stored=super_query is not None)
        if strict:
            if "sort_by" in query and not super_query:
                raise ServiceError(400, "sort_by works only together with truto_super_query")
            check_names(
                query,
                {*resource.parameters, *_COMMON, *conditions, *(("sort_by",) if super_query else ())},
            )
        required = resource.required_from(company.integration)
        missing = [name for name in required if name not in query and not (super_query and name in TIMES)]
        if missing:
            raise missing_parameters(missing)
        times = TIMES if TIMES[0] in resource.parameters else ()
        start, end = _window(query, times, is_stored=super_query is not None, is_whole=required == TIMES)
        users, notes = _users(query.get("users"))
        if strict and notes:
            raise ServiceError(400, notes[0])
        bounds = [name for name, bound in zip(TIMES, (start, end), strict=True) if bound]
        return cls(
            account_id=company.id,
            resource=resource,
            query=query,
            super_query=super_query,
            conditions={name: value for name, value in conditions.items() if name not in bounds},
            start=start,
            end=end,
            users=users,
            notes=notes,
            limit=min(_limit(query) or paging.page_size, paging.max_page_size),
            cursor=cursor(query),
            key_by=text(query, "truto_key_by"),
            skip_api_call=boolean(query, "truto_skip_api_call"),
            **_read_common(query),
        )

    @classmethod
    def read_one(
        cls, query: Mapping[str, Any], company: Company, resource: Resource, *, strict: bool
    ) -> Listing:
        """Validate the parsed query of a `get`.

        :raises ServiceError: a parameter is malformed.
        """
        if strict:
            check_names(query, _COMMON_OF_GET)
        return cls(account_id=company.id, resource=resource, query=query, **_read_common(query))

    @classmethod
    def of(
        cls,
        company: Company,
        resource: Resource,
        query: Mapping[str, Any] = MappingProxyType({}),
        start: datetime | None = None,
        end: datetime | None = None,
        users: frozenset[str] | None = None,
    ) -> Listing:
        """Make one without validating it."""
        return cls(
            account_id=company.id,
            resource=resource,
            query=query,
            start=start,
            end=end,
            users=users,
            **_read_common({}),
        )

    @property
    def sort_by(self) -> Any:
        return self.query.get("sort_by") if self.super_query else None

    @property
    def filters(self) -> dict[str, str]:
        """What a cursor of this list is bound to."""
        stored = (self.super_query, self.conditions, self.sort_by)
        own = [self.query.get(name) for name in self.resource.parameters if name not in (*TIMES, "users")]
        return {
            "integrated_account_id": self.account_id,
            "resource": self.resource.name,
            "start_time": str(self.start),
            "end_time": str(self.end),
            "users": dump_json(self.query.get("users")).decode(),
            "the resource's own parameters": dump_json(own).decode() if own else "",
            "limit": str(self.limit),
            "truto_response_format": self.format,
            "truto_exclude_fields": ",".join(sorted(self.exclude)),
            "truto_super_query": repr(stored) if self.super_query else "",
        }

    @property
    def effective_window(self) -> Window | None:
        """The whole days that the response covers, or None unless both bounds are given. It can be empty."""
        return Window.whole_days(self.start, self.end) if self.start and self.end else None

    def windows(self, today: date) -> list[Window]:
        """Return the windows that the synced store has for this request."""
        window = self.effective_window
        return _months(today) if window is None else [] if window.is_empty else [window]

    def people(self, company: Company) -> Sequence[Person]:
        """Return the company's users that pass the users filter, in the company's order."""
        if self.users is None:
            return company.users
        return [user for user in company.users if user.id in self.users]

    def trim(self, record: dict[str, Any]) -> dict[str, Any]:
        """Remove the fields the request excludes."""
        if self.ignore_remote_data:
            record.pop("remote_data", None)
        for name in self.exclude:
            record.pop(name, None)
        return record


def _read_common(query: Mapping[str, Any]) -> dict[str, Any]:
    """Read the parameters that a list and a `get` share."""
    return {
        "format": choice(query, "truto_response_format", FORMATS) or "unified",
        "exclude": names(query, "truto_exclude_fields"),
        "ignore_remote_data": boolean(query, "truto_ignore_remote_data"),
        "remote_query": _remote_query(query),
    }


def _conditions(query: Mapping[str, Any], resource: Resource, *, is_stored: bool) -> dict[str, Any]:
    """Pick the parameters that filter by fields, such as `created_at[gt]` and `metrics.patience[lt]`.

    Only the synced store filters by any field; a provider does by those that are parameters of its own.
    """
    own = [name for name in resource.parameters if name not in TIMES]
    return {
        name: value
        for name, value in query.items()
        if (name.partition(".")[0] in resource.fields and is_stored and name not in (*_COMMON, "meeting"))
        or (name in own and name in ("created_at", "updated_at"))
    }


def _window(
    query: Mapping[str, Any], times: Sequence[str], *, is_stored: bool, is_whole: bool
) -> tuple[datetime | None, datetime | None]:
    """Read the bounds of the window.

    :param is_stored: bounds with operators are conditions for the synced store.
    :param is_whole: one bound alone is none.
    """
    given = {name: query[name] for name in times if name in query}
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    if len(texts) < len(given) and not is_stored:
        raise ServiceError(400, "start_time and end_time must be single ISO 8601 date-times")
    if is_whole and len(texts) < len(times):
        return None, None
    start, end = (date_time(name, texts[name]) if name in texts else None for name in TIMES)
    if start and end and end < start:
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

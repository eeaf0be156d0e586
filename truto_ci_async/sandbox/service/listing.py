"""Reading the parameters of a unified list strictly, and choosing the records they ask for. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any, Final

from .data import Company, Window
from .responses import Refused, as_list, as_object, dump_json, missing_parameters

FORMATS: Final = ("unified", "raw", "normalized", "stream", "debug")
SYNCED_YEAR: Final = 2024  # the months of this year are what the synced store holds when no window is asked

_DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)")
_POSITIVE: Final = re.compile(r"[1-9][0-9]{0,8}")
_KNOWN: Final = frozenset(
    (
        "integrated_account_id",
        "start_time",
        "end_time",
        "users",
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
        "sort_by",
    )
)
_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gt": lambda have, want: have > want,
    "gte": lambda have, want: have >= want,
    "lt": lambda have, want: have < want,
    "lte": lambda have, want: have <= want,
    "eq": lambda have, want: have == want,
    "ne": lambda have, want: have != want,
}


@dataclass(frozen=True, slots=True)
class Listing:
    """One validated request for a page of a unified resource."""

    account_id: str
    window: tuple[datetime, datetime] | None
    users: frozenset[str] | None  # None: everyone
    notes: tuple[str, ...]  # what was accepted but cannot have been meant
    format: str
    limit: int
    cursor: str | None
    key_by: str | None
    exclude: frozenset[str]
    ignore_remote_data: bool
    skip_api_call: bool
    super_query: str | None
    remote_query: Any
    conditions: Mapping[str, Any]  # field -> value or {operator: value}; of the synced store only
    sort_by: Any
    filters: Mapping[str, str]  # what a cursor is bound to

    @classmethod
    def read(
        cls,
        query: Mapping[str, Any],
        account_id: str,
        *,
        page_size: int,
        max_page_size: int,
        windowed: bool = True,
    ) -> Listing:
        """Validate a parsed query.

        :raises Refused: a parameter is missing or malformed.
        """
        super_query = _choice(query, "truto_super_query", ("apac", "wnam"))
        needed = [name for name in ("start_time", "end_time") if windowed and name not in query]
        if needed and not super_query:
            raise missing_parameters(needed)
        window = None
        if windowed and all(isinstance(query.get(name), str) for name in ("start_time", "end_time")):
            window = (date_time("start_time", query["start_time"]), date_time("end_time", query["end_time"]))
        elif windowed and not super_query:
            raise Refused(400, "start_time and end_time must be single ISO 8601 date-times")
        if window and window[1] < window[0]:
            raise Refused(400, "end_time is before start_time")
        users, notes = _users(query.get("users"))
        ignore_limit = boolean(query, "truto_ignore_limit")
        asked = positive(query, "limit")
        limit = min(asked if asked and not ignore_limit else page_size, max_page_size)
        exclude = _names(query, "truto_exclude_fields")
        format_ = _choice(query, "truto_response_format", FORMATS) or "unified"
        remote_query = query.get("remote_query")
        if remote_query is not None and not isinstance(remote_query, dict):
            raise Refused(400, "remote_query must be an object")
        conditions = (
            {name: value for name, value in query.items() if name not in _KNOWN} if super_query else {}
        )
        if super_query and not window:
            conditions |= {name: query[name] for name in ("start_time", "end_time") if name in query}
        filters = {
            "integrated_account_id": account_id,
            "start_time": str(window and window[0].timestamp()),
            "end_time": str(window and window[1].timestamp()),
            "users": dump_json(query.get("users")).decode(errors="replace"),
            "limit": str(limit),
            "truto_response_format": format_,
            "truto_exclude_fields": ",".join(sorted(exclude)),
            "truto_super_query": repr((super_query, conditions, query.get("sort_by"))) if super_query else "",
        }
        return cls(
            account_id=account_id,
            window=window,
            users=users,
            notes=notes,
            format=format_,
            limit=limit,
            cursor=text(query, "next_cursor"),
            key_by=text(query, "truto_key_by"),
            exclude=exclude,
            ignore_remote_data=boolean(query, "truto_ignore_remote_data"),
            skip_api_call=boolean(query, "truto_skip_api_call"),
            super_query=super_query,
            remote_query=remote_query,
            conditions=conditions,
            sort_by=query.get("sort_by") if super_query else None,
            filters=filters,
        )

    def answered_window(self, today: date) -> Window | None:
        """The window the answer is about; None when none was asked or nothing can be in it."""
        window = Window.answering(*self.window, today) if self.window else None
        return None if window is None or window.is_empty else window

    def people(self, company: Company) -> Sequence[tuple[str, str]]:
        """Those of a company whom the users filter lets through, in the company's order."""
        if self.users is None:
            return company.users
        return [user for user in company.users if user[0] in self.users]

    def synced_records(self, company: Company, today: date) -> list[dict[str, Any]]:
        """What the synced store answers: the rows asked for, filtered by the conditions, sorted."""
        window = self.answered_window(today)
        windows = [window] if window else [] if self.window else _months(today)
        records = [company.row(user, each).synced() for each in windows for user in self.people(company)]
        return sort_records(select(records, self.conditions), self.sort_by)

    def trim(self, record: dict[str, Any]) -> dict[str, Any]:
        """Leave out what the request excludes."""
        if self.ignore_remote_data:
            record.pop("remote_data", None)
        for name in self.exclude:
            record.pop(name, None)
        return record


def select(records: Sequence[dict[str, Any]], conditions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keep the records that meet every condition, `{"created_at": {"gt": ...}}` or `{"status": "active"}`."""
    return [
        record
        for record in records
        if all(_meets(record, name, condition) for name, condition in conditions.items())
    ]


def sort_records(records: list[dict[str, Any]], sort_by: Any) -> list[dict[str, Any]]:
    """Sort by `"field"` or `{"field": "asc" | "desc"}`; records without the field come last."""
    orders = as_object(sort_by) or ({str(sort_by): "asc"} if sort_by else {})
    for name, order in reversed(orders.items()):
        if order not in ("asc", "desc"):
            raise Refused(400, f"sort_by[{name}] must be asc or desc")
        have = [record for record in records if record.get(name) is not None]
        lack = [record for record in records if record.get(name) is None]
        records = sorted(have, key=lambda record: _sort_key(record[name]), reverse=order == "desc") + lack
    return records


def date_time(name: str, value: str) -> datetime:
    """Parse an ISO 8601 date-time with an offset.

    :raises Refused: it is anything else; the text explains the two usual mistakes.
    """
    hint = "it needs an offset such as Z or +05:30"
    if re.search(r" \d\d:?\d\d$", value):
        hint = 'a "+" in a query string must be sent as %2B'
    try:
        if _DATE_TIME.fullmatch(value):
            return datetime.fromisoformat(value.upper())
    except ValueError as error:
        hint = str(error)
    raise Refused(400, f"{name} is not an ISO 8601 date-time: {value!r} ({hint})")


def positive(query: Mapping[str, Any], name: str) -> int | None:
    value = text(query, name)
    if value is None:
        return None
    if not _POSITIVE.fullmatch(value):
        raise Refused(400, f"{name} must be a positive integer, not {value!r}")
    return int(value)


def boolean(query: Mapping[str, Any], name: str) -> bool:
    return _choice(query, name, ("true", "false")) == "true"


def text(query: Mapping[str, Any], name: str) -> str | None:
    value = query.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise Refused(400, f"{name} must be one non-empty value")
    return value


def _choice(query: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str | None:
    value = query.get(name)
    if value is not None and value not in allowed:
        raise Refused(400, f"{name} must be one of {', '.join(allowed)}")
    return None if value is None else str(value)


def _names(query: Mapping[str, Any], name: str) -> frozenset[str]:
    value = query.get(name, ())
    if isinstance(value, str | dict) or not all(isinstance(each, str) for each in value):
        raise Refused(400, f"{name} must be an array of names, sent as {name}[]=a&{name}[]=b")
    return frozenset(value)


def _users(value: Any) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Read the users filter. Spellings that qs turns into something else select nobody; a note says so."""
    if value is None:
        return None, ()
    if isinstance(value, str):
        raise Refused(400, "users must be an array of objects: users[0][id]=...")
    if isinstance(value, dict):
        return frozenset(), ("users arrived as an object: more than 20 of them, or not indexed from 0",)
    ids = [(as_object(each) or {}).get("id") for each in value]
    wanted = [each for each in ids if isinstance(each, str)]
    if len(wanted) == len(ids):
        return frozenset(wanted), ()
    note = f"{len(ids) - len(wanted)} of {len(ids)} users have no single id: they select nobody"
    return frozenset(wanted), (note,)


def _months(today: date) -> list[Window]:
    firsts = [date(SYNCED_YEAR, month, 1) for month in range(1, 13)] + [date(SYNCED_YEAR + 1, 1, 1)]
    return [Window(start, end) for start, end in pairwise(firsts) if end <= today]


def _meets(record: Mapping[str, Any], name: str, condition: Any) -> bool:
    have: Any = record
    for part in name.split("."):
        have = (as_object(have) or {}).get(part)
    operators = as_object(condition) or {"eq": condition}
    for operator, wanted in operators.items():
        if operator == "in":
            options = as_list(wanted) or str(wanted).split(",")
            met = any(_comparable(have, option) == _comparable(option, have) for option in options)
        elif operator not in _COMPARISONS:
            raise Refused(400, f"{name}[{operator}] is not an operator: {', '.join([*_COMPARISONS, 'in'])}")
        elif have is None:
            met = operator == "ne"
        else:
            try:
                met = _COMPARISONS[operator](_comparable(have, wanted), _comparable(wanted, have))
            except TypeError:
                met = False
        if not met:
            return False
    return True


def _comparable(value: Any, other: Any) -> Any:
    """Read a value as the instant or number that `other` makes it, else as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) or isinstance(other, int | float):
        try:
            return float(value)
        except (TypeError, ValueError):
            return str(value)
    if isinstance(value, str) and _DATE_TIME.fullmatch(value):
        return datetime.fromisoformat(value.upper())
    return str(value)


def _sort_key(value: Any) -> Any:
    key = _comparable(value, value)
    return (type(key).__name__, key)

"""List calls as request targets: which parameters are sent, in which order, with which cursor (contract section 1).

`filters` checks what the caller passed, `query_string` encodes it. Responses are read in `page_reader`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Unpack, cast
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from truto_ci_async._checks import brief, plain
from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount, Position

from .filters import AllFilters, ResponseFormat, account_id, check_filters
from .query_string import (
    MAX_ARRAY_ITEMS,
    ObjectArrays,
    deep_merge,
    encode_parameter,
    encode_query,
    join_path,
    require_encodable,
)
from .times import ResolvedTime

# qs silently drops the parameters after these.
MAX_PARAMETERS = 1000


def list_query(
    *segments: str,
    account: str | IntegratedAccount | None,
    response_format: ResponseFormat = "unified",
    key_by: str | None = None,
    now: datetime | None = None,
    **filters: Unpack[AllFilters],
) -> ListQuery:
    """Check the filters of a list call and put them in the contract's order.

    Relative times are resolved here, once; ``now`` replaces the clock.

    :raises UsageError: a value that can never be right; the message says how to write it.
    """
    checked = check_filters(filters, now or datetime.now(UTC))
    times = dict(_resolved_times(checked))
    account = account_id(account)
    response_format = plain(response_format)
    if not isinstance(response_format, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"response_format must be a name such as 'unified', not {brief(response_format)}")
    query = ListQuery(
        path=join_path(*segments),
        account=account,
        params={
            "integrated_account_id": account,
            "start_time": _sent(checked["start_time"]),
            "end_time": _sent(checked["end_time"]),
            "users": None,  # set for each batch
            **{name: _sent(checked[name]) for name in _OTHERS if checked[name] is not None},
            "limit": checked["limit"],
            "next_cursor": None,  # set for each page
            "truto_response_format": None if response_format == "unified" else response_format,
            "truto_key_by": plain(key_by),
            "truto_ignore_limit": checked["ignore_limit"] or None,
            "truto_ignore_remote_data": checked["ignore_remote_data"] or None,
            "truto_exclude_fields": checked["exclude_fields"] or None,
            "truto_super_query": checked["super_query"],
            "truto_skip_api_call": checked["skip_api_call"] or None,
            "remote_query": checked["remote_query"] or None,
        },
        user_batches=checked["users"],
        extra=checked["extra_query"],
        object_arrays=checked["object_arrays"],
        times=tuple((name, time.given, time.text) for name, time in times.items() if time.is_relative),
    )
    # This encodes every value once, so that a bad one fails at the call and not on a later page.
    if query.target().count("&") >= MAX_PARAMETERS - 1:  # one is left for the cursor
        raise UsageError(f"the service reads {MAX_PARAMETERS:,} parameters at most, and this query has more")
    return query


# Filters that are sent in the contract's order of parameters only if they are given: most resources have none of them.
_OTHERS = ("meeting", "created_at", "updated_at")
_TIMES = ("start_time", "end_time", "created_at", "updated_at")


def _resolved_times(checked: dict[str, Any]) -> Iterator[tuple[str, ResolvedTime]]:
    """Yield the times among the filters by name: ``start_time``, ``created_at[gt]``."""
    for name in _TIMES:
        value = checked[name]
        if isinstance(value, dict):
            operators = cast("dict[str, ResolvedTime]", value)
            yield from ((f"{name}[{key}]", time) for key, time in operators.items())
        elif value is not None:
            yield name, value


def _sent(value: Any) -> Any:
    """Return a filter as it is sent: a time, or those of operators, as text."""
    if isinstance(value, dict):
        return {key: _sent(each) for key, each in cast("dict[str, object]", value).items()}
    return value.text if isinstance(value, ResolvedTime) else value


class ListQuery(Struct, frozen=True, kw_only=True):
    """What stays the same on every page of a list call.

    ``params`` are in the contract's order. Each of the ``user_batches`` is paged through on its own. ``times`` are the
    relative times among the params: name, as given, as sent.
    """

    path: str
    account: str | None = None
    params: dict[str, Any] = {}
    user_batches: tuple[tuple[str, ...], ...] = ((),)
    extra: dict[str, Any] = {}
    object_arrays: ObjectArrays = "indices"
    times: tuple[tuple[str, str, str], ...] = ()

    def target(self, batch: int = 0, cursor: str | None = None) -> str:
        """Return the request target (path and query) of one page."""
        return RequestTargets(self).at(batch, cursor)

    def for_account(self, account: str) -> ListQuery:
        """Return the same query for another account. ``account`` must be a valid id: it is not checked again."""
        return replace(self, account=account, params={**self.params, "integrated_account_id": account})

    def continued_from(self, cursor: str | Position | None) -> ListQuery:
        """Return this query with the relative times of the walk that a position comes from.

        ``-7d`` means a different time now than when that walk began, so the pages of two windows would be mixed.
        """
        position = read_cursor(cursor)
        if not isinstance(position, Position) or not position.times:
            return self
        before = {(name, given): sent for name, given, sent in position.times}
        times = tuple((name, given, before.get((name, given), sent)) for name, given, sent in self.times)
        params = dict(self.params)
        for name, _, sent in times:
            outer, _, operator = name.rstrip("]").partition("[")
            params[outer] = params[outer] | {operator: sent} if operator else sent
        return replace(self, times=times, params=params)

    def start_position(self, cursor: str | Position | None, *, fingerprint: str = "") -> Position:
        """Return where to start reading, given the ``cursor`` argument of a list call.

        Pass ``fingerprint`` if it is known already.

        :raises UsageError: a position of other filters, or a bare cursor where only a position says which batch
            of users, or which time, it belongs to.
        """
        fingerprint = fingerprint or self.fingerprint()
        cursor = read_cursor(cursor)
        if cursor == "None":
            raise UsageError(
                "the cursor is the string 'None': it was stored after the last page; nothing is left to read"
            )
        if isinstance(cursor, Position):
            if cursor.filters != fingerprint or not 0 <= cursor.user_batch < len(self.user_batches):
                raise UsageError(
                    "this position was taken from a call with other filters: repeat the account, window, users, limit "
                    "and format of that call, or start without a position"
                )
            return cursor
        if cursor and len(self.user_batches) > 1:
            raise UsageError(
                f"a cursor alone does not say which of the {len(self.user_batches)} batches of {MAX_ARRAY_ITEMS} "
                "users it belongs to; pass page.position instead"
            )
        if cursor and self.times:
            name, given, _ = self.times[0]
            raise UsageError(
                f"a cursor alone does not say when {name}={given!r} was resolved; pass page.position instead, or the "
                "time itself"
            )
        return Position(filters=fingerprint, cursor=cursor or None, times=self.times)

    def fingerprint(self, sorted_query: str | None = None) -> str:
        """Return a short text that is equal for equal filters; it ties a stored position to its query."""
        users = [user for batch in self.user_batches for user in batch]
        filters = self.sorted_query() if sorted_query is None else sorted_query
        text = f"{self.path}?{filters}#{users}{self.object_arrays}"
        return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()

    def sorted_query(self) -> str:
        """Encode everything but the users, sorted by name: equal dicts may have their keys in any order."""
        params = deep_merge(self.params, self.extra)
        return sort_pairs(encode_query(params, object_arrays=self.object_arrays))


def sort_pairs(query: str) -> str:
    """Sort an encoded query by name."""
    return "&".join(sorted(query.split("&"), key=lambda pair: pair.partition("=")[0]))


def read_cursor(cursor: object) -> str | Position | None:
    """Read the ``cursor`` argument of a list call: a position, its text, or the service's own cursor.

    :raises UsageError: it is none of these, or the text of a position that is incomplete.
    """
    value: object = plain(cursor)
    if isinstance(value, str):
        return Position.parse(value) if value.lstrip().startswith(Position.PREFIX) else value
    if value is None or isinstance(value, Position):
        return value
    raise UsageError(f"cursor takes a page.position, its text or the service's own, not {brief(cursor)}")


class RequestTargets:
    """The request targets of one query's pages.

    Everything but the cursor is encoded once per batch of users; encoding it for each page would add a third to the
    cost of a small one.
    """

    def __init__(self, query: ListQuery) -> None:
        self.query = query
        # batch of users -> the query string before and after the cursor
        self._around_cursor: dict[int, tuple[str, str]] = {}
        self._sorted_query: str | None = None  # for the fingerprint; encoded on first use

    def for_account(self, account: str) -> RequestTargets:
        """Return the targets of the same query for another account, without encoding anything again."""
        ours, theirs = (
            f"&{encode_parameter('integrated_account_id', each)}&"
            for each in (self.query.account or "", account)
        )

        def swap(text: str) -> str:
            return f"&{text}&".replace(ours, theirs)[1:-1]

        other = RequestTargets(self.query.for_account(account))
        # The account always comes before the cursor.
        other._around_cursor = {
            batch: (swap(before), after) for batch, (before, after) in self._around_cursor.items()
        }
        other._sorted_query = None if self._sorted_query is None else swap(self._sorted_query)
        return other

    def start_position(self, cursor: str | Position | None) -> Position:
        """Return where to start reading: see ``ListQuery.start_position``."""
        if self._sorted_query is None and self.query.user_batches == ((),):
            self._sorted_query = sort_pairs(self.at(0, None).removeprefix(self.query.path)[1:])
        elif self._sorted_query is None:
            self._sorted_query = self.query.sorted_query()
        return self.query.start_position(cursor, fingerprint=self.query.fingerprint(self._sorted_query))

    def at(self, batch: int, cursor: str | None) -> str:
        """Return the request target of the page at ``cursor`` of a batch of users."""
        around = self._around_cursor.get(batch)
        if around is None:
            around = self._around_cursor[batch] = self._encode_around_cursor(batch)
        before, after = around
        if not cursor:
            parts = "&".join(filter(None, around))
        else:
            if not _UNRESERVED.fullmatch(cursor):
                # Not cached: each cursor is sent once.
                cursor = quote(require_encodable(cursor, "next_cursor"), safe="")
            parts = f"{before and before + '&'}next_cursor={cursor}{after and '&' + after}"
        return f"{self.query.path}?{parts}" if parts else self.query.path

    def _encode_around_cursor(self, batch: int) -> tuple[str, str]:
        query = self.query
        params = {**query.params, "users": [{"id": user} for user in query.user_batches[batch]]}
        params.setdefault("next_cursor", None)
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        part = before
        for name, value in deep_merge(params, query.extra).items():
            if name == "next_cursor":
                part = after
            elif value is not None:  # most are not set
                part[name] = value
        form = query.object_arrays
        return encode_query(before, object_arrays=form), encode_query(after, object_arrays=form)


# What ``quote`` returns unchanged; the match takes a tenth of the time.
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*", re.ASCII)

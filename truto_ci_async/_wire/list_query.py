"""List calls as request targets: which parameters are sent, in which order, with which cursor (contract section 1).

`filters` checks what the caller passed, `query_string` encodes it. Responses are read in `page_reader`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Unpack
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount, Position

from .filters import Filters, ResponseFormat, account_id, check_filters
from .query_string import (
    MAX_ARRAY_ITEMS,
    ObjectArrays,
    deep_merge,
    encode_parameter,
    encode_query,
    join_path,
    require_encodable,
)


def list_query(
    *segments: str,
    account: str | IntegratedAccount | None,
    response_format: ResponseFormat = "unified",
    key_by: str | None = None,
    **filters: Unpack[Filters],
) -> ListQuery:
    """Check the filters of a list call and put them in the contract's order.

    :raises UsageError: a value that can never be right; the message says how to write it.
    """
    checked = check_filters(filters)
    account = account_id(account)
    query = ListQuery(
        path=join_path(*segments),
        account=account,
        params={
            "integrated_account_id": account,
            "start_time": checked["start_time"],
            "end_time": checked["end_time"],
            "users": None,  # set for each batch
            "limit": checked["limit"],
            "next_cursor": None,  # set for each page
            "truto_response_format": None if response_format == "unified" else response_format,
            "truto_key_by": key_by,
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
    )
    query.target()  # encodes every value once, so that a bad one fails at the call and not on a later page
    return query


class ListQuery(Struct, frozen=True, kw_only=True):
    """What stays the same on every page of a list call.

    ``params`` are in the contract's order. Each of the ``user_batches`` is paged through on its own.
    """

    path: str
    account: str | None = None
    params: dict[str, Any] = {}
    user_batches: tuple[tuple[str, ...], ...] = ((),)
    extra: dict[str, Any] = {}
    object_arrays: ObjectArrays = "indices"

    def target(self, batch: int = 0, cursor: str | None = None) -> str:
        """Return the request target (path and query) of one page."""
        return RequestTargets(self).at(batch, cursor)

    def for_account(self, account: str) -> ListQuery:
        """Return the same query for another account. ``account`` must be a valid id: it is not checked again."""
        return replace(self, account=account, params={**self.params, "integrated_account_id": account})

    def start_position(self, cursor: str | Position | None, *, fingerprint: str = "") -> Position:
        """Return where to start reading, given the ``cursor`` argument of a list call.

        Pass ``fingerprint`` if it is known already.

        :raises UsageError: a position of other filters, or a bare cursor where only a position says which batch
            of users it belongs to.
        """
        fingerprint = fingerprint or self.fingerprint()
        if isinstance(cursor, str) and cursor.lstrip().startswith(Position.PREFIX):
            cursor = Position.parse(cursor)
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
        return Position(filters=fingerprint, cursor=cursor or None)

    def fingerprint(self, sorted_query: str | None = None) -> str:
        """Return a short text that is equal for equal filters; it ties a stored position to its query."""
        users = [user for batch in self.user_batches for user in batch]
        filters = self.sorted_query() if sorted_query is None else sorted_query
        text = f"{self.path}?{filters}#{users}{self.object_arrays}"
        return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()

    def sorted_query(self) -> str:
        """Encode everything but the users, sorted by name: equal dicts may have their keys in any order."""
        params = deep_merge(self.params, self.extra)
        pairs = encode_query(params, object_arrays=self.object_arrays).split("&")
        return "&".join(sorted(pairs, key=lambda pair: pair.partition("=")[0]))


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
        if self._sorted_query is None:
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
        merged = list(deep_merge(params, query.extra).items())
        at = next(index for index, (name, _) in enumerate(merged) if name == "next_cursor")
        before, after = (
            encode_query(dict(part), object_arrays=query.object_arrays)
            for part in (merged[:at], merged[at + 1 :])
        )
        return before, after


# What ``quote`` returns unchanged; the match takes a tenth of the time.
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*", re.ASCII)

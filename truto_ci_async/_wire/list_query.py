"""Requests as functions of their filters: which parameters, in which order, encoded how (contract section 1).

What comes back is read in ``_answers``. Nothing here awaits.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount, Position, User

from .query_string import (
    MAX_USERS,
    Moment,
    ObjectArrays,
    checked_text,
    encode_pair,
    encode_query,
    format_time,
    in_order,
    merge,
    path_of,
    snapshot,
)

F = TypeVar("F", bound=Callable[..., Any])


ResponseFormat: TypeAlias = Literal["unified", "raw", "normalized", "stream", "debug"]


UserFilter: TypeAlias = str | User | Mapping[str, Any]


def split_users(users: Iterable[UserFilter] | str | None) -> tuple[tuple[str, ...], ...]:
    """Split a users filter into chunks of at most 20 ids, in input order, duplicates dropped.

    No filter is one empty chunk.

    :raises UsageError: an id that is not non-empty text. Numbers are refused: ids have up to 20 digits, and one
        that went through a float is another user.
    """
    if users is None:
        return ((),)
    if isinstance(users, (str, User, Mapping)):
        raise UsageError(f"users takes several ids: users=[{users!r}]")
    if not isinstance(users, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"users takes several ids, not {users!r}")
    ids: dict[str, None] = {}
    for user in in_order(users):
        value: object = user.id if isinstance(user, User) else user
        if isinstance(value, Mapping):
            value = cast("Mapping[str, object]", value).get("id")
        if not isinstance(value, str) or not value:
            raise UsageError(f"a user id is non-empty text, not {value!r}")
        ids[value] = None
    unique = tuple(ids)
    return tuple(unique[i : i + MAX_USERS] for i in range(0, len(unique), MAX_USERS)) or ((),)


def account_id(account: str | IntegratedAccount | None) -> str | None:
    """Take an account as its id or as what ``integrated_accounts.list`` gave.

    :raises UsageError: empty or another type.
    """
    value = account.id if isinstance(account, IntegratedAccount) else account
    if value is None and account is None:
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"integrated_account_id takes an account's id or an IntegratedAccount, not {account!r}"
        )
    return value


class ListQuery(Struct, frozen=True, kw_only=True):
    """Everything a walk asks for but its place: what stays the same from page to page.

    ``params`` are in the contract's order, ``users`` in chunks of which each is a walk of its own.
    """

    path: str
    account: str | None = None
    params: dict[str, Any] = {}
    users: tuple[tuple[str, ...], ...] = ((),)
    extra: dict[str, Any] = {}
    object_arrays: ObjectArrays = "indices"

    def target(self, chunk: int = 0, cursor: str | None = None) -> str:
        """Return the request target (path and query) of one page."""
        return RequestTargets(self).at(chunk, cursor)

    def like(self, account: str) -> ListQuery:
        """Return the same for another account, whose id is one: nothing is checked a second time."""
        params = {**self.params, "integrated_account_id": account}
        return replace(self, account=account, params=params)

    def fingerprint(self) -> str:
        """Return a short text that is equal for equal filters: what binds a stored position to its walk."""
        return self.fingerprint_of(self.sorted_filters())

    def sorted_filters(self) -> str:
        """Return all but the users as text that is equal for equal filters."""
        query = encode_query(merge(self.params, self.extra), object_arrays=self.object_arrays).split("&")
        query.sort(key=lambda part: part.partition("=")[0])  # dicts are equal in any order of their keys
        return "&".join(query)

    def fingerprint_of(self, sorted_filters: str) -> str:
        users = [user for chunk in self.users for user in chunk]
        asked = f"{self.path}?{sorted_filters}#{users}{self.object_arrays}"
        return hashlib.blake2b(asked.encode(), digest_size=9).hexdigest()

    def start(self, cursor: str | Position | None, *, filters: str = "") -> Position:
        """Return the place a walk begins at, given what the caller passed as ``cursor``.

        ``filters`` is the fingerprint, if somebody has it.

        :raises UsageError: a position of other filters, or a bare cursor where only a position can say which
            group of users it belongs to.
        """
        filters = filters or self.fingerprint()
        if isinstance(cursor, str) and cursor.lstrip().startswith(Position.PREFIX):
            cursor = Position.parse(cursor)
        if cursor == "None":
            raise UsageError(
                "the cursor is the text 'None': the walk it was stored from had ended; nothing is left of it"
            )
        if isinstance(cursor, Position):
            if cursor.filters != filters or not 0 <= cursor.chunk < len(self.users):
                raise UsageError(
                    "this position belongs to another walk: repeat the account, window, users, limit and format "
                    "it was taken from, or start without it"
                )
            return cursor
        if cursor and len(self.users) > 1:
            raise UsageError(
                f"a cursor alone does not say which of the {len(self.users)} groups of {MAX_USERS} users it "
                "belongs to; pass page.position"
            )
        return Position(filters=filters, cursor=cursor or None)


# What ``quote`` leaves as it is, told ten times quicker than by quoting.
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*", re.ASCII)


class RequestTargets:
    """The request targets of a walk. All but the cursor is encoded once per group of users: a third of the cost
    of a small page otherwise."""

    def __init__(self, query: ListQuery) -> None:
        self.query = query
        # group of users -> what stands before and after the cursor
        self._around: dict[int, tuple[str, str]] = {}
        self._filters: str | None = None  # sorted, once somebody has asked

    def like(self, account: str) -> RequestTargets:
        """Return those of the same walk of another account, whose id is one: nothing is encoded a second time."""
        name = "integrated_account_id"
        mine, theirs = (f"&{encode_pair(name, each)}&" for each in (self.query.account or "", account))

        def swapped(text: str) -> str:
            return f"&{text}&".replace(mine, theirs)[1:-1]

        other = RequestTargets(self.query.like(account))
        # The account stands before the cursor, whatever else is asked.
        other._around = {chunk: (swapped(before), after) for chunk, (before, after) in self._around.items()}
        other._filters = None if self._filters is None else swapped(self._filters)
        return other

    def start(self, cursor: str | Position | None) -> Position:
        """Return the place a walk begins at: see ``ListQuery.start``."""
        if self._filters is None:
            self._filters = self.query.sorted_filters()
        return self.query.start(cursor, filters=self.query.fingerprint_of(self._filters))

    def at(self, chunk: int, cursor: str | None) -> str:
        """Return path and query of the page at ``cursor`` of a group of users."""
        around = self._around.get(chunk)
        if around is None:
            around = self._around[chunk] = self._encode(chunk)
        before, after = around
        if not cursor:
            parts = "&".join(filter(None, around))
        else:
            if not _PLAIN.fullmatch(cursor):
                cursor = quote(checked_text(cursor, "next_cursor"), safe="")  # not kept: each comes once
            parts = f"{before and before + '&'}next_cursor={cursor}{after and '&' + after}"
        return f"{self.query.path}?{parts}" if parts else self.query.path

    def _encode(self, chunk: int) -> tuple[str, str]:
        query = self.query
        params = {**query.params, "users": [{"id": user} for user in query.users[chunk]]}
        params.setdefault("next_cursor", None)
        halves: list[dict[str, Any]] = [{}, {}]
        half = 0
        for name, value in merge(params, query.extra).items():
            if name == "next_cursor":
                half = 1
            else:
                halves[half][name] = value
        before, after = (encode_query(part, object_arrays=query.object_arrays) for part in halves)
        return before, after


class Filters(TypedDict, total=False):
    """What every verb of a unified resource can ask for; ``Resource.list`` says what each one means."""

    start_time: Moment | None
    end_time: Moment | None
    users: Iterable[UserFilter] | None
    limit: int | None
    ignore_limit: bool
    ignore_remote_data: bool
    exclude_fields: Iterable[str] | None
    super_query: str | None
    skip_api_call: bool
    remote_query: Mapping[str, Any] | None
    extra_query: Mapping[str, Any] | None
    object_arrays: ObjectArrays


# What a filter is when it is not given.
FILTER_DEFAULTS: Mapping[str, Any] = {
    "start_time": None,
    "end_time": None,
    "users": (),
    "limit": None,
    "ignore_limit": False,
    "ignore_remote_data": False,
    "exclude_fields": (),
    "super_query": None,
    "skip_api_call": False,
    "remote_query": None,
    "extra_query": None,
    "object_arrays": "indices",
}


def takes_filters(verb: F) -> F:
    """Spell out the filters in the signature of a verb that takes them as ``**filters``, for help() and notebooks.

    A keyword that is no filter is refused here, in the verb's own name.
    """
    signature = inspect.signature(verb)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    known = {each.name for each in own}
    spelled = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=getattr(
                Filters.__annotations__[name], "__forward_arg__", Filters.__annotations__[name]
            ),
        )
        for name, default in FILTER_DEFAULTS.items()
    ]

    @functools.wraps(verb)
    def checked(*args: Any, **options: Any) -> Any:
        unknown = options.keys() - known - FILTER_DEFAULTS.keys()
        if unknown:
            raise TypeError(
                f"{verb.__name__}() got an unexpected keyword argument {min(unknown)!r}; what this package does not "
                "name goes into extra_query"
            )
        return verb(*args, **options)

    checked.__signature__ = signature.replace(parameters=own + spelled)  # type: ignore[attr-defined]
    return cast("F", checked)


def list_query(
    *segments: str,
    account: str | IntegratedAccount | None,
    response_format: ResponseFormat = "unified",
    key_by: str | None = None,
    **filters: Unpack[Filters],
) -> ListQuery:
    """Check the filters of a list call and put them in the contract's order (section 1).

    :raises UsageError: a filter that can never be right; the message says how to write it.
    """
    if unknown := ", ".join(filters.keys() - FILTER_DEFAULTS.keys()):
        raise TypeError(f"unknown filters: {unknown}; what this package does not name goes into extra_query")
    start_time, end_time = filters.get("start_time"), filters.get("end_time")
    limit, remote_query = filters.get("limit"), filters.get("remote_query")
    exclude_fields: object = filters.get("exclude_fields") or ()
    object_arrays = filters.get("object_arrays", "indices")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"limit is the most records on a page, 1 or more, not {limit!r}")
    if isinstance(exclude_fields, str):
        raise UsageError(f"exclude_fields takes several names: exclude_fields=[{exclude_fields!r}]")
    if not isinstance(exclude_fields, Iterable):
        raise UsageError(f"exclude_fields takes several names, not {exclude_fields!r}")
    for name, value in (("remote_query", remote_query), ("extra_query", filters.get("extra_query"))):
        if value is not None and not isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"{name} takes a dict of parameters, not {value!r}")
    if object_arrays not in ("indices", "brackets"):
        raise UsageError(f"object_arrays is 'indices' or 'brackets', not {object_arrays!r}")
    extra = snapshot(filters.get("extra_query") or {})
    if "next_cursor" in extra:
        raise UsageError("next_cursor in extra_query would repeat one page for ever; pass cursor=")
    account = account_id(account)
    query = ListQuery(
        path=path_of(*segments),
        account=account,
        params={
            "integrated_account_id": account,
            "start_time": None if start_time is None else format_time(start_time, "start_time"),
            "end_time": None if end_time is None else format_time(end_time, "end_time"),
            "users": None,
            "limit": limit,
            "next_cursor": None,
            "truto_response_format": None if response_format == "unified" else response_format,
            "truto_key_by": key_by,
            "truto_ignore_limit": filters.get("ignore_limit") or None,
            "truto_ignore_remote_data": filters.get("ignore_remote_data") or None,
            "truto_exclude_fields": tuple(in_order(cast("Iterable[object]", exclude_fields))),
            "truto_super_query": filters.get("super_query"),
            "truto_skip_api_call": filters.get("skip_api_call") or None,
            "remote_query": snapshot(remote_query),
        },
        users=split_users(filters.get("users")),
        extra=extra,
        object_arrays=object_arrays,
    )
    query.target()  # every value is encoded once here, so that a wrong one fails at the call and not later
    return query

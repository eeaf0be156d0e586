"""The filters of a list call: what a caller may pass, how it is checked, and how it shows in signatures.

How filters are sent is in `list_query`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, cast

from truto_ci_async._checks import brief, did_you_mean, is_iterable, is_whole_number, plain
from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount, Meeting, MeetingRef, Person

from .query_string import MAX_ARRAY_ITEMS, ObjectArrays, plain_name, snapshot, stable_order
from .times import ResolvedTime, When, resolve_time

F = TypeVar("F", bound=Callable[..., Any])

ResponseFormat: TypeAlias = Literal["unified", "raw", "normalized", "stream", "debug"]
UserFilter: TypeAlias = str | Person | Mapping[str, Any]
MeetingFilter: TypeAlias = str | Meeting | MeetingRef | Mapping[str, Any]
#: A time, or operators such as ``{"gt": time}``.
TimeFilter: TypeAlias = When | Mapping[str, When]


class CommonFilters(TypedDict, total=False):
    """The filters of every unified resource; ``Resource.list`` documents each one."""

    limit: int | None
    ignore_limit: bool
    ignore_remote_data: bool
    exclude_fields: Iterable[str] | None
    super_query: str | None
    skip_api_call: bool
    remote_query: Mapping[str, Any] | None
    extra_query: Mapping[str, Any] | None
    object_arrays: ObjectArrays


class Filters(CommonFilters, total=False):
    """The filters of a resource that declares none of its own."""

    start_time: When | None
    end_time: When | None
    users: Iterable[UserFilter] | None


class AllFilters(Filters, total=False):
    """The filters of all resources together."""

    meeting: MeetingFilter | None
    created_at: TimeFilter | None
    updated_at: TimeFilter | None


# Filters that only some resources have.
OWN_FILTERS = ("start_time", "end_time", "users", "meeting", "created_at", "updated_at")
FILTER_DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys(OWN_FILTERS),
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


FLAGS = ("ignore_limit", "ignore_remote_data", "skip_api_call")


def check_filters(filters: AllFilters, now: datetime) -> dict[str, Any]:
    """Return all filters, checked: defaults filled in, times resolved, users in batches, scalars as plain values.

    The result shares nothing with what the caller passed in.

    :raises UsageError: a value that can never be right; the message says how to write it.
    :raises TypeError: an unknown filter.
    """
    if unknown := filters.keys() - FILTER_DEFAULTS.keys():
        raise TypeError(f"unknown filters: {', '.join(sorted(unknown))}; {_UNKNOWN_HINT}")
    checked: dict[str, Any] = {**FILTER_DEFAULTS, **filters}
    for name in ("start_time", "end_time"):
        if checked[name] is not None:
            checked[name] = resolve_time(checked[name], name, now)
    _check_order(checked["start_time"], checked["end_time"])
    for name in ("created_at", "updated_at"):
        if checked[name] is not None:
            checked[name] = _operators(checked[name], name, now)
    if checked["meeting"] is not None:
        checked["meeting"] = {"id": _meeting_id(checked["meeting"])}
    for name in FLAGS:
        checked[name] = _flag(name, checked[name])
    for name in ("super_query", "object_arrays"):
        checked[name] = plain(checked[name])
    checked["limit"] = _limit(checked["limit"])
    checked["users"] = split_users(checked["users"])
    checked["exclude_fields"] = field_names(checked["exclude_fields"])
    checked["remote_query"] = snapshot("remote_query", _parameters("remote_query", checked["remote_query"]))
    extra = _parameters("extra_query", checked["extra_query"])
    checked["extra_query"] = {(key := plain_name(name)): snapshot(key, item) for name, item in extra.items()}
    if "next_cursor" in checked["extra_query"]:
        raise UsageError(
            "next_cursor in extra_query would fetch the same page for ever; pass cursor= instead"
        )
    form: object = checked["object_arrays"]
    if not isinstance(form, str) or form not in ("indices", "brackets"):
        raise UsageError(f"object_arrays must be 'indices' or 'brackets', not {brief(form)}")
    return checked


# What some method of some resource takes.
_ELSEWHERE = {*FILTER_DEFAULTS, "response_format"}
_UNKNOWN_HINT = "pass a parameter that this package does not know in extra_query"


def _check_order(start: ResolvedTime | None, end: ResolvedTime | None) -> None:
    """Refuse an end before the start, as the service would.

    With a position, relative times are those of its walk, so they are not compared.
    """
    if start is None or end is None or start.is_relative or end.is_relative:
        return
    if end.at.astimezone(UTC) < start.at.astimezone(UTC):
        raise UsageError(f"end_time={end.text} is before start_time={start.text}")


def _operators(value: object, name: str, now: datetime) -> ResolvedTime | dict[str, ResolvedTime]:
    """Resolve a time, or the time of each operator."""
    if not isinstance(value, Mapping):
        return resolve_time(cast("When", value), name, now)
    operators = cast("Mapping[object, When]", value).items()
    return {(key := plain_name(each)): resolve_time(time, f"{name}[{key}]", now) for each, time in operators}


def _meeting_id(meeting: object) -> str:
    value: object = meeting.id if isinstance(meeting, (Meeting, MeetingRef)) else plain(meeting)
    if isinstance(value, Mapping):
        value = plain(cast("Mapping[str, object]", value).get("id"))
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"meeting must be the id of a meeting, or a Meeting that has one, not {brief(meeting)}"
        )
    return value


def _limit(limit: object) -> int | None:
    value: object = plain(limit)
    if value is None:
        return None
    if not is_whole_number(value, least=1):
        raise UsageError(
            f"limit is the number of records on a page, an integer of 1 or more, not {brief(limit)}"
        )
    return cast("int", value)


def _flag(name: str, flag: object) -> bool:
    value: object = plain(flag)
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, not {brief(flag)}")
    return bool(value)


def field_names(names: object) -> list[str]:
    """Return the names of ``exclude_fields`` as plain text.

    :raises UsageError: not a list of names.
    """
    if names is None:
        return []
    if isinstance(names, str):
        raise UsageError(f"exclude_fields must be a list of names, such as exclude_fields=[{brief(names)}]")
    if isinstance(names, Mapping) or not is_iterable(names):
        raise UsageError(f"exclude_fields must be a list of names, not {brief(cast('Any', names))}")
    return [_field_name(name) for name in stable_order(cast("Iterable[object]", names))]


def _field_name(name: object) -> str:
    text: object = plain(name)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"exclude_fields must be a list of names, but {brief(name)} is not a name")
    return text


def _parameters(name: str, value: object) -> Mapping[Any, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{name} must be a dict of parameters, not {brief(value)}")
    return cast("Mapping[Any, object]", value)


def split_users(users: Iterable[UserFilter] | str | None) -> tuple[tuple[str, ...], ...]:
    """Split user ids into batches that fit in one request, in input order and without duplicates.

    The service reads at most ``MAX_ARRAY_ITEMS`` users as an array. None gives one empty batch, for all users.

    :raises UsageError: the list is empty, or an id is not a non-empty string. Numbers are refused: ids have up to 20
        digits, and a float cannot hold them exactly.
    """
    if users is None:
        return ((),)
    if isinstance(users, (str, Person, Mapping)):
        raise UsageError(f"users must be a list of ids, such as users=[{brief(cast('object', users))}]")
    if not is_iterable(users):
        raise UsageError(f"users must be a list of ids, not {brief(users)}")
    ids = tuple(dict.fromkeys(map(_user_id, stable_order(users))))
    if not ids:
        raise UsageError("users is empty, which the service would read as everyone: pass users=None for that")
    return tuple(ids[i : i + MAX_ARRAY_ITEMS] for i in range(0, len(ids), MAX_ARRAY_ITEMS))


def _user_id(user: UserFilter) -> str:
    value: object = user.id if isinstance(user, Person) else user
    if isinstance(value, Mapping):
        value = cast("Mapping[str, object]", value).get("id")
    text: object = plain(value)
    if not isinstance(text, str) or not text:
        raise UsageError(f"a user id must be a non-empty string, not {brief(value)}")
    return text


def account_id(account: str | IntegratedAccount | None) -> str | None:
    """Return the id of an account given as its id or as an ``IntegratedAccount``.

    :raises UsageError: the id is empty or not a string.
    """
    if account is None:
        return None
    text: object = plain(account.id if isinstance(account, IntegratedAccount) else account)
    if not isinstance(text, str) or not text:
        raise UsageError(
            f"integrated_account_id must be a non-empty string or an IntegratedAccount, not {brief(account)}"
        )
    return text


def takes_filters(
    method: F,
    own: Collection[str] = tuple(Filters.__annotations__),
    *,
    like: Callable[..., Any] | None = None,
) -> F:
    """Replace ``**filters`` in a method's signature with the filters themselves, and reject unknown keywords.

    Type checkers read the overloads; ``help()`` and notebooks only read the signature. ``own`` are the filters that not
    every resource has. The name and the docstring are those of ``like``.
    """
    filters = [name for name in FILTER_DEFAULTS if name in own or name not in OWN_FILTERS]
    signature = inspect.signature(method)
    named = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    spelled = {each.name for each in named}
    allowed = spelled.union(filters)

    @functools.wraps(like or method)
    def checked(*args: Any, **options: Any) -> Any:
        if unknown := options.keys() - allowed:
            name = min(unknown)
            hint = f"{did_you_mean(name, allowed)}; {_UNKNOWN_HINT}"
            if name in _ELSEWHERE:
                hint = ": only other methods or resources take it"
            raise TypeError(f"{checked.__name__}() got an unexpected keyword argument {name!r}{hint}")
        return method(*args, **options)

    checked.__wrapped__ = method
    others = _filter_parameters(name for name in filters if name not in spelled)
    checked.__signature__ = signature.replace(parameters=named + others)  # type: ignore[attr-defined]
    return cast("F", checked)


def _filter_parameters(names: Iterable[str]) -> list[inspect.Parameter]:
    annotations = AllFilters.__annotations__
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=FILTER_DEFAULTS[name],
            annotation=getattr(annotations[name], "__forward_arg__", annotations[name]),
        )
        for name in names
    ]

"""The filters of a list call: what a caller may pass, how it is checked, and how it shows in signatures.

How filters are sent is in `list_query`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, cast

from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount, User

from .query_string import MAX_ARRAY_ITEMS, ObjectArrays, Timestamp, format_time, snapshot, stable_order

F = TypeVar("F", bound=Callable[..., Any])

ResponseFormat: TypeAlias = Literal["unified", "raw", "normalized", "stream", "debug"]
UserFilter: TypeAlias = str | User | Mapping[str, Any]


class Filters(TypedDict, total=False):
    """The filters every method of a unified resource takes; ``Resource.list`` documents each one."""

    start_time: Timestamp | None
    end_time: Timestamp | None
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


def check_filters(filters: Filters) -> dict[str, Any]:
    """Return all filters, checked and ready to send: defaults filled in, times as text, users in batches.

    The result shares nothing with what the caller passed in.

    :raises UsageError: a value that can never be right; the message says how to write it.
    :raises TypeError: an unknown filter.
    """
    if unknown := filters.keys() - FILTER_DEFAULTS.keys():
        raise TypeError(f"unknown filters: {', '.join(sorted(unknown))}; {_UNKNOWN_HINT}")
    checked: dict[str, Any] = {**FILTER_DEFAULTS, **filters}
    for name in ("start_time", "end_time"):
        if checked[name] is not None:
            checked[name] = format_time(checked[name], name)
    _check_limit(checked["limit"])
    checked["users"] = split_users(checked["users"])
    checked["exclude_fields"] = _field_names(checked["exclude_fields"])
    for name in ("remote_query", "extra_query"):
        checked[name] = _parameters(name, checked[name])
    if "next_cursor" in checked["extra_query"]:
        raise UsageError(
            "next_cursor in extra_query would fetch the same page for ever; pass cursor= instead"
        )
    if checked["object_arrays"] not in ("indices", "brackets"):
        raise UsageError(f"object_arrays must be 'indices' or 'brackets', not {checked['object_arrays']!r}")
    return checked


_UNKNOWN_HINT = "pass a parameter that this package does not know in extra_query"


def _check_limit(limit: object) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UsageError(f"limit is the number of records on a page, an integer of 1 or more, not {limit!r}")


def _field_names(names: object) -> tuple[object, ...]:
    names = names or ()
    if isinstance(names, str):
        raise UsageError(f"exclude_fields must be a list of names, such as exclude_fields=[{names!r}]")
    if not isinstance(names, Iterable):
        raise UsageError(f"exclude_fields must be a list of names, not {names!r}")
    return tuple(stable_order(cast("Iterable[object]", names)))


def _parameters(name: str, value: object) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise UsageError(f"{name} must be a dict of parameters, not {value!r}")
    return cast("dict[str, Any]", snapshot(cast("object", value))) if value else {}


def split_users(users: Iterable[UserFilter] | str | None) -> tuple[tuple[str, ...], ...]:
    """Split user ids into batches that fit in one request, in input order and without duplicates.

    The service reads at most ``MAX_ARRAY_ITEMS`` users as an array. No users are one empty batch.

    :raises UsageError: an id is not a non-empty string. Numbers are refused: ids have up to 20 digits, and a
        float cannot hold them exactly.
    """
    if users is None:
        return ((),)
    if isinstance(users, (str, User, Mapping)):
        raise UsageError(f"users must be a list of ids, such as users=[{users!r}]")
    if not isinstance(users, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"users must be a list of ids, not {users!r}")
    ids = tuple(dict.fromkeys(map(_user_id, stable_order(users))))
    return tuple(ids[i : i + MAX_ARRAY_ITEMS] for i in range(0, len(ids), MAX_ARRAY_ITEMS)) or ((),)


def _user_id(user: UserFilter) -> str:
    value: object = user.id if isinstance(user, User) else user
    if isinstance(value, Mapping):
        value = cast("Mapping[str, object]", value).get("id")
    if not isinstance(value, str) or not value:
        raise UsageError(f"a user id must be a non-empty string, not {value!r}")
    return value


def account_id(account: str | IntegratedAccount | None) -> str | None:
    """Return the id of an account given as its id or as an ``IntegratedAccount``.

    :raises UsageError: the id is empty or not a string.
    """
    if account is None:
        return None
    value = account.id if isinstance(account, IntegratedAccount) else account
    if not isinstance(value, str) or not value:
        raise UsageError(
            f"integrated_account_id must be a non-empty string or an IntegratedAccount, not {account!r}"
        )
    return value


def takes_filters(method: F) -> F:
    """Replace ``**filters`` in a method's signature by the filters themselves, and reject unknown keywords.

    Type checkers know the filters from ``Unpack[Filters]``; ``help()`` and notebooks only read the signature.
    """
    signature = inspect.signature(method)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    allowed = {each.name for each in own} | FILTER_DEFAULTS.keys()

    @functools.wraps(method)
    def checked(*args: Any, **options: Any) -> Any:
        if unknown := options.keys() - allowed:
            raise TypeError(
                f"{method.__name__}() got an unexpected keyword argument {min(unknown)!r}; {_UNKNOWN_HINT}"
            )
        return method(*args, **options)

    checked.__signature__ = signature.replace(parameters=own + _filter_parameters())  # type: ignore[attr-defined]
    return cast("F", checked)


def _filter_parameters() -> list[inspect.Parameter]:
    annotations = Filters.__annotations__
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=getattr(annotations[name], "__forward_arg__", annotations[name]),
        )
        for name, default in FILTER_DEFAULTS.items()
    ]

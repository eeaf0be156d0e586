"""Turns the options of a pull into a plan."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from math import isfinite
from typing import Any, TypeAlias, Unpack, cast
from uuid import UUID

import msgspec

from truto_ci_async._wire.filters import split_users
from truto_ci_async._wire.query_string import MAX_DEPTH, format_time, stable_order
from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount
from truto_ci_async.models.pulls import PlannedAccount

from .accounts import Accounts, checked_text, collect_accounts
from .bounds import When, WindowLength, resolve_windows
from .plan import Plan, PlanFilters

#: Lists the accounts that match, as `integrated_accounts.list` does.
Discover: TypeAlias = Callable[..., AsyncIterable[IntegratedAccount]]


async def resolve(
    discover: Discover | None,
    accounts: Accounts | None = None,
    *,
    integration: str | None = None,
    status: str | None = None,
    start_time: When | None = None,
    end_time: When | None = None,
    window: WindowLength | None = None,
    now: datetime | None = None,
    known: Sequence[PlannedAccount] | None = None,
    **filters: Unpack[PlanFilters],
) -> Plan:
    """Make a plan of what a caller says.

    ``accounts`` are ids, IntegratedAccounts or dicts with an ``id``, in any iterable, also an asynchronous one such
    as ``integrated_accounts.list()``; or a ``Path`` to a file with one id, or one JSON object with an ``id``, on
    each line. Without them the accounts are discovered by ``integration`` and ``status``. A bound is a moment, a
    timedelta from now, or text: ISO 8601 with an offset, ``now``, ``today``, ``-7d``, ``today-12h``. ``end_time``
    is now unless given. ``now`` replaces the clock; its time zone is the one whose midnight ``today`` means.
    ``discover`` lists accounts by ``integration`` and ``status``. ``known`` are accounts that
    an earlier run discovered: they are used instead.

    :raises UsageError: something that can never be right; the message says how to write it.
    """
    if unknown := ", ".join(filters.keys() - PlanFilters.__annotations__.keys()):
        raise TypeError(f"unknown filters: {unknown}; what this package does not name goes into extra_query")
    if now is None:
        now = datetime.now(UTC)
    elif now.utcoffset() is None:
        raise UsageError("now takes an aware datetime")
    given, windows = resolve_windows(start_time, end_time, window, now.replace(microsecond=0))
    asked = {name: _plain(name, value) for name, value in filters.items() if value is not None}
    plan = Plan(
        accounts=(),
        windows=windows,
        filters={name: value for name, value in asked.items() if not (value is False or value in ([], {}))},
        given=given | asked,
        created_at=format_time(now, "now"),
    )
    _check(plan)
    sought = {
        name: value for name, value in (("integration", integration), ("status", status)) if value is not None
    }
    if accounts is not None:
        if sought:
            raise UsageError(
                f"{' and '.join(sought)} would find accounts, but accounts are given: pass one of them"
            )
        sought = {"accounts": "listed"}
        found = await collect_accounts(accounts)
    elif not sought:
        raise UsageError("say which accounts: a list of ids, a Path to a file, or integration= and status=")
    elif known is not None:
        found = tuple(known)
    elif discover is None:
        raise UsageError("a client is needed to find accounts by integration and status")
    else:
        found = await collect_accounts(discover(integration=integration, status=status))
    return msgspec.structs.replace(plan, accounts=found, given=plan.given | sought)


def _check(plan: Plan) -> None:
    """Refuse filters that can never be right, before any account is looked up.

    :raises UsageError: what ``list`` refuses, or an ``extra_query`` that would ask every walk the same.
    """
    response_format = plan.filters.get("response_format", "unified")
    if response_format not in ("unified", "normalized", "debug"):
        raise UsageError(
            f"a pull takes response_format 'unified', 'normalized' or 'debug', not {response_format!r}"
        )
    extra = plan.filters.get("extra_query", {})
    own = ("integrated_account_id", "start_time", "end_time", "users")
    if clash := ", ".join(name for name in own if extra.get(name) is not None):
        raise UsageError(f"{clash} in extra_query would make every account and window ask the same")
    plan.query(PlannedAccount("any"), plan.windows[0])


def _plain(name: str, value: object, depth: int = 0) -> Any:
    """Return a filter as JSON holds it, so that it is the same before it was stored and after.

    :raises UsageError: a value that cannot be sent.
    """
    if depth > MAX_DEPTH:
        raise UsageError(f"{name} is nested deeper than {MAX_DEPTH} levels; does it hold itself?")
    if name == "users" and not depth:
        value = [user for chunk in split_users(cast("Any", value)) for user in chunk]
    elif name == "exclude_fields" and not depth:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise UsageError(f"exclude_fields takes several names: exclude_fields=[{value!r}]")
        value = list(stable_order(cast("Iterable[object]", value)))
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {checked_text(name, key): _plain(name, item, depth + 1) for key, item in entries}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(name, item, depth + 1) for item in stable_order(cast("Iterable[object]", value))]
    if isinstance(value, (datetime, date)):
        return format_time(value, name)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        return checked_text(name, value)
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and isfinite(value)):
        return value
    raise UsageError(f"{name} holds {value!r}, which cannot be sent in a query")

"""Turns what a caller asks for into a plan."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from math import isfinite
from typing import Any, TypeAlias, Unpack, cast
from uuid import UUID

import msgspec

from truto_ci_async._wire.filters import split_users
from truto_ci_async._wire.query_string import MAX_DEPTH, format_time, require_encodable, stable_order
from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount
from truto_ci_async.models.pulls import PlannedAccount

from .accounts import Accounts, collect_accounts
from .bounds import When, WindowLength, resolve_windows
from .plan import Plan, PlanFilters

#: Finds accounts by ``integration`` and ``status``, as ``integrated_accounts.list`` does.
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
    """Make a plan. Without ``accounts``, look them up with ``discover``, by ``integration`` and ``status``.

    ``known``  accounts that an earlier run looked up, to be used instead of looking them up again.
    ``now``    replaces the clock. ``today`` starts at midnight in its time zone, and ``end_time`` defaults to it.

    :raises UsageError: an argument can never be right; the message says how to write it.
    """
    if now is None:
        now = datetime.now(UTC)
    elif now.utcoffset() is None:
        raise UsageError("now takes an aware datetime")
    given, windows = resolve_windows(start_time, end_time, window, now.replace(microsecond=0))
    requested = _filters(filters)
    plan = Plan(
        accounts=(),
        windows=windows,
        filters={
            name: value for name, value in requested.items() if not (value is False or value in ([], {}))
        },
        given=given | requested,
        created_at=format_time(now, "now"),
    )
    _check_filters(plan)
    criteria = {
        name: value for name, value in (("integration", integration), ("status", status)) if value is not None
    }
    found = await _find_accounts(discover, accounts, known, criteria)
    source = criteria if accounts is None else {"accounts": "listed"}
    return msgspec.structs.replace(plan, accounts=found, given=plan.given | source)


async def _find_accounts(
    discover: Discover | None,
    accounts: Accounts | None,
    known: Sequence[PlannedAccount] | None,
    criteria: Mapping[str, str],
) -> tuple[PlannedAccount, ...]:
    if accounts is not None:
        if criteria:
            raise UsageError(f"pass either accounts, or {' and '.join(criteria)} to look them up")
        return await collect_accounts(accounts)
    if not criteria:
        raise UsageError(
            "no accounts given: pass a list of ids or a Path to a file, or look them up with integration= and status="
        )
    if known is not None:
        return tuple(known)
    if discover is None:
        raise UsageError("a client is needed to look up accounts by integration and status")
    return await collect_accounts(
        discover(integration=criteria.get("integration"), status=criteria.get("status"))
    )


def _filters(filters: Mapping[str, object]) -> dict[str, Any]:
    """Return the filters that are given, as JSON represents them, so that storing them does not change them.

    :raises UsageError: a value cannot be sent.
    """
    if unknown := ", ".join(filters.keys() - PlanFilters.__annotations__.keys()):
        raise TypeError(
            f"unknown filters: {unknown}; pass parameters that this package does not know in extra_query"
        )
    return {name: _filter_value(name, value) for name, value in filters.items() if value is not None}


def _check_filters(plan: Plan) -> None:
    """Refuse filters that can never be right, before any account is looked up.

    :raises UsageError: ``list`` would refuse them, or ``extra_query`` would make all walks send the same request.
    """
    response_format = plan.filters.get("response_format", "unified")
    if response_format not in ("unified", "normalized", "debug"):
        raise UsageError(
            f"the response_format of a pull must be 'unified', 'normalized' or 'debug', not {response_format!r}"
        )
    extra = plan.filters.get("extra_query", {})
    own = ("integrated_account_id", "start_time", "end_time", "users")
    if clash := ", ".join(name for name in own if extra.get(name) is not None):
        raise UsageError(f"extra_query must not set {clash}: every walk would send the same request")
    plan.query(PlannedAccount("any"), plan.windows[0])


def _filter_value(name: str, value: object) -> Any:
    if name == "users":
        value = [user for batch in split_users(cast("Any", value)) for user in batch]
    elif name == "exclude_fields":
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise UsageError(f"exclude_fields takes several names: exclude_fields=[{value!r}]")
        value = list(stable_order(cast("Iterable[object]", value)))
    return _json_value(name, value)


def _json_value(name: str, value: object, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise UsageError(f"{name} is nested deeper than {MAX_DEPTH} levels; does it contain itself?")
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {_text(name, key): _json_value(name, item, depth + 1) for key, item in entries}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json_value(name, item, depth + 1) for item in stable_order(cast("Iterable[object]", value))]
    if isinstance(value, (datetime, date)):
        return format_time(value, name)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        return _text(name, value)
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and isfinite(value)):
        return value
    raise UsageError(f"{name} contains {value!r}, which cannot be sent in a query")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name}: a name must be text, not {value!r}")
    return str(require_encodable(value, name))

"""Turns a caller's arguments into a plan."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Unpack, cast

import msgspec

from truto_ci_async._checks import brief, plain
from truto_ci_async._wire.filters import FLAGS, field_names, split_users
from truto_ci_async._wire.query_string import plain_name, require_encodable, snapshot
from truto_ci_async._wire.times import When, format_time, plain_datetime
from truto_ci_async.errors import UsageError
from truto_ci_async.models.pulls import PlannedAccount, Window
from truto_ci_async.pull.walks import walk_of

from .accounts import Accounts, collect_accounts
from .bounds import WindowLength, resolve_windows
from .discovery import Discover, nothing_found, with_ids
from .plan import Plan, PlanFilters

_EMPTY = " If that is meant, pass allow_empty=True (--allow-empty)"


async def resolve(
    discover: Discover | None,
    accounts: Accounts | None = None,
    *,
    resource: str = "interactions",
    integration: str | None = None,
    status: str | None = None,
    start_time: When | None = None,
    end_time: When | None = None,
    window: WindowLength | None = None,
    now: datetime | None = None,
    known: Sequence[PlannedAccount] | None = None,
    allow_empty: bool = False,
    **filters: Unpack[PlanFilters],
) -> Plan:
    """Make a plan. Without ``accounts``, look them up with ``discover``, by ``integration`` and ``status``.

    ``known``        accounts that an earlier run looked up, to be used instead of looking them up again.
    ``now``          replaces the clock. ``today`` starts at midnight in its time zone, and ``end_time`` defaults to it.
    ``allow_empty``  make a plan even if there is no account.

    :raises UsageError: an argument can never be right, or there is no account; the message says what to do.
    """
    plan = draft_plan(resource, start_time=start_time, end_time=end_time, window=window, now=now, **filters)
    criteria = {
        name: _criterion(name, value)
        for name, value in (("integration", integration), ("status", status))
        if value is not None
    }
    found = await _find_accounts(discover, accounts, known, criteria, allow_empty=allow_empty)
    source = criteria if accounts is None else {"accounts": "listed"}
    return msgspec.structs.replace(plan, accounts=found, given=plan.given | source)


def draft_plan(
    resource: str,
    *,
    start_time: When | None = None,
    end_time: When | None = None,
    window: WindowLength | None = None,
    now: datetime | None = None,
    **filters: Unpack[PlanFilters],
) -> Plan:
    """Return the plan without its accounts.

    :raises UsageError: an argument can never be right.
    """
    now = datetime.now(UTC) if now is None else _aware(now)
    walk = walk_of(resource)
    times = {"start_time": start_time, "end_time": end_time, "window": window}
    if not walk.takes_window and (wrong := [name for name, value in times.items() if value is not None]):
        raise UsageError(f"{', '.join(wrong)}: {resource} have no window")
    given, windows = resolve_windows(start_time, end_time, window, now)
    if walk.needs_window and windows[0].start is None:
        raise UsageError(f"{resource} needs a start_time: the service refuses a call without a window")
    requested = _filters(filters)
    if "users" in requested and not walk.takes_users:
        raise UsageError(f"{resource} cannot be filtered by users: only interactions and activity can")
    plan = Plan(
        resource=resource,
        accounts=(),
        windows=windows,
        filters={
            name: value
            for name, value in requested.items()
            if not (value in ([], {}) or (name in FLAGS and value is False))
        },
        given=given | requested,
        created_at=format_time(now, "now"),
    )
    _check_filters(plan)
    return plan


async def _find_accounts(
    discover: Discover | None,
    accounts: Accounts | None,
    known: Sequence[PlannedAccount] | None,
    criteria: Mapping[str, str],
    *,
    allow_empty: bool,
) -> tuple[PlannedAccount, ...]:
    if accounts is not None:
        if criteria:
            raise UsageError(f"pass either accounts, or {' and '.join(criteria)} to look them up")
        found = await collect_accounts(accounts)
        if not found and not allow_empty:
            where = f"{accounts} contains" if isinstance(accounts, os.PathLike) else "accounts has"
            raise UsageError(f"{where} no accounts.{_EMPTY}")
        return found
    if not criteria:
        raise UsageError(
            "no accounts given: pass a list of ids or a Path to a file, or look them up with integration= and status="
        )
    if known is not None:
        if not known and not allow_empty:
            raise UsageError("the plan of the earlier run has no accounts: start over with fresh=True")
        return tuple(known)
    if discover is None:
        raise UsageError("a client is needed to look up accounts by integration and status")
    listed = discover(integration=criteria.get("integration"), status=criteria.get("status"))
    async with aclosing(with_ids(listed)) as identified:
        found = await collect_accounts(identified)
    if not found and not allow_empty:
        raise UsageError(await nothing_found(discover, **criteria) + _EMPTY)
    return found


def _aware(now: object) -> datetime:
    if not isinstance(now, datetime):
        raise UsageError(f"now takes an aware datetime, not {brief(now)}")
    try:
        return plain_datetime(now, "now")
    except UsageError as error:
        raise UsageError(f"now takes an aware datetime: {error}") from error


def _criterion(name: str, value: object) -> str:
    text: object = plain(value)
    if not isinstance(text, str) or not text:
        raise UsageError(f"{name} must be non-empty text, not {brief(value)}")
    return require_encodable(text, name)


def _filters(filters: Mapping[str, object]) -> dict[str, Any]:
    """Return the filters that are given, as JSON represents them, so that storing them does not change them.

    :raises UsageError: a value cannot be sent.
    """
    if unknown := ", ".join(filters.keys() - PlanFilters.__annotations__.keys()):
        raise TypeError(
            f"unknown filters: {unknown}; pass parameters that this package does not know in extra_query"
        )
    return {name: _filter_value(name, value) for name, value in filters.items() if value is not None}


def _filter_value(name: str, value: object) -> Any:
    if name == "users":
        return [user for batch in split_users(cast("Any", value)) for user in batch]
    if name == "exclude_fields":
        return field_names(value)
    if name == "extra_query" and isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {(text := plain_name(key)): snapshot(text, item) for key, item in entries}
    return snapshot(name, value)


def _check_filters(plan: Plan) -> None:
    """Refuse filters that can never be right, before any account is looked up.

    :raises UsageError: ``list`` would refuse them, or ``extra_query`` would make all walks send the same request.
    """
    response_format = plan.filters.get("response_format", "unified")
    if response_format not in ("unified", "normalized", "debug"):
        raise UsageError(
            f"the response_format of a pull must be 'unified', 'normalized' or 'debug', not {response_format!r}"
        )
    plan.query(PlannedAccount("any"), plan.windows[0])
    if plan.walk.is_per_meeting:
        plan.transcript_query(PlannedAccount("any"), "any")
    elif (
        plan.walk.checks_window
        and plan.windows[0] != Window()
        and "start_time" in plan.filters.get("exclude_fields", ())
    ):
        raise UsageError(
            f"a pull of {plan.resource} needs start_time: some providers ignore the window, so it is checked here"
        )
    extra = plan.filters.get("extra_query", {})
    own = ("integrated_account_id", "start_time", "end_time", "users", "meeting")
    if clash := ", ".join(name for name in own if extra.get(name) is not None):
        raise UsageError(f"extra_query must not set {clash}: every walk would send the same request")

"""The plan of a sync: for each account its own windows, by what the store knows to be complete."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from truto_ci_async._wire.times import format_time
from truto_ci_async.errors import DamagedStateError, UsageError
from truto_ci_async.models.pulls import Window
from truto_ci_async.pull.plan.bounds import MAX_WINDOWS
from truto_ci_async.pull.plan.plan import Plan

from .options import SyncOptions
from .windows import Due, Span, Spans, due


class Mark(Struct, frozen=True, omit_defaults=True):
    """What is known of one account, as the store keeps it: ``str`` writes it, ``read_mark`` reads it.

    ``complete``  the windows of the ``grid`` that were read completely: those that meet are one span.
    ``until``     when to ask the account again, in seconds since 1970, and ``error`` why, or how its last run failed.
    ``used``      what counts towards its quota of a day, see ``daily_use``.
    """

    grid: str
    complete: Spans = ()
    until: float | None = None
    error: str | None = None
    used: str | None = None

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()


def read_mark(text: str, account: str) -> Mark:
    """:raises DamagedStateError: it is not the text of a mark."""
    try:
        return msgspec.json.decode(text, type=Mark)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise DamagedStateError(
            f"what is stored of the sync of account {account} is damaged: {error}"
        ) from error


class Series(NamedTuple):
    """The windows to ask of an account, and of each the span that is complete once it is read, if it is over."""

    windows: tuple[Window, ...]
    spans: tuple[Span | None, ...]


class SyncPlan(Plan, frozen=True, kw_only=True, tag="truto-sync-plan-1"):
    """A plan with windows of its own for each account: ``series``, on the grid in ``grids``.

    ``windows`` are the most that any account has.
    """

    grids: dict[str, str]
    series: dict[str, Series]

    @property
    def is_sync(self) -> bool:
        return True

    def windows_of(self, account: str) -> tuple[Window, ...]:
        return self.series[account].windows

    def __len__(self) -> int:
        return sum(len(each.windows) for each in self.series.values())


def header_of(plan: Plan) -> Plan:
    """Return what a store keeps of the plan of a sync, by which a later one is compared: neither accounts nor times."""
    given = {name: value for name, value in plan.given.items() if name in plan.filters or name == "users"}
    return replace(plan, accounts=(), windows=(Window(),), given={**given, "since": "last"})


def is_sync(plan: Plan) -> bool:
    """Tell whether a plan is what a store keeps of a sync."""
    return "since" in plan.given


def sync_difference(plan: Plan, stored: Plan) -> str | None:
    """Say why a sync and what is stored do not go together, if one of them is a sync; None if they do."""
    if is_sync(plan) != is_sync(stored):
        return (
            'is synced: pass since="last"' if is_sync(stored) else "has a pull of its own, and is not synced"
        )
    if is_sync(plan) and (plan.resource, plan.filters) != (stored.resource, stored.filters):
        return f"is synced with other filters ({stored.filters or 'none'}, not {plan.filters or 'none'})"
    return None


def plan_sync(plan: Plan, options: SyncOptions, marks: Mapping[str, Mark]) -> SyncPlan:
    """Return the plan with the windows that are due of each account.

    :raises UsageError: there are too many, or a time zone is not known.
    """
    takes_window = plan.walk.takes_window
    grids: dict[str, str] = {}
    found: dict[str, Series] = {}
    cache: dict[Any, Series] = {}  # accounts in step share one
    for account in plan.accounts:
        if not takes_window:
            grids[account.id], found[account.id] = "", _WHOLE
            continue
        grid = options.grid_of(account)
        text = grids[account.id] = str(grid)
        mark = marks.get(account.id)
        known_from: datetime | None = None
        complete: Spans = ()
        if mark is not None and mark.complete:
            # Windows of another grid would overlap: all that is known is read again.
            known_from = mark.complete[0].start
            complete = mark.complete if mark.grid == text else ()
        key = (text, complete, known_from)
        if key not in cache:
            cache[key] = _series(
                due(
                    complete,
                    grid=grid,
                    now=options.now.replace(microsecond=0),
                    lookback=options.lookback,
                    earliest=options.earliest,
                    known_from=known_from,
                    asks_current=plan.walk.checks_window,
                )
            )
        found[account.id] = cache[key]
    windows = max((each.windows for each in found.values()), key=len, default=())
    fields: dict[str, Any] = {name: getattr(plan, name) for name in Plan.__struct_fields__}
    fields["windows"] = windows
    return SyncPlan(**fields, grids=grids, series=found)


_WHOLE = Series((Window(),), (None,))


def _series(found: list[Due]) -> Series:
    if len(found) > MAX_WINDOWS:
        raise UsageError(f"max_history has more than {MAX_WINDOWS:,} windows: ask for less")
    return Series(
        tuple(Window(format_time(each.span.start, ""), format_time(each.span.end, "")) for each in found),
        tuple(each.span if each.is_over else None for each in found),
    )

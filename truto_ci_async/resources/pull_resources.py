"""Pulls several resources into one folder, one after another."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from truto_ci_async._checks import brief, did_you_mean
from truto_ci_async._wire.filters import UserFilter
from truto_ci_async._wire.item_reader import OnInvalid
from truto_ci_async._wire.query_string import ObjectArrays
from truto_ci_async._wire.times import When
from truto_ci_async.errors import UsageError

from .integrated_accounts import IntegratedAccounts
from .options import RESOURCES
from .pulled import checked_folder, plan_options

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async.pull.engine import Pull
    from truto_ci_async.pull.plan.accounts import Accounts
    from truto_ci_async.pull.plan.bounds import WindowLength
    from truto_ci_async.pull.plan.plan import Plan, PlanFormat, PlanOptions
    from truto_ci_async.pull.report import Budget, PullReports
    from truto_ci_async.sinks.factory import OutputFormat
    from truto_ci_async.sinks.rows import CsvFormulas


# Options of a plan that ``users`` lacks, while others that are pulled with it may have them.
_OF_WINDOWS = ("start_time", "end_time", "window", "users")


async def pull_resources(
    client: BaseClient,
    out: str | os.PathLike[str],
    resources: Iterable[str],
    accounts: Accounts | None = None,
    *,
    start_time: When | None = None,
    end_time: When | None = None,
    window: WindowLength | None = None,
    integration: str | None = None,
    status: str | None = None,
    users: Iterable[UserFilter] | None = None,
    format: OutputFormat = "ndjson",
    csv_formulas: CsvFormulas = "keep",
    lookback: timedelta | str | None = None,
    on_invalid: OnInvalid = "repair",
    grow: bool = False,
    fresh: bool = False,
    budget: Budget | None = None,
    max_accounts: int = 32,
    on_start: Callable[[Pull[Any]], None] | None = None,
    limit: int | None = None,
    response_format: PlanFormat | None = None,
    ignore_limit: bool | None = None,
    ignore_remote_data: bool | None = None,
    exclude_fields: Iterable[str] | None = None,
    super_query: str | None = None,
    skip_api_call: bool | None = None,
    remote_query: Mapping[str, Any] | None = None,
    extra_query: Mapping[str, Any] | None = None,
    object_arrays: ObjectArrays | None = None,
    now: datetime | None = None,
    allow_empty: bool = False,
) -> PullReports:
    """Pull several resources of many accounts into the folder ``out``. Run it again to continue where it stopped.

        reports = await truto_ci_async.pull_resources(
            truto, "data/", ["meetings", "transcripts", "users"], integration="gong", start_time="-7d"
        )
        print(reports["meetings"], reports.complete)

    ``client`` is a ``TrutoClient``. They are pulled one after another, in the order given, each as by its
    ``pull_to``: with a file or folder and a progress of its own, under one manifest. Accounts are looked up once, and
    relative times are the same for all of them, also for a resource that is added in a later run. Windows are for
    those resources that have any; ``users`` filters interactions and activity, and ``lookback`` is for transcripts.
    All other options, such as ``format`` and ``csv_formulas``, are for each resource.

    After ``stop()`` of the pull that ``on_start`` was given, the resources after that one are left to the next run.

    :raises UsageError: before anything is sent: an option that can never be right, or not for one of the resources.

    The other errors are those of ``pull_to``.
    """
    options = plan_options(locals())
    from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
    from truto_ci_async.pull.engine import lookback_seconds
    from truto_ci_async.pull.report import Budget, PullReports
    from truto_ci_async.pull.shard import run_shard
    from truto_ci_async.sinks.factory import make_sink
    from truto_ci_async.sinks.layout import state_file

    names = _names(resources)
    folder = checked_folder(out, accounts)
    if lookback_seconds(lookback) is not None and "transcripts" not in names:
        raise UsageError("lookback is for transcripts, which may come late")
    plans = _Plans(client, names, accounts, options)
    await plans.check()
    reports = PullReports(dict.fromkeys(names))
    running: list[Pull[Any]] = []

    def started(pull: Pull[Any]) -> None:
        running.append(pull)
        if on_start is not None:
            on_start(pull)

    for name in names:
        reports.by_resource[name] = await run_shard(
            client,
            plans.of(name),
            SQLiteCheckpoint(folder / state_file(name)),
            make_sink(format, folder, resource=name, fresh=fresh, csv_formulas=csv_formulas),
            Budget.of(budget, max_accounts),
            on_invalid=on_invalid,
            grow=grow,
            fresh=fresh,
            lookback=lookback if name == "transcripts" else None,
            on_start=started,
        )
        if running[-1].is_stopped:
            break
    return reports


def _names(resources: Iterable[str]) -> list[str]:
    if isinstance(resources, str):
        raise UsageError(f"resources is a list of names, such as [{brief(resources)}]")
    names = list(dict.fromkeys(resources))
    if not names:
        raise UsageError("no resources to pull")
    for name in names:
        if name not in RESOURCES:
            nearest = did_you_mean(str(name), RESOURCES)
            raise UsageError(
                f"there is no resource {brief(name)} to pull, only {', '.join(RESOURCES)}{nearest}"
            )
    return names


class _Plans:
    """Makes the plans of one run. They have the accounts and the clock of the first one."""

    def __init__(
        self, client: BaseClient, names: list[str], accounts: Accounts | None, options: PlanOptions
    ) -> None:
        self._discover = IntegratedAccounts(client).list
        self._names = names
        self._accounts = accounts
        self._options = options
        self._first: Plan | None = None
        self._now: datetime | None = options.get("now")

    async def check(self) -> None:
        """:raises UsageError: an option is not for one of the resources, or can never be right."""
        from truto_ci_async.pull.plan.resolve import resolve

        if self._names == ["users"] and (given := [each for each in _OF_WINDOWS if each in self._options]):
            raise UsageError(f"{', '.join(given)}: users are those of an account, whatever they did and when")
        for name in self._names:
            options = self._options_of(name)
            options.pop("integration", None)
            options.pop("status", None)
            await resolve(None, ["any"], resource=name, **options)

    def _options_of(self, name: str) -> PlanOptions:
        options = cast("dict[str, Any]", {**self._options})
        if name == "users":  # these are the people of an account, whatever they did and when
            for window_or_filter in _OF_WINDOWS:
                options.pop(window_or_filter, None)
        return cast("PlanOptions", options)

    def of(self, name: str) -> Callable[[Plan | None], Awaitable[Plan]]:
        """Return what makes the plan of a resource once the stored one is known."""
        from truto_ci_async.pull.plan.resolve import resolve

        async def make(stored: Plan | None) -> Plan:
            options, accounts = self._options_of(name), self._accounts
            known = None if stored is None else stored.accounts
            if self._first is not None:
                known = known or self._first.accounts
                accounts = None if accounts is None else self._first.accounts
            if self._now is not None:
                options["now"] = self._now
            plan = await resolve(self._discover, accounts, resource=name, known=known, **options)
            if self._first is None:
                self._first = plan
                self._now = self._now or datetime.fromisoformat((stored or plan).created_at)
            return plan

        return make

"""``pull --engine ray``: the shards of a pull as tasks of a cluster. No other pull imports an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from truto_ci_async.errors import UsageError

from .messages import DONE, note, pull_code, say
from .options import Options, choice, number, text

if TYPE_CHECKING:
    from truto_ci_async.pull.report import ShardReports

GROUP = "how to run"
SHARDS = 16
# Accounts that are named when they failed.
MAX_NAMED = 5
AGAIN = "run the same command again to continue"


def engine_options() -> list[click.Parameter]:
    return [
        choice("--engine", group=GROUP, choices=("ray",),
               help="run on a cluster, which sees the folder and has TRUTO_API_TOKEN in its environment"),
        text("--ray-address", group=GROUP, metavar="HOST:PORT",
             help="the cluster (default: RAY_ADDRESS, or the cores of this machine)"),
        number("--shards", group=GROUP,
             help=f"tasks for the cluster, some four for each worker (default: {SHARDS}); the same in every run"),
    ]  # fmt: skip


def check_engine(options: Options) -> None:
    """:raises UsageError: an option that is only for an engine, or not for one."""
    if options.engine is None:
        options.refuse(": for --engine ray only", "ray_address", "shards")
        return
    again = "; to start over, use another folder or table" if options.fresh else ""
    options.refuse(f": not with --engine{again}", "sandbox", "fresh", "report", "timeout")
    if options.token or options.profile:
        raise UsageError(
            "--token and --profile: not with --engine, whose workers read TRUTO_API_TOKEN where they run"
        )


def target_of(options: Options) -> dict[str, Any]:
    """Return the arguments that say how rows are written."""
    if options.to is None:
        return {"format": options.output, "csv_formulas": options.csv_formulas}
    return options.pick("table", "mode", "add_columns", "on_rejected")


def settings_of(name: str, options: Options, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of one resource: if several are pulled, without those that are for others."""
    lacks: tuple[str, ...] = ()
    if name == "users":
        lacks = ("start_time", "end_time", "window", "users", "lookback", "max_history", "time_zone")
    elif name != "transcripts" and options.command == "pull":
        lacks = ("lookback",)
    if len(options.resource) == 1:
        lacks = ()
    return {each: value for each, value in settings.items() if each not in lacks}


async def pull_on_engine(options: Options, accounts: list[Any] | Path | None, asked: dict[str, Any]) -> int:
    """Pull one resource after the other on a cluster."""
    from truto_ci_async.integrations.ray import pull_to, ray_library
    from truto_ci_async.pull.report import Budget

    from .activity import Activity
    from .connection import connect

    ray_library()  # or the line to install it is told, before anything is asked
    current: list[ShardReports] = []  # those of the resource that is pulled
    out: Any = options.out or options.to
    code = DONE

    def tell(reports: ShardReports) -> None:
        current[:] = [reports]

    def status() -> list[str]:
        return [_how_far(each) for each in current] or ["starting the tasks"]

    # The requests are those of the tasks, so what this client waits for does not matter.
    try:
        async with connect(options, status, Activity()) as client:
            for name in options.resource:
                current.clear()
                reports = await pull_to(
                    await getattr(client, name).plan(accounts, **settings_of(name, options, asked)),
                    out,
                    shards=options.shards or SHARDS,
                    address=options.ray_address,
                    base_url=client.base_url,
                    on_progress=tell,
                    budget=Budget(max_accounts=options.max_accounts),
                    grow=options.grow,
                    lookback=options.lookback if name == "transcripts" else None,
                    **target_of(options),
                )
                code = max(code, say_result(name, reports))
    except asyncio.CancelledError:  # by Ctrl-C, or SIGTERM
        say(AGAIN)
        raise
    if code != DONE:
        say(AGAIN)
    return code


def _how_far(reports: ShardReports) -> str:
    done, accounts, rows = (reports.total(name) for name in ("done", "accounts", "rows"))
    begun = f"{len(reports.by_shard):,} of {reports.count:,} shards begun"
    return f"{begun}, {done:,} of {accounts:,} accounts of those done, {rows:,} rows"


def say_result(name: str, reports: ShardReports) -> int:
    (note if reports.complete else say)(f"{name}: {_how_far(reports)}")
    failed = reports.total("failed_count")
    for account, error in list(reports.failed.items())[:MAX_NAMED]:
        say(f"  {account}: {error['message']}")
    if failed > MAX_NAMED:
        say(f"  and {failed - MAX_NAMED:,} more accounts failed")
    if parked := reports.total("parked_count"):
        say(f"  {parked:,} accounts are parked: the service takes no requests of them for now")
    return pull_code(reports)

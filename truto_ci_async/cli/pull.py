"""``pull``: resources of many accounts into a folder or a database. The first signal stops it in order."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import click

from truto_ci_async.errors import UsageError

from . import options as opt
from .engine import check_engine, engine_options, pull_on_engine, settings_of, target_of
from .messages import (
    DONE,
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    PULL_EXIT_CODES,
    SOME_FAILED,
    TERMINATED,
    Progress,
    exit_code,
    note,
    say,
)
from .options import ASK, OUTPUT, PRODUCTS, STATUSES, Command, Options, choice, flag, not_one_of, offer, text
from .resources import RESOURCES
from .values import length, name_list, read_query, whole_number, window_length

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.pull.report import PullReports

    from .pull_progress import PullProgress

# The sandbox of a pull has enough accounts and pages to watch, and the service's rate limits ten times as fast.
PULL_SANDBOX: Final[dict[str, Any]] = {
    "accounts": 24,
    "page_size": 25,
    "token_rate": (500, 1.0),
    "account_rate": (50, 1.0),
}
EXAMPLES: Final = f"""\
examples (leave out --sandbox once TRUTO_API_TOKEN is set):
  truto-ci pull --sandbox --out out/
  truto-ci pull --sandbox --out days/ --start-time 2024-01-01 --end-time 2024-01-04 --window day -o csv
  truto-ci pull --sandbox --out out/ --fresh --report report.json --resource meetings,users
  truto-ci pull --sandbox --to duckdb:///calls.db --mode merge

every night, the week before:
  truto-ci pull --integration gong --status active --start-time today-7d --end-time today --out "week-$(date +%F)"

Rows are in out/RESOURCE.ndjson, out/RESOURCE.csv or out/RESOURCE/*.parquet, or in the table of the database, each with
its account, tenant, requested window and when it was pulled. An account whose product lacks a resource counts as done.
manifest.json lists the files and how much is committed. The first Ctrl-C (or SIGTERM) writes the pages already fetched;
the second ends at once.

{PULL_EXIT_CODES}"""
SYNC_EXAMPLES: Final = f"""\
examples (leave out --sandbox once TRUTO_API_TOKEN is set):
  truto-ci sync --sandbox --to duckdb:///calls.db --max-history 3d

every night:
  truto-ci sync --integration gong --status active --to postgresql://user@host/db --lookback 2d

{PULL_EXIT_CODES}"""


async def run_pull(options: Options, _: Progress) -> int:
    """Run ``pull``. Progress and summary go to stderr; rows and the report go to files."""
    from .connection import connect
    from .pull_progress import PullProgress

    _check_target(options)
    _check_report(options)
    check_engine(options)
    extra_query = read_query(options.query, options.query_json)
    accounts = _accounts(options)
    if options.engine is not None:
        return await pull_on_engine(options, accounts, _asked(options, extra_query))
    progress = PullProgress()
    code, error = FAILED, None
    signals = StopOnSignal(progress)
    try:
        with signals:
            async with connect(options, progress.status, progress.activity, PULL_SANDBOX) as client:
                reports = await _pull_to(client, options, accounts, extra_query, progress)
        code = DONE if reports.complete else SOME_FAILED if reports.failed else INCOMPLETE
    except asyncio.CancelledError:
        if signals.first is None:
            raise
    except Exception as failure:
        code, error = exit_code(failure), failure
        raise
    finally:
        if signals.first is not None and code != DONE:
            code = INTERRUPTED if signals.first == signal.SIGINT else TERMINATED
        _say_result(options, progress, error, code)
        error = None  # the error refers to this frame: break the cycle
    if code != DONE:
        without = " without --fresh, which starts over," if options.fresh else ""
        say(f"run the same command again{without} to continue")
    return code


def _check_target(options: Options) -> None:
    """:raises UsageError: there is not exactly one place to write to, or it lacks one of the options."""
    if (options.out is None) == (options.to is None):
        folder = "" if options.command == "sync" else "--out FOLDER for files, or "
        raise UsageError(
            f"where to? Give {folder}--to URL for a database, such as duckdb:///calls.db"
            if options.out is None
            else "--out and --to are two places to write to: give one"
        )
    if options.to is not None:
        _check_url(options)
    of_databases = {
        "--table": options.table,
        "--mode": options.mode,
        "--add-columns": options.add_columns,
        "--on-rejected": options.on_rejected != "stop",
    }
    of_folders = {"-o": options.output, "--csv-formulas": options.csv_formulas != "keep"}
    there, others = ("--to", of_databases) if options.to is None else ("--out", of_folders)
    if given := [name for name, value in others.items() if value]:
        raise UsageError(f"{' and '.join(given)}: for {there} only")
    if options.lookback and options.command == "pull" and "transcripts" not in options.resource:
        raise UsageError("--lookback is for transcripts, which may come late: add --resource transcripts")
    if options.command == "sync" and [*options.resource] == ["users"]:
        of_windows = (
            ("--lookback", options.lookback),
            ("--max-history", options.max_history),
            ("--time-zone", options.time_zone),
        )
        if given := [name for name, value in of_windows if value]:
            raise UsageError(f"{' and '.join(given)}: for windows, and users have none: they are read whole")
    if options.table and len(options.resource) > 1:
        raise UsageError("--table names one table: give one --resource")
    options.output = options.output or "ndjson"


def _check_url(options: Options) -> None:
    """:raises UsageError: ``--to`` is no URL that the command can write to."""
    from truto_ci_async.pull.stores.dsn import Dsn
    from truto_ci_async.pull.stores.object_storage import BUCKETS
    from truto_ci_async.pull.stores.targets import SCHEMES

    scheme, separator, _ = options.to.partition("://")
    if not separator:
        raise UsageError(
            f"--to {options.to!r} is no URL: write duckdb:///{options.to.lstrip('/')}, postgresql://user@host/database "
            "or s3://bucket/prefix; --out is for a folder"
        )
    if scheme not in ("postgresql", "postgres", "duckdb", *BUCKETS):
        raise UsageError(
            f"--to {str(Dsn(options.to))!r} is not supported: write {'; or '.join(SCHEMES.values())}"
        )


def _check_report(options: Options) -> None:
    """:raises UsageError: a report that would replace a file of this pull."""
    from truto_ci_async.cli.output.destinations import check_destination, is_stdout

    if not is_stdout(options.report):
        inputs = [] if options.accounts_file in (None, "-") else [options.accounts_file]
        check_destination("--report", options.report, inputs=inputs, pull_folder=options.out)


def _accounts(options: Options) -> list[Any] | Path | None:
    """:raises UsageError: the options name no accounts, or name them in two ways."""
    given = [
        name for name in ("accounts", "accounts_file", "integration", "status") if getattr(options, name)
    ]
    if not given and options.sandbox:
        options.integration, options.status = "gong", "active"
    elif not given:
        raise UsageError("which accounts? Give -a, --accounts-file, or --integration and --status")
    elif len(given) > 1 and given != ["integration", "status"]:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names} select accounts in different ways: use one of them")
    if options.accounts:
        return [each for part in options.accounts for each in part]
    if options.accounts_file == "-":
        return _standard_input(options)
    return Path(options.accounts_file) if options.accounts_file else None


def _asked(options: Options, extra_query: dict[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a plan."""
    return {
        **options.pick("integration", "status", "start_time", "end_time", "window", "allow_empty", "limit"),
        "users": options.users or None,
        "exclude_fields": options.exclude_fields or None,
        "ignore_remote_data": options.ignore_remote_data or None,
        "extra_query": extra_query,
    }


async def _pull_to(
    client: TrutoClient,
    options: Options,
    accounts: list[Any] | Path | None,
    extra_query: dict[str, Any] | None,
    progress: PullProgress,
) -> PullReports:
    from truto_ci_async.pull.report import PullReports
    from truto_ci_async.resources.pull_resources import pull_resources

    settings: dict[str, Any] = {
        **options.pick("max_accounts", "grow", "fresh", "lookback"),
        "on_start": progress.on_start,
        **_asked(options, extra_query),
        **target_of(options),
    }
    if options.to is None:
        return await pull_resources(client, options.out, options.resource, accounts, **settings)
    if options.command == "sync":
        settings |= {"since": "last", **options.pick("max_history", "keep_missing", "time_zone")}
    reports = PullReports(dict.fromkeys(options.resource))
    for name in options.resource:
        reports.by_resource[name] = await getattr(client, name).pull_to(
            options.to, accounts, **settings_of(name, options, settings)
        )
        if progress.pull is not None and progress.pull.is_stopped:
            break
    return reports


def _say_result(options: Options, progress: PullProgress, error: BaseException | None, code: int) -> None:
    from truto_ci_async.cli.output.streams import ClosedPipe

    from .pull_progress import summary, write_report

    for line in summary(progress, _target(options), options.option_names):
        note(line) if code == DONE else say(line)
    if options.report is not None:
        try:
            write_report(
                options.report,
                progress,
                error,
                resources=options.resource,
                out=_target(options),
                format=options.output if options.to is None else None,
                exit_code=code,
            )
        except (OSError, ClosedPipe) as failure:  # the exit code is about the pull itself
            reason = "its reader has gone" if isinstance(failure, ClosedPipe) else failure
            say(f"cannot write the report: {reason}")


def _target(options: Options) -> str:
    """Return where the rows go, without a password."""
    from truto_ci_async.pull.stores.dsn import Dsn

    target: str = options.out or str(Dsn(options.to))
    return target


def _standard_input(options: Options) -> list[Any]:
    from truto_ci_async.pull.plan.accounts import MAX_FILE_BYTES, read_accounts

    if sys.stdin is None or sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        raise UsageError(
            "--accounts-file - reads stdin, which is a terminal: pipe the ids into it, one on a line"
        )
    found = read_accounts(sys.stdin.buffer.read(MAX_FILE_BYTES), "stdin")
    if not (found or options.allow_empty):
        raise UsageError("--accounts-file -: stdin has no accounts. If that is meant, pass --allow-empty")
    return found


class StopOnSignal(AbstractContextManager["StopOnSignal"]):
    """Handles Ctrl-C and SIGTERM for the duration of the block.

    The first signal stops the pull in order; the second one, or one before the pull has started, cancels the task.
    ``first`` is the first signal received, or None.
    """

    def __init__(self, progress: PullProgress) -> None:
        self._progress = progress
        self.first: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # on Windows, or in another thread
                loop.add_signal_handler(each, self._handle, each)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(each)

    def _handle(self, received: signal.Signals) -> None:
        assert self._task is not None
        pull = self._progress.pull
        if self.first is not None or pull is None:
            self.first = self.first or received
            self._task.cancel()
            return
        self.first = received
        say("stopping: writing the pages already fetched; press Ctrl-C again to stop at once")
        pull.stop()


HOW: Final = "how to run"


def _resource_names(given: str) -> list[str]:
    names = name_list(given)
    for name in names:
        if name not in RESOURCES:
            raise ValueError(not_one_of(name, [*RESOURCES]))
    return names


def _which_accounts() -> list[click.Parameter]:
    which = "which accounts"
    return [
        text("-a", "--account", "--accounts", "accounts", group=which, metavar="ID,...", multiple=True,
             read=name_list, complete=offer(opt.known_accounts, several=True),
             help="these accounts (see `truto-ci accounts`)"),
        text("--accounts-file", group=which, metavar="FILE",
             help="the accounts in FILE (- for stdin): on each line an id, or a JSON object with an id and optionally "
             "a tenant_id"),
        text("--integration", group=which, metavar="NAME", complete=offer(PRODUCTS),
             help="all accounts of this product, such as gong"),
        text("--status", group=which, metavar="STATUS", complete=offer(STATUSES),
             help="all accounts with this status, such as active"),
        flag("--allow-empty", group=which,
             help="finish with nothing done if there is no such account; otherwise that is an error"),
        text("--resource", group=ASK, metavar="NAME,...", read=_resource_names,
             complete=offer([*RESOURCES], several=True), default="interactions",
             help="interactions (default), meetings, transcripts, users, activity; several are pulled in this order"),
    ]  # fmt: skip


def _database() -> list[click.Parameter]:
    return [
        text("--to", group=OUTPUT, metavar="URL",
             help="a database: postgresql://user@host/database, or duckdb:///file.db; or object storage: "
             "s3://bucket/prefix, gs:// or az://"),
        text("--table", group=OUTPUT, metavar="NAME", help="its table (default: the name of the resource)"),
        flag("--add-columns", group=OUTPUT, help="add the columns that the table lacks"),
        choice("--on-rejected", group=OUTPUT, choices=("stop", "keep"), default="stop",
               help="rows that the database refuses: stop (default), or keep them in a table of their own"),
    ]  # fmt: skip


def _running() -> list[click.Parameter]:
    return [
        text("--report", group=OUTPUT, metavar="FILE",
             help="write which accounts are done, failed and parked to FILE (- for stdout), as JSON"),
        text("--max-accounts", group=HOW, metavar="N", read=whole_number(1), default="32",
             help="accounts asked at a time (default: 32)"),
        flag("--fresh", group=HOW, help="discard the earlier output and progress, and start over"),
    ]  # fmt: skip


def command(name: str) -> Command:
    return _sync_command(name) if name == "sync" else _pull_command(name)


def _pull_command(name: str) -> Command:
    return Command(
        name, run_pull,
        [
            *_which_accounts(),
            *opt.window("a pull that continues keeps the now of its first run", " (default: now)"),
            text("--window", group=ASK, metavar="LENGTH", read=window_length,
                 help="split the time into a series of windows and request each one: day, week, month, or a length "
                 "such as 6h or 10d; the rows of different windows cannot be added up"),
            text("--lookback", group=ASK, metavar="LENGTH", read=length,
                 help="ask again for transcripts that earlier runs found missing at most so long ago, such as 2d"),
            opt.users(), *opt.exclusions(), opt.limit(), *opt.query(),
            text("--out", group=OUTPUT, metavar="FOLDER", help="the folder for rows and progress; created if needed"),
            choice("-o", "--output", group=OUTPUT, choices=("ndjson", "csv", "parquet"),
                   help="ndjson (default; what the service sent), csv (flat rows), parquet (typed columns)"),
            opt.csv_formulas(),
            *_database(),
            choice("--mode", group=OUTPUT, choices=("append", "merge"),
                   help="append (default): add rows; merge: replace rows with the same key"),
            *_running(),
            flag("--grow", group=HOW, help="continue, and add accounts found since the pull began"),
            *engine_options(),
            *opt.connection(),
        ],
        help="Pull resources of many accounts into a folder or a database, many at a time, within the limits of the "
        "service. Run the same command again and it continues where the last run stopped, however that ended: no row "
        "is lost or written twice. Once everything is there, it sends no more requests.",
        examples=EXAMPLES,
    )  # fmt: skip


def _sync_command(name: str) -> Command:
    return Command(
        name, run_pull,
        [
            *_which_accounts(),
            choice("--window", group=ASK, choices=("day", "week", "month"), help="length of a window (default: day)"),
            text("--lookback", group=ASK, metavar="LENGTH", read=length,
                 help="ask again for windows that ended so long before the last sync, such as 2d"),
            text("--max-history", group=ASK, metavar="TIME",
                 help="how far back a new account begins: a length such as 90d, or a time"),
            text("--time-zone", group=ASK, metavar="NAME", help="time zone of the windows, such as US/Pacific"),
            flag("--keep-missing", group=ASK, help="keep rows that are gone at the provider"),
            opt.users(), *opt.exclusions(), opt.limit(), *opt.query(),
            *_database(),
            *_running(),
            *opt.connection(),
        ],
        help="Keep a table of a database, or Parquet in object storage, up to date: ask what is new since the last "
        "sync, and the windows before it again as far as --lookback. A window that was read to its end takes the place "
        "of what is there of it.",
        examples=SYNC_EXAMPLES,
        defaults={
            "out": None, "output": None, "csv_formulas": "keep", "mode": None, "grow": False, "start_time": None,
            "end_time": None, "engine": None, "ray_address": None, "shards": None,
        },
    )  # fmt: skip

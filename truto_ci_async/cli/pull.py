"""``pull``: resources of many accounts into a folder. The first signal stops it in order, the second at once."""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from truto_ci_async.cli.output.destinations import check_destination, is_stdout
from truto_ci_async.cli.output.streams import ClosedPipe
from truto_ci_async.errors import UsageError

from .connection import connect
from .messages import DONE, FAILED, INCOMPLETE, INTERRUPTED, SOME_FAILED, TERMINATED, Progress, exit_code, say
from .pull_progress import PullProgress, shown, summary, write_report
from .values import read_query

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.pull.report import PullReports

# The sandbox of a pull has enough accounts and pages to watch, and the service's rate limits ten times as fast.
PULL_SANDBOX: Final[dict[str, Any]] = {
    "accounts": 24,
    "page_size": 25,
    "token_rate": (500, 1.0),
    "account_rate": (50, 1.0),
}


async def pull(options: argparse.Namespace, _: Progress) -> int:
    """Run ``pull``. Progress and summary go to stderr; rows and the report go to files."""
    _check_report(options)
    extra_query = read_query(options.query, options.query_json)
    accounts = _accounts(options)
    progress = PullProgress()
    code, error = FAILED, None
    signals = StopOnSignal(progress)
    try:
        with signals:
            async with connect(options, progress.on_event, PULL_SANDBOX) as client:
                with shown(progress):
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


def _check_report(options: argparse.Namespace) -> None:
    """:raises UsageError: a report that would replace a file of this pull."""
    if not is_stdout(options.report):
        inputs = [] if options.accounts_file is None else [options.accounts_file]
        check_destination("--report", options.report, inputs=inputs, pull_folder=options.out)


def _accounts(options: argparse.Namespace) -> list[str] | Path | None:
    """:raises UsageError: the options name no accounts, or name them in two ways."""
    given = [
        name for name in ("accounts", "accounts_file", "integration", "status") if getattr(options, name)
    ]
    if not given and options.sandbox:
        options.integration, options.status = "gong", "active"
    elif not given:
        raise UsageError("which accounts? Give --accounts, --accounts-file, or --integration and --status")
    elif len(given) > 1 and given != ["integration", "status"]:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names} select accounts in different ways: use one of them")
    if options.accounts is not None:
        return [each for part in options.accounts.split(",") if (each := part.strip())]
    return Path(options.accounts_file) if options.accounts_file else None


async def _pull_to(
    client: TrutoClient,
    options: argparse.Namespace,
    accounts: list[str] | Path | None,
    extra_query: dict[str, Any] | None,
    progress: PullProgress,
) -> PullReports:
    from truto_ci_async.resources.pull_resources import pull_resources

    return await pull_resources(
        client,
        options.out,
        options.resource,
        accounts,
        format=options.format,
        csv_formulas=options.csv_formulas,
        max_accounts=options.max_accounts,
        grow=options.grow,
        fresh=options.fresh,
        lookback=options.lookback,
        on_start=progress.on_start,
        integration=options.integration,
        status=options.status,
        start_time=options.start_time,
        end_time=options.end_time,
        window=options.window,
        allow_empty=options.allow_empty,
        users=options.users or None,
        limit=options.limit,
        exclude_fields=options.exclude_fields or None,
        ignore_remote_data=options.ignore_remote_data or None,
        extra_query=extra_query,
    )


def _say_result(
    options: argparse.Namespace, progress: PullProgress, error: BaseException | None, code: int
) -> None:
    for line in summary(progress, options.out):
        say(line)
    if options.report is not None:
        try:
            write_report(
                options.report,
                progress,
                error,
                resources=options.resource,
                out=options.out,
                format=options.format,
                exit_code=code,
            )
        except (OSError, ClosedPipe) as failure:  # the exit code is about the pull itself
            reason = "its reader has gone" if isinstance(failure, ClosedPipe) else failure
            say(f"cannot write the report: {reason}")


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

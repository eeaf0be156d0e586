"""Progress of ``truto-ci pull``: counts and rates while it runs, the summary and the report."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from truto_ci_async._text import duration, encodable
from truto_ci_async.cli.output.destinations import for_terminal, open_destination

from .activity import Activity, longest_first, waits_text
from .messages import advise

if TYPE_CHECKING:
    from truto_ci_async.events import Event
    from truto_ci_async.pull.engine import Pull
    from truto_ci_async.pull.report import PullReport

# Rates, and the remaining time derived from them, are averages over so many seconds.
RATE_SECONDS: Final = 30.0
# Failed and parked accounts that the summary names; ``--report`` has them all.
MAX_NAMED: Final = 10
# Accounts or windows that must be finished before the rest can be estimated: more than are pulled at a time.
MIN_FINISHED: Final = 64


class PullProgress:
    """How far a pull is: its report, counts of its client's events, and recent rates."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self.activity = Activity(clock)
        self.pull: Pull[Any] | None = None  # the one that runs
        self.reports: dict[str, PullReport] = {}  # by resource, of all pulls so far
        self._samples: deque[tuple[float, int, int, int]] = deque()  # time, accounts, rows, requests

    @property
    def requests(self) -> int:
        return self.activity.requests

    @property
    def waits(self) -> Mapping[str, float]:
        """Seconds by reason, over all accounts."""
        return self.activity.waits

    @property
    def on_event(self) -> Callable[[Event], None]:
        return self.activity.on_event

    def on_start(self, pull: Pull[Any]) -> None:
        self.pull = pull
        self.reports[pull.report.resource] = pull.report
        self._samples.clear()
        self.sample()

    @property
    def report(self) -> PullReport | None:
        return None if self.pull is None else self.pull.report

    @property
    def elapsed(self) -> float:
        return self._clock() - self._started

    def sample(self) -> None:
        """Record the current counts. Rates are between the oldest sample kept and the newest."""
        report = self.report
        if report is None:
            return
        now = self._clock()
        self._samples.append((now, finished(report), report.rows, self.requests))
        while len(self._samples) > 2 and self._samples[0][0] < now - RATE_SECONDS:
            self._samples.popleft()

    def rates(self) -> tuple[float, float, float]:
        """Return accounts, rows and requests per second."""
        if len(self._samples) < 2:
            return 0.0, 0.0, 0.0
        first, last = self._samples[0], self._samples[-1]
        seconds = max(last[0] - first[0], 0.001)
        accounts, rows, requests = (b - a for a, b in zip(first[1:], last[1:], strict=True))
        return accounts / seconds, rows / seconds, requests / seconds

    def seconds_left(self) -> float | None:
        """Estimate the remaining time from the recent rate; None as long as it says little.

        Accounts that are pulled side by side end at about the same time, so the first ones come in a bunch.
        """
        report = self.report
        accounts = self.rates()[0]
        if report is None or accounts <= 0 or finished(report) < MIN_FINISHED:
            return None
        return (report.accounts * report.windows - finished(report)) / accounts

    def status(self) -> list[str]:
        """Take a sample, and return the status."""
        self.sample()
        return self.parts()

    def parts(self) -> list[str]:
        """Return the status in parts, the most important first."""
        report = self.report
        if report is None:
            return ["finding the accounts"]
        _, rows, requests = self.rates()
        total = report.accounts * report.windows
        resource = f"{next(reversed(self.reports))}: " if len(self.reports) > 1 else ""
        parts = [f"{resource}{report.done:,} of {report.accounts:,} accounts"]
        if report.windows > 1:
            parts.append(f"{report.windows_done:,} of {total:,} windows")
        parts.append(f"{report.rows:,} rows ({rows:,.0f}/s)")
        parts.append(f"{self.requests:,} requests ({requests:,.0f}/s)")
        if report.failed:
            parts.append(f"{len(report.failed):,} failed")
        if report.parked:
            parts.append(f"{len(report.parked):,} parked")
        if self.pull is not None and (outage := self.pull.outage) is not None:
            seconds, cause = outage
            parts.append(f"no answer for {duration(seconds)}, still trying ({cause[:100]})")
        if waiting := self.activity.waiting() or self.activity.waited():
            parts.append(waiting)
        left = self.seconds_left()
        if left is not None and finished(report) < total:
            parts.append(f"about {duration(left)} left")
        return parts


def finished(report: PullReport) -> int:
    """Count what this run will not request again: accounts, or with a series of windows, windows of accounts."""
    if report.windows == 1:
        return report.done + len(report.failed) + len(report.parked)
    return report.windows_done + report.windows_left


# --- when it has ended -----------------------------------------------------------------------------------------


def summary(progress: PullProgress, out: str, option_names: Mapping[str, str]) -> list[str]:
    """Return the final lines: a table of what was done, then what failed or is parked, and what to do."""
    if not progress.reports:
        return []
    lines: list[str] = []
    for resource, report in progress.reports.items():
        lines += [f"{resource}:"] if len(progress.reports) > 1 else []
        lines += _table(_facts(report, out)) + _ends(report, option_names)
    return lines + _table(_sent(progress))


def _facts(report: PullReport, out: str) -> list[tuple[str, str, str]]:
    left = report.accounts - report.done - len(report.failed) - len(report.parked)
    rows: list[tuple[str, str, str]] = [
        ("accounts done", f"{report.done:,}", f"of {report.accounts:,}, {report.empty:,} of them empty"),
        ("failed", f"{len(report.failed):,}", "the next run tries them again" if report.failed else ""),
        ("parked", f"{len(report.parked):,}", _parked_text(report)),
        ("left", f"{left:,}", "the next run continues with them" if left else ""),
        ("rows", f"{report.rows:,}", f"in {report.pages:,} pages, into {out}"),
    ]
    noted = (
        ("unsupported", len(report.unsupported), "their product does not have this resource: done"),
        ("filtered", len(report.filtered), "accounts whose product ignores the window: filtered here"),
        ("no transcript", report.without_transcript, "meetings; --lookback asks for them again"),
        ("issues", report.issues, "fields repaired, or rows the database refused: the log names them"),
    )
    return rows + [(name, f"{count:,}", why) for name, count, why in noted if count]


def _sent(progress: PullProgress) -> list[tuple[str, str, str]]:
    retries = sum(report.retries for report in progress.reports.values())
    waited = f"waited {waits_text(progress.waits)}" if progress.waits else ""
    return [
        ("requests", f"{progress.requests:,}", f"{retries:,} of them retries"),
        ("time", duration(progress.elapsed), waited),
    ]


def _ends(report: PullReport, option_names: Mapping[str, str]) -> list[str]:
    failed = (
        f"failed: {account}: {error}" + (f"; {advice}" if (advice := advise(error, option_names)) else "")
        for account, error in report.failed.items()
    )
    parked = (
        f"parked: {account}: until {_utc(until) if until else 'the next run'}"
        for account, until in report.parked.items()
    )
    skipped = (f"unsupported: {account}: {why}" for account, why in report.unsupported.items())
    return [*_first_few(failed), *_first_few(parked), *_first_few(skipped)]


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    heads, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"  {head:<{heads}}  {value:>{values}}  {note}".rstrip() for head, value, note in rows]


def _first_few(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    rest = len(found) - MAX_NAMED
    return found[:MAX_NAMED] + ([f"... and {rest:,} more; --report FILE lists them all"] if rest > 0 else [])


def _parked_text(report: PullReport) -> str:
    if not report.parked:
        return ""
    until = [each for each in report.parked.values() if each is not None]
    return f"the first can be tried again at {_utc(min(until))}" if until else "the service was not available"


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def write_report(
    path: str, progress: PullProgress, error: BaseException | None, *, resources: Sequence[str], **more: Any
) -> None:
    """Write the report as JSON, in the way of ``--out``. ``error`` is what ended the pull.

    With several ``resources`` it has the report of each, null for one that was not begun.

    A pull that failed at once is reported too, since an older file would be taken for its report.

    :raises OSError: it cannot be written.
    :raises ClosedPipe: it is a pipe whose reader has gone.
    """
    from truto_ci_async.pull.report import PullReport, PullReports

    report = progress.report or PullReport(resource=resources[0])
    every = PullReports({name: progress.reports.get(name) for name in resources})
    cause = error or report.error
    document = {
        **more,
        **(report.to_dict() if len(resources) == 1 else every.to_dict()),
        "error": None if cause is None else {"type": type(cause).__name__, "message": str(cause)},
        "complete": every.complete,
        "requests": progress.requests,
        "waits": {reason: round(seconds, 3) for reason, seconds in longest_first(progress.waits)},
        "elapsed": round(progress.elapsed, 3),
    }
    text = encodable(json.dumps(document, indent=1, ensure_ascii=False)) + "\n"
    destination = open_destination(path)
    try:
        destination.write(for_terminal(text.encode()) if destination.is_terminal else text.encode())
        destination.finish()
    except BaseException:
        destination.abandon(b"")
        raise

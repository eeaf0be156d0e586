"""What ``truto-ci pull`` shows and hears: progress while it runs, the summary in the end, and signals.

The pull itself is the library's; ``cli`` puts the two together.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from truto_ci_async.errors import UsageError
from truto_ci_async.events import PacingWait, RequestSent, RetryScheduled

if TYPE_CHECKING:
    from truto_ci_async.events import Event
    from truto_ci_async.pull import Pull, PullReport

# Seconds between two looks at a terminal, and between two lines in a log.
TERMINAL_SECONDS: Final = 0.2
LINE_SECONDS: Final = 5.0
# Rates, and the time left by them, are those of so many seconds.
RATE_SECONDS: Final = 30.0
# Failed and parked accounts that a summary names; ``--report`` has them all.
NAMED: Final = 10


class Watch:
    """How a pull is doing: its report, what its client tells, and rates over the last while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.started = clock()
        self.requests = 0
        self.waits: defaultdict[str, float] = defaultdict(float)  # reason -> seconds, all accounts together
        self.pull: Pull[Any] | None = None
        self._done_before = 0
        self._samples: deque[tuple[float, int, int, int]] = deque()  # time, accounts, rows, requests

    def see(self, event: Event) -> None:
        """Take in an event of the client."""
        if isinstance(event, RequestSent):
            self.requests += 1
        elif isinstance(event, PacingWait):
            self.waits[f"{event.level} limit"] += event.wait
        elif isinstance(event, RetryScheduled):
            self.waits[f"retry after {event.reason}"] += event.wait

    def begin(self, pull: Pull[Any]) -> None:
        self.pull = pull
        self._done_before = pull.report.done
        self.sample()

    @property
    def report(self) -> PullReport | None:
        return None if self.pull is None else self.pull.report

    @property
    def elapsed(self) -> float:
        return self._clock() - self.started

    def sample(self) -> None:
        """Note where it stands; rates are between the oldest note kept and the last."""
        report = self.report
        if report is None:
            return
        now = self._clock()
        self._samples.append((now, settled(report), report.rows, self.requests))
        while len(self._samples) > 2 and self._samples[0][0] < now - RATE_SECONDS:
            self._samples.popleft()

    def rates(self) -> tuple[float, float, float]:
        """Return accounts, rows and requests a second."""
        if len(self._samples) < 2:
            return 0.0, 0.0, 0.0
        first, last = self._samples[0], self._samples[-1]
        seconds = max(last[0] - first[0], 0.001)
        accounts, rows, requests = (b - a for a, b in zip(first[1:], last[1:], strict=True))
        return accounts / seconds, rows / seconds, requests / seconds

    def seconds_left(self) -> float | None:
        """Guess when it is over, by what was settled in the last while; None when there is nothing to go by."""
        report = self.report
        accounts = self.rates()[0]
        if report is None or accounts <= 0:
            return None
        return (report.accounts * report.windows - settled(report)) / accounts

    def parts(self) -> list[str]:
        """Return what there is to say, shortest first to leave out last."""
        report = self.report
        if report is None:
            return ["finding the accounts"]
        _, rows, requests = self.rates()
        total = report.accounts * report.windows
        parts = [
            f"{report.done:,} of {report.accounts:,} accounts",
            *([f"{report.windows_done:,} of {total:,} windows"] if report.windows > 1 else []),
            f"{report.rows:,} rows ({rows:,.0f}/s)",
            f"{self.requests:,} requests ({requests:,.0f}/s)",
        ]
        if report.failed:
            parts.append(f"{len(report.failed):,} failed")
        if report.parked:
            parts.append(f"{len(report.parked):,} parked")
        if self.pull is not None and (outage := self.pull.outage) is not None:
            seconds, why = outage
            parts.append(f"no answer for {duration(seconds)}, probing ({why[:100]})")
        if self.waits:
            parts.append(f"waited {waits_text(self.waits)}")
        left = self.seconds_left()
        if left is not None and settled(report) < total:
            parts.append(f"about {duration(left)} left")
        return parts


def settled(report: PullReport) -> int:
    """Count the accounts, each over as many windows as there are, that this run will not ask again."""
    ended = len(report.failed) + len(report.parked)
    if report.windows == 1:
        return report.done + ended
    return min(report.windows_done + ended * report.windows, report.accounts * report.windows)


def waits_text(waits: Mapping[str, float]) -> str:
    return ", ".join(f"{duration(seconds)} for {reason}" for reason, seconds in _longest(waits))


def _longest(waits: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(waits.items(), key=lambda item: -item[1])


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


# --- progress --------------------------------------------------------------------------------------------------


class Display(Protocol):
    """Shows a watch, again and again."""

    seconds: float  # between two times

    def show(self) -> None: ...
    def close(self) -> None: ...


class Lines:
    """One line every few seconds, for logs and pipes."""

    seconds = LINE_SECONDS

    def __init__(self, watch: Watch, say: Callable[[str], None]) -> None:
        self._watch = watch
        self._say = say

    def show(self) -> None:
        self._say(", ".join(self._watch.parts()))

    def close(self) -> None:
        """Nothing is left standing."""


class Screen:
    """A few lines at the bottom of a terminal that keep up with what happens."""

    seconds = TERMINAL_SECONDS

    def __init__(self, watch: Watch) -> None:
        from rich.console import Console
        from rich.live import Live

        self._watch = watch
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def show(self) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        report = self._watch.report
        first, *others = self._watch.parts()
        total, done = (report.accounts * report.windows, settled(report)) if report else (None, 0)
        self._live.update(
            Group(ProgressBar(total, done, width=40), Text(first, "bold"), Text(" · ".join(others))),
            refresh=True,
        )

    def close(self) -> None:
        self._live.stop()


def make_display(watch: Watch, say: Callable[[str], None]) -> Display:
    """Return the display for where stderr goes."""
    if sys.stderr is not None and sys.stderr.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        with suppress(ImportError):
            return Screen(watch)
    return Lines(watch, say)


class Shown(AbstractContextManager["Shown"]):
    """Shows a watch for as long as the block lasts."""

    def __init__(self, watch: Watch, say: Callable[[str], None]) -> None:
        self._watch = watch
        self._display = make_display(watch, say)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._display.seconds)
            self._watch.sample()
            self._display.show()

    def __enter__(self) -> Self:
        self._task = asyncio.create_task(self._go_on())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        self._display.close()


# --- the end ---------------------------------------------------------------------------------------------------


def summary(watch: Watch, out: str, advice: Callable[[BaseException], str | None]) -> list[str]:
    """Return the last lines: a table of what was done, then what was not and what to do about it."""
    report = watch.report
    if report is None:
        return []
    left = report.accounts - report.done - len(report.failed) - len(report.parked)
    rows: list[tuple[str, str, str]] = [
        ("accounts done", f"{report.done:,}", f"of {report.accounts:,}, {report.empty:,} of them empty"),
        ("failed", f"{len(report.failed):,}", "a later run asks them again" if report.failed else ""),
        ("parked", f"{len(report.parked):,}", _parked_text(report)),
        ("left", f"{left:,}", "a later run goes on with them" if left else ""),
        ("rows", f"{report.rows:,}", f"in {report.pages:,} pages, into {out}"),
        ("requests", f"{watch.requests:,}", f"{report.retries:,} of them tried again"),
        ("time", duration(watch.elapsed), f"waited {waits_text(watch.waits)}" if watch.waits else ""),
    ]
    if report.issues:
        rows.append(("fields repaired", f"{report.issues:,}", ""))
    lines = table(rows)
    lines += _named(
        (f"failed: {account}: {error}" + (f"; {hint}" if (hint := advice(error)) else ""))
        for account, error in report.failed.items()
    )
    lines += _named(
        f"parked: {account}: {'until ' + _moment(until) if until else 'until the service is there again'}"
        for account, until in report.parked.items()
    )
    return lines


def table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    heads, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"  {head:<{heads}}  {value:>{values}}  {note}".rstrip() for head, value, note in rows]


def _named(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    rest = len(found) - NAMED
    return found[:NAMED] + ([f"... and {rest:,} more; --report FILE names them all"] if rest > 0 else [])


def _parked_text(report: PullReport) -> str:
    until = [each for each in report.parked.values() if each is not None]
    if not report.parked:
        return ""
    return f"the first may be asked again at {_moment(min(until))}" if until else "the service was not there"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def write_report(path: str, watch: Watch, error: BaseException | None, **more: Any) -> None:
    """Write the report as JSON, also of a pull that came to nothing: an older file would be taken for it.

    ``error`` is what ended the pull. The file is whole whenever it is there.

    :raises OSError: it cannot be written.
    """
    from truto_ci_async.pull import PullReport

    report = watch.report or PullReport()
    told = None if error is None else {"type": type(error).__name__, "message": str(error)}
    waits = {reason: round(seconds, 3) for reason, seconds in _longest(watch.waits)}
    document = {
        **more,
        "error": told,
        **report.to_dict(),
        "complete": watch.report is not None and report.complete,
        "requests": watch.requests,
        "waits": waits,
        "elapsed": round(watch.elapsed, 3),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    file = Path(path)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def check_report_path(path: str | None) -> None:
    """:raises UsageError: no file can be there."""
    if path is not None and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
        raise UsageError(f"--report names a file in a folder that is there, not {path}")


# --- signals ---------------------------------------------------------------------------------------------------


class Interruptions(AbstractContextManager["Interruptions"]):
    """Ctrl-C and SIGTERM, for as long as the block lasts: the first one stops in order, the second one at once.

    ``first`` is the signal that came first; None when none did.
    """

    def __init__(self, watch: Watch, say: Callable[[str], None]) -> None:
        self._watch = watch
        self._say = say
        self.first: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or another thread
                loop.add_signal_handler(each, self._hear, each)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(each)

    def _hear(self, which: signal.Signals) -> None:
        assert self._task is not None
        pull = self._watch.pull
        if self.first is not None or pull is None:
            self.first = self.first or which
            self._task.cancel()
            return
        self.first = which
        self._say("stopping: what is in hand is written; once more to stop at once")
        pull.stop()

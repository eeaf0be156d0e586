"""The events of a pull: that it began, each commit, and that it ended."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from typing import Any

from truto_ci_async.events import Emitter, PullCommitted, PullEnded, PullStarted, current_pull

from .report import PullReport

_numbers = count(1)


@contextmanager
def pull_events(emitter: Emitter, report: PullReport) -> Generator[Callable[[int, float], None] | None]:
    """Report that a pull began, and at the end of the block that it ended, in the task that owns it.

    Gives the function to call with the pages and seconds of each commit; None if nobody listens.
    """
    pull_id = next(_numbers)
    current_pull.set(pull_id)  # in this task and those it starts
    if not emitter.active:
        yield None
        return

    def state() -> dict[str, Any]:
        return {
            "time": emitter.now(),
            "pull_id": pull_id,
            "resource": report.resource,
            "accounts": report.accounts,
            "done": report.done,
            "failed": len(report.failed),
            "parked": len(report.parked),
            "rows": report.rows,
            "pages": report.pages,
        }

    def on_commit(pages: int, seconds: float) -> None:
        emitter.emit(PullCommitted(committed=pages, elapsed=seconds, **state()))

    emitter.emit(PullStarted(time=emitter.now(), pull_id=pull_id))
    error: BaseException | None = None
    try:
        yield on_commit
    except BaseException as raised:
        error = raised
        raise
    finally:
        error = error or report.error
        emitter.emit(PullEnded(error=None if error is None else type(error).__name__, **state()))
        del error  # its frames refer to this one

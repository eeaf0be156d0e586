"""Shows the progress of a walk or a pull, with what a client's events say about its waits."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from truto_ci_async._progress import Progress, start_progress
from truto_ci_async.events import Emitter, Event, PacingWait, RetryScheduled


@contextmanager
def show_progress(
    wanted: bool | None, emitter: Emitter | None, account: str | None = None, *, what: str = "items"
) -> Generator[Progress | None]:
    """Show a line for the duration of the block, if it is ``wanted``. ``account`` None: the waits of all accounts."""
    line = start_progress(wanted, what)
    if line is None:
        yield None
        return

    def on_event(event: Event) -> None:
        if account is not None and event.account != account:
            return
        if isinstance(event, RetryScheduled):
            line.wait(event.reason, event.wait)
        elif isinstance(event, PacingWait):
            line.wait(f"{event.level} limit", event.wait, is_over=True)
        else:
            line.tick()

    try:
        if emitter is None:
            yield line
        else:
            with emitter.listening(on_event):
                yield line
    except BaseException as error:
        line.close(error)
        raise
    line.close()

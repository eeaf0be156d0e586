"""Shows the progress of a walk or a pull, with what a client's events say about its waits."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from truto_ci_async.errors import UsageError
from truto_ci_async.events import Emitter, Event, PacingWait, RetryScheduled

if TYPE_CHECKING:
    from truto_ci_async._progress import Progress


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


def start_progress(wanted: bool | None, what: str) -> Progress | None:
    """Return a new line. ``wanted`` None: in a notebook's kernel only; False: never.

    :raises UsageError: ``wanted`` is something else.
    """
    if wanted is not None and not isinstance(wanted, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"progress is True, False, or None for notebooks only, not {wanted!r}")
    in_notebook = wanted is not False and _is_notebook()
    if not (wanted or in_notebook):
        return None
    from truto_ci_async._progress import Notebook, Progress, terminal

    return Progress(Notebook() if in_notebook else terminal(), what)


def _is_notebook() -> bool:
    """Tell whether a notebook's kernel runs this code."""
    if "IPython" not in sys.modules:
        return False
    shell = import_module("IPython").get_ipython()
    return getattr(shell, "kernel", None) is not None

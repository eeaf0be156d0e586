"""Runs one command, handles signals, and turns the outcome into an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click

from truto_ci_async.cli.output.streams import ClosedPipe
from truto_ci_async.errors import CursorExpiredError, CursorLoopError, StateConflictError

from .messages import (
    DONE,
    INTERRUPTED,
    TERMINATED,
    USAGE,
    Progress,
    advise,
    be_quiet,
    describe,
    exit_code,
    say,
)
from .options import Options


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Raises nothing; shows tracebacks only with ``-vv``."""
    try:
        code = _main(argv)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stdout.flush()
    except (ClosedPipe, BrokenPipeError):
        code = DONE
        _discard_stdout()
    return code


def _main(argv: Sequence[str] | None) -> int:
    from . import app

    try:
        command, options = app.parse(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        app.explain(error)
        return USAGE
    progress = Progress()
    be_quiet(options.quiet)
    try:
        with _warnings_on_stderr():
            return asyncio.run(_until_terminated(command(options, progress))) or DONE
    except ClosedPipe:
        raise
    except KeyboardInterrupt:
        say("interrupted")
        code = INTERRUPTED
    except asyncio.CancelledError:
        say("terminated")
        code = TERMINATED
    except Exception as error:  # noqa: BLE001 - every error ends as a plain line and an exit code
        code = _say_error(error, progress, options)
    progress.say_unfinished()
    return code


def _say_error(error: Exception, progress: Progress, options: Options) -> int:
    code = exit_code(error, is_partly_done=bool(progress.pages or progress.items))
    text = f"truto-ci: {describe(error, options.option_names)}"
    is_list = isinstance(error, StateConflictError)  # of what differs: a line for each
    for line in text.split("\n") if is_list else [text]:
        say(line)
    if advice := advise(error, options.option_names):
        say(f"  {advice}")
    if options.verbose > 1:
        for line in "".join(traceback.format_exception(error)).splitlines():
            say(f"  {line}")  # indented, so that it cannot pass for a message of ours
    if code == USAGE or isinstance(error, (CursorExpiredError, CursorLoopError)):
        progress.position = None  # continuing from there would fail again
    return code


async def _until_terminated(command: Coroutine[Any, Any, int | None]) -> int | None:
    """Run a command; SIGTERM and the end of its terminal cancel it, as asyncio's runner does for Ctrl-C.

    The handler is not the loop's own, which would be called only once a write that blocks has ended.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def cancel(*_: object) -> None:
        task.cancel()
        loop.call_soon_threadsafe(lambda: None)  # wakes it up

    handled: list[int] = []
    for name in ("SIGTERM", "SIGHUP"):
        with suppress(AttributeError, ValueError):  # on Windows, or outside the main thread
            number = getattr(signal, name)
            if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it stays ignored
                signal.signal(number, cancel)
                handled.append(number)
    try:
        return await command
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _discard_stdout() -> None:
    """Point stdout at the null device: the reader is gone, and the interpreter's flush at exit would fail."""
    with suppress(AttributeError, OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def _warnings_on_stderr() -> Generator[None]:
    """Show the library's warnings, such as those about repaired fields, on stderr."""
    handler = _StderrHandler(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("truto_ci_async")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _StderrHandler(logging.Handler):
    """Writes to the current ``sys.stderr``, which a live display replaces with a stream of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))

"""The entry point of ``truto-ci``: loads the rest, and lets Ctrl-C end the command quietly while it does."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import NoReturn

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Load and run the command line; return its exit code. Ctrl-C has the same effect before and after it is loaded."""
    # The default handler would raise in the middle of any import.
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if is_default:
            signal.signal(signal.SIGINT, _leave)
        from .run import run

        if is_default:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run(argv)
    except KeyboardInterrupt:
        _leave()


def _leave(*_: object) -> NoReturn:
    """End at once: nothing has been opened yet."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(INTERRUPTED)

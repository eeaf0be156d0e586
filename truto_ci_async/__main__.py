"""Starts ``truto-ci``, which ``python -m truto_ci_async`` is as well."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # importing typing takes a while
if TYPE_CHECKING:
    from typing import NoReturn

INTERRUPTED = 130


def main() -> int:
    """Load and run the command line. Ctrl-C ends it in the same way before and after it is loaded."""
    # The default handler would raise in the middle of any import.
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if is_default:
            signal.signal(signal.SIGINT, _leave)
        from .cli.main import main as run_command

        if is_default:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run_command()
    except KeyboardInterrupt:
        _leave()


def _leave(*_: object) -> NoReturn:
    """End at once: nothing has been opened yet."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())

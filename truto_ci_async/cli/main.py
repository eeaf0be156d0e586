"""The entry point of ``truto-ci``: loads the rest, and lets Ctrl-C end the command quietly while it does."""

from __future__ import annotations

import os

TYPE_CHECKING = (
    False  # importing typing takes longer than all of this file: nothing would handle Ctrl-C meanwhile
)
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# What ``signal`` wraps. It is built in, while ``signal`` has to load ``enum`` and ``re`` first.
_signal = __import__("_signal")
INTERRUPTED = 130
FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Load and run the command line; return its exit code, 1 without the ``cli`` extra.

    Ctrl-C has the same effect before and after it is loaded.
    """
    # The default handler would raise in the middle of any import.
    is_default = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    try:
        if is_default:
            _signal.signal(_signal.SIGINT, _leave)
        try:
            from .run import run
        except ModuleNotFoundError as error:
            if error.name != "click":
                raise
            os.write(
                2, b"truto-ci needs packages that are not installed: pip install 'truto-ci-async[cli]'\n"
            )
            return FAILED
        if is_default:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        return run(argv)
    except KeyboardInterrupt:
        _leave()


def _leave(*_: object) -> NoReturn:
    """End at once: nothing has been opened yet."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(INTERRUPTED)

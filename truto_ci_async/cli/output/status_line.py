"""The line at the end of the terminal that says how far a command is. What else is written there takes its place."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from typing import Any

from truto_ci_async._text import printable

from .cells import cut

_shown = ""
_is_taken = False


def is_terminal(stream: Any) -> bool:
    """Return whether a stream, which may be closed and so None, is a terminal."""
    return stream is not None and bool(stream.isatty())


def show(text: str) -> None:
    """Draw the line, cut so that it fits with the ^C of an interrupt behind it: a longer one would wrap, and stay."""
    global _shown
    if _is_taken:
        return
    text = cut(printable(text), shutil.get_terminal_size().columns - 3)
    _write(f"\r\x1b[2K{text}")
    _shown = text


def hide() -> None:
    """Erase the line, if there is one."""
    global _shown
    if _shown:
        _write("\r\x1b[2K")
    _shown = ""


def expect_echo() -> None:
    """Have what a terminal shows for Ctrl-C erased before the next line."""
    global _shown
    _shown = _shown or ("^C" if is_terminal(sys.stderr) else "")


def take_away() -> None:
    """Draw it no more: a pager has the terminal."""
    global _is_taken
    hide()
    _is_taken = True


def _write(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()

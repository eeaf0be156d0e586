"""One line that says how far a walk or a pull is, and updates in place: in a notebook's kernel, or in a terminal.

Nothing runs in the background: the code that does the work calls ``add``, ``tick`` and ``wait``, and the line is drawn
at most a few times a second. A wait is drawn at once, since nothing else may happen for a minute.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from ._text import duration, printable

# Seconds between two updates, and between two lines where a line cannot be changed.
DRAW_SECONDS = 0.2
LINE_SECONDS = 5.0


class Counts(NamedTuple):
    """The counts of items and pages so far, and the text before them."""

    items: int = 0
    pages: int = 0
    before: str = ""


class Display(Protocol):
    """Where a line is shown."""

    seconds: float  # between two updates

    def show(self, text: str) -> None: ...

    def close(self, text: str) -> None:
        """Show the last line, which stays."""


class Progress:
    """Counts of one walk or pull, on a line of its own. ``what`` are its items, such as ``items`` or ``rows``."""

    def __init__(
        self, display: Display, what: str = "items", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._display: Display | None = display
        self._what = what
        self._clock = clock
        self._started = self._drawn = clock()
        self._counts = Counts()
        self._follow: Callable[[], Counts] | None = None
        self._waits: defaultdict[str, float] = defaultdict(float)  # by cause, of all requests together
        self._waited = 0.0  # seconds in which some request waited, at least
        self._waited_until = self._started
        self._waiting = ""
        self._show()

    def add(self, items: int, pages: int = 1) -> None:
        """Count items and pages."""
        self._counts = Counts(self._counts.items + items, self._counts.pages + pages)
        self.tick()

    def follow(self, counts: Callable[[], Counts]) -> None:
        """Ask for the counts whenever the line is drawn."""
        self._follow = counts
        self.tick()

    def tick(self) -> None:
        """Draw the line if it is due. No wait is going on any more."""
        self._waiting = ""
        if self._display is not None and self._clock() - self._drawn >= self._display.seconds:
            self._show()

    def wait(self, cause: str, seconds: float, *, is_over: bool = False) -> None:
        """Count a wait, which begins now or, with ``is_over``, has ended. Waits at the same time count once."""
        now = self._clock()
        start, end = (now - seconds, now) if is_over else (now, now + seconds)
        self._waits[cause] += seconds
        self._waited += max(end - max(start, self._waited_until), 0.0)
        self._waited_until = max(end, self._waited_until)
        if is_over:
            return
        self._waiting = f"waiting {duration(seconds)} ({printable(cause)})"
        if self._display is not None and seconds >= DRAW_SECONDS:
            self._show()

    def text(self) -> str:
        """Return the line."""
        items, pages, before = self._counts if self._follow is None else self._follow()
        elapsed = self._clock() - self._started
        in_pages = f" in {pages:,} {'page' if pages == 1 else 'pages'}" if pages else ""
        rate = f"{items / elapsed:,.0f}/s" if items and elapsed >= 0.5 else ""
        parts = [before, f"{items:,} {self._what}{in_pages}", rate, duration(elapsed)]
        if self._waiting:
            parts.append(self._waiting)
        elif self._waits:
            longest = max(self._waits, key=self._waits.__getitem__)
            others = " and others" if len(self._waits) > 1 else ""
            waited = duration(min(self._waited, elapsed))  # some may have been broken off
            parts.append(f"waited {waited} ({printable(longest)}{others})")
        return " · ".join(filter(None, parts))

    def close(self, error: BaseException | None = None) -> None:
        """Show the last counts, and what ended them; may be called twice."""
        self._waiting = ""
        self._show("" if error is None else f" · ended by {type(error).__name__}", is_last=True)
        self._display = None

    def _show(self, end: str = "", *, is_last: bool = False) -> None:
        """Draw the line. A display that fails, such as a closed stderr, is dropped and never breaks the work."""
        if self._display is None:
            return
        self._drawn = self._clock()
        try:
            (self._display.close if is_last else self._display.show)(self.text() + end)
        except Exception:  # noqa: BLE001
            self._display = None


class Notebook:
    """An output of the cell that is replaced; every Jupyter front end can do this without a widget."""

    seconds = DRAW_SECONDS

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from html import escape  # as in ``export.html``

        shown = {
            "text/plain": text,
            "text/html": f'<span style="font-variant-numeric:tabular-nums">{escape(text)}</span>',
        }
        if self._handle is None:
            self._handle = import_module("IPython.display").display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    close = show


class _Plain:
    """Lines on stderr, one now and then: for a log, and for a terminal without rich."""

    seconds = LINE_SECONDS

    def show(self, text: str) -> None:
        if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    close = show


class _Rich:
    """The last line of the terminal."""

    seconds = DRAW_SECONDS
    is_taken = False  # two lines at once would draw over each other

    def __init__(self, live: Any) -> None:
        self._live = live
        _Rich.is_taken = True
        live.start()

    def show(self, text: str) -> None:
        self._live.update(_one_line(text), refresh=True)

    def close(self, text: str) -> None:
        try:
            self.show(text)
        finally:
            self._live.stop()
            _Rich.is_taken = False


def _one_line(text: str) -> Any:
    return import_module("rich.text").Text(text, no_wrap=True, overflow="ellipsis")


def terminal() -> Display:
    """Return the last line of the terminal if it has one and rich is installed, else lines on stderr."""
    if sys.stderr is None or not sys.stderr.isatty() or _Rich.is_taken:  # pyright: ignore[reportUnnecessaryComparison]
        return _Plain()
    try:
        console = import_module("rich.console").Console(stderr=True)
        return _Rich(import_module("rich.live").Live(_one_line(""), console=console, auto_refresh=False))
    except ImportError:
        return _Plain()

"""Stores finished windows compactly: neighbours with equal counts become one run.

A pull over years of daily windows finishes millions of walks, most of them empty. Nothing of them is needed to resume
but how many there are, yet ``Checkpoint.load`` returns each with its own counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from .base import Count, Progress

# Runs are not appended beyond this many bytes, so that appending one always takes the same time.
FULL_BYTES = 256


class Run(Struct, frozen=True, array_like=True, gc=False):
    """``windows`` neighbours that were ``done``, or ``empty``, after ``pages`` pages with ``rows`` rows each."""

    windows: Count
    rows: Count
    pages: Count
    is_empty: bool


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[Run]).decode


def is_plain(progress: Progress) -> bool:
    """Tell whether a run represents ``progress`` without loss."""
    rest = (progress.position, progress.error, progress.until, progress.is_restarted)
    return progress.is_over and rest == (None, None, None, False)


def add(runs: list[Run], run: Run) -> None:
    """Append a run, or lengthen the last one if it is equal."""
    last = runs[-1] if runs else None
    if last is not None and (last.rows, last.pages, last.is_empty) == (run.rows, run.pages, run.is_empty):
        runs[-1] = Run(last.windows + run.windows, run.rows, run.pages, run.is_empty)
    else:
        runs.append(run)


def expand(runs: Iterable[Run]) -> Iterator[Progress]:
    """Generate the progress of each window."""
    for run in runs:
        progress = Progress(rows=run.rows, pages=run.pages, outcome="empty" if run.is_empty else "done")
        for _ in range(run.windows):
            yield progress

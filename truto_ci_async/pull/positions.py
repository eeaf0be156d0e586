"""How far a walk has come, as the text that a checkpoint stores in ``Progress.position``.

Usually that is the text of a ``Position``. ``whole.`` before it says that the walk is over all windows from its own on.
A walk over transcripts stores a ``MeetingQueue``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from truto_ci_async.errors import CursorLoopError, UsageError
from truto_ci_async.models import Page, Position
from truto_ci_async.pagination.next_page import PageCursor

#: Stored for a window that was not requested, since the provider does not have the resource.
UNSUPPORTED = "unsupported."
#: Meetings without a transcript that are remembered in each window: the last ones.
MISSING_KEPT = 2_000

_WHOLE = "whole."
_QUEUE = "meetings-1."
#: In ``MeetingQueue.page``: the list of meetings has not been started.
FROM_START = ""


def join_position(text: str, *, whole: bool) -> str:
    return _WHOLE + text if whole else text


def split_position(text: str | None) -> tuple[bool, str | None]:
    """Return whether the walk is over all windows, and the rest of the text."""
    if text is None:
        return False, None
    return text.startswith(_WHOLE), text.removeprefix(_WHOLE)


class MeetingQueue(Struct, array_like=True, forbid_unknown_fields=True):
    """Where a walk over the transcripts of a window is.

    ``ids`` are the meetings to ask for next, ``page`` is the position of the page of meetings after those (None: there
    is none), and ``missing`` are the meetings that had no transcript, with the time when that was first found.
    """

    page: str | None = FROM_START
    ids: tuple[str, ...] = ()
    missing: dict[str, float] = {}

    def __str__(self) -> str:
        return _QUEUE + msgspec.json.encode(self).decode()

    @classmethod
    def parse(cls, text: str) -> MeetingQueue:
        """Read what ``str`` returned.

        :raises UsageError: the text is something else.
        """
        if not text.startswith(_QUEUE):
            raise UsageError(f"not the position of a transcripts pull: {text[:40]!r}")
        try:
            return msgspec.json.decode(text.removeprefix(_QUEUE), type=cls)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UsageError(f"not the position of a transcripts pull: {error}") from error

    def asked(self, meeting: str, *, found: bool, now: float) -> None:
        """Note that the first meeting was asked for."""
        self.ids = self.ids[1:]
        if found:
            self.missing.pop(meeting, None)
            return
        self.missing.setdefault(meeting, now)
        if len(self.missing) > MISSING_KEPT:
            del self.missing[next(iter(self.missing))]

    def due(self, now: float, lookback: float) -> tuple[str, ...]:
        """Return the meetings that were first found without a transcript at most ``lookback`` seconds ago."""
        return tuple(meeting for meeting, since in self.missing.items() if now - since <= lookback)


def check_position(text: str, *, is_per_meeting: bool) -> None:
    """:raises UsageError: it is not a position of such a pull."""
    if text == UNSUPPORTED:
        return
    _, rest = split_position(text)
    assert rest is not None
    if is_per_meeting:
        page = MeetingQueue.parse(rest).page
        rest = page or None
    if rest is not None:
        Position.parse(rest)


def advance(walk: PageCursor, here: Position, page: Page[Any]) -> CursorLoopError | None:
    """Move a walk on. A cursor that came before is an error, but the page itself is good."""
    try:
        walk.advance(here, page.next_cursor)
    except CursorLoopError as error:
        return error  # a later run restarts the window
    return None

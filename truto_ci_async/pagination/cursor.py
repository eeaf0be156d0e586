"""Where a walk stands: which page comes next, and when it is over."""

from __future__ import annotations

from typing import Protocol

from truto_ci_async.errors import CursorLoopError
from truto_ci_async.models import Position


class HasNextCursor(Protocol):
    """What a walk has to know of a page."""

    @property
    def next_cursor(self) -> str | None: ...


def following(here: Position, next_cursor: str | None, chunks: int) -> Position | None:
    """Return the place after a page at ``here``, in a walk of ``chunks`` legs; None when it ends there."""
    if next_cursor:
        return Position(filters=here.filters, chunk=here.chunk, cursor=next_cursor)
    if here.chunk + 1 < chunks:
        return Position(filters=here.filters, chunk=here.chunk + 1)
    return None


class PageCursor:
    """Where a walk stands: pure state, fed with the cursor of each page.

    A walk has ``chunks`` legs (groups of users), each with cursors of its own.
    """

    def __init__(self, start: Position, chunks: int, *, account: str | None = None) -> None:
        self.position: Position | None = start
        self._chunks = chunks
        self._account = account
        self._seen = {start.cursor} if start.cursor else set[str]()
        self.pages = 0  # so far

    def advance(self, here: Position, next_cursor: str | None) -> Position | None:
        """Go on to the place after a page at ``here``.

        :raises CursorLoopError: its cursor was used before.
        """
        self.pages += 1
        self.position = following(here, next_cursor, self._chunks)
        if not next_cursor:
            self._seen.clear()
        elif next_cursor in self._seen:
            raise CursorLoopError(
                f"the service gave the cursor {next_cursor[:80]!r} a second time, after {self.pages} pages",
                cursor=next_cursor,
                account=self._account,
                pages=self.pages,
            )
        else:
            self._seen.add(next_cursor)
        return self.position

"""Decides which page comes next and when a walk over pages ends. Pure state; nothing here awaits.

Only a null, empty or absent cursor ends a user batch, and the last batch ends the walk. An empty page that has a
cursor does not end anything. A cursor that comes twice is an error: following it would never end.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from truto_ci_async.errors import CursorLoopError
from truto_ci_async.models import Position


class HasNextCursor(Protocol):
    """The part of a page that a walk needs."""

    @property
    def next_cursor(self) -> str | None: ...


def position_after(here: Position, next_cursor: str | None, user_batches: int) -> Position | None:
    """Return the position after the page at ``here``, or None if the walk ends there."""
    if next_cursor:
        return replace(here, cursor=next_cursor)
    if here.user_batch + 1 < user_batches:
        return replace(here, user_batch=here.user_batch + 1, cursor=None)
    return None


class After(Struct, frozen=True):
    """What comes after a page. ``digest`` is that of its cursor, ``is_loop`` whether that was used before."""

    position: Position | None
    digest: bytes | None
    is_loop: bool


class PageCursor:
    """The position of one walk of at most ``pages_left`` more pages. Call ``advance`` with the cursor of each page.

    A long ``users`` filter is split into ``user_batches``, which are walked one after the other. Each batch has
    cursors of its own, so a cursor may come again in a later batch.
    """

    def __init__(
        self,
        start: Position,
        user_batches: int,
        *,
        account: str | None = None,
        max_pages: int | None = None,
    ) -> None:
        self.position: Position | None = start  # of the page to fetch next; None at the end
        self.pages = 0  # so far
        self.pages_left = max_pages
        self._user_batches = user_batches
        self._account = account
        self._seen = set[bytes]()  # digests: a cursor can be long, and a walk can have many
        if start.cursor is not None:
            self._seen.add(_digest(start.cursor))

    def after(self, here: Position, next_cursor: str | None) -> After:
        """Return what comes after the page at ``here``, without moving there."""
        digest = _digest(next_cursor) if next_cursor else None
        return After(position_after(here, next_cursor, self._user_batches), digest, digest in self._seen)

    def advance(self, here: Position, next_cursor: str | None, after: After | None = None) -> Position | None:
        """Move to the position after the page at ``here``, and return it. ``after`` is that, if it is known already.

        :raises CursorLoopError: ``next_cursor`` was used before. The page at ``here`` itself is good.
        """
        after = after or self.after(here, next_cursor)
        self.pages += 1
        if self.pages_left:  # 0 already if the walk was closed during the fetch
            self.pages_left -= 1
        self.position = after.position
        if not next_cursor or after.digest is None:  # mutant: one has the other
            self._seen.clear()
            return self.position
        if after.is_loop:
            raise CursorLoopError(
                f"the service returned the cursor {next_cursor[:80]!r} a second time, after {self.pages} pages",
                cursor=next_cursor,
                account=self._account,
                pages=self.pages,
            )
        self._seen.add(after.digest)
        return self.position


def _digest(cursor: str) -> bytes:
    text = cursor.encode(errors="surrogatepass")
    return blake2b(text, digest_size=16).digest()  # mutant: a longer one only takes more memory

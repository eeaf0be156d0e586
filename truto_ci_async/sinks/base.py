"""The protocol of a sink. Implement its three methods to write the pages of a pull anywhere."""

from __future__ import annotations

from typing import Any, Protocol

from truto_ci_async.models.pulls import AccountPage


class Sink(Protocol):
    """What a pull writes to. The pull calls one method at a time.

        class RowCounter:
            async def open(self, state):
                self.rows = Counter(json.loads(state or b"{}"))

            async def write(self, page):
                self.rows[page.account.id] += len(page)

            async def commit(self, *, final=False):
                return json.dumps(self.rows).encode()

    An exception from any of them ends the pull. The next run continues from the last commit.

    A sink may have more, which a pull uses where it is there:

    ``item_type``            the type of the items it takes; Interaction if it does not say
    ``hold(*, anew)``        lock out other runs before accounts are looked up; ``anew``: ``open`` will be given None
    ``is_claimed``           false after ``open``: a commit without pages comes first, then ``committed``, so that
                             what is written from then on is known to belong to a checkpoint
    ``begin_commit(*, final)``  called in place of ``commit``, not awaited; returns an awaitable of the same result.
                             What was written before is in that commit, and pages are written while it is awaited
    ``committed()``          a checkpoint now holds what the last commit returned
    ``note_complete()``      every account was pulled to the end; ``aclose`` comes next
    ``keeps_no_items``       true: items are not kept after ``write``, so they need not be detached from their page
    ``read_again(place)``    read the Raw items of a page again. ``write`` returns their ``Place`` then, or None
    ``aclose()``             the pull is over
    """

    async def open(self, state: bytes | None) -> None:
        """Go back to the commit that returned ``state``, undoing later writes; None means nothing was committed.

        :raises TrutoError: that is impossible, so the pull does not start.
        """

    async def write(self, page: AccountPage[Any]) -> object:
        """Take a page, which need not be durable before ``commit``. Raise only if none of it was taken."""

    async def commit(self, *, final: bool = False) -> bytes | None:
        """Make everything taken so far durable, and return what ``open`` needs to come back to this point.

        Return None to postpone: nothing is checkpointed and more pages follow. A ``final`` commit must return bytes.
        """

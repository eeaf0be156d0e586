"""The protocol of a sink."""

from __future__ import annotations

from typing import Any, Protocol

from truto_ci_async.models.pulls import AccountPage


class Sink(Protocol):
    """What a pull writes into. Three methods make one; the pull calls them one at a time.

        class ItemCollector:
            async def open(self, state):
                self.rows = Counter(json.loads(state or b"{}"))

            async def write(self, page):
                self.rows[page.account.id] += len(page)

            async def commit(self, *, final=False):
                return json.dumps(self.rows).encode()

    Whatever one raises ends the pull; what was committed is gone on with the next time.
    """

    async def open(self, state: bytes | None) -> None:
        """Go back to what was committed under ``state``, whatever happened since; None: nothing was.

        :raises TrutoError: that is not possible, and the pull does not begin.
        """

    async def write(self, page: AccountPage[Any]) -> None:
        """Take a page. It need not be durable before ``commit``. Raising means that nothing of it was taken."""

    async def commit(self, *, final: bool = False) -> bytes | None:
        """Make durable what was taken until now, and return what ``open`` needs to come back to here.

        None says "not yet": nothing is checkpointed and more pages come. ``final`` does not take None.
        """

"""Keeps with the progress what counts towards the day's quota of each account, so that a later run knows it.

A store needs nothing for that: it is the position of a window after the last one of the plan, which is committed with
the account's progress.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from truto_ci_async.pull.checkpoint.base import DAILY_MARK, AccountProgress, Key, Progress

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient


class DailyUse:
    """Carries the counts of one pull from its store to the client, and back with each commit."""

    def __init__(self, client: BaseClient) -> None:
        pacing: Any = getattr(client, "pacing", None)  # a stand-in for a client may have none
        self._client = client
        self._is_counted = pacing is not None and pacing.daily is not None
        self._window = 0

    async def taken_from(
        self, stored: AsyncIterator[tuple[str, AccountProgress]], windows: int
    ) -> AsyncIterator[tuple[str, AccountProgress]]:
        """Go through what is stored of a plan of so many windows, and keep back what belongs to the client."""
        self._window = windows
        async for account, progress in stored:
            for window, each in tuple(progress.later.items()):
                if each.is_count and each.position is not None:
                    del progress.later[window]
                    if self._is_counted:
                        self._client.admission.add_daily_use(account, each.position.removeprefix(DAILY_MARK))
            yield account, progress

    def of(self, keys: Iterable[Key]) -> dict[Key, Progress]:
        """Return what to store together with the progress of some walks."""
        if not self._is_counted:
            return {}
        used = {
            account: self._client.admission.daily_use(account) for account in {account for account, _ in keys}
        }
        return {
            (account, self._window): Progress(position=DAILY_MARK + text) for account, text in used.items()
        }

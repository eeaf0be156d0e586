"""Hands the pages of a pull to Arrow batches and data frames, and marks them as done once those are released."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from truto_ci_async.export.walks import FetchedPart
from truto_ci_async.models.row_views import PULL_SCHEMA

from .commits import PulledPage


class PullParts:
    """The pages of a pull. Those released are marked as done; without ``marks``, only those that have no rows."""

    lead = PULL_SCHEMA

    def __init__(
        self, next_page: Callable[[], Awaitable[PulledPage[Any] | None]], item_type: Any, *, marks: bool
    ) -> None:
        self.item_type = item_type
        self._next_page = next_page
        self._marks = marks

    async def next_part(self) -> FetchedPart | None:
        page = await self._next_page()
        return None if page is None else FetchedPart(page.parts().parts[0], page)

    def release(self, pages: Sequence[PulledPage[Any]]) -> None:
        for page in pages:
            if self._marks or not len(page):
                page.mark()

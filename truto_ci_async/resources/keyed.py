"""The dict of items by key that ``keyed()`` returns."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from truto_ci_async._json import encode
from truto_ci_async._wire.item_reader import ISSUES_KEPT
from truto_ci_async._wire.page_reader import PageData
from truto_ci_async.models import DebugInfo, Issue

T = TypeVar("T")

# Keys added in one step: a few milliseconds.
KEYS_PER_STEP = 10_000


class Keyed(dict[str, T], Generic[T]):
    """The dict that ``keyed()`` returns: items by key.

    ``issues`` lists repaired records, keys that came twice (the first item is kept), and pages for which the service
    counted more items than it sent keys: the first hundred, of ``issues_count``. ``pages`` counts the pages read.
    ``debug`` has the debug information of each page with ``response_format="debug"``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.issues: list[Issue] = []
        self.issues_count = 0
        self.pages = 0
        self.debug: list[DebugInfo] = []

    async def add_page(self, page: PageData[T]) -> list[Issue]:
        """Add the items of a page, and return an issue for each key that was there already.

        Yields to the event loop now and then: a page may have millions of keys.
        """
        self.pages += 1
        if page.debug is not None:
            self.debug.append(page.debug)
        found: list[Issue] = []
        for index, (key, item) in enumerate(zip(page.keys or (), page.items, strict=True)):
            if index % KEYS_PER_STEP == KEYS_PER_STEP - 1:
                await asyncio.sleep(0)
            if self.setdefault(key, item) is item:
                continue
            self.issues_count += 1
            if len(found) == ISSUES_KEPT:
                continue
            found.append(
                Issue(
                    index=index,
                    path=f"$.result.{key}",
                    message=f"the key {key!r} came a second time, on page {self.pages}; the first item is kept",
                    raw=encode(item),
                    dropped=True,
                )
            )
        self.issues_count += page.issues_count
        self.issues += [*page.issues, *found][: max(ISSUES_KEPT - len(self.issues), 0)]
        return found

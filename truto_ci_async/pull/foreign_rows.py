"""Finds raw items of a pull that are not of its resource: they are written as they came, so nothing else tells."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Raw

from truto_ci_async._wire.item_reader import ISSUES_KEPT, item_reader
from truto_ci_async.models import Issue
from truto_ci_async.models.pulls import AccountPage

# The loop gets a turn after this many items, which take some milliseconds.
YIELD_ITEMS = 10_000


def may_have_foreign(page: AccountPage[Any]) -> bool:
    """Tell quickly whether ``foreign_rows`` has to look at the items one by one."""
    items = page.page.items
    return bool(items) and type(items[0]) is Raw and not page.is_plain


async def foreign_rows(page: AccountPage[Any], item_type: Any) -> tuple[list[Issue], int]:
    """Return an issue for each of the first Raw items that are no object or have none of the known keys; count all.

    Any other reader drops such an item, and says so itself. Others get a turn now and then.
    """
    items = page.page.items
    if not may_have_foreign(page):
        return [], 0
    reader = item_reader(item_type)
    found: list[int] = []
    for index, item in enumerate(items, 1):
        if reader.is_hopeless(bytes(item)):
            found.append(index - 1)
        if index % YIELD_ITEMS == 0:
            await asyncio.sleep(0)
    issues = list[Issue]()
    for index in found[:ISSUES_KEPT]:
        issues += reader.read_item(bytes(items[index]), index=index, path=f"$.result[{index}]")[1]
    return [
        Issue(index=each.index, path=each.path, message=each.message, raw=each.raw) for each in issues
    ], len(found)

"""The dict of items by key that ``keyed()`` returns, and how it is fetched."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from truto_ci_async._json import encode
from truto_ci_async._wire.item_reader import ISSUES_KEPT, OnInvalid
from truto_ci_async._wire.list_query import ListQuery, RequestTargets
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async.errors import APIError, DecodeError
from truto_ci_async.models import DebugInfo, Issue, Position
from truto_ci_async.pagination.page_fetch import fetch_and_read, read_page
from truto_ci_async.pagination.paginator import Pages

from .walks import page_source

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient

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


def keyed_pages(
    client: BaseClient,
    query: ListQuery,
    reader: PageReader[Any],
    *,
    cursor: str | Position | None,
    empty_on_not_found: bool,
    max_pages: int | None,
    explain: Callable[[APIError], Awaitable[None]],
) -> Pages[PageData[Any]]:
    """Return the pages of a query. ``explain`` may add to an error of a first page before it is raised."""
    targets = RequestTargets(query)
    read = functools.partial(read_page, client, reader, account=query.account)

    async def fetch(here: Position) -> PageData[Any]:
        try:
            data, _ = await fetch_and_read(
                client,
                targets,
                read,
                here,
                empty_body=reader.empty_body,
                empty_on_not_found=empty_on_not_found,
            )
        except APIError as error:
            if here.cursor is None:
                await explain(error)
            raise
        return data

    return Pages(page_source(client, targets, fetch, cursor=cursor, prefetch=0, max_pages=max_pages))


async def collect_keyed(
    pages: Pages[PageData[Any]], on_invalid: OnInvalid, account: str | None
) -> Keyed[Any]:
    """Collect all pages in one dict.

    :raises DecodeError: a key came twice, with ``on_invalid="raise"``.
    """
    keyed = Keyed[Any]()
    cursor: str | None = None
    async for page in pages:
        for issue in await keyed.add_page(page):
            if on_invalid == "raise":
                raise DecodeError(
                    issue.message,
                    path=issue.path,
                    index=issue.index,
                    account=account,
                    cursor=cursor,
                    raw=issue.raw,
                )
        cursor = page.next_cursor
    return keyed

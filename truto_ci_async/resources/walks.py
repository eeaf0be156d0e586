"""Joins a query, a reader and a client into the objects that list methods return."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from truto_ci_async._wire.list_query import ListQuery, RequestTargets
from truto_ci_async._wire.page_reader import PageReader, raw_cursors
from truto_ci_async.errors import APIError, DecodeError
from truto_ci_async.models import Position, RawResponse, ResponseInfo
from truto_ci_async.pagination.page_fetch import fetch_and_read, fetch_page, read_page
from truto_ci_async.pagination.paginator import Fetch, P, PageSource, Paginator, RawPages

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime


async def unread(body: bytes, time: CallTime) -> bytes:
    return body


def raw_response(
    client: BaseClient, body: bytes, response: ResponseInfo, account: str | None, here: Position
) -> RawResponse:
    mask = client.mask()
    try:
        cursor, provider_cursor = raw_cursors(body)
    except DecodeError as error:
        error.account, error.cursor = account, here.cursor
        return RawResponse(body=body, response=response, cursor_error=error.with_traceback(None), mask=mask)
    return RawResponse(
        body=body, response=response, next_cursor=cursor, provider_cursor=provider_cursor, mask=mask
    )


def make_paginator(
    client: BaseClient,
    query: ListQuery,
    reader: PageReader[Any],
    *,
    cursor: str | Position | None,
    empty_on_not_found: bool,
    prefetch: int,
    max_pages: int | None,
    label: str,
    explain: Callable[[APIError], Awaitable[None]] | None = None,
) -> Paginator[Any]:
    """Join a query and a reader into the object that a ``list`` method returns.

    ``explain`` may add to an error of a first page before it is raised.
    """
    targets = RequestTargets(query)
    fetch = functools.partial(
        fetch_page,
        client,
        targets,
        functools.partial(read_page, client, reader, account=query.account),
        empty_body=reader.empty_body,
        empty_on_not_found=empty_on_not_found,
        explain=explain,
    )
    source = page_source(client, targets, fetch, cursor=cursor, prefetch=prefetch, max_pages=max_pages)
    return Paginator(source, label=label, item_type=reader.item_type)


def make_raw_pages(
    client: BaseClient,
    query: ListQuery,
    *,
    cursor: str | Position | None,
    prefetch: int,
    max_pages: int | None,
) -> RawPages:
    """Return the object that a ``raw`` method returns."""
    targets = RequestTargets(query)

    async def fetch(here: Position) -> RawResponse:
        body, response = await fetch_and_read(client, targets, unread, here, empty_body=b"")
        return raw_response(client, body, response, query.account, here)

    source = page_source(client, targets, fetch, cursor=cursor, prefetch=prefetch, max_pages=max_pages)
    return RawPages(source, label=f"raw {query.path.removeprefix('/unified/')}")


def page_source(
    client: BaseClient,
    targets: RequestTargets,
    fetch: Fetch[P],
    *,
    cursor: str | Position | None = None,
    prefetch: int,
    max_pages: int | None,
) -> PageSource[P]:
    query = targets.query
    return PageSource(
        fetch,
        targets.start_position(cursor),
        spawn=client.spawn,
        user_batches=len(query.user_batches),
        prefetch=prefetch,
        max_pages=max_pages,
        account=query.account,
        emitter=client.emitter,
    )

"""Fetches and reads one page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from truto_ci_async._wire.list_query import RequestTargets
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async._wire.responses import raise_for_cursor
from truto_ci_async.errors import APIError, DecodeError, NotFoundError
from truto_ci_async.events import PageDecoded
from truto_ci_async.models import Page, Position, ResponseInfo

from .cursor import following

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient


# Bytes of body that are decoded in one go (a few milliseconds); more goes in slices.
SLICED_ABOVE = 2**20


async def fetch_page(
    client: BaseClient,
    targets: RequestTargets,
    read: Callable[[bytes], Awaitable[PageData[Any]]],
    here: Position,
    *,
    nothing: bytes | None,
) -> Page[Any]:
    """Fetch the page at a place of a walk; ``read`` is on no deadline.

    ``nothing`` is the body that stands in for the provider's word that there is nothing; None: that is an error.
    """
    data, response = await request_page(client, targets, read, here, nothing=nothing)
    return Page(
        data.items,
        next_cursor=data.next_cursor,
        prev_cursor=data.prev_cursor,
        result_count=data.result_count,
        is_partial_response=data.is_partial_response,
        debug=data.debug,
        extra=data.extra,
        issues=data.issues,
        response=response,
        position=following(here, data.next_cursor, len(targets.query.user_batches)),
    )


async def request_page(
    client: BaseClient,
    targets: RequestTargets,
    read: Callable[[bytes], Awaitable[PageData[Any]]],
    here: Position,
    *,
    nothing: bytes | None,
) -> tuple[PageData[Any], ResponseInfo]:
    """Fetch and read the page at a place; what goes wrong says which page it was."""

    def error_fallback(error: APIError) -> bytes | None:
        # Gong's "no stats found for the specified period": only the first page of a window can be empty this way.
        return (
            nothing if isinstance(error, NotFoundError) and error.is_remote and here.cursor is None else None
        )

    try:
        return await client.request(
            "GET",
            targets.at(here.chunk, here.cursor),
            account=targets.query.account,
            read=read,
            error_fallback=error_fallback,
        )
    except DecodeError as error:
        error.cursor = here.cursor
        raise
    except APIError as error:
        raise_for_cursor(error, here.cursor)


async def read_page(
    client: BaseClient, reader: PageReader[Any], body: bytes, *, account: str | None
) -> PageData[Any]:
    """Read a page, a large one in steps between which the loop has a turn, and tell of it."""
    emitter = client.emitter
    started = perf_counter()
    if len(body) <= SLICED_ABOVE:
        data = reader.read(body)
    else:
        data = await _read_in_slices(reader, body)
    if emitter.active:
        emitter.emit(
            PageDecoded(
                time=emitter.now(),
                account=account,
                items=len(data.items),
                issues=len(data.issues),
                bytes=len(body),
                elapsed=perf_counter() - started,
            )
        )
    if data.issues:
        emitter.report_repairs(data.issues, account=account)
    return data


async def _read_in_slices(reader: PageReader[Any], body: bytes) -> PageData[Any]:
    page = PageData[Any](items=())
    for part in reader.read_in_slices(body):
        if part is not None:
            page = part
        await asyncio.sleep(0)  # a breath for the loop
    return page

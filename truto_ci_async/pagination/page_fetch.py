"""Fetches and decodes one page. Retries, rate limits and deadlines are below, in ``BaseClient.request``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from truto_ci_async._wire.list_query import RequestTargets
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async._wire.responses import raise_for_cursor, says_no_data
from truto_ci_async.errors import APIError, DeadlineError, DecodeError, TruncatedBodyError
from truto_ci_async.events import PageDecoded
from truto_ci_async.models import Page, Position, ResponseInfo

from .next_page import position_after
from .step_size import StepSize

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime

R = TypeVar("R")

#: Reads a body. What it does inside ``with`` on the time counts as time of the call.
Read: TypeAlias = "Callable[[bytes, CallTime], Awaitable[R]]"
#: Tells whether an error means that there is nothing.
EmptyIf: TypeAlias = Callable[[APIError], bool]

# A body of this many bytes decodes in a few milliseconds. Larger ones are decoded in slices.
SLICED_ABOVE = 2**20


async def fetch_page(
    client: BaseClient,
    targets: RequestTargets,
    read: Read[PageData[Any]],
    here: Position,
    *,
    empty_body: bytes,
    empty_on_not_found: bool | EmptyIf,
    explain: Callable[[APIError], Awaitable[None]] | None = None,
) -> Page[Any]:
    """Fetch the page at ``here``; see ``fetch_and_read`` for the other arguments and errors.

    ``explain`` may add to an error of a first page before it is raised.
    """
    try:
        data, response = await fetch_and_read(
            client, targets, read, here, empty_body=empty_body, empty_on_not_found=empty_on_not_found
        )
    except APIError as error:
        if explain is not None and here.cursor is None:
            await explain(error)
        raise
    return Page(
        data.items,
        next_cursor=data.next_cursor,
        prev_cursor=data.prev_cursor,
        result_count=data.result_count,
        is_partial_response=data.is_partial_response,
        debug=data.debug,
        extra=data.extra,
        issues=data.issues,
        issues_count=data.issues_count,
        dropped_count=data.dropped_count,
        unknown_fields=data.unknown_fields,
        response=response,
        position=position_after(here, data.next_cursor, len(targets.query.user_batches)),
        item_type=data.item_type,
    )


async def fetch_and_read(
    client: BaseClient,
    targets: RequestTargets,
    read: Read[R],
    here: Position,
    *,
    empty_body: bytes,
    empty_on_not_found: bool | EmptyIf = False,
) -> tuple[R, ResponseInfo]:
    """Request the page at ``here`` and return what ``read`` makes of its body.

    On the first page of a window, ``empty_body`` is read in place of an empty body that is complete and, with
    ``empty_on_not_found``, of a remote 404 that says that there is no data, or of an error of which that function says
    so. Any other empty body is fetched again.

    :raises CursorExpiredError: the service no longer accepts the cursor.
    :raises UsageError: the cursor belongs to other filters.
    """

    def error_fallback(error: APIError) -> bytes | None:
        if not empty_on_not_found or here.cursor is not None:
            return None
        says_so = says_no_data if empty_on_not_found is True else empty_on_not_found
        return empty_body if says_so(error) else None

    def on_empty(response: ResponseInfo) -> bytes:
        if here.cursor is None and is_empty_by_framing(response):
            return empty_body
        raise empty_body_error(here.cursor)

    try:
        return await client.request(
            "GET",
            targets.at(here.user_batch, here.cursor),
            account=targets.query.account,
            read=read,
            error_fallback=error_fallback,
            on_empty=on_empty,
        )
    except DecodeError as error:
        error.cursor = here.cursor
        raise
    except APIError as error:
        raise_for_cursor(error, here.cursor)


def is_empty_by_framing(response: ResponseInfo) -> bool:
    """Tell whether the head of a response says that it has no body, so that an empty body is complete."""
    return response.status in (204, 205) or set(response.headers.get("content-length", "").strip()) == {"0"}


def empty_body_error(cursor: str | None) -> TruncatedBodyError:
    """Make the error for a body that is empty where a page should be; retries fetch it again."""
    where = "" if cursor is None else ", although the page before it had a next_cursor"
    return TruncatedBodyError(f"the body is empty{where}")


async def read_page(
    client: BaseClient, reader: PageReader[Any], body: bytes, time: CallTime, *, account: str | None
) -> PageData[Any]:
    """Decode the body of a page and report it. A large body is decoded in slices, so that other tasks can run.

    :raises DeadlineError: the call ran out of time.
    """
    emitter = client.emitter
    started = perf_counter() if emitter.active else None
    with time:
        data = reader.read_ordinary(body) if len(body) <= SLICED_ABOVE else None
        if data is None:
            data = await _read_in_slices(reader, body, time, account)
    if started is not None:
        emitter.emit(
            PageDecoded(
                time=emitter.now(),
                account=account,
                items=len(data.items),
                issues=data.issues_count,
                bytes=len(body),
                elapsed=perf_counter() - started,
                call_id=time.call_id,
            )
        )
    if data.issues:
        emitter.report_repairs(data.issues, count=data.issues_count, account=account)
    return data


async def _read_in_slices(
    reader: PageReader[Any], body: bytes, time: CallTime, account: str | None
) -> PageData[Any]:
    step = StepSize()
    turn = perf_counter()
    for page in reader.read_in_slices(body, lambda: step.bytes):
        if page is not None:
            return page
        step.took(perf_counter() - turn)
        if (left := time.left) is not None and left < 0:
            raise DeadlineError(
                f"the page arrived but was not decoded within {time.total} s",
                deadline="total",
                seconds=time.total,
                account=account,
            )
        await asyncio.sleep(0)
        turn = perf_counter()
    raise AssertionError("reading a page ends with the page")

"""``interactions`` and ``unified``: read one list in any of its formats and write it page by page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from msgspec import Raw

from truto_ci_async._text import printable
from truto_ci_async.cli.output.destinations import (
    Output,
    check_destination,
    earlier_output,
    is_stdout,
    open_destination,
)
from truto_ci_async.cli.output.tables import ANY_LAYOUT, INTERACTION_LAYOUT, TableWriter
from truto_ci_async.cli.output.writers import (
    ROW_FORMATS,
    CsvWriter,
    DocumentWriter,
    Writer,
    make_writer,
    one_line,
)
from truto_ci_async.errors import UsageError
from truto_ci_async.models import Interaction

from .arguments import INTERACTIONS
from .connection import connect
from .messages import Progress, say
from .values import read_query

if TYPE_CHECKING:
    from truto_ci_async._wire.filters import Filters
    from truto_ci_async.models import DebugInfo, Page
    from truto_ci_async.pagination.paginator import Paginator
    from truto_ci_async.pagination.stream import ItemStream
    from truto_ci_async.resources.base import Resource

# The items of a page, and what to write for them.
Render = Callable[["Page[Any]", Sequence[Any]], Sequence[Any]]


async def list_items(options: argparse.Namespace, progress: Progress) -> None:
    """Run ``interactions`` or ``unified``."""
    is_interactions = (options.model, options.resource) == INTERACTIONS and options.path is None
    progress.noun = "interaction" if is_interactions else "item"
    format = options.output or _default_output(options)
    _check_options(options, format)
    options.extra_query = read_query(options.query, options.query_json)
    if options.key_by:
        writer: Writer = DocumentWriter(format)
    else:
        layout = INTERACTION_LAYOUT if is_interactions else ANY_LAYOUT
        writer = make_writer(
            format, layout, is_stdout=is_stdout(options.out), csv_formulas=options.csv_formulas
        )
    # Rows are made of typed items. The other formats pass on what the service sent, with every field it has.
    item_type: Any = Raw if format not in ROW_FORMATS else Interaction if is_interactions else dict
    async with connect(options) as client:
        resource = client.unified(options.model, options.resource, item_type)
        with open_output(options, writer, progress) as output:
            if options.key_by:
                await _write_keyed(resource, options, output, progress)
            elif options.format == "raw":
                await _write_raw(resource, options, output, progress)
            elif options.format == "stream":
                await _write_stream(resource, options, output, progress)
            else:
                await _write_list(resource, options, output, progress, is_in_rows=item_type is not Raw)
    progress.say_done()


def _default_output(options: argparse.Namespace) -> str:
    if options.key_by or options.format in ("raw", "debug"):
        return "json"
    return "ndjson" if options.format == "stream" else "table"


def _check_options(options: argparse.Namespace, format: str) -> None:
    """:raises UsageError: two options contradict each other."""
    if options.path is not None and options.format != "stream":
        raise UsageError("--path needs --format stream")
    if options.key_by:
        if options.format == "stream":
            raise UsageError(
                "--key-by holds all items in memory, which --format stream avoids: leave out one"
            )
        if format not in ("json", "yaml"):
            raise UsageError(f"--key-by writes one object, which needs -o json or -o yaml, not -o {format}")
        if options.next_cursor or options.max_items:
            given = "--next-cursor" if options.next_cursor else "--max-items"
            raise UsageError(f"--key-by reads whole pages from the beginning: leave out {given}")
    if options.format == "raw":
        if options.key_by or options.max_items:
            given = "--key-by" if options.key_by else "--max-items"
            raise UsageError(
                f"--format raw does not read items, so {given} cannot be used; --max-pages limits pages"
            )
        if format in ROW_FORMATS:
            raise UsageError(f"--format raw has no rows for -o {format}: use json, ndjson or yaml")


async def _write_list(
    resource: Resource[Any],
    options: argparse.Namespace,
    output: Output,
    progress: Progress,
    *,
    is_in_rows: bool,
) -> None:
    paginator = resource.list(
        options.account,
        response_format=options.format,
        cursor=options.next_cursor,
        prefetch=prefetch(options),
        max_pages=options.max_pages,
        **_filters(options),
    )

    def with_debug(page: Page[Any], items: Sequence[Any]) -> Sequence[Any]:
        document = _masked_debug(page.debug)
        if is_in_rows:
            say(f"debug: {one_line(document).decode().rstrip()}")
            return items
        return [{"result": items, "next_cursor": page.next_cursor, "debug": document}]

    if options.format == "debug":
        say(
            "values of requestOptions and responseHeaders show as ***: they can hold the provider's credentials"
        )
    await write_pages(paginator, options, output, progress, with_debug if options.format == "debug" else None)


async def _write_raw(
    resource: Resource[Any], options: argparse.Namespace, output: Output, progress: Progress
) -> None:
    progress.noun = "document"
    progress.position = options.next_cursor
    pages = aiter(
        resource.raw(
            options.account, cursor=options.next_cursor, max_pages=options.max_pages, **_filters(options)
        )
    )
    async for page in pages:
        documents = [page.json(Raw)] if page.body else []  # a first page may be empty
        output.page(documents)
        progress.items += len(documents)
        cursor = page.next_cursor or ""
        # A position holds what a relative time was resolved to, and no character that is not shown as it is.
        is_needed = pages.position is not None and (pages.position.times or printable(cursor) != cursor)
        progress.add_page(0, pages.position if is_needed else page.next_cursor)
        if page.provider_cursor is not None:
            progress.rest = (
                "the provider has more, for which --format raw cannot ask: leave it out to get all pages"
            )


async def _write_keyed(
    resource: Resource[Any], options: argparse.Namespace, output: Output, progress: Progress
) -> None:
    found = await resource.keyed(
        options.account,
        key_by=options.key_by,
        response_format=options.format,
        max_pages=options.max_pages,
        **_filters(options),
    )
    output.page([found])
    progress.items, progress.pages = len(found), found.pages
    for issue in found.issues:
        say(f"warning: {issue.path}: {issue.message}")


async def _write_stream(
    resource: Resource[Any], options: argparse.Namespace, output: Output, progress: Progress
) -> None:
    """Write items as they arrive: in one stream over all pages, or in one per page to count ``--max-pages``."""
    progress.position = options.next_cursor
    while True:
        stream = resource.stream(
            options.account,
            path=options.path or "result",
            cursor=cast("Any", progress.position),
            follow_cursor=options.max_pages is None,
            **_filters(options),
        )
        async with stream:
            await _copy_stream(stream, options, output, progress)
        is_enough = options.max_items is not None and progress.items >= options.max_items
        if is_enough or progress.position is None or progress.pages == options.max_pages:
            return


async def _copy_stream(
    stream: ItemStream[Any], options: argparse.Namespace, output: Output, progress: Progress
) -> None:
    """Write one stream, and keep ``progress`` correct however it ends."""
    start, pages_before = progress.position, progress.pages

    def count_pages() -> None:
        if progress.pages != pages_before + stream.pages_read:
            progress.pages, progress.repeated = pages_before + stream.pages_read, 0

    progress.position = stream.position
    try:
        async for batch in stream.batches():
            count_pages()
            items = batch if options.max_items is None else batch[: options.max_items - progress.items]
            output.page(items)
            progress.items += len(items)
            progress.repeated += len(items)
            if progress.items == options.max_items:
                progress.more = "there may be more"
                break
    finally:
        progress.position = stream.position
        count_pages()
        if not stream.pages_read and (not progress.repeated or progress.items == options.max_items):
            progress.position = start  # continuing from the beginning of this stream would be to start again
    if stream.envelope.get("is_partial_response"):
        say("warning: the service calls this a partial response")


def _filters(options: argparse.Namespace) -> Filters:
    return {
        "start_time": options.start_time,
        "end_time": options.end_time,
        "users": options.users or None,
        "limit": options.limit,
        "exclude_fields": options.exclude_fields,
        "ignore_remote_data": options.ignore_remote_data,
        "extra_query": options.extra_query,
    }


def _masked_debug(debug: DebugInfo | None) -> dict[str, Any] | None:
    """Return what ``--format debug`` shows: the request to the provider, with every value in it masked.

    ``requestOptions`` can hold the provider's credentials, the headers a session, and the URL's query a key.
    """
    if debug is None:
        return None
    url = debug.request_url
    return {
        "requestUrl": url.split("?", 1)[0] + "?***" if url and "?" in url else url,
        "requestOptions": _mask_values(debug.request_options),
        "data": debug.data_json,
        "responseHeaders": _mask_values(debug.response_headers),
        "nextCursor": debug.next_cursor,
        "isLooping": debug.is_looping,
        "isEmptyResult": debug.is_empty_result,
        "resultCount": debug.result_count,
    }


def _mask_values(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _mask_values(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_mask_values(item) for item in cast("list[object]", value)]
    return None if value is None else "***"


# --- shared with other commands that write pages ---------------------------------------------------------------


@contextmanager
def open_output(options: argparse.Namespace, writer: Writer, progress: Progress) -> Generator[Output]:
    """Open the destination of ``--out``; afterwards, name the fields that had no column.

    :raises UsageError: nothing can be written there, or the beginning of what this run continues would be lost.
    """
    if not is_stdout(options.out):
        check_destination("--out", options.out)
        if getattr(options, "next_cursor", None) and (earlier := earlier_output(options.out)):
            raise UsageError(
                f"with --next-cursor the pages before it are left out, and {earlier} may hold them: write the rest to "
                "a file of another name, or move that one away"
            )
    output = Output(writer, open_destination(options.out))
    try:
        with output:
            yield output
    finally:
        progress.file = output.file
    if isinstance(writer, (CsvWriter, TableWriter)) and writer.left_out:
        say(f"not shown: {', '.join(writer.left_out)} (-o json has everything)")


async def write_pages(
    paginator: Paginator[Any],
    options: argparse.Namespace,
    output: Output,
    progress: Progress,
    render: Render | None = None,
) -> None:
    """Write page after page, each before waiting for the next one; ``render`` turns its items into what is written."""
    left: int | None = options.max_items
    progress.position = options.next_cursor
    async for page in paginator.pages():
        items: Sequence[Any] = page.items if left is None else page.items[:left]
        output.page(items if render is None else render(page, items))
        if page.is_partial_response:
            say("warning: the service calls this a partial response")
        if len(items) < len(page.items):  # the service cannot start inside a page, so this one comes again
            progress.add_page(len(items), progress.position, repeated=len(items))
            break
        progress.add_page(len(items), page.position)
        if left is not None:
            left -= len(items)
            if not left:
                break


def prefetch(options: argparse.Namespace) -> int:
    """Fetch one page ahead, but none with ``--max-items``: it might not be needed."""
    return 1 if options.max_items is None else 0

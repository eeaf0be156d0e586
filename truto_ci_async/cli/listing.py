"""Lists of a resource: read one in any of its formats, and write it page by page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import Raw

from truto_ci_async._text import printable
from truto_ci_async._wire.times import resolve_time
from truto_ci_async.cli.output.destinations import Output
from truto_ci_async.cli.output.tables import ANY_LAYOUT, LAYOUTS, layout_of_columns
from truto_ci_async.cli.output.writers import ROW_FORMATS, TYPED_FORMATS, one_line
from truto_ci_async.errors import UsageError
from truto_ci_async.models.resource_types import ITEM_TYPES

from .connection import connect
from .messages import Progress, say
from .options import Options
from .pages import format_of, open_output, prefetch, write_pages, writer_for
from .resources import MODEL, RESOURCES, resource_command
from .values import read_query

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.models import DebugInfo, Page
    from truto_ci_async.pagination.stream import ItemStream
    from truto_ci_async.resources.base import Resource


async def list_items(options: Options, progress: Progress) -> None:
    """List the items of a resource."""
    command = resource_command(options.model, options.resource) if options.path is None else None
    progress.noun = command.noun if command else "item"
    if options.response_format == "raw":
        progress.noun = "document"
    texts = command.text_formats if command else ()
    format = format_of(options, _default_output(options), texts)
    _check_options(options, format)
    read_queries(options)
    layout = LAYOUTS[options.resource] if command else ANY_LAYOUT
    if options.columns:
        if command is None:
            raise UsageError(f"--columns is for the resources of {MODEL}, without --path")
        layout = layout_of_columns(
            ITEM_TYPES[options.resource], [each.strip() for each in options.columns.split(",")]
        )
    writer = writer_for(options, format, layout, is_document=options.key_by is not None)
    # Rows are made of typed items. The other formats pass on what the service sent, with every field it has.
    item_type: Any = Raw if format not in TYPED_FORMATS else ITEM_TYPES[options.resource] if command else dict
    async with connect(options, progress.parts) as client:
        resource = open_resource(client, options)
        _check_filters(resource, options)
        resumes = not options.key_by and len(options.meeting) <= 1
        with open_output(options, writer, progress, resumes=resumes) as output:
            for meeting in [] if output.is_complete else options.meeting or [None]:
                await _write(resource, item_type, meeting, options, output, progress)
                if progress.items == options.max_items:
                    break
    progress.say_done()


def read_queries(options: Options) -> None:
    """Read ``-q``, ``--query-json`` and ``--remote-query`` for the calls of this command."""
    options.extra_query = read_query(options.query, options.query_json)
    options.remote_query = read_query(options.remote_query, None, option="--remote-query")


def open_resource(client: TrutoClient, options: Options) -> Resource[Any]:
    """Return the resource of a command.

    :raises UsageError: conversational intelligence has no such resource; the message lists its resources.
    """
    if resource_command(options.model, options.resource):
        return cast("Resource[Any]", getattr(client, options.resource))
    return client.unified(options.model, options.resource)


# The option of each filter that not every resource has.
_OPTIONS: Final = {
    "start_time": "--start-time",
    "end_time": "--end-time",
    "users": "--user",
    "meeting": "--meeting",
}


def _check_filters(resource: Resource[Any], options: Options) -> None:
    """:raises UsageError: a filter that the resource does not have, or one missing that it needs."""
    extra: dict[str, Any] = options.extra_query or {}
    given = {name for name in _OPTIONS if getattr(options, name)}
    name = options.resource if options.resource in RESOURCES else f"{options.model}/{options.resource}"
    if unknown := [_OPTIONS[each] for each in _OPTIONS if each in given - {*resource.own_filters}]:
        raise UsageError(f"{name} takes no {' and no '.join(unknown)}; -q sends any parameter")
    required = [each for each in resource.required_filters if each not in given and each not in extra]
    if required:
        raise UsageError(f"{name} needs {' and '.join(_OPTIONS[each] for each in required)}")


async def _write(
    resource: Resource[Any],
    item_type: Any,
    meeting: str | None,
    options: Options,
    output: Output,
    progress: Progress,
) -> None:
    """Write one list to its end: that of the account, or of one of its meetings."""
    filters = _filters(resource, options, meeting)
    if options.response_format == "raw":
        await _write_raw(resource, filters, options, output, progress)
        return
    filters["item_type"] = item_type
    write = (
        _write_keyed
        if options.key_by
        else _write_stream
        if options.response_format == "stream"
        else _write_list
    )
    await write(resource, filters, options, output, progress)


def _default_output(options: Options) -> str:
    if options.key_by or options.response_format in ("raw", "debug"):
        return "json"
    return "ndjson" if options.response_format == "stream" else "table"


def _check_options(options: Options, format: str) -> None:
    """:raises UsageError: two options contradict each other."""
    if options.id is not None:
        raise UsageError(f"-m list takes no ID: {options.id!r} is shown by -m get")
    if options.columns and format not in ROW_FORMATS:
        raise UsageError(
            f"--columns is for -o table and -o csv, not for {format}: there, use --exclude-field"
        )
    if options.path is not None and options.response_format != "stream":
        raise UsageError("--path needs --response-format stream")
    if options.key_by:
        if options.response_format == "stream":
            raise UsageError(
                "--key-by holds all items in memory, which --response-format stream avoids: leave out one"
            )
        if format not in ("json", "yaml"):
            raise UsageError(f"--key-by writes one object, which needs -o json or -o yaml, not -o {format}")
        if options.next_cursor or options.max_items:
            given = "--next-cursor" if options.next_cursor else "--max-items"
            raise UsageError(f"--key-by reads whole pages from the beginning: leave out {given}")
    if options.response_format == "raw":
        if options.key_by or options.max_items:
            given = "--key-by" if options.key_by else "--max-items"
            raise UsageError(
                f"--response-format raw does not read items, so {given} cannot be used; --max-pages limits pages"
            )
        if format in TYPED_FORMATS:
            raise UsageError(f"--response-format raw has no rows for -o {format}: use json, ndjson or yaml")
    if format in ("text", "vtt") and options.path is not None:
        raise UsageError(f"--path reads items of any kind: leave out -o {format}")
    if options.start_time and options.end_time:
        now = datetime.now(UTC)
        start, end = (resolve_time(each, "", now).at for each in (options.start_time, options.end_time))
        if end <= start:
            raise UsageError(
                f"--end-time {options.end_time} is not after --start-time {options.start_time}: exchange them?"
            )
    if len(options.meeting) > 1:
        several = {
            "-o vtt": format == "vtt",
            "--key-by": options.key_by,
            "--next-cursor": options.next_cursor,
        }
        for name in (name for name, is_given in several.items() if is_given):
            raise UsageError(f"{name} is for one meeting: give one --meeting")


async def _write_list(
    resource: Resource[Any],
    filters: dict[str, Any],
    options: Options,
    output: Output,
    progress: Progress,
) -> None:
    paginator = resource.list(
        options.account,
        response_format=options.response_format,
        cursor=options.next_cursor,
        prefetch=prefetch(options),
        max_pages=options.max_pages,
        **filters,
    )

    def with_debug(page: Page[Any], items: Sequence[Any]) -> Sequence[Any]:
        document = _masked_debug(page.debug)
        if filters["item_type"] is not Raw:
            say(f"debug: {one_line(document).decode().rstrip()}")
            return items
        return [{"result": items, "next_cursor": page.next_cursor, "debug": document}]

    if options.response_format == "debug":
        say(
            "values of requestOptions and responseHeaders show as ***: they can hold the provider's credentials"
        )
    await write_pages(
        paginator, options, output, progress, with_debug if options.response_format == "debug" else None
    )


async def _write_raw(
    resource: Resource[Any],
    filters: dict[str, Any],
    options: Options,
    output: Output,
    progress: Progress,
) -> None:
    progress.position, pages_before = options.next_cursor, progress.pages
    pages = aiter(
        resource.raw(options.account, cursor=options.next_cursor, max_pages=options.max_pages, **filters)
    )
    async for page in pages:
        documents = [page.json(Raw)] if page.body else []  # a first page may be empty
        output.page(documents)
        progress.items += len(documents)
        cursor = page.next_cursor or ""
        # A position holds resolved times, and only characters that are printed unchanged.
        is_needed = pages.position is not None and (pages.position.times or printable(cursor) != cursor)
        progress.add_page(0, pages.position if is_needed else page.next_cursor)
        is_last = progress.position is None or progress.pages - pages_before == options.max_pages
        output.commit(progress, is_complete=is_last)
        if page.provider_cursor is not None:
            progress.rest = (
                "the provider has more, for which --response-format raw cannot ask: leave it out for all"
            )


async def _write_keyed(
    resource: Resource[Any],
    filters: dict[str, Any],
    options: Options,
    output: Output,
    progress: Progress,
) -> None:
    found = await resource.keyed(
        options.account,
        key_by=options.key_by,
        response_format=options.response_format,
        max_pages=options.max_pages,
        **filters,
    )
    output.page([found])
    progress.items, progress.pages = len(found), found.pages
    for issue in found.issues:
        say(f"warning: {issue.path}: {issue.message}")


async def _write_stream(
    resource: Resource[Any],
    filters: dict[str, Any],
    options: Options,
    output: Output,
    progress: Progress,
) -> None:
    """Write items as they arrive: in one stream over all pages, or in one per page to count ``--max-pages``."""
    progress.position, pages_before = options.next_cursor, progress.pages
    while True:
        stream = resource.stream(
            options.account,
            path=options.path or "result",
            cursor=cast("Any", progress.position),
            follow_cursor=options.max_pages is None,
            **filters,
        )
        async with stream:
            await _copy_stream(stream, options, output, progress)
        is_last = (
            progress.position is None
            or progress.items == options.max_items
            or progress.pages - pages_before == options.max_pages
        )
        output.commit(progress, is_complete=is_last)
        if is_last:
            return


async def _copy_stream(stream: ItemStream[Any], options: Options, output: Output, progress: Progress) -> None:
    """Write one stream, and keep ``progress`` correct however it ends."""
    start, pages_before = progress.position, progress.pages

    def count_pages() -> None:
        if progress.pages != pages_before + stream.pages_read:
            progress.pages, progress.repeated = pages_before + stream.pages_read, 0
            progress.position = stream.position
            output.commit(progress, is_complete=False)

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
            progress.position = start  # continuing from the beginning of this stream would mean starting over
    if stream.envelope.get("is_partial_response"):
        say("warning: the service calls this a partial response")


def _filters(resource: Resource[Any], options: Options, meeting: str | None) -> dict[str, Any]:
    own = {
        "start_time": options.start_time,
        "end_time": options.end_time,
        "users": options.users or None,
        "meeting": meeting,
    }
    return {name: value for name, value in own.items() if name in resource.own_filters} | {
        "limit": options.limit,
        "ignore_limit": options.ignore_limit,
        "exclude_fields": options.exclude_fields,
        "ignore_remote_data": options.ignore_remote_data,
        "super_query": options.super_query,
        "skip_api_call": options.skip_api_call,
        "remote_query": options.remote_query,
        "extra_query": options.extra_query,
    }


def _masked_debug(debug: DebugInfo | None) -> dict[str, Any] | None:
    """Return what ``--response-format debug`` shows: the request to the provider, with every value in it masked.

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

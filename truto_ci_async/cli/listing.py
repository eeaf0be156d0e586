"""Lists of a resource: read one in any of its formats, and write it page by page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from msgspec import Raw

from truto_ci_async._text import printable
from truto_ci_async._wire.times import resolve_time
from truto_ci_async.cli.output.destinations import Output
from truto_ci_async.cli.output.tables import ANY_LAYOUT, LAYOUTS, layout_of_columns
from truto_ci_async.cli.output.writers import ROW_FORMATS, TYPED_FORMATS, KeyedWriter, Writer, one_line
from truto_ci_async.errors import UsageError
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.resources.keyed import Keyed

from .connection import connect
from .messages import Progress, say
from .options import Options, refuse
from .pages import format_of, open_output, prefetch, write_pages, writer_for
from .resources import MODEL, RESOURCES, resource_command
from .values import read_query

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient
    from truto_ci_async.models import DebugInfo, Page
    from truto_ci_async.pagination.stream import ItemStream
    from truto_ci_async.resources.base import Resource

# The filters that not every resource has.
_FILTERS: Final = ("start_time", "end_time", "users", "meeting")


async def list_items(options: Options, progress: Progress) -> None:
    """List the items of a resource."""
    command = resource_command(options.model, options.resource) if options.path is None else None
    is_raw = options.response_format == "raw"
    progress.noun = "document" if is_raw else command.noun if command else "item"
    format = format_of(options, _default_output(options), command.text_formats if command else ())
    _check_options(options, format)
    read_queries(options)
    layout = LAYOUTS[options.resource] if command else ANY_LAYOUT
    if options.columns:
        if command is None:
            raise UsageError(f"--columns is for the resources of {MODEL}, without --path")
        names = [each.strip() for each in options.columns.split(",")]
        layout = layout_of_columns(ITEM_TYPES[options.resource], names)
    writer = writer_for(options, format, layout, is_document=options.key_by is not None)
    # Rows are made of typed items. The other formats pass on what the service sent, with every field it has.
    item_type: Any = Raw if format not in TYPED_FORMATS else ITEM_TYPES[options.resource] if command else dict
    if options.key_by:
        writer = KeyedWriter(writer, Keyed())
    async with connect(options, progress.parts) as client:
        resource = open_resource(client, options)
        _check_filters(resource, options)
        meetings = options.meeting or [None]
        progress.takes_cursor = not options.key_by and len(meetings) == 1
        with open_output(options, writer, progress, resumes=True) as output:
            output.lists = len(meetings)
            for meeting in meetings[output.lists_done :]:
                if progress.items == options.max_items:
                    break
                filters = _filters(resource, options, meeting)
                if not is_raw:
                    filters["item_type"] = item_type
                await _Listing(resource, filters, options, output, progress, writer).write()
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


def _default_output(options: Options) -> str:
    if options.key_by or options.response_format in ("raw", "debug"):
        return "json"
    return "ndjson" if options.response_format == "stream" else "table"


def _check_filters(resource: Resource[Any], options: Options) -> None:
    """:raises UsageError: a filter that the resource does not have, or one missing that it needs."""
    name = options.resource if options.resource in RESOURCES else f"{options.model}/{options.resource}"
    if unknown := options.given(*(each for each in _FILTERS if each not in resource.own_filters)):
        raise UsageError(f"{name} takes no {' and no '.join(unknown)}; -q sends any parameter")
    extra: dict[str, Any] = options.extra_query or {}
    required = [
        each for each in resource.required_filters if not getattr(options, each) and each not in extra
    ]
    if required:
        ids = " ID (`truto-ci meetings` lists them)" if "meeting" in required else ""
        raise UsageError(f"{name} needs {' and '.join(options.option_names[each] for each in required)}{ids}")


def _check_options(options: Options, format: str) -> None:
    """:raises UsageError: two options contradict each other."""
    is_stream, is_raw = options.response_format == "stream", options.response_format == "raw"
    keyed, rest = options.key_by, "--next-cursor" if options.next_cursor else "--max-items"
    contradictions = {
        f"-m list takes no ID: {options.id!r} is shown by -m get": options.id is not None,
        f"--columns is for -o table and -o csv, not for {format}: there, use --exclude-field": options.columns
        and format not in ROW_FORMATS,
        "--path needs --response-format stream": options.path is not None and not is_stream,
        "--key-by holds all items in memory, which --response-format stream avoids: leave out one": keyed
        and is_stream,
        f"--key-by writes one object, which needs -o json or -o yaml, not -o {format}": keyed
        and format not in ("json", "yaml"),
        f"--key-by reads whole pages from the beginning: leave out {rest}": keyed
        and (options.next_cursor or options.max_items),
        f"--response-format raw does not read items, so {'--key-by' if keyed else '--max-items'} cannot be used; "
        "--max-pages limits pages": is_raw and (keyed or options.max_items),
        f"--response-format raw has no rows for -o {format}: use json, ndjson or yaml": is_raw
        and format in TYPED_FORMATS,
        f"--path reads items of any kind: leave out -o {format}": options.path is not None
        and format in ("text", "vtt"),
    }
    if len(options.meeting) > 1:
        of_one = {"-o vtt": format == "vtt", "--key-by": keyed, "--next-cursor": options.next_cursor}
        contradictions |= {f"{name} is for one meeting: give one --meeting": of_one[name] for name in of_one}
    refuse(contradictions)
    if options.start_time and options.end_time:
        now = datetime.now(UTC)
        start, end = (resolve_time(each, "", now).at for each in (options.start_time, options.end_time))
        if end <= start:
            raise UsageError(
                f"--end-time {options.end_time} is not after --start-time {options.start_time}: exchange them?"
            )


def _filters(resource: Resource[Any], options: Options, meeting: str | None) -> dict[str, Any]:
    own = {**options.pick(*_FILTERS), "users": options.users or None, "meeting": meeting}
    return {name: value for name, value in own.items() if name in resource.own_filters} | options.pick(
        *("limit", "ignore_limit", "exclude_fields", "ignore_remote_data", "super_query", "skip_api_call"),
        *("remote_query", "extra_query"),
    )


class _Listing(NamedTuple):
    """One list, that of the account or of one of its meetings, on its way into the output."""

    resource: Resource[Any]
    filters: dict[str, Any]
    options: Options
    output: Output
    progress: Progress
    writer: Writer

    async def write(self) -> None:
        """Write the list to its end."""
        if isinstance(self.writer, KeyedWriter):
            await self._write_keyed(self.writer.found)
        elif self.options.response_format == "raw":
            await self._write_raw()
        elif self.options.response_format == "stream":
            await self._write_stream()
        else:
            await self._write_list()

    async def _write_list(self) -> None:
        options = self.options
        paginator = self.resource.list(
            options.account,
            response_format=options.response_format,
            cursor=options.next_cursor,
            prefetch=prefetch(options),
            max_pages=options.max_pages,
            **self.filters,
        )
        is_debug = options.response_format == "debug"
        if is_debug:
            why = "they can hold the provider's credentials"
            say(f"values of requestOptions and responseHeaders show as ***: {why}")
        render = self._with_debug if is_debug else None
        await write_pages(paginator, options, self.output, self.progress, render)

    def _with_debug(self, page: Page[Any], items: Sequence[Any]) -> Sequence[Any]:
        document = _masked_debug(page.debug)
        if self.filters["item_type"] is Raw:
            return [{"result": items, "next_cursor": page.next_cursor, "debug": document}]
        say(f"debug: {one_line(document).decode().rstrip()}")
        return items

    async def _write_raw(self) -> None:
        options, progress = self.options, self.progress
        progress.begin(options.next_cursor)
        where = options.pick("max_pages") | {"cursor": options.next_cursor}
        pages = aiter(self.resource.raw(options.account, **where, **self.filters))
        async for page in pages:
            documents = [page.json(Raw)] if page.body else []  # a first page may be empty
            self.output.page(documents)
            cursor = page.next_cursor or ""
            # A position holds resolved times, and only characters that are printed unchanged.
            is_needed = pages.position is not None and (pages.position.times or printable(cursor) != cursor)
            progress.add_page(len(documents), pages.position if is_needed else page.next_cursor)
            self.output.commit(progress, is_complete=progress.is_over(options.max_items, options.max_pages))
            if page.provider_cursor is not None:
                progress.rest = (
                    "the provider has more, for which --response-format raw cannot ask: leave it out"
                )

    async def _write_keyed(self, found: Keyed[Any]) -> None:
        options, progress = self.options, self.progress
        progress.begin(options.next_cursor)
        found.pages = progress.pages
        pages = self.resource.keyed_pages(
            options.account,
            key_by=options.key_by,
            response_format=options.response_format,
            cursor=options.next_cursor,
            max_pages=options.max_pages,
            **self.filters,
        )
        async for page in pages:
            told = len(found.issues)
            await found.add_page(page)
            for issue in found.issues[told:]:
                say(f"warning: {issue.path}: {issue.message}")
            new = [
                (key, item)
                for key, item in zip(page.keys or (), page.items, strict=True)
                if found[key] is item
            ]
            self.output.page(new)
            progress.add_page(len(new), pages.position)
            self.output.commit(progress, is_complete=progress.is_over(options.max_items, options.max_pages))

    async def _write_stream(self) -> None:
        """Write items as they arrive: in one stream over all pages, or in one per page to count ``--max-pages``."""
        options, progress = self.options, self.progress
        progress.begin(options.next_cursor)
        while True:
            stream = self.resource.stream(
                options.account,
                path=options.path or "result",
                cursor=cast("Any", progress.position),
                follow_cursor=options.max_pages is None,
                **self.filters,
            )
            async with stream:
                await self._copy(stream)
            is_last = progress.is_over(options.max_items, options.max_pages)
            self.output.commit(progress, is_complete=is_last)
            if is_last:
                break

    async def _copy(self, stream: ItemStream[Any]) -> None:
        """Write one stream, and keep ``progress`` correct however it ends."""
        progress, most = self.progress, self.options.max_items
        start, pages_before = progress.position, progress.pages

        def count_pages() -> None:
            if progress.pages != pages_before + stream.pages_read:
                progress.pages, progress.repeated = pages_before + stream.pages_read, 0
                progress.position = stream.position
                self.output.commit(progress, is_complete=False)

        progress.position = stream.position
        try:
            async for batch in stream.batches():
                count_pages()
                items = batch if most is None else batch[: most - progress.items]
                self.output.page(items)
                progress.items += len(items)
                progress.repeated += len(items)
                if progress.items == most:
                    progress.more = "there may be more"
                    break
        finally:
            progress.position = stream.position
            count_pages()
            if not stream.pages_read and (not progress.repeated or progress.items == most):
                # Continuing from the beginning of this stream would mean starting over.
                progress.position = start
        if stream.envelope.get("is_partial_response"):
            say("warning: the service calls this a partial response")


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

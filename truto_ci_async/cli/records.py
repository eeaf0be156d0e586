"""Single objects: one record of a resource by its id, the schema of a method, one account."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from truto_ci_async.cli.output.tables import ANY_LAYOUT, LAYOUTS
from truto_ci_async.cli.output.writers import ROW_FORMATS, TYPED_FORMATS
from truto_ci_async.errors import UsageError
from truto_ci_async.models.resource_types import ITEM_TYPES

from .connection import connect
from .listing import open_resource, read_queries
from .messages import Progress
from .options import Options
from .pages import format_of, open_output, writer_for
from .resources import resource_command

# Options of lists that have no meaning for a single record.
_OF_LISTS = (
    *("start_time", "end_time", "users", "meeting", "limit", "ignore_limit", "super_query", "skip_api_call"),
    *("key_by", "path", "columns", "max_items", "max_pages", "next_cursor"),
)


async def get_item(options: Options, progress: Progress) -> None:
    """Get one record by its id."""
    format = format_of(options, "json")
    if not options.id:
        raise UsageError("-m get needs the ID of a record")
    refuse_of_lists(options, "one record")
    if options.response_format in ("stream", "debug"):
        raise UsageError(f"--response-format {options.response_format} is for lists, not for one record")
    if format in TYPED_FORMATS and format not in ROW_FORMATS:
        raise UsageError(f"-o {format} is for lists, not for one record")
    read_queries(options)
    command = resource_command(options.model, options.resource) if options.response_format != "raw" else None
    writer = writer_for(
        options, format, LAYOUTS[options.resource] if command else ANY_LAYOUT, is_document=True
    )
    item_type: Any = Raw if format not in ROW_FORMATS else ITEM_TYPES[options.resource] if command else dict
    async with connect(options, progress.parts) as client:
        item = await open_resource(client, options).get(
            options.id,
            options.account,
            item_type=item_type,
            **options.pick(
                "response_format", "ignore_remote_data", "exclude_fields", "remote_query", "extra_query"
            ),
        )
    with open_output(options, writer, progress) as output:
        output.page([item])
    progress.noun, progress.items = command.noun if command else "item", 1
    progress.say_done()


async def show_meta(options: Options, progress: Progress) -> None:
    """Show the parameters and results of a method, as JSON Schema. The ID says which method: ``list`` unless given."""
    format = format_of(options, "json")
    others = ("exclude_fields", "ignore_remote_data", "remote_query", "query", "query_json")
    refuse_of_lists(options, "-m meta", *others)
    if options.response_format != "unified" or format in TYPED_FORMATS:
        raise UsageError("-m meta writes JSON Schema: use -o json, ndjson or yaml, without --response-format")
    writer = writer_for(options, format, ANY_LAYOUT, is_document=True)
    async with connect(options, progress.parts) as client:
        found = await open_resource(client, options).meta(options.id or "list", options.account)
    with open_output(options, writer, progress) as output:
        output.page([found.to_dict()])


def refuse_of_lists(options: Options, of: str, *others: str) -> None:
    """:raises UsageError: an option of lists was given, or one of ``others``."""
    for option in options.given(*_OF_LISTS, *others):
        raise UsageError(f"{option} is for lists, not for {of}")

"""The commands of unified resources: ``interactions`` and its siblings, ``unified`` and ``export``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import click

from truto_ci_async.errors import UsageError

from . import options as opt
from .messages import EXIT_CODES, Progress
from .options import OUTPUT, Command, Options, argument, choice, flag, offer, text
from .resources import EXAMPLES, MODEL, RESOURCES, method_of

UNIFIED_EXAMPLES: Final = """\
  truto-ci unified conversational-intelligence interactions --sandbox -o json --max-items 2
  truto-ci unified conversational-intelligence meetings 21733121561272471090 --sandbox
  truto-ci unified conversational-intelligence meetings --sandbox -m meta -o yaml
  truto-ci unified crm contacts --sandbox -o csv
"""
EXPORT_EXAMPLES: Final = """\
  truto-ci export conversational-intelligence/interactions --sandbox -o ndjson --out all.ndjson
"""


async def run_resource(options: Options, progress: Progress) -> None:
    """Run a command of a unified resource."""
    from . import listing, records

    if options.command == "export":
        options.model, slash, options.resource = options.path_of_resource.partition("/")
        if not (slash and options.model and options.resource):
            raise UsageError(
                f"export takes MODEL/RESOURCE, such as {MODEL}/interactions, not {options.path_of_resource!r}"
            )
    method = {"list": listing.list_items, "get": records.get_item, "meta": records.show_meta}
    if options.id in method and options.method is None:
        raise UsageError(f"{options.id!r} in the place of an ID is a method: write -m {options.id}")
    await method[method_of(options)](options, progress)


def command(name: str) -> Command:
    """Describe the command of a resource, ``unified`` or ``export``."""
    show_one = argument("id", "ID", help="show this one only")
    defaults: dict[str, Any] = {"users": (), "meeting": (), **dict.fromkeys(("id", "start_time", "end_time"))}
    filters: Sequence[str] = ("start_time", "users", "meeting")
    texts: Sequence[str] = ()
    has_get = name != "export"
    if (resource := RESOURCES.get(name)) is not None:
        defaults |= {"model": MODEL, "resource": name}
        filters, has_get, texts = resource.filters, resource.has_get, resource.text_formats
        parts = [show_one] if has_get else []
        help, examples = resource.description, resource.examples
    elif name == "export":
        parts = [argument("path_of_resource", "MODEL/RESOURCE", required=True, help="such as crm/contacts")]
        help = "List the items of any unified resource of one account, page by page to the end."
        examples = EXPORT_EXAMPLES
    else:
        parts = [
            argument("model", "MODEL", required=True, help=f"such as {MODEL} or crm"),
            argument("resource", "RESOURCE", required=True, help="such as meetings or contacts"),
            show_one,
        ]
        help = "List the items of any unified resource of one account, or show one of them."
        examples = UNIFIED_EXAMPLES
    params = [*parts, *_list_options(filters, texts, has_get=has_get)]
    examples = f"{EXAMPLES}\n{examples}"
    return Command(
        name, run_resource, params, help=help, examples=examples, exit_codes=EXIT_CODES, defaults=defaults
    )  # fmt: skip


def _known_columns(ctx: click.Context) -> Sequence[str]:
    """Return the columns of the resource that a command names: as paths of fields, and as the names of columns."""
    given = (each for each in (ctx.info_name, *ctx.params.values(), *ctx.args) if isinstance(each, str))
    words = [word for each in given for word in each.split("/")]  # unparsed, with --columns at their end
    resource = next((each for each in words if each in RESOURCES), None)
    if resource is None or not {ctx.info_name, MODEL} & {resource, *words[1:]}:
        return ()
    from truto_ci_async.models.resource_types import ITEM_TYPES

    columns = ITEM_TYPES[resource].SCHEMA
    return [*dict.fromkeys(name for column in columns for name in (column.source, column.name))]


def _list_options(
    filters: Collection[str], text_formats: Sequence[str], *, has_get: bool
) -> list[click.Parameter]:
    """Return the options of a unified resource: ``filters`` are those that not every resource has."""
    group = "response format"
    single = "; default of a single item, as one object" if has_get else ""
    texts = "; text: one line per sentence; vtt: subtitles, as WebVTT" if text_formats else ""
    return [
        opt.ACCOUNT,
        choice("-m", "--method", choices=("list", "get", "meta") if has_get else ("list", "meta"),
               help="list (default)" + (", get (default with an ID)" if has_get else "")
               + ", or meta: which parameters a list takes and which fields its items have, as JSON Schema"
               + (" (for `get`, write get as the ID)" if has_get else "")),
        *(opt.window("Gong needs a window for interactions and activity, and returns whole days in the company's own "
                     "time zone") if "start_time" in filters else ()),
        *([text("--meeting", metavar="ID", multiple=True, help="the meeting whose transcript is wanted")]
          if "meeting" in filters else ()),
        *([opt.USERS] if "users" in filters else ()),
        *opt.EXCLUSIONS,
        flag("--ignore-limit", help="ask the service to ignore --limit"),
        text("--super-query", metavar="REGION", complete=offer(["apac", "wnam"]),
             help="read Truto's synced store in apac or wnam"),
        flag("--skip-api-call", help="do not ask the provider"),
        text("--remote-query", metavar="NAME=VALUE,...", read=str, multiple=True,
             help="parameters for the provider itself, written as for -q"),
        *opt.query(),
        choice("--response-format", group=group, choices=opt.RESPONSE_FORMATS, default="unified",
               help="unified (default); normalized; debug: with Truto's request to the provider, its values hidden; "
               "raw: the provider's own responses, one document per page; stream: items as they arrive, in little "
               "memory however large the response"),
        text("--path", group=group, metavar="KEY",
             help="with --response-format stream: where the items are in the response, keys joined by dots (default: "
             "result); peopleInteractionStats for Gong's own body"),
        text("--key-by", group=group, metavar="FIELD",
             help="one object with each item under its FIELD, such as id (json, yaml)"),
        *opt.pages("items"),
        text("--columns", group=OUTPUT, metavar="NAME,...", complete=offer(_known_columns, several=True),
             help="the columns of a table or CSV, in this order; --columns=-remote_data leaves one out"),
        *opt.output(
            f"table (default), json (one array{single}), ndjson (one object per line; default of --response-format "
            "stream), csv, yaml, parquet (typed columns); json, ndjson and yaml hold what the service sent, csv a flat "
            f"row per item{texts}", (*opt.FORMATS, "parquet", *text_formats)),
        *opt.CONNECTED,
    ]  # fmt: skip

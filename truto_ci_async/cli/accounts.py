"""``accounts`` and ``capabilities``: the connected accounts, and what one of them supports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from truto_ci_async._checks import did_you_mean
from truto_ci_async.errors import UsageError

from . import options as opt
from .kept_files import remember_accounts
from .messages import EXIT_CODES, Progress, note, say
from .options import PRODUCTS, STATUSES, Command, Options, argument, choice, offer, text
from .resources import RESOURCES

if TYPE_CHECKING:
    from truto_ci_async.models import IntegratedAccount, Page

EXAMPLES: Final = """\
examples (leave out --sandbox once TRUTO_API_TOKEN is set):
  truto-ci accounts --sandbox
  truto-ci accounts --sandbox --integration gong --status active -o ndjson
  truto-ci accounts c590b1b6-d8ec-4915-bad0-f00d5d483d57 --sandbox
"""
CAPABILITIES_EXAMPLES: Final = """\
examples:
  truto-ci capabilities --sandbox
  truto-ci capabilities --sandbox --resource meetings -o json
"""


async def run_accounts(options: Options, progress: Progress) -> None:
    """List the connected accounts, or show one."""
    from truto_ci_async.cli.output.tables import ACCOUNT_LAYOUT
    from truto_ci_async.cli.output.writers import ROW_FORMATS

    from .connection import connect
    from .pages import format_of, open_output, prefetch, write_pages, writer_for
    from .records import refuse_of_lists
    from .values import read_query

    options.id = one_account(options.id, options.account)
    progress.noun = "account"
    if options.id:
        others = ("integration", "status", "tenant_id", "is_sandbox", "query", "query_json")
        refuse_of_lists(options, "one account", *others)
    format = format_of(options, "json" if options.id else "table")
    writer = writer_for(options, format, ACCOUNT_LAYOUT, is_document=bool(options.id))
    extra_query = read_query(options.query, options.query_json, dots_nest=False)  # as in `integration.name`

    def render(page: Page[IntegratedAccount] | None, items: Sequence[IntegratedAccount]) -> Sequence[Any]:
        if not options.sandbox:
            remember_accounts(each.id for each in page or items)
        return items if format in ROW_FORMATS else _without_context(items)

    async with connect(options, progress.parts) as client:
        found = client.integrated_accounts
        if options.id:
            item = await (found.me() if options.id == "me" else found.get(options.id))
            with open_output(options, writer, progress) as output:
                output.page(render(None, [item]))
            progress.items = 1
        else:
            with open_output(options, writer, progress, resumes=True) as output:
                paginator = found.list(
                    **options.pick("integration", "status", "tenant_id", "limit", "max_pages"),
                    is_sandbox={"true": True, "false": False}.get(options.is_sandbox),
                    cursor=options.next_cursor,
                    extra_query=extra_query,
                    prefetch=prefetch(options),
                )
                if not output.lists_done:
                    await write_pages(paginator, options, output, progress, render)
    progress.say_done()
    for kind, known in (("integration", PRODUCTS), ("status", STATUSES)):
        given = getattr(options, kind)
        if given and given not in known and not progress.items:
            nearest = did_you_mean(given, known) or f"; it is usually one of {', '.join(known)}"
            say(f"no account has the {kind} {given!r}{nearest}")


def one_account(argument: str | None, option: str | None) -> str | None:
    """Return the account that is given as an argument or with ``-a``.

    :raises UsageError: both are given, and differ.
    """
    if argument and option and argument != option:
        raise UsageError(f"two accounts, {argument!r} and -a {option!r}: give one")
    return argument or option


def _without_context(items: Sequence[IntegratedAccount]) -> Sequence[dict[str, Any]]:
    """Return the accounts without their context, which can hold the customer's secrets."""
    return [{name: value for name, value in each.to_dict().items() if name != "context"} for each in items]


async def run_capabilities(options: Options, progress: Progress) -> None:
    """Show what one account supports."""
    from truto_ci_async.cli.output.tables import CAPABILITY_LAYOUT

    from .connection import connect
    from .pages import format_of, open_output, writer_for

    options.account = one_account(options.id, options.account)
    format = format_of(options, "table")
    writer = writer_for(options, format, CAPABILITY_LAYOUT, is_document=True)
    async with connect(options, progress.parts) as client:
        if options.account is None:
            raise UsageError("capabilities needs an account, -a ID: `truto-ci accounts` lists them")
        found = await client.integrated_accounts.capabilities(
            options.account, type=options.type, resource=options.resource, methods=options.methods
        )
    with open_output(options, writer, progress) as output:
        output.page([found.to_dict()] if format in ("json", "yaml") else [*found.unified, *found.proxy])
    if options.resource and not (found.unified or found.proxy):
        say(f"no resource {', '.join(options.resource)}{did_you_mean(options.resource[0], RESOURCES)}")
    blocked = {True: "blocked", False: "not blocked", None: "unknown whether blocked"}[found.is_blocked]
    note(f"account {found.account_id or options.account}: {found.status or 'status unknown'}, {blocked}")


def command(name: str) -> Command:
    known = offer(opt.known_accounts)
    accounts = [argument("id", "ID", shell_complete=known, help="the account, as with -a"), opt.ACCOUNT]
    if name == "capabilities":
        return Command(
            name, run_capabilities,
            [
                *accounts,
                choice("--type", choices=("unified", "proxy", "all"), default="unified",
                       help="unified resources (default), those of the provider's own API, or all"),
                text("--resource", metavar="NAME", multiple=True, help="only this resource"),
                text("--method", "methods", metavar="NAME", multiple=True, help="only this method"),
                *opt.output("table (default), json (one object), ndjson (one resource per line), csv, yaml"),
                *opt.CONNECTED,
            ],
            help="Show which unified resources an account supports, and whether it is blocked.",
            examples=CAPABILITIES_EXAMPLES, exit_codes=EXIT_CODES,
        )  # fmt: skip
    return Command(
        name, run_accounts,
        [
            *accounts,
            text("--integration", metavar="NAME", complete=offer(PRODUCTS),
                 help="only accounts of this product, such as gong"),
            text("--status", metavar="STATUS", complete=offer(STATUSES),
                 help="active, connecting, post_install_error, validation_error or needs_reauth"),
            text("--tenant-id", metavar="ID", help="only accounts of this tenant of yours"),
            choice("--is-sandbox", choices=("true", "false"),
                   help="only accounts that are (or are not) sandboxes of the provider; unrelated to --sandbox"),
            *opt.query("created_at[gt]=... (here a dot is part of a name)"),
            *opt.pages("accounts"),
            *opt.output("table (default), json (one array), ndjson (one object per line), csv, yaml, parquet",
                        (*opt.FORMATS, "parquet")),
            *opt.CONNECTED,
        ],
        help="List the integrated accounts of the token's environment, or show one of them (ID, or me: the account "
        "that the token belongs to). Their context, which can hold secrets, is left out.",
        examples=EXAMPLES, exit_codes=EXIT_CODES,
    )  # fmt: skip

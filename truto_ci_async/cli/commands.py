"""The commands of ``truto-ci``. Each takes the parsed options and a ``Progress``, which it keeps up to date.

After an error or an interruption, ``main`` uses that progress to say how to continue. A command returns an exit code,
or None for success.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from truto_ci_async.cli.output.streams import open_stdout
from truto_ci_async.cli.output.tables import ACCOUNT_LAYOUT, CAPABILITY_LAYOUT
from truto_ci_async.cli.output.writers import ROW_FORMATS
from truto_ci_async.errors import UsageError

from .connection import SANDBOX_WINDOW, connect
from .listing import format_of, list_items, open_output, prefetch, write_pages, writer_for
from .messages import Progress, say
from .pull import pull
from .records import get_item, refuse_options, show_meta
from .resources import RESOURCES, method_of
from .values import read_query

if TYPE_CHECKING:
    from truto_ci_async.models import IntegratedAccount, Page
    from truto_ci_async.sandbox import Sandbox

Command: TypeAlias = Callable[[argparse.Namespace, Progress], Coroutine[Any, Any, int | None]]


async def resource(options: argparse.Namespace, progress: Progress) -> None:
    """Run a command of a unified resource."""
    await {"list": list_items, "get": get_item, "meta": show_meta}[method_of(options)](options, progress)


async def accounts(options: argparse.Namespace, progress: Progress) -> None:
    """List the connected accounts, or show one."""
    if options.id:
        await _show_account(options, progress)
        return
    progress.noun = "account"
    format = format_of(options, "table")
    writer = writer_for(options, format, ACCOUNT_LAYOUT)
    extra_query = read_query(options.query, options.query_json, dots_nest=False)  # as in `integration.name`
    async with connect(options) as client:
        paginator = client.integrated_accounts.list(
            options.integration,
            options.status,
            options.tenant_id,
            None if options.is_sandbox is None else options.is_sandbox == "true",
            limit=options.limit,
            cursor=options.next_cursor,
            extra_query=extra_query,
            prefetch=prefetch(options),
            max_pages=options.max_pages,
        )
        with open_output(options, writer, progress) as output:
            render = None if format in ROW_FORMATS else _without_context
            await write_pages(paginator, options, output, progress, render)
    progress.say_done()


async def _show_account(options: argparse.Namespace, progress: Progress) -> None:
    filters = ("integration", "status", "tenant_id", "is_sandbox", "query", "query_json", "limit")
    refuse_options(options, (*filters, "max_items", "max_pages", "next_cursor"), "one account")
    format = format_of(options, "json")
    writer = writer_for(options, format, ACCOUNT_LAYOUT, is_document=True)
    async with connect(options) as client:
        found = client.integrated_accounts
        item = await (found.me() if options.id == "me" else found.get(options.id))
    with open_output(options, writer, progress) as output:
        output.page([item] if format in ROW_FORMATS else _without_context(None, [item]))
    progress.noun, progress.items = "account", 1
    progress.say_done()


def _without_context(
    page: Page[IntegratedAccount] | None, items: Sequence[IntegratedAccount]
) -> Sequence[dict[str, Any]]:
    """Return the accounts without their context, which can hold the customer's secrets."""
    return [{name: value for name, value in each.to_dict().items() if name != "context"} for each in items]


async def capabilities(options: argparse.Namespace, progress: Progress) -> None:
    """Show what one account supports."""
    format = format_of(options, "table")
    is_document = format in ("json", "yaml")
    writer = writer_for(options, format, CAPABILITY_LAYOUT, is_document=True)
    async with connect(options) as client:
        if options.account is None:
            raise UsageError("capabilities needs the ID of an account: `truto-ci accounts` lists them")
        found = await client.integrated_accounts.capabilities(
            options.account, type=options.type, resource=options.resource, methods=options.methods
        )
    with open_output(options, writer, progress) as output:
        output.page([found.to_dict()] if is_document else [*found.unified, *found.proxy])
    blocked = {True: "blocked", False: "not blocked", None: "unknown whether blocked"}[found.is_blocked]
    say(f"account {found.account_id or options.account}: {found.status or 'status unknown'}, {blocked}")


async def report(options: argparse.Namespace, progress: Progress) -> None:
    """Write a report on a pull's folder."""
    from truto_ci_async.reports.report_page import report as write_report

    del progress
    path = await asyncio.to_thread(write_report, options.folder, options.output, title=options.title)
    say(f"the report is in {path}: open it in a browser")


async def sandbox(options: argparse.Namespace, progress: Progress) -> None:
    """Serve made-up data until interrupted, or for the given time."""
    from truto_ci_async.sandbox import run

    def say_ready(running: Sandbox) -> None:
        values = {"TRUTO_API_BASE_URL": running.url, "TRUTO_API_TOKEN": running.token}
        values |= {f"ACCOUNT_{number}": each for number, each in enumerate(running.account_ids, 1)}
        for provider in ("avoma", "chorus", "firefliesai", "wingman"):
            ids = running.accounts_of(provider)
            values |= {f"{provider.upper()}_{number}": each for number, each in enumerate(ids, 1)}
        open_stdout().write("".join(f"export {name}={value}\n" for name, value in values.items()).encode())
        window = f"--start-time {SANDBOX_WINDOW[0]} --end-time {SANDBOX_WINDOW[1]}"
        say(f"paste these into another terminal, then: truto-ci interactions -a $ACCOUNT_1 {window}")
        end = f"for {options.seconds:g} s" if options.seconds else "until Ctrl-C"
        say(f"serving made-up data, to this machine only, {end}")

    with suppress(TimeoutError):
        async with asyncio.timeout(options.seconds):
            await run(
                options.port,
                ready=say_ready,
                accounts=options.accounts,
                interactions=options.interactions,
                meetings=options.meetings,
                year=options.year,
                providers=options.providers,
                realistic=not options.plain,
                seed=options.seed,
                token_rate=options.token_rate,
                account_rate=options.account_rate,
                provider_rate=options.provider_rate,
                provider_shape=options.provider_shape,
                stream_as=options.stream_as,
                capabilities_shape=options.capabilities_shape,
                accounts_key=options.accounts_key,
                end_cursor=options.end_cursor,
                strict=not options.lenient,
            )


COMMANDS: Final[dict[str, Command]] = {
    **dict.fromkeys((*RESOURCES, "unified"), resource),
    "pull": pull,
    "accounts": accounts,
    "capabilities": capabilities,
    "report": report,
    "sandbox": sandbox,
}

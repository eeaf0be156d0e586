"""The main job from start to end: find the accounts, list one's interactions, pull those of all, and chart them.

Run it with `make demo`, or `python examples/demo.py`. It asks a sandbox, a real HTTP server on this machine with
made-up data. To ask the real service, set TRUTO_API_TOKEN and write `TrutoClient()` without arguments, no Sandbox.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from truto_ci_async import (
    Interaction,
    MissingExtraError,
    Pacing,
    PullReport,
    Rate,
    Sandbox,
    TrutoClient,
    report,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
END = datetime(2024, 2, 1, tzinfo=UTC)


async def main() -> None:
    await one_account()
    await all_accounts()
    show_next_steps()


async def one_account() -> None:
    async with Sandbox(seed=7) as sandbox, TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
        print(f"Connected to {truto.base_url}\n")

        # 1. Which accounts are connected?
        accounts = await truto.integrated_accounts.list().collect()
        show_table(
            ("account", "integration", "status", "tenant"),
            [
                (account.id, account.row()["integration"], account.status, account.tenant_id)
                for account in accounts
            ],
        )
        account = next(account for account in accounts if account.status == "active")

        # 2. Walk through the interactions of one of them. `async for interaction in truto.interactions.list(...)`
        #    does the same item by item; here the pages are shown as they arrive.
        print(f"\nInteractions of account {account.id}, {START.date()} to {END.date()}:")
        interactions: list[Interaction] = []
        pages = truto.interactions.list(account, start_time=START, end_time=END).pages()
        async for page in pages:
            interactions.extend(page)
            print(
                f"  {len(page):3} on this page, {len(interactions):3} so far,"
                f" answered in {page.response.elapsed * 1000:.0f} ms{', more to come' if page.has_more else ''}"
            )

        # 3. Every interaction is typed: fields that are missing are None, ids stay text.
        print("\nThe first ones:")
        rows = [interaction.row() for interaction in interactions[:8]]
        show_table(
            ("user", "monologue", "patience", "questions"),
            [
                (
                    row["user_email"],
                    number(row["longest_monologue"]),
                    number(row["patience"]),
                    number(row["question_rate"]),
                )
                for row in rows
            ],
        )
        users = {interaction.user.id for interaction in interactions if interaction.user}
        print(f"\n{len(interactions)} interactions of {len(users)} users.")


async def all_accounts() -> None:
    """4. The same of every account at once, into files, within the limits of the service.

    Those are 500 requests in 10 seconds for a token, 50 for an account. Nobody wants to watch that: here the service
    and the client both count by the second.
    """
    service = Sandbox(seed=7, accounts=60, page_size=50, token_rate=(500, 1.0), account_rate=(50, 1.0))
    pacing = Pacing(token=Rate(500, 1.0), account=Rate(50, 1.0))
    with tempfile.TemporaryDirectory() as folder:
        async with (
            service as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, pacing=pacing) as truto,
        ):
            # What is given is all it takes to go on after a crash, too: run it again with the same folder.
            pulled = await truto.interactions.pull_to(
                folder, integration="gong", status="active", start_time=START, end_time=END
            )
            show_pull(pulled, folder)
            again = await truto.interactions.pull_to(
                folder, integration="gong", status="active", start_time=START, end_time=END
            )
        print(f"\nRun again, it finds that everything is there: {again.requests} requests.")
        write_report(folder)


def write_report(folder: str) -> None:
    """5. Charts and a table of people, as one HTML page."""
    page = Path(tempfile.gettempdir()) / "truto-demo-report.html"
    try:
        report(folder, page)
    except MissingExtraError as error:
        print(f"\nFor a report with charts: {error}")
    else:
        print(f"\nA report with charts: open {page} in a browser.")


def show_pull(pulled: PullReport, folder: str) -> None:
    print("\nInto files:")
    files = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    show_table(
        ("all accounts", ""),
        [
            ("accounts done", f"{pulled.done:,} of {pulled.accounts:,}"),
            ("failed, parked", f"{len(pulled.failed):,}, {len(pulled.parked):,}"),
            ("rows", f"{pulled.rows:,} in {pulled.pages:,} pages"),
            ("requests", f"{pulled.requests:,}, {pulled.retries:,} of them retries"),
            ("waited for limits", f"{pulled.waited:.1f} s, all accounts together"),
            *((path.name, f"{path.stat().st_size:,} bytes") for path in files),
        ],
    )


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    """Print a table: with rich when it is installed, else with spaces."""
    cells = [[cell or "" for cell in row] for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
        for line in (headings, *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")  # an id that does not fit goes on below; it is never cut
    for row in cells:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def show_next_steps() -> None:
    installed = os.path.relpath(Path(sys.executable).with_name("truto-ci"))
    command = installed if Path(installed).exists() and not installed.startswith("..") else "truto-ci"
    print(
        "\nWhat next:\n"
        f"  {command} interactions --sandbox           the same from the command line\n"
        f"  {command} interactions --sandbox -o csv    as CSV; also json, ndjson, yaml\n"
        f"  {command} pull --sandbox --out out/        of all accounts, into files\n"
        f"  {command} report out/                      charts of those files, as one HTML page\n"
        f"  {command} --help                           the rest, and how to use your own accounts"
    )


if __name__ == "__main__":
    try:
        asyncio.run(main())
        sys.stdout.flush()
    except (
        BrokenPipeError,
        SystemExit,
    ):  # `head`, or whatever reads it, has read enough; rich raises the second
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""``report``: charts and tables of a pull's folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

from truto_ci_async.errors import UsageError

from .messages import Progress, note
from .options import DISPLAYED, OUTPUT, Command, Options, argument, offer_files, text

EXAMPLES = """\
example:
  truto-ci report data -o report.html
"""


async def run_report(options: Options, progress: Progress) -> None:
    """Write a report on a pull's folder."""
    from truto_ci_async.reports.report_page import report

    if not await asyncio.to_thread(Path(options.folder).is_dir):
        raise UsageError(
            f"there is no folder {options.folder!r}: pass the one that `truto-ci pull --out` wrote to"
        )
    path = await asyncio.to_thread(report, options.folder, options.out, title=options.title)
    note(f"the report is in {path}: open it in a browser")


def command(name: str) -> Command:
    return Command(
        name, run_report,
        [
            argument("folder", "FOLDER", required=True, shell_complete=offer_files,
                     help="where `truto-ci pull --out` wrote to"),
            text("-o", "--out", "out", group=OUTPUT, default="report.html", metavar="FILE",
                 help="default: report.html"),
            text("--title", group=OUTPUT, default="Talk metrics", metavar="TEXT", help="default: Talk metrics"),
            *DISPLAYED,
        ],
        help="Write a report on the folder of a pull: what was asked, what is missing and why, charts of the metrics, "
        "and a table of people to sort, search and download. The page opens from disk, without a network.",
        examples=EXAMPLES,
    )  # fmt: skip

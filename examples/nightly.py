"""Pull the last seven days of every active account into a folder, and run it again to continue where it stopped.

    TRUTO_API_TOKEN=... python nightly.py /data --integration gong

SIGTERM, which ``docker stop`` and Kubernetes send, ends the pull in order: pages that were fetched are written, and the
process ends within 10 seconds. It ends with 0 if every account was pulled to the end, else with 1: run it again.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from truto_ci_async import Pull, TrutoClient

# Seconds that a stopped pull may take to write what it has.
GRACE = 8.0


async def nightly(folder: Path, integration: str) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(
        signal.SIGTERM, task.cancel
    )  # before there is a pull; the first process has no default

    def on_start(pull: Pull[object]) -> None:
        def stop() -> None:
            pull.stop()
            loop.call_later(GRACE, task.cancel)

        loop.add_signal_handler(signal.SIGTERM, stop)

    async with TrutoClient() as truto:
        report = await truto.interactions.pull_to(
            folder / f"{datetime.now(UTC):%Y-%m-%d}",
            integration=integration,
            status="active",
            start_time="today-7d",
            end_time="today",
            on_start=on_start,
        )
    print(report, flush=True)
    for account, error in report.failed.items():  # these did not hold up the others
        print(account, error, file=sys.stderr)
    return 0 if report.complete else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--integration", default="gong", help="of the accounts (default gong)")
    given = parser.parse_args()
    try:
        sys.exit(asyncio.run(nightly(given.folder, given.integration)))
    except asyncio.CancelledError:
        sys.exit(1)

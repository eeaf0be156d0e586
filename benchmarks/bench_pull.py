"""A pull of many accounts: what do order, resuming and durable output add to the least code that asks for it all?

    pages   1,000 accounts, every page handed to a loop that counts rows: nothing is written
    ndjson  the same accounts into a folder: rows as NDJSON, synced, and progress in SQLite (``synchronous=FULL``)
    large   that, with 100 accounts of 10 pages of 100 items

The bare loop is what a careful person writes with aiohttp and msgspec: one session, one decoder, a worker for each
account in flight. It keeps no order among accounts, cannot go on after a crash, and has no retries, limits or
deadlines. For ``ndjson`` and ``large`` there are two: one decodes to the same structs and writes nothing at all, the
other writes each item's own bytes as a line, and leaves it to the system when they reach the disk. dlt's REST client
is for threads, reads each page into dicts, and writes nothing either. All ask as many accounts at once, with pacing
off. Contenders are processes of their own that take turns.

    python -m benchmarks.bench_pull --accounts 1000 --pages 4 --items 50 --concurrency 32 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, Any

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Record
from truto_ci_async.models import Interaction

PATH = "/unified/conversational-intelligence/interactions"
TOKEN = "benchmark-token"
START, END = "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"

NOTHING, LINES = "bare, writes nothing", "bare, writes lines"
DLT = "dlt's REST client"
CASES = ("pages", "ndjson", "large")
LARGE = {"accounts": 100, "pages": 10, "items": 100}
GOALS = [
    Goal("pull pages", NOTHING, "speed", least=0.85),
    Goal("pull pages", NOTHING, "cpu", most=1.35),
    *(Goal(f"pull {case}", NOTHING, "speed", least=0.90) for case in ("ndjson", "large")),
    *(Goal(f"pull {case}", LINES, "speed", least=0.75) for case in ("ndjson", "large")),
]


class Ours:
    """``pull`` without a folder, ``pull_to`` with one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._accounts = accounts(options)
        self._at_once = options.concurrency

    async def open(self, stack: AsyncExitStack, url: str) -> None:
        from truto_ci_async import Pacing, TrutoClient

        client = TrutoClient(TOKEN, base_url=url, pacing=Pacing.off())
        self._truto = await stack.enter_async_context(client)

    async def pull(self, folder: Path | None) -> int:
        asked: dict[str, Any] = {"start_time": START, "end_time": END, "max_accounts": self._at_once}
        if folder is not None:
            return (await self._truto.interactions.pull_to(folder, self._accounts, **asked)).rows
        count = 0
        async with self._truto.interactions.pull(self._accounts, **asked) as pages:
            async for page in pages:
                count += len(page)
        return count


class Bare:
    def __init__(self, options: argparse.Namespace) -> None:
        self._accounts = accounts(options)
        self._at_once = options.concurrency
        self._writes = options.here == LINES

    async def open(self, stack: AsyncExitStack, url: str) -> None:
        import aiohttp
        import msgspec

        item_type: Any = msgspec.Raw if self._writes else Interaction
        fields: list[Any] = [("result", tuple[item_type, ...]), ("next_cursor", str | None, None)]
        page: Any = msgspec.defstruct("Page", fields)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._decode = msgspec.json.Decoder(page).decode
        self._session = await stack.enter_async_context(aiohttp.ClientSession(url, headers=headers))

    async def pull(self, folder: Path | None) -> int:
        left = iter(self._accounts)
        if folder is None or not self._writes:
            return sum(await asyncio.gather(*(self._work(left, None) for _ in range(self._at_once))))
        with (folder / "lines.ndjson").open("wb") as file:
            return sum(await asyncio.gather(*(self._work(left, file) for _ in range(self._at_once))))

    async def _work(self, left: Iterator[str], file: IO[bytes] | None) -> int:
        count = 0
        for account in left:
            params = {"integrated_account_id": account, "start_time": START, "end_time": END}
            while True:
                async with self._session.get(PATH, params=params) as response:
                    response.raise_for_status()
                    page = self._decode(await response.read())
                count += len(page.result)
                if file is not None:
                    file.write(b"\n".join([bytes(item) for item in page.result]) + b"\n")
                if not page.next_cursor:
                    break
                params["next_cursor"] = page.next_cursor
        return count


class Dlt:
    """The client of dlt's REST sources, in a thread for each account that is asked at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._accounts = accounts(options)
        self._at_once = options.concurrency

    async def open(self, stack: AsyncExitStack, url: str) -> None:
        from dlt.sources.helpers.requests import Client
        from dlt.sources.helpers.rest_client import RESTClient
        from dlt.sources.helpers.rest_client.auth import BearerTokenAuth
        from requests.adapters import HTTPAdapter

        session = stack.enter_context(Client().session)
        session.mount("http://", HTTPAdapter(pool_maxsize=self._at_once))
        self._client = RESTClient(url, auth=BearerTokenAuth(TOKEN), session=session, data_selector="result")

    async def pull(self, folder: Path | None) -> int:
        with ThreadPoolExecutor(self._at_once) as threads:
            return sum(threads.map(self._count, self._accounts))

    def _count(self, account: str) -> int:
        from dlt.sources.helpers.rest_client.paginators import JSONResponseCursorPaginator

        paginator = JSONResponseCursorPaginator("next_cursor", cursor_param="next_cursor")
        params = {"integrated_account_id": account, "start_time": START, "end_time": END}
        return sum(len(page) for page in self._client.paginate(PATH, params=params, paginator=paginator))


def accounts(options: argparse.Namespace) -> list[str]:
    shape = f"{options.shape}-x{options.items}-p{options.pages}"
    return [f"{shape}--{number}" for number in range(options.accounts)]


def here(options: argparse.Namespace) -> None:
    """Be one contender: a pull of all accounts whenever asked, each into a new folder."""
    contender: Any = {OURS: Ours, DLT: Dlt}.get(options.here, Bare)(options)
    expected = options.accounts * options.pages * options.items
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as place:
        stack = AsyncExitStack()
        runner.run(contender.open(stack, options.url))

        def pull() -> None:
            folder = None
            if options.cases != "pages":
                folder = Path(place, "out")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
            count = runner.run(contender.pull(folder))
            assert count == expected, f"{count} rows, where {expected} were expected"

        # A commit is the work of two more threads, which a core of their own is there for.
        _turns.serve_turns(pull, collect=options.gc != "off", pinned=options.cases == "pages")
        runner.run(stack.aclose())


def run(options: argparse.Namespace) -> list[Record]:
    """Run all cases."""
    found: list[Record] = []
    for case in options.cases.split(","):
        sizes = vars(options) | (LARGE if case == "large" else {})
        contenders = _turns.installed(
            {OURS: "", NOTHING: ""} | ({LINES: ""} if case != "pages" else {}) | {DLT: "dlt"},
            options.contenders,
        )
        given = ["--cases", case]
        for name in ("shape", "accounts", "pages", "items", "concurrency"):
            given += [f"--{name}", str(sizes[name])]
        for collect in _turns.collecting(options):
            _turns.say(f"pull {case}, garbage collector {'on' if collect else 'off'}")
            with _harness.server() as url:
                more = [*given, "--gc", "on" if collect else "off", "--url", url]
                measured = _turns.take_turns(__spec__.name, contenders, more, rounds=options.rounds)
            records = _turns.records(f"pull {case}", collect, measured)
            for record in records:
                record["pages_per_s"] = round(sizes["accounts"] * sizes["pages"] / record["ms"] * 1e3)
                _turns.say(f"  {record['contender']:<24}{record['pages_per_s']:>7,} pages/s")
            found += records
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    parser.add_argument("--accounts", type=int, default=1000, help="default 1000")
    parser.add_argument("--pages", type=int, default=4, help="of an account (default 4)")
    parser.add_argument("--items", type=int, default=50, help="on a page (default 50)")
    parser.add_argument("--concurrency", type=int, default=32, help="accounts asked at once (default 32)")
    parser.add_argument("--shape", default="remote", help="of an item, see data.SHAPES (default remote)")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)  # where a contender asks


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

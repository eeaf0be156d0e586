"""A pull of many accounts: what do order, resuming and durable output add to the least code that asks for it all?

    pages    1,000 accounts of 4 pages of 50 items, every page handed to a loop that counts rows: nothing is written
    ndjson   the same accounts into a folder: rows as NDJSON, synced, and progress in SQLite (``synchronous=FULL``)
    large    that, with 100 accounts of 10 pages of 100 items
    parquet  ``large`` into Parquet
    duckdb   ``large`` into DuckDB

The bare loops are what a careful person writes with aiohttp and msgspec: one session, one decoder, a worker for each
account in flight. They keep no order among accounts, cannot go on after a crash, and have no retries, limits or
deadlines. One decodes each page to the same structs and writes nothing; one decodes them and encodes each as a line;
one does that with dicts, in ``large``; one finds where each item begins and ends, and writes its own bytes as a line.
They leave it to the system when lines reach the disk. dlt's REST client is for threads, reads each page into dicts, and
writes nothing; it takes part in ``large``. Parquet and DuckDB are beside the loop that encodes lines. All ask as many
accounts at once, with pacing off. Contenders are processes of their own that take turns.

    python -m benchmarks.bench_pull --cases large --concurrency 32 --rounds 5
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

NOTHING, LINES = "bare, decodes, writes nothing", "bare, splits, writes lines"
STRUCTS, DICTS = "bare, decodes, encodes lines", "bare, the same with dicts"
DLT = "dlt's REST client"
MANY, LARGE = (1000, 4, 50), (100, 10, 100)  # accounts, pages, items
CASES = {"pages": MANY, "ndjson": MANY, "large": LARGE, "parquet": LARGE, "duckdb": LARGE}
BESIDE = {
    "pages": {NOTHING: ""},
    "ndjson": {NOTHING: "", STRUCTS: "", LINES: ""},
    "large": {NOTHING: "", STRUCTS: "", DICTS: "", LINES: "", DLT: "dlt"},
    "parquet": {STRUCTS: ""},
    "duckdb": {STRUCTS: ""},
}
SIZES = ("accounts", "pages", "items")
NEEDED = {"parquet": "pyarrow", "duckdb": "duckdb"}
TITLES = {  # accounts x pages x items
    "pages": "pull, nothing written, 1,000 x 4 x 50",
    "ndjson": "pull into NDJSON, 1,000 x 4 x 50",
    "large": "pull into NDJSON, 100 x 10 x 100",
    "parquet": "pull into Parquet, 100 x 10 x 100",
    "duckdb": "pull into DuckDB, 100 x 10 x 100",
}
GOALS = [
    Goal(TITLES["pages"], NOTHING, "speed", least=0.85),
    Goal(TITLES["pages"], NOTHING, "cpu", most=1.35),
    *(Goal(TITLES[case], STRUCTS, "speed", least=0.90) for case in ("ndjson", "large")),
    *(Goal(TITLES[case], LINES, "speed", least=0.75) for case in ("ndjson", "large")),
]


class Ours:
    """``pull`` without a folder, ``pull_to`` with one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._accounts = accounts(options)
        self._at_once = options.concurrency
        self._case = options.cases

    async def open(self, stack: AsyncExitStack, url: str) -> None:
        from truto_ci_async import Pacing, TrutoClient

        client = TrutoClient(TOKEN, base_url=url, pacing=Pacing.off())
        self._truto = await stack.enter_async_context(client)

    async def pull(self, folder: Path | None) -> int:
        asked: dict[str, Any] = {"start_time": START, "end_time": END, "max_accounts": self._at_once}
        if folder is not None:
            target = f"duckdb:///{folder}/pulled.duckdb" if self._case == "duckdb" else folder
            asked |= {"format": "parquet"} if self._case == "parquet" else {}
            return (await self._truto.interactions.pull_to(target, self._accounts, **asked)).rows
        count = 0
        async with self._truto.interactions.pull(self._accounts, **asked) as pages:
            async for page in pages:
                count += len(page)
        return count


class Bare:
    def __init__(self, options: argparse.Namespace) -> None:
        self._accounts = accounts(options)
        self._at_once = options.concurrency
        self._is = options.here

    async def open(self, stack: AsyncExitStack, url: str) -> None:
        import aiohttp
        import msgspec

        item_type: Any = {LINES: msgspec.Raw, DICTS: dict[str, Any]}.get(self._is, Interaction)
        fields: list[Any] = [("result", list[item_type]), ("next_cursor", str | None, None)]
        page: Any = msgspec.defstruct("Page", fields)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._decode = msgspec.json.Decoder(page).decode
        self._lines = joined if self._is == LINES else msgspec.json.Encoder().encode_lines
        self._session = await stack.enter_async_context(aiohttp.ClientSession(url, headers=headers))

    async def pull(self, folder: Path | None) -> int:
        left = iter(self._accounts)
        if folder is None or self._is == NOTHING:
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
                    file.write(self._lines(page.result))
                if not page.next_cursor:
                    break
                params["next_cursor"] = page.next_cursor
        return count


def joined(items: list[Any]) -> bytes:
    return b"\n".join([bytes(item) for item in items]) + b"\n"


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

        session = stack.enter_context(Client(raise_for_status=False).session)
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
        contenders = _turns.installed({OURS: NEEDED.get(case, "")} | BESIDE[case], options.contenders)
        if OURS not in contenders:
            continue
        sizes = [getattr(options, name) or usual for name, usual in zip(SIZES, CASES[case], strict=True)]
        given = ["--cases", case, "--shape", options.shape, "--concurrency", str(options.concurrency)]
        for name, size in zip(SIZES, sizes, strict=True):
            given += [f"--{name}", str(size)]
        for collect in _turns.collecting(options):
            _turns.say(f"{TITLES[case]}, garbage collector {'on' if collect else 'off'}")
            with _harness.server() as url:
                more = [*given, "--gc", "on" if collect else "off", "--url", url]
                measured = _turns.take_turns(__spec__.name, contenders, more, rounds=options.rounds)
            records = _turns.records(TITLES[case], collect, measured)
            for record in records:
                record["pages_per_s"] = round(sizes[0] * sizes[1] / record["ms"] * 1e3)
                _turns.say(f"  {record['contender']:<30}{record['pages_per_s']:>7,} pages/s")
            found += records
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    parser.add_argument("--accounts", type=int, default=0, help="default 1000 or 100, see above")
    parser.add_argument("--pages", type=int, default=0, help="of an account (default 4 or 10)")
    parser.add_argument("--items", type=int, default=0, help="on a page (default 50 or 100)")
    parser.add_argument("--concurrency", type=int, default=32, help="accounts asked at once (default 32)")
    parser.add_argument("--shape", default="remote", help="of an item, see data.SHAPES (default remote)")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)  # where a contender asks


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

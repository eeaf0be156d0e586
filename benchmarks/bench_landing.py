"""How fast do rows land in a database, with their progress, beside what its own driver does with rows alone?

From the same AccountPages in memory, in the same batches, one commit each, without a network: ``PostgresStore`` beside
psycopg's ``copy.write_row``, ``DuckDBStore`` beside ``INSERT ... SELECT`` from the Arrow table of a batch, and
``CloudStore`` beside a Parquet file of that table, put into obstore's store in memory. The
contenders take turns; the ratio is that of their best rounds. PostgreSQL must be installed: a server is started here.

    python -m benchmarks.bench_landing --rows 20000 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import _turns, data
from benchmarks._turns import OURS, Goal, Record
from tests.postgres_server import PostgresServer, programs
from truto_ci_async import (
    AccountPage,
    CloudStore,
    DuckDBStore,
    Interaction,
    Page,
    PlannedAccount,
    PostgresStore,
    Progress,
    TransactionalStore,
    Window,
    to_arrow,
)
from truto_ci_async._wire.item_reader import item_reader
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.export.column_values import fixed_schema
from truto_ci_async.models.row_views import PULL_SCHEMA
from truto_ci_async.pull.plan.plan import Plan

ITEMS, BATCH_PAGES = 50, 64
DRIVER = "its driver"
WINDOW = Window("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")
COLUMNS = fixed_schema(Interaction, PULL_SCHEMA)


def batches_of(rows: int) -> list[list[AccountPage[Interaction]]]:
    read = PageReader(item_reader(Interaction)).read
    body = data.page(ITEMS, next_cursor="2")
    pages = [
        AccountPage(
            PlannedAccount(f"account-{number}"), WINDOW, Page(read(body).items, item_type=Interaction)
        )
        for number in range(rows // ITEMS)
    ]
    return [pages[at : at + BATCH_PAGES] for at in range(0, len(pages), BATCH_PAGES)]


async def ours(store: TransactionalStore, batches: list[list[AccountPage[Any]]]) -> None:
    for batch in batches:
        for page in batch:
            await store.write(page)
        changes = {(page.account.id, 0): Progress(rows=len(page), pages=1, outcome="done") for page in batch}
        await store.commit(changes, row_fingerprints={}, final=False)


async def in_store(store: Any, batches: list[list[AccountPage[Any]]], *, fresh: bool) -> float:
    accounts = tuple(page.account for batch in batches for page in batch)
    await store.open(Plan(accounts=accounts, windows=(WINDOW,)), fresh=fresh)
    begun = perf_counter()
    await ours(store, batches)
    seconds = perf_counter() - begun
    await store.aclose()
    return seconds


async def by_copy(url: str, batches: list[list[AccountPage[Any]]]) -> float:
    import psycopg

    columns = [(column.name, column.path) for column in COLUMNS]
    own = COLUMNS.with_columns([column for column in COLUMNS if column.name not in PULL_SCHEMA.types])
    names = ", ".join(f'"{name}"' for name, _ in columns).encode()
    async with await psycopg.AsyncConnection.connect(url) as connection:
        begun = perf_counter()
        for batch in batches:
            async with (
                connection.cursor() as cursor,
                cursor.copy(b"COPY interactions (" + names + b") FROM STDIN") as copy,
            ):
                for page in batch:
                    lead = PULL_SCHEMA.values(page)
                    for item in page.page:
                        await copy.write_row([*lead, *own.values(item)])
            await connection.commit()
        return perf_counter() - begun


async def by_insert(path: Path, batches: list[list[AccountPage[Any]]]) -> float:
    import duckdb

    names = ", ".join(f'"{column.name}"' for column in COLUMNS)
    with duckdb.connect(str(path)) as database:
        begun = perf_counter()
        for batch in batches:
            rows = to_arrow(batch)  # noqa: F841 - DuckDB finds it by its name
            database.begin()
            database.execute(f"INSERT INTO interactions ({names}) SELECT {names} FROM rows")
            database.commit()
        return perf_counter() - begun


async def by_put(memory: Any, batches: list[list[AccountPage[Any]]]) -> float:
    import obstore
    import pyarrow
    import pyarrow.parquet

    begun = perf_counter()
    for number, batch in enumerate(batches):
        target = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table(to_arrow(batch)), target, compression="zstd")
        await obstore.put_async(memory, f"theirs/{number}.parquet", target.getvalue().to_pybytes())
    return perf_counter() - begun


async def measure(options: argparse.Namespace) -> list[Record]:
    batches = batches_of(options.rows)
    rows = sum(len(page) for batch in batches for page in batch)
    best: dict[tuple[str, str], float] = {}
    from obstore.store import MemoryStore

    memory = MemoryStore()
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        url, path = server.url("postgres"), Path(folder, "bench.db")
        makers: dict[str, Callable[[], TransactionalStore]] = {
            "PostgreSQL": lambda: PostgresStore(url),
            "DuckDB": lambda: DuckDBStore(path),
            "Parquet": lambda: CloudStore(store=memory, prefix="ours", part_seconds=0),
        }
        theirs: dict[str, Callable[[], Awaitable[float]]] = {
            "PostgreSQL": lambda: by_copy(url, batches),
            "DuckDB": lambda: by_insert(path, batches),
            "Parquet": lambda: by_put(memory, batches),
        }
        for _ in range(options.rounds):
            for name, make in makers.items():
                store: Any = make()
                await store.open(Plan(accounts=(PlannedAccount("none"),), windows=(WINDOW,)), fresh=True)
                await store.aclose()
                seconds = await theirs[name]()
                best[name, DRIVER] = min(best.get((name, DRIVER), seconds), seconds)
                await clear(name, url, path)
                seconds = await in_store(make(), batches, fresh=name == "Parquet")
                best[name, OURS] = min(best.get((name, OURS), seconds), seconds)
                await clear(name, url, path)
    return [
        {
            "question": f"landing, {name}",
            "contender": contender,
            "ms": round(best[name, contender] * 1e3, 1),
            "rows_s": round(rows / best[name, contender]),
            **({} if contender == OURS else {"speed": best[name, contender] / best[name, OURS]}),
        }
        for name in makers
        for contender in (OURS, DRIVER)
    ]


async def clear(name: str, url: str, path: Path) -> None:
    if name == "Parquet":  # its store begins anew
        return
    statements = ("TRUNCATE interactions", "DELETE FROM _truto_pulls", "DELETE FROM _truto_progress")
    if name == "DuckDB":
        import duckdb

        with duckdb.connect(str(path)) as database:
            for statement in statements:
                database.execute(statement)
    else:
        import psycopg

        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for statement in statements:
                await connection.execute(statement.encode())


GOALS = [Goal(f"landing, {name}", DRIVER, "speed", least=0.7) for name in ("PostgreSQL", "DuckDB", "Parquet")]


def run(options: argparse.Namespace) -> list[Record]:
    _turns.say("landing")
    try:
        programs()
    except RuntimeError as missing:
        _turns.say(f"  landing is left out: {missing}")
        return []
    return asyncio.run(measure(options))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=20_000, help="rows of a round (default 20000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each contender (default 5)")


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, lambda _: None)

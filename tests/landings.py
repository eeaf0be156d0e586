"""What must be true of every database that pulls land in: shared by the tests of DuckDB and of PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.pull_runs import Runs, landing_store
from truto_ci_async import (
    AccountPage,
    Interaction,
    Meeting,
    Pacing,
    Page,
    Person,
    PlannedAccount,
    Progress,
    Sandbox,
    StateConflictError,
    StorageError,
    Transcript,
    TrutoClient,
    UsageError,
    Window,
    run_shard,
)
from truto_ci_async.pull.plan.plan import Plan

DAYS = 3
BOUNDS: dict[str, Any] = {
    "start_time": "2024-01-01T00:00:00Z",
    "end_time": f"2024-01-0{DAYS + 1}T00:00:00Z",
    "window": "day",
}
STEPS = ("fence", "progress", "commit", "committed")
# Without a time zone: to fetch one, some versions of DuckDB need pytz.
READ = "SELECT integrated_account_id, window_start AT TIME ZONE 'UTC', user_id FROM {}"

Row = tuple[str, str, str]


class Database(Protocol):
    """A database of one test: ``url`` is for ``pull_to``; ``sql`` runs a statement from outside of any pull."""

    url: str

    def sql(self, statement: str) -> list[Any]: ...


def target_of(database: Database, **options: Any) -> Any:
    """Return what ``pull_to`` takes: a URL, or the store of a bucket in memory."""
    return database.store(**options) if hasattr(database, "store") else database.url


def client_of(sandbox: Sandbox) -> TrutoClient:
    return TrutoClient(sandbox.token, base_url=sandbox.url, pacing=Pacing.off())


def service(accounts: int = 2, interactions: int = 40) -> Sandbox:
    return Sandbox(
        accounts=accounts,
        interactions=interactions,
        page_size=10,
        token_rate=None,
        account_rate=None,
        ratelimit_headers=None,
    )


def expected(sandbox: Sandbox) -> list[Row]:
    """Return every row that the sandbox holds of the days."""
    return sorted(
        (account, f"2024-01-{day + 1:02}", row["user"]["id"])
        for account in sandbox.account_ids
        for day in range(DAYS)
        for row in sandbox.expected(
            account,
            start_time=f"2024-01-{day + 1:02}T00:00:00Z",
            end_time=f"2024-01-{day + 2:02}T00:00:00Z",
        )
    )


def rows_in(database: Database, table: str = "interactions") -> list[Row]:
    return sorted(
        (account, start.date().isoformat(), user) for account, start, user in database.sql(READ.format(table))
    )


# --- pulls -----------------------------------------------------------------------------------------------------


async def check_a_pull_lands_and_is_not_repeated(database: Database) -> None:
    async with service() as sandbox, client_of(sandbox) as client:
        report = await client.interactions.pull_to(database.url, sandbox.account_ids, **BOUNDS)
        assert report.complete
        assert report.rows == len(expected(sandbox))
        assert rows_in(database) == expected(sandbox)
        sandbox.clear()
        report = await client.interactions.pull_to(database.url, sandbox.account_ids, **BOUNDS)
        assert report.complete
        assert not sandbox.requests


async def check_every_resource_lands(database: Database) -> None:
    async with service(interactions=10) as sandbox, client_of(sandbox) as client:
        bounds: dict[str, Any] = {"start_time": "2024-01-01", "end_time": "2024-01-15"}
        for resource in ("meetings", "users", "transcripts", "activity"):
            for mode in ("merge", "append"):
                pull_to = getattr(client, resource).pull_to
                window = {} if resource == "users" else bounds
                report = await pull_to(
                    database.url, sandbox.account_ids, table=f"{resource}_{mode}", mode=mode, **window
                )
                assert report.complete
                assert database.sql(f"SELECT count(*) FROM {resource}_{mode}") == [(report.rows,)]
                assert report.rows


async def check_append_refuses_what_is_there_and_merge_replaces_it(database: Database) -> None:
    async with service(interactions=10) as sandbox, client_of(sandbox) as client:
        accounts, into = sandbox.account_ids, client.interactions.pull_to
        await into(database.url, accounts, **BOUNDS)
        other: dict[str, Any] = {**BOUNDS, "start_time": "2024-01-02T00:00:00Z"}
        with pytest.raises(StateConflictError, match="there twice"):
            await into(database.url, accounts, **other)
        later: dict[str, Any] = {
            "start_time": BOUNDS["end_time"],
            "end_time": "2024-01-06T00:00:00Z",
            "window": "day",
        }
        assert (await into(database.url, accounts, **later)).complete  # a month after the other
        before = len(rows_in(database))
        database.sql("UPDATE interactions SET patience = -1")
        assert (await into(database.url, accounts, mode="merge", **BOUNDS)).complete
        assert len(rows_in(database)) == before
        ((left,),) = database.sql("SELECT count(*) FROM interactions WHERE patience = -1")
        assert left == before - len(expected(sandbox))
        assert (await into(database.url, accounts, fresh=True, **BOUNDS)).complete
        assert len(rows_in(database)) == before


async def check_windows_that_are_asked_again_double_nothing(database: Database) -> None:
    """Cursors die in the middle of windows, in this run and between two."""
    async with service(interactions=80) as sandbox, client_of(sandbox) as client:
        stops = [5, 12]

        async def watch(running: Any) -> None:
            while not running.report.complete:
                if stops and running.report.pages >= stops[0]:
                    stops.pop(0)
                    sandbox.expire_cursors()
                    if not stops:
                        running.stop()
                await asyncio.sleep(0)

        watching: list[asyncio.Task[None]] = []
        pull_to = client.interactions.pull_to
        await pull_to(
            database.url,
            sandbox.account_ids,
            on_start=lambda running: watching.append(asyncio.create_task(watch(running))),
            **BOUNDS,
        )
        watching[0].cancel()
        assert not stops
        sandbox.expire_cursors()
        assert (await pull_to(database.url, sandbox.account_ids, **BOUNDS)).complete
        assert rows_in(database) == expected(sandbox)
        assert database.sql("SELECT count(*) FROM _truto_row_fingerprints") == [(0,)]


async def check_a_plan_that_is_not_done_keeps_its_table(database: Database) -> None:
    async with service(interactions=20) as sandbox, client_of(sandbox) as client:
        pull_to = client.interactions.pull_to
        await pull_to(database.url, sandbox.account_ids, on_start=lambda pull: pull.stop(), **BOUNDS)
        with pytest.raises(StateConflictError, match="another plan"):
            await pull_to(database.url, sandbox.account_ids, **{**BOUNDS, "window": "week"})
        assert (await pull_to(database.url, sandbox.account_ids, **BOUNDS)).complete
        assert rows_in(database) == expected(sandbox)


async def check_a_table_that_does_not_fit_is_told_before_anything_is_asked(database: Database) -> None:
    async with service() as sandbox, client_of(sandbox) as client:
        database.sql(
            "CREATE TABLE calls (integrated_account_id text, id int, user_id text, score int NOT NULL)"
        )
        with pytest.raises(StateConflictError) as caught:
            await client.interactions.pull_to(database.url, sandbox.account_ids, table="calls", **BOUNDS)
        text = str(caught.value)
        assert "id is int" in text.lower()
        assert "score takes no null" in text
        assert "patience (" in text
        assert "add_columns=True" in text
        assert not sandbox.requests


async def check_a_table_altered_between_runs(database: Database) -> None:
    async with service() as sandbox, client_of(sandbox) as client:
        pull_to = client.interactions.pull_to
        await pull_to(database.url, sandbox.account_ids, on_start=lambda pull: pull.stop(), **BOUNDS)
        database.sql("ALTER TABLE interactions DROP COLUMN patience")
        database.sql("ALTER TABLE interactions ADD COLUMN note text")
        sandbox.clear()
        with pytest.raises(StateConflictError, match="patience .* is missing"):
            await pull_to(database.url, sandbox.account_ids, **BOUNDS)
        assert not sandbox.requests
        report = await pull_to(database.url, sandbox.account_ids, add_columns=True, **BOUNDS)
        assert report.complete
        assert rows_in(database) == expected(sandbox)


async def check_two_runs_at_once(database: Database) -> None:
    async with service() as sandbox, client_of(sandbox) as client:
        plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
        first, second = landing_store(database.url), landing_store(database.url)
        await first.open(plan)
        with pytest.raises(StateConflictError):
            await run_shard(client, plan, second)
        await first.aclose()
        assert (await run_shard(client, plan, second)).complete
        assert rows_in(database) == expected(sandbox)


async def check_pages_of_a_run_that_failed_are_not_written_by_the_next(database: Database) -> None:
    store = landing_store(database.url)
    await store.open(plan_of())
    await store.write(page_of([interaction("1")]))
    await store.aclose()
    await store.open(plan_of())
    await store.write(page_of([interaction("2")]))
    assert await store.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
    await store.aclose()
    await store.aclose()
    assert database.sql("SELECT id FROM interactions") == [("2",)]


async def check_row_fingerprints_are_kept_until_a_window_is_over(database: Database) -> None:
    store = landing_store(database.url)
    await store.open(plan_of("interactions", JANUARY, FEBRUARY))
    for number in range(3):
        fingerprints = {("a", 0): bytes([number]) * 8, ("a", 1): b"\0" * 8}
        assert await store.commit(
            {("a", 0): Progress(rows=number)}, row_fingerprints=fingerprints, final=False
        )
    assert await store.row_fingerprints(("a", 0)) == b"".join(bytes([number]) * 8 for number in range(3))
    over = Progress(rows=3, outcome="done")
    assert await store.commit({("a", 0): over}, row_fingerprints={("a", 0): b"1" * 8}, final=True)
    assert await store.row_fingerprints(("a", 0)) == b""
    assert await store.row_fingerprints(("a", 1)) == b"\0" * 24
    assert await store.load() == {("a", 0): over}
    await store.aclose()


async def check_a_commit_of_an_older_epoch_is_refused(database: Database) -> None:
    """As if this run had lost its lock, and another one had begun and ended meanwhile."""
    store = landing_store(database.url)
    await store.open(plan_of())
    await store.write(page_of([interaction("1")]))
    assert await store.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=False)
    database.sql("UPDATE _truto_pulls SET epoch = epoch + 1")
    await store.write(page_of([interaction("2")]))
    with pytest.raises(StateConflictError, match="another run has taken over"):
        await store.commit({("a", 0): Progress(rows=2)}, row_fingerprints={}, final=True)
    await store.aclose()
    assert database.sql("SELECT id FROM interactions") == [("1",)]


async def check_the_example_of_the_documentation(database: Database) -> None:
    """Whoever types it sees rows."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "databases.md").read_text(encoding="utf-8")
    program, *_ = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    query, *_ = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    program = program.replace("duckdb:///calls.db", database.url)
    program, _, _ = program.partition("asyncio.run(")
    names: dict[str, Any] = {}
    exec(compile(program, "databases.md", "exec"), names)
    await names["main"]()
    found = database.sql(f"SELECT integrated_account_id, people, patience FROM ({query}) shown")
    assert len({row[0] for row in found}) == 3
    assert len(found) > 3
    assert all(people > 0 and patience > 0 for _, people, patience in found)


async def check_the_quota_of_a_day_is_counted_over_runs(database: Database) -> None:
    """The first run uses up all of it; the second one asks for nothing, though its client has asked for nothing yet."""
    async with service(accounts=1, interactions=2) as sandbox:

        async def pull(daily: int) -> Any:
            async with TrutoClient(
                sandbox.token, base_url=sandbox.url, pacing=Pacing(account_daily=daily)
            ) as client:
                into = target_of(database)
                report = await client.interactions.pull_to(into, sandbox.account_ids, **BOUNDS)
            assert not report.failed
            return report.parked

        (account,) = sandbox.account_ids
        parked = await pull(2)
        assert sandbox.stats.requests == 2
        for _ in range(2):
            assert await pull(2) == {account: pytest.approx(parked[account], abs=1)}
        assert sandbox.stats.requests == 2


# --- rows ------------------------------------------------------------------------------------------------------

JANUARY = Window("2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z")
FEBRUARY = Window("2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z")


def plan_of(resource: str = "interactions", *windows: Window) -> Plan:
    return Plan(accounts=(PlannedAccount("a", "t"),), windows=windows or (JANUARY,), resource=resource)


def page_of(items: Sequence[Any], window: Window = JANUARY) -> AccountPage[Any]:
    return AccountPage(PlannedAccount("a", "t"), window, Page(list(items)), datetime(2024, 3, 1, tzinfo=UTC))


def interaction(id: str | None, user: str | None = None, **fields: Any) -> Interaction:
    return Interaction(id=id, user=Person(id=user), **fields)


async def land(database: Database, pages: Sequence[AccountPage[Any]], plan: Plan, **options: Any) -> Any:
    """Write pages in one commit, and return the store."""
    store = landing_store(database.url, resource=plan.resource, **options)
    await store.open(plan)
    try:
        for page in pages:
            await store.write(page)
        changes = {("a", at): Progress(rows=1, pages=1, outcome="done") for at in range(len(plan.windows))}
        assert await store.commit(changes, row_fingerprints={}, final=True)
        assert len(await store.load()) == len(plan.windows)
    finally:
        await store.aclose()
    return store


async def check_merge_keys(database: Database) -> None:
    """Without the window, February would overwrite January; a row without a key is never taken for another."""
    plan = plan_of("interactions", JANUARY, FEBRUARY)
    pages = [
        page_of(
            [interaction("1"), interaction(None, "u"), interaction(None), interaction("1", timezone="new")]
        ),
        page_of([interaction("1"), interaction("u")], FEBRUARY),
    ]
    for _ in range(2):
        await land(database, pages, plan, mode="merge")
        database.sql("DELETE FROM _truto_progress")
    found = database.sql("SELECT id, user_id, timezone FROM interactions")
    keyed = sorted((row for row in found if row[0] or row[1]), key=str)
    assert keyed == [("1", None, "new"), ("1", None, None), ("u", None, None), (None, "u", None)]
    assert len(found) - len(keyed) == 2  # of two runs

    meetings = [page_of([Meeting(id="m", title="old")]), page_of([Meeting(id="m", title="new")], FEBRUARY)]
    await land(database, meetings, plan_of("meetings", JANUARY, FEBRUARY), mode="merge")
    assert database.sql("SELECT title FROM meetings") == [("new",)]


async def check_a_refused_row_stops_or_is_kept(database: Database) -> None:
    plan = plan_of()
    pages = [page_of([interaction(str(number), timezone="x" * (number % 7)) for number in range(40)])]
    await land(database, [], plan)  # makes the table
    names = ", ".join(
        f'"{name}" {type}'
        for name, type in database.sql(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = 'interactions' ORDER BY ordinal_position"
        )
    )
    database.sql("DROP TABLE interactions")
    database.sql(f"CREATE TABLE interactions ({names}, CHECK (length(timezone) < 6))")
    database.sql("DELETE FROM _truto_pulls")
    database.sql("DELETE FROM _truto_progress")
    with pytest.raises(StorageError, match=r"refuses a row of account 'a', id '6'.*on_rejected"):
        await land(database, pages, plan)
    assert database.sql("SELECT count(*) FROM interactions") == [(0,)]
    for mode in ("append", "merge"):
        store = await land(database, pages, plan, on_rejected="keep", mode=mode)
        assert store.issues_count == 5
        database.sql("DELETE FROM _truto_progress")
        if mode == "append":
            assert database.sql("SELECT count(*) FROM interactions") == [(35,)]
            database.sql("DELETE FROM interactions")
            kept = database.sql('SELECT integrated_account_id, key, error, "row" FROM interactions_rejected')
            assert {row[0] for row in kept} == {"a"}
            assert sorted(row[1] for row in kept) == sorted(
                f"id '{number}'" for number in (6, 13, 20, 27, 34)
            )
            assert all(row[2] and '"timezone":"xxxxxx"' in row[3] for row in kept)
    assert database.sql("SELECT count(*) FROM interactions") == [(35,)]


async def check_another_resource_is_refused(database: Database) -> None:
    store = landing_store(database.url, resource="meetings")
    with pytest.raises(UsageError, match="plan of interactions"):
        await store.open(plan_of())
    await land(database, [page_of([Transcript(meeting=None)])], plan_of("transcripts"), mode="merge")
    assert database.sql("SELECT meeting_id FROM transcripts") == [(None,)]


# --- kills -----------------------------------------------------------------------------------------------------


@dataclass
class Killing:
    """One table, pulled by processes that are killed until one comes to its end."""

    runs: Runs
    sandbox: Sandbox
    database: Database
    mode: str
    kills: int = field(default=0, init=False)

    def run(self, **how: Any) -> bool:
        ran = self.runs.run(
            url=self.sandbox.url,
            token=self.sandbox.token,
            accounts=self.sandbox.account_ids,
            to=self.database.url,
            mode=self.mode,
            max_accounts=4,
            **BOUNDS,
            **how,
        )
        assert ran.is_killed or ran.status == 0, ran
        self.kills += ran.is_killed
        return ran.status == 0

    def finish(self) -> None:
        """Run to the end, and count the rows by SQL."""
        assert self.run()
        assert rows_in(self.database) == expected(self.sandbox)
        counted = self.database.sql('SELECT sum("rows") FROM _truto_progress')
        assert counted == [(len(expected(self.sandbox)),)]

    def at_each_step(self, *times: int) -> None:
        """Kill a run when it comes to each step for the first time, or for the n-th."""
        rows = "insert" if self.database.url.startswith("duckdb") else "copy"
        for step in (*STEPS, rows, *(["merge"] if self.mode == "merge" else [])):
            for nth in times:
                if self.run(kill=(step, nth)):  # nothing was left for this step
                    self.begin_anew()
                    self.run(kill=(step, nth))
        self.finish()

    def begin_anew(self) -> None:
        self.finish()
        for table in ("interactions", "_truto_pulls", "_truto_progress"):
            self.database.sql(f"DELETE FROM {table}")

    def at_random(self, kills: int) -> None:
        seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
        try:
            self._at_random(kills, random.Random(seed))
        except BaseException as error:
            error.add_note(f"again with: KILL_SEED={seed}")
            raise

    def _at_random(self, kills: int, rng: random.Random) -> None:
        while self.kills < kills:
            if self.run(kill_after=rng.uniform(0.02, 0.5)):
                self.begin_anew()
        self.finish()

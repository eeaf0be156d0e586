"""Landing in PostgreSQL, on a real server: kills, lost connections, refused rows, other runs."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

import psycopg
import pytest
from msgspec import Raw

from tests import landings, syncs
from tests.landings import (
    BOUNDS,
    Killing,
    client_of,
    expected,
    interaction,
    land,
    page_of,
    plan_of,
    rows_in,
    service,
)
from tests.postgres_server import PostgresServer
from tests.pull_runs import Runs, landing_store
from tests.support import run
from truto_ci_async import (
    PostgresStore,
    Progress,
    Sandbox,
    Sentence,
    StateConflictError,
    StorageError,
    SyncChanges,
    Transcript,
    UsageError,
    pull_plan,
    run_shard,
)
from truto_ci_async.pull.stores import postgres_sql as sql
from truto_ci_async.pull.sync.plan import header_of

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


class Postgres:
    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name)

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def database(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A new database for each test."""
    name = f"t{abs(hash(request.node.nodeid))}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield Postgres(server, name)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


CHECKS = {
    name.removeprefix("check_"): check for name, check in vars(landings).items() if name.startswith("check_")
}


@pytest.mark.parametrize("check", CHECKS)
def test_postgres(check: str, database: Postgres) -> None:
    run(CHECKS[check](database))


SYNCS = {
    name.removeprefix("check_"): check for name, check in vars(syncs).items() if name.startswith("check_")
}


@pytest.mark.parametrize("check", SYNCS)
def test_postgres_sync(check: str, database: Postgres) -> None:
    run(SYNCS[check](database))


def test_a_table_in_another_schema_with_types_of_its_own(database: Postgres) -> None:
    """What is there is kept: names that need quotes, jsonb, varchar, columns with a default."""

    async def scenario() -> None:
        database.sql('CREATE SCHEMA "Raw Data"')
        store = landing_store(database.url, table="Raw Data.Calls")
        await store.open(plan_of())
        await store.aclose()
        database.sql(
            'ALTER TABLE "Raw Data"."Calls" ALTER remote_data TYPE jsonb, ALTER user_name TYPE varchar(50), '
            "ADD loaded timestamptz NOT NULL DEFAULT now(), ADD number bigint GENERATED ALWAYS AS IDENTITY"
        )
        for mode in ("append", "merge"):
            item = interaction("1", remote_json=Raw(b'{"a": "x\\u0000y"}'))
            await land(database, [page_of([item])], plan_of(), table="Raw Data.Calls", mode=mode)
        assert database.sql('SELECT remote_data->>\'a\', number FROM "Raw Data"."Calls"') == [("x\ufffdy", 2)]
        assert database.sql('SELECT name FROM "Raw Data"._truto_pulls') == [("Raw Data.Calls",)]

    run(scenario())


def test_the_reason_of_a_refusal_does_not_quote_the_row(
    database: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """The server adds all of it: names and addresses of people would be in logs."""

    async def scenario() -> None:
        await land(database, [], plan_of())
        database.sql("ALTER TABLE interactions ADD CHECK (timezone <> 'bad')")
        database.sql("DELETE FROM _truto_progress")
        item = interaction("1", user="u@example.com", timezone="bad")
        with pytest.raises(StorageError, match=r"id '1'.*interactions_timezone_check") as caught:
            await land(database, [page_of([item])], plan_of())
        store = await land(database, [page_of([item])], plan_of(), on_rejected="keep")
        assert store.issues_count == 1
        ((error, row),) = database.sql('SELECT error, "row" FROM interactions_rejected')
        key = "user_id 'u@example.com'"  # that is the key
        for text in (str(caught.value), error, caplog.text):
            assert "u@example.com" not in text.replace(key, "")
        assert "u@example.com" in row
        database.sql("DELETE FROM _truto_progress")
        database.sql("ALTER TABLE interactions DROP COLUMN timezone, ADD COLUMN timezone varchar(2)")
        with pytest.raises(
            StorageError, match=r"too long for type character varying\(2\) \(column timezone\)"
        ):
            await land(database, [page_of([item])], plan_of())

    run(scenario())


def test_what_postgres_takes_in_no_text_is_told(database: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        item = interaction("1\0", timezone="a\\b\tc\nd\re", remote_json=Raw(b'{"a":"\\u0000\\\\u0000"}'))
        store = await land(database, [page_of([item])], plan_of(), mode="merge")
        assert store.issues_count == 2
        assert database.sql(
            "SELECT id, timezone, remote_data::text, remote_data->>'a' FROM interactions"
        ) == [("1\ufffd", "a\\b\tc\nd\re", '{"a":"\\ufffd\\\\u0000"}', "\ufffd\\u0000")]

    run(scenario())
    assert "became U+FFFD in id of interactions, account a" in caplog.text


def test_the_issues_of_a_store_are_in_the_report(database: Postgres) -> None:
    class Changing(PostgresStore):
        async def write(self, page: Any) -> None:
            page.page.items = tuple(interaction(f"{item.id}\0", item.user.id) for item in page.page)
            await super().write(page)

    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            report = await run_shard(client, plan, Changing(database.url))
            assert report.issues == report.rows == len(expected(sandbox))

    run(scenario())


def test_a_transcript_of_300_mb_goes_in(database: Postgres) -> None:
    long = "x" * (300 * 2**20) + "\\\n\t"

    async def scenario() -> None:
        transcript = Transcript(id="t", entries=(Sentence(text=long),))
        await land(database, [page_of([transcript])], plan_of("transcripts"), mode="merge")
        assert database.sql("SELECT length(entries->0->>'text') FROM transcripts") == [(len(long),)]

    run(scenario(), 300)


def test_a_row_that_is_too_large_is_one_rejected_row(database: Postgres) -> None:
    """A column with a limit of its own stands for the gigabyte of PostgreSQL's."""

    async def scenario() -> None:
        await land(database, [], plan_of("transcripts"))
        database.sql("ALTER TABLE transcripts ALTER entries TYPE jsonb")
        database.sql("DELETE FROM _truto_progress")
        items = [
            Transcript(id="1"),
            Transcript(id="2", entries=(Sentence(text="x" * 300 * 2**20),)),
            Transcript(id="3"),
        ]
        store = await land(
            database, [page_of(items)], plan_of("transcripts"), on_rejected="keep", mode="merge"
        )
        assert store.issues_count == 1
        assert database.sql("SELECT id FROM transcripts ORDER BY id") == [("1",), ("3",)]
        ((key, row, error),) = database.sql('SELECT key, "row", error FROM transcripts_rejected')
        assert (key, row) == ("no id", None)
        assert error

    run(scenario(), 120)


# --- connections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["postgresql://tester:hunter2@127.0.0.1:1/x", "postgresql://tester:hunter2@h:x/x"]
)
def test_a_failed_connection_shows_no_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = PostgresStore(url)
    with pytest.raises((StorageError, UsageError)) as caught:
        run(store.open(plan_of()))
    caplog.set_level(logging.DEBUG)
    text = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(store)
    assert "hunter2" not in text
    assert "tester:***@" in text


def test_a_server_that_is_stopped_and_started_in_the_middle(
    database: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a failover: the commit waits for the server and is repeated."""

    async def scenario() -> None:
        async with service(accounts=3, interactions=200) as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            for step in ("copy", "progress", "commit"):
                restarts = asyncio.Event()

                def at(name: str, step: str = step, restarts: asyncio.Event = restarts) -> None:
                    if name == step and not restarts.is_set():
                        restarts.set()
                        database.server.stop()

                async def start_again(restarts: asyncio.Event = restarts) -> None:
                    await restarts.wait()
                    await asyncio.sleep(0.3)
                    await asyncio.to_thread(database.server.start)

                starting = asyncio.create_task(start_again())
                table = f"after_{step}"
                report = await run_shard(client, plan, PostgresStore(database.url, table=table, step=at))
                await starting
                assert report.complete
                assert rows_in(database, table) == expected(sandbox)

    run(scenario(), 90)
    assert "trying again" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_server_that_does_not_come_back_ends_the_pull(database: Postgres) -> None:
    async def scenario() -> None:
        store = PostgresStore(database.url, reconnect_seconds=0.3)
        await store.open(plan_of())
        await store.write(page_of([interaction("1")]))
        database.server.stop()
        try:
            with pytest.raises(StorageError, match="cannot write the table interactions"):
                await store.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
        finally:
            database.server.start()
        await store.aclose()
        store = PostgresStore(database.url)
        await store.open(plan_of())
        assert await store.load() == {}
        await store.aclose()

    run(scenario())


def test_a_cancelled_pull_does_not_wait_for_a_server_that_is_down(
    database: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C would otherwise take five minutes."""

    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            is_down = asyncio.Event()

            def at(name: str) -> None:
                if name == "copy" and not is_down.is_set():
                    is_down.set()
                    database.server.stop()

            try:
                pulling = asyncio.create_task(run_shard(client, plan, PostgresStore(database.url, step=at)))
                async with asyncio.timeout(10.0):
                    while "trying again" not in caplog.text:
                        await asyncio.sleep(0.005)
                pulling.cancel()
                begun = asyncio.get_running_loop().time()
                with pytest.raises(asyncio.CancelledError):
                    await pulling
                assert asyncio.get_running_loop().time() - begun < 5
            finally:
                database.server.start()
            assert (await run_shard(client, plan, PostgresStore(database.url))).complete
            assert rows_in(database) == expected(sandbox)

    run(scenario())


class Proxy:
    """Passes bytes on to the server, and cuts the connection at a COMMIT: before the server has it, or its answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.cut: str | None = None
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        upstream, out = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, out]
        committing = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(reader, out, writer, committing, is_request=True))
            group.create_task(self._pass(upstream, writer, out, committing, is_request=False))

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        committing: asyncio.Event,
        *,
        is_request: bool,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                if is_request and b"COMMIT" in data and self.cut is not None:
                    if self.cut == "before":
                        self.cut, self.cuts = None, self.cuts + 1
                        break
                    committing.set()
                elif not is_request and committing.is_set() and self.cut == "after":
                    self.cut, self.cuts = None, self.cuts + 1
                    break
                writer.write(data)
                await writer.drain()
        for each in (writer, other):
            each.close()
            with suppress(OSError):
                await each.wait_closed()


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_cut_during_commit_leaves_no_doubt(cut: str, database: Postgres) -> None:
    """Nobody knows whether such a commit took place, until the number of the last one is read."""

    async def scenario() -> None:
        async with Proxy(database.server.port) as proxy:
            store = PostgresStore(database.server.url(database.name, proxy.port))
            await store.open(plan_of())
            for number in range(4):
                proxy.cut = cut if number in (1, 2) else None
                await store.write(page_of([interaction(f"{number}/{row}") for row in range(3)]))
                changes = {("a", 0): Progress(rows=3 * (number + 1), pages=number + 1)}
                assert await store.commit(changes, row_fingerprints={("a", 0): bytes(8)}, final=False)
            assert await store.row_fingerprints(("a", 0)) == bytes(32)
            await store.aclose()
            assert proxy.cuts == 2
        assert database.sql("SELECT count(*), count(DISTINCT id) FROM interactions") == [(12, 12)]
        assert database.sql("SELECT epoch, commits FROM _truto_pulls") == [(1, 4)]

    run(scenario())


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_cut_during_the_commit_of_a_sync(cut: str, database: Postgres) -> None:
    """Pages of an open window are kept once, and replace the rows of their window once."""

    async def scenario() -> None:
        async with Proxy(database.server.port) as proxy:
            store = PostgresStore(database.server.url(database.name, proxy.port), mode="merge")
            await store.open_sync(header_of(plan_of()), ["a"], fresh=False)
            for number in range(3):
                await store.write(syncs.walked([interaction(str(number))], is_first=not number))
                changes = SyncChanges((syncs.READ,) if number == 2 else (), {"a": f"after {number}"})
                proxy.cut = cut
                assert await store.commit({}, row_fingerprints={}, final=False, sync=changes)
            await store.aclose()
            assert proxy.cuts == 3
        assert sorted(database.sql("SELECT id FROM interactions")) == [("0",), ("1",), ("2",)]
        assert database.sql("SELECT mark FROM _truto_sync") == [("after 2",)]
        assert database.sql("SELECT count(*) FROM _truto_staged") == [(0,)]

    run(scenario())


def test_a_full_disk_is_told_and_loses_nothing(database: Postgres) -> None:
    """A trigger stands for it, with the code of PostgreSQL. No row is at fault, so none is rejected."""

    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            pull_to = client.interactions.pull_to
            await pull_to(database.url, sandbox.account_ids, on_start=lambda pull: pull.stop(), **BOUNDS)
            database.sql(
                """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
                    END $$"""
            )
            database.sql(
                "CREATE TRIGGER full_disk BEFORE INSERT ON interactions FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
            before = rows_in(database)
            with pytest.raises(StorageError, match="No space left on device"):
                await pull_to(database.url, sandbox.account_ids, on_rejected="keep", **BOUNDS)
            assert rows_in(database) == before
            assert database.sql("SELECT count(*) FROM interactions_rejected") == [(0,)]
            database.sql("DROP TRIGGER full_disk ON interactions")
            assert (await pull_to(database.url, sandbox.account_ids, **BOUNDS)).complete
            assert rows_in(database) == expected(sandbox)

    run(scenario())


def test_a_run_whose_connection_was_lost_cannot_write_after_another(database: Postgres) -> None:
    """The second one began while the first, on another host, was away."""

    async def scenario() -> None:
        first = PostgresStore(database.url)
        await first.open(plan_of())
        database.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'truto_ci_async'"
        )
        second = PostgresStore(database.url)
        await second.open(plan_of())
        await second.aclose()
        await first.write(page_of([interaction("1")]))
        with pytest.raises(StateConflictError, match="another run has taken over"):
            await first.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
        await first.aclose()
        assert database.sql("SELECT count(*) FROM interactions") == [(0,)]

    run(scenario())


def test_a_second_run_is_told_who_holds_the_table(database: Postgres) -> None:
    async def scenario() -> None:
        first, second = PostgresStore(database.url), PostgresStore(database.url)
        await first.open(plan_of())
        with pytest.raises(
            StateConflictError, match=r"another run pulls into the table interactions from 127.0.0.1"
        ):
            await second.hold()
        other = PostgresStore(database.url, table="others")  # this one has its own lock
        await other.open(plan_of())
        await other.aclose()
        await first.aclose()

    run(scenario())


def test_a_table_that_is_let_go_while_its_holder_is_looked_up_is_taken(
    database: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal without a holder would be final, also for a caller that asked to wait."""

    async def scenario() -> None:
        first, second = PostgresStore(database.url), PostgresStore(database.url)
        await first.open(plan_of())
        looked_up = asyncio.Event()
        execute = second._execute

        async def execute_late(query: str, values: Any = ()) -> Any:
            if query == sql.HOLDER:
                await first.aclose()
                while database.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") != [(0,)]:
                    await asyncio.sleep(0.01)
                looked_up.set()
            return await execute(query, values)

        monkeypatch.setattr(second, "_execute", execute_late)
        await second.open(plan_of())
        assert looked_up.is_set()
        await second.aclose()

    run(scenario())


# --- kills -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killing() -> Iterator[tuple[Runs, Sandbox]]:
    options: dict[str, Any] = {"token_rate": None, "account_rate": None, "ratelimit_headers": None}
    with Runs() as runs, Sandbox.in_thread(accounts=2, interactions=40, page_size=5, **options) as sandbox:
        yield runs, sandbox


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_postgres_killed_at_each_step(mode: str, database: Postgres, killing: tuple[Runs, Sandbox]) -> None:
    case = Killing(*killing, database, mode)
    case.at_each_step(1, 2)
    assert case.kills >= 5


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_postgres_killed_at_random(
    mode: str, kills: int, database: Postgres, killing: tuple[Runs, Sandbox]
) -> None:
    Killing(*killing, database, mode).at_random(kills)


# --- shards of a plan in one table -----------------------------------------------------------------------------


def test_shards_in_one_table_are_the_whole(database: Postgres) -> None:
    """All at the same time: none keeps another out, or fences it off."""

    async def scenario() -> None:
        async with service(accounts=6) as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            reports = await asyncio.gather(
                *(pull_plan(client, plan, database.url, shard=(index, 4)) for index in range(4))
            )
            assert all(report.complete for report in reports)
            assert rows_in(database) == expected(sandbox)
            sandbox.clear()
            for index in range(4):
                assert (await pull_plan(client, plan, database.url, shard=(index, 4))).complete
            assert not sandbox.requests
            with pytest.raises(StateConflictError, match="there twice"):
                await client.interactions.pull_to(database.url, plan)

    run(scenario())


def test_another_plan_of_shards_waits_for_all_of_the_one_before(database: Postgres) -> None:
    async def scenario() -> None:
        async with service(accounts=6) as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            later = {"start_time": BOUNDS["end_time"], "end_time": "2024-01-06T00:00:00Z", "window": "day"}
            following = await client.interactions.plan(sandbox.account_ids, **later)
            await pull_plan(client, plan, database.url, shard=(0, 2))
            with pytest.raises(StateConflictError, match=r"Go on with shard=\(index, 2\)"):
                await pull_plan(client, plan, database.url, shard=(0, 3))
            with pytest.raises(StateConflictError, match="end_time is"):
                await pull_plan(client, following, database.url, shard=(0, 2))
            await pull_plan(client, plan, database.url, shard=(1, 2))
            assert (await pull_plan(client, following, database.url, shard=(0, 2))).complete
            with pytest.raises(
                StateConflictError, match="end_time is"
            ):  # the first one is done, but not this
                await pull_plan(client, plan, database.url, shard=(1, 2))
            third = await client.interactions.plan(
                sandbox.account_ids, start_time="2024-02-01", end_time="2024-02-02"
            )
            with pytest.raises(StateConflictError):  # shard 2 has not pulled what follows
                await pull_plan(client, third, database.url, shard=(0, 2))
            assert (await pull_plan(client, following, database.url, shard=(1, 2))).complete
            before = len(rows_in(database))
            assert (
                await pull_plan(client, third, database.url, shard=(0, 3))
            ).complete  # and in other shards
            assert len(rows_in(database)) > before

    run(scenario())


def test_a_shard_has_a_lock_and_an_epoch_of_its_own(database: Postgres) -> None:
    async def scenario() -> None:
        first, second = plan_of().shards(2)
        store, other = PostgresStore(database.url, shard=(1, 2)), PostgresStore(database.url, shard=(2, 2))
        await store.open(first)
        await other.open(second)
        again = PostgresStore(database.url, shard=(1, 2))
        with pytest.raises(StateConflictError, match="another run") as caught:
            await again.open(first)
        assert caught.value.pid
        with pytest.raises(StateConflictError, match="another run"):  # a run of the whole table
            await PostgresStore(database.url).open(plan_of())
        await store.write(page_of([interaction("1")]))
        database.sql("UPDATE _truto_pulls SET epoch = epoch + 1 WHERE name LIKE '%shard 2 of 2'")
        assert await store.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
        with pytest.raises(StateConflictError, match="taken over"):
            await other.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
        await store.aclose()
        await other.aclose()
        with pytest.raises(UsageError, match="for shard 1 of 2"):
            await PostgresStore(database.url, shard=(1, 2)).open(second)

    run(scenario())


@pytest.fixture
def nights(database: Postgres) -> Iterator[syncs.KilledNights]:
    clock = syncs.Clock()
    with Runs() as runs, syncs.killed_service(clock) as sandbox:
        for account in sandbox.account_ids:
            sandbox.configure(account, settling=syncs.SETTLING)
        yield syncs.KilledNights(runs, sandbox, clock, database)


@pytest.mark.parametrize(
    ("resource", "times"),
    [
        ("interactions", 1),
        *(pytest.param(name, 5, marks=pytest.mark.long) for name in ("interactions", "meetings")),
    ],
)
def test_a_postgres_sync_killed_at_each_step(resource: str, times: int, nights: syncs.KilledNights) -> None:
    nights.resource = resource
    nights.at_each_step(times=times)
    assert nights.kills >= 5 * times


@pytest.mark.long
@pytest.mark.parametrize("resource", ["interactions", "meetings"])
def test_a_postgres_sync_killed_at_random(resource: str, nights: syncs.KilledNights) -> None:
    nights.resource = resource
    nights.at_random(100)

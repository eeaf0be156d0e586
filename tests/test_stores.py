"""Stores that keep rows and progress together: the protocol, what the databases share, and DuckDB."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests import landings, syncs
from tests.landings import (
    BOUNDS,
    Killing,
    client_of,
    expected,
    interaction,
    page_of,
    plan_of,
    rows_in,
    service,
)
from tests.pull_runs import Runs, landing_store
from tests.support import examples, file_size_limit, run
from truto_ci_async import (
    AccountPage,
    DuckDBStore,
    Key,
    Plan,
    Progress,
    Pull,
    Sandbox,
    StateConflictError,
    StorageError,
    TransactionalStore,
    UsageError,
    plan_in_force,
    run_shard,
)
from truto_ci_async.export.column_values import ColumnData
from truto_ci_async.export.schema import Column, Schema
from truto_ci_async.pull.stores import landing
from truto_ci_async.pull.stores.copy_text import clean_json, copy_text
from truto_ci_async.pull.stores.dsn import Dsn
from truto_ci_async.pull.stores.tables import MERGE_KEYS, FoundColumn, missing_columns
from truto_ci_async.pull.stores.targets import store_for

duckdb = pytest.importorskip("duckdb")

posix = pytest.mark.skipif(os.name == "nt", reason="forks of POSIX")

# --- the protocol ----------------------------------------------------------------------------------------------


class MemoryStore:
    """The five methods of the protocol, and nothing else."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.rows: list[tuple[str, str | None]] = []
        self.progress: dict[Key, Progress] = {}
        self.is_open = False
        self._taken: list[tuple[str, str | None]] = []

    async def open(self, plan: Plan) -> Plan:
        assert not self.is_open
        self.is_open = True
        self._taken = []
        self.plan = plan_in_force(self.plan, plan, grow=False, path="memory")
        return self.plan

    async def load(self) -> Mapping[Key, Progress]:
        return self.progress

    async def write(self, page: AccountPage[Any]) -> None:
        self._taken += [(page.account.id, item.id) for item in page.page]

    async def commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> bool:
        self.rows += self._taken
        self._taken = []
        self.progress |= changes
        return True

    async def aclose(self) -> None:
        self.is_open = False


def test_a_store_of_five_methods_is_enough() -> None:
    """Whoever lands in a database of their own should not have to read ours."""

    async def scenario() -> None:
        store = MemoryStore()
        assert isinstance(store, TransactionalStore)
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            await run_shard(client, plan, store, on_start=lambda pull: pull.stop())
            report = await client.interactions.pull_to(store, sandbox.account_ids, **BOUNDS)
            assert report.complete
            assert (
                len(store.rows)
                == len(expected(sandbox))
                == sum(each.rows for each in store.progress.values())
            )
            sandbox.clear()
            assert (await run_shard(client, plan, store)).complete
            assert not sandbox.requests
            assert not store.is_open

    run(scenario())


def test_one_method_of_a_store_is_called_at_a_time() -> None:
    """Most of them have one connection, which takes no second statement."""

    class Alone(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.fingerprints: dict[Key, bytes] = {}
            self.is_busy = False

        @asynccontextmanager
        async def alone(self) -> AsyncGenerator[None]:
            assert not self.is_busy
            self.is_busy = True
            for _ in range(5):
                await asyncio.sleep(0)
            yield
            self.is_busy = False

        async def write(self, page: AccountPage[Any]) -> None:
            async with self.alone():
                await super().write(page)

        async def commit(self, changes: Mapping[Key, Progress], **how: Any) -> bool:
            async with self.alone():
                for key, added in how["row_fingerprints"].items():
                    self.fingerprints[key] = self.fingerprints.get(key, b"") + added
                return await super().commit(changes, **how)

        async def row_fingerprints(self, key: Key) -> bytes:
            async with self.alone():
                return self.fingerprints.get(key, b"")

    async def scenario() -> None:
        store = Alone()
        async with service(accounts=4) as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            pull: Pull[Any] = Pull(client, plan, checkpoint=store, commit="manual")
            async with pull as pages:
                async for page in pages:
                    if pages.report.pages in (5, 12, 20):
                        sandbox.expire_cursors()
                    await pages.write(page)
            assert pull.report.complete
            assert len(store.rows) == len(expected(sandbox))

    run(scenario())


def test_a_store_that_postpones_is_asked_again_and_one_that_fails_ends_the_pull() -> None:
    class Failing(MemoryStore):
        asked = 0

        async def commit(self, changes: Mapping[Key, Progress], **how: Any) -> bool:
            self.asked += 1
            if self.asked == 2:
                raise StorageError("no more room")
            return bool(how["final"]) and await super().commit(changes, **how)

    async def scenario() -> None:
        store = Failing()
        async with service() as sandbox, client_of(sandbox) as client:
            with pytest.raises(StorageError, match="no more room"):
                await client.interactions.pull_to(store, sandbox.account_ids, **BOUNDS)
            assert store.rows == []
            store.asked = 3
            report = await client.interactions.pull_to(store, sandbox.account_ids, **BOUNDS)
            assert report.complete
            assert len(store.rows) == len(expected(sandbox))

    run(scenario())


def test_options_that_go_with_something_else_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            pull_to, accounts = client.interactions.pull_to, sandbox.account_ids
            with pytest.raises(UsageError, match="table"):
                await pull_to(tmp_path, accounts, table="calls", **BOUNDS)
            with pytest.raises(UsageError, match=r"postgresql://.*extra: postgres.*duckdb:///"):
                await pull_to("mysql://root:secret@db/x", accounts, **BOUNDS)
            with pytest.raises(UsageError, match="duckdb:///"):
                await pull_to("duckdb://", accounts, **BOUNDS)
            with pytest.raises(UsageError, match="format"):
                await pull_to("duckdb:///x.db", accounts, format="csv", **BOUNDS)
            with pytest.raises(UsageError, match="neither a folder"):
                await pull_to(7, accounts, **BOUNDS)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="mode"):
                await pull_to("duckdb:///x.db", accounts, mode="replace", **BOUNDS)  # type: ignore[arg-type]
            assert not sandbox.requests

    run(scenario())


@pytest.mark.parametrize("rows", [1, 25])
def test_pages_wait_while_a_store_is_full(
    rows: int, database: DuckDBFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow database would otherwise let a pull fill the memory."""
    monkeypatch.setattr(landing, "FULL_ROWS", rows)
    most: list[int] = []

    class Counting(DuckDBStore):
        async def write(self, page: AccountPage[Any]) -> None:
            await super().write(page)
            most.append(self._rows)

    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            assert (await run_shard(client, plan, Counting(database.path))).complete
            assert rows_in(database) == expected(sandbox)
            assert max(most) < rows + 10

    run(scenario())


# --- what the databases share ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "shown", "password"),
    [
        ("postgresql://u:secret@h:5432/db", "postgresql://u:***@h:5432/db", "secret"),
        ("postgresql://u:se%40cret@h/db", "postgresql://u:***@h/db", "se@cret"),
        ("postgresql://u:secret@/w?or:d@h/db", "postgresql://u:***@h/db", "secret@/w?or:d"),
        (
            "postgresql:///db?host=/tmp&password=secret&x=1",
            "postgresql:///db?host=/tmp&password=***&x=1",
            "secret",
        ),
        ("host=h password='secret word' dbname=db", "host=h password=*** dbname=db", "secret word"),
        ("postgresql://u@h/db", "postgresql://u@h/db", ""),
    ],
)
def test_a_password_is_shown_nowhere(dsn: str, shown: str, password: str) -> None:
    found = Dsn(dsn)
    assert str(found) == shown
    assert repr(found) == repr(shown)
    told = found.redact(f"invalid dsn {dsn}: near {password!r}")
    assert told == f"invalid dsn {shown}: near {'***' if password else ''!r}"


def test_a_url_of_something_else_is_told_without_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        store_for("mysql://root:secret@db/x", resource="interactions")
    assert "secret" not in str(caught.value)


def unescape(field: str) -> str | None:
    if field == "\\N":
        return None
    for code, character in (("\\n", "\n"), ("\\r", "\r"), ("\\t", "\t")):
        field = field.replace("\\\\", "\0").replace(code, character).replace("\0", "\\\\")
    return field.replace("\\\\", "\\")


@examples(50)
@given(st.lists(st.none() | st.text(), max_size=5))
@example(["\\N", None, "", "\\", "\\n", "a\tb\nc\rd", "\0"])
def test_text_for_copy_comes_back(values: list[str | None]) -> None:
    """COPY takes a backslash, a tab or a line break in a value for its own."""
    text = copy_text(ColumnData(Schema("x", Column("a", "text")), [values], len(values)))
    assert [unescape(line[:-1]) for line in text.lines] == [
        None if value is None else value.replace("\0", "\ufffd") for value in values
    ]
    assert len(text.changed) == sum("\0" in (value or "") for value in values)


def without_nulls(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    if isinstance(value, dict):
        return {without_nulls(name): without_nulls(each) for name, each in value.items()}
    return value


JSON = st.recursive(st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@examples(50)
@given(JSON)
@example("\0 \\u0000 \\\0 \U0001f600")
def test_json_is_cleaned_of_null_characters_alone(value: object) -> None:
    text = json.dumps(value)
    cleaned = clean_json(text)
    assert json.loads(cleaned) == without_nulls(value)
    assert cleaned is text or "\\u0000" in text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (r'"\u0000"', r'"\ufffd"'),
        (r'"\\u0000"', r'"\\u0000"'),
        (r'"\\\u0000"', r'"\\\ufffd"'),
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"'),
        (r'"\ud83d\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
        (r'"\uDE00\ud83d"', r'"\ufffd\ufffd"'),
    ],
)
def test_escapes_that_no_database_takes(text: str, cleaned: str) -> None:
    assert clean_json(text) == cleaned


def test_the_last_row_of_each_key_counts() -> None:
    key = MERGE_KEYS["interactions"]
    names = ("integrated_account_id", "window_start", "window_end", "id", "user_id")
    rows = [
        ("a", 1, 2, "1", "u"),
        ("a", 2, 3, "1", "u"),  # another window
        ("a", 1, 2, None, "u"),
        ("a", 1, 2, None, None),
        ("a", 1, 2, "1", None),  # the first one again
        ("b", 1, 2, "1", "u"),
        ("a", 1, 2, None, None),  # without a key
        ("a", 1, 2, "u", None),  # an id, and no user's
        ("a", 1, 2, None, "u"),
    ]
    assert key.last_ones(names, list(zip(*rows, strict=True))) == [1, 3, 4, 5, 6, 7, 8]
    assert key.last_ones(names, list(zip(*rows[:2], strict=True))) is None


def test_every_difference_of_a_table_is_told() -> None:
    schema = Schema("x", Column("id", "text"), Column("score", "float64"), Column("at", "timestamp"))
    found = [FoundColumn("id", "uuid"), FoundColumn("at", "T"), FoundColumn("own", "int", is_needed=True)]
    types = dict.fromkeys(("text", "float64", "timestamp"), "T")

    def compare(add_columns: bool) -> list[str]:
        return missing_columns(
            schema,
            found,
            table="t",
            types=types,  # type: ignore[arg-type]
            fits=lambda wanted, type: type == "T",
            add_columns=add_columns,
        )

    with pytest.raises(StateConflictError) as caught:
        compare(False)
    assert str(caught.value).splitlines()[1:] == [
        "  id is uuid, not T",
        "  own takes no null and has no default, and a pull has no such column",
        "  score (T) is missing: add it, or pass add_columns=True",
    ]
    del found[2], found[0]
    found.append(FoundColumn("id", "T"))
    assert compare(True) == ["score"]


# --- DuckDB ----------------------------------------------------------------------------------------------------


class DuckDBFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"duckdb:///{path}"

    def sql(self, statement: str) -> list[Any]:
        with duckdb.connect(str(self.path)) as database:
            found: list[Any] = database.execute(statement).fetchall()
        return found


@pytest.fixture
def database(tmp_path: Path) -> DuckDBFile:
    return DuckDBFile(tmp_path / "calls.db")


CHECKS = {
    name.removeprefix("check_"): check for name, check in vars(landings).items() if name.startswith("check_")
}


@pytest.mark.parametrize("check", CHECKS)
def test_duckdb(check: str, database: DuckDBFile) -> None:
    run(CHECKS[check](database))


SYNCS = {
    name.removeprefix("check_"): check for name, check in vars(syncs).items() if name.startswith("check_")
}


# The others of these take seconds.
QUICK_SYNCS = {
    "five_nights_of_interactions",
    "a_second_run_asks_little_and_changes_nothing",
    "a_window_that_fails_in_the_middle_takes_nothing_away",
    "pages_of_an_open_window_are_out_of_sight",
    "a_meeting_that_moved_is_there_once",
    "a_refused_row_takes_no_other_with_it",
    "a_meeting_belongs_to_the_window_it_starts_in",
    "a_transcript_stays_until_all_of_its_window_is_read",
    "each_table_has_marks_of_its_own",
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(name, marks=[] if name in QUICK_SYNCS else [pytest.mark.long]) for name in SYNCS],
)
def test_duckdb_sync(check: str, database: DuckDBFile) -> None:
    run(SYNCS[check](database))


def test_another_process_that_has_the_file_open_is_named(database: DuckDBFile) -> None:
    """DuckDB lets one process write to a file; somebody has it open in a notebook."""
    program = (
        "import duckdb, sys; d = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(database.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StateConflictError, match=f"PID {other.pid}"):
            run(landing_store(database.url).open(plan_of()))
        other.communicate(timeout=10)
    store = landing_store(database.url)

    async def open_and_close() -> None:
        await store.open(plan_of())
        await store.aclose()

    run(open_and_close())


def test_a_full_disk_is_told_and_loses_nothing(database: DuckDBFile) -> None:
    """What was committed before is there, and a later run goes on after it."""
    pages = [[interaction(f"{page}/{row}", timezone="x" * 5000) for row in range(200)] for page in range(20)]

    async def write(first: int) -> int:
        store = landing_store(database.url)
        await store.open(plan_of())
        stored = await store.load()
        done = stored[("a", 0)].pages if stored else 0
        assert done >= first
        try:
            for number in range(done, len(pages)):
                await store.write(page_of(pages[number]))
                outcome: Any = "done" if number + 1 == len(pages) else "open"
                changes = {("a", 0): Progress(rows=200 * (number + 1), pages=number + 1, outcome=outcome)}
                await store.commit(changes, row_fingerprints={("a", 0): b"12345678"}, final=False)
                done = number + 1
        except StorageError:
            return done
        finally:
            await store.aclose()
        return done

    with file_size_limit(3 * 2**20):
        done = run(write(0))
    assert done < len(pages)
    assert run(write(done)) == len(pages)
    assert database.sql("SELECT count(*), count(DISTINCT id) FROM interactions") == [(4000, 4000)]


@pytest.fixture(scope="module")
def killing() -> Iterator[tuple[Runs, Sandbox]]:
    options = {"token_rate": None, "account_rate": None, "ratelimit_headers": None}
    with Runs() as runs, Sandbox.in_thread(accounts=2, interactions=20, page_size=5, **options) as sandbox:
        yield runs, sandbox


@posix
@pytest.mark.long
@pytest.mark.parametrize("mode", ["merge", "append"])
def test_duckdb_killed_at_each_step(mode: str, database: DuckDBFile, killing: tuple[Runs, Sandbox]) -> None:
    """Nothing is lost and nothing is there twice."""
    case = Killing(*killing, database, mode)
    case.at_each_step(1)
    assert case.kills >= 5


@posix
@pytest.mark.long
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_duckdb_killed_at_random(mode: str, database: DuckDBFile, killing: tuple[Runs, Sandbox]) -> None:
    Killing(*killing, database, mode).at_random(100)


@pytest.fixture
def nights(database: DuckDBFile) -> Iterator[syncs.KilledNights]:
    clock = syncs.Clock()
    with Runs() as runs, syncs.killed_service(clock) as sandbox:
        for account in sandbox.account_ids:
            sandbox.configure(account, settling=syncs.SETTLING)
        yield syncs.KilledNights(runs, sandbox, clock, database)


@posix
@pytest.mark.long
@pytest.mark.parametrize("resource", ["interactions", "meetings"])
def test_a_duckdb_sync_killed_at_each_step(resource: str, nights: syncs.KilledNights) -> None:
    nights.resource = resource
    nights.at_each_step(times=5)
    assert nights.kills >= 25


@posix
@pytest.mark.long
@pytest.mark.parametrize("resource", ["interactions", "meetings"])
def test_a_duckdb_sync_killed_at_random(resource: str, nights: syncs.KilledNights) -> None:
    nights.resource = resource
    nights.at_random(100)

"""The source for dlt: tables equal to what the service holds, whatever ended the run before."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.landings import interaction, page_of
from tests.postgres_server import PostgresServer
from tests.pull_runs import Ran, Runs, serve
from truto_ci_async import (
    Activity,
    Fault,
    Interaction,
    Meeting,
    MeetingRef,
    MissingExtraError,
    Pacing,
    Sandbox,
    Transcript,
    TrutoClient,
    User,
    Window,
    schema,
)
from truto_ci_async.integrations.dlt import KeyedRows, source

RESOURCES = {
    "interactions": Interaction,
    "meetings": Meeting,
    "users": User,
    "transcripts": Transcript,
    "activity": Activity,
}
FIRST = date(2024, 1, 1)


def environment(folder: Path) -> dict[str, str]:
    """What keeps dlt to one folder, silent and off the network."""
    return {
        "DLT_DATA_DIR": str(folder),
        "DLT_PROJECT_DIR": str(folder),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "CRITICAL",
    }


def load(job: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline once, in this process; return its state."""
    import dlt

    limit = job["options"].pop("limit", None)
    made = source(
        job["accounts"],
        client=lambda: TrutoClient(job["token"], base_url=job["url"], pacing=Pacing.off()),
        **{"start_time": FIRST.isoformat(), **job["options"]},
        end_time=(FIRST + timedelta(days=job["days"])).isoformat(),
    )
    if limit is not None:
        made.add_limit(limit)
    kind, to = job["to"]
    pipeline = dlt.pipeline(
        "calls",
        destination=getattr(dlt.destinations, kind)(to),
        dataset_name="calls",
        pipelines_dir=str(Path(job["folder"]) / "pipelines"),
    )
    if pipeline.has_pending_data:
        pipeline.run()  # what a run that was killed had ready; dlt loads that alone
    pipeline.run(made)
    found: dict[str, Any] = pipeline.state["sources"]["truto"]["resources"]
    return found


class Pipeline:
    """One pipeline into one database, of the accounts of a sandbox."""

    def __init__(self, sandbox: Sandbox, folder: Path, to: tuple[str, str]) -> None:
        self.sandbox, self.folder, self.to = sandbox, folder, to

    def job(self, days: int, accounts: list[str] | None = None, **options: Any) -> dict[str, Any]:
        return {
            "token": self.sandbox.token,
            "url": self.sandbox.url,
            "accounts": self.sandbox.account_ids if accounts is None else accounts,
            "folder": str(self.folder),
            "to": self.to,
            "days": days,
            "options": options,
        }

    def run(self, days: int, accounts: list[str] | None = None, **options: Any) -> dict[str, Any]:
        return load(self.job(days, accounts, **options))

    def sql(self, statement: str) -> list[Any]:
        if self.to[0] == "duckdb":
            import duckdb

            with duckdb.connect(self.to[1], read_only=True) as connection:
                return connection.execute(statement).fetchall()
        import psycopg

        with psycopg.connect(self.to[1]) as connection:
            return connection.execute(statement.encode()).fetchall()

    def requests(self, resource: str) -> set[tuple[str, str]]:
        """Return the accounts and starts that were asked since the sandbox was cleared."""
        return {
            (request.query["integrated_account_id"], request.query.get("start_time", "")[:10])
            for request in self.sandbox.requests
            if request.path.endswith(f"/{resource}")
        }


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture
def to(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if getattr(request, "param", "duckdb") == "duckdb":
        return "duckdb", str(tmp_path / "file.db")
    import psycopg

    running = request.getfixturevalue("server")
    name = f"t{abs(hash(request.node.nodeid))}"
    with psycopg.connect(running.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return "postgres", running.url(name)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.in_thread(**QUICK) as running:
        yield running


@pytest.fixture
def pipeline(
    sandbox: Sandbox, tmp_path: Path, to: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> Pipeline:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return Pipeline(sandbox, tmp_path, to)


QUICK: dict[str, Any] = {
    "accounts": 2,
    "interactions": 40,
    "page_size": 10,
    "token_rate": None,
    "account_rate": None,
    "ratelimit_headers": None,
}


def days_of(first: int, last: int) -> list[str]:
    return [(FIRST + timedelta(days=each)).isoformat() for each in range(first, last)]


def held(sandbox: Sandbox, resource: str, days: list[str], accounts: list[str] | None = None) -> list[Any]:
    """Return account, first day of the window and id of every row that the sandbox has of these days."""
    found: list[Any] = []
    for account in accounts or sandbox.account_ids:
        if resource == "users":
            found += [(account, None, row["id"]) for row in sandbox.expected(account, resource="users")]
            continue
        for day in days:
            end = (date.fromisoformat(day) + timedelta(days=1)).isoformat()
            window = {"start_time": f"{day}T00:00:00Z", "end_time": f"{end}T00:00:00Z"}
            rows = sandbox.expected(account, resource=RESOURCE_LISTED.get(resource, resource), **window)
            if resource == "transcripts":  # a meeting without a recording has none
                rows = [
                    each for each in rows if sandbox.expected(account, resource=resource, meeting=each["id"])
                ]
            found += [(account, day, row["user"]["id"] if "user" in row else row["id"]) for row in rows]
    return sorted(found, key=str)


RESOURCE_LISTED = {"transcripts": "meetings"}
IDS = {"transcripts": "meeting_id", "users": "id", "meetings": "id"}


def loaded(pipeline: Pipeline, resource: str) -> list[Any]:
    columns = f"integrated_account_id, window_start, {IDS.get(resource, 'user_id')}"
    return sorted(
        (
            (account, start and start.astimezone(UTC).date().isoformat(), id)
            for account, start, id in pipeline.sql(f"SELECT {columns} FROM calls.{resource}")
        ),
        key=str,
    )


def check_equal(pipeline: Pipeline, days: list[str], accounts: list[str] | None = None) -> None:
    for resource in RESOURCES:
        assert loaded(pipeline, resource) == held(pipeline.sandbox, resource, days, accounts), resource


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Find now what a run did not close, and not in the middle of a later test."""
    yield
    gc.collect()


services = pytest.mark.services
everywhere = pytest.mark.parametrize("to", ["duckdb", "postgres"], indirect=True)


@services
@everywhere
def test_every_resource_lands_and_a_second_run_asks_little_and_changes_nothing(pipeline: Pipeline) -> None:
    pipeline.run(6)
    check_equal(pipeline, days_of(0, 6))
    types = dict(
        pipeline.sql(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'calls' AND table_name = 'interactions'"
        )
    )
    assert set(schema(Interaction).names) < set(types)
    assert types["patience"].lower().startswith("double")
    assert types["start_time"].lower() == "timestamp with time zone"
    assert types["remote_data"].lower().startswith("json")

    pipeline.sandbox.clear()
    state = pipeline.run(6)
    check_equal(pipeline, days_of(0, 6))
    for resource in set(RESOURCES) - {"users", "transcripts"}:
        assert pipeline.requests(resource) == {
            (account, day) for account in pipeline.sandbox.account_ids for day in days_of(4, 6)
        }
    assert state["interactions"]["complete_until"] == dict.fromkeys(
        pipeline.sandbox.account_ids, "2024-01-07T00:00:00+00:00"
    )


@services
def test_late_rows_and_new_accounts_come_with_later_runs(pipeline: Pipeline) -> None:
    """The look-back reads days again; a new account begins with the whole history, an old one goes on."""
    sandbox = pipeline.sandbox
    first, second = sandbox.account_ids
    pipeline.run(4, [first], resources=["interactions"])
    state_size = len(json.dumps(pipeline.run(4, [first], resources=["interactions"])))
    before = loaded(pipeline, "interactions")
    sandbox.configure(first, interactions=60)
    sandbox.clear()
    state = pipeline.run(6, resources=["interactions"])
    late = held(sandbox, "interactions", days_of(2, 6), [first])
    old = [row for row in before if row[1] in days_of(0, 2)]
    new = held(sandbox, "interactions", days_of(0, 6), [second])
    assert loaded(pipeline, "interactions") == sorted(old + late + new, key=str)
    asked = {(first, day) for day in days_of(2, 6)} | {(second, day) for day in days_of(0, 6)}
    assert pipeline.requests("interactions") == asked
    assert len(json.dumps(state)) <= state_size + 100, "the state grows with accounts, not with rows"


@services
def test_an_account_that_failed_goes_on_where_it_was(pipeline: Pipeline) -> None:
    """And does not hold up the others; nor is what it already has lost."""
    sandbox = pipeline.sandbox
    good, bad = sandbox.account_ids
    only = {"resources": ["interactions"]}
    pipeline.run(2, **only)
    sandbox.configure(bad, blocked=True)
    state = pipeline.run(5, **only)["interactions"]["complete_until"]
    assert state == {good: "2024-01-06T00:00:00+00:00", bad: "2024-01-03T00:00:00+00:00"}
    expected = held(sandbox, "interactions", days_of(0, 5), [good])
    expected += held(sandbox, "interactions", days_of(0, 2), [bad])
    assert loaded(pipeline, "interactions") == sorted(expected, key=str)
    with pytest.raises(Exception, match="1 accounts failed|blocked"):
        pipeline.run(5, on_failed="raise", **only)
    with pytest.raises(Exception, match="blocked"):
        pipeline.run(5, write_disposition="replace", **only)
    sandbox.configure(bad, blocked=False)
    sandbox.script(bad, [Fault.status(429, retry_after=86400).forever()])
    with pytest.raises(Exception, match="takes no requests of it for now"):
        pipeline.run(5, write_disposition="replace", **only)
    sandbox.clear_faults()
    pipeline.run(5, **only)
    assert loaded(pipeline, "interactions") == held(sandbox, "interactions", days_of(0, 5))


@services
@everywhere
def test_null_characters_do_not_stop_a_load(pipeline: Pipeline) -> None:
    account = pipeline.sandbox.account_ids[0]

    def change(record: Any) -> Any:
        return {**record, "timezone": "a\0b", "remote_data": {"a": "x\0y"}}

    pipeline.sandbox.script(account, [Fault.edit(change).forever()])
    pipeline.run(1, [account], resources=["interactions"])
    pattern = "CAST(remote_data AS VARCHAR)"
    found = pipeline.sql(f"SELECT DISTINCT timezone, {pattern} FROM calls.interactions")
    assert [(zone, json.loads(text)) for zone, text in found] == [("a\ufffdb", {"a": "x\ufffdy"})]


@services
def test_a_long_history_can_be_loaded_in_parts(pipeline: Pipeline) -> None:
    """What dlt's limit leaves out is not taken for loaded."""
    only = {"resources": ["interactions"], "lookback": "0s"}
    sizes = [0]
    while len(sizes) < 10:
        pipeline.run(6, limit=18, **only)
        found = loaded(pipeline, "interactions")
        assert len(found) == len(set(found))
        sizes.append(len(found))
        if found == held(pipeline.sandbox, "interactions", days_of(0, 6)):
            break
    assert 3 <= len(sizes) < 10, sizes


@services
def test_append_and_replace(pipeline: Pipeline) -> None:
    only = {"resources": ["interactions"]}
    for days in (2, 2, 4):
        pipeline.run(days, write_disposition="append", **only)
    assert loaded(pipeline, "interactions") == held(pipeline.sandbox, "interactions", days_of(0, 4))
    for _ in range(2):
        pipeline.run(3, write_disposition="replace", **only)
    assert loaded(pipeline, "interactions") == held(pipeline.sandbox, "interactions", days_of(0, 3))


@services
def test_other_windows_are_refused_and_a_window_that_is_not_over_waits(pipeline: Pipeline) -> None:
    only = {"resources": ["interactions"]}
    pipeline.run(10, window="week", **only)
    assert {row[1] for row in loaded(pipeline, "interactions")} == {"2024-01-01"}
    with pytest.raises(Exception, match="rows of other windows would not replace those of interactions"):
        pipeline.run(10, window="day", **only)


@services
def test_the_token_comes_from_the_configuration_of_dlt(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dlt

    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOURCES__TRUTO__TOKEN", sandbox.token)
    monkeypatch.setenv("SOURCES__TRUTO__BASE_URL", sandbox.url)
    made = source(sandbox.account_ids, resources=["users"])
    assert len(list(made)) == 80
    assert sandbox.token not in repr(made)
    monkeypatch.setenv("SOURCES__TRUTO__TOKEN", "wrong")
    with pytest.raises(Exception, match="token"):
        list(source(sandbox.account_ids, resources=["users"]))
    assert dlt


@services
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resources": ["calls"]}, "there is no pull of 'calls'"),
        ({"on_failed": "retry"}, "on_failed is 'skip' or 'raise', not 'retry'"),
        ({"write_disposition": "append", "lookback": "2d"}, "lookback would load rows twice with 'append'"),
        ({"lookback": "two days"}, "lookback is a length such as '2d', or a timedelta, not 'two days'"),
        ({"resources": "interactions", "start_time": "soon"}, "start_time"),
    ],
)
def test_options_that_can_never_be_right_are_told(
    pipeline: Pipeline, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(Exception, match=told):
        pipeline.run(2, **options)


class Unlucky(TrutoClient):
    """Has no interactions, and takes many turns of the loop to close, as on a busy machine."""

    @property
    def interactions(self) -> Any:
        raise LookupError("no interactions")

    async def aclose(self) -> None:
        for _ in range(1000):
            await asyncio.sleep(0)
        await super().aclose()


@services
def test_a_run_that_fails_closes_the_client(pipeline: Pipeline) -> None:
    """Though dlt cancels the resource that waits for a response, and does not wait for it to end."""
    sandbox, made = pipeline.sandbox, list[TrutoClient]()

    def client() -> TrutoClient:
        made.append(Unlucky(sandbox.token, base_url=sandbox.url, pacing=Pacing.off()))
        return made[-1]

    for account in sandbox.account_ids:
        sandbox.script(account, [Fault.hang().forever()])
    with pytest.raises(Exception, match="no interactions"):
        list(source(sandbox.account_ids, resources=["meetings", "interactions"], client=client))
    assert [repr(each) for each in made] == [f"<Unlucky {sandbox.url} token=*** closed>"]


# --- kills -------------------------------------------------------------------------------------------------------


def killed_at_random(pipeline: Pipeline, kills: int) -> None:
    """Kill runs of longer and longer spans until enough were killed, and count after each that ended."""
    seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    days, killed = 2, 0
    try:
        with Runs("tests.test_dlt") as runs:
            while killed < kills:
                ran: Ran = runs.run(**pipeline.job(days), kill_after=rng.uniform(0.1, 4.0))
                assert ran.is_killed or ran.status == 0, ran
                killed += ran.is_killed
                if not ran.is_killed:
                    check_equal(pipeline, days_of(0, days))
                    days += 1
            assert runs.run(**pipeline.job(days)).status == 0
        check_equal(pipeline, days_of(0, days))
    except BaseException as error:
        error.add_note(f"again with: KILL_SEED={seed}")
        raise


@services
@everywhere
def test_a_run_that_is_killed_and_run_again_loses_and_doubles_nothing(pipeline: Pipeline) -> None:
    killed_at_random(pipeline, 3)


@services
@pytest.mark.long
@everywhere
def test_many_runs_that_are_killed_lose_and_double_nothing(pipeline: Pipeline) -> None:
    killed_at_random(pipeline, 60)


# --- without dlt -------------------------------------------------------------------------------------------------


def test_without_dlt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlt", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'truto-ci-async\[dlt\]'"):
        source(["a"])


def test_rows_have_a_key_whatever_they_lack() -> None:
    """A row without an id keeps its key when its window is read again, and is not taken for another."""
    items = [
        interaction("1", "u"),
        interaction(None, "u"),
        interaction(None),
        interaction(None),
        interaction(None, timezone="x"),
    ]
    keys: list[list[str]] = []
    for _ in range(2):
        rows = KeyedRows("interactions", schema(Interaction))
        keys.append([row["row_key"] for page in (items, items[2:3]) for row in rows.of(page_of(page))])
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == len(keys[0])
    assert keys[0][:2] == ["id:1", "user_id:u"]
    rows = KeyedRows("interactions", schema(Interaction))
    january, february = rows.of(page_of(items[2:3])), rows.of(page_of(items[2:3], FEBRUARY))
    assert january[0]["row_key"] == february[0]["row_key"], "each window counts from one"
    assert january[0]["window_start"] == datetime(2024, 1, 1, tzinfo=UTC)
    transcript = Transcript(id="t", meeting=MeetingRef(id="m"))
    [row] = KeyedRows("transcripts", schema(Transcript)).of(page_of([transcript]))
    assert row["row_key"] == "meeting_id:m"


FEBRUARY = Window("2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z")

if __name__ == "__main__":
    os.environ.update({"RUNTIME__DLTHUB_TELEMETRY": "false"})
    import duckdb  # noqa: F401
    import psycopg2  # noqa: F401

    serve(load)

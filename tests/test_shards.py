"""The shards of a plan as units of work: one folder or table for all of them, whoever pulls which."""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import truto_ci_async
from tests.landings import BOUNDS, Row, client_of, expected, service
from tests.support import run
from truto_ci_async import (
    DamagedStateError,
    DuckDBStore,
    Plan,
    PlannedAccount,
    Progress,
    Pull,
    PullReport,
    Sandbox,
    StateConflictError,
    TrutoClient,
    TrutoError,
    UsageError,
    merge_manifests,
    pull_plan,
    read_folder,
)
from truto_ci_async import _lock as locks
from truto_ci_async._lock import RunLock
from truto_ci_async.pull import shard_folder, shards
from truto_ci_async.pull.shard_folder import Epoch, ShardCheckpoint, open_shard
from truto_ci_async.sinks.factory import OutputFormat
from truto_ci_async.sinks.layout import shard_folder as shard_layout
from truto_ci_async.sinks.layout import state_file


async def plan_of(client: TrutoClient, sandbox: Sandbox, **options: Any) -> Plan:
    return await client.interactions.plan(sandbox.account_ids, **(BOUNDS | options))


async def pull_all(client: TrutoClient, plan: Plan, out: Any, count: int, **options: Any) -> list[PullReport]:
    return [await pull_plan(client, plan, out, shard=(at, count), **options) for at in range(count)]


def rows_of(folder: Path) -> list[Row]:
    columns = read_folder(folder).data(["integrated_account_id", "window_start", "user_id"]).values
    return sorted((row[0], row[1].date().isoformat(), row[2]) for row in zip(*columns, strict=True))


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_shards_in_one_folder_are_the_whole(format: OutputFormat, tmp_path: Path) -> None:
    """Each is complete on its own, and asks for nothing when it is run again."""

    async def scenario() -> None:
        async with service(accounts=5, interactions=20) as sandbox, client_of(sandbox) as client:
            plan = await plan_of(client, sandbox)
            await pull_plan(client, plan, tmp_path, shard=(0, 3), format=format)
            assert not merge_manifests(tmp_path)
            assert not read_folder(tmp_path).complete
            reports = await pull_all(client, plan, tmp_path, 3, format=format)
            assert all(report.complete for report in reports)
            assert merge_manifests(tmp_path)
            assert read_folder(tmp_path).complete
            assert rows_of(tmp_path) == expected(sandbox)
            sandbox.clear()
            assert (
                sum(report.rows for report in await pull_all(client, plan, tmp_path, 3, format=format)) == 0
            )
            assert not sandbox.requests
            with pytest.raises(StateConflictError, match="rows of an earlier pull"):
                await client.interactions.pull_to(tmp_path, plan, format=format)

    run(scenario())


def test_a_relative_time_means_the_same_for_all_shards(tmp_path: Path) -> None:
    """The first shard to come fixes it, and a worker that plans anew goes on with that."""

    async def scenario() -> None:
        async with service(accounts=4, interactions=4) as sandbox, client_of(sandbox) as client:
            options = {"start_time": "-7d", "end_time": None, "window": None}
            now = datetime(2024, 3, 1, tzinfo=UTC)
            first = await plan_of(client, sandbox, **options, now=now)
            later = await plan_of(client, sandbox, **options, now=now + timedelta(days=1))
            assert first.windows != later.windows
            await pull_plan(client, first, tmp_path, shard=(0, 2))
            assert (await pull_plan(client, later.shards(2)[1], tmp_path)).complete
            kept, _, _ = open_shard(tmp_path, later.shards(2)[1])
            assert kept.windows == first.windows

    run(scenario())


def test_another_plan_or_number_of_shards_is_refused_with_the_way_to_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await plan_of(client, sandbox)
            await pull_plan(client, plan, tmp_path, shard=(0, 3))
            sandbox.clear()
            with pytest.raises(StateConflictError, match=r"Go on with shard=\(index, 3\)"):
                await pull_plan(client, plan, tmp_path, shard=(0, 2))
            other = await plan_of(client, sandbox, window="week")
            with pytest.raises(StateConflictError, match="window is"):
                await pull_plan(client, other, tmp_path, shard=(1, 3))
            more = await client.interactions.plan([*sandbox.account_ids, "one-more"], **BOUNDS)
            number = next(at for at, part in enumerate(more.shards(3), 1) if "one-more" in str(part.accounts))
            if number == 1:
                with pytest.raises(StateConflictError, match="grow=True"):
                    await pull_plan(client, more, tmp_path, shard=(0, 3))
            assert not sandbox.requests

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shard": (-1, 2)}, "counted from 0"),
        ({"shard": (2, 2)}, "counted from 0"),
        ({"shard": 2}, "counted from 0"),
        ({"shard": (1, 2), "out": ""}, "folder is empty"),
        ({"shard": (1, 2), "out": 5}, "neither a folder"),
        ({"shard": (1, 2), "out": "duckdb:///a.db"}, "give each a store of its own"),
        ({"shard": (1, 2), "table": "calls"}, "for the URL of a database"),
        ({"shard": (1, 2), "out": "postgresql://h/d", "format": "csv"}, "for a folder"),
        ({"shard": (1, 2), "format": "csv", "part_seconds": 5}, "part_seconds is for parquet, not for csv"),
        ({"shard": (1, 2), "out": "postgresql://h/d", "part_seconds": 5}, "part_seconds is for Parquet"),
        (
            {"shard": (1, 2), "out": DuckDBStore(":memory:"), "part_seconds": 5},
            "part_seconds: for a folder or",
        ),
        ({"plan": ["a"]}, "takes a Plan"),
        ({"shard": (True, 2)}, "counted from 0, not .True"),
        ({"client": None}, "client takes a TrutoClient, not None"),
        ({"client": TrutoClient}, "client takes a TrutoClient, not <class"),
        ({"on_progress": "print"}, "on_progress takes a function, not 'print'"),
        ({"on_start": 3}, "on_start takes a function, not 3"),
        ({"budget": "x"}, "budget takes a Budget, not 'x'"),
    ],
)
def test_what_can_never_work_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    plan = Plan(accounts=(PlannedAccount("a"),))

    async def scenario() -> None:
        async with TrutoClient("t", base_url="http://127.0.0.1:9") as client:
            with pytest.raises(UsageError, match=message):
                await pull_plan(**({"client": client, "plan": plan, "out": tmp_path / "out"} | arguments))
            with pytest.raises(UsageError, match="shard .* already"):
                await pull_plan(client, plan.shards(2)[0], tmp_path, shard=(1, 2))

    run(scenario())


def test_a_pull_that_fails_before_it_is_open_neither_hangs_nor_leaves_a_stream_open() -> None:
    async def pull() -> None:
        async with Pull(object(), Plan(accounts=())):  # type: ignore[arg-type]
            raise AssertionError

    with pytest.raises(AttributeError, match="emitter"):
        run(pull())
    gc.collect()  # what is still open is a warning, and so an error


def test_a_store_for_a_shard_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await plan_of(client, sandbox)
            for at in (0, 1):
                store = DuckDBStore(tmp_path / f"{at}.db")
                assert (await pull_plan(client, plan, store, shard=(at, 2))).complete
            assert (await pull_plan(client, plan, f"duckdb:///{tmp_path}/all.db")).complete

    run(scenario())


@pytest.mark.parametrize("has_links", [True, False])
def test_the_first_of_two_plans_counts(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards that begin at once both found none."""
    if not has_links:

        def refuse(*_: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr("os.link", refuse)
    for text in (b"first", b"second"):
        shard_folder._publish_new(tmp_path / "plan", text)
    assert (tmp_path / "plan").read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["plan"]


# --- epochs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["ndjson", "parquet"])
def test_a_run_believed_dead_can_write_no_more(format: OutputFormat, tmp_path: Path) -> None:
    """Its locks were lost, as when its machine could not be reached for a while, and another one took its shard."""

    async def scenario() -> None:
        async with service(accounts=3, interactions=60) as sandbox, client_of(sandbox) as client:
            plan = (await plan_of(client, sandbox)).shards(1)[0]
            _, folder, other = open_shard(tmp_path, plan)
            taken: list[asyncio.Task[dict[str, int]]] = []

            async def take(pull: Pull[Any]) -> dict[str, int]:
                while pull.report.pages < 3:
                    await asyncio.sleep(0)
                await asyncio.to_thread(other.take)
                await asyncio.to_thread(lambda: None)
                return committed(folder)

            with pytest.raises(StateConflictError, match="another attempt has taken over"):
                await pull_plan(
                    client,
                    plan,
                    tmp_path,
                    format=format,
                    on_start=lambda pull: taken.append(asyncio.create_task(take(pull))),
                )
            assert committed(folder) == await taken[0]
            assert (await pull_plan(client, plan, tmp_path, format=format)).complete
            assert merge_manifests(tmp_path)
            assert rows_of(tmp_path) == expected(sandbox)

    run(scenario())


def committed(folder: Path) -> dict[str, int]:
    found = folder.rglob("*")
    return {
        path.name: path.stat().st_size
        for path in found
        if path.name in ("manifest.json", "part-000001.parquet")
    }


def test_an_epoch_is_checked_at_every_step(tmp_path: Path) -> None:
    steps: list[str] = []
    first, second = (Epoch(tmp_path / "epoch", steps.append) for _ in range(2))
    first.step("before it is taken")
    first.take()
    first.step("write")
    second.take()
    with pytest.raises(StateConflictError, match="another attempt has taken over"):
        first.step("rename")
    second.step("rename")
    (tmp_path / "epoch").unlink()
    with pytest.raises(StateConflictError):
        second.step("fsync")
    assert steps[0] == "before it is taken"


def test_progress_is_not_committed_once_a_later_attempt_has_begun(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = (Epoch(tmp_path / "epoch") for _ in range(2))
        checkpoint = ShardCheckpoint(tmp_path / "state", first)
        await checkpoint.hold()
        await checkpoint.open(Plan(accounts=(PlannedAccount("a"),)))
        await checkpoint.commit({("a", 0): Progress(rows=1)})
        await asyncio.to_thread(second.take)
        with pytest.raises(StateConflictError, match="another attempt has taken over"):
            await checkpoint.commit({("a", 0): Progress(rows=2)})
        assert await checkpoint.load() == {("a", 0): Progress(rows=1)}
        await checkpoint.aclose()

    run(scenario())


def test_a_lock_of_a_machine_that_is_gone_is_removed_where_it_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(Plan(accounts=(PlannedAccount("a"),)), shard=(1, 1))
    _, folder, _ = open_shard(tmp_path, plan)
    lock = folder / ".truto-pull.lock"
    lock.write_text('{"pid":1,"host":"gone","since":"2024-01-01"}')
    open_shard(tmp_path, plan)
    assert lock.exists()  # this file system has locks: the system says who holds it
    monkeypatch.setattr(locks, "unshared_locks", lambda mounts, device: "nfs with nolock")
    open_shard(tmp_path, plan)
    assert not lock.exists()
    lock.write_text(f'{{"pid":1,"host":"{socket.gethostname()}","since":"2024-01-01"}}')
    open_shard(tmp_path, plan)
    assert lock.exists()


def test_one_attempt_at_a_shard_at_a_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await plan_of(client, sandbox)
            _, folder, _ = open_shard(tmp_path, plan.shards(1)[0])
            lock = RunLock(folder, folder / ".truto-pull.lock")
            lock.acquire()
            with pytest.raises(StateConflictError, match="in use"):
                await pull_plan(client, plan, tmp_path, shard=(0, 1))
            lock.release()
            assert (await pull_plan(client, plan, tmp_path, shard=(0, 1))).complete

    run(scenario())


def test_rows_of_a_shard_whose_state_is_gone_stay_also_if_they_are_not_listed(tmp_path: Path) -> None:
    """As when a worker is killed before its first manifest with rows, and its state is lost."""

    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await plan_of(client, sandbox)
            assert (await pull_plan(client, plan, tmp_path)).complete
            folder = tmp_path / "shard-00001-of-00001"
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["resources"]["interactions"] |= {"rows": 0, "bytes": 0, "parts": []}
            (folder / "manifest.json").write_text(json.dumps(manifest))
            (folder / ".truto-pull.sqlite3").unlink()
            rows = (folder / "interactions.ndjson").read_bytes()
            with pytest.raises(StateConflictError, match=r"more than manifest\.json lists"):
                await pull_plan(client, plan, tmp_path)
            assert (folder / "interactions.ndjson").read_bytes() == rows

    run(scenario())


def test_a_refused_shard_is_not_told_of_an_argument_that_is_not_there(tmp_path: Path) -> None:
    """``pull_plan`` has no ``fresh``: another shard may be pulled into the same place by now."""

    async def scenario() -> None:
        async with service(accounts=2, interactions=5) as sandbox, client_of(sandbox) as client:
            plan = await plan_of(client, sandbox)
            await pull_plan(client, plan, tmp_path, shard=(0, 1))
            folder = tmp_path / shard_layout(1, 1)
            rows = folder / "interactions.ndjson"
            rows.write_bytes(rows.read_bytes()[:-1])
            with pytest.raises(DamagedStateError, match=r"or start over in another folder or table$"):
                await pull_plan(client, plan, tmp_path, shard=(0, 1))
            (folder / state_file("interactions")).unlink()
            with pytest.raises(
                StateConflictError, match=r"or start over in another folder or table$"
            ) as caught:
                await pull_plan(client, plan, tmp_path, shard=(0, 1))
            assert "fresh" not in caught.value.message

    run(scenario())


def test_every_message_names_starting_over_in_the_same_way() -> None:
    """Those of shards name another way instead, so they have to be recognised."""
    told = [
        text
        for path in Path(truto_ci_async.__file__).parent.rglob("*.py")
        for text in messages(path)
        if "fresh=True" in text and text != shards._START_OVER
    ]
    assert len(told) > 8
    for text in told:
        error = TrutoError(text)
        shards.advise_another_place(error)
        assert "fresh" not in error.message
        assert error.args == (error.message,)


def messages(path: Path) -> Iterator[str]:
    """The texts in a file that are no docstrings, with ``{}`` for values."""
    tree = ast.parse(path.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            parts.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def test_a_failure_to_tell_how_a_pull_goes_is_logged_once_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Like that of a hook of events. Telling goes on: the engine may be there again a second later."""
    monkeypatch.setattr(shards, "TELL_SECONDS", 0.0)
    told = list[PullReport]()

    def tell(report: PullReport) -> None:
        told.append(report)
        raise ConnectionError("the engine does not answer")

    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await plan_of(client, sandbox)
            assert (await pull_plan(client, plan, tmp_path, on_progress=tell)).complete

    run(scenario())
    assert len(told) > 1
    (logged,) = (each for each in caplog.records if each.levelname == "WARNING")
    assert "on_progress failed" in logged.getMessage()
    assert logged.exc_info is not None


# --- manifests -------------------------------------------------------------------------------------------------


def test_what_is_no_folder_of_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no shards"):
        merge_manifests(tmp_path)
    shard = tmp_path / "shard-00001-of-00001"
    shard.mkdir()
    (shard / "manifest.json").write_text("{}")
    with pytest.raises(DamagedStateError):
        merge_manifests(tmp_path)


def test_shards_of_two_resources_in_one_folder(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            await pull_all(client, await plan_of(client, sandbox), tmp_path, 2)
            await pull_all(client, await client.users.plan(sandbox.account_ids), tmp_path, 3, format="csv")
            await client.meetings.pull_to(tmp_path, sandbox.account_ids, start_time="2024-01-01")
            assert merge_manifests(tmp_path)
            for resource in ("interactions", "users", "meetings"):
                assert read_folder(tmp_path, resource).complete
                assert len(read_folder(tmp_path, resource).to_arrow())

    run(scenario())

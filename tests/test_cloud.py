"""Parquet in object storage, in a store in memory: commits, epochs, what readers see, and what can go wrong."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Any
from zlib import crc32

import pytest
from msgspec.structs import replace

from tests import landings, syncs
from tests.buckets import BucketTables
from tests.landings import (
    BOUNDS,
    FEBRUARY,
    JANUARY,
    Row,
    client_of,
    expected,
    interaction,
    page_of,
    plan_of,
    service,
)
from tests.support import run
from truto_ci_async import (
    CloudStore,
    DamagedStateError,
    Meeting,
    MissingExtraError,
    Progress,
    ReadWindow,
    StateConflictError,
    StorageError,
    SyncChanges,
    TransactionalStore,
    UsageError,
    run_shard,
)
from truto_ci_async.pull.stores import cloud_state
from truto_ci_async.pull.stores.cloud_state import Names, read_manifest
from truto_ci_async.pull.stores.object_storage import Bucket, ConditionFailedError
from truto_ci_async.pull.stores.targets import store_for
from truto_ci_async.pull.sync.plan import header_of
from truto_ci_async.reports.cloud_file import CloudFile
from truto_ci_async.reports.read_folder import CloudFolder

obstore = pytest.importorskip("obstore")
parquet = pytest.importorskip("pyarrow.parquet")
from obstore.store import MemoryStore  # noqa: E402

PREFIX = "calls/2024"
NAMES = Names("interactions")


def store_in(memory: Any, **options: Any) -> CloudStore:
    return CloudStore(store=memory, prefix=PREFIX, **options)


def objects(memory: Any, under: str = "") -> dict[str, int]:
    """Return the names of all objects below the prefix, and their sizes."""
    listed = obstore.list(memory, PREFIX).collect()
    names = {each["path"].removeprefix(f"{PREFIX}/"): each["size"] for each in listed}
    return {name: size for name, size in names.items() if name.startswith(under)}


def get(memory: Any, name: str) -> bytes:
    return bytes(obstore.get(memory, f"{PREFIX}/{name}").bytes())


def manifest_of(memory: Any) -> cloud_state.Manifest:
    return read_manifest(get(memory, NAMES.manifest))


def plain_rows(memory: Any) -> list[Row]:
    """Return what a reader sees that takes all files of the folder."""
    tables = [parquet.read_table(io.BytesIO(get(memory, name))) for name in objects(memory, "interactions/")]
    return sorted(
        (row["integrated_account_id"], row["window_start"].date().isoformat(), row["user_id"])
        for table in tables
        for row in table.select(["integrated_account_id", "window_start", "user_id"]).to_pylist()
    )


def folder_in(memory: Any, resource: str = "interactions") -> CloudFolder:
    return CloudFolder(Bucket(None, memory, PREFIX, {}), resource)


def ids(memory: Any) -> list[str | None]:
    return sorted(row for (column,) in [folder_in(memory).data(["id"]).values] for row in column)


def over(rows: int = 1) -> dict[Any, Progress]:
    return {("a", 0): Progress(rows=rows, outcome="done")}


class Failing:
    """A store of obstore, of which some calls fail: before they are done, or after."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket: Any = bucket
        self._real: Any = bucket._obstore
        self.fail: dict[tuple[str, str], tuple[str, int]] = {}  # (call, end of a name) -> (when, how often)
        self.calls: list[tuple[str, str]] = []
        bucket._obstore = self

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        async def call(store: Any, path: Any, *rest: Any, **named: Any) -> Any:
            self.calls.append((name, str(path)))
            for (call, end), (when, times) in self.fail.items():
                if times and name == call and str(path).endswith(end):
                    self.fail[call, end] = when, times - 1
                    if when == "after":
                        await real(store, path, *rest, **named)
                    raise self._bucket._errors.GenericError("connection reset")
            return await real(store, path, *rest, **named)

        return call if name.endswith("_async") else real


# --- pulls -----------------------------------------------------------------------------------------------------


def test_a_pull_lands_and_is_not_repeated() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        async with service() as sandbox, client_of(sandbox) as client:
            assert isinstance(store_in(memory), TransactionalStore)
            report = await client.interactions.pull_to(
                store_in(memory, part_rows=50), sandbox.account_ids, **BOUNDS
            )
            assert report.complete
            assert report.rows == len(expected(sandbox))
            assert plain_rows(memory) == expected(sandbox)
            assert len(objects(memory, "interactions/")) > 2
            assert not objects(memory, "_truto/interactions/staged/")
            folder = folder_in(memory)
            assert folder.complete
            assert len(folder) == report.rows == folder.to_arrow().num_rows
            assert len(folder.urls) == len(objects(memory, "interactions/"))
            sandbox.clear()
            before = objects(memory, "interactions/")
            report = await client.interactions.pull_to(store_in(memory), sandbox.account_ids, **BOUNDS)
            assert report.complete
            assert not sandbox.requests
            assert objects(memory, "interactions/") == before

    run(scenario())


def test_every_resource_lands_in_a_folder_of_its_own() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        async with service() as sandbox, client_of(sandbox) as client:
            bounds = {"start_time": "2024-01-01", "end_time": "2024-01-15"}
            for resource in ("meetings", "users", "transcripts", "activity"):
                window = {} if resource == "users" else bounds
                store = store_in(memory, resource=resource)
                report = await getattr(client, resource).pull_to(store, sandbox.account_ids, **window)
                assert report.complete
                assert report.rows == folder_in(memory, resource).to_arrow().num_rows > 0
            assert folder_in(memory, "users").other("meetings").resource == "meetings"
            with pytest.raises(UsageError, match="no 'interactions'"):
                folder_in(memory)
            with pytest.raises(UsageError, match="plan of interactions"):
                await run_shard(client, plan_of(), store_in(memory, resource="meetings"))

    run(scenario())


def test_a_pull_without_rows_leaves_the_columns() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        await store.open(plan_of())
        await store.commit({("a", 0): Progress(outcome="empty")}, row_fingerprints={}, final=True)
        await store.aclose()
        (name,) = objects(memory, "interactions/")
        assert "patience" in parquet.read_schema(io.BytesIO(get(memory, name))).names
        assert folder_in(memory).to_arrow().num_rows == 0
        assert folder_in(memory).complete

    run(scenario())


def test_windows_that_are_asked_again_double_nothing() -> None:
    """Cursors die in the middle of windows, in this run and between two."""

    async def scenario() -> None:
        memory = MemoryStore()
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
                store_in(memory, part_rows=10),
                sandbox.account_ids,
                on_start=lambda running: watching.append(asyncio.create_task(watch(running))),
                **BOUNDS,
            )
            watching[0].cancel()
            assert not stops
            sandbox.expire_cursors()
            assert (await pull_to(store_in(memory), sandbox.account_ids, **BOUNDS)).complete
            assert plain_rows(memory) == expected(sandbox)
            assert not folder_in(memory).to_arrow().num_rows - len(expected(sandbox))

    run(scenario())


def test_one_plan_follows_another_unless_their_rows_overlap() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        async with service() as sandbox, client_of(sandbox) as client:
            accounts, pull_to = sandbox.account_ids, client.interactions.pull_to
            await pull_to(store_in(memory), accounts, on_start=lambda pull: pull.stop(), **BOUNDS)
            with pytest.raises(StateConflictError, match="another plan"):
                await pull_to(store_in(memory), accounts, **{**BOUNDS, "window": "week"})
            assert (await pull_to(store_in(memory), accounts, **BOUNDS)).complete
            later = {"start_time": BOUNDS["end_time"], "end_time": "2024-01-06T00:00:00Z", "window": "day"}
            report = await pull_to(store_in(memory), accounts, **later)
            assert report.complete
            assert folder_in(memory).complete
            assert len(folder_in(memory)) == report.rows + len(expected(sandbox))
            with pytest.raises(StateConflictError, match="there twice"):
                await pull_to(store_in(memory), accounts, **{**BOUNDS, "window": "week"})
            assert len(folder_in(memory)) == report.rows + len(expected(sandbox))
            report = await pull_to(store_in(memory), accounts, fresh=True, **BOUNDS)
            assert report.complete
            assert plain_rows(memory) == expected(sandbox)
            assert manifest_of(memory).epoch == 4
            left = {name for name in objects(memory) if name.startswith("_truto/interactions/plan-")}
            assert left == {manifest_of(memory).plan}

    run(scenario())


# --- commits ---------------------------------------------------------------------------------------------------


def test_rows_are_seen_once_they_are_committed_and_a_small_part_waits() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        now = [0.0]
        store = store_in(memory, part_rows=3, part_seconds=10, clock=lambda: now[0])
        await store.open(plan_of())
        with pytest.raises(StateConflictError, match="this process"):
            await store.hold()
        await store.write(page_of([interaction("1")]))
        progress: Mapping[Any, Progress] = {("a", 0): Progress(rows=1)}
        assert not await store.commit(progress, row_fingerprints={}, final=False)
        assert not objects(memory, "interactions/")
        now[0] = 10.0
        assert await store.commit(progress, row_fingerprints={}, final=False)
        assert ids(memory) == ["1"]
        await store.write(page_of([interaction("2"), interaction("3"), interaction("4")]))
        assert store.is_full
        committing = store.begin_commit(over(4), row_fingerprints={}, final=False)
        await store.write(page_of([interaction("5")]))
        assert await committing
        assert ids(memory) == ["1", "2", "3", "4"]
        await store.aclose()
        await store.aclose()
        store = store_in(memory)
        assert await store.open() == plan_of()
        assert await store.load() == over(4)
        await store.aclose()
        with pytest.raises(UsageError, match="not open"):
            await store.load()

    run(scenario())


def test_rows_of_another_kind_are_refused() -> None:
    async def scenario() -> None:
        store = store_in(MemoryStore())
        await store.open(plan_of())
        with pytest.raises(UsageError, match="item_type=Interaction"):
            await store.write(page_of([Meeting(id="1")]))
        await store.aclose()

    run(scenario())


def test_progress_is_kept_compactly_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest stays short, however many windows there are."""
    monkeypatch.setattr(cloud_state, "LOG_BYTES", 1_000)
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud_log.TAIL_BYTES", 1_000)
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud_log.LISTED_PARTS", 5)

    async def scenario() -> None:
        memory = MemoryStore()
        windows = 200
        plan = plan_of("interactions", *[JANUARY] * windows)
        store = store_in(memory, part_seconds=0)
        await store.open(plan)
        expected: dict[Any, Progress] = {}
        kinds = set[str]()
        for window in range(0, windows - 4, 4):
            changes = {
                ("a", window): Progress(rows=window, pages=1, outcome="done"),
                ("a", window + 1): Progress(pages=1, outcome="empty"),
                ("a", window + 2): Progress(position="p" * 50, rows=1, error="no \ud800", until=5.0),
                ("a", window + 3): Progress(rows=window, outcome="done", is_restarted=True),
            }
            fingerprints = {key: f"{key[1]:08}".encode() for key in changes}
            await store.write(page_of([interaction(f"{window:04}")]))
            assert await store.commit(changes, row_fingerprints=fingerprints, final=False)
            changes["a", window + 2] = Progress(position="p" * 50, rows=1, error="no \ufffd", until=5.0)
            expected |= changes
            kinds |= {name.split("/")[2].split("-")[0] for name in objects(memory, "_truto/")}
            if window % 40 == 0:
                await store.aclose()
                store = store_in(memory, part_seconds=0)
                await store.open(plan)
                assert await store.load() == expected
                assert await store.row_fingerprints(("a", window + 2)) == f"{window + 2:08}".encode()
                assert await store.row_fingerprints(("a", window)) == b""
        await store.aclose()
        assert kinds == {"manifest.json", "plan", "log", "state", "parts"}
        assert len(get(memory, NAMES.manifest)) < 6_000
        # Nothing is left that a snapshot has replaced.
        needed = {*manifest_of(memory).named(), NAMES.manifest}
        assert set(objects(memory, "_truto/")) == needed
        assert ids(memory) == [f"{window:04}" for window in range(0, windows - 4, 4)]

    run(scenario())


def test_a_commit_of_an_older_epoch_is_refused() -> None:
    """Two runs at once: the one that began later goes on."""

    async def scenario() -> None:
        memory = MemoryStore()
        first, second = store_in(memory), store_in(memory)
        await first.open(plan_of())
        await first.write(page_of([interaction("1")]))
        assert await first.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
        await second.open(plan_of())
        await first.write(page_of([interaction("2")]))
        with pytest.raises(StateConflictError, match=r"another run has taken over .*begun at 20"):
            await first.commit({("a", 0): Progress(rows=2)}, row_fingerprints={}, final=True)
        await first.aclose()
        await second.write(page_of([interaction("3")]))
        assert await second.commit(over(2), row_fingerprints={}, final=True)
        await second.aclose()
        assert ids(memory) == ["1", "3"]
        assert sorted(objects(memory, "interactions/")) == [part.name for part in manifest_of(memory).parts]
        await second.open(plan_of())  # the part that the first one had uploaded is removed
        await second.aclose()
        assert not objects(memory, "_truto/interactions/staged/")

    run(scenario())


def test_two_runs_that_begin_at_once_get_epochs_of_their_own() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        stores = [store_in(memory) for _ in range(3)]
        await asyncio.gather(*(store.open(plan_of()) for store in stores))
        assert manifest_of(memory).epoch == 3
        outcomes = await asyncio.gather(
            *(store.commit(over(), row_fingerprints={}, final=True) for store in stores),
            return_exceptions=True,
        )
        assert [outcome for outcome in outcomes if outcome is True] == [True]
        assert sum(isinstance(outcome, StateConflictError) for outcome in outcomes) == 2
        for store in stores:
            await store.aclose()

    run(scenario())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_answer_was_lost_is_found_out(when: str) -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        failing = Failing(store._bucket)
        await store.open(plan_of())
        failing.fail["put_async", "manifest.json"] = when, 2
        await store.write(page_of([interaction("1")]))
        assert await store.commit(over(), row_fingerprints={}, final=True)
        await store.aclose()
        assert ids(memory) == ["1"]

    run(scenario())


def test_a_manifest_that_cannot_be_put_is_told_and_the_next_run_knows() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        failing = Failing(store._bucket)
        await store.open(plan_of())
        failing.fail["put_async", "manifest.json"] = "after", 1
        failing.fail["get_async", "manifest.json"] = "before", 1
        await store.write(page_of([interaction("1")]))
        with pytest.raises(StorageError, match=r"manifest\.json: connection reset"):
            await store.commit(over(), row_fingerprints={}, final=True)
        await store.aclose()
        assert not objects(memory, "interactions/")  # it is late
        assert ids(memory) == ["1"]  # and known to exact readers
        await store.open(plan_of())
        assert await store.load() == over()
        await store.aclose()
        assert len(objects(memory, "interactions/")) == 1

    run(scenario())


def test_a_part_that_cannot_be_copied_is_copied_later(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory, part_rows=1)
        failing = Failing(store._bucket)
        await store.open(plan_of())
        failing.fail["copy_async", ".parquet"] = "before", 3
        for number in (1, 2):
            await store.write(page_of([interaction(str(number))]))
            changes = {("a", 0): Progress(rows=number)}
            assert await store.commit(changes, row_fingerprints={}, final=False)
        assert not objects(memory, "interactions/")
        assert ids(memory) == ["1", "2"]
        assert "repeated later" in caplog.text
        await store.aclose()
        assert len(objects(memory, "interactions/")) == 2
        await store.open(plan_of())
        await store.write(page_of([interaction("3")]))
        failing.fail["copy_async", ".parquet"] = "before", 9
        assert await store.commit(over(), row_fingerprints={}, final=True)
        with pytest.raises(StorageError, match="1 parts are committed, but"):
            await store.aclose()
        failing.fail.clear()
        await store.open(plan_of())
        await store.aclose()
        assert len(objects(memory, "interactions/")) == 3
        assert not objects(memory, "_truto/interactions/staged/")

    with caplog.at_level(logging.WARNING):
        run(scenario())


def test_committed_parts_that_are_not_copied_yet_are_not_removed_without_a_manifest() -> None:
    """Somebody removed it. A run that finds none would take what is not in the folder for leftovers."""

    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        await store.open(plan_of())
        await store.write(page_of([interaction("1")]))
        Failing(store._bucket).fail["copy_async", ".parquet"] = "before", 9
        assert await store.commit(over(), row_fingerprints={}, final=True)
        with pytest.raises(StorageError, match="1 parts are committed, but"):
            await store.aclose()
        kept = get(memory, NAMES.manifest)
        obstore.delete(memory, f"{PREFIX}/{NAMES.manifest}")
        with pytest.raises(
            StateConflictError, match=r"has 1 parts of interactions, but no manifest.*fresh=True"
        ):
            await store_in(memory).open(plan_of())
        obstore.put(memory, f"{PREFIX}/{NAMES.manifest}", kept)
        assert ids(memory) == ["1"]

    run(scenario())


def test_a_run_that_is_behind_brings_nothing_back_that_a_later_one_removed() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        first = store_in(memory)
        failing = Failing(first._bucket)
        await first.open(plan_of())
        await first.write(page_of([interaction("1")]))
        failing.fail["copy_async", ".parquet"] = "before", 1
        assert await first.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
        second = store_in(memory)
        await second.open(plan_of(), fresh=True)
        await first.aclose()
        await second.aclose()
        assert not objects(memory, "interactions/")
        assert len(folder_in(memory)) == 0

    run(scenario())


# --- what can go wrong -----------------------------------------------------------------------------------------


def test_a_service_that_ignores_conditions_is_refused() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        bucket: Any = store._bucket
        real = bucket._obstore

        class Careless:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            async def put_async(self, store: Any, path: str, data: Any, mode: Any = None) -> Any:
                return await real.put_async(store, path, data)

        bucket._obstore = Careless()
        with pytest.raises(StorageError, match="ignores the conditions"):
            await store.open(plan_of())
        assert not objects(memory)

    run(scenario())


def test_a_local_store_is_refused(tmp_path: Any) -> None:
    """It has no conditional put: use a folder."""
    store = CloudStore(store=obstore.store.LocalStore(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be used.*not yet implemented"):
        run(store.open(plan_of()))


@pytest.mark.parametrize("name", ["manifest", "plan", "log", "state", "part"])
def test_what_was_changed_or_removed_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud_log.TAIL_BYTES", 0)
    monkeypatch.setattr(cloud_state, "LOG_BYTES", 0 if name == "state" else 10**6)

    async def scenario(removes: bool) -> None:
        memory = MemoryStore()
        store = store_in(memory)
        await store.open(plan_of())
        await store.write(page_of([interaction("1")]))
        await store.commit({("a", 0): Progress(rows=1)}, row_fingerprints={}, final=True)
        await store.aclose()
        (path,) = (each for each in objects(memory) if f"/{name}" in each)
        if removes:
            obstore.delete(memory, f"{PREFIX}/{path}")
        else:
            obstore.put(memory, f"{PREFIX}/{path}", b"{}")
        error = StateConflictError if removes and name == "manifest" else DamagedStateError
        with pytest.raises(error, match="fresh=True"):
            await store.open(plan_of())
        assert await store.open(plan_of(), fresh=True) == plan_of()
        await store.aclose()
        assert not objects(memory, "interactions/")
        assert set(objects(memory)) == {NAMES.manifest, manifest_of(memory).plan}

    for removes in (True, False):
        run(scenario(removes))


def test_a_reader_tells_a_part_that_was_changed() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        await store.open(plan_of())
        await store.write(page_of([interaction("1")]))
        await store.commit(over(), row_fingerprints={}, final=True)
        await store.aclose()
        (path,) = objects(memory, "interactions/")
        data = get(memory, path)
        folder = folder_in(memory)
        for changed, told in ((data[:-1], "bytes instead of"), (data[:9] + b"?" + data[10:], "checksum")):
            obstore.put(memory, f"{PREFIX}/{path}", changed)
            with pytest.raises(DamagedStateError, match=told):
                folder.to_arrow()
        obstore.delete(memory, f"{PREFIX}/{path}")
        with pytest.raises(DamagedStateError, match="missing"):
            list(folder.batches(["id"]))
        obstore.put(memory, f"{PREFIX}/{NAMES.manifest}", b"[]")
        with pytest.raises(DamagedStateError, match="not written by a pull"):
            folder_in(memory)

    run(scenario())


def test_columns_of_another_version_are_refused() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        await store.open(plan_of())
        await store.aclose()
        text = get(memory, NAMES.manifest).replace(b'"patience":"float64"', b'"patience":"int64"')
        obstore.put(memory, f"{PREFIX}/{NAMES.manifest}", text)
        with pytest.raises(StateConflictError, match="other columns"):
            await store.open(plan_of())
        await store.open(plan_of(), fresh=True)
        await store.aclose()

    run(scenario())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://", "names no bucket"),
        ("s3://key:hunter2@bucket/x", "credentials come from the environment"),
        ("s3://bucket/x?secret=hunter2", "credentials come from the environment"),
        ("ftp://u:hunter2@host/x", r"postgresql://.*duckdb://.*s3://bucket/prefix.*extra: cloud"),
    ],
)
def test_urls_that_are_no_bucket(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        store_for(url, resource="interactions")
    assert "hunter2" not in str(caught.value)


def test_options_of_databases_are_refused() -> None:
    with pytest.raises(UsageError, match="only adds"):
        store_for("s3://bucket", resource="interactions", mode="merge")
    with pytest.raises(UsageError, match='leave mode="append" out'):
        store_for("s3://bucket", resource="interactions", mode="append", is_sync=True)
    with pytest.raises(UsageError, match="table, add_columns: for the URL of a database"):
        store_for("gs://bucket/x", resource="interactions", table="x", add_columns=True)
    with pytest.raises(UsageError, match="a store of its own"):
        store_for("s3://bucket", resource="interactions", shard=(1, 2))
    assert repr(store_for("s3://bucket/x/", resource="users", mode="append")) == (
        "CloudStore('s3://bucket/x', resource='users')"
    )
    with pytest.raises(UsageError, match="store="):
        CloudStore()
    with pytest.raises(UsageError, match="part_rows"):
        CloudStore("s3://bucket", part_rows=0)
    with pytest.raises(UsageError, match="cannot open s3://bucket"):
        CloudStore("s3://bucket", storage_options={"no_such_option": "x"})


def test_credentials_are_in_no_message() -> None:
    bucket = Bucket("s3://bucket/x", None, "", {"access_key_id": "a", "secret_access_key": "hunter2"})
    text = bucket._text(
        Exception(
            "Error performing PUT https://acc.blob.core.windows.net/c/x?sv=1&sig=hunter3 in 1ms - Server returned "
            'non-2xx status code: 403 Forbidden: <?xml version="1.0"?><Error><Code>Denied</Code><Message>No way'
            "</Message><AWSAccessKeyId>hunter4</AWSAccessKeyId></Error>, hunter2\n\nDebug source: hunter5"
        )
    )
    assert "hunter" not in text
    assert text.endswith(
        "https://acc.blob.core.windows.net/c/x?*** in 1ms - Server returned non-2xx status "
        "code: 403 Forbidden: Denied; No way"
    )


def test_a_missing_extra_is_told_with_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'truto-ci-async\[cloud\]'"):
        store_for("s3://bucket", resource="interactions")


def test_missing_credentials_are_told_as_that() -> None:
    """Without any, obstore asks the machine for its own, and says that in its words alone."""
    bucket = Bucket(None, MemoryStore(), "x", {})
    error = OSError("Error performing PUT http://169.254.169.254/latest/api/token: timed out")
    assert "There are no credentials in the environment" in str(bucket._failed("read", "y", error))
    error = bucket._errors.PermissionDeniedError("403")
    assert "Check the credentials" in str(bucket._failed("read", "y", error))


def test_a_bucket_keeps_conditions() -> None:
    async def scenario() -> None:
        bucket = Bucket(None, MemoryStore(), "a", {})
        first = await bucket.put("x", b"1", "create")
        with pytest.raises(ConditionFailedError):
            await bucket.put("x", b"2", "create")
        second = await bucket.put("x", b"2", first)
        with pytest.raises(ConditionFailedError):
            await bucket.put("x", b"3", first)
        found = await bucket.get("x")
        assert found is not None
        assert (found.data, found.version) == (b"2", second)
        assert await bucket.get("y") is None
        assert await bucket.size("x") == 1
        assert await bucket.size("y") is None
        assert not await bucket.copy("y", "z")
        assert await bucket.copy("x", "z/z")
        assert [each async for each in bucket.list("z")] == [("z/z", 1)]
        await bucket.delete(["x", "y"])
        assert bucket.read("x") is None

    run(scenario())


def test_february_and_january_are_rows_of_their_own() -> None:
    async def scenario() -> None:
        memory = MemoryStore()
        store = store_in(memory)
        await store.open(plan_of("interactions", JANUARY, FEBRUARY))
        await store.write(page_of([interaction("1")]))
        await store.write(page_of([interaction("1")], FEBRUARY))
        await store.commit(over(), row_fingerprints={}, final=True)
        await store.aclose()
        assert ids(memory) == ["1", "1"]

    run(scenario())


# --- syncs -----------------------------------------------------------------------------------------------------


class MemoryBucket(BucketTables):
    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.bucket = Bucket(None, self.memory, PREFIX, {})

    def store(self, **options: Any) -> CloudStore:
        return store_in(self.memory, **{"part_rows": 20, "part_seconds": 0.0, **options})


SYNCS = {
    name.removeprefix("check_"): check for name, check in vars(syncs).items() if name.startswith("check_")
}
# The first two have several tables, and in the third no row is refused.
for _name in (
    "a_table_is_synced_or_pulled",
    "each_table_has_marks_of_its_own",
    "a_refused_row_takes_no_other_with_it",
):
    del SYNCS[_name]
# The others of these take seconds.
QUICK_SYNCS = {
    "a_window_that_fails_in_the_middle_takes_nothing_away",
    "pages_of_an_open_window_are_out_of_sight",
    "a_meeting_that_moved_is_there_once",
    "a_meeting_belongs_to_the_window_it_starts_in",
    "a_transcript_stays_until_all_of_its_window_is_read",
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(name, marks=[] if name in QUICK_SYNCS else [pytest.mark.long]) for name in SYNCS],
)
def test_a_sync(check: str) -> None:
    run(SYNCS[check](MemoryBucket()))


@pytest.mark.parametrize("log_bytes", [cloud_state.LOG_BYTES, 0])
def test_the_quota_of_a_day_is_counted_over_runs(log_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud_log.TAIL_BYTES", 0)
    monkeypatch.setattr(cloud_state, "LOG_BYTES", log_bytes)
    run(landings.check_the_quota_of_a_day_is_counted_over_runs(MemoryBucket()))


def test_a_prefix_is_synced_or_pulled() -> None:
    async def scenario() -> None:
        synced, pulled, clock = MemoryBucket(), MemoryBucket(), syncs.Clock()
        async with syncs.service(clock) as sandbox, client_of(sandbox) as client:
            into, accounts = client.interactions.pull_to, sandbox.account_ids
            await syncs.sync(client, synced, clock, accounts, "interactions")
            days = {"start_time": "2024-03-01", "end_time": "2024-03-06", "window": "day"}  # of UTC
            sandbox.clear()
            with pytest.raises(StateConflictError, match='is synced: pass since="last"'):
                await into(synced.store(), accounts, **days)
            with pytest.raises(StateConflictError, match="other filters"):
                await syncs.sync(client, synced, clock, accounts, "interactions", users=["u"])
            assert not sandbox.requests
            await into(pulled.store(), accounts, **days)
            with pytest.raises(StateConflictError, match="a pull of its own"):
                await syncs.sync(client, pulled, clock, accounts, "interactions")
            # Rows of a pull stay when a sync starts over, but for those of its windows.
            report = await syncs.sync(client, pulled, clock, accounts, "interactions", fresh=True)
            assert (report.complete, report.windows) == (True, syncs.HISTORY_DAYS)
            query = "SELECT DISTINCT date_trunc('day', window_start) = window_start FROM interactions"
            left = f"{query} WHERE window_end > '2024-03-04 08:00Z'"
            assert pulled.sql(left) == [(False,)]
            assert len(pulled.sql(query)) == 2
            assert (await into(synced.store(), accounts, fresh=True, **days)).complete
            assert folder_in(synced.memory).complete

    run(scenario())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_of_a_sync_whose_answer_was_lost_is_found_out(when: str) -> None:
    async def scenario() -> None:
        bucket = MemoryBucket()
        store = bucket.store()
        failing = Failing(store._bucket)
        await store.open_sync(header_of(plan_of()), ["a"], fresh=False)
        for number in range(3):
            failing.fail["put_async", "manifest.json"] = when, 1
            await store.write(syncs.walked([interaction(str(number))], is_first=True))
            changes = SyncChanges((syncs.READ,), {"a": str(number)})
            assert await store.commit({}, row_fingerprints={}, final=False, sync=changes)
        await store.aclose()
        assert bucket.sql("SELECT id, mark FROM interactions, _truto_sync") == [("2", "2")]

    run(scenario())


def test_parts_that_cannot_be_taken_away_or_copied_go_later(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are replaced go first, or a reader of the folder would see rows twice."""

    async def scenario() -> None:
        bucket = MemoryBucket()
        store = bucket.store()
        failing = Failing(store._bucket)
        await store.open_sync(header_of(plan_of()), ["a"], fresh=False)

        async def commit(number: int) -> None:
            await store.write(syncs.walked([interaction(str(number))], is_first=True))
            changes = SyncChanges((syncs.READ,), {"a": str(number)})
            assert await store.commit({}, row_fingerprints={}, final=False, sync=changes)

        await commit(0)
        failing.fail["copy_async", ".parquet"] = "before", 2
        await commit(1)
        first = objects(bucket.memory, "interactions/")
        assert len(first) == 1
        assert ids(bucket.memory) == ["1"]
        await commit(2)  # what it replaces was in no reader's sight yet
        assert ids(bucket.memory) == ["2"]
        assert len(objects(bucket.memory, "interactions/")) <= 1
        await store.aclose()
        assert bucket.sql("SELECT id FROM interactions") == [("2",)]
        assert "repeated later" in caplog.text

    with caplog.at_level(logging.WARNING):
        run(scenario())


def test_a_sync_that_was_overtaken_replaces_nothing() -> None:
    async def scenario() -> None:
        bucket = MemoryBucket()
        first, second = bucket.store(), bucket.store()
        for store in (first, second):
            await store.open_sync(header_of(plan_of()), ["a"], fresh=False)
        for store, name in ((second, "second"), (first, "first")):
            await store.write(syncs.walked([interaction(name)], is_first=True))
        changes = SyncChanges((syncs.READ,), {"a": "read"})
        assert await second.commit({}, row_fingerprints={}, final=True, sync=changes)
        with pytest.raises(StateConflictError, match="taken over"):
            await first.commit({}, row_fingerprints={}, final=True, sync=changes)
        for store in (first, second):
            await store.aclose()
        assert bucket.sql("SELECT id FROM interactions") == [("second",)]

    run(scenario())


class Moving:
    """A bucket in which a run moves a part on after each reading."""

    def __init__(self, places: list[str]) -> None:
        self._places = places

    def read(self, name: str) -> bytes | None:
        return b"part" if name == self._places.pop(0) else None


def test_a_part_is_found_while_a_run_moves_it() -> None:
    part = NAMES.part(1, 1)
    staged, replaced = NAMES.staged(part), NAMES.replaced(part)
    for places in (
        [part],
        [staged, staged],
        [staged, part, part],  # published between two readings
        [staged, part, replaced, replaced],  # and replaced right after that
        [replaced, replaced, replaced, replaced],
    ):
        bucket: Any = Moving(places)
        assert CloudFile(bucket, part, 1, 4, f"{crc32(b'part'):08x}").checked().read() == b"part"
        assert not places


def test_parts_of_a_sync_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night replaces the parts of the one before, and leaves what is older than the look-back."""
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud_log.LISTED_PARTS", 3)

    async def scenario() -> None:
        bucket, clock = MemoryBucket(), syncs.Clock()
        async with syncs.service(clock, interactions=6) as sandbox, client_of(sandbox) as client:
            counts: list[int] = []
            for _ in range(5):
                store = store_in(bucket.memory)
                pull_to = client.interactions.pull_to
                assert (
                    await pull_to(store, sandbox.account_ids, **syncs.SYNC, window="day", now=clock.now)
                ).complete
                counts.append(len(objects(bucket.memory, "interactions/")))
                clock.next_night()
            assert all(0 <= after - before <= 1 for before, after in pairwise(counts)), counts
            assert manifest_of(bucket.memory).lists
            bucket.sql("SELECT 1")
            needed = {*manifest_of(bucket.memory).named(), NAMES.manifest}
            state = {name for name in objects(bucket.memory, "_truto/") if "/replaced/" not in name}
            assert state == needed

    run(scenario())


def test_a_list_of_parts_that_are_all_replaced_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud_log.LISTED_PARTS", 1)

    async def scenario() -> None:
        bucket = MemoryBucket()
        store = bucket.store()
        await store.open_sync(header_of(plan_of()), ["a"], fresh=False)

        async def commit(name: str, window: ReadWindow) -> None:
            await store.write(syncs.walked([interaction(name)], is_first=True))
            assert await store.commit({}, row_fingerprints={}, final=False, sync=SyncChanges((window,)))

        for name in "123":
            await commit(name, replace(syncs.READ, keeps_missing=True))
        assert len(manifest_of(bucket.memory).lists) == 2
        await commit("4", syncs.READ)
        await store.aclose()
        assert not manifest_of(bucket.memory).lists
        assert bucket.sql("SELECT id FROM interactions") == [("4",)]

    run(scenario())


def test_a_part_is_never_larger_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rows of many small parts become a few of a useful size, each of which was uploaded by itself."""
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud_sync.FILE_BYTES", 1)

    async def scenario() -> None:
        bucket, clock = MemoryBucket(), syncs.Clock()
        async with syncs.service(clock, accounts=3) as sandbox, client_of(sandbox) as client:
            await syncs.sync(client, bucket, clock, sandbox.account_ids, "interactions")
            parts = len(objects(bucket.memory, "interactions/"))
            account = sandbox.account_ids[0]
            await syncs.sync(client, bucket, clock, [account], "interactions", fresh=True)
            assert len(objects(bucket.memory, "interactions/")) >= parts
            for each in sandbox.account_ids:
                expected = syncs.truth(sandbox, each, clock.now, clock.now, "interactions")
                assert syncs.same(syncs.rows_of(bucket, each, "interactions"), expected)

    run(scenario())


def test_a_reader_that_began_before_a_sync_reads_to_its_end() -> None:
    async def scenario() -> None:
        bucket, clock = MemoryBucket(), syncs.Clock()
        async with syncs.service(clock) as sandbox, client_of(sandbox) as client:
            await syncs.sync(client, bucket, clock, sandbox.account_ids, "interactions")
            folder = folder_in(bucket.memory)
            rows = folder.to_arrow().num_rows
            await syncs.sync(client, bucket, clock, sandbox.account_ids, "interactions")
            assert folder.urls != folder_in(bucket.memory).urls
            assert folder.to_arrow().num_rows == rows

    run(scenario())


def test_a_part_that_was_changed_is_not_rewritten() -> None:
    async def scenario() -> None:
        bucket, clock = MemoryBucket(), syncs.Clock()
        async with syncs.service(clock) as sandbox, client_of(sandbox) as client:
            await syncs.sync(client, bucket, clock, sandbox.account_ids, "interactions")
            for name in objects(bucket.memory, "interactions/"):
                obstore.put(bucket.memory, f"{PREFIX}/{name}", b"?" + get(bucket.memory, name)[1:])
            with pytest.raises(DamagedStateError, match="has been changed"):
                await syncs.sync(client, bucket, clock, sandbox.account_ids, "interactions")
            for name in objects(bucket.memory, "interactions/"):
                obstore.delete(bucket.memory, f"{PREFIX}/{name}")
            with pytest.raises(DamagedStateError, match="is missing"):
                await syncs.sync(client, bucket, clock, sandbox.account_ids, "interactions")

    run(scenario())

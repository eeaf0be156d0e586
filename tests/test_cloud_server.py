"""Parquet in object storage, on moto's S3 server: kills, two runs at once, outages, answers that are lost."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests import syncs
from tests.buckets import STEPS, BucketTables
from tests.landings import (
    BOUNDS,
    Killing,
    Row,
    client_of,
    expected,
    interaction,
    page_of,
    plan_of,
    service,
)
from tests.pull_runs import Runs, landing_store
from tests.s3_server import BUCKET, SECRET, S3Server
from tests.support import run
from truto_ci_async import CloudStore, Progress, Sandbox, StateConflictError, StorageError, read_folder
from truto_ci_async.cli.main import main
from truto_ci_async.pull.stores.cloud_state import Manifest, Names, read_manifest
from truto_ci_async.pull.stores.object_storage import Bucket

pytestmark = pytest.mark.services

NAMES = Names("interactions")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, S3Server() as running:
        for name, value in running.env.items():
            patch.setenv(name, value)
        yield running


class Prefix(BucketTables):
    """A folder in the bucket, which ``renew`` replaces by an empty one."""

    def __init__(self, server: S3Server, name: str) -> None:
        self.server = server
        self._name, self._number = name, 0
        self.renew()

    def renew(self) -> None:
        self._number += 1
        self.url = f"s3://{BUCKET}/{self._name}/{self._number}"
        self.bucket = Bucket(self.url, None, "", {})

    def store(self, **options: Any) -> Any:
        return landing_store(self.url, **options)

    def plain_rows(self) -> list[Row]:
        """Return what a reader sees that takes all files of the folder."""
        import pyarrow.parquet as parquet

        names = ["integrated_account_id", "window_start", "user_id"]
        found: list[Row] = []
        for name in self.names(NAMES.parts):
            table = parquet.read_table(io.BytesIO(self.bucket.read(name) or b""), columns=names)
            found += [
                (row["integrated_account_id"], row["window_start"].date().isoformat(), row["user_id"])
                for row in table.to_pylist()
            ]
        return sorted(found)

    def rows(self) -> list[Row]:
        """Return what is committed."""
        data = read_folder(self.url).data(["integrated_account_id", "window_start", "user_id"])
        return sorted(
            (account, start.date().isoformat(), user)
            for account, start, user in zip(*data.values, strict=True)
        )

    def manifest(self) -> Manifest:
        return read_manifest(self.bucket.read(NAMES.manifest) or b"")


@pytest.fixture
def prefix(server: S3Server, request: pytest.FixtureRequest) -> Prefix:
    return Prefix(server, f"t{abs(hash(request.node.nodeid))}")


def test_a_url_is_enough(prefix: Prefix) -> None:
    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            for _ in range(2):
                report = await client.interactions.pull_to(prefix.url, sandbox.account_ids, **BOUNDS)
                assert report.complete
            rows = await asyncio.to_thread(prefix.rows)
            assert rows == expected(sandbox)
            assert await asyncio.to_thread(lambda: read_folder(prefix.url).complete)

    run(scenario())
    assert prefix.plain_rows() == prefix.rows()


def test_credentials_that_are_refused_or_missing_are_in_no_message(prefix: Prefix) -> None:
    store = CloudStore(
        f"s3://no-such-bucket/{prefix.url[-9:]}", storage_options={"secret_access_key": "hunter3hunter3"}
    )
    with pytest.raises(StorageError, match="no-such-bucket") as caught:
        run(store.open(plan_of()))
    told = f"{caught.value}{caught.value.__cause__}{store!r}"
    assert "hunter3" not in told
    assert SECRET not in told


def test_two_runs_at_once(prefix: Prefix, killing: tuple[Runs, Sandbox]) -> None:
    """Whichever begins later goes on, in whatever process; both together write each row once."""
    sandbox = killing[1]

    async def pull(store: CloudStore) -> bool:
        async with client_of(sandbox) as client:
            try:
                report = await client.interactions.pull_to(store, sandbox.account_ids, **BOUNDS)
            except StateConflictError:
                return False
            return report.complete

    async def scenario() -> None:
        for _ in range(3):
            stores = [landing_store(prefix.url) for _ in range(3)]
            outcomes = await asyncio.gather(*map(pull, stores))
            assert any(outcomes)
            assert await asyncio.to_thread(prefix.rows) == expected(sandbox)
            prefix.renew()

    run(scenario())


@pytest.mark.parametrize("times", [1, 3])
def test_a_connection_that_is_cut_during_the_commit(prefix: Prefix, times: int) -> None:
    """The put took place, and nobody was told."""

    async def scenario() -> None:
        async with service() as sandbox, client_of(sandbox) as client:
            plan = await client.interactions.plan(sandbox.account_ids, **BOUNDS)
            store = landing_store(prefix.url)
            in_force = await store.open(plan)
            prefix.server.proxy.cut = times
            key = (in_force.accounts[0].id, 0)
            for number in range(1, 4):
                await store.write(page_of([interaction(str(number))]))
                assert await store.commit({key: Progress(rows=number)}, row_fingerprints={}, final=True)
            assert not prefix.server.proxy.cut
            await store.aclose()

    run(scenario())
    found = read_folder(prefix.url).data(["id"])
    assert sorted(found.values[0]) == ["1", "2", "3"]
    assert prefix.manifest().commits == 3


def test_a_server_that_cannot_be_reached_for_a_while(prefix: Prefix) -> None:
    async def scenario() -> None:
        proxy = prefix.server.proxy
        async with service(interactions=120) as sandbox, client_of(sandbox) as client:
            outages = 0

            async def watch(pull: Any) -> None:
                nonlocal outages
                while not pull.report.complete:
                    if pull.report.pages >= 10 * (outages + 1):
                        outages += 1
                        refused = proxy.refused
                        proxy.down()
                        while proxy.refused == refused:  # until the store has noticed
                            await asyncio.sleep(0.002)
                        proxy.up()
                    await asyncio.sleep(0.002)

            watching: list[asyncio.Task[None]] = []
            store = landing_store(prefix.url)
            report = await client.interactions.pull_to(
                store,
                sandbox.account_ids,
                on_start=lambda pull: watching.append(asyncio.create_task(watch(pull))),
                **BOUNDS,
            )
            watching[0].cancel()
            assert report.complete
            assert outages >= 2
            assert await asyncio.to_thread(prefix.rows) == expected(sandbox)

    run(scenario(), timeout=60)


def test_a_server_that_stays_away_ends_the_pull_and_the_next_one_goes_on(prefix: Prefix) -> None:
    async def scenario() -> None:
        proxy = prefix.server.proxy
        retries = {"retry_config": {"max_retries": 1}}
        async with service() as sandbox, client_of(sandbox) as client:

            def store() -> CloudStore:
                return CloudStore(prefix.url, part_rows=20, storage_options=retries)

            first = store()
            begin, left = first.begin_commit, 3

            def begin_commit(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    proxy.down()
                return begin(*args, **options)

            first.begin_commit = begin_commit  # type: ignore[method-assign]
            try:
                with pytest.raises(StorageError, match=prefix.url):
                    await client.interactions.pull_to(first, sandbox.account_ids, **BOUNDS)
            finally:
                proxy.up()
            report = await client.interactions.pull_to(store(), sandbox.account_ids, **BOUNDS)
            assert report.complete
            assert await asyncio.to_thread(prefix.rows) == expected(sandbox)

    run(scenario(), timeout=60)


def test_a_cancelled_pull_does_not_wait_for_a_server_that_is_away(
    prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truto_ci_async.pull.stores.cloud.HURRY_SECONDS", 0.2)

    async def scenario() -> None:
        proxy = prefix.server.proxy
        async with service() as sandbox, client_of(sandbox) as client:
            store = landing_store(prefix.url)
            going = asyncio.Event()

            def started(pull: Any) -> None:
                proxy.down()
                going.set()

            pulling = asyncio.create_task(
                client.interactions.pull_to(store, sandbox.account_ids, on_start=started, **BOUNDS)
            )
            await going.wait()
            pulling.cancel()
            begun = time.monotonic()
            with suppress(asyncio.CancelledError, StorageError):
                await pulling
            assert time.monotonic() - begun < 5
            proxy.up()

    run(scenario(), timeout=60)


def test_other_readers_take_the_folder(prefix: Prefix) -> None:
    import polars
    import pyarrow.dataset
    import pyarrow.fs

    async def scenario() -> int:
        async with service() as sandbox, client_of(sandbox) as client:
            await client.interactions.pull_to(landing_store(prefix.url), sandbox.account_ids, **BOUNDS)
            return len(expected(sandbox))

    rows = run(scenario())
    env = prefix.server.env
    options = {name.lower(): value for name, value in env.items()}
    assert (
        polars.scan_parquet(f"{prefix.url}/interactions/*.parquet", storage_options=options).collect().height
        == rows
    )
    files = pyarrow.fs.S3FileSystem(
        access_key=env["AWS_ACCESS_KEY_ID"],
        secret_key=env["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=env["AWS_ENDPOINT_URL"].removeprefix("http://"),
        scheme="http",
        region=env["AWS_REGION"],
    )
    path = f"{prefix.url.removeprefix('s3://')}/interactions"
    assert pyarrow.dataset.dataset(path, filesystem=files).count_rows() == rows
    assert read_folder(prefix.url).to_polars().height == rows


# --- kills -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killing(server: S3Server) -> Iterator[tuple[Runs, Sandbox]]:
    options = {"token_rate": None, "account_rate": None, "ratelimit_headers": None}
    with Runs() as runs, Sandbox.in_thread(accounts=2, interactions=40, page_size=5, **options) as sandbox:
        yield runs, sandbox


class CloudKilling(Killing):
    database: Any

    def run(self, **how: Any) -> bool:
        is_done = super().run(**how)
        self.check()
        return is_done

    def check(self) -> None:
        """Whenever a run was killed: a reader of the folder sees whole, committed rows, each of them once."""
        seen = self.database.plain_rows()
        committed = self.database.rows() if self.database.bucket.read(NAMES.manifest) else []
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(committed) <= set(expected(self.sandbox))
        assert len(set(committed)) == len(committed)

    def finish(self) -> None:
        assert self.run()
        assert self.database.plain_rows() == self.database.rows() == expected(self.sandbox)

        async def load() -> list[Progress]:
            store = landing_store(self.database.url)
            await store.open()
            found = list((await store.load()).values())
            await store.aclose()
            return found

        assert sum(progress.rows for progress in run(load())) == len(expected(self.sandbox))

    def at_each_step(self, *times: int) -> None:
        for step in (each for each in STEPS if each != "replace"):
            for nth in times:
                if self.run(kill=(step, nth)):
                    self.begin_anew()
        self.finish()

    def begin_anew(self) -> None:
        self.finish()
        self.database.renew()


def test_killed_at_each_step(prefix: Prefix, killing: tuple[Runs, Sandbox]) -> None:
    """Nothing is lost and nothing is there twice."""
    case = CloudKilling(*killing, prefix, "append")
    case.at_each_step(1, 3)
    assert case.kills >= 10


def test_killed_at_random(prefix: Prefix, killing: tuple[Runs, Sandbox]) -> None:
    CloudKilling(*killing, prefix, "append").at_random(10)


@pytest.mark.long
def test_killed_at_random_many_times(prefix: Prefix, killing: tuple[Runs, Sandbox]) -> None:
    CloudKilling(*killing, prefix, "append").at_random(100)


# --- syncs -----------------------------------------------------------------------------------------------------


SYNCS = ("other_resources_are_synced", "rows_that_are_gone_can_be_kept")


@pytest.mark.parametrize("check", SYNCS)
def test_a_sync(check: str, prefix: Prefix) -> None:
    run(getattr(syncs, f"check_{check}")(prefix), timeout=60)


def test_a_sync_from_the_command_line(prefix: Prefix, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox.in_thread(accounts=2, interactions=5, **syncs.NO_LIMITS) as sandbox:
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        monkeypatch.setenv("TRUTO_API_BASE_URL", sandbox.url)
        line = ["sync", "--integration", "gong", "--status", "active", "--to", prefix.url, "--quiet"]
        counts = []
        for _ in range(2):
            assert main([*line, "--max-history", "2d", "--time-zone", "US/Pacific"]) == 0
            counts.append(prefix.sql("SELECT count(*), count(DISTINCT window_start) FROM interactions"))
    assert counts[0] == counts[1]
    assert counts[0][0][1] >= 2


@pytest.fixture
def nights(prefix: Prefix) -> Iterator[syncs.KilledNights]:
    clock = syncs.Clock()
    with Runs() as runs, syncs.killed_service(clock) as sandbox:
        for account in sandbox.account_ids:
            sandbox.configure(account, settling=syncs.SETTLING)
        yield syncs.KilledNights(runs, sandbox, clock, prefix)


@pytest.mark.parametrize(
    ("resource", "times"),
    [
        ("interactions", 1),
        *(pytest.param(name, 5, marks=pytest.mark.long) for name in ("interactions", "meetings")),
    ],
)
def test_a_sync_killed_at_each_step(resource: str, times: int, nights: syncs.KilledNights) -> None:
    nights.resource = resource
    nights.at_each_step(times=times)
    assert nights.kills >= 5 * times


@pytest.mark.long
@pytest.mark.parametrize("resource", ["interactions", "meetings"])
def test_a_sync_killed_at_random(resource: str, nights: syncs.KilledNights) -> None:
    nights.resource = resource
    nights.at_random(100)

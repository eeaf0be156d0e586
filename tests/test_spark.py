"""The data source for Spark: rows equal to a pull's, typed, with a token that is shown nowhere."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import run
from truto_ci_async import Fault, MissingExtraError, Pacing, Plan, Sandbox, TrutoClient, UsageError
from truto_ci_async.integrations.spark import checked, columns_of, plan_shards, register

RESOURCES = ("interactions", "meetings", "users", "transcripts", "activity")
WINDOW = {"start_time": "2024-01-01", "end_time": "2024-01-15", "window": "week"}
SECONDS = 120.0

services = pytest.mark.services


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    options: dict[str, Any] = {"token_rate": None, "account_rate": None, "ratelimit_headers": None}
    with Sandbox.in_thread(accounts=4, interactions=40, page_size=20, **options) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spark")


@pytest.fixture(scope="module")
def spark(sandbox: Sandbox, folder: Path) -> Iterator[Any]:
    """A session in a JVM of its own: its workers have the environment that it was started with."""
    from pyspark.sql import SparkSession

    end_jvm()  # of another test of this process
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("TRUTO_API_TOKEN", sandbox.token)
        patch.setenv("TRUTO_API_BASE_URL", sandbox.url)
        settings = {
            "spark.ui.enabled": "false",
            "spark.sql.session.timeZone": "UTC",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": folder.as_uri(),
        }
        builder = SparkSession.builder.master("local[2,2]")  # a task that fails is run again once
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        register(session)
        try:
            yield session
        finally:
            session.stop()
            end_jvm()


def end_jvm() -> None:
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    if gateway is not None:
        SparkContext._gateway = SparkContext._jvm = None
        gateway.shutdown()
        gateway.proc.stdin.close()  # it ends with that
        gateway.proc.wait(SECONDS)


def frame_of(spark: Any, sandbox: Sandbox, resource: str, **options: str) -> Any:
    asked = {"resource": resource, "accounts": ",".join(sandbox.account_ids)}
    asked |= WINDOW if resource != "users" else {}
    return spark.read.format("truto").options(**(asked | options)).load()


def pulled(sandbox: Sandbox, resource: str) -> list[str]:
    """Return the rows of a pull, without the time they came at."""

    async def pull() -> Any:
        async with TrutoClient(sandbox.token, base_url=sandbox.url, pacing=Pacing.off()) as truto:
            window = WINDOW if resource != "users" else {}
            async with getattr(truto, resource).pull(sandbox.account_ids, **window) as pages:
                return await pages.to_arrow()

    return rows_of(run(pull()))


def rows_of(table: Any) -> list[str]:
    return sorted(map(repr, table.drop_columns(["pulled_at"]).to_pylist()))


# --- with Spark ------------------------------------------------------------------------------------------------


@services
@pytest.mark.parametrize("resource", RESOURCES)
def test_rows_are_those_of_a_pull(spark: Any, sandbox: Sandbox, resource: str) -> None:
    frame = frame_of(spark, sandbox, resource)
    assert frame.rdd.getNumPartitions() > 1
    found = rows_of(frame.toArrow())
    assert found == pulled(sandbox, resource)
    assert found


@services
def test_killed_python_workers_change_nothing(spark: Any, sandbox: Sandbox) -> None:
    sandbox.clear()
    for account in sandbox.account_ids:
        sandbox.script(account, [Fault.slow(0.2).times(4)])
    frame = frame_of(spark, sandbox, "interactions")
    found: list[Any] = []
    reading = threading.Thread(target=lambda: found.append(frame.toArrow()))
    reading.start()
    end = time.monotonic() + SECONDS
    while len(sandbox.requests) < 5:
        assert time.monotonic() < end
        time.sleep(0.01)
    for worker in python_workers():  # one of them may be idle
        os.kill(worker, signal.SIGKILL)
    reading.join(SECONDS)
    asked = len(sandbox.requests)
    pages = 2 * 2  # of twenty rows in each of two weeks
    for account in sandbox.account_ids:
        sandbox.script(account, [])
    assert rows_of(found[0]) == pulled(sandbox, "interactions")
    assert asked > len(sandbox.account_ids) * pages, "a shard was read again"


def python_workers() -> list[int]:
    """Return the workers that Spark's daemon forked, below this process."""
    parents: dict[int, int] = {}
    daemons: set[int] = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(stat[1])
            if b"pyspark.daemon" in (path / "cmdline").read_bytes():
                daemons.add(int(path.name))
        except OSError:  # it has just ended
            continue

    def is_ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return [each for each in daemons if parents[each] in daemons and is_ours(each)]


@services
def test_the_token_is_shown_nowhere(
    spark: Any, sandbox: Sandbox, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the plan, the log of events or an error; nor is one that is refused."""
    frame = frame_of(spark, sandbox, "users", token=sandbox.token)
    frame.explain(mode="formatted")
    frame.explain(extended=True)
    assert frame.count() == 40 * len(sandbox.account_ids)
    spark.sparkContext.setLogLevel("INFO")
    try:
        with pytest.raises(Exception, match="401|token") as caught:
            one = {"accounts": sandbox.account_ids[0], "token": "hunter2-hunter2"}
            frame_of(spark, sandbox, "users", **one).count()
    finally:
        spark.sparkContext.setLogLevel("WARN")
    plan = frame._jdf.queryExecution().toString()
    output = capfd.readouterr()
    shown = [plan, output.out, output.err, str(caught.value)]
    shown += [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert "users" in "".join(shown)
    for token in (sandbox.token, "hunter2-hunter2"):
        assert token not in "".join(shown)


@services
def test_an_account_that_fails_fails_the_query_unless_told(spark: Any, sandbox: Sandbox) -> None:
    bad = sandbox.account_ids[0]
    sandbox.configure(bad, blocked=True)
    try:
        with pytest.raises(Exception, match=f"1 accounts of this shard cannot be read; {bad}"):
            frame_of(spark, sandbox, "users", accounts=bad).count()
        assert frame_of(spark, sandbox, "users", on_failed="skip").count() == 120
    finally:
        sandbox.configure(bad, blocked=False)


@services
def test_accounts_are_looked_up_and_none_are_no_rows(spark: Any, sandbox: Sandbox) -> None:
    reader = spark.read.format("truto").options(resource="users", integration="gong", status="active")
    assert reader.option("shards", "2").load().count() > 0
    with pytest.raises(Exception, match="unknown options: path, tokn"):
        spark.read.format("truto").option("tokn", "x").load("x").count()
    with pytest.raises(Exception, match="the resources are interactions"):
        spark.read.format("truto").option("resource", "calls").load().count()


# --- without -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["pyspark.sql.datasource", "pyarrow"])
def test_without_spark_the_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'truto-ci-async\[spark\]'"):
        register(None)


@pytest.mark.parametrize("resource", RESOURCES)
def test_the_columns_are_those_of_a_pull(resource: str, sandbox: Sandbox) -> None:
    async def names() -> Any:
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            return getattr(truto, resource).pull(["a"]).arrow_batches().schema

    told = [column.split() for column in columns_of(resource).split(", ")]
    types = {"float64": "DOUBLE", "int64": "BIGINT", "timestamp": "TIMESTAMP", "bool": "BOOLEAN"}
    assert told == [[column.name, types.get(column.type, "STRING")] for column in asyncio.run(names())]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"shards": "x"}, "shards is a whole number"),
        ({"max_accounts": "-1"}, "max_accounts is a whole number"),
        ({"max_accounts": "0"}, "max_accounts is a whole number of at least 1, not '0'"),
        ({"shards": "9" * 5000}, "shards is a whole number"),
        ({"on_failed": "retry"}, "on_failed is raise or skip"),
        ({"ignore_remote_data": "yes"}, "ignore_remote_data is true or false"),
        ({"integrations": "gong"}, "unknown options: integrations; there are resource"),
    ],
)
def test_options_that_can_never_be_right_are_refused(given: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        checked(given)


def test_shards_have_the_accounts_and_windows_of_one_plan(sandbox: Sandbox) -> None:
    options = {"accounts": ", ".join(sandbox.account_ids), "start_time": "-7d", "shards": "3"}
    shards = plan_shards(checked({**options, "token": "hunter2", "base_url": sandbox.url}))
    assert 1 < len(shards) <= 3
    assert "hunter2" not in "".join(shards)
    plans = [Plan.from_json(shard) for shard in shards]
    assert len({plan.digest for plan in plans}) == 1
    assert sorted(each.id for plan in plans for each in plan.accounts) == sorted(sandbox.account_ids)

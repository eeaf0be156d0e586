"""Pulls on a Ray cluster of several raylets on this machine: workers, nodes, budget actors and drivers are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.landings import Row
from tests.postgres_server import PostgresServer
from tests.support import run
from truto_ci_async import (
    AuthenticationError,
    ConnectError,
    Pacing,
    Plan,
    Sandbox,
    TrutoClient,
    UsageError,
    WorkerFacts,
    read_folder,
)
from truto_ci_async.cli.main import main
from truto_ci_async.integrations import ray as on_ray
from truto_ci_async.integrations import ray_data
from truto_ci_async.integrations.ray import Job

pytestmark = [
    pytest.mark.services,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
]

ROOT = Path(__file__).parents[1]
STORE_BYTES = 80 * 2**20
STARTS = 4  # attempts to start a node
WINDOW = 5.0  # seconds of both tiers, so that twice as much is asked in the same time
TOKENS = {"SANDBOX_TOKEN_A": "token-of-a-4c1f", "SANDBOX_TOKEN_B": "token-of-b-9d2e"}


@dataclass
class Raylets:
    """A head that runs no tasks, and nodes of one core each."""

    cluster: Any
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> None:
        self.nodes.append(self.start(num_cpus=1))

    def start(self, **options: Any) -> Any:
        """Start a node. On a busy machine, Ray's half minute for that may not do."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRUTO_API_TOKEN", next(iter(TOKENS.values())))  # which no test has
            for attempt in range(STARTS):
                try:
                    return self.cluster.add_node(object_store_memory=STORE_BYTES, **options)
                except Exception as error:
                    if "timed out during startup" not in str(error) or attempt == STARTS - 1:
                        raise
        raise AssertionError

    def kill_node(self, number: int) -> None:
        self.cluster.remove_node(self.nodes.pop(number), allow_graceful=False)
        self.add()

    def kill_process(self, title: str, choose: Callable[[list[int]], int]) -> bool:
        """Kill one of our processes by its title, which Ray sets to what it runs."""
        found = self.pids(title)
        if found:
            os.kill(choose(found), signal.SIGKILL)
        return bool(found)

    def pids(self, title: str) -> list[int]:
        raylets = {
            info.process.pid
            for node in self.cluster.list_all_nodes()
            for info in node.all_processes.get("raylet", ())
        }
        return [pid for pid in children_of(raylets) if title_of(pid).startswith(title)]


def children_of(parents: set[int]) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent in parents:
            found.append(int(path.parent.name))
    return sorted(found)


def title_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    from ray.cluster_utils import Cluster

    with (
        pytest.MonkeyPatch.context() as patch,
        TemporaryDirectory(prefix="truto-ray-", ignore_cleanup_errors=True) as folder,
    ):
        for name, token in TOKENS.items():
            patch.setenv(name, token)
        patch.setenv("PYTHONPATH", str(ROOT))
        cluster = Cluster(initialize_head=False, connect=False)
        running = Raylets(cluster)
        try:
            running.start(num_cpus=0, include_dashboard=False, temp_dir=folder)
            for _ in range(2):
                running.add()
            yield running
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


def sandbox_of(accounts: int, interactions: int, window: float = WINDOW) -> Any:
    return Sandbox.in_thread(
        accounts=accounts,
        interactions=interactions,
        page_size=10,
        tokens=list(TOKENS.values()),
        token_rate=(500, window),
        account_rate=(50, window),
    )


SPAN = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}


def plan_of(sandbox: Any, accounts: list[str] | None = None) -> Plan:
    async def make() -> Plan:
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as client:
            return await client.interactions.plan(accounts or sandbox.account_ids, **SPAN)

    return run(make())


def expected(sandbox: Any) -> list[Row]:
    return sorted(
        (account, "2024-01-01", row["user"]["id"])
        for account in sandbox.account_ids
        for row in sandbox.expected(account, **SPAN)
    )


def rows_of(folder: Path) -> list[Row]:
    columns = read_folder(folder).data(["integrated_account_id", "window_start", "user_id"]).values
    return sorted((row[0], row[1].date().isoformat(), row[2]) for row in zip(*columns, strict=True))


class Driver:
    """The driver, started anew whenever it is killed."""

    def __init__(self, log: Path, **job: Any) -> None:
        self._job, self._log = job, log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray_driver", json.dumps(self._job)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
        self.start()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    @property
    def is_done(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> Any:
        output, _ = self._process.communicate(timeout=10)
        assert self._process.returncode == 0, self._log.read_text()[-6000:]
        lines = [line for line in output.splitlines() if line.startswith(b"[")]  # Ray prints there too
        return json.loads(lines[-1])

    def close(self) -> None:
        if not self.is_done:
            self._process.kill()
        self._process.communicate()


def kill(what: str, raylets: Raylets, driver: Driver, chance: random.Random) -> bool:
    """Kill one; return whether there was any."""
    match what:
        case "worker":
            return raylets.kill_process("ray::_pull_shard", chance.choice)
        case "budget":
            return raylets.kill_process("ray::Coordinator", chance.choice)
        case "node":
            raylets.kill_node(chance.randrange(len(raylets.nodes)))
        case _:
            driver.kill()
    return True


def pull_through(
    kills: list[str],
    sandbox: Any,
    raylets: Raylets,
    log: Path,
    *,
    out: str,
    window: float,
    deadline: float,
    **options: Any,
) -> int:
    """Pull into ``out`` while all of ``kills`` come at random. Return how many requests are needed without them."""
    plan = plan_of(sandbox)
    needed = sum(-(-len(sandbox.expected(account, **SPAN)) // 10) for account in sandbox.account_ids)
    sandbox.clear()
    pull = {
        "plan": plan.to_json(),
        "out": out,
        "shards": 8,
        "token": "SANDBOX_TOKEN_A",
        "options": options,
    }
    driver = Driver(log, address=raylets.address, base_url=sandbox.url, window=window, pulls=[pull])
    chance = random.Random(f"{options} {kills}")
    left = sorted(zip((chance.uniform(0.05, 0.85) * needed for _ in kills), kills, strict=True), reverse=True)
    give_up = time.monotonic() + deadline
    try:
        while not driver.is_done:
            assert time.monotonic() < give_up, log.read_text()[-6000:]
            if left and sandbox.stats.requests > left[-1][0] and kill(left[-1][1], raylets, driver, chance):
                left.pop()
            time.sleep(0.05)
        (result,) = driver.result()
    finally:
        driver.close()
    assert result["complete"]
    assert not left
    return needed


def check_cost(sandbox: Any, needed: int, capsys: pytest.CaptureFixture[str], what: str) -> None:
    stats = sandbox.stats
    refused = stats.token_refusals + stats.account_refusals
    extra = stats.requests - refused - needed
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{what}: {stats.requests} requests for {needed}, {refused} 429s ({refused / stats.requests:.2%}), "
            f"{extra / needed:.1%} extra"
        )
    assert refused <= 0.005 * stats.requests
    assert extra <= 0.10 * needed


def check_kills(
    format: str,
    kills: list[str],
    size: tuple[int, int],
    raylets: Raylets,
    server: PostgresServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    deadline: float,
) -> None:
    # A part of Parquet takes some time to commit, and each killed worker repeats as much.
    window = 2 * WINDOW if format == "parquet" and len(kills) > 2 else WINDOW
    with sandbox_of(*size, window) as sandbox:
        log = tmp_path / "log"
        if format == "postgresql":
            import psycopg

            url = server.url("postgres").replace(":hunter2", "")
            table = f"rows_{len(kills)}"
            needed = pull_through(
                kills, sandbox, raylets, log, out=url, window=window, table=table, deadline=deadline
            )
            with psycopg.connect(url) as connection:
                query = f"SELECT integrated_account_id, window_start, user_id FROM {table}".encode()
                found = sorted(
                    (account, start.date().isoformat(), user)
                    for account, start, user in connection.execute(query)
                )
        else:
            options = {"format": format} | ({"part_seconds": 0.1} if format == "parquet" else {})
            out = tmp_path / "out"
            needed = pull_through(
                kills, sandbox, raylets, log, out=str(out), window=window, deadline=deadline, **options
            )
            assert read_folder(out).complete
            found = rows_of(out)
        assert found == expected(sandbox)
        check_cost(sandbox, needed, capsys, f"{format}, {len(kills)} kills, {len(found):,} rows")


@pytest.mark.parametrize(
    ("format", "kills", "accounts"),
    [
        ("ndjson", ["worker", "budget", "node", "driver"], 30),
        ("parquet", ["worker", "budget"], 20),
        ("postgresql", ["driver", "worker"], 20),
    ],
)
def test_whatever_is_killed_nothing_is_lost_or_doubled(
    format: str,
    kills: list[str],
    accounts: int,
    raylets: Raylets,
    server: PostgresServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_kills(format, kills, (accounts, 300), raylets, server, tmp_path, capsys, 120.0)


@pytest.mark.long
@pytest.mark.parametrize(("format", "accounts"), [("ndjson", 80), ("parquet", 180), ("postgresql", 80)])
def test_ten_kills_in_each_of_three_outputs(
    format: str,
    accounts: int,
    raylets: Raylets,
    server: PostgresServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """30 kills over 100,000 rows in all: each time 4 workers, and 2 each of the others."""
    kills = ["worker", "budget", "node", "driver"] * 2 + ["worker"] * 2
    check_kills(format, kills, (accounts, 300), raylets, server, tmp_path, capsys, 600.0)


def test_two_tokens_are_twice_as_fast(
    raylets: Raylets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers with a token each, against one worker with one token: both tiers are on."""
    seconds: list[float] = []
    for count in (1, 2):
        with sandbox_of(12 * count, 400, 10.0) as sandbox:
            accounts = [sandbox.account_ids[at::count] for at in range(count)]
            plans = [plan_of(sandbox, some) for some in accounts]
            sandbox.clear()
            pulls = [
                {
                    "plan": plan.to_json(),
                    "out": str(tmp_path / f"{count}-{token}"),
                    "shards": 1,
                    "token": token,
                }
                for plan, token in zip(plans, TOKENS, strict=False)
            ]
            driver = Driver(
                tmp_path / "log", address=raylets.address, base_url=sandbox.url, window=10.0, pulls=pulls
            )
            try:
                wait_until(lambda driver=driver: driver.is_done, 90.0)
                assert all(each["complete"] for each in driver.result())
            finally:
                driver.close()
            times: dict[str, list[float]] = {}
            for each in sandbox.requests:
                times.setdefault(each.headers["Authorization"], []).append(each.time)
            # While all of them are at work: Ray starts one worker after the other.
            begin, end = max(map(min, times.values())), min(map(max, times.values()))
            sent = [at for some in times.values() for at in some if begin <= at <= end]
            seconds.append((end - begin) / len(sent))
            assert sandbox.stats.token_refusals + sandbox.stats.account_refusals <= 0.005 * len(
                sandbox.requests
            )
    with capsys.disabled():
        print(f"\ntwo tokens: {seconds[0] / seconds[1]:.2f} times the rate of one")  # noqa: T201
    assert seconds[0] / seconds[1] >= 1.8


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_ctrl_c_ends_all_and_no_token_is_anywhere(raylets: Raylets, tmp_path: Path) -> None:
    with sandbox_of(40, 500) as sandbox:
        out = tmp_path / "out"
        pull = {"plan": plan_of(sandbox).to_json(), "out": str(out), "shards": 4, "token": "SANDBOX_TOKEN_A"}
        job = {"address": raylets.address, "base_url": sandbox.url, "window": WINDOW, "pulls": [pull]}
        sandbox.clear()
        driver = Driver(tmp_path / "log", **job)
        try:
            wait_until(lambda: sandbox.stats.requests > 100, 60.0)
            begun = time.monotonic()
            driver.interrupt()
            wait_until(lambda: driver.is_done, 10.0)
            wait_until(lambda: not raylets.pids("ray::_pull_shard"), begun + 10.0 - time.monotonic())
            sent = sandbox.stats.requests
        finally:
            driver.close()
        assert committed_rows(out) >= 10 * (sent - 40)  # they committed what they had
        logs = (path for path in Path(raylets.cluster.head_node.get_session_dir_path()).rglob("*"))
        texts = [path.read_bytes() for path in logs if path.is_file()] + [(tmp_path / "log").read_bytes()]
        assert not [text for text in texts if TOKENS["SANDBOX_TOKEN_A"].encode() in text]


def committed_rows(out: Path) -> int:
    return len(read_folder(out))


# --- bad input -------------------------------------------------------------------------------------------------


def pull(plan: Plan, out: Path, address: str, **options: Any) -> Any:
    return run(on_ray.pull_to(plan, out, address=address, shards=2, **options), timeout=60.0)


@pytest.fixture
def disconnected() -> Iterator[None]:
    """Ray as it is in a new process, and after the test."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("disconnected")
def test_what_cannot_work_is_told_before_anything_is_asked(
    raylets: Raylets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sandbox_of(2, 20) as sandbox:
        plan = plan_of(sandbox)
        sandbox.clear()

        def refused(message: str, **options: Any) -> None:
            with pytest.raises(UsageError, match=message):
                pull(plan, tmp_path / "out", raylets.address, base_url=sandbox.url, **options)

        refused("has no NOT_SET in its environment", token="NOT_SET")
        refused("no node of the cluster has 64 CPU", token="SANDBOX_TOKEN_A", cpus=64)
        with monkeypatch.context() as patch:
            patch.setattr(WorkerFacts, "write_probe", lambda probe, run: None)
            refused("does not see .*all workers share", token="SANDBOX_TOKEN_A")
        with monkeypatch.context() as patch:
            patch.setattr("truto_ci_async.pull.worker_facts.__version__", "99.0")
            refused("has truto_ci_async .*, and this is 99.0", token="SANDBOX_TOKEN_A")
        assert not sandbox.requests
        with pytest.raises(AuthenticationError):
            pull(plan, tmp_path / "out", raylets.address, base_url=sandbox.url, token="HOME")


def test_an_address_that_does_not_answer_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "CONNECT_SECONDS", 3.0)
    with sandbox_of(1, 10) as sandbox:
        for address in ("127.0.0.1:9", sandbox.url.removeprefix("http://")):
            begun = time.monotonic()
            with pytest.raises(ConnectError, match=f"tried {address}"):
                pull(plan_of(sandbox), tmp_path / "out", address)
            assert time.monotonic() - begun < 10.0


@pytest.mark.usefixtures("disconnected")
def test_rows_as_datasets_and_totals_as_metrics(
    raylets: Raylets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: dict[str, float] = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert (*tags,) == self.tag_keys
            totals[f"{self.name} {tags['resource']}"] = value

    with sandbox_of(4, 60) as sandbox:
        plan = plan_of(sandbox)
        token = {"token": "SANDBOX_TOKEN_A", "base_url": sandbox.url}
        with monkeypatch.context() as patch:
            patch.setattr("ray.util.metrics.Gauge", Gauge)
            reports = pull(plan, tmp_path / "out", raylets.address, format="parquet", **token)
        assert reports.complete
        wanted = sorted(row[2] for row in expected(sandbox))
        assert totals["truto_pull_rows interactions"] == reports.total("rows") == len(wanted)
        assert totals["truto_pull_done interactions"] == reports.total("done") == 4
        for found in (ray_data.dataset(tmp_path / "out"), ray_data.read(plan, **token)):
            assert sorted(row["user_id"] for row in found.take_all()) == wanted
        pull(plan, tmp_path / "text", raylets.address, **token)
        with pytest.raises(UsageError, match="holds ndjson"):
            ray_data.dataset(tmp_path / "text")


@pytest.mark.usefixtures("disconnected")
def test_the_command_line_pulls_on_a_cluster(
    raylets: Raylets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sandbox_of(3, 30) as sandbox:
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        monkeypatch.setenv("TRUTO_API_BASE_URL", sandbox.url)
        out, span = tmp_path / "out", ("--start-time", "2024-01-01", "--end-time", "2024-02-01")
        where = ("--engine", "ray", "--ray-address", raylets.address, "--shards", "2", "--out", str(out))
        assert main(["pull", "--integration", "gong", "--status", "active", *span, *where]) == 0
        assert "2 of 2 shards begun, 3 of 3 accounts" in capsys.readouterr().err
        assert rows_of(out) == expected(sandbox)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_line_in_order(
    sent: signal.Signals, code: int, raylets: Raylets, tmp_path: Path
) -> None:
    """On a cluster, and, for SIGTERM, on one that the command started. The same line then goes on."""
    with sandbox_of(20, 200) as sandbox:
        where = ("--ray-address", raylets.address) if sent == signal.SIGINT else ()
        span = (
            "--start-time",
            "2024-01-01",
            "--end-time",
            "2024-02-01",
            "--integration",
            "gong",
            "--status",
            "active",
        )
        argv = ("pull", "--engine", "ray", *where, "--shards", "2", *span, "--out", str(tmp_path / "out"))
        urls = {"TRUTO_API_TOKEN": sandbox.token, "TRUTO_API_BASE_URL": sandbox.url}
        command = [sys.executable, "-m", "truto_ci_async", *argv]
        options: dict[str, Any] = {"env": {**os.environ, **urls, "PYTHONPATH": str(ROOT)}, "text": True}
        earlier = {*raylets.pids("ray::Coordinator")}  # of drivers that were killed
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, **options)
        try:
            wait_until(lambda: sandbox.stats.requests > 60 or process.poll() is not None, 60.0)
            started = descendants_of(process.pid)
            os.killpg(process.pid, sent)  # as a terminal does, or a service manager
            _, told = process.communicate(timeout=10.0)
        finally:
            process.kill()
        assert process.returncode == code
        assert "run the same command again to continue" in told.splitlines(), (
            told
        )  # Ray may add a line of its own
        assert "Traceback" not in told
        assert "***" not in told
        wait_until(lambda: not any(map(is_running, started)), 5.0)
        wait_until(lambda: not raylets.pids("ray::_pull_shard"), 5.0)
        wait_until(lambda: {*raylets.pids("ray::Coordinator")} <= earlier, 5.0)
        sandbox.clear()
        again = subprocess.run(command, stderr=subprocess.PIPE, timeout=60.0, check=False, **options)
        assert again.returncode == 0, again.stderr
        assert rows_of(tmp_path / "out") == expected(sandbox)
        assert sandbox.stats.requests < 20 * 20


@pytest.mark.usefixtures("disconnected")
def test_a_budget_actor_ends_by_itself_once_nobody_asks_it(
    raylets: Raylets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that was killed cannot end it, and nobody may ever run that token again."""
    import ray

    monkeypatch.setattr(on_ray, "IDLE_SECONDS", 1.0)
    ray.init(raylets.address, namespace=on_ray.NAMESPACE, logging_level="ERROR")
    job = Job("out", {}, "TOKEN", "000000000000000f", None, Pacing(), 1.0, None, "run")
    actor = on_ray._actor(ray, job)
    assert ray.get(actor.told.remote("run"), timeout=60.0) == {}
    name = "truto-budgets-15"
    wait_until(lambda: name not in ray.util.list_named_actors(), 15.0)


def descendants_of(pid: int) -> set[int]:
    found, newest = set[int](), {pid}
    while newest:
        newest = set(children_of(newest)) - found
        found |= newest
    return found


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and title_of(pid) != ""  # a zombie has none


@pytest.mark.usefixtures("disconnected")
def test_without_an_address_it_is_the_cores_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes of such a cluster outlive the call that started it."""
    with sandbox_of(3, 30) as sandbox:
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        for _ in range(2):
            reports = run(
                on_ray.pull_to(plan_of(sandbox), tmp_path / "out", shards=2, base_url=sandbox.url),
                timeout=90.0,
            )
            assert reports.complete
        assert rows_of(tmp_path / "out") == expected(sandbox)

"""What engines are built on: a budget that is served to others, and the engine of the documentation."""

from __future__ import annotations

import math
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.landings import BOUNDS, expected
from tests.support import examples, run
from truto_ci_async import (
    ConfigurationError,
    ConnectError,
    Coordinator,
    Fault,
    MemoryBudget,
    MissingExtraError,
    Pacing,
    Plan,
    PlannedAccount,
    PullReport,
    Rate,
    Sandbox,
    ShardReports,
    SharedBudget,
    TrutoClient,
    TrutoError,
    UsageError,
    WorkerFacts,
    read_folder,
)
from truto_ci_async.cli.engine import say_result
from truto_ci_async.cli.main import main
from truto_ci_async.cli.messages import FAILED, SOME_FAILED, USAGE, advise
from truto_ci_async.integrations import ray as on_ray
from truto_ci_async.integrations import ray_data

ROOT = Path(__file__).parents[1]
PLAN = Plan(accounts=(PlannedAccount("a"),))

# --- the budget ------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def most_in(times: list[float], seconds: float) -> int:
    """Return how many of them are in any window of that length."""
    first, most = 0, 0
    for last, time in enumerate(times):
        while time - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 10), st.sampled_from("abc")), max_size=200),
    restarts=st.sets(st.integers(0, 200), max_size=3),
)
@examples(100)
def test_neither_limit_is_passed_in_any_window(
    steps: list[tuple[float, int, str]], restarts: set[int]
) -> None:
    """And a budget that forgets everything, as a killed one does, adds no more than its burst to what it granted."""
    clock, pacing = Clock(), Pacing(token=Rate(50, 10.0), account=Rate(20, 10.0))
    budget = MemoryBudget(pacing, clock=clock)
    granted: list[tuple[float, str]] = []
    forgot = 0
    for number, (pause, n, account) in enumerate(steps):
        if number in restarts:
            budget, forgot = MemoryBudget(pacing, clock=clock), forgot + 1
        clock.now += pause
        grant = run_now(budget, n, account)
        assert 0 <= grant.count <= n
        if not grant.count:
            assert grant.retry_after >= 0
        granted += [(clock.now, account)] * grant.count
    assert most_in([at for at, _ in granted], 10.0) <= 50 + (5 if forgot else 0)
    if not forgot:
        for each in "abc":
            assert most_in([at for at, account in granted if account == each], 10.0) <= 20


def run_now(budget: MemoryBudget, n: int, account: str | None) -> Any:
    return budget.take_now(n, account)


def test_the_permitted_rate_is_used() -> None:
    clock = Clock()
    budget = MemoryBudget(clock=clock)
    total = 0
    for _ in range(6_000):
        clock.now += 0.01
        total += budget.take_now(1, f"account {total % 40}").count
    assert total >= 0.95 * 50 * 60
    assert isinstance(budget, SharedBudget)


def test_a_new_budget_saves_up_no_burst_in_its_first_window() -> None:
    """While nobody reached it, each client went on by itself."""
    for idle, most in ((2.0, 10), (11.0, 50)):
        clock = Clock()
        budget = MemoryBudget(clock=clock)
        clock.now += idle
        assert sum(budget.take_now(10, f"account {number}").count for number in range(100)) == most


def test_it_says_when_to_ask_again_and_forgets_idle_accounts() -> None:
    clock = Clock()
    budget = MemoryBudget(Pacing(token=None, account=Rate(10, 10.0)), clock=clock)
    assert budget.take_now(5, "a").count == 1  # a burst of a tenth
    refused = budget.take_now(5, "a")
    assert (refused.count, refused.level) == (0, "account")
    clock.now += refused.retry_after + 1e-6
    assert budget.take_now(5, "a").count == 1
    assert budget.take_now(5, None).count == 5
    for number in range(10_000):
        clock.now += 0.1
        budget.take_now(1, str(number))
    assert len(budget._accounts) < 5_000
    assert run(budget.take(1, "b")).count == 1


# --- engines ---------------------------------------------------------------------------------------------------


@pytest.mark.services  # it starts five processes, which import everything anew
def test_the_engine_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of concurrent.futures, in 40 lines."""
    page = (ROOT / "docs" / "how-to" / "engines.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (program,) = (each for each in programs if "ProcessPoolExecutor" in each)
    assert len([line for line in program.splitlines() if line.strip()]) <= 42
    (tmp_path / "own_engine.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with Sandbox.in_thread(accounts=4, interactions=20, page_size=10) as sandbox:
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        monkeypatch.setenv("TRUTO_API_BASE_URL", sandbox.url)

        async def plan() -> Plan:
            async with TrutoClient() as client:
                return await client.interactions.plan(sandbox.account_ids, **BOUNDS)

        engine = __import__("own_engine")
        reports = engine.pull_in_processes(run(plan()), tmp_path / "out", shards=3)
        assert reports.complete
        assert len(read_folder(tmp_path / "out")) == len(expected(sandbox)) == reports.total("rows")
    sys.modules.pop("own_engine")


def test_reports_of_shards() -> None:
    reports = ShardReports(2)
    assert not reports.complete
    reports.by_shard[1] = {"complete": True, "rows": 3, "failed": {}}
    assert not reports.complete
    reports.by_shard[2] = {
        "complete": False,
        "rows": 4,
        "failed": {"a": {"error": "ServerError", "message": "m"}},
    }
    assert not reports.complete
    assert reports.total("rows") == 7
    assert list(reports.failed) == ["a"]
    assert "7 rows" in repr(reports)


def test_without_ray_the_line_to_type_is_told() -> None:
    async def pull() -> None:
        await on_ray.pull_to(PLAN, "data/")

    for call in (lambda: run(pull()), lambda: ray_data.dataset("data/"), lambda: ray_data.read(PLAN)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "ray", None)
            patch.setitem(sys.modules, "ray.data", None)
            with pytest.raises(MissingExtraError, match=r"pip install 'truto-ci-async\[ray\]'"):
                call()


def test_pulls_in_two_event_loops_share_one_connection() -> None:
    class Cluster:
        count = 0

        def is_initialized(self) -> bool:
            return self.count > 0

        def init(self, *_: object, **options: object) -> None:
            threading.Event().wait(0.1)  # so that the other one has to wait
            self.count += 1

    cluster, together = Cluster(), threading.Barrier(2)

    def connect() -> None:
        together.wait(10.0)
        run(on_ray._connect(cluster, "auto"))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(connect) for _ in range(2)]:
            done.result(10.0)
    assert cluster.count == 1


def check(**given: Any) -> None:
    right: dict[str, Any] = {"plan": PLAN, "out": "data/", "token": "TOKEN", "address": None}
    on_ray.check_arguments(**{**right, "cpus": 1.0, "retries": 100, "on_progress": None, **given})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("plan", (None, "plan.json", [PLAN])),
        ("out", (None, "", 3, b"data/")),
        ("address", (6379, ("head", 6379), True)),
        ("cpus", (math.nan, math.inf, -1, 1.5, True, "1", None, 10**9)),
        ("retries", (math.nan, -2, 3.0, True, "3", None)),
        ("on_progress", (3, "print", True)),
    ],
)
def test_what_ray_can_never_run_is_told(name: str, values: tuple[Any, ...]) -> None:
    """What was given, and what is expected; before a cluster is looked for."""
    for value in values:
        with pytest.raises(UsageError, match=f"^{name} takes .* not {re.escape(repr(value)[:20])}"):
            check(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("cpus", 0), ("cpus", 0.5), ("cpus", 4.0), ("retries", -1), ("retries", 0)]
)
def test_what_ray_can_run_is_taken(name: str, value: Any) -> None:
    check(**{name: value})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fromat": "csv"}, TypeError, "fromat"),
        ({"pacing": 3}, ConfigurationError, "pacing"),
        ({"base_url": "localhost"}, ConfigurationError, "base_url"),
    ],
)
def test_options_are_checked_before_a_cluster_is_looked_for(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(on_ray.pull_to(PLAN, "data/", **options))


@pytest.mark.parametrize(
    ("token", "out", "message"),
    [
        ("eyJhbGciOi.secret-token", "data/", "an environment variable"),
        ("TOKEN", "postgresql://me:hunter2@db/calls", "has a password"),
        ("TOKEN", "postgresql://me@db/calls?sslmode=require&password=hunter2", "has a password"),
        ("TOKEN", "postgresql://me@db/calls?sslpassword=hunter2", "has a password"),
        ("TOKEN", "postgresql://me:hunter2[@db/calls", "has a password"),
    ],
)
def test_no_secret_is_given_to_ray(token: str, out: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check(token=token, out=out)
    assert "hunter2" not in str(caught.value)
    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize("out", ["data/", "postgresql://me@db/calls?sslmode=require", lambda: "data/"])
def test_what_holds_no_secret_is_given_to_ray(out: Any) -> None:
    check(out=out)


def test_what_is_wrong_with_a_worker_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = str(tmp_path / "out" / "probe")
    monkeypatch.setenv("TOKEN", "t")
    asked = ("TOKEN", probe)
    assert "does not see" in WorkerFacts.here(*asked).problems(*asked, "r")[0]
    WorkerFacts.write_probe(probe, "r")
    here = WorkerFacts.here(*asked)
    assert here.problems(*asked, "r") == []
    assert "does not see" in here.problems(*asked, "of another run")[0]
    assert "Python 3.9.1" in replace(here, python="3.9.1").problems(*asked, "r")[0]
    assert "truto_ci_async 0.9" in replace(here, version="0.9").problems(*asked, "r")[0]
    monkeypatch.setenv("TOKEN", "")
    assert "has no TOKEN" in WorkerFacts.here(*asked).problems(*asked, "r")[0]
    assert WorkerFacts.here().problems() == []


def test_a_coordinator_keeps_budgets_and_reports() -> None:
    coordinator, pacing = Coordinator(), Pacing(token=Rate(10, 10.0), account=None)
    assert coordinator.take("a", pacing, 5, "x")[0] == 0  # a new one starts without a burst
    assert coordinator.take("b", Pacing.off(), 5, "x") == (5, 0.0, "token")
    for run_id in range(200):
        coordinator.tell(str(run_id), 1, {"rows": run_id})
    assert coordinator.told("199") == {1: {"rows": 199}}
    assert coordinator.told("0") == {}
    assert not coordinator.forget("199")  # the driver of 0 is there
    assert coordinator.forget("0")
    assert coordinator.told("199") == {}


def test_a_coordinator_that_nobody_asks_says_so() -> None:
    ended = threading.Event()
    began = monotonic()
    coordinator = Coordinator(ended.set, 0.2)
    while monotonic() < began + 0.3:
        coordinator.tell("a", 1, {})
        assert not ended.wait(0.01)
    assert ended.wait(5.0)


def test_a_report_of_very_many_failures_is_bounded() -> None:
    report = PullReport(accounts=50)
    for number in range(50):
        report.failed[str(number)] = TrutoError("it failed")
        report.parked[str(number)] = None
        report.misaligned[str(number)] = "asked for one day, answered for another"
    found = report.to_dict(most=10)
    assert len(found["failed"]) == len(found["parked"]) == len(found["misaligned"]) == 10
    assert (found["failed_count"], found["parked_count"], found["filtered_count"]) == (50, 50, 0)
    assert "failed_count" not in report.to_dict()


def test_a_look_at_rows_never_leaves_out_an_account_without_a_word() -> None:
    """Neither one that fails nor one that is parked."""
    with Sandbox.in_thread(accounts=2, interactions=4) as sandbox:
        account = sandbox.account_ids[0]

        async def plan() -> Plan:
            async with TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
                return await truto.interactions.plan(sandbox.account_ids, **BOUNDS)

        read = ray_data._reader(run(plan()), lambda: sandbox.token, sandbox.url, Pacing.off())
        for fault, told in ((Fault.status(403), "403"), (Fault.status(429, retry_after=86400), account)):
            sandbox.script(account, [fault.forever()])
            with pytest.raises(TrutoError, match=told):
                list(read())


# --- the command line ------------------------------------------------------------------------------------------


def test_an_address_of_a_cluster_is_not_that_of_the_service() -> None:
    assert advise(ConnectError("no Ray cluster: tried h:1", attempts=0), {}) is None


def test_the_summary_counts_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    report = PullReport(accounts=3)
    report.failed["a"], report.parked["b"] = TrutoError("it failed"), None
    reports = ShardReports(1)
    reports.by_shard[1] = report.to_dict(most=100)
    assert say_result("interactions", reports) == SOME_FAILED
    told = capsys.readouterr().err
    assert "a: it failed" in told
    assert "1 accounts are parked" in told


@pytest.mark.parametrize("where", [("--out", "folder"), ("--to", "postgresql://h/d")])
def test_a_cluster_is_given_the_options_of_the_place_to_write_to(
    where: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    async def pull_to(plan: object, out: str, **options: Any) -> ShardReports:
        given.update(options)
        reports = ShardReports(1)
        reports.by_shard[0] = PullReport().to_dict(most=100)
        return reports

    monkeypatch.setattr(on_ray, "ray_library", lambda: None)
    monkeypatch.setattr(on_ray, "pull_to", pull_to)
    monkeypatch.setenv("TRUTO_API_TOKEN", "t")
    more = {
        "--out": ("-o", "csv", "--csv-formulas", "escape"),
        "--to": ("--table", "t", "--mode", "merge", "--add-columns", "--on-rejected", "keep"),
    }[where[0]]
    window = ("--start-time", "2024-01-01", "--end-time", "2024-01-08")
    main(["pull", "-a", "x", "--engine", "ray", *window, *where, *more])
    expected = {
        "--out": {"format": "csv", "csv_formulas": "escape"},
        "--to": {"table": "t", "mode": "merge", "add_columns": True, "on_rejected": "keep"},
    }[where[0]]
    assert {name: given[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--shards", "4"), "--shards: for --engine ray only"),
        (("--ray-address", "h:1"), "--ray-address: for --engine ray only"),
        (("--engine", "spark"), "'spark' is not ray"),
        (("--engine", "ray", "--shards", "0"), "--shards"),
        (("--engine", "ray", "--sandbox"), "--sandbox: not with --engine"),
        (("--engine", "ray", "--fresh"), "use another folder"),
        (("--engine", "ray", "--timeout", "9"), "--timeout: not with --engine"),
        (("--engine", "ray", "--token", "t"), "read TRUTO_API_TOKEN where they run"),
        (("--engine", "ray"), "pip install 'truto-ci-async[ray]'"),
    ],
)
def test_a_command_line_that_no_engine_can_run(
    argv: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("TRUTO_API_TOKEN", "t")
    assert main(["pull", "-a", "x", "--out", str(tmp_path / "out"), *argv]) in (FAILED, USAGE)
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()

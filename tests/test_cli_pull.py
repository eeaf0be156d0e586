"""``truto-ci pull``: what it writes, shows and returns, and that it can be stopped at any time and continued."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import pytest

from truto_ci_async import ClientStats, Fault, Sandbox
from truto_ci_async._text import duration, printable
from truto_ci_async.cli.activity import Activity, shown
from truto_ci_async.cli.app import parse
from truto_ci_async.cli.main import main
from truto_ci_async.cli.messages import (
    CONFLICT,
    DONE,
    INCOMPLETE,
    INTERRUPTED,
    REFUSED,
    SOME_FAILED,
    TERMINATED,
    USAGE,
)
from truto_ci_async.cli.pull_progress import MAX_NAMED, PullProgress, summary
from truto_ci_async.errors import PermissionDeniedError, TrutoError
from truto_ci_async.events import PacingWait, RequestSent, ResponseReceived, RetryScheduled
from truto_ci_async.pull.report import PullReport
from truto_ci_async.sinks.layout import STATE_FILE

DEADLINE = 30.0  # seconds for a process to do what it is waited for
START, END = "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"
WINDOW = ("--start-time", "2024-01-01", "--end-time", "2024-02-01")
ACCOUNTS, PEOPLE, PAGE = 4, 7, 2
TOKEN = "the-token-of-these-tests"
posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Generator[Sandbox]:
    with Sandbox.in_thread(
        accounts=ACCOUNTS,
        interactions=PEOPLE,
        page_size=PAGE,
        tokens=[TOKEN],
        token_rate=None,
        account_rate=None,
        ratelimit_headers=None,
    ) as running:
        monkeypatch.setenv("TRUTO_API_BASE_URL", running.url)
        monkeypatch.setenv("TRUTO_API_TOKEN", TOKEN)
        yield running


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ran]:
    """Call ``main`` for ``pull`` into ``tmp_path / "out"`` and return what it printed."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")

    def run_main(*argv: str, out: str = "out") -> Ran:
        capsys.readouterr()
        code = main(["pull", "--out", str(tmp_path / out), *argv])
        return Ran(code, *capsys.readouterr())

    return run_main


def expected(sandbox: Sandbox) -> list[tuple[str, str]]:
    return sorted(
        (account, row["user"]["id"])
        for account in sandbox.account_ids
        for row in sandbox.expected(account, start_time=START, end_time=END)
    )


def rows(folder: Path) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in (folder / "interactions.ndjson").read_text().splitlines()]
    return sorted((row["integrated_account_id"], row["user"]["id"]) for row in found)


# --- what is written -------------------------------------------------------------------------------------------


def test_every_active_account_into_a_folder(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    """Found by integration and status, with their tenants. A second run sends no requests."""
    found = ("--integration", "gong", "--status", "active", *WINDOW)
    ran = run(*found, "--report", str(tmp_path / "report.json"))
    assert (ran.code, ran.out) == (DONE, "")
    assert rows(tmp_path / "out") == expected(sandbox)
    lines = (tmp_path / "out" / "interactions.ndjson").read_text().splitlines()
    tenants = {account["id"]: account["tenant_id"] for account in sandbox.accounts}
    assert all(row["tenant_id"] == tenants[row["integrated_account_id"]] for row in map(json.loads, lines))
    assert re.search(rf"accounts done +{ACCOUNTS} +of {ACCOUNTS}", ran.err)
    assert re.search(rf"rows +{ACCOUNTS * PEOPLE} +in 16 pages", ran.err)
    assert TOKEN not in ran.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["complete"], report["rows"], report["exit_code"]) == (True, ACCOUNTS * PEOPLE, DONE)
    assert (report["requests"], report["format"]) == (16 + 2, "ndjson")
    sandbox.clear()
    ran = run(*found)
    assert ran.code == DONE
    assert not sandbox.requests, "not even for the accounts"


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_other_formats(sandbox: Sandbox, run: Any, tmp_path: Path, format: str) -> None:
    if format == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    assert run("--accounts", ",".join(sandbox.account_ids), *WINDOW, "-o", format).code == DONE
    if format == "csv":
        with (tmp_path / "out" / "interactions.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
    else:
        found = (
            parquet.ParquetFile(tmp_path / "out/interactions/part-000001.parquet")
            .read(use_threads=False)
            .to_pylist()
        )
    assert sorted((row["integrated_account_id"], row["user_id"]) for row in found) == expected(sandbox)


def test_accounts_of_a_file_and_filters(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    first, second = sandbox.account_ids[:2]
    (tmp_path / "ids").write_text(f'{first}\n{{"id": "{second}", "tenant_id": "mine"}}\n')
    user = sandbox.user_ids(first)[1]
    more = ("--user", user, "--limit", "5", "--ignore-remote-data", "--exclude-field", "timezone")
    ran = run("--accounts-file", str(tmp_path / "ids"), *WINDOW, "--window", "10d", *more)
    assert ran.code == DONE
    lines = [json.loads(line) for line in (tmp_path / "out" / "interactions.ndjson").read_text().splitlines()]
    assert [line["window_start"][:10] for line in lines] == [
        "2024-01-01",
        "2024-01-11",
        "2024-01-21",
        "2024-01-31",
    ]
    assert not {"remote_data", "timezone"} & set(lines[0])
    assert {line["user"]["id"] for line in lines} == {user}
    assert "2 of 2" not in ran.err
    assert re.search(r"accounts done +2 +of 2, 1 of them empty", ran.err)


def test_accounts_of_stdin(
    sandbox: Sandbox, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sandbox.account_ids[0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"# mine\n{first}\n".encode())))
    assert run("--accounts-file", "-", *WINDOW).code == DONE
    assert {account for account, _ in rows(tmp_path / "out")} == {first}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b\n")))
    ran = run("--accounts-file", "-", *WINDOW)
    assert (ran.code, "stdin, line 1: expected one id per line" in ran.err) == (USAGE, True)
    for more, code, said in (((), USAGE, "stdin has no accounts"), (("--allow-empty",), DONE, "of 0,")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"# none today\n")))
        ran = run("--accounts-file", "-", "--fresh", *WINDOW, *more)
        assert (ran.code, said in ran.err) == (code, True), ran.err


def test_a_database_instead_of_a_folder(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same report and exit codes; a second run asks nothing."""
    duckdb = pytest.importorskip("duckdb")
    line = [
        "pull",
        "--integration",
        "gong",
        "--status",
        "active",
        *WINDOW,
        "--to",
        f"duckdb:///{tmp_path / 'x.db'}",
    ]
    line += ["--table", "talk", "--report", str(tmp_path / "report.json")]
    for _ in range(2):
        assert main(line) == DONE
        report = json.loads((tmp_path / "report.json").read_text())
        assert (report["complete"], report["format"], report["out"]) == (
            True,
            None,
            line[line.index("--to") + 1],
        )
        with duckdb.connect(str(tmp_path / "x.db"), read_only=True) as con:
            found = con.sql("select integrated_account_id, user_id from talk").fetchall()
        assert sorted(found) == expected(sandbox)
        assert "accounts done" in capsys.readouterr().err
    asked = len(sandbox.requests)
    assert main([*line, "--limit", "3"]) == CONFLICT
    assert len(sandbox.requests) <= asked + 2  # for the accounts


def test_what_does_not_fit_is_listed_line_by_line(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with the options of the command line, not the arguments of Python."""
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "x.db")) as con:
        con.execute("create table talk (id integer, integrated_account_id varchar)")
    line = ["pull", "-a", sandbox.account_ids[0], *WINDOW, "--to", f"duckdb:///{tmp_path / 'x.db'}"]
    assert main([*line, "--table", "talk"]) == CONFLICT
    lines = capsys.readouterr().err.splitlines()
    assert "  id is INTEGER, not VARCHAR" in lines
    assert "  patience (DOUBLE) is missing: add it, or pass --add-columns" in lines
    assert not sandbox.requests


def test_a_table_is_synced(sandbox: Sandbox, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    line = [
        "sync",
        "--integration",
        "gong",
        "--status",
        "active",
        "--to",
        f"duckdb:///{tmp_path / 'x.db'}",
        "--quiet",
    ]
    line += ["--max-history", "2d", "--time-zone", "US/Pacific", "--lookback", "1d"]
    counts = []
    for _ in range(2):
        assert main(line) == DONE
        with duckdb.connect(str(tmp_path / "x.db"), read_only=True) as con:
            counts.append(
                con.sql("select count(*), count(distinct window_start) from interactions").fetchall()[0]
            )
    assert counts[0] == counts[1]
    assert counts[0][1] >= 2


def test_times_and_lengths_of_a_command_line() -> None:
    def options(*argv: str) -> Any:
        return parse(["pull", "--out", "x", *argv])[1]

    assert options("--start-time=-7d").start_time == "-7d"
    assert options("--start-time", "today-12h").start_time == "today-12h"
    assert options("--end-time", "now").end_time == "now"
    assert options("--start-time", "2024-01-01").start_time == "2024-01-01"
    assert options("--start-time", "2024-01-01T00:00:00+01:00").start_time == "2024-01-01T00:00:00+01:00"
    assert options("--window", "6h").window == timedelta(hours=6)
    assert options("--window", "week").window == "week"
    for wrong in (
        ("--window", "0d"),
        ("--window", "fortnight"),
        ("--start-time", ""),
        ("--start-time", "soon"),
        ("--start-time", "20240101"),
        ("--limit", "9" * 5000),
        ("--max-accounts", str(10**400)),
        ("--timeout", "1e400"),
    ):
        with pytest.raises(click.UsageError):
            options(*wrong)


# --- the report ------------------------------------------------------------------------------------------------


def reported(sandbox: Sandbox, run: Any, path: Path | str, *more: str) -> Ran:
    ran: Ran = run("--accounts", sandbox.account_ids[0], *WINDOW, "--report", str(path), *more)
    return ran


@posix
def test_a_report_goes_into_a_device_or_pipe_and_through_a_link(
    sandbox: Sandbox, run: Any, tmp_path: Path
) -> None:
    """As root, replacing /dev/null by a file would break the machine."""
    assert reported(sandbox, run, "/dev/null").code == DONE
    assert Path("/dev/null").is_char_device()

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert reported(sandbox, run, pipe).code == DONE
    reader.join(DEADLINE)
    assert pipe.is_fifo()
    assert json.loads(found[0])["complete"]

    link, target = tmp_path / "latest.json", tmp_path / "today.json"
    link.symlink_to(target)
    assert reported(sandbox, run, link).code == DONE
    assert link.is_symlink()
    assert json.loads(target.read_text())["complete"]
    assert json.loads(reported(sandbox, run, "-").out)["complete"]


@posix
def test_a_report_may_be_in_the_folder_of_the_pull_and_not_in_its_place(
    sandbox: Sandbox, run: Any, tmp_path: Path
) -> None:
    for path in (tmp_path / "out", tmp_path / "out" / ".." / "out", tmp_path):
        ran = reported(sandbox, run, path)
        assert (ran.code, "--report" in ran.err) == (USAGE, True)
    assert list(tmp_path.iterdir()) == []
    assert reported(sandbox, run, tmp_path / "out" / "report.json").code == DONE
    assert json.loads((tmp_path / "out" / "report.json").read_text())["complete"]


@posix
def test_a_report_cannot_control_the_terminal(sandbox: Sandbox, tmp_path: Path) -> None:
    """JSON may hold C1 controls and marks of direction as they are."""
    leader, follower = os.openpty()
    evil = "a\x9b2J\u202eb"
    command = [sys.executable, "-m", "truto_ci_async", "pull", "--accounts", evil, *WINDOW, "--report", "-"]
    with subprocess.Popen(
        [*command, "--out", tmp_path / "out"],
        stdout=follower,
        stderr=subprocess.DEVNULL,
    ) as started:
        os.close(follower)
        found = b""
        with suppress(OSError):  # at its end on Linux
            while part := os.read(leader, 65_536):
                found += part
        os.close(leader)
        assert started.wait(DEADLINE) == SOME_FAILED
    text = found.decode()
    assert '"accounts": 1' in text
    assert not {"\x9b", "\u202e"} & set(text)


def test_what_the_service_says_of_an_account_cannot_control_the_terminal(sandbox: Sandbox, run: Any) -> None:
    evil = "\x1b[2J\x9b0m\x7f\u202e\u2028\nforged"
    insight = {"forbidden_error": {"value": {"missing_scopes": [evil]}}}
    accounts = sandbox.account_ids
    sandbox.script(accounts[0], [Fault.status(403, message=evil, insight=insight).forever()])
    sandbox.script(accounts[1], [Fault.body(f"{evil}{{".encode()).forever()])
    ran = run("--accounts", ",".join([*accounts[:2], evil.replace("\n", "")]), *WINDOW, "-v")
    assert ran.code == SOME_FAILED
    assert "2J" in ran.err, "it was shown"
    for line in (ran.err + ran.out).split("\n"):
        assert printable(line) == line
        assert not line.startswith("forged")


@posix
def test_a_report_keeps_permissions_and_follows_no_planted_link(
    sandbox: Sandbox, run: Any, tmp_path: Path
) -> None:
    report, victim = tmp_path / "r.json", tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".r.json.tmp").symlink_to(victim)
    report.write_text("old")
    report.chmod(0o600)
    assert reported(sandbox, run, report).code == DONE
    assert json.loads(report.read_text())["complete"]
    assert report.stat().st_mode & 0o777 == 0o600
    assert victim.read_text() == "precious"
    assert reported(sandbox, run, tmp_path / ("r" * 250)).code == DONE


@pytest.mark.parametrize(
    "name",
    [
        "interactions.ndjson",
        "interactions.csv",
        "manifest.json",
        STATE_FILE,
        f"{STATE_FILE}.lock",
        ".truto-pull.lock",
        "Manifest.JSON",
    ],
)
def test_a_report_never_replaces_what_the_pull_keeps(
    sandbox: Sandbox, run: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    link = tmp_path / "link.json"
    if os.name != "nt":
        link.symlink_to(tmp_path / "out" / name)
    for path in (tmp_path / "out" / name, tmp_path / "out" / ".." / "out" / name, link):
        ran = reported(sandbox, run, path)
        assert (ran.code, "would replace a file of a pull" in ran.err) == (USAGE, True)
    assert sandbox.stats.requests == 0
    assert list((tmp_path / "out").iterdir()) == []


def test_a_report_never_replaces_the_accounts_it_came_from(
    sandbox: Sandbox, run: Any, tmp_path: Path
) -> None:
    ids = tmp_path / "ids"
    ids.write_text(sandbox.account_ids[0])
    ran = run("--accounts-file", str(ids), *WINDOW, "--report", str(ids))
    assert (ran.code, "that this command reads" in ran.err) == (USAGE, True)
    assert ids.read_text() == sandbox.account_ids[0]


def test_a_report_never_replaces_the_output_of_a_pull_with_a_state_elsewhere(
    sandbox: Sandbox, run: Any, tmp_path: Path
) -> None:
    """Its folder is known by the manifest. A `manifest.json` of something else makes no such folder."""
    out = tmp_path / "earlier"
    line = ("--accounts", sandbox.account_ids[0], *WINDOW)
    assert run(*line, out="earlier").code == DONE
    for state in out.glob(".truto-pull*"):
        state.unlink()
    ran = run(*line, "--report", str(out / "interactions.ndjson"))
    assert (ran.code, "would replace a file of a pull" in ran.err) == (USAGE, True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    assert run(*line, "--report", str(other / "manifest.json")).code == DONE


def test_a_file_of_accounts_is_none_that_the_pull_writes(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    """It would be replaced, removed as what a killed run left, or written on."""
    (tmp_path / "out").mkdir()
    ids = tmp_path / "out" / "interactions.csv"
    ids.write_text(sandbox.account_ids[0])
    ran = run("--accounts-file", str(tmp_path / "out" / ".." / "out" / ids.name), *WINDOW)
    assert (ran.code, "uses itself" in ran.err) == (USAGE, True)
    assert [path.name for path in ids.parent.iterdir()] == [ids.name]
    ids = ids.rename(ids.with_name("ids"))  # another name in that folder is fine
    assert run("--accounts-file", str(ids), *WINDOW).code == DONE
    assert ids.read_text() == sandbox.account_ids[0]


@posix
def test_a_folder_whose_name_is_not_utf8_can_be_reported(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    """Python holds such a name as text that cannot be encoded."""
    report = tmp_path / "report.json"
    line = ("--accounts", sandbox.account_ids[0], *WINDOW, "--report", str(report))
    assert run(*line, out=os.fsdecode(b"caf\xe9")).code == DONE
    assert json.loads(report.read_bytes())["out"].endswith("caf\ufffd")
    assert rows(tmp_path / os.fsdecode(b"caf\xe9"))


# --- exit codes ------------------------------------------------------------------------------------------------


def test_a_pull_that_fails_at_once_replaces_an_older_report(
    sandbox: Sandbox, run: Any, tmp_path: Path
) -> None:
    """A job reads the report after the pull: yesterday's would say that all is well."""
    report = tmp_path / "report.json"
    line = ("--accounts", sandbox.account_ids[0], *WINDOW, "--report", str(report))
    assert run(*line).code == DONE
    before = json.loads(report.read_text())
    assert (before["exit_code"], before["complete"], before["error"]) == (DONE, True, None)
    assert run(*line, "--limit", "1").code == CONFLICT
    told = json.loads(report.read_text())
    assert (told["exit_code"], told["complete"]) == (CONFLICT, False)
    assert told["error"]["type"] == "StateConflictError"
    assert "limit is 1" in told["error"]["message"]


def test_a_fresh_pull_is_continued_without_fresh(sandbox: Sandbox, run: Any) -> None:
    """The same command with --fresh would start over each time."""
    sandbox.script(sandbox.account_ids[0], [Fault.status(403).forever()])
    ran = run("--accounts", sandbox.account_ids[0], *WINDOW, "--fresh")
    assert ran.code == SOME_FAILED
    assert "run the same command again without --fresh" in ran.err


def test_an_interruption_before_it_starts_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("truto_ci_async.cli.app.parse", interrupted)
    assert main(["pull"]) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_failing_and_parked_accounts(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    """Exit code 5 when one failed, 4 when some are only parked, 0 when all are done, each for the same command."""
    bad, *parked = sandbox.account_ids[:4]
    line = ("--accounts", ",".join(sandbox.account_ids), *WINDOW, "--report", str(tmp_path / "report.json"))
    sandbox.script(bad, [Fault.ok(), Fault.status(403).forever()])
    for account in parked:
        sandbox.script(account, [Fault.ok(), Fault.status(429, retry_after=86400).forever()])
    ran = run(*line)
    assert ran.code == SOME_FAILED
    assert f"failed: {bad}: " in ran.err
    assert all(f"parked: {account}: until 20" in ran.err for account in parked)
    assert "run the same command again" in ran.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["failed"][bad]["error"] == "PermissionDeniedError"
    assert set(report["parked"]) == set(parked)
    sandbox.clear_faults()
    ran = run(*line)
    assert ran.code == INCOMPLETE
    assert re.search(r"parked +3 +the first can be tried again at 20", ran.err)
    database = sqlite3.connect(tmp_path / "out" / STATE_FILE)
    with database:
        database.execute("UPDATE progress SET until = until - 90000")  # tomorrow
    database.close()
    assert run(*line).code == DONE
    assert rows(tmp_path / "out") == expected(sandbox)


def test_a_refused_token(sandbox: Sandbox, run: Any) -> None:
    sandbox.tokens[:] = ["another"]
    ran = run("--accounts", sandbox.account_ids[0], *WINDOW)
    assert ran.code == REFUSED
    assert "check the token" in ran.err
    assert "Traceback" not in ran.err
    assert run("--integration", "gong", *WINDOW, out="other").code == REFUSED


def test_state_that_does_not_fit(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    one = ("--accounts", sandbox.account_ids[0], *WINDOW)
    both = ("--accounts", ",".join(sandbox.account_ids[:2]), *WINDOW)
    assert run(*one).code == DONE
    ran = run(*one[:-1], "2024-03-01")
    assert (ran.code, 'end_time is "2024-03-01' in ran.err) == (CONFLICT, True)
    ran = run(*both)
    assert (ran.code, "1 account is new" in ran.err) == (CONFLICT, True)
    assert run(*both, "--grow").code == DONE
    assert len(rows(tmp_path / "out")) == 2 * PEOPLE
    assert run(*both, "-o", "csv").code == CONFLICT
    output = tmp_path / "out" / "interactions.ndjson"
    output.write_bytes(output.read_bytes().replace(b"a", b"b", 1))
    ran = run(*both)
    assert (ran.code, "does not match what was committed" in ran.err) == (CONFLICT, True)
    assert run(*both, "--fresh").code == DONE
    assert len(rows(tmp_path / "out")) == 2 * PEOPLE


def test_a_folder_that_cannot_be_written(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    ran = run("--accounts", sandbox.account_ids[0], *WINDOW)
    assert ran.code == USAGE
    assert "is a file, and a pull needs a folder" in ran.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (WINDOW, "which accounts?"),
        ((*WINDOW, "--accounts", "a", "--status", "active"), "use one of them"),
        ((*WINDOW, "--accounts-file", "/not/there"), "cannot read accounts"),
        (("--accounts", "a", "--start-time", "2024-02-01", "--end-time", "2024-01-01"), "not after"),
        (
            ("--accounts", "a", *WINDOW, "--report", "/not/there/report.json"),
            "the directory does not exist",
        ),
        (("--accounts", "a", *WINDOW, "--report", ""), "--report: it is empty"),
        (("--accounts", "a", *WINDOW, "--report", "/"), "--report needs the name of a file"),
        (("--accounts", "a", *WINDOW, "--out", ""), "--out: it is empty"),
        (("--accounts-file", "", "--integration", "gong", *WINDOW), "--accounts-file: it is empty"),
        (("--accounts", " , ", *WINDOW), "--accounts has no accounts"),
    ],
)
def test_wrong_usage(sandbox: Sandbox, run: Any, argv: tuple[str, ...], words: str) -> None:
    ran = run(*argv)
    assert (ran.code, words in ran.err) == (USAGE, True), ran.err
    assert sandbox.stats.requests == 0


def test_no_account_is_an_error_that_stores_nothing(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    """A misspelt integration was pulled at once, and reported as complete; corrected, it was another plan."""
    line = ("--status", "active", *WINDOW)
    ran = run("--integration", "gongg", *line, out="new/folder")
    assert ran.code == USAGE
    assert (
        "no account has the integration 'gongg' and status 'active'; the integrations are gong (" in ran.err
    )
    assert "--allow-empty" in ran.err
    assert not (tmp_path / "new").exists()
    assert run("--integration", "gong", *line, out="new/folder").code == DONE
    before = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert run("--integration", "gongg", "--fresh", *line, out="new/folder").code == USAGE
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == before
    assert rows(tmp_path / "new" / "folder") == expected(sandbox)
    assert run("--integration", "gong", *line, out="new/folder").code == DONE


def test_no_account_is_fine_for_those_who_say_so(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    line = ("--integration", "gongg", "--status", "active", *WINDOW)
    assert run(*line, "--allow-empty").code == DONE
    assert run(*line, "--allow-empty").code == DONE
    ran = run(*line)
    assert (ran.code, "start over with --fresh" in ran.err) == (USAGE, True)
    (tmp_path / "ids").write_text("# none yet\n")
    assert run("--accounts-file", str(tmp_path / "ids"), *WINDOW, "--allow-empty", out="other").code == DONE


# --- signals and pipes -----------------------------------------------------------------------------------------


@contextmanager
def process(*argv: str, **options: Any) -> Generator[subprocess.Popen[bytes]]:
    """Start a real ``truto-ci pull``; it is killed at the end of the block or at the deadline."""
    arguments = [sys.executable, "-W", "error", "-m", "truto_ci_async", "pull", *argv]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with subprocess.Popen(arguments, **options) as started:
        watchdog = threading.Timer(DEADLINE, started.kill)
        watchdog.start()
        try:
            yield started
        finally:
            watchdog.cancel()
            started.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@posix
@pytest.mark.parametrize("case", ["SIGINT", "SIGTERM", "SIGINT twice"])
def test_a_signal_leaves_everything_in_order(sandbox: Sandbox, run: Any, tmp_path: Path, case: str) -> None:
    """It ends within two seconds although requests hang, fetched pages are written, and the next run continues.

    A second signal does not wait for fetched pages to be written, so it is sent once they are.
    """
    output = tmp_path / "out" / "interactions.ndjson"
    which = getattr(signal, case.split()[0])
    line = ("--accounts", ",".join(sandbox.account_ids), *WINDOW)
    for account in sandbox.account_ids:
        sandbox.script(account, [Fault.ok().times(2), Fault.hang().forever()])
    with process(*line, "--out", str(tmp_path / "out"), "--report", str(tmp_path / "report.json")) as started:
        until(lambda: sandbox.stats.requests == 3 * ACCOUNTS)
        began = time.monotonic()
        started.send_signal(which)
        if case.endswith("twice"):
            assert started.stderr is not None
            assert any(b"stopping" in line for line in iter(started.stderr.readline, b""))
            until(lambda: output.read_bytes().count(b"\n") == 2 * PAGE * ACCOUNTS)
            started.send_signal(which)
        out, err = started.communicate(timeout=DEADLINE)
        took = time.monotonic() - began
    assert took <= 2.0
    assert started.returncode == (TERMINATED if case == "SIGTERM" else INTERRUPTED)
    assert out == b""
    assert b"Traceback" not in err
    assert b"run the same command again" in err
    assert json.loads((tmp_path / "report.json").read_text())["exit_code"] == started.returncode
    assert len(rows(tmp_path / "out")) == 2 * PAGE * ACCOUNTS
    sandbox.clear_faults()
    sandbox.clear()
    assert run(*line).code == DONE
    assert sandbox.stats.requests == 2 * ACCOUNTS
    assert rows(tmp_path / "out") == expected(sandbox)


@posix
def test_a_signal_before_the_pull_has_started(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.fault(Fault.hang())
    with process("--integration", "gong", *WINDOW, "--out", str(tmp_path / "out")) as started:
        until(lambda: sandbox.stats.requests == 1)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=DEADLINE)
    assert (started.returncode, b"Traceback" in err) == (INTERRUPTED, False)


@posix
@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_a_reader_that_went_away_changes_nothing(sandbox: Sandbox, tmp_path: Path, which: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        line = ("--accounts", ",".join(sandbox.account_ids), *WINDOW, "--out", str(tmp_path / "out"))
        with process(*line, **{which: writer}) as started:
            out, err = started.communicate(timeout=DEADLINE)
    finally:
        os.close(writer)
    assert started.returncode == DONE
    assert b"Traceback" not in (err or b"") + (out or b"")
    assert rows(tmp_path / "out") == expected(sandbox)


@posix
def test_without_an_account_of_your_own(tmp_path: Path) -> None:
    """``--sandbox`` needs no setup, and the next process continues with a new sandbox of the same data."""
    line = ("--sandbox", "--out", str(tmp_path), "--limit", "5")
    with process(*line) as started:
        until(lambda: (tmp_path / "interactions.ndjson").exists())
        until(lambda: (tmp_path / "interactions.ndjson").stat().st_size > 0)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=DEADLINE)
    assert (started.returncode, b"Traceback" in err) == (INTERRUPTED, False)
    before = rows(tmp_path)
    assert 0 < len(before) < 24 * 250
    with process(*line) as started:
        _, err = started.communicate(timeout=DEADLINE)
    assert started.returncode == DONE, err
    assert len(rows(tmp_path)) == len(set(rows(tmp_path))) == 24 * 250
    assert set(before) <= set(rows(tmp_path))


# --- progress --------------------------------------------------------------------------------------------------


class Running:
    """The parts of a pull that its progress reads."""

    def __init__(self, accounts: int) -> None:
        self.report = PullReport(accounts)
        self.outage: tuple[float, str] | None = None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sampled() -> tuple[PullProgress, PullReport]:
    clock = Clock()
    progress = PullProgress(clock)
    assert progress.parts() == ["finding the accounts"]
    running: Any = Running(1000)
    progress.on_start(running)
    for number in range(20):
        progress.on_event(RequestSent(time=0.0, method="GET", url="/", call_id=number))
    progress.on_event(PacingWait(time=0.0, level="token", wait=90.0))
    progress.on_event(RetryScheduled(time=0.0, reason="status 502", wait=2.5, attempt=1))
    clock.now = 10.0
    report: PullReport = running.report
    report.done, report.rows, report.empty = 98, 2000, 4
    report.failed["bad"] = PermissionDeniedError("no", status=403, error="Forbidden")
    report.parked["later"] = 1_700_000_000.0
    progress.sample()
    return progress, report


def test_progress_says_how_far_how_fast_and_how_long() -> None:
    progress, report = sampled()
    assert ", ".join(progress.parts()) == (
        "98 of 1,000 accounts, 2,000 rows (200/s), 20 requests (2/s), 1 failed, 1 parked, "
        "waited 1 min 30 s for token limit, 2.5 s for retry after status 502, about 1 min 30 s left"
    )
    report.done = 998
    assert "left" not in progress.parts()[-1]
    assert [duration(seconds) for seconds in (0.04, 59.6, 61, 3725)] == [
        "0.0 s",
        "60 s",
        "1 min 01 s",
        "1 h 02 min",
    ]


def test_the_time_left_is_told_once_it_can_be_known() -> None:
    """Those that are pulled side by side end together: before that, an estimate would be far off."""
    clock = Clock()
    progress = PullProgress(clock)
    running: Any = Running(1000)
    progress.on_start(running)
    for second in range(1, 101):
        clock.now = float(second)
        running.report.done = second * 10 // 32 * 32
        progress.sample()
        left = progress.seconds_left()
        assert (left is None) is (running.report.done < 64)
        assert left is None or 0.5 * (100 - second) - 4 <= left <= 2 * (100 - second) + 4


def test_a_wait_for_a_limit_names_it() -> None:
    clock = Clock()
    activity = Activity(clock)
    client: Any = SimpleNamespace(stats=lambda: ClientStats(waiting={"account": 2, "token": 0, "retry": 0}))
    activity.watch(client)
    assert activity.waiting() == ""
    activity.on_event(RequestSent(time=0.0, method="GET", url="/", call_id=1))
    clock.now = 9.0
    assert activity.waiting() == ""  # for the response
    activity.on_event(ResponseReceived(time=0.0, status=200, call_id=1))
    clock.now = 13.0
    assert activity.waiting() == "waiting 4.0 s: account limit"
    activity.on_event(RetryScheduled(time=0.0, reason="status 429", wait=10.0, attempt=1, call_id=1))
    clock.now = 14.0
    assert activity.waiting() == "waiting 9.0 s: status 429"


def test_progress_names_an_outage_and_its_cause() -> None:
    """A mistyped address looks the same as a service that is down until you read the cause."""
    progress, _ = sampled()
    running: Any = progress.pull
    running.outage = (75.0, "ConnectError: the connection failed: Connect call failed ('127.0.0.1', 9)")
    assert (
        "no answer for 1 min 15 s, still trying (ConnectError: the connection failed: Connect call failed "
        "('127.0.0.1', 9))"
    ) in progress.parts()


def test_progress_over_many_windows_counts_them() -> None:
    """With 31 windows per account, no account is done until near the end, so their number shows no progress."""
    progress, report = sampled()
    report.windows, report.windows_done, report.done = 31, 5_000, 0
    clock: Any = progress._clock
    clock.now += 10.0
    progress.sample()
    said = ", ".join(progress.parts())
    assert said.startswith("0 of 1,000 accounts, 5,000 of 31,000 windows, ")
    assert re.search(r"about \d+ (s|min \d\d s) left", said)


def test_the_summary_names_what_is_missing() -> None:
    progress, report = sampled()
    for number in range(MAX_NAMED + 5):
        report.failed[f"bad-{number}"] = TrutoError("broken")
    lines = summary(progress, "out", {})
    text = "\n".join(lines)
    assert "failed: bad: Truto responded with 403 Forbidden: no; the token or the account" in text
    assert "... and 6 more" in text
    assert "parked: later: until 2023-11-14 22:13:20Z" in text
    assert re.search(r"left +885 +the next run", text)
    assert len({line.index("  ", 4) for line in lines if line.startswith("  accounts")}) == 1
    assert summary(PullProgress(), "out", {}) == []


@posix
def test_a_terminal_shows_live_progress(sandbox: Sandbox, tmp_path: Path) -> None:
    import pty

    sandbox.script(sandbox.account_ids[0], [Fault.slow(1.5)])
    line = ("--accounts", ",".join(sandbox.account_ids), *WINDOW, "--out", str(tmp_path / "out"))
    leader, follower = pty.openpty()
    try:
        with process(
            *line, stderr=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        ) as started:
            os.close(follower)
            shown = b""
            try:
                while piece := os.read(leader, 4096):
                    shown += piece
            except OSError:  # Linux's way of saying that the other end is closed
                pass
            started.wait(DEADLINE)
    finally:
        os.close(leader)
    assert started.returncode == DONE
    assert f"of {ACCOUNTS} accounts".encode() in shown
    assert b"\x1b[2K" in shown  # lines were erased
    assert b"accounts done" in shown


def test_the_display_ends_with_its_block() -> None:
    async def scenario() -> None:
        progress, _ = sampled()
        async with shown(progress.parts):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_a_pull_escapes_formulas_on_request(sandbox: Sandbox, run: Any, tmp_path: Path) -> None:
    line = ("--accounts", sandbox.account_ids[0], *WINDOW, "--csv-formulas", "escape")
    ran = run(*line)
    assert (ran.code, "--csv-formulas is for csv" in ran.err) == (USAGE, True)
    assert run(*line, "-o", "csv").code == DONE
    assert (
        json.loads((tmp_path / "out/manifest.json").read_bytes())["resources"]["interactions"]["csv_formulas"]
        == "escape"
    )

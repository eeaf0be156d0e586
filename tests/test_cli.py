"""The command line: what it prints where, its exit codes, and how to continue after a failure.

Most tests call ``main`` in this process against a sandbox in a thread; pipes, signals and terminals need real ones.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from truto_ci_async import Fault, Meeting, Sandbox, UsageError, __version__, errors
from truto_ci_async._text import printable
from truto_ci_async.cli import accounts
from truto_ci_async.cli.app import COMMANDS, app
from truto_ci_async.cli.main import main
from truto_ci_async.cli.messages import (
    DONE,
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    REFUSED,
    TERMINATED,
    USAGE,
    Progress,
    advise,
)
from truto_ci_async.cli.options import FORMATS, Options
from truto_ci_async.cli.output import resumable
from truto_ci_async.cli.output.cells import cell_width
from truto_ci_async.cli.output.destinations import NewFile, Output
from truto_ci_async.cli.output.resumable import ResumableFile, State
from truto_ci_async.cli.output.streams import OpenStream, descriptor_of
from truto_ci_async.cli.output.tables import ANY_LAYOUT, LAYOUTS, Column, TableWriter, fit
from truto_ci_async.cli.output.writers import (
    CsvWriter,
    JsonWriter,
    NdjsonWriter,
    YamlWriter,
)
from truto_ci_async.cli.pages import writer_for
from truto_ci_async.cli.pull import PULL_SANDBOX
from truto_ci_async.cli.values import read_query
from truto_ci_async.sinks.layout import STATE_FILE

from .support import examples, file_size_limit

DEADLINE = 20.0  # seconds for a process to do what it is waited for
START, END = "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"
WINDOW = ("--start-time", "2024-01-01", "--end-time", "2024-02-01")
PEOPLE, PAGE = 7, 3  # so three pages, the last one short
TOKEN = "the-token-of-these-tests"
posix = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and links of POSIX")


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def cursor(self) -> str:
        """The position from which stderr says to continue."""
        found: str = re.findall(r"--next-cursor[ =](\S+)", self.err)[-1]
        return found


Run = Callable[..., Ran]


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Generator[Sandbox]:
    """A sandbox that the environment points at, with one account of three pages."""
    with Sandbox.in_thread(accounts=1, interactions=PEOPLE, page_size=PAGE, tokens=[TOKEN]) as running:
        monkeypatch.setenv("TRUTO_API_BASE_URL", running.url)
        monkeypatch.setenv("TRUTO_API_TOKEN", TOKEN)
        yield running


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call ``main`` and return what it printed."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.delenv("COLUMNS", raising=False)

    def run_main(*argv: str) -> Ran:
        capsysbinary.readouterr()
        code = main(argv)
        printed = capsysbinary.readouterr()
        if code == TERMINATED:  # whoever ends this test run means all of it; the command took the signal
            pytest.exit("terminated", TERMINATED)
        return Ran(code, printed.out.decode(), printed.err.decode())

    return run_main


def listing(sandbox: Sandbox, *more: str) -> list[str]:
    return ["interactions", "-a", sandbox.account_ids[0], *WINDOW, *more]


def expected(sandbox: Sandbox, **options: Any) -> list[dict[str, Any]]:
    return sandbox.expected(sandbox.account_ids[0], start_time=START, end_time=END, **options)


def ndjson(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def process(*argv: str, stdout: int = subprocess.PIPE) -> Generator[subprocess.Popen[bytes]]:
    """Start a real ``truto-ci``; it is killed at the end of the block or at the deadline."""
    command = [sys.executable, "-W", "error", "-m", "truto_ci_async", *argv]
    hangup = getattr(signal, "SIGHUP", signal.SIGTERM)  # ignored where these tests run under nohup
    before = signal.signal(hangup, signal.SIG_DFL)
    try:
        started = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE)
    finally:
        signal.signal(hangup, before)
    with started:
        watchdog = threading.Timer(DEADLINE, started.kill)
        watchdog.start()
        try:
            yield started
        finally:
            watchdog.cancel()
            started.kill()


def ended(started: subprocess.Popen[bytes]) -> Ran:
    out, err = started.communicate(timeout=DEADLINE)
    return Ran(started.returncode, (out or b"").decode(), (err or b"").decode())


# --- streams ---------------------------------------------------------------------------------------------------


class Slowly(threading.Thread):
    """A server with one response: it sends the beginning at once, and the rest when told to."""

    def __init__(self, beginning: bytes, rest: bytes) -> None:
        super().__init__(daemon=True)
        self._parts = beginning, rest
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.go_on = threading.Event()

    def run(self) -> None:
        with self._listener, self._listener.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(b"".join(self._parts)))
            connection.sendall(self._parts[0])
            self.go_on.wait(DEADLINE)
            connection.sendall(self._parts[1])


@pytest.fixture
def slowly() -> Generator[Callable[[bytes, bytes], Slowly]]:
    started: list[Slowly] = []

    def start(beginning: bytes, rest: bytes) -> Slowly:
        server = Slowly(beginning, rest)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.go_on.set()
        server.join(DEADLINE)


STREAM = ("interactions", "-a", "account", "--token", TOKEN, "--response-format", "stream")


@pytest.mark.parametrize("format", ["json", "ndjson", "yaml"])
def test_a_stream_is_written_item_by_item_over_all_pages(sandbox: Sandbox, run: Run, format: str) -> None:
    if format == "yaml":
        load = pytest.importorskip("yaml").safe_load
    else:
        load = json.loads if format == "json" else ndjson
    ran = run(
        *listing(sandbox, "--response-format", "stream", *(() if format == "ndjson" else ("-o", format)))
    )
    assert ran.code == DONE
    assert load(ran.out) == expected(sandbox)
    assert "7 interactions, 3 pages" in ran.err
    assert "more" not in ran.err


def test_rows_of_a_stream_are_those_of_a_list(sandbox: Sandbox, run: Run) -> None:
    """Apart from the widths of a table's columns, which the first batch decides: a stream's may be less than a page."""
    for format in ("csv", "table"):
        listed = run(*listing(sandbox, "-o", format)).out
        streamed = run(*listing(sandbox, "-o", format, "--response-format", "stream")).out
        if format == "table":
            listed, streamed = (re.sub(" {2,}", "  ", text) for text in (listed, streamed))
        assert len(listed.splitlines()) == 1 + PEOPLE
        assert listed == streamed


def test_a_stream_writes_its_first_items_before_the_body_ends(
    slowly: Callable[[bytes, bytes], Slowly],
) -> None:
    """A body that takes hours must feed the reader of a pipe from the first item on."""
    server = slowly(b'{"result":[{"id":"1"},{"id":"2"},', b'{"id":"3"}]}')
    with process(*STREAM, "--api-url", server.url) as started:
        assert started.stdout is not None
        assert ndjson((started.stdout.readline() + started.stdout.readline()).decode()) == [
            {"id": "1"},
            {"id": "2"},
        ]
        assert not server.go_on.is_set()
        server.go_on.set()
        ran = ended(started)
    assert ran.code == DONE
    assert ndjson(ran.out) == [{"id": "3"}]


def test_a_broken_stream_is_incomplete_and_says_how_to_continue(
    slowly: Callable[[bytes, bytes], Slowly], tmp_path: Path, run: Run
) -> None:
    server = slowly(b'{"result":[{"id":"1"},{"id":"2"},', b'{"id":"3"')  # and nothing more
    server.go_on.set()
    file = tmp_path / "items.json"
    ran = run(*STREAM, "--api-url", server.url, "-o", "json", "--out", str(file))
    assert ran.code == INCOMPLETE
    assert "complete so far: 2 interactions, in " in ran.err
    said = (
        "to continue (it repeats the last 2), in a file of another name, add: --next-cursor truto-position-"
    )
    assert said in ran.err
    assert json.loads(file.with_name("items.json.partial").read_text()) == [{"id": "1"}, {"id": "2"}]
    assert not file.exists()


def test_a_stream_continues_from_a_later_page_that_failed(sandbox: Sandbox, run: Run) -> None:
    sandbox.script(sandbox.account_ids[0], [Fault.ok(), Fault.status(400).forever()])
    ran = run(*listing(sandbox, "--response-format", "stream"))
    assert ran.code == FAILED
    assert len(ndjson(ran.out)) == PAGE
    assert "repeats" not in ran.err
    sandbox.clear_faults()
    rest = run(*listing(sandbox, "--response-format", "stream", "--next-cursor", ran.cursor))
    assert ndjson(ran.out) + ndjson(rest.out) == expected(sandbox)


def test_a_stream_stops_after_max_items_or_max_pages(sandbox: Sandbox, run: Run) -> None:
    ran = run(*listing(sandbox, "--response-format", "stream", "--max-pages", "2"))
    assert ndjson(ran.out) == expected(sandbox)[: 2 * PAGE]
    assert "6 interactions, 2 pages" in ran.err
    assert "there is more; to continue" in ran.err
    rest = run(*listing(sandbox, "--response-format", "stream", "--next-cursor", ran.cursor))
    assert ndjson(ran.out) + ndjson(rest.out) == expected(sandbox)
    assert len(sandbox.requests) == 3

    ran = run(*listing(sandbox, "--response-format", "stream", "--max-items", "2"))
    assert ndjson(ran.out) == expected(sandbox)[:2]
    assert "there may be more on this first page: raise --max-items" in ran.err
    ran = run(*listing(sandbox, "--response-format", "stream", "--max-items", "4"))
    assert ndjson(ran.out) == expected(sandbox)[:4]
    assert "there may be more; to continue (it repeats the last 1)" in ran.err


def test_gongs_own_body_is_streamed_by_its_path(sandbox: Sandbox, run: Run) -> None:
    sandbox.configure(sandbox.account_ids[0], provider_shape="gong")
    ran = run(*listing(sandbox, "--response-format", "stream"))
    assert ran.code == FAILED
    assert "--path KEY" in ran.err
    assert "to continue" not in ran.err
    ran = run(*listing(sandbox, "--response-format", "stream", "--path", "peopleInteractionStats"))
    assert ran.code == DONE
    assert ndjson(ran.out) == expected(sandbox, provider=True)[:PAGE]
    ran = run(
        *listing(sandbox, "--response-format", "stream", "--path", "peopleInteractionStats", "-o", "csv")
    )
    assert ran.out.startswith("userId,")


@pytest.mark.parametrize(
    "more", [("--path", "a"), ("--response-format", "stream", "--key-by", "id", "-o", "json")]
)
def test_options_that_contradict_a_stream_are_refused(
    sandbox: Sandbox, run: Run, more: tuple[str, ...]
) -> None:
    ran = run(*listing(sandbox, *more))
    assert ran.code == USAGE
    assert "--response-format stream" in ran.err
    assert sandbox.requests == []


# --- what is printed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["json", "ndjson", "yaml"])
def test_documents_hold_exactly_what_the_service_sent(sandbox: Sandbox, run: Run, format: str) -> None:
    """An export that drops a field, or turns an id into a number, is worse than none."""
    if format == "yaml":
        load = pytest.importorskip("yaml").safe_load
    else:
        load = json.loads if format == "json" else ndjson
    ran = run(*listing(sandbox, "-o", format))
    assert ran.code == DONE
    assert load(ran.out) == expected(sandbox)
    assert "7 interactions, 3 pages" in ran.err


def test_csv_is_one_flat_row_for_each_interaction(sandbox: Sandbox, run: Run) -> None:
    ran = run(*listing(sandbox, "-o", "csv"))
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert list(rows[0])[:4] == ["id", "user_id", "user_name", "user_email"]
    for row, item in zip(rows, expected(sandbox), strict=True):
        assert (row["id"], row["user_id"]) == (item["id"], item["user"]["id"])
        assert datetime.fromisoformat(row["start_time"]) == datetime.fromisoformat(item["start_time"])
        assert row["start_time"].endswith("+00:00")
        for name in (
            "longest_monologue",
            "longest_customer_story",
            "interactivity",
            "patience",
            "question_rate",
        ):
            value = item["metrics"].get(name)
            assert row[name] == ("" if value is None else json.dumps(float(value)))
        assert json.loads(row["remote_data"]) == item["remote_data"]


def test_a_table_shows_user_window_and_rounded_metrics(sandbox: Sandbox, run: Run) -> None:
    ran = run(*listing(sandbox))
    head, *lines = ran.out.splitlines()
    assert re.split("  +", head) == [
        *(
            "user",
            "user id",
            "monologue",
            "customer story",
            "interactivity",
            "patience",
            "questions",
            "window",
        )
    ]
    for line, item in zip(lines, expected(sandbox), strict=True):
        email, user_id, *metrics, window = line.split()
        assert (email, user_id) == (item["user"]["emails"][0]["email"], item["user"]["id"])
        assert window == "2024-01-01..2024-02-01"
        values = [item["metrics"].get(name) for name in ("longest_monologue", "longest_customer_story")]
        assert metrics[:2] == ["-" if value is None else f"{value:.2f}" for value in values]
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("command", ["interactions", "accounts"])
def test_ids_are_never_cut_however_narrow_the_terminal(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    if command == "accounts":
        ids = [account["id"] for account in sandbox.accounts]
        lines = run("accounts").out.splitlines()
    else:
        ids = sandbox.user_ids(sandbox.account_ids[0])
        lines = run(*listing(sandbox)).out.splitlines()
        assert max(map(cell_width, lines)) <= 40
    assert all(any(each in line.split() for line in lines) for each in ids)


@pytest.mark.parametrize(
    ("format", "text"),
    [("json", "[]\n"), ("ndjson", ""), ("yaml", "[]\n"), ("table", ""), ("csv", "id,user_id,")],
)
def test_an_empty_window_is_a_document_too(sandbox: Sandbox, run: Run, format: str, text: str) -> None:
    if format == "yaml":
        pytest.importorskip("yaml")
    sandbox.configure(sandbox.account_ids[0], interactions=0)
    ran = run(*listing(sandbox, "-o", format))
    assert ran.code == DONE
    assert ran.out[: len(text)] == text
    assert len(ran.out.splitlines()) <= 1
    assert "0 interactions" in ran.err


def test_ndjson_stays_one_line_per_item_when_the_service_indents_its_json(sandbox: Sandbox, run: Run) -> None:
    items = [{"id": "1", "remote_data": {"rate": 1.00}}, {"id": "2"}]
    sandbox.fault(Fault.body(json.dumps({"result": items}, indent=2)))
    assert ndjson(run(*listing(sandbox, "-o", "ndjson")).out) == items


def test_repairs_are_reported_on_stderr(sandbox: Sandbox, run: Run) -> None:
    sandbox.fault(Fault.items([{"id": "1", "metrics": {"patience": "much"}}], mode="append"))
    ran = run(*listing(sandbox, "-o", "csv"))
    assert ran.code == DONE
    assert "warning: repaired $.result[3].metrics.patience" in ran.err


def test_key_by_gives_one_object(sandbox: Sandbox, run: Run) -> None:
    ran = run(*listing(sandbox, "--key-by", "id"))
    assert json.loads(ran.out) == {item["id"]: item for item in expected(sandbox)}


def test_raw_gives_the_responses_of_the_provider(sandbox: Sandbox, run: Run) -> None:
    documents = json.loads(run(*listing(sandbox, "--response-format", "raw")).out)
    assert [row for each in documents for row in each["result"]] == expected(sandbox, provider=True)


def test_raw_says_that_the_provider_has_more(sandbox: Sandbox, run: Run) -> None:
    """Gong's own body pages by ``records.cursor``, for which this format cannot ask: one document is not all."""
    gong = {"records": {"totalRecords": 263, "cursor": "eyJ"}, "peopleInteractionStats": [{"userId": "1"}]}
    sandbox.script(None, [Fault.body(gong)])
    ran = run(*listing(sandbox, "--response-format", "raw"))
    assert (ran.code, json.loads(ran.out)) == (DONE, [gong])
    assert "warning: the provider has more" in ran.err


def test_raw_fails_where_the_cursor_cannot_be_read(sandbox: Sandbox, run: Run) -> None:
    sandbox.script(None, [Fault.body({"result": [{"id": "1"}], "next_cursor": {"offset": 100}})])
    ran = run(*listing(sandbox, "--response-format", "raw", "-o", "ndjson"))
    assert (ran.code, len(ndjson(ran.out))) == (FAILED, 1)
    assert "next_cursor must be a string" in ran.err


@pytest.mark.parametrize(("format", "text"), [("json", "[]\n"), ("ndjson", "")])
def test_raw_of_an_empty_response_is_no_document(sandbox: Sandbox, run: Run, format: str, text: str) -> None:
    sandbox.script(None, [Fault.status(204)])
    ran = run(*listing(sandbox, "--response-format", "raw", "-o", format))
    assert (ran.code, ran.out) == (DONE, text)
    assert "0 documents, 1 page" in ran.err


@pytest.mark.parametrize("format", FORMATS)
def test_debug_never_shows_the_credentials_of_the_provider(sandbox: Sandbox, run: Run, format: str) -> None:
    if format == "yaml":
        pytest.importorskip("yaml")
    ran = run(
        *listing(sandbox, "--response-format", "debug", "-o", format, "-v", "-q", "remote_query[key]=hush")
    )
    assert ran.code == DONE
    assert sandbox.provider_secret not in ran.out + ran.err
    assert "?***" in ran.out + ran.err
    if format == "json":
        pages = json.loads(ran.out)
        assert [item for page in pages for item in page["result"]] == expected(sandbox)
        assert pages[0]["debug"]["requestOptions"]["headers"]["Authorization"] == "***"


@pytest.mark.parametrize("format", ["json", "ndjson", "table"])
def test_debug_shows_the_data_of_the_provider_as_it_came(sandbox: Sandbox, run: Run, format: str) -> None:
    """1.10 became 1.1, and a number beyond any float or text nested deep failed the command."""
    data = '{"a":1.10,"b":1e400,"c":1E5,"d":%s}' % ("9" * 30)
    sandbox.script(None, [Fault.body(f'{{"result":[{{"id":"1"}}],"debug":{{"data":{data}}}}}'.encode())])
    ran = run(*listing(sandbox, "--response-format", "debug", "-o", format))
    assert ran.code == DONE
    assert data in (ran.out + ran.err).replace("\n", "").replace(" ", "")


def test_accounts_are_listed_without_their_secrets(sandbox: Sandbox, run: Run) -> None:
    for format in ("table", "json", "ndjson", "csv"):
        ran = run("accounts", "-o", format)
        assert ran.code == DONE
        assert all(account["id"] in ran.out for account in sandbox.accounts)
        assert "company-1" not in ran.out


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--integration", "gong"], 2),
        (["--integration", "gong", "--status", "active"], 1),
        (["--tenant-id", "tenant-2"], 1),
        (["--is-sandbox", "true"], 1),
        (["-q", "integration.name=hubspot"], 1),
        (["--max-items", "2"], 2),
    ],
)
def test_accounts_are_filtered(sandbox: Sandbox, run: Run, options: Sequence[str], count: int) -> None:
    assert len(ndjson(run("accounts", "-o", "ndjson", *options).out)) == count


def test_max_items_of_accounts_fetches_no_page_too_many(sandbox: Sandbox, run: Run) -> None:
    assert len(ndjson(run("accounts", "-o", "ndjson", "--limit", "1", "--max-items", "2").out)) == 2
    assert len(sandbox.requests) == 2


def test_capabilities(sandbox: Sandbox, run: Run) -> None:
    ran = run("capabilities", sandbox.account_ids[0])
    model = "conversational-intelligence"
    assert ran.out.split() == [
        *("model", "resource", "methods"),
        *(model, "meetings", "list", "get", model, "users", "list", "get"),
        *(model, "transcripts", "list", model, "activity", "list", model, "interactions", "list"),
    ]
    assert "active, not blocked" in ran.err
    document = json.loads(run("capabilities", sandbox.account_ids[0], "-o", "json").out)
    assert document["account_id"] == sandbox.account_ids[0]
    assert run("capabilities").code == USAGE


def test_the_official_command_works(sandbox: Sandbox, run: Run) -> None:
    account, path = sandbox.account_ids[0], ("conversational-intelligence", "interactions")
    assert json.loads(run("unified", *path, "-a", account, *WINDOW, "-o", "json").out) == expected(sandbox)
    assert run("unified", *path, "-a", account, *WINDOW).out == run(*listing(sandbox)).out


def test_items_of_any_resource_become_rows(sandbox: Sandbox, run: Run) -> None:
    contacts = ["unified", "crm", "contacts", "-a", sandbox.account_ids[0], "--limit", "100"]
    items = json.loads(run(*contacts, "-o", "json").out)
    rows = list(csv.DictReader(io.StringIO(run(*contacts, "-o", "csv").out)))
    assert [row["id"] for row in rows] == [item["id"] for item in items]
    assert json.loads(rows[0]["emails"]) == items[0]["emails"]
    table = run(*contacts)
    assert table.out.splitlines()[1].split()[0] == items[0]["id"]
    assert "not shown: emails, remote_data" in table.err


# --- what is asked ---------------------------------------------------------------------------------------------


def test_options_become_the_golden_request(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The request of the wire contract, byte for byte."""
    account = "62f44730-dd91-461e-bd6a-aedd9e0ad79d"
    with Sandbox.in_thread(accounts=[account]) as sandbox:
        monkeypatch.setenv("TRUTO_API_TOKEN", sandbox.token)
        ran = run(
            "interactions", "-a", account, *WINDOW, "--user", "234599484848423", "--user", "98765432109876543210",
            "--ignore-remote-data", "--api-url", sandbox.url,
        )  # fmt: skip
        assert ran.code == DONE
        assert sandbox.requests[0].target == (
            "/unified/conversational-intelligence/interactions?integrated_account_id=62f44730-dd91-461e-bd6a-"
            "aedd9e0ad79d&start_time=2024-01-01T00%3A00%3A00Z&end_time=2024-02-01T00%3A00%3A00Z&users%5B0%5D%5Bid%5D="
            "234599484848423&users%5B1%5D%5Bid%5D=98765432109876543210&truto_ignore_remote_data=true"
        )


def test_every_option_reaches_the_wire(sandbox: Sandbox, run: Run) -> None:
    run(*listing(
        sandbox, "--limit", "2", "--exclude-field", "id", "--exclude-field", "timezone",
        "--response-format", "normalized",
        "-q", r"a[b]=1\,2,c.d=e=f", "--query-json", '{"end_time": "2024-01-15T00:00:00Z", "users": null}',
    ))  # fmt: skip
    target = sandbox.requests[0].target
    for part in (
        "limit=2",
        "truto_exclude_fields%5B%5D=id&truto_exclude_fields%5B%5D=timezone",
        "truto_response_format=normalized",
        "end_time=2024-01-15T00%3A00%3A00Z",
        "a%5Bb%5D=1%2C2",
        "c%5Bd%5D=e%3Df",
    ):
        assert part in target


@pytest.mark.parametrize(
    ("pairs", "query"),
    [
        ([], None),
        (["a=1"], {"a": "1"}),
        (["a=1,b=2", "c=3"], {"a": "1", "b": "2", "c": "3"}),
        (["a="], {"a": ""}),
        (["a=1", "a=2"], {"a": "2"}),
        (["a=b=c"], {"a": "b=c"}),
        ([r"a=1\,2,b=3"], {"a": "1,2", "b": "3"}),
        ([r"a\=b=c"], {"a=b": "c"}),
        ([r"a=\\,b=\x"], {"a": "\\", "b": r"\x"}),
        (["a=tail\\"], {"a": "tail\\"}),
        (["created_at[gt]=2024-01-01T00:00:00+01:00"], {"created_at": {"gt": "2024-01-01T00:00:00+01:00"}}),
        (["created_at.gt=x", "created_at.lt=y"], {"created_at": {"gt": "x", "lt": "y"}}),
        (["a[b][c].d=1"], {"a": {"b": {"c": {"d": "1"}}}}),
        ([r"integration\.name=gong"], {"integration.name": "gong"}),
        (["a[b.c]=1"], {"a": {"b.c": "1"}}),
        (["a[]=1,a[]=2"], {"a": ["1", "2"]}),
        (["a[b][]=1"], {"a": {"b": ["1"]}}),
        (["a=[1].2"], {"a": "[1].2"}),
        ([r"a\[b\]=1"], {"a[b]": "1"}),
    ],
)
def test_q_reads_names_and_values(pairs: list[str], query: dict[str, Any] | None) -> None:
    assert read_query(pairs, None) == query


@pytest.mark.parametrize(
    ("pairs", "text", "message"),
    [
        (["a"], None, "has no"),
        ([""], None, "has no"),
        (["a=1,2"], None, r"write a comma in a value as \\,"),
        (["a=1,"], None, "has no"),
        (["=1"], None, "cannot read the name"),
        (["a[b=1"], None, "cannot read the name"),
        (["a]b=1"], None, "cannot read the name"),
        (["a[b]c=1"], None, "cannot read the name"),
        (["a..b=1"], None, "cannot read the name"),
        (["a[][b]=1"], None, "cannot read the name"),
        (["[]=1"], None, "cannot read the name"),
        (["a=1", "a[b]=2"], None, "remove one"),
        (["a[b]=2", "a=1"], None, "remove one"),
        (["a=1", "a[]=2"], None, "remove one"),
        ([], "{", "--query-json is not JSON"),
        ([], "[1]", "takes an object"),
        ([], "[" * 100_000, "--query-json is not JSON"),
    ],
)
def test_queries_that_cannot_be_read_say_how_to_write_them(
    pairs: list[str], text: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_query(pairs, text)


def test_q_goes_into_query_json_and_a_dot_can_be_part_of_a_name() -> None:
    assert read_query(["a.b=2"], '{"a": {"c": null}, "d": 1.5}') == {"a": {"c": None, "b": "2"}, "d": 1.5}
    assert read_query(["a.b=1"], None, dots_nest=False) == {"a.b": "1"}


# --- continuing ------------------------------------------------------------------------------------------------


def test_max_items_says_how_to_continue_and_fetches_no_page_too_many(sandbox: Sandbox, run: Run) -> None:
    everything = expected(sandbox)
    at_end_of_page = run(*listing(sandbox, "-o", "ndjson", "--max-items", "3"))
    assert ndjson(at_end_of_page.out) == everything[:3]
    assert len(sandbox.requests) == 1
    assert (
        ndjson(run(*listing(sandbox, "-o", "ndjson", "--next-cursor", at_end_of_page.cursor)).out)
        == everything[3:]
    )

    before = len(sandbox.requests)
    inside = run(*listing(sandbox, "-o", "ndjson", "--max-items", "5"))
    assert len(sandbox.requests) == before + 2
    assert ndjson(inside.out) == everything[:5]
    assert "it repeats the last 2" in inside.err
    assert (
        ndjson(run(*listing(sandbox, "-o", "ndjson", "--next-cursor", inside.cursor)).out) == everything[3:]
    )

    on_first = run(*listing(sandbox, "-o", "ndjson", "--max-items", "2"))
    assert "raise --max-items" in on_first.err
    assert "--next-cursor" not in on_first.err

    everything_there_is = run(*listing(sandbox, "-o", "ndjson", "--max-items", str(PEOPLE)))
    assert "there is more" not in everything_there_is.err


@pytest.mark.parametrize("format", ["unified", "raw"])
def test_max_pages_and_the_cursor_of_the_service(sandbox: Sandbox, run: Run, format: str) -> None:
    options = listing(sandbox, "-o", "ndjson", "--response-format", format)
    first = run(*options, "--max-pages", "1")
    rest = run(*options, "--next-cursor", first.cursor)
    assert ndjson(first.out) + ndjson(rest.out) == ndjson(run(*options).out)


def test_a_cursor_may_be_made_of_any_characters(sandbox: Sandbox, run: Run) -> None:
    """The printed option can be pasted into a shell, even when the cursor looks like an option itself."""
    cursor = "-v $HOME's"
    sandbox.fault(Fault.body({"result": [], "next_cursor": cursor}))
    ran = run(*listing(sandbox, "--response-format", "raw", "--max-pages", "1"))
    words = shlex.split(ran.err.partition("add: ")[2])
    assert words == [f"--next-cursor={cursor}"]
    run(*listing(sandbox, *words))
    assert "next_cursor=-v%20%24HOME%27s" in sandbox.requests[-1].target
    for format in ("raw", "unified"):
        line = listing(sandbox, "--response-format", format)
        sandbox.clear_faults()
        sandbox.fault(Fault.body({"result": [], "next_cursor": "a\x1b[1m\nb"}))
        ran = run(*line, "--max-pages", "1")
        run(*line, "--max-pages", "1", "--next-cursor", ran.cursor)
        assert "next_cursor=a%1B%5B1m%0Ab" in sandbox.requests[-1].target


@pytest.mark.parametrize("format", ["unified", "raw", "stream"])
def test_a_relative_time_is_that_of_the_run_that_is_continued(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """The same command line, later: ``-7d`` is another time now, but its pages go on from those before."""
    line = [
        *("interactions", "-a", sandbox.account_ids[0], "--start-time=-7d", "--end-time=-5d"),
        *("--response-format", format, "-o", "ndjson"),
    ]
    first = run(*line, "--max-pages", "1")
    assert first.code == DONE
    monkeypatch.setattr(sys.modules["truto_ci_async._wire.list_query"], "datetime", clock_of(days=3))
    before = len(sandbox.requests)
    assert run(*line, "--next-cursor", first.cursor).code == DONE
    queries = [request.query for request in sandbox.requests]
    assert before < len(queries)
    assert len({(query["start_time"], query["end_time"]) for query in queries}) == 1
    assert run(*line).code == DONE
    assert sandbox.requests[-1].query["start_time"] != queries[0]["start_time"]


def clock_of(**later: int) -> type[datetime]:
    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(**later)

    return Later


def test_a_position_of_other_filters_is_refused(sandbox: Sandbox, run: Run) -> None:
    position = run(*listing(sandbox, "--max-pages", "1")).cursor
    ran = run(*listing(sandbox, "--next-cursor", position, "--limit", "2"))
    assert ran.code == USAGE
    assert "from a call with other filters" in ran.err
    assert "add: --next-cursor" not in ran.err


# --- how it ends -----------------------------------------------------------------------------------------------

SERVER_ERROR = [Fault.ok(), Fault.status(500).forever()]


@pytest.mark.parametrize(
    ("faults", "code", "words"),
    [
        ([], DONE, "7 interactions"),
        ([Fault.status(503, retry_after=0)], DONE, "7 interactions"),
        ([Fault.status(422, message="Email is invalid")], FAILED, "Email is invalid"),
        ([Fault.html()], FAILED, "HTML"),
        ([Fault.body({"result": None})], FAILED, "result"),
        ([Fault.status(500).forever()], FAILED, "5 attempts"),
        ([Fault.status(429, retry_after=3600)], FAILED, "wait 3600 s"),
        ([Fault.status(503)], FAILED, "blocked"),
        ([Fault.redirect("https://elsewhere.example")], FAILED, "check --api-url"),
        ([Fault.status(401)], REFUSED, "check the token"),
        ([Fault.status(401, remote=True)], REFUSED, "must reconnect"),
        (
            [Fault.status(403, insight={"forbidden_error": {"value": {"missing_scopes": ["calls:read"]}}})],
            REFUSED,
            "missing scopes: calls:read",
        ),
        (
            [Fault.ok(), Fault.status(401, remote=True)],
            REFUSED,
            "complete so far: 3 interactions, 1 page",
        ),
        (SERVER_ERROR, INCOMPLETE, "complete so far: 3 interactions, 1 page"),
        (
            [Fault.ok(), Fault.reset().forever()],
            INCOMPLETE,
            "to continue, add: --next-cursor truto-position",
        ),
        ([Fault.ok(), Fault.truncate("json").forever()], INCOMPLETE, "to continue"),
        ([Fault.ok(), Fault.status(429, retry_after=3600)], INCOMPLETE, "wait 3600 s"),
        ([Fault.ok(), Fault.html()], FAILED, "to continue"),
        ([Fault.ok(), Fault.loop()], FAILED, "a second time"),
    ],
)
def test_exit_codes_of_responses(
    sandbox: Sandbox, run: Run, faults: Sequence[Fault], code: int, words: str
) -> None:
    """Each failure is one or two plain lines: what happened, and what to do."""
    sandbox.script(sandbox.account_ids[0], faults)
    ran = run(*listing(sandbox, "-o", "ndjson"))
    assert ran.code == code
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 4
    complete = ndjson(ran.out)
    assert complete == expected(sandbox)[: len(complete)]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--version"], DONE, ""),
        (["interactions", "--help"], DONE, ""),
        ([], USAGE, "Usage: truto-ci"),
        (["nonsense"], USAGE, "there is no command 'nonsense'; there are interactions, "),
        (["interactions", "--limit", "0"], USAGE, "1 or more"),
        (["interactions", "--start-time", "2024-01-01T00:00:00"], USAGE, "has no time zone"),
        (
            ["interactions", "--start-time", "yesterday"],
            USAGE,
            "'yesterday' is not a time; write it like 2024-01-31",
        ),
        (["interactions", "--start-time=-7y"], USAGE, "'-7y' is not a time"),
        (["interactions", "--limit", "9" * 5000], USAGE, "is not a whole number of 1 or more"),
        (["interactions", "--max-items", str(2**63)], USAGE, "is not a whole number of 1 or more"),
        (["interactions", "--timeout", "1e300"], USAGE, "is not a number of seconds"),
        *(
            ([*command, option, "", "--sandbox"], USAGE, f"{option}: it is empty")
            for command, options in (
                (["interactions"], ["--user", "--exclude-field", "--next-cursor", "--out"]),
                (["interactions", "--key-by", "id"], ["--key-by"]),
                (["interactions", "--response-format", "stream"], ["--path"]),
                (["accounts"], ["--tenant-id", "--status", "--integration"]),
                (["pull", "--out", "never"], ["--accounts", "--integration", "--status"]),
            )
            for option in options
        ),
        (["interactions", "-q", "a.b.c.d.e.f.g=1", "--sandbox"], USAGE, "nested more than 5 levels"),
        (["interactions", "--timeout", "nan"], USAGE, "seconds"),
        (["interactions", "--api-url", "ftp://x", "--token", "t"], USAGE, "--api-url"),
        (["interactions", "--api-url", "", "--token", "t"], USAGE, "--api-url"),
        (["interactions", "--query-json", "{"], USAGE, "not JSON"),
        (["interactions", "--key-by", "id", "-o", "csv"], USAGE, "--key-by"),
        (["interactions", "--key-by", "id", "--max-items", "1"], USAGE, "--max-items"),
        (["interactions", "--response-format", "raw", "-o", "table"], USAGE, "no rows"),
        (["interactions", "--response-format", "raw", "--max-items", "1"], USAGE, "--max-pages"),
        (["interactions", "--sandbox", "--token", "t"], USAGE, "leave out"),
        (["unified", "crm", "..", "-a", "x", "--token", "t"], USAGE, "path"),
        (["sandbox", "--port", "65536"], USAGE, "from 0 to 65535"),
        (["sandbox", "--accounts", "100000000"], USAGE, "from 1 to 10000"),
        (["sandbox", "--interactions", "100000000"], USAGE, "from 0 to 1000000"),
        (["sandbox", "--token-rate", "50"], USAGE, "50/10"),
        (["sandbox", "--account-rate", "0/10"], USAGE, "50/10"),
        (["sandbox", "--provider-rate", "3/0"], USAGE, "50/10"),
        (["sandbox", "--stream-as", "xml"], USAGE, "ndjson"),
        (["capabilities", "no-such-account", "--sandbox"], FAILED, "truto-ci accounts"),
    ],
)
def test_exit_codes_of_command_lines(run: Run, argv: Sequence[str], code: int, words: str) -> None:
    ran = run(*argv)
    assert ran.code == code
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_without_a_token_it_says_where_to_put_one(run: Run) -> None:
    ran = run("accounts")
    assert ran.code == USAGE
    assert "export TRUTO_API_TOKEN" in ran.err
    assert "--sandbox" in ran.err


def test_a_service_that_cannot_be_reached(run: Run) -> None:
    ran = run("accounts", "--token", "t", "--api-url", "http://127.0.0.1:1")
    assert ran.code == FAILED
    assert "check the network" in ran.err


def test_timeout_bounds_a_page(sandbox: Sandbox, run: Run) -> None:
    sandbox.script(sandbox.account_ids[0], [Fault.ok(), Fault.hang()])
    ran = run(*listing(sandbox, "--timeout", "0.3"))
    assert ran.code == INCOMPLETE
    assert "--timeout SECONDS" in ran.err


def test_a_bug_is_one_line_without_vv(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(options: Options, progress: Progress) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(accounts, "run_accounts", broken)
    ran = run("accounts")
    assert ran.code == FAILED
    assert ran.err == "truto-ci: unexpected ZeroDivisionError: division by zero (-vv shows where)\n"
    assert "Traceback" in run("accounts", "-vv").err


def test_json_stays_a_document_when_a_later_page_fails(sandbox: Sandbox, run: Run) -> None:
    sandbox.script(sandbox.account_ids[0], SERVER_ERROR)
    ran = run(*listing(sandbox, "-o", "json"))
    assert ran.code == INCOMPLETE
    assert json.loads(ran.out) == expected(sandbox)[:PAGE]
    sandbox.clear_faults()
    rest = run(*listing(sandbox, "-o", "json", "--next-cursor", ran.cursor))
    assert json.loads(rest.out) == expected(sandbox)[PAGE:]
    sandbox.script(sandbox.account_ids[0], [Fault.status(401)])
    assert run(*listing(sandbox, "-o", "json")).out == ""


@pytest.mark.parametrize("given", ["option", "environment"])
@pytest.mark.parametrize("fault", [Fault.ok(), Fault.status(401), Fault.html(), Fault.reset().forever()])
def test_the_token_is_in_no_output(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch, given: str, fault: Fault
) -> None:
    sandbox.fault(fault, sandbox.account_ids[0])
    option: tuple[str, ...] = ()
    if given == "option":
        monkeypatch.delenv("TRUTO_API_TOKEN")
        option = ("--token", TOKEN)
    ran = run(*listing(sandbox, *option, "-vv"))
    assert "GET /unified/conversational-intelligence/interactions" in ran.err
    assert TOKEN not in ran.out + ran.err


# --- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [
        ("x.ndjson", [], '{"id"'),
        ("x.jsonl", [], '{"id"'),
        ("X.CSV", [], "id,user_id"),
        ("x.json", [], "["),
        ("x.yml", [], "- id"),
        ("x.csv", ["-o", "json"], "["),
        ("x.json", ["--response-format", "stream"], "["),
        ("x.txt", [], "user "),
        ("x", [], "user "),
        ("a.csv/x", [], "user "),
    ],
)
def test_the_format_is_that_of_the_name_of_the_file(
    name: str, options: list[str], start: str, sandbox: Sandbox, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    assert run(*listing(sandbox, "--max-items", "1", "--out", str(file), *options)).code == DONE
    assert file.read_text().startswith(start)


def test_a_list_as_parquet(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    """With the columns of the schema, or those that were picked."""
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "x.parquet"
    assert run(*listing(sandbox, "--out", str(file))).code == DONE
    table = parquet.read_table(file)
    rows = list(csv.DictReader(io.StringIO(run(*listing(sandbox, "-o", "csv")).out)))
    assert table.column_names == list(rows[0])
    assert table["user_id"].to_pylist() == [row["user_id"] for row in rows]
    sandbox.script(sandbox.account_ids[0], SERVER_ERROR)
    assert run(*listing(sandbox, "--columns", "user.id,patience", "--out", str(file))).code == INCOMPLETE
    sandbox.clear_faults()
    assert run(*listing(sandbox, "--columns", "user.id,patience", "--out", str(file))).code == DONE
    picked = parquet.read_table(file)
    assert (picked.column_names, picked.num_rows) == (["user_id", "patience"], PEOPLE)


def test_a_list_is_not_written_as_a_table_into_a_file_of_another_format(
    sandbox: Sandbox, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "x.parquet"
    for more in (["unified", "crm", "contacts"], ["capabilities", "x"]):
        ran = run(*more, "--out", str(file))
        assert (ran.code, file.exists(), sandbox.requests) == (USAGE, False, [])
        assert "use csv or ndjson" in ran.err
    assert run(*listing(sandbox, "--key-by", "id", "--out", str(tmp_path / "x.csv"))).code == USAGE


def test_a_file_appears_when_it_is_complete(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "january.ndjson"
    file.write_text("the old one")
    sandbox.script(sandbox.account_ids[0], SERVER_ERROR)
    ran = run(*listing(sandbox, "-o", "ndjson", "--out", str(file)))
    assert ran.code == INCOMPLETE
    assert ran.out == ""
    assert file.read_text() == "the old one"
    assert f"in {file}.partial" in ran.err
    partial = tmp_path / "january.ndjson.partial"
    assert ndjson(partial.read_text()) == expected(sandbox)[:PAGE]

    sandbox.clear_faults()
    rest = tmp_path / "rest.ndjson"
    done = run(*listing(sandbox, "-o", "ndjson", "--out", str(rest), "--next-cursor", ran.cursor))
    assert done.code == DONE
    assert ndjson(partial.read_text() + rest.read_text()) == expected(sandbox)

    again = run(*listing(sandbox, "-o", "ndjson", "--out", str(file)))
    assert (again.code, "going on behind 3 interactions" in again.err) == (DONE, True)
    assert ndjson(file.read_text()) == expected(sandbox)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["january.ndjson", "rest.ndjson"]


def test_a_partial_file_is_a_document_and_never_replaces_another(
    sandbox: Sandbox, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "january.json"
    sandbox.script(sandbox.account_ids[0], SERVER_ERROR)
    run(*listing(sandbox, "-o", "json", "--out", str(file)))
    assert json.loads((tmp_path / "january.json.partial").read_text()) == expected(sandbox)[:PAGE]
    assert not file.exists()


def test_half_a_page_is_cut_off_a_partial_file(tmp_path: Path) -> None:
    """As when the disk becomes full in the middle of a page."""
    file = NewFile(tmp_path / "x.json")
    file.write(b"[1")
    with file_size_limit(4), pytest.raises(OSError, match="too large"):
        file.write(b",2345")
    kept = tmp_path / "x.json.partial"
    assert file.abandon(b"]") == kept
    assert kept.read_bytes() == b"[1]"
    assert [each.name for each in tmp_path.iterdir()] == [kept.name]


@posix
def test_a_full_disk_leaves_a_list_that_can_be_continued(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "x.ndjson"
    assert run(*listing(sandbox, "-o", "ndjson", "--max-pages", "1", "--out", str(out))).code == DONE
    first = out.read_bytes()
    out.unlink()
    with file_size_limit(len(first) + 10):
        ran = run(*listing(sandbox, "-o", "ndjson", "--out", str(out)))
    assert (ran.code, "complete so far: 3 interactions" in ran.err) == (INCOMPLETE, True)
    assert (tmp_path / "x.ndjson.partial").read_bytes() == first
    rest = run(*listing(sandbox, "-o", "ndjson", "--next-cursor", ran.cursor))
    assert ndjson(first.decode() + rest.out) == expected(sandbox)


def test_a_failure_before_the_first_page_leaves_nothing(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    sandbox.fault(Fault.status(401))
    assert run(*listing(sandbox, "-o", "csv", "--out", str(tmp_path / "x.csv"))).code == REFUSED
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written_are_refused_before_any_request(
    sandbox: Sandbox, run: Run, tmp_path: Path
) -> None:
    state = tmp_path / STATE_FILE
    state.touch()
    folder = f"{tmp_path / 'folder'}{os.sep}"
    for path in (
        tmp_path,
        folder,
        tmp_path / "no" / "such",
        "",
        "x" * 256,
        state,
        tmp_path / "manifest.json",
    ):
        ran = run(*listing(sandbox, "--out", str(path)))
        assert (ran.code, "--out" in ran.err) == (USAGE, True)
    assert sandbox.requests == []
    assert [each.name for each in tmp_path.iterdir()] == [STATE_FILE]


@pytest.mark.parametrize("ending", ["--max-pages", "a failure"])
def test_continuing_does_not_replace_what_was_written_before(
    sandbox: Sandbox, run: Run, tmp_path: Path, ending: str
) -> None:
    """Whoever repeats the command with the option that was printed must not lose the pages before it."""
    line = listing(sandbox, "-o", "ndjson", "--out", str(tmp_path / "x.ndjson"))
    if ending == "a failure":
        sandbox.script(sandbox.account_ids[0], SERVER_ERROR)
        first = run(*line)
    else:
        first = run(*line, "--max-pages", "1")
    assert "in a file of another name, add:" in first.err
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    sandbox.clear_faults()
    sandbox.clear()
    again = run(*line, "--next-cursor", first.cursor)
    assert (again.code, "write the rest to a file of another name" in again.err) == (USAGE, True)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
    assert sandbox.requests == []
    rest = run(*line[:-1], str(tmp_path / "rest.ndjson"), "--next-cursor", first.cursor)
    assert rest.code == DONE
    content = next(content for file, content in before.items() if not file.name.endswith("-state"))
    assert ndjson((content + (tmp_path / "rest.ndjson").read_bytes()).decode()) == expected(sandbox)


@posix
@pytest.mark.parametrize(
    ("format", "more", "signum"),
    [
        ("ndjson", "", signal.SIGKILL),
        ("csv", "", signal.SIGHUP),
        ("json", "", signal.SIGKILL),
        ("ndjson", "--response-format stream", signal.SIGKILL),
        ("json", "--key-by id", signal.SIGKILL),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                ("ndjson", "--max-items 7", signal.SIGHUP),
                ("csv", "", signal.SIGKILL),
                ("json", "--max-pages 3", signal.SIGHUP),
                ("yaml", "", signal.SIGKILL),
                ("table", "", signal.SIGKILL),
                ("parquet", "", signal.SIGKILL),
                ("parquet", "", signal.SIGHUP),
                ("json", "--response-format stream --max-pages 3", signal.SIGHUP),
                ("json", "--response-format raw --max-pages 3", signal.SIGKILL),
                ("json", "--response-format debug", signal.SIGKILL),
                ("json", "--key-by id --max-pages 3", signal.SIGHUP),
                ("yaml", "--key-by id", signal.SIGKILL),
                ("yaml", "--key-by id --response-format normalized", signal.SIGHUP),
            )
        ),
    ],
)
def test_a_killed_run_goes_on_when_it_is_run_again(
    sandbox: Sandbox, run: Run, tmp_path: Path, signum: signal.Signals, format: str, more: str
) -> None:
    """Nothing is lost or doubled, and what another command left is never replaced."""
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    is_early = "stream" in more and signum == signal.SIGKILL  # it commits a page with the next one
    out = tmp_path / f"x.{format}"
    whole = tmp_path / "whole"
    line = listing(sandbox, "-o", format, "--out", str(out), *more.split())
    assert run(*listing(sandbox, "-o", format, "--out", str(whole), *more.split())).code == DONE
    sandbox.fault(Fault.hang().on(3), sandbox.account_ids[0])
    with process(*line, "-v") as started:
        assert started.stderr is not None
        while b"call 3: GET" not in started.stderr.readline():
            assert started.poll() is None
        while pages_committed(out) < 2 - is_early:  # the third is asked for before the second is handed out
            assert started.poll() is None
            time.sleep(0.005)
        started.send_signal(signum)
        ran = ended(started)
    assert ran.code == (TERMINATED if signum == signal.SIGHUP else -signum)
    partial = tmp_path / f"x.{format}.partial"
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    if format != "parquet" and "--key-by" not in more:
        assert whole.read_text().startswith(partial.read_text().removesuffix("\n]\n"))
    other = run(*line, "--ignore-remote-data")
    assert (other.code, f"{partial} has rows of another command" in other.err) == (USAGE, True)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
    with partial.open("a") as half:
        half.write('{"id": "half a pa')
    sandbox.clear_faults()
    sandbox.clear()
    again = run(*line)
    said = "2 documents" if "raw" in more else f"{3 if is_early else 6} interactions"
    assert (again.code, f"going on behind {said}" in again.err) == (DONE, True)
    assert len(sandbox.requests) == 1 + is_early
    assert out.read_bytes() == whole.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {out.name, whole.name}


def pages_committed(out: Path) -> int:
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(out.with_name(f"{out.name}.partial-state").read_bytes(), type=State).pages
    return 0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_advice_names_only_options_of_the_command(name: str) -> None:
    """``pull`` has neither ``--next-cursor`` nor ``--response-format``."""
    command = app.get_command(click.Context(app), name)
    assert command is not None
    names = {each.name or "": max(each.opts, key=len) for each in command.params}
    made = [
        errors.CursorExpiredError("x"),
        errors.BodyTooLargeError("x", limit=1),
        errors.DecodeError("x"),
        errors.DecodeError("say path=..."),
        errors.DeadlineError("x", deadline="read", seconds=1.0),
        errors.ConfigurationError("no API token"),
    ]
    advice = " ".join(advise(error, names) or "" for error in made)
    assert set(re.findall("--[a-z-]+", advice)) <= set(names.values())
    if name == "interactions":
        assert "--next-cursor" in advice
    if name == "pull":
        assert "check --api-url" in advice


@posix
def test_of_two_runs_that_fail_at_the_same_time_each_keeps_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one takes the name of the kept file after this one has seen that it is free."""
    kept = tmp_path / "x.json.partial"
    look, link = os.path.lexists, os.link

    def looked(path: Any) -> bool:
        found = look(path)
        kept.write_bytes(b"other")
        return found

    def linked(*args: Any) -> None:
        kept.write_bytes(b"other")
        link(*args)

    file = NewFile(tmp_path / "x.json")
    file.write(b"ours")
    monkeypatch.setattr(os.path, "lexists", looked)
    monkeypatch.setattr(os, "link", linked)
    assert file.abandon(b"") == kept.with_name("x.json.partial-2")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {
        "x.json.partial": b"other",
        "x.json.partial-2": b"ours",
    }


def between_look_and_lock(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something right after a run has looked for what an earlier one left."""
    look = resumable.earlier_state

    def looked(*args: Any) -> Any:
        found = look(*args)
        monkeypatch.setattr(resumable, "earlier_state", look)
        act()
        return found

    monkeypatch.setattr(resumable, "earlier_state", looked)


@posix
def test_a_run_does_not_go_on_with_a_file_that_another_one_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would cut a new file to the length of the old one, which begins with as many zero bytes."""
    path = tmp_path / "x.ndjson"
    first = ResumableFile(path, "question")
    first.write(b"{}\n")
    first.commit("position", pages=1)
    between_look_and_lock(monkeypatch, first.finish)
    with pytest.raises(UsageError, match="being written by another run"):
        ResumableFile(path, "question")
    first.finish()
    assert path.read_bytes() == b"{}\n"


@posix
def test_a_run_does_not_replace_the_state_of_one_that_began_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one could not go on after a kill: its rows would be those of another command."""
    path = tmp_path / "x.ndjson"
    others: list[ResumableFile] = []

    def begin() -> None:
        with suppress(UsageError):  # it is refused
            others.append(ResumableFile(path, "other"))

    between_look_and_lock(monkeypatch, begin)
    ours = ResumableFile(path, "question")
    assert (resumable.earlier_state(path, "question"), others) == (ours.state, [])
    ours.abandon(b"")


@posix
def test_an_empty_partial_file_is_nobodys(tmp_path: Path) -> None:
    """It is what a run leaves that is killed at once."""
    path = tmp_path / "x.ndjson"
    path.with_name("x.ndjson.partial").touch()
    file = ResumableFile(path, "question")
    file.write(b"{}\n")
    assert file.finish() == path
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@posix
@pytest.mark.parametrize("format", ["json", "parquet"])
def test_a_run_that_is_killed_behind_its_last_page_sends_no_more_requests(
    sandbox: Sandbox, run: Run, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow.parquet")
    line = ["accounts", "--out", str(tmp_path / f"x.{format}"), "--max-pages", "1"]
    assert run(*line).code == DONE
    whole = (tmp_path / f"x.{format}").read_bytes()
    (tmp_path / f"x.{format}").unlink()

    def fail(file: ResumableFile) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(ResumableFile, "finish", fail)
        assert run(*line).code == INCOMPLETE
    sandbox.clear()
    assert run(*line).code == DONE
    assert sandbox.requests == []
    assert (tmp_path / f"x.{format}").read_bytes() == whole
    assert len([*tmp_path.iterdir()]) == 1


@posix
def test_two_runs_do_not_write_one_file(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    line = listing(sandbox, "--out", str(tmp_path / "x.ndjson"))
    sandbox.fault(Fault.hang().on(2), sandbox.account_ids[0])
    with process(*line, "-v") as started:
        assert started.stderr is not None
        while b"call 2: GET" not in started.stderr.readline():
            assert started.poll() is None
        ran = run(*line)
        assert (ran.code, "is being written by another run" in ran.err) == (USAGE, True)
        started.kill()
        ended(started)
    sandbox.clear_faults()
    assert run(*line).code == DONE
    assert ndjson((tmp_path / "x.ndjson").read_text()) == expected(sandbox)


def test_a_file_that_was_complete_but_for_its_name_gets_it(
    sandbox: Sandbox, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the last page: it is not asked for again."""
    line = listing(sandbox, "--out", str(tmp_path / "x.ndjson"), "--max-items", "4")
    with monkeypatch.context() as patched:
        patched.setattr(ResumableFile, "finish", ResumableFile._close)
        assert run(*line).code == DONE
    sandbox.clear()
    assert run(*line).code == DONE
    assert sandbox.requests == []
    assert ndjson((tmp_path / "x.ndjson").read_text()) == expected(sandbox)[:4]
    assert [each.name for each in tmp_path.iterdir()] == ["x.ndjson"]


@posix
@pytest.mark.parametrize(("to", "signum"), [("pipe", signal.SIGTERM), ("named pipe", signal.SIGINT)])
def test_a_signal_ends_the_wait_for_a_reader_that_does_not_read(
    sandbox: Sandbox, tmp_path: Path, to: str, signum: signal.Signals
) -> None:
    """As when ``| less`` shows the first page, and when a named pipe has no reader yet."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filling = 0
    while True:
        try:
            filling += os.write(writing, b"x" * select.PIPE_BUF)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    line = listing(sandbox, "-o", "ndjson", "-v", *(("--out", str(fifo)) if to == "named pipe" else ()))
    with process(*line, stdout=writing) as started:
        assert started.stderr is not None
        until_asleep(started.pid)
        started.send_signal(signum)
        ran = ended(started)
    os.close(writing)
    with open(reading, "rb") as rest:
        assert len(rest.read()) == filling
    assert ran.code == (INTERRUPTED if signum == signal.SIGINT else TERMINATED)
    assert "Traceback" not in ran.err


@posix
def test_a_pipe_that_does_not_block_is_waited_for(sandbox: Sandbox) -> None:
    """Another program that shares it, such as Node.js, may have set it so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    found: list[bytes] = []

    def read() -> None:
        with open(reading, "rb") as pipe:
            found.append(pipe.read())

    sandbox.clear()
    with process("interactions", "--sandbox", "-o", "json", stdout=writing) as started:
        os.close(writing)
        assert started.stderr is not None
        started.stderr.readline()
        until_asleep(started.pid)
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        ran = ended(started)
    reader.join(DEADLINE)
    assert ran.code == DONE, ran.err
    assert len(json.loads(found[0])) == 250


def until_asleep(pid: int) -> None:
    """Wait until a process has used no processor time for a while."""
    deadline, used = time.monotonic() + DEADLINE, -1.0
    while time.monotonic() < deadline:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        now = float(fields[11]) + float(fields[12])
        if now == used and now > 10:
            return
        used = now
        time.sleep(0.3)


@posix
def test_a_descriptor_is_written_to_and_what_it_leads_to_not_replaced(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """As in ``--out /dev/stdout >> all.ndjson``: what was there, and what others write to it, must stay."""
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    names = {"/dev/stdout": 1, "/dev/stderr": 2, "/dev/fd/7": 7, "/proc/self/fd/1": 1, "/proc/12/fd/3": 3}
    assert {name: descriptor_of(name) for name in names} == names
    assert descriptor_of(str(link)) == 1
    for name in ("/dev/fd/x", "fd/1", str(tmp_path / "fd" / "1"), "/dev/null", ""):
        assert descriptor_of(name) is None
    file = tmp_path / "all.ndjson"
    with file.open("ab") as appending:
        appending.write(b"before\n")
        appending.flush()
        line = listing(sandbox, "-o", "ndjson", "--max-items", "2", "--out", str(link))
        with process(*line, stdout=appending.fileno()) as started:
            assert ended(started).code == DONE
        appending.write(b"after\n")
    lines = file.read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("before", "after", 4)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_devices_are_written_into_and_not_replaced(sandbox: Sandbox, run: Run) -> None:
    assert run(*listing(sandbox, "--out", "/dev/null")).code == DONE
    full = run(*listing(sandbox, "--out", "/dev/full"))
    assert full.code == FAILED
    assert "No space left" in full.err
    assert Path("/dev/null").is_char_device()


def test_a_link_that_leads_back_to_itself_is_not_replaced(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    """There is no file behind it to be kept, and nothing says which of its links to replace."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    ran = run(*listing(sandbox, "-o", "json", "--out", str(one)))
    assert (ran.code, one.is_symlink(), other.is_symlink()) == (USAGE, True, True)
    assert "a link that leads back to itself" in ran.err
    assert not sandbox.requests


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("accounts --tokn hunter2", "accounts: there is no option --tokn; did you mean --token?"),
        ("--tokn hunter2 accounts", "truto-ci: there is no option --tokn; did you mean --token?"),
        ("accounts --tokn=hunter2", "there is no option --tokn; did you mean --token?"),
        ("accounts -thunter2", "there is no option -t"),
        ("interactions -t hunter2 --limit x", "there is no option -t"),
        ("accounts --limit 5 one more", "unexpected extra argument (more)"),
        ("acounts", "there is no command 'acounts'; did you mean accounts?"),
    ],
)
def test_what_is_given_to_an_unknown_option_is_not_quoted(run: Run, line: str, said: str) -> None:
    """It may be a mistyped --token."""
    ran = run(*line.split())
    assert ran.code == USAGE
    assert said in ran.err
    assert "hunter2" not in ran.err


def test_links_stay_links_and_dash_is_stdout(sandbox: Sandbox, run: Run, tmp_path: Path) -> None:
    link, file = tmp_path / "latest.json", tmp_path / "january.json"
    link.symlink_to(file)
    assert run(*listing(sandbox, "-o", "json", "--out", str(link))).code == DONE
    assert link.is_symlink()
    assert json.loads(file.read_text()) == expected(sandbox)
    assert json.loads(run(*listing(sandbox, "-o", "json", "--out", "-")).out) == expected(sandbox)


# --- pipes, signals, terminals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_closed_pipe_is_a_quiet_success(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """As in ``truto-ci … | head -1``."""
    if format == "yaml":
        pytest.importorskip("yaml")
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patched, os.fdopen(writing, "w") as stdout:
        patched.setattr(sys, "stdout", stdout)
        ran = run(*listing(sandbox, "-o", format))
    assert ran.code == DONE
    assert ran.err == ""


@pytest.mark.parametrize("argv", [["--help"], ["interactions", "--sandbox", "-o", "ndjson"]])
def test_a_closed_pipe_causes_no_error_at_exit(argv: Sequence[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with process(*argv, stdout=writing) as started:
            ran = ended(started)
    finally:
        os.close(writing)
    assert ran.code == 0
    assert not re.search("Traceback|Exception|Error", ran.err)


@pytest.mark.parametrize("lines", [0, 1, 4])
def test_the_demo_ends_quietly_when_its_reader_does(lines: int) -> None:
    """As in ``make demo | head``."""
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    with subprocess.Popen(
        [sys.executable, "-u", demo], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as started:
        assert started.stdout is not None
        for _ in range(lines):
            started.stdout.readline()
        started.stdout.close()
        watchdog = threading.Timer(DEADLINE, started.kill)
        watchdog.start()
        assert started.stderr is not None
        assert (started.stderr.read(), started.wait()) == (b"", 0)
        watchdog.cancel()


def test_no_stdout_at_all_is_one_line(sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        ran = run(*listing(sandbox))
    assert ran.code == FAILED
    assert ran.err == "truto-ci: stdout is closed\n"


@pytest.mark.parametrize(
    ("format", "signum", "code"),
    [("ndjson", signal.SIGINT, INTERRUPTED), ("csv", signal.SIGTERM, TERMINATED)],
)
def test_pages_are_written_at_once_and_an_interrupted_list_can_be_continued(
    sandbox: Sandbox, run: Run, format: str, signum: signal.Signals, code: int
) -> None:
    """The second page hangs; after the first one is read, Ctrl-C or a supervisor's SIGTERM arrives."""
    sandbox.fault(Fault.hang().on(2), sandbox.account_ids[0])
    with process(*listing(sandbox, "-o", format)) as started:
        assert started.stdout is not None
        header = started.stdout.readline().decode() if format == "csv" else ""
        first = "".join(started.stdout.readline().decode() for _ in range(PAGE))
        started.send_signal(signum)
        ran = ended(started)
    assert ran.code == code
    assert ran.out == ""
    assert "complete so far: 3 interactions, 1 page" in ran.err
    assert "Traceback" not in ran.err
    sandbox.clear_faults()
    rest = run(*listing(sandbox, "-o", format, "--next-cursor", ran.cursor))
    assert header + first + rest.out.removeprefix(header) == run(*listing(sandbox, "-o", format)).out


def test_ctrl_c_keeps_the_complete_pages_of_a_file(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.fault(Fault.hang().on(2), sandbox.account_ids[0])
    with process(*listing(sandbox, "-o", "json", "-v", "--out", str(tmp_path / "x.json"))) as started:
        assert started.stderr is not None
        while b"call 2: GET" not in started.stderr.readline():
            assert started.poll() is None
        started.send_signal(signal.SIGINT)
        ran = ended(started)
    assert ran.code == INTERRUPTED
    assert json.loads((tmp_path / "x.json.partial").read_text()) == expected(sandbox)[:PAGE]
    assert {each.name for each in tmp_path.iterdir()} == {"x.json.partial", "x.json.partial-state"}


INTERRUPT_WHEN_IMPORTED = """
import os, sys, _signal as signal

class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from truto_ci_async.cli.main import main
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("module", "command"),
    [
        *((module, command) for command in ("interactions", "pull") for module in (
            "typing", "truto_ci_async.cli.run", "click", "asyncio", "msgspec", "truto_ci_async.client", "aiohttp")),
        ("truto_ci_async.cli.resources", "interactions"),
        ("truto_ci_async.cli.pull", "pull"),
    ],
)  # fmt: skip
def test_ctrl_c_while_it_is_loaded_shows_no_traceback(tmp_path: Path, module: str, command: str) -> None:
    """Loading takes a third of a second, in which one notices a mistyped command."""
    more = ["--out", str(tmp_path)] if command == "pull" else []
    script = INTERRUPT_WHEN_IMPORTED.format(module=module)
    started = subprocess.run(
        [sys.executable, "-c", script, command, "--sandbox", *more],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (started.returncode, started.stdout, b"Traceback" in started.stderr) == (INTERRUPTED, b"", False)
    assert b"interrupted" in started.stderr or b"run the same command again" in started.stderr


def test_without_its_packages_it_says_what_to_install() -> None:
    """They are an extra: the library does without them."""
    script = (
        "import sys; sys.modules['click'] = None; from truto_ci_async.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) == (FAILED, b"")
    assert b"pip install 'truto-ci-async[cli]'" in done.stderr


def test_the_sandbox_prints_lines_to_paste(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with process("sandbox", "--accounts", "2", "--interactions", "4") as started:
        assert started.stdout is not None
        lines = [shlex.split(started.stdout.readline().decode()) for _ in range(4)]
        assert [words[0] for words in lines] == ["export"] * 4
        values = dict(words[1].split("=", 1) for words in lines)
        for name in ("TRUTO_API_BASE_URL", "TRUTO_API_TOKEN"):
            monkeypatch.setenv(name, values[name])
        ran = run("interactions", "-a", values["ACCOUNT_2"], *WINDOW, "-o", "ndjson")
        assert len(ndjson(ran.out)) == 4
        started.send_signal(signal.SIGINT)
        assert ended(started).code == INTERRUPTED


def test_the_sandbox_takes_the_shapes_and_limits_of_the_service(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "--accounts",
        "1",
        "--interactions",
        "4",
        "--provider-shape",
        "gong",
        "--capabilities-shape",
        "resources",
    ]
    options += ["--accounts-key", "results", "--end-cursor", "absent", "--token-rate", "9/600", "--lenient"]
    options += ["--provider-rate", "3/600", "--account-rate", "off", "--stream-as", "ndjson"]
    with process("sandbox", *options) as started:
        assert started.stdout is not None
        lines = [shlex.split(started.stdout.readline().decode())[1] for _ in range(3)]
        values = dict(line.split("=", 1) for line in lines)
        token = {"Authorization": f"Bearer {values['TRUTO_API_TOKEN']}"}

        def get(path: str) -> tuple[int, Mapping[str, str], Any]:
            request = urllib.request.Request(values["TRUTO_API_BASE_URL"] + path, headers=token)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with opener.open(request, timeout=DEADLINE) as response:
                    return response.status, response.headers, response.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.headers, error.read()

        account = values["ACCOUNT_1"]
        interactions = (
            f"/unified/conversational-intelligence/interactions?integrated_account_id={account}"
            "&start_time=2024-01-01T00:00:00Z&end_time=2024-02-01T00:00:00Z&unknown=1&truto_response_format="
        )
        assert set(json.loads(get("/integrated-account")[2])) == {"results", "next_cursor", "limit"}
        assert "resources" in json.loads(get(f"/integrated-account/{account}/capabilities")[2])["unified"]
        status, headers, body = get(interactions + "raw")
        assert (status, headers["ratelimit-limit"], len(json.loads(body)["peopleInteractionStats"])) == (
            200,
            "3",
            4,
        )
        assert len(get(interactions + "stream")[2].splitlines()) == 4
        status, _, body = get(interactions + "unified")
        assert (status, "next_cursor" in json.loads(body)) == (200, False)
        status, _, body = get(interactions + "unified")
        assert (status, json.loads(body)["truto_is_remote_error"]) == (429, True)
        assert [get("/integrated-account")[0] for _ in range(5)] == [200] * 3 + [429] * 2
        started.send_signal(signal.SIGINT)
        assert ended(started).code == INTERRUPTED


def test_the_sandbox_stops_by_itself_when_told_to(run: Run) -> None:
    options = ("--accounts", "1", "--providers", "2", "--meetings", "3", "--year", "2023", "--plain")
    ran = run("sandbox", "--for", "0.05", *options)
    assert ran.code == DONE
    assert ran.out.startswith("export TRUTO_API_BASE_URL=http://127.0.0.1:")
    names = [line.removeprefix("export ").partition("=")[0] for line in ran.out.splitlines()]
    others = [
        f"{name}_{number}" for name in ("AVOMA", "CHORUS", "FIREFLIESAI", "WINGMAN") for number in (1, 2)
    ]
    assert names[2:] == ["ACCOUNT_1", *others]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize(("no_color", "escapes"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, no_color: str, escapes: bool
) -> None:
    pytest.importorskip("rich")
    import pty

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = pty.openpty()
    try:
        with process("interactions", "--sandbox", "--max-items", "3", stdout=theirs) as started:
            os.close(theirs)
            shown = b""
            while True:
                try:
                    piece = os.read(ours, 65_536)
                except OSError:  # Linux raises it when the other end is closed
                    break
                if not piece:
                    break
                shown += piece
            assert ended(started).code == DONE
    finally:
        os.close(ours)
    text = shown.decode()
    assert ("\x1b[36m" in text) is escapes
    with Sandbox.in_thread(seed=7) as sandbox:
        assert all(user_id in text for user_id in sandbox.user_ids(sandbox.account_ids[0])[:3])


def test_python_m_is_the_same_program() -> None:
    with process("--version") as started:
        ran = ended(started)
    assert (ran.code, ran.out, ran.err) == (0, f"truto-ci {__version__}\n", "")


# --- help ------------------------------------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    context = click.Context(app)
    found = {name: app.get_command(context, name) for name in COMMANDS}
    return {"": app, **{name: command for name, command in found.items() if command is not None}}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_describes_every_option(run: Run, command: str) -> None:
    ran = run(*([command] if command else []), "--help")
    assert ran.code == DONE
    assert max(map(len, ran.out.splitlines())) < 80
    examples = re.findall(r"^  truto-ci .*", commands()[command].epilog or "", re.MULTILINE)
    assert set(examples) <= {*re.sub(r" \\\n +", " ", ran.out).splitlines()}
    for param in commands()[command].params:
        if isinstance(param, click.Option):
            assert param.help
            for name in param.opts:
                assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", ran.out)


def test_help_lists_every_exit_code(run: Run) -> None:
    documented = re.findall(r"\b\d+\b(?=\s{2,}\w|: by)", run("--help").out.partition("exit codes:")[2])
    codes = {DONE, FAILED, USAGE, REFUSED, INCOMPLETE, INTERRUPTED, TERMINATED}
    assert {int(code) for code in documented} == codes


@pytest.mark.parametrize(
    "line",
    sorted({
        line.strip()
        for command in commands().values()
        for line in (command.epilog or "").splitlines()
        if line.strip().startswith("truto-ci") and "--sandbox" in line
    }),
)  # fmt: skip
def test_every_example_of_the_help_works(
    run: Run, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as they stand, without an account. A pull has 3 accounts here; the README's example runs with all 24."""
    monkeypatch.setitem(PULL_SANDBOX, "accounts", 3)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.partition(" | ")[0])
    ran = run(*words[1:])
    assert ran.code == DONE
    assert ran.out or "accounts done" in ran.err or "--out" in line
    assert "made-up data from a sandbox" in ran.err


def test_a_signal_that_ends_a_command_in_this_process_ends_the_test_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the end of a run that took too long looks like a failure of the test at that moment."""
    monkeypatch.setitem(globals(), "main", lambda argv: TERMINATED)
    with pytest.raises(pytest.exit.Exception, match="terminated"):
        run("users")


def test_a_sandbox_names_no_account_where_all_are_listed(run: Run) -> None:
    ran = run("accounts", "--sandbox")
    assert (ran.code, "account " in ran.err.splitlines()[0]) == (DONE, False)


def test_every_data_command_can_use_the_sandbox(run: Run) -> None:
    for argv in (["interactions"], ["unified", "crm", "contacts"], ["accounts"], ["capabilities"]):
        assert run(*argv, "--sandbox").code == DONE
        assert run("--sandbox", *argv).code == DONE


# --- writers ---------------------------------------------------------------------------------------------------


def test_yaml_text_that_looks_like_a_number_stays_text_to_every_reader() -> None:
    pytest.importorskip("yaml")
    text = YamlWriter().page([{"a": "12e34", "b": "0o17", "c": "name", "d": 12}]).decode()
    assert text == '- a: "12e34"\n  b: "0o17"\n  c: name\n  d: 12\n'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=6,
)


@examples(60)
@given(JSON)
@example({"name": "A\x85B", "\u2028": "\ufeff\x7f\ufffe \n\n x\t", "emoji": "\U0001f468\u200d"})
@example(["- a", "a: b", "#", "~", "yes", "1e5", "0o17", "=", "<<", "---", "x\n---\n", " a", "'", "\\"])
def test_yaml_is_read_back_as_it_was(item: object) -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(YamlWriter().page([item, item])) == [item, item]


@pytest.mark.parametrize("number", ["1e400", "-1E+400", "1.5e999", "9" * 400 + ".5", "1e-400", "1" * 5000])
def test_yaml_takes_numbers_of_any_size(number: str) -> None:
    yaml = pytest.importorskip("yaml")
    (found,) = yaml.safe_load(YamlWriter().page([Raw(number.encode())]))
    assert found == (number if len(number) == 5000 else float(number))


@pytest.mark.parametrize("depth", [900, 20_000])
def test_documents_of_any_depth_are_written(depth: int) -> None:
    r"""In YAML as JSON, which it includes, but for what its readers take otherwise: line ends, and \\u pairs."""
    yaml = pytest.importorskip("yaml")
    inner = '{"a\u0085":\r\n "\\ud83d\\ude00 \\\\ud83d"}'
    item = Raw(("[" * depth + inner + "]" * depth).encode())
    line = NdjsonWriter().page([item])
    assert (line.count(b"\n"), line.count(b"["), JsonWriter().page([item]).count(b"[")) == (
        1,
        depth,
        depth + 1,
    )
    text = YamlWriter().page([item, {"b": 1}]).decode()
    shallow = text.replace("[" * (depth - 1), "").replace("]" * (depth - 1), "")
    assert yaml.safe_load(shallow) == [[{"a\x85": "\U0001f600 \\ud83d"}], {"b": 1}]


@examples(60)
@given(st.lists(st.text(), min_size=1, max_size=3))
@example(["Ann\rBob"])
@example([""])
@example(["a,b", '"', "\n"])
def test_csv_is_read_back_as_it_was(cells: list[str]) -> None:
    names = [f"c{number}" for number in range(len(cells))]
    written = CsvWriter(ANY_LAYOUT).page([dict(zip(names, cells, strict=True))]).decode()
    assert list(csv.reader(io.StringIO(written, newline=""))) == [names, cells]


def test_csv_tells_null_from_empty_text_and_escapes_formulas_on_request(sandbox: Sandbox, run: Run) -> None:
    items = [{"a": None, "b": "", "c": "=1+1"}]
    assert CsvWriter(ANY_LAYOUT).page(items) == b'a,b,c\n,"",=1+1\n'
    assert CsvWriter(ANY_LAYOUT, "escape").page(items) == b'a,b,c\n,"",\'=1+1\n'
    ran = run(*listing(sandbox, "-o", "json", "--csv-formulas", "escape"))
    assert (ran.code, "--csv-formulas is for csv" in ran.err) == (USAGE, True)
    assert run(*listing(sandbox, "-o", "csv", "--csv-formulas", "escape")).code == DONE


def test_yaml_without_its_package_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    ran = run("interactions", "--sandbox", "-o", "yaml")
    assert ran.code == FAILED
    assert "pip install 'truto-ci-async[cli]'" in ran.err


def test_coloured_and_plain_tables_differ_in_nothing_but_style() -> None:
    items = [{"id": "7" * 30, "name": "[bold]山田"}, {"id": "8", "name": "b"}]
    plain = TableWriter(ANY_LAYOUT, width=50).page(items).decode()
    styled = TableWriter(ANY_LAYOUT, width=50, color=True).page(items).decode()
    assert "\x1b[" in styled
    assert [
        line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", styled).splitlines()
    ] == plain.splitlines()


def test_names_cannot_control_the_terminal() -> None:
    shown = TableWriter(ANY_LAYOUT).page([{"na\x1bme": "a\x1b[2Jb\nc\u202ed"}]).decode()
    assert shown.splitlines() == ["na�me", "a�[2Jb c�d"]


EVIL = "\x1b[2J\x9b0m\x7f\u202e\u2028\nforged"
FORBIDDEN = {"forbidden_error": {"value": {"missing_scopes": [EVIL]}}}


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (["interactions"], Fault.status(400, message=EVIL)),
        (["interactions"], Fault.status(403, message="no", insight=FORBIDDEN)),
        (["interactions"], Fault.status(422, message="no", insight={EVIL: {"description": EVIL}})),
        (["interactions"], Fault.body({"result": [{"id": EVIL, "user": {"id": EVIL}, "start_time": EVIL}]})),
        (["interactions"], Fault.body(f"{EVIL}{{".encode())),
        (["interactions", "-vv"], Fault.status(400, message=EVIL)),
        (["interactions", "--max-pages", "1"], Fault.body({"result": [], "next_cursor": EVIL})),
        (["interactions", "--response-format", "raw", "--max-pages", "1"], Fault.body({"next_cursor": EVIL})),
        (["unified", "crm", "contacts"], Fault.body({"result": [{EVIL: 1, f"{EVIL}2": {}}]})),
        (["accounts"], Fault.body({"result": [{"id": EVIL, "status": EVIL, "tenant_id": EVIL}]})),
        (["capabilities"], Fault.body({"account": {"id": EVIL, "status": EVIL}, "unified": []})),
    ],
)
def test_what_the_service_says_cannot_control_the_terminal(
    sandbox: Sandbox, run: Run, command: Sequence[str], fault: Fault
) -> None:
    sandbox.fault(fault)
    where = [] if command[0] == "accounts" else [sandbox.account_ids[0]]
    if where and command[0] != "capabilities":
        where.insert(0, "-a")
    ran = run(*command, *where, *(WINDOW if command[0] == "interactions" else ()))
    for line in (ran.err if "raw" in command else ran.err + ran.out).split("\n"):
        assert printable(line) == line
        assert not line.startswith("forged")
    assert "2J" in ran.err + ran.out or "truto-position" in ran.err, "it was shown"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_safe_on_a_terminal_and_exact_in_a_file(tmp_path: Path, format: str) -> None:
    """JSON may hold C1 controls and marks of direction as they are, and CSV holds anything."""
    if format == "yaml":
        pytest.importorskip("yaml")
    item = {"id": EVIL, "name": "Zoë"}
    options = Options(out="a.file", csv_formulas="keep", no_color=False)
    shown: dict[bool, str] = {}
    for is_terminal in (False, True):
        stream = io.BytesIO()
        stream.isatty = lambda is_terminal=is_terminal: is_terminal  # type: ignore[method-assign]
        with Output(writer_for(options, format, ANY_LAYOUT), OpenStream(stream, close=False)) as output:
            output.page([item])
        shown[is_terminal] = stream.getvalue().decode()
    assert all(printable(line) == line for line in shown[True].split("\n"))
    assert "Zoë" in shown[True]
    if format == "csv":
        assert next(csv.DictReader(io.StringIO(shown[False], newline=""))) == item


def test_an_error_about_the_command_line_hides_what_may_be_a_password(run: Run) -> None:
    ran = run("interactions", "--api-urll", "user:hunter2@host\x1b[2J")
    assert ran.code == USAGE
    assert "there is no option --api-urll; did you mean --api-url?" in ran.err


def test_a_table_keeps_the_columns_of_its_first_page() -> None:
    writer = TableWriter(ANY_LAYOUT)
    assert writer.page([]) == b""
    first = writer.page([{"id": "1", "name": "山"}]).decode()
    assert first == "id  name\n1   山\n"
    assert writer.page([{"id": "22222", "name": "b"}]).decode() == "22222  b\n"


def test_a_table_of_items_of_any_kind_is_like_the_others() -> None:
    """Numbers to the right, short times, and text is cut rather than left out; also when another run goes on."""
    layout = ANY_LAYOUT
    items = [
        {"id": "1", "note": "long " * 9, "deals": 7, "at": "2024-01-31T10:00:00.000Z"},
        {"id": "2", "note": None, "deals": 12345.5, "at": "2024-01-31T10:00:00+02:00"},
    ]
    first = TableWriter(layout, width=60)
    assert first.page(items).decode().splitlines() == [
        "id  note                       deals  at",
        "1   long long long long lo…        7  2024-01-31 10:00Z",
        "2                            12345.5  2024-01-31 10:00+02:00",
    ]
    second = TableWriter(layout, width=60)
    second.state = json.loads(json.dumps(first.state))
    assert second.page(items) == first.page(items)


def test_a_column_without_text_gives_its_room_to_others() -> None:
    items = [
        Meeting(id="1", title="Proof of concept " * 3, type="external", status="completed", duration=60.0)
    ]
    writer = TableWriter(LAYOUTS["meetings"], width=60)
    assert writer.page(items).decode().splitlines()[0].split() == [
        "id",
        "duration",
        "title",
        "type",
        "status",
    ]
    assert writer.hidden == ["start time", "host email"]


def test_csv_reports_fields_that_came_after_the_header() -> None:
    writer = CsvWriter(ANY_LAYOUT)
    assert writer.page([{"a": 1, "b": [None]}, {"c": True}]) == b"a,b,c\n1,[null],\n,,true\n"
    assert writer.page([{"a": "x,\n", "d": 1}]) == b'"x,\n",,\n'
    assert list(writer.left_out) == ["d"]


@pytest.mark.parametrize(
    ("full", "total", "shown", "widths"),
    [
        ([5, 20, 9, 30], None, [0, 1, 2, 3], [5, 20, 9, 30]),
        ([5, 20, 9, 30], 70, [0, 1, 2, 3], [5, 20, 9, 30]),
        ([5, 20, 9, 30], 65, [0, 1, 2, 3], [5, 20, 9, 25]),
        ([5, 20, 9, 30], 60, [0, 1, 2, 3], [5, 20, 9, 20]),
        ([5, 20, 9, 30], 59, [0, 1, 2], [5, 20, 9]),
        ([5, 20, 40, 30], 51, [0, 1, 3], [5, 20, 22]),  # one that fits may come after one that does not
        ([5, 20, 9, 30], 10, [0, 1], [5, 20]),  # ids are shown in the narrowest terminal
    ],
)
def test_columns_fit_into_the_terminal(
    full: list[int], total: int | None, shown: list[int], widths: list[int]
) -> None:
    columns = [Column(head, str) for head in ("name", "user id", "number")]
    assert fit([*columns, Column("title", str, flexible=True)], full, total) == (shown, widths)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_is_never_wider_than_the_terminal(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("interactions", "meetings", "users", "activity", "accounts"):
        where = () if name == "accounts" else ("-a", sandbox.account_ids[0])
        ran = run(name, *where, "--max-items", "6", *(WINDOW if name in ("interactions", "activity") else ()))
        assert ran.code == DONE, ran.err
        lines = ran.out.splitlines()
        assert max(map(cell_width, lines)) <= width, name
        assert ("no room for" in ran.err) is (width < (60 if name == "users" else 100)), name

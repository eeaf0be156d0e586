"""The commands of the resources: their lists, single records and schemas, and what is refused before a request."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest

from truto_ci_async import Sandbox, Transcript, TrutoClient
from truto_ci_async.cli.main import main
from truto_ci_async.cli.messages import DONE, FAILED, USAGE
from truto_ci_async.cli.output.tables import LAYOUTS
from truto_ci_async.cli.output.writers import TranscriptWriter
from truto_ci_async.cli.resources import MODEL, RESOURCES
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.resources.options import RESOURCES as NAMES

PROVIDERS = ("gong", "avoma", "chorus", "firefliesai", "wingman")
JANUARY = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
WINDOW = ("--start-time", "2024-01-01", "--end-time", "2024-02-01")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def service() -> Generator[Sandbox]:
    with Sandbox.in_thread(
        accounts=1, interactions=30, meetings=60, providers=1, account_rate=None
    ) as running:
        yield running


@pytest.fixture
def sandbox(service: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox that the environment points at, with one account of each provider."""
    monkeypatch.setenv("TRUTO_API_BASE_URL", service.url)
    monkeypatch.setenv("TRUTO_API_TOKEN", service.token)
    monkeypatch.delenv("COLUMNS", raising=False)
    service.clear()
    return service


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    def run_main(*argv: str) -> Ran:
        capsysbinary.readouterr()
        code = main(argv)
        printed = capsysbinary.readouterr()
        return Ran(code, printed.out.decode(), printed.err.decode())

    return run_main


def recorded(sandbox: Sandbox, count: int = 1) -> list[str]:
    """Return meetings that have a transcript."""
    gong = sandbox.account_ids[0]
    ids = sandbox.meeting_ids(gong)
    return [id for id in ids if sandbox.expected(gong, resource="transcripts", meeting=id)][:count]


def arguments(sandbox: Sandbox, name: str) -> tuple[list[str], dict[str, Any]]:
    """Return the options that a resource's list takes here, and the same for ``Sandbox.expected``."""
    if "meeting" in RESOURCES[name].filters:
        [meeting] = recorded(sandbox)
        return ["--meeting", meeting], {"meeting": meeting}
    return ([*WINDOW], JANUARY) if RESOURCES[name].filters else ([], {})


# --- columns ---


@pytest.mark.parametrize("name", sorted(RESOURCES))
def test_columns_are_chosen_in_csv_and_in_a_table(name: str, sandbox: Sandbox, run: Run) -> None:
    options, _ = arguments(sandbox, name)
    names = ITEM_TYPES[name].SCHEMA.names
    ran = run(name, "-a", sandbox.account_ids[0], *options, "-o", "csv", "--columns", f"{names[2]}, id")
    assert (ran.code, ran.out.splitlines()[0]) == (DONE, f"{names[2]},id")
    ran = run(name, "-a", sandbox.account_ids[0], *options, "--columns", f"{names[2]},id")
    assert ran.out.split("\n")[0].split("  ")[0] == names[2].replace("_", " ")
    ran = run(name, "-a", sandbox.account_ids[0], *options, "-o", "csv", "--columns=-remote_data")
    assert ran.out.splitlines()[0].split(",") == [each for each in names if each != "remote_data"]


def test_a_metric_of_the_provider_is_a_column(sandbox: Sandbox, run: Run) -> None:
    options = ["-a", sandbox.account_ids[0], *WINDOW, "--columns", "user_id,additional_metrics.Talk Ratio"]
    lines = run("interactions", *options, "-o", "csv").out.splitlines()
    assert lines[0] == "user_id,additional_metrics.Talk Ratio"
    assert any(line.split(",")[1] for line in lines[1:])
    assert run("interactions", *options).out.startswith("user id")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["meetings", "--columns", "titel"], "meetings has no column 'titel'; there are id, title"),
        (["meetings", "--columns", "title", "-o", "ndjson"], "--columns is for -o table and -o csv"),
        (["meetings", "1", "--columns", "title"], "--columns is for lists"),
        (["unified", "crm", "contacts", "--columns", "id"], "--columns is for the resources of"),
        (["interactions", "--columns", "additional_metrics.*"], "needs all items at hand"),
    ],
)
def test_columns_that_cannot_be_shown_are_told_first(
    argv: list[str], words: str, sandbox: Sandbox, run: Run
) -> None:
    ran = run(*argv, "-a", sandbox.account_ids[0])
    assert (ran.code, words in ran.err, sandbox.requests) == (USAGE, True, [])


# --- lists -----------------------------------------------------------------------------------------------------


def test_the_commands_are_the_resources_with_their_own_filters() -> None:
    """``created_at`` and ``updated_at`` of users, which take operators, are given with -q."""
    assert set(RESOURCES) == set(NAMES)
    client = TrutoClient("t")
    for name, command in RESOURCES.items():
        own = set(getattr(client, name).own_filters) - {"created_at", "updated_at"}
        assert own == set(command.filters), name


@pytest.mark.parametrize("name", RESOURCES)
@pytest.mark.parametrize("format", ["json", "csv", "table"])
def test_a_list_is_written_in_every_format(sandbox: Sandbox, run: Run, name: str, format: str) -> None:
    account = sandbox.account_ids[0]
    more, filters = arguments(sandbox, name)
    ran = run(name, "-a", account, *more, "-o", format)
    assert ran.code == DONE, ran.err
    items = sandbox.expected(account, resource=name, **filters)
    assert items
    if format == "json":
        assert json.loads(ran.out) == items
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(ran.out)))
        assert tuple(rows[0]) == ITEM_TYPES[name].SCHEMA.names
        assert [row["id"] for row in rows] == [item.get("id") or "" for item in items]
    else:
        head, *lines = ran.out.splitlines()
        assert len(lines) == len(items)
        assert all(column.head in head for column in LAYOUTS[name].columns or ())
    unified = run("unified", MODEL, name, "-a", account, *more, "-o", format)
    assert (unified.code, unified.out) == (DONE, ran.out)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_meetings_of_every_provider_are_listed(sandbox: Sandbox, run: Run, provider: str) -> None:
    [account] = sandbox.accounts_of(provider)
    ran = run("meetings", "-a", account, *WINDOW, "-o", "ndjson")
    items = sandbox.expected(account, resource="meetings", **JANUARY)
    assert [json.loads(line) for line in ran.out.splitlines()] == items


def test_numbers_of_a_table_are_short(sandbox: Sandbox, run: Run) -> None:
    [meeting] = recorded(sandbox)
    account = sandbox.account_ids[0]
    [transcript] = sandbox.expected(account, resource="transcripts", meeting=meeting)
    ran = run("transcripts", "-a", account, "--meeting", meeting)
    times = (divmod(round(transcript[name]), 60) for name in ("start_time", "end_time"))
    start, end = (f"{minutes}:{seconds:02}" for minutes, seconds in times)
    assert ran.out.splitlines()[1].split() == [meeting, start, end, str(len(transcript["entries"]))]


def test_the_flags_of_lists_reach_the_wire(sandbox: Sandbox, run: Run) -> None:
    for name in RESOURCES:
        more, _ = arguments(sandbox, name)
        run(
            name, "-a", sandbox.account_ids[0], *more, "--limit", "3", "--ignore-limit", "--skip-api-call",
            "--super-query", "wnam", "--remote-query", r"a[b]=1\,2,c=3",
        )  # fmt: skip
        target = sandbox.requests[-1].target
        assert target.startswith(f"/unified/{MODEL}/{name}?")
        for part in (
            "truto_ignore_limit=true",
            "truto_skip_api_call=true",
            "truto_super_query=wnam",
            "remote_query%5Ba%5D%5Bb%5D=1%2C2&remote_query%5Bc%5D=3",
        ):
            assert part in target, name


# --- transcripts -----------------------------------------------------------------------------------------------


def test_a_transcript_as_text_and_as_subtitles(sandbox: Sandbox, run: Run) -> None:
    [meeting] = recorded(sandbox)
    account = sandbox.account_ids[0]
    [found] = sandbox.expected(account, resource="transcripts", meeting=meeting)
    transcript = Transcript.from_json(json.dumps(found))
    asked = ("transcripts", "-a", account, "--meeting", meeting)
    assert run(*asked, "-o", "text").out == transcript.text()
    assert run(*asked, "-o", "vtt").out == transcript.webvtt()
    assert run(*asked, "-o", "text", "--response-format", "stream").out == transcript.text()


def test_transcripts_of_several_meetings_are_one_stream(sandbox: Sandbox, run: Run) -> None:
    ids, account = recorded(sandbox, 3), sandbox.account_ids[0]
    asked = ["transcripts", "-a", account, *(word for id in ids for word in ("--meeting", id))]
    ran = run(*asked, "-o", "ndjson")
    assert [json.loads(line)["meeting"]["id"] for line in ran.out.splitlines()] == ids
    assert "3 transcripts, 3 pages" in ran.err
    text = run(*asked, "-o", "text").out
    assert [line.removeprefix("meeting ") for line in text.splitlines() if line.startswith("meeting ")] == ids
    ran = run(*asked, "-o", "ndjson", "--max-items", "2")
    assert len(ran.out.splitlines()) == 2
    for option in (["-o", "vtt"], ["--key-by", "id"], ["--next-cursor", "x"]):
        ran = run(*asked, *option)
        assert ran.code == USAGE
        assert "one --meeting" in ran.err


def test_subtitles_are_one_file_whatever_is_in_it() -> None:
    writer = TranscriptWriter("vtt", is_titled=False)
    sentence = b'{"entries": [{"text": "Hello."}]}'
    one = Transcript.from_json(sentence)
    assert (writer.page([one, one]) + writer.end()).count(b"WEBVTT") == 1
    empty = TranscriptWriter("vtt", is_titled=False)
    assert empty.page([]) + empty.end() == b"WEBVTT\n"


# --- single records, and schemas -------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_meeting_by_its_id(sandbox: Sandbox, run: Run, provider: str) -> None:
    """Also ids with slashes and plus signs, and those that are no number of 64 bits."""
    [account] = sandbox.accounts_of(provider)
    id = sandbox.meeting_ids(account)[0]
    whole = sandbox.expected_record(account, "meetings", id)
    ran = run("meetings", id, "-a", account)
    assert (ran.code, json.loads(ran.out)) == (DONE, whole)
    assert ran.err == "1 meeting\n"
    ran = run("unified", MODEL, "meetings", id, "-a", account, "-m", "get", "-o", "ndjson")
    assert json.loads(ran.out) == whole
    assert ran.out.count("\n") == 1


def test_one_record_as_rows_and_as_the_provider_has_it(sandbox: Sandbox, run: Run) -> None:
    account = sandbox.account_ids[0]
    id = sandbox.user_ids(account)[0]
    asked = ("users", id, "-a", account)
    user = sandbox.expected_record(account, "users", id)
    [row] = csv.DictReader(io.StringIO(run(*asked, "-o", "csv").out))
    assert (row["id"], row["name"]) == (id, user["name"])
    assert user["name"] in run(*asked, "-o", "table").out
    assert json.loads(run(*asked, "--response-format", "raw").out) == user["remote_data"]
    assert run(*asked, "--response-format", "raw", "-o", "csv").code == DONE
    trimmed = json.loads(run(*asked, "--ignore-remote-data", "--exclude-field", "name").out)
    assert not {"remote_data", "name"} & trimmed.keys()
    contact = json.loads(run("unified", "crm", "contacts", "1001", "-a", account).out)
    assert contact["id"] == "1001"


def test_the_schema_of_a_method(sandbox: Sandbox, run: Run) -> None:
    account = sandbox.account_ids[0]
    for name in RESOURCES:
        document = json.loads(run(name, "-m", "meta", "-a", account).out)
        assert set(document) == {"query_schema", "response_schema"}
        assert sandbox.requests[-1].target.startswith(f"/unified/{MODEL}/{name}/meta/list?")
    run("unified", MODEL, "users", "get", "-a", account, "-m", "meta")
    assert sandbox.requests[-1].target.startswith(f"/unified/{MODEL}/users/meta/get?")


def test_one_account_and_the_account_of_a_token(
    sandbox: Sandbox, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = sandbox.account_ids[0]
    [listed] = [each for each in sandbox.accounts if each["id"] == account]
    shown = json.loads(run("accounts", account).out)
    assert (shown["id"], shown["tenant_id"]) == (account, listed["tenant_id"])
    assert "context" not in shown
    assert run("accounts", account, "-o", "table").out.splitlines()[1].startswith(account)

    async def own_token() -> str:
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as client:
            return str.__str__(await client.integrated_accounts.create_token(account))

    monkeypatch.setenv("TRUTO_API_TOKEN", asyncio.run(own_token()))
    assert json.loads(run("accounts", "me").out)["id"] == account


def test_capabilities_are_narrowed(sandbox: Sandbox, run: Run) -> None:
    asked = ("capabilities", sandbox.account_ids[0])
    rows = run(*asked, "--resource", "users", "--resource", "activity", "--method", "list", "-o", "csv").out
    assert rows.splitlines()[1:] == [f"{MODEL},users,list", f"{MODEL},activity,list"]
    proxy = [line.split()[:2] for line in run(*asked, "--type", "proxy").out.splitlines()[1:]]
    assert ["proxy", "calls"] in proxy
    assert all(model == "proxy" for model, _ in proxy)


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["transcripts", "-a", "x"], "transcripts needs --meeting"),
        (["unified", MODEL, "transcripts", "-a", "x"], "transcripts needs --meeting"),
        (["activity", "-a", "x"], "activity needs --start-time and --end-time"),
        (["activity", "-a", "x", "--start-time", "-7d"], "activity needs --end-time"),
        (["activity", "-a", "x", "--start-time=-7d"], "activity needs --end-time"),
        (["unified", MODEL, "users", "-a", "x", "--user", "1"], "users takes no --user"),
        (["unified", "crm", "contacts", "-a", "x", "--meeting", "1"], "crm/contacts takes no --meeting"),
        (["unified", MODEL, "meeting", "-a", "x"], "it has meetings, activity"),
        (["unified", MODEL, "transcript", "-a", "x", "-m", "meta"], "it has transcripts"),
        (["meetings", "-a", "x", "-m", "get"], "needs the ID"),
        (["meetings", "1", "-a", "x", "--limit", "3"], "--limit is for lists"),
        (["unified", MODEL, "users", "1", "-a", "x", "--user", "3"], "--user is for lists"),
        (["meetings", "1", "-a", "x", "-m", "list"], "takes no ID"),
        (
            ["meetings", "1", "-a", "x", "--response-format", "stream"],
            "--response-format stream is for lists",
        ),
        (["meetings", "-a", "x", "-m", "meta", "-o", "csv"], "JSON Schema"),
        (["meetings", "-a", "x", "-m", "meta", "-q", "a=1"], "--query is for lists, not for -m meta"),
        (["meetings", "-a", "x", "-m", "meta", "--query-json", "{}"], "--query-json is for lists"),
        (["meetings", "-a", "x", "-m", "delete"], "--method: 'delete' is not one of list, get, meta"),
        (["meetings", "-a", "x", "--remote-query", "a"], "--remote-query takes NAME=VALUE"),
        (["transcripts", "-a", "x", "--meeting", ""], "it is empty"),
        (["transcripts", "-a", "x", "--meeting", "1", "-o", "text", "--response-format", "raw"], "no rows"),
        (
            [
                "transcripts",
                "-a",
                "x",
                "--meeting",
                "1",
                "-o",
                "text",
                "--response-format",
                "stream",
                "--path",
                "a",
            ],
            "leave out -o text",
        ),
        (["meetings", "-a", "x", "-o", "text"], "--output: 'text' is not one of table, json, "),
        (["accounts", "me", "--status", "active"], "--status is for lists"),
        (["accounts", "me", "--csv-formulas", "escape"], "--csv-formulas is for csv"),
        (["users", "1", "-a", "x", "--csv-formulas", "escape"], "--csv-formulas is for csv"),
        (["capabilities", "x", "-o", "json", "--csv-formulas", "escape"], "--csv-formulas is for csv"),
        (["users", "-a", "x", "--key-by", "id", "--csv-formulas", "escape"], "--csv-formulas is for csv"),
        (
            ["transcripts", "-a", "x", "--meeting", "1", "-o", "text", "--csv-formulas", "escape"],
            "--csv-formulas is for csv",
        ),
    ],
)
def test_what_can_never_work_is_told_before_a_request(
    sandbox: Sandbox, run: Run, argv: list[str], words: str
) -> None:
    ran = run(*argv)
    assert ran.code == USAGE
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert sandbox.requests == []


def test_a_provider_without_the_resource_is_told_what_it_has(sandbox: Sandbox, run: Run) -> None:
    [avoma] = sandbox.accounts_of("avoma")
    ran = run("transcripts", "-a", avoma, "--meeting", "1")
    assert ran.code == FAILED
    assert "meetings" in ran.err


# --- the sandbox of a command ----------------------------------------------------------------------------------


def test_the_sandbox_fits_the_command(run: Run) -> None:
    """The account of an id is the one that has it, whatever its provider."""
    for name in RESOURCES:
        ran = run(name, "--sandbox", "--max-items", "2", "-o", "ndjson")
        assert ran.code == DONE, ran.err
        assert ran.out.splitlines(), name
    with Sandbox.in_thread(seed=7, providers=1) as same:
        ids = {each: same.meeting_ids(same.accounts_of(each)[0])[5] for each in ("gong", "wingman")}
    for id in ids.values():
        assert json.loads(run("meetings", id, "--sandbox").out)["id"] == id
    ran = run("transcripts", "--meeting", ids["gong"], "--sandbox", "-a", "no-such-account")
    assert ran.code == FAILED


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""),
        (0, "0:00"),
        (59.6, "1:00"),
        (2787, "46:27"),
        (3600, "1:00:00"),
        (-5, "-5"),
        (360_000, "360000"),
    ],
)
def test_a_table_shows_the_length_of_a_meeting_as_a_clock_does(seconds: float | None, shown: str) -> None:
    [column] = [each for each in LAYOUTS["meetings"].columns or () if each.head == "duration"]
    assert column.cell({"duration": seconds}) == shown

"""The README, and the project's other pages, kept true: every block runs, every name in them exists.

A block is told by what stands after its backticks: ``python`` is a script, ``python notebook`` a cell of the one
session that goes through the README, ``python theirs`` other people's code, ``console`` lines for a shell.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import truto_ci_async
from tests.support import run
from truto_ci_async import (
    Activity,
    Interaction,
    Meeting,
    Pacing,
    RetryPolicy,
    Sandbox,
    SentenceRow,
    Timeouts,
    Transcript,
    TrutoClient,
    User,
    errors,
    schema,
)
from truto_ci_async._http.base_client import DEFAULT_MAX_BODY_BYTES
from truto_ci_async.cli import app as cli
from truto_ci_async.reports import report_page
from truto_ci_async.resources.options import RESOURCES as NAMES
from truto_ci_async.sandbox.service.providers import PROVIDERS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
COMMAND_SECONDS = 60.0  # each takes less than one, on a machine with nothing else to do


class Block(NamedTuple):
    kind: str
    line: int  # of its first line, for messages and tracebacks
    text: str
    page: Path

    def __str__(self) -> str:
        return f"line {self.line}"


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(each[1], text.count("\n", 0, each.start(2)) + 1, each[2], page) for each in found]


BLOCKS = _blocks(ROOT / "README.md")
SCRIPTS = [block for block in BLOCKS if block.kind == "python"]
CELLS = [block for block in BLOCKS if block.kind == "python notebook"]
CONSOLE = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for block in BLOCKS
    if block.kind == "console"
    for line in block.text.splitlines()
]
COMMANDS = [line for line in CONSOLE if line.startswith("truto-ci ")]
# Whole command lines, also those inside of sentences and tables.
COMMAND_LINES = [*COMMANDS, *re.findall(r"`(truto-ci [^`]+)`", README)]


def _code(block: Block, flags: int = 0) -> Any:
    """Compile a block so that a traceback shows the page's own lines."""
    return compile("\n" * (block.line - 1) + block.text, str(block.page), "exec", flags=flags)


def _script(start: str) -> dict[str, Any]:
    """Run the one script block that says ``start`` somewhere, and return its names."""
    [block] = [block for block in SCRIPTS if start in block.text]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(_code(block), namespace)
    return namespace


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """A service named by the environment, as a reader's own would be, and an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    with Sandbox.in_thread() as running:
        monkeypatch.setenv("TRUTO_API_TOKEN", running.token)
        monkeypatch.setenv("TRUTO_API_BASE_URL", running.url)
        yield running


# --- Python ----------------------------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """A misspelt kind would take a block out of the tests without a word."""
    for page in PAGES:
        kinds = {block.kind for block in _blocks(page)}
        if page.name == "output-folder.md":  # these are run in test_folder
            kinds = {kind for kind in kinds if not {"parquet", "csv", "ndjson", "json"} & set(kind.split())}
        if page.name == "landing.md":  # run by the tests of the databases
            kinds -= {"sql"}
        assert kinds <= {"python", "python notebook", "python theirs", "console", "ts", "text"}, page.name
    assert len(SCRIPTS) == 4
    assert CELLS
    assert COMMANDS


def test_the_first_example_runs_as_it_stands() -> None:
    """No token, no account, no service: that is what stands below it."""
    assert BLOCKS[0] is SCRIPTS[0], "it is the first thing a reader sees"
    output = StringIO()
    with redirect_stdout(output):
        exec(_code(SCRIPTS[0]), {"__name__": "__main__"})
    lines = output.getvalue().splitlines()
    assert len(lines) == 250
    assert re.fullmatch(r"\S+@\S+\.example (None|[\d.]+)", lines[0])


def test_the_service_starts_asks_and_ends(sandbox: Sandbox) -> None:
    names = _script("lifespan")

    async def scenario() -> None:
        app = types.SimpleNamespace(state=types.SimpleNamespace())
        ask, (start, end) = names["patience_by_user"], (date(2024, 1, 1), date(2024, 2, 1))
        async with names["lifespan"](app):
            found = await ask(app, sandbox.account_ids[0], start, end)
            assert list(found) == sandbox.user_ids(sandbox.account_ids[0])
            [closed] = [each["id"] for each in sandbox.accounts if each["status"] == "needs_reauth"]
            assert await ask(app, closed, start, end) == {}

    run(scenario())


def test_the_nightly_job_pulls_every_account_and_can_run_again(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    nightly = _script("nightly")["nightly"]
    for _ in range(2):
        assert run(nightly(date(2024, 2, 1))) == 0
    rows = Path("data/2024-02-01/interactions.ndjson").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 750
    assert capsys.readouterr().out.count("3 of 3 accounts done") == 2
    asked = len(sandbox.requests)
    with pytest.raises(errors.StateConflictError):  # "a folder belongs to one question"
        run(nightly_in_the_same_folder(nightly))
    assert len(sandbox.requests) - asked <= 1, "refused before any account was asked"


async def nightly_in_the_same_folder(nightly: Any) -> None:
    """Ask for another night's days where this one's rows are."""
    Path("data/2024-02-01").rename("data/2024-02-02")
    await nightly(date(2024, 2, 2))


def test_the_test_with_faults_passes() -> None:
    _script("test_my_job_survives_a_bad_minute")


def test_the_cells_run_in_order_in_one_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in Jupyter: one loop, one namespace, top-level await; what a cell ends in is shown, so its repr is tried."""
    monkeypatch.chdir(tmp_path)
    # Bundling the libraries of the report takes seconds; its own tests do it.
    monkeypatch.setattr(report_page, "_library", str)
    output = StringIO()

    async def session() -> None:
        names, shown = await _run_cells(CELLS)
        texts = [repr(value) for value in shown]
        assert "Page(50 items, has_more=True" in texts[0]
        assert len(names["people"]) == 250
        assert 250 in shown, "page + rest is everything"
        assert any("3 of 3 accounts done" in text for text in texts)
        assert any("250 items" in text for text in texts), "the stream"
        assert (tmp_path / "first.json").stat().st_size == names["size"]
        assert (tmp_path / "report.html").exists()
        assert any("x_unknown" in text for text in texts)
        assert names["recent"], "an example that finds nothing explains nothing"
        assert names["page"].response.attempts == 3, "the block says so"

    with redirect_stdout(output):
        run(session())
    assert "attempt 1 failed (status 502)" in output.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_cells_of_a_page_run_in_order(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The README's are tried above, and no other page needs more than that its cells run."""
    monkeypatch.chdir(tmp_path)
    cells = [block for block in _blocks(page) if block.kind == "python notebook"]
    if page.name != "README.md" and cells:
        with redirect_stdout(StringIO()):
            run(_run_cells(cells))


async def _run_cells(cells: Sequence[Block]) -> tuple[dict[str, Any], list[Any]]:
    """Run cells in one session; return its names, and what each cell shows."""
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        return names, [await _run_cell(cell, names) for cell in cells]
    finally:
        for name in ("careful", "truto", "sandbox"):
            if name in names:
                await names[name].aclose()


async def _run_cell(cell: Block, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last line, None when that is no expression."""
    tree = ast.parse("\n" * (cell.line - 1) + cell.text, str(cell.page))
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_", ast.Store())], last.value), last)
        ast.fix_missing_locations(tree)
    code = compile(tree, str(cell.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names["_"] = None
    pending = eval(code, names)
    if inspect.isawaitable(pending):
        await pending
    return names["_"]


def test_other_peoples_code_is_python_too() -> None:
    for block in BLOCKS:
        if block.kind == "python theirs":
            _code(block, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# --- docs/resources.md ------------------------------------------------------------------------------------------

RESOURCES = (ROOT / "docs" / "resources.md").read_text(encoding="utf-8")


def _section(heading: str) -> str:
    return RESOURCES.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("item_type", [Meeting, Transcript, SentenceRow, User, Activity, Interaction])
def test_columns_are_those_of_the_schema(item_type: type[Any]) -> None:
    """A table that differs is replaced by the one in the message."""
    rows = [f"| `{each.name}` | {each.type} | {each.doc} |" for each in schema(item_type)]
    table = "\n".join(["| column | type | |", "|---|---|---|", *rows, ""])
    heading = "transcripts" if item_type is SentenceRow else schema(item_type).name
    assert f"\n{table}" in _section(heading.capitalize()), f"write this into docs/resources.md:\n{table}"


def test_filters_are_those_of_the_signatures() -> None:
    client = TrutoClient("token")
    for name in NAMES:
        told = _section(name.capitalize()).partition("**Parameters:**")[2].partition("\n\n")[0]
        assert set(re.findall(r"`(\w+_\w+|users|meeting)`", told)) == set(getattr(client, name).own_filters)


def test_providers_have_what_the_table_says() -> None:
    """As the sandbox serves them."""
    head, _, *lines = _section("Who has what").partition("\n\nThat is")[0].strip().splitlines()
    names = [each.strip() for each in head.strip("|").split("|")][1:]
    for line in lines:
        provider, *cells = (each.strip(" `") for each in line.removesuffix("|").lstrip("|").split("|"))
        told = {name: tuple(cell.split(", ")) for name, cell in zip(names, cells, strict=True) if cell}
        assert told == dict(PROVIDERS[provider].resources), provider
    assert len(lines) == len(PROVIDERS)


# --- the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [line for line in COMMANDS if "sandbox" in line])
def test_a_command_line_runs_without_credentials(line: str, tmp_path: Path) -> None:
    """As typed into a shell, which also sees a failure in the middle of a pipe."""
    command = tmp_path / "bin" / "truto-ci"  # the tests may run from sources that are not installed
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m truto_ci_async "$@"\n')
    command.chmod(0o755)
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "SYSTEMROOT", "HOME") if name in os.environ}
    path = os.pathsep.join((str(command.parent), os.environ["PATH"]))
    folder = Path(truto_ci_async.__file__).parents[1]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=kept | {"PATH": path, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "error"},
        cwd=tmp_path,
        capture_output=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    told = done.stderr.decode()
    assert done.returncode == 0, told
    assert "Traceback" not in told
    assert done.stdout or "--out" in line
    if "--out " in line:
        name = line.partition("--out ")[2].split()[0]
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("line", sorted({line for line in COMMAND_LINES if "COMMAND" not in line}))
def test_a_command_line_says_what_the_parser_takes(line: str) -> None:
    """Also the lines that need an account of the reader's own, and those in tables."""
    assert cli.parse(shlex.split(line.partition(" |")[0])[1:])[1].command


def test_options_in_sentences_exist() -> None:
    text = " ".join(
        re.findall(r"`[^`]*`", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL))
    )
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _all_help())), named


def test_exit_codes_are_those_of_the_help() -> None:
    """Of all commands together: some codes are for one of them."""
    table = README.partition("| exit code |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| (\d+) \| (\w+)", table, re.MULTILINE))
    helped = set(re.findall(r"^  (\d+)  +(\w+)", _all_help(), re.MULTILINE))
    assert told == helped


def _all_help() -> str:
    main = click.Context(cli.app, info_name="truto-ci")
    commands = [cli.app.get_command(main, name) for name in cli.COMMANDS]
    each = [command.get_help(click.Context(command, main)) for command in commands if command is not None]
    return "\n".join([cli.app.get_help(main), *each])


def test_the_help_speaks_of_every_command_the_readme_does() -> None:
    """And the README of every command there is, apart from those that docs/cli.md has alone."""
    used = {cli.parse(shlex.split(line.partition(" |")[0])[1:])[1].command for line in COMMANDS}
    assert used | {"export", "completion"} == set(cli.COMMANDS)


# --- names ----------------------------------------------------------------------------------------------------


def test_the_errors_are_all_there() -> None:
    """A reader looks up the name a traceback shows: each has its place, and none is invented."""
    named = set(re.findall(r"\b[A-Z]\w+Error\b", README))
    there = {name for name in errors.__all__ if name.endswith("Error")}
    assert named == there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = re.findall(r"(?:^\$ |`)make ((?:[a-z-]+ ?)+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for names in told for name in names.split()} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files beside the page, and headings in it."""
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_defaults_are_those_of_the_code() -> None:
    """The table of timeouts, attempts and limits is the first place where numbers grow old."""
    rows = dict(re.findall(r"^\| `(Timeouts|RetryPolicy|Pacing)` \| (.+)$", README, re.MULTILINE))
    timeouts = re.findall(r"`(\w+)` ([\d.]+)", rows["Timeouts"])
    assert {name: float(value) for name, value in timeouts} == {
        name: getattr(Timeouts(), name) for name in Timeouts.__struct_fields__
    }
    retry, token, account = RetryPolicy(), Pacing().token, Pacing().account
    assert token
    assert account
    assert f"{retry.attempts} attempts" in rows["RetryPolicy"]
    assert f"`max_wait` ({retry.max_wait:g} s)" in rows["RetryPolicy"]
    told = f"{token.limit} requests in {token.window:g} s for a token, {account.limit} for an account"
    assert told in rows["Pacing"]
    assert token.window == account.window
    assert "64 MiB (`max_body_bytes`)" in README
    assert DEFAULT_MAX_BODY_BYTES == 64 * 2**20

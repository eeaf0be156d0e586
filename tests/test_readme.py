"""What the pages say of commands, columns, defaults and targets is what the code says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import truto_ci_async
from tests.doc_blocks import BLOCKS, PAGES, ROOT
from truto_ci_async import (
    Activity,
    Interaction,
    Meeting,
    Pacing,
    RetryPolicy,
    SentenceRow,
    Timeouts,
    Transcript,
    TrutoClient,
    User,
    schema,
)
from truto_ci_async._http.base_client import DEFAULT_MAX_BODY_BYTES
from truto_ci_async.cli import app as cli
from truto_ci_async.resources.options import RESOURCES as NAMES
from truto_ci_async.sandbox.service.providers import PROVIDERS

COMMAND_LINE = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
COMMAND_SECONDS = 60.0  # each takes less than one, on a machine with nothing else to do
COMMANDS = sorted(
    {
        line.removeprefix("$ ").split("  #")[0].strip()
        for block in BLOCKS
        if block.kind == "console"
        for line in block.text.splitlines()
        if line.startswith("$ truto-ci ")
    }
)
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md")
# Whole command lines, also those inside of sentences and tables.
COMMAND_LINES = {*COMMANDS, *re.findall(r"`(truto-ci [^`]+)`", TEXT)}

# --- the five resources ------------------------------------------------------------------------------------------

RESOURCES = (ROOT / "docs" / "reference" / "resources.md").read_text(encoding="utf-8")


def _section(heading: str) -> str:
    return RESOURCES.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("item_type", [Meeting, Transcript, SentenceRow, User, Activity, Interaction])
def test_columns_are_those_of_the_schema(item_type: type[Any]) -> None:
    """A table that differs is replaced by the one in the message."""
    rows = [f"| `{each.name}` | {each.type} | {each.doc} |" for each in schema(item_type)]
    table = "\n".join(["| column | type | |", "|---|---|---|", *rows, ""])
    heading = "transcripts" if item_type is SentenceRow else schema(item_type).name
    assert f"\n{table}" in _section(heading.capitalize()), (
        f"write this into docs/reference/resources.md:\n{table}"
    )


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
    assert done.stdout or "--out" in line or "--to" in line
    if "--out " in line:
        name = line.partition("--out ")[2].split()[0]
        assert (tmp_path / name).exists()


@pytest.mark.parametrize("line", sorted({line for line in COMMAND_LINES if "COMMAND" not in line}))
def test_a_command_line_says_what_the_parser_takes(line: str) -> None:
    """Also the lines that need an account of the reader's own, and those in tables."""
    assert cli.parse(shlex.split(line.partition(" |")[0])[1:])[1].command


def test_options_in_sentences_exist() -> None:
    text = " ".join(
        re.findall(r"`[^`]*`", re.sub(r"^```.*?^```$", "", COMMAND_LINE, flags=re.MULTILINE | re.DOTALL))
    )
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", _all_help())), named


def test_exit_codes_are_those_of_the_help() -> None:
    """Of all commands together: some codes are for one of them."""
    table = COMMAND_LINE.partition("| exit code |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| (\d+) \| (\w+)", table, re.MULTILINE))
    helped = set(re.findall(r"^  (\d+)  +(\w+)", _all_help(), re.MULTILINE))
    assert told == helped


def _all_help() -> str:
    main = click.Context(cli.app, info_name="truto-ci")
    commands = [cli.app.get_command(main, name) for name in cli.COMMANDS]
    each = [command.get_help(click.Context(command, main)) for command in commands if command is not None]
    return "\n".join([cli.app.get_help(main), *each])


def test_the_help_speaks_of_every_command_the_pages_do() -> None:
    """And the pages of every command there is."""
    used = {cli.parse(shlex.split(line.partition(" |")[0])[1:])[1].command for line in COMMANDS}
    assert used == set(cli.COMMANDS)


def test_the_table_has_every_command_with_an_example_that_runs() -> None:
    """What it does is told in the words of ``truto-ci --help``; each example is one of those that are run."""
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| `(truto-ci [^`]+)` \|$", COMMAND_LINE, re.MULTILINE)
    assert {name: what for name, what, _ in rows} == {name: what for name, (_, what) in cli.COMMANDS.items()}
    for name, _, line in rows:
        assert cli.parse(shlex.split(line)[1:])[1].command == name
        assert line in COMMANDS


# --- the rest ---


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = re.findall(r"(?:^\$ |`)make ((?:[a-z-]+ ?)+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for names in told for name in names.split()} <= targets


def test_defaults_are_those_of_the_code() -> None:
    """Numbers are the first thing in a page to grow old."""

    def page(name: str) -> str:
        return " ".join((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").split())

    timeouts = re.findall(r"\| `(connect|read|attempt|total)` \| ([\d.]+) \|", page("how-to/service"))
    assert {name: float(value) for name, value in timeouts} == {
        name: getattr(Timeouts(), name) for name in Timeouts.__struct_fields__
    }
    limits, retry, token, account = (
        page("explanation/rate-limits"),
        RetryPolicy(),
        Pacing().token,
        Pacing().account,
    )
    assert token
    assert account
    assert (
        f"{token.limit} requests in {token.window:g} seconds for a token, and {account.limit} for each"
        in limits
    )
    assert token.window == account.window
    assert f"`RetryPolicy.max_wait` ({retry.max_wait:g} seconds)" in limits
    assert f"a budget of {retry.budget_capacity:g} retries" in limits
    assert f"up to {retry.fault_base:g} seconds for the first" in limits
    assert "64 MiB (`max_body_bytes`)" in page("how-to/large-responses")
    assert DEFAULT_MAX_BODY_BYTES == 64 * 2**20

"""The recipes of docs/how-to/schedulers.md: the program runs under cron's script, dbt's model on its tables."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import truto_ci_async
from tests.doc_blocks import ROOT, blocks
from truto_ci_async import Sandbox

duckdb = pytest.importorskip("duckdb")

PAGE = ROOT / "docs" / "how-to" / "schedulers.md"
SECONDS = 120.0


def block(kind: str) -> str:
    [found] = [each.text for each in blocks(PAGE) if each.kind == kind]
    return found


def rows_of(database: Path, statement: str) -> list[Any]:
    with duckdb.connect(str(database), read_only=True) as connection:
        found: list[Any] = connection.execute(statement).fetchall()
        return found


@pytest.mark.services  # it starts six processes, one after the other
@pytest.mark.skipif(os.name == "nt", reason="a script for sh")
def test_the_script_of_cron_runs_twice_and_the_model_of_dbt_on_its_tables(tmp_path: Path) -> None:
    """The second run changes nothing, nor does the same sync from Python. All as written on the page."""
    folder = tmp_path / "srv"
    (folder / "bin").mkdir(parents=True)
    command = folder / "bin" / "truto-ci"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m truto_ci_async "$@"\n')
    command.chmod(0o755)
    (folder / "nightly.py").write_text(block("python"))
    (folder / "nightly.sh").write_text(block("sh"))
    year = datetime.now(UTC).year
    with Sandbox.in_thread(accounts=1, interactions=5, year=year, meetings=200) as sandbox:
        package = Path(truto_ci_async.__file__).parents[1]
        (folder / "nightly.env").write_text(
            f"export TRUTO_API_TOKEN={sandbox.token} TRUTO_API_BASE_URL={sandbox.url} PYTHONPATH={package}\n"
            "export DATABASE_URL=duckdb:///calls.db\n"
        )
        environment = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        script = ["sh", str(folder / "nightly.sh")]
        counts: list[Any] = []
        asked: list[int] = []
        for _ in range(2):
            subprocess.run(script, env=environment, cwd="/", timeout=SECONDS, check=True)
            asked.append(len(sandbox.requests))
            tables = ("interactions", "meetings", "transcripts", "users", "activity")
            counts.append([rows_of(folder / "calls.db", f"SELECT count(*) FROM {name}") for name in tables])
        program = ["sh", "-c", f". ./nightly.env && exec {shlex.quote(sys.executable)} nightly.py"]
        subprocess.run(program, env=environment, cwd=folder, timeout=SECONDS, check=True)
        counts.append([rows_of(folder / "calls.db", f"SELECT count(*) FROM {name}") for name in tables])
    assert json.loads((folder / "nightly.json").read_text())
    assert counts[0] == counts[1] == counts[2]
    assert asked[1] - asked[0] < asked[0]
    assert counts[0][0] != [(0,)]
    model = re.sub(r"{{ source\('truto', '(\w+)'\) }}", r"\1", block("sql external"))
    assert rows_of(folder / "calls.db", model)


def test_the_sources_of_dbt_are_the_tables() -> None:
    found = yaml.safe_load(block("yaml external"))
    [source] = found["sources"]
    named = {each["name"] for each in source["tables"]}
    assert named == {"interactions", "meetings", "transcripts", "users", "activity"}
    used = set(re.findall(r"source\('truto', '(\w+)'\)", block("sql external")))
    assert used <= named

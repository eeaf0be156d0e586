"""Every block of the README and of the documentation runs, every link leads somewhere, and every name is covered."""

from __future__ import annotations

import ast
import re
import tomllib
import types
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import truto_ci_async
from tests.doc_blocks import (
    BLOCKS,
    PAGES,
    ROOT,
    SCRIPTS,
    TUTORIAL,
    Block,
    blocks,
    compiled,
    notebook_cells,
    run_cells,
    run_script,
)
from tests.support import run
from truto_ci_async import Sandbox, errors
from truto_ci_async.reports import report_page

EXTERNAL = {"python external", "yaml external", "sql external"}  # what needs other products
KINDS = {"python", "python notebook", "console", "text", "sql", "sh", "ini", *EXTERNAL}
DOCS = ROOT / "docs"
MADE = {
    "tutorial.md",
    "changelog.md",
    "explanation/benchmarks.md",
    "reference/command-options.md",
}  # by docs/build.py


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """A service named by the environment, as a reader's own would be, and an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    with Sandbox.in_thread() as running:
        monkeypatch.setenv("TRUTO_API_TOKEN", running.token)
        monkeypatch.setenv("TRUTO_API_BASE_URL", running.url)
        yield running


@pytest.fixture(autouse=True)
def _quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundling the libraries of the report takes seconds; its own tests do it."""
    monkeypatch.setattr(report_page, "_library", str)


# --- Python ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_tested(page: Path) -> None:
    """A misspelt kind would take a block out of the tests without a word."""
    kinds = {block.kind for block in blocks(page)}
    if page.name == "output-folder.md":  # these are run in test_folder
        kinds = {kind for kind in kinds if not {"parquet", "csv", "ndjson", "json"} & set(kind.split())}
    assert kinds <= KINDS


# That of the schedulers is run by the script for cron, in test_recipes.
@pytest.mark.parametrize("block", [each for each in SCRIPTS if each.page.stem != "schedulers"], ids=str)
@pytest.mark.usefixtures("sandbox")
def test_scripts_run_as_they_stand(block: Block) -> None:
    with redirect_stdout(StringIO()):
        exec(compiled(block), {"__name__": "__main__"})


def test_the_first_example_shows_what_it_says() -> None:
    """No token, no account, no service."""
    output = StringIO()
    [first, *_] = blocks(ROOT / "README.md")[1:]
    with redirect_stdout(output):
        exec(compiled(first), {"__name__": "__main__"})
    lines = output.getvalue().splitlines()
    assert len(lines) == 250
    assert re.fullmatch(r"\S+@\S+\.example (None|[\d.]+)", lines[0])


def test_the_service_starts_asks_and_ends(sandbox: Sandbox) -> None:
    names = run_script("lifespan")

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
    nightly = run_script("async def nightly(night: date)")["nightly"]
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


def test_the_options_of_a_service_retry_as_the_page_says() -> None:
    output = StringIO()
    with redirect_stdout(output):
        run_script("def watch")
    assert "attempt 1 failed (status 502)" in output.getvalue()
    assert output.getvalue().splitlines()[-1] == "3"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_cells_of_a_page_run_in_order(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [block for block in blocks(page) if block.kind == "python notebook"]
    if cells:
        with redirect_stdout(StringIO()):
            run(run_cells(cells))


def test_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    async def session() -> None:
        names, shown = await run_cells(notebook_cells(TUTORIAL))
        assert 250 in shown
        assert len(names["calls"]) == 750

    with redirect_stdout(StringIO()):
        run(session())


def test_what_needs_other_products_is_python_too() -> None:
    for block in BLOCKS:
        if block.kind == "python external":
            compiled(block, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# --- links and names --------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a page, and to a heading in it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if there == DOCS / "tutorial.md":  # made from the notebook
            there = TUTORIAL
        if there.resolve() in {DOCS / each for each in MADE}:
            continue
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def nav_pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from nav_pages(each)


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    there = {str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents}
    assert set(nav_pages(nav)) == there | MADE
    assert len(list(nav_pages(nav))) == len(set(nav_pages(nav)))


def test_the_reference_covers_every_public_name() -> None:
    told = [
        name
        for page in sorted((DOCS / "reference" / "api").glob("*.md"))
        for name in re.findall(r"^::: truto_ci_async\.(\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert sorted(told) == sorted(set(truto_ci_async.__all__) - {"__version__"})


def test_the_errors_are_all_there() -> None:
    """A reader looks up the name a traceback shows: each has its place, and none is invented."""
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b[A-Z]\w+Error\b", page))
    assert named == {name for name in errors.__all__ if name.endswith("Error")}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_the_badges_are_true() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = {
        name: re.findall(r'aria-label="(.+?): (.+?)"', (DOCS / "images" / f"badge-{name}.svg").read_text())[
            0
        ][1]
        for name in ("python", "typed", "licence")
    }
    assert (ROOT / "truto_ci_async" / told["typed"]).exists()
    assert told["licence"] == project["license"]
    assert project["requires-python"] == f">={told['python'].removesuffix(' or newer')}"


def test_every_test_that_a_guarantee_names_exists() -> None:
    """A row without its test would be a promise that nothing keeps."""
    missing = []
    for row in re.findall(r"^\| .+$", (DOCS / "explanation" / "guarantees.md").read_text(), re.MULTILINE):
        source = ""
        for file, name in re.findall(r"`(?:(\w+)::)?(test_\w+)(?:\[[^`]*\])?`", row):
            if file:
                source = (ROOT / "tests" / f"test_{file}.py").read_text(encoding="utf-8")
            if f"def {name}(" not in source:
                missing.append(f"{file}::{name}")
    assert not missing

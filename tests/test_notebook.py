"""A notebook from its first cell to its last: run by a kernel against the sandbox, and looked at in a browser."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support import run
from truto_ci_async import Fault, Sandbox

# What jupyter's own packages warn of is not ours.
pytestmark = [pytest.mark.services, pytest.mark.filterwarnings("default")]

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
CELLS = {
    "setup": """
import altair, pathlib
from truto_ci_async import TrutoClient, charts
altair.renderers.enable("svg")  # needs no network
truto = TrutoClient(TOKEN, base_url=URL, on_event=lambda event: pathlib.Path(MARK).touch())
january = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
""",
    "page": "page = await truto.interactions.list(ACCOUNTS[0], **january)\npage",
    "item": "page[0]",
    "account": "(await truto.integrated_accounts.list())[0]",
    "progress": "people = await truto.interactions.list(ACCOUNTS[0], **january, limit=10).collect()\nlen(people)",
    "frame": """
frame = await truto.interactions.list(ACCOUNTS[0], **january).to_polars()
frame.select("user_email", "patience")
""",
    "chart": "charts.distribution(frame, 'patience')",
    "hang": "await truto.interactions.list(ACCOUNTS[1], **january).collect()",
    "again": "len(await truto.interactions.list(ACCOUNTS[1], **january).collect())",
    "stream": """
async with truto.interactions.stream(ACCOUNTS[1], **january, limit=20) as stream:
    count = len([item async for item in stream])
count
""",
    "pull": "report = await truto.interactions.pull_to(FOLDER, ACCOUNTS, **january, window='week')\nreport",
    "coverage": "charts.coverage(FOLDER)",
    "close": "await truto.aclose()",
}


class Executed:
    """The outputs of the cells, by their names."""

    def __init__(self, notebook: Any) -> None:
        self.notebook = notebook
        self.outputs = dict(zip(CELLS, (cell.outputs for cell in notebook.cells[1:]), strict=True))

    def shown(self, cell: str, kind: str = "text/html") -> list[str]:
        return [each["data"][kind] for each in self.outputs[cell] if kind in each.get("data", {})]

    def errors(self, cell: str) -> list[str]:
        return [each.ename for each in self.outputs[cell] if each.output_type == "error"]


async def execute(sandbox: Sandbox, folder: Path) -> Any:
    """Run all cells, and interrupt the one that hangs, as the button of a notebook does."""
    new, mark = import_module("nbformat").v4, folder / "sent"
    values = {
        "TOKEN": sandbox.token,
        "URL": sandbox.url,
        "ACCOUNTS": list(sandbox.account_ids),
        "FOLDER": str(folder / "out"),
        "MARK": str(mark),
    }
    first = new.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in values.items()))
    notebook = new.new_notebook(cells=[first, *(new.new_code_cell(text.strip()) for text in CELLS.values())])
    client = import_module("nbclient").NotebookClient(notebook, timeout=120, allow_errors=True)
    async with client.async_setup_kernel(cwd=str(folder)):
        for at, cell in enumerate(notebook.cells):
            if at == 1 + list(CELLS).index("hang"):
                sandbox.script(sandbox.account_ids[1], [Fault.hang().forever()])
                mark.unlink()  # of the cells before
                running = asyncio.ensure_future(client.async_execute_cell(cell, at))
                async with asyncio.timeout(60):
                    while not mark.exists():
                        await asyncio.sleep(0.02)
                await client.km.interrupt_kernel()
                await running
                sandbox.clear_faults()
            else:
                await client.async_execute_cell(cell, at)
    return notebook


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    try:
        import_module("nbclient"), import_module("ipykernel")
    except ImportError:
        pytest.skip("needs a kernel: run `make test-services`")
    folder = tmp_path_factory.mktemp("notebook")
    with Sandbox.in_thread(accounts=2, interactions=60, account_rate=None) as sandbox:
        return Executed(run(execute(sandbox, folder), timeout=240))


def test_every_cell_runs_except_the_interrupted_one(executed: Executed) -> None:
    failed = {cell: executed.errors(cell) for cell in CELLS if executed.errors(cell)}
    # The second by newer kernels, which cancel the cell's task and leave it at that.
    assert failed in ({"hang": ["KeyboardInterrupt"]}, {"hang": ["CancelledError"]})


def test_pages_items_accounts_and_reports_are_shown_as_tables(executed: Executed) -> None:
    """Small ones, without a script."""
    for cell, word in {
        "page": "user_email",
        "item": "Interaction",
        "account": "IntegratedAccount",
        "pull": "PullReport",
    }.items():
        html = executed.shown(cell)[-1]
        assert "<table" in html, cell
        assert word in html, cell
        assert "<script" not in html
        assert len(html) < 30_000


def test_progress_is_one_output_that_was_replaced(executed: Executed) -> None:
    """It is left as it was at the end, and the value of the cell follows."""
    assert len(executed.shown("progress")) == 1
    assert re.match(r"<span[^>]*>60 items in 6 pages", executed.shown("progress")[0])
    assert executed.shown("progress", "text/plain")[-1] == "60"
    assert re.match(r"<span[^>]*>2 of 2 accounts · \d+ rows", executed.shown("pull")[0])
    assert "bytes · 60 items" in executed.shown("stream")[0]
    assert "60 items" in executed.shown("frame")[0]


def test_an_interrupted_cell_ends_its_line_and_leaves_the_client_usable(executed: Executed) -> None:
    assert "ended by CancelledError" in executed.shown("hang")[0]
    assert executed.shown("again", "text/plain")[-1] == "60"


def test_charts_are_shown(executed: Executed) -> None:
    for cell in ("chart", "coverage"):
        assert "image/svg+xml" in executed.outputs[cell][-1]["data"]


@pytest.fixture(scope="module")
def pages(executed: Executed) -> dict[str, str]:
    """The notebook as HTML, in the themes of JupyterLab."""
    exporter = import_module("nbconvert").HTMLExporter
    return {
        theme: exporter(template_name="lab", theme=theme).from_notebook_node(executed.notebook)[0]
        for theme in ("light", "dark")
    }


@pytest.fixture(scope="module")
def browser(pages: dict[str, str]) -> Iterator[Any]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        playwright = import_module("playwright.sync_api").sync_playwright()
    except ImportError:
        pytest.skip("needs playwright: run `make test-services`")
    if chromium is None:
        pytest.skip("needs chromium: run `make test-services`")
    with playwright as started:
        running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=60_000)
        yield running
        running.close()


# The contrast of each text to what is behind it, as WCAG counts it: 4.5 can be read.
CONTRASTS = """
all => all.map(element => {
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [[r, 0.2126], [g, 0.7152], [b, 0.0722]].reduce((sum, [value, share]) =>
    sum + share * (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4), 0);
  let behind = [255, 255, 255], opacity = 1;
  for (let each = element; each; each = each.parentElement) {
    const back = numbers(getComputedStyle(each).backgroundColor);
    if (back.length === 3 || back[3] === 1) { behind = back; break; }
  }
  for (let each = element; each; each = each.parentElement) opacity *= Number(getComputedStyle(each).opacity);
  const [r, g, b, a = 1] = numbers(getComputedStyle(element).color);
  const seen = [r, g, b].map((value, at) => value * a * opacity + behind[at] * (1 - a * opacity));
  const [low, high] = [light(seen), light(behind)].sort((x, y) => x - y);
  return [(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 80)];
})
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_shown_can_be_read_in_each_theme(
    browser: Any, pages: dict[str, str], theme: str, tmp_path: Path
) -> None:
    """Tables and lines take the color of the notebook; charts bring a background of their own."""
    path = tmp_path / "notebook.html"
    path.write_text(pages[theme], "utf-8")
    context = browser.new_context(viewport={"width": 1000, "height": 900}, color_scheme=theme, offline=True)
    shown = context.new_page()
    shown.goto(path.as_uri(), wait_until="domcontentloaded")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    shown.screenshot(path=SCREENSHOTS / f"notebook-{theme}.png", full_page=True)
    ours = ".jp-RenderedHTMLCommon"  # and not a traceback
    found = shown.eval_on_selector_all(f"{ours} bdi, {ours} span", CONTRASTS)
    assert len(found) > 50
    assert [each for each in found if each[0] < 4.5] == []
    charts = shown.locator(".jp-OutputArea-output svg, .jp-OutputArea-output img")
    assert charts.count() >= 2
    context.close()

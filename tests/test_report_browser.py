"""The report in a real browser, offline: no name does anything, and mouse, keyboard and screen reader can use it."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.report_folders import HOSTILE
from tests.support import run
from truto_ci_async import Fault, Sandbox, TrutoClient, report

pytestmark = pytest.mark.services

TITLE = "Talk metrics <script>document.title='pwned'</script>"
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 20_000  # as Playwright counts them: a deadline for each step


@pytest.fixture(scope="module")
def browser(path: Path) -> Iterator[Any]:
    """Start the browser, after the page is made: Playwright's loop lets no other run in this thread."""
    try:
        playwright = import_module("playwright.sync_api").sync_playwright()
    except ImportError:
        pytest.skip("needs playwright: run `make test-services`")
    if CHROMIUM is None:
        pytest.skip("needs chromium: run `make test-services`")
    with playwright as started:
        # Without a sandbox of its own, since containers have no rights for one; the page comes from us.
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=60_000)
        yield running
        running.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a pull of three accounts: two with hostile names, one that fails with a hostile message."""
    folder = tmp_path_factory.mktemp("report")
    names: dict[str, str] = {}

    def rename(record: Any) -> Any:
        user = record["user"]
        user["name"] = names.setdefault(user["id"], HOSTILE[len(names) % len(HOSTILE)])
        return record

    async def scenario(sandbox: Sandbox) -> None:
        *good, bad = sandbox.account_ids
        for account in good:
            sandbox.script(account, [Fault.edit(rename).forever()])
        sandbox.script(bad, [Fault.status(403, message=HOSTILE[1]).forever()])
        accounts = [{"id": id, "tenant_id": HOSTILE[at]} for at, id in enumerate(sandbox.account_ids)]
        times = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-01-22T00:00:00Z", "window": "week"}
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            await truto.interactions.pull_to(folder / "out", accounts, **times)

    with Sandbox.in_thread(accounts=3, interactions=60) as sandbox:
        run(scenario(sandbox))
    return report(folder / "out", folder / "report.html", title=TITLE)


@contextmanager
def opened(browser: Any, path: Path, *, width: int = 1280, **options: Any) -> Iterator[Any]:
    """Open the page offline. Whatever it says to the console or asks for fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, offline=True, accept_downloads=True, **options
    )
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: heard.append(f"request: {request.url}"))
    page.on("popup", lambda popup: heard.append(f"popup: {popup.url}"))
    try:
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_function("document.querySelectorAll('.plot svg').length === 5")
        yield page
        assert page.title() == TITLE
        # A download is read from the page's own memory.
        assert [each for each in heard if not each.startswith("request: blob:")] == [
            f"request: {path.as_uri()}"
        ]
    finally:
        context.close()


def rows(page: Any) -> list[list[str]]:
    found: list[list[str]] = page.eval_on_selector_all(
        "#table tbody tr", "all => all.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return found


def place(page: Any) -> str:
    text: str = page.text_content("#place")
    return text


def downloaded(page: Any, button: str) -> tuple[str, list[list[str]]]:
    with page.expect_download() as download:
        page.click(button)
    text = Path(download.value.path()).read_text("utf-8-sig")
    return download.value.suggested_filename, list(csv.reader(io.StringIO(text, newline="")))


def test_names_do_nothing_wherever_they_are_shown(browser: Any, path: Path) -> None:
    """In text, axes, legends, tooltips, search and sorting; a title that changed would be a name that ran."""
    with opened(browser, path) as page:
        shown = page.eval_on_selector_all(".plot text", "all => all.map(text => text.textContent)")
        assert any("<script>" in text for text in shown)  # so names are there, as text
        tips = set()
        for chart in ("compare", "over_time", "groups", "coverage"):
            page.locator(f"#{chart}").scroll_into_view_if_needed()
            marks = page.locator(f"#{chart} .mark-symbol path, #{chart} .mark-rect path").all()
            for mark in marks[:: max(1, len(marks) // 10)]:
                box = mark.bounding_box()
                page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                tips.add(page.evaluate("document.querySelector('#vg-tooltip-element')?.textContent ?? ''"))
        assert any("<img" in tip or "<script" in tip or "{{" in tip for tip in tips), tips
        for name in HOSTILE:
            page.fill("#search", name)
        page.fill("#search", "")
        for metric in page.eval_on_selector_all("#metric option", "all => all.map(option => option.value)"):
            page.select_option("#metric", metric)
        page.wait_for_timeout(200)  # for an image that would fail to load
        elements = page.evaluate(
            "[...document.querySelectorAll('img, iframe, object, embed, link, a[href], [onerror], [onload]')].length"
        )
        assert elements == 0


def test_the_table_sorts_searches_and_turns_pages(browser: Any, path: Path) -> None:
    """A number sorts from the largest, text from the first letter, and a second click turns that round."""
    with opened(browser, path) as page:
        assert place(page) == "1 to 50 of 120"
        heads = page.locator("#table th")
        patience = heads.all_text_contents().index("patience")
        button = heads.nth(patience).locator("button")
        button.click()
        values = [float(row[patience]) for row in rows(page) if row[patience] != "–"]
        assert values == sorted(values, reverse=True)
        assert heads.nth(patience).get_attribute("aria-sort") == "descending"
        button.click()
        assert float(rows(page)[0][patience]) < values[-1]
        page.click("#next")
        page.click("#next")
        assert place(page) == "101 to 120 of 120"
        assert page.is_disabled("#next")
        page.click("#back")
        assert place(page) == "51 to 100 of 120"
        page.fill("#search", "hara quoted")
        assert rows(page)
        assert all("O'Hara" in row[0] for row in rows(page))
        page.fill("#search", "nobody has this name")
        assert (rows(page), place(page)) == ([], "none")


def test_downloads_are_all_rows_found_and_no_formula(browser: Any, path: Path) -> None:
    """A spreadsheet runs what begins with =, + or @, so such text gets a quote before it."""
    with opened(browser, path) as page:
        name, (head, *people) = downloaded(page, "#download")
        assert (name, len(people)) == ("people.csv", 120)
        assert head[:3] == ["person", "account", "rows"]
        assert any(row[0].startswith("'=HYPERLINK") for row in people)
        assert not [cell for row in people for cell in row if re.match(r"[\s]*[=+@]|-\D", cell)]
        page.fill("#search", "hara")
        _, (_, *found) = downloaded(page, "#download")
        assert 0 < len(found) < 120
        assert all("O'Hara" in row[0] for row in found)
        name, (head, *accounts) = downloaded(page, "#download-problems")
        assert (name, head) == ("accounts.csv", ["Account", "Tenant", "State", "Why", "What to do"])
        assert [row[2] for row in accounts] == ["failed"]
        assert "<img" in accounts[0][3]


def test_everything_can_be_reached_and_done_by_keyboard(browser: Any, path: Path) -> None:
    """Each control gets the focus in turn, shows it, and does what a click does."""
    with opened(browser, path) as page:
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "(e => ({name: e.id || e.textContent.slice(0, 20), outline: getComputedStyle(e).outlineStyle}))"
                "(document.activeElement)"
            )
            reached.append(focused["name"])
            assert focused["outline"] != "none", focused
            if focused["name"] == "metric":
                page.keyboard.press("ArrowDown")
            elif focused["name"] == "rows":
                page.keyboard.press("Enter")
            elif focused["name"] == "next":
                page.keyboard.press("Enter")
                break
        assert {"metric", "against", "search", "download", "download-problems", "patience", "next"} <= set(
            reached
        )
        assert page.input_value("#metric") == "longest_customer_story"
        assert page.locator("th[aria-sort]").text_content() == "rows"
        assert place(page) == "51 to 100 of 120"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_a_screen_reader_can_use_it(
    browser: Any, path: Path, width: int, scheme: str
) -> None:
    """axe finds nothing serious, contrast included, and only tables scroll sideways, in boxes of their own."""
    axe = import_module("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, path, width=width, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for chart in page.locator(".plot svg").all():
            assert chart.bounding_box()["width"] <= width - 32
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"report-{width}-{scheme}.png", full_page=True)
        serious = [
            (each["id"], each["nodes"][0]["html"][:300], each["nodes"][0].get("failureSummary"))
            for each in axe.run(page).response["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == []
        labels = page.eval_on_selector_all("[role=img]", "all => all.map(each => each.ariaLabel)")
        assert len(labels) == 5
        assert all(labels)


def test_the_page_can_be_printed(browser: Any, path: Path) -> None:
    """Black on white whatever the theme of the screen, without buttons, as wide as the paper."""
    with opened(browser, path, color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        body = page.evaluate("getComputedStyle(document.body).color")
        label = page.evaluate(
            "getComputedStyle(document.querySelector('#distribution .role-axis-label text')).fill"
        )
        assert (body, label) == ("rgb(0, 0, 0)", "rgb(0, 0, 0)")
        assert not page.is_visible("#download")
        page.set_viewport_size({"width": 700, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 700
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        pdf = page.pdf(path=SCREENSHOTS / "report.pdf", format="A4", print_background=True)
        assert pdf.startswith(b"%PDF")


def test_nothing_moves_for_those_who_ask_for_that(browser: Any, path: Path) -> None:
    with opened(browser, path, reduced_motion="reduce") as page:
        page.select_option("#metric", "patience")
        page.locator("#coverage .mark-rect path").first.hover()
        assert page.evaluate("document.getAnimations().length") == 0


def test_without_scripts_the_page_still_says_what_is_missing(browser: Any, path: Path) -> None:
    with opened(browser, path, java_script_enabled=False) as page:
        assert page.is_visible("noscript p") or "need JavaScript" in page.text_content("body")
        assert "Not complete." in page.text_content(".state")
        assert page.locator("table").first.is_visible()

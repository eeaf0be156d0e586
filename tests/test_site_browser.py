"""The documentation in a real browser, opened as files and without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "docs" / "site"
SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
STEP = 20_000  # milliseconds
PAGES = ["index", "tutorial", "how-to/nightly-job", "reference/api/client", "explanation/exactly-once"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Build the site as a reader of the README does; a warning of the build is an error."""
    built = subprocess.run(
        ["make", "docs"], cwd=ROOT, capture_output=True, timeout=300, check=False, text=True
    )
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    if CHROMIUM is None:
        pytest.skip("needs chromium: run `make test-services`")
    with import_module("playwright.sync_api").sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=60_000)
        yield running
        running.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


def opened(browser: Any, name: str, width: int, complaints: list[str]) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(STEP)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if "file:" not in request.url else None)
    page.goto((SITE / f"{name}.html").as_uri())
    page.wait_for_load_state("load")
    return page


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_has_nothing_to_complain_about(
    browser: Any, name: str, width: int, complaints: list[str]
) -> None:
    page = opened(browser, name, width, complaints)
    assert page.locator("h1").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
    broken = page.evaluate(
        "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
    )
    assert not broken
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"site-{name.replace('/', '-')}-{width}.png", full_page=True)
    page.close()
    assert not complaints


def test_the_keyboard_finds_a_header(browser: Any, complaints: list[str]) -> None:
    page = opened(browser, "index", 1280, complaints)
    page.keyboard.press("Control+k")
    search = page.locator("input:visible")
    search.wait_for()
    hit = page.locator("a:visible").filter(has_text="Rate limits and retries").filter(has_text="503").first
    for _ in range(20):  # what is typed before the index is read is dropped
        search.fill("Retry-After")
        if hit.is_visible():
            break
        page.wait_for_timeout(250)
    hit.wait_for()
    page.screenshot(path=SCREENSHOTS / "site-search.png")
    hit.click()
    page.wait_for_url("**/explanation/rate-limits.html*")
    page.close()
    assert not [each for each in complaints if "Autofocus" not in each]

"""Takes the screenshots: `build/services/bin/python docs/images/make_images.py`, after `make test-services`."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from truto_ci_async import Sandbox, TrutoClient, charts, report

OUT = Path(__file__).parent
WINDOW = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ font: 14px system-ui, sans-serif; margin: 16px; width: 860px; color: #212121; }}
pre {{ background: #f5f5f5; padding: 8px 12px; margin: 14px 0 8px; }} pre:first-of-type {{ margin-top: 0; }}
</style><pre>page = await truto.interactions.list(account_id, **january)
page</pre>{table}<pre>charts.distribution(page, "patience")</pre>{chart}"""


async def fetch(folder: Path) -> Any:
    """Return a page, and pull some weeks of two companies into a folder."""
    async with (
        Sandbox(interactions=400) as sandbox,
        TrutoClient(sandbox.token, base_url=sandbox.url) as truto,
    ):
        await truto.interactions.pull_to(folder, sandbox.account_ids[:2], **WINDOW, window="week")
        return await truto.interactions.list(
            sandbox.account_ids[0],
            **WINDOW,
            limit=100,
            exclude_fields=["id", "start_time", "end_time", "timezone", "aggregation_period"],
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = asyncio.run(fetch(folder / "calls"))
        path = report(folder / "calls", folder / "report.html")
        chart = charts.distribution(page, "patience").properties(height=150, width=700).to_dict()
        svg = import_module("vl_convert").vegalite_to_svg(chart)
        with import_module("playwright.sync_api").sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            shown = browser.new_page(viewport={"width": 892, "height": 400})
            shown.set_content(PAGE.format(table=page._repr_html_(), chart=svg))
            shown.screenshot(path=OUT / "notebook.png", full_page=True)
            shown = browser.new_page(viewport={"width": 1100, "height": 1240})
            shown.goto(path.as_uri())
            shown.wait_for_function("document.querySelectorAll('svg, canvas').length > 2")
            shown.screenshot(path=OUT / "report.png")
            browser.close()


if __name__ == "__main__":
    main()

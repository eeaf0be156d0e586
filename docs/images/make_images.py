"""Makes the picture in the README: `build/services/bin/python docs/make_images.py`, after `make test-services`."""

from __future__ import annotations

import asyncio
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from truto_ci_async import Sandbox, TrutoClient, charts

OUT = Path(__file__).parent / "images" / "notebook.png"
WINDOW = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ font: 14px system-ui, sans-serif; margin: 16px; width: 860px; color: #212121; }}
pre {{ background: #f5f5f5; padding: 8px 12px; margin: 14px 0 8px; }} pre:first-of-type {{ margin-top: 0; }}
</style><pre>page = await truto.interactions.list(account_id, **january)
page</pre>{table}<pre>charts.distribution(page, "patience")</pre>{chart}"""


async def fetch() -> Any:
    async with (
        Sandbox(interactions=400) as sandbox,
        TrutoClient(sandbox.token, base_url=sandbox.url) as truto,
    ):
        return await truto.interactions.list(
            sandbox.account_ids[0],
            **WINDOW,
            limit=100,
            exclude_fields=["id", "start_time", "end_time", "timezone", "aggregation_period"],
        )


def main() -> None:
    page = asyncio.run(fetch())
    chart = charts.distribution(page, "patience").properties(height=150, width=700).to_dict()
    svg = import_module("vl_convert").vegalite_to_svg(chart)
    OUT.parent.mkdir(exist_ok=True)
    with import_module("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 892, "height": 400})
        shown.set_content(PAGE.format(table=page._repr_html_(), chart=svg))
        shown.screenshot(path=OUT, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()

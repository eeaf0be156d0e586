"""Builds the site in build/docs/site: `make docs`.

Runs the tutorial's notebook, writes the pages that are made from code, and calls Zensical on the result. Any warning,
such as a link to a heading that is not there, is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExtractOutputPreprocessor

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "docs"
BUILD = ROOT / "build" / "docs"
PAGES = BUILD / "pages"  # what Zensical reads
SITE = BUILD / "site"
CELL_SECONDS = 120


def copy_pages() -> None:
    """Copy the pages. A block says after its backticks how it is tested; Zensical wants the language alone."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(SOURCE, PAGES, ignore=shutil.ignore_patterns("*.py", "*.ipynb", "__pycache__"))
    for page in PAGES.rglob("*.md"):
        page.write_text(plain_fences(page.read_text(encoding="utf-8")), encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (PAGES / "changelog.md").write_text(changes, encoding="utf-8")


def plain_fences(text: str) -> str:
    return re.sub(r"^( *```\w+) [^\n]+$", r"\1", text, flags=re.MULTILINE)


def run_notebook(notebook: Path) -> None:
    """Run a notebook and write it as a page; a cell that fails ends the build."""
    cells = nbformat.read(notebook, as_version=4)
    NotebookClient(cells, timeout=CELL_SECONDS, kernel_name="python3").execute(cwd=str(BUILD))
    exporter = MarkdownExporter(preprocessors=[ExtractOutputPreprocessor(output_filename_template="{unique_key}_{cell_index}_{index}{extension}")])
    body, resources = exporter.from_notebook_node(cells, {"unique_key": f"images/{notebook.stem}"})
    for name, data in resources["outputs"].items():
        (PAGES / name).write_bytes(data)
    (PAGES / notebook.with_suffix(".md").name).write_text(body, encoding="utf-8")


def main() -> None:
    copy_pages()
    for notebook in SOURCE.glob("*.ipynb"):
        run_notebook(notebook)
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()

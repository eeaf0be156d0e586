"""Builds the site in build/docs/site: `make docs`.

Runs the tutorial's notebook, writes the pages that are made from code, and calls Zensical on the result. Any warning,
such as a link to a heading that is not there, is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

from truto_ci_async.cli.app import COMMANDS, NAME, app

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "docs"
BUILD = ROOT / "build" / "docs"
PAGES = BUILD / "pages"  # what Zensical reads
SITE = BUILD / "site"
WORK = BUILD / "work"  # where the notebook writes
CELL_SECONDS = 120
COPIED = {"changelog.md": "CHANGELOG.md", "explanation/benchmarks.md": "benchmarks/README.md"}
SHIM = "https://unpkg.com/iframe-worker/shim"


def copy_pages() -> None:
    """Copy the pages. A block says after its backticks how it is tested; Zensical wants the language alone."""
    for folder in (PAGES, WORK, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    WORK.mkdir()
    shutil.copytree(SOURCE, PAGES, ignore=shutil.ignore_patterns("*.py", "*.ipynb", "__pycache__"))
    for page in PAGES.rglob("*.md"):
        page.write_text(plain_fences(page.read_text(encoding="utf-8")), encoding="utf-8")
    for page, source in COPIED.items():
        (PAGES / page).write_text(plain_fences((ROOT / source).read_text(encoding="utf-8")), encoding="utf-8")


def plain_fences(text: str) -> str:
    return re.sub(r"^( *```\w+) [^\n]+$", r"\1", text, flags=re.MULTILINE)


def run_notebook(notebook: Path) -> None:
    """Run a notebook and write it as a page; a cell that fails ends the build."""
    cells = nbformat.read(notebook, as_version=4)
    quiet = ["--IPKernelApp.log_level=40"]  # it warns that others on this machine could listen
    client = NotebookClient(cells, timeout=CELL_SECONDS, kernel_name="python3", extra_arguments=quiet)
    client.execute(cwd=str(WORK))
    body, resources = MarkdownExporter().from_notebook_node(cells, {"unique_key": notebook.stem})
    for name, data in resources["outputs"].items():
        (PAGES / name).write_bytes(data)
    (PAGES / notebook.with_suffix(".md").name).write_text(body, encoding="utf-8")


def write_help() -> None:
    """Write the page of options from what ``truto-ci COMMAND --help`` prints."""
    main = click.Context(app, info_name=NAME, max_content_width=100)
    parts = ["# All options", "", "What `truto-ci --help` and `truto-ci COMMAND --help` print.", ""]
    for name in ["", *COMMANDS]:
        command = app.get_command(main, name) if name else app
        context = click.Context(command, main, info_name=name, max_content_width=100) if name else main
        parts += [f"## {name or NAME}", "", "```text", command.get_help(context).rstrip(), "```", ""]
    (PAGES / "reference" / "command-options.md").write_text("\n".join(parts), encoding="utf-8")


def own_worker() -> None:
    """Load the script that lets search work on files from here, not from the network."""
    for page in SITE.rglob("*.html"):
        here = "../" * (len(page.relative_to(SITE).parts) - 1)
        text = page.read_text(encoding="utf-8").replace(SHIM, f"{here or './'}javascripts/file-worker.js")
        page.write_text(text, encoding="utf-8")


def list_pages() -> None:
    """Write llms.txt: every page with its first sentence, and all pages as text beside it."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    lines = [f"# {project['site_name']}", "", f"> {project['site_description']}", ""]
    whole = []
    for path in nav_paths(project["nav"]):
        text = (PAGES / path).read_text(encoding="utf-8")
        title, _, rest = text.removeprefix("# ").partition("\n")
        first = rest.strip().partition("\n\n")[0]
        lines.append(
            f"- [{title}]({path})"
            + ("" if first.startswith(("```", "|", "#", "!")) else f": {' '.join(first.split())}")
        )
        if "/api/" not in path:  # those are made from the docstrings, which `help()` shows
            whole.append(text)
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (SITE / "llms-full.txt").write_text("\n\n".join(whole), encoding="utf-8")
    shutil.copytree(
        PAGES,
        SITE,
        dirs_exist_ok=True,
        ignore=lambda _, names: [n for n in names if "." in n and not n.endswith(".md")],
    )


def nav_paths(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from nav_paths(each)


def main() -> None:
    copy_pages()
    for notebook in SOURCE.glob("*.ipynb"):
        run_notebook(notebook)
    write_help()
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--strict", "--clean"], cwd=ROOT, check=True)
    own_worker()
    list_pages()


if __name__ == "__main__":
    main()

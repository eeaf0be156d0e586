"""Finds the code in the README and the other pages, and runs it.

A block says after its backticks how it is tested: ``python`` is a script, ``python notebook`` a cell of the one session
that goes through its page, ``python external`` and ``yaml external`` are for products that are not installed and are
checked for syntax, ``console`` holds lines for a shell. ``text`` is not code.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


class Block(NamedTuple):
    kind: str
    line: int  # of its first line, for messages and tracebacks
    text: str
    page: Path

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(each[1], text.count("\n", 0, each.start(2)) + 1, each[2], page) for each in found]


def notebook_cells(notebook: Path) -> list[Block]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        Block("python notebook", 1, "".join(cell["source"]), notebook)
        for cell in cells
        if cell["cell_type"] == "code"
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
SCRIPTS = [block for block in BLOCKS if block.kind == "python"]


def compiled(block: Block, flags: int = 0) -> Any:
    """Compile a block so that a traceback shows the page's own lines."""
    return compile("\n" * (block.line - 1) + block.text, str(block.page), "exec", flags=flags)


def run_script(words: str) -> dict[str, Any]:
    """Run the one script that has ``words`` in it, and return its names."""
    [block] = [block for block in SCRIPTS if words in block.text]
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compiled(block), names)
    return names


async def run_cells(cells: Sequence[Block]) -> tuple[dict[str, Any], list[Any]]:
    """Run cells as Jupyter does: one loop, one namespace. Return its names, and what each cell shows."""
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        return names, [await _run_cell(cell, names) for cell in cells]
    finally:
        for name in ("careful", "truto", "sandbox"):
            if name in names:
                await names[name].aclose()


async def _run_cell(cell: Block, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last line, None when that is no expression."""
    tree = ast.parse("\n" * (cell.line - 1) + cell.text, str(cell.page))
    last = tree.body[-1]
    if isinstance(last, ast.Expr):
        tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_", ast.Store())], last.value), last)
        ast.fix_missing_locations(tree)
    code = compile(tree, str(cell.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names["_"] = None
    pending = eval(code, names)
    if inspect.isawaitable(pending):
        await pending
    return names["_"]

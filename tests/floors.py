"""The floors of the package, and which imports there are between them: `python -m tests.floors` prints both.

A room is a file or folder directly inside the package. A room may import only from lower floors, and the files within a
room must not import each other in a circle. Imports inside functions and under `if TYPE_CHECKING` count as well:
however a file asks for a name, it depends on it.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

FLOORS = (
    "__main__",
    "cli",
    "integrations",
    "__init__",
    "client reports",
    "resources",
    "pull",
    "pagination",
    "_http sinks",
    "_wire events",
    "models _lock",
    "export",
    "_progress",
    "_json _files _checks _text",
    "errors _version",
)
# The stand-in for the service is on no floor: it shares nothing with the client, and only these rooms may import it.
SANDBOX = "sandbox"
SANDBOX_USERS = {"cli", "__init__"}


class Import(NamedTuple):
    """One import. ``module`` is a dotted name below the package, or "" if the import is not of the package."""

    module: str
    top: str  # the top-level package
    is_lazy: bool = False  # inside a function
    is_typing: bool = False  # under `if TYPE_CHECKING`


class House:
    """The modules of the package in ``folder``, on ``floors`` that are listed from the top down."""

    def __init__(self, folder: Path, floors: Sequence[str] = FLOORS) -> None:
        self.folder = folder
        self.floors = [sorted(rooms.split()) for rooms in floors]
        self.height = {room: len(floors) - at for at, rooms in enumerate(self.floors) for room in rooms}
        #: Dotted names below the package; a folder goes by its own name, the package itself by ``__init__``.
        self.sources = {self._name_of(path): path for path in sorted(folder.rglob("*.py"))}

    def _name_of(self, path: Path) -> str:
        parts = path.relative_to(self.folder).with_suffix("").parts
        return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)

    @cached_property
    def imports(self) -> dict[str, frozenset[Import]]:
        return {module: frozenset(self._read_imports(path)) for module, path in self.sources.items()}

    def upward(self) -> list[str]:
        """List the imports of a room that is not on a lower floor, one line each."""
        return [
            f"{module} (floor {self.height[room_of(module)]}) imports {found.module}"
            f" (floor {self.height[room_of(found.module)]})"
            for module, imports in self.imports.items()
            for found in sorted(imports)
            if found.module and SANDBOX not in (rooms := {room_of(module), room_of(found.module)})
            if len(rooms) > 1 and self.height[room_of(found.module)] >= self.height[room_of(module)]
        ]

    def circle(self) -> list[str]:
        """Return the modules of one circle of imports, first and last the same; empty if there is none."""
        graph = {
            # A folder's own `__init__` may be imported by its files.
            module: {found.module for found in imports if found.module} - {module}
            for module, imports in self.imports.items()
        }
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            return list(error.args[1])
        return []

    def drawn(self) -> str:
        """Draw the floors with their rooms, and the rooms that each of them imports."""
        arrows: dict[str, set[str]] = {}
        for module, imports in self.imports.items():
            below = {room_of(found.module) for found in imports if found.module}
            arrows.setdefault(room_of(module), set()).update(below - {room_of(module)})
        lines = [
            f"{self.height[room]:5}  {room:12} → {' '.join(sorted(arrows.get(room, ()))) or 'nothing'}"
            for rooms in self.floors
            for room in rooms
        ]
        lines += [f"    -  {SANDBOX}"] if SANDBOX in arrows else []
        return "\n".join(
            ["floor  room", *lines, f"{len(arrows)} rooms, {sum(map(len, arrows.values()))} arrows"]
        )

    def _read_imports(self, path: Path) -> Iterator[Import]:
        package = [self.folder.name, *path.relative_to(self.folder).parts[:-1]]
        for node, scopes in walk(ast.parse(path.read_text(encoding="utf-8"))):
            flags = (
                any(
                    isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) for scope in scopes
                ),
                any(
                    isinstance(scope, ast.If) and "TYPE_CHECKING" in names_in(scope.test) for scope in scopes
                ),
            )
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield self._import(alias.name.split("."), "", *flags)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                for alias in node.names:
                    yield self._import(
                        [*base, *filter(None, (node.module or "").split("."))], alias.name, *flags
                    )
            elif isinstance(node, ast.Call) and names_in(node.func) & {"import_module", "__import__"}:
                for text in (each.value for each in node.args if isinstance(each, ast.Constant)):
                    base = package if str(text).startswith(".") else []
                    yield self._import([*base, *filter(None, str(text).split("."))], "", *flags)

    def _import(self, parts: list[str], name: str, is_lazy: bool, is_typing: bool) -> Import:
        if parts[0] != self.folder.name:
            return Import("", parts[0], is_lazy, is_typing)
        module, below = ".".join(parts[1:]), ".".join([*parts[1:], name])
        return Import(
            (below if below in self.sources else module) or "__init__", parts[0], is_lazy, is_typing
        )


def room_of(module: str) -> str:
    return module.split(".")[0]


def names_in(node: ast.AST) -> set[str]:
    """Return the names and attributes in an expression."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} | {
        each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)
    }


def walk(node: ast.AST, scopes: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Yield every node with the nodes around it, outermost first."""
    for child in ast.iter_child_nodes(node):
        yield child, scopes
        yield from walk(child, (*scopes, child))


def main() -> int:
    house = House(Path(__file__).parents[1] / "truto_ci_async")
    upward, circle = house.upward(), house.circle()
    print(house.drawn())  # noqa: T201
    print(*(f"upward: {line}" for line in upward), sep="\n", end="\n" if upward else "")  # noqa: T201
    if circle:
        print(f"circle: {' → '.join(circle)}")  # noqa: T201
    return 1 if upward or circle else 0


if __name__ == "__main__":
    sys.exit(main())

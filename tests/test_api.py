"""The package as a whole: what it gives out, what it loads, and that its floors only lean on those below."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import truto_ci_async
from truto_ci_async import errors, events, models

PACKAGE = "truto_ci_async"
FOLDER = Path(truto_ci_async.__file__).parent

# The house. A module imports from its own floor and those below, and never in a circle.
FLOORS: dict[int, set[str]] = {
    0: {"errors", "models", "events", "_json", "_tokens"},
    1: {"_wire", "_answers", "_decode", "_items", "_lanes", "_bodies", "_retry", "_pacing"},
    2: {"_transport", "_deadlines", "_disk"},
    3: {"client", "resources", "paginator", "streams"},
    4: {"plan", "checkpoint", "sinks", "pull", "_commits", "_outage", "_row_keys"},
    5: {"cli", "__main__"},
}
FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}
# The one stair up: verbs of a resource that stand for the floor above, and load it when they are called.
STAIRS = {("resources", module) for module in FLOORS[4]}
# Standing aside: the package's front door, and the stand-in for the service, which shares nothing with the client.
ASIDE = {"__init__", "sandbox"}


class Import(NamedTuple):
    """One thing a module imports at run time: ``top`` of another package, or ``module`` of our own."""

    top: str
    module: str
    is_lazy: bool  # inside a function

    def __str__(self) -> str:
        return self.module or self.top


def sources() -> dict[str, Path]:
    """Every module with its file: ``client``, ``sandbox.query``, ..."""
    return {
        ".".join(path.relative_to(FOLDER).with_suffix("").parts): path
        for path in sorted(FOLDER.rglob("*.py"))
    }


@cache
def imports(path: Path) -> frozenset[Import]:
    """What a file imports at run time: all but what stands under ``if TYPE_CHECKING``."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[Import]:
    package = [PACKAGE, *path.relative_to(FOLDER).parts[:-1]]
    for node, scopes in walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_lazy = any(isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef) for scope in scopes)
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _import(alias.name.split("."), "", is_lazy)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield _import([*base, *(node.module or "").split(".")], alias.name, is_lazy)


def _import(parts: list[str], name: str, is_lazy: bool) -> Import:
    parts = [part for part in parts if part]
    if parts[0] != PACKAGE:
        return Import(parts[0], "", is_lazy)
    if len(parts) > 1:
        return Import(PACKAGE, parts[1], is_lazy)
    # `from . import x`: a module of that name, or a public name, which lives in one.
    return Import(
        PACKAGE, truto_ci_async._HOMES.get(name, "__init__" if name == "__version__" else name), is_lazy
    )


def walk(node: ast.AST, scopes: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every node with those around it, outermost first; what only a type checker sees is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from walk(other, scopes)
            continue
        yield child, scopes
        yield from walk(child, (*scopes, child))


def run_python(program: str) -> object:
    """Run a program in a fresh interpreter, and read the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: object = json.loads(done.stdout)
    return found


# What it gives out


def test_every_public_name_is_there() -> None:
    assert len(truto_ci_async.__all__) == len(set(truto_ci_async.__all__))
    assert set(truto_ci_async.__all__) == {*truto_ci_async._HOMES, "__version__"}
    for name in truto_ci_async.__all__:
        assert getattr(truto_ci_async, name) is not None


@pytest.mark.parametrize("name", sorted(truto_ci_async._HOMES))
def test_every_name_is_the_one_of_its_home(name: str) -> None:
    value = getattr(truto_ci_async, name)
    home = import_module(f"{PACKAGE}.{truto_ci_async._HOMES[name]}")
    assert value is getattr(home, name)
    if isinstance(value, type):
        assert value.__module__.startswith(home.__name__)


def test_type_checkers_see_the_same_names_from_the_same_homes() -> None:
    """They read the imports under TYPE_CHECKING, Python reads the table: one forgotten is an error for half of us."""
    tree = ast.parse((FOLDER / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == truto_ci_async._HOMES


@pytest.mark.parametrize("module", [errors, models, events])
def test_what_a_public_module_gives_out_the_package_gives_out(module: Any) -> None:
    """A new error that cannot be imported from the package cannot be caught by who reads only its page."""
    internal = {"Emitter"}
    assert set(module.__all__) - internal <= set(truto_ci_async.__all__)
    home = module.__name__.removeprefix(f"{PACKAGE}.")
    assert {name for name, where in truto_ci_async._HOMES.items() if where == home} <= set(module.__all__)


def test_dir_shows_the_public_names() -> None:
    """Tab completion in a notebook, before anything was loaded."""
    shown = run_python("import json, truto_ci_async as t; print(json.dumps(dir(t)))")
    assert isinstance(shown, list)
    assert set(truto_ci_async.__all__) <= set(shown)
    assert shown == sorted(shown)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'truto_ci_async' has no attribute 'TrutoClint'"):
        truto_ci_async.TrutoClint  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(truto_ci_async, "_nothing")


def test_star_gives_exactly_the_public_names() -> None:
    given = run_python("import json\nfrom truto_ci_async import *\nprint(json.dumps([n for n in globals()]))")
    assert isinstance(given, list)
    assert set(truto_ci_async.__all__) <= set(given)
    assert {name for name in given if not name.startswith("__")} - {"json"} == set(truto_ci_async.__all__) - {
        "__version__"
    }


def test_the_version_is_the_installed_one() -> None:
    assert truto_ci_async.__version__ == version("truto-ci-async")


def test_the_package_says_that_it_is_typed() -> None:
    assert (FOLDER / "py.typed").is_file()


# What it loads


HEAVY = {
    "aiohttp",
    "yarl",
    "multidict",
    "anyio",
    "asyncio",
    "sqlite3",
    "rich",
    "yaml",
    "pyarrow",
    "brotli",
    "argparse",
}


def loaded(program: str) -> set[str]:
    """The modules a program loads that a bare interpreter does not."""
    found = run_python(
        f"import sys; before = set(sys.modules)\n{program}\n"
        "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert isinstance(found, list)
    return set(found)


def ours(modules: set[str]) -> set[str]:
    return {
        name.removeprefix(PACKAGE).removeprefix(".") for name in modules if name.split(".")[0] == PACKAGE
    } - {""}


def test_importing_the_package_loads_nothing_of_it() -> None:
    modules = loaded("import truto_ci_async")
    assert ours(modules) == set()
    assert not HEAVY & modules
    assert len(modules) < 60  # the standard library's typing and importlib, and what they lean on


@pytest.mark.parametrize("name", ["Interaction", "TrutoError", "Page"])
def test_models_and_errors_load_no_http_client(name: str) -> None:
    """Workers that only unpickle or validate records start in a fraction of the time."""
    modules = loaded(f"from truto_ci_async import {name}")
    assert ours(modules) <= FLOORS[0]
    assert not HEAVY & modules


def test_settings_load_no_http_client() -> None:
    assert "aiohttp" not in loaded("from truto_ci_async import Pacing, RetryPolicy, Timeouts")


def test_the_client_loads_neither_the_command_line_nor_the_sandbox() -> None:
    modules = loaded("from truto_ci_async import TrutoClient, Interaction, Paginator")
    assert "aiohttp" in modules
    assert not {"argparse", "rich", "yaml", "pyarrow", "sqlite3"} & modules
    assert {FLOOR_OF[name] for name in ours(modules)} <= {0, 1, 2, 3}


# How it is built


def test_every_module_has_its_floor() -> None:
    modules = {name for name in sources() if "." not in name}
    assert modules <= set(FLOOR_OF) | ASIDE
    assert sum(len(names) for names in FLOORS.values()) == len(FLOOR_OF), "a module on two floors"


@pytest.mark.parametrize("module", sorted(set(sources()) & set(FLOOR_OF)))
def test_imports_only_go_down(module: str) -> None:
    floor = FLOOR_OF[module]
    for imported in imports(sources()[module]):
        if imported.top != PACKAGE or imported.module == "__init__":
            continue
        if imported.is_lazy and (module, imported.module) in STAIRS:
            continue
        if imported.module == "sandbox":
            assert floor == 5, f"{module} (floor {floor}) imports the sandbox"
        else:
            assert FLOOR_OF[imported.module] <= floor, f"{module} (floor {floor}) imports {imported.module}"


def test_no_module_imports_in_a_circle() -> None:
    graph = {
        module: {
            found.module
            for found in imports(path)
            if found.module in FLOOR_OF and not (found.is_lazy and (module, found.module) in STAIRS)
        }
        for module, path in sources().items()
        if module in FLOOR_OF
    }
    assert all(module not in leans_on for module, leans_on in graph.items())
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("client")


def test_the_sandbox_shares_nothing_with_the_client() -> None:
    """A mistake in a shared model would be made on both sides, and no test would see it."""
    files = [path for name, path in sources().items() if name.startswith("sandbox")]
    assert files
    for path in files:
        assert [
            str(found) for found in imports(path) if found.top == PACKAGE and found.module != "sandbox"
        ] == []


@pytest.mark.parametrize("module", sorted(sources()))
def test_only_the_transport_knows_the_http_client(module: str) -> None:
    """One place maps its errors and reads its bodies; the rest would not notice another client."""
    tops = {found.top for found in imports(sources()[module])}
    if module != "_transport" and not module.startswith("sandbox"):
        assert not tops & {"aiohttp", "yarl", "multidict"}
    if module.startswith("sandbox"):
        assert not tops & {"msgspec", "ijson", "anyio"}


@pytest.mark.parametrize("module", sorted(sources()))
def test_nothing_but_the_four_dependencies_is_needed_to_import_a_module(module: str) -> None:
    """Everything else is an extra, asked for where it is used."""
    core = {"aiohttp", "anyio", "ijson", "msgspec", PACKAGE} | {"yarl", "multidict"}  # aiohttp's own two
    if module == "sandbox.fixtures":
        core |= {"pytest"}  # for those who test with it
    needed = {found.top for found in imports(sources()[module]) if not found.is_lazy}
    assert needed - core - sys.stdlib_module_names == set()


AWAITING = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)


@pytest.mark.parametrize("module", sorted(set(sources()) & (FLOORS[0] | FLOORS[1])))
def test_the_pure_floors_never_wait(module: str) -> None:
    """Rules that do no waiting need no event loop to be tested, and cannot be cancelled half-way."""
    path = sources()[module]
    awaiting = {
        next((scope.name for scope in scopes if isinstance(scope, ast.ClassDef)), "")
        for node, scopes in walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, AWAITING) or (isinstance(node, ast.comprehension) and node.is_async)
    }
    assert awaiting <= ({"Gate"} if module == "_pacing" else set())
    if module != "_pacing":
        assert not {found.top for found in imports(path)} & {"asyncio", "anyio", "threading", "socket", "ssl"}


def test_the_reader_of_imports_sees_them() -> None:
    """The tests above pass on what they cannot see: so this one looks at what is surely there."""
    assert {("errors", False), ("models", False)} <= {
        (found.module, found.is_lazy) for found in imports(FOLDER / "_wire.py")
    }
    assert "aiohttp" in {found.top for found in imports(FOLDER / "_transport.py")}
    assert "sandbox" in {found.module for found in imports(FOLDER / "sandbox" / "server.py")}
    assert "client" not in {found.module for found in imports(FOLDER / "resources.py")}, (
        "only for type checkers"
    )
    assert Import(PACKAGE, "_items", True) in set(imports(FOLDER / "_answers.py"))

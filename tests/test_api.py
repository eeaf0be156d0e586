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

# The house, from the top floor down. A room is a folder or a file of the package; it imports from lower floors only,
# and within a room no file imports in a circle.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(rooms.split())
    for rooms in (
        "__main__",
        "cli",
        "__init__",
        "client",
        "resources",
        "pull",
        "pagination",
        "_http sinks",
        "_wire events",
        "models",
        "_json _files _checks",
        "errors _version",
    )
)
HEIGHT = {room: len(FLOORS) - height for height, rooms in enumerate(FLOORS) for room in rooms}
# Pure rules: no floor below this one waits, nor do these rooms above it.
PURE = ("_wire", "models", "_json", "_checks", "errors", "_version", "_http.policy")
# The stand-in for the service. It shares nothing with the client, and only the top may import it.
SANDBOX = "sandbox"


class Import(NamedTuple):
    """One thing a file imports, also inside a function or for type checkers only."""

    module: str  # of our own: dotted below the package, "" for none
    top: str  # the top-level package
    is_lazy: bool  # inside a function
    is_typing: bool  # under `if TYPE_CHECKING`


def module_of(path: Path) -> str:
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


SOURCES = {module_of(path): path for path in sorted(FOLDER.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[0]


@cache
def imports(module: str) -> frozenset[Import]:
    return frozenset(_imports(SOURCES[module]))


def _imports(path: Path) -> Iterator[Import]:
    package = [PACKAGE, *path.relative_to(FOLDER).parts[:-1]]
    for node, scopes in walk(ast.parse(path.read_text(encoding="utf-8"))):
        flags = (
            any(isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef) for scope in scopes),
            any(isinstance(scope, ast.If) and ast.unparse(scope.test) == "TYPE_CHECKING" for scope in scopes),
        )
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _import(alias.name.split("."), "", *flags)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield _import([*base, *(node.module or "").split(".")], alias.name, *flags)


def _import(parts: list[str], name: str, is_lazy: bool, is_typing: bool) -> Import:
    parts = [part for part in parts if part]
    if parts[0] != PACKAGE:
        return Import("", parts[0], is_lazy, is_typing)
    module = ".".join(parts[1:])
    if f"{module}.{name}".removeprefix(".") in SOURCES:
        module = f"{module}.{name}".removeprefix(".")
    return Import(module or "__init__", PACKAGE, is_lazy, is_typing)


def walk(node: ast.AST, scopes: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every node with those around it, outermost first."""
    for child in ast.iter_child_nodes(node):
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
        alias.name: (node.module or "").removeprefix(f"{PACKAGE}.")
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
    assert ours(modules) == {"_version"}
    assert not HEAVY & modules
    assert len(modules) < 60  # the standard library's typing and importlib, and what they lean on


@pytest.mark.parametrize("name", ["Interaction", "TrutoError", "Page"])
def test_models_and_errors_load_no_http_client(name: str) -> None:
    """Workers that only unpickle or validate records start in a fraction of the time."""
    modules = loaded(f"from truto_ci_async import {name}")
    assert max(HEIGHT[room_of(name)] for name in ours(modules)) <= HEIGHT["models"]
    assert not HEAVY & modules


def test_settings_load_no_http_client() -> None:
    assert "aiohttp" not in loaded("from truto_ci_async import Pacing, RetryPolicy, Timeouts")


def test_the_client_loads_neither_the_command_line_nor_the_sandbox() -> None:
    modules = loaded("from truto_ci_async import TrutoClient, Interaction, Paginator")
    assert "aiohttp" in modules
    assert not {"argparse", "rich", "yaml", "pyarrow", "sqlite3"} & modules
    assert max(HEIGHT[room_of(name)] for name in ours(modules)) <= HEIGHT["client"]
    assert "pull" not in {room_of(name) for name in ours(modules)}


# How it is built


def test_every_room_has_its_floor() -> None:
    assert {room_of(module) for module in SOURCES} - {SANDBOX} == set(HEIGHT)


def test_imports_only_go_down(capsys: pytest.CaptureFixture[str]) -> None:
    """Lazy and typing-only imports count: what a file needs to know is below it, however it asks for it."""
    upward = [
        f"{module} (floor {HEIGHT[room_of(module)]}) imports {found.module} (floor {HEIGHT[room_of(found.module)]})"
        for module in SOURCES
        if room_of(module) != SANDBOX
        for found in sorted(imports(module))
        if found.module and room_of(found.module) not in (SANDBOX, room_of(module))
        if HEIGHT[room_of(found.module)] >= HEIGHT[room_of(module)]
        if not (module == "__init__" or found.module == "__init__")
    ]
    with capsys.disabled():
        if upward:
            print("\n" + floors_drawn())  # noqa: T201
    assert not upward, "\n" + "\n".join(upward)


def floors_drawn() -> str:
    """The floors with their rooms, and what each of them leans on."""
    lines: list[str] = []
    for rooms in FLOORS:
        for room in sorted(rooms):
            below = {
                room_of(found.module)
                for module in SOURCES
                if room_of(module) == room
                for found in imports(module)
                if found.module
            }
            lines.append(f"{HEIGHT[room]:2}  {room:12} -> {' '.join(sorted(below - {room}))}")
    return "\n".join(lines)


def test_no_module_imports_in_a_circle() -> None:
    graph = {
        module: {found.module for found in imports(module) if found.module in SOURCES} - {"__init__"}
        for module in SOURCES
        if module != "__init__"
    }
    assert [module for module, needs in graph.items() if module in needs and not is_package(module)] == []
    for module, needs in graph.items():
        needs.discard(module)
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("client")


def is_package(module: str) -> bool:
    return SOURCES[module].name == "__init__.py"


def test_only_the_top_imports_the_sandbox() -> None:
    users = {
        room_of(module) for module in SOURCES for found in imports(module) if room_of(found.module) == SANDBOX
    }
    assert users <= {SANDBOX, "cli", "__init__"}


def test_the_sandbox_shares_nothing_with_the_client() -> None:
    """A mistake in a shared model would be made on both sides, and no test would see it."""
    files = [module for module in SOURCES if room_of(module) == SANDBOX]
    assert files
    for module in files:
        shared = {found.module for found in imports(module) if found.module}
        assert {room_of(name) for name in shared} <= {SANDBOX}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_only_the_transport_knows_the_http_client(module: str) -> None:
    """One folder maps its errors and reads its bodies; the rest would not notice another client."""
    tops = {found.top for found in imports(module) if not found.is_typing}
    if not module.startswith("_http.transport") and room_of(module) != SANDBOX:
        assert not tops & {"aiohttp", "yarl", "multidict"}
    if room_of(module) == SANDBOX:
        assert not tops & {"msgspec", "ijson", "anyio"}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_nothing_but_the_four_dependencies_is_needed_to_import_a_module(module: str) -> None:
    """Everything else is an extra, asked for where it is used."""
    core = {"aiohttp", "anyio", "ijson", "msgspec", PACKAGE} | {"yarl", "multidict"}  # aiohttp's own two
    if module == "sandbox.fixtures":
        core |= {"pytest"}  # for those who test with it
    needed = {found.top for found in imports(module) if not found.is_lazy and not found.is_typing}
    assert needed - core - sys.stdlib_module_names == set()


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES.values()} - {FOLDER}))
def test_every_folder_says_what_lives_there(folder: Path) -> None:
    """A stranger opens `__init__` first: what is here, what is not, and where to start reading."""
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(doc) > 150, f"{folder.relative_to(FOLDER)} has no docstring to speak of"
    assert any(f"`{path.stem}`" in doc for path in folder.glob("*.py") if path.stem != "__init__"), doc


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_file_is_too_long_to_have_one_subject(module: str) -> None:
    assert len(SOURCES[module].read_text(encoding="utf-8").splitlines()) <= 500


AWAITING = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
# The one file of the pure rooms that awaits: it is where rules meet the loop.
WAITS = {"_http.policy.admission"}


@pytest.mark.parametrize(
    "module", [module for module in SOURCES if f"{module}.".startswith(tuple(f"{name}." for name in PURE))]
)
def test_the_pure_floors_never_wait(module: str) -> None:
    """Rules that do no waiting need no event loop to be tested, and cannot be cancelled half-way."""
    if module in WAITS:
        return
    awaiting = {
        next((scope.name for scope in scopes if isinstance(scope, ast.ClassDef)), "")
        for node, scopes in walk(ast.parse(SOURCES[module].read_text(encoding="utf-8")))
        if isinstance(node, AWAITING) or (isinstance(node, ast.comprehension) and node.is_async)
    }
    assert awaiting <= ({"AccountPage"} if module == "models.pulls" else set())
    assert not {found.top for found in imports(module)} & {"asyncio", "anyio", "threading", "socket", "ssl"}


def test_the_reader_of_imports_sees_them() -> None:
    """The tests above pass on what they cannot see: so this one looks at what is surely there."""
    assert "errors" in {found.module for found in imports("_wire.query_string")}
    assert "aiohttp" in {found.top for found in imports("_http.transport.transport")}
    assert "models" in {found.module for found in imports("pull.engine")}
    assert any(found.is_lazy for found in imports("__init__") | imports("resources.interactions"))
    assert any(found.is_typing for found in imports("__init__"))

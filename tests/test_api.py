"""The package as a whole: its public names, and what importing them loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import truto_ci_async
from tests.floors import House, room_of
from truto_ci_async import errors, events, models

PACKAGE = "truto_ci_async"
FOLDER = Path(truto_ci_async.__file__).parent

HOUSE = House(FOLDER)


def run_python(program: str) -> object:
    """Run a program in a fresh interpreter and parse the JSON it prints."""
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


# Public names


def test_every_public_name_can_be_imported() -> None:
    assert len(truto_ci_async.__all__) == len(set(truto_ci_async.__all__))
    assert set(truto_ci_async.__all__) == {*truto_ci_async._MODULES, "__version__"}
    for name in truto_ci_async.__all__:
        assert getattr(truto_ci_async, name) is not None


@pytest.mark.parametrize("name", sorted(truto_ci_async._MODULES))
def test_every_name_is_defined_in_its_module(name: str) -> None:
    value = getattr(truto_ci_async, name)
    module = import_module(f"{PACKAGE}.{truto_ci_async._MODULES[name]}")
    assert value is getattr(module, name)
    if isinstance(value, type):
        assert value.__module__.startswith(module.__name__)


def test_type_checkers_see_the_same_names() -> None:
    """They read the imports under TYPE_CHECKING, Python reads the table."""
    tree = ast.parse((FOLDER / "__init__.py").read_text(encoding="utf-8"))
    seen: dict[str, str] = {}
    [block] = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        module = node.module or ""
        for alias in node.names:
            if alias.name == "*":
                seen |= dict.fromkeys(import_module(f"{PACKAGE}.{module}").__all__, module)
            else:
                assert alias.asname == alias.name, "without `as`, type checkers take it for private"
                seen[alias.name] = module
    assert seen == truto_ci_async._MODULES


@pytest.mark.parametrize("module", [errors, models, events])
def test_the_package_exports_what_a_public_module_exports(module: Any) -> None:
    assert set(module.__all__) == set(
        truto_ci_async._NAMES[module.__name__.removeprefix(f"{PACKAGE}.")].split()
    )


def test_dir_shows_the_public_names() -> None:
    """Tab completion in a notebook, before anything is loaded."""
    shown = run_python("import json, truto_ci_async as t; print(json.dumps(dir(t)))")
    assert isinstance(shown, list)
    assert set(truto_ci_async.__all__) <= set(shown)
    assert shown == sorted(shown)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'truto_ci_async' has no attribute 'TrutoClint'"):
        truto_ci_async.TrutoClint  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(truto_ci_async, "_nothing")


def test_a_star_import_gives_exactly_the_public_names() -> None:
    given = run_python("import json\nfrom truto_ci_async import *\nprint(json.dumps([n for n in globals()]))")
    assert isinstance(given, list)
    assert set(truto_ci_async.__all__) <= set(given)
    assert {name for name in given if not name.startswith("__")} - {"json"} == set(truto_ci_async.__all__) - {
        "__version__"
    }


def test_the_version_is_the_installed_one() -> None:
    assert truto_ci_async.__version__ == version("truto-ci-async")


def test_the_package_is_marked_as_typed() -> None:
    assert (FOLDER / "py.typed").is_file()


# What importing loads

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


def test_importing_the_package_loads_none_of_its_modules() -> None:
    modules = loaded("import truto_ci_async")
    assert ours(modules) == {"_version"}
    assert not HEAVY & modules
    assert len(modules) < 60  # the standard library's typing and importlib, and what they import


@pytest.mark.parametrize("name", ["Interaction", "TrutoError", "Page"])
def test_models_and_errors_load_no_http_client(name: str) -> None:
    """Workers that only unpickle or validate records start in a fraction of the time."""
    modules = loaded(f"from truto_ci_async import {name}")
    assert max(HOUSE.height[room_of(name)] for name in ours(modules)) <= HOUSE.height["models"]
    assert not HEAVY & modules


def test_settings_load_no_http_client() -> None:
    assert "aiohttp" not in loaded("from truto_ci_async import Pacing, RetryPolicy, Timeouts")


def test_the_client_loads_neither_the_command_line_nor_the_sandbox() -> None:
    modules = loaded("from truto_ci_async import TrutoClient, Interaction, Paginator")
    assert "aiohttp" in modules
    assert not {"argparse", "rich", "yaml", "pyarrow", "sqlite3"} & modules
    assert max(HOUSE.height[room_of(name)] for name in ours(modules)) <= HOUSE.height["client"]
    assert "pull" not in {room_of(name) for name in ours(modules)}
    few_use = {
        "_http.policy.budget_gate",
        "_http.stats",
        "_progress",
        "export.html",
        "resources.integrated_accounts",
    }
    assert not few_use & ours(modules)

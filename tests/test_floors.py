"""How the package is built: imports only go down, pure rooms never wait, and every folder says what it is for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import truto_ci_async
from tests.floors import FLOORS, SANDBOX, SANDBOX_USERS, House, room_of, walk

PACKAGE = "truto_ci_async"
FOLDER = Path(truto_ci_async.__file__).parent
HOUSE = House(FOLDER)
SOURCES, IMPORTS = HOUSE.sources, HOUSE.imports

# Rooms of pure rules: nothing in them waits, but for these.
PURE = ("_wire", "models", "export.schema", "_json", "errors", "_version", "_http.policy")
# The file of a pure room that awaits because it is where the rules meet the event loop.
WAITING_FILES = {"_http.policy.admission", "_http.policy.budget_gate"}
# Classes with a method that is awaited elsewhere: in a subclass higher up, or in what callers write.
WAITING_CLASSES = {
    "models.pulls": {"AccountPage"},
    "_http.policy.shared_budget": {"SharedBudget"},
    "_http.policy.memory_budget": {"MemoryBudget"},  # an async method that never waits
}


# Floors


def test_imports_only_go_down() -> None:
    """A file can be understood from what is below it."""
    assert set(HOUSE.height) == {room_of(module) for module in SOURCES} - {SANDBOX}
    upward = HOUSE.upward()
    assert not upward, "\n".join(["", HOUSE.drawn(), *upward])


def test_no_modules_import_each_other_in_a_circle() -> None:
    circle = HOUSE.circle()
    assert not circle, "\n".join(["", HOUSE.drawn(), " → ".join(circle)])


def test_the_sandbox_shares_nothing_with_the_client() -> None:
    """A mistake in a shared model would be made on both sides, and no test would notice."""
    files = {module for module in SOURCES if room_of(module) == SANDBOX}
    assert files
    used = {room_of(found.module) for module in files for found in IMPORTS[module] if found.module}
    assert used == {SANDBOX}
    users = {
        room_of(module) for module in SOURCES for found in IMPORTS[module] if room_of(found.module) == SANDBOX
    }
    assert users <= {SANDBOX, *SANDBOX_USERS}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_only_the_transport_imports_the_http_client(module: str) -> None:
    """One folder maps its errors and reads its bodies; the rest would not notice another client."""
    tops = {found.top for found in IMPORTS[module] if not found.is_typing}
    if room_of(module) == SANDBOX:
        assert not tops & {"msgspec", "ijson", "anyio"}
    elif not module.startswith("_http.transport"):
        assert not tops & {"aiohttp", "yarl", "multidict"}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_importing_a_module_needs_only_the_four_dependencies(module: str) -> None:
    """Everything else is an extra, and imported where it is used."""
    core = {"aiohttp", "anyio", "ijson", "msgspec", PACKAGE} | {"yarl", "multidict"}  # aiohttp's own two
    if module == "sandbox.fixtures":
        core |= {"pytest"}  # for those who test with it
    if room_of(module) == "cli" and module != "cli.main":
        core |= {"click"}  # an extra without which ``main`` goes no further
    needed = {found.top for found in IMPORTS[module] if not found.is_lazy and not found.is_typing}
    assert needed - core - sys.stdlib_module_names == set()


INTEGRATIONS = sorted(module for module in SOURCES if room_of(module) == "integrations")


@pytest.mark.parametrize("module", INTEGRATIONS)
def test_an_integration_is_one_short_file_over_public_names(module: str) -> None:
    """Whoever writes the next one sees that nothing but the public names is needed."""
    used = {found.module for found in IMPORTS[module] if found.module}
    assert used <= {"__init__", "errors", "events", "models"}, "imports of what is not public"
    assert SOURCES[module].read_text(encoding="utf-8").count("\n") <= 300


AWAITING = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)


@pytest.mark.parametrize(
    "module", [module for module in SOURCES if f"{module}.".startswith(tuple(f"{name}." for name in PURE))]
)
def test_the_pure_rooms_never_wait(module: str) -> None:
    """Rules that never wait need no event loop to be tested, and cannot be cancelled half-way."""
    if module in WAITING_FILES:
        return
    awaiting = {
        next((scope.name for scope in scopes if isinstance(scope, ast.ClassDef)), "")
        for node, scopes in walk(ast.parse(SOURCES[module].read_text(encoding="utf-8")))
        if isinstance(node, AWAITING) or (isinstance(node, ast.comprehension) and node.is_async)
    }
    assert awaiting <= WAITING_CLASSES.get(module, set())
    assert not {found.top for found in IMPORTS[module]} & {"asyncio", "anyio", "threading", "socket", "ssl"}


# Files and folders


@pytest.mark.parametrize(
    "folder", sorted({str(path.parent.relative_to(FOLDER)) for path in SOURCES.values()} - {"."})
)
def test_every_folder_says_what_lives_there(folder: str) -> None:
    """A newcomer opens `__init__` first: what is here, what is not, and where to start reading."""
    doc = ast.get_docstring(ast.parse((FOLDER / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(doc) > 150, "the docstring is too short to say it"
    names = {path.stem for path in (FOLDER / folder).iterdir()} - {"__init__", "__pycache__"}
    assert any(f"`{name}`" in doc for name in names), doc


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_file_is_too_long(module: str) -> None:
    """A file of more than 500 lines has more than one subject."""
    lines = SOURCES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= 500


# The checks themselves, on a small package


NEVER_UPWARD = [
    "import sys, os.path",
    "from .low import x",
    "from p.low import x",
    "def f():\n    from .low import x",
    "from . import low as renamed",
]
UPWARD = [
    "from .top import x",
    "from .top.inner import x",
    "from p.top import x",
    "from . import top",
    "from p import top",
    "import p.top",
    "import sys, p.top.inner as inner",
    "def f():\n    def g():\n        from .top import x",
    "class A:\n    async def f(self):\n        import p.top",
    "if TYPE_CHECKING:\n    from .top import x",
    "if typing.TYPE_CHECKING:\n    from .top import x",
    "try:\n    from .top import x\nexcept ImportError:\n    pass",
    "top = import_module('p.top')",
    "top = importlib.import_module('.top', __package__)",
    "from p import x",
    "from .middle2 import x",
]


def small_house(folder: Path, **files: str) -> House:
    """Build a package `p`; double underscores in a name stand for a folder."""
    package = folder / "p"
    texts = {"__init__": "", "__main__": "", "top/__init__": "", "top/inner": "", "middle2": "", "low": ""}
    for name, text in {**texts, **{name.replace("__", "/"): text for name, text in files.items()}}.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return House(package, ("__main__ __init__", "top", "middle middle2", "low"))


@pytest.mark.parametrize("text", NEVER_UPWARD)
def test_a_downward_import_is_allowed(tmp_path: Path, text: str) -> None:
    house = small_house(tmp_path, middle=text)
    assert (house.upward(), house.circle()) == ([], [])


@pytest.mark.parametrize("text", UPWARD)
def test_an_upward_import_is_found_however_it_is_written(tmp_path: Path, text: str) -> None:
    [line] = small_house(tmp_path, middle=text).upward()
    assert line.startswith("middle (floor 2) imports ")


@pytest.mark.parametrize(
    "text",
    ["from .b import x", "if TYPE_CHECKING:\n    from ..low.b import x", "def f():\n    from . import b"],
)
def test_a_circle_within_a_room_is_found(tmp_path: Path, text: str) -> None:
    house = small_house(tmp_path, low__a=text, low__b="from .c import x", low__c="from p.low import a")
    circle = house.circle()
    assert circle[0] == circle[-1]
    assert set(circle) == {"low.a", "low.b", "low.c"}


def test_lazy_and_typing_only_imports_are_told_apart(tmp_path: Path) -> None:
    text = "import sys\ndef f():\n    import os\nif TYPE_CHECKING:\n    import ast\n"
    found = small_house(tmp_path, middle=text).imports["middle"]
    assert {(each.top, each.is_lazy, each.is_typing) for each in found} == {
        ("sys", False, False),
        ("os", True, False),
        ("ast", False, True),
    }


def test_the_floors_of_the_package_matter() -> None:
    """Upside down, they forbid nearly everything: the check does look at the package."""
    assert len(House(FOLDER, FLOORS[::-1]).upward()) > 100
    assert len(FLOORS) >= 12


def test_the_floors_can_be_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.floors"],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(FOLDER.parent)},
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith(HOUSE.drawn()), done.stderr
    assert done.returncode == (1 if HOUSE.upward() or HOUSE.circle() else 0)

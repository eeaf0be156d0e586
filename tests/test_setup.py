"""The repository itself: the locks match pyproject.toml, and a skipped test fails in CI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def wanted(*extras: str, groups: tuple[str, ...]) -> list[Requirement]:
    """Return what pyproject.toml asks for, with what the groups include."""
    project = PROJECT["project"]
    found: list[str] = [*project["dependencies"]]
    for extra in extras:
        found += project["optional-dependencies"][extra]
    for group in groups:
        found += PROJECT["dependency-groups"][group]
    return [Requirement(text) for text in found]


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("demo", wanted("cli", groups=("backend",))),
        ("test", wanted("cli", "compression", "parquet", groups=("backend", "test"))),
        ("mutants", wanted("cli", "compression", "parquet", groups=("backend", "test", "mutants"))),
        ("dev", wanted("cli", "compression", "parquet", groups=("backend", "test", "lint", "build"))),
    ],
    ids=["demo", "test", "mutants", "dev"],
)
def test_the_locks_hold_what_pyproject_asks_for(name: str, requirements: list[Requirement]) -> None:
    """`make` installs nothing but what the locks list. When this fails, run `make lock`."""
    lines = (ROOT / "locks" / f"{name}.txt").read_text("utf-8").splitlines()
    locked = [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]
    for requirement in requirements:
        [found] = [lock for lock in locked if same_project(lock, requirement)]
        assert requirement.specifier.contains(next(iter(found.specifier)).version), requirement
    assert not [line for line in lines if "://" in line], "the lock names a package index"


def same_project(one: Requirement, other: Requirement) -> bool:
    return re.sub(r"[-_.]+", "-", one.name).lower() == re.sub(r"[-_.]+", "-", other.name).lower()


SUITE = """
import sys
import pytest

@pytest.mark.skipif(sys.version_info > (3,), reason="for another platform")
def test_for_another_platform(): ...

@pytest.fixture
def cluster():
    pytest.skip("no cluster here")

@pytest.mark.skipif(sys.version_info < (3,), reason="for another platform")
def test_whose_fixture_skips_it(cluster): ...

def test_that_skips_itself():
    pytest.skip("no time zone database here")

@pytest.mark.xfail
def test_that_is_known_to_fail():
    assert False
"""


@pytest.mark.parametrize(
    ("value", "ends"), [("1", "1 failed, 1 skipped, 1 xfailed, 1 error"), ("", "3 skipped, 1 xfailed")]
)
def test_a_test_that_skips_itself_fails_in_ci(value: str, ends: str, tmp_path: Path) -> None:
    """Otherwise nobody would notice that something is missing there and the test never runs."""
    (tmp_path / "test_some.py").write_text(SUITE)
    command = [
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "-rf",
    ]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "SKIPS_FAIL": value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ends in done.stdout, done.stdout + done.stderr

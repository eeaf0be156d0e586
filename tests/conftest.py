"""Settings of the whole suite: how Hypothesis searches, what the run costs, a clean environment."""

from __future__ import annotations

import gc
import os
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings

# .ci/run sets it: a skipped test fails there, unless a `skipif` mark skips it because of the platform.
SKIPS_FAIL = os.environ.get("SKIPS_FAIL") == "1"

# "fixed" runs the same examples on every machine; "search" (`make test-long`) runs more and new ones; "few"
# (`make mutants`) runs fewer and looks for no smaller one, since each of thousands of mutants needs a run.
# No deadline per example: `-X dev` and a busy machine make single examples slow, which says nothing.
for profile, fixed, examples in (("fixed", True, 100), ("search", False, 1000), ("few", True, 20)):
    settings.register_profile(
        profile,
        derandomize=fixed,
        max_examples=examples,
        print_blob=True,
        deadline=None,
        phases=[Phase.explicit, Phase.generate] if profile == "few" else list(Phase),
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

# Frames of a stack that an object of aiohttp notes when it is made: as many as asyncio notes in its debug mode.
NOTED_FRAMES = 10


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Start the workers of a parallel run with ``-X dev`` too, which Python does not hand on."""
    if sys.flags.dev_mode:
        for spec in specs:
            spec.python = f"{shlex.quote(sys.executable)} -X dev"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that skips itself where every test must run."""
    report = yield
    reasons = {f"Skipped: {mark.kwargs.get('reason')}" for mark in item.iter_markers("skipif")}
    by_mark = isinstance(report.longrepr, tuple) and report.longrepr[2] in reasons
    return report if by_mark or hasattr(report, "wasxfail") else _fail_if_skipped(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a module that skips itself."""
    return _fail_if_skipped((yield))


def _fail_if_skipped(report: Report) -> Report:
    if SKIPS_FAIL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped where every test must run: {report.longreprtext}"
    return report


def pytest_collection_finish() -> None:
    """Keep the modules and the tests themselves out of every later search for garbage.

    They are there until the end, and some tests search over and over: that took a seventh of their time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _short_notes_of_where_it_was_made() -> Iterator[None]:
    """Let aiohttp's sessions, requests and answers note the top of the stack, and not all of pytest's below it.

    In debug mode each of them does, for the message about one that was not closed, where the top says who made it.
    Noting the whole stack takes longer than the request.
    """
    extract = traceback.extract_stack

    def extract_top(frame: FrameType | None = None, limit: int | None = None) -> traceback.StackSummary:
        return extract(frame or sys._getframe(1), NOTED_FRAMES if limit is None else limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traceback, "extract_stack", extract_top)
        yield


@pytest.fixture(scope="module", autouse=True)
def _leaks_are_told() -> Iterator[None]:
    """Collect garbage at the end of each module, so that a leak in a cycle is a warning there.

    pytest itself does so when it ends, but nobody hears it from a worker of a parallel run.
    """
    yield
    for _ in range(3):  # what a finalizer lets go of is garbage of the next round
        gc.collect()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away ``TRUTO_*`` and ``*_proxy``: a real token or a proxy must never reach a test."""
    for name in list(os.environ):
        if name.startswith("TRUTO_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)  # where nothing can be written
    monkeypatch.setenv("XDG_CONFIG_HOME", os.devnull)  # nor profiles be read


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system in memory. Call it again to remount with other options.

    That takes the rights of root, or of a user who needs no password for them.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    rights = [] if not hasattr(os, "geteuid") or os.geteuid() == 0 else ["sudo", "-n"]
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        command = [*rights, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("cannot mount a file system here")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run([*rights, "umount", str(folder)], check=True)

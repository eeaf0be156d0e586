"""Settings of the whole suite: how Hypothesis searches, what the run costs, a clean environment."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline per example: `-X dev` and a busy machine make single examples slow, which says nothing.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def pytest_collection_finish() -> None:
    """Keep the modules and the tests themselves out of every later search for garbage.

    They are there until the end, and some tests search over and over: that took a seventh of their time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away ``TRUTO_*`` and ``*_proxy``: a real token or a proxy must never reach a test."""
    for name in list(os.environ):
        if name.startswith("TRUTO_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

"""Settings of the whole suite: how Hypothesis searches, and an environment free of the developer's own."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline per example: `-X dev` and a busy machine make single examples slow, which says nothing.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away ``TRUTO_*`` and ``*_proxy``: a real token or a proxy must never reach a test."""
    for name in list(os.environ):
        if name.startswith("TRUTO_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

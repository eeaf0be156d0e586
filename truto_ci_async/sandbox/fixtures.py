"""A pytest fixture for testing code that uses this package. Needs pytest, which the package itself does not.

In a ``conftest.py``:

    from truto_ci_async.sandbox.fixtures import truto_sandbox

and in a test, sync or async:

    def test_my_job(truto_sandbox, monkeypatch):
        monkeypatch.setenv("TRUTO_API_TOKEN", truto_sandbox.token)
        monkeypatch.setenv("TRUTO_API_BASE_URL", truto_sandbox.url)
        truto_sandbox.script(truto_sandbox.account_ids[0], [Fault.status(502)])
        my_job()
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .http.server import Sandbox

__all__ = ["truto_sandbox"]


@pytest.fixture
def truto_sandbox() -> Iterator[Sandbox]:
    """Run a `Sandbox` with default options in its own thread for one test."""
    with Sandbox.in_thread() as sandbox:
        yield sandbox

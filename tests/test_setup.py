"""The set-up of the repository: skips that fail where they must."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SUITE = """
import sys
import pytest

@pytest.mark.skipif(sys.version_info > (3,), reason="for another platform")
def test_for_another_platform(): ...

def test_that_skips_itself():
    pytest.skip("no time zone database here")

@pytest.mark.xfail
def test_that_is_known_to_fail():
    assert False
"""


@pytest.mark.parametrize(
    ("value", "ends"), [("1", "1 failed, 1 skipped, 1 xfailed"), ("", "2 skipped, 1 xfailed")]
)
def test_a_test_that_skips_itself_fails_in_ci(value: str, ends: str, tmp_path: Path) -> None:
    """Something that is missing there would otherwise go unnoticed."""
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

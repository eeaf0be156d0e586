"""Takes out one mend after the other, in a copy of the package, and lets the simulation find what it mended.

    python -m tests.simulation.mends              all of them
    python -m tests.simulation.mends trial token  those whose names have one of these words

Each is a text of a module and what stood there before. `test_mends_can_be_taken_out` fails when the text has changed:
write it anew then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "truto_ci_async"
# Within so many seeds each of them has to be found.
SEEDS = 3_000
# Seconds for one mend; a search that takes longer has found nothing.
MAX_SECONDS = 900.0


class Mend(NamedTuple):
    """What stands in a file of the package now, and what stood there before it was mended."""

    name: str
    file: str
    now: str
    before: str

    def take_out(self, root: Path) -> None:
        """:raises ValueError: its text is not in the file, or more than once."""
        path = root / PACKAGE / self.file
        text = path.read_text()
        if text.count(self.now) != 1:
            raise ValueError(f"{self.name}: its text is {text.count(self.now)} times in {self.file}")
        path.write_text(text.replace(self.now, self.before))


ACCOUNT, COMMITS, ENGINE = "pull/account_pull.py", "pull/commits.py", "pull/engine.py"
BREAKER = "_http/policy/circuit_breaker.py"

MENDS = (
    # What was met before.
    Mend(
        "rows are left out only where a walk began again",
        ACCOUNT,
        "(position is None or progress.is_restarted)",
        "(position is None or progress.is_restarted or progress.error is not None)",
    ),
    Mend(
        "what a second walk has met is stored",
        ACCOUNT,
        "            entry.log = log\n",
        "            pass\n",
    ),
    Mend(
        "a second walk that is resumed goes on with what it has met",
        ACCOUNT,
        "SeenRows(log, goes_on=position is not None)",
        "SeenRows(log)",
    ),
    Mend(
        "a row's fingerprint depends on that row alone",
        "pull/row_fingerprints.py",
        "    return [_view_of(item) for item in items]\n",
        "    return [None for item in items]\n",
    ),
    Mend(
        "a page that is being written counts, though the block is left",
        COMMITS,
        "            # Whatever happened meanwhile: the sink has the page, and a final commit waits for this lock.\n",
        "            self.require_open()\n",
    ),
    Mend(
        "pages of one account are written in order",
        COMMITS,
        "            if entry.queue[0] is not entry:\n                return False\n",
        "",
    ),
    Mend(
        "with a sink only writing marks a page",
        ENGINE,
        "            if self._handed is not None:\n                self._handed.mark()",
        "            if self._handed is not None:\n                self._commits.mark(self._handed._entry)",
    ),
    # What the service is doing.
    Mend(
        "an answer counts when it arrives",
        ACCOUNT,
        "        shared.circuit.success(self._arrived_at)\n        self._calls",
        "        shared.circuit.success(time.monotonic())\n        self._calls",
    ),
    Mend(
        "a trial may renew the token",
        ACCOUNT,
        "attempts=min(2, retry.attempts)",
        "attempts=1",
    ),
    Mend(
        "the last attempt may renew the token",
        "_http/policy/retry.py",
        'if self.attempts >= attempts and (verdict != "auth" or attempts == 1):',
        "if self.attempts >= attempts:",
    ),
    Mend(
        "an account fails since its first call that failed",
        ACCOUNT,
        "        if self._failing_since is None:\n",
        "        if True:\n",
    ),
    Mend(
        "accounts that fail together are not to blame",
        BREAKER,
        "            is_alone = len(self._failing) == 1\n",
        "            is_alone = True\n",
    ),
    Mend(
        "the last account is failed once an outage is given up",
        ACCOUNT,
        "            is_last\n            and self._outage_error",
        "            False\n            and self._outage_error",
    ),
    Mend(
        "a commit that fails sends no walk on",
        COMMITS,
        "            self.check()\n            if bodies",
        "            if bodies",
    ),
)


class Found(NamedTuple):
    is_found: bool
    told: str


def search(mend: Mend, seeds: int = SEEDS) -> Found:
    """Simulate a copy of the package without a mend, until a seed goes wrong."""
    with tempfile.TemporaryDirectory(prefix="mends-") as name:
        root = Path(name)
        for folder in (PACKAGE, "tests"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        mend.take_out(root)
        command = [sys.executable, "-m", "tests.simulation", "0", str(seeds), "--first"]
        environment = {**os.environ, "PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, capture_output=True, text=True, timeout=MAX_SECONDS
            )
        except subprocess.TimeoutExpired:
            return Found(False, f"nothing within {MAX_SECONDS:.0f} s")
        if done.returncode not in (0, 1) or " seeds in " not in done.stdout:
            return Found(False, f"it did not run: {done.stderr[-2_000:]}")
        return Found(done.returncode == 1, done.stdout.strip())


def main(words: list[str]) -> int:
    missed = 0
    for mend in MENDS:
        if not words or any(word in mend.name for word in words):
            found = search(mend)
            missed += not found.is_found
            print(
                f"{'found' if found.is_found else 'MISSED'}: {mend.name}\n    {found.told[:300]}", flush=True
            )
    return missed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))

"""Takes out one mend after the other, in a copy of the package, and lets the simulation find what it mended.

    python -m tests.simulation.mends              all of them
    python -m tests.simulation.mends trial token  those whose names have one of these words

Each is some text of the package and what stood there before. `test_mends_can_be_taken_out` fails when such a text has
changed: write it anew then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import truto_ci_async

TESTS, PACKAGE = Path(__file__).parents[1], Path(truto_ci_async.__file__).parent
# Within so many seeds each of them has to be found.
SEEDS = 10_000
# Seconds for one mend; a search that takes longer has found nothing.
MAX_SECONDS = 1_800.0


class Change(NamedTuple):
    """A text in a file of the package, and what stood there before."""

    file: str
    now: str
    before: str


class Mend:
    """What was mended, and the changes that did it."""

    def __init__(self, name: str, *changes: tuple[str, str, str], of_syncs: bool = False) -> None:
        self.name = name
        self.of_syncs = of_syncs
        self.changes = [Change(*change) for change in changes]

    def without(self) -> dict[str, str]:
        """Return the files that it changed, as they are without it.

        :raises ValueError: a text is not in its file, or more than once.
        """
        texts: dict[str, str] = {}
        for file, now, before in self.changes:
            text = texts.get(file) or (PACKAGE / file).read_text()
            if text.count(now) != 1:
                raise ValueError(f"{self.name}: {now!r} is {text.count(now)} times in {file}")
            texts[file] = text.replace(now, before)
        return texts


ACCOUNT, COMMITS, ENGINE = "pull/account_pull.py", "pull/commits.py", "pull/engine.py"
SYNCING, WORKERS = "pull/stores/syncing.py", "pull/workers.py"
BREAKER, FILES, SQLITE = "_http/policy/circuit_breaker.py", "sinks/files.py", "pull/checkpoint/sqlite.py"

MENDS = (
    # What was met before.
    Mend(
        "rows are left out only where a walk began again",
        (
            ACCOUNT,
            "(position is None or progress.is_restarted)",
            "(position is None or progress.is_restarted or progress.error is not None)",
        ),
        (
            ACCOUNT,
            "goes_on=position is not None)",
            "goes_on=position is not None and progress.is_restarted)",
        ),
    ),
    Mend(
        "what a second walk has met is stored",
        (ACCOUNT, "            entry.log = log\n", "            pass\n"),
    ),
    Mend(
        "a second walk that is resumed goes on with what it has met",
        (ACCOUNT, "SeenRows(await self._log(), goes_on=position is not None)", "SeenRows(await self._log())"),
    ),
    Mend(
        "a row's fingerprint depends on that row alone",
        (
            "pull/row_fingerprints.py",
            "    return [_view_of(item) for item in items]\n",
            "    return [None for item in items]\n",
        ),
    ),
    Mend(
        "rows whose place is in the log are read again",
        (
            COMMITS,
            "        return self._fingerprints(await self._store.read_again(part))\n",
            '        return b""\n',
        ),
    ),
    Mend(
        "a page has its place after those that were written before",
        ("sinks/lines.py", "        self._taken_bytes += place.size\n", ""),
    ),
    Mend(
        "a page that is being written counts, though the block is left",
        (
            COMMITS,
            "            # The sink has the page,",
            "            self.require_open()\n            #",
        ),
    ),
    Mend(
        "pages of one account are written in order",
        (COMMITS, "            if entry.queue[0] is not entry:\n                return False\n", ""),
    ),
    Mend(
        "rows that a commit has taken are known to a walk that begins again",
        (
            COMMITS,
            "        async with self._commit_lock:  # no commit is under way,",
            "        if True:  #",
        ),
    ),
    Mend(
        "a commit takes pages and their progress at the same moment",
        (
            COMMITS,
            "                    begun = begin(changes, row_fingerprints=logs, final=final)\n",
            "                    pass\n",
        ),
        (
            COMMITS,
            "            if begun is not None:\n                is_durable = await begun\n",
            "            if has_work and begin is not None:\n"
            "                await anyio.lowlevel.checkpoint()\n"
            "                is_durable = await begin(changes, row_fingerprints=logs, final=final)\n",
        ),
    ),
    # What the service is doing.
    Mend(
        "an answer counts when it arrives",
        (
            ACCOUNT,
            "        shared.circuit.success(self._state.arrived_at)\n        self._state.calls",
            "        shared.circuit.success(time.monotonic())\n        self._state.calls",
        ),
    ),
    Mend(
        "a trial may renew the token",
        ("pull/account_state.py", "attempts=min(2, retry.attempts)", "attempts=1"),
    ),
    Mend(
        "the last attempt may renew the token",
        (
            "_http/policy/retry.py",
            'if self.attempts >= attempts and (verdict != "auth" or attempts == 1):',
            "if self.attempts >= attempts:",
        ),
    ),
    Mend(
        "an account fails since its first call that failed",
        (ACCOUNT, "        if self._state.failing_since is None:\n", "        if True:\n"),
    ),
    Mend(
        "accounts that fail together are not to blame",
        (BREAKER, "            is_alone = len(self._failing) == 1\n", "            is_alone = True\n"),
    ),
    Mend(
        "accounts that fail while the service still answers are failed once an outage is given up",
        (
            WORKERS,
            "if not self._is_parking and await self._still_answers(fetch):",
            "if False:",
        ),
    ),
    Mend(
        "a commit that fails sends no walk on",
        (COMMITS, "            self.check()\n            if bodies", "            if bodies"),
        (
            ACCOUNT,
            "        if shared.is_stopping:\n            return NEVER\n        asked_at",
            "        asked_at",
        ),
    ),
    # Who may write.
    Mend(
        "the folder is locked, whatever the checkpoint",
        (FILES, "        lock.acquire()\n        self._lock = lock\n", ""),
    ),
    Mend(
        "a lock is released by its holder alone",
        ("_lock.py", "                is_ours = is_at(file, self.path)", "                is_ours = True"),
    ),
    Mend(
        "a lock that is lost is noticed",
        (FILES, "                self._lock.check()\n", "                pass\n"),
        (SQLITE, "                self._lock.check()\n", "                pass\n"),
    ),
    Mend(
        "the sink is asked before the progress is deleted",
        (FILES, "        if anew:\n            self._check_owner(read_entries(self.directory), None)\n", ""),
    ),
    Mend(
        "a folder is claimed before its first row",
        (
            "pull/stores/adapters.py",
            'not getattr(self._sink, "is_claimed", True)',
            "False",
        ),
    ),
    Mend(
        "a state without rows does not remove those of another",
        (
            FILES,
            "        self._check_owner(entries, None if text is None else state)\n",
            "        if text is None:\n            self._check_owner(entries, None)\n",
        ),
    ),
    Mend(
        "what is durable counts, whatever becomes of the manifest",
        (
            COMMITS,
            "            await self._note_durable(changes, final=final)\n",
            "            await self._store.committed()\n"
            "            await self._note_durable(changes, final=final)\n",
        ),
    ),
    Mend(
        "a cancellation tells that the last commit failed",
        (ENGINE, "                    _tell_outcome(cancelled, host)\n", "                    pass\n"),
    ),
    # What a sync replaces.
    Mend(
        "pages before a walk that began again do not count",
        (
            ACCOUNT,
            "is_first, is_partial = not state.progress.pages,",
            "is_first, is_partial = False,",
        ),
        of_syncs=True,
    ),
    Mend(
        "rows are replaced once their window was read to its end",
        (SYNCING, "            if each.is_over and key in self._asked", "            if key in self._asked"),
        of_syncs=True,
    ),
    Mend(
        "a window is complete once that is durable",
        (
            SYNCING,
            "        if is_durable:\n            self._note(changes)\n        return is_durable\n\n    def",
            "        self._note(changes)\n        return is_durable\n\n    def",
        ),
        of_syncs=True,
    ),
    Mend(
        "the windows of the look-back are read again",
        (
            "pull/sync/windows.py",
            "look_from = complete[-1].end - lookback if complete",
            "look_from = complete[-1].end if complete",
        ),
        of_syncs=True,
    ),
    # What a loss of power takes.
    Mend(
        "rows are on the disk before their progress",
        (
            "sinks/lines.py",
            '        self._disk.fsync(cast("int", self._file))\n        return replace(',
            "        return replace(",
        ),
    ),
    Mend(
        "the names of new files are on the disk",
        (
            "sinks/lines.py",
            "        self._disk.fsync(self._file)\n        self._disk.fsync_dir(self.directory)\n",
            "",
        ),
    ),
    Mend(
        "a manifest is on the disk before it gets its name",
        (
            "sinks/manifest.py",
            "            disk.write(file, piece)\n        disk.fsync(file)\n",
            "            disk.write(file, piece)\n",
        ),
    ),
)


class Found(NamedTuple):
    is_found: bool
    told: str


def search(mend: Mend, seeds: int = SEEDS) -> Found:
    """Simulate a copy of the package without a mend, until a seed goes wrong."""
    with tempfile.TemporaryDirectory(prefix="mends-") as name:
        root = Path(name)
        for folder in (PACKAGE, TESTS):
            shutil.copytree(folder, root / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
        for file, text in mend.without().items():
            (root / PACKAGE.name / file).write_text(text)
        command = [sys.executable, "-m", "tests.simulation", "0", str(seeds), "--first"]
        command += ["--sync"] if mend.of_syncs else []
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

"""Reports how many of mutmut's mutants the tests caught: `make mutants`.

It fails if the tests caught less than 90 % of a file's mutants, or if a mutant that survived has no reason on its line.
As `# mutant: reason` it counts as survived and is not printed; as `# pragma: no mutate - reason` it is not made at all.

mutmut makes the mutants and notes which tests reach them. This script runs those tests. mutmut would start pytest for
each mutant, which takes longer than the tests, and limit the time on the clock: on a busy machine it counts mutants as
caught that are not. Here a mutant is caught when a test fails twice in a row or needs far more CPU time than without
it, and only one that waits for ever is stopped by the clock.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import setup_source_paths, walk_mutatable_files
from mutmut.utils.format_utils import mangled_name_from_mutant_name

LEAST_CAUGHT = 0.9
CAUGHT = {"killed", "timeout", "segfault"}
NO_TESTS, TIMEOUT = 33, 36  # mutmut's own codes
# A test may take this much longer than without a mutant, in CPU time; three times that on the clock.
SPARE_SECONDS, SLOWER = 10, 10

Files = dict[str, SourceFileMutationData]


def main() -> int:
    workers, *patterns = sys.argv[1:]
    # mutmut itself runs at least one mutant: this one needs a few quick tests.
    mutmut = Path(sys.executable).with_name("mutmut")
    subprocess.run([mutmut, "run", "truto_ci_async._http.policy.headers.x_level_named__mutmut_1"], check=True)
    files: Files = {}
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        data.meta_path = data.meta_path.absolute()
        files |= dict.fromkeys(data.exit_code_by_key, data)
    names = [
        name
        for name, data in files.items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        or not (
            patterns or status_by_exit_code[data.exit_code_by_key[name]] in CAUGHT or _has_reason(name, data)
        )
    ]
    if names and (failed := _run(names, files, int(workers))):
        return failed
    return _report(files)


def _run(names: list[str], files: Files, workers: int) -> int:
    tests = json.loads(Path("mutants/mutmut-stats.json").read_text())["tests_by_mangled_function_name"]
    setup_source_paths()
    sys.path.remove(str(Path(__file__).parent))
    options = [*config().pytest_add_cli_args, *config().pytest_add_cli_args_test_selection]
    root = Path.cwd()
    os.chdir("mutants")
    try:
        return pytest.main(["--rootdir=.", "-qs", *options], plugins=[_Loop(names, files, tests, workers)])
    finally:
        os.chdir(root)


class _Loop:
    """A pytest plugin: collects the tests once, then runs them for one mutant after the other, each in a fork."""

    def __init__(self, names: list[str], files: Files, tests: dict[str, list[str]], workers: int) -> None:
        self._names = names
        self._files = files
        self._tests = tests
        self._workers = workers
        self._running: dict[int, str] = {}
        self._done = 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None
        items = {item.nodeid: item for item in session.items}
        seconds = _time_without_mutants(items)
        for name in self._names:
            found = self._tests.get(mangled_name_from_mutant_name(name), [])
            reaching = sorted(items.keys() & set(found), key=seconds.__getitem__)
            while len(self._running) == self._workers:
                self._wait()
            pid = os.fork()
            if not pid:
                _run_mutant(name, {items[test]: seconds[test] for test in reaching})
            self._running[pid] = name
        while self._running:
            self._wait()
        return True

    def _wait(self) -> None:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        name = self._running.pop(pid)
        data = self._files[name]
        data.exit_code_by_key[name] = TIMEOUT if code == -signal.SIGALRM else code
        data.save()
        self._done += 1
        if self._done % 100 == 0 or self._done == len(self._names):
            print(f"{time.strftime('%X')} {self._done} of {len(self._names)} mutants", flush=True)


def _time_without_mutants(items: dict[str, pytest.Item]) -> dict[str, float]:
    """Run every test once in a fork, and return how long each took."""
    results = Path("seconds.json").absolute()
    results.unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        set_mutant_under_test("")
        _discard_output()
        seconds: dict[str, float] = {}
        failed: list[str] = []
        for test, item in items.items():
            start = time.perf_counter()
            if _fails(item) and _fails(item):
                failed.append(test)
            seconds[test] = time.perf_counter() - start
        results.write_text(json.dumps([seconds, failed]))
        os._exit(0)
    os.waitpid(pid, 0)
    took: dict[str, float]
    took, failures = json.loads(results.read_text())
    if failures:
        pytest.exit("These fail without a mutant too: " + ", ".join(failures), returncode=1)
    print(f"The tests take {sum(took.values()):.0f} s without a mutant", flush=True)
    return took


def _run_mutant(name: str, tests: dict[pytest.Item, float]) -> None:
    code = 1
    try:
        set_mutant_under_test(name)
        _discard_output()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for item, seconds in tests.items():
            most = math.ceil(SPARE_SECONDS + SLOWER * seconds)
            resource.setrlimit(
                resource.RLIMIT_CPU, (math.ceil(time.process_time()) + most, resource.RLIM_INFINITY)
            )
            signal.alarm(3 * most)
            if _fails(item) and _fails(item):  # a deadline may be missed once, when the machine is busy
                return
        code = 0 if tests else NO_TESTS
    finally:
        os._exit(code)


def _fails(item: pytest.Item) -> bool:
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def _discard_output() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for file in range(3):
        os.dup2(null, file)


def _report(files: Files) -> int:
    table = [f"{'':52} mutants  caught         survived  with a reason"]
    is_enough = True
    for data in dict.fromkeys(files.values()):
        results = data.exit_code_by_key.items()
        statuses = {name: status_by_exit_code[code] for name, code in results if code is not None}
        if not statuses:
            continue
        survived = [name for name, status in statuses.items() if status not in CAUGHT]
        unexplained = [name for name in survived if not _has_reason(name, data)]
        caught, explained = len(statuses) - len(survived), len(survived) - len(unexplained)
        share = caught / len(statuses)
        is_enough &= share >= LEAST_CAUGHT and not unexplained
        table.append(
            f"{data.path!s:52} {len(statuses):7} {caught:7} {share:6.1%} {len(survived):9} {explained:14}"
        )
        for name in unexplained:
            print(f"{name}: {statuses[name]}\n{_changed_lines(name, data)}\n")
    print("\n".join(table))
    return 0 if len(table) > 1 and is_enough else 1


def _has_reason(name: str, data: SourceFileMutationData) -> bool:
    is_survivor = status_by_exit_code[data.exit_code_by_key[name]] == "survived"
    return is_survivor and "# mutant: " in _changed_lines(name, data)


def _changed_lines(name: str, data: SourceFileMutationData) -> str:
    return "\n".join(
        line
        for line in get_diff_for_mutant(name, path=data.path).splitlines()
        if line.startswith(("-", "+")) and line[:3] not in ("---", "+++")
    )


if __name__ == "__main__":
    sys.exit(main())

"""What benchmarks share: a server beside them, a process for each contender, and figures of a process."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).parent.parent


@contextmanager
def server(
    *, latency: float = 0.0, certificate: str | None = None, round_trip: float = 0.0, pinned: bool = False
) -> Generator[str]:
    """Run ``benchmarks.server`` in a process of its own, ``pinned`` to a core of its own too; gives its URL."""
    command = [sys.executable, "-m", "benchmarks.server", "--latency", str(latency)]
    command += ["--round-trip", str(round_trip)]
    command += ["--certificate", certificate] if certificate else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if pinned:
            keep_to(1, process.pid)
        port = process.stdout.readline().decode().strip()
        try:
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            process.wait(10)


def keep_to(core: int, pid: int = 0) -> None:
    """Keep a process to one core, so that client and server do not share one by chance. Linux only."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(pid, {cores[core % len(cores)]})


def warm(url: str, account: str) -> None:
    """Let the server make a body before it is measured."""
    with urlopen(f"{url}/?integrated_account_id={account}") as answer:
        while answer.read(2**20):
            pass


class Worker:
    """A contender in a process of its own, which prints a JSON object for each line it is sent.

    So that all contenders can take turns, round by round: what else the machine does then touches them alike.
    """

    def __init__(self, module: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    def ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=10)


NAMED = (
    "aiohttp",
    "msgspec",
    "ijson",
    "uvloop",
    "httpx",
    "pydantic",
    "requests",
    "truto-python-sdk",
    "dlt",
    "pyarrow",
)


def about() -> dict[str, Any]:
    """The machine, its load now, and what is installed, for the record."""
    found: dict[str, Any] = {"python": platform.python_version(), "cpu": _model(), "cpus": os.cpu_count()}
    with suppress(ValueError, OSError, AttributeError):
        found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 1)
    found["day"] = datetime.now(UTC).date().isoformat()
    for name in NAMED:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _model() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return platform.machine()


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def resident() -> int:
    """Bytes of memory this process has now. Linux only; 0 elsewhere."""
    with suppress(OSError):
        return _status("VmRSS")
    return 0


def peak_resident() -> int:
    """The most memory this process has had, in bytes. ``getrusage`` counts what its parent had too."""
    with suppress(OSError):
        return _status("VmHWM")
    return 0


class Memory:
    """How far this process grows above what it has now, in bytes at the peak. Linux only; 0 elsewhere."""

    def __init__(self) -> None:
        self._idle = 0
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self._idle = _status("VmRSS")

    def growth(self) -> int:
        return _status("VmHWM") - self._idle if self._idle else 0


def cpu_seconds(who: int = resource.RUSAGE_SELF) -> float:
    """Of this process, its threads and the system on its behalf, or of the children that have ended."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


class Stalls:
    """How long the loop was held: a task that asks for its turn each millisecond, and notes how late it came.

        async with Stalls() as stalls: ...
        quantile(stalls.late, 0.99)

    ``late`` is by the clock, ``held`` by the work the loop's thread did meanwhile, which other processes of a busy
    machine do not add to.
    """

    def __init__(self) -> None:
        self.late: list[float] = []
        self.held: list[float] = []

    async def _watch(self) -> None:
        while True:
            start, worked = perf_counter(), thread_time()
            await asyncio.sleep(0.001)
            self.held.append(thread_time() - worked)
            self.late.append(max(perf_counter() - start - 0.001, 0.0))

    async def __aenter__(self) -> Stalls:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0.005)  # what came last is noted too
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

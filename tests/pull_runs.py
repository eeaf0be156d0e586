"""Pulls in processes of their own, to be killed: ``Runs`` starts a helper that forks one process for each run.

The helper has everything imported, so a run costs milliseconds and not the second that Python and pyarrow take.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[1]
DEADLINE = 60.0  # seconds for one run, unless told


class Ran(NamedTuple):
    status: int  # the exit code, or minus the signal that ended it
    result: dict[str, Any]  # what the run said in its last moment, if it came that far

    @property
    def is_killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Runs:
    """One run at a time.

    with Runs() as runs:
        ran = runs.run(url=..., accounts=[...], folder=..., format="ndjson", kill=("rename", 2))

    ``module`` is that of the helper: it calls ``serve``.
    """

    def __init__(self, module: str = "tests.pull_runs") -> None:
        self._module = module

    def __enter__(self) -> Self:
        self._helper = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.close()
        self._helper.wait(DEADLINE)
        self._helper.stdout.close()

    def run(self, *, deadline: float = DEADLINE, **job: Any) -> Ran:
        """Run a pull to its end, or to its kill.

        ``kill`` is a named step and which time it comes; ``kill_after`` are seconds.
        """
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        watchdog = threading.Timer(deadline + 5.0, self._helper.kill)
        watchdog.start()
        try:
            self._helper.stdin.write(json.dumps({**job, "deadline": deadline}).encode() + b"\n")
            self._helper.stdin.flush()
            status, result = json.loads(self._helper.stdout.readline())
        finally:
            watchdog.cancel()
        return Ran(status, result)


# --- in the helper ---------------------------------------------------------------------------------------------


def import_all() -> None:
    import arro3.core  # noqa: F401 - imported once, here, for all runs
    import duckdb  # noqa: F401
    import obstore.exceptions
    import obstore.store  # noqa: F401
    import pandas  # noqa: F401 - pyarrow does so with its first array
    import psycopg  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import truto_ci_async.cli.run
    import truto_ci_async.pull
    import truto_ci_async.pull.stores.cloud
    import truto_ci_async.sandbox  # noqa: F401


def serve(run: Callable[[dict[str, Any]], Any]) -> None:
    """Run jobs, one a line, each in a process of its own."""
    for line in sys.stdin:
        job = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            code = 1
            try:
                os.write(writer, json.dumps(run(job)).encode())
                code = 0
            except BaseException:  # noqa: BLE001 - a child must never come back out of here
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        kill_at = time.monotonic() + (job.get("kill_after") or job["deadline"])
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() >= kill_at:
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
            time.sleep(0.001)
        with os.fdopen(reader, "rb") as pipe:
            text = pipe.read()
        ran = [os.waitstatus_to_exitcode(ended[1]), json.loads(text) if text else {}]
        sys.stdout.write(json.dumps(ran) + "\n")
        sys.stdout.flush()


async def pull(job: dict[str, Any]) -> dict[str, Any]:
    from truto_ci_async import Pacing, TrutoClient
    from truto_ci_async.pull.engine import Pull
    from truto_ci_async.pull.report import Budget
    from truto_ci_async.pull.shard import run_shard

    left = job.get("kill") or ["", 0]

    def step(name: str) -> None:
        if name == left[0]:
            left[1] -= 1
            if not left[1]:
                os.kill(os.getpid(), signal.SIGKILL)

    store, sink = _store_of(job, step)
    resource = job.get("resource", "interactions")
    watch = Watch(job)
    async with TrutoClient(job["token"], base_url=job["url"], pacing=Pacing.off()) as client:
        if (sync := job.get("sync")) is not None:
            options = {**sync, "now": datetime.fromisoformat(sync["now"])}
            return (await getattr(client, resource).pull_to(store, job["accounts"], **options)).to_dict()
        window = {name: job.get(name) for name in ("start_time", "end_time", "window")}
        plan = await getattr(client, resource).plan(
            job["accounts"], **(window if resource != "users" else {})
        )

        def started(running: Pull[Any]) -> None:
            watch.task = asyncio.create_task(watch.look(running))

        report = await run_shard(
            client,
            plan,
            store,
            sink,
            Budget(max_accounts=job["max_accounts"]),
            on_start=started if job.get("watch") else None,
        )
    return report.to_dict() | watch.found()


def _store_of(job: dict[str, Any], step: Callable[[str], None]) -> tuple[Any, Any]:
    """Return where a run keeps its progress, and its sink if that is not the same."""
    from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
    from truto_ci_async.sinks.files import Disk, FileSink
    from truto_ci_async.sinks.layout import state_file
    from truto_ci_async.sinks.lines import CsvSink, NdjsonSink
    from truto_ci_async.sinks.parquet import ParquetSink

    if (url := job.get("to")) is not None:
        resource = job.get("resource", "interactions")
        return landing_store(url, mode=job["mode"], resource=resource, step=step), None
    folder = Path(job["folder"])
    sinks: dict[str, type[FileSink]] = {"ndjson": NdjsonSink, "csv": CsvSink, "parquet": ParquetSink}
    options: dict[str, Any] = {"part_rows": job["part_rows"]} if job["format"] == "parquet" else {}
    resource = job.get("resource", "interactions")
    sink = sinks[job["format"]](folder, resource=resource, disk=Disk(step), **options)
    return SQLiteCheckpoint(folder / state_file(resource), step=step), sink


def landing_store(url: str, **options: Any) -> Any:
    """Return the store for a URL, with options that ``pull_to`` does not have."""
    from truto_ci_async.pull.stores.duckdb import DuckDBStore
    from truto_ci_async.pull.stores.postgres import PostgresStore

    scheme, _, rest = url.partition("://")
    if scheme == "s3":
        from truto_ci_async.pull.stores import cloud_log, cloud_state
        from truto_ci_async.pull.stores.cloud import CloudStore

        # Small parts, and a manifest that is shortened all the time.
        cloud_log.TAIL_BYTES, cloud_log.LISTED_PARTS = 300, 3  # type: ignore[misc]
        cloud_state.LOG_BYTES = 1_000  # type: ignore[misc]
        options.pop("mode", None)
        return CloudStore(url, part_rows=20, part_seconds=0.0, **options)
    return DuckDBStore(rest[1:], **options) if scheme == "duckdb" else PostgresStore(url, **options)


class Watch:
    """How much a pull takes while it runs: memory, tasks and open files, at marks of accounts done."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._marks: list[int] = list(job.get("watch") or ())
        self.task: asyncio.Task[None] | None = None
        self._at: list[dict[str, int]] = []
        self._tasks = 0

    async def look(self, running: Any) -> None:
        while self._marks:
            await asyncio.sleep(0.01)
            self._tasks = max(self._tasks, len(asyncio.all_tasks()) - 1)  # but for this one
            if running.report.done >= self._marks[0]:
                self._note()

    def _note(self) -> None:
        self._at.append(
            {
                "accounts": self._marks.pop(0),
                "bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
                "files": len(os.listdir("/proc/self/fd")),
            }
        )

    def found(self) -> dict[str, Any]:
        import resource

        if self.task is None:
            return {}
        self.task.cancel()
        while self._marks:
            self._note()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"at": self._at, "tasks": self._tasks, "peak": peak}


if __name__ == "__main__":
    import_all()
    serve(lambda job: asyncio.run(pull(job)))

"""Pulls one shard of a plan into the output that all shards share."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from truto_ci_async._checks import brief, check_number, is_whole_number
from truto_ci_async._http.base_client import BaseClient
from truto_ci_async._wire.item_reader import OnInvalid
from truto_ci_async.errors import (
    DamagedStateError,
    StateConflictError,
    StorageError,
    TrutoError,
    UsageError,
)
from truto_ci_async.pull.checkpoint.base import Checkpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.stores.base import TransactionalStore
from truto_ci_async.pull.stores.landing import LandingMode, OnRejected
from truto_ci_async.pull.stores.targets import is_url, store_for
from truto_ci_async.sinks.factory import OutputFormat, make_sink
from truto_ci_async.sinks.layout import state_file
from truto_ci_async.sinks.rows import CsvFormulas

from .engine import Pull
from .report import Budget, PullReport
from .shard import run_shard
from .shard_folder import ShardCheckpoint, open_shard

if TYPE_CHECKING:
    from truto_ci_async.sinks.base import Sink

logger = logging.getLogger("truto_ci_async")

# What the stores and sinks advise whose callers mostly have ``fresh``.
_START_OVER = r"([Ss])tart over with fresh=True(?:, which removes .*)?"
# Seconds until a shard that another process holds is tried again.
ASK_AGAIN_SECONDS = 1.0
TELL_SECONDS = 1.0


async def pull_plan(
    client: BaseClient,
    plan: Plan,
    out: str | os.PathLike[str] | TransactionalStore,
    *,
    shard: tuple[int, int] | None = None,
    format: OutputFormat = "ndjson",
    csv_formulas: CsvFormulas = "keep",
    part_seconds: float | None = None,
    table: str | None = None,
    mode: LandingMode | None = None,
    add_columns: bool = False,
    on_rejected: OnRejected = "stop",
    budget: Budget = Budget(),
    on_invalid: OnInvalid = "repair",
    grow: bool = False,
    lookback: timedelta | str | None = None,
    max_wait: float = 0.0,
    on_start: Callable[[Pull[Any]], None] | None = None,
    on_progress: Callable[[PullReport], object] | None = None,
) -> PullReport:
    """Pull one shard of a plan: the unit of work of an engine. Run it again, anywhere, to go on.

        report = await pull_plan(client, plan, "data/", shard=(2, 8))

    ``plan``   the whole plan, or the shard itself (``plan.shards(8)[2]``), which is all that a worker needs.
    ``out``    a folder that all workers see, where each shard has a folder of its own (``merge_manifests`` makes one of
               them); the URL of a PostgreSQL database, whose table takes the rows of all; or a store for this shard.
    ``shard``  (index, count), the index counted from 0, as array jobs do: (2, 8) is ``plan.shards(8)[2]``.

    The first shard to come stores the windows and filters of the plan, and the number of shards, in ``out``; all others
    use what is stored. So a relative time means the same for all of them, whenever they begin. A shard that is complete
    sends no request when it is run again. A run that was believed dead, and is not, can write no more once another one
    has begun its shard. There is no ``fresh``: to start over, use another folder or table.

    ``part_seconds``  of Parquet: a part is closed, and so committed, after this time, in a folder 10 seconds unless
        given. A killed run repeats as much.
    ``max_wait``  seconds to wait while another process holds the shard: an attempt that is ending, for example.
    ``on_progress``  is given the report about once a second, for an engine to pass on. If it raises, the pull goes on,
                     and the first failure is logged.

    The other arguments are those of ``pull_to``.

    :raises UsageError: there is no such shard, or an option is not for ``out``.
    :raises StateConflictError: ``out`` has another plan or number of shards, or another process holds the shard.
    :raises StorageError: the disk or the database failed; run it again to go on.
    :raises AuthenticationError: the token was rejected.
    """
    part = _shard_of(plan, shard)
    landing: Any = {"table": table, "mode": mode, "add_columns": add_columns, "on_rejected": on_rejected}
    if not is_url(out) and tuple(landing.values()) != (None, None, False, "stop"):
        raise UsageError(
            f"{', '.join(landing)}: for the URL of a database; a folder or a store has no such option"
        )
    check_number("max_wait", max_wait, least=0)
    given: object = client
    if not isinstance(given, BaseClient):
        raise UsageError(f"client takes a TrutoClient, not {brief(given)}")
    for name, call in (("on_start", on_start), ("on_progress", on_progress)):
        if call is not None and not callable(call):
            raise UsageError(f"{name} takes a function, not {brief(call)}")
    give_up = monotonic() + max_wait
    while True:
        try:
            part, store, sink = await _open(part, out, format, csv_formulas, part_seconds, landing)
            async with _Teller(on_start, on_progress) as teller:
                return await run_shard(
                    client,
                    part,
                    store,
                    sink,
                    budget,
                    on_invalid=on_invalid,
                    grow=grow,
                    lookback=lookback,
                    on_start=teller.start,
                )
        except (StateConflictError, StorageError, DamagedStateError) as error:
            is_held = isinstance(error, StateConflictError) and error.pid is not None
            if not is_held or monotonic() >= give_up:
                advise_another_place(error)
                raise
            await asyncio.sleep(ASK_AGAIN_SECONDS)


def advise_another_place(error: TrutoError) -> None:
    """Say how to start over where there is no ``fresh``."""
    error.message = re.sub(_START_OVER, r"\1tart over in another folder or table", error.message)
    error.args = (error.message,)


class _Teller:
    """Tells how a pull goes, again and again."""

    def __init__(
        self,
        on_start: Callable[[Pull[Any]], None] | None,
        on_progress: Callable[[PullReport], object] | None,
    ) -> None:
        self._on_start, self._on_progress = on_start, on_progress
        self._task: asyncio.Task[None] | None = None

    def start(self, pull: Pull[Any]) -> None:
        if self._on_progress is not None:
            self._task = asyncio.create_task(self._tell(self._on_progress, pull.report))
        if self._on_start is not None:
            self._on_start(pull)

    async def _tell(self, on_progress: Callable[[PullReport], object], report: PullReport) -> None:
        has_failed = False
        while True:
            try:
                on_progress(report)
            except Exception:
                if not has_failed:
                    has_failed = True
                    logger.warning("on_progress failed; further failures are not logged", exc_info=True)
            await asyncio.sleep(TELL_SECONDS)

    async def __aenter__(self) -> _Teller:
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


async def _open(
    part: Plan,
    out: str | os.PathLike[str] | TransactionalStore,
    format: OutputFormat,
    csv_formulas: CsvFormulas,
    part_seconds: float | None,
    landing: dict[str, Any],
) -> tuple[Plan, Checkpoint | TransactionalStore, Sink | None]:
    """Return the shard, what keeps its progress, and its sink if that is not the same."""
    if isinstance(out, str | os.PathLike) and not is_url(out):
        if not os.fspath(out):
            raise UsageError("the name of the folder is empty")
        part, folder, epoch = await asyncio.to_thread(open_shard, Path(out), part)
        sink = make_sink(
            format,
            folder,
            resource=part.resource,
            csv_formulas=csv_formulas,
            part_seconds=part_seconds,
            step=epoch.step,
        )
        return part, ShardCheckpoint(folder / state_file(part.resource), epoch), sink
    if format != "ndjson" or csv_formulas != "keep":
        raise UsageError("format and csv_formulas are for a folder")
    if is_url(out):
        store = store_for(out, resource=part.resource, shard=part.shard, part_seconds=part_seconds, **landing)
        return part, store, None
    if part_seconds is not None:
        raise UsageError("part_seconds: for a folder or a URL; a store is made with it")
    if isinstance(out, TransactionalStore):
        return part, out, None
    raise UsageError(f"{brief(out)} is neither a folder, a URL nor a TransactionalStore")


def _shard_of(plan: Plan, shard: tuple[int, int] | None) -> Plan:
    given: object = plan
    if not isinstance(given, Plan):
        raise UsageError(f"plan takes a Plan, such as truto.interactions.plan(...) makes, not {brief(given)}")
    if plan.shard is not None:
        number, count = plan.shard
        if shard is not None and shard != (number - 1, count):
            raise UsageError(
                f"this plan is shard {(number - 1, count)} already, and shard= says {brief(shard)}"
            )
        return plan
    match shard:
        case None:
            return plan.shards(1)[0]
        case (index, count) if is_whole_number(index, least=0) and is_whole_number(count, least=index + 1):
            return plan.shards(count)[index]
        case _:
            raise UsageError(f"shard is (index, count), counted from 0, not {brief(shard)}")

"""Pulls a plan, or one shard of it, into a sink."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from truto_ci_async._wire.item_reader import OnInvalid
from truto_ci_async.errors import UsageError
from truto_ci_async.pull.checkpoint.base import Checkpoint
from truto_ci_async.pull.stores.base import TransactionalStore
from truto_ci_async.pull.sync.options import SyncOptions
from truto_ci_async.sinks.base import Sink

from .engine import MadePlan, Pull
from .report import Budget, PullReport

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient


async def run_shard(
    client: BaseClient,
    shard: MadePlan,
    store: Checkpoint | TransactionalStore,
    sink: Sink | None = None,
    budget: Budget = Budget(),
    *,
    on_invalid: OnInvalid = "repair",
    grow: bool = False,
    fresh: bool = False,
    lookback: timedelta | str | None = None,
    on_start: Callable[[Pull[Any]], None] | None = None,
    sync: SyncOptions | None = None,
) -> PullReport:
    """Pull a plan, or a shard of one. Run it again to resume; once complete, it sends no requests.

    ``store`` is a ``TransactionalStore``, which takes the rows as well, or a checkpoint for the progress of a ``sink``.
    ``lookback`` is for transcripts: see ``truto.transcripts``. ``on_start`` is given the running pull: watch its
    ``report``, or end it in order with ``stop()``. ``sync`` makes it a sync: see ``sync_options``.

    :raises UsageError: a checkpoint without a sink, or a store with one.
    :raises AuthenticationError: the token is refused; what was written is committed.
    :raises StateConflictError: another run, or another plan, holds the state.
    :raises StorageError: the disk fails; what was committed is intact, and a later run resumes.
    """
    if sink is None and not isinstance(store, TransactionalStore):
        raise UsageError("a checkpoint keeps no rows: give it a sink as well, or use a TransactionalStore")
    pull: Pull[Any] = Pull(
        client,
        shard,
        checkpoint=store,
        budget=budget,
        commit="manual",
        item_type=getattr(store if sink is None else sink, "item_type", None),
        on_invalid=on_invalid,
        grow=grow,
        fresh=fresh,
        lookback=lookback,
        sink=sink,
        sync=sync,
        writes=True,
    )
    async with pull:
        if on_start is not None:
            on_start(pull)
        await pull.next_page()
    return pull.report

"""What the runs that pull the shards of a plan into one table have in common: their plan, and how many they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from truto_ci_async.errors import StateConflictError, UsageError
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.pull.plan.shards import shards_differ, shards_refused

from .postgres_sql import Names


def shard_name(names: Names, number: int, count: int) -> str:
    """Return the name of the pull of a shard in the tables of the state."""
    return f"{names.schema}.{names.table} shard {number} of {count}"


async def plan_of_shards(
    plan: Plan | None,
    shard: tuple[int, int],
    names: Names,
    execute: Callable[[str, Sequence[Any]], Awaitable[Any]],
) -> Plan:
    """Return a shard's plan with the windows and filters of all shards, which the first of them to come has stored.

    Another plan may follow once all shards have pulled the one before. Call it in a transaction that no other has.

    :raises StateConflictError: another plan, or another number of shards, is under way.
    """
    number, count = shard
    if plan is None or plan.shard != shard:
        raise UsageError(f"this store is for shard {number} of {count}: give it that shard of a plan")
    name = f"{names.schema}.{names.table} shards"
    found = await (await execute(names.read_plan, (name,))).fetchone()
    stored = None if found is None else Plan.from_json(found[0])
    wanted = replace(plan, accounts=(), shard=(0, count))
    if stored is not None and (difference := shards_differ(wanted, stored)):
        of_stored = stored.shard[1] if stored.shard else 0
        shards = [shard_name(names, each, of_stored) for each in range(1, of_stored + 1)]
        (over,) = await (await execute(names.count_shards_over, (stored.to_json(), shards))).fetchone()
        if over < of_stored:
            raise StateConflictError(
                f"the table {names.table} {shards_refused(stored, difference)}", path=names.table
            )
        stored = None
    if stored is None:
        stored = wanted
        await execute(names.put_head, (name, wanted.to_json(), ""))
    return replace(stored, accounts=plan.accounts, shard=shard)

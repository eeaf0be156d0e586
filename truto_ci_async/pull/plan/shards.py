"""What the shards of a plan have in common, as it is stored beside their output."""

from __future__ import annotations

from .plan import Plan


def shards_differ(wanted: Plan, stored: Plan) -> str | None:
    """Describe how a plan of shards differs from the one that other shards have begun; None if it does not.

    Both are without accounts, and their ``shard`` is (0, count).
    """
    counts = [0 if plan.shard is None else plan.shard[1] for plan in (wanted, stored)]
    if counts[0] != counts[1]:
        return (
            f"{counts[1]} shards are stored, and this is one of {counts[0]}. Go on with shard=(index, {counts[1]}): "
            "any number of workers can share them"
        )
    return wanted.difference(stored)


def shards_refused(stored: Plan, difference: str) -> str:
    """Say, after the name of the output, why a shard may not be pulled into it."""
    return (
        f"has another plan in {stored.shard and stored.shard[1]} shards: {difference}. Repeat the original "
        "request, or pull into another folder or table"
    )

"""What a sync into PostgreSQL does in the transaction of a commit, besides what every pull does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from truto_ci_async._files import Step

from .postgres_sql import Names
from .staging import SyncStep

Execute: TypeAlias = Callable[[str, Sequence[Any]], Awaitable[Any]]


async def read_marks(accounts: Sequence[str], names: Names, pull: str, execute: Execute) -> dict[str, str]:
    """Return the marks of those accounts that have one. ``pull`` is its name in the tables of the state."""
    cursor = await execute(names.read_marks, (pull, list(accounts)))
    return dict(await cursor.fetchall())


async def read_staged(sync: SyncStep, names: Names, pull: str, execute: Execute) -> list[bytes]:
    """Return the pages that were kept of windows that are over now."""
    cursor = await execute(names.read_staged, (pull, list(sync.fetched)))
    return [row[0] for row in await cursor.fetchall()]


async def empty_windows(sync: SyncStep, statement: str, execute: Execute) -> None:
    """Delete the rows of the windows that are replaced."""
    rows = [[each.account, each.start, each.end, each.keeps_missing] for each in sync.windows]
    await execute(statement, list(map(list, zip(*rows, strict=True))))


async def put_marks(sync: SyncStep, names: Names, pull: str, execute: Execute, step: Step) -> None:
    """Store the marks, and the pages of windows that are still open."""
    if sync.forgotten:
        await execute(names.delete_staged, (pull, list(sync.forgotten)))
    if sync.kept:
        step("staged")
        await execute(names.put_staged, (pull, *map(list, zip(*sync.kept, strict=True))))
    if sync.marks:
        step("marks")
        await execute(names.put_marks, (pull, *map(list, zip(*sync.marks, strict=True))))

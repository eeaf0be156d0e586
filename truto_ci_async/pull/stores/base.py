"""The protocol of a store that keeps rows and progress together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.pull.checkpoint.base import Key, Progress
from truto_ci_async.pull.plan.plan import Plan


@runtime_checkable
class TransactionalStore(Protocol):
    """Keeps the rows of a pull and its progress. Both become visible in one transaction, or not at all.

        report = await run_shard(client, plan, store)
        report = await truto.interactions.pull_to(store, account_ids, start_time="-7d")

    A pull calls ``open``, ``load``, then ``write`` and ``commit``, and ``aclose`` at the end. It calls one method at a
    time. An exception ends the pull; the next run goes on from the last commit.

    **Fencing.** Each run has an epoch: ``open`` stores the last one plus 1, and a ``commit`` that finds a later one
    raises StateConflictError and changes nothing. A run that lost its connection, its host or its lock can then
    never write over what a later run has done.

    A store may have more, which a pull uses where it is there:

    ``item_type``                the type of the items it takes; Interaction if it does not say
    ``hold(*, fresh)``           lock out other runs before accounts are looked up, and return the stored plan, or None
    ``row_fingerprints(key)``    the bytes stored for a window, in the order of their commits. Without it, a window
                                 that has to be asked again in a later run comes again from its start
    ``load_accounts()``          iterate over (account, AccountProgress) instead of ``load``, for very many walks
    ``begin_commit(...)``        takes what ``commit`` takes, and returns an awaitable of its result. What was written
                                 before is in that commit, and pages are written while it is awaited
    ``hurry()``                  the pull was cancelled or failed: end without waiting for a server that is down
    ``is_full``                  true while no page should be written before the next commit
    ``issues_count``             how many values or rows it had to change or leave out, counted in the report
    """

    async def open(self, plan: Plan) -> Plan:
        """Lock the store, begin an epoch, and return the plan in force: the stored one if there is one.

        ``plan_in_force`` finds it, and raises where they differ. ``grow=True`` and ``fresh=True`` are passed only if
        the caller gave them: add accounts that are new in ``plan``, or delete what is stored.

        :raises StateConflictError: another run holds the store, or it belongs to another plan.
        :raises StorageError: it cannot be read.
        """
        ...

    async def load(self) -> Mapping[Key, Progress]:
        """Return all progress, by account and index of the window. A walk without an entry has not started."""
        ...

    async def write(self, page: AccountPage[Any]) -> None:
        """Take a page, which is not visible before ``commit``. Raise only if none of it was taken."""
        ...

    async def commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> bool:
        """Make all pages that were written, and their progress, visible and durable in one transaction.

        ``row_fingerprints`` are appended to those stored for a walk, and deleted once it is over. Return False to
        postpone: nothing is stored, and more pages follow. A ``final`` commit must return True.

        :raises StateConflictError: a later run has begun; nothing was changed.
        :raises StorageError: it failed; nothing was changed.
        """
        ...

    async def aclose(self) -> None:
        """Let other runs in. May be called twice."""
        ...

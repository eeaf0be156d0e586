"""The protocol of a store that keeps rows and progress together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

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
    ``open_sync(...)``           what a sync needs: see ``SyncStore``
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


class ReadWindow(Struct, frozen=True):
    """A window of one account that was read to its end. The bounds are in UTC; None for a resource without windows.

    ``keeps_missing``: rows that did not come again stay.
    """

    account: str
    window: int
    start: datetime | None = None
    end: datetime | None = None
    keeps_missing: bool = False

    @property
    def key(self) -> Key:
        return self.account, self.window


class SyncChanges(Struct, frozen=True):
    """What a commit of a sync does besides keeping pages.

    ``windows``  were read to their end: their pages take the place of the rows that are there.
    ``marks``    by account, the text to keep in place of the one before.
    """

    windows: tuple[ReadWindow, ...] = ()
    marks: Mapping[str, str] = {}


@runtime_checkable
class SyncStore(TransactionalStore, Protocol):
    """A store that can be synced (``pull_to(store, since="last")``). It keeps one text for each account, its mark.

    In a sync, no window is resumed in the middle: each is read from its start to its end by one run. A page that is
    written has a ``key`` (account, and index of the window) and ``is_first``: earlier pages of that window, which its
    walk had handed over before it had to begin again, do not count any more.

    ``open_sync`` is called in place of ``open`` and ``load``. ``commit``, and ``begin_commit`` where there is one, get
    ``sync=SyncChanges(...)`` as well. In one transaction, such a commit

    1. raises StateConflictError if a later run has begun, as always;
    2. takes away, for each of ``sync.windows``, the rows of that account which belong to it: for interactions and
       activity those whose window has some time in common with it, for meetings those that start in it, for
       transcripts those whose window lies in it, for users all. Where it ``keeps_missing``, only those without a key,
       and those with the key of a new row;
    3. adds the pages of those windows, of this and earlier commits. Of rows with the same key, the last one counts,
       and it takes the place of one that another window has left;
    4. keeps the pages of windows that are still open, out of sight of whoever reads the table;
    5. stores ``sync.marks``.

    ``changes`` and ``row_fingerprints`` need not be stored. Rows are never taken away at any other time.
    """

    async def open_sync(self, plan: Plan, accounts: Sequence[str], *, fresh: bool) -> Mapping[str, str]:
        """Lock the store, begin an epoch, drop pages that earlier runs left, and return the marks of some accounts.

        ``plan`` has neither accounts nor times. It is stored, and compared with the one that is there. ``fresh``
        deletes that and all marks, but no rows.

        :raises StateConflictError: another run holds the store, or it belongs to another plan.
        :raises UsageError: the store adds rows only (``mode="append"``).
        """
        ...

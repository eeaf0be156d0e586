"""What a checkpoint stores, and the protocol of its stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Literal, Self, TypeAlias

import anyio.lowlevel
from msgspec import Meta, Struct

from truto_ci_async.errors import StateConflictError, UsageError
from truto_ci_async.pull.plan.plan import Plan

#: An account's id and the index of a window in the plan.
Key: TypeAlias = tuple[str, int]
Outcome: TypeAlias = Literal["open", "done", "empty", "failed", "parked"]
Count: TypeAlias = Annotated[int, Meta(ge=0)]

#: What a position begins with that is no place in a walk, but what counts towards the day's quota of the account. It
#: belongs to a window after the last one of the plan.
DAILY_MARK = "daily "

# The loop gets a turn after this many walks or accounts, which take a few milliseconds.
YIELD_EVERY = 2_000


class Progress(Struct, frozen=True, kw_only=True, gc=False):
    """How far the walk of one account over one window has come.

    ``position`` is the text of the Position to continue from, None for the start. ``outcome`` is ``open`` while there
    is more to request, ``done`` or ``empty`` at the end, ``failed`` with the reason in ``error``, or ``parked`` until
    the time ``until`` (seconds since 1970). At the end, a position is what a later run may need to know of the window.
    ``is_restarted``: the position belongs to a walk that began anew after others had handed out rows, so it leaves
    those out.
    """

    position: str | None = None
    rows: int = 0
    pages: int = 0
    outcome: Outcome = "open"
    error: str | None = None
    until: float | None = None
    is_restarted: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to request."""
        return self.outcome in ("done", "empty")

    @property
    def is_count(self) -> bool:
        """Whether it is what counts towards a day's quota, and no place in a walk."""
        return self.position is not None and self.position.startswith(DAILY_MARK)

    @property
    def is_closed(self) -> bool:
        """Whether it is over, and no later run needs to know more than that."""
        return self.is_over and self.position is None


class AccountProgress(Struct, kw_only=True, gc=False):
    """How far one account has come: all that is needed to resume it.

    Its first ``finished`` windows are closed. ``later`` has the progress of windows after those, by their index in the
    plan. ``has_rows`` tells whether any window had a row.
    """

    finished: int = 0
    has_rows: bool = False
    later: dict[int, Progress] = {}

    def windows_over(self) -> int:
        """Return how many windows are over."""
        return self.finished + sum(progress.is_over for progress in self.later.values())

    def close_up(self) -> None:
        """Count windows of ``later`` as ``finished`` that follow on those."""
        while (following := self.later.get(self.finished)) is not None and following.is_closed:
            del self.later[self.finished]
            self.finished += 1


class Checkpoint(ABC):
    """Stores progress. ``open`` it, ``load`` once, ``commit`` changes, and ``aclose`` it at the end.

    async with SQLiteCheckpoint("data/state.sqlite3") as checkpoint:
        plan = await checkpoint.open(plan)
        progress = await checkpoint.load()
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._sink_state: bytes | None = None
        self._use: Literal["none", "held", "open"] = "none"

    @property
    def stored_plan(self) -> Plan | None:
        """The plan in force; None before ``open``."""
        return self._plan

    @property
    def sink_state(self) -> bytes | None:
        """The state of the output as of the last commit; None if nothing was committed."""
        return self._sink_state

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        """Lock out other runs, and return the stored plan; ``open`` comes next.

        This refuses a second run at once, rather than after it has looked up thousands of accounts. A store without
        it is locked by ``open``. ``fresh`` ignores what is stored.

        :raises StateConflictError: another run holds the state.
        """
        del fresh
        return None

    @abstractmethod
    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        """Lock the state, and return the plan in force: the stored one if there is one.

        ``plan=None`` continues with what is stored. ``grow`` adds accounts that are new in ``plan``. ``fresh`` deletes
        what is stored.

        :raises StateConflictError: another run holds the state, or it belongs to another plan.
        :raises DamagedStateError: the state cannot be read.
        :raises StorageError: the disk fails.
        """

    @abstractmethod
    async def load(self) -> dict[Key, Progress]:
        """Return all progress. A walk without an entry has not started."""

    async def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]:
        """Iterate over the accounts that have progress, each once, in any order.

        A pull asks for this. It takes what ``load`` returns; a store of many walks does better to return what it has
        without making an object for each of them.
        """
        async for account in by_account(await self.load()):
            yield account

    @abstractmethod
    async def commit(
        self,
        changes: Mapping[Key, Progress],
        sink_state: bytes | None = None,
        *,
        row_keys: Mapping[Key, bytes] | None = None,
    ) -> None:
        """Make changes and the sink's state durable, all of them or none. ``sink_state=None`` keeps the stored one.

        ``row_keys`` say what happened to the rows of a walk. They are appended to those stored for it in case its
        window is restarted, and deleted once the walk is over.

        :raises StorageError: the disk fails; earlier commits are unaffected.
        """

    @abstractmethod
    async def row_keys(self, key: Key) -> bytes:
        """Return the ``row_keys`` stored for a walk, in the order of their commits."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release the state. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


async def by_account(progress: Mapping[Key, Progress]) -> AsyncIterator[tuple[str, AccountProgress]]:
    """Go through the accounts of what ``load`` returned, with the progress of each."""
    found: dict[str, AccountProgress] = {}
    for number, ((account, window), walk) in enumerate(progress.items(), 1):
        entry = found.get(account)
        if entry is None:
            entry = found[account] = AccountProgress()
        entry.later[window] = walk
        entry.has_rows |= walk.rows > 0
        if number % YIELD_EVERY == 0:
            await anyio.lowlevel.checkpoint()
    for number, (account, entry) in enumerate(found.items(), 1):
        entry.close_up()
        yield account, entry
        if number % YIELD_EVERY == 0:
            await anyio.lowlevel.checkpoint()


def plan_in_force(stored: Plan | None, plan: Plan | None, *, grow: bool, path: str) -> Plan:
    """Return the plan to run, given the stored one and the requested one.

    :raises StateConflictError: they differ; the message lists how.
    :raises UsageError: there is neither.
    """
    if plan is None:
        if stored is None:
            raise UsageError(f"{path} has no stored plan to continue: pass a plan")
        return stored
    if stored is None:
        return plan
    if difference := plan.difference(stored, grow=grow):
        raise StateConflictError(
            f"{path} belongs to another plan: {difference}. Repeat the original request, use another folder, "
            "or start over with fresh=True",
            path=path,
        )
    return plan.onto(stored, grow=grow)

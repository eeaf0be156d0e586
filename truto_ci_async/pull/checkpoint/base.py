"""The protocol of a checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, Self, TypeAlias

from msgspec import Struct

from truto_ci_async.errors import StateConflictError, UsageError
from truto_ci_async.pull.plan.plan import Plan

#: An account's id and the number of a window in the plan.
Key: TypeAlias = tuple[str, int]
Outcome: TypeAlias = Literal["open", "done", "empty", "failed", "parked"]


class Progress(Struct, frozen=True, kw_only=True, gc=False):
    """Where the walk of one account over one window stands.

    ``position`` is the text of the Position to go on from, None for the start. ``open`` walks go on, ``done`` and
    ``empty`` ones are over, ``failed`` ones say why in ``error``, ``parked`` ones wait until ``until`` (seconds
    since 1970).
    """

    position: str | None = None
    rows: int = 0
    pages: int = 0
    outcome: Outcome = "open"
    error: str | None = None
    until: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to ask."""
        return self.outcome in ("done", "empty")


class Checkpoint(ABC):
    """Where progress is kept. ``open`` it, ``load`` once, then ``commit`` changes; ``aclose`` in the end.

    async with SQLiteCheckpoint("data/state.sqlite3") as checkpoint:
        plan = await checkpoint.open(plan)
        progress = await checkpoint.load()
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._sink_state: bytes | None = None

    @property
    def stored_plan(self) -> Plan | None:
        """The plan in force; None before ``open``."""
        return self._plan

    @property
    def sink_state(self) -> bytes | None:
        """What the sink said of its output at the last commit; None when nothing was committed."""
        return self._sink_state

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        """Keep other runs away from now on, and return the plan that is stored; ``open`` follows.

        So that a second run is refused at once, and not after it has looked up thousands of accounts. A store that
        does not have this is held by ``open``. ``fresh``: as if nothing was stored.

        :raises StateConflictError: another run holds it.
        """
        del fresh
        return None

    @abstractmethod
    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        """Take hold of the state, and return the plan in force: the stored one where there is one.

        ``plan=None`` goes on with what is stored. ``grow`` adds accounts that are new in ``plan``. ``fresh`` forgets
        what is stored.

        :raises StateConflictError: another run holds it, or it belongs to another plan.
        :raises DamagedStateError: it cannot be read.
        :raises StorageError: the disk fails.
        """

    @abstractmethod
    async def load(self) -> dict[Key, Progress]:
        """Return all progress; what is not in there has not begun."""

    @abstractmethod
    async def commit(
        self,
        changes: Mapping[Key, Progress],
        sink_state: bytes | None = None,
        *,
        row_keys: Mapping[Key, bytes] | None = None,
    ) -> None:
        """Make changes durable together with the sink's state (None: as it was), or none of it.

        ``row_keys`` are bytes to remember of a walk beside those it has, in case its window has to be begun again;
        they are forgotten when the walk is over.

        :raises StorageError: the disk fails; what was committed before is untouched.
        """

    @abstractmethod
    async def row_keys(self, key: Key) -> bytes:
        """Return what is remembered of a walk, in the order it was committed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the state. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


def agree(stored: Plan | None, plan: Plan | None, *, grow: bool, path: str) -> Plan:
    """Return the plan in force, given what is stored and what is asked for.

    :raises StateConflictError: they differ; the message says in what.
    """
    if plan is None:
        if stored is None:
            raise UsageError(f"nothing is stored in {path} to go on with: pass a plan")
        return stored
    if stored is None:
        return plan
    if difference := plan.difference(stored, grow=grow):
        raise StateConflictError(
            f"{path} belongs to another plan: {difference}. Repeat what was asked then, use another folder, "
            "or start over with fresh=True",
            path=path,
        )
    return plan.onto(stored, grow=grow)

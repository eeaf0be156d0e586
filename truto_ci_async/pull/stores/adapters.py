"""What a pull keeps its rows and progress in, as one interface: a store, or a checkpoint and a sink."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from msgspec import Raw

from truto_ci_async.errors import UsageError
from truto_ci_async.models.pulls import AccountPage, Place
from truto_ci_async.pull.checkpoint.base import AccountProgress, Checkpoint, Key, Progress, by_account
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.sinks.base import Sink

from .base import TransactionalStore


class PullStore(ABC):
    """What ``commits`` and ``engine`` know of a store."""

    #: Whether it takes rows. Otherwise consumers mark pages as done themselves.
    takes_rows: bool = True
    #: Whether nothing outlives the process, so that bodies may stand for row fingerprints.
    keeps_bodies: bool = False
    #: Whether ``write`` says where the rows are, and ``read_again`` reads them.
    reads_again: bool = False
    #: Whether items may outlive their page, and must not keep all of it in memory.
    detaches: bool = True
    #: Begins a commit and returns an awaitable of its result. None: a commit and a write never overlap.
    begin_commit: Callable[..., Awaitable[bool]] | None = None

    @property
    def is_full(self) -> bool:
        return False

    @property
    def issues_count(self) -> int:
        return 0

    @abstractmethod
    async def hold(self, *, fresh: bool) -> Plan | None: ...

    @abstractmethod
    async def open(self, plan: Plan, *, grow: bool, fresh: bool) -> Plan: ...

    @abstractmethod
    def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]: ...

    @abstractmethod
    async def write(self, page: AccountPage[Any]) -> Place | None: ...

    @abstractmethod
    async def commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> bool: ...

    @abstractmethod
    async def row_fingerprints(self, key: Key) -> bytes: ...

    async def read_again(self, place: Place) -> list[Raw]:
        """Return the rows of a page that was written in this run or an earlier one."""
        raise AssertionError("no place of this store was given")

    @abstractmethod
    async def aclose(self) -> None: ...

    @abstractmethod
    async def committed(self) -> None:
        """Do what may follow a commit that is durable."""

    @abstractmethod
    def hurry(self) -> None:
        """Wait for nothing that may take long any more: somebody waits for the pull to end."""

    @abstractmethod
    def note_complete(self) -> None:
        """Note that every account was pulled to the end; ``aclose`` comes next."""

    @abstractmethod
    async def add_row_fingerprints(self, added: Mapping[Key, bytes]) -> None:
        """Append to the fingerprints of some walks, which their bodies stood for."""


class CheckpointStore(PullStore):
    """A checkpoint, and a sink if there is one, whose output is durable before a checkpoint names it."""

    def __init__(self, checkpoint: Checkpoint, sink: Sink | None = None) -> None:
        self._checkpoint = checkpoint
        self._sink = sink
        self.takes_rows = sink is not None
        self.keeps_bodies = isinstance(checkpoint, MemoryCheckpoint)
        self.reads_again = hasattr(sink, "read_again")
        self.detaches = not getattr(sink, "keeps_no_items", False)
        if hasattr(sink, "begin_commit"):
            self.begin_commit = self._begin_commit
        self._is_new = False  # nothing is stored, or nothing of it is to count
        self._to_close: list[Callable[[], Awaitable[None]]] = []

    async def hold(self, *, fresh: bool) -> Plan | None:
        stored = await self._checkpoint.hold(fresh=fresh)
        self._to_close.append(self._checkpoint.aclose)
        # A store that holds nothing yet says None, and so does one of somebody else's that is only locked by ``open``.
        is_known = fresh or type(self._checkpoint).hold is not Checkpoint.hold
        self._is_new = is_known and stored is None
        if (hold := getattr(self._sink, "hold", None)) is not None:
            await hold(anew=self._is_new)
        if (close := getattr(self._sink, "aclose", None)) is not None:
            self._to_close.append(close)
        return stored

    async def open(self, plan: Plan, *, grow: bool, fresh: bool) -> Plan:
        # The sink is asked before anything is stored or deleted: it may refuse. One with ``hold`` was asked there.
        is_asked = self._is_new and self._sink is not None and not hasattr(self._sink, "hold")
        if is_asked and self._sink is not None:
            await self._sink.open(None)
        in_force = await self._checkpoint.open(plan, grow=grow, fresh=fresh)
        if self._sink is not None and not is_asked:
            await self._sink.open(self._checkpoint.sink_state)
        if self._sink is not None and not getattr(self._sink, "is_claimed", True):
            await commit_together(self._sink, self._checkpoint, {})
            await self.committed()
        return in_force

    def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]:
        return self._checkpoint.load_accounts()

    async def write(self, page: AccountPage[Any]) -> Place | None:
        sink: Any = self._sink
        place = await sink.write(page)
        return place if self.reads_again else None

    async def read_again(self, place: Place) -> list[Raw]:
        sink: Any = self._sink
        rows: list[Raw] = await sink.read_again(place)
        return rows

    async def commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> bool:
        if self._sink is not None:
            return await commit_together(
                self._sink, self._checkpoint, changes, row_keys=row_fingerprints, final=final
            )
        if changes or row_fingerprints:
            await self._checkpoint.commit(changes, row_keys=row_fingerprints)
        return True

    def _begin_commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> Awaitable[bool]:
        sink: Any = self._sink
        return commit_together(
            sink,
            self._checkpoint,
            changes,
            row_keys=row_fingerprints,
            final=final,
            begun=sink.begin_commit(final=final),
        )

    async def committed(self) -> None:
        if (committed := getattr(self._sink, "committed", None)) is not None:
            await committed()

    def hurry(self) -> None:
        pass

    def note_complete(self) -> None:
        if (note := getattr(self._sink, "note_complete", None)) is not None:
            note()

    async def row_fingerprints(self, key: Key) -> bytes:
        return await self._checkpoint.row_keys(key)

    async def add_row_fingerprints(self, added: Mapping[Key, bytes]) -> None:
        await self._checkpoint.commit({}, row_keys=added)

    async def aclose(self) -> None:
        """Close the sink, then the checkpoint, whose lock keeps other runs away from both."""
        failed: Exception | None = None
        while self._to_close:
            try:
                await self._to_close.pop()()
            except Exception as error:  # noqa: BLE001 - a sink may raise anything; raised below
                failed = failed or error
        if failed is not None:
            raise failed


class WholeStore(PullStore):
    """A ``TransactionalStore``, with what it may leave out."""

    def __init__(self, store: TransactionalStore) -> None:
        self._store = store
        self.detaches = not getattr(store, "keeps_no_items", False)
        self.begin_commit = getattr(store, "begin_commit", None)
        self._is_open = False

    @property
    def is_full(self) -> bool:
        return bool(getattr(self._store, "is_full", False))

    @property
    def issues_count(self) -> int:
        return int(getattr(self._store, "issues_count", 0))

    async def hold(self, *, fresh: bool) -> Plan | None:
        hold = getattr(self._store, "hold", None)
        stored: Plan | None = None if hold is None else await hold(fresh=fresh)
        self._is_open = hold is not None
        return stored

    async def open(self, plan: Plan, *, grow: bool, fresh: bool) -> Plan:
        self._is_open = True
        options = {name: True for name, is_given in (("grow", grow), ("fresh", fresh)) if is_given}
        opening: Any = self._store.open
        in_force: Plan | None = await opening(plan, **options)
        return plan if in_force is None else in_force

    async def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]:
        load = getattr(self._store, "load_accounts", None)
        async for account in by_account(await self._store.load()) if load is None else load():
            yield account

    async def write(self, page: AccountPage[Any]) -> None:
        await self._store.write(page)

    async def commit(
        self, changes: Mapping[Key, Progress], *, row_fingerprints: Mapping[Key, bytes], final: bool
    ) -> bool:
        return await self._store.commit(changes, row_fingerprints=row_fingerprints, final=final)

    async def row_fingerprints(self, key: Key) -> bytes:
        stored = getattr(self._store, "row_fingerprints", None)
        return b"" if stored is None else await stored(key)

    async def committed(self) -> None:
        pass

    def hurry(self) -> None:
        if (hurry := getattr(self._store, "hurry", None)) is not None:
            hurry()

    def note_complete(self) -> None:
        pass

    async def add_row_fingerprints(self, added: Mapping[Key, bytes]) -> None:
        raise AssertionError("no body stands for a fingerprint here")

    async def aclose(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._store.aclose()


def as_store(store: Checkpoint | TransactionalStore, sink: Sink | None = None) -> PullStore:
    """Return the one interface to a store, or to a checkpoint and the sink that belongs to it.

    :raises UsageError: a store of both together with a sink.
    """
    if isinstance(store, Checkpoint) or not isinstance(store, TransactionalStore):
        return CheckpointStore(store, sink)
    if sink is not None:
        raise UsageError(f"{type(store).__name__} keeps rows and progress, so there is no place for a sink")
    return WholeStore(store)


async def commit_together(
    sink: Sink,
    checkpoint: Checkpoint,
    changes: Mapping[Key, Progress],
    *,
    row_keys: Mapping[Key, bytes] | None = None,
    final: bool = False,
    begun: Awaitable[bytes | None] | None = None,
) -> bool:
    """Make durable the pages a sink has taken, together with their progress. False: the sink is not ready yet.

    ``changes`` must be the progress of exactly the pages whose ``write`` has returned. ``begun`` is what the sink's
    ``begin_commit`` gave, if it was called already. Call the sink's ``committed`` afterwards, if it has one.
    """
    state = await (sink.commit(final=final) if begun is None else begun)
    if state is None:
        if final:
            raise UsageError(
                f"{type(sink).__name__}.commit(final=True) gave None: return bytes (b'' will do), or nothing counts "
                "as done"
            )
        return False
    await checkpoint.commit(changes, state, row_keys=row_keys)
    return True

"""Progress in memory, for pulls that need not outlive the process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import chain
from typing import Any

import anyio.lowlevel
import msgspec
from msgspec import Struct

from truto_ci_async.errors import StateConflictError, UsageError
from truto_ci_async.pull.plan.plan import Plan

from .base import YIELD_EVERY, AccountProgress, Checkpoint, Key, Progress, plan_in_force
from .finished import FULL_BYTES, Run, add, decode, encode, expand, is_plain
from .stored import StoredRows

# More runs than this are encoded, which takes them to a tenth of their size.
_MANY_RUNS = FULL_BYTES // 5


class MemoryCheckpoint(Checkpoint):
    """Keeps progress as long as the object lives. If it is opened again, the pull continues where it stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._accounts: dict[str, _Account] = {}
        self._row_keys: dict[Key, list[bytes]] = {}

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        if self._use != "none":
            raise StateConflictError("another pull of this process uses this checkpoint", pid=os.getpid())
        self._use = "held"
        return None if fresh else self._plan

    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        if self._use != "held":
            await self.hold()
        try:
            stored = None if fresh else self._plan
            self._plan = plan_in_force(stored, plan, grow=grow, path="this checkpoint")
        except BaseException:
            self._use = "none"
            raise
        if fresh:
            self._accounts, self._row_keys, self._sink_state = {}, {}, None
        self._use = "open"
        return self._plan

    async def load(self) -> dict[Key, Progress]:
        self._require_open()
        return self._progress

    async def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]:
        self._require_open()
        for number, (name, account) in enumerate(self._accounts.items(), 1):
            yield name, account.progress()
            if number % YIELD_EVERY == 0:
                await anyio.lowlevel.checkpoint()

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        sink_state: bytes | None = None,
        *,
        row_keys: Mapping[Key, bytes] | None = None,
    ) -> None:
        self._require_open()
        self.apply(changes, row_keys or {})
        if sink_state is not None:
            self._sink_state = sink_state

    def apply(self, changes: Mapping[Key, Progress], row_keys: Mapping[Key, bytes]) -> None:
        """Do what ``commit`` does, also before ``open``."""
        for (name, window), progress in changes.items():
            account = self._accounts.get(name)
            if account is None:
                account = self._accounts[name] = _Account()
            account.put(window, progress)
        for key, added in row_keys.items():
            self._row_keys.setdefault(key, []).append(added)
        for key, progress in changes.items():
            if progress.is_over:
                self._row_keys.pop(key, None)

    def dump(self) -> tuple[Any, ...]:
        """Return all progress as values to encode, for ``restore``."""
        return self._accounts, [(*key, b"".join(added)) for key, added in self._row_keys.items()]

    def restore(self, data: bytes, stored: StoredRows) -> None:
        """Read what ``dump`` returned, as MessagePack.

        :raises ValueError: it is not of the plan of ``stored``.
        """
        accounts, row_keys = _decode_dump(data)
        for name, account in accounts.items():
            last = max(account.finished - 1, 0)
            for window, progress in account.later.items():
                if progress.is_count:  # of a day's quota, after the last window
                    stored.account(name, window, "open", more=1)
                else:
                    last = max(last, window)
            self._accounts[stored.account(name, last, "done")] = account
        self._row_keys = {(name, window): [added] for name, window, added in row_keys}

    def windows_over(self) -> int:
        """Return how many windows are over, of all accounts."""
        return sum(account.progress().windows_over() for account in self._accounts.values())

    async def row_keys(self, key: Key) -> bytes:
        self._require_open()
        return b"".join(self._row_keys.get(key, ()))

    async def aclose(self) -> None:
        self._use = "none"

    def _require_open(self) -> None:
        if self._use != "open":
            raise UsageError("open the checkpoint first")

    @property
    def _progress(self) -> dict[Key, Progress]:
        return {
            (name, window): progress
            for name, account in self._accounts.items()
            for window, progress in account.windows()
        }

    def __repr__(self) -> str:
        walks = sum(account.finished + len(account.later) for account in self._accounts.values())
        return f"MemoryCheckpoint({walks:,} walks)"


class _Account(Struct, eq=False, gc=False):
    """The progress of one account: its first windows as runs, and the others one by one."""

    finished: int = 0
    has_rows: bool = False  # in the finished ones
    encoded: list[bytes] | None = None  # earlier runs
    runs: list[Run] = []
    later: dict[int, Progress] = {}

    def put(self, window: int, progress: Progress) -> None:
        # No pull replaces a finished window.
        if window < self.finished:  # mutant: <= takes longer
            self.later.update(self.windows())
            self.finished, self.has_rows, self.encoded, self.runs = 0, False, None, []
        self.later[window] = progress
        while (following := self.later.get(self.finished)) is not None and is_plain(following):
            del self.later[self.finished]
            self._finish(following)

    def _finish(self, progress: Progress) -> None:
        self.finished += 1
        self.has_rows |= progress.rows > 0
        add(self.runs, Run(1, progress.rows, progress.pages, progress.outcome == "empty"))
        if len(self.runs) >= _MANY_RUNS:  # mutant: one run more
            self.encoded = self.encoded or []
            self.encoded.append(encode(self.runs))
            self.runs = []

    def windows(self) -> Iterator[tuple[int, Progress]]:
        """Iterate over the progress of all windows."""
        runs = chain(*map(decode, self.encoded or ()), self.runs)
        yield from enumerate(expand(runs))
        yield from self.later.items()

    def progress(self) -> AccountProgress:
        has_rows = self.has_rows or any(progress.rows for progress in self.later.values())
        found = AccountProgress(finished=self.finished, has_rows=has_rows, later=dict(self.later))
        found.close_up()
        return found


_decode_dump = msgspec.msgpack.Decoder(tuple[dict[str, _Account], list[tuple[str, int, bytes]]]).decode

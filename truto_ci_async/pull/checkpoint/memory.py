"""Progress in memory, for pulls that need not outlive the process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from truto_ci_async.errors import StateConflictError, UsageError
from truto_ci_async.pull.plan.plan import Plan

from .base import Checkpoint, Key, Progress, plan_in_force


class MemoryCheckpoint(Checkpoint):
    """Keeps progress as long as the object lives. Opened again, a pull continues where it stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: dict[Key, Progress] = {}
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
            self._progress, self._row_keys, self._sink_state = {}, {}, None
        self._use = "open"
        return self._plan

    async def load(self) -> dict[Key, Progress]:
        self._require_open()
        return dict(self._progress)

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        sink_state: bytes | None = None,
        *,
        row_keys: Mapping[Key, bytes] | None = None,
    ) -> None:
        self._require_open()
        self._progress.update(changes)
        for key, added in (row_keys or {}).items():
            self._row_keys.setdefault(key, []).append(added)
        for key, progress in changes.items():
            if progress.is_over:
                self._row_keys.pop(key, None)
        if sink_state is not None:
            self._sink_state = sink_state

    async def row_keys(self, key: Key) -> bytes:
        self._require_open()
        return b"".join(self._row_keys.get(key, ()))

    async def aclose(self) -> None:
        self._use = "none"

    def _require_open(self) -> None:
        if self._use != "open":
            raise UsageError("open the checkpoint first")

    def __repr__(self) -> str:
        return f"MemoryCheckpoint({len(self._progress):,} walks)"

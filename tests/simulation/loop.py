"""An event loop that a seed controls: its clock jumps, and which of the tasks that are ready goes first is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.virtual import EPOCH, VirtualLoop

# Seconds that a turn takes, so that what comes later is later.
TURN_SECONDS = 1e-6
# More turns than any run takes that gets somewhere.
MAX_TURNS = 200_000


class SimTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address: anyio goes through sets of tasks."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class SimLoop(VirtualLoop):
    """Counts its turns, and calls ``alarm`` at the turn ``alarm_at``."""

    def __init__(self, random: Random, *, is_fair: bool) -> None:
        super().__init__()
        self.set_debug(False)
        self.turns = 0
        self.alarm_at = -1
        self.alarm: Callable[[], object] = lambda: None
        self._random = random
        self._is_fair = is_fair  # first come, first served, as asyncio does it
        self._tasks = 0
        self.set_task_factory(self._make_task)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> SimTask:
        self._tasks += 1
        return SimTask(coro, number=self._tasks, loop=loop, **options)

    def _run_once(self) -> None:
        self.turns += 1
        self.jumping.now += TURN_SECONDS
        if self.turns == self.alarm_at:
            self.alarm()
        if self.turns > MAX_TURNS:
            raise AssertionError("no end in sight")
        if not self._is_fair:
            self._shuffle()
        super()._run_once()  # type: ignore[misc]

    def _shuffle(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        if len(ready) < 2:
            return
        steps: list[tuple[int, Any]] = []
        others: list[Any] = []
        for handle in ready:
            task = getattr(handle._callback, "__self__", None)
            if isinstance(task, SimTask):
                steps.append((task.number, handle))
            else:
                others.append(handle)
        steps.sort(key=lambda step: step[0])
        self._random.shuffle(steps)
        ready.clear()
        ready.extend([*others, *(handle for _, handle in steps)])


class SimTime:
    """Stands in for the module ``time``. The wall clock may be wrong by ``error`` seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self.error = 0.0

    def time(self) -> float:
        return EPOCH + self.monotonic() + self.error

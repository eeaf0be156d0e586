"""An event loop that a seed controls: its clock jumps, and which of the tasks that are ready goes first is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

from tests.virtual import EPOCH, VirtualLoop

# More turns than any run takes that gets somewhere.
MAX_TURNS = 200_000


class SimLoop(VirtualLoop):
    """Counts its turns, and calls ``alarm`` at the turn ``alarm_at``."""

    def __init__(self, random: Random, *, is_fair: bool) -> None:
        super().__init__()
        self.turns = 0
        self.alarm_at = -1
        self.alarm: Callable[[], object] = lambda: None
        self._random = random
        self._is_fair = is_fair  # first come, first served, as asyncio does it
        self._order = WeakKeyDictionary[asyncio.Task[Any], int]()
        self.set_task_factory(self._make_task)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        self._order[task] = len(self._order) + 1
        return task

    def _run_once(self) -> None:
        self.turns += 1
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
            order = self._order.get(task, 0) if isinstance(task, asyncio.Task) else 0
            if order:
                steps.append((order, handle))
            else:
                others.append(handle)
        # By the order in which the tasks were made: sets of tasks inside of anyio have none that repeats.
        steps.sort(key=lambda step: step[0])
        self._random.shuffle(steps)
        ready.clear()
        ready.extend([*others, *(handle for _, handle in steps)])


class SimTime:
    """Stands in for the module ``time``. The wall clock may be wrong by ``error`` seconds."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.error = 0.0

    def monotonic(self) -> float:
        return self._loop.time()

    def time(self) -> float:
        return EPOCH + self._loop.time() + self.error

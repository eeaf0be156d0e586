"""What the tasks of an engine share: the budgets of tokens, and how far each shard is."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from truto_ci_async._http.policy.memory_budget import MemoryBudget
from truto_ci_async._http.policy.rate_limiter import Pacing

# Runs whose reports are kept: those of a driver that was killed are not forgotten otherwise.
MOST_RUNS = 100
# A driver that asked nothing for so long was killed.
GONE_SECONDS = 30.0
# A budget that nobody asked for so long is as good as a new one. A task tells of itself each second.
IDLE_SECONDS = 60.0


class Coordinator:
    """Keeps budgets and reports in one process for all tasks of an engine, which serves it as an actor or the like.

    All arguments and results are plain data, or pickle. It may be killed and made anew at any time: budgets start
    without a burst, and tasks tell their progress again. Its methods are called one at a time.

    ``on_idle`` is called in a thread once nothing was asked for ``idle_seconds``, to end its process: a driver that was
    killed does not.
    """

    def __init__(
        self, on_idle: Callable[[], object] | None = None, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._asked_at = time.monotonic()
        if on_idle is not None:
            threading.Thread(target=self._watch, args=(on_idle, idle_seconds), daemon=True).start()
        self._budgets: dict[str, MemoryBudget] = {}
        self._told = defaultdict[str, dict[int, Any]](dict)
        self._asked: dict[str, float] = {}  # when the driver of a run last asked

    def take(self, budget: str, pacing: Pacing, n: int, account: str | None) -> tuple[int, float, str]:
        """Return the fields of a ``Grant`` of the budget of this name, which is made when it is first asked."""
        self._asked_at = time.monotonic()
        if budget not in self._budgets:
            self._budgets[budget] = MemoryBudget(pacing)
        grant = self._budgets[budget].take_now(n, account)
        return grant.count, grant.retry_after, grant.level

    def tell(self, run: str, number: int, report: dict[str, Any]) -> None:
        """Keep the report of a shard."""
        self._asked_at = time.monotonic()
        self._told[run][number] = report
        while len(self._told) > MOST_RUNS:
            del self._told[next(iter(self._told))]

    def told(self, run: str) -> dict[int, Any]:
        """Return the last report of each shard of a run."""
        self._asked[run] = self._asked_at = time.monotonic()
        return self._told[run]

    def forget(self, run: str) -> bool:
        """Drop the reports of a run that has ended. Return whether no driver of another one is there."""
        self._told.pop(run, None)
        self._asked.pop(run, None)
        return all(time.monotonic() - asked > GONE_SECONDS for asked in self._asked.values())

    def _watch(self, on_idle: Callable[[], object], idle_seconds: float) -> None:
        while (left := self._asked_at + idle_seconds - time.monotonic()) > 0:
            time.sleep(left)
        on_idle()

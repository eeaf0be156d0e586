"""Starts tasks, ends the ones a client owns, and reaches its event loop from any thread."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

R = TypeVar("R")


def start_task(work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
    """Start a task. On Python 3.12 and newer, asyncio's own tasks have run to their first wait when this returns."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)


def call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Run ``callback`` in ``loop``: now if that is the loop running here, soon if not, never if it is closed.

    For finalizers: garbage is collected in any thread, or between two runs of the loop, or after the last one.
    """
    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if is_here:
        callback()
        return
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(callback)


class OwnedTasks:
    """The tasks of one client, none of which outlives it. It does not refer to the client, nor do the tasks."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks = set[asyncio.Task[Any]]()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start a task; an exception in it is for whoever awaits it."""
        task = start_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def end(self, grace: float) -> None:
        """Wait ``grace`` seconds for the tasks, apart from the current one, and cancel those that are left."""
        tasks = self._tasks - {asyncio.current_task()}
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=grace)
        finally:
            for task in tasks:
                task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it

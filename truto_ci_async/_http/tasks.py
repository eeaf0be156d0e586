"""Starts tasks that a client owns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


def starts_at_once(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a task can do its first step, which sends the request, before the loop has a turn (Python 3.12).

    Not where somebody's factory makes the tasks.
    """
    return sys.version_info >= (3, 12) and loop.get_task_factory() is None


def started(work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
    """Start a task; where it ``starts_at_once``, it has done all up to its first wait when this returns."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12) and starts_at_once(loop):  # the version once more, for type checkers
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)

"""What the tests share: running a coroutine under a deadline, and seeing what it leaves behind."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

ZSTD_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"

# Seconds a timed-out test gets to unwind, and turns of the loop tasks get to finish once it returned.
UNWIND_SECONDS = 5.0
SETTLE_TURNS = 20


def examples(count: int) -> settings:
    """Run ``count`` Hypothesis examples instead of 100; the ``search`` profile multiplies both alike."""
    return settings(max_examples=count * settings.default.max_examples // 100)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes: the next write fails half-way, as on a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run(coro: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
    """Run ``coro`` in a new event loop in debug mode, and return what it returns.

    Fails when it takes longer than ``timeout`` seconds (and shows where each task stood), when it leaves a
    task running, or when an error ended in the loop's exception handler because nobody was there for it.
    An exception of ``coro`` itself arrives as it was raised; what else was found is added as a note.
    """
    with asyncio.Runner(debug=True) as runner:
        return runner.run(_supervise(coro, timeout))


async def _supervise(coro: Coroutine[Any, Any, T], seconds: float) -> T:
    loop = asyncio.get_running_loop()
    unhandled: list[str] = []
    loop.set_exception_handler(lambda _loop, context: unhandled.append(_describe_context(context)))
    try:
        test = asyncio.create_task(coro, name="test")
        await asyncio.wait({test}, timeout=seconds)
        if not test.done():
            standing = _describe_tasks(_other_tasks())
            test.cancel()
            await asyncio.wait({test}, timeout=UNWIND_SECONDS)
            pytest.fail(f"not done after {seconds:g} s; the tasks stood at:\n{standing}")

        for _ in range(SETTLE_TURNS):
            if not _other_tasks():
                break
            await asyncio.sleep(0)
        problems = [f"error nobody received: {text}" for text in unhandled]
        if left := _other_tasks():
            problems.append(f"tasks left running:\n{_describe_tasks(left)}")
        if not problems:
            return test.result()
        if not test.cancelled() and (error := test.exception()) is not None:
            error.add_note("\n".join(problems))
            raise error
        pytest.fail("\n".join(problems))
    finally:
        loop.set_exception_handler(None)  # what comes later goes to the log


def _other_tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def _describe_tasks(tasks: set[asyncio.Task[Any]]) -> str:
    lines: list[str] = []
    for task in sorted(tasks, key=lambda task: task.get_name()):
        lines.append(f"  {task.get_name()}: {getattr(task.get_coro(), '__qualname__', task.get_coro())}")
        lines += [f"    {frame.f_code.co_filename}:{frame.f_lineno}" for frame in task.get_stack()]
    return "\n".join(lines)


def _describe_context(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context['message']}: {error!r}" if error is not None else str(context["message"])


def messages(path: Path) -> Iterator[str]:
    """The texts in a file that are no docstrings, with ``{}`` for values."""
    tree = ast.parse(path.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            parts.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value

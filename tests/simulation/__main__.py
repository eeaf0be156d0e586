"""Run seeds: `python -m tests.simulation SEED`, or `python -m tests.simulation FROM TO [--first] [--sync]`."""

from __future__ import annotations

import sys
import time
import traceback

from . import sync_world
from .world import Options, World, fails, shrink

# Lines of a story that are printed: its end.
TOLD = 15


def main(first: int, end: int, *, is_first_enough: bool = False, is_sync: bool = False) -> int:
    """Run seeds, and return how many went wrong. A single one is told in full and shrunk."""
    draw, kind = (sync_world.draw, sync_world.SyncWorld) if is_sync else (Options.draw, World)
    wrong = done = 0
    started = time.perf_counter()
    for seed in range(first, end):
        options = draw(seed)
        error = fails(options, kind)
        done += 1
        if error is None:
            continue
        wrong += 1
        if end - first == 1:
            _tell_all(options, error, kind)
        else:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            flag = " --sync" if is_sync else ""
            print(f"    repeat and shrink it: python -m tests.simulation {seed}{flag}", flush=True)
        if is_first_enough:
            break
    print(f"{done} seeds in {time.perf_counter() - started:.1f} s, {wrong} of them wrong")
    return wrong


def _tell_all(options: Options, error: BaseException, kind: type[World]) -> None:
    traceback.print_exception(error)
    options = shrink(options, kind)
    error = fails(options, kind) or error
    print(f"\nthe simplest that fails: {type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        print(*note.splitlines()[-TOLD:], sep="\n")
    where = f"from {kind.__module__} import *; from tests.simulation.world import *"
    print(f"repeat it: python -c '{where}; simulate({options}, {kind.__name__})'")


if __name__ == "__main__":
    flags = {"--first", "--sync"} & {*sys.argv}
    numbers = [int(text) for text in sys.argv[1:] if text not in flags]
    end = numbers[1] if len(numbers) > 1 else numbers[0] + 1
    wrong = main(numbers[0], end, is_first_enough="--first" in flags, is_sync="--sync" in flags)
    sys.exit(min(wrong, 1))

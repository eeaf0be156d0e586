"""Run seeds: `python -m tests.simulation SEED`, or `python -m tests.simulation FROM TO [--first]`."""

from __future__ import annotations

import sys
import time
import traceback

from .world import Options, fails, shrink

# Lines of a story that are printed: its end.
TOLD = 15


def main(first: int, end: int, *, is_first_enough: bool = False) -> int:
    """Run seeds, and return how many went wrong. A single one is told in full and shrunk."""
    wrong = done = 0
    started = time.perf_counter()
    for seed in range(first, end):
        options = Options.draw(seed)
        error = fails(options)
        done += 1
        if error is None:
            continue
        wrong += 1
        if end - first == 1:
            _tell_all(options, error)
        else:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            print(f"    repeat and shrink it: python -m tests.simulation {seed}", flush=True)
        if is_first_enough:
            break
    print(f"{done} seeds in {time.perf_counter() - started:.1f} s, {wrong} of them wrong")
    return wrong


def _tell_all(options: Options, error: BaseException) -> None:
    traceback.print_exception(error)
    options = shrink(options)
    error = fails(options) or error
    print(f"\nthe simplest that fails: {type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        print(*note.splitlines()[-TOLD:], sep="\n")
    print(f"repeat it: python -c 'from tests.simulation.world import *; simulate({options})'")


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:] if text != "--first"]
    end = numbers[1] if len(numbers) > 1 else numbers[0] + 1
    sys.exit(min(main(numbers[0], end, is_first_enough="--first" in sys.argv), 1))

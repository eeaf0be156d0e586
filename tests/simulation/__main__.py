"""Run seeds: `python -m tests.simulation SEED` or `python -m tests.simulation FROM TO`."""

from __future__ import annotations

import sys
import time
import traceback

from .world import Options, fails, shrink


def main(first: int, end: int) -> int:
    wrong = 0
    started = time.perf_counter()
    for seed in range(first, end):
        options = Options.draw(seed)
        if (error := fails(options)) is None:
            continue
        wrong += 1
        print(f"seed {seed}: {type(error).__name__}: {error}")
        if end - first > 1:
            continue
        traceback.print_exception(error)
        options = shrink(options)
        print(f"the simplest that fails: simulate({options})")
        print(*getattr(fails(options), "__notes__", ()), sep="\n")
    print(f"{end - first} seeds in {time.perf_counter() - started:.1f} s, {wrong} of them wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    first = int(sys.argv[1])
    sys.exit(main(first, int(sys.argv[2]) if len(sys.argv) > 2 else first + 1))

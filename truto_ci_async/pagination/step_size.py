"""How many bytes to decode before other tasks get a turn."""

from __future__ import annotations

# The first step is small, so that the first item of a stream arrives soon. Later ones grow until they take
# STEP_SECONDS, which depends on the items, the engine and the machine: bad items take a hundred times as long as good
# ones.
FIRST_STEP = 16 * 1024
SMALLEST_STEP = 2 * 1024
LARGEST_STEP = 256 * 1024
STEP_SECONDS = 0.002


class StepSize:
    """The size of the next step, adapted to how long the last one took."""

    def __init__(self) -> None:
        self.bytes = FIRST_STEP

    def took(self, seconds: float) -> None:
        if seconds > STEP_SECONDS:
            self.bytes = max(self.bytes // 2, SMALLEST_STEP)
        elif seconds < STEP_SECONDS / 2:
            self.bytes = min(self.bytes * 2, LARGEST_STEP)

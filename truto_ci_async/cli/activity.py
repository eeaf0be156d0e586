"""What a command is doing while it runs: requests, waits and their causes, and the line on stderr that says so."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from truto_ci_async._text import duration
from truto_ci_async.cli.output import status_line
from truto_ci_async.events import Event, PacingWait, RequestSent, ResponseReceived, RetryScheduled

from .messages import is_quiet, say

if TYPE_CHECKING:
    from truto_ci_async import ClientStats, TrutoClient

# Seconds between two updates of a terminal, and between two lines in a log; a command that ends sooner shows none.
TERMINAL_SECONDS: Final = 0.2
LOG_SECONDS: Final = 5.0
FIRST_SECONDS: Final = 1.0
# After so many seconds without a request under way, the next one waits for a limit.
IDLE_SECONDS: Final = 0.5


class Activity:
    """Counts the events of a client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.requests = 0
        self.waits: defaultdict[str, float] = defaultdict(float)  # reason -> seconds, over all accounts
        self._under_way: set[int] = set()
        self._retry = 0.0, ""  # when it ends, and why it waits
        self._last: float | None = None
        self._stats: Callable[[], ClientStats] | None = None

    def watch(self, client: TrutoClient) -> None:
        """Ask a client which limit its calls wait for."""
        self._stats = client.stats

    def on_event(self, event: Event) -> None:
        self._last = self._clock()
        match event:
            case RequestSent():
                self.requests += 1
                self._under_way.add(event.call_id)
            case ResponseReceived():
                self._under_way.discard(event.call_id)
            case PacingWait():
                self.waits[f"{event.level} limit"] += event.wait
            case RetryScheduled():
                self._under_way.discard(event.call_id)
                self.waits[f"retry after {event.reason}"] += event.wait
                self._retry = self._last + event.wait, event.reason
            case _:
                pass

    def waiting(self) -> str:
        """Say what nothing goes on for at the moment; empty while a request is under way."""
        if self._under_way or self._last is None:
            return ""
        now = self._clock()
        until, reason = self._retry
        if until > now:
            return f"waiting {duration(until - now)}: {reason}"
        idle = now - self._last
        return f"waiting {duration(idle)}: {self._limit()} limit" if idle > IDLE_SECONDS else ""

    def _limit(self) -> str:
        waiting = {} if self._stats is None else self._stats().waiting
        level = max(("account", "token"), key=lambda each: waiting.get(each, 0))
        return level if waiting.get(level) else "rate"

    def waited(self) -> str:
        return f"waited {waits_text(self.waits)}" if self.waits else ""


def waits_text(waits: Mapping[str, float]) -> str:
    return ", ".join(f"{duration(seconds)} for {reason}" for reason, seconds in longest_first(waits))


def longest_first(waits: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(waits.items(), key=lambda item: -item[1])


@asynccontextmanager
async def shown(parts: Callable[[], list[str]]) -> AsyncGenerator[None]:
    """Say ``parts()`` on stderr while the block runs: in one line of a terminal, else in a log line now and then."""
    if is_quiet():
        yield
        return

    async def keep_updating() -> None:
        is_terminal = status_line.is_terminal(sys.stderr)
        await asyncio.sleep(FIRST_SECONDS if is_terminal else LOG_SECONDS)
        while True:
            said = [*filter(None, parts())]
            status_line.show(" · ".join(said)) if is_terminal else say(", ".join(said))
            await asyncio.sleep(TERMINAL_SECONDS if is_terminal else LOG_SECONDS)

    task = asyncio.create_task(keep_updating())
    try:
        yield
    finally:
        task.cancel()
        status_line.hide()

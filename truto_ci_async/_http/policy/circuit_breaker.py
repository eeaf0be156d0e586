"""Whether the service is there. While it is not, one request at a time probes and everyone else waits.

A call that failed after all its retries is either its account's trouble or everybody's. It is everybody's unless
another call got through since it was sent. Pure but for the waiting in ``turn``; who decides what follows from it is
``pull``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class CircuitBreaker:
    """Lets requests through, one by one while the service is down.

    After each ``turn`` that said yes, ``success`` or ``failure`` must follow; a probe (``is_on`` when its turn came)
    that will have neither is given back by ``undecided``.

    ``max_outage``  seconds after which ``is_over`` says that there is no use in waiting any longer.
    ``probe_wait``  seconds before the first probe, doubled for each further one, up to ``max_probe_wait``.
    """

    def __init__(
        self,
        *,
        max_outage: float,
        probe_wait: float,
        max_probe_wait: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_outage = max_outage
        self._first_wait = probe_wait
        self._max_wait = max_probe_wait
        self._clock = clock
        self._since: float | None = None
        self._last_success = -1.0
        self._wait = probe_wait
        self._probe_at = 0.0
        self._is_probing = False
        self._is_stopped = False
        self._changed = asyncio.Event()
        self.is_over = False

    @property
    def is_on(self) -> bool:
        """Whether the service is thought to be down."""
        return self._since is not None

    @property
    def seconds(self) -> float | None:
        """How long the service has been thought to be down; None: it is not."""
        return None if self._since is None else self._clock() - self._since

    def stop(self) -> None:
        """Let nobody through from now on."""
        self._is_stopped = True
        self._tell()

    async def turn(self) -> bool:
        """Wait until a request may be sent; False when that will not be in this run."""
        while not (self._is_stopped or self.is_over):
            if self._since is None:
                return True
            wait = None if self._is_probing else self._probe_at - self._clock()
            if wait is not None and wait <= 0:
                self._is_probing = True
                return True
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return False

    def success(self) -> None:
        """Note that the service answered, whatever it said."""
        self._last_success = self._clock()
        if self._since is not None:
            self._since = None
            self._wait = self._first_wait
            self._is_probing = self.is_over = False
            self._tell()

    def failure(self, asked_at: float, *, failing_since: float | None = None) -> bool:
        """Note a call, sent at ``asked_at``, that got no answer; True when the service is to blame for it.

        ``failing_since`` is when its account failed first, without a success since: it is to blame itself when
        others got through after that, also once it is the only one left.
        """
        now = self._clock()
        if self._since is None:
            if self._last_success > (asked_at if failing_since is None else failing_since):
                return False
            self._since = now
        elif asked_at <= self._since:
            return True  # it was under way when the service went down; only probes count
        else:
            self._wait = min(self._wait * 2.0, self._max_wait)
        self._probe_at = now + self._wait
        self._is_probing = False
        self.is_over = now - self._since >= self._max_outage
        self._tell()
        return True

    def undecided(self) -> None:
        """Note that a probe taught nothing, such as one that was never sent: the next one may try."""
        self._is_probing = False
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

"""Decides whether the service is down, and when a single trial request may find out that it is back.

A call that failed after all its retries is either the fault of its account or of the service. The service is to blame
unless another call got through since this one was sent; or, for an account that is the only one to fail, since its
first call that failed. Several bad accounts that are the last ones look like an outage. If it lasts too long, the
caller asks once more for what another account got before, and ``prove``s by an answer that the service is there.

Pure: a state machine whose caller says what time it is, waits, and sends one trial at a time.
"""

from __future__ import annotations

from collections.abc import Callable


class CircuitBreaker:
    """Open while the service is down. All times are seconds of one monotonic clock.

    ``max_outage``  seconds after which ``is_given_up`` is set: waiting longer is pointless.
    ``first_wait``  seconds before the first trial; doubled for each further one, up to ``max_wait``.
    """

    def __init__(self, max_outage: float, first_wait: float, max_wait: float) -> None:
        self._max_outage = max_outage
        self._first_wait = self._wait = first_wait
        self._max_wait = max_wait
        self._opened_at: float | None = None
        self._failing = set[str]()  # accounts whose calls failed since the last success
        self.last_success = self._proven_at = -1.0
        self.next_trial = 0.0
        self.is_given_up = False
        #: Called when the circuit closes.
        self.on_close: Callable[[], object] = lambda: None

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    def seconds_open(self, now: float) -> float | None:
        """Return how long the service has been down; None while it is up."""
        return None if self._opened_at is None else now - self._opened_at

    def success(self, arrived_at: float) -> None:
        """Note that a response arrived at ``arrived_at``, whatever its status. This may be called later than that."""
        if arrived_at > self.last_success:
            self.last_success = arrived_at
            self._failing.clear()
        if self._opened_at is not None and arrived_at >= self._opened_at:
            self._opened_at = None
            self._wait = self._first_wait
            self.is_given_up = False
            self.on_close()

    def prove(self, now: float) -> None:
        """Note that the service gave what it had given before: what failed until now, and fails again, is to blame."""
        self._proven_at = now
        self.success(now)

    def is_proven_bad(self, *, asked_at: float, failing_since: float) -> bool:
        """Tell whether an account failed before ``prove``, and again by a call sent since."""
        return failing_since < self._proven_at <= asked_at

    def failure(self, now: float, account: str, *, asked_at: float, failing_since: float) -> bool:
        """Note that a call sent at ``asked_at`` got no response. Return whether the service is to blame.

        ``failing_since`` is when the first of the account's calls since its last success was sent. If other accounts
        got through after that and none of them fails, the account is to blame, even once it is the only one left.
        """
        if self._opened_at is None:
            self._failing.add(account)
            is_alone = len(self._failing) == 1
            if self.last_success > (failing_since if is_alone else asked_at):
                return False
            self._opened_at = now
            self._failing.clear()
        elif asked_at <= self._opened_at:
            return True  # it was under way when the circuit opened; only trials count
        else:
            self._wait = min(self._wait * 2.0, self._max_wait)
        self.next_trial = now + self._wait
        self.is_given_up = now - self._opened_at >= self._max_outage
        return True

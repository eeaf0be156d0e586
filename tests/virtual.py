"""A simulation in virtual time: an event loop whose clock jumps, a service that counts requests, and a client.

The loop runs real asyncio code (the admission queue, tasks, timers). Instead of sleeping it moves its clock to the next
timer, so hours pass in seconds and every run is the same. The service counts for itself and shares no code with the
rate limiter under test. The client is the real attempt loop without the network: admission, request, retry rules.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from email.utils import formatdate
from typing import Any, NamedTuple, TypeVar

from truto_ci_async._http.policy.admission import AdmissionQueue
from truto_ci_async._http.policy.headers import parse_retry_after
from truto_ci_async._http.policy.rate_limiter import Pacing, RateLimiter
from truto_ci_async._http.policy.rate_windows import Rate
from truto_ci_async._http.policy.retry import Failure, GiveUp, RetryBudget, RetryPolicy, RetryState

T = TypeVar("T")

EPOCH = 1_700_000_000.0  # the wall clock when the virtual clock is at 0


def rate_limiter(
    token: Rate | None = None, account: Rate | None = None, max_wait: float = 60.0
) -> RateLimiter:
    return RateLimiter(Pacing(token=token, account=account), max_wait=max_wait, random=lambda: 0.0)


class _JumpingSelector(selectors.SelectSelector):
    """Moves the clock forward instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits, and no timer is set")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without a network whose ``time()`` jumps from timer to timer."""

    def __init__(self) -> None:
        self.jumping = _JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main()`` in virtual time, and fail if it leaves a task or a timer behind."""
    loop = VirtualLoop()
    loop.set_debug(False)  # it would double the time of runs with a million callbacks
    try:
        result = loop.run_until_complete(main())
        assert not asyncio.all_tasks(loop), "a task was left behind"
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert not timers, f"timers were left behind: {timers}"
        return result
    finally:
        loop.close()


def clock() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()


def hold(seconds: float) -> None:
    """Block the loop for ``seconds``."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jumping.now += seconds


def epoch() -> float:
    return EPOCH + clock()


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str] = {}
    is_remote: bool = False


OK = Response(200)


class Arrival(NamedTuple):
    time: float
    account: str
    status: int


class StrictService:
    """Counts requests in sliding windows (contract section 4), and responds 429 above the limits.

    ``latency(account)`` returns the seconds a request and its response take. ``other(account, now)`` may return a
    response in place of the 200; it is called once the limits are checked. ``arrivals`` records every request.
    """

    def __init__(
        self,
        *,
        token: tuple[int, float] | None = (500, 10.0),
        account: tuple[int, float] | None = (50, 10.0),
        retry_after: float = 10.0,
        latency: Callable[[str], tuple[float, float]] = lambda account: (0.05, 0.05),
        other: Callable[[str, float], Response | None] = lambda account, now: None,
    ) -> None:
        self._token = token
        self._account = account
        self._retry_after = retry_after
        self._latency = latency
        self._other = other
        self._token_log: deque[float] = deque()
        self._account_logs: defaultdict[str, deque[float]] = defaultdict(deque)
        self.arrivals: list[Arrival] = []

    def remember(self, count: int, time: float) -> None:
        """Pretend that ``count`` requests of other accounts arrived at ``time``."""
        self._token_log.extend([time] * count)

    async def ask(self, account: str) -> Response:
        there, back = self._latency(account)
        await asyncio.sleep(there)
        answer = self._arrive(account, clock())
        self.arrivals.append(Arrival(clock(), account, answer.status))
        await asyncio.sleep(back)
        return answer

    def _arrive(self, account: str, now: float) -> Response:
        limits = [
            (log, limit)
            for log, limit in ((self._token_log, self._token), (self._account_logs[account], self._account))
            if limit is not None
        ]
        for log, (count, window) in limits:
            while log and log[0] <= now - window:
                log.popleft()
            if len(log) >= count:
                return Response(
                    429,
                    {"retry-after": f"{self._retry_after:g}", "date": formatdate(EPOCH + now, usegmt=True)},
                )
        for log, _ in limits:
            log.append(now)
        return self._other(account, now) or OK

    def count(self, status: int | None = None, *, since: float = 0.0) -> int:
        """Count the requests from ``since`` on that got ``status`` (None: any)."""
        return sum(1 for a in self.arrivals if a.time >= since and status in (None, a.status))


def busiest_window(times: Iterable[float], window: float) -> int:
    """Return the most ``times`` (ascending) that fall into one half-open window."""
    recent: deque[float] = deque()
    most = 0
    for time in times:
        recent.append(time)
        while recent[0] <= time - window:
            recent.popleft()
        most = max(most, len(recent))
    return most


class SimClient:
    """Calls a ``StrictService`` by the rules of the package, and records what it did.

    ``finished`` has (account, start, end) of each call that succeeded, ``lost`` has (account, reason) of those that
    did not. ``early`` counts requests sent before a ``Retry-After`` received by then allowed it.
    """

    def __init__(
        self,
        service: StrictService,
        *,
        pacing: Pacing | None = None,
        policy: RetryPolicy | None = None,
        total: float | None = None,
        seed: int = 1,
    ) -> None:
        draw = random.Random(seed).random
        self.policy = policy or RetryPolicy()
        self.budget = RetryBudget(self.policy.budget_capacity, self.policy.budget_refill)
        self.limiter = RateLimiter(pacing, max_wait=self.policy.max_wait, random=draw)
        self.admission = AdmissionQueue(self.limiter, clock=clock, epoch=epoch)
        self.finished: list[tuple[str, float, float]] = []
        self.lost: list[tuple[str, str]] = []
        self.early = 0
        self.sent = 0
        self._service = service
        self._total = total
        self._draw = draw
        self._open_at: defaultdict[str, float] = defaultdict(float)

    async def call(self, account: str) -> bool:
        """Fetch one page; return False if the call gave up."""
        start = clock()
        state = RetryState(self.policy, self.budget, total=self._total, random=self._draw)
        while True:
            await self.admission.admit(account)
            state.sent()
            self.sent += 1
            self.early += clock() < self._open_at[account]
            answer = await self._service.ask(account)
            retry_after = parse_retry_after(answer.headers, epoch())
            self.admission.on_response(
                account, answer.status, answer.headers, retry_after=retry_after, is_remote=answer.is_remote
            )
            if answer.status == 200:
                state.succeeded()
                self.finished.append((account, start, clock()))
                return True
            if answer.status == 429:
                self._open_at[account] = max(self._open_at[account], clock() + (retry_after or 0.0))
            failure = Failure(
                kind="status", status=answer.status, is_remote=answer.is_remote, retry_after=retry_after
            )
            decision = state.failed(failure, clock() - start)
            if isinstance(decision, GiveUp):
                self.lost.append((account, decision.reason))
                return False
            await asyncio.sleep(decision.wait)

    async def walk(self, account: str, pages: int) -> None:
        """Fetch the pages of one account, one after the other."""
        for _ in range(pages):
            await self.call(account)

    async def walk_all(self, accounts: Iterable[str], pages: int) -> None:
        async with asyncio.TaskGroup() as group:
            for account in accounts:
                group.create_task(self.walk(account, pages))


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

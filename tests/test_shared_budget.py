"""A budget that processes share: how it is asked, and what happens while it does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import pytest

from tests.support import run
from tests.virtual import busiest_window, clock, epoch, hold, rate_limiter, run_virtual
from truto_ci_async import Grant, Pacing, Sandbox, SharedBudget, TrutoClient
from truto_ci_async._http.policy.admission import AdmissionQueue
from truto_ci_async._http.policy.budget_gate import BudgetGate
from truto_ci_async._http.policy.rate_windows import Rate
from truto_ci_async.errors import ConfigurationError

TOKEN, ACCOUNT = Rate(500, 10), Rate(50, 10)


class Windows:
    """A shared budget in memory: both limits as sliding windows. ``delay`` is the time a call takes."""

    def __init__(
        self, token: int = 500, account: int = 50, *, delay: float = 0.0, plain: bool = False
    ) -> None:
        self.limits = {"token": token, "account": account}
        self.delay = delay
        self.plain = plain
        self.calls: list[tuple[int, str | None]] = []
        self.granted: list[tuple[float, str | None]] = []
        self.error: Exception | None = None

    async def take(self, n: int, account: str | None) -> int | Grant:
        self.calls.append((n, account))
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        now = clock()
        recent = [each for each in self.granted if each[0] > now - 10.1]
        left = self.limits["token"] - len(recent)
        own = self.limits["account"] - sum(name == account for _, name in recent)
        count = max(0, min(n, left, own if account else left))
        self.granted += [(now, account)] * count
        if self.plain:
            return count
        return Grant(count, 0.0 if count else 0.02, "token" if left <= 0 else "account")


def queue_of(
    budget: SharedBudget, token: Rate | None = TOKEN, account: Rate | None = ACCOUNT
) -> AdmissionQueue:
    gate = BudgetGate(budget, token, clock=clock, random=lambda: 0.5)
    return AdmissionQueue(rate_limiter(token, account), clock=clock, epoch=epoch, gate=gate)


async def send(queue: AdmissionQueue, account: str | None, sent: list[float]) -> None:
    await queue.admit(account)
    sent.append(clock())
    queue.on_response(account, 200, {})


@pytest.mark.parametrize("plain", [False, True], ids=["grants", "numbers"])
def test_three_processes_use_the_rate_together(plain: bool) -> None:
    """None of them knows of the others; the budget alone holds both limits, and nearly all of it is used."""

    async def main() -> None:
        budget = Windows(plain=plain, delay=0.002)
        sent: list[float] = []
        async with asyncio.TaskGroup() as group:
            for process in range(3):
                queue = queue_of(budget)
                for number in range(1000):
                    group.create_task(send(queue, f"p{process}a{number % 30}", sent))
        assert len(sent) == 3000
        assert busiest_window(sent, 10) <= 500
        assert (3000 / 500 - 1) * 10 / clock() >= 0.95

    run_virtual(main)


def test_an_account_that_two_processes_share_does_not_hold_up_the_others() -> None:
    async def main() -> None:
        budget = Windows(account=5)
        one, two = queue_of(budget), queue_of(budget)
        shared: list[float] = []
        others: list[float] = []
        async with asyncio.TaskGroup() as group:
            for queue in (one, two):
                for _ in range(10):
                    group.create_task(send(queue, "shared", shared))
                for number in range(100):
                    group.create_task(send(queue, f"a{number}", others))
        assert busiest_window(shared, 10) <= 5
        assert others[-1] < 10
        assert len(shared) == 20

    run_virtual(main)


def test_requests_of_one_account_are_asked_for_together() -> None:
    """At most ten at a time, and never more than are waiting."""

    async def main() -> None:
        budget = Windows(delay=0.01)
        queue = queue_of(budget)
        sent: list[float] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(22):
                group.create_task(send(queue, "a", sent))
        assert sum(n for n, _ in budget.calls) == len(sent) == 22
        assert max(n for n, _ in budget.calls) == 10
        assert len(budget.calls) <= 4

    run_virtual(main)


class Hangs(Windows):
    async def take(self, n: int, account: str | None) -> int | Grant:
        await asyncio.sleep(3600)
        return n


class Nonsense(Windows):
    async def take(self, n: int, account: str | None) -> int | Grant:
        return "all"  # type: ignore[return-value]


def failing() -> Windows:
    budget = Windows()
    budget.error = ConnectionError("redis://:secret@host")
    return budget


@pytest.mark.parametrize("make", [failing, Hangs, Nonsense])
def test_without_the_budget_a_tenth_of_the_rate_goes_out_evenly(
    make: Callable[[], Windows], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        queue = queue_of(make())
        sent: list[float] = []
        async with asyncio.TaskGroup() as group:
            for number in range(150):
                group.create_task(send(queue, f"a{number}", sent))
        assert busiest_window(sent, 1) <= 6
        assert len(sent) / clock() >= 3.7

    with caplog.at_level(logging.WARNING):
        run_virtual(main)
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_a_budget_may_name_the_safe_share() -> None:
    async def main() -> None:
        budget = failing()
        budget.safe_share = 0.5  # type: ignore[attr-defined]
        queue = queue_of(budget)
        sent: list[float] = []
        async with asyncio.TaskGroup() as group:
            for number in range(250):
                group.create_task(send(queue, f"a{number}", sent))
        assert busiest_window(sent, 1) <= 26
        assert len(sent) / clock() >= 20

    run_virtual(main)


def test_a_budget_that_comes_back_is_used_again() -> None:
    async def main() -> None:
        budget = failing()
        queue = queue_of(budget)
        sent: list[float] = []
        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(send(queue, f"a{number}", sent))
            await asyncio.sleep(5.2)
            assert 20 <= len(sent) <= 30
            budget.error = None
        assert clock() < 15
        assert len(budget.granted) >= 260

    run_virtual(main)


@pytest.mark.parametrize("seed", range(3))
def test_cancelled_requests_leave_no_slot_and_no_lock(seed: int) -> None:
    async def main() -> None:
        budget = Windows(token=20, delay=0.01)
        queue = queue_of(budget)
        sent: list[float] = []
        tasks = [asyncio.create_task(send(queue, f"a{n % 4}", sent)) for n in range(120)]
        draws = deque([0.0, 0.003, 0.011, 0.0, 0.5, 0.02])
        draws.rotate(seed)
        for task in tasks[seed::2]:
            await asyncio.sleep(draws[0])
            draws.rotate(1)
            task.cancel()
        await asyncio.wait(tasks)
        assert len(sent) == sum(not task.cancelled() for task in tasks)
        assert queue.limiter.waiting == 0
        assert queue.limiter._token.in_flight == 0
        assert queue._gate is not None
        assert not queue._gate._accounts
        assert not queue._gate._used_up.locked()

    run_virtual(main)


class Answers:
    """Answers what it is told to, in order; then the last of it again."""

    def __init__(self, *answers: Grant | int) -> None:
        self.answers = deque(answers)
        self.calls: list[int] = []

    async def take(self, n: int, account: str | None) -> int | Grant:
        self.calls.append(n)
        await asyncio.sleep(0)
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]


def gate_of(budget: SharedBudget) -> BudgetGate:
    return BudgetGate(budget, TOKEN, clock=clock, random=lambda: 0.5)


def test_no_more_is_used_than_was_asked_for() -> None:
    async def main() -> None:
        budget = Answers(100)
        gate = gate_of(budget)
        await asyncio.gather(*(gate.ask("a") for _ in range(12)))
        assert budget.calls == [1, 10, 1]

    run_virtual(main)


def test_what_was_granted_a_while_ago_is_asked_for_again() -> None:
    """The loop was held meanwhile, so by now another process may have been given the slot."""

    async def main() -> None:
        budget = Answers(1, 2, 1)
        gate = gate_of(budget)

        async def then_hold() -> None:
            await gate.ask("a")
            hold(1.0)

        await asyncio.gather(gate.ask("a"), then_hold(), gate.ask("a"))
        assert budget.calls == [1, 2, 1]

    run_virtual(main)


def test_a_wait_that_makes_no_sense_is_a_second_at_most() -> None:
    async def main() -> None:
        assert (await gate_of(Answers(Grant(0, 3600.0), 1)).ask("a")).count == 1
        assert clock() < 1.1
        refused = await gate_of(Answers(Grant(0, 3600.0, "account"))).ask("a")
        assert (refused.count, refused.retry_after) == (0, 1.0)

    run_virtual(main)


def test_a_call_without_an_account_waits_whatever_limit_is_named() -> None:
    async def main() -> None:
        assert (await gate_of(Answers(Grant(0, 0.1, "account"), 1)).ask(None)).count == 1

    run_virtual(main)


def test_one_event_loop_after_another_can_use_a_budget() -> None:
    budget = Windows(delay=0.01)
    gate = gate_of(budget)

    async def main() -> None:
        await asyncio.gather(*(gate.ask(f"a{number % 20}") for number in range(40)))

    for _ in range(2):
        run_virtual(main)
        budget.granted.clear()
    assert sum(n for n, _ in budget.calls) == 80


class Counting:
    def __init__(self) -> None:
        self.accounts: list[str | None] = []

    async def take(self, n: int, account: str | None) -> int:
        self.accounts.append(account)
        return n


def test_a_client_asks_the_budget_once_per_request() -> None:
    """Retries and walks included; another token has limits of its own, so it does not use this budget."""

    async def main() -> None:
        budget = Counting()
        async with (
            Sandbox() as sandbox,
            TrutoClient(sandbox.token, base_url=sandbox.url, shared_budget=budget) as truto,
        ):
            account = sandbox.account_ids[0]
            await truto.interactions.list(account, start_time="-7d", end_time="now")
            await truto.integrated_accounts.list()
            assert budget.accounts == [account, None]
            assert truto.with_options(pacing=Pacing()).shared_budget is budget
            assert truto.with_options(token="other").shared_budget is None
            assert truto.with_options(token="other", shared_budget=budget).shared_budget is budget

    run(main())


@pytest.mark.parametrize("share", [0, 2, "half"])
def test_a_budget_that_cannot_work_is_refused_at_once(share: object) -> None:
    budget = Counting()
    budget.safe_share = share  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="safe_share"):
        TrutoClient("token", shared_budget=budget)
    with pytest.raises(ConfigurationError, match="take"):
        TrutoClient("token", shared_budget=object())  # type: ignore[arg-type]

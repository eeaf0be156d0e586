"""Pulls in a simulated world (`tests/simulation`), and the moments that it found or that it was made to find."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec
import pytest

from tests.simulation import sync_world
from tests.simulation.loop import SimTime
from tests.simulation.mends import MENDS, Mend, search
from tests.simulation.service import Answer, SimClient
from tests.simulation.stores import Durable, SimCheckpoint, SimSink
from tests.simulation.world import Options, simulate
from tests.support import run
from tests.test_checkpoint import make_plan
from tests.virtual import EPOCH
from truto_ci_async import Fault, Pacing, Sandbox, TrutoClient
from truto_ci_async._http.policy.retry import RetryPolicy
from truto_ci_async.cli.pull_progress import finished
from truto_ci_async.errors import AuthenticationError, StorageError, UsageError
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.pull import account_pull, workers
from truto_ci_async.pull.account_pull import IN_TURN, NEVER
from truto_ci_async.pull.checkpoint.base import Checkpoint, Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.engine import Pull
from truto_ci_async.pull.report import Budget, PullReport
from truto_ci_async.pull.row_fingerprints import row_fingerprints, row_identities, split
from truto_ci_async.pull.workers import YIELD_ACCOUNTS, Schedule, accounts_to_do

SEEDS, CHUNKS = 300, 6
MANY = 50_000
SYNC_SEEDS, MANY_SYNCS = 60, 5_000


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_happens_nothing_is_lost_or_doubled(chunk: int) -> None:
    """Run a failing seed again with `python -m tests.simulation SEED`."""
    for seed in range(chunk, SEEDS, CHUNKS):
        simulate(Options.draw(seed))


@pytest.mark.long
def test_whatever_happens_nothing_is_lost_or_doubled_in_many_worlds() -> None:
    for seed in range(SEEDS, MANY):
        simulate(Options.draw(seed))


@pytest.mark.parametrize("chunk", range(2))
def test_a_synced_table_has_what_the_service_had_whatever_happens(chunk: int) -> None:
    """Run a failing seed again with `python -m tests.simulation SEED --sync`."""
    for seed in range(chunk, SYNC_SEEDS, 2):
        simulate(sync_world.draw(seed), sync_world.SyncWorld)


@pytest.mark.long
def test_a_synced_table_has_what_the_service_had_in_many_worlds() -> None:
    for seed in range(SYNC_SEEDS, MANY_SYNCS):
        simulate(sync_world.draw(seed), sync_world.SyncWorld)


def test_mends_can_be_taken_out() -> None:
    """If this fails, the code has changed around one of them: write it anew in `tests/simulation/mends.py`."""
    for mend in MENDS:
        assert mend.without()


@pytest.mark.long
@pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.name.replace(" ", "-"))
def test_the_simulation_finds_each_mend_that_is_taken_out(mend: Mend) -> None:
    """With all of them in, it finds nothing in five times as many worlds."""
    found = search(mend)
    assert found.is_found, found.told


def test_a_seed_tells_the_same_story_each_time() -> None:
    for seed in range(5):
        assert simulate(Options.draw(seed)).story == simulate(Options.draw(seed)).story


# --- a service that does as it is told ---------------------------------------------------------------------------

Serve = Callable[[str, str | None], "Answer | Awaitable[Answer]"]


class Told:
    """A service that answers each request, given its account and cursor, as a test says."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.requests: list[tuple[str, str | None]] = []
        self.calls: list[Any] = []

    async def answer(self, target: str, token: int) -> Answer:
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        request = query["integrated_account_id"], query.get("next_cursor")
        self.requests.append(request)
        await asyncio.sleep(0)
        answer = self._serve(*request)
        return answer if isinstance(answer, Answer) else await answer


async def _no_pause() -> None:
    await asyncio.sleep(0)


def client_of(service: Told, **retry: Any) -> Any:
    policy: Any = {"attempts": 1, "fault_base": 0.0, **retry}
    return SimClient(service, RetryPolicy(**policy), _no_pause)


def page(*rows: Any, next: str | None = None) -> Answer:
    return Answer(200, json.dumps({"result": rows, "next_cursor": next}).encode())


def refused(status: int = 400, message: str = "the cursor has expired") -> Answer:
    return Answer(status, json.dumps({"statusCode": status, "message": message}).encode())


def key_of(page: AccountPage[Any]) -> Key:
    return page.account.id, 0


class Output:
    """A sink and a checkpoint over one state in memory."""

    def __init__(self) -> None:
        self.durable = Durable()

    def pull(
        self, client: Any, *accounts: str, checkpoint: Checkpoint | None = None, **options: Any
    ) -> Pull[Any]:
        return Pull(
            client,
            make_plan(*accounts, start_time="-1d"),
            checkpoint=checkpoint or SimCheckpoint(self.durable, pause=_no_pause, step=lambda name: None),
            sink=SimSink(self.durable, key_of=key_of, pause=_no_pause, draw=lambda what: False),
            item_type=msgspec.Raw,
            budget=Budget(max_accounts=4, probe_wait=0.01),
            **{"commit": "manual", **options},
        )

    async def run(self, client: Any, *accounts: str, **options: Any) -> Pull[Any]:
        async with self.pull(client, *accounts, **options) as pages:
            async for each in pages:
                await pages.write(each)
        return pages

    @property
    def numbers(self) -> list[int]:
        return [number for _, number in self.durable.rows[: int(self.durable.sink_state or b"0")]]


def by_user(user: str, number: int) -> dict[str, Any]:
    return {"user": {"id": user}, "n": number}


# --- what was met before ------------------------------------------------------------------------------------------


def test_a_failure_between_two_pages_loses_no_equal_rows() -> None:
    """The next run goes on from its position: nothing of what comes was handed out before."""
    is_down = True

    def serve(account: str, cursor: str | None) -> Answer:
        if cursor is None:
            return page(by_user("u", 1), by_user("v", 2), next="c")
        return refused(403, "no permission") if is_down else page(by_user("u", 3))

    async def scenario() -> None:
        nonlocal is_down
        output, client = Output(), client_of(Told(serve))
        assert list((await output.run(client, "a")).report.failed) == ["a"]
        is_down = False
        assert (await output.run(client, "a")).report.complete
        assert output.numbers == [1, 2, 3]

    run(scenario())


@pytest.mark.parametrize("stops_after", range(1, 5))
def test_a_second_walk_that_is_stopped_knows_what_it_has_met(stops_after: int) -> None:
    """Rows that are equal come as often in all as they come in one walk, wherever the second one is stopped."""
    rows = [by_user(user, number) for number, user in enumerate("uvuuwuv")]
    walks = count(1)
    walk = requests = 0
    pulls: list[Pull[Any]] = []

    def serve(account: str, cursor: str | None) -> Answer:
        nonlocal walk, requests
        if cursor is None:
            walk = next(walks)
        at = int(cursor.split(".")[1]) if cursor else 0
        if walk == 1 and at == 3:
            return refused()
        if walk > 1:
            requests += 1
            if requests == stops_after:
                pulls[-1].stop()
        return page(rows[at], next=f"{walk}.{at + 1}" if at + 1 < len(rows) else None)

    async def scenario() -> None:
        output, client = Output(), client_of(Told(serve))
        for _ in range(3):
            pulls.append(output.pull(client, "a"))
            async with pulls[-1] as pages:
                async for each in pages:
                    await pages.write(each)
        assert pages.report.complete
        assert walk == 2
        assert sorted(output.numbers) == list(range(len(rows)))

    run(scenario())


def test_rows_are_told_apart_whatever_stands_beside_them() -> None:
    """Pages are cut elsewhere on a second walk, so a row whose user is text must not change those next to it."""
    good = [b'{"id":"1","user":{"id":"u"},"n":1}', b'{"user":{"id":"u"},"n":2}', b'{\n"id":"1",\n"n":3}']
    odd = [b'{"id":"2","user":"u2"}', b"[1]", b'"text"', b"null", b'{"user":7}', b'{"n":5}']
    items = [msgspec.Raw(text) for text in good + odd]
    alone = [row_fingerprints(row_identities([item])) for item in items]
    assert len(set(alone)) == len(items)
    assert list(split(row_fingerprints(row_identities(items)))) == alone
    assert list(split(row_fingerprints(row_identities(items[::-1])))) == alone[::-1]


def test_a_state_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """It could not say what a restarted walk had met: that window starts again, and leaves out what is there."""
    path = tmp_path / "state.sqlite3"
    plan = make_plan("a", "b", "c", start_time="-1d")
    failed = Progress(position="p", rows=2, pages=1, outcome="failed", error="no permission")
    stored = {
        ("a", 0): Progress(position="p", rows=2, pages=1, error="restarted: its cursor was refused"),
        ("b", 0): failed,
        ("c", 0): Progress(position="p", rows=2, pages=1),
    }

    async def scenario() -> None:
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(plan)
            await checkpoint.commit(stored, row_keys={("a", 0): b"12345678"})
        database = sqlite3.connect(path)
        database.execute("ALTER TABLE progress DROP COLUMN restarted")
        database.execute("PRAGMA user_version = 1")
        database.close()
        for _ in range(2):
            async with SQLiteCheckpoint(path) as checkpoint:
                await checkpoint.open(plan)
                found = await checkpoint.load()
                assert [found[name, 0].position for name in "abc"] == [None, None, "p"]
                assert [found[name, 0].rows for name in "abc"] == [2, 2, 2]
                assert await checkpoint.row_keys(("a", 0)) == b"12345678"
        async with SQLiteCheckpoint(path) as checkpoint:
            await checkpoint.open(plan)
            again = msgspec.structs.replace(failed, is_restarted=True)
            await checkpoint.commit({("b", 0): again})
            assert (await checkpoint.load())["b", 0] == again

    run(scenario())


# --- who writes ---------------------------------------------------------------------------------------------------


def of_two_pages(account: str, cursor: str | None) -> Answer:
    return page({"id": "2", "n": 2}) if cursor else page({"id": "1", "n": 1}, next="c")


def test_a_page_that_is_being_written_while_the_block_is_left_counts() -> None:
    """Output and progress never part: it is in the sink, so it is done."""

    async def scenario() -> None:
        output = Output()
        client = client_of(Told(of_two_pages))
        async with output.pull(client, "a", "b") as pages:
            first = await anext(pages)
            store: Any = pages._store
            sink: Any = store._sink
            is_written, may_return = asyncio.Event(), asyncio.Event()
            write = sink.write

            async def slow_write(page: Any) -> None:
                await write(page)
                is_written.set()
                await may_return.wait()

            sink.write = slow_write
            writing = asyncio.create_task(pages.write(first))
            await is_written.wait()
            asyncio.get_running_loop().call_later(0.01, may_return.set)
        await writing
        assert output.numbers == [1]
        assert output.durable.progress[first.account.id, 0].rows == 1
        with pytest.raises(UsageError, match="closed"):
            await pages.write(first)
        await output.run(client, "a", "b")
        assert sorted(output.numbers) == [1, 1, 2, 2]

    run(scenario())


def test_a_page_that_is_being_written_while_a_commit_fails_does_not_count() -> None:
    """A store that commits while it takes pages can fail meanwhile: what it took last is never durable."""

    async def scenario() -> None:
        output = Output()
        pages = output.pull(client_of(Told(of_two_pages)), "a")
        with pytest.raises(StorageError, match="full"):
            async with pages:
                first = await anext(pages)
                store: Any = pages._store
                sink: Any = store._sink
                is_written, may_return = asyncio.Event(), asyncio.Event()

                async def slow_write(page: Any) -> None:
                    is_written.set()
                    await may_return.wait()

                sink.write = slow_write
                writing = asyncio.create_task(pages.write(first))
                await is_written.wait()
                pages._commits.fail(StorageError("the disk is full", path="/"))
        may_return.set()
        with pytest.raises(StorageError, match="full"):
            await writing
        assert (pages.report.rows, pages.report.pages) == (0, 0)

    run(scenario())


def test_a_later_page_of_an_account_waits_for_the_earlier_one_to_be_written() -> None:
    async def scenario() -> None:
        output = Output()
        client = client_of(Told(of_two_pages))
        async with output.pull(client, "a") as pages:
            first, second = await anext(pages), await anext(pages)
            early = asyncio.create_task(pages.write(second))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not early.done()
            await pages.write(first)
            await early
            assert [number for _, number in output.durable.rows] == [1, 2]
        assert pages.report.complete
        # One that waits in vain is refused, and nothing of it is in the sink.
        output = Output()
        async with output.pull(client, "a") as pages:
            await anext(pages)
            second = await anext(pages)
            early = asyncio.create_task(pages.write(second))
            await asyncio.sleep(0)
        with pytest.raises(UsageError, match="closed"):
            await early
        assert output.durable.rows == []
        await output.run(client, "a")
        assert output.numbers == [1, 2]

    run(scenario())


@pytest.mark.parametrize("commit", ["auto", "manual"])
def test_only_writing_marks_a_page_where_there_is_a_sink(commit: Any) -> None:
    async def scenario() -> None:
        output = Output()
        client = client_of(Told(of_two_pages))
        other = Output().pull(client, "a")
        async with output.pull(client, "a", commit=commit) as pages, other:
            first = await anext(pages)
            with pytest.raises(UsageError, match=r"pages\.write\(page\)"):
                first.mark()
            with pytest.raises(UsageError, match=r"pages\.write\(page\)"):
                await first.commit()
            if commit == "auto":
                with pytest.raises(UsageError, match=r"pages\.write\(page\)"):
                    await anext(pages)
            with pytest.raises(UsageError, match="another pull"):
                await other.write(first)
            await pages.write(first)
            with pytest.raises(UsageError, match="written before"):
                await pages.write(first)
            await first.commit()
            assert output.numbers == [1]
            await pages.write(await anext(pages))
        assert pages.report.complete
        assert output.numbers == [1, 2]
        async with Pull(client, make_plan("a", start_time="-1d")) as pages:
            with pytest.raises(UsageError, match="no sink"):
                await pages.write(await anext(pages))

    run(scenario())


# --- what the service is doing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_a_slow_consumer_does_not_hide_an_outage(seconds: float) -> None:
    """Pages that arrived before it and are taken during it say nothing about the service now."""
    is_down_until = 0.0

    async def scenario() -> None:
        async def serve(account: str, cursor: str | None) -> Answer:
            nonlocal is_down_until
            loop = asyncio.get_running_loop()
            if len(service.requests) == 24:
                is_down_until = loop.time() + 0.5
            if len(service.requests) < 24 or loop.time() >= is_down_until:
                return page({"id": "1", "n": 1})
            await asyncio.sleep(0.05)
            return Answer(502)

        service = Told(serve)
        names = [f"a{number}" for number in range(60)]
        budget = Budget(max_accounts=16, probe_wait=0.02, max_probe_wait=0.05)
        async with Pull(client_of(service), make_plan(*names, start_time="-1d"), budget=budget) as pages:
            async for _ in pages:
                await asyncio.sleep(seconds)
        assert pages.report.failed == {}
        assert pages.report.complete

    run(scenario())


def test_an_account_that_fails_for_longer_than_the_others_take_is_failed() -> None:
    """They got through while its first call was under way, so the service is up, whatever comes later."""

    async def scenario() -> None:
        async def serve(account: str, cursor: str | None) -> Answer:
            if account != "bad":
                return page({"id": "1", "n": 1})
            while len(service.requests) < 21:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            return Answer(500)

        service = Told(serve)
        names = ["bad", *(f"a{number}" for number in range(20))]
        budget = Budget(max_accounts=4, probe_wait=0.01, max_outage=600.0)
        async with Pull(client_of(service), make_plan(*names, start_time="-1d"), budget=budget) as pages:
            async for _ in pages:
                pass
        assert list(pages.report.failed) == ["bad"]
        assert pages.report.done == 20

    run(scenario())


@pytest.mark.parametrize("others", [0, 2])
def test_a_bad_account_that_is_asked_last_is_failed_in_the_end(others: int) -> None:
    """The others got through before it was asked, so an outage is likely at first; it lasts as long as one may.

    Without others nothing speaks against the account.
    """

    async def scenario() -> None:
        service = Told(lambda account, cursor: Answer(500) if account == "bad" else page({"id": "1", "n": 1}))
        names = [*(f"a{number}" for number in range(others)), "bad"]
        budget = Budget(max_accounts=1, probe_wait=0.01, max_probe_wait=0.01, max_outage=0.1)
        async with Pull(client_of(service), make_plan(*names, start_time="-1d"), budget=budget) as pages:
            async for _ in pages:
                pass
        report = pages.report
        assert (list(report.failed), list(report.parked)) == ((["bad"], []) if others else ([], ["bad"]))
        if others:
            assert "500" in str(report.failed["bad"])

    run(scenario())


def test_a_bad_account_between_others_costs_no_trial_for_each_of_their_pages() -> None:
    """Each trial of another account got through, and each time the bad one opened the circuit again."""

    async def scenario() -> None:
        def serve(account: str, cursor: str | None) -> Answer:
            number = int(cursor or 0)
            if account == "bad":
                return Answer(500)
            return page({"id": "1", "n": 1}, next=str(number + 1) if number < 100 else None)

        service = Told(serve)
        budget = Budget(max_accounts=1, probe_wait=0.01, max_outage=600.0)
        async with Pull(client_of(service), make_plan("bad", "a", start_time="-1d"), budget=budget) as pages:
            async for _ in pages:
                pass
        assert list(pages.report.failed) == ["bad"]
        assert sum(account == "bad" for account, _ in service.requests) == 4

    run(scenario())


@pytest.mark.parametrize("bad", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 4])
def test_bad_accounts_that_are_asked_last_are_no_outage(bad: int, workers: int) -> None:
    """They are failed, since an account that is done still gets what it got. A good one between them is done."""
    names = [f"bad{number}" for number in range(bad)]

    async def scenario() -> None:
        def serve(account: str, cursor: str | None) -> Answer:
            return Answer(500) if account in names else page({"id": "1", "n": 1})

        service = Told(serve)
        budget = Budget(max_accounts=workers, probe_wait=0.01, max_probe_wait=0.05, max_outage=0.3)
        plan = make_plan("a", *names, "z", start_time="-1d")
        async with Pull(client_of(service), plan, budget=budget) as pages:
            async for _ in pages:
                pass
        assert (sorted(pages.report.failed), pages.report.parked) == (names, {})
        assert pages.report.done == 2

    run(scenario())


def test_an_outage_is_one_if_an_account_that_is_done_gets_nothing_either() -> None:
    async def scenario() -> None:
        def serve(account: str, cursor: str | None) -> Answer:
            if account == "a" and not any(each == "b" for each, _ in service.requests):
                return page({"id": "1", "n": 1})
            return Answer(500)

        service = Told(serve)
        budget = Budget(max_accounts=1, probe_wait=0.01, max_probe_wait=0.05, max_outage=0.3)
        async with Pull(client_of(service), make_plan(*"abcd", start_time="-1d"), budget=budget) as pages:
            async for _ in pages:
                pass
        assert (pages.report.failed, sorted(pages.report.parked)) == ({}, ["b", "c", "d"])
        assert sum(account == "a" for account, _ in service.requests) == 2

    run(scenario())


def test_a_short_outage_fails_none_of_the_accounts_under_way() -> None:
    """Each was asked before the last success came, which once made it the fault of all of them."""
    is_down_until = 0.0

    async def scenario() -> None:
        async def serve(account: str, cursor: str | None) -> Answer:
            nonlocal is_down_until
            loop = asyncio.get_running_loop()
            if account == "a":
                await asyncio.sleep(0.01)
                is_down_until = loop.time() + 0.3
                return page({"id": "1", "n": 1})
            await asyncio.sleep(0.02)
            return Answer(502) if loop.time() < is_down_until else page({"id": "1", "n": 1})

        service = Told(serve)
        budget = Budget(max_accounts=4, probe_wait=0.01, max_probe_wait=0.05)
        async with Pull(client_of(service), make_plan(*"abcd", start_time="-1d"), budget=budget) as pages:
            async for _ in pages:
                pass
        assert pages.report.failed == {}
        assert pages.report.complete

    run(scenario())


def test_a_trial_may_renew_the_token() -> None:
    """A token that expires during an outage does not end the pull; without a function for a new one it does."""
    tokens = count()

    async def scenario() -> None:
        options: dict[str, Any] = {"token_rate": None, "account_rate": None, "ratelimit_headers": None}
        async with Sandbox(accounts=2, **options) as sandbox:

            def token() -> str:
                next(tokens)
                return sandbox.token

            retry = RetryPolicy(attempts=2, fault_base=0.0)
            budget = Budget(max_accounts=1, probe_wait=0.01, max_probe_wait=0.02)
            for source, is_renewed in ((token, True), (sandbox.token, False)):
                sandbox.script(None, [Fault.status(502).times(5), Fault.status(401)])
                before = sandbox.stats.requests
                async with TrutoClient(
                    source, base_url=sandbox.url, pacing=Pacing.off(), retry=retry
                ) as client:
                    pull = client.interactions.pull(sandbox.account_ids, start_time="-1d", budget=budget)
                    if is_renewed:
                        async with pull as pages:
                            async for _ in pages:
                                pass
                        assert pull.report.complete
                        assert next(tokens) == 2
                    else:
                        with pytest.raises(AuthenticationError):
                            async with pull as pages:
                                await anext(pages)
                        assert sandbox.stats.requests == before + 6  # one for each trial
                sandbox.clear_faults()

    run(scenario())


class LongestStep:
    """Measures the loop's longest step by the time its thread was at work: other processes do not count."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self.seconds = max(self.seconds, time.thread_time() - before)


async def longest_step(work: Coroutine[Any, Any, Any]) -> float:
    longest = LongestStep()
    watching = asyncio.create_task(longest.watch())
    await asyncio.sleep(0)
    await work
    await asyncio.sleep(0)
    watching.cancel()
    await asyncio.wait([watching])
    return longest.seconds


@pytest.mark.parametrize("load", [Checkpoint.load_accounts, MemoryCheckpoint.load_accounts])
def test_many_walks_of_earlier_runs_do_not_hold_the_loop(load: Callable[..., Any]) -> None:
    accounts, windows = 20_000, 10
    names = [f"a{number}" for number in range(accounts)]
    plan = make_plan(*names, start_time=f"-{windows}d")
    done = Progress(outcome="done", rows=1, pages=1)
    stored = {(name, index): done for name in names for index in range(windows - 1)}

    async def scenario() -> None:
        report = PullReport()
        checkpoint = MemoryCheckpoint()
        await checkpoint.open(plan)
        await checkpoint.commit(stored)
        flat = await checkpoint.load()
        checkpoint.load = lambda: asyncio.sleep(0, flat)  # type: ignore[method-assign,assignment]

        async def work() -> None:
            to_do, begun = await accounts_to_do(plan, load(checkpoint), report, max_park=86_400.0)
            assert len(to_do) == len(begun) == accounts

        assert await longest_step(work()) < 0.04
        assert report.windows_done == len(stored)

    run(scenario())


def test_many_accounts_are_put_in_line_a_few_at_a_time() -> None:
    """At the start of a pull, and when all that wait are to go on: 100,000 in one go held the loop for 1.6 s."""
    accounts = make_plan(*(f"a{number}" for number in range(3_000)), start_time="-1d").accounts

    async def scenario() -> None:
        schedule = Schedule(accounts)
        running = asyncio.create_task(schedule.run())

        async def take_all(again_in: float) -> None:
            most = in_line = 0
            while in_line < len(accounts):
                await asyncio.sleep(0)
                now = schedule.line.statistics().current_buffer_used
                most, in_line = max(most, now - in_line), now
            assert most <= YIELD_ACCOUNTS
            for _ in accounts:
                taken: Any = schedule.line.receive_nowait()
                schedule.ask_again(taken, NEVER if again_in == NEVER else time.monotonic() + again_in)

        await take_all(1_000.0)
        while schedule._waiting.statistics().current_buffer_used:
            await asyncio.sleep(0)
        schedule.hurry()
        await take_all(NEVER)
        await running
        schedule.close()

    run(scenario())


def test_an_account_put_back_in_line_wakes_one_worker() -> None:
    account: Any = object()

    async def scenario() -> None:
        schedule = Schedule(make_plan("a", start_time="-1d").accounts)
        running = asyncio.create_task(schedule.run())
        await schedule.line.receive()
        waiting = [asyncio.create_task(schedule.line.receive()) for _ in range(50)]
        await asyncio.sleep(0)
        schedule.ask_again(account, IN_TURN)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [task.result() for task in waiting if task.done()] == [account]
        schedule.stop()
        await asyncio.wait([running, *waiting])
        assert {type(task.exception()) for task in waiting if task.exception()} == {anyio.EndOfStream}
        schedule.close()

    run(scenario())


# --- what is counted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_an_account_parked_by_a_clock_that_was_ahead_is_asked_again(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_limited = True
    clock = SimTime(lambda: 0.0)

    def serve(account: str, cursor: str | None) -> Answer:
        return Answer(429, b"{}", retry_after=3_600.0) if is_limited else page({"id": "1", "n": 1})

    async def pulled(checkpoint: Checkpoint, error: float) -> PullReport:
        clock.error = error
        async with Pull(
            client_of(Told(serve)), make_plan("a", start_time="-1d"), checkpoint=checkpoint
        ) as pages:
            async for _ in pages:
                pass
        return pages.report

    async def scenario() -> None:
        nonlocal is_limited
        monkeypatch.setattr(account_pull, "time", clock)
        monkeypatch.setattr(workers, "time", clock)
        for ahead, is_asked in ((365 * 86_400.0, True), (0.0, False)):
            is_limited = True
            memory = MemoryCheckpoint()
            state = tmp_path / f"{ahead}.sqlite3"
            report = await pulled(memory if store == "memory" else SQLiteCheckpoint(state), ahead)
            assert report.parked == {"a": pytest.approx(EPOCH + ahead + 3_600.0)}
            assert report.windows_left == 1
            is_limited = False
            report = await pulled(memory if store == "memory" else SQLiteCheckpoint(state), 0.0)
            assert report.complete == is_asked
            assert report.windows_left == (not is_asked)

    run(scenario())


def test_windows_of_accounts_that_ended_early_count_once() -> None:
    """The progress of a run never says 69 of 60."""

    def serve(account: str, cursor: str | None) -> Answer:
        requests[account] += 1
        limit = {"fails": 3, "parked": 2}.get(account, 9)
        if requests[account] > limit:
            return Answer(403) if account == "fails" else Answer(429, b"{}", retry_after=3_600.0)
        return page({"id": "1", "n": 1})

    async def scenario() -> None:
        checkpoint = MemoryCheckpoint()
        plan = make_plan("good", "fails", "parked", start_time="-4d")
        for _ in range(2):
            async with Pull(client_of(Told(serve)), plan, checkpoint=checkpoint) as pages:
                async for _ in pages:
                    pass
            report = pages.report
            assert (report.windows_done, report.windows_left) == (4 + 3 + 2, 1 + 2)
            assert finished(report) == 12

    requests = Counter[str]()
    run(scenario())


# --- commits that fail --------------------------------------------------------------------------------------------


def test_a_commit_that_fails_while_a_walk_waits_for_it_ends_the_pull_at_once() -> None:
    """No further request goes out, and the failure is told."""
    is_waiting, may_fail = asyncio.Event(), asyncio.Event()

    class Failing(MemoryCheckpoint):
        async def commit(self, *args: Any, **options: Any) -> None:
            is_waiting.set()
            await may_fail.wait()
            raise StorageError("the disk is full", path="x", errno=28)

    async def serve(account: str, cursor: str | None) -> Answer:
        if cursor:
            await is_waiting.wait()
            return refused()
        return page({"id": "1", "n": 1}, next="c")

    async def scenario() -> None:
        service = Told(serve)
        loop = asyncio.get_running_loop()
        async with Pull(
            client_of(service), make_plan("a", start_time="-1d"), checkpoint=Failing(), commit="manual"
        ) as pages:
            (await anext(pages)).mark()
            await is_waiting.wait()
            while len(service.requests) < 2:
                await asyncio.sleep(0)
            for _ in range(20):  # the second walk waits for the commit now
                await asyncio.sleep(0)
            assert len(service.requests) == 2
            failed_at = loop.time()
            may_fail.set()
            with pytest.raises(StorageError):
                await anext(pages)
            assert loop.time() - failed_at < 1.0
            assert len(service.requests) == 2
            raise StorageError("told")

    with pytest.raises(StorageError, match="told"):
        run(scenario())

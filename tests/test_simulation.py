"""Pulls in a simulated world (`tests/simulation`), and the moments that it found or that it was made to find."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.simulation.service import Answer, SimClient
from tests.simulation.stores import Durable, SimCheckpoint, SimSink, number_of
from tests.simulation.world import LAST_RUNS, Options, simulate
from tests.support import run
from tests.test_checkpoint import make_plan
from truto_ci_async._http.policy.retry import RetryPolicy
from truto_ci_async.errors import StorageError, UsageError
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.pull.account_pull import RESTARTS
from truto_ci_async.pull.checkpoint.base import Checkpoint, Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.sqlite import SQLiteCheckpoint
from truto_ci_async.pull.engine import Pull
from truto_ci_async.pull.report import Budget
from truto_ci_async.pull.row_fingerprints import row_fingerprints, row_identities, split
from truto_ci_async.pull.shard import run_shard

SEEDS, CHUNKS = 300, 6
MANY = 50_000


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_happens_nothing_is_lost_or_doubled(chunk: int) -> None:
    """Run a failing seed again with `python -m tests.simulation SEED`."""
    for seed in range(chunk, SEEDS, CHUNKS):
        simulate(Options.draw(seed))


@pytest.mark.long
def test_whatever_happens_nothing_is_lost_or_doubled_in_many_worlds() -> None:
    for seed in range(SEEDS, MANY):
        simulate(Options.draw(seed))


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

    async def answer(self, target: str) -> Answer:
        from urllib.parse import parse_qs, urlsplit

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
    return Answer(status, json.dumps({"message": message}).encode())


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


@pytest.mark.parametrize("status", [403, 503])
def test_a_failure_between_two_pages_loses_no_equal_rows(status: int) -> None:
    """The next run goes on from its position: nothing of what comes was handed out before."""
    is_down = True

    def serve(account: str, cursor: str | None) -> Answer:
        if cursor is None:
            return page(by_user("u", 1), by_user("v", 2), next="c")
        return refused(status, "no") if is_down else page(by_user("u", 3))

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
            sink: Any = pages._sink
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

"""Pulls of meetings, users, transcripts and activity, and of several of them into one folder."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec
import pytest
from msgspec import Raw

import truto_ci_async
from tests.pull_runs import Runs
from tests.simulation.service import Answer, SimClient
from tests.support import run
from tests.test_checkpoint import make_plan
from tests.test_pull import posix
from truto_ci_async import (
    Email,
    Fault,
    Interaction,
    Meeting,
    MeetingRef,
    Pacing,
    Page,
    Person,
    Plan,
    PulledPage,
    PullReport,
    RetryPolicy,
    Sandbox,
    SQLiteCheckpoint,
    Transcript,
    TrutoClient,
    User,
    pull_resources,
    with_names,
)
from truto_ci_async._wire.responses import says_no_transcript
from truto_ci_async.cli.main import main
from truto_ci_async.errors import (
    DamagedStateError,
    NotFoundError,
    StateConflictError,
    UsageError,
)
from truto_ci_async.models.pulls import AccountPage, PlannedAccount, Window
from truto_ci_async.pull import engine
from truto_ci_async.pull.checkpoint.base import Checkpoint, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.engine import Pull
from truto_ci_async.pull.positions import MISSING_KEPT, UNSUPPORTED, MeetingQueue
from truto_ci_async.pull.report import Budget
from truto_ci_async.pull.transcript_pull import with_meeting
from truto_ci_async.sinks.layout import state_file

START, END = "2024-01-01T00:00:00Z", "2024-03-01T00:00:00Z"
BOUNDS: dict[str, Any] = {"start_time": START, "end_time": END}
MONTHS: dict[str, Any] = {**BOUNDS, "window": "month"}
YEAR_END = "2025-01-01T00:00:00Z"
MEETINGS = 24  # of an account, some four of them in these two months
RESOURCES = ("meetings", "users", "transcripts", "activity")


@asynccontextmanager
async def service(**options: Any) -> AsyncGenerator[tuple[Sandbox, TrutoClient]]:
    defaults: dict[str, Any] = {"accounts": 2, "meetings": MEETINGS, "interactions": 5, "page_size": 3}
    async with (
        Sandbox(token_rate=None, account_rate=None, ratelimit_headers=None, **defaults | options) as sandbox,
        TrutoClient(
            sandbox.token,
            base_url=sandbox.url,
            pacing=Pacing.off(),
            retry=RetryPolicy(attempts=2, fault_base=0.0, throttle_base=0.0),
        ) as client,
    ):
        yield sandbox, client


async def pulled(
    client: TrutoClient, resource: str, *args: Any, **options: Any
) -> tuple[list[Any], PullReport]:
    """Return the pages of a pull and its report."""
    async with getattr(client, resource).pull(*args, **options) as pages:
        return [page async for page in pages], pages.report


def ids(pages: list[PulledPage[Any]]) -> list[tuple[str, str]]:
    return sorted((page.account.id, item.id) for page in pages for item in page.page)


def in_window(sandbox: Sandbox, account: str, start: str = START, end: str = END) -> list[str]:
    """Return the ids of the meetings that began in a window, whatever the provider makes of it."""
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)
    rows = sandbox.expected(account, resource="meetings", start_time="2020-01-01T00:00:00Z")
    return [row["id"] for row in rows if first <= datetime.fromisoformat(row["start_time"]) < last]


def asked(sandbox: Sandbox, resource: str, account: str | None = None) -> list[dict[str, Any]]:
    """Return the queries of the requests for a resource."""
    return [
        each.query
        for each in sandbox.requests
        if each.path.endswith(f"/{resource}") and account in (None, each.account)
    ]


# --- what comes out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", ["users", "activity"])
def test_users_and_activity_are_pulled(resource: str) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            bounds = {} if resource == "users" else BOUNDS
            pages, report = await pulled(client, resource, sandbox.account_ids, **bounds)
            expected = [
                (account, row["id"])
                for account in sandbox.account_ids
                for row in sandbox.expected(account, resource=resource, **bounds)
            ]
            assert ids(pages) == sorted(expected)
            assert (report.complete, report.rows, report.resource) == (True, len(expected), resource)
            assert {page.page.item_type for page in pages} == {
                User if resource == "users" else truto_ci_async.Activity
            }

    run(scenario())


@pytest.mark.parametrize("item_type", [None, Raw, dict])
def test_meetings_are_filtered_where_the_provider_ignores_the_window(item_type: Any) -> None:
    """Two of five providers take both bounds, one takes the start alone, and two take none. Each is asked for all
    windows at once as soon as a row is outside of its own, and no meeting comes twice."""

    async def scenario() -> None:
        async with service(providers=1) as (sandbox, client):
            everyone = [
                *sandbox.account_ids,
                *map(sandbox.accounts_of, ("avoma", "chorus", "firefliesai", "wingman")),
            ]
            accounts = [each if isinstance(each, str) else each[0] for each in everyone]
            pages, report = await pulled(client, "meetings", accounts, **MONTHS, item_type=item_type)
            found = sorted(
                (page.account.id, item.id if item_type is None else dict_of(item)["id"])
                for page in pages
                for item in page.page
            )
            assert found == sorted(
                (account, each) for account in accounts for each in in_window(sandbox, account)
            )
            assert set(report.filtered) == set(accounts[3:])
            assert report.complete
            for account in accounts[4:]:
                begun = [query for query in asked(sandbox, "meetings", account) if "next_cursor" not in query]
                assert len(begun) == 2, "once to find out, and once for all windows"
                assert report.filtered[account] == MEETINGS - len(in_window(sandbox, account))

    run(scenario())


def dict_of(item: Any) -> dict[str, Any]:
    return item if isinstance(item, dict) else json.loads(bytes(item))


def test_transcripts_of_every_meeting_each_asked_once() -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            pages, report = await pulled(
                client, "transcripts", sandbox.account_ids, **MONTHS | {"end_time": YEAR_END}
            )
            wanted = [
                (account, each)
                for account in sandbox.account_ids
                for each in in_window(sandbox, account, end=YEAR_END)
            ]
            there = [
                (account, each)
                for account, each in wanted
                if sandbox.expected(account, resource="transcripts", meeting=each)
            ]
            found = [(page.account.id, item.meeting_id) for page in pages for item in page.page]
            assert sorted(found) == sorted(there)
            assert Counter(query["meeting"]["id"] for query in asked(sandbox, "transcripts")) == Counter(
                each for _, each in wanted
            )
            assert report.without_transcript == len(wanted) - len(there) > 0
            assert (report.complete, report.failed) == (True, {})
            assert all(query["truto_ignore_remote_data"] == "true" for query in asked(sandbox, "meetings"))
            assert not any("truto_ignore_remote_data" in query for query in asked(sandbox, "transcripts"))

    run(scenario())


def test_without_a_meeting_no_transcript_is_asked_for() -> None:
    async def scenario() -> None:
        async with service(meetings=0) as (sandbox, client):
            pages, report = await pulled(client, "transcripts", sandbox.account_ids, **BOUNDS)
            assert (report.complete, report.empty, sum(map(len, pages))) == (True, 2, 0)
            assert not asked(sandbox, "transcripts")

    run(scenario())


def test_a_transcript_that_comes_late_is_asked_for_within_the_look_back(tmp_path: Path) -> None:
    """A later run asks for those meetings alone, and for none of them once they are there, or it is too late."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            account = sandbox.account_ids[0]
            sandbox.configure(account, transcript_delay=float("inf"))

            async def again(**options: Any) -> tuple[PullReport, int]:
                sandbox.clear()
                report = await client.transcripts.pull_to(
                    tmp_path, [account], start_time=START, end_time=END, window=timedelta(days=5), **options
                )
                return report, len(sandbox.requests)

            wanted = in_window(sandbox, account)
            report, _ = await again()
            assert (report.complete, report.rows, report.without_transcript) == (True, 0, len(wanted))
            assert (await again())[1] == 0
            assert (await again(lookback=timedelta()))[1] == 0
            report, requests = await again(lookback="2d")
            assert (requests, report.without_transcript, report.done) == (len(wanted), len(wanted), 1)

            sandbox.configure(account, transcript_delay=0.0)
            there = [
                each for each in wanted if sandbox.expected(account, resource="transcripts", meeting=each)
            ]
            sandbox.script(account, [Fault.status(403)])
            report, _ = await again(lookback="2d")
            assert (len(report.failed), report.rows) == (1, 0)
            report, requests = await again(lookback="2d")
            assert (requests, report.rows, report.complete) == (len(wanted), len(there), True)
            report, requests = await again(lookback="2d")
            assert (requests, report.rows) == (len(wanted) - len(there), 0)
            rows = [json.loads(line) for line in (tmp_path / "transcripts.ndjson").read_text().splitlines()]
            assert sorted(row["meeting"]["id"] for row in rows) == sorted(there)

    run(scenario())


def test_an_account_whose_provider_lacks_the_resource_is_done_and_not_asked_again(tmp_path: Path) -> None:
    """Somebody who pulls the transcripts of a mixed fleet every night wants to see a complete run, and the reason."""

    async def scenario() -> None:
        async with service(accounts=1, providers={"avoma": 1}) as (sandbox, client):
            accounts = [*sandbox.account_ids, *sandbox.accounts_of("avoma")]
            for requests in (True, False):
                sandbox.clear()
                report = await client.transcripts.pull_to(tmp_path, accounts, **MONTHS)
                assert (report.complete, report.done, report.empty, report.failed) == (True, 2, 0, {})
                assert list(report.unsupported) == [accounts[1]]
                assert "offers meetings (list, get), users (list, get)" in report.unsupported[accounts[1]]
                assert bool(sandbox.requests) == requests
            assert "1 unsupported" in repr(report)
            assert "unsupported" in report._repr_html_()
            assert report.to_dict()["unsupported"].keys() == {accounts[1]}

    run(scenario())


def test_a_404_that_the_capabilities_do_not_confirm_is_a_failure() -> None:
    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            sandbox.script(sandbox.account_ids[0], [Fault.status(404)])
            _, report = await pulled(client, "users", sandbox.account_ids)
            assert isinstance(report.failed[sandbox.account_ids[0]], NotFoundError)
            assert (report.unsupported, report.complete, report.not_found) == ({}, False, 1)

    run(scenario())


def test_a_404_that_truto_did_not_write_takes_one_request() -> None:
    """A proxy or a balancer sent it, which knows nothing of what the account offers."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            (account,) = sandbox.account_ids
            sandbox.script(account, [Fault.body(b"", status=404, content_type="text/html")])
            _, report = await pulled(client, "interactions", [account], **MONTHS)
            assert isinstance(report.failed[account], NotFoundError)
            assert len(sandbox.requests) == 1

    run(scenario())


# --- a service that does as it is told ---------------------------------------------------------------------------


class Calls:
    """Serves ``meetings``, whatever the window, in one page, and transcripts as ``transcript`` says."""

    def __init__(self, meetings: list[dict[str, Any]], transcript: Any = None) -> None:
        self.meetings = meetings
        self.transcript = transcript or (lambda meeting: {"id": None, "n": meeting})
        self.asked: list[str] = []
        self.lists = 0
        self.calls: list[Any] = []

    async def answer(self, target: str, token: int) -> Answer:
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        if (meeting := query.get("meeting[id]")) is None:
            self.lists += 1
            return Answer(200, json.dumps({"result": self.meetings}).encode())
        self.asked.append(meeting)
        found = self.transcript(meeting)
        if isinstance(found, Answer):
            return found
        return Answer(200, json.dumps({"result": [] if found is None else [found]}).encode())


def simulated(calls: Calls) -> Any:
    async def no_pause() -> None:
        return None

    service: Any = calls
    return SimClient(service, RetryPolicy(attempts=1), no_pause)


async def pull_from(
    calls: Calls,
    resource: str,
    *,
    checkpoint: Checkpoint | None = None,
    item_type: Any = None,
    pages: int = -1,
    **options: Any,
) -> tuple[list[Any], PullReport]:
    """Return the items of a pull of one account, and its report; leave it after so many pages."""

    plan = make_plan(
        "a", resource=resource, **{"start_time": "2024-01-01", "end_time": "2024-01-04"} | options
    )
    found: list[Any] = []
    async with Pull[Any](
        simulated(calls), plan, checkpoint=checkpoint, item_type=item_type, commit="manual", lookback=None
    ) as running:
        async for page in running:
            found += page.page
            await page.commit()
            pages -= 1
            if not pages:
                break
    return found, running.report


def meeting(id: object, day: int | None = 1) -> dict[str, Any]:
    return {"id": id} | ({} if day is None else {"start_time": f"2024-01-{day:02}T10:00:00Z"})


BAD_START = [1e400, "soon", [], {}, True, ""]


@pytest.mark.parametrize("start", [None, *BAD_START[1:]])
def test_a_meeting_without_a_start_is_kept_once(start: Any) -> None:
    """Nobody can tell to which window it belongs."""

    async def scenario() -> None:
        calls = Calls([meeting("a", 1), {"id": "b", "start_time": start}, meeting("c", 3), meeting("d", 9)])
        found, report = await pull_from(calls, "meetings", item_type=Raw)
        assert [dict_of(each)["id"] for each in found] == ["a", "b", "c"]
        assert (report.filtered, report.rows, report.complete) == ({"a": 1}, 3, True)
        assert calls.lists == 2

    run(scenario())


def test_meetings_without_any_start_are_kept_once() -> None:
    """The rows cannot show that the provider ignores the window: asked for in three windows, they would come thrice."""

    async def scenario() -> None:
        found, report = await pull_from(Calls([meeting("a", None), meeting("b", None)]), "meetings")
        assert [each.id for each in found] == ["a", "b"]
        assert (report.windows_done, report.complete) == (3, True)

    run(scenario())


@pytest.mark.parametrize(
    "start",
    [
        "2024-01-03 23:59:59",
        "2024-01-04T00:59:59+01:00",
        1704326399,
        1704326399000,
        "2024-01-03",
        "2024-01-01T00:00Z",
    ],
)
def test_starts_are_read_as_leniently_as_by_the_structs(start: Any) -> None:
    async def scenario() -> None:
        row = {"id": "a", "start_time": start}
        out = {"id": "b", "start_time": "2024-01-04T00:00:00Z"}
        for item_type in (Raw, Meeting):
            found, _ = await pull_from(Calls([row, out]), "meetings", item_type=item_type)
            assert len(found) == 1

    run(scenario())


def test_a_plan_without_a_window_takes_all_meetings() -> None:
    async def scenario() -> None:
        rows = [meeting("a", 1), meeting("b", None), meeting("c", 9)]
        found, report = await pull_from(Calls(rows), "meetings", start_time=None, end_time=None, window=None)
        assert ([each.id for each in found], report.filtered) == (["a", "b", "c"], {})

    run(scenario())


def test_a_row_has_the_meeting_that_was_asked_for_even_if_the_service_leaves_it_out() -> None:
    async def scenario() -> None:
        calls = Calls([meeting("a"), meeting("b")], lambda each: {"entries": [], "meeting": {"x": each}})
        found, report = await pull_from(calls, "transcripts", window=None)
        assert [each.meeting_id for each in found] == ["a", "b"]
        assert found[0].meeting.unknown == {"x": "a"}
        found, report = await pull_from(calls, "transcripts", window=None, item_type=Raw)
        assert [dict_of(each)["meeting"] for each in found] == [{"x": "a", "id": "a"}, {"x": "b", "id": "b"}]
        assert report.without_transcript == 0

    run(scenario())


@pytest.mark.parametrize("writes", [False, True])
def test_a_transcript_of_two_pages_needs_one_place_only(writes: bool) -> None:
    """With one account at a time there is one place for a page that was read, which the first half must not keep."""

    async def scenario() -> None:
        def transcript(meeting: str) -> Answer:
            count = calls.asked.count(meeting)
            return Answer(
                200,
                json.dumps({"result": [{"n": count}], "next_cursor": "2" if count == 1 else None}).encode(),
            )

        calls = Calls([meeting("a"), meeting("b")], transcript)
        options: dict[str, Any] = {"budget": Budget(max_accounts=1), "item_type": Raw}
        plan = make_plan("a", resource="transcripts", start_time="2024-01-01", end_time="2024-01-04")
        sink = Kept()
        running = Pull[Any](
            simulated(calls), plan, sink=sink if writes else None, commit="manual", writes=writes, **options
        )
        with anyio.fail_after(10):
            async with running:
                async for page in running:
                    sink.pages.append(page)
                    await page.commit()
        found = [[dict_of(each)["n"] for each in page.page] for page in sink.pages]
        assert (found, running.report.complete) == ([[1, 2], [1, 2], []], True)

    run(scenario())


class Kept:
    """A sink that keeps its pages."""

    def __init__(self) -> None:
        self.pages: list[Any] = []

    async def open(self, state: bytes | None) -> None:
        assert state is None

    async def write(self, page: Any) -> None:
        self.pages.append(page)

    async def commit(self, *, final: bool = False) -> bytes:
        del final
        return b""


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, {"meeting": {"id": "7"}}),
        ({"meeting": None}, {"meeting": {"id": "7"}}),
        ({"meeting": {"id": None, "x": 1}}, {"meeting": {"id": "7", "x": 1}}),
        ({"meeting": "text"}, {"meeting": {"id": "7"}}),
        ({"meeting": {"id": "8"}}, {"meeting": {"id": "8"}}),
    ],
)
def test_only_a_missing_meeting_is_filled_in(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    raw = Raw(msgspec.json.encode(sent))
    (item,) = with_meeting([raw], "7")
    assert json.loads(bytes(item)) == expected
    assert with_meeting([sent], "7") == (expected,)
    if expected["meeting"]["id"] == "8":
        assert item is raw


def test_what_is_no_transcript_stays_as_it_is() -> None:
    given = Transcript(meeting=MeetingRef(id="8"))
    items = [Raw(b"[1]"), 5, given]
    assert with_meeting(items, "7") == tuple(items)
    assert with_meeting([Transcript()], "7") == (Transcript(meeting=MeetingRef(id="7")),)


def test_stopping_drops_the_second_page_of_a_transcript_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STOP_SECONDS", 0.05)

    class Hanging(Calls):
        def __init__(self) -> None:
            super().__init__([meeting("a")])
            self.hangs = asyncio.Event()

        async def answer(self, target: str, token: int) -> Answer:
            if "next_cursor" in target:
                self.hangs.set()
                await asyncio.Event().wait()
            if "meeting" in urlsplit(target).query:
                return Answer(200, b'{"result": [{"id": null}], "next_cursor": "2"}')
            return await super().answer(target, token)

    async def scenario() -> None:
        calls = Hanging()
        plan = make_plan("a", resource="transcripts", start_time="2024-01-01", end_time="2024-01-04")
        async with Pull[Any](simulated(calls), plan) as pages, asyncio.timeout(5.0):
            await calls.hangs.wait()
            pages.stop()
            assert [page async for page in pages] == []
        assert not pages.report.complete

    run(scenario())


def test_meetings_are_asked_for_by_any_id_and_once() -> None:
    """Ids that need encoding, numbers, and a meeting that is listed twice. One without an id is counted."""

    async def scenario() -> None:
        rows = [meeting(each) for each in ("2024/05/call 3+7", 10**19, "a", "a", None, "", {"x": 1})]
        calls = Calls(rows)
        _, report = await pull_from(calls, "transcripts", window=None)
        assert calls.asked == ["2024/05/call 3+7", str(10**19), "a"]
        assert (report.without_transcript, report.rows, report.complete) == (3, 3, True)

    run(scenario())


def refusal(message: str, status: int = 404, *, is_remote: bool = True) -> Answer:
    body = {"message": message, "truto_is_remote_error": is_remote, "statusCode": status}
    return Answer(status, json.dumps(body).encode())


def test_a_pull_that_is_left_goes_on_in_the_middle_of_a_page_of_meetings() -> None:
    """Without listing it again, and without asking for any meeting a second time."""

    async def scenario() -> None:
        checkpoint = MemoryCheckpoint()
        rows = [meeting(str(number)) for number in range(7)]
        calls = Calls(rows, lambda each: None if each == "1" else {"id": None, "n": each})
        options: dict[str, Any] = {"window": None, "checkpoint": checkpoint, "item_type": Raw}
        found, _ = await pull_from(calls, "transcripts", pages=3, **options)
        assert len(found) == 2
        first = len(calls.asked)
        more, report = await pull_from(calls, "transcripts", **options)
        assert sorted(dict_of(each)["n"] for each in found + more) == ["0", "2", "3", "4", "5", "6"]
        assert (calls.lists, report.complete) == (1, True)
        assert len(calls.asked) <= 7 + (first - 3), "only those that were under way when it was left"

    run(scenario())


def test_a_transcript_of_several_pages_is_one_page() -> None:
    async def scenario() -> None:
        def transcript(each: str) -> Answer:
            body = {
                "result": [{"id": None, "n": each}],
                "next_cursor": "more" if len(calls.asked) % 2 else None,
            }
            return Answer(200, json.dumps(body).encode())

        calls = Calls([meeting("a"), meeting("b")], transcript)
        found, report = await pull_from(calls, "transcripts", window=None)
        assert [each.meeting_id for each in found] == ["a", "a", "b", "b"]
        assert (report.pages, report.requests) == (2, 5)

    run(scenario())


@pytest.mark.parametrize(
    ("message", "is_missing"),
    [
        ("No calls found corresponding to the provided filters", True),
        ("transcript not found", True),
        ("The transcript for this call is not available yet", True),
        ("Call 77 was not recorded", True),
        ("This meeting has not been transcribed", True),
        ("there is no transcript for meeting 77", True),
        ("Transcript does not exist", True),
        ("Could not find company", False),
        ("You have no access to transcripts", False),
        ("no route matches /transcripts/7", False),
        ("workspace not found", False),
        ("", False),
    ],
)
def test_a_404_says_that_there_is_no_transcript(message: str, is_missing: bool) -> None:
    async def scenario() -> None:
        calls = Calls(
            [meeting("a"), meeting("b")],
            lambda each: refusal(message) if each == "a" else {"id": None, "n": each},
        )
        _, report = await pull_from(calls, "transcripts", window=None)
        assert (report.complete, report.without_transcript, report.no_data) == (
            is_missing,
            int(is_missing),
            0,
        )
        assert bool(report.failed) != is_missing

    run(scenario())
    assert not says_no_transcript(
        NotFoundError("transcript not found", status=404, error="", is_remote=False)
    )


# --- plans and what is stored --------------------------------------------------------------------------------------


def test_a_plan_is_of_one_resource(tmp_path: Path) -> None:
    plan = make_plan("a", resource="meetings")
    assert Plan.from_json(plan.to_json()) == plan
    assert plan != make_plan("a")
    assert plan.digest != make_plan("a").digest
    assert "resource is meetings, stored is interactions" in str(plan.difference(make_plan("a")))
    old = json.loads(make_plan("a").to_json())
    del old["resource"]
    assert Plan.from_json(json.dumps(old)) == make_plan("a")
    with pytest.raises(UsageError, match="there is no pull of 'calls'"):
        Plan.from_json(json.dumps(old | {"resource": "calls"}))

    async def scenario() -> None:
        async with TrutoClient("token") as client:
            with pytest.raises(UsageError, match=r"a plan of meetings: pull it with truto\.meetings"):
                client.users.pull(plan)
            with pytest.raises(UsageError, match="lookback is for transcripts"):
                async with client.meetings.pull(plan, lookback="2d"):
                    pass
            for length in ("soon", 5, timedelta(-1)):
                with pytest.raises(UsageError, match="lookback is a length"):
                    client.transcripts.pull(make_plan("a", resource="transcripts"), lookback=length)  # type: ignore[arg-type]
            async with SQLiteCheckpoint(tmp_path / "state") as checkpoint:
                await checkpoint.open(make_plan("a"))
            with pytest.raises(StateConflictError, match="resource is meetings"):
                async with client.meetings.pull(plan, checkpoint=SQLiteCheckpoint(tmp_path / "state")):
                    pass

    run(scenario())


@pytest.mark.parametrize(
    ("resource", "options", "words"),
    [
        ("users", {"start_time": START}, "users have no window"),
        ("users", {"window": "day"}, "users have no window"),
        ("users", {"users": ["1"]}, "cannot be filtered by users"),
        ("activity", {}, "activity needs a start_time"),
        ("activity", {"end_time": END}, "activity needs a start_time"),
        ("meetings", {**BOUNDS, "users": ["1"]}, "cannot be filtered by users"),
        ("meetings", {**BOUNDS, "exclude_fields": ["start_time"]}, "needs start_time"),
        ("transcripts", {**BOUNDS, "extra_query": {"meeting": {"id": "1"}}}, "must not set meeting"),
        ("transcripts", {**BOUNDS, "response_format": "raw"}, "response_format of a pull"),
    ],
)
def test_what_a_resource_does_not_take_is_told_before_anything_is_sent(
    resource: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        make_plan("a", **{"resource": resource, "start_time": None, "window": None, **options})


def test_a_damaged_position_is_told() -> None:
    plan = make_plan("a", resource="transcripts")
    texts = ("x", "meetings-1.", 'meetings-1.["x",[],{}]', "meetings-1.[null,[1],{}]", "whole.x", "whole.")

    async def scenario() -> None:
        for text in texts:
            checkpoint = MemoryCheckpoint()
            await checkpoint.open(plan)
            await checkpoint.commit({("a", 0): Progress(position=text)})
            await checkpoint.aclose()
            client: Any = SimClient(Calls([]), RetryPolicy(), scenario)  # type: ignore[arg-type]
            with pytest.raises(DamagedStateError, match="position of account a is damaged"):
                async with Pull[Any](client, plan, checkpoint=checkpoint):
                    pass

    run(scenario())


def test_a_queue_of_meetings_survives_storing_and_remembers_the_last_ones_that_are_missing() -> None:
    queue = MeetingQueue("page", ("1", 'é "2'), {"0": 5.0})
    assert MeetingQueue.parse(str(queue)) == queue
    queue.asked("1", found=False, now=7.0)
    assert (queue.ids, queue.missing) == (('é "2',), {"0": 5.0, "1": 7.0})
    assert queue.due(9.0, 2.0) == ("1",)
    for number in range(MISSING_KEPT):
        queue.asked(f"m{number}", found=False, now=8.0)
    assert (len(queue.missing), "0" in queue.missing) == (MISSING_KEPT, False)
    queue.asked("m5", found=True, now=9.0)
    assert "m5" not in queue.missing


@pytest.mark.parametrize("windows", [3, 30])
def test_what_is_known_of_a_finished_window_is_loaded_with_the_others(windows: int, tmp_path: Path) -> None:
    """Finished windows share a row of the state, except for those with something to remember."""
    plan = make_plan("a", "b", resource="transcripts", start_time=f"-{windows}d")
    kept = Progress(outcome="done", rows=2, pages=3, position=str(MeetingQueue(None, (), {"m": 1.0})))
    skipped = Progress(outcome="empty", position=UNSUPPORTED, error="why")

    async def scenario() -> None:
        for checkpoint in (MemoryCheckpoint(), SQLiteCheckpoint(tmp_path / f"{windows}")):
            async with checkpoint:
                await checkpoint.open(plan)
                for window in range(windows):
                    await checkpoint.commit({("a", window): Progress(outcome="done", rows=1, pages=1)})
                    await checkpoint.commit({("b", window): Progress(outcome="empty", pages=1)})
                await checkpoint.commit({("a", 1): kept, ("b", 0): skipped})
                found = {name: each async for name, each in checkpoint.load_accounts()}
                assert (found["a"].windows_over(), found["b"].windows_over()) == (windows, windows)
                assert found["a"].later[1] == kept
                assert found["b"].later[0] == skipped
                assert (found["a"].finished, found["b"].finished) == (1, 0)

    run(scenario())


# --- several resources ---------------------------------------------------------------------------------------------


def test_several_resources_go_into_one_folder(tmp_path: Path) -> None:
    """Accounts are looked up once, a second run sends nothing, and a resource that is added has the same times."""

    async def scenario() -> None:
        async with service() as (sandbox, client):
            wanted: dict[str, Any] = {"integration": "gong", "status": "active", "start_time": "-900d"}
            names = ["meetings", "transcripts", "users"]
            reports = await pull_resources(client, tmp_path, names, **wanted)
            assert reports.complete
            assert (list(reports.by_resource), reports.rows > 0, reports.failed) == (names, True, {})
            assert reports["transcripts"].resource == "transcripts"
            assert [each.path for each in sandbox.requests].count("/integrated-account") == 1
            manifest = json.loads((tmp_path / "manifest.json").read_bytes())
            assert (list(manifest["resources"]), manifest["complete"]) == (sorted(names), True)
            assert {path.name for path in tmp_path.iterdir()} >= {state_file(name) for name in names}
            sandbox.clear()
            assert (await pull_resources(client, tmp_path, names, **wanted)).complete
            assert not sandbox.requests
            reports = await pull_resources(
                client, tmp_path, ["meetings", "activity"], **wanted | {"end_time": "today"}
            )

    with pytest.raises(StateConflictError, match="end_time"):
        run(scenario())


def test_a_resource_that_is_added_has_the_clock_and_the_accounts_of_the_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            for names in (["meetings"], ["meetings", "transcripts"]):
                plans: list[Plan] = []
                accounts = each_of(sandbox.account_ids)  # which can be gone through once
                reports = await pull_resources(
                    client,
                    tmp_path,
                    names,
                    accounts,
                    start_time="-900d",
                    window="month",
                    on_start=lambda pull, plans=plans: plans.append(pull.plan),  # type: ignore[misc]
                )
                assert reports.complete
            assert plans[0].windows == plans[1].windows
            assert plans[0].accounts == plans[1].accounts

    run(scenario())


async def each_of(found: list[str]) -> AsyncIterator[str]:
    for each in found:
        yield each


def test_stopping_leaves_the_other_resources_to_the_next_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            names = ["users", "meetings"]
            reports = await pull_resources(
                client, tmp_path, names, sandbox.account_ids, **BOUNDS, on_start=lambda pull: pull.stop()
            )
            assert (reports.complete, reports.by_resource["meetings"]) == (False, None)
            assert reports.to_dict()["resources"]["meetings"] is None
            assert "not begun" in reports._repr_html_()
            assert "meetings" in repr(reports)
            with pytest.raises(KeyError):
                reports["meetings"]
            assert (await pull_resources(client, tmp_path, names, sandbox.account_ids, **BOUNDS)).complete

    run(scenario())


@pytest.mark.parametrize(
    ("resources", "options", "words"),
    [
        ([], {}, "no resources"),
        ("meetings", {}, "a list of names"),
        (["meetings", "calls"], BOUNDS, "no resource 'calls' to pull"),
        (["meeting"], BOUNDS, "no resource 'meeting' .*did you mean meetings"),
        (["transcript"], BOUNDS, "no resource 'transcript' .*did you mean transcripts"),
        (["users", "activity"], {}, "activity needs a start_time"),
        (["interactions", "meetings"], {**BOUNDS, "users": ["1"]}, "meetings cannot be filtered by users"),
        (["meetings"], {**BOUNDS, "lookback": "2d"}, "lookback is for transcripts"),
        (["meetings", "transcripts"], {**BOUNDS, "lookback": "soon"}, "lookback is a length"),
        (["users"], BOUNDS, "start_time, end_time: users are"),
        (
            ["meetings"],
            {**BOUNDS, "budget": truto_ci_async.Budget(), "max_accounts": 3},
            "max_accounts=3 and a budget with",
        ),
    ],
)
def test_options_that_do_not_fit_the_resources_are_told_first(
    resources: Any, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with service() as (sandbox, client):
            with pytest.raises(UsageError, match=words):
                await pull_resources(client, tmp_path, resources, sandbox.account_ids, **options)
            assert (sandbox.requests, list(tmp_path.iterdir())) == ([], [])

    run(scenario())


def test_the_command_pulls_several_resources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with Sandbox.in_thread(accounts=1, meetings=MEETINGS, providers={"avoma": 1}, token_rate=None) as sandbox:
        accounts = ",".join([*sandbox.account_ids, *sandbox.accounts_of("avoma")])
        line = ["pull", "--accounts", accounts, "--out", str(out), "--start-time", START, "--end-time", END]
        line += ["--resource", "meetings,transcripts", "--report", str(tmp_path / "report.json")]
        connection = ["--api-url", sandbox.url, "--token", sandbox.token]
        assert main([*line, *connection, "--lookback", "2d"]) == 0
    said = capsys.readouterr().err
    assert "meetings:" in said
    assert "transcripts:" in said
    assert "unsupported    1  their product does not have this resource: done" in said
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert (report["complete"], list(report["resources"])) == (True, ["meetings", "transcripts"])
    assert report["rows"] == sum(each["rows"] for each in report["resources"].values())


# --- killed ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with Runs() as running:
        yield running


MANY_KILLS = [(step, nth) for step in ("write", "fsync", "checkpoint", "committed") for nth in (1, 2, 3)]


@posix
@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("kills", [[("checkpoint", 2)], pytest.param(MANY_KILLS, marks=pytest.mark.long)])
def test_killed_and_run_again_nothing_is_lost_or_doubled(
    resource: str, kills: list[tuple[str, int]], tmp_path: Path, runs: Runs
) -> None:
    """In processes that get a SIGKILL before a commit, after one, and in between."""
    with Sandbox.in_thread(
        accounts=2, meetings=MEETINGS, interactions=5, page_size=2, providers={"firefliesai": 1}, token_rate=None,
        account_rate=None, ratelimit_headers=None,
    ) as sandbox:  # fmt: skip
        accounts = [*sandbox.account_ids, *sandbox.accounts_of("firefliesai")]
        for step, nth in kills:
            folder = tmp_path / f"{step}-{nth}"
            job: dict[str, Any] = {
                "url": sandbox.url,
                "token": sandbox.token,
                "accounts": accounts,
                "folder": str(folder),
                "format": "ndjson",
                "resource": resource,
                "start_time": START,
                "end_time": END,
                "window": "month",
                "max_accounts": 2,
            }
            ran = runs.run(**job, kill=(step, nth))
            while ran.is_killed:
                ran = runs.run(**job)
            assert (ran.status, ran.result["complete"]) == (0, True), ran
            rows = [json.loads(line) for line in (folder / f"{resource}.ndjson").read_text().splitlines()]
            found = Counter((row["integrated_account_id"], key_of(resource, row)) for row in rows)
            assert found == expected_keys(sandbox, resource, accounts), (step, nth)


def key_of(resource: str, row: dict[str, Any]) -> str:
    if resource == "activity":
        return f"{row['window_start']} {row['user']['id']}"
    return str(row["meeting"]["id"] if resource == "transcripts" else row["id"])


def expected_keys(sandbox: Sandbox, resource: str, accounts: list[str]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    gong = set(sandbox.account_ids)
    for account in accounts:
        if resource == "users":
            keys = [row["id"] for row in sandbox.expected(account, resource="users")]
        elif resource == "activity":
            months = [(START, "2024-02-01T00:00:00Z"), ("2024-02-01T00:00:00Z", END)]
            keys = [
                f"{start} {row['user']['id']}"
                for start, end in (months if account in gong else [])
                for row in sandbox.expected(account, resource="activity", start_time=start, end_time=end)
            ]
        else:
            keys = in_window(sandbox, account)
            if resource == "transcripts":
                keys = [
                    each
                    for each in keys
                    if account in gong and sandbox.expected(account, resource="transcripts", meeting=each)
                ]
        found.update((account, key) for key in keys)
    return found


# --- names -----------------------------------------------------------------------------------------------------


def test_names_come_from_the_directory() -> None:
    directory = {"1": User(id="1", name="Ann", emails=(Email(email="ann@example.com"),)), "2": User(id="2")}
    bare = Interaction(id="a", user=Person(id="1"))
    known = Interaction(id="b", user=Person(id="1", name="Anna", emails=(Email(email="x@example.com"),)))
    others = [
        Interaction(id="c", user=Person(id="9")),
        Interaction(id="d"),
        Interaction(id="e", user=Person()),
        {"a": 1},
    ]
    named = with_names([bare, known, *others], directory)
    assert named[1:] == [known, *others]
    person = named[0].user  # type: ignore[union-attr]
    assert (person.name, person.email) == ("Ann", "ann@example.com")
    page = Page([bare], item_type=Interaction)
    assert page.with_names(directory).items == (named[0],)
    assert page.items == (bare,)
    whole = AccountPage(PlannedAccount("x"), Window(), page).with_names(directory)
    assert whole.parts().parts[0].items == (named[0],)


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_names_are_filled_in_a_data_frame(library: str) -> None:
    people = [
        Person(id="1"),
        Person(id="2", name="Own"),
        Person(id="3"),
        Person(),
    ]
    page = Page([Interaction(id="a", user=each) for each in people], item_type=Interaction)
    directory = {
        "1": User(id="1", name="Ann", emails=(Email(email="ann@x.example"),)),
        "2": User(id="2", name="Ben", emails=(Email(email="ben@x.example"),)),
    }
    frame = getattr(page, f"to_{library}")()
    named = with_names(frame, directory)
    found = {
        name: [each if isinstance(each, str) else None for each in named[name].to_list()]
        for name in frame.columns
    }
    assert found["user_name"] == ["Ann", "Own", None, None]
    assert found["user_email"] == ["ann@x.example", "ben@x.example", None, None]
    assert list(named.columns) == list(frame.columns)
    assert dict(zip(named.columns, named.dtypes, strict=True)) == dict(
        zip(frame.columns, frame.dtypes, strict=True)
    )
    assert not any(isinstance(each, str) for each in frame["user_name"].to_list()[:1])


def test_names_of_other_frames_are_filled_before_they_are_made() -> None:
    """Iterating over a data frame gives its columns, which would come back unchanged."""
    page = Page([Interaction(id="a", user=Person(id="1"))], item_type=Interaction)
    for frame in (page.to_arrow(), page.to_polars(["id"]), page.to_pandas(["id"])):
        with pytest.raises(UsageError, match=r"page\.with_names\(directory\)\.to_arrow\(\)"):
            with_names(frame, {})


def test_pulls_pages_and_folders_are_shown_in_a_notebook(tmp_path: Path) -> None:
    """With where they come from, and hostile text escaped."""
    page = Page([User(id="1", name="<script>")], item_type=User)
    shown = AccountPage(PlannedAccount("acme"), Window("2024-01-01", "2024-02-01"), page)._repr_html_()
    assert all(
        text in shown for text in ("AccountPage", "acme", "2024-01-01 to 2024-02-01", "&lt;script&gt;")
    )

    assert "None" not in AccountPage(PlannedAccount("acme"), Window(), page)._repr_html_()

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            async with client.users.pull(sandbox.account_ids) as pull:
                assert "1 windows, filters" in repr(pull.plan)
                assert repr(pull).startswith("<Pull PullReport(0 of 1 accounts done")
                async for _ in pull:
                    pass
            assert repr(pull).startswith("<Pull PullReport(1 of 1 accounts done")
            assert pull._repr_html_() == pull.report._repr_html_()
            await client.users.pull_to(tmp_path, sandbox.account_ids)

    run(scenario())
    folder = truto_ci_async.read_folder(tmp_path, resource="users")._repr_html_()
    rows = f"{len(truto_ci_async.read_folder(tmp_path, resource='users'))} rows of ndjson"
    assert all(
        text in folder for text in ("Folder", str(tmp_path)[:20], "users", rows, "complete", "timestamp")
    )


def test_interactions_have_names_with_the_directory_of_their_account() -> None:
    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            account = sandbox.account_ids[0]
            page = await client.interactions.list(account, **BOUNDS)
            assert all(item.user is not None and item.user.name is None for item in page)
            named = page.with_names(await client.users.directory(account))
            assert all(item.user is not None and item.user.name for item in named)

    run(scenario())


def test_transcripts_that_are_none_are_counted(tmp_path: Path) -> None:
    """NDJSON keeps them as they came, so the report has to say so."""

    async def scenario() -> None:
        async with service(accounts=1) as (sandbox, client):
            account = sandbox.account_ids[0]
            sandbox.script(account, [Fault.ok(), Fault.edit(lambda record: 5)])
            report = await client.transcripts.pull_to(tmp_path, [account], start_time=START, end_time=END)
            assert report.complete
            assert report.issues == 1
            assert b'"item":5}' in (tmp_path / "transcripts.ndjson").read_bytes()

    run(scenario())

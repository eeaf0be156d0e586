"""What must be true of a sync into any database: shared by the tests of DuckDB and of PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.landings import FEBRUARY, JANUARY, Database, client_of, interaction, page_of, plan_of, target_of
from tests.pull_runs import Runs
from tests.pull_runs import landing_store as store_for_url
from truto_ci_async import (
    Fault,
    Key,
    Meeting,
    MeetingRef,
    Pacing,
    ReadWindow,
    Sandbox,
    StateConflictError,
    SyncChanges,
    Transcript,
    TrutoClient,
    UsageError,
    Window,
    WindowDiffers,
)
from truto_ci_async.pull.sync.plan import header_of

PACIFIC = ZoneInfo("US/Pacific")
FIRST_NIGHT = datetime(2024, 3, 8, 11, tzinfo=UTC)  # the clocks are put forward two nights later
HISTORY_DAYS = 4
SETTLING = 1.9 * 86_400  # less than the look-back
SYNC: dict[str, Any] = {
    "since": "last",
    "lookback": "2d",
    "max_history": f"{HISTORY_DAYS}d",
    "time_zone": "US/Pacific",
}
NO_LIMITS: dict[str, Any] = {"token_rate": None, "account_rate": None, "ratelimit_headers": None}

Row = tuple[str, str, str, str]


class Clock:
    """The clock of a sandbox, set by the test."""

    def __init__(self, now: datetime = FIRST_NIGHT) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()

    def next_night(self) -> None:
        self.now += timedelta(days=1)


def service(clock: Clock, accounts: int = 2, **options: Any) -> Sandbox:
    given: dict[str, Any] = {"interactions": 12, "meetings": 500, "page_size": 5, **NO_LIMITS, **options}
    sandbox = Sandbox(accounts=accounts, clock=clock, **given)
    for account in sandbox.account_ids:
        sandbox.configure(account, settling=SETTLING)
    return sandbox


def days_until(now: datetime, first: date) -> list[tuple[str, str]]:
    """Return the company's days that are over."""
    found: list[tuple[str, str]] = []
    day = first
    while True:
        start, end = (
            datetime.combine(day + timedelta(days=more), time(), PACIFIC).astimezone(UTC) for more in (0, 1)
        )
        if end > now:
            return found
        found.append((start.isoformat(), end.isoformat()))
        day += timedelta(days=1)


def first_day(begun: datetime) -> date:
    return (begun - timedelta(days=HISTORY_DAYS)).astimezone(PACIFIC).date()


def truth(sandbox: Sandbox, account: str, now: datetime, begun: datetime, resource: str) -> list[Row]:
    """Return what the sandbox holds of an account whose first sync began at a time."""
    days = days_until(now, first_day(begun))
    if resource == "meetings":
        rows = sandbox.expected(account, resource=resource, start_time=days[0][0], end_time=now.isoformat())
        return sorted((account, row["id"], row["title"], "") for row in rows)
    return sorted(
        (account, start, row["user"]["id"], str(row["metrics"].get("patience")))
        for start, end in days
        for row in sandbox.expected(account, resource=resource, start_time=start, end_time=end)
    )


def rows_of(database: Database, account: str, resource: str) -> list[Row]:
    columns = (
        "id, title, ''" if resource == "meetings" else "window_start AT TIME ZONE 'UTC', user_id, patience"
    )
    found = database.sql(
        f"SELECT integrated_account_id, {columns} FROM {resource} WHERE integrated_account_id = '{account}'"
    )
    if resource == "meetings":
        return sorted(found)
    return sorted(
        (name, start.replace(tzinfo=UTC).isoformat(), user, text_of(value))
        for name, start, user, value in found
    )


def text_of(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def same(one: Sequence[Row], other: Sequence[Row]) -> bool:
    """Compare rows; a number may have been written as 5 or as 5.0."""
    return [(*row[:3], row[3].removesuffix(".0")) for row in one] == [
        (*row[:3], row[3].removesuffix(".0")) for row in other
    ]


def landing_store(database: Database, **options: Any) -> Any:
    """Return the store of a database, or of a bucket, which makes its own."""
    if (make := getattr(database, "store", None)) is not None:
        options.pop("mode", None)
        return make(**options)
    return store_for_url(database.url, **options)


async def sync(
    client: TrutoClient, database: Database, clock: Clock, accounts: Sequence[str], resource: str, **more: Any
) -> Any:
    pull_to = getattr(client, resource).pull_to
    into = target_of(database, resource=resource)
    return await pull_to(into, accounts, **{**SYNC, "now": clock.now, **more})


# --- nights ----------------------------------------------------------------------------------------------------


async def _five_nights(database: Database, resource: str) -> None:
    clock = Clock()
    async with service(clock, accounts=3) as sandbox, client_of(sandbox) as client:
        first, failing, new = sandbox.account_ids
        begun = {first: clock.now, failing: clock.now}
        for night in range(5):
            if night == 3:
                begun[new] = clock.now
            sandbox.configure(failing, blocked=night == 2)
            report = await sync(client, database, clock, [*begun], resource)
            assert set(report.failed) == ({failing} if night == 2 else set())
            assert not report.misaligned
            for account, start in begun.items():
                if account not in report.failed:
                    expected = truth(sandbox, account, clock.now, start, resource)
                    assert expected
                    assert same(rows_of(database, account, resource), expected), (night, account)
            clock.next_night()


async def check_five_nights_of_interactions(database: Database) -> None:
    """Rows that come late, change and are gone again, an account that fails for a night, and a new one."""
    await _five_nights(database, "interactions")


async def check_five_nights_of_meetings(database: Database) -> None:
    await _five_nights(database, "meetings")


async def check_a_second_run_asks_little_and_changes_nothing(database: Database) -> None:
    clock = Clock()
    async with service(clock) as sandbox, client_of(sandbox) as client:
        accounts = sandbox.account_ids
        report = await sync(client, database, clock, accounts, "interactions")
        assert (report.complete, report.windows, report.windows_done) == (True, 4, 8)
        before = [rows_of(database, account, "interactions") for account in accounts]
        marks = database.sql("SELECT account, mark FROM _truto_sync")
        assert len(marks) == 2
        report = await sync(client, database, clock, accounts, "interactions")
        assert (report.complete, report.windows) == (True, 2)  # those within the look-back
        report = await sync(client, database, clock, accounts, "interactions", lookback=timedelta(0))
        assert (report.complete, report.requests) == (True, 0)
        assert [rows_of(database, account, "interactions") for account in accounts] == before
        assert database.sql("SELECT account, mark FROM _truto_sync") == marks
        assert database.sql("SELECT count(*) FROM _truto_progress") == [(0,)]
        assert database.sql("SELECT count(*) FROM _truto_staged") == [(0,)]


async def check_other_resources_are_synced(database: Database) -> None:
    clock = Clock()
    async with service(clock) as sandbox, client_of(sandbox) as client:
        accounts = sandbox.account_ids
        for resource in ("users", "transcripts", "activity"):
            counts: list[Any] = []
            for _ in range(2):
                report = await sync(client, database, clock, accounts, resource)
                assert report.complete
                counts.append(database.sql(f"SELECT count(*) FROM {resource}"))
            assert counts[0] == counts[1] != [(0,)]
        users = sum(len(sandbox.expected(account, resource="users")) for account in accounts)
        assert database.sql("SELECT count(*) FROM users") == [(users,)]
        for account in accounts:
            sandbox.configure(account, interactions=10)
        await sync(client, database, clock, accounts, "users")
        assert database.sql("SELECT count(*) FROM users") == [(20,)]


async def check_rows_that_are_gone_can_be_kept(database: Database) -> None:
    clock = Clock()
    async with service(clock, accounts=1) as sandbox, client_of(sandbox) as client:
        (account,) = sandbox.account_ids
        sandbox.configure(account, settling=0.0)
        await sync(client, database, clock, [account], "interactions")
        before = rows_of(database, account, "interactions")
        sandbox.configure(account, interactions=10)
        for _ in range(2):
            await sync(client, database, clock, [account], "interactions", keep_missing=True)
            assert rows_of(database, account, "interactions") == before
        await sync(client, database, clock, [account], "interactions")
        assert len(rows_of(database, account, "interactions")) == len(before) - 2 * 2


async def check_a_window_that_fails_in_the_middle_takes_nothing_away(database: Database) -> None:
    clock = Clock()
    async with service(clock, accounts=1) as sandbox, client_of(sandbox) as client:
        (account,) = sandbox.account_ids
        await sync(client, database, clock, [account], "interactions")
        before = rows_of(database, account, "interactions")
        marks = database.sql("SELECT mark FROM _truto_sync")
        sandbox.configure(account, interactions=11, settling=0.0)
        sandbox.script(account, [Fault.ok(), *[Fault.status(403)] * 3])
        clock.next_night()
        report = await sync(client, database, clock, [account], "interactions")
        assert set(report.failed) == {account}
        assert rows_of(database, account, "interactions") == before
        ((mark,),) = database.sql("SELECT mark FROM _truto_sync")
        assert mark.startswith(marks[0][0][:-1])
        assert "PermissionDeniedError" in mark
        sandbox.clear_faults()
        assert (await sync(client, database, clock, [account], "interactions")).complete
        kept = [row for row in before if row[1] < "2024-03-06"]  # older than the look-back
        assert len(rows_of(database, account, "interactions")) == len(kept) + 3 * 11


async def check_a_walk_that_begins_again_counts_once(database: Database) -> None:
    """Cursors die in the middle of windows, after rows of theirs were committed."""
    clock = Clock()
    async with service(clock, interactions=90) as sandbox, client_of(sandbox) as client:
        accounts = sandbox.account_ids
        stops = [4, 9, 60, 100]  # a window is begun again three times at most

        async def watch(running: Any) -> None:
            while not running.report.complete:
                if stops and running.report.pages >= stops[0]:
                    stops.pop(0)
                    await asyncio.sleep(0.06)  # a commit begins meanwhile
                    sandbox.expire_cursors()
                await asyncio.sleep(0)

        watching: list[asyncio.Task[None]] = []

        def begin(running: Any) -> None:
            watching.append(asyncio.create_task(watch(running)))

        report = await sync(
            client,
            database,
            clock,
            accounts,
            "interactions",
            on_start=begin,
        )
        watching[0].cancel()
        assert report.complete, report.failed
        assert not stops
        for account in accounts:
            expected = truth(sandbox, account, clock.now, clock.now, "interactions")
            assert same(rows_of(database, account, "interactions"), expected)
        assert database.sql("SELECT count(*) FROM _truto_staged") == [(0,)]


async def check_a_window_that_two_runs_read_is_read_anew(database: Database) -> None:
    """Between two runs, rows move from page to page."""
    clock = Clock()
    async with service(clock, interactions=60) as sandbox, client_of(sandbox) as client:
        accounts = sandbox.account_ids

        async def stop(running: Any) -> None:
            while running.report.pages < 5:
                await asyncio.sleep(0)
            running.stop()

        stopping: list[asyncio.Task[None]] = []

        def begin(running: Any) -> None:
            stopping.append(asyncio.create_task(stop(running)))

        report = await sync(
            client,
            database,
            clock,
            accounts,
            "interactions",
            on_start=begin,
        )
        assert not report.complete
        for account in accounts:
            sandbox.configure(account, interactions=40)
        assert (await sync(client, database, clock, accounts, "interactions")).complete
        for account in accounts:
            expected = truth(sandbox, account, clock.now, clock.now, "interactions")
            assert same(rows_of(database, account, "interactions"), expected)


async def check_windows_of_another_zone_are_told_and_not_complete(database: Database) -> None:
    """A day of UTC is over hours before the company's day with which it is answered."""
    clock = Clock(datetime(2024, 3, 8, 3, tzinfo=UTC))
    events: list[WindowDiffers] = []
    async with (
        service(clock, accounts=1) as sandbox,
        TrutoClient(
            sandbox.token,
            base_url=sandbox.url,
            on_event=lambda event: events.append(event) if isinstance(event, WindowDiffers) else None,
        ) as client,
    ):
        (account,) = sandbox.account_ids
        report = await sync(client, database, clock, [account], "interactions", time_zone=None)
        assert "8 h at its start are missing" in report.misaligned[account]
        assert [(event.account, event.time_zone) for event in events] == [(account, "US/Pacific")]
        ((mark,),) = database.sql("SELECT mark FROM _truto_sync")
        assert '"2024-03-07T00:00:00Z"]]' in mark  # 7 March is over in UTC alone
        # The zone is known now: all of it is read again, in the company's days, and no time is counted twice.
        clock.next_night()
        report = await sync(client, database, clock, [account], "interactions")
        assert not report.misaligned
        overlaps = database.sql(
            """SELECT count(*) FROM interactions a JOIN interactions b USING (integrated_account_id, user_id)
                   WHERE a.window_start < b.window_start AND b.window_start < a.window_end"""
        )
        assert overlaps == [(0,)]


async def check_a_table_is_synced_or_pulled(database: Database) -> None:
    clock = Clock()
    async with service(clock) as sandbox, client_of(sandbox) as client:
        into, accounts = client.interactions.pull_to, sandbox.account_ids
        await sync(client, database, clock, accounts, "interactions")
        sandbox.clear()
        with pytest.raises(StateConflictError, match='is synced: pass since="last"'):
            await into(database.url, accounts, start_time="2024-01-01", end_time="2024-01-02")
        with pytest.raises(StateConflictError, match="other filters"):
            await sync(client, database, clock, accounts, "interactions", users=["u"])
        with pytest.raises(UsageError, match='mode="merge"'):
            await sync(client, database, clock, accounts, "interactions", mode="append")
        assert not sandbox.requests
        await into(database.url, accounts, table="pulled", start_time="2024-01-01", end_time="2024-01-02")
        with pytest.raises(StateConflictError, match="a pull of its own"):
            await sync(client, database, clock, accounts, "interactions", table="pulled")
        report = await sync(client, database, clock, accounts, "interactions", fresh=True)
        assert (report.complete, report.windows) == (True, HISTORY_DAYS)


async def check_the_quota_of_a_day_is_counted_over_syncs(database: Database) -> None:
    """A second sync of the day has what the first has left, and once that is used up the account is parked."""
    clock = Clock()
    async with service(clock, accounts=1, interactions=2) as sandbox:
        (account,) = sandbox.account_ids
        asked: list[int] = []
        for _ in range(4):
            before = sandbox.stats.requests
            async with TrutoClient(
                sandbox.token, base_url=sandbox.url, pacing=Pacing(account_daily=HISTORY_DAYS + 3)
            ) as client:
                report = await sync(client, database, clock, [account], "interactions")
            asked.append(sandbox.stats.requests - before)
            assert not report.failed
        assert asked == [HISTORY_DAYS, 2, 1, 0]
        assert report.parked[account]


async def check_the_sync_of_the_documentation(database: Database) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "databases.md").read_text(encoding="utf-8")
    program = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    _, query = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "databases.md", "exec"), names)
    await names["nightly"](target_of(database))
    marks = database.sql(query)
    assert len(marks) == 3
    assert all(mark.startswith('{"grid":"day US/Pacific","complete":[["') for _, mark in marks)


# --- stores ----------------------------------------------------------------------------------------------------


def walked(items: Sequence[Any], *, key: Key = ("a", 0), is_first: bool = False) -> Any:
    page: Any = page_of(items)
    return _Walked(page, key, is_first)


class _Walked:
    """A page as a pull hands it out in a sync."""

    def __init__(self, page: Any, key: Key, is_first: bool) -> None:
        self._page, self.key, self.is_first = page, key, is_first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)


READ = ReadWindow(
    "a", 0, datetime.fromisoformat(str(JANUARY.start)), datetime.fromisoformat(str(JANUARY.end))
)


async def check_pages_of_an_open_window_are_out_of_sight(database: Database) -> None:
    header = header_of(plan_of())
    store = landing_store(database, mode="merge")
    assert await store.open_sync(header, ["a"], fresh=False) == {}

    async def commit(*windows: ReadWindow) -> None:
        changes = SyncChanges(windows, {"a": f"{len(windows)} read"})
        assert await store.commit({}, row_fingerprints={}, final=False, sync=changes)

    def found() -> list[Any]:
        return database.sql("SELECT id, timezone FROM interactions ORDER BY id")

    async def looked() -> list[Any]:
        if hasattr(database, "store"):
            return found()
        # DuckDB lets one process in, and this one is: so from the store's own connection.
        return sorted(await looking(store, "SELECT id, timezone FROM interactions"))

    await store.write(walked([interaction("1"), interaction("gone")], is_first=True))
    await commit()
    assert await looked() == []
    await store.write(walked([interaction("1", timezone="old"), interaction("2")], is_first=True))
    await store.write(walked([interaction("3"), interaction("4", user="ü", remote_json=b"{}")]))
    await commit()
    await store.write(walked([interaction("1", timezone="new"), interaction("1", timezone="newest")]))
    await store.write(walked([], key=("a", 1), is_first=True))
    await commit(READ)
    assert await looked() == [("1", "newest"), ("2", None), ("3", None), ("4", None)]
    await store.write(walked([interaction("5")], key=("a", 0), is_first=True))
    await commit()
    await store.aclose()
    assert found() == [("1", "newest"), ("2", None), ("3", None), ("4", None)]
    # What that run left is dropped, and its mark is there.
    assert await store.open_sync(header, ["a", "b"], fresh=False) == {"a": "0 read"}
    # A walk may begin again with a page without rows, in a commit that has nothing else.
    for page in (walked([interaction("gone")], is_first=True), walked([], is_first=True)):
        await store.write(page)
        assert await store.commit({}, row_fingerprints={}, final=False, sync=SyncChanges())
    await store.write(walked([interaction("6")]))
    await commit(READ)
    await store.aclose()
    assert found() == [("6", None)]
    assert await store.open_sync(header, ["a"], fresh=True) == {}
    await store.aclose()
    assert found() == [("6", None)]


async def looking(store: Any, statement: str) -> list[Any]:
    if hasattr(store, "_run"):
        found: list[Any] = await store._run("read", store._all, statement)
        return found
    cursor = await store._execute(statement)
    rows: list[Any] = await cursor.fetchall()
    return rows


async def check_a_meeting_that_moved_is_there_once(database: Database) -> None:
    store = landing_store(database, resource="meetings", mode="merge")
    await store.open_sync(header_of(plan_of("meetings")), ["a"], fresh=False)
    january, march = (
        READ,
        ReadWindow("a", 1, datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)),
    )
    moved = [
        Meeting(id="m", start_time=datetime(2024, 1, 5, tzinfo=UTC)),
        Meeting(id="m", start_time=datetime(2024, 3, 5, tzinfo=UTC)),
    ]
    for meeting, window in zip(moved, (january, march), strict=True):
        page = walked([meeting], key=window.key, is_first=True)
        await store.write(page)
        changes = SyncChanges((window,))
        assert await store.commit({}, row_fingerprints={}, final=True, sync=changes)
    await store.aclose()
    assert database.sql("SELECT count(*) FROM meetings") == [(1,)]


async def check_a_refused_row_takes_no_other_with_it(database: Database) -> None:
    """Which rows are refused is found out without those that the windows had before."""
    store = landing_store(database, mode="merge", on_rejected="keep")

    async def commit(window: Window, *items: Any) -> None:
        await store.open_sync(header_of(plan_of()), ["a"], fresh=False)
        await store.write(_Walked(page_of(items, window), ("a", 0), True))
        start, end = (datetime.fromisoformat(str(each)) for each in (window.start, window.end))
        changes = SyncChanges((ReadWindow("a", 0, start, end),))
        assert await store.commit({}, row_fingerprints={}, final=True, sync=changes)
        await store.aclose()

    await commit(JANUARY, interaction("1", timezone="x"))
    database.sql("CREATE UNIQUE INDEX zones ON interactions (integrated_account_id, timezone)")
    longer = Window(JANUARY.start, FEBRUARY.end)
    await commit(longer, *(interaction(str(number), timezone=zone) for number, zone in enumerate("xyy")))
    assert database.sql("SELECT id, timezone FROM interactions ORDER BY id") == [("0", "x"), ("1", "y")]
    assert database.sql("SELECT key FROM interactions_rejected") == [("id '2'",)]


async def check_a_meeting_belongs_to_the_window_it_starts_in(database: Database) -> None:
    """One walk over three months brought them, and then March is read again."""
    store = landing_store(database, resource="meetings", mode="merge")
    await store.open_sync(header_of(plan_of("meetings")), ["a"], fresh=False)
    january, march, april = (datetime(2024, month, 1, tzinfo=UTC) for month in (1, 3, 4))

    async def read(number: int, start: datetime, *meetings: Meeting) -> list[Any]:
        window = Window(start.isoformat(), april.isoformat())
        await store.write(_Walked(page_of(meetings, window), ("a", number), True))
        sync = SyncChanges((ReadWindow("a", number, start, april),))
        assert await store.commit({}, row_fingerprints={}, final=True, sync=sync)
        if hasattr(database, "store"):
            return database.sql("SELECT id FROM meetings ORDER BY id")
        return sorted(await looking(store, "SELECT id FROM meetings"))

    starts = {
        "1": january,
        "2": march - timedelta(seconds=1),
        "3": march,
        "4": april - timedelta(seconds=1),
        "none": None,
    }
    meetings = [Meeting(id=id, start_time=start) for id, start in starts.items()]
    assert len(await read(0, january, *meetings)) == 5
    assert await read(1, march) == [("1",), ("2",), ("none",)]
    assert await read(0, january, meetings[0]) == [("1",)]
    await store.aclose()


async def check_a_transcript_stays_until_all_of_its_window_is_read(database: Database) -> None:
    store = landing_store(database, resource="transcripts", mode="merge")
    await store.open_sync(header_of(plan_of("transcripts")), ["a"], fresh=False)
    january, march, april = (datetime(2024, month, 1, tzinfo=UTC) for month in (1, 3, 4))
    for number, start, found in ((0, january, ["1"]), (1, march, []), (2, january, [])):
        window = Window(start.isoformat(), april.isoformat())
        items = [Transcript(meeting=MeetingRef(id=each)) for each in found]
        await store.write(_Walked(page_of(items, window), ("a", number), True))
        sync = SyncChanges((ReadWindow("a", number, start, april),))
        assert await store.commit({}, row_fingerprints={}, final=True, sync=sync)
        if not hasattr(database, "store"):
            assert len(await looking(store, "SELECT meeting_id FROM transcripts")) == (number < 2)
    await store.aclose()
    assert database.sql("SELECT count(*) FROM transcripts") == [(0,)]


async def check_each_table_has_marks_of_its_own(database: Database) -> None:
    for table, fresh, found in (
        ("one", False, {}),
        ("two", False, {}),
        ("one", True, {}),
        ("two", False, {"a": "two"}),
    ):
        store = landing_store(database, table=table, mode="merge")
        assert await store.open_sync(header_of(plan_of()), ["a"], fresh=fresh) == found
        assert await store.commit({}, row_fingerprints={}, final=True, sync=SyncChanges((), {"a": table}))
        await store.aclose()


# --- kills -----------------------------------------------------------------------------------------------------


@dataclass
class KilledNights:
    """Five nights, whose runs are killed until one comes to its end."""

    runs: Runs
    sandbox: Sandbox
    clock: Clock
    database: Database
    resource: str = "interactions"
    kills: int = field(default=0, init=False)

    def run(self, accounts: Sequence[str], **how: Any) -> bool:
        ran = self.runs.run(
            url=self.sandbox.url,
            token=self.sandbox.token,
            accounts=list(accounts),
            to=self.database.url,
            mode="merge",
            max_accounts=4,
            resource=self.resource,
            sync={**SYNC, "now": self.clock.now.isoformat()},
            **how,
        )
        assert ran.is_killed or ran.status == 0, ran
        self.kills += ran.is_killed
        return ran.status == 0

    def nights(self, kills: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Sleep five nights; in each, the runs are killed as told."""
        first, failing, new = self.sandbox.account_ids
        begun = {first: self.clock.now, failing: self.clock.now}
        for night, how in enumerate(kills):
            if night == 3:
                begun[new] = self.clock.now
            self.sandbox.configure(failing, blocked=night == 2)
            for each in how:
                self.run([*begun], **each)
            assert self.run([*begun])
            for account, start in begun.items():
                if account != failing or night != 2:
                    expected = truth(self.sandbox, account, self.clock.now, start, self.resource)
                    assert expected
                    assert same(rows_of(self.database, account, self.resource), expected), (night, account)
            assert self.database.sql("SELECT count(*) FROM _truto_staged") == [(0,)]
            self.clock.next_night()

    def at_each_step(self, *, times: int) -> None:
        """Kill a run at each step: ``times`` 5 in every night, 1 in one of them."""
        rows = "insert" if self.database.url.startswith("duckdb") else "copy"
        steps = ["fence", "empty", rows, "marks", "staged", "progress", "commit", "committed"]
        steps = getattr(self.database, "steps", steps)
        self.nights(
            [
                [{"kill": (step, 1 + night % 2)} for at, step in enumerate(steps) if (at + night) % 5 < times]
                for night in range(5)
            ]
        )

    def at_random(self, kills: int) -> None:
        seed = int(os.environ.get("KILL_SEED", random.randrange(10**6)))
        rng = random.Random(seed)
        try:
            self.nights(
                [[{"kill_after": rng.uniform(0.02, 0.4)} for _ in range(kills // 5)] for _ in range(5)]
            )
            assert self.kills
        except BaseException as error:
            error.add_note(f"again with: KILL_SEED={seed}")
            raise


def killed_service(clock: Clock) -> Any:
    return Sandbox.in_thread(
        accounts=3, interactions=24, meetings=1500, page_size=2, clock=clock, **NO_LIMITS
    )

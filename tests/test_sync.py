"""The rule of a sync: which windows are asked, given those that are complete, in any time zone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import syncs
from tests.support import examples, run
from truto_ci_async import (
    AccountPage,
    Activity,
    Interaction,
    Key,
    Page,
    Plan,
    PlannedAccount,
    Progress,
    ReadWindow,
    SyncChanges,
    UsageError,
    Window,
)
from truto_ci_async.errors import DamagedStateError
from truto_ci_async.pull.checkpoint.base import DAILY_MARK
from truto_ci_async.pull.positions import UNSUPPORTED
from truto_ci_async.pull.stores.staging import Staging, WalkedPages
from truto_ci_async.pull.stores.syncing import SyncingStore
from truto_ci_async.pull.stores.tables import columns_of
from truto_ci_async.pull.sync.answered import answered_of, misalignment
from truto_ci_async.pull.sync.options import sync_options
from truto_ci_async.pull.sync.plan import Mark, header_of, plan_sync, read_mark
from truto_ci_async.pull.sync.windows import UNITS, Due, Grid, Span, Spans, add, covers, due

NOW = datetime(2024, 3, 12, 15, 30, tzinfo=UTC)
ZONES = ("UTC", "US/Pacific", "Asia/Kolkata", "Pacific/Apia", "America/Sao_Paulo", "Australia/Lord_Howe")


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2024, 3, 1, hour, tzinfo=UTC) + timedelta(days=number - 1)


def days(first: int, last: int) -> Span:
    return Span(day(first), day(last))


def asked(
    complete: Spans,
    *,
    now: datetime = NOW,
    lookback: int = 2,
    earliest: datetime = day(5),
    current: bool = False,
) -> list[tuple[int, int]]:
    found = due(
        complete,
        grid=Grid("day", UTC),
        now=now,
        lookback=timedelta(days=lookback),
        earliest=earliest,
        asks_current=current,
    )
    return [(each.span.start.day, each.span.end.day) for each in found]


@pytest.mark.parametrize(
    ("complete", "first_days"),
    [
        ((), [5, 6, 7, 8, 9, 10, 11]),  # a new account: its history, oldest first
        ((days(5, 12),), [10, 11]),  # the look-back alone
        ((days(5, 11),), [9, 10, 11]),
        ((days(5, 8),), [6, 7, 8, 9, 10, 11]),  # it failed for nights: the look-back is from where it was
        ((days(2, 12),), [10, 11]),
        ((days(7, 12),), [5, 6, 10, 11]),  # more history is asked for than before
        ((days(5, 7), days(9, 12)), [7, 8, 10, 11]),
        ((days(5, 13),), [11]),  # of a clock that was ahead
    ],
)
def test_the_windows_that_are_due(complete: Spans, first_days: list[int]) -> None:
    assert [start for start, _ in asked(complete)] == first_days


def test_the_history_of_an_account_never_gets_shorter() -> None:
    """A gap would stay for ever: nothing asks for what is older than the look-back."""
    assert asked((days(2, 4),), earliest=day(10), lookback=0) == [(each, each + 1) for each in range(4, 12)]


def test_the_window_that_is_not_over_is_asked_up_to_now() -> None:
    found = due(
        (days(5, 12),),
        grid=Grid("day", UTC),
        now=NOW,
        lookback=timedelta(0),
        earliest=day(5),
        asks_current=True,
    )
    assert found == [Due(Span(day(12), NOW), is_over=False)]
    assert asked((days(5, 12),), now=day(12), lookback=0, current=True) == []  # it has no time yet


@pytest.mark.parametrize(
    ("zone", "hours"),
    [("US/Pacific", [24, 23, 24]), ("UTC", [24, 24, 24]), ("Australia/Lord_Howe", [24, 24, 24])],
)
def test_a_day_has_23_hours_where_the_clocks_are_put_forward(zone: str, hours: list[int]) -> None:
    grid = Grid("day", ZoneInfo(zone))
    start = datetime(2024, 3, 9, 12, tzinfo=ZoneInfo(zone))
    found = list(grid.windows(start, start + timedelta(days=2)))
    assert [(end - start) / timedelta(hours=1) for start, end in found] == hours
    assert all(start.astimezone(ZoneInfo(zone)).hour == 0 for start, _ in found)


@pytest.mark.parametrize(
    ("zone", "unit", "around", "window"),
    [
        ("US/Pacific", "day", "2024-11-03T12:00:00Z", ("2024-11-03T07:00:00Z", "2024-11-04T08:00:00Z")),
        ("UTC", "week", "2024-03-17T23:59:59Z", ("2024-03-11T00:00:00Z", "2024-03-18T00:00:00Z")),
        ("UTC", "month", "2024-02-15T10:00:00Z", ("2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z")),
        ("Asia/Kolkata", "month", "2024-02-29T19:00:00Z", ("2024-02-29T18:30:00Z", "2024-03-31T18:30:00Z")),
        # Clocks went from 23:59 to 01:00, so this day had no midnight.
        (
            "America/Sao_Paulo",
            "day",
            "2018-11-04T12:00:00Z",
            ("2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
        ),
        # 30 December 2011 was left out.
        ("Pacific/Apia", "day", "2011-12-30T11:00:00Z", ("2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z")),
    ],
)
def test_windows_of_time_zones(zone: str, unit: str, around: str, window: tuple[str, str]) -> None:
    at = datetime.fromisoformat(around)
    found = list(Grid(unit, ZoneInfo(zone)).windows(at, at + timedelta(microseconds=1)))  # type: ignore[arg-type]
    assert found == [tuple(map(datetime.fromisoformat, window))]


def test_a_day_that_a_time_zone_left_out_has_no_window() -> None:
    start, end = datetime(2011, 12, 29, 12, tzinfo=UTC), datetime(2011, 12, 31, tzinfo=UTC)
    found = list(Grid("day", ZoneInfo("Pacific/Apia")).windows(start, end))
    assert [each.end - each.start for each in found] == [timedelta(days=1)] * 2


def test_windows_end_with_the_calendar() -> None:
    end = datetime.max.replace(tzinfo=UTC)
    assert len(list(Grid("day", UTC).windows(end - timedelta(days=2), end))) == 2


MOMENTS = st.datetimes(datetime(2009, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
GRIDS = st.builds(Grid, st.sampled_from(UNITS), st.sampled_from([ZoneInfo(name) for name in ZONES]))
LENGTHS = st.integers(0, 100 * 24).map(lambda hours: timedelta(hours=hours))


@examples(100)
@given(GRIDS, MOMENTS, LENGTHS)
def test_windows_lie_side_by_side(grid: Grid, start: datetime, length: timedelta) -> None:
    """Whatever the clocks do, every moment is in one window, and it is the same one whenever it is asked for."""
    found = list(grid.windows(start, start + length))
    if length:
        assert found[0].start <= start < found[0].end
        assert found[-1].start < start + length <= found[-1].end
    assert all(one.end == two.start for one, two in pairwise(found))
    assert all(one.start < one.end for one in found)
    for each in found[:3]:
        assert list(grid.windows(each.start, each.end)) == [each]


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9))))
def test_spans_that_meet_are_one(parts: list[tuple[int, int]]) -> None:
    """However a year of days was read, in the end it takes as much room as one."""
    spans: Spans = ()
    known: set[int] = set()
    for start, length in parts:
        spans = add(spans, Span(day(start), day(start + length)))
        known |= set(range(start, start + length))
    assert list(spans) == sorted(spans)
    assert all(one.end < two.start for one, two in pairwise(spans))
    assert {each for each in range(60) if covers(spans, Span(day(each), day(each + 1)))} == known


@examples(200)
@given(
    GRIDS,
    MOMENTS,
    st.lists(st.tuples(LENGTHS, st.integers(0, 200), st.booleans()), min_size=1, max_size=6),
    LENGTHS,
    LENGTHS,
    st.booleans(),
)
def test_runs_that_end_anywhere_lose_nothing(
    grid: Grid,
    now: datetime,
    runs: list[tuple[timedelta, int, bool]],
    lookback: timedelta,
    history: timedelta,
    asks_current: bool,
) -> None:
    """Each run comes some time after the one before, and ends after some windows."""
    complete: Spans = ()
    read_at: dict[Span, datetime] = {}

    def windows() -> list[Due]:
        return due(
            complete,
            grid=grid,
            now=now,
            lookback=lookback,
            earliest=now - history,
            asks_current=asks_current,
        )

    for wait, kept, is_killed in [*runs, (timedelta(0), 0, False)]:
        now += wait
        found = windows()
        spans = [each.span for each in found]
        assert spans == sorted(spans)
        assert all(one.end <= two.start for one, two in pairwise(spans))
        assert all(each.is_over == (each.span.end <= now) or not each.is_over for each in found)
        last = complete[-1].end if complete else None
        for each in found[: kept if is_killed else None]:
            if each.is_over:
                complete = add(complete, each.span)
                read_at[each.span] = now
            assert last is None or complete[-1].end >= last
            assert all(end <= now for _, end in complete)
    # All that is over is known, in one span, and each window was read when it was older than the look-back, or will be.
    first = min(now - history, *(start for start, _ in complete), now)
    over = [each for each in grid.windows(first, now) if each.end <= now]
    assert all(covers(complete, each) for each in over)
    assert len(complete) <= 1
    again = {each.span for each in windows()}
    for each in over:
        if each not in again:
            assert each.end <= complete[-1].end - lookback
            assert read_at[each] >= each.end + lookback or complete[-1].end - each.end >= lookback
    assert (
        len(again) <= sum(each.end > complete[-1].end - lookback for each in over) + asks_current
        if over
        else True
    )


# --- options and plans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_options", "text"),
    [
        ({"since": "yesterday"}, "since is 'last'"),
        ({"window": "hour"}, "'day', 'week' or 'month'"),
        ({"window": timedelta(days=1)}, "'day', 'week' or 'month'"),
        ({"lookback": "soon"}, "lookback is a length"),
        ({"lookback": timedelta(days=-1)}, "lookback is a length"),
        ({"max_history": "2030-01-01"}, "in the future"),
        ({"max_history": "long"}, "max_history"),
        ({"time_zone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"time_zone": "../etc/passwd"}, "no time zone"),
        ({"time_zone": 7}, "a time zone is a name"),
    ],
)
def test_options_that_can_never_be_right(given_options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        sync_options(now=NOW, **given_options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("max_history", "earliest"),
    [
        ("7d", NOW - timedelta(days=7)),
        (timedelta(days=7), NOW - timedelta(days=7)),
        ("2024-01-01", datetime(2024, 1, 1, tzinfo=UTC)),
    ],
)
def test_max_history_is_a_length_or_a_time(max_history: object, earliest: datetime) -> None:
    assert sync_options(now=NOW, max_history=max_history).earliest == earliest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "time_zone",
    [
        "US/Pacific",
        ZoneInfo("US/Pacific"),
        {"a": "US/Pacific"},
        lambda account: "US/Pacific" if account.id == "a" else None,
    ],
)
def test_a_time_zone_for_all_or_by_account(time_zone: object) -> None:
    options = sync_options(now=NOW, time_zone=time_zone)  # type: ignore[arg-type]
    assert str(options.grid_of(PlannedAccount("a"))) == "day US/Pacific"
    other = "day US/Pacific" if isinstance(time_zone, str | ZoneInfo) else "day UTC"
    assert str(options.grid_of(PlannedAccount("b"))) == other


def test_each_account_has_the_windows_that_it_needs() -> None:
    accounts = tuple(map(PlannedAccount, ("new", "known", "moved")))
    plan = Plan(accounts=accounts, filters={"users": ["u"]}, given={"users": ["u"], "start_time": "-1d"})
    options = sync_options(now=NOW, max_history="4d", time_zone={"moved": "US/Pacific"}, lookback="1d")
    marks = {name: Mark("day UTC", (days(8, 12),)) for name in ("known", "moved")}
    found = plan_sync(plan, options, marks)
    starts = {each.id: [window.start for window in found.windows_of(each.id)] for each in accounts}
    assert starts == {
        "new": [f"2024-03-{each:02}T00:00:00Z" for each in range(8, 12)],
        "known": ["2024-03-11T00:00:00Z"],
        "moved": [f"2024-03-{each:02}T08:00:00Z" for each in (7, 8, 9)]
        + ["2024-03-10T08:00:00Z", "2024-03-11T07:00:00Z"],
    }
    assert len(found) == 10
    header = header_of(plan)
    assert (header.accounts, header.windows, header.given) == (
        (),
        (Window(),),
        {"users": ["u"], "since": "last"},
    )


def test_a_mark_is_text_of_constant_size() -> None:
    spans: Spans = ()
    for number in range(3000):
        spans = add(spans, Span(day(number), day(number + 1)))
    mark = Mark("day UTC", spans, until=12.5, error="down")
    assert len(str(mark)) < 150
    assert read_mark(str(mark), "a") == mark
    with pytest.raises(DamagedStateError, match="account a"):
        read_mark("{}", "a")


# --- the windows that were answered ----------------------------------------------------------------------------


def covering(start: str, end: str, type: type = Interaction) -> object:
    times = {"start_time": datetime.fromisoformat(start), "end_time": datetime.fromisoformat(end)}
    return type(timezone="US/Pacific", **times)


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        ("2024-01-01T00:00:00-08:00", "2024-01-02T00:00:00-08:00", None),
        (
            "2024-01-01T00:00:00Z",
            "2024-01-02T00:00:00Z",
            "8 h before it are counted as well, and 8 h at its end are missing",
        ),
        ("2024-01-01T00:00:00-08:00", "2024-01-03T00:00:00-08:00", "24 h after it are counted as well"),
        ("2024-01-01T00:30:00-08:00", "2024-01-02T00:00:00-08:00", "0 h 30 min at its start are missing"),
    ],
)
def test_a_window_answered_is_compared_with_the_one_asked(start: str, end: str, told: str | None) -> None:
    window = Window("2024-01-01T08:00:00Z", "2024-01-02T08:00:00Z")
    for type in (Interaction, Activity):
        found = misalignment(window, [Interaction(), covering(start, end, type)])
        assert (found.text.partition("Z: ")[2] if found else None) == told
        assert found is None or found.time_zone == "US/Pacific"
    assert misalignment(Window(), [covering(start, end)]) is None
    assert misalignment(window, [Interaction()]) is None


def test_what_was_answered_is_told_with_its_zone() -> None:
    window = Window("2024-01-01T08:00:00Z", "2024-01-02T08:00:00Z")
    other = covering("2024-01-01T08:00:00+00:00", "2024-01-02T00:00:00-09:00")
    found = misalignment(window, [other])
    assert found is not None
    asked = "2024-01-01T08:00:00Z to 2024-01-02T08:00:00Z"
    answered = "2024-01-01T08:00:00Z to 2024-01-02T09:00:00Z"
    what = "1 h after it are counted as well"
    assert found.text == f"asked for {asked}, answered (US/Pacific) for {answered}: {what}"
    nowhere = misalignment(window, [msgspec.structs.replace(other, timezone=None)])
    assert nowhere is not None
    assert nowhere.text == f"asked for {asked}, answered for {answered}: {what}"


@pytest.mark.parametrize(
    "item",
    [
        Interaction(start_time=day(1)),
        Interaction(end_time=day(1)),
        Interaction(start_time=day(1), end_time=day(1)),
        Interaction(start_time=day(2), end_time=day(1)),
        object(),
    ],
)
def test_a_row_that_does_not_say_what_it_covers_is_passed_over(item: Any) -> None:
    whole = Interaction(start_time=day(1), end_time=day(2))
    assert answered_of([item, whole]) == (days(1, 2), None)
    bare = SimpleNamespace(start_time=day(1), end_time=day(2))  # an item type of the caller's own
    assert answered_of([item, bare]) == (days(1, 2), None)
    assert answered_of([item]) is None


def test_a_window_without_one_of_its_bounds_is_not_compared() -> None:
    whole = Interaction(start_time=day(1), end_time=day(2))
    assert misalignment(Window("2024-01-01T08:00:00Z", None), [whole]) is None
    assert misalignment(Window(None, "2024-01-01T08:00:00Z"), [whole]) is None


# --- what a commit means ---------------------------------------------------------------------------------------


class Noting:
    """A store that keeps marks, and notes what each commit of a sync is to do."""

    def __init__(self, mark: Mark | None = None) -> None:
        self.marks = {} if mark is None else {"a": str(mark)}
        self.windows: list[tuple[ReadWindow, ...]] = []
        self.is_durable = True

    async def open(self, plan: Plan) -> Plan:
        raise AssertionError("a sync opens with open_sync")

    async def open_sync(self, plan: Plan, accounts: Sequence[str], *, fresh: bool) -> Mapping[str, str]:
        return dict(self.marks)

    async def load(self) -> Mapping[Key, Progress]:
        return {}

    async def write(self, page: AccountPage[Any]) -> None:
        pass

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        *,
        row_fingerprints: Mapping[Key, bytes],
        final: bool,
        sync: SyncChanges = SyncChanges(),
    ) -> bool:
        if self.is_durable:
            self.windows.append(sync.windows)
            self.marks |= sync.marks
        return self.is_durable

    async def aclose(self) -> None:
        pass

    @property
    def mark(self) -> Mark:
        return read_mark(self.marks["a"], "a")


class Written(AccountPage[Any]):
    """A page of the account's window of this number, as a pull hands it out in a sync."""

    def __init__(self, number: int, *items: Any, is_partial: bool = False) -> None:
        window = Window(day(10 + number).isoformat(), day(11 + number).isoformat())
        super().__init__(PlannedAccount("a"), window, Page(list(items)), NOW)
        self.key = ("a", number)
        self.is_first = True
        self.is_partial = is_partial


DONE = Progress(outcome="done")


async def opened(kept: Noting, **options: Any) -> SyncingStore:
    """Open a sync of the 10th and the 11th, unless the mark says more."""
    store = SyncingStore(kept, sync_options(now=NOW, max_history="2d", **options))
    await store.open(Plan(accounts=(PlannedAccount("a"),)), grow=False, fresh=False)
    return store


async def commit(store: SyncingStore, **walks: Progress) -> bool:
    """Commit the progress of windows: ``w0`` is the first one."""
    changes: dict[Key, Progress] = {("a", int(name[1:])): each for name, each in walks.items()}
    return await store.commit(changes, row_fingerprints={}, final=False)


def test_a_window_answered_with_time_that_is_to_come_is_not_complete() -> None:
    async def scenario() -> None:
        kept = Noting()
        store = await opened(kept)
        await store.write(Written(0, Interaction(start_time=day(10), end_time=NOW)))
        await store.write(Written(1, Interaction(start_time=day(11), end_time=NOW + timedelta(seconds=1))))
        await commit(store, w0=DONE, w1=DONE)
        assert kept.mark.complete == (days(10, 11),)
        assert [each.window for each in kept.windows[0]] == [0, 1]
        await store.write(Written(1, Interaction(start_time=day(11), end_time=day(12))))
        await commit(store, w1=DONE)
        assert kept.mark.complete == (days(10, 12),)

    run(scenario())


@pytest.mark.parametrize("keep_missing", [False, True])
def test_a_window_that_was_answered_in_part_takes_no_row_away(keep_missing: bool) -> None:
    async def scenario() -> None:
        kept = Noting()
        store = await opened(kept, keep_missing=keep_missing)
        await store.write(Written(0, Interaction(), is_partial=True))
        await store.write(Written(0, Interaction()))
        await store.write(Written(1, Interaction()))
        await commit(store, w0=DONE, w1=DONE)
        await store.write(Written(0, Interaction()))
        await commit(store, w0=DONE)
        assert [[each.keeps_missing for each in windows] for windows in kept.windows] == [
            [True, keep_missing],
            [keep_missing],
        ]
        read = kept.windows[0][0]
        assert (read.key, read.start, read.end) == (("a", 0), day(10), day(11))

    run(scenario())


def test_windows_of_another_grid_do_not_count_as_complete() -> None:
    async def scenario() -> None:
        kept = Noting(Mark("day US/Pacific", (days(9, 12),), used="[[1,2]]"))
        await commit(await opened(kept), w0=DONE)
        assert kept.mark == Mark("day UTC", (days(9, 10),), used="[[1,2]]")

    run(scenario())


def test_a_failure_is_marked_until_a_window_is_read() -> None:
    async def scenario() -> None:
        kept = Noting(Mark("day UTC", (days(9, 11),)))
        store = await opened(kept, lookback="0d")
        await commit(store, w0=Progress(outcome="parked", until=5.0, error="busy"))
        assert kept.mark == Mark("day UTC", (days(9, 11),), until=5.0, error="busy")
        again = await opened(kept, lookback="0d")
        parked = {account: each.later async for account, each in again.load_accounts()}
        assert parked == {"a": {0: Progress(outcome="parked", until=5.0)}}
        await commit(again, w0=DONE)
        assert kept.mark == Mark("day UTC", (days(9, 12),))

    run(scenario())


def test_an_account_whose_provider_lacks_the_resource_loses_nothing() -> None:
    async def scenario() -> None:
        kept = Noting()
        store = await opened(kept)
        await store.write(Written(0))
        await commit(store, w0=Progress(outcome="empty", position=UNSUPPORTED))
        assert (kept.windows, kept.marks) == ([()], {})

    run(scenario())


def test_what_counts_towards_the_quota_of_a_day_is_in_the_mark() -> None:
    async def scenario() -> None:
        kept = Noting()
        store = await opened(kept)
        count = Progress(position=f"{DAILY_MARK}[[1,2]]")
        await commit(store, w0=DONE, w2=count)
        assert kept.mark == Mark("day UTC", (days(10, 11),), used="[[1,2]]")
        again = await opened(kept, lookback="0d")  # one window is due, so the count comes as a second one
        assert {account: each.later async for account, each in again.load_accounts()} == {"a": {1: count}}

    run(scenario())


def test_a_commit_that_is_postponed_changes_nothing() -> None:
    async def scenario() -> None:
        kept = Noting()
        store = await opened(kept)
        for number in (0, 1):
            await store.write(Written(number, Interaction()))
        await commit(store, w0=Progress(rows=1))  # it is not over
        assert (kept.windows.pop(), kept.marks) == ((), {})
        kept.is_durable = False
        assert not await commit(store, w0=DONE)
        kept.is_durable = True
        assert await commit(store, w0=DONE, w1=DONE)
        assert kept.mark.complete == (days(10, 12),)
        assert [each.window for each in kept.windows[0]] == [0, 1]
        await commit(store, w0=DONE)  # nothing new was written of it
        assert kept.windows[1] == ()

    run(scenario())


# --- pages that are kept ---------------------------------------------------------------------------------------


def page_in(key: Key, id: str, *, is_first: bool = False) -> Any:
    return syncs.walked([Interaction(id=id)], key=key, is_first=is_first)


def test_a_walk_that_begins_again_drops_its_own_pages_alone() -> None:
    pages = WalkedPages()
    one, other = ("a", 0), ("b", 0)
    for key, id, is_first in ((one, "1", True), (other, "2", True), (one, "3", False), (one, "4", True)):
        pages.add(page_in(key, id, is_first=is_first))
    assert pages.keys == [other, one]
    assert [part.items[0].id for part in pages.parts] == ["2", "4"]
    assert pages.begun == {one, other}


def test_pages_are_kept_until_their_window_is_over_or_begins_again() -> None:
    staging = Staging(columns_of("interactions"), Interaction)

    def split(
        *pages: Any, over: bool = False, commits: bool = True
    ) -> tuple[list[str], list[str], list[str]]:
        taken = WalkedPages()
        for page in pages:
            taken.add(page)
        landing, step = staging.split(taken, SyncChanges((ReadWindow("a", 0),) if over else ()))
        if commits:
            staging.committed()
        assert [account for account, _ in step.kept] == (["a"] if pages and not over else [])
        return [each.id for part in landing for each in part.items], [*step.fetched], [*step.forgotten]

    first, again = page_in(("a", 0), "1", is_first=True), page_in(("a", 0), "2", is_first=True)
    more = page_in(("a", 0), "3")
    assert split(first) == ([], [], [])
    assert split(more) == ([], [], [])
    assert split(more, over=True, commits=False) == (["3"], ["a"], ["a"])
    assert split(more, over=True) == (["3"], ["a"], ["a"])  # that commit failed, and is tried again
    assert split(over=True) == ([], [], [])  # they have landed
    assert split(first) == ([], [], [])
    assert split(again) == ([], [], ["a"])
    assert split(again, over=True) == (["2"], [], ["a"])  # those before it do not count

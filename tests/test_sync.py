"""The rule of a sync: which windows are asked, given those that are complete, in any time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import examples
from truto_ci_async import Activity, Interaction, Plan, PlannedAccount, UsageError, Window
from truto_ci_async.errors import DamagedStateError
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
    assert answered_of([item]) is None


def test_a_window_without_one_of_its_bounds_is_not_compared() -> None:
    whole = Interaction(start_time=day(1), end_time=day(2))
    assert misalignment(Window("2024-01-01T08:00:00Z", None), [whole]) is None
    assert misalignment(Window(None, "2024-01-01T08:00:00Z"), [whole]) is None

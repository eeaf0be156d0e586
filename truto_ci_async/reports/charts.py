"""Charts of talk metrics, as Altair charts: of a data frame, a page, a list of items or the folder of a pull.

    from truto_ci_async import charts

    charts.distribution(frame, "patience")

A chart holds the numbers it shows and no more. Above a few thousand points it shows a sample or an aggregate, and its
subtitle says so. Units are the provider's: the service documents none, and the axis says so. NaN and infinity
count as missing.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeAlias

from truto_ci_async._checks import brief, is_whole_number
from truto_ci_async._text import printable
from truto_ci_async.errors import MissingExtraError, UsageError

from .rows import METRICS as METRICS
from .rows import PERSON_COLUMNS, WINDOW_COLUMNS, rows_of, text_of

if TYPE_CHECKING:
    import altair

# The most points of a chart. Altair refuses more than 5,000; a browser draws these at once.
POINTS = 2_000
GROUPS = 30
ACCOUNTS = 60

_NO_UNIT = "in the provider's unit: the service promises none"
# Pixels between two names on an axis.
_STEP = 16
_MAX_LABEL = 80

Point: TypeAlias = dict[str, Any]


def distribution(data: Any, metric: str, *, bins: int = 30) -> altair.Chart:
    """Show how often each value of a metric occurs, and the median.

        charts.distribution(page, "patience")

    ``data`` is a polars, pandas or pyarrow table, a page, a list of items, or the path of a pull's folder. All rows
    count, however many; they are gathered into ``bins`` bars of equal width.

    :raises UsageError: there is no such column, it has text in place of numbers, or ``bins`` is not 1 to 1,000.
    :raises MissingExtraError: altair is not installed.
    """
    alt = _altair()
    if not is_whole_number(bins, least=1) or bins > 1_000:
        raise UsageError(f"bins is a number from 1 to 1,000, not {brief(bins)}")
    values = sorted(value for value in rows_of(data, metric).metric(metric) if value is not None)
    bars, middle = _histogram(values, bins)
    chart = alt.Chart(alt.Data(values=bars)).mark_bar()
    chart = chart.encode(
        x=alt.X("from:Q", title=_title(metric), bin="binned"),
        x2="to:Q",
        y=alt.Y("rows:Q", title="rows"),
        tooltip=[alt.Tooltip("from:Q", format=".4~g"), alt.Tooltip("to:Q", format=".4~g"), "rows:Q"],
    )
    rule = alt.Chart(alt.Data(values=middle)).mark_rule(strokeWidth=2, color=_ACCENT)
    rule = rule.encode(x="median:Q", tooltip=alt.Tooltip("median:Q", format=".4~g"))
    note = f"{_count(len(values), 'row has it', 'rows have it')}; the line is the median"
    return _titled(alt.layer(chart, rule), metric, note)


def compare(data: Any, x: str, y: str) -> altair.Chart:
    """Show one metric against another, with one point for each row; the tooltip names the person.

    Above 2,000 rows it shows a random sample, which is the same each time. Otherwise as ``distribution``.
    """
    alt = _altair()
    rows = rows_of(data, x, y, optional=(*PERSON_COLUMNS, *WINDOW_COLUMNS))
    points = [
        {"person": person, "window": window, "x": a, "y": b}
        for person, window, a, b in zip(
            rows.people, rows.windows, rows.metric(x), rows.metric(y), strict=True
        )
        if a is not None and b is not None
    ]
    chart = alt.Chart(alt.Data(values=sample(points))).mark_circle(opacity=0.6)
    chart = chart.encode(
        x=alt.X("x:Q", title=_title(x), scale=alt.Scale(zero=False)),
        y=alt.Y("y:Q", title=_title(y), scale=alt.Scale(zero=False)),
        tooltip=["person:N", "window:N", alt.Tooltip("x:Q", title=x), alt.Tooltip("y:Q", title=y)],
    )
    return _titled(chart, f"{y} against {x}", sample_note(len(points)))


def over_time(data: Any, metric: str, *, most: int = 8) -> altair.Chart:
    """Show a metric from window to window: the people with the most rows, and the median of everybody.

    A person's point is the mean of their rows in that window. ``most`` is how many people are shown. Otherwise as
    ``distribution``.
    """
    alt = _altair()
    if not is_whole_number(most, least=0) or most > 100:
        raise UsageError(f"most is a number of people from 0 to 100, not {brief(most)}")
    rows = rows_of(data, metric, optional=(*PERSON_COLUMNS, *WINDOW_COLUMNS))
    found = [
        (person, window, value)
        for person, window, value in zip(rows.people, rows.windows, rows.metric(metric), strict=True)
        if window and value is not None
    ]
    counts = Counter(person for person, _, _ in found)
    chosen = sorted(counts, key=lambda person: (-counts[person], person))[:most]
    by_person: dict[str, dict[str, list[float]]] = {person: defaultdict(list) for person in chosen}
    by_window: dict[str, list[float]] = defaultdict(list)
    for person, window, value in found:
        by_window[window].append(value)
        if person in by_person:
            by_person[person][window].append(value)
    last = POINTS // max(most, 1)
    points = [
        {"person": person, "window": window, "value": fmean(values)}
        for person in chosen
        for window, values in sorted(by_person[person].items())[-last:]
    ]
    everybody = [{"window": window, "value": median(values)} for window, values in sorted(by_window.items())]
    window = alt.X("window:T", title="window", scale=alt.Scale(type="utc"))
    value = alt.Y("value:Q", title=_title(metric), scale=alt.Scale(zero=False))
    lines = alt.Chart(alt.Data(values=points)).mark_line(point=True, opacity=0.55)
    lines = lines.encode(x=window, y=value, color=alt.Color("person:N", title="person"), tooltip=_SERIES)
    middle = alt.Chart(alt.Data(values=everybody[-last:])).mark_line(strokeWidth=4, color=_ACCENT)
    middle = middle.encode(x=window, y=value, tooltip=_SERIES[1:])
    note = (
        f"{len(chosen):,} of {_count(len(counts), 'person', 'people')}; the thick line is the median of all"
    )
    if len(by_window) > last:
        note += f"; the last {last:,} of {len(by_window):,} windows"
    return _titled(alt.layer(lines, middle), f"{metric} over time", note)


def groups(data: Any, metric: str, *, by: str = "tenant_id", most: int = POINTS) -> altair.Chart:
    """Show people against their team: one mark for each person's mean, and the median of each group.

    ``by`` is the column of the group, such as ``tenant_id``, ``integrated_account_id``, or a column ``team`` of your
    own frame. The 30 largest groups are shown, and of their people a random ``most``. Otherwise as ``distribution``.
    """
    alt = _altair()
    if not is_whole_number(most, least=0) or most > 5_000:
        raise UsageError(f"most is a number of people from 0 to 5,000, not {brief(most)}")
    rows = rows_of(data, metric, by, optional=PERSON_COLUMNS)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group, person, value in zip(rows[by], rows.people, rows.metric(metric), strict=True):
        if value is not None:
            found[printable(text_of(group)[:_MAX_LABEL]) or "none"][person].append(value)
    largest = sorted(found, key=lambda group: (-len(found[group]), group))[:GROUPS]
    dots = [
        {"group": group, "person": person, "value": fmean(values)}
        for group in largest
        for person, values in found[group].items()
    ]
    middles: list[Point] = [
        {"group": group, "people": len(found[group]), "value": median(map(fmean, found[group].values()))}
        for group in largest
    ]
    order = [each["group"] for each in sorted(middles, key=lambda each: (-each["value"], each["group"]))]
    group, value = alt.Y("group:N", title=by, sort=order), alt.X("value:Q", title=_title(metric))
    format = alt.Tooltip("value:Q", format=".4~g")
    thin = alt.Chart(alt.Data(values=sample(dots, most))).mark_tick(opacity=0.6)
    thin = thin.encode(x=value, y=group, tooltip=["group:N", "person:N", format])
    rules = alt.Chart(alt.Data(values=middles)).mark_tick(thickness=4, color=_ACCENT)
    rules = rules.encode(x=value, y=group, tooltip=["group:N", "people:Q", format])
    note = (
        f"{len(largest):,} of {_count(len(found), 'group', 'groups')}; thin: a person's mean, thick: the group's "
        f"median; {sample_note(len(dots), most)}"
    )
    return _titled(alt.layer(thin, rules), f"{metric} by {by}", note, height=_STEP * max(len(largest), 1))


def coverage(data: Any) -> altair.Chart:
    """Show how many rows each account has in each window: gaps are what to look for.

    Needs the columns that a pull adds. Above sixty accounts, the ones with the fewest rows are shown. An account
    without any row is not in the data; the report on a pull's folder knows the plan, and shows it too.

    :raises UsageError: the data does not come from a pull.
    :raises MissingExtraError: altair is not installed.
    """
    _altair()
    rows = rows_of(data, "integrated_account_id", optional=WINDOW_COLUMNS)
    accounts = map(text_of, rows["integrated_account_id"])
    return coverage_chart(Counter(zip(accounts, rows.windows, strict=True)))


def coverage_chart(
    counts: Mapping[tuple[str, str], int], accounts: Iterable[str] = (), windows: Iterable[str] = ()
) -> altair.Chart:
    """Make the chart of ``coverage`` from counts by account and window, and what else was asked for."""
    alt = _altair()
    sums = dict.fromkeys(accounts, 0)
    for (account, _), count in counts.items():
        sums[account] = sums.get(account, 0) + count
    fewest = sorted(sums, key=lambda account: (sums[account], account))[:ACCOUNTS]
    known = sorted({*windows, *(window for _, window in counts)})
    step = max(1, -(-len(fewest) * len(known) // POINTS))
    cells = [
        {
            "account": printable(account[:_MAX_LABEL]),
            "window": _day(window),
            "rows": counts.get((account, window), 0),
        }
        for account in fewest
        for window in known[::step]
    ]
    chart = alt.Chart(alt.Data(values=cells)).mark_rect()
    chart = chart.encode(
        x=alt.X("window:O", title="window", axis=alt.Axis(labelOverlap=True)),
        y=alt.Y("account:N", title="account", sort=[printable(account[:_MAX_LABEL]) for account in fewest]),
        color=alt.Color("rows:Q", title="rows", scale=alt.Scale(domainMin=0)),
        tooltip=["account:N", "window:N", "rows:Q"],
    )
    note = f"{len(fewest):,} of {_count(len(sums), 'account', 'accounts')}, those with the fewest rows first"
    if step > 1:
        note += f"; one window in {step}"
    return _titled(chart, "rows by account and window", note, height=_STEP * max(len(fewest), 1))


def sample(points: Sequence[Any], most: int = POINTS) -> Sequence[Any]:
    """Return at most so many points, always the same for the same data."""
    return points if len(points) <= most else random.Random(0).sample(points, most)


def sample_note(points: int, most: int = POINTS) -> str:
    """Say how much ``sample`` returned."""
    return _count(points, "point", "points") if points <= most else f"a random {most:,} of {points:,} points"


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _day(window: str) -> str:
    """Return a window's start without a time that says nothing."""
    return window.removesuffix("T00:00+00:00")


def _histogram(values: Sequence[float], bins: int) -> tuple[list[Point], list[Point]]:
    if not values:
        return [], []
    low, high = values[0], values[-1]
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    bars = [
        {"from": low + at * width, "to": low + (at + 1) * width, "rows": count}
        for at, count in enumerate(counts)
    ]
    return bars, [{"median": median(values)}]


# --- Altair ----------------------------------------------------------------------------------------------------

_ACCENT = "#d1495b"
_SERIES = ["person:N", "window:N", "value:Q"]


def _altair() -> Any:
    try:
        return import_module("altair")
    except ImportError:
        raise MissingExtraError("altair", "charts") from None


def _title(name: str) -> str | list[str]:
    return [name, f"({_NO_UNIT})"] if name in METRICS else printable(name)


def _titled(chart: Any, title: str, note: str, *, height: int = 260) -> altair.Chart:
    text = {"text": printable(title), "subtitle": note}
    titled: altair.Chart = chart.properties(title=text, width=520, height=height)
    return titled

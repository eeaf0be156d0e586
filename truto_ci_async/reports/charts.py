"""Charts of talk metrics, as Altair charts: of a data frame, a page, a list of items or the folder of a pull.

    from truto_ci_async import charts

    charts.distribution(frame, "patience")

A chart holds the numbers it shows and no more. Above a few thousand points it shows a sample or an aggregate, and its
subtitle says so. Units are the provider's: the service promises none, and the axis says that too.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from math import isfinite
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from truto_ci_async.errors import MissingExtraError, UsageError
from truto_ci_async.export.column_values import columns_of
from truto_ci_async.export.frames import Frames, parts_of
from truto_ci_async.models.interactions import INTERACTION_SCHEMA

if TYPE_CHECKING:
    import altair

#: The columns that are metrics.
METRICS: tuple[str, ...] = tuple(column.name for column in INTERACTION_SCHEMA if column.type == "float64")
# The most points of a chart. Altair refuses more than 5,000; a browser draws these at once.
POINTS = 2_000
GROUPS = 30
ACCOUNTS = 60

_PERSON = ("user_name", "user_email", "user_id")
_WINDOW = ("window_start", "start_time")
_NO_UNIT = "in the provider's unit: the service promises none"

Values: TypeAlias = Mapping[str, Sequence[Any]]
Point: TypeAlias = dict[str, Any]


def distribution(data: Any, metric: str, *, bins: int = 30) -> altair.Chart:
    """Show how often each value of a metric occurs, and the median.

        charts.distribution(page, "patience")

    ``data`` is a polars, pandas or pyarrow table, a page, a list of items, or the path of a pull's folder. All rows
    count, however many.

    :raises UsageError: there is no such column.
    :raises MissingExtraError: altair is not installed.
    """
    alt = _altair()
    values = sorted(_numbers(_columns(data, metric)[metric]))
    bars, middle = _histogram(values, bins)
    x = alt.X("from:Q", title=_title(metric), bin="binned")
    chart = alt.Chart(alt.Data(values=bars)).mark_bar()
    chart = chart.encode(
        x=x,
        x2="to:Q",
        y=alt.Y("rows:Q", title="rows"),
        tooltip=[alt.Tooltip("from:Q", format=".4~g"), alt.Tooltip("to:Q", format=".4~g"), "rows:Q"],
    )
    rule = alt.Chart(alt.Data(values=middle)).mark_rule(strokeWidth=2, color=_ACCENT)
    rule = rule.encode(x="median:Q", tooltip=alt.Tooltip("median:Q", format=".4~g"))
    return _titled(alt.layer(chart, rule), metric, f"{len(values):,} rows have it; the line is the median")


def compare(data: Any, x: str, y: str) -> altair.Chart:
    """Show one metric against another, with one point for each row; the tooltip names the person.

    Otherwise as ``distribution``.
    """
    alt = _altair()
    columns = _columns(data, x, y, optional=(*_PERSON, *_WINDOW))
    points = [
        {"person": person, "window": window, "x": float(a), "y": float(b)}
        for person, window, a, b in zip(
            people_of(columns), windows_of(columns), columns[x], columns[y], strict=True
        )
        if _is_number(a) and _is_number(b)
    ]
    chart = alt.Chart(alt.Data(values=_sample(points))).mark_circle(opacity=0.6)
    chart = chart.encode(
        x=alt.X("x:Q", title=_title(x), scale=alt.Scale(zero=False)),
        y=alt.Y("y:Q", title=_title(y), scale=alt.Scale(zero=False)),
        tooltip=["person:N", "window:N", alt.Tooltip("x:Q", title=x), alt.Tooltip("y:Q", title=y)],
    )
    return _titled(chart, f"{y} against {x}", _sample_note(len(points)))


def over_time(data: Any, metric: str, *, most: int = 8) -> altair.Chart:
    """Show a metric from window to window: the people with the most windows, and the median of everybody.

    Otherwise as ``distribution``.
    """
    alt = _altair()
    columns = _columns(data, metric, optional=(*_PERSON, *_WINDOW))
    by_person: dict[str, dict[str, float]] = defaultdict(dict)
    by_window: dict[str, list[float]] = defaultdict(list)
    for person, window, value in zip(people_of(columns), windows_of(columns), columns[metric], strict=True):
        if window and _is_number(value):
            by_person[person][window] = float(value)
            by_window[window].append(float(value))
    chosen = sorted(by_person, key=lambda person: (-len(by_person[person]), person))[:most]
    points = [
        {"person": person, "window": window, "value": value}
        for person in chosen
        for window, value in sorted(by_person[person].items())[-POINTS // max(most, 1) :]
    ]
    everybody = [{"window": window, "value": median(found)} for window, found in sorted(by_window.items())]
    window = alt.X("window:T", title="window")
    value = alt.Y("value:Q", title=_title(metric), scale=alt.Scale(zero=False))
    lines = alt.Chart(alt.Data(values=points)).mark_line(point=True, opacity=0.55)
    lines = lines.encode(x=window, y=value, color=alt.Color("person:N", title="person"), tooltip=_SERIES)
    middle = alt.Chart(alt.Data(values=everybody[-POINTS:])).mark_line(strokeWidth=4, color=_ACCENT)
    middle = middle.encode(x=window, y=value, tooltip=_SERIES[1:])
    note = f"{len(chosen):,} of {len(by_person):,} people; the thick line is the median of all"
    return _titled(alt.layer(lines, middle), f"{metric} over time", note)


def groups(data: Any, metric: str, *, by: str = "tenant_id") -> altair.Chart:
    """Show people against their team: one mark for each person's mean, and the median of each group.

    ``by`` is the column of the group, such as ``tenant_id``, ``integrated_account_id``, or a column ``team`` of your
    own frame. The largest groups are shown. Otherwise as ``distribution``.
    """
    alt = _altair()
    columns = _columns(data, metric, by, optional=_PERSON)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group, person, value in zip(columns[by], people_of(columns), columns[metric], strict=True):
        if _is_number(value):
            found["none" if group is None else str(group)][person].append(float(value))
    largest = sorted(found, key=lambda group: (-len(found[group]), group))[:GROUPS]
    dots = [
        {"group": group, "person": person, "value": fmean(values)}
        for group in largest
        for person, values in found[group].items()
    ]
    middles = [
        {"group": group, "people": len(found[group]), "value": median(map(fmean, found[group].values()))}
        for group in largest
    ]
    group, value = alt.Y("group:N", title=by, sort="-x"), alt.X("value:Q", title=_title(metric))
    thin = alt.Chart(alt.Data(values=_sample(dots))).mark_tick(opacity=0.6)
    thin = thin.encode(
        x=value, y=group, tooltip=["group:N", "person:N", alt.Tooltip("value:Q", format=".4~g")]
    )
    rules = alt.Chart(alt.Data(values=middles)).mark_tick(thickness=4, color=_ACCENT)
    rules = rules.encode(
        x=value, y=group, tooltip=["group:N", "people:Q", alt.Tooltip("value:Q", format=".4~g")]
    )
    note = f"{len(largest):,} of {len(found):,} groups; thin: a person's mean, thick: the group's median. "
    return _titled(alt.layer(thin, rules), f"{metric} by {by}", note + _sample_note(len(dots)))


def coverage(data: Any) -> altair.Chart:
    """Show how many rows each account has in each window: gaps are what to look for.

    Needs the columns that a pull adds. Above some sixty accounts, the ones with the fewest rows are shown.

    :raises UsageError: the data does not come from a pull.
    :raises MissingExtraError: altair is not installed.
    """
    alt = _altair()
    columns = _columns(data, "integrated_account_id", optional=_WINDOW)
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for account, window in zip(columns["integrated_account_id"], windows_of(columns), strict=True):
        found[str(account)][window] += 1
    fewest = sorted(found, key=lambda account: (sum(found[account].values()), account))[:ACCOUNTS]
    windows = sorted({window for counts in found.values() for window in counts})
    step = max(1, -(-len(fewest) * len(windows) // POINTS))
    cells = [
        {"account": account, "window": window, "rows": found[account].get(window, 0)}
        for account in fewest
        for window in windows[::step]
    ]
    chart = alt.Chart(alt.Data(values=cells)).mark_rect()
    chart = chart.encode(
        x=alt.X("window:O", title="window", axis=alt.Axis(labelOverlap=True)),
        y=alt.Y("account:N", title="account"),
        color=alt.Color("rows:Q", title="rows"),
        tooltip=["account:N", "window:N", "rows:Q"],
    )
    note = f"{len(fewest):,} of {len(found):,} accounts, those with the fewest rows first"
    if step > 1:
        note += f"; one window in {step}"
    return _titled(chart, "rows by account and window", note)


# --- values ----------------------------------------------------------------------------------------------------


def _columns(data: Any, *names: str, optional: Iterable[str] = ()) -> Values:
    """Return columns of any data as lists; those of ``optional`` that are not there are left out."""
    if isinstance(data, (str, os.PathLike)):
        from .read_folder import read_folder

        data = read_folder(cast("str | os.PathLike[str]", data))
    if isinstance(data, dict):
        values = cast("Values", data)
        return {name: values[name] for name in dict.fromkeys((*names, *optional)) if name in values}
    get: Callable[[str], Sequence[Any]]
    if isinstance(data, (Frames, list, tuple)):
        table = columns_of(parts_of(cast("Any", data)))
        known: Sequence[str] = table.schema.names
        get = dict(zip(known, table.values, strict=True)).__getitem__
    else:
        frame: Any = import_module("narwhals").from_native(data)  # comes with altair
        known = frame.columns
        get = lambda name: frame[name].to_list()  # noqa: E731
    if missing := [name for name in names if name not in known]:
        raise UsageError(f"there is no column {', '.join(missing)}; there are {', '.join(known)}")
    return {name: get(name) for name in dict.fromkeys((*names, *optional)) if name in known}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values if _is_number(value)]


def people_of(columns: Values) -> list[str]:
    """Return the best name there is for the person of each row."""
    known = [columns[name] for name in _PERSON if name in columns]
    if not known:
        return ["?"] * len(next(iter(columns.values()), ()))
    return [next((str(name) for name in names if name), "?") for names in zip(*known, strict=True)]


def windows_of(columns: Values) -> list[str]:
    """Return the start of each row's window as text, empty if there is none."""
    known = next((columns[name] for name in _WINDOW if name in columns), None)
    if known is None:
        return [""] * len(next(iter(columns.values()), ()))
    return [
        value.isoformat(timespec="minutes") if isinstance(value, datetime) else str(value or "")
        for value in known
    ]


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


def _sample(points: list[Point]) -> list[Point]:
    """Return a sample that is always the same for the same data."""
    return points if len(points) <= POINTS else random.Random(0).sample(points, POINTS)


def _sample_note(points: int) -> str:
    return f"{points:,} points" if points <= POINTS else f"a random {POINTS:,} of {points:,} points"


# --- Altair ----------------------------------------------------------------------------------------------------

_ACCENT = "#d1495b"
_SERIES = ["person:N", "window:T", "value:Q"]


def _altair() -> Any:
    try:
        return import_module("altair")
    except ImportError:
        raise MissingExtraError("altair", "charts") from None


def _title(name: str) -> str | list[str]:
    return [name, f"({_NO_UNIT})"] if name in METRICS else name


def _titled(chart: Any, title: str, note: str) -> altair.Chart:
    titled: altair.Chart = chart.properties(title={"text": title, "subtitle": note}, width=520, height=260)
    return titled

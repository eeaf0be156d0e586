"""The data of a report's page: its charts and the rows of its table, small enough for a browser."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any

from truto_ci_async.errors import UsageError
from truto_ci_async.export.schema import to_utc
from truto_ci_async.pull.checkpoint.stored_state import StoredState

from . import charts
from .read_folder import Folder
from .rows import PersonKey, Rows, number, read_rows, text_of

# Rows of the table. With more, browsers are slow to open the page.
PEOPLE = 5_000
# Points of a chart, of which there is one for each metric.
POINTS = 1_000
_COLUMNS = (
    "integrated_account_id",
    "tenant_id",
    "window_start",
    "user_id",
    "user_name",
    "user_email",
    *charts.METRICS,
)


def report_rows(folder: Folder) -> Rows:
    """Read what a report needs from a folder."""
    return read_rows(folder, [name for name in _COLUMNS if name in folder.schema.names], _names(folder))


def _names(folder: Folder) -> Mapping[PersonKey, str]:
    """Return the names of people by account and id, if the folder has users as well."""
    try:
        users = folder.other("users")
    except UsageError:
        return {}
    rows = read_rows(users, ["integrated_account_id", "id", "name"])
    found = zip(rows["integrated_account_id"], rows["id"], rows["name"], strict=True)
    return {(account, id): name for account, id, name in found if account and id and name}


def page_data(rows: Rows, metrics: Sequence[str], state: StoredState | None) -> dict[str, Any]:
    """Return the data of the page, ready for JSON."""
    return {
        "metrics": list(metrics),
        "charts": _charts(rows, metrics, state),
        "people": _people_table(rows, metrics),
    }


def _charts(rows: Rows, metrics: Sequence[str], state: StoredState | None) -> dict[str, Any]:
    by = "tenant_id" if any(rows["tenant_id"]) else "integrated_account_id"
    has_groups, has_series = len(set(rows[by])) > 1, len(set(rows["window_start"])) > 1
    found = {"coverage": _spec(_coverage(rows, state))} if len(rows) or state else {}
    for metric in metrics:
        found[f"distribution {metric}"] = _spec(charts.distribution(rows, metric))
        if has_groups:
            found[f"groups {metric}"] = _spec(charts.groups(rows, metric, by=by, most=POINTS))
        if has_series:
            found[f"over_time {metric}"] = _spec(charts.over_time(rows, metric))
    if len(metrics) > 1:
        found["compare"] = _spec(_points(rows, metrics))
    return found


def _coverage(rows: Rows, state: StoredState | None) -> Any:
    """Return the chart of rows by account and window; the plan knows those without any row."""
    accounts = map(text_of, rows["integrated_account_id"])
    counts = Counter(zip(accounts, rows.windows, strict=True))
    if state is None:
        return charts.coverage_chart(counts)
    windows = [_moment(window.start) for window in state.plan.windows]
    return charts.coverage_chart(counts, (account.id for account in state.plan.accounts), windows)


def _moment(text: str | None) -> str:
    """Return the start of a window as rows have it."""
    try:
        return text_of(to_utc(datetime.fromisoformat(text or "")))
    except ValueError:
        return text or ""


def _points(rows: Rows, metrics: Sequence[str]) -> Any:
    """Return a chart whose points have all metrics, so that the page can choose two."""
    points: list[dict[str, Any]] = [
        {
            "person": rows.people[at],
            "window": rows.windows[at],
            **{name: _short(number(rows[name][at])) for name in metrics},
        }
        for at in charts.sample(range(len(rows)))
    ]
    alt: Any = import_module("altair")
    scale = alt.Scale(zero=False)
    chart = alt.Chart(alt.Data(values=points)).mark_circle(opacity=0.6)
    chart = chart.encode(x=alt.X(f"{metrics[0]}:Q", scale=scale), y=alt.Y(f"{metrics[1]}:Q", scale=scale))
    return chart.properties(title={"text": "", "subtitle": charts.sample_note(len(rows))}, height=260)


def _short(value: float | None) -> float | None:
    """Round a value to the digits people read; a page has tens of thousands of values."""
    return None if value is None else float(f"{value:.6g}")


def _spec(chart: Any) -> dict[str, Any]:
    """Return a chart without its title, which the page shows as text, and as wide as its container."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    title = spec.pop("title")
    caption = {"text": title["text"], "note": title["subtitle"]}
    place = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    return {"spec": spec | place, "caption": caption}


def _people_table(rows: Rows, metrics: Sequence[str]) -> dict[str, Any]:
    """Return a table of people, with the means of their metrics."""
    places: dict[tuple[str, str], int] = {}
    accounts = map(text_of, rows["integrated_account_id"])
    at = [places.setdefault(key, len(places)) for key in zip(rows.people, accounts, strict=True)]
    counts = Counter(at)
    means = [_means(at, len(places), rows[metric]) for metric in metrics]
    keys = list(places)
    shown = sorted(range(len(keys)), key=lambda place: (-counts[place], keys[place]))[:PEOPLE]
    note = f"{len(keys):,} people; the metrics are means over their rows."
    if len(keys) > PEOPLE:
        note += f" The {PEOPLE:,} with the most rows are shown and downloaded."
    return {
        "columns": ["person", "account", "rows", *metrics],
        "rows": [[*keys[place], counts[place], *(mean[place] for mean in means)] for place in shown],
        "note": note,
    }


def _means(places: Sequence[int], size: int, values: Sequence[Any]) -> list[float | None]:
    sums, counts = array("d", bytes(8 * size)), array("q", bytes(8 * size))
    for place, value in zip(places, map(number, values), strict=True):
        if value is not None:
            sums[place] += value
            counts[place] += 1
    return [_short(total / count) if count else None for total, count in zip(sums, counts, strict=True)]

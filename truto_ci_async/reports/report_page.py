"""The report on a pull: one HTML page that opens from disk, without a network.

Names of people come from outside, and the page runs code. So nothing from outside is ever part of that code: data is
JSON in which ``<`` is escaped, text is put into the page as text, Vega interprets its expressions rather than compile
them, and the page's own policy allows exactly the two scripts that are in it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module, resources
from math import isfinite
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from truto_ci_async._files import AtomicFile
from truto_ci_async._text import printable
from truto_ci_async.errors import MissingExtraError
from truto_ci_async.pull.checkpoint.stored_state import EndedAccount, StoredState, read_state
from truto_ci_async.resources.interactions import STATE_FILE

from . import charts
from .charts import METRICS, POINTS
from .read_folder import Folder, read_folder

# Rows of the tables. More would make a page that browsers are slow to open.
PEOPLE = 5_000
PROBLEMS = 500
_COLUMNS = (
    "integrated_account_id",
    "tenant_id",
    "window_start",
    "user_id",
    "user_name",
    "user_email",
    *METRICS,
)


def report(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, title: str = "Talk metrics"
) -> Path:
    """Write a report on a pull's folder: what was asked, what is missing and why, charts, and a table of people.

        truto_ci_async.report("data/", "report.html")

    One self-contained page of about a megabyte, which needs no network. An existing file is replaced. Above some
    thousand people the table shows those with the most rows, and charts show samples; both say so.

    :raises UsageError: there is no pull's output in ``folder``.
    :raises MissingExtraError: altair or vl-convert-python is not installed.
    """
    found = read_folder(folder)
    library = _library()
    state = read_state(found.path / STATE_FILE)
    columns = found.data([name for name in _COLUMNS if name in found.schema.names])
    values = dict(zip(columns.schema.names, columns.values, strict=True))
    page = _page(title, found, state, values, library)
    file = AtomicFile(Path(out))
    try:
        file.open()
        file.write(page.encode())
        file.sync()
        file.publish()
    finally:
        file.discard()
    return file.path


def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    try:
        script: str = import_module("vl_convert").javascript_bundle()
    except ImportError:
        raise MissingExtraError("vl-convert-python", "charts") from None
    return script


def _page(title: str, folder: Folder, state: StoredState | None, values: charts.Values, library: str) -> str:
    here = resources.files("truto_ci_async.reports")
    script = here.joinpath("report_page.js").read_text()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {_hash(library)} {_hash(script)}"
    )
    metrics = [name for name in METRICS if any(map(_is_number, values[name]))]
    data = {
        "metrics": metrics,
        "charts": _charts(values, metrics),
        "people": _people_table(values, metrics),
    }
    parts = {
        "POLICY": policy,
        "TITLE": _text(title),
        "SUBTITLE": _text(f"{len(folder):,} rows · made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        "STATE": _state(state),
        "ASKED": _asked(folder, state),
        "PROBLEMS": _problems(state),
        "SUMMARY": _summary(values, metrics),
        "DATA": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "LIBRARY": library,
        "SCRIPT": script,
    }
    pieces = here.joinpath("report_page.html").read_text().split("%%")
    return "".join(parts[piece] if at % 2 else piece for at, piece in enumerate(pieces))


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _text(value: object) -> str:
    return html.escape(printable(str(value)))


_NOTHING = "\N{EN DASH}"


# --- text ------------------------------------------------------------------------------------------------------

_WHAT_TO_DO = {
    "ReconnectRequiredError": "the account's owner must reconnect it",
    "PermissionDeniedError": "the account's owner must grant the missing scopes",
    "AccountBlockedError": "ask Truto's support about this account",
    "NotFoundError": "check the account's id, and what the account supports",
    "BadRequestError": "change what is asked for",
    "CursorLoopError": "tell Truto's support: the service repeats itself",
    "DecodeError": "tell Truto's support: the answer cannot be read",
}


def _state(state: StoredState | None) -> str:
    if state is None:
        unknown = "Its state is not in the folder, so this page cannot tell whether the pull is complete."
        return f'<p class="state open">{unknown}</p>'
    accounts = len(state.plan.accounts)
    if state.complete:
        return f'<p class="state"><b>Complete.</b> All {accounts:,} accounts were pulled to the end.</p>'
    failed = sum(each.outcome == "failed" for each in state.ended)
    parked = len(state.ended) - failed
    counts = [f"{state.done:,} of {accounts:,} accounts are done"]
    counts += [f"{failed:,} failed"] if failed else []
    counts += [f"{parked:,} are parked"] if parked else []
    return f'<p class="state open"><b>Not complete.</b> {", ".join(counts)}. Run the same pull again to go on.</p>'


def _asked(folder: Folder, state: StoredState | None) -> str:
    facts: list[tuple[str, object]] = [("Resource", folder.resource), ("Format", folder.format)]
    if state is not None:
        plan = state.plan
        facts += [
            ("Accounts", f"{len(plan.accounts):,}"),
            ("From", plan.windows[0].start or "the service's choice"),
            ("To", plan.windows[-1].end or "the service's choice"),
            ("Windows", f"{len(plan.windows):,}"),
            ("Planned", plan.created_at),
            *((name.replace("_", " ").capitalize(), _brief(value)) for name, value in plan.filters.items()),
        ]
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd><bdi>{_text(value)}</bdi></dd>' for name, value in facts)}</dl>"


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _problems(state: StoredState | None) -> str:
    if state is None or not state.ended:
        return ""
    tenants = {account.id: account.tenant_id for account in state.plan.accounts}
    rows = [(each.id, tenants.get(each.id), each.outcome, *_reason(each)) for each in state.ended[:PROBLEMS]]
    more = (
        f"<p>{len(state.ended) - PROBLEMS:,} more are not shown.</p>" if len(state.ended) > PROBLEMS else ""
    )
    table = _table(("Account", "Tenant", "State", "Why", "What to do"), rows)
    return (
        '<section aria-labelledby="problems"><h2 id="problems">Accounts to look at</h2>'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="problems">{table}</div>{more}</section>'
    )


def _reason(account: EndedAccount) -> tuple[str, str]:
    if account.outcome == "parked":
        if account.until is None:
            return "the service did not answer", "run the pull again"
        when = f"{datetime.fromtimestamp(account.until, UTC):%Y-%m-%d %H:%M} UTC"
        return "the service asked to wait", f"run the pull again after {when}"
    kind, _, message = (account.error or "").partition(": ")
    return message or kind, _WHAT_TO_DO.get(kind, "run the pull again")


def _summary(values: charts.Values, metrics: Iterable[str]) -> str:
    rows = [(name, *_spread([value for value in values[name] if _is_number(value)])) for name in metrics]
    if not rows:
        return "<p>No row has a metric.</p>"
    head = ("Metric", "Rows", "Tenth percentile", "Median", "Ninetieth percentile")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="metrics">{_table(head, rows)}</div>'
    )


def _spread(values: Sequence[float]) -> tuple[str, ...]:
    tenths = quantiles(values, n=10, method="inclusive") if len(values) > 1 else [*values] * 9
    return f"{len(values):,}", *[f"{tenths[at]:,.5g}" for at in (0, 4, 8)]


def _table(headers: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in headers)
    body = "".join(
        f"<tr>{''.join(f'<td><bdi>{_text(_NOTHING if cell is None else cell)}</bdi></td>' for cell in row)}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# --- data ------------------------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, float) and isfinite(value)


def _charts(values: charts.Values, metrics: Sequence[str]) -> dict[str, Any]:
    by = "tenant_id" if any(values["tenant_id"]) else "integrated_account_id"
    has_series = len(set(values["window_start"])) > 1
    found = {"coverage": _spec(charts.coverage(values))} if values["window_start"] else {}
    for metric in metrics:
        found[f"distribution {metric}"] = _spec(charts.distribution(values, metric))
        if len(set(values[by])) > 1:
            found[f"groups {metric}"] = _spec(charts.groups(values, metric, by=by))
        if has_series:
            found[f"over_time {metric}"] = _spec(charts.over_time(values, metric))
    if len(metrics) > 1:
        found["compare"] = _spec(_points(values, metrics))
    return found


def _points(values: charts.Values, metrics: Sequence[str]) -> Any:
    """Return a chart whose points have all metrics, so that the page can choose two."""
    rows = range(len(values["user_id"]))
    chosen = rows if len(rows) <= POINTS else random.Random(0).sample(rows, POINTS)
    people, windows = charts.people_of(values), charts.windows_of(values)
    points = [
        {
            "person": people[at],
            "window": windows[at],
            **{name: _json_number(values[name][at]) for name in metrics},
        }
        for at in chosen
    ]
    alt: Any = import_module("altair")
    scale = alt.Scale(zero=False)
    chart = alt.Chart(alt.Data(values=points)).mark_circle(opacity=0.6)
    chart = chart.encode(x=alt.X(f"{metrics[0]}:Q", scale=scale), y=alt.Y(f"{metrics[1]}:Q", scale=scale))
    note = f"{len(rows):,} rows" if len(rows) <= POINTS else f"a random {POINTS:,} of {len(rows):,} rows"
    return chart.properties(title={"text": "", "subtitle": note}, height=260)


def _json_number(value: object) -> float | None:
    return value if isinstance(value, float) and isfinite(value) else None


def _spec(chart: Any) -> dict[str, Any]:
    """Return a chart without its title, which the page shows as text, and as wide as its place."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    title = spec.pop("title")
    caption = {"text": title["text"], "note": title["subtitle"]}
    return {"spec": spec | {"width": "container"}, "caption": caption}


def _people_table(values: charts.Values, metrics: Sequence[str]) -> dict[str, Any]:
    rows: dict[tuple[str, str], int] = defaultdict(int)
    sums: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    keys = list(zip(values["integrated_account_id"], charts.people_of(values), strict=True))
    for key in keys:
        rows[key] += 1
    for metric in metrics:
        for key, value in zip(keys, values[metric], strict=True):
            if _is_number(value):
                sums[key][metric].append(value)
    shown = sorted(rows, key=lambda key: (-rows[key], key))[:PEOPLE]
    note = f"{len(rows):,} people; the metrics are means over their rows."
    if len(rows) > PEOPLE:
        note += f" The {PEOPLE:,} with the most rows are shown and downloaded."
    return {
        "columns": ["person", "account", "rows", *metrics],
        "rows": [[key[1], key[0], rows[key], *_means(sums[key], metrics)] for key in shown],
        "note": note,
    }


def _means(sums: Mapping[str, Sequence[float]], metrics: Iterable[str]) -> list[float | None]:
    return [fmean(sums[metric]) if sums.get(metric) else None for metric in metrics]

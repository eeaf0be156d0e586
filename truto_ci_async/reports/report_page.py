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
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from statistics import quantiles

from truto_ci_async._files import AtomicFile
from truto_ci_async._text import printable
from truto_ci_async.errors import MissingExtraError, UsageError
from truto_ci_async.pull.checkpoint.stored_state import EndedAccount, StoredState, read_state
from truto_ci_async.sinks.layout import STATE_FILE, is_used_by_pulls

from .charts import METRICS
from .read_folder import CloudFolder, Folder, read_folder
from .report_data import page_data, report_rows
from .rows import Rows

# Accounts that failed or are parked, in the page and its download.
PROBLEMS = 500
_MAX_MESSAGE = 300


def report(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, title: str = "Talk metrics"
) -> Path:
    """Write a report on a pull's folder: what was asked, what is missing and why, charts, and a table of people.

        truto_ci_async.report("data/", "report.html")
        await asyncio.to_thread(truto_ci_async.report, "data/", "report.html")  # it takes seconds

    One self-contained page of 1 to 3 MB, which needs no network. An existing file is replaced. The folder of a running
    pull can be read too: the report is on what was committed. Above 5,000 people the table has those with the most
    rows, and above 1,000 points charts show a sample; both say so.

    :raises UsageError: there is no pull's output in ``folder``, or ``out`` is a file of the pull itself.
    :raises DamagedStateError: a file of the folder cannot be read.
    :raises MissingExtraError: altair or vl-convert-python is not installed.
    """
    try:
        found = read_folder(folder)
    except UsageError as error:
        raise UsageError(f"a report is made of interactions that were pulled: {error}") from None
    path = Path(out)
    is_cloud = isinstance(found, CloudFolder)
    if not is_cloud and is_used_by_pulls(path.resolve(), found.path.resolve()):
        raise UsageError(f"{path} has a name that the pull uses itself: write the report elsewhere")
    for module, package in (("altair", "altair"), ("vl_convert", "vl-convert-python")):
        if find_spec(module) is None:
            raise MissingExtraError(package, "charts")
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(_library)
        state = None if is_cloud else read_state(found.path / STATE_FILE)
        rows = report_rows(found)
        parts = _parts(title, found, state, rows)
        page = _page(parts, building.result())
    file = AtomicFile(path)
    try:
        file.open()
        file.write(page.encode())
        file.sync()
        file.publish()
    finally:
        file.discard()
    return file.path


_BUILD = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script.

    To build it takes two seconds, in which vl-convert holds the interpreter's lock: so another process does.
    """
    try:
        built = subprocess.run([sys.executable, "-c", _BUILD], capture_output=True, check=True)
        return built.stdout.decode()
    except (OSError, subprocess.CalledProcessError):  # for example an interpreter embedded in a program
        script: str = import_module("vl_convert").javascript_bundle()
        return script


def _parts(title: str, folder: Folder, state: StoredState | None, rows: Rows) -> dict[str, str]:
    """Return what goes into the page besides its scripts, as HTML and JSON."""
    metrics = [name for name in METRICS if rows.numbers(name)]
    problems = _problems(state)
    data = {**page_data(rows, metrics, state), "problems": {"columns": _PROBLEM_COLUMNS, "rows": problems}}
    return {
        "TITLE": _text(title),
        "SUBTITLE": _text(f"{len(folder):,} rows · made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        "STATE": _state(folder, state),
        "ASKED": _asked(folder, state),
        "PROBLEMS": _problems_section(state, problems),
        "SUMMARY": _summary(rows, metrics),
        "DATA": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }


def _page(parts: Mapping[str, str], library: str) -> str:
    here = resources.files("truto_ci_async.reports")
    script = here.joinpath("report_page.js").read_text("utf-8")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {hash_of(library)} {hash_of(script)}"
    )
    found = {**parts, "POLICY": policy, "LIBRARY": library, "SCRIPT": script}
    pieces = here.joinpath("report_page.html").read_text("utf-8").split("%%")
    return "".join(found[piece] if at % 2 else piece for at, piece in enumerate(pieces))


def hash_of(script: str) -> str:
    """Return the hash by which a policy allows a script."""
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
    "DecodeError": "tell Truto's support: the response cannot be read",
}


def _state(folder: Folder, state: StoredState | None) -> str:
    if state is None and folder.complete:
        return '<p class="state"><b>Complete.</b> Every account was pulled to the end.</p>'
    if state is None:
        unknown = "Its state is not in the folder, so this page cannot tell whether the pull is complete."
        return f'<p class="state open">{unknown}</p>'
    accounts = len(state.plan.accounts)
    if state.complete:
        return f'<p class="state"><b>Complete.</b> {_all_accounts(accounts)} pulled to the end.</p>'
    counts = [f"{state.done:,} of {accounts:,} accounts are done"]
    counts += [f"{state.failed:,} failed"] if state.failed else []
    counts += [f"{state.parked:,} are parked"] if state.parked else []
    advice = "Run the same pull again to go on, unless it is still running."
    return f'<p class="state open"><b>Not complete.</b> {", ".join(counts)}. {advice}</p>'


def _all_accounts(count: int) -> str:
    return "The one account was" if count == 1 else f"All {count:,} accounts were"


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
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}…"


_PROBLEM_COLUMNS = ("Account", "Tenant", "State", "Why", "What to do")


def _problems(state: StoredState | None) -> list[list[str | None]]:
    if state is None:
        return []
    tenants = {account.id: account.tenant_id for account in state.plan.accounts}
    return [
        [each.id, tenants.get(each.id), each.outcome, *map(_cut, _reason(each))]
        for each in state.ended[:PROBLEMS]
    ]


def _problems_section(state: StoredState | None, problems: Sequence[Sequence[object]]) -> str:
    if state is None or not problems:
        return ""
    left = state.failed + state.parked - len(problems)
    more = f"<p>{left:,} more are not shown.</p>" if left > 0 else ""
    return (
        '<section aria-labelledby="problems"><h2 id="problems">Accounts to look at</h2>'
        f"{_scrolling(_table(_PROBLEM_COLUMNS, problems), 'problems')}{more}"
        '<div class="controls"><button type="button" id="download-problems">Download these accounts as CSV</button>'
        "</div></section>"
    )


def _reason(account: EndedAccount) -> tuple[str, str]:
    if account.outcome == "parked":
        if account.until is None:
            return "the service did not answer", "run the pull again"
        return "the service asked to wait", f"run the pull again after {_moment(account.until)}"
    kind, _, message = (account.error or "").partition(": ")
    return message or kind, _WHAT_TO_DO.get(kind, "run the pull again")


def _moment(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):  # a state that was altered
        return "a while"


def _summary(rows: Rows, metrics: Iterable[str]) -> str:
    shown = [(name, *_spread(rows.numbers(name))) for name in metrics]
    if not shown:
        return "<p>No row has a metric.</p>"
    head = ("Metric", "Rows", "Tenth percentile", "Median", "Ninetieth percentile")
    return _scrolling(_table(head, shown, numbers=True), "metrics")


def _spread(values: Sequence[float]) -> tuple[str, ...]:
    tenths = quantiles(values, n=10, method="inclusive") if len(values) > 1 else [*values] * 9
    return f"{len(values):,}", *[f"{tenths[at]:,.5g}" for at in (0, 4, 8)]


def _scrolling(table: str, label: str) -> str:
    """Return a table in a box that scrolls, also by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{label}">{table}</div>'


def _table(headers: Iterable[str], rows: Iterable[Iterable[object]], *, numbers: bool = False) -> str:
    """Return a table; with ``numbers``, in all columns but the first."""
    right = ' class="number"' if numbers else ""
    head = "".join(
        f'<th scope="col"{right if at else ""}>{_text(name)}</th>' for at, name in enumerate(headers)
    )
    body = "".join(
        f"<tr>{''.join(_cell(cell, right if at else '') for at, cell in enumerate(row))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object, attributes: str) -> str:
    return f"<td{attributes}><bdi>{_text(_NOTHING if value is None else value)}</bdi></td>"

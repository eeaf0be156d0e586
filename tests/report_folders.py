"""Folders of pulls for the tests of charts and reports: with any rows, and in any state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truto_ci_async import AccountPage, Interaction, PlannedAccount, Window
from truto_ci_async.models import Email, Metrics, Page, Person
from truto_ci_async.sinks.factory import make_sink

WINDOWS = [Window(f"2024-0{month}-01T00:00:00Z", f"2024-0{month + 1}-01T00:00:00Z") for month in range(1, 5)]

#: Names that do something in a page that takes text for code, or in a spreadsheet.
HOSTILE = (
    "</script><script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "\u202eevil\u202c \u200f\u2066",
    "{{constructor.constructor('document.title=1')()}}",
    "javascript:document.title='pwned'",
    '=HYPERLINK("http://127.0.0.1/","x")',
    "+1+1",
    "@SUM(1)",
    "-2+3\r\nnext",
    "<!--<script>",
    "datum['x'] || alert(1)",
    "${alert(1)}",
    "%%DATA%%",
    "&lt;b&gt; \\u003c \\",
    'O\'Hara, "Quoted"',
    "\U0001f600 non-BMP \u0000 \u2028 line",
)


def person(at: int, name: str | None = None, **metrics: float | None) -> Interaction:
    """Return the row of one person, with the metrics given or made up ones."""
    values = metrics or {
        "longest_monologue": 40.0 + at % 90,
        "longest_customer_story": 30.0 + at % 70,
        "interactivity": at % 10 + 0.5,
        "patience": (at * 7 % 30) / 10,
        "question_rate": None if at % 5 == 0 else float(at % 20),
    }
    emails = (Email(email=f"p{at}@team.example", is_primary=True),)
    user = Person(id=f"u{at}", name=f"Person {at}" if name is None else name, emails=emails)
    start = datetime(2024, 1 + at % 4, 1, tzinfo=UTC)
    return Interaction(id=f"i{at}", user=user, start_time=start, metrics=Metrics(**values))


async def write_folder(
    folder: Path,
    rows: Iterable[tuple[str, Window, Sequence[Any]]],
    *,
    resource: str = "interactions",
) -> None:
    """Write rows as a pull into CSV does, without its state."""
    sink = make_sink("csv", folder, resource=resource)
    await sink.hold()
    await sink.open(None)
    try:
        for account, window, items in rows:
            planned = PlannedAccount(account, f"tenant-{int(account.rsplit('-', 1)[-1]) % 7}")
            await sink.write(AccountPage(planned, window, Page(items=tuple(items))))
        await sink.commit(final=True)
        await sink.committed()
    finally:
        await sink.aclose()

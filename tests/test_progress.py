"""The line that says how far a walk or pull is: what it says, where it is shown, and that it always ends."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import run
from truto_ci_async import Fault, Sandbox, TrutoClient, UsageError, _progress
from truto_ci_async._progress import Counts, Progress
from truto_ci_async.events import Emitter, PageDecoded
from truto_ci_async.pagination.progress import start_progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Shown:
    """A display that keeps what it was given."""

    seconds = 0.2

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.last: str | None = None

    def show(self, text: str) -> None:
        self.lines.append(text)

    def close(self, text: str) -> None:
        assert self.last is None
        self.last = text


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.in_thread(accounts=2, interactions=120, account_rate=None) as running:
        yield running


@pytest.fixture(autouse=True)
def without_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "sandbox" in request.fixturenames:
        request.getfixturevalue("sandbox").clear_faults()


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    """Have every line shown here, as soon as it changes."""
    found: list[Shown] = []

    def display() -> Shown:
        found.append(Shown())
        found[-1].seconds = 0.0
        return found[-1]

    monkeypatch.setattr(_progress, "terminal", display)
    monkeypatch.setattr(_progress, "DRAW_SECONDS", 0.0)
    return found


JANUARY = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}


def test_the_line_says_counts_rate_and_waits_with_their_cause() -> None:
    clock, shown = Clock(), Shown()
    line = Progress(shown, "items", clock)
    clock.now = 2.0
    line.add(100)
    line.add(100)  # too early to be drawn
    clock.now = 4.0
    line.wait("status 429\x1b[2J", 30.0)
    clock.now = 34.0
    line.wait("account limit", 0.5, is_over=True)
    line.add(200)
    line.close()
    line.close()
    assert shown.lines == [
        "0 items · 0.0 s",
        "100 items in 1 page · 50/s · 2.0 s",
        "200 items in 2 pages · 50/s · 4.0 s · waiting 30 s (status 429�[2J)",
        "400 items in 3 pages · 12/s · 34 s · waited 30 s (status 429�[2J and others)",
    ]
    assert shown.last == "400 items in 3 pages · 12/s · 34 s · waited 30 s (status 429�[2J and others)"


def test_waits_at_the_same_time_count_once() -> None:
    """Fifty accounts that wait for 2 s are a pull that waited for 2 s, and a line of 3 s must not say minutes."""
    clock, shown = Clock(), Shown()
    line = Progress(shown, "rows", clock)
    clock.now = 2.0
    for _ in range(50):
        line.wait("token limit", 1.5, is_over=True)
    line.wait("status 429", 0.8)
    line.wait("status 429", 0.5)
    clock.now = 3.0
    line.close()
    assert shown.last == "0 rows · 3.0 s · waited 2.3 s (token limit and others)"


def test_a_wait_that_was_broken_off_is_not_longer_than_the_line() -> None:
    clock, shown = Clock(), Shown()
    line = Progress(shown, "rows", clock)
    line.wait("status 503", 60.0)
    clock.now = 3.0
    line.close()
    assert shown.last == "0 rows · 3.0 s · waited 3.0 s (status 503)"


def test_a_line_that_follows_something_asks_it_when_it_is_drawn() -> None:
    clock, shown = Clock(), Shown()
    line = Progress(shown, "rows", clock)
    asked = iter([Counts(5, 1, "1 of 3 accounts"), Counts(9, 2, "3 of 3 accounts")])
    line.follow(lambda: next(asked))
    line.tick()
    clock.now = 90.0
    line.tick()
    line.close(ValueError())
    assert shown.lines[1:] == ["1 of 3 accounts · 5 rows in 1 page · 0/s · 1 min 30 s"]
    assert shown.last == "3 of 3 accounts · 9 rows in 2 pages · 0/s · 1 min 30 s · ended by ValueError"


def test_a_display_that_fails_is_left_alone() -> None:
    """A closed stderr must not cost a pull."""

    class Broken(Shown):
        def show(self, text: str) -> None:
            super().show(text)
            raise OSError("closed")

    shown = Broken()
    line = Progress(shown, clock=Clock())
    line.wait("status 503", 5.0)
    line.close()
    assert (len(shown.lines), shown.last) == (1, None)


async def collect(truto: TrutoClient, account: str, folder: Path) -> int:
    return len(await truto.interactions.list(account, **JANUARY, limit=50).collect(progress=True))


async def to_polars(truto: TrutoClient, account: str, folder: Path) -> int:
    return len(await truto.interactions.list(account, **JANUARY, limit=50).to_polars(progress=True))


async def stream(truto: TrutoClient, account: str, folder: Path) -> int:
    async with truto.interactions.stream(account, **JANUARY, limit=50, progress=True) as items:
        return len(await items.to_polars(progress=True))


async def save(truto: TrutoClient, account: str, folder: Path) -> int:
    async with truto.interactions.stream(account, **JANUARY, limit=120, progress=True) as items:
        await items.save(folder / "body.json")
    return 0


async def pull(truto: TrutoClient, account: str, folder: Path) -> int:
    async with truto.interactions.pull([account], **JANUARY, limit=50) as pages:
        return len(await pages.to_polars(progress=True))


async def pull_to(truto: TrutoClient, account: str, folder: Path) -> int:
    report = await truto.interactions.pull_to(folder, [account], **JANUARY, limit=50, progress=True)
    return report.rows


WAYS = [collect, to_polars, stream, save, pull, pull_to]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_fetch_much_shows_one_line(
    way: Callable[..., Any], sandbox: Sandbox, tmp_path: Path, displays: list[Shown]
) -> None:
    """It ends with all counts, has said what was waited for, and listens no longer."""
    sandbox.script(sandbox.account_ids[0], [Fault.status(502)])

    async def scenario() -> None:
        async with TrutoClient(sandbox.token, base_url=sandbox.url) as truto:
            rows = await way(truto, sandbox.account_ids[0], tmp_path)
            assert rows == (0 if way is save else 120)
            assert not truto.emitter.active

    run(scenario())
    (shown,) = displays
    assert shown.last is not None
    assert f"{0 if way is save else 120} " in shown.last
    assert any("waiting " in line and "502" in line for line in shown.lines), shown.lines
    if way is pull_to:
        assert shown.last.startswith("1 of 1 accounts · 120 rows in 3 pages")


@pytest.mark.parametrize("way", WAYS)
def test_the_line_ends_with_an_error(
    way: Callable[..., Any], sandbox: Sandbox, tmp_path: Path, displays: list[Shown]
) -> None:
    async def scenario() -> None:
        async with TrutoClient("wrong", base_url=sandbox.url) as truto:
            with pytest.raises(Exception, match="401"):
                await way(truto, sandbox.account_ids[0], tmp_path)
            assert not truto.emitter.active

    run(scenario())
    (shown,) = displays
    assert shown.last is not None
    assert way in (stream, save) or "ended by AuthenticationError" in shown.last


@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_cell_ends_its_line_and_leaves_the_client_usable(
    way: Callable[..., Any], sandbox: Sandbox, tmp_path: Path, displays: list[Shown]
) -> None:
    """That is what interrupting a notebook's cell does to it."""
    sandbox.script(sandbox.account_ids[0], [Fault.hang().forever()])

    async def scenario() -> None:
        sent = asyncio.Event()
        async with TrutoClient(
            sandbox.token, base_url=sandbox.url, on_event=lambda event: sent.set()
        ) as truto:
            cell = asyncio.create_task(way(truto, sandbox.account_ids[0], tmp_path))
            await sent.wait()
            while not displays:
                await asyncio.sleep(0.01)
            cell.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cell
            assert displays[0].last is not None
            sandbox.clear_faults()
            assert await way(truto, sandbox.account_ids[0], tmp_path) == (0 if way is save else 120)

    run(scenario())
    assert len(displays) == 2


def test_the_line_is_shown_in_kernels_and_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script or a service that says nothing about it shows nothing."""
    shells: list[Any] = [None, SimpleNamespace(), SimpleNamespace(kernel=object())]
    kinds: list[list[str | None]] = []
    monkeypatch.setattr(_progress.Notebook, "show", lambda self, text: None)
    for shell in shells:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        lines = [start_progress(wanted, "items") for wanted in (None, True, False)]
        kinds.append([None if line is None else type(line._display).__name__ for line in lines])
    assert kinds == [[None, "_Plain", None], [None, "_Plain", None], ["Notebook", "Notebook", None]]
    monkeypatch.delitem(sys.modules, "IPython")
    assert start_progress(None, "items") is None
    with pytest.raises(UsageError, match="progress is True, False, or None"):
        start_progress("yes", "items")  # type: ignore[arg-type]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one at the same time becomes plain lines, since two would draw over each other."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    line, second = Progress(_progress.terminal()), Progress(_progress.terminal())
    line.wait("status 429", 3.0)
    line.add(7)
    line.close()
    second.close()
    text = sys.stderr.getvalue()
    assert "waiting 3.0 s (status 429)" in text
    assert "\x1b[2K" in text
    assert "7 items in 1 page" in re.split("\x1b\\[2K", text)[-1]
    assert Progress(_progress.terminal())._display.__class__.__name__ == "_Rich"
    _progress._Rich.is_taken = False


def test_without_rich_a_terminal_has_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "rich.live", None)
    line = Progress(_progress.terminal())
    line.close()
    assert sys.stderr.getvalue() == "0 items · 0.0 s\n0 items · 0.0 s\n"


def test_a_process_without_stderr_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    Progress(_progress.terminal()).close()


def test_nobody_listens_when_no_line_is_shown() -> None:
    """Events are not even made then."""
    emitter, heard = Emitter(), []
    assert not emitter.active
    with emitter.listening(heard.append):
        assert emitter.active
        emitter.emit(PageDecoded(time=0.0, items=1))
    assert not emitter.active
    assert len(heard) == 1

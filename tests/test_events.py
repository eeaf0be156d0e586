"""Events: reporting can neither break a call nor leak a secret."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from truto_ci_async.errors import ConfigurationError
from truto_ci_async.events import (
    Emitter,
    Event,
    FieldRepaired,
    PacingWait,
    PageDecoded,
    RequestSent,
    ResponseReceived,
    RetryScheduled,
    UnknownFields,
)
from truto_ci_async.models import Issue

EVENTS: list[Event] = [
    RequestSent(time=1.0, account="a1", method="GET", url="/unified/x?limit=5", call_id=7),
    ResponseReceived(time=1.0, account="a1", status=200, elapsed=0.5, bytes=2048, call_id=7),
    RetryScheduled(time=1.0, account="a1", reason="status 502", wait=0.04, attempt=1, call_id=7),
    PacingWait(time=1.0, account="a1", level="account", wait=1.5, call_id=7),
    PageDecoded(time=1.0, account="a1", items=50, issues=1, bytes=2048, elapsed=0.001),
    FieldRepaired(time=1.0, account="a1", path="$.result[3].user", message="Expected `object`, got `str`"),
    UnknownFields(time=1.0, account="a1", fields=("mood", "user.role")),
]

LOGGER = "truto_ci_async"


def test_every_event_reads_as_one_line() -> None:
    assert [str(event) for event in EVENTS] == [
        "call 7: GET /unified/x?limit=5 [account a1]",
        "call 7: status 200, 2,048 bytes in 0.500 s [account a1]",
        "call 7: attempt 1 failed (status 502), next in 0.040 s [account a1]",
        "call 7: waited 1.500 s for the account limit [account a1]",
        "page of 50 items, 2,048 bytes decoded in 0.001 s, 1 repaired [account a1]",
        "repaired $.result[3].user: Expected `object`, got `str` [account a1]",
        "left out fields that the items have no place for: mood, user.role; item_type=dict keeps them [account a1]",
    ]
    assert (
        str(RequestSent(time=1.0, method="GET", url="/x", attempt=2, call_id=7))
        == "call 7: GET /x, attempt 2"
    )
    assert str(ResponseReceived(time=1.0, status=500, attempt=3, call_id=7)) == (
        "call 7: status 500, 0 bytes in 0.000 s, attempt 3"
    )


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b[31m", "\x00", "\u2028", "\x85"])
def test_text_from_outside_cannot_start_a_new_line(control: str) -> None:
    event = FieldRepaired(time=1.0, account=f"a{control}b", path="$", message=f"got{control}ERROR forged")
    assert len(str(event).splitlines()) == 1
    assert str(event).isprintable()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_are_frozen_and_keyword_only(event: Event) -> None:
    with pytest.raises(AttributeError):
        event.time = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        type(event)(1.0)  # type: ignore[call-arg, misc]


def test_an_emitter_is_inactive_by_default() -> None:
    """Then no event is built at all."""
    assert not Emitter().active
    assert Emitter(print).active


def test_events_are_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter()
    with caplog.at_level(logging.DEBUG, logger=LOGGER):
        assert emitter.active
        for event in EVENTS:
            emitter.emit(event)
    assert [record.getMessage() for record in caplog.records] == [str(event) for event in EVENTS]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_the_library_prints_nothing_by_itself() -> None:
    """Without logging set up, Python would print a library's warnings to stderr."""
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger(LOGGER).handlers)


def test_a_raising_hook_never_breaks_a_call_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def hook(event: Event) -> None:
        seen.append(event)
        raise ValueError("mine")

    emitter = Emitter(hook)
    for event in EVENTS:
        emitter.emit(event)
    assert seen == EVENTS
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is not None
    assert "RequestSent" in record.getMessage()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_hook_may_end_the_program(error: type[BaseException]) -> None:
    def hook(_event: Event) -> None:
        raise error

    with pytest.raises(error):
        Emitter(hook).emit(EVENTS[0])


def test_several_hooks_are_called_in_order_and_one_that_raises_stops_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[tuple[str, Event]] = []

    def broken(event: Event) -> None:
        raise ValueError

    emitter = Emitter(
        [lambda event: seen.append(("a", event)), broken, lambda event: seen.append(("b", event))]
    )
    emitter.emit(EVENTS[0])
    emitter.emit(EVENTS[1])
    assert seen == [(name, event) for event in EVENTS[:2] for name in "ab"]
    assert len(caplog.records) == 1
    assert not Emitter([]).active


@pytest.mark.parametrize("hooks", ["print", [print, None], 5, [[print]]])
def test_what_is_no_hook_is_refused(hooks: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_event"):
        Emitter(hooks)


def test_an_async_hook_is_refused() -> None:
    """It would never run, and Python would warn about it later and elsewhere."""

    async def hook(_event: Event) -> None: ...

    class Hook:
        async def __call__(self, _event: Event) -> None: ...

    for wrong in (hook, Hook()):
        with pytest.raises(ConfigurationError, match="plain function"):
            Emitter(wrong)
    wrong_type: Any = "print"
    with pytest.raises(ConfigurationError, match="function that takes an event"):
        Emitter(wrong_type)


def test_a_hook_that_returns_a_coroutine_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work(_event: Event) -> None: ...

    Emitter(lambda event: work(event)).emit(EVENTS[0])
    assert "RequestSent" in caplog.text
    assert "coroutine" in caplog.text


def test_a_page_with_repairs_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Fifty bad records must not fill the log, and the records themselves must not get into it."""
    seen: list[Event] = []
    issues = [
        Issue(
            index=n, path=f"$.result[{n}].user", message="Expected `object`, got `str`", raw=b'{"secret":1}'
        )
        for n in range(50)
    ]
    emitter = Emitter(seen.append, now=lambda: 5.0)
    emitter.report_repairs(issues, account="a1")
    emitter.report_repairs([], account="a1")
    assert [(event.time, event.path, event.index) for event in seen if isinstance(event, FieldRepaired)] == [
        (5.0, issue.path, issue.index) for issue in issues
    ]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "repaired $.result[0].user: Expected `object`, got `str` [account a1] and 49 more on this page"
    )
    assert "secret" not in caplog.text + repr(seen)


def test_one_repair_is_a_warning_without_a_count(caplog: pytest.LogCaptureFixture) -> None:
    Emitter().report_repairs([Issue(path="$.x", message="bad")])
    assert caplog.messages == ["repaired $.x: bad"]

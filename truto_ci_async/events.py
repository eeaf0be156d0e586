"""Events: what a client reports about its work, to its ``on_event`` function and the ``truto_ci_async`` logger.

    def watch(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            print(event)  # one line of text

    TrutoClient(on_event=watch)

Events contain no token, no record, no query and no cursor. They are logged at DEBUG; a page with repaired records is
one WARNING as well. What takes time has an event for its start and one for its end, with the same id.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias, cast

from msgspec import Struct

from truto_ci_async.models import Issue

from ._checks import is_iterable
from ._text import printable
from .errors import ConfigurationError

__all__ = [
    "CallEnded",
    "CallStarted",
    "Event",
    "EventHook",
    "FieldRepaired",
    "PacingWait",
    "PageDecoded",
    "PullCommitted",
    "PullEnded",
    "PullStarted",
    "RequestSent",
    "ResponseReceived",
    "RetryScheduled",
    "UnknownFields",
    "WindowDiffers",
]

logger = logging.getLogger("truto_ci_async")
logger.addHandler(logging.NullHandler())


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened at ``time`` (seconds since the epoch); ``str(event)`` is one line for a log.

    ``account`` is the integrated account, or None when the token implies it.
    """

    time: float
    account: str | None = None

    def __str__(self) -> str:
        who = "" if self.account is None else f" [account {self.account}]"
        return printable(self._text() + who)

    def _text(self) -> str:
        return type(self).__name__


class CallStarted(Event, frozen=True, kw_only=True, gc=False):
    """A call began; it may wait for its turn before its first request. ``CallEnded`` with this ``call_id`` follows.

    ``url`` is as in ``RequestSent``, ``base_url`` the address of the service. ``call_id`` is unique in this
    process. ``pull_id`` is that of the pull that makes the call, or 0. ``streamed``: the body is read as it arrives.
    """

    method: str
    url: str
    base_url: str = ""
    call_id: int = 0
    pull_id: int = 0
    streamed: bool = False

    def _text(self) -> str:
        return f"call {self.call_id} began: {self.method} {self.url}"


class CallEnded(Event, frozen=True, kw_only=True, gc=False):
    """A call ended after ``attempts`` requests and ``elapsed`` seconds: its result is ready, or its stream is closed.

    ``error`` is the name of the exception it raises, such as ``RateLimitError``, or None. ``retry_budget`` is how many
    retries the client has left.
    """

    call_id: int = 0
    attempts: int = 0
    elapsed: float = 0.0
    error: str | None = None
    retry_budget: float = 0.0

    def _text(self) -> str:
        how = "ended" if self.error is None else f"failed with {self.error}"
        return f"call {self.call_id} {how} after {self.elapsed:.3f} s"


class RequestSent(Event, frozen=True, kw_only=True, gc=False):
    """A request is about to be sent. ``attempt`` counts from 1 within the call ``call_id``.

    ``url`` is the path, with ``{id}`` in place of the id of a record or an account, and without the query.
    """

    method: str
    url: str
    attempt: int = 1
    call_id: int = 0

    def _text(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"call {self.call_id}: {self.method} {self.url}{again}"


class ResponseReceived(Event, frozen=True, kw_only=True, gc=False):
    """A response arrived, ``elapsed`` seconds after the request, with ``bytes`` of body after decompression.

    For a stream the body is still to come, and ``bytes`` is 0. ``resent`` counts how often the connection layer sent
    the request again by itself, because a pooled connection was dead.
    """

    status: int
    attempt: int = 1
    elapsed: float = 0.0
    bytes: int = 0
    call_id: int = 0
    resent: int = 0

    def _text(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return (
            f"call {self.call_id}: status {self.status}, {self.bytes:,} bytes in {self.elapsed:.3f} s{again}"
        )


class RetryScheduled(Event, frozen=True, kw_only=True, gc=False):
    """Attempt number ``attempt`` failed for ``reason``; the next one starts in ``wait`` seconds."""

    reason: str
    wait: float
    attempt: int
    call_id: int = 0

    def _text(self) -> str:
        return (
            f"call {self.call_id}: attempt {self.attempt} failed ({self.reason}), next in {self.wait:.3f} s"
        )


class PacingWait(Event, frozen=True, kw_only=True, gc=False):
    """A request waited ``wait`` seconds, to stay within the rate limit of the ``level``."""

    level: Literal["token", "account"]
    wait: float
    call_id: int = 0

    def _text(self) -> str:
        return f"call {self.call_id}: waited {self.wait:.3f} s for the {self.level} limit"


class PageDecoded(Event, frozen=True, kw_only=True, gc=False):
    """A page of ``bytes`` was decoded into ``items`` in ``elapsed`` seconds, with ``issues`` repaired.

    ``call_id`` is the call that fetched it.
    """

    items: int
    issues: int = 0
    bytes: int = 0
    elapsed: float = 0.0
    call_id: int = 0

    def _text(self) -> str:
        repaired = f", {self.issues} repaired" if self.issues else ""
        return f"page of {self.items} items, {self.bytes:,} bytes decoded in {self.elapsed:.3f} s{repaired}"


class PullStarted(Event, frozen=True, kw_only=True, gc=False):
    """A pull was opened. ``PullEnded`` with this ``pull_id``, which is unique in this process, follows."""

    pull_id: int = 0

    def _text(self) -> str:
        return f"pull {self.pull_id} began"


class PullState(Event, frozen=True, kw_only=True, gc=False):
    """How far a pull is: ``accounts`` of its plan, those of them ``done``, ``failed`` and ``parked``.

    ``rows`` and ``pages`` are those of this run that were marked as done.
    """

    pull_id: int = 0
    resource: str = ""
    accounts: int = 0
    done: int = 0
    failed: int = 0
    parked: int = 0
    rows: int = 0
    pages: int = 0


class PullCommitted(PullState, frozen=True, kw_only=True, gc=False):
    """A pull made ``committed`` pages durable, in ``elapsed`` seconds."""

    committed: int = 0
    elapsed: float = 0.0

    def _text(self) -> str:
        return f"pull {self.pull_id}: {self.committed} pages committed in {self.elapsed:.3f} s"


class PullEnded(PullState, frozen=True, kw_only=True, gc=False):
    """A pull was left. ``error`` is the name of the exception that ended it, or None."""

    error: str | None = None

    def _text(self) -> str:
        how = "ended" if self.error is None else f"failed with {self.error}"
        return f"pull {self.pull_id} {how}: {self.done} of {self.accounts} accounts done, {self.rows} rows"


class FieldRepaired(Event, frozen=True, kw_only=True, gc=False):
    """A field did not have its documented type and was repaired; the record itself is in ``Page.issues``."""

    path: str
    message: str
    index: int | None = None

    def _text(self) -> str:
        return f"repaired {self.path}: {self.message}"


class UnknownFields(Event, frozen=True, kw_only=True, gc=False):
    """``fields`` were received that the items have no field for. Each name is reported once per walk.

    ``kept``: they are in ``unknown`` of the items, in ``to_dict()`` and in NDJSON. Otherwise, with a struct of your own
    and the ``normalized`` format, they were left out; ``item_type=dict`` keeps everything.
    """

    fields: tuple[str, ...]
    kept: bool = False

    def _text(self) -> str:
        names = ", ".join(self.fields)
        if self.kept:
            return f"received fields that this version does not know: {names}; they are in `unknown` of the items"
        return f"left out fields that the items have no place for: {names}; item_type=dict keeps them"


class WindowDiffers(Event, frozen=True, kw_only=True, gc=False):
    """A window was answered with another than the one asked for, as ``what`` says: some time is missing in its rows, or
    counted in those of the next window as well. Reported once an account in each sync."""

    what: str
    time_zone: str | None = None

    def _text(self) -> str:
        return f"{self.what}; pass the time zone of the account"


EventHook: TypeAlias = Callable[[Event], object]

#: The pull that the running task belongs to. Set once in the task that owns a pull, and never reset.
current_pull: ContextVar[int] = ContextVar("truto_ci_async_pull", default=0)


class Emitter:
    """Passes events to a client's hook and to the logger.

    Building an event costs time, so check first whether anyone listens:

        if emitter.active:
            emitter.emit(RequestSent(time=emitter.now(), ...))

    ``hooks`` is one function or several, which are called in order.

    :raises ConfigurationError: a hook is not callable, or is a coroutine function.
    """

    __slots__ = ("_failed", "_hooks", "_listeners", "_logger", "now")

    def __init__(
        self,
        hooks: EventHook | Iterable[EventHook] | None = None,
        *,
        logger: logging.Logger = logger,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._hooks = checked_hooks(hooks)
        self._failed = set[int]()  # hooks whose failure was logged, by their place
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        self._logger = logger
        self.now = now

    @property
    def active(self) -> bool:
        """Whether anyone would see an event."""
        return bool(self._hooks or self._listeners) or self._logger.isEnabledFor(logging.DEBUG)

    @contextmanager
    def listening(self, listener: Callable[[Event], None]) -> Generator[None]:
        """Pass events to ``listener``, which does not raise, for the duration of the block."""
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

    def emit(self, event: Event) -> None:
        """Pass on an event. A hook that raises never breaks the call; its first failure is logged at WARNING."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("%s", event)
        for number, hook in enumerate(self._hooks):
            self._call(number, hook, event)
        for listener in self._listeners:
            listener(event)

    def report_repairs(
        self, issues: Sequence[Issue], *, count: int | None = None, account: str | None = None
    ) -> None:
        """Report the repairs of one page: an event for each, and a single WARNING in the log.

        ``count`` is their number if there were more than ``issues``.
        """
        if not issues:
            return
        if self.active:
            now = self.now()
            for issue in issues:
                self.emit(
                    FieldRepaired(
                        time=now, account=account, path=issue.path, message=issue.message, index=issue.index
                    )
                )
        first = FieldRepaired(time=0.0, account=account, path=issues[0].path, message=issues[0].message)
        others = (count or len(issues)) - 1
        more = f" and {others:,} more on this page" if others > 0 else ""
        self._logger.warning("%s%s", first, more)

    def report_unknown_fields(
        self, fields: Sequence[str], *, kept: bool = False, account: str | None = None
    ) -> None:
        """Report unknown fields: one event, and a line in the log, which is a WARNING if they were left out."""
        event = UnknownFields(time=self.now(), account=account, fields=tuple(fields), kept=kept)
        if self.active:
            self.emit(event)
        self._logger.log(logging.INFO if kept else logging.WARNING, "%s", event)

    def report_window(self, what: str, *, time_zone: str | None, account: str, logs: bool) -> None:
        """Report that a window answered differs from the one asked, with ``logs`` as a WARNING too."""
        event = WindowDiffers(time=self.now(), account=account, what=what, time_zone=time_zone)
        self.emit(event)
        if logs:
            self._logger.warning("%s", event)

    def _call(self, number: int, hook: EventHook, event: Event) -> None:
        try:
            result: Any = hook(event)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("on_event returned a coroutine; it must be a plain function")
        except Exception:
            if number not in self._failed:
                self._failed.add(number)
                self._logger.warning(
                    "on_event failed for %s; further failures are not logged",
                    type(event).__name__,
                    exc_info=True,
                )


def checked_hooks(hooks: object) -> tuple[EventHook, ...]:
    """Return the hooks that ``on_event`` was given.

    :raises ConfigurationError: one is not callable, or is a coroutine function.
    """
    if hooks is None:
        return ()
    is_several = not callable(hooks) and not isinstance(hooks, str) and is_iterable(hooks)
    found = tuple(cast("Iterable[object]", hooks)) if is_several else (hooks,)
    for hook in found:
        if not callable(hook):
            raise ConfigurationError(f"on_event must be a function that takes an event, not {hook!r}")
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
            raise ConfigurationError(
                "on_event must be a plain function, not a coroutine function: it is called in the middle of a request"
            )
    return cast("tuple[EventHook, ...]", found)

"""Events: what a client reports about its work, to its ``on_event`` function and the ``truto_ci_async`` logger.

    def watch(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            print(event)  # one line of text

    TrutoClient(on_event=watch)

Events contain no token and no record. They are logged at DEBUG; a page with repaired records is one WARNING as well.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from truto_ci_async.models import Issue

from ._text import printable
from .errors import ConfigurationError

__all__ = [
    "Event",
    "EventHook",
    "FieldRepaired",
    "PacingWait",
    "PageDecoded",
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


class RequestSent(Event, frozen=True, kw_only=True, gc=False):
    """A request is about to be sent. ``url`` is path and query; ``attempt`` counts from 1 within the call
    ``call_id``."""

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
    """A page of ``bytes`` was decoded into ``items`` in ``elapsed`` seconds, with ``issues`` repaired."""

    items: int
    issues: int = 0
    bytes: int = 0
    elapsed: float = 0.0

    def _text(self) -> str:
        repaired = f", {self.issues} repaired" if self.issues else ""
        return f"page of {self.items} items, {self.bytes:,} bytes decoded in {self.elapsed:.3f} s{repaired}"


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
        return f"{self.what}; pass the time_zone of the account"


EventHook: TypeAlias = Callable[[Event], object]


class Emitter:
    """Passes events to a client's hook and to the logger.

    Building an event costs time, so check first whether anyone listens:

        if emitter.active:
            emitter.emit(RequestSent(time=emitter.now(), ...))

    :raises ConfigurationError: ``hook`` is not callable, or is a coroutine function.
    """

    __slots__ = ("_hook", "_is_hook_reported", "_listeners", "_logger", "now")

    def __init__(
        self,
        hook: EventHook | None = None,
        *,
        logger: logging.Logger = logger,
        now: Callable[[], float] = time.time,
    ) -> None:
        if hook is not None and not callable(hook):
            raise ConfigurationError(f"on_event must be a function that takes an event, not {hook!r}")
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
            type(hook).__call__ if hook is not None else None
        ):
            raise ConfigurationError(
                "on_event must be a plain function, not a coroutine function: it is called in the middle of a request"
            )
        self._hook = hook
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        self._is_hook_reported = False
        self._logger = logger
        self.now = now

    @property
    def active(self) -> bool:
        """Whether anyone would see an event."""
        return self._hook is not None or bool(self._listeners) or self._logger.isEnabledFor(logging.DEBUG)

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
        if self._hook is not None:
            self._call(self._hook, event)
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

    def _call(self, hook: EventHook, event: Event) -> None:
        try:
            result: Any = hook(event)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("on_event returned a coroutine; it must be a plain function")
        except Exception:
            if not self._is_hook_reported:
                self._is_hook_reported = True
                self._logger.warning(
                    "on_event failed for %s; further failures are not logged",
                    type(event).__name__,
                    exc_info=True,
                )

"""What a client tells about its work: to its ``on_event`` function, and to the ``truto_ci_async`` logger.

    def watch(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            print(event)        # every event reads as one line

    TrutoClient(on_event=watch)

Events hold no token and no record. Everything is logged at DEBUG, except one WARNING for a page that needed
repair.
"""

from __future__ import annotations

import inspect
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from truto_ci_async.models import Issue

from .errors import ConfigurationError

__all__ = [
    "Emitter",
    "Event",
    "EventHook",
    "FieldRepaired",
    "PacingWait",
    "PageDecoded",
    "RequestSent",
    "ResponseReceived",
    "RetryScheduled",
]

logger = logging.getLogger("truto_ci_async")
logger.addHandler(logging.NullHandler())

# Control characters would let a provider's text begin a log line of its own.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened, at ``time`` (seconds since the epoch).

    ``account`` is None when the token implies it.

    ``str(event)`` is one line for a log.
    """

    time: float
    account: str | None = None

    def __str__(self) -> str:
        who = "" if self.account is None else f" [account {self.account}]"
        return _UNPRINTABLE.sub(" ", self._text() + who)

    def _text(self) -> str:
        return type(self).__name__


class RequestSent(Event, frozen=True, kw_only=True, gc=False):
    """A request goes out. ``url`` is path and query; ``attempt`` counts from 1 within call ``call_id``."""

    method: str
    url: str
    attempt: int = 1
    call_id: int = 0

    def _text(self) -> str:
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"call {self.call_id}: {self.method} {self.url}{again}"


class ResponseReceived(Event, frozen=True, kw_only=True, gc=False):
    """An answer came: ``elapsed`` seconds after the request; ``bytes`` of body after decompression.

    For a stream the body is still to come and ``bytes`` is 0. ``resent`` counts the times the connection
    layer sent the request again on its own, because the pooled connection was dead.
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
    """Attempt number ``attempt`` failed for ``reason``; the next one follows in ``wait`` seconds."""

    reason: str
    wait: float
    attempt: int
    call_id: int = 0

    def _text(self) -> str:
        return (
            f"call {self.call_id}: attempt {self.attempt} failed ({self.reason}), next in {self.wait:.3f} s"
        )


class PacingWait(Event, frozen=True, kw_only=True, gc=False):
    """A request was held back ``wait`` seconds, to stay within the limit of ``level``."""

    level: Literal["token", "account"]
    wait: float
    call_id: int = 0

    def _text(self) -> str:
        return f"call {self.call_id}: waited {self.wait:.3f} s for the {self.level} limit"


class PageDecoded(Event, frozen=True, kw_only=True, gc=False):
    """A page became items: ``bytes`` of body decoded in ``elapsed`` seconds, ``issues`` repaired."""

    items: int
    issues: int = 0
    bytes: int = 0
    elapsed: float = 0.0

    def _text(self) -> str:
        repaired = f", {self.issues} repaired" if self.issues else ""
        return f"page of {self.items} items, {self.bytes:,} bytes decoded in {self.elapsed:.3f} s{repaired}"


class FieldRepaired(Event, frozen=True, kw_only=True, gc=False):
    """A field was not what the contract says and was set aside; the record itself is in ``Page.issues``."""

    path: str
    message: str
    index: int | None = None

    def _text(self) -> str:
        return f"repaired {self.path}: {self.message}"


EventHook: TypeAlias = Callable[[Event], object]


class Emitter:
    """Hands events to a client's hook and to the logger.

    Building an event costs more than throwing it away, so ask first:

        if emitter.active:
            emitter.emit(RequestSent(time=emitter.now(), ...))

    :raises ConfigurationError: ``hook`` is a coroutine function, or cannot be called.
    """

    __slots__ = ("_hook", "_is_hook_reported", "_logger", "now")

    def __init__(
        self,
        hook: EventHook | None = None,
        *,
        logger: logging.Logger = logger,
        now: Callable[[], float] = time.time,
    ) -> None:
        if hook is not None and not callable(hook):
            raise ConfigurationError(f"on_event must be a function taking an event, got {hook!r}")
        if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
            type(hook).__call__ if hook is not None else None
        ):
            raise ConfigurationError(
                "on_event must be a plain function: it is called in the middle of a request"
            )
        self._hook = hook
        self._is_hook_reported = False
        self._logger = logger
        self.now = now

    @property
    def active(self) -> bool:
        """Whether anyone listens."""
        return self._hook is not None or self._logger.isEnabledFor(logging.DEBUG)

    def emit(self, event: Event) -> None:
        """Hand over one event. A hook that raises is logged once, at WARNING, and never breaks the call."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("%s", event)
        if self._hook is not None:
            self._call(self._hook, event)

    def report_repairs(self, issues: Sequence[Issue], *, account: str | None = None) -> None:
        """Report the repairs of one page: an event each for the hook, one WARNING in all for the log."""
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
        more = f" and {len(issues) - 1} more on this page" if len(issues) > 1 else ""
        self._logger.warning("%s%s", first, more)

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

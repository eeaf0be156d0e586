"""Scripted faults: what goes wrong, and with which request. `api` and `sandbox.http` carry them out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any, Final, Literal

from .content_encoding import ENCODINGS, Encoding, bomb, check_encoding
from .odd_values import add_unknown, change_types
from .responses import JSON_TYPE, Response, dump_json, error_response

# Faults that change the page while it is built, and those of the connection while a response is sent.
PAGE_FAULTS: Final = frozenset(("empty_page", "loop", "items", "edit"))
CONNECTION_FAULTS: Final = frozenset(("reset", "disconnect", "truncate", "hang", "hang_body", "drip", "slow"))

_DEFAULT_HTML: Final = (
    "<!doctype html><html><head><title>Just a moment...</title></head><body>cf-ray</body></html>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Create one with a class method, and say when it happens with `times`, `forever`, `on` or `every`. By default it
    happens once, when its turn comes:

        sandbox.script(account_id, [Fault.status(503), Fault.ok(), Fault.reset().times(2)])

    gives a 503, a good page, two broken connections, and good pages from then on.
    """

    kind: str
    count: int | None = 1  # how many requests it happens to; None is all
    nth: int | None = None  # only on this request of the account, counted from 1 since the first `script`
    step: int | None = None  # on every request whose number is a multiple of this
    response: Response | None = None
    seconds: float = 0.0
    keep: int | float | None = None  # how much of the response is sent: bytes, or a fraction if a float
    mode: str = ""
    retry_after: float | str | None = None
    retry_as_date: bool = False
    size: int = 0
    content: tuple[Any, ...] = ()

    @property
    def is_silent(self) -> bool:
        """Whether no byte of a response is sent."""
        return self.kind == "hang" or (self.kind in ("reset", "disconnect") and not self.keep)

    def response_at(self, now: float) -> Response | None:
        """Return the response that replaces the good one, if any; `now` is for dates in `Retry-After`."""
        if self.kind == "bomb":
            return Response(200, bomb(self.mode, self.size), encoding=self.mode)
        retry = self.retry_after
        if self.response is None or retry is None:
            return self.response
        if not isinstance(retry, str):
            retry = formatdate(now + retry, usegmt=True) if self.retry_as_date else f"{retry:g}"
        return replace(self.response, headers=(*self.response.headers, ("Retry-After", retry)))

    # When it happens

    def times(self, count: int) -> Fault:
        """Happen to `count` requests in a row."""
        return replace(self, count=count)

    def forever(self) -> Fault:
        """Happen to all further requests."""
        return replace(self, count=None)

    def on(self, nth: int) -> Fault:
        """Happen only to the account's request number `nth`, counted from 1."""
        return replace(self, nth=nth)

    def every(self, step: int) -> Fault:
        """Happen to every `step`-th request of the account, endlessly unless `times` follows."""
        return replace(self, step=step, count=None)

    # Other responses

    @classmethod
    def ok(cls) -> Fault:
        """Respond normally: a placeholder in a script."""
        return cls(kind="ok")

    @classmethod
    def status(
        cls,
        code: int,
        *,
        message: str | None = None,
        body: Mapping[str, Any] | Sequence[Any] | str | bytes | None = None,
        content_type: str = JSON_TYPE,
        headers: Mapping[str, str] | None = None,
        remote: bool = False,
        insight: Mapping[str, Any] | None = None,
        details: Any = None,
        raw_response: Any = None,
        retry_after: float | str | None = None,
        retry_as_date: bool = False,
    ) -> Fault:
        """Respond with a status and Truto's error body, or with `body` instead.

        `retry_after` is a number of seconds or any text. With `retry_as_date` the number is sent as an HTTP date,
        counted from the sandbox's own (skewed) clock.
        """
        extra = tuple((headers or {}).items())
        if code in (204, 304):  # these have no body in HTTP
            response = Response(code, b"", content_type, extra)
        elif body is None:
            response = error_response(
                code,
                message,
                remote=remote,
                insight=insight,
                details=details,
                raw_response=raw_response,
                headers=extra,
            )
        else:
            response = Response(code, _body(body), content_type, extra)
        return cls(kind="status", response=response, retry_after=retry_after, retry_as_date=retry_as_date)

    @classmethod
    def body(
        cls,
        body: Mapping[str, Any] | Sequence[Any] | str | bytes,
        *,
        content_type: str = JSON_TYPE,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """Respond with these bytes, whatever the request. Text is sent as UTF-8, other values as JSON."""
        response = Response(status, _body(body), content_type, tuple((headers or {}).items()))
        return cls(kind="body", response=response)

    @classmethod
    def html(cls, text: str = _DEFAULT_HTML, *, status: int = 200) -> Fault:
        """Respond with a web page, as a proxy in between might."""
        return cls(kind="html", response=Response(status, text.encode(), "text/html; charset=utf-8"))

    @classmethod
    def empty_body(cls, *, status: int = 200) -> Fault:
        return cls(kind="empty_body", response=Response(status, b""))

    @classmethod
    def redirect(cls, location: str, code: int = 302) -> Fault:
        response = Response(code, b"", "text/plain", (("Location", location),))
        return cls(kind="redirect", response=response)

    @classmethod
    def bomb(cls, encoding: Encoding = "gzip", size: int = 2**30) -> Fault:
        """Respond with 200 and a small compressed body that decompresses to `size` spaces."""
        return cls(kind="bomb", mode=_encoding(encoding), size=size)

    # Unusual pages in well-formed HTTP

    @classmethod
    def empty_page(cls) -> Fault:
        """Respond with no records but a cursor. The records follow on the next request."""
        return cls(kind="empty_page")

    @classmethod
    def loop(cls, length: int = 1) -> Fault:
        """Send the client round a loop of `length` cursors, endlessly unless `times` follows."""
        return cls(kind="loop", size=length, count=None)

    @classmethod
    def items(
        cls, items: Iterable[Any], *, mode: Literal["replace", "append", "prepend"] = "replace"
    ) -> Fault:
        """Replace or extend the page's items with these: JSON values, or `bytes` that are sent as they are."""
        return cls(kind="items", content=tuple(items), mode=mode)

    @classmethod
    def edit(cls, change: Callable[[Any], Any]) -> Fault:
        """Replace each record of the page by `change(record)`, which may change it in place and return it.

        Works for single records too, in every format.
        """
        return cls(kind="edit", content=(change,))

    @classmethod
    def unknown_fields(cls, value: Any = "new") -> Fault:
        """Add a field `x_unknown` to each object of each record, those in `remote_data` excepted."""
        return cls.edit(lambda record: add_unknown(record, value))

    @classmethod
    def wrong_types(cls, *fields: str) -> Fault:
        """Give fields values of another type, such as `5` for text: the named ones, or all but `id`."""
        return cls.edit(lambda record: change_types(record, fields))

    @classmethod
    def compressed(cls, encoding: Encoding) -> Fault:
        """Compress the good response, whatever the client accepts."""
        return cls(kind="compressed", mode=_encoding(encoding))

    # Faults of the connection

    @classmethod
    def reset(cls, after: int = 0) -> Fault:
        """Reset the connection (RST) after this many bytes of the response, its head included."""
        return cls(kind="reset", keep=after)

    @classmethod
    def disconnect(cls, after: int = 0) -> Fault:
        """Close the connection (FIN) after this many bytes of the response, its head included."""
        return cls(kind="disconnect", keep=after)

    @classmethod
    def truncate(
        cls,
        mode: Literal["length", "chunked", "json", "gzip", "deflate", "br", "zstd"] = "length",
        keep: int | float = 0.5,
    ) -> Fault:
        """Send only `keep` of the body: a number of bytes, or a fraction if it is a float.

        `length` announces the full Content-Length and closes early. `chunked` closes without the last chunk. `json`
        is complete HTTP with an incomplete document. With a content coding the compressed data is cut, and the HTTP
        around it is complete.
        """
        if mode in ENCODINGS:
            check_encoding(mode)
        return cls(kind="truncate", mode=mode, keep=keep)

    @classmethod
    def hang(cls) -> Fault:
        """Accept the request and never respond."""
        return cls(kind="hang")

    @classmethod
    def hang_body(cls, keep: int | float = 0) -> Fault:
        """Send the head and `keep` of the body, then nothing."""
        return cls(kind="hang_body", keep=keep)

    @classmethod
    def drip(cls, seconds: float = 1.0, *, part: Literal["body", "all"] = "body") -> Fault:
        """Send one byte every `seconds`: of the body only, or of the head as well."""
        return cls(kind="drip", seconds=seconds, mode=part)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """Send the good response after a delay of `seconds`."""
        return cls(kind="slow", seconds=seconds)


class Script:
    """The faults scripted for one account, in order."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Fault, list[int]]] = deque()  # with a count of how often it happened
        self._planned: list[tuple[Fault, list[int]]] = []  # the same, for faults with `nth` or `step`
        self._requests = 0

    def add(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            planned = fault.nth is not None or fault.step is not None
            (self._planned if planned else self._queue).append((fault, [0]))

    def next(self) -> Fault | None:
        """Return the fault of the next request. One planned for its number takes precedence over the queue."""
        self._requests += 1
        for fault, used in self._planned:
            due = fault.nth == self._requests or (fault.step and self._requests % fault.step == 0)
            if due and (fault.count is None or used[0] < fault.count):
                used[0] += 1
                return fault
        while self._queue:
            fault, used = self._queue[0]
            if fault.count is None or used[0] < fault.count:
                used[0] += 1
                return fault
            self._queue.popleft()
        return None


def _body(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else dump_json(body)


def _encoding(encoding: Encoding) -> Encoding:
    check_encoding(encoding)
    return encoding

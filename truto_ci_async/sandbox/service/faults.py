"""Scripted faults: what goes wrong, and with which request. Pure data; the server carries them out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from .content_encoding import ENCODINGS, Encoding, check_encoding
from .responses import JSON_TYPE, Answer, dump_json, error_answer

_DEFAULT_HTML: Final = (
    "<!doctype html><html><head><title>Just a moment...</title></head><body>cf-ray</body></html>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Make it with a class method; say when with `times`, `forever`, `on` or `every`. Without any of those it happens
    once, when its turn comes:

        sandbox.script(account_id, [Fault.status(503), Fault.ok(), Fault.reset().times(2)])

    gives 503, a good page, two broken connections, then good pages for ever.
    """

    kind: str
    count: int | None = 1  # requests it takes; None is all
    nth: int | None = (
        None  # only on this request of the account, counted from 1 since `script` was called first
    )
    step: int | None = None  # on every so many requests
    answer: Answer | None = None
    seconds: float = 0.0
    keep: int | float | None = None  # how much of the answer gets through: bytes, or a fraction if a float
    mode: str = ""
    retry_after: float | str | None = None
    retry_as_date: bool = False
    size: int = 0
    content: tuple[Any, ...] = ()

    @property
    def is_silent(self) -> bool:
        """Whether not one byte of an answer goes out."""
        return self.kind == "hang" or (self.kind in ("reset", "disconnect") and not self.keep)

    # When

    def times(self, count: int) -> Fault:
        """Happen to `count` requests in a row."""
        return replace(self, count=count)

    def forever(self) -> Fault:
        return replace(self, count=None)

    def on(self, nth: int) -> Fault:
        """Happen to the account's request number `nth` (from 1) and to no other."""
        return replace(self, nth=nth)

    def every(self, step: int) -> Fault:
        """Happen to every `step`-th request of the account, for ever unless `times` follows."""
        return replace(self, step=step, count=None)

    # What: answers

    @classmethod
    def ok(cls) -> Fault:
        """Nothing: a place holder in a script."""
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
        """Answer with a status and Truto's error body, or with `body` in its place.

        `retry_after` is a number of seconds or any text. With `retry_as_date` the number is written as an HTTP date,
        counted from the sandbox's own (skewed) clock.
        """
        extra = tuple((headers or {}).items())
        if code in (204, 304):
            answer = Answer(code, b"", content_type, extra)  # HTTP knows no body here
        elif body is None:
            answer = error_answer(
                code,
                message,
                remote=remote,
                insight=insight,
                details=details,
                raw_response=raw_response,
                headers=extra,
            )
        else:
            answer = Answer(code, _body(body), content_type, extra)
        return cls(kind="status", answer=answer, retry_after=retry_after, retry_as_date=retry_as_date)

    @classmethod
    def body(
        cls,
        body: Mapping[str, Any] | Sequence[Any] | str | bytes,
        *,
        content_type: str = JSON_TYPE,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """Answer with these bytes (text is UTF-8, anything else JSON), whatever was asked."""
        return cls(
            kind="body", answer=Answer(status, _body(body), content_type, tuple((headers or {}).items()))
        )

    @classmethod
    def html(cls, text: str = _DEFAULT_HTML, *, status: int = 200) -> Fault:
        """Answer with a web page, as a proxy in between does."""
        return cls(kind="html", answer=Answer(status, text.encode(), "text/html; charset=utf-8"))

    @classmethod
    def empty_body(cls, *, status: int = 200) -> Fault:
        return cls(kind="empty_body", answer=Answer(status, b""))

    @classmethod
    def redirect(cls, location: str, code: int = 302) -> Fault:
        answer = Answer(code, b"", "text/plain", (("Location", location),))
        return cls(kind="redirect", answer=answer)

    @classmethod
    def bomb(cls, encoding: Encoding = "gzip", size: int = 2**30) -> Fault:
        """Answer 200 with a small compressed body that reads as `size` bytes of spaces."""
        return cls(kind="bomb", mode=_encoding(encoding), size=size)

    # What: pages that are odd but well-formed HTTP

    @classmethod
    def empty_page(cls) -> Fault:
        """Answer with no records and a cursor to go on with; the records come with the next request."""
        return cls(kind="empty_page")

    @classmethod
    def loop(cls, length: int = 1) -> Fault:
        """Lead the walk round a ring of `length` cursors, for ever unless told otherwise."""
        return cls(kind="loop", size=length, count=None)

    @classmethod
    def items(
        cls, items: Iterable[Any], *, mode: Literal["replace", "append", "prepend"] = "replace"
    ) -> Fault:
        """Put these items on the page in place of its own, or beside them: JSON values, or `bytes` as they are."""
        return cls(kind="items", content=tuple(items), mode=mode)

    @classmethod
    def compressed(cls, encoding: Encoding) -> Fault:
        """Compress the good answer, whatever the client accepts."""
        return cls(kind="compressed", mode=_encoding(encoding))

    # What: the connection

    @classmethod
    def reset(cls, after: int = 0) -> Fault:
        """Break the connection (RST) after so many bytes of the answer, head included; at 0 before any."""
        return cls(kind="reset", keep=after)

    @classmethod
    def disconnect(cls, after: int = 0) -> Fault:
        """Close the connection (FIN) after so many bytes of the answer, head included; at 0 before any."""
        return cls(kind="disconnect", keep=after)

    @classmethod
    def truncate(
        cls,
        mode: Literal["length", "chunked", "json", "gzip", "deflate", "br", "zstd"] = "length",
        keep: int | float = 0.5,
    ) -> Fault:
        """Let only `keep` of the body through: bytes, or a fraction if it is a float.

        `length` announces all of it in Content-Length and closes early; `chunked` closes without the last chunk;
        `json` is whole HTTP around half a document; a content coding is cut inside its own data, in HTTP that ends
        cleanly.
        """
        if mode in ENCODINGS:
            check_encoding(mode)
        return cls(kind="truncate", mode=mode, keep=keep)

    @classmethod
    def hang(cls) -> Fault:
        """Accept the request and never answer."""
        return cls(kind="hang")

    @classmethod
    def hang_body(cls, keep: int | float = 0) -> Fault:
        """Send the head and `keep` of the body, then nothing more."""
        return cls(kind="hang_body", keep=keep)

    @classmethod
    def drip(cls, seconds: float = 1.0, *, part: Literal["body", "all"] = "body") -> Fault:
        """Send one byte every `seconds`: of the body, or of the head as well."""
        return cls(kind="drip", seconds=seconds, mode=part)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """Answer well, but only after `seconds`."""
        return cls(kind="slow", seconds=seconds)


class Script:
    """The faults of one account in the order of their turn."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Fault, list[int]]] = deque()  # the number: how often it came
        self._planned: list[tuple[Fault, list[int]]] = []  # those with `nth` or `step`
        self._seen = 0

    def add(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            planned = fault.nth is not None or fault.step is not None
            (self._planned if planned else self._queue).append((fault, [0]))

    def next(self) -> Fault | None:
        """Say what happens to the next request. A fault planned for its number goes before one in the queue."""
        self._seen += 1
        for fault, used in self._planned:
            due = fault.nth == self._seen or (fault.step and self._seen % fault.step == 0)
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

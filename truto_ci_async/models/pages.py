"""Pages of items, raw responses, and what comes with them: response details, repaired fields, positions."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Generic, TypeVar, cast, overload

import msgspec
from msgspec import Struct

from truto_ci_async._json import EXCERPT_BYTES, encode
from truto_ci_async.errors import DecodeError, UsageError
from truto_ci_async.export.column_values import Part, Parts
from truto_ci_async.export.frames import Frames

from .debug import DebugInfo
from .field_types import decode_raw
from .names import with_names
from .person import Person
from .pydantic_schema import plain_schema
from .unknown_members import decode_known

T = TypeVar("T")


class RateLimit(Struct, frozen=True, kw_only=True, gc=False):
    """The ``ratelimit-*`` headers of a response: ``limit`` requests per ``window`` seconds.

    ``reset`` is the number of seconds from the response until the window starts again. A value that is absent or
    unreadable is None.
    """

    limit: int | None = None
    window: float | None = None
    remaining: int | None = None
    reset: float | None = None


class ResponseInfo(Struct, frozen=True, kw_only=True):
    """Status, headers and timing of a response. Header names are in lower case, times in seconds.

    ``attempts`` counts the requests sent; ``elapsed`` runs from the first of them to the last byte, including the
    waits between them; ``waited`` is the time spent waiting for the rate limit before the first.
    """

    status: int = 200
    headers: dict[str, str] = {}
    rate_limit: RateLimit | None = None
    attempts: int = 1
    elapsed: float = 0.0
    waited: float = 0.0

    def __repr__(self) -> str:
        return f"ResponseInfo(status={self.status}, attempts={self.attempts}, elapsed={self.elapsed:.3f})"


class Issue(Struct, frozen=True, kw_only=True, gc=False):
    """Something wrong with a record that was repaired instead of raised.

    ``index`` is the record's index on its page, ``path`` the place in the body, ``message`` what was expected and
    what was found, and ``raw`` the record's own JSON. ``dropped`` is True if the record could not be kept at all and
    is in ``raw`` only.
    """

    index: int | None = None
    path: str = "$"
    message: str = ""
    dropped: bool = False
    raw: bytes = b""


class Position(Struct, frozen=True, kw_only=True, gc=False):
    """The place after a page, from which a list call with the same filters continues.

    ``user_batch`` is the index of the batch of 20 users into which a long ``users`` filter is split, ``cursor`` the
    service's own (None means the start of that batch), ``filters`` a fingerprint of the filters. ``times`` holds the
    relative times among them: name, as given, as sent. Store it as text with ``str()``; ``list(cursor=...)`` accepts
    the object and the text.
    """

    PREFIX: ClassVar[str] = "truto-position-1."

    filters: str
    user_batch: int = 0
    cursor: str | None = None
    times: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        fields = (self.user_batch, self.cursor, self.filters, *([self.times] if self.times else ()))
        return self.PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(fields)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse what ``str(position)`` returned.

        :raises UsageError: the text is something else, or is incomplete.
        """
        try:
            text = text.strip()
            if not text.startswith(cls.PREFIX):
                raise ValueError(text)
            packed = text.removeprefix(cls.PREFIX)
            fields = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
            packed_position = msgspec.json.decode(fields, type=_PackedPosition)
        except ValueError as error:
            raise UsageError(
                f"not the text of a Position: {text[:40]!r}; store the whole of str(page.position)"
            ) from error
        return cls(**msgspec.structs.asdict(packed_position))


class _PackedPosition(Struct, array_like=True, forbid_unknown_fields=True):
    """The fields of a position in the order of its text."""

    user_batch: int
    cursor: str | None
    filters: str
    times: tuple[tuple[str, str, str], ...] = ()


class Page(Frames, Generic[T]):
    """One page: a read-only list of its items, with the rest of the response.

        len(page), page[0], page[-3:], [person.id for person in page]
        page.to_polars()

    It is list-like, but not a ``collections.abc.Sequence``: data frame libraries would take it for a list of objects
    and ignore its columns.

    ``next_cursor`` is the service's own; to continue after this page, use ``position`` (None only after the last one).
    ``extra`` has the envelope keys that this package does not know; an object or array of more than 256 KiB is left as
    ``msgspec.Raw``. ``issues`` lists the first hundred repairs, ``issues_count`` counts all of them, and
    ``dropped_count`` the items that could not be kept. ``response`` has status, headers, rate limit, attempts and
    timing. ``debug`` is set with ``response_format="debug"``.
    ``unknown_fields`` names the fields received so far in this walk that this package does not know, such as
    ``user.emails[].verified``: they are in ``unknown`` of the items. ``item_type`` is the type that the items were read
    as, if that is known: an empty page has its columns.
    """

    __slots__ = (
        "debug",
        "dropped_count",
        "extra",
        "is_partial_response",
        "issues",
        "issues_count",
        "item_type",
        "items",
        "next_cursor",
        "position",
        "prev_cursor",
        "response",
        "result_count",
        "unknown_fields",
    )

    def __init__(
        self,
        items: Sequence[T],
        *,
        next_cursor: str | None = None,
        prev_cursor: str | None = None,
        result_count: int | None = None,
        is_partial_response: bool | None = None,
        debug: DebugInfo | None = None,
        extra: Mapping[str, Any] | None = None,
        issues: Sequence[Issue] = (),
        issues_count: int | None = None,
        dropped_count: int = 0,
        unknown_fields: Sequence[str] = (),
        response: ResponseInfo | None = None,
        position: Position | None = None,
        item_type: Any = None,
    ) -> None:
        self.items: tuple[T, ...] = tuple(items)
        self.item_type = item_type
        self.next_cursor = next_cursor
        self.prev_cursor = prev_cursor
        self.result_count = result_count
        self.is_partial_response = is_partial_response
        self.debug = debug
        self.extra: dict[str, Any] = dict(extra or {})
        self.issues: tuple[Issue, ...] = tuple(issues)
        self.issues_count = len(self.issues) if issues_count is None else issues_count
        self.dropped_count = dropped_count
        self.unknown_fields: tuple[str, ...] = tuple(unknown_fields)
        self.response = response or ResponseInfo()
        self.position = position

    def to_dict(self) -> dict[str, Any]:
        """Return the page as plain data, ready for JSON: ``result``, and ``position`` to continue from as text."""
        return cast("dict[str, Any]", decode_raw(self.to_json()))

    def to_json(self) -> bytes:
        """Return the page as JSON: ``result``, and ``position`` to continue from as text, null after the last one.

        A handler of FastAPI that is annotated with ``-> Page[Interaction]`` may return the page itself.
        """
        position = None if self.position is None else str(self.position)
        return b'{"result":%b,"position":%b}' % (encode(self.items), encode(position))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """Let FastAPI return this from a handler."""
        return plain_schema(cls)

    def with_names(self, directory: Mapping[str, Person]) -> Page[T]:
        """Return a copy whose people have the names and emails of ``truto.users.directory(account)``.

        page.with_names(await truto.users.directory(account_id)).to_polars()
        """
        page = copy(self)
        page.items = tuple(with_names(self.items, directory))
        return page

    @property
    def has_more(self) -> bool:
        """Whether there is a page after this one (which may turn out to be empty)."""
        return self.position is not None

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __contains__(self, item: object) -> bool:
        return item in self.items

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self.items[index]

    def _repr_html_(self) -> str:
        return self.to_html("Page")

    def to_html(self, *title: str) -> str:
        """Return what a notebook shows, under a title and notes."""
        from truto_ci_async.export import html

        size = f"{len(self):,} item{'' if len(self) == 1 else 's'}"
        first = f"the first {html.ROWS} shown" if len(self) > html.ROWS else ""
        issues = f"{self.issues_count:,} values repaired, see .issues" if self.issues_count else ""
        more = "more pages follow" if self.has_more else "the last page"
        return html.card(*title, size, first, more, issues, tables=[html.items_table(self.items)])

    def __reversed__(self) -> Iterator[T]:
        return reversed(self.items)

    def index(self, item: object, start: int = 0, stop: int = sys.maxsize) -> int:
        """Return the index of the first item equal to ``item``.

        :raises ValueError: there is none.
        """
        return self.items.index(item, start, stop)

    def count(self, item: object) -> int:
        """Return how many items are equal to ``item``."""
        return self.items.count(item)

    def parts(self) -> Parts:
        return Parts([Part(self.items)], self.item_type)

    def __repr__(self) -> str:
        head = f", first={self.items[0]!r}" if self.items else ""
        issues = f", issues={self.issues_count}" if self.issues_count else ""
        return f"Page({len(self.items)} items, has_more={self.has_more}{issues}{head})"


class RawResponse:
    """A response whose body is not parsed (``response_format="raw"``).

    ``provider_cursor`` is the cursor of the provider's own body (Gong's ``records.cursor``): it means that the provider
    has more, but Truto's ``raw`` format has no way to request it. Other formats read all pages.
    """

    __slots__ = ("_cursor", "_cursor_error", "_mask", "body", "provider_cursor", "response")

    def __init__(
        self,
        *,
        body: bytes,
        response: ResponseInfo,
        next_cursor: str | None = None,
        provider_cursor: str | None = None,
        cursor_error: DecodeError | None = None,
        mask: Callable[[DecodeError], object] | None = None,
    ) -> None:
        self.body = body
        self.response = response
        self.provider_cursor = provider_cursor
        self._cursor = next_cursor
        self._cursor_error = cursor_error
        self._mask = mask  # takes the token out of an error that quotes the body
        if mask is not None and cursor_error is not None:
            mask(cursor_error)

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        names = (name for name in self.__slots__ if name != "_mask")  # which has the token
        return None, {name: getattr(self, name) for name in names} | {"_mask": None}

    @property
    def next_cursor(self) -> str | None:
        """Truto's cursor for the next page, if the body is a JSON object that has one.

        :raises DecodeError: the body is a JSON object, but its cursor cannot be read.
        """
        if self._cursor_error is not None:
            raise self._cursor_error.with_traceback(None)
        return self._cursor

    @property
    def has_more(self) -> bool:
        """Whether Truto or the provider has more.

        :raises DecodeError: as ``next_cursor``.
        """
        return self.next_cursor is not None or self.provider_cursor is not None

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> dict[str, str]:
        """Response headers; names are in lower case."""
        return self.response.headers

    @property
    def content_type(self) -> str:
        """Media type without its parameters, in lower case; empty if the service sent none."""
        return self.headers.get("content-type", "").split(";", 1)[0].strip().lower()

    def json(self, type: Any = Any) -> Any:
        """Decode the body as JSON, into ``type`` if given.

        :raises DecodeError: the body is not JSON, or does not match ``type``.
        """
        try:
            return decode_known(self.body, type)
        except DecodeError as error:
            if self._mask is not None:
                self._mask(error)
            raise
        except msgspec.ValidationError as error:
            misfit = DecodeError(f"the body does not match the type: {error}", raw=self.body[:EXCERPT_BYTES])
            misfit.__cause__ = error
            if self._mask is not None:
                self._mask(misfit)
            raise misfit from error

    def __repr__(self) -> str:
        return f"RawResponse(status={self.status}, {self.content_type or 'no content type'}, {len(self.body):,} bytes)"

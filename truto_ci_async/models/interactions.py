"""Structs of the API: what a call hands out. Nothing here reads bodies or talks to a network.

Field names, types and their optionality are the contract's (sections 2 and 5). Every field is optional to the
decoder, since ``truto_exclude_fields`` can take any of them away. The structs are frozen and untracked by the
garbage collector (``gc=False``): no field can reach back to its owner, so no cycle can come about.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, TypeAlias, TypeVar, cast, overload

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import force_setattr

from truto_ci_async._json import EXCERPT_BYTES, decode_json
from truto_ci_async.errors import DecodeError, UsageError

__all__ = [
    "ROW_COLUMNS",
    "AdditionalMetric",
    "Capabilities",
    "Capability",
    "DebugInfo",
    "Email",
    "IntegratedAccount",
    "Integration",
    "Interaction",
    "Issue",
    "Metrics",
    "Number",
    "Page",
    "Position",
    "RateLimit",
    "RawResponse",
    "ResponseInfo",
    "User",
]

T = TypeVar("T")

Number: TypeAlias = int | float
AwareDatetime: TypeAlias = Annotated[datetime, Meta(tz=True)]

NO_DATA = Raw(b"null")
# One decoder for every lazily decoded value; building one per access would cost more than small records do.
_any = msgspec.json.Decoder()


def _decode_any(raw: Raw | bytes) -> Any:
    """Decode a value that was skipped when its page was read, so that nobody has looked inside it yet."""
    try:
        return _any.decode(raw)
    except (ValueError, RecursionError) as error:  # ValueError: msgspec's own errors, and bad UTF-8
        raise DecodeError(f"the value cannot be decoded: {error}", raw=bytes(raw)[:EXCERPT_BYTES]) from error


def _json_text(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _iso(moment: datetime | None) -> str:
    return "?" if moment is None else moment.isoformat()


class Email(Struct, frozen=True, kw_only=True, gc=False):
    """One address of a user."""

    email: str | None = None
    is_primary: bool | None = None


class User(Struct, frozen=True, kw_only=True, gc=False):
    """The person the metrics are about. ``id`` is text of up to 20 digits: never turn it into a float."""

    id: str | None = None
    name: str | None = None
    emails: tuple[Email, ...] | None = None

    @property
    def email(self) -> str | None:
        """The primary address, else the first one, else None."""
        emails = self.emails or ()
        return next(
            (entry.email for entry in emails if entry.is_primary), emails[0].email if emails else None
        )


class Metrics(Struct, frozen=True, kw_only=True, gc=False):
    """Talk metrics as the provider counts them; the contract promises no units. None: not measured."""

    longest_monologue: Number | None = None
    longest_customer_story: Number | None = None
    interactivity: Number | None = None
    patience: Number | None = None
    question_rate: Number | None = None


class AdditionalMetric(Struct, frozen=True, kw_only=True, gc=False):
    """A metric of the provider that has no field of its own."""

    name: str | None = None
    value: Number | None = None


class Interaction(Struct, frozen=True, kw_only=True, gc=False, rename={"remote_json": "remote_data"}):
    """Talk metrics of one user over one window (contract section 2).

    ``start_time`` and ``end_time`` are the window really answered, which can differ from the one asked.
    ``aggregation_period`` is ``day``, ``week``, ``month``, ``total`` or a word newer than this package.
    ``remote_json`` is the provider's own record as the bytes it came in, ``remote_data`` the same decoded. Only those
    bytes are kept, and not the page around them, unless a decoder of your own made the item.

    Equal when all fields are equal; the hash is of (id, user id, window), so interactions go into sets and
    dicts. Pickles and copies.

        >>> Interaction(id="1", metrics=Metrics(patience=0.8)).row()["patience"]
        0.8
    """

    id: str | None = None
    user: User | None = None
    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    timezone: str | None = None
    aggregation_period: str | None = None
    metrics: Metrics | None = None
    additional_metrics: tuple[AdditionalMetric, ...] | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    remote_json: Raw = NO_DATA

    def __hash__(self) -> int:
        return hash((self.id, self.user.id if self.user else None, self.start_time, self.end_time))

    @property
    def remote_data(self) -> Any:
        """The provider's record, decoded anew on each access: keep the result if it is used often.

        :raises DecodeError: it holds a number too large for any float; ``remote_json`` has its text.
        """
        return _decode_any(self.remote_json)

    def row(self) -> dict[str, Any]:
        """Flatten into one row; keys are ``ROW_COLUMNS``, in that order, always all of them.

        The table, CSV, Parquet and data frames share this flattening. Date-times stay ``datetime``; lists
        and the provider's record become JSON text.
        """
        user, metrics = self.user or _NO_USER, self.metrics or _NO_METRICS
        return {
            "id": self.id,
            "user_id": user.id,
            "user_name": user.name,
            "user_email": user.email,
            "user_emails": _json_text(user.emails),
            "start_time": self.start_time,
            "end_time": self.end_time,
            "timezone": self.timezone,
            "aggregation_period": self.aggregation_period,
            "longest_monologue": metrics.longest_monologue,
            "longest_customer_story": metrics.longest_customer_story,
            "interactivity": metrics.interactivity,
            "patience": metrics.patience,
            "question_rate": metrics.question_rate,
            "additional_metrics": _json_text(self.additional_metrics),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "remote_data": None if self.remote_json == NO_DATA else bytes(self.remote_json).decode(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the API's own shape as plain, JSON-ready dicts and lists: date-times are ISO 8601 text."""
        return cast("dict[str, Any]", _decode_any(msgspec.json.encode(self)))

    def __repr__(self) -> str:
        parts = [f"id={self.id!r}"]
        if self.user is not None:
            parts.append(f"user={self.user.email or self.user.id!r}")
        if self.start_time is not None or self.end_time is not None:
            parts.append(f"window={_iso(self.start_time)}..{_iso(self.end_time)}")
        if self.metrics is not None:
            measured = ((name, getattr(self.metrics, name)) for name in self.metrics.__struct_fields__)
            parts.extend(f"{name}={value}" for name, value in measured if value is not None)
        if self.remote_json != NO_DATA:
            parts.append(f"remote_data=<{len(bytes(self.remote_json)):,} bytes>")
        return f"Interaction({', '.join(parts)})"


_NO_USER = User()
_NO_METRICS = Metrics()

ROW_COLUMNS: tuple[str, ...] = tuple(Interaction().row())


class Integration(Struct, frozen=True, kw_only=True, gc=False):
    """The product an account is connected to, such as ``gong``."""

    id: str | None = None
    name: str | None = None
    category: str | None = None


class IntegratedAccount(Struct, frozen=True, kw_only=True):
    """One connected account (contract section 5). Pass it wherever an integrated account id is asked for.

    ``status`` is ``active``, ``connecting``, ``post_install_error``, ``validation_error``, ``needs_reauth`` or
    a word newer than this package. ``context`` can hold the customer's secrets and is left out of the repr.
    """

    id: str | None = None
    tenant_id: str | None = None
    environment_id: str | None = None
    environment_integration_id: str | None = None
    status: str | None = None
    is_sandbox: bool | None = None
    authentication_method: str | None = None
    region: str | None = None
    context: Any = None
    integration: Integration | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    last_error: Any = None

    def row(self) -> dict[str, Any]:
        """Flatten into one row for tables and CSV; ``context`` and ``last_error`` are left out."""
        integration = self.integration or Integration()
        return {
            "id": self.id,
            "integration": integration.name,
            "status": self.status,
            "tenant_id": self.tenant_id,
            "is_sandbox": self.is_sandbox,
            "authentication_method": self.authentication_method,
            "region": self.region,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the API's own shape as plain, JSON-ready dicts and lists, ``context`` included."""
        return cast("dict[str, Any]", _decode_any(msgspec.json.encode(self)))

    def __repr__(self) -> str:
        integration = self.integration.name if self.integration else None
        return (
            f"IntegratedAccount(id={self.id!r}, integration={integration!r}, status={self.status!r}, "
            f"tenant_id={self.tenant_id!r})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            (name, value) for name, value in super().__rich_repr__() if name not in {"context", "last_error"}
        ]


class Capability(Struct, frozen=True, kw_only=True, gc=False):
    """One unified resource an account can be asked for; ``model`` is None where the service leaves it out."""

    model: str | None = None
    resource: str | None = None
    methods: tuple[str, ...] = ()


class Capabilities(Struct, frozen=True, kw_only=True):
    """What an account can do: ``.capabilities(id)``. Both published shapes become this one."""

    account_id: str | None = None
    status: str | None = None
    is_blocked: bool | None = None
    unified: tuple[Capability, ...] = ()

    def supports(self, resource: str, method: str = "list", *, model: str | None = None) -> bool:
        """Tell whether ``method`` of ``resource`` is offered; ``model`` narrows it where the service names it."""
        return any(
            entry.resource == resource
            and method in entry.methods
            and (model is None or entry.model is None or entry.model == model)
            for entry in self.unified
        )


class RateLimit(Struct, frozen=True, kw_only=True, gc=False):
    """The ``ratelimit-*`` headers of an answer: requests per ``window`` seconds, and when it opens again.

    ``reset`` is in seconds from the moment of the answer. A value that was absent or unreadable is None.
    """

    limit: int | None = None
    window: float | None = None
    remaining: int | None = None
    reset: float | None = None


class ResponseInfo(Struct, frozen=True, kw_only=True):
    """How an answer came about. ``headers`` have lower-case names; ``elapsed`` is in seconds.

    ``attempts`` counts the requests sent for it; ``elapsed`` runs from the first of them to the last byte,
    waits between them included; ``waited`` is the time spent in pacing before the first.
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
    """One thing that was wrong with a record and was repaired rather than raised.

    ``index`` is the record's place on its page, ``path`` where inside the body, ``message`` what was expected
    and what came, and ``raw`` the record's own JSON, so that nothing is lost. ``dropped`` is True when nothing
    of the record could be kept: it is in ``raw`` only.
    """

    index: int | None = None
    path: str = "$"
    message: str = ""
    dropped: bool = False
    raw: bytes = b""


class _Redacted(dict[str, Any]):
    """A dict that shows its keys and hides its values; values are reached by key as ever."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: '***'" for key in self) + "}"

    __str__ = __repr__


class _RedactedList(list[Any]):
    def __repr__(self) -> str:
        return f"[{len(self)} hidden]"

    __str__ = __repr__


# The provider's URL can hold a key too: before its host, or in its query.
_URL_SECRETS = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)


def redact(value: object) -> Any:
    """Wrap decoded JSON so that its reprs hide what it holds."""
    if isinstance(value, dict):
        return _Redacted({key: redact(item) for key, item in cast("dict[str, object]", value).items()})
    if isinstance(value, list):
        return _RedactedList(redact(item) for item in cast("list[object]", value))
    return value


class DebugInfo(
    Struct,
    frozen=True,
    kw_only=True,
    rename={
        "request_url": "requestUrl",
        "options_json": "requestOptions",
        "data_json": "data",
        "headers_json": "responseHeaders",
        "next_cursor": "nextCursor",
        "is_looping": "isLooping",
        "is_empty_result": "isEmptyResult",
        "result_count": "resultCount",
    },
):
    """What Truto asked the provider and what came back (``response_format="debug"``).

    ``request_options`` can hold the provider's credentials: it shows as ``***`` in every repr, also of the
    parts taken out of it, while its values stay reachable by key. Do not log those.
    """

    request_url: str | None = None
    options_json: Raw = NO_DATA
    data_json: Raw = NO_DATA
    headers_json: Raw = NO_DATA
    next_cursor: Any = None
    is_looping: bool | None = None
    is_empty_result: bool | None = None
    result_count: Number | None = None

    def __post_init__(self) -> None:
        for name in ("options_json", "data_json", "headers_json"):
            force_setattr(self, name, getattr(self, name).copy())

    @property
    def request_options(self) -> Any:
        """Options of the provider's request, decoded on each access; every repr of it is masked."""
        return redact(_decode_any(self.options_json))

    @property
    def data(self) -> Any:
        """The provider's body, decoded on each access."""
        return _decode_any(self.data_json)

    @property
    def response_headers(self) -> Any:
        """Headers of the provider's answer, decoded on each access; every repr of it is masked."""
        return redact(_decode_any(self.headers_json))

    def __repr__(self) -> str:
        return f"DebugInfo({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        url = _URL_SECRETS.sub("", self.request_url) if self.request_url else None
        return [("request_url", url), ("request_options", "***"), ("result_count", self.result_count)]


class Position(Struct, frozen=True, kw_only=True, gc=False):
    """The place after a page: where a walk goes on from, valid for the same filters only.

    ``chunk`` counts the groups of 20 users a long ``users`` filter is split into, ``cursor`` is the service's
    own (None: start of that chunk), ``filters`` a fingerprint of everything else that was asked. Store it as
    text with ``str()``; ``list(cursor=...)`` takes the object or that text.
    """

    PREFIX: ClassVar[str] = "truto-position-1."

    filters: str
    chunk: int = 0
    cursor: str | None = None

    def __str__(self) -> str:
        fields = msgspec.json.encode((self.chunk, self.cursor, self.filters))
        return self.PREFIX + base64.urlsafe_b64encode(fields).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read what ``str(position)`` wrote.

        :raises UsageError: the text is something else, or was cut.
        """
        try:
            text = text.strip()
            if not text.startswith(cls.PREFIX):
                raise ValueError(text)
            packed = text.removeprefix(cls.PREFIX)
            fields = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
            chunk, cursor, filters = msgspec.json.decode(fields, type=tuple[int, str | None, str])
        except ValueError as error:
            raise UsageError(
                f"not the text of a Position: {text[:40]!r}; store str(page.position) whole"
            ) from error
        return cls(chunk=chunk, cursor=cursor, filters=filters)


class Page(Sequence[T], Generic[T]):
    """One page of items: a read-only sequence of them, with what came beside them.

    ``next_cursor`` is the service's own word; ``position`` is what resumes a walk (None only at its end).
    ``extra`` holds envelope keys this package does not know. ``issues`` lists repaired records. ``response``
    tells status, headers, rate limit, attempts and time. ``debug`` is set by ``response_format="debug"``.
    """

    __slots__ = (
        "debug",
        "extra",
        "is_partial_response",
        "issues",
        "items",
        "next_cursor",
        "position",
        "prev_cursor",
        "response",
        "result_count",
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
        response: ResponseInfo | None = None,
        position: Position | None = None,
    ) -> None:
        self.items: tuple[T, ...] = tuple(items)
        self.next_cursor = next_cursor
        self.prev_cursor = prev_cursor
        self.result_count = result_count
        self.is_partial_response = is_partial_response
        self.debug = debug
        self.extra: dict[str, Any] = dict(extra or {})
        self.issues: tuple[Issue, ...] = tuple(issues)
        self.response = response or ResponseInfo()
        self.position = position

    @property
    def has_more(self) -> bool:
        """Whether the walk goes on after this page (it may still turn out that nothing more is there)."""
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

    def __repr__(self) -> str:
        head = f", first={self.items[0]!r}" if self.items else ""
        issues = f", issues={len(self.issues)}" if self.issues else ""
        return f"Page({len(self.items)} items, has_more={self.has_more}{issues}{head})"


class RawResponse:
    """A body as it came, untyped: ``response_format="raw"`` (contract section 2, Formats)."""

    __slots__ = ("body", "next_cursor", "response")

    def __init__(self, *, body: bytes, response: ResponseInfo, next_cursor: str | None = None) -> None:
        self.body = body
        self.response = response
        self.next_cursor = next_cursor

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def headers(self) -> dict[str, str]:
        """Response headers, names in lower case."""
        return self.response.headers

    @property
    def content_type(self) -> str:
        """Media type without its parameters, in lower case; empty when the service sent none."""
        return self.headers.get("content-type", "").split(";", 1)[0].strip().lower()

    def json(self, type: Any = Any) -> Any:
        """Decode the body as JSON, into ``type`` if given.

        :raises DecodeError: the body is not JSON, or does not fit ``type``.
        """
        try:
            return decode_json(self.body, type)
        except msgspec.ValidationError as error:
            raise DecodeError(
                f"the body has another shape: {error}", raw=self.body[:EXCERPT_BYTES]
            ) from error

    def __repr__(self) -> str:
        return f"RawResponse(status={self.status}, {self.content_type or 'no content type'}, {len(self.body):,} bytes)"

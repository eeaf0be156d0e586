"""Everything this package raises, sorted by what the caller can do about it.

    TrutoError
    ├── ConfigurationError          fix how the client was built (token, base_url, options)
    ├── UsageError                  fix the call: naive datetime, closed client, foreign position, ...
    ├── MissingExtraError           install the extra; the message holds the line to type
    ├── TransportError              the network failed; retried already, safe to try again
    │   ├── ConnectError            no connection (also a ConnectionError)
    │   ├── DeadlineError           too slow (also a TimeoutError)
    │   └── TruncatedBodyError      the body ended early; nothing of it was used
    ├── APIError                    the service answered with an error status
    │   ├── BadRequestError         400 405 409 422, other 4xx: change the request, see ``insight``
    │   ├── AuthenticationError     401 from Truto: get another API token
    │   ├── ReconnectRequiredError  401 from the provider: the account's owner must reconnect
    │   ├── PermissionDeniedError   403: see ``missing_scopes``
    │   ├── NotFoundError           404
    │   ├── RateLimitError          429: wait ``retry_after`` seconds
    │   ├── AccountBlockedError     503 without Retry-After: the account is blocked
    │   └── ServerError             any other 5xx, 408 or 425, and statuses nobody expected (3xx too)
    ├── DecodeError                 the body is not what the contract says
    ├── BodyTooLargeError           the body passed a size limit; raise the limit or use ``stream``
    ├── CursorLoopError             the service gave a cursor it had given before in this walk
    ├── CursorExpiredError          the service no longer takes this cursor; start the window again
    ├── StateConflictError          the stored state is in use, or of another plan: wait, or use another folder
    ├── StorageError                the disk failed; mend it and run again, what was committed is safe
    └── DamagedStateError           stored state or output is not as it was committed: put it back or start over

Exceptions of aiohttp never get out: they are kept as ``__cause__``. Every error pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

__all__ = [
    "APIError",
    "AccountBlockedError",
    "AuthenticationError",
    "BadRequestError",
    "BodyTooLargeError",
    "ConfigurationError",
    "ConnectError",
    "CursorExpiredError",
    "CursorLoopError",
    "DamagedStateError",
    "DeadlineError",
    "DecodeError",
    "MissingExtraError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "ReconnectRequiredError",
    "ServerError",
    "StateConflictError",
    "StorageError",
    "TransportError",
    "TrutoError",
    "TruncatedBodyError",
    "UsageError",
]


class TrutoError(Exception):
    """Root of every error of this package; catch it to catch them all."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take keyword-only arguments, so rebuild from the state and not from ``args``.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[TrutoError], args: tuple[Any, ...], state: dict[str, Any]) -> TrutoError:
    error = cls.__new__(cls, *args)
    super(TrutoError, error).__init__(*args)
    error.__dict__.update(state)
    return error


class ConfigurationError(TrutoError):
    """The client cannot work as it was built: no token, an unusable ``base_url``, a wrong option."""


class UsageError(TrutoError):
    """A call was made in a way that can never work; the message says how to make it."""


class MissingExtraError(TrutoError, ImportError):
    """An optional dependency is not installed; the message holds the line to type."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'truto-ci-async[{extra}]'")
        self.package = package
        self.extra = extra


class TransportError(TrutoError):
    """The network failed, after the retries that the policy allows; trying again is safe.

    ``account`` is the integrated account asked for (None when the token implies it), ``attempts`` how
    often the request was sent.

    A stream that breaks after its first items cannot be retried silently: ``items_read`` counts the items handed
    out, ``bytes_read`` the bytes of body received, and ``position`` (when not None) is where to start again.
    """

    items_read: int = 0
    bytes_read: int = 0
    position: Any = None

    def __init__(self, message: str = "", *, account: str | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.account = account
        self.attempts = attempts


class ConnectError(TransportError, ConnectionError):
    """The connection could not be made, or was lost before a whole answer came.

    ``is_permanent`` is True for what trying again cannot mend: an untrusted certificate, a proxy that refuses.
    """

    def __init__(
        self,
        message: str = "",
        *,
        is_permanent: bool = False,
        account: str | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message, account=account, attempts=attempts)
        self.is_permanent = is_permanent


class DeadlineError(TransportError, TimeoutError):
    """A deadline passed. ``deadline`` names it: ``connect``, ``read``, ``attempt`` or ``total``.

    ``seconds`` is its length. Raise it in ``Timeouts`` when the service is slow rather than broken.
    """

    def __init__(
        self,
        message: str = "",
        *,
        deadline: str = "total",
        seconds: float | None = None,
        account: str | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message, account=account, attempts=attempts)
        self.deadline = deadline
        self.seconds = seconds


class TruncatedBodyError(TransportError):
    """The body ended before it was complete: a short Content-Length, a cut chunk, half a gzip or half a JSON text.

    A buffered page is retried as a whole, so no part of it is ever seen.
    """

    def __init__(
        self,
        message: str = "",
        *,
        account: str | None = None,
        attempts: int = 1,
        items_read: int = 0,
        bytes_read: int = 0,
    ) -> None:
        super().__init__(message, account=account, attempts=attempts)
        self.items_read = items_read
        self.bytes_read = bytes_read


class APIError(TrutoError):
    """The service answered with an error status (contract section 3).

    ``status``        HTTP status.
    ``error``         the service's short word for it, such as ``"Unprocessable Entity"``.
    ``message``       what went wrong; falls back to the provider's own answer when the service says nothing.
    ``is_remote``     True when the provider (Gong) refused and not Truto.
    ``insight``       ``truto_error_insight``: a dict of hints, empty when there are none.
    ``details``       ``details`` of the body, or None.
    ``raw_response``  the provider's answer as Truto passed it on, or None.
    ``headers``       response headers, names in lower case.
    ``retry_after``   seconds the service asks to wait, or None.
    ``account``       the integrated account asked for, or None when the token implies it.
    ``attempts``      how often the request was sent.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        error: str = "",
        is_remote: bool = False,
        insight: Mapping[str, Any] | None = None,
        details: Any = None,
        raw_response: Any = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        account: str | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.is_remote = is_remote
        self.insight: dict[str, Any] = dict(insight or {})
        self.details = details
        self.raw_response = raw_response
        self.headers: dict[str, str] = dict(headers or {})
        self.retry_after = retry_after
        self.account = account
        self.attempts = attempts

    def __str__(self) -> str:
        who = "the provider, through Truto," if self.is_remote else "Truto"
        text = f"{who} answered {self.status} {self.error}".rstrip() + f": {self.message}"
        if not self.attempts:  # held back here, since the service had asked for it before
            text = self.message
        hints = [hint for key in sorted(self.insight) if (hint := _hint(key, self.insight[key]))]
        if hints:
            text += f" ({'; '.join(hints)})"
        if self.account is not None:
            text += f" [account {self.account}]"
        return text


def _hint(key: str, value: object) -> str:
    """One insight as a phrase, such as ``missing required query parameters: start_time, end_time``."""
    name = key.replace("_", " ")
    if not isinstance(value, dict):
        return name
    entry = cast("dict[str, object]", value)
    listed = entry.get("value")
    if isinstance(listed, list) and listed:
        return f"{name}: {', '.join(str(item) for item in cast('list[object]', listed))}"
    description = entry.get("description")
    return f"{name}: {description}" if description else name


class BadRequestError(APIError):
    """400, 405, 409 or 422: the request was refused; ``insight`` and ``details`` say what to change."""


class AuthenticationError(APIError):
    """401 from Truto itself: the API token is wrong, expired or of another environment."""


class ReconnectRequiredError(APIError):
    """401 from the provider: the owner of the account must reconnect it; trying again does not help."""


class PermissionDeniedError(APIError):
    """403: the connection lacks rights; ``missing_scopes`` lists them when the service says which."""

    @property
    def missing_scopes(self) -> tuple[str, ...]:
        """Scopes the account's owner must grant, as the service names them; empty when it names none."""
        entry: object = self.insight.get("forbidden_error")
        value: object = cast("dict[str, object]", entry).get("value") if isinstance(entry, dict) else None
        scopes: object = (
            cast("dict[str, object]", value).get("missing_scopes") if isinstance(value, dict) else None
        )
        if isinstance(scopes, str):
            return (scopes,)
        if isinstance(scopes, list):
            return tuple(str(scope) for scope in cast("list[object]", scopes))
        return ()


class NotFoundError(APIError):
    """404: no such account or resource (local), or the provider has nothing there (remote)."""


class RateLimitError(APIError):
    """429: too many requests, and the wait asked for (``retry_after``, seconds) passes the policy's limits."""


class AccountBlockedError(APIError):
    """503 without Retry-After: Truto has blocked this account; ask its support."""


class ServerError(APIError):
    """The service failed (5xx, 408, 425) and kept failing, or answered with a status nobody expected."""


class DecodeError(TrutoError):
    """A body or an item is not what the contract says.

    ``path`` is where, such as ``$.result[3].user``; ``index`` the item's place on its page (None when the
    body as a whole is meant); ``account`` and ``cursor`` say which page to look at; ``raw`` is the item's own
    JSON, or the beginning of the body.
    """

    def __init__(
        self,
        message: str = "",
        *,
        path: str = "$",
        index: int | None = None,
        account: str | None = None,
        cursor: str | None = None,
        raw: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.path = path
        self.index = index
        self.account = account
        self.cursor = cursor
        self.raw = raw


class BodyTooLargeError(TrutoError):
    """A body, item or envelope passed its limit (``limit``, in bytes after decompression)."""

    def __init__(self, message: str = "", *, limit: int = 0, account: str | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.account = account


class _CursorError(TrutoError):
    def __init__(
        self, message: str = "", *, cursor: str = "", account: str | None = None, pages: int = 0
    ) -> None:
        super().__init__(message)
        self.cursor = cursor
        self.account = account
        self.pages = pages


class CursorLoopError(_CursorError):
    """The service gave ``cursor`` a second time in this walk; going on would never end.

    ``pages`` counts the pages read so far, all of them handed over.
    """


class CursorExpiredError(_CursorError):
    """The service refuses ``cursor`` as expired or unknown; ask for the window again from its start.

    The service's answer is the ``__cause__``.
    """


class _PathError(TrutoError):
    def __init__(self, message: str = "", *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class StateConflictError(_PathError):
    """The state or output at ``path`` cannot be used for this pull; the message says why.

    Another run holds it (``pid`` is its process, on ``host``), or it belongs to another plan, another format or a
    newer version. Nothing was changed. Wait for that run, repeat the call the state was made by, or use another
    folder.
    """

    def __init__(
        self, message: str = "", *, path: str = "", pid: int | None = None, host: str | None = None
    ) -> None:
        super().__init__(message, path=path)
        self.pid = pid
        self.host = host


class StorageError(_PathError):
    """The disk failed at ``path``: full, read-only, broken. What was committed is safe; mend it and run again.

    ``errno`` is the system's number for it, where there is one. The system's own error is the ``__cause__``.
    """

    def __init__(self, message: str = "", *, path: str = "", errno: int | None = None) -> None:
        super().__init__(message, path=path)
        self.errno = errno


class DamagedStateError(_PathError):
    """What is stored at ``path`` was damaged, altered or taken away since it was committed.

    Put it back as it was, or start over; going on would lose or double rows.
    """

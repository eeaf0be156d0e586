"""The exceptions of this package, grouped by what you can do about them.

    TrutoError
    ├── ConfigurationError          fix how the client was built (token, base_url, options)
    ├── UsageError                  fix the call: naive datetime, closed client, position of other filters, ...
    ├── MissingExtraError           install the extra; the message has the command
    ├── TransportError              the network failed after all retries; safe to try again
    │   ├── ConnectError            no connection (also a ConnectionError)
    │   ├── DeadlineError           too slow (also a TimeoutError)
    │   └── TruncatedBodyError      the body ended early
    ├── APIError                    the service responded with an error status
    │   ├── BadRequestError         400 405 409 422, other 4xx: change the request, see ``insight``
    │   ├── AuthenticationError     401 from Truto: get another API token
    │   ├── ReconnectRequiredError  401 from the provider: the account's owner must reconnect
    │   ├── PermissionDeniedError   403: see ``missing_scopes``
    │   ├── NotFoundError           404
    │   ├── RateLimitError          429: wait ``retry_after`` seconds
    │   ├── AccountBlockedError     503 from Truto without Retry-After: the account is blocked
    │   └── ServerError             any other 5xx, 408, 425, 3xx and unexpected statuses
    ├── DecodeError                 the body is not what the API documents
    ├── BodyTooLargeError           the body exceeds a size limit; raise the limit or use ``stream``
    ├── CursorLoopError             the service returned a cursor a second time
    ├── CursorExpiredError          the service no longer accepts this cursor; start the window again
    ├── StateConflictError          the stored state is in use or of another plan; wait, or use another folder
    ├── StorageError                the disk failed; fix it and run again, what was committed is safe
    └── DamagedStateError           stored state or output was changed; restore it or start over

aiohttp's exceptions are never raised: they are the ``__cause__``. Every exception can be pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
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
    """Base class of all exceptions of this package."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take keyword-only arguments, so ``args`` are not enough to rebuild one.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[TrutoError], args: tuple[Any, ...], state: dict[str, Any]) -> TrutoError:
    error = cls.__new__(cls, *args)
    super(TrutoError, error).__init__(*args)
    error.__dict__.update(state)
    return error


class ConfigurationError(TrutoError):
    """The client was built wrongly: no token, an unusable ``base_url``, an invalid option."""


class UsageError(TrutoError):
    """A call that can never work; the message says how to write it."""


class MissingExtraError(TrutoError, ImportError):
    """An optional dependency is not installed; the message has the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'truto-ci-async[{extra}]'")
        self.package = package
        self.extra = extra


class TransportError(TrutoError):
    """The network failed, and so did the retries that the policy allows; it is safe to try again.

    ``account`` is the integrated account of the request (None when the token implies it), ``attempts`` the number of
    requests sent.

    A stream that breaks after its first items is not retried: ``items_read`` counts the items handed out,
    ``bytes_read`` the bytes of the body received, and ``position`` (when not None) is where to start again.
    """

    items_read: int = 0
    bytes_read: int = 0
    position: Any = None

    def __init__(self, message: str = "", *, account: str | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.account = account
        self.attempts = attempts


class ConnectError(TransportError, ConnectionError):
    """The connection could not be opened, or was lost before the response was complete.

    ``is_permanent`` is True if trying again cannot help: an untrusted certificate, a proxy that refuses.
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
    """A deadline passed: ``deadline`` says which, ``connect``, ``read``, ``attempt`` or ``total``.

    ``seconds`` is its length. Increase it in ``Timeouts`` if the service is slow rather than broken.
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
    """The body ended early: fewer bytes than Content-Length, an incomplete chunk, incomplete gzip or JSON.

    A buffered page is retried as a whole, so you never see a part of it.
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
    """The service responded with an error status (contract section 3).

    ``status``        HTTP status.
    ``error``         the service's name for it, such as ``"Unprocessable Entity"``.
    ``message``       what went wrong; the provider's own response if the service sent no message.
    ``is_remote``     True if the error is the provider's (Gong's) and not Truto's.
    ``insight``       ``truto_error_insight``: a dict of hints, empty when there are none.
    ``details``       ``details`` of the body, or None.
    ``raw_response``  the provider's response as Truto passed it on, or None.
    ``headers``       response headers, names in lower case.
    ``retry_after``   seconds to wait before trying again, as the service asks, or None.
    ``account``       the integrated account of the request, or None when the token implies it.
    ``attempts``      the number of requests sent.
    ``offered``       resources and their methods, if the account's provider does not have the one that was called.
    """

    offered: Mapping[str, tuple[str, ...]] = MappingProxyType({})

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
        if self.attempts:
            sender = "the provider, through Truto," if self.is_remote else "Truto"
            text = f"{sender} responded with {self.status} {self.error}".rstrip() + f": {self.message}"
        else:  # never sent, because the service had asked to wait
            text = self.message
        hints = [hint for key in sorted(self.insight) if (hint := _hint(key, self.insight[key]))]
        if hints := [hint for hint in hints if hint.casefold() not in text.casefold()]:
            text += f" ({'; '.join(hints)})"
        if self.offered:
            offers = ", ".join(f"{name} ({', '.join(methods)})" for name, methods in self.offered.items())
            text += f"; this account offers {offers}"
        if self.account is not None:
            text += f" [account {self.account}]"
        return text


def _hint(key: str, value: object) -> str:
    """Return an insight as a phrase, such as ``missing required query parameters: start_time, end_time``."""
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
    """400, 405, 409, 422 or another 4xx: the request was refused; see ``insight`` and ``details``."""


class AuthenticationError(APIError):
    """401 from Truto: the API token is wrong, expired or from another environment."""


class ReconnectRequiredError(APIError):
    """401 from the provider: the owner of the account must reconnect it."""


class PermissionDeniedError(APIError):
    """403: the connection lacks permissions; see ``missing_scopes``."""

    @property
    def missing_scopes(self) -> tuple[str, ...]:
        """Scopes that the account's owner must grant; empty if the service names none."""
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
    """404: Truto (local) or the provider (remote) has no such thing."""


class RateLimitError(APIError):
    """429: too many requests, and ``retry_after`` is longer than the retry policy allows."""


class AccountBlockedError(APIError):
    """503 from Truto itself without Retry-After: it has blocked this account; ask Truto's support."""


class ServerError(APIError):
    """The service failed (5xx, 408, 425) on every attempt, or responded with an unexpected status."""


class DecodeError(TrutoError):
    """A body or an item is not what the API documents.

    ``path`` is the place in the body, such as ``$.result[3].user``; ``index`` the item's index on its page (None if
    the error is about the whole body); ``account`` and ``cursor`` identify the page; ``raw`` is the item's own JSON or
    the beginning of the body.
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
    """A body, item or envelope is larger than ``limit``, in bytes after decompression."""

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
    """The service returned ``cursor`` a second time; going on would never end.

    ``pages`` counts the pages read so far, all of which were handed out.
    """


class CursorExpiredError(_CursorError):
    """The service refuses ``cursor`` as expired or unknown; start the window again.

    The service's response is the ``__cause__``.
    """


class _PathError(TrutoError):
    def __init__(self, message: str = "", *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class StateConflictError(_PathError):
    """The state or output at ``path`` cannot be used for this pull; the message says why.

    Another run is using it (``pid`` is its process, on ``host``), or it belongs to another plan, another format or a
    newer version. Nothing was changed. Wait for that run, repeat the call that created the state, or use another
    folder.
    """

    def __init__(
        self, message: str = "", *, path: str = "", pid: int | None = None, host: str | None = None
    ) -> None:
        super().__init__(message, path=path)
        self.pid = pid
        self.host = host


class StorageError(_PathError):
    """The disk failed at ``path``: it is full, read-only or broken. What was committed is safe; fix it and run again.

    ``errno`` is the error number, if there is one. The original OSError is the ``__cause__``.
    """

    def __init__(self, message: str = "", *, path: str = "", errno: int | None = None) -> None:
        super().__init__(message, path=path)
        self.errno = errno


class DamagedStateError(_PathError):
    """The state or output at ``path`` was damaged, changed or removed after it was committed.

    Restore it or start over; going on would lose or duplicate rows.
    """

"""What a failed call tells about the service, the account and the cursor."""

from __future__ import annotations

from truto_ci_async._http.policy.retry import RetryPolicy, can_never_succeed
from truto_ci_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    RateLimitError,
    ServerError,
    TransportError,
    TrutoError,
)

# A service refuses a cursor with one of these. Their messages are not documented.
_REFUSED_CURSOR = frozenset({400, 404, 409, 410, 422})


def may_refuse_cursor(error: BaseException | None) -> bool:
    """Tell whether an error may be about the cursor that was sent."""
    return isinstance(error, APIError) and error.status in _REFUSED_CURSOR


def asks_to_wait(error: TrutoError, retry: RetryPolicy) -> bool:
    """Tell whether the service said when to come again, or that it has had enough."""
    return isinstance(error, RateLimitError) or (
        isinstance(error, APIError) and (error.retry_after or 0.0) > retry.max_wait
    )


def is_answer(error: TrutoError, retry: RetryPolicy) -> bool:
    """Tell whether an error of a call shows that the service is there."""
    is_hopeless = isinstance(error, APIError) and can_never_succeed(error.status)
    return not isinstance(error, (TransportError, ServerError)) or is_hopeless or asks_to_wait(error, retry)


def is_fatal(error: TrutoError) -> bool:
    """Tell whether a failure would hit every other account as well, now and later."""
    return isinstance(error, (AuthenticationError, ConfigurationError)) or (
        isinstance(error, ConnectError) and error.is_permanent
    )

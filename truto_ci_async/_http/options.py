"""Checks the options of a client, and merges headers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from truto_ci_async._checks import brief, check_whole_number
from truto_ci_async._http.policy.rate_limiter import Pacing
from truto_ci_async._http.policy.retry import RetryPolicy, Timeouts
from truto_ci_async.errors import ConfigurationError

# Headers that only the client sets, because they have to match the connection.
OWN_HEADERS = frozenset(
    {"authorization", "accept-encoding", "host", "content-length", "transfer-encoding", "connection"}
)
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_VALUE = r"[^\x00-\x08\x0a-\x1f\x7f]*"


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of ``headers``.

    :raises ConfigurationError: a header that this package sets itself, or one that is not a single line of text.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{name!r} is not a valid header name")
        if name.lower() in OWN_HEADERS:
            raise ConfigurationError(f"the header {name} is set by the client")
        if not isinstance(value, str) or not re.fullmatch(_HEADER_VALUE, value):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"the header {name!r} is not a single line of text")
    return dict(headers)


def merge_headers(headers: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Return both, merged. ``others`` wins where a name is in both; case is ignored."""
    names = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in names} | dict(others)


def check_policies(timeouts: object, retry: object, pacing: object) -> None:
    given = (("timeouts", timeouts, Timeouts), ("retry", retry, RetryPolicy), ("pacing", pacing, Pacing))
    for name, value, wanted in given:
        if not isinstance(value, wanted):
            raise ConfigurationError(f"{name} must be a {wanted.__name__}(...), not {brief(value)}")


def check_limits(max_body_bytes: object, max_connections: object) -> None:
    for name, value in (("max_body_bytes", max_body_bytes), ("max_connections", max_connections)):
        check_whole_number(name, value, least=1)


def check_transport(
    base_url: object, headers: object, proxy: object, ssl_context: object, session: object
) -> None:
    for name, value, wanted, methods in (
        ("base_url", base_url, "text", ("encode",)),
        ("headers", headers, "a dict of text", ("items", "keys")),
        ("proxy", proxy, "the URL of a proxy", ("encode",)),
        ("ssl_context", ssl_context, "an ssl.SSLContext", ("wrap_bio",)),
        ("session", session, "an aiohttp.ClientSession", ("request", "close")),
    ):
        if value is not None and not all(hasattr(value, method) for method in methods):
            raise ConfigurationError(f"{name} must be {wanted}, not a {type(value).__name__}")


def user_agent() -> str:
    from truto_ci_async._version import __version__

    return f"truto-ci-async/{__version__}"

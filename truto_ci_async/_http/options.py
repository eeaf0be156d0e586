"""Checks the options of a client, and merges its headers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from truto_ci_async._http.policy.rate_limiter import Pacing
from truto_ci_async._http.policy.retry import RetryPolicy, Timeouts
from truto_ci_async.errors import ConfigurationError

# The headers that are the client's own business: what they say must be true of the connection.
OWN_HEADERS = frozenset(
    {"authorization", "accept-encoding", "host", "content-length", "transfer-encoding", "connection"}
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as they go out.

    :raises ConfigurationError: one that this package sets by itself, or that is not one line of text.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{name!r} is no name of a header")
        if name.lower() in OWN_HEADERS:
            raise ConfigurationError(f"the header {name} is set by the client and cannot be given")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"the header {name!r} is not one line of text")
    return dict(headers)


def merge_headers(headers: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Return both; of two with the same name, in whatever case, the one of ``others``."""
    names = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in names} | dict(others)


def check_options(timeouts: object, retry: object, pacing: object) -> None:
    given = (("timeouts", timeouts, Timeouts), ("retry", retry, RetryPolicy), ("pacing", pacing, Pacing))
    for name, value, wanted in given:
        if not isinstance(value, wanted):
            raise ConfigurationError(f"{name} takes a {wanted.__name__}(...), not {value!r}")


def check_transport(headers: object, proxy: object, ssl_context: object, session: object) -> None:
    for name, value, wanted, methods in (
        ("headers", headers, "a dict of text", ("items", "keys")),
        ("proxy", proxy, "the URL of a proxy", ("encode",)),
        ("ssl_context", ssl_context, "an ssl.SSLContext", ("wrap_bio",)),
        ("session", session, "an aiohttp.ClientSession", ("request", "close")),
    ):
        if value is not None and not all(hasattr(value, method) for method in methods):
            raise ConfigurationError(f"{name} takes {wanted}, not a {type(value).__name__}")


def user_agent() -> str:
    from truto_ci_async._version import __version__

    return f"truto-ci-async/{__version__}"

"""API tokens: where they come from, and how they stay out of logs and tracebacks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from truto_ci_async.errors import ConfigurationError


class Secret(str):
    """Text that reprs, tracebacks with locals and dumps of containers show as ``***``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


#: A token, or a function (plain or async) that gives one; it is asked again when the service refuses the last.
TokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]]


TOKEN_VARIABLE = "TRUTO_API_TOKEN"


class Token:
    """The API token: given, or asked for once and again when the service refuses it."""

    def __init__(self, source: TokenSource | None) -> None:
        source = hidden(source)
        if source is None:
            raise ConfigurationError(f"no API token: pass token=..., or set {TOKEN_VARIABLE}")
        if not isinstance(source, str) and not callable(source):
            raise ConfigurationError(
                f"token is the API token as text, or a function giving it, not {type(source).__name__}"
            )
        self._source = None if isinstance(source, str) else source
        self._value = checked_token(source) if isinstance(source, str) else None
        self._asking: asyncio.Lock | None = None

    @property
    def is_refreshable(self) -> bool:
        return self._source is not None

    async def get(self, refused: Secret | None = None) -> Secret:
        """Return the token; one equal to ``refused`` is asked for anew, once for all who were refused."""
        if self._source is None or (self._value is not None and self._value is not refused):
            assert self._value is not None
            return self._value
        if self._asking is None:
            self._asking = asyncio.Lock()
        async with self._asking:
            if self._value is None or self._value is refused:
                self._value = await _asked(self._source)
            return self._value


async def _asked(source: Callable[[], str | Awaitable[str]]) -> Secret:
    given = hidden(source())
    return checked_token(hidden(await given) if inspect.isawaitable(given) else given)


def hidden(value: Any) -> Any:
    """Mask the repr of text at once: tracebacks can show the arguments and variables of every frame."""
    return Secret(value) if isinstance(value, str) else value


def checked_token(token: object) -> Secret:
    """Return ``token`` as text whose repr is masked.

    :raises ConfigurationError: not text, empty, or with characters no header may hold; it is not quoted.
    """
    token = hidden(token)
    if not isinstance(token, str):
        raise ConfigurationError(f"the API token is text, not {type(token).__name__}")
    if not token.strip():
        raise ConfigurationError(f"the API token is empty: pass token=..., or set {TOKEN_VARIABLE}")
    if not all("!" <= character <= "~" for character in token):
        raise ConfigurationError(
            "the API token holds a space, a line end or a character outside ASCII; was it read from a file? "
            "strip() it"
        )
    return Secret(token)

"""API tokens: gets and renews them, and keeps them out of logs and tracebacks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from itertools import takewhile
from typing import Any, TypeAlias
from urllib.parse import quote

from truto_ci_async.errors import ConfigurationError


class Secret(str):
    """Text whose repr is ``***``, also in tracebacks with locals and in dumps of containers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


# A token of at least this many characters is masked wherever the service repeats it. A shorter one, such as "token" in
# a test, is not a secret, and may be a word or a key of the body.
SHORTEST_SECRET = 12


def mask(text: str, token: str) -> str:
    """Return ``text`` without ``token``: some services repeat what they got, and errors end up in logs."""
    # Encoding the token takes longer than all else that is done with the headers of a page.
    if len(token) < SHORTEST_SECRET or not (token in text or "%" in text):
        return text
    return text.replace(token, "***").replace(quote(token, safe=""), "***")


def mask_cut(text: str, token: str) -> str:
    """Return ``text`` without ``token``, even if it was cut off inside the token, as excerpts are."""
    text = mask(text, token)
    beginning = token[:SHORTEST_SECRET]
    while len(beginning) == SHORTEST_SECRET and beginning in text:
        before, _, after = text.partition(beginning)
        rest = takewhile(lambda pair: pair[0] == pair[1], zip(token[SHORTEST_SECRET:], after, strict=False))
        text = f"{before}***{after[len(list(rest)) :]}"
    return text


def token_of(headers: Mapping[str, str]) -> Secret:
    """Return the token that is sent with ``headers``, or an empty text."""
    return Secret(headers.get("Authorization", "").rpartition(" ")[2])


#: A token, or a function (plain or async) that returns one; it is called again when the service refuses the last.
TokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]]


TOKEN_VARIABLE = "TRUTO_API_TOKEN"


class Token:
    """The API token: a fixed one, or one from a function that is called again when the service refuses it."""

    def __init__(self, source: TokenSource | None) -> None:
        source = hidden(source)
        if source is None:
            raise ConfigurationError(f"no API token: pass token=..., or set {TOKEN_VARIABLE}")
        if not isinstance(source, str) and not callable(source):
            raise ConfigurationError(
                f"token must be the API token as text, or a function that returns it, not {type(source).__name__}"
            )
        self._source = None if isinstance(source, str) else source
        self.is_refreshable = self._source is not None
        self._value = checked_token(source) if isinstance(source, str) else None
        self._lock: asyncio.Lock | None = None

    @property
    def last(self) -> Secret:
        """The last one that ``get`` returned, or an empty text."""
        return self._value or Secret()

    async def get(self, refused: Secret | None = None) -> Secret:
        """Return the token. If it is still ``refused``, get a new one, once for all calls that were refused."""
        if self._source is None or (self._value is not None and self._value is not refused):
            assert self._value is not None
            return self._value
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            if self._value is None or self._value is refused:
                self._value = await _called(self._source)
            return self._value


async def _called(source: Callable[[], str | Awaitable[str]]) -> Secret:
    token = hidden(source())
    return checked_token(hidden(await token) if inspect.isawaitable(token) else token)


def hidden(value: Any) -> Any:
    """Mask the repr of ``value`` if it is text: tracebacks can show the arguments and variables of every frame."""
    return Secret(value) if isinstance(value, str) else value


def checked_token(token: object) -> Secret:
    """Return ``token`` as text whose repr is masked.

    :raises ConfigurationError: not text, empty, or with characters that no header may hold. It is not quoted.
    """
    token = hidden(token)
    if not isinstance(token, str):
        raise ConfigurationError(f"the API token must be text, not {type(token).__name__}")
    if not token.strip():
        raise ConfigurationError(f"the API token is empty: pass token=..., or set {TOKEN_VARIABLE}")
    if not all("!" <= character <= "~" for character in token):
        raise ConfigurationError(
            "the API token contains a space, a line break or a character outside ASCII: "
            "remove it, for example with strip() where the token is read from a file"
        )
    return Secret(token)

"""The URL of a database, whose password is in no text that we make."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_SECRET = "***"
_SECRET_NAMES = ("password", "sslpassword")
# ``name = value`` as libpq has it, in a list of words or in the query of a URL.
_NAMED = re.compile(r"\b(password|sslpassword)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)


class Dsn:
    """A URL, or words such as ``host=db dbname=ci``. ``value`` is what it says; its texts show no password."""

    __slots__ = ("_secrets", "_shown", "value")

    def __init__(self, value: str) -> None:
        self.value = value
        # A password may hold any character, so what it ends with is the last @.
        scheme, separator, rest = value.partition("://")
        if separator:
            authority = re.split(r"[/?#](?!.*@)", rest, maxsplit=1)[0]
            login, at, _ = authority.rpartition("@")
            user, colon, password = login.partition(":")
            secrets = {password, unquote(password)} if at and colon else set[str]()
            shown = rest[len(login) :] if at else rest
            masked = f"{user}{':' + _SECRET if colon else ''}" if at else ""
            try:
                query = parse_qsl(urlsplit(value).query)
            except ValueError:
                query = []
            secrets |= {text for name, text in query if name in _SECRET_NAMES}
            self._shown = f"{scheme}://{masked}{_mask(shown)}"
        else:
            secrets = {match[3].strip("'") for match in _NAMED.finditer(value)}
            self._shown = _mask(value)
        self._secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return ``text`` without the password."""
        text = text.replace(self.value, self._shown)
        for secret in self._secrets:
            text = text.replace(secret, _SECRET)
        return text

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return repr(self._shown)


def _mask(text: str) -> str:
    return _NAMED.sub(rf"\1\2{_SECRET}", text)

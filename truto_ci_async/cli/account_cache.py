"""The ids of accounts that earlier commands have listed, for completion: no request, and no token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from truto_ci_async._text import printable
from truto_ci_async.errors import UsageError

from .kept_files import kept_file, replace_file

MAX_ACCOUNTS: Final = 1_000


def cache_file() -> Path:
    """:raises FileNotFoundError: the user has no home directory."""
    return kept_file("cache", "accounts")


def cached_accounts() -> Sequence[str]:
    """Return the ids, those listed last first."""
    with suppress(OSError, UnicodeDecodeError):
        return cache_file().read_text("utf-8").splitlines()[:MAX_ACCOUNTS]
    return ()


def remember_accounts(ids: Iterable[str | None]) -> None:
    """Put ids in front of those of earlier commands. A cache that cannot be written is left as it is."""
    with suppress(OSError, UsageError):
        kept = [
            each for each in dict.fromkeys([*ids, *cached_accounts()]) if each and printable(each) == each
        ]
        replace_file(cache_file(), "".join(f"{each}\n" for each in kept[:MAX_ACCOUNTS]).encode())

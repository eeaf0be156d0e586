"""The ids of accounts that earlier commands have listed, for completion: no request, and no token."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from truto_ci_async._text import printable

MAX_ACCOUNTS: Final = 1_000


def cache_file() -> Path:
    """Return the file under the folder that the platform has for caches."""
    if sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches"
    else:
        folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "truto-ci" / "accounts"


def cached_accounts() -> Sequence[str]:
    """Return the ids, those listed last first."""
    with suppress(OSError, UnicodeDecodeError, RuntimeError):
        return cache_file().read_text("utf-8").splitlines()[:MAX_ACCOUNTS]
    return ()


def remember_accounts(ids: Iterable[str | None]) -> None:
    """Put ids in front of those of earlier commands. A cache that cannot be written is left as it is."""
    with suppress(OSError, RuntimeError):
        kept = [
            each for each in dict.fromkeys([*ids, *cached_accounts()]) if each and printable(each) == each
        ]
        file = cache_file()
        file.parent.mkdir(0o700, parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text("".join(f"{each}\n" for each in kept[:MAX_ACCOUNTS]), "utf-8")
        new.replace(file)

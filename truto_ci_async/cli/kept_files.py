"""The small files that commands keep between runs, readable by their owner alone: profiles, and ids of accounts.

The ids are those that earlier commands have listed. Completion offers them without a request, and without a token.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from truto_ci_async._files import write_file
from truto_ci_async._text import printable
from truto_ci_async.errors import UsageError

MAX_ACCOUNTS: Final = 1_000
Kind: TypeAlias = Literal["config", "cache"]
# For each platform and kind: the variable that names its folder, and the folder in the home directory.
_FOLDERS: Final = {
    "win32": {"config": ("APPDATA", "AppData/Roaming"), "cache": ("LOCALAPPDATA", "AppData/Local")},
    "darwin": {"config": ("", "Library/Application Support"), "cache": ("", "Library/Caches")},
    "other": {"config": ("XDG_CONFIG_HOME", ".config"), "cache": ("XDG_CACHE_HOME", ".cache")},
}


def kept_file(kind: Kind, name: str) -> Path:
    """Return the file of this name, under the folder that the platform has for its kind.

    :raises FileNotFoundError: the user has no home directory.
    """
    variable, default = _FOLDERS.get(sys.platform, _FOLDERS["other"])[kind]
    try:
        folder = Path(os.environ.get(variable) or Path.home() / default)
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "this user has no home directory: set HOME") from None
    return folder / "truto-ci" / name


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: another command sees what was there before, or all of ``data``.

    :raises OSError: it cannot be written.
    :raises UsageError: it is a directory.
    """
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    write_file(path, [data], 0o600)


def cache_file() -> Path:
    return kept_file("cache", "accounts")


def cached_accounts() -> Sequence[str]:
    """Return the ids, those listed last first."""
    with suppress(OSError, UnicodeDecodeError):
        return cache_file().read_text("utf-8").splitlines()[:MAX_ACCOUNTS]
    return ()


def remember_accounts(ids: Iterable[str | None]) -> None:
    """Put ids in front of those of earlier commands. A cache that cannot be written is left as it is."""
    with suppress(OSError, UsageError):
        found = dict.fromkeys([*ids, *cached_accounts()])
        kept = [f"{each}\n" for each in found if each and printable(each) == each]
        replace_file(cache_file(), "".join(kept[:MAX_ACCOUNTS]).encode())

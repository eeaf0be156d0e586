"""The small files that commands keep between runs, readable by their owner alone: profiles, and ids of accounts."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Final, Literal, TypeAlias

from truto_ci_async._files import write_file

Kind: TypeAlias = Literal["config", "cache"]
# For each kind: the variable that names its folder, and the folder in the home directory.
_WINDOWS: Final = {"config": ("APPDATA", "AppData/Roaming"), "cache": ("LOCALAPPDATA", "AppData/Local")}
_MACOS: Final = {"config": ("", "Library/Application Support"), "cache": ("", "Library/Caches")}
_OTHERS: Final = {"config": ("XDG_CONFIG_HOME", ".config"), "cache": ("XDG_CACHE_HOME", ".cache")}


def kept_file(kind: Kind, name: str) -> Path:
    """Return the file of this name, under the folder that the platform has for its kind.

    :raises FileNotFoundError: the user has no home directory.
    """
    folders = {"win32": _WINDOWS, "darwin": _MACOS}.get(sys.platform, _OTHERS)
    variable, default = folders[kind]
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

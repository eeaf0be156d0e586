"""The names of files in a pull's folder.

    data/
      manifest.json                        what is committed, of all resources
      interactions/part-000001.parquet     Parquet: parts, and nothing else, so that a reader takes the folder as it is
      meetings.ndjson, users.csv           NDJSON and CSV: one file per resource
      _interactions.parts.log              the list of very many parts
      .interactions.part-000002.parquet.tmp, .manifest.json.tmp     what is being written
      .truto-pull.lock, .truto-pull...     lock and progress

A plan that is pulled in shards has such a folder for each, and a manifest that names the files of all:

    data/
      manifest.json
      shard-00001-of-00008/interactions/part-000001.parquet

Readers such as polars refuse a folder with anything else in it, hidden files included. So temporary files are one level
up, on the same file system. In folders of earlier versions the parts of interactions are not in a folder of their own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.models.row_views import PULL_SCHEMA

MANIFEST: Final = "manifest.json"
# The prefix of the other names that a pull uses in its folder, for its state and the lock.
PRIVATE: Final = ".truto-pull"
# Keeps other runs out of the folder.
LOCK: Final = f"{PRIVATE}.lock"
# Where ``pull_to`` keeps its progress of interactions.
STATE_FILE: Final = f"{PRIVATE}.sqlite3"
#: The version of the columns of a pull with which parts got a folder of their own.
OWN_FOLDER: Final = 3

# In folders of earlier versions, which held nothing but interactions.
_EARLIER: Final = r"|part-(\d{6,})\.parquet|\.part-(\d{6,})\.parquet\.tmp|_parts\.log"
_PART: Final = re.compile(r"part-(\d{6,})\.parquet", re.ASCII)


_SHARD: Final = re.compile(r"shard-(\d{5,})-of-(\d{5,})", re.ASCII)


def shard_folder(number: int, count: int) -> str:
    """Return the name of the folder of a shard."""
    return f"shard-{number:05d}-of-{count:05d}"


def parse_shard_folder(name: str) -> tuple[int, int] | None:
    """Return the number of a shard and how many there are, None if it is not the name of its folder."""
    match = _SHARD.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]))


def state_file(resource: str) -> str:
    """Return the name of the file with the progress of a resource."""
    return STATE_FILE if resource == "interactions" else f"{PRIVATE}.{resource}.sqlite3"


class Layout:
    """Names for one resource, relative to the folder, as of one version of the columns of a pull."""

    def __init__(self, resource: str, version: int = PULL_SCHEMA.version) -> None:
        self.resource = resource
        self.version = version
        self.is_earlier = version < OWN_FOLDER
        earlier = _EARLIER if resource == "interactions" else ""
        # Every name that this resource uses, for committed and for temporary files, in any version.
        self._names = re.compile(
            rf"{resource}\.(?:ndjson|csv)|{resource}/part-(\d{{6,}})\.parquet"
            rf"|\.{resource}\.part-(\d{{6,}})\.parquet\.tmp|_{resource}\.parts\.log|\.manifest\.json\.tmp{earlier}",
            re.ASCII,
        )

    @property
    def parts_folder(self) -> str:
        """The folder of the parts; empty if that is the folder of the pull."""
        return "" if self.is_earlier else self.resource

    @property
    def parts_log(self) -> str:
        return "_parts.log" if self.is_earlier else f"_{self.resource}.parts.log"

    def part(self, number: int) -> str:
        name = f"part-{number:06d}.parquet"
        return name if self.is_earlier else f"{self.resource}/{name}"

    def temporary_part(self, number: int) -> str:
        return f".{'' if self.is_earlier else self.resource + '.'}part-{number:06d}.parquet.tmp"

    def is_committed_name(self, name: str, format: str) -> bool:
        """Tell whether a committed file of this resource and format can have this name."""
        if format != "parquet":
            return name == f"{self.resource}.{format}"
        folder, _, part = name.rpartition("/")
        return folder == self.parts_folder and _PART.fullmatch(part) is not None

    def number(self, name: str) -> int | None:
        """Return the number of a part that is, or was to be, of this name."""
        match = self._names.fullmatch(name)
        digits = next(filter(None, match.groups()), None) if match else None
        return None if digits is None else int(digits)

    def uses(self, name: str) -> bool:
        """Tell whether this resource uses a name, for committed or for temporary files."""
        return self._names.fullmatch(name) is not None

    def find(self, directory: Path) -> set[str]:
        """Return the names in the folder that this resource uses."""
        found = {path.name for path in directory.iterdir()}
        own = directory / self.resource
        if self.resource in found and own.is_dir():
            found |= {f"{self.resource}/{path.name}" for path in own.iterdir()}
        return set(filter(self.uses, found))


def is_part_of(resource: str, name: str, format: str) -> bool:
    """Tell whether a committed file of this resource and format can have this name, in any version or shard."""
    shard, _, rest = name.partition("/")
    if parse_shard_folder(shard) is not None:
        name = rest
    return any(
        Layout(resource, version).is_committed_name(name, format) for version in (OWN_FOLDER, OWN_FOLDER - 1)
    )


_LAYOUTS: Final = [Layout(resource) for resource in ITEM_TYPES]


def is_used_by_pulls(path: Path, folder: Path) -> bool:
    """Return whether a pull into ``folder`` may write, replace or remove this file; both are absolute paths.

    In the folder of parts it uses every name: whatever else is there would keep readers from the parts.
    """
    # Some file systems ignore case.
    if path.parent.parent == folder and path.parent.name.lower() in ITEM_TYPES:
        return True
    name = path.name.lower()
    is_ours = name == MANIFEST or name.startswith(PRIVATE) or any(each.uses(name) for each in _LAYOUTS)
    return path.parent == folder and is_ours

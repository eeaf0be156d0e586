"""What is committed in object storage: the manifest, and the objects it names.

    PREFIX/interactions/part-....parquet             rows, of which readers take the folder as a whole
    PREFIX/_truto/interactions/manifest.json         what is committed
                              /plan-..., parts-...   the plan, and lists of very many parts
                              /state-..., log-...    progress: a snapshot, and what was committed since
                              /staged/part-...       parts that are not committed, or were a moment ago
                              /replaced/part-...     parts that a sync replaced, until the next run
                              /keys/part-...         in a sync, what rows a part has, see cloud_replacing

The manifest is the only object that is ever replaced. Each other has the epoch of the run that wrote it in its name, so
no run overwrites what belongs to another, and a run removes only what earlier ones left.

Progress is kept as in a log-structured store. The manifest has the last changes itself. Once they are many they become
an object, and once these are larger than the snapshot, a new one replaces it with all of them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from truto_ci_async._text import encodable
from truto_ci_async.export.schema import ColumnType
from truto_ci_async.pull.checkpoint.base import Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.pull.checkpoint.stored import PROGRESS_FIELDS, StoredRows
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.sinks.manifest import Count, Part

# The manifest has this many bytes of changes, and this many parts, at most.
TAIL_BYTES: Final = 2**16
LISTED_PARTS: Final = 512
# A snapshot is due after logs of more bytes than this and the last one have, or after this many.
LOG_BYTES: Final = 2**20
LOGS: Final = 200


class Changes(Struct, frozen=True, array_like=True):
    """What a commit changed: rows of progress as SQLite has them, and what was added to fingerprints."""

    walks: tuple[tuple[Any, ...], ...] = ()
    fingerprints: tuple[tuple[str, int, bytes], ...] = ()

    @classmethod
    def of(cls, changes: Mapping[Key, Progress], fingerprints: Mapping[Key, bytes]) -> Changes:
        over = {key for key, progress in changes.items() if progress.is_over}  # they need no fingerprints
        return cls(
            tuple(
                (*key, *(_stored(getattr(progress, name)) for name in PROGRESS_FIELDS))
                for key, progress in changes.items()
            ),
            tuple((*key, added) for key, added in fingerprints.items() if key not in over),
        )

    def apply(self, progress: MemoryCheckpoint, stored: StoredRows) -> None:
        """:raises ValueError: they are of another plan."""
        changes = {(name, window): walk for name, window, walk in map(stored.progress, self.walks)}
        added = {(name, window): data for name, window, data in self.fingerprints}
        progress.apply(changes, added)


class CloudPart(Part, frozen=True, omit_defaults=True):
    """A part. For syncs: the bounds of its windows, in microseconds since 1970, and checksums of its accounts.

    None: it may have any.
    """

    start: int | None = None
    end: int | None = None
    accounts: tuple[int, ...] | None = None


class Named(Struct, frozen=True):
    """An object with a part of the state."""

    name: str
    bytes: Count = 0
    crc32: Count = 0


class EarlierPlan(Struct, frozen=True):
    """A plan that was pulled to its end before, and the bounds of its windows."""

    name: str
    start: str | None = None
    end: str | None = None


class Manifest(Struct, frozen=True, kw_only=True, tag_field="kind", tag="truto-cloud-1"):
    """What is committed. ``stamp`` is of this version alone; ``epoch`` and ``owner`` are of the run that may commit."""

    resource: str
    epoch: Count
    stamp: str
    owner: str
    begun_at: str
    commits: Count = 0
    complete: bool = False
    rows: Count = 0
    bytes: Count = 0
    columns: dict[str, ColumnType]
    plan: str
    earlier: tuple[EarlierPlan, ...] = ()
    snapshot: Named | None = None
    logs: tuple[Named, ...] = ()
    tail: tuple[Changes, ...] = ()
    lists: tuple[Named, ...] = ()
    parts: tuple[CloudPart, ...] = ()

    def named(self) -> set[str]:
        """Return the names of all objects it needs, but for the parts."""
        named = (*self.state(), *self.lists)
        return {self.plan, *(each.name for each in self.earlier), *(each.name for each in named)}

    def state(self) -> tuple[Named, ...]:
        """Return the objects with progress, the snapshot first."""
        return self.logs if self.snapshot is None else (self.snapshot, *self.logs)

    @property
    def wants_snapshot(self) -> bool:
        """Whether the logs are more than a snapshot is worth."""
        last = 0 if self.snapshot is None else self.snapshot.bytes
        return len(self.logs) >= LOGS or sum(log.bytes for log in self.logs) > max(LOG_BYTES, last)


def _stored(value: Any) -> Any:
    return encodable(value) if isinstance(value, str) else value


class Names:
    """The names of the objects of one resource."""

    def __init__(self, resource: str) -> None:
        self.parts = f"{resource}/"
        self.state = f"_truto/{resource}/"
        self.manifest = f"{self.state}manifest.json"
        self._part = re.compile(
            rf"(?:{resource}/|_truto/{resource}/(?:staged|replaced|keys)/)part-(\d{{6,10}})\d{{8}}\.parquet"
        )
        self._state = re.compile(rf"_truto/{resource}/[a-z]+-(\d{{6,10}})-\d+")

    def part(self, epoch: int, number: int) -> str:
        return f"{self.parts}part-{epoch:06d}{number:08d}.parquet"

    def staged(self, part: str) -> str:
        """Return the name of a part before it is committed."""
        return self._beside(part, "staged")

    def replaced(self, part: str) -> str:
        """Return the name of a part that a later one has replaced, for those who still read it."""
        return self._beside(part, "replaced")

    def keys(self, part: str) -> str:
        """Return the name of the object with the hashes of the keys in a part."""
        return self._beside(part, "keys")

    def _beside(self, part: str, folder: str) -> str:
        return f"{self.state}{folder}/{part.removeprefix(self.parts)}"

    def object(self, kind: str, epoch: int, number: int) -> str:
        return f"{self.state}{kind}-{epoch:06d}-{number}"

    def epoch(self, name: str) -> int | None:
        """Return the epoch of the run that wrote an object, None if no run did."""
        match = self._part.fullmatch(name) or self._state.fullmatch(name)
        return None if match is None else int(match[1])


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest)


def read_manifest(data: bytes) -> Manifest:
    """:raises ValueError: it is not one, or of a later version of this package."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def packed(value: Any) -> bytes:
    """Return the content of an object of the state."""
    return zlib.compress(msgspec.msgpack.encode(value), 1)


def checked(named: Named, data: bytes) -> bytes:
    """:raises ValueError: this is not what was put."""
    if (len(data), zlib.crc32(data)) != (named.bytes, named.crc32):
        raise ValueError(f"{named.name} has been changed")
    return data


def read_parts(named: Named, data: bytes) -> tuple[CloudPart, ...]:
    """:raises ValueError: this is not what was put."""
    return msgspec.msgpack.decode(zlib.decompress(checked(named, data)), type=tuple[CloudPart, ...])


def read_progress(plan: Plan, manifest: Manifest, state: Sequence[bytes]) -> MemoryCheckpoint:
    """Return all progress of a plan. ``state`` is the content of the snapshot, if there is one, and of the logs.

    :raises ValueError: it is none of this plan.
    """
    stored = StoredRows(plan)
    progress = MemoryCheckpoint()
    logs = [checked(named, data) for named, data in zip(manifest.state(), state, strict=True)]
    try:
        if manifest.snapshot is not None:
            progress.restore(zlib.decompress(logs.pop(0)), stored)
        for log in logs:
            for changes in _read_log(zlib.decompress(log)):
                changes.apply(progress, stored)
    except (msgspec.DecodeError, zlib.error) as error:
        raise ValueError(str(error)) from error
    for changes in manifest.tail:
        changes.apply(progress, stored)
    return progress


_read_log = msgspec.msgpack.Decoder(tuple[Changes, ...]).decode

"""What is committed in a folder: the state a checkpoint stores, and ``manifest.json`` for readers of the output."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from truto_ci_async._files import Disk

MANIFEST = "manifest.json"
# That of a million parts is half as large.
MAX_MANIFEST_BYTES = 2**28


# Names and counts that were altered are refused when they are read: a part is a file in its folder, and nothing else.
PartName: TypeAlias = Annotated[
    str, Meta(pattern=r"\A(?:interactions\.(?:ndjson|csv)|part-[0-9]{6,18}\.parquet)\Z")
]
Count: TypeAlias = Annotated[int, Meta(ge=0)]


class Part(Struct, frozen=True):
    """One committed file: how many of its bytes count, and their CRC-32."""

    name: PartName
    rows: Count = 0
    bytes: Count = 0
    crc32: Count = 0


class SinkState(Struct, frozen=True, kw_only=True, tag_field="kind", tag="truto-sink-1"):
    """What is committed, as stored in a checkpoint. ``next`` is the number of the next part."""

    format: str
    parts: tuple[Part, ...] = ()
    next: Count = 1

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


class ManifestPart(Struct):
    name: PartName
    rows: Count
    bytes: Count
    crc32: str  # eight hex digits, as tools print them


class Manifest(Struct, kw_only=True, tag_field="kind", tag="truto-manifest-1"):
    """The content of ``manifest.json``."""

    format: str
    rows: Count = 0
    bytes: Count = 0
    columns: tuple[str, ...] = ()
    parts: tuple[ManifestPart, ...] = ()


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a folder, None if it has none.

    :raises ValueError: the file was not written by ``write_manifest``.
    """
    path = directory / MANIFEST
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise ValueError("it is not a file")
        if found.st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"it has {found.st_size:,} bytes")
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def write_manifest(disk: Disk, directory: Path, state: SinkState, columns: tuple[str, ...]) -> None:
    """Replace the manifest of a folder, atomically and durably."""
    manifest = Manifest(
        format=state.format,
        rows=state.rows,
        bytes=sum(part.bytes for part in state.parts),
        columns=columns,
        parts=tuple(
            ManifestPart(part.name, part.rows, part.bytes, f"{part.crc32:08x}") for part in state.parts
        ),
    )
    disk.step("manifest")
    temporary = directory / f".{MANIFEST}.tmp"
    disk.remove(temporary)
    file = disk.create(temporary)
    try:
        disk.write(file, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        disk.fsync(file)
    finally:
        disk.close(file)
    disk.rename(temporary, directory / MANIFEST)
    disk.fsync_dir(directory)

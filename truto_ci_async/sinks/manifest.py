"""What is committed of a folder's files, as a checkpoint keeps it and as readers find it."""

from __future__ import annotations

from msgspec import Struct

MANIFEST = "manifest.json"


class Part(Struct, frozen=True):
    """One committed file: as many bytes of it as count, and their CRC-32."""

    name: str
    rows: int = 0
    bytes: int = 0
    crc32: int = 0


class SinkState(Struct, frozen=True, kw_only=True, tag_field="kind", tag="truto-sink-1"):
    """What is committed. ``next`` is the number of the next part."""

    format: str
    parts: tuple[Part, ...] = ()
    next: int = 1

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


class ManifestPart(Struct):
    name: str
    rows: int
    bytes: int
    crc32: str  # eight hex digits, as tools print them


class Manifest(Struct, kw_only=True, tag_field="kind", tag="truto-manifest-1"):
    """``manifest.json``: what is committed, for whoever reads the output."""

    format: str
    rows: int = 0
    bytes: int = 0
    columns: tuple[str, ...] = ()
    parts: tuple[ManifestPart, ...] = ()

"""What is committed in a folder: the state a checkpoint stores, and ``manifest.json`` for readers of the output.

The state names each committed file. It is stored with every commit, so it does not grow with a pull of many parts:
once it names ``MAX_PARTS`` of them, they are moved to the end of a file of their own, the log, and the state has only
the length and the checksum of that. What is in the log after this length was never committed.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from truto_ci_async._files import Disk

MANIFEST = "manifest.json"
PARTS_LOG = "_parts.log"
# Parts named in the state at most.
MAX_PARTS = 64
# Bytes in which the log is read and the manifest is written at a time.
PIECE_BYTES = 2**16
# The manifest of a million parts is half as large.
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
    """What is committed, as stored in a checkpoint. ``next`` is the number of the next part.

    ``columns`` is the version of the columns that a pull puts before the others: parts of one folder have the same.
    """

    format: str
    parts: tuple[Part, ...] = ()
    next: Count = 1
    columns: Count = 1

    @property
    def logged(self) -> Logged:
        """The part of it that is in the log."""
        return _NOTHING_LOGGED

    @property
    def rows(self) -> int:
        return self.logged.rows + sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return self.logged.bytes + sum(part.bytes for part in self.parts)

    @property
    def count(self) -> int:
        """The number of parts."""
        return self.logged.count + len(self.parts)


class Logged(Struct, frozen=True, kw_only=True):
    """Parts in the log: how many, with how many rows and bytes; and the length of the log and its CRC-32."""

    count: Count = 0
    rows: Count = 0
    bytes: Count = 0
    length: Count = 0
    crc32: Count = 0


_NOTHING_LOGGED = Logged()


class LoggedState(SinkState, frozen=True, kw_only=True, tag="truto-parts-1"):
    """The state of many parts, of which ``parts`` are the last. Versions without the log refuse it."""

    log: Logged

    @property
    def logged(self) -> Logged:
        return self.log


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


def move_to_log(disk: Disk, directory: Path, state: SinkState) -> SinkState:
    """Append the parts of a state to the log, durably, and return the state without them."""
    logged = state.logged
    data = b"".join(msgspec.json.encode(part) + b"\n" for part in state.parts)
    file = disk.open(directory / PARTS_LOG)
    try:
        disk.write(file, data)
        disk.fsync(file)
    finally:
        disk.close(file)
    if not logged.length:
        disk.fsync_dir(directory)
    log = Logged(
        count=state.count,
        rows=state.rows,
        bytes=state.bytes,
        length=logged.length + len(data),
        crc32=zlib.crc32(data, logged.crc32),
    )
    return LoggedState(format=state.format, next=state.next, columns=state.columns, log=log)


def cut_log(disk: Disk, directory: Path, state: SinkState) -> None:
    """Truncate the log to what was committed."""
    file = disk.open(directory / PARTS_LOG)
    try:
        disk.cut(file, state.logged.length)
    finally:
        disk.close(file)


def read_parts(directory: Path, state: SinkState) -> Iterator[list[Part]]:
    """Generate all parts of a state, some at a time.

    :raises ValueError: the log is not what was committed.
    """
    left, crc32 = state.logged.length, 0
    if left:
        with (directory / PARTS_LOG).open("rb") as file:
            while left and (lines := file.readlines(min(left, PIECE_BYTES))):
                data = b"".join(lines)[:left]
                left, crc32 = left - len(data), zlib.crc32(data, crc32)
                try:
                    yield _read_lines(data)
                except msgspec.DecodeError as error:
                    raise ValueError(str(error)) from error
        if left or crc32 != state.logged.crc32:
            raise ValueError("its checksum differs")
    yield list(state.parts)


_read_lines = msgspec.json.Decoder(Part).decode_lines


def write_manifest(disk: Disk, directory: Path, state: SinkState, columns: tuple[str, ...]) -> None:
    """Replace the manifest of a folder, atomically and durably.

    :raises ValueError: the log is not what was committed.
    """
    disk.step("manifest")
    temporary = directory / f".{MANIFEST}.tmp"
    disk.remove(temporary)
    file = disk.create(temporary)
    try:
        for piece in _manifest(directory, state, columns):
            disk.write(file, piece)
        disk.fsync(file)
    finally:
        disk.close(file)
    disk.rename(temporary, directory / MANIFEST)
    disk.fsync_dir(directory)


def _manifest(directory: Path, state: SinkState, columns: tuple[str, ...]) -> Iterator[bytes]:
    """Generate the text of a manifest, in pieces: there may be very many parts."""
    manifest = Manifest(format=state.format, rows=state.rows, bytes=state.bytes, columns=columns)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    text, end = text.removesuffix(b"]\n}"), b"]\n}\n"
    separator = b"\n  "
    for parts in read_parts(directory, state):
        for part in parts:
            listed = ManifestPart(part.name, part.rows, part.bytes, f"{part.crc32:08x}")
            text += separator + msgspec.json.encode(listed)
            separator, end = b",\n  ", b"\n ]\n}\n"
        if len(text) >= PIECE_BYTES:
            yield text
            text = b""
    yield text + end

"""What is committed in a folder: the state a checkpoint stores, and ``manifest.json`` for readers of the output.

The state names each committed file. It is stored with every commit, so it does not grow with a pull of many parts:
once it names ``MAX_PARTS`` of them, they are moved to the end of a file of their own, the log, and the state has only
the length and the checksum of that. What is in the log after this length was never committed.

The manifest has an entry for each resource of the folder. A sink replaces its own and keeps the others as they are.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from truto_ci_async._files import Disk
from truto_ci_async.export.column_values import fixed_schema
from truto_ci_async.export.schema import ColumnType
from truto_ci_async.models import Interaction
from truto_ci_async.models.row_views import PULL_SCHEMA_2

from .layout import MANIFEST

# Parts named in the state at most.
MAX_PARTS = 64
# Bytes in which the log is read and the manifest is written at a time.
PIECE_BYTES = 2**16
# The manifest of a million parts is half as large.
MAX_MANIFEST_BYTES = 2**28


# Names and counts that were altered are refused when they are read: a part is a file in its folder, and nothing else.
PartName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"\A(?:shard-[0-9]{5,7}-of-[0-9]{5,7}/)?"
        r"(?:[a-z_]{1,64}\.(?:ndjson|csv)|(?:[a-z_]{1,64}/)?part-[0-9]{6,18}\.parquet)\Z"
    ),
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

    ``id`` is that of the output: once it is in the manifest as well, others may not write to the folder.
    ``columns`` is the version of the columns that a pull puts before the others: all rows of a resource have the same.
    ``escapes``: cells that a spreadsheet would take for formulas are escaped.
    """

    format: str
    parts: tuple[Part, ...] = ()
    next: Count = 1
    columns: Count = 1
    escapes: bool = False
    id: str = ""

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


# --- the log of parts --------------------------------------------------------------------------------------------


def move_to_log(disk: Disk, path: Path, state: SinkState) -> SinkState:
    """Append the parts of a state to the log, durably, and return the state without them."""
    logged = state.logged
    data = b"".join(msgspec.json.encode(part) + b"\n" for part in state.parts)
    file = disk.open(path)
    try:
        disk.write(file, data)
        disk.fsync(file)
    finally:
        disk.close(file)
    if not logged.length:
        disk.fsync_dir(path.parent)
    log = Logged(
        count=state.count,
        rows=state.rows,
        bytes=state.bytes,
        length=logged.length + len(data),
        crc32=zlib.crc32(data, logged.crc32),
    )
    return LoggedState(format=state.format, id=state.id, next=state.next, columns=state.columns, log=log)


def cut_log(disk: Disk, path: Path, state: SinkState) -> None:
    """Truncate the log to what was committed."""
    file = disk.open(path)
    try:
        disk.cut(file, state.logged.length)
    finally:
        disk.close(file)


def read_parts(log: Path, state: SinkState) -> Iterator[list[Part]]:
    """Generate all parts of a state, some at a time.

    :raises ValueError: the log is not what was committed.
    """
    left, crc32 = state.logged.length, 0
    if left:
        with log.open("rb") as file:
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


# --- the manifest ------------------------------------------------------------------------------------------------


class ManifestPart(Struct, frozen=True):
    name: PartName
    rows: Count
    bytes: Count
    crc32: str  # eight hex digits, as tools print them


class EntryHead(Struct, kw_only=True, omit_defaults=True):
    """What the manifest says of a resource, without the list of its parts.

    ``complete``: the pull ended with every account done. ``columns`` has the type of each, as in ``export.schema``;
    rows of NDJSON are objects as they were received, from which these columns are taken. ``id`` is that of the state,
    once a checkpoint has it.
    """

    format: str
    rows: Count
    bytes: Count
    complete: bool
    columns: dict[str, ColumnType]
    csv_formulas: str = "keep"
    id: str = ""


class Entry(EntryHead, kw_only=True, omit_defaults=True):
    parts: tuple[ManifestPart, ...]


class _Manifest(Struct, kw_only=True, tag_field="kind", tag="truto-manifest-2"):
    """The content of ``manifest.json``."""

    resources: dict[str, Raw]


class _Manifest1(Struct, kw_only=True, tag_field="kind", tag="truto-manifest-1"):
    """The manifest of earlier versions: a folder had interactions only, and types were not told."""

    format: str
    rows: Count
    bytes: Count
    parts: tuple[ManifestPart, ...] = ()


def read_manifest(directory: Path) -> dict[str, Raw] | None:
    """Return the entry of each resource of a folder as JSON, None if it has no manifest.

    :raises ValueError: the file was not written by ``write_manifest``.
    """
    path = directory / MANIFEST
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise ValueError("it is not a file")
        if found.st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"it has {found.st_size:,} bytes")
        manifest = msgspec.json.decode(path.read_bytes(), type=_Manifest | _Manifest1)
    except FileNotFoundError:
        return None
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    return manifest.resources if isinstance(manifest, _Manifest) else {"interactions": _upgrade(manifest)}


read_head = msgspec.json.Decoder(EntryHead).decode
read_entry = msgspec.json.Decoder(Entry).decode


def _upgrade(manifest: _Manifest1) -> Raw:
    """Return what the manifest of an earlier version says, as it is said now."""
    entry = Entry(
        format=manifest.format,
        rows=manifest.rows,
        bytes=manifest.bytes,
        complete=False,
        columns=fixed_schema(Interaction, PULL_SCHEMA_2).types,
        parts=manifest.parts,
    )
    return Raw(msgspec.json.encode(entry))


class NewEntry(NamedTuple):
    """What the manifest is to say of a resource."""

    resource: str
    state: SinkState
    log: Path
    columns: dict[str, ColumnType]
    is_complete: bool

    def texts(self) -> Iterator[bytes]:
        """Generate it as JSON, in pieces: there may be very many parts."""
        entry = Entry(
            format=self.state.format,
            rows=self.state.rows,
            bytes=self.state.bytes,
            complete=self.is_complete,
            columns=self.columns,
            csv_formulas="escape" if self.state.escapes else "keep",
            id=self.state.id,
            parts=(),
        )
        text = _indented(entry).replace(b"\n", b"\n  ")
        text, end = text.removesuffix(b"]\n  }"), b"]\n  }"
        separator = b"\n    "
        for parts in read_parts(self.log, self.state):
            for part in parts:
                listed = ManifestPart(part.name, part.rows, part.bytes, f"{part.crc32:08x}")
                text += separator + msgspec.json.encode(listed)
                separator, end = b",\n    ", b"\n   ]\n  }"
            if len(text) >= PIECE_BYTES:
                yield text
                text = b""
        yield text + end


def write_manifest(disk: Disk, directory: Path, entry: NewEntry, others: Mapping[str, Raw]) -> None:
    """Replace the manifest of a folder, atomically and durably. ``others`` are the entries beside the new one.

    :raises ValueError: the log is not what was committed.
    """
    disk.step("manifest")
    temporary = directory / f".{MANIFEST}.tmp"
    disk.remove(temporary)
    file = disk.create(temporary)
    try:
        for piece in _manifest(entry, others):
            disk.write(file, piece)
        disk.fsync(file)
    finally:
        disk.close(file)
    disk.rename(temporary, directory / MANIFEST)
    disk.fsync_dir(directory)


def _manifest(entry: NewEntry, others: Mapping[str, Raw]) -> Iterator[bytes]:
    is_complete = entry.is_complete and all(read_head(each).complete for each in others.values())
    head = _indented({"kind": "truto-manifest-2", "complete": is_complete, "resources": {}})
    text, separator = head.removesuffix(b"}\n}"), b"\n  "
    for name, other in others.items():
        text += separator + msgspec.json.encode(name) + b": " + bytes(other)
        separator = b",\n  "
    yield text + separator + msgspec.json.encode(entry.resource) + b": "
    yield from entry.texts()
    yield b"\n }\n}\n"


def _indented(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1)

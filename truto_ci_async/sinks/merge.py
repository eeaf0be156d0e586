"""One manifest for a folder that a plan was pulled into in shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from truto_ci_async._files import AtomicFile, storage_error
from truto_ci_async.errors import DamagedStateError, StateConflictError, UsageError

from .layout import MANIFEST, parse_shard_folder, shard_folder
from .manifest import Entry, read_entry, read_manifest


def merge_manifests(out: str | os.PathLike[str]) -> bool:
    """Write the manifest of a folder that a plan was pulled into in shards: it names the committed files of all.

        complete = merge_manifests("data/")
        rows = read_folder("data/")

    Returns whether all shards are complete. Call it at any time, and again after more was pulled; it moves and reads no
    rows.

    :raises UsageError: the folder has no shards.
    :raises StateConflictError: the shards of one resource differ in format, columns or number.
    :raises DamagedStateError: a manifest cannot be read.
    :raises StorageError: the folder cannot be written.
    """
    folder = Path(out).absolute()
    try:
        shards = sorted(filter(None, (parse_shard_folder(path.name) for path in folder.iterdir())))
        found: dict[str, dict[tuple[int, int], Entry]] = {}
        for shard in shards:
            for resource, entry in _read(folder / shard_folder(*shard)).items():
                found.setdefault(resource, {})[shard] = entry
        if not found:
            raise UsageError(f"{folder} has no shards: pass the folder that pull_plan was given")
        merged = {resource: _merge(folder, resource, entries) for resource, entries in found.items()}
        others = {name: each for name, each in _read(folder).items() if name not in merged}
        is_complete = all(entry.complete for entry in (others | merged).values())
        _publish(folder / MANIFEST, others | merged, is_complete=is_complete)
    except OSError as error:
        raise storage_error(error, folder, "merge") from error
    return all(entry.complete for entry in merged.values())


def _read(folder: Path) -> dict[str, Entry]:
    try:
        return {name: read_entry(text) for name, text in (read_manifest(folder) or {}).items()}
    except ValueError as error:
        manifest = folder / MANIFEST
        raise DamagedStateError(f"{manifest} cannot be read: {error}", path=str(manifest)) from error


def _merge(folder: Path, resource: str, entries: dict[tuple[int, int], Entry]) -> Entry:
    first = next(iter(entries.values()))
    counts = {count for _, count in entries}
    kinds: Any = {(each.format, tuple(each.columns.items()), each.csv_formulas) for each in entries.values()}
    if len(counts) > 1 or len(kinds) > 1:
        raise StateConflictError(
            f"the shards of {resource} in {folder} are not those of one plan: they differ in "
            f"{'number' if len(counts) > 1 else 'format or columns'}",
            path=str(folder),
        )
    return replace(
        first,
        id="",  # of one shard
        rows=sum(each.rows for each in entries.values()),
        bytes=sum(each.bytes for each in entries.values()),
        complete=len(entries) == max(counts) and all(each.complete for each in entries.values()),
        parts=tuple(
            replace(part, name=f"{shard_folder(*shard)}/{part.name}")
            for shard, each in entries.items()
            for part in each.parts
        ),
    )


def _publish(path: Path, entries: dict[str, Entry], *, is_complete: bool) -> None:
    content = {"kind": "truto-manifest-2", "complete": is_complete, "resources": entries}
    file = AtomicFile(path)
    try:
        file.open()
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
        file.sync()
        file.publish()
    finally:
        file.discard()

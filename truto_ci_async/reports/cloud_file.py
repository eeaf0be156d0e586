"""Reads what a pull has committed to object storage: the parts that the manifest names, and no others."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from truto_ci_async.errors import DamagedStateError, UsageError
from truto_ci_async.pull.stores.cloud_state import Manifest, Names, read_manifest, read_parts
from truto_ci_async.pull.stores.object_storage import Bucket
from truto_ci_async.sinks.manifest import Entry, ManifestPart

from .committed_file import check_rows

# How often the manifest is read while a run replaces it.
ATTEMPTS: Final = 5


class CloudFile(NamedTuple):
    """A committed part: all of it counts. It may not be in the folder of its resource yet."""

    bucket: Bucket
    name: str
    rows: int
    size: int
    crc32: str

    @property
    def path(self) -> str:
        return f"{self.bucket}/{self.name}"

    def checked(self) -> Any:
        """Return the part as a file in memory.

        :raises ValueError: it is missing, or is not what was committed.
        """
        names = Names(self.name.partition("/")[0])
        # In the order in which a run moves it. It may be published after the first reading, so that is repeated.
        places = self.name, names.staged(self.name), self.name, names.replaced(self.name)
        data = next((data for place in places if (data := self.bucket.read(place)) is not None), None)
        if data is None:
            raise ValueError("it is missing")
        if len(data) != self.size:
            raise ValueError(f"it has {len(data):,} bytes instead of {self.size:,}")
        if f"{zlib.crc32(data):08x}" != self.crc32:
            raise ValueError("its checksum differs")
        return io.BytesIO(data)

    def check_rows(self, found: int) -> None:
        """:raises DamagedStateError: the file has another number of rows."""
        check_rows(self.path, self.rows, found)


def open_bucket(url: str, storage_options: Mapping[str, Any] | None) -> Bucket:
    """Return the objects under a URL.

    :raises UsageError: it is none of a bucket.
    """
    return Bucket(url, None, "", storage_options or {})


def read_cloud_entry(bucket: Bucket, resource: str) -> Entry:
    """Return what is committed of a resource, as the manifest of a folder says it.

    :raises UsageError: nothing is.
    :raises DamagedStateError: the manifest cannot be read.
    """
    names = Names(resource)
    for attempt in range(ATTEMPTS):
        data = bucket.read(names.manifest)
        try:
            return _read_entry(bucket, resource, data)
        except DamagedStateError:
            # A sync may have replaced the list of parts meanwhile.
            if attempt + 1 == ATTEMPTS or data == bucket.read(names.manifest):
                raise
    raise AssertionError


def _read_entry(bucket: Bucket, resource: str, data: bytes | None) -> Entry:
    names = Names(resource)
    if data is None:
        raise UsageError(f"{bucket} has no {resource!r} of a pull: pass the URL that a pull wrote to")
    try:
        manifest = read_manifest(data)
        parts = [
            part for named in manifest.lists for part in read_parts(named, bucket.read(named.name) or b"")
        ]
    except (ValueError, msgspec.MsgspecError, zlib.error) as error:
        path = f"{bucket}/{names.manifest}"
        raise DamagedStateError(f"{path} was not written by a pull: {error}", path=path) from error
    return _entry(manifest, [*parts, *manifest.parts])


def _entry(manifest: Manifest, parts: list[Any]) -> Entry:
    return Entry(
        format="parquet",
        rows=manifest.rows,
        bytes=manifest.bytes,
        complete=manifest.complete,
        columns=manifest.columns,
        parts=tuple(ManifestPart(part.name, part.rows, part.bytes, f"{part.crc32:08x}") for part in parts),
    )

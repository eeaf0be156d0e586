"""The parts of a resource in a bucket: uploaded, brought to where readers look for them, and taken away from there.

A part that a commit names is copied to the folder of its resource, after the parts it replaces were taken away from
there. What a killed run has not done, ``tidy_up`` does. Pages of a sync whose windows are open are objects as well.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Collection, Container, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from math import ceil
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from truto_ci_async._files import Step
from truto_ci_async.errors import DamagedStateError, StorageError
from truto_ci_async.export.schema import Schema
from truto_ci_async.sinks.parquet import GROUP_ROWS, parquet_writer

from .cloud_replacing import Contents
from .cloud_state import CloudPart, Names, read_manifest
from .object_storage import Bucket

logger = logging.getLogger("truto_ci_async")

# A part is closed once its file has this many bytes: so much is held in memory twice, building and uploading.
FILE_BYTES: Final = 32 * 2**20
# Objects removed in one request at most.
DELETED: Final = 500


class Encoded(NamedTuple):
    """A part, as the bytes of a Parquet file. ``contents`` is for syncs."""

    data: memoryview
    rows: int
    crc32: int
    contents: Contents | None = None

    def part(self, name: str) -> CloudPart:
        part = CloudPart(name, self.rows, self.data.nbytes, self.crc32)
        if self.contents is None:
            return part
        start, end = self.contents.span()
        return replace(part, start=start, end=end, accounts=self.contents.accounts())


class PartFile:
    """A Parquet file in memory. ``contents`` collects what it holds, for syncs."""

    def __init__(self, schema: Any, columns: Schema, contents: Contents | None = None) -> None:
        self._target: Any = import_module("pyarrow").BufferOutputStream()
        self._writer = parquet_writer(self._target, schema, columns)
        self._contents = contents
        self.rows = self.size = 0

    def write(self, batch: Any) -> None:
        if batch.num_rows:
            groups = max(batch.num_rows // GROUP_ROWS, 1)
            self._writer.write_batch(batch, row_group_size=ceil(batch.num_rows / groups))
            self.rows += batch.num_rows
            self.size = self._target.tell()
            if self._contents is not None:
                self._contents.add(batch)

    def close(self) -> Encoded:
        self._writer.close()
        data = memoryview(self._target.getvalue()).cast("B")
        return Encoded(data, self.rows, zlib.crc32(data), self._contents)


class CloudParts:
    """What one run does with the parts of a resource. ``epoch`` is that of the run."""

    def __init__(self, bucket: Bucket, names: Names, step: Step) -> None:
        self.epoch = 0
        self.unpublished: list[CloudPart] = []
        self.replaced: list[CloudPart] = []  # by parts that are committed, but still where readers look
        self._bucket = bucket
        self._names = names
        self._step = step
        self._numbers = 0

    def number(self) -> int:
        """Return a number that no other object of this epoch has."""
        self._numbers += 1
        return self._numbers

    async def upload(self, encoded: Encoded) -> CloudPart:
        part = encoded.part(self._names.part(self.epoch, self.number()))
        self._step("upload")
        await self._bucket.put(self._names.staged(part.name), encoded.data)
        if encoded.contents is not None and (keys := encoded.contents.keys()) is not None:
            await self._bucket.put(self._names.keys(part.name), zlib.compress(keys, 1))
        return part

    def committed(self, parts: Sequence[CloudPart], replaced: Collection[CloudPart]) -> None:
        """Note what ``publish`` is to do."""
        self.replaced += [part for part in replaced if part not in self.unpublished]
        self.unpublished = [part for part in [*self.unpublished, *parts] if part not in replaced]

    async def publish(self) -> None:
        """Bring committed parts to where readers look for them, after those they replace are gone from there.

        What fails is done later.
        """
        try:
            while self.replaced:
                await self._take_away(self.replaced[0])
                del self.replaced[0]
            while self.unpublished:
                await self._publish_part(self.unpublished[0])
                del self.unpublished[0]
        except StorageError as error:
            logger.warning("%s; this is repeated later", error)

    async def _take_away(self, part: CloudPart) -> None:
        """Take a part from where readers look. Those who have the manifest before it still find it."""
        self._step("replace")
        await self._bucket.copy(part.name, self._names.replaced(part.name))
        await self._bucket.delete([part.name, self._names.keys(part.name)])

    async def _publish_part(self, part: CloudPart) -> None:
        staged = self._names.staged(part.name)
        self._step("publish")
        is_copied = await self._bucket.copy(staged, part.name)
        if not is_copied and await self._bucket.size(part.name) != part.bytes:
            # Another run may have copied it, or begun anew.
            if not await self._is_behind():
                raise damaged(self._bucket, f"{part.name} is missing")
            return
        self._step("unstage")
        await self._bucket.delete([staged])

    async def _is_behind(self) -> bool:
        """Whether a later run has begun."""
        found = await self._bucket.get(self._names.manifest)
        try:
            return found is not None and read_manifest(found.data).epoch != self.epoch
        except ValueError:
            return False

    async def tidy_up(self, named: set[str], parts: Sequence[CloudPart]) -> None:
        """Copy parts that were committed by a killed run, and remove what no manifest names any more.

        What is not committed goes first: an earlier run that is still going on then has nothing to copy. What a later
        run has written meanwhile stays.
        """
        by_name = {part.name: part for part in parts}
        staged = set(map(self._names.staged, by_name))
        state = [name async for name, _ in self._bucket.list(self._names.state)]
        await self._remove_older(state, named | staged | set(map(self._names.keys, by_name)))
        found = {name: size async for name, size in self._bucket.list(self._names.parts)}
        await self._remove_older(found, by_name)  # before those that replace them are there
        for part in parts:
            if found.get(part.name) != part.bytes:
                await self._publish_part(part)
        await self._remove_older(staged.intersection(state), ())

    async def _remove_older(self, names: Iterable[str], kept: Container[str]) -> None:
        epochs = {name: self._names.epoch(name) for name in names if name not in kept}
        older = [name for name, epoch in epochs.items() if epoch is not None and epoch < self.epoch]
        for at in range(0, len(older), DELETED):
            await self._bucket.delete(older[at : at + DELETED])

    async def part(self, part: CloudPart) -> bytes:
        """:raises DamagedStateError: a part is missing."""
        for name in (part.name, self._names.staged(part.name)):
            if (found := await self._bucket.get(name)) is not None:
                return found.data
        raise damaged(self._bucket, f"{part.name} is missing")

    async def keys(self, part: CloudPart) -> bytes | None:
        """Return the hashes of the keys in a part, None if they are not stored."""
        found = await self._bucket.get(self._names.keys(part.name))
        return None if found is None else _inflate(self._bucket, found.data)

    async def keep(self, page: bytes) -> str:
        """Keep a page until its window is over, and return its name. It is none of what is committed."""
        name = self._names.object("page", self.epoch, self.number())
        self._step("staged")
        await self._bucket.put(name, zlib.compress(page, 1))
        return name

    async def kept(self, name: str) -> bytes:
        found = await self._bucket.get(name)
        if found is None:
            raise damaged(self._bucket, f"{name} is missing")
        return _inflate(self._bucket, found.data)

    async def forget(self, names: Sequence[str]) -> None:
        with suppress(StorageError):  # the next run removes them
            await self._bucket.delete(names)


def damaged(bucket: Bucket, what: str) -> DamagedStateError:
    """Return the error for a state that cannot be read."""
    return DamagedStateError(
        f"the state of the pull into {bucket} cannot be read: {what}. Restore a copy, or start over with fresh=True",
        path=str(bucket),
    )


def _inflate(bucket: Bucket, data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error as error:
        raise damaged(bucket, str(error)) from error

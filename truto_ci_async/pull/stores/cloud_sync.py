"""Commits of a sync into object storage: rows take the place of those of windows that were read.

A part is never changed. A commit that replaces rows reads the parts that may have some, writes the other rows of these
to new parts, and names the new parts instead of the old ones in the same manifest. Pages of windows that are still open
are kept in objects of their own, which only this run knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from truto_ci_async._files import Worker
from truto_ci_async.export.arrow import pyarrow_library, record_batch
from truto_ci_async.export.column_values import ColumnData, Part, Parts, fixed_columns
from truto_ci_async.export.schema import Schema
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.models.row_views import PULL_SCHEMA
from truto_ci_async.pull.checkpoint.base import Progress
from truto_ci_async.sinks.parquet import GROUP_ROWS

from .base import SyncChanges
from .cloud_log import CloudLog
from .cloud_parts import FILE_BYTES, Encoded, PartFile
from .cloud_replacing import Contents, Replacing, checked_table
from .cloud_state import Changes, CloudPart
from .staging import Staging, SyncStep, WalkedPages
from .tables import MERGE_KEYS


class CloudSync:
    """One run of a sync. ``pages`` are those that wait for a commit."""

    def __init__(self, log: CloudLog, worker: Worker, schema: Schema, arrow_schema: Any) -> None:
        self.pages = WalkedPages()
        self._log = log
        self._worker = worker
        self._schema = schema
        self._arrow_schema = arrow_schema
        self._resource = schema.name
        self._staging = Staging(schema, ITEM_TYPES[schema.name])
        self._kept: dict[str, list[str]] = {}  # by account, names of objects

    def begin_commit(self, sync: SyncChanges, *, final: bool) -> Awaitable[bool]:
        """Begin a commit of what was written so far. Pages may be written while the result is awaited."""
        taken, self.pages = self.pages, WalkedPages()
        return self._commit(taken, sync, final=final)

    async def _commit(self, taken: WalkedPages, sync: SyncChanges, *, final: bool) -> bool:
        files = self._log.files
        landing, step = await self._worker.run(self._staging.split, taken, sync)
        names = [name for account in step.fetched for name in self._kept.get(account, ())]
        kept = [await files.kept(name) for name in names]
        data = await self._worker.run(self._rows, landing, kept)
        writer = _Writer(self._schema, self._arrow_schema)
        new_parts: list[CloudPart] = []
        replaced = await self._replace(step, data, writer, new_parts) if step.windows else []
        leaves_columns = final and len(await self._log.parts()) == len(replaced)
        await self._worker.run(writer.finish, data, leaves_columns)
        await self._upload(writer, new_parts)
        new = [(account, await files.keep(page)) for account, page in step.kept]
        marks = {(account, 0): Progress(position=mark) for account, mark in step.marks}
        await self._log.commit(new_parts, Changes.of(marks, {}), final=final, replaced=replaced)
        self._staging.committed()
        await files.forget([name for account in step.forgotten for name in self._kept.pop(account, ())])
        for account, name in new:
            self._kept.setdefault(account, []).append(name)
        return True

    async def _replace(
        self, step: SyncStep, data: ColumnData, writer: _Writer, new_parts: list[CloudPart]
    ) -> list[CloudPart]:
        """Return the parts that have rows to replace, whose other rows ``writer`` has taken."""
        replacing = await self._worker.run(Replacing, self._resource, step.windows, data)
        found: list[CloudPart] = []
        for part in await self._log.parts():
            if await self._may_have_some(part, replacing):
                body = await self._log.files.part(part)
                if await self._worker.run(writer.take_rest, part, body, replacing):
                    found.append(part)
                await self._upload(writer, new_parts)
        return found

    async def _upload(self, writer: _Writer, new_parts: list[CloudPart]) -> None:
        """Upload what is ready, so that it is not held in memory."""
        while writer.done:
            new_parts.append(await self._log.files.upload(writer.done.pop(0)))

    async def _may_have_some(self, part: CloudPart, replacing: Replacing) -> bool:
        wanted = replacing.wanted(part)
        if wanted is None or wanted.by_window:
            return wanted is not None
        keys = await self._log.files.keys(part)
        return keys is None or replacing.has_key(keys)

    def _rows(self, landing: list[Part], kept: Sequence[bytes]) -> ColumnData:
        """Return the new rows; of those with the same key, the last."""
        parts = Parts(landing, ITEM_TYPES[self._resource], PULL_SCHEMA)
        data = self._staging.join(kept, fixed_columns(self._schema, parts))
        last = MERGE_KEYS[self._resource].last_ones(self._schema.names, data.values)
        if last is None:
            return data
        return ColumnData(self._schema, [[column[at] for at in last] for column in data.values], len(last))


class _Writer:
    """Makes the parts of one commit, in the worker's thread. ``done`` are those to upload."""

    def __init__(self, schema: Schema, arrow_schema: Any) -> None:
        self._schema = schema
        self._arrow_schema = arrow_schema
        self._file: PartFile | None = None
        self.done: list[Encoded] = []
        self._is_empty = True

    def take_rest(self, part: CloudPart, data: bytes, replacing: Replacing) -> bool:
        """Take the rows of a part that stay. Return whether there are others."""
        table = checked_table(part, data, self._arrow_schema)
        staying = replacing.staying(table)
        if all(staying):
            return False
        library = pyarrow_library()
        rest = table.filter(library.array(staying, type=library.types["bool"])).combine_chunks()
        for batch in rest.to_batches(max_chunksize=GROUP_ROWS):
            self._write(batch)
        return True

    def finish(self, data: ColumnData, leaves_columns: bool) -> None:
        """Take the new rows into parts of their own, which the next sync may replace."""
        self._end()
        if data.num_rows or (leaves_columns and self._is_empty):
            self._write(record_batch(data, pyarrow_library(), self._arrow_schema))
            self._end()

    def _write(self, batch: Any) -> None:
        if self._file is None:
            self._file = PartFile(self._arrow_schema, self._schema, Contents(self._schema.name))
        self._file.write(batch)
        if self._file.size >= FILE_BYTES:
            self._end()

    def _end(self) -> None:
        if self._file is not None:
            self.done.append(self._file.close())
            self._file, self._is_empty = None, False

"""Lands pulls as Parquet in object storage: parts, and a manifest with the progress, which is replaced in one put.

How it works. A commit uploads its part under ``_truto/``, where no reader of the folder sees it. Then it replaces the
manifest, on the condition that nobody else did: that is the commit. Then the part is copied to the folder of the
resource. If a run is killed before that, the next one copies it: the manifest is a redo log. So a reader of the folder
never sees a row that is not committed; it may see the last ones late.

A run begins with a new epoch in the manifest. From then on, an earlier run fails at its next commit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from math import inf
from time import monotonic
from typing import Any, ClassVar, Final

from truto_ci_async._checks import brief, is_number, is_whole_number
from truto_ci_async._files import Step, Worker, no_step
from truto_ci_async.errors import StateConflictError, StorageError, UsageError
from truto_ci_async.export.arrow import arrow_schema, pyarrow_library, record_batch
from truto_ci_async.export.column_values import Part, Parts, fixed_columns
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.models.row_views import PULL_COLUMNS, PULL_SCHEMA
from truto_ci_async.pull.checkpoint.base import AccountProgress, Key, Progress
from truto_ci_async.pull.plan.plan import Plan
from truto_ci_async.sinks.parquet import GROUP_BYTES, GROUP_ROWS, PART_BYTES, PART_ROWS, PART_SECONDS

from .base import SyncChanges
from .cloud_log import CloudLog
from .cloud_parts import FILE_BYTES, Encoded, PartFile
from .cloud_state import Changes
from .cloud_sync import CloudSync
from .landing import FULL_BYTES, item_bytes
from .object_storage import Bucket
from .tables import columns_of

# The same as PART_SECONDS in a sync, of which each commit may write rows of earlier ones again.
SYNC_SECONDS: Final = 60.0
# Seconds that each request may still take once somebody waits for the end.
HURRY_SECONDS: Final = 10.0


class CloudStore:
    """Writes the rows of a pull as Parquet to object storage: ``PREFIX/interactions/part-*.parquet``.

        store = CloudStore("s3://bucket/prefix", storage_options={"region": "eu-central-1"})
        report = await truto.interactions.pull_to(store, account_ids, start_time="-30d", window="day")

    ``url``              ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``
    ``store``            instead of it, a store of obstore, and the ``prefix`` to use in it
    ``storage_options``  what ``obstore.store.from_url`` takes, such as credentials, ``endpoint``,
                         ``client_options`` and ``retry_config``; what is not given, such as AWS_ACCESS_KEY_ID, comes
                         from the environment
    ``part_rows``        a part is closed, and thereby committed, after this many rows or ``part_seconds``; these are 10
                         seconds unless told, and in a sync 60

    A new run takes over from one that has not ended: that one gets a StateConflictError at its next commit.

    :raises MissingExtraError: obstore or pyarrow is not installed.
    """

    keeps_no_items: ClassVar[bool] = True

    def __init__(
        self,
        url: str | None = None,
        *,
        store: Any = None,
        prefix: str = "",
        resource: str = "interactions",
        storage_options: Mapping[str, Any] | None = None,
        part_rows: int = PART_ROWS,
        part_seconds: float | None = None,
        clock: Callable[[], float] = monotonic,
        step: Step = no_step,
    ) -> None:
        if (url is None) == (store is None):
            raise UsageError("pass the URL of a bucket, or store=... of obstore")
        if not (is_whole_number(part_rows, least=1) and _is_length(part_seconds)):
            raise UsageError(
                "part_rows must be a whole number of at least 1, and part_seconds 0 or more, "
                f"not {brief(part_rows)} and {brief(part_seconds)}"
            )
        self.resource = resource
        self.schema = columns_of(resource)
        self.item_type: Any = ITEM_TYPES[resource]
        self._arrow = pyarrow_library()
        self._arrow_schema = arrow_schema(self.schema, self._arrow, required=PULL_COLUMNS[:1])
        self._bucket = Bucket(url, store, prefix, storage_options or {})
        self._part_rows, self._part_seconds = part_rows, part_seconds
        self._clock, self._step = clock, step
        self._worker: Worker | None = None
        self._log: CloudLog | None = None
        self._is_open = False
        self._sync: CloudSync | None = None
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._file: PartFile | None = None
        self._buffer: list[Part] = []
        self._buffer_rows = self._buffer_bytes = 0
        self._new_rows = self._new_bytes = 0  # since the last commit
        self._since: float | None = None  # there is something to commit

    # --- life ------------------------------------------------------------------------------------------

    async def hold(self, *, fresh: bool = False) -> Plan | None:
        """Return the stored plan."""
        if self._worker is not None:
            raise StateConflictError(f"another pull of this process uses {self!r}", pid=os.getpid())
        self._bucket.hurry(inf)
        self._worker = Worker("truto-cloud")
        self._log = CloudLog(self._bucket, self.resource, self.schema.types, self._worker, self._step)
        try:
            return None if fresh else (await self._log.read(with_progress=False)).plan
        except BaseException:
            await self.aclose()
            raise

    async def open(self, plan: Plan | None = None, *, grow: bool = False, fresh: bool = False) -> Plan:
        """Begin an epoch, finish what a killed run committed, and return the plan in force.

        :raises StateConflictError: the prefix belongs to another plan.
        :raises StorageError: the bucket cannot be read or written, or ignores the conditions of puts.
        """
        if plan is not None and plan.resource != self.resource:
            raise UsageError(
                f"this is a plan of {plan.resource}, and the store takes {self.resource}: make it with resource=..."
            )
        if self._log is None:
            await self.hold(fresh=fresh)
        assert self._log is not None
        try:
            in_force = await self._log.begin(plan, grow=grow, fresh=fresh)
        except BaseException:
            await self.aclose()
            raise
        self._forget_rows()
        self._is_open = True
        return in_force

    async def open_sync(self, plan: Plan, accounts: Sequence[str], *, fresh: bool) -> dict[str, str]:
        """Begin an epoch of a sync, and return the marks of some accounts: see ``SyncStore``."""
        await self.open(plan, fresh=fresh)
        stored = await self._required_log().progress.load()
        self._sync = CloudSync(self._required_log(), self._required_worker(), self.schema, self._arrow_schema)
        marks = {account: progress.position for (account, _), progress in stored.items()}
        return {account: mark for account in accounts if (mark := marks.get(account)) is not None}

    async def load(self) -> dict[Key, Progress]:
        """Return all progress."""
        return await self._required_log().progress.load()

    def load_accounts(self) -> AsyncIterator[tuple[str, AccountProgress]]:
        """Iterate over the progress of each account."""
        return self._required_log().progress.load_accounts()

    async def row_fingerprints(self, key: Key) -> bytes:
        """Return the fingerprints stored for a walk, in the order of their commits."""
        return await self._required_log().progress.row_keys(key)

    def hurry(self) -> None:
        """Wait no longer than some seconds for each answer from now on."""
        self._bucket.hurry(HURRY_SECONDS)

    async def aclose(self) -> None:
        """End the run. May be called twice.

        :raises StorageError: parts are committed, but not in the folder of the resource yet.
        """
        log, self._log = self._log, None
        worker, self._worker = self._worker, None
        self._is_open, self._sync = False, None
        if worker is None or log is None:
            return
        await worker.run(self._forget_rows)
        worker.close()
        await log.files.publish()
        if late := log.files.replaced or log.files.unpublished:
            raise StorageError(
                f"{len(late)} parts are committed, but could not be copied to the folder of "
                f"{self.resource} in {self._bucket}: the next run does it",
                path=str(self._bucket),
            )

    def __repr__(self) -> str:
        return f"CloudStore({str(self._bucket)!r}, resource={self.resource!r})"

    def _required_log(self) -> CloudLog:
        if self._log is None or not self._is_open:
            raise UsageError(f"{self!r} is not open")
        return self._log

    def _required_worker(self) -> Worker:
        assert self._worker is not None
        return self._worker

    # --- rows ------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether no page should be written before the next commit."""
        size = 0 if self._file is None else self._file.size
        if self._sync is not None and self._new_bytes >= FULL_BYTES:  # they are in memory as they came
            return True
        return self._new_rows >= self._part_rows or self._new_bytes >= PART_BYTES or size >= FILE_BYTES

    async def write(self, page: AccountPage[Any]) -> None:
        """Take a page into memory, after encoding earlier ones if there are many."""
        self._required_log()
        items = page.page.items
        if not all(isinstance(item, self.item_type) for item in items):
            raise UsageError(f"{self!r} takes {self.resource}: pull with item_type={self.item_type.__name__}")
        if self._buffer_rows >= GROUP_ROWS or self._buffer_bytes >= GROUP_BYTES:
            await self._required_worker().run(self._append, self._take())
        if self._sync is not None:
            self._sync.pages.add(page)
        if not items:
            return
        size = sum(map(item_bytes, items))
        self._begin_part()
        if self._sync is None:
            self._buffer.append(Part(items, PULL_SCHEMA.values(page)))
            self._buffer_rows += len(items)
            self._buffer_bytes += size
        self._new_rows += len(items)
        self._new_bytes += size

    def begin_commit(
        self,
        changes: Mapping[Key, Progress],
        *,
        row_fingerprints: Mapping[Key, bytes],
        final: bool,
        sync: SyncChanges | None = None,
    ) -> Awaitable[bool]:
        """Begin a commit of what was written so far, or postpone it. Pages may be written while the result is awaited.

        That way a part grows to a useful size, and an upload does not keep the pull from requesting more.
        """
        log = self._required_log()
        if changes or row_fingerprints:
            self._begin_part()
        waited = 0.0 if self._since is None else self._clock() - self._since
        if not final and not self.is_full and waited < self._seconds:
            return asyncio.sleep(0, result=False)
        if self._sync is not None and sync is not None:
            self._since = None
            self._new_rows = self._new_bytes = 0
            return self._sync.begin_commit(sync, final=final)
        encoding = None
        if self._new_rows or (final and not log.has_parts):  # a pull without rows leaves the columns
            # Queued now, not when it is awaited: pages written from now on come after it.
            encoding = self._required_worker().start(self._close_file, self._take())
        self._since = None
        self._new_rows = self._new_bytes = 0
        return self._finish_commit(log, encoding, Changes.of(changes, row_fingerprints), final=final)

    @property
    def _seconds(self) -> float:
        if self._part_seconds is not None:
            return self._part_seconds
        return PART_SECONDS if self._sync is None else SYNC_SECONDS

    async def _finish_commit(
        self, log: CloudLog, encoding: asyncio.Future[Encoded] | None, changes: Changes, *, final: bool
    ) -> bool:
        parts = [] if encoding is None else [await log.files.upload(await Worker.finish(encoding))]
        await log.commit(parts, changes, final=final)
        return True

    async def commit(
        self,
        changes: Mapping[Key, Progress],
        *,
        row_fingerprints: Mapping[Key, bytes],
        final: bool,
        sync: SyncChanges | None = None,
    ) -> bool:
        """Make what was written, and its progress, visible in one put, or postpone it."""
        return await self.begin_commit(changes, row_fingerprints=row_fingerprints, final=final, sync=sync)

    def _begin_part(self) -> None:
        if self._since is None:
            self._since = self._clock()

    def _take(self) -> list[Part]:
        taken, self._buffer = self._buffer, []
        self._buffer_rows = self._buffer_bytes = 0
        return taken

    # These two run in the worker's thread.

    def _append(self, parts: list[Part]) -> None:
        if self._file is None:
            self._file = PartFile(self._arrow_schema, self.schema)
        found = Parts(parts, self.item_type, PULL_SCHEMA)
        # The lists of values are free again when the batch is written: a transcript may have 300 MB.
        self._file.write(record_batch(fixed_columns(self.schema, found), self._arrow, self._arrow_schema))

    def _close_file(self, parts: list[Part]) -> Encoded:
        self._append(parts)
        file, self._file = self._file, None
        assert file is not None
        return file.close()


def _is_length(seconds: object) -> bool:
    given: Any = seconds
    return given is None or (is_number(given) and bool(given >= 0))

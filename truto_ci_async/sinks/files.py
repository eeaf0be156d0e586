"""What the sinks for a folder share: commits, recovery after a crash, the manifest, and one thread for the disk.

How it works. ``write`` takes pages into memory. A commit makes them durable and returns a few bytes that describe the
committed output (``SinkState``). The pull stores those bytes together with the progress they stand for, and passes
them to ``open`` on the next run, which removes everything written since. So a row is in the output if, and only if, a
checkpoint says so.

NDJSON and CSV append to one file, and commit its length. Parquet writes parts: each one is written outside of the
folder of parts, synced and renamed, both folders are synced, and then a checkpoint names the part. ``manifest.json``
lists what is committed, for readers. It may lag behind the checkpoint, and never runs ahead of it.

Every row carries its account, the account's tenant if known, the window that was requested, and when it arrived. A
folder that an earlier version began is finished as it was begun (``layout``, and ``columns`` of the state).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Literal, ParamSpec, TypeAlias, TypedDict, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from truto_ci_async._files import Disk, Worker, is_in_use, storage_error
from truto_ci_async._lock import RunLock
from truto_ci_async.errors import StateConflictError, StorageError, UsageError
from truto_ci_async.export.column_values import fixed_schema
from truto_ci_async.export.schema import Schema
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.resource_types import ITEM_TYPES
from truto_ci_async.models.row_views import PULL_SCHEMA, PULL_SCHEMAS

from .layout import LOCK, MANIFEST, Layout
from .manifest import MAX_PARTS, NewEntry, SinkState, cut_log, write_manifest
from .recovery import check_owner, check_parts, damaged, read_entries, read_state

P = ParamSpec("P")
R = TypeVar("R")

Verify: TypeAlias = Literal["full", "size"]

# Pages with more items are encoded in the thread, so that the event loop stays responsive.
INLINE_ITEMS = 256
# Buffered output is written to the file at this size; only a commit syncs it. Larger writes make Linux take memory for
# them in pieces of 2 MiB, which a virtual machine may have to ask its host for: 40 to 100 us more for 50 kB.
FLUSH_BYTES = 2**21
MANIFEST_SECONDS = 5.0  # between updates of the manifest of a growing file


class SinkOptions(TypedDict, total=False):
    """The options of every ``FileSink``."""

    resource: str
    fresh: bool
    verify: Verify
    disk: Disk | None
    clock: Callable[[], float]


class FileSink(ABC):
    """Writes the rows of one resource to a folder, beside those of others. Each format is a subclass.

    ``fresh`` removes the output of earlier pulls, unless some of it is committed. ``verify`` says how ``open`` checks
    committed files: ``full`` reads them, ``size`` only compares their length. After a disk error a sink refuses to
    work until it is opened again.
    """

    format: ClassVar[str]
    keeps_no_items: ClassVar[bool] = True
    #: Whether a committed file may be longer than its committed part.
    _grows: ClassVar[bool] = False
    _manifest_seconds: ClassVar[float] = MANIFEST_SECONDS
    #: How many full buffers may wait in memory for the disk, beside the one that is filled.
    _most_queued: ClassVar[int] = 1

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        resource: str = "interactions",
        fresh: bool = False,
        verify: Verify = "full",
        disk: Disk | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if verify not in ("full", "size"):
            raise UsageError(f"verify must be 'full' or 'size', not {verify!r}")
        if not os.fspath(directory):
            raise UsageError("the name of the folder is empty")
        if resource not in ITEM_TYPES:
            raise UsageError(f"resource must be one of {', '.join(ITEM_TYPES)}, not {resource!r}")
        self.directory = Path(directory).absolute()  # the process may change its folder
        self.resource = resource
        #: The item type a pull should request: NDJSON passes bytes through, the others need the fields.
        self.item_type: Any = ITEM_TYPES[resource]
        self._fresh = fresh
        self._verify = verify
        self._disk = disk or Disk()
        self._clock = clock
        self._worker: Worker | None = None
        self._error: BaseException | None = None
        self._is_held = False  # and not open yet
        self._lock: RunLock | None = None
        self._new_folders: list[Path] = []
        self._listed_at = -inf
        self._reset()

    def _reset(self) -> None:
        self._state = SinkState(format=self.format, columns=PULL_SCHEMA.version)  # as of the last commit
        self._committed = self._state  # as of the last commit that is in a checkpoint
        self._listed = self._state  # as of the last manifest
        self._is_complete = self._is_listed_complete = False
        self._use_version(PULL_SCHEMA.version)
        self._buffer: list[Any] = []  # encoded rows that are not in a file yet
        self._appending = deque[asyncio.Future[None]]()  # rows to the file, by now or soon
        self._buffer_rows = self._buffer_bytes = 0
        self._new_rows, self._new_bytes, self._new_since = 0, 0, 0.0  # taken since the last commit began
        self._written = self._synced = 0  # rows taken since it was opened, and those of them in a commit

    def _use_version(self, version: int) -> None:
        """Write names and columns of this version."""
        self._layout = Layout(self.resource, version)
        self._lead = PULL_SCHEMAS[version]

    @property
    def schema(self) -> Schema:
        """The columns of the rows, those of the pull first."""
        return fixed_schema(ITEM_TYPES[self.resource], self._lead)

    @property
    def rows(self) -> int:
        """Rows committed so far, including those of earlier runs."""
        return self._committed.rows

    @property
    def is_claimed(self) -> bool:
        """Whether nobody else may write to the folder, whatever is in it, once rows are.

        If not, do a ``commit`` before the first page, and call ``committed`` once its state is stored.
        """
        return bool(self._listed.id)

    async def hold(self, *, anew: bool = False) -> None:
        """Keep other runs out of the folder until ``aclose``; ``open`` comes next.

        ``anew``: ``open`` will be given no state, so make sure already that it can start without one. Nothing is
        removed yet. ``open`` holds a folder that is not held.

        :raises StateConflictError: another run writes to the folder, or it holds output of somebody else.
        :raises StorageError: the folder cannot be written, or its file system has no locks.
        """
        if self._worker is not None:
            raise StateConflictError(
                f"another pull of this process uses the sink for {self.directory}",
                path=str(self.directory),
                pid=os.getpid(),
            )
        worker = self._worker = Worker(f"truto-{self.format}")
        self._is_held, self._error = True, None
        self._reset()
        try:
            await worker.run(self._guard, partial(self._hold, anew))
        except BaseException:
            await self.aclose()
            raise

    async def open(self, state: bytes | None) -> None:
        """Go back to what was committed under ``state``, or start in a folder without output.

        :raises StateConflictError: another run writes to the folder, or it holds output that ``state`` does not
            describe, or another format.
        :raises DamagedStateError: committed output is missing or was altered.
        :raises StorageError: the folder cannot be written.
        """
        if not self._is_held:
            await self.aclose()
            await self.hold()
        self._is_held = False
        worker = self._require_open()
        self._disk.is_stopped = False
        try:
            opening = worker.start(self._guard, partial(self._open, state))
            # Checking may read gigabytes. A cancellation stops it.
            self._committed = self._listed = await Worker.finish(opening, self._disk.stop)
        except BaseException:
            await self.aclose()
            raise
        self._state, self._listed_at = replace(self._committed, id=self._id), self._clock()

    async def write(self, page: AccountPage[Any]) -> Any:
        """Take a page into memory. Those before it go to the file meanwhile; wait if too many of them still have to."""
        worker = self._require_open()
        if self._is_buffer_full():  # before the page is taken: a cancellation here leaves it out
            if len(self._appending) == self._most_queued:
                await Worker.finish(self._appending.popleft())
            self._appending.append(worker.start(self._guard, partial(self._append, *self._take())))
        if len(page) > INLINE_ITEMS:
            encoded, size = await worker.run(self._encode, page)
            self._require_open()
        else:
            encoded, size = self._encode(page)
        if not encoded:
            return
        if not self._new_rows:
            self._new_since = self._clock()
        rows = len(page)
        self._buffer += encoded
        self._buffer_rows += rows
        self._buffer_bytes += size
        self._new_rows += rows
        self._new_bytes += size
        self._written += rows

    async def commit(self, *, final: bool = False) -> bytes | None:
        """Make everything taken durable; None if a part should grow first."""
        return await self.begin_commit(final=final)

    def begin_commit(self, *, final: bool = False) -> Awaitable[bytes | None]:
        """Start to commit everything taken so far. Pages may be written while the result is awaited.

        That way a slow disk does not keep the pull from requesting more pages.
        """
        worker = self._require_open()
        syncing = None
        if self._written != self._synced or (final and not self._state.count):
            if self._new_rows and not (final or self._is_due()):
                return asyncio.sleep(0)  # None: a part should grow first
            self._new_rows = self._new_bytes = 0
            # Queued now, not when it is awaited: pages written from now on come after it.
            syncing = worker.start(self._guard, partial(self._sync, *self._take()))
        return self._finish_commit(syncing, self._written)

    async def _finish_commit(self, syncing: asyncio.Future[SinkState] | None, written: int) -> bytes:
        if syncing is not None:
            self._state = await Worker.finish(syncing)
            self._synced = written
        return msgspec.json.encode(self._state)

    async def committed(self) -> None:
        """Note that a checkpoint now holds what the last ``commit`` returned, so that the manifest may list it."""
        self._committed = self._state
        due = self._clock() - self._listed_at >= self._manifest_seconds or not self._listed.rows
        # A list of many parts takes long to write, so it is rewritten once it is an eighth longer.
        grown = self._committed.count - self._listed.count
        if self._committed.count > MAX_PARTS:
            due = due and grown >= self._listed.count // 8
        if due and (self._committed.rows != self._listed.rows or not self.is_claimed):
            await self._update_manifest()

    def note_complete(self) -> None:
        """Have the manifest say that the pull ended with every account done. Call it after the last ``committed``."""
        self._is_complete = True

    async def aclose(self) -> None:
        """Update the manifest, close the files and let others write to the folder. May be called twice.

        :raises StorageError: the manifest cannot be written. All that was committed is safe.
        """
        worker = self._worker
        if worker is None:
            return
        try:
            if self._error is None and not self._is_all_listed:
                await self._update_manifest()
                if not self._is_all_listed:
                    manifest = self.directory / MANIFEST
                    raise StorageError(
                        f"cannot replace {manifest}: another program has it open, so it does not list all rows. They "
                        "are safe, and the next run lists them",
                        path=str(manifest),
                    )
        finally:
            self._worker, self._is_held = None, False
            try:
                await worker.run(self._end)
            finally:
                worker.close()

    async def __aenter__(self) -> FileSink:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, {self.rows:,} rows committed)"

    def _is_buffer_full(self) -> bool:
        return self._buffer_bytes >= FLUSH_BYTES

    def _is_due(self) -> bool:
        """Return whether new rows are worth a commit that is not the final one."""
        return True

    def _take(self) -> tuple[list[Any], int]:
        """Empty the buffer, and return its content and number of rows."""
        taken = self._buffer, self._buffer_rows
        self._buffer, self._buffer_rows, self._buffer_bytes = [], 0, 0
        return taken

    @property
    def _is_all_listed(self) -> bool:
        return self._listed == self._committed and self._is_listed_complete == self._is_complete

    async def _update_manifest(self) -> None:
        state, is_complete = self._committed, self._is_complete
        self._listed_at = self._clock()
        if await self._run(self._list, state, is_complete):
            self._listed, self._is_listed_complete = state, is_complete

    def _require_open(self) -> Worker:
        if self._error is not None:
            raise self._error
        if self._worker is None:
            raise UsageError(f"{type(self).__name__} is not open")
        return self._worker

    async def _run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._require_open().run(self._guard, partial(job, *args, **kwargs))

    # Everything below runs in the worker's thread.

    def _guard(self, job: Callable[[], R]) -> R:
        """Run a job. If it fails, all jobs after it fail with the same error."""
        if self._error is not None:
            raise self._error
        try:
            if self._lock is not None:
                self._lock.check()
            return job()
        except OSError as error:
            self._error = storage_error(error, self.directory, "write")
            raise self._error from error
        except BaseException as error:
            self._error = error
            raise

    def _hold(self, anew: bool) -> None:
        self._new_folders = self._disk.make_folders(self.directory)
        lock = RunLock(self.directory, self.directory / LOCK)
        lock.acquire()
        self._lock = lock
        if anew:
            self._check_owner(read_entries(self.directory), None)

    def _end(self) -> None:
        self._close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
        with suppress(OSError):  # there is something in it
            for folder in self._new_folders:
                folder.rmdir()

    def _open(self, text: bytes | None) -> SinkState:
        entries = read_entries(self.directory)
        self._others = {name: Raw(bytes(entry)) for name, entry in entries.items() if name != self.resource}
        if text is None:
            state = SinkState(format=self.format, columns=PULL_SCHEMA.version)
        else:
            state = read_state(text, self.directory, self._layout, self.format, grows=self._grows)
        self._check_owner(entries, None if text is None else state)
        # Output keeps the names and columns it was begun with.
        self._use_version(state.columns if state.count else PULL_SCHEMA.version)
        is_full = self._verify == "full"
        committed = check_parts(
            self._disk, self.directory, self._layout, state, grows=self._grows, is_full=is_full
        )
        # First, so that a run after a crash recognises the folder as ours. A new id is not in a checkpoint yet.
        self._write_manifest(state, is_complete=False)
        found = Layout(self.resource).find(self.directory)
        for name in sorted(found - committed):
            self._disk.remove(self.directory / name)
        if state.logged.length:
            cut_log(self._disk, self.directory / self._layout.parts_log, state)
        self._id = state.id or secrets.token_hex(8)
        self._resume(replace(state, id=self._id), found)
        self._new_folders = []  # they are used, and stay
        return state

    def _check_owner(self, entries: dict[str, Raw], state: SinkState | None) -> None:
        check_owner(self.directory, self.resource, entries.get(self.resource), state, fresh=self._fresh)

    def _list(self, state: SinkState, is_complete: bool) -> bool:
        """Update the manifest. False: it has to wait because somebody is reading it, on Windows."""
        try:
            self._write_manifest(state, is_complete=is_complete)
        except PermissionError as error:
            if not (is_in_use(error) and state.count):  # an id comes before the first row
                raise
            return False
        except ValueError as error:
            raise damaged(self.directory / self._layout.parts_log, str(error)) from error
        return True

    def _write_manifest(self, state: SinkState, *, is_complete: bool) -> None:
        entry = NewEntry(
            self.resource, state, self.directory / self._layout.parts_log, self.schema.types, is_complete
        )
        write_manifest(self._disk, self.directory, entry, self._others)

    @abstractmethod
    def _encode(self, page: AccountPage[Any]) -> tuple[list[Any], int]:
        """Return the rows of a page for ``_append``, and their size in bytes. Also called outside of the thread."""

    @abstractmethod
    def _append(self, encoded: list[Any], rows: int) -> None:
        """Write rows to the open file."""

    @abstractmethod
    def _sync(self, encoded: list[Any], rows: int) -> SinkState:
        """Write the last rows, make everything written durable, and return the new state."""

    @abstractmethod
    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        """Get ready to write after what is committed. ``found`` are the names of our files in the folder."""

    @abstractmethod
    def _close(self) -> None:
        """Close what is open, without raising."""

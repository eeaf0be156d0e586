"""Where the rows of a pull end up: NDJSON, CSV or Parquet in a folder, or what a user writes.

How it works. A sink takes pages, and makes them durable when it is told to commit; what ``commit`` returns says in
a few bytes what is in the output by then. The pull stores those bytes together with the progress they stand for,
and hands them back to ``open`` the next time, which takes away whatever came after. So a row is in the output if,
and only if, a checkpoint says so.

NDJSON and CSV grow one file, committed as a length. Parquet makes parts: written under a temporary name that no
``*.parquet`` finds, synced, renamed, the folder synced, then named in the checkpoint. ``manifest.json`` lists what
is committed, for readers; it may lag behind, and never runs ahead.

Every row carries the account it came from, its tenant where that is known, and the window that was asked for.
"""

from __future__ import annotations

import asyncio
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Literal, NoReturn, ParamSpec, TypeAlias, TypeVar

import msgspec

from truto_ci_async._files import Disk, Worker, storage_error
from truto_ci_async.errors import DamagedStateError, StateConflictError, UsageError
from truto_ci_async.models import ROW_COLUMNS, Interaction
from truto_ci_async.models.pulls import AccountPage
from truto_ci_async.models.row_views import PULL_COLUMNS

from .manifest import MANIFEST, Manifest, ManifestPart, Part, SinkState

P = ParamSpec("P")
R = TypeVar("R")


Verify: TypeAlias = Literal["full", "size"]

# Every name a sink of ours gives, committed or not.
OUR_FILES = re.compile(
    r"interactions\.(?:ndjson|csv)|part-\d{6,}\.parquet|\.part-\d{6,}\.parquet\.tmp|\.manifest\.json\.tmp",
    re.ASCII,
)

# Buffered output goes to the file (not yet to the disk) at this size.
FLUSH_BYTES = 2**22


# The manifest of a growing file is brought up to date this often, not with every commit.
MANIFEST_SECONDS = 5.0


class FileSink(ABC):
    """What the sinks that write into a folder share: state, manifest, one thread, and how they fail.

    ``fresh`` removes the output of earlier pulls when nothing is committed. ``verify`` says how committed files are
    checked on ``open``: ``full`` reads them, ``size`` only looks at their length. After an error of the disk a sink
    stays failed until it is opened again.
    """

    format: ClassVar[str]
    #: The item type a pull should ask for: bytes pass through NDJSON, the others need the fields.
    item_type: ClassVar[Any] = Interaction
    columns: ClassVar[tuple[str, ...]] = PULL_COLUMNS + ROW_COLUMNS

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        fresh: bool = False,
        verify: Verify = "full",
        disk: Disk | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if verify not in ("full", "size"):
            raise UsageError(f"verify is 'full' or 'size', not {verify!r}")
        self.directory = Path(directory)
        self._fresh = fresh
        self._verify = verify
        self._disk = disk or Disk()
        self._clock = clock
        self._worker: Worker | None = None
        self._error: BaseException | None = None
        # As of the last commit that was asked for, the last one in a checkpoint, and the last one in the manifest.
        self._state = SinkState(format=self.format)
        self._committed = self._listed = self._state
        self._listed_at = -inf
        self._written = self._synced = 0  # rows or bytes, since it was opened

    @property
    def rows(self) -> int:
        """Rows committed so far, those of earlier runs included."""
        return self._committed.rows

    async def open(self, state: bytes | None) -> None:
        """Go back to what was committed under ``state``, or begin where nothing was.

        :raises StateConflictError: the folder holds output that ``state`` does not know, or of another format.
        :raises DamagedStateError: committed output is gone or was altered.
        :raises StorageError: the folder cannot be written.
        """
        await self.aclose()
        worker = self._worker = Worker(f"truto-{self.format}")
        self._error = None
        self._forget()
        self._disk.is_stopped = False
        try:
            begun = worker.start(self._do, partial(self._open, state))
            # Who is told to stop while gigabytes are checked is not to wait for that.
            self._state = self._committed = await Worker.finish(begun, self._disk.stop)
        except BaseException:
            await self.aclose()
            raise
        self._listed, self._listed_at = self._committed, self._clock()

    @abstractmethod
    async def write(self, page: AccountPage[Any]) -> None:
        """Take a page into memory, after moving earlier ones to the file where they are many."""

    async def commit(self, *, final: bool = False) -> bytes | None:
        """Make durable what was taken; None where a part is to grow first."""
        return await self.begin_commit(final=final)

    @abstractmethod
    def begin_commit(self, *, final: bool = False) -> Awaitable[bytes | None]:
        """Begin a commit of what was taken until now; pages may be written while it is awaited.

        The disk may take its time to say that something is durable, which is no reason to ask for no more pages.
        """

    async def committed(self) -> None:
        """Hear that a checkpoint now holds what ``commit`` returned last; the manifest may say so."""
        self._committed = self._state
        due = self._clock() - self._listed_at >= self._manifest_seconds or not self._listed.rows
        if due and self._committed.rows != self._listed.rows:
            await self._list()

    async def aclose(self) -> None:
        """Bring the manifest up to date and close what is open. May be called twice."""
        worker = self._worker
        if worker is None:
            return
        try:
            if self._error is None and self._listed != self._committed:
                await self._list()
        finally:
            self._worker = None
            try:
                await worker.run(self._close)
            finally:
                worker.close()

    async def __aenter__(self) -> FileSink:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r}, {self.rows:,} rows committed)"

    #: The manifest follows every commit where commits are rare.
    _manifest_seconds: ClassVar[float] = MANIFEST_SECONDS

    @abstractmethod
    def _forget(self) -> None:
        """Drop what is in memory."""

    async def _list(self) -> None:
        state = self._committed
        self._listed_at = self._clock()
        await self._run(self._write_manifest, state)
        self._listed = state

    def _require_open(self) -> Worker:
        if self._error is not None:
            raise self._error
        if self._worker is None:
            raise UsageError(f"{type(self).__name__} is not open")
        return self._worker

    async def _run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._require_open().run(self._do, partial(job, *args, **kwargs))

    async def _commit(self, begun: asyncio.Future[SinkState] | None, written: int) -> bytes:
        """Wait for a job that makes ``written`` rows or bytes durable, if there is one; say what is then."""
        if begun is not None:
            self._state = await Worker.finish(begun)
            self._synced = written
        return msgspec.json.encode(self._state)

    # What follows runs in the worker's thread.

    def _do(self, job: Callable[[], R]) -> R:
        """Do a job; when one fails, those behind it in the queue fail the same way."""
        if self._error is not None:
            raise self._error
        try:
            return job()
        except OSError as error:
            self._error = storage_error(error, self.directory, "write")
            raise self._error from error
        except BaseException as error:
            self._error = error
            raise

    def _open(self, text: bytes | None) -> SinkState:
        self.directory.mkdir(parents=True, exist_ok=True)
        state = self._claim() if text is None else self._read_state(text)
        for part in state.parts:
            self._check(part)
        # First, so that the folder is known as ours by whoever comes after a crash.
        self._write_manifest(state)
        names = {part.name for part in state.parts}
        found = self._ours()
        for path in found:
            if path.name not in names:
                self._disk.remove(path)
        self._resume(state, [path.name for path in found])
        return state

    def _claim(self) -> SinkState:
        """Make sure that nothing of value is in the folder, since whatever is ours in there will go."""
        manifest = self._read_manifest()
        if manifest is None:
            if found := sorted(path.name for path in self._ours() if not path.name.startswith(".")):
                self._conflict(f"{found[0]} is there already, and no {MANIFEST} says that a pull made it")
        elif manifest.rows and not self._fresh:
            self._conflict(
                f"it holds {manifest.rows:,} rows of an earlier pull, of which this one knows nothing; "
                "fresh=True removes them"
            )
        return SinkState(format=self.format)

    def _read_state(self, text: bytes) -> SinkState:
        try:
            state = msgspec.json.decode(text, type=SinkState)
        except msgspec.DecodeError as error:
            raise DamagedStateError(
                f"the state of the output in {self.directory} cannot be read: {error}",
                path=str(self.directory),
            ) from error
        if state.format != self.format:
            self._conflict(f"it holds {state.format}, and {self.format} was asked for")
        return state

    def _conflict(self, what: str) -> NoReturn:
        raise StateConflictError(
            f"cannot write into {self.directory}: {what}; or use another folder", path=str(self.directory)
        )

    def _ours(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if OUR_FILES.fullmatch(path.name)]

    def _check(self, part: Part) -> None:
        """Make sure that a committed file still is what it was."""
        path = self.directory / part.name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            if not part.bytes:
                return
            self._damaged(path, "it is gone")
        if size < part.bytes or (size > part.bytes and not self._grows):
            self._damaged(path, f"it has {size:,} bytes and had {part.bytes:,}")
        if self._verify == "full" and self._disk.checksum(path, part.bytes) != part.crc32:
            self._damaged(path, f"the checksum of its {part.bytes:,} bytes is another one")

    #: Whether a committed file may be longer than what is committed of it.
    _grows: ClassVar[bool] = False

    def _damaged(self, path: Path, what: str) -> NoReturn:
        raise DamagedStateError(
            f"{path} is not as it was committed: {what}. Put it back, or start over with fresh=True",
            path=str(path),
        )

    def _read_manifest(self) -> Manifest | None:
        path = self.directory / MANIFEST
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            self._conflict(f"its {MANIFEST} was not made by a pull")

    def _write_manifest(self, state: SinkState) -> None:
        manifest = Manifest(
            format=state.format,
            rows=state.rows,
            bytes=sum(part.bytes for part in state.parts),
            columns=self.columns,
            parts=tuple(
                ManifestPart(part.name, part.rows, part.bytes, f"{part.crc32:08x}") for part in state.parts
            ),
        )
        self._disk.step("manifest")
        temporary = self.directory / f".{MANIFEST}.tmp"
        self._disk.remove(temporary)
        file = self._disk.open(temporary)
        try:
            self._disk.write(file, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
            self._disk.fsync(file)
        finally:
            self._disk.close(file)
        self._disk.rename(temporary, self.directory / MANIFEST)
        self._disk.fsync_dir(self.directory)

    @abstractmethod
    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        """Get ready to write behind what is committed; ``found`` are the names that were there."""

    @abstractmethod
    def _close(self) -> None:
        """Close what is open; never raises."""

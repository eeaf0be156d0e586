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
import zlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib import import_module
from math import ceil, inf
from operator import attrgetter, itemgetter
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Literal, NoReturn, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Raw, Struct

from truto_ci_async._files import Disk, Step, Worker, no_step, storage_error
from truto_ci_async.errors import DamagedStateError, MissingExtraError, StateConflictError, UsageError
from truto_ci_async.models import ROW_COLUMNS, Interaction
from truto_ci_async.pull.checkpoint.sqlite import Checkpoint, Key, Progress
from truto_ci_async.pull.plan.plan import AccountPage
from truto_ci_async.pull.row_fingerprints import PULL_COLUMNS, View, plain_views

P = ParamSpec("P")
R = TypeVar("R")

OutputFormat: TypeAlias = Literal["ndjson", "csv", "parquet"]
Verify: TypeAlias = Literal["full", "size"]

MANIFEST = "manifest.json"
# Every name a sink of ours gives, committed or not.
OUR_FILES = re.compile(
    r"interactions\.(?:ndjson|csv)|part-\d{6,}\.parquet|\.part-\d{6,}\.parquet\.tmp|\.manifest\.json\.tmp",
    re.ASCII,
)

# Buffered output goes to the file (not yet to the disk) at this size.
FLUSH_BYTES = 2**22
# Pages with more items are encoded in the thread, where the loop can have its turns in between.
INLINE_ITEMS = 256
# The manifest of a growing file is brought up to date this often, not with every commit.
MANIFEST_SECONDS = 5.0

# A row group is what Parquet holds in memory: so many rows, or so many bytes of JSON text in them.
GROUP_ROWS = 10_000
GROUP_BYTES = 16 * 2**20
# A part is closed, and with it committed, at so many rows, bytes of JSON text, or seconds.
PART_ROWS = 100_000
PART_BYTES = 256 * 2**20
PART_SECONDS = 10.0


class Sink(Protocol):
    """What a pull writes into. Three methods make one; the pull calls them one at a time.

        class Tally:
            async def open(self, state):
                self.rows = Counter(json.loads(state or b"{}"))

            async def write(self, page):
                self.rows[page.account.id] += len(page)

            async def commit(self, *, final=False):
                return json.dumps(self.rows).encode()

    Whatever one raises ends the pull; what was committed is gone on with the next time.
    """

    async def open(self, state: bytes | None) -> None:
        """Go back to what was committed under ``state``, whatever happened since; None: nothing was.

        :raises TrutoError: that is not possible, and the pull does not begin.
        """

    async def write(self, page: AccountPage[Any]) -> None:
        """Take a page. It need not be durable before ``commit``. Raising means that nothing of it was taken."""

    async def commit(self, *, final: bool = False) -> bytes | None:
        """Make durable what was taken until now, and return what ``open`` needs to come back to here.

        None says "not yet": nothing is checkpointed and more pages come. ``final`` does not take None.
        """


async def commit_together(
    sink: Sink,
    checkpoint: Checkpoint,
    changes: Mapping[Key, Progress],
    *,
    row_keys: Mapping[Key, bytes] | None = None,
    final: bool = False,
    begun: Awaitable[bytes | None] | None = None,
) -> bool:
    """Make the pages a sink has taken durable, and with them the progress they stand for; False: not yet.

    ``changes`` must be the progress of exactly the pages whose ``write`` has returned. ``begun`` is what
    ``FileSink.begin_commit`` gave, if it was called already.
    """
    state = await (sink.commit(final=final) if begun is None else begun)
    if state is None:
        if final:
            raise UsageError(
                f"{type(sink).__name__}.commit(final=True) gave None: return bytes (b'' will do), or nothing counts "
                "as done"
            )
        return False
    await checkpoint.commit(changes, state, row_keys=row_keys)
    if isinstance(sink, FileSink):
        await sink.committed()
    return True


def make_sink(
    format: OutputFormat, directory: str | os.PathLike[str], *, fresh: bool = False, step: Step = no_step
) -> FileSink:
    """Return the sink for a format; arguments are those of ``FileSink``.

    :raises UsageError: an unknown format.
    :raises MissingExtraError: ``parquet`` without pyarrow.
    """
    kinds: dict[str, type[FileSink]] = {kind.format: kind for kind in (NdjsonSink, CsvSink, ParquetSink)}
    if format not in kinds:
        raise UsageError(f"format is one of {', '.join(kinds)}, not {format!r}")
    return kinds[format](directory, fresh=fresh, disk=Disk(step))


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


# --- one growing file ------------------------------------------------------------------------------------------


class _LineSink(FileSink):
    """One file that grows by whole rows, and is cut back to its committed length on ``open``."""

    _grows = True
    _header: ClassVar[bytes] = b""

    def _forget(self) -> None:
        self._chunks: list[bytes] = []  # not in the file yet
        self._size = self._count = 0  # bytes and rows of those chunks
        self._written = self._synced = 0

    async def write(self, page: AccountPage[Any]) -> None:
        self._require_open()
        if self._size >= FLUSH_BYTES:  # before this page is taken: a cancellation here leaves it untaken
            await self._run(self._append, *self._take())
        if len(page) > INLINE_ITEMS:
            data = await self._require_open().run(self._encode, page)
            self._require_open()
        else:
            data = self._encode(page)
        if data:
            self._chunks.append(data)
            self._size += len(data)
            self._count += len(page)
            self._written += len(data)

    def begin_commit(self, *, final: bool = False) -> Awaitable[bytes]:
        worker = self._require_open()
        begun = None
        if self._written != self._synced or (final and not self._state.parts):
            # In the queue before whatever is written from now on.
            begun = worker.start(self._do, partial(self._sync, *self._take()))
        return self._commit(begun, self._written)

    def _take(self) -> tuple[list[bytes], int]:
        taken = self._chunks, self._count
        self._chunks, self._size, self._count = [], 0, 0
        return taken

    @abstractmethod
    def _encode(self, page: AccountPage[Any]) -> bytes:
        """Return the rows of a page, each with its line end."""

    # In the worker's thread.

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        del found
        self._part = state.parts[0] if state.parts else Part(f"interactions.{self.format}")
        self._file: int | None = self._disk.open(self.directory / self._part.name)
        self._disk.cut(self._file, self._part.bytes)
        self._disk.fsync(self._file)
        self._disk.fsync_dir(self.directory)

    def _append(self, chunks: Sequence[bytes], rows: int) -> None:
        data = b"".join(chunks)
        part = self._part
        if not part.bytes:
            data = self._header + data
        self._disk.write(cast("int", self._file), data)
        self._part = Part(part.name, part.rows + rows, part.bytes + len(data), zlib.crc32(data, part.crc32))

    def _sync(self, chunks: Sequence[bytes], rows: int) -> SinkState:
        self._append(chunks, rows)
        self._disk.fsync(cast("int", self._file))
        return SinkState(format=self.format, parts=(self._part,))

    def _close(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            with suppress(OSError):
                self._disk.close(file)


class NdjsonSink(_LineSink):
    """``interactions.ndjson``: one JSON object a line. Items that are ``msgspec.Raw`` keep their bytes.

    The columns of the pull come first in each object; should an item have a key of the same name, the pull's
    value stands. An item that is no object is kept under ``item``.
    """

    format = "ndjson"
    item_type = Raw
    columns = PULL_COLUMNS

    def _encode(self, page: AccountPage[Any]) -> bytes:
        items = page.page.items
        return splice(
            _pull_columns(page), items, page.plain_views if items and type(items[0]) is Raw else None
        )


class CsvSink(_LineSink):
    """``interactions.csv``: a header, then the columns of the pull and those of ``Interaction.row()``."""

    format = "csv"
    _header = (",".join(PULL_COLUMNS + ROW_COLUMNS) + "\n").encode()

    def _encode(self, page: AccountPage[Any]) -> bytes:
        lines = [",".join(map(_cell, row)) + "\n" for row in _rows(page, self.format)]
        return "".join(lines).encode()


# Twice as quick as the csv module, which also leaves a lone carriage return unquoted before Python 3.13.
_needs_quotes = re.compile('[",\r\n]').search


def _cell(value: object) -> str:
    """Write one value for CSV: null is an empty cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"' if _needs_quotes(value) else value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _pull_columns(page: AccountPage[Any]) -> dict[str, str | None]:
    account, window = page.account, page.window
    return dict(zip(PULL_COLUMNS, (account.id, account.tenant_id, window.start, window.end), strict=True))


def _rows(page: AccountPage[Any], format: str) -> list[tuple[Any, ...]]:
    """Return the items of a page as rows of ``FileSink.columns``.

    :raises UsageError: items without columns.
    """
    ours = tuple(_pull_columns(page).values())
    try:
        return [(*ours, *item.row().values()) for item in cast("Sequence[Interaction]", page.page.items)]
    except AttributeError as error:
        raise UsageError(
            f"{format} takes pages of Interaction items: ask for item_type=Interaction"
        ) from error


_WHITE = b" \t\r\n"
_QUOTED_COLUMNS = tuple(f'"{name}"'.encode() for name in PULL_COLUMNS)
_fields: Callable[[bytes], dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw]).decode


def splice(
    columns: Mapping[str, str | None], items: Sequence[Any], views: Sequence[View] | None = None
) -> bytes:
    """Return items as lines of JSON with ``columns`` put in front; items that are Raw are not decoded for it.

    ``views`` are what ``plain_views`` said of items that are Raw, if somebody has asked.

    >>> splice({"tenant_id": "t1"}, [Raw(b'{"id":"7"}')])
    b'{"tenant_id":"t1","id":"7"}\\n'
    """
    if not items:
        return b""
    head = msgspec.json.encode(columns)[:-1]
    if type(items[0]) is Raw:
        texts, views = items, plain_views(items) if views is None else views
        # Who has an id is not empty, and an object without a field of our names.
        is_plain = views is not None and all(map(_id_of, views))
    else:
        texts = [msgspec.json.encode(item) for item in items]
        is_plain = all(
            text[:2] == b'{"' and not any(name in text for name in _QUOTED_COLUMNS) for text in texts
        )
    if is_plain:
        # Looked for in the page as a whole, which is ten times quicker than item by item.
        whole = b"".join(texts)
        bodies = [memoryview(text) for text in texts]
        if b"\n" not in whole and b"\r" not in whole and set(map(_first_of, bodies)) == {ord("{")}:
            begin = head + b","
            rest = (b"\n" + begin).join([body[1:] for body in bodies])
            return b"".join((begin, rest, b"\n"))
    return b"".join([_spliced(head, columns, bytes(text)) for text in texts])


_id_of = attrgetter("id")
_first_of = itemgetter(0)


def _spliced(head: bytes, columns: Mapping[str, str | None], text: bytes) -> bytes:
    """Splice one item that may need more than that: laid out over lines, empty, no object, names of ours."""
    if b"\n" in text or b"\r" in text:
        text = msgspec.json.format(text, indent=-1)
    text = text.strip(_WHITE)
    if text[:1] != b"{":
        return head + b',"item":' + text + b"}\n"
    rest = text[1:].lstrip(_WHITE)
    fields = _fields(text)
    if not fields.keys().isdisjoint(columns):
        rest = msgspec.json.encode({name: value for name, value in fields.items() if name not in columns})[1:]
    return head + (b"" if rest[:1] == b"}" else b",") + rest + b"\n"


# --- Parquet ---------------------------------------------------------------------------------------------------

_MOMENTS = frozenset(("start_time", "end_time", "created_at", "updated_at"))
_NUMBERS = frozenset(
    ("longest_monologue", "longest_customer_story", "interactivity", "patience", "question_rate")
)


class ParquetSink(FileSink):
    """``part-000001.parquet`` and so on: typed columns, date-times in UTC, lists and ``remote_data`` as JSON text.

    Pages of many accounts share a part. One is closed, and with it committed, at ``part_rows`` rows or after
    ``part_seconds``, whichever comes first; what is in an open part is asked for again after a crash.

    :raises MissingExtraError: pyarrow is not installed.
    """

    format = "parquet"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        fresh: bool = False,
        verify: Verify = "full",
        part_rows: int = PART_ROWS,
        part_seconds: float = PART_SECONDS,
        disk: Disk | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        try:
            self._arrow: Any = import_module("pyarrow")
            self._parquet: Any = import_module("pyarrow.parquet")
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet") from None
        if part_rows < 1 or part_seconds <= 0:
            raise UsageError("a part has at least one row, and some time to grow")
        super().__init__(directory, fresh=fresh, verify=verify, disk=disk, clock=clock)
        self._schema = _schema(self._arrow)
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._file: _PartFile | None = None
        self._writer: Any = None
        self._forget()

    _manifest_seconds = 0.0

    def _forget(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._size = 0  # bytes of JSON text in those rows
        self._open_rows = self._open_bytes = 0  # of the open part, those rows included
        self._open_since = 0.0
        self._written = self._synced = 0

    async def write(self, page: AccountPage[Any]) -> None:
        self._require_open()
        if len(self._rows) >= GROUP_ROWS or self._size >= GROUP_BYTES:
            await self._run(self._write_group, self._take())
        if len(page) > INLINE_ITEMS:
            rows = await self._require_open().run(_rows, page, self.format)
            self._require_open()
        else:
            rows = _rows(page, self.format)
        if not rows:
            return
        if not self._open_rows:
            self._open_since = self._clock()
        size = sum([len(row[-1] or "") for row in rows])
        self._rows += rows
        self._size += size
        self._open_rows += len(rows)
        self._open_bytes += size
        self._written += len(rows)

    def begin_commit(self, *, final: bool = False) -> Awaitable[bytes | None]:
        worker = self._require_open()
        begun = None
        if self._written != self._synced:
            if self._open_rows and not (final or self._is_full()):
                return _not_yet()
            self._open_rows = self._open_bytes = 0
            begun = worker.start(self._do, partial(self._close_part, self._take()))
        return self._commit(begun, self._written)

    def _is_full(self) -> bool:
        return (
            self._open_rows >= self._part_rows
            or self._open_bytes >= PART_BYTES
            or self._clock() - self._open_since >= self._part_seconds
        )

    def _take(self) -> list[tuple[Any, ...]]:
        rows, self._rows, self._size = self._rows, [], 0
        return rows

    # In the worker's thread.

    def _resume(self, state: SinkState, found: Iterable[str]) -> None:
        self._durable = state
        # A number is given once, also when its part was never committed: somebody may have read that one.
        numbers = [int(match[1]) for name in found if (match := _PART_NAME.fullmatch(name))]
        self._number = max([state.next, *(number + 1 for number in numbers)])

    def _write_group(self, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        if self._writer is None:
            self._file = _PartFile(self._disk, self.directory / f".part-{self._number:06d}.parquet.tmp")
            self._file_rows = 0
            self._writer = self._parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        groups = max(len(rows) // GROUP_ROWS, 1)
        self._writer.write_table(
            _table(self._arrow, self._schema, rows), row_group_size=ceil(len(rows) / groups)
        )
        self._file_rows += len(rows)

    def _close_part(self, rows: list[tuple[Any, ...]]) -> SinkState:
        self._write_group(rows)
        file = self._file
        if file is not None:
            self._writer.close()
            file.flush()
            self._writer = self._file = None
            try:
                self._disk.fsync(file.file)
            finally:
                self._disk.close(file.file)
            part = Part(f"part-{self._number:06d}.parquet", self._file_rows, file.size, file.crc32)
            self._disk.rename(file.path, self.directory / part.name)
            self._disk.fsync_dir(self.directory)
            self._number += 1
            self._durable = SinkState(
                format=self.format, parts=(*self._durable.parts, part), next=self._number
            )
        return self._durable

    def _close(self) -> None:
        file, self._file = self._file, None
        writer, self._writer = self._writer, None
        if file is None:
            return
        # pyarrow writes the end of a file when it closes it, even from a destructor, when that number may be the
        # descriptor of another file.
        file.is_deaf = True
        with suppress(Exception):
            writer.close()
        with suppress(OSError):
            self._disk.close(file.file)
        with suppress(OSError):
            self._disk.remove(file.path)


async def _not_yet() -> None:
    """Be the commit of a part that is to grow first."""


_PART_NAME = re.compile(r"\.?part-(\d{6,})\.parquet(?:\.tmp)?", re.ASCII)


class _PartFile:
    """A file as pyarrow writes one, which gathers its many small writes, and counts and sums what goes through."""

    closed = False

    def __init__(self, disk: Disk, path: Path) -> None:
        self.path = path
        self.file = disk.open(path)
        self.size = self.crc32 = 0
        self.is_deaf = False
        self._disk = disk
        self._held = bytearray()

    def write(self, data: Any) -> int:
        if not self.is_deaf:
            self._held += data
            if len(self._held) >= FLUSH_BYTES:
                self.flush()
        return memoryview(data).nbytes

    def flush(self) -> None:
        held, self._held = bytes(self._held), bytearray()
        if held and not self.is_deaf:
            self._disk.write(self.file, held)
            self.size += len(held)
            self.crc32 = zlib.crc32(held, self.crc32)

    def tell(self) -> int:
        return self.size + len(self._held)

    def close(self) -> None:
        """Left to the sink, which syncs first."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _schema(arrow: Any) -> Any:
    moment, number, text = arrow.timestamp("us", tz="UTC"), arrow.float64(), arrow.string()
    return arrow.schema(
        [
            arrow.field(
                name,
                moment if name in _MOMENTS else number if name in _NUMBERS else text,
                nullable=name != PULL_COLUMNS[0],
            )
            for name in FileSink.columns
        ]
    )


def _table(arrow: Any, schema: Any, rows: list[tuple[Any, ...]]) -> Any:
    arrays: list[Any] = []
    for field, values in zip(schema, zip(*rows, strict=True), strict=True):
        column = [_float(value) for value in values] if field.name in _NUMBERS else values
        arrays.append(arrow.array(column, type=field.type))
    return arrow.Table.from_arrays(arrays, schema=schema)


def _float(value: float | None) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has no largest number
        return inf if value > 0 else -inf

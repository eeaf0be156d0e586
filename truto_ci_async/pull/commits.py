"""What of a pull is done, and when that is durable: in the order of each account's pages, with the sink's own state.

How it works. A page that was handed out has an entry, in line behind the earlier ones of its account. Who is done with
a page marks its entry; what is marked with nothing unmarked before it becomes durable with the next commit, which a
task of its own makes once in a while, and at once when somebody waits for it.

In case a window has to be begun again, the rows of it that were handed out are remembered by their keys (``_row_keys``)
until it is over. They are as durable as the progress they go with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar

import anyio
import anyio.lowlevel
from msgspec import Raw

from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import UsageError
from truto_ci_async.models import Page
from truto_ci_async.models.pulls import AccountPage, PlannedAccount, Window
from truto_ci_async.pagination.page_fetch import SLICED_ABOVE
from truto_ci_async.pull.checkpoint.base import Checkpoint, Key, Progress
from truto_ci_async.pull.checkpoint.memory import MemoryCheckpoint
from truto_ci_async.sinks.base import Sink
from truto_ci_async.sinks.files import FileSink

from .report import PullReport
from .row_fingerprints import row_identities, row_keys

T = TypeVar("T")

# What is done becomes durable after so many pages or seconds, whichever comes first, and at once if somebody waits.
COMMIT_PAGES = 64
COMMIT_SECONDS = 0.05
# Bytes of bodies that are kept rather than made keys of, where nothing is to outlive the process.
KEPT_BYTES = 16 * 2**20
# Bytes of marks that keys are made of in one go, some milliseconds; then the loop has a turn.
YIELD_BYTES = 2**19
# A sink that said "not yet" is asked again after so many seconds, when no page came to ask for it.
ASK_AGAIN_SECONDS = 1.0


class Entry:
    """What is to be committed of a page, or of the end of an account, in its place among the others."""

    __slots__ = ("body", "durable", "ends", "is_done", "key", "marks", "progress", "queue", "rows")

    def __init__(
        self,
        queue: deque[Entry],
        key: Key,
        progress: Progress,
        *,
        rows: int | None = None,
        ends: Literal["", "done", "empty"] = "",
    ) -> None:
        self.queue = queue
        self.key = key
        self.progress = progress
        self.rows = rows  # on the page; None: this is no page
        # Of one of them the keys of its rows are made, in case its window has to be begun again; most are over before.
        self.body = b""
        self.marks = b""
        self.ends = ends  # how the account ended, on its last page of all
        self.is_done = False
        self.durable = False


class PulledPage(AccountPage[T]):
    """A page that a pull handed out; ``commit`` marks it as done."""

    __slots__ = ("_commits", "_entry")

    def __init__(
        self, account: PlannedAccount, window: Window, page: Page[T], *, commits: Commits, entry: Entry
    ) -> None:
        super().__init__(account, window, page)
        self._commits = commits
        self._entry = entry

    def mark(self) -> None:
        """Mark this page as done; it becomes durable with the next commit."""
        self._commits.require_open()
        self._commits.mark(self._entry)

    async def commit(self) -> None:
        """Mark this page as done, and wait until that is durable.

        Pages of one account are committed in order: this one waits for those before it. Committing twice is fine.

        :raises StorageError: the checkpoint cannot be written.
        """
        self.mark()
        await self._commits.wait_until_durable(self._entry)


class Commits:
    """What is marked of one pull, and the task that makes it durable.

    ``reader`` is that of the pages. ``report`` counts each entry once it is marked, and no more if in the end it is not
    durable; ``on_failure`` is told of a commit that failed, after which there are no more.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        sink: Sink | None,
        *,
        reader: PageReader[Any],
        report: PullReport,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._keeps_bodies = isinstance(checkpoint, MemoryCheckpoint)
        self._sink = sink
        self._reader = reader
        self._report = report
        self._on_failure = on_failure
        self._failure: Exception | None = None  # nothing more can be made durable
        self.is_open = False
        self.is_closed = False  # the pull was left: nothing can be marked any more

        self._changes: dict[Key, Progress] = {}
        self._new_keys: dict[Key, bytes] = {}
        self._kept: dict[Key, list[bytes]] = {}  # bodies of whose rows no keys were made yet
        self._kept_bytes = 0
        self._marked: list[Entry] = []
        self._unsure: list[Entry] = []  # marked, and on their way to be durable
        self._marked_since = 0  # the sink was asked to commit last
        self._marks = anyio.Event()
        self._full = anyio.Event()
        # The sink is asked one thing at a time, unless it can be written to while it commits (``begin_commit``).
        self._written = anyio.Lock(fast_acquire=True)
        self._committing = anyio.Lock(
            fast_acquire=True
        )  # held until what was marked is either durable or marked again
        self._flushed = anyio.Event()

    # --- life ------------------------------------------------------------------------------------------

    def require_open(self) -> None:
        """Raise UsageError unless the pull is open."""
        if self.is_closed:
            raise UsageError("this pull is closed")
        if not self.is_open:
            raise UsageError("open the pull first: async with ... as pages:")

    async def run(self) -> None:
        """Make durable what is marked, again and again. A cancellation ends this once a commit under way is done."""
        while self._failure is None:
            with anyio.move_on_after(ASK_AGAIN_SECONDS if self._changes else None):
                await self._marks.wait()
            self._marks = anyio.Event()
            with anyio.move_on_after(COMMIT_SECONDS):
                await self._full.wait()
            try:
                with anyio.CancelScope(shield=True):  # half a commit would double rows
                    await self._flush()
            except Exception as error:  # noqa: BLE001 - a sink may raise anything; the consumer gets it
                self.fail(error)
                self._on_failure(error)

    async def close(self) -> None:
        """Make durable what is marked, after ``run`` has ended; ``settle`` says how that went."""
        if not self.is_open:
            return
        if self._failure is None:
            try:
                await self._flush(final=True)
            except Exception as error:  # noqa: BLE001 - a sink may raise anything; raised by ``settle``
                self.fail(error)
        if self._failure is not None and self._kept:
            # What was committed before stays, so what is known of its rows has to as well.
            keys = {key: b"".join(map(self._keys_in, bodies)) for key, bodies in self._kept.items()}
            with suppress(Exception):  # it may be what failed, and is told of already
                await self._checkpoint.commit({}, row_keys=keys)

    def fail(self, error: Exception) -> None:
        """Note that nothing more can be made durable."""
        self._failure = self._failure or error

    def settle(self) -> None:
        """Wake the waiters, and say whether all that was marked is durable.

        :raises Exception: it is not; what does not last is not counted any more.
        """
        self.notify()
        if self._failure is not None:
            for entry in (*self._unsure, *self._marked):
                self._count(entry, -1)
            raise self._failure

    def check(self) -> None:
        """Say whether there can be more commits.

        :raises Exception: what the last one failed with.
        """
        if self._failure is not None:
            raise self._failure from self._failure.__cause__

    # --- what is done ----------------------------------------------------------------------------------

    def mark(self, entry: Entry) -> None:
        """Mark an entry as done; it counts once all before it in its account are."""
        entry.is_done = True
        queue = entry.queue
        while queue and queue[0].is_done:
            ready = queue.popleft()
            self._changes[ready.key] = ready.progress
            self._marked.append(ready)
            self._marked_since += 1
            self._count(ready, 1)
        if self._marked_since >= COMMIT_PAGES:
            self._full.set()
        self._marks.set()

    async def wait_until_durable(self, entry: Entry) -> None:
        """Wait until ``entry`` is durable; the next commit begins as soon as it can.

        :raises Exception: the last one failed.
        """
        while not entry.durable:
            self.check()
            self.require_open()
            self._full.set()
            await self._flushed.wait()

    async def write(self, page: PulledPage[Any]) -> None:
        """Give a page to the sink and mark it as done: from then on a commit takes both or neither."""
        assert self._sink is not None
        async with self._written:
            self.check()
            await self._sink.write(page)
            page.mark()

    def _count(self, entry: Entry, sign: int) -> None:
        report = self._report
        if entry.rows is not None:
            report.rows += sign * entry.rows
            report.pages += sign
            report.done += sign * (entry.ends != "")
            report.empty += sign * (entry.ends == "empty")
            report.windows_done += sign * entry.progress.is_over

    # --- the rows of open windows ----------------------------------------------------------------------

    def remember(self, entry: Entry, page: AccountPage[Any], body: bytes, *, is_whole: bool) -> None:
        """Remember the rows of a page whose window goes on; ``is_whole``: they are all that its body holds."""
        items = page.page.items
        if not items:
            return
        if (
            is_whole
            and self._keeps_bodies
            and len(body) <= SLICED_ABOVE  # a larger one takes too long to be read again in one go
            and self._kept_bytes + len(body) <= KEPT_BYTES
        ):
            entry.body = body
        else:
            entry.marks = row_identities(items, page.plain_views if type(items[0]) is Raw else None)

    async def keys_of(self, key: Key, handed_out: Iterable[Entry]) -> bytes:
        """Return the keys of all rows of a window that were handed out, in this run or an earlier one."""
        async with self._committing:  # no commit is under way, so a row is in just one of these places
            keys = await self._checkpoint.row_keys(key) + self._new_keys.get(key, b"")
            entries = [entry for entry in (*self._marked, *handed_out) if entry.key == key]
            for body in (*self._kept.get(key, ()), *(entry.body for entry in entries if entry.body)):
                keys += self._keys_in(body)
            keys += b"".join([row_keys(entry.marks) for entry in entries if entry.marks])
        return keys

    # --- commits ----------------------------------------------------------------------------------------

    async def _flush(self, *, final: bool = False) -> None:
        """Make durable what is marked, with the sink's state; what the sink will not commit yet stays marked."""
        async with self._committing:
            async with self._written:
                self._full = anyio.Event()
                self._marked_since = 0
                # Both are taken in one go: what is marked while this waits belongs to the next commit.
                changes, self._changes = self._changes, {}
                marked, self._marked = self._marked, []
                self._unsure = marked
                await self._gather_keys(marked, changes, final=final)
                sink, begun = self._sink, None
                if isinstance(sink, FileSink) and (changes or final):
                    begun = sink.begin_commit(final=final)
                else:
                    await self._commit(changes, marked, final=final)
            if begun is not None:
                await self._commit(changes, marked, final=final, begun=begun)

    async def _gather_keys(
        self, marked: list[Entry], changes: dict[Key, Progress], *, final: bool = False
    ) -> None:
        """Make the keys of rows whose window is not over.

        Most windows are over before anybody asks. Where nothing is to outlive the process, the bodies of some pages
        are kept instead until the pull is left: keeping them costs nothing, and reading them again is seldom needed.
        """
        made = 0
        for entry in marked:
            marks, entry.marks = entry.marks, b""
            if changes[entry.key].is_over:
                continue
            if final and entry.body:
                self._add_keys(entry.key, self._keys_in(entry.body))
                made += len(entry.body)
            elif marks:
                self._add_keys(entry.key, row_keys(marks))
                made += len(marks)
            if made >= YIELD_BYTES:
                made = 0
                await anyio.lowlevel.checkpoint()
        for key, bodies in self._kept.items() if final else ():
            if key in changes and changes[key].is_over:
                continue
            for body in bodies:
                self._add_keys(key, self._keys_in(body))
                await anyio.lowlevel.checkpoint()

    def _keep(self, marked: list[Entry], changes: dict[Key, Progress], *, final: bool) -> None:
        """Keep the bodies of what is durable now, as long as their windows are not over."""
        for entry in marked:
            entry.durable = True
            body, entry.body = entry.body, b""
            if changes[entry.key].is_over:
                self._kept_bytes -= sum(map(len, self._kept.pop(entry.key, ())))
            elif body:
                self._kept.setdefault(entry.key, []).append(body)
                self._kept_bytes += len(body)
        if final:
            self._kept.clear()

    def _add_keys(self, key: Key, keys: bytes) -> None:
        self._new_keys[key] = self._new_keys.get(key, b"") + keys

    def _keys_in(self, body: bytes) -> bytes:
        """Return the keys of the rows of a page that was read before."""
        return row_keys(row_identities(self._reader.read(body).items))

    async def _commit(
        self,
        changes: dict[Key, Progress],
        marked: list[Entry],
        *,
        final: bool,
        begun: Awaitable[bytes | None] | None = None,
    ) -> None:
        keys_of, self._new_keys = self._new_keys, {}
        if self._sink is None:
            if changes or keys_of:
                await self._checkpoint.commit(changes, row_keys=keys_of)
        elif (changes or final) and not await commit_together(
            self._sink, self._checkpoint, changes, row_keys=keys_of, final=final, begun=begun
        ):
            changes.update(self._changes)
            marked += self._marked
            self._changes, self._new_keys, self._marked = changes, keys_of, marked
            self._unsure = []
            return
        self._keep(marked, changes, final=final)
        self._unsure = []
        self.notify()

    def notify(self) -> None:
        """Let those look again who wait until something is durable."""
        flushed, self._flushed = self._flushed, anyio.Event()
        flushed.set()


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

"""Tracks which pages of a pull are finished and makes them durable, together with the state of the sink.

How it works. A page that was handed out has an entry, in line behind the earlier ones of its account. Consumers mark
entries as done. What is marked, with nothing unmarked before it in its account, becomes durable with the next commit.
A task of the pull commits once in a while, and at once when somebody waits for it.

The rows handed out of a window that is still open are remembered in a log (``row_fingerprints``) in case it is
restarted. What is remembered is as durable as the progress it belongs to.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from time import perf_counter
from typing import Any, Literal, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
from msgspec import Raw

from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import UsageError
from truto_ci_async.models import Page
from truto_ci_async.models.pulls import AccountPage, Place, PlannedAccount, Window
from truto_ci_async.pagination.page_fetch import SLICED_ABOVE
from truto_ci_async.pull.checkpoint.base import Key, Progress
from truto_ci_async.pull.stores.adapters import PullStore

from .report import PullReport
from .row_fingerprints import log_of_place, row_fingerprints, row_identities, split_places

T = TypeVar("T")

#: How an account ended: with rows, without any, or not at all, since its provider does not have the resource.
Ends: TypeAlias = Literal["", "done", "empty", "skipped"]

# A commit is due after this many marked pages or seconds, and at once if somebody waits for it.
COMMIT_PAGES = 64
COMMIT_SECONDS = 0.05
# Seconds until a sink that was not ready to commit is asked again, if no page comes first.
ASK_AGAIN_SECONDS = 1.0
# With a checkpoint in memory, this many bytes of bodies are kept instead of logs.
KEPT_BYTES = 16 * 2**20
# The loop gets a turn after logs were made of this many bytes or entries, which takes a few milliseconds.
YIELD_BYTES, YIELD_ENTRIES = 2**19, 2_000


class Entry:
    """What a page, or the end of an account, adds to the progress; the entries of an account are in order."""

    __slots__ = (
        "body", "durable", "ends", "identities", "is_done", "items", "key", "log", "missing", "progress", "queue",
        "rows", "windows",
    )  # fmt: skip

    def __init__(
        self,
        queue: list[Entry],
        key: Key,
        progress: Progress,
        *,
        rows: int | None = None,
        ends: Ends = "",
        windows: int = 0,
        missing: int = 0,
    ) -> None:
        self.queue = queue
        self.key = key
        self.progress = progress
        self.rows = rows  # on the page; None: this is not a page
        self.ends = ends  # how the account ended, on its last page of all
        self.windows = windows  # that are over with it
        self.missing = missing  # meetings without a transcript
        self.log = b""  # what happened to its rows; made of one of the next, if the window goes on
        self.body = b""
        self.identities = b""
        self.items: Sequence[Any] = ()
        self.is_done = False
        self.durable = False
        queue.append(self)


class PulledPage(AccountPage[T]):
    """A page that a pull handed out; ``commit`` marks it as done."""

    __slots__ = ("_commits", "_entry", "is_first", "is_partial")

    def __init__(
        self, account: PlannedAccount, window: Window, page: Page[T], *, commits: Commits, entry: Entry
    ) -> None:
        super().__init__(account, window, page)
        self._commits = commits
        self._entry = entry
        self.is_first = False  # of the walk over its window: earlier pages of that no longer count in a sync
        self.is_partial = False  # it, or one before it in the walk, lacks rows

    @property
    def key(self) -> Key:
        """The account, and the index of the window in the plan."""
        return self._entry.key

    def mark(self) -> None:
        """Mark this page as done; it becomes durable with the next commit.

        :raises UsageError: the pull is closed, or it has a sink that was not given this page.
        """
        self._commits.mark_taken(self._entry)

    def entry_in(self, commits: Commits) -> Entry:
        """Return the entry of this page.

        :raises UsageError: it is a page of another pull.
        """
        if commits is not self._commits:
            raise UsageError("this page was handed out by another pull")
        return self._entry

    async def commit(self) -> None:
        """Mark this page as done, and wait until that is durable.

        Pages of one account are committed in order: this one waits for those before it. Committing twice is fine.

        :raises StorageError: the checkpoint cannot be written.
        """
        self.mark()
        await self._commits.wait_until_durable(self._entry)


class Commits:
    """Tracks what is marked as done in one pull, and makes it durable.

    ``report`` counts entries when they are marked, and takes back those that in the end are not durable.
    ``on_failure`` is called when a commit fails. There are no more commits after that. ``also`` returns what to commit
    together with the progress of some walks.
    """

    def __init__(
        self,
        store: PullStore,
        *,
        reader: PageReader[Any],
        report: PullReport,
        on_failure: Callable[[Exception], None],
        also: Callable[[Iterable[Key]], Mapping[Key, Progress]] | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self.has_ids = False  # the id alone tells rows apart
        self._report = report
        self._on_failure = on_failure
        self._failure: Exception | None = None  # nothing more can be made durable
        self.on_commit: Callable[[int, float], None] | None = None  # pages and seconds
        self.is_open = False
        self.is_closed = False  # the pull was left: nothing more can be marked
        self._queues: dict[str, list[Entry]] = {}  # of accounts with entries that do not count yet
        self._also = also
        self._changes: dict[Key, Progress] = {}
        self._marked: list[Entry] = []
        self._unsure: list[Entry] = []  # marked, and in a commit that is under way or failed
        self._marked_since = 0  # the last commit began
        self._logs = defaultdict[Key, bytes](bytes)  # for the next commit
        self._logged = 0  # how many of the marked ones have their logs there, unless they have a body
        self._bodies: dict[Key, list[bytes]] = {}  # committed, in place of logs
        self._body_bytes = 0
        self._write_failure: Exception | None = None  # nothing more is written; what was written is committed
        self._turned: anyio.Event | None = None  # for those who wait: a page was written, or none will be
        self._is_due = anyio.Event()  # something is marked
        self._is_urgent = anyio.Event()  # much is marked, or somebody waits
        self._flushed = anyio.Event()
        self._told_issues = 0  # of the store, that are in the report
        # The store is asked one thing at a time, but for one that can be written to while it commits.
        self._store_lock = asyncio.Lock()
        # Held until what a commit took is either durable or marked again.
        self._commit_lock = asyncio.Lock()

    # --- life ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit what is marked, again and again. A cancellation waits for a commit that is under way."""
        while self._failure is None:
            with anyio.move_on_after(ASK_AGAIN_SECONDS if self._changes else None):
                await self._is_due.wait()
            self._is_due = anyio.Event()
            with anyio.move_on_after(COMMIT_SECONDS):
                await self._is_urgent.wait()
            try:
                with anyio.CancelScope(shield=True):  # half a commit would double rows
                    await self._flush()
            except Exception as error:  # noqa: BLE001 - a sink may raise anything; the consumer gets it
                self.fail(error)
                self._on_failure(error)

    async def close(self) -> None:
        """Make durable what is marked, once ``run`` has ended; ``settle`` says how that went."""
        try:
            if self.is_open and self._failure is None:
                await self._flush(final=True)
                if self._report.complete:
                    self._store.note_complete()
        except Exception as error:  # noqa: BLE001 - a sink may raise anything; raised by ``settle``
            self.fail(error)
        if self._failure is not None and self._bodies:
            # What was committed before stays, so its rows have to be known to a later run.
            known = {key: b"".join(map(self._read_again, bodies)) for key, bodies in self._bodies.items()}
            with suppress(Exception):  # the checkpoint may be what failed, and that is reported already
                await self._store.add_row_fingerprints(known)

    def fail(self, error: Exception) -> None:
        """Note that nothing more can be made durable."""
        self._failure = self._failure or error

    def settle(self) -> None:
        """Wake the waiters, and take back from the report what did not become durable.

        :raises Exception: what the commits failed with.
        """
        self.notify()
        if self._failure is not None:
            for entry in (*self._unsure, *self._marked):
                self._count(entry, -1)
            self._report.error = self._report.error or self._failure
            raise self._failure

    def shut(self) -> None:
        """Refuse further writes and marks: the block of the pull was left."""
        self.is_closed = True
        self._next_turn()

    def notify(self) -> None:
        """Wake those who wait until something is durable, or for their turn to write."""
        flushed, self._flushed = self._flushed, anyio.Event()
        flushed.set()
        self._next_turn()

    def _next_turn(self) -> None:
        turned, self._turned = self._turned, None
        if turned is not None:
            turned.set()

    # --- for the consumers -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise the error of the last commit, if it failed."""
        if self._failure is not None:
            raise self._failure from self._failure.__cause__

    def require_open(self) -> None:
        """Raise UsageError unless the pull is open."""
        if self.is_closed:
            raise UsageError("this pull is closed")
        if not self.is_open:
            raise UsageError("open the pull first: async with ... as pages:")

    def queue_of(self, account: str) -> list[Entry]:
        """Return the entries of an account that do not count yet, in order, to put the next one there at once."""
        queue = self._queues.get(account)
        if queue is None:
            queue = self._queues[account] = []
        return queue

    def mark_taken(self, entry: Entry) -> None:
        """Mark the page of an entry as done, for the consumer who took it."""
        self.require_open()
        if self._store.takes_rows and not entry.is_done:
            raise UsageError(
                "this pull has a sink: `await pages.write(page)` marks a page as done, "
                "so that output and progress never part"
            )
        self.mark(entry)

    def mark(self, entry: Entry) -> None:
        """Mark an entry as done; it counts once all before it in its account are."""
        entry.is_done = True
        queue = entry.queue
        done = next((number for number, each in enumerate(queue) if not each.is_done), len(queue))
        for ready in queue[:done]:
            self._changes[ready.key] = ready.progress
            self._marked.append(ready)
            self._marked_since += 1
            self._count(ready, 1)
        del queue[:done]
        if not queue:
            self._queues.pop(entry.key[0], None)
        if self._marked_since >= COMMIT_PAGES:
            self._is_urgent.set()
        self._is_due.set()

    async def wait_until_durable(self, entry: Entry) -> None:
        """Start the next commit as soon as possible, and wait for the one that makes ``entry`` durable.

        :raises Exception: what the last commit failed with.
        """
        while not entry.durable:
            self.check()
            self.require_open()
            self._is_urgent.set()
            await self._flushed.wait()

    async def write(self, page: PulledPage[Any]) -> None:
        """Give a page to the sink and mark it as done: from then on a commit takes both or neither.

        :raises UsageError: there is no sink, the pull is closed, or the page was written before.
        """
        if not self._store.takes_rows:
            raise UsageError("this pull has no sink to write to: make it with sink=...")
        entry = page.entry_in(self)
        while self._store.is_full:
            self.check()
            self.require_open()
            self._is_due.set()
            self._is_urgent.set()
            await self._flushed.wait()
        while not await self._write_in_turn(page, entry):
            self._turned = self._turned or anyio.Event()
            await self._turned.wait()

    async def _write_in_turn(self, page: PulledPage[Any], entry: Entry) -> bool:
        """Write a page unless an earlier one of its account is still to be written. Return whether it was written."""
        async with self._store_lock:
            self.check()
            self.require_open()
            if self._write_failure is not None:
                raise self._write_failure
            if entry.is_done:
                raise UsageError("this page was written before")
            if entry.queue[0] is not entry:
                return False
            try:
                place = await self._store.write(page)
            except Exception as error:
                # The page is not in the sink, and no later one of its account may be.
                self._write_failure = error
                self._on_failure(error)
                raise
            self.check()  # a store may take pages while it commits
            # The sink has the page, and a final commit waits for this lock.
            self._note_place(entry, page, place)
            self.mark(entry)
        self._next_turn()
        return True

    def _count(self, entry: Entry, sign: int) -> None:
        report = self._report
        if entry.rows is not None:
            report.rows += sign * entry.rows
            report.pages += sign
        report.without_transcript += sign * entry.missing
        report.done += sign * (entry.ends != "")
        report.empty += sign * (entry.ends == "empty")
        report.windows_done += sign * entry.windows

    # --- the rows of open windows ----------------------------------------------------------------------

    def remember(self, entry: Entry, page: AccountPage[Any], body: bytes) -> None:
        """Remember the rows of a page whose window goes on; they are all that its body holds.

        Where nothing is to outlive the process, some bodies are kept: that costs nothing, and reading them again is
        seldom needed. A large body takes too long to be read again in one go. Rows that have a place once they are
        written are kept until then.
        """
        items = page.page.items
        is_kept = self._store.keeps_bodies and len(body) <= min(SLICED_ABOVE, KEPT_BYTES - self._body_bytes)
        if items and self._store.reads_again and type(items[0]) is Raw:
            entry.items = items
        elif items and is_kept:
            entry.body = body
        elif items:
            entry.identities = row_identities(items, by_id=self.has_ids)

    def _note_place(self, entry: Entry, page: AccountPage[Any], place: Place | None) -> None:
        """Note where the rows of a page were written. Others may have been written than were handed out."""
        items, entry.items = entry.items, ()
        if items and place is not None and page.page.items is items:
            entry.log = log_of_place(place)
        elif items:
            entry.identities = row_identities(items, by_id=self.has_ids)

    async def log_of(self, key: Key, handed_out: Iterable[Entry]) -> bytes:
        """Return the log of a window: all its rows that were handed out, in this run or an earlier one.

        Bodies that stand for logs are stored as such now: they have to come before the log of the next walk.

        :raises Exception: what the last commit failed with.
        """
        async with self._commit_lock:  # no commit is under way, so a row is in just one of these places
            self.check()
            if bodies := self._bodies.pop(key, ()):
                self._body_bytes -= sum(map(len, bodies))
                await self._store.add_row_fingerprints({key: b"".join(map(self._read_again, bodies))})
            async with self._store_lock:  # a page may be written just now
                known = [await self._store.row_fingerprints(key), self._logs.get(key, b"")]
                self._logged = 0  # logs are made of bodies here
                for entry in (*self._marked, *handed_out):
                    if entry.key == key:
                        entry.log, entry.body, entry.identities, entry.items = self._log(entry), b"", b"", ()
                        known.append(entry.log)
                return b"".join([await self._without_place(part) for part in split_places(b"".join(known))])

    async def _without_place(self, part: bytes | Place) -> bytes:
        """Return a part of a log with the fingerprints of the rows for which it has a place."""
        if isinstance(part, bytes):
            return part
        return self._fingerprints(await self._store.read_again(part))

    def _log(self, entry: Entry) -> bytes:
        if entry.log or entry.body:
            return entry.log or self._read_again(entry.body)
        return row_fingerprints(entry.identities) if entry.identities else self._fingerprints(entry.items)

    def _fingerprints(self, items: Sequence[Any]) -> bytes:
        return row_fingerprints(row_identities(items, by_id=self.has_ids))

    def _read_again(self, body: bytes) -> bytes:
        """Return the fingerprints of the rows of a page that was read before."""
        return self._fingerprints(self._reader.read(body).items)

    async def _make_logs(self, changes: dict[Key, Progress], *, final: bool) -> None:
        """Make the logs that go with a commit: those of windows that are not over.

        Bodies that are kept count as well in the end.
        """
        made = 0
        for number, entry in enumerate(islice(self._unsure, 0 if final else self._logged, None), 1):
            is_due = entry.log or entry.identities or (final and entry.body)
            if is_due and not changes[entry.key].is_over:
                self._logs[entry.key] += self._log(entry)
                made += len(entry.body or entry.identities)
            entry.log = entry.identities = b""
            if made >= YIELD_BYTES or number % YIELD_ENTRIES == 0:
                made = 0
                await anyio.lowlevel.checkpoint()
        for key, bodies in self._bodies.items() if final else ():
            for body in bodies if key not in changes or not changes[key].is_over else ():
                self._logs[key] += self._read_again(body)
                await anyio.lowlevel.checkpoint()

    async def _note_durable(self, changes: dict[Key, Progress], *, final: bool) -> None:
        """Note that a commit is durable, and keep its bodies as long as their windows are not over."""
        noted, self._unsure, self._logged = self._unsure, [], 0
        for number, entry in enumerate(noted, 1):
            if number % YIELD_ENTRIES == 0:
                await anyio.lowlevel.checkpoint()
            entry.durable = True
            body, entry.body = entry.body, b""
            if changes[entry.key].is_over:
                self._body_bytes -= sum(map(len, self._bodies.pop(entry.key, ())))
            elif body:
                self._bodies.setdefault(entry.key, []).append(body)
                self._body_bytes += len(body)
        if final:
            self._bodies.clear()

    async def _flush(self, *, final: bool = False) -> None:
        """Make durable what is marked, with the sink's state; what the sink will not commit yet stays marked."""
        async with self._commit_lock:
            started = perf_counter()
            async with self._store_lock:
                self._is_urgent = anyio.Event()
                self._marked_since = 0
                # Both are taken in one go: what is marked while this waits belongs to the next commit.
                changes, self._changes = self._changes, {}
                if self._also is not None:
                    changes.update(self._also(changes))
                self._unsure, self._marked = self._marked, []
                await self._make_logs(changes, final=final)
                logs, self._logs = self._logs, defaultdict[Key, bytes](bytes)
                has_work = bool(changes or logs or final)
                begin, begun, is_durable = self._store.begin_commit, None, True
                if has_work and begin is not None:
                    begun = begin(changes, row_fingerprints=logs, final=final)
                elif has_work:
                    is_durable = await self._store.commit(changes, row_fingerprints=logs, final=final)
            if begun is not None:
                is_durable = await begun
            pages = sum(entry.rows is not None for entry in self._unsure) if self.on_commit else 0
            await self._settle_commit(changes, logs, is_durable=is_durable, final=final)
            if self.on_commit is not None and is_durable and pages:
                self.on_commit(pages, perf_counter() - started)

    async def _settle_commit(
        self, changes: dict[Key, Progress], logs: defaultdict[Key, bytes], *, is_durable: bool, final: bool
    ) -> None:
        if is_durable:
            await self._note_durable(changes, final=final)
            self.notify()
            found = self._store.issues_count
            self._report.issues += found - self._told_issues
            self._told_issues = found
            await self._store.committed()
        else:
            # A sink may decline a thousand times: entries of earlier attempts are neither copied nor visited again.
            self._logged = len(self._unsure)
            changes.update(self._changes)
            self._unsure += self._marked
            self._changes, self._marked, self._logs = changes, self._unsure, logs
            self._unsure = []

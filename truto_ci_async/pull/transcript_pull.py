"""Pulls the transcripts of one account: lists the meetings of each window, and asks for each of them once.

The position of such a walk names the meetings that are still to be asked for, so that a later run goes on in the middle
of a page of meetings without listing it again. Which meetings were asked for is known from the log of the rows handed
out (``row_fingerprints``), whose identity is the meeting, and from the list of those without a transcript: a list that
begins anew, or has a meeting twice, asks for none a second time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgspec
from msgspec import Raw
from msgspec.structs import replace

from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async._wire.list_query import RequestTargets
from truto_ci_async._wire.page_reader import PageData, PageReader
from truto_ci_async._wire.responses import says_no_transcript
from truto_ci_async.errors import CursorLoopError
from truto_ci_async.models import MeetingRef, Page, Position, Transcript
from truto_ci_async.pagination.next_page import PageCursor
from truto_ci_async.pagination.page_fetch import fetch_page, read_page
from truto_ci_async.pull.checkpoint.base import Progress

from .account_pull import AccountPull
from .positions import FROM_START, MeetingQueue, advance, join_position, split_position
from .row_fingerprints import row_fingerprints, split, views_of

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient
    from truto_ci_async._http.call import CallTime


class TranscriptPull(AccountPull):
    """One turn of an account in a pull of transcripts."""

    async def _prepare(self) -> None:
        state = self._state
        if state.queue is not None:
            return
        whole, text = split_position(state.progress.position)
        if whole:
            self._take_whole()
        queue = state.queue = MeetingQueue() if text is None else MeetingQueue.parse(text)
        handed_out = split(await self._log()) if state.progress.pages else ()
        state.asked = {*handed_out, *map(_fingerprint, queue.missing)}

    async def _fetch_next(self, client: BaseClient, fetch: anyio.CancelScope) -> CursorLoopError | None:
        """Ask for the transcript of the next meeting, or for the next page of meetings."""
        queue = cast("MeetingQueue", self._state.queue)
        if queue.ids:
            await self._ask(client, fetch, queue)
            return None
        return await self._list(client, fetch, queue)

    # --- meetings --------------------------------------------------------------------------------------

    async def _list(
        self, client: BaseClient, fetch: anyio.CancelScope, queue: MeetingQueue
    ) -> CursorLoopError | None:
        state = self._state
        if state.cursor is None:
            position = None if not queue.page else Position.parse(queue.page)
            self._begin_at(self._targets(), position)
        walk, page, here = await self._fetch_listed(client, self._read_meetings)
        kept = self._check_window(page)
        if kept is None:
            return None
        loop = advance(walk, here, page)
        named = [_meeting_id(view) for view in views_of(kept.items)]
        ids = [
            each
            for each in dict.fromkeys(named)
            if each is not None and _fingerprint(each) not in state.asked
        ]
        self._shared.report.without_transcript += named.count(None)  # those cannot be requested
        queue.ids = tuple(ids)
        queue.page = None if walk.position is None else str(walk.position)
        if loop is not None:  # those on this page are asked for; if it was all known, the account ends here
            queue.page, state.cursor = FROM_START, None
            return None if ids else loop
        if not ids and queue.page is None:
            await self._reserve(fetch)
            empty = Page[Any]((), item_type=self._shared.reader.item_type, response=page.response)
            self._make_transcripts(empty, queue)
        return None

    async def _read_meetings(self, body: bytes, time_of_call: CallTime) -> PageData[Any]:
        self._note_arrival(body)
        return await read_page(
            self._shared.client, _meetings, body, time_of_call, account=self._state.account.id
        )

    # --- transcripts -----------------------------------------------------------------------------------

    async def _ask(self, client: BaseClient, fetch: anyio.CancelScope, queue: MeetingQueue) -> None:
        """Ask for the transcript of the first meeting in line."""
        shared, meeting = self._shared, queue.ids[0]
        targets = RequestTargets(shared.plan.transcript_query(self._state.account, meeting))
        walk = PageCursor(targets.start_position(None), 1, account=self._state.account.id)
        read = partial(self._read, fetch, shared.reader)
        page: Page[Any] | None = None
        while (here := walk.position) is not None:
            if page is not None:
                self._give_back()  # of the pages of one transcript only the last one keeps a place
            self._request = targets, here
            found = await fetch_page(
                client,
                targets,
                read,
                here,
                empty_body=shared.reader.empty_body,
                empty_on_not_found=says_no_transcript,
            )
            self._count(found, of_window=False)
            if page is None:
                page = found
            else:  # it is not known whether there ever is a second page; it would be the same transcript
                page.items = (*page.items, *found.items)
            if (loop := advance(walk, here, found)) is not None:
                raise loop
        assert page is not None
        page = copy(page)
        page.items = with_meeting(page.items, meeting)
        queue.asked(meeting, found=bool(page.items), now=time.time())
        self._state.asked.add(_fingerprint(meeting))
        self._make_transcripts(page, queue, meeting)

    def _make_transcripts(self, page: Page[Any], queue: MeetingQueue, meeting: str | None = None) -> None:
        """Make what is handed over for a meeting; without one, only that the window is over."""
        state = self._state
        is_last = not queue.ids and queue.page is None
        # Meetings without a transcript are kept: a later run may look again.
        position = str(queue) if not is_last or queue.missing else None
        if not is_last:
            position = join_position(str(queue), whole=state.is_whole)
        missing = meeting is not None and not page.items
        _, entry = self._add_entry(page, Progress(position=position), is_last=is_last, missing=missing)
        if meeting is not None and page.items and not is_last:
            entry.log = _fingerprint(meeting)
        state.body = b""

    def _restart_position(self) -> str | None:
        queue = self._state.queue
        if queue is None or not queue.missing:
            return None
        return join_position(str(MeetingQueue(missing=queue.missing)), whole=self._state.is_whole)


_meetings = PageReader(ItemReader[Any](Raw))


def _fingerprint(meeting: str) -> bytes:
    return row_fingerprints(msgspec.json.encode([meeting]))


def _meeting_id(view: Any) -> str | None:
    given = None if view is None else view.id
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return given if isinstance(given, str) and given else None


# --- the meeting of a row ------------------------------------------------------------------------------------------


def with_meeting(items: Sequence[Any], meeting: str) -> tuple[Any, ...]:
    """Return transcripts that name their meeting: those that do not get the one that was asked for."""
    return tuple(_with_meeting(item, meeting) for item in items)


def _with_meeting(item: Any, meeting: str) -> Any:
    if isinstance(item, Transcript):
        return item if item.meeting_id is not None else replace(item, meeting=_named(item.meeting, meeting))
    if type(item) is Raw:
        return _raw_with_meeting(item, meeting)
    if isinstance(item, dict):
        fields = cast("dict[str, Any]", item)
        given: object = fields.get("meeting")
        members = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else dict[str, Any]()
        if members.get("id") is not None:
            return fields
        return {**fields, "meeting": {**members, "id": meeting}}
    return item


def _named(given: MeetingRef | None, meeting: str) -> MeetingRef:
    return MeetingRef(id=meeting) if given is None else replace(given, id=meeting)


class _Meeting(msgspec.Struct):
    id: Any = None


class _WithMeeting(msgspec.Struct):
    meeting: _Meeting | None = None


_read = msgspec.json.Decoder(_WithMeeting).decode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode


def _raw_with_meeting(item: Raw, meeting: str) -> Raw:
    try:
        found = _read(item).meeting
        if found is not None and found.id is not None:
            return item
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        fields: dict[str, Any] = _fields(item)
    except (msgspec.DecodeError, RecursionError):  # no object: there is no place for it
        return item
    members: dict[str, Any] = {}
    if bytes(fields.get("meeting", b""))[:1] == b"{":
        members = _fields(fields["meeting"])
    return Raw(msgspec.json.encode({**fields, "meeting": {**members, "id": meeting}}))

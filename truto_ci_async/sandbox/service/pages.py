"""Splits lists into pages, and writes them as JSON: envelopes, keyed results, cursors, faults of a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .cursors import Cursors, InvalidCursor
from .faults import Fault
from .responses import REQUEST_ID, ServiceError, as_object, dump_json
from .windows import TIMEZONE, Window

ProviderShape: TypeAlias = Literal["envelope", "gong"]
StreamAs: TypeAlias = Literal["json", "ndjson", "bytes", "empty"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What responses look like where Truto's contract leaves more than one shape open. See `Sandbox`."""

    provider_shape: ProviderShape
    stream_as: StreamAs
    accounts_key: Literal["result", "results"]
    capabilities_shape: Literal["list", "resources"]
    envelope_first: bool
    extra_envelope: Mapping[str, Any]
    end_cursor: Literal["null", "empty", "absent"]


@dataclass(frozen=True, slots=True)
class PageRange:
    """The position of a page in its list."""

    offset: int
    limit: int
    total: int
    filters: Mapping[str, str]  # what its cursors are bound to

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.limit)


class Pages:
    """Issues the cursors between pages, and builds the bodies."""

    def __init__(self, cursors: Cursors, shapes: Shapes) -> None:
        self._cursors = cursors
        self._shapes = shapes
        self._serial = 0  # for cursors of empty pages, which must not repeat

    def offset(self, cursor: str | None, filters: Mapping[str, str]) -> int:
        if cursor is None:
            return 0
        try:
            return self._cursors.read(cursor, filters)
        except InvalidCursor as error:
            raise ServiceError(400, str(error)) from None

    def finish(self, fault: Fault | None, page: list[Any], where: PageRange) -> tuple[list[Any], str | None]:
        """Return the page's items and the next cursor, with a fault applied to both."""
        following, serial = where.offset + where.limit, 0
        more = following < where.total
        if fault is None:
            pass
        elif fault.kind == "empty_page":
            self._serial += 1
            page, following, serial, more = [], where.offset, self._serial, True
        elif fault.kind == "loop":
            number = where.offset // where.limit
            following = where.limit * (number + 1 if number < fault.size else 1)
            more = True
        elif fault.kind == "items":
            own = [] if fault.mode == "replace" else page
            page = [*fault.content, *own] if fault.mode == "prepend" else [*own, *fault.content]
        elif fault.kind == "edit":
            page = [each(deepcopy(record)) for record in page for each in fault.content]
        return page, self._cursors.issue(where.filters, following, serial) if more else None

    def envelope(
        self,
        page: Sequence[Any],
        cursor: str | None,
        where: PageRange,
        *,
        key_by: str | None,
        extra: Mapping[str, Any],
    ) -> bytes:
        """Write Truto's envelope around a page. `extra` holds members of this response alone."""
        result = _keyed(page, key_by) if key_by else dump_items(page)
        previous = max(0, where.offset - where.limit)
        rest: dict[str, Any] = {
            "next_cursor": cursor or ("" if self._shapes.end_cursor == "empty" else None),
            "prev_cursor": self._cursors.issue(where.filters, previous) if where.offset else None,
            "result_count": len(page),
            "is_partial_response": False,
        }
        if cursor is None and self._shapes.end_cursor == "absent":
            del rest["next_cursor"]
        rest |= {**extra, **self._shapes.extra_envelope}
        members = [b'"result":' + result, dump_json(rest)[1:-1]]
        if self._shapes.envelope_first:
            members.reverse()
        return b"{%b}" % b",".join(members)


def gong_body(
    member: str, rows: Sequence[Any], cursor: str | None, where: PageRange, window: Window | None
) -> bytes:
    """Write Gong's own body around its rows, as its public API description has it."""
    records: dict[str, Any] = {
        "totalRecords": where.total,
        "currentPageSize": len(rows),
        "currentPageNumber": where.offset // where.limit,
    }
    if cursor is not None:
        records["cursor"] = cursor
    before = dump_json({"requestId": REQUEST_ID, "records": records})[:-1]
    if window is None:
        return b'%b,"%b":%b}' % (before, member.encode(), dump_items(rows))
    start, end = window.texts
    after = dump_json({"timeZone": TIMEZONE, "fromDateTime": start, "toDateTime": end})[1:]
    return b'%b,"%b":%b,%b' % (before, member.encode(), dump_items(rows), after)


def other_body(member: str, rows: Sequence[Any], cursor: str | None, where: PageRange) -> bytes:
    """Write the body of a provider other than Gong."""
    head = dump_json({"count": where.total, "next": cursor})[:-1]
    return b'%b,"%b":%b}' % (head, member.encode(), dump_items(rows))


def dump_items(items: Sequence[Any]) -> bytes:
    return b"[%b]" % b",".join(map(_dump_item, items))


def _keyed(page: Sequence[Any], name: str) -> bytes:
    """Key the page as JavaScript does: a missing field is "undefined", and the last record of a key wins."""
    found: dict[str, bytes] = {}
    for item in page:
        record = as_object(item) or {}
        value = record.get(name)
        if name not in record:
            key = "undefined"
        elif isinstance(value, dict | list):
            key = "[object Object]"
        else:
            key = value if isinstance(value, str) else json.dumps(value)
        found[key] = _dump_item(item)
    return b"{%b}" % b",".join(b"%b:%b" % (dump_json(key), item) for key, item in found.items())


def _dump_item(item: Any) -> bytes:
    return item if isinstance(item, bytes) else dump_json(item)

"""What `ItemDecoder` and `NdjsonDecoder` share: feed, flush, close, the counts, and the check for UTF-8."""

from __future__ import annotations

import codecs
from typing import Generic, TypeVar

from truto_ci_async._json import BYTE_ORDER_MARK
from truto_ci_async.errors import DecodeError, TruncatedBodyError, UsageError
from truto_ci_async.models import Issue

from .envelope import Envelope
from .item_collector import ItemCollector

T = TypeVar("T")


class BodyDecoder(Generic[T]):
    """Read the items of one body: ``feed`` for each chunk, then ``flush`` and ``close``, once.

    ``issues`` holds the first repairs (see ``ItemReader``), ``issues_count`` counts them all. After an error nothing
    more can be read.
    """

    def __init__(self, collector: ItemCollector[T], *, max_item_bytes: int) -> None:
        self.bytes_read = 0
        self.items_read = 0
        self._collector = collector
        self._max_item_bytes = max_item_bytes
        self._utf8 = _Utf8Validator()
        self._mark: bytes | None = b""  # the first bytes, as long as they may be those of a byte order mark
        # Why nothing more can be read.
        self._over = ""  # mutant: None is as good

    @property
    def issues(self) -> list[Issue]:
        return self._collector.issues

    @property
    def issues_count(self) -> int:
        return self._collector.issues_count

    def feed(self, chunk: bytes) -> list[T]:
        """Take the next bytes of the body, and return the items they complete.

        This takes about as long as decoding ``chunk``, so slice anything larger than a few 100 KiB.

        :raises DecodeError: the body is not JSON, or an item does not fit and ``on_invalid="raise"``.
        :raises BodyTooLargeError: an item, or what surrounds the items, is larger than its limit.
        :raises UsageError: after an error, ``flush`` or ``close``.
        """
        self._begin("feed")
        self._utf8.check(chunk, self.bytes_read)
        self.bytes_read += len(chunk)
        items = self._read(bytes(chunk) if self._mark is None else self._without_mark(bytes(chunk)))
        self.items_read += len(items)
        self._over = ""  # mutant: None is as good
        return items

    def flush(self) -> list[T]:
        """Return the items still held when the body has ended; call ``close`` next.

        :raises DecodeError: as ``feed``.
        :raises TruncatedBodyError: a last line of NDJSON ends early. For other bodies ``close`` raises it.
        """
        self._begin("flush")
        items = self._read_held()
        self.items_read += len(items)
        self._over = "it was flushed"
        return items

    def close(self) -> Envelope:
        """End the body, and return what surrounded the items.

        :raises TruncatedBodyError: it ended early; ``items_read`` and ``bytes_read`` say where.
        :raises DecodeError: it is not JSON; it has no items at the path; or all its items were dropped.
        :raises UsageError: ``flush`` was not called and would have returned items; or after an error.
        """
        if self._over != "it was flushed":
            self._check_open("close")
            if self.flush():
                raise UsageError("flush() returns the last items: call it before close()")
        self._over = "it was closed"
        if self._mark:
            raise self._truncated("the JSON")
        envelope = self._read_envelope()
        if self._collector.dropped_count and not self.items_read:
            raise self._collector.no_item_fits()
        return envelope

    def _without_mark(self, chunk: bytes) -> bytes:
        """Remove a byte order mark from the beginning of the body, whose first bytes may arrive one by one."""
        chunk = (self._mark or b"") + chunk
        if chunk != BYTE_ORDER_MARK and BYTE_ORDER_MARK.startswith(chunk):
            self._mark = chunk
            return b""
        self._mark = None
        return chunk.removeprefix(BYTE_ORDER_MARK)

    def _read(self, chunk: bytes) -> list[T]:
        raise NotImplementedError

    def _read_held(self) -> list[T]:
        raise NotImplementedError

    def _read_envelope(self) -> Envelope:
        raise NotImplementedError

    def _check_open(self, verb: str) -> None:
        if self._over:
            raise UsageError(f"cannot {verb} this decoder: {self._over}; it reads one body once")

    def _begin(self, verb: str) -> None:
        self._check_open(verb)
        self._over = "it failed"  # until the call succeeds

    def _truncated(self, what: str) -> TruncatedBodyError:
        return TruncatedBodyError(
            f"{what} ends early, after {self.bytes_read:,} bytes and {self.items_read:,} items",
            items_read=self.items_read,
            bytes_read=self.bytes_read,
        )


class _Utf8Validator:
    """Check bytes as they arrive, because msgspec does not look inside the values it skips."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # mutant: or in capitals
        self._incomplete = b""  # the first bytes of a character that the last chunk ended in

    def check(self, chunk: bytes, offset: int) -> None:
        if not self._incomplete and chunk.isascii():  # ten times cheaper than decoding
            return
        try:
            self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            at = offset - len(self._incomplete) + error.start
            raise DecodeError(f"the body is not UTF-8 at byte {at:,} ({error.reason})") from error
        self._incomplete = self._decoder.getstate()[0]

"""Decodes the items a parser finds and counts what was wrong with them."""

from __future__ import annotations

import logging
from typing import Generic, TypeVar, cast

from truto_ci_async._json import EXCERPT_BYTES
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async.errors import BodyTooLargeError, DecodeError
from truto_ci_async.models import Issue

T = TypeVar("T")


# Issues kept of a body, the rest is counted only: their raw records must not add up.
ISSUES_KEPT = 100
ISSUE_BYTES_KEPT = 2**20


logger = logging.getLogger("truto_ci_async")


class ItemCollector(Generic[T]):
    """Reads items and counts them: which number comes next, and what was repaired."""

    def __init__(self, reader: ItemReader[T], path: str, *, max_issues: int | None = ISSUES_KEPT) -> None:
        self.reader = reader
        self._max_issues = max_issues
        self.index = 0
        self.issues: list[Issue] = []
        self.issues_count = 0
        self._path = path
        self._issue_bytes = 0

    def read(self, text: bytes) -> list[T]:
        """Read the items of an array.

        :raises msgspec.DecodeError: it is none; nothing was counted then.
        """
        items, issues = self.reader.read_array(text, start=self.index, path=self._path)
        self._count(items, issues)
        return items

    def read_line(self, line: bytes) -> list[T]:
        """Read one item."""
        item, issues = self.reader.read_item(line, index=self.index, path=f"{self._path}[{self.index}]")
        items = [] if any(issue.dropped for issue in issues) else [cast("T", item)]
        self._count(items, issues)
        return items

    def _count(self, items: list[T], issues: list[Issue]) -> None:
        self.index += len(items)
        if not issues:
            return
        self.index += len({issue.index for issue in issues if issue.dropped})
        self.issues_count += len(issues)
        if self._max_issues is None:
            self.issues += issues
            return
        for issue in issues[: self._max_issues - len(self.issues)]:
            self._issue_bytes += len(issue.raw)
            if self._issue_bytes <= ISSUE_BYTES_KEPT or not self.issues:
                self.issues.append(issue)

    def malformed(self, message: str, text: bytes | memoryview, ahead: int = 0) -> DecodeError:
        """Return the error for the item that is ``ahead`` of those read, and begins ``text``."""
        index = self.index + ahead
        return DecodeError(
            message, path=f"{self._path}[{index}]", index=index, raw=bytes(text[:EXCERPT_BYTES])
        )

    def too_large(self, limit: int, ahead: int = 0) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"item {self.index + ahead:,} has more than {limit:,} bytes (max_item_bytes)", limit=limit
        )

    def none_fits(self) -> DecodeError:
        """Return the error for a body of which nothing could be kept."""
        first = self.issues[0]
        name = getattr(self.reader.item_type, "__name__", str(self.reader.item_type))
        return DecodeError(
            f"no item of this body is of type {name}: {first.message}; item_type=dict takes objects of any shape",
            path=first.path,
            index=first.index,
            raw=first.raw,
        )

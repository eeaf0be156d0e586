"""Decodes the items that a parser finds, numbers them, and collects their issues."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from truto_ci_async._json import EXCERPT_BYTES
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async.errors import BodyTooLargeError, DecodeError
from truto_ci_async.models import Issue

T = TypeVar("T")

# Issues kept of one body; the others are only counted. Each holds its raw record, so their bytes are bounded too.
ISSUES_KEPT = 100
ISSUE_BYTES_KEPT = 2**20


class ItemCollector(Generic[T]):
    """Decode items and count them. Also makes the errors that name an item by its number."""

    def __init__(self, reader: ItemReader[T], path: str, *, max_issues: int | None = ISSUES_KEPT) -> None:
        self.index = 0  # of the next item
        self.issues: list[Issue] = []
        self.issues_count = 0
        self._reader = reader
        self._path = path
        self._max_issues = max_issues
        self._issue_bytes = 0

    def read_array(self, text: bytes) -> list[T]:
        """Decode an array of items.

        :raises msgspec.DecodeError: ``text`` is not a JSON array. Nothing has been counted then.
        """
        items, issues = self._reader.read_array(text, start=self.index, path=self._path)
        self._count(items, issues)
        return items

    def read_item(self, raw: bytes) -> list[T]:
        """Decode one item; the list is empty if it was dropped."""
        item, issues = self._reader.read_item(raw, index=self.index, path=f"{self._path}[{self.index}]")
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
        """Make the error for the item that starts ``text`` and is ``ahead`` items after the last one decoded."""
        index = self.index + ahead
        return DecodeError(
            message, path=f"{self._path}[{index}]", index=index, raw=bytes(text[:EXCERPT_BYTES])
        )

    def too_large(self, limit: int, ahead: int = 0) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"item {self.index + ahead:,} has more than {limit:,} bytes (max_item_bytes)", limit=limit
        )

    def no_item_fits(self) -> DecodeError:
        """Make the error for a body whose items were all dropped."""
        first = self.issues[0]
        name = getattr(self._reader.item_type, "__name__", str(self._reader.item_type))
        return DecodeError(
            f"no item of this body is of type {name}: {first.message}; item_type=dict takes objects of any shape",
            path=first.path,
            index=first.index,
            raw=first.raw,
        )

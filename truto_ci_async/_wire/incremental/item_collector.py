"""Decodes the items that a parser finds, numbers them, and collects their issues."""

from __future__ import annotations

import re
from typing import Generic, TypeVar, cast

import msgspec

from truto_ci_async._json import EXCERPT_BYTES, replace_surrogates
from truto_ci_async._wire.item_reader import ISSUES_KEPT, IssueList, ItemReader
from truto_ci_async._wire.repair import Note
from truto_ci_async._wire.surrogates import surrogate_notes
from truto_ci_async.errors import BodyTooLargeError, DecodeError
from truto_ci_async.models import Issue
from truto_ci_async.models.struct_types import split_array

T = TypeVar("T")

# Each issue holds its raw record, so their bytes are bounded as well as their number.
ISSUE_BYTES_KEPT = 2**20

_BETWEEN_ITEMS = re.compile(rb"[ \t\r\n,]*")


class ItemCollector(Generic[T]):
    """Decode items and count them. Also makes the errors that name an item by its number.

    Lone surrogates in the text of an item are replaced, and an issue says where they were. With ``keeps_keys``,
    ``keys`` are those of a keyed object whose items were kept.
    """

    def __init__(self, reader: ItemReader[T], path: str, *, keeps_keys: bool = False) -> None:
        self.index = 0  # of the next item
        self.issues: list[Issue] = []
        self.issues_count = 0
        self.dropped_count = 0
        self.keeps_keys = keeps_keys
        self.keys: list[str] = []
        self._reader = reader
        self._path = path
        self._issue_bytes = 0

    def read_array(self, text: bytes, keys: bytes = b"") -> list[T]:
        """Decode an array of items, whose keys, if they are kept, are the array ``keys``.

        :raises msgspec.DecodeError: ``text`` is not a JSON array. Nothing has been counted then.
        """
        replaced: list[Issue] = []
        try:
            items, issues = self._read(text)
        except msgspec.DecodeError:
            fixed = replace_surrogates(text)
            if fixed is text:
                raise
            replaced = self._find_surrogates(text, fixed)
            items, issues = self._read(fixed)
        if keys:
            self._keep_keys(keys, issues)
        self._count(items, issues, replaced)
        return items

    def read_item(self, raw: bytes) -> list[T]:
        """Decode one item; the list is empty if it was dropped."""
        path = f"{self._path}[{self.index}]"
        replaced: list[Issue] = []
        try:
            item, issues = self._reader.read_item(raw, index=self.index, path=path)
        except DecodeError:
            fixed = replace_surrogates(raw)
            if fixed is raw:
                raise
            replaced = self._tell(surrogate_notes(raw, path), self.index, raw)
            item, issues = self._reader.read_item(fixed, index=self.index, path=path)
        items = [] if issues.dropped else [cast("T", item)]
        self._count(items, issues, replaced)
        return items

    def add_issues(self, notes: list[Note], raw: bytes, *, dropped: bool = False) -> None:
        """Note what was repaired outside of the items.

        :raises DecodeError: if ``on_invalid="raise"``.
        """
        self._keep_issues(self._tell(notes, None, raw, dropped=dropped))
        self.issues_count += len(notes)

    def _read(self, text: bytes) -> tuple[list[T], IssueList]:
        keep = max(ISSUES_KEPT - len(self.issues), 0)  # mutant: only saves time
        read = self._reader.read_array
        return read(text, start=self.index, path=self._path, keep=keep)  # mutant: keep only saves time

    def _find_surrogates(self, text: bytes, fixed: bytes) -> list[Issue]:
        """Return an issue for each lone surrogate in ``text``, an array of items; it has none in ``fixed``."""
        found: list[Issue] = []
        at = 1
        for index, item in enumerate(split_array(fixed), self.index):
            at = _BETWEEN_ITEMS.match(text, at).end()  # type: ignore[union-attr]  # always matches
            end = at + len(bytes(item))
            if (raw := text[at:end]) != fixed[at:end]:
                found += self._tell(surrogate_notes(raw, f"{self._path}[{index}]"), index, raw)
            at = end
        return found

    def _tell(
        self, notes: list[Note], index: int | None, raw: bytes, *, dropped: bool = False
    ) -> list[Issue]:
        if notes and self._reader.on_invalid == "raise":
            path, message = notes[0]
            raise DecodeError(f"{path}: {message}", path=path, index=index, raw=raw)
        return [
            Issue(index=index, path=path, message=message, raw=raw, dropped=dropped)
            for path, message in notes
        ]

    def _keep_keys(self, text: bytes, issues: IssueList) -> None:
        fixed = replace_surrogates(text)
        if fixed is not text:
            self.add_issues(surrogate_notes(text, f"{self._path} (keys)"), text[:EXCERPT_BYTES])
        keys: list[str] = msgspec.json.decode(fixed)
        if issues.dropped:
            dropped = set(issues.dropped)
            keys = [key for index, key in enumerate(keys, self.index) if index not in dropped]
        self.keys += keys

    def _count(self, items: list[T], issues: IssueList, replaced: list[Issue]) -> None:
        self.index += len(items) + len(issues.dropped)
        self.dropped_count += len(issues.dropped)
        if issues.total or replaced:
            self.issues_count += issues.total + len(replaced)
            self._keep_issues(sorted([*replaced, *issues], key=_index_of))

    def _keep_issues(self, issues: list[Issue]) -> None:
        for issue in issues[: max(ISSUES_KEPT - len(self.issues), 0)]:
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
        first = next((issue for issue in self.issues if issue.dropped), self.issues[0])
        name = getattr(self._reader.item_type, "__name__", str(self._reader.item_type))
        return DecodeError(
            f"no item of this body is of type {name}: {first.message}; item_type=dict takes objects of any shape",
            path=first.path,
            index=first.index,
            raw=first.raw,
        )


def _index_of(issue: Issue) -> int:
    return issue.index or 0

"""What a pull requests and hands out: accounts, windows and their pages."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from datetime import UTC, datetime
from typing import Generic, NamedTuple, Self, TypeVar

from msgspec import Raw, Struct

from truto_ci_async.errors import UsageError
from truto_ci_async.export.column_values import Part, Parts
from truto_ci_async.export.frames import Frames
from truto_ci_async.models import Page, Person

from .row_views import PULL_SCHEMA, are_plain

T = TypeVar("T")


class Window(Struct, frozen=True, gc=False):
    """The bounds of a window as they are sent, ``[start, end)``; None is not sent."""

    start: str | None = None
    end: str | None = None


class PlannedAccount(Struct, frozen=True, gc=False):
    """An account to pull, and its tenant if that is known."""

    id: str
    tenant_id: str | None = None


class Unit(Struct, frozen=True):
    """One account and one window, paged through on its own. ``index`` is the window's place in the plan."""

    account: PlannedAccount
    window: Window
    index: int

    @property
    def key(self) -> tuple[str, int]:
        """The key under which a checkpoint stores the progress of this unit."""
        return self.account.id, self.index


class Place(NamedTuple):
    """Where in its output a sink wrote the rows of a page, one line each."""

    offset: int
    size: int
    lead: int  # bytes of our columns at the start of each line; they replace the opening brace of the item


class AccountPage(Frames, Generic[T]):
    """A page with its account and window. Pulls hand these out, sinks write them.

    ``pulled_at`` is when the page arrived, in UTC: it puts two pulls of one window in order. In a data frame, the rows
    start with the columns of ``PULL_COLUMNS``: account, tenant, window and that time.
    """

    __slots__ = ("_is_plain", "account", "page", "pulled_at", "window")

    def __init__(
        self, account: PlannedAccount, window: Window, page: Page[T], pulled_at: datetime | None = None
    ) -> None:
        self.account = account
        self.window = window
        self.page = page
        self.pulled_at = pulled_at or datetime.now(UTC)
        self._is_plain: bool | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the items are Raw objects that only need our columns in front: see ``row_views.are_plain``."""
        if self._is_plain is None:
            items = self.page.items
            self._is_plain = bool(items) and type(items[0]) is Raw and are_plain(items)
        return self._is_plain

    def with_names(self, directory: Mapping[str, Person]) -> Self:
        """Return a copy whose people have the names and emails of a directory: see ``Page.with_names``."""
        named = copy(self)
        named.page = self.page.with_names(directory)
        return named

    async def commit(self) -> None:
        """Mark this page, and the earlier ones of its account, as done.

        :raises UsageError: the page does not come from an open pull.
        """
        raise UsageError("only pages of an open pull can be committed, and this page does not come from one")

    def parts(self) -> Parts:
        return Parts([Part(self.page.items, PULL_SCHEMA.values(self))], self.page.item_type, PULL_SCHEMA)

    def __len__(self) -> int:
        return len(self.page.items)

    def _repr_html_(self) -> str:
        bounds = (self.window.start, self.window.end)
        window = "" if bounds == (None, None) else f"{bounds[0] or '…'} to {bounds[1] or '…'}"
        return self.page.to_html("AccountPage", self.account.id, window)

    def __repr__(self) -> str:
        return f"AccountPage({self.account.id!r}, {self.window.start}..{self.window.end}, {len(self)} items)"

"""What a pull requests and hands out: accounts, windows and their pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import Generic, Literal, Self, TypeVar

from msgspec import Struct

from truto_ci_async.errors import UsageError
from truto_ci_async.export.column_values import Part, Parts
from truto_ci_async.export.frames import Frames
from truto_ci_async.models import Page, Person

from .row_views import PULL_SCHEMA, View, plain_views

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


class AccountPage(Frames, Generic[T]):
    """A page with its account and window. Pulls hand these out, sinks write them.

    ``pulled_at`` is when the page arrived, in UTC: it puts two pulls of one window in order. In a data frame, the rows
    start with the columns of ``PULL_COLUMNS``: account, tenant, window and that time.
    """

    __slots__ = ("_views", "account", "page", "pulled_at", "window")

    def __init__(
        self, account: PlannedAccount, window: Window, page: Page[T], pulled_at: datetime | None = None
    ) -> None:
        self.account = account
        self.window = window
        self.page = page
        self.pulled_at = pulled_at or datetime.now(UTC)
        self._views: Sequence[View] | Literal[False] | None = False

    @property
    def plain_views(self) -> Sequence[View] | None:
        """The row views of Raw items, read on first use: see ``row_views.plain_views``."""
        if self._views is False:
            self._views = plain_views(self.page.items)
        return self._views

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
        return self.page.to_html("AccountPage", self.account.id, f"{self.window.start} to {self.window.end}")

    def __repr__(self) -> str:
        return f"AccountPage({self.account.id!r}, {self.window.start}..{self.window.end}, {len(self)} items)"

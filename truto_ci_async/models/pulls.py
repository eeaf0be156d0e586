"""What a pull is made of: accounts, windows, and the pages that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from truto_ci_async.errors import UsageError
from truto_ci_async.models import Page

from .row_views import View, plain_views

T = TypeVar("T")


class Window(Struct, frozen=True, gc=False):
    """Bounds as they go out on the wire, ``[start, end)``; None is not sent."""

    start: str | None = None
    end: str | None = None


class PlannedAccount(Struct, frozen=True, gc=False):
    """An account to ask, and the tenant it belongs to where that is known."""

    id: str
    tenant_id: str | None = None


class Unit(Struct, frozen=True):
    """One account over one window: a walk of its own. ``index`` is the window's place in the plan."""

    account: PlannedAccount
    window: Window
    index: int

    @property
    def key(self) -> tuple[str, int]:
        """What a checkpoint files this walk under."""
        return self.account.id, self.index


class AccountPage(Generic[T]):
    """A page together with whose it is and which window it answers. A pull hands these out, a sink takes them."""

    __slots__ = ("_views", "account", "page", "window")

    def __init__(self, account: PlannedAccount, window: Window, page: Page[T]) -> None:
        self.account = account
        self.window = window
        self.page = page
        self._views: Sequence[View] | Literal[False] | None = False

    @property
    def plain_views(self) -> Sequence[View] | None:
        """What ``_row_keys.plain_views`` says of items that are Raw, read once."""
        if self._views is False:
            self._views = plain_views(self.page.items)
        return self._views

    async def commit(self) -> None:
        """Mark this page, and those of its account before it, as done.

        :raises UsageError: the page was not handed out by a pull that is open.
        """
        raise UsageError("this page was not handed out by a pull: there is nothing to commit it to")

    def __len__(self) -> int:
        return len(self.page.items)

    def __repr__(self) -> str:
        return f"AccountPage({self.account.id!r}, {self.window.start}..{self.window.end}, {len(self)} items)"

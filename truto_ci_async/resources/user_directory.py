"""Who is who in an account: its users by id, fetched once and kept with the client."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct

from truto_ci_async._checks import brief
from truto_ci_async.errors import UsageError
from truto_ci_async.models import User

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient

    from .base import Resource

# Directories kept by one client; the oldest are dropped first. One of 1,000 users takes about 500 KB.
MOST_DIRECTORIES = 1000


class Directory(Struct):
    """The users of one account, or the task that is fetching them."""

    fetch: asyncio.Task[dict[str, User]]
    started: float

    def is_usable(self, ttl: float | None) -> bool:
        """Tell whether it is being fetched, or was fetched and is not older than ``ttl`` seconds."""
        if not self.fetch.done():
            return True
        failed = self.fetch.cancelled() or self.fetch.exception() is not None
        return not failed and (ttl is None or monotonic() - self.started <= ttl)


async def directory(
    client: BaseClient, users: Resource[User], account: str | None, ttl: float | None
) -> dict[str, User]:
    """Return the users of an account by id: those kept with the client, or fetched now.

    The task belongs to the client, so cancelling one caller does not affect the others.
    """
    if ttl is not None and not (isinstance(ttl, (int, float)) and ttl >= 0):
        raise UsageError(f"ttl is a number of seconds, 0 or more, or None, not {brief(ttl)}")
    kept: dict[str | None, Directory] = client.memo.setdefault("directories", {})
    found = kept.get(account)
    if found is None or not found.is_usable(ttl):
        kept.pop(account, None)
        found = kept[account] = Directory(client.spawn(_fetch(users, account)), monotonic())
        while len(kept) > MOST_DIRECTORIES:
            del kept[next(iter(kept))]
    try:
        return dict(await asyncio.shield(found.fetch))
    except asyncio.CancelledError:
        if found.fetch.cancelled():
            raise UsageError("the client was closed while the users were being fetched") from None
        raise


async def _fetch(users: Resource[User], account: str | None) -> dict[str, User]:
    by_id: dict[str, User] = {}
    async for user in users.list(account, ignore_remote_data=True, prefetch=0):
        if user.id is not None:
            by_id.setdefault(user.id, user)
    return by_id

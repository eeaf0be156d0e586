"""Says why no account was found, and which integrations and statuses there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from difflib import SequenceMatcher, get_close_matches
from typing import TypeAlias

from truto_ci_async._checks import brief
from truto_ci_async.errors import DecodeError, TrutoError
from truto_ci_async.models import IntegratedAccount

from .accounts import each_listed

#: Finds accounts by ``integration`` and ``status``, as ``integrated_accounts.list`` does.
Discover: TypeAlias = Callable[..., AsyncIterable[IntegratedAccount]]

#: Accounts read at most to find out what there is.
MAX_READ = 5_000
#: Names listed at most.
MAX_NAMED = 10


async def with_ids(found: AsyncIterable[IntegratedAccount]) -> AsyncGenerator[IntegratedAccount]:
    """Check that each account found has an id: a pull that leaves one out would look complete.

    :raises DecodeError: one has none, or one that is not text; one cannot be read at all.
    """
    async with aclosing(each_listed(found)) as listed:
        async for account in listed:
            if not account.id:
                raise DecodeError(
                    f"the service lists an account without an id, {account!r}; pass the ids of the others yourself",
                    path="$.result[].id",
                )
            yield account


async def nothing_found(discover: Discover, integration: str | None = None, status: str | None = None) -> str:
    """Return a message that names what there is instead, nearest first."""
    sought = " and ".join(
        f"{name} {brief(value)}"
        for name, value in (("integration", integration), ("status", status))
        if value is not None
    )
    none = f"no account has the {sought}"
    try:
        seen = await _integrations_and_statuses(discover)
    except TrutoError:  # the original message is more useful than another error
        return f"{none}."
    if not seen:
        return f"{none}: this token has no accounts at all."
    if statuses := [each for name, each in seen if integration in (None, name)]:
        whose = "" if integration is None else f" of {integration}"
        return none + _named(f"the statuses{whose} are", statuses, status)
    return none + _named("the integrations are", [name for name, _ in seen], integration)


async def _integrations_and_statuses(discover: Discover) -> list[tuple[str | None, str | None]]:
    """Return those of each account, up to ``MAX_READ``."""
    seen: list[tuple[str | None, str | None]] = []
    async for account in discover(integration=None, status=None):
        name = None if account.integration is None else account.integration.name
        seen.append((name, account.status))
        if len(seen) >= MAX_READ:
            break
    return seen


def _named(opening: str, found: list[str | None], sought: str | None) -> str:
    """Return what there is, each name with its count: those most like ``sought`` first, then the most frequent."""
    counts = Counter(name for name in found if name)

    def rank(name: str) -> tuple[float, int, str]:
        likeness = SequenceMatcher(None, (sought or "").casefold(), name.casefold()).ratio()
        return -likeness, -counts[name], name

    names = sorted(counts, key=rank)
    shown = [f"{name} ({counts[name]:,})" for name in names[:MAX_NAMED]] or ["not named"]
    more = len(names) - len(shown)
    listed = f"{opening} {', '.join(shown)}" + (f" and {more:,} more" if more > 0 else "")
    nearest = [] if sought is None else get_close_matches(sought.lower(), names, n=1)
    return f"; {listed}." + (
        f" Did you mean {nearest[0]}? As it is, nothing would be pulled." if nearest else ""
    )

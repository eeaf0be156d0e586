"""What a pull asks for: which accounts, over which windows, with which filters.

A plan is resolved once and stored with the output. "Now" is read one time, and relative bounds become absolute
ones, so that a pull that is killed and started again goes on asking the same. What the caller spelled out is kept
beside it (``given``): that is what a later call is compared with. Nothing here asks for interactions.

Windows are half-open, ``[start, end)``, oldest first. ``day``, ``week`` and ``month`` are counted from the start
bound and cut at midnights of its own offset, since the provider answers whole days (contract section 2); a
timedelta counts exact time. The last window ends at the end bound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict, cast

import msgspec
from msgspec import Struct

from truto_ci_async._wire.filters import UserFilter
from truto_ci_async._wire.list_query import ListQuery, list_query
from truto_ci_async._wire.query_string import ObjectArrays
from truto_ci_async.errors import UsageError
from truto_ci_async.models.pulls import PlannedAccount, Unit, Window

from .accounts import MAX_ACCOUNTS
from .bounds import When, WindowLength

PlanFormat: TypeAlias = Literal["unified", "normalized", "debug"]


PATH = ("unified", "conversational-intelligence", "interactions")


class PlanFilters(TypedDict, total=False):
    """What a plan can ask for beside accounts and bounds; ``Resource.list`` says what each one means."""

    users: Iterable[UserFilter] | None
    limit: int | None
    response_format: PlanFormat | None
    ignore_limit: bool | None
    ignore_remote_data: bool | None
    exclude_fields: Iterable[str] | None
    super_query: str | None
    skip_api_call: bool | None
    remote_query: Mapping[str, Any] | None
    extra_query: Mapping[str, Any] | None
    object_arrays: ObjectArrays | None


class PlanOptions(PlanFilters, total=False):
    """Arguments of ``resolve`` beside the accounts."""

    integration: str | None
    status: str | None
    start_time: When | None
    end_time: When | None
    window: WindowLength | None
    now: datetime | None


class Plan(Struct, frozen=True, kw_only=True, tag_field="kind", tag="truto-plan-1"):
    """Accounts, windows and filters, all absolute: the same plan asks the same requests whenever it is run.

        plan = await truto.interactions.plan(integration="gong", start_time="-30d", window="day")
        for shard in plan.shards(4): ...

    ``given`` is what the caller spelled out, bounds as they were given. ``shard`` is (number, of how many).
    """

    accounts: tuple[PlannedAccount, ...]
    windows: tuple[Window, ...] = (Window(),)
    filters: dict[str, Any] = {}
    given: dict[str, Any] = {}
    shard: tuple[int, int] | None = None
    created_at: str = ""

    @property
    def digest(self) -> str:
        """A short text, equal for plans that ask the same of each account."""
        return _digest([self.windows, self.filters])

    @property
    def accounts_digest(self) -> str:
        """A short text, equal for plans of the same accounts in the same order."""
        return _digest([account.id for account in self.accounts])

    def __hash__(self) -> int:
        return hash((self.digest, self.accounts_digest, self.shard))

    def __len__(self) -> int:
        """Return the number of walks: accounts times windows."""
        return len(self.accounts) * len(self.windows)

    def units(self) -> Iterator[Unit]:
        """Go through all walks: the oldest window of every account, in the accounts' order, then the next one."""
        for index, window in enumerate(self.windows):
            for account in self.accounts:
                yield Unit(account, window, index)

    def query(self, account: PlannedAccount, window: Window) -> ListQuery:
        """Return what the walk of ``account`` over ``window`` asks."""
        return list_query(
            *PATH,
            account=account.id,
            start_time=window.start,
            end_time=window.end,
            **cast("Any", self.filters),
        )

    def shards(self, n: int) -> list[Plan]:
        """Split into ``n`` plans for ``n`` processes: an account is in one of them, and stays there as others come.

        Some can be empty. Each needs an output of its own.

        :raises UsageError: ``n`` is less than 1, or this is a shard itself.
        """
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_ACCOUNTS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"shards takes a whole number of 1 or more, not {n!r}")
        if self.shard is not None:
            raise UsageError(f"this plan is shard {_shard_text(self.shard)} already; split the whole one")
        groups: list[list[PlannedAccount]] = [[] for _ in range(n)]
        for account in self.accounts:
            hashed = hashlib.blake2b(account.id.encode(), digest_size=8).digest()
            groups[int.from_bytes(hashed) % n].append(account)
        return [
            msgspec.structs.replace(self, accounts=tuple(group), shard=(number, n))
            for number, group in enumerate(groups, 1)
        ]

    def to_json(self) -> str:
        """Return the plan as JSON text, for ``from_json``."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read what ``to_json`` wrote.

        :raises UsageError: it is something else, or was written by a version with other plans.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise UsageError(f"not the JSON of a plan: {error}") from error

    def difference(self, stored: Plan, *, grow: bool = False) -> str | None:
        """Say in what this plan asks for something else than ``stored``; None when it can go on from there.

        Only what was given for this plan is compared, relative bounds as they were given: ``-7d`` matches the
        ``-7d`` of a week ago. Accounts that were listed must be the same ones, or more under ``grow``; accounts
        found by discovery come and go, so there the stored list counts.
        """
        found: list[str] = []
        for name, value in self.given.items():
            if name == "accounts":
                continue
            theirs = stored.given.get(name)
            if (value or None) == (theirs or None) or self._same_bound(name, stored):
                continue
            found.append(f"{name} is {_shown(value)}, stored is {_shown(theirs)}")
        if self.shard != stored.shard:
            found.append(f"this is {_shard_text(self.shard)}, stored is {_shard_text(stored.shard)}")
        if "accounts" in self.given:
            here, there = ({account.id for account in plan.accounts} for plan in (self, stored))
            new = [account.id for account in self.accounts if account.id not in there]
            gone = [account.id for account in stored.accounts if account.id not in here]
            if new and not grow:
                found.append(f"{_counted(new, 'new')} (grow=True adds them)")
            if gone:
                found.append(_counted(gone, "missing"))
        return "; ".join(found) or None

    def onto(self, stored: Plan, *, grow: bool = False) -> Plan:
        """Return ``stored``, with the accounts that only this plan has behind its own under ``grow``."""
        if not grow:
            return stored
        known = {account.id for account in stored.accounts}
        new = tuple(account for account in self.accounts if account.id not in known)
        return msgspec.structs.replace(stored, accounts=stored.accounts + new)

    def _same_bound(self, name: str, stored: Plan) -> bool:
        """Tell whether a bound given as a moment is what a relative one came to when it was stored."""
        if name == "start_time":
            mine, theirs = self.windows[0].start, stored.windows[0].start
        elif name == "end_time":
            mine, theirs = self.windows[-1].end, stored.windows[-1].end
        else:
            return False
        return mine == theirs

    def __repr__(self) -> str:
        shard = f", shard {_shard_text(self.shard)}" if self.shard else ""
        span = f"{self.windows[0].start}..{self.windows[-1].end}" if self.windows else "none"
        return (
            f"Plan({len(self.accounts):,} accounts, {len(self.windows):,} windows {span}, "
            f"filters={self.filters!r}{shard})"
        )


def _digest(value: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=12).hexdigest()


def _shown(value: object) -> str:
    text = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _shard_text(shard: tuple[int, int] | None) -> str:
    return "the whole plan" if shard is None else f"shard {shard[0]} of {shard[1]}"


def _counted(ids: list[str], what: str) -> str:
    listed = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids):,} account{' is' if len(ids) == 1 else 's are'} {what}: {listed}"

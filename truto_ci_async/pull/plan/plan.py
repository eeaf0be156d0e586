"""The plan of a pull: accounts, windows and filters, all of them absolute.

The caller's own values are kept next to the resolved ones, as ``given``: a later call is compared with them.

Windows are half-open, ``[start, end)``, oldest first. ``day``, ``week`` and ``month`` are counted from the start and
meet at midnight in its time zone, because the provider answers in whole days. A timedelta counts exact time. The last
window ends where the plan ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict, cast

import msgspec
from msgspec import Struct

from truto_ci_async._checks import brief, is_whole_number
from truto_ci_async._wire.filters import UserFilter
from truto_ci_async._wire.list_query import ListQuery, list_query
from truto_ci_async._wire.query_string import ObjectArrays
from truto_ci_async._wire.times import When
from truto_ci_async.errors import UsageError
from truto_ci_async.export import html
from truto_ci_async.models.pulls import PlannedAccount, Unit, Window
from truto_ci_async.pull.walks import Walk, walk_of

from .accounts import MAX_ACCOUNTS
from .bounds import WindowLength

PlanFormat: TypeAlias = Literal["unified", "normalized", "debug"]


class PlanFilters(TypedDict, total=False):
    """What a plan can filter by; see ``Resource.list`` for the meaning of each filter."""

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
    """The arguments of ``resolve`` other than the accounts."""

    integration: str | None
    status: str | None
    start_time: When | None
    end_time: When | None
    window: WindowLength | None
    now: datetime | None
    allow_empty: bool


PLAN_OPTIONS = tuple(PlanFilters.__annotations__ | PlanOptions.__annotations__)


class Plan(Struct, frozen=True, kw_only=True, tag_field="kind", tag="truto-plan-1"):
    """Which accounts to pull, over which windows, with which filters. A plan sends the same requests whenever it runs.

    It is a plan of one ``resource``.

        plan = await truto.interactions.plan(integration="gong", start_time="-30d", window="day")
        for shard in plan.shards(4): ...

    ``given`` is what the caller wrote, relative times included. ``shard`` is (number, count).
    """

    accounts: tuple[PlannedAccount, ...]
    windows: tuple[Window, ...] = (Window(),)
    filters: dict[str, Any] = {}
    given: dict[str, Any] = {}
    shard: tuple[int, int] | None = None
    created_at: str = ""
    resource: str = "interactions"  # plans stored by earlier versions do not name it

    def __post_init__(self) -> None:
        walk_of(self.resource)

    @property
    def walk(self) -> Walk:
        """How this resource is pulled."""
        return walk_of(self.resource)

    @property
    def is_sync(self) -> bool:
        """Whether each window is read from its start to its end by one run, and then replaces what was there."""
        return False

    def windows_of(self, account: str) -> tuple[Window, ...]:
        """Return the windows to ask of an account; by ``Key``, a window is its index in these."""
        del account
        return self.windows

    @property
    def digest(self) -> str:
        """A short text, equal for plans of one resource with the same windows and filters."""
        return _digest([self.resource, self.windows, self.filters])

    @property
    def accounts_digest(self) -> str:
        """A short text, equal for plans with the same accounts in the same order."""
        return _digest([account.id for account in self.accounts])

    def __hash__(self) -> int:
        return hash((self.digest, self.accounts_digest, self.shard))

    def __len__(self) -> int:
        """Return the number of walks: accounts times windows."""
        return len(self.accounts) * len(self.windows)

    def units(self) -> Iterator[Unit]:
        """Iterate over all walks: the oldest window of every account, in their order, then the next window."""
        for index, window in enumerate(self.windows):
            for account in self.accounts:
                yield Unit(account, window, index)

    def query(self, account: PlannedAccount, window: Window) -> ListQuery:
        """Return the query for a walk of ``account`` over ``window``: of transcripts, it lists the meetings."""
        return list_query(
            *self.walk.path,
            account=account.id,
            start_time=window.start,
            end_time=window.end,
            **cast("Any", self.walk.list_filters(self.filters)),
        )

    def transcript_query(self, account: PlannedAccount, meeting: str) -> ListQuery:
        """Return the query for the transcript of one meeting."""
        filters = self.walk.transcript_filters(self.filters)
        path = (*self.walk.path[:-1], "transcripts")
        return list_query(*path, account=account.id, meeting=meeting, **cast("Any", filters))

    def shards(self, n: int) -> list[Plan]:
        """Split into ``n`` plans for ``n`` processes. Each account is in one of them, and stays there when others are
        added.

        A hash of its id decides, so that no other account matters, and shards differ a little in size: of 1,000
        accounts in 3 shards, the largest mostly has 340 to 365, and in 16 shards 70 to 85 in place of 63. Few accounts
        can leave a shard empty. Each needs its own output.

        :raises UsageError: ``n`` is less than 1, or this plan is a shard itself.
        """
        if not is_whole_number(n, least=1) or n > MAX_ACCOUNTS:
            raise UsageError(
                f"the number of shards must be a whole number from 1 to {MAX_ACCOUNTS:,}, not {brief(n)}"
            )
        if self.shard is not None:
            raise UsageError(f"this plan is {_shard_text(self.shard)} already: split the whole plan")
        groups: list[list[PlannedAccount]] = [[] for _ in range(n)]
        for account in self.accounts:
            hashed = hashlib.blake2b(account.id.encode(), digest_size=8).digest()
            groups[int.from_bytes(hashed) % n].append(account)
        return [
            msgspec.structs.replace(self, accounts=tuple(group), shard=(number, n))
            for number, group in enumerate(groups, 1)
        ]

    def to_json(self) -> str:
        """Return the plan as JSON, for ``from_json``."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read what ``to_json`` wrote.

        :raises UsageError: the text is not a plan, or a version of this package with another format wrote it.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise UsageError(f"not the JSON of a plan: {error}") from error

    def difference(self, stored: Plan, *, grow: bool = False) -> str | None:
        """Describe how this plan differs from ``stored``; None if it can continue from there.

        Only what was given for this plan is compared, and relative times as they were given: ``-7d`` matches the
        ``-7d`` of a week ago. Listed accounts must be the same, or more with ``grow``. Discovered accounts come and
        go, so the stored ones are used.
        """
        found = [
            f"{name} is {_shown(value)}, stored is {_shown(stored.given.get(name))}"
            for name, value in self.given.items()
            if name != "accounts" and not self._matches(name, value, stored)
        ]
        if self.resource != stored.resource:
            found.insert(0, f"the resource is {self.resource}, stored is {stored.resource}")
        if self.shard != stored.shard:
            found.append(f"this is {_shard_text(self.shard)}, stored is {_shard_text(stored.shard)}")
        if "accounts" in self.given and self.accounts != stored.accounts:
            new, missing = _ids_only_in(self, stored), _ids_only_in(stored, self)
            if new and not grow:
                found.append(f"{_counted(new, 'new')} (grow=True adds them)")
            if missing:
                found.append(_counted(missing, "missing"))
        return "; ".join(found) or None

    def _matches(self, name: str, value: object, stored: Plan) -> bool:
        """Return whether a given value is the stored one. An absolute time may match a relative one by its result."""
        if (value or None) == (stored.given.get(name) or None):
            return True
        if name == "start_time":
            return self.windows[0].start == stored.windows[0].start
        return name == "end_time" and self.windows[-1].end == stored.windows[-1].end

    def onto(self, stored: Plan, *, grow: bool = False) -> Plan:
        """Return ``stored``; with ``grow``, followed by the accounts that only this plan has."""
        if not grow:
            return stored
        known = {account.id for account in stored.accounts}
        new = tuple(account for account in self.accounts if account.id not in known)
        return msgspec.structs.replace(stored, accounts=stored.accounts + new)

    def _repr_html_(self) -> str:
        tables = [html.facts(self.filters.items())] if self.filters else []
        tables.append(
            html.table(["account", "tenant"], [[a.id, a.tenant_id] for a in self.accounts[: html.ROWS]])
        )
        return html.card("Plan", repr(self).removeprefix("Plan(").partition(", filters=")[0], tables=tables)

    def __repr__(self) -> str:
        shard = f", shard {_shard_text(self.shard)}" if self.shard else ""
        first, last = (self.windows[0].start, self.windows[-1].end) if self.windows else (None, None)
        span = "" if first is last is None else f" {first}..{last}"
        of = "" if self.resource == "interactions" else f"{self.resource} of "
        return (
            f"Plan({of}{len(self.accounts):,} accounts, {len(self.windows):,} windows{span}, "
            f"filters={self.filters!r}{shard})"
        )


def _digest(value: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=12).hexdigest()


def _shown(value: object) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}..."


def _shard_text(shard: tuple[int, int] | None) -> str:
    return "the whole plan" if shard is None else f"shard {shard[0]} of {shard[1]}"


def _ids_only_in(plan: Plan, other: Plan) -> list[str]:
    others = {account.id for account in other.accounts}
    return [account.id for account in plan.accounts if account.id not in others]


def _counted(ids: list[str], what: str) -> str:
    listed = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids):,} account{' is' if len(ids) == 1 else 's are'} {what}: {listed}"

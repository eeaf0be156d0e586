"""What a pull asks for: which accounts, over which windows, with which filters.

A plan is resolved once and stored with the output. "Now" is read one time, and relative bounds become absolute
ones, so that a pull that is killed and started again goes on asking the same. What the caller spelled out is kept
beside it (``given``): that is what a later call is compared with. Nothing here asks for interactions.

Windows are half-open, ``[start, end)``, oldest first. ``day``, ``week`` and ``month`` are counted from the start
bound and cut at midnights of its own offset, since the provider answers whole days (contract section 2); a
timedelta counts exact time. The last window ends at the end bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from calendar import monthrange
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast
from uuid import UUID

import msgspec
from msgspec import Struct

from truto_ci_async._wire.list_query import (
    MAX_DEPTH,
    ListQuery,
    ObjectArrays,
    UserFilter,
    format_time,
    in_order,
    list_query,
    split_users,
)
from truto_ci_async.errors import UsageError
from truto_ci_async.models import IntegratedAccount, Page
from truto_ci_async.pull.row_fingerprints import View, plain_views

if TYPE_CHECKING:
    from truto_ci_async.client import TrutoClient

T = TypeVar("T")

#: A bound: a moment, a time from now (``timedelta(days=-7)``), or text: ISO 8601, ``now``, ``today``, ``-7d``.
When: TypeAlias = datetime | date | timedelta | str
WindowLength: TypeAlias = Literal["day", "week", "month"] | timedelta
PlanFormat: TypeAlias = Literal["unified", "normalized", "debug"]

#: More windows than this in one series is a slip of the pen, such as seconds over a year.
MAX_WINDOWS = 100_000
#: And a source of accounts that goes on for longer than this has no end.
MAX_ACCOUNTS = 1_000_000

PATH = ("unified", "conversational-intelligence", "interactions")


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


AccountLike: TypeAlias = str | IntegratedAccount | PlannedAccount | Mapping[str, Any]
Accounts: TypeAlias = Iterable[AccountLike] | AsyncIterable[AccountLike] | os.PathLike[str]


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


async def resolve(
    client: TrutoClient | None,
    accounts: Accounts | None = None,
    *,
    integration: str | None = None,
    status: str | None = None,
    start_time: When | None = None,
    end_time: When | None = None,
    window: WindowLength | None = None,
    now: datetime | None = None,
    known: Sequence[PlannedAccount] | None = None,
    **filters: Unpack[PlanFilters],
) -> Plan:
    """Make a plan of what a caller says.

    ``accounts`` are ids, IntegratedAccounts or dicts with an ``id``, in any iterable, also an asynchronous one such
    as ``integrated_accounts.list()``; or a ``Path`` to a file with one id, or one JSON object with an ``id``, on
    each line. Without them the accounts are discovered by ``integration`` and ``status``. A bound is a moment, a
    timedelta from now, or text: ISO 8601 with an offset, ``now``, ``today``, ``-7d``, ``today-12h``. ``end_time``
    is now unless given. ``now`` replaces the clock; its time zone is the one whose midnight ``today`` means.
    ``known`` are accounts that an earlier run discovered: they stand in for discovery.

    :raises UsageError: something that can never be right; the message says how to write it.
    """
    if unknown := ", ".join(filters.keys() - PlanFilters.__annotations__.keys()):
        raise TypeError(f"unknown filters: {unknown}; what this package does not name goes into extra_query")
    if now is None:
        now = datetime.now(UTC)
    elif now.utcoffset() is None:
        raise UsageError("now takes an aware datetime")
    given, windows = _resolve_windows(start_time, end_time, window, now.replace(microsecond=0))
    asked = {name: _plain(name, value) for name, value in filters.items() if value is not None}
    plan = Plan(
        accounts=(),
        windows=windows,
        filters={name: value for name, value in asked.items() if not (value is False or value in ([], {}))},
        given=given | asked,
        created_at=format_time(now, "now"),
    )
    _check(plan)
    sought = {
        name: value for name, value in (("integration", integration), ("status", status)) if value is not None
    }
    if accounts is not None:
        if sought:
            raise UsageError(
                f"{' and '.join(sought)} would find accounts, but accounts are given: pass one of them"
            )
        sought = {"accounts": "listed"}
        found = await _collect(accounts)
    elif not sought:
        raise UsageError("say which accounts: a list of ids, a Path to a file, or integration= and status=")
    elif known is not None:
        found = tuple(known)
    elif client is None:
        raise UsageError("a client is needed to find accounts by integration and status")
    else:
        found = await _collect(client.integrated_accounts.list(integration=integration, status=status))
    return msgspec.structs.replace(plan, accounts=found, given=plan.given | sought)


def _check(plan: Plan) -> None:
    """Refuse filters that can never be right, before any account is looked up.

    :raises UsageError: what ``list`` refuses, or an ``extra_query`` that would ask every walk the same.
    """
    response_format = plan.filters.get("response_format", "unified")
    if response_format not in ("unified", "normalized", "debug"):
        raise UsageError(
            f"a pull takes response_format 'unified', 'normalized' or 'debug', not {response_format!r}"
        )
    extra = plan.filters.get("extra_query", {})
    own = ("integrated_account_id", "start_time", "end_time", "users")
    if clash := ", ".join(name for name in own if extra.get(name) is not None):
        raise UsageError(f"{clash} in extra_query would make every account and window ask the same")
    plan.query(PlannedAccount("any"), plan.windows[0])


def _plain(name: str, value: object, depth: int = 0) -> Any:
    """Return a filter as JSON holds it, so that it is the same before it was stored and after.

    :raises UsageError: a value that cannot be sent.
    """
    if depth > MAX_DEPTH:
        raise UsageError(f"{name} is nested deeper than {MAX_DEPTH} levels; does it hold itself?")
    if name == "users" and not depth:
        value = [user for chunk in split_users(cast("Any", value)) for user in chunk]
    elif name == "exclude_fields" and not depth:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise UsageError(f"exclude_fields takes several names: exclude_fields=[{value!r}]")
        value = list(in_order(cast("Iterable[object]", value)))
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {_utf8(name, key): _plain(name, item, depth + 1) for key, item in entries}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(name, item, depth + 1) for item in in_order(cast("Iterable[object]", value))]
    if isinstance(value, (datetime, date)):
        return format_time(value, name)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        return _utf8(name, value)
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and isfinite(value)):
        return value
    raise UsageError(f"{name} holds {value!r}, which cannot be sent in a query")


def _utf8(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise UsageError(f"{name}: expected text, not {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} holds a lone surrogate, which has no UTF-8 form") from None
    return str(text)


# --- accounts --------------------------------------------------------------------------------------------------


async def _collect(accounts: Accounts) -> tuple[PlannedAccount, ...]:
    """Take accounts in their order, each once; a tenant named by a later mention is kept."""
    single: object = accounts
    if isinstance(single, (str, bytes, Mapping, IntegratedAccount, PlannedAccount)):
        shown = _brief(cast("object", single))
        raise UsageError(f"accounts takes several: accounts=[{shown}]; a file is given as a Path")
    if isinstance(accounts, os.PathLike):
        accounts = await asyncio.to_thread(_read_file, Path(accounts))
    found: dict[str, PlannedAccount] = {}
    async for account in _each(accounts):
        known = found.get(account.id)
        if known is None or known.tenant_id is None:
            found[account.id] = account
        if len(found) > MAX_ACCOUNTS:
            raise UsageError(f"more than {MAX_ACCOUNTS:,} accounts; does this source ever end?")
    return tuple(found.values())


async def _each(
    accounts: Iterable[AccountLike] | AsyncIterable[AccountLike],
) -> AsyncIterator[PlannedAccount]:
    if isinstance(accounts, AsyncIterable):
        async for account in accounts:
            yield _planned(account)
    elif isinstance(accounts, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        for account in in_order(accounts):
            yield _planned(account)
    else:
        raise UsageError(f"accounts takes ids, IntegratedAccounts or a Path, not {_brief(accounts)}")


def _planned(account: object) -> PlannedAccount:
    if isinstance(account, PlannedAccount):
        return account
    name: object = account
    tenant: object = None
    if isinstance(account, IntegratedAccount):
        name, tenant = account.id, account.tenant_id
    elif isinstance(account, Mapping):
        fields = cast("Mapping[str, object]", account)
        name, tenant = fields.get("id"), fields.get("tenant_id")
    if not isinstance(name, str) or not name:
        raise UsageError(f"an account's id is non-empty text, not {_brief(name)}")
    if tenant is not None and not isinstance(tenant, str):
        raise UsageError(f"the tenant_id of account {name} is text, not {_brief(tenant)}")
    return PlannedAccount(_utf8("an account's id", name), tenant and _utf8("tenant_id", tenant))


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _read_file(path: Path) -> list[AccountLike]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read accounts from {path}: {error}") from error
    found = [
        _read_line(line, f"{path}, line {number}")
        for number, line in enumerate(map(str.strip, text.split("\n")), 1)
        if line and not line.startswith("#")
    ]
    if not found:
        raise UsageError(f"{path} names no account")
    return found


def _read_line(line: str, where: str) -> AccountLike:
    try:
        if line.startswith("{"):
            return _planned(msgspec.json.decode(line))
        name = line.split("#", 1)[0].strip()
        if re.search(r"[\s,;\"']", name):
            raise UsageError("expected one id on a line, or a JSON object with an id")
        return _planned(name)
    except (UsageError, msgspec.DecodeError) as error:
        raise UsageError(f"{where}: {error}") from error


# --- windows ---------------------------------------------------------------------------------------------------

_RELATIVE = re.compile(r"(now|today)?(?:([+-])(\d{1,7})([smhdw]))?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class _Bound(Struct, frozen=True):
    """A bound understood. ``moment`` has the zone whose midnights count; ``text`` is what goes out.

    ``form`` is how cuts are written: with the ``offset`` of the text, or in ``utc``.
    """

    moment: datetime
    text: str
    given: str
    form: Literal["offset", "utc"] = "utc"

    def render(self, moment: datetime) -> str:
        if self.form == "utc":
            return format_time(moment, "window")
        local = moment.astimezone(self.moment.tzinfo)
        text = local.isoformat()
        return text.removesuffix("+00:00") + "Z" if self.text[-1] in "zZ" else text


def _resolve_windows(
    start_time: When | None, end_time: When | None, window: WindowLength | None, now: datetime
) -> tuple[dict[str, Any], tuple[Window, ...]]:
    """Return the bounds as they were given, for comparing, and the windows between them.

    :raises UsageError: an end that is not after the start, or windows without a start, without end or too many.
    """
    start = None if start_time is None else _read_bound(start_time, "start_time", now)
    if end_time is None:
        end = None if start is None else _read_bound("now", "end_time", now)
    else:
        end = _read_bound(end_time, "end_time", now)
    given: dict[str, Any] = {}
    if start is not None:
        given["start_time"] = start.given
    if end is not None and end.given != "now":
        given["end_time"] = end.given
    if start is not None and end is not None and _utc(end.moment) <= _utc(start.moment):
        raise UsageError(
            f"end_time={end.text} is not after start_time={start.text}; windows are [start, end)"
        )
    if window is None:
        return given, (Window(start.text if start else None, end.text if end else None),)
    given["window"] = _window_text(window)
    if start is None or end is None:
        raise UsageError("window=... takes a start_time: it cuts the time from there on")
    return given, tuple(_cut(start, end, window))


def _window_text(window: object) -> str:
    if isinstance(window, timedelta):
        if window <= timedelta():
            raise UsageError(f"a window lasts longer than nothing, not {window!r}")
        return _offset_text(window).removeprefix("+")
    if isinstance(window, str) and window in ("day", "week", "month"):
        return window
    raise UsageError(f"window is 'day', 'week', 'month' or a timedelta, not {window!r}")


def _cut(start: _Bound, end: _Bound, window: WindowLength) -> Iterator[Window]:
    last, text, number = _utc(start.moment), start.text, 1
    for cut in _cuts(start.moment, window):
        if cut >= _utc(end.moment):
            break
        if cut <= last:  # a day that a change of zone left out, such as 30 December 2011 in Samoa
            continue
        number += 1
        if number > MAX_WINDOWS:
            raise UsageError(f"window={window!r} makes more than {MAX_WINDOWS:,} windows of this time")
        following = start.render(cut)
        yield Window(text, following)
        last, text = cut, following
    yield Window(text, end.text)


def _cuts(start: datetime, window: WindowLength) -> Iterator[datetime]:
    """Give the moments at which windows meet, in UTC, up to the end of the calendar."""
    try:
        for number in count(1):
            if isinstance(window, timedelta):
                yield _utc(start) + number * window
            else:
                yield _utc(datetime.combine(_later(start.date(), window, number), time(), start.tzinfo))
    except (OverflowError, ValueError):
        return


def _later(day: date, window: str, number: int) -> date:
    if window != "month":
        return day + timedelta(days=number * (7 if window == "week" else 1))
    years, month = divmod(day.month - 1 + number, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _read_bound(value: When, name: str, now: datetime) -> _Bound:
    try:
        if isinstance(value, timedelta):
            return _relative(now, "now", value)
        if isinstance(value, str):
            return _read_text(value.strip(), name, now)
        text = format_time(value, name)
        if isinstance(value, datetime):
            return _Bound(value, text, text)
        return _Bound(datetime.combine(value, time(), UTC), text, text)
    except OverflowError as error:
        raise UsageError(f"{name}={value!r} is beyond the calendar") from error


def _read_text(text: str, name: str, now: datetime) -> _Bound:
    match = _RELATIVE.fullmatch(text)
    if text and match is not None:
        base, sign, amount, unit = match.groups()
        offset = timedelta(seconds=int(amount or 0) * _UNITS[unit or "s"])
        return _relative(now, base or "now", -offset if sign == "-" else offset)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{name}={text!r} is not a time; write it like 2024-01-31, 2024-01-31T08:00:00Z, now, today or -7d"
        ) from None
    if _DATE.fullmatch(text):  # a bare date is refused by the service: it means that day's midnight UTC
        midnight = moment.replace(tzinfo=UTC)
        return _Bound(midnight, format_time(midnight, name), text)
    if moment.utcoffset() is None:
        raise UsageError(f"{name}={text!r} has no time zone; write {text}Z if it is UTC")
    _utc(moment)
    return _Bound(moment, text, text, "offset")


def _relative(now: datetime, base: str, offset: timedelta) -> _Bound:
    if base == "today":
        now = now.replace(hour=0, minute=0, second=0, fold=0)
        moment = (
            now + offset if not offset % timedelta(days=1) else (_utc(now) + offset).astimezone(now.tzinfo)
        )
    else:
        moment = (_utc(now) + offset).astimezone(now.tzinfo)
    return _Bound(moment, format_time(moment, "time"), base + _offset_text(offset))


def _offset_text(offset: timedelta) -> str:
    """Write an offset one way, however it was given: ``-1w`` and ``timedelta(days=-7)`` are both ``-7d``."""
    seconds = offset.total_seconds()
    for unit in "dhm":
        if not seconds % _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:+.0f}{unit}" if seconds else ""
    return f"{seconds:+.6f}".rstrip("0").rstrip(".") + "s"

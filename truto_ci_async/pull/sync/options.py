"""The arguments of a sync, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal, TypeAlias, cast, get_args
from zoneinfo import ZoneInfo, available_timezones

from msgspec import Struct

from truto_ci_async._checks import brief, did_you_mean, plain
from truto_ci_async._wire.times import When, plain_timedelta, read_length, resolve_time
from truto_ci_async.errors import UsageError
from truto_ci_async.models.pulls import PlannedAccount

from .windows import Grid, GridUnit

Since: TypeAlias = Literal["last"]
Zone: TypeAlias = str | tzinfo
#: One for all accounts, by account id (UTC for those that are missing), or a function of the account.
TimeZone: TypeAlias = Zone | Mapping[str, Zone] | Callable[[PlannedAccount], Zone | None]

LOOKBACK: Final = "2d"
MAX_HISTORY: Final = "30d"


class SyncOptions(Struct, frozen=True, kw_only=True):
    """What a sync asks for. Make it with ``sync_options``, which checks.

    ``now``       the time of the run, in UTC.
    ``earliest``  where the history of a new account begins.
    """

    now: datetime
    unit: GridUnit = "day"
    lookback: timedelta
    earliest: datetime
    time_zone: TimeZone | None = None
    keep_missing: bool = False

    def grid_of(self, account: PlannedAccount) -> Grid:
        """Return the windows of an account, in its time zone.

        :raises UsageError: there is no such zone.
        """
        given: Any = self.time_zone
        if isinstance(given, Mapping):
            given = cast("Mapping[str, Zone]", given).get(account.id)
        elif callable(given):
            given = given(account)
        return Grid(self.unit, UTC if given is None else _zone(given))


def sync_options(
    *,
    since: object = "last",
    window: object = None,
    lookback: timedelta | str | None = None,
    max_history: When | None = None,
    time_zone: TimeZone | None = None,
    keep_missing: bool = False,
    now: datetime,
) -> SyncOptions:
    """Check the arguments of a sync.

    :raises UsageError: one of them can never be right.
    """
    if since != "last":
        raise UsageError(f"since is 'last', which goes on where the last sync ended, not {brief(since)}")
    unit: object = "day" if window is None else plain(window)
    if unit not in get_args(GridUnit):
        raise UsageError(f"the window of a sync is 'day', 'week' or 'month', not {brief(window)}")
    now = now.astimezone(UTC)
    given: Any = time_zone
    if given is not None and not (isinstance(given, Mapping) or callable(given)):
        _zone(given)
    return SyncOptions(
        now=now,
        unit=cast("GridUnit", unit),
        lookback=read_span(LOOKBACK if lookback is None else lookback, "lookback"),
        earliest=_earliest(MAX_HISTORY if max_history is None else max_history, now),
        time_zone=time_zone,
        keep_missing=keep_missing,
    )


def read_span(value: object, name: str) -> timedelta:
    """Read a length such as ``2d``, or a timedelta.

    :raises UsageError: it is neither, or less than zero.
    """
    given: object = plain(value)
    length = read_length(given.strip()) if isinstance(given, str) else None
    if isinstance(given, timedelta):
        length = plain_timedelta(given, name)
    if length is None or length < timedelta():
        raise UsageError(f"{name} is a length such as '2d', or a timedelta, not {brief(value)}")
    return length


def _earliest(given: When, now: datetime) -> datetime:
    if isinstance(given, timedelta) or (isinstance(given, str) and read_length(given.strip()) is not None):
        length = read_span(given, "max_history")
        return now - min(length, now - datetime(1970, 1, 1, tzinfo=UTC))
    try:
        at = resolve_time(given, "max_history", now).at.astimezone(UTC)
    except UsageError:
        raise UsageError(
            f"max_history={brief(given)} is neither a length such as 90d nor a time such as 2024-01-31"
        ) from None
    if at > now:
        raise UsageError(f"max_history={brief(given)} is in the future")
    return at


def _zone(given: object) -> tzinfo:
    if isinstance(given, tzinfo):
        return given
    name: object = plain(given)
    if not isinstance(name, str):
        raise UsageError(f"a time zone is a name such as 'US/Pacific' or a tzinfo, not {brief(given)}")
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:  # of which ZoneInfoNotFoundError is one
        raise UsageError(
            f"there is no time zone {brief(name)}: write it like 'US/Pacific'"
            + (
                did_you_mean(name, known)
                if (known := available_timezones())
                else "; install tzdata: this system has none"
            )
        ) from error

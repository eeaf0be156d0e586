"""Windows of whole days in the company's time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final

TIMEZONE: Final = "US/Pacific"  # of every company


@dataclass(frozen=True, slots=True)
class Window:
    """Whole days of the company's calendar. `end` is exclusive."""

    start: date
    end: date

    @classmethod
    def whole_days(cls, start: datetime, end: datetime) -> Window:
        """Return the window Gong uses for a requested one: the dates of its bounds in UTC."""
        return cls(start.astimezone(UTC).date(), end.astimezone(UTC).date())

    @property
    def is_empty(self) -> bool:
        return self.end <= self.start

    @property
    def texts(self) -> tuple[str, str]:
        """Start and end as date-times with the company's UTC offset."""
        return midnight(self.start), midnight(self.end)

    @property
    def workdays(self) -> int:
        """The number of days other than Saturdays and Sundays."""
        weeks, rest = divmod((self.end - self.start).days, 7)
        first = self.start.weekday()
        return 5 * weeks + sum((first + day) % 7 < 5 for day in range(rest))


@lru_cache(maxsize=1024)
def midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00{'-07:00' if is_summer(day) else '-08:00'}"


def is_summer(day: date) -> bool:
    """Tell whether summer time applies at midnight Pacific of `day`, without needing a time zone database."""
    march, november = date(day.year, 3, 8), date(day.year, 11, 1)
    starts = march + timedelta(days=6 - march.weekday())  # second Sunday of March
    ends = november + timedelta(days=6 - november.weekday())  # first Sunday of November
    return starts < day <= ends

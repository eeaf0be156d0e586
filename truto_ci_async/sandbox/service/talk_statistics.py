"""Plausible statistics of a person in a window, for the realistic data.

Each is a person's own level times the level of the team, a slow trend, experience, and chance. Chance matters more in a
short window. Monologues, stories and interactivity depend on each other: someone who talks for long at a time lets
others talk less. Values have long tails. Nobody has statistics before their first day or after their last, and few
people have any at weekends.
"""

from __future__ import annotations

import math
from datetime import date
from functools import lru_cache
from typing import Final

from .people import NORMALS, Profile
from .windows import Window

_NEW_YEAR: Final = date(2024, 1, 1).toordinal()
# In their order: the spread of chance, the trend in a year, the share of experience, and whether values are large.
_STATISTICS: Final = (
    ("longest_monologue", 0.30, -0.06, 0.30, True),
    ("longest_customer_story", 0.42, 0.05, -0.20, True),
    ("interactivity", 0.16, 0.04, -0.15, False),
    ("patience", 0.22, 0.08, -0.20, False),
    ("question_rate", 0.28, 0.06, -0.10, True),
)


@lru_cache(maxsize=256)
def _season(window: Window) -> tuple[int, int, int, float, float]:
    """Return the window's first and last day, its workdays, the spread of chance, and the years since 2024 began."""
    start, end, workdays = window.start.toordinal(), window.end.toordinal(), window.workdays
    spread = 1 / math.sqrt(min(max(workdays, 1), 20) / 4)
    return start, end, workdays, spread, min(max(((start + end) / 2 - _NEW_YEAR) / 365, -3.0), 3.0)


def statistics_of(profile: Profile, window: Window, bits: int) -> dict[str, int | float | None]:
    """Return the statistics that exist. `bits` is the source of chance."""
    start, end, workdays, spread, years = _season(window)
    values: dict[str, int | float | None] = {}
    if profile.first_day >= end or (profile.last_day is not None and profile.last_day <= start):
        return values
    if not workdays and bits & 7:
        return values
    tenure = (start + end) / 2 - profile.first_day
    inexperience = math.exp(-max(tenure, 0.0) / 90) if tenure < 900 else 0.0
    monologue_luck = 0.0
    for place, (name, chance, trend, learning, is_large) in enumerate(_STATISTICS):
        bits >>= 16
        kind, luck = bits & 31, NORMALS[bits >> 5 & 1023]
        if place == 0:
            monologue_luck = luck
        elif place < 3:  # against the monologue
            luck = 0.8 * luck - 0.6 * monologue_luck
        if kind == 0 or (kind < 4 and place == 1):
            continue  # no call had any
        level = profile.levels[place] + chance * spread * luck + trend * years + learning * inexperience
        value = math.exp(level)
        if kind == 4:
            values[name] = None
        elif is_large and kind < 10:
            values[name] = int(value)
        else:
            values[name] = round(value if place != 2 else min(value, 10.0), 2)
    return values

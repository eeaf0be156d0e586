"""Plausible statistics of a person in a window, for the realistic data.

Each is a person's own level times the level of the team, a slow trend, experience, and chance. Chance has more to say
in a short window. Monologues, stories and interactivity depend on each other: who talks for long at a time lets others
talk less. Values have long tails. Nobody has statistics before their first day or after their last, and few at
weekends.
"""

from __future__ import annotations

import math
from datetime import date
from typing import Final

from .people import Profile, normal
from .windows import Window

_NEW_YEAR: Final = date(2024, 1, 1).toordinal()
# Of the statistics in their order: the middle, how people differ, how chance differs, and the trend in a year.
_LEVELS: Final = (
    ("longest_monologue", 120.0, 0.38, 0.30, -0.06),  # seconds
    ("longest_customer_story", 55.0, 0.45, 0.42, 0.05),  # seconds
    ("interactivity", 5.2, 0.22, 0.16, 0.04),  # turns of the conversation
    ("patience", 0.85, 0.24, 0.22, 0.08),  # seconds
    ("question_rate", 14.0, 0.32, 0.28, 0.06),  # in an hour
)
# How teams differ, as factors, in the order of `names.DEPARTMENTS`.
_TEAMS: Final = (
    (1.00, 1.00, 1.00, 1.00, 1.00),
    (0.70, 0.75, 1.15, 0.80, 1.35),
    (0.90, 1.35, 1.05, 1.25, 0.95),
    (0.95, 1.15, 1.05, 1.10, 1.00),
    (1.60, 0.80, 0.75, 1.05, 0.65),
    (0.75, 1.10, 1.10, 1.30, 0.90),
)


def statistics_of(profile: Profile, window: Window, bits: int) -> dict[str, int | float | None]:
    """Return the statistics that there are. `bits` is the chance."""
    start, end, workdays = window.start.toordinal(), window.end.toordinal(), window.workdays
    first, last = max(start, profile.first_day), min(end, profile.last_day or end)
    if last <= first or (not workdays and bits & 7):
        return {}
    middle = (first + last) / 2
    experience = 1 - math.exp((profile.first_day - middle - 20) / 90)  # from about 0.2 to 1
    years = min(max((middle - _NEW_YEAR) / 365, -3.0), 3.0)
    spread = 1 / math.sqrt(min(max(workdays, 1), 20) / 4)
    team, traits = _TEAMS[profile.department], profile.traits
    monologue_luck, values = 0.0, {}
    for place, (name, middle_value, personal, chance, trend) in enumerate(_LEVELS):
        bits >>= 8
        kind, luck = bits & 31, normal(bits >> 5)
        bits >>= 28
        if place == 0:
            monologue_luck = luck
        elif place < 3:  # against the monologue
            luck = 0.8 * luck - 0.6 * monologue_luck
        trait = traits[place] if place in (0, 3, 4) else 0.8 * traits[place] - 0.6 * traits[0]
        level = personal * trait + chance * spread * luck + trend * years
        level += (0.35 if place == 0 else -0.2) * (1 - experience)
        if kind == 0 or (name == "longest_customer_story" and kind < 4):
            continue  # no call had any
        value = middle_value * team[place] * math.exp(level)
        if name == "interactivity":
            value = min(value, 10.0)
        values[name] = (
            None if kind == 4 else int(value) if kind < 10 and middle_value > 10 else round(value, 2)
        )
    return values

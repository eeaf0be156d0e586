"""Checks the numbers that callers pass as options."""

from __future__ import annotations

import math
from typing import Any

from truto_ci_async.errors import ConfigurationError


def check_number(name: str, value: object, *, above: float | None = None, least: float | None = None) -> None:
    """Refuse anything but a finite number in range.

    :raises ConfigurationError: names the option, what was expected and what was passed.
    """
    _check("a finite number", (int, float), name, value, above, least)


def check_whole_number(name: str, value: object, *, least: int) -> None:
    """Refuse anything but an int in range.

    :raises ConfigurationError: as ``check_number``.
    """
    _check("a whole number", (int,), name, value, None, least)


def _check(
    kind: str,
    types: tuple[type[int] | type[float], ...],
    name: str,
    value: Any,
    above: float | None,
    least: float | None,
) -> None:
    is_number = isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and (above is None or value > above) and (least is None or value >= least):
        return
    expected = kind
    if above is not None:
        expected += f" above {above:g}"
    if least is not None:
        expected += f" of at least {least:g}"
    raise ConfigurationError(f"{name} must be {expected}, got {value!r}")

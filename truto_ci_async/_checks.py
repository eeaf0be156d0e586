"""Checks the values that callers pass: numbers as options, and scalars of any library as ids and filters."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from truto_ci_async.errors import ConfigurationError

# The most any number may be. Larger ones are mistakes, and some of them overflow a float.
LARGEST: Final = 2**63 - 1
BRIEF: Final = 80


def check_number(name: str, value: Any, *, above: float | None = None, least: float | None = None) -> None:
    """Refuse anything but a finite number in range.

    :raises ConfigurationError: names the option, what was expected and what was passed.
    """
    is_right = is_number(value) and (above is None or value > above) and (least is None or value >= least)
    if not is_right:
        raise ConfigurationError(
            f"{name} must be a finite number{_range_text(above, least)}, got {brief(value)}"
        )


def check_whole_number(name: str, value: object, *, least: int) -> None:
    """Refuse anything but an int in range.

    :raises ConfigurationError: as ``check_number``.
    """
    if not is_whole_number(value, least=least):
        raise ConfigurationError(
            f"{name} must be a whole number{_range_text(None, least)}, got {brief(value)}"
        )


def is_number(value: Any) -> bool:
    """Whether this is an int or a float, finite and not absurdly large."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return -LARGEST <= value <= LARGEST  # False for nan; comparing an int with an int cannot overflow


def is_whole_number(value: object, *, least: int) -> bool:
    """Whether this is an int of at least ``least``, and not absurdly large."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST


def _range_text(above: float | None, least: float | None) -> str:
    text = "" if above is None else f" above {above:g}"
    return text if least is None else f"{text} of at least {least:g}"


def plain(value: Any) -> Any:
    """Return a str, int or float of a subclass, an Enum member or a NumPy scalar as the plain value it holds.

    Anything else comes back unchanged. The methods of a subclass are not used: they may format its value in another
    way, which would then be sent.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    # A NumPy scalar that is not one of these: a bool, an integer, or a float of another size.
    if getattr(getattr(value, "dtype", None), "kind", None) in ("b", "i", "u", "f") and value.shape == ():
        number = value.item()
        return number if type(number) in (bool, int, float) else value
    return value


def is_iterable(value: Any) -> bool:
    """Whether ``iter`` takes this. A zero-dimensional NumPy array only looks as if it did."""
    try:
        iter(value)
    except TypeError:
        return False
    return True


def brief(value: object) -> str:
    """Return a short ``repr`` for a message. Some objects have none: an int of 5,000 digits, for example."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a message about a wrong value must not fail because of it
        return f"a {type(value).__name__}"
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}..."


def nearest_first(names: Iterable[str], given: object) -> list[str]:
    """Return the names, the ones most like ``given`` first, for an error."""
    from difflib import SequenceMatcher

    text = str(given).lower()
    return sorted(names, key=lambda name: SequenceMatcher(None, name, text).ratio(), reverse=True)


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` for the end of a message, or nothing if no name is like ``given``."""
    from difflib import get_close_matches

    near = get_close_matches(given.lower(), list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""

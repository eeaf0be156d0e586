"""How many cells of a terminal a text takes, and how to cut it to fit."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def cell_width(text: str) -> int:
    """Count the terminal cells of a text: wide characters take two, combining and invisible ones none."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return ``text``, ended by an ellipsis if it is wider than ``width`` cells."""
    if cell_width(text) <= width:
        return text
    used = 1
    for at, character in enumerate(text):
        used += _width(character)
        if used > width:
            return text[:at] + ELLIPSIS
    return text

"""Makes text from outside safe to show and to store: some characters control a terminal, and UTF-8 cannot encode
others."""

from __future__ import annotations

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# White space that ends a line or moves the cursor.
_BREAKS = r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]"
# Controls (C0, DEL, C1), marks that change the direction of text, and surrogates.
_UNSAFE = r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_SURROGATES = "[\ud800-\udfff]"
_WITH_AT = r"\S*@\S*"


def printable(text: str) -> str:
    """Return ``text`` as one line that cannot control a terminal or forge a line of a log.

    Line breaks and tabs become spaces, what else is unsafe becomes ``U+FFFD``. The length stays the same.

    >>> printable("a\\x1b[2Jb\\nc")
    'a�[2Jb c'
    """
    if text.isascii() and text.isprintable():
        return text
    return re.sub(_UNSAFE, REPLACEMENT, re.sub(_BREAKS, " ", text))


def encodable(text: str) -> str:
    """Return ``text`` with every surrogate replaced.

    Python puts them into file names and status lines that are not UTF-8. Files, logs and databases cannot store them.
    """
    return text if text.isascii() else re.sub(_SURROGATES, REPLACEMENT, text)


def hide_passwords(text: str) -> str:
    """Mask the words of ``text`` that contain ``@``: a mistyped URL may contain a password.

    >>> hide_passwords("unknown option: --url user:hunter2@host")
    'unknown option: --url ***'
    """
    return re.sub(_WITH_AT, "***", text)


def duration(seconds: float) -> str:
    """Return a length of time as people read it.

    >>> duration(4), duration(75), duration(7_500)
    ('4.0 s', '1 min 15 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"

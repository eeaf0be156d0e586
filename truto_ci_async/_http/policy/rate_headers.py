"""TODO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from truto_ci_async.models import RateLimit

from .headers import server_time

Level: TypeAlias = Literal["token", "account"]


_NUMBER = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{0,9})?)\s*(?:[,;].*)?", re.ASCII | re.DOTALL)
_WINDOW = re.compile(r";\s*w\s*=\s*\"?([0-9]{1,9}(?:\.[0-9]{1,9})?)", re.ASCII | re.IGNORECASE)
_LONGEST_VALUE: Final = 400  # characters
# Told apart by size: nobody resets in ten years, and the epoch passed these marks long ago.
_EPOCH_SECONDS: Final = 3e8
_EPOCH_MILLISECONDS: Final = 3e11
_LONGEST_RESET: Final = 366 * 86400.0


def parse_rate_limit(headers: Mapping[str, str], now_epoch: float) -> RateLimit | None:
    """Read the ``ratelimit-*`` headers, leniently; None when there is nothing to read in them.

    ``headers`` have lower-case names. The limit comes as ``110`` or ``110;w=10``; the reset in seconds from
    now or as a point in time, which is measured against the answer's own ``Date`` (``now_epoch`` when there
    is none).
    """
    limit_text = headers.get("ratelimit-limit")
    remaining_text = headers.get("ratelimit-remaining")
    reset_text = headers.get("ratelimit-reset")
    if limit_text is None and remaining_text is None and reset_text is None:
        return None
    limit = _number(limit_text)
    remaining = _number(remaining_text)
    reset = _number(reset_text)
    window: float | None = None
    if limit is not None and limit_text is not None and (match := _WINDOW.search(limit_text)):
        window = float(match[1]) or None
    if reset is not None:
        if reset >= _EPOCH_MILLISECONDS:
            reset /= 1000.0
        if reset >= _EPOCH_SECONDS:
            reset = max(0.0, reset - server_time(headers, now_epoch))
        if reset > _LONGEST_RESET:
            reset = None
    if limit is None and remaining is None and reset is None:
        return None
    return RateLimit(
        limit=None if limit is None else int(limit),
        window=window,
        remaining=None if remaining is None else int(remaining),
        reset=reset,
    )


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _LONGEST_VALUE or not (match := _NUMBER.fullmatch(text)):
        return None
    return float(match[1])


def level_named(insight: Mapping[str, Any], message: str = "") -> Level | None:
    """Find the level that the body of a 429 speaks of; None when it names neither, or both.

    ``insight`` is the body's ``truto_error_insight``. Nobody has published its words for this (contract
    section 3), so this only looks for "account" and "token".
    """
    text = f"{insight.get('rate_limit_error', '')} {message}".lower()
    is_account, is_token = "account" in text, "token" in text
    if is_account == is_token:
        return None
    return "account" if is_account else "token"

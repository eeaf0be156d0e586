"""Turns the text of an option into a value. Each reader raises an error that says how to write it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from truto_ci_async._checks import LARGEST, brief
from truto_ci_async._wire.times import read_length, resolve_time
from truto_ci_async.errors import UsageError


def whole_number(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """Return a reader of whole numbers, both bounds included."""
    allowed = f"of {least} or more" if most == LARGEST else f"from {least} to {most}"

    def read(text: str) -> int:
        # int() refuses thousands of digits with an error of its own.
        if not text.isdecimal() or len(text) > len(str(LARGEST)) or not least <= int(text) <= most:
            raise ValueError(f"{brief(text)} is not a whole number {allowed}")
        return int(text)

    return read


def filled(text: str) -> str:
    """Refuse an empty text: it probably comes from an unset variable, and would mean something else, or everything."""
    if not text.strip():
        raise ValueError("it is empty: is a variable not set?")
    return text


def word(text: str) -> str:
    """Refuse an empty text, and leave out the spaces around a pasted one."""
    return filled(text).strip()


def one_id(text: str) -> str:
    if "," in text:
        raise ValueError("it is one account; `truto-ci pull -a ID,ID --out FOLDER` takes several")
    return word(text)


def name_list(text: str) -> list[str]:
    """Read names with commas between them."""
    return [each for part in filled(text).split(",") if (each := part.strip())]


def seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= LARGEST:
            return float(text)
    raise ValueError(f"{text!r} is not a number of seconds above 0")


def moment(text: str) -> str:
    """Check a time, and return its text: one that is relative is resolved later, together with the others."""
    try:
        resolve_time(text, "", datetime.now(UTC))
    except UsageError as error:
        raise ValueError(error.message) from None
    return text


def length(text: str) -> str:
    """Check a length, and return its text: the library reads it again."""
    if read_length(text.strip()) is None:
        raise ValueError(f"{text!r} is not a length such as 6h or 2d")
    return text


def window_length(text: str) -> str | timedelta:
    """Read ``day``, ``week``, ``month``, or a length."""
    if text in ("day", "week", "month"):
        return text
    length = read_length(text)
    if not length:
        raise ValueError(f"{text!r} is not day, week, month, or a length such as 6h or 10d")
    return length


# --- -q and --query-json ---------------------------------------------------------------------------------------


def read_query(
    pairs: Sequence[str], document: str | None, *, dots_nest: bool = True, option: str = "-q"
) -> dict[str, Any] | None:
    """Merge the parameters of each ``-q`` into those of ``--query-json``; None when there are none.

    ``dots_nest=False`` is for endpoints whose parameter names contain dots; ``option`` is what messages call a ``-q``.

    :raises UsageError: one of them cannot be read.
    """
    query = {} if document is None else _read_json_object(document)
    for text in pairs:
        for pair in _hide_escaped(text).split(","):
            name, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(
                    f'{option} takes NAME=VALUE, and {_restore(pair)!r} has no "="; write a comma in a value as \\,'
                )
            _insert(query, _read_path(name, option, dots_nest=dots_nest), _restore(value), option)
    return query or None


def _read_json_object(text: str) -> dict[str, Any]:
    try:
        document: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--query-json is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f'--query-json takes an object such as {{"sort_by": "id"}}, not {text:.40}')
    return cast("dict[str, Any]", document)


# While a -q is parsed, an escaped character is replaced by a surrogate, which no valid text contains.
_SURROGATES: Final = 0xD800


def _hide_escaped(text: str) -> str:
    return re.sub(r"\\([\\,=\[\].])", lambda match: chr(_SURROGATES + ord(match[1])), text)


def _restore(text: str) -> str:
    return re.sub("[\ud800-\ud87f]", lambda match: chr(ord(match[0]) - _SURROGATES), text)


def _read_path(name: str, option: str, *, dots_nest: bool) -> list[str]:
    """Split ``a[b].c`` into its parts. An empty last part means "append to a list"."""
    dot, key = (r"\.", r"[^\[\].]+") if dots_nest else (r"(?!)", r"[^\[\]]+")
    if not re.fullmatch(rf"{key}(\[[^\[\]]+\]|{dot}{key})*(\[\])?", name):
        raise UsageError(
            f"{option} cannot read the name {_restore(name)!r}; write a=..., a[b]=..., a.b=... or a[]=..."
        )
    parts = re.findall(rf"\[([^\[\]]*)\]|(?:{dot})?({key})", name)
    return [_restore(in_brackets or bare) for in_brackets, bare in parts]


def _insert(query: dict[str, Any], path: Sequence[str], value: str, option: str) -> None:
    conflict = UsageError(
        f"{option} gives {path[0]!r} both a value and members, or different kinds of members; remove one"
    )
    is_list = path[-1] == ""
    *parents, name = path[:-1] if is_list else path
    for parent in parents:
        query = query.setdefault(parent, {})
        if not isinstance(query, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise conflict
    present = query.get(name)
    if not is_list:
        if isinstance(present, dict | list):
            raise conflict
        query[name] = value
    elif isinstance(present, list):
        query[name].append(value)
    elif present is None:
        query[name] = [value]
    else:
        raise conflict


def rate(text: str) -> tuple[int, float] | None:
    """Read a limit such as ``50/10``, which is 50 requests in 10 seconds, or ``off``."""
    if text == "off":
        return None
    requests, _, period = text.partition("/")
    try:
        return whole_number(1, 1_000_000)(requests), seconds(period)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a limit such as 50/10 (50 requests in 10 seconds), or off"
        ) from None

"""Tokens: where they come from, and how they stay out of logs."""

from __future__ import annotations


class Secret(str):
    """Text that reprs, tracebacks with locals and dumps of containers show as ``***``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

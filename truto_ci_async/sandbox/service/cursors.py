"""Opaque cursors that remember which list they belong to.

A cursor is stateless: offset, age and a short hash of every filter, sealed with the sandbox's secret. One used with
other filters is refused, and the filters are named: a client that forgets to send its parameters again gets caught.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final

_FIXED: Final = struct.Struct(
    ">IIId"
)  # offset, serial, generation, seconds since the epoch (0 without a time to live)
_SEAL_BYTES: Final = 8
_FILTER_BYTES: Final = 4  # of hash for each filter


class CursorRefused(Exception):
    """A cursor that cannot be used; the text is for the caller."""


class Cursors:
    """Issues and reads the cursors of one sandbox."""

    def __init__(self, secret: bytes, clock: Callable[[], float], time_to_live: float | None) -> None:
        self._secret = secret
        self._clock = clock
        self.time_to_live = time_to_live
        self.generation = 0  # cursors of an earlier one have expired

    def issue(self, filters: Mapping[str, str], offset: int, serial: int = 0) -> str:
        """Make the cursor of the records from `offset` on.

        Equal arguments give equal cursors unless cursors have a time to live.
        """
        issued = 0.0 if self.time_to_live is None else self._clock()
        body = _FIXED.pack(offset, serial, self.generation, issued) + _hashes(filters)
        seal = self._hash(body, b"seal")[:_SEAL_BYTES]
        return urlsafe_b64encode(seal + self._mask(body, seal)).decode().rstrip("=")

    def read(self, cursor: str, filters: Mapping[str, str]) -> int:
        """Return the offset.

        :raises CursorRefused: it is not ours, has expired, or belongs to a list with other filters.
        """
        try:
            raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        seal, body = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        body = self._mask(body, seal) if len(body) <= 64 else b""
        if len(body) < _FIXED.size or self._hash(body, b"seal")[:_SEAL_BYTES] != seal:
            raise CursorRefused(f"next_cursor {cursor!r} is not a cursor of this service")
        offset, _, generation, issued = _FIXED.unpack_from(body)
        too_old = self.time_to_live is not None and self._clock() - issued > self.time_to_live
        if generation != self.generation or too_old:
            raise CursorRefused("The cursor has expired")
        given, wanted = body[_FIXED.size :], _hashes(filters)
        if len(given) != len(wanted):
            raise CursorRefused(f"next_cursor {cursor!r} belongs to another list")
        step = _FILTER_BYTES
        other = [
            name for at, name in enumerate(filters) if given[at * step :][:step] != wanted[at * step :][:step]
        ]
        if other:
            raise CursorRefused(f"next_cursor {cursor!r} was issued with other values of: {', '.join(other)}")
        return int(offset)

    def _mask(self, body: bytes, seal: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(body, self._hash(seal, b"mask"), strict=False))

    def _hash(self, data: bytes, purpose: bytes) -> bytes:
        return blake2b(data, key=self._secret, person=purpose).digest()


def _hashes(filters: Mapping[str, str]) -> bytes:
    return b"".join(
        blake2b(f"{name}={value}".encode(errors="replace"), digest_size=_FILTER_BYTES).digest()
        for name, value in filters.items()
    )

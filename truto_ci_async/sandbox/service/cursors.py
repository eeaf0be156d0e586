"""Opaque cursors that know which list they belong to.

Nothing is stored. A cursor holds an offset, its time of issue and a short hash of every filter, signed with the
sandbox's secret. Used with other filters it is refused with an error that names them, which catches a client that
forgets to repeat its parameters.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final

# Offset, serial number, generation, and time of issue in seconds since the epoch (0 without a time to live).
_HEADER: Final = struct.Struct(">IIId")
_SIGNATURE_BYTES: Final = 8
_FILTER_BYTES: Final = 4  # hash of each filter


class InvalidCursor(Exception):
    """A cursor that cannot be used. The message is for the caller."""


class Cursors:
    """Issues and reads the cursors of one sandbox."""

    def __init__(self, secret: bytes, clock: Callable[[], float], time_to_live: float | None) -> None:
        self._secret = secret
        self._clock = clock
        self.time_to_live = time_to_live
        self.generation = 0  # cursors of earlier generations have expired

    def issue(self, filters: Mapping[str, str], offset: int, serial: int = 0) -> str:
        """Return the cursor for the records from `offset` on.

        The same arguments give the same cursor, unless cursors have a time to live.
        """
        issued = 0.0 if self.time_to_live is None else self._clock()
        body = _HEADER.pack(offset, serial, self.generation, issued) + _hashes(filters)
        signature = self._sign(body)
        return urlsafe_b64encode(signature + self._mask(body, signature)).decode().rstrip("=")

    def read(self, cursor: str, filters: Mapping[str, str]) -> int:
        """Return the offset.

        :raises InvalidCursor: it is not from this sandbox, has expired, or belongs to a list with other filters.
        """
        try:
            raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except ValueError:
            raw = b""
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        body = self._mask(body, signature) if len(body) <= 64 else b""
        if len(body) < _HEADER.size or self._sign(body) != signature:
            raise InvalidCursor(f"next_cursor {cursor!r} is not a cursor of this service")
        offset, _, generation, issued = _HEADER.unpack_from(body)
        too_old = self.time_to_live is not None and self._clock() - issued > self.time_to_live
        if generation != self.generation or too_old:
            raise InvalidCursor("The cursor has expired")
        issued_for, wanted = body[_HEADER.size :], _hashes(filters)
        if len(issued_for) != len(wanted):
            raise InvalidCursor(f"next_cursor {cursor!r} belongs to another list")
        starts = zip(range(0, len(wanted), _FILTER_BYTES), filters, strict=True)
        changed = [
            name for at, name in starts if issued_for[at:][:_FILTER_BYTES] != wanted[at:][:_FILTER_BYTES]
        ]
        if changed:
            raise InvalidCursor(
                f"next_cursor {cursor!r} was issued with other values of: {', '.join(changed)}"
            )
        return int(offset)

    def _sign(self, body: bytes) -> bytes:
        return self._hash(body, b"seal")[:_SIGNATURE_BYTES]

    def _mask(self, body: bytes, signature: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(body, self._hash(signature, b"mask"), strict=False))

    def _hash(self, data: bytes, purpose: bytes) -> bytes:
        return blake2b(data, key=self._secret, person=purpose).digest()


def _hashes(filters: Mapping[str, str]) -> bytes:
    return b"".join(
        blake2b(f"{name}={value}".encode(errors="replace"), digest_size=_FILTER_BYTES).digest()
        for name, value in filters.items()
    )

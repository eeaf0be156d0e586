"""Reads what surrounds the items: the keys before and after their array, such as ``next_cursor``."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from truto_ci_async._json import EXCERPT_BYTES, decode_member, describe, replace_surrogates
from truto_ci_async._wire.repair import Note
from truto_ci_async._wire.surrogates import check_cursor, surrogate_notes
from truto_ci_async.errors import BodyTooLargeError, DecodeError, UsageError
from truto_ci_async.models.struct_types import split_object

from .array_parser import WHITE
from .array_scanner import ArrayScanner

Envelope: TypeAlias = dict[str, Any]

# Takes the place of the items in the envelope. If it is missing after decoding, a second value has replaced it.
_PLACEHOLDER = "\x00items"
_PLACEHOLDER_JSON = msgspec.json.encode(_PLACEHOLDER)


class EnvelopeReader:
    """Keep the bytes before and after the items, at most ``max_bytes``, and decode them as one object.

    The body goes through ``read_head`` until that finds the items, and through ``read_tail`` once they have ended.
    """

    def __init__(self, path: str, *, key_by: bool, max_bytes: int) -> None:
        keys = tuple(path.split("."))
        if not all(keys):
            raise UsageError(f"path is one key, or several joined by dots, not {path!r}")
        self._path = path
        self._max_bytes = max_bytes
        self._scanner = ArrayScanner(keys, key_by=key_by)
        self._head = bytearray()
        self._tail = bytearray()
        # Lone ones that `decode` replaced.
        self.surrogates: list[Note] = []  # mutant: None is as good

    def read_head(self, chunk: bytes) -> bytes:
        """Read up to the items, and return ``chunk`` from their opening bracket on; b"" if that has not arrived."""
        if not self._head:
            chunk = chunk.lstrip(WHITE)  # some servers send spaces while they work on the response
        opening = self._scanner.find(chunk)
        self._keep(self._head, chunk if opening < 0 else chunk[:opening])
        return b"" if opening < 0 else chunk[opening:]

    def end_items(self, bracket: bytes) -> None:
        """Note that ``bracket`` has closed the items."""
        self._scanner.send(bracket)

    def read_tail(self, chunk: bytes) -> None:
        """Read what follows the closing bracket of the items.

        :raises DecodeError: it is not JSON, or the document had ended before it.
        """
        if not self._scanner.depth:
            if chunk.strip(WHITE):
                raise DecodeError(
                    f"unexpected data after the end of the document: {chunk.strip(WHITE)[:40]!r}"
                )
            return
        self._scanner.read(chunk)
        if not self._scanner.depth:
            chunk = chunk.rstrip(WHITE)  # mutant: ijson has refused all other bytes
        self._keep(self._tail, chunk)

    def is_complete(self) -> bool:
        """Tell whether the document is complete. Nothing can be read after this.

        :raises DecodeError: it is empty, or its end is not JSON.
        """
        if not self._head:
            raise DecodeError(f"the body is not JSON: {describe(b'')}")
        return self._scanner.is_complete()

    def decode(self) -> Envelope:
        """Decode what was kept, without the items.

        :raises DecodeError: there were no items; it does not decode; or a key on the way to the items comes twice.
        """
        if not self._scanner.found:
            raise self._missing()
        received = b"".join((self._head, _PLACEHOLDER_JSON, self._tail))
        text = replace_surrogates(received)
        if text is not received:
            self.surrogates = surrogate_notes(received, "$")
            check_cursor(self.surrogates)
        *parents, last = keys = self._scanner.found
        try:
            envelope = _decode_levels(text, parents)
        except RecursionError:
            raise DecodeError("the envelope around the items is nested too deep to decode") from None
        except msgspec.DecodeError as error:
            raise DecodeError(f"the envelope around the items cannot be decoded: {error}") from error
        inner: Any = envelope
        try:
            for key in parents:
                inner = inner[key]
            value = inner.pop(last)
        except (KeyError, TypeError, AttributeError):
            value = None  # mutant: any other value
        if value != _PLACEHOLDER:
            raise DecodeError(f"the key {'.'.join(keys)!r} comes twice", path=f"$.{'.'.join(keys)}")
        if ".".join(keys) != self._path and "result" in envelope:
            raise DecodeError("both result and results are there: say path='results'", path="$.result")
        return envelope

    def _keep(self, part: bytearray, chunk: bytes) -> None:
        if len(self._head) + len(self._tail) + len(chunk) <= self._max_bytes:
            part += chunk
            return
        scanner = self._scanner
        if not scanner.found and (scanner.found_instead or not scanner.depth):
            raise self._missing()
        raise BodyTooLargeError(
            f"more than {self._max_bytes:,} bytes surround the items of {self._path!r} (max_envelope_bytes);"
            f" if the items are elsewhere say path=...; {scanner.describe_keys()}",
            limit=self._max_bytes,
        )

    def _missing(self) -> DecodeError:
        """Make the error for a body without items at the path."""
        raw = bytes(self._head[:EXCERPT_BYTES])
        if not raw.startswith(b"{"):
            return DecodeError(f"expected a JSON object with {self._path!r}: {describe(raw)}", raw=raw)
        path = f"$.{self._path}"
        if found := self._scanner.found_instead:
            hint = "; key_by takes an object" if found == "an object" else ""
            return DecodeError(f"expected an array at {path}, got {found}{hint}", path=path, raw=raw)
        hint = "name the key that holds the items, as in path='peopleInteractionStats', item_type=dict"
        if {"error", "message"} & set(self._scanner.top_keys):
            hint = f"the body is {bytes(self._head[:200]).decode(errors='replace')}"
        return DecodeError(
            f"the body has no {path}; {self._scanner.describe_keys()}; {hint}", path=path, raw=raw
        )


def _decode_levels(text: bytes, keys: list[str]) -> Envelope:
    """Decode an object, and those that ``keys`` lead to, member by member; large members stay Raw."""
    decoded: Envelope = {}
    for key, value in split_object(text).items():
        raw = bytes(value)
        is_on_the_way = key in keys[:1] and raw.startswith(b"{")
        decoded[key] = _decode_levels(raw, keys[1:]) if is_on_the_way else decode_member(key, raw)
    return decoded

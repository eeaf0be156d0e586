"""Content codings of a body as push decoders that know their own end, bounded in what one step may produce.

aiohttp could decompress by itself, but is silent on half a gzip body with a clean chunked end, and inflates a
whole network read at once. So bodies are taken compressed and opened here: ``feed`` gives pieces of at most
``PIECE`` bytes, whatever the ratio, and ``close`` tells a body that ended early from a whole one. A step takes in
at most ``SLICE`` bytes, since a body can also be all frames and no content, and each frame costs a new decoder.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from truto_ci_async.errors import BodyTooLargeError, DecodeError, TruncatedBodyError

# About the most bytes one step hands out (brotli may double it): a step inflates in about a millisecond.
PIECE = 256 * 1024
# The most bytes one step takes in. What is left of a slice is copied at every frame's end, so that a larger one
# would cost the square: half a megabyte of empty frames held the loop for three seconds.
SLICE = 16 * 1024
# The largest zstd window there is a decoder for, as RFC 9659 has it for HTTP: 2**23 bytes. Without a bound the
# decoder takes as much memory as the body's first bytes tell it to, up to 128 MB.
ZSTD_WINDOW_LOG = 23


class _Codec(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def complete(self) -> bool: ...


class _Zlib:
    """gzip (several members allowed, as RFC 1952 has it) and deflate (with or without the zlib wrapper)."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding == "gzip"
        self._head = b""
        self._inflater: Any = zlib.decompressobj(31) if self._gzip else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            self._head += data
            if len(self._head) < 2:
                return
            data = self._head
            wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._inflater = zlib.decompressobj(15 if wrapped else -15)
        while data:
            if self._inflater.eof:
                data = data.lstrip(b"\0")  # padding, as gzip's own tools take it
                if not data:
                    return
                if not self._gzip:
                    raise DecodeError(f"{len(data)} bytes follow the end of the deflate body")
                self._inflater = zlib.decompressobj(31)
            piece = self._inflater.decompress(data, PIECE)
            yield piece
            data = self._inflater.unconsumed_tail or self._inflater.unused_data
            if not data and len(piece) == PIECE:  # the inflater may hold output back without holding input
                while piece := self._inflater.decompress(b"", PIECE):
                    yield piece

    def complete(self) -> bool:
        return self._inflater is not None and bool(self._inflater.eof)


class _Brotli:
    def __init__(self, module: ModuleType) -> None:
        self._decoder: Any = module.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder.is_finished() and data:
            raise DecodeError(f"{len(data)} bytes follow the end of the br body")
        while True:
            piece = self._decoder.process(data, output_buffer_limit=PIECE)
            data = b""
            if piece:
                yield piece
            # can_accept_more_data is True while output is still held back: only a dry step ends the feed.
            elif self._decoder.can_accept_more_data():
                return
            if self._decoder.is_finished():
                return

    def complete(self) -> bool:
        return bool(self._decoder.is_finished())


class _Zstd:
    """zstd, several frames allowed, as RFC 8878 has it."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._decoder: Any = self._new()

    def _new(self) -> Any:
        options = {self._module.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        return self._module.ZstdDecompressor(options=options)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            if self._decoder.eof:
                data = self._decoder.unused_data or data
                if not data:
                    return
                self._decoder = self._new()
                yield b""  # a decoder costs some 30 us, and a frame may be 9 bytes
            piece = self._decoder.decompress(data, max_length=PIECE)
            data = b""
            if piece:
                yield piece
            if self._decoder.eof:
                if not self._decoder.unused_data:
                    return
            elif self._decoder.needs_input:
                return

    def complete(self) -> bool:
        return bool(self._decoder.eof)


def _optional(*names: str) -> ModuleType | None:
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def _bounded(module: ModuleType | None) -> ModuleType | None:
    """Leave out a brotli from before 1.2: it cannot bound what one step opens, which is what a bomb needs."""
    try:
        if module is not None:
            module.Decompressor().process(b"", output_buffer_limit=PIECE)
    except TypeError:
        return None
    return module


_brotli = _bounded(_optional("brotli", "brotlicffi"))
_zstd = _optional("compression.zstd", "backports.zstd")

#: What to ask the service for: the codings that can be opened here.
ACCEPT_ENCODING = ", ".join(["gzip", "deflate", *(["br"] if _brotli else []), *(["zstd"] if _zstd else [])])


def _codec(coding: str) -> _Codec:
    if coding in {"gzip", "x-gzip"}:
        return _Zlib("gzip")
    if coding == "deflate":
        return _Zlib("deflate")
    if coding == "br" and _brotli is not None:
        return _Brotli(_brotli)
    if coding == "zstd" and _zstd is not None:
        return _Zstd(_zstd)
    raise DecodeError(
        f"the body is encoded as {coding[:40]!r}, which cannot be opened here (asked for: {ACCEPT_ENCODING})"
    )


class BodyDecoder:
    """Open one body: ``feed`` it what arrives, ``close`` it at the end.

    ``total`` counts the bytes handed out and never passes ``limit`` (bytes after decompression; None: no limit).

    :raises DecodeError: a coding that cannot be opened here.
    """

    def __init__(self, content_encoding: str = "", *, limit: int | None = None) -> None:
        coding = content_encoding.strip().lower()
        self._coding = coding
        self._codec = None if coding in {"", "identity"} else _codec(coding)
        self._limit = limit
        self._received = 0
        self.total = 0

    def expect(self, length: int) -> None:
        """Take note of the length that was announced, of the body as it is sent.

        :raises BodyTooLargeError: it is not compressed and longer than the limit.
        """
        if self._codec is None and self._limit is not None and length > self._limit:
            raise self._too_large(self._limit)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what ``data`` opens into, in pieces; a plain body passes through.

        A step takes about a millisecond; one that opened nothing yields ``b""``, so that the loop can breathe.

        :raises BodyTooLargeError: the limit is passed; nothing of the piece that passes it is handed out.
        :raises DecodeError: bytes that are not of the coding.
        """
        self._received += len(data)
        if self._codec is None:
            self.count(len(data))
            return iter((data,))
        return self._open(data, self._codec)

    def _open(self, data: bytes, codec: _Codec) -> Iterator[bytes]:
        for at in range(0, len(data), SLICE):
            pieces = codec.feed(data[at : at + SLICE])
            while (piece := self._step(pieces)) is not None:
                self.count(len(piece))
                yield piece

    def _step(self, pieces: Iterator[bytes]) -> bytes | None:
        try:
            return next(pieces, None)
        except DecodeError:
            raise
        except Exception as error:  # zlib.error, brotli.error and ZstdError have no base in common
            raise DecodeError(f"the body is not {self._coding}: {error}") from error

    def close(self) -> None:
        """Say that the body has ended.

        :raises TruncatedBodyError: the compressed body ends early.
        """
        if self._codec is not None and self._received and not self._codec.complete():
            raise TruncatedBodyError(
                f"the {self._coding} body ends early, after {self._received:,} bytes", bytes_read=self.total
            )

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to open: ``count`` does in place of ``feed``."""
        return self._codec is None

    def count(self, size: int) -> None:
        """Note ``size`` bytes that are handed out.

        :raises BodyTooLargeError: the limit is passed.
        """
        self.total += size
        if self._limit is not None and self.total > self._limit:
            raise self._too_large(self._limit)

    def _too_large(self, limit: int) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the body passes the limit of {limit:,} bytes after decompression; "
            "raise max_body_bytes, ask for smaller pages with limit=, or use stream()",
            limit=limit,
        )

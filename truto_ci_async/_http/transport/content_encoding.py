"""Decompresses bodies in small steps, and notices when one ends early.

aiohttp could decompress by itself, but accepts half a gzip body if its chunks end properly, and decompresses everything
it read from the network at once. So bodies are received compressed and decompressed here: ``feed`` gives pieces of
at most ``PIECE`` bytes, whatever the ratio, and ``close`` fails for a body that ended early. A step takes in at most
``SLICE`` bytes: a body can also consist of empty frames, and each frame needs a new decoder.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from truto_ci_async.errors import BodyTooLargeError, DecodeError, TruncatedBodyError

# Most bytes that one step returns (brotli may return twice as many), which takes about a millisecond.
PIECE = 256 * 1024
# Most bytes that one step takes in. The rest of a slice is copied at the end of every frame, which is quadratic in the
# slice: half a megabyte of empty frames blocked the loop for three seconds.
SLICE = 16 * 1024
# The largest zstd window that is accepted: 2**23 bytes, the limit of RFC 9659 for HTTP. Without a limit, the first
# bytes of a body decide how much memory the decoder takes, up to 128 MB.
ZSTD_WINDOW_LOG = 23


class _Codec(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def complete(self) -> bool: ...


class _Zlib:
    """gzip, also of several members (RFC 1952), and deflate, with or without the zlib wrapper."""

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
                data = data.lstrip(b"\0")  # padding, which the gzip tools accept too
                if not data:
                    return
                if not self._gzip:
                    raise DecodeError(f"{len(data)} bytes after the end of the deflate body")
                self._inflater = zlib.decompressobj(31)
            piece = self._inflater.decompress(data, PIECE)
            yield piece
            data = self._inflater.unconsumed_tail or self._inflater.unused_data
            if not data and len(piece) == PIECE:  # it may hold back output although it has no more input
                while piece := self._inflater.decompress(b"", PIECE):
                    yield piece

    def complete(self) -> bool:
        return self._inflater is not None and bool(self._inflater.eof)


class _Brotli:
    def __init__(self, module: ModuleType) -> None:
        self._decoder: Any = module.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._decoder.is_finished() and data:
            raise DecodeError(f"{len(data)} bytes after the end of the br body")
        while True:
            piece = self._decoder.process(data, output_buffer_limit=PIECE)
            data = b""
            if piece:
                yield piece
            # can_accept_more_data is also True while output is held back, so go on until a step returns nothing.
            elif self._decoder.can_accept_more_data():
                return
            if self._decoder.is_finished():
                return

    def complete(self) -> bool:
        return bool(self._decoder.is_finished())


class _Zstd:
    """zstd, also of several frames (RFC 8878)."""

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
                yield b""  # a new decoder takes about 30 us, and a frame may have only 9 bytes
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
    """Return None for a brotli before 1.2: it cannot limit its output, so a compression bomb would go off."""
    try:
        if module is not None:
            module.Decompressor().process(b"", output_buffer_limit=PIECE)
    except TypeError:
        return None
    return module


_brotli = _bounded(_optional("brotli", "brotlicffi"))
_zstd = _optional("compression.zstd", "backports.zstd")

#: The codings that can be decompressed here, to ask the service for.
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
        f"the body is encoded as {coding[:40]!r}, which cannot be decompressed here (requested: {ACCEPT_ENCODING})"
    )


def _codings_of(content_encoding: str) -> str:
    """Return the codings of a body, in lower case; an empty text if there are none."""
    codings = (coding.strip() for coding in content_encoding.lower().split(","))
    return ", ".join(coding for coding in codings if coding not in {"", "identity"})


class BodyDecoder:
    """Decompresses one body: ``feed`` it what arrives, ``close`` it at the end.

    ``total`` counts the bytes returned and never exceeds ``limit`` (bytes after decompression; None: no limit).
    ``length`` is the ``Content-Length``, of the body as it is sent.

    :raises DecodeError: a coding that cannot be decompressed here.
    :raises BodyTooLargeError: the body is not compressed, and longer than the limit.
    """

    def __init__(self, content_encoding: str = "", *, length: str = "", limit: int | None = None) -> None:
        self._coding = _codings_of(content_encoding) if content_encoding else ""
        self._codec = _codec(self._coding) if self._coding else None
        #: Whether the body is not compressed, so that ``count`` is enough instead of ``feed``.
        self.is_plain = self._codec is None
        self._limit = limit
        self._received = 0
        self.total = 0
        if self.is_plain and limit is not None and length.isdecimal() and int(length) > limit:
            raise self._too_large(limit)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress ``data`` in pieces; a plain body passes through.

        A step takes about a millisecond. One that produced nothing yields ``b""``, so that the caller can let the
        loop run.

        :raises BodyTooLargeError: the limit is exceeded; the piece that exceeds it is not returned.
        :raises DecodeError: bytes that are not of this coding.
        """
        self._received += len(data)
        if self._codec is None:
            self.count(len(data))
            return iter((data,))
        return self._decompress(data, self._codec)

    def _decompress(self, data: bytes, codec: _Codec) -> Iterator[bytes]:
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
        """Check that the body is complete.

        :raises TruncatedBodyError: the compressed body ends early.
        """
        if self._codec is not None and self._received and not self._codec.complete():
            raise TruncatedBodyError(
                f"the {self._coding} body ended early, after {self._received:,} bytes", bytes_read=self.total
            )

    def count(self, size: int) -> None:
        """Add ``size`` bytes to the total.

        :raises BodyTooLargeError: the limit is exceeded.
        """
        self.total += size
        if self._limit is not None and self.total > self._limit:
            raise self._too_large(self._limit)

    def _too_large(self, limit: int) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the body is larger than the limit of {limit:,} bytes after decompression; "
            "raise max_body_bytes of the client, or ask a list for smaller pages with limit=, or use stream()",
            limit=limit,
        )

"""Content codings: compresses response bodies, and makes decompression bombs."""

from __future__ import annotations

import importlib
import struct
import sys
import zlib
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

Encoding: TypeAlias = Literal["gzip", "deflate", "br", "zstd"]

ENCODINGS: Final[tuple[Encoding, ...]] = ("gzip", "deflate", "br", "zstd")
_BLOCK: Final = b" " * 2**20
_MAX_CACHED_BYTES: Final = 2**18  # larger bodies are compressed again each time


def compress(encoding: str, data: bytes) -> bytes:
    """Compress in one go. Small results are cached, because tests ask for the same pages again and again.

    :raises RuntimeError: the coding needs a package that is not installed. The message names it.
    """
    return _compress(encoding, data) if len(data) > _MAX_CACHED_BYTES else _compress_cached(encoding, data)


def _compress(encoding: str, data: bytes) -> bytes:
    if encoding in ("gzip", "deflate"):
        packer = zlib.compressobj(6, wbits=_wbits(encoding))
        return packer.compress(data) + packer.flush()
    if encoding == "br":
        return bytes(_module("brotli", "brotli").compress(data, quality=4))
    if encoding == "zstd":
        return bytes(_zstd().compress(data))
    raise _unknown(encoding)


_compress_cached = lru_cache(maxsize=256)(_compress)


@lru_cache(maxsize=8)
def bomb(encoding: str, size: int) -> bytes:
    """Return a body that decompresses to `size` spaces. It is quick to make, takes little memory and is cached."""
    whole, rest = divmod(size, len(_BLOCK))
    blocks = [_BLOCK] * whole + [_BLOCK[:rest]]
    if encoding in ("gzip", "deflate"):
        return _deflate_bomb(encoding, blocks, size)
    if encoding == "br":
        packer = _module("brotli", "brotli").Compressor(quality=1, lgwin=22)
        parts: list[bytes] = [packer.process(block) for block in blocks]
        return b"".join([*parts, packer.finish()])
    if encoding == "zstd":
        packer = _zstd().ZstdCompressor()
        parts = [packer.compress(block) for block in blocks]
        return b"".join([*parts, packer.flush()])
    raise _unknown(encoding)


def _deflate_bomb(encoding: str, blocks: list[bytes], size: int) -> bytes:
    # After a full flush the decompressor starts over, so one compressed block can be repeated.
    packer = zlib.compressobj(9, wbits=-15)
    repeated = packer.compress(_BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, wbits=-15)
    body = repeated * (len(blocks) - 1) + packer.compress(blocks[-1]) + packer.flush()
    check = 0 if encoding == "gzip" else 1
    for block in blocks:
        check = zlib.crc32(block, check) if encoding == "gzip" else zlib.adler32(block, check)
    if encoding == "deflate":
        return b"\x78\xda" + body + struct.pack(">I", check)
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + body + struct.pack("<II", check, size & 0xFFFFFFFF)


def _wbits(encoding: str) -> int:
    return 31 if encoding == "gzip" else 15


def check_encoding(encoding: str) -> None:
    """Fail now rather than in the first `compress`.

    :raises ValueError: there is no such coding.
    :raises RuntimeError: it needs a package that is not installed. The message names it.
    """
    compress(encoding, b"")


def accepts(header: str, encoding: str) -> bool:
    """Tell whether an Accept-Encoding header lists a coding, with a quality above 0."""
    for item in header.split(","):
        name, _, quality = item.strip().partition(";")
        if name.strip().lower() == encoding:
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _unknown(encoding: str) -> ValueError:
    return ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r}")


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        return _module("compression.zstd", "")
    return _module("backports.zstd", "backports.zstd")


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(f"this content coding needs a package: pip install {package}") from error

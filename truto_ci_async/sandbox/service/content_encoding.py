"""Content codings: compressing an answer, and bodies that are small on the wire and huge when read."""

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
_LARGE: Final = 2**18  # bytes; a body beyond it is compressed again each time


def compress(encoding: str, data: bytes) -> bytes:
    """Compress in one go. What is not large is remembered: tests ask for the same pages again and again.

    :raises RuntimeError: the coding needs a package that is not installed; the text names it.
    """
    return _compress(encoding, data) if len(data) > _LARGE else _compress_once(encoding, data)


def _compress(encoding: str, data: bytes) -> bytes:
    if encoding in ("gzip", "deflate"):
        packer = zlib.compressobj(6, wbits=_wbits(encoding))
        return packer.compress(data) + packer.flush()
    if encoding == "br":
        return bytes(_module("brotli", "brotli").compress(data, quality=4))
    if encoding == "zstd":
        return bytes(_zstd().compress(data))
    raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r}")


_compress_once = lru_cache(maxsize=256)(_compress)


@lru_cache(maxsize=8)
def bomb(encoding: str, size: int) -> bytes:
    """Return a body that decompresses to `size` spaces. Quick and small in memory, kept for the next time."""
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
    raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {encoding!r}")


def _deflate_bomb(encoding: str, blocks: list[bytes], size: int) -> bytes:
    # A block that ends in a full flush refers to nothing before it, so it is compressed once and repeated.
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
    """Find out early what `compress` would say.

    :raises ValueError: there is no such coding.
    :raises RuntimeError: it needs a package that is not installed; the text names it.
    """
    compress(encoding, b"")


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        return _module("compression.zstd", "")
    return _module("backports.zstd", "backports.zstd")


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(f"this content coding needs a package: pip install {package}") from error

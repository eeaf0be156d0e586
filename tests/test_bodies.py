"""Decompression: chunking makes no difference, every early end is an error, and no body exceeds its limit."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ZSTD_MODULE
from truto_ci_async._http.transport import content_encoding as _bodies
from truto_ci_async._http.transport.content_encoding import ACCEPT_ENCODING, PIECE, SLICE, BodyDecoder
from truto_ci_async.errors import BodyTooLargeError, DecodeError, TruncatedBodyError, TrutoError

# Repetitive like JSON, but not so repetitive that whole blocks collapse.
TEXT = b"".join(b'{"id": "%d", "value": %d}\n' % (i, i * 7919 % 1009) for i in range(200))


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def _stored(data: bytes) -> bytes:
    """zlib without compression, as servers send bodies that are too short to compress."""
    return zlib.compress(data, 0)


def _brotli(data: bytes) -> bytes:
    packed: bytes = pytest.importorskip("brotli").compress(data, quality=5)
    return packed


def _zstd_module() -> Any:
    return pytest.importorskip(ZSTD_MODULE)


def _zstd(data: bytes) -> bytes:
    packed: bytes = _zstd_module().compress(data)
    return packed


Pack = Callable[[bytes], bytes]
CODINGS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("x-gzip", gzip.compress, id="x-gzip"),
    pytest.param("deflate", zlib.compress, id="zlib"),
    pytest.param("deflate", _raw_deflate, id="deflate"),
    pytest.param("deflate", _stored, id="stored"),
    pytest.param("br", _brotli, id="br"),
    pytest.param("zstd", _zstd, id="zstd"),
]


def opened(coding: str, chunks: Iterable[bytes], *, limit: int | None = None) -> bytes:
    decoder = BodyDecoder(coding, limit=limit)
    whole = b"".join(piece for chunk in chunks for piece in decoder.feed(chunk))
    decoder.close()
    assert decoder.total == len(whole)
    return whole


def outcome(coding: str, chunks: Iterable[bytes], *, limit: int | None = None) -> Any:
    try:
        return opened(coding, chunks, limit=limit)
    except TrutoError as error:
        return type(error)


def chunked(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


# Whole bodies


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 10**9])
def test_any_chunking_opens_the_same(coding: str, pack: Pack, size: int) -> None:
    assert opened(coding, chunked(pack(TEXT), size)) == TEXT


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
def test_empty_chunks_change_nothing(coding: str, pack: Pack) -> None:
    chunks = [b"", *(part for chunk in chunked(pack(TEXT), 50) for part in (chunk, b"")), b"", b""]
    assert opened(coding, chunks) == TEXT


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
def test_an_empty_text_and_no_body_at_all(coding: str, pack: Pack) -> None:
    """A 204, or an error without a body, may still have a Content-Encoding."""
    assert opened(coding, [pack(b"")]) == b""
    assert opened(coding, []) == b""
    assert opened(coding, [b""]) == b""


@pytest.mark.parametrize("coding", ["", "identity", " Identity ", "IDENTITY"])
def test_a_plain_body_passes_through(coding: str) -> None:
    assert opened(coding, [b"a", b"", b"bc"]) == b"abc"


@pytest.mark.parametrize("coding", ["GZIP", " gzip ", "Gzip\t"])
def test_the_name_of_a_coding_is_read_as_headers_are(coding: str) -> None:
    assert opened(coding, [gzip.compress(TEXT)]) == TEXT


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 5 * PIECE + 17])
def test_texts_around_the_size_of_a_piece(coding: str, pack: Pack, size: int) -> None:
    """Where output is held back although all input was taken, or the end is at the edge of a piece."""
    for text in (b"x" * size, random.Random(size).randbytes(1000) * (size // 1000) + b"y" * (size % 1000)):
        assert opened(coding, [pack(text)]) == text
        assert opened(coding, chunked(pack(text), 65_536)) == text


def test_a_raw_body_whose_first_byte_could_be_zlibs() -> None:
    """Deflate leaves some bits unused, which may be set; only the header's checksum tells the two apart."""
    first = b"\x08" + (5).to_bytes(2, "little") + (5 ^ 0xFFFF).to_bytes(2, "little") + b"hello"
    packed = first + _raw_deflate(b" world")
    for size in (1, 2, 100):
        assert opened("deflate", chunked(packed, size)) == b"hello world"


@given(st.lists(st.binary(max_size=300), max_size=4), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_any_bytes_in_any_chunks(parts: list[bytes], sizes: list[int]) -> None:
    text = b"".join(part * 20 for part in parts)
    for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", _raw_deflate)):
        packed, chunks, at = pack(text), list[bytes](), 0
        while at < len(packed):
            size = sizes[len(chunks) % len(sizes)]
            chunks.append(packed[at : at + size])
            at += size
        assert opened(coding, chunks) == text


# Bodies of several parts


@pytest.mark.parametrize("size", [1, 7, 10**9])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [pytest.param("gzip", gzip.compress, id="gzip"), pytest.param("zstd", _zstd, id="zstd")],
)
def test_several_members_are_one_text(coding: str, pack: Pack, size: int) -> None:
    """Servers that compress chunk by chunk send one member each, and both standards allow that."""
    packed = b"".join(map(pack, [TEXT[:100], b"", TEXT[100:2000], TEXT[2000:]]))
    assert opened(coding, chunked(packed, size)) == TEXT


@pytest.mark.parametrize("size", [1, 7, 10**9])
@pytest.mark.parametrize(
    "packed", [gzip.compress(TEXT) + b"\0" * 30, gzip.compress(TEXT[:9]) + b"\0\0" + gzip.compress(TEXT[9:])]
)
def test_zeros_around_gzip_members_are_padding(packed: bytes, size: int) -> None:
    """The gzip tools accept that too; how the network split it makes no difference."""
    assert opened("gzip", chunked(packed, size)) == TEXT


# Early ends and garbage


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
@pytest.mark.parametrize("is_dripped", [False, True])
def test_a_body_cut_at_any_byte_is_told(coding: str, pack: Pack, is_dripped: bool) -> None:
    """Half a gzip body whose transfer ends properly is half the records, and JSON Lines would not show it."""
    packed = pack(TEXT[:400])
    for end in range(1, len(packed)):
        decoder = BodyDecoder(coding)
        chunks = chunked(packed[:end], 1) if is_dripped else [packed[:end]]
        got = b"".join(piece for chunk in chunks for piece in decoder.feed(chunk))
        assert TEXT.startswith(got)
        with pytest.raises(TruncatedBodyError, match=f"after {end:,} bytes") as caught:
            decoder.close()
        assert caught.value.bytes_read == len(got)


@pytest.mark.parametrize(
    ("coding", "pack"),
    [pytest.param("gzip", gzip.compress, id="gzip"), pytest.param("zstd", _zstd, id="zstd")],
)
def test_a_later_member_that_is_cut_is_told(coding: str, pack: Pack) -> None:
    first, second = pack(TEXT[:500]), pack(TEXT[500:])
    for end in range(1, len(second)):
        assert outcome(coding, [first + second[:end]]) is TruncatedBodyError
        assert outcome(coding, [first, second[:end]]) is TruncatedBodyError


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
@pytest.mark.parametrize("garbage", [b"garbage!", b"\xff" * 8, b"{}      ", b"\n\n\n\n\n\n"])
def test_garbage_after_the_end_is_an_error_in_any_chunking(coding: str, pack: Pack, garbage: bytes) -> None:
    packed = pack(TEXT)
    for chunks in (
        [packed + garbage],
        [packed, garbage],
        [packed[:-1], packed[-1:] + garbage],
        chunked(packed + garbage, 1),
    ):
        assert outcome(coding, chunks) is DecodeError


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
def test_a_body_of_another_coding_is_an_error(coding: str, pack: Pack) -> None:
    """A wrong header: plain JSON or HTML, declared as compressed."""
    pack(b"")  # skips the test if the module is missing
    for text in (
        b'{"result": [], "next_cursor": null}',
        b"<html><body>502 Bad Gateway</body></html>",
        b"\0" * 40,
    ):
        with pytest.raises(TrutoError) as caught:
            opened(coding, [text])
        assert isinstance(caught.value, (DecodeError, TruncatedBodyError))


@pytest.mark.parametrize(("coding", "pack"), CODINGS)
def test_a_body_with_flipped_bytes_makes_no_other_error(coding: str, pack: Pack) -> None:
    draw = random.Random(7)
    packed = pack(TEXT[:1500])
    seen = set()
    for _ in range(200):
        bad = bytearray(packed)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        found = outcome(coding, chunked(bytes(bad), draw.choice([1, 50, 10**9])))
        seen.add(found if isinstance(found, type) else bytes)
    assert seen <= {bytes, DecodeError, TruncatedBodyError}
    assert DecodeError in seen


@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate", "br", "zstd", ""]))
def test_any_bytes_make_no_other_error(data: bytes, coding: str) -> None:
    outcome(coding, [data])
    assert outcome(coding, chunked(data, 1)) == outcome(coding, [data])


@pytest.mark.parametrize("coding", ["compress", "gzip, gzip", "gzip, br", "aws-chunked", "utf-8", "x" * 1000])
def test_an_unknown_coding_is_refused_with_what_was_asked_for(coding: str) -> None:
    with pytest.raises(DecodeError, match="gzip, deflate") as caught:
        BodyDecoder(coding)
    assert coding[:40] in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("coding", ["gzip, identity", ",GZip ,", "identity,gzip", "identity, identity", ", "])
def test_codings_that_change_nothing_are_left_out(coding: str) -> None:
    """A proxy that joins its own header to the server's writes such lists."""
    text = b'{"result":[]}'
    packed = gzip.compress(text) if "gzip" in coding.lower() else text
    assert b"".join(BodyDecoder(coding).feed(packed)) == text


def test_what_is_asked_for_can_be_opened() -> None:
    for coding in ACCEPT_ENCODING.split(", "):
        BodyDecoder(coding)
    assert ACCEPT_ENCODING.startswith("gzip, deflate")


# Limits


@pytest.mark.parametrize(("coding", "pack"), [pytest.param("", bytes, id="plain"), *CODINGS])
@pytest.mark.parametrize("size", [1, 100, 10**9])
def test_the_limit_is_exact(coding: str, pack: Pack, size: int) -> None:
    chunks = chunked(pack(TEXT), size)
    assert opened(coding, chunks, limit=len(TEXT)) == TEXT
    with pytest.raises(BodyTooLargeError, match=f"{len(TEXT) - 1:,} bytes") as caught:
        opened(coding, chunks, limit=len(TEXT) - 1)
    assert caught.value.limit == len(TEXT) - 1


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_limit_of_nothing_lets_nothing_through(coding: str) -> None:
    assert opened(coding, [gzip.compress(b"")] if coding else [], limit=0) == b""
    assert outcome(coding, [gzip.compress(b"x")] if coding else [b"x"], limit=0) is BodyTooLargeError


BOMB = 64 * 2**20


@pytest.mark.parametrize(
    ("coding", "pack"), [case for case in CODINGS if case.id in {"gzip", "zlib", "br", "zstd"}]
)
def test_a_bomb_stops_at_the_limit_in_bounded_pieces(coding: str, pack: Pack) -> None:
    """A few hundred kilobytes can decompress into gigabytes; the memory used must not depend on the ratio."""
    bomb = pack(b"\0" * BOMB)
    assert len(bomb) < BOMB / 500
    limit = 3 * PIECE + 1
    decoder = BodyDecoder(coding, limit=limit)
    handed_out = 0
    with pytest.raises(BodyTooLargeError):
        for piece in decoder.feed(bomb):
            assert len(piece) <= 2 * PIECE
            handed_out += len(piece)
    assert limit - 2 * PIECE <= handed_out <= limit


def test_pieces_of_a_bomb_are_made_one_by_one() -> None:
    """The loop can run between them: a step decompresses one piece, not the whole chunk."""
    decoder = BodyDecoder("gzip")
    pieces = decoder.feed(gzip.compress(b"\0" * (10 * PIECE)))
    assert len(next(pieces)) == PIECE
    assert decoder.total == PIECE
    assert sum(map(len, pieces)) == 9 * PIECE
    decoder.close()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [pytest.param("gzip", gzip.compress, id="gzip"), pytest.param("zstd", _zstd, id="zstd")],
)
def test_a_body_of_empty_members_lets_the_loop_breathe(coding: str, pack: Pack) -> None:
    """Every empty frame needs a new decoder, and none of them produces anything."""
    members = 2_000
    steps = list(BodyDecoder(coding).feed(pack(b"") * members))
    assert set(steps) == {b""}
    assert len(steps) >= members - len(pack(b"") * members) // SLICE - 1


@pytest.mark.parametrize(("window_log", "is_opened"), [(22, True), (23, True), (24, False), (27, False)])
def test_a_zstd_window_is_bounded(window_log: int, is_opened: bool) -> None:
    """A few bytes of header can request 128 MB of memory."""
    zstd = _zstd_module()
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    packed = packer.compress(TEXT) + packer.flush()
    assert outcome("zstd", [packed]) == (TEXT if is_opened else DecodeError)


def test_an_announced_length_is_refused_before_the_body_is_read() -> None:
    BodyDecoder(length="100", limit=100)
    with pytest.raises(BodyTooLargeError, match="100 bytes") as caught:
        BodyDecoder(length="101", limit=100)
    assert caught.value.limit == 100
    BodyDecoder("gzip", length="1" * 10, limit=100)  # says nothing about the length after decompression
    BodyDecoder(length="1" * 10)
    BodyDecoder(length="-101", limit=100)  # unreadable


def test_a_brotli_that_cannot_bound_its_output_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before 1.2 decompress a bomb in one step."""

    class Decompressor:
        def process(self, data: bytes) -> bytes:
            return data

    old: Any = type("brotli", (), {"Decompressor": Decompressor})
    assert _bodies._bounded(old) is None
    assert _bodies._bounded(None) is None
    monkeypatch.setattr(_bodies, "_brotli", None)
    with pytest.raises(DecodeError, match="'br', which cannot be decompressed"):
        BodyDecoder("br")


def test_without_the_optional_modules_the_rest_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _bodies._optional("no_such_module_a", "no_such_module_b") is None
    assert _bodies._optional("no_such_module_a", "zlib") is zlib
    monkeypatch.setattr(_bodies, "_zstd", None)
    with pytest.raises(DecodeError, match="'zstd', which cannot be decompressed"):
        BodyDecoder("zstd")
    assert opened("gzip", [gzip.compress(TEXT)]) == TEXT

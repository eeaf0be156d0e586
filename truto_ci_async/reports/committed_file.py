"""One committed file of a pull: how much of it counts, and whether that part is unchanged."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from truto_ci_async.errors import DamagedStateError

PIECE_BYTES = 2**22


class CommittedFile(NamedTuple):
    """The first ``size`` bytes of a file count; ``crc32`` is their checksum, in hex."""

    path: Path
    rows: int
    size: int
    crc32: str

    def pieces(self) -> Iterator[bytes]:
        """Generate what counts, in pieces.

        :raises ValueError: it was cut or changed; the latter is known at the end.
        """
        left, crc32 = self.size, 0
        if not left and not self.path.exists():  # copies often leave out empty files
            return
        with self.path.open("rb") as file:
            while left:
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise ValueError(f"it has {self.size - left:,} bytes instead of {self.size:,}")
                left -= len(piece)
                crc32 = zlib.crc32(piece, crc32)
                yield piece
        if f"{crc32:08x}" != self.crc32:
            raise ValueError("its checksum differs")

    def line_pieces(self) -> Iterator[bytes]:
        """Generate the committed bytes, in pieces of whole lines.

        :raises ValueError: as for ``pieces``.
        """
        rest: list[bytes] = []
        for piece in self.pieces():
            end = piece.rfind(b"\n") + 1
            if end:
                yield b"".join((*rest, piece[:end]))
                rest = []
            rest.append(piece[end:])
        if any(rest):
            raise ValueError("its last line has no end")

    def checked(self) -> Path:
        """Return the file once all of it is known to count, and to be unchanged.

        :raises ValueError: it is not what was committed.
        """
        for _ in self.pieces():
            pass
        if self.path.stat().st_size != self.size:
            raise ValueError(f"it has {self.path.stat().st_size:,} bytes instead of {self.size:,}")
        return self.path

    def check_rows(self, found: int) -> None:
        """:raises DamagedStateError: the file has another number of rows."""
        check_rows(self.path, self.rows, found)


def check_rows(path: Path | str, rows: int, found: int) -> None:
    """:raises DamagedStateError: a file has another number of rows."""
    if found != rows:
        raise DamagedStateError(f"{path} has {found:,} rows instead of {rows:,}", path=str(path))

"""A Redis or Valkey server of the tests' own: no files, on a free port, stopped at the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SECONDS = 20


class RedisServer:
    """Run the server for the length of a ``with`` block; ``stop`` and ``start`` it in between.

    ``options`` go to its command line; nothing is saved unless they say so.
    """

    def __init__(self, *options: str) -> None:
        self.options = options or ("--save", "")

    def __enter__(self) -> Self:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise RuntimeError("Redis is not installed: run `make test-services`")
        self._program = program
        self.folder = Path(tempfile.mkdtemp(prefix="truto-redis-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and return once it answers."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, *self.options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(100).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise RuntimeError("the server does not answer")

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(SECONDS)

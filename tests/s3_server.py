"""moto's S3 server in a process of its own, behind a proxy that can be down, or cut connections in the middle."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "build" / "moto" / "bin" / "moto_server"
BUCKET = "calls"
SECONDS = 60
SECRET = "hunter2hunter2"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


class S3Server:
    """Run the server for the length of a ``with`` block. ``env`` is for those who are to use it."""

    def __enter__(self) -> Self:
        if not PROGRAM.exists():
            raise RuntimeError("moto is not installed: run `make test-services`")
        port = free_port()
        self._process = subprocess.Popen(
            [PROGRAM, "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
        self.proxy = Proxy(port)
        self.env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.proxy.close()
        self._process.kill()
        self._process.wait(SECONDS)


class Proxy:
    """Passes connections on to a port. ``is_down``: nothing is; ``refused`` counts the attempts. ``cut``: how many
    answers are dropped, to puts of ``name``; the server has done what they ask."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()
        self.is_down = False
        self.refused = 0
        self.name = b"manifest.json"
        self.cut = 0
        self.puts = 0  # of ``name``
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Refuse connections, and drop those that are open."""
        self.is_down = True
        for each in list(self._open):
            _close(each)

    def up(self) -> None:
        self.is_down = False

    def close(self) -> None:
        self.down()
        _close(self._server)
        self._thread.join(SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.is_down:
                self.refused += 1
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as server:
            self._open |= {client, server}
            is_cut = threading.Event()
            back = threading.Thread(target=_pass_back, args=(server, client, is_cut), daemon=True)
            back.start()
            try:
                while data := client.recv(2**16):
                    line, _, _ = data.partition(b"\r\n")
                    if line.startswith(b"PUT ") and self.name in line:
                        self.puts += 1
                        if self.cut:
                            self.cut -= 1
                            is_cut.set()
                    server.sendall(data)
            finally:
                _close(server)
                back.join(SECONDS)
                self._open -= {client, server}


def _pass_back(server: socket.socket, client: socket.socket, is_cut: threading.Event) -> None:
    with suppress(OSError):
        while data := server.recv(2**16):
            if is_cut.is_set():
                break
            client.sendall(data)
    _close(client)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

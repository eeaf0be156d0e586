"""A PostgreSQL server of the tests' own: a new cluster in a folder, on a free port, stopped at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECONDS = 60


def programs() -> Path:
    """Return the folder of ``initdb`` and ``pg_ctl``.

    :raises RuntimeError: PostgreSQL is not installed; `make test-services` does that.
    """
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    if found is None:
        raise RuntimeError("PostgreSQL is not installed: run `make test-services`")
    return Path(found).parent


class PostgresServer:
    """Run the server for the length of a ``with`` block; ``stop`` and ``start`` it in between."""

    def __enter__(self) -> Self:
        self._bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="truto-pg-"))
        # The server does not run as root.
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._data = self.folder / "data"
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "tester", "-N", "-E", "UTF8", "--locale=C")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-k {self.folder} -h 127.0.0.1 -p {self.port} -c fsync=off -c max_connections=30"
        self._run("pg_ctl", "-D", self._data, "-o", options, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def url(self, database: str, port: int = 0) -> str:
        return f"postgresql://tester:hunter2@127.0.0.1:{port or self.port}/{database}"

    def _run(self, program: str, *arguments: Any) -> None:
        user: dict[str, Any] = {}
        if self._user is not None:
            user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        log = self.folder / "log"
        with log.open("a") as output:  # the server keeps its output open, so that is no pipe
            done = subprocess.run(
                [self._bin / program, *arguments],
                cwd="/",
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                **user,
            )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {log.read_text()[-2000:]}")

"""What an engine asks of its workers before anything is requested: do they run what its driver does?"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from msgspec import Struct

from truto_ci_async._version import __version__

# Of a probe file.
MAX_BYTES = 100


class WorkerFacts(Struct, frozen=True):
    """What matters of the place where a worker runs. Take it there, and compare it in the driver.

        WorkerFacts.write_probe(probe, run)                          # in the driver
        facts = WorkerFacts.here("TRUTO_API_TOKEN", probe)           # in a worker
        problems = facts.problems("TRUTO_API_TOKEN", probe, run)     # in the driver again

    ``probe`` is a file that the driver wrote to the folder of the output, and ``run`` its text.
    """

    python: str
    version: str
    has_token: bool
    probe: str | None

    @staticmethod
    def write_probe(probe: str, run: str) -> None:
        """Write the probe, and the folder it is in."""
        Path(probe).parent.mkdir(parents=True, exist_ok=True)
        Path(probe).write_text(run, encoding="ascii")

    @classmethod
    def here(cls, token_variable: str | None = None, probe: str | None = None) -> WorkerFacts:
        """Return the facts of this process. ``token_variable`` is the environment variable that must not be empty."""
        found = None
        if probe is not None and os.path.isfile(probe):
            with Path(probe).open("rb") as file:
                found = file.read(MAX_BYTES).decode("ascii", "replace")
        has_token = token_variable is None or bool(os.environ.get(token_variable))
        return cls(platform.python_version(), __version__, has_token, found)

    def problems(
        self, token_variable: str | None = None, probe: str | None = None, run: str = ""
    ) -> list[str]:
        """Say what is wrong with the worker, compared with this process; empty if nothing is."""
        python, wrong = platform.python_version(), list[str]()
        if self.python.split(".")[:2] != python.split(".")[:2]:
            wrong.append(f"has Python {self.python}, and this is {python}")
        if self.version != __version__:
            wrong.append(f"has truto_ci_async {self.version}, and this is {__version__}")
        if not self.has_token:
            wrong.append(f"has no {token_variable} in its environment: set it before the worker is started")
        if probe is not None and self.probe != run:
            wrong.append(f"does not see {Path(probe).parent}: give a folder that all workers share")
        return wrong

"""How long does a program wait before it has a client? Imports in fresh processes, with their bytecode in place.

python -m benchmarks.bench_import --rounds 21
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Measured, Record, Turn

AIOHTTP = "aiohttp alone"
CONTENDERS = {
    OURS: "",
    AIOHTTP: "",
    "aiohttp + msgspec": "",
    "httpx + pydantic": "httpx pydantic",
    "truto-python-sdk": "truto_python_sdk",
}
SOURCES = {
    OURS: "from truto_ci_async import TrutoClient; TrutoClient('token')",
    AIOHTTP: "import aiohttp",
    "aiohttp + msgspec": "import aiohttp, msgspec",
    "httpx + pydantic": "import httpx, pydantic; pydantic.BaseModel",
    "truto-python-sdk": "from truto_python_sdk import TrutoApi; TrutoApi('token')",
}
GOALS = [Goal("import", AIOHTTP, "speed", least=1 / 1.15)]
TIMED = """
from time import perf_counter, process_time
start, cpu = perf_counter(), process_time()
{source}
print(perf_counter() - start, process_time() - cpu)
with open('/proc/self/status') as status:
    print([line.split()[1] for line in status if line.startswith('VmRSS')][0])
"""


def once(contender: str, bytecode: str) -> tuple[Turn, int]:
    command = [sys.executable, "-c", TIMED.format(source=SOURCES[contender])]
    # Bytecode in place for all alike, also for a checkout that may not write it.
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    ran = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=_harness.ROOT, env=environment
    )
    seconds, cpu, resident = ran.stdout.split()
    return Turn(float(seconds), float(cpu)), int(resident) * 1024


def run(options: argparse.Namespace) -> list[Record]:
    _turns.say("import")
    contenders = _turns.installed(CONTENDERS, options.contenders)
    measured = {name: Measured([], 0) for name in contenders}
    with tempfile.TemporaryDirectory() as bytecode:
        for name in contenders:
            once(name, bytecode)  # bytecode, and the files into memory
        for _ in range(options.rounds):
            for name in contenders:
                turn, resident = once(name, bytecode)
                measured[name] = Measured([*measured[name].turns, turn], resident)
    return _turns.records("import", True, measured)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=21, help="of all contenders (default 21)")


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, lambda _: None)

"""How long does a program wait before it has a client, and a person for ``truto-ci --help``?

Imports in fresh processes, with their bytecode in place; for ``--help`` the whole process counts, beside one that
imports aiohttp.

python -m benchmarks.bench_import --rounds 15
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter

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
HELP = {
    OURS: "import sys; sys.argv[1:] = ['--help']; from truto_ci_async.cli.main import main; sys.exit(main())",
    AIOHTTP: "import aiohttp",
}
GOALS = [
    Goal("import", AIOHTTP, "speed", least=1 / 1.15),
    Goal("truto-ci --help", AIOHTTP, "speed", least=1 / 1.3),
]
TIMED = """
from time import perf_counter, process_time
start, cpu = perf_counter(), process_time()
{source}
print(perf_counter() - start, process_time() - cpu)
with open('/proc/self/status') as status:
    print([line.split()[1] for line in status if line.startswith('VmRSS')][0])
"""


def python(source: str, bytecode: str) -> str:
    # Bytecode in place for all alike, also for a checkout that may not write it.
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    command = [sys.executable, "-c", source]
    piped = subprocess.PIPE
    return subprocess.run(
        command, check=True, stdout=piped, text=True, cwd=_harness.ROOT, env=environment
    ).stdout


def once(contender: str, bytecode: str) -> tuple[Turn, int]:
    seconds, cpu, resident = python(TIMED.format(source=SOURCES[contender]), bytecode).split()
    return Turn(float(seconds), float(cpu)), int(resident) * 1024


def whole(contender: str, bytecode: str) -> tuple[Turn, int]:
    start, cpu = perf_counter(), _harness.cpu_seconds(resource.RUSAGE_CHILDREN)
    python(HELP[contender], bytecode)
    return Turn(perf_counter() - start, _harness.cpu_seconds(resource.RUSAGE_CHILDREN) - cpu), 0


def run(options: argparse.Namespace) -> list[Record]:
    contenders = _turns.installed(CONTENDERS, options.contenders)
    found = in_turns("import", contenders, once, options.rounds)
    return found + in_turns("truto-ci --help", list(HELP), whole, options.rounds)


def in_turns(
    question: str, contenders: list[str], once: Callable[[str, str], tuple[Turn, int]], rounds: int
) -> list[Record]:
    _turns.say(question)
    measured = {name: Measured([], 0) for name in contenders}
    with tempfile.TemporaryDirectory() as bytecode:
        for name in contenders:
            once(name, bytecode)  # bytecode, and the files into memory
        for _ in range(rounds):
            for name in contenders:
                turn, resident = once(name, bytecode)
                measured[name] = Measured([*measured[name].turns, turn], resident)
    return _turns.records(question, True, measured)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=15, help="of all contenders (default 15)")


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, lambda _: None)

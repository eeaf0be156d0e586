"""How long until the first item, with a client that is made for it, over TLS?

Each item is asked for by a client (or session) of its own, which connects, shakes hands, asks for one page of one item,
and closes. The bare loop is the one of ``bench_walk``. The context of TLS is made before, since it is what loads the
system's certificates: both sides may share one.

    python -m benchmarks.bench_first --clients 30 --rounds 9
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Record
from benchmarks.bench_walk import BARE, CLASSES

CONTENDERS = {OURS: "", BARE: "", "httpx + pydantic": "httpx pydantic"}
GOALS = [Goal("first item, TLS, a new client", BARE, "speed", least=1 / 1.15)]


def here(options: argparse.Namespace) -> None:
    """Be one contender: so many clients, one after the other, whenever asked."""

    async def first() -> None:
        contender = CLASSES[options.here]()
        async with AsyncExitStack() as stack:
            await contender.open(stack, options.url)
            assert await contender.items("remote-x1-p1") == 1

    with asyncio.Runner() as runner:

        def clients() -> None:
            for _ in range(options.clients):
                runner.run(first())

        _turns.serve_turns(clients, collect=options.gc != "off")


def run(options: argparse.Namespace) -> list[Record]:
    from tests import certificates

    question = GOALS[0].question
    _turns.say(question)
    contenders = _turns.installed(CONTENDERS, options.contenders)
    with tempfile.TemporaryDirectory() as folder:
        chain, authority = Path(folder, "chain.pem"), Path(folder, "authority.pem")
        chain.write_text(certificates.chain(), encoding="ascii")
        authority.write_text(certificates.AUTHORITY, encoding="ascii")
        with _harness.server(certificate=str(chain), pinned=True) as url:
            given = ["--url", url, "--clients", str(options.clients)]
            trust = {"SSL_CERT_FILE": str(authority)}
            measured = _turns.take_turns(
                "benchmarks.bench_first", contenders, given, rounds=options.rounds, environment=trust
            )
    return _turns.records(question, True, measured, per=options.clients)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=30, help="of a turn (default 30)")
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)  # where a contender asks


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

"""What do spans and metrics of OpenTelemetry add to a walk?

    off       no hook: nobody listens to events
    hook      a function that ignores every event
    ours      ``OpenTelemetry()`` with the SDK: each span made and put in the queue of a batch exporter that drops it
    sampled   the same, with one walk in a hundred sampled

Contenders are processes of their own that take turns. ``plain`` is over loopback with nothing but the cost of the code;
``late`` has a service that takes 20 ms for a page, which is quick for one on the internet.

    python -m benchmarks.bench_telemetry --pages 100 --items 100 --rounds 9
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from typing import Any

from benchmarks import _harness, _turns
from benchmarks._turns import OURS, Goal, Record
from benchmarks.bench_walk import SERVER_TIME, TOKEN, account

OFF, HOOK, SAMPLED = "off", "hook", "sampled"
CONTENDERS = {OFF: "", HOOK: "", OURS: "opentelemetry.sdk", SAMPLED: "opentelemetry.sdk"}
MODULE = "benchmarks.bench_telemetry"
GOALS = [Goal("telemetry late", OFF, "speed", least=0.95)]  # the SDK alone takes more of ``plain``


def hook_of(contender: str) -> Any:
    if contender == OFF:
        return None
    if contender == HOOK:
        return lambda event: None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    from truto_ci_async.integrations.opentelemetry import OpenTelemetry

    class Dropping(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    sampler = ParentBased(TraceIdRatioBased(0.01)) if contender == SAMPLED else None
    tracers = TracerProvider(sampler=sampler)
    tracers.add_span_processor(BatchSpanProcessor(Dropping()))
    return OpenTelemetry(tracer_provider=tracers, meter_provider=MeterProvider([InMemoryMetricReader()]))


def here(options: argparse.Namespace) -> None:
    """Be one contender: a walk whenever asked."""
    from truto_ci_async import Pacing, TrutoClient

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def open_client() -> TrutoClient:
            client = TrutoClient(
                TOKEN, base_url=options.url, pacing=Pacing.off(), on_event=hook_of(options.here)
            )
            return await stack.enter_async_context(client)

        truto = runner.run(open_client())

        async def walk() -> int:
            count = 0
            async for _ in truto.interactions.list(account(options)):
                count += 1
            return count

        def turn() -> None:
            assert runner.run(walk()) == options.pages * options.items

        _turns.serve_turns(turn, collect=options.gc != "off")
        runner.run(stack.aclose())


def run(options: argparse.Namespace) -> list[Record]:
    """Run both cases."""
    found: list[Record] = []
    contenders = _turns.installed(CONTENDERS, options.contenders)
    given = ["--shape", options.shape, "--pages", str(options.pages), "--items", str(options.items)]
    for case, latency in (("plain", 0.0), ("late", SERVER_TIME)):
        rounds = max(min(3, options.rounds), options.rounds // 3) if latency else options.rounds
        for collect in _turns.collecting(options):
            _turns.say(f"telemetry {case}, garbage collector {'on' if collect else 'off'}")
            with _harness.server(latency=latency, pinned=True) as url:
                _harness.warm(url, account(options))
                arguments = [*given, "--gc", "on" if collect else "off", "--url", url]
                measured = _turns.take_turns(MODULE, contenders, arguments, rounds=rounds)
            found += _turns.records(f"telemetry {case}", collect, measured, per=options.pages)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pages", type=int, default=100, help="of one walk (default 100)")
    parser.add_argument("--items", type=int, default=100, help="on a page (default 100)")
    parser.add_argument("--shape", default="remote", help="of an item, see data.SHAPES (default remote)")
    parser.add_argument(
        "--rounds", type=int, default=9, help="of ``plain``, a third of the other (default 9)"
    )
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)  # where a contender asks


if __name__ == "__main__":
    _turns.main(__doc__, add_options, run, GOALS, here)

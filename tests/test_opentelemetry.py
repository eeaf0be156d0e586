"""OpenTelemetry: which spans and metrics there are, what they must not say, and that they never disturb a walk."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support import run
from truto_ci_async import Event, Fault, Pacing, Rate, RetryPolicy, Sandbox, Timeouts, TrutoClient, TrutoError
from truto_ci_async.integrations.opentelemetry import OpenTelemetry

WINDOW: dict[str, Any] = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-02-01T00:00:00Z"}
PATH = "/unified/conversational-intelligence/interactions"
SECRET = "alice@example.com"


class Telemetry:
    """A hook with the SDK's in-memory exporters behind it."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider(metric_readers=[self._reader])
        self.hook = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self._meters, **options)

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        found = self._exporter.get_finished_spans()
        return [span for span in found if name is None or span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.spans(name)
        return span

    def points(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        found: dict[str, list[Any]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found

    def shutdown(self) -> None:
        self.tracers.shutdown()
        self._meters.shutdown()


@contextmanager
def telemetry(**options: Any) -> Iterator[Telemetry]:
    made = Telemetry(**options)
    try:
        yield made
    finally:
        made.shutdown()


class Service(NamedTuple):
    sandbox: Sandbox
    truto: TrutoClient
    account: str


@asynccontextmanager
async def service(
    hook: Any, *, client: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Service]:
    small: dict[str, Any] = {"accounts": 1, "others": 0, "interactions": 12, "page_size": 5}
    off: dict[str, Any] = {"token_rate": None, "account_rate": None}
    settings: dict[str, Any] = {"pacing": Pacing.off(), "retry": RetryPolicy(fault_base=0, throttle_base=0)}
    async with (
        Sandbox(**{**small, **off, **options}) as sandbox,
        TrutoClient(sandbox.token, base_url=sandbox.url, on_event=hook, **settings | (client or {})) as truto,
    ):
        yield Service(sandbox, truto, sandbox.account_ids[0])


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# Spans


def test_a_call_has_a_span_for_each_attempt_and_for_its_page() -> None:
    async def main(told: Telemetry) -> None:
        async with service(told.hook, client={"timeouts": Timeouts(attempt=0.5)}) as (
            sandbox,
            truto,
            account,
        ):
            sandbox.script(account, [Fault.status(502), Fault.hang()])
            page = await truto.interactions.list(account, **WINDOW)
            assert len(page) == 5
            port = int(sandbox.url.rpartition(":")[2])
            call, attempts, decoded = (
                told.one("truto.call"),
                told.spans(f"GET {PATH}"),
                told.one("truto.page"),
            )
            assert call.parent is None
            assert {parent_of(each) for each in (*attempts, decoded)} == {id_of(call)}
            assert attributes(call) == {
                "truto.resource": "interactions",
                "truto.account": account,
                "truto.attempts": 3,
            }
            expected = {
                "http.request.method": "GET",
                "server.address": "127.0.0.1",
                "server.port": port,
                "url.full": sandbox.url + PATH,
            }
            assert [attributes(each) for each in attempts] == [
                {**expected, "http.response.status_code": 502, "error.type": "502"},
                {**expected, "http.request.resend_count": 1, "error.type": "timeout"},
                {**expected, "http.request.resend_count": 2, "http.response.status_code": 200},
            ]
            assert {each.kind for each in attempts} == {trace.SpanKind.CLIENT}
            assert [each.status.is_ok for each in attempts] == [False, False, True]
            assert call.status.is_ok
            assert attributes(decoded)["truto.items"] == 5

    with telemetry() as told:
        run(main(told))


def test_a_call_that_fails_says_with_what() -> None:
    async def main(told: Telemetry) -> None:
        async with service(told.hook) as (_, truto, _):
            with pytest.raises(TrutoError):
                await truto.interactions.list("no such account", **WINDOW)

    with telemetry() as told:
        run(main(told))
        call = told.spans("truto.call")[-1]
        assert attributes(call)["error.type"] == "NotFoundError"
        assert not call.status.is_ok


def test_a_pull_has_spans_for_its_calls_and_commits() -> None:
    async def main(told: Telemetry) -> None:
        tracer = told.tracers.get_tracer("mine")
        async with service(told.hook, accounts=3) as (sandbox, truto, _):
            with tracer.start_as_current_span("nightly"):
                async with truto.interactions.pull(sandbox.account_ids, **WINDOW) as pages:
                    async for _ in pages:
                        pass
            assert pages.report.complete

    with telemetry() as told:
        run(main(told))
        nightly, pull = told.one("nightly"), told.one("truto.pull")
        calls, commits = told.spans("truto.call"), told.spans("truto.commit")
        assert parent_of(pull) == id_of(nightly)
        assert len(calls) == 9
        assert {parent_of(each) for each in (*calls, *commits)} == {id_of(pull)}
        assert sum(attributes(each)["truto.pages"] for each in commits) == 9
        said = attributes(pull)
        assert (said["truto.accounts"], said["truto.done"], said["truto.rows"]) == (3, 3, 36)
        progress = {point.attributes["state"]: point.value for point in told.points()["truto.pull.accounts"]}
        assert progress == {"done": 3, "failed": 0, "parked": 0, "left": 0}


def test_a_stream_has_one_call_until_it_is_closed() -> None:
    async def main(told: Telemetry) -> None:
        async with service(told.hook) as (_, truto, account):
            async with truto.interactions.stream(account, **WINDOW) as stream:
                async for _ in stream:
                    if stream.items_read == 1:
                        [point] = told.points()["truto.client.open_streams"]
                        assert point.value == 1
            assert stream.items_read == 12
        [point] = told.points()["truto.client.open_streams"]
        assert point.value == 0

    with telemetry() as told:
        run(main(told))
        assert len(told.spans("truto.call")) == len(told.spans("truto.page")) == 3
        [rows] = told.points()["truto.client.rows"]
        assert rows.value == 12


def test_a_stream_that_breaks_off_says_so() -> None:
    async def main(told: Telemetry) -> None:
        async with service(told.hook, page_size=12) as (sandbox, truto, account):
            sandbox.script(account, [Fault.truncate(keep=0.6).forever()])
            with pytest.raises(TrutoError):
                async with truto.interactions.stream(account, **WINDOW) as stream:
                    async for _ in stream:
                        pass

    with telemetry() as told:
        run(main(told))
        assert attributes(told.spans("truto.call")[-1])["error.type"] == "TruncatedBodyError"


# Context


def test_the_callers_context_reaches_prefetched_pages_and_pulls() -> None:
    """The spans of a request that was prefetched belong to the walk's trace, and a hook sees the caller's baggage."""
    seen: list[object] = []

    def mine(event: Event) -> None:
        seen.append(baggage.get_baggage("job"))

    async def main(told: Telemetry) -> None:
        async with service([told.hook, mine]) as (_, truto, account):
            token = context.attach(baggage.set_baggage("job", "nightly"))
            with told.tracers.get_tracer("mine").start_as_current_span("walk"):
                async for _ in truto.interactions.list(account, **WINDOW):
                    pass
            context.detach(token)

    with telemetry() as told:
        run(main(told))
        calls = told.spans("truto.call")
        assert len(calls) == 3
        assert {parent_of(each) for each in calls} == {id_of(told.one("walk"))}
        assert set(seen) == {"nightly"}


def test_leaving_and_closing_from_another_task_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Context managers across tasks end in "was created in a different Context"; here nothing is attached."""

    async def main(told: Telemetry) -> None:
        async with service(told.hook, accounts=2, page_size=1) as (sandbox, truto, account):
            async for _ in truto.interactions.list(account, **WINDOW):
                break
            walk = aiter(truto.interactions.list(account, **WINDOW))
            await anext(walk)
            await asyncio.create_task(walk.aclose())  # type: ignore[attr-defined]
            stream = truto.interactions.stream(account, **WINDOW)
            await stream.__aenter__()
            await anext(aiter(stream))
            await asyncio.create_task(stream.__aexit__(None, None, None))
            pull = truto.interactions.pull(sandbox.account_ids, **WINDOW)
            await pull.__aenter__()
            await anext(aiter(pull))
            await asyncio.create_task(pull.__aexit__(None, None, None))
            sandbox.script(account, [Fault.hang()])
            asked = len(sandbox.requests)
            waiting = asyncio.create_task(truto.interactions.list(account, **WINDOW).page())
            while len(sandbox.requests) == asked:
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert not told.hook._calls
        assert not told.hook._pulls

    with telemetry() as told, caplog.at_level(logging.WARNING):
        run(main(told))
        assert [
            each for each in caplog.records if each.name != "asyncio"
        ] == []  # which tells of a slow machine
        [cancelled] = [
            each for each in told.spans("truto.call") if attributes(each).get("truto.cancelled") is not None
        ][-1:]
        assert "error.type" not in attributes(cancelled)
        durations = told.points()["http.client.request.duration"]
        assert not [each for each in durations if "error.type" in each.attributes]


# What they do not say


@pytest.mark.parametrize("named", [True, False])
def test_no_query_cursor_token_or_person_is_in_a_span_or_an_event(named: bool) -> None:
    events: list[Event] = []

    async def main(told: Telemetry) -> None:
        async with service([told.hook, events.append]) as (sandbox, truto, account):
            async for _ in truto.interactions.list(account, users=[SECRET], **WINDOW):
                pass
            for method in (truto.meetings.get, truto.users.get):
                with pytest.raises(TrutoError):
                    await method(SECRET, account)
            with pytest.raises(TrutoError):
                await truto.integrated_accounts.get(SECRET)
            await truto.meetings.meta("list", account)
            hidden = [SECRET, "alice", "?", "2024-01", sandbox.token, *([] if named else [account])]
            said = [str((each.name, attributes(each), each.status.description)) for each in told.spans()]
            said += [str(each.attributes) for points in told.points().values() for each in points]
            assert len(said) > 10
            assert [text for text in said if any(each in text for each in hidden)] == []
            urls = {url for event in events if (url := getattr(event, "url", None)) is not None}
            assert urls == {
                PATH,
                "/unified/conversational-intelligence/meetings/{id}",
                "/unified/conversational-intelligence/users/{id}",
                "/unified/conversational-intelligence/meetings/meta/list",
                "/integrated-account/{id}",
            }
            has_account = any(account in text for text in said)
            assert has_account == named

    with telemetry(account_attribute=named) as told:
        run(main(told))


def test_many_accounts_make_no_more_time_series_than_one() -> None:
    async def main(told: Telemetry) -> int:
        async with service(told.hook, accounts=40) as (sandbox, truto, _):
            for account in sandbox.account_ids:
                await truto.interactions.list(account, **WINDOW)
            return sum(map(len, told.points().values()))

    with telemetry() as told:
        assert run(main(told)) <= 3


# Metrics


def test_metrics_count_rows_retries_waits_and_refusals() -> None:
    async def main(told: Telemetry) -> None:
        pacing = Pacing(token=None, account=Rate(2, 0.1))
        async with service(told.hook, client={"pacing": pacing}) as (sandbox, truto, account):
            sandbox.script(account, [Fault.status(429, headers={"Retry-After": "0"}), Fault.status(500)])
            items = await truto.interactions.list(account, **WINDOW).collect()
            assert len(items) == 12

    with telemetry() as told:
        run(main(told))
        points = told.points()
        [rows] = points["truto.client.rows"]
        assert (rows.value, dict(rows.attributes)) == (12, {"truto.resource": "interactions"})
        retries = {point.attributes["reason"]: point.value for point in points["truto.client.retries"]}
        assert retries == {"status 429": 1, "status 500": 1}
        [refused] = points["truto.client.rate_limited"]
        assert refused.value == 1
        waits = {point.attributes["cause"]: point.count for point in points["truto.client.wait.duration"]}
        assert waits["retry"] == 2
        assert waits["account"] >= 1
        requests = points["http.client.request.duration"]
        by_status = {point.attributes["http.response.status_code"]: point.count for point in requests}
        assert by_status == {200: 3, 429: 1, 500: 1}
        [budget] = points["truto.client.retry_budget"]
        assert budget.value == 100.0


def test_without_the_sdk_nothing_is_recorded_and_nothing_breaks() -> None:
    """The API alone gives spans that record nothing."""

    async def main() -> None:
        async with service(OpenTelemetry()) as (_, truto, account):
            assert len(await truto.interactions.list(account, **WINDOW).collect()) == 12

    run(main())


# Over the wire


@pytest.mark.services
def test_a_collector_is_sent_spans_and_metrics(tmp_path: Path) -> None:
    """Over OTLP/HTTP, to a receiver of this test's own."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    received: dict[str, list[bytes]] = {"/v1/traces": [], "/v1/metrics": []}

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received[self.path].append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}"
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces", compression=None)))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/v1/metrics"))])
    hook = OpenTelemetry(tracer_provider=tracers, meter_provider=meters)

    async def main() -> None:
        async with service(hook, accounts=3) as (sandbox, truto, _):
            report = await truto.interactions.pull_to(tmp_path, sandbox.account_ids, **WINDOW)
            assert report.complete

    try:
        run(main())
    finally:
        tracers.shutdown()
        meters.shutdown()
        server.shutdown()
        server.server_close()
        serving.join(5.0)
    names: list[str] = []
    for body in received["/v1/traces"]:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names += [span.name for scope in resource.scope_spans for span in scope.spans]
    assert (names.count("truto.pull"), names.count("truto.call"), names.count("truto.page")) == (1, 9, 9)
    metrics: set[str] = set()
    for body in received["/v1/metrics"]:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            metrics |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
    assert {"http.client.request.duration", "truto.client.rows", "truto.pull.accounts"} <= metrics

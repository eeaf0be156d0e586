"""Spans and metrics of OpenTelemetry, made from the events of a client. Needs ``truto-ci-async[otel]``.

    from truto_ci_async.integrations.opentelemetry import OpenTelemetry

    TrutoClient(on_event=OpenTelemetry())
    TrutoClient(on_event=[OpenTelemetry(), mine])

How it works. Spans are started and ended by hand, with their parent passed explicitly. Nothing is attached to a context
or detached from one, so a walk may be left, or closed by another task, at any point.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from truto_ci_async import MissingExtraError, __version__, events

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetry"]

SCOPE = "truto_ci_async"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)  # buckets
# Exceptions that end a call because its caller left: no errors.
LEFT = frozenset({"CancelledError", "GeneratorExit"})


class OpenTelemetry:
    """A hook for ``on_event`` that makes spans and metrics. Several clients may share one.

    ``account_attribute``  put the account on spans, as ``truto.account``. It is never on a metric, so 5,000 accounts
                           have as many time series as one.
    ``tracer_provider, meter_provider``  default: the global ones.

    Spans: ``truto.pull``, with ``truto.commit``; ``truto.call``, with a span of the HTTP semantic conventions for each
    attempt, and ``truto.page`` for its decoding. They are children of the span that is current where the call, walk or
    pull was started. URLs have no query, and ``{id}`` in place of ids.

    Metrics: ``http.client.request.duration``, ``truto.client.rows``, ``.retries``, ``.wait.duration`` by cause,
    ``.rate_limited`` (429s), ``.retry_budget`` and ``.open_streams``; ``truto.pull.accounts`` by state,
    ``.rows`` and ``.commit.duration``.

    :raises MissingExtraError: opentelemetry-api is not installed.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        account_attribute: bool = True,
    ) -> None:
        try:
            from opentelemetry import context, metrics, trace
        except ImportError:
            raise MissingExtraError("opentelemetry-api", "otel") from None
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        self._trace = trace
        self._current = context.get_current
        self._has_account = account_attribute
        self._calls: dict[int, _Call] = {}
        self._pulls: dict[int, tuple[Span, Context]] = {}
        self._routes: dict[tuple[str, str, str], _Route] = {}
        meter = metrics.get_meter(SCOPE, __version__, meter_provider)

        def duration(name: str, what: str) -> Any:
            return meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=SECONDS)

        def observe(create: Any, name: str, unit: str, what: str, *labels: str) -> _Values:
            """Make an instrument that is read when metrics are collected: counting costs next to nothing."""
            values: _Values = {}

            def read(_: object) -> list[Any]:
                found = [(value, dict(zip(labels, key, strict=True))) for key, value in [*values.items()]]
                return [metrics.Observation(*each) for each in found]

            create(name, [read], unit, what)
            return values

        counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
        resource, level = "truto.resource", meter.create_observable_up_down_counter
        self._durations = duration("http.client.request.duration", "Duration of HTTP client requests.")
        self._waits = duration("truto.client.wait.duration", "Time requests waited, by cause.")
        self._commits = duration("truto.pull.commit.duration", "Time to make pages durable.")
        self._rows = observe(counter, "truto.client.rows", "{row}", "Rows decoded.", resource)
        self._retries = observe(counter, "truto.client.retries", "{retry}", "Retries.", "reason")
        self._refused = observe(counter, "truto.client.rate_limited", "{response}", "Responses with 429.")
        self._budget = observe(gauge, "truto.client.retry_budget", "{retry}", "Retries that are left.")
        self._streams = observe(level, "truto.client.open_streams", "{stream}", "Open streams.")
        self._accounts = observe(gauge, "truto.pull.accounts", "{account}", "Of a pull.", resource, "state")
        self._pulled = observe(gauge, "truto.pull.rows", "{row}", "Rows of a pull.", resource)
        self._handlers: dict[type, Callable[[Any], object]] = {
            events.CallStarted: self._call_started,
            events.CallEnded: self._call_ended,
            events.RequestSent: self._request_sent,
            events.ResponseReceived: self._response_received,
            events.RetryScheduled: self._retry_scheduled,
            events.PacingWait: self._waited,
            events.PageDecoded: self._page_decoded,
            events.PullStarted: self._pull_started,
            events.PullCommitted: self._pull_committed,
            events.PullEnded: self._pull_ended,
        }

    def __call__(self, event: events.Event) -> None:
        if (handler := self._handlers.get(type(event))) is not None:
            handler(event)

    # --- calls -----------------------------------------------------------------------------------------

    def _call_started(self, event: events.CallStarted) -> None:
        key = event.method, event.base_url, event.url
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = _Route(*key)
        parent = self._current()
        if event.pull_id in self._pulls:
            parent = self._trace.set_span_in_context(self._pulls[event.pull_id][0], parent)
        span = self._tracer.start_span("truto.call", parent, attributes=self._named(event, route.of_call))
        context = self._trace.set_span_in_context(span, parent)
        self._calls[event.call_id] = _Call(route, span, context, event.streamed)
        if event.streamed:
            _add(self._streams, 1)

    def _call_ended(self, event: events.CallEnded) -> None:
        call = self._calls.pop(event.call_id, None)
        if call is None:
            return
        if call.attempt is not None:  # it got no response
            self._end_attempt(call, event.error, event.time)
        span = call.span
        if span.is_recording():
            span.set_attribute("truto.attempts", event.attempts)
            self._fail(span, event.error)
        span.end()
        if call.streamed:
            _add(self._streams, -1)
        self._budget[()] = event.retry_budget

    def _request_sent(self, event: events.RequestSent) -> None:
        call = self._calls.get(event.call_id)
        if call is None:
            return
        call.sent_at, attributes = event.time, call.route.of_attempt
        if event.attempt > 1:
            attributes = {**attributes, "http.request.resend_count": event.attempt - 1}
        call.attempt = self._tracer.start_span(
            call.route.name, call.context, self._trace.SpanKind.CLIENT, attributes
        )

    def _response_received(self, event: events.ResponseReceived) -> None:
        call = self._calls.get(event.call_id)
        if event.status == 429:
            _add(self._refused, 1)
        if call is None or call.attempt is None:
            return
        span, call.attempt = call.attempt, None
        if span.is_recording():
            span.set_attribute("http.response.status_code", event.status)
            if event.resent:
                span.set_attribute("http.request.resend_count", event.attempt - 1 + event.resent)
            if event.status >= 400:
                self._fail(span, str(event.status))
        span.end()
        self._durations.record(event.elapsed, call.route.of_metric(event.status))

    def _end_attempt(self, call: _Call, error: str | None, at: float) -> None:
        """End an attempt that got no response."""
        span, call.attempt = call.attempt, None
        if span is None:
            return
        self._fail(span, error)
        span.end()
        if error is not None and error not in LEFT:
            self._durations.record(max(0.0, at - call.sent_at), call.route.of_metric(error=error))

    def _retry_scheduled(self, event: events.RetryScheduled) -> None:
        _add(self._retries, 1, event.reason)
        self._waits.record(event.wait, {"cause": "retry"})
        call = self._calls.get(event.call_id)
        if call is not None:
            self._end_attempt(call, event.reason, event.time)

    def _waited(self, event: events.PacingWait) -> None:
        self._waits.record(event.wait, {"cause": event.level})

    def _page_decoded(self, event: events.PageDecoded) -> None:
        call = self._calls.get(event.call_id)
        if call is None:
            return
        _add(self._rows, event.items, call.route.resource)
        if not call.span.is_recording():
            return
        attributes = {"truto.items": event.items, "truto.bytes": event.bytes, "truto.issues": event.issues}
        self._add_span("truto.page", call.context, event.elapsed, attributes)

    # --- pulls -----------------------------------------------------------------------------------------

    def _pull_started(self, event: events.PullStarted) -> None:
        parent = self._current()
        span = self._tracer.start_span("truto.pull", parent)
        self._pulls[event.pull_id] = span, self._trace.set_span_in_context(span, parent)

    def _pull_committed(self, event: events.PullCommitted) -> None:
        self._commits.record(event.elapsed, {"truto.resource": event.resource})
        self._note_progress(event)
        if event.pull_id in self._pulls:
            attributes = {"truto.pages": event.committed, "truto.resource": event.resource}
            self._add_span("truto.commit", self._pulls[event.pull_id][1], event.elapsed, attributes)

    def _pull_ended(self, event: events.PullEnded) -> None:
        self._note_progress(event)
        span, _ = self._pulls.pop(event.pull_id, (None, None))
        if span is None:
            return
        span.set_attribute("truto.resource", event.resource)
        for name in ("accounts", "done", "failed", "parked", "rows", "pages"):
            span.set_attribute(f"truto.{name}", getattr(event, name))
        self._fail(span, event.error)
        span.end()

    def _note_progress(self, event: events.PullCommitted | events.PullEnded) -> None:
        left = event.accounts - event.done - event.failed - event.parked
        states = {"done": event.done, "failed": event.failed, "parked": event.parked, "left": max(0, left)}
        self._accounts |= {(event.resource, state): count for state, count in states.items()}
        self._pulled[event.resource,] = event.rows

    # --- spans and their attributes --------------------------------------------------------------------

    def _add_span(self, name: str, parent: Context, seconds: float, attributes: dict[str, Any]) -> None:
        """Make a span that ends now and took so many seconds."""
        begun = time_ns() - int(seconds * 1e9)
        self._tracer.start_span(name, parent, attributes=attributes, start_time=begun).end()

    def _named(self, event: events.Event, attributes: dict[str, Any]) -> dict[str, Any]:
        if self._has_account and event.account is not None:
            return {**attributes, "truto.account": event.account}
        return attributes

    def _fail(self, span: Span, error: str | None) -> None:
        if error in LEFT:
            span.set_attribute("truto.cancelled", True)
        elif error is not None:
            span.set_attribute("error.type", error)
            span.set_status(self._trace.StatusCode.ERROR)


#: What an instrument shows: by the values of its labels.
_Values: TypeAlias = dict[tuple[str, ...], float]


def _add(values: _Values, number: float, *key: str) -> None:
    values[key] = values.get(key, 0) + number


class _Call:
    """A call that is under way."""

    __slots__ = ("attempt", "context", "route", "sent_at", "span", "streamed")

    def __init__(self, route: _Route, span: Span, context: Context, streamed: bool) -> None:
        self.route, self.span, self.context, self.streamed = route, span, context, streamed
        self.attempt: Span | None = None
        self.sent_at = 0.0


class _Route:
    """The attributes of all calls with one method and path."""

    def __init__(self, method: str, base_url: str, path: str) -> None:
        parts = urlsplit(base_url)
        names = path.strip("/").split("/")
        self.resource = names[2] if names[0] == "unified" and len(names) > 2 else names[0]
        self.name = f"{method} {path}"
        server: dict[str, Any] = {
            "http.request.method": method,
            "server.address": parts.hostname or "",
            "server.port": parts.port or (80 if parts.scheme == "http" else 443),
        }
        self.of_call: dict[str, Any] = {"truto.resource": self.resource}
        self.of_attempt = {**server, "url.full": base_url + path}
        self._server = {**server, "url.scheme": parts.scheme}
        self._by_status: dict[int, dict[str, Any]] = {}

    def of_metric(self, status: int = 0, error: str | None = None) -> dict[str, Any]:
        """Return the attributes of a request's duration: a handful of values, whatever is asked for."""
        if error is not None:
            return {**self._server, "error.type": error}
        found = self._by_status.get(status)
        if found is None:
            found = self._by_status[status] = {**self._server, "http.response.status_code": status}
            if status >= 400:
                found["error.type"] = str(status)
        return found

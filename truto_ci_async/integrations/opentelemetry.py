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
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from truto_ci_async import (
    CallEnded,
    CallStarted,
    Event,
    MissingExtraError,
    PacingWait,
    PageDecoded,
    PullCommitted,
    PullEnded,
    PullStarted,
    RequestSent,
    ResponseReceived,
    RetryScheduled,
    __version__,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetry"]

SCOPE = "truto_ci_async"
# Buckets in seconds, as the semantic conventions of HTTP advise.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
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
        self._budget: float | None = None
        meter = metrics.get_meter(SCOPE, __version__, meter_provider)

        def duration(name: str, what: str) -> Any:
            return meter.create_histogram(name, "s", what, explicit_bucket_boundaries_advisory=SECONDS)

        self._durations = duration("http.client.request.duration", "Duration of HTTP client requests.")
        self._waits = duration("truto.client.wait.duration", "Time requests waited, by cause.")
        self._commits = duration("truto.pull.commit.duration", "Time to make pages durable.")
        self._rows = meter.create_counter("truto.client.rows", "{row}", "Rows that were decoded.")
        self._retries = meter.create_counter("truto.client.retries", "{retry}", "Retries, by reason.")
        self._refused = meter.create_counter("truto.client.rate_limited", "{response}", "Responses with 429.")
        self._budgets = meter.create_gauge("truto.client.retry_budget", "{retry}", "Retries that are left.")
        self._streams = meter.create_up_down_counter("truto.client.open_streams", "{stream}", "Open streams.")
        self._accounts = meter.create_gauge("truto.pull.accounts", "{account}", "Accounts of the last pull.")
        self._pulled = meter.create_gauge("truto.pull.rows", "{row}", "Rows of the last pull.")
        self._handlers: dict[type, Callable[[Any], object]] = {
            CallStarted: self._call_started,
            CallEnded: self._call_ended,
            RequestSent: self._request_sent,
            ResponseReceived: self._response_received,
            RetryScheduled: self._retry_scheduled,
            PacingWait: self._waited,
            PageDecoded: self._page_decoded,
            PullStarted: self._pull_started,
            PullCommitted: self._pull_committed,
            PullEnded: self._pull_ended,
        }

    def __call__(self, event: Event) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    # --- calls -----------------------------------------------------------------------------------------

    def _call_started(self, event: CallStarted) -> None:
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
            self._streams.add(1)

    def _call_ended(self, event: CallEnded) -> None:
        call = self._calls.pop(event.call_id, None)
        if call is None:
            return
        if call.attempt is not None:  # it got no response
            self._end_attempt(call, event.error, event.time)
        span = call.span
        if span.is_recording():
            if event.attempts > 1:
                span.set_attribute("truto.attempts", event.attempts)
            self._fail(span, event.error)
        span.end()
        if call.streamed:
            self._streams.add(-1)
        if event.retry_budget != self._budget:
            self._budget = event.retry_budget
            self._budgets.set(event.retry_budget)

    def _request_sent(self, event: RequestSent) -> None:
        call = self._calls.get(event.call_id)
        if call is None:
            return
        call.sent_at = event.time
        attributes = call.route.of_attempt
        if event.attempt > 1:
            attributes = {**attributes, "http.request.resend_count": event.attempt - 1}
        call.attempt = self._tracer.start_span(
            call.route.name, call.context, self._trace.SpanKind.CLIENT, attributes
        )

    def _response_received(self, event: ResponseReceived) -> None:
        call = self._calls.get(event.call_id)
        if event.status == 429:
            self._refused.add(1)
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

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        self._retries.add(1, {"reason": event.reason})
        self._waits.record(event.wait, {"cause": "retry"})
        call = self._calls.get(event.call_id)
        if call is not None:
            self._end_attempt(call, event.reason, event.time)

    def _waited(self, event: PacingWait) -> None:
        self._waits.record(event.wait, {"cause": event.level})

    def _page_decoded(self, event: PageDecoded) -> None:
        call = self._calls.get(event.call_id)
        if call is None:
            return
        if event.items:
            self._rows.add(event.items, call.route.of_rows)
        if not call.span.is_recording():
            return
        attributes: dict[str, Any] = {"truto.page.items": event.items, "truto.page.bytes": event.bytes}
        if event.issues:
            attributes["truto.page.issues"] = event.issues
        now = time_ns()
        begun = now - int(event.elapsed * 1e9)
        self._tracer.start_span("truto.page", call.context, attributes=attributes, start_time=begun).end(now)

    # --- pulls -----------------------------------------------------------------------------------------

    def _pull_started(self, event: PullStarted) -> None:
        parent = self._current()
        span = self._tracer.start_span("truto.pull", parent)
        self._pulls[event.pull_id] = span, self._trace.set_span_in_context(span, parent)

    def _pull_committed(self, event: PullCommitted) -> None:
        self._commits.record(event.elapsed, {"truto.resource": event.resource})
        self._note_progress(event)
        if event.pull_id in self._pulls:
            now = time_ns()
            attributes: dict[str, Any] = {"truto.pages": event.committed, "truto.resource": event.resource}
            begun = now - int(event.elapsed * 1e9)
            _, context = self._pulls[event.pull_id]
            self._tracer.start_span("truto.commit", context, attributes=attributes, start_time=begun).end(now)

    def _pull_ended(self, event: PullEnded) -> None:
        self._note_progress(event)
        span, _ = self._pulls.pop(event.pull_id, (None, None))
        if span is None:
            return
        span.set_attribute("truto.resource", event.resource)
        for name in ("accounts", "done", "failed", "parked", "rows", "pages"):
            span.set_attribute(f"truto.{name}", getattr(event, name))
        self._fail(span, event.error)
        span.end()

    def _note_progress(self, event: PullCommitted | PullEnded) -> None:
        for state in ("done", "failed", "parked"):
            self._accounts.set(getattr(event, state), {"truto.resource": event.resource, "state": state})
        left = event.accounts - event.done - event.failed - event.parked
        self._accounts.set(max(0, left), {"truto.resource": event.resource, "state": "left"})
        self._pulled.set(event.rows, {"truto.resource": event.resource})

    # --- attributes ------------------------------------------------------------------------------------

    def _named(self, event: Event, attributes: dict[str, Any]) -> dict[str, Any]:
        if self._has_account and event.account is not None:
            return {**attributes, "truto.account": event.account}
        return attributes

    def _fail(self, span: Span, error: str | None) -> None:
        if error in LEFT:
            span.set_attribute("truto.cancelled", True)
        elif error is not None:
            span.set_attribute("error.type", error)
            span.set_status(self._trace.StatusCode.ERROR)


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
        resource = names[2] if names[0] == "unified" and len(names) > 2 else names[0]
        self.name = f"{method} {path}"
        server: dict[str, Any] = {
            "http.request.method": method,
            "server.address": parts.hostname or "",
            "server.port": parts.port or (80 if parts.scheme == "http" else 443),
        }
        self.of_call = {"truto.resource": resource, "truto.path": path}
        self.of_attempt = {**server, "url.full": base_url + path, "url.template": path}
        self.of_rows = {"truto.resource": resource}
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

"""Traces, metrics and logs: set up once per process, handed to whoever needs them.

Names of our own attributes and metrics stand here and nowhere else; OpenTelemetry's semantic conventions come first.
"""

import logging
import os
import random
import sys
import threading
import traceback
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.kit.call import current_call
from services.kit.queue import Stats

_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_FLUSH_S = 0.5
_LINE = "%(name)s: %(message)s"
_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """Rate, errors and duration of the calls a service answers."""

    seconds: Histogram
    errors: Counter


@dataclass(frozen=True, slots=True)
class LoadMetrics:
    """How full a process is, and what it leaves alone."""

    held: Gauge
    shed: Counter
    circuits: Gauge
    open_circuits: Gauge
    lag: Histogram

    def state(self, kind: str, name: str, state: float | None) -> None:
        """Shows a circuit's state. None: it is shown no longer."""
        if state is None:
            self.circuits.remove(kind, name)
        else:
            self.circuits.labels(kind, name).set(state)

    def open(self, kind: str, count: int) -> None:
        """Shows how many circuits of a kind are not closed."""
        self.open_circuits.labels(kind).set(count)


@dataclass(frozen=True, slots=True)
class EventMetrics:
    """What is told of what happens in a tenant, and what users say of it."""

    published: Counter
    lost: Counter
    handler_failures: Counter
    feedback: Counter


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """What is in queues, by the queue, and what did not go well there."""

    items: Gauge
    oldest: Gauge
    redelivered: Counter
    dead_letters: Counter

    def show(self, queue: str, stats: Stats | None) -> None:
        """Shows what is in a queue. None: it is not known, and no number is told."""
        unknown = float("nan")
        for state in ("waiting", "delayed", "claimed", "dead"):
            self.items.labels(queue, state).set(getattr(stats, state) if stats else unknown)
        self.oldest.labels(queue).set(stats.oldest_s if stats else unknown)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a process reports with.

    Args:
        tracer: Makes spans.
        metrics: Holds the process's metrics.
        calls: Metrics of the calls it answers.
        load: Metrics of how full it is.
        events: Metrics of domain events and feedback.
        queues: Metrics of queues.
        sample_ratio: Share of the traces begun here that are recorded.
        provider: Flushes spans at the end. None: nothing is exported.
        exporter: Sends them.
    """

    tracer: trace.Tracer
    metrics: CollectorRegistry
    calls: CallMetrics
    load: LoadMetrics
    events: EventMetrics
    queues: QueueMetrics
    sample_ratio: float = 0.0
    provider: TracerProvider | None = field(default=None, repr=False)
    exporter: SpanExporter | None = field(default=None, repr=False)

    @property
    def records(self) -> bool:
        """Whether spans go anywhere."""
        return self.provider is not None

    def sampled(self) -> bool:
        """Whether a trace that begins here is to be recorded."""
        return self.records and random.random() < self.sample_ratio

    def close(self) -> None:
        """Sends the spans that wait, for half a second at most: a collector that is silent holds nobody."""
        if self.provider is None or self.exporter is None:
            return
        # The exporter gives up when it is shut down, and then the provider waits for nothing more.
        giving_up = threading.Timer(_FLUSH_S, self.exporter.shutdown)
        giving_up.start()
        self.provider.shutdown()
        giving_up.cancel()


def open_telemetry(service: str, otlp_endpoint: str, sample_ratio: float) -> Telemetry:
    """Telemetry of one process.

    Args:
        service: Its name in traces.
        otlp_endpoint: Where spans go, OTLP over gRPC (`http://localhost:4317`). Empty: trace ids are made and passed
            on, so that logs of one request can be joined, but no span is recorded.
        sample_ratio: Share of traces begun here that are recorded, 0 to 1. A caller's decision is kept.
    """
    provider = exporter = None
    if otlp_endpoint:
        # Here, because it brings all of the SDK's metrics and logs: who has no collector does not wait for them.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        # Which traces are recorded is decided before a span is made: all that are made are kept.
        provider = TracerProvider(resource=Resource({SERVICE_NAME: service}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://"))
        provider.add_span_processor(BatchSpanProcessor(exporter))
    metrics = CollectorRegistry()
    calls = CallMetrics(
        Histogram("myriad_rpc_seconds", "Time to answer a call.", ["method"], buckets=_LATENCY_S, registry=metrics),
        Counter("myriad_rpc_errors", "Calls that ended in an error.", ["method", "code"], registry=metrics),
    )
    load = LoadMetrics(
        Gauge("myriad_calls_in_flight", "Calls from outside under way.", ["kind"], registry=metrics),
        Counter("myriad_calls_shed", "Calls refused because too many were under way.", ["kind"], registry=metrics),
        Gauge("myriad_circuit_state", "0 closed, 1 half open, 2 open.", ["kind", "name"], registry=metrics),
        Gauge("myriad_circuits_open", "Circuits that are not closed.", ["kind"], registry=metrics),
        Histogram("myriad_loop_lag_seconds", "How late the event loop is.", buckets=_LAG_S, registry=metrics),
    )
    tracer = provider.get_tracer("myriad") if provider else trace.NoOpTracer()
    events, queues = _event_metrics(metrics), _queue_metrics(metrics)
    return Telemetry(tracer, metrics, calls, load, events, queues, sample_ratio, provider, exporter)


def _event_metrics(metrics: CollectorRegistry) -> EventMetrics:
    return EventMetrics(
        Counter("myriad_events", "Domain events published.", ["type"], registry=metrics),
        Counter("myriad_events_lost", "Domain events that were not published.", ["type"], registry=metrics),
        Counter("myriad_event_handler_failures", "Events a handler missed.", ["handler", "why"], registry=metrics),
        Counter("myriad_feedback", "Words on runs, by agent and score.", ["agent", "score"], registry=metrics),
    )


def _queue_metrics(metrics: CollectorRegistry) -> QueueMetrics:
    again = "Times that an item was claimed which had been claimed before."
    return QueueMetrics(
        Gauge("myriad_queue_items", "Items of a queue.", ["queue", "state"], registry=metrics),
        Gauge("myriad_queue_oldest_seconds", "Longest time an item has been due.", ["queue"], registry=metrics),
        Counter("myriad_queue_redelivered", again, ["queue"], registry=metrics),
        Counter("myriad_dead_letters", "Runs of a queue that were given up.", ["queue"], registry=metrics),
    )


def new_traceparent(sampled: bool) -> str:
    """A trace that begins here (W3C Trace Context, version 00)."""
    ids = os.urandom(24).hex()
    return f"00-{ids[:32]}-{ids[32:]}-{'01' if sampled else '00'}"


def traceparent_of(span: trace.Span) -> str:
    """What a call made within a span carries."""
    context = span.get_span_context()
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"


def log_to_stdout(level: str) -> None:
    """Logs as JSON, a line each, with the trace id of the call at hand. For a process's start, not for libraries.

    Of an exception it tells class and place. What it says, which may quote a user, only at level `debug`.
    """
    told = structlog.processors.format_exc_info if level == "debug" else structlog.processors.ExceptionRenderer(_places)
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setFormatter(logging.Formatter(_LINE) if level == "debug" else _PlacesFormatter(_LINE))
    logging.basicConfig(level=logging.WARNING, handlers=[libraries])
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_call,
            told,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


def _places(exc_info: Any) -> str:
    """The traceback of `sys.exc_info()` without what the exceptions say, the first raised last."""
    lines: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None:
        lines += [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}\n"]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join(lines).rstrip()


class _PlacesFormatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:
        return _places(ei)


def _add_call(_logger: Any, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    call = current_call()
    if call is not None:
        entry.setdefault("method", call.method)
        if call.traceparent:
            entry["trace_id"] = call.traceparent[3:35]
    return entry

"""Work on items of a queue, as those see it who watch the process: counted, and part of the trace that put the item."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.kit.call import Call, enter
from services.kit.queue import Claimed
from services.kit.telemetry import Telemetry, new_traceparent, traceparent_of

_SAMPLED = "-01"


@contextmanager
def working(reports: Telemetry, claimed: Claimed) -> Iterator[None]:
    """Makes what this task does the work on an item: a span within the trace of whoever put it.

    The span is named as OpenTelemetry's conventions for messaging have it. Where nothing is recorded, only the trace's
    id goes along, for logs.
    """
    if claimed.deliveries > 1:
        reports.queues.redelivered.labels(claimed.queue).inc()
    traceparent = claimed.item.traceparent or new_traceparent(reports.sampled())
    call = Call(f"process {claimed.queue}", {}, None, peer="inproc", traceparent=traceparent)
    enter(call)
    if not reports.records or not traceparent.endswith(_SAMPLED):
        yield
        return
    attributes = {
        "messaging.system": "myriad",
        "messaging.destination.name": claimed.queue,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }
    creator = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    with reports.tracer.start_as_current_span(
        call.method, creator, SpanKind.CONSUMER, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        call.traceparent = traceparent_of(span)
        yield

"""Work on an item of a queue belongs to the trace of whoever put it."""

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from services.kit.call import current_traceparent
from services.kit.errors import RunNotFound
from services.kit.queue import Claimed, Item
from services.kit.queue_work import working
from services.kit.telemetry import open_telemetry

TRACE, CREATOR = "ab" * 16, "cd" * 8


class Bench:
    def __init__(self):
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        silent = open_telemetry("test", "", 1.0)
        self.reports = replace(silent, tracer=provider.get_tracer("test"), provider=provider)

    def work(self, traceparent, deliveries=1):
        """What the work on an item sees as its trace."""
        item = Item("a", "acme", b"", traceparent=traceparent)
        with working(self.reports, Claimed("SIMPLE", item, deliveries)):
            return current_traceparent()


@pytest.fixture
def b():
    return Bench()


def test_work_is_a_span_of_the_trace_of_whoever_put_the_item(b):
    seen = b.work(f"00-{TRACE}-{CREATOR}-01")
    (span,) = b.spans.get_finished_spans()
    assert seen == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CREATOR)
    assert (span.name, span.kind) == ("process SIMPLE", SpanKind.CONSUMER)
    assert span.attributes == {
        "messaging.system": "myriad",
        "messaging.destination.name": "SIMPLE",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    }


def test_a_trace_that_is_not_recorded_has_no_span_and_its_id_goes_along(b):
    given = f"00-{TRACE}-{CREATOR}-00"
    assert b.work(given) == given
    assert not b.spans.get_finished_spans()


def test_an_item_of_no_trace_begins_one(b):
    first, second = b.work(""), b.work("")
    assert first[3:35] != second[3:35]
    assert len(b.spans.get_finished_spans()) == 2


def test_work_that_fails_ends_its_span_too(b):
    item = Item("a", "acme", b"", traceparent=f"00-{TRACE}-{CREATOR}-01")
    with pytest.raises(RunNotFound), working(b.reports, Claimed("SIMPLE", item, 1)):
        raise RunNotFound("no such run")
    (span,) = b.spans.get_finished_spans()
    assert not span.events


def test_what_is_claimed_again_is_counted_by_its_queue(b):
    for deliveries in (1, 2, 3):
        b.work("", deliveries)
    count = b.reports.metrics.get_sample_value("myriad_queue_redelivered_total", {"queue": "SIMPLE"})
    assert count == 2

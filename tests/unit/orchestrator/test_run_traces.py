"""All that is done for a run belongs to the trace of the call that asked for it, whoever does it and when."""

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.kit.call import Principal, current_call, current_traceparent
from services.kit.queue import CALLBACK_QUEUE
from services.orchestrator.config import Config
from services.orchestrator.core.worker import Worker
from services.orchestrator.domain.run import Request
from tests.support.orchestrator import ALICE, SESSION, act_as, bench
from tests.support.waiting import until

TRACE, OTHER = f"00-{'ab' * 16}-{'cd' * 8}-01", f"00-{'12' * 16}-{'34' * 8}-01"
QUICK = Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=1.0, retry_s=0.05)
NOBODY = Principal(ALICE.tenant, ALICE.user)


@pytest.fixture
async def b():
    async with bench(config=QUICK) as made:
        made.spans, made.seen = InMemorySpanExporter(), []
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(made.spans))
        made.telemetry = replace(made.telemetry, tracer=provider.get_tracer("test"), provider=provider)
        commit = made.store.commit_turn

        async def commit_turn(*arguments):
            made.seen.append(current_traceparent())
            return await commit(*arguments)

        made.store.commit_turn = commit_turn
        yield made


async def ask(b, traceparent, session=SESSION, **request):
    act_as(ALICE)
    current_call().traceparent = traceparent
    return (await b.runs.accept(ALICE, Request(session, "hello", **request), lambda run_id: None)).run_id


def trace_of(traceparent):
    return traceparent.split("-")[1]


async def work(b, classes=("SIMPLE",)):
    """A worker that works until all runs have ended that were asked for."""
    runs = b.another(QUICK, classes=classes)
    worker = Worker(
        b.queue, runs.take, runs.give_up, queues=classes, places=4, idle_s=5, retry_s=0.05, telemetry=b.telemetry
    )
    worker.start()
    return runs, worker


async def test_a_queued_run_is_worked_on_in_the_trace_of_its_call(b):
    await ask(b, TRACE, queue="SIMPLE", callback_url="https://example.com/done")
    runs, worker = await work(b)
    await until(lambda: b.seen)
    await worker.drain(1.0)
    await runs.close()
    (span,) = b.spans.get_finished_spans()
    assert f"{span.parent.span_id:016x}" == TRACE.split("-")[2]
    assert b.seen == [f"00-{trace_of(TRACE)}-{span.context.span_id:016x}-01"]
    (callback,) = await b.queue.claim([CALLBACK_QUEUE], 1, 1.0)
    assert trace_of(callback.item.traceparent) == trace_of(TRACE)


async def test_a_run_that_another_one_lets_begin_is_in_its_own_trace(b):
    await ask(b, TRACE, queue="SIMPLE")
    await ask(b, OTHER, queue="SIMPLE")
    runs, worker = await work(b)
    await until(lambda: len(b.seen) == 2)
    await worker.drain(1.0)
    await runs.close()
    assert [trace_of(seen) for seen in b.seen] == [trace_of(TRACE), trace_of(OTHER)]


async def test_a_run_that_another_process_goes_on_with_stays_in_its_trace(b):
    b.model.scripts = [["so ", 60.0], ["so on"]]
    await ask(b, TRACE)
    await until(lambda: b.model.asked)
    await b.runs.close()
    other = b.another(QUICK)
    act_as(NOBODY)
    await (await other.resume(NOBODY, SESSION))
    await other.close()
    assert [trace_of(seen) for seen in b.seen] == [trace_of(TRACE)]

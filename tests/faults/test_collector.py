"""The collector of spans is gone or silent: nobody notices, and a process that stops does not wait for it."""

import asyncio
import signal
import socket
import time
from contextlib import asynccontextmanager

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.faults.alone import memory_alone
from tests.support.cgroup import resident_bytes
from tests.support.load import percentile
from tests.support.ports import free_port
from tests.support.proxy import running_proxy

DRAIN_S = 1
MIB = 1024 * 1024


@asynccontextmanager
async def collector(kind):
    """Where to send spans: to a collector that takes them, to a silent one, or to nobody."""
    if kind == "gone":
        yield f"http://127.0.0.1:{free_port()}"
    elif kind == "silent":
        async with running_proxy("") as (_, url):
            yield url.replace("tcp:", "http:")
    else:
        taken = grpc.unary_unary_rpc_method_handler(_take)
        server = grpc.aio.server()
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": taken}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"http://127.0.0.1:{port}"
        await server.stop(0)


async def _take(_spans, _context):
    return b""


@asynccontextmanager
async def memory_with(kind, work):
    work.mkdir()
    async with (
        collector(kind) as url,
        memory_alone(work, OTEL_EXPORTER_OTLP_ENDPOINT=url, MYRIAD_DRAIN_S=str(DRAIN_S)) as alone,
    ):
        yield alone


async def latencies(alone, session, calls):
    """Seconds of each of so many reads, eight at a time."""
    taken = []

    async def some():
        for _ in range(calls // 8):
            began = time.perf_counter()
            await alone.read(session)
            taken.append(time.perf_counter() - began)

    await asyncio.gather(*(some() for _ in range(8)))
    return taken


@pytest.mark.parametrize(
    ("rounds", "calls", "share", "most"),
    [(3, 400, 0.5, 1.25), pytest.param(40, 2000, 0.99, 1.05, marks=pytest.mark.chaos)],
)
async def test_a_silent_collector_costs_nobody_anything(tmp_path, rounds, calls, share, most):
    async with memory_with("well", tmp_path / "well") as well, memory_with("silent", tmp_path / "silent") as silent:
        rows = [(alone, await alone.create(), []) for alone in (well, silent)]
        for alone, session, _ in rows:
            await latencies(alone, session, calls)
        before = [resident_bytes(alone.pid) for alone, _, _ in rows]
        for _ in range(rounds):  # in turns, so that both see the same machine
            for alone, session, taken in rows:
                taken += await latencies(alone, session, calls)
        (_, _, fast), (_, _, slow) = rows
        assert percentile(slow, share) < percentile(fast, share) * most
        grown = [resident_bytes(alone.pid) - then for (alone, _, _), then in zip(rows, before, strict=True)]
        assert grown[1] < grown[0] + 20 * MIB


async def test_a_process_that_stops_does_not_wait_for_its_collector(tmp_path):
    async def stops_in(kind):
        async with memory_with(kind, tmp_path / kind) as alone:
            session = await alone.create()
            await latencies(alone, session, 1600)
            began = time.monotonic()
            alone.memory.process.send_signal(signal.SIGTERM)
            assert await alone.memory.ended(DRAIN_S + 5) == 0
            return time.monotonic() - began

    assert max(await asyncio.gather(*map(stops_in, ("well", "silent", "gone")))) < DRAIN_S + 1


def test_control_a_span_that_is_sent_at_once_waits_for_a_silent_collector():
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        provider = TracerProvider(shutdown_on_exit=False)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint, insecure=True, timeout=0.5)))
        began = time.monotonic()
        with provider.get_tracer("test").start_as_current_span("span"):
            pass
        assert time.monotonic() - began > 0.4
        provider.shutdown()

"""Traces reach a collector over OTLP, join across services, and cost nothing where they are not recorded."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.kit.app import App, Kit
from services.kit.call import current_call
from services.kit.errors import RunNotFound
from services.kit.grpc_server import grpc_server
from services.kit.telemetry import open_telemetry
from tests.support.transport import Scripted

RUN = run_pb2.GetRunRequest(run_id="s.1")
SAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-01"
NOT_SAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-00"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans it is sent."""

    def __init__(self):
        self.spans = []

    async def Export(self, request, context):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collected(servicer, ratio=1.0):
    """A stub of a service that reports to a collector, the collector, and what sends its spans."""
    collector = Collector()
    collecting = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, collecting)
    endpoint = f"http://127.0.0.1:{collecting.add_insecure_port('127.0.0.1:0')}"
    await collecting.start()
    kit = Kit(open_telemetry("orchestrator", endpoint, ratio), None)
    add = orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server
    server, _ = grpc_server([kit.registry(App("orchestrator", lambda made: add(servicer, made)))])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield orchestrator_pb2_grpc.OrchestratorServiceStub(channel), collector, kit
    await server.stop(0)
    await asyncio.to_thread(kit.telemetry.close)
    await collecting.stop(0)


async def flushed(kit):
    await asyncio.to_thread(kit.telemetry.provider.force_flush)


async def answer(request):
    return run_pb2.GetRunResponse()


async def test_a_call_within_a_recorded_trace_is_a_span_of_it():
    async with collected(Scripted(get_run=answer)) as (stub, collector, kit):
        await stub.GetRun(RUN, metadata=[("traceparent", SAMPLED)])
        await flushed(kit)
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
    assert span.name == "myriad.orchestrator.v1.OrchestratorService/GetRun"


async def test_what_a_call_calls_is_a_child_of_its_span():
    seen = []

    async def get_run(request):
        seen.append(current_call().traceparent)
        return run_pb2.GetRunResponse()

    async with collected(Scripted(get_run=get_run)) as (stub, collector, kit):
        await stub.GetRun(RUN, metadata=[("traceparent", SAMPLED)])
        await flushed(kit)
    assert seen == [f"00-{'ab' * 16}-{collector.spans[0].span_id.hex()}-01"]


async def test_an_error_is_a_span_with_its_reason():
    async def get_run(request):
        raise RunNotFound("no such run")

    async with collected(Scripted(get_run=get_run)) as (stub, collector, kit):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetRun(RUN, metadata=[("traceparent", SAMPLED)])
        await flushed(kit)
    (span,) = collector.spans
    attributes = {each.key: each.value.string_value for each in span.attributes}
    assert (attributes["error.type"], attributes["rpc.grpc.status_code"]) == ("RUN_NOT_FOUND", "NOT_FOUND")


@pytest.mark.parametrize(("metadata", "ratio"), [([("traceparent", NOT_SAMPLED)], 1.0), ([], 0.0)])
async def test_a_trace_that_is_not_recorded_makes_no_span_but_its_id_goes_along(metadata, ratio):
    seen = []

    async def get_run(request):
        seen.append(current_call().traceparent)
        return run_pb2.GetRunResponse()

    async with collected(Scripted(get_run=get_run), ratio) as (stub, collector, kit):
        await stub.GetRun(RUN, metadata=metadata)
        await flushed(kit)
    assert collector.spans == []
    assert len(seen[0]) == len(SAMPLED)
    assert seen[0].endswith("-00")


async def test_calls_and_errors_are_counted_by_method():
    async def get_run(request):
        raise RunNotFound("no such run")

    async with collected(Scripted(get_run=get_run)) as (stub, _, kit):
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetRun(RUN)
        method = "/myriad.orchestrator.v1.OrchestratorService/GetRun"
        metrics = kit.telemetry.metrics
        assert metrics.get_sample_value("myriad_rpc_seconds_count", {"method": method}) == 3
        errors = metrics.get_sample_value("myriad_rpc_errors_total", {"method": method, "code": "NOT_FOUND"})
        assert errors == 3

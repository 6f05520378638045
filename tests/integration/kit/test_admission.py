"""A process that is full says so at once, goes on saying that it lives, and refuses nothing that it has let in."""

import asyncio
import statistics
import time
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2
from services.kit.app import Kit
from services.kit.clients import INPROC, Network
from services.kit.errors import Overloaded
from services.kit.interceptors.admission import Admission, Limits
from services.kit.telemetry import open_telemetry
from tests.support.transport import Scripted, serving

CALLS, STREAMS = 8, 20
GET_RUN = "/myriad.orchestrator.v1.OrchestratorService/GetRun"
GET, WATCH = run_pb2.GetRunRequest(run_id="s.1"), run_pb2.WatchRunRequest(run_id="s.1")


class Full:
    """A service with room for a few, of which all places are taken; each call waits until it is let go."""

    def __init__(self) -> None:
        self.kit = Kit(open_telemetry("test", "", 0.0), None, limits=Limits(CALLS, STREAMS))
        self.let_go = asyncio.Event()
        self.servicer = Scripted(self._get_run, self._watch_run)
        self.client = None
        self.stub = None
        self.held: list[asyncio.Task] = []

    async def _get_run(self, request):
        await self.let_go.wait()
        return run_pb2.GetRunResponse()

    async def _watch_run(self, request):
        yield run_event_pb2.RunEvent(sequence=1)
        await self.let_go.wait()

    async def get(self):
        return await self.client.unary(self.stub.GetRun, GET, timeout=20)

    async def watch(self):
        return [each async for each in self.client.stream(self.stub.WatchRun, WATCH, timeout=20)]

    def metric(self, name, kind):
        return self.kit.telemetry.metrics.get_sample_value(name, {"kind": kind})

    async def until(self, calls: int, streams: int) -> None:
        """Returns when so many are in flight."""
        held = "myriad_calls_in_flight"
        async with asyncio.timeout(10):
            while (self.metric(held, "calls"), self.metric(held, "streams")) != (calls, streams):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@asynccontextmanager
async def full():
    made, network = Full(), Network(None)
    async with serving(made.kit, made.servicer) as address:
        made.client = network.client("orchestrator", address)
        made.stub = orchestrator_pb2_grpc.OrchestratorServiceStub(made.client.channel)
        made.held = [asyncio.create_task(made.get()) for _ in range(CALLS)]
        made.held += [asyncio.create_task(made.watch()) for _ in range(STREAMS)]
        await made.until(CALLS, STREAMS)
        yield made, address
        made.let_go.set()
        await asyncio.gather(*made.held, return_exceptions=True)
        await network.close()


async def refused_in(asking):
    began = time.perf_counter()
    with pytest.raises(Overloaded) as refused:
        await asking
    assert refused.value.retry_after == 1.0
    return time.perf_counter() - began


async def test_the_excess_is_refused_at_once_and_what_was_let_in_is_answered():
    async with full() as (world, _):
        took = [await refused_in(ask()) for _ in range(20) for ask in (world.get, world.watch)]
        assert statistics.median(took) <= 0.05  # the slowest of a flood: tests/faults/test_pressure.py
        assert world.metric("myriad_calls_shed_total", "calls") == 20
        assert world.metric("myriad_calls_shed_total", "streams") == 20
        world.let_go.set()
        replies = await asyncio.gather(*world.held)
        assert len(replies) == CALLS + STREAMS
        await world.get()
    assert world.metric("myriad_calls_in_flight", "calls") == 0


async def test_a_full_house_of_calls_has_room_for_streams():
    async with full() as (world, _):
        world.held.pop().cancel()
        await world.until(CALLS, STREAMS - 1)
        await refused_in(world.get())
        stream = world.client.stream(world.stub.WatchRun, WATCH, timeout=20)
        assert (await anext(stream)).sequence == 1
        await stream.aclose()


async def test_a_call_that_is_cancelled_or_refused_for_what_it_says_gives_its_place_back():
    async with full() as (world, _):
        for call in world.held:
            call.cancel()
        await asyncio.wait(world.held)
        await world.until(0, 0)
        for _ in range(CALLS + 1):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await world.stub.GetRun(run_pb2.GetRunRequest(run_id="no run"))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert world.metric("myriad_calls_in_flight", "calls") == 0


async def test_calls_within_the_process_were_let_in_already():
    async with full() as (world, _):
        world.client = world.kit.network.client("orchestrator", INPROC)
        world.stub = orchestrator_pb2_grpc.OrchestratorServiceStub(world.client.channel)
        inside = [asyncio.create_task(world.get()) for _ in range(2 * CALLS)]
        await asyncio.sleep(0.05)
        assert not any(call.done() for call in inside)
        world.let_go.set()
        await asyncio.gather(*inside)


async def answered_without_a_message(address):
    """The code of a call whose message never comes."""

    async def none_comes():
        await asyncio.Event().wait()
        yield b""

    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_unary(GET_RUN)(none_comes(), timeout=0.5)
        return await call.code()


async def test_who_is_refused_is_so_before_the_message_is_read():
    async with full() as (world, address):
        assert await answered_without_a_message(address) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert world.metric("myriad_calls_shed_total", "calls") == 1
        refused = {"method": GET_RUN, "code": "RESOURCE_EXHAUSTED"}
        assert world.kit.telemetry.metrics.get_sample_value("myriad_rpc_errors_total", refused) == 1


async def test_control_behind_the_door_the_message_is_waited_for(monkeypatch):
    monkeypatch.setattr(Admission, "refuses", lambda _self, _method: False)
    async with full() as (world, address):
        assert await answered_without_a_message(address) is grpc.StatusCode.DEADLINE_EXCEEDED
        await refused_in(world.get())  # and then refused all the same


async def alive_in(channel):
    began = time.perf_counter()
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    return time.perf_counter() - began


async def test_health_and_reflection_answer_while_the_service_is_full():
    async with full() as (world, address), grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        crowd = [asyncio.create_task(world.get()) for _ in range(200)]
        took = [await alive_in(channel) for _ in range(20)]
        assert statistics.median(took) <= 0.1
        for call in crowd:
            await refused_in(call)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert [each async for each in stub.ServerReflectionInfo(iter([question]), timeout=5)]


async def test_control_grpcs_own_limit_refuses_health_checks():
    status = health.aio.HealthServicer()
    server = grpc.aio.server(maximum_concurrent_rpcs=1)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        held = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await held.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await alive_in(channel)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        held.cancel()
    await server.stop(0)

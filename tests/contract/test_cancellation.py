"""Why services/kit/clients.py makes calls itself: the stock interceptors lose the cancellation of a unary call.

The control is here too: when the stock ones no longer lose it, this fails, and docs/adr/0004 can be looked at again.
"""

import asyncio
import contextlib

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.kit.app import App, Kit
from services.kit.grpc_server import grpc_server
from services.kit.telemetry import open_telemetry
from tests.support.transport import Scripted


async def cancelled(make_call, within_s):
    """Whether the handler hears of it in time that its caller left. It has twenty seconds otherwise."""
    begun = asyncio.Event()

    async def get_run(request):
        begun.set()
        await asyncio.sleep(30)

    servicer = Scripted(get_run=get_run)
    kit = Kit(open_telemetry("test", "", 0.0), None)
    add = orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server
    registry = kit.registry(App("orchestrator", lambda server: add(servicer, server)))
    server, _ = grpc_server([registry])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        task = asyncio.create_task(make_call(kit, address))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(servicer.cancelled.wait(), within_s)
        return servicer.cancelled.is_set()
    finally:
        await kit.network.close()
        await server.stop(0)


async def test_our_client_cancels_the_handler():
    async def ours(kit, address):
        client = kit.network.client("orchestrator", address)
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id="s.1"), timeout=20)

    assert await cancelled(ours, 5.0)


async def test_the_stock_client_interceptors_do_not():
    channels = []

    async def stock(kit, address):
        channels.append(grpc.aio.insecure_channel(address, interceptors=aio_client_interceptors()))
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channels[0])
        await stub.GetRun(run_pb2.GetRunRequest(run_id="s.1"), timeout=20)

    assert not await cancelled(stock, 2.0)
    await channels[0].close()

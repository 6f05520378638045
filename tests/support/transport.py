"""A service of one scripted servicer, reached over a socket or within the process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from grpc_health.v1 import health_pb2

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2
from services.kit.app import App, Kit
from services.kit.call import Principal, current_principal
from services.kit.clients import INPROC, Client
from services.kit.grpc_server import grpc_server
from services.kit.telemetry import open_telemetry


@dataclass
class Scripted(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Answers GetRun and WatchRun as the test says, and keeps what it saw."""

    get_run: Callable[[run_pb2.GetRunRequest], Awaitable[run_pb2.GetRunResponse]] | None = None
    watch_run: Callable[[run_pb2.WatchRunRequest], AsyncIterator[run_event_pb2.RunEvent]] | None = None
    principals: list[Principal] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def GetRun(self, request, context):
        self.principals.append(current_principal())
        try:
            return await self.get_run(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def WatchRun(self, request, context):
        try:
            async for event in self.watch_run(request):
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise


@asynccontextmanager
async def reached(kind: str, servicer: Scripted, mesh_token: str | None = None) -> AsyncIterator[Client]:
    """A client of `servicer` over a `socket` or `inproc`."""
    kit = Kit(open_telemetry("test", "", 0.0), mesh_token)
    async with serving(kit, servicer) as address:
        yield kit.network.client("orchestrator", INPROC if kind == "inproc" else address)
        await kit.network.close()


@asynccontextmanager
async def serving(kit: Kit, servicer: Scripted) -> AsyncIterator[str]:
    """`servicer` as `kit` serves it, within this process and at the address this yields."""
    add = orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server
    server, status = grpc_server([kit.registry(App("orchestrator", lambda made: add(servicer, made)))])
    if kit.certificates is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", kit.certificates.server())
    await server.start()
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)

"""The real Envoy, with the committed configuration, in front of a stub orchestrator."""

import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.dev.engines.envoy import launch, localise
from tests.integration.edge.stub import StubOrchestrator

ROOT = Path(__file__).resolve().parents[3]
DESCRIPTORS = ROOT / "envoy" / "descriptors.pb"
SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass
class Edge:
    """Envoy, what is behind it, and clients of it."""

    stub: StubOrchestrator
    health: health.aio.HealthServicer
    channel: grpc.aio.Channel
    http: httpx.AsyncClient
    orchestrator: Any
    """A generated stub that speaks gRPC to Envoy."""

    async def wait_until_used(self) -> None:
        """Returns when Envoy knows that the stub is ready."""
        async with asyncio.timeout(10):
            while (await self.http.get("/v1/runs/ready.1")).status_code != 200:  # noqa: ASYNC110 - in Envoy
                await asyncio.sleep(0.05)


def free_port() -> int:
    """A port nobody listens on, below those the system gives to clients."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@asynccontextmanager
async def running_envoy(work: Path, addresses: dict[str, str]) -> AsyncIterator[None]:
    """Envoy with the committed configuration on this machine's addresses; its log is in `work`."""
    path, log = work / "envoy.yaml", work / "envoy.log"
    path.write_text(localise((ROOT / "envoy" / "envoy.yaml").read_text(), addresses, DESCRIPTORS))
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(*launch(path).argv, stdout=output, stderr=output)
    try:
        yield
        assert process.returncode is None, log.read_text()[-3000:]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def running_stub(stub: StubOrchestrator, status: health.aio.HealthServicer, address: str) -> AsyncIterator[None]:
    """The stub orchestrator, with its health service."""
    server = grpc.aio.server()
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(stub, server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await status.set("", SERVING)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@pytest_asyncio.fixture(scope="session")
async def running_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Envoy and the stub, started once."""
    generate = (sys.executable, str(ROOT / "protos" / "generate.py"), "descriptors")
    await asyncio.to_thread(subprocess.run, generate, check=True)
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("envoy", "envoy_admin", "orchestrator")}
    stub, status = StubOrchestrator(), health.aio.HealthServicer()
    async with (
        running_stub(stub, status, addresses["orchestrator"]),
        running_envoy(tmp_path_factory.mktemp("edge"), addresses),
        grpc.aio.insecure_channel(addresses["envoy"]) as channel,
        httpx.AsyncClient(base_url=f"http://{addresses['envoy']}", trust_env=False, timeout=10) as http,
    ):
        orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        edge = Edge(stub, status, channel, http, orchestrator)
        async with asyncio.timeout(20):
            while True:
                try:
                    await http.get("/")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        await edge.wait_until_used()
        yield edge


@pytest_asyncio.fixture
async def edge(running_edge: Edge) -> Edge:
    """Envoy and the stub, which remembers nothing."""
    running_edge.stub.forget()
    return running_edge

"""The real Envoy in front of a stub orchestrator, as different installations configure it."""

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.dev.engines import envoy
from services.kit.topology import SERVICES
from tests.integration.edge.stub import StubOrchestrator
from tests.support.ports import free_address

ROOT = Path(__file__).resolve().parents[3]
SERVING = health_pb2.HealthCheckResponse.SERVING
ORCHESTRATOR = SERVICES["orchestrator"].proto_service
"""What Envoy asks after."""
FLUSHED_S = 0.1
"""How long a line of the access log waits here."""

Change = Callable[[Any], None]
"""Changes a configuration in place: what a control run does to take a guard away."""


@dataclass
class Edge:
    """Envoy, what is behind it, and clients of it."""

    stub: StubOrchestrator
    health: health.aio.HealthServicer
    channel: grpc.aio.Channel
    http: httpx.AsyncClient
    orchestrator: Any
    """A generated stub that speaks gRPC to Envoy."""

    address: str
    admin: str
    work: Path
    """Where its configuration, its log and its access log are."""

    headers: Mapping[str, str]
    """What a good request carries."""

    pid: int
    """Of Envoy's process."""

    async def wait_until_used(self, status: int = 200) -> None:
        """Returns when Envoy knows that the stub is ready: a good request is answered with `status`."""
        async with asyncio.timeout(20):
            while await self._answer() != status:  # noqa: ASYNC110 - in Envoy
                await asyncio.sleep(0.05)

    async def _answer(self) -> int:
        try:
            return (await self.http.get("/v1/runs/ready.1", headers=dict(self.headers))).status_code
        except httpx.TransportError:
            return 0

    async def logged(self, request_id: str) -> dict[str, Any]:
        """The line of a request in the access log."""
        async with asyncio.timeout(5):
            while True:
                for line in (self.work / "access.log").read_text().splitlines():
                    if request_id in line:
                        return dict(json.loads(line))
                await asyncio.sleep(0.02)


async def make_descriptors() -> None:
    """Makes the file that the transcoder reads."""
    generate = (sys.executable, str(ROOT / "protos" / "generate.py"), "descriptors")
    await asyncio.to_thread(subprocess.run, generate, check=True)


@dataclass(frozen=True)
class Backend:
    """The stub orchestrator, served."""

    stub: StubOrchestrator
    health: health.aio.HealthServicer
    address: str


@asynccontextmanager
async def running_stub(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Backend]:
    """The stub orchestrator, with its health service."""
    backend = Backend(StubOrchestrator(), health.aio.HealthServicer(), free_address())
    server = grpc.aio.server(options=[("grpc.max_metadata_size", 1_048_576)])  # what Envoy lets pass, arrives
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(backend.stub, server)
    health_pb2_grpc.add_HealthServicer_to_server(backend.health, server)
    await backend.health.set(ORCHESTRATOR, SERVING)
    if credentials:
        server.add_secure_port(backend.address, credentials)
    else:
        server.add_insecure_port(backend.address)
    await server.start()
    try:
        yield backend
    finally:
        await server.stop(0)


@asynccontextmanager
async def running_edge(
    work: Path,
    backend: Backend,
    fields: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    authority: Path | None = None,
    change: Change | None = None,
    status: int = 200,
    beside: Sequence[str] = (),
) -> AsyncIterator[Edge]:
    """Envoy in front of `backend`, once it answers.

    Args:
        work: Where its files are.
        backend: What is behind it.
        fields: What its `Edge` has beside addresses.
        headers: What a good request carries.
        authority: File of the authority that signed its certificate. None: its port speaks plain text.
        change: Taken to its configuration before it starts.
        status: What a good request is answered with.
        beside: Addresses of further replicas.
    """
    address, admin = free_address(), free_address()
    clusters = {"orchestrator": (backend.address, *beside)}
    local = envoy.local(address, admin, clusters)
    path = await asyncio.to_thread(envoy.render, {**local, "access_log": str(work / "access.log"), **fields}, work)
    if change is not None:
        document = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        change(document)
        path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
    scheme = "https" if authority else "http"
    url = f"{scheme}://{address}"
    verify = ssl.create_default_context(cafile=authority) if authority else False
    async with (
        _process(path, work / "envoy.log") as pid,
        _channel(address, authority) as channel,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=10, verify=verify) as http,
    ):
        orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        sent = headers or {}
        edge = Edge(backend.stub, backend.health, channel, http, orchestrator, address, admin, work, sent, pid)
        await edge.wait_until_used(status)
        backend.stub.forget()
        yield edge


@asynccontextmanager
async def _process(configuration: Path, log: Path) -> AsyncIterator[int]:
    """Its id."""
    *argv, _ = envoy.launch(configuration).argv
    with log.open("w") as output:
        flush = str(round(FLUSHED_S * 1000))
        process = await asyncio.create_subprocess_exec(*argv, flush, stdout=output, stderr=output)
    try:
        yield process.pid
        assert process.returncode is None, await asyncio.to_thread(log.read_text)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _channel(address: str, authority: Path | None) -> grpc.aio.Channel:
    if authority is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes()))


def manager(document: Any) -> Any:
    """The connection manager in a configuration."""
    listener, *_ = document["static_resources"]["listeners"]
    ((chain,),) = [each["filters"] for each in listener["filter_chains"]]
    return chain["typed_config"]


def http_filter(document: Any, name: str) -> Any:
    """A filter's settings in a configuration."""
    (found,) = [each for each in manager(document)["http_filters"] if each["name"] == f"envoy.filters.http.{name}"]
    return found["typed_config"]

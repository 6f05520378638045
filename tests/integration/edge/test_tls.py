"""TLS towards clients and towards the services; and spans to a collector, which the same Envoy sends."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.dev.certificates import make_certificates
from tests.integration.edge.envoys import Edge, running_edge, running_stub
from tests.integration.edge.raw import get, http1
from tests.support.ports import free_address

HOLDERS = {"envoy": ["envoy"], "orchestrator": ["orchestrator"], "memory": ["memory"]}


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans it is sent."""

    spans: list[Any] = field(default_factory=list)

    def of(self, span_id: str) -> list[Any]:
        return [span for span in self.spans if span.span_id.hex() == span_id]

    async def Export(self, request: Any, context: object) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@dataclass
class Secured:
    edge: Edge
    keys: Path
    collector: Collector

    async def version(self, least: ssl.TLSVersion, most: ssl.TLSVersion) -> str | None:
        """Shakes hands between these versions."""
        context = ssl.create_default_context(cafile=self.keys / "ca.pem")
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = least, most
        return (await self._shaken(context)).version()

    async def serial(self) -> str:
        """Of the certificate that is shown."""
        context = ssl.create_default_context(cafile=self.keys / "ca.pem")
        return str((await self._shaken(context)).getpeercert()["serialNumber"])  # type: ignore[index]

    async def _shaken(self, context: ssl.SSLContext) -> ssl.SSLObject:
        host, port = self.edge.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.close()
        return found


def server_credentials(keys: Path, holder: str) -> grpc.ServerCredentials:
    pair = ((keys / f"{holder}.key").read_bytes(), (keys / f"{holder}.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (keys / "ca.pem").read_bytes(), require_client_auth=True)


def fields(keys: Path) -> dict[str, Any]:
    shown = {"certificate": str(keys / "envoy.pem"), "key": str(keys / "envoy.key")}
    return {"tls": shown, "upstream_tls": {**shown, "ca": str(keys / "ca.pem")}}


@pytest_asyncio.fixture(scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    """Envoy and a stub that both speak only TLS, and a collector."""
    work = tmp_path_factory.mktemp("secured")
    keys, collector, address = work / "keys", Collector(), free_address()
    await asyncio.to_thread(make_certificates, keys, HOLDERS)
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(address)
    await server.start()
    async with (
        running_stub(server_credentials(keys, "orchestrator")) as backend,
        running_edge(work, backend, {**fields(keys), "collector": address}, authority=keys / "ca.pem") as edge,
    ):
        yield Secured(edge, keys, collector)
    await server.stop(0)


async def test_json_and_grpc_are_answered_over_tls_all_the_way(secured: Secured) -> None:
    assert (await secured.edge.http.get("/v1/runs/s.1")).status_code == 200
    await secured.edge.orchestrator.GetRun(run_pb2.GetRunRequest(run_id="s.1"), timeout=5)


async def test_plain_text_is_not_answered(secured: Secured) -> None:
    secured.edge.stub.forget()
    answer = await http1(secured.edge.address, get("/v1/runs/s.1"))
    assert b"HTTP" not in answer
    async with grpc.aio.insecure_channel(secured.edge.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await orchestrator_pb2_grpc.OrchestratorServiceStub(channel).GetRun(run_pb2.GetRunRequest(), timeout=2)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert secured.edge.stub.seen == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_new_versions_of_tls_are_spoken(secured: Secured, version: ssl.TLSVersion) -> None:
    assert await secured.version(version, version) == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(secured: Secured, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionResetError)) as refused:
        await secured.version(version, version)
    assert "alert" in str(refused.value).lower()  # Envoy said no; it was not our side that could not


async def test_a_client_that_knows_another_authority_ends_the_handshake(secured: Secured, tmp_path: Path) -> None:
    await asyncio.to_thread(make_certificates, tmp_path, {})
    other = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
    async with grpc.aio.secure_channel(secured.edge.address, other) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await orchestrator_pb2_grpc.OrchestratorServiceStub(channel).GetRun(run_pb2.GetRunRequest(), timeout=2)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_replaced_certificate_is_shown_without_a_restart_and_no_call_fails(secured: Secured) -> None:
    before = await secured.serial()
    for stale in ("envoy.pem", "envoy.key"):
        (secured.keys / stale).unlink()
    await asyncio.to_thread(make_certificates, secured.keys, HOLDERS)
    async with asyncio.timeout(20):
        while await secured.serial() == before:
            assert (await secured.edge.http.get("/v1/runs/s.1")).status_code == 200
            await asyncio.sleep(0.05)
    assert (await secured.edge.http.get("/v1/runs/s.1")).status_code == 200


async def test_a_service_with_anothers_certificate_is_not_called(secured: Secured, tmp_path: Path) -> None:
    async with (
        running_stub(server_credentials(secured.keys, "memory")) as impostor,
        running_edge(tmp_path, impostor, fields(secured.keys), authority=secured.keys / "ca.pem", status=503) as edge,
    ):
        reply = await edge.http.get("/v1/runs/s.1")
        assert (reply.status_code, reply.json()["details"][0]["reason"]) == (503, "SERVICE_UNAVAILABLE")
        assert impostor.stub.seen == []


async def test_a_recorded_trace_has_envoys_span_between_the_callers_and_the_services(secured: Secured) -> None:
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    for _ in range(6):  # Envoy sends spans in fives
        await secured.edge.http.get(
            "/v1/runs/s.1?run_id=in-the-query", headers={"traceparent": f"00-{trace}-{caller}-01"}
        )
    service_side = str(secured.edge.stub.seen[-1].metadata["traceparent"]).split("-")[2]
    async with asyncio.timeout(20):
        while not (found := secured.collector.of(service_side)):  # noqa: ASYNC110 - in Envoy
            await asyncio.sleep(0.05)
    assert (found[0].trace_id.hex(), found[0].parent_span_id.hex()) == (trace, caller)
    assert "in-the-query" not in str(found[0].attributes)

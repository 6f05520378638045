"""gRPC through Envoy."""

import asyncio
import time

import grpc
import pytest

from myriad.orchestrator.v1 import run_pb2, sessions_pb2
from services.kit import errors, status
from tests.integration.edge.envoys import Edge

ORCHESTRATOR = "/myriad.orchestrator.v1.OrchestratorService"


@pytest.mark.parametrize(
    "path",
    [
        "/myriad.memory.v1.MemoryService/PutAgent",
        "/myriad.nlu.v1.NluService/Analyze",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        f"{ORCHESTRATOR}/Nonexistent",
        f"{ORCHESTRATOR}/GetRun/",
        "/v1/sessions",
    ],
)
async def test_what_is_not_public_has_no_route(edge: Edge, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await edge.channel.unary_unary(path, request_serializer=bytes)(b"", timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert isinstance(status.from_rpc_error(raised.value, "edge"), errors.Unimplemented)
    assert edge.stub.seen == []


async def test_a_request_over_the_limit_is_resource_exhausted(edge: Edge) -> None:
    request = sessions_pb2.CreateSessionRequest(agent="a" * 256 * 1024)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await edge.orchestrator.CreateSession(request, timeout=5)
    assert isinstance(status.from_rpc_error(raised.value, "edge"), errors.ResourceExhausted)
    assert "262144 bytes" in (raised.value.details() or "")
    assert edge.stub.seen == []


async def test_a_request_under_the_limit_passes(edge: Edge) -> None:
    agent = "a" * 255 * 1024
    response = await edge.orchestrator.CreateSession(sessions_pb2.CreateSessionRequest(agent=agent), timeout=5)
    assert response.session.agent == agent


async def test_an_error_keeps_its_class_and_its_facts(edge: Edge) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await edge.orchestrator.CreateSession(sessions_pb2.CreateSessionRequest(agent="absent"), timeout=5)
    error = status.from_rpc_error(raised.value, "orchestrator")
    assert isinstance(error, errors.AgentNotFound)
    assert error.metadata == {"agent": "absent"}


async def test_an_error_before_the_first_event_keeps_its_class(edge: Edge) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in edge.orchestrator.RunTurn(run_pb2.RunTurnRequest(session_id="s", input="busy"), timeout=5):
            pytest.fail("an event came")
    assert isinstance(status.from_rpc_error(raised.value, "orchestrator"), errors.SessionBusy)


async def test_a_stream_arrives_event_by_event(edge: Edge) -> None:
    call = edge.orchestrator.RunTurn(run_pb2.RunTurnRequest(session_id="s", input="hello"), timeout=10)
    async with asyncio.timeout(5):
        first = await call.read()
        edge.stub.proceed.set()
        second = await call.read()
        assert await call.read() is grpc.aio.EOF
    assert [first.text_delta.text, second.completed.answer] == ["one", "one"]


@pytest.mark.alone
async def test_cancelling_a_stream_cancels_the_handler_within_half_a_second(edge: Edge) -> None:
    call = edge.orchestrator.RunTurn(run_pb2.RunTurnRequest(session_id="s", input="hello"), timeout=10)
    await call.read()
    call.cancel()
    async with asyncio.timeout(0.5):
        await edge.stub.cancelled.wait()


async def test_the_callers_deadline_reaches_the_service(edge: Edge) -> None:
    await edge.orchestrator.GetRun(run_pb2.GetRunRequest(run_id="s.1"), timeout=7)
    assert 6 < (edge.stub.seen[-1].seconds_left or 0) < 7.1  # gRPC rounds up when it writes the header


@pytest.mark.parametrize("timeout", [9999, None])
async def test_a_deadline_beyond_the_budget_or_none_at_all_becomes_the_budget(
    edge: Edge, timeout: float | None
) -> None:
    await edge.orchestrator.GetRun(run_pb2.GetRunRequest(run_id="s.1"), timeout=timeout)
    assert 29 < (edge.stub.seen[-1].seconds_left or 0) <= 30


async def test_a_stream_without_a_deadline_gets_one(edge: Edge) -> None:
    async for _ in edge.orchestrator.WatchRun(run_pb2.WatchRunRequest(run_id="s.1")):
        pass
    assert 899 < (edge.stub.seen[-1].seconds_left or 0) <= 900


async def test_a_call_ends_at_its_deadline(edge: Edge) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await edge.orchestrator.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id="s"), timeout=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5


async def test_identity_passes_and_the_request_id_is_envoys_own(edge: Edge) -> None:
    sent = (("x-myriad-tenant", "acme"), ("x-myriad-user", "ann"), ("x-request-id", "me"))
    await edge.orchestrator.GetRun(run_pb2.GetRunRequest(run_id="s.1"), timeout=5, metadata=sent)
    seen = edge.stub.seen[-1].metadata
    assert (seen["x-myriad-tenant"], seen["x-myriad-user"]) == ("acme", "ann")
    assert seen["x-request-id"] != "me"

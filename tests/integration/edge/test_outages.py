"""What callers of Envoy see while the service behind it is not ready."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from myriad.orchestrator.v1 import run_pb2
from services.kit import errors, status
from tests.integration.edge.broken import running_broken
from tests.integration.edge.envoys import ORCHESTRATOR, SERVING, Backend, Change, Edge, running_edge


async def test_a_service_that_is_not_ready_is_unavailable_and_used_again_once_it_is(edge: Edge) -> None:
    await edge.health.set(ORCHESTRATOR, health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        async with asyncio.timeout(20):
            while (reply := await edge.http.get("/v1/runs/s.1")).status_code == 200:  # noqa: ASYNC110 - in Envoy
                await asyncio.sleep(0.05)
        assert reply.status_code == 503
        info, retry = reply.json()["details"]
        assert (info["reason"], retry["retry_delay"]) == ("SERVICE_UNAVAILABLE", "1s")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await edge.orchestrator.GetRun(run_pb2.GetRunRequest(run_id="s.1"), timeout=5)
        error = status.from_rpc_error(raised.value, "orchestrator")
        assert isinstance(error, errors.ServiceUnavailable)
        assert error.retry_after == 1
        assert "127.0.0.1" not in reply.text + str(raised.value.details())
    finally:
        await edge.health.set(ORCHESTRATOR, SERVING)
    await edge.wait_until_used()


async def test_a_process_whose_other_services_lack_something_is_used(edge: Edge) -> None:
    """As when all run in one process and one of them lost its store: the turn goes on without it."""
    await edge.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        await asyncio.sleep(2)  # two checks, and half a second
        assert (await edge.http.get("/v1/runs/s.1")).status_code == 200
    finally:
        await edge.health.set("", SERVING)


async def test_calls_over_a_services_share_are_refused_at_once(backend: Backend, tmp_path: Path) -> None:
    def for_one_call(document: Any) -> None:
        (breaker,) = document["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"]
        breaker["max_requests"] = 1

    async with running_edge(tmp_path, backend, {}, change=for_one_call) as edge:
        run = edge.orchestrator.RunTurn(run_pb2.RunTurnRequest(session_id="s", input="hello"), timeout=5)
        await run.read()
        reply = await edge.http.get("/v1/runs/s.1")
        info, retry = reply.json()["details"]
        assert (reply.status_code, info["reason"], retry["retry_delay"]) == (503, "SERVICE_UNAVAILABLE", "1s")
        assert [seen.method for seen in edge.stub.seen] == ["RunTurn"]
        run.cancel()
        await edge.wait_until_used()


async def test_an_unavailable_of_the_service_itself_keeps_its_reason_however_often(edge: Edge) -> None:
    for _ in range(20):
        reply = await edge.http.post("/v1/sessions", json={"agent": "unavailable"})
        assert (reply.status_code, reply.json()["details"][0]["reason"]) == (503, "STORE_UNAVAILABLE")
    assert (await edge.http.get("/v1/runs/s.1")).status_code == 200


async def broken_off(backend: Backend, work: Path, change: Change | None = None) -> int:
    """How many of 100 calls to a good replica and another that one breaks off, once Envoy had the time to notice."""
    async with (
        running_broken() as broken,
        running_edge(work, backend, {}, beside=[broken.address], change=change) as edge,
    ):
        loop, whole = asyncio.get_running_loop(), 0
        known = loop.time() + (5 if change else 30)  # it looks at its counts every two seconds
        while loop.time() < known and whole < 50:
            before = broken.calls
            await edge.http.get("/v1/runs/s.1")
            whole = whole + 1 if broken.calls == before > 5 else 0
            await asyncio.sleep(0.01)
        before = broken.calls
        assert before > 5
        for _ in range(100):
            await edge.http.get("/v1/runs/s.1")
        return broken.calls - before


@pytest_asyncio.fixture(scope="module")
async def breaks(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """The same of an Envoy that counts what is broken off, and of one that does not; both at once, as both wait."""

    def without(document: Any) -> None:
        del document["static_resources"]["clusters"][0]["outlier_detection"]

    counts, does_not = tmp_path_factory.mktemp("counts"), tmp_path_factory.mktemp("does-not")
    return await asyncio.gather(broken_off(backend, counts), broken_off(backend, does_not, without))


async def test_a_replica_that_is_well_and_breaks_calls_off_is_left_alone(breaks: tuple[int, int]) -> None:
    assert breaks[0] == 0


async def test_control_a_replica_that_breaks_calls_off_is_used_by_who_does_not_count(breaks: tuple[int, int]) -> None:
    assert breaks[1] > 20

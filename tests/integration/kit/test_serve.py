"""A service's process: ready when its checks pass, drained when told to stop, and a clear word when it cannot start."""

import asyncio
import signal
import time
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from tests.support.probing import probed
from tests.support.process import NO_STORE, appeared, running

SERVICE = "myriad.orchestrator.v1.OrchestratorService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
RUN = run_pb2.GetRunRequest(run_id="s.1")
DRAIN_S = 1.0
LONG_DRAIN_S = 15.0
NOTICE_S = 1.4
START_S = 20
"""A busy machine starts a process slowly, and ends it slowly, too."""


@asynccontextmanager
async def scripted(work, **variables):
    """The scripted service's process and a channel to it, once it listens."""
    async with running("tests.support.process", work, {"MYRIAD_DRAIN_S": str(DRAIN_S), **variables}) as process:
        async with grpc.aio.insecure_channel(process.address) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_S)
            yield process, channel


async def status(channel, service):
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return reply.status


@asynccontextmanager
async def watched(channel, service=""):
    """What the health service says of `service`, each time it changes: a function that waits for the next."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))

    async def following():
        return (await asyncio.wait_for(watch.read(), 10)).status

    yield following
    watch.cancel()


def get_run(channel):
    return orchestrator_pb2_grpc.OrchestratorServiceStub(channel).GetRun(RUN, timeout=20)


async def test_health_is_what_the_checks_say_and_liveness_is_always_serving(tmp_path):
    async with scripted(tmp_path) as (process, channel), watched(channel) as overall, watched(channel, SERVICE) as own:

        async def seen():
            health = await overall(), await own(), await status(channel, "liveness")
            return *health, *[await probed(process.probes, path) for path in ("readyz", "livez")]

        assert await seen() == (NOT_SERVING, NOT_SERVING, SERVING, 503, 200)
        (tmp_path / "ready").touch()
        assert await seen() == (SERVING, SERVING, SERVING, 200, 200)
        (tmp_path / "ready").unlink()
        assert await seen() == (NOT_SERVING, NOT_SERVING, SERVING, 503, 200)


async def test_reflection_lists_the_services_metrics_count_the_calls_and_garbage_is_looked_for(tmp_path):
    (tmp_path / "answer").touch()
    async with scripted(tmp_path) as (process, channel), httpx.AsyncClient(trust_env=False) as http:
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = [each async for each in stub.ServerReflectionInfo(iter([question]), timeout=10)]
        names = {service.name for service in answer.list_services_response.service}
        assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        await get_run(channel)
        metrics = (await http.get(process.metrics_url)).text
    assert f'myriad_rpc_seconds_count{{method="/{SERVICE}/GetRun"}} 1.0' in metrics.splitlines()
    assert (tmp_path / "called").read_text() == "collects"


async def test_told_to_stop_it_is_not_serving_at_once_and_ends_when_its_calls_have(tmp_path):
    (tmp_path / "ready").touch()
    async with scripted(tmp_path, MYRIAD_DRAIN_S=str(LONG_DRAIN_S)) as (process, channel):
        async with watched(channel) as overall:
            while await overall() != SERVING:
                pass
            call = get_run(channel)
            await appeared(tmp_path / "called")
            told = time.monotonic()
            process.process.send_signal(signal.SIGTERM)
            assert await overall() == NOT_SERVING
            await appeared(tmp_path / "drained")
            assert time.monotonic() - told < LONG_DRAIN_S / 2
        async with grpc.aio.insecure_channel(process.address) as another:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await get_run(another)
        assert refused.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert not call.done()
        (tmp_path / "answer").touch()
        assert (await call).run.run_id == "s.1"
        assert await process.ended(LONG_DRAIN_S - (time.monotonic() - told)) == 0
    assert (tmp_path / "closed").read_text().splitlines() == ["opened last", "opened first"]
    assert process.complaint == ""


async def test_with_a_notice_it_is_not_serving_at_once_and_takes_calls_until_that_is_known(tmp_path):
    (tmp_path / "ready").touch()
    (tmp_path / "answer").touch()
    async with scripted(tmp_path, MYRIAD_NOTICE_S=str(NOTICE_S)) as (process, channel):
        async with watched(channel) as overall:
            while await overall() != SERVING:
                pass
            told = time.monotonic()
            process.process.send_signal(signal.SIGTERM)
            assert await overall() == NOT_SERVING
        assert [await probed(process.probes, path) for path in ("readyz", "livez")] == [503, 200]
        while time.monotonic() - told < NOTICE_S / 2:
            assert (await get_run(channel)).run.run_id == "s.1"
            await asyncio.sleep(0.02)
        assert await process.ended(START_S) == 0
    assert time.monotonic() - told > NOTICE_S


async def test_a_call_that_does_not_end_is_cut_off_after_the_drain(tmp_path):
    async with scripted(tmp_path) as (process, channel):
        call = get_run(channel)
        await appeared(tmp_path / "called")
        told = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await call
        assert cut.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert DRAIN_S * 0.9 < time.monotonic() - told < DRAIN_S + 5
        assert await process.ended(START_S) == 0
    assert (tmp_path / "closed").read_text().splitlines() == ["opened last", "opened first"]


@pytest.fixture
async def taken():
    """A port that somebody listens on."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def refusal(work, module, variables):
    """What a process says that cannot start."""
    async with running(module, work, variables) as process:
        assert await process.ended(START_S) == 1
    assert "Traceback" not in process.output + process.complaint
    return process.complaint.splitlines()


@pytest.mark.parametrize(
    ("module", "name", "variable"),
    [
        ("tests.support.process", "orchestrator", "MYRIAD_PORT"),
        ("tests.support.process", "orchestrator", "MYRIAD_METRICS_PORT"),
        ("services.vertical", "vertical", "MYRIAD_PORT"),
    ],
)
async def test_a_port_that_is_taken_is_named(tmp_path, taken, module, name, variable):
    stores = NO_STORE if module == "services.vertical" else {}
    lines = await refusal(tmp_path, module, {variable: str(taken), **stores})
    assert lines[-1] == f"{name} cannot start: cannot listen on 127.0.0.1:{taken}"  # gRPC writes a line before it


@pytest.mark.parametrize(
    ("module", "variables", "words"),
    [
        ("services.memory", {"MYRIAD_MEMORY_TYPO": "1"}, "memory cannot start: MYRIAD_MEMORY_TYPO: no such setting"),
        ("services.memory", {"MYRIAD_PORT": "many"}, "memory cannot start: MYRIAD_PORT: must be int, is 'many'"),
        (
            "services.memory",
            {"MYRIAD_AUTH": "mesh"},
            "memory cannot start: MYRIAD_AUTH=mesh needs MYRIAD_MESH_TOKEN_FILE, a file that holds the mesh's token",
        ),
        (
            "services.memory",
            {"MYRIAD_AUTH": "none"},
            "memory cannot start: MYRIAD_AUTH must be mesh or insecure-dev, is 'none'",
        ),
        (
            "services.memory",
            {"MYRIAD_AUTH": "insecure-dev", "MYRIAD_LOG_LEVEL": "verbose"},
            "memory cannot start: MYRIAD_LOG_LEVEL must be debug, info, warning or error, is 'verbose'",
        ),
        (
            "tests.support.process",
            {"MYRIAD_ORCHESTRATOR_BROKEN": "1"},
            "orchestrator cannot start: the scripted service is broken",
        ),
    ],
)
async def test_what_cannot_start_says_why_in_one_line(tmp_path, module, variables, words):
    assert await refusal(tmp_path, module, variables) == [words]

"""What a service lets one connection have: streams at once, the size of a request, and time."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.kit import grpc_server, topology
from tests.support.ports import free_address

STREAMS = "grpc.max_concurrent_streams"
FEW = 20
"""Streams at once, where they are counted here: as many as in truth would cost seconds."""

MIB = 1_048_576
WAIT_S = 0.3
SOON_S = 10.0
ENVOY = Path(__file__).parents[3] / "envoy" / "envoy.yaml"


@asynccontextmanager
async def served(monkeypatch, **changes):
    """The health service on one of our servers, and a connection to it. An option that is None is left out."""
    options = {name: value for name, value in {**dict(grpc_server.OPTIONS), **changes}.items() if value is not None}
    monkeypatch.setattr(grpc_server, "OPTIONS", list(options.items()))
    server, status = grpc_server.grpc_server([])
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    address = free_address()
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield health_pb2_grpc.HealthStub(channel)
    finally:
        await server.stop(0)


def watch(health):
    """A stream that stays."""
    return health.Watch(health_pb2.HealthCheckRequest(), timeout=30)


async def comes_at_once(health, within_s: float) -> bool:
    """Whether one stream more than may be is served in time, beside the others. Else it is once another has ended."""
    calls = [watch(health) for _ in range(FEW)]
    await asyncio.gather(*(call.read() for call in calls))
    last = watch(health)
    first = asyncio.create_task(last.read())
    done, _ = await asyncio.wait({first}, timeout=within_s)
    calls[0].cancel()
    assert (await first).status == health_pb2.HealthCheckResponse.SERVING
    for call in (*calls, last):
        call.cancel()
    return bool(done)


async def test_a_stream_over_a_connections_limit_waits_until_another_ends(monkeypatch):
    async with served(monkeypatch, **{STREAMS: FEW}) as health:
        assert not await comes_at_once(health, WAIT_S)


async def test_control_without_the_limit_it_does_not_wait(monkeypatch):
    async with served(monkeypatch, **{STREAMS: None}) as health:
        assert await comes_at_once(health, SOON_S)


def test_envoy_sends_as_many_streams_over_a_connection_as_a_service_takes():
    clusters = yaml.safe_load(ENVOY.read_text())["static_resources"]["clusters"]
    (options,) = next(each for each in clusters if each["name"] == "orchestrator")[
        "typed_extension_protocol_options"
    ].values()
    assert (
        options["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"]
        == dict(grpc_server.OPTIONS)[STREAMS]
        == 1_000
    )


async def ended(health, seconds: float) -> bool:
    """Whether a stream is broken off within so many seconds."""
    call = watch(health)
    await call.read()
    done, _ = await asyncio.wait({asyncio.ensure_future(call.code())}, timeout=seconds)
    call.cancel()
    return bool(done)


async def test_a_stream_on_an_old_connection_has_the_grace_and_no_more(monkeypatch):
    old = {"grpc.max_connection_age_ms": 100}
    async with served(monkeypatch, **old) as health:
        assert not await ended(health, 1.0)
    async with served(monkeypatch, **old, **{"grpc.max_connection_age_grace_ms": 300}) as health:
        assert await ended(health, SOON_S)


def test_the_longest_stream_ends_within_the_grace():
    assert dict(grpc_server.OPTIONS)["grpc.max_connection_age_grace_ms"] > topology.STREAM_TIMEOUT_S * 1000


@pytest.mark.parametrize(
    ("size", "code"),
    [(15 * MIB, grpc.StatusCode.NOT_FOUND), (16 * MIB, grpc.StatusCode.RESOURCE_EXHAUSTED)],
)
async def test_a_request_may_have_sixteen_mebibytes(monkeypatch, size, code):
    async with served(monkeypatch) as health:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health.Check(health_pb2.HealthCheckRequest(service="x" * size), timeout=10)
    assert raised.value.code() is code

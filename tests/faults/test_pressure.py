"""A service without CPU, without file descriptors, or with more callers than it can serve still says how it is."""

import asyncio
import contextlib
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.faults.conftest import memory_alone
from tests.support.cgroup import descriptors, few_descriptors, frozen, starved
from tests.support.client import until
from tests.support.load import OK, flooded, percentile
from tests.support.metrics import metrics_at

HEALTHY_S = 0.1
TAKEN_FOR_DEAD_S = 1.0
"""Envoy and Kubernetes wait so long for a health check. On a machine that others use, no more can be asked."""

LIMIT = 8
"""Calls that the service lets in at once; of the flood, one in twenty."""

FLOOD = 160


@pytest.fixture(scope="module")
async def limited(tmp_path_factory):
    """Memory that lets few calls in."""
    async with memory_alone(tmp_path_factory.mktemp("limited"), MYRIAD_MAX_CALLS=str(LIMIT)) as alone:
        yield alone


@pytest.fixture
async def unlimited(tmp_path):
    """The control: memory that lets everyone in."""
    async with memory_alone(tmp_path, MYRIAD_MAX_CALLS="100000") as alone:
        yield alone


async def health_under(alone, share, seconds):
    """Seconds that each health check took while a flood came in, and the flood's codes."""
    session = await alone.create()
    taken = []
    with contextlib.ExitStack() as pressed:
        if share < 1:
            pressed.enter_context(starved(alone.pid, share))
        async with (
            flooded(alone.memory.address, session, FLOOD, seconds) as codes,
            grpc.aio.insecure_channel(alone.memory.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
            await asyncio.sleep(1)  # until the flood is there
            end = time.monotonic() + seconds - 1
            while time.monotonic() < end:
                began = time.perf_counter()
                reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
                taken.append(time.perf_counter() - began)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
                await asyncio.sleep(0.02)
    return taken, codes


@pytest.mark.parametrize("share", [1.0, 0.2], ids=["saturated", "starved"])
@pytest.mark.parametrize(
    ("seconds", "within"), [(2.5, TAKEN_FOR_DEAD_S), pytest.param(30.0, HEALTHY_S, marks=pytest.mark.chaos)]
)
async def test_a_flooded_service_sheds_and_goes_on_saying_that_it_is_well(limited, share, seconds, within):
    taken, codes = await health_under(limited, share, seconds)
    assert percentile(taken, 0.95) < within
    assert codes["RESOURCE_EXHAUSTED"] > 0
    assert codes[OK] > 0
    assert set(codes) == {OK, "RESOURCE_EXHAUSTED"}
    assert limited.memory.process.returncode is None
    assert limited.memory.complaint.count("Traceback") == 0


@pytest.mark.chaos
async def test_control_a_starved_service_that_lets_everyone_in_does_not(unlimited):
    taken, codes = await health_under(unlimited, 0.2, 2.5)
    assert codes["RESOURCE_EXHAUSTED"] == 0
    assert percentile(taken, 0.95) > HEALTHY_S


async def test_a_service_without_descriptors_serves_on_and_takes_new_callers_when_they_have_gone(alone):
    session = await alone.create()
    await asyncio.gather(*(alone.read(session) for _ in range(64)))
    at_rest = descriptors(alone.pid)
    host, _, port = alone.memory.address.partition(":")
    writers = []
    with few_descriptors(alone.pid, 256):
        for _ in range(400):
            _, writer = await asyncio.open_connection(host, int(port))
            writers.append(writer)
        await until(lambda: _holds(alone.pid, 255), 5)
        with pytest.raises(grpc.aio.AioRpcError):  # the control: there is no room for a stranger
            await stranger(alone, session, 0.5)
        await alone.read(session)  # who is inside is served
        for writer in writers:
            writer.close()
        began = time.monotonic()
        await until(lambda: _served(alone, session), 5)
        assert time.monotonic() - began < 2
    await until(lambda: _rests(alone.pid, at_rest), 5)
    assert alone.memory.process.returncode is None


async def stranger(alone, session, timeout):
    """A read over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(alone.memory.address, options=options) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        await call(health_pb2.HealthCheckRequest().SerializeToString(), timeout=timeout, wait_for_ready=True)


async def _served(alone, session):
    try:
        await stranger(alone, session, 1.0)
    except grpc.aio.AioRpcError:
        return False
    return True


async def _holds(pid, count):
    return descriptors(pid) >= count


async def _rests(pid, count):
    return descriptors(pid) <= count + 2


LAG = "myriad_loop_lag_seconds"


@pytest.mark.parametrize(("seconds", "share"), [(2.0, 0.99), pytest.param(60.0, 0.999, marks=pytest.mark.chaos)])
async def test_nothing_blocks_the_loop_of_a_service_under_load(alone, seconds, share):
    address = alone.memory.metrics_url.removeprefix("http://").partition("/")[0]
    session = await alone.create()
    before = await metrics_at(address)
    async with flooded(alone.memory.address, session, 32, seconds) as codes:
        pass
    assert set(codes) == {OK}
    assert (await metrics_at(address)).within(LAG, 0.05, before) >= share


async def test_control_a_loop_that_stood_still_is_seen(alone):
    address = alone.memory.metrics_url.removeprefix("http://").partition("/")[0]
    before = await metrics_at(address)
    for _ in range(3):
        with frozen(alone.pid):
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
    assert (await metrics_at(address)).within(LAG, 0.05, before) < 0.99

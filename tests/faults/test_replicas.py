"""One of two replicas dies, stands still, or is told to stop: the other serves, and what was begun can be read on."""

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack, ExitStack
from functools import partial

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.dev import processes
from tests.faults.rig import running_rig
from tests.support.cgroup import frozen
from tests.support.client import face, kinds, sim, until
from tests.support.load import OK, steady

long = pytest.mark.chaos
BALANCED = ("orchestrator", "memory")
"""Services with two replicas: Envoy chooses among the first's, a service among the other's."""

RESUMABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
"""What a stream that lost its server ends with; INTERNAL is what Envoy makes of a reset."""

EJECTED_S = 4.0
FREE_S = 5.0
"""A session whose run nobody works on is free again within this time."""

DRAIN_S = 3.0
MOMENT_S = 0.2
TALK = sim(text="on and ", forever=True, delay_ms=50)


class Stream:
    """A turn that talks on and on, as its client sees it."""

    def __init__(self, user, session):
        self.user, self.session = user, session
        self.events = []
        self.error = None
        self.task = asyncio.create_task(self._read())

    @property
    def run_id(self):
        return self.events[0].run_id

    async def _read(self):
        try:
            async for event in self.user.run(self.session, TALK):
                self.events.append(event)
        except grpc.aio.AioRpcError as error:
            self.error = error

    @property
    def speaks(self):
        return bool(self.events) and self.events[-1].WhichOneof("event") == "text_delta"


async def talking(user, count):
    """So many streams, all of which speak."""
    sessions = await asyncio.gather(*(user.session("player") for _ in range(count)))
    streams = [Stream(user, session) for session in sessions]

    async def all_speak():
        return all(stream.speaks for stream in streams)

    await until(all_speak, 30)
    return streams


async def log_so_far(stub, user, run_id, after=0):
    """What a replica shows of a run's log, whether or not someone works on it."""
    events = []
    request = pb.WatchRunRequest(run_id=run_id, after_sequence=after)
    try:
        async for event in stub.WatchRun(request, metadata=user.metadata, timeout=FREE_S):
            events.append(event)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    return events


def without_holes(events):
    """Whether the sequences are 1, 2, 3 and so on."""
    return [event.sequence for event in events] == list(range(1, len(events) + 1))


async def is_failed(stream):
    """Whether the run is said to have failed."""
    request = pb.GetRunRequest(run_id=stream.run_id)
    run = (await stream.user.stub.GetRun(request, metadata=stream.user.metadata)).run
    return run.state == pb.RUN_STATE_FAILED


async def is_free(stream):
    """Whether the session takes another turn."""
    try:
        return kinds(await stream.user.turn(stream.session, "hello"))[-1] == "completed"
    except grpc.aio.AioRpcError as error:
        assert error.code() in {grpc.StatusCode.ABORTED, *RESUMABLE}, error
        return False


@pytest.mark.parametrize("streams", [20, pytest.param(100, marks=long)])
async def test_streams_of_a_killed_replica_can_be_read_on_and_their_sessions_are_free(rig, user, streams):
    begun = await talking(user, streams)
    restarts = rig.part("orchestrator").restarts
    os.kill(rig.pid("orchestrator"), signal.SIGKILL)
    killed = time.monotonic()

    async def cut():
        return any(stream.task.done() for stream in begun)

    await until(cut, 2)
    await asyncio.sleep(0.5)
    lost = [stream for stream in begun if stream.task.done()]
    kept = [stream for stream in begun if not stream.task.done()]
    assert len(lost) >= streams // 4
    assert len(kept) >= streams // 4
    assert {stream.error.code() for stream in lost} <= RESUMABLE

    await asyncio.gather(*(until(partial(is_failed, stream), FREE_S) for stream in lost))
    await asyncio.gather(*(until(partial(is_free, stream), FREE_S) for stream in lost))
    assert time.monotonic() - killed < FREE_S
    await rig.ready_again("orchestrator", restarts)
    async with AsyncExitStack() as channels:
        stubs = []
        for name in rig.replicas("orchestrator"):
            channel = await channels.enter_async_context(grpc.aio.insecure_channel(rig.stack.address(name)))
            await asyncio.wait_for(channel.channel_ready(), 10)
            stubs.append(orchestrator_pb2_grpc.OrchestratorServiceStub(channel))
        for stub in stubs:
            logs = await asyncio.gather(*(log_so_far(stub, user, stream.run_id) for stream in lost))
            for stream, log in zip(lost, logs, strict=True):
                assert without_holes(log)
                assert log[: len(stream.events)] == stream.events
                cursor = len(stream.events) - 1
                assert await log_so_far(stub, user, stream.run_id, cursor) == log[cursor:]
    for stream in kept:
        assert not stream.task.done()
        assert without_holes(stream.events)
        stream.task.cancel()


async def unary(user):
    """One call that needs memory and the store."""
    await user.stub.ListSessions(pb.ListSessionsRequest(), metadata=user.metadata, timeout=5)


async def turn(user):
    """One turn."""
    events = await user.turn(await user.session("player"), "hello")
    assert kinds(events)[-1] == "completed", str(events[-1])


def mixed(user):
    """Calls with one reply, and every fourth time a turn."""

    async def call(number):
        await (turn(user) if number % 4 == 0 else unary(user))

    return call


@pytest.mark.parametrize(
    ("services", "rps", "seconds"),
    [(BALANCED, 20, 1), *(pytest.param((service,), 50, 10, marks=long) for service in BALANCED)],
)
async def test_a_killed_replica_is_hardly_noticed(rig, user, services, rps, seconds):
    await killed_and_hardly_noticed(rig, user, services, rps, seconds)


@long
@pytest.mark.timeout(600)
async def test_a_killed_replica_of_any_service_is_hardly_noticed(tmp_path):
    services = ("nlu", "retrieval", "toolexec", "memory", "orchestrator")
    async with running_rig(tmp_path, replicas=dict.fromkeys(services, 2)) as rig, face(rig.stack) as user:
        for service in services:
            await killed_and_hardly_noticed(rig, user, (service,), 50, 10)


async def killed_and_hardly_noticed(rig, user, services, rps, seconds):
    """Kills the first replica of each service under load; for each, at most one call of two hundred is lost."""
    restarts = {service: rig.part(service).restarts for service in services}
    async with steady(rps, mixed(user)) as load:
        await asyncio.sleep(1)
        killed = load.now
        for service in services:
            os.kill(rig.pid(service), signal.SIGKILL)
        await asyncio.gather(*(rig.ready_again(service, restarts[service]) for service in services))
        back = load.now
        await asyncio.sleep(max(2, seconds - (back - killed)))
    assert load.share_ok(0, killed - 0.5) == 1.0, load.failures()
    lost = load.codes(killed - 0.5)
    assert lost.total() - lost[OK] <= len(services) * max(1, lost.total() * 0.005), load.failures()
    assert load.share_ok(back + 0.5) == 1.0, load.failures()


@pytest.mark.parametrize(
    ("services", "rps"), [(BALANCED, 10), *(pytest.param((service,), 50, marks=long) for service in BALANCED)]
)
async def test_a_replica_that_stands_still_is_left_alone_within_four_seconds(rig, user, services, rps):
    async with steady(rps, lambda number: asyncio.wait_for(unary(user), 1.0)) as load:
        await asyncio.sleep(1.5)
        with ExitStack() as still:
            for service in services:
                still.enter_context(frozen(rig.pid(service)))
            stopped = load.now
            await asyncio.sleep(EJECTED_S + 1.5)
            went_on = load.now
        await asyncio.sleep(2)
    assert load.share_ok(0, stopped - 1) == 1.0, load.failures()
    assert load.share_ok(stopped + EJECTED_S, went_on) == 1.0, load.failures()
    assert load.codes()[OK] < load.codes().total(), "nobody noticed: the fault was none"
    assert load.share_ok(went_on + 1) == 1.0, load.failures()


@pytest.mark.parametrize(("streams", "rps"), [(30, 20), pytest.param(100, 50, marks=long)])
async def test_a_replica_told_to_stop_loses_no_call_and_leaves_in_time(rig, user, streams, rps):
    begun = await talking(user, streams)
    restarts, pid = rig.part("orchestrator").restarts, rig.pid("orchestrator")
    async with steady(rps, lambda number: unary(user)) as load:
        await asyncio.sleep(1)
        told = load.now
        os.kill(pid, signal.SIGTERM)
        await until(lambda: _gone(pid), DRAIN_S + 3)
        took = load.now - told
        await rig.ready_again("orchestrator", restarts)
    assert took < DRAIN_S + 1
    # grpc.aio cancels a call that arrives in the very moment in which it stops to listen.
    assert load.share_ok(0, told - MOMENT_S) == load.share_ok(told + MOMENT_S) == 1.0, load.failures()
    lost = load.codes()
    assert lost.total() - lost[OK] <= 1, load.failures()
    lost = [stream for stream in begun if stream.task.done()]
    assert len(lost) >= streams // 4
    for stream in lost:
        assert stream.error is None, stream.error
        log = await user.watched(stream.run_id)
        assert kinds(log)[-1] == "failed"
        assert without_holes(log)
        assert log == stream.events
    for stream in begun:
        stream.task.cancel()


async def _gone(pid):
    return processes.find(pid) is None

"""One of two replicas dies, stands still, or is told to stop: the other serves, and what was begun can be read on."""

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2, sessions_pb2
from services.dev import processes
from services.kit import topology
from tests.faults.rig import desk_turn, running_rig, whole
from tests.support.cgroup import frozen
from tests.support.client import face, kinds, sim
from tests.support.events import counted
from tests.support.load import OK, percentile, steady
from tests.support.metrics import metrics_at
from tests.support.waiting import until

long = pytest.mark.chaos
BALANCED = ("orchestrator", "memory")
"""Services with two replicas: Envoy chooses among the first's, a service among the other's."""

RESUMABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
"""What a stream that lost its server ends with; INTERNAL is what Envoy makes of a reset."""

EJECTED_S = 4.0
WINDOW_S = 10
"""In so many seconds around a kill one call of two hundred may be lost."""

CALLED_S = 2.0
"""After its start-up a replica that was killed is called again."""

LEFT_ALONE_S = 20.0 + 2.0
"""Envoy calls a replica that broke calls off no sooner, when it had done so shortly before; it looks every 2 s."""

WHOLE_S = 30.0
"""A run whose process died has its answer within this time: lease and owner are given up, the answer begins again."""

DRAIN_S = 3.0
WORDS = [f"word{number} " for number in range(100)]
SILENT = sim(deltas=["I am thinking ", "done"], delay_ms=30_000)
STOPPED_S = 0.5
TALK = sim(deltas=WORDS, delay_ms=50)


class Stream:
    """A turn, as a client sees it that goes on from its cursor whenever its stream breaks."""

    def __init__(self, user, session):
        self.user, self.session = user, session
        self.events = []
        self.errors = []
        self.had = []
        """What there was of the answer each time the stream broke."""

        self.task = asyncio.create_task(self._read())

    async def _read(self):
        stream = self.user.run(self.session, TALK)
        while True:
            try:
                async for event in stream:
                    if event.sequence:
                        self.events.append(event)
                return
            except grpc.aio.AioRpcError as error:
                assert error.code() in RESUMABLE, error
                self.errors.append(error)
                self.had.append(counted(self.events))
            await asyncio.sleep(0.2)
            request = run_pb2.WatchRunRequest(run_id=self.events[0].run_id, after_sequence=self.events[-1].sequence)
            stream = self.user.stub.WatchRun(request, metadata=self.user.metadata, timeout=WHOLE_S)

    @property
    def has_spoken(self):
        return "text_delta" in kinds(self.events)


async def talking(user, count):
    """So many streams, all of which have begun to speak."""
    sessions = await asyncio.gather(*(user.session("player") for _ in range(count)))
    streams = [Stream(user, session) for session in sessions]

    async def all_have_spoken():
        return all(stream.has_spoken for stream in streams)

    await until(all_have_spoken, 30)
    return streams


def without_holes(events):
    """Whether the sequences are 1, 2, 3 and so on."""
    return [event.sequence for event in events] == list(range(1, len(events) + 1))


async def are_whole(user, streams):
    """Each stream has the whole answer, in a log without holes, which is the same afterwards; its session is free."""
    await asyncio.wait_for(asyncio.gather(*(stream.task for stream in streams)), WHOLE_S)
    for stream in streams:
        assert kinds(stream.events)[-1] == "completed", stream.events[-1]
        assert without_holes(stream.events)
        assert stream.events[-1].completed.answer == counted(stream.events) == "".join(WORDS)
    logs = await asyncio.gather(*(user.watched(stream.events[0].run_id) for stream in streams))
    assert logs == [stream.events for stream in streams]
    turns = await asyncio.gather(*(user.turn(stream.session, "hello") for stream in streams))
    assert {kinds(events)[-1] for events in turns} == {"completed"}


@pytest.mark.parametrize("streams", [20, pytest.param(100, marks=long)])
async def test_runs_of_a_killed_replica_go_on_in_the_other_and_their_streams_with_them(rig, user, streams):
    begun = await talking(user, streams)
    restarts = rig.part("orchestrator").restarts
    os.kill(rig.pid("orchestrator"), signal.SIGKILL)
    await are_whole(user, begun)
    lost = [stream for stream in begun if stream.errors]
    assert streams // 4 <= len(lost) <= streams - streams // 4
    assert all(stream.had[0] != "".join(WORDS) for stream in lost)  # the control: who does not go on has a part
    await rig.ready_again("orchestrator", restarts)


async def says(call, word):
    """Reads a stream until it says so."""
    while word not in (event := await call.read()).text_delta.text:
        pass
    return event.run_id


@pytest.mark.parametrize("runs", [20, pytest.param(100, marks=long)])
async def test_a_replica_stops_what_the_other_works_on_though_the_model_is_silent(rig, user, runs):
    async with AsyncExitStack() as open_channels:
        works, other = [
            orchestrator_pb2_grpc.OrchestratorServiceStub(
                await open_channels.enter_async_context(grpc.aio.insecure_channel(rig.stack.address(name)))
            )
            for name in rig.replicas("orchestrator")
        ]
        sessions = await asyncio.gather(*(user.session("player") for _ in range(runs)))
        begun = [
            works.RunTurn(run_pb2.RunTurnRequest(session_id=session, input=SILENT), metadata=user.metadata, timeout=60)
            for session in sessions
        ]
        run_ids = await asyncio.gather(*(says(call, "thinking") for call in begun))

        async def cancelled(run_id, call):
            since = time.monotonic()
            await other.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), metadata=user.metadata, timeout=5)
            while (event := await call.read()) is not grpc.aio.EOF:
                last = event
            assert kinds([last]) == ["cancelled"]
            return time.monotonic() - since

        took = [await cancelled(run_id, call) for run_id, call in zip(run_ids, begun, strict=True)]
    assert percentile(took, 0.99) <= STOPPED_S, sorted(took)[-5:]


async def unary(user):
    """One call that needs memory and the store."""
    await user.stub.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=user.metadata, timeout=5)


async def turn(user):
    """One turn."""
    events = await user.turn(await user.session("player"), "hello")
    assert kinds(events)[-1] == "completed", str(events[-1])


async def whole_turn(user):
    """One turn in which every service does its share."""
    assert whole(await desk_turn(user))


def mixed(user, turn=turn):
    """Calls with one reply, and every fourth time a turn."""

    async def call(number):
        await (turn(user) if number % 4 == 0 else unary(user))

    return call


@pytest.mark.parametrize(
    ("services", "rps", "seconds"),
    [(BALANCED, 20, 1), *(pytest.param((service,), 50, WINDOW_S, marks=long) for service in BALANCED)],
)
async def test_a_killed_replica_is_hardly_noticed(rig, user, services, rps, seconds):
    await killed_and_hardly_noticed(rig, mixed(user), services, rps, seconds)


async def test_control_without_retries_a_killed_replica_costs_calls(rig, user, bare):
    restarts = rig.part("orchestrator").restarts

    async def call(_number):
        await bare.ListSessions(sessions_pb2.ListSessionsRequest(), metadata=user.metadata, timeout=5)

    async with steady(50, call) as load:
        await asyncio.sleep(0.5)
        os.kill(rig.pid("orchestrator"), signal.SIGKILL)
        await rig.ready_again("orchestrator", restarts)
    assert load.codes()["UNAVAILABLE"] >= 3, load.failures()


@long
@pytest.mark.timeout(600)
async def test_a_killed_replica_of_any_service_is_hardly_noticed(tmp_path):
    services = ("nlu", "retrieval", "toolexec", "memory", "orchestrator")
    async with running_rig(tmp_path, replicas=dict.fromkeys(services, 2)) as rig, face(rig.stack) as user:
        for service in services:
            await killed_and_hardly_noticed(rig, mixed(user, whole_turn), (service,), 50, WINDOW_S)


@long
@pytest.mark.timeout(900)
async def test_a_rollout_of_every_replica_loses_no_run_and_hardly_a_call(tmp_path):
    replicas = dict.fromkeys(topology.PROCESSES, 2)
    async with running_rig(tmp_path, replicas=replicas) as rig, face(rig.stack) as user:
        async with steady(20, mixed(user)) as load:
            for part in [part for service in replicas for part in rig.replicas(service)]:
                begun, queued = await talking(user, 5), [await enqueued(user) for _ in range(5)]
                restarts = rig.part(part).restarts
                os.kill(rig.pid(part), signal.SIGTERM)
                await rig.ready_again(part, restarts)
                await are_whole(user, begun)
                for run_id in queued:
                    assert counted(await user.watched(run_id)) == "".join(WORDS)
        calls = load.codes()
        assert calls.total() - calls[OK] <= calls.total() * 0.001, load.failures()
        await rig.settled()


async def enqueued(user):
    """A run that a worker does: its id."""
    session = await user.session("player")
    return (await user.ask("CreateRun", session_id=session, input=TALK)).run.run_id


async def killed_and_hardly_noticed(rig, call, services, rps, seconds):
    """Kills the first replica of each service under load: of two hundred calls, or of fewer, at most one is lost.

    In a whole window, each is seen to be called again.
    """
    restarts = {service: rig.part(service).restarts for service in services}
    pids = {service: rig.pid(service) for service in services}
    async with steady(rps, call) as load:
        await asyncio.sleep(1)
        killed = load.now
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        if seconds >= WINDOW_S:
            await asyncio.gather(*(called_again(rig, *each) for each in pids.items()))
        await asyncio.gather(*(rig.ready_again(service, restarts[service]) for service in services))
        back = load.now
        await asyncio.sleep(max(2, seconds - (back - killed)))
    assert load.share_ok(0, killed - 0.5) == 1.0, load.failures()
    calls = load.codes(killed - 0.5, killed + WINDOW_S)
    assert calls.total() - calls[OK] <= max(1, calls.total() * 0.005), load.failures()
    assert load.share_ok(back + 0.5) == 1.0, load.failures()


async def called_again(rig, service, pid):
    """Returns once a replica whose process was killed serves a call.

    Raises:
        AssertionError: it took too long, from the begin of its new process.
    """
    await until(lambda: rig.pid(service) not in {0, pid}, 60)
    took = await until(lambda: _has_served(rig, service), 60)
    left_alone = LEFT_ALONE_S if topology.SERVICES[service].public else 0.0
    assert took <= max(rig.part(service).ready_after_s, left_alone) + CALLED_S


async def _has_served(rig, service):
    """Whether the first replica of a service has served a call since its process began."""
    await asyncio.sleep(0.1)
    try:
        shown = await metrics_at(rig.stack.address(f"{service}_metrics"))
    except OSError:
        return False
    return shown.sum("myriad_rpc_seconds_count") > 0


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
    # What broke off calls before is left alone for a while.
    await until(lambda: _is_called(rig, lambda: unary(user)), 30)
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
    assert load.share_ok() == 1.0, load.failures()
    await are_whole(user, begun)
    assert sum(bool(stream.errors) for stream in begun) >= streams // 4


@asynccontextmanager
async def restarted_with(rig, part, **variables):
    """While the block runs a part has these variables too: it is killed for that at its begin, and at its end."""
    environment = rig.stack.supervisor.parts[part].launch.env
    before = dict(environment)
    try:
        environment.update(variables)
        await killed_and_back(rig, part)
        yield
    finally:
        environment.clear()
        environment.update(before)
        await killed_and_back(rig, part)


async def killed_and_back(rig, part):
    restarts = rig.part(part).restarts
    os.kill(rig.pid(part), signal.SIGKILL)
    await rig.ready_again(part, restarts)


@long
@pytest.mark.parametrize(("notice_s", "lost"), [(1, False), (0, True)], ids=["guarded", "control"])
async def test_a_replica_that_gives_notice_loses_no_call_though_none_is_tried_again(rig, user, bare, notice_s, lost):
    request = sessions_pb2.ListSessionsRequest()

    async def call(_number=0):
        await bare.ListSessions(request, metadata=user.metadata, timeout=5)

    async with restarted_with(rig, "orchestrator", MYRIAD_NOTICE_S=str(notice_s)):
        await until(lambda: _is_called(rig, call), 30)
        restarts = rig.part("orchestrator").restarts
        async with steady(100, call) as load:
            await asyncio.sleep(1)
            os.kill(rig.pid("orchestrator"), signal.SIGTERM)
            await rig.ready_again("orchestrator", restarts)
    assert (load.share_ok() < 1.0) is lost, load.failures()


async def _is_called(rig, call):
    """Whether the replica that is told to stop gets its share of the calls."""
    address = rig.stack.address("orchestrator_metrics")
    method = "/myriad.orchestrator.v1.OrchestratorService/ListSessions"

    async def count():
        return (await metrics_at(address)).sum("myriad_rpc_seconds_count", method=method)

    before = await count()
    for _ in range(8):
        await call()
    return (await count()) > before


async def _gone(pid):
    return processes.find(pid) is None

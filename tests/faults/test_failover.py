"""The store fails over: its primary is killed, or cut off with clients of its own. What was promised is kept.

A trio under Sentinels and a cluster of three primaries, each server on a machine of its own, which is a network
namespace. Writers write all the time: those whose writes wait for a replica, and as a control one whose do not.
"""

import asyncio
import time

import grpc
import pytest

from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2, sessions_pb2
from services.kit.app import Kit
from services.kit.call import Principal, work_as
from services.kit.clients import INPROC
from services.kit.errors import ServiceError, SessionNotFound
from services.kit.redis import Redis
from services.kit.telemetry import open_telemetry
from services.memory import app as memory
from services.memory import config as memory_config
from services.orchestrator import app as orchestrator
from services.orchestrator import config as orchestrator_config
from services.orchestrator.domain.agent import ToolCall
from services.orchestrator.domain.turn import Chunk
from tests.support.client import kinds
from tests.support.events import counted
from tests.support.fleets import LAG_S, NODE_TIMEOUT_MS, Cluster, Trio, running
from tests.support.netns import NoNamespace
from tests.support.network import machines
from tests.support.showing import not_shown
from tests.support.writers import SLOTS, Writer

AGAIN_S = 5.0
"""After a failure the majority's side can be written again within this time."""

BACK_S = 5.0
"""After the line is whole again, clients that were cut off write again within this time."""

WARM_S = 0.5
NOTICED_S = 2.0
"""A server looks each second whether it is cut off, and counts in whole seconds."""

chaos = pytest.mark.chaos


@pytest.fixture(scope="module")
def made():
    try:
        with machines(4) as found:
            yield found
    except NoNamespace as error:
        not_shown(f"failover is not shown: {error}")


@pytest.fixture(scope="module")
def running_trio(made, tmp_path_factory):
    with running(Trio(made, tmp_path_factory.mktemp("trio"))) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def running_cluster(made, tmp_path_factory):
    with running(Cluster(made, tmp_path_factory.mktemp("cluster"))) as fleet:
        yield fleet


@pytest.fixture
def trio(running_trio):
    """Whole at first."""
    running_trio.client.run(running_trio.whole)
    return running_trio


@pytest.fixture
def cluster(running_cluster):
    """Whole at first."""
    running_cluster.client.run(running_cluster.whole)
    return running_cluster


@pytest.fixture
def writing():
    """Begins to write: (fleet, machine, replicas, slots). All have stopped in the end."""
    writers = []

    def begin(fleet, machine, replicas, slots=range(SLOTS)):
        name = f"w{time.monotonic_ns()}-{len(writers)}"
        writers.append(Writer(fleet.url, name, replicas=replicas, slots=slots))
        return writers[-1].start(machine)

    yield begin
    for writer in writers:
        writer.stop()


def lost(fleet, writer):
    """How many acknowledged writes are gone."""

    async def count():
        redis = Redis(fleet.url)
        try:
            return await writer.lost(redis)
        finally:
            await redis.close()

    writer.stop()
    return fleet.client.run(count)


def written_again(writer, since, within):
    """Waits until all that was written before can be written again. How long that took since then."""
    while writer.gap(since) == float("inf") and time.monotonic() - since < within + 1:
        time.sleep(0.05)
    return writer.gap(since)


def cut_off_and_failed_over(fleet, machine, writing, refused_after_s):
    """Cuts a machine with a primary and clients off the others, and puts it back."""
    lost_to_them = fleet.slots_on(machine)
    majority, minority = writing(fleet, fleet.client, 1), writing(fleet, machine, 1, lost_to_them)
    control = writing(fleet, machine, 0, lost_to_them)
    time.sleep(WARM_S)
    machine.cut()
    cut = time.monotonic()
    try:
        assert written_again(majority, cut, AGAIN_S) <= AGAIN_S, majority.refused[-3:]
        time.sleep(max(0.0, cut + refused_after_s + WARM_S - time.monotonic()))
    finally:
        machine.heal()
    healed = time.monotonic()
    assert control.between(cut + 0.1, healed), "the control wrote nothing while it was cut off"
    assert control.between(cut + refused_after_s, healed) == [], "the old side still takes writes"
    assert minority.between(cut + 0.1, healed) == [], "what no replica had was acknowledged"
    assert written_again(minority, healed, BACK_S) <= BACK_S, minority.refused[-3:]
    assert (lost(fleet, majority), lost(fleet, minority)) == (0, 0)
    assert lost(fleet, control) > 0, "the control lost nothing: the fault was none"


def test_a_primary_that_lacks_our_functions_is_given_them(trio):
    async def flush_and_call():
        primary = await trio.primary()
        redis = Redis(trio.url, replicas=1)
        await redis.check()
        await primary.ask("FUNCTION FLUSH")
        with pytest.raises(SessionNotFound):
            await redis.call("session_get", ("myriad:{none}:session",), "user")
        await redis.close()

    trio.client.run(flush_and_call)


WORDS = tuple(f"word-{i} " for i in range(40))
"""An answer of four seconds: the primary is killed in its middle."""


class Served:
    """Memory and the orchestrator in this process, on a store that fails over; the model is a script."""

    def __init__(self, url, replicas):
        self.kit = Kit(open_telemetry("test", "", 0.0), None)
        self.settings = {"redis_url": url, "redis_replicas": replicas}

    async def __aenter__(self):
        memory_is = await memory.build(memory_config.Config(**self.settings), self.kit)
        there = {"memory_address": INPROC, "toolexec_address": INPROC}
        config = orchestrator_config.Config(**self.settings, **there)
        self.apps = [memory_is, await orchestrator.build(config, self.kit)]
        for app in self.apps:
            self.kit.registry(app)
        channels = [self.kit.network.client(name, INPROC).channel for name in ("memory", "orchestrator")]
        self.memory = memory_pb2_grpc.MemoryServiceStub(channels[0])
        self.stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channels[1])
        work_as(Principal("acme", "alice", frozenset({"admin"})), name="test", timeout=60)
        tool = {"name": "sign", "description": "Signs.", "side_effect": "SIDE_EFFECT_READ", "client": {}}
        agent = {"name": "aura", "persona": "You help.", "tools": [tool], "model": {"tool_choice": "TOOL_CHOICE_MODEL"}}
        await self.memory.PutAgent(memory_pb2.PutAgentRequest(agent=agent))
        return self

    async def __aexit__(self, *_error):
        for app in self.apps:
            for closer in reversed(app.closers):
                await closer()

    async def session(self):
        return (await self.stub.CreateSession(sessions_pb2.CreateSessionRequest(agent="aura"))).session.session_id

    async def turn(self, session_id, text):
        """All events of a turn, its stream taken up again whenever it is lost; what it asks for it is given."""
        request = run_pb2.RunTurnRequest(
            session_id=session_id, input=text, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE
        )
        events, stream = [], self.stub.RunTurn(request)
        while not events or kinds(events)[-1] not in {"completed", "failed", "cancelled"}:
            try:
                async for event in stream:
                    events += [event] if event.sequence else []
                if events and events[-1].HasField("approval_required"):
                    await self.stub.RespondToRun(answer_to(events[-1]))
            except (grpc.aio.AioRpcError, ServiceError) as error:
                if not events or error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
            seen = events[-1].sequence
            stream = self.stub.WatchRun(run_pb2.WatchRunRequest(run_id=events[0].run_id, after_sequence=seen))
        return events

    async def recovered(self, since):
        """Seconds since then until turns succeed again; a failure before that says when to try again."""
        while time.monotonic() - since < 2 * AGAIN_S:
            try:
                session = await self.session()
                async with asyncio.timeout(AGAIN_S):
                    assert kinds(await self.turn(session, "short"))[-1] == "completed"
            except (grpc.aio.AioRpcError, ServiceError):
                await asyncio.sleep(0.1)
            else:
                break
        return time.monotonic() - since


def answer_to(event):
    """What the client says that ran the tool."""
    token = event.approval_required.approval_token
    return run_pb2.RespondToRunRequest(run_id=event.run_id, approval_token=token, tool_result={"result_json": "{}"})


class SlowModel:
    """Answers in four seconds, or at once when `short` is asked. `ask`: it asks for a tool once the primary is gone."""

    async def chat(self, model, messages, tools, max_tokens, temperature):
        if messages[-1].content == "ask":
            await asyncio.sleep(WARM_S + 0.2)
            yield Chunk(tool_calls=(ToolCall("", "sign", "{}"),))
            return
        for word in WORDS if messages[-1].content == "long" else ("Done.",):
            yield Chunk(word)
            await asyncio.sleep(0.1 if messages[-1].content == "long" else 0.0)


@pytest.mark.parametrize("replicas", [1, pytest.param(0, marks=chaos)])
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=chaos)])
def test_runs_go_on_and_no_kept_write_is_lost_while_the_primary_dies(trio, writing, monkeypatch, times, replicas):
    monkeypatch.setattr(orchestrator, "TritonModel", lambda *_: SlowModel())

    async def scenario():
        async with Served(trio.url, replicas) as served:
            texts = ("long", "long", "long", "ask")
            running = [asyncio.create_task(served.turn(await served.session(), text)) for text in texts]
            await asyncio.sleep(WARM_S)
            primary = await trio.primary()
            await asyncio.to_thread(primary.kill)
            killed = time.monotonic()
            recovered = await served.recovered(killed)
            async with asyncio.timeout(20):
                whole = await asyncio.gather(*running)
            again = [
                [e async for e in served.stub.WatchRun(run_pb2.WatchRunRequest(run_id=w[0].run_id))] for w in whole
            ]
            return killed, recovered, whole, again

    for _ in range(times):
        trio.client.run(trio.whole)
        writer = writing(trio, trio.client, 1)
        killed, recovered, whole, again = trio.client.run(scenario)
        assert recovered <= AGAIN_S
        for events in whole:
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            assert kinds(events)[-1] == "completed", events[-1]
        assert [counted(events) for events in whole] == [*["".join(WORDS)] * 3, "Done."]
        assert kinds(whole[-1]).count("approval_required") == 1
        assert again == whole
        assert writer.gap(killed) <= AGAIN_S, writer.refused[-3:]
        assert len(writer.between(0, killed)) > 50
        assert lost(trio, writer) == 0


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=chaos)])
def test_a_primary_cut_off_from_its_sentinels_is_replaced_and_refuses(trio, writing, times):
    for _ in range(times):
        trio.client.run(trio.whole)
        machine = trio.client.run(trio.primary).machine
        cut_off_and_failed_over(trio, machine, writing, LAG_S + NOTICED_S)


@chaos
def test_killed_primaries_of_a_cluster_are_replaced_and_no_kept_write_is_lost(cluster, writing):
    for server in cluster.servers[:3] * 4:
        cluster.client.run(cluster.whole)
        writer = writing(cluster, cluster.client, 1)
        time.sleep(WARM_S)
        server.kill()
        killed = time.monotonic()
        assert written_again(writer, killed, AGAIN_S) <= AGAIN_S, writer.refused[-3:]
        assert lost(cluster, writer) == 0


@chaos
@pytest.mark.parametrize("times", [1, 10])
def test_a_primary_cut_off_from_its_cluster_is_replaced_and_refuses(cluster, writing, times):
    for number in range(times):
        cluster.client.run(cluster.whole)
        machine = cluster.servers[number % 3].machine
        cut_off_and_failed_over(cluster, machine, writing, NODE_TIMEOUT_MS / 1000 + 1.0)

"""One list of behaviours for the store side of turns: in memory, and Redis behind the memory service."""

import asyncio
import uuid
from dataclasses import dataclass, replace
from typing import Any

import pytest

from myriad.common.v1 import common_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from services.kit.app import Kit
from services.kit.call import Principal
from services.kit.clients import INPROC
from services.kit.errors import LeaseLost, RequestIdReused, RunNotFound, SessionBusy, SessionNotFound
from services.kit.redis import Redis
from services.kit.telemetry import open_telemetry
from services.memory import app as memory
from services.memory.config import Config as MemoryConfig
from services.orchestrator.adapters.inmemory import InMemoryTurns
from services.orchestrator.adapters.memory import MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.domain import Message, Role, ToolCall, Turn
from tests.support.orchestrator import act_as

SAID = [Message(Role.USER, "hello"), Message(Role.ASSISTANT, "hi")]


@dataclass
class Store:
    """Both ports over one store, and a session in it."""

    turns: Any
    log: Any
    owner: Principal
    session_id: str

    async def begin(self, request_id: str = "", digest: bytes = b"d") -> Turn:
        act_as(self.owner)
        return await self.turns.begin_turn(self.session_id, request_id, digest, 30.0)


@pytest.fixture(scope="session")
async def kit_on_valkey(valkey_url):
    kit = Kit(open_telemetry("test", "", 0.0), None)
    app = await memory.build(MemoryConfig(redis_url=valkey_url), kit)
    kit.registry(app)
    redis = Redis(valkey_url)
    yield kit, redis
    await redis.close()
    for closer in reversed(app.closers):
        await closer()


@pytest.fixture(params=["inmemory", "redis"])
async def store(request, kit_on_valkey):
    owner = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    if request.param == "inmemory":
        turns = InMemoryTurns()
        turns.add_session(owner, "s1", "aura")
        return Store(turns, turns, owner, "s1")
    kit, redis = kit_on_valkey
    client = kit.network.client("memory", INPROC)
    stub = memory_pb2_grpc.MemoryServiceStub(client.channel)
    act_as(owner)
    agent = common_pb2.Agent(name="aura", persona="You help.")
    await client.unary(stub.PutAgent, memory_pb2.PutAgentRequest(agent=agent), timeout=2)
    made = await client.unary(stub.CreateSession, memory_pb2.CreateSessionRequest(agent="aura"), timeout=2)
    return Store(MemoryTurns(client), RedisRunLog(redis, 60.0, 30.0), owner, made.session.session_id)


async def test_entries_are_read_as_they_were_appended(store):
    turn = await store.begin()
    assert not await store.log.append(store.owner, turn, 1, [b"one", b"two"])
    assert not await store.log.append(store.owner, turn, 3, [b"three"])
    page = await store.log.read(store.owner, turn.run_id, 0, 10)
    assert (page.entries, page.over, page.held) == ((b"one", b"two", b"three"), False, True)
    assert (await store.log.read(store.owner, turn.run_id, 1, 1)).entries == (b"two",)
    assert (await store.log.read(store.owner, turn.run_id, 9, 1)).entries == ()
    assert await store.log.bounds(store.owner, turn.run_id) == (b"one", b"three", True)


async def test_appending_again_changes_nothing(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    await store.log.append(store.owner, turn, 1, [b"one", b"two"])
    assert (await store.log.read(store.owner, turn.run_id, 0, 10)).entries == (b"one", b"two")
    with pytest.raises(LeaseLost):
        await store.log.append(store.owner, turn, 2, [b"other"])


async def test_a_commit_may_bring_entries_that_the_log_has_already(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one", b"two"])
    with pytest.raises(LeaseLost):
        await store.turns.commit_turn(turn, SAID, [b"other", b"end"], 2)
    await store.turns.commit_turn(turn, SAID, [b"two", b"three", b"end"], 2)
    page = await store.log.read(store.owner, turn.run_id, 0, 10)
    assert page.entries == (b"one", b"two", b"three", b"end")


async def test_a_commit_ends_the_log_keeps_the_messages_and_frees_the_session(store):
    turn = await store.begin()
    with pytest.raises(SessionBusy):
        await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    await store.turns.commit_turn(turn, SAID, [b"end"], 2)
    await store.turns.commit_turn(turn, SAID, [b"end"], 2)
    page = await store.log.read(store.owner, turn.run_id, 0, 10)
    assert (page.entries, page.over) == ((b"one", b"end"), True)
    following = await store.begin()
    assert [(m.role, m.content) for m in following.history] == [(m.role, m.content) for m in SAID]
    assert following.fencing_token > turn.fencing_token
    assert following.run_id == f"{store.session_id}.2"


async def test_an_abandoned_turn_leaves_a_log_and_no_messages(store):
    turn = await store.begin()
    await store.turns.abandon_turn(turn, [b"end"], 1)
    assert (await store.log.read(store.owner, turn.run_id, 0, 10)).entries == (b"end",)
    assert (await store.begin()).history == ()


async def test_an_ended_turn_can_write_nothing(store):
    turn = await store.begin()
    await store.turns.abandon_turn(turn, [b"end"], 1)
    with pytest.raises(LeaseLost):
        await store.log.append(store.owner, turn, 2, [b"more"])
    await store.begin()
    with pytest.raises(LeaseLost):
        await store.turns.commit_turn(turn, SAID, [b"another end"], 2)


async def test_a_session_is_free_again_after_its_lease_unless_it_is_held_on(store):
    act_as(store.owner)
    turn = await store.turns.begin_turn(store.session_id, "", b"", 0.1)
    await asyncio.sleep(0.15)
    await store.log.append(store.owner, turn, 1, [])
    with pytest.raises(SessionBusy):
        await store.begin()
    await store.turns.abandon_turn(turn, [b"end"], 1)
    await store.turns.begin_turn(store.session_id, "", b"", 0.1)
    await asyncio.sleep(0.15)
    assert (await store.begin()).run_id == f"{store.session_id}.3"


async def test_many_sessions_are_held_on_in_one_round_each_with_its_own_answer(store):
    act_as(store.owner)
    turn = await store.turns.begin_turn(store.session_id, "", b"", 0.1)
    gone = replace(turn, fencing_token=turn.fencing_token - 1)
    await asyncio.sleep(0.15)
    answers = await store.log.hold([(store.owner, turn), (store.owner, gone)])
    assert answers[0] is False
    assert isinstance(answers[1], LeaseLost)
    with pytest.raises(SessionBusy):
        await store.begin()
    await store.log.request_cancel(store.owner, turn.run_id)
    assert await store.log.hold([(store.owner, turn)]) == [True]


async def test_a_beginning_nobody_learned_of_begins_again(store):
    act_as(store.owner)
    lost = await store.turns.begin_turn(store.session_id, "r1", b"d", 0.1)
    assert (await store.begin("r1")).attached
    await asyncio.sleep(0.15)
    again = await store.begin("r1")
    assert (again.run_id, again.attached) == (lost.run_id, False)
    with pytest.raises(LeaseLost):
        await store.log.append(store.owner, lost, 1, [b"late"])
    await store.log.append(store.owner, again, 1, [b"one"])
    assert (await store.begin("r1")).attached


async def test_a_stop_is_told_with_the_next_append(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    await store.log.request_cancel(store.owner, turn.run_id)
    assert await store.log.append(store.owner, turn, 2, [b"two"])
    await store.turns.abandon_turn(turn, [b"end"], 3)
    await store.log.request_cancel(store.owner, turn.run_id)
    assert not await store.log.append(store.owner, await store.begin(), 1, [b"next"])


async def test_the_same_request_attaches_and_another_body_is_refused(store):
    turn = await store.begin("r1", b"body")
    again = await store.begin("r1", b"body")
    assert (again.run_id, again.attached) == (turn.run_id, True)
    with pytest.raises(RequestIdReused):
        await store.begin("r1", b"other")


async def test_a_stranger_finds_nothing(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    for stranger in (Principal(store.owner.tenant, "mallory"), Principal("evil", "alice")):
        act_as(stranger)
        with pytest.raises(SessionNotFound):
            await store.turns.begin_turn(store.session_id, "", b"", 1.0)
        with pytest.raises(SessionNotFound):
            await store.turns.agent_of(store.session_id)
        for attempt in (
            store.log.read(stranger, turn.run_id, 0, 10),
            store.log.bounds(stranger, turn.run_id),
            store.log.request_cancel(stranger, turn.run_id),
        ):
            with pytest.raises(RunNotFound):
                await attempt


async def test_a_run_that_never_was_is_not_found(store):
    with pytest.raises(RunNotFound):
        await store.log.read(store.owner, f"{store.session_id}.5", 0, 1)
    turn = await store.begin()
    with pytest.raises(RunNotFound):
        await store.log.bounds(store.owner, turn.run_id)


async def test_tool_calls_survive_the_history(store):
    turn = await store.begin()
    call = ToolCall("call_1_0", "order_status", '{"order_id": 1007}')
    messages = [
        Message(Role.USER, "where?"),
        Message(Role.ASSISTANT, "", (call,)),
        Message(Role.TOOL, "{}", tool_call_id="call_1_0"),
        Message(Role.ASSISTANT, "Here."),
    ]
    await store.turns.commit_turn(turn, messages, [b"end"], 1)
    assert list((await store.begin()).history) == messages

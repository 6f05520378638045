"""Orchestrator and memory over a real store, in one process: what may be repeated, forked, spoken of and watched."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from myriad.common.v1 import agent_pb2, common_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc, turn_pb2
from myriad.orchestrator.v1 import events_pb2, orchestrator_pb2_grpc, run_event_pb2, run_pb2, sessions_pb2
from services.kit.app import Kit
from services.kit.call import Principal
from services.kit.clients import INPROC
from services.kit.errors import (
    InvalidArgument,
    RequestIdReused,
    RoleRequired,
    RunNotFound,
    SessionNotFound,
)
from services.kit.interceptors.identity import metadata_of
from services.kit.status import from_rpc_error
from services.kit.telemetry import open_telemetry
from services.memory import app as memory_app
from services.memory.config import Config as MemoryConfig
from services.orchestrator import app as orchestrator_app
from services.orchestrator.config import Config
from tests.support.valkey import running_valkey

AGENT = agent_pb2.Agent(name="aura", persona="You help.", model=agent_pb2.ModelPolicy(model="none"))


class House:
    """Both services, and what a test asks of them as somebody."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(
            kit.network.client("orchestrator", INPROC).channel
        )
        self.memory = memory_pb2_grpc.MemoryServiceStub(kit.network.client("memory", INPROC).channel)

    async def ask(self, who: Principal, method, request):
        """The reply of an RPC, or the ServiceError it was refused with."""
        try:
            return await method(request, metadata=metadata_of(who, None), timeout=10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "test") from None

    async def run(self, who: Principal, session_id: str) -> str:
        """One run, which fails: there is no model. Its id."""
        request = run_pb2.RunTurnRequest(session_id=session_id, input="hello")
        call = self.orchestrator.RunTurn(request, metadata=metadata_of(who, None), timeout=10)
        events = [event async for event in call]
        assert events[-1].WhichOneof("event") == "failed"
        return events[-1].run_id

    async def say(self, who: Principal, session_id: str, text: str) -> str:
        """One run that memory keeps. Its id."""
        begin = turn_pb2.BeginTurnRequest(session_id=session_id)
        begin.lease.seconds = 60
        turn = await self.ask(who, self.memory.BeginTurn, begin)
        last = run_event_pb2.RunEvent(run_id=turn.run_id, sequence=1, completed=run_event_pb2.RunCompleted(answer=text))
        said = common_pb2.Message(role="ROLE_USER", content=text, run_id=turn.run_id)
        commit = turn_pb2.CommitTurnRequest(
            run_id=turn.run_id,
            fencing_token=turn.fencing_token,
            messages=[said],
            last_events=[last.SerializeToString()],
            first_sequence=1,
        )
        await self.ask(who, self.memory.CommitTurn, commit)
        return turn.run_id

    async def history(self, who: Principal, session_id: str) -> list[str]:
        reply = await self.ask(who, self.memory.GetHistory, memory_pb2.GetHistoryRequest(session_id=session_id))
        return [message.content for message in reply.messages]

    async def session(self, who: Principal) -> str:
        await self.ask(who, self.memory.PutAgent, memory_pb2.PutAgentRequest(agent=AGENT))
        reply = await self.ask(who, self.orchestrator.CreateSession, sessions_pb2.CreateSessionRequest(agent="aura"))
        return reply.session.session_id

    def watch(self, who: Principal, **fields):
        request = events_pb2.WatchEventsRequest(**fields)
        return self.orchestrator.WatchEvents(request, metadata=metadata_of(who, None), timeout=10)

    async def told(self, who: Principal, count: int, **fields) -> list[events_pb2.DomainEvent]:
        """The first so many events of a watch."""
        found: list[events_pb2.DomainEvent] = []
        call = self.watch(who, **fields)
        async for event in call:
            found += [event] if event.type else []
            if len(found) == count:
                break
        call.cancel()
        return found

    def metric(self, name: str, **labels: str) -> float:
        return self.kit.telemetry.metrics.get_sample_value(f"{name}_total", labels) or 0


@asynccontextmanager
async def running(url: str) -> AsyncIterator[House]:
    kit = Kit(open_telemetry("test", "", 0.0), None)
    here = {f"{name}_address": INPROC for name in ("memory", "nlu", "retrieval", "toolexec")}
    config = replace(Config(models=("none",)), redis_url=url, triton_address="127.0.0.1:1", **here)
    async with AsyncExitStack() as stack:
        for app in (
            await memory_app.build(MemoryConfig(redis_url=url), kit),
            await orchestrator_app.build(config, kit),
        ):
            kit.registry(app)
            for closer in app.closers:
                stack.push_async_callback(closer)
        yield House(kit)


@pytest.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with running_valkey(tmp_path_factory.mktemp("valkey")) as found:
        yield found


@pytest.fixture
async def house(url: str) -> AsyncIterator[House]:
    async with running(url) as found:
        yield found


@pytest.fixture
def ann() -> Principal:
    return Principal(f"tenant-{uuid.uuid4().hex}", "ann", frozenset({"admin"}))


@pytest.mark.parametrize(
    "fields", [{"score": 0}, {"score": 6}, {"text": "x" * 4001}, {"text": "a\x00"}, {"run_id": "s1"}]
)
async def test_feedback_that_breaks_the_contract_is_refused(house, ann, fields):
    asked = run_pb2.SubmitFeedbackRequest(**({"run_id": "s1.1", "score": 5} | fields))
    with pytest.raises(InvalidArgument) as refused:
        await house.ask(ann, house.orchestrator.SubmitFeedback, asked)
    assert set(refused.value.fields) == set(fields)


@pytest.mark.parametrize("fields", [{"after": "-1"}, {"after": "1"}, {"after": "x-1"}, {"types": ["run.begun"]}])
async def test_a_watch_that_breaks_the_contract_is_refused(house, ann, fields):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(aiter(house.watch(ann, **fields)))
    assert isinstance(from_rpc_error(refused.value, "test"), InvalidArgument)


async def test_only_operators_and_admins_watch_events(house, ann):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(aiter(house.watch(replace(ann, roles=frozenset({"approver"})))))
    assert isinstance(from_rpc_error(refused.value, "test"), RoleRequired)


async def test_feedback_is_repeated_by_its_request_id_also_after_a_restart(url, ann):
    async with running(url) as house:
        session_id = await house.session(ann)
        run_id = await house.run(ann, session_id)
        asked = run_pb2.SubmitFeedbackRequest(run_id=run_id, score=5, text="well", request_id="r1")
        for _ in range(3):
            await house.ask(ann, house.orchestrator.SubmitFeedback, asked)
        await house.told(ann, 1, after="0", types=["feedback.received"])
        assert house.metric("myriad_feedback", agent="aura", score="5") == 1
    async with running(url) as house:
        await house.ask(ann, house.orchestrator.SubmitFeedback, asked)
        other = run_pb2.SubmitFeedbackRequest(run_id=run_id, score=1, request_id="r1")
        with pytest.raises(RequestIdReused):
            await house.ask(ann, house.orchestrator.SubmitFeedback, other)
        other.request_id = "r2"
        await house.ask(ann, house.orchestrator.SubmitFeedback, other)
        found = await house.told(ann, 2, after="0", types=["feedback.received"])
        assert [(event.attributes["score"], event.run_id) for event in found] == [("5", run_id), ("1", run_id)]
        assert house.metric("myriad_feedback", agent="aura", score="5") == 0
        assert house.metric("myriad_feedback", agent="aura", score="1") == 1


async def test_feedback_of_another_is_refused_as_on_no_run(house, ann):
    run_id = await house.run(ann, await house.session(ann))
    for who in (replace(ann, user="bob"), replace(ann, tenant="other")):
        with pytest.raises(RunNotFound) as refused:
            asked = run_pb2.SubmitFeedbackRequest(run_id=run_id, score=5, request_id="r1")
            await house.ask(who, house.orchestrator.SubmitFeedback, asked)
        assert refused.value.message == "no such run"


async def test_what_happens_is_watched_from_now_on_and_from_a_cursor(house, ann):
    session_id = await house.session(ann)
    await house.told(ann, 1, after="0")
    from_now = aiter(house.watch(ann))
    assert await anext(from_now) == events_pb2.DomainEvent()
    run_id = await house.run(ann, session_id)
    began, ended = await anext(from_now), await anext(from_now)
    assert [(each.type, each.run_id) for each in (began, ended)] == [("run.started", run_id), ("run.failed", run_id)]
    assert ended.attributes["agent"] == "aura"
    assert ended.attributes["reason"]
    everything = await house.told(ann, 3, after="0")
    assert [each.type for each in everything] == ["session.started", "run.started", "run.failed"]
    assert everything[1:] == [began, ended]
    assert await house.told(ann, 1, after=began.cursor) == [ended]
    assert await house.told(ann, 1, after="0", types=["run.failed"]) == [ended]
    stranger = Principal(f"{ann.tenant}x", "ann", ann.roles)
    assert await anext(aiter(house.watch(stranger, after="0"))) == events_pb2.DomainEvent()


async def test_a_fork_goes_on_by_itself(house, ann):
    source = await house.session(ann)
    first = await house.say(ann, source, "one")
    await house.say(ann, source, "two")
    asked = sessions_pb2.ForkSessionRequest(session_id=source, run_id=first, request_id="r1")
    fork = (await house.ask(ann, house.orchestrator.ForkSession, asked)).session.session_id
    assert (await house.ask(ann, house.orchestrator.ForkSession, asked)).session.session_id == fork
    with pytest.raises(RequestIdReused):
        changed = sessions_pb2.ForkSessionRequest(session_id=source, request_id="r1")
        await house.ask(ann, house.orchestrator.ForkSession, changed)
    assert await house.history(ann, fork) == ["one"]
    assert await house.say(ann, fork, "more") == f"{fork}.1"
    await house.ask(ann, house.orchestrator.DeleteSession, sessions_pb2.DeleteSessionRequest(session_id=source))
    assert await house.history(ann, fork) == ["one", "more"]
    with pytest.raises(SessionNotFound):
        await house.history(ann, source)


async def test_a_fork_of_anothers_session_is_as_of_none(house, ann):
    source = await house.session(ann)
    run_id = await house.say(ann, source, "secret")
    for who in (replace(ann, user="bob"), replace(ann, tenant=f"{ann.tenant}x")):
        for asked in (
            sessions_pb2.ForkSessionRequest(session_id=source, run_id=run_id),
            sessions_pb2.ForkSessionRequest(session_id=source, request_id="r1"),
        ):
            with pytest.raises(SessionNotFound) as refused:
                await house.ask(who, house.orchestrator.ForkSession, asked)
            assert refused.value.message == "no such session"


async def test_a_deleted_session_takes_its_feedback_with_it(house, ann):
    session_id = await house.session(ann)
    run_id = await house.say(ann, session_id, "one")
    asked = run_pb2.SubmitFeedbackRequest(run_id=run_id, score=5)
    await house.ask(ann, house.orchestrator.SubmitFeedback, asked)
    await house.ask(ann, house.orchestrator.DeleteSession, sessions_pb2.DeleteSessionRequest(session_id=session_id))
    with pytest.raises(RunNotFound):
        await house.ask(ann, house.orchestrator.SubmitFeedback, asked)

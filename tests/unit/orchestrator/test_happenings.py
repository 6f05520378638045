"""What is told of sessions and runs, and who may fork, watch and speak of them."""

import asyncio
from dataclasses import replace

import pytest

from myriad.memory.v1 import memory_pb2
from myriad.orchestrator.v1 import events_pb2, run_pb2, sessions_pb2
from services.kit.call import Principal
from services.kit.errors import ModelFailed, RunNotFound, StoreUnavailable, ToolTimeout
from services.orchestrator.adapters.inmemory_events import InMemoryEvents, InMemoryFeedbackStore
from services.orchestrator.config import Config
from services.orchestrator.core import takeover
from services.orchestrator.core.event_feed import EventFeed
from services.orchestrator.core.events import EventBus
from services.orchestrator.core.feedback import Feedback
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.domain.agent import Tool, ToolCall
from services.orchestrator.domain.turn import Chunk
from services.orchestrator.event_codec import read_end
from services.orchestrator.happenings import Happenings
from services.orchestrator.servicer import OrchestratorServicer
from tests.support.orchestrator import ALICE, SESSION, act_as, bench

SETTLED_S = 0.05


class Directory:
    """Memory's side: makes and copies sessions, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    async def create_session(self, request):
        session = memory_pb2.Session(session_id="s7", agent=request.agent)
        session.create_time.FromMilliseconds(1_500)
        return memory_pb2.CreateSessionResponse(session=session)

    async def copy_session(self, request):
        self.asked.append(request)
        return memory_pb2.CopySessionResponse(session=memory_pb2.Session(session_id="s8", agent="aura"))


@pytest.fixture
async def b():
    async with bench() as made:
        made.feedback, made.directory = InMemoryFeedbackStore(), Directory()
        feed = EventFeed(made.events_told, 0.03)
        happenings = Happenings(made.bus, feed, Feedback(made.feedback, made.bus))
        made.servicer = OrchestratorServicer(made.runs, made.directory, happenings, None)
        act_as(ALICE)
        yield made


async def told(b, tenant=ALICE.tenant):
    await asyncio.sleep(SETTLED_S)
    return [event for _, event in await b.events_told.read(tenant, "0", 1_000)]


@pytest.mark.parametrize("run_id", ["s2.1", "s1.1.1", "s11.1"])
async def test_a_fork_after_a_run_of_another_session_is_refused_before_memory_is_asked(b, run_id):
    with pytest.raises(RunNotFound):
        await b.servicer.ForkSession(sessions_pb2.ForkSessionRequest(session_id="s1", run_id=run_id), None)
    assert b.directory.asked == []
    assert await told(b) == []


@pytest.mark.parametrize(("run_id", "run"), [("", 0), ("s1.1", 1), ("s1.999999999", 999_999_999)])
async def test_a_fork_is_memory_s_copy_and_a_session_that_started(b, run_id, run):
    request = sessions_pb2.ForkSessionRequest(session_id="s1", run_id=run_id, request_id="r1")
    reply = await b.servicer.ForkSession(request, None)
    assert reply.session.session_id == "s8"
    assert b.directory.asked == [memory_pb2.CopySessionRequest(session_id="s1", run=run, request_id="r1")]
    (event,) = await told(b)
    assert (event.id, event.session_id, event.run_id) == ("s8/session.started", "s8", "")


async def test_a_session_that_is_made_is_told_as_the_same_event_however_often_it_is_asked_for(b):
    for _ in range(2):
        await b.servicer.CreateSession(sessions_pb2.CreateSessionRequest(agent="aura", request_id="r1"), None)
    first, again = await told(b)
    assert first == again
    assert (first.id, first.type, first.time_ms) == ("s7/session.started", "session.started", 1_500)
    assert (first.tenant, first.user, first.attributes) == (ALICE.tenant, ALICE.user, {"agent": "aura"})


async def test_a_run_is_told_from_its_beginning_to_its_end(b):
    b.agent_is(tools={"find": Tool("find", "Finds.", {"type": "object"}, 5.0)}, model_chooses_tools=True)
    b.tools.results = {"find": ('{"found": 1}', False)}
    b.model.scripts = [["Look. ", Chunk(tool_calls=(ToolCall("x", "find", "{}"),))], ["Here."]]
    await b.turn()
    began, tool, ended = await told(b)
    assert [each.type for each in (began, tool, ended)] == ["run.started", "tool.executed", "run.completed"]
    assert {each.run_id for each in (began, tool, ended)} == {f"{SESSION}.1"}
    assert {each.user for each in (began, tool, ended)} == {ALICE.user}
    assert tool.attributes == {"agent": "aura", "tool": "find", "outcome": "OK"}
    assert ended.attributes == {"agent": "aura"}
    assert "found" not in str((began, tool, ended))


async def test_a_tool_that_failed_was_executed_and_one_that_was_refused_was_not(b):
    b.agent_is(tools={"find": Tool("find", "Finds.", {"type": "object"}, 5.0)}, model_chooses_tools=True)
    b.tools.results = {"find": ToolTimeout("too long")}
    calls = (ToolCall("x", "find", "{}"), ToolCall("y", "none", "{}"))
    b.model.scripts = [[Chunk(tool_calls=calls)], ["Sorry."]]
    await b.turn()
    tools = [each.attributes for each in await told(b) if each.type == "tool.executed"]
    assert tools == [{"agent": "aura", "tool": "find", "outcome": "ERROR", "reason": "TOOL_TIMEOUT"}]


async def test_a_run_that_failed_or_was_stopped_says_why(b):
    b.model.scripts = [[ModelFailed("broken")]]
    await b.turn()
    b.model.scripts = [["on ", 60.0]]
    run_id = await b.begin()
    await asyncio.sleep(0.03)
    await b.runs.cancel(ALICE, run_id)
    await b.events(run_id)
    ends = [(each.type, each.attributes) for each in await told(b) if each.type != "run.started"]
    assert ends == [
        ("run.failed", {"agent": "aura", "reason": "MODEL_FAILED"}),
        ("run.failed", {"agent": "aura", "reason": "CANCELLED"}),
    ]


async def test_a_turn_is_not_held_up_by_a_store_of_events_that_is_away(b):
    b.events_told.error = StoreUnavailable("away")
    assert (await asyncio.wait_for(b.turn(), 1.0))[-1].WhichOneof("event") == "completed"
    b.events_told.error = None
    await asyncio.sleep(0.2)
    assert [each.type for each in await told(b)] == ["run.started", "run.completed"]


@pytest.mark.parametrize("guarded", [True, False])
async def test_whoever_adopts_a_session_tells_how_its_last_run_ended(b, monkeypatch, guarded):
    """The process died after its last write and before it told: nobody else knows of that run's end."""
    monkeypatch.setattr(takeover, "BEAT_S", 0.02)
    lost = EventBus(InMemoryEvents(), b.telemetry.events)
    doomed = b.another(events=RunEvents(lost, b.run_ends, read_end))
    run_id = await b.begin(runs=doomed)
    events = await b.events(run_id, runs=doomed)
    assert await told(b) == []
    b.gone.add(doomed._takeover._owners._me)
    b.run_ends.logs[ALICE.tenant, ALICE.user, SESSION] = [[event.SerializeToString() for event in events]]
    other = b.another(Config(coalesce_s=0.01, owner_s=0.05))
    if not guarded:
        other._takeover._adopted = None
    other.start()
    try:
        found = []
        for _ in range(10):
            found = found or await told(b)
        assert [each.id for each in found] == ([f"{SESSION}.1/run.completed"] if guarded else [])
        assert [each.time_ms for each in found] == ([events[-1].time.ToMilliseconds()] if guarded else [])
    finally:
        await other.close()
        await doomed.close()
        await lost.close()


async def test_feedback_on_anothers_run_is_as_on_none(b):
    b.feedback.add_run(ALICE, "s1.1", "aura")
    for who, run_id in ((Principal("acme", "mallory"), "s1.1"), (Principal("evil", "alice"), "s1.1"), (ALICE, "s1.2")):
        act_as(who)
        with pytest.raises(RunNotFound) as refused:
            await b.servicer.SubmitFeedback(run_pb2.SubmitFeedbackRequest(run_id=run_id, score=5), None)
        assert refused.value.message == "no such run"
    assert await told(b) == []


async def test_feedback_is_taken_and_told(b):
    b.feedback.add_run(ALICE, "s1.1", "aura")
    await b.servicer.SubmitFeedback(run_pb2.SubmitFeedbackRequest(run_id="s1.1", score=2, text="meh"), None)
    (event,) = await told(b)
    assert (event.type, event.attributes) == ("feedback.received", {"agent": "aura", "score": "2", "text": "meh"})


async def test_events_are_watched_in_one_s_own_tenant_with_heartbeats_in_between(b):
    await b.turn()
    act_as(replace(ALICE, user="operator"))
    stream = b.servicer.WatchEvents(events_pb2.WatchEventsRequest(after="0", types=["run.completed"]), None)
    first = await anext(stream)
    while not first.type:
        first = await anext(stream)
    assert (first.type, first.run_id, first.user) == ("run.completed", f"{SESSION}.1", ALICE.user)
    assert first.cursor
    assert await anext(stream) == events_pb2.DomainEvent()
    await stream.aclose()
    act_as(Principal("evil", "alice"))
    theirs = b.servicer.WatchEvents(events_pb2.WatchEventsRequest(after="0"), None)
    assert await anext(theirs) == events_pb2.DomainEvent()
    await theirs.aclose()

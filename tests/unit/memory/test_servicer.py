import time

import pytest

from myriad.common.v1 import agent_pb2, common_pb2, tool_pb2
from myriad.memory.v1 import memory_pb2, turn_pb2
from services.kit.call import Call, Principal, enter
from services.kit.errors import AgentNotFound, InvalidArgument, LeaseLost, SessionBusy, SessionNotFound
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.inmemory_agents import InMemoryAgentStore
from services.memory.core.agents import Agents
from services.memory.core.budgets import Budgets
from services.memory.core.forks import Forks
from services.memory.core.sessions import Sessions
from services.memory.core.turns import Turns
from services.memory.domain import Lifetimes
from services.memory.servicer import MemoryServicer

AGENT = agent_pb2.Agent(name="aura", persona="You are Aura.", revision=7)
AGENT.create_time.GetCurrentTime()


def act_as(user: str, tenant: str = "acme") -> None:
    enter(Call("/test", {}, None, "inproc", principal=Principal(tenant, user)))


@pytest.fixture
async def servicer() -> MemoryServicer:
    sessions = InMemorySessionStore(Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=500))
    agents = InMemoryAgentStore(revisions_kept=10, agents_allowed=10)
    return MemoryServicer(
        Sessions(sessions, agents), Turns(sessions), Agents(agents), Forks(sessions), Budgets(sessions.budgets)
    )


async def create(servicer: MemoryServicer) -> memory_pb2.Session:
    await servicer.PutAgent(memory_pb2.PutAgentRequest(agent=AGENT), None)
    return (await servicer.CreateSession(memory_pb2.CreateSessionRequest(agent="aura"), None)).session


def begin(session: memory_pb2.Session, request_id: str = "", digest: bytes = b"") -> turn_pb2.BeginTurnRequest:
    request = turn_pb2.BeginTurnRequest(
        session_id=session.session_id, request_id=request_id, request_digest=digest, max_tokens=100_000
    )
    request.lease.FromSeconds(60)
    return request


def said(role: "common_pb2.Role", content: str) -> common_pb2.Message:
    return common_pb2.Message(role=role, content=content)


async def test_a_session_is_made_read_listed_and_deleted(servicer: MemoryServicer) -> None:
    act_as("alice")
    session = await create(servicer)
    assert session.agent == "aura"
    assert session.create_time.ToMilliseconds() + 60_000 == session.expire_time.ToMilliseconds()
    found = await servicer.GetSession(memory_pb2.GetSessionRequest(session_id=session.session_id), None)
    assert found.session == session
    listed = await servicer.ListSessions(memory_pb2.ListSessionsRequest(), None)
    assert list(listed.sessions) == [session]
    assert listed.next_page_token == ""
    await servicer.DeleteSession(memory_pb2.DeleteSessionRequest(session_id=session.session_id), None)
    with pytest.raises(SessionNotFound):
        await servicer.GetSession(memory_pb2.GetSessionRequest(session_id=session.session_id), None)


async def test_the_caller_sees_its_own_sessions_only(servicer: MemoryServicer) -> None:
    act_as("alice")
    session = await create(servicer)
    for user, tenant in (("mallory", "acme"), ("alice", "other")):
        act_as(user, tenant)
        with pytest.raises(SessionNotFound):
            await servicer.GetSession(memory_pb2.GetSessionRequest(session_id=session.session_id), None)
        assert not (await servicer.ListSessions(memory_pb2.ListSessionsRequest(), None)).sessions


async def test_a_garbage_page_token_names_its_field(servicer: MemoryServicer) -> None:
    act_as("alice")
    with pytest.raises(InvalidArgument) as refused:
        await servicer.ListSessions(memory_pb2.ListSessionsRequest(page_token="garbage"), None)
    assert "page_token" in refused.value.fields


async def test_a_turn_is_remembered_by_the_next(servicer: MemoryServicer) -> None:
    act_as("alice")
    session = await create(servicer)
    turn = await servicer.BeginTurn(begin(session, "r1", b"d"), None)
    assert (turn.run_id, turn.attached, turn.agent) == (f"{session.session_id}.1", False, "aura")
    with pytest.raises(SessionBusy):
        await servicer.BeginTurn(begin(session), None)
    messages = [said(common_pb2.ROLE_USER, "Where is 1001?"), said(common_pb2.ROLE_ASSISTANT, "")]
    messages[1].tool_calls.add(tool_call_id="c1", tool="order_status", arguments_json='{"id": 1001}')
    commit = turn_pb2.CommitTurnRequest(
        run_id=turn.run_id, fencing_token=turn.fencing_token, messages=messages, last_events=[b"over"], first_sequence=1
    )
    await servicer.CommitTurn(commit, None)
    await servicer.CommitTurn(commit, None)
    attached = await servicer.BeginTurn(begin(session, "r1", b"d"), None)
    assert attached == turn_pb2.BeginTurnResponse(run_id=turn.run_id, attached=True)
    following = await servicer.BeginTurn(begin(session), None)
    assert list(following.history) == messages
    assert following.fencing_token > turn.fencing_token
    history = memory_pb2.GetHistoryRequest(session_id=session.session_id)
    assert list((await servicer.GetHistory(history, None)).messages) == messages
    abandon = turn_pb2.AbandonTurnRequest(
        run_id=following.run_id, fencing_token=turn.fencing_token, last_events=[b"over"], first_sequence=1
    )
    with pytest.raises(LeaseLost):
        await servicer.AbandonTurn(abandon, None)
    abandon.fencing_token = following.fencing_token
    await servicer.AbandonTurn(abandon, None)
    assert list((await servicer.GetHistory(history, None)).messages) == messages


async def test_tool_calls_count_in_the_window(servicer: MemoryServicer) -> None:
    act_as("alice")
    session = await create(servicer)
    turn = await servicer.BeginTurn(begin(session), None)
    heavy = said(common_pb2.ROLE_USER, "é")
    heavy.tool_calls.add(tool_call_id="c1", tool="t", arguments_json="x" * 4000)
    await servicer.CommitTurn(
        turn_pb2.CommitTurnRequest(
            run_id=turn.run_id, fencing_token=turn.fencing_token, messages=[heavy], last_events=[b"x"], first_sequence=1
        ),
        None,
    )
    request = begin(session)
    request.max_tokens = 1000
    assert not (await servicer.BeginTurn(request, None)).history


async def test_what_the_server_sets_makes_no_new_revision(servicer: MemoryServicer) -> None:
    act_as("alice")
    first = (await servicer.PutAgent(memory_pb2.PutAgentRequest(agent=AGENT), None)).agent
    assert (first.revision, first.persona) == (1, AGENT.persona)
    assert abs(first.create_time.ToSeconds() - time.time()) < 60
    again = (await servicer.PutAgent(memory_pb2.PutAgentRequest(agent=first), None)).agent
    assert again == first
    first.persona = "You are someone else."
    assert (await servicer.PutAgent(memory_pb2.PutAgentRequest(agent=first), None)).agent.revision == 2
    latest = memory_pb2.GetAgentRequest(agent=agent_pb2.AgentRef(name="aura"))
    assert (await servicer.GetAgent(latest, None)).agent.revision == 2
    latest.agent.revision = 1
    assert (await servicer.GetAgent(latest, None)).agent == again
    assert [agent.revision for agent in (await servicer.ListAgents(memory_pb2.ListAgentsRequest(), None)).agents] == [2]
    latest.agent.revision = 3
    with pytest.raises(AgentNotFound):
        await servicer.GetAgent(latest, None)


async def test_a_map_in_another_order_makes_no_new_revision(servicer: MemoryServicer) -> None:
    act_as("alice")
    names = [f"p{i}" for i in range(30)]
    revisions = set()
    for order in (names, names[::-1]):
        agent = agent_pb2.Agent(name="aura", persona="p")
        tool = agent.tools.add(name="t", description="d", side_effect=tool_pb2.SIDE_EFFECT_READ)
        tool.parameters.update({name: {"type": "string"} for name in order})
        tool.builtin.function = "f"
        revisions.add((await servicer.PutAgent(memory_pb2.PutAgentRequest(agent=agent), None)).agent.revision)
    assert revisions == {1}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_a_schema_with_a_number_that_json_has_not_is_refused(servicer: MemoryServicer, number: float) -> None:
    act_as("alice")
    agent = agent_pb2.Agent(name="aura", tools=[tool_pb2.Tool(name="a"), tool_pb2.Tool(name="b")])
    agent.tools[1].parameters.update({"maximum": [number]})
    with pytest.raises(InvalidArgument) as caught:
        await servicer.PutAgent(memory_pb2.PutAgentRequest(agent=agent), None)
    assert list(caught.value.fields) == ["agent.tools[1].parameters"]

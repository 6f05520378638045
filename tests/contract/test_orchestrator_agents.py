"""One list of behaviours for the orchestrator's `Agents`: in memory, and behind the memory service."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import pytest
from google.protobuf.json_format import ParseDict

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from services.kit.call import Principal
from services.kit.errors import AgentNotFound, DeadlineExceeded, ServiceUnavailable
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.inmemory_agents import InMemoryAgentStore
from services.memory.core.agents import Agents as MemoryAgentsCore
from services.memory.core.budgets import Budgets
from services.memory.core.forks import Forks
from services.memory.core.sessions import Sessions
from services.memory.core.turns import Turns
from services.memory.domain import Lifetimes
from services.memory.servicer import MemoryServicer
from services.orchestrator.adapters.inmemory_services import InMemoryAgents
from services.orchestrator.adapters.memory import MemoryAgents, agent_of
from services.orchestrator.domain.agent import Agent, Intent, Knowledge, Tool, ToolBinding
from services.orchestrator.ports.services import Agents
from tests.support.orchestrator import Hanging, act_as, served

WHOLE = {
    "name": "aura",
    "persona": "You help.",
    "intents": [
        {"name": "hi", "examples": ["hi", "hello"], "skipKnowledge": True},
        {
            "name": "order",
            "examples": ["where is it", "track it"],
            "tool": {"name": "status", "arguments": {"id": "number"}, "ask": "Which?"},
        },
    ],
    "tools": [
        {
            "name": "status",
            "description": "Looks it up.",
            "parameters": {"type": "object"},
            "sideEffect": "SIDE_EFFECT_READ",
            "timeout": "2.5s",
            "builtin": {"function": "calculator"},
        }
    ],
    "knowledge": {"collections": ["help"], "topK": 5, "minScore": 0.5},
    "model": {"model": "llm", "maxTokens": 64, "temperature": 0, "toolChoice": "TOOL_CHOICE_MODEL"},
    "limits": {"maxSteps": 2, "maxTokens": 100, "timeout": "1.5s"},
}
BARE = {"name": "aura", "persona": "You help."}


@dataclass
class World:
    """Agents, a way to write one, and on whose behalf."""

    agents: Agents
    put: Callable[[dict[str, object]], Awaitable[None]]
    owner: Principal


def memory_servicer() -> MemoryServicer:
    sessions = InMemorySessionStore(Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=10))
    agents = InMemoryAgentStore(revisions_kept=10, agents_allowed=10)
    budgets = Budgets(sessions.budgets)
    return MemoryServicer(
        Sessions(sessions, agents), Turns(sessions), MemoryAgentsCore(agents), Forks(sessions), budgets
    )


@pytest.fixture(params=["inmemory", "memory"])
def world(request) -> World:
    owner = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    if request.param == "inmemory":
        fake, revisions = InMemoryAgents(), iter(range(1, 100))

        async def put_here(agent):
            message = ParseDict(agent, agent_pb2.Agent())
            message.revision = next(revisions)
            fake.put(owner.tenant, agent_of(message))

        return World(fake, put_here, owner)
    client = served("memory", partial(memory_pb2_grpc.add_MemoryServiceServicer_to_server, memory_servicer()))
    stub = memory_pb2_grpc.MemoryServiceStub(client.channel)

    async def put_there(agent):
        act_as(owner)
        message = memory_pb2.PutAgentRequest(agent=ParseDict(agent, agent_pb2.Agent()))
        await client.unary(stub.PutAgent, message, timeout=2)

    return World(MemoryAgents(client), put_there, owner)


async def test_an_agent_nobody_made_is_not_found(world):
    act_as(world.owner)
    with pytest.raises(AgentNotFound):
        await world.agents.latest("aura")


async def test_another_tenants_agent_is_not_found(world):
    await world.put(BARE)
    act_as(world.owner)
    await world.agents.latest("aura")
    act_as(Principal("evil", "alice"))
    with pytest.raises(AgentNotFound):
        await world.agents.latest("aura")


async def test_another_user_of_the_tenant_has_the_same_agent(world):
    await world.put(BARE)
    act_as(Principal(world.owner.tenant, "bob"))
    assert (await world.agents.latest("aura")).persona == "You help."


async def test_an_agent_comes_whole(world):
    await world.put(WHOLE)
    act_as(world.owner)
    assert await world.agents.latest("aura") == Agent(
        name="aura",
        revision=1,
        persona="You help.",
        intents={
            "hi": Intent("hi", skip_knowledge=True),
            "order": Intent("order", ToolBinding("status", {"id": "number"}, "Which?")),
        },
        tools={"status": Tool("status", "Looks it up.", {"type": "object"}, 2.5)},
        knowledge=Knowledge(("help",), 5, 0.5),
        model="llm",
        max_answer_tokens=64,
        temperature=0.0,
        model_chooses_tools=True,
        max_steps=2,
        max_tokens=100,
        timeout_s=1.5,
    )


async def test_what_an_agent_does_not_say_is_as_the_contract_says(world):
    await world.put(BARE)
    act_as(world.owner)
    assert await world.agents.latest("aura") == Agent("aura", 1, "You help.")


async def test_a_change_is_seen_within_a_second(world):
    await world.put(BARE)
    act_as(world.owner)
    assert (await world.agents.latest("aura")).revision == 1
    await world.put(BARE | {"persona": "You sing."})
    await asyncio.sleep(1.05)
    changed = await world.agents.latest("aura")
    assert (changed.revision, changed.persona) == (2, "You sing.")


async def test_memory_that_nobody_serves_is_unavailable():
    act_as(Principal("acme", "alice"))
    with pytest.raises(ServiceUnavailable, match="memory does not answer"):
        await MemoryAgents(served("memory")).latest("aura")


async def test_memory_that_does_not_answer_in_time_is_given_up():
    hanging = Hanging()
    client = served("memory", partial(memory_pb2_grpc.add_MemoryServiceServicer_to_server, hanging))
    act_as(Principal("acme", "alice"), seconds=0.1)
    with pytest.raises(DeadlineExceeded):
        await MemoryAgents(client).latest("aura")
    assert hanging.cut.is_set()

"""One list of behaviours for nlu's `Agents`: in memory, and through the kit's catalogue."""

import pytest
from google.protobuf.json_format import ParseDict

from myriad.common.v1 import agent_pb2
from services.kit.agents import AgentCatalog
from services.kit.app import Kit
from services.kit.call import Call, Principal, current_principal, enter
from services.kit.clients import INPROC
from services.kit.errors import AgentNotFound, ServiceUnavailable
from services.kit.telemetry import open_telemetry
from services.nlu.adapters.inmemory import InMemoryAgents
from services.nlu.adapters.memory import MemoryAgents, agent_of
from services.nlu.agent import Agent, EntityType, Intent, ListedValue
from services.nlu.ports import Agents

ANN = Principal("acme", "ann")
FIRST = {"name": "aura", "persona": "You help.", "revision": 1}
SECOND = FIRST | {
    "revision": 2,
    "intents": [
        {"name": "order", "examples": ["where is it", "track it"], "tool": {"name": "status"}},
        {"name": "greeting", "examples": ["hello", "hi"]},
    ],
    "entities": [
        {"name": "order_id", "patterns": [r"\b(\d{4})\b", "#(\\d+)"]},
        {"name": "plan", "values": [{"value": "Basic", "synonyms": ["the small one"]}, {"value": "Plus"}]},
    ],
}


def message(agent: dict[str, object]) -> agent_pb2.Agent:
    return ParseDict(agent, agent_pb2.Agent())


class Catalog:
    """Two revisions of one agent of acme, as the kit's catalogue gives them."""

    async def get(self, name: str, revision: int) -> agent_pb2.Agent:
        if current_principal().tenant != "acme" or name != "aura" or revision > 2:
            raise AgentNotFound("no such agent")
        return message(FIRST if revision == 1 else SECOND)


@pytest.fixture(params=["inmemory", "catalog"])
def agents(request: pytest.FixtureRequest) -> Agents:
    if request.param == "catalog":
        return MemoryAgents(Catalog())
    made = InMemoryAgents()
    for each in (FIRST, SECOND):
        made.put(ANN, agent_of(message(each)))
    return made


def acting(principal: Principal) -> Principal:
    enter(Call("/test", {}, None, "test", principal=principal))
    return principal


@pytest.mark.parametrize(("name", "revision"), [("other", 0), ("other", 1), ("aura", 3)])
async def test_an_unknown_agent_or_revision_is_not_found(agents, name, revision):
    with pytest.raises(AgentNotFound):
        await agents.get(acting(ANN), name, revision)


async def test_another_tenants_agent_is_not_found(agents):
    for revision in (0, 1):
        await agents.get(acting(ANN), "aura", revision)
        with pytest.raises(AgentNotFound):
            await agents.get(acting(Principal("evil", "ann")), "aura", revision)


async def test_each_revision_stays_as_it_was(agents):
    for _ in range(2):
        assert await agents.get(acting(ANN), "aura", 1) == Agent("aura", 1)
        assert (await agents.get(acting(ANN), "aura", 2)).intents


async def test_zero_is_the_latest_and_says_which(agents):
    assert (await agents.get(acting(ANN), "aura", 0)).revision == 2


async def test_another_user_of_the_tenant_has_the_same_agent(agents):
    assert (await agents.get(acting(Principal("acme", "bob")), "aura", 0)).revision == 2


async def test_an_agent_comes_whole(agents):
    assert await agents.get(acting(ANN), "aura", 2) == Agent(
        "aura",
        2,
        (Intent("order", ("where is it", "track it"), "status"), Intent("greeting", ("hello", "hi"))),
        (
            EntityType("order_id", patterns=(r"\b(\d{4})\b", "#(\\d+)")),
            EntityType("plan", (ListedValue("Basic", ("the small one",)), ListedValue("Plus"))),
        ),
    )


async def test_what_was_read_of_a_revision_is_made_once(agents):
    assert await agents.get(acting(ANN), "aura", 2) is await agents.get(acting(ANN), "aura", 0)


async def test_memory_that_nobody_serves_is_unavailable():
    kit = Kit(open_telemetry("test", "", 0.0), None)
    dead = MemoryAgents(AgentCatalog(kit.network.client("memory", INPROC)))
    with pytest.raises(ServiceUnavailable, match="memory does not answer"):
        await dead.get(acting(ANN), "aura", 0)

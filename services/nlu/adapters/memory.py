"""Agents as the memory service keeps them."""

from typing import Protocol

from myriad.common.v1 import agent_pb2
from services.kit.call import Principal
from services.nlu.agent import Agent, EntityType, Intent, ListedValue
from services.nlu.lru import Lru

_CAPACITY = 512


class Catalog(Protocol):
    """What is used of `services.kit.agents.AgentCatalog`."""

    async def get(self, name: str, revision: int) -> agent_pb2.Agent:
        """One revision of an agent of the current principal's tenant."""
        ...


class MemoryAgents:
    """Reads agents through the catalogue, and keeps what was made of them."""

    def __init__(self, catalog: Catalog) -> None:
        """Keeps the last few hundred revisions used."""
        self._catalog = catalog
        self._agents: Lru[tuple[str, str, int], Agent] = Lru(_CAPACITY)

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """One revision of an agent.

        Raises:
            AgentNotFound: there is none.
            ServiceUnavailable: memory does not answer.
        """
        found = await self._catalog.get(name, revision)
        key = (principal.tenant, name, found.revision)
        agent = self._agents.get(key)
        if agent is None:
            agent = agent_of(found)
            self._agents.put(key, agent)
        return agent


def agent_of(message: agent_pb2.Agent) -> Agent:
    """What nlu needs of an agent's message."""
    return Agent(
        name=message.name,
        revision=message.revision,
        intents=tuple(Intent(each.name, tuple(each.examples), each.tool.name) for each in message.intents),
        entities=tuple(
            EntityType(
                each.name,
                tuple(ListedValue(listed.value, tuple(listed.synonyms)) for listed in each.values),
                tuple(each.patterns),
            )
            for each in message.entities
        ),
    )

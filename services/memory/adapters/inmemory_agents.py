"""Agents in this process: for tests and for trying out. They end with it."""

from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import AgentNotFound, ResourceExhausted
from services.memory.adapters.inmemory import Clock, now_ms
from services.memory.domain import Agent


class InMemoryAgentStore:
    """Keeps agents as `RedisAgentStore` does."""

    def __init__(self, *, revisions_kept: int, agents_allowed: int, clock: Clock = now_ms) -> None:
        """`clock` gives milliseconds since 1970."""
        self._revisions_kept = revisions_kept
        self._agents_allowed = agents_allowed
        self._clock = clock
        self._tenants: dict[str, dict[str, list[tuple[bytes, Agent]]]] = {}

    async def put(self, principal: Principal, name: str, digest: bytes, content: bytes) -> Agent:
        """As `AgentStore.put`."""
        agents = self._tenants.setdefault(principal.tenant, {})
        revisions = agents.get(name, [])
        if revisions and revisions[-1][0] == digest:
            return revisions[-1][1]
        if not revisions and len(agents) >= self._agents_allowed:
            raise ResourceExhausted("there are as many as there may be")
        agent = Agent(name, revisions[-1][1].revision + 1 if revisions else 1, self._clock(), content)
        agents[name] = [*revisions, (digest, agent)][-self._revisions_kept :]
        return agent

    async def has(self, principal: Principal, name: str) -> bool:
        """As `AgentStore.has`."""
        return name in self._tenants.get(principal.tenant, {})

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """As `AgentStore.get`."""
        revisions = self._tenants.get(principal.tenant, {}).get(name, [])
        for _, agent in reversed(revisions):
            if revision in (0, agent.revision):
                return agent
        raise AgentNotFound("no such agent, or no such revision of it")

    async def list(self, principal: Principal) -> Sequence[Agent]:
        """As `AgentStore.list`."""
        return [revisions[-1][1] for _, revisions in sorted(self._tenants.get(principal.tenant, {}).items())]

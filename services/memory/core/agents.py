"""Agents: a change is a new revision, and a revision never changes."""

import hashlib
from collections.abc import Sequence

from services.kit.call import Principal
from services.memory.domain import Agent
from services.memory.ports import AgentStore


class Agents:
    """The agents of the tenant of whoever asks."""

    def __init__(self, store: AgentStore) -> None:
        """Reads and writes `store`."""
        self._store = store

    async def put(self, principal: Principal, name: str, content: bytes) -> Agent:
        """Writes an agent; the same content as that of the latest revision makes none.

        Args:
            principal: Whose tenant.
            name: The agent.
            content: The agent, serialised always in the same way, without revision and time.

        Raises:
            ResourceExhausted: the tenant has as many agents as it may.
        """
        return await self._store.put(principal, name, hashlib.sha256(content).digest(), content)

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """One revision, 0 for the latest. Raises AgentNotFound."""
        return await self._store.get(principal, name, revision)

    async def list(self, principal: Principal) -> Sequence[Agent]:
        """The latest revisions, by name."""
        return await self._store.list(principal)

"""Agents as memory keeps them. A revision never changes, so once read it is kept."""

from collections import OrderedDict

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from services.kit.call import current_principal
from services.kit.clients import Client

_TIMEOUT_S = 2.0


class AgentCatalog:
    """Reads agents of the current principal's tenant."""

    def __init__(self, memory: Client, *, capacity: int = 1024) -> None:
        """Reads from `memory`, and keeps the `capacity` revisions used last."""
        self._memory = memory
        self._stub = memory_pb2_grpc.MemoryServiceStub(memory.channel)
        self._capacity = capacity
        self._revisions: OrderedDict[tuple[str, str, int], agent_pb2.Agent] = OrderedDict()

    async def get(self, name: str, revision: int) -> agent_pb2.Agent:
        """One revision of an agent. The message is shared: do not change it.

        Args:
            name: The agent.
            revision: From 1; 0 is the latest, which is read each time.

        Raises:
            AgentNotFound: there is none.
            ServiceUnavailable: memory does not answer.
        """
        tenant = current_principal().tenant
        known = self._revisions.get((tenant, name, revision))
        if known is not None:
            self._revisions.move_to_end((tenant, name, revision))
            return known
        request = memory_pb2.GetAgentRequest(agent=agent_pb2.AgentRef(name=name, revision=revision))
        agent = (await self._memory.unary(self._stub.GetAgent, request, timeout=_TIMEOUT_S)).agent
        self._revisions[tenant, name, agent.revision] = agent
        while len(self._revisions) > self._capacity:
            self._revisions.popitem(last=False)
        return agent

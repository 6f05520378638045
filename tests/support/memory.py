"""Memory in this process, on a real store, and what a test asks of it."""

from contextlib import AsyncExitStack, asynccontextmanager

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from services.kit.app import Kit
from services.kit.clients import INPROC
from services.kit.telemetry import open_telemetry
from services.memory import app
from services.memory.config import Config
from tests.support.orchestrator import act_as


class RealMemory:
    """A client of it."""

    def __init__(self, kit):
        self.client = kit.network.client("memory", INPROC)
        self._stub = memory_pb2_grpc.MemoryServiceStub(self.client.channel)

    async def ask(self, owner, rpc, request):
        """The reply to an RPC, by its name."""
        act_as(owner)
        return await self.client.unary(getattr(self._stub, rpc), request, timeout=5)

    async def put_agent(self, owner):
        """Gives the owner's tenant the agent `aura`."""
        agent = agent_pb2.Agent(name="aura", persona="You help.")
        await self.ask(owner, "PutAgent", memory_pb2.PutAgentRequest(agent=agent))

    async def session(self, owner):
        """A session with `aura`; its id."""
        made = await self.ask(owner, "CreateSession", memory_pb2.CreateSessionRequest(agent="aura"))
        return made.session.session_id


@asynccontextmanager
async def running_memory(url, **config):
    """Memory on the Redis at `url`, configured so."""
    kit = Kit(open_telemetry("test", "", 0.0), None)
    async with AsyncExitStack() as closing:
        served = await app.build(Config(redis_url=url, **config), kit)
        kit.registry(served)
        for closer in served.closers:
            closing.push_async_callback(closer)
        yield RealMemory(kit)

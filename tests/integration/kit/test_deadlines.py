"""A deadline falls from hop to hop, over sockets and within a process, and nothing works on when it has passed."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.kit.call import Call, Principal, current_call, enter
from services.kit.errors import DeadlineExceeded
from tests.support.transport import Scripted, reached

RUN = run_pb2.GetRunRequest(run_id="s.1")
HOPS = 4


class Hops:
    """Four services, each calling the next; the last works until it is stopped."""

    def __init__(self) -> None:
        self.left: dict[int, float] = {}
        self.worked_at: dict[int, float] = {}
        self.clients = []

    def servicer(self, hop: int) -> Scripted:
        async def get_run(request):
            self.left[hop] = current_call().remaining()
            work = asyncio.create_task(self._work(hop))
            try:
                return await self.call(hop + 1) if hop < HOPS - 1 else await work
            finally:
                work.cancel()

        return Scripted(get_run=get_run)

    async def call(self, hop: int):
        client = self.clients[hop]
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        return await client.unary(stub.GetRun, RUN, timeout=30)

    async def _work(self, hop: int):
        while True:
            self.worked_at[hop] = asyncio.get_running_loop().time()
            await asyncio.sleep(0.005)


@asynccontextmanager
async def hops(kinds):
    world = Hops()
    async with AsyncExitStack() as stack:
        for hop, kind in enumerate(kinds):
            client = await stack.enter_async_context(reached(kind, world.servicer(hop)))
            await client.channel.channel_ready()
            world.clients.append(client)
        yield world


@pytest.mark.parametrize(
    "kinds", [("socket",) * HOPS, ("inproc",) * HOPS, ("socket", "inproc", "socket", "inproc")], ids=" ".join
)
@pytest.mark.alone
async def test_each_hop_has_less_time_and_none_works_past_the_deadline(kinds):
    async with hops(kinds) as world:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 0.5

        async def begin():
            enter(Call("test", {}, deadline, "test", principal=Principal("acme", "alice")))
            with pytest.raises(DeadlineExceeded):
                await world.call(0)

        await asyncio.create_task(begin())
        assert loop.time() <= deadline + 0.1
        await asyncio.sleep(0.3)
    left = [world.left[hop] for hop in range(HOPS)]
    assert 0 < left[-1]
    assert all(earlier > later for earlier, later in zip([0.5, *left], left, strict=False))
    assert max(world.worked_at.values()) <= deadline + 0.1
    assert len(world.worked_at) == HOPS

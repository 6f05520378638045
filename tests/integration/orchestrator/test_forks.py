"""What a fork takes over: all that was said and found until a run had ended, also what its tools answered."""

import uuid

import pytest

from myriad.memory.v1 import memory_pb2
from services.kit.call import Principal
from services.kit.redis import Redis
from services.orchestrator.adapters.memory import MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.config import Config
from services.orchestrator.domain.agent import Agent, Role, Tool
from tests.support.memory import running_memory
from tests.support.orchestrator import bench, kinds
from tests.support.valkey import running_valkey

SEARCH = Tool("search", "Searches.", {"type": "object"}, 5.0)
AGENT = Agent("aura", 1, "You help.", tools={"search": SEARCH}, model_chooses_tools=True)
ALICE = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
CONFIG = Config(coalesce_s=0.01, heartbeat_s=1.0, end_s=5.0)


class World:
    """An orchestrator and a memory on one store."""

    def __init__(self, b, memory, runs):
        self._b, self._memory, self._runs = b, memory, runs

    async def session(self):
        await self._memory.put_agent(ALICE)
        return await self._memory.session(ALICE)

    async def fork(self, session, run):
        request = memory_pb2.CopySessionRequest(session_id=session, run=run)
        return (await self._memory.ask(ALICE, "CopySession", request)).session.session_id

    async def turn(self, session, text, found):
        """A turn in which the tool answers this. What the model was told before it asked for the tool."""
        b = self._b
        b.tools.results["search"] = (found, False)
        b.model.asked.clear()
        b.model.scripts = [[b.calls("search")], [f"answer to {text}"]]
        run_id = await b.begin(text, session=session, principal=ALICE, runs=self._runs)
        events = await b.events(run_id, principal=ALICE, runs=self._runs)
        assert kinds(events)[-1] == "completed"
        return [(message.role, message.content) for message in b.model.asked[0]]


@pytest.fixture
async def world(tmp_path):
    async with running_valkey(tmp_path) as url, running_memory(url) as memory, bench(agent=AGENT) as b:
        redis = Redis(url)
        b.agents.put(ALICE.tenant, AGENT)
        runs = b.another(CONFIG, memory=MemoryTurns(memory.client), run_log=RedisRunLog(redis, 60.0, 30.0))
        yield World(b, memory, runs)
        await runs.close()
        await redis.close()


def step(number):
    """What a turn leaves for the next: the question, the call, what the tool answered, the answer."""
    return [
        (Role.USER, f"question {number}"),
        (Role.ASSISTANT, ""),
        (Role.TOOL, f'{{"found": {number}}}'),
        (Role.ASSISTANT, f"answer to question {number}"),
    ]


async def test_the_next_turn_of_a_fork_sees_what_tools_found_until_then_and_nothing_later(world):
    session = await world.session()
    for number in (1, 2):
        await world.turn(session, f"question {number}", f'{{"found": {number}}}')
    fork = await world.fork(session, 1)
    asked = (Role.USER, "and now?")
    assert (await world.turn(fork, "and now?", '{"found": "in the fork"}'))[1:] == [*step(1), asked]
    # As a control, the session it came from: it has the second turn too, and nothing of the fork.
    assert (await world.turn(session, "and now?", '{"found": "elsewhere"}'))[1:] == [*step(1), *step(2), asked]
    told = str(await world.turn(fork, "once more", "{}"))
    assert "in the fork" in told
    assert "elsewhere" not in told and "question 2" not in told


async def test_a_fork_of_a_fork_goes_on_alone_and_outlives_the_session_it_came_from(world):
    session = await world.session()
    await world.turn(session, "question 1", '{"found": 1}')
    fork = await world.fork(session, 1)
    await world.turn(fork, "question 2", '{"found": 2}')
    second = await world.fork(fork, 1)
    for gone in (session, fork):
        request = memory_pb2.DeleteSessionRequest(session_id=gone)
        await world._memory.ask(ALICE, "DeleteSession", request)
    assert (await world.turn(second, "still?", "{}"))[1:] == [*step(1), *step(2), (Role.USER, "still?")]

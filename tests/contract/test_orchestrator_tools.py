"""One list of behaviours for the orchestrator's `Tools`: in memory, and behind toolexec on its own fakes."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest.mock import Mock

import pytest

from myriad.toolexec.v1 import toolexec_pb2_grpc
from services.kit.errors import (
    ApprovalRequired,
    DeadlineExceeded,
    ExecutionNotFound,
    InvalidToolArguments,
    ServiceUnavailable,
    ToolNotAllowed,
    ToolNotFound,
    ToolTimeout,
    ToolUnavailable,
)
from services.orchestrator.adapters.inmemory_services import InMemoryTools
from services.orchestrator.adapters.toolexec import ToolExecClient
from services.orchestrator.domain.agent import Agent, Tool, ToolCall
from services.orchestrator.domain.agent import SideEffect as OrchestratorSideEffect
from services.orchestrator.domain.turn import ToolResult
from services.orchestrator.ports.services import Tools
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.inmemory import InMemoryHttpCaller, InMemoryResultStore, InMemoryToolSource
from services.toolexec.core.execution import Executor, Runners
from services.toolexec.core.functions import FunctionFailed
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.domain import AgentTools, FunctionCall, HttpCall, SideEffect
from services.toolexec.domain import Tool as ToolOf
from services.toolexec.servicer import ToolExecServicer
from tests.support.orchestrator import ALICE, MALLORY, Hanging, act_as, served
from tests.support.toolexec import ANN, Process, Shared, call_key
from tests.support.waiting import until

SCHEMA = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
NAMES = ("status", "broken", "guarded", "dangerous", "unreachable", "slow")
AURA = Agent("aura", 1, "You help.", tools={name: Tool(name, "Does it.", SCHEMA, 5.0) for name in NAMES})
RUN = "s1.1"


@dataclass
class World:
    """Tools, how often `status` or `slow` ran, and whether `slow` was cut."""

    tools: Tools
    ran: Callable[[], int]
    cut: Callable[[], bool]

    async def execute(self, tool: str, arguments: str = '{"id": 7}', key: str = "0.0.a", timeout: float = 5.0):
        act_as(ALICE)
        return await self.tools.execute(AURA, ToolCall("call_0_0", tool, arguments), RUN, key, timeout)


def fake() -> World:
    tools = InMemoryTools()
    tools.results = {
        "status": ('{"id":7}', False),
        "broken": ('{"error":"no such order"}', True),
        "guarded": ToolNotAllowed("a role is missing"),
        "dangerous": ApprovalRequired("a person must approve it"),
    }
    return World(tools, lambda: len(tools.calls), lambda: tools.cut)


class Functions:
    """What the operator installed."""

    def __init__(self) -> None:
        self.ran = 0
        self.cut = False

    async def status(self, arguments):
        self.ran += 1
        return {"id": arguments["id"]}

    async def broken(self, arguments):
        raise FunctionFailed("no such order")

    async def slow(self, arguments):
        self.ran += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cut = True
            raise


def tool(name: str, effect: SideEffect = SideEffect.IDEMPOTENT, **changes) -> ToolOf:
    given = {"timeout": 5.0, "roles": frozenset(), "call": FunctionCall(name)} | changes
    return ToolOf(name, "Does it.", SCHEMA, effect, **given)


def real(slow_s: float = 5.0) -> World:
    functions, clock, source = Functions(), SystemClock(), InMemoryToolSource()
    nowhere = HttpCall("GET", "", "https://example.com/x", {}, 1024, idempotency_key=False)
    tools = [
        tool("status"),
        tool("broken"),
        tool("guarded", roles=frozenset({"clerk"})),
        tool("dangerous", SideEffect.SIDE_EFFECT),
        tool("unreachable", SideEffect.READ, call=nowhere),
        tool("slow", timeout=slow_s),
    ]
    source.put(ALICE.tenant, AgentTools("aura", 1, {each.name: each for each in tools}))
    installed = {"status": functions.status, "broken": functions.broken, "slow": functions.slow}
    executor = Executor(
        source=source,
        runners=Runners(installed, HttpTools(InMemoryHttpCaller({}), {}, frozenset({443}))),
        store=InMemoryResultStore(clock),
        schemas=Schemas(),
        gate=Gate(4, 8),
        clock=clock,
    )
    return World(client_of(ToolExecServicer(executor, Mock(), Mock())), lambda: functions.ran, lambda: functions.cut)


def client_of(servicer: object) -> ToolExecClient:
    return ToolExecClient(
        served("toolexec", partial(toolexec_pb2_grpc.add_ToolExecServiceServicer_to_server, servicer))
    )


@pytest.fixture(params=["inmemory", "toolexec"])
def kind(request) -> str:
    return str(request.param)


@pytest.fixture
def world(kind) -> World:
    return fake() if kind == "inmemory" else real()


@pytest.fixture
def slow(kind) -> World:
    """A world whose `slow` may take 0.1 s and takes longer."""
    if kind == "toolexec":
        return real(slow_s=0.1)
    made = fake()
    made.tools.hang = True
    return made


@pytest.mark.parametrize("arguments", ["", "{", "[]", "7", "{}", '{"other": 1}'])
async def test_arguments_that_do_not_fit_are_refused_and_nothing_runs(world, arguments):
    with pytest.raises(InvalidToolArguments):
        await world.execute("status", arguments)
    assert world.ran() == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nothing", ToolNotFound),
        ("guarded", ToolNotAllowed),
        ("dangerous", ApprovalRequired),
        ("unreachable", ToolUnavailable),
    ],
)
async def test_a_tool_that_is_not_run_says_why(world, name, error):
    with pytest.raises(error):
        await world.execute(name)


async def test_a_tool_answers_json(world):
    result = await world.execute("status")
    assert (json.loads(result.result_json), result.is_error) == ({"id": 7}, False)


async def test_an_answer_that_is_an_error_is_a_result(world):
    result = await world.execute("broken")
    assert result.is_error
    assert "no such order" in result.result_json


async def test_the_same_key_of_a_run_runs_once_and_gives_the_same_result(world):
    first = await world.execute("status")
    assert await world.execute("status") == first
    assert world.ran() == 1
    await world.execute("status", key="1.0.a")
    assert world.ran() == 2


async def test_the_key_of_one_user_is_not_that_of_another(world):
    await world.execute("status")
    act_as(MALLORY)
    result = await world.tools.execute(AURA, ToolCall("call_0_0", "status", '{"id": 7}'), RUN, "0.0.a", 5.0)
    assert isinstance(result, ToolResult)
    assert world.ran() == 2


async def test_a_tool_that_takes_too_long_is_a_tool_timeout(slow):
    with pytest.raises(ToolTimeout):
        await slow.execute("slow", timeout=0.1)


async def test_leaving_cuts_the_tool(kind):
    world = real() if kind == "toolexec" else fake()
    if kind == "inmemory":
        world.tools.hang = True
    asking = asyncio.create_task(world.execute("slow"))
    await until(world.ran)
    assert not world.cut()
    asking.cancel()
    await until(lambda: asking.done() and world.cut())


async def test_toolexec_that_nobody_serves_is_unavailable():
    world = World(ToolExecClient(served("toolexec")), int, bool)
    with pytest.raises(ServiceUnavailable, match="toolexec does not answer"):
        await world.execute("status")


async def test_toolexec_that_does_not_answer_in_time_is_given_up_a_second_after_the_tools_time():
    hanging = Hanging()
    act_as(ALICE)
    started = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await client_of(hanging).execute(AURA, ToolCall("c", "status", "{}"), RUN, "0.0.a", 0.1)
    assert 1.0 < asyncio.get_running_loop().time() - started < 3.0
    assert hanging.cut.is_set()


async def test_a_slow_tool_that_is_begun_again_under_its_approval_goes_on_and_answers_once(kind):
    pay = Tool("pay", "Takes long.", SCHEMA, 5.0, side_effect=OrchestratorSideEffect.SIDE_EFFECT, background=True)
    agent, call = Agent("aura", 3, "You help.", tools={"pay": pay}), ToolCall("c1", "pay", '{"id": 7}')
    ran = []

    async def work(arguments):
        ran.append(arguments)
        return {"paid": True}

    shared = Shared()
    shared.add(tool("pay", SideEffect.SIDE_EFFECT, background=True))
    name = call_key("pay", call.arguments_json, RUN)
    approval, key = shared.approve(name), name.idempotency_key
    async with Process(shared, {"pay": work}) as process:
        tools = InMemoryTools() if kind == "inmemory" else client_of(process.servicer)
        act_as(ANN)
        assert await tools.start(agent, call, RUN, key, approval) is None
        await tools.start(agent, call, RUN, key, approval)
        if kind == "inmemory":
            tools.answered["pay"] = ToolResult('{"paid":true}', is_error=False)

        async def is_there():
            return await tools.result(call, RUN, key) is not None

        await until(is_there)
        assert await tools.start(agent, call, RUN, key, approval) == ToolResult('{"paid":true}', is_error=False)
    assert len(ran) == (kind == "toolexec")


async def test_a_slow_tool_has_no_result_until_it_has_answered(kind):
    report = Tool("report", "Takes long.", SCHEMA, 5.0, background=True)
    agent, call = Agent("aura", 3, "You help.", tools={"report": report}), ToolCall("c1", "report", '{"id": 7}')
    answered = asyncio.Event()

    async def write(arguments):
        await answered.wait()
        return {"pages": 3}

    shared = Shared()
    shared.add(tool("report", background=True))
    async with Process(shared, {"report": write}) as process:
        tools = InMemoryTools() if kind == "inmemory" else client_of(process.servicer)
        act_as(ANN)
        for key in ("0.0.a", "0.0.b"):
            assert await tools.start(agent, call, RUN, key) is None
            assert await tools.result(call, RUN, key) is None
        await tools.stop(call, RUN, "0.0.b")
        assert await tools.result(call, RUN, "0.0.b") is None
        answered.set()
        if kind == "inmemory":
            tools.answered["report"] = ToolResult('{"pages":3}', is_error=False)

        async def is_there():
            return await tools.result(call, RUN, "0.0.a") is not None

        await until(is_there)
        assert await tools.result(call, RUN, "0.0.a") == ToolResult('{"pages":3}', is_error=False)
        with pytest.raises(ExecutionNotFound):
            await tools.result(call, RUN, "0.0.c")

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from prometheus_client import generate_latest

from services.kit.breaker import Breakers, Rules
from services.kit.call import Principal
from services.kit.errors import InvalidToolArguments, ServiceError, ToolTimeout, ToolUnavailable
from services.kit.telemetry import open_telemetry
from services.toolexec.adapters.inmemory import FixedClock, InMemoryHttpCaller, InMemoryResultStore, InMemoryToolSource
from services.toolexec.core.execution import TOOLS, Executed, Execution, Executor, Runners
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.domain import AgentTools, HttpCall, HttpRequest, HttpResponse, SideEffect, Tool

ANN, BOB = Principal("acme", "ann"), Principal("other", "bob")
CRM = "http://127.0.0.1:7180"


def tool(name: str, side_effect=SideEffect.READ, timeout: float = 0.05) -> Tool:
    call = HttpCall("GET", "crm", f"/{name}", {}, 65_536, idempotency_key=False)
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}}
    return Tool(name, "does it", schema, side_effect, timeout, frozenset(), call)


class Caller(InMemoryHttpCaller):
    """Does as the test says, and counts."""

    def __init__(self) -> None:
        super().__init__({})
        self.calls = 0
        self.does: Callable[[], object] = lambda: answered(200)

    async def call(self, request: HttpRequest) -> HttpResponse:
        self.calls += 1
        done = self.does()
        if isinstance(done, BaseException):
            raise done
        if isinstance(done, float):
            await asyncio.sleep(done)
        return done if isinstance(done, HttpResponse) else answered(200)


def answered(status: int) -> HttpResponse:
    return HttpResponse(status, "application/json", b"{}", truncated=False, location="")


class World:
    """Two tenants with the same agent and tools, and breakers that open after three failures."""

    def __init__(self) -> None:
        clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.caller, self.now = Caller(), 0.0
        source = InMemoryToolSource()
        for tenant in ("acme", "other"):
            tools = [tool("find"), tool("look"), tool("pay", SideEffect.IDEMPOTENT)]
            source.put(tenant, AgentTools("aura", 1, {each.name: each for each in tools}))
        self.metrics = open_telemetry("test", "", 0.0)
        breakers = Breakers(TOOLS, Rules(3, 2.0), self.metrics.load, clock=lambda: self.now)
        runners = Runners({}, HttpTools(self.caller, {"crm": CRM}, frozenset()), breakers)
        self.executor = Executor(source, runners, InMemoryResultStore(clock), Schemas(), Gate(8, 8), clock)

    async def run(self, name="find", principal=ANN, arguments="{}", key="k", remaining=None) -> Executed:
        execution = Execution("aura", 1, name, arguments, "s.1", key, remaining)
        return await self.executor.execute(principal, execution)

    async def fail(self, error: type[ServiceError], times: int = 3, **options) -> None:
        for _ in range(times):
            with pytest.raises(error):
                await self.run(**options)


def slow() -> float:
    return 1.0


def gone() -> ToolUnavailable:
    return ToolUnavailable("gone")


async def test_a_tool_that_cannot_be_reached_is_left_alone_and_tried_again_after_its_rest():
    world = World()
    world.caller.does = gone
    await world.fail(ToolUnavailable)
    with pytest.raises(ToolUnavailable) as refused:
        await world.run()
    assert (world.caller.calls, refused.value.metadata) == (3, {"circuit": "open"})
    world.caller.does = lambda: answered(200)
    world.now += 2.0
    await world.run()
    await world.run()


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_tool_that_says_it_is_down_still_answers_until_it_is_left_alone(status):
    world = World()
    world.caller.does = lambda: answered(status)
    for _ in range(3):
        assert (await world.run()).outcome.is_error
    with pytest.raises(ToolUnavailable):
        await world.run()


@pytest.mark.parametrize("status", [200, 400, 404, 429, 500])
async def test_a_tool_that_answers_is_never_left_alone(status):
    world = World()
    world.caller.does = lambda: answered(status)
    for _ in range(10):
        await world.run()
    assert world.caller.calls == 10


async def test_anothers_tool_of_the_same_name_and_another_tool_run_on():
    world = World()
    world.caller.does = gone
    await world.fail(ToolUnavailable, times=4)
    world.caller.does = lambda: answered(200)
    await world.run(principal=BOB)
    await world.run("look")


async def test_metrics_show_a_tool_that_is_left_alone_and_no_tenant():
    world = World()
    world.caller.does = gone
    await world.fail(ToolUnavailable)
    page = generate_latest(world.metrics.metrics).decode()
    assert 'myriad_circuit_state{kind="tool",name="aura/find"} 2.0' in page
    assert "acme" not in page
    world.caller.does = lambda: answered(200)
    world.now += 2.0
    await world.run()
    assert "aura/find" not in generate_latest(world.metrics.metrics).decode()


async def test_wrong_arguments_and_callers_who_leave_count_for_nothing():
    world = World()
    await world.fail(InvalidToolArguments, times=5, arguments='{"id": "x"}')
    world.caller.does = slow
    for _ in range(5):
        call = asyncio.create_task(world.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    world.caller.does = lambda: answered(200)
    await world.run()


async def test_a_result_that_is_kept_is_given_while_the_tool_is_left_alone():
    world = World()
    await world.run("pay", key="first")
    world.caller.does = gone
    await world.fail(ToolUnavailable, name="pay", key="second")
    assert (await world.run("pay", key="first")).replayed
    calls = world.caller.calls
    await world.fail(ToolUnavailable, times=1, name="pay", key="third")
    assert world.caller.calls == calls


async def test_a_tool_that_takes_longer_than_it_may_is_left_alone():
    world = World()
    world.caller.does = slow
    breakers = Breakers(TOOLS, Rules(3, 2.0), clock=asyncio.get_running_loop().time)
    world.executor._runners = Runners({}, HttpTools(world.caller, {"crm": CRM}, frozenset()), breakers)
    await world.fail(ToolTimeout)
    await world.fail(ToolUnavailable, times=1)
    assert world.caller.calls == 3

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.json_format import ParseDict

from myriad.common.v1 import common_pb2
from myriad.toolexec.v1 import toolexec_pb2
from services.kit.call import Call, Principal, enter
from services.kit.errors import ToolTimeout
from services.toolexec.adapters.agents import read_tool
from services.toolexec.adapters.inmemory import FixedClock, InMemoryHttpCaller, InMemoryResultStore, InMemoryToolSource
from services.toolexec.core.execution import Executor, Runners
from services.toolexec.core.functions import installed
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.domain import AgentTools
from services.toolexec.servicer import ToolExecServicer

CALCULATOR = {
    "name": "calculator",
    "description": "Computes.",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string", "maxLength": 300}}},
    "sideEffect": "SIDE_EFFECT_IDEMPOTENT",
    "timeout": "2.500s",
    "builtin": {"function": "calculator"},
}
LOOKUP = {
    "name": "lookup",
    "description": "Looks an order up.",
    "sideEffect": "SIDE_EFFECT_READ",
    "timeout": "10s",
    "roles": ["boss", "clerk"],
    "http": {
        "method": "HTTP_METHOD_POST",
        "endpoint": "crm",
        "url": "/orders",
        "response": {"state": "/state"},
        "maxResponseBytes": 1000,
        "idempotencyKey": True,
    },
}
AURA = common_pb2.AgentRef(name="aura", revision=2)


def message(definition: dict) -> common_pb2.Tool:
    return ParseDict(definition, common_pb2.Tool())


@pytest.fixture
def servicer() -> ToolExecServicer:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    source = InMemoryToolSource()
    tools = [read_tool(message(each)) for each in (LOOKUP, CALCULATOR)]
    source.put("acme", AgentTools("aura", 2, {tool.name: tool for tool in tools}))
    http = HttpTools(InMemoryHttpCaller({"http://crm:80/orders": None}), {"crm": "http://crm"}, frozenset())
    runners = Runners(installed(clock), http)
    return ToolExecServicer(Executor(source, runners, InMemoryResultStore(clock), Schemas(), Gate(8, 8), clock))


def act_as(*roles: str, seconds: float | None = None) -> None:
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    enter(Call("/test", {}, deadline, "test", principal=Principal("acme", "ann", frozenset(roles))))


def request(tool: str, arguments: str) -> toolexec_pb2.ExecuteRequest:
    return toolexec_pb2.ExecuteRequest(
        agent=AURA, tool=tool, arguments_json=arguments, run_id="s1.1", idempotency_key="k1"
    )


async def test_tools_are_listed_as_their_author_wrote_them(servicer):
    act_as("clerk")
    response = await servicer.ListTools(toolexec_pb2.ListToolsRequest(agent=AURA), None)
    assert list(response.tools) == [message(LOOKUP), message(CALCULATOR)]


async def test_tools_the_caller_may_not_use_are_not_listed(servicer):
    act_as()
    response = await servicer.ListTools(toolexec_pb2.ListToolsRequest(agent=AURA), None)
    assert [tool.name for tool in response.tools] == ["calculator"]


async def test_a_result_is_answered_and_repeated(servicer):
    act_as()
    first = await servicer.Execute(request("calculator", '{"expression": "6*7"}'), None)
    assert first == toolexec_pb2.ExecuteResponse(result_json='{"result":42}', duration=timedelta(0))
    second = await servicer.Execute(request("calculator", '{"expression": "6*7"}'), None)
    assert second.replayed
    assert second.result_json == first.result_json


async def test_a_tools_error_is_marked(servicer):
    act_as()
    response = await servicer.Execute(request("calculator", '{"expression": "1/0"}'), None)
    assert response.is_error
    assert response.result_json == '{"error":"division by zero"}'


async def test_the_callers_deadline_bounds_a_call(servicer):
    act_as("clerk", seconds=0.1)
    with pytest.raises(ToolTimeout):
        await servicer.Execute(request("lookup", "{}"), None)

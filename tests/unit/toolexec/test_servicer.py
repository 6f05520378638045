import asyncio
from datetime import timedelta

import pytest
from google.protobuf.json_format import ParseDict

from myriad.common.v1 import agent_pb2, tool_pb2
from myriad.toolexec.v1 import toolexec_pb2
from services.kit.call import Call, Principal, enter
from services.kit.errors import (
    ApprovalInvalid,
    ApprovalRequired,
    ExecutionNotFound,
    FailedPrecondition,
    InvalidArgument,
    ToolRunsAtClient,
    ToolTimeout,
)
from services.toolexec.adapters.agents import read_tool
from services.toolexec.core.functions import installed
from services.toolexec.domain import AgentTools
from services.toolexec.servicer import ToolExecServicer
from tests.support.toolexec import ANN, Process, Shared, approval, at_noon, call_key
from tests.support.waiting import until

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
REFUND = {
    "name": "refund",
    "description": "Pays back.",
    "sideEffect": "SIDE_EFFECT_SIDE_EFFECT",
    "timeout": "1s",
    "parameters": CALCULATOR["parameters"],
    "builtin": {"function": "calculator"},
}
ASK = {"name": "ask", "description": "Asks.", "sideEffect": "SIDE_EFFECT_READ", "timeout": "10s", "client": {}}
REPORT = CALCULATOR | {"name": "report", "background": True, "timeout": "7200s"}
SIX = '{"expression": "6*7"}'
PRIVATE = frozenset({"10.0.0.1"})
AURA = agent_pb2.AgentRef(name="aura", revision=2)


def message(definition: dict) -> tool_pb2.Tool:
    return ParseDict(definition, tool_pb2.Tool())


@pytest.fixture
def servicer(process) -> ToolExecServicer:
    return process.servicer


@pytest.fixture
def process() -> Process:
    shared = Shared(at_noon())
    tools = [read_tool(message(each)) for each in (LOOKUP, CALCULATOR, REFUND, ASK, REPORT)]
    shared.source.put("acme", AgentTools("aura", 2, {tool.name: tool for tool in tools}))
    crm = {"http://crm:80/orders": None}
    return Process(shared, installed(shared.clock), answers=crm, endpoints={"crm": "http://crm"}, private=PRIVATE)


def act_as(*roles: str, seconds: float | None = None) -> None:
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    enter(Call("/test", {}, deadline, "test", principal=Principal("acme", "ann", frozenset(roles))))


def request(tool: str, arguments: str, key: str = "k1", approval: str = "") -> toolexec_pb2.ExecuteRequest:
    return toolexec_pb2.ExecuteRequest(
        agent=AURA, tool=tool, arguments_json=arguments, run_id="s1.1", idempotency_key=key, approval=approval
    )


def start(tool: str, arguments: str) -> toolexec_pb2.StartExecutionRequest:
    call = request(tool, arguments, call_key(tool, arguments).idempotency_key)
    return toolexec_pb2.StartExecutionRequest(call=call, tool_call_id="c1")


def named(kind, tool: str, arguments: str):
    return kind(run_id="s1.1", tool=tool, idempotency_key=call_key(tool, arguments).idempotency_key)


async def test_tools_are_listed_as_their_author_wrote_them(servicer):
    act_as("clerk")
    response = await servicer.ListTools(toolexec_pb2.ListToolsRequest(agent=AURA), None)
    assert list(response.tools) == [message(each) for each in (LOOKUP, CALCULATOR, REFUND, ASK, REPORT)]


async def test_tools_the_caller_may_not_use_are_not_listed(servicer):
    act_as()
    response = await servicer.ListTools(toolexec_pb2.ListToolsRequest(agent=AURA), None)
    assert [tool.name for tool in response.tools] == ["calculator", "refund", "ask", "report"]


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


async def test_a_tool_of_the_clients_is_listed_and_not_run(servicer):
    act_as()
    for call in (servicer.Execute(request("ask", "{}"), None), servicer.StartExecution(start("ask", "{}"), None)):
        with pytest.raises(ToolRunsAtClient):
            await call


async def test_a_tool_with_side_effects_runs_under_its_approval_and_no_other(servicer, process):
    act_as()
    key = call_key("refund", SIX)
    token = process.shared.approve(key)
    with pytest.raises(ApprovalRequired):
        await servicer.Execute(request("refund", SIX, key.idempotency_key), None)
    for wrong in (request("refund", SIX, key.idempotency_key, approval("t2")), request("refund", SIX, "k1", token)):
        with pytest.raises(ApprovalInvalid):
            await servicer.Execute(wrong, None)
    asked = request("refund", SIX, key.idempotency_key, token)
    assert (await servicer.Execute(asked, None)).result_json == '{"result":42}'
    assert (await servicer.Execute(asked, None)).replayed


async def test_a_background_tool_is_begun_shown_and_done(servicer, process):
    act_as()
    key = call_key("report", SIX)
    with pytest.raises(FailedPrecondition):
        await servicer.Execute(request("report", SIX, key.idempotency_key), None)
    begun = (await servicer.StartExecution(start("report", SIX), None)).execution
    assert begun == toolexec_pb2.Execution(
        run_id="s1.1",
        idempotency_key=key.idempotency_key,
        tool="report",
        state=toolexec_pb2.EXECUTION_STATE_RUNNING,
    )
    process.shared.runs.park(ANN, "s1.1", "c1")
    async with process:
        await until(lambda: process.shared.runs.told)
    found = (await servicer.GetExecution(named(toolexec_pb2.GetExecutionRequest, "report", SIX), None)).execution
    assert found.state == toolexec_pb2.EXECUTION_STATE_DONE
    assert found.response.result_json == '{"result":42}'
    assert (await servicer.StartExecution(start("report", SIX), None)).execution == found


async def test_a_background_tool_is_stopped(servicer):
    act_as()
    await servicer.StartExecution(start("report", SIX), None)
    await servicer.CancelExecution(named(toolexec_pb2.CancelExecutionRequest, "report", SIX), None)
    found = (await servicer.GetExecution(named(toolexec_pb2.GetExecutionRequest, "report", SIX), None)).execution
    assert (found.state, found.reason) == (toolexec_pb2.EXECUTION_STATE_CANCELLED, "EXECUTION_CANCELLED")
    assert not found.HasField("response")


async def test_an_execution_that_nobody_began_is_not_found(servicer):
    act_as()
    await servicer.StartExecution(start("report", SIX), None)
    for named_so in (
        servicer.GetExecution(named(toolexec_pb2.GetExecutionRequest, "report", "{}"), None),
        servicer.CancelExecution(named(toolexec_pb2.CancelExecutionRequest, "refund", SIX), None),
    ):
        with pytest.raises(ExecutionNotFound):
            await named_so
    enter(Call("/test", {}, None, "test", principal=Principal("acme", "bob")))
    with pytest.raises(ExecutionNotFound):
        await servicer.GetExecution(named(toolexec_pb2.GetExecutionRequest, "report", SIX), None)


async def test_a_tool_that_is_not_slow_is_not_begun_in_the_background(servicer):
    act_as()
    with pytest.raises(FailedPrecondition):
        await servicer.StartExecution(start("calculator", SIX), None)


async def test_an_address_is_checked_before_it_is_called_back(servicer):
    act_as()
    good = toolexec_pb2.CheckCallbackRequest(callback_url="https://example.com/hook")
    assert await servicer.CheckCallback(good, None) == toolexec_pb2.CheckCallbackResponse()
    for url in ("http://example.com/hook", "https://10.0.0.1/hook"):
        with pytest.raises(InvalidArgument) as caught:
            await servicer.CheckCallback(toolexec_pb2.CheckCallbackRequest(callback_url=url), None)
        assert list(caught.value.fields) == ["callback_url"]

"""The service as it is served: over a socket, with Redis, memory's agents, and an HTTP endpoint."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.app import App, Kit, ready
from services.kit.call import Principal, current_principal, work_as
from services.kit.clients import INPROC, Client
from services.kit.errors import (
    AgentNotFound,
    ApprovalRequired,
    DeadlineExceeded,
    ExecutionInProgress,
    FailedPrecondition,
    InvalidArgument,
    InvalidToolArguments,
    StoreUnavailable,
    ToolNotAllowed,
    ToolNotFound,
    ToolResponseTooLarge,
    ToolTimeout,
    ToolUnavailable,
    Unavailable,
)
from services.kit.grpc_server import grpc_server
from services.kit.telemetry import open_telemetry
from services.toolexec.app import build
from services.toolexec.config import Config
from tests.support.http_server import HttpServer, answer, endless, running_http_server, silent
from tests.support.ports import free_port
from tests.support.valkey import running_valkey, start_valkey, stop

ORDER = {
    "type": "object",
    "properties": {"order": {"type": "string", "pattern": "^[0-9]{4}$"}},
    "required": ["order"],
    "additionalProperties": False,
}


def http(name: str, url: str, effect: str = "READ", method: str = "GET", **more) -> dict:
    kind = {"method": f"HTTP_METHOD_{method}", "endpoint": more.pop("endpoint", "crm"), "url": url} | more.pop(
        "http", {}
    )
    return {"name": name, "description": "d", "sideEffect": f"SIDE_EFFECT_{effect}", "http": kind} | more


TOOLS = [
    {
        "name": "calculate",
        "description": "d",
        "sideEffect": "SIDE_EFFECT_READ",
        "parameters": {"type": "object"},
        "builtin": {"function": "calculator"},
    },
    {"name": "clock", "description": "d", "sideEffect": "SIDE_EFFECT_READ", "builtin": {"function": "current_time"}},
    http("order_status", "/orders/{order}", parameters=ORDER, http={"response": {"state": "/state"}}),
    http("reserve", "/reserve", "IDEMPOTENT", "POST", parameters={"type": "object"}, http={"idempotencyKey": True}),
    http("slow", "/slow", "IDEMPOTENT", "POST", timeout="0.3s"),
    http("slower", "/slow", timeout="10s"),
    http("large", "/large"),
    http("refund", "/refund", "SIDE_EFFECT", "POST"),
    http("reports", "/reports", roles=["manager"]),
    http("inside", "http://127.0.0.1/", endpoint=""),
    http("off", "/", endpoint="off"),
    http("remote", "/x", parameters={"$ref": "http://127.0.0.1:1/schema.json"}),
]


class Memory(memory_pb2_grpc.MemoryServiceServicer):
    """One agent, of any tenant but `other`."""

    async def GetAgent(self, request, context):
        if request.agent.name != "aura" or current_principal().tenant == "other":
            raise AgentNotFound("no such agent")
        agent = ParseDict({"name": "aura", "revision": 1, "persona": "p", "tools": TOOLS}, agent_pb2.Agent())
        return memory_pb2.GetAgentResponse(agent=agent)


@dataclass
class World:
    """The service, reached as a tenant of the test's own."""

    client: Client
    crm: HttpServer
    app: App

    def act_as(self, *roles: str, tenant: str = "", seconds: float = 20) -> None:
        """Makes calls from now on this principal's."""
        name = tenant or "t" + secrets.token_hex(4)
        work_as(Principal(name, "ann", frozenset(roles)), name="test", timeout=seconds)

    async def run(
        self, tool: str, arguments: str = "", *, key: str = "k1", run_id: str = "s1.1", timeout: float = 10, **changes
    ):
        request = toolexec_pb2.ExecuteRequest(
            agent=agent_pb2.AgentRef(name=changes.get("agent", "aura"), revision=1),
            tool=tool,
            arguments_json=arguments,
            run_id=run_id,
            idempotency_key=key,
        )
        stub = toolexec_pb2_grpc.ToolExecServiceStub(self.client.channel)
        return await self.client.unary(stub.Execute, request, timeout=timeout)


async def opened(stack: AsyncExitStack, redis_url: str) -> World:
    crm = await stack.enter_async_context(running_http_server())
    kit = Kit(open_telemetry("test", "", 0.0), "mesh")
    add = memory_pb2_grpc.add_MemoryServiceServicer_to_server
    kit.registry(App("memory", lambda server: add(Memory(), server)))
    config = Config(
        memory_address=INPROC,
        redis_url=redis_url,
        endpoints={"crm": crm.url(), "off": "http://127.0.0.1:9"},
    )
    app = await build(config, kit)
    for closer in app.closers:
        stack.push_async_callback(closer)
    server, _ = grpc_server([kit.registry(app)])
    port = free_port()
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stack.push_async_callback(server.stop, 0)
    stack.push_async_callback(kit.network.close)
    return World(kit.network.client("toolexec", f"127.0.0.1:{port}"), crm, app)


@pytest_asyncio.fixture(scope="module")
async def valkey(tmp_path_factory) -> AsyncIterator[str]:
    async with running_valkey(tmp_path_factory.mktemp("toolexec")) as url:
        yield url


@pytest_asyncio.fixture
async def world(valkey) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = await opened(stack, valkey)
        yield made


async def test_bad_requests_are_refused_before_anything_runs(world):
    world.act_as()
    for changes in (
        {"run_id": "s1"},
        {"run_id": "../x.1"},
        {"key": ""},
        {"key": "a b"},
        {"tool": ""},
        {"tool": "x" * 65},
    ):
        with pytest.raises(InvalidArgument):
            await world.run(changes.pop("tool", "calculate"), **changes)
    with pytest.raises(InvalidArgument):
        await world.run("calculate", '{"a": "' + "x" * 65_536 + '"}')


async def test_every_refusal_keeps_its_reason_over_the_network(world):
    world.crm.answers |= {"/large": endless}
    expected = {
        "unknown": ToolNotFound,
        "order_status": InvalidToolArguments,
        "refund": ApprovalRequired,
        "reports": ToolNotAllowed,
        "inside": FailedPrecondition,
        "remote": FailedPrecondition,
        "off": ToolUnavailable,
        "large": ToolResponseTooLarge,
    }
    world.act_as()
    for tool, error in expected.items():
        with pytest.raises(error) as caught:
            await world.run(tool)
        assert type(caught.value) is error
        assert not any(word in caught.value.message for word in ("127.0.0.1", "Error", "httpcore", ".py"))
    with pytest.raises(InvalidToolArguments) as caught:
        await world.run("order_status", '{"order": "12"}')
    assert list(caught.value.fields) == ["arguments.order"]
    with pytest.raises(AgentNotFound):
        await world.run("calculate", agent="other")
    world.act_as(tenant="other")
    with pytest.raises(AgentNotFound):
        await world.run("calculate", '{"expression": "1"}')


async def test_the_built_in_tools_answer(world):
    world.act_as()
    found = await world.run("calculate", '{"expression": "3 * 14"}')
    assert (found.result_json, found.is_error, found.replayed) == ('{"result":42}', False, False)
    assert '"timezone":"UTC"' in (await world.run("clock")).result_json


async def test_an_order_is_looked_up_and_an_unknown_one_is_an_answer(world):
    world.crm.answers["/orders/1001"] = answer(200, b'{"state": "sent", "margin": 0.7}')
    world.act_as()
    assert (await world.run("order_status", '{"order": "1001"}')).result_json == '{"state":"sent"}'
    missing = await world.run("order_status", '{"order": "9999"}')
    assert missing.is_error and '"status":404' in missing.result_json


async def test_roles_open_tools(world):
    world.crm.answers["/reports"] = answer(200, b"[]")
    stub = toolexec_pb2_grpc.ToolExecServiceStub(world.client.channel)
    request = toolexec_pb2.ListToolsRequest(agent=agent_pb2.AgentRef(name="aura"))
    world.act_as()
    names = [tool.name for tool in (await world.client.unary(stub.ListTools, request, timeout=5)).tools]
    assert "reports" not in names and "refund" in names
    world.act_as("manager")
    names = [tool.name for tool in (await world.client.unary(stub.ListTools, request, timeout=5)).tools]
    assert names == [tool["name"] for tool in TOOLS]
    assert (await world.run("reports")).result_json == "[]"


async def test_an_effect_happens_once_per_key(world):
    world.crm.answers["/reserve"] = answer(200, b'{"reservation": 7}')
    world.act_as()
    first = await world.run("reserve", '{"item": 1}')
    second = await world.run("reserve", '{"item": 1}')
    assert (first.replayed, second.replayed) == (False, True)
    assert first.result_json == second.result_json
    assert first.duration == second.duration
    assert len(world.crm.requests) == 1
    assert not any(
        "x-myriad" in name or name in {"traceparent", "authorization"} for name in world.crm.requests[0].headers
    )
    await world.run("reserve", '{"item": 1}', run_id="s1.2")
    assert len(world.crm.requests) == 2


async def test_a_hundred_callers_with_one_key_make_one_effect(world):
    async def slowly(request, writer):
        await asyncio.sleep(0.2)
        await answer(200, b"1")(request, writer)

    world.crm.answers["/reserve"] = slowly
    world.act_as()
    found = await asyncio.gather(*(world.run("reserve", "{}") for _ in range(100)), return_exceptions=True)
    refused = [each for each in found if isinstance(each, Exception)]
    assert len(world.crm.requests) == 1
    assert len(found) - len(refused) >= 1
    # The tool's own limit is 32 at once, so the rest is told to come again.
    assert {type(each).__name__ for each in refused} <= {"ExecutionInProgress", "ResourceExhausted"}
    assert any(isinstance(each, ExecutionInProgress) for each in refused)
    assert (await world.run("reserve", "{}")).replayed


async def test_a_slow_tool_times_out_and_may_be_repeated(world):
    world.crm.answers["/slow"] = silent
    world.act_as()
    with pytest.raises(ToolTimeout):
        await world.run("slow")
    await world.crm.until_idle()
    world.crm.answers["/slow"] = answer(200, b"1")
    assert not (await world.run("slow")).replayed


async def test_the_deadline_of_the_call_cuts_the_tool(world):
    world.crm.answers["/slow"] = silent
    world.act_as()
    started = asyncio.get_running_loop().time()
    with pytest.raises((ToolTimeout, DeadlineExceeded)):
        await world.run("slower", timeout=0.3)
    assert asyncio.get_running_loop().time() - started < 5
    await world.crm.until_idle()


async def test_cancelling_the_call_closes_the_tools_connection(world):
    world.crm.answers["/slow"] = silent
    world.act_as()
    calls = [asyncio.create_task(world.run("slower")) for _ in range(10)]
    await world.crm.until_asked(10)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await world.crm.until_idle(0.5)


async def test_nobody_without_the_mesh_token_gets_in(world):
    world.act_as()
    stranger = Client("toolexec", world.client.channel, "guess")
    stub = toolexec_pb2_grpc.ToolExecServiceStub(stranger.channel)
    request = toolexec_pb2.ListToolsRequest(agent=agent_pb2.AgentRef(name="aura"))
    with pytest.raises(Exception, match="not a peer of the mesh"):
        await stranger.unary(stub.ListTools, request, timeout=5)


async def test_without_redis_reads_go_on_and_effects_wait(tmp_path):
    port = free_port()
    async with AsyncExitStack() as stack:
        world = await opened(stack, f"redis://127.0.0.1:{port}")
        world.crm.answers["/reserve"] = answer(200, b"1")
        world.act_as()
        with pytest.raises(Unavailable):
            await ready(world.app.checks)
        assert (await world.run("calculate", '{"expression": "1"}')).result_json == '{"result":1}'
        with pytest.raises(StoreUnavailable) as caught:
            await world.run("reserve", "{}")
        assert caught.value.retry_after
        assert world.crm.requests == []
        process = await start_valkey(tmp_path, port)
        stack.push_async_callback(stop, process)
        await ready(world.app.checks)
        assert (await world.run("reserve", "{}")).result_json == "1"

"""What every ToolSource does."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from google.protobuf.json_format import ParseDict

from myriad.common.v1 import agent_pb2, tool_pb2
from services.kit.call import Call, Principal, current_principal, enter
from services.kit.errors import AgentNotFound
from services.toolexec.adapters.agents import CatalogToolSource, read_tool
from services.toolexec.adapters.inmemory import InMemoryToolSource
from services.toolexec.domain import AgentTools, ClientCall, FunctionCall, HttpCall, SideEffect
from services.toolexec.ports import ToolSource

ANN = Principal("acme", "ann")
SCHEMA = {"type": "object", "properties": {"order": {"type": "string", "maxLength": 4}}}


def agent(revision: int, *names: str) -> agent_pb2.Agent:
    tools = [
        tool_pb2.Tool(
            name=name,
            description="does it",
            side_effect=tool_pb2.SIDE_EFFECT_READ,
            builtin=tool_pb2.BuiltinTool(function="calculator"),
        )
        for name in names
    ]
    return agent_pb2.Agent(name="aura", revision=revision, tools=tools)


class Catalog:
    """Two revisions of one agent of acme, as the kit's catalog gives them."""

    async def get(self, name: str, revision: int) -> agent_pb2.Agent:
        if current_principal().tenant != "acme" or name != "aura" or revision > 2:
            raise AgentNotFound("no such agent")
        return agent(1, "b") if revision == 1 else agent(2, "b", "a")


@pytest.fixture(params=["inmemory", "catalog"])
def source(request) -> ToolSource:
    if request.param == "catalog":
        return CatalogToolSource(Catalog(), capacity=1)
    made = InMemoryToolSource()
    for each in (agent(1, "b"), agent(2, "b", "a")):
        made.put("acme", AgentTools("aura", each.revision, {tool.name: read_tool(tool) for tool in each.tools}))
    return made


@pytest.fixture
def act_as() -> Callable[[Principal], Principal]:
    def act(principal: Principal) -> Principal:
        enter(Call("/test", {}, None, "test", principal=principal))
        return principal

    return act


async def test_a_revision_has_its_tools_in_order(source, act_as):
    for _ in range(2):
        assert list((await source.get(act_as(ANN), "aura", 1)).tools) == ["b"]
        assert list((await source.get(act_as(ANN), "aura", 2)).tools) == ["b", "a"]


async def test_zero_is_the_latest_and_says_which(source, act_as):
    found = await source.get(act_as(ANN), "aura", 0)
    assert (found.agent, found.revision, len(found.tools)) == ("aura", 2, 2)


@pytest.mark.parametrize(("name", "revision"), [("other", 0), ("aura", 3)])
async def test_an_unknown_agent_or_revision_is_not_found(source, act_as, name, revision):
    with pytest.raises(AgentNotFound):
        await source.get(act_as(ANN), name, revision)


async def test_another_tenants_agent_is_not_found(source, act_as):
    await source.get(act_as(ANN), "aura", 1)
    with pytest.raises(AgentNotFound):
        await source.get(act_as(Principal("other", "ann")), "aura", 1)


def test_a_tool_is_read_with_its_defaults():
    message = tool_pb2.Tool(name="t", description="d", side_effect=tool_pb2.SIDE_EFFECT_IDEMPOTENT)
    message.http.url = "https://example.com/"
    tool = read_tool(message)
    assert tool.call == HttpCall("GET", "", "https://example.com/", {}, 65_536, idempotency_key=False)
    assert (tool.timeout, tool.roles, tool.parameters, tool.side_effect) == (
        10.0,
        frozenset(),
        None,
        SideEffect.IDEMPOTENT,
    )


def test_a_tool_is_read_whole():
    message = tool_pb2.Tool(
        name="t",
        description="d",
        side_effect=tool_pb2.SIDE_EFFECT_READ,
        timeout=timedelta(seconds=2.5),
        roles=["clerk"],
        builtin=tool_pb2.BuiltinTool(function="calculator"),
    )
    ParseDict(SCHEMA, message.parameters)
    tool = read_tool(message)
    assert tool.parameters == SCHEMA
    assert isinstance(tool.parameters["properties"]["order"]["maxLength"], int)
    assert (tool.timeout, tool.roles, tool.call) == (2.5, frozenset({"clerk"}), FunctionCall("calculator"))


def test_a_side_effect_nobody_knows_counts_as_the_worst():
    message = tool_pb2.Tool(name="t", description="d", builtin=tool_pb2.BuiltinTool(function="f"))
    assert read_tool(message).side_effect is SideEffect.SIDE_EFFECT


def test_a_tool_of_the_clients_is_read_as_such():
    message = tool_pb2.Tool(name="t", description="d", side_effect=tool_pb2.SIDE_EFFECT_READ)
    message.client.SetInParent()
    assert read_tool(message).call == ClientCall()


def test_a_tool_in_the_background_has_an_hour_unless_it_says_otherwise():
    message = tool_pb2.Tool(name="t", description="d", side_effect=tool_pb2.SIDE_EFFECT_READ, background=True)
    assert (read_tool(message).background, read_tool(message).timeout) == (True, 3600.0)
    message.timeout.FromTimedelta(timedelta(hours=24))
    assert read_tool(message).timeout == 86_400.0

"""Agents as memory keeps them."""

from collections import OrderedDict
from types import MappingProxyType
from typing import Any, Protocol

from google.protobuf.json_format import MessageToDict

from myriad.common.v1 import agent_pb2, tool_pb2
from services.kit.call import Principal
from services.toolexec.domain import AgentTools, ClientCall, FunctionCall, HttpCall, SideEffect, Tool

_TIMEOUT_S = 10.0
_BACKGROUND_TIMEOUT_S = 3600.0
_RESPONSE_BYTES = 65_536
_SIDE_EFFECTS = MappingProxyType(
    {
        tool_pb2.SIDE_EFFECT_READ: SideEffect.READ,
        tool_pb2.SIDE_EFFECT_IDEMPOTENT: SideEffect.IDEMPOTENT,
    }
)


class Catalog(Protocol):
    """The part of `AgentCatalog` used here."""

    async def get(self, name: str, revision: int) -> agent_pb2.Agent:
        """An agent of the current principal's tenant."""


class CatalogToolSource:
    """Tools of agents in the catalog; a revision's are read once and kept."""

    def __init__(self, catalog: Catalog, capacity: int = 256) -> None:
        """Keeps the tools of the `capacity` revisions used last."""
        self._catalog = catalog
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, str, int], AgentTools] = OrderedDict()

    async def get(self, principal: Principal, agent: str, revision: int) -> AgentTools:
        """As `ToolSource.get`. The principal must be that of the call at hand."""
        found = await self._catalog.get(agent, revision)
        key = (principal.tenant, found.name, found.revision)
        tools = self._kept.get(key)
        if tools is None:
            tools = AgentTools(found.name, found.revision, {tool.name: read_tool(tool) for tool in found.tools})
            self._kept[key] = tools
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return tools


def read_tool(tool: tool_pb2.Tool) -> Tool:
    """A tool as the contract writes it, with its defaults. An unknown side effect counts as the worst."""
    timeout = _BACKGROUND_TIMEOUT_S if tool.background else _TIMEOUT_S
    return Tool(
        name=tool.name,
        description=tool.description,
        parameters=_whole(MessageToDict(tool.parameters)) if tool.HasField("parameters") else None,
        side_effect=_SIDE_EFFECTS.get(tool.side_effect, SideEffect.SIDE_EFFECT),
        timeout=tool.timeout.ToTimedelta().total_seconds() if tool.HasField("timeout") else timeout,
        roles=frozenset(tool.roles),
        call=_call(tool),
        background=tool.background,
    )


def _whole(value: Any) -> Any:
    """The value with its whole numbers as such: a Struct has only doubles, and a schema's author wrote `4`."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _call(tool: tool_pb2.Tool) -> FunctionCall | HttpCall | ClientCall:
    if tool.HasField("client"):
        return ClientCall()
    if tool.WhichOneof("kind") != "http":
        return FunctionCall(tool.builtin.function)
    http = tool.http
    method: Any = http.method or tool_pb2.HTTP_METHOD_GET
    return HttpCall(
        method=tool_pb2.HttpMethod.Name(method).removeprefix("HTTP_METHOD_"),
        endpoint=http.endpoint,
        url=http.url,
        response=dict(http.response),
        max_response_bytes=http.max_response_bytes or _RESPONSE_BYTES,
        idempotency_key=http.idempotency_key,
    )
